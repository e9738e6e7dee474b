//! What an answer tells of the token that it was asked with.
//!
//! Owns: [`Reading`], and how far it proves what it says. Promises: pure; the same reply and `now` give
//! the same reading, and no reply makes it panic. The cause of a failure is read from the status and
//! machine-readable fields, and where a vendor has none for it, from its recorded or documented sentences
//! (listed in `anthropic.rs` and `openai.rs`), never from other prose. Nothing of a body or of an unknown
//! header gets into a reading, as a provider may echo a token; what it says of a refusal is for people
//! alone, and passes the mask first. What follows from a reading is for `tokens/policy.rs` to decide.

use super::reply::{ErrorBody, Reply, is_html};
use super::scope::EndpointKind;
use super::times::{self, Clock};
use super::usage::Usage;
use super::{Dialect, ProbeTarget, Provider, account, anthropic, gemini, openai};
use crate::common::mask::masked;
use crate::common::visible::visible;
use std::time::{Duration, Instant, SystemTime};

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
    /// 2xx, or a refusal that is only about the request but carries limits, or has read it: the token works.
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
            // A page for administrators takes no token of this kind, and a model is not for everybody; the
            // token may answer for all else.
            (Finding::Rejected, 403) => Testimony::Ambiguous,
            (Finding::Rejected, _) if kind != EndpointKind::Generate => Testimony::Ambiguous,
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
    /// Whether a 403 of this provider's own is about the token: Google says so of one that was reported
    /// as leaked, and of a project that was denied.
    fn rejects_with_403(&self, reply: &Reply) -> bool {
        matches!(self.dialect, Dialect::Gemini)
            && ErrorBody::of(reply).text("/error/status") == "PERMISSION_DENIED"
    }

    /// The fields of a request that did not fit the token it was sent with, as this reply says.
    pub(crate) fn mismatched(&self, reply: &Reply) -> &'static [&'static str] {
        match self.dialect {
            Dialect::Chat(_) => openai::mismatched(reply),
            Dialect::Anthropic | Dialect::Gemini => &[],
        }
    }

    /// What a reply that came in at `now` (local wall clock) tells.
    pub(crate) fn read(&self, subject: ProbeTarget, reply: &Reply, now: SystemTime) -> Reading {
        let clock = Clock::from_headers(&reply.headers, now);
        let (mut usage, mut particular, quota_group) = match self.dialect {
            Dialect::Anthropic => (
                Usage::from_headers(&reply.headers, clock, anthropic::field_of),
                // Others that serve Anthropic's messages have OpenAI's errors (Moonshot, Z.AI).
                anthropic::finding(reply, clock).or_else(|| openai::finding(reply, clock)),
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
            // OpenAI's tokens may be restricted to some endpoints ("Missing scopes: model.request",
            // without a code).
            (None, 401) if self.name == "openai" => Finding::Unclear {
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
        // Perplexity refuses a token with its web server's own page (perplexityai/api-discussion#281,
        // BerriAI/litellm#2584).
        let is_refusal = status == 401 && self.name == "perplexity";
        if !is_page && !is_bare || is_refusal || self.has_signed(reply) {
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
        let said = masked(body.message());
        let line = said.lines().next()?;
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
        // Of 413, Groq says so of what is more than the limit of a minute, which another organization may
        // have room for (continuedev/continue#10218).
        400 | 422 if has_limits => return Finding::Served,
        400 | 413 | 422 => "the request itself is refused",
        401 => return Finding::Rejected,
        402 => return Finding::SpendCapped { until: None },
        // 403 is also what firewalls and country blocks say, and these would meet every other token
        // too.
        403 => "access is refused, maybe not for the token",
        404 => "this model or address is not known",
        // The server gave up on a slow request; as passing as a 504.
        // And so is Groq's word for a flex tier that is full.
        408 | 498 => return Finding::Overloaded { retry_after: None },
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
