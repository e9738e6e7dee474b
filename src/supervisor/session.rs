//! One night: the state machine of the child and of the rings of tokens that it draws on.
//!
//! Owns which phase the child is in and what each event means there. It promises that one event
//! gives one [`Reply`]: sentences to say and one [`Action`] to take; that a child is started only
//! when none is left; and that graces are deadlines, never sleeps. It decides and does not act: no
//! process, no clock, no thread is touched here. Which token is good is `policy.rs`'s to say.

use crate::common::error::OWN_FAILURE;
use crate::common::time::{Now, Until};
use crate::events::message::{Limit, Notice};
use crate::providers::{Finding, Reading};
use crate::supervisor::event::{Action, END_OF_INPUT, Event, Outcome};
use crate::system::exit_status::ChildEvent;
use crate::system::exit_status::ExitStatus;
use crate::system::terminal::{Foreground, TerminalState};
use crate::tokens::condition::Trouble;
use crate::tokens::condition::{Answer, Condition, ProbeFailure};
use crate::tokens::policy::{self, Decision, Rules, Suspension};
use crate::tokens::{TokenId, TokenPool};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// A group that does not stop for SIGTSTP in this time gets SIGSTOP (facts/supervision.md R3).
const STOP_PATIENCE: Duration = Duration::from_millis(250);
/// A start that dies within this time is a short life (DESIGN §3).
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// So many short lives in a row end the run (DESIGN §3).
const SHORT_LIVES: u32 = 3;
/// Least time from one start to the next after a failure (facts/supervision.md K7).
const BETWEEN_STARTS: Duration = Duration::from_secs(1);
/// How long a failed child is held for a provider that has not answered once in this run.
/// An outage is waited for; a provider that was never there is more likely a wrong address.
const NEVER_HEARD: Duration = Duration::from_secs(60);
/// When that has come to its end at the latest: the tries are 5, 10, 20 and 40 s apart
/// (`policy::backoff`), and a provider that is silent takes 15 s (`monitor.rs`) to be that.
const LAST_TRY: Duration = Duration::from_secs(90);
/// What survives SIGKILL for this long is not to be killed (state D).
const UNKILLABLE: Duration = Duration::from_secs(5);
/// How long those have to end that left the child's group: the child's own order to end did not
/// reach them.
const STRAY_GRACE: Duration = Duration::from_millis(500);
/// From one look at a dying tree to the next.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// A child that stops for a terminal so often in so short a time is left stopped: giving up is
/// better than spinning (facts/supervision.md G7).
const TERMINAL_STOPS: usize = 3;
const TERMINAL_STOPS_WITHIN: Duration = Duration::from_secs(1);
/// A failure so soon after a pause for a limit is blamed on the limit.
const AFTER_A_PAUSE: Duration = Duration::from_secs(60);
/// A client that has told its failure has this long to end by itself before it is ended: its last
/// words are worth having, and one that waits for a person never ends.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A child that lived this long has recovered from what troubled the last one.
const RECOVERED: Duration = Duration::from_secs(120);
/// Longest sleep while waiting for a wall-clock time, so that suspend costs no more than this.
const SLICE: Duration = Duration::from_secs(15);

/// The answer to an event: what to say first, and then what to do.
#[derive(Debug)]
#[must_use = "a reply that is not carried out leaves the child behind"]
pub(crate) struct Reply {
    pub(crate) say: Vec<Notice>,
    pub(crate) action: Action,
}

/// What happens once the child that is being stopped is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterStop {
    /// Start it again with the current tokens.
    Restart,
    /// Start it again as soon as a token will do: it had given up.
    Recover,
    /// End as it did.
    EndAsChild,
    /// End like this.
    End(Outcome),
}

/// What the child is doing, as far as ddollar is concerned.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// It runs. At `recheck` the table is consulted again.
    Running { recheck: Option<Until> },
    /// It was told to end, and is killed at `kill_at`; `None`: it has been.
    Stopping {
        kill_at: Option<Instant>,
        then: AfterStop,
    },
    /// It is gone, and what it has started is to follow: by itself until `kill_at`, after that by
    /// SIGKILL, until `give_up`. `look_at` is the time of the next look.
    Sweeping {
        kill_at: Option<Instant>,
        give_up: Instant,
        look_at: Instant,
        then: AfterStop,
        how: ExitStatus,
    },
    /// It is stopped until a token is usable. At `freeze_at` SIGSTOP follows SIGTSTP.
    Paused {
        since: Now,
        freeze_at: Option<Instant>,
        wake: Until,
        /// What the user is to be asked before anything else happens.
        question: Option<Question>,
        /// The user wants to wait for the token in use, whatever others there are.
        wait_for_current: bool,
    },
    /// There is none: it failed, and whether to start it again is open.
    Failed {
        failure: Failure,
        wake: Option<Until>,
        question: Option<Question>,
    },
    /// It has not been started yet: every token was known to be spent when the run began. `wake`
    /// is set once the wait was said.
    Unstarted {
        since: Now,
        wake: Option<Until>,
        question: Option<Question>,
    },
}

/// A child that is gone and was not to go.
#[derive(Clone, Copy, Debug)]
struct Failure {
    since: Now,
    how: ExitStatus,
    /// Its token or provider was found to be the cause: it is started again.
    blamed: bool,
    said: Reported,
    /// The user is to be asked before a limit has it started again.
    asks: bool,
    /// The user wants to wait for the token in use, whatever others there are.
    wait_for_current: bool,
}

impl Failure {
    /// The user has chosen what is to follow: as if it had just failed, for a cause that is known.
    fn answered(&mut self, wait_for_current: bool, now: Now) {
        self.since = now;
        self.said = Reported::Cause;
        self.wait_for_current = wait_for_current;
    }
}

/// How much the user knows of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reported {
    Nothing,
    /// That the child ended, and why.
    Cause,
    /// And what is waited for.
    All,
}

/// What the user is asked in interactive mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// The token in use will not do, and this one would.
    Rotate { ring: usize, index: usize },
    /// None will do before a reset.
    Exhausted,
}

/// A pool, and what the session remembers about it.
#[derive(Debug)]
struct Ring {
    pool: TokenPool,
    /// Nobody can ask about its tokens: its monitor is gone.
    blind: bool,
    /// Whether one of its tokens was found to be accepted, in this run or as the state says.
    worked: bool,
    /// Whether the child's next start is its first with another token.
    switched: bool,
    /// The user said to keep going near this limit.
    keep_going: bool,
    said_silent: bool,
    said_unclear: bool,
    said_quotas: bool,
    said_aside: bool,
}

impl Ring {
    /// Whether waiting does not help its token in use.
    fn is_hopeless(&self, now: Now) -> bool {
        let current = self.pool.state(self.pool.current_index());
        matches!(
            current.condition(now),
            Condition::Rejected | Condition::SpendCapped { .. }
        )
    }
}

/// The state of a run.
#[derive(Debug)]
pub(crate) struct Session {
    rings: Vec<Ring>,
    rules: Rules,
    phase: Phase,
    /// Questions that are under way, and when they were put.
    asking: Vec<(TokenId, Instant)>,
    /// Whether any provider has answered in this run.
    heard: bool,
    short_lives: u32,
    retries: u32,
    last_start: Instant,
    /// A failed child is not started again before then.
    ready_at: Instant,
    /// When the child said that it has given up, and why.
    gave_up: Option<(Instant, Trouble)>,
    /// How many children in a row the provider was too busy for.
    troubles: u32,
    /// When a pause for a limit last ended, until the child's next end.
    resumed: Option<Instant>,
    /// When the child last stopped for a terminal that nobody could give it, or that it had, since
    /// ddollar itself was last continued.
    terminal_stops: Vec<Instant>,
}

impl Session {
    /// A session before its first start.
    pub(crate) fn new(pools: Vec<TokenPool>, rules: Rules, now: Now) -> Session {
        let rings = pools
            .into_iter()
            .map(|pool| Ring {
                blind: false,
                worked: (0..pool.len()).any(|index| pool.state(index).worked()),
                pool,
                switched: false,
                keep_going: false,
                said_silent: false,
                said_unclear: false,
                said_quotas: false,
                said_aside: false,
            })
            .collect();
        Session {
            rings,
            rules,
            phase: Phase::Running { recheck: None },
            asking: Vec::new(),
            heard: false,
            short_lives: 0,
            retries: 0,
            last_start: now.tick,
            ready_at: now.tick,
            gave_up: None,
            troubles: 0,
            resumed: None,
            terminal_stops: Vec::new(),
        }
    }

    /// The first start, with tokens that are not known to be spent; a wait if all of them are.
    pub(crate) fn start(&mut self, now: Now) -> Reply {
        let several = self.rings.len() > 1;
        let mut say = Vec::new();
        let mut ready = true;
        for ring in &mut self.rings {
            match policy::first(&ring.pool, &self.rules, now) {
                Some(index) if index == ring.pool.current_index() => {}
                Some(index) => {
                    ring.pool.start_at(index);
                    say.push(Notice::StartsWith {
                        provider: several.then_some(ring.pool.current().provider.label),
                        index,
                        len: ring.pool.len(),
                    });
                }
                None => ready = false,
            }
        }
        let mut reply = if ready {
            self.launch(false, now)
        } else {
            self.phase = Phase::Unstarted {
                since: now,
                wake: None,
                question: None,
            };
            self.apply_decision(now)
        };
        reply.say.splice(..0, say);
        reply
    }

    /// The pools, in ring order.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &TokenPool> {
        self.rings.iter().map(|ring| &ring.pool)
    }

    /// Utilization above which a token is left: 0.0 to 1.0.
    pub(crate) fn threshold(&self) -> f64 {
        self.rules.threshold
    }

    /// How long to wait for an event before [`Event::Deadline`]; `None`: for ever.
    pub(crate) fn timeout(&self, now: Now) -> Option<Duration> {
        // While a question is under way, its answer is the next event, not a time that is over.
        let on_wall = |until: Until| match until.remaining(now) {
            Duration::ZERO if !self.asking.is_empty() => SLICE,
            left => left.min(SLICE),
        };
        // What is shown is the promise; the wait ends a little later.
        let on_wait = |until: Until| on_wall(until.later(self.rules.jitter));
        let on_tick = |at: Instant| at.saturating_duration_since(now.tick);
        match self.phase {
            Phase::Running { recheck } => recheck.map(on_wall),
            Phase::Stopping { kill_at, .. } => kill_at.map(on_tick),
            Phase::Sweeping { look_at, .. } => Some(on_tick(look_at)),
            // Nothing but an answer ends a question.
            Phase::Paused {
                question: Some(_),
                freeze_at,
                ..
            } => freeze_at.map(on_tick),
            Phase::Paused {
                freeze_at, wake, ..
            } => Some(freeze_at.map_or(on_wait(wake), |at| on_tick(at).min(on_wait(wake)))),
            // Nothing but an answer ends a question.
            Phase::Failed {
                question: Some(_), ..
            }
            | Phase::Unstarted {
                question: Some(_), ..
            } => None,
            Phase::Failed { wake, .. } | Phase::Unstarted { wake, .. } => wake.map(on_wait),
        }
    }

    /// Until when nothing happens, as far as is known: while the child is held for a limit or an
    /// outage, or not started for one, and nobody is asked.
    pub(crate) fn waits_until(&self) -> Option<Until> {
        match self.phase {
            Phase::Paused {
                wake,
                question: None,
                ..
            } => Some(wake),
            Phase::Failed {
                wake,
                question: None,
                ..
            }
            | Phase::Unstarted {
                wake,
                question: None,
                ..
            } => wake,
            _ => None,
        }
    }

    /// Takes in an event and says what to do about it.
    pub(crate) fn handle(&mut self, event: Event, now: Now) -> Reply {
        match event {
            Event::Answer { token, answer } => self.on_answer(token, &answer, now),
            Event::Trouble { what } => Reply::nothing().and_say(Notice::Warning { what }),
            Event::MonitorLost { ring } => {
                if let Some(ring) = self.rings.get_mut(ring) {
                    ring.blind = true;
                }
                self.apply_decision(now).and_say_first(Notice::MonitorLost)
            }
            Event::Told { provider, trouble } => self.on_told(provider, trouble, now),
            Event::Say(notice) => Reply::nothing().and_say(*notice),
            Event::Child(ChildEvent::Exited { how, asked }) => self.on_exit(how, asked, now),
            Event::Child(ChildEvent::Continued) => self.on_continued(),
            Event::Child(ChildEvent::Stopped { by }) => {
                self.on_stopped(by, TerminalState::default(), now)
            }
            Event::Stopped { by, scene } => self.on_stopped(by, scene, now),
            Event::NotStarted { why } => self.on_not_started(why, now),
            Event::Tree { group, beyond } => self.on_tree(group, beyond, now),
            Event::Line(line) => self.on_line(&line, now),
            Event::Signal(signal) => self.on_signal(signal, now),
            Event::Deadline => self.on_deadline(now),
        }
    }

    // ---- events ----

    fn on_answer(&mut self, token: TokenId, answer: &Answer, now: Now) -> Reply {
        self.asking
            .retain(|(asked, put)| *asked != token || answer.asked < *put);
        let Some(ring) = self.rings.get_mut(token.ring) else {
            return Reply::nothing();
        };
        policy::record(&mut ring.pool, token.index, answer, &self.rules, now);
        let standing = ring.pool.state(token.index);
        let condition = standing.condition(now);
        ring.worked |= matches!(
            condition,
            Condition::Usable | Condition::NearLimit { .. } | Condition::Limited { .. }
        );
        // The user's word holds until the window resets, or the token is refused.
        ring.keep_going &= token.index != ring.pool.current_index()
            || matches!(condition, Condition::NearLimit { .. });
        self.heard |= answer.reading.is_ok();
        // A token that is served after its account was in trouble: a child that runs has that behind
        // it, and is not idle at its next limit.
        let is_current = token.index == ring.pool.current_index();
        let served = |reading: &Reading| matches!(reading.finding, Finding::Served);
        if let (Phase::Running { .. }, Some((since, Trouble::Account))) = (self.phase, self.gave_up)
            && is_current
            && answer.asked >= since
            && answer.reading.as_ref().is_ok_and(served)
        {
            self.gave_up = None;
        }

        let mut say = Vec::new();
        let provider = ring.pool.token(token.index).provider.label;
        if let Ok(reading) = &answer.reading {
            say.push(Notice::Monitor {
                provider,
                index: token.index,
                served: reading.finding == Finding::Served,
                usage: reading.usage.clone(),
            });
            if let (Finding::Unclear { why }, false) = (&reading.finding, ring.said_unclear) {
                ring.said_unclear = true;
                say.push(Notice::Unclear {
                    provider,
                    why: why.to_string(),
                });
            }
        }
        match (standing.silence(), ring.said_silent) {
            (Some((silence, _)), false) => {
                ring.said_silent = true;
                let why = answer.reading.as_ref().err().cloned();
                say.push(Notice::Silent {
                    provider,
                    silence,
                    why,
                });
            }
            (None, true) => {
                ring.said_silent = false;
                say.push(Notice::AnswersAgain { provider });
            }
            _ => {}
        }
        say.extend(Notice::quotas(&ring.pool, &mut ring.said_quotas));
        if is_current {
            say.extend(self.set_aside(token.ring, now));
        }
        let mut reply = self.apply_decision(now);
        say.append(&mut reply.say);
        Reply { say, ..reply }
    }

    /// Says once that a ring is out of the question, if the child is not to end for it.
    fn set_aside(&mut self, ring: usize, now: Now) -> Vec<Notice> {
        if self.may_live_on(ring, now) {
            return Vec::new();
        }
        let (why, provider) = (self.reason(ring, now), self.label(ring));
        let Some(own) = self.rings.get_mut(ring) else {
            return Vec::new();
        };
        if !own.is_hopeless(now) || std::mem::replace(&mut own.said_aside, true) {
            return Vec::new();
        }
        vec![why, Notice::SetAside { provider }]
    }

    /// The child's turn has failed for want of a provider. Some clients end on that; others wait
    /// for a person to type, and have to be started again.
    fn on_told(&mut self, provider: &str, trouble: Trouble, now: Now) -> Reply {
        let is_its = |ring: &Ring| {
            ring.pool
                .tokens()
                .any(|token| token.provider.name == provider)
        };
        let Some((place, ring)) = self
            .rings
            .iter_mut()
            .enumerate()
            .find(|(_, ring)| is_its(ring))
        else {
            return Reply::nothing();
        };
        if !matches!(self.phase, Phase::Running { .. } | Phase::Paused { .. }) {
            return Reply::nothing();
        }
        let lived = now.tick.saturating_duration_since(self.last_start);
        let resumed = self
            .resumed
            .map(|at| now.tick.saturating_duration_since(at));
        let worked = resumed.map_or(lived, |resumed| resumed.min(lived));
        policy::tell(&mut ring.pool, trouble, worked, now);
        if trouble == Trouble::Overloaded {
            self.troubles = if lived > RECOVERED {
                0
            } else {
                self.troubles.saturating_add(1)
            };
            self.ready_at = now.tick + policy::backoff(self.troubles);
        }
        self.gave_up = Some((now.tick, trouble));
        let index = ring.pool.current_index();
        let mut reply = self.apply_decision(now);
        // When a limit ends, or whether it is the token, a probe can tell; a busy provider is left
        // alone for a while.
        if trouble != Trouble::Overloaded && reply.action == Action::Nothing {
            reply.action = self.ask(TokenId { ring: place, index }, now).action;
        }
        reply
    }

    /// Since when and why the child has been idle, if a restart would mend it. Of what it says about
    /// its account, a probe is the judge.
    fn idle(&self, now: Now) -> Option<(Instant, Trouble)> {
        let (since, trouble) = self.gave_up?;
        let condemned = || {
            self.rings.iter().any(|ring| {
                let standing = ring.pool.state(ring.pool.current_index());
                let doubtful = matches!(standing.silence(), Some((ProbeFailure::Doubtful, _)));
                let condition = standing.condition(now);
                doubtful || !matches!(condition, Condition::Unknown | Condition::Usable)
            })
        };
        (trouble != Trouble::Account || condemned()).then_some((since, trouble))
    }

    fn on_exit(&mut self, how: ExitStatus, asked: bool, now: Now) -> Reply {
        match self.phase {
            // It ended by itself before the order to stop reached it.
            Phase::Stopping {
                then: AfterStop::Restart,
                ..
            } if !asked => self.on_own_end(how, now),
            Phase::Running { .. } => self.on_own_end(how, now),
            Phase::Stopping { kill_at, then } => self.sweep(kill_at, then, how, now),
            // It could not go on with what it was paused for.
            Phase::Paused { .. } if how != ExitStatus::Code(0) && !how.is_deliberate() => {
                self.fail(how, true, Reported::All, now)
            }
            Phase::Paused { .. }
            | Phase::Failed { .. }
            | Phase::Sweeping { .. }
            | Phase::Unstarted { .. } => self.finish(how),
        }
    }

    /// The next child could not be started: the system is short of something, for now.
    fn on_not_started(&mut self, why: String, now: Now) -> Reply {
        self.phase = Phase::Failed {
            failure: Failure {
                since: now,
                how: ExitStatus::Code(OWN_FAILURE),
                blamed: true,
                said: Reported::All,
                asks: false,
                wait_for_current: false,
            },
            wake: Some(Until::after(policy::backoff(0), now)),
            question: None,
        };
        self.ready_at = now.tick + policy::backoff(0);
        Reply::nothing().and_say(Notice::NotStarted { why })
    }

    fn on_own_end(&mut self, how: ExitStatus, now: Now) -> Reply {
        if how.is_deliberate() {
            return self.finish(how);
        }
        // It has said why, also when its status does not.
        if self.idle(now).is_some() {
            return self.fail(how, true, Reported::Nothing, now);
        }
        if how == ExitStatus::Code(0) {
            return self.finish(how);
        }
        if now.tick.saturating_duration_since(self.last_start) < SHORT_LIFE {
            self.short_lives += 1;
        } else {
            self.short_lives = 0;
        }
        if self.short_lives >= SHORT_LIVES {
            return self.finish(how).and_say_first(Notice::ShortLives);
        }
        // A client that was paused in the middle of its own refusal gives up when it goes on.
        let resumed = self.resumed.take();
        let blamed =
            resumed.is_some_and(|at| now.tick.saturating_duration_since(at) < AFTER_A_PAUSE);
        let said = if blamed {
            Reported::All
        } else {
            Reported::Nothing
        };
        self.fail(how, blamed, said, now)
    }

    /// The child has failed; what its token and provider say now decides.
    fn fail(&mut self, how: ExitStatus, blamed: bool, said: Reported, now: Now) -> Reply {
        self.phase = Phase::Failed {
            failure: Failure {
                since: now,
                how,
                blamed,
                said,
                asks: self.rules.interactive,
                wait_for_current: false,
            },
            wake: None,
            question: None,
        };
        // To keep going has not gone well.
        for ring in &mut self.rings {
            ring.keep_going = false;
        }
        let reply = self.apply_decision(now);
        if said == Reported::All {
            reply.and_say_first(Notice::Failed { how })
        } else {
            reply
        }
    }

    fn on_stopped(&mut self, by: Signal, scene: TerminalState, now: Now) -> Reply {
        let for_terminal = matches!(by, Signal::SIGTTIN | Signal::SIGTTOU);
        let is_given = scene.front == Foreground::Child;
        let nobody_gives = scene.orphaned && scene.front == Foreground::Other;
        let stuck = for_terminal && (is_given || nobody_gives) && self.is_stuck_for_terminal(now);
        match &mut self.phase {
            Phase::Paused {
                freeze_at,
                question,
                ..
            } => {
                *freeze_at = None;
                match *question {
                    None => Reply::action(Action::Hold),
                    Some(question) => self.prompt(question, now),
                }
            }
            Phase::Running { .. } | Phase::Stopping { .. }
                if for_terminal && scene.front == Foreground::Ours =>
            {
                Reply::action(Action::HandOver)
            }
            // It asked in the background, and was given the terminal before its stop was seen.
            Phase::Running { .. } | Phase::Stopping { .. }
                if for_terminal && is_given && !stuck =>
            {
                Reply::action(Action::Continue)
            }
            Phase::Running { .. } if !scene.orphaned => Reply::action(Action::Mirror {
                for_terminal,
                in_background: scene.front == Foreground::Other,
            }),
            // Nobody would wake us. An operator's SIGSTOP is respected; the rest is undone.
            Phase::Running { .. } if by == Signal::SIGSTOP => {
                Reply::nothing().and_say(Notice::StoppedByHand)
            }
            Phase::Running { .. } if stuck => Reply::nothing().and_say(Notice::NeedsTerminal),
            Phase::Running { .. } => Reply::action(Action::Continue),
            Phase::Stopping { .. }
            | Phase::Sweeping { .. }
            | Phase::Failed { .. }
            | Phase::Unstarted { .. } => Reply::nothing(),
        }
    }

    /// Whether the child has now stopped too often for a terminal that it cannot have, or has.
    fn is_stuck_for_terminal(&mut self, now: Now) -> bool {
        self.terminal_stops
            .retain(|stop| now.tick.saturating_duration_since(*stop) < TERMINAL_STOPS_WITHIN);
        self.terminal_stops.push(now.tick);
        self.terminal_stops.len() >= TERMINAL_STOPS
    }

    /// Someone else has continued a paused child: an operator's word counts more than the table's.
    fn on_continued(&mut self) -> Reply {
        match self.phase {
            Phase::Paused {
                freeze_at: None, ..
            } => {
                self.phase = Phase::Running { recheck: None };
                Reply::action(Action::Resume).and_say(Notice::ContinuedByHand)
            }
            _ => Reply::nothing(),
        }
    }

    fn on_tree(&mut self, group: usize, beyond: usize, now: Now) -> Reply {
        let Phase::Sweeping {
            kill_at,
            give_up,
            look_at,
            then,
            how,
        } = &mut self.phase
        else {
            return Reply::nothing();
        };
        let (then, how) = (*then, *how);
        if group + beyond == 0 {
            return self.swept(then, how, now);
        }
        match *kill_at {
            // Those that were told to end have the rest of the grace; strays get a moment.
            Some(at) if now.tick < at => {
                let at = if group == 0 {
                    at.min(now.tick + STRAY_GRACE)
                } else {
                    at
                };
                *kill_at = Some(at);
                *look_at = at.min(now.tick + BETWEEN_LOOKS);
                Reply::nothing()
            }
            Some(_) => {
                *kill_at = None;
                *give_up = now.tick + UNKILLABLE;
                *look_at = now.tick + BETWEEN_LOOKS;
                Reply::action(Action::Sweep {
                    signal: Some(Signal::SIGKILL),
                })
            }
            None if now.tick < *give_up => {
                *look_at = now.tick + BETWEEN_LOOKS;
                Reply::nothing()
            }
            // Two of a kind at work on one session would be worse than none.
            None => {
                *give_up = now.tick + UNKILLABLE * 12;
                *look_at = now.tick + BETWEEN_STARTS;
                let notice = Notice::Unkillable {
                    left: group + beyond,
                };
                match then {
                    AfterStop::Restart => Reply::nothing().and_say(notice),
                    _ => self.swept(then, how, now).and_say_first(notice),
                }
            }
        }
    }

    fn on_line(&mut self, line: &str, now: Now) -> Reply {
        let span = self.left_to_wait(now);
        let (Phase::Paused { question: open, .. }
        | Phase::Failed { question: open, .. }
        | Phase::Unstarted { question: open, .. }) = &mut self.phase
        else {
            return Reply::nothing();
        };
        let Some(question) = open.take() else {
            return Reply::nothing();
        };
        match (question, line) {
            // The answer may be hours old by now: the token is asked once more.
            (Question::Rotate { ring, .. }, "" | "1") => {
                if let Some(ring) = self.rings.get_mut(ring) {
                    let current = ring.pool.current_index();
                    ring.pool.standing_mut(current).need_again(now);
                }
                if let Phase::Failed { failure, .. } = &mut self.phase {
                    failure.answered(false, now);
                }
                self.apply_decision(now)
            }
            (Question::Rotate { .. }, "2") => match &mut self.phase {
                Phase::Failed { failure, .. } => {
                    failure.answered(true, now);
                    self.apply_decision(now)
                }
                phase => {
                    if let Phase::Paused {
                        wait_for_current, ..
                    } = phase
                    {
                        *wait_for_current = true;
                    }
                    Reply::nothing().and_say(Notice::Pausing { span })
                }
            },
            (Question::Rotate { ring, .. }, "4") => {
                if let Some(ring) = self.rings.get_mut(ring) {
                    ring.keep_going = true;
                }
                if let Phase::Failed { .. } = self.phase {
                    return self.start_again(now).and_say_first(Notice::KeepingOn);
                }
                self.phase = Phase::Running { recheck: None };
                Reply::action(Action::Resume).and_say(Notice::KeepingOn)
            }
            (Question::Exhausted, "" | "1") => {
                let is_paused = matches!(self.phase, Phase::Paused { .. });
                let reply = self.apply_decision(now);
                if span.is_zero() || !is_paused {
                    return reply;
                }
                reply.and_say_first(Notice::Pausing { span })
            }
            (Question::Rotate { .. }, "3") | (Question::Exhausted, "2") => {
                self.stop_for_later(now).and_say(Notice::Saved)
            }
            (question, _) => {
                *open = Some(question);
                self.prompt(question, now).and_say_first(match line {
                    END_OF_INPUT => Notice::NoAnswer,
                    _ => Notice::NoSuchChoice,
                })
            }
        }
    }

    /// Asks the user, who sees the terminal.
    fn prompt(&self, question: Question, now: Now) -> Reply {
        let span = self.left_to_wait(now);
        Reply::action(Action::Prompt).and_say(match question {
            Question::Rotate { .. } => Notice::AskRotate { span },
            Question::Exhausted => Notice::AskExhausted,
        })
    }

    /// How long the wait still is that the user is asked about.
    fn left_to_wait(&self, now: Now) -> Duration {
        match self.phase {
            Phase::Paused { wake, .. }
            | Phase::Failed {
                wake: Some(wake), ..
            }
            | Phase::Unstarted {
                wake: Some(wake), ..
            } => wake.remaining(now),
            _ => Duration::ZERO,
        }
    }

    fn on_signal(&mut self, signal: Signal, now: Now) -> Reply {
        match signal {
            Signal::SIGCHLD => self.on_orphan(),
            Signal::SIGTERM | Signal::SIGHUP | Signal::SIGINT | Signal::SIGQUIT => {
                self.on_end_signal(signal, now)
            }
            Signal::SIGTSTP => match self.phase {
                Phase::Running { .. } | Phase::Stopping { .. } => {
                    Reply::action(Action::Forward(signal))
                }
                _ => Reply::action(Action::SuspendSelf),
            },
            Signal::SIGCONT => self.on_woken(now),
            _ => match self.phase {
                Phase::Failed { .. } | Phase::Sweeping { .. } | Phase::Unstarted { .. } => {
                    Reply::nothing()
                }
                _ => Reply::action(Action::Forward(signal)),
            },
        }
    }

    fn on_end_signal(&mut self, signal: Signal, now: Now) -> Reply {
        let hangs_up = matches!(signal, Signal::SIGTERM | Signal::SIGHUP);
        let instead = |then| match then {
            AfterStop::Restart | AfterStop::Recover => AfterStop::End(Outcome::BySignal(signal)),
            then => then,
        };
        match &mut self.phase {
            Phase::Running { .. } if !hangs_up => Reply::action(Action::Forward(signal)),
            Phase::Running { .. } => self.stop(signal, AfterStop::EndAsChild, now),
            Phase::Paused { .. } if hangs_up => self.stop(signal, AfterStop::EndAsChild, now),
            Phase::Paused { .. } => self.stop(
                Signal::SIGTERM,
                AfterStop::End(Outcome::BySignal(signal)),
                now,
            ),
            // Whoever asks a second time does not want to wait for the grace.
            Phase::Stopping { then, kill_at } => {
                *then = instead(*then);
                *kill_at = None;
                Reply::action(Action::Kill)
            }
            Phase::Sweeping {
                then,
                kill_at,
                give_up,
                ..
            } => {
                *then = instead(*then);
                *kill_at = None;
                *give_up = now.tick + UNKILLABLE;
                Reply::action(Action::Sweep {
                    signal: Some(Signal::SIGKILL),
                })
            }
            Phase::Failed { .. } | Phase::Unstarted { .. } => {
                Reply::action(Action::Finish(Outcome::BySignal(signal)))
            }
        }
    }

    /// Something below has ended: the child, which has an event of its own, or an orphan of it.
    fn on_orphan(&self) -> Reply {
        Reply::action(match self.phase {
            Phase::Sweeping { .. } => Action::Sweep { signal: None },
            _ => Action::Reap,
        })
    }

    /// ddollar goes on after a stop, or someone thinks that it was stopped.
    fn on_woken(&mut self, now: Now) -> Reply {
        self.terminal_stops.clear();
        match &mut self.phase {
            Phase::Running { .. } => Reply::action(Action::Continue),
            // A grace does not run while nobody can look at it.
            Phase::Stopping { kill_at, .. } => {
                if let Some(at) = kill_at {
                    *at = now.tick + self.rules.grace;
                }
                Reply::action(Action::Continue)
            }
            Phase::Paused {
                question: Some(question),
                freeze_at: None,
                ..
            }
            | Phase::Failed {
                question: Some(question),
                ..
            }
            | Phase::Unstarted {
                question: Some(question),
                ..
            } => {
                let question = *question;
                self.prompt(question, now)
            }
            _ => Reply::nothing(),
        }
    }

    fn on_deadline(&mut self, now: Now) -> Reply {
        match &mut self.phase {
            Phase::Stopping { kill_at, .. } if kill_at.is_some_and(|at| now.tick >= at) => {
                *kill_at = None;
                Reply::action(Action::Kill).and_say(Notice::ForcingKill)
            }
            Phase::Paused { freeze_at, .. } if freeze_at.is_some_and(|at| now.tick >= at) => {
                *freeze_at = None;
                Reply::action(Action::Freeze)
            }
            Phase::Paused { wake, .. } if wake.is_over(now) => self.apply_decision(now),
            Phase::Sweeping {
                look_at,
                kill_at,
                give_up,
                ..
            } if now.tick >= *look_at => {
                *look_at = now.tick + BETWEEN_LOOKS;
                if kill_at.is_some_and(|at| now.tick >= at) {
                    *kill_at = None;
                    *give_up = now.tick + UNKILLABLE;
                }
                let signal = kill_at.is_none().then_some(Signal::SIGKILL);
                Reply::action(Action::Sweep { signal })
            }
            Phase::Running { recheck: Some(at) } if at.is_over(now) => self.apply_decision(now),
            Phase::Failed {
                wake: Some(at),
                question: None,
                ..
            }
            | Phase::Unstarted {
                wake: Some(at),
                question: None,
                ..
            } if at.is_over(now) => self.apply_decision(now),
            _ => Reply::nothing(),
        }
    }

    // ---- words ----

    fn label(&self, ring: usize) -> &'static str {
        self.rings
            .get(ring)
            .map_or("", |ring| ring.pool.current().provider.label)
    }

    /// A provider's name where there are several.
    fn named(&self, provider: &'static str) -> Option<&'static str> {
        (self.rings.len() > 1).then_some(provider)
    }

    /// Why the token in use will not do.
    fn reason(&self, ring: usize, now: Now) -> Notice {
        let provider = self.label(ring);
        let Some(ring) = self.rings.get(ring) else {
            return Notice::AllExhausted;
        };
        let index = ring.pool.current_index();
        let standing = ring.pool.state(index);
        let limit = Limit::of(standing.condition(now), standing.used());
        if let (Limit::Reached, Some((silence, _))) = (limit, standing.silence()) {
            return Notice::Silent {
                provider,
                silence,
                why: None,
            };
        }
        Notice::Limit {
            provider: self.named(provider),
            index,
            limit,
        }
    }

    fn waiting(&self, ring: usize, until: Until, index: Option<usize>, now: Now) -> Notice {
        match index {
            Some(index) => Notice::WaitingForReset {
                provider: self.named(self.label(ring)),
                span: until.remaining(now),
                index,
                len: self.rings.get(ring).map_or(1, |ring| ring.pool.len()),
                at: until.wall,
                now: now.wall,
                held: false,
            },
            None => Notice::WaitingForProvider {
                provider: self.label(ring),
                span: until.remaining(now),
                // One that was never reached is given up (`settle_failed`).
                at_most: (!self.heard && matches!(self.phase, Phase::Failed { .. }))
                    .then_some(LAST_TRY),
            },
        }
    }
}

impl Reply {
    fn action(action: Action) -> Reply {
        Reply {
            say: Vec::new(),
            action,
        }
    }

    fn nothing() -> Reply {
        Reply::action(Action::Nothing)
    }

    fn and_say(mut self, notice: Notice) -> Reply {
        self.say.push(notice);
        self
    }

    fn and_say_first(mut self, notice: Notice) -> Reply {
        self.say.insert(0, notice);
        self
    }
}

mod transitions;

#[cfg(test)]
mod tests;
