//! Gemini: the probe, and the body of an error, which is all that it tells.
//!
//! Owns: what is particular to this vendor. What a status means by itself is in
//! `reading.rs`.
//! Promises: those of `reading.rs`; only `google.rpc` details are read, no prose.
//! Does not: know which tokens share a project, and so a quota; no answer says it.

use std::time::Duration;

use http::Method;
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use serde_json::{Value, json};

use super::reply::ErrorBody;
use super::{Authorization, Finding, ProbeRequest, Reply};
use crate::providers::times::{self, Clock};

/// Quotas of a day end at midnight in California, as its rate limit page says. Spelled out, because
/// a machine may have no database of time zones.
const PACIFIC: &str = "PST8PDT,M3.2.0,M11.1.0";

/// A minimal request. `None` when the name cannot be part of a path.
pub(super) fn probe(model: &str) -> Option<ProbeRequest> {
    let model = model.strip_prefix("models/").unwrap_or(model);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if !model.bytes().all(is_plain) || model.is_empty() {
        return None;
    }
    let body = json!({
        "contents": [{"parts": [{"text": "."}]}],
        "generationConfig": {"maxOutputTokens": 1},
    });
    Some(ProbeRequest {
        method: Method::POST,
        path: format!("/v1beta/models/{model}:generateContent"),
        headers: vec![("content-type", "application/json".to_owned())],
        body: body.to_string(),
        authorization: Authorization::XGoogApiKey,
    })
}

/// What the error body says, where it says more than the status.
pub(super) fn finding(reply: &Reply, clock: Clock) -> Option<Finding> {
    let error = ErrorBody::of_failure(reply)?;
    let details = || {
        let details = error.0.pointer("/error/details").and_then(Value::as_array);
        details.into_iter().flatten()
    };
    if reply.status == 429 {
        let delay = error.wait(clock);
        let quotas = details().filter_map(|detail| detail.get("violations")?.as_array());
        let is_daily = quotas.flatten().any(|violation| {
            let id = violation.get("quotaId").and_then(Value::as_str);
            id.is_some_and(|id| id.contains("PerDay"))
        });
        // A day's quota comes with a delay of seconds as well, which does not help.
        let day = is_daily.then(|| until_midnight(clock)).flatten();
        return Some(Finding::Limited {
            retry_after: delay
                .max(day)
                .or_else(|| times::retry_after(&reply.headers, clock)),
        });
    }
    // The reasons of google.api.ErrorReason. A bad token is a 400 here.
    let reason = details().find_map(|detail| detail.get("reason")?.as_str())?;
    match reason {
        "API_KEY_INVALID"
        | "API_KEY_SERVICE_BLOCKED"
        | "CONSUMER_SUSPENDED"
        | "CONSUMER_INVALID" => Some(Finding::Rejected),
        "BILLING_DISABLED" => Some(Finding::SpendCapped { until: None }),
        _ => None,
    }
}

fn until_midnight(clock: Clock) -> Option<Duration> {
    let zone = TimeZone::posix(PACIFIC).ok()?;
    let here = Timestamp::try_from(clock.date.unwrap_or(clock.now))
        .ok()?
        .to_zoned(zone);
    let midnight = here.start_of_day().ok()?.checked_add(1.day()).ok()?;
    Duration::try_from(midnight.duration_since(&here)).ok()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{now, reply};
    use super::super::{ProbeForm, ProbeTarget, Provider, by_name};
    use super::*;

    fn gemini() -> &'static Provider {
        by_name("gemini").unwrap()
    }

    fn read(status: u16, body: &str) -> Finding {
        let head = "date: Thu, 01 Jan 2026 00:00:00 GMT";
        gemini()
            .read(ProbeTarget::Model, &reply(status, head, body), now())
            .finding
    }

    /// The body of a 429 as google-gemini/gemini-cli#8437 shows it.
    fn exhausted(quotas: &[&str], delay: &str) -> String {
        let violations: Vec<Value> = quotas
            .iter()
            .map(|id| json!({"quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
                "quotaId": id, "quotaDimensions": {"location": "global", "model": "gemini-2.5-flash"}}))
            .collect();
        json!({"error": {"code": 429, "message": "You exceeded your current quota", "status": "RESOURCE_EXHAUSTED",
            "details": [
                {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations},
                {"@type": "type.googleapis.com/google.rpc.Help", "links": [{"description": "…", "url": "…"}]},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}]}})
        .to_string()
    }

    #[test]
    fn the_probe() {
        for name in ["gemini-3-flash", "models/gemini-3-flash"] {
            let probe = gemini()
                .probe(ProbeTarget::Model, name, ProbeForm::First)
                .unwrap();
            assert_eq!(probe.path, "/v1beta/models/gemini-3-flash:generateContent");
            assert_eq!(probe.authorization, Authorization::XGoogApiKey);
        }
        for name in ["a/../b", "a?key=1", "a b", "models/", ""] {
            assert_eq!(
                gemini().probe(ProbeTarget::Model, name, ProbeForm::First),
                None,
                "{name}"
            );
        }
        let check = gemini()
            .probe(ProbeTarget::Account, "", ProbeForm::First)
            .unwrap();
        assert_eq!(
            (check.method, check.path.as_str()),
            (Method::GET, "/v1beta/models?pageSize=1")
        );
    }

    #[test]
    fn delays_of_every_form() {
        for (delay, seconds) in [
            ("42s", 42.0),
            ("18.403470473s", 18.403470473),
            ("290.979975ms", 0.290979975),
            ("156h14m36.75s", 562_476.75),
        ] {
            let body = exhausted(
                &["GenerateRequestsPerMinutePerProjectPerModel-FreeTier"],
                delay,
            );
            let Finding::Limited {
                retry_after: Some(after),
            } = read(429, &body)
            else {
                panic!("{delay}");
            };
            assert!(
                (after.as_secs_f64() - seconds).abs() < 1e-6,
                "{delay}: {after:?}"
            );
        }
    }

    #[test]
    fn a_quota_of_the_day_lasts_until_midnight_in_california() {
        // The tests' now is 16:00 there.
        let day = "GenerateRequestsPerDayPerProjectPerModel-FreeTier";
        let minute = "GenerateContentInputTokensPerModelPerMinute-FreeTier";
        let hours = |count: u64| Finding::Limited {
            retry_after: Some(Duration::from_secs(count * 3600)),
        };
        assert_eq!(read(429, &exhausted(&[minute, day], "42s")), hours(8));
        assert_eq!(read(429, &exhausted(&[day], "soon")), hours(8));
        assert_eq!(read(429, &exhausted(&[day], "20h")), hours(20));
        // In summer it comes an hour earlier.
        let summer = Clock {
            now: now(),
            date: Some(now() + Duration::from_secs(180 * 86_400)),
        };
        assert_eq!(until_midnight(summer), Some(Duration::from_secs(7 * 3600)));
    }

    #[test]
    fn every_other_error() {
        let info = |reason: &str| {
            json!({"error": {"code": 400, "message": "…", "status": "INVALID_ARGUMENT", "details": [
                {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason,
                 "domain": "googleapis.com"}]}})
            .to_string()
        };
        let limited = Finding::Limited { retry_after: None };
        for (status, body, wanted) in [
            (400, info("API_KEY_INVALID"), Finding::Rejected),
            (403, info("CONSUMER_SUSPENDED"), Finding::Rejected),
            (
                403,
                info("BILLING_DISABLED"),
                Finding::SpendCapped { until: None },
            ),
            (
                429,
                r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}"#.to_owned(),
                limited.clone(),
            ),
            (429, exhausted(&[], "-3s"), limited.clone()),
            (429, "<html>".to_owned(), limited),
            (
                503,
                String::new(),
                Finding::Overloaded { retry_after: None },
            ),
        ] {
            assert_eq!(read(status, &body), wanted, "{status} {body}");
        }
        for (status, body) in [
            (400, "{}".to_owned()),
            (403, info("SERVICE_DISABLED")),
            (400, info("API key not valid")),
            (404, String::new()),
        ] {
            assert!(
                matches!(read(status, &body), Finding::Unclear { .. }),
                "{status} {body}"
            );
        }
    }
}
