//! Takes a token out of what a provider sends back, should it ever echo one.
//!
//! It promises not to change any length, so that streams and bodies with a length stay whole, and
//! to find a token also when it comes in two pieces: bytes that could be its beginning wait for the
//! next piece. Pure. What is compressed cannot be looked into.

use crate::common::bytes::find_byte;

/// A token that must not come back.
#[derive(Clone)]
pub(crate) struct Redactor<'a> {
    token: &'a [u8],
    /// The end of the last piece, as far as it could be the token's beginning.
    held: Vec<u8>,
}

/// Made-up tokens may be shorter than this, and occur in ordinary words.
const SHORTEST: usize = 8;

impl<'a> Redactor<'a> {
    /// A mask for this token; one that is too short to be real is not looked for.
    pub(crate) fn of(token: &'a [u8]) -> Redactor<'a> {
        Redactor {
            token: match token.len() {
                0..SHORTEST => &[],
                _ => token,
            },
            held: Vec::new(),
        }
    }

    /// Masks the token wherever it stands in `bytes`.
    pub(crate) fn all(&self, bytes: &mut [u8]) {
        let Some(first) = self.token.first() else {
            return;
        };
        let mut at = 0;
        while let Some(found) = find_byte(bytes, *first, at) {
            at = found;
            if bytes[at..].starts_with(self.token) {
                bytes[at..at + self.token.len()].fill(b'*');
            }
            at += 1;
        }
    }

    /// The next piece of a stream, as it can go on now: with what was held back before it, and
    /// without an end that may be the beginning of the token. `None`: as it is.
    pub(crate) fn piece(&mut self, piece: &[u8]) -> Option<Vec<u8>> {
        let first = self.token.first()?;
        if self.held.is_empty() && find_byte(piece, *first, 0).is_none() {
            return None;
        }
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(piece);
        self.all(&mut bytes);
        let begins = |end: &usize| bytes.ends_with(&self.token[..*end]);
        let longest = (self.token.len() - 1).min(bytes.len());
        if let Some(length) = (1..=longest).rev().find(begins) {
            self.held = bytes.split_off(bytes.len() - length);
        }
        Some(bytes)
    }

    /// What is still held back at the end.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

/// By hand: it holds a token.
impl std::fmt::Debug for Redactor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(mask)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_is_masked_in_its_length() {
        let mut text = *b"a sk-token-1 b sk-token-1sk-token- c";
        Redactor::of(b"sk-token-1").all(&mut text);
        assert_eq!(&text, b"a ********** b **********sk-token- c");
        let mut text = *b"anything";
        Redactor::of(b"").all(&mut text);
        Redactor::of(b"thing").all(&mut text);
        assert_eq!(&text, b"anything");
    }

    #[test]
    fn nothing_is_held_back_without_need() {
        let mut mask = Redactor::of(b"sk-token-1");
        assert_eq!(mask.piece(b"data: {}\n\n"), None);
        assert_eq!(mask.piece(b"data: sock\n\n").unwrap(), b"data: sock\n\n");
        assert_eq!(mask.piece(b"this").unwrap(), b"thi");
        assert_eq!(mask.end(), b"s");
    }

    proptest! {
        #[test]
        fn no_way_of_cutting_lets_it_through(text in "[sk1-]{0,40}", cuts in proptest::collection::vec(1..8_usize, 1..20)) {
            let token = b"sk-sk-s1";
            let mut whole = text.clone().into_bytes();
            whole.splice(0..0, *token);
            whole.extend_from_slice(token);
            let mut mask = Redactor::of(token);
            let (mut out, mut rest, mut turn) = (Vec::new(), &whole[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, later) = rest.split_at((*turn.next().unwrap()).min(rest.len()));
                out.extend(mask.piece(piece).unwrap_or_else(|| piece.to_vec()));
                rest = later;
            }
            out.extend(mask.end());
            let mut expected = whole.clone();
            mask.all(&mut expected);
            prop_assert_eq!(out, expected);
        }
    }
}
