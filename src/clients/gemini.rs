//! Gemini CLI: its options and how it resumes. Measured with 0.61.0.

use super::args::{Grammar, Part};
use super::{Client, GENERIC, has_any, words_of};
use std::ffi::OsString;

pub(super) const CLIENT: Client = Client {
    name: "gemini",
    package: "@google/gemini-cli",
    providers: &["gemini"],
    // Also what it asks for with `-m gemini-3-flash`.
    model: "gemini-3.8-flash",
    models: &[("gemini-3-flash", "gemini-3.8-flash")],
    grammar: GRAMMAR,
    subcommands: SUBCOMMANDS,
    elsewhere: "--list-sessions --delete-session --list-extensions --acp --experimental-acp",
    cannot: |_| {
        Some("its service refuses a session that is resumed, so each restart begins the task anew")
    },
    resume,
    ..GENERIC
};

/// From its help.
const GRAMMAR: Grammar = Grammar {
    one: "--model|-m --prompt|-p --prompt-interactive|-i --approval-mode --policy \
         --allowed-mcp-server-names --allowed-tools --extensions|-e --session-id --session-file \
         --admin-policy --delete-session --include-directories --output-format|-o",
    optional: "--resume|-r --worktree|-w",
    nothing: "--debug|-d --sandbox|-s --yolo|-y --skip-trust --list-extensions|-l \
         --list-sessions --screen-reader --acp --experimental-acp --raw-output \
         --accept-raw-output-risk --help|-h --version|-v",
    ..Grammar::NONE
};

/// Its subcommands, with their aliases. From its help.
const SUBCOMMANDS: &str = "mcp extensions extension skills skill hooks hook gemma";

/// The line again, but for an id that the client knows by now. A session is not resumed: 0.61 sends the
/// result of each tool twice then, which its service refuses with 400.
fn resume(parts: &[Part], _: Option<&str>) -> Option<Vec<OsString>> {
    let is_named = has_any(parts, "--session-id");
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
