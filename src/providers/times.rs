//! The many ways in which providers write a time.
//!
//! Owns: [`Clock`], and the reading of resets and of `retry-after`. Promises: what is read lies in the
//! future of `now`, on the local clock, or nothing is; no input makes it panic. Pure: `now` is handed in.

use crate::common::http::headers::Headers;
use jiff::fmt::rfc2822;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use std::borrow::Cow;
use std::time::{Duration, SystemTime};

/// A reset farther away than this (ten years) is taken for an error of the sender. The longest real
/// ones are a month.
pub(super) const FARTHEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Longest text taken for a time, in bytes. An HTTP-date has 29, RFC 3339 with nanoseconds and an
/// offset 35.
const LONGEST_TIME: usize = 64;

/// A plain number from here on is a Unix time in seconds, below it a distance in seconds. 1e9 is
/// 2001-09-09; as a distance it would be 31 years.
const UNIX_SECONDS: f64 = 1e9;

/// A plain number from here on is a Unix time in milliseconds; as seconds it would be the year
/// 33658.
const UNIX_MILLISECONDS: f64 = 1e12;

/// The two clocks that a time in a response can refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    /// The local wall clock when the response came in.
    pub(crate) now: SystemTime,
    /// The server's clock: the response's `Date` header.
    pub(crate) date: Option<SystemTime>,
}

impl Clock {
    /// The clocks of a response that came in at `now`. A `Date` that cannot be read counts as
    /// missing.
    pub(crate) fn from_headers(headers: &Headers, now: SystemTime) -> Clock {
        let date = headers
            .get("date")
            .and_then(http_date)
            .map(SystemTime::from);
        Clock { now, date }
    }

    /// A server's time on the local clock: as far from `now` as it was from `Date`, so that two
    /// clocks that disagree do no harm. Without a `Date` it is taken as it is. `None` when it is
    /// past or absurd.
    pub(super) fn local(self, instant: SystemTime) -> Option<SystemTime> {
        self.after(instant.duration_since(self.date.unwrap_or(self.now)).ok()?)
    }

    /// `None` when the distance is nothing or absurd.
    pub(super) fn after(self, distance: Duration) -> Option<SystemTime> {
        if distance.is_zero() || distance > FARTHEST {
            return None;
        }
        self.now.checked_add(distance)
    }
}

/// When a window resets, on the local clock; `None` when that is past (it says nothing), absurd, or
/// unreadable.
///
/// Reads every form that providers were seen to send: seconds (`23`, `11.382867097854614`), Go
/// durations (`6m0s`, `577.5ms`, `156h14m36.75s`), the same with days (`1d2h`), RFC 3339 with any offset or
/// none (UTC), HTTP-date, and Unix time in seconds or milliseconds.
pub(crate) fn reset(text: &str, clock: Clock) -> Option<SystemTime> {
    let text = text.trim();
    if text.len() > LONGEST_TIME {
        return None;
    }
    let text = at_most_nine_decimals(text);
    if let Some(number) = decimal(&text) {
        let (seconds, is_absolute) = if number >= UNIX_MILLISECONDS {
            (number / 1000.0, true)
        } else {
            (number, number >= UNIX_SECONDS)
        };
        let duration = Duration::try_from_secs_f64(seconds).ok()?;
        return if is_absolute {
            clock.local(SystemTime::UNIX_EPOCH.checked_add(duration)?)
        } else {
            clock.after(duration)
        };
    }
    // jiff's "friendly" durations contain those of Go. A negative one fails the conversion, and so
    // says nothing. What begins with a year is none.
    let is_date = text.as_bytes().get(4) == Some(&b'-');
    if !is_date && let Some(duration) = span(&text) {
        return clock.after(Duration::try_from(duration).ok()?);
    }
    let timestamp = |text: &str| text.parse::<Timestamp>().ok();
    let instant = timestamp(&text)
        .or_else(|| timestamp(&format!("{text}Z")))
        .or_else(|| http_date(&text))?;
    clock.local(SystemTime::from(instant))
}

/// How long the server asks to wait. `retry-after-ms` (Azure; read first by the vendors' SDKs) goes
/// before `retry-after` (RFC 9110 §10.2.3: seconds or HTTP-date; fractions seen). Never zero: zero and past times say nothing and give `None`. Counts on 429, 503
/// and 529 only; that is for the caller to heed.
pub(crate) fn retry_after(headers: &Headers, clock: Clock) -> Option<Duration> {
    let milliseconds = headers
        .get("retry-after-ms")
        .and_then(|text| decimal(text.trim()))
        .and_then(|number| Duration::try_from_secs_f64(number / 1000.0).ok())
        .and_then(|duration| clock.after(duration));
    let at = milliseconds.or_else(|| reset(headers.get("retry-after")?, clock))?;
    at.duration_since(clock.now).ok()
}

/// A span of time; a day of it has 24 hours.
fn span(text: &str) -> Option<SignedDuration> {
    let span: Span = text.parse().ok()?;
    span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()
}

/// The three forms that RFC 9110 §5.6.7 has a recipient accept. The preferred one is a form of RFC 2822's,
/// and the others are brought into it. A weekday that does not match the date is let pass.
fn http_date(text: &str) -> Option<Timestamp> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let text = match words[..] {
        // "Sunday, 06-Nov-94 08:49:37 GMT" (RFC 850)
        [_, date, time, zone] => format!("{} {time} {zone}", date.replace('-', " ")),
        // "Sun Nov  6 08:49:37 1994" (asctime)
        [_, month, day, time, year] => format!("{day} {month} {year} {time} GMT"),
        _ => text.trim().to_owned(),
    };
    rfc2822::DateTimeParser::new()
        .relaxed_weekday(true)
        .parse_timestamp(&text)
        .ok()
}

/// A number of digits with at most one point: finite, not negative. No sign, exponent, `inf` or
/// `nan`, which the standard parser would all take.
pub(super) fn decimal(text: &str) -> Option<f64> {
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// jiff fails on more than nine fractional digits, and Cerebras sends fifteen. Nanoseconds are
/// plenty: drop the rest.
fn at_most_nine_decimals(text: &str) -> Cow<'_, str> {
    if !text.contains('.') {
        return Cow::Borrowed(text);
    }
    let mut decimals: Option<usize> = None;
    text.chars()
        .filter(|&c| match decimals {
            Some(seen) if c.is_ascii_digit() => {
                decimals = Some(seen + 1);
                seen < 9
            }
            _ => {
                decimals = (c == '.').then_some(0);
                true
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::usage::tests::{NEW_YEAR, at, clock, headers};

    #[test]
    fn every_reset_form() {
        let table: &[(&str, Option<Duration>)] = &[
            // Seconds.
            ("23", Some(Duration::from_secs(23))),
            ("505", Some(Duration::from_secs(505))),
            (" 500 ", Some(Duration::from_secs(500))),
            ("0", None),
            ("-5", None),
            ("+5", None),
            ("1e5", None),
            ("11.5", Some(Duration::from_millis(11_500))),
            ("0.25", Some(Duration::from_millis(250))),
            // Go durations, all seen in recorded responses.
            ("0s", None),
            ("2ms", Some(Duration::from_millis(2))),
            ("120ms", Some(Duration::from_millis(120))),
            ("1s", Some(Duration::from_secs(1))),
            ("6m0s", Some(Duration::from_secs(360))),
            ("4m12.172s", Some(Duration::from_millis(252_172))),
            ("23h18m29.144s", Some(Duration::from_millis(83_909_144))),
            ("24h6m34s", Some(Duration::from_secs(86_794))),
            ("156h14m36.75s", Some(Duration::from_millis(562_476_750))),
            ("1h2m3.5s", Some(Duration::from_millis(3_723_500))),
            ("577.5ms", Some(Duration::from_micros(577_500))),
            ("290.979975ms", Some(Duration::from_nanos(290_979_975))),
            ("17.399999999s", Some(Duration::from_nanos(17_399_999_999))),
            ("18.403470473s", Some(Duration::from_nanos(18_403_470_473))),
            (
                "17.39999999999999s",
                Some(Duration::from_nanos(17_399_999_999)),
            ),
            ("-3s", None),
            // With days, which have 24 hours.
            ("1d", Some(Duration::from_secs(86_400))),
            ("1d2h3m0.5s", Some(Duration::from_millis(93_780_500))),
            ("-1d", None),
            // RFC 3339; without an offset it is UTC.
            ("2026-01-01T00:06:12", Some(Duration::from_secs(372))),
            (
                "2026-01-01 00:06:12.5",
                Some(Duration::from_millis(372_500)),
            ),
            ("2026-01-01T00:06:12Z", Some(Duration::from_secs(372))),
            ("2026-01-01T02:06:12+02:00", Some(Duration::from_secs(372))),
            (
                "2025-12-31T16:06:12.5-08:00",
                Some(Duration::from_millis(372_500)),
            ),
            (
                "2026-01-01T00:06:12.1234567891234Z",
                Some(Duration::from_nanos(372_123_456_789)),
            ),
            ("2025-12-31T23:59:59Z", None),
            ("2026-01-01T00:00:00Z", None),
            ("2126-01-01T00:00:00Z", None),
            // HTTP-date.
            (
                "Thu, 01 Jan 2026 00:06:12 GMT",
                Some(Duration::from_secs(372)),
            ),
            ("Sun, 06 Nov 1994 08:49:37 GMT", None),
            (
                "Thursday, 01-Jan-26 00:06:12 GMT",
                Some(Duration::from_secs(372)),
            ),
            ("Thu Jan  1 00:06:12 2026", Some(Duration::from_secs(372))),
            ("Sun Nov  6 08:49:37 1994", None),
            ("Thu Jan 1", None),
            ("one two three four five", None),
            // Unix time.
            ("1767225660", Some(Duration::from_secs(60))),
            ("1767225660000", Some(Duration::from_secs(60))),
            ("1767225660.5", Some(Duration::from_millis(60_500))),
            ("1767225599", None),
            // Absurd: overflow, decades, microseconds, nonsense.
            ("999999999", None),
            ("99999999999", None),
            ("1767225660000000", None),
            ("18446744073709551616", None),
            ("99999999999999h", None),
            ("9223372036854775807s", None),
            ("9999-12-31T23:59:59Z", None),
            ("", None),
            (".", None),
            ("1.2.3", None),
            ("soon", None),
            ("NaN", None),
            ("inf", None),
            ("2026-01-01", None),
            ("2mo", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|distance| clock().now + distance);
            assert_eq!(reset(text, clock()), expected, "{text}");
        }
        assert_eq!(reset(&"9".repeat(65), clock()), None);
    }

    #[test]
    fn fifteen_decimals_are_near_enough() {
        for (text, seconds) in [
            ("33011.382867097855", 33_011.382_867_097),
            ("11.382867097854614", 11.382_867_097),
        ] {
            let distance = reset(text, clock())
                .unwrap()
                .duration_since(clock().now)
                .unwrap();
            assert!(
                (distance.as_secs_f64() - seconds).abs() < 1e-8,
                "{text}: {distance:?}"
            );
        }
    }

    #[test]
    fn absolute_times_follow_the_servers_clock() {
        // Our clock is an hour ahead of the server's.
        let headers = headers(&[("date", "Wed, 31 Dec 2025 23:00:00 GMT")]);
        let clock = Clock::from_headers(&headers, at(NEW_YEAR));
        assert_eq!(clock.date, Some(at(NEW_YEAR - 3600)));
        for text in [
            "2025-12-31T23:01:00Z",
            "Wed, 31 Dec 2025 23:01:00 GMT",
            "1767222060",
            "1767222060000",
        ] {
            assert_eq!(reset(text, clock), Some(at(NEW_YEAR + 60)), "{text}");
        }
        // Distances need no clock.
        assert_eq!(reset("60", clock), Some(at(NEW_YEAR + 60)));
        // Past for the server is past, though our own clock were behind.
        let behind = Clock {
            now: at(NEW_YEAR - 7200),
            date: clock.date,
        };
        assert_eq!(reset("2025-12-31T22:59:58Z", behind), None);
    }

    #[test]
    fn unreadable_date_counts_as_missing() {
        for date in [
            "",
            "yesterday",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "Sunday, 99-Nov-94 08:49:37 GMT",
            "Sun Nov 99 08:49:37 1994",
        ] {
            assert_eq!(
                Clock::from_headers(&headers(&[("date", date)]), at(NEW_YEAR)).date,
                None,
                "{date}"
            );
        }
        // The three forms of RFC 9110 §5.6.7, by its own example.
        for date in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            let date = Clock::from_headers(&headers(&[("date", date)]), at(NEW_YEAR)).date;
            assert_eq!(date, Some(at(784_111_777)));
        }
    }

    #[test]
    fn retry_after_forms() {
        let seconds = |lines: &[(&str, &str)]| {
            retry_after(&headers(lines), clock()).map(|duration| duration.as_secs_f64())
        };
        assert_eq!(seconds(&[("retry-after", "23")]), Some(23.0));
        assert_eq!(seconds(&[("retry-after", "1.5")]), Some(1.5));
        assert_eq!(
            seconds(&[("retry-after", "Thu, 01 Jan 2026 00:01:00 GMT")]),
            Some(60.0)
        );
        assert_eq!(
            seconds(&[("retry-after", "9"), ("retry-after-ms", "1500")]),
            Some(1.5)
        );
        assert_eq!(
            seconds(&[("retry-after", "9"), ("retry-after-ms", "soon")]),
            Some(9.0)
        );
        assert_eq!(
            seconds(&[("retry-after", "9"), ("retry-after-ms", "0")]),
            Some(9.0)
        );
        for nothing in [
            "0",
            "-1",
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "never",
            "",
            "999999999",
        ] {
            assert_eq!(seconds(&[("retry-after", nothing)]), None, "{nothing}");
        }
        assert_eq!(seconds(&[]), None);
    }
}
