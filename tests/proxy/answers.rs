//! What counts as an answer: the beginning of a stream, a body that is nothing but an error, a page
//! that somebody else has sent.

use crate::support::Supervise;
use crate::support::canned::Canned;
use crate::support::gateway::{Answered, Gateway, seconds_left};
use crate::support::upstream::{Played, Upstream};
use serde_json::{Value, json};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SSE: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn events(all: &[Value]) -> String {
    let chunks = all.iter().map(|event| {
        let text = format!("data: {event}\n\n");
        format!("{:x}\r\n{text}\r\n", text.len())
    });
    chunks.collect()
}

fn start() -> Value {
    json!({"type": "message_start", "message": {"content": []}})
}

fn empty_block() -> Value {
    json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
}

fn good() -> Value {
    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "good"}})
}

fn limit() -> Value {
    json!({"type": "error", "error": {"type": "rate_limit_error", "message": "x"}})
}

/// A proxy over two tokens; `play` is called with whether the first one asks.
fn two(play: impl Fn(&mut Played, bool) + Send + Sync + 'static) -> (Upstream, Gateway) {
    let upstream = Upstream::playing(move |played| {
        let is_first = played.head.contains("token-aaaa-1");
        play(played, is_first);
        true
    });
    let gateway = Gateway::to(&upstream.url, "token-aaaa-1,token-bbbb-2", &[]);
    wait_until_asked(&gateway);
    (upstream, gateway)
}

/// The same, and each connection ends after its answer.
fn two_closing(play: fn(&mut Played, bool)) -> (Upstream, Gateway) {
    let upstream = Upstream::playing(move |played| {
        play(played, false);
        false
    });
    let gateway = Gateway::to(&upstream.url, "token-aaaa-1,token-bbbb-2", &[]);
    wait_until_asked(&gateway);
    (upstream, gateway)
}

/// Waits until both tokens have been asked: a later answer to that question would say that a token which
/// was refused meanwhile is good again.
fn wait_until_asked(gateway: &Gateway) {
    gateway.eventually_status(|status| {
        let tokens = status["tokens"].as_array().unwrap();
        tokens.iter().all(|token| token["condition"] == "usable")
    });
}

fn stream(gateway: &Gateway) -> Answered {
    gateway.post(json!({"stream": true}))
}

#[test]
fn an_error_after_an_empty_block_goes_to_the_next_token() {
    let (_upstream, gateway) = two(|played, is_first| {
        played.send(format!("{SSE}{}", events(&[start(), empty_block()])));
        let rest = if is_first { limit() } else { good() };
        played.send(format!("{}0\r\n\r\n", events(&[rest])));
    });
    let answered = stream(&gateway);
    assert_eq!((answered.status, answered.whole), (200, true));
    let text = answered.text();
    assert!(
        text.contains("good") && !text.contains("rate_limit"),
        "{text}"
    );
}

#[test]
fn a_number_as_code_is_a_status_and_the_token_is_left_at_once() {
    // Neither says whether the token or the request is to blame: the next token, which is served, does.
    for code in [429, 402] {
        let (upstream, gateway) = two(move |played, is_first| {
            let error = json!({"choices": [], "error": {"code": code, "message": "no"}});
            let first = if is_first { error } else { good() };
            played.send(format!("{SSE}{}0\r\n\r\n", events(&[first])));
        });
        for _ in 0..3 {
            assert!(stream(&gateway).text().contains("good"));
        }
        assert_eq!(upstream.count(), 4, "{code}");
        assert_eq!(gateway.status()["tokens"][0]["condition"], "limited");
    }
}

#[test]
fn a_stream_that_ends_before_any_content_is_asked_for_again() {
    let begun = events(&[start()]);
    for first in [
        format!("{SSE}0\r\n\r\n"),
        format!("{SSE}{begun}0\r\n\r\n"),
        format!("{SSE}{begun}"),
        format!("{SSE}{}0\r\n\r\n", "e\r\ndata: [DONE]\n\n\r\n"),
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 0\r\n\r\n"
            .to_owned(),
    ] {
        let script = first.clone();
        let upstream = Upstream::playing(move |played| {
            match played.number {
                0 => played.send(&script),
                _ => played.send(format!("{SSE}{}0\r\n\r\n", events(&[start(), good()]))),
            }
            played.number > 0
        });
        let gateway = Gateway::to(&upstream.url, "token-bbbb-1", &[]);
        let answered = stream(&gateway);
        assert!(answered.text().contains("good"), "{first:?}: {answered:?}");
        assert_eq!(upstream.count(), 2);
    }
}

/// DeepSeek's blank lines, and bodies of no length at all.
#[test]
fn a_blank_answer_is_asked_for_again() {
    let json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    for (framing, body) in [
        ("Content-Length: 0\r\n\r\n", ""),
        ("Content-Length: 2\r\n\r\n", "\n\n"),
        (
            "Transfer-Encoding: chunked\r\n\r\n",
            "2\r\n\n\n\r\n0\r\n\r\n",
        ),
        ("Transfer-Encoding: chunked\r\n\r\n", "0\r\n\r\n"),
    ] {
        let upstream = Upstream::playing(move |played| {
            match played.number {
                0 => played.send(format!("{json}{framing}{body}")),
                _ => played.answer(200, "", "{\"content\": []}"),
            }
            true
        });
        let gateway = Gateway::to(&upstream.url, "token-bbbb-1", &[]);
        assert!(
            gateway.post(json!({})).text().contains("content"),
            "{framing:?}"
        );
        assert_eq!(upstream.count(), 2, "{framing:?} {body:?}");
    }
}

/// The last event of a stream counts without a blank line behind it, whatever it says.
#[test]
fn the_end_of_a_stream_ends_its_last_event() {
    let limit = limit().to_string();
    for (first, is_limit) in [
        (format!("data: {limit}\n"), true),
        (format!("data: {limit}"), true),
        (format!("\u{feff}data: {limit}\n\n"), true),
        (format!("data: {limit}\r\r"), true),
        (format!("{limit}\n"), true),
        (format!("data: {}", good()), false),
        (format!("data: {}\r\r", good()), false),
    ] {
        let script = format!("{SSE}{:x}\r\n{first}\r\n0\r\n\r\n", first.len());
        let (upstream, gateway) = two(move |played, is_first| match is_first {
            true => played.send(&script),
            false => played.send(format!("{SSE}{}0\r\n\r\n", events(&[good()]))),
        });
        for _ in 0..2 {
            assert!(stream(&gateway).text().contains("good"), "{first:?}");
        }
        let first_token = &gateway.status()["tokens"][0]["condition"];
        let wanted = if is_limit {
            ("limited", 3)
        } else {
            ("usable", 2)
        };
        assert_eq!(
            (first_token.as_str().unwrap(), upstream.count()),
            wanted,
            "{first:?}"
        );
    }
}

#[test]
fn a_stream_that_never_says_anything_ends_as_it_came() {
    let (upstream, gateway) = two(|played, _| {
        played.send(format!("{SSE}{}0\r\n\r\n", events(&[start()])));
    });
    let answered = stream(&gateway);
    assert_eq!((answered.status, answered.whole), (200, true));
    assert!(answered.text().contains("message_start"));
    // Three times with the one, once with the other.
    assert_eq!(upstream.count(), 4);
}

#[test]
fn the_time_in_a_streams_error_is_the_end_of_the_limit() {
    let error = |more: Value| {
        let mut error = json!({"code": "rate_limit_exceeded", "type": "tokens", "message": "x"});
        for (name, value) in more.as_object().unwrap() {
            error[name] = value.clone();
        }
        json!({"type": "error", "error": error})
    };
    let head = |fields: &str| SSE.replace("\r\n\r\n", &format!("\r\n{fields}\r\n\r\n"));
    for (head, error, seconds) in [
        (
            SSE.to_owned(),
            error(json!({"message": "Rate limit reached. Please try again in 15.7s."})),
            14..=16,
        ),
        (
            SSE.to_owned(),
            error(json!({"code": 429, "details": [{"retryDelay": "42s"}]})),
            40..=42,
        ),
        (head("Retry-After: 33"), error(json!({})), 31..=33),
        (
            head(
                "x-ratelimit-limit-tokens: 100\r\nx-ratelimit-remaining-tokens: 0\r\nx-ratelimit-reset-tokens: 23s",
            ),
            error(json!({})),
            21..=23,
        ),
    ] {
        let script = format!("{head}{}0\r\n\r\n", events(std::slice::from_ref(&error)));
        let upstream = Upstream::playing(move |played| {
            match played.head.contains("token-aaaa-1") {
                true => played.send(&script),
                false => played.send(format!("{SSE}{}0\r\n\r\n", events(&[good()]))),
            }
            true
        });
        let run = Supervise::bare()
            .env("OPENAI_BASE_URL", &upstream.url)
            .env("OPENAI_API_KEYS", "token-aaaa-1,token-bbbb-2");
        let gateway = Gateway::start(run, &["--model", "m"]);
        wait_until_asked(&gateway);
        let answered = gateway.post_to("/openai/v1/responses", json!({"stream": true}));
        assert!(answered.text().contains("good"), "{error}: {answered:?}");
        let status = gateway.status();
        let left = seconds_left(&status, 1);
        assert!(seconds.contains(&left), "{error}: {left} s");
    }
}

#[test]
fn a_body_that_is_nothing_but_an_error_goes_to_the_next_token() {
    let whole = r#"{"error":{"code":429,"message":"rate limited"},"user_id":"u"}"#;
    // OpenRouter's way of saying it of a choice.
    let choice =
        r#"{"choices":[{"message":{"content":""},"error":{"code":429,"message":"rate limited"}}]}"#;
    for (chunked, error) in [(false, whole), (true, whole), (false, choice)] {
        let (_upstream, gateway) = two(move |played, is_first| {
            let body = match is_first {
                true => error,
                false => r#"{"id":"g","choices":[],"error":null}"#,
            };
            let kind = "Content-Type: application/json\r\n";
            match chunked {
                false => played.answer(200, kind, body),
                true => played.send(format!(
                    "HTTP/1.1 200 OK\r\n{kind}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                    body.len()
                )),
            }
        });
        assert_eq!(gateway.post(json!({})).json()["id"], "g");
    }
}

#[test]
fn a_compressed_error_that_nobody_has_asked_for_is_read() {
    let text = r#"{"type":"error","error":{"type":"invalid_request_error","message":"You have reached your specified API usage limits. You will regain access on 2099-01-01 at 00:00 UTC."}}"#;
    let sent = zipped(text);
    let (_upstream, gateway) = two(move |played, is_first| match is_first {
        true => {
            let length = sent.len();
            played.send(format!(
                "HTTP/1.1 400 No\r\nContent-Encoding: gzip\r\nContent-Length: {length}\r\n\r\n"
            ));
            played.send(&sent);
        }
        false => played.answer(200, "", "good"),
    });
    assert_eq!(gateway.post(json!({})).text(), "good");
    assert_eq!(gateway.status()["tokens"][0]["condition"], "spend-capped");
}

fn zipped(text: &str) -> Vec<u8> {
    let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    zip.write_all(text.as_bytes()).unwrap();
    zip.finish().unwrap()
}

/// The provider may have done it: a batch would be there twice, and cost twice.
#[test]
fn what_makes_something_is_not_asked_for_twice() {
    type Play = fn(&mut Played, bool);
    let fails: [(&str, Play); 4] = [
        ("500", |played, _| played.answer(500, "", "{}")),
        ("502", |played, _| {
            played.answer(502, "Content-Type: text/html\r\n", "<html>");
        }),
        ("closed", |_, _| {}),
        ("not HTTP", |played, _| played.send("SSH-2.0-x\r\n")),
    ];
    for (name, fail) in fails {
        let (upstream, gateway) = two_closing(fail);
        for path in ["messages/batches", "files"] {
            let before = upstream.count();
            let answered = gateway.post_to(&format!("/anthropic/v1/{path}"), json!({}));
            assert!(answered.status >= 500, "{name} {answered:?}");
            assert_eq!(upstream.count() - before, 1, "{name} {path}");
        }
        // Looking at it makes nothing.
        let before = upstream.count();
        assert!(gateway.get("/anthropic/v1/files").status >= 500);
        let least = if name == "not HTTP" { 1 } else { 3 };
        assert!(upstream.count() - before >= least, "{name}");
    }
}

/// As the SDKs of Anthropic and OpenAI have it.
#[test]
fn what_is_not_to_be_asked_again_is_not() {
    for (status, should, asked) in [(500, "false", 1), (529, "false", 1), (500, "true", 3)] {
        let (upstream, gateway) = two(move |played, _| match played.number {
            0 | 1 => played.answer(status, &format!("x-should-retry: {should}\r\n"), "{}"),
            _ => played.answer(200, "", "good"),
        });
        gateway.post(json!({}));
        assert_eq!(upstream.count(), asked, "{status} {should}");
    }
}

/// A limit and an overload are refusals.
#[test]
fn what_was_refused_is_asked_for_again_whatever_it_makes() {
    for status in [429, 503, 529] {
        let (upstream, gateway) = two(move |played, _| match played.number {
            0 => played.answer(status, "", "{}"),
            _ => played.answer(200, "", "good"),
        });
        let answered = gateway.post_to("/anthropic/v1/files", json!({}));
        assert_eq!((answered.status, upstream.count()), (200, 2), "{status}");
    }
}

/// A prompt that is too long is that with every token, and pays for being read.
#[test]
fn what_is_wrong_with_the_request_is_not_asked_again() {
    let failed = json!({"type": "response.failed", "response": {"error": {"code": "context_length_exceeded", "message": "x"}}});
    let said = events(&[json!({"type": "response.created"}), failed]);
    let upstream = Upstream::playing(move |played| {
        played.send(format!("{SSE}{said}0\r\n\r\n"));
        true
    });
    let run = Supervise::bare()
        .env("OPENAI_BASE_URL", format!("{}/v1", upstream.url))
        .env("OPENAI_API_KEYS", "token-aaaa-1,token-bbbb-2");
    let gateway = Gateway::start(run, &["--model", "m"]);
    let answered = gateway.post_to("/openai/v1/responses", json!({"stream": true}));
    assert!(answered.text().contains("context_length_exceeded"));
    assert_eq!(upstream.count(), 1);
}

/// Google's projects that pay nothing have a limit of 0 for some models, for which nobody can wait.
#[test]
fn a_model_without_any_quota_is_asked_of_another_project_or_refused_at_once() {
    const NO_QUOTA: &str = r#"{"error":{"code":429,"message":"You exceeded your current quota.\n* Quota exceeded for metric: generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 0, model: gemini-3-pro\nPlease retry in 22.6s.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"22s"}]}}"#;
    let provider = Canned::start(|asked| match asked.token.ends_with('1') {
        true => (429, "", NO_QUOTA),
        false => (200, "", r#"{"candidates":[]}"#),
    });
    let path = "/gemini/v1beta/models/gemini-3-pro:generateContent";
    for (tokens, status) in [
        ("AIzaTESTaaaaaaaaaaaa1", 429),
        ("AIzaTESTaaaaaaaaaaaa1,AIzaTESTbbbbbbbbbbbb2", 200),
    ] {
        let run = Supervise::bare()
            .env("GOOGLE_GEMINI_BASE_URL", &provider.url)
            .env("GEMINI_API_KEYS", tokens);
        let gateway = Gateway::start(run, &[]);
        let mut wire = gateway.wire();
        wire.send(gateway.request(path, "", "{}"));
        assert_eq!(wire.answer().status, status);
    }
}

/// What nobody can read without an inflater, and goes to the client as it came.
#[test]
fn a_compressed_stream_is_looked_into_and_stays_compressed() {
    let (_upstream, gateway) = two(|played, is_first| {
        let said = if is_first { limit() } else { good() };
        let body = zipped(&format!("data: {}\n\ndata: {said}\n\n", start()));
        played.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        ));
        played.send(body);
    });
    let answered = gateway.post(json!({}));
    let whole = format!("data: {}\n\ndata: {}\n\n", start(), good());
    assert_eq!(answered.body, zipped(&whole));
    assert_eq!(answered.field("content-encoding"), Some("gzip"));
    assert_eq!(gateway.status()["tokens"][0]["condition"], "limited");
}

/// Clients that read by the line do not miss the blank lines between events.
#[test]
fn a_stream_without_blank_lines_is_read_by_the_line() {
    let (_upstream, gateway) = two(|played, is_first| {
        let said = if is_first { limit() } else { good() };
        let text = format!("data: {}\ndata: {said}\n", start());
        played.send(format!("{SSE}{:x}\r\n{text}\r\n", text.len()));
        if is_first {
            played.send("0\r\n\r\n");
        } else {
            // The rest takes its time.
            played.wait_closed();
        }
    });
    let mut wire = gateway.wire();
    wire.send(gateway.request("/anthropic/v1/messages", "", "{}"));
    wire.until("good");
    assert_eq!(gateway.status()["tokens"][0]["condition"], "limited");
}

/// What stands between here and the provider says, in place of an answer.
const PAGES: [(u16, &str, &str); 6] = [
    (
        403,
        "Content-Type: text/html; charset=UTF-8\r\n",
        "<!DOCTYPE html><title>Just a moment...</title>",
    ),
    (
        200,
        "Content-Type: text/html\r\n",
        "<html>Please sign in to the hotel's network</html>",
    ),
    (401, "Content-Type: text/html\r\n", "<html>Sign in</html>"),
    (403, "Content-Type: text/plain\r\n", "Access denied"),
    (407, "", ""),
    (
        429,
        "Content-Type: text/html\r\n",
        "<html>error 1015</html>",
    ),
];

#[test]
fn a_page_in_the_place_of_an_answer_is_an_outage_and_condemns_no_token() {
    for (status, fields, page) in PAGES {
        let (upstream, gateway) = two(move |played, _| {
            match played.number {
                0..4 => played.answer(status, fields, page),
                _ => played.answer(200, "", "good"),
            };
        });
        let answered = gateway.post(json!({}));
        assert_eq!(answered.status, 502, "{answered:?}");
        let text = answered.text();
        assert!(text.contains(&format!("(status {status})")), "{text}");
        assert_eq!(upstream.count(), 4, "{status}");
        for token in gateway.status()["tokens"].as_array().unwrap() {
            let condition = token["condition"].as_str().unwrap();
            assert!(
                matches!(condition, "unknown" | "usable"),
                "{status}: {token:#}"
            );
        }
        assert_eq!(gateway.post(json!({})).text(), "good");
        assert_eq!(upstream.count(), 5, "{status}");
        gateway
            .stop()
            .says_once("Anthropic cannot be reached (")
            .never_says("ejected");
    }
}

#[test]
fn status_calls_no_token_usable_or_rejected_for_a_page() {
    for (status, fields, page) in PAGES {
        let upstream = Canned::start(move |_| (status, fields, page));
        let run = Supervise::bare()
            .env("ANTHROPIC_BASE_URL", &upstream.url)
            .env("ANTHROPIC_API_KEY", "token-aaaa-1")
            .start_as(&["status", "--json"]);
        let ended = run.end();
        let told: Value = serde_json::from_slice(&ended.stdout).unwrap();
        let condition = told["tokens"][0]["condition"].as_str().unwrap();
        assert_eq!(condition, "unknown", "{status}: {told:#}");
        assert_ne!(ended.code(), 0, "{status}");
    }
}

#[test]
fn a_command_that_dies_of_a_firewalls_page_is_started_again_when_the_page_is_gone() {
    let is_blocked = Arc::new(AtomicBool::new(false));
    let blocked = is_blocked.clone();
    let upstream = Canned::start(move |_| match blocked.load(Ordering::SeqCst) {
        true => PAGES[0],
        false => (200, "anthropic-organization-id: o\r\n", "{}"),
    });
    let mut run = Supervise::bare()
        .env("ANTHROPIC_BASE_URL", &upstream.url)
        .env("ANTHROPIC_API_KEY", "token-aaaa-1")
        .options(&["--interval", "200ms"])
        .agent();
    run.wait_ready_with(1);
    is_blocked.store(true, Ordering::SeqCst);
    run.stderr.wait("Anthropic cannot be reached (");
    run.tell("exit 1");
    run.stderr.wait("Waiting until Anthropic answers");
    is_blocked.store(false, Ordering::SeqCst);
    run.wait_ready_with(1);
    run.finish()
        .says_once("Restarted the same command with token 1/1");
}

#[test]
fn a_stream_is_held_back_until_its_first_content() {
    let (_upstream, gateway) = two(|played, _| {
        played.send(format!("{SSE}{}", events(&[start(), empty_block()])));
        std::thread::sleep(Duration::from_millis(700));
        played.send(format!("{}0\r\n\r\n", events(&[good()])));
    });
    let mut wire = gateway.wire();
    wire.send(gateway.request("/anthropic/v1/messages", "", "{}"));
    wire.stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut byte = [0];
    let early = std::io::Read::read(&mut wire.stream, &mut byte);
    assert!(early.is_err(), "something came before the content");
    wire.stream
        .set_read_timeout(Some(crate::support::DEADLINE))
        .unwrap();
    let text = wire.answer().text();
    assert!(
        text.contains("message_start") && text.contains("good"),
        "{text}"
    );
}
