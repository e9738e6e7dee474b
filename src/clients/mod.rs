//! Known clients: what ddollar changes in their command lines and environments, and how they
//! resume.
//!
//! Owns the table of clients (one row each) and the rules for their restarts. Each rule makes from
//! the user's words the words that go on with the same work; all options stay, because a resume
//! does not bring them back. It promises never to add an option that widens what a client may do,
//! and to leave alone what it does not recognise. It touches nothing: the user's files are read by
//! `options.rs`, and hooks report to `callback.rs`.

mod args;
mod claude;
mod detect;
pub(crate) mod hook_server;
pub(crate) mod session_file;

pub(crate) use claude::{Merged, Report, merge, report, trouble_of};

use crate::providers::Provider;
use args::{Grammar, Part, Takes, parts};
use std::ffi::OsString;

/// The provider of the clients that have hooks.
pub(crate) const HOOKED_PROVIDER: &str = "anthropic";
/// The variable of those that carries a token beside the API key, and never asks about it.
pub(crate) const HOOKED_TOKEN_VARIABLE: &str = "ANTHROPIC_AUTH_TOKEN";
/// What is said to a client that goes on but needs a prompt to do so.
const GO_ON: &str = "Continue where you left off.";

/// Makes arguments of an address.
type Arguments = fn(&str) -> Vec<OsString>;

/// A client that ddollar knows. The facts are measured: facts/providers.md §4.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its program.
    pub(crate) name: &'static str,
    /// The package that holds it, at npm or PyPI.
    package: &'static str,
    /// The names of the providers that it asks; empty when it can ask any.
    providers: &'static [&'static str],
    /// A variable for the token beyond the provider's own.
    pub(crate) token_variable: Option<&'static str>,
    /// What it asks for unless told otherwise; empty: not known, or the user's affair.
    model: &'static str,
    /// How it names its model: short names, and the full ones.
    models: &'static [(&'static str, &'static str)],
    /// Set in its environment unless the user has set it.
    pub(crate) environment: &'static [(&'static str, &'static str)],
    /// The same behind ddollar's proxy.
    pub(crate) behind_proxy: &'static [(&'static str, &'static str)],
    /// Its own variables for a base URL beyond the provider's, and the provider's name.
    pub(crate) base_url_variables: &'static [(&'static str, &'static str)],
    /// A provider, and the arguments by which alone it takes a base URL for it.
    pub(crate) base_url_argument: Option<(&'static str, Arguments)>,
    /// What it does without behind any base URL but the provider's own, for people.
    pub(crate) does_without: Option<&'static str>,
    /// Whether it reports its failures through a hook, and asks for its token.
    pub(crate) has_hooks: bool,
    grammar: Grammar,
    /// Whether a line starts a session that may be given an id with `--session-id`.
    starts_anew: fn(&[Part]) -> bool,
    /// The parts that go on, of a line that starts a session; `None`: the line as it is.
    resume: fn(&[Part], Option<&str>) -> Option<Vec<OsString>>,
}

/// All of them.
static CLIENTS: &[Client] = &[
    claude::CLIENT,
    Client {
        name: "codex",
        package: "@openai/codex",
        providers: &["openai"],
        // `codex exec` takes no other (facts/providers.md §4.2).
        token_variable: Some("CODEX_API_KEY"),
        model: "gpt-6.1-sol",
        grammar: &[
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
        ],
        // It takes no variable (facts/providers.md §4.2).
        base_url_argument: Some(("openai", |url| {
            vec!["-c".into(), format!("openai_base_url=\"{url}\"").into()]
        })),
        resume: resume_codex,
        ..GENERIC
    },
    Client {
        name: "gemini",
        package: "@google/gemini-cli",
        providers: &["gemini"],
        grammar: &[
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
            (&["--help", "-h"], Takes::Nothing),
            (&["--version", "-v"], Takes::Nothing),
        ],
        resume: resume_gemini,
        ..GENERIC
    },
    Client {
        name: "opencode",
        package: "opencode-ai",
        grammar: &[
            (&["--model", "-m"], Takes::One),
            (&["--agent"], Takes::One),
            (&["--session", "-s"], Takes::One),
            (&["--continue", "-c"], Takes::Nothing),
            (&["--fork"], Takes::Nothing),
            (&["--command"], Takes::One),
            (&["--format"], Takes::One),
            (&["--file", "-f"], Takes::One),
            (&["--title"], Takes::One),
            (&["--attach"], Takes::One),
            (&["--port"], Takes::One),
            (&["--hostname"], Takes::One),
            (&["--variant"], Takes::One),
            (&["--dir"], Takes::One),
            (&["--log-level"], Takes::One),
            (&["--prompt"], Takes::One),
            (&["--share"], Takes::Nothing),
            (&["--thinking"], Takes::Nothing),
            (&["--print-logs"], Takes::Nothing),
            (&["--help", "-h"], Takes::Nothing),
            (&["--version", "-v"], Takes::Nothing),
        ],
        resume: resume_opencode,
        ..GENERIC
    },
    Client {
        name: "aider",
        package: "aider-chat",
        grammar: &[
            (&["--message", "--msg", "-m"], Takes::One),
            (&["--message-file", "-f"], Takes::One),
            (&["--model"], Takes::One),
            (&["--restore-chat-history"], Takes::Nothing),
            (&["--yes-always", "--yes"], Takes::Nothing),
            (&["--no-auto-commits"], Takes::Nothing),
            (&["--no-git"], Takes::Nothing),
            (&["--architect"], Takes::Nothing),
            (&["--help", "-h"], Takes::Nothing),
            (&["--version"], Takes::Nothing),
        ],
        base_url_variables: &[("OPENAI_API_BASE", "openai")],
        resume: resume_aider,
        ..GENERIC
    },
    Client {
        name: "llm",
        package: "llm",
        resume: resume_llm,
        ..GENERIC
    },
];

/// Anything else: nothing is changed, and every start is the same.
static ANYTHING: Client = GENERIC;

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
    starts_anew: |_| false,
    resume: |_, _| None,
};

/// The names that `--client` takes.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    CLIENTS
        .iter()
        .map(|client| client.name)
        .chain(std::iter::once(ANYTHING.name))
}

/// A command line, and the client that it starts.
#[derive(Clone, Debug)]
pub(crate) struct CommandLine {
    words: Vec<OsString>,
    /// The place of the client's first own argument.
    own: usize,
    client: &'static Client,
    /// For its `--settings`, if ddollar has some.
    settings: Option<String>,
    /// What goes before its own arguments.
    arguments: Vec<OsString>,
}

impl CommandLine {
    /// Recognises the client of a command line; `name` overrides what it looks like.
    pub(crate) fn new(words: Vec<OsString>, name: Option<&str>) -> CommandLine {
        let found = detect::find(&words);
        let client = match name {
            None => found.map_or(&ANYTHING, |(client, _)| client),
            Some(name) => CLIENTS
                .iter()
                .find(|client| client.name == name)
                .unwrap_or(&ANYTHING),
        };
        // A client that does not look like itself is the first word.
        let place = found
            .filter(|(found, _)| std::ptr::eq(*found, client))
            .map_or(0, |(_, place)| place);
        let mut line = CommandLine {
            own: place + 1,
            words,
            client,
            settings: None,
            arguments: Vec::new(),
        };
        if name.is_none() && !line.starts_a_session() {
            line.client = &ANYTHING;
        }
        line
    }

    /// The client that it starts.
    pub(crate) fn client(&self) -> &'static Client {
        self.client
    }

    /// Whether it may ask this provider.
    pub(crate) fn asks(&self, provider: &Provider) -> bool {
        self.client.providers.is_empty() || self.client.providers.contains(&provider.name)
    }

    /// The model that the line asks for, by its full name. Clients that ask any provider have
    /// names of their own for models.
    pub(crate) fn model_on_line(&self) -> Option<String> {
        if self.client.providers.is_empty() {
            return None;
        }
        let parts = self.parts();
        let word = parts
            .iter()
            .find(|part| part.is("--model"))
            .and_then(Part::text)?;
        Some(self.full_model(word))
    }

    /// The full name of a model that its client may know by a short one.
    pub(crate) fn full_model(&self, word: &str) -> String {
        // `opus[1m]` is the same model with a longer context.
        let bare = word.split('[').next().unwrap_or(word);
        let full = self.client.models.iter().find(|(short, _)| *short == bare);
        full.map_or(bare, |(_, full)| full).to_owned()
    }

    /// The model that the client asks for when nothing is said.
    pub(crate) fn usual_model(&self) -> Option<String> {
        (!self.client.model.is_empty()).then(|| self.client.model.to_owned())
    }

    /// Whether ddollar has settings for it.
    pub(crate) fn has_settings(&self) -> bool {
        self.settings.is_some()
    }

    /// The user's own `--settings`: a path, or JSON.
    pub(crate) fn own_settings(&self) -> Option<OsString> {
        let parts = self.parts();
        let last = parts.iter().rev().find(|part| part.is("--settings"))?;
        last.value.clone()
    }

    /// With these settings, which take the place of the user's own.
    pub(crate) fn with_settings(mut self, settings: String) -> CommandLine {
        self.settings = Some(settings);
        self
    }

    /// With these arguments before its own.
    pub(crate) fn with_arguments(mut self, arguments: Vec<OsString>) -> CommandLine {
        self.arguments = arguments;
        self
    }

    /// Whether it starts a session that ddollar may give an id.
    pub(crate) fn starts_anew(&self) -> bool {
        (self.client.starts_anew)(&self.parts())
    }

    /// All words of the first start, with this id for the session if it may be given one.
    pub(crate) fn first(&self, id: Option<&str>) -> Vec<OsString> {
        let mut own = self.words.get(self.own..).unwrap_or_default().to_vec();
        if let Some(id) = id.filter(|_| self.starts_anew()) {
            own.splice(..0, ["--session-id".into(), id.into()]);
        }
        self.whole(&own, self.settings.as_deref())
    }

    /// All words of a start that goes on, with the id of the session if it has told it.
    pub(crate) fn again(&self, session: Option<&str>) -> Vec<OsString> {
        self.going_on(session, self.settings.as_deref())
    }

    /// The words of the first start, for people: without what ddollar adds.
    pub(crate) fn shown_first(&self) -> &[OsString] {
        &self.words
    }

    /// The words of a start that goes on, for people: without what ddollar adds.
    pub(crate) fn shown_again(&self, session: Option<&str>) -> Vec<OsString> {
        self.going_on(session, None)
    }

    fn going_on(&self, session: Option<&str>, settings: Option<&str>) -> Vec<OsString> {
        match (self.client.resume)(&self.parts(), session) {
            Some(own) => self.whole(&own, settings),
            None => self.whole(self.words.get(self.own..).unwrap_or_default(), settings),
        }
    }

    /// The wrapper and program, the settings, and these arguments.
    fn whole(&self, own: &[OsString], settings: Option<&str>) -> Vec<OsString> {
        let mut all = self.words.get(..self.own).unwrap_or_default().to_vec();
        all.extend_from_slice(&self.arguments);
        let Some(settings) = settings else {
            all.extend_from_slice(own);
            return all;
        };
        all.extend(["--settings".into(), settings.into()]);
        let rest = parts(own, self.client.grammar);
        all.extend(words_of(rest.iter().filter(|part| !part.is("--settings"))));
        all
    }

    fn parts(&self) -> Vec<Part> {
        parts(
            self.words.get(self.own..).unwrap_or_default(),
            self.client.grammar,
        )
    }

    /// Whether the client does work that can be gone on with, not something like `claude update`.
    fn starts_a_session(&self) -> bool {
        let parts = self.parts();
        let has = |name: &str| parts.iter().any(|part| part.is(name));
        !has("--help")
            && !has("--version")
            && (self.client.name != "claude" || claude::starts_a_session(&parts))
    }
}

fn words_of<'a>(parts: impl Iterator<Item = &'a Part>) -> Vec<OsString> {
    parts.flat_map(|part| part.words.iter().cloned()).collect()
}

/// The first word that is no option, as text, and its place.
fn subcommand(parts: &[Part]) -> Option<(usize, &str)> {
    let place = parts.iter().position(Part::is_word)?;
    Some((place, parts.get(place)?.text()?))
}

const fn is_dashes(part: &Part) -> bool {
    matches!(part.name.as_bytes(), b"--")
}

/// `codex exec PROMPT` → `codex exec resume --last CONTINUE`, `codex PROMPT` → `codex resume
/// --last`. A session that the user named stays named.
fn resume_codex(parts: &[Part], _: Option<&str>) -> Option<Vec<OsString>> {
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
            words.push(GO_ON.into());
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
        word if CODEX_SUBCOMMANDS.contains(&word) => return None,
        _ => {
            words.push("resume".into());
            words.extend(words_of(after.iter().filter(keep)));
            words.push("--last".into());
        }
    }
    Some(words)
}

/// What `codex` does that is no session. From its help.
const CODEX_SUBCOMMANDS: &[&str] = &[
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

/// `--resume latest`, or the id that the user gave, and a prompt where there was one.
fn resume_gemini(parts: &[Part], _: Option<&str>) -> Option<Vec<OsString>> {
    if matches!(
        subcommand(parts),
        Some((_, "mcp" | "extensions" | "skills" | "hooks"))
    ) || parts
        .iter()
        .any(|part| part.is("--list-sessions") || part.is("--delete-session"))
    {
        return None;
    }
    let drop = [
        "--resume",
        "--session-id",
        "--prompt",
        "--prompt-interactive",
        "--",
        "",
    ];
    let mut words = words_of(
        parts
            .iter()
            .filter(|part| !drop.contains(&part.name.as_str())),
    );
    let named = |name: &str| {
        parts
            .iter()
            .find(|part| part.is(name))
            .and_then(|part| part.value.clone())
    };
    let id = named("--session-id").or_else(|| named("--resume"));
    words.extend(["--resume".into(), id.unwrap_or_else(|| "latest".into())]);
    let is_interactive = parts.iter().any(|part| part.is("--prompt-interactive"));
    let has_prompt = parts
        .iter()
        .any(|part| part.is("--prompt") || part.is_word());
    if is_interactive {
        words.extend(["--prompt-interactive".into(), GO_ON.into()]);
    } else if has_prompt {
        words.extend(["--prompt".into(), GO_ON.into()]);
    }
    Some(words)
}

/// `opencode run PROMPT` → `opencode run --continue CONTINUE`; the rest → `--continue`.
fn resume_opencode(parts: &[Part], _: Option<&str>) -> Option<Vec<OsString>> {
    let drop = [
        "--continue",
        "--fork",
        "--file",
        "--prompt",
        "--title",
        "--",
    ];
    let (place, word) = subcommand(parts).unwrap_or((parts.len(), ""));
    let runs = word == "run";
    // The one word of the full-screen program is a folder.
    if !runs && OPENCODE_SUBCOMMANDS.contains(&word) {
        return None;
    }
    let kept = parts.iter().enumerate().filter(|(at, part)| {
        !drop.contains(&part.name.as_str()) && (!part.is_word() || *at == place)
    });
    let mut words = words_of(kept.map(|(_, part)| part));
    if !parts.iter().any(|part| part.is("--session")) {
        words.push("--continue".into());
    }
    if runs {
        words.push(GO_ON.into());
    }
    Some(words)
}

/// What `opencode` does that is no session. From its help.
const OPENCODE_SUBCOMMANDS: &[&str] = &[
    "acp",
    "mcp",
    "attach",
    "debug",
    "providers",
    "auth",
    "agent",
    "upgrade",
    "uninstall",
    "serve",
    "web",
    "models",
    "stats",
    "export",
    "import",
    "github",
    "pr",
    "session",
    "plugin",
    "db",
    "completion",
];

/// The history is read again; a message that was sent becomes a word to go on.
fn resume_aider(parts: &[Part], _: Option<&str>) -> Option<Vec<OsString>> {
    let is_message = |part: &Part| part.is("--message") || part.is("--message-file");
    let mut words = words_of(parts.iter().filter(|part| !is_message(part)));
    // Before the files, which may stand behind `--`.
    let mut own: Vec<OsString> = Vec::new();
    if !parts.iter().any(|part| part.is("--restore-chat-history")) {
        own.push("--restore-chat-history".into());
    }
    if parts.iter().any(is_message) {
        own.extend(["--message".into(), GO_ON.into()]);
    }
    own.append(&mut words);
    Some(own)
}

/// A prompt that was not answered is not in its log, so it is put again; a chat goes on.
fn resume_llm(parts: &[Part], _: Option<&str>) -> Option<Vec<OsString>> {
    let chats = matches!(subcommand(parts), Some((_, "chat")));
    let names = ["-c", "--continue", "--cid", "--conversation"];
    if !chats || parts.iter().any(|part| names.contains(&part.name.as_str())) {
        return None;
    }
    let mut words = words_of(parts.iter());
    words.push("--continue".into());
    Some(words)
}

#[cfg(test)]
mod tests;
