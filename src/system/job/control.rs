//! Job control as a state machine: what the job is doing, and which signal is due when.
//!
//! Owns [`JobState`] and its deadlines: SIGTSTP and, for a group that does not listen to it, SIGSTOP;
//! the signal to end, the grace, SIGKILL, and the sweep of what the child leaves behind. It promises
//! that a stop ends in [`JobEvent::Cleared`], and that the terminal is given and taken back as a
//! shell would. It sends no signal and reads no clock: each function returns the [`Step`] to take
//! and the events for the session.

use crate::system::exit_status::ExitStatus;
use crate::system::terminal::{Foreground, TerminalState};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// A group that does not stop for SIGTSTP in this time gets SIGSTOP: a program may catch the first
/// and take its time, but must not hold up a pause for ever.
const STOP_PATIENCE: Duration = Duration::from_millis(250);
/// What survives SIGKILL for this long cannot be killed: it hangs in the kernel (state D in ps(1)).
const UNKILLABLE: Duration = Duration::from_secs(5);
/// How long processes outside the child's group have to end: the signal to the group did not reach
/// them, so their time begins with the sweep.
const STRAY_GRACE: Duration = Duration::from_millis(500);
/// From one look at a dying tree to the next.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// From one look at a tree that cannot be killed to the next.
const BETWEEN_LATE_LOOKS: Duration = Duration::from_secs(1);
/// A child that stops so often in [`TERMINAL_STOPS_WITHIN`] for a terminal that it cannot have is left
/// stopped: to continue it again and again would only burn the processor.
const TERMINAL_STOPS: usize = 3;
const TERMINAL_STOPS_WITHIN: Duration = Duration::from_secs(1);

/// What the job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobState {
    /// There is no child: it was not started yet, or has ended by itself. What it has started may
    /// still run.
    Gone,
    /// The child runs, or is stopped by somebody else.
    Running,
    /// The group was asked to stop (SIGTSTP), and is made to (SIGSTOP) at `freeze_at`.
    Pausing { freeze_at: Instant },
    /// The group is stopped, and stays so until it is resumed.
    Paused,
    /// The child was told to end, and is killed at `kill_at`; `None`: it has been.
    Stopping { kill_at: Option<Instant> },
    /// The child is gone, and what it has started is to follow: by itself until `kill_at`, after that
    /// by SIGKILL, until `give_up`. `look_at` is the time of the next look.
    Sweeping {
        kill_at: Option<Instant>,
        give_up: Instant,
        look_at: Instant,
    },
}

/// What is to be done to the processes, the terminal or ddollar itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    /// Send this signal to the group.
    Signal(Signal),
    /// Send this signal, then SIGCONT: a stopped process acts on a signal only when it goes on.
    Terminate(Signal),
    /// Kill the group and everything that was adopted.
    Kill,
    /// Stop all of the stopped group (SIGSTOP), and take the terminal back.
    Hold,
    /// Let the group go on, with the terminal if it is to have it.
    Continue,
    /// The child has stopped for the terminal: give it, and let the group go on.
    HandOver,
    /// Stop ddollar as the child has stopped, so that the shell sees a stopped job. `for_terminal`:
    /// the child wants the terminal. `in_background`: neither it nor ddollar had it.
    Mirror {
        for_terminal: bool,
        in_background: bool,
    },
    /// Stop ddollar itself; the child is stopped or gone already.
    Suspend,
    /// Look who is left of the tree, after sending it this signal: SIGKILL goes to all, any other
    /// only to those that no signal to the group has reached.
    Sweep(Option<Signal>),
}

/// What the session is to hear of its job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JobEvent {
    /// Nothing that concerns it.
    Unchanged,
    /// The child has ended. `asked`: after ddollar had told it to; then [`JobEvent::Cleared`] follows.
    Exited { how: ExitStatus, asked: bool },
    /// Nothing is left of the child and of what it has started.
    Cleared,
    /// So many processes survive SIGKILL. The sweep goes on, and says so again once a minute.
    Unkillable { left: usize },
    /// The child did not end within the grace, and is killed now.
    ForcingKill,
    /// The pause is complete: the group is stopped, and the terminal is ddollar's.
    Paused,
    /// Somebody else has continued the paused child.
    Continued,
    /// Somebody has stopped the child with SIGSTOP, and there is no shell to tell: it is left so.
    StoppedByHand,
    /// The child keeps stopping for a terminal that nobody can give it: it is left stopped.
    NeedsTerminal,
    /// The child, which is not the first, has become the command.
    Started,
    /// The child could not be started again: for want of something that the system may have later, or
    /// because its program cannot be executed just now, which `how` then says as an exit status.
    NotStarted {
        why: String,
        how: Option<ExitStatus>,
    },
    /// Something that does not work; the run goes on without it.
    Warning(String),
}

/// A step, and what the session is to hear.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a step that is not taken leaves the child behind"]
pub(crate) struct Transition {
    pub(crate) step: Step,
    pub(crate) event: JobEvent,
}

impl From<Step> for Transition {
    fn from(step: Step) -> Transition {
        let event = JobEvent::Unchanged;
        Transition { step, event }
    }
}

impl From<JobEvent> for Transition {
    fn from(event: JobEvent) -> Transition {
        let step = Step::Nothing;
        Transition { step, event }
    }
}

/// The state of the job, and how often it has stopped for the terminal.
#[derive(Debug)]
pub(crate) struct JobControl {
    state: JobState,
    /// How long the child and its tree have to end before they are killed.
    grace: Duration,
    /// When the child last stopped for a terminal that nobody could give it, or that it had, since
    /// ddollar itself was last continued.
    terminal_stops: Vec<Instant>,
}

impl JobControl {
    /// Without a child.
    pub(crate) fn new(grace: Duration) -> JobControl {
        JobControl {
            state: JobState::Gone,
            grace,
            terminal_stops: Vec::new(),
        }
    }

    /// When [`JobControl::deadline`] is due; `None`: there is none.
    pub(crate) fn timeout(&self, now: Instant) -> Option<Duration> {
        let at = match self.state {
            JobState::Gone | JobState::Running | JobState::Paused => None,
            JobState::Pausing { freeze_at } => Some(freeze_at),
            JobState::Stopping { kill_at } => kill_at,
            JobState::Sweeping { look_at, .. } => Some(look_at),
        };
        at.map(|at| at.saturating_duration_since(now))
    }

    // ---- orders ----

    /// The child was started.
    pub(crate) fn launched(&mut self) {
        self.state = JobState::Running;
    }

    /// Ends the child and all that it has started: with this signal and the grace, or at once with
    /// SIGKILL.
    pub(crate) fn stop(&mut self, signal: Signal, now: Instant) -> Transition {
        let kill_at = (signal != Signal::SIGKILL).then(|| now + self.grace);
        match self.state {
            JobState::Running | JobState::Pausing { .. } | JobState::Paused => {
                self.state = JobState::Stopping { kill_at };
                match kill_at {
                    Some(_) => Step::Terminate(signal).into(),
                    None => Step::Kill.into(),
                }
            }
            JobState::Stopping { .. } if kill_at.is_some() => Step::Nothing.into(),
            JobState::Stopping { .. } => {
                self.state = JobState::Stopping { kill_at };
                Step::Kill.into()
            }
            JobState::Sweeping { .. } if kill_at.is_some() => Step::Nothing.into(),
            JobState::Gone | JobState::Sweeping { .. } => self.sweep(kill_at, now).into(),
        }
    }

    /// Stops the group until it is resumed.
    pub(crate) fn pause(&mut self, now: Instant) -> Transition {
        self.state = JobState::Pausing {
            freeze_at: now + STOP_PATIENCE,
        };
        Step::Signal(Signal::SIGTSTP).into()
    }

    /// Lets a paused group go on.
    pub(crate) fn resume(&mut self) -> Transition {
        match self.state {
            JobState::Pausing { .. } | JobState::Paused => {
                self.state = JobState::Running;
                Step::Continue.into()
            }
            _ => Step::Nothing.into(),
        }
    }

    /// ddollar has received a signal that the child is to have. SIGTSTP without a child that runs
    /// stops ddollar; after SIGCONT a child that does not wait for ddollar goes on as well.
    pub(crate) fn signal(&mut self, signal: Signal, now: Instant) -> Transition {
        match (signal, &mut self.state) {
            (Signal::SIGTSTP, JobState::Running | JobState::Stopping { .. }) => {
                Step::Signal(signal)
            }
            (Signal::SIGTSTP, _) => Step::Suspend,
            (Signal::SIGCONT, state) => {
                self.terminal_stops.clear();
                match state {
                    JobState::Running => Step::Continue,
                    // The grace does not run while nobody can look at it.
                    JobState::Stopping { kill_at } => {
                        *kill_at = kill_at.map(|_| now + self.grace);
                        Step::Continue
                    }
                    _ => Step::Nothing,
                }
            }
            (_, JobState::Gone | JobState::Sweeping { .. }) => Step::Nothing,
            (signal, _) => Step::Signal(signal),
        }
        .into()
    }

    // ---- what happens ----

    /// The child has stopped, by this signal.
    ///
    /// - While it is being paused: the pause is complete.
    /// - For the terminal, which is ddollar's: it gets it.
    /// - For the terminal, which it was given just then: it goes on.
    /// - With a shell that would continue ddollar: ddollar stops as well.
    /// - Without one, by SIGSTOP: an operator's decision, which is respected.
    /// - Without one, again and again for a terminal that nobody gives: it is left stopped.
    /// - Without one, otherwise: it goes on, for nobody else would continue it.
    pub(crate) fn stopped(&mut self, by: Signal, scene: TerminalState, now: Instant) -> Transition {
        let for_terminal = matches!(by, Signal::SIGTTIN | Signal::SIGTTOU);
        let is_given = scene.front == Foreground::Child;
        let nobody_gives = scene.orphaned && scene.front == Foreground::Other;
        let stuck = for_terminal && (is_given || nobody_gives) && self.is_stuck_for_terminal(now);
        match self.state {
            JobState::Pausing { .. } | JobState::Paused => {
                self.state = JobState::Paused;
                Transition {
                    step: Step::Hold,
                    event: JobEvent::Paused,
                }
            }
            JobState::Running | JobState::Stopping { .. }
                if for_terminal && scene.front == Foreground::Ours =>
            {
                Step::HandOver.into()
            }
            JobState::Running | JobState::Stopping { .. } if for_terminal && is_given && !stuck => {
                Step::Continue.into()
            }
            JobState::Running if !scene.orphaned => Step::Mirror {
                for_terminal,
                in_background: scene.front == Foreground::Other,
            }
            .into(),
            JobState::Running if by == Signal::SIGSTOP => JobEvent::StoppedByHand.into(),
            JobState::Running if stuck => JobEvent::NeedsTerminal.into(),
            JobState::Running => Step::Continue.into(),
            JobState::Stopping { .. } | JobState::Sweeping { .. } | JobState::Gone => {
                Step::Nothing.into()
            }
        }
    }

    /// Whether the child has now stopped too often for a terminal that it cannot have, or has.
    fn is_stuck_for_terminal(&mut self, now: Instant) -> bool {
        self.terminal_stops
            .retain(|stop| now.saturating_duration_since(*stop) < TERMINAL_STOPS_WITHIN);
        self.terminal_stops.push(now);
        self.terminal_stops.len() >= TERMINAL_STOPS
    }

    /// The child was continued. An operator who continues a paused child has decided.
    pub(crate) fn continued(&mut self) -> Transition {
        match self.state {
            JobState::Paused => {
                self.state = JobState::Running;
                Transition {
                    step: Step::Continue,
                    event: JobEvent::Continued,
                }
            }
            _ => Step::Nothing.into(),
        }
    }

    /// The child has ended; `asked` says whether ddollar's order to end had reached it before.
    pub(crate) fn exited(&mut self, how: ExitStatus, asked: bool, now: Instant) -> Transition {
        let step = match self.state {
            JobState::Stopping { kill_at } if asked => self.sweep(kill_at, now),
            _ => {
                self.state = JobState::Gone;
                Step::Nothing
            }
        };
        Transition {
            step,
            event: JobEvent::Exited { how, asked },
        }
    }

    fn sweep(&mut self, kill_at: Option<Instant>, now: Instant) -> Step {
        self.state = JobState::Sweeping {
            kill_at,
            give_up: now + UNKILLABLE,
            look_at: now + BETWEEN_LOOKS,
        };
        Step::Sweep(Some(match kill_at {
            Some(_) => Signal::SIGTERM,
            None => Signal::SIGKILL,
        }))
    }

    /// Whether the child was told to end and has not.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(self.state, JobState::Stopping { .. })
    }

    /// Whether the tree is being swept, so that an orphan that ended is a reason to look at it.
    pub(crate) fn is_sweeping(&self) -> bool {
        matches!(self.state, JobState::Sweeping { .. })
    }

    /// A look at the tree has found so many processes: in the child's group, and beyond.
    pub(crate) fn tree(&mut self, group: usize, beyond: usize, now: Instant) -> Transition {
        let JobState::Sweeping {
            kill_at,
            give_up,
            look_at,
        } = &mut self.state
        else {
            return Step::Nothing.into();
        };
        if group + beyond == 0 {
            self.state = JobState::Gone;
            return JobEvent::Cleared.into();
        }
        *look_at = now + BETWEEN_LOOKS;
        match *kill_at {
            // Those that were told to end have the rest of the grace; strays get a moment.
            Some(at) if now < at => {
                let at = match group {
                    0 => at.min(now + STRAY_GRACE),
                    _ => at,
                };
                *kill_at = Some(at);
                *look_at = at.min(*look_at);
                Step::Nothing.into()
            }
            Some(_) => self.sweep(None, now).into(),
            None if now < *give_up => Step::Nothing.into(),
            None => {
                *give_up = now + UNKILLABLE * 12;
                *look_at = now + BETWEEN_LATE_LOOKS;
                JobEvent::Unkillable {
                    left: group + beyond,
                }
                .into()
            }
        }
    }

    /// The time is up that [`JobControl::timeout`] has named; harmless at any other.
    pub(crate) fn deadline(&mut self, now: Instant) -> Transition {
        match &mut self.state {
            JobState::Pausing { freeze_at } if now >= *freeze_at => {
                self.state = JobState::Paused;
                Step::Signal(Signal::SIGSTOP).into()
            }
            JobState::Stopping { kill_at: Some(at) } if now >= *at => {
                self.state = JobState::Stopping { kill_at: None };
                Transition {
                    step: Step::Kill,
                    event: JobEvent::ForcingKill,
                }
            }
            JobState::Sweeping {
                kill_at,
                give_up,
                look_at,
            } if now >= *look_at => {
                *look_at = now + BETWEEN_LOOKS;
                if kill_at.is_some_and(|at| now >= at) {
                    *kill_at = None;
                    *give_up = now + UNKILLABLE;
                }
                Step::Sweep(kill_at.is_none().then_some(Signal::SIGKILL)).into()
            }
            _ => Step::Nothing.into(),
        }
    }
}

#[cfg(test)]
mod tests;
