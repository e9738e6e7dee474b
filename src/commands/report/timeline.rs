//! From the lines of a journal to what happened: who was in use when, when the command worked, what
//! was waited for, and what it all comes to.
//!
//! It promises to make the best of any text that begins like a journal: damaged lines and unknown
//! events are counted and skipped, times that run backwards stand still, and a run without an end is
//! told as far as it goes. Pure.

use crate::events::schema::{
    Cause, Ending, Level, Millis, Record, Run, SCHEMA, Unread, Verdict, Who, read,
};
use crate::system::exit_status::ExitStatus;

/// Tokens that are told of: ten times as many as anyone has. A head may claim any number.
const MOST_TRACKS: usize = 1000;

/// What a journal tells.
#[derive(Debug)]
pub(crate) struct Timeline {
    pub(crate) run: Run,
    pub(crate) from: Millis,
    /// Its last moment: of its end, of its last line, or now while it goes on.
    pub(crate) to: Millis,
    pub(crate) end: End,
    /// In the order of providers and tokens.
    pub(crate) tracks: Vec<Track>,
    /// What the command was doing; without gaps, in order.
    pub(crate) spans: Vec<Span>,
    pub(crate) waits: Vec<Wait>,
    pub(crate) story: Vec<(Millis, Entry)>,
    pub(crate) starts: usize,
    pub(crate) rotations: usize,
    pub(crate) checks: usize,
    /// Checks that no answer came to.
    pub(crate) unanswered: usize,
    /// From each rotation to the reset of the token that was left, all in all: what a command with
    /// one token would have waited.
    pub(crate) saved: Millis,
    /// When the first limit came: a run without ddollar would have met it.
    pub(crate) first_limit: Option<Millis>,
    /// Lines that say nothing: damaged, or lost to a slow disk.
    pub(crate) damaged: u64,
    /// Events of a later ddollar.
    pub(crate) unknown: usize,
}

/// How a record ends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    /// The run is over.
    Told(Ending),
    /// It goes on.
    Open,
    /// Nobody writes it any more, and it does not say how the run ended.
    CutOff,
}

/// One token over the run.
#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) who: Who,
    pub(crate) group: Option<String>,
    /// How full its fullest window was, from each check to the next, as long as it was in use.
    pub(crate) steps: Vec<Step>,
    /// The windows of the last answer that had some.
    pub(crate) windows: Vec<Level>,
    /// Whether it is in use, so that the last step goes on.
    open: bool,
    /// The reset that was told when it was last found not to do.
    reset: Option<Millis>,
}

/// A stretch of time in which a token was this full.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) from: Millis,
    pub(crate) to: Millis,
    /// 0.0 to 1.0 and above.
    pub(crate) used: f64,
}

/// What the command is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    Working,
    Waiting,
    /// It is being ended, or started again.
    Restarting,
}

/// A stretch of time in which it did so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: Millis,
    pub(crate) to: Millis,
    pub(crate) doing: Activity,
}

/// A wait.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wait {
    pub(crate) from: Millis,
    /// Its end; `None` when the record ends first.
    pub(crate) to: Option<Millis>,
    /// The token that was waited for, with its provider; without one, for the provider.
    pub(crate) provider: String,
    pub(crate) token: Option<usize>,
    pub(crate) cause: Option<Cause>,
    /// When it was to be over, as told last; `None` when nobody told.
    pub(crate) promised: Option<Millis>,
    /// When an answer first showed a usable token again, or a held request went out.
    pub(crate) usable: Option<Millis>,
    /// The command went on meanwhile; it was its requests that a proxy held.
    pub(crate) held: bool,
}

/// One thing worth telling.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    /// A start; `tokens` of each provider.
    Started {
        again: bool,
        tokens: Vec<usize>,
    },
    Limit {
        who: Who,
        cause: Cause,
        used: Option<f64>,
        until: Option<Millis>,
    },
    /// `took`: from the order to end to the new start.
    Rotated {
        who: Who,
        from: usize,
        took: Option<Millis>,
    },
    /// The wait with this number, from 0.
    Wait(usize),
    /// The command ended by itself.
    Exited(ExitStatus),
    Note(String),
    End(Ending),
}

/// Why a text is no record of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    Empty,
    NotAJournal,
}

impl Timeline {
    /// Reads the last run in `text`. `now` is given while somebody writes it.
    ///
    /// # Errors
    /// There is no beginning of a run in it.
    pub(crate) fn read(text: &str, now: Option<Millis>) -> Result<Timeline, Unusable> {
        let mut night: Option<Builder> = None;
        let mut strange = 0;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            match (read(line), &mut night) {
                (Ok((at, Record::Run(run))), _) => night = Some(Builder::new(at, run)),
                (Ok((at, fact)), Some(builder)) => builder.add(at, fact),
                (Err(Unread::Unknown), Some(builder)) => builder.night.unknown += 1,
                (Err(Unread::Damaged), Some(builder)) => builder.night.damaged += 1,
                (_, None) => strange += 1,
            }
        }
        match night {
            Some(builder) => Ok(builder.end(now, text.ends_with('\n'))),
            None if strange == 0 => Err(Unusable::Empty),
            None => Err(Unusable::NotAJournal),
        }
    }

    fn told_rotation(&mut self, at: Millis, who: Who, from: usize, took: Option<Millis>) {
        let mut tracks = self.tracks.iter();
        let left = tracks.find(|one| one.who.provider == who.provider && one.who.token == from);
        let reset = left.and_then(|left| left.reset);
        let saved = reset.map_or(0, |reset| (reset - at).max(0));
        self.saved = self.saved.saturating_add(saved);
        self.story.push((at, Entry::Rotated { who, from, took }));
    }

    /// How long the command did this, all in all.
    pub(crate) fn time(&self, doing: Activity) -> Millis {
        let spans = self.spans.iter().filter(|span| span.doing == doing);
        spans.map(|span| span.to - span.from).sum()
    }

    /// Whether the record was written by a later schema than is known here.
    pub(crate) fn is_newer(&self) -> bool {
        self.run.schema > SCHEMA
    }

    /// Whether tokens of several providers were at hand, so that a number alone names none.
    pub(crate) fn has_several_providers(&self) -> bool {
        self.run.providers.len() > 1
    }

    /// A provider's name as people write it.
    pub(crate) fn label<'n>(&'n self, provider: &'n str) -> &'n str {
        let ring = self.run.providers.iter().find(|ring| ring.name == provider);
        ring.map_or(provider, |ring| &ring.label)
    }
}

impl Track {
    /// If it is in use, it is as full as when it was last seen.
    fn go_on(&mut self, at: Millis) {
        if let (true, Some(last)) = (self.open, self.steps.last()) {
            let used = last.used;
            self.steps.push(Step {
                from: at,
                to: at,
                used,
            });
        }
    }
}

/// A night as far as it was read.
struct Builder {
    night: Timeline,
    doing: Activity,
    since: Millis,
    /// When the command was last told to end.
    stopped: Option<Millis>,
    /// The reason that was given last, and what was promised, until the wait that they are for.
    cause: Option<Cause>,
    promise: Option<(String, Option<usize>, Millis)>,
    /// Whether the command is paused, and the providers whose requests a proxy holds.
    paused: bool,
    held: Vec<String>,
    rotated: Vec<(Who, usize)>,
    ended: Option<Ending>,
}

impl Builder {
    fn new(at: Millis, run: Run) -> Builder {
        let tracks = run
            .providers
            .iter()
            .flat_map(|ring| {
                (1..=ring.tokens).map(|token| Track {
                    who: Who {
                        provider: ring.name.clone(),
                        token,
                    },
                    group: None,
                    steps: Vec::new(),
                    windows: Vec::new(),
                    open: false,
                    reset: None,
                })
            })
            .take(MOST_TRACKS)
            .collect();
        Builder {
            night: Timeline {
                run,
                from: at,
                to: at,
                end: End::CutOff,
                tracks,
                spans: Vec::new(),
                waits: Vec::new(),
                story: Vec::new(),
                starts: 0,
                rotations: 0,
                checks: 0,
                unanswered: 0,
                saved: 0,
                first_limit: None,
                damaged: 0,
                unknown: 0,
            },
            doing: Activity::Restarting,
            since: at,
            stopped: None,
            cause: None,
            promise: None,
            paused: false,
            held: Vec::new(),
            rotated: Vec::new(),
            ended: None,
        }
    }

    fn add(&mut self, at: Millis, fact: Record) {
        // A clock that was set back must not make a stretch of time negative.
        let at = at.max(self.night.to);
        self.night.to = at;
        match fact {
            // The caller makes a new night of it.
            Record::Run(_) => {}
            Record::Launch { again, tokens } => self.launch(at, again, tokens),
            Record::Usage {
                who,
                finding,
                group,
                windows,
                ..
            } => self.usage(at, &who, finding, group, windows),
            Record::Limit {
                who,
                cause,
                used,
                until,
            } => {
                self.night.first_limit.get_or_insert(at);
                // A proxy tells the reset with the windows.
                let mut tracks = self.night.tracks.iter_mut();
                let mut track = tracks.find(|track| track.who == who);
                let until = until.or_else(|| {
                    let windows = track.as_ref()?.windows.iter();
                    windows.max_by(|a, b| a.used.total_cmp(&b.used))?.resets
                });
                if let Some(track) = &mut track {
                    track.reset = until;
                }
                self.cause = Some(cause);
                if matches!(cause, Cause::Reached | Cause::SpendCap) {
                    self.is_spent(at, &who);
                }
                let chapter = Entry::Limit {
                    who,
                    cause,
                    used,
                    until,
                };
                self.night.story.push((at, chapter));
            }
            Record::Rotate { who, from } => {
                self.night.rotations += 1;
                if self.doing == Activity::Restarting {
                    self.rotated.push((who, from));
                } else {
                    self.rotate_in_place(at, who, from);
                }
            }
            Record::Wait {
                provider,
                token,
                until,
                held,
            } => {
                let runs = self.doing == Activity::Working || !self.held.is_empty();
                if held && runs && !self.held.contains(&provider) {
                    self.held.push(provider.clone());
                }
                self.promise = Some((provider, token, until));
                // There is no command to pause: it has ended.
                if held && runs || !held && self.doing != Activity::Working {
                    self.wait(at, held);
                }
            }
            Record::Release { provider, token } => {
                self.held.retain(|held| *held != provider);
                if self.doing == Activity::Waiting && !self.paused && self.held.is_empty() {
                    if let (Some(_), Some(wait)) = (token, self.night.waits.last_mut()) {
                        wait.usable.get_or_insert(at);
                    }
                    self.turn(at, Activity::Working);
                }
            }
            Record::Pause => {
                self.paused = true;
                self.wait(at, false);
            }
            Record::Resume => {
                self.paused = false;
                if self.held.is_empty() {
                    self.turn(at, Activity::Working);
                }
            }
            Record::Stop => {
                self.stopped = Some(at);
                self.turn(at, Activity::Restarting);
            }
            Record::Exit { how, asked } => {
                self.stopped.get_or_insert(at);
                self.turn(at, Activity::Restarting);
                if !asked {
                    self.night.story.push((at, Entry::Exited(how)));
                }
            }
            Record::Note { text } => self.night.story.push((at, Entry::Note(text))),
            Record::Lost { lines } => self.night.damaged = self.night.damaged.saturating_add(lines),
            Record::End(ending) => self.ended = Some(ending),
        }
    }

    /// Nothing is left of a token, whatever its windows say.
    fn is_spent(&mut self, at: Millis, who: &Who) {
        let Some(track) = self.night.tracks.iter_mut().find(|track| track.who == *who) else {
            return;
        };
        if track.steps.last().is_none_or(|step| step.used < 1.0) {
            close(track, at);
            track.steps.push(Step {
                from: at,
                to: at,
                used: 1.0,
            });
        }
    }

    fn launch(&mut self, at: Millis, again: bool, tokens: Vec<usize>) {
        self.turn(at, Activity::Working);
        let night = &mut self.night;
        night.starts += 1;
        let took = self.stopped.take().map(|stopped| at - stopped);
        for track in &mut night.tracks {
            let names = night.run.providers.iter().map(|ring| &ring.name);
            track.open = names
                .zip(&tokens)
                .any(|(name, token)| *name == track.who.provider && *token == track.who.token);
            track.go_on(at);
        }
        if self.rotated.is_empty() {
            night.story.push((at, Entry::Started { again, tokens }));
        }
        for (who, from) in self.rotated.drain(..) {
            night.told_rotation(at, who, from, took);
        }
    }

    /// A proxy has rotated behind the command, which goes on.
    fn rotate_in_place(&mut self, at: Millis, who: Who, from: usize) {
        let night = &mut self.night;
        for track in &mut night.tracks {
            if track.who.provider == who.provider {
                close(track, at);
                track.open = track.who.token == who.token;
                track.go_on(at);
            }
        }
        night.told_rotation(at, who, from, None);
    }

    fn usage(
        &mut self,
        at: Millis,
        who: &Who,
        finding: Verdict,
        group: Option<String>,
        windows: Vec<Level>,
    ) {
        let night = &mut self.night;
        night.checks += usize::from(finding != Verdict::Seen);
        night.unanswered += usize::from(finding == Verdict::Silent);
        let threshold = night.run.threshold;
        let fullest = windows
            .iter()
            .map(|window| window.used)
            .max_by(f64::total_cmp);
        let used = match finding {
            Verdict::Limited | Verdict::SpendCapped => Some(fullest.unwrap_or(1.0).max(1.0)),
            _ => fullest,
        };
        if matches!(finding, Verdict::Served | Verdict::Seen)
            && used.is_none_or(|used| used <= threshold)
            && self.doing == Activity::Waiting
            && let Some(wait) = night.waits.last_mut()
        {
            wait.usable.get_or_insert(at);
        }
        let Some(track) = night.tracks.iter_mut().find(|track| track.who == *who) else {
            return;
        };
        track.group = group.or(track.group.take());
        if let Some(used) = used {
            close(track, at);
            track.steps.push(Step {
                from: at,
                to: at,
                used,
            });
        }
        if !windows.is_empty() {
            track.windows = windows;
        }
    }

    /// The command waits, or `held` requests of it do, until something is usable again.
    fn wait(&mut self, at: Millis, held: bool) {
        let going_on = self.doing == Activity::Waiting;
        let promise = self.promise.take();
        if !going_on {
            self.turn(at, Activity::Waiting);
            self.stopped = None;
            let number = self.night.waits.len();
            self.night.waits.push(Wait {
                from: at,
                to: None,
                provider: String::new(),
                token: None,
                cause: self.cause.take(),
                promised: None,
                usable: None,
                held: true,
            });
            self.night.story.push((at, Entry::Wait(number)));
        }
        let Some(wait) = self.night.waits.last_mut() else {
            return;
        };
        wait.held &= held;
        if let Some((provider, token, until)) = promise {
            wait.provider = provider;
            wait.token = token;
            wait.promised = Some(until);
        }
    }

    fn turn(&mut self, at: Millis, doing: Activity) {
        if doing == self.doing {
            return;
        }
        if self.doing == Activity::Waiting
            && let Some(wait) = self.night.waits.last_mut()
        {
            wait.to = Some(at);
        }
        self.close_span(at);
        // What is in use is known from one check to the next only while the command works or waits.
        if doing == Activity::Restarting {
            self.paused = false;
            self.held.clear();
            for track in &mut self.night.tracks {
                close(track, at);
                track.open = false;
            }
        }
        self.doing = doing;
        self.since = at;
    }

    fn close_span(&mut self, at: Millis) {
        if at > self.since {
            self.night.spans.push(Span {
                from: self.since,
                to: at,
                doing: self.doing,
            });
        }
    }

    fn end(mut self, now: Option<Millis>, whole: bool) -> Timeline {
        let at = match (&self.ended, now) {
            (None, Some(now)) => now.max(self.night.to),
            _ => self.night.to,
        };
        self.night.to = at;
        self.close_span(at);
        for track in &mut self.night.tracks {
            close(track, at);
        }
        let night = &mut self.night;
        // The line that is being written is not damaged.
        if now.is_some() && !whole {
            night.damaged = night.damaged.saturating_sub(1);
        }
        night.end = match self.ended {
            Some(ending) => {
                // The command's own end and the run's are one thing.
                if let (Ending::AsCommand(how), Some((_, Entry::Exited(last)))) =
                    (&ending, night.story.last())
                    && how == last
                {
                    night.story.pop();
                }
                night.story.push((at, Entry::End(ending.clone())));
                End::Told(ending)
            }
            None if now.is_some() => End::Open,
            None => End::CutOff,
        };
        self.night
    }
}

/// The last step of a token in use lasts until `at`. A check of one that is not in use is a moment.
fn close(track: &mut Track, at: Millis) {
    if let (true, Some(step)) = (track.open, track.steps.last_mut()) {
        step.to = step.to.max(at);
    }
}
