//! The head of a provider's response: what it tells, and how it reads for the client.
//!
//! It promises to keep the case and order of the fields that it passes on, to drop those of the
//! upstream connection, and to refuse a response whose length can be read in two ways. Pure.

use super::redact::Redactor;
use super::stream_prelude::LONE_ERROR_MAX;
use crate::common::http::headers::Headers;
use crate::common::http::reader::{self, BodyFraming, FIELDS_MAX, Parsed, ReadError, is_field};
use crate::common::http::request::place_in;
use crate::providers::reply::uncoded;
use std::borrow::Cow;
use std::io::Write;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Fields of one connection, and those that would lead a client or a browser around the proxy.
const NOT_PASSED_ON: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "te",
    "trailer",
    "upgrade",
    "transfer-encoding",
    "alt-svc",
];

/// A body that makes no difference to the memory of many open requests, in bytes.
const SHORT: u64 = 64 * 1024;

/// A parsed head.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    head: Vec<u8>,
    pub(crate) status: u16,
    /// What follows the version in the status line.
    line: Range<usize>,
    /// Name and value.
    fields: Vec<(Range<usize>, Range<usize>)>,
    /// How the body is framed.
    pub(crate) body: BodyFraming,
    /// Whether the upstream connection can be used again afterwards.
    pub(crate) keep_alive: bool,
}

/// How the client gets the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// With the length that upstream has told, or with none because there is no body.
    AsItCame,
    /// With this length.
    Length(usize),
    /// In chunks.
    Chunked,
    /// Until the connection ends.
    UntilEnd,
}

impl Response {
    /// The head at the start of `bytes`, which answers a `HEAD` request or another.
    pub(crate) fn parse(bytes: &[u8], to_head: bool) -> Parsed<Response> {
        let mut space = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let length = match parser.parse_response_with_uninit_headers(&mut parsed, bytes, &mut space)
        {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(ReadError::HeadTooLarge),
            Err(_) => return Err(ReadError::Malformed("not an HTTP/1 response")),
        };
        let head = bytes.get(..length).unwrap_or_default();
        let status = parsed.code.unwrap_or_default();
        if !(100..600).contains(&status) {
            return Err(ReadError::Malformed("not a status"));
        }
        let framing = reader::framing(parsed.headers)?;
        let bodiless = to_head || status < 200 || matches!(status, 204 | 304);
        let body = match bodiless {
            true => BodyFraming::NONE,
            false => framing.unwrap_or(BodyFraming::UntilEnd),
        };
        let has = |word: &str| reader::has_word(parsed.headers, "connection", word);
        let keep_alive = match parsed.version {
            Some(1) => !has("close"),
            _ => has("keep-alive"),
        };
        // httparse lets empty lines come before it.
        let line = head.trim_ascii_start().split(|byte| *byte == b'\n').next();
        let line = line.unwrap_or_default().trim_ascii_end();
        let place = |part: &[u8]| place_in(head, part);
        let response = Response {
            status,
            // "HTTP/1.1 " is nine characters long in every version.
            line: place(line.get(9..).unwrap_or_default()),
            fields: parsed
                .headers
                .iter()
                .map(|field| (place(field.name.as_bytes()), place(field.value)))
                .collect(),
            body,
            keep_alive: keep_alive && body != BodyFraming::UntilEnd,
            head: head.to_owned(),
        };
        Ok(Some((response, length)))
    }

    /// The fields as `provider` reads them.
    pub(crate) fn headers(&self) -> Headers {
        let mut headers = Headers::with_room(self.fields.len(), self.head.len());
        let fields = self.fields.iter();
        headers.extend(
            fields.map(|(name, value)| (&self.head[name.clone()], &self.head[value.clone()])),
        );
        headers
    }

    /// The first value of a field.
    pub(crate) fn value(&self, wanted: &str) -> Option<&[u8]> {
        let mut fields = self.fields.iter();
        fields
            .find(|(name, _)| is_field(&self.head[name.clone()], wanted))
            .map(|(_, value)| &self.head[value.clone()])
    }

    /// Puts this in the place of the value of a field that it has.
    pub(crate) fn replace(&mut self, wanted: &str, value: &str) {
        let start = self.head.len();
        self.head.extend_from_slice(value.as_bytes());
        for (name, place) in &mut self.fields {
            if is_field(&self.head[name.clone()], wanted) {
                *place = start..self.head.len();
            }
        }
    }

    /// Whether the body is a stream of events that we can read.
    pub(crate) fn is_stream(&self) -> bool {
        self.is_of_type(b"text/event-stream") && self.text(b"").is_some()
    }

    /// Whether the body is a web page.
    pub(crate) fn is_page(&self) -> bool {
        self.is_of_type(b"text/html")
    }

    /// Whether the body is short JSON of a good status, which may be nothing but an error, or nothing; some
    /// gateways call an error a text.
    pub(crate) fn may_be_lone_error(&self) -> bool {
        let is_json = self.is_of_type(b"application/json");
        let is_short = match self.body {
            BodyFraming::Length(length) => {
                let is_text = self.is_of_type(b"text/plain");
                length <= LONE_ERROR_MAX && (is_json || is_text && length > 0)
            }
            BodyFraming::Chunked(_) | BodyFraming::UntilEnd => is_json,
        };
        self.status < 300 && is_short && self.text(b"").is_some()
    }

    fn is_of_type(&self, wanted: &[u8]) -> bool {
        let kind = self.value("content-type");
        kind.and_then(|kind| kind.get(..wanted.len()))
            .is_some_and(|kind| kind.eq_ignore_ascii_case(wanted))
    }

    /// The beginning of the body without a compression; `None` where that is not known.
    pub(crate) fn text<'a>(&self, body: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let coding = self.value("content-encoding");
        uncoded(
            coding.map(|coding| std::str::from_utf8(coding).unwrap_or("?")),
            body,
        )
    }

    /// Puts the head of an answer that changes the protocol onto `head`, as it came.
    pub(crate) fn put_switch(&self, head: &mut Vec<u8>, mask: &Redactor<'_>) {
        head.extend_from_slice(self.head.trim_ascii_start());
        mask.all(head);
    }

    /// Puts the head as the client gets it onto `head`, which is empty. A token in it is masked.
    pub(crate) fn put_client(
        &self,
        head: &mut Vec<u8>,
        framing: Framing,
        keep_alive: bool,
        mask: &Redactor<'_>,
    ) {
        // A short body follows in the same piece.
        let body = match self.body {
            BodyFraming::Length(length) if length <= SHORT => length as usize,
            _ => 0,
        };
        head.reserve(self.head.len() + 64 + body);
        head.extend_from_slice(b"HTTP/1.1 ");
        head.extend_from_slice(&self.head[self.line.clone()]);
        head.extend_from_slice(b"\r\n");
        let named: Vec<&[u8]> = self
            .fields
            .iter()
            .filter(|(name, _)| is_field(&self.head[name.clone()], "connection"))
            .flat_map(|(_, value)| self.head[value.clone()].split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .collect();
        for (name, value) in &self.fields {
            let (name, value) = (&self.head[name.clone()], &self.head[value.clone()]);
            let is_length = is_field(name, "content-length");
            let ours = is_length && framing != Framing::AsItCame;
            let dropped = NOT_PASSED_ON.iter().any(|other| is_field(name, other))
                || name.len() >= 15 && name[..15].eq_ignore_ascii_case(b"access-control-")
                || !is_length && named.iter().any(|other| name.eq_ignore_ascii_case(other));
            if dropped || ours {
                continue;
            }
            for part in [name, b": ", value, b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
        match framing {
            Framing::AsItCame | Framing::UntilEnd => {}
            Framing::Chunked => head.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Framing::Length(length) => {
                // Into memory, which takes everything.
                let _ = write!(head, "Content-Length: {length}\r\n");
            }
        }
        if !keep_alive {
            head.extend_from_slice(b"Connection: close\r\n");
        }
        head.extend_from_slice(b"\r\n");
        mask.all(head);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Response, ReadError> {
        Response::parse(text.as_bytes(), false).map(|found| found.expect("a whole head").0)
    }

    fn client(response: &Response, framing: Framing, keep_alive: bool, token: &[u8]) -> String {
        let mut head = Vec::new();
        response.put_client(&mut head, framing, keep_alive, &Redactor::of(token));
        String::from_utf8(head).unwrap()
    }

    #[test]
    fn what_the_client_gets() {
        let response = parse(
            "\r\nHTTP/1.1 200 Very Fine\r\nDate: x\r\nX-Odd-CASE: kept\r\nConnection: keep-alive, X-Up\r\n\
             X-Up: dropped\r\nTransfer-Encoding: chunked\r\nalt-svc: h3\r\n\
             Access-Control-Allow-Origin: *\r\nrequest-id: the-token-1\r\n\r\n",
        )
        .unwrap();
        assert_eq!(
            (response.status, response.body),
            (200, BodyFraming::CHUNKED)
        );
        assert!(response.keep_alive);
        let head = client(&response, Framing::Chunked, false, b"the-token-1");
        assert_eq!(
            head,
            "HTTP/1.1 200 Very Fine\r\nDate: x\r\nX-Odd-CASE: kept\r\nrequest-id: ***********\r\n\
             Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn empty_lines_before_the_head_do_not_cost_the_status_line() {
        let response = parse("\n\r\nHTTP/1.1 429 Too Many\r\nA: b\r\n\r\n").unwrap();
        let head = client(&response, Framing::AsItCame, true, b"");
        assert_eq!(head, "HTTP/1.1 429 Too Many\r\nA: b\r\n\r\n");
    }

    #[test]
    fn how_long_the_body_is() {
        let of = |text: &str| parse(text).unwrap();
        assert_eq!(
            of("HTTP/1.1 204 \r\nContent-Length: 7\r\n\r\n").body,
            BodyFraming::NONE
        );
        let until_end = of("HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(
            (until_end.body, until_end.keep_alive),
            (BodyFraming::UntilEnd, false)
        );
        assert!(!of("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n").keep_alive);
        let to_head = Response::parse(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", true);
        let to_head = to_head.unwrap().unwrap().0;
        assert_eq!(to_head.body, BodyFraming::NONE);
        let head = client(&to_head, Framing::AsItCame, true, b"");
        assert_eq!(head, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n");
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Length: 8\r\n\r\n",
            "HTTP/1.1 999 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
        ] {
            assert!(
                matches!(parse(text), Err(ReadError::Malformed(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn a_stream_is_known_by_its_type() {
        let is = |fields: &str| {
            parse(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"))
                .unwrap()
                .is_stream()
        };
        assert!(is("content-type: text/event-stream; charset=utf-8\r\n"));
        // As far as its compression is known.
        let zipped = "content-type: text/event-stream\r\ncontent-encoding: gzip\r\n";
        assert!(is(zipped));
        assert!(!is(&zipped.replace("gzip", "br")));
        assert!(!is("content-type: application/json\r\n"));
        assert!(!is(""));
    }

    #[test]
    fn only_short_json_is_looked_at_as_a_whole() {
        let may = |status: u16, fields: &str| {
            parse(&format!("HTTP/1.1 {status} X\r\n{fields}\r\n"))
                .unwrap()
                .may_be_lone_error()
        };
        let json = "Content-Type: application/json; charset=utf-8\r\n";
        assert!(may(200, &format!("{json}Content-Length: 90\r\n")));
        assert!(may(200, &format!("{json}Transfer-Encoding: chunked\r\n")));
        assert!(may(
            200,
            &format!("{json}Content-Length: 90\r\nContent-Encoding: gzip\r\n")
        ));
        assert!(may(
            200,
            "Content-Type: text/plain\r\nContent-Length: 90\r\n"
        ));
        for fields in [
            "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n".to_owned(),
            format!("{json}Content-Length: 9000\r\n"),
            format!("{json}Content-Length: 90\r\nContent-Encoding: br\r\n"),
            "Content-Length: 90\r\n".to_owned(),
        ] {
            assert!(!may(200, &fields), "{fields}");
        }
        assert!(!may(404, &format!("{json}Content-Length: 90\r\n")));
    }
}
