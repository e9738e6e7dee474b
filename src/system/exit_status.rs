//! How a command ended.

use nix::sys::signal::Signal;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    /// With this status, 0 to 255.
    Code(u8),
    /// By this signal; a number, because real-time signals have no name.
    Signal(i32),
}

impl ExitStatus {
    /// Whether someone ended it on purpose: an end by INT, TERM, HUP, QUIT or KILL, also as the
    /// code that a shell makes of it.
    pub(crate) fn is_deliberate(self) -> bool {
        let signal = match self {
            ExitStatus::Signal(signal) => signal,
            ExitStatus::Code(code) => i32::from(code) - 128,
        };
        [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGKILL,
        ]
        .iter()
        .any(|deliberate| *deliberate as i32 == signal)
    }

    /// Whether it was an end by SIGKILL, also as the code that a shell makes of it. Where ddollar has
    /// not sent it, it may have been the kernel, for want of memory.
    pub(crate) fn is_kill(self) -> bool {
        let kill = Signal::SIGKILL as i32;
        match self {
            ExitStatus::Signal(signal) => signal == kill,
            ExitStatus::Code(code) => i32::from(code) == 128 + kill,
        }
    }
}

/// A change of the child's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildEvent {
    /// It is gone. `asked` says whether ddollar had sent SIGTERM or SIGKILL before it ended.
    Exited { how: ExitStatus, asked: bool },
    /// It has become the command; told of a start that is not the first.
    Executed,
    /// It is stopped, by this signal.
    Stopped { by: Signal },
    /// It was continued.
    Continued,
}
