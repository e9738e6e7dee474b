//! Windows and usage: what response headers say of limits.
//!
//! Owns: [`Window`], [`Usage`], and the reading of limits in response headers; their times are read in
//! `times`.
//! Promises: any header, however malformed, gives a window that is sane or no window at all. A
//! utilization is finite and not negative. No input makes it panic.
//! Does not: know the name of any provider's header (each dialect has its own), read a clock, or decide
//! anything.

use std::time::{Duration, SystemTime};

use crate::common::http::headers::Headers;
use crate::providers::times::{Clock, decimal, reset};

/// Counts from here on mean "no limit". Hugging Face backends send 9223372036854767616, which is
/// i64::MAX rounded; no real limit comes near 2^62.
const UNLIMITED: u64 = 1 << 62;

/// Longest window name, in bytes. The longest known, `priority-output-tokens`, has 22. Names end up
/// in messages.
const LONGEST_NAME: usize = 48;

/// Most windows kept from one response. The most seen in a real one is 8; the bound is for a
/// hostile peer.
const MOST_WINDOWS: usize = 32;

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

/// The one rule of `--threshold`: a window is near its limit when it is used strictly above it. Both are
/// fractions, 0.0 to 1.0.
pub(crate) fn is_near_limit(used: f64, threshold: f64) -> bool {
    used > threshold
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

    /// The latest reset of the windows that are [near their limit](is_near_limit): the time when none of them is in the way any more. `None` when there are none,
    /// or none says when it resets.
    pub(crate) fn resets_at_of_those_above(&self, threshold: f64) -> Option<SystemTime> {
        self.windows
            .iter()
            .filter(|window| is_near_limit(window.utilization, threshold))
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::providers::times::FARTHEST;
    use proptest::prelude::*;

    /// 2026-01-01T00:00:00Z
    pub(crate) const NEW_YEAR: u64 = 1_767_225_600;

    pub(crate) fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    pub(crate) fn clock() -> Clock {
        Clock {
            now: at(NEW_YEAR),
            date: None,
        }
    }

    pub(crate) fn headers(lines: &[(&str, &str)]) -> Headers {
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
