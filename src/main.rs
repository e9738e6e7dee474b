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

// What decides. None of these names a file, a socket, a process, a thread or a clock.
mod clients; // known clients: how they resume, and what they are told
mod event; // what happens, and what is to be done: the words between the edges and the session
mod facts; // what a run's record tells, and its JSON lines
mod fields; // the header fields of an answer
mod memory; // what is remembered of tokens from run to run: its format, and what still holds
mod pace; // how soon the token in use is asked again
mod policy; // conditions of tokens, and the table: go on, ask, rotate, wait, give up
mod provider; // the table of providers; probes as data, answers as findings
mod session; // the state machine of one child: event in, step out
mod span; // spans of time as people write and read them
mod tokens; // secrets that cannot be printed, how they are found, the ring that they form
mod usage; // windows of limits, and the formats of reset times

// What is said.
mod cli; // argv to a request; the table of options and its help
mod error; // every failure of ddollar itself, its hint and its exit code
mod json; // JSON out
mod messages; // every sentence about a run
mod paint; // glyphs, colours, lines that fit
mod report; // a journal's lines to the picture of a night

// The edges.
mod callback; // how a known client reaches its ddollar
mod child; // one command in its own process group
mod console; // stderr and its style
mod herald; // tells the journal and others what happens
mod http1; // HTTP/1.1 messages off a byte source
mod journal; // the record of a run: written, found, read
mod logging; // the log file
mod monitor; // the thread that asks a provider
mod notify; // the user's own command that is told the news
mod options; // request and environment to a run that can start
mod prompt; // the thread that hears an answer at the terminal
mod service; // the service manager that is told how the run is doing
mod signals; // the thread that hears signals; masks; death by one
mod stage; // child, tree, terminal and watchdog, moved together
mod state; // the state file, its lock and its writer
mod status; // asks about every token, and shows the answers
mod supervisor; // the loop that ties both sides together
mod system; // what Linux and macOS do in ways of their own
mod tcp; // what both servers do with a connection
mod terminal; // who has the terminal, and in which modes
mod trampoline; // the hidden __child: the last steps before exec
mod transcript; // whether a client's session is on disk
mod tree; // orphans of the command: adopted, reaped, swept
mod watchdog; // the hidden __watch: cleans up when ddollar is killed

mod proxy; // the loopback gateway that rotates tokens for many applications
mod rehearsal; // the built-in provider and the built-in worker

use cli::{Args, Request};
use console::Console;
use error::{Error, TRY_AGAIN_LATER};
use event::{How, Outcome};
use jiff::tz::TimeZone;
use messages::Notice;
use report::{Night, Unusable};
use signals::Inherited;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

/// Names and values, as the system has them.
type Environment = Vec<(OsString, OsString)>;

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
        Request::Child(orders) => Ok(orders.carry_out()),
        Request::Supervise(args) => supervise(args, environment(), inherited),
        Request::Proxy(args) => proxy(args, environment()),
        Request::Rehearse(args) => rehearse(args, environment(), inherited),
        Request::Hook => Ok(callback::hook()),
        Request::Token => Ok(callback::token()),
        Request::Notify { files, command } => Ok(notify::help(files, command)),
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
    let options = options::resolve(args, environment)?;
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
fn rehearse(args: Args, environment: Environment, inherited: Inherited) -> Result<ExitCode, Error> {
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
    let texts = options::readable(environment);
    let variable = |name: &str| options::lookup(&texts, name);
    let folder = options::state_folder(environment).map(|folder| journal::runs(&folder));
    let run = args.command.first().map(Path::new);
    let journal = journal::find(run, folder.as_deref())?;
    let now = journal.going_on.then(|| facts::millis(SystemTime::now()));
    let night = Night::read(&journal.lines, now).map_err(|why| Error::NotAJournal {
        path: journal.path,
        empty: why == Unusable::Empty,
    })?;
    let zone = TimeZone::system();
    if args.json {
        return print(&(report::json(&night) + "\n"));
    }
    let Some(path) = &args.svg else {
        let mut style = console::style(variable);
        style.utf8 &= !args.ascii;
        return print(&report::text(&night, zone, style));
    };
    let svg = report::svg(&night, zone);
    if path.as_os_str() == "-" {
        return print(&svg);
    }
    journal::replace(path, &svg).map_err(|error| Error::File {
        what: "SVG file",
        path: path.clone(),
        why: error.to_string(),
        hint: "name a file in a folder that you can write to and that has room",
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Log and voice.
fn begin(args: &Args, environment: &Environment) -> Result<Console, Error> {
    let texts = options::readable(environment);
    let variable = |name: &str| options::lookup(&texts, name);
    let level = variable("DDOLLAR_LOG").or_else(|| variable("RUST_LOG"));
    logging::start(args.log.as_deref(), level.as_deref())?;
    mind_panics();
    let console = Console::new(args.verbosity, variable);
    console.say(&Notice::Discovering);
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
        Outcome::AsChild(How::Code(code)) => ExitCode::from(code),
        Outcome::AsChild(How::Signal(number)) => signals::die_by(number),
        Outcome::BySignal(signal) => signals::die_by(signal as i32),
        Outcome::TryAgainLater => ExitCode::from(TRY_AGAIN_LATER),
    }
}

/// Prints what was asked for.
fn print(text: &str) -> Result<ExitCode, Error> {
    console::print(text)?;
    Ok(ExitCode::SUCCESS)
}
