//! `ddollar report`: the lines of a journal in; a chart as text or SVG, or JSON out.
//!
//! `timeline` says what happened, `chart` how it is told; `text` and `svg` draw the same chart, and
//! `json` is for programs. All of it is pure: the lines, the time and the time zone are handed in.

mod chart;
mod json;
mod newest;
mod svg;
mod text;
mod timeline;

pub(crate) use timeline::{NoTimeline, Timeline};

use crate::cli::{Report, config};
use crate::common::error::Error;
use crate::common::mask::masked;
use crate::common::style::Style;
use crate::common::{Environment, private_file};
use crate::events::{console, journal, schema};
use crate::system::time_zone;
use jiff::tz::TimeZone;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

/// `ddollar report`: what happened in a run, as text, SVG or JSON.
///
/// # Errors
/// There is no such journal, or its picture cannot be written.
pub(crate) fn report(args: &Report, environment: &Environment) -> Result<ExitCode, Error> {
    let texts = config::readable(environment);
    let variable = |name: &str| config::lookup(&texts, name);
    let folder = config::state_folder(environment).map(|folder| journal::runs(&folder));
    let mut style = console::style(variable);
    style.utf8 &= !args.show.ascii;
    let zone = time_zone::here();
    let conflict = |flag: &str, problem| {
        let flag = flag.into();
        let command = "report";
        Err(Error::FlagUsage {
            flag,
            problem,
            command,
        })
    };
    if args.list && (args.show.json || args.svg.is_some() || args.run.is_some()) {
        return conflict("--list", "does not go with a RUN, --json or --svg");
    }
    if args.show.json && args.svg.is_some() {
        return conflict("--svg", "does not go with --json");
    }
    if args.list {
        return list(folder.as_deref(), zone, style);
    }
    let journal = journal::find(args.run.as_deref(), folder.as_deref())?;
    let timeline = read(journal)?;
    match &args.svg {
        _ if args.show.json => console::print(&(json(&timeline) + "\n"))?,
        Some(path) if matches!(path.to_str(), Some("-" | "/dev/stdout")) => {
            console::print(&svg(&timeline, zone))?
        }
        Some(path) => {
            let unusable = |why, hint| Error::File {
                what: "SVG file",
                path: path.clone(),
                why,
                hint,
            };
            if is_journal(path) {
                return Err(unusable(
                    "it is the journal of a run, which the picture would replace".into(),
                    "name another file: ddollar report JOURNAL --svg FILE",
                ));
            }
            let picture = svg(&timeline, zone);
            private_file::write(path, masked(&picture).as_bytes()).map_err(|error| {
                unusable(
                    error.to_string(),
                    "name a file in a folder that you can write to and that has room",
                )
            })?;
            true
        }
        None => console::print(&text(&timeline, zone, style))?,
    };
    Ok(ExitCode::SUCCESS)
}

/// Whether a file tells of a run. A pipe is not asked: what it holds can be read once.
fn is_journal(path: &Path) -> bool {
    path.is_file() && journal::find(Some(path), None).and_then(read).is_ok()
}

/// What a journal tells, until now if its run goes on.
fn read(journal: journal::Text) -> Result<Timeline, Error> {
    let now = journal.going_on.then(|| schema::millis(SystemTime::now()));
    let path = journal.path.clone();
    journal.read(|lines| {
        Timeline::read(lines, now).map_err(|why| Error::NotAJournal {
            path,
            empty: why == NoTimeline::Empty,
        })
    })
}

/// `--list`: two lines for each run.
fn list(folder: Option<&Path>, zone: TimeZone, style: Style) -> Result<ExitCode, Error> {
    let mut all = String::new();
    for (name, journal) in folder.into_iter().flat_map(journal::list) {
        if let Ok(timeline) = read(journal) {
            all.push_str(&text::entry(
                &name,
                &chart::Chart::of(&timeline, zone.clone()),
                style,
            ));
        }
    }
    if all.is_empty() {
        return Err(Error::NoJournal);
    }
    console::print(&all)?;
    Ok(ExitCode::SUCCESS)
}

/// The report as one screen of text.
pub(crate) fn text(timeline: &Timeline, zone: TimeZone, style: Style) -> String {
    text::draw(&chart::Chart::of(timeline, zone), style)
}

/// The same chart as a self-contained SVG.
pub(crate) fn svg(timeline: &Timeline, zone: TimeZone) -> String {
    svg::draw(&chart::Chart::of(timeline, zone))
}

/// The same facts as one JSON object.
pub(crate) fn json(timeline: &Timeline) -> String {
    json::json(timeline)
}

#[cfg(test)]
mod tests;
