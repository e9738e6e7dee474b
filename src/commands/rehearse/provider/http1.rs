//! HTTP/1.1 for the built-in provider: requests off a byte source, answers onto a sink.
//!
//! Owns: requests and answers as the provider has them, out of and into `common/http`. Promises: any
//! bytes give a request or one error. Does not own: sockets and time limits (`server`), or what a
//! request means (`respond`).

use std::io::{self, Read, Write};

use super::wire::{Body, Request, Response};
use crate::common::http::reader::{BodyFraming, Parsed, ReadError, Reader};
use crate::common::http::request::RequestHead;
use crate::common::http::response::{LAST_CHUNK, put_chunk, put_head};

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
    let Some((head, length)) = RequestHead::parse(bytes)? else {
        return Ok(None);
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = head.fields();
    let request = Request {
        method: head.method().to_owned(),
        target: head.whole_target().to_owned(),
        keep_alive: head.keep_alive,
        chunked_ok: head.modern,
        body: Vec::new(),
        headers: headers
            .map(|(name, value)| (text(name).to_ascii_lowercase(), text(value)))
            .collect(),
    };
    Ok(Some(((request, head.body), length)))
}

/// The head of a response with a body of this length, or in chunks.
fn head_of(response: &Response, length: Option<usize>, keep_alive: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1024);
    let fields = response.headers.iter();
    let fields = fields.map(|(name, value)| (*name, value.as_str()));
    put_head(&mut bytes, response.status, fields, length, keep_alive);
    bytes
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
            sink.write_all(&head_of(response, None, keep_alive))?;
            for event in events {
                let mut chunk = Vec::new();
                put_chunk(&mut chunk, event.as_bytes());
                sink.write_all(&chunk)?;
                sink.flush()?;
                pause();
            }
            sink.write_all(LAST_CHUNK)?;
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
    let mut bytes = head_of(response, Some(body.len()), keep_alive);
    bytes.extend_from_slice(body.as_bytes());
    // One write, so that a short answer is one packet.
    sink.write_all(&bytes)
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
