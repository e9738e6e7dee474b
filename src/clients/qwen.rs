//! Qwen Code: its options and how it resumes. Measured with 0.24.4.

use super::args::{Grammar, Part};
use super::session::Start;
use super::{CONTINUE, Client, GENERIC, Uses, has_any, options_but, value, with_session_id};
use std::ffi::OsString;

pub(super) const CLIENT: Client = Client {
    name: "qwen",
    package: "@qwen-code/qwen-code",
    grammar: GRAMMAR,
    uses: |parts, _| {
        let kind = parts.iter().find(|part| part.is("--auth-type"));
        match kind.and_then(Part::text) {
            Some("openai" | "openai-responses") => Uses::Only("openai"),
            Some("anthropic") => Uses::Only("anthropic"),
            Some("gemini") => Uses::Only("gemini"),
            _ => Uses::AnyOfRow,
        }
    },
    subcommands: SUBCOMMANDS,
    elsewhere: "--acp --list-extensions",
    give_session_id,
    find_session,
    resume,
    ..GENERIC
};

/// From its help: the options that take a value, and those that the rules look at.
const GRAMMAR: Grammar = Grammar {
    one: "--model|-m --fallback-model --prompt|-p --prompt-interactive|-i --system-prompt \
         --append-system-prompt --output-style --sandbox-image --approval-mode --proxy --channel \
         --allowed-mcp-server-names --mcp-config --allowed-tools --extensions|-e \
         --include-directories|--add-dir --openai-logging-dir --openai-api-key --openai-base-url \
         --input-format --output-format|-o --json-fd --json-file --json-schema --input-file \
         --session-id --max-session-turns --max-wall-time --max-tool-calls --max-subagent-depth \
         --core-tools --exclude-tools --disabled-slash-commands --auth-type",
    optional: "--resume|-r --worktree",
    nothing: "--continue|-c --fork-session --chat-recording --acp --yolo|-y --sandbox|-s \
         --debug|-d --bare --safe-mode --list-extensions|-l --help|-h --version|-v",
    ..Grammar::NONE
};

/// Its subcommands. From its help.
const SUBCOMMANDS: &str = "auth board channel extensions hooks mcp review sandbox serve \
    sessions update";

fn give_session_id(parts: &[Part], id: &str) -> Option<Vec<OsString>> {
    let is_old = has_any(parts, "--session-id --resume --continue --fork-session");
    (CLIENT.works_on_session(parts) && !is_old).then(|| with_session_id(parts, id))
}

/// It keeps sessions as `projects/FOLDER/chats/ID.jsonl`.
fn find_session(start: &Start) -> Option<String> {
    let projects = start.folder("QWEN_HOME", ".qwen")?.join("projects");
    start.id_if_in_any(Some(projects), &format!("chats/{}.jsonl", start.id?))
}

/// Resumes the session whose id is known, or that the user's line names, with a new prompt where the
/// line has one.
fn resume(parts: &[Part], session: Option<&str>) -> Option<Vec<OsString>> {
    if !CLIENT.works_on_session(parts) {
        return None;
    }
    let own = || value(parts, "--resume").filter(|_| !has_any(parts, "--fork-session"));
    let id = session
        .or_else(|| value(parts, "--session-id"))
        .or_else(own)?;
    let dropped =
        "--resume --session-id --continue --fork-session --prompt --prompt-interactive --";
    let mut words = options_but(dropped, parts);
    words.extend(["--resume".into(), id.into()]);
    if has_any(parts, "--prompt-interactive") {
        words.extend(["--prompt-interactive".into(), CONTINUE.into()]);
    } else if has_any(parts, "--prompt") || parts.iter().any(Part::is_word) {
        words.push(CONTINUE.into());
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use crate::clients::tests::check_resumes;

    #[test]
    fn resumes() {
        check_resumes(&[
            ("qwen 'do it'", false, "qwen 'do it'"),
            ("qwen", true, "qwen --resume U"),
            ("qwen --yolo 'do it'", true, "qwen --yolo --resume U GO"),
            ("qwen -p 'do it' -m x", true, "qwen -m x --resume U GO"),
            (
                "qwen -i 'do it'",
                true,
                "qwen --resume U --prompt-interactive GO",
            ),
            ("qwen --session-id S 'do it'", false, "qwen --resume S GO"),
            ("qwen --continue 'more'", false, "qwen --continue 'more'"),
            ("qwen --continue 'more'", true, "qwen --resume U GO"),
            ("qwen mcp list", true, "qwen mcp list"),
        ]);
    }
}
