//! The state machine of one supervised run.
//!
//! Owns what the run is doing (the child runs, is being stopped, or is waited for) and what each event
//! means there. It promises that one event gives one [`Turn`]: sentences to say and one [`Action`];
//! that a child is started only when nothing is left of the last one; and that nothing here blocks.
//! It decides and does not act: no process, no clock, no thread is touched. Which token is good is
//! `tokens/policy.rs`'s to say; signals and graces are the job's.

mod endings;
mod findings;
mod rings;
mod running;
mod waiting;

use crate::clients::hook_server::HookEvent;
use crate::common::error::OWN_FAILURE;
use crate::common::time::{Now, Until};
use crate::events::{AfterStall, Limit, RunEvent, TokenRef};
use crate::providers::schedule::backoff;
use crate::providers::{Answer, Finding, Provider, Reading};
use crate::supervisor::event::{Action, Event, Outcome};
use crate::system::exit_status::ExitStatus;
use crate::system::job::JobEvent;
use crate::tokens::condition::{Condition, ProbeFailure, Trouble};
use crate::tokens::ledger::{Ledger, Outlook};
use crate::tokens::policy::{self, Decision, Rules, Suspension};
use crate::tokens::{Renewal, TokenId, TokenPool};
use nix::sys::signal::Signal;
use rings::{SessionRing, is_for_want_of_a_token};
use std::time::{Duration, Instant, SystemTime};
use waiting::{Held, Question, Reported, Waiting};

/// Signals to end that come so soon after each other are one: timeout(1) signals its command and then
/// its group, systemd sends a scope SIGTERM and SIGHUP, and a terminal that closes SIGHUP twice.
const TWINS: Duration = Duration::from_millis(300);
/// A start that dies within this time is a short life.
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// Least time from one start to the next after a failure, so that a command which fails at once does
/// not keep the machine busy.
const BETWEEN_STARTS: Duration = Duration::from_secs(1);
/// How long a failed child is held for a provider that has not answered once in this run.
/// An outage is waited for; a provider that was never there is more likely a wrong address.
const NEVER_HEARD: Duration = Duration::from_secs(60);
/// When that has come to its end at the latest: the tries are 5, 10, 20 and 40 s apart
/// (`backoff`), and a provider that is silent takes 15 s (`monitor.rs`) to be that.
const LAST_TRY: Duration = Duration::from_secs(90);
/// A client that has told its failure has this long to end by itself before it is ended: its last
/// words are worth having, and one that waits for a person never ends.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A child that lived this long has recovered from what troubled the last one.
const RECOVERED: Duration = Duration::from_secs(120);
/// So many starts in a row are made because the child has stalled. What does not go on then needs somebody.
const MOST_STALLS: u32 = 3;
/// Token files are looked at no more often than this: in a wait as often as the loop wakes up anyway.
const BETWEEN_READS: Duration = Duration::from_secs(1);
/// Longest sleep while waiting for a wall-clock time, so that suspend costs no more than this.
const SLICE: Duration = Duration::from_secs(15);

/// The answer to an event: what to say first, and then what to do.
#[derive(Debug)]
#[must_use = "a turn that is not carried out leaves the child behind"]
pub(crate) struct Turn {
    pub(crate) events: Vec<RunEvent>,
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

/// What the run is doing.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The child runs. At `recheck` the table is consulted again.
    Running { recheck: Option<Until> },
    /// The child and what it has started are being ended, with this signal. `how` the child ended is
    /// known once it has.
    Stopping {
        signal: Signal,
        then: AfterStop,
        how: Option<ExitStatus>,
    },
    /// The child is paused, has failed or was not started yet, and what is to follow is open.
    Waiting(Waiting),
}

/// What the proxy knows, as it was at the last event, and how long it holds a request.
#[derive(Debug)]
struct Proxied {
    ledger: Option<Ledger>,
    hold: Duration,
}

/// The state of a run.
#[derive(Debug)]
pub(crate) struct Session {
    rings: Vec<SessionRing>,
    /// The child's requests go through the proxy, which learns and rotates by itself.
    proxied: Option<Proxied>,
    rules: Rules,
    phase: Phase,
    /// Questions that are under way, and when they were put.
    asking: Vec<(TokenId, Instant)>,
    /// Whether any provider has answered in this run.
    heard: bool,
    short_lives: u32,
    /// Whether a start has lived longer than that.
    has_lived: bool,
    retries: u32,
    last_start: Instant,
    /// A failed child is not started again before then.
    ready_at: Instant,
    /// When the child said that it has given up, and why.
    gave_up: Option<(Instant, Trouble)>,
    /// How many children in a row the provider was too busy for.
    troubles: u32,
    /// Since when the command could not be started again.
    failing_since: Option<Instant>,
    /// When a signal to end was last received.
    end_signal_at: Option<Instant>,
    /// When a pause for a limit last ended, until the child's next end.
    resumed: Option<Instant>,
    /// How often in a row the child was ended because it had stalled.
    stalls: u32,
    /// Whether tokens came from files, which may be changed.
    has_token_files: bool,
    /// When they were last read again.
    reread: Option<Instant>,
    /// Whether there may be something new to keep of the tokens.
    has_news: bool,
    /// What is to be said once the start under way has come about.
    on_start: Option<RunEvent>,
    /// What is to be said when the child fails and nothing explains it.
    on_failure: Option<RunEvent>,
}

impl Session {
    /// A session before its first start. Behind a proxy, which `hold`s a request for so long, it decides by
    /// what it [sees](Session::see).
    pub(crate) fn new(
        pools: Vec<TokenPool>,
        rules: Rules,
        hold: Option<Duration>,
        now: Now,
    ) -> Session {
        let rings = pools
            .into_iter()
            .map(|pool| SessionRing {
                blind: false,
                in_use: true,
                least_used: None,
                worked: (0..pool.len()).any(|index| pool.state(index).worked()),
                pool,
                switched: false,
                keep_going: false,
                used_at_start: None,
                used_at_end: None,
                said_silent: false,
                said_unclear: false,
                said_quotas: false,
                said_aside: false,
            })
            .collect();
        let proxied = hold.map(|hold| Proxied { ledger: None, hold });
        Session {
            rings,
            proxied,
            rules,
            phase: Phase::Running { recheck: None },
            asking: Vec::new(),
            heard: false,
            short_lives: 0,
            has_lived: false,
            retries: 0,
            last_start: now.tick,
            ready_at: now.tick,
            gave_up: None,
            troubles: 0,
            failing_since: None,
            end_signal_at: None,
            resumed: None,
            stalls: 0,
            has_token_files: false,
            reread: None,
            has_news: false,
            on_start: None,
            on_failure: None,
        }
    }

    /// Of several providers, the command is known to use these alone; others are watched.
    pub(crate) fn expect_only(&mut self, is_used: impl Fn(&Provider) -> bool) {
        let several = self.rings.len() > 1;
        for ring in &mut self.rings {
            ring.in_use = !several || is_used(ring.pool.current().provider);
        }
    }

    /// Tokens came from files, which are read again when no token is good.
    pub(crate) fn rereads_token_files(&mut self) {
        self.has_token_files = true;
    }

    /// From now on the child's requests go through a proxy, which holds one for so long: the child is not
    /// started again for a limit any more, and all is decided by what it [sees](Session::see).
    pub(crate) fn goes_through_proxy(&mut self, hold: Duration) {
        self.proxied.get_or_insert(Proxied { ledger: None, hold });
    }

    /// Whether the child's requests go through the proxy.
    pub(crate) fn is_proxied(&self) -> bool {
        self.proxied.is_some()
    }

    /// Takes in all that the proxy knows of the tokens by now.
    pub(crate) fn see(&mut self, ledger: Ledger, now: Now) {
        let Some(proxied) = &mut self.proxied else {
            return;
        };
        for (place, ring) in self.rings.iter_mut().enumerate() {
            // A user who is asked is asked about what the command does.
            let seen = match self.rules.interactive {
                true => ledger.last_used(place),
                false => ledger.checked(place),
            };
            if let Some(pool) = ledger.pool(seen) {
                ring.pool.clone_from(pool);
                ring.in_use |= ledger.is_used(place);
                ring.worked |= ring.in_use && ring.is_accepted(now);
                ring.keep_going &= ring.is_near_limit(now);
            }
        }
        proxied.ledger = Some(ledger);
    }

    /// This is to be said once the start under way has come about.
    pub(crate) fn says_on_start(&mut self, event: Option<RunEvent>) {
        self.on_start = event;
    }

    /// This is to be said if the child fails before any limit was met, and nothing explains it.
    pub(crate) fn says_on_failure(&mut self, event: Option<RunEvent>) {
        self.on_failure = event;
    }

    /// Whether something new may be known of a token since the last call.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// The first start, with tokens that are not known to be spent; a wait if all of them are.
    pub(crate) fn start(&mut self, now: Now) -> Turn {
        let several = self.rings.len() > 1;
        let mut say = Vec::new();
        // Without any that it is known to use, one is enough.
        let known = self.rings.iter().any(|ring| ring.in_use);
        let mut ready = known;
        for (place, ring) in self.rings.iter_mut().enumerate() {
            let first = policy::first(&ring.pool, &self.rules, now);
            match first {
                Some(index) if index == ring.pool.current_index() => {}
                Some(index) => {
                    ring.pool.start_at(index);
                    let id = TokenId { ring: place, index };
                    let token = TokenRef::new(&ring.pool, id, several);
                    say.push(RunEvent::StartsWith(token));
                }
                None => {}
            }
            match known {
                true => ready &= first.is_some() || !ring.in_use,
                false => ready |= first.is_some(),
            }
        }
        let mut turn = if ready {
            self.launch(false, now)
        } else {
            self.phase = Phase::Waiting(Waiting::new(Held::NotStarted, now));
            self.apply_decision(now)
        };
        turn.events.splice(..0, say);
        turn
    }

    /// The pools, in ring order.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &TokenPool> {
        self.rings.iter().map(|ring| &ring.pool)
    }

    /// Utilization above which a token is left: 0.0 to 1.0.
    pub(crate) fn threshold(&self) -> f64 {
        self.rules.threshold
    }

    /// Whether the child runs and is to go on, so that its token is worth watching.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    /// How long to wait for an event before [`Event::Deadline`]; `None`: for ever.
    pub(crate) fn timeout(&self, now: Now) -> Option<Duration> {
        // While a question is under way, its answer is the next event, not a time that is over.
        let on_wall = |until: Until| match until.remaining(now) {
            Duration::ZERO if !self.asking.is_empty() => SLICE,
            left => left.min(SLICE),
        };
        match self.phase {
            Phase::Running { recheck } => recheck.map(on_wall),
            Phase::Stopping { .. } => None,
            // What is shown is the promise; the wait ends a little later.
            Phase::Waiting(waiting) => waiting
                .until()
                .map(|until| on_wall(until.later(self.rules.jitter))),
        }
    }

    /// Takes in an event and says what to do about it.
    pub(crate) fn handle(&mut self, event: Event, now: Now) -> Turn {
        self.has_news |= event.is_finding();
        let notice = match &event {
            Event::Proxy(notice) => Some(notice.clone()),
            _ => None,
        };
        let mut turn = self.on_event(event, now);
        // The proxy has said which token is limited.
        if self.is_proxied() && turn.action != Action::Nothing {
            turn.events
                .retain(|event| !matches!(event, RunEvent::Limit { .. }));
        }
        turn.events.splice(0..0, notice);
        turn
    }

    fn on_event(&mut self, event: Event, now: Now) -> Turn {
        match event {
            Event::Nothing => Turn::nothing(),
            Event::Job(event) => self.on_job(event, now),
            Event::Hook(hook) => self.on_hook(&hook, now),
            Event::Signal(signal) => self.on_signal(signal, now),
            Event::RealTimeSignal(number) => match self.phase {
                Phase::Waiting(waiting) if !waiting.is_paused() => Turn::nothing(),
                _ => Turn::action(Action::ForwardNumber(number)),
            },
            Event::Probed { token, answer } => self.on_answer(token, &answer, now),
            Event::MonitorLost { ring } => {
                if let Some(ring) = self.rings.get_mut(ring) {
                    ring.blind = true;
                }
                self.apply_decision(now)
                    .and_say_first(RunEvent::MonitorLost)
            }
            Event::Proxy(notice) => self.on_notice(&notice, now),
            Event::Tokens(renewals) => self.on_tokens(&renewals, now),
            Event::Exhausted => self.apply_decision(now),
            Event::Stalled {
                span,
                sees_requests,
                resumable,
            } => self.on_stall(span, sees_requests, resumable, now),
            Event::Warning(what) => Turn::nothing().and_say(RunEvent::Warning(what)),
            Event::Line(line) => self.on_line(&line, now),
            Event::Deadline => self.on_deadline(now),
        }
    }

    /// Consults the table and turns its decision into an action.
    fn apply_decision(&mut self, now: Now) -> Turn {
        match self.phase {
            Phase::Running { .. } => self.decide_running(now),
            Phase::Waiting(waiting) => self.decide_waiting(waiting, now),
            Phase::Stopping { .. } => Turn::nothing(),
        }
    }

    // ---- the job ----

    fn on_job(&mut self, event: JobEvent, now: Now) -> Turn {
        match event {
            JobEvent::Unchanged => Turn::nothing(),
            JobEvent::Exited { how, asked } => self
                .on_exit(how, asked, now)
                .and_say_first(RunEvent::Exited { how, asked }),
            JobEvent::Cleared => match self.phase {
                Phase::Stopping {
                    then,
                    how: Some(how),
                    ..
                } => self.after_stop(then, how, now),
                _ => Turn::nothing(),
            },
            JobEvent::Unkillable { left } => self.on_unkillable(left, now),
            JobEvent::ForcingKill => Turn::nothing().and_say(RunEvent::ForcingKill),
            JobEvent::Paused => self.on_paused(),
            JobEvent::Continued => self.on_continued(),
            JobEvent::StoppedByHand => Turn::nothing().and_say(RunEvent::StoppedByHand),
            JobEvent::NeedsTerminal => Turn::nothing().and_say(RunEvent::NeedsTerminal),
            JobEvent::Started => {
                self.failing_since = None;
                let mut turn = Turn::nothing();
                turn.events.extend(self.on_start.take());
                turn
            }
            JobEvent::NotStarted { why, how } => self.on_not_started(why, how, now),
            JobEvent::Warning(what) => Turn::nothing().and_say(RunEvent::Warning(what)),
        }
    }

    // ---- signals and time ----

    fn on_signal(&mut self, signal: Signal, now: Now) -> Turn {
        match (signal, self.phase) {
            (Signal::SIGTERM | Signal::SIGHUP | Signal::SIGINT | Signal::SIGQUIT, _) => {
                self.on_end_signal(signal, now)
            }
            (Signal::SIGTSTP, Phase::Waiting(_)) => Turn::action(Action::Suspend),
            // ddollar goes on after a stop, and the shell had the terminal meanwhile.
            (Signal::SIGCONT, Phase::Waiting(waiting)) if waiting.is_asking() => {
                Turn::action(Action::Ask)
            }
            (_, Phase::Waiting(waiting)) if !waiting.is_paused() => Turn::nothing(),
            _ => Turn::action(Action::Forward(signal)),
        }
    }

    fn on_end_signal(&mut self, signal: Signal, now: Now) -> Turn {
        let last = self.end_signal_at.replace(now.tick);
        let is_twin = last.is_some_and(|last| now.tick.saturating_duration_since(last) < TWINS);
        let hangs_up = matches!(signal, Signal::SIGTERM | Signal::SIGHUP);
        match &mut self.phase {
            Phase::Running { .. } if !hangs_up => Turn::action(Action::Forward(signal)),
            Phase::Running { .. } => self.stop(signal, AfterStop::EndAsChild),
            Phase::Stopping { .. } if is_twin => Turn::nothing(),
            // A second signal kills at once.
            Phase::Stopping {
                then, signal: sent, ..
            } => {
                if let AfterStop::Restart | AfterStop::Recover = then {
                    *then = AfterStop::End(Outcome::BySignal(signal));
                }
                *sent = Signal::SIGKILL;
                Turn::action(Action::Stop(Signal::SIGKILL))
            }
            Phase::Waiting(waiting) if !waiting.is_paused() => {
                Turn::action(Action::Exit(Outcome::BySignal(signal)))
            }
            Phase::Waiting(_) if hangs_up => self.stop(signal, AfterStop::EndAsChild),
            Phase::Waiting(_) => {
                let then = AfterStop::End(Outcome::BySignal(signal));
                self.stop(Signal::SIGTERM, then)
            }
        }
    }

    fn on_deadline(&mut self, now: Now) -> Turn {
        let due = match self.phase {
            Phase::Running { recheck } => recheck,
            Phase::Waiting(waiting) => waiting.until(),
            Phase::Stopping { .. } => None,
        };
        match due {
            Some(at) if at.is_over(now) || self.is_look_due(now) => self.apply_decision(now),
            Some(_) if !self.is_running() => self.reread_first(now).unwrap_or_else(Turn::nothing),
            _ => Turn::nothing(),
        }
    }

    /// The child has done nothing for `span`. One that has worked for as long before is no longer stuck on what
    /// the last one was stuck on.
    fn on_stall(&mut self, span: Duration, sees_requests: bool, resumable: bool, now: Now) -> Turn {
        if !self.is_running() {
            return Turn::nothing();
        }
        let lived = now.tick.saturating_duration_since(self.last_start);
        if lived.saturating_sub(span) >= span {
            self.stalls = 0;
        }
        let then = match resumable {
            false => AfterStall::NoSession,
            true if self.stalls >= MOST_STALLS => AfterStall::GivenUp,
            true => {
                self.stalls += 1;
                AfterStall::Restart {
                    number: self.stalls,
                    of: MOST_STALLS,
                }
            }
        };
        let turn = match then {
            AfterStall::Restart { .. } => self.stop(Signal::SIGTERM, AfterStop::Restart),
            _ => Turn::nothing(),
        };
        turn.and_say_first(RunEvent::Stalled {
            span,
            sees_requests,
            then,
        })
    }

    // ---- ends and starts ----

    fn probe(&mut self, token: TokenId, now: Now) -> Turn {
        if self.asking.iter().any(|(asked, _)| *asked == token) {
            return Turn::nothing();
        }
        self.asking.push((token, now.tick));
        Turn::action(Action::Probe(token))
    }

    fn launch(&mut self, again: bool, now: Now) -> Turn {
        self.phase = Phase::Running { recheck: None };
        self.last_start = now.tick;
        self.gave_up = None;
        self.ready_at = now.tick + BETWEEN_STARTS;
        let mut turn = Turn::action(Action::Launch { again });
        let several = self.rings.len() > 1;
        for (place, ring) in self.rings.iter_mut().enumerate() {
            ring.used_at_start = ring.used_of_minute();
            ring.least_used = None;
            if std::mem::take(&mut ring.switched) {
                let index = ring.pool.current_index();
                let id = TokenId { ring: place, index };
                let token = TokenRef::new(&ring.pool, id, several);
                turn.events.push(RunEvent::Switched(token));
            }
        }
        turn.and_say(RunEvent::Launched { again })
    }

    /// Ends the child with this signal.
    fn stop(&mut self, signal: Signal, then: AfterStop) -> Turn {
        let action = match then {
            AfterStop::EndAsChild => Action::PassOn(signal),
            _ => Action::Stop(signal),
        };
        self.phase = Phase::Stopping {
            signal,
            then,
            how: None,
        };
        Turn::action(action).and_say(RunEvent::Stopping)
    }

    fn give_up(&mut self, ring: usize, decision: Decision, now: Now) -> Turn {
        let why = match (decision, self.token(ring, None)) {
            (Decision::ExceedsMaxWait { until, index }, _) => RunEvent::TooLong {
                index,
                at: until.wall,
                now: now.wall,
            },
            (_, Some(token)) => RunEvent::NoneLeft(token.provider),
            (_, None) => RunEvent::AllExhausted,
        };
        self.stop_for_later().and_say_first(why)
    }

    /// Ends the run before the command has finished.
    fn stop_for_later(&mut self) -> Turn {
        match self.phase {
            Phase::Stopping { ref mut then, .. } => {
                if let AfterStop::Restart | AfterStop::Recover = then {
                    *then = AfterStop::End(Outcome::TryAgainLater);
                }
                Turn::nothing()
            }
            Phase::Waiting(waiting) if !waiting.is_paused() => {
                Turn::action(Action::Exit(Outcome::TryAgainLater))
            }
            _ => self.stop(Signal::SIGTERM, AfterStop::End(Outcome::TryAgainLater)),
        }
    }
}

impl Turn {
    fn action(action: Action) -> Turn {
        Turn {
            events: Vec::new(),
            action,
        }
    }

    fn nothing() -> Turn {
        Turn::action(Action::Nothing)
    }

    fn and_say(mut self, notice: RunEvent) -> Turn {
        self.events.push(notice);
        self
    }

    fn and_say_first(mut self, notice: RunEvent) -> Turn {
        self.events.insert(0, notice);
        self
    }

    fn and_say_all_first(mut self, notices: Vec<RunEvent>) -> Turn {
        self.events.splice(0..0, notices);
        self
    }
}

#[cfg(test)]
mod tests;
