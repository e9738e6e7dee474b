//! Anthropic's bodies and headers, as documented and recorded in 2025 and 2026.
//! Owns: success, stream, errors, limit headers. Promises: no panic on any body. Pure.
//! Does not decide which answer is given; that is `respond`.

use serde_json::{Value, json};

use super::scenario::{Fault, Kind};
use super::state::{Refusal, Window};
use super::times;
use super::wire::{Body, Call, Endpoint, Response, Stamp, WireFormat};

/// Anthropic's voice.
pub(crate) struct Anthropic;

/// What is listed when the scenario names no models.
const USUAL_MODELS: [&str; 3] = ["claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"];

impl WireFormat for Anthropic {
    fn unknown_token(&self, stamp: Stamp) -> Response {
        failure(stamp, 401, "authentication_error", "invalid x-api-key")
    }

    fn nowhere(&self, stamp: Stamp) -> Response {
        failure(stamp, 404, "not_found_error", "Not found")
    }

    fn down(&self, stamp: Stamp, status: u16) -> Response {
        match status {
            529 => {
                let mut response = failure(stamp, 529, "overloaded_error", "Overloaded");
                response.headers.push(("x-should-retry", "true".to_owned()));
                response
            }
            _ => failure(stamp, status, "api_error", "Internal server error"),
        }
    }

    fn check(&self, call: &Call) -> Option<Response> {
        if call.endpoint == Endpoint::Models {
            return None;
        }
        let invalid = |text: &str| Some(refuse(call, 400, "invalid_request_error", text));
        if !call.body.is_object() {
            return invalid("The request body is not valid JSON");
        }
        if call.model.is_empty() {
            return invalid("model: Field required");
        }
        if !call.body.get("messages").is_some_and(Value::is_array) {
            return invalid("messages: Field required");
        }
        if call.endpoint == Endpoint::Messages {
            match call.body.get("max_tokens").map(Value::as_u64) {
                None => return invalid("max_tokens: Field required"),
                Some(None) => return invalid("max_tokens: Input should be a valid integer"),
                Some(Some(0)) if call.refuse_max_tokens_0 => {
                    return invalid("max_tokens: Input should be greater than or equal to 1");
                }
                Some(Some(0)) if call.streamed => {
                    return invalid("max_tokens: 0 is not supported with stream");
                }
                Some(Some(_)) => {}
            }
        }
        if call
            .models
            .as_ref()
            .is_some_and(|models| !models.contains(&call.model))
        {
            return Some(unknown_model(call));
        }
        None
    }

    fn refused(&self, call: &Call, refusal: &Refusal) -> Response {
        let what = match refusal.kind {
            Kind::Requests => "requests",
            Kind::Tokens => "tokens",
            Kind::InputTokens => "input tokens",
            Kind::OutputTokens => "output tokens",
        };
        let text = format!(
            "This request would exceed your organization's rate limit of {} {what} per minute",
            refusal.limit
        );
        let seconds = refusal.retry_in.as_secs_f64().ceil().max(1.0) as u64;
        throttled(call, &text, Some(seconds))
    }

    fn usual(&self, call: &Call) -> Response {
        let body = match call.endpoint {
            Endpoint::Models => Body::Whole(model_list(call).to_string()),
            Endpoint::CountTokens => {
                Body::Whole(json!({ "input_tokens": call.costs.input }).to_string())
            }
            _ if call.streamed => Body::Events(stream(call)),
            _ => Body::Whole(message(call).to_string()),
        };
        let mut headers = identity(call, body.content_type());
        headers.extend(limits(call));
        Response {
            status: 200,
            headers,
            body,
        }
    }

    fn fault(&self, call: &Call, fault: &Fault) -> Response {
        let invalid = |text: &str| refuse(call, 400, "invalid_request_error", text);
        match fault {
            Fault::Unauthorized => self.unknown_token(call.stamp),
            Fault::Forbidden => {
                let text = "Your API key does not have permission to use the specified resource.";
                refuse(call, 403, "permission_error", text)
            }
            Fault::UnknownModel => unknown_model(call),
            Fault::Throttled { retry_after } => {
                let text = "This request would exceed your organization's rate limit";
                throttled(call, text, *retry_after)
            }
            Fault::SpendCap { until } => {
                let text = format!(
                    "You have reached your API usage limits: your organization has reached its \
                     monthly spend limit. You will regain access on {}.",
                    times::regain(call.stamp.wall, *until)
                );
                let error = json!({ "type": "rate_limit_error", "message": text,
                    "details": { "error_code": "enforced_spend_limit_reached" } });
                let mut response = failure_of(call.stamp, 429, &error);
                response.headers = identity(call, "application/json");
                response.headers.extend(limits(call));
                response
            }
            Fault::UserSpendLimit { until } => invalid(&format!(
                "You have reached your specified API usage limits. You will regain access on {}.",
                times::regain(call.stamp.wall, *until)
            )),
            Fault::CreditBalance | Fault::InsufficientQuota { .. } => invalid(
                "Your credit balance is too low to access the Anthropic API. Please go to Plans & \
                 Billing to upgrade or purchase credits.",
            ),
            _ => self.usual(call),
        }
    }
}

fn request_id(stamp: Stamp) -> String {
    format!("req_011Rehearsal{:011}", stamp.serial)
}

/// An error without identity: nobody is authenticated, or the request did not get that far.
fn failure(stamp: Stamp, status: u16, kind: &str, message: &str) -> Response {
    let error = json!({ "type": kind, "message": message });
    failure_of(stamp, status, &error)
}

fn failure_of(stamp: Stamp, status: u16, error: &Value) -> Response {
    let body = json!({ "type": "error", "error": error, "request_id": request_id(stamp) });
    let headers = vec![
        ("date", times::http_date(stamp.wall)),
        ("content-type", "application/json".to_owned()),
        ("request-id", request_id(stamp)),
    ];
    Response {
        status,
        headers,
        body: Body::Whole(body.to_string()),
    }
}

fn identity(call: &Call, content_type: &str) -> Vec<(&'static str, String)> {
    vec![
        ("date", times::http_date(call.stamp.wall)),
        ("content-type", content_type.to_owned()),
        ("request-id", request_id(call.stamp)),
        ("anthropic-organization-id", call.organization_id.clone()),
    ]
}

fn refuse(call: &Call, status: u16, kind: &str, message: &str) -> Response {
    let mut response = failure(call.stamp, status, kind, message);
    response.headers = identity(call, "application/json");
    response
}

fn unknown_model(call: &Call) -> Response {
    refuse(
        call,
        404,
        "not_found_error",
        &format!("model: {}", call.model),
    )
}

fn throttled(call: &Call, message: &str, retry_after: Option<u64>) -> Response {
    let mut response = refuse(call, 429, "rate_limit_error", message);
    response.headers.extend(limits(call));
    response.headers.push(("x-should-retry", "true".to_owned()));
    if let Some(seconds) = retry_after {
        response.headers.push(("retry-after", seconds.to_string()));
    }
    response
}

/// The names of a window's headers: limit, remaining and reset.
macro_rules! limit_names {
    ($window:literal) => {
        [
            concat!("anthropic-ratelimit-", $window, "-limit"),
            concat!("anthropic-ratelimit-", $window, "-remaining"),
            concat!("anthropic-ratelimit-", $window, "-reset"),
        ]
    };
}

/// The limit headers; none where the endpoint has none.
fn limits(call: &Call) -> Vec<(&'static str, String)> {
    let mut headers = Vec::new();
    if !call.limited() {
        return headers;
    }
    for window in &call.windows {
        let [limit, remaining, reset] = match window.kind {
            Kind::Requests => limit_names!("requests"),
            Kind::Tokens => limit_names!("tokens"),
            Kind::InputTokens => limit_names!("input-tokens"),
            Kind::OutputTokens => limit_names!("output-tokens"),
        };
        headers.push((limit, window.limit.to_string()));
        headers.push((remaining, shown(window).to_string()));
        headers.push((reset, times::rfc3339(call.stamp.wall, window.reset_in)));
    }
    headers
}

/// The real provider rounds LLM tokens to the nearest thousand. Small buckets stay exact, or a
/// scenario with a limit of 500 could show nothing.
fn shown(window: &Window) -> u64 {
    if window.kind == Kind::Requests || window.limit < 10_000 {
        return window.remaining;
    }
    (window.remaining.saturating_add(500) / 1000 * 1000).min(window.limit)
}

fn usage(call: &Call) -> Value {
    json!({
        "input_tokens": call.costs.input,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": call.costs.output,
        "service_tier": "standard",
    })
}

fn message(call: &Call) -> Value {
    let silent = call.costs.output == 0;
    let content = if silent {
        json!([])
    } else {
        json!([{ "type": "text", "text": "Done." }])
    };
    json!({
        "id": format!("msg_01Rehearsal{:011}", call.stamp.serial),
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "content": content,
        "stop_reason": if silent { "max_tokens" } else { "end_turn" },
        "stop_sequence": null,
        "usage": usage(call),
    })
}

fn stream(call: &Call) -> Vec<String> {
    let mut start = message(call);
    start["content"] = json!([]);
    start["stop_reason"] = Value::Null;
    start["usage"]["output_tokens"] = json!(1);
    let text = |text| {
        json!({ "type": "content_block_delta", "index": 0,
        "delta": { "type": "text_delta", "text": text } })
    };
    let events = [
        json!({ "type": "message_start", "message": start }),
        json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
        json!({ "type": "ping" }),
        text("Do"),
        text("ne."),
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn", "stop_sequence": null },
            "usage": { "output_tokens": call.costs.output } }),
        json!({ "type": "message_stop" }),
    ];
    let line = |event: &Value| {
        format!(
            "event: {}\ndata: {event}\n\n",
            event["type"].as_str().unwrap_or_default()
        )
    };
    events.iter().map(line).collect()
}

fn model_list(call: &Call) -> Value {
    let usual = || USUAL_MODELS.map(str::to_owned).to_vec();
    let models = call.models.clone().unwrap_or_else(usual);
    let entry = |id: &String| json!({ "type": "model", "id": id, "display_name": id, "created_at": "2026-01-01T00:00:00Z" });
    json!({
        "data": models.iter().map(entry).collect::<Vec<_>>(),
        "has_more": false,
        "first_id": models.first(),
        "last_id": models.last(),
    })
}
