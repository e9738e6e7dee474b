//! One client's connection: requests off it, answers onto it, and a watch on whether it still wants
//! one.
//!
//! It promises that a client that has gone away is noticed while its answer is waited for, that one
//! that has only ended its own side still gets it, and that everything has a time limit. Blocks, so
//! it runs on the connection's own thread. What a request means is not its business.

use super::request::Request;
use super::upstream::Link;
use crate::common::body::Body;
use crate::common::http::reader::{BodyFraming, BodyPart, HEAD_MAX, ReadError, Reader};
use crate::common::http::stream::{self, Timed};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// A peer that has not shown the secret yet has so long to do it.
const UNPROVEN: Duration = Duration::from_secs(5);
/// How long a connection may lie idle between two requests.
const IDLE: Duration = Duration::from_secs(300);
/// How long a head may take to arrive, from its first byte, and a body after it.
const HEAD_ARRIVAL: Duration = Duration::from_secs(10);
const BODY_ARRIVAL: Duration = Duration::from_secs(120);
/// How long a client may leave an answer unread. It may have been stopped with Ctrl-Z.
const UNREAD: Duration = Duration::from_secs(600);

/// The largest piece of memory that is kept for the next request, in bytes.
pub(super) const SPARE_MAX: u64 = 8 * 1024;

/// The client is gone, or may as well be: nothing can be sent to it.
#[derive(Debug)]
pub(crate) struct Gone;

/// What a wait ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// The provider has sent something.
    Upstream,
    /// The time is up.
    Over,
}

/// Result of one read from a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadResult {
    /// There is more in the buffer.
    Some,
    /// The provider has ended the connection in order.
    End,
    /// The connection failed.
    Broken,
    /// The time is up.
    Late,
}

/// A client's connection.
pub(crate) struct ClientConnection {
    reader: Reader<Timed<TcpStream>>,
    /// Until when the secret must have been shown, and its number among those who have not done so;
    /// `None`: it was.
    unproven: Option<(Instant, u64)>,
    /// Nothing more will be read from it: its side has ended, or it sends requests ahead without
    /// bound.
    deaf: bool,
    /// How much of the buffer was handed out by [`ClientConnection::next_piece`].
    lent: usize,
    /// Memory of the last request, for the next one: to ask for it anew each time costs more than
    /// all else, with many connections at once.
    spare: Vec<Vec<u8>>,
}

impl ClientConnection {
    /// Takes a connection over.
    pub(crate) fn new(stream: TcpStream, unproven: u64) -> std::io::Result<ClientConnection> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(UNREAD))?;
        let until = Instant::now() + UNPROVEN;
        Ok(ClientConnection {
            reader: Reader::new(Timed::new(stream, until)),
            unproven: Some((until, unproven)),
            deaf: false,
            lent: 0,
            spare: Vec::new(),
        })
    }

    /// The secret has come: from now on the connection has all the time that a program needs. Its number
    /// among those who have not shown it, where it was one of them.
    pub(crate) fn prove(&mut self) -> Option<u64> {
        self.unproven.take().map(|(_, number)| number)
    }

    /// Waits for the next request to begin. `false`: none will, or `stop` has said that it is time.
    pub(crate) fn wait_for_request(&mut self, stop: BorrowedFd<'_>) -> bool {
        if !self.reader.buffered().is_empty() {
            return true;
        }
        // What the last request has made of the buffer is not needed while nothing happens.
        self.reader.rest();
        // A busy client sends its next request at once.
        if self.reader.source().for_a_moment().is_err() {
            return false;
        }
        match self.reader.fill() {
            Ok(count) => return count > 0,
            Err(error) if stream::is_late(&error) => {}
            Err(_) => return false,
        }
        self.spare.clear();
        let idle = match self.unproven {
            Some((until, _)) => until.saturating_duration_since(Instant::now()),
            None => IDLE,
        };
        let limit = PollTimeout::try_from(idle).unwrap_or(PollTimeout::MAX);
        let mut fds = [
            PollFd::new(self.stream().as_fd(), PollFlags::POLLIN),
            PollFd::new(stop, PollFlags::POLLIN),
        ];
        let ready = loop {
            match poll(&mut fds, limit) {
                // A signal is no reason to end a connection.
                Err(nix::errno::Errno::EINTR) => {}
                ready => break ready,
            }
        };
        let begins =
            matches!(ready, Ok(1..)) && fds[0].any() == Some(true) && fds[1].any() != Some(true);
        self.reader.source().is_ready = begins;
        begins
    }

    /// The head of the next request.
    pub(crate) fn head(&mut self) -> Result<Request, ReadError> {
        self.reader.source().until = match self.unproven {
            Some((until, _)) => until,
            None => Instant::now() + HEAD_ARRIVAL,
        };
        self.reader.head(Request::parse)
    }

    /// The body of the request whose head was read last, into `body`. Of one that is too large to be
    /// kept, `rest` is what [`ClientConnection::next_piece`] then reads.
    pub(crate) fn body(
        &mut self,
        rest: &mut BodyFraming,
        body: &mut Body,
    ) -> Result<(), ReadError> {
        self.reader.source().until = Instant::now() + BODY_ARRIVAL;
        self.reader.put_body(rest, body)
    }

    /// The next bytes of a body, and whether there are any.
    pub(crate) fn next_piece(
        &mut self,
        rest: &mut BodyFraming,
    ) -> Result<Option<&[u8]>, ReadError> {
        self.reader.consume(std::mem::take(&mut self.lent));
        self.reader.source().until = Instant::now() + BODY_ARRIVAL;
        match self.reader.next_piece(rest)? {
            BodyPart::Data(count) => {
                self.lent = count;
                Ok(Some(&self.reader.buffered()[..count]))
            }
            BodyPart::More | BodyPart::End => Ok(None),
        }
    }

    /// Memory to write to: empty, and maybe with room.
    pub(crate) fn memory(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes memory back. What is large is not kept, nor what is none.
    pub(crate) fn give_back(&mut self, mut memory: Vec<u8>) {
        if (1..=SPARE_MAX).contains(&(memory.capacity() as u64)) {
            memory.clear();
            self.spare.push(memory);
        }
    }

    /// Sends bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        self.reader
            .source()
            .stream
            .write_all(bytes)
            .map_err(|_| Gone)
    }

    /// Reads more from upstream, until then, and sees meanwhile whether the client is still there.
    /// `nudge` as for [`ClientConnection::watch`].
    pub(crate) fn read_on(
        &mut self,
        link: &mut Link,
        until: Instant,
        nudge: &[u8],
    ) -> Result<ReadResult, Gone> {
        loop {
            // What comes within a moment costs no look at the client.
            match link.fill() {
                Ok(0) => return Ok(ReadResult::End),
                Ok(_) => return Ok(ReadResult::Some),
                Err(error) if stream::is_late(&error) => {}
                Err(_) => return Ok(ReadResult::Broken),
            }
            if self.watch(Some(link), until, nudge)? == Wake::Over {
                return Ok(ReadResult::Late);
            }
        }
    }

    /// Waits until the provider has sent something, or until then, and sees whether the client is
    /// still there. `nudge` is what can be sent at this point and means nothing; empty: nothing can.
    pub(crate) fn watch(
        &mut self,
        upstream: Option<&Link>,
        until: Instant,
        nudge: &[u8],
    ) -> Result<Wake, Gone> {
        if upstream.is_some_and(|link| link.source_ref().has_plaintext()) {
            return Ok(Wake::Upstream);
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // Rounded up, so that the last millisecond does not spin.
            let limit = PollTimeout::try_from(left + Duration::from_millis(1));
            let wanted = if self.deaf {
                PollFlags::empty()
            } else {
                PollFlags::POLLIN
            };
            let mut fds = [
                PollFd::new(self.stream().as_fd(), wanted),
                match upstream {
                    Some(link) => PollFd::new(link.source_ref().as_fd(), PollFlags::POLLIN),
                    None => PollFd::new(self.stream().as_fd(), PollFlags::empty()),
                },
            ];
            match poll(&mut fds, limit.unwrap_or(PollTimeout::MAX)) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return Err(Gone),
            }
            let happened = fds[0].revents().unwrap_or(PollFlags::empty());
            let answered = upstream.is_some() && fds[1].any() == Some(true);
            if happened.intersects(PollFlags::POLLERR | PollFlags::POLLHUP) {
                return Err(Gone);
            }
            if happened.contains(PollFlags::POLLIN) {
                self.listen(nudge)?;
            }
            if answered {
                return Ok(Wake::Upstream);
            }
            if Instant::now() >= until {
                return Ok(Wake::Over);
            }
        }
    }

    /// The client has sent something while it is being answered: its next request, or its end.
    fn listen(&mut self, nudge: &[u8]) -> Result<(), Gone> {
        self.reader.source().is_ready = true;
        match self.reader.fill() {
            Ok(0) => {
                self.deaf = true;
                // An end of its side alone looks like a client that is gone. What is sent to one
                // that is gone comes back as a reset; any other passes over it (for interim answers:
                // RFC 9110 §15.2).
                self.send(nudge)?;
            }
            Ok(_) => self.deaf = self.reader.buffered().len() > HEAD_MAX,
            Err(_) => return Err(Gone),
        }
        Ok(())
    }

    /// Reads on: an answer is over, and what was not read meanwhile may be the next request.
    pub(crate) fn listen_again(&mut self) {
        self.deaf = false;
    }

    /// Passes bytes on in both directions until one side ends, or nothing has come for so long.
    pub(crate) fn tunnel(&mut self, link: &mut Link, idle: Duration) -> Result<(), Gone> {
        let ahead = self.reader.buffered().to_vec();
        self.reader.consume(ahead.len());
        put_through(link, &ahead)?;
        loop {
            let said = link.buffered().to_vec();
            link.consume(said.len());
            self.send(&said)?;
            let has_plaintext = link.source_ref().has_plaintext();
            let mut fds = [
                PollFd::new(self.stream().as_fd(), PollFlags::POLLIN),
                PollFd::new(link.source_ref().as_fd(), PollFlags::POLLIN),
            ];
            let limit = match has_plaintext {
                true => PollTimeout::ZERO,
                false => PollTimeout::try_from(idle).unwrap_or(PollTimeout::MAX),
            };
            match poll(&mut fds, limit) {
                Ok(0) if !has_plaintext => return Ok(()),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return Err(Gone),
            }
            let [from_client, from_link] = fds.map(|fd| fd.any() == Some(true));
            if from_client {
                self.reader.source().is_ready = true;
                match self.reader.fill() {
                    Ok(0) | Err(_) => return Ok(()),
                    Ok(_) => {
                        let bytes = self.reader.buffered();
                        put_through(link, bytes)?;
                        let count = bytes.len();
                        self.reader.consume(count);
                    }
                }
            }
            if from_link || has_plaintext {
                match link.fill() {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) if stream::is_late(&error) => {}
                    Err(_) => return Ok(()),
                }
            }
        }
    }

    /// Ends the connection in order.
    pub(crate) fn end(&self) {
        stream::linger(self.stream());
    }

    fn stream(&self) -> &TcpStream {
        &self.reader.source_ref().stream
    }
}

fn put_through(link: &mut Link, bytes: &[u8]) -> Result<(), Gone> {
    let socket = link.source();
    let sent = socket.write_all(bytes).and_then(|()| socket.flush());
    sent.map_err(|_| Gone)
}
