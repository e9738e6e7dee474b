//! The listener: takes connections, each onto a thread of its own.
//!
//! It promises that nothing a client does ends it, that there is a bound on connections, and that
//! it ends when it is told to. What is said on a connection is `forward`'s business.

use super::client::Client;
use super::local_response::LocalResponse;
use super::{Shared, forward};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// Connections at one time, where the system lets us have so many files.
const CONNECTIONS_MAX: u64 = 4096;
/// Files that are not connections: the log, the terminal, what libraries open.
const FILES_KEPT: u64 = 64;
/// Deep JSON is parsed on it, and TLS shaken hands. Only what is touched costs memory.
const STACK: usize = 256 * 1024;
/// How long to wait when the system has no more files or threads to give.
const SHORT_OF: Duration = Duration::from_millis(50);

/// How many connections there may be at one time: each may need a second one upstream.
pub(crate) fn most_connections() -> usize {
    let wanted = 2 * CONNECTIONS_MAX + FILES_KEPT;
    let files = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < wanted => {
            let raised = hard.min(wanted);
            match setrlimit(Resource::RLIMIT_NOFILE, raised, hard) {
                Ok(()) => raised,
                Err(_) => soft,
            }
        }
        Ok((soft, _)) => soft,
        Err(_) => 256,
    };
    let most = files.saturating_sub(FILES_KEPT) / 2;
    usize::try_from(most.clamp(8, CONNECTIONS_MAX)).unwrap_or(8)
}

/// Takes connections until the proxy is to stop; then the listener is gone, and whoever comes is
/// refused by the system.
pub(crate) fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let mut fds = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(shared.stop(), PollFlags::POLLIN),
        ];
        let _ = poll(&mut fds, PollTimeout::NONE);
        if fds[1].any() == Some(true) || shared.is_stopping() {
            return;
        }
        match listener.accept() {
            Ok((stream, _)) => open(stream, shared),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                log::warn!("cannot take a connection: {error}");
                thread::sleep(SHORT_OF);
            }
        }
    }
}

fn open(stream: TcpStream, shared: &Arc<Shared>) {
    // The listener does not block, so that a connection that is gone again does not hold it.
    if stream.set_nonblocking(false).is_err() {
        return;
    }
    let open = shared.counters.connections.fetch_add(1, Ordering::SeqCst);
    let ours = Connection(shared.clone());
    if open >= shared.most_connections {
        let why = "too many connections";
        let own = LocalResponse::error(None, 503, "overloaded_error", why);
        // A fresh connection has room for it; whoever does not read it does not need it.
        let _ = stream.set_nonblocking(true);
        let _ = (&stream).write_all(&own.bytes(false, false));
        return;
    }
    let spawned = thread::Builder::new()
        .name("connection".into())
        .stack_size(STACK)
        .spawn(move || {
            if let Ok(mut client) = Client::new(stream) {
                forward::serve(&mut client, &ours.0);
            }
        });
    if let Err(error) = spawned {
        log::warn!("cannot start a thread for a connection: {error}");
        thread::sleep(SHORT_OF);
    }
}

/// A connection, as long as it is open; also when its thread panics.
struct Connection(Arc<Shared>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.counters.connections.fetch_sub(1, Ordering::SeqCst);
        self.0.connection_closed();
    }
}
