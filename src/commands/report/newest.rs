//! A list of bounded length: the newest items, and how many were given up for them. A journal may be of any
//! length, the memory for its report may not.

use std::ops::{Deref, DerefMut};

/// Items of one kind that are kept at most, so that a journal of any length takes bounded memory: a check in
/// each minute of two months, and more events than anybody reads.
const MOST_KEPT: usize = if cfg!(test) { 2_000 } else { 100_000 };

/// The newest items of a list: when it is full, its older half is given up.
#[derive(Debug)]
pub(crate) struct Newest<T> {
    kept: Vec<T>,
    given_up: usize,
}

impl<T> Default for Newest<T> {
    fn default() -> Newest<T> {
        Newest {
            kept: Vec::new(),
            given_up: 0,
        }
    }
}

impl<T> Newest<T> {
    pub(crate) fn push(&mut self, item: T) {
        if self.kept.len() == MOST_KEPT {
            self.kept.drain(..MOST_KEPT / 2);
            self.given_up += MOST_KEPT / 2;
        }
        self.kept.push(item);
    }

    /// Takes the last item back.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.kept.pop()
    }

    /// How many items there have been.
    pub(crate) fn count(&self) -> usize {
        self.given_up + self.kept.len()
    }

    /// How many items are not kept any more.
    pub(crate) fn given_up(&self) -> usize {
        self.given_up
    }
}

impl<T> Deref for Newest<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.kept
    }
}

impl<T> DerefMut for Newest<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.kept
    }
}
