//! What a report shows of a run, for text and SVG alike: lanes, an axis, and the lines of the story.
//!
//! Owns the report's words. Times are local; the caller hands the time zone in. Pure.

use super::timeline::{Activity, End, Entry, Span, Timeline, UsageStep, Wait};
use crate::common::duration::spaced;
use crate::common::style::Colour;
use crate::events::schema::{Cause, Ending, Millis, Who};
use crate::events::wording::{how_it_ended, percent, short, token_names, window_words};
use crate::providers::meter::Spent;
use crate::system::exit_status::ExitStatus;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use nix::sys::signal::Signal;
use std::ops::Range;
use std::time::Duration;

const SECOND: Millis = 1000;
const MINUTE: Millis = 60 * SECOND;
const HOUR: Millis = 60 * MINUTE;
const DAY: Millis = 24 * HOUR;

/// Possible distances between two labels of the axis, in seconds: up to a minute, an hour, a day and a week.
const TICKS: [Millis; 19] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400,
    604_800,
];

/// More lanes than this do not fit on a screen; the tokens that were used go first.
const MOST_LANES: usize = 8;

/// A run, ready to be drawn.
#[derive(Debug)]
pub(crate) struct Chart<'t> {
    pub(crate) title: String,
    /// When, how long, and how it ended.
    pub(crate) subtitle: String,
    pub(crate) from: Millis,
    /// Later than `from`.
    pub(crate) to: Millis,
    pub(crate) threshold: f64,
    pub(crate) lanes: Vec<Lane<'t>>,
    /// What the command was doing.
    pub(crate) spans: &'t [Span],
    pub(crate) rotations: Vec<(Millis, String)>,
    pub(crate) story: Vec<Line>,
    /// Sums over the run, and anything wrong with the journal itself.
    pub(crate) totals: Vec<String>,
    clock: Clock,
}

/// One token over time.
#[derive(Debug)]
pub(crate) struct Lane<'t> {
    pub(crate) label: String,
    pub(crate) steps: &'t [UsageStep],
    /// Utilization when it was last seen, 0.0 to 1.0 and above; `None` when it never was.
    pub(crate) last: Option<f64>,
}

/// One line of the story.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) at: String,
    pub(crate) sign: Sign,
    pub(crate) words: String,
}

/// What a line is about, at a glance: a glyph, its replacement in ASCII, and a colour.
pub(crate) type Sign = (char, char, Colour);

const START: Sign = ('▶', '>', Colour::Next);
const LIMIT: Sign = ('!', '!', Colour::Warning);
pub(crate) const ROTATION: Sign = ('↻', 'R', Colour::Next);
const WAIT: Sign = ('…', 'W', Colour::Warning);
const DONE: Sign = ('✓', '*', Colour::Good);
const FAILED: Sign = ('✗', 'x', Colour::Bad);
const NOTE: Sign = ('·', '-', Colour::Plain);

/// Writes local times, with the date where the time of day alone would be ambiguous.
#[derive(Clone, Debug)]
struct Clock {
    zone: TimeZone,
    /// Whether the time of day alone is ambiguous.
    dated: bool,
}

impl Clock {
    fn local(&self, at: Millis) -> DateTime {
        let at = Timestamp::from_millisecond(at).unwrap_or(Timestamp::MAX);
        self.zone.to_datetime(at)
    }

    fn time_of_day(&self, at: Millis) -> String {
        let at = self.local(at);
        format!("{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second())
    }

    fn time(&self, at: Millis) -> String {
        let time = self.time_of_day(at);
        if self.dated {
            let at = self.local(at);
            format!("{:02}-{:02} {time}", at.month(), at.day())
        } else {
            time
        }
    }
}

impl<'t> Chart<'t> {
    /// The chart of a run, with times in this zone.
    pub(crate) fn of(timeline: &'t Timeline, zone: TimeZone) -> Chart<'t> {
        let clock = Clock {
            zone,
            dated: timeline.to - timeline.from >= 20 * HOUR,
        };
        let from = clock.local(timeline.from);
        let to = clock.local(timeline.to);
        let start = format!("{} {}", from.date(), clock.time_of_day(timeline.from));
        let mut end = clock.time_of_day(timeline.to);
        if from.date() != to.date() {
            end.insert_str(0, &format!("{} ", to.date()));
        }
        let ending = match &timeline.end {
            End::Told(ending) => end_words(ending),
            End::Open => "still running".into(),
            End::CutOff => "cut off, no end is recorded".into(),
        };
        let words = Words {
            timeline,
            clock: &clock,
        };
        Chart {
            title: timeline.run.command.clone(),
            subtitle: format!(
                "{start} to {end} ({}): {ending}",
                long(timeline.to - timeline.from)
            ),
            from: timeline.from,
            to: timeline.to.max(timeline.from + 1),
            threshold: timeline.run.threshold,
            lanes: words.lanes(),
            spans: &timeline.spans,
            rotations: words.rotations(),
            story: words.story(),
            totals: words.totals(),
            clock,
        }
    }

    /// The chart's time divided into `len` cells, at least one.
    pub(crate) fn scale(&self, len: usize) -> Scale {
        Scale {
            from: self.from,
            length: self.to - self.from,
            len,
        }
    }

    /// At most `most` labels for the axis, at round local times.
    pub(crate) fn ticks(&self, most: usize) -> Vec<(Millis, String)> {
        let length = self.to - self.from;
        let most = Millis::try_from(most.max(1)).unwrap_or(1);
        let step = TICKS
            .into_iter()
            .map(|seconds| seconds * SECOND)
            .find(|step| length / step <= most)
            .unwrap_or(length / most + 1);
        let offset = Timestamp::from_millisecond(self.from).map_or(0, |at| {
            Millis::from(self.clock.zone.to_offset(at).seconds()) * SECOND
        });
        let first = (self.from + offset + step - 1).div_euclid(step) * step - offset;
        (0..=most)
            .map(|number| first + number * step)
            .take_while(|at| *at <= self.to)
            .map(|at| {
                let time = self.clock.local(at);
                let (day, hour, minute) = (time.date(), time.hour(), time.minute());
                let label = if step >= DAY {
                    format!("{:02}-{:02}", day.month(), day.day())
                } else if step >= MINUTE {
                    format!("{hour:02}:{minute:02}")
                } else {
                    format!("{hour:02}:{minute:02}:{:02}", time.second())
                };
                (at, label)
            })
            .collect()
    }
}

/// Maps times to cells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    from: Millis,
    /// More than 0.
    length: Millis,
    /// The number of cells.
    pub(crate) len: usize,
}

impl Scale {
    /// The cell of a time; those outside are in the first or the last one.
    pub(crate) fn cell(&self, at: Millis) -> usize {
        let share = (at - self.from) as f64 / self.length as f64;
        ((share * self.len as f64) as usize).min(self.len.saturating_sub(1))
    }

    /// The cells from one time to another, both included.
    pub(crate) fn cells(&self, from: Millis, to: Millis) -> Range<usize> {
        self.cell(from)..self.cell(to) + 1
    }

    /// How full a token was at most in each cell; `None` while it was not in use.
    pub(crate) fn levels(&self, lane: &Lane<'_>) -> Vec<Option<f64>> {
        let mut levels = vec![None::<f64>; self.len];
        for step in lane.steps {
            for level in levels
                .get_mut(self.cells(step.from, step.to))
                .into_iter()
                .flatten()
            {
                *level = Some(level.map_or(step.used, |old| old.max(step.used)));
            }
        }
        levels
    }
}

/// Words about one run.
struct Words<'w, 't> {
    timeline: &'t Timeline,
    clock: &'w Clock,
}

impl<'t> Words<'_, 't> {
    fn lanes(&self) -> Vec<Lane<'t>> {
        let all = || self.timeline.tracks.iter();
        let used = all().filter(|track| track.steps.len() > 1);
        let others = all().filter(|track| track.steps.len() <= 1);
        let fit = all().len() <= MOST_LANES;
        let tracks: Vec<_> = if fit {
            all().collect()
        } else {
            used.chain(others).take(MOST_LANES).collect()
        };
        tracks
            .into_iter()
            .map(|track| Lane {
                label: self.token(&track.who.provider, track.who.token),
                steps: &track.steps,
                last: track.steps.last().map(|step| step.used),
            })
            .collect()
    }

    /// `token 2/3`, or where there are several providers `Anthropic 2/3`.
    fn token(&self, provider: &str, token: usize) -> String {
        let rings = &self.timeline.run.providers;
        let len = rings
            .iter()
            .find(|ring| ring.name == provider)
            .map_or(token, |ring| ring.tokens);
        if self.timeline.has_several_providers() {
            format!("{} {token}/{len}", self.timeline.label(provider))
        } else {
            format!("token {token}/{len}")
        }
    }

    fn who(&self, who: &Who) -> String {
        self.token(&who.provider, who.token)
    }

    fn rotations(&self) -> Vec<(Millis, String)> {
        let story = self.timeline.story.iter();
        story
            .filter_map(|(at, chapter)| match chapter {
                Entry::Rotated { who, .. } => Some((*at, self.who(who))),
                _ => None,
            })
            .collect()
    }

    fn story(&self) -> Vec<Line> {
        let story = self.timeline.story.iter();
        story
            .map(|(at, chapter)| {
                let (sign, words) = self.chapter(chapter);
                Line {
                    at: self.clock.time(*at),
                    sign,
                    words,
                }
            })
            .collect()
    }

    fn chapter(&self, chapter: &Entry) -> (Sign, String) {
        match chapter {
            Entry::Started { again, tokens } => {
                let rings = self.timeline.run.providers.iter().zip(tokens);
                let tokens: Vec<String> = rings
                    .map(|(ring, token)| self.token(&ring.name, *token))
                    .collect();
                let again = if *again { " again" } else { "" };
                (START, format!("Started{again} with {}", tokens.join(", ")))
            }
            Entry::Limit(hit) => {
                let until = hit.until;
                let until = until.map(|until| format!("resets {}", self.clock.time(until)));
                let window = hit.window.as_deref().map(window_words);
                let (what, used) = limit(hit.cause, hit.used);
                let parts = [hit.why.clone(), window, used, until];
                let parts: Vec<String> = parts.into_iter().flatten().collect();
                let colon = if parts.is_empty() { "" } else { ": " };
                let who = capital(&self.who(&hit.who));
                (LIMIT, format!("{who} {what}{colon}{}", parts.join(", ")))
            }
            Entry::Rotated { who, took, .. } => {
                let took = took.map_or(String::new(), |took| {
                    format!(" (the restart took {})", long(took.max(1)))
                });
                (ROTATION, format!("Rotated to {}{took}", self.who(who)))
            }
            Entry::Wait(number) => (
                WAIT,
                number
                    .checked_sub(self.timeline.waits.given_up())
                    .and_then(|place| self.timeline.waits.get(place))
                    .map_or(String::new(), |wait| self.wait(wait)),
            ),
            Entry::Exited(ExitStatus::Code(0)) => (DONE, "The command finished".into()),
            Entry::Exited(how) => (FAILED, how_it_ended(*how)),
            Entry::Note(text) => (NOTE, text.clone()),
            Entry::End(ending) => (
                match ending {
                    Ending::AsCommand(ExitStatus::Code(0)) => DONE,
                    _ => FAILED,
                },
                capital(&end_words(ending)),
            ),
        }
    }

    fn wait(&self, wait: &Wait) -> String {
        let what = match (wait.token, wait.promised) {
            (Some(token), _) => format!(" for {}", self.token(&wait.provider, token)),
            (None, Some(_)) => format!(" for {} to answer", self.timeline.label(&wait.provider)),
            (None, None) => String::new(),
        };
        let promised = match (wait.token, wait.promised) {
            (Some(_), Some(at)) => format!(": promised {}", self.clock.time(at)),
            _ => String::new(),
        };
        match wait.to {
            None if wait.held => format!("Holding requests{what}{promised}"),
            None => format!("Waiting{what}{promised}"),
            Some(to) => {
                let late = match (wait.usable, wait.promised) {
                    (Some(usable), Some(promised)) if wait.token.is_some() => {
                        let late = usable - promised;
                        let sign = if late < 0 { '-' } else { '+' };
                        let late = match late.abs() {
                            late if late < 10 * SECOND => format!("{:.1}s", late as f64 / 1000.0),
                            late => long(late),
                        };
                        let word = if wait.held { "went out" } else { "usable" };
                        format!(", {word} {} ({sign}{late})", self.clock.time(usable))
                    }
                    (None, _) if wait.held => ", given up".into(),
                    _ => String::new(),
                };
                let word = if wait.held { "Held requests" } else { "Waited" };
                let span = long((to - wait.from).max(1));
                format!("{word} {span}{what}{promised}{late}")
            }
        }
    }

    /// What the run has cost, and then each token for each model, in the order of their first answers.
    fn spent(&self) -> Vec<String> {
        let rows = &self.timeline.spent;
        let sum = |count: fn(&Spent) -> u64| {
            let counts = rows.iter().map(|(_, _, spent)| count(spent));
            counts.fold(0, u64::saturating_add)
        };
        let mut lines = Vec::new();
        if !rows.is_empty() {
            let uncounted = match sum(|spent| spent.answers.saturating_sub(spent.counted)) {
                0 => String::new(),
                some => format!(", {some} more without a count"),
            };
            lines.push(format!(
                "{} LLM tokens in {} answers{uncounted}",
                short(sum(|spent| spent.tokens.sum())),
                sum(|spent| spent.counted),
            ));
        }
        for (who, model, spent) in rows.iter().take(MOST_LANES) {
            let words = ["in", "out", "from cache", "to cache"];
            let counts = spent.tokens.0.iter().zip(words);
            let counts = counts.filter(|(count, _)| **count > 0);
            let counts: Vec<String> = counts
                .map(|(count, word)| format!("{} {word}", short(*count)))
                .collect();
            let instead = match spent.instead {
                0 => String::new(),
                some => format!("; {some} answers in place of another model"),
            };
            lines.push(format!(
                "  {} {model}: {}{instead}",
                self.who(who),
                counts.join(", ")
            ));
        }
        let beyond = rows.len().saturating_sub(MOST_LANES);
        if beyond > 0 {
            lines.push(format!("  ... {beyond} more; --json has all"));
        }
        lines
    }

    fn totals(&self) -> Vec<String> {
        let timeline = self.timeline;
        let times = [
            ("Worked", Activity::Working),
            ("waited", Activity::Waiting),
            ("restarting", Activity::Restarting),
        ];
        let times: Vec<String> = times
            .iter()
            .filter(|(_, doing)| *doing != Activity::Restarting || timeline.starts > 1)
            .map(|(word, doing)| format!("{word} {}", long(timeline.time(*doing))))
            .collect();
        let answered = match timeline.unanswered {
            0 => String::new(),
            unanswered => format!(", {unanswered} without an answer"),
        };
        let mut lines = vec![
            times.join(", "),
            format!(
                "{}, {}, {}; {}{answered}",
                several(timeline.starts, "start"),
                several(timeline.rotations, "rotation"),
                several(timeline.waits.count(), "wait"),
                several(timeline.checks, "check"),
            ),
        ];
        if let Some(at) = timeline.first_limit {
            lines.push(format!(
                "Without ddollar it would have met its first limit at {}",
                self.clock.time(at)
            ));
        }
        if timeline.saved >= SECOND && !timeline.run.rehearsal {
            lines.push(format!(
                "Saved about {} of waiting for resets",
                long(match timeline.saved {
                    saved if saved >= HOUR => saved - saved % MINUTE,
                    saved => saved,
                })
            ));
        }
        lines.extend(self.spent());
        for ring in timeline
            .run
            .providers
            .iter()
            .filter(|ring| !ring.names.is_empty())
        {
            lines.push(token_names(&ring.label, &ring.names));
        }
        let earlier = timeline.story.given_up();
        if earlier > 0 {
            lines.push(format!("{} not shown", several(earlier, "earlier event")));
        }
        let beyond = timeline.tracks.len().saturating_sub(MOST_LANES);
        if beyond > 0 {
            lines.push(format!("{} not shown", several(beyond, "more token")));
        }
        if timeline.damaged > 0 {
            let damaged = usize::try_from(timeline.damaged).unwrap_or(usize::MAX);
            let lines_ = several(damaged, "line");
            lines.push(format!("{lines_} of the journal could not be read"));
        }
        if timeline.is_newer() || timeline.unknown > 0 {
            lines.push(format!(
                "Written by ddollar {}, a later one: {} not shown",
                timeline.run.version,
                several(timeline.unknown, "event")
            ));
        }
        lines
    }
}

/// What a token met, and how much of it was used then.
fn limit(cause: Cause, used: Option<f64>) -> (&'static str, Option<String>) {
    match cause {
        // Nothing was left; an earlier ddollar called that near.
        Cause::Near if used.is_some_and(|used| used >= 1.0) => ("has reached its limit", None),
        Cause::Near => {
            let used = used.map(|used| format!("{}% used", percent(used)));
            ("is near its limit", used)
        }
        Cause::Reached => ("has reached its limit", None),
        Cause::SpendCap => ("has reached its spend cap", None),
        Cause::Rejected => ("was rejected", None),
    }
}

/// How a run ended, as a fragment.
fn end_words(ending: &Ending) -> String {
    match ending {
        Ending::AsCommand(ExitStatus::Code(0)) => "finished".into(),
        Ending::AsCommand(how) => {
            let mut words = how_it_ended(*how);
            words.replace_range(..1, "p");
            words
        }
        Ending::BySignal(signal) => match Signal::try_from(*signal) {
            Ok(signal) => format!("stopped by {signal}"),
            Err(_) => format!("stopped by signal {signal}"),
        },
        Ending::AgainLater => "stopped before the command finished; run it again later".into(),
        Ending::Failure(text) => format!("ddollar failed: {text}"),
    }
}

/// A span in whole seconds, rounded.
fn long(span: Millis) -> String {
    let span = u64::try_from(span).unwrap_or(0);
    if span > 0 && span < 500 {
        return "under 1s".into();
    }
    spaced(Duration::from_secs((span + 500) / 1000))
}

fn several(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn capital(words: &str) -> String {
    let mut chars = words.chars();
    chars.next().map_or(String::new(), |first| {
        first.to_uppercase().collect::<String>() + chars.as_str()
    })
}
