//! What the servers of this program write themselves: the head of an answer, and chunks.
//!
//! Pure: everything goes into memory.

use std::io::Write;

/// What ends a body in chunks (RFC 9112 §7.1).
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Puts the head of an answer onto `out`, with these fields and a body of this length, or in chunks.
pub(crate) fn put_head<'a>(
    out: &mut Vec<u8>,
    status: u16,
    fields: impl IntoIterator<Item = (&'a str, &'a str)>,
    length: Option<usize>,
    keep_alive: bool,
) {
    let known = http::StatusCode::from_u16(status).ok();
    let reason = match known.and_then(|status| status.canonical_reason()) {
        Some(reason) => reason,
        // Anthropic's.
        None if status == 529 => "Overloaded",
        None => "Error",
    };
    // Into memory, which takes everything.
    let _ = write!(out, "HTTP/1.1 {status} {reason}\r\n");
    let _ = match length {
        Some(length) => write!(out, "content-length: {length}\r\n"),
        None => write!(out, "transfer-encoding: chunked\r\n"),
    };
    for (name, value) in fields {
        let _ = write!(out, "{name}: {value}\r\n");
    }
    // Connections go on unless somebody says otherwise (RFC 9112 §9.3).
    if !keep_alive {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Puts a piece of a body in chunks onto `out`. An empty one is left out: it would be the last.
pub(crate) fn put_chunk(out: &mut Vec<u8>, piece: &[u8]) {
    if piece.is_empty() {
        return;
    }
    let _ = write!(out, "{:x}\r\n", piece.len());
    out.extend_from_slice(piece);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_chunks() {
        let mut out = Vec::new();
        put_head(&mut out, 429, [("retry-after", "2")], Some(3), false);
        let expected = "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 3\r\nretry-after: 2\r\n\
                        connection: close\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        put_head(&mut out, 529, [], None, true);
        put_chunk(&mut out, b"seventeen bytes..");
        put_chunk(&mut out, b"");
        out.extend_from_slice(LAST_CHUNK);
        let expected = "HTTP/1.1 529 Overloaded\r\ntransfer-encoding: chunked\r\n\r\n\
                        11\r\nseventeen bytes..\r\n0\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
