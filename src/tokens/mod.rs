//! Tokens: the credentials that ddollar rotates between.
//!
//! Owns [`Secret`], the one type that holds a token's text, and [`Token`], which says whose it is.
//! It promises that no formatting, at no log level, prints a token. `discovery` finds them in an
//! environment, `pool` keeps them in a ring. Nothing here reads files or the process environment.

mod discovery;
pub(crate) mod policy;
mod pool;
pub(crate) mod store;

pub(crate) use discovery::{
    ONE_A_LINE, Source, TokenFile, Unreadable, discover, is_token_variable, nearly_token_variable,
};
pub(crate) use pool::TokenPool;
#[cfg(test)]
pub(crate) use pool::tests::{pool_of, pool_over};

use crate::providers::Provider;
use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;

/// A token's text. It has no `Display`, its `Debug` hides the text, and it never leaves through
/// anything but [`Secret::expose`], which only the files call that `.ci/run` names.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Arc<str>);

impl Secret {
    /// Takes the text in.
    pub(crate) fn new(text: &str) -> Secret {
        Secret(text.into())
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

    /// `text` with each occurrence of the token replaced, for words that come from elsewhere.
    pub(crate) fn redact(&self, text: &str) -> String {
        // No provider issues one this short, but ordinary words contain it.
        if self.0.len() < SHORTEST_REDACTED {
            return text.to_owned();
        }
        text.replace(&*self.0, "(token)")
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

/// Words of the user's own command line, for people to read, in one line: without any token that was
/// put there, and a space for each line break or other control character.
pub(crate) fn shown<'a>(words: &[OsString], tokens: impl Iterator<Item = &'a Token>) -> String {
    // As a shell takes them. No word of a command line can hold a NUL byte, which cannot be quoted.
    let quoted = |word: &OsString| {
        let word = word.to_string_lossy();
        shlex::try_quote(&word).unwrap_or_default().into_owned()
    };
    let words: Vec<String> = words.iter().map(quoted).collect();
    let line = tokens.fold(words.join(" "), |line, token| token.secret.redact(&line));
    let line = line.replace(char::is_control, " ");
    match line.char_indices().nth(LONGEST_SHOWN) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// A command line may hold a whole prompt; so many characters of it tell which one it is.
const LONGEST_SHOWN: usize = 300;

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// One credential of one provider.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    /// Who issued it.
    pub(crate) provider: &'static Provider,
    /// The variables in which the child expects it: those of the provider's that were set.
    pub(crate) variables: Vec<&'static str>,
    /// Its text.
    pub(crate) secret: Secret,
    /// The user's own word for the quota that it draws on (`group=NAME` in a token file).
    pub(crate) group: Option<String>,
}

/// Which token: its ring, and its place there, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenId {
    /// The ring's place in the session, from 0.
    pub(crate) ring: usize,
    /// The token's place in its ring, from 0.
    pub(crate) index: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::by_name;

    #[test]
    fn a_command_is_shown_in_one_line() {
        let words = ["sh", "-c", "a\nb\tc\u{1b}[2J"].map(OsString::from);
        assert_eq!(shown(&words, std::iter::empty()), "sh -c 'a b c [2J'");
    }

    #[test]
    fn a_token_is_printed_by_nothing() {
        let secret = Secret::new("sk-ant-api-very-secret");
        let token = Token {
            provider: by_name("anthropic").unwrap(),
            variables: vec!["ANTHROPIC_API_KEY"],
            secret: secret.clone(),
            group: None,
        };
        for text in [
            format!("{token:?}"),
            format!("{token:#?}"),
            format!("{secret:?}"),
        ] {
            assert!(!text.contains("very-secret"), "{text}");
        }
        assert_eq!(
            secret.redact("--key=sk-ant-api-very-secret"),
            "--key=(token)"
        );
        assert_eq!(secret.ending(), Some("cret"));
        assert_eq!(Secret::new("sk-short").ending(), None);
        assert_eq!(Secret::new("").ending(), None);
    }

    #[test]
    fn a_fingerprint_is_the_tokens_own_and_depends_on_what_it_is_used_for() {
        let of = |text: &str, used_for: &[&str]| Secret::new(text).fingerprint(used_for);
        let name = of("sk-test-1", &["https://a", "m"]);
        assert_eq!(name, of("sk-test-1", &["https://a", "m"]));
        assert_eq!(name.len(), 64);
        for other in [
            of("sk-test-2", &["https://a", "m"]),
            of("sk-test-1", &["https://b", "m"]),
            of("sk-test-1", &["https://a", "n"]),
            of("sk-test-1", &["https://", "am"]),
            of("sk-test-1", &["https://a"]),
        ] {
            assert_ne!(name, other);
        }
    }

    #[test]
    fn an_echo_is_a_part_of_the_token_in_any_case() {
        let secret = Secret::new("sk-test-0123456789");
        for (text, echoed) in [
            ("x-SK-TEST-0123456789", true),
            ("org 23456789", true),
            ("org 3456789", false),
            ("sk-test", false),
            ("", false),
        ] {
            assert_eq!(secret.is_echoed_in(text), echoed, "{text}");
        }
        assert!(!Secret::new("a").is_echoed_in("organization a"));
    }
}
