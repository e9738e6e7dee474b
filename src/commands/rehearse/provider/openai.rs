//! OpenAI's bodies and headers, as documented and recorded in 2025 and 2026.
//! Owns: success, streams, errors, limit headers. Promises: no panic on any body. Pure.
//! Does not decide which answer is given; that is `respond`.

use std::time::Duration;

use serde_json::{Value, json};

use super::scenario::{Fault, Kind};
use super::state::Refusal;
use super::times;
use super::wire::{Body, Call, Endpoint, Response, Stamp, WireFormat};

/// OpenAI's voice.
pub(crate) struct Openai;

/// What is listed when the scenario names no models.
const USUAL_MODELS: [&str; 2] = ["gpt-5.6-luna", "gpt-6.1-sol"];

impl WireFormat for Openai {
    fn unknown_token(&self, stamp: Stamp) -> Response {
        // The real message repeats a part of the token; this one repeats nothing.
        let text = "Incorrect API key provided. You can find your API key at \
                    https://platform.openai.com/account/api-keys.";
        let mut response = failure(
            stamp,
            401,
            "invalid_request_error",
            Some("invalid_api_key"),
            text,
        );
        response
            .headers
            .push(("www-authenticate", "Bearer realm=\"OpenAI API\"".to_owned()));
        response
    }

    fn nowhere(&self, stamp: Stamp) -> Response {
        failure(
            stamp,
            404,
            "invalid_request_error",
            Some("unknown_url"),
            "Unknown request URL.",
        )
    }

    fn down(&self, stamp: Stamp, status: u16) -> Response {
        match status {
            500 => failure(
                stamp,
                500,
                "server_error",
                None,
                "The server had an error while processing your request.",
            ),
            _ => failure(
                stamp,
                status,
                "server_error",
                None,
                "The engine is currently overloaded, please try again later.",
            ),
        }
    }

    fn check(&self, call: &Call) -> Option<Response> {
        if call.endpoint == Endpoint::Models {
            return None;
        }
        let invalid =
            |code, text: &str| Some(refuse(call, 400, "invalid_request_error", code, text));
        if !call.body.is_object() {
            return invalid(None, "We could not parse the JSON body of your request.");
        }
        if call.model.is_empty() {
            return invalid(None, "you must provide a model parameter");
        }
        if call.endpoint == Endpoint::ChatCompletions
            && !call.body.get("messages").is_some_and(Value::is_array)
        {
            return invalid(
                Some("missing_required_parameter"),
                "Missing required parameter: 'messages'.",
            );
        }
        let least = call.body.get("max_output_tokens").and_then(Value::as_u64);
        if call.endpoint == Endpoint::Responses && least.is_some_and(|least| least < 16) {
            let text =
                "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16.";
            return invalid(Some("integer_below_min_value"), text);
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
        let (kind, name) = match refusal.kind {
            Kind::Requests => ("requests", "requests per min (RPM)"),
            _ => ("tokens", "tokens per min (TPM)"),
        };
        let text = format!(
            "Rate limit reached for {} in organization {} on {name}: Limit {}. Please try again in {}.",
            call.model,
            call.organization_id,
            refusal.limit,
            times::go_duration(refusal.retry_in)
        );
        throttled(call, kind, &text, Some(refusal.retry_in))
    }

    fn usual(&self, call: &Call) -> Response {
        let body = match call.endpoint {
            Endpoint::Models => Body::Whole(model_list(call).to_string()),
            Endpoint::Responses if call.streamed => Body::Events(response_stream(call)),
            Endpoint::Responses => Body::Whole(response(call, "completed").to_string()),
            _ if call.streamed => Body::Events(chat_stream(call)),
            _ => Body::Whole(chat(call).to_string()),
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
        let quota = |code: &str| {
            let text =
                "You exceeded your current quota, please check your plan and billing details.";
            refuse(call, 429, "insufficient_quota", Some(code), text)
        };
        match fault {
            Fault::Unauthorized => self.unknown_token(call.stamp),
            Fault::Forbidden => {
                let text = "You have insufficient permissions for this operation.";
                refuse(
                    call,
                    403,
                    "invalid_request_error",
                    Some("insufficient_permissions"),
                    text,
                )
            }
            Fault::UnknownModel => unknown_model(call),
            Fault::Throttled { retry_after } => throttled(
                call,
                "requests",
                "Rate limit reached.",
                retry_after.map(Duration::from_secs),
            ),
            Fault::SpendCap { .. } => quota("organization_spend_limit_exceeded"),
            Fault::UserSpendLimit { .. } => quota("project_spend_limit_exceeded"),
            Fault::CreditBalance => quota("credit_balance_exhausted"),
            Fault::InsufficientQuota { code } => quota(code),
            _ => self.usual(call),
        }
    }
}

fn request_id(stamp: Stamp) -> String {
    format!("req_{:032x}", stamp.serial)
}

fn common(stamp: Stamp, content_type: &str) -> Vec<(&'static str, String)> {
    vec![
        ("date", times::http_date(stamp.wall)),
        ("content-type", content_type.to_owned()),
        ("x-request-id", request_id(stamp)),
        ("openai-version", "2020-10-01".to_owned()),
        ("openai-processing-ms", "3".to_owned()),
    ]
}

/// An error without identity: nobody is authenticated, or the request did not get that far.
fn failure(stamp: Stamp, status: u16, kind: &str, code: Option<&str>, message: &str) -> Response {
    let body =
        json!({ "error": { "message": message, "type": kind, "param": null, "code": code } });
    Response {
        status,
        headers: common(stamp, "application/json"),
        body: Body::Whole(body.to_string()),
    }
}

fn identity(call: &Call, content_type: &str) -> Vec<(&'static str, String)> {
    let mut headers = common(call.stamp, content_type);
    headers.push(("openai-organization", call.organization_id.clone()));
    headers.push(("openai-project", call.project.clone()));
    headers
}

/// An error for a known token. Carries the limit headers, as the real 400 and 429 do.
fn refuse(call: &Call, status: u16, kind: &str, code: Option<&str>, message: &str) -> Response {
    let mut response = failure(call.stamp, status, kind, code, message);
    response.headers = identity(call, "application/json");
    response.headers.extend(limits(call));
    response
}

fn unknown_model(call: &Call) -> Response {
    let text = format!(
        "The model `{}` does not exist or you do not have access to it.",
        call.model
    );
    let mut response = failure(
        call.stamp,
        404,
        "invalid_request_error",
        Some("model_not_found"),
        &text,
    );
    response.headers = identity(call, "application/json");
    response
}

fn throttled(call: &Call, kind: &str, message: &str, retry_after: Option<Duration>) -> Response {
    let mut response = refuse(call, 429, kind, Some("rate_limit_exceeded"), message);
    if let Some(after) = retry_after {
        let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
        response.headers.push(("retry-after", seconds.to_string()));
    }
    response
}

/// The limit headers; none where the endpoint has none. OpenAI tells requests and tokens only.
fn limits(call: &Call) -> Vec<(&'static str, String)> {
    let mut headers = Vec::new();
    if !call.limited() {
        return headers;
    }
    for window in &call.windows {
        let [limit, remaining, reset] = match window.kind {
            Kind::Requests => [
                "x-ratelimit-limit-requests",
                "x-ratelimit-remaining-requests",
                "x-ratelimit-reset-requests",
            ],
            Kind::Tokens => [
                "x-ratelimit-limit-tokens",
                "x-ratelimit-remaining-tokens",
                "x-ratelimit-reset-tokens",
            ],
            Kind::InputTokens | Kind::OutputTokens => continue,
        };
        headers.push((limit, window.limit.to_string()));
        headers.push((remaining, window.remaining.to_string()));
        headers.push((reset, times::go_duration(window.reset_in)));
    }
    headers
}

fn created(stamp: Stamp) -> u64 {
    stamp
        .wall
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn chat_usage(call: &Call) -> Value {
    let (input, output) = (call.costs.input, call.costs.output);
    json!({ "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output })
}

fn chat(call: &Call) -> Value {
    json!({
        "id": format!("chatcmpl-Rehearsal{:011}", call.stamp.serial),
        "object": "chat.completion",
        "created": created(call.stamp),
        "model": call.model,
        "choices": [{ "index": 0, "finish_reason": "stop", "logprobs": null,
            "message": { "role": "assistant", "content": "Done.", "refusal": null } }],
        "usage": chat_usage(call),
    })
}

fn chat_stream(call: &Call) -> Vec<String> {
    let chunk = |choices: Value| {
        json!({
            "id": format!("chatcmpl-Rehearsal{:011}", call.stamp.serial),
            "object": "chat.completion.chunk",
            "created": created(call.stamp),
            "model": call.model,
            "choices": choices,
        })
    };
    let delta = |delta: Value, finish: Value| {
        chunk(json!([{ "index": 0, "delta": delta, "finish_reason": finish }]))
    };
    let mut chunks = vec![
        delta(json!({ "role": "assistant", "content": "" }), Value::Null),
        delta(json!({ "content": "Do" }), Value::Null),
        delta(json!({ "content": "ne." }), Value::Null),
        delta(json!({}), json!("stop")),
    ];
    let wants_usage =
        call.body.pointer("/stream_options/include_usage") == Some(&Value::Bool(true));
    if wants_usage {
        let mut last = chunk(json!([]));
        last["usage"] = chat_usage(call);
        chunks.push(last);
    }
    let mut events: Vec<_> = chunks
        .iter()
        .map(|chunk| format!("data: {chunk}\n\n"))
        .collect();
    events.push("data: [DONE]\n\n".to_owned());
    events
}

fn output_item(call: &Call, status: &str) -> Value {
    let content = match status {
        "completed" => json!([output_part("Done.")]),
        _ => json!([]),
    };
    json!({
        "id": format!("msg_{:032x}", call.stamp.serial),
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    })
}

fn output_part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [] })
}

fn response(call: &Call, status: &str) -> Value {
    let done = status == "completed";
    let (input, output) = (call.costs.input, call.costs.output);
    let usage = json!({
        "input_tokens": input,
        "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": output,
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": input + output,
    });
    json!({
        "id": format!("resp_{:032x}", call.stamp.serial),
        "object": "response",
        "created_at": created(call.stamp),
        "status": status,
        "error": null,
        "incomplete_details": null,
        "model": call.model,
        "output": if done { json!([output_item(call, "completed")]) } else { json!([]) },
        "usage": if done { usage } else { Value::Null },
    })
}

fn response_stream(call: &Call) -> Vec<String> {
    let item = format!("msg_{:032x}", call.stamp.serial);
    let part = |kind: &str, rest: Value| {
        let mut event =
            json!({ "type": kind, "item_id": item, "output_index": 0, "content_index": 0 });
        if let (Some(event), Value::Object(rest)) = (event.as_object_mut(), rest) {
            event.extend(rest);
        }
        event
    };
    let events = [
        json!({ "type": "response.created", "response": response(call, "in_progress") }),
        json!({ "type": "response.output_item.added", "output_index": 0, "item": output_item(call, "in_progress") }),
        part(
            "response.content_part.added",
            json!({ "part": output_part("") }),
        ),
        part("response.output_text.delta", json!({ "delta": "Done." })),
        part("response.output_text.done", json!({ "text": "Done." })),
        part(
            "response.content_part.done",
            json!({ "part": output_part("Done.") }),
        ),
        json!({ "type": "response.output_item.done", "output_index": 0, "item": output_item(call, "completed") }),
        json!({ "type": "response.completed", "response": response(call, "completed") }),
    ];
    let line = |(number, event): (usize, Value)| {
        let mut event = event;
        event["sequence_number"] = json!(number);
        format!(
            "event: {}\ndata: {event}\n\n",
            event["type"].as_str().unwrap_or_default()
        )
    };
    events.into_iter().enumerate().map(line).collect()
}

fn model_list(call: &Call) -> Value {
    let usual = || USUAL_MODELS.map(str::to_owned).to_vec();
    let models = call.models.clone().unwrap_or_else(usual);
    let entry = |id: &String| json!({ "id": id, "object": "model", "created": 1_767_225_600, "owned_by": "system" });
    json!({ "object": "list", "data": models.iter().map(entry).collect::<Vec<_>>() })
}
