//! Linux: /proc, prctl(2), memfd_create(2), unix(7)'s abstract addresses.

use super::Process;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, Uid};
use rustix::process::Signal as RealTime;
use rustix_libc_wrappers::process::SignalExt;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// Whether processes that have left the command's group, and whose parent has died, can be found: as
/// this process's own children ([`adopt_orphans`]), or by a variable ([`has_variable`]).
pub(crate) const STRAYS_ARE_FOUND: bool = true;
/// Where the descriptors of this process have names.
pub(crate) const DESCRIPTORS: &str = "/proc/self/fd";

/// The number of this process in /proc; `None` where /proc is not mounted, or is that of a PID
/// namespace in which this process is not.
pub(super) fn own_number() -> Option<i32> {
    static NUMBER: OnceLock<Option<i32>> = OnceLock::new();
    *NUMBER.get_or_init(|| fs::read_link("/proc/self").ok()?.to_str()?.parse().ok())
}

/// Whether /proc is that of an outer PID namespace, as in a sandbox that may not mount its own. Its
/// numbers are then not those that kill(2) and waitpid(2) take.
fn list_is_foreign() -> bool {
    own_number().is_some_and(|number| number != Pid::this().as_raw())
}

/// What the list of processes cannot be used for, in words for the user; `None` when it is whole.
pub(crate) fn list_trouble() -> Option<&'static str> {
    match own_number() {
        None => Some(
            "/proc does not show this process: only the command's process group can be ended, not \
             what has left it",
        ),
        Some(_) if list_is_foreign() => Some(
            "/proc is that of another PID namespace: its numbers are not used to signal processes",
        ),
        Some(_) => None,
    }
}

/// A file of the kernel's, which has no size to ask for: in one read, where it is a page at most.
fn read_kernel_file(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::with_capacity(4096);
    File::open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Every process that can be seen; none where /proc does not show even this one.
pub(crate) fn processes() -> Vec<Process> {
    let (Some(_), Ok(entries)) = (own_number(), fs::read_dir("/proc")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(entry)
        .collect()
}

/// One process by the number that this one knows it by, if it is there and can be seen.
pub(crate) fn process(pid: Pid) -> Option<Process> {
    (own_number() == Some(Pid::this().as_raw()))
        .then(|| entry(pid.as_raw()))
        .flatten()
}

/// What /proc says of a number (proc_pid_stat(5)).
fn entry(number: i32) -> Option<Process> {
    let stat = read_kernel_file(format!("/proc/{number}/stat")).ok()?;
    // The name in parentheses may hold anything, also spaces and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let mut numbers = [0; 5];
    for number in &mut numbers {
        *number = fields.next()?.parse().ok()?;
    }
    let [parent, group, _session, _terminal, front] = numbers;
    Some(Process {
        pid: Pid::from_raw(number),
        parent: Pid::from_raw(parent),
        group: Pid::from_raw(group),
        front: (front > 0).then(|| Pid::from_raw(front)),
        lives: !matches!(state, "Z" | "X"),
        stopped: state == "T",
        // Fields 14 to 17, in ticks, a hundred a second (USER_HZ); the eighth was the last
        // one above.
        processor: {
            let mut times = fields.by_ref().skip(5).take(4);
            let sum = times.try_fold(0, |sum: u64, time| {
                time.parse::<u64>().ok()?.checked_add(sum)
            });
            Duration::from_millis(sum?.saturating_mul(10))
        },
        // Field 22.
        started: fields.nth(4)?.parse().ok()?,
    })
}

/// The number by which this process knows one of an outer namespace's /proc: `NSpid` has its numbers
/// from the namespace of that /proc inwards (proc_pid_status(5)).
fn translated(number: i32) -> Option<Pid> {
    let numbers = |entry: &str| -> Option<Vec<i32>> {
        let status = read_kernel_file(format!("/proc/{entry}/status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))?;
        let numbers = line.split_ascii_whitespace();
        Some(numbers.filter_map(|number| number.parse().ok()).collect())
    };
    let depth = numbers("self")?.len().checked_sub(1)?;
    numbers(&number.to_string())?
        .get(depth)
        .copied()
        .map(Pid::from_raw)
}

/// Whether a process is a child of this one, or of a child, and so on. `pid` is as this process, or
/// the kernel on its behalf, calls it.
pub(crate) fn is_descendant(pid: Pid) -> bool {
    let Some(own) = own_number().map(Pid::from_raw) else {
        return false;
    };
    if list_is_foreign() {
        return super::with_descendants(&processes(), |process| process.pid == own)
            .iter()
            .any(|process| process.pid != own && translated(process.pid.as_raw()) == Some(pid));
    }
    super::descends(pid, own)
}

/// Sends a signal to a process of the list, if it is still the one that was listed. A folder of /proc
/// is a handle on its process and never on another one with the same number (pidfd_send_signal(2));
/// without that call (before Linux 5.1), numbers of this process's own namespace must do.
///
/// # Errors
/// ESRCH, when it is gone; EPERM; ENOSYS, when it has no number here and the kernel takes no handle.
pub(crate) fn send(process: &Process, signal: Signal) -> nix::Result<()> {
    let number = process.pid.as_raw();
    let handle = File::open(format!("/proc/{number}")).map_err(|_| Errno::ESRCH)?;
    // Looked at after the handle was opened: were the process gone by then, this would be another.
    if !entry(number).is_some_and(|now| now.lives && now.is_still(process)) {
        return Err(Errno::ESRCH);
    }
    let signal_number = rustix::process::Signal::from_named_raw(signal as i32);
    let sent = signal_number
        .ok_or(rustix::io::Errno::INVAL)
        .and_then(|signal| rustix::process::pidfd_send_signal(&handle, signal));
    match sent.map_err(|errno| Errno::from_raw(errno.raw_os_error())) {
        Err(Errno::ESRCH) => Err(Errno::ESRCH),
        Err(_) if !list_is_foreign() => kill(process.pid, signal),
        sent => sent,
    }
}

/// Whether a signal waits for a process that blocks it (proc_pid_status(5), `ShdPnd`).
pub(crate) fn is_pending(pid: Pid, signal: Signal) -> bool {
    let status = read_kernel_file(format!("/proc/{pid}/status"));
    let mask = status.ok().filter(|_| !list_is_foreign());
    mask.and_then(|status| mask_in(&status, "ShdPnd:"))
        .is_some_and(|mask| mask & 1 << (signal as i32 - 1) != 0)
}

/// A set of signals in the status of a process, bit n-1 for signal n.
fn mask_in(status: &str, field: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix(field))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// The real-time signals, as far as the C library leaves them to programs (signal(7)).
pub(crate) fn real_time_signals() -> SigSet {
    let mut all = SigSet::all();
    Signal::iterator().for_each(|standard| all.remove(standard));
    all
}

/// Where the real-time signals that are blocked can be read. Thirty handlers would take a third of a
/// millisecond to set.
#[derive(Debug)]
pub(crate) struct RealTimeQueue(SignalFd);

impl RealTimeQueue {
    /// # Errors
    /// The system has no room for a descriptor.
    pub(crate) fn open() -> io::Result<RealTimeQueue> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let opened = SignalFd::with_flags(&real_time_signals(), flags)?;
        Ok(RealTimeQueue(opened))
    }

    /// Readable when one has come.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    /// The numbers of those that have come since.
    pub(crate) fn pending(&self) -> impl Iterator<Item = i32> {
        std::iter::from_fn(|| self.0.read_signal().ok().flatten())
            .filter_map(|signal| i32::try_from(signal.ssi_signo).ok())
    }
}

/// Sends a signal to a process that this one is the parent of, by the signal's number.
///
/// # Errors
/// EPERM; EINVAL for a number that is none.
pub(crate) fn kill_by_number(process: rustix::process::Pid, number: i32) -> rustix::io::Result<()> {
    let signal = RealTime::from_raw(number).ok_or(rustix::io::Errno::INVAL)?;
    rustix::process::kill_process(process, signal)
}

/// Whether a group has members.
pub(crate) fn group_lives(group: Pid) -> bool {
    killpg(group, None) != Err(Errno::ESRCH)
}

/// The children of this process, the dead among them too, as far as /proc tells (proc(5), `children`;
/// kernels without CONFIG_PROC_CHILDREN do not have that file). All belong to the main thread: it
/// alone starts processes, and orphans are given to it. That one is missing here says nothing.
/// Those in `spared` are left out.
pub(crate) fn children(spared: &[Pid]) -> Vec<(Pid, Process)> {
    let Some(own) = own_number().filter(|_| has_children()) else {
        return Vec::new();
    };
    let is_foreign = list_is_foreign();
    let is_spared = |number: i32| !is_foreign && spared.contains(&Pid::from_raw(number));
    let numbered = |process: Process| {
        let pid = match is_foreign {
            true => translated(process.pid.as_raw())?,
            false => process.pid,
        };
        (!spared.contains(&pid)).then_some((pid, process))
    };
    let numbers = read_kernel_file(format!("/proc/self/task/{own}/children"));
    if let Ok(numbers) = numbers {
        return numbers
            .split_ascii_whitespace()
            .filter_map(|number| number.parse().ok())
            .filter(|number| !is_spared(*number))
            .filter_map(entry)
            .filter_map(numbered)
            .collect();
    }
    let all = processes().into_iter();
    all.filter(|process| process.parent.as_raw() == own)
        .filter_map(numbered)
        .collect()
}

/// Whether this process has any child, the dead among them too: the kernel's own word (waitid(2)).
fn has_children() -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, flags) != Err(Errno::ECHILD)
}

/// Whether a process below this one is stopped; yes where /proc does not tell. Looked for among the
/// children of main threads: nearly every program starts its processes from there. Children of this one in
/// `spared` are not looked at.
pub(crate) fn has_stopped_descendant(spared: &[Pid]) -> bool {
    // No tree that anybody waits for is larger, and none is deeper than the numbers that it has.
    const MOST: usize = 1024;
    let Some(own) = own_number() else {
        return true;
    };
    let is_foreign = list_is_foreign();
    let mut parents = vec![own];
    let mut seen = 0;
    while let Some(parent) = parents.pop() {
        let children = read_kernel_file(format!("/proc/{parent}/task/{parent}/children"));
        let children = match children {
            Ok(children) => children,
            // It has just ended.
            Err(_) if parent != own => continue,
            Err(_) => return true,
        };
        let numbers = children
            .split_ascii_whitespace()
            .filter_map(|number| number.parse().ok());
        for child in numbers {
            if !is_foreign && spared.contains(&Pid::from_raw(child)) {
                continue;
            }
            seen += 1;
            match entry(child) {
                _ if seen > MOST => return true,
                Some(child) if child.stopped => return true,
                Some(child) if child.lives => parents.push(child.pid.as_raw()),
                _ => {}
            }
        }
    }
    false
}

/// A child of this process that has ended and was not waited for yet, as the kernel says, also where
/// /proc does not. It stays for waitpid(2).
pub(crate) fn ended_child() -> Option<Pid> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // One that died by a real-time signal is an error in nix; it waits until /proc tells of it.
    waitid(Id::All, flags).ok()?.pid()
}

/// Whether a process was started with this variable, as `NAME=value`; of another user's it is not
/// told.
pub(crate) fn has_variable(process: &Process, variable: &str) -> bool {
    fs::read(format!("/proc/{}/environ", process.pid)).is_ok_and(|environment| {
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

/// How many processes the kernel has ended for want of memory in the control group of this one, as far as
/// it tells: `oom_kill` in `memory.events` (cgroups(7), version 2) or `memory.oom_control` (version 1).
pub(crate) fn oom_kills() -> Option<u64> {
    let groups = read_kernel_file("/proc/self/cgroup").ok()?;
    groups.lines().find_map(|line| {
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(':')?;
        let (root, file) = match controllers {
            "" => ("", "memory.events"),
            "memory" => ("/memory", "memory.oom_control"),
            _ => return None,
        };
        // In a container the group's own folder may be where that of all groups is otherwise.
        let told = [path, ""]
            .into_iter()
            .find_map(|path| read_kernel_file(format!("/sys/fs/cgroup{root}{path}/{file}")).ok())?;
        let count = told
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "))?;
        count.parse().ok()
    })
}

/// The signals that were ignored when the program was started, bit n-1 for signal n
/// (proc_pid_status(5), `SigIgn`). To be asked before any of them is handled.
pub(crate) fn ignored_signals() -> u64 {
    let status = read_kernel_file("/proc/self/status").unwrap_or_default();
    mask_in(&status, "SigIgn:").unwrap_or(0)
}

/// The program that this process runs, also after its file was replaced by an upgrade.
pub(crate) fn own_program() -> PathBuf {
    let own = Path::new("/proc/self/exe");
    if own.exists() {
        return own.to_owned();
    }
    super::program_file()
}

/// The same, for other processes while this one runs.
pub(crate) fn own_program_for_others() -> String {
    match own_number() {
        Some(number) => format!("/proc/{number}/exe"),
        None => own_program().to_string_lossy().into_owned(),
    }
}

/// A socket that other processes find by a name.
#[derive(Debug)]
pub(crate) struct Address(String);

impl Address {
    /// A new name, and a socket that receives what is sent to it. No file belongs to it: it ends with
    /// the process.
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

/// A file in memory that only this user can read and nobody can change; gone with this value or the
/// process.
#[derive(Debug)]
pub(crate) struct PrivateFile {
    _file: File,
    path: String,
}

impl PrivateFile {
    /// One with this text. It is sealed (memfd_create(2)): whoever can open it, as the command can,
    /// cannot write to it.
    ///
    /// # Errors
    /// The system has no room for it, or /proc, where it is found, does not show this process.
    pub(crate) fn new(text: &str) -> io::Result<PrivateFile> {
        let number = own_number().ok_or_else(|| io::Error::other("/proc is not there"))?;
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let mut file = File::from(memfd_create(c"settings", flags)?);
        file.write_all(text.as_bytes())?;
        let seals = SealFlag::F_SEAL_WRITE
            | SealFlag::F_SEAL_GROW
            | SealFlag::F_SEAL_SHRINK
            | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        let path = format!("/proc/{number}/fd/{}", file.as_raw_fd());
        Ok(PrivateFile { _file: file, path })
    }

    /// For other processes.
    pub(crate) fn path(&self) -> String {
        self.path.clone()
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
