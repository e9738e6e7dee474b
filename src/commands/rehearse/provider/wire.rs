//! What the built-in provider's parts hand to each other: a request, its answer, and all that an
//! answer is made from.
//!
//! Data, and the trait that the two wire formats implement. Pure.

use super::scenario::Fault;
use super::state::{Costs, Refusal, Window};
use serde_json::Value;
use std::time::SystemTime;

/// A request, read completely.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// As on the request line, with the query.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the client wants to go on with this connection.
    pub(crate) keep_alive: bool,
    /// Whether the client understands a chunked answer.
    pub(crate) chunked_ok: bool,
}

impl Request {
    /// The first value of a header; `name` in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The path without query, scheme and host.
    pub(crate) fn path(&self) -> &str {
        let target = self.target.split(['?', '#']).next().unwrap_or_default();
        match target.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
            None => target,
        }
    }

    /// Whether it is ddollar's own probe, or someone else's request.
    pub(crate) fn is_ddollars(&self) -> bool {
        self.header("user-agent")
            .is_some_and(|agent| agent.starts_with("ddollar/"))
    }
}

/// A response as data. Length and connection headers are the server's business.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Body,
}

/// What follows the headers.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Whole(String),
    /// The events of a stream, sent one by one.
    Events(Vec<String>),
}

impl Body {
    /// Of what is served: JSON, or events of it.
    pub(crate) fn content_type(&self) -> &'static str {
        match self {
            Body::Events(_) => "text/event-stream; charset=utf-8",
            Body::Whole(_) => "application/json",
        }
    }
}

/// Who asked for what; for the observer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Note {
    /// `anthropic#1`, or `unknown`.
    pub(crate) token_label: String,
    /// The organization's name in the scenario; empty for an unknown token.
    pub(crate) organization: String,
    /// The model asked for; empty when none was.
    pub(crate) model: String,
    /// Whether the request asked for a stream.
    pub(crate) streamed: bool,
}

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Messages,
    CountTokens,
    ChatCompletions,
    Responses,
    Models,
}

impl Endpoint {
    /// Whether it draws on the limits and tells about them.
    pub(crate) fn is_limited(self) -> bool {
        !matches!(self, Endpoint::Models | Endpoint::CountTokens)
    }
}

/// When an answer is made, and its serial number for the request id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) wall: SystemTime,
    pub(crate) serial: u64,
}

/// A request with a known token, and all that its answer is made from.
pub(crate) struct Call {
    pub(crate) stamp: Stamp,
    pub(crate) endpoint: Endpoint,
    /// The value of the identity header.
    pub(crate) organization_id: String,
    pub(crate) project: String,
    /// The buckets as the answer is to tell them.
    pub(crate) windows: Vec<Window>,
    /// The model asked for; empty when none was.
    pub(crate) model: String,
    pub(crate) streamed: bool,
    /// The request's body; null when it is not JSON.
    pub(crate) body: Value,
    pub(crate) costs: Costs,
    /// The models that exist; nothing means every model does.
    pub(crate) models: Option<Vec<String>>,
    pub(crate) refuse_max_tokens_0: bool,
}

impl Call {
    /// Whether the endpoint draws on the limits and tells about them.
    pub(crate) fn limited(&self) -> bool {
        self.endpoint.is_limited()
    }
}

/// How one provider says things.
pub(crate) trait WireFormat {
    /// The token is not known.
    fn unknown_token(&self, stamp: Stamp) -> Response;
    /// There is no such endpoint.
    fn nowhere(&self, stamp: Stamp) -> Response;
    /// 500, 503 or 529.
    fn down(&self, stamp: Stamp, status: u16) -> Response;
    /// What is wrong with the request, if anything is.
    fn check(&self, call: &Call) -> Option<Response>;
    /// A limit is used up.
    fn refused(&self, call: &Call, refusal: &Refusal) -> Response;
    /// The usual answer.
    fn usual(&self, call: &Call) -> Response;
    /// A fault that has an ordinary HTTP shape; the usual answer for any other.
    fn fault(&self, call: &Call, fault: &Fault) -> Response;
}
