//! The watchdog: a second process that cleans up when ddollar itself is killed.
//!
//! Owns both ends of the pipe between them. ddollar says which group is its child's; when the pipe ends
//! without a farewell, the watchdog ends that group and every process that carries the run's cookie,
//! removes the run's temporary files, and restores the terminal. It promises to hold no token, to signal
//! nothing while ddollar lives, and to be gone soon after it.

use crate::system::os::{self, Folder, Process, group_lives, own_program};
use crate::system::signals;
use crate::system::terminal::{self, Terminal};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid, getpid, getppid, getsid};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, PipeWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The variable that marks every process of a run.
pub(crate) const COOKIE: &str = "DDOLLAR_SUPERVISE_ID";

/// How often the watchdog looks whether the processes that it told to end have ended.
const LOOK: Duration = Duration::from_millis(50);
/// So many looks in a row must find nothing. A process that is just being started has no environment
/// yet, and its group may not have been named before ddollar was killed.
const QUIET_LOOKS: u32 = 4;
/// How long it goes on killing what does not die.
const LAST_TRIES: Duration = Duration::from_secs(5);

/// ddollar's end. Dropping it without [`Watchdog::dismiss`] raises the alarm.
#[derive(Debug)]
pub(crate) struct Watchdog {
    pipe: PipeWriter,
    pid: Pid,
}

impl Watchdog {
    /// Starts the watchdog for the run that `cookie` marks.
    ///
    /// # Errors
    /// When the system refuses the process; the run is then less safe, but not impossible.
    pub(crate) fn start(
        cookie: &str,
        grace: Duration,
        terminal: Option<&Terminal>,
    ) -> std::io::Result<Watchdog> {
        let (reader, pipe) = std::io::pipe()?;
        let tty = terminal.map(Terminal::file).transpose()?;
        let modes = terminal.map_or(String::new(), Terminal::usual_modes);
        let mut command = Command::new(own_program());
        command
            .arg("__watch")
            .arg(cookie)
            .arg(grace.as_millis().to_string())
            .arg(modes)
            // No token is in here; TERM decides how the terminal is spoken to.
            .env_clear()
            .envs(["TERM", "TMPDIR"].into_iter().filter_map(|name| {
                let value = std::env::var_os(name)?;
                Some((name, value))
            }))
            .current_dir("/")
            .stdin(reader)
            .stdout(tty.map_or_else(Stdio::null, Stdio::from))
            .stderr(Stdio::null())
            // Out of the terminal's reach from its first moment on: a Ctrl-C is not meant for it, and
            // a Ctrl-Z between fork and exec would stop ddollar in its spawn for ever.
            .process_group(0);
        let process = signals::undisturbed(|| command.spawn())?;
        let pid = Pid::from_raw(i32::try_from(process.id()).unwrap_or(i32::MAX));
        Ok(Watchdog { pipe, pid })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Says which group is the child's now.
    pub(crate) fn guard(&mut self, group: Pid) {
        // As for [`Watchdog::tell`].
        let _ = guard(&mut self.pipe, group);
    }

    /// Says that a process belongs to the child, and in which group it is.
    pub(crate) fn note(&mut self, process: &Process) {
        let Process {
            pid,
            group,
            started,
            ..
        } = process;
        self.tell(&format!("known {pid} {group} {started}\n"));
    }

    /// Another handle on the pipe, for the child itself.
    pub(crate) fn pipe(&self) -> std::io::Result<PipeWriter> {
        self.pipe.try_clone()
    }

    /// Says that the child is gone. Its number may be given to a stranger; what it left behind is
    /// known by the cookie, or was noted.
    pub(crate) fn release(&mut self) {
        self.tell("none\n");
    }

    /// Says what the modes of the user's terminal are by now.
    pub(crate) fn remember(&mut self, modes: &str) {
        self.tell(&format!("modes {modes}\n"));
    }

    /// Says that all is well and that it can go.
    pub(crate) fn dismiss(&mut self) {
        self.tell("bye\n");
    }

    fn tell(&mut self, line: &str) {
        // Without its watchdog the run is less safe, but goes on. The pipe holds far more than is ever
        // written, so this does not block.
        let _ = self.pipe.write_all(line.as_bytes());
    }
}

/// Says down the pipe which group is the child's.
///
/// # Errors
/// The watchdog is gone.
pub(crate) fn guard(pipe: &mut impl Write, group: Pid) -> std::io::Result<()> {
    pipe.write_all(format!("child {group}\n").as_bytes())
}

/// `__watch`: the watchdog's own life. `words` are what [`Watchdog::start`] passes.
pub(crate) fn watch(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    os::close_inherited();
    let session = getsid(None).ok();
    let supervisor = getpgid(Some(getppid())).ok();
    let mut text = || words.next().and_then(|word| word.into_string().ok());
    let (Some(cookie), Some(grace), Some(mut modes)) = (text(), text(), text()) else {
        return ExitCode::FAILURE;
    };
    let grace = Duration::from_millis(grace.parse().unwrap_or(0));

    let mut group = None;
    let mut known = Vec::new();
    for line in BufReader::with_capacity(128, std::io::stdin()).lines() {
        match line.as_deref() {
            Ok("bye") => return ExitCode::SUCCESS,
            Ok("none") => group = None,
            Ok(line) => {
                if let Some(text) = line.strip_prefix("modes ") {
                    modes = text.to_owned();
                }
                let number = line.strip_prefix("child ").and_then(|n| n.parse().ok());
                if let Some(new) = number.map(Pid::from_raw).filter(|new| group != Some(*new)) {
                    group = Some(new);
                    known.clear();
                }
                known.extend(line.strip_prefix("known ").and_then(noted));
            }
            Err(_) => break,
        }
    }
    let tty = (!modes.is_empty())
        .then(|| std::io::stdout().as_fd().try_clone_to_owned().ok())
        .flatten()
        .map(File::from);
    // The terminal itself does not say it once the session is over.
    let front = || os::process(session?)?.front;
    let raw = tty.as_ref().is_some_and(terminal::is_raw) && group.is_some() && front() == group;
    let killed = clean_up(group, &cookie, known, grace);
    // Its parent may be somebody else by now; the cookie begins with ddollar's pid.
    if let Some(ddollar) = cookie.split('-').next().and_then(|pid| pid.parse().ok()) {
        Folder::remove_all_of(Pid::from_raw(ddollar));
    }
    let Some(tty) = tty else {
        return ExitCode::SUCCESS;
    };
    // A shell that lives has by now taken the terminal back and set its own modes. What it does not
    // know of is the screen of a program that did not put it right by itself.
    let other = front().is_some_and(|front| {
        Some(front) != supervisor && Some(front) != group && group_lives(front)
    });
    if !other {
        terminal::rescue(&tty, &modes);
    } else if raw && killed {
        terminal::reset(&tty);
    }
    ExitCode::SUCCESS
}

/// The process that [`Watchdog::note`] wrote down.
fn noted(numbers: &str) -> Option<Process> {
    let mut numbers = numbers.split(' ');
    let pid = |number: &str| number.parse().ok().map(Pid::from_raw);
    Some(Process {
        pid: pid(numbers.next()?)?,
        group: pid(numbers.next()?)?,
        started: numbers.next()?.parse().ok()?,
        parent: Pid::from_raw(0),
        front: None,
        lives: true,
        stopped: false,
        processor: Duration::ZERO,
    })
}

/// TERM and CONT, the grace, then KILL until nothing is left. Says whether it came to that.
fn clean_up(group: Option<Pid>, cookie: &str, mut known: Vec<Process>, grace: Duration) -> bool {
    let mark = format!("{COOKIE}={cookie}");
    let began = Instant::now();
    let (mut told, mut killed) = (false, false);
    let mut quiet = 0;
    loop {
        let all = os::processes();
        let left = left(&all, group, &mark, &mut known);
        if left.is_empty() && !group.is_some_and(|group| is_hidden(group, &all)) {
            quiet += 1;
            if quiet == QUIET_LOOKS {
                return killed;
            }
            sleep(LOOK);
            continue;
        }
        quiet = 0;
        let waited = began.elapsed();
        killed |= waited >= grace;
        let signals: &[Signal] = if waited >= grace {
            &[Signal::SIGKILL]
        } else if told {
            &[]
        } else {
            &[Signal::SIGTERM, Signal::SIGCONT]
        };
        told = true;
        // Each once: many programs take a second SIGTERM for an order to end at once.
        let listed = group.filter(|_| os::list_trouble().is_none());
        for signal in signals {
            if let Some(group) = group {
                let _ = killpg(group, *signal);
            }
            for process in left.iter().filter(|one| Some(one.group) != listed) {
                let _ = os::send(process, *signal);
            }
        }
        if waited >= grace + LAST_TRIES {
            return killed;
        }
        sleep(LOOK);
    }
}

/// Whether the command's group has members that the list of processes does not show, or not by the numbers
/// that are used here: /proc of another user's processes, such as those of a `sudo`, may be hidden
/// (proc(5), `hidepid`). A zombie counts as a member, too, but is listed: whoever is to reap it may never
/// do so.
fn is_hidden(group: Pid, all: &[Process]) -> bool {
    let is_listed = all.iter().any(|process| process.group == group);
    (os::list_trouble().is_some() || !is_listed) && group_lives(group)
}

/// The living processes of the group, and those of this user that carry the mark. Where the mark
/// cannot be seen, `known` are those who were found before, and their descendants count.
fn left(all: &[Process], group: Option<Pid>, mark: &str, known: &mut Vec<Process>) -> Vec<Process> {
    let group = group.filter(|_| os::list_trouble().is_none());
    let own = getpid();
    let belongs = |process: &Process| {
        process.lives
            && (Some(process.group) == group
                || known.iter().any(|seen| process.is_still(seen))
                || os::has_variable(process, mark))
    };
    if os::STRAYS_ARE_FOUND {
        return all.iter().copied().filter(belongs).collect();
    }
    let mut left = os::with_descendants(all, belongs);
    left.retain(|process| process.pid != own);
    known.clone_from(&left);
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As with `sudo` and a /proc that hides other users' processes.
    #[test]
    fn a_group_that_lives_and_is_not_listed_is_hidden() {
        let mut sleeper = Command::new("sleep")
            .arg("60")
            .process_group(0)
            .spawn()
            .unwrap();
        let group = Pid::from_raw(sleeper.id().try_into().unwrap());
        let listed = noted(&format!("{group} {group} 1")).unwrap();
        assert!(is_hidden(group, &[]));
        assert!(!is_hidden(group, &[listed]));
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(!is_hidden(group, &[]));
    }
}
