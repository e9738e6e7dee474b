//! What the loop and the session exchange: what has happened, and what is to be done about it.
//!
//! Owns [`Event`], which the loop builds from what its sources say, and [`Action`], which the loop
//! carries out. Its methods only classify values.

use crate::clients::hook_server::HookEvent;
use crate::events::RunEvent;
use crate::providers::Answer;
use crate::system::exit_status::ExitStatus;
use crate::system::job::JobEvent;
use crate::tokens::{Renewal, TokenId};
use nix::sys::signal::Signal;
use std::time::Duration;

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// Nothing that concerns the session.
    Nothing,
    /// The job has changed.
    Job(JobEvent),
    /// The child's own word: its turn has failed.
    Hook(HookEvent),
    /// A signal was sent to ddollar; never SIGCHLD, which is the job's.
    Signal(Signal),
    /// So was a real-time signal, which has a number and no name.
    RealTimeSignal(i32),
    /// A monitor brings the answer to a question about a token.
    Probed { token: TokenId, answer: Answer },
    /// The monitor of a ring is gone; nothing more will be heard from it.
    MonitorLost { ring: usize },
    /// The proxy has something to say.
    Proxy(RunEvent),
    /// A request of the child's cannot be served before long, nor can anything else that it uses.
    Exhausted,
    /// The token files were read again, if they have changed: what that means for each ring.
    Tokens(Vec<(usize, Renewal)>),
    /// Something that a thread cannot do; the run goes on without it.
    Warning(String),
    /// The user answered the prompt; the end of input is `END_OF_INPUT`.
    Line(String),
    /// The child has done nothing for `span`. `resumable`: it has a session to go on with.
    Stalled {
        span: Duration,
        sees_requests: bool,
        resumable: bool,
    },
    /// The time that the session named is up.
    Deadline,
}

impl Event {
    /// The signal of this number was sent to ddollar.
    pub(crate) fn signal(number: i32) -> Event {
        Signal::try_from(number).map_or(Event::RealTimeSignal(number), Event::Signal)
    }

    /// Whether it may tell something new of a token.
    pub(crate) fn is_finding(&self) -> bool {
        matches!(
            self,
            Event::Probed { .. } | Event::Hook(_) | Event::Proxy(_)
        )
    }
}

/// How the run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As the child did.
    AsChild(ExitStatus),
    /// ddollar was told to end by this signal.
    BySignal(Signal),
    /// Before the command finished; it can be run again later.
    TryAgainLater,
}

/// The one thing to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an action that is not carried out leaves the child behind"]
pub(crate) enum Action {
    /// Wait for the next event.
    Nothing,
    /// Ask the provider about this token.
    Probe(TokenId),
    /// Read the token files again. [`Event::Tokens`] tells what has changed.
    Reread,
    /// Start the child with the current tokens; `again` means with the resume command.
    Launch { again: bool },
    /// End the child, if it is there, and all that it has started: with this signal and the grace, or
    /// at once with SIGKILL. `JobEvent::Cleared` tells when that is done.
    Stop(Signal),
    /// The same with a signal to end that ddollar has got, which the command may have got as well.
    PassOn(Signal),
    /// Pass this signal on to the child.
    Forward(Signal),
    /// The same for a real-time signal, by its number.
    ForwardNumber(i32),
    /// Stop the child until it is resumed.
    Pause,
    /// Let the paused child go on.
    Resume,
    /// The same, and have the proxy send its requests with this token.
    ResumeWith(TokenId),
    /// Put the open question to the user.
    Ask,
    /// Stop ddollar itself: there is no child that runs.
    Suspend,
    /// The run is over.
    Exit(Outcome),
}
