//! From what was asked and the environment to everything that a run needs, checked.
//!
//! Reads the environment and the token files, once. It promises that what it returns can be run
//! as it stands: tokens found, addresses that a token may be sent to, a command that exists. It
//! starts nothing and asks no provider.

use crate::cli::{Args, Resume, StateFile, nearest};
use crate::clients::{self, CommandLine, Merged};
use crate::common::error::{CommandOf, Error, Slip};
use crate::events::RunEvent;
use crate::events::journal::{self, Place};
use crate::events::reporter::ReporterOptions;
use crate::events::systemd;
use crate::providers::endpoint::Endpoint;
use crate::providers::tls;
use crate::providers::{PROVIDERS, Provider, by_name};
use crate::system::os::{self, PrivateFile};
use crate::system::program::{self, Obstacle};
use crate::tokens::Ring;
use crate::tokens::policy::Rules;
use crate::tokens::{
    ONE_A_LINE, Source, Token, TokenFile, TokenPool, Unreadable, discover, is_token_variable,
    nearly_token_variable, shown,
};
use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A token file larger than this is none.
const LARGEST_TOKEN_FILE: u64 = 1 << 20;
/// Settings larger than this are none.
const LARGEST_SETTINGS: u64 = 1 << 20;
/// Upper end of the random addition to each wait: enough to part two ddollars on one machine,
/// well below the 2 s in which a child goes on after a reset.
const LONGEST_JITTER_MS: u64 = 400;

/// A run, ready to start.
#[derive(Debug)]
pub(crate) struct Config {
    /// One ring of tokens per provider, and where to ask about it; or one ring over all.
    pub(crate) rings: Vec<Ring>,
    pub(crate) rules: Rules,
    pub(crate) interval: Duration,
    /// Where to keep what is learned of tokens, if anywhere.
    pub(crate) state: Option<PathBuf>,
    /// The command, which knows its line for the first start and for the others.
    pub(crate) command: CommandLine,
    /// The user's own line for every start after the first.
    pub(crate) again: Option<CommandLine>,
    /// What these lines name; each start of the command reads it.
    pub(crate) files: Vec<PrivateFile>,
    /// Whether the command asks for its token by itself (`callback.rs`).
    pub(crate) calls_back: bool,
    /// Whether the command is told whose token it has.
    pub(crate) mixed: bool,
    /// The child's environment but for the token in use.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// Tokens that the command gets as well, of providers that it does not ask.
    pub(crate) passthrough: Vec<Token>,
    /// Who wants to be told what happens.
    pub(crate) wishes: ReporterOptions,
    /// Whether the command's requests go through a proxy of ours, and how long it may hold them
    /// before the command is paused.
    pub(crate) proxied: Option<Duration>,
    /// What to call the command when it is shown; `None`: by its words.
    pub(crate) name: Option<String>,
    /// What is worth telling before the start.
    pub(crate) notices: Vec<RunEvent>,
}

/// The tokens that there are, and what is worth telling about where they were found.
struct Discovered {
    providers: Vec<&'static Provider>,
    /// At least one.
    tokens: Vec<Token>,
    notices: Vec<RunEvent>,
}

impl Discovered {
    /// The tokens of one provider, in order.
    fn of(&self, provider: &'static Provider) -> impl Iterator<Item = Token> + '_ {
        let tokens = self.tokens.iter();
        tokens
            .filter(move |token| std::ptr::eq(token.provider, provider))
            .cloned()
    }
}

/// Every token that there is, in rings, for a look without a command; and what is worth telling.
///
/// # Errors
/// There are none, or something that names one cannot be used.
pub(crate) fn rings(
    args: &Args,
    texts: &[(String, String)],
) -> Result<(Vec<Ring>, Vec<RunEvent>), Error> {
    let found = find(args, texts)?;
    let variable = |name: &str| lookup(texts, name);
    let command = CommandLine::new(Vec::new(), None);
    let mut rings = Vec::new();
    for provider in &found.providers {
        if let Some(pool) = TokenPool::new(found.of(provider).collect()) {
            let endpoint = endpoint(provider, args.model.as_deref(), &command, &variable)?;
            rings.push((pool, vec![endpoint]));
        }
    }
    Ok((rings, found.notices))
}

fn find(args: &Args, texts: &[(String, String)]) -> Result<Discovered, Error> {
    let providers = named_providers(&args.providers)?;
    let variable = |name: &str| lookup(texts, name);

    let found = discover(
        &providers,
        &Source {
            variables: texts,
            read: &read_token_file,
        },
    )?;
    if found.tokens.is_empty() {
        return Err(Error::NoTokens {
            client: None,
            variables: variables_to_set(&args.providers, &providers),
        });
    }
    let mut notices: Vec<RunEvent> = found
        .exposed_files
        .iter()
        .map(|path| RunEvent::ExposedFile {
            path: path.display().to_string(),
        })
        .collect();

    let unread = |(name, _): &(String, String)| {
        let variable = nearly_token_variable(name)?;
        Some(RunEvent::UnreadVariable {
            name: name.clone(),
            variable,
        })
    };
    notices.extend(texts.iter().filter_map(unread));

    let certificates = variable("SSL_CERT_FILE").map(PathBuf::from);
    if let Some(path) = &certificates
        && let Err(why) = tls::certificates(path)
    {
        notices.push(RunEvent::UnusedFile {
            variable: "SSL_CERT_FILE",
            path: path.display().to_string(),
            why,
        });
    }
    Ok(Discovered {
        providers,
        tokens: found.tokens,
        notices,
    })
}

/// Checks the request against the environment.
///
/// # Errors
/// The first thing that a run could not start with.
pub(crate) fn resolve(args: Args, environment: Vec<(OsString, OsString)>) -> Result<Config, Error> {
    let texts = readable(&environment);
    let variable = |name: &str| lookup(&texts, name);
    let mut found = find(&args, &texts)?;
    let mut notices = std::mem::take(&mut found.notices);

    locate(&args.command, None, &environment, &found.tokens)?;
    let (client, again) = match args.resume {
        Resume::AsClient => (args.client, None),
        Resume::Same => (Some("generic".to_owned()), None),
        Resume::Command(words) => {
            locate(&words, Some("--resume"), &environment, &found.tokens)?;
            (args.client, Some(words))
        }
    };
    let mut files = Vec::new();
    let mut hooked = |words| {
        hooked(
            CommandLine::new(words, client.as_deref()).in_environment(&variable),
            &found.tokens,
            &mut files,
        )
    };
    let (mut command, failed) = hooked(args.command);
    notices.extend(failed);
    let mut again = again.map(|words| hooked(words).0);
    notices.extend(client_notices(&command, again.is_some(), &variable));
    if command.uses_own_service() {
        return Err(Error::OwnService {
            client: command.client().name,
        });
    }
    // A known client can be led through a proxy, where it notices no rotation. In one ring over all
    // providers, and where the user is asked before each rotation, it is started again.
    let proxied = args
        .proxy
        .unwrap_or(command.is_known() && !args.mixed && !args.interactive);
    if !proxied && let Some(what) = command.cannot() {
        let client = command.client().name;
        notices.push(RunEvent::Warning {
            what: format!("{client}: {what}"),
        });
    }
    // Tokens of providers that the client never asks are not watched.
    let asks = |provider: &Provider| command.uses(provider);
    let has_own = found.tokens.iter().any(|token| asks(token.provider));
    // It may be logged in, but the limits of others are none of its: they must not end it.
    if args.providers.is_empty() && !has_own {
        let its: Vec<&Provider> = PROVIDERS.iter().filter(|provider| asks(provider)).collect();
        return Err(Error::NoTokens {
            client: Some(command.client().name),
            variables: variables_to_set(&[], &its),
        });
    }
    // Behind a proxy no token is handed over, so all of them go through it.
    let narrow = args.providers.is_empty() && !proxied;
    let calls_back =
        command.has_settings() || again.as_ref().is_some_and(CommandLine::has_settings);
    let only_calls_back =
        command.has_settings() && again.as_ref().is_none_or(CommandLine::has_settings);

    let mut rings = Vec::new();
    let mut passthrough = Vec::new();
    for provider in &found.providers {
        let tokens: Vec<Token> = found
            .of(provider)
            .map(|token| as_expected(token, &command, only_calls_back))
            .collect();
        if narrow && !asks(provider) {
            // In one ring over all, the command sees the token in use and no other.
            passthrough.extend(tokens.into_iter().next().filter(|_| !args.mixed));
            continue;
        }
        if let Some(pool) = TokenPool::new(tokens) {
            let endpoint = endpoint(provider, args.model.as_deref(), &command, &variable)?;
            let model = endpoint.models.first().map_or("", String::as_str);
            let why = provider.unwatched(&endpoint.base_url, model);
            if why.is_some() || !provider.tells_limits {
                notices.push(RunEvent::Unwatched { provider, why });
            }
            if why.is_none() && !proxied && !provider.tells_limits {
                notices.push(RunEvent::Warning {
                    what: format!(
                        "{}: a limit is seen only when the command ends, unless --proxy is given",
                        provider.label
                    ),
                });
            }
            rings.push((pool, vec![endpoint]));
        }
    }
    if !proxied && command.needs_base_url() {
        command = with_base_url_of(command, &rings, &mut notices);
        again = again.map(|line| match line.needs_base_url() {
            true => with_base_url_of(line, &rings, &mut Vec::new()),
            false => line,
        });
    }
    if args.mixed && proxied {
        return Err(Error::FlagUsage {
            flag: "--mixed".into(),
            problem: "does nothing with --proxy, which has them all",
            command: "supervise",
        });
    }
    if args.mixed {
        rings = mixed(rings);
    }

    let folder = state_folder(&environment);
    let journal = match &args.journal {
        Some(path) => Some(journal::open(path)?),
        None => folder
            .as_deref()
            .map(|folder| Place::Folder(journal::runs(folder))),
    };
    let state = match args.state {
        StateFile::At(path) => Some(path),
        StateFile::None => None,
        StateFile::Usual => {
            notices.extend(folder.is_none().then_some(RunEvent::NoState));
            folder.map(|folder| folder.join("state.json"))
        }
    };

    Ok(Config {
        rings,
        state,
        rules: Rules {
            threshold: args.threshold / 100.0,
            patience: args.patience,
            max_wait: args.max_wait,
            retries: args.retries,
            checks_exit_zero: command.client().may_exit_zero_on_failure,
            interactive: args.interactive,
            grace: args.grace,
            jitter: jitter(),
        },
        interval: args.interval,
        environment: child_environment(environment, &command, again.as_ref()),
        passthrough,
        command,
        again,
        files,
        calls_back,
        mixed: args.mixed,
        wishes: ReporterOptions {
            journal,
            notify: args.notify,
            service: systemd::Address::from(variable),
        },
        proxied: proxied.then_some(args.hold),
        name: None,
        notices,
    })
}

/// The line with the base URL of its provider as an argument, as far as that has tokens.
fn with_base_url_of(line: CommandLine, rings: &[Ring], notices: &mut Vec<RunEvent>) -> CommandLine {
    let endpoints = || rings.iter().flat_map(|(_, endpoints)| endpoints);
    let its = |endpoint: &&Endpoint| Some(endpoint.provider.name) == line.takes_base_url_for();
    let Some(url) = endpoints()
        .find(its)
        .map(|endpoint| endpoint.base_url.clone())
    else {
        return line;
    };
    let name = line.client().name;
    let (line, words) = line.with_base_url(url);
    let added = words.iter().map(|word| word.to_string_lossy());
    let added = added.collect::<Vec<_>>().join(" ");
    notices.extend((!added.is_empty()).then_some(RunEvent::Client { name, added }));
    line
}

/// Each ring with the one endpoint of its provider; for those that are not mixed.
pub(crate) fn by_provider(rings: Vec<Ring>) -> Vec<(TokenPool, Endpoint)> {
    rings
        .into_iter()
        .filter_map(|(pool, endpoints)| Some((pool, endpoints.into_iter().next()?)))
        .collect()
}

/// One ring over all providers, in the order in which they were found.
fn mixed(rings: Vec<Ring>) -> Vec<Ring> {
    let mut tokens = Vec::new();
    let mut endpoints = Vec::new();
    for (pool, own) in rings {
        tokens.extend(pool.tokens().cloned());
        endpoints.extend(own);
    }
    let pool = TokenPool::new(tokens);
    pool.map(|pool| (pool, endpoints)).into_iter().collect()
}

/// The line with ddollar's settings, if its client has hooks, or why it goes without. A file that the
/// line names joins `files`.
fn hooked(
    line: CommandLine,
    tokens: &[Token],
    files: &mut Vec<PrivateFile>,
) -> (CommandLine, Option<RunEvent>) {
    let is_ours = |token: &Token| token.provider.name == clients::HOOKED_PROVIDER;
    if !line.client().has_hooks || !tokens.iter().any(is_ours) {
        return (line, None);
    }
    let (own, is_file) = match own_settings(&line) {
        Ok(own) => own,
        Err(why) => return (line, Some(RunEvent::NoHooks { why })),
    };
    match clients::merge(&own, &os::own_program_for_others()) {
        Merged::Settings(json) if !is_file => (line.with_settings(json), None),
        // What stands in a user's file may be secret, and longer than a word of a command line may
        // be (128 KiB); others can read a command line, but not this.
        Merged::Settings(json) => match PrivateFile::new(&json) {
            Ok(file) => {
                let line = line.with_settings(file.path());
                files.push(file);
                (line, None)
            }
            Err(_) => {
                let why = "cannot be handed over";
                (line, Some(RunEvent::NoHooks { why }))
            }
        },
        Merged::Not(why) => (line, Some(RunEvent::NoHooks { why })),
    }
}

/// The text of the user's own `--settings`, which is a path or JSON, and whether it is from a file.
fn own_settings(line: &CommandLine) -> Result<(String, bool), &'static str> {
    let Some(own) = line.own_settings() else {
        return Ok((String::new(), false));
    };
    if let Some(json) = own
        .to_str()
        .filter(|text| text.trim_start().starts_with('{'))
    {
        return Ok((json.to_owned(), false));
    }
    let mut text = String::new();
    std::fs::File::open(&own)
        .and_then(|file| file.take(LARGEST_SETTINGS).read_to_string(&mut text))
        .map_err(|_| "cannot be read")?;
    Ok((text, true))
}

/// What is changed for a known client, and what of the user's own will get in its way.
fn client_notices(
    line: &CommandLine,
    has_own_resume: bool,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Vec<RunEvent> {
    let client = line.client();
    let mut added = Vec::new();
    if line.has_settings() {
        added.push("--settings".to_owned());
    }
    let session_option = line.session_option().filter(|_| !has_own_resume);
    added.extend(session_option.map(str::to_owned));
    added.extend(client.token_variable.map(str::to_owned));
    for (name, value) in client.environment {
        if variable(name).is_none() {
            added.push(format!("{name}={value}"));
        }
    }
    let mut notices = Vec::new();
    if !added.is_empty() {
        notices.push(RunEvent::Client {
            name: client.name,
            added: added.join(", "),
        });
    }
    // It beats every token of ours (facts/providers.md §4.1).
    if client.has_hooks && variable("ANTHROPIC_AUTH_TOKEN").is_some() {
        notices.push(RunEvent::OtherCredential {
            variable: "ANTHROPIC_AUTH_TOKEN",
        });
    }
    notices
}

/// The token with the variables in which this command expects it.
fn as_expected(mut token: Token, command: &CommandLine, only_calls_back: bool) -> Token {
    let client = command.client();
    if only_calls_back && token.provider.name == clients::HOOKED_PROVIDER {
        token.variables.clear();
    }
    if let Some(variable) = client.token_variable
        && command.uses(token.provider)
        && !token.variables.contains(&variable)
    {
        token.variables.push(variable);
    }
    token
}

/// The child's environment but for the tokens, with what its client wants.
fn child_environment(
    environment: Vec<(OsString, OsString)>,
    command: &CommandLine,
    again: Option<&CommandLine>,
) -> Vec<(OsString, OsString)> {
    let mut kept: Vec<(OsString, OsString)> = environment
        .into_iter()
        .filter(|(name, _)| {
            !name
                .to_str()
                .is_some_and(|name| is_token_variable(name) || systemd::VARIABLES.contains(&name))
        })
        .collect();
    for line in std::iter::once(command).chain(again) {
        for (name, value) in line.client().environment {
            if !kept.iter().any(|(known, _)| known == name) {
                kept.push((name.into(), value.into()));
            }
        }
    }
    kept
}

/// The folder in which ddollar keeps what outlives a run; `None` without a home. A relative path
/// counts as unset (XDG Base Directory Specification).
pub(crate) fn state_folder(environment: &[(OsString, OsString)]) -> Option<PathBuf> {
    let folder = |name: &str| {
        let (_, value) = environment.iter().find(|(key, _)| key == name)?;
        Some(PathBuf::from(value)).filter(|path| path.is_absolute())
    };
    let folder = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
    Some(folder?.join("ddollar"))
}

/// The value of a variable that is set and not empty.
pub(crate) fn lookup(texts: &[(String, String)], name: &str) -> Option<String> {
    texts
        .iter()
        .find(|(key, value)| key == name && !value.is_empty())
        .map(|(_, value)| value.clone())
}

/// The variables whose names are text; bytes in a value that are not become U+FFFD, which no
/// token and no address may contain.
pub(crate) fn readable(environment: &[(OsString, OsString)]) -> Vec<(String, String)> {
    environment
        .iter()
        .filter_map(|(name, value)| {
            Some((
                name.to_str()?.to_owned(),
                value.to_string_lossy().into_owned(),
            ))
        })
        .collect()
}

fn named_providers(names: &[String]) -> Result<Vec<&'static Provider>, Error> {
    if names.is_empty() {
        return Ok(PROVIDERS.iter().collect());
    }
    let mut providers: Vec<&'static Provider> = Vec::new();
    for name in names {
        let provider = by_name(name).ok_or_else(|| Error::UnknownProvider {
            near: nearest(name, PROVIDERS.iter().map(|provider| provider.name)),
            name: name.clone(),
        })?;
        if !providers.iter().any(|known| std::ptr::eq(*known, provider)) {
            providers.push(provider);
        }
    }
    Ok(providers)
}

fn variables_to_set(named: &[String], providers: &[&'static Provider]) -> String {
    let shown = if named.is_empty() { 2 } else { providers.len() };
    let names: Vec<&str> = providers
        .iter()
        .take(shown)
        .filter_map(|provider| provider.token_variables.first().copied())
        .collect();
    names.join(" or ")
}

/// Where this provider is asked, and for which models: the one that is named, else what the command
/// is known to ask for, else the cheapest.
fn endpoint(
    provider: &'static Provider,
    model: Option<&str>,
    command: &CommandLine,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Endpoint, Error> {
    let known = command.uses(provider);
    let from_variable = || {
        let word = provider.model_variable.and_then(variable)?;
        Some(if known {
            command.full_model(&word)
        } else {
            word
        })
    };
    let guessed = (command.model_on_line(provider))
        .or_else(|| {
            known
                .then(|| command.model_in_environment(variable))
                .flatten()
        })
        .or_else(from_variable)
        .or_else(|| known.then(|| command.default_model()).flatten());
    let mut models = match (model, guessed) {
        (Some(model), _) => vec![model.to_owned()],
        // What is only guessed may be retired, or never have existed for this account.
        (None, Some(guess)) if guess != provider.cheapest_model => {
            vec![guess, provider.cheapest_model.to_owned()]
        }
        (None, _) => vec![provider.cheapest_model.to_owned()],
    };
    // Of most providers none is known.
    models.retain(|model| !model.is_empty());
    let with_own = |name: &str| {
        let own = || command.own_base_url(provider, variable);
        let is_url = provider.base_url_variable == Some(name);
        is_url.then(own).flatten().or_else(|| variable(name))
    };
    Endpoint::find(provider, models, &with_own)
}

fn read_token_file(path: &Path) -> Result<TokenFile, Unreadable> {
    let words = |error: std::io::Error| Unreadable {
        why: error.to_string(),
        hint: match error.kind() {
            ErrorKind::NotFound => "check the path; the file holds one token a line",
            ErrorKind::PermissionDenied => {
                "make it readable for the user that runs ddollar: chown, chmod 600"
            }
            _ => ONE_A_LINE,
        },
    };
    let file = std::fs::File::open(path).map_err(words)?;
    let mode = file.metadata().map_err(words)?.permissions().mode();
    let mut text = Vec::new();
    file.take(LARGEST_TOKEN_FILE + 1)
        .read_to_end(&mut text)
        .map_err(words)?;
    if text.len() as u64 > LARGEST_TOKEN_FILE {
        return Err(Unreadable {
            why: "it is larger than 1 MiB".into(),
            hint: ONE_A_LINE,
        });
    }
    Ok(TokenFile {
        text,
        exposed: mode & 0o066 != 0,
    })
}

/// Makes sure that the program of a command line can be executed, before any token is used: a typo
/// should not cost a request.
fn locate(
    words: &[OsString],
    of: CommandOf,
    environment: &[(OsString, OsString)],
    tokens: &[Token],
) -> Result<(), Error> {
    let Some(program) = words.first() else {
        return Ok(());
    };
    // A token in the place of a command is a slip that must not end up in somebody's log.
    let command = shown(std::slice::from_ref(program), tokens.iter());
    let path = environment.iter().find(|(name, _)| name == "PATH");
    let path = path.map(|(_, value)| value.as_os_str());
    program::check(program, path).map_err(|obstacle| match obstacle {
        Obstacle::NotFound => Error::CommandNotFound {
            command,
            of,
            slip: slip(words, environment),
        },
        Obstacle::Refused(why) => Error::CommandNotExecutable { command, of, why },
        Obstacle::NoInterpreter { name } => Error::NoInterpreter {
            command,
            of,
            interpreter: Some(name),
        },
        Obstacle::WindowsLines => Error::NoInterpreter {
            command,
            of,
            interpreter: None,
        },
    })
}

/// What somebody may have meant whose command is not there.
fn slip(words: &[OsString], environment: &[(OsString, OsString)]) -> Option<Slip> {
    let first = words.first()?.to_str()?;
    let is_name = |text: &str| {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        !text.is_empty()
            && text.chars().all(word)
            && !text.starts_with(|c: char| c.is_ascii_digit())
    };
    if first.starts_with('-') {
        return Some(Slip::OwnOption);
    }
    if first.split_once('=').is_some_and(|(name, _)| is_name(name)) {
        return Some(Slip::Assignment);
    }
    if words.len() == 1 && first.trim().contains(char::is_whitespace) {
        return Some(Slip::WholeLine);
    }
    // bash(1) exports its functions under such names.
    let exported = OsString::from(format!("BASH_FUNC_{first}%%"));
    let is_function = environment.iter().any(|(name, _)| *name == exported);
    is_function.then_some(Slip::Function)
}

/// A random span; the standard library's hasher is seeded by the system.
fn jitter() -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(std::process::id());
    Duration::from_millis(random % LONGEST_JITTER_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_where_the_specification_wants_it() {
        for (xdg, home, wanted) in [
            (Some("/x"), Some("/h"), Some("/x/ddollar")),
            (None, Some("/h"), Some("/h/.local/state/ddollar")),
            (Some("x"), Some("/h"), Some("/h/.local/state/ddollar")),
            (Some(""), Some("/h"), Some("/h/.local/state/ddollar")),
            (Some("x"), Some(""), None),
            (None, None, None),
        ] {
            let both = [("XDG_STATE_HOME", xdg), ("HOME", home)];
            let set = both.into_iter();
            let environment: Vec<(OsString, OsString)> = set
                .filter_map(|(name, value)| Some((name.into(), value?.into())))
                .collect();
            let found = state_folder(&environment);
            assert_eq!(found, wanted.map(PathBuf::from), "{xdg:?} {home:?}");
        }
    }

    #[test]
    fn slips_are_known() {
        let environment = vec![("BASH_FUNC_work%%".into(), "() { :; }".into())];
        for (words, wanted) in [
            (&["--grace", "5s"][..], Some(Slip::OwnOption)),
            (&["FOO=1", "claude"], Some(Slip::Assignment)),
            (&["claude --continue"], Some(Slip::WholeLine)),
            (&["work"], Some(Slip::Function)),
            (&["my claude", "x"], None),
            (&["./a=b"], None),
            (&["cluade"], None),
        ] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert_eq!(slip(&words, &environment), wanted, "{words:?}");
        }
    }
}
