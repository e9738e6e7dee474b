//! A provider that does exactly what a test says, byte for byte: one script for each connection.

use super::DEADLINE;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;

/// A listener whose connections are played by a script. It serves loopback, and lives as long as
/// the test program.
pub(crate) struct Upstream {
    pub(crate) url: String,
    /// The head of each request, as it came.
    heads: Receiver<String>,
    seen: Arc<Mutex<Vec<String>>>,
}

/// A connection, after its request was read.
pub(crate) struct Played {
    pub(crate) stream: TcpStream,
    /// The head of the request.
    pub(crate) head: String,
    /// Its body.
    pub(crate) body: Vec<u8>,
    /// How many requests came before it, on all connections.
    pub(crate) number: usize,
}

impl Played {
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // Whether anybody is there to read it is the test's business.
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// A whole answer with a length.
    pub(crate) fn answer(&mut self, status: u16, fields: &str, body: &str) {
        let length = body.len();
        self.send(format!(
            "HTTP/1.1 {status} Made Up\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
        ));
    }

    /// Waits until the other side has ended the connection.
    pub(crate) fn wait_closed(&mut self) -> bool {
        let mut sink = [0; 1024];
        loop {
            match self.stream.read(&mut sink) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }
}

impl Upstream {
    /// `play` is called for every request but ddollar's own; the connection goes on when it returns
    /// true.
    pub(crate) fn playing(play: impl Fn(&mut Played) -> bool + Send + Sync + 'static) -> Upstream {
        Upstream::start(false, play)
    }

    /// The same, and `play` is called for ddollar's own requests, too.
    pub(crate) fn playing_all(
        play: impl Fn(&mut Played) -> bool + Send + Sync + 'static,
    ) -> Upstream {
        Upstream::start(true, play)
    }

    fn start(
        plays_checks: bool,
        play: impl Fn(&mut Played) -> bool + Send + Sync + 'static,
    ) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, heads) = channel();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (all, play) = (seen.clone(), Arc::new(play));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (all, play, sender) = (all.clone(), play.clone(), sender.clone());
                thread::spawn(move || {
                    stream.set_read_timeout(Some(2 * DEADLINE)).unwrap();
                    stream.set_nodelay(true).unwrap();
                    let mut rest = Vec::new();
                    let mut stream = stream;
                    while let Some((head, body)) = request(&mut stream, &mut rest) {
                        // ddollar's own question at the start is not the test's business.
                        if !plays_checks && is_check(&head) {
                            let _ =
                                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
                            continue;
                        }
                        let number = {
                            let mut all = all.lock().unwrap();
                            all.push(head.clone());
                            all.len() - 1
                        };
                        let _ = sender.send(head.clone());
                        let mut played = Played {
                            stream,
                            head,
                            body,
                            number,
                        };
                        let goes_on = play(&mut played);
                        stream = played.stream;
                        if !goes_on {
                            return;
                        }
                    }
                });
            }
        });
        Upstream { url, heads, seen }
    }

    /// Waits for the next request's head.
    #[track_caller]
    pub(crate) fn wait(&self) -> String {
        self.heads.recv_timeout(DEADLINE).expect("a request")
    }

    /// How many requests came so far.
    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

/// Whether a request is ddollar's own.
pub(crate) fn is_check(head: &str) -> bool {
    head.to_ascii_lowercase().contains("user-agent: ddollar/")
}

fn request(stream: &mut TcpStream, rest: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let mut piece = [0; 64 * 1024];
    let end = loop {
        if let Some(at) = rest.windows(4).position(|part| part == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(count) => rest.extend_from_slice(&piece[..count]),
        }
    };
    let head = String::from_utf8_lossy(&rest[..end]).into_owned();
    let length = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.parse::<usize>().unwrap());
    rest.drain(..end);
    while rest.len() < length {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(count) => rest.extend_from_slice(&piece[..count]),
        }
    }
    let later = rest.split_off(length);
    Some((head, std::mem::replace(rest, later)))
}
