//! Splits a client's arguments into options with their values, and plain words.
//!
//! Each client's grammar says which of its options take values. The parts, joined in order, are the
//! original arguments (only `-abc` becomes `-a -b -c`).

use std::ffi::{OsStr, OsString};

/// What an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Nothing,
    One,
    Optional,
    Many,
}

/// The options of one client by what they take, apart by spaces. Further names of an option follow its
/// first, which the rules use, behind a bar: `--model|-m`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grammar {
    /// One word, whatever it is.
    pub(super) one: &'static str,
    /// A word, unless it begins with a dash.
    pub(super) optional: &'static str,
    /// All words up to the next that begins with a dash.
    pub(super) many: &'static str,
    pub(super) nothing: &'static str,
}

impl Grammar {
    pub(super) const NONE: Grammar = Grammar {
        one: "",
        optional: "",
        many: "",
        nothing: "",
    };

    /// The first name of an option, and what it takes.
    fn known(&self, name: &str) -> Option<(&'static str, Takes)> {
        let groups = [
            (self.one, Takes::One),
            (self.optional, Takes::Optional),
            (self.many, Takes::Many),
            (self.nothing, Takes::Nothing),
        ];
        groups.into_iter().find_map(|(options, takes)| {
            let mut options = options.split_ascii_whitespace();
            let names = options.find(|names| names.split('|').any(|known| known == name))?;
            Some((names.split('|').next()?, takes))
        })
    }
}

/// An option with its values, or a plain word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The option's first name in the grammar, or as written if the grammar does not have it; empty
    /// for a plain word.
    pub(super) name: String,
    /// All its words, as written.
    pub(super) words: Vec<OsString>,
    /// The option's (first) value; a plain word is its own value.
    pub(super) value: Option<OsString>,
}

impl Part {
    /// Whether it is a plain word.
    pub(super) fn is_word(&self) -> bool {
        self.name.is_empty()
    }

    /// Whether it is the option of this name.
    pub(super) fn is(&self, name: &str) -> bool {
        self.name == name
    }

    /// Its value as text.
    pub(super) fn text(&self) -> Option<&str> {
        self.value.as_deref().and_then(OsStr::to_str)
    }
}

/// Splits `args`, the words after the program.
pub(super) fn parts(args: &[OsString], grammar: &Grammar) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = args.iter().peekable();
    while let Some(word) = rest.next() {
        let text = word.to_str().unwrap_or_default();
        if text == "--" {
            parts.push(option("--", word, None));
            parts.extend(rest.by_ref().map(plain));
            break;
        }
        if !text.starts_with('-') || text == "-" {
            parts.push(plain(word));
            continue;
        }
        if let Some((name, value)) = inline_value(text, grammar) {
            parts.push(option(name, word, Some(value.into())));
            continue;
        }
        if let Some(letters) = cluster(text, grammar) {
            parts.extend(letters.map(|letter| {
                let short = format!("-{letter}");
                option(
                    grammar.known(&short).map_or(&short, |(name, _)| name),
                    &short.clone().into(),
                    None,
                )
            }));
            continue;
        }
        let (name, takes) = grammar.known(text).unwrap_or((text, guess(rest.peek())));
        let mut part = option(name, word, None);
        let is_value = |word: &&OsString| !word.as_encoded_bytes().starts_with(b"-");
        match takes {
            Takes::Nothing => {}
            Takes::One => part.take(rest.next()),
            Takes::Optional => part.take(rest.next_if(is_value)),
            Takes::Many => {
                while let Some(value) = rest.next_if(is_value) {
                    part.take(Some(value));
                }
            }
        }
        parts.push(part);
    }
    parts
}

impl Part {
    fn take(&mut self, value: Option<&OsString>) {
        let Some(value) = value else { return };
        self.words.push(value.clone());
        self.value.get_or_insert_with(|| value.clone());
    }
}

fn option(name: &str, word: &OsString, value: Option<OsString>) -> Part {
    Part {
        name: name.to_owned(),
        words: vec![word.clone()],
        value,
    }
}

fn plain(word: &OsString) -> Part {
    Part {
        name: String::new(),
        words: vec![word.clone()],
        value: Some(word.clone()),
    }
}

/// Name and value of `--name=value`, or of `-nvalue` if the option takes one value.
fn inline_value<'a>(text: &'a str, grammar: &Grammar) -> Option<(&'a str, &'a str)> {
    if text.starts_with("--") {
        let (name, value) = text.split_once('=')?;
        return Some((grammar.known(name).map_or(name, |(name, _)| name), value));
    }
    let (short, value) = text.split_at_checked(2)?;
    match grammar.known(short) {
        Some((name, Takes::One)) if !value.is_empty() => Some((name, value)),
        _ => None,
    }
}

/// The letters of `-abc`, if each is an option that takes nothing.
fn cluster<'a>(text: &'a str, grammar: &Grammar) -> Option<std::str::Chars<'a>> {
    let letters = text.strip_prefix('-').filter(|letters| letters.len() > 1)?;
    letters
        .chars()
        .all(|letter| {
            grammar
                .known(&format!("-{letter}"))
                .is_some_and(|(_, takes)| takes == Takes::Nothing)
        })
        .then(|| letters.chars())
}

/// Guesses what an unknown option takes. A prompt usually has spaces, a value seldom.
fn guess(next: Option<&&OsString>) -> Takes {
    match next.and_then(|next| next.to_str()) {
        Some(next) if !next.starts_with('-') && !next.contains(char::is_whitespace) => Takes::One,
        _ => Takes::Nothing,
    }
}
