//! Finds the client that a command line starts, also behind a path, `npx`, `env` or another wrapper.
//!
//! A client is found only where the wrapper would start it. What cannot be read, such as `sh -c '…'`,
//! counts as no client.

use super::{CLIENTS, Client};
use std::ffi::{OsStr, OsString};

/// A program that starts the command which follows its own options.
struct Wrapper {
    name: &'static str,
    /// Its options that take the next word as their value.
    valued: &'static [&'static str],
    /// How many words of its own come before the command.
    own_words: usize,
    /// Whether words like `NAME=value` may come before the command.
    assigns: bool,
}

const fn wrapper(name: &'static str, valued: &'static [&'static str]) -> Wrapper {
    Wrapper {
        name,
        valued,
        own_words: 0,
        assigns: false,
    }
}

static WRAPPERS: &[Wrapper] = &[
    Wrapper {
        assigns: true,
        ..wrapper("env", &["-u", "--unset", "-C", "--chdir"])
    },
    wrapper("nice", &["-n", "--adjustment"]),
    wrapper("ionice", &["-c", "--class", "-n", "--classdata"]),
    wrapper("nohup", &[]),
    wrapper("setsid", &[]),
    wrapper("time", &["-f", "--format", "-o", "--output"]),
    wrapper(
        "stdbuf",
        &["-i", "-o", "-e", "--input", "--output", "--error"],
    ),
    Wrapper {
        own_words: 1,
        ..wrapper("timeout", &["-k", "--kill-after", "-s", "--signal"])
    },
    Wrapper {
        own_words: 1,
        ..wrapper("taskset", &[])
    },
    wrapper("caffeinate", &["-t", "-w"]),
    wrapper("npx", &["-p", "--package"]),
    wrapper("bunx", &["-p", "--package"]),
    wrapper("pnpx", &[]),
    wrapper("uvx", &["--from", "--with", "-p", "--python"]),
    Wrapper {
        own_words: 1,
        ..wrapper("pipx", &["--spec", "--python"])
    },
    Wrapper {
        own_words: 1,
        ..wrapper("pnpm", &["--package"])
    },
    Wrapper {
        own_words: 2,
        ..wrapper("uv", &["--from", "--with", "-p", "--python"])
    },
    wrapper("node", &["-r", "--require", "--import", "--env-file"]),
    wrapper("bun", &[]),
];

/// The words that must stand there, for wrappers that have other subcommands too.
static SUBCOMMANDS: &[(&str, &[&str])] = &[
    ("pipx", &["run"]),
    ("pnpm", &["dlx"]),
    ("uv", &["tool", "run"]),
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
        at = match WRAPPERS.iter().find(|wrapper| wrapper.name == program) {
            Some(wrapper) => behind(wrapper, words, at + 1)?,
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

/// Index of the command behind a wrapper whose own words begin at `at`.
fn behind(wrapper: &Wrapper, words: &[OsString], mut at: usize) -> Option<usize> {
    let mut own = SUBCOMMANDS
        .iter()
        .find(|(name, _)| *name == wrapper.name)
        .map_or(&[][..], |(_, own)| own)
        .iter();
    let mut left = wrapper.own_words;
    loop {
        let word = words
            .get(at)
            .map(OsString::as_os_str)
            .and_then(OsStr::to_str)?;
        if word == "--" {
            at += 1;
            // The rest of the wrapper's own words comes after it.
            if left == 0 {
                return Some(at);
            }
        } else if wrapper.valued.contains(&word) {
            at += 2;
        } else if word.starts_with('-') && word.len() > 1 || word == "-" {
            // `env -S` takes the command as a single word, which is not read here.
            if wrapper.name == "env" && word.starts_with("-S") {
                return None;
            }
            at += 1;
        } else if wrapper.assigns && word.contains('=') {
            at += 1;
        } else if left > 0 {
            if own.next().is_some_and(|wanted| *wanted != word) {
                return None;
            }
            left -= 1;
            at += 1;
        } else {
            return Some(at);
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
