//! How much memory the bodies of requests may take, all together.
//!
//! Promises that what is set aside for a body is given back when the body is. Does not own the memory
//! itself, nor what becomes of a body that finds no room: it passes through once, as one that is too
//! large does.

use crate::common::http::reader::{BODY_MAX, BodyFraming};
use std::sync::atomic::{AtomicUsize, Ordering};

/// All bodies that are kept for another try, in bytes.
const MOST: usize = 256 * 1024 * 1024;

/// The bytes that are set aside.
#[derive(Debug, Default)]
pub(crate) struct Room(AtomicUsize);

/// Bytes that are set aside for one body, until this is dropped.
#[derive(Debug)]
pub(crate) struct BodyRoom<'a> {
    room: &'a Room,
    bytes: usize,
}

impl Room {
    /// Room for a body, as large as it can be; `None`: there is not enough left.
    pub(crate) fn for_body(&self, body: BodyFraming) -> Option<BodyRoom<'_>> {
        let bytes = match body {
            // One that is too large is not kept.
            BodyFraming::Length(length) if length > BODY_MAX as u64 => 0,
            BodyFraming::Length(length) => usize::try_from(length).unwrap_or(BODY_MAX),
            BodyFraming::Chunked(_) | BodyFraming::UntilEnd => BODY_MAX,
        };
        let more = |taken: usize| taken.checked_add(bytes).filter(|all| *all <= MOST);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| BodyRoom { room: self, bytes })
    }
}

impl BodyRoom<'_> {
    /// The body is whole, and has so many bytes.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let kept = bytes.min(self.bytes);
        self.room.0.fetch_sub(self.bytes - kept, Ordering::Relaxed);
        self.bytes = kept;
    }
}

impl Drop for BodyRoom<'_> {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::http::reader::Chunk;

    #[test]
    fn what_is_set_aside_is_bounded_and_comes_back() {
        let room = Room::default();
        let largest = BodyFraming::Length(BODY_MAX as u64);
        let mut all: Vec<_> = (0..MOST / BODY_MAX)
            .filter_map(|_| room.for_body(largest))
            .collect();
        assert_eq!(all.len(), 8);
        assert!(room.for_body(BodyFraming::Length(1)).is_none());
        assert!(room.for_body(BodyFraming::NONE).is_some());
        // It passes through anyway.
        assert!(room.for_body(BodyFraming::Length(u64::MAX)).is_some());
        if let Some(last) = all.last_mut() {
            last.shrink_to(1000);
        }
        assert!(room.for_body(BodyFraming::Chunked(Chunk::Size)).is_none());
        drop(all);
        assert!(room.for_body(BodyFraming::Chunked(Chunk::Size)).is_some());
        assert_eq!(room.0.load(Ordering::Relaxed), 0);
    }
}
