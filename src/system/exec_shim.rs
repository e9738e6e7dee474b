//! The hidden `__child`: the last steps before the command takes over the new process.
//!
//! What must happen in the child itself is here: a word to the watchdog, the terminal, the signal mask
//! and `exec`. The command starts with the mask and the limits that ddollar was started with, and a failed
//! `exec` is told apart from the command's own 126 or 127. Because this is a program of its own, no
//! code runs between fork and exec; a stop signal in there would freeze ddollar, which waits for the
//! exec in its spawn.

use crate::common::error::{NOT_EXECUTABLE, NOT_FOUND, OWN_FAILURE};
use crate::system::os;
use crate::system::program;
use crate::system::signals::{self, Inherited, Limits};
use crate::system::terminal;
use crate::system::watchdog;
use crossbeam_channel::{Receiver, Sender, bounded};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpgrp, getppid, tcsetpgrp};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, ExitCode};

/// The first word after `__child`, which goes up when the others change: on macOS the program file may
/// by now be another version's, and one that read the words wrongly would run a wrong command.
const FORMAT: &str = "2";

/// What the new process is to do.
#[derive(Debug)]
pub(crate) struct ExecSpec {
    /// ddollar's pid: when the parent is someone else by now, ddollar has died.
    parent: i32,
    /// What the command is to have as ddollar had it.
    inherited: Inherited,
    /// Whether to take the terminal before the command starts.
    take_terminal: bool,
    /// The number of the descriptor on which a failed `exec` is reported.
    report: i32,
    /// That of the watchdog's pipe, if there is a watchdog: it guards the command before that starts.
    watchdog: Option<i32>,
    words: Vec<OsString>,
}

/// What became of an `exec`: its errno, or `None` when the command was started.
type ExecResult = Option<i32>;

/// Where it is heard what became of the `exec`.
#[derive(Debug)]
pub(crate) enum ExecReport {
    /// The end of a pipe that is closed by a successful `exec`, or says why it failed. It can be read
    /// when the process has ended.
    Pipe(PipeReader),
    /// A thread reads it, so that the result is known as soon as there is one.
    Listening(Receiver<ExecResult>),
    /// The result was taken.
    Done,
}

impl ExecReport {
    /// Has a thread listen, which sends to `wake` when the result is there.
    ///
    /// # Errors
    /// The system has no room for a thread; the result is then known at the end, as without this call.
    pub(crate) fn listen(self, wake: Sender<()>) -> std::io::Result<ExecReport> {
        let ExecReport::Pipe(pipe) = self else {
            return Ok(self);
        };
        let (result, listening) = bounded(1);
        std::thread::Builder::new()
            .name("exec".into())
            .stack_size(64 * 1024)
            .spawn(move || {
                let _ = result.send(read(pipe));
                let _ = wake.send(());
            })?;
        Ok(ExecReport::Listening(listening))
    }

    /// What became of the `exec`, told once, if somebody listens and it is known by now. `ended` says
    /// that the process has ended, so that it will be known in a moment.
    pub(crate) fn result(&mut self, ended: bool) -> Option<ExecResult> {
        let ExecReport::Listening(listening) = self else {
            return None;
        };
        let result = match ended {
            true => listening.recv().ok(),
            false => listening.try_recv().ok(),
        }?;
        *self = ExecReport::Done;
        Some(result)
    }

    /// The errno of a failed `exec` of a process that has ended and was not listened to.
    pub(crate) fn failure(&mut self) -> Option<i32> {
        match std::mem::replace(self, ExecReport::Done) {
            ExecReport::Pipe(pipe) => read(pipe),
            ExecReport::Listening(_) | ExecReport::Done => None,
        }
    }
}

/// What the pipe says. Its other end is closed by a successful `exec` and by the end of the process.
fn read(mut pipe: PipeReader) -> ExecResult {
    let mut text = String::new();
    pipe.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// The command that becomes `words` by way of `__child`, and where to hear whether it did. With the
/// watchdog's pipe, it is told of the new process before that becomes the command. The last value
/// must live until the command was spawned.
pub(crate) fn command(
    words: &[OsString],
    inherited: Inherited,
    take_terminal: bool,
    watchdog: Option<PipeWriter>,
) -> std::io::Result<(Command, ExecReport, [Option<PipeWriter>; 2])> {
    let (reader, writer) = std::io::pipe()?;
    // The new process needs them once; it does not hand them on to the command.
    for pipe in watchdog.iter().chain([&writer]) {
        fcntl(pipe, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    let number = |pipe: &PipeWriter| pipe.as_raw_fd().to_string();
    let mut command = Command::new(os::own_program());
    command
        .args(["__child", FORMAT])
        .arg(std::process::id().to_string())
        .arg(format!("{:x}", inherited.blocked))
        .arg(inherited.limits.text())
        .arg(if take_terminal { "1" } else { "0" })
        .arg(number(&writer))
        .arg(watchdog.as_ref().map_or("-".to_owned(), number))
        .args(words);
    Ok((command, ExecReport::Pipe(reader), [Some(writer), watchdog]))
}

impl ExecSpec {
    /// Reads the words after `__child`; `None` when they are not what [`command`] writes.
    pub(crate) fn parse(mut words: impl Iterator<Item = OsString>) -> Option<ExecSpec> {
        let mut text = || words.next()?.into_string().ok();
        if text()? != FORMAT {
            return None;
        }
        Some(ExecSpec {
            parent: text()?.parse().ok()?,
            inherited: Inherited {
                blocked: u64::from_str_radix(&text()?, 16).ok()?,
                limits: Limits::parse(&text()?)?,
            },
            take_terminal: text()? == "1",
            report: text()?.parse().ok()?,
            watchdog: text()?.parse().ok(),
            words: words.collect(),
        })
    }

    /// Becomes the command; returns only when that fails.
    pub(crate) fn exec(self) -> ExitCode {
        let told = |mut watchdog| watchdog::guard(&mut watchdog, Pid::this()).is_ok();
        // Not both: the death signal comes again for each of ddollar's threads that was the parent for a
        // moment while they all died, and many programs take the second SIGTERM for an order to end at once.
        if !self.watchdog.and_then(own_copy).is_some_and(told) {
            os::die_with_parent();
        }
        // Checked after the watchdog was told, or the death signal set: before, ddollar could still
        // die unnoticed.
        if getppid() != Pid::from_raw(self.parent) {
            return ExitCode::from(OWN_FAILURE);
        }
        let report = own_copy(self.report);
        match terminal::controlling() {
            // SIGTTOU is blocked here, so that a background group may do this.
            Some(terminal) if self.take_terminal => drop(tcsetpgrp(&terminal, getpgrp())),
            // The command gets it when it stops for it. bash ignores SIGTTIN in a command substitution.
            Some(_) => signals::make_default(Signal::SIGTTIN),
            None => {}
        }
        signals::set_mask(self.inherited.blocked);
        self.inherited.limits.restore();
        let errno = program::become_one(&self.words);
        if let Some(mut report) = report {
            let _ = write!(report, "{}", errno as i32);
        }
        ExitCode::from(if errno == Errno::ENOENT {
            NOT_FOUND
        } else {
            NOT_EXECUTABLE
        })
    }
}

/// The descriptor under a number that closes itself on `exec`, and the inherited one closed.
fn own_copy(number: i32) -> Option<File> {
    let copy = OpenOptions::new()
        .write(true)
        .open(format!("{}/{number}", os::DESCRIPTORS))
        .ok();
    let _ = nix::unistd::close(number);
    // On macOS the copy is as the inherited one, whatever it was opened with.
    copy.filter(|copy| fcntl(copy, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).is_ok())
}
