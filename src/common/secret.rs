//! A text that no formatting prints.

use super::mask;
use std::fmt;
use std::sync::Arc;

/// A token's text. It has no `Display`, its `Debug` hides the text, and it never leaves through
/// anything but [`Secret::expose`], which only the files call that `.ci/run` names.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Arc<str>);

impl Secret {
    /// Takes the text in, which from now on no writer of ddollar's lets through (see [`mask`]).
    pub(crate) fn new(text: &str) -> Secret {
        let secret = Secret(text.into());
        mask::hide(&secret);
        secret
    }

    /// The text itself: for the `authorization` header of a request and the child's environment.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Its last four characters, by which people tell their tokens apart; `None` where that would be
    /// a good part of it.
    pub(crate) fn ending(&self) -> Option<&str> {
        let start = self.0.len().checked_sub(4)?;
        self.0
            .get(start..)
            .filter(|_| self.0.len() >= SHORTEST_WITH_ENDING)
    }

    /// Whether it begins with this mark of its issuer.
    pub(crate) fn is_of(&self, mark: &str) -> bool {
        self.0.starts_with(mark)
    }

    /// `text` with each occurrence of the token replaced, for words that come from elsewhere.
    pub(crate) fn redact(&self, text: &str) -> String {
        // No provider issues one this short, but ordinary words contain it.
        if self.0.len() < SHORTEST_REDACTED {
            return text.to_owned();
        }
        text.replace(&*self.0, "(token)")
    }

    /// Whether `text` holds it, and [`Secret::redact`] would change something.
    pub(crate) fn stands_in(&self, text: &str) -> bool {
        self.0.len() >= SHORTEST_REDACTED && text.contains(&*self.0)
    }

    /// A name for it that tells nothing about it: SHA-256, in hex, of what it is used for and of
    /// its text. API keys are random, so that no list of guesses leads back.
    pub(crate) fn fingerprint(&self, used_for: &[&str]) -> String {
        let mut bytes = b"ddollar state".to_vec();
        for part in used_for.iter().copied().chain(std::iter::once(&*self.0)) {
            // No part can hold a NUL byte (http::Uri, RFC 9110 §5.5), so no two lists run together.
            bytes.push(0);
            bytes.extend_from_slice(part.as_bytes());
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
        let bytes = digest.as_ref().iter();
        bytes
            .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
            .collect()
    }

    /// Whether `text` holds eight characters in a row of it, in whatever case: a provider may echo
    /// what it was sent. Shorter made-up tokens are not looked for.
    pub(crate) fn is_echoed_in(&self, text: &str) -> bool {
        self.0.as_bytes().windows(8).any(|part| {
            let mut places = text.as_bytes().windows(8);
            places.any(|place| place.eq_ignore_ascii_case(part))
        })
    }
}

/// Real tokens have 40 characters and more; of a shorter one, four may be too much to show.
const SHORTEST_WITH_ENDING: usize = 20;

/// Made-up tokens may be shorter than this; they are not looked for in other words.
const SHORTEST_REDACTED: usize = 6;

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}
