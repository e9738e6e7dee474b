//! Claude Code: its options, how it resumes, its settings and its hooks. Measured with 2.1.332.

use super::args::{Grammar, Part};
use super::{
    CONTINUE, Client, GENERIC, KEEPS_NO_SESSION, has_any, options_but, value, with_session_id,
};
use crate::tokens::condition::Trouble;
use serde_json::{Map, Value, json};
use std::ffi::OsString;

pub(super) const CLIENT: Client = Client {
    name: "claude",
    package: "@anthropic-ai/claude-code",
    providers: &["anthropic"],
    model: "claude-opus-5-5",
    models: &[
        ("opus", "claude-opus-5-5"),
        ("sonnet", "claude-sonnet-5-5"),
        ("haiku", "claude-haiku-5-5"),
        ("fable", "claude-fable-5-1"),
    ],
    // Without it a resumed session waits for somebody to type.
    environment: &[("CLAUDE_CODE_RESUME_INTERRUPTED_TURN", "1")],
    // It turns tool search off for any base URL but Anthropic's own.
    behind_proxy: &[("ENABLE_TOOL_SEARCH", "true")],
    does_without: Some("Remote Control"),
    has_hooks: true,
    grammar: GRAMMAR,
    subcommands: SUBCOMMANDS,
    elsewhere: "--bg --desktop --cloud --teleport --environment",
    give_session_id,
    find_session: |start| {
        let projects = start
            .folder("CLAUDE_CONFIG_DIR", ".claude")?
            .join("projects");
        start.id_if_in_any(Some(projects), &format!("{}.jsonl", start.id?))
    },
    cannot: |parts| {
        let has = |name| has_any(parts, name);
        let budget =
            || has("--max-budget-usd").then_some("--max-budget-usd starts anew at each restart");
        let keeps_none = has("--no-session-persistence").then_some(KEEPS_NO_SESSION);
        keeps_none.or_else(budget)
    },
    resume,
    ..GENERIC
};

/// From its help, and from the documentation for what the help leaves out.
const GRAMMAR: Grammar = Grammar {
    one: "--session-id --settings --model --input-format --output-format --environment \
         --agent --agents --append-system-prompt --append-system-prompt-file --system-prompt \
         --system-prompt-file --system-prompt-snapshot --autocompact --debug-file --effort \
         --fallback-model --json-schema --max-budget-usd --max-turns --name|-n --permission-mode \
         --permission-prompts --permission-prompt-tool --plugin-dir --plugin-url \
         --remote-control-session-name-prefix --setting-sources",
    optional: "--resume|-r --cloud --teleport --debug|-d --from-pr --prompt-suggestions \
         --remote-control --worktree|-w",
    many: "--add-dir --allowedTools|--allowed-tools --disallowedTools|--disallowed-tools \
         --tools --betas --file --mcp-config",
    nothing: "--print|-p --continue|-c --fork-session --no-session-persistence --bare \
         --safe-mode --bg|--background --desktop --allow-dangerously-skip-permissions \
         --dangerously-skip-permissions --ax-screen-reader --brief --chrome --no-chrome \
         --disable-slash-commands --exclude-dynamic-system-prompt-sections \
         --forward-subagent-text --ide --include-hook-events --include-partial-messages \
         --replay-user-messages --restricted --strict-mcp-config --tmux --verbose --help|-h \
         --version|-v",
};

/// Its subcommands that work on no session. From its help.
const SUBCOMMANDS: &str = "agents attach auth auto-mode config doctor gateway import \
    install kill logs mcp plugin plugins project purge respawn rm setup-token stop \
    ultrareview update upgrade";

/// Whether it starts a session that has no id yet and is stored in the current folder.
fn give_session_id(parts: &[Part], id: &str) -> Option<Vec<OsString>> {
    let otherwise = "--session-id --continue --resume --fork-session --from-pr \
        --no-session-persistence --remote-control --tmux --help --version";
    let is_new = CLIENT.works_on_session(parts) && !has_any(parts, otherwise);
    is_new.then(|| with_session_id(parts, id))
}

/// `--session-id U` → `--resume U`. A prompt that was sent is not sent again; `-p` needs a new one.
/// Without an id the newest session of the folder is resumed, but only if the user's own line asks for
/// that: it could be somebody else's.
fn resume(parts: &[Part], learned: Option<&str>) -> Option<Vec<OsString>> {
    let has = |name: &str| has_any(parts, name);
    if has("--no-session-persistence") {
        return None;
    }
    let id = learned
        .or_else(|| value(parts, "--session-id"))
        .or_else(|| value(parts, "--resume").filter(|_| !has("--fork-session")));
    // These turn hooks off, so no session is reported even if there is one.
    let blind = has("--bare --safe-mode");
    if id.is_none() && !has("--continue") && !blind {
        return None;
    }
    let dropped = "--continue --resume --session-id --fork-session --";
    let mut words = options_but(dropped, parts);
    match id {
        Some(id) => words.extend(["--resume".into(), id.into()]),
        None => words.push("--continue".into()),
    }
    if has("--print") && value(parts, "--input-format") != Some("stream-json") {
        words.push(CONTINUE.into());
    }
    Some(words)
}

/// Result of merging ddollar's settings with the user's own.
#[derive(Debug, PartialEq)]
pub(crate) enum Merged {
    /// The merged settings, as JSON.
    Settings(String),
    /// Why the user's own cannot be merged.
    Not(&'static str),
}

/// Adds to the user's own settings (JSON, or empty) the hooks that call `program`, and the helper that
/// prints the token in use. A token in the user's settings would take precedence, so it is emptied.
pub(crate) fn merge(own: &str, program: &str) -> Merged {
    let own = if own.trim().is_empty() { "{}" } else { own };
    let Ok(Value::Object(mut settings)) = serde_json::from_str(own) else {
        return Merged::Not("is not a JSON object");
    };
    let quoted = shlex::try_quote(program).unwrap_or_default();
    let entry = json!({
        "hooks": [{ "type": "command", "command": format!("{quoted} __hook"), "timeout": 10 }]
    });
    let hooks = settings
        .entry("hooks")
        .or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(hooks) = hooks else {
        return Merged::Not("has hooks that are no JSON object");
    };
    for event in ["SessionStart", "StopFailure"] {
        let list = hooks
            .entry(event)
            .or_insert_with(|| Value::Array(Vec::new()));
        let Value::Array(list) = list else {
            return Merged::Not("has hooks that are no list");
        };
        list.push(entry.clone());
    }
    let variables = settings
        .entry("env")
        .or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(variables) = variables else {
        return Merged::Not("has an env that is no JSON object");
    };
    variables.insert("ANTHROPIC_API_KEY".into(), "".into());
    settings.insert("apiKeyHelper".into(), format!("{quoted} __token").into());
    Merged::Settings(Value::Object(settings).to_string())
}

/// What a hook has reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HookReport {
    /// Id of the session.
    pub(crate) session: Option<String>,
    /// The file that holds the session once it has begun.
    pub(crate) transcript: Option<String>,
    /// What the turn failed with, in the client's own term.
    pub(crate) error: Option<String>,
}

/// Parses a hook's input; `None` if it is not the input of a hook.
pub(crate) fn report(json: &[u8]) -> Option<HookReport> {
    let value: Value = serde_json::from_slice(json).ok()?;
    // Ids and paths end up on a command line, so they must be short and must not look like an option.
    let text = |name: &str| {
        let text = value.get(name)?.as_str()?;
        let plain = !text.is_empty() && text.len() <= 4096 && !text.contains(char::is_control);
        (plain && !text.starts_with('-')).then(|| text.to_owned())
    };
    let event = text("hook_event_name")?;
    Some(HookReport {
        session: text("session_id").filter(|id| id.len() <= 200),
        transcript: text("transcript_path"),
        error: (event == "StopFailure").then(|| text("error")).flatten(),
    })
}

/// What a hook's `error` means; `None` for errors that ddollar can do nothing about.
pub(crate) fn trouble_of(error: &str) -> Option<Trouble> {
    match error {
        "rate_limit" => Some(Trouble::Limited),
        "overloaded" | "server_error" => Some(Trouble::Overloaded),
        "authentication_failed" | "billing_error" | "oauth_org_not_allowed" => {
            Some(Trouble::Account)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::clients::tests::check_resumes;

    #[test]
    fn resumes() {
        check_resumes(&[
            ("claude", false, "claude"),
            ("claude --continue", false, "claude --continue"),
            ("claude -c", false, "claude --continue"),
            ("claude -c 'fix it'", false, "claude --continue"),
            ("claude 'fix it'", false, "claude 'fix it'"),
            ("claude --resume S", false, "claude --resume S"),
            ("claude -r S 'and now'", false, "claude --resume S"),
            ("claude --resume=S 'and now'", false, "claude --resume S"),
            ("claude --session-id S", false, "claude --resume S"),
            ("claude --session-id=S 'do it'", false, "claude --resume S"),
            (
                "claude -p --session-id S 'do it'",
                false,
                "claude -p --resume S GO",
            ),
            ("claude -p 'do it'", false, "claude -p 'do it'"),
            (
                "claude -p --continue 'do it'",
                false,
                "claude -p --continue GO",
            ),
            ("claude -cp 'do it'", false, "claude -p --continue GO"),
            (
                "claude --resume S --fork-session --session-id N",
                false,
                "claude --resume N",
            ),
            (
                "claude --resume S --fork-session",
                false,
                "claude --resume S --fork-session",
            ),
            (
                "claude --bare -p 'do it'",
                false,
                "claude --bare -p --continue GO",
            ),
            (
                "claude -p 'do it' --no-session-persistence",
                true,
                "claude -p 'do it' --no-session-persistence",
            ),
            // With the session that the hook has reported.
            ("claude", true, "claude --resume U"),
            ("claude --continue", true, "claude --resume U"),
            ("claude 'fix it'", true, "claude --resume U"),
            ("claude --resume S", true, "claude --resume U"),
            ("claude -r S --fork-session", true, "claude --resume U"),
            ("claude -p 'do it'", true, "claude -p --resume U GO"),
            ("claude -p", true, "claude -p --resume U GO"),
            (
                "claude --print 'do it' --output-format stream-json --verbose",
                true,
                "claude --print --output-format stream-json --verbose --resume U GO",
            ),
            (
                "claude -p --input-format stream-json --output-format stream-json",
                true,
                "claude -p --input-format stream-json --output-format stream-json --resume U",
            ),
            (
                "claude --allowedTools Bash Edit -p 'do it'",
                true,
                "claude --allowedTools Bash Edit -p --resume U GO",
            ),
            (
                "claude -p 'do it' --allowedTools 'Bash(git *)' Edit",
                true,
                "claude -p --allowedTools 'Bash(git *)' Edit --resume U GO",
            ),
            (
                "claude --mcp-config a.json b.json --add-dir ../x -- 'do it'",
                true,
                "claude --mcp-config a.json b.json --add-dir ../x --resume U",
            ),
            (
                "claude --dangerously-skip-permissions --model opus -p 'go'",
                true,
                "claude --dangerously-skip-permissions --model opus -p --resume U GO",
            ),
            (
                "claude --unknown-option value 'do it'",
                true,
                "claude --unknown-option value --resume U",
            ),
            (
                "claude --unknown-option 'do it'",
                true,
                "claude --unknown-option --resume U",
            ),
            (
                "claude --append-system-prompt 'be brief' 'do it'",
                true,
                "claude --append-system-prompt 'be brief' --resume U",
            ),
            (
                "npx -y @anthropic-ai/claude-code@latest -p 'do it'",
                true,
                "npx -y @anthropic-ai/claude-code@latest -p --resume U GO",
            ),
            (
                "env -u X LANG=C nice -n 5 /opt/bin/claude --session-id S",
                false,
                "env -u X LANG=C nice -n 5 /opt/bin/claude --resume S",
            ),
            (
                "timeout -k 5 8h claude -c",
                false,
                "timeout -k 5 8h claude --continue",
            ),
            // What works on no session stays as it is.
            ("claude mcp list", true, "claude mcp list"),
            ("claude update", true, "claude update"),
            ("claude --version", true, "claude --version"),
            ("claude --bg 'do it'", true, "claude --bg 'do it'"),
        ]);
    }
}
