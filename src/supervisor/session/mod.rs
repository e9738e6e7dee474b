//! The state machine of one supervised run.
//!
//! Owns what the run is doing (the child runs, is being stopped, or is waited for) and what each event
//! means there. It promises that one event gives one [`Turn`]: sentences to say and one [`Action`];
//! that a child is started only when nothing is left of the last one; and that nothing here blocks.
//! It decides and does not act: no process, no clock, no thread is touched. Which token is good is
//! `tokens/policy.rs`'s to say; signals and graces are the job's.

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
use std::time::{Duration, Instant, SystemTime};
use waiting::{Held, Question, Reported, Waiting};

/// Signals to end that come so soon after each other are one: timeout(1) signals its command and then
/// its group, systemd sends a scope SIGTERM and SIGHUP, and a terminal that closes SIGHUP twice.
const TWINS: Duration = Duration::from_millis(300);
/// No updater takes longer to replace a program.
const LONGEST_UPDATE: Duration = Duration::from_secs(300);
/// A start that dies within this time is a short life.
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// So many short lives in a row end the run: a command that cannot start must not be tried all night.
const SHORT_LIVES: u32 = 3;
/// Least time from one start to the next after a failure, so that a command which fails at once does
/// not keep the machine busy.
const BETWEEN_STARTS: Duration = Duration::from_secs(1);
/// How long a failed child is held for a provider that has not answered once in this run.
/// An outage is waited for; a provider that was never there is more likely a wrong address.
const NEVER_HEARD: Duration = Duration::from_secs(60);
/// When that has come to its end at the latest: the tries are 5, 10, 20 and 40 s apart
/// (`backoff`), and a provider that is silent takes 15 s (`monitor.rs`) to be that.
const LAST_TRY: Duration = Duration::from_secs(90);
/// A failure so soon after a pause for a limit is blamed on the limit.
const AFTER_A_PAUSE: Duration = Duration::from_secs(60);
/// A client that has told its failure has this long to end by itself before it is ended: its last
/// words are worth having, and one that waits for a person never ends.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A child that lived this long has recovered from what troubled the last one.
const RECOVERED: Duration = Duration::from_secs(120);
/// Checks take at most a hundredth of a limit for hours or days, and of one per minute a request or two.
const MORE_THAN_CHECKS: f64 = 0.1;
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

/// A pool, and what the session remembers about it.
#[derive(Debug)]
struct Ring {
    pool: TokenPool,
    /// Nobody can ask about its tokens: its monitor is gone.
    blind: bool,
    /// Whether the command is known to use its provider: it is the only one, the user has named it, the
    /// command's own, or requests were seen. Tokens that merely lie in the environment stop no command.
    in_use: bool,
    /// The least that its token in use was seen to have used since the child's last start.
    least_used: Option<f64>,
    /// Whether one of its tokens was found to be accepted, in this run or as the state says.
    worked: bool,
    /// Whether the child's next start is its first with another token.
    switched: bool,
    /// The user said to keep going near this limit.
    keep_going: bool,
    /// How much of its fullest window of a minute the token in use had used when the child was last
    /// started, and when it last ended.
    used_at_start: Option<f64>,
    used_at_end: Option<f64>,
    said_silent: bool,
    said_unclear: bool,
    said_quotas: bool,
    said_aside: bool,
}

impl Ring {
    /// Whether waiting does not help its token in use.
    /// Whether a token of it was found to be accepted.
    fn is_accepted(&self, now: Now) -> bool {
        let condition = |index| self.pool.state(index).condition(now);
        (0..self.pool.len()).any(|index| condition(index).is_accepted())
    }

    fn is_near_limit(&self, now: Now) -> bool {
        let state = self.pool.state(self.pool.current_index());
        matches!(state.condition(now), Condition::NearLimit { .. })
    }

    fn is_hopeless(&self, now: Now) -> bool {
        let current = self.pool.state(self.pool.current_index());
        matches!(
            current.condition(now),
            Condition::Rejected | Condition::SpendCapped { .. } | Condition::Removed
        )
    }

    /// Looks at how much its token in use has used while the child runs: if that rises by more than checks
    /// cause, the child uses it.
    fn watch(&mut self, reading: &Reading) {
        let Some(used) = reading.usage.binding().map(|window| window.utilization) else {
            return;
        };
        let least = self.least_used.map_or(used, |least| least.min(used));
        self.least_used = Some(least);
        self.in_use |= used > least + MORE_THAN_CHECKS;
    }

    /// How much of its fullest window of a minute the token in use had used at its last check.
    fn used_of_minute(&self) -> Option<f64> {
        let current = self.pool.state(self.pool.current_index());
        current.used_of_minute()
    }
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
    rings: Vec<Ring>,
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
            .map(|pool| Ring {
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
                    say.push(RunEvent::StartsWith { token });
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
            Event::Warning(what) => Turn::nothing().and_say(RunEvent::Warning { what }),
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
            JobEvent::Warning(what) => Turn::nothing().and_say(RunEvent::Warning { what }),
        }
    }

    fn on_exit(&mut self, how: ExitStatus, asked: bool, now: Now) -> Turn {
        match &mut self.phase {
            // It ended by itself before the order to stop reached it.
            Phase::Stopping {
                then: AfterStop::Restart,
                ..
            } if !asked => self.on_own_end(how, now),
            Phase::Running { .. } => self.on_own_end(how, now),
            Phase::Stopping {
                how: ended, signal, ..
            } => {
                *ended = Some(how);
                match asked {
                    true => Turn::nothing(),
                    // What it has started was not told.
                    false => Turn::action(Action::Stop(*signal)),
                }
            }
            // It could not go on with what it was paused for.
            Phase::Waiting(Waiting {
                held: Held::Paused { .. },
                ..
            }) if how != ExitStatus::Code(0) && !how.is_deliberate() => {
                self.fail(how, true, Reported::All, now)
            }
            Phase::Waiting(_) => self.finish(how),
        }
    }

    /// The child and all that it had started are gone.
    fn after_stop(&mut self, then: AfterStop, how: ExitStatus, now: Now) -> Turn {
        match then {
            AfterStop::Restart => self.launch(true, now),
            AfterStop::Recover => self.fail(how, true, Reported::Cause, now),
            AfterStop::EndAsChild => Turn::action(Action::Exit(Outcome::AsChild(how))),
            AfterStop::End(outcome) => Turn::action(Action::Exit(outcome)),
        }
    }

    /// Nothing is started beside what cannot be killed: two of a kind at work on one session would be
    /// worse than none. Whoever wants to leave can.
    fn on_unkillable(&mut self, left: usize, now: Now) -> Turn {
        let notice = RunEvent::Unkillable { left };
        match self.phase {
            Phase::Stopping {
                then,
                how: Some(how),
                ..
            } if then != AfterStop::Restart => {
                self.after_stop(then, how, now).and_say_first(notice)
            }
            _ => Turn::nothing().and_say(notice),
        }
    }

    /// The next child could not be started: the system is short of something, for now.
    /// `how` says that the program cannot be executed, as an exit status. While an updater replaces it,
    /// it is gone, busy or half written for some seconds; after some minutes it is more than that.
    fn on_not_started(&mut self, why: String, how: Option<ExitStatus>, now: Now) -> Turn {
        let first = self.failing_since.is_none();
        let since = *self.failing_since.get_or_insert(now.tick);
        if let Some(how) = how
            && now.tick.saturating_duration_since(since) > LONGEST_UPDATE
        {
            return self.finish(how);
        }
        let held = Held::Ended {
            how: ExitStatus::Code(OWN_FAILURE),
            blamed: true,
            reported: Reported::All,
        };
        self.phase = Phase::Waiting(Waiting {
            wake: Some(Until::after(backoff(0), now)),
            ..Waiting::new(held, now)
        });
        self.ready_at = now.tick + backoff(0);
        match first {
            true => Turn::nothing().and_say(RunEvent::NotStarted { why }),
            false => Turn::nothing(),
        }
    }

    fn on_own_end(&mut self, how: ExitStatus, now: Now) -> Turn {
        // A SIGKILL may have come from the kernel, for want of memory: --retries is for that, too.
        let may_retry = how.is_kill() && self.retries < self.rules.retries;
        if how.is_deliberate() && !may_retry {
            return self.finish(how);
        }
        // It has said why, also when its status does not.
        if self.idle(now).is_some() {
            return self.fail(how, true, Reported::Nothing, now);
        }
        if how == ExitStatus::Code(0) && !self.rules.checks_exit_zero {
            return self.finish(how);
        }
        for ring in &mut self.rings {
            ring.used_at_end = ring.used_of_minute();
        }
        if now.tick.saturating_duration_since(self.last_start) < SHORT_LIFE {
            self.short_lives += 1;
        } else {
            self.short_lives = 0;
            self.has_lived = true;
        }
        if self.short_lives >= self.most_short_lives() {
            return self.finish(how).and_say_first(RunEvent::ShortLives);
        }
        // A client that was paused in the middle of its own refusal gives up when it goes on.
        let resumed = self.resumed.take();
        let blamed =
            resumed.is_some_and(|at| now.tick.saturating_duration_since(at) < AFTER_A_PAUSE);
        let reported = match blamed {
            true => Reported::All,
            false => Reported::Nothing,
        };
        self.fail(how, blamed, reported, now)
    }

    /// How many short lives in a row end the run. A client that is refused may give up at once: where that
    /// may be the cause, each token is tried, and a command that could be started before is waited for.
    fn most_short_lives(&self) -> u32 {
        let is_suspect = |ring: &&Ring| policy::may_refuse(ring.used_at_end);
        let suspects = self.rings.iter().filter(is_suspect);
        match suspects.map(|ring| ring.pool.len()).max() {
            Some(_) if self.has_lived => u32::MAX,
            Some(tokens) => SHORT_LIVES.max(u32::try_from(tokens).unwrap_or(u32::MAX)),
            None => SHORT_LIVES,
        }
    }

    /// The child has failed; what its token and provider say now decides.
    fn fail(&mut self, how: ExitStatus, blamed: bool, reported: Reported, now: Now) -> Turn {
        let held = Held::Ended {
            how,
            blamed,
            reported,
        };
        self.phase = Phase::Waiting(Waiting {
            asks: self.rules.interactive,
            ..Waiting::new(held, now)
        });
        // To keep going has not gone well.
        for ring in &mut self.rings {
            ring.keep_going = false;
        }
        let turn = self.apply_decision(now);
        match reported {
            Reported::All => turn.and_say_first(RunEvent::Failed { how }),
            _ => turn,
        }
    }

    // ---- findings ----

    fn on_answer(&mut self, token: TokenId, answer: &Answer, now: Now) -> Turn {
        self.asking
            .retain(|(asked, put)| *asked != token || answer.asked < *put);
        let several = self.rings.len() > 1;
        let Some(ring) = self.rings.get_mut(token.ring) else {
            return Turn::nothing();
        };
        let is_first = !ring.pool.state(token.index).was_rejected();
        // The proxy has taken it in already.
        if self.proxied.is_none() {
            policy::record(&mut ring.pool, token.index, answer, &self.rules, now);
            let may_tell = match self.phase {
                Phase::Waiting(waiting) => matches!(waiting.held, Held::Ended { .. }),
                Phase::Running { .. } => true,
                Phase::Stopping { .. } => false,
            };
            if let Ok(reading) = &answer.reading
                && may_tell
                && token.index == ring.pool.current_index()
                && answer.asked >= self.last_start
                && matches!(reading.finding, Finding::Served)
            {
                ring.watch(reading);
            }
        }
        let state = ring.pool.state(token.index);
        let condition = state.condition(now);
        ring.worked |= condition.is_accepted();
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
        let name = TokenRef::new(&ring.pool, token, several);
        let provider = name.provider;
        say.push(RunEvent::Checked {
            token: name,
            reading: answer.reading.clone(),
        });
        let finding = answer.reading.as_ref().map(|reading| &reading.finding);
        if let (Ok(Finding::Unclear { why }), false) = (finding, ring.said_unclear) {
            ring.said_unclear = true;
            say.push(RunEvent::Unclear {
                provider,
                why: why.to_string(),
            });
        }
        // Of the token in use it is said when it is left.
        let is_rejected = matches!(finding, Ok(Finding::Rejected))
            && self.proxied.is_none()
            && !(is_current && ring.in_use);
        match (state.silence(), ring.said_silent) {
            (Some((silence, _)), false) if !is_rejected => {
                ring.said_silent = true;
                say.push(RunEvent::silent(name, silence, &answer.reading));
            }
            (None, true) => {
                ring.said_silent = false;
                say.push(RunEvent::AnswersAgain { provider });
            }
            _ => {}
        }
        if self.proxied.is_none() {
            say.extend(RunEvent::quotas(&ring.pool, &mut ring.said_quotas));
        }
        if is_current {
            say.extend(self.set_aside(token.ring, now));
        }
        let mut turn = self.apply_decision(now);
        say.append(&mut turn.events);
        let is_told =
            |event: &RunEvent| matches!(event, RunEvent::Limit { token: of, .. } if of.id == token);
        if is_rejected && is_first && !say.iter().any(is_told) {
            let reading = answer.reading.as_ref().ok();
            let said = reading.and_then(|reading| reading.said.clone());
            say.push(RunEvent::Rejected { token: name, said });
        }
        Turn {
            events: say,
            ..turn
        }
    }

    /// What follows from a notice of the proxy's.
    fn on_notice(&mut self, notice: &RunEvent, now: Now) -> Turn {
        match notice {
            RunEvent::MaxTokens { .. } => self.stop_for_later(),
            // The user may have to be asked.
            RunEvent::Limit { .. } if self.rules.interactive => self.apply_decision(now),
            // There may be a new token.
            _ if self.has_token_files && notice.lacks_token() => self.apply_decision(now),
            _ => Turn::nothing(),
        }
    }

    /// Whether the proxy holds what the child asks for, because no token is good for it.
    fn is_short_of_tokens(&self, now: Now) -> bool {
        let ledger = self
            .proxied
            .as_ref()
            .and_then(|proxied| proxied.ledger.as_ref());
        let mut rings = 0..ledger.map_or(0, Ledger::len);
        rings.any(|ring| ledger.is_some_and(|known| known.outlook(ring, now) != Outlook::Usable))
    }

    /// What goes before a wait or an end for want of a good token: a look at the token files, unless they were
    /// just looked at.
    fn reread_first(&self, now: Now) -> Option<Turn> {
        let ago = self.reread.map(|at| now.tick.saturating_duration_since(at));
        let is_due = ago.is_none_or(|ago| ago >= BETWEEN_READS);
        (self.has_token_files && is_due).then(|| Turn::action(Action::Reread))
    }

    /// The token files were read again.
    fn on_tokens(&mut self, renewals: &[(usize, Renewal)], now: Now) -> Turn {
        self.reread = Some(now.tick);
        // The proxy has taken it in already.
        if self.proxied.is_none() {
            for (ring, renewal) in renewals {
                if let Some(ring) = self.rings.get_mut(*ring) {
                    ring.pool.renew(renewal);
                }
            }
        }
        let pool = |ring: usize| self.rings.get(ring).map(|ring| &ring.pool);
        let news = RunEvent::tokens_changed(renewals, pool, self.rings.len() > 1);
        let mut turn = self.apply_decision(now);
        turn.events.splice(..0, news);
        turn
    }

    /// Says once that a ring is out of the question, if the child is not to end for it.
    fn set_aside(&mut self, ring: usize, now: Now) -> Vec<RunEvent> {
        if self.may_live_on(ring, now) {
            return Vec::new();
        }
        let why = self.reason(ring, now);
        let Some(own) = self.rings.get_mut(ring) else {
            return Vec::new();
        };
        let provider = own.pool.current().provider;
        if !own.is_hopeless(now) || std::mem::replace(&mut own.said_aside, true) {
            return Vec::new();
        }
        vec![why, RunEvent::SetAside { provider }]
    }

    /// The child's turn has failed for want of a provider. Some clients end on that; others wait
    /// for a person to type, and have to be started again.
    fn on_hook(&mut self, hook: &HookEvent, now: Now) -> Turn {
        let HookEvent { provider, trouble } = *hook;
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
            return Turn::nothing();
        };
        let is_there = match self.phase {
            Phase::Running { .. } => true,
            Phase::Waiting(waiting) => waiting.is_paused(),
            Phase::Stopping { .. } => false,
        };
        if !is_there {
            return Turn::nothing();
        }
        let lived = now.tick.saturating_duration_since(self.last_start);
        let resumed = self
            .resumed
            .map(|at| now.tick.saturating_duration_since(at));
        let worked = resumed.map_or(lived, |resumed| resumed.min(lived));
        // The proxy sees for itself what the child's requests meet.
        if self.proxied.is_none() {
            policy::tell(&mut ring.pool, trouble, worked, now);
        }
        if trouble == Trouble::Overloaded {
            self.troubles = if lived > RECOVERED {
                0
            } else {
                self.troubles.saturating_add(1)
            };
            self.ready_at = now.tick + backoff(self.troubles);
        }
        self.gave_up = Some((now.tick, trouble));
        ring.in_use = true;
        let index = ring.pool.current_index();
        let mut turn = self.apply_decision(now);
        // When a limit ends, or whether it is the token, a probe can tell; a busy provider is left
        // alone for a while.
        if trouble != Trouble::Overloaded && turn.action == Action::Nothing {
            turn.action = self.probe(TokenId { ring: place, index }, now).action;
        }
        turn
    }

    /// Since when and why the child has been idle, if a restart would mend it. Of what it says about
    /// its account, a probe is the judge.
    fn idle(&self, now: Now) -> Option<(Instant, Trouble)> {
        let (since, trouble) = self.gave_up?;
        let condemned = || {
            self.rings.iter().any(|ring| {
                let state = ring.pool.state(ring.pool.current_index());
                let doubtful = matches!(state.silence(), Some((ProbeFailure::Doubtful, _)));
                let condition = state.condition(now);
                doubtful || !matches!(condition, Condition::Unknown | Condition::Usable)
            })
        };
        (trouble != Trouble::Account || condemned()).then_some((since, trouble))
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
                turn.events.push(RunEvent::Switched { token });
            }
        }
        turn.and_say(RunEvent::Launched { again })
    }

    /// Ends the child with this signal.
    fn stop(&mut self, signal: Signal, then: AfterStop) -> Turn {
        self.phase = Phase::Stopping {
            signal,
            then,
            how: None,
        };
        Turn::action(Action::Stop(signal)).and_say(RunEvent::Stopping)
    }

    fn give_up(&mut self, ring: usize, decision: Decision, now: Now) -> Turn {
        let why = match (decision, self.token(ring, None)) {
            (Decision::ExceedsMaxWait { until, index }, _) => RunEvent::TooLong {
                index,
                at: until.wall,
                now: now.wall,
            },
            (_, Some(token)) => RunEvent::NoneLeft {
                provider: token.provider,
            },
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

    fn finish(&self, how: ExitStatus) -> Turn {
        let turn = Turn::action(Action::Exit(Outcome::AsChild(how)));
        match how {
            ExitStatus::Code(0) => turn.and_say(RunEvent::Completed),
            // The reader of its output has read enough: shells do not mention that either.
            ExitStatus::Signal(signal) if signal == Signal::SIGPIPE as i32 => turn,
            how => turn.and_say(RunEvent::Failed { how }),
        }
    }

    // ---- rings ----

    /// When the token in use is said to be usable again.
    fn end_of_limit(&self, ring: usize, now: Now) -> Option<Until> {
        let pool = &self.rings.get(ring)?.pool;
        pool.state(pool.current_index()).condition(now).until()
    }

    /// The decision that counts over all rings, and its ring. A child needs a usable token of
    /// each ring that it lives on, so the one that is worst off speaks. As long as it is not known to live
    /// on any, it is started as soon as one has such a token.
    fn consult(&self, held: Suspension, now: Now) -> (usize, Decision) {
        let known = self.rings.iter().any(|ring| ring.in_use);
        let found = match held {
            Suspension::Unstarted { .. } if !known => self
                .decisions(false, held, now)
                .min_by_key(|(_, decision)| unreadiness(*decision)),
            _ => self
                .decisions(true, held, now)
                .max_by_key(|(i, decision)| (urgency(*decision, held), std::cmp::Reverse(*i))),
        };
        found.unwrap_or((0, Decision::Keep))
    }

    /// What to do about each ring that the child is known to use, or about each other one.
    fn decisions(
        &self,
        in_use: bool,
        held: Suspension,
        now: Now,
    ) -> impl Iterator<Item = (usize, Decision)> {
        let obeys = move |ring: &Ring| {
            ring.keep_going && matches!(held, Suspension::No | Suspension::Ended { .. })
        };
        self.rings
            .iter()
            .enumerate()
            .filter(move |(i, ring)| {
                let is_asked_for = !in_use || self.may_live_on(*i, now);
                ring.in_use == in_use && !ring.blind && is_asked_for && !obeys(ring)
            })
            .map(move |(i, _)| (i, self.decide(i, held, now)))
    }

    /// What to do about one ring.
    fn decide(&self, ring: usize, held: Suspension, now: Now) -> Decision {
        let proxied = self.proxied.as_ref();
        match proxied.and_then(|proxied| Some((proxied.ledger.as_ref()?, proxied.hold))) {
            Some((ledger, hold)) => ledger.decide(ring, &self.rules, held, hold, now),
            None => self.rings.get(ring).map_or(Decision::Keep, |ring| {
                policy::decide(&ring.pool, &self.rules, held, now)
            }),
        }
    }

    /// Whether the child may live on this ring: one of its tokens has worked, or no other ring is
    /// or may turn out to be what it lives on. A token that lies around in the environment must
    /// not end a command that uses another provider.
    fn may_live_on(&self, ring: usize, now: Now) -> bool {
        let is_unasked = |ring: &Ring| ring.pool.state(ring.pool.current_index()).is_unasked();
        let Some(own) = self.rings.get(ring) else {
            return false;
        };
        own.worked
            || self.rings.iter().enumerate().all(|(i, other)| {
                let used = other.worked || (!other.blind && is_unasked(other));
                // Giving up is for when nothing else can carry the child.
                let carries = other.blind || !other.is_hopeless(now);
                i == ring || !(used || own.is_hopeless(now) && carries)
            })
    }

    fn switch(&mut self, ring: usize, index: usize) {
        self.on_failure = None;
        if let Some(ring) = self.rings.get_mut(ring) {
            ring.pool.next(index);
            ring.switched = true;
        }
    }

    // ---- words ----

    /// A ring's token in use, or another one of it, as it is told of; `None`: there is no such ring.
    pub(crate) fn token(&self, ring: usize, index: Option<usize>) -> Option<TokenRef> {
        let pool = &self.rings.get(ring)?.pool;
        let index = index.unwrap_or(pool.current_index());
        let id = TokenId { ring, index };
        Some(TokenRef::new(pool, id, self.rings.len() > 1))
    }

    /// Why the token in use will not do.
    fn reason(&self, ring: usize, now: Now) -> RunEvent {
        let (Some(token), Some(ring)) = (self.token(ring, None), self.rings.get(ring)) else {
            return RunEvent::AllExhausted;
        };
        let state = ring.pool.state(token.id.index);
        let condition = state.condition(now);
        let limit = Limit::of(condition, state.used());
        if let (Limit::Reached, Some((silence, _))) = (limit, state.silence()) {
            return RunEvent::Silent {
                provider: token.provider,
                silence,
                why: None,
            };
        }
        let until = condition.until().map(|until| until.wall);
        RunEvent::limit(token, limit, state, until)
    }
}

/// Whether nothing goes on because no token is good.
fn is_for_want_of_a_token(decision: Decision) -> bool {
    matches!(
        decision,
        Decision::Wait { .. } | Decision::ExceedsMaxWait { .. } | Decision::NoUsableToken
    )
}

/// Which of several rings' decisions goes first. A running child is stopped before anything is
/// asked on behalf of another ring; a held one is not let go while anything is open.
fn urgency(decision: Decision, held: Suspension) -> u8 {
    let runs = matches!(held, Suspension::No);
    match decision {
        Decision::NoUsableToken | Decision::ExceedsMaxWait { .. } => 6,
        Decision::Wait { .. } if runs => 5,
        Decision::Probe { .. } => 4,
        Decision::Rotate { .. } if runs => 3,
        Decision::Wait { .. } => 3,
        Decision::Rotate { .. } => 2,
        Decision::KeepUntil { .. } => 1,
        Decision::Keep => 0,
    }
}

/// Which of several rings can have the command started first: the least of these, and the earliest.
fn unreadiness(decision: Decision) -> (u8, Option<SystemTime>) {
    match decision {
        Decision::Keep | Decision::KeepUntil { .. } => (0, None),
        Decision::Rotate { .. } => (1, None),
        Decision::Probe { .. } => (2, None),
        Decision::Wait { until, .. } => (3, Some(until.wall)),
        Decision::ExceedsMaxWait { until, .. } => (4, Some(until.wall)),
        Decision::NoUsableToken => (5, None),
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
