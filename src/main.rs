//! ddollar: keeps a long-running command alive across API rate limits.
//!
//! The contents page. Every folder imports only from those below it (`.ci/directions` checks that):
//!
//! ```text
//! main         parses, runs one command, maps its end to an exit code
//! commands     status, report, rehearse
//! supervisor   the loop, and the state machine of one run
//! proxy        the gateway that changes tokens inside a request
//! cli          argv and environment to a checked configuration
//! events       what happened in a run: screen, journal, --notify, service manager
//! clients      known clients: how they resume and report
//! tokens       the tokens, what is known of each, and which is next
//! providers    who is asked about limits, how, and what an answer means
//! system       processes, the terminal and signals, on Linux and elsewhere
//! common       errors, time, secrets, text, files, HTTP/1.1
//! ```
//!
//! What decides is pure: it takes the time and facts, and returns an answer. What touches the world
//! is an edge, and decides nothing (`.ci/run` lists the edges).

mod cli;
mod clients;
mod commands;
mod common;
mod events;
mod providers;
mod proxy;
mod supervisor;
mod system;
mod tokens;

use cli::{Request, Voice, config};
use clients::hook_server;
use commands::{rehearse, report, status};
use common::error::{Error, TRY_AGAIN_LATER};
use common::{Environment, logging};
use events::RunEvent;
use events::console::{self, Console};
use events::notify;
use providers::monitor;
use std::process::ExitCode;
use supervisor::event::Outcome;
use system::exit_status::ExitStatus;
use system::hidden_environment;
use system::signals::{self, Inherited};
use system::watchdog;
use tokens::is_token_variable;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    match run(signals::take_over()) {
        Ok(code) => code,
        Err(error) => {
            console::report(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(inherited: Inherited) -> Result<ExitCode, Error> {
    let environment = hidden_environment::whole;
    match cli::parse(std::env::args_os().skip(1))? {
        Request::Child(spec) => Ok(spec.exec()),
        Request::Supervise(args) => {
            let environment = environment();
            let hidden = config::is_proxied(&args).then(|| hide_tokens(inherited));
            let console = begin(&args.voice, &environment)?;
            hidden
                .flatten()
                .iter()
                .for_each(|notice| console.say(notice));
            let config = config::resolve(args, environment)?;
            supervisor::supervise(config, &console, inherited).map(exit_code)
        }
        Request::Proxy(args) => {
            let environment = environment();
            let hidden = hide_tokens(inherited);
            let console = begin(&args.voice, &environment)?;
            hidden.iter().for_each(|notice| console.say(notice));
            proxy::run(&args, &environment, &console)
        }
        Request::Rehearse(args) => {
            let environment = environment();
            let console = begin(&args.run.voice, &environment)?;
            rehearse::play(args, environment, console, inherited).map(exit_code)
        }
        Request::Status(args) => {
            handle_panics();
            status::status(&args, &environment())
        }
        Request::Report(args) => report::report(&args, &environment()),
        Request::Help { topic, long } => print(&match topic {
            Some(command) => cli::help_of(command, long),
            None => cli::general_help(long),
        }),
        Request::Generate(kind) => print(&cli::generate(kind)),
        Request::Version => print(concat!("ddollar ", env!("CARGO_PKG_VERSION"), "\n")),
        Request::Hook => Ok(hook_server::hook()),
        Request::Token => Ok(hook_server::token()),
        Request::Notify { limits, command } => Ok(notify::help(limits, command)),
        Request::Watch(words) => Ok(watchdog::watch(words.into_iter())),
        Request::Provider { scenario } => rehearse::serve(scenario.as_deref()),
        Request::Worker { journal, units } => Ok(rehearse::work(&journal, units)),
    }
}

/// Keeps the tokens from who is to get the proxy's secret alone and reads the environments of others. What
/// keeps it from that, if anything does.
fn hide_tokens(inherited: Inherited) -> Option<RunEvent> {
    let error = hidden_environment::hide(is_token_variable, inherited).err()?;
    let what =
        format!("The tokens stay in ddollar's environment, where others can read them: {error}");
    Some(RunEvent::Warning(what))
}

/// Starts the log and the console of a command that runs until it ends.
fn begin(voice: &Voice, environment: &Environment) -> Result<Console, Error> {
    let texts = config::readable(environment);
    let variable = |name: &str| config::lookup(&texts, name);
    let level = variable("DDOLLAR_LOG").or_else(|| variable("RUST_LOG"));
    logging::start(voice.log.as_deref(), level.as_deref())?;
    handle_panics();
    let console = Console::new(voice.verbosity, variable);
    console.say(&RunEvent::Discovering);
    Ok(console)
}

/// Reports a panic in a helper thread to the log, since the terminal may be the child's. A panic
/// because the system refused a thread is an answer that the monitor handles, and no bug.
fn handle_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or(String::new(), ToString::to_string);
        log::error!("internal error at {place}");
        let is_main = std::thread::current().name() == Some("main");
        if is_main && !monitor::lacked_a_thread(panic.payload()) {
            console::report_bug(&place);
        }
    }));
}

/// The one mapping of how a run ended to an exit code.
fn exit_code(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::AsChild(ExitStatus::Code(code)) => ExitCode::from(code),
        Outcome::AsChild(how) => signals::die_by(how.signal().unwrap_or(0)),
        Outcome::BySignal(signal) => signals::die_by(signal as i32),
        Outcome::TryAgainLater => ExitCode::from(TRY_AGAIN_LATER),
    }
}

/// Prints what was asked for.
fn print(text: &str) -> Result<ExitCode, Error> {
    console::print(text)?;
    Ok(ExitCode::SUCCESS)
}
