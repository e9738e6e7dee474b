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
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
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
    /// Whether it was told to end before it did.
    told_to_end: bool,
}

impl Child {
    /// Starts `words`, which messages call `name`, with `environment` and, beyond it, these
    /// variables with tokens.
    /// `inherited` is what it is to have as ddollar had it, `terminal` says whether it takes the
    /// terminal before it starts, `watchdog` is whom it tells of itself before that, and `wake` is told
    /// of each change of its state.
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
        wake: Sender<()>,
    ) -> Result<Child, Error> {
        let refused = |why: std::io::Error| Error::System {
            what: "cannot start the command",
            why: why.to_string(),
        };
        let watchdog = watchdog.map(Watchdog::pipe).transpose().map_err(refused)?;
        let (mut command, report, pipes) =
            exec_shim::command(words, inherited, terminal, watchdog).map_err(refused)?;
        command
            .env_clear()
            .envs(environment.map(|(name, value)| (name, value)))
            .envs(tokens.map(|(name, secret)| (name, secret.expose())))
            .process_group(0);
        let mut process = signals::undisturbed(|| command.spawn()).map_err(refused)?;
        drop(pipes);
        let pid = process::Pid::from_child(&process);
        let group = Pid::from_raw(pid.as_raw_pid());
        let seen = watch(pid, wake).inspect_err(|_| {
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
            told_to_end: false,
        })
    }

    /// Its process group, which has its pid as number.
    pub(crate) fn group(&self) -> Pid {
        self.group
    }

    /// Takes the next change of the child's state, if there is one. An end is the last, and
    /// reaps it.
    ///
    /// # Errors
    /// It ended because the command was not there (127) or cannot be executed (126).
    pub(crate) fn take_change(&mut self) -> Result<Option<ChildEvent>, Error> {
        let change = self.end().or_else(|| self.stop_or_continue());
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
        let errno = Errno::from_raw(self.report.failure()?);
        let command = self.name.clone();
        Some(match errno {
            Errno::ENOENT => Error::CommandNotFound { command, of: None },
            errno => Error::CommandNotExecutable {
                command,
                of: None,
                why: errno.desc().to_lowercase(),
            },
        })
    }

    /// Sends a signal to everyone in the child's group.
    ///
    /// # Errors
    /// EPERM, when it runs with other privileges.
    pub(crate) fn signal(&self, signal: Signal) -> nix::Result<()> {
        match killpg(self.group, signal) {
            Err(Errno::ESRCH) => Ok(()),
            // On macOS also when all of them have ended and wait to be reaped.
            Err(Errno::EPERM) if !os::group_lives(self.group) => Ok(()),
            sent => sent,
        }
    }

    /// Tells it to end. A stopped process acts on that only when it goes on, hence SIGCONT.
    ///
    /// # Errors
    /// As [`Child::signal`].
    pub(crate) fn terminate(&mut self, signal: Signal) -> nix::Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        self.told_to_end = true;
        self.signal(signal)?;
        self.signal(Signal::SIGCONT)
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

    fn end(&mut self) -> Option<ChildEvent> {
        if !self.has_ended() {
            return None;
        }
        // The dead leader still holds the group's number, so this cannot hit a stranger. An order
        // to end has reached the rest of the group already.
        if !self.told_to_end {
            let _ = self.signal(Signal::SIGTERM);
            let _ = self.signal(Signal::SIGCONT);
        }
        let status = self.process.try_wait().ok().flatten()?;
        Some(ChildEvent::Exited {
            how: how(status),
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
        .map_err(|error| Error::System {
            what: "cannot watch the command",
            why: error.to_string(),
        })?;
    Ok(seen)
}

fn how(status: std::process::ExitStatus) -> ExitStatus {
    match (status.code(), status.signal()) {
        // The kernel keeps eight bits of an exit code.
        (Some(code), _) => ExitStatus::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        (None, Some(signal)) => ExitStatus::Signal(signal),
        (None, None) => ExitStatus::Code(u8::MAX),
    }
}
