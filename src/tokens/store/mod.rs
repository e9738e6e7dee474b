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
use crate::common::time::Now;
use crate::providers::endpoint::Endpoint;
use crate::tokens::store::format::{StoredToken, StoredTokens, Unusable};
use crate::tokens::{Token, TokenPool};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, Signal};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
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
    let folder = folder_of(path);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(words)?;
    let _lock = lock(path, LOCK_PATIENCE)?;
    let mut memory = load(path, events)?;
    if !memory.merge(findings, SystemTime::now()) {
        return Ok(());
    }
    // The lock makes it ours; one that is there is left over from a run that was killed.
    let new = beside(path, ".new");
    let _ = std::fs::remove_file(&new);
    let written = write(&new, memory.text().as_bytes())
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(words);
    match &written {
        // The file is whole either way; this makes its new name last through a power cut.
        Ok(()) => drop(File::open(folder).and_then(|folder| folder.sync_all())),
        Err(_) => drop(std::fs::remove_file(&new)),
    }
    written
}

fn write(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text)?;
    file.sync_all()
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
    let file = match open(OpenOptions::new().read(true), path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Ok(StoredTokens::default()));
        }
        file => file.map_err(words)?,
    };
    if !file.metadata().map_err(words)?.is_file() {
        return Err("it is not a file".into());
    }
    let mut text = Vec::new();
    file.take(LARGEST + 1)
        .read_to_end(&mut text)
        .map_err(words)?;
    if text.len() as u64 > LARGEST {
        return Ok(Err(Unusable::Damaged));
    }
    Ok(StoredTokens::parse(&text))
}

/// The lock, which ends with the value or with the process.
fn lock(path: &Path, patience: Duration) -> Result<File, String> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    let file = open(&mut options, &beside(path, ".lock")).map_err(words)?;
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

/// Opens what may be anything without waiting for it, and without following where a link leads.
fn open(options: &mut OpenOptions, path: &Path) -> std::io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    options.custom_flags(flags.bits()).open(path)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn words(error: std::io::Error) -> String {
    error.to_string()
}
