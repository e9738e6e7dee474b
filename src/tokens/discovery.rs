//! Finding tokens: which variables hold them, and how a list or a file of them reads.
//!
//! Owns the rules of the environment (`NAME`, `NAME_2` …, `NAMES`, `NAMES_FILE`). It promises that
//! duplicates are dropped, order is kept, and that no message holds a token's text. It does not
//! read files: the caller hands it a function that does.

use super::Token;
use crate::common::error::Error;
use crate::common::secret::Secret;
use crate::providers::{PROVIDERS, Provider};
use std::path::{Path, PathBuf};

/// The variables as discovery sees them: names with values that are text.
pub(crate) struct Source<'a> {
    /// All variables, in any order.
    pub(crate) variables: &'a [(String, String)],
    /// Reads a token file whole.
    pub(crate) read: &'a dyn Fn(&Path) -> Result<TokenFile, Unreadable>,
}

/// Why a token file cannot be used, in a few words, and what would help.
pub(crate) struct Unreadable {
    pub(crate) why: String,
    pub(crate) hint: &'static str,
}

/// The hint for a file that is none of tokens.
pub(crate) const ONE_A_LINE: &str = "the file holds one token a line, and comments after '#'";

/// What reading a token file gave.
pub(crate) struct TokenFile {
    /// Its bytes.
    pub(crate) text: Vec<u8>,
    /// Whether people other than its owner can read it.
    pub(crate) exposed: bool,
}

/// The tokens found, in order, and the token files that others can read.
#[derive(Debug, Default)]
pub(crate) struct Discovered {
    pub(crate) tokens: Vec<Token>,
    pub(crate) exposed_files: Vec<PathBuf>,
}

/// Finds the tokens of `providers`, in table order, then in the order of their variables.
///
/// # Errors
/// A token file that cannot be read, a token that cannot be one, a subscription's token.
pub(crate) fn discover(
    providers: &[&'static Provider],
    source: &Source<'_>,
) -> Result<Discovered, Error> {
    let mut found = Discovered::default();
    for provider in providers {
        let mut variables = Vec::new();
        let mut tokens: Vec<Token> = Vec::new();
        for variable in provider.token_variables {
            let candidates = candidates(variable, source, &mut found.exposed_files)?;
            if !candidates.is_empty() {
                variables.push(*variable);
            }
            for (origin, text, group) in candidates {
                let secret = checked(&origin, &text)?;
                // The same key may serve two providers, as that of a gateway does.
                if tokens.iter().all(|token| token.secret != secret) {
                    tokens.push(Token {
                        provider,
                        variables: Vec::new(),
                        secret,
                        group,
                    });
                }
            }
        }
        for token in &mut tokens {
            token.variables.clone_from(&variables);
        }
        found.tokens.append(&mut tokens);
    }
    Ok(found)
}

/// Whether `name` is a variable that holds tokens of any provider in the table. The child gets
/// none of these but the one in use.
pub(crate) fn is_token_variable(name: &str) -> bool {
    PROVIDERS
        .iter()
        .flat_map(|provider| provider.token_variables)
        .any(|variable| {
            name.strip_prefix(variable)
                .is_some_and(|rest| matches!(rest, "" | "S" | "S_FILE") || ordinal(rest).is_some())
        })
}

/// The variable that `name` is a slip of, such as `ANTHROPIC_API_KEY2` and `ANTHROPIC_API_KEY_FILE`:
/// it is not read, and the child gets it as it is.
pub(crate) fn nearly_token_variable(name: &str) -> Option<&'static str> {
    let is_near = |variable: &&str| {
        let Some(rest) = name.strip_prefix(*variable) else {
            return false;
        };
        let number = rest.trim_start_matches(['S', '_']);
        matches!(rest, "_FILE" | "_FILES" | "S_FILES")
            || !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let mut variables = PROVIDERS
        .iter()
        .flat_map(|provider| provider.token_variables);
    let variable = variables.find(|variable| is_near(variable))?;
    (!is_token_variable(name)).then_some(variable)
}

/// A token's origin in words, its text, and its `group=` label.
type Candidate = (String, String, Option<String>);

/// Everything that the variables of one name hold, in the order in which it counts.
fn candidates(
    variable: &str,
    source: &Source<'_>,
    exposed_files: &mut Vec<PathBuf>,
) -> Result<Vec<Candidate>, Error> {
    let value = |name: &str| {
        source
            .variables
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    };
    let mut all = Vec::new();
    if let Some(text) = value(variable) {
        all.push((variable.to_owned(), text.to_owned(), None));
    }

    let mut numbered: Vec<(u32, &String, &String)> = source
        .variables
        .iter()
        .filter(|(_, text)| !text.is_empty())
        .filter_map(|(name, text)| {
            let number = ordinal(name.strip_prefix(variable)?)?;
            Some((number, name, text))
        })
        .collect();
    numbered.sort_unstable_by_key(|(number, ..)| *number);
    all.extend(
        numbered
            .into_iter()
            .map(|(_, name, text)| (name.clone(), text.clone(), None)),
    );

    let list = format!("{variable}S");
    if let Some(text) = value(&list) {
        let parts = text
            .split(|c: char| c == ',' || c.is_ascii_whitespace())
            .filter(|part| !part.is_empty());
        all.extend(
            parts
                .enumerate()
                .map(|(i, part)| (format!("{list} (number {})", i + 1), part.to_owned(), None)),
        );
    }

    let list_file = format!("{variable}S_FILE");
    if let Some(path) = value(&list_file) {
        let path = PathBuf::from(path);
        let unusable = |Unreadable { why, hint }| Error::TokenFile {
            variable: list_file.clone(),
            path: path.clone(),
            why,
            hint,
        };
        let file = (source.read)(&path).map_err(unusable)?;
        let lines = file_lines(&path, &file.text)?;
        if lines.is_empty() {
            let why = "it holds no token".into();
            let hint = ONE_A_LINE;
            return Err(unusable(Unreadable { why, hint }));
        }
        all.extend(lines);
        if file.exposed {
            exposed_files.push(path);
        }
    }
    Ok(all)
}

/// The number in `_2`, `_3`, … (from 1), or nothing.
fn ordinal(suffix: &str) -> Option<u32> {
    let digits = suffix.strip_prefix('_')?;
    let plain = !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

/// A token file's lines: one token each, `#` starts a comment, `group=NAME` may follow the token.
fn file_lines(path: &Path, text: &[u8]) -> Result<Vec<Candidate>, Error> {
    let mut all = Vec::new();
    for (i, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let origin = || format!("'{}', line {}", path.display(), i + 1);
        let malformed = |why| Error::MalformedToken {
            source: origin(),
            why,
            hint: ONE_A_LINE,
        };
        if line.contains(&0) {
            return Err(malformed("contains a NUL byte"));
        }
        let line = std::str::from_utf8(line).map_err(|_| malformed("is not text"))?;
        let line = line.trim_start_matches('\u{feff}');
        let mut words = line
            .split_ascii_whitespace()
            .take_while(|word| !word.starts_with('#'));
        let Some(text) = words.next() else { continue };
        if text == "export" {
            return Err(malformed("is part of a shell's line (export NAME=...)"));
        }
        let mut group = None;
        for word in words {
            match word.strip_prefix("group=").filter(|name| !name.is_empty()) {
                // It is shown on terminals, in reports and to programs.
                Some(name)
                    if !name
                        .chars()
                        .all(|c| c.is_alphanumeric() || c.is_ascii_graphic()) =>
                {
                    return Err(malformed(
                        "has a group that is not letters, digits and signs",
                    ));
                }
                Some(name) => group = Some(name.to_owned()),
                None => return Err(malformed("is followed by more than a group=NAME")),
            }
        }
        all.push((origin(), text.to_owned(), group));
    }
    Ok(all)
}

/// The secret in `text`, if it can be a token: visible ASCII, as an HTTP header carries it
/// (RFC 9110 §5.5) and an environment can hold it.
///
/// What was meant as something else is refused, too, or the provider would only say that it does not
/// know it. Tokens are letters and digits with `-`, `_`, `.`, `:`, `/`, `+`, `|` and, at the end of
/// base64, `=`: none of any provider or gateway has a quote, a comma or a semicolon.
fn checked(origin: &str, text: &str) -> Result<Secret, Error> {
    let refused = |why, hint| Error::MalformedToken {
        source: origin.to_owned(),
        why,
        hint,
    };
    let malformed = |why| refused(why, SEVERAL);
    if text.contains(['\n', '\r']) {
        return Err(malformed("contains a line break"));
    }
    let text = text.trim();
    if text.is_empty() {
        return Err(malformed("is blank"));
    }
    if text.contains('\0') {
        return Err(malformed("contains a NUL byte"));
    }
    if text.contains(|c: char| c.is_whitespace()) {
        return Err(malformed("contains white space"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(malformed("contains a character that no token has"));
    }
    if text.starts_with(QUOTES) || text.ends_with(QUOTES) {
        return Err(refused("has quotes around it", NO_QUOTES));
    }
    if text.contains([',', ';']) {
        return Err(refused("contains a comma or semicolon", SEVERAL));
    }
    if is_assignment(text) {
        return Err(refused("is a whole line NAME=TOKEN", ALONE));
    }
    if text.starts_with("sk-ant-oat") {
        return Err(Error::SubscriptionToken {
            source: origin.to_owned(),
        });
    }
    Ok(Secret::new(text))
}

const QUOTES: [char; 3] = ['"', '\'', '`'];

const SEVERAL: &str = "several tokens go into NAME_2 or NAMES; look for a stray line break";
const NO_QUOTES: &str = "write it without them: only a shell takes quotes away";
const ALONE: &str = "write the token alone, without its name";

/// Whether this is the setting of a variable. A token in base64 may end with `=`, and may be in
/// capitals before it.
fn is_assignment(text: &str) -> bool {
    text.split_once('=').is_some_and(|(name, value)| {
        name.contains('_')
            && name.starts_with(|c: char| c.is_ascii_uppercase())
            && name
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
            && value.bytes().any(|b| b != b'=')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::by_name;
    use proptest::prelude::*;

    fn found(variables: &[(&str, &str)], file: &[u8]) -> Result<Discovered, Error> {
        let variables: Vec<(String, String)> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let read = |path: &Path| match path.to_str() {
            Some("tokens") => Ok(TokenFile {
                text: file.to_vec(),
                exposed: false,
            }),
            _ => Err(Unreadable {
                why: "no such file".to_owned(),
                hint: "",
            }),
        };
        let source = Source {
            variables: &variables,
            read: &read,
        };
        discover(&[by_name("anthropic").unwrap()], &source)
    }

    fn texts(found: &Discovered) -> Vec<&str> {
        found.tokens.iter().map(|t| t.secret.expose()).collect()
    }

    #[test]
    fn slips_of_a_variable_are_seen() {
        for name in [
            "ANTHROPIC_API_KEY2",
            "ANTHROPIC_API_KEY_02",
            "ANTHROPIC_API_KEYS_2",
            "ANTHROPIC_API_KEY_FILE",
        ] {
            assert_eq!(
                nearly_token_variable(name),
                Some("ANTHROPIC_API_KEY"),
                "{name}"
            );
        }
        for name in [
            "ANTHROPIC_API_KEY",
            "ANTHROPIC_API_KEY_2",
            "ANTHROPIC_API_KEYS",
            "ANTHROPIC_API_KEYS_FILE",
            "ANTHROPIC_API_KEY_HELPER",
            "OPENAI_API_KEY_PATH",
            "HF_TOKEN_PATH",
            "PATH",
        ] {
            assert_eq!(nearly_token_variable(name), None, "{name}");
        }
    }

    #[test]
    fn the_variables_are_read_in_order_and_duplicates_dropped() {
        let found = found(
            &[
                ("ANTHROPIC_API_KEYS_FILE", "tokens"),
                ("ANTHROPIC_API_KEYS", "e,f  a\ng"),
                ("ANTHROPIC_API_KEY_10", "d"),
                ("ANTHROPIC_API_KEY_2", "b"),
                ("ANTHROPIC_API_KEY_3", "c"),
                ("ANTHROPIC_API_KEY_4", ""),
                ("ANTHROPIC_API_KEY_OLD", "never"),
                ("ANTHROPIC_API_KEY", "a"),
            ],
            b"# night shift\nh group=work # mine\r\n\n  b\n i",
        )
        .unwrap();
        assert_eq!(texts(&found), ["a", "b", "c", "d", "e", "f", "g", "h", "i"]);
        assert_eq!(found.tokens[7].group.as_deref(), Some("work"));
    }

    #[test]
    fn one_key_may_serve_two_providers_under_all_their_names() {
        let variables: Vec<(String, String)> =
            ["ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"]
                .iter()
                .map(|name| ((*name).to_owned(), "gateway".to_owned()))
                .collect();
        let source = Source {
            variables: &variables,
            read: &|_| unreachable!("no file is named"),
        };
        let providers = ["anthropic", "gemini"].map(|name| by_name(name).unwrap());
        let found = discover(&providers, &source).unwrap();
        let names: Vec<_> = found.tokens.iter().map(|t| t.variables.clone()).collect();
        assert_eq!(
            names,
            [
                vec!["ANTHROPIC_API_KEY"],
                vec!["GEMINI_API_KEY", "GOOGLE_API_KEY"]
            ]
        );
    }

    #[test]
    fn what_cannot_be_a_token_is_named_without_its_text() {
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a [u8], &'a str);
        let cases: &[Case<'_>] = &[
            (
                &[("ANTHROPIC_API_KEY", "secr\net")],
                b"",
                "ANTHROPIC_API_KEY contains a line break",
            ),
            (&[("ANTHROPIC_API_KEY", "secret\n")], b"", "a line break"),
            (
                &[("ANTHROPIC_API_KEY_2", "secr et")],
                b"",
                "ANTHROPIC_API_KEY_2 contains white space",
            ),
            (&[("ANTHROPIC_API_KEY", "   ")], b"", "is blank"),
            (&[("ANTHROPIC_API_KEY", "s\u{e9}cret")], b"", "no token has"),
            (
                &[("ANTHROPIC_API_KEYS", "ok,sk-ant-oat01-secret")],
                b"",
                "number 2) is a subscription",
            ),
            (
                &[("ANTHROPIC_API_KEYS_FILE", "tokens")],
                b"ok\nsec\0ret\n",
                "line 2 contains a NUL",
            ),
            (
                &[("ANTHROPIC_API_KEYS_FILE", "tokens")],
                b"\xff\xfe",
                "line 1 is not text",
            ),
            (
                &[("ANTHROPIC_API_KEYS_FILE", "tokens")],
                b"secret other",
                "more than a group",
            ),
            (
                &[("ANTHROPIC_API_KEYS_FILE", "tokens")],
                b"ok group=a\xc3\xa9-1/b\nsecret group=a\x1b[31mred",
                "line 2 has a group that is not",
            ),
            (
                &[("ANTHROPIC_API_KEYS_FILE", "tokens")],
                b"secret group=a\xe2\x80\xaeb",
                "line 1 has a group that is not",
            ),
            (
                &[("ANTHROPIC_API_KEYS_FILE", "tokens")],
                b"# none\n",
                "holds no token",
            ),
            (&[("ANTHROPIC_API_KEYS_FILE", "gone")], b"", "no such file"),
            (&[("ANTHROPIC_API_KEY", "\"secret\"")], b"", "has quotes"),
            (
                &[("ANTHROPIC_API_KEYS", "a,'secret'")],
                b"",
                "number 2) has quotes",
            ),
            (&[("ANTHROPIC_API_KEY", "secret,secret2")], b"", "NAME_2"),
            (
                &[("ANTHROPIC_API_KEYS", "secret;secret2")],
                b"",
                "a comma or semi",
            ),
            (
                &[("ANTHROPIC_API_KEY", "OPENAI_API_KEY=secret")],
                b"",
                "write the token alone",
            ),
            (
                &[("ANTHROPIC_API_KEYS_FILE", "tokens")],
                b"ANTHROPIC_API_KEY=secret\n",
                "line 1 is a whole line NAME=TOKEN",
            ),
            (
                &[("ANTHROPIC_API_KEYS_FILE", "tokens")],
                b"\nexport ANTHROPIC_API_KEY=secret\n",
                "line 2 is part of a shell's line",
            ),
        ];
        for (variables, file, wanted) in cases {
            let error = found(variables, file).unwrap_err();
            let text = format!("{error} {} {error:?}", error.hint());
            assert!(text.contains(wanted), "{text}");
            assert!(!text.contains("secr"), "{text}");
        }
    }

    #[test]
    fn what_looks_like_a_real_token_is_one() {
        for text in [
            "sk-ant-api03-Aa0_-Zz9",
            "sk-proj-Aa0_-T3BlbkFJ",
            "AIzaSyA-b_c",
            "hf_abcDEF",
            "0123456789abcdef0123456789abcdef",
            "QUJD_REVG==",
            "SECRET_ABC=",
            "eyJhbGciOi.eyJzdWIi.c2ln-_",
            "id:secret",
            "12|abc",
            "a/b+c=",
            "user=name",
        ] {
            let found = found(&[("ANTHROPIC_API_KEY", text)], b"").unwrap();
            assert_eq!(texts(&found), [text]);
        }
    }

    #[test]
    fn every_variable_of_every_provider_is_known_for_what_it_is() {
        for name in [
            "ANTHROPIC_API_KEY",
            "OPENAI_API_KEY_7",
            "GROQ_API_KEYS",
            "ANTHROPIC_API_KEYS_FILE",
        ] {
            assert!(is_token_variable(name), "{name}");
        }
        for name in [
            "PATH",
            "ANTHROPIC_BASE_URL",
            "ANTHROPIC_API_KEY_HELPER",
            "OPENAI_API_KEY_",
            "OPENAI_API_KEY_02",
        ] {
            assert!(!is_token_variable(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_token_file_makes_it_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let result = found(&[("ANTHROPIC_API_KEYS_FILE", "tokens")], &text);
            if let Ok(found) = result {
                for text in texts(&found) {
                    prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()));
                }
            }
        }
    }
}
