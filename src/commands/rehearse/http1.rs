//! HTTP/1.1 for the built-in provider: requests off a byte source, answers onto a sink.
//! Owns: what a request's head says, framing of answers. Promises: any bytes give a request or one
//! error. Does not own: reading (`crate::http1`), sockets and time limits (`server`), or what a
//! request means (`answers`).

use std::io::{self, Read, Write};

use super::answers::{Body, Request, Response};
use crate::common::http::reader::{self, BodyFraming, FIELDS_MAX, Parsed, ReadError, Reader};

/// The length of the answer to the `huge-body` fault, in bytes.
pub(crate) const HUGE: usize = 40 * 1000 * 1000;

/// The next request. `go_on` sends `100 Continue` when the client waits for it.
pub(crate) fn next<S: Read>(
    reader: &mut Reader<S>,
    go_on: impl FnOnce() -> io::Result<()>,
) -> Result<Request, ReadError> {
    let (mut request, framing) = reader.head(head)?;
    let expects = request
        .header("expect")
        .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
    if expects {
        go_on().map_err(ReadError::Io)?;
    }
    request.body = reader.body(framing)?;
    Ok(request)
}

fn head(bytes: &[u8]) -> Parsed<(Request, BodyFraming)> {
    let mut space = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut space);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(ReadError::Malformed("not an HTTP/1 request")),
    };
    let lower = |header: &httparse::Header| {
        let value = String::from_utf8_lossy(header.value).into_owned();
        (header.name.to_ascii_lowercase(), value)
    };
    let headers: Vec<_> = parsed.headers.iter().map(lower).collect();
    let framing = reader::framing(parsed.headers)?.unwrap_or(BodyFraming::NONE);
    let modern = parsed.version == Some(1);
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        target: parsed.path.unwrap_or_default().to_owned(),
        keep_alive: modern && !reader::has_word(parsed.headers, "connection", "close"),
        chunked_ok: modern,
        body: Vec::new(),
        headers,
    };
    Ok(Some(((request, framing), length)))
}

/// Writes the status line and the headers. `framing` is the header that tells the body's end.
pub(crate) fn write_head(
    sink: &mut impl Write,
    response: &Response,
    framing: &str,
    keep_alive: bool,
) -> io::Result<()> {
    let reason = http::StatusCode::from_u16(response.status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Overloaded");
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", response.status);
    for (name, value) in &response.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("{framing}\r\n");
    head += if keep_alive {
        "connection: keep-alive\r\n\r\n"
    } else {
        "connection: close\r\n\r\n"
    };
    sink.write_all(head.as_bytes())
}

/// Writes a whole response. `pause` is called between two events of a stream. Without `chunked_ok` a
/// stream goes out in one piece.
pub(crate) fn write(
    sink: &mut impl Write,
    response: &Response,
    keep_alive: bool,
    chunked_ok: bool,
    pause: impl Fn(),
) -> io::Result<()> {
    match &response.body {
        Body::Events(events) if chunked_ok => {
            write_head(sink, response, "transfer-encoding: chunked", keep_alive)?;
            for event in events {
                let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                sink.write_all(chunk.as_bytes())?;
                sink.flush()?;
                pause();
            }
            sink.write_all(b"0\r\n\r\n")?;
        }
        Body::Events(events) => whole(sink, response, &events.concat(), keep_alive)?,
        Body::Whole(text) => whole(sink, response, text, keep_alive)?,
    }
    sink.flush()
}

fn whole(
    sink: &mut impl Write,
    response: &Response,
    body: &str,
    keep_alive: bool,
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(1024 + body.len());
    write_head(
        &mut bytes,
        response,
        &format!("content-length: {}", body.len()),
        keep_alive,
    )?;
    bytes.extend_from_slice(body.as_bytes());
    // One write, so that a short answer is one packet.
    sink.write_all(&bytes)
}

/// Writes `response`'s head and a body of [`HUGE`] spaces.
pub(crate) fn write_huge(sink: &mut impl Write, response: &Response) -> io::Result<()> {
    write_head(sink, response, &format!("content-length: {HUGE}"), false)?;
    let piece = [b' '; 50_000];
    for _ in 0..HUGE / piece.len() {
        sink.write_all(&piece)?;
    }
    sink.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(bytes: &[u8]) -> (Vec<Request>, ReadError) {
        let mut reader = Reader::new(bytes);
        let mut requests = Vec::new();
        loop {
            match next(&mut reader, || Ok(())) {
                Ok(request) => requests.push(request),
                Err(error) => return (requests, error),
            }
        }
    }

    #[test]
    fn reads_requests_one_after_the_other() {
        let (requests, end) = read_all(
            b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc\
              POST /d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nt: u\r\n\r\n\
              GET http://h:1/e HTTP/1.0\r\n\r\n",
        );
        assert!(matches!(end, ReadError::Closed), "{end:?}");
        let paths: Vec<_> = requests.iter().map(Request::path).collect();
        assert_eq!(paths, ["/a", "/d", "/e"]);
        assert_eq!(requests[0].body, b"abc");
        assert_eq!(requests[1].body, b"abc");
        assert_eq!(requests[0].header("host"), Some("x"));
        assert!(requests[0].keep_alive && !requests[2].keep_alive);
    }

    #[test]
    fn refuses_what_is_not_a_request() {
        for bytes in [
            &b"nonsense\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\n",
            b"\x16\x03\x01\x02\x00",
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            b"POST / HTTP/1.1\r\nContent-Length: -3\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: \r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab",
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
        ] {
            let (requests, error) = read_all(bytes);
            assert!(
                requests.is_empty() && matches!(error, ReadError::Malformed(_)),
                "{error:?}"
            );
        }
        let huge = [b'a'; 100_000];
        assert!(matches!(read_all(&huge).1, ReadError::HeadTooLarge));
        for length in ["33554433", "99999999999999999999999999"] {
            let text = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
            assert!(matches!(read_all(text.as_bytes()).1, ReadError::TooLarge));
        }
        let chunk = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n";
        assert!(matches!(read_all(chunk).1, ReadError::TooLarge));
    }

    #[test]
    fn any_cut_or_changed_byte_is_survived() {
        let good = b"POST /d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
        for place in 0..good.len() {
            read_all(&good[..place]);
            for byte in [0, b'\n', b'0', b'f', b':', 0xff] {
                let mut bytes = good.to_vec();
                bytes[place] = byte;
                read_all(&bytes);
            }
        }
    }
}
