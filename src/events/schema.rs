//! The journal's lines: one [`Record`] for each thing that happened, and its JSON.
//!
//! Owns the schema of the journal, in both directions. It promises that it can read what it writes,
//! that no line makes it panic, and that no text which it has read holds control characters: a journal
//! may come from anywhere, and its texts are shown on a terminal. Pure. `recorder` says which record an
//! event becomes, and `commands/report` what a journal means.
//!
//! The schema, version 1. Each line has `at` (RFC 3339, UTC, milliseconds) and `event`; tokens and
//! rings are counted from 1; times are as `at`, fractions 0.0 to 1.0 and above. A reader skips events
//! and fields that it does not know; a change that such a reader would misread is a new version.
//! A `provider` is a ring of tokens: with `--mixed` there is one, called `mixed`.
//!
//! A new field: below in [`Record`], its `json`, [`record`] and this table; where an event becomes a record
//! (`recorder.rs`); and for the report in `commands/report/timeline.rs`, `json.rs` and what draws it.
//!
//! | event | fields |
//! | --- | --- |
//! | `run` | `journal` (the version), `ddollar`, `pid`, `command`, `threshold`, `providers`: a list of `name`, `label`, `tokens` (how many), `names` (how the owner knows each), `rehearsal` (`true`: the tokens and limits are made up) |
//! | `launch` | `again`, `tokens`: the token in use of each provider, in the order of `run` |
//! | `usage` | `provider`, `token`, `finding` (`served limited spend-capped rejected overloaded unclear silent`, or `seen` by the proxy in the command's own traffic), `why`, `group`, `windows`: a list of `name`, `used`, `limit`, `remaining`, `resets`; `left_out`: so many answers before it, since the last line of the token, are not recorded |
//! | `spent` | LLM tokens so far, by what answers have said: `provider`, `token`, `model`, `answers`, `counted` (answers that have said what they cost), `instead` (answers to requests for another model, which no token was good for), `input`, `output`, `cache_read`, `cache_written`; each is counted once |
//! | `limit` | the token in use will not do: `provider`, `token`, `cause` (`near reached spend-cap rejected`), `used`, `until`, `window` (the one that is full), `why` (the provider's words) |
//! | `rotate` | `provider`, `from`, `token` |
//! | `wait` | `provider`, `token` (none: for the provider to answer), `until` (as promised), `held` (`true`: the command goes on, and the proxy holds its requests) |
//! | `release` | requests are held no longer: `provider`, `token` that they go out with (none: nobody waits for an answer any more) |
//! | `pause`, `resume` | the command was stopped, and goes on |
//! | `stall` | the command has done nothing for `seconds`; `restart`: it is ended for that, and goes on with its session |
//! | `stop` | the command was told to end |
//! | `exit` | the command ended: `code` or `signal`, `asked` (ddollar had told it to), `out_of_memory` (`true`: the kernel ended a process for want of memory) |
//! | `note` | `text`: anything else that was said as a warning |
//! | `lost` | `lines`: so many could not be kept, because the disk was slower than the run |
//! | `end` | `outcome` (`as-command by-signal again-later failure`), `code` or `signal`, `text` |

use crate::common::error::{OWN_FAILURE, TRY_AGAIN_LATER};
use crate::common::json::{Object, list};
use crate::common::visible::visible;
use crate::providers::meter::{LlmTokens, Spent};
use crate::providers::usage::Window;
use crate::system::exit_status::ExitStatus;
use jiff::Timestamp;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::time::SystemTime;

/// The version of the schema that is written.
pub(crate) const SCHEMA: u64 = 1;

/// A time in a record: milliseconds since 1970, UTC.
pub(crate) type Millis = i64;

/// Characters of a text that are read at most. The longest that is written have a few more than 300.
const LONGEST_TEXT: usize = 1000;

/// One line of a journal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    /// A run begins; the first line.
    Run(Run),
    /// The command is started with these tokens, one of each ring, counted from 1.
    Launch { again: bool, tokens: Vec<usize> },
    /// A provider was asked about a token.
    Usage {
        who: Who,
        finding: Verdict,
        why: Option<String>,
        group: Option<String>,
        windows: Vec<Level>,
        /// So many answers since the last line about the token said the same.
        left_out: u64,
    },
    /// What a token has cost for a model by now.
    Spent {
        who: Who,
        model: String,
        spent: Spent,
    },
    /// The token in use will not do.
    Limit(LimitHit),
    /// The command goes on with another token than `from`.
    Rotate { who: Who, from: usize },
    /// Nothing is usable before `until`. Without a token, the provider does not answer.
    Wait {
        provider: String,
        token: Option<usize>,
        until: Millis,
        /// The command goes on; a proxy holds its requests.
        held: bool,
    },
    /// A proxy holds no requests any longer: they go out with this token, or nobody waits for an answer.
    Release {
        provider: String,
        token: Option<usize>,
    },
    /// The command was paused.
    Pause,
    /// The paused command goes on.
    Resume,
    /// The command has done nothing for so long; `restart`: it is ended for that.
    Stall { seconds: u64, restart: bool },
    /// The command was told to end.
    Stop,
    /// The command ended; `asked`: it had been told to.
    Exit { how: ExitStatus, asked: bool },
    /// Anything else that was worth a warning.
    Note { text: String },
    /// Lines that could not be written, because the disk was too slow.
    Lost { lines: u64 },
    /// The run is over.
    End(Ending),
}

/// The head of a journal.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Run {
    pub(crate) schema: u64,
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) command: String,
    pub(crate) threshold: f64,
    pub(crate) providers: Vec<RecordedRing>,
    /// Whether its tokens and limits are made up.
    pub(crate) rehearsal: bool,
}

/// A ring of tokens: of one provider, or `mixed`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RecordedRing {
    pub(crate) name: String,
    pub(crate) label: String,
    pub(crate) tokens: usize,
    /// By what their owner knows them, in order; empty in the journal of an earlier ddollar.
    pub(crate) names: Vec<String>,
}

/// A token: the name of its ring, and its number there, from 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Who {
    pub(crate) provider: String,
    pub(crate) token: usize,
}

/// A limit that a token has run into.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LimitHit {
    pub(crate) who: Who,
    pub(crate) cause: Cause,
    pub(crate) used: Option<f64>,
    pub(crate) until: Option<Millis>,
    /// The window that is full.
    pub(crate) window: Option<String>,
    /// What the provider says of it.
    pub(crate) why: Option<String>,
}

/// One window of a provider's answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Level {
    pub(crate) name: String,
    pub(crate) used: f64,
    pub(crate) limit: Option<u64>,
    pub(crate) remaining: Option<u64>,
    pub(crate) resets: Option<Millis>,
}

/// What an answer said about a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Served,
    Limited,
    SpendCapped,
    Rejected,
    Overloaded,
    Unclear,
    /// No answer came.
    Silent,
    /// Nobody was asked: the proxy saw it in the command's own traffic.
    Seen,
}

/// Why a token cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Near,
    Reached,
    SpendCap,
    Rejected,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ending {
    /// As the command did.
    AsCommand(ExitStatus),
    /// A signal with this number told ddollar to end.
    BySignal(i32),
    /// Before the command has finished: run it again later (exit status 75).
    AgainLater,
    /// ddollar itself failed.
    Failure(String),
}

/// The words for the values of one enum.
type Words<T> = [(T, &'static str)];

const VERDICTS: &Words<Verdict> = &[
    (Verdict::Served, "served"),
    (Verdict::Limited, "limited"),
    (Verdict::SpendCapped, "spend-capped"),
    (Verdict::Rejected, "rejected"),
    (Verdict::Overloaded, "overloaded"),
    (Verdict::Unclear, "unclear"),
    (Verdict::Silent, "silent"),
    (Verdict::Seen, "seen"),
];

const CAUSES: &Words<Cause> = &[
    (Cause::Near, "near"),
    (Cause::Reached, "reached"),
    (Cause::SpendCap, "spend-cap"),
    (Cause::Rejected, "rejected"),
];

fn word<T: PartialEq>(words: &Words<T>, value: &T) -> &'static str {
    let found = words.iter().find(|(known, _)| known == value);
    found.map_or("", |(_, word)| word)
}

fn value<T: Copy>(words: &Words<T>, word: &str) -> Option<T> {
    let found = words.iter().find(|(_, known)| *known == word);
    found.map(|(value, _)| *value)
}

impl Verdict {
    /// Its word in the journal.
    pub(crate) fn word(self) -> &'static str {
        word(VERDICTS, &self)
    }
}

impl Cause {
    /// Its word in the journal.
    pub(crate) fn word(self) -> &'static str {
        word(CAUSES, &self)
    }
}

/// A window as the journal has it.
pub(crate) fn level(window: &Window) -> Level {
    Level {
        name: window.name.clone(),
        used: window.utilization,
        limit: window.limit,
        remaining: window.remaining,
        resets: window.resets_at.map(millis),
    }
}

/// A wall-clock time as the journal has it; a time beyond the calendar is the last one that fits.
pub(crate) fn millis(at: SystemTime) -> Millis {
    Timestamp::try_from(at).map_or(Millis::MAX, Timestamp::as_millisecond)
}

/// A time as text, RFC 3339 in UTC; a time beyond the calendar is its last moment.
pub(crate) fn stamp(at: Millis) -> String {
    let at = Timestamp::from_millisecond(at).unwrap_or(Timestamp::MAX);
    format!("{at:.3}")
}

// ---- writing ----

impl Record {
    /// Its `event` in the journal.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Record::Run(_) => "run",
            Record::Launch { .. } => "launch",
            Record::Usage { .. } => "usage",
            Record::Spent { .. } => "spent",
            Record::Limit(_) => "limit",
            Record::Rotate { .. } => "rotate",
            Record::Wait { .. } => "wait",
            Record::Release { .. } => "release",
            Record::Pause => "pause",
            Record::Resume => "resume",
            Record::Stall { .. } => "stall",
            Record::Stop => "stop",
            Record::Exit { .. } => "exit",
            Record::Note { .. } => "note",
            Record::Lost { .. } => "lost",
            Record::End(_) => "end",
        }
    }

    /// Its JSON on one line, without a newline.
    pub(crate) fn json(&self, at: Millis) -> String {
        let object = time(Object::new(), "at", at).text("event", self.name());
        let place = |object: Object, provider: &str, token: Option<usize>| {
            let object = object.text("provider", provider);
            object.maybe_raw("token", token)
        };
        match self {
            Record::Run(run) => {
                let providers = run.providers.iter().map(|ring| {
                    let object = Object::new().text("name", &ring.name);
                    let object = object.text("label", &ring.label);
                    let names = ring
                        .names
                        .iter()
                        .map(|name| Value::from(&**name).to_string());
                    let object = object.raw("tokens", ring.tokens);
                    object.raw("names", list(names)).end()
                });
                object
                    .raw("journal", run.schema)
                    .text("ddollar", &run.version)
                    .raw("pid", run.pid)
                    .text("command", &run.command)
                    .fraction("threshold", run.threshold)
                    .raw("providers", list(providers))
                    .flag("rehearsal", run.rehearsal)
            }
            Record::Launch { again, tokens } => object
                .raw("again", again)
                .raw("tokens", list(tokens.iter().map(ToString::to_string))),
            Record::Usage {
                who: token,
                finding,
                why,
                group,
                windows,
                left_out,
            } => token
                .json(object)
                .text("finding", finding.word())
                .maybe_text("why", why.as_deref())
                .maybe_text("group", group.as_deref())
                .maybe_raw("left_out", (*left_out > 0).then_some(left_out))
                .raw("windows", list(windows.iter().map(Level::json))),
            Record::Spent {
                who: token,
                model,
                spent,
            } => spent_json(token.json(object), model, spent),
            Record::Limit(limit) => limit.json(object),
            Record::Rotate { who, from } => who.json(object).raw("from", from),
            Record::Wait {
                provider,
                token,
                until,
                held,
            } => time(place(object, provider, *token), "until", *until).flag("held", *held),
            Record::Release { provider, token } => place(object, provider, *token),
            Record::Stall { seconds, restart } => {
                object.raw("seconds", seconds).raw("restart", restart)
            }
            Record::Pause | Record::Resume | Record::Stop => object,
            Record::Exit { how, asked } => how_json(object, *how).raw("asked", asked),
            Record::Note { text } => object.text("text", text),
            Record::Lost { lines } => object.raw("lines", lines),
            Record::End(ending) => ending.json(object),
        }
        .end()
    }
}

/// Adds what was spent on a model.
pub(crate) fn spent_json(object: Object, model: &str, spent: &Spent) -> Object {
    let counts = LlmTokens::NAMES.iter().zip(spent.tokens.0);
    let object = object
        .text("model", model)
        .raw("answers", spent.answers)
        .raw("counted", spent.counted)
        .raw("instead", spent.instead);
    counts.fold(object, |object, (name, count)| object.raw(name, count))
}

impl Who {
    /// Adds it to an object.
    pub(crate) fn json(&self, object: Object) -> Object {
        object
            .text("provider", &self.provider)
            .raw("token", self.token)
    }
}

impl LimitHit {
    /// Adds it to an object.
    pub(crate) fn json(&self, object: Object) -> Object {
        self.who
            .json(object)
            .text("cause", self.cause.word())
            .maybe(self.used, |object, used| object.fraction("used", used))
            .maybe(self.until, |object, until| time(object, "until", until))
            .maybe_text("window", self.window.as_deref())
            .maybe_text("why", self.why.as_deref())
    }
}

impl Level {
    /// Its JSON.
    pub(crate) fn json(&self) -> String {
        Object::new()
            .text("name", &self.name)
            .fraction("used", self.used)
            .maybe_raw("limit", self.limit)
            .maybe_raw("remaining", self.remaining)
            .maybe(self.resets, |object, at| time(object, "resets", at))
            .end()
    }
}

impl Ending {
    /// The exit status, as a shell sees it.
    pub(crate) fn status(&self) -> i32 {
        match self {
            Ending::AsCommand(how) => how.code(),
            Ending::BySignal(signal) => 128 + signal,
            Ending::AgainLater => TRY_AGAIN_LATER.into(),
            Ending::Failure(_) => OWN_FAILURE.into(),
        }
    }

    /// Adds it to an object.
    pub(crate) fn json(&self, object: Object) -> Object {
        let named = |word| object.text("outcome", word);
        match self {
            Ending::AsCommand(how) => how_json(named("as-command"), *how),
            Ending::BySignal(signal) => named("by-signal").raw("signal", signal),
            Ending::AgainLater => named("again-later"),
            Ending::Failure(text) => named("failure").text("text", text),
        }
    }
}

/// Adds a time, as text.
pub(crate) fn time(object: Object, key: &str, at: Millis) -> Object {
    object.text(key, &stamp(at))
}

fn how_json(object: Object, how: ExitStatus) -> Object {
    match how {
        ExitStatus::Code(code) => object.raw("code", code),
        ExitStatus::Signal(signal) => object.raw("signal", signal),
        ExitStatus::OutOfMemory => object
            .raw("signal", Signal::SIGKILL as i32)
            .raw("out_of_memory", true),
    }
}

// ---- reading ----

/// Why a line is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// It is no JSON object, or a field that its event needs is missing or has the wrong type.
    Damaged,
    /// Its event is not known: a later ddollar wrote it.
    Unknown,
}

/// Reads a line.
///
/// # Errors
/// What keeps it from being a record.
pub(crate) fn read(line: &str) -> Result<(Millis, Record), Unread> {
    let fields: Value = serde_json::from_str(line).map_err(|_| Unread::Damaged)?;
    let line = Fields(&fields);
    let at = line.time("at").ok_or(Unread::Damaged)?;
    let event = line.str("event").ok_or(Unread::Damaged)?;
    let record = record(event, &line).ok_or(Unread::Damaged)?;
    record.map(|record| (at, record)).ok_or(Unread::Unknown)
}

/// A record of this event: nothing if a field is missing or wrong, and `Some(None)` if the event is not
/// known.
fn record(event: &str, line: &Fields<'_>) -> Option<Option<Record>> {
    Some(Some(match event {
        "run" => Record::Run(Run {
            schema: line.number("journal")?,
            version: line.text("ddollar")?,
            pid: u32::try_from(line.number("pid")?).ok()?,
            command: line.text("command")?,
            threshold: line.fraction("threshold")?,
            providers: line
                .items("providers")
                .map(|ring| {
                    Some(RecordedRing {
                        name: ring.text("name")?,
                        label: ring.text("label")?,
                        tokens: ring.count("tokens")?,
                        names: ring.texts("names"),
                    })
                })
                .collect::<Option<_>>()?,
            rehearsal: line.is("rehearsal"),
        }),
        "launch" => Record::Launch {
            again: line.0.get("again")?.as_bool()?,
            tokens: line
                .items("tokens")
                .map(|token| usize::try_from(token.0.as_u64()?).ok())
                .collect::<Option<_>>()?,
        },
        "usage" => Record::Usage {
            who: line.who()?,
            finding: value(VERDICTS, line.str("finding")?)?,
            why: line.text("why"),
            group: line.text("group"),
            windows: line
                .items("windows")
                .map(|window| {
                    Some(Level {
                        name: window.text("name")?,
                        used: window.fraction("used")?,
                        limit: window.number("limit"),
                        remaining: window.number("remaining"),
                        resets: window.time("resets"),
                    })
                })
                .collect::<Option<_>>()?,
            left_out: line.number("left_out").unwrap_or(0),
        },
        "spent" => Record::Spent {
            who: line.who()?,
            model: line.text("model")?,
            spent: Spent {
                answers: line.number("answers")?,
                counted: line.number("counted")?,
                instead: line.number("instead")?,
                tokens: LlmTokens(LlmTokens::NAMES.map(|name| line.number(name).unwrap_or(0))),
            },
        },
        "limit" => Record::Limit(LimitHit {
            who: line.who()?,
            cause: value(CAUSES, line.str("cause")?)?,
            used: line.fraction("used"),
            until: line.time("until"),
            window: line.text("window"),
            why: line.text("why"),
        }),
        "rotate" => Record::Rotate {
            who: line.who()?,
            from: line.count("from")?,
        },
        "wait" => Record::Wait {
            provider: line.text("provider")?,
            token: line.count("token"),
            until: line.time("until")?,
            held: line.is("held"),
        },
        "release" => Record::Release {
            provider: line.text("provider")?,
            token: line.count("token"),
        },
        "pause" => Record::Pause,
        "resume" => Record::Resume,
        "stall" => Record::Stall {
            seconds: line.number("seconds")?,
            restart: line.0.get("restart")?.as_bool()?,
        },
        "stop" => Record::Stop,
        "exit" => Record::Exit {
            how: line.how()?,
            asked: line.0.get("asked")?.as_bool()?,
        },
        "note" => Record::Note {
            text: line.text("text")?,
        },
        "lost" => Record::Lost {
            lines: line.number("lines")?,
        },
        "end" => Record::End(match line.str("outcome")? {
            "as-command" => Ending::AsCommand(line.how()?),
            "by-signal" => Ending::BySignal(line.signal()?),
            "again-later" => Ending::AgainLater,
            "failure" => Ending::Failure(line.text("text")?),
            _ => return None,
        }),
        _ => return Some(None),
    }))
}

/// A text of a journal as it can be shown.
fn safe(text: &str) -> String {
    let text: String = text.chars().take(LONGEST_TEXT).collect();
    visible(&text).into_owned()
}

/// Reads the fields of one object.
struct Fields<'v>(&'v Value);

impl<'v> Fields<'v> {
    fn str(&self, key: &str) -> Option<&'v str> {
        self.0.get(key)?.as_str()
    }

    fn text(&self, key: &str) -> Option<String> {
        self.str(key).map(safe)
    }

    fn texts(&self, key: &str) -> Vec<String> {
        let texts = self.items(key);
        texts.filter_map(|item| item.0.as_str().map(safe)).collect()
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.0.get(key)?.as_u64()
    }

    /// A number of tokens: no ring has more than a few hundred.
    fn count(&self, key: &str) -> Option<usize> {
        usize::try_from(self.number(key)?)
            .ok()
            .filter(|count| *count <= 10_000)
    }

    fn fraction(&self, key: &str) -> Option<f64> {
        self.0
            .get(key)?
            .as_f64()
            .filter(|used| (0.0..1e9).contains(used))
    }

    fn time(&self, key: &str) -> Option<Millis> {
        let at: Timestamp = self.str(key)?.parse().ok()?;
        Some(at.as_millisecond())
    }

    fn who(&self) -> Option<Who> {
        Some(Who {
            provider: self.text("provider")?,
            token: self.count("token")?,
        })
    }

    /// Whether it has this field, and it is true.
    fn is(&self, key: &str) -> bool {
        self.0.get(key).and_then(Value::as_bool) == Some(true)
    }

    fn signal(&self) -> Option<i32> {
        i32::try_from(self.number("signal")?).ok()
    }

    fn how(&self) -> Option<ExitStatus> {
        match self.number("code") {
            Some(code) => u8::try_from(code).ok().map(ExitStatus::Code),
            None if self.is("out_of_memory") => Some(ExitStatus::OutOfMemory),
            None => self.signal().map(ExitStatus::Signal),
        }
    }

    fn items(&self, key: &str) -> impl Iterator<Item = Fields<'v>> + use<'v> {
        let list = self.0.get(key).and_then(Value::as_array);
        list.into_iter().flatten().map(Fields)
    }
}

#[cfg(test)]
pub(crate) mod tests;
