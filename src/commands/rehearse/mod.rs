//! The rehearsal: a provider on loopback and a worker that uses it, so that a night can be played
//! without a real token or a network.
//! Owns: this contents page and the way in from the command line.
//! Promises: listens on 127.0.0.1 only; never prints a token text; no input ends it.
//! Does not own: supervision. `rehearse` runs the same code as `supervise` against this provider.
//!
//! ```text
//! scenario file ─► scenario ─► state (buckets, faults, events) ─┐
//! TcpStream ─► http1 ─► Request ─► answers ◄────────────────────┘
//!                                    │ anthropic, openai: bodies and headers
//!                                    └─► Answer ─► server ─► TcpStream
//! ```

/// A request and the state in, an answer as data out (pure).
mod answers;
/// Anthropic's bodies and headers (pure).
mod anthropic;
/// One limit and its refill (pure).
mod bucket;
/// HTTP/1.1: requests off a stream, answers onto it.
mod http1;
/// OpenAI's bodies and headers (pure).
mod openai;
/// `ddollar rehearse`: the stage for a night, and what came of it.
mod play;
/// The hidden command `__provider`.
mod provider;
/// Scenario files and the built-in ones (pure).
mod scenario;
/// The listener and its connections.
mod server;
/// Buckets, faults and events as they stand (pure).
mod state;
/// What a worker's journal says in the end (pure).
mod tally;
/// Times as text (pure).
mod times;
/// The stand-in for an agent.
mod worker;

#[cfg(test)]
mod night_test;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use crate::common::error::Error;
use scenario::Scenario;

pub(crate) use play::play;

/// `__provider`: serves the scenario in `file`, or the built-in night, until stdin ends.
pub(crate) fn serve(file: Option<&Path>) -> Result<ExitCode, Error> {
    let scenario = play::scenario(file, Scenario::night)?;
    provider::serve(scenario, io::stdout(), io::stdin()).map_err(play::no_provider)?;
    Ok(ExitCode::SUCCESS)
}

/// `__worker`: the built-in worker, with this process's environment.
pub(crate) fn work(journal: &Path, units: u32) -> ExitCode {
    let code = worker::run(journal, units, &|name| std::env::var(name).ok());
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
