//! The report as JSON, for other programs. Names and formats are those of the journal's schema.

use super::timeline::{Activity, End, Entry, Span, Timeline, Track, UsageStep, Wait};
use crate::common::json::{Object, list};
use crate::events::schema::{Cause, Ending, Level, Millis, Who, spent_json, stamp, time};
use crate::providers::meter::Spent;

/// One object. `report` is the version of this schema; `seconds` holds the durations, in seconds.
pub(crate) fn json(timeline: &Timeline) -> String {
    let seconds = Object::new()
        .raw("worked", seconds(timeline.time(Activity::Working)))
        .raw("waited", seconds(timeline.time(Activity::Waiting)))
        .raw("restarting", seconds(timeline.time(Activity::Restarting)))
        .raw("saved", seconds(timeline.saved))
        .end();
    let object = Object::new()
        .raw("report", 1)
        .text("ddollar", &timeline.run.version)
        .raw("pid", timeline.run.pid)
        .text("command", &timeline.run.command)
        .fraction("threshold", timeline.run.threshold)
        .raw("rehearsal", timeline.run.rehearsal);
    let object = time(time(object, "from", timeline.from), "to", timeline.to);
    let end = match &timeline.end {
        End::Told(ending) => ending.json(Object::new()),
        End::Open => Object::new().text("outcome", "going-on"),
        End::CutOff => Object::new().text("outcome", "cut-off"),
    };
    object
        .raw("end", end.end())
        .raw("seconds", seconds)
        .maybe(timeline.first_limit, |object, at| {
            time(object, "first_limit", at)
        })
        .raw("starts", timeline.starts)
        .raw("rotations", timeline.rotations)
        .raw("checks", timeline.checks)
        .raw("unanswered", timeline.unanswered)
        .raw("tokens", list(timeline.tracks.iter().map(track)))
        .raw("command_was", list(timeline.spans.iter().map(span)))
        .raw("spent", list(timeline.spent.iter().map(spent)))
        .raw("waits", list(timeline.waits.iter().map(wait)))
        .raw(
            "story",
            list(
                timeline
                    .story
                    .iter()
                    .map(|(at, entry)| story(*at, entry, timeline)),
            ),
        )
        .raw("damaged_lines", timeline.damaged)
        .raw("unknown_events", timeline.unknown)
        .end()
}

fn seconds(span: Millis) -> f64 {
    span as f64 / 1000.0
}

fn track(track: &Track) -> String {
    track
        .who
        .json(Object::new())
        .maybe_text("name", track.name.as_deref())
        .maybe_text("group", track.group.as_deref())
        .raw("used", list(track.steps.iter().map(step)))
        .raw("windows", list(track.windows.iter().map(Level::json)))
        .end()
}

fn spent((who, model, spent): &(Who, String, Spent)) -> String {
    spent_json(who.json(Object::new()), model, spent).end()
}

fn step(step: &UsageStep) -> String {
    between(step.from, Some(step.to))
        .fraction("used", step.used)
        .end()
}

fn span(span: &Span) -> String {
    let doing = match span.doing {
        Activity::Working => "working",
        Activity::Waiting => "waiting",
        Activity::Restarting => "restarting",
    };
    between(span.from, Some(span.to)).text("doing", doing).end()
}

fn wait(wait: &Wait) -> String {
    between(wait.from, wait.to)
        .text("provider", &wait.provider)
        .maybe_raw("token", wait.token)
        .maybe_text("cause", wait.cause.map(Cause::word))
        .maybe(wait.promised, |object, at| time(object, "promised", at))
        .maybe(wait.usable, |object, at| time(object, "usable", at))
        .raw("held", wait.held)
        .end()
}

fn story(at: Millis, entry: &Entry, timeline: &Timeline) -> String {
    let object = |event| time(Object::new(), "at", at).text("event", event);
    match entry {
        Entry::Started { again, tokens } => object("launch")
            .raw("again", again)
            .raw("tokens", list(tokens.iter().map(ToString::to_string))),
        Entry::Limit(limit) => limit.json(object("limit")),
        Entry::Rotated { who, from, took } => who
            .json(object("rotate"))
            .raw("from", from)
            .maybe(*took, |object, took| object.raw("took", seconds(took))),
        Entry::Wait(number) => {
            let place = number.checked_sub(timeline.waits.given_up());
            object("wait").maybe_raw("wait", place)
        }
        Entry::Exited(how) => Ending::AsCommand(*how).json(object("exit")),
        Entry::Note(text) => object("note").text("text", text),
        Entry::End(ending) => ending.json(object("end")),
    }
    .end()
}

fn between(from: Millis, to: Option<Millis>) -> Object {
    let object = Object::new().text("from", &stamp(from));
    object.maybe(to, |object, to| time(object, "to", to))
}
