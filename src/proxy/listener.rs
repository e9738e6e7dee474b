//! The listener: takes connections, each onto a thread of its own.
//!
//! It promises that nothing a client does ends it, that there is a bound on connections, that those
//! who have not shown the secret are the first to go, and that it ends when it is told to. What is said
//! on a connection is `forward`'s business.

use super::client::ClientConnection;
use super::local_response::LocalResponse;
use super::{Shared, forward};
use crate::common::http::stream::linger;
use crate::events::RunEvent;
use crate::system::os;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Uid;
use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Connections at one time, where the system lets us have so many files.
const CONNECTIONS_MAX: u64 = 4096;
/// Files that are not connections: the log, the terminal, what libraries open, and a second
/// descriptor for each of [`UNPROVEN_MAX`].
const FILES_KEPT: u64 = 128;
/// Connections that have not shown the secret yet. Those of a burst of this user's own programs show it
/// within [`BURST`], and are not counted.
const UNPROVEN_MAX: usize = 64;
const BURST: Duration = Duration::from_secs(1);
/// Deep JSON is parsed on it, and TLS shaken hands. Only what is touched costs memory.
const STACK: usize = 256 * 1024;
/// How long to wait when the system has no more files or threads to give.
const SHORT_OF: Duration = Duration::from_millis(50);

/// So many there may always be.
pub(super) const FEWEST_CONNECTIONS: usize = 8;

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
    usize::try_from(most.min(CONNECTIONS_MAX))
        .unwrap_or(FEWEST_CONNECTIONS)
        .max(FEWEST_CONNECTIONS)
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
    // One that is told to go leaves its place within a moment.
    let is_full = open >= shared.most_connections;
    if is_full && !shared.unproven.dismiss_oldest() {
        refuse(&stream, 503, "overloaded_error", "too many connections");
        return;
    }
    let unproven = shared.unproven.admit(&stream);
    let spawned = thread::Builder::new()
        .name("connection".into())
        .stack_size(STACK)
        .spawn(move || {
            let shared = &ours.0;
            if let Some(user) = stranger(&stream, shared) {
                if !shared.counters.strangers.swap(true, Ordering::Relaxed) {
                    shared.say(vec![RunEvent::Warning(format!(
                        "A program of another user (uid {user}) asked the proxy: not served"
                    ))]);
                }
                let why = "programs of other users are not served here";
                refuse(&stream, 403, "permission_error", why);
                // It may still be writing; a reset would take the answer with it. It has its place as one
                // of those who are the first to go.
                if stream.set_nonblocking(false).is_ok() {
                    linger(&stream);
                }
                shared.unproven.forget(unproven);
                return;
            }
            if let Ok(mut client) = ClientConnection::new(stream, unproven) {
                forward::serve(&mut client, shared);
            }
            shared.unproven.forget(unproven);
        });
    if let Err(error) = spawned {
        log::warn!("cannot start a thread for a connection: {error}");
        shared.unproven.forget(unproven);
        thread::sleep(SHORT_OF);
    }
}

/// The other side's user, where it is not one that is served. On loopback these are this user and
/// root. A supervised command of root's may have become another user's, as with `sudo -u`: its secret
/// is enough.
fn stranger(stream: &TcpStream, shared: &Shared) -> Option<Uid> {
    let own = Uid::effective();
    if shared.any_host || (shared.waits_for_ever && own.is_root()) {
        return None;
    }
    os::tcp_peer(stream).filter(|user| *user != own && !user.is_root())
}

/// A connection that is not served. A fresh one has room for the answer; whoever does not read it does
/// not need it.
fn refuse(stream: &TcpStream, status: u16, kind: &str, why: &str) {
    let own = LocalResponse::error(None, status, kind, why);
    let _ = stream.set_nonblocking(true);
    let _ = (&*stream).write_all(&own.bytes(false, false));
}

/// The connections that have not shown the secret, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Unproven(Mutex<(u64, VecDeque<Waiting>)>);

/// A connection that has still to show the secret.
#[derive(Debug)]
struct Waiting {
    number: u64,
    since: Instant,
    /// A second descriptor of it.
    stream: TcpStream,
}

impl Unproven {
    fn queue(&self) -> MutexGuard<'_, (u64, VecDeque<Waiting>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a new connection in, in place of the oldest one where there are too many. The number is
    /// for [`Unproven::forget`].
    fn admit(&self, stream: &TcpStream) -> u64 {
        let mut queue = self.queue();
        let (last, waiting) = &mut *queue;
        let is_late = |first: &Waiting| first.since.elapsed() > BURST;
        while waiting.len() >= UNPROVEN_MAX && waiting.front().is_some_and(is_late) {
            waiting.pop_front().iter().for_each(Waiting::dismiss);
        }
        *last += 1;
        // Without a second descriptor it has its 5 seconds.
        if let Ok(stream) = stream.try_clone() {
            waiting.push_back(Waiting {
                number: *last,
                since: Instant::now(),
                stream,
            });
        }
        *last
    }

    /// Ends the oldest one. `false`: there is none.
    fn dismiss_oldest(&self) -> bool {
        let oldest = self.queue().1.pop_front();
        oldest.iter().for_each(Waiting::dismiss);
        oldest.is_some()
    }

    /// One of them has shown the secret, or is gone.
    pub(crate) fn forget(&self, number: u64) {
        self.queue().1.retain(|one| one.number != number);
    }
}

impl Waiting {
    /// Its thread reads an end, and ends.
    fn dismiss(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
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
