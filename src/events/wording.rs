//! How spans, times, shares, windows, counts and ends of processes read, wherever they are told. Pure.

use crate::common::duration::spaced;
use crate::providers::usage::{Usage, Window};
use crate::system::exit_status::ExitStatus;
use crate::system::time_zone;
use jiff::Timestamp;
use jiff::civil::DateTime;
use nix::sys::signal::Signal;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// The tokens of a provider: `Anthropic: 1 …k7Qw, ANTHROPIC_API_KEY; 2 …x2Lp, tokens:3`.
pub(crate) fn token_names(label: &str, names: &[impl AsRef<str>]) -> String {
    let each = names.iter().enumerate();
    let each = each.map(|(index, name)| format!("{} {}", index + 1, name.as_ref()));
    format!("{label}: {}", each.collect::<Vec<_>>().join("; "))
}

/// A utilization in per cent, rounded down: a limit that is near never reads as "100%".
pub(crate) fn percent(used: f64) -> String {
    format!("{:.0}", (used * 100.0 + 1e-9).floor())
}

/// A window's name as people read it. What a model reads and writes are "LLM tokens".
pub(crate) fn window_words(name: &str) -> String {
    let (what, period) = match name.rsplit_once('-') {
        Some((what, period @ ("second" | "minute" | "day" | "month"))) => (what, period),
        _ => (name, ""),
    };
    let llm = if what.ends_with("tokens") { "LLM " } else { "" };
    let each = if period.is_empty() { "" } else { " a " };
    format!("{llm}{}{each}{period}", what.replace('-', " "))
}

/// A number of LLM tokens: `950`, `12.3k`, `1.2M`. Cut off and not rounded, so that a sum does not look
/// reached before it is.
pub(crate) fn short(count: u64) -> String {
    let (step, unit) = match count {
        0..1_000 => return count.to_string(),
        1_000..1_000_000 => (1_000, 'k'),
        1_000_000..1_000_000_000 => (1_000_000, 'M'),
        _ => (1_000_000_000, 'G'),
    };
    match (count / step, count % step * 10 / step) {
        (whole, 0) => format!("{whole}{unit}"),
        (whole, tenth) => format!("{whole}.{tenth}{unit}"),
    }
}

/// A span of a long wait, of which nobody counts the seconds: whole minutes from an hour on, whole
/// hours from a hundred on, rounded up.
pub(super) fn rough(span: Duration) -> String {
    let step = match span.as_secs() {
        0..3_600 => 1,
        3_600..360_000 => 60,
        _ => 3_600,
    };
    let steps = span.as_nanos().div_ceil(step * 1_000_000_000);
    let steps = u64::try_from(steps).unwrap_or(u64::MAX);
    spaced(Duration::from_secs(steps.saturating_mul(step as u64)))
}

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// A weekday alone tells which day it is.
const NEAR: Duration = Duration::from_secs(6 * 86_400);

/// A time of day here; with its weekday when it is not today's, and the date alone when it is far
/// away.
pub(crate) fn local(at: SystemTime, now: SystemTime) -> String {
    let is_near = at.duration_since(now).is_ok_and(|ahead| ahead < NEAR);
    let zone = time_zone::here();
    let here = |time: SystemTime| -> Option<DateTime> {
        Some(zone.to_datetime(Timestamp::try_from(time).ok()?))
    };
    let (Some(at), Some(now)) = (here(at), here(now)) else {
        return "a time beyond the calendar".into();
    };
    if at.date() == now.date() {
        format!("{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second())
    } else if is_near {
        {
            let day = DAYS[usize::from(at.weekday().to_monday_zero_offset().unsigned_abs()) % 7];
            format!("{day} {:02}:{:02}", at.hour(), at.minute())
        }
    } else {
        at.date().to_string()
    }
}

pub(super) fn windows(usage: &Usage) -> String {
    let mut line = String::new();
    for window in &usage.windows {
        let separator = if line.is_empty() { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(line, "{separator}{}", one_window(window));
    }
    line
}

pub(super) fn one_window(window: &Window) -> String {
    let mut name = window.name.clone();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let percent = window.utilization * 100.0;
    match (window.limit, window.remaining) {
        (Some(limit), Some(remaining)) => format!(
            "{name}: {}/{limit} ({percent:.1}%)",
            limit.saturating_sub(remaining)
        ),
        _ => format!("{name}: {percent:.1}%"),
    }
}

/// How a command ended, as a sentence.
pub(crate) fn how_it_ended(how: ExitStatus) -> String {
    match how {
        ExitStatus::Code(code) => format!("Process exited with status {code}"),
        ExitStatus::Signal(number) => format!("Process was killed by {}", name_of_signal(number)),
        ExitStatus::OutOfMemory => "Process was killed (out of memory?)".into(),
    }
}

/// `SIGTERM`, or `signal 34`.
pub(super) fn name_of_signal(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.to_string(),
        Err(_) => format!("signal {number}"),
    }
}
