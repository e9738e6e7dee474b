//! The hidden command `__provider`: the provider as a process of its own, for tests.
//! Owns: the lines on its output. Promises: the address comes first, one line per served request
//! after it, each flushed; no token text. Does not parse arguments.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

use super::scenario::Scenario;
use super::server::Server;

/// The hidden command `__provider`: serves `scenario` until `stdin` ends. Writes one line
/// `{"url":"http://127.0.0.1:PORT"}` to `out`, then one JSON line per served request.
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
