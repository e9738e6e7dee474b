//! What is known of one token: its condition, and how each answer changes that.
//!
//! Owns what is remembered of one token in one scope. It promises that a condition ends when its
//! time is over, that a failed probe never condemns a token, and that answers to older questions
//! change nothing. It takes `now` and decides nothing; `policy` does.

use crate::common::time::{Now, SHORTEST_REST, Until};
use crate::providers::schedule::{LONGEST_BACKOFF, backoff};
use crate::providers::usage::{Usage, Window, is_near_limit};
use crate::providers::{Answer, Finding};
use std::time::{Duration, Instant, SystemTime};

/// A reset that is missing or already past says nothing, and counts as this far ahead.
pub(super) const UNKNOWN_RESET: Duration = Duration::from_secs(60);

/// A token that was left is a candidate again only this far below the threshold: without it, two
/// tokens near their limits would take turns.
const HYSTERESIS: f64 = 0.10;

/// What another run has found out counts for so long before this run asks for itself: a limit may have
/// been raised since, or a bill paid.
const REMEMBERED: Duration = Duration::from_secs(5 * 60);
/// A limit that only the child tells counts as [`UNKNOWN_RESET`] at first, and as twice as long each
/// time that it turns out to last, up to this: a night is not burnt in restarts, and not much of it is
/// lost when the limit ends.
const LONGEST_TOLD: Duration = Duration::from_secs(15 * 60);
/// A model that its organization does not have is not asked of a token for so long: access to one is given by
/// people, in the course of days.
const LACKED: Duration = Duration::from_secs(60 * 60);

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
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Condition {
    /// Nothing, or nothing that still holds.
    #[default]
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
    /// It is no longer in the file that it came from: it is neither used nor asked about.
    Removed,
}

impl Condition {
    /// The word for it, for programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Condition::Unknown => "unknown",
            Condition::Usable => "usable",
            Condition::NearLimit { .. } => "near-limit",
            Condition::Limited { .. } => "limited",
            Condition::SpendCapped { .. } => "spend-capped",
            Condition::Rejected => "rejected",
            Condition::Removed => "removed",
        }
    }

    /// When it ends, if that is known.
    pub(crate) fn until(self) -> Option<Until> {
        match self {
            Condition::NearLimit { until } | Condition::Limited { until } => Some(until),
            Condition::SpendCapped { until } => until,
            Condition::Unknown | Condition::Usable | Condition::Rejected | Condition::Removed => {
                None
            }
        }
    }

    /// Whether requests go out with such a token as a matter of course.
    pub(crate) fn is_good(self) -> bool {
        matches!(self, Condition::Unknown | Condition::Usable)
    }

    /// Whether requests with it are refused.
    pub(crate) fn is_refused(self) -> bool {
        matches!(
            self,
            Condition::Limited { .. }
                | Condition::SpendCapped { .. }
                | Condition::Rejected
                | Condition::Removed
        )
    }

    /// Whether requests with it are refused, as far as is known, and a question may show that they no
    /// longer are.
    pub(crate) fn is_refused_for_now(self) -> bool {
        self.is_refused() && self != Condition::Removed
    }

    /// Whether waiting for a few minutes or hours does not mend it.
    pub(crate) fn is_hopeless(self) -> bool {
        matches!(
            self,
            Condition::SpendCapped { until: None } | Condition::Rejected | Condition::Removed
        )
    }

    /// Whether it shows that the provider accepts the token.
    pub(crate) fn is_accepted(self) -> bool {
        matches!(
            self,
            Condition::Usable | Condition::NearLimit { .. } | Condition::Limited { .. }
        )
    }

    /// Whether it comes from the quota, which a group shares, and not from the token itself.
    pub(crate) fn is_of_the_group(self) -> bool {
        matches!(
            self,
            Condition::NearLimit { .. } | Condition::Limited { .. } | Condition::SpendCapped { .. }
        )
    }
}

/// Two ends of a limit that are no farther apart are the same one: `retry-after` counts whole seconds.
const SAME_END: Duration = Duration::from_secs(1);

/// Whether two ends of a limit, or of a wait for it, are one and the same.
pub(crate) fn is_same_end(one: SystemTime, other: SystemTime) -> bool {
    let apart = one.duration_since(other);
    apart.unwrap_or_else(|error| error.duration()) <= SAME_END
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
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Last {
    #[default]
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
pub(super) struct Refused {
    /// When the question was put that got the first.
    pub(super) first: Instant,
    pub(super) times: u32,
    /// Whether one of them named an organization: then the provider knows whom it refuses.
    pub(super) named: bool,
}

/// A limit that the child has told.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReportedLimit {
    /// When the child said so first: what it says again while that holds changes nothing.
    pub(super) at: Instant,
    /// How long it counts: from [`UNKNOWN_RESET`] to [`LONGEST_TOLD`].
    pub(super) span: Duration,
    pub(super) until: Until,
}

impl ReportedLimit {
    /// The child reports a limit; it may have reported one before.
    fn again(before: Option<ReportedLimit>, now: Now) -> ReportedLimit {
        let span = match before {
            // It says so for each of its agents.
            Some(told) if !told.until.is_over(now) => return told,
            Some(told) => (told.span * 2).min(LONGEST_TOLD),
            None => UNKNOWN_RESET,
        };
        ReportedLimit {
            at: now.tick,
            span,
            until: Until::after(span, now),
        }
    }
}

/// A token as a candidate.
pub(super) enum Candidate {
    Good,
    /// It has not been asked since it was needed.
    Unasked,
    /// A condition from an earlier answer says not before then.
    Resting(Until),
    /// It has been asked, and is not usable before then.
    Bad(Until),
    /// It will not recover by waiting, as was found before it was needed.
    Condemned,
    /// It will not recover by waiting.
    Hopeless,
    /// It was asked in vain.
    Silent(Instant),
    /// It was rejected, but so were others; not to be asked again before then.
    Doubtful(Instant),
    /// It answered something that says nothing about it, then.
    Unclear(Instant),
}

/// All that is known of one token.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenState {
    pub(super) condition: Condition,
    /// When the question was put that showed that condition; `None`: none in this run did.
    pub(super) found: Option<Instant>,
    /// The same on the wall clock; of a condition from another run, when that one found it.
    pub(super) seen: Option<SystemTime>,
    /// Utilization of its fullest window at the last answer; 1.0 is spent.
    pub(super) used: Option<f64>,
    /// That window, if this run has seen it.
    fullest: Option<Window>,
    /// Why its provider refuses it, in the provider's own words.
    said: Option<String>,
    /// The same of the windows of a minute alone.
    used_of_minute: Option<f64>,
    pub(super) last: Last,
    /// Since when its condition has been one to leave it for.
    pub(super) bad_since: Option<Instant>,
    /// Whether it was left for another token and has not been usable since.
    pub(super) left: bool,
    /// How often in a row it was refused when it should have been usable again; each time, the next
    /// question waits longer.
    pub(super) refusals: u32,
    /// The child was refused with it, which holds for its time although a probe is served.
    pub(super) told: Option<ReportedLimit>,
    /// When the question was put that last showed that the provider knows it.
    pub(super) accepted: Option<Instant>,
    /// The rejections since then.
    pub(super) refused: Option<Refused>,
    /// The quota group that it draws on, as far as known.
    pub(super) group: Option<String>,
    /// Whether the group is the user's own label, which headers do not change.
    pub(super) labelled: bool,
    /// Whether it was taken out of the file that it came from.
    pub(super) removed: bool,
    /// When its organization last did not have this scope's model, which another one had.
    pub(super) lacked: Option<Instant>,
}

impl TokenState {
    /// A token about which only the user's label for its quota is known.
    pub(crate) fn new(label: Option<String>) -> TokenState {
        TokenState {
            labelled: label.is_some(),
            group: label.map(|name| format!("group={name}")),
            ..TokenState::default()
        }
    }

    /// Its condition at this moment: one whose end has come is no longer known.
    pub(crate) fn condition(&self, now: Now) -> Condition {
        match self.condition {
            _ if self.removed => Condition::Removed,
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

    /// How long ago its organization did not have this scope's model; `None` once that says nothing any more.
    pub(super) fn lacks(&self, now: Now) -> Option<Duration> {
        let ago = now.tick.saturating_duration_since(self.lacked?);
        (ago < LACKED).then_some(ago)
    }

    /// Utilization of its fullest window at the last answer.
    pub(crate) fn used(&self) -> Option<f64> {
        self.used
    }

    /// Whether it was rejected since it was last accepted.
    pub(crate) fn was_rejected(&self) -> bool {
        self.refused.is_some()
    }

    /// Its fullest window at the last answer of this run.
    pub(crate) fn fullest(&self) -> Option<&Window> {
        self.fullest.as_ref()
    }

    /// Why its provider refuses it, in the provider's own words.
    pub(crate) fn said(&self) -> Option<&str> {
        self.said.as_deref()
    }

    /// Utilization of its fullest window of a minute at the last answer of this run.
    pub(crate) fn used_of_minute(&self) -> Option<f64> {
        self.used_of_minute
    }

    /// When this run found its condition, on the wall clock; `None` when it did not.
    pub(crate) fn seen(&self) -> Option<SystemTime> {
        self.seen.filter(|_| self.found.is_some())
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

    /// Takes in a condition that such a run found at `seen`. This run has not asked yet.
    pub(crate) fn recall(&mut self, condition: Condition, used: Option<f64>, seen: SystemTime) {
        self.condition = condition;
        self.used = used;
        self.seen = Some(seen);
    }

    /// What is known of the same token in every scope, as the start for a new scope.
    pub(super) fn elsewhere(&self) -> TokenState {
        let mut state = TokenState {
            labelled: self.labelled,
            ..TokenState::default()
        };
        state.follow(self);
        state
    }

    /// Takes in what another scope has found of the same token and holds in every one: its quota
    /// group, whether the provider accepts it, and whether its account can pay.
    pub(super) fn follow(&mut self, other: &TokenState) {
        self.removed = other.removed;
        self.group.clone_from(&other.group);
        self.accepted = other.accepted;
        self.refused = other.refused;
        let holds_here = match other.condition {
            // A limit says nothing against it, unless it shows that the token is accepted.
            Condition::Rejected => other.found >= self.accepted,
            Condition::SpendCapped { .. } => other.found >= self.found,
            _ => false,
        };
        let held_everywhere = matches!(
            self.condition,
            Condition::Rejected | Condition::SpendCapped { .. }
        );
        if holds_here {
            self.said.clone_from(&other.said);
            self.condition = other.condition;
            self.found = other.found;
            self.seen = other.seen;
            self.last = other.last;
            self.bad_since = self.bad_since.or(other.bad_since);
        } else if held_everywhere && other.accepted > self.found {
            // Accepted, or paid for, again.
            self.condition = Condition::Unknown;
            self.found = other.accepted;
            self.last = Last::Never;
            self.bad_since = None;
        }
    }

    /// The quota group that it draws on, if known.
    pub(crate) fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// Whether it has never been asked.
    pub(crate) fn is_unasked(&self) -> bool {
        self.last == Last::Never
    }

    /// Whether it has never been asked, and what another run has found out is old, or nothing.
    pub(crate) fn is_unknown(&self, now: Now) -> bool {
        let age = self.seen.map(|seen| now.wall.duration_since(seen));
        // A finding from the future was made before the clock was set back.
        let is_recent = age.is_some_and(|age| age.unwrap_or_default() < REMEMBERED);
        self.is_unasked() && !self.removed && !(self.condition(now).until().is_some() && is_recent)
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
        self.condition.is_accepted()
    }

    /// Takes in an answer. Late ones, to questions put before the last one that is known, are
    /// ignored.
    pub(crate) fn record(&mut self, answer: &Answer, threshold: f64, now: Now) {
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
            (threshold - HYSTERESIS).max(threshold / 2.0)
        } else {
            threshold
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
                if refused.times == 1 && (self.worked() || self.accepted.is_some()) {
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
        self.fullest = reading.usage.binding().cloned();
        self.used = self.fullest.as_ref().map(|window| window.utilization);
        self.said.clone_from(&reading.said);
        self.used_of_minute = reading.usage.of_a_minute(now.wall);
        self.last = Last::Verdict(answer.asked);
        self.take_on(condition, answer.asked, now);
    }

    /// Takes in what the child says of the token in use. A check that has seen a limit knows more about
    /// its end, and what the child says again holds nothing up.
    pub(super) fn tell(&mut self, trouble: Trouble, now: Now) {
        match trouble {
            Trouble::Limited => {
                if self.condition(now).until().is_none() {
                    let told = ReportedLimit::again(self.told, now);
                    self.told = Some(told);
                    let until = told.until;
                    self.take_on(Condition::Limited { until }, told.at, now);
                }
            }
            Trouble::Overloaded => {
                self.record_failure(now.tick, ProbeFailure::Overloaded, None, now)
            }
            // Its cause may be elsewhere: a probe says whether it is the token.
            Trouble::Account => {}
        }
    }

    /// It was refused what another token was served, for a reason that is not known.
    pub(super) fn suspend(&mut self, asked: Instant, now: Now) {
        // A check may have found the reason meanwhile.
        if self.condition(now).is_refused() {
            return;
        }
        let until = Until::after(UNKNOWN_RESET, now);
        self.last = Last::Verdict(asked);
        self.take_on(Condition::Limited { until }, asked, now);
    }

    /// A token of the same quota group gave this verdict; it holds here too.
    pub(super) fn share(&mut self, condition: Condition, asked: Instant, now: Now) {
        if self.asked().is_none_or(|own| own < asked) && self.condition != Condition::Rejected {
            self.take_on(condition, asked, now);
        }
    }

    fn take_on(&mut self, condition: Condition, asked: Instant, now: Now) {
        self.condition = condition;
        self.found = Some(asked);
        let ago = now.tick.saturating_duration_since(asked);
        self.seen = now.wall.checked_sub(ago);
        if condition.is_good() {
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
    pub(super) fn doubt(&mut self, now: Now) {
        if let (Last::Verdict(asked), Some(refused)) = (self.last, self.refused) {
            self.last = Last::Silent {
                asked,
                kind: ProbeFailure::Doubtful,
                times: refused.times,
                retry: now.tick + backoff(refused.times.saturating_sub(1)),
            };
        }
    }

    pub(super) fn asked(&self) -> Option<Instant> {
        match self.last {
            Last::Never => None,
            Last::Verdict(asked) | Last::Unclear(asked) | Last::Silent { asked, .. } => Some(asked),
        }
    }

    pub(super) fn outlook(&self, since: Instant, now: Now) -> Candidate {
        let is_told = self.told.is_some_and(|told| told.at >= since);
        let fresh = is_told || self.asked().is_some_and(|asked| asked >= since);
        match self.condition(now) {
            Condition::Removed => Candidate::Hopeless,
            // Somebody may have mended it since this was found.
            Condition::Rejected | Condition::SpendCapped { until: None } if !fresh => {
                Candidate::Condemned
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

/// The condition of a token that the provider served.
fn served(usage: &Usage, threshold: f64, now: Now) -> Condition {
    match usage.binding() {
        Some(window) if is_near_limit(window.utilization, threshold) => Condition::NearLimit {
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
