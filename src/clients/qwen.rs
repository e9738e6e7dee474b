//! Qwen Code: its options and how it resumes. Measured with 0.24.4.

use super::args::{Grammar, Part, Takes};
use super::session::Start;
use super::{
    CONTINUE, Client, GENERIC, Uses, has_any, is_dashes, subcommand, with_session_id, words_of,
};
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
    works_on_session,
    give_session_id,
    find_session,
    resume,
    ..GENERIC
};

/// From its help: the options that take a value, and those that the rules look at.
const GRAMMAR: Grammar = &[
    (&["--model", "-m"], Takes::One),
    (&["--fallback-model"], Takes::One),
    (&["--prompt", "-p"], Takes::One),
    (&["--prompt-interactive", "-i"], Takes::One),
    (&["--system-prompt"], Takes::One),
    (&["--append-system-prompt"], Takes::One),
    (&["--output-style"], Takes::One),
    (&["--sandbox-image"], Takes::One),
    (&["--approval-mode"], Takes::One),
    (&["--proxy"], Takes::One),
    (&["--channel"], Takes::One),
    (&["--allowed-mcp-server-names"], Takes::One),
    (&["--mcp-config"], Takes::One),
    (&["--allowed-tools"], Takes::One),
    (&["--extensions", "-e"], Takes::One),
    (&["--include-directories", "--add-dir"], Takes::One),
    (&["--openai-logging-dir"], Takes::One),
    (&["--openai-api-key"], Takes::One),
    (&["--openai-base-url"], Takes::One),
    (&["--input-format"], Takes::One),
    (&["--output-format", "-o"], Takes::One),
    (&["--json-fd"], Takes::One),
    (&["--json-file"], Takes::One),
    (&["--json-schema"], Takes::One),
    (&["--input-file"], Takes::One),
    (&["--resume", "-r"], Takes::Optional),
    (&["--session-id"], Takes::One),
    (&["--worktree"], Takes::Optional),
    (&["--max-session-turns"], Takes::One),
    (&["--max-wall-time"], Takes::One),
    (&["--max-tool-calls"], Takes::One),
    (&["--max-subagent-depth"], Takes::One),
    (&["--core-tools"], Takes::One),
    (&["--exclude-tools"], Takes::One),
    (&["--disabled-slash-commands"], Takes::One),
    (&["--auth-type"], Takes::One),
    (&["--continue", "-c"], Takes::Nothing),
    (&["--fork-session"], Takes::Nothing),
    (&["--chat-recording"], Takes::Nothing),
    (&["--acp"], Takes::Nothing),
    (&["--yolo", "-y"], Takes::Nothing),
    (&["--sandbox", "-s"], Takes::Nothing),
    (&["--debug", "-d"], Takes::Nothing),
    (&["--bare"], Takes::Nothing),
    (&["--safe-mode"], Takes::Nothing),
    (&["--list-extensions", "-l"], Takes::Nothing),
    (&["--help", "-h"], Takes::Nothing),
    (&["--version", "-v"], Takes::Nothing),
];

/// Its subcommands. From its help.
const SUBCOMMANDS: &[&str] = &[
    "auth",
    "board",
    "channel",
    "extensions",
    "hooks",
    "mcp",
    "review",
    "sandbox",
    "serve",
    "sessions",
    "update",
];

fn works_on_session(parts: &[Part]) -> bool {
    !subcommand(parts).is_some_and(|(_, word)| SUBCOMMANDS.contains(&word))
        && !has_any(parts, &["--acp", "--list-extensions"])
}

fn give_session_id(parts: &[Part], id: &str) -> Option<Vec<OsString>> {
    let is_old = has_any(
        parts,
        &["--session-id", "--resume", "--continue", "--fork-session"],
    );
    (works_on_session(parts) && !is_old).then(|| with_session_id(parts, id))
}

/// It keeps sessions as `projects/FOLDER/chats/ID.jsonl`.
fn find_session(start: &Start) -> Option<String> {
    let projects = start.folder("QWEN_HOME", ".qwen")?.join("projects");
    start.id_if_in_any(Some(projects), &format!("chats/{}.jsonl", start.id?))
}

/// Resumes the session whose id is known, or that the user's line names, with a new prompt where the
/// line has one.
fn resume(parts: &[Part], session: Option<&str>) -> Option<Vec<OsString>> {
    if !works_on_session(parts) {
        return None;
    }
    let value = |name: &str| parts.iter().find(|part| part.is(name)).and_then(Part::text);
    let own = || value("--resume").filter(|_| !has_any(parts, &["--fork-session"]));
    let id = session.or_else(|| value("--session-id")).or_else(own)?;
    let dropped = [
        "--resume",
        "--session-id",
        "--continue",
        "--fork-session",
        "--prompt",
        "--prompt-interactive",
    ];
    let kept = parts.iter().filter(|part| {
        !part.is_word() && !is_dashes(part) && !dropped.contains(&part.name.as_str())
    });
    let mut words = words_of(kept);
    words.extend(["--resume".into(), id.into()]);
    if has_any(parts, &["--prompt-interactive"]) {
        words.extend(["--prompt-interactive".into(), CONTINUE.into()]);
    } else if has_any(parts, &["--prompt"]) || parts.iter().any(Part::is_word) {
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
