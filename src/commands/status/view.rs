//! What is known of every token at one moment, as text and as JSON. Pure.

use crate::common::duration::spaced;
use crate::common::json::{Object, list};
use crate::common::style::{Colour, Style, ascii};
use crate::common::time::{Now, Until};
use crate::events::schema::{millis, time};
use crate::events::token_status::TokenStatus;
use crate::events::wording::{local, window_words};
use crate::providers::usage::Usage;
use crate::providers::{Finding, Reading};
use crate::tokens::condition::{Condition, ProbeFailure};
use crate::tokens::policy::Decision;
use crate::tokens::{Token, TokenPool};
use std::time::{Duration, SystemTime};

/// Cells of a bar where there is room.
const BAR: usize = 20;
/// A shorter bar shows nothing.
const SHORTEST_BAR: usize = 4;

/// One look at every token.
pub(super) struct View<'r> {
    pub(super) now: Now,
    pub(super) rings: Vec<RingView<'r>>,
}

/// The tokens of one provider, and what would be done with them.
pub(super) struct RingView<'r> {
    rows: Vec<Row<'r>>,
    pub(super) decision: Decision,
}

/// One token.
struct Row<'r> {
    token: &'r Token,
    condition: Condition,
    silence: Option<ProbeFailure>,
    group: Option<String>,
    /// Why there is nothing to show.
    why: Option<String>,
    usage: Usage,
}

impl<'r> RingView<'r> {
    /// What the answers in `asked` say about the tokens of `pool`.
    pub(super) fn new(
        pool: &'r TokenPool,
        asked: &TokenPool,
        readings: &[Option<&Result<Reading, String>>],
        decision: Decision,
        now: Now,
    ) -> RingView<'r> {
        let rows = readings.iter().enumerate().map(|(index, reading)| {
            let standing = asked.state(index);
            let (usage, why) = match reading {
                None => (Usage::default(), None),
                Some(Err(why)) => (Usage::default(), Some(format!("no answer: {why}"))),
                Some(Ok(reading)) => {
                    let why = match &reading.finding {
                        Finding::Unclear { why } => Some(format!("shows no limits: {why}")),
                        _ => reading.said.clone(),
                    };
                    (reading.usage.clone(), why)
                }
            };
            Row {
                token: pool.token(index),
                condition: standing.condition(now),
                silence: standing.silence().map(|(silence, _)| silence),
                group: standing.group().map(str::to_owned),
                why,
                usage,
            }
        });
        RingView {
            rows: rows.collect(),
            decision,
        }
    }

    fn label(&self) -> &'static str {
        self.rows.first().map_or("", |row| row.token.provider.label)
    }

    /// The quota that a token draws on: the user's own word for it, or a letter that tokens of the
    /// same quota share. The providers' own words are too long to compare.
    fn quota(&self, row: &Row<'_>) -> Option<String> {
        let group = row.group.as_deref()?;
        if let Some(label) = group.strip_prefix("group=") {
            return Some(label.into());
        }
        let mut groups: Vec<&str> = Vec::new();
        for other in self.rows.iter().filter_map(|row| row.group.as_deref()) {
            if !groups.contains(&other) {
                groups.push(other);
            }
        }
        let place = groups.iter().position(|other| *other == group)?;
        let letter = u8::try_from(place)
            .ok()
            .filter(|place| *place < 26)
            .map(|place| char::from(b'A' + place).to_string());
        Some(letter.unwrap_or_else(|| (place + 1).to_string()))
    }

    /// The token that would be used, if one would.
    fn chosen(&self) -> Option<usize> {
        match self.decision {
            Decision::Keep | Decision::KeepUntil { .. } => Some(0),
            Decision::Probe { index } | Decision::Rotate { index } => Some(index),
            Decision::Wait { .. } | Decision::ExceedsMaxWait { .. } | Decision::NoUsableToken => {
                None
            }
        }
    }
}

impl View<'_> {
    /// When every token was rejected, but not often enough to be believed: how long until a run asks
    /// again.
    pub(super) fn doubt(&self) -> Option<Duration> {
        let open = self
            .rings
            .iter()
            .filter(|ring| ring.decision != Decision::NoUsableToken);
        let spans = open.map(|ring| {
            let Decision::Wait { until, index: None } = ring.decision else {
                return None;
            };
            let rejected = |row: &Row<'_>| {
                row.condition == Condition::Rejected
                    && matches!(row.silence, None | Some(ProbeFailure::Doubtful))
            };
            let all = ring.rows.iter().all(rejected);
            all.then(|| until.remaining(self.now))
        });
        spans.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// A table, with a line's end after each line.
    pub(super) fn text(&self, style: Style) -> String {
        let now = self.now.wall;
        let mut text = String::new();
        let mut line = |line: String| {
            text.push_str(line.trim_end());
            text.push('\n');
        };
        let rows = self.rings.iter().flat_map(|ring| &ring.rows);
        let widest = rows
            .flat_map(|row| row.windows(now, 0, style))
            .map(|line| line.chars().count())
            .max();
        let cells = cells(style.width.saturating_sub(widest.unwrap_or(0)));
        line(style.wrap(
            "The limits of your tokens (API keys), and how much is used:",
            2,
        ));
        for ring in &self.rings {
            for (index, row) in ring.rows.iter().enumerate() {
                line(row.heading(index, ring.rows.len(), ring.quota(row), now, style));
                if let (false, Some(why)) = (row.condition == Condition::Unknown, &row.why) {
                    line(style.wrap(&format!("    {why}"), 4));
                }
                for window in row.windows(now, cells, style) {
                    line(style.wrap(&window, 6));
                }
            }
        }
        line(String::new());
        for ring in &self.rings {
            line(style.wrap(&self.next(ring), 2));
        }
        if style.utf8 { text } else { ascii(&text) }
    }

    /// What ddollar would do with this ring.
    fn next(&self, ring: &RingView<'_>) -> String {
        let label = ring.label();
        let len = ring.rows.len();
        if let Some(index) = ring.chosen() {
            return format!("{label}: ddollar would use token {}/{len}", index + 1);
        }
        match ring.decision {
            Decision::Wait { until, index } | Decision::ExceedsMaxWait { until, index } => {
                let span = spaced(until.remaining(self.now));
                let who = index.map_or("it to answer".into(), |index| {
                    format!(
                        "token {}/{len}, until {}",
                        index + 1,
                        local(until.wall, self.now.wall)
                    )
                });
                format!("{label}: ddollar would wait {span} for {who}")
            }
            _ => format!("{label}: no token can recover; ddollar would stop"),
        }
    }

    /// One JSON object.
    pub(super) fn json(&self) -> String {
        let tokens = self.rings.iter().flat_map(|ring| {
            let rows = ring.rows.iter().enumerate();
            rows.map(|(index, row)| row.json(index, ring.rows.len()))
        });
        let next = self.rings.iter().map(|ring| {
            let provider = ring.rows.first().map_or("", |row| row.token.provider.name);
            let object = Object::new().text("provider", provider);
            let (action, token, until) = match (ring.chosen(), ring.decision) {
                (Some(index), _) => ("use", Some(index), None),
                (_, Decision::Wait { until, index }) => ("wait", index, Some(until)),
                _ => ("stop", None, None),
            };
            object
                .text("action", action)
                .maybe(token, |object, index| object.raw("token", index + 1))
                .maybe(until, until_json)
                .end()
        });
        time(Object::new().raw("status", 1), "at", millis(self.now.wall))
            .raw("tokens", list(tokens))
            .raw("next", list(next))
            .end()
    }
}

impl Row<'_> {
    /// `Anthropic token 1/3 ...7f3a, ANTHROPIC_API_KEY: usable, quota A`
    fn heading(
        &self,
        index: usize,
        len: usize,
        quota: Option<String>,
        now: SystemTime,
        style: Style,
    ) -> String {
        let (colour, words) = self.condition_words(now);
        let name = self.token.name;
        let quota = quota.map_or(String::new(), |quota| format!(", quota {quota}"));
        let label = self.token.provider.label;
        let line = format!("{label} token {}/{len} {name}: {words}{quota}", index + 1);
        let line = style.wrap(&line, 2);
        line.replacen(&words, &style.paint(colour, &words), 1)
    }

    fn condition_words(&self, now: SystemTime) -> (Colour, String) {
        let until = |until: Until| format!(" until {}", local(until.wall, now));
        match self.condition {
            Condition::Usable => (Colour::Good, "usable".into()),
            Condition::NearLimit { until: end } => {
                (Colour::Warning, format!("near its limit{}", until(end)))
            }
            Condition::Limited { until: end } => {
                (Colour::Warning, format!("limited{}", until(end)))
            }
            Condition::SpendCapped { until: end } => {
                let until = end.map_or(String::new(), until);
                (Colour::Bad, format!("spend cap reached{until}"))
            }
            Condition::Rejected => (Colour::Bad, "rejected".into()),
            Condition::Removed => (Colour::Bad, "removed".into()),
            Condition::Unknown => {
                let silence = self.silence.map_or("unknown", |silence| match silence {
                    ProbeFailure::Overloaded => "its provider is overloaded",
                    ProbeFailure::OutOfReach => "no answer",
                    ProbeFailure::Doubtful => "rejected, and not believed before it is asked again",
                });
                let why = self.why.clone();
                (Colour::Warning, why.unwrap_or_else(|| silence.into()))
            }
        }
    }

    /// A line for each window, with a bar of so many cells.
    fn windows(&self, now: SystemTime, cells: usize, style: Style) -> Vec<String> {
        let windows = &self.usage.windows;
        let names = windows
            .iter()
            .map(|window| window_words(&window.name).chars().count());
        let widest = names.max().unwrap_or(0);
        windows
            .iter()
            .map(|window| {
                let bar = match cells {
                    0 => String::new(),
                    cells => style.bar(window.utilization, cells) + " ",
                };
                let percent = (window.utilization * 1000.0 + 1e-9).floor() / 10.0;
                let amount = match (window.limit, window.remaining) {
                    (Some(limit), Some(left)) => {
                        format!("  {}/{limit}", limit.saturating_sub(left))
                    }
                    _ => String::new(),
                };
                let resets = window.resets_at.map_or(String::new(), |at| {
                    let left = at.duration_since(now).unwrap_or_default();
                    format!("  resets {} ({})", local(at, now), spaced(left))
                });
                let name = window_words(&window.name);
                format!("    {name:widest$}  {bar}{percent:5.1}%{amount}{resets}")
            })
            .collect()
    }

    fn json(&self, index: usize, len: usize) -> String {
        let status = TokenStatus {
            provider: self.token.provider,
            number: index + 1,
            of: len,
            ending: self.token.secret.ending(),
            name: self.token.name,
            group: self.group.as_deref(),
            condition: self.condition,
            why: self.why.as_deref(),
            usage: &self.usage,
        };
        status.object().end()
    }
}

/// How many cells a bar has, in so many columns of room. Without room for one the numbers must do.
fn cells(room: usize) -> usize {
    match room.saturating_sub(1) {
        room if room < SHORTEST_BAR => 0,
        room => room.min(BAR),
    }
}

fn until_json(object: Object, until: Until) -> Object {
    time(object, "until", millis(until.wall))
}
