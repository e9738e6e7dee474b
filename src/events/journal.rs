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
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use jiff::Timestamp;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, Signal};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Journals that are kept.
const KEPT: usize = 50;
/// Lines that wait for a slow disk at most; a night has about a thousand in all.
const MOST_WAITING: usize = 1024;
/// The file is created this long after the start, or at the end of a shorter run.
const QUIET_START: Duration = Duration::from_millis(20);
/// Old journals are removed this long after that.
const TIDY_AFTER: Duration = Duration::from_secs(1);
/// At its end a run waits this long for its last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);
/// Bytes of a journal that are read at most: a month of checks each minute.
const LARGEST: u64 = 32 << 20;
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
    /// Disconnected when the last line is written.
    done: Receiver<()>,
    /// Lines that were dropped because too many waited.
    lost: u64,
}

impl Journal {
    /// Starts the thread. The first thing that goes wrong is sent to `warnings`.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(place: Place, warnings: Sender<Warning>) -> io::Result<Journal> {
        let (lines, inbox) = bounded::<String>(MOST_WAITING);
        let (working, done) = bounded::<()>(0);
        std::thread::Builder::new()
            .name("journal".into())
            .stack_size(128 * 1024)
            .spawn(move || {
                // At a limit on file sizes (setrlimit(2)) the write is to fail, not the process to die.
                let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
                if let Err(error) = keep(place, &inbox, &warnings) {
                    let what = format!("No journal of this run: {error}");
                    let _ = warnings.send(what);
                }
                drop(working);
            })?;
        Ok(Journal {
            lines: Some(lines),
            done,
            lost: 0,
        })
    }

    /// Adds a line.
    pub(crate) fn write(&mut self, at: Millis, record: &Record) {
        if self.lost > 0 && self.send(&Record::Lost { lines: self.lost }, at) {
            self.lost = 0;
        }
        if !self.send(record, at) {
            self.lost += 1;
        }
    }

    /// Whether there was room for it. A thread that is gone has warned already.
    fn send(&self, record: &Record, at: Millis) -> bool {
        let Some(lines) = &self.lines else {
            return true;
        };
        let line = masked(&record.json(at)).into_owned() + "\n";
        !matches!(lines.try_send(line), Err(TrySendError::Full(_)))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.lines = None;
        let _ = self.done.recv_timeout(LAST_LINES);
    }
}

/// What the thread does: creates the file, and writes each line. Fails when the file cannot be created;
/// the first line that cannot be written is a warning, and later lines are tried all the same.
fn keep(place: Place, lines: &Receiver<String>, warnings: &Sender<Warning>) -> io::Result<()> {
    // The first lines are written together, so as not to compete with the command's start for the disk.
    let quiet_until = Instant::now() + QUIET_START;
    let mut first = String::new();
    while let Ok(line) = lines.recv_deadline(quiet_until) {
        first.push_str(&line);
    }
    let (mut file, folder) = match place {
        Place::File(file) => (file, None),
        Place::Folder(folder) => (create(&folder)?, Some(folder)),
    };
    // The lock tells readers that the run goes on. On file systems without locks they cannot know.
    let _ = file.try_lock();
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
    write(&first);
    // A run that is over by now does not take the time to tidy up, but for one in eight of them.
    let next = lines.recv_timeout(TIDY_AFTER);
    let is_over = next == Err(RecvTimeoutError::Disconnected);
    if let Some(folder) = folder.filter(|_| !is_over || std::process::id().is_multiple_of(8)) {
        prune(&folder);
    }
    for line in next.into_iter().chain(lines) {
        write(&line);
    }
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

/// A journal as it was read.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) path: PathBuf,
    pub(crate) lines: String,
    /// Whether somebody is writing it.
    pub(crate) going_on: bool,
}

/// Finds and reads a journal. `run` is a path, or the name of a journal in the folder, with or without
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
    read(&path).map_err(|error| Error::File {
        what: "journal",
        path: path.clone(),
        why: error.to_string(),
        hint: "'ddollar report' without a name shows the newest run",
    })
}

fn read(path: &Path) -> io::Result<Text> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)?;
    let going_on = is_going_on(&file);
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(Text {
        path: path.to_owned(),
        lines: String::from_utf8_lossy(&bytes).into_owned(),
        going_on,
    })
}

/// Whether a run writes the file: then it holds a lock on it.
fn is_going_on(file: &File) -> bool {
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}
