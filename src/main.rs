//! ddollar: keeps a long-running command alive across API rate limits.
//!
//! The contents page. A request is parsed (`cli`), checked against the environment (`options`) and
//! run (`supervisor`); the outcome becomes an exit code here and nowhere else.
//!
//! ```text
//!            cli ─ options ─┐
//!                           ▼
//!     monitor ──┐      supervisor ──► child        select → event → decision → effect
//!     child ────┼─ Event ─► session ─► Step
//!     signals ──┘           policy ─► Decision     (pure: now and facts in, an answer out)
//! ```

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

use cli::config;
use cli::{Args, Request};
use clients::hook_server;
use commands::report::{self, Timeline, Unusable};
use commands::{rehearse as rehearsal, status};
use common::error::{Error, TRY_AGAIN_LATER};
use common::{Environment, logging, private_file};
use events::RunEvent;
use events::console::{self, Console};
use events::{journal, notify, schema};
use jiff::tz::TimeZone;
use providers::monitor;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;
use supervisor::event::Outcome;
use system::exit_status::ExitStatus;
use system::signals::{self, Inherited};
use system::watchdog;

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
    match cli::parse(std::env::args_os().skip(1))? {
        Request::Child(spec) => Ok(spec.exec()),
        Request::Supervise(args) => supervise(args, environment(), inherited),
        Request::Proxy(args) => proxy(args, environment()),
        Request::Rehearse(args) => rehearse_night(args, environment(), inherited),
        Request::Hook => Ok(hook_server::hook()),
        Request::Token => Ok(hook_server::token()),
        Request::Notify { limits, command } => Ok(notify::help(limits, command)),
        Request::Watch(words) => Ok(watchdog::watch(words.into_iter())),
        Request::Status(args) => {
            mind_panics();
            status::status(&args, &environment())
        }
        Request::Report(args) => report(&args, &environment()),
        Request::Help { topic, long } => print(&match topic {
            Some(command) => cli::help_of(command, long),
            None => cli::general_help(long),
        }),
        Request::Generate(kind) => print(&cli::generate(kind)),
        Request::Version => print(concat!("ddollar ", env!("CARGO_PKG_VERSION"), "\n")),
        Request::Provider { scenario } => rehearsal::serve(scenario.as_deref()),
        Request::Worker { journal, units } => Ok(rehearsal::work(&journal, units)),
    }
}

fn environment() -> Environment {
    std::env::vars_os().collect()
}

/// One run: check, supervise, end as the command ended.
fn supervise(
    args: Args,
    environment: Environment,
    inherited: Inherited,
) -> Result<ExitCode, Error> {
    let console = begin(&args, &environment)?;
    let options = config::resolve(args, environment)?;
    Ok(exit_code(supervisor::supervise(
        options, &console, inherited,
    )?))
}

/// The gateway, until a signal ends it.
fn proxy(args: Args, environment: Environment) -> Result<ExitCode, Error> {
    let console = begin(&args, &environment)?;
    proxy::run(args, environment, &console)
}

/// The same against the built-in provider, and what came of it.
fn rehearse_night(
    args: Args,
    environment: Environment,
    inherited: Inherited,
) -> Result<ExitCode, Error> {
    let console = begin(&args, &environment)?;
    Ok(exit_code(rehearsal::play(
        args,
        environment,
        console,
        inherited,
    )?))
}

/// What happened in a run, as text, SVG or JSON.
fn report(args: &Args, environment: &Environment) -> Result<ExitCode, Error> {
    let texts = config::readable(environment);
    let variable = |name: &str| config::lookup(&texts, name);
    let folder = config::state_folder(environment).map(|folder| journal::runs(&folder));
    let run = args.command.first().map(Path::new);
    let journal = journal::find(run, folder.as_deref())?;
    let now = journal.going_on.then(|| schema::millis(SystemTime::now()));
    let timeline = Timeline::read(&journal.lines, now).map_err(|why| Error::NotAJournal {
        path: journal.path,
        empty: why == Unusable::Empty,
    })?;
    let zone = TimeZone::system();
    if args.json {
        return print(&(report::json(&timeline) + "\n"));
    }
    let Some(path) = &args.svg else {
        let mut style = console::style(variable);
        style.utf8 &= !args.ascii;
        return print(&report::text(&timeline, zone, style));
    };
    let svg = report::svg(&timeline, zone);
    if path.as_os_str() == "-" {
        return print(&svg);
    }
    private_file::write(path, svg.as_bytes()).map_err(|error| Error::File {
        what: "SVG file",
        path: path.clone(),
        why: error.to_string(),
        hint: "name a file in a folder that you can write to and that has room",
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Log and voice.
fn begin(args: &Args, environment: &Environment) -> Result<Console, Error> {
    let texts = config::readable(environment);
    let variable = |name: &str| config::lookup(&texts, name);
    let level = variable("DDOLLAR_LOG").or_else(|| variable("RUST_LOG"));
    logging::start(args.log.as_deref(), level.as_deref())?;
    mind_panics();
    let console = Console::new(args.verbosity, variable);
    console.say(&RunEvent::Discovering);
    Ok(console)
}

/// A panic in a helper thread goes to the log: the screen may be the child's. One for want of a
/// thread is the answer to a question, and no bug.
fn mind_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or(String::new(), ToString::to_string);
        log::error!("internal error at {place}");
        let is_main = std::thread::current().name() == Some("main");
        if is_main && !monitor::lacked_a_thread(panic.payload()) {
            console::report_bug(&place);
        }
    }));
}

fn exit_code(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::AsChild(ExitStatus::Code(code)) => ExitCode::from(code),
        Outcome::AsChild(ExitStatus::Signal(number)) => signals::die_by(number),
        Outcome::BySignal(signal) => signals::die_by(signal as i32),
        Outcome::TryAgainLater => ExitCode::from(TRY_AGAIN_LATER),
    }
}

/// Prints what was asked for.
fn print(text: &str) -> Result<ExitCode, Error> {
    console::print(text)?;
    Ok(ExitCode::SUCCESS)
}
