//! The hidden `__child`: the last steps before the command takes over the new process.
//!
//! Owns what must happen in the child itself: the death signal, the terminal, the signal mask and
//! `exec`. It promises that the command starts with the mask and the limit on open files that ddollar
//! was started with, and that a failed `exec` is told apart from the command's own 126 or 127. Being a program of its own
//! it needs no code between fork and exec, and a stop signal cannot freeze the supervisor
//! (facts/supervision.md S1).

use crate::common::error::{NOT_EXECUTABLE, NOT_FOUND, OWN_FAILURE};
use crate::system::os;
use crate::system::signals::{self, Inherited};
use crate::system::watchdog;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::{Pid, getpgrp, getppid, tcsetpgrp};
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// The first word after `__child`, which goes up when the others change: on macOS the program file may
/// by now be another version's, and one that read the words wrongly would run a wrong command.
const FORMAT: &str = "1";

/// What the new process is told.
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
    /// That of the watchdog's pipe, where the command must be guarded before it starts.
    watchdog: Option<i32>,
    words: Vec<OsString>,
}

/// The end of the pipe on which a failed `exec` is heard.
#[derive(Debug)]
pub(crate) struct ExecReport(PipeReader);

impl ExecReport {
    /// The errno of a failed `exec`, once the child has ended; `None` when the command was started.
    pub(crate) fn failure(&mut self) -> Option<i32> {
        let mut text = String::new();
        // The child is gone, and with it the other end: this cannot block.
        self.0.read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }
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
        .arg(inherited.files.to_string())
        .arg(if take_terminal { "1" } else { "0" })
        .arg(number(&writer))
        .arg(watchdog.as_ref().map_or("-".to_owned(), number))
        .args(words);
    Ok((command, ExecReport(reader), [Some(writer), watchdog]))
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
                files: text()?.parse().ok()?,
            },
            take_terminal: text()? == "1",
            report: text()?.parse().ok()?,
            watchdog: text()?.parse().ok(),
            words: words.collect(),
        })
    }

    /// Becomes the command; returns only when that fails.
    pub(crate) fn exec(self) -> ExitCode {
        os::die_with_parent();
        if let Some(mut watchdog) = self.watchdog.and_then(own_copy) {
            let _ = watchdog::guard(&mut watchdog, Pid::this());
        }
        // Checked after the death signal is set, or the watchdog told: before, ddollar could still
        // die unnoticed.
        if getppid() != Pid::from_raw(self.parent) {
            return ExitCode::from(OWN_FAILURE);
        }
        let report = own_copy(self.report);
        if self.take_terminal
            && let Ok(terminal) = OpenOptions::new().read(true).write(true).open("/dev/tty")
        {
            // SIGTTOU is blocked here, so that a background group may do this.
            let _ = tcsetpgrp(&terminal, getpgrp());
        }
        signals::set_mask(self.inherited.blocked);
        signals::limit_files(self.inherited.files);
        let (program, arguments) = match self.words.split_first() {
            Some((program, arguments)) => (program.as_os_str(), arguments),
            None => (OsStr::new(""), &[][..]),
        };
        let error = Command::new(program).args(arguments).exec();
        let errno = error.raw_os_error().unwrap_or(Errno::ENOEXEC as i32);
        if let Some(mut report) = report {
            let _ = write!(report, "{errno}");
        }
        ExitCode::from(if errno == Errno::ENOENT as i32 {
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
