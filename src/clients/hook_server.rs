//! How a known client reaches the ddollar that supervises it.
//!
//! Owns a socket, its thread, and the hidden commands that talk to it: `__hook` passes on what a
//! client reports about itself, `__token` prints the token in use. It answers only the command's own
//! processes: a caller must run as the same user and descend from this process, so an address that
//! leaks is worth nothing. A slow or broken caller loses its own answer and delays others by no more
//! than [`TIMEOUT`].

use crate::clients::{self, HookReport};
use crate::common::secret::Secret;
use crate::system::os::{self, Address};
use crate::tokens::condition::Trouble;
use crossbeam_channel::Sender;
use nix::unistd::geteuid;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The variable that holds the server's address in the command's environment.
pub(crate) const VARIABLE: &str = "DDOLLAR_CALLBACK";
/// How long either side waits for the other.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Failed calls are logged no more often than this.
const SILENCE: Duration = Duration::from_secs(60);
/// The largest call, in bytes. A hook's input is a few hundred bytes and the last message of a model.
const MAX_CALL: u64 = 1 << 20;
/// First byte of a call that carries a hook's input.
const HOOK: u8 = b'h';
/// First byte of a call that asks for the token in use.
const TOKEN: u8 = b't';

/// A failure that the client reported through a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HookEvent {
    /// Name of the provider that the client could not use.
    pub(crate) provider: &'static str,
    /// What went wrong.
    pub(crate) trouble: Trouble,
}

/// What the server hands out, and what callers have reported.
#[derive(Debug, Default)]
struct Shared {
    token: Option<Secret>,
    session: Option<String>,
    transcript: Option<String>,
}

/// A listening hook server. Its thread and socket end with the process.
#[derive(Debug)]
pub(crate) struct HookServer {
    address: Address,
    shared: Arc<Mutex<Shared>>,
}

impl HookServer {
    /// Starts listening; the failures that clients report go to `events`.
    ///
    /// # Errors
    /// The system cannot provide a socket or a thread.
    pub(crate) fn listen(events: Sender<HookEvent>) -> io::Result<HookServer> {
        let (listener, address) = Address::listen()?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("hook server".into())
            .stack_size(128 * 1024)
            .spawn(move || {
                let mut failures = Failures::default();
                for caller in listener.incoming() {
                    let Ok(caller) = caller else {
                        // Out of files, for a moment; waiting is better than spinning.
                        std::thread::sleep(TIMEOUT);
                        continue;
                    };
                    if let Err(error) = answer(caller, &theirs, &events)
                        && let Some(count) = failures.another(Instant::now())
                    {
                        log::info!("hook server: {error}; failed calls so far: {count}");
                    }
                }
            })?;
        Ok(HookServer { address, shared })
    }

    /// For the command's environment, under [`VARIABLE`].
    pub(crate) fn address(&self) -> &str {
        self.address.name()
    }

    /// Sets the token that `__token` prints from now on.
    pub(crate) fn hand_out(&self, token: Option<Secret>) {
        lock(&self.shared).token = token;
    }

    /// Id of the session that the client has reported, if any, and whether its transcript exists, so
    /// that it can be resumed.
    pub(crate) fn session(&self) -> Option<(String, bool)> {
        let shared = lock(&self.shared);
        let begun = shared
            .transcript
            .as_deref()
            .is_none_or(|path| Path::new(path).exists());
        Some((shared.session.clone()?, begun))
    }
}

/// Calls that failed. Any user of the machine can call as often as they like, so they are counted, and
/// not each is logged.
#[derive(Debug, Default)]
struct Failures {
    count: u64,
    logged: Option<Instant>,
}

impl Failures {
    /// One more. How many there are, when it is time to say so.
    fn another(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        let is_due = self
            .logged
            .is_none_or(|then| now.saturating_duration_since(then) >= SILENCE);
        is_due.then(|| {
            self.logged = Some(now);
            self.count
        })
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers one caller.
fn answer(
    mut caller: UnixStream,
    shared: &Mutex<Shared>,
    events: &Sender<HookEvent>,
) -> io::Result<()> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned());
    let (user, process) = os::caller(&caller)?;
    // Orphans count where they are adopted.
    if user != geteuid() || !os::is_descendant(process) {
        return Err(refused(&format!(
            "refused process {process}: not of this command"
        )));
    }
    let call = receive(&caller, TIMEOUT)?;
    caller.set_write_timeout(Some(TIMEOUT))?;
    match call.split_first() {
        Some((&TOKEN, _)) => {
            let token = lock(shared).token.clone();
            let token = token.ok_or_else(|| refused("no token is in use"))?;
            caller.write_all(token.expose().as_bytes())
        }
        Some((&HOOK, json)) => {
            if let Some(report) = clients::report(json) {
                take(report, shared, events);
            }
            caller.write_all(b"\n")
        }
        _ => Err(refused("unknown kind of call")),
    }
}

/// Reads a whole call within this time.
fn receive(mut caller: &UnixStream, timeout: Duration) -> io::Result<Vec<u8>> {
    let end = Instant::now() + timeout;
    let mut call = Vec::new();
    let mut part = [0; 4096];
    loop {
        // A timeout of the socket is for one read; a caller may need many.
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || call.len() as u64 > MAX_CALL {
            return Err(io::ErrorKind::TimedOut.into());
        }
        caller.set_read_timeout(Some(left))?;
        match caller.read(&mut part)? {
            0 => return Ok(call),
            count => call.extend_from_slice(part.get(..count).unwrap_or_default()),
        }
    }
}

fn take(report: HookReport, shared: &Mutex<Shared>, events: &Sender<HookEvent>) {
    let HookReport {
        session,
        transcript,
        error,
    } = report;
    if session.is_some() {
        let mut shared = lock(shared);
        shared.session = session;
        shared.transcript = transcript;
    }
    if let Some(trouble) = error.as_deref().and_then(clients::trouble_of) {
        let _ = events.send(HookEvent {
            provider: clients::HOOKED_PROVIDER,
            trouble,
        });
    }
}

/// The hidden `__hook`: passes its stdin on to the server. It always succeeds, because a hook that
/// fails would disturb the client.
pub(crate) fn hook() -> ExitCode {
    let mut json = Vec::new();
    let _ = io::stdin().take(MAX_CALL - 1).read_to_end(&mut json);
    let _ = call(HOOK, &json);
    ExitCode::SUCCESS
}

/// The hidden `__token`: prints the token in use. Only processes of the command get it.
pub(crate) fn token() -> ExitCode {
    let printed = call(TOKEN, &[]).and_then(|token| {
        if token.is_empty() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut stdout = io::stdout();
        stdout.write_all(&token)?;
        stdout.flush()
    });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn call(kind: u8, words: &[u8]) -> io::Result<Vec<u8>> {
    let address = std::env::var(VARIABLE).map_err(io::Error::other)?;
    let mut line = os::call(&address)?;
    line.set_read_timeout(Some(2 * TIMEOUT))?;
    line.set_write_timeout(Some(TIMEOUT))?;
    line.write_all(&[kind])?;
    line.write_all(words)?;
    line.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    line.read_to_end(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_who_knocks_all_the_time_is_logged_once_a_minute() {
        let start = Instant::now();
        let mut failures = Failures::default();
        let mut said = |second: u64| failures.another(start + Duration::from_secs(second));
        assert_eq!(said(0), Some(1));
        assert!((0..60).all(|second| said(second).is_none()));
        assert_eq!(said(60), Some(62));
    }
}
