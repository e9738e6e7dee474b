//! Looking things up in an environment, and the child's own.

use crate::clients::CommandLine;
use crate::events::systemd;
use crate::tokens::is_token_variable;
use std::ffi::OsString;
use std::path::PathBuf;

/// The child's environment but for the tokens, with what its client wants.
pub(super) fn child_environment(
    environment: Vec<(OsString, OsString)>,
    command: &CommandLine,
    again: Option<&CommandLine>,
) -> Vec<(OsString, OsString)> {
    let mut kept: Vec<(OsString, OsString)> = environment
        .into_iter()
        .filter(|(name, _)| {
            !name
                .to_str()
                .is_some_and(|name| is_token_variable(name) || systemd::VARIABLES.contains(&name))
        })
        .collect();
    for line in std::iter::once(command).chain(again) {
        for (name, value) in line.client().environment {
            if !kept.iter().any(|(known, _)| known == name) {
                kept.push((name.into(), value.into()));
            }
        }
    }
    kept
}

/// The folder in which ddollar keeps what outlives a run; `None` without a home. A relative path
/// counts as unset (XDG Base Directory Specification).
pub(crate) fn state_folder(environment: &[(OsString, OsString)]) -> Option<PathBuf> {
    let folder = |name: &str| {
        let (_, value) = environment.iter().find(|(key, _)| key == name)?;
        Some(PathBuf::from(value)).filter(|path| path.is_absolute())
    };
    let folder = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
    Some(folder?.join("ddollar"))
}

/// The value of a variable that is set and not empty.
pub(crate) fn lookup(texts: &[(String, String)], name: &str) -> Option<String> {
    texts
        .iter()
        .find(|(key, value)| key == name && !value.is_empty())
        .map(|(_, value)| value.clone())
}

/// The variables whose names are text; bytes in a value that are not become U+FFFD, which no
/// token and no address may contain.
pub(crate) fn readable(environment: &[(OsString, OsString)]) -> Vec<(String, String)> {
    environment
        .iter()
        .filter_map(|(name, value)| {
            Some((
                name.to_str()?.to_owned(),
                value.to_string_lossy().into_owned(),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_where_the_specification_wants_it() {
        for (xdg, home, wanted) in [
            (Some("/x"), Some("/h"), Some("/x/ddollar")),
            (None, Some("/h"), Some("/h/.local/state/ddollar")),
            (Some("x"), Some("/h"), Some("/h/.local/state/ddollar")),
            (Some(""), Some("/h"), Some("/h/.local/state/ddollar")),
            (Some("x"), Some(""), None),
            (None, None, None),
        ] {
            let both = [("XDG_STATE_HOME", xdg), ("HOME", home)];
            let set = both.into_iter();
            let environment: Vec<(OsString, OsString)> = set
                .filter_map(|(name, value)| Some((name.into(), value?.into())))
                .collect();
            let found = state_folder(&environment);
            assert_eq!(found, wanted.map(PathBuf::from), "{xdg:?} {home:?}");
        }
    }
}
