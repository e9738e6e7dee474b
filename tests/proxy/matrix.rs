//! The behaviour matrix: what a provider answers with the first token, and what the application
//! gets. And what many requests do at once.

use crate::support::gateway::{Gateway, message, seconds_left};
use crate::support::upstream::Upstream;
use crate::support::{Provider, organizations, spent_at};
use serde_json::{Value, json};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// The tokens that served requests since `from`, in order, and with which status.
fn used(provider: &mut Provider, from: usize) -> Vec<String> {
    let served = &provider.served()[from..];
    let shown = |line: &Value| {
        let label = line["token_label"].as_str().unwrap();
        format!("{} {}", label.rsplit('#').next().unwrap(), line["status"])
    };
    served.iter().map(shown).collect()
}

/// A proxy over two organizations that answer well, and how many requests were served by now.
fn two() -> (Provider, Gateway, usize) {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let gateway = Gateway::of(&mut provider);
    let from = provider.served().len();
    (provider, gateway, from)
}

/// The same over two tokens of one organization.
fn one_quota() -> (Provider, Gateway, usize) {
    let places = ["org-1", "org-1"];
    let mut provider = Provider::start("anthropic", &places, organizations(&[0.1]), json!([]));
    let gateway = Gateway::of(&mut provider);
    let from = provider.served().len();
    (provider, gateway, from)
}

fn token_1(fault: Value) -> Value {
    let mut answer = fault;
    answer["token"] = json!("anthropic#1");
    json!({"answer": answer})
}

#[test]
fn a_spent_quota_goes_on_with_the_next_token_and_its_reset_is_remembered() {
    let (mut provider, gateway, from) = two();
    provider.control(spent_at("org-1", "2h"));
    for _ in 0..3 {
        assert_eq!(gateway.post(json!({})).status, 200);
    }
    assert_eq!(
        used(&mut provider, from),
        ["1 429", "2 200", "2 200", "2 200"]
    );
    let status = gateway.status();
    let left = seconds_left(&status, 1);
    assert!((7100..=7200).contains(&left), "{status:#}");
    assert_eq!(status["tokens"][0]["condition"], "limited");
    gateway.stop().says_once("Switched to token 2/2");
}

#[test]
fn a_limit_of_seconds_goes_on_with_another_quota_at_once() {
    let (mut provider, gateway, from) = two();
    provider.control(token_1(
        json!({"fault": "429", "retry_after": 3, "times": 1}),
    ));
    let began = Instant::now();
    assert_eq!(gateway.post(json!({})).status, 200);
    assert!(began.elapsed() < Duration::from_secs(3), "it has waited");
    assert_eq!(used(&mut provider, from), ["1 429", "2 200"]);
    gateway.stop().says_once("Switched to token 2/2");
}

#[test]
fn a_limit_of_seconds_is_waited_for_when_every_token_shares_it() {
    let (mut provider, gateway, from) = one_quota();
    provider.control(token_1(
        json!({"fault": "429", "retry_after": 2, "times": 1}),
    ));
    let began = Instant::now();
    assert_eq!(gateway.post(json!({})).status, 200);
    assert!(
        began.elapsed() >= Duration::from_millis(1900),
        "it has not waited"
    );
    assert_eq!(used(&mut provider, from), ["1 429", "1 200"]);
    assert_eq!(gateway.status()["held"], 1);
    gateway
        .stop()
        .says_once("2 tokens, 1 quota: rotating cannot help");
}

#[test]
fn a_far_reset_of_the_only_quota_is_told_at_once_and_the_other_token_is_not_tried() {
    let (mut provider, gateway, from) = one_quota();
    provider.control(spent_at("org-1", "2h"));
    for _ in 0..3 {
        let answered = gateway.post(json!({}));
        assert_eq!(answered.status, 429);
        let seconds: u64 = answered.field("retry-after").unwrap().parse().unwrap();
        assert!((7100..=7200).contains(&seconds), "{}", answered.head);
        assert_eq!(answered.json()["error"]["type"], "rate_limit_error");
    }
    assert_eq!(used(&mut provider, from), ["1 429"]);
    gateway.stop().says_once("All tokens exhausted");
}

#[test]
fn an_error_before_the_first_content_of_a_stream_goes_on_with_the_next_token() {
    for (kind, events) in [
        ("rate_limit_error", 0),
        ("rate_limit_error", 1),
        ("billing_error", 0),
    ] {
        let (mut provider, gateway, from) = two();
        provider.control(token_1(
            json!({"fault": "stream-error", "kind": kind, "events": events}),
        ));
        let answered = gateway.post(json!({"stream": true}));
        let text = answered.text();
        assert!(answered.whole && text.contains("message_stop"), "{text}");
        assert!(!text.contains("error"), "{text}");
        assert_eq!(
            text.matches("message_start").count(),
            2,
            "once, and its event: {text}"
        );
        assert_eq!(used(&mut provider, from), ["1 200", "2 200"]);
    }
}

#[test]
fn an_overload_in_a_stream_is_tried_again_like_any_other() {
    let (mut provider, gateway, from) = two();
    provider.control(token_1(json!({"fault": "stream-error"})));
    let answered = gateway.post(json!({"stream": true}));
    assert!(answered.text().contains("message_stop"), "{answered:?}");
    assert_eq!(
        used(&mut provider, from),
        ["1 200", "1 200", "1 200", "2 200"]
    );
}

#[test]
fn an_error_after_content_goes_to_the_application() {
    let (mut provider, gateway, from) = two();
    provider.control(token_1(json!({"fault": "stream-error", "events": 4})));
    let answered = gateway.post(json!({"stream": true}));
    let text = answered.text();
    assert!(answered.whole && text.ends_with("\n\n"), "{text}");
    assert!(
        text.contains("overloaded_error") && text.contains("\"Do\""),
        "{text}"
    );
    assert_eq!(used(&mut provider, from), ["1 200"]);
}

#[test]
fn a_spend_limit_goes_on_with_the_next_token_until_its_date() {
    for fault in ["user-spend-limit", "spend-cap", "credit-balance"] {
        let (mut provider, gateway, from) = two();
        provider.control(token_1(json!({"fault": fault})));
        for _ in 0..2 {
            assert_eq!(gateway.post(json!({})).status, 200, "{fault}");
        }
        let status = gateway.status();
        assert_eq!(status["tokens"][0]["condition"], "spend-capped", "{fault}");
        assert_eq!(
            status["tokens"][0]["until"].is_null(),
            fault == "credit-balance"
        );
        let used = used(&mut provider, from);
        assert!(used[0] == "1 400" || used[0] == "1 429", "{used:?}");
        assert_eq!(used[1..], ["2 200", "2 200"]);
    }
}

#[test]
fn while_every_token_is_capped_the_provider_is_not_asked() {
    let (mut provider, gateway, from) = two();
    provider.fault("credit-balance");
    for _ in 0..4 {
        let answered = gateway.post(json!({}));
        assert_eq!(answered.status, 429);
        assert_eq!(answered.field("retry-after"), None);
        assert_eq!(answered.field("x-should-retry"), Some("false"));
    }
    assert_eq!(used(&mut provider, from), ["1 400", "2 400"]);
}

#[test]
fn an_overload_is_tried_again_and_then_with_one_other_token() {
    let (mut provider, gateway, from) = two();
    provider.control(token_1(json!({"fault": "529", "times": 1})));
    assert_eq!(gateway.post(json!({})).status, 200);
    assert_eq!(used(&mut provider, from), ["1 529", "1 200"]);

    let from = provider.served().len();
    provider.control(token_1(json!({"fault": "529"})));
    assert_eq!(gateway.post(json!({})).status, 200);
    assert_eq!(
        used(&mut provider, from),
        ["1 529", "1 529", "1 529", "2 200"]
    );

    let from = provider.served().len();
    provider.fault("529");
    provider.control(json!({"clear": {"token": "anthropic#1"}}));
    let answered = gateway.post(json!({}));
    assert_eq!(answered.status, 529);
    assert_eq!(answered.json()["error"]["type"], "overloaded_error");
    assert_eq!(
        used(&mut provider, from),
        ["1 529", "1 529", "1 529", "2 529"]
    );
    gateway.stop().never_says("Switched");
}

#[test]
fn in_an_overload_many_requests_wait_for_their_hop() {
    // The second token answers nobody until every request has tried the first one in vain.
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let upstream = Upstream::playing(move |played| {
        if played.head.contains("token-aaaa-1") {
            played.answer(529, "", "{}");
        } else {
            // Once the other end is gone, this returns at once.
            let _ = gate.lock().unwrap().recv();
            played.answer(200, "", "{}");
        }
        true
    });
    let gateway = Gateway::to(&upstream.url, "token-aaaa-1,token-aaaa-2", &[]);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..12)
            .map(|_| scope.spawn(|| gateway.post(json!({})).status))
            .collect();
        for _ in 0..3 * 12 + 4 {
            let _ = upstream.wait();
        }
        crate::support::gateway::a_moment();
        assert_eq!(upstream.count(), 3 * 12 + 4);
        drop(go);
        for client in clients {
            assert_eq!(client.join().unwrap(), 200);
        }
    });
}

#[test]
fn a_rejected_token_is_left() {
    let (mut provider, gateway, _) = two();
    provider.control(token_1(json!({"fault": "401"})));
    // The first rejection of a token that has worked may be the provider's own trouble.
    for _ in 0..4 {
        assert_eq!(gateway.post(json!({})).status, 200);
    }
    assert_eq!(gateway.status()["tokens"][0]["condition"], "rejected");
    let from = provider.served().len();
    assert_eq!(gateway.post(json!({})).status, 200);
    assert_eq!(used(&mut provider, from), ["2 200"]);
    gateway.stop().says_once(
        "⚠️  Anthropic rejected token 1/2 …9c-1 from ANTHROPIC_API_KEY: invalid x-api-key\n",
    );
}

#[test]
fn what_is_about_the_request_goes_to_the_application_untouched() {
    let (mut provider, gateway, from) = two();
    provider.fault("404");
    let answered = gateway.post(json!({}));
    assert_eq!(answered.status, 404);
    assert_eq!(answered.json()["error"]["type"], "not_found_error");
    // What it asks for may belong to another organization.
    assert_eq!(used(&mut provider, from), ["1 404", "2 404"]);
}

#[test]
fn openai_has_the_same_in_its_own_words() {
    let mut provider = Provider::openai(&[0.1, 0.1]);
    let gateway = Gateway::of(&mut provider);
    let from = provider.served().len();
    provider.control(json!({"answer": {"token": "openai#1", "fault": "stream-error", "kind": "rate_limit_exceeded"}}));
    let answered = gateway.post_to("/openai/v1/chat/completions", json!({"stream": true}));
    assert!(answered.text().contains("[DONE]"), "{answered:?}");
    assert_eq!(used(&mut provider, from), ["1 200", "2 200"]);
    provider.control(json!({"clear": {"token": "openai#1"}}));
    provider.fault("insufficient-quota");
    let gateway = Gateway::of(&mut provider);
    let answered = gateway.post_to("/openai/v1/chat/completions", json!({}));
    assert_eq!(answered.status, 429);
    assert_eq!(
        answered.json()["error"]["code"],
        "insufficient_quota",
        "{answered:?}"
    );
}

#[test]
fn at_a_switch_four_requests_go_first_and_all_are_answered() {
    // The second token answers nobody until the test has seen who came.
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let open = std::sync::atomic::AtomicBool::new(false);
    let all_refused = Barrier::new(32);
    let upstream = Upstream::playing(move |played| {
        use std::sync::atomic::Ordering::SeqCst;
        if played.head.contains("token-aaaa-1") {
            // All of them are on their way when the first one is refused.
            all_refused.wait();
            played.answer(429, "retry-after: 7200\r\n", "{}");
        } else {
            if !open.load(SeqCst) {
                let _ = gate.lock().unwrap().recv();
                open.store(true, SeqCst);
            }
            played.answer(200, "", "{}");
        }
        true
    });
    let gateway = Gateway::to(&upstream.url, "token-aaaa-1,token-aaaa-2", &[]);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..32)
            .map(|_| scope.spawn(|| gateway.post(json!({})).status))
            .collect();
        for _ in 0..32 + 4 {
            let _ = upstream.wait();
        }
        // The others know of the switch by now, and stay.
        gateway.eventually_status(|status| status["tokens"][0]["refused"] == 32);
        crate::support::gateway::a_moment();
        assert_eq!(upstream.count(), 32 + 4);
        drop(go);
        for client in clients {
            assert_eq!(client.join().unwrap(), 200);
        }
    });
    assert_eq!(upstream.count(), 32 + 32);
}

#[test]
fn round_robin_and_headroom_share_the_work() {
    let mut provider = Provider::anthropic(&[0.1, 0.5]);
    let gateway = Gateway::with(&mut provider, &["--strategy", "round-robin"]);
    let from = provider.served().len();
    for _ in 0..4 {
        assert_eq!(gateway.post(json!({})).status, 200);
    }
    assert_eq!(
        used(&mut provider, from),
        ["1 200", "2 200", "1 200", "2 200"]
    );
    let gateway = Gateway::with(&mut provider, &["--strategy", "headroom"]);
    provider.set("org-1", 0.9);
    let from = provider.served().len();
    for _ in 0..3 {
        assert_eq!(gateway.post(json!({})).status, 200);
    }
    assert_eq!(used(&mut provider, from), ["1 200", "2 200", "2 200"]);
}

#[test]
fn a_held_request_whose_client_goes_away_is_dropped() {
    let (mut provider, gateway, from) = one_quota();
    provider.control(spent_at("org-1", "5m"));
    let mut wire = gateway.wire();
    wire.send(gateway.request("/anthropic/v1/messages", "", &message(json!({}))));
    gateway.eventually_status(|status| status["held"] == 1);
    drop(wire);
    gateway.eventually_status(|status| status["connections"] == 1);
    assert_eq!(used(&mut provider, from), ["1 429"]);
}
