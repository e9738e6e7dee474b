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

pub(crate) use timeline::{Night, Unusable};

use crate::common::style::Style;
use jiff::tz::TimeZone;

/// The report as one screen of text.
pub(crate) fn text(night: &Night, zone: TimeZone, style: Style) -> String {
    text::draw(&picture::Picture::of(night, zone), style)
}

/// The same picture as a self-contained SVG.
pub(crate) fn svg(night: &Night, zone: TimeZone) -> String {
    svg::draw(&picture::Picture::of(night, zone))
}

/// The facts as one JSON object.
pub(crate) fn json(night: &Night) -> String {
    facts::json(night)
}

#[cfg(test)]
mod tests;
