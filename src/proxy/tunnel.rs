//! What is said to the environment's proxy before a provider can be spoken to.
//!
//! HTTP `CONNECT` (RFC 9110 §9.3.6) with a password as RFC 7617 has it, and SOCKS 5 (RFC 1928) with
//! one as RFC 1929 has it. It promises to read no byte behind the proxy's answer, and that neither
//! user name nor password is in an error. Blocks; connecting and encryption are `upstream`'s.

use crate::common::http::reader::FIELDS_MAX;
use crate::common::http::stream::is_late;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Instant;
use ureq::{Proxy, ProxyProtocol};

/// The head of a proxy's answer is not larger than this, in bytes.
const HEAD_MAX: usize = 8 * 1024;

/// Has the proxy at the other end of `stream` connect it to this host, until then.
///
/// # Errors
/// In a few words, why it does not.
pub(super) fn open(
    stream: &mut (impl Read + Write),
    proxy: &Proxy,
    host: &str,
    port: u16,
    until: Instant,
) -> Result<(), String> {
    let mut stream = Patient { stream, until };
    match proxy.protocol() {
        ProxyProtocol::Http | ProxyProtocol::Https => connect(&mut stream, proxy, host, port),
        _ => socks5(&mut stream, proxy, host, port),
    }
}

/// A stream whose reads pass over what is nothing but TLS's own, and end at a moment.
struct Patient<'a, S> {
    stream: &'a mut S,
    until: Instant,
}

impl<S: Read> Read for Patient<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error) if is_late(&error) && Instant::now() < self.until => {}
                Err(error) if is_late(&error) => return Err(ErrorKind::TimedOut.into()),
                read => return read,
            }
        }
    }
}

impl<S: Write> Write for Patient<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn failed(error: io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof => "it closed the connection".into(),
        ErrorKind::TimedOut => "it did not answer in time".into(),
        _ => error.to_string(),
    }
}

fn connect(
    stream: &mut (impl Read + Write),
    proxy: &Proxy,
    host: &str,
    port: u16,
) -> Result<(), String> {
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
    if let Some(user) = proxy.username() {
        let pair = format!("{user}:{}", proxy.password().unwrap_or_default());
        let pair = BASE64_STANDARD.encode(pair);
        request.push_str(&format!("Proxy-Authorization: Basic {pair}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    stream.flush().map_err(failed)?;
    // Byte by byte: what follows the head is TLS, which is not ours to take.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let [byte] = take(stream).map_err(failed)?;
        head.push(byte);
        if head.len() > HEAD_MAX {
            return Err("it does not answer in HTTP".into());
        }
    }
    let mut space = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut space);
    match (response.parse(&head), response.code) {
        (Ok(_), Some(200..=299)) => Ok(()),
        (Ok(_), Some(407)) => Err("it wants another user name or password (status 407)".into()),
        (Ok(_), Some(status)) => Err(format!("it answers with status {status}")),
        _ => Err("it does not answer in HTTP".into()),
    }
}

fn socks5(
    stream: &mut (impl Read + Write),
    proxy: &Proxy,
    host: &str,
    port: u16,
) -> Result<(), String> {
    const NO_PASSWORD: u8 = 0;
    const PASSWORD: u8 = 2;
    let target = target(proxy, host, port)?;

    let user = proxy.username();
    // Version, number of methods, methods.
    let offered: &[u8] = match user {
        Some(_) => &[5, 2, NO_PASSWORD, PASSWORD],
        None => &[5, 1, NO_PASSWORD],
    };
    stream.write_all(offered).map_err(failed)?;
    stream.flush().map_err(failed)?;
    let [version, method] = take(stream).map_err(failed)?;
    match (version, method, user) {
        (5, NO_PASSWORD, _) => {}
        (5, PASSWORD, Some(user)) => {
            let password = proxy.password().unwrap_or_default();
            let mut request = vec![1];
            put_short(&mut request, user.as_bytes());
            put_short(&mut request, password.as_bytes());
            stream.write_all(&request).map_err(failed)?;
            stream.flush().map_err(failed)?;
            let [_, status] = take(stream).map_err(failed)?;
            if status != 0 {
                return Err("it refuses the user name or password".into());
            }
        }
        (5, _, None) => return Err("it wants a user name and password".into()),
        (5, ..) => return Err("it takes no user name and password".into()),
        _ => return Err("it does not speak SOCKS 5".into()),
    }

    // Version, CONNECT, reserved.
    let mut request = vec![5, 1, 0];
    match target {
        Target::Address(IpAddr::V4(address)) => {
            request.push(1);
            request.extend_from_slice(&address.octets());
        }
        Target::Address(IpAddr::V6(address)) => {
            request.push(4);
            request.extend_from_slice(&address.octets());
        }
        Target::Name(name) => {
            request.push(3);
            put_short(&mut request, name.as_bytes());
        }
    }
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).map_err(failed)?;
    stream.flush().map_err(failed)?;
    // Version, status, reserved, and the address of its own end, which is of no use but has to be
    // read: its type, itself, its port.
    let [version, status, _, kind] = take(stream).map_err(failed)?;
    match (version, status) {
        (5, 0) => {}
        (5, status) => return Err(refusal(status).into()),
        _ => return Err("it does not speak SOCKS 5".into()),
    }
    let length = match kind {
        1 => 4,
        4 => 16,
        3 => take::<1>(stream).map_err(failed)?[0].into(),
        _ => return Err("it does not speak SOCKS 5".into()),
    };
    let mut rest = vec![0; length + 2];
    stream.read_exact(&mut rest).map_err(failed)
}

/// What a SOCKS proxy is asked to connect to.
enum Target<'a> {
    Address(IpAddr),
    Name(&'a str),
}

/// `socks5://` looks the name up here, `socks5h://` has the proxy do it, as curl defines the two.
fn target<'a>(proxy: &Proxy, host: &'a str, port: u16) -> Result<Target<'a>, String> {
    if let Ok(address) = host.parse() {
        return Ok(Target::Address(address));
    }
    if proxy.protocol() == ProxyProtocol::Socks5h {
        return match host.len() {
            0..256 => Ok(Target::Name(host)),
            _ => Err("the provider's name is too long for SOCKS".into()),
        };
    }
    let mut found = (host, port).to_socket_addrs().map_err(failed)?;
    let first = found.next().map(|address: SocketAddr| address.ip());
    first
        .map(Target::Address)
        .ok_or_else(|| format!("there is no host of the name {host}"))
}

/// The words of RFC 1928 §6.
fn refusal(status: u8) -> &'static str {
    match status {
        2 => "it does not allow connections to the provider",
        3 => "it has no way to the provider's network",
        4 => "it cannot reach the provider",
        5 => "the provider refuses its connection",
        6 => "it did not reach the provider in time",
        _ => "it cannot connect to the provider",
    }
}

/// Puts a text and its length, of which there are at most 255 bytes.
fn put_short(out: &mut Vec<u8>, text: &[u8]) {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    out.push(length);
    out.extend_from_slice(&text[..length.into()]);
}

/// The next so many bytes.
fn take<const COUNT: usize>(stream: &mut impl Read) -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A proxy that answers with given bytes, and keeps what it was told.
    struct Told<'a> {
        answer: &'a [u8],
        told: Vec<u8>,
    }

    impl Read for Told<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.answer.len().min(buffer.len());
            buffer[..count].copy_from_slice(&self.answer[..count]);
            self.answer = &self.answer[count..];
            Ok(count)
        }
    }

    impl Write for Told<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.told.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What came of it, what the proxy was told, and what it has said beyond its answer.
    fn tell<'a>(
        url: &str,
        host: &str,
        answer: &'a [u8],
    ) -> (Result<(), String>, Vec<u8>, &'a [u8]) {
        let mut stream = Told {
            answer,
            told: Vec::new(),
        };
        let until = Instant::now() + Duration::from_secs(60);
        let opened = open(&mut stream, &Proxy::new(url).unwrap(), host, 443, until);
        (opened, stream.told, stream.answer)
    }

    #[test]
    fn connect_with_and_without_a_password() {
        let answer = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nTLS";
        let (opened, told, rest) = tell("http://p:1", "api.example", answer);
        assert_eq!((opened, rest), (Ok(()), &b"TLS"[..]));
        let expected = "CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\r\n";
        assert_eq!(String::from_utf8(told).unwrap(), expected);
        let (_, told, _) = tell("http://me:s3cret%20word@p:1", "::1", answer);
        let expected = "CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\
                        Proxy-Authorization: Basic bWU6czNjcmV0IHdvcmQ=\r\n\r\n";
        assert_eq!(String::from_utf8(told).unwrap(), expected);
        for (answer, why) in [
            (&b"HTTP/1.1 407 No\r\n\r\n"[..], "407"),
            (b"HTTP/1.1 502 No\r\n\r\n", "502"),
            (b"SSH-2.0\r\n\r\n", "HTTP"),
            (b"HTTP/1.1 200", "closed"),
            (&[b'x'; 9000], "HTTP"),
        ] {
            let (opened, ..) = tell("http://me:s3cret@p:1", "h", answer);
            let error = opened.unwrap_err();
            assert!(error.contains(why) && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn socks_with_and_without_a_password() {
        let granted = b"\x05\x00\x05\x00\x00\x01\x7f\0\0\x01\0\x50TLS";
        let (opened, told, rest) = tell("socks5h://p", "api.example", granted);
        assert_eq!((opened, rest), (Ok(()), &b"TLS"[..]));
        assert_eq!(told, b"\x05\x01\x00\x05\x01\x00\x03\x0bapi.example\x01\xbb");
        let (opened, told, _) = tell("socks5://p", "127.0.0.1", granted);
        assert_eq!(opened, Ok(()));
        assert_eq!(told, b"\x05\x01\x00\x05\x01\x00\x01\x7f\0\0\x01\x01\xbb");
        let with_password = b"\x05\x02\x01\x00\x05\x00\x00\x03\x01x\0\x50TLS";
        let (opened, told, rest) = tell("socks5h://u:pw@p", "h", with_password);
        assert_eq!((opened, rest), (Ok(()), &b"TLS"[..]));
        assert_eq!(
            told,
            b"\x05\x02\x00\x02\x01\x01u\x02pw\x05\x01\x00\x03\x01h\x01\xbb"
        );
        for (answer, why) in [
            (&b"\x05\xff"[..], "takes no user name"),
            (b"\x05\x02\x01\x01", "refuses the user name"),
            (b"\x05\x00\x05\x05\0\x01", "refuses its connection"),
            (b"\x05\x00\x05\x63\0\x01", "cannot connect"),
            (b"\x05\x00\x05\x00\0\x09", "SOCKS 5"),
            (b"HTTP/1.1 400", "SOCKS 5"),
            (b"\x05", "closed"),
        ] {
            let (opened, ..) = tell("socks5h://u:s3cret@p", "h", answer);
            let error = opened.unwrap_err();
            assert!(error.contains(why) && !error.contains("s3cret"), "{error}");
        }
        let (opened, ..) = tell("socks5h://p", "h", b"\x05\xff");
        assert!(opened.unwrap_err().contains("wants a user name"));
    }
}
