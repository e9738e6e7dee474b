//! A TLS front: a private CA, a certificate for localhost, and a listener that ends TLS and passes
//! the bytes on to the built-in provider. And proxies of the environment that take every connection
//! there.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A front. Its listener lives as long as the test program, and serves nothing but loopback.
pub(crate) struct Front {
    /// `https://localhost:PORT`
    pub(crate) url: String,
    /// The CA's certificate as PEM.
    pub(crate) authority: String,
}

impl Front {
    /// A front for the provider at `http://127.0.0.1:PORT`.
    pub(crate) fn of(provider: &str) -> Front {
        let upstream = provider.trim_start_matches("http://").to_owned();
        let (authority, config) = certificates();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (config, upstream) = (config.clone(), upstream.clone());
                thread::spawn(move || pass(client, &upstream, config));
            }
        });
        Front {
            url: format!("https://localhost:{port}"),
            authority,
        }
    }
}

fn certificates() -> (String, Arc<ServerConfig>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();

    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(names).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (authority.pem(), Arc::new(config))
}

/// Passes one connection on, each direction on a thread of its own. Neither reads from a socket
/// while it holds the TLS state.
fn pass(client: TcpStream, upstream: &str, config: Arc<ServerConfig>) -> Option<()> {
    let mut provider = TcpStream::connect(upstream).ok()?;
    let tls = Arc::new(Mutex::new(ServerConnection::new(config).ok()?));
    thread::spawn({
        let (tls, mut client) = (tls.clone(), client.try_clone().ok()?);
        let mut provider = provider.try_clone().ok()?;
        move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(count) = provider.read(&mut buffer) {
                let mut tls = tls.lock().unwrap();
                if count == 0 {
                    tls.send_close_notify();
                }
                let written = tls.writer().write_all(&buffer[..count]);
                if written.is_err() || !flush(&mut tls, &mut client) || count == 0 {
                    break;
                }
            }
            let _ = client.shutdown(Shutdown::Both);
        }
    });
    let mut client = client;
    let mut buffer = [0; 16 * 1024];
    while let Ok(count) = client.read(&mut buffer) {
        if count == 0 {
            break;
        }
        let mut plain = Vec::new();
        let mut arrived = &buffer[..count];
        let mut tls = tls.lock().unwrap();
        while !arrived.is_empty() {
            tls.read_tls(&mut arrived).ok()?;
            let sound = tls.process_new_packets().is_ok();
            let _ = tls.reader().read_to_end(&mut plain);
            if !flush(&mut tls, &mut client) || !sound {
                let _ = provider.shutdown(Shutdown::Both);
                return None;
            }
        }
        drop(tls);
        provider.write_all(&plain).ok()?;
    }
    let _ = provider.shutdown(Shutdown::Both);
    Some(())
}

/// Writes what TLS has to say. Whether the client took it.
fn flush(tls: &mut ServerConnection, client: &mut TcpStream) -> bool {
    while tls.wants_write() {
        if tls.write_tls(client).is_err() {
            return false;
        }
    }
    true
}

/// A proxy that leads each tunnel to the same place.
pub(crate) struct Tunnel {
    /// `http://127.0.0.1:PORT`, or `socks5h`, with the user name and password that it wants.
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Tunnel {
    /// An HTTP proxy, which answers CONNECT, to the address of a front.
    pub(crate) fn to(front: &str) -> Tunnel {
        Tunnel::of("http://", front, |client| connected(client, None))
    }

    /// The same, for whoever knows the password.
    pub(crate) fn with_password(front: &str) -> Tunnel {
        Tunnel::of("http://me:s3cret%20word@", front, |client| {
            connected(client, Some("Basic bWU6czNjcmV0IHdvcmQ="))
        })
    }

    /// A SOCKS proxy (RFC 1928) to the same.
    pub(crate) fn socks(front: &str) -> Tunnel {
        Tunnel::of("socks5h://", front, |client| greeted(client, None))
    }

    /// The same, for whoever knows the password (RFC 1929).
    pub(crate) fn socks_with_password(front: &str) -> Tunnel {
        Tunnel::of("socks5h://me:s3cret%20word@", front, |client| {
            greeted(client, Some(b"\x01\x02me\x0bs3cret word"))
        })
    }

    fn of(scheme: &str, front: &str, greet: Greet) -> Tunnel {
        let port = front.rsplit(':').next().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let lines = asked.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (lines, port) = (lines.clone(), port.clone());
                thread::spawn(move || lead(client, &port, &lines, greet));
            }
        });
        Tunnel { url, asked }
    }

    /// What was asked for, each once.
    pub(crate) fn asked(&self) -> Vec<String> {
        let mut asked = self.asked.lock().unwrap().clone();
        asked.dedup();
        asked
    }
}

/// Grants a client what it asks for, and says what that was; nothing for one that is refused.
type Greet = fn(&mut TcpStream) -> Option<String>;

fn connected(client: &mut TcpStream, password: Option<&str>) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(bytes::<1>(client)?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let given = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("proxy-authorization")
            .then_some(value)
    });
    let same = |given: &str, wanted: &str| {
        // The scheme has no case (RFC 9110 §11.1).
        given
            .get(..6)
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic "))
            && given[6..] == wanted[6..]
    };
    if password.is_some_and(|wanted| !given.is_some_and(|given| same(given, wanted))) {
        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
        client.write_all(refusal).ok()?;
        return None;
    }
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
    Some(head.lines().next()?.to_owned())
}

fn greeted(client: &mut TcpStream, password: Option<&[u8]>) -> Option<String> {
    let [version, methods] = bytes(client)?;
    assert_eq!(version, 5);
    let mut offered = vec![0; methods.into()];
    client.read_exact(&mut offered).ok()?;
    let method = if password.is_some() { 2 } else { 0 };
    if !offered.contains(&method) {
        client.write_all(&[5, 0xff]).ok()?;
        return None;
    }
    client.write_all(&[5, method]).ok()?;
    if let Some(password) = password {
        let mut given = vec![0; password.len()];
        client.read_exact(&mut given).ok()?;
        client.write_all(&[1, u8::from(given != password)]).ok()?;
    }
    // CONNECT to a name.
    assert_eq!(bytes(client)?, [5, 1, 0, 3]);
    let [length] = bytes(client)?;
    let mut name = vec![0; length.into()];
    client.read_exact(&mut name).ok()?;
    let port = u16::from_be_bytes(bytes(client)?);
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).ok()?;
    Some(format!("SOCKS {}:{port}", String::from_utf8(name).ok()?))
}

fn bytes<const COUNT: usize>(client: &mut TcpStream) -> Option<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    client.read_exact(&mut bytes).ok().map(|()| bytes)
}

fn lead(mut client: TcpStream, port: &str, asked: &Mutex<Vec<String>>, greet: Greet) -> Option<()> {
    let what = greet(&mut client)?;
    asked.lock().unwrap().push(what);
    let mut front = TcpStream::connect(format!("127.0.0.1:{port}")).ok()?;
    let (mut from, mut to) = (front.try_clone().ok()?, client.try_clone().ok()?);
    thread::spawn(move || std::io::copy(&mut from, &mut to));
    std::io::copy(&mut client, &mut front).ok()?;
    front.shutdown(Shutdown::Both).ok()
}
