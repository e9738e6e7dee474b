//! Connections to one provider.
//!
//! Owns where the provider is, the tokens in their place in a request, TLS, the way through the
//! environment's proxy, and the connections that are kept for the next request. It promises that a
//! token goes to the provider's own address only: over TLS, or in the clear to this machine. Blocks.
//! What is sent and what comes back is not its business.

use super::redact::Redactor;
use super::{now, route, tunnel};
use crate::common::body::Body;
use crate::common::http::reader::Reader;
use crate::common::http::stream::{MOMENT, is_late};
use crate::common::secret::Secret;
use crate::common::time::Now;
use crate::providers::endpoint::Endpoint;
use crate::providers::reasoning;
use crate::providers::tls::{cryptography, trusted, with_hint};
use crate::providers::{Authorization, Provider};
use crate::tokens::TokenPool;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::collections::HashSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use ureq::{Proxy, ProxyProtocol};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// All that comes between the connection and the request: the environment's proxy, and TLS.
const GREETING_TIMEOUT: Duration = Duration::from_secs(15);
/// A write that makes no progress for this long has failed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// A silent connection shows that it is alive this often, as the providers' own clients have it.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Between two signs of life, once one has had no answer. The third that is lost ends the connection, as
/// [`UNHEARD`] has it; one alone may get lost.
const KEEP_ALIVE_AGAIN: Duration = Duration::from_secs(10);
/// A connection ends when nothing was heard for so long of what was sent on it, signs of life included.
const UNHEARD: Duration = Duration::from_secs(90);
/// The same for a request on a connection that was kept: it then goes again on a new one.
const UNHEARD_AGAIN: Duration = Duration::from_secs(20);
/// What was heard so lately is believed to be there still, which saves two system calls a request.
const HEARD_LATELY: Duration = Duration::from_secs(1);
/// By then such a connection has ended, or all of the request was acknowledged.
pub(crate) const HEARD_BY: Duration = Duration::from_secs(25);
/// Connections kept without a request. Providers close theirs after one to several minutes.
const MOST_IDLE: usize = 64;
const LONGEST_IDLE: Duration = Duration::from_secs(50);
/// Marks of refused reasoning that are kept, about; a long conversation has some hundred.
const MOST_UNREADABLE: usize = 4096;

/// How often bytes have come from a provider or gone to one.
static MOVED: AtomicU64 = AtomicU64::new(0);

/// How often bytes have come from a provider or gone to one, in this process.
pub(crate) fn moved() -> u64 {
    MOVED.load(Relaxed)
}

/// Counts bytes that have moved.
fn count(moved: usize) -> usize {
    MOVED.fetch_add(u64::from(moved > 0), Relaxed);
    moved
}

/// One provider, as far as connecting to it goes.
pub(crate) struct Upstream {
    pub(crate) provider: &'static Provider,
    /// In the order of the ring, which may grow.
    secrets: RwLock<Vec<Secret>>,
    /// The `Host` field.
    pub(crate) host: String,
    /// What stands before every path: the path of the base URL, without a slash at its end.
    pub(crate) base_path: String,
    /// Whether a token goes out as a bearer, too.
    takes_both: bool,
    name: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    proxy: Option<Proxy>,
    idle: Mutex<Vec<(Link, Now)>>,
    /// The token, and the mark of reasoning that its organization has refused.
    unreadable: RwLock<HashSet<(usize, u64)>>,
    /// Tokens, and the fields of requests that do not fit them.
    mismatched: RwLock<Vec<(usize, &'static [&'static str])>>,
}

/// A connection to a provider, and what was read from it. A read fails with `WouldBlock` when what
/// had come was nothing but TLS's own.
pub(crate) type Link = Reader<Socket>;

/// Its socket.
pub(crate) enum Socket {
    Plain(TcpStream),
    /// Over another one: a proxy may want TLS itself.
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

impl Upstream {
    /// The upstream of a ring; connects to nothing yet.
    pub(crate) fn new(pool: &TokenPool, endpoint: &Endpoint) -> Result<Upstream, String> {
        let (url, name, port) = address(endpoint).ok_or("the base URL is not an address")?;
        let plain = endpoint.plain;
        let tls = (!plain).then(|| tls(endpoint)).transpose()?;
        Ok(Upstream {
            provider: pool.current().provider,
            secrets: RwLock::new(secrets(pool).collect()),
            host: url
                .authority()
                .map_or_else(|| name.clone(), ToString::to_string),
            base_path: url.path().trim_end_matches('/').to_owned(),
            takes_both: pool.current().provider.takes_both(&endpoint.base_url),
            name,
            port,
            tls,
            proxy: endpoint.proxy.clone(),
            idle: Mutex::default(),
            unreadable: RwLock::default(),
            mismatched: RwLock::default(),
        })
    }

    /// Knows these tokens, too: they come at the ring's end.
    pub(crate) fn add(&self, added: &TokenPool) {
        let mut known = self.secrets.write().unwrap_or_else(PoisonError::into_inner);
        known.extend(secrets(added));
    }

    /// The token at `index`.
    pub(crate) fn token(&self, index: usize) -> Secret {
        let known = self.secrets.read().unwrap_or_else(PoisonError::into_inner);
        known.get(index).cloned().unwrap_or_else(|| Secret::new(""))
    }

    /// How many tokens there are.
    pub(crate) fn tokens(&self) -> usize {
        let known = self.secrets.read();
        known.unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The token at `index` was refused for these fields of a request, which go out with others alone from now
    /// on.
    pub(crate) fn leave_out(&self, index: usize, fields: &'static [&'static str]) {
        let all = self.mismatched.write();
        all.unwrap_or_else(PoisonError::into_inner)
            .push((index, fields));
    }

    /// The fields that do not go out with the token at `index`.
    pub(crate) fn left_out(&self, index: usize) -> &'static [&'static str] {
        let all = self
            .mismatched
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let known = all.iter().find(|(token, _)| *token == index);
        known.map_or(&[], |(_, fields)| fields)
    }

    /// These tokens were refused a body with reasoning of these marks. What others were refused for as well is
    /// rather their own, and counts when nothing else is left. Whether any of that is news.
    pub(crate) fn cannot_read(&self, tokens: &[usize], marks: &[u64]) -> bool {
        let mut all = self
            .unreadable
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if all.len() > MOST_UNREADABLE {
            all.clear();
        }
        let is_others = |mark: &u64| {
            let mut known = all.iter();
            known.any(|(token, other)| other == mark && !tokens.contains(token))
        };
        let (own, others): (Vec<u64>, Vec<u64>) = marks.iter().copied().partition(is_others);
        [others, own].into_iter().any(|marks| {
            let before = all.len();
            let each = |token: &usize| marks.iter().map(|mark| (*token, *mark)).collect::<Vec<_>>();
            all.extend(tokens.iter().flat_map(each));
            all.len() > before
        })
    }

    /// The body without the reasoning that the token at `index` was refused for; `None`: with all of it.
    pub(crate) fn readable(&self, index: usize, body: &[u8]) -> Option<Body> {
        let all = self
            .unreadable
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return None;
        }
        reasoning::without(body, |mark| all.contains(&(index, mark)))
    }

    /// The path on this proxy of what a redirect of the provider's leads to; `None`: it leads elsewhere, as to a
    /// signed address of a file, or says so by itself.
    pub(crate) fn redirected(&self, location: &[u8]) -> Option<String> {
        let url: http::Uri = std::str::from_utf8(location).ok()?.parse().ok()?;
        let is_here = match url.host() {
            None => location.starts_with(b"/") && !location.starts_with(b"//"),
            Some(host) => {
                let usual = if self.is_here() { 80 } else { 443 };
                (url.scheme_str() == Some("http")) == self.is_here()
                    && host
                        .trim_matches(['[', ']'])
                        .eq_ignore_ascii_case(&self.name)
                    && url.port_u16().unwrap_or(usual) == self.port
            }
        };
        let rest = url.path_and_query()?.as_str().strip_prefix(&self.base_path);
        let below = rest.filter(|rest| is_here && route::begins_anew(rest))?;
        let provider = self.provider;
        Some(["/", provider.name, route::base_path(provider), below].concat())
    }

    /// The fields that carry a token to this path, what stands before it there, and the token.
    pub(crate) fn credentials<'a>(&self, token: &'a Secret, path: &str) -> Vec<[&'a str; 3]> {
        let field = match self.provider.authorization() {
            // Where Google answers as OpenAI does, it takes the token in OpenAI's field alone
            // (sipeed/picoclaw#2374).
            Authorization::XGoogApiKey if path.contains("/openai/") => Authorization::Bearer,
            field => field,
        };
        let both = [field, Authorization::Bearer];
        let fields = both.into_iter().take(1 + usize::from(self.takes_both));
        let parts = |field: Authorization| [field.header_name(), field.prefix(), token.expose()];
        fields.map(parts).collect()
    }

    /// Whether it is on this machine, as only an address in the clear is.
    pub(crate) fn is_here(&self) -> bool {
        self.tls.is_none()
    }

    /// What takes a token out of what comes back.
    pub(crate) fn mask(token: &Secret) -> Redactor<'_> {
        Redactor::of(token.expose().as_bytes())
    }

    /// A connection that was kept and is still good, as far as can be seen; and whether it may be dead all the
    /// same, since nothing was heard on it for a while: the machine is in another network, or a NAT has forgotten
    /// it. Until [`Socket::trust`] such a one ends soon when nobody acknowledges what is sent.
    pub(crate) fn kept(&self) -> Option<(Link, bool)> {
        loop {
            let mut idle = self.idle();
            // The youngest first; the old ones are closed when they come up.
            let (link, since) = idle.pop()?;
            // The monotonic clock stands still while the machine sleeps.
            let slept = since.wall.elapsed().unwrap_or_default();
            let idle_for = slept.max(since.tick.elapsed());
            if idle_for > LONGEST_IDLE {
                idle.clear();
                return None;
            }
            // Others need not wait for the look at it.
            drop(idle);
            let socket = link.source_ref();
            if !socket.has_news() {
                let is_doubted = idle_for > HEARD_LATELY;
                if is_doubted {
                    ends_unheard(socket.tcp(), UNHEARD_AGAIN);
                }
                return Some((link, is_doubted));
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Link, Now)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a connection for the next request.
    pub(crate) fn keep(&self, mut link: Link) {
        link.rest();
        let mut idle = self.idle();
        if link.buffered().is_empty() && idle.len() < MOST_IDLE {
            idle.push((link, now()));
        }
    }

    /// A new connection, or in a few words why there is none.
    pub(crate) fn connect(&self) -> Result<Link, String> {
        let said = |error: io::Error| error.to_string();
        let mut socket = match &self.proxy {
            None => prepared(connect(&self.name, self.port).map_err(said)?).map_err(said)?,
            Some(proxy) => {
                let through = |why: String| {
                    let (host, port) = (proxy.host(), proxy.port());
                    format!("through the proxy {host}:{port}: {why}")
                };
                self.tunnel(proxy).map_err(through)?
            }
        };
        if let Some(config) = &self.tls {
            socket = encrypted(socket, config, &self.name)?;
        }
        socket.tcp().set_read_timeout(Some(MOMENT)).map_err(said)?;
        Ok(Reader::new(socket))
    }

    /// A connection through the environment's proxy, to which the provider is a name and a port.
    fn tunnel(&self, proxy: &Proxy) -> Result<Socket, String> {
        let said = |error: io::Error| error.to_string();
        let host = proxy.host().trim_matches(['[', ']']);
        let stream = connect(host, proxy.port()).map_err(said)?;
        let mut socket = prepared(stream).map_err(said)?;
        if let (ProxyProtocol::Https, Some(config)) = (proxy.protocol(), &self.tls) {
            socket = encrypted(socket, config, host)?;
        }
        let until = Instant::now() + GREETING_TIMEOUT;
        tunnel::open(&mut socket, proxy, &self.name, self.port, until)?;
        Ok(socket)
    }
}

/// The texts of a pool's tokens, in its order.
fn secrets(pool: &TokenPool) -> impl Iterator<Item = Secret> {
    pool.tokens().map(|token| token.secret.clone())
}

/// A connection with its options set, and with the time limits of the greeting.
fn prepared(stream: TcpStream) -> io::Result<Socket> {
    stream.set_nodelay(true)?;
    keep_alive(&stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    stream.set_read_timeout(Some(GREETING_TIMEOUT))?;
    Ok(Socket::Plain(stream))
}

/// TLS over a connection, to a host of this name.
fn encrypted(socket: Socket, config: &Arc<ClientConfig>, name: &str) -> Result<Socket, String> {
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| format!("'{name}' is no name for TLS"))?;
    let session = ClientConnection::new(config.clone(), name).map_err(|error| error.to_string())?;
    let mut tls = StreamOwned::new(session, socket);
    let until = Instant::now() + GREETING_TIMEOUT;
    while tls.conn.is_handshaking() {
        match tls.conn.complete_io(&mut tls.sock) {
            Ok(_) => {}
            // Over TLS, a read may find nothing but what is TLS's own.
            Err(error) if is_late(&error) && Instant::now() < until => {}
            Err(error) => return Err(with_hint(error.to_string())),
        }
    }
    Ok(Socket::Tls(Box::new(tls)))
}

/// The address of a provider, the name in it, without brackets, and the port.
fn address(endpoint: &Endpoint) -> Option<(http::Uri, String, u16)> {
    let url: http::Uri = endpoint.base_url.parse().ok()?;
    let host = url.host().unwrap_or_default();
    let name = host.trim_matches(['[', ']']).to_owned();
    let port = url
        .port_u16()
        .unwrap_or(if endpoint.plain { 80 } else { 443 });
    Some((url, name, port))
}

/// Whether who listens there is the provider, whatever its address calls it.
pub(crate) fn leads_to(endpoint: &Endpoint, listen: SocketAddr) -> bool {
    // Over TLS nobody can mean us, who do not speak it.
    let Some((_, name, port)) = address(endpoint).filter(|_| endpoint.plain) else {
        return false;
    };
    let mut found = (name.as_str(), port)
        .to_socket_addrs()
        .into_iter()
        .flatten();
    // Of all addresses, those of version 6 take connections of version 4 as well (ipv6(7)).
    let to_all = |to: SocketAddr| listen.ip().is_unspecified() && listen.is_ipv6() | to.is_ipv4();
    port == listen.port() && found.any(|to| to.ip() == listen.ip() || to_all(to))
}

/// Has the system send a sign of life while nothing else is sent. A provider thinks for minutes, and
/// what is on the way (NAT, a load balancer) forgets a silent connection after a few; nobody would
/// ever hear of the answer. And one whose other side is gone ends, also while something that was sent is not
/// acknowledged, when the system has other probes: after a change of network, none comes back for a quarter of
/// an hour (tcp(7), `tcp_retries2`). A system that refuses goes without.
fn keep_alive(stream: &TcpStream) {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    #[cfg(not(target_vendor = "apple"))]
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &seconds(KEEP_ALIVE));
    #[cfg(target_vendor = "apple")]
    let _ = setsockopt(stream, sockopt::TcpKeepAlive, &seconds(KEEP_ALIVE));
    let _ = setsockopt(stream, sockopt::TcpKeepInterval, &seconds(KEEP_ALIVE_AGAIN));
    ends_unheard(stream, UNHEARD);
}

/// Has the system end the connection when nothing is heard for this long of what was sent (TCP_USER_TIMEOUT,
/// tcp(7), which macOS does not have).
fn ends_unheard(stream: &TcpStream, after: Duration) {
    #[cfg(target_os = "linux")]
    let _ = setsockopt(
        stream,
        sockopt::TcpUserTimeout,
        &u32::try_from(after.as_millis()).unwrap_or(u32::MAX),
    );
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, after);
}

fn connect(name: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::from(ErrorKind::AddrNotAvailable);
    for address in (name, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// TLS with the bundled roots and those that the user trusts beside them.
fn tls(endpoint: &Endpoint) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let trusted = trusted(&endpoint.certificates);
    let trusted = trusted.iter();
    roots.add_parsable_certificates(trusted.map(|one| CertificateDer::from(one.der().to_vec())));
    let config = ClientConfig::builder_with_provider(cryptography())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Socket {
    fn tcp(&self) -> &TcpStream {
        match self {
            Socket::Plain(stream) => stream,
            Socket::Tls(tls) => tls.sock.tcp(),
        }
    }

    /// For a connection at whose other end somebody is: it is given time again.
    pub(crate) fn trust(&self) {
        ends_unheard(self.tcp(), UNHEARD);
    }

    /// Whether a read returns at once with what TLS has decrypted already.
    pub(crate) fn has_plaintext(&self) -> bool {
        match self {
            Socket::Plain(_) => false,
            Socket::Tls(tls) => !tls.conn.wants_read() || tls.sock.has_plaintext(),
        }
    }

    /// Whether something has come without a request: an end, most likely.
    fn has_news(&self) -> bool {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO) != Ok(0)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp().as_fd()
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(stream) => stream.read(buffer).map(count),
            Socket::Tls(tls) => {
                // Once, and not until there is plaintext as `StreamOwned` does: the session tickets
                // of TLS 1.3 come ahead of an answer, and behind them a read would wait for it
                // where nobody looks after the client.
                if tls.conn.wants_read() {
                    tls.conn.read_tls(&mut tls.sock)?;
                    let sound = tls.conn.process_new_packets();
                    // The answer to a change of keys, or what was wrong.
                    while tls.conn.wants_write() {
                        tls.conn.write_tls(&mut tls.sock)?;
                    }
                    sound.map_err(io::Error::other)?;
                }
                tls.conn.reader().read(buffer)
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(stream) => stream.write(bytes).map(count),
            Socket::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Socket::Plain(stream) => stream.flush(),
            Socket::Tls(tls) => tls.flush(),
        }
    }
}
