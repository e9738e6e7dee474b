//! The callback: how a known client reaches the ddollar that supervises it.
//!
//! Owns a socket, its thread, and the hidden commands that talk to it: `__hook` hands over what a
//! client says of itself, `__token` prints the token in use. It promises to answer nobody but the command's own processes: the caller must run as the
//! same user and descend from this process, so that an address that leaks is worth nothing. A
//! caller that is slow or wrong costs itself an answer and nobody else more than [`PATIENCE`].

use crate::clients::{self, Report};
use crate::common::secret::Secret;
use crate::supervisor::event::Event;
use crate::system::os::{self, Address};
use crossbeam_channel::Sender;
use nix::unistd::{geteuid, getpid};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Tells the command's processes the address.
pub(crate) const VARIABLE: &str = "DDOLLAR_CALLBACK";
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(2);
/// A hook's input is a few hundred bytes and the last message of a model.
const LONGEST: u64 = 1 << 20;
/// The first byte of a call.
const HOOK: u8 = b'h';
const TOKEN: u8 = b't';

/// What the callers may have and what they have said.
#[derive(Debug, Default)]
struct Shared {
    token: Option<Secret>,
    session: Option<String>,
    transcript: Option<String>,
}

/// A callback that listens. Its thread and socket end with the process.
#[derive(Debug)]
pub(crate) struct Callback {
    address: Address,
    shared: Arc<Mutex<Shared>>,
}

impl Callback {
    /// Listens; what callers report goes to `events`.
    ///
    /// # Errors
    /// The system has no room for a socket or a thread.
    pub(crate) fn listen(events: Sender<Event>) -> io::Result<Callback> {
        let (listener, address) = Address::listen()?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("callback".into())
            .stack_size(128 * 1024)
            .spawn(move || {
                for caller in listener.incoming() {
                    let Ok(caller) = caller else {
                        // Out of files, for a moment; waiting is better than spinning.
                        std::thread::sleep(PATIENCE);
                        continue;
                    };
                    if let Err(error) = answer(caller, &theirs, &events) {
                        log::info!("callback: {error}");
                    }
                }
            })?;
        Ok(Callback { address, shared })
    }

    /// For the command's environment, under [`VARIABLE`].
    pub(crate) fn address(&self) -> &str {
        self.address.name()
    }

    /// From now on this is the token in use.
    pub(crate) fn hand_out(&self, token: Option<Secret>) {
        lock(&self.shared).token = token;
    }

    /// The id of the session that the client works on, if it has told it, and whether it can be gone
    /// on with.
    pub(crate) fn session(&self) -> Option<(String, bool)> {
        let shared = lock(&self.shared);
        let begun = shared
            .transcript
            .as_deref()
            .is_none_or(|path| Path::new(path).exists());
        Some((shared.session.clone()?, begun))
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one caller.
fn answer(
    mut caller: UnixStream,
    shared: &Mutex<Shared>,
    events: &Sender<Event>,
) -> io::Result<()> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned());
    let (user, process) = os::caller(&caller)?;
    // Orphans count where they are adopted.
    if user != geteuid() || !os::descends(process, getpid()) {
        return Err(refused(&format!(
            "refused process {process}: not of this command"
        )));
    }
    let call = hear(&caller, PATIENCE)?;
    caller.set_write_timeout(Some(PATIENCE))?;
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
        _ => Err(refused("a call that is none")),
    }
}

/// All that a caller says in this time.
fn hear(mut caller: &UnixStream, patience: Duration) -> io::Result<Vec<u8>> {
    let end = Instant::now() + patience;
    let mut call = Vec::new();
    let mut part = [0; 4096];
    loop {
        // A timeout of the socket is for one read; a caller may need many.
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || call.len() as u64 > LONGEST {
            return Err(io::ErrorKind::TimedOut.into());
        }
        caller.set_read_timeout(Some(left))?;
        match caller.read(&mut part)? {
            0 => return Ok(call),
            count => call.extend_from_slice(part.get(..count).unwrap_or_default()),
        }
    }
}

fn take(report: Report, shared: &Mutex<Shared>, events: &Sender<Event>) {
    let Report {
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
        let _ = events.send(Event::Told {
            provider: clients::HOOKED_PROVIDER,
            trouble,
        });
    }
}

/// The hidden `__hook`: hands over what stands on stdin. A client must not suffer from us, so it
/// succeeds whatever happens.
pub(crate) fn hook() -> ExitCode {
    let mut json = Vec::new();
    let _ = io::stdin().take(LONGEST - 1).read_to_end(&mut json);
    let _ = call(HOOK, &json);
    ExitCode::SUCCESS
}

/// The hidden `__token`: prints the token in use, which only a process of the command gets.
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
    line.set_read_timeout(Some(2 * PATIENCE))?;
    line.set_write_timeout(Some(PATIENCE))?;
    line.write_all(&[kind])?;
    line.write_all(words)?;
    line.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    line.read_to_end(&mut answer)?;
    Ok(answer)
}
