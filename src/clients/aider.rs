//! aider: its options and how it resumes. Measured with 0.86.2.

use super::args::{Grammar, Part};
use super::{CONTINUE, Client, GENERIC, has_any, words_of};
use std::ffi::OsString;

pub(super) const CLIENT: Client = Client {
    name: "aider",
    package: "aider-chat",
    grammar: GRAMMAR,
    base_url_variables: &[("OPENAI_API_BASE", "openai")],
    may_exit_zero_on_failure: true,
    cannot: |parts| {
        let waits = !has_any(parts, "--message --message-file");
        waits.then_some("its chat waits for you after a restart")
    },
    resume,
    ..GENERIC
};

/// From its help: the options that the rules below look at, and those that are common.
const GRAMMAR: Grammar = Grammar {
    one: "--message|--msg|-m --message-file|-f --model",
    nothing: "--restore-chat-history --yes-always|--yes --no-auto-commits --no-git \
         --architect --help|-h --version",
    ..Grammar::NONE
};

/// Restores the chat history of the folder; a message that was sent becomes a request to continue.
fn resume(parts: &[Part], _: Option<&str>) -> Option<Vec<OsString>> {
    let is_message = |part: &Part| part.is("--message") || part.is("--message-file");
    let mut words = words_of(parts.iter().filter(|part| !is_message(part)));
    // Before the files, which may stand behind `--`.
    let mut own: Vec<OsString> = Vec::new();
    if !parts.iter().any(|part| part.is("--restore-chat-history")) {
        own.push("--restore-chat-history".into());
    }
    if parts.iter().any(is_message) {
        own.extend(["--message".into(), CONTINUE.into()]);
    }
    own.append(&mut words);
    Some(own)
}

#[cfg(test)]
mod tests {
    use crate::clients::tests::check_resumes;

    #[test]
    fn resumes() {
        check_resumes(&[
            ("aider a.py", false, "aider --restore-chat-history a.py"),
            (
                "aider -m 'do it' a.py",
                false,
                "aider --restore-chat-history --message GO a.py",
            ),
            (
                "aider --message-file todo.md --yes-always",
                false,
                "aider --restore-chat-history --message GO --yes-always",
            ),
        ]);
    }
}
