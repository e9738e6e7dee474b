//! The provider's listener on 127.0.0.1 and its connections.
//! Owns: sockets, a thread per connection, time limits.
//! Promises: listens on loopback only; nothing a client sends ends the server; the observer hears of a
//! request before its client gets the answer; dropping it ends the listener and every connection.
//! Does not own: what is answered (`respond`), or how HTTP is read and written (`http1`).

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::http1;
use super::respond;
use super::scenario::Scenario;
use super::state::State;
use super::wire::{Body, Request, Response};
use crate::common::http::reader::{ReadError, Reader};
use crate::common::http::stream;

/// Connections at one time; one more gets a 503.
const CONNECTIONS_MAX: usize = 1024;
/// How long a connection may lie idle between two requests.
const IDLE: Duration = Duration::from_secs(300);
/// How long one request may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(60);
/// How long a client may leave an answer unread.
const WRITE: Duration = Duration::from_secs(60);

/// One served request.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// When it had been read completely.
    pub(crate) at: SystemTime,
    /// `anthropic#1`, never the token's text; `unknown` for a token that the scenario does not know.
    pub(crate) token_label: String,
    /// The organization's name in the scenario; empty for an unknown token.
    pub(crate) organization: String,
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    pub(crate) status: u16,
    /// `ddollar` for its own probes (by User-Agent), else `other`.
    pub(crate) who: &'static str,
    /// The model asked for; empty when none was.
    pub(crate) model: String,
    /// Whether the request asked for a stream.
    pub(crate) streamed: bool,
}

impl Served {
    /// One line of `__provider`'s output. `at` is in Unix seconds with a fraction.
    pub(crate) fn to_json(&self) -> Value {
        let at = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        json!({
            "at": at.as_millis() as f64 / 1000.0,
            "token_label": self.token_label,
            "organization": self.organization,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "who": self.who,
            "model": self.model,
            "streamed": self.streamed,
        })
    }
}

/// The running provider.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    started: Instant,
    stream_pause: Duration,
    observer: Box<dyn Fn(&Served) + Send + Sync>,
    stopping: AtomicBool,
    /// A handle on every open connection, so that the drop can end it.
    connections: Mutex<Vec<(u64, TcpStream)>>,
}

impl Server {
    /// Listens on a free port of 127.0.0.1 and plays `scenario` from now on. `observer` is called on
    /// the connection's thread, one request at a time.
    pub(crate) fn start(
        scenario: Scenario,
        observer: impl Fn(&Served) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            stream_pause: scenario.stream_pause,
            state: Mutex::new(State::new(scenario)),
            started: Instant::now(),
            observer: Box::new(observer),
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let acceptor = thread::Builder::new().name("rehearsal".to_owned()).spawn({
            let shared = shared.clone();
            move || accept(&listener, &shared)
        })?;
        Ok(Self {
            address,
            shared,
            acceptor: Some(acceptor),
        })
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // A blocked accept only wakes up for a connection.
        let woken = TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok();
        if let Some(acceptor) = self.acceptor.take().filter(|_| woken) {
            let _ = acceptor.join();
        }
        for (_, stream) in lock(&self.shared.connections).iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for number in 0.. {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        match accepted {
            Ok((stream, _)) => {
                if let Err(error) = open(stream, number, shared) {
                    log::debug!("rehearsal: a connection was lost: {error}");
                }
            }
            Err(error) => {
                log::debug!("rehearsal: accept failed: {error}");
                // Out of descriptors, most likely. Trying again at once would only burn time.
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

fn open(stream: TcpStream, number: u64, shared: &Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(WRITE))?;
    {
        let mut connections = lock(&shared.connections);
        if connections.len() >= CONNECTIONS_MAX {
            drop(connections);
            return http1::write(
                &mut &stream,
                &refusal(503, "too many connections"),
                false,
                false,
                || (),
            );
        }
        connections.push((number, stream.try_clone()?));
    }
    let ours = shared.clone();
    let spawned = thread::Builder::new()
        .stack_size(256 * 1024)
        .spawn(move || {
            if let Err(error) = converse(&stream, &ours) {
                log::debug!("rehearsal: a connection ended: {error}");
            }
            stream::linger(&stream);
            lock(&ours.connections).retain(|(other, _)| *other != number);
        });
    if spawned.is_err() {
        lock(&shared.connections).retain(|(other, _)| *other != number);
    }
    spawned.map(|_| ())
}

/// A stream whose reads have time limits: `IDLE` for the first byte of a request, `ARRIVAL` for the
/// rest of it.
struct Timed<'a> {
    stream: &'a TcpStream,
    until: Option<Instant>,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = match self.until {
            None => IDLE,
            Some(until) => until.saturating_duration_since(Instant::now()),
        };
        if limit.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(limit))?;
        let count = self.stream.read(buffer)?;
        self.until.get_or_insert_with(|| Instant::now() + ARRIVAL);
        Ok(count)
    }
}

/// Serves one connection to its end.
fn converse(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut sink = stream;
    let mut reader = Reader::new(Timed {
        stream,
        until: None,
    });
    while !shared.stopping.load(Ordering::SeqCst) {
        reader.source().until = None;
        let go_on = || (&*stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
        let refused = match http1::next(&mut reader, go_on) {
            Ok(request) => {
                let response = decide(shared, &request);
                let pause = || thread::sleep(shared.stream_pause);
                let (keep_alive, chunked_ok) = (request.keep_alive, request.chunked_ok);
                http1::write(&mut sink, &response, keep_alive, chunked_ok, pause)?;
                if keep_alive {
                    continue;
                }
                return Ok(());
            }
            Err(ReadError::Closed) => return Ok(()),
            Err(ReadError::Io(error)) => return Err(error),
            Err(ReadError::Malformed(why)) => refusal(400, why),
            Err(ReadError::HeadTooLarge) => refusal(431, "the head is larger than 64 KiB"),
            Err(ReadError::TooLarge) => refusal(413, "the body is larger than 32 MiB"),
        };
        return http1::write(&mut sink, &refused, false, false, || ());
    }
    Ok(())
}

/// Decides and tells the observer, under one lock, so that it hears in the order of the decisions.
fn decide(shared: &Shared, request: &Request) -> Response {
    let mut state = lock(&shared.state);
    let (now, wall) = (shared.started.elapsed(), SystemTime::now());
    let (response, note) = respond::respond(&mut state, now, wall, request);
    if let Some(note) = note {
        (shared.observer)(&Served {
            at: wall,
            token_label: note.token_label,
            organization: note.organization,
            method: request.method.clone(),
            path: request.target.clone(),
            status: response.status,
            who: if request.is_ddollars() {
                "ddollar"
            } else {
                "other"
            },
            model: note.model,
            streamed: note.streamed,
        });
    }
    response
}

fn refusal(status: u16, why: &str) -> Response {
    let body = json!({ "error": { "type": "invalid_request_error", "message": why } });
    let headers = vec![("content-type", "application/json".to_owned())];
    Response {
        status,
        headers,
        body: Body::Whole(body.to_string()),
    }
}

#[cfg(test)]
mod tests;
