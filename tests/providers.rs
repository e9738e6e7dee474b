//! Providers that tell their limits otherwise than Anthropic and OpenAI, or not at all.

use crate::support::canned::{Asked, Canned, Said};
use crate::support::gateway::Gateway;
use crate::support::upstream::Upstream;
use crate::support::{Run, Supervise};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A run with two tokens, `NAME-1` and `NAME-2`. The command says which of them it has.
fn supervise(provider: &Canned, name: &str, base: (&str, &str), options: &[&str]) -> Run {
    let supervise = Supervise::bare()
        .options(&["--interval", "200ms", "--grace", "1m"])
        .options(options)
        .env(name, "token-1")
        .env(&format!("{name}_2"), "token-2")
        .env(base.0, format!("{}{}", provider.url, base.1));
    supervise.script(&format!(
        "trap 'exit 0' TERM\necho \"READY $$ ${{{name}##*-}}\"\nwhile read -r line; do eval \"$line\"; done\n"
    ))
}

const GOOD: Said = (200, "", "{}");

#[test]
fn a_day_of_requests_is_watched_as_one() {
    // Groq: the headers do not say that requests are those of a day.
    let spent = Arc::new(AtomicBool::new(false));
    let theirs = spent.clone();
    let provider = Canned::start(move |asked| match asked.token.as_str() {
        "token-1" if theirs.load(Ordering::SeqCst) => (
            200,
            "x-ratelimit-limit-requests: 1000
             x-ratelimit-remaining-requests: 30
             x-ratelimit-reset-requests: 1h2m59.56s
             x-ratelimit-limit-tokens: 6000
             x-ratelimit-remaining-tokens: 5990
             x-ratelimit-reset-tokens: 17.399999999s",
            "{}",
        ),
        _ => GOOD,
    });
    let options = ["-v", "--model", "llama-x"];
    let base = ("GROQ_API_BASE", "/openai/v1");
    let mut run = supervise(&provider, "GROQ_API_KEY", base, &options);
    run.wait_ready_with(1);
    spent.store(true, Ordering::SeqCst);
    run.wait_ready_with(2);
    run.finish().says(&[
        "Monitor: Groq - Requests-day: 970/1000 (97.0%), Tokens-minute: 10/6000 (0.2%) [token 1]",
        "Token limit approaching (97% used)",
        "Switched to token 2/2",
    ]);
}

#[test]
fn without_a_model_only_the_token_is_checked_and_the_user_is_told() {
    let revoked = Arc::new(AtomicBool::new(false));
    let theirs = revoked.clone();
    let mut provider = Canned::start(move |asked| match asked.token.as_str() {
        "token-1" if theirs.load(Ordering::SeqCst) => (401, "", "{}"),
        _ => GOOD,
    });
    let base = ("GROQ_API_BASE", "/openai/v1");
    let mut run = supervise(&provider, "GROQ_API_KEY", base, &[]);
    run.wait_ready_with(1);
    revoked.store(true, Ordering::SeqCst);
    run.wait_ready_with(2);
    run.finish().says(&[
        "Groq: its limits are not watched; name the model with --model",
        "Groq rejected token 1/2 from GROQ_API_KEY\n",
    ]);
    let seen = provider.seen();
    assert!(
        seen.iter()
            .all(|asked| asked.line == "GET /openai/v1/models"),
        "{seen:#?}"
    );
}

#[test]
fn a_free_endpoint_tells_the_credits_of_a_token() {
    let key = |limit| match limit {
        true => r#"{"data":{"limit":10,"limit_remaining":0,"limit_reset":"monthly"}}"#,
        false => r#"{"data":{"limit":null,"limit_remaining":null,"limit_reset":null}}"#,
    };
    let spent = Arc::new(AtomicBool::new(false));
    let theirs = spent.clone();
    let mut provider = Canned::start(move |asked| {
        let is_spent = asked.token == "token-1" && theirs.load(Ordering::SeqCst);
        (200, "", key(is_spent))
    });
    let base = ("OPENROUTER_API_BASE", "/api/v1");
    let mut run = supervise(&provider, "OPENROUTER_API_KEY", base, &[]);
    run.wait_ready_with(1);
    provider.wait_for("GET /api/v1/key", "token-2");
    spent.store(true, Ordering::SeqCst);
    run.wait_ready_with(2);
    run.finish()
        .says(&["Spend cap of token 1 reached", "Switched to token 2/2"]);
    let seen = provider.seen();
    assert!(
        seen.iter().all(|asked| asked.line == "GET /api/v1/key"),
        "{seen:#?}"
    );
}

#[test]
fn a_provider_that_tells_nothing_is_judged_by_its_errors() {
    const LIST: &str = "GET /v1beta/models?pageSize=1";
    const MODEL: &str = "POST /v1beta/models/gemini-x:generateContent";
    const SPENT: Said = (
        429,
        "",
        r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[
            {"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[
             {"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},
            {"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"42s"}]}}"#,
    );
    let answer = |asked: &Asked| match (asked.line.as_str(), asked.token.as_str()) {
        (LIST, _) => GOOD,
        (MODEL, "token-1") => SPENT,
        _ => GOOD,
    };
    let mut provider = Canned::start(answer);
    let options = ["-v", "--model", "gemini-x"];
    let base = ("GOOGLE_GEMINI_BASE_URL", "");
    let mut run = supervise(&provider, "GEMINI_API_KEY", base, &options);
    run.wait_ready_with(1);
    // Checks cost nothing; each other token is tried once.
    provider.wait_for(MODEL, "token-2");
    provider.wait_for(LIST, "token-1");
    provider.wait_for(LIST, "token-1");
    let tried = |asked: &Asked| asked.line == MODEL && asked.token == "token-1";
    assert!(!provider.seen().iter().any(tried));
    run.tell("exit 1");
    run.wait_ready_with(2);
    run.finish().says(&[
        "Gemini does not announce its limits; ddollar acts on its errors",
        "Process exited with status 1",
        "Token limit reached",
        "Switched to token 2/2",
    ]);
}

#[test]
fn a_token_that_is_dead_or_unpaid_is_left_whatever_status_says_so() {
    // As recorded: see the table of causes in the provider's own tests.
    let cases: [(&str, &str, u16, &'static str, &str); 4] = [
        (
            "XAI_API_KEY",
            "XAI_API_BASE",
            400,
            r#"{"code":"Client specified an invalid argument","error":"Incorrect API key provided: xa***1. You can obtain an API key from https://console.x.ai."}"#,
            "xAI rejected token 1/2",
        ),
        (
            "GROQ_API_KEY",
            "GROQ_API_BASE",
            400,
            r#"{"error":{"message":"Organization has been restricted.","type":"invalid_request_error","param":"","code":"organization_restricted"}}"#,
            "Groq rejected token 1/2",
        ),
        (
            "FIREWORKS_API_KEY",
            "FIREWORKS_API_BASE",
            412,
            r#"{"error":{"message":"Account x is suspended, possibly due to reaching the monthly spending limit or failure to pay past invoices.","param":null,"code":"PRECONDITION_FAILED","type":"error"}}"#,
            "Spend cap of token 1 reached",
        ),
        (
            "OPENROUTER_API_KEY",
            "OPENROUTER_API_BASE",
            403,
            r#"{"error":{"message":"Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys","code":403}}"#,
            "Spend cap of token 1 reached",
        ),
    ];
    for (name, base, status, body, said) in cases {
        let is_dead = Arc::new(AtomicBool::new(false));
        let theirs = is_dead.clone();
        let provider = Canned::start(move |asked| match asked.token.as_str() {
            "token-1" if asked.line.starts_with("POST") && theirs.load(Ordering::SeqCst) => {
                (status, "", body)
            }
            _ => GOOD,
        });
        let options = ["--no-proxy", "--model", "m"];
        let mut run = supervise(&provider, name, (base, "/v1"), &options);
        run.wait_ready_with(1);
        is_dead.store(true, Ordering::SeqCst);
        // The others are checked at each interval.
        if name == "OPENROUTER_API_KEY" {
            run.tell("exit 1");
        }
        run.wait_ready_with(2);
        run.finish().says(&[said, "Switched to token 2/2"]);
    }
}

#[test]
fn a_model_that_another_organization_has_is_found_after_a_failure() {
    const ABSENT: &str = r#"{"error":{"message":"The model `m` does not exist or you do not have access to it.","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#;
    let base = ("GROQ_API_BASE", "/openai/v1");
    let options = ["--no-proxy", "--model", "m"];
    for (status, have_it) in [(404, true), (403, true), (404, false)] {
        let provider = Canned::start(move |asked| match asked.token.as_str() {
            "token-2" if have_it => GOOD,
            _ => (status, "", ABSENT),
        });
        let mut run = supervise(&provider, "GROQ_API_KEY", base, &options);
        run.wait_ready_with(1);
        run.tell("exit 1");
        if have_it {
            run.wait_ready_with(2);
            run.tell("exit 3");
        }
        let ended = run.end().expect(if have_it { 3 } else { 1 });
        let ended = ended.says_once("Process exited with status 1");
        let ended = ended.never_says("limit reached");
        match have_it {
            true => ended.says(&["Auto-rotating", "Switched to token 2/2"]),
            false => ended.never_says("Switched"),
        };
    }
}

#[test]
fn a_closed_organization_costs_no_request() {
    let upstream = Upstream::playing_all(|played| {
        match played.head.contains("token-aaaa-1") {
            true => played.answer(
                400,
                "",
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"This organization has been disabled."}}"#,
            ),
            false => played.answer(200, "", "{}"),
        }
        true
    });
    let mut gateway = Gateway::to(&upstream.url, "token-aaaa-1,token-aaaa-2", &[]);
    for _ in 0..2 {
        assert_eq!(gateway.post(json!({})).status, 200);
    }
    gateway.run.stderr.wait("Anthropic rejected token 1/2");
}

#[test]
fn without_an_address_no_token_is_sent() {
    let provider = Canned::start(|_| GOOD);
    let options = ["--model", "my-deployment"];
    let mut run = supervise(&provider, "AZURE_OPENAI_API_KEY", ("UNUSED", ""), &options);
    run.wait_ready_with(1);
    run.tell("exit 3");
    run.end()
        .expect(3)
        .says_once("Azure OpenAI: its limits are not watched; set AZURE_OPENAI_ENDPOINT")
        .never_says("cannot be reached");
}
