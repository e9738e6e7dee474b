//! The requests of one scope: which of its tokens is next, and what was said of a wait.
//!
//! It promises that a token that is new, or comes back from a limit, gets a few requests first, and that a
//! token that is refused is looked at again now and then. It decides and does not act. Pure.

use super::*;

/// So many requests go first with a token that has not proven itself: a burst that was refused with one
/// token must not meet the next one as a whole.
pub(super) const TRIAL_REQUESTS: usize = 4;

/// A token that nothing but its owner can mend is looked at again this often, with one request.
pub(super) const REVIEW: Duration = Duration::from_secs(600);

/// A model that a token has not is asked of it again after so long, when no other is usable.
const LACKED_LATELY: Duration = Duration::from_secs(60);

/// The requests of one scope.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) loads: Vec<TokenLoad>,
    /// The token after the one that round-robin chose last.
    pub(super) turn: usize,
    /// The token that sticky requests go out with; for some seconds it may be another than the pool's.
    pub(super) in_play: usize,
    /// Requests that wait for a reset.
    pub(super) held: usize,
    /// The wait that was last reported.
    pub(super) hold: Option<Hold>,
    pub(super) said_exhausted: bool,
    /// Until when its requests are refused, as was said.
    pub(super) said_refused: Option<SystemTime>,
    /// Whether its requests go out for the fallback, as was said.
    pub(super) said_fell_back: bool,
}

/// A wait that all held requests of a scope share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    /// As promised last.
    pub(super) until: SystemTime,
    /// Whether it was said, so that its end is to be said as well.
    pub(super) told: bool,
}

/// What the proxy knows of a token in a scope, beside its condition.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenLoad {
    /// A request was served since it was taken up or came back.
    pub(super) proven: bool,
    /// Requests under way that have not been answered.
    pub(super) under_way: usize,
    /// Since when it is known that its requests are refused, as long as they are.
    pub(super) learned: Option<Instant>,
    /// When a request was last let through all the same, to see.
    pub(super) looked: Option<Instant>,
    pub(super) usage: Usage,
    pub(super) spent: Spent,
    /// How much of that was last reported.
    pub(super) told: Spent,
}

/// A token as a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fitness {
    Good,
    /// Above the threshold, or due for a look: when nothing better is there.
    Near,
    /// Not now.
    Bad,
}

impl Lane {
    pub(super) fn new(pool: &TokenPool) -> Lane {
        let mut loads = vec![TokenLoad::default(); pool.len()];
        // The first token needs no trial requests: no other one was left for it.
        if let Some(first) = loads.get_mut(pool.current_index()) {
            first.proven = true;
        }
        Lane {
            loads,
            turn: 0,
            in_play: pool.current_index(),
            held: 0,
            hold: None,
            said_exhausted: false,
            said_refused: None,
            said_fell_back: false,
        }
    }

    pub(super) fn fitness(
        &self,
        pool: &TokenPool,
        index: usize,
        rules: &Rules,
        now: Now,
    ) -> Fitness {
        let condition = pool.state(index).condition(now);
        if let Some(ago) = pool.lacks(index, now)
            && !condition.is_refused()
        {
            // When nothing else is left, it is asked for the model all the same.
            return match ago < LACKED_LATELY {
                true => Fitness::Bad,
                false => Fitness::Near,
            };
        }
        match condition {
            Condition::Unknown | Condition::Usable => Fitness::Good,
            Condition::NearLimit { until } if until.remaining(now) <= rules.patience => {
                Fitness::Good
            }
            Condition::NearLimit { .. } => Fitness::Near,
            Condition::Removed => Fitness::Bad,
            _ if self.is_due(index, condition, now) => Fitness::Near,
            _ => Fitness::Bad,
        }
    }

    pub(super) fn is_usable(&self, pool: &TokenPool, rules: &Rules, now: Now) -> bool {
        (0..pool.len()).any(|index| self.fitness(pool, index, rules, now) != Fitness::Bad)
    }

    /// Whether a token that is refused is to be looked at again. What it promised is a prediction.
    pub(super) fn is_due(&self, index: usize, condition: Condition, now: Now) -> bool {
        let Some(load) = self.loads.get(index) else {
            return false;
        };
        let Some(learned) = load.learned else {
            return false;
        };
        let due = match condition.is_hopeless() {
            true => {
                let ago = now
                    .tick
                    .saturating_duration_since(load.looked.unwrap_or(learned));
                return ago >= REVIEW;
            }
            false => policy::last_look(learned, now.tick),
        };
        due.is_some_and(|due| load.looked.is_none_or(|looked| looked < due))
    }

    /// The token to use, if one is usable now.
    pub(super) fn candidate(
        &mut self,
        pool: &TokenPool,
        strategy: Strategy,
        rules: &Rules,
        tried: &[usize],
        now: Now,
    ) -> Option<usize> {
        let len = pool.len();
        let first = match strategy {
            Strategy::RoundRobin => self.turn,
            Strategy::Sticky | Strategy::Headroom => pool.current_index(),
        };
        let used = |index: usize| pool.state(index).used().unwrap_or(0.0);
        let least = |a: &usize, b: &usize| used(*a).total_cmp(&used(*b));
        let own = &*self;
        let of = |wanted: Fitness| {
            (0..len)
                .map(move |steps| (first + steps) % len)
                .filter(move |index| !was_tried(pool, *index, tried))
                .filter(move |index| own.fitness(pool, *index, rules, now) == wanted)
        };
        let good = match strategy {
            Strategy::Headroom => of(Fitness::Good).min_by(least),
            Strategy::Sticky | Strategy::RoundRobin => of(Fitness::Good).next(),
        };
        // Nothing is lost by running into the limit: the request then goes to another token, or
        // waits. So what is left of a token is used before anyone waits.
        let near = || match strategy {
            Strategy::Sticky => of(Fitness::Near)
                .find(|index| *index == first)
                .or_else(|| of(Fitness::Near).min_by(least)),
            _ => of(Fitness::Near).min_by(least),
        };
        let chosen = good.or_else(near)?;
        self.turn = (chosen + 1) % len;
        Some(chosen)
    }

    /// Notes which tokens are refused from now on. An answer may tell of all of a quota group.
    pub(super) fn note_refusals(&mut self, pool: &TokenPool, now: Now) {
        for (index, load) in self.loads.iter_mut().enumerate() {
            if !pool.state(index).condition(now).is_refused() {
                load.learned = None;
                load.looked = None;
            } else if load.learned.is_none() {
                load.learned = Some(now.tick);
                load.proven = false;
            }
        }
    }

    /// One more request goes out with this token, unless its first ones are still under way.
    pub(super) fn set_out(
        &mut self,
        pool: &TokenPool,
        index: usize,
        patient: bool,
        now: Now,
    ) -> Pick {
        let is_refused = pool.state(index).condition(now).is_refused();
        let Some(load) = self.loads.get_mut(index) else {
            return Pick::Hopeless;
        };
        if patient && !load.proven && load.under_way >= TRIAL_REQUESTS {
            return Pick::Queue;
        }
        if is_refused {
            // A look at a token that is refused is one request.
            load.looked = Some(now.tick);
        }
        load.under_way += 1;
        Pick::Go { index }
    }

    /// No token is usable now: when one will be.
    pub(super) fn earliest(
        &mut self,
        pool: &TokenPool,
        named: RingName,
        now: Now,
        say: &mut Vec<RunEvent>,
    ) -> Pick {
        let first = first_reset(pool, now);
        let news = !std::mem::replace(&mut self.said_exhausted, true);
        let Some((until, index)) = first else {
            if news {
                say.push(RunEvent::NoneLeft(pool.current().provider));
            }
            return Pick::Hopeless;
        };
        // An answer that was under way may tell of a success while others are held.
        if news && self.hold.is_none() {
            say.push(RunEvent::AllExhausted);
        }
        let known = self.hold.filter(|hold| is_same_end(hold.until, until.wall));
        if known.is_none() {
            self.hold = Some(Hold {
                until: until.wall,
                told: self.hold.is_some_and(|hold| hold.told),
            });
            say.push(RunEvent::WaitingForReset {
                token: named.token(pool, index),
                span: until.remaining(now),
                at: until.wall,
                now: now.wall,
                held: true,
            });
        }
        Pick::Hold { until, index }
    }

    /// A sticky request goes out with this token.
    pub(super) fn bring_into_play(
        &mut self,
        pool: &TokenPool,
        index: usize,
        named: RingName,
        now: Now,
        say: &mut Vec<RunEvent>,
    ) {
        let last = std::mem::replace(&mut self.in_play, index);
        if last == index {
            return;
        }
        // One that was passed over for some seconds is gone back to without a limit.
        if !pool.state(last).condition(now).is_good() {
            say.push(RunEvent::AutoRotating);
        }
        say.push(RunEvent::Switched(named.token(pool, index)));
    }

    /// Nobody is held any longer: requests go out with the token at `index`, or are all gone.
    pub(super) fn end_hold(
        &mut self,
        pool: &TokenPool,
        named: RingName,
        index: Option<usize>,
    ) -> Option<RunEvent> {
        let hold = self.hold.take()?;
        hold.told.then(|| RunEvent::HoldOver {
            token: named.token(pool, index.unwrap_or(self.in_play)),
            abandoned: index.is_none(),
        })
    }
}

/// Whether the token in use is to be left for good, and not only for a few seconds.
pub(super) fn is_left(pool: &TokenPool, rules: &Rules, now: Now) -> bool {
    match pool.state(pool.current_index()).condition(now) {
        // It is good, and was only tried before for the same request.
        condition if condition.is_good() => false,
        Condition::Limited { until } => until.remaining(now) > rules.patience,
        _ => true,
    }
}

/// Whether a token, or another one of its quota group, is among those that were tried.
pub(super) fn was_tried(pool: &TokenPool, index: usize, tried: &[usize]) -> bool {
    let group = |index: usize| pool.state(index).group();
    let shares = |other: usize| group(index).is_some() && group(index) == group(other);
    tried.iter().any(|other| *other == index || shares(*other))
}
