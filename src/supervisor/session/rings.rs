//! The rings of a run: what the session remembers of each, and which of their decisions counts.
//!
//! Owns [`SessionRing`]. What is to be done about one ring is decided by `tokens/policy.rs`, or by the ledger
//! where requests go through the proxy; which ring goes first is decided here.

use super::*;

/// Checks take at most a hundredth of a limit for hours or days, and of one per minute a request or two.
const MORE_THAN_CHECKS: f64 = 0.1;

/// A pool, and what the session remembers about it.
#[derive(Debug)]
pub(super) struct SessionRing {
    pub(super) pool: TokenPool,
    /// Nobody can ask about its tokens: its monitor is gone.
    pub(super) blind: bool,
    /// Whether the command is known to use its provider: it is the only one, the user has named it, the
    /// command's own, or requests were seen. Tokens that merely lie in the environment stop no command.
    pub(super) in_use: bool,
    /// The least that its token in use was seen to have used since the child's last start.
    pub(super) least_used: Option<f64>,
    /// Whether one of its tokens was found to be accepted, in this run or as the state says.
    pub(super) worked: bool,
    /// Whether the child's next start is its first with another token.
    pub(super) switched: bool,
    /// The user said to keep going near this limit.
    pub(super) keep_going: bool,
    /// How much of its fullest window of a minute the token in use had used when the child was last
    /// started, and when it last ended.
    pub(super) used_at_start: Option<f64>,
    pub(super) used_at_end: Option<f64>,
    pub(super) said_silent: bool,
    pub(super) said_unclear: bool,
    pub(super) said_quotas: bool,
    pub(super) said_aside: bool,
}

impl SessionRing {
    /// Whether a token of it was found to be accepted.
    pub(super) fn is_accepted(&self, now: Now) -> bool {
        let condition = |index| self.pool.state(index).condition(now);
        (0..self.pool.len()).any(|index| condition(index).is_accepted())
    }

    pub(super) fn is_near_limit(&self, now: Now) -> bool {
        let state = self.pool.state(self.pool.current_index());
        matches!(state.condition(now), Condition::NearLimit { .. })
    }

    /// Whether waiting does not help its token in use.
    pub(super) fn is_hopeless(&self, now: Now) -> bool {
        let current = self.pool.state(self.pool.current_index());
        matches!(
            current.condition(now),
            Condition::Rejected | Condition::SpendCapped { .. } | Condition::Removed
        )
    }

    /// Looks at how much its token in use has used while the child runs: if that rises by more than checks
    /// cause, the child uses it.
    pub(super) fn watch(&mut self, reading: &Reading) {
        let Some(used) = reading.usage.binding().map(|window| window.utilization) else {
            return;
        };
        let least = self.least_used.map_or(used, |least| least.min(used));
        self.least_used = Some(least);
        self.in_use |= used > least + MORE_THAN_CHECKS;
    }

    /// How much of its fullest window of a minute the token in use had used at its last check.
    pub(super) fn used_of_minute(&self) -> Option<f64> {
        let current = self.pool.state(self.pool.current_index());
        current.used_of_minute()
    }
}

impl Session {
    /// When the token in use is said to be usable again.
    pub(super) fn end_of_limit(&self, ring: usize, now: Now) -> Option<Until> {
        let pool = &self.rings.get(ring)?.pool;
        pool.state(pool.current_index()).condition(now).until()
    }

    /// Whether the token in use of this ring is good again after a wait.
    pub(super) fn can_recover(&self, ring: usize, now: Now) -> bool {
        let pool = self.rings.get(ring).map(|ring| &ring.pool);
        pool.is_some_and(|pool| {
            !pool
                .state(pool.current_index())
                .condition(now)
                .is_hopeless()
        })
    }

    /// The decision that counts over all rings, and its ring. A child needs a usable token of
    /// each ring that it lives on, so the worst one decides. As long as it is not known to live
    /// on any, it is started as soon as one has such a token.
    pub(super) fn consult(&self, held: Suspension, now: Now) -> (usize, Decision) {
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
    pub(super) fn decisions(
        &self,
        in_use: bool,
        held: Suspension,
        now: Now,
    ) -> impl Iterator<Item = (usize, Decision)> {
        let obeys = move |ring: &SessionRing| {
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
    pub(super) fn decide(&self, ring: usize, held: Suspension, now: Now) -> Decision {
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
    pub(super) fn may_live_on(&self, ring: usize, now: Now) -> bool {
        let is_unasked =
            |ring: &SessionRing| ring.pool.state(ring.pool.current_index()).is_unasked();
        let Some(own) = self.rings.get(ring) else {
            return false;
        };
        own.worked
            || self.rings.iter().enumerate().all(|(i, other)| {
                let used = other.worked || (!other.blind && is_unasked(other));
                // Give up only if the child can live on no other ring.
                let carries = other.blind || !other.is_hopeless(now);
                i == ring || !(used || own.is_hopeless(now) && carries)
            })
    }

    pub(super) fn switch(&mut self, ring: usize, index: usize) {
        self.on_failure = None;
        if let Some(ring) = self.rings.get_mut(ring) {
            ring.pool.next(index);
            ring.switched = true;
        }
    }

    /// A ring's token in use, or another one of it, as events name it; `None`: there is no such ring.
    pub(crate) fn token(&self, ring: usize, index: Option<usize>) -> Option<TokenRef> {
        let pool = &self.rings.get(ring)?.pool;
        let index = index.unwrap_or(pool.current_index());
        let id = TokenId { ring, index };
        Some(TokenRef::new(pool, id, self.rings.len() > 1))
    }

    /// Why the token in use will not do; `None`: that its provider is silent was told.
    pub(super) fn untold_reason(&self, ring: usize, now: Now) -> Option<RunEvent> {
        let was_told = self.rings.get(ring).is_some_and(|ring| ring.said_silent);
        let reason = self.reason(ring, now);
        (!was_told || !matches!(reason, RunEvent::Silent { .. })).then_some(reason)
    }

    /// Why the token in use will not do.
    pub(super) fn reason(&self, ring: usize, now: Now) -> RunEvent {
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
        RunEvent::limit(token, limit, None, state, until)
    }
}

/// Whether nothing goes on because no token is good.
pub(super) fn is_for_want_of_a_token(decision: Decision) -> bool {
    matches!(
        decision,
        Decision::Wait { .. } | Decision::ExceedsMaxWait { .. } | Decision::NoUsableToken
    )
}

/// Which of several rings' decisions goes first. A running child is stopped before anything is
/// asked on behalf of another ring; a held one does not go on while another ring is undecided.
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
