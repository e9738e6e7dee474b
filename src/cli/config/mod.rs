//! From what was asked and the environment to everything that a run needs, checked.
//!
//! Reads the environment and the token files, once. It promises that what it returns can be run
//! as it stands: tokens found, addresses that a token may be sent to, a command that exists. It
//! starts nothing and asks no provider.

mod command;
mod environment;
mod rings;
mod token_files;

pub(crate) use environment::{lookup, readable, state_folder};
pub(crate) use rings::{by_provider, rings};
pub(crate) use token_files::TokenFiles;

use crate::cli::{Checks, Proxy, Resume, StateFile, Supervise, Supervision};
use crate::clients::{CommandLine, GENERIC_NAME};
use crate::common::Environment;
use crate::common::error::Error;
use crate::events::RunEvent;
use crate::events::journal::{self, Place};
use crate::events::reporter::ReporterOptions;
use crate::events::systemd;
use crate::providers::endpoint::Endpoint;
use crate::providers::scope::Scope;
use crate::providers::{PROVIDERS, Provider};
use crate::system::os::PrivateFile;
use crate::tokens::policy::Rules;
use crate::tokens::{Ring, Token, TokenPool, is_token_variable};
use command::{as_expected, client_notices, hooked, locate, with_base_url_of};
use environment::child_environment;
use rings::{find, mixed, ring, variables_to_set};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Upper end of the random addition to each wait: enough to part two ddollars on one machine,
/// well below the 2 s in which a child goes on after a reset.
const LONGEST_JITTER_MS: u64 = 400;

/// A run, ready to start.
#[derive(Debug)]
pub(crate) struct Config {
    /// One ring of tokens per provider, and where to ask about it; or one ring over all.
    pub(crate) rings: Vec<Ring>,
    /// Where tokens can be looked for again.
    pub(crate) token_files: TokenFiles,
    /// Whether the user has named the providers.
    pub(crate) named: bool,
    pub(crate) rules: Rules,
    pub(crate) interval: Duration,
    /// A command that has done nothing for so long has stalled.
    pub(crate) stall: Option<Duration>,
    /// Where to keep what is learned of tokens, if anywhere.
    pub(crate) state: Option<PathBuf>,
    /// The command, which knows its line for the first start and for the others.
    pub(crate) command: CommandLine,
    /// The user's own line for every start after the first.
    pub(crate) again: Option<CommandLine>,
    /// What these lines name; each start of the command reads it.
    pub(crate) files: Vec<PrivateFile>,
    /// Whether the command asks for its token by itself through a hook.
    pub(crate) calls_back: bool,
    /// Whether `DDOLLAR_PROVIDER` says which provider's token the command has.
    pub(crate) mixed: bool,
    /// The child's environment but for the token in use.
    pub(crate) environment: Environment,
    /// Tokens that the command gets as well, of providers that it does not ask.
    pub(crate) passthrough: Vec<Token>,
    /// Who is informed of the run's events.
    pub(crate) wishes: ReporterOptions,
    /// Which way the command's requests go.
    pub(crate) road: Road,
    /// How long a proxy may hold a request before the command is paused.
    pub(crate) hold: Duration,
    /// What to call the command when it is shown; `None`: by its words.
    pub(crate) name: Option<String>,
    /// What is worth telling before the start.
    pub(crate) notices: Vec<RunEvent>,
}

/// Which way the command's requests go to their providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Road {
    /// Past ddollar, with a token: the command is started again for another one.
    Direct,
    /// As the command will: it has a token, and the address of a proxy that changes it.
    Offered,
    /// Through the proxy: the command has no token.
    Proxied,
}

/// A gateway for many applications, ready to start.
#[derive(Debug)]
pub(crate) struct GatewayConfig {
    /// The tokens of each provider, and where to ask about them.
    pub(crate) rings: Vec<(TokenPool, Endpoint)>,
    /// Where tokens can be looked for again.
    pub(crate) token_files: TokenFiles,
    pub(crate) rules: Rules,
    /// Where to keep what is learned of tokens, if anywhere.
    pub(crate) state: Option<PathBuf>,
    /// What is worth telling before the start.
    pub(crate) notices: Vec<RunEvent>,
}

/// The rules for those who start no command.
pub(crate) fn rules(checks: &Checks) -> Rules {
    Rules::without_command(checks.threshold / 100.0, checks.patience)
}

/// Checks a gateway's options against the environment.
///
/// # Errors
/// The first thing that it could not start with.
pub(crate) fn gateway(args: &Proxy, environment: &Environment) -> Result<GatewayConfig, Error> {
    let texts = readable(environment);
    let (rings, mut notices, token_files) = rings(&args.checks, &texts)?;
    let folder = state_folder(environment);
    notices.extend(without_state(&args.state, folder.as_deref()));
    let state = state_file(&args.state, folder.as_deref());
    let rules = Rules {
        jitter: jitter(),
        ..rules(&args.checks)
    };
    Ok(GatewayConfig {
        rings: by_provider(rings),
        token_files,
        rules,
        state,
        notices,
    })
}

/// Whether all requests of the command go through the run's proxy, so that it gets no token. A known client
/// notices no rotation there.
pub(crate) fn is_proxied(args: &Supervise) -> bool {
    let Supervision {
        proxy,
        resume,
        client,
        mixed,
        ..
    } = &args.supervision;
    proxy.unwrap_or_else(|| {
        let client = match resume {
            Resume::Same => Some(GENERIC_NAME),
            _ => client.as_deref(),
        };
        let command = CommandLine::new(args.command.clone(), client);
        command.is_known() && !mixed
    })
}

/// Checks the options of a supervised command against the environment.
///
/// # Errors
/// The first thing that a run could not start with.
pub(crate) fn resolve(args: Supervise, environment: Environment) -> Result<Config, Error> {
    let proxied = is_proxied(&args);
    let Supervise {
        checks,
        supervision,
        ..
    } = args;
    let texts = readable(&environment);
    let variable = |name: &str| lookup(&texts, name);
    let mut found = find(&checks, &texts)?;
    let mut notices = std::mem::take(&mut found.notices);

    locate(&args.command, None, &environment, &found.tokens)?;
    let (client, again) = match supervision.resume {
        Resume::AsClient => (supervision.client, None),
        Resume::Same => (Some(GENERIC_NAME.to_owned()), None),
        Resume::Command(words) => {
            locate(&words, Some("--resume"), &environment, &found.tokens)?;
            (supervision.client, Some(words))
        }
    };
    let mut files = Vec::new();
    let mut hooked = |words| {
        let line = CommandLine::new(words, client.as_deref()).in_environment(&variable);
        hooked(line, &found.tokens, &mut files)
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
    // A command that is no known client may find the proxy by its provider's base URL. In one ring over
    // all providers, the token in use says which of them it is to ask.
    let again_is_known = again.as_ref().is_some_and(CommandLine::is_known);
    let offers = !(supervision.mixed || command.is_known() || again_is_known);
    let road = match supervision.proxy {
        _ if proxied => Road::Proxied,
        None if offers => Road::Offered,
        _ => Road::Direct,
    };
    if !proxied && let Some(what) = command.cannot() {
        let client = command.client().name;
        notices.push(RunEvent::Warning(format!("{client}: {what}")));
    }
    // Tokens of providers that the client never asks are not watched.
    let asks = |provider: &Provider| command.uses(provider);
    let has_own = found.tokens.iter().any(|token| asks(token.provider));
    // It may be logged in, but the limits of others are none of its: they must not end it.
    if checks.providers.is_empty() && !has_own {
        let its: Vec<&Provider> = PROVIDERS.iter().filter(|provider| asks(provider)).collect();
        return Err(Error::NoTokens {
            client: Some(command.client().name),
            variables: variables_to_set(&[], &its),
            unread: Vec::new(),
        });
    }
    // Behind a proxy no token is handed over, so all of them go through it.
    let narrow = checks.providers.is_empty() && !proxied;
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
            passthrough.extend(tokens.into_iter().next().filter(|_| !supervision.mixed));
            // Neither counted nor named.
            notices.retain(|notice| {
                !matches!(notice, RunEvent::Tokens { provider: of, .. } if std::ptr::eq(*of, *provider))
            });
            continue;
        }
        rings.extend(ring(provider, tokens, &checks, &command, &variable)?);
    }
    if !checks.providers.is_empty() {
        let is_named = |name: &str| {
            let mut all = found.providers.iter().flat_map(|own| own.token_variables);
            all.any(|variable| name.starts_with(variable))
        };
        let names = texts.iter().map(|(name, _)| name.as_str());
        let withheld: Vec<&str> = names
            .filter(|name| is_token_variable(name) && !is_named(name))
            .collect();
        if !withheld.is_empty() {
            let variables = withheld.join(", ");
            notices.insert(0, RunEvent::Withheld(variables));
        }
    }
    if rings.len() > 1 && checks.providers.is_empty() {
        // Behind their names.
        let is_names = |notice: &RunEvent| matches!(notice, RunEvent::Tokens { .. });
        let place = notices.iter().rposition(is_names).map_or(0, |at| at + 1);
        notices.insert(place, RunEvent::Watching);
    }
    let has_address = |(pool, _): &Ring| pool.current().provider.base_url_variable.is_some();
    let road = match road {
        Road::Offered if !rings.iter().any(has_address) => Road::Direct,
        road => road,
    };
    if !proxied && command.needs_base_url() {
        command = with_base_url_of(command, &rings, &mut notices);
        again = again.map(|line| match line.needs_base_url() {
            true => with_base_url_of(line, &rings, &mut Vec::new()),
            false => line,
        });
    }
    let fallback = fallback(supervision.fallback_model, &checks, &rings, &command)?;
    let in_proxy = [
        ("--max-tokens", supervision.max_tokens.is_some()),
        ("--fallback-model", fallback.is_some()),
    ];
    if let Some((flag, _)) = in_proxy.into_iter().find(|(_, is_given)| *is_given) {
        match road {
            Road::Direct => return Err(Error::NeedsProxy { flag }),
            Road::Offered => notices.push(RunEvent::Warning(format!(
                "{flag} applies to requests through the proxy only; --proxy sends all of them there"
            ))),
            Road::Proxied => {}
        }
    }
    if supervision.mixed && proxied {
        return Err(Error::FlagUsage {
            flag: "--mixed".into(),
            problem: "does nothing with --proxy, which has them all",
            command: "supervise",
        });
    }
    if supervision.mixed {
        rings = mixed(rings);
    }

    let folder = state_folder(&environment);
    let journal = match &supervision.journal {
        Some(path) => Some(journal::open(path)?),
        None => folder
            .as_deref()
            .map(|folder| Place::Folder(journal::runs(folder))),
    };
    notices.extend(without_state(&args.state, folder.as_deref()));
    let state = state_file(&args.state, folder.as_deref());

    Ok(Config {
        rings,
        token_files: found.files,
        named: !checks.providers.is_empty(),
        state,
        rules: Rules {
            max_wait: supervision.max_wait,
            max_tokens: supervision.max_tokens,
            fallback,
            retries: supervision.retries,
            checks_exit_zero: command.client().may_exit_zero_on_failure,
            interactive: supervision.interactive,
            grace: supervision.grace,
            jitter: jitter(),
            ..rules(&checks)
        },
        interval: checks.interval,
        stall: supervision.stall,
        environment: child_environment(environment, &command, again.as_ref()),
        passthrough,
        command,
        again,
        files,
        calls_back,
        mixed: supervision.mixed,
        wishes: ReporterOptions {
            journal,
            notify: supervision.notify,
            service: systemd::Address::from(variable),
            rehearsal: false,
        },
        road,
        hold: args.hold,
        name: None,
        notices,
    })
}

/// The model to fall back to, by its full name.
///
/// # Errors
/// It is the one that the command asks for.
fn fallback(
    model: Option<String>,
    checks: &Checks,
    rings: &[Ring],
    command: &CommandLine,
) -> Result<Option<String>, Error> {
    let Some(value) = model else { return Ok(None) };
    let full = command.full_model(&value);
    let is_same = rings.iter().any(|(pool, _)| {
        let provider = pool.current().provider;
        let asked = checks
            .model
            .clone()
            .or_else(|| command.model_on_line(provider));
        let scope = |model: &str| Scope::of_model(provider, model);
        asked.is_some_and(|asked| scope(&asked) == scope(&full))
    });
    if is_same {
        return Err(Error::BadValue {
            flag: "--fallback-model".into(),
            value,
            wants: "another model than the one that the command asks for".into(),
        });
    }
    Ok(Some(full))
}

/// Where the state is kept, if anywhere; `folder` is the user's state folder.
pub(crate) fn state_file(asked: &StateFile, folder: Option<&Path>) -> Option<PathBuf> {
    match asked {
        StateFile::At(path) => Some(path.clone()),
        StateFile::None => None,
        StateFile::Usual => Some(folder?.join("state.json")),
    }
}

/// That nothing can be kept, where that was asked for.
fn without_state(asked: &StateFile, folder: Option<&Path>) -> Option<RunEvent> {
    (*asked == StateFile::Usual && folder.is_none()).then_some(RunEvent::NoState)
}

/// What checks of this provider cannot see of its limits, if anything. To be asked when it is known which
/// model was seen in an earlier run ([`Store::suggest`](crate::tokens::store::Store::suggest)).
pub(crate) fn unwatched(endpoint: &Endpoint, road: Road) -> Vec<RunEvent> {
    let provider = endpoint.provider;
    let model = endpoint.models.first().map_or("", String::as_str);
    let why = provider.unwatched(&endpoint.base_url, model);
    let mut notices = Vec::new();
    // Nobody knows more of the command than that it may use this provider.
    let is_any = endpoint.is_guess && model == provider.cheapest_model;
    if road == Road::Direct && is_any && why.is_none() && provider.tells_limits {
        notices.push(RunEvent::Warning(format!(
            "{}: checks ask for {model}; name the command's model with --model",
            provider.label
        )));
    }
    if why.is_some() || !provider.tells_limits {
        notices.push(RunEvent::Unwatched { provider, why });
    }
    let sooner = match road {
        Road::Direct => "with --proxy it is seen at once",
        Road::Offered => "if its requests come through the proxy, at once",
        Road::Proxied => return notices,
    };
    if why.is_none() && !provider.tells_limits {
        notices.push(RunEvent::Warning(format!(
            "{}: a limit is seen only when the command ends; {sooner}",
            provider.label
        )));
    }
    notices
}

/// What to tell somebody whose command fails although no check has seen a limit. `None` where its requests
/// are seen, or somebody has said which model they ask for.
pub(crate) fn doubt(endpoint: &Endpoint, road: Road) -> Option<RunEvent> {
    let model = endpoint.models.first()?;
    let is_doubtful = road == Road::Direct && endpoint.is_guess;
    is_doubtful.then(|| RunEvent::Warning(format!(
            "{}: no limit of {model} was seen; if the command uses another model, name it with --model",
            endpoint.provider.label
        )))
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
    use crate::cli::{Request, parse};

    /// A limit that only an answer tells is seen at once by a proxy, and otherwise when the command
    /// ends: that is told where it holds, and nowhere else.
    #[test]
    fn who_sees_a_limit_late_is_told() {
        let environment: Environment = [("PATH", "/bin:/usr/bin"), ("CO_API_KEY", "made-up")]
            .map(|(name, value)| (name.into(), value.into()))
            .into();
        for (line, late) in [
            ("supervise --model m --no-proxy -- sh", "ends; with --proxy"),
            ("supervise --model m -- sh", "ends; if its requests"),
            ("supervise --model m --proxy -- sh", ""),
            ("proxy --model m", ""),
        ] {
            let words = line.split(' ').map(Into::into);
            let (endpoint, road) = match parse(words).expect(line) {
                Request::Supervise(args) => {
                    let config = resolve(args, environment.clone()).expect(line);
                    (config.rings[0].1[0].clone(), config.road)
                }
                Request::Proxy(args) => {
                    let config = gateway(&args, &environment).expect(line);
                    (config.rings[0].1.clone(), Road::Proxied)
                }
                other => panic!("{line}: {other:?}"),
            };
            let notices = unwatched(&endpoint, road);
            let said = format!("{notices:?}");
            assert!(said.contains("Unwatched"), "{line}: {said}");
            let is_late = said.contains("only when the command ends");
            assert!(said.contains(late), "{line}: {said}");
            assert_eq!(is_late, !late.is_empty(), "{line}: {said}");
        }
    }
}
