//! A request and the state in, a response as data out.
//! Owns: who is asking (the token), which endpoint, which fault, the order of the checks, the control
//! endpoint. Promises: every request gets an answer; no token text is in any of them. Pure.
//! Does not own: bodies and headers (`anthropic`, `openai`), sending (`server`).
//!
//! For tests: `POST /rehearsal/control` with one `do` of a scenario event, or a list of them, applies
//! it at once: 200 `{"applied":N}` or 400 `{"error":"…"}`, all or nothing. `GET /rehearsal/state`
//! tells buckets, faults and counts. Neither is counted nor reported as served.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::scenario::{Dialect, Fault};
use super::state::{Costs, State};
use super::wire::{Body, Call, Endpoint, Note, Request, Response, Stamp, WireFormat};
use super::{anthropic, openai, times};

/// Answers `request` at `now` (since the start; `wall` is the same moment on the clock). The note is
/// nothing for the control endpoint.
pub(crate) fn respond(
    state: &mut State,
    now: Duration,
    wall: SystemTime,
    request: &Request,
) -> (Response, Option<Note>) {
    state.advance(now);
    let stamp = Stamp {
        wall,
        serial: state.next_serial(),
    };
    if let Some(rest) = request.path().strip_prefix("/rehearsal/") {
        return (control(state, wall, rest, request), None);
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
    let known = credential(request).and_then(|text| state.token(text));
    let (dialect, endpoint) = route(
        request,
        known.map(|index| state.scenario.tokens[index].provider),
    );
    // A token of the other provider is as unknown as none.
    let token = known.filter(|index| state.scenario.tokens[*index].provider == dialect);
    let note = note(state, token, &body);

    let fault = state.fault(token, |fault| concerns(fault, endpoint, token.is_some()));
    let wire: &dyn WireFormat = match dialect {
        Dialect::Anthropic => &anthropic::Anthropic,
        Dialect::Openai => &openai::Openai,
    };
    let response = match (fault, token, endpoint) {
        (Some(Fault::Down(status)), _, _) => wire.down(stamp, status),
        (_, None, _) => wire.unknown_token(stamp),
        (_, Some(_), None) => wire.nowhere(stamp),
        (fault, Some(token), Some(endpoint)) => {
            let mut call = call(
                state,
                stamp,
                token,
                endpoint,
                &note,
                body,
                request.body.len(),
            );
            match fault {
                None => usual(state, wire, token, &mut call),
                Some(Fault::StreamError { kind, events }) => {
                    broken_off(wire.usual(&call), dialect, &kind, events)
                }
                Some(fault) => wire.fault(&call, &fault),
            }
        }
    };
    if let Some(token) = token {
        state.count(token);
    }
    (response, Some(note))
}

/// The answer with an error event after so many events, if it is a stream.
fn broken_off(mut answer: Response, dialect: Dialect, kind: &str, after: usize) -> Response {
    if let Body::Events(events) = &mut answer.body {
        events.truncate(after);
        let error = json!({ "type": kind, "code": kind, "message": "made up by a scenario" });
        events.push(match dialect {
            Dialect::Anthropic => {
                let data = json!({ "type": "error", "error": error });
                format!("event: error\ndata: {data}\n\n")
            }
            Dialect::Openai => format!("data: {}\n\n", json!({ "error": error })),
        });
    }
    answer
}

/// Checks, draws and answers. A request that is wrong in itself draws nothing.
fn usual(state: &mut State, wire: &dyn WireFormat, token: usize, call: &mut Call) -> Response {
    if let Some(wrong) = wire.check(call) {
        return wrong;
    }
    if call.limited() {
        let drawn = state.draw(token, call.costs);
        call.windows = state.windows(token);
        if let Err(refusal) = drawn {
            return wire.refused(call, &refusal);
        }
    }
    wire.usual(call)
}

fn call(
    state: &State,
    stamp: Stamp,
    token: usize,
    endpoint: Endpoint,
    note: &Note,
    body: Value,
    body_bytes: usize,
) -> Call {
    let known = &state.scenario.tokens[token];
    Call {
        stamp,
        endpoint,
        organization_id: state.scenario.organizations[known.organization].id.clone(),
        project: known.project.clone(),
        windows: state.windows(token),
        model: note.model.clone(),
        streamed: note.streamed,
        costs: costs(endpoint, &body, body_bytes),
        body,
        models: state.scenario.models.clone(),
        refuse_max_tokens_0: state.scenario.refuse_max_tokens_0,
    }
}

fn note(state: &State, token: Option<usize>, body: &Value) -> Note {
    let token = token.map(|index| &state.scenario.tokens[index]);
    let organization = token.map(|token| &state.scenario.organizations[token.organization].name);
    Note {
        token_label: token.map_or("unknown".to_owned(), |token| token.label.clone()),
        organization: organization.cloned().unwrap_or_default(),
        model: body
            .get("model")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        streamed: body
            .get("stream")
            .and_then(Value::as_bool)
            .unwrap_or_default(),
    }
}

/// The token text of a request: `x-api-key`, or the bearer token.
fn credential(request: &Request) -> Option<&str> {
    if let Some(key) = request.header("x-api-key") {
        return Some(key.trim());
    }
    let (scheme, text) = request.header("authorization")?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(text.trim())
}

/// Whose dialect and which endpoint. OpenAI's clients put `/v1` into their base URL, Anthropic's do
/// not; both work here. The model list has one path for both, so the headers and then the token decide.
fn route(request: &Request, of_token: Option<Dialect>) -> (Dialect, Option<Endpoint>) {
    let path = request.path();
    let path = path
        .strip_prefix("/v1")
        .filter(|rest| rest.starts_with('/'))
        .unwrap_or(path);
    let (dialect, method, endpoint) = match path {
        "/messages" => (Dialect::Anthropic, "POST", Endpoint::Messages),
        "/messages/count_tokens" => (Dialect::Anthropic, "POST", Endpoint::CountTokens),
        "/chat/completions" => (Dialect::Openai, "POST", Endpoint::ChatCompletions),
        "/responses" => (Dialect::Openai, "POST", Endpoint::Responses),
        _ => {
            let headers = ["x-api-key", "anthropic-version"];
            let dialect = match of_token {
                _ if headers.iter().any(|name| request.header(name).is_some()) => {
                    Dialect::Anthropic
                }
                Some(dialect) => dialect,
                None => Dialect::Openai,
            };
            let found = path == "/models" && request.method == "GET";
            return (dialect, found.then_some(Endpoint::Models));
        }
    };
    (dialect, (request.method == method).then_some(endpoint))
}

/// Whether a fault has anything to say about a request. Limits and spending do not touch the model
/// list; what depends on the account cannot concern a token that is not known.
fn concerns(fault: &Fault, endpoint: Option<Endpoint>, known: bool) -> bool {
    match fault {
        Fault::Down(_) => true,
        Fault::Unauthorized | Fault::Forbidden | Fault::StreamError { .. } => known,
        Fault::CreditBalance => {
            known && endpoint.is_some_and(|endpoint| endpoint != Endpoint::Models)
        }
        Fault::UnknownModel
        | Fault::Throttled { .. }
        | Fault::SpendCap { .. }
        | Fault::UserSpendLimit { .. }
        | Fault::InsufficientQuota { .. } => known && endpoint.is_some_and(Endpoint::is_limited),
    }
}

/// What a request costs: about four bytes a LLM token in, at most eight out, for the answer is short.
/// OpenAI charges the allowed output up front; Anthropic the real one.
fn costs(endpoint: Endpoint, body: &Value, bytes: usize) -> Costs {
    let input = u64::try_from(bytes.div_ceil(4)).unwrap_or(u64::MAX).max(1);
    let names = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
    let allowed = names.iter().find_map(|name| body.get(name)?.as_u64());
    let output = allowed.unwrap_or(8).min(8);
    let tokens = match endpoint {
        // No real limit is larger, and a sum of such numbers must stay a number.
        Endpoint::ChatCompletions | Endpoint::Responses => {
            input.max(allowed.unwrap_or(0).min(1 << 40))
        }
        _ => input + output,
    };
    Costs {
        tokens,
        input,
        output,
    }
}

fn control(state: &mut State, wall: SystemTime, path: &str, request: &Request) -> Response {
    let (status, body) = match (request.method.as_str(), path) {
        ("GET", "state") => (200, state.report()),
        ("POST", "control") => {
            let read =
                serde_json::from_slice(&request.body).map_err(|error| format!("not JSON: {error}"));
            match read.and_then(|value| state.scenario.actions(&value)) {
                Ok(actions) => {
                    actions.iter().for_each(|action| state.apply(action));
                    (200, json!({ "applied": actions.len() }))
                }
                Err(error) => (400, json!({ "error": error })),
            }
        }
        _ => (
            404,
            json!({ "error": "expected POST /rehearsal/control or GET /rehearsal/state" }),
        ),
    };
    let headers = vec![
        ("date", times::http_date(wall)),
        ("content-type", "application/json".to_owned()),
    ];
    Response {
        status,
        headers,
        body: Body::Whole(body.to_string()),
    }
}

#[cfg(test)]
mod tests;
