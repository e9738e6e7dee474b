//! `ddollar report`: the lines of a journal in; a chart as text or SVG, or JSON out.
//!
//! `timeline` says what happened, `chart` how it is told; `text` and `svg` draw the same chart, and
//! `json` is for programs. All of it is pure: the lines, the time and the time zone are handed in.

mod chart;
mod json;
mod svg;
mod text;
mod timeline;

pub(crate) use timeline::{Timeline, Unusable};

use crate::common::style::Style;
use jiff::tz::TimeZone;

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
