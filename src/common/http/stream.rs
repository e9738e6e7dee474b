//! What both servers, the proxy and the built-in provider, do with a client's connection.
//!
//! Owns reads with a time limit and the orderly end. Blocks, so it is for connection threads only.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// How long the other side may take to see that we are done.
const LINGER: Duration = Duration::from_secs(2);

/// A stream whose reads end at a moment.
#[derive(Debug)]
pub(crate) struct Timed<S> {
    pub(crate) stream: S,
    /// Reads fail with `TimedOut` after it.
    pub(crate) until: Instant,
    /// The next read finds something, for it was polled for, or waits no longer than [`MOMENT`].
    pub(crate) is_ready: bool,
    /// Whether the stream's own time limit is [`MOMENT`].
    has_moment: bool,
}

/// A read waits for so long before its caller looks around.
pub(crate) const MOMENT: Duration = Duration::from_millis(250);

impl Timed<TcpStream> {
    /// A stream that is read until then.
    pub(crate) fn new(stream: TcpStream, until: Instant) -> Self {
        Self {
            stream,
            until,
            is_ready: false,
            has_moment: false,
        }
    }

    /// Makes the next read wait no longer than [`MOMENT`].
    pub(crate) fn for_a_moment(&mut self) -> io::Result<()> {
        if !self.has_moment {
            self.stream.set_read_timeout(Some(MOMENT))?;
            self.has_moment = true;
        }
        self.is_ready = true;
        Ok(())
    }
}

/// Whether a read has only run out of time.
pub(crate) fn is_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
    )
}

impl Read for Timed<TcpStream> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if std::mem::take(&mut self.is_ready) {
            return self.stream.read(buffer);
        }
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.has_moment = false;
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

/// Ends our side and reads what is still coming: closing with unread bytes would reset the connection
/// and could take our last answer with it.
pub(crate) fn linger(stream: &TcpStream) {
    if stream.shutdown(Shutdown::Write).is_ok() {
        drain(stream);
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// Reads and drops what comes, until the other side ends it or [`LINGER`] has passed.
fn drain(mut stream: &TcpStream) {
    let until = Instant::now() + LINGER;
    let mut sink = [0; 16 * 1024];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match stream.read(&mut sink) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
