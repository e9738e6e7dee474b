//! The facts of a night as JSON, for other programs. The names are those of the journal's schema.

use super::timeline::{Chapter, Doing, End, Night, Span, Step, Track, Wait};
use crate::common::json::{Object, list};
use crate::events::fact::{Ending, Level, Millis, stamp, time};

/// One object: `report` is the version of this schema; times in seconds are under `seconds`.
pub(crate) fn json(night: &Night) -> String {
    let seconds = Object::new()
        .raw("worked", seconds(night.time(Doing::Working)))
        .raw("waited", seconds(night.time(Doing::Waiting)))
        .raw("restarting", seconds(night.time(Doing::Restarting)))
        .raw("saved", seconds(night.saved))
        .end();
    let object = Object::new()
        .raw("report", 1)
        .text("ddollar", &night.run.version)
        .raw("pid", night.run.pid)
        .text("command", &night.run.command)
        .fraction("threshold", night.run.threshold);
    let object = time(time(object, "from", night.from), "to", night.to);
    let end = match &night.end {
        End::Told(ending) => ending.json(Object::new()),
        End::Open => Object::new().text("outcome", "going-on"),
        End::CutOff => Object::new().text("outcome", "cut-off"),
    };
    object
        .raw("end", end.end())
        .raw("seconds", seconds)
        .maybe(night.first_limit, |object, at| {
            time(object, "first_limit", at)
        })
        .raw("starts", night.starts)
        .raw("rotations", night.rotations)
        .raw("checks", night.checks)
        .raw("unanswered", night.unanswered)
        .raw("tokens", list(night.tracks.iter().map(track)))
        .raw("command_was", list(night.spans.iter().map(span)))
        .raw("waits", list(night.waits.iter().map(wait)))
        .raw(
            "story",
            list(night.story.iter().map(|(at, chapter)| told(*at, chapter))),
        )
        .raw("damaged_lines", night.damaged)
        .raw("unknown_events", night.unknown)
        .end()
}

fn seconds(span: Millis) -> f64 {
    span as f64 / 1000.0
}

fn track(track: &Track) -> String {
    Object::new()
        .text("provider", &track.who.provider)
        .raw("token", track.who.token)
        .maybe(track.group.as_deref(), |object, group| {
            object.text("group", group)
        })
        .raw("used", list(track.steps.iter().map(step)))
        .raw("windows", list(track.windows.iter().map(Level::json)))
        .end()
}

fn step(step: &Step) -> String {
    between(step.from, Some(step.to))
        .fraction("used", step.used)
        .end()
}

fn span(span: &Span) -> String {
    let doing = match span.doing {
        Doing::Working => "working",
        Doing::Waiting => "waiting",
        Doing::Restarting => "restarting",
    };
    between(span.from, Some(span.to)).text("doing", doing).end()
}

fn wait(wait: &Wait) -> String {
    between(wait.from, wait.to)
        .text("provider", &wait.provider)
        .maybe(wait.token, |object, token| object.raw("token", token))
        .maybe(wait.cause, |object, cause| {
            object.text("cause", cause.word())
        })
        .maybe(wait.promised, |object, at| time(object, "promised", at))
        .maybe(wait.usable, |object, at| time(object, "usable", at))
        .raw("held", wait.held)
        .end()
}

fn told(at: Millis, chapter: &Chapter) -> String {
    let object = |event| time(Object::new(), "at", at).text("event", event);
    match chapter {
        Chapter::Started { again, tokens } => object("launch")
            .raw("again", again)
            .raw("tokens", list(tokens.iter().map(ToString::to_string))),
        Chapter::Limit {
            who,
            cause,
            used,
            until,
        } => object("limit")
            .text("provider", &who.provider)
            .raw("token", who.token)
            .text("cause", cause.word())
            .maybe(*used, |object, used| object.fraction("used", used))
            .maybe(*until, |object, at| time(object, "until", at)),
        Chapter::Rotated { who, from, took } => object("rotate")
            .text("provider", &who.provider)
            .raw("token", who.token)
            .raw("from", from)
            .maybe(*took, |object, took| object.raw("took", seconds(took))),
        Chapter::Wait(number) => object("wait").raw("wait", number),
        Chapter::Exited(how) => Ending::AsCommand(*how).json(object("exit")),
        Chapter::Note(text) => object("note").text("text", text),
        Chapter::End(ending) => ending.json(object("end")),
    }
    .end()
}

fn between(from: Millis, to: Option<Millis>) -> Object {
    let object = Object::new().text("from", &stamp(from));
    object.maybe(to, |object, to| time(object, "to", to))
}
