//! `--notify`: a command of the user's that is run when something has happened.
//!
//! Owns both ends: starting a helper process for each event, and the hidden `__notify`,
//! which is that helper. It promises never to disturb the run: the command has a process group of its
//! own, no standard streams and nothing that was open in ddollar, at most [`MOST_RUNNING`] run at a time,
//! and none for longer than [`LONGEST`]. Orphans of the command go to the helper, which ends them;
//! otherwise they would go to ddollar, which takes orphans for those of the supervised command. No token
//! is in its environment.

use crate::common::mask::masked;
use crate::events::schema::{Ending, Millis, Record, RecordedRing, stamp};
use crate::system::descendants::Tree;
use crate::system::os::{self, own_program};
use crate::system::signals::{self, Inherited, Limits};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Commands that run at a time at most; what happens meanwhile is not told.
const MOST_RUNNING: usize = 4;
/// A command that has not ended by then is killed, with all that it has started.
const LONGEST: Duration = Duration::from_secs(30);
/// At its end a run waits this long for the last command: in a container, or under a service manager,
/// all processes are killed when ddollar ends.
const LAST_NEWS: Duration = Duration::from_secs(5);
/// Bytes of a helper's word on how the command failed.
const LONGEST_WORD: usize = 60;
/// Pause between two looks of the helper at what still runs.
const LOOK: Duration = Duration::from_millis(20);

/// Runs the user's command.
#[derive(Debug)]
pub(crate) struct Notifier {
    /// For `sh -c`.
    command: OsString,
    /// Its limits, which are those of ddollar at its start.
    limits: Limits,
    /// The child's environment, without any token.
    environment: Vec<(OsString, OsString)>,
    /// For each running helper: what it reports, and our end of the pipe between us.
    running: Vec<(&'static str, PipeReader)>,
    /// The first failure of the command.
    failed: Option<String>,
    said_failed: bool,
    /// Whether the run is waiting, so that its next start is the end of the wait.
    waiting: bool,
}

impl Notifier {
    /// For a run in which nothing has happened yet.
    pub(crate) fn new(
        command: OsString,
        inherited: Inherited,
        environment: Vec<(OsString, OsString)>,
    ) -> Notifier {
        Notifier {
            command,
            limits: inherited.limits,
            environment,
            running: Vec::new(),
            failed: None,
            said_failed: false,
            waiting: false,
        }
    }

    /// Runs the command, if this record is one that it is told of. `words` are for people; `rings` are the
    /// tokens of the run. Returns the new process.
    pub(crate) fn tell(
        &mut self,
        record: &Record,
        at: Millis,
        words: &str,
        rings: &[RecordedRing],
    ) -> Option<Pid> {
        let event = match record {
            Record::Limit(_) => "limit",
            Record::Rotate { .. } => "rotate",
            Record::Stall { .. } => "stall",
            Record::Wait { .. } => {
                self.waiting = true;
                "wait"
            }
            Record::Resume | Record::Release { .. } | Record::Launch { .. } if self.waiting => {
                self.waiting = false;
                "resume"
            }
            Record::End(_) => "exit",
            _ => return None,
        };
        self.look();
        // The end of a run is what most people wait for.
        if self.running.len() >= MOST_RUNNING && event != "exit" {
            log::warn!("{event} is not told: {MOST_RUNNING} notify commands are running");
            return None;
        }
        match self.start(event, record, at, words, rings) {
            Ok((helper, held)) => {
                self.running.push((event, held));
                Some(helper)
            }
            Err(error) => {
                log::warn!("{event} is not told: {error}");
                None
            }
        }
    }

    /// Lets go of the helpers whose command has ended.
    fn look(&mut self) {
        let failed = &mut self.failed;
        self.running.retain_mut(|(event, held)| {
            if is_held(held) {
                return true;
            }
            // What it says it has written at once, and is shorter than a pipe's buffer.
            let mut said = [0; LONGEST_WORD];
            let length = held.read(&mut said).unwrap_or_default();
            if length > 0 && failed.is_none() {
                let how = String::from_utf8_lossy(&said[..length]).into_owned();
                // The shell's way to say that a test was false, and `grep`'s that it found nothing.
                let often = match &*how {
                    "exit status: 1" => {
                        " ('[ ... ] && ...' ends so when the test is false; 'if' does not)"
                    }
                    _ => "",
                };
                *failed = Some(format!(
                    "--notify: the command failed at '{event}': {how}{often}"
                ));
            }
            false
        });
    }

    /// That the command has failed, once.
    pub(crate) fn failure(&mut self) -> Option<String> {
        self.look();
        let is_first = self.failed.is_some() && !std::mem::replace(&mut self.said_failed, true);
        self.failed.clone().filter(|_| is_first)
    }

    fn start(
        &self,
        event: &str,
        record: &Record,
        at: Millis,
        words: &str,
        rings: &[RecordedRing],
    ) -> io::Result<(Pid, PipeReader)> {
        let (held, holder) = io::pipe()?;
        let mut command = Command::new(own_program());
        command
            .arg("__notify")
            .arg(self.limits.text())
            .arg(&self.command)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("DDOLLAR_EVENT", event)
            .env("DDOLLAR_MESSAGE", &*masked(words))
            .env("DDOLLAR_FACT", &*masked(&record.json(at)))
            .envs(details(record, rings))
            .stdin(Stdio::null())
            .stdout(holder)
            .stderr(Stdio::null())
            // Ctrl-C and Ctrl-Z must not reach it.
            .process_group(0);
        let process = signals::undisturbed(|| command.spawn())?;
        let pid = i32::try_from(process.id()).unwrap_or(i32::MAX);
        Ok((Pid::from_raw(pid), held))
    }

    /// Waits until the commands have ended, for a bounded time.
    pub(crate) fn finish(&mut self) {
        let until = Instant::now() + LAST_NEWS;
        for (_, held) in &self.running {
            // A signal, such as SIGCHLD of another helper, ends poll(2) early.
            while is_held(held) && Instant::now() < until {
                let left = until.saturating_duration_since(Instant::now());
                let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
                let mut fds = [PollFd::new(held.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut fds, left);
            }
        }
    }
}

/// The fields of a record that shell scripts want, as variables; `rings` are the tokens of the run.
fn details(record: &Record, rings: &[RecordedRing]) -> Vec<(&'static str, String)> {
    let mut variables = Vec::new();
    let mut add = |name, value: Option<String>| {
        variables.extend(value.map(|value| (name, masked(&value).into_owned())));
    };
    let (provider, token, until) = match record {
        Record::Limit(limit) => (
            Some(&limit.who.provider),
            Some(limit.who.token),
            limit.until,
        ),
        Record::Rotate { who, .. } => (Some(&who.provider), Some(who.token), None),
        Record::Wait {
            provider,
            token,
            until,
            ..
        } => (Some(provider), *token, Some(*until)),
        Record::Release { provider, token } => (Some(provider), *token, None),
        _ => (None, None, None),
    };
    let ring = rings.iter().find(|ring| Some(&ring.name) == provider);
    let name = ring
        .zip(token)
        .and_then(|(ring, token)| ring.names.get(token.checked_sub(1)?));
    add("DDOLLAR_PROVIDER", provider.cloned());
    add("DDOLLAR_TOKEN", token.map(|token| token.to_string()));
    add("DDOLLAR_TOKEN_NAME", name.cloned());
    add("DDOLLAR_UNTIL", until.map(stamp));
    match record {
        Record::Limit(limit) => {
            add("DDOLLAR_CAUSE", Some(limit.cause.word().into()));
            add("DDOLLAR_WINDOW", limit.window.clone());
            add("DDOLLAR_WHY", limit.why.clone());
        }
        Record::End(ending) => add("DDOLLAR_STATUS", Some(Ending::status(ending).to_string())),
        _ => {}
    }
    variables
}

/// Whether a helper still holds the other end.
fn is_held(reader: &PipeReader) -> bool {
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) == Ok(0)
}

/// `__notify`: runs the command with these limits, and ends when it and all that it has
/// started have ended.
pub(crate) fn help(limits: Limits, command: OsString) -> ExitCode {
    os::close_inherited();
    limits.restore();
    let (mut tree, _) = Tree::adopt(None);
    let until = Instant::now() + LONGEST;
    let started = Command::new("sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    let Ok(mut shell) = started else {
        let _ = writeln!(io::stdout(), "there is no sh");
        return ExitCode::FAILURE;
    };
    let group = Pid::from_raw(i32::try_from(shell.id()).unwrap_or(i32::MAX));
    while matches!(shell.try_wait(), Ok(None)) && Instant::now() < until {
        sleep(LOOK);
    }
    let how = match shell.try_wait() {
        Ok(Some(status)) if status.success() => None,
        // `exit status: 127`, `signal: 9 (SIGKILL)`
        Ok(Some(status)) => Some(status.to_string()),
        _ => Some(format!("no end within {}s", LONGEST.as_secs())),
    };
    if let Some(how) = how {
        let how: String = how.chars().take(LONGEST_WORD).collect();
        let _ = io::stdout().write_all(how.as_bytes());
        let _ = io::stdout().flush();
    }
    // Who waits for the helper (`finish`) waits for the command only, not for what it has started.
    let _ = nix::unistd::close(1);
    while !tree.left(None).is_empty() && Instant::now() < until {
        sleep(LOOK);
    }
    // What forks faster than it can be killed is left alone after a while.
    for _ in 0..100 {
        if shell.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = killpg(group, Signal::SIGKILL);
        } else if tree.left(None).is_empty() {
            break;
        }
        tree.signal(None, Signal::SIGKILL);
        sleep(LOOK);
    }
    ExitCode::SUCCESS
}
