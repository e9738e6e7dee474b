//! Gemini CLI: its options and how it resumes. Measured with 0.61.0.

use super::args::{Grammar, Part, Takes};
use super::{Client, GENERIC, has_any, subcommand, words_of};
use std::ffi::OsString;

pub(super) const CLIENT: Client = Client {
    name: "gemini",
    package: "@google/gemini-cli",
    providers: &["gemini"],
    // Also what it asks for with `-m gemini-3-flash`.
    model: "gemini-3.8-flash",
    models: &[("gemini-3-flash", "gemini-3.8-flash")],
    grammar: GRAMMAR,
    works_on_session,
    cannot: |_| {
        Some("its service refuses a session that is resumed, so each restart begins the task anew")
    },
    resume,
    ..GENERIC
};

/// From its help.
const GRAMMAR: Grammar = &[
    (&["--model", "-m"], Takes::One),
    (&["--prompt", "-p"], Takes::One),
    (&["--prompt-interactive", "-i"], Takes::One),
    (&["--approval-mode"], Takes::One),
    (&["--policy"], Takes::One),
    (&["--allowed-mcp-server-names"], Takes::One),
    (&["--allowed-tools"], Takes::One),
    (&["--extensions", "-e"], Takes::One),
    (&["--resume", "-r"], Takes::Optional),
    (&["--session-id"], Takes::One),
    (&["--session-file"], Takes::One),
    (&["--worktree", "-w"], Takes::Optional),
    (&["--admin-policy"], Takes::One),
    (&["--delete-session"], Takes::One),
    (&["--include-directories"], Takes::One),
    (&["--output-format", "-o"], Takes::One),
    (&["--debug", "-d"], Takes::Nothing),
    (&["--sandbox", "-s"], Takes::Nothing),
    (&["--yolo", "-y"], Takes::Nothing),
    (&["--skip-trust"], Takes::Nothing),
    (&["--list-extensions", "-l"], Takes::Nothing),
    (&["--list-sessions"], Takes::Nothing),
    (&["--screen-reader"], Takes::Nothing),
    (&["--acp"], Takes::Nothing),
    (&["--experimental-acp"], Takes::Nothing),
    (&["--raw-output"], Takes::Nothing),
    (&["--accept-raw-output-risk"], Takes::Nothing),
    (&["--help", "-h"], Takes::Nothing),
    (&["--version", "-v"], Takes::Nothing),
];

/// Its subcommands, with their aliases. From its help.
const SUBCOMMANDS: &[&str] = &[
    "mcp",
    "extensions",
    "extension",
    "skills",
    "skill",
    "hooks",
    "hook",
    "gemma",
];

fn works_on_session(parts: &[Part]) -> bool {
    let elsewhere = [
        "--list-sessions",
        "--delete-session",
        "--list-extensions",
        "--acp",
        "--experimental-acp",
    ];
    !subcommand(parts).is_some_and(|(_, word)| SUBCOMMANDS.contains(&word))
        && !has_any(parts, &elsewhere)
}

/// The line again, but for an id that the client knows by now. A session is not resumed: 0.61 sends the
/// result of each tool twice then, which its service refuses with 400.
fn resume(parts: &[Part], _: Option<&str>) -> Option<Vec<OsString>> {
    let is_named = has_any(parts, &["--session-id"]);
    is_named.then(|| words_of(parts.iter().filter(|part| !part.is("--session-id"))))
}

#[cfg(test)]
mod tests {
    use crate::clients::tests::check_resumes;

    #[test]
    fn lines_are_repeated_without_an_id_that_is_taken() {
        check_resumes(&[
            ("gemini -p 'do it'", true, "gemini -p 'do it'"),
            ("gemini 'do it' -m pro", false, "gemini 'do it' -m pro"),
            (
                "gemini --skip-trust --session-id S -p 'do it'",
                false,
                "gemini --skip-trust -p 'do it'",
            ),
            ("gemini --resume S", false, "gemini --resume S"),
            ("gemini mcp list", true, "gemini mcp list"),
        ]);
    }
}
