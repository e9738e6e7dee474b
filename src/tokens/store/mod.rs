//! The state file: what runs on one machine, one after the other or side by side, tell each other
//! about their tokens.
//!
//! Owns the file, its lock and the thread that writes it. It promises that whoever reads the file
//! finds it whole, whatever was killed in the middle (a new file takes the old one's place in one
//! step); that runs do not lose each other's findings (read, merge and write under a lock, which
//! ends with its process); that nothing here holds a run up or ends it: trouble is said once, and
//! the run goes on without. What is in the file is `format`'s to say.

pub(crate) mod format;
mod hold;

use crate::common::Warning;
use crate::common::private_file::{self, beside};
use crate::common::time::Now;
use crate::providers::Provider;
use crate::providers::endpoint::Endpoint;
use crate::providers::scope::Scope;
use crate::tokens::ledger::Ledger;
use crate::tokens::store::format::{StoredToken, StoredTokens, Unusable};
use crate::tokens::{Token, TokenPool};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use hold::Hold;
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
const NEWER: &str = "it is of a newer version, and stays as it is";
/// How long the end of a run waits for the last write.
const FLUSH: Duration = Duration::from_secs(3);

/// What a run found out.
#[derive(Debug, Default)]
struct Findings {
    /// By the fingerprints of its tokens.
    tokens: Vec<(String, StoredToken)>,
    /// The model that a client uses of a provider, by [`Store::user`].
    models: Vec<(String, String)>,
}

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
    /// Who uses the tokens: the name of a known client, or what stands for all others.
    client: &'static str,
    rings: Vec<Vec<Name>>,
    /// Where the tokens of each ring are asked about.
    endpoints: Vec<Vec<Endpoint>>,
    /// Says to other runs which tokens this one holds.
    hold: Option<Hold>,
}

/// How the state knows a token.
#[derive(Debug)]
struct Name {
    fingerprint: String,
    /// Its fingerprint in version 1.
    old: String,
    /// The scope that checks ask about.
    checked: Scope,
}

impl Store {
    /// The records in this file; without one, nothing is known and nothing is kept. `client` is who uses
    /// the tokens.
    pub(crate) fn open(
        path: Option<PathBuf>,
        client: &'static str,
        events: &Sender<Warning>,
    ) -> Store {
        let (state, memory) = path
            .and_then(|path| State::open(path, events.clone()))
            .unzip();
        Store {
            state,
            memory,
            client,
            rings: Vec::new(),
            endpoints: Vec::new(),
            hold: None,
        }
    }

    /// Whether anything is kept.
    pub(crate) fn keeps(&self) -> bool {
        self.state.is_some()
    }

    /// Says which model an earlier run of this client has asked for, if that is known.
    pub(crate) fn suggest(&self, endpoint: &mut Endpoint) {
        let user = self.user(endpoint.provider);
        let model = self.memory.as_ref().and_then(|memory| memory.model(&user));
        if let Some(model) = model {
            endpoint.has_seen(model);
        }
    }

    /// By what the state knows who uses the tokens of this provider.
    fn user(&self, provider: &Provider) -> String {
        format!("{}/{}", self.client, provider.name)
    }

    /// Names the tokens of the next ring, whose providers are asked at `endpoints`.
    pub(crate) fn know(&mut self, pool: &TokenPool, endpoints: &[Endpoint]) {
        self.rings.push(names(pool, endpoints));
        self.endpoints.push(endpoints.to_vec());
    }

    /// Names tokens that come to this ring, and tells them what is known of them.
    pub(crate) fn recall_more(
        &mut self,
        ring: usize,
        added: &mut TokenPool,
        threshold: f64,
        now: Now,
    ) {
        let (Some(known), Some(endpoints)) = (self.rings.get_mut(ring), self.endpoints.get(ring))
        else {
            return;
        };
        let names = names(added, endpoints);
        if let Some(memory) = &self.memory {
            recall(memory, added, &names, threshold, now);
        }
        known.extend(names);
    }

    /// The same, and tells these tokens what is known of them.
    pub(crate) fn recall(
        &mut self,
        pool: &mut TokenPool,
        endpoints: &[Endpoint],
        threshold: f64,
        now: Now,
    ) {
        self.know(pool, endpoints);
        let Some(names) = self.rings.last() else {
            return;
        };
        if let Some(memory) = &self.memory {
            recall(memory, pool, names, threshold, now);
        }
        if let (Some(state), true) = (&self.state, pool.len() > 1) {
            let hold = self.hold.get_or_insert_with(|| Hold::new(&state.path));
            pool.set_holders(hold.others(&fingerprints(names)));
        }
    }

    /// Tells the tokens of all rings what is known of them in other scopes than that of their checks.
    pub(crate) fn recall_scopes(&self, ledger: &mut Ledger, threshold: f64, now: Now) {
        let Some(memory) = &self.memory else { return };
        for (ring, names) in self.rings.iter().enumerate() {
            let known = fingerprints(names);
            for scope in memory.scopes(&known) {
                if names.iter().all(|name| name.checked == scope) {
                    continue;
                }
                let place = ledger.place(ring, &scope);
                let Some(pool) = place.and_then(|place| ledger.pool_mut(place)) else {
                    continue;
                };
                let in_scope = |key: &String| format::in_scope(key, &scope);
                let keys: Vec<String> = known.iter().map(in_scope).collect();
                memory.recall(pool, &keys, threshold, now);
                memory.recall(pool, &known, threshold, now);
            }
        }
    }

    /// Says to other runs which tokens this one uses now: theirs start with others, if they can.
    pub(crate) fn hold<'a>(&mut self, pools: impl Iterator<Item = &'a TokenPool>) {
        let Some(hold) = &mut self.hold else { return };
        let held = pools.zip(&self.rings).filter_map(|(pool, names)| {
            let name = names.get(pool.current_index())?;
            Some(name.fingerprint.as_str())
        });
        hold.set(held.collect());
    }

    /// Keeps what checks have shown of the tokens for other runs.
    pub(crate) fn keep<'a>(&mut self, pools: impl Iterator<Item = &'a TokenPool>, now: Now) {
        let pools: Vec<&TokenPool> = pools.collect();
        self.hold(pools.iter().copied());
        let Some(state) = &mut self.state else { return };
        let mut tokens = Vec::new();
        for (pool, names) in pools.into_iter().zip(&self.rings) {
            tokens.extend(kept(pool, names, None, now));
        }
        state.keep(Findings {
            tokens,
            ..Findings::default()
        });
    }

    /// Keeps all that is known of the tokens for other runs.
    pub(crate) fn keep_all(&mut self, ledger: &Ledger, now: Now) {
        let last_used = |ring| ledger.pool(ledger.last_used(ring));
        self.hold((0..ledger.len()).filter_map(last_used));
        let used = (0..ledger.len()).filter_map(|ring| {
            let (place, model) = ledger.model(ring)?;
            let provider = ledger.pool(place)?.current().provider;
            Some((self.user(provider), model.to_owned()))
        });
        let models = used.collect();
        let Some(state) = &mut self.state else { return };
        let mut tokens = Vec::new();
        for (ring, names) in self.rings.iter().enumerate() {
            for (scope, pool) in ledger.scopes(ring) {
                tokens.extend(kept(pool, names, Some(scope), now));
            }
        }
        state.keep(Findings { tokens, models });
    }

    /// Writes what is left to write: the next run may begin right after this one.
    pub(crate) fn close(&mut self) {
        self.state = None;
        self.hold = None;
    }
}

/// What is known of the tokens of a pool, as the file has it; without a scope, in that of their checks.
fn kept<'a>(
    pool: &'a TokenPool,
    names: &'a [Name],
    scope: Option<&'a Scope>,
    now: Now,
) -> impl Iterator<Item = (String, StoredToken)> + use<'a> {
    names.iter().enumerate().flat_map(move |(index, name)| {
        let known = StoredToken::of(pool.state(index), now);
        let scope = scope.unwrap_or(&name.checked);
        let kept = |known: StoredToken| known.kept(&name.fingerprint, scope);
        known.into_iter().flat_map(kept)
    })
}

/// The names of these tokens, whose providers are asked at `endpoints`.
fn names(pool: &TokenPool, endpoints: &[Endpoint]) -> Vec<Name> {
    let named = |token: &Token| {
        let own = |endpoint: &&Endpoint| std::ptr::eq(endpoint.provider, token.provider);
        let own = endpoints.iter().find(own);
        // Limits are those of a token at one address.
        let address = own.map_or("", |endpoint| &*endpoint.base_url);
        let models = own.map_or(&[][..], |endpoint| &endpoint.models);
        let model = models.first().map_or("", String::as_str);
        let last = models.iter().skip(1).next_back();
        let first_and_last: Vec<&str> = models
            .iter()
            .take(1)
            .chain(last)
            .map(String::as_str)
            .collect();
        Name {
            fingerprint: token.secret.fingerprint(&[address]),
            old: token
                .secret
                .fingerprint(&[address, &first_and_last.join(" ")]),
            checked: Scope::of_model(token.provider, model),
        }
    };
    pool.tokens().map(named).collect()
}

/// Tells these tokens what is known of them in the scope of their checks, and in all.
fn recall(memory: &StoredTokens, pool: &mut TokenPool, names: &[Name], threshold: f64, now: Now) {
    let old: Vec<String> = names.iter().map(|name| name.old.clone()).collect();
    let in_scope = |name: &Name| format::in_scope(&name.fingerprint, &name.checked);
    let checked: Vec<String> = names.iter().map(in_scope).collect();
    for keys in [&old, &checked, &fingerprints(names)] {
        memory.recall(pool, keys, threshold, now);
    }
}

fn fingerprints(names: &[Name]) -> Vec<String> {
    names.iter().map(|name| name.fingerprint.clone()).collect()
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
            Ok(Ok(memory)) if !beside(&path, ".newer").exists() => memory,
            Ok(Err(Unusable::Newer)) => {
                report(&path, NEWER, &events);
                return None;
            }
            Ok(Err(Unusable::Foreign)) => {
                let path = path.display();
                let what = format!("The state in '{path}' is not believed: others can write it");
                let _ = events.send(what);
                StoredTokens::default()
            }
            // If another run is just about to deal with it, the writer looks again.
            Ok(_) => lock(&path, Duration::ZERO)
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
    let _ = events.send(what);
}

/// Merges what was found out into the file.
fn save(path: &Path, findings: Findings, events: &Sender<Warning>) -> Result<(), String> {
    private_file::create_folder(private_file::folder_of(path)).map_err(words)?;
    let _lock = lock(path, LOCK_PATIENCE)?;
    let mut memory = load(path, events)?;
    let is_new = memory.merge(findings.tokens, SystemTime::now());
    match memory.learn(findings.models) || is_new {
        true => put(path, &memory),
        false => Ok(()),
    }
}

/// Puts this in the file's place, under the lock, which makes the draft's name ours.
fn put(path: &Path, memory: &StoredTokens) -> Result<(), String> {
    private_file::replace(path, &beside(path, ".new"), memory.text().as_bytes()).map_err(words)
}

/// The file under the lock: what it holds, or nothing after setting it aside.
fn load(path: &Path, events: &Sender<Warning>) -> Result<StoredTokens, String> {
    match read(path)? {
        Ok(memory) => return Ok(with_newer(path, memory)),
        // Another program's, which is not to lose it.
        Err(Unusable::Newer) => return Err(NEWER.into()),
        // A file of this user's takes its place.
        Err(Unusable::Foreign) => return Ok(StoredTokens::default()),
        Err(Unusable::Damaged) => {}
    }
    let aside = beside(path, ".damaged");
    std::fs::rename(path, &aside).map_err(|error| format!("it is damaged, and stays: {error}"))?;
    let (path, aside) = (path.display(), aside.display());
    let what = format!("The state file '{path}' is damaged; it is now '{aside}'");
    let _ = events.send(what);
    Ok(StoredTokens::default())
}

/// With what an older ddollar has moved aside, because it did not know the version.
fn with_newer(path: &Path, mut memory: StoredTokens) -> StoredTokens {
    let aside = beside(path, ".newer");
    if aside.exists()
        && let Ok(Ok(newer)) = read(&aside)
    {
        memory.merge_file(newer, SystemTime::now());
        if put(path, &memory).is_ok() {
            let _ = std::fs::remove_file(&aside);
        }
    }
    memory
}

/// What the file holds; nothing if there is none, or an empty one.
fn read(path: &Path) -> Result<Result<StoredTokens, Unusable>, String> {
    match private_file::read(path, LARGEST) {
        Ok((text, _)) if text.is_empty() => Ok(Ok(StoredTokens::default())),
        // What is none of ours is dealt with as that, whoever wrote it.
        Ok((text, foreign)) => Ok(StoredTokens::parse(&text).and_then(|memory| match foreign {
            true => Err(Unusable::Foreign),
            false => Ok(memory),
        })),
        Err(error) => match error.kind() {
            ErrorKind::NotFound => Ok(Ok(StoredTokens::default())),
            ErrorKind::FileTooLarge => Ok(Err(Unusable::Damaged)),
            _ => Err(words(error)),
        },
    }
}

/// The lock, which ends with the value or with the process.
fn lock(path: &Path, patience: Duration) -> Result<File, String> {
    lock_of(&beside(path, ".lock"), patience)
}

/// The lock that this file stands for.
fn lock_of(path: &Path, patience: Duration) -> Result<File, String> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    let file = private_file::open(&mut options, path).map_err(words)?;
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
