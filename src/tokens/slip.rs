//! What people write by mistake where a token belongs, and what to write instead.
//!
//! Owns the table of these slips. It promises that no text of a provider's or gateway's token is taken for
//! one. It does not say whose token a text is, nor where it was found.

/// Something that was put in a token's place.
pub(super) struct SlipOfToken {
    is_made: fn(&str) -> bool,
    /// What follows "the token in …".
    pub(super) why: &'static str,
    /// `NAME` stands for the variable.
    pub(super) hint: &'static str,
}

/// The slip that this text is, if it is one.
pub(super) fn of(text: &str) -> Option<&'static SlipOfToken> {
    SLIPS.iter().find(|slip| (slip.is_made)(text))
}

/// The name and the value of a line that sets a variable, without quotes and without the comment behind
/// it.
pub(super) fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let exported = line.strip_prefix("export ").map(str::trim_start);
    let (name, value) = exported.unwrap_or(line).split_once('=')?;
    let is_name = name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    // A token in base64 may end with `=`, and may be in capitals before it; real ones have 32 characters
    // and more.
    let is_value = value.is_empty() && (exported.is_some() || line.len() < 32)
        || value.contains(|c: char| c != '=') && !value.starts_with(' ');
    if !is_name || !is_value {
        return None;
    }
    let quoted = QUOTES.iter().find_map(|quote| {
        let inner = value.strip_prefix(*quote)?;
        inner.split(*quote).next()
    });
    let bare = || value.split(" #").next().unwrap_or_default().trim_end();
    Some((name, quoted.unwrap_or_else(bare)))
}

/// Also those that a word processor makes of them.
const QUOTES: [char; 7] = ['"', '\'', '`', '“', '”', '‘', '’'];

/// For a variable; a file has one token a line.
pub(super) const SEVERAL: &str =
    "several tokens go into NAME_2 or NAMES; look for a stray line break";
const ALONE: &str = "write the token alone";
const COPY: &str = "copy it again, from the provider's console";

/// In the order in which they are reported.
static SLIPS: &[SlipOfToken] = &[
    SlipOfToken {
        is_made: str::is_empty,
        why: "is blank",
        hint: "set NAME to a token, or unset it",
    },
    SlipOfToken {
        is_made: |text| text.contains('\0'),
        why: "contains a NUL byte",
        hint: ALONE,
    },
    SlipOfToken {
        is_made: |text| text.contains(['\n', '\r']),
        why: "contains a line break",
        hint: SEVERAL,
    },
    SlipOfToken {
        is_made: |text| assignment(text).is_some_and(|(_, value)| !value.is_empty()),
        why: "is a whole line NAME=TOKEN",
        hint: "write the token alone, without its name",
    },
    SlipOfToken {
        is_made: |text| {
            let begins = |name: &str| {
                let start = text.get(..name.len());
                start.is_some_and(|start| start.eq_ignore_ascii_case(name))
            };
            ["bearer ", "authorization:", "x-api-key:"]
                .into_iter()
                .any(begins)
        },
        why: "begins like a header of a request",
        hint: "write the token alone, without 'Bearer' or a header's name before it",
    },
    SlipOfToken {
        is_made: |text| text.starts_with(QUOTES) || text.ends_with(QUOTES),
        why: "has quotes around it",
        hint: "write it without them: only a shell takes quotes away",
    },
    SlipOfToken {
        is_made: |text| text.starts_with('$'),
        why: "is the name of a variable, not its value",
        hint: "a shell puts the value in its place, but not within single quotes; other programs never do",
    },
    SlipOfToken {
        is_made: is_path,
        why: "is the path of a file",
        hint: "the path of a file with one token a line goes into NAMES_FILE",
    },
    SlipOfToken {
        is_made: is_placeholder,
        why: "is a placeholder from an example",
        hint: "put your own token there, from the provider's console",
    },
    SlipOfToken {
        is_made: |text| text.starts_with("sk-ant-admin") || text.starts_with("sk-admin-"),
        why: "is an admin key, with which no model answers",
        hint: "create an ordinary API key in the provider's console",
    },
    SlipOfToken {
        is_made: |text| text.starts_with(['{', '[']),
        why: "is a piece of JSON or of a template",
        hint: ALONE,
    },
    SlipOfToken {
        is_made: |text| text.contains(char::is_whitespace),
        why: "contains white space",
        hint: SEVERAL,
    },
    SlipOfToken {
        is_made: |text| !text.bytes().all(|byte| byte.is_ascii_graphic()),
        why: "contains a character that no token has",
        hint: COPY,
    },
    SlipOfToken {
        is_made: |text| text.contains([',', ';']),
        why: "contains a comma or semicolon",
        hint: SEVERAL,
    },
];

/// A token in base64 may begin with a slash; that letters alone stand between it and the next one is as
/// good as impossible there, and what the folders at the root of a system are called.
fn is_path(text: &str) -> bool {
    let is_folder = |name: &str| name.len() > 2 && name.bytes().all(|b| b.is_ascii_alphabetic());
    let first = text.strip_prefix('/').and_then(|rest| rest.split_once('/'));
    ["~/", "./", "../"]
        .iter()
        .any(|start| text.starts_with(start))
        || first.is_some_and(|(name, _)| is_folder(name))
}

/// What documentation writes where a token goes.
fn is_placeholder(text: &str) -> bool {
    let words = text.to_ascii_lowercase().replace('_', "-");
    let is_example = [
        "your-",
        "-here",
        "changeme",
        "change-me",
        "placeholder",
        "xxxxx",
    ]
    .iter()
    .any(|word| words.contains(word));
    // Real tokens have 32 characters and more.
    text.starts_with('<')
        || text.ends_with("...")
        || text.ends_with('…')
        || is_example && text.len() < 32
}
