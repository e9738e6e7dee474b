//! What the proxy says itself: refusals in the provider's own shape, status, metrics, export lines.
//!
//! It promises that no token and no part of a request is in any of it. Pure.

use super::balancer::TokenReport;
use crate::common::http::response::put_head;
use crate::common::json::{Object, list};
use crate::common::time::Now;
use crate::events::schema::{millis, time};
use crate::events::token_status::TokenStatus;
use crate::providers::{Dialect, Provider};
use serde_json::json;
use std::fmt::Write as _;
use std::time::Duration;

/// A response of the proxy's own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LocalResponse {
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    pub(crate) body: String,
    /// In whole seconds, rounded up.
    pub(crate) retry_after: Option<u64>,
}

impl LocalResponse {
    /// A refusal: `kind` is the error's type for a program, `why` is for people.
    pub(crate) fn error(
        dialect: Option<Dialect>,
        status: u16,
        kind: &str,
        why: &str,
    ) -> LocalResponse {
        let message = format!("ddollar: {why}");
        let body = match dialect {
            Some(Dialect::Chat(_)) => json!({
                "error": {"message": message, "type": kind, "param": null, "code": kind}
            }),
            _ => json!({"type": "error", "error": {"type": kind, "message": message}}),
        };
        LocalResponse {
            status,
            kind: "application/json",
            body: body.to_string(),
            retry_after: None,
        }
    }

    /// Every token is spent, and the first one will be good again after this time. A client that
    /// can wait waits for it; one that cannot tells its user.
    pub(crate) fn exhausted(provider: &Provider, wait: Option<Duration>) -> LocalResponse {
        let label = provider.label;
        let why = match wait {
            Some(_) => format!("every {label} token is spent; retry-after says when one is not"),
            None => format!("no {label} token is left that can recover by waiting"),
        };
        let kind = match provider.dialect {
            Dialect::Chat(_) if wait.is_none() => "insufficient_quota",
            Dialect::Chat(_) => "rate_limit_exceeded",
            Dialect::Anthropic | Dialect::Gemini => "rate_limit_error",
        };
        LocalResponse {
            retry_after: wait.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0)),
            ..LocalResponse::error(Some(provider.dialect), 429, kind, &why)
        }
    }

    /// A text.
    pub(crate) fn text(kind: &'static str, body: String) -> LocalResponse {
        LocalResponse {
            status: 200,
            kind,
            body,
            retry_after: None,
        }
    }

    /// Head and body as they go to the client; to a `HEAD` request the head alone.
    pub(crate) fn bytes(&self, keep_alive: bool, to_head: bool) -> Vec<u8> {
        let seconds = self.retry_after.map(|seconds| seconds.to_string());
        let wait = seconds.as_deref().map(|seconds| ("retry-after", seconds));
        // Nothing changes by asking again: Anthropic's and OpenAI's SDKs heed this.
        let never = self.status == 429 && wait.is_none();
        let never = never.then_some(("x-should-retry", "false"));
        let fields = [("content-type", self.kind)];
        let fields = fields.into_iter().chain(wait).chain(never);
        let mut bytes = Vec::with_capacity(256 + self.body.len());
        put_head(
            &mut bytes,
            self.status,
            fields,
            Some(self.body.len()),
            keep_alive,
        );
        if !to_head {
            bytes.extend_from_slice(self.body.as_bytes());
        }
        bytes
    }
}

/// Numbers of the proxy as a whole, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) connections: usize,
    pub(crate) requests: u64,
    /// Attempts beyond the first one of a request.
    pub(crate) retries: u64,
    /// Requests that waited for a reset.
    pub(crate) held: u64,
}

/// How things stand, as JSON on one line. Of tokens it tells what `ddollar status --json` does, in the
/// same words, and what only the proxy knows.
pub(crate) fn status<'a>(
    counts: Counts,
    reports: impl Iterator<Item = TokenReport<'a>>,
    now: Now,
) -> String {
    let tokens = reports.map(|report| {
        let status = TokenStatus {
            provider: report.token.provider,
            number: report.token.number(),
            of: report.token.of,
            ending: report.ending,
            name: report.token.name,
            group: report.group,
            condition: report.condition,
            why: None,
            usage: report.usage,
        };
        status
            .object()
            .raw("in_use", report.in_use)
            .raw("under_way", report.under_way)
            .raw("served", report.served)
            .raw("refused", report.refused)
            .end()
    });
    let status = time(Object::new().raw("status", 1), "at", millis(now.wall))
        .text("version", env!("CARGO_PKG_VERSION"))
        .raw("connections", counts.connections)
        .raw("requests", counts.requests)
        .raw("retries", counts.retries)
        .raw("held", counts.held)
        .raw("tokens", list(tokens));
    status.end() + "\n"
}

/// The same in Prometheus' text format.
pub(crate) fn metrics<'a>(
    counts: Counts,
    reports: impl Iterator<Item = TokenReport<'a>>,
) -> String {
    let mut text = String::new();
    for (name, kind, value) in [
        ("connections", "gauge", counts.connections as u64),
        ("requests_total", "counter", counts.requests),
        ("retries_total", "counter", counts.retries),
        ("held_total", "counter", counts.held),
    ] {
        let _ = writeln!(text, "# TYPE ddollar_{name} {kind}\nddollar_{name} {value}");
    }
    let reports: Vec<TokenReport<'_>> = reports.collect();
    type Sample = fn(&TokenReport<'_>) -> f64;
    let samples: [(&str, &str, Sample); 5] = [
        ("token_usable", "gauge", |report| {
            f64::from(u8::from(!report.condition.is_refused()))
        }),
        ("token_utilization", "gauge", |report| {
            report
                .usage
                .binding()
                .map_or(0.0, |window| window.utilization)
        }),
        ("token_in_use", "gauge", |report| {
            f64::from(u8::from(report.in_use))
        }),
        ("token_served_total", "counter", |report| {
            report.served as f64
        }),
        ("token_refused_total", "counter", |report| {
            report.refused as f64
        }),
    ];
    for (name, kind, sample) in samples {
        let _ = writeln!(text, "# TYPE ddollar_{name} {kind}");
        for report in &reports {
            let _ = writeln!(
                text,
                "ddollar_{name}{{provider=\"{}\",token=\"{}\"}} {}",
                report.token.provider.name,
                report.token.number(),
                sample(report)
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::by_name;
    use serde_json::Value;

    #[test]
    fn a_refusal_has_the_shape_of_the_provider() {
        let of = |name: &str, wait| {
            let own = LocalResponse::exhausted(by_name(name).unwrap(), wait);
            let body: Value = serde_json::from_str(&own.body).unwrap();
            (own, body)
        };
        let (own, body) = of("anthropic", Some(Duration::from_millis(1500)));
        assert_eq!((own.status, own.retry_after), (429, Some(2)));
        assert_eq!(body["type"], "error");
        assert_eq!(body["error"]["type"], "rate_limit_error");
        let head = String::from_utf8(own.bytes(false, true)).unwrap();
        assert!(
            head.starts_with("HTTP/1.1 429 Too Many Requests\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nretry-after: 2\r\n"), "{head}");
        assert!(head.ends_with("\r\nconnection: close\r\n\r\n"), "{head}");
        let (own, body) = of("openai", None);
        assert_eq!(body["error"]["code"], "insufficient_quota");
        let whole = String::from_utf8(own.bytes(true, false)).unwrap();
        assert!(
            whole.contains("\r\nx-should-retry: false\r\n\r\n{"),
            "{whole}"
        );
    }
}
