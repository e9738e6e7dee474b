//! Ways to a provider other than the usual one: base URLs, large bodies, changes of protocol.

use crate::support::gateway::{Gateway, Wire};
use crate::support::proc;
use crate::support::upstream::Upstream;
use crate::support::{DEADLINE, Supervise};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::mpsc::channel;

const TOKEN: &str = "token-bbbb-1";
const MIB: usize = 1024 * 1024;

/// A proxy with one token of a provider, whose base URL stands in `variable`.
fn of(provider: &str, variable: &str, address: &str) -> Gateway {
    let run = Supervise::bare()
        .env(variable, address)
        .env(&format!("{provider}_API_KEY"), TOKEN);
    Gateway::start(run, &["--model", "m"])
}

fn echo_path() -> Upstream {
    Upstream::playing(|played| {
        let path = played.head.split(' ').nth(1).unwrap().to_owned();
        played.answer(200, "", &path);
        true
    })
}

#[test]
fn a_base_url_with_or_without_a_version_reaches_the_same_place() {
    let upstream = echo_path();
    for (provider, variable, end, paths, expected) in [
        (
            "ANTHROPIC",
            "ANTHROPIC_BASE_URL",
            "",
            ["/anthropic/v1/messages", "/anthropic/messages"],
            "/v1/messages",
        ),
        (
            "ANTHROPIC",
            "ANTHROPIC_BASE_URL",
            "/v1",
            ["/anthropic/v1/messages", "/anthropic/messages"],
            "/v1/messages",
        ),
        (
            "OPENAI",
            "OPENAI_BASE_URL",
            "/v1",
            ["/openai/v1/responses", "/openai/responses"],
            "/v1/responses",
        ),
        (
            "GEMINI",
            "GOOGLE_GEMINI_BASE_URL",
            "",
            [
                "/gemini/v1beta/models/g:generateContent",
                "/gemini/models/g:generateContent",
            ],
            "/v1beta/models/g:generateContent",
        ),
        (
            "OPENROUTER",
            "OPENROUTER_API_BASE",
            "/api/v1",
            [
                "/openrouter/v1/chat/completions",
                "/openrouter/chat/completions",
            ],
            "/api/v1/chat/completions",
        ),
    ] {
        let gateway = of(provider, variable, &format!("{}{end}", upstream.url));
        for path in paths {
            assert_eq!(gateway.post_to(path, json!({})).text(), expected, "{path}");
        }
    }
}

/// A client that follows it would leave the proxy, and its secret is worth nothing at the provider.
#[test]
fn a_redirect_within_the_provider_leads_to_the_proxy() {
    let upstream = Upstream::playing(|played| {
        let host = played.head.split("ost: ").nth(1).unwrap();
        let host = host.split("\r\n").next().unwrap();
        let body: Value = serde_json::from_slice(&played.body).unwrap_or_default();
        let location = body["to"].as_str().unwrap_or_default();
        let location = location.replace("HERE", &format!("http://{host}"));
        played.answer(307, &format!("Location: {location}\r\n"), "");
        true
    });
    let openai = of(
        "OPENAI",
        "OPENAI_BASE_URL",
        &format!("{}/own/v1", upstream.url),
    );
    let anthropic = of("ANTHROPIC", "ANTHROPIC_BASE_URL", &upstream.url);
    let path = "/openai/v1/chat/completions";
    for (gateway, path, to, expected) in [
        (
            &openai,
            path,
            "HERE/own/v1/chat/completions/?a=b",
            "/openai/v1/chat/completions/?a=b",
        ),
        (
            &openai,
            path,
            "/own/v1/chat/completions/",
            "/openai/v1/chat/completions/",
        ),
        (&openai, path, "/own/v1/v1/x", "/openai/v1/v1/x"),
        (
            &anthropic,
            "/anthropic/v1/messages",
            "HERE/v1/messages/",
            "/anthropic/v1/messages/",
        ),
        (
            &anthropic,
            "/anthropic/messages",
            "/v1/messages/",
            "/anthropic/v1/messages/",
        ),
        // What the client makes of it stays here anyway.
        (&openai, path, "completions/", "completions/"),
        // Elsewhere, as a signed address of a file is, and what the proxy has no path to.
        (
            &openai,
            path,
            "https://files.example/f?sig=x",
            "https://files.example/f?sig=x",
        ),
        (
            &openai,
            path,
            "//files.example/own/v1/f",
            "//files.example/own/v1/f",
        ),
        (
            &anthropic,
            "/anthropic/v1/messages",
            "//files.example/f",
            "//files.example/f",
        ),
        (
            &openai,
            path,
            "http://127.0.0.1:1/own/v1/f",
            "http://127.0.0.1:1/own/v1/f",
        ),
        (&openai, path, "/login", "/login"),
        (&openai, path, "/own/v10", "/own/v10"),
    ] {
        let answered = gateway.post_to(path, json!({"to": to}));
        assert_eq!(answered.status, 307);
        assert_eq!(answered.field("location"), Some(expected), "{to}");
    }
}

/// Google refuses its own field there ("Missing or invalid Authorization header").
#[test]
fn where_google_answers_as_openai_does_the_token_goes_in_openais_field() {
    let upstream = Upstream::playing(|played| {
        let head = played.head.to_ascii_lowercase();
        let bearer = head.contains(&format!("\nauthorization: bearer {TOKEN}"));
        let own = head.contains(&format!("\nx-goog-api-key: {TOKEN}"));
        played.answer(200, "", &json!([bearer, own]).to_string());
        true
    });
    let gateway = of("GEMINI", "GOOGLE_GEMINI_BASE_URL", &upstream.url);
    for (path, expected) in [
        (
            "/gemini/v1beta/openai/chat/completions",
            json!([true, false]),
        ),
        (
            "/gemini/v1beta/models/m:generateContent",
            json!([false, true]),
        ),
    ] {
        assert_eq!(gateway.post_to(path, json!({})).json(), expected, "{path}");
    }
}

/// Anthropic's SDKs ask there with the credential that they have.
#[test]
fn the_address_of_a_batchs_results_leads_to_the_proxy() {
    let upstream = Upstream::playing(|played| {
        let host = played.head.split("ost: ").nth(1).unwrap();
        let host = host.split("\r\n").next().unwrap();
        let address = format!("http://{host}/v1/messages/batches/b/results");
        let elsewhere = "https://files.example/results";
        let (address, kind) = match played.head.contains("elsewhere") {
            true => (elsewhere, ""),
            false => (address.as_str(), "Content-Type: application/json\r\n"),
        };
        let body = json!({"id": "b", "results_url": address, "type": "message_batch"});
        played.answer(200, kind, &body.to_string());
        true
    });
    let gateway = of("ANTHROPIC", "ANTHROPIC_BASE_URL", &upstream.url);
    let batch = gateway.get("/anthropic/v1/messages/batches/b").json();
    // As the client has called it.
    let address = "http://localhost/anthropic/v1/messages/batches/b/results";
    assert_eq!(
        batch,
        json!({"id": "b", "results_url": address, "type": "message_batch"})
    );
    let batch = gateway
        .get("/anthropic/v1/messages/batches/elsewhere")
        .json();
    assert_eq!(batch["results_url"], "https://files.example/results");
}

#[test]
fn a_path_with_dots_is_refused() {
    let upstream = echo_path();
    let gateway = Gateway::to(&upstream.url, TOKEN, &[]);
    for path in [
        "/anthropic/../x",
        "/anthropic/v1/%2e%2e/x",
        "/anthropic/./v1",
    ] {
        assert_eq!(gateway.post_to(path, json!({})).status, 400, "{path}");
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn our_secret_stays_here_wherever_a_client_puts_it() {
    let upstream = Upstream::playing(|played| {
        let head = played.head.clone();
        played.answer(200, "", &head);
        true
    });
    let gateway = Gateway::to(&upstream.url, TOKEN, &[]);
    let secret = &gateway.secret;
    for (path, fields) in [
        ("/anthropic/v1/x", format!("Cookie: a={secret}; b=c\r\n")),
        (
            "/anthropic/v1/x",
            format!("X-Subscription-Key: {secret}\r\n"),
        ),
        (
            &*format!("/anthropic/v1/x?api-key={secret}&b=c"),
            String::new(),
        ),
        (
            &*format!("/anthropic/v1/x?b=c&token=Bearer%20{secret}"),
            String::new(),
        ),
    ] {
        let mut wire = gateway.wire();
        wire.send(gateway.request(path, &fields, "{}"));
        let answered = wire.answer();
        let text = answered.text();
        assert_eq!(answered.status, 200, "{path} {fields}");
        assert!(!text.contains(secret.as_str()), "{path} {fields}: {text}");
    }
    let in_path = gateway.post_to(&format!("/anthropic/v1/{secret}/x"), json!({}));
    assert_eq!(in_path.status, 400);
    let mut wire = gateway.wire();
    let head = gateway.request("/anthropic/v1/x", "", "");
    wire.send(head.replacen("POST", "TRACE", 1));
    assert_eq!(wire.answer().status, 405);
    assert_eq!(upstream.count(), 4);
}

/// A request's head with a body of this length to come.
fn large(gateway: &Gateway, framing: &str) -> Wire {
    let mut wire = gateway.wire();
    wire.send(format!(
        "POST /anthropic/v1/files HTTP/1.1\r\nHost: localhost\r\nx-api-key: {}\r\n{framing}\r\n\r\n",
        gateway.secret
    ));
    wire
}

#[test]
fn a_body_above_32_mib_goes_through_as_it_comes() {
    let upstream = Upstream::playing(|played| {
        let body = &played.body;
        let is_whole = body.iter().enumerate().all(|(at, byte)| *byte == at as u8);
        let text = format!("{} {is_whole}", body.len());
        played.answer(200, "", &text);
        true
    });
    let gateway = Gateway::to(&upstream.url, TOKEN, &[]);
    let bytes: Vec<u8> = (0..MIB).map(|at| at as u8).collect();
    let mut wire = large(&gateway, &format!("Content-Length: {}", 40 * MIB));
    for _ in 0..40 {
        wire.stream.write_all(&bytes).unwrap();
    }
    assert_eq!(wire.answer().text(), format!("{} true", 40 * MIB));
    // Its connection goes on, and it was not kept in memory.
    wire.send(gateway.request("/anthropic/v1/messages", "", "\0"));
    assert_eq!(wire.answer().text(), "1 true");
    assert!(proc::status(gateway.run.pid, "VmHWM", 10) < 30_000);
}

#[test]
fn a_body_in_chunks_that_turns_out_to_be_too_large_goes_through_in_chunks() {
    let upstream = Upstream::playing(|played| {
        assert!(played.head.contains("\r\nTransfer-Encoding: chunked\r\n"));
        let mut piece = vec![0; 64 * 1024];
        let (mut count, mut end) = (played.body.len(), Vec::new());
        while !end.ends_with(b"\r\n0\r\n\r\n") {
            let more = played.stream.read(&mut piece).unwrap();
            count += more;
            end.extend_from_slice(&piece[more.saturating_sub(7)..more]);
            end.drain(..end.len().saturating_sub(7));
        }
        played.answer(200, "", if count > 33 * MIB { "all" } else { "less" });
        true
    });
    let gateway = Gateway::to(&upstream.url, TOKEN, &[]);
    let mut wire = large(&gateway, "Transfer-Encoding: chunked");
    let chunk = format!("{MIB:x}\r\n{}\r\n", "x".repeat(MIB));
    for _ in 0..34 {
        wire.send(&chunk);
    }
    wire.send("0\r\n\r\n");
    assert_eq!(wire.answer().text(), "all");
}

#[test]
fn a_body_that_was_not_kept_is_sent_once_and_a_refusal_is_passed_on() {
    // After all of it, and before.
    for reads_all in [true, false] {
        let upstream = Upstream::playing(move |played| {
            let refusal = r#"{"type":"error","error":{"type":"rate_limit_error"}}"#;
            played.answer(429, "retry-after: 60\r\nConnection: close\r\n", refusal);
            false
        });
        let gateway = Gateway::to(&upstream.url, "token-aaaa-1,token-bbbb-2", &[]);
        let mut wire = large(&gateway, &format!("Content-Length: {}", 33 * MIB));
        if reads_all {
            wire.send("x".repeat(33 * MIB));
            let answered = wire.answer();
            assert_eq!(answered.status, 429, "{answered:?}");
            assert_eq!(upstream.count(), 1);
        } else {
            // A client that goes away in the middle disturbs nothing.
            wire.send("x".repeat(MIB));
            drop(wire);
        }
        assert_eq!(gateway.get("/ddollar/status").status, 200);
    }
}

const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";

#[test]
fn a_websocket_for_responses_gets_426_and_costs_nothing() {
    let upstream = echo_path();
    let gateway = of("OPENAI", "OPENAI_BASE_URL", &format!("{}/v1", upstream.url));
    for path in [
        "/openai/v1/responses",
        "/openai/responses?x=1",
        "/ddollar/status",
    ] {
        let mut wire = gateway.wire();
        let head = gateway.request(path, HANDSHAKE, "");
        wire.send(head.replacen("POST", "GET", 1));
        assert_eq!(wire.answer().status, 426, "{path}");
    }
    assert_eq!(upstream.count(), 0);
    let answered = gateway.post_to("/openai/v1/responses", json!({}));
    assert_eq!(answered.text(), "/v1/responses");
}

#[test]
fn any_other_websocket_is_a_tunnel_with_the_token_in_use() {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let upstream = Upstream::playing(move |played| {
        if played.number == 0 {
            // The first token is refused, as any request may be.
            played.answer(429, "retry-after: 60\r\n", "{}");
            return true;
        }
        tell.lock().unwrap().send(played.head.clone()).unwrap();
        played.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: x\r\n\r\nhello",
        );
        // It answers whatever comes, in its own way.
        let mut piece = [0; 1024];
        while let Ok(count @ 1..) = played.stream.read(&mut piece) {
            let echo = piece[..count].to_ascii_uppercase();
            played.send(&echo);
            if echo.ends_with(b"BYE") {
                return false;
            }
        }
        false
    });
    let run = Supervise::bare()
        .env("OPENAI_BASE_URL", format!("{}/v1", upstream.url))
        .env("OPENAI_API_KEYS", "token-aaaa-1,token-bbbb-2");
    let gateway = Gateway::start(run, &["--model", "m"]);
    gateway.eventually_status(|status| {
        let tokens = status["tokens"].as_array().unwrap();
        tokens.iter().all(|token| token["condition"] == "usable")
    });
    let mut wire = gateway.wire();
    let head = gateway.request("/openai/v1/realtime?model=m", HANDSHAKE, "");
    wire.send(
        head.replacen("POST", "GET", 1)
            .replace("Content-Length: 0\r\n", "")
            + "ahead",
    );
    let head = wire.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(
        head.contains("\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"),
        "{head}"
    );
    let asked = told.recv_timeout(DEADLINE).unwrap();
    assert!(
        asked.starts_with("GET /v1/realtime?model=m HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(
        asked.contains("token-bbbb-2") && !asked.contains(&gateway.secret),
        "{asked}"
    );
    assert!(
        asked.contains("\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"),
        "{asked}"
    );
    wire.until("hello");
    wire.until("AHEAD");
    for word in ["one", "two", "bye"] {
        wire.send(word);
        wire.until(&word.to_uppercase());
    }
    assert_eq!(wire.until_the_end(), "");
}
