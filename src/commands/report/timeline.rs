//! Reads a journal: which token was in use when, when the command worked and when it waited, and the
//! sums over the run.
//!
//! It promises to make the best of any text that begins like a journal: damaged lines and unknown
//! events are counted and skipped, a time before the last one counts as the last one, and a run without
//! an end is shown as far as it goes. Pure.

use super::newest::Newest;
use crate::common::duration::compact;
use crate::events::schema::{
    Cause, Ending, Level, LimitHit, Millis, Record, Run, SCHEMA, Unread, Verdict, Who, read,
};
use crate::providers::meter::Spent;
use crate::providers::usage::is_near_limit;
use crate::system::exit_status::ExitStatus;
use std::time::Duration;

/// Tokens that are shown at most: ten times as many as anyone has. A journal's head may claim any
/// number.
const MOST_TRACKS: usize = 1000;

/// What happened in a run, as far as its journal says.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    pub(crate) run: Run,
    pub(crate) from: Millis,
    /// When it ended, or its last line was written; now while it goes on.
    pub(crate) to: Millis,
    pub(crate) end: End,
    /// In the order of providers and tokens.
    pub(crate) tracks: Vec<Track>,
    /// What the command was doing, from its first start until it ended; without gaps, in order.
    pub(crate) spans: Newest<Span>,
    pub(crate) waits: Newest<Wait>,
    /// What each token has cost for each model.
    pub(crate) spent: Vec<(Who, String, Spent)>,
    pub(crate) story: Newest<(Millis, Entry)>,
    /// How long the command did what, over the whole run: in the order of [`Activity`].
    times: [Millis; 3],
    pub(crate) starts: usize,
    pub(crate) rotations: usize,
    pub(crate) checks: usize,
    /// Checks without an answer.
    pub(crate) unanswered: usize,
    /// So long would a command with one token have waited: the union of the times from each rotation to
    /// the reset of the token that was left. In milliseconds.
    pub(crate) saved: Millis,
    /// The end of that.
    saved_until: Millis,
    /// When the first limit came: a run without ddollar would have met it.
    pub(crate) first_limit: Option<Millis>,
    /// Lines that could not be read, or were never written because the disk was slow.
    pub(crate) damaged: u64,
    /// Events that only a later ddollar knows.
    pub(crate) unknown: usize,
}

/// How a journal ends.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum End {
    /// The run is over.
    Told(Ending),
    /// It goes on.
    Open,
    /// Nobody writes it any more, and it does not say how the run ended: ddollar or the machine died.
    #[default]
    CutOff,
}

/// One token over the run.
#[derive(Debug, Default)]
pub(crate) struct Track {
    pub(crate) who: Who,
    /// By what its owner knows it.
    pub(crate) name: Option<String>,
    pub(crate) group: Option<String>,
    /// Utilization of its fullest window, from each check to the next, while it was in use.
    pub(crate) steps: Newest<UsageStep>,
    /// The windows of the last answer that had any.
    pub(crate) windows: Vec<Level>,
    /// Whether it is in use, so that the last step goes on.
    open: bool,
    /// The reset as promised when it last met a limit.
    reset: Option<Millis>,
}

/// A stretch of time with the same utilization.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct UsageStep {
    pub(crate) from: Millis,
    pub(crate) to: Millis,
    /// Utilization: 0.0 to 1.0 and above.
    pub(crate) used: f64,
}

/// What the command is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Activity {
    Working,
    Waiting,
    /// It is being ended, or started again.
    #[default]
    Restarting,
}

/// A stretch of time in which the command did one thing.
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
    /// Its end; `None` when the journal ends first.
    pub(crate) to: Option<Millis>,
    /// The token that was waited for; `None`: it was the provider, which did not answer.
    pub(crate) provider: String,
    pub(crate) token: Option<usize>,
    pub(crate) cause: Option<Cause>,
    /// When it was to be over, as promised last; `None`: nothing was promised.
    pub(crate) promised: Option<Millis>,
    /// When an answer first showed a usable token again, or a held request went out.
    pub(crate) usable: Option<Millis>,
    /// The command went on; a proxy held its requests.
    pub(crate) held: bool,
}

/// One line of the story.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    /// A start, with the token of each provider that was in use.
    Started {
        again: bool,
        tokens: Vec<usize>,
    },
    Limit(LimitHit),
    /// `took`: milliseconds from the order to end until the new start.
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

/// Why a text is no journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoTimeline {
    Empty,
    NotAJournal,
}

impl Timeline {
    /// Reads the last run in these lines, which have their ends. `now` is given while somebody writes them.
    ///
    /// # Errors
    /// There is no line with which a run begins.
    pub(crate) fn read(
        lines: impl Iterator<Item: AsRef<str>>,
        now: Option<Millis>,
    ) -> Result<Timeline, NoTimeline> {
        let mut run: Option<Builder> = None;
        let mut strange = 0;
        let mut whole = true;
        for line in lines {
            let line = line.as_ref();
            whole = line.ends_with('\n');
            if line.trim().is_empty() {
                continue;
            }
            match (read(line), &mut run) {
                (Ok((at, Record::Run(head))), _) => run = Some(Builder::new(at, head)),
                (Ok((at, record)), Some(builder)) => builder.add(at, record),
                (Err(Unread::Unknown), Some(builder)) => builder.timeline.unknown += 1,
                (Err(Unread::Damaged), Some(builder)) => builder.timeline.damaged += 1,
                (_, None) => strange += 1,
            }
        }
        match run {
            Some(builder) => Ok(builder.end(now, whole)),
            None if strange == 0 => Err(NoTimeline::Empty),
            None => Err(NoTimeline::NotAJournal),
        }
    }

    fn told_rotation(&mut self, at: Millis, who: Who, from: usize, took: Option<Millis>) {
        let mut tracks = self.tracks.iter();
        let left = tracks.find(|one| one.who.provider == who.provider && one.who.token == from);
        let reset = left.and_then(|left| left.reset);
        if let Some(reset) = reset {
            let saved = reset.saturating_sub(at.max(self.saved_until)).max(0);
            self.saved = self.saved.saturating_add(saved);
            self.saved_until = self.saved_until.max(reset);
        }
        self.story.push((at, Entry::Rotated { who, from, took }));
    }

    /// How long the command did this in all.
    pub(crate) fn time(&self, doing: Activity) -> Millis {
        self.times.get(doing as usize).copied().unwrap_or_default()
    }

    /// Whether the journal has a later schema than is known here.
    pub(crate) fn is_newer(&self) -> bool {
        self.run.schema > SCHEMA
    }

    /// Whether there were tokens of several providers, so that a number alone does not name one.
    pub(crate) fn has_several_providers(&self) -> bool {
        self.run.providers.len() > 1
    }

    /// A provider's name for people.
    pub(crate) fn label<'n>(&'n self, provider: &'n str) -> &'n str {
        let ring = self.run.providers.iter().find(|ring| ring.name == provider);
        ring.map_or(provider, |ring| &ring.label)
    }
}

impl Track {
    fn new(who: Who, name: Option<&String>) -> Track {
        Track {
            who,
            name: name.cloned(),
            ..Track::default()
        }
    }

    /// Begins a step: a token in use counts as full as when it was last seen.
    fn go_on(&mut self, at: Millis) {
        if let (true, Some(last)) = (self.open, self.steps.last()) {
            let used = last.used;
            self.steps.push(UsageStep {
                from: at,
                to: at,
                used,
            });
        }
    }
}

/// A timeline as far as the journal was read.
#[derive(Default)]
struct Builder {
    timeline: Timeline,
    doing: Activity,
    since: Millis,
    /// When the command was last told to end.
    stopped: Option<Millis>,
    /// The limit that was recorded last and the reset that was promised, until the wait they explain.
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
                (1..=ring.tokens).map(|token| {
                    let provider = ring.name.clone();
                    Track::new(Who { provider, token }, ring.names.get(token - 1))
                })
            })
            .take(MOST_TRACKS)
            .collect();
        Builder {
            timeline: Timeline {
                run,
                from: at,
                to: at,
                tracks,
                saved_until: Millis::MIN,
                ..Timeline::default()
            },
            since: at,
            ..Builder::default()
        }
    }

    fn add(&mut self, at: Millis, record: Record) {
        // A clock that was set back must not make a stretch of time negative.
        let at = at.max(self.timeline.to);
        self.timeline.to = at;
        match record {
            // The caller begins a new timeline.
            Record::Run(_) => {}
            Record::Launch { again, tokens } => self.launch(at, again, tokens),
            Record::Usage {
                who,
                finding,
                group,
                windows,
                left_out,
                ..
            } => {
                self.timeline.checks += usize::try_from(left_out).unwrap_or(0);
                self.usage(at, &who, finding, group, windows);
            }
            Record::Spent { who, model, spent } => {
                let sums = &mut self.timeline.spent;
                let known = sums.iter().position(|sum| sum.0 == who && sum.1 == model);
                match known {
                    Some(at) => sums[at].2 = spent,
                    None if sums.len() < MOST_TRACKS => sums.push((who, model, spent)),
                    None => {}
                }
            }
            Record::Limit(mut limit) => {
                self.timeline.first_limit.get_or_insert(at);
                // A proxy records the reset with the windows.
                let mut tracks = self.timeline.tracks.iter_mut();
                let mut track = tracks.find(|track| track.who == limit.who);
                limit.until = limit.until.or_else(|| {
                    let windows = track.as_ref()?.windows.iter();
                    windows.max_by(|a, b| a.used.total_cmp(&b.used))?.resets
                });
                if let Some(track) = &mut track {
                    track.reset = limit.until;
                }
                self.cause = Some(limit.cause);
                if matches!(limit.cause, Cause::Reached | Cause::SpendCap) {
                    self.is_spent(at, &limit.who);
                }
                self.timeline.story.push((at, Entry::Limit(limit)));
            }
            Record::Rotate { who, from } => {
                self.know(&who);
                self.timeline.rotations += 1;
                if self.doing != Activity::Restarting {
                    self.rotate_in_place(at, who, from);
                } else if self.rotated.len() < MOST_TRACKS {
                    self.rotated.push((who, from));
                }
            }
            Record::Wait {
                provider,
                token,
                until,
                held,
            } => {
                let runs = self.doing == Activity::Working || !self.held.is_empty();
                let is_new = self.held.len() < MOST_TRACKS && !self.held.contains(&provider);
                if held && runs && is_new {
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
                    if let (Some(_), Some(wait)) = (token, self.timeline.waits.last_mut()) {
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
                    self.timeline.story.push((at, Entry::Exited(how)));
                }
            }
            Record::Stall { seconds, .. } => {
                let span = compact(Duration::from_secs(seconds));
                let text = format!("Stalled: nothing happened for {span}");
                self.timeline.story.push((at, Entry::Note(text)));
            }
            Record::Note { text } => self.timeline.story.push((at, Entry::Note(text))),
            Record::Lost { lines } => {
                self.timeline.damaged = self.timeline.damaged.saturating_add(lines)
            }
            Record::End(ending) => self.ended = Some(ending),
        }
    }

    /// A token may have been added to its file during the run.
    fn know(&mut self, who: &Who) {
        let timeline = &mut self.timeline;
        let mut rings = timeline.run.providers.iter_mut();
        let Some(ring) = rings.find(|ring| ring.name == who.provider) else {
            return;
        };
        let tracks = &mut timeline.tracks;
        if who.token > ring.tokens && tracks.len() < MOST_TRACKS {
            ring.tokens = who.token;
            let last = tracks
                .iter()
                .rposition(|track| track.who.provider == who.provider);
            tracks.insert(
                last.map_or(tracks.len(), |last| last + 1),
                Track::new(who.clone(), None),
            );
        }
    }

    /// A token met a limit: nothing is left of it, whatever its windows say.
    fn is_spent(&mut self, at: Millis, who: &Who) {
        let Some(track) = self
            .timeline
            .tracks
            .iter_mut()
            .find(|track| track.who == *who)
        else {
            return;
        };
        if track.steps.last().is_none_or(|step| step.used < 1.0) {
            close(track, at);
            track.steps.push(UsageStep {
                from: at,
                to: at,
                used: 1.0,
            });
        }
    }

    fn launch(&mut self, at: Millis, again: bool, tokens: Vec<usize>) {
        self.turn(at, Activity::Working);
        let timeline = &mut self.timeline;
        timeline.starts += 1;
        let took = self.stopped.take().map(|stopped| at - stopped);
        for track in &mut timeline.tracks {
            let names = timeline.run.providers.iter().map(|ring| &ring.name);
            track.open = names
                .zip(&tokens)
                .any(|(name, token)| *name == track.who.provider && *token == track.who.token);
            track.go_on(at);
        }
        if self.rotated.is_empty() {
            timeline.story.push((at, Entry::Started { again, tokens }));
        }
        for (who, from) in self.rotated.drain(..) {
            timeline.told_rotation(at, who, from, took);
        }
    }

    /// A proxy has rotated behind the command, which goes on.
    fn rotate_in_place(&mut self, at: Millis, who: Who, from: usize) {
        let timeline = &mut self.timeline;
        for track in &mut timeline.tracks {
            if track.who.provider == who.provider {
                close(track, at);
                track.open = track.who.token == who.token;
                track.go_on(at);
            }
        }
        timeline.told_rotation(at, who, from, None);
    }

    fn usage(
        &mut self,
        at: Millis,
        who: &Who,
        finding: Verdict,
        group: Option<String>,
        windows: Vec<Level>,
    ) {
        self.know(who);
        let timeline = &mut self.timeline;
        timeline.checks += usize::from(finding != Verdict::Seen);
        timeline.unanswered += usize::from(finding == Verdict::Silent);
        let threshold = timeline.run.threshold;
        let fullest = windows
            .iter()
            .map(|window| window.used)
            .max_by(f64::total_cmp);
        let used = match finding {
            Verdict::Limited | Verdict::SpendCapped => Some(fullest.unwrap_or(1.0).max(1.0)),
            _ => fullest,
        };
        if matches!(finding, Verdict::Served | Verdict::Seen)
            && used.is_none_or(|used| !is_near_limit(used, threshold))
            && self.doing == Activity::Waiting
            && let Some(wait) = timeline.waits.last_mut()
        {
            wait.usable.get_or_insert(at);
        }
        let Some(track) = timeline.tracks.iter_mut().find(|track| track.who == *who) else {
            return;
        };
        track.group = group.or(track.group.take());
        if let Some(used) = used {
            close(track, at);
            track.steps.push(UsageStep {
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
            let number = self.timeline.waits.count();
            self.timeline.waits.push(Wait {
                from: at,
                to: None,
                provider: String::new(),
                token: None,
                cause: self.cause.take(),
                promised: None,
                usable: None,
                held: true,
            });
            self.timeline.story.push((at, Entry::Wait(number)));
        }
        let Some(wait) = self.timeline.waits.last_mut() else {
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
            && let Some(wait) = self.timeline.waits.last_mut()
        {
            wait.to = Some(at);
        }
        self.close_span(at);
        // Between two checks utilization is only known while the command works or waits.
        if doing == Activity::Restarting {
            self.paused = false;
            self.held.clear();
            for track in &mut self.timeline.tracks {
                close(track, at);
                track.open = false;
            }
        }
        self.doing = doing;
        self.since = at;
    }

    fn close_span(&mut self, at: Millis) {
        // Before its first start the command does nothing.
        if at > self.since && (self.doing != Activity::Restarting || self.timeline.starts > 0) {
            if let Some(time) = self.timeline.times.get_mut(self.doing as usize) {
                *time = time.saturating_add(at - self.since);
            }
            self.timeline.spans.push(Span {
                from: self.since,
                to: at,
                doing: self.doing,
            });
        }
    }

    fn end(mut self, now: Option<Millis>, whole: bool) -> Timeline {
        let at = match (&self.ended, now) {
            (None, Some(now)) => now.max(self.timeline.to),
            _ => self.timeline.to,
        };
        self.timeline.to = at;
        // Behind the end of the command nothing is started again.
        if self.ended.is_none() || self.doing != Activity::Restarting {
            self.close_span(at);
        }
        for track in &mut self.timeline.tracks {
            close(track, at);
        }
        let timeline = &mut self.timeline;
        // The line that is being written is not damaged.
        if now.is_some() && !whole {
            timeline.damaged = timeline.damaged.saturating_sub(1);
        }
        timeline.end = match self.ended {
            Some(ending) => {
                // The command's own end and the run's are one line.
                if let (Ending::AsCommand(how), Some((_, Entry::Exited(last)))) =
                    (&ending, timeline.story.last())
                    && how == last
                {
                    timeline.story.pop();
                }
                timeline.story.push((at, Entry::End(ending.clone())));
                End::Told(ending)
            }
            None if now.is_some() => End::Open,
            None => End::CutOff,
        };
        self.timeline
    }
}

/// The last step of a token in use lasts until `at`. A check of one that is not in use is a moment.
fn close(track: &mut Track, at: Millis) {
    if let (true, Some(step)) = (track.open, track.steps.last_mut()) {
        step.to = step.to.max(at);
    }
}
