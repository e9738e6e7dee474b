//! Requests in, answers out, without a socket.

use std::time::UNIX_EPOCH;

use super::super::scenario::Scenario;
use super::*;

const SCENARIO: &str = r#"{
    "tokens": [
        {"text": "a-1", "provider": "anthropic", "organization": "org-a"},
        {"text": "a-2", "provider": "anthropic", "organization": "org-a"},
        {"text": "o-1", "provider": "openai", "organization": "org-o", "project": "proj_x"}],
    "organizations": {
        "org-a": {"id": "04aa8588-6567-40cb-9042-a54b20ebaf4f", "buckets": {
            "requests": {"limit": 50, "period": "50s"},
            "tokens": {"limit": 100000, "period": "1m"},
            "input-tokens": {"limit": 500, "period": "1m"}}},
        "org-o": {"buckets": {
            "requests": {"limit": 10000, "period": "24h", "remaining": 9000},
            "tokens": {"limit": 200, "period": "6m"}}}}
}"#;

const MESSAGE: &str = r#"{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"."}]}"#;
const CHAT: &str =
    r#"{"model":"g","max_completion_tokens":16,"messages":[{"role":"user","content":"."}]}"#;

struct Bench {
    state: State,
    now: Duration,
}

/// What a test looks at.
struct Seen {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
    note: Option<Note>,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn limit_headers(&self) -> usize {
        self.headers
            .iter()
            .filter(|(name, _)| name.contains("ratelimit"))
            .count()
    }
}

impl Bench {
    fn new() -> Self {
        let state = State::new(Scenario::parse(SCENARIO).unwrap());
        Self {
            state,
            now: Duration::ZERO,
        }
    }

    fn ask(&mut self, method: &str, target: &str, token: &str, body: &str) -> Seen {
        let mut headers = vec![("authorization".to_owned(), format!("Bearer {token}"))];
        if target.contains("messages") {
            headers = vec![("x-api-key".to_owned(), token.to_owned())];
        }
        let request = Request {
            method: method.to_owned(),
            target: target.to_owned(),
            headers,
            body: body.as_bytes().to_vec(),
            ..Request::default()
        };
        let wall = UNIX_EPOCH + Duration::from_secs(1_795_337_377) + self.now;
        let (response, note) = respond(&mut self.state, self.now, wall, &request);
        Seen {
            status: response.status,
            headers: response.headers,
            body: match response.body {
                Body::Whole(text) => text,
                Body::Events(events) => events.concat(),
            },
            note,
        }
    }

    fn message(&mut self, token: &str) -> Seen {
        self.ask("POST", "/v1/messages?beta=true", token, MESSAGE)
    }

    fn chat(&mut self, token: &str) -> Seen {
        self.ask("POST", "/v1/chat/completions", token, CHAT)
    }

    fn control(&mut self, action: &str) {
        let seen = self.ask("POST", "/rehearsal/control", "", action);
        assert_eq!(seen.status, 200, "{}", seen.body);
        assert_eq!(seen.note, None);
    }
}

#[test]
fn anthropic_message() {
    let mut bench = Bench::new();
    let seen = bench.message("a-1");
    assert_eq!(seen.status, 200);
    assert_eq!(seen.header("date"), Some("Sun, 22 Nov 2026 08:49:37 GMT"));
    assert_eq!(
        seen.header("anthropic-organization-id"),
        Some("04aa8588-6567-40cb-9042-a54b20ebaf4f")
    );
    assert!(seen.header("request-id").unwrap().starts_with("req_"));
    assert_eq!(
        seen.header("anthropic-ratelimit-requests-limit"),
        Some("50")
    );
    assert_eq!(
        seen.header("anthropic-ratelimit-requests-remaining"),
        Some("49")
    );
    assert_eq!(
        seen.header("anthropic-ratelimit-requests-reset"),
        Some("2026-11-22T08:49:38Z")
    );
    assert_eq!(
        seen.header("anthropic-ratelimit-tokens-remaining"),
        Some("100000")
    );
    assert_eq!(
        seen.header("anthropic-ratelimit-input-tokens-limit"),
        Some("500")
    );
    assert_eq!(seen.limit_headers(), 9);
    assert_eq!(seen.json()["content"][0]["text"], "Done.");
    let note = seen.note.unwrap();
    assert_eq!(
        (note.token_label.as_str(), note.organization.as_str()),
        ("anthropic#1", "org-a")
    );
    assert_eq!((note.model.as_str(), note.streamed), ("m", false));
}

#[test]
fn anthropic_max_tokens_0() {
    let mut bench = Bench::new();
    let zero = MESSAGE.replace(":5,", ":0,");
    let seen = bench.ask("POST", "/v1/messages", "a-1", &zero);
    assert_eq!(
        (seen.status, seen.json()["stop_reason"].as_str()),
        (200, Some("max_tokens"))
    );
    assert_eq!(seen.json()["content"], json!([]));
    assert_eq!(seen.json()["usage"]["output_tokens"], 0);
    let streamed = zero.replace("{\"model", "{\"stream\":true,\"model");
    assert_eq!(
        bench.ask("POST", "/v1/messages", "a-1", &streamed).status,
        400
    );
    bench.state.scenario.refuse_max_tokens_0 = true;
    let seen = bench.ask("POST", "/v1/messages", "a-1", &zero);
    assert_eq!(
        (seen.status, seen.json()["error"]["type"].as_str()),
        (400, Some("invalid_request_error"))
    );
    assert_eq!(bench.message("a-1").status, 200);
}

#[test]
fn anthropic_stream() {
    let streamed = MESSAGE.replace("{\"model", "{\"stream\":true,\"model");
    let seen = Bench::new().ask("POST", "/v1/messages", "a-1", &streamed);
    assert!(
        seen.body.starts_with("event: message_start\ndata: {"),
        "{}",
        seen.body
    );
    assert!(seen.body.contains("event: content_block_delta\n"));
    assert!(
        seen.body.trim_end().ends_with("\"type\":\"message_stop\"}"),
        "{}",
        seen.body
    );
    assert!(
        seen.header("content-type")
            .unwrap()
            .starts_with("text/event-stream")
    );
    assert_eq!(seen.limit_headers(), 9);
    assert!(seen.note.unwrap().streamed);
}

#[test]
fn endpoints_without_limits() {
    let mut bench = Bench::new();
    let count = bench.ask("POST", "/v1/messages/count_tokens", "a-1", MESSAGE);
    assert!(count.json()["input_tokens"].is_u64());
    let anthropic = bench.ask("GET", "/v1/models", "a-1", "");
    assert_eq!(anthropic.json()["data"][0]["type"], "model");
    let openai = bench.ask("GET", "/v1/models", "o-1", "");
    assert_eq!(openai.json()["object"], "list");
    for seen in [count, anthropic, openai] {
        assert_eq!((seen.status, seen.limit_headers()), (200, 0));
    }
    assert_eq!(
        bench
            .message("a-1")
            .header("anthropic-ratelimit-requests-remaining"),
        Some("49")
    );
}

#[test]
fn an_empty_bucket_refuses_until_it_refills() {
    let mut bench = Bench::new();
    let mut last = bench.message("a-1");
    for _ in 0..24 {
        last = bench.message("a-2");
    }
    assert_eq!(last.status, 200);
    // 25 requests of 18 LLM tokens each: 450 of 500. Three more go into debt.
    for _ in 0..3 {
        assert_eq!(bench.message("a-1").status, 200);
    }
    let seen = bench.message("a-1");
    assert_eq!(seen.status, 429);
    assert_eq!(seen.json()["error"]["type"], "rate_limit_error");
    assert_eq!(
        seen.header("anthropic-ratelimit-input-tokens-remaining"),
        Some("0")
    );
    let wait: u64 = seen.header("retry-after").unwrap().parse().unwrap();
    bench.now = Duration::from_secs(wait);
    assert_eq!(bench.message("a-2").status, 200);
}

#[test]
fn openai_chat_and_stream() {
    let mut bench = Bench::new();
    let seen = bench.chat("o-1");
    assert_eq!(seen.status, 200);
    assert_eq!(seen.header("openai-organization"), Some("org-o"));
    assert_eq!(seen.header("openai-project"), Some("proj_x"));
    assert_eq!(seen.header("x-ratelimit-limit-requests"), Some("10000"));
    assert_eq!(seen.header("x-ratelimit-remaining-requests"), Some("8999"));
    assert_eq!(
        seen.header("x-ratelimit-reset-requests"),
        Some("2h24m8.64s")
    );
    assert!(seen.header("x-ratelimit-reset-tokens").is_some());
    assert!(seen.header("x-request-id").is_some());
    assert_eq!(seen.json()["object"], "chat.completion");
    let streamed = CHAT.replace(
        "{\"model",
        "{\"stream\":true,\"stream_options\":{\"include_usage\":true},\"model",
    );
    let seen = bench.ask("POST", "/chat/completions", "o-1", &streamed);
    assert!(seen.body.ends_with("data: [DONE]\n\n"), "{}", seen.body);
    assert!(seen.body.contains("prompt_tokens"));
}

#[test]
fn openai_charges_the_allowed_output_and_names_the_limit() {
    let mut bench = Bench::new();
    let large = CHAT.replace(":16,", ":18446744073709551615,");
    assert_eq!(
        bench
            .ask("POST", "/v1/chat/completions", "o-1", &large)
            .status,
        200
    );
    let seen = bench.chat("o-1");
    assert_eq!(seen.status, 429);
    assert_eq!(seen.json()["error"]["code"], "rate_limit_exceeded");
    assert_eq!(seen.json()["error"]["type"], "tokens");
    assert!(seen.header("retry-after").is_some());
    assert_eq!(seen.limit_headers(), 6);
}

#[test]
fn openai_responses() {
    let mut bench = Bench::new();
    let body = r#"{"model":"g","input":"hi","max_output_tokens":16}"#;
    let seen = bench.ask("POST", "/v1/responses", "o-1", body);
    assert_eq!(
        (seen.status, seen.json()["status"].as_str()),
        (200, Some("completed"))
    );
    let seen = bench.ask("POST", "/v1/responses", "o-1", &body.replace("16", "1"));
    assert_eq!(
        (seen.status, seen.json()["error"]["code"].as_str()),
        (400, Some("integer_below_min_value"))
    );
    assert_eq!(seen.limit_headers(), 6);
    let seen = bench.ask(
        "POST",
        "/v1/responses",
        "o-1",
        &body.replace("16", "16,\"stream\":true"),
    );
    assert!(seen.body.starts_with("event: response.created\n"));
    assert!(seen.body.contains("event: response.completed\n"));
}

#[test]
fn unknown_tokens_get_401_in_the_providers_shape() {
    let mut bench = Bench::new();
    for token in ["wrong", "o-1"] {
        let seen = bench.message(token);
        assert_eq!(
            (seen.status, seen.json()["error"]["type"].as_str()),
            (401, Some("authentication_error"))
        );
        assert_eq!(seen.limit_headers(), 0);
        assert_eq!(seen.note.unwrap().token_label, "unknown");
    }
    let seen = bench.chat("wrong-token");
    assert_eq!(
        (seen.status, seen.json()["error"]["code"].as_str()),
        (401, Some("invalid_api_key"))
    );
    assert!(seen.header("www-authenticate").is_some());
    assert!(!seen.body.contains("wrong-token"));
}

#[test]
fn faults_have_the_shape_of_the_provider() {
    let cases = [
        (
            "401",
            401,
            "/error/type",
            "authentication_error",
            "/error/code",
            "invalid_api_key",
        ),
        (
            "403",
            403,
            "/error/type",
            "permission_error",
            "/error/code",
            "insufficient_permissions",
        ),
        (
            "404",
            404,
            "/error/type",
            "not_found_error",
            "/error/code",
            "model_not_found",
        ),
        (
            "429",
            429,
            "/error/type",
            "rate_limit_error",
            "/error/code",
            "rate_limit_exceeded",
        ),
        (
            "500",
            500,
            "/error/type",
            "api_error",
            "/error/type",
            "server_error",
        ),
        (
            "529",
            529,
            "/error/type",
            "overloaded_error",
            "/error/type",
            "server_error",
        ),
        (
            "spend-cap",
            429,
            "/error/details/error_code",
            "enforced_spend_limit_reached",
            "/error/code",
            "organization_spend_limit_exceeded",
        ),
    ];
    for (fault, status, one, anthropic, other, openai) in cases {
        let mut bench = Bench::new();
        bench.control(&format!(
            "{{\"answer\":{{\"fault\":\"{fault}\",\"retry_after\":23}}}}"
        ));
        let seen = bench.message("a-1");
        assert_eq!(seen.status, status, "{fault}");
        assert_eq!(
            seen.json().pointer(one).unwrap(),
            anthropic,
            "{}",
            seen.body
        );
        assert_eq!(seen.header("retry-after"), (fault == "429").then_some("23"));
        let seen = bench.chat("o-1");
        assert_eq!(seen.status, status, "{fault}");
        assert_eq!(seen.json().pointer(other).unwrap(), openai, "{}", seen.body);
        bench.control(r#"{"clear":{}}"#);
        assert_eq!(bench.message("a-1").status, 200, "{fault}");
    }
}

#[test]
fn spending_faults() {
    let mut bench = Bench::new();
    let mut body = |fault: &str| {
        bench.control(&format!("{{\"answer\":{{{fault}}}}}"));
        (bench.message("a-1"), bench.chat("o-1").json())
    };
    let (seen, openai) = body(r#""fault":"user-spend-limit","until":"1h""#);
    assert_eq!(seen.status, 400);
    let text = seen.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(
        text.starts_with("You have reached your specified API usage limits"),
        "{text}"
    );
    assert!(text.ends_with("on 2026-11-22 at 09:50 UTC."), "{text}");
    assert_eq!(openai["error"]["code"], "project_spend_limit_exceeded");
    let (seen, openai) = body(r#""fault":"credit-balance""#);
    assert_eq!(seen.status, 400);
    assert!(seen.body.contains("Your credit balance is too low"));
    assert_eq!(openai["error"]["code"], "credit_balance_exhausted");
    let (_, openai) =
        body(r#""fault":"insufficient-quota","code":"organization_usage_limit_exceeded""#);
    assert_eq!(openai["error"]["type"], "insufficient_quota");
    assert_eq!(openai["error"]["code"], "organization_usage_limit_exceeded");
    let (seen, _) = body(r#""fault":"spend-cap""#);
    assert!(
        seen.json()["error"]["message"]
            .as_str()
            .unwrap()
            .ends_with("on 2026-12-01 at 00:00 UTC.")
    );
}

#[test]
fn models_of_the_scenario() {
    let mut bench = Bench::new();
    bench.state.scenario.models = Some(vec!["m".to_owned()]);
    assert_eq!(bench.message("a-1").status, 200);
    let seen = bench.chat("o-1");
    assert_eq!(
        (seen.status, seen.json()["error"]["code"].as_str()),
        (404, Some("model_not_found"))
    );
}

#[test]
fn wrong_requests_are_answered_and_draw_nothing() {
    let mut bench = Bench::new();
    let deep = "[".repeat(100_000);
    for body in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"model":7}"#,
        r#"{"model":"m","messages":[]}"#,
        "\u{0}",
        &deep,
    ] {
        assert_eq!(
            bench.ask("POST", "/v1/messages", "a-1", body).status,
            400,
            "{body:.20}"
        );
        assert_eq!(
            bench
                .ask("POST", "/v1/chat/completions", "o-1", body)
                .status
                == 400,
            !body.contains("[]}")
        );
    }
    assert_eq!(bench.ask("GET", "/v1/messages", "a-1", "").status, 404);
    assert_eq!(bench.ask("PUT", "", "a-1", "").status, 404);
    assert_eq!(bench.ask("POST", "/v1", "o-1", "").status, 404);
    assert_eq!(
        bench
            .message("a-1")
            .header("anthropic-ratelimit-requests-remaining"),
        Some("49")
    );
}

#[test]
fn control_is_all_or_nothing() {
    let mut bench = Bench::new();
    let bad = r#"[{"answer":{"fault":"529"}},{"answer":{"fault":"nonsense"}}]"#;
    let seen = bench.ask("POST", "/rehearsal/control", "", bad);
    assert_eq!(
        (seen.status, seen.body.contains("do[1].answer.fault")),
        (400, true),
        "{}",
        seen.body
    );
    assert_eq!(bench.message("a-1").status, 200);
    bench.control(
        r#"[{"set":{"organization":"org-a","bucket":"requests","remaining":2,"reset_in":"8s"}},
            {"answer":{"organization":"org-o","fault":"503","times":1}}]"#,
    );
    let state = bench.ask("GET", "/rehearsal/state", "", "").json();
    assert_eq!(
        state["organizations"]["org-a"]["buckets"]["requests"]["remaining"],
        2
    );
    assert_eq!(state["faults"][0]["scope"], "org-o");
    assert_eq!(state["requests"], 1);
    let seen = bench.message("a-1");
    assert_eq!(
        seen.header("anthropic-ratelimit-requests-remaining"),
        Some("1")
    );
    assert_eq!(
        (bench.chat("o-1").status, bench.chat("o-1").status),
        (503, 200)
    );
    assert_eq!(bench.ask("GET", "/rehearsal/nothing", "", "").status, 404);
}
