//! The morning after: a journal's lines in, and out a picture of the night: as text, as SVG, or its
//! facts as JSON.
//!
//! `timeline` says what happened, `picture` how it is told, `text` and `svg` draw the same picture.
//! All of it is pure: the lines, the time and the time zone are handed in.

mod facts;
mod picture;
mod svg;
mod text;
mod timeline;

pub(crate) use timeline::{Timeline, Unusable};

use crate::common::style::Style;
use jiff::tz::TimeZone;

/// The report as one screen of text.
pub(crate) fn text(timeline: &Timeline, zone: TimeZone, style: Style) -> String {
    text::draw(&picture::Picture::of(timeline, zone), style)
}

/// The same picture as a self-contained SVG.
pub(crate) fn svg(timeline: &Timeline, zone: TimeZone) -> String {
    svg::draw(&picture::Picture::of(timeline, zone))
}

/// The facts as one JSON object.
pub(crate) fn json(timeline: &Timeline) -> String {
    facts::json(timeline)
}

#[cfg(test)]
mod tests;
