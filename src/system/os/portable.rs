//! What every Unix has: ps(1), sh(1), files and select(2). It is enough for macOS, where this cannot
//! be had: to be told of a parent's death, to adopt orphans, to read the environment of others.

use super::{Folder, Process};
use crate::common::private_file;
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::select::{FD_SETSIZE, FdSet, select};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg};
use nix::unistd::{Pid, Uid};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Whether those who have left the command's group, and whose parent has died, can be found: as this
/// process's own children ([`adopt_orphans`]), or by a variable ([`has_variable`]).
pub(crate) const STRAYS_ARE_FOUND: bool = false;
/// Where the descriptors of this process have names.
pub(crate) const DESCRIPTORS: &str = "/dev/fd";

/// Every process.
pub(crate) fn processes() -> Vec<Process> {
    ps(&["-A"])
}

/// One process, if it is there.
pub(crate) fn process(pid: Pid) -> Option<Process> {
    ps(&["-p", &pid.to_string()]).pop()
}

/// What ps(1) says. The columns are those that macOS and Linux both have.
fn ps(which: &[&str]) -> Vec<Process> {
    let mut command = Command::new("/bin/ps");
    command.args(which);
    for column in ["pid=", "ppid=", "pgid=", "tpgid=", "stat=", "time="] {
        command.args(["-o", column]);
    }
    let said = said(&mut command);
    said.lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Process> {
    let mut fields = line.split_ascii_whitespace();
    let mut number = || fields.next()?.parse().ok().map(Pid::from_raw);
    let (pid, parent, group, front) = (number()?, number()?, number()?, number());
    let state = fields.next()?;
    Some(Process {
        pid,
        parent,
        group,
        front: front.filter(|front| front.as_raw() > 0),
        lives: !state.starts_with('Z'),
        stopped: state.starts_with('T'),
        started: 0,
        processor: fields.next().and_then(time).unwrap_or_default(),
    })
}

/// Processor time as ps(1) has it: `[[DAYS-]HOURS:]MINUTES:SECONDS`, on macOS with hundredths.
fn time(text: &str) -> Option<Duration> {
    let units = text
        .split(['-', ':'])
        .rev()
        .zip([1.0, 60.0, 3600.0, 86_400.0]);
    let seconds = units.map(|(count, unit)| Some(count.parse::<f64>().ok()? * unit));
    Duration::try_from_secs_f64(seconds.sum::<Option<f64>>()?).ok()
}

/// The number of this process in the list.
pub(super) fn own_number() -> Option<i32> {
    Some(Pid::this().as_raw())
}

/// What a command prints, out of reach of the terminal and of the caller's environment.
fn said(command: &mut Command) -> String {
    // A Ctrl-Z between fork and exec would stop this process in its spawn for ever.
    let stop = SigSet::from(Signal::SIGTSTP);
    let before = stop.thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let output = command
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .output();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => {
            log::warn!("cannot run {}: {error}", command.get_program().display());
            String::new()
        }
    }
}

/// How many processes the system has ended for want of memory, which it does not tell.
pub(crate) fn oom_kills() -> Option<u64> {
    None
}

/// The real-time signals, of which macOS has none.
pub(crate) fn real_time_signals() -> SigSet {
    SigSet::empty()
}

/// Where they could be read.
#[derive(Debug)]
pub(crate) struct RealTimeQueue;

impl RealTimeQueue {
    /// # Errors
    /// Never.
    pub(crate) fn open() -> io::Result<RealTimeQueue> {
        Ok(RealTimeQueue)
    }

    /// Nothing to wait for.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// None.
    pub(crate) fn pending(&self) -> impl Iterator<Item = i32> {
        std::iter::empty()
    }
}

/// Sends a signal to a process by the signal's number, for which there is no use here.
///
/// # Errors
/// Always.
pub(crate) fn kill_by_number(_: rustix::process::Pid, _: i32) -> rustix::io::Result<()> {
    Err(rustix::io::Errno::INVAL)
}

/// Whether a group has members. To macOS, zombies are none, but the group is there.
pub(crate) fn group_lives(group: Pid) -> bool {
    let is_member = |process: &Process| process.group == group && process.lives;
    killpg(group, None) != Err(Errno::ESRCH) && processes().iter().any(is_member)
}

/// The children of this process are those that it has started, and it knows them.
pub(crate) fn children(_: &[Pid]) -> Vec<(Pid, Process)> {
    Vec::new()
}

/// Which files another process has open is not told.
pub(crate) fn open_files_of_descendants(_: Pid) -> Vec<PathBuf> {
    Vec::new()
}

/// Whether a process below this one is stopped. To ask would take a process; SIGCONT is harmless.
pub(crate) fn has_stopped_descendant(_: &[Pid]) -> bool {
    true
}

/// Each of them is asked for by its number.
pub(crate) fn ended_child() -> Option<Pid> {
    None
}

/// What the list of processes cannot be used for: nothing.
pub(crate) fn list_trouble() -> Option<&'static str> {
    None
}

/// Whether a process is a child of this one, or of a child, and so on.
pub(crate) fn is_descendant(pid: Pid) -> bool {
    super::descends(pid, Pid::this())
}

/// Sends a signal to a process of the list.
///
/// # Errors
/// ESRCH, when it is gone; EPERM.
pub(crate) fn send(process: &Process, signal: Signal) -> nix::Result<()> {
    kill(process.pid, signal)
}

/// Whether a process was started with this variable is not told.
pub(crate) fn has_variable(_: &Process, _: &str) -> bool {
    false
}

/// Orphans go to PID 1.
///
/// # Errors
/// None.
pub(crate) fn adopt_orphans() -> nix::Result<()> {
    Ok(())
}

/// Has this process get a SIGTERM when its parent dies, if the system can do that.
pub(crate) fn die_with_parent() {}

/// Whether a signal waits for a process that blocks it; not told here.
pub(crate) fn is_pending(_: Pid, _: Signal) -> bool {
    false
}

/// No core file will be written of this process.
pub(crate) fn leave_no_core() {
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
}

/// The signals that were ignored when the program was started, bit n-1 for signal n. To be asked
/// before any of them is handled.
///
/// Without unsafe code only a new process can tell: it ignores what this one does, and a shell
/// cannot trap what it was started to ignore (POSIX, `trap`). Not tried are the signals that would
/// stop it.
pub(crate) fn ignored_signals() -> u64 {
    const TRIED: [Signal; 8] = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGALRM,
        Signal::SIGWINCH,
    ];
    const SCRIPT: &str =
        "for n; do heard=; trap heard=1 $n; kill -$n $$ && [ -z $heard ] && echo $n; done";
    let numbers = TRIED.map(|signal| (signal as i32).to_string());
    let mut shell = Command::new("/bin/sh");
    said(shell.args(["-c", SCRIPT, "sh"]).args(numbers))
        .lines()
        .filter_map(|number| number.parse::<u32>().ok())
        .filter(|number| (1..=64).contains(number))
        .fold(0, |mask, number| mask | 1 << (number - 1))
}

/// The program file of this process. After an upgrade it is another program, or gone.
pub(crate) fn own_program() -> PathBuf {
    super::program_file()
}

/// The same, for other processes.
pub(crate) fn own_program_for_others() -> String {
    own_program().to_string_lossy().into_owned()
}

/// A socket that other processes find by a name: its path, in a folder of this user's.
#[derive(Debug)]
pub(crate) struct Address {
    name: String,
    _folder: Folder,
}

impl Address {
    /// A new name, and a socket that receives what is sent to it.
    ///
    /// # Errors
    /// The system has no room for a socket or a folder, or the temporary folder has too long a name
    /// (104 bytes are the most for a socket on macOS).
    pub(crate) fn listen() -> io::Result<(UnixListener, Address)> {
        let folder = Folder::new()?;
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path)?;
        let address = Address {
            name: path.to_string_lossy().into_owned(),
            _folder: folder,
        };
        Ok((listener, address))
    }

    /// For [`call`].
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// Connects to who listens under a name.
///
/// # Errors
/// Nobody does.
pub(crate) fn call(name: &str) -> io::Result<UnixStream> {
    UnixStream::connect(name)
}

/// The user and the process on the other side of a connection.
///
/// # Errors
/// The system does not tell.
pub(crate) fn caller(connection: &UnixStream) -> io::Result<(Uid, Pid)> {
    use nix::sys::socket::{getsockopt, sockopt};
    #[cfg(target_vendor = "apple")]
    let (user, process) = (
        getsockopt(connection, sockopt::LocalPeerCred)?.uid(),
        getsockopt(connection, sockopt::LocalPeerPid)?,
    );
    #[cfg(target_os = "linux")]
    let (user, process) = {
        let who = getsockopt(connection, sockopt::PeerCredentials)?;
        (who.uid(), who.pid())
    };
    Ok((Uid::from_raw(user), Pid::from_raw(process)))
}

/// The user of the program on the other side of a TCP connection on this machine. There is no way to
/// ask that all systems have.
pub(crate) fn tcp_peer(_: &TcpStream) -> Option<Uid> {
    None
}

/// A file that only this user can read; gone with this value.
#[derive(Debug)]
pub(crate) struct PrivateFile {
    path: PathBuf,
    _folder: Folder,
}

impl PrivateFile {
    /// One with this text.
    ///
    /// # Errors
    /// The temporary folder is full or cannot be written to.
    pub(crate) fn new(text: &str) -> io::Result<PrivateFile> {
        let folder = Folder::new()?;
        let path = folder.path().join("settings");
        private_file::create(&path, text.as_bytes(), 0o600)?;
        Ok(PrivateFile {
            path,
            _folder: folder,
        })
    }

    /// For other processes.
    pub(crate) fn path(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }
}

/// Waits until the terminal has something to read, or the other end of the pipe was dropped: then
/// it says no. Not with poll(2), which does not know /dev/tty on macOS.
///
/// # Errors
/// What select(2) has, also EINTR.
pub(crate) fn is_readable(tty: impl AsFd, unless: impl AsFd) -> nix::Result<bool> {
    let (tty, unless) = (tty.as_fd(), unless.as_fd());
    let mut sources = FdSet::new();
    for source in [tty, unless] {
        if usize::try_from(source.as_raw_fd()).is_ok_and(|number| number >= FD_SETSIZE) {
            return Err(Errno::EMFILE);
        }
        sources.insert(source);
    }
    select(None, &mut sources, None, None, None)?;
    Ok(!sources.contains(unless))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_times_read_as_ps_prints_them() {
        for (text, seconds) in [
            ("0:00.03", Some(0.03)),
            ("12:34.50", Some(754.5)),
            ("01:02:03", Some(3723.0)),
            ("2-00:00:01", Some(172_801.0)),
            ("-", None),
            ("", None),
        ] {
            let wanted = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            assert_eq!(time(text), wanted, "{text}");
        }
    }
}
