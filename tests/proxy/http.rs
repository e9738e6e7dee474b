//! What goes through, byte for byte; and what breaks, on either side.

use crate::support::env::{PROGRAM, works};
use crate::support::gateway::{Gateway, Wire, a_moment};
use crate::support::proc;
use crate::support::pty::{Setup, skipped};
use crate::support::tls::{Front, Tunnel};
use crate::support::upstream::{Played, Upstream};
use crate::support::{Provider, Supervise, eventually};
use serde_json::json;
use std::io::Write;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

const PATH: &str = "/anthropic/v1/messages";
const SSE: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn event(kind: &str) -> String {
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\"}}\n\n")
}

/// A proxy with one token in front of a script.
fn before(play: impl Fn(&mut Played) -> bool + Send + Sync + 'static) -> (Upstream, Gateway) {
    let upstream = Upstream::playing(play);
    let gateway = Gateway::to(&upstream.url, "token-bbbb-1", &[]);
    (upstream, gateway)
}

fn asked(gateway: &Gateway, body: &str) -> Wire {
    let mut wire = gateway.wire();
    wire.send(gateway.request(PATH, "", body));
    wire
}

#[test]
fn fields_keep_their_case_and_order_and_unknown_ones_go_through() {
    let (upstream, gateway) = before(|played| {
        let body = String::from_utf8(played.body.clone()).unwrap();
        played.answer(200, "X-oDD: a b\r\nx-second: 2\r\nx-second: 3\r\n", &body);
        true
    });
    let mut wire = gateway.wire();
    let fields = "User-Agent: mine\r\nX-StRange: 1\r\nanthropic-beta: a,b\r\nTE: trailers\r\n";
    wire.send(gateway.request(&format!("{PATH}?beta=true&x=%2F"), fields, "{\"a\": 1}"));
    let answered = wire.answer();
    let host = upstream.url.trim_start_matches("http://");
    let head = upstream.wait();
    let (head, via) = head.split_once("Via: 1.1 ddollar-").unwrap();
    assert_eq!(via.len(), "0123456789abcdef\r\n\r\n".len(), "{via}");
    assert_eq!(
        head,
        format!(
            "POST /v1/messages?beta=true&x=%2F HTTP/1.1\r\nHost: {host}\r\nx-api-key: token-bbbb-1\r\n\
             User-Agent: mine\r\nX-StRange: 1\r\nanthropic-beta: a,b\r\nContent-Length: 8\r\n"
        )
    );
    assert_eq!(
        answered.head,
        "HTTP/1.1 200 Made Up\r\nX-oDD: a b\r\nx-second: 2\r\nx-second: 3\r\nContent-Length: 8\r\n\r\n"
    );
    assert_eq!(answered.text(), "{\"a\": 1}");
}

#[test]
fn one_connection_serves_many_requests_also_when_they_are_sent_ahead() {
    let (upstream, gateway) = before(|played| {
        let text = String::from_utf8(played.body.clone()).unwrap();
        played.answer(200, "", &text);
        true
    });
    let mut wire = gateway.wire();
    let all: String = (0..5)
        .map(|n| gateway.request(PATH, "", &format!("number {n}")))
        .collect();
    wire.send(all);
    for n in 0..5 {
        assert_eq!(wire.answer().text(), format!("number {n}"));
    }
    wire.send(gateway.request(PATH, "Connection: close\r\n", "last"));
    let answered = wire.answer();
    assert_eq!(answered.field("connection"), Some("close"));
    assert_eq!(wire.until_the_end(), "");
    assert_eq!(upstream.count(), 6);
}

#[test]
fn bodies_in_chunks_and_after_100_continue() {
    let (upstream, gateway) = before(|played| {
        let length = played.body.len();
        played.answer(200, "", &length.to_string());
        true
    });
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {}\r\n",
        gateway.secret
    );
    let mut wire = gateway.wire();
    wire.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
    for piece in [
        "3;x=y\r\nabc",
        "\r\n",
        "10\r\n0123456789",
        "abcdef\r\n0\r",
        "\nTrailer: x\r\n\r\n",
    ] {
        wire.send(piece);
    }
    assert_eq!(wire.answer().text(), "19");
    assert!(upstream.wait().contains("\r\nContent-Length: 19\r\n"));

    wire.send(format!(
        "{head}Content-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    ));
    assert_eq!(wire.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    wire.send("abcd");
    assert_eq!(wire.answer().text(), "4");
    assert!(!upstream.wait().contains("xpect"));
}

#[test]
fn head_requests_and_answers_without_a_body() {
    let (_upstream, gateway) = before(|played| {
        match played.head.starts_with("HEAD") {
            true => played.send("HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n"),
            false => played.send("HTTP/1.1 204 No Content\r\n\r\n"),
        }
        true
    });
    let mut wire = gateway.wire();
    let head = format!(
        "{PATH} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {}\r\n\r\n",
        gateway.secret
    );
    wire.send(format!("HEAD {head}GET {head}"));
    assert!(wire.until("\r\n\r\n").contains("Content-Length: 77\r\n"));
    assert!(wire.until("\r\n\r\n").starts_with("HTTP/1.1 204"));
    assert_eq!(wire.rest(), "");
}

#[test]
fn thirty_two_mebibytes_go_through_and_more_that_goes_nowhere_is_refused_unread() {
    const OWN: &str = "/ddollar/status";
    let (upstream, gateway) = before(|played| {
        let sum: u64 = played.body.iter().map(|byte| u64::from(*byte)).sum();
        let text = format!("{} {sum}", played.body.len());
        played.answer(200, "", &text);
        true
    });
    let large = 32 * 1024 * 1024;
    let mut wire = gateway.wire();
    wire.send(gateway.request(PATH, "", &"a".repeat(large)));
    assert_eq!(wire.answer().text(), format!("{large} {}", large * 97));
    let mut wire = gateway.wire();
    wire.send(format!(
        "POST {OWN} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {}\r\nContent-Length: 100000000\r\n\r\n",
        gateway.secret
    ));
    // It is on its way already when the answer comes, and the answer comes all the same.
    let piece = vec![b'a'; 1 << 20];
    for _ in 0..100 {
        if wire.stream.write_all(&piece).is_err() {
            break;
        }
    }
    assert_eq!(wire.answer().status, 413);
    // Who asks first need not send it.
    let mut wire = gateway.wire();
    wire.send(format!(
        "POST {OWN} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {}\r\n\
         Expect: 100-continue\r\nContent-Length: 33554433\r\n\r\n",
        gateway.secret
    ));
    assert!(wire.until("\r\n\r\n").starts_with("HTTP/1.1 413"));
    assert_eq!(upstream.count(), 1);
}

#[test]
fn open_streams_do_not_keep_what_they_have_asked() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let all = held.clone();
    let (_upstream, gateway) = before(move |played| {
        // It stays open as long as the test runs.
        all.lock().unwrap().push(played.stream.try_clone().unwrap());
        played.send(format!("{SSE}{}", chunk(&event("content_block_start"))));
        false
    });
    let body = "a".repeat(20 * 1024 * 1024);
    let wires: Vec<Wire> = (0..6)
        .map(|_| {
            let mut wire = asked(&gateway, &body);
            wire.until("content_block_start\"}");
            wire
        })
        .collect();
    // They have asked 120 MiB.
    let held_by_proxy = proc::status(gateway.run.pid, "VmRSS", 10);
    assert!(held_by_proxy < 60_000, "{held_by_proxy} kB");
    drop(wires);
    assert_eq!(held.lock().unwrap().len(), 6);
}

/// As agents do: 32 requests of 3 MiB are there at once, and then none.
#[test]
fn the_memory_of_many_bodies_goes_back_to_the_system() {
    let here = Arc::new(Barrier::new(32));
    let (_upstream, gateway) = before(move |played| {
        here.wait();
        played.answer(200, "", "{}");
        true
    });
    let body = "a".repeat(3 * 1024 * 1024);
    let wires: Vec<Wire> = (0..32).map(|_| asked(&gateway, &body)).collect();
    for mut wire in wires {
        assert_eq!(wire.answer().status, 200);
    }
    let peak = proc::status(gateway.run.pid, "VmHWM", 10);
    assert!(peak > 96 * 1024, "{peak} kB");
    eventually("the memory is given back", || {
        (proc::status(gateway.run.pid, "VmRSS", 10) < 40_000).then_some(())
    });
}

#[test]
fn compressed_bodies_go_through_untouched() {
    let zipped: Vec<u8> = vec![
        0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x4b, 4, 0, 0x43, 0xbe, 0xb7,
    ];
    let sent = zipped.clone();
    let (upstream, gateway) = before(move |played| {
        played.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: text/event-stream\r\n\
             Content-Length: {}\r\n\r\n",
            sent.len()
        ));
        played.send(&sent);
        true
    });
    let mut wire = gateway.wire();
    wire.send(gateway.request(PATH, "Accept-Encoding: gzip\r\n", "{}"));
    let answered = wire.answer();
    assert_eq!(answered.field("content-encoding"), Some("gzip"));
    assert_eq!(answered.body, zipped);
    assert!(
        upstream
            .wait()
            .contains("\r\nAccept-Encoding: identity\r\n")
    );
}

/// A script that sends the next of its pieces whenever the test says so.
fn on_demand(pieces: Vec<String>) -> (impl Fn(&mut Played) -> bool + Send + Sync, impl Fn()) {
    let (go, gate) = channel::<()>();
    let gate: Arc<Mutex<Receiver<()>>> = Arc::new(Mutex::new(gate));
    let play = move |played: &mut Played| {
        for piece in &pieces {
            if gate.lock().unwrap().recv().is_err() {
                return false;
            }
            played.send(piece);
        }
        true
    };
    (play, move || go.send(()).unwrap())
}

#[test]
fn a_stream_arrives_event_by_event() {
    let (play, next) = on_demand(vec![
        format!("{SSE}{}", chunk(&event("message_start"))),
        chunk(&event("content_block_start")),
        chunk(&event("content_block_delta"))[..10].to_owned(),
        chunk(&event("content_block_delta"))[10..].to_owned(),
        "0\r\n\r\n".to_owned(),
    ]);
    let (_upstream, gateway) = before(play);
    let mut wire = asked(&gateway, "{}");
    next();
    next();
    // Nothing more has been sent than what has arrived.
    let first = wire.until("content_block_start\"}\n\n");
    assert!(
        first.contains("Transfer-Encoding: chunked\r\n\r\n"),
        "{first}"
    );
    assert!(first.contains("message_start"), "{first}");
    next();
    wire.until("event");
    next();
    wire.until("content_block_delta\"}\n\n");
    next();
    wire.until("\r\n0\r\n\r\n");
}

#[test]
fn a_stream_that_drips_byte_by_byte_arrives_whole() {
    let text = format!("{}{}", event("content_block_start"), event("message_stop"));
    let sent = text.clone();
    let (_upstream, gateway) = before(move |played| {
        played.send(SSE);
        for byte in sent.chars() {
            played.send(chunk(&byte.to_string()));
            std::thread::sleep(Duration::from_millis(1));
        }
        played.send("0\r\n\r\n");
        true
    });
    let answered = asked(&gateway, "{}").answer();
    assert!(answered.whole);
    assert_eq!(answered.text(), text);
}

/// Numbers that look random and are the same in each run.
struct Numbers(u64);

impl Numbers {
    /// The next, below `end`.
    fn below(&mut self, end: usize) -> usize {
        // xorshift64 (Marsaglia 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % end
    }
}

/// A stream of events of all sizes, of so many bytes at least.
fn long_stream(numbers: &mut Numbers, least: usize) -> String {
    let mut text = event("message_start");
    while text.len() < least {
        let size = match numbers.below(4) {
            0 => numbers.below(200_000),
            1 => 64 * 1024,
            _ => numbers.below(300),
        };
        let data = "x".repeat(size);
        text.push_str(&format!(
            "data: {{\"type\":\"delta\",\"text\":\"{data}\"}}\n\n"
        ));
    }
    text
}

/// A text in chunks of so many bytes, without the last one.
fn chunks(text: &str, size: usize) -> String {
    let pieces = text.as_bytes().chunks(size);
    pieces
        .map(|piece| chunk(std::str::from_utf8(piece).unwrap()))
        .collect()
}

#[test]
fn a_stream_that_arrives_in_one_piece_does_not_wait_for_more() {
    for (size, in_chunks) in [
        (60_000, 1_000),
        (66_000, 1_000),
        (100_000, 1_000),
        (100_000, 100_000),
        (1_000_000, 10_000),
    ] {
        let first = format!("data: {{\"text\":\"{}\"}}\n\n", "x".repeat(size));
        let (play, next) = on_demand(vec![
            format!("{SSE}{}", chunks(&first, in_chunks)),
            format!("{}0\r\n\r\n", chunk(&event("message_stop"))),
        ]);
        let (_upstream, gateway) = before(play);
        let mut wire = asked(&gateway, "{}");
        next();
        // The provider says nothing more before all of it has arrived.
        wire.until("\"}\n\n");
        next();
        wire.until("message_stop\"}\n\n\r\n0\r\n\r\n");
    }
}

#[test]
fn streams_are_the_same_as_without_the_proxy_however_they_are_cut() {
    for (seed, framing) in [(1, "chunked"), (2, "length"), (3, "end"), (4, "chunked")] {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 ^ seed);
        let text = long_stream(&mut numbers, 1_000_000);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
        let mut bytes = match framing {
            "chunked" => format!("{head}Transfer-Encoding: chunked\r\n\r\n"),
            "length" => format!("{head}Content-Length: {}\r\n\r\n{text}", text.len()),
            _ => format!("{head}Connection: close\r\n\r\n{text}"),
        };
        if framing == "chunked" {
            let mut rest = &text[..];
            while !rest.is_empty() {
                let most = if numbers.below(2) == 0 { 50 } else { 150_000 };
                let (piece, later) = rest.split_at(rest.len().min(1 + numbers.below(most)));
                bytes.push_str(&chunk(piece));
                rest = later;
            }
            bytes.push_str("0\r\n\r\n");
        }
        let (bytes, seed) = (Arc::new(bytes), Mutex::new(numbers));
        let upstream = Upstream::playing(move |played| {
            let mut numbers = seed.lock().unwrap();
            // In one write, or cut anywhere.
            if played.number % 3 == 0 {
                played.send(&*bytes);
                return framing != "end";
            }
            let mut rest = bytes.as_bytes();
            while !rest.is_empty() {
                let most = if numbers.below(3) == 0 {
                    100_000
                } else {
                    5_000
                };
                let (piece, later) = rest.split_at(rest.len().min(1 + numbers.below(most)));
                played.send(piece);
                rest = later;
            }
            framing != "end"
        });
        let gateway = Gateway::to(&upstream.url, "token-bbbb-1", &[]);
        for _ in 0..3 {
            let mut direct = Wire::to(upstream.url.trim_start_matches("http://"));
            direct.send("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
            let answered = asked(&gateway, "{}").answer();
            assert!(answered.whole, "{framing}");
            assert!(answered.body == direct.answer().body, "{framing}");
            assert!(answered.body == text.as_bytes(), "{framing}");
        }
    }
}

#[test]
fn a_body_that_breaks_off_is_seen_to_break_off() {
    for (head, sent) in [
        (SSE.to_owned(), chunk(&event("content_block_start"))),
        (
            SSE.to_owned(),
            "ffff\r\nevent: content_block_start\n".to_owned(),
        ),
        (SSE.to_owned(), "nonsense\r\n".to_owned()),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n".to_owned(),
            "short".to_owned(),
        ),
    ] {
        let script = format!("{head}{sent}");
        let (upstream, gateway) = before(move |played| {
            played.send(&script);
            false
        });
        let mut wire = asked(&gateway, "{}");
        let answered = wire.answer();
        assert!(!answered.whole, "{answered:?}");
        assert_eq!(wire.until_the_end(), "");
        assert!(upstream.count() >= 1);
        assert_eq!(gateway.get("/ddollar/status").status, 200);
    }
}

#[test]
fn a_body_without_a_length_ends_with_its_connection() {
    let (_upstream, gateway) = before(|played| {
        played.send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it");
        false
    });
    let answered = asked(&gateway, "{}").answer();
    assert_eq!(answered.field("transfer-encoding"), Some("chunked"));
    assert!(answered.whole);
    assert_eq!(answered.text(), "all of it");
    // HTTP/1.0 knows no chunks.
    let mut wire = gateway.wire();
    wire.send(format!(
        "POST {PATH} HTTP/1.0\r\nHost: localhost\r\nx-api-key: {}\r\nContent-Length: 2\r\n\r\n{{}}",
        gateway.secret
    ));
    let answered = wire.answer();
    assert_eq!(answered.field("transfer-encoding"), None);
    assert_eq!(answered.field("connection"), Some("close"));
    assert_eq!(answered.text(), "all of it");
}

#[test]
fn an_upstream_that_lies_about_its_length_does_not_reach_the_next_answer() {
    let (upstream, gateway) = before(|played| {
        match played.number {
            0 => played.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirstHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
            _ => played.answer(200, "", "second"),
        }
        true
    });
    let mut wire = gateway.wire();
    for expected in ["first", "second"] {
        wire.send(gateway.request(PATH, "", "{}"));
        assert_eq!(wire.answer().text(), expected);
    }
    assert_eq!(upstream.count(), 2);
}

#[test]
fn nonsense_from_upstream_is_a_502_and_an_answer_that_has_begun_is_not_asked_for_again() {
    for (script, attempts) in [
        ("\x00\x01nonsense\r\n\r\n", 1),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            1,
        ),
        ("HTTP/1.1 200 OK\r\ncontent-typ", 1),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", 1),
        // Nothing was said, as by a provider that could not be reached.
        ("", 3),
    ] {
        let (upstream, gateway) = before(move |played| {
            played.send(script);
            false
        });
        let answered = asked(&gateway, "{}").answer();
        assert_eq!(answered.status, 502, "{script:?} {answered:?}");
        assert_eq!(answered.json()["error"]["type"], "api_error");
        assert_eq!(upstream.count(), attempts, "{script:?}");
    }
}

#[test]
fn a_kept_connection_that_upstream_has_closed_costs_nothing() {
    let (upstream, gateway) = before(|played| {
        played.answer(200, "", "fine");
        // Without having said so.
        false
    });
    for _ in 0..5 {
        assert_eq!(asked(&gateway, "{}").answer().text(), "fine");
    }
    assert_eq!(upstream.count(), 5);
    assert_eq!(gateway.status()["retries"], 0);
}

#[test]
fn a_silent_connection_to_a_provider_is_kept_alive() {
    let (_upstream, gateway) = before(|played| {
        // In /proc/net/tcp: the other side's port, that it is established, that its timer is
        // that of keep-alive.
        let port = played.stream.peer_addr().unwrap().port();
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let kept = table.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.len() > 5
                && fields[1].ends_with(&format!(":{port:04X}"))
                && fields[3] == "01"
                && fields[5].starts_with("02:")
        });
        played.answer(200, "", if kept { "kept" } else { "not kept" });
        true
    });
    assert_eq!(asked(&gateway, "{}").answer().text(), "kept");
}

#[test]
fn when_the_client_goes_away_upstream_is_stopped() {
    // While it thinks, and while it streams.
    for begins in [false, true] {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let (upstream, gateway) = before(move |played| {
            if begins {
                played.send(format!("{SSE}{}", chunk(&event("content_block_start"))));
            }
            let closed = played.wait_closed();
            tell.lock().unwrap().send(closed).unwrap();
            false
        });
        let mut wire = asked(&gateway, "{}");
        let _ = upstream.wait();
        if begins {
            wire.until("content_block_start\"}");
        }
        drop(wire);
        assert!(told.recv_timeout(crate::support::DEADLINE).unwrap());
        gateway.eventually_status(|status| status["connections"] == 1);
    }
}

#[test]
fn when_the_client_goes_away_upstream_is_stopped_behind_tls_as_well() {
    // On a new connection, where the session tickets of TLS 1.3 come before any answer.
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let upstream = Upstream::playing(move |played| {
        tell.lock().unwrap().send(played.wait_closed()).unwrap();
        false
    });
    let front = Front::of(&upstream.url);
    let mut prepared = Supervise::bare()
        .env("ANTHROPIC_BASE_URL", &front.url)
        .env("ANTHROPIC_API_KEYS", "token-bbbb-1");
    let authority = prepared.desk().write("ca.pem", &front.authority);
    prepared = prepared.env("SSL_CERT_FILE", authority);
    let gateway = Gateway::start(prepared, &[]);
    for _ in 0..3 {
        let wire = asked(&gateway, "{}");
        let _ = upstream.wait();
        a_moment();
        drop(wire);
        assert!(told.recv_timeout(crate::support::DEADLINE).unwrap());
    }
}

#[test]
fn when_the_client_of_a_stream_goes_away_the_next_events_find_it_out() {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let (_upstream, gateway) = before(move |played| {
        played.send(SSE);
        let began = Instant::now();
        while began.elapsed() < crate::support::DEADLINE {
            let piece = chunk(&event("content_block_delta"));
            if played.stream.write_all(piece.as_bytes()).is_err() {
                tell.lock().unwrap().send(()).unwrap();
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    });
    let mut wire = asked(&gateway, "{}");
    wire.until("content_block_delta");
    drop(wire);
    told.recv_timeout(crate::support::DEADLINE).unwrap();
}

#[test]
fn a_client_that_has_only_ended_its_side_gets_its_answer() {
    let (play, next) = on_demand(vec![
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n".to_owned(),
        "fine".to_owned(),
    ]);
    let (upstream, gateway) = before(play);
    let mut wire = asked(&gateway, "{}");
    wire.end();
    let _ = upstream.wait();
    a_moment();
    next();
    next();
    let answered = wire.answer();
    assert_eq!((answered.status, answered.text().as_str()), (200, "fine"));
}

#[test]
fn a_client_that_ends_its_side_within_a_stream_gets_the_rest_of_it() {
    let first = format!("{SSE}{}", chunk(&event("content_block_start")));
    for last in ["5\r\nagain\r\n0\r\n\r\n", "0\r\n\r\n"] {
        let (play, next) = on_demand(vec![first.clone(), last.to_owned()]);
        let (_upstream, gateway) = before(play);
        let mut wire = asked(&gateway, "{}");
        next();
        wire.until("content_block_start\"}\n\n\r\n");
        wire.end();
        // What comes while nothing else does is the beginning of a chunk's size.
        wire.until("0");
        next();
        let rest = wire.until_the_end();
        assert_eq!(rest, last);
    }
}

#[test]
fn a_slow_client_holds_upstream_back_and_gets_everything() {
    let (_upstream, gateway) = before(|played| {
        let piece = chunk(&"x".repeat(50_000));
        played.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..200 {
            played.send(&piece);
        }
        played.send("0\r\n\r\n");
        true
    });
    let mut wire = asked(&gateway, "{}");
    a_moment();
    // Ten megabytes are on their way, and what nobody reads is not kept in memory.
    assert!(proc::status(gateway.run.pid, "VmHWM", 10) < 30_000);
    let answered = wire.answer();
    assert!(answered.whole);
    assert_eq!(answered.body.len(), 10_000_000);
}

#[test]
fn everything_works_over_tls_and_through_a_proxy_for_it() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let front = Front::of(&provider.url);
    let tunnel = Tunnel::to(&front.url);
    for (address, proxy) in [
        (front.url.as_str(), None),
        ("https://localhost:1", Some(&tunnel.url)),
    ] {
        let mut prepared = Supervise::behind(&provider, address);
        let authority = prepared.desk().write("ca.pem", &front.authority);
        prepared = prepared.env("SSL_CERT_FILE", authority);
        if let Some(url) = proxy {
            prepared = prepared.env("HTTPS_PROXY", url);
        }
        let gateway = Gateway::start(prepared, &[]);
        for more in [json!({}), json!({"stream": true})] {
            let answered = gateway.post(more);
            assert_eq!(answered.status, 200, "{answered:?}");
            assert!(answered.whole);
        }
    }
    assert_eq!(tunnel.asked(), ["CONNECT localhost:1 HTTP/1.1"]);
    let other = |line: &&serde_json::Value| line["who"] == "other";
    assert_eq!(provider.served().iter().filter(other).count(), 4);
}

#[test]
fn an_unknown_authority_gets_no_token() {
    let mut provider = Provider::anthropic(&[0.1]);
    let front = Front::of(&provider.url);
    let gateway = Gateway::start(Supervise::behind(&provider, &front.url), &[]);
    let answered = gateway.post(json!({}));
    assert_eq!(answered.status, 502);
    assert!(
        answered.text().to_lowercase().contains("certificate"),
        "{answered:?}"
    );
    assert_eq!(provider.served().len(), 0);
}

#[test]
fn deep_json_in_an_error_is_survived() {
    let deep = format!("{{\"error\":{}{}", "[".repeat(60_000), "{\"a\":".repeat(10));
    let (_upstream, gateway) = before(move |played| {
        played.answer(400, "", &deep);
        true
    });
    for _ in 0..2 {
        assert_eq!(gateway.post(json!({})).status, 400);
    }
    let nested = format!("{}{}", "[".repeat(120), "]".repeat(120));
    let (_upstream, gateway) = before(move |played| {
        played.send(format!("{SSE}{}", chunk(&format!("data: {nested}\n\n"))));
        played.send("0\r\n\r\n");
        true
    });
    assert!(gateway.post(json!({"stream": true})).whole);
}

/// In a network of its own, a provider and a run with two requests. Between them, everything that goes to
/// the provider on the connections that are there is lost from then on, without a word, as after a
/// machine has moved to another network.
const LOST: &str = r#"set -e
ip link set lo up
# The rules of the kernel's own table come first, unless they are moved.
ip rule add pref 10 lookup local
ip rule del pref 0
ip rule add pref 6 ipproto tcp sport 1 dport 1 blackhole
[ "$1" ] || exit 0
mkfifo hold
(exec 9>hold; exec sleep 100) &
"$1" __provider scenario <hold >served &
until [ -s served ]; do sleep 0.02; done
ANTHROPIC_BASE_URL=$(sed -n '1s/.*"url":"\([^"]*\)".*/\1/p' served)
port=${ANTHROPIC_BASE_URL##*:}
export ANTHROPIC_BASE_URL port ANTHROPIC_API_KEY=sk-test-of-a-lost-way
cat >agent <<'END'
ask() {
    curl -s -m 90 -o answer -w '%{http_code}\n' "$ANTHROPIC_BASE_URL/v1/messages" \
        -H "x-api-key: $ANTHROPIC_API_KEY" -H 'content-type: application/json' \
        -d '{"model":"claude-haiku-4-5","max_tokens":5,"messages":[]}'
}
ask
# Column 2 is the own end, 3 the other, 4 the state: established.
awk -v to=":$(printf %04X "$port")" '$3 ~ to "$" && $4 == "01" { print $2 }' /proc/net/tcp >ends
while IFS=: read -r address own; do
    ip rule add pref 5 ipproto tcp sport $((0x$own)) dport "$port" blackhole
done <ends
# What was heard a moment ago is believed to be there.
[ -s ends ] && sleep 1.1 && ask
END
exec $D sh ./agent
"#;

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs network namespaces")]
fn a_request_on_a_connection_that_is_dead_goes_again_on_another() {
    if !works("unshare", &["-Urn", "sh", "-c", LOST, "sh", ""])
        || !works("curl", &["--version"])
        || !works("awk", &["BEGIN { exit 0 }"])
    {
        return skipped("a dead connection", "no network namespace, curl or awk");
    }
    let setup = Setup::new().options("--interval 1h");
    let scenario = json!({
        "organizations": {"org-1": {"buckets": {"requests": {"limit": 1000, "resets": "10m"}}}},
        "tokens": [{"text": "sk-test-of-a-lost-way", "provider": "anthropic", "organization": "org-1"}],
    });
    setup.desk.write("scenario", scenario.to_string());
    let mut command = setup.command("unshare");
    command.args(["-Urn", "sh", "-c", LOST, "sh", PROGRAM]);
    let mut run = setup.headless_command(command);
    assert_eq!(run.end(), 0, "{}{}", run.out(), run.err());
    assert_eq!(run.out(), "200\n200\n", "{}", run.err());
}
