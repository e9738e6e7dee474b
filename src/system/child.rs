//! The child: one command in a process group of its own.
//!
//! Owns its start, its signals and its end. It promises that the child's environment holds the one
//! token in use and none of the others, and that only this value signals and reaps: its thread
//! merely looks (`waitid` with `WNOWAIT`), so no signal can reach a process that reuses the pid.

use crate::common::error::Error;
use crate::common::secret::Secret;
use crate::system::exec_shim::{self, ExecReport};
use crate::system::exit_status::ChildEvent;
use crate::system::exit_status::ExitStatus;
use crate::system::os;
use crate::system::signals::{self, Inherited};
use crate::system::watchdog::Watchdog;
use crossbeam_channel::{Sender, bounded};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getegid, getpgid};
use rustix::process::{self, WaitId, WaitIdOptions, WaitIdStatus, waitid};
use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};

/// A started command.
#[derive(Debug)]
pub(crate) struct Child {
    process: std::process::Child,
    /// What it is called in messages.
    name: String,
    report: ExecReport,
    pid: process::Pid,
    group: Pid,
    seen: Sender<()>,
    wake: Sender<()>,
    /// The errno of its failed `exec`.
    failure: Option<i32>,
    /// How many processes the kernel had ended for want of memory when it was started.
    oom_kills: Option<u64>,
    /// Whether it was told to end before it did.
    told_to_end: bool,
    /// Whether it was told to stop, and not to go on since.
    told_to_stop: bool,
}

impl Child {
    /// Starts `words`, which messages call `name`, with `environment` and, beyond it, these
    /// variables with tokens.
    /// `inherited` is what it gets as ddollar had it, `terminal` says whether it takes the terminal
    /// before it starts, `watchdog` is informed of it before that, and `wake` of each change of its
    /// state; with `again`, also when it has become the command.
    ///
    /// # Errors
    /// The system has no room for another process.
    #[expect(clippy::too_many_arguments, reason = "the facts of one start")]
    pub(crate) fn spawn<'a, 'b>(
        words: &[OsString],
        name: String,
        environment: impl Iterator<Item = &'b (OsString, OsString)>,
        tokens: impl Iterator<Item = (&'static str, &'a Secret)>,
        inherited: Inherited,
        terminal: bool,
        watchdog: Option<&Watchdog>,
        again: bool,
        wake: Sender<()>,
    ) -> Result<Child, Error> {
        let refused = |why: std::io::Error| Error::System {
            what: "cannot start the command",
            why: why.to_string(),
        };
        let environment: Vec<_> = environment.collect();
        let tokens: Vec<_> = tokens.collect();
        let start = |by_fork: bool, watchdog: Option<&Watchdog>| {
            let watchdog = watchdog.map(Watchdog::pipe).transpose()?;
            let (mut command, report, _pipes) =
                exec_shim::command(words, inherited, terminal, watchdog)?;
            command
                .env_clear()
                .envs(environment.iter().map(|(name, value)| (name, value)))
                .envs(tokens.iter().map(|(name, secret)| (*name, secret.expose())))
                .process_group(0);
            if by_fork {
                command.gid(getegid().as_raw());
            }
            let process = signals::undisturbed(|| command.spawn())?;
            Ok((process, report))
        };
        // glibc's posix_spawn(3), which the standard library takes, leaves two signals ignored in the
        // command that were not: 32 and 33, which the C library keeps for itself. With a group of users,
        // it is fork and exec, which takes two descriptors more, and longer. musl's leaves them alone.
        let by_fork = cfg!(target_env = "gnu");
        // Where descriptors are scarce, the watchdog hears of the command later.
        let (mut process, report) = start(by_fork, watchdog)
            .or_else(|why: std::io::Error| match why.raw_os_error() {
                Some(errno) if errno == Errno::EMFILE as i32 => start(false, None),
                _ => Err(why),
            })
            .map_err(refused)?;
        let pid = process::Pid::from_child(&process);
        let group = Pid::from_raw(pid.as_raw_pid());
        let watched = watch(pid, wake.clone()).and_then(|seen| {
            let report = if again {
                report.listen(wake.clone()).map_err(no_thread)?
            } else {
                report
            };
            Ok((seen, report))
        });
        let (seen, report) = watched.inspect_err(|_| {
            // A child that nobody watches must not go on alone.
            let _ = killpg(group, Signal::SIGKILL);
            let _ = process.wait();
        })?;
        Ok(Child {
            process,
            name,
            report,
            pid,
            group,
            seen,
            wake,
            failure: None,
            // While the process becomes the command: its start does not wait for this.
            oom_kills: os::oom_kills(),
            told_to_end: false,
            told_to_stop: false,
        })
    }

    /// Its process group, which has its pid as number.
    pub(crate) fn group(&self) -> Pid {
        self.group
    }

    /// Takes the next change of the child's state, if there is one. An end is the last, and
    /// reaps it. `strangers` are ddollar's children that are not the command's.
    ///
    /// # Errors
    /// It ended because the command was not there (127) or cannot be executed (126).
    pub(crate) fn take_change(&mut self, strangers: &[Pid]) -> Result<Option<ChildEvent>, Error> {
        match self.report.result(self.has_ended()) {
            Some(None) => {
                // There may be more to take.
                let _ = self.wake.send(());
                return Ok(Some(ChildEvent::Executed));
            }
            Some(failure) => self.failure = failure,
            None => {}
        }
        let change = self.end(strangers).or_else(|| self.stop_or_continue());
        // The thread may be gone already, with nothing more to look at.
        let _ = self.seen.try_send(());
        match (change, self.exec_failure(change)) {
            (_, Some(error)) => Err(error),
            (change, None) => Ok(change),
        }
    }

    fn exec_failure(&mut self, change: Option<ChildEvent>) -> Option<Error> {
        if !matches!(change, Some(ChildEvent::Exited { .. })) {
            return None;
        }
        let errno = Errno::from_raw(self.failure.or_else(|| self.report.failure())?);
        let command = self.name.clone();
        Some(match errno {
            Errno::ENOENT => Error::CommandNotFound {
                command,
                of: None,
                slip: None,
            },
            errno => Error::CommandNotExecutable {
                command,
                of: None,
                why: errno.desc().to_lowercase(),
            },
        })
    }

    /// Passes a signal on: to everyone in the child's group, or to the child alone if it is one that
    /// only who expects it survives ([`signals::is_for_one`]).
    ///
    /// # Errors
    /// EPERM, when the child runs with other privileges.
    pub(crate) fn signal(&mut self, signal: Signal) -> nix::Result<()> {
        match signal {
            Signal::SIGTSTP | Signal::SIGSTOP => self.told_to_stop = true,
            Signal::SIGCONT => self.told_to_stop = false,
            _ => {}
        }
        if signals::is_for_one(signal) {
            return self.signal_alone(signal);
        }
        self.signal_group(signal)
    }

    /// Passes a real-time signal on to the child alone.
    ///
    /// # Errors
    /// As [`Child::signal`].
    pub(crate) fn signal_number(&self, number: i32) -> nix::Result<()> {
        let sent = os::kill_by_number(self.pid, number);
        sent.map_err(|errno| Errno::from_raw(errno.raw_os_error()))
    }

    /// Has the group's programs draw themselves anew.
    pub(crate) fn redraw(&self) {
        // A program that cannot be signalled is not helped by hearing of it.
        let _ = self.signal_group(Signal::SIGWINCH);
    }

    fn signal_group(&self, signal: Signal) -> nix::Result<()> {
        let sent = match killpg(self.group, signal) {
            Err(Errno::ESRCH) => Ok(()),
            // On macOS also when all of them have ended and wait to be reaped.
            Err(Errno::EPERM) if !os::group_lives(self.group) => Ok(()),
            sent => sent,
        };
        // It may have joined another group since, even ddollar's own.
        if getpgid(Some(self.group)) != Ok(self.group) {
            self.signal_alone(signal)?;
        }
        sent
    }

    /// The child is reaped by this value alone, so its number cannot be somebody else's.
    fn signal_alone(&self, signal: Signal) -> nix::Result<()> {
        match kill(self.group, signal) {
            Err(Errno::ESRCH) => Ok(()),
            Err(Errno::EPERM) if self.has_ended() => Ok(()),
            sent => sent,
        }
    }

    /// Tells it to end, unless `is_told`: somebody else has done so. A stopped process acts on that only when it
    /// goes on, so SIGCONT follows where one is stopped; a program that is not has no use for it.
    ///
    /// # Errors
    /// As [`Child::signal`].
    pub(crate) fn terminate(
        &mut self,
        signal: Signal,
        is_told: bool,
        strangers: &[Pid],
    ) -> nix::Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        self.told_to_end = true;
        if !is_told {
            self.signal(signal)?;
        }
        if self.may_be_stopped(strangers) {
            self.signal(Signal::SIGCONT)?;
        }
        Ok(())
    }

    /// Whether one of its group may be stopped, so that it acts on no signal before SIGCONT.
    fn may_be_stopped(&self, strangers: &[Pid]) -> bool {
        self.told_to_stop || os::has_stopped_descendant(strangers)
    }

    /// Ends its group at once.
    ///
    /// # Errors
    /// As [`Child::signal`].
    pub(crate) fn kill(&mut self) -> nix::Result<()> {
        self.told_to_end |= !self.has_ended();
        self.signal(Signal::SIGKILL)
    }

    fn stop_or_continue(&self) -> Option<ChildEvent> {
        let flags = WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::Pid(self.pid), flags).ok()??;
        match status.stopping_signal() {
            Some(by) => Some(ChildEvent::Stopped {
                by: Signal::try_from(by).ok()?,
            }),
            None => status.continued().then_some(ChildEvent::Continued),
        }
    }

    fn end(&mut self, strangers: &[Pid]) -> Option<ChildEvent> {
        if !self.has_ended() {
            return None;
        }
        // The dead leader still holds the group's number, so this cannot hit a stranger. An order
        // to end has reached the rest of the group already.
        if !self.told_to_end {
            let _ = self.signal_group(Signal::SIGTERM);
            if self.may_be_stopped(&[strangers, &[self.group]].concat()) {
                let _ = self.signal_group(Signal::SIGCONT);
            }
        }
        let status = self.process.try_wait().ok().flatten()?;
        let killed = status.signal() == Some(Signal::SIGKILL as i32) && !self.told_to_end;
        let starved = killed
            && self
                .oom_kills
                .is_some_and(|before| os::oom_kills() > Some(before));
        Some(ChildEvent::Exited {
            how: match starved {
                true => ExitStatus::OutOfMemory,
                false => how(status),
            },
            asked: self.told_to_end,
        })
    }

    fn has_ended(&self) -> bool {
        let flags = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        // macOS has been seen to report a stop to who asks for an end (swift-subprocess#371).
        let is_end = |status: WaitIdStatus| status.exited() || status.killed() || status.dumped();
        waitid(WaitId::Pid(self.pid), flags).is_ok_and(|status| status.is_some_and(is_end))
    }
}

/// Starts the thread that says when the child's state has changed. It looks again only after the
/// change was taken.
fn watch(child: process::Pid, wake: Sender<()>) -> Result<Sender<()>, Error> {
    let (seen, taken) = bounded(1);
    let flags = WaitIdOptions::EXITED
        | WaitIdOptions::STOPPED
        | WaitIdOptions::CONTINUED
        | WaitIdOptions::NOWAIT;
    std::thread::Builder::new()
        .name("child-wait".into())
        .stack_size(64 * 1024)
        .spawn(move || {
            loop {
                match waitid(WaitId::Pid(child), flags) {
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(rustix::io::Errno::CHILD) => return,
                    _ => {}
                }
                if wake.send(()).is_err() || taken.recv().is_err() {
                    return;
                }
            }
        })
        .map_err(no_thread)?;
    Ok(seen)
}

fn no_thread(error: std::io::Error) -> Error {
    Error::System {
        what: "cannot watch the command",
        why: error.to_string(),
    }
}

fn how(status: std::process::ExitStatus) -> ExitStatus {
    match (status.code(), status.signal()) {
        // The kernel keeps eight bits of an exit code.
        (Some(code), _) => ExitStatus::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        (None, Some(signal)) => ExitStatus::Signal(signal),
        (None, None) => ExitStatus::Code(u8::MAX),
    }
}
