//! Which token a request goes out with, and what each answer teaches.
//!
//! One balancer for all requests of all applications, over the run's ledger. What a token's answers
//! mean is `policy`'s to say; here is what to do with many requests at once. It promises that no
//! request goes out with a token that is known to be spent or rejected in its scope, or that shares
//! its quota with a spent one, but for a look now and then; that a token that is new, or comes back
//! from a limit, gets a few requests first; and that a limit seen by many requests at once counts
//! once. It decides and does not act: no socket, no clock. Pure.

mod fallback;
mod lane;
mod spending;

use crate::common::time::{Now, Until};
use crate::events::{Limit, RunEvent, TokenRef};
use crate::providers::Answer;
use crate::providers::meter::Spent;
use crate::providers::scope::Scope;
use crate::providers::usage::Usage;
use crate::providers::{Finding, Reading, Testimony};
use crate::tokens::condition::{Condition, is_same_end};
use crate::tokens::ledger::{Ledger, Outlook, Place, first_reset};
use crate::tokens::policy::{self, Rules};
use crate::tokens::strategy::Strategy;
use crate::tokens::{Renewal, TokenId, TokenPool};
use lane::{Fitness, Lane, TokenLoad, is_left, was_tried};
use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

/// Files and stored answers whose owner is remembered, for each provider.
const MOST_OWNERS: usize = 1024;

/// What a request is to do.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "a pick that is not followed counts as a request under way"]
pub(crate) enum Pick {
    /// Go out with this token; the balancer hears of it again.
    Go { index: usize },
    /// The token to use has its first requests under way: not before one of them is answered.
    Queue,
    /// No token is usable before then; the one that is first is at `index`.
    Hold { until: Until, index: usize },
    /// The token in use is spent, and the user is asked before another one takes its place.
    Asked,
    /// Each usable token was tried for this request.
    Tried,
    /// No token of this provider can recover by waiting.
    Hopeless,
}

/// The ledger, and what many requests at once need beside it.
#[derive(Debug)]
pub(crate) struct Balancer {
    ledger: Ledger,
    rings: Vec<RingState>,
    rules: Rules,
    strategy: Strategy,
    /// The LLM tokens of all answers.
    spent: u64,
    /// What was said of them.
    said_spent: bool,
    said_uncounted: bool,
}

/// The tokens of one provider.
#[derive(Debug, Default)]
struct RingState {
    /// In the order of the ledger's scopes.
    lanes: Vec<Lane>,
    /// For each token.
    counts: Vec<Count>,
    /// The paths of things that belong to one organization, and a token of it; the newest last.
    owners: VecDeque<(String, usize)>,
    /// What was said and holds on.
    said_silent: bool,
    said_quotas: bool,
    /// The fallback's requests were refused, so it is not asked for.
    has_no_fallback: bool,
}

/// What happened to a token's requests.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// Requests that have not been answered.
    under_way: usize,
    served: u64,
    refused: u64,
}

/// Which ring tokens belong to, and whether there are others.
#[derive(Clone, Copy, Debug)]
struct RingName {
    ring: usize,
    several: bool,
}

impl RingName {
    /// A token of the ring, as it is told of.
    fn token(self, pool: &TokenPool, index: usize) -> TokenRef {
        let ring = self.ring;
        TokenRef::new(pool, TokenId { ring, index }, self.several)
    }
}

/// One token, for those who ask how things stand.
#[derive(Debug)]
pub(crate) struct TokenReport<'a> {
    pub(crate) token: TokenRef,
    /// The last characters of its text, by which its owner knows it.
    pub(crate) ending: Option<&'a str>,
    /// Whether it is the one that sticky requests use.
    pub(crate) in_use: bool,
    /// In the scope that was used last.
    pub(crate) condition: Condition,
    pub(crate) group: Option<&'a str>,
    pub(crate) usage: &'a Usage,
    pub(crate) under_way: usize,
    /// Requests since the start that were served, and those that a limit or a rejection refused.
    pub(crate) served: u64,
    pub(crate) refused: u64,
}

impl Balancer {
    /// A balancer over these tokens.
    pub(crate) fn new(mut ledger: Ledger, rules: Rules, strategy: Strategy, now: Now) -> Balancer {
        let mut rings = Vec::new();
        for ring in 0..ledger.len() {
            let mut count = 0;
            if let Some(pool) = ledger.pool_mut(ledger.checked(ring)) {
                count = pool.len();
                if let Some(first) = policy::first(pool, &rules, now) {
                    pool.start_at(first);
                }
            }
            let mut own = RingState {
                counts: vec![Count::default(); count],
                ..RingState::default()
            };
            own.lanes
                .extend(ledger.scopes(ring).map(|(_, pool)| Lane::new(pool)));
            rings.push(own);
        }
        Balancer {
            ledger,
            rings,
            rules,
            strategy,
            spent: 0,
            said_spent: false,
            said_uncounted: false,
        }
    }

    /// The place of a request in the ledger, by what it asks for; `None` without such a ring. `model` is
    /// the one that is to answer, if any.
    pub(crate) fn enter(
        &mut self,
        ring: usize,
        scope: &Scope,
        model: String,
        now: Now,
    ) -> Option<Place> {
        let place = self.ledger.enter(ring, scope, now)?;
        if !model.is_empty() {
            self.ledger.asked_for(place, model);
        }
        self.add_lanes(ring);
        Some(place)
    }

    /// Whether a token can be used in this place.
    pub(crate) fn is_usable(&self, place: Place, now: Now) -> bool {
        let lane = self
            .rings
            .get(place.ring)
            .and_then(|ring| ring.lanes.get(place.scope));
        let known = self.ledger.pool(place).zip(lane);
        known.is_some_and(|(pool, lane)| lane.is_usable(pool, &self.rules, now))
    }

    /// The token for the next request in this place, but none of a quota group that was `tried` for it.
    /// One that is not `patient` has waited long enough for the first requests of a new token.
    pub(crate) fn choose(
        &mut self,
        place: Place,
        tried: &[usize],
        patient: bool,
        now: Now,
        say: &mut Vec<RunEvent>,
    ) -> Pick {
        let named = self.named(place.ring);
        let (strategy, rules) = (self.strategy, &self.rules);
        let (Some(pool), Some(RingState { lanes, counts, .. })) =
            (self.ledger.pool_mut(place), self.rings.get_mut(place.ring))
        else {
            return Pick::Hopeless;
        };
        let Some(lane) = lanes.get_mut(place.scope) else {
            return Pick::Hopeless;
        };
        let Some(index) = lane.candidate(pool, strategy, rules, tried, now) else {
            if lane.is_usable(pool, rules, now) {
                return Pick::Tried;
            }
            return lane.earliest(pool, named, now, say);
        };
        let current = pool.current_index();
        let moves = strategy == Strategy::Sticky && index != current && is_left(pool, rules, now);
        let mut index = index;
        if moves && rules.interactive {
            match lane.fitness(pool, current, rules, now) {
                Fitness::Bad => return Pick::Asked,
                // What is left of it is used meanwhile.
                Fitness::Good | Fitness::Near if !tried.contains(&current) => index = current,
                Fitness::Good | Fitness::Near => {}
            }
        } else if moves {
            pool.next(index);
            // A token that was left rests; one that is taken up is tried with a few requests first.
            if let Some(load) = lane.loads.get_mut(index) {
                load.proven = false;
            }
        }
        let pick = lane.set_out(pool, index, patient, now);
        if let Pick::Go { .. } = pick {
            if let Some(count) = counts.get_mut(index) {
                count.under_way += 1;
            }
            let is_aside = index != current && pool.state(current).condition(now).is_good();
            if strategy == Strategy::Sticky && !is_aside {
                lane.bring_into_play(pool, index, named, now, say);
            }
            // Whoever goes first ends the wait of all.
            say.extend(lane.end_hold(pool, named, Some(index)));
        }
        pick
    }

    /// Requests are to go out with this token from now on.
    pub(crate) fn move_to(&mut self, token: TokenId) {
        let Some(ring) = self.rings.get_mut(token.ring) else {
            return;
        };
        for (scope, lane) in ring.lanes.iter_mut().enumerate() {
            let place = Place {
                scope,
                ring: token.ring,
            };
            let pool = self.ledger.pool_mut(place);
            // Whoever wants it says what comes of it.
            lane.in_play = token.index;
            if let Some(pool) = pool.filter(|pool| pool.current_index() != token.index) {
                pool.next(token.index);
                if let Some(load) = lane.loads.get_mut(token.index) {
                    load.proven = false;
                }
            }
        }
    }

    /// The token of the organization that owns what this path names, as was found out before: now, or when its
    /// limit ends. None of those that were `refused` it.
    pub(crate) fn owner(
        &mut self,
        place: Place,
        path: &str,
        refused: &[usize],
        now: Now,
    ) -> Option<Pick> {
        let rules = &self.rules;
        let pool = self.ledger.pool(place)?;
        let ring = self.rings.get_mut(place.ring)?;
        let (_, index) = *ring.owners.iter().rev().find(|(known, _)| known == path)?;
        let lane = ring.lanes.get_mut(place.scope)?;
        if refused.contains(&index) {
            return None;
        }
        if lane.fitness(pool, index, rules, now) == Fitness::Bad {
            let until = pool.state(index).condition(now).until()?;
            return Some(Pick::Hold { until, index });
        }
        let pick = lane.set_out(pool, index, false, now);
        ring.goes_out(index);
        Some(pick)
    }

    /// What this path names belongs to the organization of the token at `index`.
    pub(crate) fn remember_owner(&mut self, ring: usize, path: &str, index: usize) {
        let Some(ring) = self.rings.get_mut(ring) else {
            return;
        };
        ring.owners.retain(|(known, _)| known != path);
        if ring.owners.len() >= MOST_OWNERS {
            ring.owners.pop_front();
        }
        ring.owners.push_back((path.to_owned(), index));
    }

    /// The model of this place was not found with these tokens. `known`: no other one was served it just now,
    /// though one was before. Whether requests for it do without them from now on.
    pub(crate) fn lack(&mut self, place: Place, tokens: &[usize], known: bool, now: Now) -> bool {
        let Some(pool) = self.ledger.pool_mut(place) else {
            return false;
        };
        !tokens.is_empty() && tokens.iter().all(|index| pool.lack(*index, known, now))
    }

    /// No token serves a request before `until`, while what else the command uses goes on: that is said once
    /// for each end.
    pub(crate) fn refused(
        &mut self,
        place: Place,
        (until, index): (Until, usize),
        now: Now,
    ) -> Vec<RunEvent> {
        let named = self.named(place.ring);
        let known = self.ledger.pool(place).zip(self.ledger.scope(place));
        let event = known.map(|(pool, scope)| RunEvent::ModelSpent {
            token: named.token(pool, index),
            model: scope.words().to_owned(),
            at: until.wall,
            now: now.wall,
        });
        let Some(lane) = self.lane(place) else {
            return Vec::new();
        };
        let last = lane.said_refused.replace(until.wall);
        let is_new = last.is_none_or(|last| !is_same_end(last, until.wall));
        event.filter(|_| is_new).into_iter().collect()
    }

    /// One more request waits for a reset. `told`: what `choose` had to say of it was said.
    pub(crate) fn hold(&mut self, place: Place, is_new: bool, told: bool) {
        if let Some(lane) = self.lane(place) {
            lane.held += usize::from(is_new);
            if let Some(hold) = &mut lane.hold {
                hold.told |= told;
            }
        }
    }

    /// A request waits no longer, because it goes out or because its client is gone.
    #[must_use = "a wait whose end is not said never ends in the record"]
    pub(crate) fn dequeue(&mut self, place: Place) -> Option<RunEvent> {
        let named = self.named(place.ring);
        let pool = self.ledger.pool(place)?;
        let lane = self.rings.get_mut(place.ring)?.lanes.get_mut(place.scope)?;
        lane.held = lane.held.saturating_sub(1);
        if lane.held > 0 {
            return None;
        }
        lane.end_hold(pool, named, None)
    }

    /// A usable token of a quota group that was not `tried`: for one more try when the provider is in
    /// trouble, and to learn whether a token or the request is to blame for a refusal. Nothing when
    /// there is none. A new token's first requests go first there as well.
    pub(crate) fn another(
        &mut self,
        place: Place,
        tried: &[usize],
        patient: bool,
        now: Now,
    ) -> Option<Pick> {
        let rules = &self.rules;
        let pool = self.ledger.pool(place)?;
        let ring = self.rings.get_mut(place.ring)?;
        let lane = ring.lanes.get_mut(place.scope)?;
        let from = tried.last().copied().unwrap_or_default();
        let ahead = (1..pool.len()).map(|steps| (from + steps) % pool.len());
        let untried: Vec<usize> = ahead.filter(|i| !was_tried(pool, *i, tried)).collect();
        let of = |fitness| {
            let mut all = untried.iter().copied();
            all.find(|index| lane.fitness(pool, *index, rules, now) == fitness)
        };
        let index = of(Fitness::Good).or_else(|| of(Fitness::Near))?;
        let pick = lane.set_out(pool, index, patient, now);
        if let Pick::Go { .. } = pick {
            ring.goes_out(index);
        }
        Some(pick)
    }

    /// Takes in the answer to a request that went out with this token. What is not proven changes
    /// nothing but what is known of its quota group.
    pub(crate) fn answered(
        &mut self,
        place: Place,
        index: usize,
        mut answer: Answer,
        testimony: Testimony,
        now: Now,
    ) -> Vec<RunEvent> {
        self.gave_up(place, index);
        if let (Ok(reading), Some(ring)) = (&mut answer.reading, self.rings.get_mut(place.ring)) {
            let is_served = reading.finding == Finding::Served;
            if is_served && let Some(pool) = self.ledger.pool_mut(place) {
                pool.has(index);
            }
            let is_refused = matches!(
                reading.finding,
                Finding::Limited { .. } | Finding::SpendCapped { .. } | Finding::Rejected
            );
            if let Some(count) = ring.counts.get_mut(index) {
                count.served += u64::from(is_served);
                count.refused += u64::from(is_refused);
            }
            if testimony != Testimony::Clear {
                reading.finding = Finding::Unclear {
                    why: "it may be the request that is refused",
                };
            } else if let Some(load) = ring.load(place, index)
                && (is_served || is_refused)
            {
                load.proven = is_served;
            }
        }
        self.learn(place, index, answer, now)
    }

    /// The token at `index` was refused a request, put at `asked`, that another one was then served:
    /// that was its own limit, whatever it said.
    pub(crate) fn blame(
        &mut self,
        place: Place,
        index: usize,
        asked: Instant,
        mut reading: Reading,
        now: Now,
    ) -> Vec<RunEvent> {
        if let Some(load) = self
            .rings
            .get_mut(place.ring)
            .and_then(|ring| ring.load(place, index))
        {
            load.proven = false;
        }
        if !matches!(reading.finding, Finding::Limited { .. }) {
            // Whether it is accepted at all, or can pay, is a check's to say.
            self.ledger.suspend(place, index, asked, now);
            reading.finding = Finding::Unclear {
                why: "another token was served",
            };
        }
        let answer = Answer {
            asked,
            reading: Ok(reading),
        };
        self.learn(place, index, answer, now)
    }

    /// Takes in what a probe of this ring, for this model, found.
    pub(crate) fn probed(
        &mut self,
        ring: usize,
        index: usize,
        model: &str,
        answer: Answer,
        now: Now,
    ) -> Vec<RunEvent> {
        let place = self.ledger.checked_for(ring, index, model);
        self.learn(place, index, answer, now)
    }

    fn learn(&mut self, place: Place, index: usize, answer: Answer, now: Now) -> Vec<RunEvent> {
        let named = self.named(place.ring);
        let Some(pool) = self.ledger.pool(place) else {
            return Vec::new();
        };
        let mut say = Vec::new();
        let token = named.token(pool, index);
        let provider = token.provider;
        let before = pool.state(index).condition(now);
        let Some(ring) = self.rings.get_mut(place.ring) else {
            return Vec::new();
        };
        // What went out before the limit was known meets the same limit; that is no second one.
        let learned = ring.load(place, index).and_then(|load| load.learned);
        let was_found_here = pool.state(index).seen().is_some();
        let is_echo =
            before.is_refused() && was_found_here && learned.is_some_and(|at| answer.asked < at);
        // Not every endpoint tells limits, and what does not tell them does not lift one.
        let is_mute = matches!(before, Condition::NearLimit { .. })
            && answer.reading.as_ref().is_ok_and(|reading| {
                reading.finding == Finding::Served && reading.usage.windows.is_empty()
            });
        if !is_echo && !is_mute {
            self.ledger.record(place, index, &answer, &self.rules, now);
        }
        for (scope, lane) in ring.lanes.iter_mut().enumerate() {
            if let Some(pool) = self.ledger.pool(Place { scope, ..place }) {
                lane.note_refusals(pool, now);
            }
        }
        let Some(pool) = self.ledger.pool(place) else {
            return Vec::new();
        };
        let state = pool.state(index);
        let after = state.condition(now);
        // Above the threshold is no surprise for every request that still goes there.
        if before.is_good() && !after.is_good() {
            let limit = Limit::of(after, state.used());
            let until = after.until().map(|until| until.wall);
            say.push(RunEvent::limit(
                token,
                limit,
                self.ledger.scope(place).map(Scope::words),
                state,
                until,
            ));
        }
        match (state.silence(), ring.said_silent) {
            (Some((silence, _)), false) => {
                ring.said_silent = true;
                say.push(RunEvent::silent(token, silence, &answer.reading));
            }
            (None, true) if answer.reading.is_ok() => {
                ring.said_silent = false;
                say.push(RunEvent::AnswersAgain(provider));
            }
            _ => {}
        }
        say.extend(RunEvent::quotas(pool, &mut ring.said_quotas));
        let mut is_back = false;
        if let (Ok(reading), Some(lane)) = (answer.reading, ring.lanes.get_mut(place.scope)) {
            if reading.finding == Finding::Served {
                lane.said_exhausted = false;
                is_back = std::mem::take(&mut lane.said_fell_back);
            }
            if let (false, Some(load)) =
                (reading.usage.windows.is_empty(), lane.loads.get_mut(index))
            {
                load.usage = reading.usage;
            }
        }
        if is_back {
            say.extend(self.fell_back(place, None));
        }
        say
    }

    /// A request that went out with this token will bring no answer: its client is gone.
    pub(crate) fn gave_up(&mut self, place: Place, index: usize) {
        if let Some(ring) = self.rings.get_mut(place.ring) {
            if let Some(count) = ring.counts.get_mut(index) {
                count.under_way = count.under_way.saturating_sub(1);
            }
            if let Some(load) = ring.load(place, index) {
                load.under_way = load.under_way.saturating_sub(1);
            }
        }
    }

    /// Takes in what has changed in the files that this ring's tokens came from.
    pub(crate) fn renew(&mut self, ring: usize, renewal: &Renewal, now: Now) {
        self.ledger.renew(ring, renewal);
        let Some(own) = self.rings.get_mut(ring) else {
            return;
        };
        let pools = self.ledger.scopes(ring).map(|(_, pool)| pool);
        for (lane, pool) in own.lanes.iter_mut().zip(pools) {
            own.counts.resize(pool.len(), Count::default());
            lane.loads.resize(pool.len(), TokenLoad::default());
            lane.note_refusals(pool, now);
            // Whether one of the new ones will do is news.
            lane.said_exhausted &= renewal.here.is_empty();
        }
    }

    /// Whether a request waits for a reset.
    pub(crate) fn is_holding(&self) -> bool {
        let mut lanes = self.rings.iter().flat_map(|ring| &ring.lanes);
        lanes.any(|lane| lane.held > 0)
    }

    /// All that is known of the tokens.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether a command that uses this provider can go on.
    pub(crate) fn outlook(&self, ring: usize, now: Now) -> Outlook {
        self.ledger.outlook(ring, now)
    }

    /// How each token stands.
    pub(crate) fn report(&self, now: Now) -> impl Iterator<Item = TokenReport<'_>> {
        let several = self.rings.len() > 1;
        self.rings.iter().enumerate().flat_map(move |(at, ring)| {
            let place = self.ledger.last_used(at);
            let lane = ring.lanes.get(place.scope);
            let known = self.ledger.pool(place).zip(lane);
            known.into_iter().flat_map(move |(pool, lane)| {
                let tokens = ring.counts.iter().zip(&lane.loads).enumerate();
                tokens.map(move |(index, (count, load))| {
                    let state = pool.state(index);
                    TokenReport {
                        token: TokenRef::new(pool, TokenId { ring: at, index }, several),
                        ending: pool.token(index).secret.ending(),
                        in_use: index == lane.in_play,
                        condition: state.condition(now),
                        group: state.group(),
                        usage: &load.usage,
                        under_way: count.under_way,
                        served: count.served,
                        refused: count.refused,
                    }
                })
            })
        })
    }

    fn lane(&mut self, place: Place) -> Option<&mut Lane> {
        self.rings.get_mut(place.ring)?.lanes.get_mut(place.scope)
    }

    /// A lane for each scope that the ledger knows.
    fn add_lanes(&mut self, ring: usize) {
        let Some(own) = self.rings.get_mut(ring) else {
            return;
        };
        let known = own.lanes.len();
        let new = self.ledger.scopes(ring).skip(known);
        own.lanes.extend(new.map(|(_, pool)| Lane::new(pool)));
    }

    /// How a ring is told of.
    fn named(&self, ring: usize) -> RingName {
        RingName {
            ring,
            several: self.rings.len() > 1,
        }
    }
}

impl RingState {
    fn load(&mut self, place: Place, index: usize) -> Option<&mut TokenLoad> {
        self.lanes.get_mut(place.scope)?.loads.get_mut(index)
    }

    /// One more request goes out with this token.
    fn goes_out(&mut self, index: usize) {
        if let Some(count) = self.counts.get_mut(index) {
            count.under_way += 1;
        }
    }
}

#[cfg(test)]
mod tests;
