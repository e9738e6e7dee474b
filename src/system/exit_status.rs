//! How a command ended.

use nix::sys::signal::Signal;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    /// With this status, 0 to 255.
    Code(u8),
    /// By this signal; a number, because real-time signals have no name.
    Signal(i32),
    /// By SIGKILL, which ddollar did not send, while the kernel ended a process for want of memory.
    OutOfMemory,
}

impl ExitStatus {
    /// The signal that ended it, if one did.
    pub(crate) fn signal(self) -> Option<i32> {
        match self {
            ExitStatus::Code(_) => None,
            ExitStatus::Signal(signal) => Some(signal),
            ExitStatus::OutOfMemory => Some(Signal::SIGKILL as i32),
        }
    }

    /// The code that a shell makes of it.
    pub(crate) fn code(self) -> i32 {
        match (self, self.signal()) {
            (ExitStatus::Code(code), _) => code.into(),
            (_, signal) => 128 + signal.unwrap_or(0),
        }
    }

    /// Whether someone ended it on purpose: an end by INT, TERM, HUP, QUIT or KILL, also as the
    /// code that a shell makes of it.
    pub(crate) fn is_deliberate(self) -> bool {
        [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGKILL,
        ]
        .iter()
        .any(|deliberate| self.code() == 128 + *deliberate as i32)
    }

    /// Whether it was an end by SIGKILL, also as the code that a shell makes of it. Where ddollar has
    /// not sent it, it may have been the kernel, for want of memory.
    pub(crate) fn is_kill(self) -> bool {
        self.code() == 128 + Signal::SIGKILL as i32
    }
}

/// A change of the child's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildEvent {
    /// It is gone. `asked` says whether ddollar had sent SIGTERM or SIGKILL before it ended.
    Exited { how: ExitStatus, asked: bool },
    /// It has become the command; reported for a start that is not the first.
    Executed,
    /// It is stopped, by this signal.
    Stopped { by: Signal },
    /// It was continued.
    Continued,
}
