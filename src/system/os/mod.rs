//! What Linux and macOS do differently.
//!
//! Every such difference is here, in two halves with the same functions: `linux` asks the kernel,
//! mostly through /proc; `portable` needs only what every Unix has, and is what macOS gets. No other
//! module needs to know on which of them ddollar runs. The feature `portable` takes the portable half on
//! Linux, so that it is tested where the tests run.

#[cfg(all(target_os = "linux", not(feature = "portable")))]
mod linux;
#[cfg(all(target_os = "linux", not(feature = "portable")))]
mod peer;
#[cfg(any(feature = "portable", not(target_os = "linux")))]
mod portable;
#[cfg(all(target_os = "linux", not(feature = "portable")))]
pub(crate) use linux::*;
#[cfg(all(target_os = "linux", not(feature = "portable")))]
pub(crate) use peer::tcp_peer;
#[cfg(any(feature = "portable", not(target_os = "linux")))]
pub(crate) use portable::*;

use nix::unistd::{Pid, mkdtemp};
use std::fs::DirEntry;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A process, as the system's list has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its number in the list. This process knows it by the same number, unless the list is that of
    /// another PID namespace ([`list_trouble`]).
    pub(crate) pid: Pid,
    /// The number of its parent, from the same list.
    pub(crate) parent: Pid,
    /// The number of its process group, from the same list.
    pub(crate) group: Pid,
    /// The group in the foreground of its terminal.
    pub(crate) front: Option<Pid>,
    /// False for a zombie, which has ended and waits for its parent to ask for its status.
    pub(crate) lives: bool,
    /// Whether it is stopped, as by Ctrl-Z.
    pub(crate) stopped: bool,
    /// When it was started, in clock ticks since the machine was; 0 where the system does not tell.
    pub(crate) started: u64,
    /// The processor time that it has taken, with that of its children which have ended, where the system
    /// tells that.
    pub(crate) processor: Duration,
}

impl Process {
    /// Whether this is the process that was `seen` before, and not another that has got its number.
    /// Where the start is not known, it must be in the same group, or in one of its own by now: macOS
    /// gives the numbers up to 99,999 in turn, so that none comes back within seconds.
    pub(crate) fn is_still(&self, seen: &Process) -> bool {
        let same_group = self.group == seen.group || self.group == self.pid;
        self.pid == seen.pid && self.started == seen.started && (self.started > 0 || same_group)
    }
}

/// Those of `all` that live and descend from one that `is_root` says yes to, and these themselves.
pub(crate) fn with_descendants(
    all: &[Process],
    is_root: impl Fn(&Process) -> bool,
) -> Vec<Process> {
    let (mut found, mut rest): (Vec<Process>, Vec<Process>) =
        all.iter().copied().partition(|process| is_root(process));
    loop {
        let (children, others) = rest
            .into_iter()
            .partition(|process| found.iter().any(|parent| parent.pid == process.parent));
        rest = others;
        if Vec::is_empty(&children) {
            break;
        }
        found.extend(children);
    }
    found.retain(|process| process.lives);
    found
}

/// Whether a process is a child of `ancestor`, or of a child, and so on, by the numbers of this process.
fn descends(mut pid: Pid, ancestor: Pid) -> bool {
    // No process tree is deeper, and a pid that is reused meanwhile must not make a ring.
    for _ in 0..256 {
        match process(pid).map(|process| process.parent) {
            Some(parent) if parent == ancestor => return true,
            Some(parent) if parent.as_raw() > 0 => pid = parent,
            _ => return false,
        }
    }
    false
}

/// Closes what a helper process has inherited beside its standard streams, as the file behind
/// `flock FILE ddollar`: the lock is held until the last process that has it open ends. For the first thing
/// that such a process does, when nothing else is open yet.
pub(crate) fn close_inherited() {
    let entries = std::fs::read_dir(DESCRIPTORS).into_iter().flatten();
    let number = |entry: io::Result<DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    let open: Vec<i32> = entries.filter_map(number).collect();
    for descriptor in open.into_iter().filter(|number| *number > 2) {
        let _ = nix::unistd::close(descriptor);
    }
}

/// The file of this program, as far as the system can name it.
fn program_file() -> PathBuf {
    let as_started = || std::env::args_os().next().map(PathBuf::from);
    let current = std::env::current_exe().ok();
    current.or_else(as_started).unwrap_or_default()
}

/// What the processes below this one are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Doings {
    /// The processor time that they have taken so far; `None` where the system does not tell. It can fall:
    /// that of one which has ended is gone with it, unless its parent asks for its status.
    pub(crate) processor: Option<Duration>,
    /// Whether one that this process has started, or adopted, is stopped.
    pub(crate) stopped: bool,
}

/// What the processes below this one are doing.
pub(crate) fn doings() -> Doings {
    let Some(own) = own_number().map(Pid::from_raw) else {
        return Doings::default();
    };
    let mut found = with_descendants(&processes(), |process| process.pid == own);
    found.retain(|process| process.pid != own);
    Doings {
        processor: (!found.is_empty()).then(|| found.iter().map(|one| one.processor).sum()),
        stopped: found
            .iter()
            .any(|process| process.stopped && process.parent == own),
    }
}

/// A folder in the temporary one that only this user can look into; gone with this value.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// A new one, empty.
    ///
    /// # Errors
    /// The temporary folder (`TMPDIR`) is not there, is full or cannot be written to.
    pub(crate) fn new() -> io::Result<Folder> {
        let name = format!("{}XXXXXX", Folder::prefix(Pid::this()));
        Ok(Folder(mkdtemp(&std::env::temp_dir().join(name))?))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Removes the folders that a process has left behind which was killed.
    pub(crate) fn remove_all_of(process: Pid) {
        let prefix = Folder::prefix(process);
        let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
            return;
        };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                drop(Folder(entry.path()));
            }
        }
    }

    fn prefix(process: Pid) -> String {
        format!("ddollar-{process}-")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A leftover in the temporary folder does little harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests;
