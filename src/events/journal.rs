//! The journal: a file that keeps what happened in a run.
//!
//! Owns the folder of journals, the thread that writes one, and finding and reading them again. It
//! promises that the run never waits for a disk and never ends because of one; that each line is one
//! write, so that a crash costs the last line at most; that only the owner can read a journal; and that
//! the newest [`KEPT`] are kept (a few more after runs of less than a second). What the lines say is
//! decided in `schema.rs`; they hold no token.

use crate::common::Warning;
use crate::common::error::Error;
use crate::common::mask::masked;
use crate::common::private_file;
use crate::events::schema::{Millis, Record};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use jiff::Timestamp;
use nix::fcntl::OFlag;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Journals that are kept.
const KEPT: usize = 50;
/// Lines that wait for a slow disk at most; a night has about a thousand in all.
const MOST_WAITING: usize = 1024;
/// Old journals are removed this long after the file was created.
const TIDY_AFTER: Duration = Duration::from_secs(1);
/// At its end a run waits this long for its last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);
/// Bytes of lines that a run writes at most, beside its end: ten times what a month of checks comes to.
const LARGEST: usize = 64 << 20;
/// Bytes of a line that are read at most. The longest that is written has a few thousand.
const LONGEST_LINE: usize = 64 << 10;
/// The end of a journal's name, which begins with the time, so that names sort by age.
const SUFFIX: &str = ".jsonl";

/// Where the journal goes.
#[derive(Debug)]
pub(crate) enum Place {
    /// A new file in this folder, which is created when it is missing.
    Folder(PathBuf),
    /// Appended to this file.
    File(File),
}

/// The folder of the journals, in the state folder.
pub(crate) fn runs(state_folder: &Path) -> PathBuf {
    state_folder.join("runs")
}

/// Opens the file that the user named.
///
/// # Errors
/// When it cannot be appended to.
pub(crate) fn open(path: &Path) -> Result<Place, Error> {
    private_file::append(OpenOptions::new().create(true), path)
        .map(Place::File)
        .map_err(|error| Error::File {
            what: "journal",
            path: path.to_owned(),
            why: error.to_string(),
            hint: "name a file in a folder that exists and that you can write to",
        })
}

// ---- writing ----

/// A journal that is being written. Dropping it writes what is left, for a bounded time.
#[derive(Debug)]
pub(crate) struct Journal {
    lines: Option<Sender<String>>,
    /// What the thread is to do, until it begins.
    keeper: Option<Keeper>,
    /// Disconnected when the last line is written.
    done: Receiver<()>,
    /// Lines that were dropped because too many waited, or the journal is full.
    lost: u64,
    /// Bytes of the lines that were not dropped.
    size: usize,
}

/// All that the thread needs.
#[derive(Debug)]
struct Keeper {
    place: Place,
    lines: Receiver<String>,
    /// Takes the first thing that goes wrong.
    warnings: Sender<Warning>,
    /// Dropped at the end.
    working: Sender<()>,
}

impl Journal {
    /// A journal that takes lines, and writes them once it has begun. The first thing that goes wrong is
    /// sent to `warnings`.
    pub(crate) fn new(place: Place, warnings: Sender<Warning>) -> Journal {
        let (lines, inbox) = unbounded();
        let (working, done) = bounded(0);
        Journal {
            lines: Some(lines),
            keeper: Some(Keeper {
                place,
                lines: inbox,
                warnings,
                working,
            }),
            done,
            lost: 0,
            size: 0,
        }
    }

    /// Starts the thread, if it has not begun. It is not to compete with the command's start for the
    /// disk.
    pub(crate) fn begin(&mut self) {
        let Some(keeper) = self.keeper.take() else {
            return;
        };
        let warnings = keeper.warnings.clone();
        let started = std::thread::Builder::new()
            .name("journal".into())
            .stack_size(128 * 1024)
            .spawn(move || keeper.work());
        if let Err(error) = started {
            let _ = warnings.send(format!("No journal of this run: {error}"));
        }
    }

    /// Adds a line.
    pub(crate) fn write(&mut self, at: Millis, record: &Record) {
        if self.size >= LARGEST && !matches!(record, Record::End(_)) {
            self.lost += 1;
            return;
        }
        if self.lost > 0 && self.send(&Record::Lost { lines: self.lost }, at) {
            self.lost = 0;
        }
        if !self.send(record, at) {
            self.lost += 1;
        }
    }

    /// Whether there was room for it. A thread that is gone has warned already.
    fn send(&mut self, record: &Record, at: Millis) -> bool {
        let Some(lines) = &self.lines else {
            return true;
        };
        let line = masked(&record.json(at)).into_owned() + "\n";
        self.size += line.len();
        let has_room = lines.len() < MOST_WAITING;
        if has_room {
            let _ = lines.send(line);
        }
        has_room
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.begin();
        self.lines = None;
        let _ = self.done.recv_timeout(LAST_LINES);
    }
}

impl Keeper {
    /// What the thread does.
    fn work(self) {
        if let Err(error) = keep(self.place, &self.lines, &self.warnings) {
            let what = format!("No journal of this run: {error}");
            let _ = self.warnings.send(what);
        }
        drop(self.working);
    }
}

/// Creates the file, and writes each line. Fails when the file cannot be created; the first line that
/// cannot be written is a warning, and later lines are tried all the same.
fn keep(place: Place, lines: &Receiver<String>, warnings: &Sender<Warning>) -> io::Result<()> {
    let (mut file, folder) = match place {
        Place::File(file) => (file, None),
        Place::Folder(folder) => (create(&folder)?, Some(folder)),
    };
    // The lock tells readers that the run goes on, and others that the file is taken: two runs in one could
    // not be told apart. On file systems without locks nobody can know.
    let is_taken = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    if is_taken && file.metadata().is_ok_and(|data| data.is_file()) {
        return Err(io::Error::other("another run is writing it"));
    }
    let (mut said, mut torn) = (false, false);
    let mut write = |line: &str| {
        let mended = torn.then(|| format!("\n{line}"));
        let line = mended.as_deref().unwrap_or(line);
        let written = file.write_all(line.as_bytes());
        torn = written.is_err();
        if let Err(error) = written
            && !std::mem::replace(&mut said, true)
        {
            let what = format!("The journal of this run has gaps: {error}");
            let _ = warnings.send(what);
        }
    };
    let tidy_at = Instant::now() + TIDY_AFTER;
    let is_over = loop {
        match lines.recv_deadline(tidy_at) {
            Ok(line) => write(&line),
            Err(why) => break why == RecvTimeoutError::Disconnected,
        }
    };
    // A run that is over by now does not take the time to tidy up, but for one in eight of them.
    if let Some(folder) = folder.filter(|_| !is_over || std::process::id().is_multiple_of(8)) {
        prune(&folder);
    }
    lines.iter().for_each(|line| write(&line));
    Ok(())
}

/// A new file in `folder`, named after this moment and this process.
fn create(folder: &Path) -> io::Result<File> {
    private_file::create_folder(folder).map_err(|error| within(folder, &error))?;
    let now = Timestamp::try_from(SystemTime::now()).unwrap_or_default();
    let stamp: String = format!("{now:.0}")
        .chars()
        .filter(|c| !matches!(c, '-' | ':'))
        .collect();
    let mut name = format!("{stamp}-{}", std::process::id());
    loop {
        let path = folder.join(format!("{name}{SUFFIX}"));
        match private_file::append(OpenOptions::new().create_new(true), &path) {
            // Containers with the same home folder may have the same process ids.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && name.len() < 64 => {
                name.push('x');
            }
            Err(error) => return Err(within(&path, &error)),
            Ok(file) => return Ok(file),
        }
    }
}

fn within(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Removes the oldest journals, but never that of a run that goes on.
fn prune(folder: &Path) {
    let mut journals = all(folder);
    let surplus = journals.len().saturating_sub(KEPT);
    for path in journals.drain(..surplus) {
        let over = File::open(&path).is_ok_and(|file| !is_going_on(&file));
        if over && let Err(error) = fs::remove_file(&path) {
            log::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

// ---- reading ----

/// All journals in the folder, the oldest first.
fn all(folder: &Path) -> Vec<PathBuf> {
    let is_journal = |name: &str| {
        name.ends_with(SUFFIX) && name.starts_with(|first: char| first.is_ascii_digit())
    };
    let mut journals: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(is_journal)
        })
        .collect();
    journals.sort_unstable();
    journals
}

/// The journals in the folder, the newest first, each with the name that [`find`] takes. Those that cannot
/// be read are left out.
pub(crate) fn list(folder: &Path) -> impl Iterator<Item = (String, Text)> {
    all(folder).into_iter().rev().filter_map(|path| {
        let name = path.file_stem()?.to_string_lossy().into_owned();
        Some((name, find(Some(&path), None).ok()?))
    })
}

/// A journal to be read.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) path: PathBuf,
    file: BufReader<File>,
    /// Whether somebody is writing it.
    pub(crate) going_on: bool,
}

impl Text {
    /// Its next line, with its end; of one that is too long, the beginning. `None` at the end of the file.
    ///
    /// # Errors
    /// It cannot be read.
    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        loop {
            let mut piece = (&mut self.file).take(LONGEST_LINE as u64);
            let mut more = Vec::new();
            let read = piece.read_until(b'\n', &mut more)?;
            let ends = read < LONGEST_LINE || more.last() == Some(&b'\n');
            match line.is_empty() {
                true => line = more,
                // The line is damaged in any case; its end says that it has one.
                false if ends => line.extend(more.last()),
                false => {}
            }
            if ends {
                let text = String::from_utf8_lossy(&line).into_owned();
                return Ok((!text.is_empty()).then_some(text));
            }
        }
    }

    /// Reads it line by line.
    ///
    /// # Errors
    /// It cannot be read, or what `read` makes of its lines.
    pub(crate) fn read<T>(
        mut self,
        read: impl FnOnce(&mut dyn Iterator<Item = String>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut failed = None;
        let mut lines = std::iter::from_fn(|| {
            self.line().unwrap_or_else(|error| {
                failed = Some(error);
                None
            })
        });
        let made = read(&mut lines);
        match failed {
            Some(error) => Err(unreadable(&self.path, &error)),
            None => made,
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::File {
        what: "journal",
        path: path.to_owned(),
        why: error.to_string(),
        hint: "'ddollar report --list' names the runs that are kept",
    }
}

/// Finds a journal. `run` is a path, or the name of a journal in the folder, with or without
/// `.jsonl`; `None`: the newest in the folder.
///
/// # Errors
/// There is none, or it cannot be read.
pub(crate) fn find(run: Option<&Path>, folder: Option<&Path>) -> Result<Text, Error> {
    let path = match (run, folder) {
        (Some(run), Some(folder)) if !run.exists() => {
            let named = folder.join(run);
            let mut whole = named.clone().into_os_string();
            whole.push(SUFFIX);
            let mut names = [named, whole.into()].into_iter();
            names.find(|name| name.exists()).unwrap_or(run.into())
        }
        (Some(run), _) => run.into(),
        (None, folder) => folder
            .and_then(|folder| all(folder).pop())
            .ok_or(Error::NoJournal)?,
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(&path)
        .map_err(|error| unreadable(&path, &error))?;
    Ok(Text {
        going_on: is_going_on(&file),
        file: BufReader::new(file),
        path,
    })
}

/// Whether a run writes the file: then it holds a lock on it.
fn is_going_on(file: &File) -> bool {
    let is_taken = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    // Who looks must not be taken for a run.
    let _ = file.unlock();
    is_taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::schema::{self, Ending};

    #[test]
    fn a_full_journal_still_tells_how_the_run_ended() {
        let path = std::env::temp_dir().join(format!("ddollar-journal-{}", std::process::id()));
        let place = open(&path).unwrap();
        let mut journal = Journal::new(place, unbounded().0);
        let note = || Record::Note { text: "n".into() };
        journal.write(0, &note());
        journal.size = LARGEST;
        journal.write(1, &note());
        journal.write(2, &note());
        journal.write(3, &Record::End(Ending::AgainLater));
        drop(journal);
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let records: Vec<Record> = text
            .lines()
            .map(|line| schema::read(line).unwrap().1)
            .collect();
        let end = Record::End(Ending::AgainLater);
        assert_eq!(records, [note(), Record::Lost { lines: 2 }, end]);
    }

    #[test]
    fn of_a_line_that_is_too_long_the_beginning_is_read() {
        let path = std::env::temp_dir().join(format!("ddollar-lines-{}", std::process::id()));
        let long = "x".repeat(5 * LONGEST_LINE + 7);
        fs::write(&path, format!("one\n{long}\n\ntwo\nthree")).unwrap();
        let text = find(Some(&path), None).unwrap();
        let lines = text
            .read(|lines| Ok(lines.collect::<Vec<String>>()))
            .unwrap();
        fs::remove_file(&path).unwrap();
        let cut = format!("{}\n", &long[..LONGEST_LINE]);
        assert_eq!(lines, ["one\n", &cut, "\n", "two\n", "three"]);
    }
}
