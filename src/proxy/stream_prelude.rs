//! The beginning of an answer: does it start to say something, or does it fail at once?
//!
//! A provider may answer with status 200 and then fail: in the first events of a stream (Anthropic's
//! `overloaded_error`, OpenAI's `response.failed`, OpenRouter's chunk with an `error`), by ending it
//! before anything was said, or with a JSON body that is nothing but an error. Until the first content
//! nothing has been sent on, and the request can still go elsewhere. It promises that only an error or
//! an end counts as a failure, that anything unknown counts as content, and that nothing behind the
//! first content is looked at. Pure.

use crate::common::bytes;
use crate::providers::Dialect;
use serde_json::Value;

/// Events without content, by their `type`: Anthropic's, and those of OpenAI's Responses API.
const NO_CONTENT: [&str; 7] = [
    "message_start",
    "ping",
    "content_block_stop",
    "response.created",
    "response.queued",
    "response.in_progress",
    "keepalive",
];
/// Events that begin or go on with a part of the answer, which may be empty: their `type`, and where
/// the part is.
const PARTS: [(&str, &str); 5] = [
    ("content_block_start", "content_block"),
    ("content_block_delta", "delta"),
    ("response.output_item.added", "item"),
    ("response.content_part.added", "part"),
    ("response.reasoning_summary_part.added", "part"),
];
/// Fields of a part that tell what it is and hold nothing of the answer.
const LABELS: [&str; 7] = ["type", "role", "id", "call_id", "name", "status", "index"];
/// An event larger than this is content. `response.created` repeats the instructions and the tools of
/// the request, which are some hundred kB. In bytes.
const EVENT_MAX: usize = 512 * 1024;
/// A JSON answer larger than this is none that is nothing but an error. In bytes.
pub(crate) const LONE_ERROR_MAX: u64 = 8 * 1024;

/// How the codes begin of what is wrong with the request itself: in OpenAI's reference of failed responses, and in
/// what Codex knows.
const OF_THE_REQUEST: [&str; 7] = [
    "context_length_exceeded",
    "invalid_",
    "unsupported_",
    "image_",
    "content_",
    "cyber_policy",
    "empty_image_file",
];
/// The reason with which DeepSeek ends an answer for want of machines, as its reference has it.
const NO_RESOURCE: &str = "insufficient_system_resource";

/// The name of the field that an error is in.
const ERROR: &[u8] = b"\"error\"";

/// What the answer has shown so far.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "what is not looked at is passed on too early or too late"]
pub(crate) enum Seen {
    /// Nothing that counts: hold it back.
    Prelude,
    /// Content, or something unknown: from here on it goes as it comes.
    Content,
    /// An error before any content: the status that it stands for, and its JSON.
    Failure { status: u16, body: Vec<u8> },
}

/// Reads the first events.
#[derive(Debug)]
pub(crate) struct StreamPrelude {
    dialect: Dialect,
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The name of the event that has not ended yet.
    name: Vec<u8>,
    /// Its data lines.
    data: Vec<u8>,
}

impl StreamPrelude {
    /// At the start of a stream.
    pub(crate) fn new(dialect: Dialect) -> StreamPrelude {
        StreamPrelude {
            dialect,
            line: Vec::new(),
            name: Vec::new(),
            data: Vec::new(),
        }
    }

    /// Looks at the next piece.
    pub(crate) fn look(&mut self, piece: &[u8]) -> Seen {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() + self.data.len() > EVENT_MAX {
                return Seen::Content;
            }
            if !part.ends_with(b"\n") {
                break;
            }
            let line = std::mem::take(&mut self.line);
            // A CR before the LF is white space, and a mark of the byte order may come first.
            let line = line.trim_ascii_end();
            let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
            if let Some(data) = line.strip_prefix(b"data:") {
                let data = data.trim_ascii_start();
                // Some gateways send no blank lines, and clients that read by the line never miss them
                // (caidaoli/ccLoad#69).
                if let (true, [b'{', .., b'}']) = (self.data.is_empty(), data)
                    && let Ok(whole) = serde_json::from_slice(data)
                {
                    match event(self.dialect, &std::mem::take(&mut self.name), &whole) {
                        Seen::Prelude => continue,
                        seen => return seen,
                    }
                }
                self.data.extend_from_slice(data);
                self.data.push(b'\n');
            } else if let Some(name) = line.strip_prefix(b"event:") {
                self.name = name.trim_ascii().to_owned();
            } else if line.is_empty() {
                let name = std::mem::take(&mut self.name);
                let data = std::mem::take(&mut self.data);
                if data.is_empty() {
                    continue;
                }
                match text(self.dialect, &name, &data) {
                    Seen::Prelude => {}
                    seen => return seen,
                }
            }
        }
        Seen::Prelude
    }

    /// What the stream comes to that ends here, of which `whole` is all and nothing was content so far. Its
    /// last event need not have a blank line behind it, its lines may end in CR alone, and a provider that
    /// was asked for a stream may have sent plain JSON.
    pub(crate) fn finish(mut self, whole: &[u8]) -> Seen {
        if let [b'{' | b'[', ..] = whole.trim_ascii_start() {
            return lone_error(self.dialect, whole);
        }
        if !whole.contains(&b'\n') {
            self.line = Vec::new();
            let lines: Vec<u8> = whole
                .split(|byte| *byte == b'\r')
                .flat_map(line_of)
                .collect();
            let seen = self.look(&lines);
            if seen != Seen::Prelude {
                return seen;
            }
        }
        self.look(b"\n\n")
    }
}

/// A line, with its end.
fn line_of(line: &[u8]) -> impl Iterator<Item = u8> {
    line.iter().copied().chain([b'\n'])
}

/// What a whole JSON body of a good status comes to: an error, if it is nothing but one.
pub(crate) fn lone_error(dialect: Dialect, body: &[u8]) -> Seen {
    // Most answers are none, and this costs them next to nothing.
    let names = |word: &[u8]| bytes::find(body, word).is_some();
    let names_error = names(ERROR) || names(b"_system_resource");
    let parsed = names_error
        .then(|| serde_json::from_slice::<Value>(body).ok())
        .flatten();
    let first = match &parsed {
        // Google streams a list of answers where it is not asked for events.
        Some(Value::Array(list)) => list.first(),
        other => other.as_ref(),
    };
    let is_answer = |body: &Value| {
        let known = [
            "choices",
            "content",
            "candidates",
            "output",
            "data",
            "object",
        ];
        known.iter().any(|name| body.get(name).is_some())
    };
    let error = first.and_then(|body| {
        choice_error(body).or_else(|| error_of(body, "").filter(|_| !is_answer(body)))
    });
    error.map_or(Seen::Content, |error| failure(dialect, error))
}

/// The data of an event, in one or several lines.
fn text(dialect: Dialect, name: &[u8], data: &[u8]) -> Seen {
    // The end of a stream of chat completions, with nothing before it.
    if data.trim_ascii() == b"[DONE]" {
        return Seen::Failure {
            status: 502,
            body: Vec::new(),
        };
    }
    match (serde_json::from_slice(data), name) {
        (Ok(whole), _) => event(dialect, name, &whole),
        (Err(_), b"error") => {
            let words = String::from_utf8_lossy(data.trim_ascii());
            failure(dialect, &words.into())
        }
        (Err(_), _) => Seen::Content,
    }
}

fn event(dialect: Dialect, name: &[u8], event: &Value) -> Seen {
    let named = std::str::from_utf8(name).unwrap_or_default();
    let kind = event.get("type").and_then(Value::as_str).unwrap_or(named);
    if NO_CONTENT.contains(&kind) {
        return Seen::Prelude;
    }
    if let Some(error) = error_of(event, kind).or_else(|| choice_error(event)) {
        return failure(dialect, error);
    }
    let part = PARTS.iter().find(|(wanted, _)| *wanted == kind);
    let is_empty = match part {
        Some((_, place)) => event.get(place).is_some_and(is_blank),
        None => is_empty_chunk(event),
    };
    match is_empty {
        true => Seen::Prelude,
        false => Seen::Content,
    }
}

/// The error that an event or a body is about, maybe in words; a chunk with content may carry
/// `"error": null`.
fn error_of<'a>(event: &'a Value, kind: &str) -> Option<&'a Value> {
    let error = match kind {
        "response.failed" => event.pointer("/response/error"),
        // OpenAI's own error event has its fields at the top.
        "error" if event.get("error").is_none() => Some(event),
        _ => event.get("error"),
    };
    error.filter(|error| match error {
        Value::String(words) => !words.is_empty(),
        error => error.is_object(),
    })
}

/// The error of a choice that says nothing (OpenRouter), or the reason for its end where that is one.
fn choice_error(event: &Value) -> Option<&Value> {
    let choice = event.pointer("/choices/0")?;
    let says_nothing = ["delta", "message", "text"]
        .iter()
        .all(|name| choice.get(name).is_none_or(is_blank));
    let error = choice.get("error").filter(|error| error.is_object());
    let reason = choice.get("finish_reason");
    let error = error.or_else(|| reason.filter(|reason| *reason == NO_RESOURCE));
    error.filter(|_| says_nothing)
}

fn failure(dialect: Dialect, error: &Value) -> Seen {
    Seen::Failure {
        status: status(dialect, error),
        body: serde_json::json!({"type": "error", "error": error})
            .to_string()
            .into_bytes(),
    }
}

/// Whether a part of an answer holds nothing yet but labels: an empty text, or the name of a tool
/// before its arguments. Nothing at all in it is something unknown.
fn is_blank(part: &Value) -> bool {
    let Some(fields) = part.as_object() else {
        return false;
    };
    fields.iter().all(|(name, value)| {
        LABELS.contains(&name.as_str())
            || match value {
                Value::Null => true,
                Value::String(text) => text.is_empty(),
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                Value::Bool(_) | Value::Number(_) => false,
            }
    })
}

/// Whether a chunk of a chat completion (OpenAI's `choices`) or of an answer of Gemini's (`candidates`)
/// has no text, no call of a tool and no reason for an end.
fn is_empty_chunk(event: &Value) -> bool {
    let is_empty = |choice: &Value| {
        let ended = ["finish_reason", "finishReason"];
        let has_ended = ended
            .iter()
            .any(|name| choice.get(name).is_some_and(|reason| !reason.is_null()));
        let delta = choice.get("delta").is_some_and(is_blank);
        let parts = choice.pointer("/content/parts").and_then(Value::as_array);
        !has_ended && (delta || parts.is_some_and(|parts| parts.iter().all(is_blank)))
    };
    let list = ["choices", "candidates"]
        .iter()
        .find_map(|name| event.get(name)?.as_array());
    // With what it has cost, an empty list is the last chunk; before that, Azure's report of its filters.
    let usage = event.get("usage").is_some_and(|usage| !usage.is_null());
    list.is_some_and(|list| list.iter().all(is_empty) && !usage)
}

/// The status with which the same error comes when it does not come in a stream: OpenRouter and Gemini
/// say it as a number in `code`, Anthropic has a type for each, OpenAI a code.
fn status(dialect: Dialect, error: &Value) -> u16 {
    let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
    let (kind, code) = (text("type"), text("code"));
    let number = error.get("code").and_then(Value::as_u64);
    let number = number.or_else(|| code.parse().ok());
    if let Some(status) = number.and_then(|number| u16::try_from(number).ok())
        && (400..600).contains(&status)
    {
        return status;
    }
    match (dialect, kind) {
        (Dialect::Anthropic, "overloaded_error") => 529,
        (_, "rate_limit_error" | "insufficient_quota" | "tokens" | "requests") => 429,
        (_, "authentication_error") => 401,
        (_, "billing_error") => 402,
        (_, "permission_error") => 403,
        (_, "not_found_error") => 404,
        (_, "request_too_large") => 413,
        (_, "timeout_error") => 504,
        (_, "overloaded_error") => 503,
        _ => match code {
            "rate_limit_exceeded"
            | "slow_down"
            | "insufficient_quota"
            | "credit_balance_exhausted" => 429,
            code if code.ends_with("_limit_exceeded") => 429,
            "invalid_api_key" => 401,
            "server_is_overloaded" | "overloaded" => 503,
            // With every token it would fail alike (james-6-23/codex2api#310).
            code if OF_THE_REQUEST.iter().any(|first| code.starts_with(first)) => 400,
            _ if kind == "invalid_request_error" => 400,
            _ => 500,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str =
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n";
    const PING: &str = "event: ping\r\ndata: {\"type\": \"ping\"}\r\n\r\n";

    fn openai() -> Dialect {
        crate::providers::by_name("openai").unwrap().dialect
    }

    fn look(dialect: Dialect, text: &str) -> Seen {
        let whole = StreamPrelude::new(dialect).look(text.as_bytes());
        // However it is cut.
        let mut early = StreamPrelude::new(dialect);
        let mut cut = Seen::Prelude;
        for byte in text.as_bytes().chunks(1) {
            cut = early.look(byte);
            if cut != Seen::Prelude {
                break;
            }
        }
        assert_eq!(whole, cut, "{text}");
        whole
    }

    fn status_of(dialect: Dialect, text: &str) -> Option<u16> {
        match look(dialect, text) {
            Seen::Failure { status, .. } => Some(status),
            Seen::Prelude | Seen::Content => None,
        }
    }

    #[test]
    fn an_error_before_content_is_a_failure() {
        let error = |kind: &str| {
            format!(
                "event: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"{kind}\",\"message\":\"x\"}}}}\n\n"
            )
        };
        for (kind, status) in [
            ("overloaded_error", 529),
            ("rate_limit_error", 429),
            ("authentication_error", 401),
            ("api_error", 500),
            ("invalid_request_error", 400),
        ] {
            let first = error(kind);
            assert_eq!(
                status_of(Dialect::Anthropic, &first),
                Some(status),
                "{kind}"
            );
            let later = format!(": hello\n\n{START}{PING}{first}");
            assert_eq!(
                status_of(Dialect::Anthropic, &later),
                Some(status),
                "{kind}"
            );
        }
        for (event, status) in [
            (
                r#"{"error":{"message":"x","type":"requests","code":"rate_limit_exceeded"}}"#,
                429,
            ),
            (
                r#"{"type":"error","code":"rate_limit_exceeded","message":"x"}"#,
                429,
            ),
            (
                r#"{"type":"response.failed","response":{"error":{"code":"server_error"}}}"#,
                500,
            ),
            (
                r#"{"error":{"code":"organization_spend_limit_exceeded"}}"#,
                429,
            ),
            (r#"{"error":{"type":"server_error","code":null}}"#, 500),
            // A number is a status (OpenRouter, Gemini); others are not.
            (r#"{"choices":[],"error":{"code":429,"message":"x"}}"#, 429),
            (r#"{"error":{"code":402,"message":"x"}}"#, 402),
            (r#"{"error":{"code":"503","message":"x"}}"#, 503),
            (r#"{"error":{"code":1302,"message":"x"}}"#, 500),
            (r#"{"error":{"code":200,"type":"tokens"}}"#, 429),
            // OpenRouter says it of a choice, others in words.
            (
                r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":"error","error":{"code":429,"message":"x"}}]}"#,
                429,
            ),
            (
                r#"{"choices":[{"error":{"code":502,"message":"x"}}],"error":null}"#,
                502,
            ),
            (r#"{"error":"rate limit exceeded"}"#, 500),
            (
                r#"{"choices":[{"delta":{"content":""},"finish_reason":"insufficient_system_resource"}]}"#,
                500,
            ),
            // What the request says is wrong.
            (
                r#"{"type":"response.failed","response":{"error":{"code":"context_length_exceeded"}}}"#,
                400,
            ),
            (
                r#"{"type":"error","code":"invalid_prompt","message":"x"}"#,
                400,
            ),
            (r#"{"error":{"code":"invalid_api_key"}}"#, 401),
        ] {
            let text = format!("data: {event}\n\n");
            assert_eq!(status_of(openai(), &text), Some(status), "{event}");
        }
        // What an event is may stand in its name alone.
        let named = "event: error\ndata: {\"code\":\"slow_down\",\"message\":\"x\"}\n\n";
        assert_eq!(status_of(openai(), named), Some(429));
        // Without blank lines.
        let lines = "data: {\"type\":\"ping\"}\nevent: error\ndata: {\"code\":\"slow_down\"}\n";
        assert_eq!(status_of(openai(), lines), Some(429));
        let lines =
            "data: {\"type\":\"ping\"}\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n";
        assert_eq!(look(openai(), lines), Seen::Content);
        // In several lines.
        let lines = "data: {\"error\":\ndata: {\"code\":\"slow_down\"}\ndata: }\n\n";
        assert_eq!(status_of(openai(), lines), Some(429));
        let words = "event: error\ndata: upstream connect error\n\n";
        assert_eq!(status_of(openai(), words), Some(500));
    }

    #[test]
    fn an_error_after_empty_parts_is_one_before_content() {
        let error = "data: {\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\"}}\n\n";
        for event in [
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","name":"Bash","input":{}}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""}}"#,
            r#"{"type":"content_block_stop","index":0}"#,
            r#"{"type":"keepalive","sequence_number":3}"#,
            r#"{"type":"response.in_progress","response":{"id":"r","output":[]}}"#,
            r#"{"type":"response.output_item.added","item":{"id":"i","type":"message","status":"in_progress","content":[],"role":"assistant"}}"#,
            r#"{"type":"response.output_item.added","item":{"id":"i","type":"reasoning","summary":[]}}"#,
            r#"{"type":"response.content_part.added","part":{"type":"output_text","annotations":[],"text":""}}"#,
            r#"{"id":"g","choices":[]}"#,
            r#"{"choices":[],"prompt_filter_results":[{"prompt_index":0}],"usage":null}"#,
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}]}"#,
            r#"{"candidates":[{"content":{"parts":[{"text":""}],"role":"model"},"index":0}]}"#,
        ] {
            let text = format!(": PROCESSING\n\ndata: {event}\n\n");
            assert_eq!(look(openai(), &text), Seen::Prelude, "{event}");
            let text = format!("{text}{error}");
            assert_eq!(status_of(openai(), &text), Some(429), "{event}");
        }
        // The request's instructions and tools come back in it.
        let created = format!(
            "data: {{\"type\":\"response.created\",\"response\":{{\"instructions\":\"{}\"}}}}\n\n{error}",
            "x".repeat(300_000)
        );
        let seen = StreamPrelude::new(openai()).look(created.as_bytes());
        assert!(matches!(seen, Seen::Failure { status: 429, .. }));
    }

    #[test]
    fn an_answer_that_is_nothing_but_an_error_is_one() {
        let status_of = |body: &str| match lone_error(openai(), body.as_bytes()) {
            Seen::Failure { status, .. } => Some(status),
            Seen::Prelude | Seen::Content => None,
        };
        for (body, status) in [
            (r#"{"error":{"code":429,"message":"x"},"user_id":"u"}"#, 429),
            (
                r#" {"type":"error","error":{"type":"overloaded_error"}}"#,
                503,
            ),
            (r#"[{"error":{"code":503,"status":"UNAVAILABLE"}}]"#, 503),
            (r#"{"error":"in words"}"#, 500),
            (
                r#"{"choices":[{"message":{"content":""},"finish_reason":"insufficient_system_resource"}]}"#,
                500,
            ),
            (
                r#"{"object":"chat.completion","choices":[{"message":{"role":"assistant","content":""},"finish_reason":"error","error":{"code":429,"message":"x"}}]}"#,
                429,
            ),
        ] {
            assert_eq!(status_of(body), Some(status), "{body}");
        }
        for body in [
            r#"{"id":"g","choices":[],"error":{"code":429}}"#,
            r#"{"object":"response","error":{"code":"server_error"},"output":[]}"#,
            r#"{"id":"g","error":null}"#,
            r#"{"error":""}"#,
            r#"{"id":"g","choices":[{"message":{"content":"half"},"error":{"code":429}}]}"#,
            r#"{"choices":[{"message":{"content":"half"},"finish_reason":"insufficient_system_resource"}]}"#,
            r#"{"id":"g","choices":[{"message":{"content":""},"error":null}]}"#,
            r#"{"id":"g","choices":[{"error":"in words","text":"half"}]}"#,
            r#""error""#,
            r#"{"error":"#,
            "",
        ] {
            assert_eq!(status_of(body), None, "{body}");
        }
    }

    #[test]
    fn what_is_not_an_error_event_is_content() {
        for text in [
            "data: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"text\",\"text\":\"error\"}}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"error\":null}\n\n",
            "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"error\":{\"code\":429}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"t\"}]}}]}\n\n",
            "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}]}\n\n",
            "data: {\"promptFeedback\":{\"blockReason\":\"SAFETY\"}}\n\n",
            "data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\"}}\n\n",
            "data: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"redacted_thinking\",\"data\":\"x\"}}\n\n",
            "data: {\"type\":\"content_block_start\"}\n\n",
            // A message that ends in order has said that nothing is to be said.
            "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}\n\n",
            "data: {\"type\":\"response.completed\",\"response\":{\"error\":null}}\n\n",
            "data: {\"type\":\"codex.rate_limits\",\"limit_reached\":true}\n\n",
            "data: not json\n\n",
        ] {
            assert_eq!(look(Dialect::Anthropic, text), Seen::Content, "{text}");
        }
        assert_eq!(look(Dialect::Anthropic, START), Seen::Prelude);
        assert_eq!(
            look(Dialect::Anthropic, &format!("{START}{PING}: x\n\n")),
            Seen::Prelude
        );
        let endless = "x".repeat(600_000);
        let seen = StreamPrelude::new(Dialect::Anthropic).look(endless.as_bytes());
        assert_eq!(seen, Seen::Content);
        // An end that says so is one, with nothing before it.
        assert_eq!(status_of(openai(), "data: [DONE]\n\n"), Some(502));
    }
}
