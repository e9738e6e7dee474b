//! The reporter: tells others about a run while the loop goes on with it.
//!
//! Owns who is informed (the journal, a command of the user's, the service manager), all of the same. It
//! promises not to block and not to fail.

use super::RunEvent;
use super::journal::{Journal, Place};
use super::notify::Notifier;
use super::recorder::{News, Recorder};
use super::schema::{Ending, Record, millis};
use super::systemd::{self, Service};
use crate::common::Warning;
use crate::common::time::Now;
use crate::system::exit_status::ExitStatus;
use crate::system::signals::Inherited;
use crate::tokens::TokenPool;
use crossbeam_channel::Sender;
use nix::sys::signal::Signal;
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
    /// Whether the tokens and limits are made up.
    pub(crate) rehearsal: bool,
}

/// Everyone who is told.
#[derive(Debug)]
pub(crate) struct Reporter {
    recorder: Recorder,
    journal: Option<Journal>,
    /// Whether `ddollar report` shows this run without being told which.
    kept: bool,
    notifier: Option<Notifier>,
    warnings: Sender<Warning>,
    service: Option<Service>,
    /// What people were told last, for those who are told the end.
    said: String,
    /// Whether the tokens and limits are made up.
    rehearsal: bool,
    /// Whether people were told how the command ended.
    is_closed: bool,
    tally: Tally,
}

/// What a run comes to.
#[derive(Debug, Default)]
struct Tally {
    began: Option<Now>,
    rotations: usize,
    limits: usize,
    /// Since when it waits.
    waits: Option<Now>,
    waited: Duration,
}

impl Tally {
    fn count(&mut self, record: &Record, now: Now) {
        match record {
            Record::Run(_) => self.began = Some(now),
            Record::Rotate { .. } => self.rotations += 1,
            Record::Limit(_) => self.limits += 1,
            // A question pauses the command as well.
            Record::Wait { .. } | Record::Pause => {
                self.waits.get_or_insert(now);
            }
            Record::Resume | Record::Launch { .. } | Record::Release { .. } | Record::End(_) => {
                if let Some(since) = self.waits.take() {
                    self.waited += elapsed(since, now);
                }
            }
            _ => {}
        }
    }
}

/// The time between two moments as people count it: a machine that sleeps waits, too.
fn elapsed(since: Now, now: Now) -> Duration {
    let awake = now.tick.saturating_duration_since(since.tick);
    now.wall.duration_since(since.wall).unwrap_or(awake)
}

impl Reporter {
    /// Opens the journal and the other outputs. `pools` are all tokens of the run; what goes wrong
    /// with the journal later is sent to `warnings`. `inherited` and
    /// `environment` are for the user's command; no token is in them.
    pub(crate) fn open(
        pools: &[TokenPool],
        options: ReporterOptions,
        inherited: Inherited,
        environment: &[(OsString, OsString)],
        warnings: Sender<Warning>,
    ) -> Reporter {
        let journal = options.journal;
        let kept = matches!(journal, Some(Place::Folder(_)));
        let journal = journal.map(|place| Journal::new(place, warnings.clone()));
        Reporter {
            recorder: Recorder::new(pools),
            journal,
            kept,
            notifier: options
                .notify
                .map(|command| Notifier::new(command, inherited, environment.to_vec())),
            service: options.service.as_ref().and_then(Service::open),
            warnings,
            said: String::new(),
            rehearsal: options.rehearsal,
            is_closed: false,
            tally: Tally::default(),
        }
    }

    /// A run of `command` begins; `threshold` is the utilization above which a token is left, 0.0 to
    /// 1.0.
    pub(crate) fn begin(&mut self, command: String, threshold: f64, now: Now) {
        let pid = std::process::id();
        let record = self
            .recorder
            .head(command, threshold, self.rehearsal, pid, now.tick);
        let words = String::new();
        let _ = self.pass_on(&News { record, words }, now);
    }

    /// These things happened, in this order. Returns the processes that were started for it.
    #[must_use = "a process that is not spared is taken for the command's"]
    pub(crate) fn tell(&mut self, events: &[RunEvent], now: Now) -> Vec<Pid> {
        self.is_closed |= events.iter().any(|event| {
            matches!(
                event,
                RunEvent::Completed | RunEvent::Unrehearsed | RunEvent::Failed(..)
            )
        });
        let last = events.iter().rev().find_map(RunEvent::message);
        if let Some(message) = last {
            self.said = message.text.into_owned();
        }
        let told = events.iter().filter_map(|event| {
            let news = self.recorder.news(event, now.tick)?;
            self.pass_on(&news, now)
        });
        let helpers = told.collect();
        if let Some(what) = self.notifier.as_mut().and_then(Notifier::failure) {
            // The one who listens is the caller, at its next event.
            let _ = self.warnings.send(what);
        }
        helpers
    }

    /// Whether this is a rehearsal that has met no limit.
    pub(crate) fn is_unrehearsed(&self) -> bool {
        self.rehearsal && self.tally.limits == 0
    }

    /// What is to be done while nothing happens. Returns when there will be more of it.
    pub(crate) fn tick(&mut self, now: Now) -> Option<Duration> {
        if let Some(journal) = &mut self.journal {
            journal.begin();
        }
        self.service.as_mut()?.sign_of_life(now.tick)
    }

    /// The run is over. Returns what is left to say of it.
    pub(crate) fn end(&mut self, ending: Ending, now: Now) -> Vec<RunEvent> {
        let mut last = Vec::new();
        let quiet = ExitStatus::Signal(Signal::SIGPIPE as i32);
        match ending {
            Ending::BySignal(signal) => last.push(RunEvent::StoppedBySignal(signal)),
            Ending::AsCommand(how) if !self.is_closed && how != quiet => {
                last.push(RunEvent::EndedBySignal(how));
            }
            _ => {}
        }
        let words = match &ending {
            Ending::Failure(error) => error.clone(),
            _ => std::mem::take(&mut self.said),
        };
        let record = Record::End(ending);
        let _ = self.pass_on(&News { record, words }, now);
        if let Some(notifier) = &mut self.notifier {
            notifier.finish();
            let failure = notifier.failure();
            last.extend(failure.map(RunEvent::Warning));
        }
        let Tally {
            rotations, waited, ..
        } = self.tally;
        let whole = self.tally.began.map_or(waited, |began| elapsed(began, now));
        if rotations > 0 || waited >= Duration::from_secs(1) {
            last.push(RunEvent::Summary {
                rotations,
                waited,
                worked: whole.saturating_sub(waited),
                kept: self.kept,
            });
        }
        self.journal = None;
        last
    }

    fn pass_on(&mut self, News { record, words }: &News, now: Now) -> Option<Pid> {
        self.tally.count(record, now);
        let at = millis(now.wall);
        if let Some(journal) = &mut self.journal {
            journal.write(at, record);
        }
        if let Some(service) = &mut self.service {
            service.tell(record, words);
        }
        let notifier = self.notifier.as_mut()?;
        notifier.tell(record, at, words, self.recorder.rings())
    }
}
