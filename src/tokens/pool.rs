//! The pool: tokens in a ring, which one is in use, and what is known of each.
//!
//! It promises that there is always a current token and that indices are stable for a run: a token that
//! is added comes at the end, and one that is removed keeps its place, and is never chosen again.
//! It does not decide which token comes next; `policy.rs` does.

use super::Token;
use crate::common::time::Now;
use crate::providers::endpoint::Endpoint;
use crate::providers::monitor::Credentials;
use crate::tokens::condition::TokenState;
use std::sync::Arc;
use std::time::Duration;

/// A ring of tokens, and where to ask about it: an endpoint for each of its providers.
pub(crate) type Ring = (TokenPool, Vec<Endpoint>);

/// A ring of at least one token, as it stands in one scope.
#[derive(Clone, Debug)]
pub(crate) struct TokenPool {
    tokens: Arc<[Token]>,
    states: Vec<TokenState>,
    current: usize,
    /// How many other live runs hold each token; empty where none is known to.
    holders: Vec<usize>,
}

/// What has changed in the files that a ring's tokens came from.
#[derive(Clone, Debug)]
pub(crate) struct Renewal {
    /// Of each token that the ring has: by what its owner knows it now; `None`: it is gone.
    names: Vec<Option<&'static str>>,
    /// Tokens that the ring does not have yet, and what is known of them.
    pub(crate) added: Option<TokenPool>,
    /// The places, in the ring as it will be, of tokens that were added, or are there again.
    pub(crate) here: Vec<usize>,
    /// The places of tokens that are gone.
    pub(crate) gone: Vec<usize>,
}

impl TokenPool {
    /// What is different in `found`, all tokens that there are now; `None` where nothing is.
    pub(crate) fn compare(&self, found: &[Token]) -> Option<Renewal> {
        let is_same = |one: &Token, other: &Token| {
            std::ptr::eq(one.provider, other.provider) && one.secret == other.secret
        };
        let now_of = |own: &Token| found.iter().find(|token| is_same(token, own));
        let names: Vec<Option<&'static str>> = self
            .tokens()
            .map(|own| now_of(own).map(|token| token.name))
            .collect();
        let added = found.iter().filter_map(|token| {
            let mut own = self.tokens();
            let sibling = own.find(|own| std::ptr::eq(own.provider, token.provider))?;
            let is_known = self.tokens().any(|own| is_same(own, token));
            (!is_known).then(|| Token {
                // The command takes it where it takes the others.
                variables: sibling.variables.clone(),
                ..token.clone()
            })
        });
        let added = TokenPool::new(added.collect());
        let (mut here, mut gone) = (Vec::new(), Vec::new());
        for (index, (name, state)) in names.iter().zip(&self.states).enumerate() {
            match (name, state.removed) {
                (Some(_), true) => here.push(index),
                (None, false) => gone.push(index),
                _ => {}
            }
        }
        here.extend(self.len()..self.len() + added.as_ref().map_or(0, TokenPool::len));
        let is_new = !here.is_empty() || !gone.is_empty();
        is_new.then_some(Renewal {
            names,
            added,
            here,
            gone,
        })
    }

    /// Takes in what is different.
    pub(crate) fn renew(&mut self, renewal: &Renewal) {
        let mut tokens = self.tokens.to_vec();
        for ((token, state), name) in tokens.iter_mut().zip(&mut self.states).zip(&renewal.names) {
            token.name = name.unwrap_or(token.name);
            state.removed = name.is_none();
        }
        if let Some(added) = &renewal.added {
            tokens.extend(added.tokens().cloned());
            self.states.extend(added.states.iter().cloned());
        }
        self.tokens = tokens.into();
    }

    /// A pool that starts at its first token; `None` without one.
    pub(crate) fn new(tokens: Vec<Token>) -> Option<TokenPool> {
        let label = |token: &Token| TokenState::new(token.group.clone());
        (!tokens.is_empty()).then(|| TokenPool {
            states: tokens.iter().map(label).collect(),
            tokens: tokens.into(),
            current: 0,
            holders: Vec::new(),
        })
    }

    /// The texts of its tokens, and who accepts them.
    pub(crate) fn credentials(&self) -> Credentials {
        self.tokens()
            .map(|token| (token.provider, token.secret.clone()))
            .collect()
    }

    /// The same tokens in another scope, of which nothing is known but what holds in every one.
    pub(super) fn elsewhere(&self) -> TokenPool {
        TokenPool {
            states: self.states.iter().map(TokenState::elsewhere).collect(),
            ..self.clone()
        }
    }

    /// Takes in what another scope of the same tokens has found out and holds in every one.
    pub(super) fn follow(&mut self, other: &TokenPool) {
        for (own, other) in self.states.iter_mut().zip(&other.states) {
            own.follow(other);
        }
    }

    /// So many other live runs hold each token.
    pub(crate) fn set_holders(&mut self, holders: Vec<usize>) {
        self.holders = holders;
    }

    /// How many other live runs hold the token at `index`.
    pub(crate) fn holders(&self, index: usize) -> usize {
        self.holders.get(index).copied().unwrap_or_default()
    }

    /// The token in use.
    pub(crate) fn current(&self) -> &Token {
        self.token(self.current)
    }

    /// The place of the token in use, from 0.
    pub(crate) fn current_index(&self) -> usize {
        self.current
    }

    /// Begins at the token at `index`; none is left behind.
    pub(crate) fn start_at(&mut self, index: usize) {
        self.current = index % self.tokens.len();
    }

    /// Moves to the token at `index`, the one that policy chose, and returns it. The token left
    /// behind rests; the one taken up no longer does.
    pub(crate) fn next(&mut self, index: usize) -> &Token {
        self.standing_mut(self.current).leave();
        self.current = index % self.tokens.len();
        self.standing_mut(self.current).take_up();
        self.current()
    }

    /// The places of the tokens ahead, in ring order after the one in use, without moving.
    pub(crate) fn peek(&self) -> impl Iterator<Item = usize> + '_ {
        (1..self.tokens.len()).map(|steps| (self.current + steps) % self.tokens.len())
    }

    /// How long ago the model of this scope was not found with the token at `index`, as long as another one may
    /// be served it.
    pub(crate) fn lacks(&self, index: usize, now: Now) -> Option<Duration> {
        let may_have =
            |state: &TokenState| state.lacks(now).is_none() && !state.condition(now).is_hopeless();
        let ago = self.state(index).lacks(now)?;
        self.states.iter().any(may_have).then_some(ago)
    }

    /// The model of this scope was not found with this token and is there with another one; or, where it is
    /// `known`, with none that could be asked. Whether that holds for the quota group from now on.
    pub(crate) fn lack(&mut self, index: usize, known: bool, now: Now) -> bool {
        let group = self.state(index).group.clone();
        if known && self.state(index).lacked.is_none() {
            return false;
        }
        for (at, state) in self.states.iter_mut().enumerate() {
            if at == index || group.is_some() && state.group == group {
                state.lacked = Some(now.tick);
            }
        }
        self.lacks(index, now).is_some()
    }

    /// The token at `index` was served this scope's model.
    pub(crate) fn has(&mut self, index: usize) {
        self.standing_mut(index).lacked = None;
    }

    /// How many tokens there are; never 0.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// How many quota groups its tokens draw on; `None` as long as that of one is not known.
    pub(crate) fn quotas(&self) -> Option<usize> {
        let groups = self
            .states
            .iter()
            .map(TokenState::group)
            .collect::<Option<Vec<&str>>>()?;
        let is_first = |(i, group): &(usize, &&str)| !groups[..*i].contains(group);
        Some(groups.iter().enumerate().filter(is_first).count())
    }

    /// The token at `index`, counted around the ring.
    pub(crate) fn token(&self, index: usize) -> &Token {
        &self.tokens[index % self.tokens.len()]
    }

    /// All tokens, in order.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.tokens.iter()
    }

    /// What is known of the token at `index`.
    pub(crate) fn state(&self, index: usize) -> &TokenState {
        &self.states[index % self.tokens.len()]
    }

    /// What is known of the token at `index`, to be changed.
    pub(crate) fn standing_mut(&mut self, index: usize) -> &mut TokenState {
        let len = self.tokens.len();
        &mut self.states[index % len]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::common::secret::Secret;
    use crate::providers::by_name;

    /// A pool of Anthropic tokens with these texts.
    pub(crate) fn pool_of(texts: &[&str]) -> TokenPool {
        let tokens = texts.iter().map(|text| ("anthropic", *text));
        pool_over(&tokens.collect::<Vec<_>>())
    }

    /// A pool of tokens with these providers and texts.
    pub(crate) fn pool_over(tokens: &[(&str, &str)]) -> TokenPool {
        let tokens = tokens
            .iter()
            .map(|(provider, text)| {
                let provider = by_name(provider).unwrap();
                Token {
                    provider,
                    variables: provider.token_variables.get(..1).unwrap().to_vec(),
                    secret: Secret::new(text),
                    group: None,
                    name: "",
                }
            })
            .collect();
        TokenPool::new(tokens).unwrap()
    }

    #[test]
    fn the_ring_goes_round() {
        let mut pool = pool_of(&["a", "b", "c"]);
        assert_eq!((pool.len(), pool.current_index()), (3, 0));
        assert_eq!(pool.peek().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(pool.next(2).secret.expose(), "c");
        assert_eq!(pool.peek().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(pool.next(0).secret.expose(), "a");
    }

    #[test]
    fn tokens_come_at_the_end_and_keep_their_places() {
        let mut pool = pool_of(&["a", "b"]);
        let mut renew = |found: &[&str]| {
            let found = pool_of(found);
            let found: Vec<Token> = found.tokens().cloned().collect();
            let renewal = pool.compare(&found)?;
            pool.renew(&renewal);
            let removed = pool.states.iter().map(|state| state.removed).collect();
            Some((renewal.here, renewal.gone, removed))
        };
        assert_eq!(renew(&["b", "a"]), None::<(_, _, Vec<bool>)>);
        let all = |here: &[usize], gone: &[usize], removed: &[bool]| {
            Some((here.to_vec(), gone.to_vec(), removed.to_vec()))
        };
        assert_eq!(renew(&["c", "b"]), all(&[2], &[0], &[true, false, false]));
        assert_eq!(renew(&["c", "b"]), None);
        assert_eq!(
            renew(&["a", "d"]),
            all(&[0, 3], &[1, 2], &[false, true, true, false])
        );
        assert_eq!(pool.len(), 4);
        assert_eq!(pool.token(3).secret.expose(), "d");
    }

    #[test]
    fn there_is_no_pool_without_a_token() {
        assert!(TokenPool::new(Vec::new()).is_none());
    }

    #[test]
    fn one_token_is_its_own_next() {
        let mut pool = pool_of(&["a"]);
        assert_eq!(pool.peek().count(), 0);
        assert_eq!(pool.next(0).secret.expose(), "a");
    }
}
