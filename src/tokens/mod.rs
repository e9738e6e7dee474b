//! Tokens: the credentials that ddollar rotates between.
//!
//! Owns [`Token`], which says whose token it is; its text is a `Secret` of `common`.
//! It promises that no formatting, at no log level, prints a token. `discovery` finds them in an
//! environment, `pool` keeps them in a ring. Nothing here reads files or the process environment.

pub(crate) mod condition;
mod discovery;
pub(crate) mod ledger;
pub(crate) mod policy;
mod pool;
mod slip;
pub(crate) mod store;
pub(crate) mod strategy;

pub(crate) use discovery::{
    Discovered, ONE_A_LINE, Source, TokenFile, Unreadable, discover, is_token_variable,
    nearly_token_variable, resembles_token_variable,
};
#[cfg(test)]
pub(crate) use pool::tests::{pool_of, pool_over};
pub(crate) use pool::{Renewal, Ring, TokenPool};

use crate::common::mask::masked;
use crate::common::secret::Secret;
use crate::common::visible::visible;
use crate::providers::Provider;
use std::ffi::OsString;

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
    // Before it is cut: half a key has no key's shape any more.
    let line = masked(&visible(&line)).into_owned();
    match line.char_indices().nth(LONGEST_SHOWN) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// A command line may hold a whole prompt; so many characters of it tell which one it is.
const LONGEST_SHOWN: usize = 300;

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
    /// By what its owner knows it: `…x2Lp, ANTHROPIC_API_KEY_2`, `…7f3a, tokens:3`.
    pub(crate) name: &'static str,
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
            name: "ANTHROPIC_API_KEY",
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
