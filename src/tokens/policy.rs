//! What decides: the facts of a ring of tokens in, one decision out (DESIGN §3).
//!
//! Owns the conditions of tokens, how a probe's answer becomes one, and the table that says
//! whether to go on, ask, rotate, wait or give up. It promises never to act, never to read a clock
//! (`now` is handed in), never to condemn a token for a failed probe, and to name as the next token
//! only one that has answered since it was needed. It knows nothing of processes.

use crate::common::time::{Now, SHORTEST_REST, Until};
use crate::providers::usage::Usage;
use crate::providers::{Finding, Reading};
use crate::tokens::TokenPool;
use std::time::{Duration, Instant, SystemTime};

/// A reset that is missing or already past says nothing, and counts as this far ahead (DESIGN §3).
const UNKNOWN_RESET: Duration = Duration::from_secs(60);
/// A token that was left is a candidate again only this far below the threshold (DESIGN §3).
const HYSTERESIS: f64 = 0.10;
/// First pause after a question without an answer; doubles up to [`LONGEST_BACKOFF`] (DESIGN §3).
const FIRST_BACKOFF: Duration = Duration::from_secs(5);
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// Tokens that fail together are not believed to be revoked before each was refused so often in a
/// row: with [`backoff`] in between about ten minutes, longer than most troubles of a provider with
/// its own authentication, and soon enough for somebody who did revoke them all.
const BELIEVED_AFTER: u32 = 8;
/// The same where none of its provider's was accepted in this run: 15 seconds, because wrong tokens are
/// then the likelier cause.
const BELIEVED_AFTER_IF_NEW: u32 = 3;
/// A limit that only the child tells counts as [`UNKNOWN_RESET`] at first, and as twice as long each
/// time that it turns out to last, up to this: a night is not burnt in restarts, and not much of it is
/// lost when the limit ends.
const LONGEST_TOLD: Duration = Duration::from_secs(15 * 60);
/// A child that has worked so long before it tells of a limit tells of a new one. Longer than a client
/// goes on trying by itself before it tells (184 s: facts/providers.md §4.1).
const HAS_WORKED: Duration = Duration::from_secs(5 * 60);

/// What a turn failed with, as far as it concerns ddollar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// A limit.
    Limited,
    /// The provider is overloaded.
    Overloaded,
    /// The token or its account: a probe says more.
    Account,
}

/// What we know of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Condition {
    /// Nothing, or nothing that still holds.
    Unknown,
    /// It can be used.
    Usable,
    /// A window is fuller than the threshold.
    NearLimit { until: Until },
    /// Requests are refused until then.
    Limited { until: Until },
    /// A spend cap holds, until then if the provider says when.
    SpendCapped { until: Option<Until> },
    /// The provider does not accept it.
    Rejected,
}

impl Condition {
    /// When it ends, if that is known.
    pub(crate) fn until(self) -> Option<Until> {
        match self {
            Condition::NearLimit { until } | Condition::Limited { until } => Some(until),
            Condition::SpendCapped { until } => until,
            Condition::Unknown | Condition::Usable | Condition::Rejected => None,
        }
    }
}

/// Why a question got no verdict on the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeFailure {
    /// The provider answers, but is overloaded or broken (529, 5xx).
    Overloaded,
    /// The provider cannot be reached.
    OutOfReach,
    /// The provider rejects a token that it has accepted before.
    Doubtful,
}

/// How the last question ended, and when it was put.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Last {
    Never,
    /// The answer gave a condition.
    Verdict(Instant),
    /// An answer that says nothing about the token, such as "no such model".
    Unclear(Instant),
    /// No verdict, `times` in a row; not worth asking again before `retry`.
    Silent {
        asked: Instant,
        kind: ProbeFailure,
        times: u32,
        retry: Instant,
    },
}

/// Rejections of one token, one after the other.
#[derive(Clone, Copy, Debug)]
struct Refused {
    /// When the question was put that got the first.
    first: Instant,
    times: u32,
    /// Whether one of them named an organization: then the provider knows whom it refuses.
    named: bool,
}

/// A limit that the child has told.
#[derive(Clone, Copy, Debug)]
struct ReportedLimit {
    /// How long it counts: from [`UNKNOWN_RESET`] to [`LONGEST_TOLD`].
    span: Duration,
    until: Until,
}

impl ReportedLimit {
    /// The child tells of a limit, after it may have told of one before.
    fn again(before: Option<ReportedLimit>, now: Now) -> ReportedLimit {
        let span = match before {
            // It says so for each of its agents.
            Some(told) if !told.until.is_over(now) => return told,
            Some(told) => (told.span * 2).min(LONGEST_TOLD),
            None => UNKNOWN_RESET,
        };
        let until = Until::after(span, now);
        ReportedLimit { span, until }
    }
}

/// All that is known of one token.
#[derive(Clone, Debug)]
pub(crate) struct TokenState {
    condition: Condition,
    /// When this run found that condition, on the wall clock; `None`: it did not.
    seen: Option<SystemTime>,
    /// Utilization of its fullest window at the last answer; 1.0 is spent.
    used: Option<f64>,
    last: Last,
    /// Since when its condition has been one to leave it for.
    bad_since: Option<Instant>,
    /// Whether it was left for another token and has not been usable since.
    left: bool,
    /// How often in a row it was refused when it should have been usable again; each time, the next
    /// question waits longer.
    refusals: u32,
    /// The child was refused with it, which holds for its time although a probe is served.
    told: Option<ReportedLimit>,
    /// When the question was put that last showed that the provider knows it.
    accepted: Option<Instant>,
    /// The rejections since then.
    refused: Option<Refused>,
    /// The quota group that it draws on, as far as known.
    group: Option<String>,
    /// Whether the group is the user's own label, which headers do not change.
    labelled: bool,
}

/// The answer to one question, as the monitor brings it.
#[derive(Debug)]
pub(crate) struct Answer {
    /// When the request was sent.
    pub(crate) asked: Instant,
    /// What came back, or why nothing did, in a few words without any token.
    pub(crate) reading: Result<Reading, String>,
}

/// The numbers that the user can change.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Utilization above which a token is left: 0.0 to 1.0.
    pub(crate) threshold: f64,
    /// A window that resets sooner than this is not worth a rotation.
    pub(crate) patience: Duration,
    /// Longest wait that is still worth it.
    pub(crate) max_wait: Option<Duration>,
    /// How often a child that failed for reasons of its own is started again.
    pub(crate) retries: u32,
    /// Whether the user is asked before a rotation or a wait.
    pub(crate) interactive: bool,
    /// From SIGTERM to SIGKILL.
    pub(crate) grace: Duration,
    /// Each wait ends so much later than it is said to, so that many ddollars do not ask in the same
    /// instant.
    pub(crate) jitter: Duration,
}

/// What the child is doing while the table is consulted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Suspension {
    /// It runs.
    No,
    /// It is paused, since then.
    Paused { since: Now },
    /// It has ended with a failure, then.
    Ended { since: Now },
    /// It has not been started: every token was known to be spent, then.
    Unstarted { since: Now },
}

impl Suspension {
    fn since(self) -> Option<Now> {
        match self {
            Suspension::No => None,
            Suspension::Paused { since }
            | Suspension::Ended { since }
            | Suspension::Unstarted { since } => Some(since),
        }
    }
}

/// The answer of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "a decision that is not carried out is a limit that is run into"]
pub(crate) enum Decision {
    /// The token in use will do.
    Keep,
    /// It will have to do; decide again then.
    KeepUntil { retry: Until },
    /// Ask this token before anything else.
    Probe { index: usize },
    /// Go on with this token.
    Rotate { index: usize },
    /// Nothing is usable before then. `index` is the token that resets first; `None` when the
    /// wait is for a provider that does not answer.
    Wait { until: Until, index: Option<usize> },
    /// No token of this ring can recover.
    NoUsableToken,
    /// The earliest reset is beyond `--max-wait`.
    ExceedsMaxWait { until: Until, index: Option<usize> },
}

/// A token as a candidate.
enum Candidate {
    Good,
    /// It has not been asked since it was needed.
    Unasked,
    /// A condition from an earlier answer says not before then.
    Resting(Until),
    /// It has been asked, and is not usable before then.
    Bad(Until),
    /// It will not recover by waiting.
    Hopeless,
    /// It was asked in vain.
    Silent(Instant),
    /// It was rejected, but so were others; not to be asked again before then.
    Doubtful(Instant),
    /// It answered something that says nothing about it, then.
    Unclear(Instant),
}

impl TokenState {
    /// A token of which nothing is known but the user's label for its quota.
    pub(crate) fn new(label: Option<String>) -> TokenState {
        TokenState {
            condition: Condition::Unknown,
            seen: None,
            used: None,
            last: Last::Never,
            bad_since: None,
            left: false,
            refusals: 0,
            told: None,
            accepted: None,
            refused: None,
            labelled: label.is_some(),
            group: label.map(|name| format!("group={name}")),
        }
    }

    /// Its condition at this moment: one whose end has come is no longer known.
    pub(crate) fn condition(&self, now: Now) -> Condition {
        match self.condition {
            Condition::NearLimit { until }
            | Condition::Limited { until }
            | Condition::SpendCapped { until: Some(until) }
                if until.is_over(now) =>
            {
                Condition::Unknown
            }
            condition => condition,
        }
    }

    /// Utilization of its fullest window at the last answer.
    pub(crate) fn used(&self) -> Option<f64> {
        self.used
    }

    /// When this run found its condition, on the wall clock; `None` when it did not.
    pub(crate) fn seen(&self) -> Option<SystemTime> {
        self.seen
    }

    /// The quota group that the provider named, not the user.
    pub(crate) fn named_group(&self) -> Option<&str> {
        self.group().filter(|_| !self.labelled)
    }

    /// Takes in what an earlier run, or another one, has learned about its quota group.
    pub(crate) fn recall_group(&mut self, group: &str) {
        if !self.labelled {
            self.group = Some(group.to_owned());
        }
    }

    /// Takes in a condition from such a run. It has not been asked in this one.
    pub(crate) fn recall(&mut self, condition: Condition, used: Option<f64>) {
        self.condition = condition;
        self.used = used;
    }

    /// The quota group that it draws on, if known.
    pub(crate) fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// Whether it has never been asked.
    pub(crate) fn is_unasked(&self) -> bool {
        self.last == Last::Never
    }

    /// Whether it has never been asked, and no earlier run knows it either.
    pub(crate) fn is_unknown(&self, now: Now) -> bool {
        self.is_unasked() && self.condition(now).until().is_none()
    }

    /// Why the last question got no verdict, and how many in a row; `None` when it got one.
    pub(crate) fn silence(&self) -> Option<(ProbeFailure, u32)> {
        match self.last {
            Last::Silent { kind, times, .. } => Some((kind, times)),
            Last::Never | Last::Verdict(_) | Last::Unclear(_) => None,
        }
    }

    /// It is left for another token.
    pub(crate) fn leave(&mut self) {
        self.left = true;
    }

    /// It is in use again.
    pub(crate) fn take_up(&mut self) {
        self.left = false;
        self.bad_since = None;
    }

    /// From now on candidates must answer anew, however recently they did.
    pub(crate) fn need_again(&mut self, now: Now) {
        self.bad_since = Some(now.tick);
    }

    /// Whether its last verdict was that of a token that is accepted.
    pub(crate) fn worked(&self) -> bool {
        matches!(
            self.condition,
            Condition::Usable | Condition::NearLimit { .. } | Condition::Limited { .. }
        )
    }

    /// Takes in an answer. Late ones, to questions put before the last one that is known, are
    /// ignored.
    pub(crate) fn record(&mut self, answer: &Answer, rules: &Rules, now: Now) {
        if self.asked().is_some_and(|asked| answer.asked < asked) {
            return;
        }
        let Ok(reading) = &answer.reading else {
            return self.record_failure(answer.asked, ProbeFailure::OutOfReach, None, now);
        };
        if !self.labelled && reading.quota_group.is_some() {
            self.group.clone_from(&reading.quota_group);
        }
        let threshold = if self.left {
            (rules.threshold - HYSTERESIS).max(rules.threshold / 2.0)
        } else {
            rules.threshold
        };
        let condition = match &reading.finding {
            Finding::Overloaded { retry_after } => {
                return self.record_failure(
                    answer.asked,
                    ProbeFailure::Overloaded,
                    *retry_after,
                    now,
                );
            }
            Finding::Unclear { .. } => {
                self.last = Last::Unclear(answer.asked);
                self.condition = self.condition(now);
                return;
            }
            Finding::Served => match (served(&reading.usage, threshold, now), self.told) {
                // The child asks for more than a probe does, and maybe for another model.
                (Condition::Usable, Some(told)) if !told.until.is_over(now) => {
                    Condition::Limited { until: told.until }
                }
                (condition, _) => condition,
            },
            Finding::Limited { retry_after } => {
                // Before the promised end of the last one, a refusal breaks no promise.
                if !matches!(self.condition(now), Condition::Limited { .. }) {
                    self.refusals = self.refusals.saturating_add(1);
                }
                Condition::Limited {
                    until: limited_until(&reading.usage, *retry_after, self.refusals, now),
                }
            }
            Finding::SpendCapped { until } => Condition::SpendCapped {
                until: until.map(|wall| Until::at(wall, now)),
            },
            Finding::Rejected => {
                let refused = self.refused.get_or_insert(Refused {
                    first: answer.asked,
                    times: 0,
                    named: false,
                });
                refused.times = refused.times.saturating_add(1);
                refused.named |= reading.quota_group.is_some();
                // Once may be the provider's own trouble.
                if refused.times == 1 && self.worked() {
                    return self.record_failure(answer.asked, ProbeFailure::Doubtful, None, now);
                }
                Condition::Rejected
            }
        };
        if condition != Condition::Rejected {
            self.accepted = Some(answer.asked);
            self.refused = None;
        }
        // A probe that sees the limit too knows more about it than the child's word says.
        self.told = self.told.filter(|told| {
            let until = told.until;
            condition == Condition::Usable || condition == Condition::Limited { until }
        });
        self.used = reading.usage.binding().map(|window| window.utilization);
        self.last = Last::Verdict(answer.asked);
        self.take_on(condition, answer.asked, now);
    }

    /// Takes in what the child says of the token in use.
    fn tell(&mut self, trouble: Trouble, now: Now) {
        match trouble {
            Trouble::Limited => {
                let told = ReportedLimit::again(self.told, now);
                self.told = Some(told);
                self.last = Last::Verdict(now.tick);
                if self.condition(now).until().is_none() {
                    let until = told.until;
                    self.take_on(Condition::Limited { until }, now.tick, now);
                }
            }
            Trouble::Overloaded => {
                self.record_failure(now.tick, ProbeFailure::Overloaded, None, now)
            }
            // Its cause may be elsewhere: a probe says whether it is the token.
            Trouble::Account => {}
        }
    }

    /// A token of the same quota group gave this verdict; it holds here too.
    fn share(&mut self, condition: Condition, asked: Instant, now: Now) {
        if self.asked().is_none_or(|own| own < asked) && self.condition != Condition::Rejected {
            self.take_on(condition, asked, now);
        }
    }

    fn take_on(&mut self, condition: Condition, asked: Instant, now: Now) {
        self.condition = condition;
        let ago = now.tick.saturating_duration_since(asked);
        self.seen = now.wall.checked_sub(ago);
        if matches!(condition, Condition::Unknown | Condition::Usable) {
            self.bad_since = None;
            self.left = false;
            self.refusals = 0;
        } else {
            self.bad_since.get_or_insert(asked);
        }
    }

    fn record_failure(
        &mut self,
        asked: Instant,
        kind: ProbeFailure,
        retry_after: Option<Duration>,
        now: Now,
    ) {
        let times = self.silence().map_or(0, |(_, times)| times);
        let pause = backoff(times).max(retry_after.unwrap_or_default().min(LONGEST_BACKOFF));
        self.last = Last::Silent {
            asked,
            kind,
            times: times.saturating_add(1),
            retry: now.tick + pause,
        };
    }

    /// Its last rejection is no verdict.
    fn doubt(&mut self, now: Now) {
        if let (Last::Verdict(asked), Some(refused)) = (self.last, self.refused) {
            self.last = Last::Silent {
                asked,
                kind: ProbeFailure::Doubtful,
                times: refused.times,
                retry: now.tick + backoff(refused.times.saturating_sub(1)),
            };
        }
    }

    fn asked(&self) -> Option<Instant> {
        match self.last {
            Last::Never => None,
            Last::Verdict(asked) | Last::Unclear(asked) | Last::Silent { asked, .. } => Some(asked),
        }
    }

    fn outlook(&self, since: Instant, now: Now) -> Candidate {
        let fresh = self.asked().is_some_and(|asked| asked >= since);
        match self.condition(now) {
            // Somebody may have mended it since an earlier run found this.
            Condition::Rejected | Condition::SpendCapped { until: None } if self.is_unasked() => {
                Candidate::Unasked
            }
            Condition::Rejected | Condition::SpendCapped { until: None } => Candidate::Hopeless,
            Condition::NearLimit { until }
            | Condition::Limited { until }
            | Condition::SpendCapped { until: Some(until) } => {
                if fresh {
                    Candidate::Bad(until)
                } else {
                    Candidate::Resting(until)
                }
            }
            condition => match self.last {
                Last::Silent { retry, .. } if now.tick < retry => Candidate::Silent(retry),
                Last::Unclear(asked) if fresh && now.tick < asked + UNKNOWN_RESET => {
                    Candidate::Unclear(asked)
                }
                Last::Verdict(_) if fresh && condition == Condition::Usable => Candidate::Good,
                _ => Candidate::Unasked,
            },
        }
    }
}

/// The pause after so many questions without an answer.
pub(crate) fn backoff(times: u32) -> Duration {
    FIRST_BACKOFF
        .saturating_mul(1 << times.min(10))
        .min(LONGEST_BACKOFF)
}

/// The condition of a token that the provider served: strictly above the threshold is near.
fn served(usage: &Usage, threshold: f64, now: Now) -> Condition {
    match usage.binding() {
        Some(window) if window.utilization > threshold => Condition::NearLimit {
            until: usage.resets_at_of_those_above(threshold).map_or_else(
                || Until::after(UNKNOWN_RESET, now),
                |wall| Until::at(wall, now),
            ),
        },
        _ => Condition::Usable,
    }
}

/// When a refused token is served again: `retry-after` beats the reset of the spent window. A
/// provider that keeps promising the next second is asked ever less often, down to once a minute.
fn limited_until(usage: &Usage, retry_after: Option<Duration>, refusals: u32, now: Now) -> Until {
    let longer = SHORTEST_REST
        .saturating_mul(1 << refusals.saturating_sub(1).min(6))
        .min(UNKNOWN_RESET);
    let shortest = if refusals > 2 { longer } else { SHORTEST_REST };
    let spent = || {
        usage
            .binding()
            .filter(|window| window.utilization >= 1.0)
            .and_then(|_| usage.resets_at_of_those_above(1.0 - f64::EPSILON))
    };
    match retry_after {
        Some(span) => Until::after(span.max(shortest), now),
        None => spent().map_or_else(
            || Until::after(UNKNOWN_RESET, now),
            |wall| Until::at(wall, now),
        ),
    }
}

/// Takes an answer into the pool: for the token that was asked, and for those of its quota group.
pub(crate) fn record(pool: &mut TokenPool, index: usize, answer: &Answer, rules: &Rules, now: Now) {
    pool.standing_mut(index).record(answer, rules, now);
    if is_in_doubt(pool, index) {
        pool.standing_mut(index).doubt(now);
    }
    share(pool, index, answer.asked, now);
}

/// Takes the child's own word for the token in use, which beats what a probe says. `worked` is how
/// long it has been at work without such a word, as far as is known.
pub(crate) fn tell(pool: &mut TokenPool, trouble: Trouble, worked: Duration, now: Now) {
    let index = pool.current_index();
    if worked >= HAS_WORKED {
        for index in 0..pool.len() {
            let state = pool.standing_mut(index);
            state.told = state.told.filter(|told| !told.until.is_over(now));
        }
    }
    pool.standing_mut(index).tell(trouble, now);
    share(pool, index, now.tick, now);
}

/// What an answer says of a quota holds for all tokens that draw on it.
fn share(pool: &mut TokenPool, index: usize, answered: Instant, now: Now) {
    let state = pool.state(index);
    let Last::Verdict(asked) = state.last else {
        return;
    };
    let condition = state.condition;
    if asked != answered || !is_of_the_group(condition) {
        return;
    }
    let Some(group) = state.group.clone() else {
        return;
    };
    for other in 0..pool.len() {
        if other != index && pool.state(other).group() == Some(&group) {
            pool.standing_mut(other).share(condition, asked, now);
        }
    }
}

/// Whether a rejection of this token may be the provider's own trouble and not the token's
/// (facts/peers.md T19): it named no organization, and no token of the same provider was accepted
/// since. Then the tokens fail together, and are held and asked again. A token that its provider
/// accepts shows that the others were refused for themselves; so do enough rejections in a row.
fn is_in_doubt(pool: &TokenPool, index: usize) -> bool {
    let accepted = |index: usize| {
        let provider = pool.token(index).provider;
        (0..pool.len())
            .filter(|other| std::ptr::eq(pool.token(*other).provider, provider))
            .filter_map(|other| pool.state(other).accepted)
            .max()
    };
    let together = |index: usize| {
        let refused = pool.state(index).refused?;
        let since_accepted = accepted(index).is_none_or(|at| refused.first > at);
        (since_accepted && !refused.named).then_some(refused)
    };
    let Some(own) = together(index) else {
        return false;
    };
    let believed_after = match accepted(index) {
        Some(_) => BELIEVED_AFTER,
        None if (0..pool.len()).filter_map(together).count() > 1 => BELIEVED_AFTER_IF_NEW,
        // One that never worked is most likely a slip of the user's.
        None => 1,
    };
    own.times < believed_after
}

/// What a token is as a candidate.
fn outlook(pool: &TokenPool, index: usize, since: Instant, now: Now) -> Candidate {
    let state = pool.state(index);
    let outlook = state.outlook(since, now);
    match (outlook, state.asked(), state.refused) {
        (Candidate::Hopeless, Some(asked), Some(refused)) if is_in_doubt(pool, index) => {
            let retry = asked + backoff(refused.times.saturating_sub(1));
            if now.tick < retry {
                Candidate::Doubtful(retry)
            } else {
                Candidate::Unasked
            }
        }
        (outlook, ..) => outlook,
    }
}

/// Whether a condition comes from the quota, which a group shares, and not from the token itself.
fn is_of_the_group(condition: Condition) -> bool {
    matches!(
        condition,
        Condition::NearLimit { .. } | Condition::Limited { .. } | Condition::SpendCapped { .. }
    )
}

/// The token to start with: the first of which nothing is known that a running child would be
/// taken from it for. `None`: every token is known to be spent or rejected.
pub(crate) fn first(pool: &TokenPool, rules: &Rules, now: Now) -> Option<usize> {
    let current = pool.current_index();
    let mut all = std::iter::once(current).chain(pool.peek());
    all.find(|index| will_do(pool.state(*index).condition(now), rules, now))
}

/// Whether a child may run with a token in this condition.
fn will_do(condition: Condition, rules: &Rules, now: Now) -> bool {
    match condition {
        Condition::Unknown | Condition::Usable => true,
        Condition::NearLimit { until } => until.remaining(now) <= rules.patience,
        Condition::Limited { .. } | Condition::SpendCapped { .. } | Condition::Rejected => false,
    }
}

/// DESIGN §3's table for one ring.
pub(crate) fn decide(pool: &TokenPool, rules: &Rules, held: Suspension, now: Now) -> Decision {
    let current = pool.current_index();
    let state = pool.state(current);
    let condition = state.condition(now);
    match held {
        Suspension::No if will_do(condition, rules, now) => return Decision::Keep,
        Suspension::No => {}
        // After a wait or a failure, only an answer of its own brings a token back.
        Suspension::Paused { since }
        | Suspension::Ended { since }
        | Suspension::Unstarted { since } => {
            match outlook(pool, current, since.tick, now) {
                Candidate::Good | Candidate::Unclear(_) => return Decision::Keep,
                Candidate::Unasked => return Decision::Probe { index: current },
                Candidate::Resting(_) if matches!(held, Suspension::Ended { .. }) => {
                    return Decision::Probe { index: current };
                }
                Candidate::Silent(retry) => return wait(None, Some(retry), rules, held, now),
                // Of those that failed together the one in use goes first: with it the child can stay.
                Candidate::Doubtful(_) if another_is_due(pool, since.tick, now) => {
                    return Decision::Probe { index: current };
                }
                // What a running child would be left to, a held one may go on with.
                Candidate::Bad(until)
                    if matches!(condition, Condition::NearLimit { .. })
                        && until.remaining(now) <= rules.patience =>
                {
                    return Decision::Keep;
                }
                Candidate::Resting(_)
                | Candidate::Bad(_)
                | Candidate::Doubtful(_)
                | Candidate::Hopeless => {}
            }
        }
    }

    if let Condition::Limited { until } = condition
        && until.remaining(now) <= rules.patience
    {
        return wait(Some((until, current)), None, rules, held, now);
    }
    // Candidates answer after the need arose: an answer from before it is not a pre-flight probe.
    let needed_since = match held {
        Suspension::Ended { since } | Suspension::Unstarted { since } => since.tick,
        Suspension::No | Suspension::Paused { .. } => state.bad_since.unwrap_or(now.tick),
    };
    look_for_another(pool, rules, held, needed_since, now)
}

/// Whether another token is to be asked again, and was asked later than the one in use.
fn another_is_due(pool: &TokenPool, since: Instant, now: Now) -> bool {
    let asked = pool.state(pool.current_index()).asked();
    pool.peek().any(|index| {
        matches!(outlook(pool, index, since, now), Candidate::Unasked)
            && pool.state(index).asked() > asked
    })
}

/// The token in use will not do: the first usable one in ring order, or a wait.
fn look_for_another(
    pool: &TokenPool,
    rules: &Rules,
    held: Suspension,
    needed_since: Instant,
    now: Now,
) -> Decision {
    let current = pool.current_index();
    let state = pool.state(current);
    let condition = state.condition(now);
    let same_quota = |index: usize| {
        is_of_the_group(condition)
            && state.group().is_some()
            && pool.state(index).group() == state.group()
    };
    let candidates = || {
        pool.peek()
            .filter(|index| !same_quota(*index))
            .map(|index| (index, outlook(pool, index, needed_since, now)))
    };

    for (index, outlook) in candidates() {
        match outlook {
            Candidate::Good => return Decision::Rotate { index },
            Candidate::Unasked => return Decision::Probe { index },
            _ => {}
        }
    }
    // A rest is a prediction: before a wait, each resting token is asked once. Before the first
    // start it was the run before this one that asked.
    for (index, outlook) in candidates() {
        if let (Candidate::Resting(_), false) =
            (&outlook, matches!(held, Suspension::Unstarted { .. }))
        {
            return Decision::Probe { index };
        }
    }

    let mut earliest: Option<(Until, usize)> = None;
    let mut retry: Option<Instant> = None;
    let mut unclear: Option<Instant> = None;
    for index in std::iter::once(current).chain(pool.peek()) {
        let outlook = outlook(pool, index, needed_since, now);
        if let Candidate::Bad(until) | Candidate::Resting(until) = outlook
            && earliest.is_none_or(|(first, _)| until.wall < first.wall)
        {
            earliest = Some((until, index));
        }
        let again = match outlook {
            Candidate::Silent(again) | Candidate::Doubtful(again) => Some(again),
            // Only the one in use can still be open here.
            Candidate::Unasked => Some(now.tick),
            _ => None,
        };
        retry = retry.into_iter().chain(again).min();
        if let Candidate::Unclear(asked) = outlook {
            unclear = Some(asked + UNKNOWN_RESET);
        }
    }
    // A token that says nothing about itself is no reason to expect anything sooner.
    if earliest.is_none() {
        retry = retry.or(unclear);
    }
    // An outage hides whether another token is usable. As long as the one in use still works,
    // that is no reason to stop the work.
    if let (Suspension::No, Condition::NearLimit { .. }, Some(retry)) = (held, condition, retry) {
        let ahead = retry.saturating_duration_since(now.tick);
        return Decision::KeepUntil {
            retry: Until::after(ahead.max(SHORTEST_REST), now),
        };
    }
    wait(earliest, retry, rules, held, now)
}

/// A wait for the earlier of a reset and the next try, unless `--max-wait` forbids it.
fn wait(
    reset: Option<(Until, usize)>,
    retry: Option<Instant>,
    rules: &Rules,
    held: Suspension,
    now: Now,
) -> Decision {
    let retry = retry.map(|at| {
        let ahead = at.saturating_duration_since(now.tick);
        Until::after(ahead.max(SHORTEST_REST), now)
    });
    let (until, index) = match (reset, retry) {
        (Some((reset, index)), Some(retry)) if reset.wall <= retry.wall => (reset, Some(index)),
        (_, Some(retry)) => (retry, None),
        (Some((reset, index)), None) => (reset, Some(index)),
        (None, None) => return Decision::NoUsableToken,
    };
    let began = held.since().unwrap_or(now);
    let waited = now.tick.saturating_duration_since(began.tick);
    match rules.max_wait {
        Some(longest) if waited + until.remaining(now) > longest => {
            Decision::ExceedsMaxWait { until, index }
        }
        _ => Decision::Wait { until, index },
    }
}

#[cfg(test)]
mod tests;
