//! OpenAI Codex: its options and how it resumes. Measured with 0.171.0.

use super::args::{Grammar, Part, Takes};
use super::{CONTINUE, Client, GENERIC, is_dashes, subcommand, words_of};
use std::ffi::OsString;

pub(super) const CLIENT: Client = Client {
    name: "codex",
    package: "@openai/codex",
    providers: &["openai"],
    // `codex exec` reads no other variable for an API key.
    token_variable: Some("CODEX_API_KEY"),
    model: "gpt-6.2-sol",
    grammar: GRAMMAR,
    // It ignores OPENAI_BASE_URL.
    base_url_argument: Some(("openai", |url| {
        vec!["-c".into(), format!("openai_base_url=\"{url}\"").into()]
    })),
    resume,
    ..GENERIC
};

/// From its help.
const GRAMMAR: Grammar = &[
    (&["--config", "-c"], Takes::One),
    (&["--enable"], Takes::One),
    (&["--disable"], Takes::One),
    (&["--remote"], Takes::One),
    (&["--remote-auth-token-env"], Takes::One),
    (&["--image", "-i"], Takes::Many),
    (&["--model", "-m"], Takes::One),
    (&["--local-provider"], Takes::One),
    (&["--profile", "-p"], Takes::One),
    (&["--sandbox", "-s"], Takes::One),
    (&["--cd", "-C"], Takes::One),
    (&["--add-dir"], Takes::One),
    (&["--ask-for-approval", "-a"], Takes::One),
    (&["--thread-source"], Takes::One),
    (&["--cyber-access-program"], Takes::One),
    (&["--output-schema"], Takes::One),
    (&["--color"], Takes::One),
    (&["--output-last-message", "-o"], Takes::One),
    (&["--oss"], Takes::Nothing),
    (&["--json"], Takes::Nothing),
    (&["--last"], Takes::Nothing),
    (&["--all"], Takes::Nothing),
    (&["--search"], Takes::Nothing),
    (&["--ephemeral"], Takes::Nothing),
    (&["--skip-git-repo-check"], Takes::Nothing),
    (&["--strict-config"], Takes::Nothing),
    (&["--approve-for-me"], Takes::Nothing),
    (&["--worktree"], Takes::Nothing),
    (&["--trust"], Takes::Nothing),
    (&["--no-alt-screen"], Takes::Nothing),
    (&["--no-daemon"], Takes::Nothing),
    (&["--ignore-user-config"], Takes::Nothing),
    (&["--ignore-rules"], Takes::Nothing),
    (
        &["--dangerously-bypass-approvals-and-sandbox"],
        Takes::Nothing,
    ),
    (&["--dangerously-bypass-hook-trust"], Takes::Nothing),
    (&["--full-auto"], Takes::Nothing),
    (&["--help", "-h"], Takes::Nothing),
    (&["--version", "-V"], Takes::Nothing),
];

/// Its subcommands that work on no session. From its help.
const SUBCOMMANDS: &[&str] = &[
    "agents",
    "review",
    "login",
    "logout",
    "mcp",
    "plugin",
    "app-server",
    "remote-control",
    "completion",
    "update",
    "doctor",
    "sandbox",
    "debug",
    "apply",
    "a",
    "queue",
    "archive",
    "delete",
    "migrate-rollouts",
    "migrate-nfs-db",
    "unarchive",
    "fork",
    "cloud",
    "exec-server",
    "features",
    "help",
    "mcp-server",
];

/// `codex exec PROMPT` → `codex exec resume --last CONTINUE`, `codex PROMPT` → `codex resume
/// --last`. A session that the user named stays named.
fn resume(parts: &[Part], _: Option<&str>) -> Option<Vec<OsString>> {
    if parts.iter().any(|part| part.is("--ephemeral")) {
        return None;
    }
    // What was sent with the first prompt is in the session.
    let keep = |part: &&Part| !part.is_word() && !is_dashes(part) && !part.is("--image");
    let (place, word) = subcommand(parts).unwrap_or((parts.len(), ""));
    let (before, after) = parts.split_at(place);
    let after = after.get(1..).unwrap_or_default();
    let mut words = words_of(before.iter().filter(keep));
    match word {
        "exec" | "e" => {
            let inner = subcommand(after);
            let named = match inner {
                Some((_, "review")) => return None,
                Some((at, "resume" | "fork")) => {
                    let rest = after.get(at + 1..).unwrap_or_default();
                    let is_last = after.iter().any(|part| part.is("--last"));
                    let is_resume = inner.is_some_and(|(_, word)| word == "resume");
                    subcommand(rest)
                        .map(|(_, id)| id)
                        .filter(|_| is_resume && !is_last)
                }
                _ => None,
            };
            words.push("exec".into());
            words.extend(words_of(
                after.iter().filter(keep).filter(|part| !part.is("--last")),
            ));
            words.push("resume".into());
            words.push(named.unwrap_or("--last").into());
            words.push(CONTINUE.into());
        }
        "resume" => {
            words.push("resume".into());
            words.extend(words_of(after.iter().filter(keep)));
            let is_last = after.iter().any(|part| part.is("--last"));
            match subcommand(after) {
                Some((_, id)) if !is_last => words.push(id.into()),
                _ if is_last => {}
                _ => words.push("--last".into()),
            }
        }
        word if SUBCOMMANDS.contains(&word) => return None,
        _ => {
            words.push("resume".into());
            words.extend(words_of(after.iter().filter(keep)));
            words.push("--last".into());
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use crate::clients::tests::check_resumes;

    #[test]
    fn resumes() {
        check_resumes(&[
            ("codex exec 'do it'", false, "codex exec resume --last GO"),
            (
                "codex exec --json -m gpt-6 'do it'",
                false,
                "codex exec --json -m gpt-6 resume --last GO",
            ),
            (
                "codex -c a=b e --full-auto -",
                false,
                "codex -c a=b exec --full-auto resume --last GO",
            ),
            (
                "codex exec -i shot.png --json 'do it'",
                false,
                "codex exec --json resume --last GO",
            ),
            (
                "codex exec resume --last 'more'",
                false,
                "codex exec resume --last GO",
            ),
            (
                "codex exec --json resume S 'more'",
                false,
                "codex exec --json resume S GO",
            ),
            (
                "codex exec fork S 'more'",
                false,
                "codex exec resume --last GO",
            ),
            (
                "codex exec --ephemeral 'do it'",
                false,
                "codex exec --ephemeral 'do it'",
            ),
            ("codex exec review", false, "codex exec review"),
            ("codex", false, "codex resume --last"),
            (
                "codex -m gpt-6 'do it'",
                false,
                "codex -m gpt-6 resume --last",
            ),
            ("codex resume S 'more'", false, "codex resume S"),
            ("codex login", false, "codex login"),
        ]);
    }
}
