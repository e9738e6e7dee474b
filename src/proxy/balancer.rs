//! Which token a request goes out with, and what each answer teaches.
//!
//! One brain for all requests of all applications. What a token's answers mean is `policy`'s to
//! say; here is what to do with many requests at once. It promises that no request goes out with a
//! token that is known to be spent or rejected, or that shares its quota with a spent one; that a
//! token that is new, or comes back from a limit, gets a few requests first; and that a limit seen
//! by many requests at once counts once. It decides and does not act: no socket, no clock. Pure.

use crate::common::time::{Now, Until};
use crate::events::{Limit, RunEvent, TokenRef};
use crate::providers::Answer;
use crate::providers::Finding;
use crate::providers::usage::Usage;
use crate::tokens::condition::{Condition, is_same_end};
use crate::tokens::policy::{self, Rules};
use crate::tokens::strategy::Strategy;
use crate::tokens::{TokenId, TokenPool};
use std::time::{Duration, Instant, SystemTime};

/// So many requests go first with a token that has not proven itself (trap T14).
const TRIAL_REQUESTS: usize = 4;
/// A token that nothing but its owner can mend is looked at again this often, with one request.
const REVIEW: Duration = Duration::from_secs(600);

/// What a request is to do.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "a choice that is not followed counts as a request under way"]
pub(crate) enum Pick {
    /// Go out with this token; the brain hears of it again.
    Go { index: usize },
    /// The token to use has its first requests under way: not before one of them is answered.
    Queue,
    /// No token is usable before then; the one that is first is at `index`.
    Hold { until: Until, index: usize },
    /// No token of this provider can recover by waiting.
    Hopeless,
}

/// All that is known of the tokens.
#[derive(Debug)]
pub(crate) struct Balancer {
    rings: Vec<Ring>,
    rules: Rules,
    strategy: Strategy,
}

/// The tokens of one provider.
#[derive(Debug)]
struct Ring {
    pool: TokenPool,
    /// Its place among the rings, and whether there are others.
    place: usize,
    several: bool,
    loads: Vec<TokenLoad>,
    /// The token after the one that round-robin chose last.
    turn: usize,
    /// The token that sticky requests go out with; for some seconds it may be another than the pool's.
    in_play: usize,
    /// Requests that wait for a reset, and the wait that was told of.
    held: usize,
    hold: Option<Hold>,
    /// What was said and holds on.
    said_exhausted: bool,
    said_silent: bool,
    said_quotas: bool,
}

/// A wait that all held requests of a ring share.
#[derive(Clone, Copy, Debug)]
struct Hold {
    /// As promised last.
    until: SystemTime,
    /// Whether it was said, so that its end is to be said as well.
    told: bool,
}

/// What the proxy knows of a token beside its standing.
#[derive(Clone, Debug, Default)]
struct TokenLoad {
    /// A request was served since it was taken up or came back.
    proven: bool,
    /// Requests under way that have not been answered.
    under_way: usize,
    /// Since when it is known that its requests are refused, as long as they are.
    learned: Option<Instant>,
    usage: Usage,
    served: u64,
    refused: u64,
}

/// One token, for those who ask how things stand.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) token: TokenRef,
    /// Whether it is the one that sticky requests use.
    pub(crate) in_use: bool,
    pub(crate) condition: Condition,
    pub(crate) group: Option<&'a str>,
    pub(crate) usage: &'a Usage,
    pub(crate) under_way: usize,
    /// Requests since the start that were served, and those that a limit or a rejection refused.
    pub(crate) served: u64,
    pub(crate) refused: u64,
}

/// A token as a candidate.
enum Fitness {
    Good,
    /// Above the threshold: when nothing better is there.
    Near,
    /// Not now.
    Bad,
}

impl Balancer {
    /// A brain that knows nothing yet.
    pub(crate) fn new(pools: Vec<TokenPool>, rules: Rules, strategy: Strategy) -> Balancer {
        let several = pools.len() > 1;
        let rings = pools
            .into_iter()
            .enumerate()
            .map(|(place, pool)| Ring {
                place,
                several,
                loads: vec![TokenLoad::default(); pool.len()],
                in_play: pool.current_index(),
                pool,
                turn: 0,
                held: 0,
                hold: None,
                said_exhausted: false,
                said_silent: false,
                said_quotas: false,
            })
            .map(|mut ring| {
                // A start is no switch: nothing has happened that a herd could follow.
                if let Some(first) = ring.loads.first_mut() {
                    first.proven = true;
                }
                ring
            })
            .collect();
        Balancer {
            rings,
            rules,
            strategy,
        }
    }

    /// The token for the next request to this provider. One that is not `patient` has waited long
    /// enough for the first requests of a new token.
    pub(crate) fn choose(
        &mut self,
        ring: usize,
        patient: bool,
        now: Now,
        say: &mut Vec<RunEvent>,
    ) -> Pick {
        let Some(ring) = self.rings.get_mut(ring) else {
            return Pick::Hopeless;
        };
        let chosen = ring.candidate(self.strategy, &self.rules, now);
        let Some(index) = chosen else {
            return ring.earliest(now, say);
        };
        let current = ring.pool.current_index();
        if self.strategy == Strategy::Sticky && index != current && ring.is_left(&self.rules, now) {
            ring.pool.next(index);
            // A token that was left rests; one that is taken up is tried with a few requests first.
            ring.loads[index].proven = false;
        }
        let choice = ring.set_out(index, patient, now);
        if let Pick::Go { .. } = choice {
            if self.strategy == Strategy::Sticky {
                ring.bring_into_play(index, now, say);
            }
            // Whoever goes first ends the wait of all.
            say.extend(ring.end_hold(Some(index)));
        }
        choice
    }

    /// One more request waits for a reset. `told`: what `choose` had to say of it was said.
    pub(crate) fn hold(&mut self, ring: usize, is_new: bool, told: bool) {
        let Some(ring) = self.rings.get_mut(ring) else {
            return;
        };
        ring.held += usize::from(is_new);
        if let Some(hold) = &mut ring.hold {
            hold.told |= told;
        }
    }

    /// A request waits no longer, because it goes out or because its client is gone.
    #[must_use = "a wait whose end is not said never ends in the record"]
    pub(crate) fn dequeue(&mut self, ring: usize) -> Vec<RunEvent> {
        let Some(ring) = self.rings.get_mut(ring) else {
            return Vec::new();
        };
        ring.held = ring.held.saturating_sub(1);
        let over = (ring.held == 0).then(|| ring.end_hold(None));
        over.flatten().into_iter().collect()
    }

    /// Another good token than this one, for one more try when the provider is in trouble; nothing
    /// when there is none. Its first requests go first there as well.
    pub(crate) fn another(
        &mut self,
        ring: usize,
        than: usize,
        patient: bool,
        now: Now,
    ) -> Option<Pick> {
        let ring = self.rings.get_mut(ring)?;
        let len = ring.pool.len();
        let index = (1..len)
            .map(|steps| (than + steps) % len)
            .find(|index| matches!(ring.fitness(*index, &self.rules, now), Fitness::Good))?;
        Some(ring.set_out(index, patient, now))
    }

    /// Takes in the answer to a request that went out with this token.
    pub(crate) fn answered(
        &mut self,
        ring: usize,
        index: usize,
        answer: Answer,
        now: Now,
    ) -> Vec<RunEvent> {
        let Some(load) = self.load(ring, index) else {
            return Vec::new();
        };
        load.under_way = load.under_way.saturating_sub(1);
        if let Ok(reading) = &answer.reading {
            match reading.finding {
                Finding::Served => {
                    load.served += 1;
                    load.proven = true;
                }
                Finding::Limited { .. } | Finding::SpendCapped { .. } | Finding::Rejected => {
                    load.refused += 1;
                    load.proven = false;
                }
                Finding::Overloaded { .. } | Finding::Unclear { .. } => {}
            }
        }
        self.learn(ring, index, answer, now)
    }

    /// Takes in what a probe found.
    pub(crate) fn learn(
        &mut self,
        ring: usize,
        index: usize,
        answer: Answer,
        now: Now,
    ) -> Vec<RunEvent> {
        let Some(ring) = self.rings.get_mut(ring) else {
            return Vec::new();
        };
        let mut say = Vec::new();
        let token = ring.told(index);
        let provider = token.provider;
        let before = ring.pool.state(index).condition(now);
        // What went out before the limit was known meets the same limit; that is no second one.
        let learned = ring.loads[index].learned;
        let is_echo = before.is_refused() && learned.is_some_and(|at| answer.asked < at);
        // Not every endpoint tells limits, and what does not tell them does not lift one.
        let is_mute = matches!(before, Condition::NearLimit { .. })
            && answer.reading.as_ref().is_ok_and(|reading| {
                reading.finding == Finding::Served && reading.usage.windows.is_empty()
            });
        if !is_echo && !is_mute {
            policy::record(&mut ring.pool, index, &answer, &self.rules, now);
        }
        ring.note_refusals(now);
        let standing = ring.pool.state(index);
        let after = standing.condition(now);
        // Above the threshold is no surprise for every request that still goes there.
        if before.is_good() && !after.is_good() {
            say.push(RunEvent::Limit {
                token,
                limit: Limit::of(after, standing.used()),
                until: None,
            });
        }
        match (standing.silence(), ring.said_silent) {
            (Some((silence, _)), false) => {
                ring.said_silent = true;
                say.push(RunEvent::Silent {
                    provider,
                    silence,
                    why: answer.reading.as_ref().err().cloned(),
                });
            }
            (None, true) if answer.reading.is_ok() => {
                ring.said_silent = false;
                say.push(RunEvent::AnswersAgain { provider });
            }
            _ => {}
        }
        if let Ok(reading) = answer.reading {
            if reading.finding == Finding::Served {
                ring.said_exhausted = false;
            }
            if !reading.usage.windows.is_empty() {
                ring.loads[index].usage = reading.usage;
            }
        }
        say.extend(RunEvent::quotas(&ring.pool, &mut ring.said_quotas));
        say
    }

    /// A request that went out with this token will bring no answer: its client is gone.
    pub(crate) fn gave_up(&mut self, ring: usize, index: usize) {
        if let Some(load) = self.load(ring, index) {
            load.under_way = load.under_way.saturating_sub(1);
        }
    }

    /// How things stand for someone who needs any token of this provider: what a question about
    /// one that stands for all would be answered with.
    pub(crate) fn outlook(&mut self, ring: usize, now: Now) -> Finding {
        let Some(ring) = self.rings.get_mut(ring) else {
            return Finding::Rejected;
        };
        if ring.candidate(self.strategy, &self.rules, now).is_some() {
            return Finding::Served;
        }
        match ring.first_reset(now) {
            Some((until, _)) => Finding::Limited {
                retry_after: Some(until.remaining(now)),
            },
            None => Finding::SpendCapped { until: None },
        }
    }

    /// Whom to ask when somebody needs to know: everyone who has never been asked, and the token
    /// that is or will be the next to use.
    pub(crate) fn whom_to_ask(&mut self, ring: usize, now: Now) -> Vec<usize> {
        let Some(ring) = self.rings.get_mut(ring) else {
            return Vec::new();
        };
        let next = ring
            .candidate(self.strategy, &self.rules, now)
            .or_else(|| Some(ring.first_reset(now)?.1))
            .unwrap_or(ring.pool.current_index());
        (0..ring.pool.len())
            .filter(|index| *index == next || ring.pool.state(*index).is_unasked())
            .collect()
    }

    /// The token of this ring that is good again first.
    pub(crate) fn first_reset(&self, ring: usize, now: Now) -> Option<TokenRef> {
        let ring = self.rings.get(ring)?;
        Some(ring.told(ring.first_reset(now)?.1))
    }

    /// A token as it is told of; `None`: there is no such ring.
    pub(crate) fn told(&self, token: TokenId) -> Option<TokenRef> {
        Some(self.rings.get(token.ring)?.told(token.index))
    }

    /// The pools, in ring order.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &TokenPool> {
        self.rings.iter().map(|ring| &ring.pool)
    }

    /// How each token stands.
    pub(crate) fn report(&self, now: Now) -> impl Iterator<Item = Report<'_>> {
        self.rings.iter().flat_map(move |ring| {
            ring.loads.iter().enumerate().map(move |(index, load)| {
                let standing = ring.pool.state(index);
                Report {
                    token: ring.told(index),
                    in_use: index == ring.in_play,
                    condition: standing.condition(now),
                    group: standing.group(),
                    usage: &load.usage,
                    under_way: load.under_way,
                    served: load.served,
                    refused: load.refused,
                }
            })
        })
    }

    fn load(&mut self, ring: usize, index: usize) -> Option<&mut TokenLoad> {
        self.rings.get_mut(ring)?.loads.get_mut(index)
    }
}

impl Ring {
    fn fitness(&self, index: usize, rules: &Rules, now: Now) -> Fitness {
        match self.pool.state(index).condition(now) {
            Condition::Unknown | Condition::Usable => Fitness::Good,
            Condition::NearLimit { until } if until.remaining(now) <= rules.patience => {
                Fitness::Good
            }
            Condition::NearLimit { .. } => Fitness::Near,
            Condition::Limited { .. } | Condition::SpendCapped { until: Some(_) } => Fitness::Bad,
            Condition::SpendCapped { until: None } | Condition::Rejected => {
                let learned = self.loads[index].learned;
                match learned.map(|at| now.tick.saturating_duration_since(at)) {
                    Some(ago) if ago >= REVIEW => Fitness::Near,
                    _ => Fitness::Bad,
                }
            }
        }
    }

    /// The token to use, if one is usable now.
    fn candidate(&mut self, strategy: Strategy, rules: &Rules, now: Now) -> Option<usize> {
        let len = self.pool.len();
        let first = match strategy {
            Strategy::RoundRobin => self.turn,
            Strategy::Sticky | Strategy::Headroom => self.pool.current_index(),
        };
        let ring = || (0..len).map(|steps| (first + steps) % len);
        let used = |index: usize| self.pool.state(index).used().unwrap_or(0.0);
        let is_good = |index: &usize| matches!(self.fitness(*index, rules, now), Fitness::Good);
        let is_near = |index: &usize| matches!(self.fitness(*index, rules, now), Fitness::Near);
        let least = |a: &usize, b: &usize| used(*a).total_cmp(&used(*b));
        let good = match strategy {
            Strategy::Headroom => ring().filter(is_good).min_by(least),
            Strategy::Sticky | Strategy::RoundRobin => ring().find(is_good),
        };
        // Nothing is lost by running into the limit: the request then goes to another token, or
        // waits. So what is left of a token is used before anyone waits.
        let near = || match strategy {
            Strategy::Sticky if is_near(&first) => Some(first),
            _ => ring().filter(is_near).min_by(least),
        };
        let chosen = good.or_else(near)?;
        self.turn = (chosen + 1) % len;
        Some(chosen)
    }

    /// Notes which tokens are refused from now on. An answer may tell of all of a quota group.
    fn note_refusals(&mut self, now: Now) {
        for (index, load) in self.loads.iter_mut().enumerate() {
            if !self.pool.state(index).condition(now).is_refused() {
                load.learned = None;
            } else if load.learned.is_none() {
                load.learned = Some(now.tick);
                load.proven = false;
            }
        }
    }

    /// Whether the token in use is to be left for good, and not only for a few seconds.
    fn is_left(&self, rules: &Rules, now: Now) -> bool {
        match self.pool.state(self.pool.current_index()).condition(now) {
            Condition::Limited { until } => until.remaining(now) > rules.patience,
            _ => true,
        }
    }

    /// One more request goes out with this token, unless its first ones are still under way.
    fn set_out(&mut self, index: usize, patient: bool, now: Now) -> Pick {
        let hopeless = self.pool.state(index).condition(now).is_hopeless();
        let load = &mut self.loads[index];
        if patient && !load.proven && load.under_way >= TRIAL_REQUESTS {
            return Pick::Queue;
        }
        if hopeless {
            // A look at what is hopeless is one request.
            load.learned = Some(now.tick);
        }
        load.under_way += 1;
        Pick::Go { index }
    }

    /// No token is usable now: when one will be.
    fn earliest(&mut self, now: Now, say: &mut Vec<RunEvent>) -> Pick {
        let first = self.first_reset(now);
        let news = !std::mem::replace(&mut self.said_exhausted, true);
        let Some((until, index)) = first else {
            if news {
                say.push(RunEvent::NoneLeft {
                    provider: self.pool.current().provider,
                });
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
                token: self.told(index),
                span: until.remaining(now),
                at: until.wall,
                now: now.wall,
                held: true,
            });
        }
        Pick::Hold { until, index }
    }

    /// A sticky request goes out with this token.
    fn bring_into_play(&mut self, index: usize, now: Now, say: &mut Vec<RunEvent>) {
        let last = std::mem::replace(&mut self.in_play, index);
        if last == index {
            return;
        }
        // One that was passed over for some seconds is gone back to without a limit.
        if !self.pool.state(last).condition(now).is_good() {
            say.push(RunEvent::AutoRotating);
        }
        let token = self.told(index);
        say.push(RunEvent::Switched { token });
    }

    /// Nobody is held any longer: requests go out with the token at `index`, or are all gone.
    fn end_hold(&mut self, index: Option<usize>) -> Option<RunEvent> {
        let hold = self.hold.take()?;
        hold.told.then(|| RunEvent::HoldOver {
            token: self.told(index.unwrap_or(self.in_play)),
            abandoned: index.is_none(),
        })
    }

    /// A token as it is told of.
    fn told(&self, index: usize) -> TokenRef {
        let ring = self.place;
        TokenRef::new(&self.pool, TokenId { ring, index }, self.several)
    }

    /// When the first of the spent tokens is good again, and which one it is.
    fn first_reset(&self, now: Now) -> Option<(Until, usize)> {
        (0..self.pool.len())
            .filter_map(|index| match self.pool.state(index).condition(now) {
                Condition::Limited { until } | Condition::SpendCapped { until: Some(until) } => {
                    Some((until, index))
                }
                _ => None,
            })
            .min_by_key(|(until, _)| until.wall)
    }
}

#[cfg(test)]
mod tests;
