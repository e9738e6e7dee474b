//! Finding tokens: which variables hold them, and how a list or a file of them reads.
//!
//! Owns the rules of the environment (`NAME`, `NAME_2` …, `NAMES`, `NAMES_FILE`). It promises that
//! duplicates are dropped, order is kept, and that no message holds a token's text. It does not
//! read files: the caller hands it a function that does.

use super::{Token, slip};
use crate::common::error::Error;
use crate::common::secret::Secret;
use crate::providers::{PROVIDERS, Provider, by_name};
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
    /// Where others than this user can read or write it, what mends that.
    pub(crate) exposed: Option<&'static str>,
}

/// The tokens found, in order, and the token files that others can read or
/// write, with what mends that.
#[derive(Debug, Default)]
pub(crate) struct Discovered {
    pub(crate) tokens: Vec<Token>,
    pub(crate) exposed_files: Vec<(PathBuf, &'static str)>,
    /// Origins of tokens that had been found elsewhere before.
    pub(crate) duplicates: Vec<(&'static Provider, String)>,
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
            for candidate in candidates {
                let Candidate {
                    place,
                    origin,
                    text,
                    group,
                } = candidate;
                let secret = checked(&place, variable, &text)?;
                not_of_another(provider, &place, text.trim(), source)?;
                // The same key may serve two providers, as that of a gateway does.
                if tokens.iter().any(|token| token.secret == secret) {
                    found.duplicates.push((provider, origin));
                    continue;
                }
                tokens.push(Token {
                    provider,
                    variables: Vec::new(),
                    group,
                    name: named(&secret, origin),
                    secret,
                });
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
    let mut variables = PROVIDERS
        .iter()
        .flat_map(|provider| provider.token_variables);
    variables.any(|variable| is_read_for(name, variable))
}

/// Whether `name` is `variable`, or one of those for more tokens of the same kind.
fn is_read_for(name: &str, variable: &str) -> bool {
    name.strip_prefix(variable)
        .is_some_and(|rest| matches!(rest, "" | "S" | "S_FILE") || ordinal(rest).is_some())
}

/// Names that people give to a variable for a token, and that are not read.
const FALSE_NAMES: [&str; 8] = [
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_KEY",
    "ANTHROPIC_TOKEN",
    "CLAUDE_API_KEY",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "OPENAI_KEY",
    "OPENAI_TOKEN",
    "GOOGLE_KEY",
];

/// Whether the user may have set this variable in the belief that its token is found: for the message
/// that there is none.
pub(crate) fn resembles_token_variable(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    is_token_variable(&upper)
        || nearly_token_variable(&upper).is_some()
        || FALSE_NAMES.contains(&upper.as_str())
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

/// By what the owner of a token knows it. Every event of a run may name it, so the few words are kept for
/// as long as the process lives.
fn named(secret: &Secret, origin: String) -> &'static str {
    let name = match secret.ending() {
        Some(ending) => format!("…{ending}, {origin}"),
        None => origin,
    };
    Box::leak(name.into_boxed_str())
}

/// What may be a token.
struct Candidate {
    /// Where it was found, for errors: a whole path and the line.
    place: String,
    /// The same for its owner, who knows the files: `tokens:3`.
    origin: String,
    text: String,
    /// Its `group=` label.
    group: Option<String>,
}

impl Candidate {
    fn of_variable(name: &str, text: &str) -> Candidate {
        Candidate {
            place: name.to_owned(),
            origin: name.to_owned(),
            text: text.to_owned(),
            group: None,
        }
    }
}

/// Everything that the variables of one name hold, in the order in which it counts.
fn candidates(
    variable: &str,
    source: &Source<'_>,
    exposed_files: &mut Vec<(PathBuf, &'static str)>,
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
        all.push(Candidate::of_variable(variable, text));
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
            .map(|(_, name, text)| Candidate::of_variable(name, text)),
    );

    let list = format!("{variable}S");
    if let Some(text) = value(&list) {
        all.extend(
            parts(text).enumerate().map(|(i, part)| {
                Candidate::of_variable(&format!("{list} (number {})", i + 1), part)
            }),
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
        let lines = file_lines(variable, &path, &file.text)?;
        if lines.is_empty() {
            let why = "it holds no token".into();
            let hint = "it has one token a line; in a .env file, the lines of this provider's variable count";
            return Err(unusable(Unreadable { why, hint }));
        }
        all.extend(lines);
        exposed_files.extend(file.exposed.map(|mend| (path, mend)));
    }
    Ok(all)
}

/// The tokens of a list.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_ascii_whitespace())
        .filter(|part| !part.is_empty())
}

/// The number in `_2`, `_3`, … (from 1), or nothing.
fn ordinal(suffix: &str) -> Option<u32> {
    let digits = suffix.strip_prefix('_')?;
    let plain = !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

/// A token file's lines: one token each, `#` starts a comment, `group=NAME` may follow the token. A line
/// that sets a variable, as in a `.env` file, counts if that variable is one for these tokens.
fn file_lines(variable: &str, path: &Path, text: &[u8]) -> Result<Vec<Candidate>, Error> {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let mut all = Vec::new();
    for (i, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let place = || format!("'{}', line {}", path.display(), i + 1);
        let candidate = |text: &str, group| Candidate {
            place: place(),
            origin: format!("{file}:{}", i + 1),
            text: text.to_owned(),
            group,
        };
        let malformed = |why| Error::MalformedToken {
            source: place(),
            why,
            hint: ONE_A_LINE.into(),
        };
        if line.contains(&0) {
            return Err(malformed("contains a NUL byte"));
        }
        let line = std::str::from_utf8(line).map_err(|_| malformed("is not text"))?;
        let line = line.trim_start_matches('\u{feff}');
        if let Some((name, value)) = slip::assignment(line) {
            match name.strip_prefix(variable) {
                Some("S") => all.extend(parts(value).map(|part| candidate(part, None))),
                Some(rest) if rest.is_empty() || ordinal(rest).is_some() => {
                    all.extend((!value.is_empty()).then(|| candidate(value, None)));
                }
                _ => {}
            }
            continue;
        }
        let mut words = line
            .split_ascii_whitespace()
            .take_while(|word| !word.starts_with('#'));
        let Some(text) = words.next() else { continue };
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
        all.push(candidate(text, group));
    }
    Ok(all)
}

/// The secret in `text`, if it can be a token: visible ASCII, as an HTTP header carries it
/// (RFC 9110 §5.5) and an environment can hold it. Blanks and a line's end around it are dropped: files
/// and `$(cat FILE)` in many tools leave them.
///
/// What was meant as something else is refused, too, or the provider would only say that it does not
/// know it. Tokens are letters and digits with `-`, `_`, `.`, `:`, `/`, `+`, `|` and, at the end of
/// base64, `=`: none of any provider or gateway has a quote, a comma or a semicolon.
fn checked(place: &str, variable: &str, text: &str) -> Result<Secret, Error> {
    let text = text.trim();
    if text.starts_with("sk-ant-oat") {
        return Err(Error::SubscriptionToken {
            source: place.to_owned(),
        });
    }
    match slip::of(text) {
        Some(slip) => Err(Error::MalformedToken {
            source: place.to_owned(),
            why: slip.why,
            // A place in a file is in quotes.
            hint: match place.starts_with('\'') && slip.hint == slip::SEVERAL {
                true => ONE_A_LINE.into(),
                false => slip.hint.replace("NAME", variable),
            },
        }),
        None => Ok(Secret::new(text)),
    }
}

/// A key that another provider issues is refused before that provider's rival sees it; unless the
/// requests go to a gateway, which takes keys of its own.
fn not_of_another(
    provider: &Provider,
    place: &str,
    text: &str,
    source: &Source<'_>,
) -> Result<(), Error> {
    let is_set = |name: &str| source.variables.iter().any(|(known, _)| known == name);
    let issuer = KEYS
        .iter()
        .find(|(prefix, _)| text.starts_with(prefix))
        .and_then(|(_, name)| by_name(name));
    let Some(issuer) = issuer.filter(|issuer| issuer.name != provider.name) else {
        return Ok(());
    };
    if provider.base_url_variable.is_some_and(is_set) {
        return Ok(());
    }
    Err(Error::OthersKey {
        source: place.to_owned(),
        issuer: issuer.label,
        variable: issuer.token_variables.first().copied().unwrap_or_default(),
        not: provider.label,
    })
}

/// How keys begin that only one provider issues.
const KEYS: [(&str, &str); 10] = [
    ("sk-ant-", "anthropic"),
    ("sk-proj-", "openai"),
    ("sk-svcacct-", "openai"),
    ("sk-or-v1-", "openrouter"),
    ("gsk_", "groq"),
    ("xai-", "xai"),
    ("AIzaSy", "gemini"),
    ("hf_", "huggingface"),
    ("pplx-", "perplexity"),
    ("csk-", "cerebras"),
];

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
                exposed: None,
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
                "number 2) belongs to a subscription",
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
            (&[("ANTHROPIC_API_KEY", "secret,secret2")], b"", "_KEY_2 or"),
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
                b"OPENAI_API_KEY=secret\n",
                "holds no token",
            ),
            (
                &[("ANTHROPIC_API_KEYS_FILE", "tokens")],
                b"ok\nANTHROPIC_API_KEY=$secret\n",
                "line 2 is the name of a variable",
            ),
            (
                &[("ANTHROPIC_API_KEY", "export ANTHROPIC_API_KEY=secret")],
                b"",
                "write the token alone",
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
    fn a_file_of_variables_is_read_for_its_tokens() {
        let found = found(
            &[
                ("ANTHROPIC_API_KEY", "a\n"),
                ("ANTHROPIC_API_KEYS_FILE", "tokens"),
            ],
            b"# mine\nDEBUG=true\nEMPTY=\nANTHROPIC_API_KEY=b # first\r\n\
              export ANTHROPIC_API_KEY_2=\"c\" # it's\nexport ANTHROPIC_API_KEYS='d, e'\n\
              OPENAI_API_KEY=never\nf group=x\nANTHROPIC_API_KEY_3=a\n",
        )
        .unwrap();
        assert_eq!(texts(&found), ["a", "b", "c", "d", "e", "f"]);
        let origins: Vec<_> = found.tokens.iter().map(|token| token.name).collect();
        let wanted = [
            "ANTHROPIC_API_KEY",
            "tokens:4",
            "tokens:5",
            "tokens:6",
            "tokens:6",
            "tokens:8",
        ];
        assert_eq!(origins, wanted);
        assert_eq!(found.duplicates.len(), 1);
        assert_eq!(found.duplicates[0].1, "tokens:9");
    }

    #[test]
    fn a_key_of_another_provider_is_refused_but_for_a_gateway() {
        let key = "gsk_0123456789";
        let error = found(&[("ANTHROPIC_API_KEY", key)], b"").unwrap_err();
        let text = format!("{error}; {}", error.hint());
        assert_eq!(
            text,
            "the token in ANTHROPIC_API_KEY is Groq's, not Anthropic's; put it into GROQ_API_KEY"
        );
        let gateway = ("ANTHROPIC_BASE_URL", "https://gateway.example");
        assert!(found(&[("ANTHROPIC_API_KEY", key), gateway], b"").is_ok());
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
            // A gateway may take any of them.
            let gateway = ("ANTHROPIC_BASE_URL", "https://gateway.example");
            let found = found(&[("ANTHROPIC_API_KEY", text), gateway], b"").unwrap();
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
