//! Searching in bytes that are no text yet: bodies and pieces of streams.
//!
//! It promises one pass that is fast also where the compiler optimizes for size. Pure.

use memchr::{memchr, memchr_iter, memchr2};

/// Where `part`, which is not empty, first stands in `whole`.
pub(crate) fn find(whole: &[u8], part: &[u8]) -> Option<usize> {
    let first = *part.first()?;
    memchr_iter(first, whole).find(|at| whole[*at..].starts_with(part))
}

/// Where the first byte like this one stands in `whole`, from `at` on.
pub(crate) fn find_byte(whole: &[u8], byte: u8, at: usize) -> Option<usize> {
    memchr(byte, whole.get(at..)?).map(|found| at + found)
}

/// The path in a request target, without its query and fragment (RFC 3986 §3).
pub(crate) fn path_of(target: &str) -> &str {
    let end = memchr2(b'?', b'#', target.as_bytes());
    &target[..end.unwrap_or(target.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_finds_what_a_slow_search_finds(whole in "[ab]{0,20}", part in "[ab]{1,4}", at in 0..25_usize) {
            prop_assert_eq!(find(whole.as_bytes(), part.as_bytes()), whole.find(&part));
            let slow = whole.get(at..).and_then(|rest| rest.find('a')).map(|found| at + found);
            prop_assert_eq!(find_byte(whole.as_bytes(), b'a', at), slow);
        }

        #[test]
        fn a_path_ends_at_its_query(target in "[/aé?#]{0,12}") {
            prop_assert_eq!(Some(path_of(&target)), target.split(['?', '#']).next());
        }
    }
}
