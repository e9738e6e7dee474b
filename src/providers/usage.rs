//! Windows, usage, and the many ways in which providers write a time.
//!
//! Owns: [`Window`], [`Usage`], and the parsers for limits and reset times in response headers.
//! Promises: any header, however malformed, gives a window that is sane or no window at all. A
//! utilization is finite and not negative. A reset lies in the future of `now`, on the local clock.
//! No input makes it panic.
//! Does not: know the name of any provider's header (see `provider`), read a clock, or decide
//! anything.

use std::time::{Duration, SystemTime};

use crate::common::http::headers::Headers;
use jiff::fmt::rfc2822;
use jiff::{SignedDuration, Timestamp};

/// Counts from here on mean "no limit". Hugging Face backends send 9223372036854767616, which is
/// i64::MAX rounded; no real limit comes near 2^62.
const UNLIMITED: u64 = 1 << 62;

/// A reset farther away than this (ten years) is taken for an error of the sender. The longest real
/// ones are a month.
const FARTHEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Longest text taken for a time, in bytes. An HTTP-date has 29, RFC 3339 with nanoseconds and an
/// offset 35.
const LONGEST_TIME: usize = 64;

/// Longest window name, in bytes. The longest known, `priority-output-tokens`, has 22. Names end up
/// in messages.
const LONGEST_NAME: usize = 48;

/// Most windows kept from one response. The most seen in a real one is 8; the bound is for a
/// hostile peer.
const MOST_WINDOWS: usize = 32;

/// A plain number from here on is a Unix time in seconds, below it a distance in seconds. 1e9 is
/// 2001-09-09; as a distance it would be 31 years.
const UNIX_SECONDS: f64 = 1e9;

/// A plain number from here on is a Unix time in milliseconds; as seconds it would be the year
/// 33658.
const UNIX_MILLISECONDS: f64 = 1e12;

/// Words of `anthropic-ratelimit-unified-*-status` that mean "spent" (the vendor documents none
/// of them, so every source's word counts and an unknown word says nothing).
const SPENT_STATUS: [&str; 5] = [
    "rejected",
    "rate_limited",
    "blocked",
    "queueing_hard",
    "payment_required",
];

/// The longest distance to the reset of a window of one minute; a `Date` has whole seconds.
const A_MINUTE: Duration = Duration::from_secs(62);

/// In seconds.
const DAY: u64 = 24 * 60 * 60;

/// Shown first, in this order; all others follow by name.
const FIRST_WINDOWS: [&str; 4] = ["requests", "tokens", "input-tokens", "output-tokens"];

/// One advertised limit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Window {
    /// As in the provider's header, lower-case ASCII without spaces: `requests`, `input-tokens`,
    /// `5h`.
    pub(crate) name: String,
    /// What the window holds when it is full. `None` when the provider gives a utilization only.
    pub(crate) limit: Option<u64>,
    /// What is left of `limit`; may exceed it. `None` when the provider gives a utilization only.
    pub(crate) remaining: Option<u64>,
    /// The used fraction: 0.0 is untouched, 1.0 is spent. Never NaN or negative; may exceed 1.0
    /// where a provider says so.
    pub(crate) utilization: f64,
    /// When the window is full again, on the local clock; where the provider does not say, when it
    /// is worth asking again. Always later than the `now` it was read at, else `None`.
    pub(crate) resets_at: Option<SystemTime>,
}

/// All windows seen in one response, the well-known ones first, the rest by name. Empty when it
/// named none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// No two have the same name.
    pub(crate) windows: Vec<Window>,
}

/// What one header says about a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// A count.
    Limit,
    /// A count.
    Remaining,
    /// Any form that [`reset`] reads.
    Reset,
    /// Seconds from empty to full: no reset is farther away.
    Period,
    /// The used fraction, 0.0 and up.
    Utilization,
    /// A word; see [`SPENT_STATUS`]. It can only raise a utilization, it never makes a window.
    Status,
}

/// The two clocks that a time in a response can refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    /// The local wall clock when the response came in.
    pub(crate) now: SystemTime,
    /// The server's clock: the response's `Date` header.
    pub(crate) date: Option<SystemTime>,
}

impl Window {
    /// `None` unless the parts give a utilization.
    fn read(name: &str, parts: &Parts<'_>, clock: Clock) -> Option<Window> {
        let limit = parts.limit.and_then(count);
        let remaining = parts.remaining.and_then(count);
        let given = parts.utilization.and_then(decimal);
        let mut utilization = match (given, limit, remaining) {
            (Some(given), ..) => given,
            (None, Some(limit), Some(remaining)) => used(limit, remaining)?,
            // Some name no limit (Azure, Hugging Face). Then only its end can be seen.
            (None, None, Some(0)) if parts.limit.is_none() => 1.0,
            _ => return None,
        };
        if parts
            .status
            .is_some_and(|status| SPENT_STATUS.contains(&status))
        {
            utilization = utilization.max(1.0);
        }
        let period = match (parts.period, parts.reset) {
            (Some(text), _) => reset(text, clock),
            (None, None) => period(name).and_then(|period| clock.after(period)),
            (None, Some(_)) => None,
        };
        let told = parts.reset.and_then(|text| reset(text, clock));
        let resets_at = match (told, period) {
            (Some(told), Some(period)) => Some(told.min(period)),
            (told, period) => told.or(period),
        };
        Some(Window {
            name: name.to_owned(),
            limit,
            remaining,
            utilization,
            resets_at,
        })
    }
}

impl Usage {
    /// Collects the windows of a response. `field_of` says which window and field a header
    /// (lower-case name) is, and is all that is particular to a provider. Of repeated headers the
    /// first counts.
    pub(crate) fn from_headers(
        headers: &Headers,
        clock: Clock,
        field_of: impl Fn(&str) -> Option<(&str, Field)>,
    ) -> Usage {
        // By name, in order.
        let mut found: Vec<(&str, Parts<'_>)> = Vec::new();
        for (header, value) in headers.iter() {
            let Some((name, field)) = field_of(header) else {
                continue;
            };
            if name.is_empty() || name.len() > LONGEST_NAME {
                continue;
            }
            let place = match found.binary_search_by(|(known, _)| (*known).cmp(name)) {
                Ok(place) => place,
                Err(_) if found.len() >= MOST_WINDOWS => continue,
                Err(place) => {
                    found.insert(place, (name, Parts::default()));
                    place
                }
            };
            let Some((_, parts)) = found.get_mut(place) else {
                continue;
            };
            let part = match field {
                Field::Limit => &mut parts.limit,
                Field::Remaining => &mut parts.remaining,
                Field::Reset => &mut parts.reset,
                Field::Period => &mut parts.period,
                Field::Utilization => &mut parts.utilization,
                Field::Status => &mut parts.status,
            };
            part.get_or_insert(value.trim());
        }
        // The usual ones first, the others in the order of their names.
        let usual = |name: &str| FIRST_WINDOWS.contains(&name);
        let read = |(name, parts): &(&str, Parts<'_>)| Window::read(name, parts, clock);
        let mut windows = Vec::new();
        for first in FIRST_WINDOWS {
            windows.extend(found.iter().find(|(name, _)| *name == first).and_then(read));
        }
        windows.extend(
            found
                .iter()
                .filter(|(name, _)| !usual(name))
                .filter_map(read),
        );
        Usage { windows }
    }

    /// The fullest window. Of equally full ones that which resets later, because both must reset
    /// before work goes on.
    pub(crate) fn binding(&self) -> Option<&Window> {
        self.windows.iter().max_by(|a, b| {
            a.utilization
                .total_cmp(&b.utilization)
                .then_with(|| a.resets_at.cmp(&b.resets_at))
        })
    }

    /// Utilization of the fullest window that is full again within a minute of `now`: of the limits
    /// per minute, whatever they are called.
    pub(crate) fn of_a_minute(&self, now: SystemTime) -> Option<f64> {
        let is_brief = |window: &&Window| {
            let ahead = window.resets_at.map(|at| at.duration_since(now));
            ahead.is_some_and(|ahead| ahead.is_ok_and(|ahead| ahead <= A_MINUTE))
        };
        let brief = self.windows.iter().filter(is_brief);
        brief
            .map(|window| window.utilization)
            .max_by(f64::total_cmp)
    }

    /// The least time from one check to the next: checks take no more than a hundredth of the
    /// requests of a day or a month (Groq's smallest day has 1000, a check a minute would be 1440).
    pub(crate) fn least_pause(&self) -> Duration {
        let pause = |window: &Window| {
            let period = match window.name.as_str() {
                "requests-day" => DAY,
                "requests-month" => 30 * DAY,
                _ => return None,
            };
            Some(Duration::from_secs(100 * period / window.limit?.max(100)))
        };
        let pauses = self.windows.iter().filter_map(pause);
        pauses.max().unwrap_or_default()
    }

    /// The latest reset of the windows whose utilization is strictly above `threshold` (a fraction,
    /// 0.0 to 1.0): the time when none of them is in the way any more. `None` when there are none,
    /// or none says when it resets.
    pub(crate) fn resets_at_of_those_above(&self, threshold: f64) -> Option<SystemTime> {
        self.windows
            .iter()
            .filter(|window| window.utilization > threshold)
            .filter_map(|window| window.resets_at)
            .max()
    }
}

/// The header values of one window, untouched.
#[derive(Default)]
struct Parts<'a> {
    limit: Option<&'a str>,
    remaining: Option<&'a str>,
    reset: Option<&'a str>,
    period: Option<&'a str>,
    utilization: Option<&'a str>,
    status: Option<&'a str>,
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
    fn local(self, instant: SystemTime) -> Option<SystemTime> {
        self.after(instant.duration_since(self.date.unwrap_or(self.now)).ok()?)
    }

    /// `None` when the distance is nothing or absurd.
    fn after(self, distance: Duration) -> Option<SystemTime> {
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
/// durations (`6m0s`, `577.5ms`, `156h14m36.75s`), RFC 3339 with any offset, HTTP-date (RFC 9110 §5.6.7, the
/// preferred form only: no provider sends the two obsolete ones), and Unix time in seconds or
/// milliseconds.
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
    // says nothing.
    if let Ok(duration) = text.parse::<SignedDuration>() {
        return clock.after(Duration::try_from(duration).ok()?);
    }
    let instant = text
        .parse::<Timestamp>()
        .ok()
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

/// How long a window of this name can last, where its reset is not told (Mistral, Cohere). At most
/// an hour: after that it is worth asking, wherever in its day or month the window is.
fn period(name: &str) -> Option<Duration> {
    let (_, unit) = name.rsplit_once('-')?;
    Some(Duration::from_secs(match unit {
        "second" => 10,
        "minute" => 60,
        "hour" | "day" | "month" => 60 * 60,
        _ => return None,
    }))
}

/// RFC 9110's preferred HTTP-date is a form of RFC 2822's. A weekday that does not match the date
/// is let pass.
fn http_date(text: &str) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new()
        .relaxed_weekday(true)
        .parse_timestamp(text.trim())
        .ok()
}

/// A count. Below zero (some servers book a debt) is nothing left. `None` when it is no integer, or
/// means "unlimited".
fn count(text: &str) -> Option<u64> {
    let (digits, is_negative) = match text.strip_prefix('-') {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    // Checked by hand because `parse` lets a `+` through. Too many digits for a u64 fail there:
    // unlimited as well.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    if is_negative {
        return Some(0);
    }
    (count < UNLIMITED).then_some(count)
}

/// The used fraction, 0.0 to 1.0. A limit of zero with nothing left is a limit that does not apply;
/// with something left there is room, whatever the limit says.
fn used(limit: u64, remaining: u64) -> Option<f64> {
    if remaining >= limit {
        return (remaining > 0).then_some(0.0);
    }
    Some(1.0 - remaining as f64 / limit as f64)
}

/// A number of digits with at most one point: finite, not negative. No sign, exponent, `inf` or
/// `nan`, which the standard parser would all take.
fn decimal(text: &str) -> Option<f64> {
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
fn at_most_nine_decimals(text: &str) -> String {
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
    use proptest::prelude::*;

    /// 2026-01-01T00:00:00Z
    const NEW_YEAR: u64 = 1_767_225_600;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn clock() -> Clock {
        Clock {
            now: at(NEW_YEAR),
            date: None,
        }
    }

    fn headers(lines: &[(&str, &str)]) -> Headers {
        lines
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect()
    }

    /// Header names of the form `WINDOW-FIELD`.
    fn plain(header: &str) -> Option<(&str, Field)> {
        let (name, field) = header.rsplit_once('-')?;
        let field = match field {
            "limit" => Field::Limit,
            "remaining" => Field::Remaining,
            "reset" => Field::Reset,
            "utilization" => Field::Utilization,
            "status" => Field::Status,
            _ => return None,
        };
        Some((name, field))
    }

    fn usage(lines: &[(&str, &str)]) -> Usage {
        Usage::from_headers(&headers(lines), clock(), plain)
    }

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
            // RFC 3339.
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
            ("1d", None),
            ("2026-01-01", None),
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
        for date in ["", "yesterday", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(
                Clock::from_headers(&headers(&[("date", date)]), at(NEW_YEAR)).date,
                None,
                "{date}"
            );
        }
        let date = Clock::from_headers(
            &headers(&[("date", "Sun, 06 Nov 1994 08:49:37 GMT")]),
            at(NEW_YEAR),
        )
        .date;
        assert_eq!(date, Some(at(784_111_777)));
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

    #[test]
    fn counts_and_utilization() {
        let table: &[(&str, &str, Option<f64>)] = &[
            ("1000", "48", Some(0.952)),
            ("4000", "4000", Some(0.0)),
            ("4000", "5000", Some(0.0)),
            ("4000", "0", Some(1.0)),
            ("4000", "-12", Some(1.0)),
            ("0", "0", None),
            ("0", "7", Some(0.0)),
            ("9223372036854767616", "9223372036854767616", None),
            ("9223372036854775807", "0", None),
            ("18446744073709551616", "1", None),
            ("1000", "9223372036854767616", None),
            ("", "1", None),
            ("1000", "", None),
            ("+1000", "1", None),
            ("1 000", "1", None),
            ("1e3", "1", None),
            ("-", "-", None),
        ];
        for (limit, remaining, expected) in table {
            let usage = usage(&[("requests-limit", limit), ("requests-remaining", remaining)]);
            let utilization = usage.windows.first().map(|window| window.utilization);
            match (utilization, expected) {
                (Some(got), Some(expected)) => {
                    assert!((got - expected).abs() < 1e-9, "{limit} {remaining}: {got}")
                }
                (got, expected) => assert_eq!(got, *expected, "{limit} {remaining}"),
            }
        }
    }

    #[test]
    fn half_a_window_is_none() {
        assert_eq!(usage(&[("requests-limit", "5")]), Usage::default());
        assert_eq!(usage(&[("requests-remaining", "5")]), Usage::default());
        assert_eq!(usage(&[("requests-reset", "5")]), Usage::default());
        assert_eq!(
            usage(&[("5h-status", "rejected"), ("5h-reset", "1767225660")]),
            Usage::default()
        );
    }

    #[test]
    fn a_given_utilization() {
        let of = |text: &str| {
            usage(&[("5h-utilization", text)])
                .windows
                .first()
                .map(|window| window.utilization)
        };
        assert_eq!(of("0.42"), Some(0.42));
        assert_eq!(of("1.07"), Some(1.07));
        assert_eq!(of("0"), Some(0.0));
        for bad in ["nan", "inf", "-0.1", "-0", "42%", "", "."] {
            assert_eq!(of(bad), None, "{bad}");
        }
        let spent = usage(&[("5h-utilization", "0.3"), ("5h-status", "rejected")]);
        assert_eq!(spent.windows[0].utilization, 1.0);
        let warned = usage(&[("5h-utilization", "0.9"), ("5h-status", "allowed_warning")]);
        assert_eq!(warned.windows[0].utilization, 0.9);
    }

    #[test]
    fn the_known_windows_come_first() {
        let usage = usage(&[
            ("5h-utilization", "0"),
            ("tokens-limit", "2"),
            ("tokens-remaining", "1"),
            ("requests-limit", "2"),
            ("requests-remaining", "1"),
        ]);
        let names: Vec<&str> = usage
            .windows
            .iter()
            .map(|window| window.name.as_str())
            .collect();
        assert_eq!(names, ["requests", "tokens", "5h"]);
    }

    #[test]
    fn binding_is_the_fullest_and_then_the_later() {
        let window = |name: &str, utilization, reset: Option<u64>| Window {
            name: name.to_owned(),
            limit: None,
            remaining: None,
            utilization,
            resets_at: reset.map(at),
        };
        let usage = Usage {
            windows: vec![
                window("a", 0.96, Some(10)),
                window("b", 0.97, Some(30)),
                window("c", 0.97, Some(20)),
                window("d", 0.97, None),
                window("e", 0.95, Some(99)),
            ],
        };
        assert_eq!(usage.binding().unwrap().name, "b");
        assert_eq!(usage.resets_at_of_those_above(0.95), Some(at(30)));
        assert_eq!(usage.resets_at_of_those_above(0.94), Some(at(99)));
        assert_eq!(usage.resets_at_of_those_above(0.97), None);
        assert_eq!(Usage::default().binding(), None);
    }

    #[test]
    fn a_flood_of_windows_is_bounded() {
        let names: Vec<String> = (0..1000).map(|n| format!("w{n}-utilization")).collect();
        let lines: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "0.5")).collect();
        assert_eq!(usage(&lines).windows.len(), MOST_WINDOWS);
        let long = format!("{}-utilization", "w".repeat(99));
        assert_eq!(usage(&[(&long, "0.5")]), Usage::default());
    }

    #[test]
    fn a_reset_that_is_not_told_follows_from_the_period() {
        let lasts = |lines: &[(&str, &str)]| {
            let usage = Usage::from_headers(&headers(lines), clock(), |header| {
                match header.strip_suffix("-period") {
                    Some(name) => Some((name, Field::Period)),
                    None => plain(header),
                }
            });
            let reset = usage.windows.first()?.resets_at?;
            Some(reset.duration_since(clock().now).unwrap().as_secs())
        };
        for (limit, remaining, seconds) in [
            (
                "requests-10-second-limit",
                "requests-10-second-remaining",
                Some(10),
            ),
            (
                "requests-minute-limit",
                "requests-minute-remaining",
                Some(60),
            ),
            ("tokens-hour-limit", "tokens-hour-remaining", Some(3600)),
            ("requests-day-limit", "requests-day-remaining", Some(3600)),
            ("tokens-month-limit", "tokens-month-remaining", Some(3600)),
            ("tokens-limit", "tokens-remaining", None),
        ] {
            assert_eq!(lasts(&[(limit, "9"), (remaining, "1")]), seconds, "{limit}");
        }
        // What is told counts, unless it lies beyond a period that is told as well.
        let minute = ("requests-minute-limit", "9");
        let left = ("requests-minute-remaining", "1");
        assert_eq!(
            lasts(&[minute, left, ("requests-minute-reset", "7")]),
            Some(7)
        );
        assert_eq!(
            lasts(&[minute, left, ("requests-minute-reset", "-7")]),
            None
        );
        for (reset, seconds) in [("7", 7), ("500", 60), ("?", 60)] {
            let period = ("requests-minute-period", "60");
            let lines = [minute, left, ("requests-minute-reset", reset), period];
            assert_eq!(lasts(&lines), Some(seconds), "{reset}");
        }
    }

    #[test]
    fn checks_take_a_hundredth_of_a_day_at_most() {
        let pause = |name: &'static str, remaining: &'static str, limit: &str| {
            usage(&[(name, limit), (remaining, "1")])
                .least_pause()
                .as_secs()
        };
        let day = |limit| pause("requests-day-limit", "requests-day-remaining", limit);
        assert_eq!(day("1000"), 8640);
        assert_eq!(day("14400"), 600);
        // Never less than one a day.
        assert_eq!(day("7"), 86_400);
        assert_eq!(
            pause("requests-month-limit", "requests-month-remaining", "100000"),
            2592
        );
        assert_eq!(pause("requests-limit", "requests-remaining", "1000"), 0);
        assert_eq!(pause("tokens-day-limit", "tokens-day-remaining", "1000"), 0);
    }

    #[test]
    fn nothing_left_of_an_untold_limit_is_its_end() {
        for (remaining, used) in [
            ("0", Some(1.0)),
            ("-3", Some(1.0)),
            ("1", None),
            ("9223372036854767616", None),
        ] {
            let usage = usage(&[("tokens-remaining", remaining)]);
            let found = usage.binding().map(|window| window.utilization);
            assert_eq!(found, used, "{remaining}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_a_future_reset_or_none(
            text in "\\PC{0,40}|[0-9.:TZhmsun+,-]{0,40}|[0-9]{1,20}(\\.[0-9]{0,20})?(s|ms|h|m)?",
            now in 0u64..20_000_000_000,
            date in proptest::option::of(0u64..20_000_000_000),
        ) {
            let clock = Clock { now: at(now), date: date.map(at) };
            if let Some(reset) = reset(&text, clock) {
                prop_assert!(reset > clock.now && reset <= clock.now + FARTHEST);
            }
        }

        #[test]
        fn any_parts_give_a_sane_window(
            limit in "\\PC{0,20}|-?[0-9]{0,22}", remaining in "\\PC{0,20}|-?[0-9]{0,22}",
            utilization in proptest::option::of("\\PC{0,20}|-?[0-9]{0,30}\\.?[0-9]{0,30}"),
            reset in proptest::option::of("\\PC{0,20}|[0-9]{0,14}"), status in "\\PC{0,20}|rejected",
            period in proptest::option::of("\\PC{0,20}|[0-9]{0,14}"),
            name in "w|(tokens|requests)-(10-second|minute|month)",
        ) {
            let parts = Parts {
                limit: Some(&limit),
                remaining: Some(&remaining),
                utilization: utilization.as_deref(),
                reset: reset.as_deref(),
                period: period.as_deref(),
                status: Some(&status),
            };
            if let Some(window) = Window::read(&name, &parts, clock()) {
                prop_assert!(window.utilization.is_finite() && window.utilization >= 0.0);
                prop_assert!(window.resets_at.is_none_or(|reset| reset > clock().now));
            }
        }
    }
}
