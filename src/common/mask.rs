//! No key is ever printed or written, whoever put it there.
//!
//! Owns the shapes of the keys that known providers issue, and the texts of all [`Secret`]s that this
//! process holds. Everything that leaves for a person or a file goes through [`masked`]: stderr, what is
//! asked for on stdout, the log, the journal and `--notify`. It promises to leave ordinary words as they
//! are. It does not know the keys of providers that issue plain random words; those are hidden only once
//! they were read as a token.

use super::secret::Secret;
use std::borrow::Cow;
use std::sync::{PoisonError, RwLock};

/// How keys begin that cannot be mistaken for anything else: Anthropic, OpenAI, OpenRouter, Groq, xAI,
/// Google, Hugging Face, Perplexity, Cerebras, NVIDIA, Replicate, Together (`tgp_v1_`).
const DISTINCT: [&str; 13] = [
    "sk-ant-",
    "sk-proj-",
    "sk-svcacct-",
    "sk-or-",
    "gsk_",
    "xai-",
    "AIza",
    "hf_",
    "pplx-",
    "csk-",
    "nvapi-",
    "r8_",
    "tgp_",
];
/// How Google's newer keys begin. The stop is in no other one's.
const WITH_A_STOP: &str = "AQ.";
/// How keys of many providers begin (OpenAI, DeepSeek, Moonshot), and Fireworks's; and a few words as well.
const COMMON: [&str; 2] = ["sk-", "fw_"];
/// Real keys have 32 characters and more. What is shorter than this may be a word.
const SHORTEST: usize = 20;
/// So much of a key's end is shown, by which its owner knows it.
const SHOWN: usize = 4;

static HELD: RwLock<Vec<Secret>> = RwLock::new(Vec::new());

/// From now on this secret is hidden wherever it appears.
pub(crate) fn hide(secret: &Secret) {
    let mut held = HELD.write().unwrap_or_else(PoisonError::into_inner);
    if !held.contains(secret) {
        held.push(secret.clone());
    }
}

/// The text without any key: secrets of this process read "(token)", other keys `(key …x2Lp)`.
pub(crate) fn masked(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    let held = HELD.read().unwrap_or_else(PoisonError::into_inner);
    for secret in held.iter() {
        if secret.stands_in(&text) {
            text = Cow::Owned(secret.redact(&text));
        }
    }
    match without_keys(&text) {
        Some(masked) => Cow::Owned(masked),
        None => text,
    }
}

/// Whether this is one key and nothing else.
pub(crate) fn is_key(text: &str) -> bool {
    let rest = text.strip_prefix(WITH_A_STOP).unwrap_or(text);
    let has_stop = rest.len() < text.len() && rest.len() >= SHORTEST;
    let mut words = words(rest);
    words
        .next()
        .is_some_and(|(_, word)| word == rest && (has_stop || has_shape(word)))
}

/// The text with everything that has the shape of a key replaced; `None` where there is nothing.
fn without_keys(text: &str) -> Option<String> {
    let mut masked = String::new();
    let mut from = 0;
    for (start, word) in words(text) {
        let before = text.get(..start).unwrap_or_default();
        if has_shape(word) || before.ends_with(WITH_A_STOP) && word.len() >= SHORTEST {
            masked.push_str(text.get(from..start)?);
            let end = word.get(word.len() - SHOWN..)?;
            masked.push_str(&format!("(key …{end})"));
            from = start + word.len();
        }
    }
    (from > 0).then(|| masked + text.get(from..).unwrap_or_default())
}

/// The runs of characters that keys are made of, and where they begin.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_of_a_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    text.split(move |c| !is_of_a_key(c))
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
}

/// Whether a word has the shape of a key. One may stand behind a name and a `_` or `-`, as in
/// `--key-sk-ant-…`, but not inside a word.
fn has_shape(word: &str) -> bool {
    if word.len() < SHORTEST {
        return false;
    }
    let begins = |prefix: &&str| {
        word.match_indices(*prefix).any(|(at, _)| {
            let behind = word.get(..at).unwrap_or_default();
            let rest = word.get(at + prefix.len()..).unwrap_or_default();
            let is_first = behind.is_empty() || behind.ends_with(['-', '_']);
            is_first && prefix.len() + rest.len() >= SHORTEST && !rest.is_empty()
        })
    };
    let is_mixed =
        |word: &str| word.contains(|c: char| c.is_ascii_digit() || c.is_ascii_uppercase());
    DISTINCT.iter().any(begins) || COMMON.iter().any(|prefix| begins(prefix) && is_mixed(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_key_is_hidden_wherever_it_stands() {
        for key in [
            "sk-ant-api03-AbCdEfGhIjKlMnOpQrSt-x2Lp",
            "sk-proj-0123456789abcdefghij",
            "sk-or-v1-0123456789abcdef0123",
            "sk-0123456789abcdefABCDEFGH",
            "gsk_0123456789abcdefghij",
            "xai-0123456789abcdefghijklmn",
            "AIzaSyA0123456789abcdefghijklmn-_opqrs",
            "hf_AbCdEfGhIjKlMnOpQrStUv",
            "pplx-0123456789abcdef0123",
            "csk-0123456789abcdef0123",
            "tgp_v1_AbCdEfGhIjKlMnOpQrSt",
            "fw_3ZabCDefGHijKLmnOPqrST12",
            "AQ.Ab8RN6JAbCdEfGhIjKlMnOp",
        ] {
            assert!(is_key(key));
            let end = &key[key.len() - 4..];
            let stop = if key.contains('.') { WITH_A_STOP } else { "" };
            for (text, wanted) in [
                (key.to_owned(), format!("{stop}(key …{end})")),
                (
                    format!("no file '{key}': gone"),
                    format!("no file '{stop}(key …{end})': gone"),
                ),
                (
                    format!("KEY={key} and {key}"),
                    format!("KEY={stop}(key …{end}) and {stop}(key …{end})"),
                ),
                (
                    format!("{{\"command\":\"x --key={key}\"}}"),
                    format!("{{\"command\":\"x --key={stop}(key …{end})\"}}"),
                ),
                (
                    format!("ümläut/{key}/é"),
                    format!("ümläut/{stop}(key …{end})/é"),
                ),
            ] {
                assert_eq!(masked(&text), wanted);
            }
        }
    }

    #[test]
    fn ordinary_words_stay_as_they_are() {
        for text in [
            "",
            "claude --continue",
            "sk-…",
            "risk-assessment-of-2026-ABCDEFGHIJKL",
            "sk-learn-estimators-and-more",
            "desk-0123456789abcdefABCDEFGH",
            "task-force-0123456789-ABCDEFGH",
            "hf_hub",
            "fw_",
            "fw_update_of_the_router",
            "AIza",
            "AQ.Ab8RN6J",
            "FAQ. and-a-word-of-some-length",
            "sk-ant-oat",
            "/usr/lib/python3/dist-packages/gsk_render",
        ] {
            assert_eq!(masked(text), text);
        }
    }

    #[test]
    fn secrets_of_this_process_are_hidden_whatever_their_shape() {
        let secret = Secret::new("plain-random-word-4711");
        hide(&secret);
        hide(&secret);
        let text = "sent plain-random-word-4711 away";
        assert_eq!(masked(text), "sent (token) away");
    }
}
