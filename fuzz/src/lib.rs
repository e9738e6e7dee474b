//! What is fuzzed, and what must hold: one function for each kind of bytes that come from outside.
//!
//! Owns the harnesses. The program is a binary, so its pure modules are mounted here from their own
//! files; the targets only hand bytes over. A harness promises to panic when a parser does, when an
//! accepted value is out of its range, or when what is written is not read again. Findings become
//! tests beside the code.
//!
//! With nightly and cargo-fuzz: `cargo +nightly fuzz run NAME -- -max_total_time=600`; on stable:
//! `fuzz/run SECONDS [NAME...]`.

// The modules are used in part only.
#![allow(dead_code, unexpected_cfgs, unused_imports)]

macro_rules! mount {
    ($($name:ident = $path:literal),* $(,)?) => { $(#[path = $path] mod $name;)* };
}

mount! {
    cli = "../../src/cli/mod.rs",
    clients = "../../src/clients/mod.rs",
    commands = "../../src/commands/mod.rs",
    common = "../../src/common/mod.rs",
    events = "../../src/events/mod.rs",
    providers = "../../src/providers/mod.rs",
    proxy = "../../src/proxy/mod.rs",
    supervisor = "../../src/supervisor/mod.rs",
    system = "../../src/system/mod.rs",
    tokens = "../../src/tokens/mod.rs",
}

use commands::report::{self, Timeline};
use common::duration;
use common::http::headers::Headers;
use common::http::reader::{BodyFraming, ReadError, Reader};
use common::secret::Secret;
use common::style::Style;
use common::time::Now;
use events::schema as facts;
use jiff::tz::TimeZone;
use providers::times::{self, Clock};
use providers::{Answer, Finding, PROVIDERS, ProbeForm, ProbeTarget, Provider, Reading, Reply};
use proxy::redact::Redactor;
use proxy::request::{Destination, Request};
use proxy::response::{Framing, Response};
use proxy::route::{self, Route};
use proxy::stream_prelude::{Seen, StreamPrelude};
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use tokens::policy::{self, Rules};
use tokens::store::format::{StoredToken, StoredTokens};
use tokens::{Source, Token, TokenFile, TokenPool, Unreadable};

/// 2027-01-15, in Unix seconds: the local clock.
const NOW: u64 = 1_800_000_000;
/// No reset and no wait is farther away.
const FARTHEST: Duration = duration::LONGEST;
/// What clients of the proxy send, and what it sends in its place.
const SECRET: &[u8] = b"our-secret-1";
const TOKEN: &str = "sk-token-1";

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn now() -> Now {
    Now {
        wall: at(NOW),
        tick: Instant::now(),
    }
}

/// The text before and behind the first line's end; what is no text is replaced.
fn first_line(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (line, rest) = match end {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &b""[..]),
    };
    (String::from_utf8_lossy(line).into_owned(), rest)
}

/// The lines before the first empty one, and what is behind it.
fn lines(mut bytes: &[u8]) -> (Vec<String>, &[u8]) {
    let mut lines = Vec::new();
    while !bytes.is_empty() {
        let (line, rest) = first_line(bytes);
        bytes = rest;
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    (lines, bytes)
}

/// By its name or, so that every byte means something, by its first character.
fn provider_of(word: &str) -> &'static Provider {
    let number = word.bytes().next().unwrap_or_default();
    providers::by_name(word).unwrap_or(&PROVIDERS[usize::from(number) % PROVIDERS.len()])
}

fn is_soon(moment: SystemTime) -> bool {
    moment > at(NOW) && moment <= at(NOW) + FARTHEST
}

fn is_visible(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A provider's answer: `PROVIDER STATUS [account]`, fields, an empty line, the body. It is read,
/// and taken into a pool.
pub fn limits(bytes: &[u8]) {
    let (first, rest) = first_line(bytes);
    let (fields, body) = lines(rest);
    let mut words = first.split(' ');
    let provider = provider_of(words.next().unwrap_or_default());
    let status = words
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(429);
    let subject = match words.next() {
        None => ProbeTarget::Model,
        Some(_) => ProbeTarget::Account,
    };
    let fields = fields.iter().filter_map(|field| field.split_once(": "));
    let reply = Reply {
        status,
        headers: fields
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect(),
        body: body.to_vec(),
    };
    let _ = provider.next_attempt(subject, ProbeForm::First, &reply);
    let reading = provider.read(subject, &reply, at(NOW));
    assert_eq!(
        reading,
        provider.read(subject, &reply, at(NOW)),
        "it depends on nothing else"
    );
    check_reading(&reading);
    check_reading(&reading.clone().and(reading.clone()));
    let _ = reading.usage.binding();
    let _ = reading.usage.least_pause();
    take_in(reading);
}

fn check_reading(reading: &Reading) {
    let windows = &reading.usage.windows;
    assert!(windows.len() <= 64, "{} windows", windows.len());
    for (place, window) in windows.iter().enumerate() {
        let others = &windows[place + 1..];
        assert!(
            others.iter().all(|other| other.name != window.name),
            "twice: {window:?}"
        );
        assert!(is_visible(&window.name), "{window:?}");
        assert_eq!(window.name, window.name.to_ascii_lowercase());
        assert!(
            window.utilization.is_finite() && window.utilization >= 0.0,
            "{window:?}"
        );
        assert!(window.resets_at.is_none_or(is_soon), "{window:?}");
    }
    if let Some(group) = &reading.quota_group {
        assert!(is_visible(group), "{group:?}");
    }
    match &reading.finding {
        Finding::Limited { retry_after } | Finding::Overloaded { retry_after } => {
            assert!(retry_after.is_none_or(|span| !span.is_zero() && span <= FARTHEST));
        }
        Finding::SpendCapped { until } => assert!(until.is_none_or(is_soon), "{until:?}"),
        Finding::Unclear { why } => assert!(!why.is_empty()),
        Finding::Served | Finding::Rejected => {}
    }
}

fn rules() -> Rules {
    Rules {
        threshold: 0.95,
        patience: Duration::from_secs(5),
        max_wait: None,
        retries: 0,
        checks_exit_zero: false,
        interactive: false,
        grace: Duration::from_secs(10),
        jitter: Duration::ZERO,
        fallback: None, max_tokens: None,
    }
}

fn pool() -> TokenPool {
    let token = |text| Token {
        provider: &PROVIDERS[0],
        variables: vec!["ANTHROPIC_API_KEY"],
        secret: Secret::new(text),
        group: None,
        name: "",
    };
    TokenPool::new(vec![token("one"), token("two")]).expect("two tokens")
}

/// Whatever an answer says, the pool can be asked what to do, and what it says of the token can be
/// written down and read again.
fn take_in(reading: Reading) {
    let (mut pool, rules, now) = (pool(), rules(), now());
    let answer = Answer {
        asked: now.tick,
        reading: Ok(reading),
    };
    policy::record(&mut pool, 0, &answer, &rules, now);
    let _ = policy::decide(&pool, &rules, policy::Suspension::No, now);
    let _ = policy::decide(
        &pool,
        &rules,
        policy::Suspension::Paused { since: now },
        now,
    );
    let until = pool.state(0).condition(now).until();
    assert!(
        until.is_none_or(|until| until.remaining(now) <= 2 * FARTHEST),
        "{until:?}"
    );
    if let Some(entry) = StoredToken::of(pool.state(0), now) {
        let mut memory = StoredTokens::default();
        memory.merge(vec![("0".repeat(64), entry)], now.wall);
        assert_eq!(
            StoredTokens::parse(memory.text().as_bytes()).as_ref(),
            Ok(&memory)
        );
    }
}

/// A time as a header has it, at several clocks, and a span as options have it.
pub fn reset(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for date in [
        None,
        Some(0),
        Some(NOW - 40),
        Some(NOW),
        Some(NOW + 40),
        Some(250_000_000_000),
    ] {
        let clock = Clock {
            now: at(NOW),
            date: date.map(at),
        };
        if let Some(reset) = times::reset(&text, clock) {
            assert!(is_soon(reset), "{text:?} at {date:?}: {reset:?}");
        }
    }
    let names = ["retry-after", "retry-after-ms", "date"];
    let headers: Headers = names.iter().map(|name| (name.as_bytes(), bytes)).collect();
    let clock = Clock::from_headers(&headers, at(NOW));
    let span = times::retry_after(&headers, clock);
    assert!(
        span.is_none_or(|span| !span.is_zero() && span <= FARTHEST),
        "{span:?}"
    );
    if let Some(span) = duration::parse(&text) {
        assert!(span <= FARTHEST);
        for printed in [duration::compact(span), duration::spaced(span)] {
            let again = duration::parse(&printed).expect("a printed span is one");
            let apart = again.abs_diff(span);
            assert!(
                apart <= Duration::from_secs(1),
                "{text:?} is printed as {printed}"
            );
        }
    }
}

/// `NAME=VALUE` lines, an empty line, and a token file.
pub fn tokens(bytes: &[u8]) {
    let (pairs, file) = lines(bytes);
    let mut variables: Vec<(String, String)> = pairs
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.replace("\\n", "\n")))
        .collect();
    variables.push(("ANTHROPIC_API_KEYS_FILE".into(), "tokens".into()));
    let read = |path: &Path| match path.to_str() {
        Some("tokens") => Ok(TokenFile {
            text: file.to_vec(),
            exposed: None,
        }),
        _ => Err(Unreadable {
            why: "no such file".to_owned(),
            hint: "",
        }),
    };
    let providers: Vec<&'static Provider> = PROVIDERS.iter().collect();
    let source = Source {
        variables: &variables,
        read: &read,
    };
    match tokens::discover(&providers, &source) {
        Ok(found) => {
            for (place, token) in found.tokens.iter().enumerate() {
                let text = token.secret.expose();
                assert!(is_visible(text) && !text.starts_with("sk-ant-oat"));
                assert!(!token.variables.is_empty());
                assert!(found.tokens[place + 1..].iter().all(|other| {
                    other.provider.name != token.provider.name || other.secret != token.secret
                }));
                assert!(!format!("{:?}", token.secret).contains("secret-"));
            }
        }
        Err(error) => {
            // A file is named by its path.
            let is_path = |(name, value): &(String, String)| {
                name.ends_with("_FILE") && value.contains("secret-")
            };
            let said = format!("{error} {} {error:?}", error.hint());
            assert!(
                !said.contains("secret-") || variables.iter().any(is_path),
                "{said}"
            );
        }
    }
    // What the child does not get is all that there is to find.
    variables.retain(|(name, _)| !tokens::is_token_variable(name));
    let source = Source {
        variables: &variables,
        read: &read,
    };
    let left = tokens::discover(&providers, &source).expect("nothing to refuse");
    assert!(left.tokens.is_empty());
}

/// A state file.
pub fn state(bytes: &[u8]) {
    let Ok(mut memory) = StoredTokens::parse(bytes) else {
        return;
    };
    let text = memory.text();
    assert_eq!(
        StoredTokens::parse(text.as_bytes()).as_ref(),
        Ok(&memory),
        "what is printed is read"
    );
    let (now, names) = (now(), [1, 2].map(|number| format!("{number:064x}")));
    let recalled = |memory: &StoredTokens, names: &[String]| {
        let mut pool = pool();
        memory.recall(&mut pool, names, 0.95, now);
        [0, 1].map(|index| {
            let condition = pool.state(index).condition(now);
            let until = condition.until();
            let soon = until.is_none_or(|until| until.remaining(now) <= FARTHEST);
            assert!(soon, "{until:?}");
            condition
        })
    };
    let _ = recalled(&memory, &names);
    // Each by itself: a quota group is forgotten with the token that was not seen for a month.
    let alone = |memory: &StoredTokens| names.clone().map(|name| recalled(memory, &[name]));
    let before = alone(&memory);
    memory.merge(Vec::new(), now.wall);
    assert_eq!(before, alone(&memory), "what holds is not forgotten");
    assert_eq!(StoredTokens::parse(memory.text().as_bytes()), Ok(memory));
}

/// A journal.
pub fn journal(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        let Ok((at, fact)) = facts::read(line) else {
            continue;
        };
        let written = fact.json(at);
        assert!(!written.contains('\n'));
        let (at, fact) = facts::read(&written).expect("what is written is read");
        assert_eq!(written, fact.json(at), "and is the same");
    }
    for now in [
        None,
        Some(1_800_000_000_000),
        Some(0),
        Some(253_402_207_200_999),
    ] {
        let Ok(night) = Timeline::read(text.split_inclusive('\n'), now) else {
            continue;
        };
        for (width, utf8) in [(20, true), (20, false), (37, true), (80, false), (80, true)] {
            let style = Style {
                utf8,
                colour: false,
                width,
            };
            let screen = report::text(&night, TimeZone::UTC, style);
            for line in screen.lines() {
                assert!(line.chars().count() <= width, "{width}: {line:?}");
                assert!(!line.chars().any(char::is_control), "{line:?}");
                assert!(utf8 || line.is_ascii(), "{line:?}");
            }
        }
        let svg = report::svg(&night, TimeZone::UTC);
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains(|c: char| c.is_control() && c != '\n'));
        let json = report::json(&night);
        serde_json::from_str::<serde_json::Value>(&json).expect("JSON");
    }
}

/// Gives its bytes in pieces of so many.
struct Drip<'a>(&'a [u8], usize);

impl Read for Drip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.1.min(self.0.len()).min(buffer.len());
        let (piece, rest) = self.0.split_at(count);
        buffer[..count].copy_from_slice(piece);
        self.0 = rest;
        Ok(count)
    }
}

/// How reading ended. What is wrong may be seen earlier or later, but it is wrong.
fn ended(error: &ReadError) -> &'static str {
    match error {
        ReadError::Closed => "closed",
        _ => "refused",
    }
}

/// The requests of one connection, and how it ends.
fn requests(bytes: &[u8], step: usize) -> Vec<String> {
    let mut reader = Reader::new(Drip(bytes, step));
    let mut seen = Vec::new();
    loop {
        let request = match reader.head(Request::parse) {
            Ok(request) => request,
            Err(error) => {
                seen.push(ended(&error).to_owned());
                return seen;
            }
        };
        let body = reader.body(request.body);
        seen.push(format!("{request:?}"));
        check_request(&request);
        match body {
            Ok(body) => seen.push(format!("{body:?}")),
            Err(error) => {
                seen.push(ended(&error).to_owned());
                return seen;
            }
        }
    }
}

fn check_request(request: &Request) {
    let providers: Vec<&'static Provider> = PROVIDERS.iter().collect();
    let knows = |given: &[u8]| given == SECRET;
    let (here, anywhere) = (request.check(false, knows), request.check(true, knows));
    assert!(here.is_err() || anywhere.is_ok());
    let path = match route::route(request.target(), &providers) {
        Route::Provider { path, .. } => format!("/v1{path}"),
        _ => return,
    };
    let mut head = Vec::new();
    let credential = ["x-api-key", "", TOKEN];
    let destination = Destination {
        path: &path,
        host: "api.example",
        credentials: &[credential],
        length: Some(7),
        via: None,
        left_out: &[],
    };
    let is_secret_in = |value: &[u8]| value.windows(SECRET.len()).any(|part| part == SECRET);
    request.put_upstream(&mut head, &destination, is_secret_in);
    let (again, length) = Request::parse(&head)
        .expect("a request")
        .expect("a whole one");
    assert_eq!(length, head.len(), "one request, not two");
    assert_eq!(
        (again.target(), again.method()),
        (path.as_str(), request.method())
    );
    assert!(!again.waits && again.modern);
    assert!(
        matches!(again.body, BodyFraming::Length(0 | 7)),
        "{:?}",
        again.body
    );
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let count = |name: &str| text.matches(&format!("\r\n{name}:")).count();
    assert_eq!(count("x-api-key"), 1, "{text}");
    assert!(count("host") <= 1 || here.is_err(), "{text}");
    for none in [
        "authorization",
        "api-key",
        "x-goog-api-key",
        "transfer-encoding",
        "connection",
        "te",
    ] {
        let is_kept = none == "connection" && request.is_websocket;
        assert!(count(none) == 0 || is_kept, "{none}: {text}");
    }
}

/// What a client sends on one connection to the proxy.
pub fn request(bytes: &[u8]) {
    let whole = requests(bytes, usize::MAX);
    for step in [1, 7] {
        assert_eq!(whole, requests(bytes, step), "in pieces of {step}");
    }
}

/// What a provider sends back on one connection, the first byte saying whether to a HEAD.
pub fn response(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let to_head = first % 2 == 1;
    let read = |step: usize| {
        let mut reader = Reader::new(Drip(bytes, step));
        let response = reader.head(|head| Response::parse(head, to_head));
        let response = response.map_err(|error| ended(&error))?;
        let body = reader.body(response.body).map_err(|error| ended(&error));
        Ok::<_, &str>((response, body))
    };
    let whole = read(usize::MAX);
    assert_eq!(format!("{whole:?}"), format!("{:?}", read(1)));
    let Ok((response, body)) = whole else { return };
    let _ = response.is_stream();
    let headers = response.headers();
    let body = body.unwrap_or_default();
    for name in ["anthropic", "openai"] {
        let reply = Reply {
            status: response.status,
            headers: headers.clone(),
            body: body.clone(),
        };
        check_reading(&provider_of(name).read(ProbeTarget::Model, &reply, at(NOW)));
    }
    let mask = Redactor::of(TOKEN.as_bytes());
    for framing in [
        Framing::AsItCame,
        Framing::Length(3),
        Framing::Chunked,
        Framing::UntilEnd,
    ] {
        let mut head = Vec::new();
        response.put_client(&mut head, framing, false, &mask);
        assert!(
            !head
                .windows(TOKEN.len())
                .any(|part| part == TOKEN.as_bytes())
        );
        let (again, length) = Response::parse(&head, to_head)
            .expect("a response")
            .expect("whole");
        assert_eq!((again.status, length), (response.status, head.len()));
        assert!(!again.keep_alive);
        if framing == Framing::Length(3) && again.body != BodyFraming::NONE {
            assert_eq!(again.body, BodyFraming::Length(3));
        }
    }
    masked(&body);
}

/// However a body is cut, no token comes through, and no length changes.
fn masked(body: &[u8]) {
    let mut whole = body.to_vec();
    Redactor::of(TOKEN.as_bytes()).all(&mut whole);
    assert!(
        !whole
            .windows(TOKEN.len())
            .any(|part| part == TOKEN.as_bytes())
    );
    for step in [1, 3, 16] {
        let (mut mask, mut out) = (Redactor::of(TOKEN.as_bytes()), Vec::new());
        for piece in body.chunks(step) {
            out.extend(mask.piece(piece).unwrap_or_else(|| piece.to_vec()));
        }
        out.extend(mask.end());
        assert_eq!(out, whole, "in pieces of {step}");
    }
}

/// A provider's name in a line, and the beginning of a stream of events.
pub fn stream(bytes: &[u8]) {
    let (name, bytes) = first_line(bytes);
    let provider = provider_of(&name);
    let look = |step: usize| {
        let mut early = StreamPrelude::new(provider.dialect);
        for piece in bytes.chunks(step) {
            match early.look(piece) {
                Seen::Prelude => {}
                seen => return seen,
            }
        }
        Seen::Prelude
    };
    let whole = look(usize::MAX);
    for step in [1, 5] {
        assert_eq!(whole, look(step), "in pieces of {step}");
    }
    masked(bytes);
    if let Seen::Failure { status, body } = whole {
        assert!((400..600).contains(&status), "{status}");
        // The end of a stream that has said nothing.
        if body.is_empty() {
            return;
        }
        let value: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        // Or in words.
        assert!(value["error"].is_object() || value["error"].is_string());
        let reply = Reply {
            status,
            headers: Headers::default(),
            body,
        };
        check_reading(&provider.read(ProbeTarget::Model, &reply, at(NOW)));
    }
}
