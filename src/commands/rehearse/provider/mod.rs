//! The built-in provider: on loopback, with the limits and faults of a scenario.
//!
//! It listens on 127.0.0.1 only, no input ends it, and no token's text is in anything it says.
//!
//! ```text
//! scenario file ─► scenario ─► state (buckets, faults, events) ─┐
//! TcpStream ─► http1 ─► Request ─► respond ◄────────────────────┘
//!                                    │ anthropic, openai: bodies and headers
//!                                    └─► Response ─► server ─► TcpStream
//! ```

/// Anthropic's bodies and headers (pure).
mod anthropic;
/// One limit and its refill (pure).
mod bucket;
/// HTTP/1.1: requests off a stream, answers onto it.
mod http1;
/// OpenAI's bodies and headers (pure).
mod openai;
/// A request and the state in, a response as data out (pure).
mod respond;
/// Scenario files and the built-in ones (pure).
pub(super) mod scenario;
/// The listener and its connections.
pub(super) mod server;
/// Buckets, faults and events as they stand (pure).
mod state;
/// Times as text (pure).
mod times;
/// What these hand to each other (pure).
mod wire;

#[cfg(test)]
mod night_test;

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

use scenario::Scenario;
use server::Server;

/// The hidden command `__provider`, for tests: serves `scenario` until `stdin` ends. Writes one line
/// `{"url":"http://127.0.0.1:PORT"}` to `out`, then one JSON line for each served request, flushed.
///
/// # Errors
/// What the system says when it has no port or thread, or when the first line cannot be written.
pub(crate) fn serve(
    scenario: Scenario,
    out: impl Write + Send + 'static,
    mut stdin: impl Read,
) -> io::Result<()> {
    let out = Arc::new(Mutex::new(out));
    let lines = out.clone();
    let server = Server::start(scenario, move |served| {
        let mut out = lines.lock().unwrap_or_else(PoisonError::into_inner);
        // A reader that went away is no reason to stop answering.
        let _ = writeln!(out, "{}", served.to_json()).and_then(|()| out.flush());
    })?;
    {
        let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(out, "{}", json!({ "url": server.url() }))?;
        out.flush()?;
    }
    let mut sink = [0; 1024];
    loop {
        match stdin.read(&mut sink) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
