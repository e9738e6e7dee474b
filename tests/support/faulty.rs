//! A front of the built-in provider that passes each request on, until a test says how it is to break
//! the protocol or the connection.

use super::gateway::Wire;
use super::provider::Provider;
use super::upstream::{Played, Upstream, is_check};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What comes in place of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Bytes that are not HTTP.
    Garbage,
    HalfHeader,
    /// The usual head, and a body of [`HUGE`] spaces.
    HugeBody,
    /// Nothing, until the client gives up.
    Silent,
    /// The end of the connection, at once.
    Close,
    /// A 302 to this address.
    Redirect(String),
    /// The usual answer, this much later.
    Slow(Duration),
}

/// How long a huge body is, in bytes.
pub(crate) const HUGE: usize = 40 * 1000 * 1000;

/// A fault, and the only token that has it, if not all have it.
type Active = (Fault, Option<String>);

/// A front. Its listener lives as long as the test program, and serves nothing but loopback.
pub(crate) struct Faulty {
    /// `http://127.0.0.1:PORT`
    pub(crate) url: String,
    upstream: Upstream,
    fault: Arc<Mutex<Option<Active>>>,
}

impl Faulty {
    pub(crate) fn front_of(provider: &Provider) -> Faulty {
        let address = provider.url.trim_start_matches("http://").to_owned();
        let fault = Arc::new(Mutex::new(None::<Active>));
        let current = fault.clone();
        let upstream = Upstream::playing_all(move |played| {
            let fault = current.lock().unwrap().clone();
            let of_token = |token: &str| carries(&played.head, token);
            let fault = fault.filter(|(_, token)| token.as_deref().is_none_or(of_token));
            serve(played, &address, fault.map(|(fault, _)| fault))
        });
        Faulty {
            url: upstream.url.clone(),
            upstream,
            fault,
        }
    }

    /// From now on each request is answered with this fault.
    pub(crate) fn fault(&self, fault: Fault) {
        *self.fault.lock().unwrap() = Some((fault, None));
    }

    /// The same for requests with this token only.
    pub(crate) fn fault_for(&self, token: &str, fault: Fault) {
        *self.fault.lock().unwrap() = Some((fault, Some(token.to_owned())));
    }

    /// From now on each request is passed on.
    pub(crate) fn clear(&self) {
        *self.fault.lock().unwrap() = None;
    }

    /// Waits for one of ddollar's own requests with this token that has not been waited for yet, and
    /// passes over those before it.
    #[track_caller]
    pub(crate) fn wait_for_probe(&self, token: &str) {
        loop {
            let head = self.upstream.wait();
            if is_check(&head) && carries(&head, token) {
                return;
            }
        }
    }
}

fn carries(head: &str, token: &str) -> bool {
    head.lines().any(|line| line.ends_with(token))
}

/// Answers one request; whether the connection goes on.
fn serve(played: &mut Played, provider: &str, fault: Option<Fault>) -> bool {
    match fault {
        None => {
            let (head, body) = usual(played, provider);
            played.send(head);
            played.send(body);
            return true;
        }
        Some(Fault::Slow(delay)) => {
            thread::sleep(delay);
            return serve(played, provider, None);
        }
        Some(Fault::Garbage) => {
            played.send(b"\x00\xff\xfe \x07 this is not HTTP \r\n\x80\r\n\r\n");
        }
        Some(Fault::HalfHeader) => played.send("HTTP/1.1 200 OK\r\ncontent-type: applic"),
        Some(Fault::HugeBody) => {
            let (head, body) = usual(played, provider);
            let length = |length| format!("content-length: {length}\r\n");
            assert!(head.contains(&length(body.len())), "{head}");
            played.send(head.replace(&length(body.len()), &length(HUGE)));
            let piece = [b' '; 50_000];
            (0..HUGE / piece.len()).for_each(|_| played.send(piece));
        }
        Some(Fault::Silent) => {
            played.wait_closed();
        }
        Some(Fault::Close) => {}
        Some(Fault::Redirect(location)) => {
            played.answer(302, &format!("location: {location}\r\n"), "");
            return true;
        }
    }
    false
}

/// The provider's own answer, which has a length.
fn usual(played: &Played, provider: &str) -> (String, Vec<u8>) {
    let mut wire = Wire::to(provider);
    wire.send(&played.head);
    wire.send(&played.body);
    let answered = wire.answer();
    (answered.head, answered.body)
}
