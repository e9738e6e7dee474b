//! GitHub Copilot CLI with a model provider of the user's own. Measured with 1.0.102.
//!
//! It uses such a provider only if `COPILOT_PROVIDER_BASE_URL` is set; otherwise it asks GitHub's own
//! service, which takes no token of ddollar's.

use super::args::{Grammar, Part, Takes};
use super::session::Start;
use super::{CONTINUE, Client, GENERIC, Uses, has_any, subcommand, with_session_id, words_of};
use std::ffi::OsString;

pub(super) const CLIENT: Client = Client {
    name: "copilot",
    package: "@github/copilot",
    providers: &["anthropic", "openai"],
    token_variable: Some("COPILOT_PROVIDER_API_KEY"),
    model_variable: Some("COPILOT_MODEL"),
    grammar: GRAMMAR,
    uses: |_, variable| match variable("COPILOT_PROVIDER_TYPE").as_deref() {
        _ if variable("COPILOT_PROVIDER_BASE_URL").is_none() => Uses::NoneOfOurs,
        None | Some("openai") => Uses::Only("openai"),
        Some("anthropic") => Uses::Only("anthropic"),
        Some(_) => Uses::NoneOfOurs,
    },
    own_base_url: |_, variable| variable("COPILOT_PROVIDER_BASE_URL"),
    base_url_variables: &[
        ("COPILOT_PROVIDER_BASE_URL", "openai"),
        ("COPILOT_PROVIDER_BASE_URL", "anthropic"),
    ],
    works_on_session,
    give_session_id,
    find_session,
    resume,
    ..GENERIC
};

/// From its help.
const GRAMMAR: Grammar = &[
    (&["--prompt", "-p"], Takes::One),
    (&["--interactive", "-i"], Takes::One),
    (&["--model"], Takes::One),
    (&["--resume", "-r"], Takes::Optional),
    (&["--continue"], Takes::Nothing),
    (&["--session-id"], Takes::One),
    (&["--connect"], Takes::Optional),
    (&["--name", "-n"], Takes::One),
    (&["--reasoning-effort"], Takes::One),
    (&["--context"], Takes::One),
    (&["--auto-tier"], Takes::One),
    (&["--agent"], Takes::One),
    (&["-C"], Takes::One),
    (&["--log-dir"], Takes::One),
    (&["--log-level"], Takes::One),
    (&["--extension-sdk-path"], Takes::One),
    (&["--stream"], Takes::One),
    (&["--output-format"], Takes::One),
    (&["--share"], Takes::Optional),
    (&["--add-dir"], Takes::One),
    (&["--attachment"], Takes::One),
    (&["--disable-mcp-server"], Takes::One),
    (&["--add-github-mcp-toolset"], Takes::One),
    (&["--add-github-mcp-tool"], Takes::One),
    (&["--plugin-dir"], Takes::One),
    (&["--additional-mcp-config"], Takes::One),
    (&["--acp"], Takes::Nothing),
    (&["--silent", "-s"], Takes::Nothing),
    (&["--allow-all-tools"], Takes::Nothing),
    (&["--allow-all-paths"], Takes::Nothing),
    (&["--help", "-h"], Takes::Nothing),
    (&["--version", "-v"], Takes::Nothing),
];

/// Its subcommands. From its help.
const SUBCOMMANDS: &[&str] = &[
    "app",
    "login",
    "help",
    "init",
    "config",
    "update",
    "version",
    "workflow",
    "sessions",
    "memories",
    "plugin",
    "mcp",
    "skill",
    "instruction",
    "lsp",
    "sandbox",
    "completion",
];

fn works_on_session(parts: &[Part]) -> bool {
    !subcommand(parts).is_some_and(|(_, word)| SUBCOMMANDS.contains(&word))
        && !has_any(parts, &["--acp", "--connect"])
}

fn give_session_id(parts: &[Part], id: &str) -> Option<Vec<OsString>> {
    let is_old = has_any(parts, &["--session-id", "--resume", "--continue"]);
    (works_on_session(parts) && !is_old).then(|| with_session_id(parts, id))
}

/// It keeps each session in a folder of its name.
fn find_session(start: &Start) -> Option<String> {
    let id = start.id?;
    let folder = start.folder("COPILOT_HOME", ".copilot")?;
    folder
        .join("session-state")
        .join(id)
        .exists()
        .then(|| id.to_owned())
}

/// Resumes the session whose id is known, or that the user's line names, with a new prompt where the
/// line has one.
fn resume(parts: &[Part], session: Option<&str>) -> Option<Vec<OsString>> {
    if !works_on_session(parts) {
        return None;
    }
    let value = |name: &str| parts.iter().find(|part| part.is(name)).and_then(Part::text);
    let id = session
        .or_else(|| value("--session-id"))
        .or_else(|| value("--resume"))?;
    let dropped = [
        "--resume",
        "--session-id",
        "--continue",
        "--prompt",
        "--interactive",
        "--attachment",
        "",
    ];
    let kept = parts
        .iter()
        .filter(|part| !dropped.contains(&part.name.as_str()));
    let mut words = words_of(kept);
    words.push(format!("--resume={id}").into());
    for option in ["--prompt", "--interactive"] {
        if has_any(parts, &[option]) {
            words.extend([option.into(), CONTINUE.into()]);
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
            ("copilot -p 'do it'", false, "copilot -p 'do it'"),
            ("copilot", true, "copilot --resume=U"),
            (
                "copilot --allow-all-tools -p 'do it'",
                true,
                "copilot --allow-all-tools --resume=U --prompt GO",
            ),
            (
                "copilot -i 'do it' --model x",
                true,
                "copilot --model x --resume=U --interactive GO",
            ),
            (
                "copilot --session-id S -p 'do it'",
                false,
                "copilot --resume=S --prompt GO",
            ),
            ("copilot --continue", false, "copilot --continue"),
            ("copilot mcp list", true, "copilot mcp list"),
        ]);
    }
}
