//! The providers: who they are, how to ask one for its limits, and what its answer means.
//!
//! Owns: probes as data, and the reading of a response's status, headers and body. The table of
//! providers is in `table.rs`, what only one of them says in a file of its own.
//! Promises: pure; the same reply and `now` give the same reading. No reply makes it panic. The
//! cause of a failure is read from the status and machine-readable fields, and from the three
//! message prefixes that the vendor documents, never from other prose. Nothing of a body or of an
//! unknown header gets into a reading, as a provider may echo a token; what it says of a refusal is for
//! people alone, and passes the mask first.
//! Does not: send anything, see a token, know a clock, or decide what follows from a reading (see
//! `policy`).

mod account; // free endpoints: is the token accepted, what is left of the money
mod anthropic;
pub(crate) mod endpoint;
mod gemini;
pub(crate) mod meter; // LLM tokens that an answer has cost
pub(crate) mod monitor;
mod openai; // and all that speak like it
pub(crate) mod schedule;
pub(crate) mod scope;
mod table; // who they are
mod times;
pub(crate) mod tls;
pub(crate) mod usage;

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use crate::common::http::headers::Headers;
use crate::common::mask::masked;
use crate::common::visible::visible;
use http::Method;
use miniz_oxide::inflate::{decompress_to_vec_with_limit, decompress_to_vec_zlib_with_limit};
use serde_json::Value;

use crate::providers::scope::EndpointKind;
use crate::providers::times::Clock;
use crate::providers::usage::Usage;

pub(crate) use table::PROVIDERS;

/// An API that issues tokens: one row of [`PROVIDERS`]. Rows come from the vendors' references and
/// from recorded answers.
#[derive(Debug)]
pub(crate) struct Provider {
    /// For `--provider`, paths of the proxy and the state file: lower-case ASCII letters, unique.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) label: &'static str,
    /// Environment variables that hold a token: the main one first, then aliases of other tools.
    /// Never empty; no variable belongs to two providers.
    pub(crate) token_variables: &'static [&'static str],
    /// Where requests go unless `base_url_variable` says otherwise: https, no `/` at the end. With
    /// or without a version (`/v1`), as the vendor's own variable has it, so that a user's value
    /// can take its place.
    pub(crate) base_url: &'static str,
    /// What stands between the base URL and every endpoint, where the vendor's base URL goes without
    /// it: the version of its API, with a `/` before it. Clients that expect it in the base URL leave it
    /// out.
    pub(crate) version: &'static str,
    /// The variable for another base URL: the vendor's own, or, where there is none or it goes
    /// without the version that `base_url` has (Groq, Cerebras, Fireworks), that of LiteLLM, which
    /// aider and many others read.
    pub(crate) base_url_variable: Option<&'static str>,
    /// The variable that says which model the child asks for.
    pub(crate) model_variable: Option<&'static str>,
    /// What a probe asks for when nobody says which model the child uses. Empty when not known.
    pub(crate) cheapest_model: &'static str,
    /// How a model is asked, and what the answer looks like.
    pub(crate) dialect: Dialect,
    /// Whether an answer of a model tells limits. If not, a model is asked only when the token is
    /// needed: when the command fails, before a rotation and before the end of a wait.
    pub(crate) tells_limits: bool,
    /// What can be asked for free. `None`: nothing that would tell anything.
    pub(crate) free: Option<Free>,
}

/// A way to ask a model and to read the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dialect {
    /// `POST /v1/messages`, `anthropic-ratelimit-*`.
    Anthropic,
    /// `POST …/chat/completions`, `x-ratelimit-*`, and what differs among those that do so.
    Chat(openai::Chat),
    /// `POST …:generateContent`, no limits but in the body of a 429.
    Gemini,
}

/// A free endpoint, under the base URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Free {
    /// The list of models at this path: it shows whether the token is accepted.
    Models(&'static str),
    /// OpenRouter's `GET /key`.
    OpenRouterKey,
    /// DeepSeek's `GET /user/balance`.
    DeepSeekBalance,
}

/// What a request is about, and so what its answer can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeTarget {
    /// A model: a minimal request to it.
    Model,
    /// The token or its account: [`Free`].
    Account,
    /// Whatever the command has asked for: a refusal may be about that.
    Traffic,
}

/// How far a refusal proves what it says of its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Testimony {
    /// It does, or nothing was refused.
    Clear,
    /// The token may be to blame, or the request: with a token of another quota group it shows.
    Ambiguous,
    /// What was asked for is not there; it may belong to another organization.
    Absent,
}

/// The row of that name (exact, lower case).
pub(crate) fn by_name(name: &str) -> Option<&'static Provider> {
    PROVIDERS.iter().find(|provider| provider.name == name)
}

/// Which form of the probe to send. A caller that remembers which one worked saves a request at
/// every interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ProbeForm {
    /// The cheapest legal form: Anthropic `max_tokens` 0, OpenAI `max_completion_tokens` 16.
    #[default]
    First,
    /// For servers that refuse it: Anthropic `max_tokens` 1, OpenAI `max_tokens` 16.
    Fallback,
}

/// How the caller attaches the token. The pure code never sees one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authorization {
    /// `x-api-key: TOKEN`
    XApiKey,
    /// `authorization: Bearer TOKEN`
    Bearer,
    /// `api-key: TOKEN` (Azure)
    ApiKey,
    /// `x-goog-api-key: TOKEN`
    XGoogApiKey,
}

impl Authorization {
    /// The header that carries the token.
    pub(crate) fn header_name(self) -> &'static str {
        match self {
            Authorization::XApiKey => "x-api-key",
            Authorization::Bearer => "authorization",
            Authorization::ApiKey => "api-key",
            Authorization::XGoogApiKey => "x-goog-api-key",
        }
    }

    /// What stands before the token in that header.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Authorization::Bearer => "Bearer ",
            _ => "",
        }
    }
}

/// A request that makes a provider tell its limits, as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbeRequest {
    /// The method.
    pub(crate) method: Method,
    /// Begins with `/`; see [`ProbeRequest::url`].
    pub(crate) path: String,
    /// Never the token.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// JSON; empty for a GET.
    pub(crate) body: String,
    /// How to attach the token.
    pub(crate) authorization: Authorization,
}

impl ProbeRequest {
    /// The full URL under a base URL that may end in `/`.
    pub(crate) fn url(&self, base_url: &str) -> String {
        format!("{}{}", base_url.trim_end_matches('/'), self.path)
    }
}

/// What came back: from a probe, or for a request of the child.
#[derive(Clone)]
pub(crate) struct Reply {
    /// The HTTP status.
    pub(crate) status: u16,
    /// All of them.
    pub(crate) headers: Headers,
    /// At most 64 KiB, maybe cut off, maybe empty. Looked at on a status of 400 and up, and in the
    /// answer about an account.
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The body without the compression that nobody has asked for, as far as it is known; nothing
    /// where it is not.
    fn text(&self) -> Cow<'_, [u8]> {
        let coding = self.headers.get("content-encoding").map(str::trim);
        let inflated = match coding.map(str::to_ascii_lowercase).as_deref() {
            None | Some("" | "identity") => return Cow::Borrowed(&self.body),
            Some("gzip" | "x-gzip") => {
                let deflated = gzip_data(&self.body).unwrap_or_default();
                decompress_to_vec_with_limit(deflated, TEXT_MAX)
            }
            // RFC 9110 §8.4.1.2: with the frame of zlib.
            Some("deflate") => decompress_to_vec_zlib_with_limit(&self.body, TEXT_MAX),
            Some(_) => return Cow::Borrowed(&[]),
        };
        // What is damaged or cut off is as good as it is.
        Cow::Owned(inflated.unwrap_or_else(|error| error.output))
    }
}

/// What follows the header of a gzip member (RFC 1952 §2.3); `None` where there is no whole header.
fn gzip_data(member: &[u8]) -> Option<&[u8]> {
    /// Bits of the flags: a check sum of the header, extra fields, a name, a comment.
    const HCRC: u8 = 1 << 1;
    const EXTRA: u8 = 1 << 2;
    const NAME: u8 = 1 << 3;
    const COMMENT: u8 = 1 << 4;
    let [0x1f, 0x8b, 8, flags, rest @ ..] = member else {
        return None;
    };
    // Time, hints and system.
    let mut rest = rest.get(6..)?;
    if flags & EXTRA != 0 {
        let length = u16::from_le_bytes([*rest.first()?, *rest.get(1)?]);
        rest = rest.get(2 + usize::from(length)..)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|byte| *byte == 0)?;
            rest = rest.get(end + 1..)?;
        }
    }
    match flags & HCRC {
        0 => Some(rest),
        _ => rest.get(2..),
    }
}

/// By hand, because headers and body may echo a token.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .field("headers", &self.headers.len())
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// The answer to one question, as the monitor brings it.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// When the request was sent.
    pub(crate) asked: Instant,
    /// What came back, or why nothing did, in a few words without any token.
    pub(crate) reading: Result<Reading, String>,
}

/// Everything a reply tells about the token it was made with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    /// The windows, read on every status.
    pub(crate) usage: Usage,
    /// What became of the request.
    pub(crate) finding: Finding,
    /// Tokens with the same group draw on the same bucket; visible ASCII. `None` when the reply
    /// does not name one.
    pub(crate) quota_group: Option<String>,
    /// Why the token is refused, in the provider's own words ([`Provider::refusal`]).
    pub(crate) said: Option<String>,
}

/// What became of a request, as far as it concerns the token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Finding {
    /// 2xx, or a refusal that is only about the request but carries limits: the token works.
    Served,
    /// A throughput limit. Waiting helps.
    Limited {
        /// Never zero. `None` when the provider did not say.
        retry_after: Option<Duration>,
    },
    /// A spend limit, or no credit. Waiting a minute does not help.
    SpendCapped {
        /// Later than `now`. `None`: not before somebody pays or raises the limit.
        until: Option<SystemTime>,
    },
    /// The token itself is refused.
    Rejected,
    /// The provider has a bad time; another token would fare no better.
    Overloaded {
        /// Never zero. `None` when the provider did not say; only a 503 or 529 can.
        retry_after: Option<Duration>,
    },
    /// Tells nothing about the token.
    Unclear {
        /// A fragment for people, lower case, no full stop. Fixed text: nothing of the reply is in
        /// it.
        why: &'static str,
    },
}

impl Reading {
    /// How far the answer with this status to a request of `kind` proves what it says of the token.
    pub(crate) fn testimony(&self, status: u16, kind: EndpointKind) -> Testimony {
        let is_spent = || {
            let binding = self.usage.binding();
            binding.is_some_and(|window| window.utilization >= 1.0)
        };
        match (&self.finding, status) {
            // No window that is spent and no time: maybe the request is larger than the limit.
            (Finding::Limited { retry_after: None }, _) if !is_spent() => Testimony::Ambiguous,
            (Finding::Unclear { .. }, 404) => Testimony::Absent,
            // Google says so of a file of another project.
            (Finding::Unclear { .. }, 403) if kind == EndpointKind::Other => Testimony::Absent,
            (Finding::Unclear { .. }, 401..=403 | 413) => Testimony::Ambiguous,
            _ => Testimony::Clear,
        }
    }

    /// This one, completed by the answer to a second question about the same token.
    pub(crate) fn and(mut self, mut second: Reading) -> Reading {
        let known = self.usage.windows;
        second
            .usage
            .windows
            .retain(|window| known.iter().all(|other| other.name != window.name));
        self.usage.windows = known;
        self.usage.windows.append(&mut second.usage.windows);
        Reading {
            usage: self.usage,
            finding: second.finding,
            quota_group: self.quota_group.or(second.quota_group),
            said: self.said.or(second.said),
        }
    }

    /// What is known without asking.
    pub(crate) fn unclear(why: &'static str) -> Reading {
        Reading {
            usage: Usage::default(),
            finding: Finding::Unclear { why },
            quota_group: None,
            said: None,
        }
    }
}

impl Provider {
    /// Why its limits cannot be watched with this address and model, as advice for people: a
    /// fragment. `None`: they can.
    pub(crate) fn unwatched(&self, base_url: &str, model: &str) -> Option<&'static str> {
        if !self.has_address(base_url) {
            return Some("set AZURE_OPENAI_ENDPOINT");
        }
        model.is_empty().then_some("name the model with --model")
    }

    /// What to ask about a token, one after the other: at each interval, or because it is `needed`.
    /// The second question is for when the first is answered well.
    pub(crate) fn subjects(
        &self,
        base_url: &str,
        model: &str,
        needed: bool,
    ) -> impl Iterator<Item = ProbeTarget> + use<> {
        let has_address = self.has_address(base_url);
        let has_model = !model.is_empty();
        let account = self.free.is_some() && !(self.tells_limits && has_model);
        let asks_model = has_model && (self.tells_limits || needed);
        [
            (account && has_address).then_some(ProbeTarget::Account),
            (asks_model && has_address).then_some(ProbeTarget::Model),
        ]
        .into_iter()
        .flatten()
    }

    /// Whether this is an address that somebody has set, where the provider has none of its own.
    fn has_address(&self, base_url: &str) -> bool {
        base_url != self.base_url || !base_url.ends_with(NO_ADDRESS)
    }

    /// How a request carries a token.
    pub(crate) fn authorization(&self) -> Authorization {
        match self.dialect {
            Dialect::Anthropic => Authorization::XApiKey,
            Dialect::Chat(chat) => chat.authorization,
            Dialect::Gemini => Authorization::XGoogApiKey,
        }
    }

    /// The request. `None` when there is nothing to ask, or the model's name cannot be one.
    pub(crate) fn probe(
        &self,
        subject: ProbeTarget,
        model: &str,
        attempt: ProbeForm,
    ) -> Option<ProbeRequest> {
        let authorization = self.authorization();
        match (subject, self.dialect) {
            (ProbeTarget::Account, _) => Some(ProbeRequest {
                method: Method::GET,
                path: self.free?.path().to_owned(),
                headers: vec![("accept", "application/json".to_owned())],
                body: String::new(),
                authorization,
            }),
            _ if model.is_empty() => None,
            (ProbeTarget::Model, Dialect::Anthropic) => Some(anthropic::probe(model, attempt)),
            (ProbeTarget::Model, Dialect::Chat(chat)) => Some(openai::probe(&chat, model, attempt)),
            (ProbeTarget::Model, Dialect::Gemini) => gemini::probe(model),
            (ProbeTarget::Traffic, _) => None,
        }
    }

    /// Whether a 403 of this provider's own is about the token: Google says so of one that was reported
    /// as leaked, and of a project that was denied.
    fn rejects_with_403(&self, reply: &Reply) -> bool {
        matches!(self.dialect, Dialect::Gemini)
            && ErrorBody::of(reply).text("/error/status") == "PERMISSION_DENIED"
    }

    /// Whether a 401 is about what was asked for: OpenAI's tokens may be restricted to some endpoints
    /// ("Missing scopes: model.request", without a code).
    fn is_restricted(&self, reply: &Reply) -> bool {
        self.name == "openai" && !openai::rejects(reply)
    }

    /// The form to try next, at once, when the provider refused this one for its form. `None`: the
    /// reply stands.
    pub(crate) fn next_attempt(
        &self,
        subject: ProbeTarget,
        attempt: ProbeForm,
        reply: &Reply,
    ) -> Option<ProbeForm> {
        // 422 is how compatible servers with a schema validator say 400.
        if subject != ProbeTarget::Model
            || attempt != ProbeForm::First
            || !matches!(reply.status, 400 | 422)
        {
            return None;
        }
        let is_refused_for_its_form = match self.dialect {
            Dialect::Anthropic => anthropic::refuses_first_attempt(reply),
            Dialect::Chat(chat) => openai::refuses_first_attempt(&chat, reply),
            Dialect::Gemini => false,
        };
        is_refused_for_its_form.then_some(ProbeForm::Fallback)
    }

    /// What a reply that came in at `now` (local wall clock) tells.
    pub(crate) fn read(&self, subject: ProbeTarget, reply: &Reply, now: SystemTime) -> Reading {
        let clock = Clock::from_headers(&reply.headers, now);
        let (mut usage, mut particular, quota_group) = match self.dialect {
            Dialect::Anthropic => (
                Usage::from_headers(&reply.headers, clock, anthropic::field_of),
                anthropic::finding(reply, clock),
                anthropic::quota_group(&reply.headers),
            ),
            Dialect::Chat(chat) => (
                Usage::from_headers(&reply.headers, clock, |header| {
                    openai::field_of(&chat, header)
                }),
                openai::finding(reply, clock),
                openai::quota_group(&reply.headers),
            ),
            Dialect::Gemini => (Usage::default(), gemini::finding(reply, clock), None),
        };
        if let (ProbeTarget::Account, Some(free), 200..=299) = (subject, self.free, reply.status) {
            let (windows, finding) = account::read(free, reply, clock);
            usage.windows.extend(windows);
            particular = finding;
        }
        // A window of seconds is full again before anyone can act on it, and the probe itself may
        // have emptied it. It counts when it is what a request was refused for.
        if reply.status != 429 {
            usage
                .windows
                .retain(|window| !window.name.ends_with("second"));
        }
        let is_traffic = subject == ProbeTarget::Traffic;
        let finding = match (particular, reply.status) {
            (Some(finding), _) => finding,
            // A probe asks for next to nothing, and for no file: it is the token that is refused.
            (None, 403) if self.rejects_with_403(reply) && !is_traffic => Finding::Rejected,
            // OpenRouter says so of a request that costs more than is left.
            (None, 402) if is_traffic => Finding::Unclear {
                why: "nothing is left to pay for this request",
            },
            (None, 401) if self.is_restricted(reply) => Finding::Unclear {
                why: "the token may not ask this",
            },
            (None, _) => common_finding(reply, &usage, clock),
        };
        Reading {
            usage,
            finding,
            quota_group,
            said: None,
        }
    }
}

impl Provider {
    /// In a few words, what has answered in the provider's place: a page of a firewall, of a captive
    /// portal or of a load balancer, or a proxy that wants a password. Such an answer says nothing about
    /// a token, whatever its status is: the provider is out of reach. `None`: it is the provider's own.
    pub(crate) fn impostor(&self, reply: &Reply) -> Option<String> {
        let status = reply.status;
        // No provider says this (RFC 9110 §15.5.8).
        if status == 407 {
            return Some("a proxy on the way wants a password (status 407)".into());
        }
        let body = reply.text();
        let begins = |first: &[u8]| body.trim_ascii_start().starts_with(first);
        let is_json = begins(b"{") || begins(b"[") || begins(b"\"");
        let is_page = is_html(&reply.headers) || status >= 400 && begins(b"<") && !is_json;
        // Providers explain their own refusals in JSON.
        let is_bare = status == 403 && !is_json;
        if !is_page && !is_bare || self.has_signed(reply) {
            return None;
        }
        let what = match is_page {
            true => "a web page came back in the place of an answer",
            false => "something on the way refuses the request",
        };
        Some(format!("{what} (status {status})"))
    }

    /// The same for a probe, to which the answer of a good status is JSON.
    pub(crate) fn impostor_of_probe(&self, reply: &Reply) -> Option<String> {
        let text = reply.text();
        let is_json = matches!(text.trim_ascii_start().first(), Some(b'{' | b'['));
        let is_known = reply.status >= 300 || is_json || self.has_signed(reply);
        self.impostor(reply).or_else(|| {
            let why = format!(
                "what came back is no answer of its (status {})",
                reply.status
            );
            (!is_known).then_some(why)
        })
    }

    /// Why a token is refused, in the provider's own words: one line, masked, of at most
    /// [`LONGEST_WORDS`] characters. `None`: it says nothing, or refuses no token.
    pub(crate) fn refusal(&self, reply: &Reply, finding: &Finding) -> Option<String> {
        if !matches!(finding, Finding::Rejected | Finding::SpendCapped { .. }) {
            return None;
        }
        let body = ErrorBody::of_failure(reply)?;
        let places = ["/error/message", "/message", "/detail", "/error"];
        let said = places.map(|place| body.text(place).trim());
        let said = said.into_iter().find(|said| !said.is_empty())?;
        let said = masked(said);
        let line = said.lines().next().unwrap_or_default();
        let line: String = line.chars().take(LONGEST_WORDS).collect();
        Some(visible(line.trim_end_matches('.')).into_owned())
    }

    /// Whether the head of a reply holds what only the provider puts there: limits, the organization,
    /// the request's number.
    fn has_signed(&self, reply: &Reply) -> bool {
        let numbers = ["request-id", "x-request-id"];
        let has_limit = |name: &str| match self.dialect {
            Dialect::Anthropic => anthropic::field_of(name).is_some(),
            Dialect::Chat(chat) => openai::field_of(&chat, name).is_some(),
            Dialect::Gemini => false,
        };
        let mut fields = reply.headers.iter();
        fields.any(|(name, _)| {
            numbers.contains(&name)
                || name.starts_with("anthropic-organization")
                || name.starts_with("openai-organization")
                || has_limit(name)
        })
    }
}

/// Characters of a refusal that people are shown. OpenAI's longest has 130.
const LONGEST_WORDS: usize = 200;

/// The largest error text that is looked at, in bytes: compressed ones may promise gigabytes.
const TEXT_MAX: usize = 64 * 1024;

/// The end of an address that stands for none: RFC 2606 keeps it from ever resolving, so a token
/// cannot end up with a stranger who registered a placeholder.
const NO_ADDRESS: &str = ".invalid";

/// What a status means when no field of the body says otherwise: alike for all providers.
fn common_finding(reply: &Reply, usage: &Usage, clock: Clock) -> Finding {
    let has_limits = !usage.windows.is_empty();
    let why = match reply.status {
        // A captive portal or a wrong base URL likes to answer everything with a page.
        200..=299 if is_html(&reply.headers) && !has_limits => {
            "a web page came back in the place of an answer"
        }
        200..=299 => return Finding::Served,
        300..=399 => "the base URL redirects elsewhere",
        // About our request, not the token. With limits it was accepted and counted, and told us
        // what we want (OpenAI: "Could not finish the message …").
        400 | 413 | 422 if has_limits => return Finding::Served,
        400 | 413 | 422 => "the request itself is refused",
        401 => return Finding::Rejected,
        402 => return Finding::SpendCapped { until: None },
        // 403 is also what firewalls and country blocks say, and these would meet every other token
        // too.
        403 => "access is refused, maybe not for the token",
        404 => "this model or address is not known",
        // The server gave up on a slow request; as passing as a 504.
        408 => return Finding::Overloaded { retry_after: None },
        429 => {
            return Finding::Limited {
                retry_after: times::retry_after(&reply.headers, clock),
            };
        }
        // On any other status `retry-after` does not count: Anthropic was seen to send it on a 200.
        503 | 529 => {
            return Finding::Overloaded {
                retry_after: times::retry_after(&reply.headers, clock),
            };
        }
        // What our own proxy says (RFC 5842 §7.2), and no provider.
        508 => "its address leads back to the proxy",
        500..=599 => return Finding::Overloaded { retry_after: None },
        _ => "the status of the answer is unexpected",
    };
    Finding::Unclear { why }
}

fn is_html(headers: &Headers) -> bool {
    let kind = headers.get("content-type").and_then(|kind| kind.get(..9));
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"))
}

/// The JSON of an error, if it is any.
struct ErrorBody(Value);

impl ErrorBody {
    fn of(reply: &Reply) -> ErrorBody {
        ErrorBody(serde_json::from_slice(&reply.text()).unwrap_or_default())
    }

    /// How long to wait, where only the error itself says so: Google's `RetryInfo`, or the sentence that
    /// OpenAI documents and its clients read ("Please try again in 15.7s.").
    fn wait(&self, clock: Clock) -> Option<Duration> {
        let details = self.0.pointer("/error/details").and_then(Value::as_array);
        let mut details = details.into_iter().flatten();
        let delay =
            details.find_map(|detail| times::reset(detail.get("retryDelay")?.as_str()?, clock));
        let at = delay.or_else(|| try_again_in(self.text("/error/message"), clock))?;
        at.duration_since(clock.now).ok()
    }

    /// `None` on a status below 400: an answer's body can be long, and says nothing about the
    /// token.
    fn of_failure(reply: &Reply) -> Option<ErrorBody> {
        (reply.status >= 400).then(|| ErrorBody::of(reply))
    }

    /// The string at a JSON pointer (RFC 6901); empty when it is missing, null or no string.
    fn text(&self, pointer: &str) -> &str {
        self.0
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}

/// When to try again, out of "… Please try again in 15.7s. Visit …": a number with a unit, which may
/// stand apart from it.
fn try_again_in(message: &str, clock: Clock) -> Option<SystemTime> {
    const BEFORE: &str = "try again in ";
    let (_, rest) = message.split_once(BEFORE)?;
    let mut words = rest.split_whitespace();
    let first = words.next()?;
    let is_number = first
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let span = match is_number {
        true => format!("{first}{}", words.next()?),
        false => first.to_owned(),
    };
    let span = span.trim_end_matches(['.', ',', ';', ')']);
    // A date, or a number without a unit, is something else.
    let is_span = span.starts_with(|c: char| c.is_ascii_digit())
        && span.ends_with(|c: char| c.is_ascii_lowercase());
    is_span.then(|| times::reset(span, clock)).flatten()
}

/// Longest identity taken from a header, in bytes. Real ones are UUIDs and short slugs.
const LONGEST_IDENTITY: usize = 128;

/// An identity from a header: visible ASCII without spaces, not empty, not long. It may be printed
/// and stored.
fn identity<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    let text = headers.get(name)?.trim();
    let is_fit = !text.is_empty()
        && text.len() <= LONGEST_IDENTITY
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_fit.then_some(text)
}

#[cfg(test)]
mod causes_test; // each recorded reply and what it comes to

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::collections::HashSet;

    /// 2026-01-01T00:00:00Z, also the `Date` of most replies in the tests.
    pub(super) fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)
    }

    /// A reply from `name: value` lines as they are recorded.
    pub(super) fn reply(status: u16, head: &str, body: &str) -> Reply {
        let lines = head.lines().map(str::trim).filter(|line| !line.is_empty());
        let fields = lines.map(|line| line.split_once(": ").unwrap());
        Reply {
            status,
            headers: fields
                .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
                .collect(),
            body: body.as_bytes().to_vec(),
        }
    }

    /// `name utilization%` of each window, to compare.
    pub(super) fn percents(usage: &Usage) -> Vec<String> {
        usage
            .windows
            .iter()
            .map(|window| format!("{} {:.1}", window.name, window.utilization * 100.0))
            .collect()
    }

    #[test]
    fn what_answers_in_the_providers_place_is_no_answer() {
        const PAGE: &str = "content-type: text/html; charset=UTF-8";
        let openai = by_name("openai").unwrap();
        let why = |status, head: &str, body: &str| openai.impostor(&reply(status, head, body));
        for status in [200, 401, 403, 404, 429, 502] {
            let said = why(status, PAGE, "<!DOCTYPE html>").unwrap();
            assert!(said.contains(&format!("(status {status})")), "{said}");
        }
        for (status, head, body) in [
            (407, "", ""),
            (407, "content-type: application/json", "{}"),
            (403, "", ""),
            (403, "content-type: text/plain", "Access denied"),
            (403, "cf-ray: 1", "error code: 1020"),
            (503, "", "\n<html>"),
            (401, "content-type: text/plain", "<html>"),
        ] {
            assert!(why(status, head, body).is_some(), "{status} {head} {body}");
        }
        for (status, head, body) in [
            (200, "", ""),
            (200, "content-type: audio/mpeg", "<"),
            (200, "x-request-id: 1\ncontent-type: text/html", "<html>"),
            (403, "", r#"{"error":{"type":"forbidden"}}"#),
            (403, "openai-organization: mine", ""),
            (401, "", ""),
            (429, "", ""),
            (500, "", "error"),
            (404, "x-ratelimit-limit-requests: 5", "<html>"),
        ] {
            assert_eq!(why(status, head, body), None, "{status} {head} {body}");
        }
        let probe = |status, head: &str, body: &str| {
            openai
                .impostor_of_probe(&reply(status, head, body))
                .is_some()
        };
        assert!(probe(200, "", "") && probe(200, "", "You are online.") && probe(403, "", ""));
        assert!(!probe(200, "", " {}") && !probe(200, "", "[") && !probe(429, "", ""));
        assert!(!probe(200, "x-request-id: 1", "data: {}"));
    }

    #[test]
    fn an_error_is_read_also_when_it_comes_compressed() {
        use std::io::Write;
        let text = r#"{"error":{"code":"insufficient_quota"}}"#;
        let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        zip.write_all(text.as_bytes()).unwrap();
        let gzip = zip.finish().unwrap();
        let mut zip = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        zip.write_all(text.as_bytes()).unwrap();
        let deflate = zip.finish().unwrap();
        let read = |coding: &str, body: &[u8]| {
            let mut reply = reply(429, &format!("content-encoding: {coding}"), "");
            reply.body = body.to_vec();
            let openai = by_name("openai").unwrap();
            openai.read(ProbeTarget::Model, &reply, now()).finding
        };
        let capped = Finding::SpendCapped { until: None };
        assert_eq!(read("gzip", &gzip), capped);
        assert_eq!(read("X-GZIP", &gzip), capped);
        assert_eq!(read("deflate", &deflate), capped);
        assert_eq!(read("identity", text.as_bytes()), capped);
        // What cannot be read says no more than the status.
        let limited = Finding::Limited { retry_after: None };
        for (coding, body) in [
            ("br", &gzip[..]),
            ("zstd", &gzip),
            ("gzip", &gzip[..10]),
            ("gzip", b"nonsense"),
            ("deflate", &gzip),
        ] {
            assert_eq!(read(coding, body), limited, "{coding}");
        }
        // A bomb costs no more memory than the bound.
        let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        zip.write_all(&vec![b' '; 50_000_000]).unwrap();
        assert_eq!(read("gzip", &zip.finish().unwrap()), limited);
    }

    #[test]
    fn the_time_in_an_error_is_the_end_of_a_limit() {
        let wait = |body: Value| {
            let openai = by_name("openai").unwrap();
            let reply = reply(429, "", &body.to_string());
            match openai.read(ProbeTarget::Model, &reply, now()).finding {
                Finding::Limited { retry_after } => retry_after.map(|span| span.as_secs_f64()),
                other => panic!("{other:?}"),
            }
        };
        let says =
            |text: &str| wait(json!({"error": {"code": "rate_limit_exceeded", "message": text}}));
        for (text, seconds) in [
            (
                "Limit 30000, Used 29000. Please try again in 15.7s. Visit x",
                15.7,
            ),
            ("Please try again in 250ms.", 0.25),
            ("Please try again in 6m0s.", 360.0),
            ("Please try again in 1h2m3s", 3723.0),
            ("try again in 15 seconds.", 15.0),
            ("try again in 2 minutes, or", 120.0),
        ] {
            assert_eq!(says(text), Some(seconds), "{text}");
        }
        for text in [
            "try again in a moment",
            "try again in 2026",
            "try again in ",
            "try again in 5",
            "try again in -5s",
            "try again later",
            "in 15s",
        ] {
            assert_eq!(says(text), None, "{text}");
        }
        let info = json!({"error": {"code": 429, "details": [{"retryDelay": "42s"}]}});
        assert_eq!(wait(info), Some(42.0));
    }

    #[test]
    fn rows_are_well_formed_and_distinct() {
        let mut names = HashSet::new();
        let mut variables = HashSet::new();
        for provider in PROVIDERS {
            let name = provider.name;
            assert!(names.insert(name), "{name} twice");
            assert!(
                !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase()),
                "{name}"
            );
            assert!(
                !provider.label.is_empty() && provider.label.is_ascii(),
                "{name}"
            );
            assert!(!provider.token_variables.is_empty(), "{name}");
            let all = provider.token_variables.iter().copied();
            for variable in all
                .chain(provider.base_url_variable)
                .chain(provider.model_variable)
            {
                assert!(variables.insert(variable), "{variable} twice");
                assert!(
                    variable
                        .bytes()
                        .all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_')),
                    "{variable} is no variable name"
                );
            }
            // `…_KEYS`, `…_KEYS_FILE` and `…_2` are derived from these and must not meet another
            // row's.
            for variable in provider.token_variables {
                assert!(
                    variable.ends_with("_KEY") || variable.ends_with("_TOKEN"),
                    "{variable}"
                );
            }
            let uri: http::Uri = provider.base_url.parse().unwrap();
            assert_eq!(uri.scheme_str(), Some("https"), "{name}");
            assert!(
                uri.host().is_some_and(|host| host.contains('.')) && uri.query().is_none(),
                "{name}"
            );
            assert!(
                provider.base_url.is_ascii() && !provider.base_url.ends_with('/'),
                "{name}"
            );
            if let Some(free) = provider.free {
                assert!(free.path().starts_with('/'), "{name}");
            }
            assert_eq!(by_name(name).map(|found| found.label), Some(provider.label));
        }
        assert_eq!(PROVIDERS.len(), 15);
        assert!(by_name("Anthropic").is_none() && by_name("").is_none());
    }

    #[test]
    fn base_urls_and_paths_meet() {
        let url = |name: &str| {
            let provider = by_name(name).unwrap();
            provider
                .probe(ProbeTarget::Model, "m", ProbeForm::First)
                .unwrap()
                .url(&format!("{}/", provider.base_url))
        };
        assert_eq!(url("anthropic"), "https://api.anthropic.com/v1/messages");
        assert_eq!(url("openai"), "https://api.openai.com/v1/chat/completions");
    }

    #[test]
    fn what_is_asked_follows_from_the_row() {
        const HERE: &str = "https://example.com";
        let plan = |name: &str, model: &str, needed| -> Vec<ProbeTarget> {
            by_name(name)
                .unwrap()
                .subjects(HERE, model, needed)
                .collect()
        };
        use ProbeTarget::{Account, Model};
        for (name, no_model, check, needed) in [
            ("openai", vec![Account], vec![Model], vec![Model]),
            ("groq", vec![Account], vec![Model], vec![Model]),
            // The list of models is public.
            ("huggingface", vec![], vec![Model], vec![Model]),
            (
                "openrouter",
                vec![Account],
                vec![Account],
                vec![Account, Model],
            ),
            (
                "deepseek",
                vec![Account],
                vec![Account],
                vec![Account, Model],
            ),
            ("gemini", vec![Account], vec![Account], vec![Account, Model]),
            // Each request costs.
            ("cohere", vec![], vec![], vec![Model]),
            ("perplexity", vec![], vec![], vec![Model]),
        ] {
            assert_eq!(plan(name, "", false), no_model, "{name}");
            assert_eq!(plan(name, "m", false), check, "{name}");
            assert_eq!(plan(name, "m", true), needed, "{name}");
        }
        // Whatever is to be asked can be asked, and where nothing can, the user is told why.
        for provider in PROVIDERS {
            for (model, needed) in [("", false), ("", true), ("m", false), ("m", true)] {
                for subject in provider.subjects(HERE, model, needed) {
                    let probe = provider.probe(subject, model, ProbeForm::First).unwrap();
                    assert!(probe.path.starts_with('/'), "{}", provider.name);
                    assert_eq!(probe.body.is_empty(), probe.method == Method::GET);
                }
                let asks = provider.subjects(HERE, model, true).next().is_some();
                assert!(
                    asks || provider.unwatched(HERE, model).is_some(),
                    "{}",
                    provider.name
                );
            }
        }
    }

    #[test]
    fn a_token_is_not_sent_to_a_placeholder() {
        let azure = by_name("azure").unwrap();
        assert_eq!(azure.subjects(azure.base_url, "m", true).count(), 0);
        assert!(
            azure
                .unwatched(azure.base_url, "m")
                .unwrap()
                .contains("AZURE_OPENAI_ENDPOINT")
        );
        // Another's name may end like it.
        let anthropic = by_name("anthropic").unwrap();
        assert_eq!(anthropic.unwatched("https://gateway.invalid", "m"), None);
        assert_eq!(
            azure
                .subjects("https://res.openai.azure.com", "m", false)
                .count(),
            1
        );
        let probe = azure
            .probe(ProbeTarget::Model, "my-deployment", ProbeForm::First)
            .unwrap();
        assert_eq!(
            probe.url("https://res.openai.azure.com/"),
            "https://res.openai.azure.com/openai/v1/chat/completions"
        );
        assert_eq!(probe.authorization.header_name(), "api-key");
    }

    #[test]
    fn a_second_answer_completes_the_first() {
        let window = |name: &str, utilization| crate::providers::usage::Window {
            name: name.to_owned(),
            limit: None,
            remaining: None,
            utilization,
            resets_at: None,
        };
        let reading =
            |windows: Vec<crate::providers::usage::Window>, finding, group: Option<&str>| Reading {
                usage: Usage { windows },
                finding,
                quota_group: group.map(str::to_owned),
                said: None,
            };
        let first = reading(vec![window("credits", 0.5)], Finding::Served, None);
        let limited = Finding::Limited { retry_after: None };
        let second = reading(
            vec![window("credits", 0.9), window("requests", 1.0)],
            limited.clone(),
            Some("g"),
        );
        let both = first.and(second);
        assert_eq!(percents(&both.usage), ["credits 50.0", "requests 100.0"]);
        assert_eq!(
            (both.finding, both.quota_group.as_deref()),
            (limited, Some("g"))
        );
    }

    #[test]
    fn no_model_no_probe() {
        assert_eq!(
            by_name("anthropic")
                .unwrap()
                .probe(ProbeTarget::Model, "", ProbeForm::First),
            None
        );
    }

    #[test]
    fn statuses_that_all_share() {
        let bad = |retry_after: Option<u64>| Finding::Overloaded {
            retry_after: retry_after.map(Duration::from_secs),
        };
        for name in ["anthropic", "openai"] {
            let read = |status| {
                by_name(name)
                    .unwrap()
                    .read(
                        ProbeTarget::Model,
                        &reply(status, "retry-after: 7", "garbage"),
                        now(),
                    )
                    .finding
            };
            assert_eq!(read(200), Finding::Served);
            assert_eq!(read(204), Finding::Served);
            match name {
                // A restricted token gets one without a code as well.
                "openai" => assert!(matches!(read(401), Finding::Unclear { .. })),
                _ => assert_eq!(read(401), Finding::Rejected),
            }
            assert_eq!(read(402), Finding::SpendCapped { until: None });
            assert_eq!(
                read(429),
                Finding::Limited {
                    retry_after: Some(Duration::from_secs(7))
                }
            );
            assert_eq!(read(503), bad(Some(7)));
            assert_eq!(read(529), bad(Some(7)));
            for status in [408, 500, 502, 504, 520, 524, 599] {
                assert_eq!(read(status), bad(None), "{status}");
            }
            for status in [
                0, 100, 199, 301, 302, 307, 400, 403, 404, 405, 409, 413, 418, 422, 451, 499, 600,
                999,
            ] {
                assert!(matches!(read(status), Finding::Unclear { .. }), "{status}");
            }
        }
    }

    #[test]
    fn a_web_page_is_no_answer() {
        let page = reply(
            200,
            "content-type: Text/HTML; charset=utf-8",
            "<!doctype html>",
        );
        for name in ["anthropic", "openai"] {
            assert!(matches!(
                by_name(name)
                    .unwrap()
                    .read(ProbeTarget::Model, &page, now())
                    .finding,
                Finding::Unclear { .. }
            ));
        }
    }

    #[test]
    fn nothing_that_echoes_a_token_is_passed_on() {
        const SECRET: &str = "sk-ant-api03-SECRET";
        let head = format!(
            "www-authenticate: {SECRET}\nx-ratelimit-limit-requests: {SECRET}\nretry-after: {SECRET}"
        );
        for status in [
            200, 302, 400, 401, 402, 403, 404, 418, 422, 429, 500, 503, 529,
        ] {
            let body = format!(
                r#"{{"type":"error","error":{{"type":"{SECRET}","code":"{SECRET}","message":"bad key {SECRET}"}}}}"#
            );
            let reply = reply(status, &head, &body);
            assert!(!format!("{reply:?}").contains("SECRET"));
            for provider in PROVIDERS {
                let reading = provider.read(ProbeTarget::Model, &reply, now());
                assert!(
                    !format!("{reading:?}").contains("SECRET"),
                    "{status} {reading:?}"
                );
            }
        }
    }

    #[test]
    fn identities_are_checked() {
        let of = |value: &[u8]| {
            let headers: Headers = [(&b"id"[..], value)].into_iter().collect();
            identity(&headers, "id").map(str::to_owned)
        };
        assert_eq!(of(b"traceloop").as_deref(), Some("traceloop"));
        assert_eq!(of(&[b'a'; 128]).map(|id| id.len()), Some(128));
        assert_eq!(of(&[b'a'; 129]), None);
        for bad in [&b""[..], b" ", b"a b", b"a\tb", b"caf\xc3\xa9", b"\xff"] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }

    /// Names that are read, near misses, and anything.
    fn header_name() -> impl Strategy<Value = String> {
        let window = "requests|tokens|input-tokens|project-tokens|5h|7d_oi|unified|overage|-|[a-z0-9_-]{0,60}";
        let field = "limit|remaining|reset|utilization|status|[a-z]{0,9}";
        prop_oneof![
            (window, field)
                .prop_map(|(window, field)| format!("anthropic-ratelimit-{window}-{field}")),
            (window, field).prop_map(|(window, field)| format!(
                "anthropic-ratelimit-unified-{window}-{field}"
            )),
            ("priority|fast|other", window, field)
                .prop_map(|(kind, w, field)| format!("anthropic-{kind}-{w}-{field}")),
            (window, field).prop_map(|(window, field)| format!("x-ratelimit-{field}-{window}")),
            "x-trial-endpoint-call-(limit|remaining)|x?-?(ratelimit|tokenlimit)-(limit|remaining|reset)",
            (window).prop_map(|window| format!("x-ratelimit-renewalperiod-{window}")),
            "date|retry-after|retry-after-ms|content-type|openai-organization|openai-project",
            "anthropic-organization-id|anthropic-ratelimit-?|x-ratelimit-?(limit)?-?",
            "[!-~]{1,40}",
        ]
    }

    fn header_value() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            "-?[0-9]{0,21}".prop_map(String::into_bytes),
            "[0-9]{0,12}\\.[0-9]{0,20}(s|ms|h|m)?".prop_map(String::into_bytes),
            "20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](Z|\\+02:00)".prop_map(String::into_bytes),
            "(Sun|Mon|Tue), [0-3][0-9] (Jan|Nov) (19|20)[0-9]{2} [0-2][0-9]:[0-5][0-9]:[0-5][0-9] GMT"
                .prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..150),
        ]
    }

    fn body() -> impl Strategy<Value = Vec<u8>> {
        let word = "rate_limit_error|invalid_request_error|billing_error|insufficient_quota|\
                    enforced_spend_limit_reached|unsupported_parameter|max_completion_tokens|[a-z_]{0,12}";
        let message = "You have reached your specified API usage limits. You will regain access on \
                       [0-9]{4}-[0-9]{2}-[0-9]{2} at [0-9]{2}:[0-9]{2} UTC|\
                       You will regain access on \\PC{0,30}|\\PC{0,40}";
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..400),
            (word, word, word, message, 0usize..400).prop_map(|(kind, code, detail, message, cut)| {
                let error = serde_json::json!({
                    "type": kind, "code": code, "param": code, "message": message, "details": {"error_code": detail},
                });
                let mut bytes = serde_json::json!({"type": "error", "error": error}).to_string().into_bytes();
                // Half of them are cut off.
                bytes.truncate(if cut < 200 { cut } else { usize::MAX });
                bytes
            }),
            Just("[".repeat(60_000).into_bytes()),
            (any::<f64>(), any::<f64>(), "daily|weekly|monthly|[a-z]{0,4}").prop_map(|(limit, left, every)| {
                let data = serde_json::json!({"limit": limit, "limit_remaining": left, "limit_reset": every});
                serde_json::json!({"data": data}).to_string().into_bytes()
            }),
            ("[0-9.]{0,12}(s|ms|h|)|\\PC{0,9}", "PerDay|PerMinute|\\PC{0,9}").prop_map(|(delay, quota)| {
                let details = serde_json::json!([{"retryDelay": delay}, {"violations": [{"quotaId": quota}, 3]}, 3]);
                serde_json::json!({"error": {"details": details}}).to_string().into_bytes()
            }),
        ]
    }

    proptest! {
        #[test]
        fn any_reply_gives_a_sane_reading(
            status in prop_oneof![any::<u16>(), Just(200), Just(400), Just(422), Just(429), Just(529)],
            headers in proptest::collection::vec((header_name(), header_value()), 0..40),
            body in body(),
            row in 0..PROVIDERS.len(),
        ) {
            let fields = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_slice()));
            let reply = Reply { status, headers: fields.collect(), body };
            let provider = &PROVIDERS[row];
            for subject in [ProbeTarget::Model, ProbeTarget::Account] {
                let reading = provider.read(subject, &reply, now());
                for window in &reading.usage.windows {
                    prop_assert!(window.utilization.is_finite() && window.utilization >= 0.0, "{window:?}");
                    prop_assert!(window.resets_at.is_none_or(|reset| reset > now()), "{window:?}");
                }
                match reading.finding {
                    Finding::Limited { retry_after } | Finding::Overloaded { retry_after } => {
                        prop_assert!(retry_after != Some(Duration::ZERO));
                        prop_assert!(matches!(status, 408 | 429 | 500..=599));
                    }
                    Finding::SpendCapped { until } => prop_assert!(until.is_none_or(|until| until > now())),
                    Finding::Served => prop_assert!(matches!(status, 200..=299 | 400 | 413 | 422)),
                    Finding::Rejected => prop_assert!(matches!(status, 400 | 401 | 403)),
                    Finding::Unclear { why } => prop_assert!(!why.is_empty() && !why.ends_with('.')),
                }
                if let Some(group) = &reading.quota_group {
                    prop_assert!(group.bytes().all(|byte| byte.is_ascii_graphic()));
                }
                prop_assert_eq!(provider.next_attempt(ProbeTarget::Model, ProbeForm::Fallback, &reply), None);
                let _ = provider.next_attempt(ProbeTarget::Model, ProbeForm::First, &reply);
            }
        }

        #[test]
        fn any_model_name_stays_a_string(model in "\\PC{1,40}|[\"\\\\{}\n]{1,20}") {
            // In a path only plain names can stand.
            let is_in_body = |provider: &&Provider| !matches!(provider.dialect, Dialect::Gemini);
            for provider in PROVIDERS.iter().filter(is_in_body) {
                for attempt in [ProbeForm::First, ProbeForm::Fallback] {
                    let probe = provider.probe(ProbeTarget::Model, &model, attempt).unwrap();
                    let body: Value = serde_json::from_str(&probe.body).unwrap();
                    prop_assert_eq!(body["model"].as_str(), Some(model.as_str()));
                }
            }
        }
    }
}
