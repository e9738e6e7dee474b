//! Finds the client that a command line starts, also behind a path, `npx`, `env` or another wrapper.
//!
//! A client is found only where the wrapper would start it. What cannot be read, such as `sh -c '…'`,
//! counts as no client.

use super::{CLIENTS, Client, lists};
use std::ffi::OsString;

/// Programs that start a command: their name, and the words of their own that come before the command, of
/// which one in capitals may be any; and their options that take the next word as their value.
static WRAPPERS: &[(&str, &str)] = &[
    ("env", "-u --unset -C --chdir"),
    ("nice", "-n --adjustment"),
    ("ionice", "-c --class -n --classdata"),
    ("nohup", ""),
    ("setsid", ""),
    ("time", "-f --format -o --output"),
    ("stdbuf", "-i -o -e --input --output --error"),
    ("timeout DURATION", "-k --kill-after -s --signal"),
    ("taskset MASK", ""),
    ("caffeinate", "-t -w"),
    ("npx", "-p --package"),
    ("bunx", "-p --package"),
    ("pnpx", ""),
    ("uvx", "--from --with -p --python"),
    ("pipx run", "--spec --python"),
    ("pnpm dlx", "--package"),
    ("uv tool run", "--from --with -p --python"),
    ("node", "-r --require --import --env-file"),
    ("bun", ""),
];

/// The client that `words` starts, and the index of the word that names it.
pub(super) fn find(words: &[OsString]) -> Option<(&'static Client, usize)> {
    let mut at = 0;
    loop {
        let word = words.get(at)?.to_str()?;
        if let Some(client) = named(word) {
            return Some((client, at));
        }
        let program = base(word);
        let mut wrappers = WRAPPERS.iter();
        at = match wrappers.find(|(own, _)| own.split(' ').next() == Some(program)) {
            Some((own, valued)) => behind(own, valued, words, at + 1)?,
            None if program.starts_with("python") => module(words, at + 1)?,
            None => return None,
        };
    }
}

/// The client with this name, as a program, a file or a package.
fn named(word: &str) -> Option<&'static Client> {
    let version_at = word
        .get(1..)
        .and_then(|rest| rest.find('@'))
        .map(|at| at + 1);
    let bare = version_at.and_then(|at| word.get(..at)).unwrap_or(word);
    CLIENTS.iter().find(|client| {
        let in_package = || {
            word.ends_with(".js")
                && word
                    .split_once("node_modules/")
                    .is_some_and(|(_, rest)| rest.starts_with(client.package))
        };
        base(word) == client.name || bare == client.name || bare == client.package || in_package()
    })
}

/// Index of the command behind a wrapper, whose options and words begin at `at`; see [`WRAPPERS`].
fn behind(own: &str, valued: &str, words: &[OsString], mut at: usize) -> Option<usize> {
    let mut own = own.split(' ').peekable();
    let is_env = own.next() == Some("env");
    loop {
        let word = words.get(at)?.to_str()?;
        if word == "--" {
            at += 1;
            // The rest of the wrapper's own words comes after it.
            if own.peek().is_none() {
                return Some(at);
            }
        } else if lists(valued, word) {
            at += 2;
        } else if word.starts_with('-') {
            // `env -S` takes the command as a single word, which is not read here.
            if is_env && word.starts_with("-S") {
                return None;
            }
            at += 1;
        } else if is_env && word.contains('=') {
            // `NAME=value`
            at += 1;
        } else {
            match own.next() {
                Some(wanted) if wanted != word && wanted != wanted.to_uppercase() => return None,
                Some(_) => at += 1,
                None => return Some(at),
            }
        }
    }
}

/// Index of the module in `python -m MODULE`.
fn module(words: &[OsString], at: usize) -> Option<usize> {
    let place = words.iter().skip(at).position(|word| word == "-m")? + at;
    let clean = words
        .get(at..place)?
        .iter()
        .all(|word| word.as_encoded_bytes().starts_with(b"-"));
    clean.then_some(place + 1)
}

fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}
