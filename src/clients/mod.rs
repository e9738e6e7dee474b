//! Known clients: what ddollar changes in their command lines and environments, and how they resume.
//!
//! Owns the table of clients; each has a file of its own with its row, its rules and their tests. A
//! resume rule turns the user's words into words that continue the same session. It keeps all options,
//! because a client does not restore them itself, and never adds one that widens what the client may
//! do. A command line that is not recognised is left as it is.
//!
//! A new client is a file with its row, a line in [`CLIENTS`], its name at `--client` in `cli/flags.rs`, and a
//! row in `docs/clients.md`.

mod aider;
mod args;
mod claude;
mod codex;
mod command_line;
mod copilot;
mod detect;
mod gemini;
pub(crate) mod hook_server;
mod llm;
mod opencode;
mod qwen;
pub(crate) mod session;

pub(crate) use command_line::CommandLine;

pub(crate) use claude::{HookReport, Merged, merge, report, trouble_of};

use args::{Grammar, Part};
use session::Start;
use std::ffi::OsString;

/// Name of the provider of the clients that have hooks.
pub(crate) const HOOKED_PROVIDER: &str = "anthropic";
/// Another variable from which such a client takes a token. It asks the user about an API key that it
/// has not seen before; about this one it does not.
pub(crate) const HOOKED_TOKEN_VARIABLE: &str = "ANTHROPIC_AUTH_TOKEN";
/// Prompt for a client that needs one to resume.
const CONTINUE: &str = "Continue where you left off.";

/// What a client cannot do that has been told to keep no session.
const KEEPS_NO_SESSION: &str = "it keeps no session, so each restart begins the task anew";

/// Looks up a variable of the client's environment.
pub(crate) type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;
/// The user's arguments, changed so that the client takes this base URL.
type BaseUrlArguments = fn(&[Part], &str) -> Vec<OsString>;
/// Variables that lead a client to the proxy: from the base URLs there, each with its provider's name,
/// and the user's own variables; or what stands in the way.
type ProxyVariables =
    fn(&[(&str, String)], Variable) -> Result<Vec<(&'static str, String)>, &'static str>;

/// Which providers a command line uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Uses {
    /// Those of the client's row.
    AnyOfRow,
    /// The one of this name.
    Only(&'static str),
    /// None whose tokens ddollar has: a service of the client's own.
    NoneOfOurs,
}

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
    /// A provider whose base URL it takes only as an argument, and how.
    base_url_arguments: Option<(&'static str, BaseUrlArguments)>,
    /// Whether a line uses a token from the environment only with those arguments.
    needs_base_url: fn(&[Part]) -> bool,
    /// Further variables that lead it to the proxy.
    pub(crate) proxy_variables: ProxyVariables,
    /// The base URL that the user has set for it, beyond the provider's own variable.
    own_base_url: fn(&[Part], Variable) -> Option<String>,
    /// Which providers a line uses, if the line or the environment says so.
    uses: fn(&[Part], Variable) -> Uses,
    /// A variable that names its model, beyond the provider's own.
    model_variable: Option<&'static str>,
    /// What it turns off behind any base URL but the provider's own, as told to the user.
    pub(crate) does_without: Option<&'static str>,
    /// Whether it reports failures through a hook, and asks for its token.
    pub(crate) has_hooks: bool,
    /// How its options are read.
    grammar: Grammar,
    /// Its subcommands that work on no session in this process, apart by spaces.
    subcommands: &'static str,
    /// Options of a line that works on no session in this process, apart by spaces.
    elsewhere: &'static str,
    /// Arguments of a line that starts a new session, with this id for it; `None`: it takes none.
    give_session_id: fn(&[Part], &str) -> Option<Vec<OsString>>,
    /// Id of the session of a start, if the client's files show that it can be resumed.
    find_session: fn(&Start) -> Option<String>,
    /// Whether only the files that the client has open show that.
    watches_files: bool,
    /// Whether it may exit with 0 after a limit or a rejection.
    pub(crate) may_exit_zero_on_failure: bool,
    /// What it cannot do after a restart, by whether the line is interactive; for people.
    cannot: fn(&[Part]) -> Option<&'static str>,
    /// Arguments that resume the session of this id, if it is known; `None`: run the same line again.
    resume: fn(&[Part], Option<&str>) -> Option<Vec<OsString>>,
}

impl Client {
    /// Whether a line works on a session in this process. Asked only where the line does not ask for
    /// help or the version.
    fn works_on_session(&self, parts: &[Part]) -> bool {
        !subcommand(parts).is_some_and(|(_, word)| lists(self.subcommands, word))
            && !has_any(parts, self.elsewhere)
    }
}

/// Every known client.
static CLIENTS: &[Client] = &[
    claude::CLIENT,
    codex::CLIENT,
    gemini::CLIENT,
    opencode::CLIENT,
    aider::CLIENT,
    llm::CLIENT,
    copilot::CLIENT,
    qwen::CLIENT,
];

/// What any other command is called.
pub(crate) const GENERIC_NAME: &str = "generic";

/// Any other command: nothing is changed, and every start is the same.
static GENERIC_CLIENT: Client = GENERIC;

const GENERIC: Client = Client {
    name: GENERIC_NAME,
    package: GENERIC_NAME,
    providers: &[],
    token_variable: None,
    model: "",
    models: &[],
    environment: &[],
    behind_proxy: &[],
    base_url_variables: &[],
    base_url_arguments: None,
    needs_base_url: |_| false,
    proxy_variables: |_, _| Ok(Vec::new()),
    own_base_url: |_, _| None,
    uses: |_, _| Uses::AnyOfRow,
    model_variable: None,
    does_without: None,
    has_hooks: false,
    grammar: Grammar::NONE,
    subcommands: "",
    elsewhere: "",
    give_session_id: |_, _| None,
    find_session: |_| None,
    watches_files: false,
    may_exit_zero_on_failure: false,
    cannot: |_| None,
    resume: |_, _| None,
};

/// The names that `--client` takes.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    CLIENTS
        .iter()
        .map(|client| client.name)
        .chain(std::iter::once(GENERIC_CLIENT.name))
}

/// The arguments with `--session-id` before them.
fn with_session_id(parts: &[Part], id: &str) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["--session-id".into(), id.into()];
    words.extend(words_of(parts.iter()));
    words
}

/// Whether this is one of the words, which are apart by spaces.
fn lists(words: &str, word: &str) -> bool {
    words.split_ascii_whitespace().any(|known| known == word)
}

/// Whether any part is one of these options, which are apart by spaces.
fn has_any(parts: &[Part], names: &str) -> bool {
    parts.iter().any(|part| lists(names, &part.name))
}

/// The value of an option.
fn value<'a>(parts: &'a [Part], name: &str) -> Option<&'a str> {
    parts.iter().find(|part| part.is(name)).and_then(Part::text)
}

/// The words of all options but these, without the plain words.
fn options_but(dropped: &str, parts: &[Part]) -> Vec<OsString> {
    let is_kept = |part: &&Part| !part.is_word() && !lists(dropped, &part.name);
    words_of(parts.iter().filter(is_kept))
}

fn words_of<'a>(parts: impl Iterator<Item = &'a Part>) -> Vec<OsString> {
    parts.flat_map(|part| part.words.iter().cloned()).collect()
}

/// The first word that is not an option, as text, and its index.
fn subcommand(parts: &[Part]) -> Option<(usize, &str)> {
    let place = parts.iter().position(Part::is_word)?;
    Some((place, parts.get(place)?.text()?))
}

#[cfg(test)]
mod tests;
