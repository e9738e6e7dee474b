//! The free endpoints: what they tell about a token or its account.
//!
//! Owns: their paths, and the reading of an answer that went well. What a status says is in
//! `reading.rs`.
//! Promises: money counts as a window only if it comes back by itself. A sum that runs out cannot be waited
//! for, so it is used to its end.
//! Does not: tell rate limits; none of these endpoints knows them.

use std::time::{Duration, SystemTime};

use jiff::{Timestamp, tz::TimeZone};

use super::reply::ErrorBody;
use super::{Finding, Free, Reply};
use crate::providers::times::Clock;
use crate::providers::usage::Window;

impl Free {
    /// Under the base URL; begins with `/`.
    pub(super) fn path(self) -> &'static str {
        match self {
            Free::Models(path) => path,
            Free::OpenRouterKey => "/key",
            Free::DeepSeekBalance => "/user/balance",
        }
    }
}

/// The windows of an answer with status 2xx, and what it says beyond that.
pub(super) fn read(free: Free, reply: &Reply, clock: Clock) -> (Option<Window>, Option<Finding>) {
    let body = ErrorBody::of(reply).0;
    let number = |pointer| body.pointer(pointer).and_then(serde_json::Value::as_f64);
    match free {
        Free::Models(_) => (None, None),
        Free::DeepSeekBalance => {
            let is_available = body
                .pointer("/is_available")
                .and_then(|value| value.as_bool());
            let capped = Finding::SpendCapped { until: None };
            (None, (is_available == Some(false)).then_some(capped))
        }
        Free::OpenRouterKey => {
            // Both are null where the token has no limit of its own.
            let (Some(limit), Some(left)) =
                (number("/data/limit"), number("/data/limit_remaining"))
            else {
                return (None, None);
            };
            let every = body
                .pointer("/data/limit_reset")
                .and_then(|value| value.as_str());
            let resets_at = every.and_then(|every| next(every, clock.now));
            if left <= 0.0 {
                return (None, Some(Finding::SpendCapped { until: resets_at }));
            }
            let window = resets_at.filter(|_| limit > 0.0).map(|_| Window {
                name: "credits".to_owned(),
                limit: None,
                remaining: None,
                utilization: (1.0 - left / limit).max(0.0),
                resets_at,
            });
            (window, None)
        }
    }
}

/// When a limit of this kind is next reset: at midnight UTC, weeks begin on Monday (OpenRouter's
/// API reference, "limit_reset").
fn next(every: &str, now: SystemTime) -> Option<SystemTime> {
    let today = Timestamp::try_from(now)
        .ok()?
        .to_zoned(TimeZone::UTC)
        .date();
    let days = match every {
        "daily" => 1,
        "weekly" => 8 - i64::from(today.weekday().to_monday_one_offset()),
        "monthly" => 1 + i64::from(today.days_in_month() - today.day()),
        _ => return None,
    };
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let midnight = seconds - seconds % DAY + DAY.checked_mul(u64::try_from(days).ok()?)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(midnight))
}

/// In seconds.
const DAY: u64 = 24 * 60 * 60;

#[cfg(test)]
mod tests {
    use super::super::tests::{now, percents, reply};
    use super::super::{ProbeTarget, by_name};
    use super::*;

    const DAY_OF: fn(u64) -> Duration = |days| Duration::from_secs(days * DAY);

    fn key(limit: &str, left: &str, every: &str) -> (Vec<String>, Finding, Option<SystemTime>) {
        let body = format!(
            r#"{{"data":{{"label":"sk-or-v1-0e6...1c9","limit":{limit},"limit_remaining":{left},"limit_reset":{every},
               "usage":25.5,"usage_daily":1.5,"is_free_tier":false}}}}"#
        );
        let reading = by_name("openrouter").unwrap().read(
            ProbeTarget::Account,
            &reply(200, "", &body),
            now(),
        );
        let reset = reading
            .usage
            .windows
            .first()
            .and_then(|window| window.resets_at);
        (percents(&reading.usage), reading.finding, reset)
    }

    #[test]
    fn openrouter_tells_a_tokens_own_limit() {
        // The tests' now is a Thursday, the first of January.
        for (every, days) in [(r#""daily""#, 1), (r#""weekly""#, 4), (r#""monthly""#, 31)] {
            let reset = Some(now() + DAY_OF(days));
            let near = key("100", "4", every);
            assert_eq!(
                near,
                (vec!["credits 96.0".to_owned()], Finding::Served, reset)
            );
            for left in ["0", "-0.25"] {
                let (windows, finding, _) = key("100", left, every);
                assert!(windows.is_empty());
                assert_eq!(finding, Finding::SpendCapped { until: reset });
            }
        }
        // What does not come back is used to its end.
        assert_eq!(key("100", "4", "null"), (Vec::new(), Finding::Served, None));
        let spent = Finding::SpendCapped { until: None };
        assert_eq!(key("100", "0", "null").1, spent);
        assert_eq!(key("0", "0", "null").1, spent);
        assert_eq!(
            key("null", "null", "null"),
            (Vec::new(), Finding::Served, None)
        );
        assert_eq!(key("\"x\"", "{}", "3").1, Finding::Served);
    }

    #[test]
    fn midnight_counts_from_any_time_of_the_day() {
        let late = now() + Duration::from_secs(DAY - 1);
        assert_eq!(next("daily", late), Some(now() + DAY_OF(1)));
        // A Monday is followed by the next Monday, and February by March.
        assert_eq!(next("weekly", now() + DAY_OF(4)), Some(now() + DAY_OF(11)));
        assert_eq!(
            next("monthly", now() + DAY_OF(31 + 27)),
            Some(now() + DAY_OF(59))
        );
        assert_eq!(next("yearly", late), None);
    }

    #[test]
    fn deepseek_tells_whether_there_is_money() {
        let read = |status, body: &str| {
            let deepseek = by_name("deepseek").unwrap();
            deepseek
                .read(ProbeTarget::Account, &reply(status, "", body), now())
                .finding
        };
        let balance = |available: &str| {
            format!(
                r#"{{"is_available":{available},"balance_infos":[{{"currency":"CNY","total_balance":"110.00"}}]}}"#
            )
        };
        assert_eq!(read(200, &balance("true")), Finding::Served);
        assert_eq!(
            read(200, &balance("false")),
            Finding::SpendCapped { until: None }
        );
        assert_eq!(read(200, "{"), Finding::Served);
        assert_eq!(read(401, &balance("true")), Finding::Rejected);
    }
}
