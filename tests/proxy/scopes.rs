//! A refusal has a scope, and a second token is its witness: what one answer says of the others.

use crate::support::Supervise;
use crate::support::canned::Canned;
use crate::support::gateway::{Answered, Gateway};
use crate::support::upstream::{Played, Upstream};
use serde_json::{Value, json};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const TOKENS: &str = "token-aaaa-1,token-bbbb-2";
const LIMITED: &str = r#"{"type":"error","error":{"type":"rate_limit_error","message":"x"}}"#;
/// Nobody waits for a limit here.
const NO_HOLD: [&str; 2] = ["--hold", "0s"];

/// The number at the end of the token that a request carries.
fn token(played: &Played) -> usize {
    let mut lines = played.head.lines().filter_map(|line| line.split_once(": "));
    let (_, token) = lines
        .find(|(name, _)| name.eq_ignore_ascii_case("x-api-key"))
        .unwrap();
    token.rsplit('-').next().unwrap().parse().unwrap()
}

fn model(played: &Played) -> String {
    let body: Value = serde_json::from_slice(&played.body).unwrap_or_default();
    body["model"].as_str().unwrap_or_default().to_owned()
}

/// Each token is of an organization of its own, as each answer says.
fn organization(played: &Played) -> String {
    format!("anthropic-organization-id: org-{}\r\n", token(played))
}

/// A proxy before a provider that answers so, and the tokens that its requests came with.
fn before(
    play: impl Fn(&mut Played) -> (u16, String, &'static str) + Send + Sync + 'static,
) -> (Gateway, Arc<Mutex<Vec<usize>>>) {
    before_with(&NO_HOLD, play)
}

/// The same with these options.
fn before_with(
    options: &[&str],
    play: impl Fn(&mut Played) -> (u16, String, &'static str) + Send + Sync + 'static,
) -> (Gateway, Arc<Mutex<Vec<usize>>>) {
    let used = Arc::new(Mutex::new(Vec::new()));
    let all = used.clone();
    let upstream = Upstream::playing(move |played| {
        all.lock().unwrap().push(token(played));
        let (status, fields, body) = play(played);
        let fields = fields + &organization(played);
        played.answer(status, &fields, body);
        true
    });
    (Gateway::to(&upstream.url, TOKENS, options), used)
}

fn taken(used: &Mutex<Vec<usize>>) -> Vec<usize> {
    std::mem::take(&mut *used.lock().unwrap())
}

fn post(gateway: &Gateway, path: &str, body: &str) -> Answered {
    let mut wire = gateway.wire();
    wire.send(gateway.request(path, "", body));
    wire.answer()
}

fn ask(gateway: &Gateway, model: &str) -> u16 {
    gateway.post(json!({"model": model})).status
}

fn served() -> (u16, String, &'static str) {
    (200, String::new(), "{}")
}

#[test]
fn a_limit_of_one_model_leaves_the_other_models_of_the_token_alone() {
    let (gateway, used) = before(|played| match model(played).contains("opus") {
        true => (429, "retry-after: 3600\r\n".into(), LIMITED),
        false => served(),
    });
    assert_eq!(ask(&gateway, "claude-opus-5-5"), 429);
    assert_eq!(taken(&used), [1, 2], "each group once");
    assert_eq!(ask(&gateway, "claude-haiku-5-5"), 200);
    assert_eq!(taken(&used), [1]);
    // Known, and not asked again.
    let answered = gateway.post(json!({"model": "claude-opus-5-5"}));
    assert_eq!(answered.status, 429);
    let seconds: u64 = answered.field("retry-after").unwrap().parse().unwrap();
    assert!((3590..=3600).contains(&seconds), "{seconds}");
    assert!(taken(&used).is_empty());
    gateway
        .stop()
        .says(&["token 1/2", "; for claude-opus-5-5; until"]);
}

#[test]
fn models_that_share_a_bucket_are_spent_together() {
    let (gateway, used) = before(|_| (429, "retry-after: 3600\r\n".into(), LIMITED));
    assert_eq!(ask(&gateway, "claude-sonnet-4-5-20250929"), 429);
    assert_eq!(taken(&used), [1, 2]);
    assert_eq!(ask(&gateway, "claude-sonnet-4-6"), 429);
    assert!(taken(&used).is_empty());
    gateway.stop();
}

#[test]
fn a_limit_of_counting_leaves_messages_free() {
    let (gateway, used) = before(|played| match played.head.contains("count_tokens") {
        true => (429, "retry-after: 3600\r\n".into(), LIMITED),
        false => served(),
    });
    let path = "/anthropic/v1/messages/count_tokens";
    assert_eq!(gateway.post_to(path, json!({})).status, 429);
    assert_eq!(taken(&used), [1, 2]);
    assert_eq!(gateway.post(json!({})).status, 200);
    assert_eq!(taken(&used), [1]);
    gateway
        .stop()
        .says(&["token 1/2", "; for token counts; until"]);
}

#[test]
fn counting_that_has_to_wait_is_no_wait_of_the_run() {
    let upstream = Upstream::playing(|played| {
        match played.head.contains("count_tokens") {
            true => played.answer(429, "retry-after: 3600\r\n", LIMITED),
            false => played.answer(200, "", "{}"),
        }
        true
    });
    let mut gateway = Gateway::to(&upstream.url, TOKENS, &["--hold", "2h"]);
    let mut wire = gateway.wire();
    wire.send(gateway.request("/anthropic/v1/messages/count_tokens", "", "{}"));
    gateway.run.stderr.wait("No token for token counts until ");
    assert_eq!(gateway.post(json!({})).status, 200);
    gateway.stop().never_says("exhausted").never_says("Waiting");
}

#[test]
fn the_windows_of_one_model_say_nothing_of_another() {
    let (gateway, used) = before(|played| {
        let left = match model(played).contains("haiku") {
            true => 1,
            false => 900,
        };
        let fields = format!(
            "anthropic-ratelimit-requests-limit: 1000\r\nanthropic-ratelimit-requests-remaining: {left}\r\n"
        );
        (200, fields, "{}")
    });
    assert_eq!(ask(&gateway, "claude-opus-5-5"), 200);
    assert_eq!(taken(&used), [1]);
    // Near its limit: the next one goes to the other token.
    for _ in 0..2 {
        assert_eq!(ask(&gateway, "claude-haiku-5-5"), 200);
    }
    assert_eq!(taken(&used), [1, 2]);
    assert_eq!(ask(&gateway, "claude-opus-5-5"), 200);
    assert_eq!(taken(&used), [1]);
    gateway.stop();
}

/// The request itself is too large: what the client hears at once, and no token is thought worse of.
#[test]
fn what_two_groups_refuse_alike_is_the_requests_own_fault() {
    let (gateway, used) = before(|played| {
        match played.body.len() > 10_000 {
        true => (
            429,
            "anthropic-ratelimit-tokens-limit: 30000\r\nanthropic-ratelimit-tokens-remaining: 30000\r\n"
                .into(),
            LIMITED,
        ),
        false => served(),
    }
    });
    let large = "w".repeat(20_000);
    for _ in 0..2 {
        let began = Instant::now();
        let answered = gateway.post(json!({"messages": large}));
        assert_eq!(answered.status, 429);
        assert_eq!(answered.text(), LIMITED);
        assert!(began.elapsed() < Duration::from_secs(15));
        assert_eq!(taken(&used), [1, 2]);
        assert_eq!(gateway.post(json!({})).status, 200);
        assert_eq!(taken(&used), [1]);
    }
    gateway.stop().never_says("Token limit reached");
}

#[test]
fn what_another_group_serves_was_the_first_tokens_fault() {
    for status in [429, 402, 403, 413] {
        let (gateway, used) =
            before(
                move |played| match token(played) == 1 && model(played).contains("haiku") {
                    true => (status, String::new(), "{}"),
                    false => served(),
                },
            );
        assert_eq!(ask(&gateway, "claude-opus-5-5"), 200);
        assert_eq!(taken(&used), [1], "{status}");
        assert_eq!(gateway.post(json!({})).status, 200, "{status}");
        assert_eq!(taken(&used), [1, 2], "{status}");
        assert_eq!(gateway.post(json!({})).status, 200, "{status}");
        assert_eq!(taken(&used), [2], "{status}");
        // And only there.
        assert_eq!(ask(&gateway, "claude-opus-5-5"), 200);
        assert_eq!(taken(&used), [1], "{status}");
        gateway.stop();
    }
}

#[test]
fn one_token_alone_has_no_witness() {
    let upstream = Upstream::playing(|played| {
        played.answer(429, "", LIMITED);
        true
    });
    let gateway = Gateway::to(&upstream.url, "token-aaaa-1", &[]);
    for _ in 0..2 {
        assert_eq!(gateway.post(json!({})).status, 429);
    }
    assert_eq!(upstream.count(), 2);
    gateway.stop();
}

#[test]
fn what_one_organization_owns_is_found_with_its_token() {
    let (gateway, used) =
        before(
            |played| match (token(played), played.head.contains("/files/f")) {
                (1, true) => (404, String::new(), r#"{"type":"error"}"#),
                _ => served(),
            },
        );
    assert_eq!(gateway.get("/anthropic/v1/files/f").status, 200);
    assert_eq!(taken(&used), [1, 2]);
    // Its owner is known now, also when something else is asked of it.
    assert_eq!(gateway.get("/anthropic/v1/files/f?beta=1").status, 200);
    assert_eq!(taken(&used), [2]);
    assert_eq!(gateway.post(json!({})).status, 200);
    assert_eq!(taken(&used), [1], "nobody is condemned");
    gateway.stop();
}

/// Pictures have a limit of their own, and a file is not gone because its owner is limited for a second.
#[test]
fn what_one_organization_owns_is_found_while_that_is_limited() {
    let is_spent = Arc::new(AtomicBool::new(false));
    let spent = is_spent.clone();
    let (gateway, used) = before_with(&["--hold", "1m"], move |played| {
        if played.head.contains("/images/") {
            (429, "retry-after: 600\r\n".into(), LIMITED)
        } else if token(played) == 1 {
            (404, String::new(), r#"{"type":"error"}"#)
        } else if spent.swap(false, SeqCst) {
            (429, "retry-after: 1\r\n".into(), LIMITED)
        } else {
            served()
        }
    });
    let path = "/anthropic/v1/files/f";
    assert_eq!(gateway.get(path).status, 200);
    assert_eq!(post(&gateway, "/anthropic/v1/images/x", "{}").status, 429);
    assert_eq!(taken(&used), [1, 2, 1, 2]);
    assert_eq!(gateway.get(path).status, 200);
    assert_eq!(taken(&used), [2]);
    is_spent.store(true, SeqCst);
    for expected in [&[2, 1, 2][..], &[2]] {
        assert_eq!(gateway.get(path).status, 200);
        assert_eq!(taken(&used), expected);
    }
    gateway.stop();
}

#[test]
fn what_nobody_has_is_asked_for_once_with_each_group() {
    let (gateway, used) = before(|_| (404, String::new(), r#"{"type":"error"}"#));
    for _ in 0..2 {
        assert_eq!(gateway.get("/anthropic/v1/files/none").status, 404);
        assert_eq!(taken(&used), [1, 2]);
    }
    gateway.stop();
}

/// A model that the first organization does not have is asked of the second from then on, and a request for it
/// waits for that one's limit: the first one's refusal would end the client.
#[test]
fn a_model_that_one_organization_has_is_asked_of_that_one() {
    const ABSENT: &str = r#"{"type":"error","error":{"type":"not_found_error","message":"model: claude-mythos-5-5"}}"#;
    let is_spent = Arc::new(AtomicBool::new(false));
    let spent = is_spent.clone();
    let (gateway, used) = before_with(&["--hold", "1m"], move |played| {
        match (token(played), model(played).contains("mythos")) {
            (1, true) => (404, String::new(), ABSENT),
            (2, true) if spent.swap(false, SeqCst) => (429, "retry-after: 1\r\n".into(), LIMITED),
            _ => served(),
        }
    });
    assert_eq!(ask(&gateway, "claude-mythos-5-5"), 200);
    assert_eq!(taken(&used), [1, 2]);
    for _ in 0..2 {
        assert_eq!(ask(&gateway, "claude-mythos-5-5"), 200);
        assert_eq!(taken(&used), [2]);
    }
    assert_eq!(ask(&gateway, "claude-opus-5-5"), 200);
    assert_eq!(taken(&used), [1], "nobody is condemned");
    is_spent.store(true, SeqCst);
    assert_eq!(ask(&gateway, "claude-mythos-5-5"), 200);
    assert_eq!(taken(&used), [2, 2]);
    gateway.stop();
}

/// OpenAI and Groq say so with other statuses, too.
#[test]
fn a_model_that_a_project_may_not_use_is_asked_of_another() {
    for (status, message, code) in [
        (
            403,
            "Project `proj_x` does not have access to model `m`",
            "model_not_found",
        ),
        (
            403,
            "The model `m` is blocked at the project level.",
            "model_permission_blocked_project",
        ),
        (
            400,
            "The model `m` requires terms acceptance.",
            "model_terms_required",
        ),
        (
            400,
            "Your organization must be verified to stream this model.",
            "unsupported_value",
        ),
    ] {
        let error = json!({"error": {"message": message, "type": "x", "code": code}}).to_string();
        let upstream = Upstream::playing(move |played| {
            let is_first = played.head.contains("token-aaaa-1");
            let organization = format!("openai-organization: org-{is_first}\r\n");
            match is_first {
                true => played.answer(status, &organization, &error),
                false => played.answer(200, &organization, "{}"),
            }
            true
        });
        let run = Supervise::bare()
            .env("OPENAI_BASE_URL", format!("{}/v1", upstream.url))
            .env("OPENAI_API_KEYS", TOKENS);
        let gateway = Gateway::start(run, &NO_HOLD);
        for asked in [2, 3, 4] {
            let path = "/openai/v1/chat/completions";
            assert_eq!(
                gateway.post_to(path, json!({"model": "m"})).status,
                200,
                "{code}"
            );
            assert_eq!(upstream.count(), asked, "{code}");
        }
        gateway.stop();
    }
}

/// A page for administrators, and a model that these organizations may not use.
#[test]
fn what_refuses_every_token_rejects_none() {
    for (status, kind) in [(401, "authentication_error"), (403, "permission_error")] {
        let error = json!({"type": "error", "error": {"type": kind, "message": "x"}}).to_string();
        let error: &'static str = error.leak();
        let (gateway, used) = before(move |played| {
            let is_page = played.head.starts_with("GET ");
            let is_forbidden = status == 403 && model(played).contains("mythos");
            match is_page || is_forbidden {
                true => (status, String::new(), error),
                false => served(),
            }
        });
        for _ in 0..3 {
            assert_eq!(
                gateway.get("/anthropic/v1/organizations/usage").status,
                status
            );
            assert_eq!(taken(&used), [1, 2]);
        }
        if status == 403 {
            for _ in 0..3 {
                assert_eq!(ask(&gateway, "claude-mythos-5-5"), 403);
                assert_eq!(taken(&used), [1, 2]);
            }
        }
        assert_eq!(gateway.post(json!({})).status, 200);
        assert_eq!(taken(&used), [1]);
        gateway.stop().never_says("rejected");
    }
}

#[test]
fn a_token_that_may_do_only_some_things_is_not_rejected() {
    const KEY: &str = "sk-proj-test-aaaaaaaaaaaa1";
    let mut provider = Canned::start(|_| {
        let body = r#"{"error":{"message":"Missing scopes: model.request.","type":"invalid_request_error","param":null,"code":null}}"#;
        (401, "", body)
    });
    // Behind the proxy nothing is checked as long as nothing is wrong.
    for (options, checks) in [(&[][..], 2), (&["--proxy"], 0)] {
        let mut run = Supervise::bare()
            .env("OPENAI_BASE_URL", format!("{}/v1", provider.url))
            .env("OPENAI_API_KEY", KEY)
            .options(&["--no-state", "--interval", "200ms"])
            .options(options)
            .agent();
        run.wait_ready();
        for _ in 0..checks {
            provider.wait_for("POST /v1/chat/completions", KEY);
        }
        run.finish().expect(0).says(&["Process completed"]);
    }
}

#[test]
fn a_leaked_key_of_gemini_is_passed_over_and_shown_as_rejected() {
    let leaked = r#"{"error":{"code":403,"message":"Your API key was reported as leaked.","status":"PERMISSION_DENIED"}}"#;
    let provider = Canned::start(move |asked| match asked.token.ends_with('1') {
        true => (403, "", leaked),
        false => (200, "", r#"{"candidates":[]}"#),
    });
    let prepared = || {
        Supervise::bare()
            .env("GOOGLE_GEMINI_BASE_URL", &provider.url)
            .env(
                "GEMINI_API_KEYS",
                "AIzaTESTaaaaaaaaaaaa1,AIzaTESTbbbbbbbbbbbb2",
            )
    };
    let gateway = Gateway::start(prepared(), &NO_HOLD);
    let path = "/gemini/v1beta/models/gemini-3-flash:generateContent";
    for _ in 0..2 {
        assert_eq!(post(&gateway, path, "{}").status, 200);
    }
    gateway.eventually_status(|status| status["tokens"][0]["condition"] == "rejected");
    gateway.stop();
}

/// What a request of [`another_organizations_reasoning`] sends back: who has encrypted it.
fn reasoning(by: &str) -> Value {
    json!({"type": "reasoning", "summary": [], "encrypted_content": by})
}

/// As OpenAI refuses it (openai/codex#13724): reasoning is read by the organization that has encrypted it
/// alone. While that one has room it is asked; without it, the request goes on without that reasoning, and
/// only once it was refused.
#[test]
fn another_organizations_reasoning_does_not_end_a_conversation() {
    let spent = Arc::new(Mutex::new(""));
    let is_spent = spent.clone();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let all = asked.clone();
    let upstream = Upstream::playing(move |played| {
        let own = match played.head.contains("token-aaaa-1") {
            true => "one",
            false => "two",
        };
        let body: Value = serde_json::from_slice(&played.body).unwrap_or_default();
        let items = body["input"].as_array().cloned().unwrap_or_default();
        let secrets: Vec<&str> = items
            .iter()
            .filter_map(|item| item["encrypted_content"].as_str())
            .collect();
        let organization = format!("openai-organization: org-{own}\r\n");
        let mut all = all.lock().unwrap();
        all.push(format!("{own} {}", secrets.join(",")));
        if own == *is_spent.lock().unwrap() {
            let error =
                r#"{"error":{"message":"x","type":"requests","code":"rate_limit_exceeded"}}"#;
            played.answer(429, &format!("{organization}retry-after: 1\r\n"), error);
        } else if secrets.iter().any(|by| *by != own) {
            let error = r#"{"error":{"message":"The encrypted content could not be verified.","type":"invalid_request_error","param":null,"code":"invalid_encrypted_content"}}"#;
            played.answer(400, &organization, error);
        } else {
            played.answer(200, &organization, &format!("{{\"by\":\"{own}\"}}"));
        }
        true
    });
    let run = Supervise::bare()
        .env("OPENAI_BASE_URL", format!("{}/v1", upstream.url))
        .env("OPENAI_API_KEYS", TOKENS);
    let gateway = Gateway::start(run, &["--hold", "1m"]);
    let ask = |items: &[Value]| {
        let answered = gateway.post_to(
            "/openai/v1/responses",
            json!({"model": "m", "input": items}),
        );
        let was_asked = std::mem::take(&mut *asked.lock().unwrap());
        (
            answered.json()["by"]
                .as_str()
                .unwrap_or("nobody")
                .to_owned(),
            was_asked,
        )
    };
    let mut sent = vec![json!({"type": "message", "content": "hi"})];
    assert_eq!(ask(&sent), ("one".into(), vec!["one ".into()]));
    sent.push(reasoning("one"));
    *spent.lock().unwrap() = "one";
    let first: Vec<String> = ["one one", "two one", "two "].map(str::to_owned).into();
    assert_eq!(ask(&sent), ("two".into(), first));
    sent.push(reasoning("two"));
    assert_eq!(ask(&sent), ("two".into(), vec!["two two".into()]));
    // And back, at the end of the first one's limit: it reads its own, and not the other's.
    *spent.lock().unwrap() = "two";
    let (by, was_asked) = ask(&sent);
    assert_eq!(by, "one", "{was_asked:?}");
    assert_eq!(was_asked.last().unwrap(), "one one");
    gateway.stop().never_says("rejected");
}

/// The organization that has the reasoning, or the stored answer, is asked as long as it has room.
#[test]
fn what_another_organization_keeps_is_asked_of_it() {
    for code in ["invalid_encrypted_content", "previous_response_not_found"] {
        let error = format!(
            r#"{{"error":{{"message":"x","type":"invalid_request_error","code":"{code}"}}}}"#
        );
        let upstream = Upstream::playing(move |played| {
            let is_first = played.head.contains("token-aaaa-1");
            let organization = format!("openai-organization: org-{is_first}\r\n");
            match is_first {
                true => played.answer(400, &organization, &error),
                false => played.answer(200, &organization, "{}"),
            }
            true
        });
        let run = Supervise::bare()
            .env("OPENAI_BASE_URL", format!("{}/v1", upstream.url))
            .env("OPENAI_API_KEYS", TOKENS);
        let gateway = Gateway::start(run, &NO_HOLD);
        for _ in 0..2 {
            let body = json!({"model": "m", "input": [reasoning("two")]});
            assert_eq!(
                gateway.post_to("/openai/v1/responses", body).status,
                200,
                "{code}"
            );
        }
        assert_eq!(
            gateway.status()["tokens"][0]["condition"],
            "unknown",
            "{code}"
        );
        gateway.stop();
    }
}

/// The organization that the client's settings name is that of one token; OpenAI refuses it with others.
#[test]
fn an_organization_that_the_client_names_goes_out_with_its_own_tokens_alone() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let all = heads.clone();
    let upstream = Upstream::playing(move |played| {
        let is_first = played.head.contains("token-aaaa-1");
        let named = played
            .head
            .to_ascii_lowercase()
            .contains("openai-organization: org-true");
        all.lock().unwrap().push((is_first, named));
        let organization = format!("openai-organization: org-{is_first}\r\n");
        if is_first {
            let error = r#"{"error":{"message":"x","type":"insufficient_quota","code":"insufficient_quota"}}"#;
            played.answer(429, &organization, error);
        } else if named {
            let error = r#"{"error":{"message":"OpenAI-Organization header should match organization for API key","type":"invalid_request_error","param":null,"code":"mismatched_organization"}}"#;
            played.answer(401, &organization, error);
        } else {
            played.answer(200, &organization, "{}");
        }
        true
    });
    let run = Supervise::bare()
        .env("OPENAI_BASE_URL", format!("{}/v1", upstream.url))
        .env("OPENAI_API_KEYS", TOKENS);
    let gateway = Gateway::start(run, &NO_HOLD);
    for expected in [
        &[(true, true), (false, true), (false, false)][..],
        &[(false, false)],
    ] {
        let mut wire = gateway.wire();
        let fields = "OpenAI-Organization: org-true\r\n";
        wire.send(gateway.request("/openai/v1/chat/completions", fields, "{\"model\":\"m\"}"));
        assert_eq!(wire.answer().status, 200);
        assert_eq!(std::mem::take(&mut *heads.lock().unwrap()), expected);
    }
    assert_ne!(gateway.status()["tokens"][1]["condition"], "rejected");
    gateway.stop();
}
