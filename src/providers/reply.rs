//! What a provider has answered: its status, its headers and the error in its body.
//!
//! Promises: a body is read as a machine-readable error or not at all; nothing of it is printed by
//! accident. Pure. What an answer means for a token is for `reading` to say.

use super::times::{self, Clock};
use crate::common::http::headers::Headers;
use miniz_oxide::inflate::{decompress_to_vec_with_limit, decompress_to_vec_zlib_with_limit};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime};

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
    pub(super) fn text(&self) -> Cow<'_, [u8]> {
        uncoded(self.headers.get("content-encoding"), &self.body).unwrap_or_default()
    }
}

/// A body, or its beginning, without the compression that nobody has asked for: of that at most 64 KiB. `None`
/// where the coding is not known.
pub(crate) fn uncoded<'a>(coding: Option<&str>, body: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    let inflated = match coding
        .map(|coding| coding.trim().to_ascii_lowercase())
        .as_deref()
    {
        None | Some("" | "identity") => return Some(Cow::Borrowed(body)),
        Some("gzip" | "x-gzip") => {
            let deflated = gzip_data(body).unwrap_or_default();
            decompress_to_vec_with_limit(deflated, TEXT_MAX)
        }
        // RFC 9110 §8.4.1.2: with the frame of zlib.
        Some("deflate") => decompress_to_vec_zlib_with_limit(body, TEXT_MAX),
        Some(_) => return None,
    };
    // What is damaged or cut off is as good as it is.
    Some(Cow::Owned(inflated.unwrap_or_else(|error| error.output)))
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

/// The largest error text that is looked at, in bytes: compressed ones may promise gigabytes.
pub(crate) const TEXT_MAX: usize = 64 * 1024;

pub(super) fn is_html(headers: &Headers) -> bool {
    let kind = headers.get("content-type").and_then(|kind| kind.get(..9));
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"))
}

/// The JSON of an error, if it is any.
pub(super) struct ErrorBody(pub(super) Value);

impl ErrorBody {
    pub(super) fn of(reply: &Reply) -> ErrorBody {
        let text = reply.text();
        // Some gateways send it as the event of a stream.
        let mut lines = text.split(|byte| *byte == b'\n');
        let event = lines.find_map(|line| line.strip_prefix(b"data:"));
        let body = serde_json::from_slice(event.unwrap_or(&text)).unwrap_or_default();
        ErrorBody(match body {
            // Google puts it into a list where it answers as OpenAI does, or streams without events
            // (n4ze3m/page-assist#406).
            Value::Array(list) => list.into_iter().next().unwrap_or_default(),
            body => body,
        })
    }

    /// How long to wait, where only the error itself says so: Google's `RetryInfo`, or the sentence that
    /// OpenAI documents and its clients read ("Please try again in 15.7s.").
    pub(super) fn wait(&self, clock: Clock) -> Option<Duration> {
        let details = self.0.pointer("/error/details").and_then(Value::as_array);
        let mut details = details.into_iter().flatten();
        let delay =
            details.find_map(|detail| times::reset(detail.get("retryDelay")?.as_str()?, clock));
        let at = delay
            .or_else(|| try_again_in(self.text("/error/message"), clock))
            .or_else(|| self.reset_in_beijing(clock))?;
        at.duration_since(clock.now).ok()
    }

    /// When a plan of Z.AI's goes on, as its codes 1308 to 1321 say ("Your limit will reset at 2026-09-12
    /// 00:35:41"): on its own clock, without a zone (can1357/oh-my-pi#11014).
    fn reset_in_beijing(&self, clock: Clock) -> Option<SystemTime> {
        let is_plan = self.text("/error/code").starts_with("13");
        let (_, rest) = self.text("/error/message").split_once("reset at ")?;
        let (date, time) = rest.get(..19).filter(|_| is_plan)?.split_once(' ')?;
        times::reset(&format!("{date}T{time}+08:00"), clock)
    }

    /// `None` on a status below 400: an answer's body can be long, and says nothing about the
    /// token.
    pub(super) fn of_failure(reply: &Reply) -> Option<ErrorBody> {
        (reply.status >= 400).then(|| ErrorBody::of(reply))
    }

    /// What it says to people; empty where it says nothing.
    pub(super) fn message(&self) -> &str {
        let places = ["/error/message", "/message", "/detail", "/error"];
        let said = places.map(|place| self.text(place).trim());
        said.into_iter()
            .find(|said| !said.is_empty())
            .unwrap_or_default()
    }

    /// The string at a JSON pointer (RFC 6901); empty when it is missing, null or no string.
    pub(super) fn text(&self, pointer: &str) -> &str {
        self.0
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}

/// When to try again, out of "… Please try again in 15.7s. Visit …": a number with a unit, which may
/// stand apart from it. A LiteLLM proxy begins a sentence with it; Moonshot and Azure have words of their own.
fn try_again_in(message: &str, clock: Clock) -> Option<SystemTime> {
    const BEFORE: [&str; 3] = ["ry again in ", "ry again after ", "lease retry after "];
    let (_, rest) = BEFORE.iter().find_map(|words| message.split_once(words))?;
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
pub(super) fn identity<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    let text = headers.get(name)?.trim();
    let is_fit = !text.is_empty()
        && text.len() <= LONGEST_IDENTITY
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_fit.then_some(text)
}
