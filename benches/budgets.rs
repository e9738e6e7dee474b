//! The budgets of the supervisor, measured beside what people would use without it.
//!
//! Prints one table: the size of the binary; the time of `ddollar supervise -- true` beside
//! `tini -s -- true` and `timeout 60 true`, in turns; resident memory; wake-ups while idle; the
//! time of a rotation. It judges no number and fails for none: it is run by hand and read.
//!
//! ```text
//! cargo bench --bench budgets                     the binary that cargo builds for it
//! DDOLLAR=path/to/ddollar cargo bench --bench budgets     another one, such as the static build
//! ```
//!
//! The provider is ddollar's own, over plain HTTP on loopback, so the memory row is without TLS.
//! Times are from the start of a process to its end as its parent sees them, except for the
//! rotation: from the line that the provider writes as it answers to the first line of the new
//! child, which a shell has to start for.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark prints its table, and ends when it cannot measure"
)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Runs of each command whose time is taken.
const RUNS: usize = 200;
/// Runs before that, for warm caches.
const WARM_UP: usize = 10;
const ROTATIONS: usize = 25;
const IDLE: Duration = Duration::from_secs(10);
/// Longest wait for something that is sure to come.
const PATIENCE: Duration = Duration::from_secs(10);
/// From the last answer to the look at the memory: time for the rest of the work that it causes.
const SETTLE: Duration = Duration::from_millis(500);
const TOKENS: [&str; 2] = ["bench-not-a-real-token-a001", "bench-not-a-real-token-a002"];
const SKIPPED: &str = "skipped: tini is missing";

fn main() {
    let ddollar = std::env::var_os("DDOLLAR").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_ddollar")),
        PathBuf::from,
    );
    let bench = Bench {
        has_tini: Command::new("tini").arg("--version").output().is_ok(),
        ddollar,
    };
    println!("binary: {}", bench.ddollar.display());
    let mut table = vec![["what", "measured", "comparison", "budget", "verdict"].map(String::from)];
    table.push(bench.size());
    let starts = bench.starts();
    table.extend(starts.rows());
    table.push(bench.memory());
    table.push(bench.watchdog());
    table.push(bench.idle());
    table.extend(bench.rotation(starts.tini));
    print(&table);
}

type Row = [String; 5];

struct Bench {
    ddollar: PathBuf,
    has_tini: bool,
}

/// Medians in seconds.
struct Starts {
    ddollar: f64,
    tini: Option<f64>,
    timeout: f64,
    /// ddollar's lowest tenth over tini's: a machine that is busy with other things falsifies
    /// medians first.
    lowest_ratio: Option<f64>,
}

impl Bench {
    fn size(&self) -> Row {
        let bytes = fs::metadata(&self.ddollar).map_or(0, |file| file.len());
        let measured = format!("{:.2} MB", bytes as f64 / 1e6);
        let row = |verdict: &str| {
            [
                "size of the static binary",
                &measured,
                "-",
                "<= 3.60 MB",
                verdict,
            ]
            .map(String::from)
        };
        if is_static(&self.ddollar) {
            row(verdict(bytes <= 3_600_000))
        } else {
            row("skipped: this binary is not static")
        }
    }

    /// In turns, so that whatever else the machine does hits all alike.
    fn starts(&self) -> Starts {
        let provider = Provider::start(&self.ddollar, &one_token());
        let mut times = [const { Vec::new() }; 3];
        for run in 0..WARM_UP + RUNS {
            let taken = [
                Some(time(self.supervise(&provider.url, 1).args(["--", "true"]))),
                self.has_tini
                    .then(|| time(Command::new("tini").args(["-s", "--", "true"]))),
                Some(time(Command::new("timeout").args(["60", "true"]))),
            ];
            if run >= WARM_UP {
                for (all, one) in times.iter_mut().zip(taken) {
                    all.extend(one);
                }
            }
        }
        let [ddollar, tini, timeout] = times;
        let lowest_ratio = self
            .has_tini
            .then(|| quantile(ddollar.clone(), 0.1) / quantile(tini.clone(), 0.1));
        Starts {
            lowest_ratio,
            ddollar: median(ddollar),
            tini: self.has_tini.then(|| median(tini)),
            timeout: median(timeout),
        }
    }

    fn memory(&self) -> Row {
        let provider = Provider::start(&self.ddollar, &one_token());
        let ours = Running::start(self.supervise(&provider.url, 1).args(["--", "sleep", "60"]));
        provider.next_answer();
        thread::sleep(SETTLE);
        let measured = ours.resident();
        let timeout = Running::start(Command::new("timeout").args(["60", "sleep", "60"]));
        let tini = self
            .has_tini
            .then(|| Running::start(Command::new("tini").args(["-s", "--", "sleep", "60"])));
        thread::sleep(SETTLE);
        [
            "resident memory after a probe (plain HTTP, not TLS)".into(),
            format!("{:.2} MB", measured as f64 / 1000.0),
            format!(
                "tini {}, timeout {:.2} MB",
                tini.map_or(SKIPPED.into(), |tini| format!(
                    "{:.2} MB",
                    tini.resident() as f64 / 1000.0
                )),
                timeout.resident() as f64 / 1000.0
            ),
            "<= 4.00 MB".into(),
            verdict(measured <= 4000).into(),
        ]
    }

    /// Most of it are pages of the program file, which it shares with ddollar; its own are the
    /// private ones.
    fn watchdog(&self) -> Row {
        let provider = Provider::start(&self.ddollar, &one_token());
        let ours = Running::start(self.supervise(&provider.url, 1).args(["--", "sleep", "60"]));
        provider.next_answer();
        thread::sleep(SETTLE);
        let watchdog = ours.watchdog();
        let resident = watchdog.map_or(0, |pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status"));
            field(&status.unwrap_or_default(), "VmRSS:")
        });
        let private = watchdog.map_or(0, |pid| {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
            field(&rollup.unwrap_or_default(), "Private_Dirty:")
        });
        [
            "memory of the watchdog, private".into(),
            format!("{:.2} MB", private as f64 / 1000.0),
            format!("resident {:.2} MB", resident as f64 / 1000.0),
            "<= 0.50 MB".into(),
            verdict(watchdog.is_some() && private <= 500).into(),
        ]
    }

    fn idle(&self) -> Row {
        let provider = Provider::start(&self.ddollar, &one_token());
        let ours = Running::start(self.supervise(&provider.url, 1).args([
            "--interval",
            "60s",
            "--",
            "sleep",
            "60",
        ]));
        let sleep = Running::start(Command::new("sleep").arg("60"));
        let tini = self
            .has_tini
            .then(|| Running::start(Command::new("tini").args(["-s", "--", "sleep", "60"])));
        provider.next_answer();
        thread::sleep(SETTLE);
        let all = || {
            [
                Some(ours.wake_ups()),
                Some(sleep.wake_ups()),
                tini.as_ref().map(Running::wake_ups),
            ]
        };
        let before = all();
        thread::sleep(IDLE);
        let after = all();
        let woken: Vec<Option<u64>> = before
            .iter()
            .zip(after)
            .map(|(before, after)| Some(after? - (*before)?))
            .collect();
        let shown =
            |index: usize| woken[index].map_or(SKIPPED.to_owned(), |times| times.to_string());
        [
            format!("wake-ups in {} s idle", IDLE.as_secs()),
            shown(0),
            format!("sleep {}, tini {}", shown(1), shown(2)),
            "0".into(),
            verdict(woken[0] == Some(0)).into(),
        ]
    }

    /// The first token is near its limit soon after the start; the second one never is. Measured
    /// from the answer that shows it, and from the second token's answer, which decides.
    fn rotation(&self, tini: Option<f64>) -> [Row; 2] {
        let mut from_limit = Vec::new();
        let mut from_preflight = Vec::new();
        for _ in 0..ROTATIONS {
            let (limit, preflight) = self.one_rotation();
            from_limit.push(limit);
            from_preflight.push(preflight);
        }
        let row = |what: &str, median: f64| {
            let (ratio, verdict) = tini.map_or((SKIPPED.into(), SKIPPED), |tini| {
                let ratio = median / tini;
                (
                    format!("{ratio:.2} x 'tini -s -- true'"),
                    verdict(ratio <= 6.0),
                )
            });
            [what, &millis(median), &ratio, "<= 6 x", verdict].map(String::from)
        };
        [
            row(
                "rotation: pre-flight answer to the new child",
                median(from_preflight),
            ),
            row(
                "rotation: answer at the limit to the new child",
                median(from_limit),
            ),
        ]
    }

    fn one_rotation(&self) -> (f64, f64) {
        let provider = Provider::start(&self.ddollar, TWO_TOKENS);
        let mut ours = Running::start(
            self.supervise(&provider.url, 2)
                .args(["--interval", "100ms", "--"])
                // The child says which token it has, then waits, and dies of SIGTERM at once.
                .args(["sh", "-c", "echo \"$ANTHROPIC_API_KEY\"; exec sleep 60"])
                .stdout(Stdio::piped()),
        );
        let children = lines(ours.0.stdout.take().expect("the child's lines"));
        let exec = loop {
            let (at, line) = children.recv_timeout(PATIENCE).expect("a rotation");
            if line == TOKENS[1] {
                break at;
            }
        };
        // The last answers for each token before the new child. The second token is also asked
        // once after the start, and the new child's token again after a while.
        let mut limit = None;
        let mut preflight = None;
        while let Ok((at, line)) = provider.answers.try_recv() {
            if at > exec {
                break;
            }
            if line.contains("anthropic#1") {
                limit = Some(at);
            } else {
                preflight = Some(at);
            }
        }
        let since = |at: Option<Instant>| exec.duration_since(at.expect("an answer")).as_secs_f64();
        (since(limit), since(preflight))
    }

    /// `ddollar supervise` with nothing but what it needs, and the first `tokens` tokens.
    fn supervise(&self, url: &str, tokens: usize) -> Command {
        let mut command = Command::new(&self.ddollar);
        command
            .arg("supervise")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("ANTHROPIC_BASE_URL", url)
            .env("ANTHROPIC_API_KEYS", TOKENS[..tokens].join(","));
        command
    }
}

impl Starts {
    fn rows(&self) -> [Row; 2] {
        let what = |than: &str| format!("supervise -- true, than {than}, median of {RUNS}");
        let compared = |name: &str, other: f64| {
            let lowest = self
                .lowest_ratio
                .filter(|_| name == "tini")
                .map_or(String::new(), |ratio| {
                    format!("; lowest tenth {ratio:.2} x")
                });
            format!(
                "{} ({:.2} x {name}{lowest})",
                millis(other),
                self.ddollar / other
            )
        };
        [
            [
                what("tini -s -- true"),
                millis(self.ddollar),
                self.tini
                    .map_or(SKIPPED.into(), |tini| compared("tini", tini)),
                "<= 1.6 x".into(),
                self.tini
                    .map_or(SKIPPED, |tini| verdict(self.ddollar / tini <= 1.6))
                    .into(),
            ],
            [
                what("timeout 60 true"),
                millis(self.ddollar),
                compared("timeout", self.timeout),
                "-".into(),
                "-".into(),
            ],
        ]
    }
}

// ---- processes ----

/// A process that ends with this value, by SIGTERM, so that ddollar can take its child along.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Running {
        let name = command.get_program().to_owned();
        match command.stdin(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(child) => Running(child),
            Err(error) => panic!("cannot start {}: {error}", name.display()),
        }
    }

    /// kB, as Linux counts them.
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()));
        field(&status.expect("a process that runs"), "VmRSS:")
    }

    /// Its child that watches over it.
    fn watchdog(&self) -> Option<u32> {
        let own = self.0.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).ok()?;
        children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .find(|pid: &u32| {
                fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|words| words.split(|byte| *byte == 0).any(|w| w == b"__watch"))
            })
    }

    /// How often its threads have given up the processor to wait, so far.
    fn wake_ups(&self) -> u64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.0.id()));
        threads
            .expect("a process that runs")
            .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok())
            .map(|status| field(&status, "voluntary_ctxt_switches:"))
            .sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            // It may have ended already; it is not reaped before the next line.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}

/// ddollar's built-in provider as a process of its own. It ends when its stdin does.
struct Provider {
    process: Child,
    url: String,
    answers: Receiver<(Instant, String)>,
    scenario: PathBuf,
}

impl Provider {
    fn start(ddollar: &Path, scenario: &str) -> Provider {
        let path =
            std::env::temp_dir().join(format!("ddollar-budgets-{}.json", std::process::id()));
        fs::write(&path, scenario).expect("a scenario file");
        let mut process = Command::new(ddollar)
            .args([OsString::from("__provider"), path.clone().into()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the built-in provider");
        let answers = lines(process.stdout.take().expect("its lines"));
        let (_, first) = answers.recv_timeout(PATIENCE).expect("its address");
        let address: serde_json::Value = serde_json::from_str(&first).expect("JSON");
        let url = address["url"].as_str().expect("its address").to_owned();
        Provider {
            process,
            url,
            answers,
            scenario: path,
        }
    }

    fn next_answer(&self) {
        self.answers.recv_timeout(PATIENCE).expect("a probe");
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.scenario);
    }
}

/// Each line with the time at which it came.
fn lines(from: impl std::io::Read + Send + 'static) -> Receiver<(Instant, String)> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    receiver
}

// ---- scenarios ----

fn one_token() -> String {
    format!(
        r#"{{"tokens": [{{"text": "{}", "provider": "anthropic", "organization": "org-1"}}]}}"#,
        TOKENS[0]
    )
}

const TWO_TOKENS: &str = r#"{
    "tokens": [
        {"text": "bench-not-a-real-token-a001", "provider": "anthropic", "organization": "org-1"},
        {"text": "bench-not-a-real-token-a002", "provider": "anthropic", "organization": "org-2"}
    ],
    "organizations": {
        "org-1": {"buckets": {"requests": {"limit": 100000, "period": "5h"}}},
        "org-2": {"buckets": {"requests": {"limit": 100000, "period": "5h"}}}
    },
    "events": [{"when": {"after": "400ms"},
        "do": {"set": {"organization": "org-1", "bucket": "requests", "used": 0.97}}}]
}"#;

// ---- numbers ----

/// Seconds from the start of a command to its end.
fn time(command: &mut Command) -> f64 {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let start = Instant::now();
    let status = command.status().expect("a command that can be started");
    let taken = start.elapsed().as_secs_f64();
    assert!(status.success(), "{command:?} failed: {status}");
    taken
}

fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * part) as usize;
    values.get(index).copied().unwrap_or(f64::NAN)
}

fn millis(seconds: f64) -> String {
    format!("{:.2} ms", seconds * 1000.0)
}

/// The number of a line such as `VmRSS:  4000 kB`.
fn field(status: &str, name: &str) -> u64 {
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix(name)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

/// Whether the binary needs no interpreter.
fn is_static(binary: &Path) -> bool {
    // A dynamic binary names its loader in its first page.
    fs::read(binary).is_ok_and(|bytes| {
        let start = &bytes[..bytes.len().min(4096)];
        !start.windows(3).any(|window| window == b"/ld")
    })
}

fn verdict(holds: bool) -> &'static str {
    if holds { "holds" } else { "OVER" }
}

fn print(table: &[Row]) {
    let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    for (number, row) in table.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        println!("{}", cells.join("  ").trim_end());
        if number == 0 {
            let dashes: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            println!("{}", dashes.join("  "));
        }
    }
}
