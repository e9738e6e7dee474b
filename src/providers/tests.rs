//! Probes and readings together, as a reply is asked for and read; and the rows of the table.

use super::reply::identity;
use super::usage::Usage;
use super::*;
use crate::common::http::headers::Headers;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::{Duration, SystemTime};

/// 2026-01-01T00:00:00Z, also the `Date` of most replies in the tests.
pub(super) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

/// A reply from `name: value` lines as they are recorded.
pub(super) fn reply(status: u16, head: &str, body: &str) -> Reply {
    let lines = head.lines().map(str::trim).filter(|line| !line.is_empty());
    let fields = lines.map(|line| line.split_once(": ").unwrap());
    Reply {
        status,
        headers: fields
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect(),
        body: body.as_bytes().to_vec(),
    }
}

/// `name utilization%` of each window, to compare.
pub(super) fn percents(usage: &Usage) -> Vec<String> {
    usage
        .windows
        .iter()
        .map(|window| format!("{} {:.1}", window.name, window.utilization * 100.0))
        .collect()
}

#[test]
fn what_answers_in_the_providers_place_is_no_answer() {
    const PAGE: &str = "content-type: text/html; charset=UTF-8";
    let openai = by_name("openai").unwrap();
    let why = |status, head: &str, body: &str| openai.impostor(&reply(status, head, body));
    for status in [200, 401, 403, 404, 429, 502] {
        let said = why(status, PAGE, "<!DOCTYPE html>").unwrap();
        assert!(said.contains(&format!("(status {status})")), "{said}");
    }
    for (status, head, body) in [
        (407, "", ""),
        (407, "content-type: application/json", "{}"),
        (403, "", ""),
        (403, "content-type: text/plain", "Access denied"),
        (403, "cf-ray: 1", "error code: 1020"),
        (503, "", "\n<html>"),
        (401, "content-type: text/plain", "<html>"),
    ] {
        assert!(why(status, head, body).is_some(), "{status} {head} {body}");
    }
    for (status, head, body) in [
        (200, "", ""),
        (200, "content-type: audio/mpeg", "<"),
        (200, "x-request-id: 1\ncontent-type: text/html", "<html>"),
        (403, "", r#"{"error":{"type":"forbidden"}}"#),
        (403, "openai-organization: mine", ""),
        (401, "", ""),
        (429, "", ""),
        (500, "", "error"),
        (404, "x-ratelimit-limit-requests: 5", "<html>"),
    ] {
        assert_eq!(why(status, head, body), None, "{status} {head} {body}");
    }
    // This is how Perplexity refuses a token.
    let perplexity = by_name("perplexity").unwrap();
    let is_impostor = |status| {
        perplexity
            .impostor(&reply(status, PAGE, "<html>"))
            .is_some()
    };
    assert!(!is_impostor(401) && is_impostor(403) && is_impostor(502));
    let probe = |status, head: &str, body: &str| {
        openai
            .impostor_of_probe(&reply(status, head, body))
            .is_some()
    };
    assert!(probe(200, "", "") && probe(200, "", "You are online.") && probe(403, "", ""));
    assert!(!probe(200, "", " {}") && !probe(200, "", "[") && !probe(429, "", ""));
    assert!(!probe(200, "x-request-id: 1", "data: {}"));
}

#[test]
fn an_error_is_read_also_when_it_comes_compressed() {
    use std::io::Write;
    let text = r#"{"error":{"code":"insufficient_quota"}}"#;
    let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    zip.write_all(text.as_bytes()).unwrap();
    let gzip = zip.finish().unwrap();
    let mut zip = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zip.write_all(text.as_bytes()).unwrap();
    let deflate = zip.finish().unwrap();
    let read = |coding: &str, body: &[u8]| {
        let mut reply = reply(429, &format!("content-encoding: {coding}"), "");
        reply.body = body.to_vec();
        let openai = by_name("openai").unwrap();
        openai.read(ProbeTarget::Model, &reply, now()).finding
    };
    let capped = Finding::SpendCapped { until: None };
    assert_eq!(read("gzip", &gzip), capped);
    assert_eq!(read("X-GZIP", &gzip), capped);
    assert_eq!(read("deflate", &deflate), capped);
    assert_eq!(read("identity", text.as_bytes()), capped);
    // What cannot be read says no more than the status.
    let limited = Finding::Limited { retry_after: None };
    for (coding, body) in [
        ("br", &gzip[..]),
        ("zstd", &gzip),
        ("gzip", &gzip[..10]),
        ("gzip", b"nonsense"),
        ("deflate", &gzip),
    ] {
        assert_eq!(read(coding, body), limited, "{coding}");
    }
    // A bomb costs no more memory than the bound.
    let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    zip.write_all(&vec![b' '; 50_000_000]).unwrap();
    assert_eq!(read("gzip", &zip.finish().unwrap()), limited);
}

#[test]
fn the_time_in_an_error_is_the_end_of_a_limit() {
    let wait = |body: Value| {
        let openai = by_name("openai").unwrap();
        let reply = reply(429, "", &body.to_string());
        match openai.read(ProbeTarget::Model, &reply, now()).finding {
            Finding::Limited { retry_after } => retry_after.map(|span| span.as_secs_f64()),
            other => panic!("{other:?}"),
        }
    };
    let says =
        |text: &str| wait(json!({"error": {"code": "rate_limit_exceeded", "message": text}}));
    for (text, seconds) in [
        (
            "Limit 30000, Used 29000. Please try again in 15.7s. Visit x",
            15.7,
        ),
        ("Please try again in 250ms.", 0.25),
        ("Please try again in 6m0s.", 360.0),
        ("Please try again in 1h2m3s", 3723.0),
        ("try again in 15 seconds.", 15.0),
        ("try again in 2 minutes, or", 120.0),
    ] {
        assert_eq!(says(text), Some(seconds), "{text}");
    }
    for text in [
        "try again in a moment",
        "try again in 2026",
        "try again in ",
        "try again in 5",
        "try again in -5s",
        "try again later",
        "in 15s",
    ] {
        assert_eq!(says(text), None, "{text}");
    }
    let info = json!({"error": {"code": 429, "details": [{"retryDelay": "42s"}]}});
    assert_eq!(wait(info), Some(42.0));
}

#[test]
fn rows_are_well_formed_and_distinct() {
    let mut names = HashSet::new();
    let mut variables = HashSet::new();
    for provider in PROVIDERS {
        let name = provider.name;
        assert!(names.insert(name), "{name} twice");
        assert!(
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase()),
            "{name}"
        );
        assert!(
            !provider.label.is_empty() && provider.label.is_ascii(),
            "{name}"
        );
        assert!(!provider.token_variables.is_empty(), "{name}");
        let all = provider.token_variables.iter().copied();
        for variable in all
            .chain(provider.base_url_variable)
            .chain(provider.model_variable)
        {
            assert!(variables.insert(variable), "{variable} twice");
            assert!(
                variable
                    .bytes()
                    .all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_')),
                "{variable} is no variable name"
            );
        }
        // `…_KEYS`, `…_KEYS_FILE` and `…_2` are derived from these and must not meet another
        // row's.
        for variable in provider.token_variables {
            assert!(
                variable.ends_with("_KEY") || variable.ends_with("_TOKEN"),
                "{variable}"
            );
        }
        let uri: http::Uri = provider.base_url.parse().unwrap();
        assert_eq!(uri.scheme_str(), Some("https"), "{name}");
        assert!(
            uri.host().is_some_and(|host| host.contains('.')) && uri.query().is_none(),
            "{name}"
        );
        assert!(
            provider.base_url.is_ascii() && !provider.base_url.ends_with('/'),
            "{name}"
        );
        if let Some(free) = provider.free {
            assert!(free.path().starts_with('/'), "{name}");
        }
        assert_eq!(by_name(name).map(|found| found.label), Some(provider.label));
    }
    assert_eq!(PROVIDERS.len(), 15);
    assert!(by_name("Anthropic").is_none() && by_name("").is_none());
}

#[test]
fn base_urls_and_paths_meet() {
    let url = |name: &str| {
        let provider = by_name(name).unwrap();
        provider
            .probe(ProbeTarget::Model, "m", ProbeForm::First)
            .unwrap()
            .url(&format!("{}/", provider.base_url))
    };
    assert_eq!(url("anthropic"), "https://api.anthropic.com/v1/messages");
    assert_eq!(url("openai"), "https://api.openai.com/v1/chat/completions");
}

#[test]
fn what_is_asked_follows_from_the_row() {
    const HERE: &str = "https://example.com";
    let plan = |name: &str, model: &str, needed| -> Vec<ProbeTarget> {
        by_name(name)
            .unwrap()
            .subjects(HERE, model, needed)
            .collect()
    };
    use ProbeTarget::{Account, Model};
    for (name, no_model, check, needed) in [
        ("openai", vec![Account], vec![Model], vec![Model]),
        ("groq", vec![Account], vec![Model], vec![Model]),
        // The list of models is public.
        ("huggingface", vec![], vec![Model], vec![Model]),
        (
            "openrouter",
            vec![Account],
            vec![Account],
            vec![Account, Model],
        ),
        (
            "deepseek",
            vec![Account],
            vec![Account],
            vec![Account, Model],
        ),
        ("gemini", vec![Account], vec![Account], vec![Account, Model]),
        // Each request costs.
        ("cohere", vec![], vec![], vec![Model]),
        ("perplexity", vec![], vec![], vec![Model]),
    ] {
        assert_eq!(plan(name, "", false), no_model, "{name}");
        assert_eq!(plan(name, "m", false), check, "{name}");
        assert_eq!(plan(name, "m", true), needed, "{name}");
    }
    // Whatever is to be asked can be asked, and where nothing can, the user is told why.
    for provider in PROVIDERS {
        for (model, needed) in [("", false), ("", true), ("m", false), ("m", true)] {
            for subject in provider.subjects(HERE, model, needed) {
                let probe = provider.probe(subject, model, ProbeForm::First).unwrap();
                assert!(probe.path.starts_with('/'), "{}", provider.name);
                assert_eq!(probe.body.is_empty(), probe.method == Method::GET);
            }
            let asks = provider.subjects(HERE, model, true).next().is_some();
            assert!(
                asks || provider.unwatched(HERE, model).is_some(),
                "{}",
                provider.name
            );
        }
    }
}

#[test]
fn a_token_is_not_sent_to_a_placeholder() {
    let azure = by_name("azure").unwrap();
    assert_eq!(azure.subjects(azure.base_url, "m", true).count(), 0);
    assert!(
        azure
            .unwatched(azure.base_url, "m")
            .unwrap()
            .contains("AZURE_OPENAI_ENDPOINT")
    );
    // Another's name may end like it.
    let anthropic = by_name("anthropic").unwrap();
    assert_eq!(anthropic.unwatched("https://gateway.invalid", "m"), None);
    assert_eq!(
        azure
            .subjects("https://res.openai.azure.com", "m", false)
            .count(),
        1
    );
    let probe = azure
        .probe(ProbeTarget::Model, "my-deployment", ProbeForm::First)
        .unwrap();
    assert_eq!(
        probe.url("https://res.openai.azure.com/"),
        "https://res.openai.azure.com/openai/v1/chat/completions"
    );
    assert_eq!(probe.authorization.header_name(), "api-key");
}

#[test]
fn a_second_answer_completes_the_first() {
    let window = |name: &str, utilization| crate::providers::usage::Window {
        name: name.to_owned(),
        limit: None,
        remaining: None,
        utilization,
        resets_at: None,
    };
    let reading =
        |windows: Vec<crate::providers::usage::Window>, finding, group: Option<&str>| Reading {
            usage: Usage { windows },
            finding,
            quota_group: group.map(str::to_owned),
            said: None,
        };
    let first = reading(vec![window("credits", 0.5)], Finding::Served, None);
    let limited = Finding::Limited { retry_after: None };
    let second = reading(
        vec![window("credits", 0.9), window("requests", 1.0)],
        limited.clone(),
        Some("g"),
    );
    let both = first.and(second);
    assert_eq!(percents(&both.usage), ["credits 50.0", "requests 100.0"]);
    assert_eq!(
        (both.finding, both.quota_group.as_deref()),
        (limited, Some("g"))
    );
}

#[test]
fn no_model_no_probe() {
    assert_eq!(
        by_name("anthropic")
            .unwrap()
            .probe(ProbeTarget::Model, "", ProbeForm::First),
        None
    );
}

#[test]
fn statuses_that_all_share() {
    let bad = |retry_after: Option<u64>| Finding::Overloaded {
        retry_after: retry_after.map(Duration::from_secs),
    };
    for name in ["anthropic", "openai"] {
        let read = |status| {
            by_name(name)
                .unwrap()
                .read(
                    ProbeTarget::Model,
                    &reply(status, "retry-after: 7", "garbage"),
                    now(),
                )
                .finding
        };
        assert_eq!(read(200), Finding::Served);
        assert_eq!(read(204), Finding::Served);
        match name {
            // A restricted token gets one without a code as well.
            "openai" => assert!(matches!(read(401), Finding::Unclear { .. })),
            _ => assert_eq!(read(401), Finding::Rejected),
        }
        assert_eq!(read(402), Finding::SpendCapped { until: None });
        assert_eq!(
            read(429),
            Finding::Limited {
                retry_after: Some(Duration::from_secs(7))
            }
        );
        assert_eq!(read(503), bad(Some(7)));
        assert_eq!(read(529), bad(Some(7)));
        for status in [408, 500, 502, 504, 520, 524, 599] {
            assert_eq!(read(status), bad(None), "{status}");
        }
        for status in [
            0, 100, 199, 301, 302, 307, 400, 403, 404, 405, 409, 413, 418, 422, 451, 499, 600, 999,
        ] {
            assert!(matches!(read(status), Finding::Unclear { .. }), "{status}");
        }
    }
}

#[test]
fn a_web_page_is_no_answer() {
    let page = reply(
        200,
        "content-type: Text/HTML; charset=utf-8",
        "<!doctype html>",
    );
    for name in ["anthropic", "openai"] {
        assert!(matches!(
            by_name(name)
                .unwrap()
                .read(ProbeTarget::Model, &page, now())
                .finding,
            Finding::Unclear { .. }
        ));
    }
}

#[test]
fn nothing_that_echoes_a_token_is_passed_on() {
    const SECRET: &str = "sk-ant-api03-SECRET";
    let head = format!(
        "www-authenticate: {SECRET}\nx-ratelimit-limit-requests: {SECRET}\nretry-after: {SECRET}"
    );
    for status in [
        200, 302, 400, 401, 402, 403, 404, 418, 422, 429, 500, 503, 529,
    ] {
        let body = format!(
            r#"{{"type":"error","error":{{"type":"{SECRET}","code":"{SECRET}","message":"bad key {SECRET}"}}}}"#
        );
        let reply = reply(status, &head, &body);
        assert!(!format!("{reply:?}").contains("SECRET"));
        for provider in PROVIDERS {
            let reading = provider.read(ProbeTarget::Model, &reply, now());
            assert!(
                !format!("{reading:?}").contains("SECRET"),
                "{status} {reading:?}"
            );
        }
    }
}

#[test]
fn identities_are_checked() {
    let of = |value: &[u8]| {
        let headers: Headers = [(&b"id"[..], value)].into_iter().collect();
        identity(&headers, "id").map(str::to_owned)
    };
    assert_eq!(of(b"traceloop").as_deref(), Some("traceloop"));
    assert_eq!(of(&[b'a'; 128]).map(|id| id.len()), Some(128));
    assert_eq!(of(&[b'a'; 129]), None);
    for bad in [&b""[..], b" ", b"a b", b"a\tb", b"caf\xc3\xa9", b"\xff"] {
        assert_eq!(of(bad), None, "{bad:?}");
    }
}

/// Names that are read, near misses, and anything.
fn header_name() -> impl Strategy<Value = String> {
    let window =
        "requests|tokens|input-tokens|project-tokens|5h|7d_oi|unified|overage|-|[a-z0-9_-]{0,60}";
    let field = "limit|remaining|reset|utilization|status|[a-z]{0,9}";
    prop_oneof![
        (window, field).prop_map(|(window, field)| format!("anthropic-ratelimit-{window}-{field}")),
        (window, field)
            .prop_map(|(window, field)| format!("anthropic-ratelimit-unified-{window}-{field}")),
        ("priority|fast|other", window, field)
            .prop_map(|(kind, w, field)| format!("anthropic-{kind}-{w}-{field}")),
        (window, field).prop_map(|(window, field)| format!("x-ratelimit-{field}-{window}")),
        "x-trial-endpoint-call-(limit|remaining)|x?-?(ratelimit|tokenlimit)-(limit|remaining|reset)",
        (window).prop_map(|window| format!("x-ratelimit-renewalperiod-{window}")),
        "date|retry-after|retry-after-ms|content-type|openai-organization|openai-project",
        "anthropic-organization-id|anthropic-ratelimit-?|x-ratelimit-?(limit)?-?",
        "[!-~]{1,40}",
    ]
}

fn header_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "-?[0-9]{0,21}".prop_map(String::into_bytes),
        "[0-9]{0,12}\\.[0-9]{0,20}(s|ms|h|m)?".prop_map(String::into_bytes),
        "20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](Z|\\+02:00)"
            .prop_map(String::into_bytes),
        "(Sun|Mon|Tue), [0-3][0-9] (Jan|Nov) (19|20)[0-9]{2} [0-2][0-9]:[0-5][0-9]:[0-5][0-9] GMT"
            .prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..150),
    ]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let word = "rate_limit_error|invalid_request_error|billing_error|insufficient_quota|\
                enforced_spend_limit_reached|unsupported_parameter|max_completion_tokens|[a-z_]{0,12}";
    let message = "You have reached your specified API usage limits. You will regain access on \
                   [0-9]{4}-[0-9]{2}-[0-9]{2} at [0-9]{2}:[0-9]{2} UTC|\
                   You will regain access on \\PC{0,30}|\\PC{0,40}";
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..400),
        (word, word, word, message, 0usize..400).prop_map(|(kind, code, detail, message, cut)| {
            let error = serde_json::json!({
                "type": kind, "code": code, "param": code, "message": message, "details": {"error_code": detail},
            });
            let mut bytes = serde_json::json!({"type": "error", "error": error}).to_string().into_bytes();
            // Half of them are cut off.
            bytes.truncate(if cut < 200 { cut } else { usize::MAX });
            bytes
        }),
        Just("[".repeat(60_000).into_bytes()),
        (any::<f64>(), any::<f64>(), "daily|weekly|monthly|[a-z]{0,4}").prop_map(|(limit, left, every)| {
            let data = serde_json::json!({"limit": limit, "limit_remaining": left, "limit_reset": every});
            serde_json::json!({"data": data}).to_string().into_bytes()
        }),
        ("[0-9.]{0,12}(s|ms|h|)|\\PC{0,9}", "PerDay|PerMinute|\\PC{0,9}").prop_map(|(delay, quota)| {
            let details = serde_json::json!([{"retryDelay": delay}, {"violations": [{"quotaId": quota}, 3]}, 3]);
            serde_json::json!({"error": {"details": details}}).to_string().into_bytes()
        }),
    ]
}

proptest! {
    #[test]
    fn any_reply_gives_a_sane_reading(
        status in prop_oneof![any::<u16>(), Just(200), Just(400), Just(422), Just(429), Just(529)],
        headers in proptest::collection::vec((header_name(), header_value()), 0..40),
        body in body(),
        row in 0..PROVIDERS.len(),
    ) {
        let fields = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_slice()));
        let reply = Reply { status, headers: fields.collect(), body };
        let provider = &PROVIDERS[row];
        for subject in [ProbeTarget::Model, ProbeTarget::Account] {
            let reading = provider.read(subject, &reply, now());
            for window in &reading.usage.windows {
                prop_assert!(window.utilization.is_finite() && window.utilization >= 0.0, "{window:?}");
                prop_assert!(window.resets_at.is_none_or(|reset| reset > now()), "{window:?}");
            }
            match reading.finding {
                Finding::Limited { retry_after } | Finding::Overloaded { retry_after } => {
                    prop_assert!(retry_after != Some(Duration::ZERO));
                    prop_assert!(matches!(status, 408 | 429 | 498 | 500..=599));
                }
                Finding::SpendCapped { until } => prop_assert!(until.is_none_or(|until| until > now())),
                Finding::Served => prop_assert!(matches!(status, 200..=299 | 400 | 403 | 422)),
                Finding::Rejected => prop_assert!(matches!(status, 400 | 401 | 403)),
                Finding::Unclear { why } => prop_assert!(!why.is_empty() && !why.ends_with('.')),
            }
            if let Some(group) = &reading.quota_group {
                prop_assert!(group.bytes().all(|byte| byte.is_ascii_graphic()));
            }
            prop_assert_eq!(provider.next_attempt(ProbeTarget::Model, ProbeForm::Fallback, &reply), None);
            let _ = provider.next_attempt(ProbeTarget::Model, ProbeForm::First, &reply);
        }
    }

    #[test]
    fn any_model_name_stays_a_string(model in "\\PC{1,40}|[\"\\\\{}\n]{1,20}") {
        // In a path only plain names can stand.
        let is_in_body = |provider: &&Provider| !matches!(provider.dialect, Dialect::Gemini);
        for provider in PROVIDERS.iter().filter(is_in_body) {
            for attempt in [ProbeForm::First, ProbeForm::Fallback] {
                let probe = provider.probe(ProbeTarget::Model, &model, attempt).unwrap();
                let body: Value = serde_json::from_str(&probe.body).unwrap();
                prop_assert_eq!(body["model"].as_str(), Some(model.as_str()));
            }
        }
    }
}
