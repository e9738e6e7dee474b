//! GitHub Copilot CLI with a model provider of the user's own. Measured with 1.0.102.
//!
//! It uses such a provider only if `COPILOT_PROVIDER_BASE_URL` is set; otherwise it asks GitHub's own
//! service, which takes no token of ddollar's.

use super::args::{Grammar, Part};
use super::session::Start;
use super::{CONTINUE, Client, GENERIC, Uses, has_any, options_but, value, with_session_id};
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
    subcommands: SUBCOMMANDS,
    elsewhere: "--acp --connect",
    give_session_id,
    find_session,
    resume,
    ..GENERIC
};

/// From its help.
const GRAMMAR: Grammar = Grammar {
    one: "--prompt|-p --interactive|-i --model --session-id --name|-n --reasoning-effort \
         --context --auto-tier --agent -C --log-dir --log-level --extension-sdk-path --stream \
         --output-format --add-dir --attachment --disable-mcp-server --add-github-mcp-toolset \
         --add-github-mcp-tool --plugin-dir --additional-mcp-config",
    optional: "--resume|-r --connect --share",
    nothing: "--continue --acp --silent|-s --allow-all-tools --allow-all-paths --help|-h \
         --version|-v",
    ..Grammar::NONE
};

/// Its subcommands. From its help.
const SUBCOMMANDS: &str = "app login help init config update version workflow sessions \
    memories plugin mcp skill instruction lsp sandbox completion";

fn give_session_id(parts: &[Part], id: &str) -> Option<Vec<OsString>> {
    let is_old = has_any(parts, "--session-id --resume --continue");
    (CLIENT.works_on_session(parts) && !is_old).then(|| with_session_id(parts, id))
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
    if !CLIENT.works_on_session(parts) {
        return None;
    }
    let id = session
        .or_else(|| value(parts, "--session-id"))
        .or_else(|| value(parts, "--resume"))?;
    let dropped = "--resume --session-id --continue --prompt --interactive --attachment";
    let mut words = options_but(dropped, parts);
    words.push(format!("--resume={id}").into());
    for option in ["--prompt", "--interactive"] {
        if has_any(parts, option) {
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
