//! What each command was given: its options, checked one by one, and their defaults.
//!
//! Options that several commands share are one struct. [`Values`] holds all of them while argv is
//! read, because the table of options sets any of them; each command gets its own and no other.

use super::flags::FLAGS;
use super::{Command, PORT, Request};
use crate::events::console::Verbosity;
use crate::tokens::strategy::Strategy;
use core::net::SocketAddr;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How the limits of tokens are checked.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Checks {
    /// Percent, above 0 and up to 100.
    pub(crate) threshold: f64,
    /// From 100 ms to a day.
    pub(crate) interval: Duration,
    /// A reset that is nearer than this is waited for, whatever else could be done.
    pub(crate) patience: Duration,
    /// Names as given; empty: all.
    pub(crate) providers: Vec<String>,
    /// The model that the checks ask for.
    pub(crate) model: Option<String>,
}

/// What is said, and where.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Voice {
    pub(crate) verbosity: Verbosity,
    /// The file that gets a line with the time for everything that happens.
    pub(crate) log: Option<PathBuf>,
}

/// How a command is supervised.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Supervision {
    /// Ask on the terminal what to do.
    pub(crate) interactive: bool,
    /// From SIGTERM to SIGKILL, up to a day.
    pub(crate) grace: Duration,
    pub(crate) resume: Resume,
    /// One ring over all providers.
    pub(crate) mixed: bool,
    /// The client that the command is, whatever it looks like.
    pub(crate) client: Option<String>,
    pub(crate) max_wait: Option<Duration>,
    /// The model to ask for when no token is good for another one.
    pub(crate) fallback_model: Option<String>,
    /// LLM tokens that the command may cost, at least 1.
    pub(crate) max_tokens: Option<u64>,
    /// A command that has done nothing for so long has stalled; from 30 s.
    pub(crate) stall: Option<Duration>,
    /// Starts after failures that neither a limit nor an outage explains.
    pub(crate) retries: u32,
    /// Through a proxy of the run's own, or not; `None`: as suits the command.
    pub(crate) proxy: Option<bool>,
    pub(crate) journal: Option<PathBuf>,
    /// The command that is told what happens.
    pub(crate) notify: Option<OsString>,
}

/// `supervise`.
#[derive(Debug)]
pub(crate) struct Supervise {
    pub(crate) checks: Checks,
    pub(crate) supervision: Supervision,
    pub(crate) voice: Voice,
    pub(crate) state: StateFile,
    /// How long the run's proxy may hold a request; up to a day.
    pub(crate) hold: Duration,
    /// The command to run and its arguments; not empty.
    pub(crate) command: Vec<OsString>,
}

/// `rehearse`.
#[derive(Debug)]
pub(crate) struct Rehearse {
    /// As for `supervise`; without a command the built-in worker plays.
    pub(crate) run: Supervise,
    pub(crate) scenario: Option<PathBuf>,
}

/// `proxy`.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) checks: Checks,
    pub(crate) voice: Voice,
    pub(crate) state: StateFile,
    pub(crate) gateway: Gateway,
    /// How long a request may be held; up to a day.
    pub(crate) hold: Duration,
}

/// Where the proxy listens, and which token it takes.
#[derive(Debug, PartialEq)]
pub(crate) struct Gateway {
    pub(crate) listen: SocketAddr,
    /// Whether `listen` may be open to other machines.
    pub(crate) allow_remote: bool,
    pub(crate) strategy: Strategy,
}

impl Default for Gateway {
    fn default() -> Gateway {
        Gateway {
            listen: SocketAddr::from(([127, 0, 0, 1], PORT)),
            allow_remote: false,
            strategy: Strategy::default(),
        }
    }
}

/// How something is shown.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Show {
    /// As JSON, for programs.
    pub(crate) json: bool,
    /// Without characters beyond ASCII.
    pub(crate) ascii: bool,
}

/// `status`.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) checks: Checks,
    pub(crate) state: StateFile,
    pub(crate) show: Show,
    /// Again at each interval.
    pub(crate) watch: bool,
}

/// `report`.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) show: Show,
    /// Where the picture goes; `-` is stdout.
    pub(crate) svg: Option<PathBuf>,
    /// List the kept runs, instead of showing one.
    pub(crate) list: bool,
    /// A journal, by its path or its name; without it, the newest.
    pub(crate) run: Option<PathBuf>,
}

/// The command line for every start after the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Resume {
    /// As the client goes on; the same again for a command that is no known client.
    #[default]
    AsClient,
    /// The same again, whatever it is.
    Same,
    /// This one.
    Command(Vec<OsString>),
}

/// Where to keep what is learned of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum StateFile {
    /// In the user's state folder.
    #[default]
    Usual,
    /// Here.
    At(PathBuf),
    /// Nowhere.
    None,
}

/// The values of all options while argv is read; what they are without one is in the table of options.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Values {
    pub(super) checks: Checks,
    pub(super) supervision: Supervision,
    pub(super) voice: Voice,
    pub(super) state: StateFile,
    pub(super) hold: Duration,
    pub(super) gateway: Gateway,
    pub(super) show: Show,
    pub(super) scenario: Option<PathBuf>,
    pub(super) watch: bool,
    pub(super) list: bool,
    pub(super) svg: Option<PathBuf>,
}

impl Values {
    /// The defaults of one command.
    pub(super) fn of(command: Command) -> Values {
        let mut values = Values::default();
        for flag in FLAGS {
            if let Some(default) = flag.default_for(command) {
                // A test holds that every default is a value that its option takes.
                let _ = (flag.set)(&mut values, default.as_ref());
            }
        }
        values
    }

    /// What `command` takes of it, with the words behind its options.
    pub(super) fn into_request(mut self, command: Command, words: Vec<OsString>) -> Request {
        match command {
            Command::Supervise => Request::Supervise(self.into_supervise(words)),
            Command::Rehearse => Request::Rehearse(Rehearse {
                scenario: self.scenario.take(),
                run: self.into_supervise(words),
            }),
            Command::Proxy => Request::Proxy(Proxy {
                checks: self.checks,
                voice: self.voice,
                state: self.state,
                gateway: self.gateway,
                hold: self.hold,
            }),
            Command::Status => Request::Status(Status {
                checks: self.checks,
                state: self.state,
                show: self.show,
                watch: self.watch,
            }),
            Command::Report => Request::Report(Report {
                show: self.show,
                svg: self.svg,
                list: self.list,
                run: words.into_iter().next().map(PathBuf::from),
            }),
        }
    }

    fn into_supervise(self, command: Vec<OsString>) -> Supervise {
        Supervise {
            checks: self.checks,
            supervision: self.supervision,
            voice: self.voice,
            state: self.state,
            hold: self.hold,
            command,
        }
    }
}
