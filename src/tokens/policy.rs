//! What decides: the facts of a ring of tokens in, one decision out.
//!
//! Owns the table that says whether to go on, ask, rotate, wait or give up, and what an answer about
//! one token says of the others. It promises never to act, never to read a clock (`now` is handed
//! in), and to name as the next token only one that has answered since it was needed. It knows
//! nothing of processes.

use super::condition::{Candidate, Condition, Trouble, UNKNOWN_RESET};
use crate::common::time::{Now, SHORTEST_REST, Until};
use crate::providers::Answer;
use crate::providers::schedule::backoff;
use crate::tokens::TokenPool;
use std::time::{Duration, Instant};

/// Tokens that fail together are not believed to be revoked before each was refused so often in a
/// row: with [`backoff`] in between about ten minutes, longer than most troubles of a provider with
/// its own authentication, and soon enough for somebody who did revoke them all.
const BELIEVED_AFTER: u32 = 8;
/// The same where none of its provider's was accepted in this run: 15 seconds, because wrong tokens are
/// then the likelier cause.
const BELIEVED_AFTER_IF_NEW: u32 = 3;
/// When tokens are looked at again in a wait, after its begin: so that one bad promise does not cost a
/// night, and few requests are made in vain. After the last one, each [`HOUR`].
const LOOKS: [Duration; 2] = [Duration::from_secs(15 * 60), Duration::from_secs(30 * 60)];
const HOUR: Duration = Duration::from_secs(60 * 60);
/// A limit that the child reports after it has worked for so long is a new one. Longer than a client
/// goes on trying by itself before it reports (Claude Code: 184 s).
const HAS_WORKED: Duration = Duration::from_secs(5 * 60);
/// Above this use of a window of a minute, a request may be refused: providers refuse what would go over
/// the limit, and an agent's request takes up to half of it.
const MAY_REFUSE: f64 = 0.5;

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
    /// Whether an exit with 0 may hide a failure, so that a check follows it.
    pub(crate) checks_exit_zero: bool,
    /// Whether the user is asked before a rotation or a wait.
    pub(crate) interactive: bool,
    /// From SIGTERM to SIGKILL.
    pub(crate) grace: Duration,
    /// Each wait ends later by this than it is said to, so that many runs do not ask in the same instant.
    pub(crate) jitter: Duration,
    /// The model to ask for when no token is good for another one.
    pub(crate) fallback: Option<String>,
    /// So many LLM tokens end the run.
    pub(crate) max_tokens: Option<u64>,
}

impl Rules {
    /// For those who start no command: it is neither asked for nor started again.
    pub(crate) fn without_command(threshold: f64, patience: Duration) -> Rules {
        Rules {
            threshold,
            patience,
            max_wait: None,
            retries: 0,
            checks_exit_zero: false,
            interactive: false,
            grace: Duration::ZERO,
            jitter: Duration::ZERO,
            fallback: None,
            max_tokens: None,
        }
    }
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

/// Takes an answer into the pool: for the token that was asked, and for those of its quota group.
pub(crate) fn record(pool: &mut TokenPool, index: usize, answer: &Answer, rules: &Rules, now: Now) {
    pool.standing_mut(index)
        .record(answer, rules.threshold, now);
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

/// Whether a request may have been refused where so much of a window of a minute was used.
pub(crate) fn may_refuse(used_of_minute: Option<f64>) -> bool {
    used_of_minute.is_some_and(|used| used > MAY_REFUSE)
}

/// The same of a check after the client has given up: it had tried again for some seconds, in which a
/// tenth of a minute's limit comes back.
pub(crate) fn may_have_refused(used_of_minute: Option<f64>) -> bool {
    may_refuse(used_of_minute.map(|used| used + 0.1))
}

/// Takes a failure of the child for a limit of the token in use that no check sees. `worked` is how long
/// the child had lived; where its token is `fuller` than at its start, its requests were served.
pub(crate) fn blame(pool: &mut TokenPool, worked: Duration, fuller: bool, now: Now) {
    let worked = if fuller { HAS_WORKED } else { worked };
    tell(pool, Trouble::Limited, worked, now);
}

/// What was found just now of a quota holds for all tokens that draw on it.
fn share(pool: &mut TokenPool, index: usize, asked: Instant, now: Now) {
    let state = pool.state(index);
    let condition = state.condition;
    if state.found != Some(asked) || !condition.is_of_the_group() {
        return;
    }
    if state.group().is_none() {
        return;
    }
    for other in 0..pool.len() {
        if other != index && pool.state(other).group() == pool.state(index).group() {
            pool.standing_mut(other).share(condition, asked, now);
        }
    }
}

/// Whether a rejection of this token may be the provider's own trouble and not the token's: it named no organization, and no token of the same provider was accepted
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
        (Candidate::Hopeless | Candidate::Condemned, Some(asked), Some(refused))
            if !state.removed && is_in_doubt(pool, index) =>
        {
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

/// The token to start with: among the tokens that nothing known would make a running child leave, the
/// one that the fewest other runs hold, and of these the first. `None`: every token is known to be spent
/// or rejected.
pub(crate) fn first(pool: &TokenPool, rules: &Rules, now: Now) -> Option<usize> {
    let current = pool.current_index();
    let all = std::iter::once(current).chain(pool.peek());
    all.filter(|index| will_do(pool.state(*index).condition(now), rules, now))
        .min_by_key(|index| pool.holders(*index))
}

/// Whether a child may run with a token in this condition.
fn will_do(condition: Condition, rules: &Rules, now: Now) -> bool {
    match condition {
        Condition::Unknown | Condition::Usable => true,
        Condition::NearLimit { until } => until.remaining(now) <= rules.patience,
        Condition::Limited { .. }
        | Condition::SpendCapped { .. }
        | Condition::Rejected
        | Condition::Removed => false,
    }
}

/// What to do about one ring.
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
                Candidate::Resting(_) | Candidate::Condemned
                    if matches!(
                        held,
                        Suspension::Ended { .. } | Suspension::Unstarted { .. }
                    ) =>
                {
                    return Decision::Probe { index: current };
                }
                Candidate::Silent(retry) => return wait(None, Some(retry), rules, held, now),
                // Of those that failed together the one in use goes first: with it the child can stay.
                Candidate::Doubtful(_) if another_is_due(pool, since.tick, now) => {
                    return Decision::Probe { index: current };
                }
                // A held child may go on with a token that a running one would keep.
                Candidate::Bad(until)
                    if matches!(condition, Condition::NearLimit { .. })
                        && until.remaining(now) <= rules.patience =>
                {
                    return Decision::Keep;
                }
                Candidate::Resting(_)
                | Candidate::Bad(_)
                | Candidate::Doubtful(_)
                | Candidate::Condemned
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

/// What to do about a failure of the child after which the token in use was refused for something that may
/// be the token's own or the question's: a model, say, that its organization does not have. Another token
/// that is served shows which, and is next. `None`: it was not refused so, or none is served.
pub(crate) fn witness(pool: &TokenPool, since: Instant, now: Now) -> Option<Decision> {
    let current = pool.current_index();
    let is_unclear = matches!(outlook(pool, current, since, now), Candidate::Unclear(_));
    // A token of another provider is asked for another model, and shows nothing.
    let provider = |index: usize| pool.token(index).provider;
    let is_alike = |index: &usize| std::ptr::eq(provider(*index), provider(current));
    let mut others = pool.peek().filter(|index| is_unclear && is_alike(index));
    others.find_map(|index| match outlook(pool, index, since, now) {
        Candidate::Good => Some(Decision::Rotate { index }),
        Candidate::Unasked => Some(Decision::Probe { index }),
        _ => None,
    })
}

/// The token to be looked at again in a long wait. Promised ends are wrong at times, and spend caps are
/// raised in the evening: each quota group is asked after 15 minutes, after 30, and then hourly, the
/// one in use first.
pub(crate) fn due_in_wait(pool: &TokenPool, held: Suspension, now: Now) -> Option<usize> {
    let look = last_look(held.since()?.tick, now.tick)?;
    let current = pool.current_index();
    let mut all = std::iter::once(current).chain(pool.peek());
    let is_asked = |index: usize| pool.state(index).asked().is_some_and(|asked| asked >= look);
    all.find(|index| {
        let state = pool.state(*index);
        let shares =
            |other: usize| state.group().is_some() && pool.state(other).group() == state.group();
        let is_told_by_another = state.condition(now).is_of_the_group()
            && (0..pool.len()).any(|other| shares(other) && is_asked(other));
        state.condition(now).is_refused_for_now() && !is_asked(*index) && !is_told_by_another
    })
}

/// When tokens were last due to be looked at again in a wait that began then, and lasts until now.
pub(crate) fn last_look(since: Instant, now: Instant) -> Option<Instant> {
    let waited = now.saturating_duration_since(since);
    let [first, second] = LOOKS;
    let hours = waited.saturating_sub(second).as_secs() / HOUR.as_secs();
    match waited {
        _ if waited < first => None,
        _ if waited < second => Some(since + first),
        // At most as long as the wait itself.
        _ => Some(since + second + Duration::from_secs(hours * HOUR.as_secs())),
    }
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
        condition.is_of_the_group()
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
    // What was found before is a prediction: before a wait, and before the end of a run, each token is
    // asked once, also one that was rejected.
    for (index, outlook) in candidates() {
        if let Candidate::Resting(_) | Candidate::Condemned = outlook {
            return Decision::Probe { index };
        }
    }
    if let Some(index) = due_in_wait(pool, held, now) {
        return Decision::Probe { index };
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
pub(super) fn wait(
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
