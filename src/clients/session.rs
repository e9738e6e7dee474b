//! The session that a client works on: the id that it is given, or where its files show it.
//!
//! A session is resumed by its id only. "The last one" of a folder could be somebody else's: another
//! client may have been started there in the meantime. What cannot be found out stays unknown.

use super::command_line::CommandLine;
use crate::common::time::Now;
use crate::system::os;
use nix::unistd::getpid;
use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// From a start to the first look at the client's open files. Each pause is twice the one before, up
/// to [`MAX_PAUSE`]: a session usually begins within seconds, but an interactive client begins its
/// session only when the user has typed something.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two looks at the client's open files.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// What is known of a start when its session is looked for.
#[derive(Debug)]
pub(super) struct Start<'a> {
    /// The id, or the mark, that the session was given.
    pub(super) id: Option<&'a str>,
    /// Environment of the client.
    pub(super) environment: &'a [(OsString, OsString)],
    /// Files that the client has open; empty if it is not running, or the system does not tell.
    pub(super) open_files: &'a [PathBuf],
}

impl Start<'_> {
    /// The folder that a variable names, else this one in the home folder.
    pub(super) fn folder(&self, variable: &str, in_home: &str) -> Option<PathBuf> {
        let value = |name: &str| {
            let mut found = self.environment.iter().filter(|(key, _)| key == name);
            let (_, value) = found.next()?;
            (!value.is_empty()).then(|| PathBuf::from(value))
        };
        value(variable).or_else(|| Some(value("HOME")?.join(in_home)))
    }

    /// The id, if any of the folders in `parent` holds an entry whose path below it is `below`.
    pub(super) fn id_if_in_any(&self, parent: Option<PathBuf>, below: &str) -> Option<String> {
        let folders = std::fs::read_dir(parent?).ok()?;
        let mut found = folders.flatten().map(|folder| folder.path().join(below));
        found.any(|path| path.exists()).then_some(())?;
        self.id.map(str::to_owned)
    }
}

/// Keeps track of the session that the command works on.
#[derive(Debug, Default)]
pub(crate) struct SessionTracker {
    given: Option<String>,
    found: Option<String>,
    look_at: Option<Instant>,
    pause: Duration,
}

impl SessionTracker {
    /// A start from the beginning: the id for its session, if the line takes one. Each start gets a
    /// new one, because a client refuses an id that it already knows.
    pub(crate) fn begin(&mut self, line: &CommandLine, now: Now) -> Option<&str> {
        *self = SessionTracker {
            given: line.takes_session_id().then(new_id),
            ..SessionTracker::default()
        };
        if line.client().watches_files {
            self.pause = FIRST_PAUSE;
            self.look_at = Some(now.tick + FIRST_PAUSE);
        }
        self.given.as_deref()
    }

    /// Looks at the client's open files when it is time to. Returns when it will do so again.
    pub(crate) fn tick(
        &mut self,
        line: &CommandLine,
        environment: &[(OsString, OsString)],
        now: Now,
    ) -> Option<Duration> {
        let rest = self.look_at?.saturating_duration_since(now.tick);
        if !rest.is_zero() {
            return Some(rest);
        }
        self.look(line, environment);
        if self.found.is_some() {
            return None;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(MAX_PAUSE);
        self.look_at = Some(now.tick + pause);
        Some(pause)
    }

    /// Looks at the client's open files now, because it may end after this.
    pub(crate) fn look(&mut self, line: &CommandLine, environment: &[(OsString, OsString)]) {
        if self.look_at.is_none() || self.found.is_some() {
            return;
        }
        let files = os::open_files_of_descendants(getpid());
        self.found = self.find(line, environment, &files);
        if self.found.is_some() {
            self.look_at = None;
        }
    }

    /// Id of the session, if it is known, and whether it can be resumed.
    pub(crate) fn session(
        &self,
        line: &CommandLine,
        environment: &[(OsString, OsString)],
    ) -> Option<(String, bool)> {
        let found = self.found.clone();
        match found.or_else(|| self.find(line, environment, &[])) {
            Some(id) => Some((id, true)),
            None => Some((self.given.clone()?, false)),
        }
    }

    fn find(
        &self,
        line: &CommandLine,
        environment: &[(OsString, OsString)],
        open_files: &[PathBuf],
    ) -> Option<String> {
        let start = Start {
            id: self.given.as_deref(),
            environment,
            open_files,
        };
        (line.client().find_session)(&start).filter(|id| is_plain(id))
    }
}

/// Whether an id may be put on a command line: it must not pass for an option.
fn is_plain(id: &str) -> bool {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    id.len() <= 200 && !id.starts_with('-') && !id.is_empty() && id.chars().all(is_fine)
}

/// The UUID at the end of a file's name without its extension.
pub(super) fn uuid_at_end(path: &Path) -> Option<&str> {
    let stem = path.file_stem()?.to_str()?;
    let id = stem.get(stem.len().checked_sub(36)?..)?;
    let dashes = [8, 13, 18, 23];
    let fits = |(at, c): (usize, char)| match dashes.contains(&at) {
        true => c == '-',
        false => c.is_ascii_hexdigit(),
    };
    id.chars().enumerate().all(fits).then_some(id)
}

/// A random UUID (RFC 9562, version 4), the only kind of id that clients take.
fn new_id() -> String {
    // The standard library's hasher is seeded by the system.
    let random = || RandomState::new().hash_one(std::process::id());
    let (high, low) = (random(), random());
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0x0fff | 0x4000,
        low >> 48 & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_random_uuids() {
        let ids = [new_id(), new_id()];
        assert_ne!(ids[0], ids[1]);
        for id in ids {
            assert_eq!(uuid_at_end(Path::new(&format!("x-{id}.jsonl"))), Some(&*id));
            let parts: Vec<&str> = id.split('-').collect();
            assert!(
                parts[2].starts_with('4') && parts[3].starts_with(['8', '9', 'a', 'b']),
                "{id}"
            );
        }
    }

    #[test]
    fn an_id_never_passes_for_an_option() {
        for odd in ["", "-x", "--last", "a b", "a/b", "a\n"] {
            assert!(!is_plain(odd), "{odd:?}");
        }
        assert!(is_plain("ses_ddb033a0cffesoeikeLg4HGRaz") && is_plain(&new_id()));
        for odd in ["x.jsonl", "rollout-1111.jsonl", "/", "über-11111111222"] {
            assert_eq!(uuid_at_end(Path::new(odd)), None, "{odd}");
        }
    }
}
