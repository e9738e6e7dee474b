//! Anthropic: the probe, the limit headers, and the error bodies, as its API reference and recorded
//! answers of 2025 and 2026 have them.
//!
//! Owns: what is particular to this vendor. What a status means by itself is in
//! `reading.rs`.
//! Promises: those of `reading.rs`; no other prose is matched than the prefixes listed here.
//! Does not: read subscription logins. The `unified` headers are read because gateways pass them
//! on; the tokens that draw them (`sk-ant-oat…`) are refused elsewhere.

use std::time::SystemTime;

use crate::common::http::headers::Headers;
use http::Method;
use serde_json::json;

use super::reply::{ErrorBody, identity};
use super::{Authorization, Finding, ProbeForm, ProbeRequest, Reply};
use crate::providers::times::{Clock, reset};
use crate::providers::usage::Field;

/// How the vendor's 400 for a user-set spend limit begins, as it documents. No field tells
/// it from other 400s.
const SPEND_LIMIT_PREFIXES: [&str; 2] = [
    "You have reached your specified API usage limits",
    "You have reached your specified workspace API usage limits",
];

/// How the vendor's 400 for an empty account begins, as it documents.
const CREDIT_PREFIX: &str = "Your credit balance is too low";

/// How the vendor's 400 for a token of a closed organization begins (anthropics/claude-code#19028,
/// #72457).
const DISABLED_PREFIX: &str = "This organization has been disabled";

/// How the vendor's 400 for a token without a workspace begins. It only
/// picks the reason: any other 400 is just as unclear.
const WORKSPACE_PREFIX: &str = "This API key is not scoped to a workspace";

/// What stands before the date in a spend limit's message.
const REGAIN: &str = "You will regain access on ";

/// A minimal message. `max_tokens` 0 is legal since 2026 and bills no output; 1 always was.
pub(super) fn probe(model: &str, attempt: ProbeForm) -> ProbeRequest {
    let max_tokens = match attempt {
        ProbeForm::First => 0,
        ProbeForm::Fallback => 1,
    };
    let body = json!({
        "model": model,
        "max_tokens": max_tokens,
        "messages": [{"role": "user", "content": "."}],
    });
    ProbeRequest {
        method: Method::POST,
        path: "/v1/messages".to_owned(),
        headers: vec![
            ("anthropic-version", "2023-06-01".to_owned()),
            ("content-type", "application/json".to_owned()),
            ("accept", "application/json".to_owned()),
        ],
        body: body.to_string(),
        authorization: Authorization::XApiKey,
    }
}

/// Whether a 400 or 422 may be about `max_tokens` 0. No field says so, so any refusal of the
/// request will do that has no known other cause; the price of a wrong guess is one request.
/// Compatible servers may leave the type out.
pub(super) fn refuses_first_attempt(reply: &Reply) -> bool {
    let error = ErrorBody::of(reply);
    let may_be_the_form = matches!(error.text("/error/type"), "invalid_request_error" | "");
    may_be_the_form && particular(reply, &error, None).is_none()
}

/// Maps `anthropic-ratelimit-WINDOW-FIELD`, `anthropic-ratelimit-unified-WINDOW-FIELD` and
/// `anthropic-{priority,fast}-WINDOW-FIELD`. Generic over the window: the
/// vendor adds some.
pub(super) fn field_of(header: &str) -> Option<(&str, Field)> {
    let rest = header.strip_prefix("anthropic-")?;
    let rest = match rest.strip_prefix("ratelimit-") {
        Some(rest) => rest.strip_prefix("unified-").unwrap_or(rest),
        None if rest.starts_with("priority-") || rest.starts_with("fast-") => rest,
        None => return None,
    };
    let (window, field) = rest.rsplit_once('-')?;
    // Overage is what may be bought beyond the windows: "rejected" there only says that nothing
    // may.
    if window == "overage" {
        return None;
    }
    let field = match field {
        "limit" => Field::Limit,
        "remaining" => Field::Remaining,
        "reset" => Field::Reset,
        "utilization" => Field::Utilization,
        "status" => Field::Status,
        _ => return None,
    };
    Some((window, field))
}

/// What the error body says, where it says more than the status.
pub(super) fn finding(reply: &Reply, clock: Clock) -> Option<Finding> {
    particular(reply, &ErrorBody::of_failure(reply)?, Some(clock))
}

/// Without a clock a spend limit has no end; that is all it is for.
fn particular(reply: &Reply, error: &ErrorBody, clock: Option<Clock>) -> Option<Finding> {
    let kind = error.text("/error/type");
    let message = error.text("/error/message");
    let capped = || Finding::SpendCapped {
        until: clock.and_then(|clock| regained_at(message, clock)),
    };
    match reply.status {
        429 if error.text("/error/details/error_code") == "enforced_spend_limit_reached" => {
            Some(capped())
        }
        400 if SPEND_LIMIT_PREFIXES
            .iter()
            .any(|prefix| message.starts_with(prefix)) =>
        {
            Some(capped())
        }
        400 if message.starts_with(CREDIT_PREFIX) => Some(Finding::SpendCapped { until: None }),
        400 if message.starts_with(DISABLED_PREFIX) => Some(Finding::Rejected),
        400 if message.starts_with(WORKSPACE_PREFIX) => Some(Finding::Unclear {
            why: "its requests need ANTHROPIC_WORKSPACE_ID",
        }),
        403 if kind == "permission_error" => Some(Finding::Rejected),
        // The second is that of a LiteLLM proxy (400 or 429; BerriAI/litellm#22726, #37000).
        400..=499 if matches!(kind, "billing_error" | "budget_exceeded") => {
            Some(Finding::SpendCapped { until: None })
        }
        _ => None,
    }
}

/// When a spend limit ends, from the message of a reply already known to be one: "2026-09-01 at
/// 00:00 UTC" after [`REGAIN`]. It stands nowhere else. `None` when it is past or not there.
fn regained_at(message: &str, clock: Clock) -> Option<SystemTime> {
    let (_, rest) = message.split_once(REGAIN)?;
    let (date, rest) = rest.split_once(" at ")?;
    let (time, _) = rest.split_once(" UTC")?;
    reset(&format!("{date}T{time}Z"), clock)
}

/// Limits hold for a class of models: those of Fable 5 share one bucket, as do Opus 4.5 to 4.8 and
/// Sonnet 4.5 and 4.6 (the vendor's page on rate limits, 2026-08). Others stand for themselves. A date
/// at the end names a snapshot of the same model.
pub(super) fn model_class(model: &str) -> &str {
    let name = match model.rsplit_once('-') {
        Some((name, date)) if date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit()) => {
            name
        }
        _ => model,
    };
    match name {
        "claude-opus-4-5" | "claude-opus-4-6" | "claude-opus-4-7" | "claude-opus-4-8" => {
            "claude-opus-4-5"
        }
        "claude-sonnet-4-5" | "claude-sonnet-4-6" => "claude-sonnet-4-5",
        _ if name.starts_with("claude-fable-5-") => "claude-fable-5",
        _ => name,
    }
}

/// The organization alone. Limits are per organization; a workspace can only have lower ones of its
/// own, and two workspaces still share the organization's bucket. The price: when only a workspace's
/// lower limit is spent, its sibling is not tried.
pub(super) fn quota_group(headers: &Headers) -> Option<String> {
    identity(headers, "anthropic-organization-id").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{now, percents, reply};
    use super::super::{ProbeTarget, Provider, Reading, by_name};
    use super::*;
    use serde_json::Value;
    use std::time::Duration;

    const DATE: &str = "date: Thu, 01 Jan 2026 00:00:00 GMT\n";

    fn anthropic() -> &'static Provider {
        by_name("anthropic").unwrap()
    }

    fn read(status: u16, head: &str, body: &str) -> Reading {
        anthropic().read(ProbeTarget::Model, &reply(status, head, body), now())
    }

    /// An error body of the documented shape.
    fn error(kind: &str, message: &str) -> String {
        json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011CP5"}).to_string()
    }

    fn in_seconds(seconds: u64) -> Option<SystemTime> {
        Some(now() + Duration::from_secs(seconds))
    }

    #[test]
    fn the_probe() {
        let probe = anthropic()
            .probe(ProbeTarget::Model, "claude-opus-5-5", ProbeForm::First)
            .unwrap();
        assert_eq!(
            (probe.method.as_str(), probe.path.as_str()),
            ("POST", "/v1/messages")
        );
        assert_eq!(probe.authorization, Authorization::XApiKey);
        assert!(
            probe
                .headers
                .contains(&("anthropic-version", "2023-06-01".to_owned()))
        );
        let body: Value = serde_json::from_str(&probe.body).unwrap();
        assert_eq!(body["model"], "claude-opus-5-5");
        assert_eq!(body["max_tokens"], 0);
        assert!(body.get("stream").is_none());
        let probe = anthropic()
            .probe(ProbeTarget::Model, "claude-opus-5-5", ProbeForm::Fallback)
            .unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&probe.body).unwrap()["max_tokens"],
            1
        );
    }

    #[test]
    fn falls_back_once_and_only_for_the_form() {
        let next = |attempt, status, body: &str| {
            anthropic().next_attempt(ProbeTarget::Model, attempt, &reply(status, "", body))
        };
        let refused = error(
            "invalid_request_error",
            "max_tokens: must be greater than or equal to 1",
        );
        assert_eq!(
            next(ProbeForm::First, 400, &refused),
            Some(ProbeForm::Fallback)
        );
        assert_eq!(next(ProbeForm::Fallback, 400, &refused), None);
        // Compatible servers.
        assert_eq!(
            next(
                ProbeForm::First,
                422,
                r#"{"detail":[{"loc":["body","max_tokens"]}]}"#
            ),
            Some(ProbeForm::Fallback)
        );
        assert_eq!(
            next(ProbeForm::First, 400, "Bad Request"),
            Some(ProbeForm::Fallback)
        );
        for message in [
            "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing",
            "You have reached your specified API usage limits. You will regain access on 2026-09-01 at 00:00 UTC.",
            "You have reached your specified workspace API usage limits. You will regain access on 2026-09-01.",
            "This API key is not scoped to a workspace, so this request must include the anthropic-workspace-id header",
        ] {
            assert_eq!(
                next(
                    ProbeForm::First,
                    400,
                    &error("invalid_request_error", message)
                ),
                None,
                "{message}"
            );
        }
        assert_eq!(
            next(ProbeForm::First, 400, &error("billing_error", "")),
            None
        );
        for status in [200, 401, 403, 404, 429, 500, 529] {
            assert_eq!(next(ProbeForm::First, status, &refused), None, "{status}");
        }
    }

    #[test]
    fn windows_of_a_recorded_200() {
        // openllmetry cassette of 2024-04-07, with today's organization header.
        let recorded = "
            content-type: application/json
            date: Sun, 07 Apr 2024 07:30:05 GMT
            anthropic-organization-id: 04aa8588-6567-40cb-9042-a54b20ebaf4f
            anthropic-workspace-id: wrkspc_01JwQvzr7rXLA5AGx3HKfFUJ
            anthropic-ratelimit-requests-limit: 5
            anthropic-ratelimit-requests-remaining: 4
            anthropic-ratelimit-requests-reset: 2024-04-07T07:31:00Z
            anthropic-ratelimit-tokens-limit: 10000
            anthropic-ratelimit-tokens-remaining: 10000
            anthropic-ratelimit-tokens-reset: 2024-04-07T07:30:03Z
            request-id: req_01A7u6aDNi2C6mvDawgML8jB";
        let reading = read(200, recorded, "{}");
        assert_eq!(reading.finding, Finding::Served);
        assert_eq!(percents(&reading.usage), ["requests 20.0", "tokens 0.0"]);
        // 55 s after the response's own `Date`, whatever our clock says; 2 s before it says
        // nothing.
        assert_eq!(reading.usage.windows[0].resets_at, in_seconds(55));
        assert_eq!(reading.usage.windows[1].resets_at, None);
        assert_eq!(
            reading.quota_group.as_deref(),
            Some("04aa8588-6567-40cb-9042-a54b20ebaf4f")
        );
    }

    #[test]
    fn retry_after_on_a_200_is_ignored() {
        // openllmetry cassette of 2025-11-23: no requests headers, all buckets full, and a
        // `retry-after`.
        let recorded = "
            anthropic-ratelimit-input-tokens-limit: 2000000
            anthropic-ratelimit-input-tokens-remaining: 2000000
            anthropic-ratelimit-output-tokens-limit: 400000
            anthropic-ratelimit-output-tokens-remaining: 400000
            retry-after: 53";
        let reading = read(200, recorded, "{}");
        assert_eq!(reading.finding, Finding::Served);
        assert_eq!(
            percents(&reading.usage),
            ["input-tokens 0.0", "output-tokens 0.0"]
        );
    }

    #[test]
    fn a_limit_reads_its_windows_too() {
        let recorded = format!(
            "{DATE}anthropic-ratelimit-input-tokens-limit: 30000
            anthropic-ratelimit-input-tokens-remaining: 0
            anthropic-ratelimit-input-tokens-reset: 2026-01-01T00:08:25Z
            retry-after: 505
            x-should-retry: true"
        );
        let message = "This request would exceed your organization's rate limit of 30,000 input tokens per minute";
        let reading = read(429, &recorded, &error("rate_limit_error", message));
        assert_eq!(
            reading.finding,
            Finding::Limited {
                retry_after: Some(Duration::from_secs(505))
            }
        );
        assert_eq!(reading.usage.binding().unwrap().resets_at, in_seconds(505));
        assert_eq!(reading.usage.binding().unwrap().utilization, 1.0);
    }

    #[test]
    fn priority_fast_and_unified_windows() {
        let recorded = format!(
            "{DATE}anthropic-priority-input-tokens-limit: 10000
            anthropic-priority-input-tokens-remaining: 9618
            anthropic-priority-input-tokens-reset: 2026-01-01T00:00:59Z
            anthropic-fast-output-tokens-limit: 100
            anthropic-fast-output-tokens-remaining: 50
            anthropic-ratelimit-unified-status: allowed
            anthropic-ratelimit-unified-reset: 1767229200
            anthropic-ratelimit-unified-remaining: 0
            anthropic-ratelimit-unified-5h-utilization: 0.42
            anthropic-ratelimit-unified-5h-reset: 1767229200
            anthropic-ratelimit-unified-5h-status: allowed
            anthropic-ratelimit-unified-7d-utilization: 0.9
            anthropic-ratelimit-unified-7d-reset: 2026-01-03T00:00:00Z
            anthropic-ratelimit-unified-7d-status: rejected
            anthropic-ratelimit-unified-7d_oi-utilization: 0.1
            anthropic-ratelimit-unified-representative-claim: five_hour
            anthropic-ratelimit-unified-fallback-percentage: 0.5
            anthropic-ratelimit-unified-overage-status: rejected
            anthropic-ratelimit-unified-overage-utilization: 1
            anthropic-ratelimit-unified-overage-disabled-reason: org_level_disabled"
        );
        let usage = read(200, &recorded, "").usage;
        let expected = [
            "5h 42.0",
            "7d 100.0",
            "7d_oi 10.0",
            "fast-output-tokens 50.0",
            "priority-input-tokens 3.8",
        ];
        assert_eq!(percents(&usage), expected);
        assert_eq!(usage.windows[0].resets_at, in_seconds(3600));
        assert_eq!(usage.windows[1].resets_at, in_seconds(2 * 24 * 3600));
        assert_eq!(usage.windows[4].resets_at, in_seconds(59));
    }

    #[test]
    fn every_error_row() {
        // 2026-09-01T00:00:00Z is 243 days after the tests' `now`.
        let september = Finding::SpendCapped {
            until: in_seconds(243 * 24 * 3600),
        };
        let no_end = Finding::SpendCapped { until: None };
        let limited = Finding::Limited { retry_after: None };
        let overloaded = Finding::Overloaded { retry_after: None };
        let cap = |message: &str, code: &str| {
            let details = json!({"error_code": code});
            json!({"type": "error", "error": {"type": "rate_limit_error", "message": message, "details": details}})
                .to_string()
        };
        let tier = "You have reached your API usage limits: monthly spend. You will regain access on 2026-09-01 at \
                    00:00 UTC.";
        let own = "You have reached your specified API usage limits. You will regain access on 2026-09-01 at 00:00 UTC.";
        let workspace = "You have reached your specified workspace API usage limits. You will regain access on \
                         2026-09-01 at 00:00 UTC.";
        let credit = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to \
                      upgrade or purchase credits.";
        let invalid = "invalid_request_error";
        let table = [
            (
                429,
                error(
                    "rate_limit_error",
                    "Number of input tokens has exceeded your per-minute limit",
                ),
                &limited,
            ),
            (429, cap(tier, "enforced_spend_limit_reached"), &september),
            (429, cap("", "enforced_spend_limit_reached"), &no_end),
            (
                429,
                cap(
                    "You will regain access on 2025-01-01 at 00:00 UTC.",
                    "enforced_spend_limit_reached",
                ),
                &no_end,
            ),
            (
                429,
                cap(
                    "You will regain access on — at é UTC",
                    "enforced_spend_limit_reached",
                ),
                &no_end,
            ),
            // Prose alone is not a cause on a 429.
            (429, cap(tier, "something_else"), &limited),
            (429, error("rate_limit_error", credit), &limited),
            (429, String::new(), &limited),
            (429, "<html>".to_owned(), &limited),
            (429, "[1,2".to_owned(), &limited),
            (400, error(invalid, own), &september),
            (400, error(invalid, workspace), &september),
            (
                400,
                error(invalid, "You have reached your specified API usage limits."),
                &no_end,
            ),
            (400, error(invalid, credit), &no_end),
            (
                401,
                error("authentication_error", "invalid x-api-key"),
                &Finding::Rejected,
            ),
            (402, error("billing_error", "payment"), &no_end),
            (403, error("permission_error", "no"), &Finding::Rejected),
            (
                500,
                error("api_error", "Internal server error"),
                &overloaded,
            ),
            (504, error("timeout_error", ""), &overloaded),
            (529, error("overloaded_error", "Overloaded"), &overloaded),
        ];
        for (status, body, expected) in table {
            assert_eq!(
                read(status, DATE, &body).finding,
                *expected,
                "{status} {body}"
            );
        }
        let unclear = [
            (400, error(invalid, "model: Field required")),
            (
                400,
                error(invalid, "As I said: Your credit balance is too low"),
            ),
            (403, error("forbidden", "Request not allowed")),
            (403, "<html>blocked</html>".to_owned()),
            (404, error("not_found_error", "model: claude-2")),
            (413, error("request_too_large", "")),
        ];
        for (status, body) in unclear {
            let finding = read(status, DATE, &body).finding;
            assert!(
                matches!(finding, Finding::Unclear { .. }),
                "{status} {body} {finding:?}"
            );
        }
    }

    #[test]
    fn a_token_without_a_workspace_gets_a_reason() {
        let message = "This API key is not scoped to a workspace, so this request must include the \
                       anthropic-workspace-id header";
        let finding = read(400, "", &error("invalid_request_error", message)).finding;
        let Finding::Unclear { why } = finding else {
            panic!("{finding:?}")
        };
        assert!(why.contains("ANTHROPIC_WORKSPACE_ID"));
    }

    #[test]
    fn a_refused_request_with_limits_proves_the_token() {
        let head =
            "anthropic-ratelimit-requests-limit: 1000\nanthropic-ratelimit-requests-remaining: 10";
        assert_eq!(
            read(400, head, &error("invalid_request_error", "model")).finding,
            Finding::Served
        );
        // An unknown model stays unclear: its limits are not those of the child.
        let reading = read(404, head, &error("not_found_error", ""));
        assert!(matches!(reading.finding, Finding::Unclear { .. }));
        assert_eq!(percents(&reading.usage), ["requests 99.0"]);
    }
}
