//! Spans of time as people write and read them.
//!
//! Owns the one notation that options and scenarios share, and its two printed forms. Pure.

use jiff::SignedDuration;
use jiff::fmt::friendly::{Designator, Spacing, SpanPrinter};
use std::time::Duration;

/// No span that anyone writes down is longer: ten years. Keeps every later sum far from overflow.
pub(crate) const LONGEST: Duration = Duration::from_secs(3653 * 86_400);

/// Reads `90s`, `2m`, `1h30m`, `1d`, `200ms`, or plain seconds; nothing negative, nothing beyond ten
/// years.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    // A day has no fixed length in a calendar, so the library leaves it out; a wait has.
    if let Some((days, rest)) = text.split_once('d')
        && let Ok(days) = days.trim_end().parse::<f64>()
    {
        let rest = rest.trim_start_matches("ay").trim_start_matches('s');
        let rest = match rest.trim() {
            "" => Duration::ZERO,
            rest => parse(rest)?,
        };
        let days = Duration::try_from_secs_f64(days * 86_400.0).ok()?;
        return days.checked_add(rest).filter(|span| *span <= LONGEST);
    }
    let span = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
        Err(_) => Duration::try_from(text.parse::<SignedDuration>().ok()?).ok()?,
    };
    (span <= LONGEST).then_some(span)
}

/// `18m 23s`: a span as people say it, in whole seconds, rounded up.
pub(crate) fn spaced(span: Duration) -> String {
    printed(span, Spacing::BetweenUnits)
}

/// `60s`, `1h30m`: a span as the options take it. Up to two minutes in seconds, as in the
/// transcript of the earlier program.
pub(crate) fn compact(span: Duration) -> String {
    if span <= Duration::from_secs(120) && span.subsec_nanos() == 0 {
        return format!("{}s", span.as_secs());
    }
    if span < Duration::from_secs(1) {
        return format!("{}ms", span.as_millis());
    }
    printed(span, Spacing::None)
}

fn printed(span: Duration, spacing: Spacing) -> String {
    let seconds = span.as_secs() + u64::from(span.subsec_nanos() > 0);
    let span = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    SpanPrinter::new()
        .designator(Designator::Compact)
        .spacing(spacing)
        .duration_to_string(&span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("90s", 90.0),
            ("2m", 120.0),
            ("1h30m", 5400.0),
            ("1h 30m", 5400.0),
            ("45", 45.0),
            ("0.5", 0.5),
            ("500ms", 0.5),
            ("1m30s", 90.0),
            ("0", 0.0),
            ("1d", 86_400.0),
            ("2 days", 172_800.0),
            ("1d12h", 129_600.0),
        ] {
            let span = Duration::from_secs_f64(seconds);
            assert_eq!(parse(text), Some(span), "{text}");
        }
        for text in [
            "",
            "abc",
            "-1",
            "-5s",
            "5 parsecs",
            "inf",
            "NaN",
            "1e99",
            "11000d",
            "s",
            "d",
            "-1d",
            "1d -5s",
            "1dog",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn spans_read_as_in_the_transcripts() {
        let seconds = Duration::from_secs;
        assert_eq!(spaced(seconds(18 * 60 + 23)), "18m 23s");
        assert_eq!(spaced(seconds(60)), "1m");
        assert_eq!(spaced(Duration::from_millis(7_200)), "8s");
        assert_eq!(spaced(seconds(2 * 3600 + 14 * 60)), "2h 14m");
        assert_eq!(spaced(Duration::ZERO), "0s");
        assert_eq!(compact(seconds(60)), "60s");
        assert_eq!(compact(seconds(3600)), "1h");
        assert_eq!(compact(Duration::from_millis(500)), "500ms");
        assert_eq!(compact(seconds(5400)), "1h30m");
    }
}
