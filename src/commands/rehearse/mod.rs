//! `ddollar rehearse`: a night against a built-in provider, without a real token or a network.
//!
//! Owns the environment that points at the provider and the worker's journal. The night itself is
//! `supervisor::supervise`, the same code as on any other night.

/// The provider on loopback.
mod provider;
/// What a worker's journal says in the end (pure).
mod tally;
/// The stand-in for an agent.
mod worker;

use crate::cli::config;
use crate::cli::{Rehearse, StateFile, Supervise, Supervision};
use crate::common::error::Error;
use crate::common::private_file;
use crate::events::RunEvent;
use crate::events::console::Console;
use crate::providers::by_name;
use crate::supervisor;
use crate::supervisor::event::Outcome;
use crate::system::exit_status::ExitStatus;
use crate::system::os::Folder;
use crate::system::signals::Inherited;
use crate::tokens::is_token_variable;
use provider::scenario::{NIGHT_UNITS, Scenario};
use provider::server::Server;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use tally::{Tally, tally};

/// Bytes of a scenario that are read at most.
const LARGEST_SCENARIO: u64 = 16 << 20;
/// Providers that a scenario may have tokens of, and what their clients expect after the host.
const SPOKEN: [(&str, &str); 2] = [("anthropic", ""), ("openai", "/v1")];

/// Plays a night: the built-in worker's, or that of the command given.
///
/// # Errors
/// What keeps the provider or the command from being started.
pub(crate) fn play(
    args: Rehearse,
    environment: Vec<(OsString, OsString)>,
    console: Console,
    inherited: Inherited,
) -> Result<Outcome, Error> {
    let Rehearse { run, scenario } = args;
    // Nothing that is learned of made-up tokens is worth remembering.
    let mut run = Supervise {
        state: StateFile::None,
        ..run
    };
    let built_in = run.command.is_empty();
    let scenario = self::scenario(
        scenario.as_deref(),
        if built_in {
            Scenario::night
        } else {
            Scenario::for_command
        },
    )?;
    let environment = staged(environment, &scenario);
    let server = Server::start(scenario, |_| {}).map_err(no_provider)?;
    let environment = pointed_at(environment, &server.url());
    if !built_in {
        let mut options = config::resolve(run, environment)?;
        options.wishes.rehearsal = true;
        return supervisor::supervise(options, &console, inherited);
    }

    let desk = Folder::new().map_err(|error| Error::File {
        what: "folder for the rehearsal",
        path: std::env::temp_dir(),
        why: error.to_string(),
        hint: "set TMPDIR to a folder that you can write to",
    })?;
    let journal = desk.path().join("journal");
    let own_program = std::env::current_exe().map_err(|error| Error::System {
        what: "cannot find ddollar's own program file",
        why: error.to_string(),
    })?;
    run.command = vec![
        own_program.into(),
        "__worker".into(),
        journal.clone().into(),
        NIGHT_UNITS.to_string().into(),
    ];
    // A rehearsal shows restarts, unless the proxy is asked for.
    let Supervision {
        max_tokens,
        fallback_model,
        ..
    } = &run.supervision;
    let needs_proxy = max_tokens.is_some() || fallback_model.is_some();
    run.supervision.proxy.get_or_insert(needs_proxy);
    let mut options = config::resolve(run, environment)?;
    options.wishes.rehearsal = true;
    // The worker asks for these models.
    let endpoints = options
        .rings
        .iter_mut()
        .flat_map(|(_, endpoints)| endpoints);
    endpoints.for_each(|endpoint| endpoint.is_guess = false);
    options.name = Some(format!("built-in worker, {NIGHT_UNITS} work units"));
    let outcome = supervisor::supervise(options, &console, inherited)?;
    let text = fs::read_to_string(&journal).unwrap_or_default();
    let Tally {
        done,
        open,
        repeated,
    } = tally(&text, NIGHT_UNITS);
    console.say(&RunEvent::WorkUnits {
        done,
        open,
        finished: outcome == Outcome::AsChild(ExitStatus::Code(0)),
        repeated,
    });
    Ok(outcome)
}

/// The scenario in `file`, or the built-in one.
fn scenario(file: Option<&Path>, built_in: fn() -> Scenario) -> Result<Scenario, Error> {
    let Some(path) = file else {
        return Ok(built_in());
    };
    private_file::read_named(path, LARGEST_SCENARIO)
        .and_then(|text| String::from_utf8(text).map_err(io::Error::other))
        .map_err(|error| error.to_string())
        .and_then(|text| Scenario::parse(&text))
        .map_err(|why| Error::File {
            what: "scenario",
            path: path.to_owned(),
            why,
            hint: "examples/scenario.json shows the format",
        })
}

fn no_provider(error: io::Error) -> Error {
    Error::System {
        what: "cannot start the built-in provider",
        why: error.to_string(),
    }
}

/// The environment with the scenario's tokens in place of the user's.
fn staged(
    environment: Vec<(OsString, OsString)>,
    scenario: &Scenario,
) -> Vec<(OsString, OsString)> {
    let mut staged: Vec<(OsString, OsString)> = environment
        .into_iter()
        .filter(|(name, _)| !name.to_str().is_some_and(is_token_variable))
        .collect();
    for (name, _) in SPOKEN {
        let Some(variable) = by_name(name).and_then(|provider| provider.token_variables.first())
        else {
            continue;
        };
        for (index, token) in scenario.tokens_of(name).into_iter().enumerate() {
            let variable = match index {
                0 => (*variable).into(),
                _ => format!("{variable}_{}", index + 1).into(),
            };
            staged.push((variable, token.into()));
        }
    }
    staged
}

/// The environment with the built-in provider in place of the real ones, reached directly.
fn pointed_at(environment: Vec<(OsString, OsString)>, url: &str) -> Vec<(OsString, OsString)> {
    let mut changed: Vec<(OsString, OsString)> = SPOKEN
        .iter()
        .filter_map(|(name, path)| {
            let variable = by_name(name)?.base_url_variable?;
            Some((variable.into(), format!("{url}{path}").into()))
        })
        .collect();
    for name in ["NO_PROXY", "no_proxy"] {
        changed.push((name.into(), "127.0.0.1".into()));
    }
    let kept = environment
        .into_iter()
        .filter(|(name, _)| !changed.iter().any(|(other, _)| other == name))
        .collect::<Vec<_>>();
    changed.extend(kept);
    changed
}

/// `__provider`: serves the scenario in `file`, or the built-in night, until stdin ends.
///
/// # Errors
/// The file is no scenario, or the system has no port for the provider.
pub(crate) fn serve(file: Option<&Path>) -> Result<ExitCode, Error> {
    let scenario = scenario(file, Scenario::night)?;
    provider::serve(scenario, io::stdout(), io::stdin()).map_err(no_provider)?;
    Ok(ExitCode::SUCCESS)
}

/// `__worker`: the built-in worker, with this process's environment.
pub(crate) fn work(journal: &Path, units: u32) -> ExitCode {
    let code = worker::run(journal, units, &|name| std::env::var(name).ok());
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
