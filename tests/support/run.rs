//! A run of `ddollar supervise`: started, watched line by line, and ended with the test.

use super::env::{Desk, PROGRAM, spawn};
use super::proc::{self, Process};
use super::provider::Provider;
use super::{DEADLINE, eventually};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

/// The command that most tests supervise: says which process it is and the last part of its token,
/// then does what its stdin says, line by line, for at most a minute.
pub(crate) const AGENT: &str = r#"
trap 'echo "TERM $$"; exit 0' TERM
token=${ANTHROPIC_API_KEY-}${OPENAI_API_KEY-}
echo "READY $$ ${token##*-} $*"
while read -r line; do eval "$line"; done
"#;

/// A run that is not started yet.
pub(crate) struct Supervise {
    command: Command,
    desk: Desk,
    before: Option<String>,
    options: Vec<String>,
}

/// A run.
pub(crate) struct Run {
    process: Child,
    pub(crate) pid: Pid,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Stream,
    pub(crate) stderr: Stream,
    pub(crate) desk: Desk,
    ended: bool,
}

/// How a run ended, and all that it wrote.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    /// The status as a shell says it: 128 and the number of the signal for a death by one.
    pub(crate) fn code(&self) -> i32 {
        let signal = self.status.signal().map(|signal| 128 + signal);
        self.status.code().or(signal).unwrap()
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Ended {
        assert_eq!(self.code(), code, "{}", self.stderr);
        self
    }

    /// What stderr says without the details, which are indented: the sentences of the documented output.
    pub(crate) fn sentences(&self) -> String {
        let lines = self.stderr.split_inclusive('\n');
        lines.filter(|line| !line.starts_with("   ")).collect()
    }

    /// Asserts that stderr says these things in this order.
    #[track_caller]
    pub(crate) fn says(self, sentences: &[&str]) -> Ended {
        let mut rest = self.stderr.as_str();
        for sentence in sentences {
            let Some(at) = rest.find(sentence) else {
                panic!(
                    "{sentence:?} is missing, or too early, in:\n{}",
                    self.stderr
                );
            };
            rest = &rest[at + sentence.len()..];
        }
        self
    }

    #[track_caller]
    pub(crate) fn says_once(self, sentence: &str) -> Ended {
        let times = self.stderr.matches(sentence).count();
        assert_eq!(times, 1, "{sentence:?} in:\n{}", self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn never_says(self, sentence: &str) -> Ended {
        assert!(
            !self.stderr.contains(sentence),
            "{sentence:?} in:\n{}",
            self.stderr
        );
        self
    }
}

impl Supervise {
    /// A run without any token or provider.
    pub(crate) fn bare() -> Supervise {
        let desk = Desk::new();
        Supervise {
            command: desk.command(PROGRAM),
            desk,
            before: None,
            options: Vec::new(),
        }
    }

    /// A run with the tokens of `provider`, which is asked five times a second.
    pub(crate) fn with(provider: &Provider) -> Supervise {
        Supervise::behind(provider, &provider.url)
    }

    /// The same, with the provider at another address.
    pub(crate) fn behind(provider: &Provider, address: &str) -> Supervise {
        let mut run = Supervise::bare();
        for (name, value) in provider.variables(address) {
            run.command.env(name, value);
        }
        run.options(&["--interval", "200ms", "--grace", "1m"])
    }

    pub(crate) fn options(mut self, options: &[&str]) -> Supervise {
        self.options
            .extend(options.iter().map(|&option| option.into()));
        self
    }

    /// Runs a copy of the program that is the test's own, `ddollar` in the desk.
    pub(crate) fn copied(mut self) -> Supervise {
        let copy = self.desk.write("ddollar", fs::read(PROGRAM).unwrap());
        let mut command = self.desk.command(copy.to_str().unwrap());
        let set = self.command.get_envs();
        command.envs(set.filter_map(|(name, value)| Some((name, value?))));
        self.command = command;
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Supervise {
        self.command.env(name, value);
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Supervise {
        self.command.env_remove(name);
        self
    }

    /// Starts ddollar with this signal ignored, as `nohup` does with HUP.
    pub(crate) fn ignoring(self, signal: &str) -> Supervise {
        self.after(&format!("trap '' {signal}"))
    }

    /// Starts ddollar in a shell that has done this.
    pub(crate) fn after(mut self, script: &str) -> Supervise {
        self.before = Some(script.to_owned());
        self
    }

    /// The folder that the run works in.
    pub(crate) fn desk(&self) -> &Desk {
        &self.desk
    }

    /// Supervises [`AGENT`].
    pub(crate) fn agent(self) -> Run {
        self.script(AGENT)
    }

    /// Supervises a shell script. It is a file, so that a command line can name it.
    pub(crate) fn script(self, text: &str) -> Run {
        let path = self.desk.write("agent.sh", text);
        self.start(&["sh", path.to_str().unwrap()])
    }

    pub(crate) fn start(self, words: &[&str]) -> Run {
        let options = self.options.clone();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        self.start_as(&[&["supervise"], &options[..], &["--"], words].concat())
    }

    /// Starts ddollar with exactly these arguments.
    pub(crate) fn start_as(mut self, arguments: &[&str]) -> Run {
        let mut command = match self.before {
            None => self.command,
            Some(script) => {
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", &format!("{script}; exec \"$0\" \"$@\""), PROGRAM])
                    .env_clear()
                    .current_dir(self.desk.path());
                let set = self.command.get_envs();
                shell.envs(set.filter_map(|(name, value)| Some((name, value?))));
                shell
            }
        };
        self.options.clear();
        let mut process = spawn(
            command
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        );
        Run {
            pid: Pid::from_raw(process.id().try_into().unwrap()),
            stdin: process.stdin.take(),
            stdout: Stream::of(process.stdout.take().unwrap()),
            stderr: Stream::of(process.stderr.take().unwrap()),
            process,
            desk: self.desk,
            ended: false,
        }
    }
}

impl Run {
    /// Waits for a start of [`AGENT`]: its pid and the number of its token.
    pub(crate) fn wait_ready(&mut self) -> (Pid, usize) {
        let line = self.stdout.wait("READY ");
        let mut words = line.split(' ').skip(1);
        let pid = words.next().unwrap().parse().unwrap();
        let token = words.next().unwrap().parse().unwrap_or(0);
        (Pid::from_raw(pid), token)
    }

    /// Waits for a start of [`AGENT`] with this token.
    #[track_caller]
    pub(crate) fn wait_ready_with(&mut self, token: usize) -> Pid {
        let (pid, used) = self.wait_ready();
        assert_eq!(used, token, "{}", self.stderr.text());
        pid
    }

    /// Waits for a start of [`AGENT`] with this token. A start before it, with a token that will not do
    /// from the beginning, may end before it says so: the first question is put 20 ms after it.
    #[track_caller]
    pub(crate) fn wait_ready_at_last_with(&mut self, token: usize) -> Pid {
        loop {
            let (pid, used) = self.wait_ready();
            if used == token {
                return pid;
            }
        }
    }

    /// Writes a line to the stdin of ddollar, which is its child's.
    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
    }

    /// Writes these bytes to stdin and closes it.
    pub(crate) fn feed(&mut self, bytes: Vec<u8>) {
        let mut stdin = self.stdin.take().unwrap();
        thread::spawn(move || stdin.write_all(&bytes));
    }

    /// Sends a signal to ddollar.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// The child of ddollar; there must be exactly one.
    #[track_caller]
    pub(crate) fn only_child(&self) -> Pid {
        let children = Process::children_of(self.pid);
        assert_eq!(children.len(), 1, "{children:?}");
        children[0].pid
    }

    /// Waits until ddollar has stopped this process.
    pub(crate) fn wait_stopped(&self, pid: Pid) {
        eventually("the child is stopped", || {
            proc::is_stopped(pid).then_some(())
        });
    }

    /// Waits for the end of ddollar.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ended {
        let until = Instant::now() + 2 * DEADLINE;
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < until,
                "ddollar does not end:\n{}",
                self.stderr.text()
            );
            thread::sleep(std::time::Duration::from_millis(2));
        };
        self.ended = true;
        self.stdout.wait_closed();
        self.stderr.wait_closed();
        Ended {
            status,
            stdout: self.stdout.bytes(),
            stderr: self.stderr.text(),
        }
    }

    /// Tells [`AGENT`] to exit with 0, and waits for the end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Ended {
        self.tell("exit 0");
        self.end().expect(0)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let children = Process::children_of(self.pid);
        let _ = self.process.kill();
        let _ = self.process.wait();
        for child in children {
            let _ = killpg(child.pid, Signal::SIGKILL);
        }
        if thread::panicking() {
            let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
            eprintln!("stdout:\n{stdout}\nstderr:\n{stderr}");
        }
    }
}

/// The text without the times at the beginning of ddollar's lines.
pub(crate) fn unstamped(text: &str) -> String {
    let lines = text.split_inclusive('\n').map(|line| {
        let shape = line.bytes().take(20).map(|byte| match byte {
            b'0'..=b'9' => b'0',
            other => other,
        });
        let is_stamped = shape.eq(*b"0000-00-00 00:00:00 ");
        line.get(20..).filter(|_| is_stamped).unwrap_or(line)
    });
    lines.collect()
}

/// What arrives on a pipe, kept as it comes.
pub(crate) struct Stream {
    shared: Arc<(Mutex<Arrived>, Condvar)>,
    /// How far `wait` has read.
    read: usize,
}

#[derive(Default)]
struct Arrived {
    bytes: Vec<u8>,
    closed: bool,
}

impl Stream {
    fn of(mut pipe: impl Read + Send + 'static) -> Stream {
        let shared = Arc::<(Mutex<Arrived>, Condvar)>::default();
        let theirs = shared.clone();
        thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            loop {
                let count = pipe.read(&mut buffer).unwrap_or(0);
                let mut arrived = theirs.0.lock().unwrap();
                arrived.bytes.extend_from_slice(&buffer[..count]);
                arrived.closed = count == 0;
                theirs.1.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        Stream { shared, read: 0 }
    }

    /// Waits for a whole line with `text` in it, after the one that was waited for last.
    #[track_caller]
    pub(crate) fn wait(&mut self, text: &str) -> String {
        let (lock, changed) = &*self.shared;
        let until = Instant::now() + DEADLINE;
        let mut arrived = lock.lock().unwrap();
        loop {
            while let Some(end) = arrived.bytes[self.read..].iter().position(|b| *b == b'\n') {
                let line = &arrived.bytes[self.read..self.read + end];
                let line = String::from_utf8_lossy(line).into_owned();
                self.read += end + 1;
                if line.contains(text) {
                    return line;
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if arrived.closed || left.is_zero() {
                let all = String::from_utf8_lossy(&arrived.bytes).into_owned();
                drop(arrived);
                panic!("no line with {text:?} in:\n{all}");
            }
            arrived = changed.wait_timeout(arrived, left).unwrap().0;
        }
    }

    fn wait_closed(&self) {
        let (lock, changed) = &*self.shared;
        let arrived = lock.lock().unwrap();
        let waited = changed
            .wait_timeout_while(arrived, DEADLINE, |arrived| !arrived.closed)
            .unwrap();
        assert!(
            waited.0.closed,
            "someone still holds the pipe after the end"
        );
    }

    fn bytes(&self) -> Vec<u8> {
        self.shared.0.lock().unwrap().bytes.clone()
    }

    /// All of it so far, without the times at the beginning of ddollar's lines.
    pub(crate) fn text(&self) -> String {
        unstamped(&String::from_utf8_lossy(&self.bytes()))
    }
}
