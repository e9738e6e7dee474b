//! The night's work, beside what people do without ddollar: how much of it gets done, as a share of
//! what an oracle gets done that knows every limit and loses nothing.
//!
//! ```text
//! cargo bench --bench night                       the binary that cargo builds for it
//! DDOLLAR=path/to/ddollar cargo bench --bench night       another one, such as the static build
//! ```
//!
//! It takes about five minutes, in real time: a provider's minute has sixty seconds here as well.
//! There are two nights, which all ways of getting through them live at the same time, each with a
//! provider and three tokens of its own:
//!
//! - **buckets**, as API keys have them: a bucket of LLM tokens that refills all the time, out of
//!   which a request is served when used + requested are within the limit;
//! - **windows**: so many requests a minute, all of them back at its end.
//!
//! The worker is this program itself: an agent whose requests grow from 20,000 to 150,000 LLM tokens
//! and fall back as its context is compacted. It keeps a journal, so that a new start goes on where the
//! last one was; it gives up after five quick retries, as SDKs do. The oracle is given the same
//! requests one after the other, and sends each as soon as any token's bucket has room for it.
//!
//! Ways: the worker alone; `until worker; do sleep 60; done`; the same, each start with the next token;
//! ddollar by restart (`--no-proxy`), as it comes, and with `--proxy`. It judges the rows of ddollar
//! against their budgets; it fails for none.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a benchmark prints its table, and ends when it cannot measure"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const NIGHT: Duration = Duration::from_secs(270);
const TOKENS: usize = 3;
/// LLM tokens that a bucket holds and that come back in a minute; requests in a window of one.
const BUCKET: f64 = 1_500_000.0;
const WINDOW: f64 = 60.0;
const MINUTE: Duration = Duration::from_secs(60);
/// How long the provider takes for an answer, and the worker's pauses before its retries.
const ANSWER: Duration = Duration::from_millis(120);
const RETRIES: [u64; 5] = [100, 200, 400, 800, 1600];
const VARIABLE: &str = "NIGHT_JOURNAL";

/// LLM tokens of the agent's request number `step`: its context grows, and is compacted.
fn size_of(step: usize) -> f64 {
    (20_000 + 10_000 * (step % 14)) as f64
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Buckets,
    Windows,
}

/// One token's limit.
#[derive(Clone)]
struct Limit {
    kind: Kind,
    /// What is left, as of `since`: the last look at a bucket, the start of a window.
    left: f64,
    since: Duration,
}

impl Limit {
    fn new(kind: Kind) -> Limit {
        let left = full(kind);
        Limit {
            kind,
            left,
            since: Duration::ZERO,
        }
    }

    /// Takes `size`, or says in how long there is room for it.
    fn take(&mut self, size: f64, now: Duration) -> Result<(), Duration> {
        let passed = now.saturating_sub(self.since);
        let size = if self.kind == Kind::Windows {
            1.0
        } else {
            size
        };
        match self.kind {
            Kind::Buckets => {
                let back = BUCKET * passed.as_secs_f64() / MINUTE.as_secs_f64();
                self.left = (self.left + back).min(BUCKET);
                self.since = now;
            }
            Kind::Windows if passed >= MINUTE => {
                self.left = WINDOW;
                self.since = now;
            }
            Kind::Windows => {}
        }
        if self.left >= size {
            self.left -= size;
            return Ok(());
        }
        Err(match self.kind {
            Kind::Buckets => MINUTE.mul_f64((size - self.left) / BUCKET),
            Kind::Windows => (self.since + MINUTE).saturating_sub(now),
        })
    }
}

fn full(kind: Kind) -> f64 {
    match kind {
        Kind::Buckets => BUCKET,
        Kind::Windows => WINDOW,
    }
}

/// LLM tokens that the oracle gets through: each request goes out as soon as any token has room.
fn oracle(kind: Kind) -> f64 {
    let mut limits = vec![Limit::new(kind); TOKENS];
    let (mut now, mut work) = (Duration::ZERO, 0.0);
    for step in 0.. {
        let size = size_of(step);
        loop {
            let mut waits = limits.iter_mut().map(|limit| limit.take(size, now));
            let first = waits.try_fold(Duration::MAX, |least, one| match one {
                Ok(()) => Err(()),
                Err(wait) => Ok(least.min(wait)),
            });
            match first {
                Err(()) => break,
                Ok(wait) => now += wait.max(Duration::from_millis(1)),
            }
        }
        now += ANSWER;
        if now > NIGHT {
            return work;
        }
        work += size;
    }
    work
}

/// An Anthropic of three organizations, which counts the work that it has served: each step once.
struct Provider {
    address: String,
    work: Arc<Mutex<Work>>,
}

struct Work {
    limits: Vec<Limit>,
    started: Instant,
    served: Vec<f64>,
    repeated: usize,
    refused: usize,
}

impl Provider {
    fn start(kind: Kind) -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let work = Arc::new(Mutex::new(Work {
            limits: vec![Limit::new(kind); TOKENS],
            started: Instant::now(),
            served: Vec::new(),
            repeated: 0,
            refused: 0,
        }));
        let shared = Arc::clone(&work);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let work = Arc::clone(&shared);
                thread::spawn(move || while answer(&stream, &work).is_some() {});
            }
        });
        Provider { address, work }
    }
}

/// Reads a request and answers it; `None` at the end of the connection.
fn answer(mut stream: &TcpStream, work: &Mutex<Work>) -> Option<()> {
    let request = Message::read(stream)?;
    let token = request
        .field("x-api-key")
        .and_then(|key| key.bytes().last());
    let token = usize::from(token?.checked_sub(b'1')?);
    // A check of ddollar's asks for next to nothing.
    let step: Option<usize> = request
        .body_text("\"user_id\":\"step-")
        .and_then(|it| it.parse().ok());
    let size = step.map_or(10.0, size_of);
    let (head, body) = {
        let mut work = work.lock().expect("a lock");
        let now = work.started.elapsed();
        let limit = work.limits.get_mut(token)?;
        let taken = limit.take(size, now);
        let (kind, left, most) = (limit.kind, limit.left, full(limit.kind));
        let name = if kind == Kind::Windows {
            "requests"
        } else {
            "input-tokens"
        };
        let reset = match kind {
            Kind::Windows => (limit.since + MINUTE).saturating_sub(now),
            Kind::Buckets => MINUTE.mul_f64((most - left) / most),
        };
        let windows = format!(
            "anthropic-organization-id: org-{token}\r\nanthropic-ratelimit-{name}-limit: {most:.0}\r\n\
             anthropic-ratelimit-{name}-remaining: {left:.0}\r\nanthropic-ratelimit-{name}-reset: {}\r\n",
            timestamp(reset)
        );
        match taken {
            Ok(()) => {
                if let Some(step) = step {
                    let at = work.served.len();
                    // Each step counts once: what is done again is no work.
                    match step >= at {
                        true => work.served.push(size),
                        false => work.repeated += 1,
                    }
                }
                let body = r#"{"type":"message","role":"assistant","content":[{"type":"text","text":"done"}],"usage":{"input_tokens":1,"output_tokens":1}}"#;
                (format!("200 OK\r\n{windows}"), body)
            }
            Err(wait) => {
                work.refused += 1;
                let seconds = wait.as_secs_f64().ceil();
                let body = r#"{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your organization's rate limit"}}"#;
                (
                    format!("429 Too Many Requests\r\n{windows}retry-after: {seconds:.0}\r\n"),
                    body,
                )
            }
        }
    };
    if head.starts_with("200") {
        thread::sleep(ANSWER);
    }
    let length = body.len();
    let whole = format!(
        "HTTP/1.1 {head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(whole.as_bytes()).ok()
}

/// RFC 3339, to whole seconds and never too early, as Anthropic writes it.
fn timestamp(from_now: Duration) -> String {
    let now = std::time::SystemTime::now() + from_now + Duration::from_millis(999);
    let since = now
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let (days, rest) = (since / 86400, since % 86400);
    // Days to a date, after Howard Hinnant's `civil_from_days`.
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let mp = (5 * of_year + 2) / 153;
    let (d, m) = (
        of_year - (153 * mp + 2) / 5 + 1,
        if mp < 10 { mp + 3 } else { mp - 9 },
    );
    let y = year + era * 400 + u64::from(m <= 2);
    format!(
        "{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// A request or response with a length.
struct Message {
    first: String,
    fields: Vec<(String, String)>,
    body: String,
}

impl Message {
    fn read(stream: &TcpStream) -> Option<Message> {
        let mut reader = BufReader::new(stream);
        let mut line = || {
            let mut line = String::new();
            let count = reader.read_line(&mut line).ok()?;
            (count > 0).then(|| line.trim_end().to_owned())
        };
        let first = line()?;
        let mut fields = Vec::new();
        while let Some(field) = line().filter(|field| !field.is_empty()) {
            let (name, value) = field.split_once(':')?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut message = Message {
            first,
            fields,
            body: String::new(),
        };
        let length = message
            .field("content-length")
            .map_or(0, |it| it.parse().unwrap_or(0));
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        message.body = String::from_utf8(body).ok()?;
        Some(message)
    }

    fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields
            .find(|(known, _)| known == name)
            .map(|(_, value)| &**value)
    }

    fn body_text(&self, before: &str) -> Option<&str> {
        self.body.split_once(before)?.1.split('"').next()
    }
}

/// The agent: goes on where its journal ends, until a request fails for good.
fn work(journal: &Path) -> std::io::Result<()> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let base = variable("ANTHROPIC_BASE_URL");
    let address = base.trim_start_matches("http://");
    let (address, path) = address.split_once('/').unwrap_or((address, ""));
    let path = if path.is_empty() {
        String::new()
    } else {
        format!("/{path}")
    };
    let mut step = std::fs::read_to_string(journal).map_or(0, |text| text.lines().count());
    let mut journal = std::fs::File::options()
        .append(true)
        .create(true)
        .open(journal)?;
    let mut stream = TcpStream::connect(address)?;
    loop {
        let body = format!(
            "{{\"model\":\"claude-sonnet-4-5\",\"max_tokens\":64,\"metadata\":{{\"user_id\":\"step-{step}\"}},\
             \"messages\":[{{\"role\":\"user\",\"content\":\"{}\"}}]}}",
            "on ".repeat(200)
        );
        let request = format!(
            "POST {path}/v1/messages HTTP/1.1\r\nhost: {address}\r\nx-api-key: {}\r\nanthropic-version: 2023-06-01\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            variable("ANTHROPIC_API_KEY"),
            body.len()
        );
        let mut pauses = RETRIES.iter();
        loop {
            stream.write_all(request.as_bytes())?;
            let response = Message::read(&stream).ok_or(std::io::ErrorKind::UnexpectedEof)?;
            if response.first.contains(" 200 ") {
                break;
            }
            let Some(pause) = pauses.next() else {
                return Err(std::io::Error::other(response.first));
            };
            thread::sleep(Duration::from_millis(*pause));
        }
        writeln!(journal, "{step}")?;
        step += 1;
    }
}

/// One way through a night.
struct Way {
    name: &'static str,
    kind: Kind,
    budget: Option<f64>,
    provider: Provider,
    child: Child,
    folder: tempfile::TempDir,
}

const LOOP: &str = r#"until "$0" "$1"; do sleep 60; done"#;
const LOOP_OVER_TOKENS: &str = r#"
n=1
until ANTHROPIC_API_KEY=$(eval echo "\$KEY_$n") "$0" "$1"; do n=$((n % 3 + 1)); sleep 5; done"#;

fn start(name: &'static str, kind: Kind, budget: Option<f64>, ddollar: &Path) -> Way {
    let provider = Provider::start(kind);
    let folder = tempfile::tempdir().expect("a folder");
    let own = std::env::current_exe().expect("a path to this program");
    let journal = folder.path().join("journal");
    let with_shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(&own).arg(&journal);
        command
    };
    let supervise = |option: Option<&str>| {
        let mut command = Command::new(ddollar);
        command
            .arg("supervise")
            .args(option)
            .arg("--")
            .arg(&own)
            .arg(&journal);
        command
    };
    let mut command = match name {
        "alone" => {
            let mut command = Command::new(&own);
            command.arg(&journal);
            command
        }
        "a shell loop" => with_shell(LOOP),
        "a loop over the tokens" => with_shell(LOOP_OVER_TOKENS),
        "supervise --no-proxy" => supervise(Some("--no-proxy")),
        "supervise" => supervise(None),
        _ => supervise(Some("--proxy")),
    };
    let log = std::fs::File::create(folder.path().join("log")).expect("a log");
    let keys = [1, 2, 3].map(|number| format!("sk-ant-made-up-for-a-night-{number}"));
    command
        .process_group(0)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder.path())
        .env("ANTHROPIC_BASE_URL", format!("http://{}", provider.address))
        .env(VARIABLE, "yes")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    for (number, key) in (1..).zip(&keys) {
        match (name.starts_with("supervise"), number) {
            (true, 2..) => command.env(format!("ANTHROPIC_API_KEY_{number}"), key),
            _ => command.env(format!("KEY_{number}"), key),
        };
    }
    command.env("ANTHROPIC_API_KEY", &keys[0]);
    let child = command.spawn().expect("a start");
    Way {
        name,
        kind,
        budget,
        provider,
        child,
        folder,
    }
}

impl Way {
    /// A row of the table, and what ddollar has said.
    fn end(mut self) -> (String, String) {
        let ended = self.child.try_wait().ok().flatten();
        let how = ended.map_or("at work", |_| "had ended");
        // ddollar's command is in a group of its own, and is ended by ddollar.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["--", &group]).status();
        let _ = self.child.wait();
        let work = self.provider.work.lock().expect("a lock");
        let share = work.served.iter().sum::<f64>() / oracle(self.kind);
        let verdict = match self.budget {
            Some(budget) if share >= budget => format!(">= {budget:.2}  ok"),
            Some(budget) => format!(">= {budget:.2}  MISSED"),
            None => String::new(),
        };
        let row = format!(
            "{:<24}{share:>6.3}{:>8}{:>10}{:>9}  {how:<11}{verdict}",
            self.name,
            work.served.len(),
            work.refused,
            work.repeated,
        );
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        (row, log)
    }
}

fn main() {
    let argument = std::env::args_os().nth(1).map(PathBuf::from);
    if let (Some(journal), Some(_)) = (&argument, std::env::var_os(VARIABLE)) {
        if let Err(why) = work(journal) {
            let _ = writeln!(std::io::stderr(), "worker: {why}");
            std::process::exit(1);
        }
        return;
    }
    let ddollar = std::env::var_os("DDOLLAR").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_ddollar")),
        PathBuf::from,
    );
    println!("binary: {}", ddollar.display());
    println!("{TOKENS} tokens, {} s of real time", NIGHT.as_secs());
    let ways = |kind, restart, proxy| {
        [
            ("alone", None),
            ("a shell loop", None),
            ("a loop over the tokens", None),
            ("supervise --no-proxy", Some(restart)),
            ("supervise", Some(proxy)),
            ("supervise --proxy", Some(proxy)),
        ]
        .map(|(name, budget)| start(name, kind, budget, &ddollar))
    };
    let nights = [
        ("a night of buckets", ways(Kind::Buckets, 0.60, 0.97)),
        ("a night of windows", ways(Kind::Windows, 0.95, 0.99)),
    ];
    thread::sleep(NIGHT);
    let logs = std::env::var_os("NIGHT_LOGS").map(PathBuf::from);
    for (title, ways) in nights {
        println!("\n{title:<24} share   steps   refused repeated  at the end  budget");
        for way in ways {
            let name = format!("{title}, {}", way.name).replace(' ', "-");
            let (row, log) = way.end();
            println!("{row}");
            if let Some(folder) = &logs {
                std::fs::write(folder.join(name), log).expect("a log");
            }
        }
    }
}
