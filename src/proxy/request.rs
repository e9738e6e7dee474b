//! The head of a client's request: what it asks for, whether it may, and how it reads upstream.
//!
//! It promises to keep the case and order of the fields that it passes on, and that nothing of the
//! client's credential or of its connection goes upstream. Pure. It never sees a token: the credential
//! to send is handed in.

use crate::common::http::reader::{BodyFraming, Parsed, is_field};
use crate::common::http::request::RequestHead;
use std::io::Write;

/// The fields in which clients put their token; ours stands in its place. Anthropic's, OpenAI's, Azure's
/// and Google's SDKs use one each.
const CREDENTIALS: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];
/// Fields of one connection (RFC 9110 §7.6.1), and those that the proxy itself answers for.
const NOT_PASSED_ON: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "http2-settings",
];

/// A client's head.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    head: RequestHead,
    /// How the body is framed.
    pub(crate) body: BodyFraming,
    /// HTTP/1.1, not 1.0: the client understands chunks and interim answers.
    pub(crate) modern: bool,
    /// Whether the client wants to go on with its connection.
    pub(crate) keep_alive: bool,
    /// Whether it waits for `100 Continue` before it sends the body.
    pub(crate) waits: bool,
    /// Whether it asks to go on as a WebSocket.
    pub(crate) is_websocket: bool,
}

/// What a head says of the provider that it goes to, in place of what the client has said.
#[derive(Clone, Copy)]
pub(crate) struct Destination<'a> {
    pub(crate) path: &'a str,
    pub(crate) host: &'a str,
    /// The field's name, what stands before the token, and the token, once or in two fields; none: the client's own.
    pub(crate) credentials: &'a [[&'a str; 3]],
    /// The length of the body; `None`: it goes in chunks.
    pub(crate) length: Option<u64>,
    /// The name of this proxy, if it is to be known again.
    pub(crate) via: Option<&'a str>,
    /// The client's fields that do not go with this credential.
    pub(crate) left_out: &'a [&'a str],
}

/// Why a request is not for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not one `Host`, or none of this machine: what DNS rebinding looks like.
    ForeignHost,
    /// A web page's request.
    FromAPage,
    /// No credential that is ours.
    NoSecret,
}

impl Request {
    /// The head at the start of `bytes`.
    pub(crate) fn parse(bytes: &[u8]) -> Parsed<Request> {
        let Some((head, length)) = RequestHead::parse(bytes)? else {
            return Ok(None);
        };
        let request = Request {
            body: head.body,
            modern: head.modern,
            keep_alive: head.keep_alive,
            waits: head.modern && head.has_word("expect", "100-continue"),
            // RFC 9110 §7.8: an `Upgrade` counts in HTTP/1.1 alone, and where `Connection` names it.
            is_websocket: head.modern
                && head.has_word("connection", "upgrade")
                && head.has_word("upgrade", "websocket"),
            head,
        };
        Ok(Some((request, length)))
    }

    /// The method, in the case in which it came.
    pub(crate) fn method(&self) -> &str {
        self.head.method()
    }

    /// The path and query, without the scheme and host of an absolute form.
    pub(crate) fn target(&self) -> &str {
        self.head.target()
    }

    /// Whether the request may be served. `knows` says whether a credential is the secret of this
    /// proxy; every one is shown to it, so that the time does not tell which was close.
    pub(crate) fn check(
        &self,
        any_host: bool,
        knows: impl Fn(&[u8]) -> bool,
    ) -> Result<(), Refusal> {
        // One, also where any will do: without it, or with two, the provider would get what it refuses.
        if self.head.values("host").count() != 1 || !any_host && !self.is_for_this_machine() {
            return Err(Refusal::ForeignHost);
        }
        // Browsers put an `Origin` on what a page sends elsewhere, and say where it comes from.
        // Programs do neither.
        let from_a_page = self.head.values("origin").next().is_some()
            || self
                .head
                .values("sec-fetch-site")
                .any(|site| site != b"none");
        if from_a_page {
            return Err(Refusal::FromAPage);
        }
        let credentials = CREDENTIALS.iter().flat_map(|name| self.head.values(name));
        let keys = parameters(self.head.whole_target()).filter_map(key);
        let given = credentials.map(credential).chain(keys);
        let known = given.filter(|given| knows(given)).count();
        if known == 0 {
            return Err(Refusal::NoSecret);
        }
        Ok(())
    }

    /// By which name the client knows this proxy.
    pub(crate) fn host(&self) -> &str {
        let host = self.head.values("host").next().unwrap_or_default();
        std::str::from_utf8(host).unwrap_or_default()
    }

    /// Whether it has one of these fields.
    pub(crate) fn has_one_of(&self, names: &[&str]) -> bool {
        let is_one = |name: &[u8]| names.iter().any(|other| is_field(name, other));
        self.head.fields().any(|(name, _)| is_one(name))
    }

    /// Whether it carries any credential, ours or not.
    pub(crate) fn has_credential(&self) -> bool {
        let fields = CREDENTIALS.iter().flat_map(|name| self.head.values(name));
        let keys = parameters(self.head.whole_target()).filter_map(key);
        fields
            .map(credential)
            .chain(keys)
            .any(|given| !given.is_empty())
    }

    /// The path and query to ask a provider for, under its base path and without the parameters that
    /// hold our credential.
    pub(crate) fn path(base: &str, path: &str, is_secret_in: impl Fn(&[u8]) -> bool) -> String {
        let mut kept = parameters(path).filter(|one| !is_secret_in(one.as_bytes()));
        let mut whole = String::with_capacity(base.len() + path.len());
        whole.extend([base, path.split('?').next().unwrap_or_default()]);
        if let Some(first) = kept.next() {
            whole.push('?');
            whole.push_str(first);
            kept.for_each(|one| whole.extend(["&", one]));
        }
        whole
    }

    /// Whether the `Host`, and the host of an absolute target, are this machine.
    fn is_for_this_machine(&self) -> bool {
        let host = self.head.values("host").next();
        let absolute = match self.head.whole_target().split_once("://") {
            Some((scheme, rest)) if !scheme.contains('/') => {
                is_loopback(rest.split('/').next().unwrap_or_default().as_bytes())
            }
            _ => true,
        };
        host.is_some_and(is_loopback) && absolute
    }

    /// Whether it has been through the proxy of this name.
    pub(crate) fn has_passed(&self, proxy: &str) -> bool {
        let mut hops = self.head.words("via");
        hops.any(|hop| hop.ends_with(proxy.as_bytes()))
    }

    /// Puts the head as it goes to a provider. A field that holds our own secret stays here.
    pub(crate) fn put_upstream(
        &self,
        out: &mut Vec<u8>,
        to: &Destination<'_>,
        is_secret_in: impl Fn(&[u8]) -> bool,
    ) {
        let Destination {
            path,
            host,
            credentials,
            length,
            via,
            left_out,
        } = *to;
        let put_credentials = |out: &mut Vec<u8>| {
            for parts in credentials {
                let [name, prefix, token] = parts.map(str::as_bytes);
                put(out, &[name, b": ", prefix, token, b"\r\n"]);
            }
        };
        put(
            out,
            &[
                self.method().as_bytes(),
                b" ",
                path.as_bytes(),
                b" HTTP/1.1\r\n",
            ],
        );
        // The fields that the client's `Connection` names as its own. What the proxy answers for cannot
        // be named away.
        let named: Vec<&[u8]> = self.head.words("connection").collect();
        let (mut authorized, mut framed) = (credentials.is_empty(), false);
        for (name, value) in self.head.fields() {
            let is = |other: &&str| is_field(name, other);
            let value: &[u8] = if is(&"host") {
                host.as_bytes()
            } else if CREDENTIALS.iter().any(is) && !credentials.is_empty() {
                if !std::mem::replace(&mut authorized, true) {
                    put_credentials(out);
                }
                continue;
            } else if is(&"content-length") || is(&"transfer-encoding") {
                if std::mem::replace(&mut framed, true) {
                    continue;
                }
                let Some(length) = length else {
                    put(out, &[b"Transfer-Encoding: chunked\r\n"]);
                    continue;
                };
                // A body that was read as a whole has a length, however it came.
                let chunked = is(&"transfer-encoding");
                let name = if chunked { b"Content-Length" } else { name };
                put(out, &[name]);
                // Into memory, which takes everything.
                let _ = write!(out, ": {length}\r\n");
                continue;
            } else if is(&"accept-encoding") {
                // What went wrong stands in the body, and a body that only the client can read
                // would hide it from us. On loopback nothing is gained by compression.
                b"identity"
            } else if is_secret_in(value) || is_secret_in(name) || left_out.iter().any(is) {
                continue;
            } else if self.is_websocket && (is(&"upgrade") || is(&"connection")) {
                value
            } else if NOT_PASSED_ON.iter().any(is)
                || named.iter().any(|other| name.eq_ignore_ascii_case(other))
            {
                continue;
            } else {
                value
            };
            put(out, &[name, b": ", value, b"\r\n"]);
        }
        if !authorized {
            put_credentials(out);
        }
        if let Some(name) = via {
            // RFC 9110 §7.6.3
            put(out, &[b"Via: 1.1 ", name.as_bytes(), b"\r\n"]);
        }
        put(out, &[b"\r\n"]);
    }
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// The parameters in a target's query.
fn parameters(target: &str) -> impl Iterator<Item = &str> {
    let query = target.split_once('?').map(|(_, query)| query);
    query.into_iter().flat_map(|query| query.split('&'))
}

/// The credential in a parameter: Google's clients may put theirs there (`?key=`).
fn key(parameter: &str) -> Option<&[u8]> {
    parameter.strip_prefix("key=").map(str::as_bytes)
}

/// The text of a credential, without its scheme.
fn credential(value: &[u8]) -> &[u8] {
    match value.split_at_checked(7) {
        Some((scheme, text)) if scheme.eq_ignore_ascii_case(b"bearer ") => text.trim_ascii(),
        _ => value.trim_ascii(),
    }
}

/// Whether a host, with or without a port, is a name of the loopback device.
fn is_loopback(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else {
        return false;
    };
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, port)) if port.is_empty() || port.starts_with(':') => name,
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            Some(_) => return false,
            None => host,
        },
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<core::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::http::reader::ReadError;

    fn parse(text: &str) -> Result<Request, ReadError> {
        Request::parse(text.as_bytes()).map(|found| found.expect("a whole head").0)
    }

    fn upstream(
        request: &Request,
        path: &str,
        credential: [&str; 3],
        length: impl Into<Option<u64>>,
        via: Option<&str>,
    ) -> String {
        let mut head = Vec::new();
        let destination = Destination {
            path,
            host: "api.example",
            credentials: &[credential],
            length: length.into(),
            via,
            left_out: &[],
        };
        request.put_upstream(&mut head, &destination, holds);
        String::from_utf8(head).unwrap()
    }

    fn holds(value: &[u8]) -> bool {
        value.windows(10).any(|part| part == b"our-secret")
    }

    fn knows(given: &[u8]) -> bool {
        given == b"our-secret"
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for head in [
            "GET / HTTP/1.1\nHost: localhost\n\n",
            "GET / HTTP/1.1\r\nHost: localhost\n\r\n",
            "GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
            "GET / HTTP/1.1\r\nX: a\0b\r\n\r\n",
            "GET / HTTP/1.1\r\nX: a\rb\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            let error = parse(head).expect_err(head);
            assert!(matches!(error, ReadError::Malformed(_)), "{head} {error:?}");
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200));
        assert!(matches!(parse(&many), Err(ReadError::HeadTooLarge)));
    }

    #[test]
    fn who_may() {
        let check = |host: &str, more: &str| {
            parse(&format!("GET /x HTTP/1.1\r\n{host}{more}\r\n"))
                .unwrap()
                .check(false, knows)
        };
        let ok = "X-Api-Key: our-secret\r\n";
        for host in [
            "localhost",
            "LocalHost:4141",
            "127.0.0.1:1",
            "127.8.8.8",
            "[::1]:4141",
            "[::1]",
        ] {
            assert_eq!(check(&format!("Host: {host}\r\n"), ok), Ok(()), "{host}");
        }
        for host in [
            "Host: evil.example\r\n",
            "Host: localhost.evil.example\r\n",
            "Host: 10.0.0.1\r\n",
            "Host: localhost:80@evil\r\n",
            "Host: [::1]evil\r\n",
            "Host: \r\n",
            "",
            "Host: localhost\r\nHost: localhost\r\n",
        ] {
            assert_eq!(check(host, ok), Err(Refusal::ForeignHost), "{host}");
        }
        let anywhere = |hosts: &str| {
            let head = format!("GET /x HTTP/1.1\r\n{hosts}{ok}\r\n");
            parse(&head).unwrap().check(true, knows)
        };
        assert_eq!(anywhere("Host: evil.example\r\n"), Ok(()));
        for hosts in ["", "Host: a\r\nHost: a\r\n"] {
            assert_eq!(anywhere(hosts), Err(Refusal::ForeignHost), "{hosts}");
        }
        let here = "Host: localhost\r\n";
        for credential in [
            "Authorization: Bearer our-secret\r\n",
            "authorization: bearer   our-secret\r\n",
            "api-key: our-secret\r\n",
            "x-api-key: another\r\nAuthorization: Bearer our-secret\r\n",
        ] {
            assert_eq!(check(here, credential), Ok(()), "{credential}");
        }
        for credential in [
            "",
            "X-Api-Key: our-secre\r\n",
            "Cookie: our-secret\r\n",
            "Authorization: Basic our-secret\r\n",
        ] {
            assert_eq!(
                check(here, credential),
                Err(Refusal::NoSecret),
                "{credential}"
            );
        }
        let by_query = |query: &str| {
            let head = format!("GET /x{query} HTTP/1.1\r\n{here}\r\n");
            parse(&head).unwrap().check(false, knows)
        };
        assert_eq!(by_query("?alt=sse&key=our-secret"), Ok(()));
        for query in ["?key=our-secre", "?akey=our-secret", "?x#key=our-secret"] {
            assert_eq!(by_query(query), Err(Refusal::NoSecret), "{query}");
        }
        for page in [
            "Origin: https://evil.example\r\n",
            "Origin: null\r\n",
            "Sec-Fetch-Site: cross-site\r\n",
        ] {
            let all = format!("{ok}{page}");
            assert_eq!(check(here, &all), Err(Refusal::FromAPage), "{page}");
        }
        let absolute = "GET http://evil.example/x HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: our-secret\r\n\r\n";
        let refused = parse(absolute).unwrap().check(false, knows);
        assert_eq!(refused, Err(Refusal::ForeignHost));
    }

    #[test]
    fn what_goes_upstream() {
        let request = parse(
            "POST /anthropic/v1/messages?beta=true HTTP/1.1\r\nhOsT: 127.0.0.1:4141\r\n\
             X-Custom-CASE: kept  \r\nAuthorization: Bearer our-secret\r\nx-api-key: our-secret\r\n\
             Connection: keep-alive, X-Private\r\nX-Private: dropped\r\nTE: trailers\r\n\
             Upgrade: h2c\r\nExpect: 100-continue\r\nAccept-Encoding: gzip, br\r\n\
             Content-Length: 2\r\nanthropic-version: 2023-06-01\r\n\r\n",
        )
        .unwrap();
        assert!(request.waits && request.keep_alive && request.modern);
        assert_eq!(request.target(), "/anthropic/v1/messages?beta=true");
        let head = upstream(
            &request,
            "/v1/messages",
            ["x-api-key", "", "the-token"],
            2,
            None,
        );
        let expected = "POST /v1/messages HTTP/1.1\r\nhOsT: api.example\r\nX-Custom-CASE: kept\r\n\
                        x-api-key: the-token\r\nAccept-Encoding: identity\r\nContent-Length: 2\r\n\
                        anthropic-version: 2023-06-01\r\n\r\n";
        assert_eq!(head, expected);
    }

    #[test]
    fn a_token_may_go_in_two_fields() {
        let request =
            parse("GET /x HTTP/1.1\r\nHost: h\r\napi-key: a\r\nAuthorization: b\r\n\r\n").unwrap();
        let destination = Destination {
            path: "/x",
            host: "api.example",
            credentials: &[["x-api-key", "", "t"], ["authorization", "Bearer ", "t"]],
            length: Some(0),
            via: None,
            left_out: &[],
        };
        let mut head = Vec::new();
        request.put_upstream(&mut head, &destination, holds);
        let expected = "GET /x HTTP/1.1\r\nHost: api.example\r\nx-api-key: t\r\nauthorization: Bearer t\r\n\r\n";
        assert_eq!(String::from_utf8(head).unwrap(), expected);
        let provider = |name| crate::providers::by_name(name).unwrap();
        for (name, base_url, both) in [
            ("anthropic", "https://api.minimax.io/anthropic", true),
            ("anthropic", "https://api.anthropic.com", false),
            ("anthropic", "http://127.0.0.1:4000", false),
            ("openai", "https://gateway.example/v1", false),
        ] {
            assert_eq!(provider(name).takes_both(base_url), both, "{base_url}");
        }
    }

    #[test]
    fn our_secret_goes_out_of_the_query() {
        for (path, upstream) in [
            ("/x", "/x"),
            ("/x?", "/x?"),
            ("/x?a=b&&c", "/x?a=b&&c"),
            ("/x?key=our-secret", "/x"),
            ("/x?key=our-secret&alt=sse", "/x?alt=sse"),
            ("/x?a=b&key=our-secret&c=?", "/x?a=b&c=?"),
            ("/x?key=another", "/x?key=another"),
            ("/x?api-key=our-secret&a=b", "/x?a=b"),
            ("/x?access_token=Bearer%20our-secret", "/x"),
        ] {
            assert_eq!(Request::path("", path, holds), upstream, "{path}");
            let below = Request::path("/v1", path, holds);
            assert_eq!(below.strip_prefix("/v1"), Some(upstream), "{path}");
        }
    }

    #[test]
    fn our_secret_goes_out_of_every_field() {
        let request = parse(
            "GET /x HTTP/1.1\r\nHost: localhost\r\nCookie: a=our-secret; b=c\r\nX-Key: our-secret\r\n\
             X-Other: our-secre\r\nx-goog-api-key: our-secret\r\n\r\n",
        )
        .unwrap();
        let head = upstream(&request, "/x", ["x-api-key", "", "t"], 0, None);
        assert_eq!(
            head,
            "GET /x HTTP/1.1\r\nHost: api.example\r\nX-Other: our-secre\r\nx-api-key: t\r\n\r\n"
        );
    }

    #[test]
    fn our_secret_goes_out_of_names_and_of_a_handshake() {
        let request = parse(
            "GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, our-secret\r\n\
             Upgrade: websocket\r\nX-our-secret-X: 1\r\nSec-WebSocket-Protocol: a, our-secret\r\n\r\n",
        )
        .unwrap();
        let head = upstream(&request, "/x", ["x-api-key", "", "t"], 0, None);
        assert_eq!(
            head,
            "GET /x HTTP/1.1\r\nHost: api.example\r\nUpgrade: websocket\r\nx-api-key: t\r\n\r\n"
        );
    }

    #[test]
    fn what_is_a_websocket() {
        for (is_one, version, fields) in [
            (
                true,
                "1.1",
                "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n",
            ),
            (false, "1.1", "Upgrade: websocket\r\n"),
            (false, "1.1", "Connection: Upgrade\r\nUpgrade: h2c\r\n"),
            (
                false,
                "1.0",
                "Connection: Upgrade\r\nUpgrade: websocket\r\n",
            ),
        ] {
            let head = format!("GET /x HTTP/{version}\r\nHost: localhost\r\n{fields}\r\n");
            assert_eq!(parse(&head).unwrap().is_websocket, is_one, "{head}");
        }
    }

    #[test]
    fn a_handshake_keeps_what_it_asks_for() {
        let request = parse(
            "GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, X-Own\r\nUpgrade: websocket\r\n\
             X-Own: 1\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        .unwrap();
        assert!(request.is_websocket);
        let head = upstream(&request, "/x", ["x-api-key", "", "t"], 0, None);
        assert_eq!(
            head,
            "GET /x HTTP/1.1\r\nHost: api.example\r\nConnection: Upgrade, X-Own\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nx-api-key: t\r\n\r\n"
        );
    }

    #[test]
    fn a_body_that_is_not_kept_goes_on_in_chunks() {
        let request =
            parse("POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
                .unwrap();
        let head = upstream(&request, "/x", ["x-api-key", "", "t"], None, None);
        assert_eq!(
            head,
            "POST /x HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\nx-api-key: t\r\n\r\n"
        );
    }

    #[test]
    fn a_chunked_request_goes_on_with_its_length() {
        let request = parse(
            "POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
             Connection: host, content-length, x-api-key\r\n\r\n",
        )
        .unwrap();
        assert_eq!(request.body, BodyFraming::CHUNKED);
        let head = upstream(
            &request,
            "/x",
            ["authorization", "Bearer ", "t"],
            7,
            Some("us"),
        );
        assert_eq!(
            head,
            "POST /x HTTP/1.1\r\nHost: api.example\r\nContent-Length: 7\r\n\
             authorization: Bearer t\r\nVia: 1.1 us\r\n\r\n"
        );
    }

    #[test]
    fn a_request_that_comes_back_is_known() {
        for (fields, passed) in [
            ("Via: 1.1 us\r\n", true),
            ("VIA: 1.1 other, 1.1 us\r\n", true),
            ("Via: 1.1 other\r\nvia: HTTP/1.0 us , 1.1 last\r\n", true),
            ("Via: 1.1 us-too\r\n", false),
            ("X-Via: 1.1 us\r\n", false),
            ("", false),
        ] {
            let head = format!("GET /x HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
            assert_eq!(parse(&head).unwrap().has_passed("us"), passed, "{fields}");
        }
    }
}
