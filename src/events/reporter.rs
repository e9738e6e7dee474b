//! The reporter: tells others about a run while the loop goes on with it.
//!
//! Owns who is told (the journal, a command of the user's, the service manager) and that all hear
//! the same. It promises not to block and not to fail.

use super::RunEvent;
use super::journal::{Journal, Place};
use super::notify::Notifier;
use super::recorder::{News, Recorder};
use super::schema::{Ending, Record, millis};
use super::systemd::{self, Service};
use crate::common::Warning;
use crate::common::time::Now;
use crate::system::signals::Inherited;
use crate::tokens::TokenPool;
use crossbeam_channel::Sender;
use nix::unistd::Pid;
use std::ffi::OsString;
use std::time::Duration;

/// Who wants to be told.
#[derive(Debug, Default)]
pub(crate) struct ReporterOptions {
    /// Where the run is kept; `None` where there is no folder for it.
    pub(crate) journal: Option<Place>,
    /// A command of the user's, for `sh -c`.
    pub(crate) notify: Option<OsString>,
    /// The service manager.
    pub(crate) service: Option<systemd::Address>,
}

/// Everyone who is told.
#[derive(Debug)]
pub(crate) struct Reporter {
    recorder: Recorder,
    journal: Option<Journal>,
    notifier: Option<Notifier>,
    service: Option<Service>,
    /// What people were told last, for those who are told the end.
    said: String,
}

impl Reporter {
    /// Opens the ways to those who are to be told. `pools` are all tokens of the run; what goes wrong
    /// with the journal later is sent to `warnings`. `inherited` and
    /// `environment` are for the user's command; no token is in them.
    pub(crate) fn open(
        pools: &[TokenPool],
        options: ReporterOptions,
        inherited: Inherited,
        environment: &[(OsString, OsString)],
        warnings: Sender<Warning>,
    ) -> Reporter {
        let log = |error: &std::io::Error| log::warn!("not everyone is told: {error}");
        let journal = options.journal.and_then(|place| {
            let started = Journal::start(place, warnings);
            started.inspect_err(log).ok()
        });
        let service = options.service.and_then(|address| {
            let opened = Service::open(&address);
            opened.inspect_err(log).ok()
        });
        Reporter {
            recorder: Recorder::new(pools),
            journal,
            notifier: options
                .notify
                .map(|command| Notifier::new(command, inherited, environment.to_vec())),
            service,
            said: String::new(),
        }
    }

    /// A run of `command` begins; `threshold` is the utilization above which a token is left, 0.0 to
    /// 1.0.
    pub(crate) fn begin(&mut self, command: String, threshold: f64, now: Now) {
        let record = self.recorder.head(command, threshold, std::process::id());
        let words = String::new();
        let _ = self.pass_on(&News { record, words }, now);
    }

    /// These things happened, in this order. Returns the processes that were started for it.
    #[must_use = "a process that is not spared is taken for the command's"]
    pub(crate) fn tell(&mut self, events: &[RunEvent], now: Now) -> Vec<Pid> {
        let last = events.iter().rev().find_map(RunEvent::message);
        if let Some(message) = last {
            self.said = message.text;
        }
        let told = events.iter().filter_map(|event| {
            let news = self.recorder.news(event)?;
            self.pass_on(&news, now)
        });
        told.collect()
    }

    /// What is to be done while nothing happens. Returns when there will be more of it.
    pub(crate) fn tick(&mut self, now: Now) -> Option<Duration> {
        self.service.as_mut()?.sign_of_life(now.tick)
    }

    /// The run is over.
    pub(crate) fn end(&mut self, ending: Ending, now: Now) {
        let words = match &ending {
            Ending::Failure(error) => error.clone(),
            _ => std::mem::take(&mut self.said),
        };
        let record = Record::End(ending);
        let _ = self.pass_on(&News { record, words }, now);
        self.journal = None;
        if let Some(notifier) = &mut self.notifier {
            notifier.finish();
        }
    }

    fn pass_on(&mut self, News { record, words }: &News, now: Now) -> Option<Pid> {
        let at = millis(now.wall);
        if let Some(journal) = &mut self.journal {
            journal.write(at, record);
        }
        if let Some(service) = &mut self.service {
            service.tell(record, words);
        }
        self.notifier.as_mut()?.tell(record, at, words)
    }
}
