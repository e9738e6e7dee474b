//! The beginning of a stream of events: does it start to answer, or does it fail at once?
//!
//! A provider may answer 200 and then fail in the first events (facts/providers.md §1.3, traps T16
//! and T17). It promises that only an error event counts as a failure, that anything unknown counts
//! as content, and that nothing after the first content is looked at. Pure.

use crate::providers::Dialect;
use serde_json::Value;

/// Events that come before any content, as `type` says: Anthropic's, and those of OpenAI's
/// Responses API. Chat completions have none; their first chunk is content.
const PRELUDE: [&str; 5] = [
    "message_start",
    "ping",
    "response.created",
    "response.queued",
    "response.in_progress",
];
/// An event larger than this is no error.
const LARGEST_EVENT: usize = 64 * 1024;

/// What the stream has shown so far.
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
    /// The data lines of the event that has not ended yet.
    data: Vec<u8>,
}

impl StreamPrelude {
    /// At the start of a stream.
    pub(crate) fn new(dialect: Dialect) -> StreamPrelude {
        StreamPrelude {
            dialect,
            line: Vec::new(),
            data: Vec::new(),
        }
    }

    /// Looks at the next piece.
    pub(crate) fn look(&mut self, piece: &[u8]) -> Seen {
        for byte in piece {
            // A CR before the LF is white space; streams with lone CRs are not in use.
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() + self.data.len() > LARGEST_EVENT {
                    return Seen::Content;
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = line.trim_ascii_end();
            if let Some(data) = line.strip_prefix(b"data:") {
                self.data.extend_from_slice(data.trim_ascii_start());
                self.data.push(b'\n');
            } else if line.is_empty() && !self.data.is_empty() {
                let data = std::mem::take(&mut self.data);
                match self.event(&data) {
                    Seen::Prelude => {}
                    seen => return seen,
                }
            }
        }
        Seen::Prelude
    }

    fn event(&self, data: &[u8]) -> Seen {
        let Ok(event) = serde_json::from_slice::<Value>(data) else {
            return Seen::Content;
        };
        let kind = event
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if PRELUDE.contains(&kind) {
            return Seen::Prelude;
        }
        let error = match kind {
            "response.failed" => event.pointer("/response/error"),
            // OpenAI's own error event has its fields at the top.
            "error" if event.get("error").is_none() => Some(&event),
            _ => event.get("error"),
        };
        // A chunk with content may carry `"error": null`.
        match error {
            Some(error) if error.is_object() => Seen::Failure {
                status: status(self.dialect, error),
                body: serde_json::json!({"type": "error", "error": error})
                    .to_string()
                    .into_bytes(),
            },
            _ => Seen::Content,
        }
    }
}

/// The status with which the same error comes when it does not come in a stream
/// (facts/providers.md §1.3 and §2).
fn status(dialect: Dialect, error: &Value) -> u16 {
    let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
    let (kind, code) = (text("type"), text("code"));
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
        ] {
            let text = format!("data: {event}\n\n");
            assert_eq!(status_of(openai(), &text), Some(status), "{event}");
        }
    }

    #[test]
    fn what_is_not_an_error_event_is_content() {
        for text in [
            "data: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"text\",\"text\":\"error\"}}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"\"}}],\"error\":null}\n\n",
            "data: {\"type\":\"codex.rate_limits\",\"limit_reached\":true}\n\n",
            "data: [DONE]\n\n",
            "data: not json\n\n",
        ] {
            assert_eq!(look(Dialect::Anthropic, text), Seen::Content, "{text}");
        }
        assert_eq!(look(Dialect::Anthropic, START), Seen::Prelude);
        assert_eq!(
            look(Dialect::Anthropic, &format!("{START}{PING}: x\n\n")),
            Seen::Prelude
        );
        let endless = "x".repeat(70_000);
        assert_eq!(look(Dialect::Anthropic, &endless), Seen::Content);
    }
}
