//! Linux: /proc, prctl(2), memfd_create(2), unix(7)'s abstract addresses.

use super::Process;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Pid, Uid};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Whether a process is told when its parent dies ([`die_with_parent`]).
pub(crate) const DEATH_IS_TOLD: bool = true;
/// Whether those who have left the command's group, and whose parent has died, can be found: as this
/// process's own children ([`adopt_orphans`]), or by a variable ([`has_variable`]).
pub(crate) const STRAYS_ARE_FOUND: bool = true;
/// Where the descriptors of this process have names.
pub(crate) const DESCRIPTORS: &str = "/proc/self/fd";

/// Every process that can be seen.
pub(crate) fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| process(Pid::from_raw(pid)))
        .collect()
}

/// One process, if it is there (proc_pid_stat(5)).
pub(crate) fn process(pid: Pid) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, also spaces and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let lives = !matches!(fields.next()?, "Z" | "X");
    let mut numbers = [0; 5];
    for number in &mut numbers {
        *number = fields.next()?.parse().ok()?;
    }
    let [parent, group, _session, _terminal, front] = numbers;
    Some(Process {
        pid,
        parent: Pid::from_raw(parent),
        group: Pid::from_raw(group),
        front: (front > 0).then(|| Pid::from_raw(front)),
        lives,
    })
}

/// Whether a group has members.
pub(crate) fn group_lives(group: Pid) -> bool {
    killpg(group, None) != Err(Errno::ESRCH)
}

/// The children of this process (proc(5), `children`). All belong to the main thread: it alone
/// starts processes, and orphans are given to it.
pub(crate) fn children() -> Vec<Pid> {
    let own = std::process::id();
    fs::read_to_string(format!("/proc/self/task/{own}/children"))
        .unwrap_or_default()
        .split_ascii_whitespace()
        .filter_map(|pid| pid.parse().ok().map(Pid::from_raw))
        .collect()
}

/// Whether a process was started with this variable, as `NAME=value`; of another user's it is not
/// told.
pub(crate) fn has_variable(process: Pid, variable: &str) -> bool {
    fs::read(format!("/proc/{process}/environ")).is_ok_and(|environment| {
        environment
            .split(|byte| *byte == 0)
            .any(|other| other == variable.as_bytes())
    })
}

/// Names of the regular files that the descendants of a process have open (proc(5), `fd`).
pub(crate) fn open_files_of_descendants(ancestor: Pid) -> Vec<PathBuf> {
    let descendants = super::with_descendants(&processes(), |process| process.pid == ancestor);
    let descriptors = descendants
        .iter()
        .filter(|process| process.pid != ancestor)
        .filter_map(|process| fs::read_dir(format!("/proc/{}/fd", process.pid)).ok());
    descriptors
        .flatten()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|path| path.is_absolute())
        .collect()
}

/// Makes this process the parent of whatever loses its own below it (PR_SET_CHILD_SUBREAPER).
///
/// # Errors
/// The system refuses.
pub(crate) fn adopt_orphans() -> nix::Result<()> {
    // PID 1 is everybody's parent anyway.
    match std::process::id() {
        1 => Ok(()),
        _ => prctl::set_child_subreaper(true),
    }
}

/// Has this process get a SIGTERM when its parent dies, if the system can do that.
pub(crate) fn die_with_parent() {
    let _ = prctl::set_pdeathsig(Signal::SIGTERM);
}

/// No core file will be written of this process.
pub(crate) fn leave_no_core() {
    let _ = prctl::set_dumpable(false);
}

/// The signals that were ignored when the program was started, bit n-1 for signal n
/// (proc_pid_status(5), `SigIgn`). To be asked before any of them is handled.
pub(crate) fn ignored_signals() -> u64 {
    // One read: the file is made anew for each, and has no size to ask for.
    let mut status = [0; 4096];
    let read = File::open("/proc/self/status").and_then(|mut file| file.read(&mut status));
    let status = status.get(..read.unwrap_or(0)).unwrap_or_default();
    String::from_utf8_lossy(status)
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// The program that this process runs, also after its file was replaced by an upgrade.
pub(crate) fn own_program() -> PathBuf {
    let own = Path::new("/proc/self/exe");
    if own.exists() {
        return own.to_owned();
    }
    let as_started = || std::env::args_os().next().map(PathBuf::from);
    std::env::current_exe()
        .ok()
        .or_else(as_started)
        .unwrap_or_default()
}

/// The same, for other processes while this one runs.
pub(crate) fn own_program_for_others() -> String {
    format!("/proc/{}/exe", std::process::id())
}

/// A socket that other processes find by a name.
#[derive(Debug)]
pub(crate) struct Address(String);

impl Address {
    /// A new name, and who hears what is said to it. There is no file to it: it goes with the
    /// process.
    ///
    /// # Errors
    /// The system has no room for a socket.
    pub(crate) fn listen() -> io::Result<(UnixListener, Address)> {
        let random = || RandomState::new().hash_one(std::process::id());
        let name = format!("ddollar-{:016x}{:016x}", random(), random());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        Ok((listener, Address(name)))
    }

    /// For [`call`].
    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

/// Connects to who listens under a name.
///
/// # Errors
/// Nobody does.
pub(crate) fn call(name: &str) -> io::Result<UnixStream> {
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)
}

/// The user and the process on the other side of a connection.
///
/// # Errors
/// The system does not tell.
pub(crate) fn caller(connection: &UnixStream) -> io::Result<(Uid, Pid)> {
    let who = getsockopt(connection, PeerCredentials)?;
    Ok((Uid::from_raw(who.uid()), Pid::from_raw(who.pid())))
}

/// A file that only this user can read, in memory; gone with this value or the process.
#[derive(Debug)]
pub(crate) struct PrivateFile(File);

impl PrivateFile {
    /// One with this text.
    ///
    /// # Errors
    /// The system has no room for it.
    pub(crate) fn new(text: &str) -> io::Result<PrivateFile> {
        let mut file = File::from(memfd_create(c"settings", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(text.as_bytes())?;
        Ok(PrivateFile(file))
    }

    /// For other processes.
    pub(crate) fn path(&self) -> String {
        let process = std::process::id();
        format!("/proc/{process}/fd/{}", self.0.as_raw_fd())
    }
}

/// Waits until the terminal has something to read, or the other end of the pipe was dropped: then
/// it says no.
///
/// # Errors
/// What poll(2) has, also EINTR.
pub(crate) fn is_readable(tty: impl AsFd, unless: impl AsFd) -> nix::Result<bool> {
    let mut sources = [
        PollFd::new(unless.as_fd(), PollFlags::POLLIN),
        PollFd::new(tty.as_fd(), PollFlags::POLLIN),
    ];
    poll(&mut sources, PollTimeout::NONE)?;
    match sources[0].any() {
        Some(false) => Ok(true),
        Some(true) => Ok(false),
        None => Err(Errno::EIO),
    }
}
