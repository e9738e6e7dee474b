//! The words between the edges and the session: what happens, and what is to be done about it.
//!
//! Owns the one event enum and the one enum of steps. It holds no behaviour beyond what a value
//! says about itself.

use crate::clients::hook_server::HookEvent;
use crate::events::message::Notice;
use crate::system::exit_status::{ChildEvent, ExitStatus};
use crate::system::terminal::TerminalState;
use crate::tokens::TokenId;
use crate::tokens::condition::Answer;
use crate::tokens::condition::Trouble;
use nix::sys::signal::Signal;

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A monitor brings the answer to a question about a token.
    Answer { token: TokenId, answer: Answer },
    /// Something that a thread cannot do; the run goes on without it.
    Trouble { what: String },
    /// The monitor of a ring is gone; nothing more will be heard from it.
    MonitorLost { ring: usize },
    /// The child says that its turn has failed, for want of this provider.
    Told {
        provider: &'static str,
        trouble: Trouble,
    },
    /// The proxy has something to say.
    Say(Box<Notice>),
    /// The child ended or went on.
    Child(ChildEvent),
    /// The child stopped, by this signal, and so stand things around the terminal.
    Stopped { by: Signal, scene: TerminalState },
    /// The child could not be started again, for want of something that the system may have later.
    NotStarted { why: String },
    /// A look at the tree found so many of its processes alive: in the child's group, and beyond.
    Tree { group: usize, beyond: usize },
    /// The user answered the prompt; the end of input is [`END_OF_INPUT`].
    Line(String),
    /// A signal was sent to ddollar.
    Signal(Signal),
    /// The time that the session named is up.
    Deadline,
}

impl From<HookEvent> for Event {
    fn from(hook: HookEvent) -> Event {
        let HookEvent { provider, trouble } = hook;
        Event::Told { provider, trouble }
    }
}

/// What Ctrl-D at the prompt counts as: its character, which is no choice.
pub(crate) const END_OF_INPUT: &str = "\x04";

impl Event {
    /// Whether it may tell something new of a token.
    pub(crate) fn is_finding(&self) -> bool {
        matches!(
            self,
            Event::Answer { .. } | Event::Told { .. } | Event::Say(_)
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
#[must_use = "a action that is not taken leaves the child behind"]
pub(crate) enum Action {
    /// Wait for the next event.
    Nothing,
    /// Ask the provider about this token.
    Ask(TokenId),
    /// Start the child with the current tokens; `again` means with the resume command.
    Launch { again: bool },
    /// Send the signal to the child's group.
    Forward(Signal),
    /// Send the signal, then SIGCONT: the child is to end.
    Terminate(Signal),
    /// End the whole group at once.
    Kill,
    /// Ask the group to stop (SIGTSTP).
    Pause,
    /// Make the group stop (SIGSTOP).
    Freeze,
    /// Make all of the stopped group stop, and take the terminal back.
    Hold,
    /// The same, and ask the user.
    Prompt,
    /// Let the paused group go on, with the terminal that it had.
    Resume,
    /// The child stopped for the terminal: give it, and let the group go on.
    HandOver,
    /// Let the group go on after a stop, with the terminal if it is to have it.
    Continue,
    /// Stop as the child did, so that the shell sees a stopped job; `for_terminal` when it wants
    /// the terminal. `in_background`: neither it nor ddollar had the terminal when it stopped.
    Mirror {
        for_terminal: bool,
        in_background: bool,
    },
    /// Stop ddollar itself; the child is stopped or gone already.
    SuspendSelf,
    /// Reap what was adopted and has ended.
    Reap,
    /// Look who is left of the old tree, after sending it this signal: SIGTERM to those that no
    /// signal to the group has reached, SIGKILL to all.
    Sweep { signal: Option<Signal> },
    /// The run is over.
    Finish(Outcome),
}
