//! The ledger: all that a run knows of its tokens, in each scope.
//!
//! Owns the pools of all rings, one for each scope that a ring was used in: a limit that one model met
//! says nothing of another. It promises that a limit in one scope never changes another one, that a
//! spend cap holds for its quota group and a rejection for its token in every scope, and that nothing
//! it learns keeps a good token unusable for ever. It takes `now`, decides nothing and acts on nothing.

use super::condition::Condition;
use super::policy::{self, Decision, Rules, Suspension};
use super::{Renewal, TokenPool};
use crate::common::time::{Now, Until};
use crate::providers::Answer;
use crate::providers::scope::Scope;
use std::time::{Duration, Instant};

/// What the command has used within this time is what it is using: an agent that works asks its model
/// every few seconds, and one of its helpers every few minutes.
const LATELY: Duration = Duration::from_secs(10 * 60);
/// A child that fails within this time after a request of a refused model has most likely failed for
/// that.
const SHORTLY: Duration = Duration::from_secs(60);
/// A token that was last asked about so long before the newest refusal is asked about again before a wait.
const OLD: Duration = Duration::from_secs(60);
/// Scopes of one ring that are distinguished at most. A command uses a handful; the names of models come from
/// outside, and must not fill the memory.
const MOST_SCOPES: usize = 64;

/// A scope of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The ring, from 0.
    pub(crate) ring: usize,
    /// The scope's place in the ring, from 0: the first is the one that checks ask about at the start.
    pub(crate) scope: usize,
}

/// Whether a command can go on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outlook {
    /// Something that it has been using is served.
    Usable,
    /// Nothing is before then; `index` is the token that comes first.
    Until { until: Until, index: usize },
    /// Nothing will be served until somebody mends or pays for a token.
    Hopeless,
}

/// What is known of the tokens of one ring in one scope.
#[derive(Clone, Debug)]
struct Book {
    scope: Scope,
    pool: TokenPool,
    /// When a request was last made in it.
    used: Option<Instant>,
    /// The model that was last asked for an answer here, as the request calls it.
    model: String,
    /// How many of the latest requests for answers came here: each counts a little less than the next one.
    share: f32,
}

impl Book {
    /// One in which no request was made.
    fn new(scope: Scope, pool: TokenPool) -> Book {
        Book {
            scope,
            pool,
            used: None,
            model: String::new(),
            share: 0.0,
        }
    }

    /// Whether requests are refused with each token.
    fn is_refused(&self, now: Now) -> bool {
        let pool = &self.pool;
        let is_refused = |index| {
            pool.state(index).condition(now).is_refused() || pool.lacks(index, now).is_some()
        };
        (0..pool.len()).all(is_refused)
    }
}

/// All that is known.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    rings: Vec<Vec<Book>>,
    /// Whether the checks of a ring follow the command's requests; else somebody has named their model.
    follow: Vec<bool>,
}

/// How much less a request counts than the next one, when it comes to which model the command uses: a client
/// asks its small model for a title now and then, and its user may change to another one.
const FADES: f32 = 0.875;

impl Ledger {
    /// A ledger of these rings, each with the scope that its checks ask about. Where the user has named
    /// the model, the command counts as using it from its start.
    pub(crate) fn new(
        rings: impl IntoIterator<Item = (TokenPool, Scope, bool)>,
        now: Now,
    ) -> Ledger {
        let book = |(pool, scope, is_named): (TokenPool, Scope, bool)| {
            vec![Book {
                used: is_named.then_some(now.tick),
                ..Book::new(scope, pool)
            }]
        };
        let rings: Vec<_> = rings.into_iter().map(book).collect();
        Ledger {
            follow: vec![false; rings.len()],
            rings,
        }
    }

    /// From now on the checks of these rings follow the command's requests.
    pub(crate) fn follow(&mut self, rings: Vec<bool>) {
        self.follow = rings;
    }

    /// A request in this place asks this model for an answer.
    pub(crate) fn asked_for(&mut self, place: Place, model: String) {
        for (scope, book) in self
            .rings
            .get_mut(place.ring)
            .into_iter()
            .flatten()
            .enumerate()
        {
            book.share *= FADES;
            if scope == place.scope {
                book.share += 1.0;
                book.model.clone_from(&model);
            }
        }
    }

    /// The model that most of the latest requests of this ring asked for an answer, and its place.
    pub(crate) fn model(&self, ring: usize) -> Option<(Place, &str)> {
        let books = self.rings.get(ring).into_iter().flatten().enumerate();
        let asked = books.filter(|(_, book)| !book.model.is_empty());
        let (scope, book) = asked.max_by(|(_, a), (_, b)| a.share.total_cmp(&b.share))?;
        Some((Place { ring, scope }, &book.model))
    }

    /// The same, where the checks of this ring are to ask for it.
    pub(crate) fn followed(&self, ring: usize) -> Option<(Place, &str)> {
        let follows = self.follow.get(ring) == Some(&true);
        self.model(ring).filter(|_| follows)
    }

    /// The scope that checks of this ring ask about.
    pub(crate) fn checked(&self, ring: usize) -> Place {
        let followed = self.followed(ring).map(|(place, _)| place);
        followed.unwrap_or(Place { ring, scope: 0 })
    }

    /// The place of an answer to a check that was put for this model: the command may use another one since.
    pub(crate) fn checked_for(&self, ring: usize, index: usize, model: &str) -> Place {
        let checked = self.checked(ring);
        let provider = self.pool(checked).map(|pool| pool.token(index).provider);
        let scope = provider.map(|provider| Scope::of_model(provider, model));
        let books = self.rings.get(ring).map_or(&[][..], Vec::as_slice);
        let known = books
            .iter()
            .position(|book| Some(&book.scope) == scope.as_ref());
        let known = known.map(|scope| Place { ring, scope });
        known.unwrap_or(checked)
    }

    /// How many rings there are.
    pub(crate) fn len(&self) -> usize {
        self.rings.len()
    }

    /// The place of a scope, which a request is about to use; `None` without such a ring.
    pub(crate) fn enter(&mut self, ring: usize, scope: &Scope, now: Now) -> Option<Place> {
        let place = self.place(ring, scope)?;
        self.book_mut(place)?.used = Some(now.tick);
        Some(place)
    }

    /// The place of a scope.
    pub(crate) fn place(&mut self, ring: usize, scope: &Scope) -> Option<Place> {
        let books = self.rings.get_mut(ring)?;
        let known = |scope: &Scope, books: &[Book]| books.iter().position(|b| b.scope == *scope);
        let at = known(scope, books).or_else(|| {
            // At the bound, all further models share a scope.
            let scope = match books.len() < MOST_SCOPES {
                true => scope.clone(),
                false => Scope {
                    class: String::new(),
                    ..scope.clone()
                },
            };
            known(&scope, books).or_else(|| {
                let pool = books.first()?.pool.elsewhere();
                books.push(Book::new(scope, pool));
                Some(books.len() - 1)
            })
        })?;
        Some(Place { ring, scope: at })
    }

    /// The tokens of a ring as they stand in a scope; `None` without such a place.
    pub(crate) fn pool(&self, place: Place) -> Option<&TokenPool> {
        let book = self.rings.get(place.ring)?.get(place.scope)?;
        Some(&book.pool)
    }

    /// The same, to be changed.
    pub(crate) fn pool_mut(&mut self, place: Place) -> Option<&mut TokenPool> {
        Some(&mut self.book_mut(place)?.pool)
    }

    /// What the limits of a place hold for.
    pub(crate) fn scope(&self, place: Place) -> Option<&Scope> {
        Some(&self.rings.get(place.ring)?.get(place.scope)?.scope)
    }

    /// What the requests of a place are for, as people call it: the model, or the kind of endpoint.
    pub(crate) fn name(&self, place: Place) -> Option<&str> {
        let scope = self.scope(place)?;
        Some(match scope.class.as_str() {
            "" => scope.kind.name(),
            model => model,
        })
    }

    /// All places of a ring with their scopes, and what is known there.
    pub(crate) fn scopes(&self, ring: usize) -> impl Iterator<Item = (&Scope, &TokenPool)> {
        let books = self.rings.get(ring).into_iter().flatten();
        books.map(|book| (&book.scope, &book.pool))
    }

    /// The place of a ring where a request was made last, or that of its checks.
    pub(crate) fn last_used(&self, ring: usize) -> Place {
        let books = self.rings.get(ring).map_or(&[][..], Vec::as_slice);
        // If no request was made in any of them, the first.
        let last = books
            .iter()
            .enumerate()
            .rev()
            .max_by_key(|(_, book)| book.used);
        let scope = last.map_or(0, |(place, _)| place);
        Place { ring, scope }
    }

    /// Whether a request of the command's was seen for this ring, or the user has named its model.
    pub(crate) fn is_used(&self, ring: usize) -> bool {
        let mut books = self.rings.get(ring).into_iter().flatten();
        books.any(|book| book.used.is_some())
    }

    /// Takes in an answer: in its scope, and elsewhere what holds elsewhere.
    pub(crate) fn record(
        &mut self,
        place: Place,
        index: usize,
        answer: &Answer,
        rules: &Rules,
        now: Now,
    ) {
        let Some(pool) = self.pool_mut(place) else {
            return;
        };
        policy::record(pool, index, answer, rules, now);
        let books = self.rings.get_mut(place.ring).into_iter();
        let parts = books.filter_map(|books| books.split_at_mut_checked(place.scope));
        for (before, rest) in parts {
            if let Some((known, after)) = rest.split_first_mut() {
                let others = before.iter_mut().chain(after);
                others.for_each(|book| book.pool.follow(&known.pool));
            }
        }
    }

    /// Takes in what has changed in the files that this ring's tokens came from.
    pub(crate) fn renew(&mut self, ring: usize, renewal: &Renewal) {
        for book in self.rings.get_mut(ring).into_iter().flatten() {
            book.pool.renew(renewal);
        }
    }

    /// The token at `index` is not used in this place for a while: it was refused what another one was
    /// served.
    pub(crate) fn suspend(&mut self, place: Place, index: usize, asked: Instant, now: Now) {
        if let Some(pool) = self.pool_mut(place) {
            pool.standing_mut(index).suspend(asked, now);
        }
    }

    /// The provider does not have what was asked for there: the command does not use it.
    pub(crate) fn leave(&mut self, place: Place) {
        if let Some(book) = self.book_mut(place) {
            book.used = None;
        }
    }

    /// Whether the command that uses this ring can go on: it cannot once everything that it has been using
    /// lately is refused. If it has asked any model, only models count: being able to list models or to count
    /// a prompt helps nobody.
    pub(crate) fn outlook(&self, ring: usize, now: Now) -> Outlook {
        let Some(books) = self.rings.get(ring) else {
            return Outlook::Hopeless;
        };
        let is_recent = |book: &&Book| {
            let ago = book.used.map(|at| now.tick.saturating_duration_since(at));
            ago.is_some_and(|ago| ago < LATELY)
        };
        let recent = || books.iter().filter(is_recent);
        let works = |book: &&Book| book.scope.kind.is_work();
        let mut used: Vec<&Book> = recent().filter(works).collect();
        if used.is_empty() {
            used = recent().collect();
        }
        if used.is_empty() {
            used.extend(books.first());
        }
        if used.iter().any(|book| !book.is_refused(now)) {
            return Outlook::Usable;
        }
        let resets = used.iter().filter_map(|book| first_reset(&book.pool, now));
        match resets.min_by_key(|(until, _)| until.wall) {
            Some((until, index)) => Outlook::Until { until, index },
            None => Outlook::Hopeless,
        }
    }

    /// What to do about a command whose requests to this ring go through the proxy. The proxy goes on with
    /// another token by itself, and holds a request for up to `hold`; the command is only stopped when
    /// everything that it uses is refused for longer. A child that has failed had just met a limit if a
    /// model that it asked is refused.
    pub(crate) fn decide(
        &self,
        ring: usize,
        rules: &Rules,
        held: Suspension,
        hold: Duration,
        now: Now,
    ) -> Decision {
        let Some(pool) = self.pool(self.checked(ring)) else {
            return Decision::Keep;
        };
        let wait = |reset| policy::wait(Some(reset), None, rules, held, now);
        let outlook = self.outlook(ring, now);
        let asked = || match policy::decide(self.pool(self.last_used(ring))?, rules, held, now) {
            found @ (Decision::Rotate { .. } | Decision::Probe { .. }) => Some(found),
            _ => None,
        };
        // Where the user is asked first, the proxy goes on with the token in use.
        let is_asked = rules.interactive && !matches!(held, Suspension::Ended { .. });
        if let (true, Outlook::Usable) = (is_asked, outlook)
            && let Some(found) = asked()
        {
            return found;
        }
        if let Suspension::No = held {
            let probe = || self.to_ask_before_a_wait(ring, now);
            return match outlook {
                Outlook::Usable => Decision::Keep,
                Outlook::Until { until, .. } if until.remaining(now) <= hold => Decision::Keep,
                Outlook::Until { until, index } => probe().unwrap_or_else(|| wait((until, index))),
                Outlook::Hopeless => probe().unwrap_or(Decision::NoUsableToken),
            };
        }
        let met = match held {
            Suspension::Ended { since } => self.refused_shortly_before(ring, since.tick, now),
            _ => None,
        };
        // The proxy chooses the token.
        let decision = match policy::decide(pool, rules, held, now) {
            Decision::Rotate { .. } | Decision::KeepUntil { .. } => Decision::Keep,
            decision => decision,
        };
        match (decision, outlook, met) {
            (Decision::Keep, _, Some(reset)) => wait(reset),
            (Decision::Keep, Outlook::Until { until, index }, None) => wait((until, index)),
            // What is checked is refused, but not what the command uses.
            (
                Decision::Wait { index: Some(_), .. }
                | Decision::ExceedsMaxWait { .. }
                | Decision::NoUsableToken,
                Outlook::Usable,
                None,
            ) if matches!(held, Suspension::Paused { .. }) => Decision::Keep,
            (
                Decision::Wait { index: Some(_), .. } | Decision::ExceedsMaxWait { .. },
                Outlook::Until { until, index },
                _,
            ) => wait((until, index)),
            (decision, ..) => decision,
        }
    }

    /// A token that was last heard of well before the newest refusal: what is known of it is a prediction,
    /// and one question checks it before a wait or an end.
    fn to_ask_before_a_wait(&self, ring: usize, now: Now) -> Option<Decision> {
        let pool = self.pool(self.checked(ring))?;
        let newest = (0..pool.len()).filter_map(|i| pool.state(i).found).max()?;
        let index = (0..pool.len()).find(|index| {
            let state = pool.state(*index);
            let is_old = state.asked().is_none_or(|asked| asked + OLD < newest);
            state.condition(now).is_refused_for_now() && is_old
        })?;
        Some(Decision::Probe { index })
    }

    /// For the models that were asked shortly before `then` and are refused with each token: when the first
    /// is served again.
    fn refused_shortly_before(
        &self,
        ring: usize,
        then: Instant,
        now: Now,
    ) -> Option<(Until, usize)> {
        let books = self.rings.get(ring).into_iter().flatten();
        let asked = books.filter(|book| book.used.is_some_and(|used| used + SHORTLY >= then));
        asked
            .filter(|book| book.scope.kind.is_work() && book.is_refused(now))
            .filter_map(|book| first_reset(&book.pool, now))
            .min_by_key(|(until, _)| until.wall)
    }

    fn book_mut(&mut self, place: Place) -> Option<&mut Book> {
        self.rings.get_mut(place.ring)?.get_mut(place.scope)
    }
}

/// When the first of the spent tokens is good again, and which one it is.
pub(crate) fn first_reset(pool: &TokenPool, now: Now) -> Option<(Until, usize)> {
    (0..pool.len())
        .filter_map(|index| match pool.state(index).condition(now) {
            Condition::Limited { until } | Condition::SpendCapped { until: Some(until) } => {
                Some((until, index))
            }
            _ => None,
        })
        .min_by_key(|(until, _)| until.wall)
}

#[cfg(test)]
mod tests;
