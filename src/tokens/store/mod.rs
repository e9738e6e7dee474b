//! The state file: what runs on one machine, one after the other or side by side, tell each other
//! about their tokens.
//!
//! Owns the file, its lock and the thread that writes it. It promises that whoever reads the file
//! finds it whole, whatever was killed in the middle (a new file takes the old one's place in one
//! step); that runs do not lose each other's findings (read, merge and write under a lock, which
//! ends with its process); that nothing here holds a run up or ends it: trouble is said once, and
//! the run goes on without. What is in the file is `memory.rs`'s to say.

pub(crate) mod format;
use crate::common::Warning;
use crate::common::private_file::{self, beside};
use crate::common::time::Now;
use crate::providers::endpoint::Endpoint;
use crate::tokens::store::format::{StoredToken, StoredTokens, Unusable};
use crate::tokens::{Token, TokenPool};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use nix::sys::signal::{SigSet, Signal};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A file that is larger is none of ours: a thousand tokens make a third of it.
const LARGEST: u64 = 1 << 20;
/// How long the writer waits for other runs, which hold the lock for one write each.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const BETWEEN_TRIES: Duration = Duration::from_millis(10);
/// How long the end of a run waits for the last write.
const FLUSH: Duration = Duration::from_secs(3);

/// What a run found out, by the fingerprints of its tokens.
type Findings = Vec<(String, StoredToken)>;

/// The state file of this run. Dropping it waits, for a bounded time, until all is written.
#[derive(Debug)]
struct State {
    path: PathBuf,
    /// Started with the first finding: most short commands are over before there is one.
    writer: Option<Writer>,
    events: Sender<Warning>,
}

/// The state, if it is kept, and the names by which it knows the tokens of each ring.
#[derive(Debug)]
pub(crate) struct Store {
    state: Option<State>,
    memory: Option<StoredTokens>,
    names: Vec<Vec<String>>,
}

impl Store {
    /// The records in this file; without one, nothing is known and nothing is kept.
    pub(crate) fn open(path: Option<PathBuf>, events: &Sender<Warning>) -> Store {
        let (state, memory) = path
            .and_then(|path| State::open(path, events.clone()))
            .unzip();
        Store {
            state,
            memory,
            names: Vec::new(),
        }
    }

    /// Tells the tokens of the next ring, whose providers are asked at `endpoints`, what is known of
    /// them.
    pub(crate) fn recall(
        &mut self,
        pool: &mut TokenPool,
        endpoints: &[Endpoint],
        threshold: f64,
        now: Now,
    ) {
        // Limits are those of a token at one address, and for one model.
        let named = |token: &Token| {
            let own = |endpoint: &&Endpoint| std::ptr::eq(endpoint.provider, token.provider);
            let (address, models) = endpoints.iter().find(own).map_or_else(
                || ("", String::new()),
                |endpoint| (&*endpoint.base_url, endpoint.models.join(" ")),
            );
            token.secret.fingerprint(&[address, &models])
        };
        let names: Vec<String> = pool.tokens().map(named).collect();
        if let Some(memory) = &self.memory {
            memory.recall(pool, &names, threshold, now);
        }
        self.names.push(names);
    }

    /// Keeps what is known of the tokens for other runs.
    pub(crate) fn keep<'a>(&mut self, pools: impl Iterator<Item = &'a TokenPool>, now: Now) {
        let Some(state) = &mut self.state else { return };
        let mut findings = Vec::new();
        for (pool, names) in pools.zip(&self.names) {
            let known = |index| StoredToken::of(pool.state(index), now);
            let entries = names.iter().enumerate();
            findings.extend(entries.filter_map(|(i, name)| Some((name.clone(), known(i)?))));
        }
        state.keep(findings);
    }

    /// Writes what is left to write: the next run may begin right after this one.
    pub(crate) fn close(&mut self) {
        self.state = None;
    }
}

#[derive(Debug)]
struct Writer {
    findings: Sender<Findings>,
    /// Is disconnected when the thread has ended.
    done: Receiver<()>,
}

impl State {
    /// The state in this file, which need not exist, and what it holds; `None` if that cannot be
    /// known. Trouble, now and later, goes to `events`.
    fn open(path: PathBuf, events: Sender<Warning>) -> Option<(State, StoredTokens)> {
        let memory = match read(&path) {
            Ok(Ok(memory)) => memory,
            // If another run is just about to deal with it, the writer looks again.
            Ok(Err(_)) => lock(&path, Duration::ZERO)
                .and_then(|_lock| load(&path, &events))
                .unwrap_or_default(),
            Err(why) => {
                report(&path, &why, &events);
                return None;
            }
        };
        let state = State {
            path,
            writer: None,
            events,
        };
        Some((state, memory))
    }

    /// Keeps what was found out. Returns at once.
    fn keep(&mut self, findings: Findings) {
        if self.writer.is_none() {
            self.writer = self.start_writer();
        }
        if let Some(writer) = &self.writer {
            // A writer that is gone has panicked; the log says where.
            let _ = writer.findings.send(findings);
        }
    }

    fn start_writer(&self) -> Option<Writer> {
        let (findings, inbox) = unbounded();
        let (end, done) = bounded(0);
        let (path, events) = (self.path.clone(), self.events.clone());
        std::thread::Builder::new()
            .name("state".into())
            .stack_size(256 * 1024)
            .spawn(move || {
                write_all(&path, &inbox, &events);
                drop::<Sender<()>>(end);
            })
            .ok()
            .map(|_| Writer { findings, done })
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(Writer { findings, done }) = self.writer.take() {
            drop(findings);
            let _ = done.recv_timeout(FLUSH);
        }
    }
}

/// Writes until the run is over.
fn write_all(path: &Path, inbox: &Receiver<Findings>, events: &Sender<Warning>) {
    // With `ulimit -f` a write that is too long is to fail, not to end the run.
    let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
    let mut said = false;
    while let Ok(mut findings) = inbox.recv() {
        // Each says all that its run knows: the last one will do.
        while let Ok(newer) = inbox.try_recv() {
            findings = newer;
        }
        if let Err(why) = save(path, findings, events)
            && !std::mem::replace(&mut said, true)
        {
            report(path, &why, events);
        }
    }
}

fn report(path: &Path, why: &str, events: &Sender<Warning>) {
    let path = path.display();
    let what = format!("No state is kept: '{path}' cannot be used ({why})");
    let _ = events.send(Warning(what));
}

/// Merges what was found out into the file.
fn save(path: &Path, findings: Findings, events: &Sender<Warning>) -> Result<(), String> {
    private_file::create_folder(private_file::folder_of(path)).map_err(words)?;
    let _lock = lock(path, LOCK_PATIENCE)?;
    let mut memory = load(path, events)?;
    if !memory.merge(findings, SystemTime::now()) {
        return Ok(());
    }
    // The lock makes the draft's name ours.
    private_file::replace(path, &beside(path, ".new"), memory.text().as_bytes()).map_err(words)
}

/// The file under the lock: what it holds, or nothing after setting it aside.
fn load(path: &Path, events: &Sender<Warning>) -> Result<StoredTokens, String> {
    let unusable = match read(path)? {
        Ok(memory) => return Ok(memory),
        Err(unusable) => unusable,
    };
    let (suffix, is) = match unusable {
        Unusable::Damaged => (".damaged", "is damaged"),
        Unusable::Newer => (".newer", "is of a newer version"),
    };
    let aside = beside(path, suffix);
    std::fs::rename(path, &aside).map_err(|error| format!("it {is}, and stays: {error}"))?;
    let (path, aside) = (path.display(), aside.display());
    let what = format!("The state file '{path}' {is}; it is now '{aside}'");
    let _ = events.send(Warning(what));
    Ok(StoredTokens::default())
}

/// What the file holds; nothing if there is none.
fn read(path: &Path) -> Result<Result<StoredTokens, Unusable>, String> {
    match private_file::read(path, LARGEST) {
        Ok(text) => Ok(StoredTokens::parse(&text)),
        Err(error) => match error.kind() {
            ErrorKind::NotFound => Ok(Ok(StoredTokens::default())),
            ErrorKind::FileTooLarge => Ok(Err(Unusable::Damaged)),
            _ => Err(words(error)),
        },
    }
}

/// The lock, which ends with the value or with the process.
fn lock(path: &Path, patience: Duration) -> Result<File, String> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    let file = private_file::open(&mut options, &beside(path, ".lock")).map_err(words)?;
    let until = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(words(error)),
            Err(TryLockError::WouldBlock) if Instant::now() >= until => {
                return Err("another process holds its lock".into());
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(BETWEEN_TRIES),
        }
    }
}

fn words(error: std::io::Error) -> String {
    error.to_string()
}
