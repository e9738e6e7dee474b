//! A terminal: a real pty with bash, or with any other program as its session leader, and as much
//! of expect as the suites need. Whoever waits also reads, so nothing blocks on a full terminal.

use super::env::{Desk, PROGRAM, opening, spawn};
use super::family::Family;
use super::proc;
use super::provider::Provider;
use super::{DEADLINE, Limit, eventually};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{ControlFlags, InputFlags, LocalFlags, OutputFlags, tcgetattr};
use nix::unistd::{Pid, tcgetpgrp};
use pty_process::Size;
use pty_process::blocking::{Pts, Pty, open};
use serde_json::json;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The folder with the programs that the suites supervise; it is on their PATH.
pub(crate) const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

pub(crate) const CTRL_C: &str = "\x03";
pub(crate) const CTRL_D: &str = "\x04";
pub(crate) const CTRL_Z: &str = "\x1a";
pub(crate) const CTRL_BACKSLASH: &str = "\x1c";

/// What is to run in a terminal, or without one.
pub(crate) struct Setup {
    pub(crate) desk: Desk,
    family: Family,
    variables: Vec<(String, String)>,
    options: String,
}

/// A terminal and what runs in it.
pub(crate) struct Screen {
    // The terminal closes last.
    pub(crate) process: Child,
    pub(crate) family: Family,
    pub(crate) desk: Desk,
    pty: Option<(Pty, Pts)>,
    bytes: Vec<u8>,
    read: usize,
    /// How often [`Screen::ask`] was called.
    asked: u32,
}

/// A provider that all cases share which do not care about limits.
pub(crate) fn any_provider() -> MutexGuard<'static, Provider> {
    static SHARED: OnceLock<Mutex<Provider>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        let bucket = json!({"limit": 1_000_000, "resets": "1h", "used": 0.1});
        let all = json!({"org-1": {"id": "id-of-org-1", "buckets": {"requests": bucket}}});
        Mutex::new(Provider::start("anthropic", &["org-1"], all, json!([])))
    });
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Setup {
    pub(crate) fn new() -> Setup {
        Setup::with(&any_provider()).options("--grace 1m")
    }

    /// With the tokens of this provider, asked five times a second.
    pub(crate) fn with(provider: &Provider) -> Setup {
        let desk = Desk::new();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut variables = provider.variables(&provider.url);
        variables.extend([
            ("PATH".into(), format!("{FIXTURES}:{path}")),
            ("TERM".into(), "xterm-256color".into()),
            // The status of the last command, in a form that no command line has.
            ("PS1".into(), "<<$?>> ".into()),
            (
                "INPUTRC".into(),
                desk.write("inputrc", "set enable-bracketed-paste off\n")
                    .display()
                    .to_string(),
            ),
            ("LOG".into(), desk.join("log").display().to_string()),
            ("DDOLLAR".into(), PROGRAM.into()),
        ]);
        Setup {
            desk,
            family: Family::new(),
            variables,
            options: String::new(),
        }
        .options("--interval 200ms")
    }

    /// The folder that it works in.
    pub(crate) fn desk(&self) -> &Desk {
        &self.desk
    }

    /// More options of `supervise`; the last one counts.
    pub(crate) fn options(mut self, options: &str) -> Setup {
        self.options = format!("{} {options}", self.options);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Setup {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// A command with the test's environment. `$D` in it is `ddollar supervise OPTIONS --`.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = self.desk.command(program);
        let (name, value) = self.family.mark();
        command
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env(name, value)
            .env("D", format!("{PROGRAM} supervise{} --", self.options));
        command
    }

    /// An interactive bash, at its first prompt.
    pub(crate) fn bash(self) -> Screen {
        let mut command = self.command("bash");
        command.args(["--norc", "--noprofile", "-i"]);
        let mut screen = self.screen(command);
        screen.prompt();
        screen
    }

    /// The supervised words as session leader of a terminal, without a shell.
    pub(crate) fn leader(self, words: &[&str]) -> Screen {
        let command = self.supervise(words);
        self.screen(command)
    }

    /// `ddollar supervise OPTIONS -- words`.
    pub(crate) fn supervise(&self, words: &[&str]) -> Command {
        let mut command = self.command(PROGRAM);
        command
            .arg("supervise")
            .args(self.options.split_whitespace())
            .arg("--")
            .args(words);
        command
    }

    /// This command as session leader of a new terminal.
    pub(crate) fn screen(self, command: Command) -> Screen {
        let (pty, pts, process) = opening(|| {
            let (pty, pts) = open().unwrap();
            pty.resize(Size::new(24, 80)).unwrap();
            let process = pty_process::blocking::Command::from(command)
                .spawn_borrowed(&pts)
                .unwrap();
            (pty, pts, process)
        });
        self.family.is_waited_for(pid_of(&process));
        Screen {
            process,
            family: self.family,
            desk: self.desk,
            pty: Some((pty, pts)),
            bytes: Vec::new(),
            read: 0,
            asked: 0,
        }
    }

    /// The supervised words without a terminal: in a session of their own, with pipes.
    pub(crate) fn headless(self, words: &[&str]) -> Headless {
        let command = self.supervise(words);
        self.headless_command(command)
    }

    pub(crate) fn headless_command(self, mut command: Command) -> Headless {
        // setsid(1) execs when it is no group leader, so the pid stays.
        let mut detached = Command::new("setsid");
        detached
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear();
        let set = command.get_envs();
        detached.envs(set.filter_map(|(name, value)| Some((name, value?))));
        detached.current_dir(self.desk.path());
        command = detached;
        let out = std::fs::File::create(self.desk.join("out")).unwrap();
        let err = std::fs::File::create(self.desk.join("err")).unwrap();
        let process = spawn(command.stdin(Stdio::null()).stdout(out).stderr(err));
        self.family.is_waited_for(pid_of(&process));
        Headless {
            process,
            family: self.family,
            desk: self.desk,
        }
    }
}

impl Screen {
    /// Types these characters.
    pub(crate) fn keys(&mut self, keys: &str) {
        self.pump(Duration::ZERO);
        let (pty, _) = self.pty.as_ref().unwrap();
        let mut pty = pty;
        pty.write_all(keys.as_bytes()).unwrap();
    }

    /// Types a line.
    pub(crate) fn line(&mut self, line: &str) {
        self.keys(&format!("{line}\r"));
    }

    /// Types a command line, and gives what appears until it is done. Unlike [`Screen::run`] it does
    /// not matter how many prompts have appeared before.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.asked += 1;
        self.line(&format!("{line} echo s''ync{}", self.asked));
        let text = self.wait(&format!("sync{}\r\n", self.asked));
        self.prompt();
        text
    }

    /// Ctrl-Z, until the shell has a stopped job. What the shell says of itself is not waited for: the
    /// kernel sends the signal first, and then drops what is on its way to and from the terminal.
    #[track_caller]
    pub(crate) fn suspend(&mut self) {
        self.keys(CTRL_Z);
        self.wait_shell();
        let jobs = self.ask("jobs;");
        assert!(jobs.contains("Stopped"), "{jobs}");
    }

    /// Ctrl-C or Ctrl-\ for a job that is its end: the status that the shell has of it. Asked for, as
    /// in [`Screen::suspend`].
    #[track_caller]
    pub(crate) fn interrupt(&mut self, key: &str) -> i32 {
        self.keys(key);
        self.wait_shell();
        let text = self.ask("echo status''=$?.;");
        let status = text
            .rsplit_once("status=")
            .and_then(|(_, rest)| rest.split_once('.'));
        let status = status.and_then(|(number, _)| number.parse().ok());
        status.unwrap_or_else(|| panic!("no status: {text}"))
    }

    /// Waits until the shell has the terminal again.
    #[track_caller]
    pub(crate) fn wait_shell(&mut self) {
        let shell = self.pid();
        self.eventually("the shell in the foreground", |screen| {
            (screen.foreground() == shell).then_some(())
        });
    }

    /// Waits until the shell knows that its job in the background has stopped. It hears of it when
    /// all threads have, and that is later than /proc shows it of the first.
    #[track_caller]
    pub(crate) fn wait_job_stopped(&mut self) {
        self.eventually("a stopped job", |screen| {
            screen.ask("jobs;").contains("Stopped").then_some(())
        });
    }

    /// Continues the last job. What is typed from here on is for that job: the shell takes single
    /// keys, and what it has not read yet would reach the job without its line ends.
    #[track_caller]
    pub(crate) fn fg(&mut self) {
        self.line("fg");
        self.wait_job_in_front();
    }

    /// Waits until a job has the terminal, and the modes are no longer the shell's.
    #[track_caller]
    pub(crate) fn wait_job_in_front(&mut self) {
        let shell = self.pid();
        self.eventually("the job in the foreground", |screen| {
            (screen.foreground() != shell && screen.is_cooked()).then_some(())
        });
    }

    /// Types a command line and returns its status at the next prompt.
    #[track_caller]
    pub(crate) fn run(&mut self, line: &str) -> i32 {
        self.line(line);
        self.prompt()
    }

    /// Waits for the shell's prompt: the status that it shows.
    #[track_caller]
    pub(crate) fn prompt(&mut self) -> i32 {
        self.wait("<<");
        let text = self.wait(">> ");
        let status = text.trim_end_matches(">> ").to_owned();
        status
            .parse()
            .unwrap_or_else(|_| panic!("no status: {status:?} in\n{}", self.text()))
    }

    /// Waits for this text after the one that was waited for last: what came before it, and itself.
    #[track_caller]
    pub(crate) fn wait(&mut self, text: &str) -> String {
        match self.comes(text, DEADLINE) {
            Some(found) => found,
            None => panic!("no {text:?} in:\n{}\n{}", self.text(), self.processes()),
        }
    }

    /// The same, if it comes in this time.
    pub(crate) fn comes(&mut self, text: &str, within: Duration) -> Option<String> {
        let until = Instant::now() + within;
        loop {
            let new = &self.bytes[self.read..];
            if let Some(place) = new
                .windows(text.len())
                .position(|part| part == text.as_bytes())
            {
                let found = String::from_utf8_lossy(&new[..place + text.len()]).into_owned();
                self.read += place + text.len();
                return Some(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.pump(left.min(Duration::from_millis(100))) {
                return None;
            }
        }
    }

    /// Reads what there is, waiting this long for the first of it. Whether the terminal is open.
    fn pump(&mut self, patience: Duration) -> bool {
        let Some((pty, _)) = &self.pty else {
            return false;
        };
        let mut patience = u16::try_from(patience.as_millis()).unwrap();
        loop {
            let mut sources = [PollFd::new(pty.as_fd(), PollFlags::POLLIN)];
            match poll(&mut sources, patience) {
                Ok(0) | Err(_) => return true,
                Ok(_) => {}
            }
            let mut buffer = [0; 4096];
            let mut source = pty;
            match source.read(&mut buffer) {
                Ok(0) | Err(_) => return false,
                Ok(count) => self.bytes.extend_from_slice(&buffer[..count]),
            }
            patience = 0;
        }
    }

    /// Looks until there is something to see, and reads meanwhile.
    #[track_caller]
    pub(crate) fn eventually<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut Screen) -> Option<T>,
    ) -> T {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(seen) = look(self) {
                return seen;
            }
            assert!(
                Instant::now() < until,
                "did not happen: {what}\n{}\n{}",
                self.text(),
                self.processes()
            );
            self.pump(Duration::from_millis(5));
        }
    }

    /// Everything that appeared so far.
    pub(crate) fn text(&mut self) -> String {
        self.pump(Duration::ZERO);
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Everything after what was waited for last.
    pub(crate) fn rest(&mut self) -> String {
        self.pump(Duration::ZERO);
        String::from_utf8_lossy(&self.bytes[self.read..]).into_owned()
    }

    pub(crate) fn processes(&self) -> String {
        let lines = self.family.living();
        let lines: Vec<String> = lines.iter().map(super::family::described).collect();
        lines.join("\n")
    }

    /// The modes of the terminal, as `stty -g` has them.
    pub(crate) fn modes(&self) -> Modes {
        let modes = tcgetattr(&self.pty.as_ref().unwrap().1).unwrap();
        Modes {
            input: modes.input_flags,
            output: modes.output_flags,
            control: modes.control_flags,
            local: modes.local_flags,
            characters: modes
                .control_chars
                .into_iter()
                .take(KERNEL_CHARACTERS)
                .collect(),
        }
    }

    /// Whether the terminal takes whole lines.
    pub(crate) fn is_cooked(&self) -> bool {
        self.modes()
            .local
            .contains(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    /// The modes that the last program which is done with the terminal has found: what the shell
    /// says with `stty -g`, or what is there when there is no shell.
    pub(crate) fn usual(&self) -> String {
        std::fs::read_to_string(self.desk.join("modes"))
            .unwrap_or_else(|_| format!("{:?}", self.modes()))
    }

    /// Waits until nothing lives but this process, as [`Family::gone_after`].
    #[track_caller]
    pub(crate) fn only_left_after(&mut self, root: Pid, grace: Duration) {
        let mut limit = Limit::after(grace);
        loop {
            let mut left = self.family.living();
            left.retain(|member| member.pid != root);
            self.family.reap();
            if left.is_empty() {
                return;
            }
            if limit.is_over() {
                let lines: Vec<String> = left.iter().map(super::family::described).collect();
                panic!(
                    "left behind after {grace:?}:\n{}\n{}",
                    lines.join("\n"),
                    self.text()
                );
            }
            self.pump(limit.pause());
        }
    }

    /// `stty -g`, by the shell. Through a file: others may be writing to the terminal. The file says
    /// when it is done, because the shell may first run what was typed for somebody who is gone.
    #[track_caller]
    pub(crate) fn stty(&mut self) -> String {
        let path = self.desk.join("modes");
        let _ = std::fs::remove_file(&path);
        self.line("stty -g >modes.new && mv modes.new modes");
        let modes = self.eventually("the modes", |_| std::fs::read_to_string(&path).ok());
        self.prompt();
        modes.trim().to_owned()
    }

    /// The group in the foreground.
    pub(crate) fn foreground(&self) -> Pid {
        tcgetpgrp(&self.pty.as_ref().unwrap().0).unwrap()
    }

    pub(crate) fn resize(&mut self, rows: u16, columns: u16) {
        self.pty
            .as_ref()
            .unwrap()
            .0
            .resize(Size::new(rows, columns))
            .unwrap();
    }

    /// Closes the terminal.
    pub(crate) fn hang_up(&mut self) {
        self.pump(Duration::ZERO);
        self.pty = None;
    }

    /// The pid of what was started in the terminal.
    pub(crate) fn pid(&self) -> Pid {
        pid_of(&self.process)
    }

    /// The one supervisor.
    #[track_caller]
    pub(crate) fn supervisor(&mut self) -> Pid {
        self.eventually("a supervisor", |screen| {
            screen.family.supervisors().first().copied()
        })
    }

    /// A number that the text shows after this word: `READY 123`.
    #[track_caller]
    pub(crate) fn number_after(&mut self, word: &str) -> i32 {
        self.wait(word);
        let until = Instant::now() + DEADLINE;
        loop {
            let rest = self.rest();
            let rest = rest.trim_start();
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            if digits.len() < rest.len() && !digits.is_empty() {
                return digits.parse().unwrap();
            }
            assert!(
                Instant::now() < until,
                "no number after {word:?}: {}",
                self.text()
            );
            self.pump(Duration::from_millis(5));
        }
    }

    #[track_caller]
    pub(crate) fn pid_after(&mut self, word: &str) -> Pid {
        Pid::from_raw(self.number_after(word))
    }

    #[track_caller]
    pub(crate) fn wait_state(&mut self, pid: Pid, wanted: &str) {
        self.eventually(&format!("{pid} in one of {wanted}"), |_| {
            let state = proc::Process::of(pid).map_or('-', |process| process.state);
            wanted.contains(state).then_some(())
        });
    }

    /// Waits for the end of what was started in the terminal: its status as a shell has it.
    #[track_caller]
    pub(crate) fn end(&mut self) -> i32 {
        let status = self.eventually("its end", |screen| screen.process.try_wait().unwrap());
        self.pump(Duration::ZERO);
        status
            .code()
            .or(status.signal().map(|signal| 128 + signal))
            .unwrap()
    }

    /// Ends the shell, and holds that nothing is left.
    #[track_caller]
    pub(crate) fn leave(mut self) {
        self.line("exit 0");
        assert_eq!(self.end(), 0, "{}", self.text());
        self.family.gone();
    }

    /// What the fixture has written to its log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.desk.join("log")).unwrap_or_default()
    }

    /// Waits for a line of the log that begins like this, `times` times: all of its lines.
    #[track_caller]
    pub(crate) fn wait_log(&mut self, start: &str, times: usize) -> Vec<String> {
        self.eventually(&format!("{start} in the log"), |screen| {
            let lines = lines_with(&screen.log(), start);
            (lines.len() >= times).then_some(lines)
        })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.family.end();
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("screen:\n{}\nlog:\n{log}", self.text());
        }
    }
}

/// What the kernel sets of a terminal's modes: the C library's structure has room for more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Modes {
    input: InputFlags,
    output: OutputFlags,
    control: ControlFlags,
    local: LocalFlags,
    characters: Vec<u8>,
}

/// NCCS of Linux (asm-generic/termbits.h).
const KERNEL_CHARACTERS: usize = 19;

/// The lines of a text that begin like this.
pub(crate) fn lines_with(text: &str, start: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.starts_with(start));
    lines.map(str::to_owned).collect()
}

/// A run without a terminal.
pub(crate) struct Headless {
    pub(crate) process: Child,
    pub(crate) family: Family,
    pub(crate) desk: Desk,
}

impl Headless {
    pub(crate) fn pid(&self) -> Pid {
        pid_of(&self.process)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn out(&self) -> String {
        self.read("out")
    }

    pub(crate) fn err(&self) -> String {
        self.read("err")
    }
    fn read(&self, name: &str) -> String {
        let bytes = std::fs::read(self.desk.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for a line of stdout that begins like this, `times` times.
    #[track_caller]
    pub(crate) fn wait_out(&self, start: &str, times: usize) -> Vec<String> {
        eventually(&format!("{start} on stdout"), || {
            let lines = lines_with(&self.out(), start);
            (lines.len() >= times).then_some(lines)
        })
    }

    #[track_caller]
    pub(crate) fn wait_err(&self, text: &str) {
        eventually(&format!("{text} on stderr"), || {
            self.err().contains(text).then_some(())
        });
    }

    /// The pid that stdout shows after this word.
    #[track_caller]
    pub(crate) fn pid_after(&self, word: &str) -> Pid {
        let line = self.wait_out(word, 1).remove(0);
        Pid::from_raw(line.split_whitespace().nth(1).unwrap().parse().unwrap())
    }

    /// Waits for the end: the status as a shell has it.
    #[track_caller]
    pub(crate) fn end(&mut self) -> i32 {
        let until = Instant::now() + 2 * DEADLINE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status
                    .code()
                    .or(status.signal().map(|signal| 128 + signal))
                    .unwrap();
            }
            assert!(
                Instant::now() < until,
                "does not end:\n{}\n{}",
                self.out(),
                self.err()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Headless {
    fn drop(&mut self) {
        self.family.end();
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("stdout:\n{}\nstderr:\n{}", self.out(), self.err());
        }
    }
}

fn pid_of(process: &Child) -> Pid {
    Pid::from_raw(process.id().try_into().unwrap())
}

/// Says that this machine cannot run a case, and how many it could not run so far. The test passes.
pub(crate) fn skipped(case: &str, why: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static SKIPPED: AtomicU32 = AtomicU32::new(0);
    let number = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    // Not by a macro: this is to be seen also when the test passes.
    let _ = writeln!(
        std::io::stderr(),
        "skipped: {case} {why} ({number} skipped so far)"
    );
}
