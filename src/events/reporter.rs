//! The herald: tells others about a run while the loop goes on with it.
//!
//! Owns who is told (the journal, a command of the user's, the service manager) and that all hear
//! the same facts. It promises not to block and not to fail.

use crate::common::Warning;
use crate::common::error::Error;
use crate::common::time::Now;
use crate::events::fact::{Fact, Observer, millis};
use crate::events::journal::{Journal, Place};
use crate::events::notify::Notifier;
use crate::events::systemd::{self, Service};
use crate::providers::Answer;
use crate::providers::usage::Usage;
use crate::supervisor::event::{Event, Outcome};
use crate::supervisor::session::{Session, Turn};
use crate::system::signals::Inherited;
use crate::tokens::TokenId;
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
    observer: Observer,
    journal: Option<Journal>,
    notifier: Option<Notifier>,
    service: Option<Service>,
    /// What was said last, for those who are told the end.
    said: String,
}

impl Reporter {
    /// Calls those who are to be told; what goes wrong later is reported to `events`. `inherited` and
    /// `environment` are for the user's command; no token is in them.
    pub(crate) fn call(
        observer: Observer,
        wishes: ReporterOptions,
        inherited: Inherited,
        environment: &[(OsString, OsString)],
        events: &Sender<Warning>,
    ) -> Reporter {
        let kept = |error: &std::io::Error| log::warn!("not everyone is told: {error}");
        let journal = wishes.journal.and_then(|place| {
            let started = Journal::start(place, events.clone());
            started.inspect_err(kept).ok()
        });
        let service = wishes.service.and_then(|address| {
            let opened = Service::open(&address);
            opened.inspect_err(kept).ok()
        });
        Reporter {
            observer,
            journal,
            notifier: wishes
                .notify
                .map(|command| Notifier::new(command, inherited, environment.to_vec())),
            service,
            said: String::new(),
        }
    }

    /// A run of `command` begins.
    pub(crate) fn begin(&mut self, session: &Session, command: String, now: Now) {
        let head = self.observer.head(session, command, std::process::id());
        self.tell(&head, "", now);
    }

    /// Something happened. Returns the process that was started for it.
    #[must_use = "a process that is not spared is taken for the command's"]
    pub(crate) fn heard(&mut self, event: &Event, now: Now) -> Option<Pid> {
        let (fact, words) = self.observer.heard(event)?;
        self.tell(&fact, &words, now)
    }

    /// A provider has answered about a token that the session does not see.
    pub(crate) fn answered(&mut self, token: TokenId, answer: &Answer, now: Now) {
        if let Some(fact) = self.observer.answered(token, answer) {
            self.tell(&fact, "", now);
        }
    }

    /// So full is a token by now, as the command's own traffic tells.
    pub(crate) fn seen(&mut self, provider: &str, index: usize, usage: &Usage, now: Now) {
        if let Some(fact) = self.observer.seen(provider, index, usage) {
            self.tell(&fact, "", now);
        }
    }

    /// The session has decided. Returns the processes that were started for it.
    #[must_use = "a process that is not spared is taken for the command's"]
    pub(crate) fn decided(&mut self, reply: &Turn, session: &Session, now: Now) -> Vec<Pid> {
        if let Some(last) = reply.say.last() {
            self.said = last.words().1;
        }
        let facts = self.observer.decided(reply, session, now);
        let told = facts
            .iter()
            .map(|(fact, words)| self.tell(fact, words, now));
        told.flatten().collect()
    }

    /// What is to be done while nothing happens. Returns when there will be more of it.
    pub(crate) fn tick(&mut self, now: Now) -> Option<Duration> {
        self.service.as_mut()?.sign_of_life(now.tick)
    }

    /// The run is over.
    pub(crate) fn end(&mut self, result: &Result<Outcome, Error>, now: Now) {
        let words = match result {
            Ok(_) => std::mem::take(&mut self.said),
            Err(error) => error.to_string(),
        };
        self.tell(&Observer::end(result), &words, now);
        self.journal = None;
        if let Some(notifier) = &mut self.notifier {
            notifier.finish();
        }
    }

    fn tell(&mut self, fact: &Fact, words: &str, now: Now) -> Option<Pid> {
        let at = millis(now.wall);
        if let Some(journal) = &mut self.journal {
            journal.write(at, fact);
        }
        if let Some(service) = &mut self.service {
            service.tell(fact, words);
        }
        self.notifier.as_mut()?.tell(fact, at, words)
    }
}
