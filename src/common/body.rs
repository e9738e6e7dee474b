//! The memory of a body: what is large has pages of its own, which the system has back as soon as it is
//! dropped. An allocator may keep them, dlmalloc for ever.
//!
//! Reads as the bytes of the body. Owns nothing but memory.

use memmap2::MmapMut;
use std::ops::{Deref, DerefMut, Range};

/// What is larger has pages of its own, in bytes: as glibc has it (mallopt(3), `M_MMAP_THRESHOLD`).
const LARGE: usize = 128 * 1024;

/// The bytes of a body, of a request or a response.
#[derive(Debug)]
pub(crate) enum Body {
    /// In memory of the allocator's.
    Small(Vec<u8>),
    /// In pages of its own, of which the first `length` bytes are in use.
    Large { pages: MmapMut, length: usize },
}

impl Body {
    /// How many bytes it can have without more memory.
    pub(crate) fn capacity(&self) -> usize {
        match self {
            Body::Small(bytes) => bytes.capacity(),
            Body::Large { pages, .. } => pages.len(),
        }
    }

    /// Makes it empty. Its memory serves the next body.
    pub(crate) fn clear(&mut self) {
        self.set_length(0);
    }

    /// Makes it so long. What is in it then means nothing.
    pub(crate) fn resize(&mut self, length: usize) {
        if length > self.capacity() {
            self.clear();
            self.reserve(length);
        }
        self.set_length(length);
    }

    /// Puts more at its end.
    pub(crate) fn extend_from_slice(&mut self, more: &[u8]) {
        let start = self.len();
        let length = start + more.len();
        if length > self.capacity() {
            self.reserve(length.max(2 * self.capacity()));
        }
        match self {
            Body::Small(bytes) => bytes.extend_from_slice(more),
            Body::Large { pages, length: now } => {
                pages[start..length].copy_from_slice(more);
                *now = length;
            }
        }
    }

    /// Puts other bytes in the place of these. Returns what was there.
    pub(crate) fn splice(&mut self, place: Range<usize>, other: &[u8]) -> Vec<u8> {
        let was = self[place.clone()].to_vec();
        let tail = self[place.end..].to_vec();
        self.set_length(place.start);
        self.extend_from_slice(other);
        self.extend_from_slice(&tail);
        was
    }

    /// Has room for so many bytes, and what is in it still.
    fn reserve(&mut self, room: usize) {
        // Without a mapping, the allocator may still have memory.
        let pages = (room > LARGE).then(|| MmapMut::map_anon(room).ok());
        match (pages.flatten(), &mut *self) {
            (Some(mut pages), _) => {
                let length = self.len();
                pages[..length].copy_from_slice(self);
                *self = Body::Large { pages, length };
            }
            (None, Body::Small(bytes)) => bytes.reserve(room - bytes.len()),
            (None, Body::Large { .. }) => {
                let mut bytes = Vec::with_capacity(room);
                bytes.extend_from_slice(self);
                *self = Body::Small(bytes);
            }
        }
    }

    /// Within its capacity.
    fn set_length(&mut self, new: usize) {
        match self {
            // Memory that was used before is cleared no second time.
            Body::Small(bytes) => bytes.resize(new, 0),
            Body::Large { length, .. } => *length = new,
        }
    }

    /// The same as a vector.
    pub(crate) fn into_vec(self) -> Vec<u8> {
        match self {
            Body::Small(bytes) => bytes,
            Body::Large { .. } => self.to_vec(),
        }
    }
}

impl Default for Body {
    fn default() -> Body {
        Body::Small(Vec::new())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body::Small(bytes)
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Body::Small(bytes) => bytes,
            Body::Large { pages, length } => &pages[..*length],
        }
    }
}

impl DerefMut for Body {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Body::Small(bytes) => bytes,
            Body::Large { pages, length } => &mut pages[..*length],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_large_has_pages_of_its_own() {
        let mut body = Body::default();
        body.resize(LARGE);
        assert!(matches!(body, Body::Small(_)));
        body.extend_from_slice(b"x");
        assert!(matches!(body, Body::Large { .. }));
        assert_eq!((body.len(), body.last()), (LARGE + 1, Some(&b'x')));
        // Its memory serves the next one.
        body.clear();
        body.resize(10);
        assert!(matches!(body, Body::Large { .. }));
    }

    proptest! {
        #[test]
        fn it_is_as_a_vector_is(
            pieces in prop::collection::vec((any::<u8>(), 0..100_000_usize), 0..6),
            place in any::<(prop::sample::Index, prop::sample::Index)>(),
            other in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let (mut body, mut vector) = (Body::default(), Vec::new());
            for (byte, count) in pieces {
                body.extend_from_slice(&vec![byte; count]);
                vector.resize(vector.len() + count, byte);
            }
            prop_assert!(body[..] == vector[..]);
            let ends = [place.0.index(vector.len() + 1), place.1.index(vector.len() + 1)];
            let place = ends[0].min(ends[1])..ends[0].max(ends[1]);
            let was: Vec<u8> = vector.splice(place.clone(), other.iter().copied()).collect();
            prop_assert!(body.splice(place, &other) == was);
            prop_assert!(body[..] == vector[..]);
            prop_assert!(body.into_vec() == vector);
        }
    }
}
