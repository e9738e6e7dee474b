//! The proxy beside nothing and beside nginx, in one run: an upstream on loopback, asked directly,
//! through `nginx` with `proxy_pass` where it is installed, and through `ddollar proxy`.
//!
//! ```text
//! cargo bench --bench proxy                       the binary that cargo builds for it
//! DDOLLAR=path/to/ddollar cargo bench --bench proxy       another one, such as the static build
//! ```
//!
//! Prints one table, a second one for large bodies, and judges each row against its budget; it fails
//! for none. Client, upstream and what is measured share the machine, so only numbers of the same run
//! compare. All take turns, so that a busy moment of the machine meets all of them.
//!
//! nginx is there twice: as it comes, where a body above 16 kB goes over a file, and with a buffer that
//! keeps it in memory, as ddollar does.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark prints its table, and ends when it cannot measure"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Rounds, and requests of each kind in a round.
const ROUNDS: usize = 20;
const REQUESTS: usize = 300;
/// Connections at once, and for how long in each round.
const PARALLEL: usize = 16;
const RUSH: Duration = Duration::from_millis(400);
/// Requests over which the memory must stay flat.
const MANY: u64 = 100_000;
const STREAMS: usize = 500;
/// Events of each open stream, and from one to the next.
const EVENTS: usize = 5;
const BETWEEN: Duration = Duration::from_millis(400);
/// Streams whose first byte is timed.
const FIRST_BYTES: usize = 200;
const BODY: usize = 2000;
/// What agents send, and how often of each in a round.
const LARGE_BODIES: [usize; 3] = [200_000, 400_000, 2_000_000];
const LARGE_REQUESTS: usize = 20;
const TOKEN: &str = "bench-not-a-real-token";
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    let upstream = Upstream::start();
    let ddollar = Ddollar::start(&upstream.address);
    let nginx = Nginx::start(&upstream.address, "client_body_buffer_size 16k;");
    let memory = "client_body_buffer_size 4m;";
    let nginx_in_memory = Nginx::start(&upstream.address, memory);
    let mut ways = vec![Way::new("direct", &upstream.address, "", "none")];
    for (name, nginx) in [("nginx", &nginx), ("nginx 4m", &nginx_in_memory)] {
        let nginx = nginx.as_ref();
        ways.extend(nginx.map(|nginx| Way::new(name, &nginx.address, "", "none")));
    }
    ways.push(Way::new(
        "ddollar",
        &ddollar.address,
        "/anthropic",
        &ddollar.secret,
    ));

    for _ in 0..ROUNDS {
        for way in &mut ways {
            way.one_by_one();
        }
    }
    for _ in 0..ROUNDS {
        for way in &mut ways {
            way.rush();
        }
    }
    for way in &mut ways {
        way.first_bytes(&upstream);
    }
    for _ in 0..ROUNDS {
        for size in 0..LARGE_BODIES.len() {
            for way in &mut ways {
                way.large(size);
            }
        }
    }
    println!(
        "{:10} {:>10} {:>10} {:>12} {:>14}",
        "", "p50 µs", "p99 µs", "requests/s", "first byte µs"
    );
    let numbers: Vec<Numbers> = ways.iter_mut().map(Way::numbers).collect();
    for (
        way,
        Numbers {
            p50,
            p99,
            rate,
            first_byte,
        },
    ) in ways.iter().zip(&numbers)
    {
        let name = way.name;
        println!("{name:10} {p50:>10.0} {p99:>10.0} {rate:>12.0} {first_byte:>14.0}");
    }

    println!();
    print!("{:10}", "p50 µs of");
    for size in LARGE_BODIES {
        print!(" {:>11} kB", size / 1000);
    }
    println!();
    let large: Vec<[f64; LARGE_BODIES.len()]> = ways.iter_mut().map(Way::large_p50).collect();
    for (way, row) in ways.iter().zip(&large) {
        print!("{:10}", way.name);
        for p50 in row {
            print!(" {p50:>14.0}");
        }
        println!();
    }

    let [direct, ours] = [0, ways.len() - 1].map(|n| &numbers[n]);
    println!();
    verdict("added p50, ms", (ours.p50 - direct.p50) / 1000.0, 0.1, true);
    verdict(
        "added p50 / direct p50",
        (ours.p50 - direct.p50) / direct.p50,
        0.8,
        true,
    );
    verdict(
        "added p99 / direct p50",
        (ours.p99 - direct.p99) / direct.p50,
        4.0,
        true,
    );
    verdict("rate / direct rate", ours.rate / direct.rate, 0.5, false);
    match nginx.is_some() && nginx_in_memory.is_some() {
        true => {
            let nginx = &numbers[1];
            verdict("p50 / nginx p50", ours.p50 / nginx.p50, 1.0, true);
            verdict("p99 / nginx p99", ours.p99 / nginx.p99, 1.0, true);
            verdict("rate / nginx rate", ours.rate / nginx.rate, 1.0, false);
            for (size, bytes) in LARGE_BODIES.iter().enumerate() {
                let added = |way: usize| (large[way][size] - large[0][size]) / 1000.0;
                let what = format!("added with {} kB, ms (nginx 4m)", bytes / 1000);
                verdict(&what, added(ways.len() - 1), added(2), true);
            }
        }
        false => println!("beside nginx: skipped, nginx is missing"),
    }
    verdict(
        "first byte later, ms",
        (ours.first_byte - direct.first_byte) / 1000.0,
        1.0,
        true,
    );

    let way = ways.last_mut().expect("ours");
    way.requests(MANY / 10);
    let early = ddollar.memory("VmRSS");
    way.requests(MANY - MANY / 10);
    let late = ddollar.memory("VmRSS");
    println!(
        "memory after {} requests: {early} kB, after {MANY}: {late} kB",
        MANY / 10
    );
    verdict("memory growth, kB", late as f64 - early as f64, 512.0, true);
    let (stalled, memory) = streams(way, &ddollar);
    verdict("open streams stalled", stalled as f64, 0.0, true);
    verdict(
        "memory with 500 open streams, MB",
        memory as f64 / 1000.0,
        40.0,
        true,
    );
}

fn verdict(what: &str, measured: f64, budget: f64, at_most: bool) {
    let holds = if at_most {
        measured <= budget
    } else {
        measured >= budget
    };
    let sign = if at_most { "<=" } else { ">=" };
    let word = if holds { "ok" } else { "MISSED" };
    println!("{what:36} {measured:8.2} {sign} {budget:6.2}  {word}");
}

/// What was measured of one way, in µs and requests per second.
struct Numbers {
    p50: f64,
    p99: f64,
    rate: f64,
    first_byte: f64,
}

/// A way to the upstream.
struct Way {
    name: &'static str,
    address: String,
    request: String,
    stream: String,
    /// A request for each of [`LARGE_BODIES`].
    large: Vec<String>,
    wire: BufReader<TcpStream>,
    /// In µs.
    latencies: Vec<f64>,
    large_latencies: [Vec<f64>; LARGE_BODIES.len()],
    first_bytes: Vec<f64>,
    rushed: u64,
    rushing: Duration,
}

impl Way {
    fn new(name: &'static str, address: &str, prefix: &str, secret: &str) -> Way {
        let request = |path: &str, size: usize| {
            let body = "x".repeat(size);
            format!(
                "POST {prefix}{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nx-api-key: {secret}\r\n\
                 anthropic-version: 2023-06-01\r\ncontent-type: application/json\r\n\
                 user-agent: bench\r\nContent-Length: {size}\r\n\r\n{body}"
            )
        };
        Way {
            name,
            address: address.to_owned(),
            request: request("/v1/messages", BODY),
            stream: request("/stream", BODY),
            large: LARGE_BODIES
                .map(|size| request("/v1/messages", size))
                .into(),
            wire: connect(address),
            latencies: Vec::new(),
            large_latencies: Default::default(),
            first_bytes: Vec::new(),
            rushed: 0,
            rushing: Duration::ZERO,
        }
    }

    fn numbers(&mut self) -> Numbers {
        Numbers {
            p50: self.latency(0.5),
            p99: self.latency(0.99),
            rate: self.rate(),
            first_byte: self.first_byte(),
        }
    }

    fn latency(&mut self, part: f64) -> f64 {
        quantile(&mut self.latencies, part)
    }

    fn first_byte(&mut self) -> f64 {
        quantile(&mut self.first_bytes, 0.5)
    }

    fn rate(&self) -> f64 {
        self.rushed as f64 / self.rushing.as_secs_f64()
    }

    fn one_by_one(&mut self) {
        for _ in 0..REQUESTS {
            let began = Instant::now();
            exchange(&mut self.wire, &self.request);
            self.latencies.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }

    /// Requests with a body of the size at this place.
    fn large(&mut self, size: usize) {
        for _ in 0..LARGE_REQUESTS {
            let began = Instant::now();
            exchange(&mut self.wire, &self.large[size]);
            self.large_latencies[size].push(began.elapsed().as_secs_f64() * 1e6);
        }
    }

    fn large_p50(&mut self) -> [f64; LARGE_BODIES.len()] {
        let mut sizes = self.large_latencies.iter_mut();
        [(); LARGE_BODIES.len()].map(|()| sizes.next().map_or(0.0, |all| quantile(all, 0.5)))
    }

    fn requests(&mut self, count: u64) {
        for _ in 0..count {
            exchange(&mut self.wire, &self.request);
        }
    }

    /// As much as goes over all connections at once.
    fn rush(&mut self) {
        let (served, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let mut wires: Vec<_> = (0..PARALLEL).map(|_| connect(&self.address)).collect();
        wires
            .iter_mut()
            .for_each(|wire| exchange(wire, &self.request));
        let began = Instant::now();
        thread::scope(|scope| {
            for mut wire in wires {
                let (served, over, request) = (&served, &over, &self.request);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        exchange(&mut wire, request);
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            thread::sleep(RUSH);
            over.store(true, Ordering::Relaxed);
        });
        self.rushing += began.elapsed();
        self.rushed += served.into_inner();
    }

    /// From upstream's write of the first event to its arrival here.
    fn first_bytes(&mut self, upstream: &Upstream) {
        for _ in 0..FIRST_BYTES {
            let mut wire = connect(&self.address);
            upstream.short.store(true, Ordering::Relaxed);
            wire.get_mut()
                .write_all(self.stream.as_bytes())
                .expect("a request");
            until(&mut wire, "content_block_start");
            let arrived = Instant::now();
            let sent = upstream.sent.lock().expect("the time").expect("sent");
            self.first_bytes
                .push(arrived.duration_since(sent).as_secs_f64() * 1e6);
        }
        upstream.short.store(false, Ordering::Relaxed);
    }
}

/// So many streams at once: how many did not get all their events in time, and the memory meanwhile.
fn streams(way: &Way, ddollar: &Ddollar) -> (usize, u64) {
    let (done, ended) = channel();
    let mut wires = Vec::new();
    for _ in 0..STREAMS {
        let mut wire = connect(&way.address);
        wire.get_mut()
            .write_all(way.stream.as_bytes())
            .expect("a request");
        wires.push(wire);
    }
    for mut wire in wires {
        let done = done.clone();
        thread::Builder::new()
            .stack_size(64 * 1024)
            .spawn(move || {
                for _ in 0..=EVENTS {
                    until(&mut wire, "content_block_start");
                }
                let _ = done.send(());
            })
            .expect("a thread");
    }
    thread::sleep(BETWEEN * 2);
    let memory = ddollar.memory("VmRSS");
    let whole = (0..STREAMS)
        .take_while(|_| ended.recv_timeout(PATIENCE).is_ok())
        .count();
    (STREAMS - whole, memory)
}

fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part) as usize]
}

fn connect(address: &str) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_nodelay(true).expect("a connection");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a connection");
    BufReader::new(stream)
}

/// A request and its whole answer, which has a length.
fn exchange(wire: &mut BufReader<TcpStream>, request: &str) {
    wire.get_mut()
        .write_all(request.as_bytes())
        .expect("a request");
    let (mut line, mut length, mut first) = (String::new(), 0, true);
    loop {
        line.clear();
        wire.read_line(&mut line).expect("an answer");
        if std::mem::take(&mut first) {
            assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        }
        if line == "\r\n" {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length: ") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    wire.read_exact(&mut body).expect("a whole answer");
}

/// Reads up to a line with this text.
fn until(wire: &mut BufReader<TcpStream>, text: &str) {
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        let count = wire.read_line(&mut line).expect("an event");
        assert!(count > 0, "the stream ended");
    }
}

/// Answers `/stream` with events, and anything else with [`BODY`] bytes.
struct Upstream {
    address: String,
    /// Streams are to have one event.
    short: Arc<AtomicBool>,
    /// When the last first event was written.
    sent: Arc<Mutex<Option<Instant>>>,
}

impl Upstream {
    fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("a port").to_string();
        let upstream = Upstream {
            address,
            short: Arc::default(),
            sent: Arc::default(),
        };
        let (short, sent) = (upstream.short.clone(), upstream.sent.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (short, sent) = (short.clone(), sent.clone());
                let _ = thread::Builder::new()
                    .stack_size(64 * 1024)
                    .spawn(move || serve(stream, &short, &sent));
            }
        });
        upstream
    }
}

fn serve(stream: TcpStream, short: &AtomicBool, sent: &Mutex<Option<Instant>>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut wire = BufReader::new(stream);
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_1\r\n\
         anthropic-ratelimit-requests-limit: 1000\r\nanthropic-ratelimit-requests-remaining: 900\r\n\
         content-length: {BODY}\r\n\r\n{}",
        "y".repeat(BODY)
    );
    let event = "event: content_block_start\ndata: {\"type\":\"content_block_start\"}\n\n";
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    let mut line = String::new();
    loop {
        let (mut length, mut streams) = (0, false);
        loop {
            line.clear();
            if wire.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                break;
            }
            streams |= line.starts_with("POST /stream");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        wire.read_exact(&mut body).ok()?;
        if !streams {
            wire.get_mut().write_all(answer.as_bytes()).ok()?;
            continue;
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        wire.get_mut().write_all(head.as_bytes()).ok()?;
        // So that the head is on its way before the event, as it is in life.
        thread::sleep(Duration::from_millis(2));
        *sent.lock().ok()? = Some(Instant::now());
        wire.get_mut().write_all(chunk.as_bytes()).ok()?;
        if !short.load(Ordering::Relaxed) {
            for _ in 0..EVENTS {
                thread::sleep(BETWEEN);
                wire.get_mut().write_all(chunk.as_bytes()).ok()?;
            }
        }
        wire.get_mut().write_all(b"0\r\n\r\n").ok()?;
    }
}

struct Ddollar {
    process: Child,
    address: String,
    secret: String,
    _folder: tempfile::TempDir,
}

impl Ddollar {
    fn start(upstream: &str) -> Ddollar {
        let program = std::env::var_os("DDOLLAR").map_or_else(
            || PathBuf::from(env!("CARGO_BIN_EXE_ddollar")),
            PathBuf::from,
        );
        println!("binary: {}", program.display());
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = Command::new(program)
            .args(["proxy", "--listen", "127.0.0.1:0", "--quiet", "--no-state"])
            .env_clear()
            .env("HOME", folder.path())
            .env("ANTHROPIC_API_KEY", TOKEN)
            .env("ANTHROPIC_BASE_URL", format!("http://{upstream}"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("ddollar");
        let output = process.stdout.take().expect("its lines");
        let lines: Vec<String> = BufReader::new(output)
            .lines()
            .map_while(Result::ok)
            .take(2)
            .collect();
        let value = |n: usize| lines[n].split('\'').nth(1).expect("a value").to_owned();
        let url = value(0);
        Ddollar {
            process,
            address: url.split('/').nth(2).expect("an address").to_owned(),
            secret: value(1),
            _folder: folder,
        }
    }

    /// A number of `/proc/PID/status`, in kB.
    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("/proc");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        number.expect("a number")
    }
}

impl Drop for Ddollar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Nginx {
    process: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Nginx {
    /// With these directives besides; `None` where it is not installed.
    fn start(upstream: &str, more: &str) -> Option<Nginx> {
        let program = ["nginx", "/usr/sbin/nginx"].into_iter().find(|name| {
            Command::new(name)
                .arg("-v")
                .stderr(Stdio::null())
                .status()
                .is_ok()
        })?;
        let folder = tempfile::tempdir().expect("a folder");
        // Whoever has it now has let go of it when nginx takes it.
        let free = TcpListener::bind("127.0.0.1:0")
            .expect("a port")
            .local_addr();
        let address = free.expect("a port").to_string();
        let home = folder.path().display();
        let config = format!(
            "daemon off; worker_processes auto; pid {home}/pid; error_log {home}/error;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; keepalive_requests 10000000; client_max_body_size 64m; {more}\n\
             client_body_temp_path {home}/a; proxy_temp_path {home}/b; fastcgi_temp_path {home}/c;\n\
             uwsgi_temp_path {home}/d; scgi_temp_path {home}/e;\n\
             upstream u {{ server {upstream}; keepalive 64; keepalive_requests 10000000; }}\n\
             server {{ listen {address}; location / {{ proxy_pass http://u; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; proxy_buffering off; }} }} }}\n"
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, config).expect("a file");
        let process = Command::new(program)
            .arg("-c")
            .arg(&file)
            .arg("-p")
            .arg(folder.path())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(&address).is_err() {
            if Instant::now() > until {
                panic!("nginx does not listen");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Some(Nginx {
            process,
            address,
            _folder: folder,
        })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with their master only when that ends in order.
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.wait();
    }
}
