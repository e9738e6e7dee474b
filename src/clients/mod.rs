//! Known clients: what ddollar changes in their command lines and environments, and how they resume.
//!
//! Owns the table of clients; each has a file of its own with its row, its rules and their tests. A
//! resume rule turns the user's words into words that continue the same session. It keeps all options,
//! because a client does not restore them itself, and never adds one that widens what the client may
//! do. A command line that is not recognised is left as it is.

mod aider;
mod args;
mod claude;
mod codex;
mod command_line;
mod detect;
mod gemini;
pub(crate) mod hook_server;
mod llm;
mod opencode;
pub(crate) mod session_file;

pub(crate) use command_line::CommandLine;

pub(crate) use claude::{Merged, Report, merge, report, trouble_of};

use args::{Grammar, Part};
use std::ffi::OsString;

/// Name of the provider of the clients that have hooks.
pub(crate) const HOOKED_PROVIDER: &str = "anthropic";
/// Another variable in which such a client takes a token. Unlike with the API key, it does not ask the
/// user whether to use a token that it has not seen before.
pub(crate) const HOOKED_TOKEN_VARIABLE: &str = "ANTHROPIC_AUTH_TOKEN";
/// Prompt for a client that needs one to resume.
const CONTINUE: &str = "Continue where you left off.";

/// Turns a base URL into arguments.
type Arguments = fn(&str) -> Vec<OsString>;

/// A client that ddollar knows. What the rows say was measured with the real programs.
#[derive(Debug)]
pub(crate) struct Client {
    /// Name of its program.
    pub(crate) name: &'static str,
    /// Name of its package on npm or PyPI.
    package: &'static str,
    /// Names of the providers that it uses; empty if it can use any.
    providers: &'static [&'static str],
    /// A variable that it reads the token from in place of the provider's own.
    pub(crate) token_variable: Option<&'static str>,
    /// The model that it asks for unless told otherwise; empty if unknown.
    model: &'static str,
    /// Short names of models, and their full names.
    models: &'static [(&'static str, &'static str)],
    /// Variables to set, unless the user has set them.
    pub(crate) environment: &'static [(&'static str, &'static str)],
    /// The same behind ddollar's proxy.
    pub(crate) behind_proxy: &'static [(&'static str, &'static str)],
    /// Variables for a base URL beyond the provider's own, each with the provider's name.
    pub(crate) base_url_variables: &'static [(&'static str, &'static str)],
    /// A provider whose base URL it takes only as an argument, and those arguments.
    pub(crate) base_url_argument: Option<(&'static str, Arguments)>,
    /// What it turns off behind any base URL but the provider's own, as told to the user.
    pub(crate) does_without: Option<&'static str>,
    /// Whether it reports failures through a hook, and asks for its token.
    pub(crate) has_hooks: bool,
    /// How its options are read.
    grammar: Grammar,
    /// Whether a line works on a session in this process. Asked only where the line does not ask for
    /// help or the version.
    works_on_session: fn(&[Part]) -> bool,
    /// Whether a line starts a new session that takes an id with `--session-id`.
    takes_session_id: fn(&[Part]) -> bool,
    /// Arguments that resume the session of this id, if it is known; `None`: run the same line again.
    resume: fn(&[Part], Option<&str>) -> Option<Vec<OsString>>,
}

/// Every known client.
static CLIENTS: &[Client] = &[
    claude::CLIENT,
    codex::CLIENT,
    gemini::CLIENT,
    opencode::CLIENT,
    aider::CLIENT,
    llm::CLIENT,
];

/// Any other command: nothing is changed, and every start is the same.
static GENERIC_CLIENT: Client = GENERIC;

const GENERIC: Client = Client {
    name: "generic",
    package: "generic",
    providers: &[],
    token_variable: None,
    model: "",
    models: &[],
    environment: &[],
    behind_proxy: &[],
    base_url_variables: &[],
    base_url_argument: None,
    does_without: None,
    has_hooks: false,
    grammar: &[],
    works_on_session: |_| true,
    takes_session_id: |_| false,
    resume: |_, _| None,
};

/// The names that `--client` takes.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    CLIENTS
        .iter()
        .map(|client| client.name)
        .chain(std::iter::once(GENERIC_CLIENT.name))
}

fn words_of<'a>(parts: impl Iterator<Item = &'a Part>) -> Vec<OsString> {
    parts.flat_map(|part| part.words.iter().cloned()).collect()
}

/// The first word that is not an option, as text, and its index.
fn subcommand(parts: &[Part]) -> Option<(usize, &str)> {
    let place = parts.iter().position(Part::is_word)?;
    Some((place, parts.get(place)?.text()?))
}

const fn is_dashes(part: &Part) -> bool {
    matches!(part.name.as_bytes(), b"--")
}

#[cfg(test)]
mod tests;
