//! OpenAI and those that speak like it: the probe, the limit headers, and the error bodies.
//!
//! Owns: chat completions, and as data what differs among those that serve them. What a status
//! means by itself is in `reading.rs`.
//! Promises: those of `reading.rs`; no other prose is matched than the sentences listed here.
//! Does not: read `x-ratelimit-over-limit` (Fireworks): it comes with requests that are served.

use crate::common::http::headers::Headers;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

use super::reply::{ErrorBody, identity};
use super::{Authorization, Finding, ProbeForm, ProbeRequest, Reply};
use crate::providers::times::{self, Clock};
use crate::providers::usage::Field;

/// What differs among those that serve chat completions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chat {
    /// Under the base URL; begins with `/`.
    pub(super) path: &'static str,
    /// How the token is attached.
    pub(super) authorization: Authorization,
    /// The parameter that bounds the answer, and its value: at first, and where that is refused.
    pub(super) bounds: [(&'static str, u32); 2],
    /// Windows whose header does not say what they are, or not in our words: that name and ours.
    /// The empty name is that of `x-ratelimit-limit`.
    pub(super) windows: &'static [(&'static str, &'static str)],
}

/// 16 is the least that newer models take. It counts against the limit in full, so no more.
/// Reasoning models only take `max_completion_tokens`; older compatible servers only take
/// `max_tokens`.
pub(super) const OPENAI: Chat = Chat {
    path: "/chat/completions",
    authorization: Authorization::Bearer,
    bounds: [("max_completion_tokens", 16), ("max_tokens", 16)],
    windows: &[("", "requests")],
};

/// The others took over the older parameter, and have no least value.
pub(super) const COMPATIBLE: Chat = Chat {
    bounds: [("max_tokens", 1), ("max_completion_tokens", 16)],
    ..OPENAI
};

/// `error.code` or `error.type` of a token that cannot pay. OpenAI documents them, but for
/// `billing_not_active`, which is an account that was closed for an unpaid bill (429;
/// BerriAI/litellm#2743), `billing_hard_limit_reached`, its own monthly limit (400;
/// dfinke/PowerShellAI#127), `blocked_api_access`, a spend limit at Groq (400; its documentation of
/// spend limits), `budget_exceeded`, that of a LiteLLM proxy (400 or 429; BerriAI/litellm#22726,
/// #37000), and what says the same at Alibaba (400), Moonshot (403, 429; MoonshotAI/Kimi-K2#5) and Z.AI (429), as
/// their references have it.
const NO_MONEY: [&str; 12] = [
    "Arrearage",
    "exceeded_current_quota_error",
    "1113",
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "billing_not_active",
    "billing_hard_limit_reached",
    "blocked_api_access",
    "budget_exceeded",
];

/// How the message of a token that cannot pay begins, and what it goes on with, where no field tells it
/// from other refusals with its status (403, 412 or 429). xAI has one code for this and for all that is
/// forbidden or too much (continuedev/continue#10373, warpdotdev/warp#14863,
/// griptape-ai/griptape-nodes-engine#1079, luxus/pi-xai#10), Fireworks one for a suspended account and for
/// an adapter that does not load (its page of error codes; pollinations/pollinations#12136), and
/// OpenRouter the bare status (RooCodeInc/Roo-Code#515, MCPJam/inspector#1287).
const NO_MONEY_SENTENCES: [(&str, &str); 5] = [
    (
        "Your team ",
        " has either used all available credits or reached its monthly spending limit",
    ),
    ("Your newly created team", " have any credits"),
    ("You have run out of credits", ""),
    ("Account ", " is suspended"),
    ("Key limit exceeded", ""),
];

/// `error.code` or `error.type` of a refusal that is about the token and not about what was asked for:
/// the ones that OpenAI's reference of errors names for its authentication (401), those of a closed
/// account (401, 403; binary-husky/gpt_academic#985), and that of an organization that Groq has shut out
/// (400; songquanpeng/one-api#1764).
const NOT_ACCEPTED: [&str; 6] = [
    "invalid_api_key",
    "account_deactivated",
    "access_terminated",
    "invalid_organization",
    "organization_restricted",
    "ip_not_authorized",
];

/// How xAI's 400 for an unknown token begins. Its code is that of every 400
/// (i-am-bee/beeai-framework#447).
const UNKNOWN_TOKEN: &str = "Incorrect API key provided";

/// How the message of xAI's 403 begins for what a request says. It costs a fee each time, and its code is that of
/// every 403 (Wei-Shaw/sub2api#4785).
const UNFIT: &str = "Content violates usage guidelines";

/// `code` or `type` of a 429 for the provider's own load, which every token meets: Cerebras' queue, and Mistral's
/// machines, both in fields at the top; and Moonshot's engine (MoonshotAI/kimi-code#1252).
const FULL: [&str; 3] = [
    "queue_exceeded",
    "service_tier_capacity_exceeded",
    "engine_overloaded_error",
];

/// How the message of Alibaba's 429 begins for its limit of tokens a minute, with the code of an empty account. It
/// is over within a minute (its page of rate limits).
const OF_A_MINUTE: &str = "Allocated quota exceeded";

const MINUTE: Duration = Duration::from_secs(60);

/// Fields of a request that name what its token must belong to: the organization and the project.
const OWNERS: [&str; 2] = ["openai-organization", "openai-project"];

/// The fields of a request for whose values this reply refuses its token: the client has them from its
/// settings, for one token of several. Nothing where it does not.
pub(super) fn mismatched(reply: &Reply) -> &'static [&'static str] {
    let body = ErrorBody::of(reply);
    let code = body.text("/error/code");
    let is_theirs = code.starts_with("mismatched_") || code == "invalid_organization";
    match reply.status {
        401 if is_theirs => &OWNERS,
        _ => &[],
    }
}

/// A minimal completion, not streamed: streams often come without limits.
pub(super) fn probe(chat: &Chat, model: &str, attempt: ProbeForm) -> ProbeRequest {
    let mut body = json!({
        "model": model,
        "messages": [{"role": "user", "content": "."}],
    });
    let [first, fallback] = chat.bounds;
    let (name, value) = match attempt {
        ProbeForm::First => first,
        ProbeForm::Fallback => fallback,
    };
    if let Some(fields) = body.as_object_mut() {
        fields.insert(name.to_owned(), value.into());
    }
    ProbeRequest {
        method: Method::POST,
        path: chat.path.to_owned(),
        headers: vec![
            ("content-type", "application/json".to_owned()),
            ("accept", "application/json".to_owned()),
        ],
        body: body.to_string(),
        authorization: chat.authorization,
    }
}

/// Whether a 400 or 422 is about the parameter that bounds the answer. A server that does not know
/// it may say so in prose only ("Unrecognized request argument", `param` and `code` null); then any
/// such refusal will do, unless it came with limits, because those are all a probe is for.
pub(super) fn refuses_first_attempt(chat: &Chat, reply: &Reply) -> bool {
    let error = ErrorBody::of(reply);
    let code = error.text("/error/code");
    let param = error.text("/error/param");
    let names_ours = param.is_empty() || param == chat.bounds[0].0;
    if matches!(code, "unsupported_parameter" | "unknown_parameter") {
        return names_ours;
    }
    let has_limits = || {
        reply
            .headers
            .iter()
            .any(|(name, _)| field_of(chat, name).is_some())
    };
    let may_be_the_form = matches!(error.text("/error/type"), "invalid_request_error" | "");
    code.is_empty() && names_ours && may_be_the_form && !has_limits()
}

/// Maps `x-ratelimit-FIELD-WINDOW` (most), `ratelimit-FIELD` (some that Hugging Face routes to),
/// `x-tokenlimit-FIELD` (Together) and `x-WINDOW-FIELD` (Cohere). Generic over the window:
/// `requests`, `tokens`, `project-tokens`, `requests-day`, `input-images` …
pub(super) fn field_of<'a>(chat: &Chat, header: &'a str) -> Option<(&'a str, Field)> {
    let field_of = |field| {
        Some(match field {
            "limit" => Field::Limit,
            "remaining" => Field::Remaining,
            "reset" => Field::Reset,
            // Azure: the seconds after which a window is full again.
            "renewalperiod" => Field::Period,
            _ => return None,
        })
    };
    let rest = header.strip_prefix("x-").unwrap_or(header);
    let (window, field) = if let Some(rest) = rest.strip_prefix("ratelimit-") {
        let (field, window) = rest.split_once('-').unwrap_or((rest, ""));
        (window, field_of(field)?)
    } else if let Some(field) = rest.strip_prefix("tokenlimit-") {
        ("tokens-second", field_of(field)?)
    } else {
        let (window, field) = rest.rsplit_once('-')?;
        let known = chat.windows.iter().any(|(theirs, _)| *theirs == window);
        (window, field_of(field).filter(|_| known)?)
    };
    let named = chat.windows.iter().find(|(theirs, _)| *theirs == window);
    Some((named.map_or(window, |(_, ours)| ours), field))
}

/// What the error body says, where it says more than the status. Any other 403 is left unclear on
/// purpose: it is a country, a firewall, or a scope or model that the probe needs and the child may not,
/// and condemns no token.
pub(super) fn finding(reply: &Reply, clock: Clock) -> Option<Finding> {
    let error = ErrorBody::of_failure(reply)?;
    let names = |known: &[&str]| {
        ["/error/code", "/error/type", "/code", "/type"]
            .iter()
            .any(|place| known.contains(&error.text(place)))
    };
    let message = error.message();
    let mut sentences = NO_MONEY_SENTENCES.iter();
    if reply.status == 429 && message.starts_with(OF_A_MINUTE) {
        let retry_after = times::retry_after(&reply.headers, clock).or(Some(MINUTE));
        return Some(Finding::Limited { retry_after });
    }
    let cannot_pay = match reply.status {
        400..=403 | 429 if names(&NO_MONEY) => true,
        403 | 412 | 429 => {
            sentences.any(|(first, more)| message.starts_with(first) && message.contains(more))
        }
        _ => false,
    };
    if cannot_pay {
        return Some(Finding::SpendCapped { until: None });
    }
    let is_unknown = reply.status == 400 && message.starts_with(UNKNOWN_TOKEN);
    if is_unknown || matches!(reply.status, 400..=403) && names(&NOT_ACCEPTED) {
        return Some(Finding::Rejected);
    }
    // OpenRouter names the reasons of its moderation.
    let is_unfit =
        message.starts_with(UNFIT) || error.0.pointer("/error/metadata/reasons").is_some();
    if reply.status == 403 && is_unfit {
        return Some(Finding::Served);
    }
    if reply.status != 429 {
        return None;
    }
    // OpenRouter: the limit of a model's own provider, which every token meets.
    let retry_after = times::retry_after(&reply.headers, clock).or_else(|| error.wait(clock));
    if names(&FULL) || !error.text("/error/metadata/provider_name").is_empty() {
        return Some(Finding::Overloaded { retry_after });
    }
    // And its own, whose reset may stand in the body only.
    let reset = || match error
        .0
        .pointer("/error/metadata/headers/X-RateLimit-Reset")?
    {
        Value::String(text) => times::reset(text, clock),
        number => times::reset(&number.to_string(), clock),
    };
    let span = || reset()?.duration_since(clock.now).ok();
    let retry_after = retry_after.or_else(span);
    retry_after
        .is_some()
        .then_some(Finding::Limited { retry_after })
}

/// Limits are per organization and project. The project is left out where
/// the reply names none.
pub(super) fn quota_group(headers: &Headers) -> Option<String> {
    let organization = identity(headers, "openai-organization")?;
    let project = identity(headers, "openai-project").unwrap_or_default();
    Some(format!("{organization}/{project}"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{now, percents, reply};
    use super::super::{ProbeTarget, Provider, Reading, by_name};
    use super::*;
    use serde_json::Value;

    fn openai() -> &'static Provider {
        by_name("openai").unwrap()
    }

    fn read(status: u16, head: &str, body: &str) -> Reading {
        openai().read(ProbeTarget::Model, &reply(status, head, body), now())
    }

    fn error(kind: Value, param: Value, code: Value) -> String {
        json!({"error": {"message": "…", "type": kind, "param": param, "code": code}}).to_string()
    }

    #[test]
    fn the_probe() {
        let probe = openai()
            .probe(ProbeTarget::Model, "gpt-6.1-sol", ProbeForm::First)
            .unwrap();
        assert_eq!(
            (probe.method.as_str(), probe.path.as_str()),
            ("POST", "/chat/completions")
        );
        assert_eq!(probe.authorization, Authorization::Bearer);
        let body: Value = serde_json::from_str(&probe.body).unwrap();
        assert_eq!(body["model"], "gpt-6.1-sol");
        assert_eq!(body["max_completion_tokens"], 16);
        assert!(body.get("stream").is_none() && body.get("max_tokens").is_none());
        let probe = openai()
            .probe(ProbeTarget::Model, "gpt-4", ProbeForm::Fallback)
            .unwrap();
        let body: Value = serde_json::from_str(&probe.body).unwrap();
        assert_eq!(body["max_tokens"], 16);
        assert!(body.get("max_completion_tokens").is_none());
    }

    #[test]
    fn falls_back_once_and_only_for_the_parameter() {
        let next = |attempt, status, head: &str, body: &str| {
            openai().next_attempt(ProbeTarget::Model, attempt, &reply(status, head, body))
        };
        let invalid = || json!("invalid_request_error");
        let named = error(
            invalid(),
            json!("max_completion_tokens"),
            json!("unsupported_parameter"),
        );
        let unnamed = error(invalid(), Value::Null, Value::Null);
        let limits = "x-ratelimit-limit-requests: 500";
        assert_eq!(
            next(ProbeForm::First, 400, limits, &named),
            Some(ProbeForm::Fallback)
        );
        assert_eq!(
            next(ProbeForm::First, 400, "", &unnamed),
            Some(ProbeForm::Fallback)
        );
        // "Could not finish the message …" looks the same but carries what we came for.
        assert_eq!(next(ProbeForm::First, 400, limits, &unnamed), None);
        // vLLM, and servers with a schema validator.
        let vllm =
            r#"{"object":"error","message":"…","type":"BadRequestError","param":null,"code":400}"#;
        assert_eq!(
            next(ProbeForm::First, 400, "", vllm),
            Some(ProbeForm::Fallback)
        );
        assert_eq!(
            next(ProbeForm::First, 422, "", r#"{"detail":[]}"#),
            Some(ProbeForm::Fallback)
        );
        assert_eq!(next(ProbeForm::Fallback, 400, "", &named), None);
        for (param, code) in [
            (json!("temperature"), json!("unsupported_parameter")),
            (
                json!("max_completion_tokens"),
                json!("integer_below_min_value"),
            ),
            (json!("model"), Value::Null),
            (Value::Null, json!("insufficient_quota")),
        ] {
            let body = error(invalid(), param, code);
            assert_eq!(next(ProbeForm::First, 400, "", &body), None, "{body}");
        }
        for status in [200, 401, 404, 429, 500] {
            assert_eq!(next(ProbeForm::First, status, "", &named), None, "{status}");
        }
    }

    #[test]
    fn windows_of_a_recorded_200() {
        // openllmetry cassette of 2025-08-19; the identities are in the form of its others.
        let recorded = "
            content-type: application/json
            date: Tue, 19 Aug 2025 10:04:43 GMT
            openai-organization: traceloop
            openai-project: proj_tzz1TbPPOXaf6j9tEkVUBIAa
            openai-version: 2020-10-01
            x-ratelimit-limit-requests: 500
            x-ratelimit-limit-tokens: 200000
            x-ratelimit-remaining-requests: 499
            x-ratelimit-remaining-tokens: 199992
            x-ratelimit-reset-requests: 120ms
            x-ratelimit-reset-tokens: 2ms
            x-request-id: req_fb455d524b7f4775956fba99734cc8d9";
        let reading = read(200, recorded, "{}");
        assert_eq!(reading.finding, Finding::Served);
        assert_eq!(percents(&reading.usage), ["requests 0.2", "tokens 0.0"]);
        assert_eq!(
            reading.usage.windows[0].resets_at,
            Some(now() + Duration::from_millis(120))
        );
        assert_eq!(reading.usage.windows[1].remaining, Some(199_992));
        assert_eq!(
            reading.quota_group.as_deref(),
            Some("traceloop/proj_tzz1TbPPOXaf6j9tEkVUBIAa")
        );
    }

    #[test]
    fn windows_by_day_project_and_image() {
        let recorded = "
            openai-organization: user-xzae
            x-ratelimit-limit-requests: 10000
            x-ratelimit-remaining-requests: 55
            x-ratelimit-reset-requests: 24h6m34s
            x-ratelimit-limit-project-tokens: 1000
            x-ratelimit-remaining-project-tokens: 250
            x-ratelimit-limit-input-images: 250000
            x-ratelimit-remaining-input-images: 249999
            x-ratelimit-limit-tokens_usage_based: 10
            x-ratelimit-remaining-tokens_usage_based: 5
            x-ratelimit-renewalperiod-tokens: 60
            x-ratelimit-over-limit: yes
            x-ratelimit-limit: 2";
        let reading = read(200, recorded, "");
        let expected = [
            "requests 99.5",
            "input-images 0.0",
            "project-tokens 75.0",
            "tokens_usage_based 50.0",
        ];
        assert_eq!(percents(&reading.usage), expected);
        assert_eq!(
            reading.usage.binding().unwrap().resets_at,
            Some(now() + Duration::from_secs(86_794))
        );
        assert_eq!(reading.quota_group.as_deref(), Some("user-xzae/"));
    }

    #[test]
    fn every_error_row() {
        let capped = Finding::SpendCapped { until: None };
        let limited = Finding::Limited {
            retry_after: Some(Duration::from_secs(20)),
        };
        let overloaded = Finding::Overloaded {
            retry_after: Some(Duration::from_secs(20)),
        };
        let quota = || json!("insufficient_quota");
        let table = [
            (
                429,
                error(json!("tokens"), Value::Null, json!("rate_limit_exceeded")),
                &limited,
            ),
            (
                429,
                error(json!("requests"), Value::Null, json!("rate_limit_exceeded")),
                &limited,
            ),
            (
                429,
                error(json!("rate_limit_error"), Value::Null, json!("slow_down")),
                &limited,
            ),
            (429, String::new(), &limited),
            (429, "null".to_owned(), &limited),
            (429, error(quota(), Value::Null, quota()), &capped),
            (429, error(quota(), Value::Null, Value::Null), &capped),
            (
                429,
                error(quota(), Value::Null, json!("credit_balance_exhausted")),
                &capped,
            ),
            (
                429,
                error(
                    quota(),
                    Value::Null,
                    json!("organization_spend_limit_exceeded"),
                ),
                &capped,
            ),
            (
                429,
                error(quota(), Value::Null, json!("project_spend_limit_exceeded")),
                &capped,
            ),
            (
                429,
                error(
                    quota(),
                    Value::Null,
                    json!("organization_usage_limit_exceeded"),
                ),
                &capped,
            ),
            (
                429,
                error(
                    Value::Null,
                    Value::Null,
                    json!("project_spend_limit_exceeded"),
                ),
                &capped,
            ),
            (
                429,
                error(
                    json!("billing_not_active"),
                    Value::Null,
                    json!("billing_not_active"),
                ),
                &capped,
            ),
            (402, error(Value::Null, Value::Null, Value::Null), &capped),
            (
                401,
                error(
                    json!("invalid_request_error"),
                    Value::Null,
                    json!("invalid_api_key"),
                ),
                &Finding::Rejected,
            ),
            (
                503,
                error(json!("server_error"), Value::Null, Value::Null),
                &overloaded,
            ),
            (
                500,
                error(json!("server_error"), Value::Null, Value::Null),
                &Finding::Overloaded { retry_after: None },
            ),
        ];
        for (status, body, expected) in table {
            assert_eq!(
                read(status, "retry-after: 20", &body).finding,
                *expected,
                "{status} {body}"
            );
        }
        let unclear = [
            (
                400,
                error(json!("invalid_request_error"), Value::Null, Value::Null),
            ),
            (
                403,
                error(
                    json!("request_forbidden"),
                    Value::Null,
                    json!("unsupported_country_region_territory"),
                ),
            ),
            (
                404,
                error(
                    json!("invalid_request_error"),
                    json!("model"),
                    json!("model_not_found"),
                ),
            ),
        ];
        for (status, body) in unclear {
            let finding = read(status, "", &body).finding;
            assert!(
                matches!(finding, Finding::Unclear { .. }),
                "{status} {body} {finding:?}"
            );
        }
    }

    #[test]
    fn a_refused_request_with_limits_proves_the_token() {
        let head = "x-ratelimit-limit-requests: 100\nx-ratelimit-remaining-requests: 1";
        let body = error(json!("invalid_request_error"), Value::Null, Value::Null);
        let reading = read(400, head, &body);
        assert_eq!(reading.finding, Finding::Served);
        assert_eq!(percents(&reading.usage), ["requests 99.0"]);
    }
}
