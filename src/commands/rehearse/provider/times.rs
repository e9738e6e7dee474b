//! Times as the scenario writes them and as the providers write them.
//! Owns: reading `1m30s`, writing Go durations, RFC 3339 and HTTP dates, the "regain access" date.
//! Promises: no panic on any text or time. Pure: the present moment is always a parameter.
//! Does not own: what a time means; that is the business of the buckets and the answers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::common::duration;

/// Reads a JSON duration: a number of seconds, or text such as `5s`, `1m30s`, `200ms`, `12`.
pub(crate) fn duration(value: &Value) -> Option<Duration> {
    match value {
        Value::Number(number) => duration::parse(&number.to_string()),
        Value::String(text) => duration::parse(text),
        _ => None,
    }
}

/// Writes a Go duration as OpenAI's `reset` headers do: `0s`, `12ms`, `6m0s`, `4m12.172s`, `24h6m34s`.
/// Rounded up to whole milliseconds, because a reset must never be promised too early.
pub(crate) fn go_duration(duration: Duration) -> String {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
    let (whole, fraction) = (millis / 1000 % 60, millis % 1000);
    let mut text = String::new();
    if hours > 0 {
        text += &format!("{hours}h");
    }
    if hours > 0 || minutes > 0 {
        text += &format!("{minutes}m");
    }
    text += &whole.to_string();
    if fraction > 0 {
        text += format!(".{fraction:03}").trim_end_matches('0');
    }
    text + "s"
}

/// The `Date` header: `Sun, 22 Nov 2026 08:49:37 GMT`.
pub(crate) fn http_date(wall: SystemTime) -> String {
    DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&timestamp(wall))
        .unwrap_or_default()
}

/// RFC 3339 in UTC with second resolution, `after` from `wall`, rounded up unless `after` is zero:
/// Anthropic names the time when a bucket is full, and a full bucket shows the present or the past.
pub(crate) fn rfc3339(wall: SystemTime, after: Duration) -> String {
    let mut at = wall.checked_add(after).unwrap_or(wall);
    if !after.is_zero() {
        let past_second = at
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.subsec_nanos());
        if past_second > 0 {
            let up = Duration::from_nanos(1_000_000_000 - u64::from(past_second));
            at = at.checked_add(up).unwrap_or(at);
        }
    }
    format!("{:.0}", timestamp(at))
}

/// The date in Anthropic's spend-limit messages, `after` from `wall`: `2026-12-01 at 00:00 UTC`.
/// Rounded up to the minute. Without `after`: the first of next month, when monthly limits end.
pub(crate) fn regain(wall: SystemTime, after: Option<Duration>) -> String {
    if let Some(after) = after {
        let at = wall.checked_add(after + Duration::from_secs(59));
        let at = TimeZone::UTC.to_datetime(timestamp(at.unwrap_or(wall)));
        return format!("{} at {:02}:{:02} UTC", at.date(), at.hour(), at.minute());
    }
    let today = TimeZone::UTC.to_datetime(timestamp(wall)).date();
    let first = match today.month() {
        12 => jiff::civil::Date::new(today.year().saturating_add(1), 1, 1),
        month => jiff::civil::Date::new(today.year(), month + 1, 1),
    };
    format!("{} at 00:00 UTC", first.unwrap_or(today))
}

fn timestamp(wall: SystemTime) -> jiff::Timestamp {
    jiff::Timestamp::try_from(wall).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_durations() {
        let ms = |value| duration(&value).map(|d| d.as_millis());
        assert_eq!(ms(json!("5s")), Some(5_000));
        assert_eq!(ms(json!("1m30s")), Some(90_000));
        assert_eq!(ms(json!("1h2m3.5s")), Some(3_723_500));
        assert_eq!(ms(json!("200ms")), Some(200));
        assert_eq!(ms(json!("12")), Some(12_000));
        assert_eq!(ms(json!(2.5)), Some(2_500));
        for bad in [
            json!(""),
            json!("s"),
            json!("5 parsecs"),
            json!("-1s"),
            json!("1.2.3s"),
        ] {
            assert_eq!(ms(bad.clone()), None, "{bad}");
        }
        for bad in [
            json!(-1),
            json!(1e300),
            json!("inf"),
            json!("NaN"),
            json!(null),
            json!([1]),
        ] {
            assert_eq!(ms(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn writes_go_durations() {
        let go = |ms| go_duration(Duration::from_millis(ms));
        assert_eq!(go(0), "0s");
        assert_eq!(go(12), "12ms");
        assert_eq!(go(1_000), "1s");
        assert_eq!(go(360_000), "6m0s");
        assert_eq!(go(252_172), "4m12.172s");
        assert_eq!(go(86_794_000), "24h6m34s");
        assert_eq!(go_duration(Duration::from_nanos(1)), "1ms");
    }

    #[test]
    fn writes_dates() {
        let wall = UNIX_EPOCH + Duration::from_millis(1_795_337_377_250);
        assert_eq!(http_date(wall), "Sun, 22 Nov 2026 08:49:37 GMT");
        assert_eq!(rfc3339(wall, Duration::ZERO), "2026-11-22T08:49:37Z");
        assert_eq!(
            rfc3339(wall, Duration::from_millis(1)),
            "2026-11-22T08:49:38Z"
        );
        assert_eq!(
            rfc3339(wall, Duration::from_millis(750)),
            "2026-11-22T08:49:38Z"
        );
        assert_eq!(regain(wall, None), "2026-12-01 at 00:00 UTC");
        let december = wall + Duration::from_secs(20 * 86_400);
        assert_eq!(regain(december, None), "2027-01-01 at 00:00 UTC");
        assert_eq!(
            regain(wall, Some(Duration::from_secs(60))),
            "2026-11-22 at 08:51 UTC"
        );
    }
}
