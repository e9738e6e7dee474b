//! `ddollar status`: every token at once.

use crate::support::env::PROGRAM;
use crate::support::gateway::Gateway;
use crate::support::{Desk, Provider, organizations, spent_at};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

fn status(provider: &Provider, arguments: &[&str]) -> Command {
    let mut command = Desk::new().command(PROGRAM);
    command.current_dir("/");
    for (name, value) in provider.variables(&provider.url) {
        command.env(name, value);
    }
    command.arg("status").args(arguments);
    command
}

#[track_caller]
fn shown(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(code), ""));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

#[test]
fn every_token_is_shown_with_its_windows_and_what_would_be_done() {
    let places = ["org-1", "org-2", "org-2", "org-3"];
    let organizations = organizations(&[0.97, 0.25, 0.0]);
    let provider = Provider::start("anthropic", &places, organizations, json!([]));
    provider.control(json!({"answer": {"token": "anthropic#4", "fault": "401"}}));
    let text = shown(&status(&provider, &[]).output().unwrap(), 0);
    let ending = |number| {
        let token: &str = provider.token(number);
        token[token.len() - 4..].to_owned()
    };
    has(
        &text,
        &[
            &format!(
                "Anthropic token 1/4 …{}, ANTHROPIC_API_KEY: near its limit until ",
                ending(1)
            ),
            "quota A\n",
            &format!(
                "Anthropic token 2/4 …{}, ANTHROPIC_API_KEY_2: usable, quota B\n",
                ending(2)
            ),
            "    requests  ███████████████████░  97.",
            "    requests  █████░░░░░░░░░░░░░░░  25.",
            &format!(
                "Anthropic token 3/4 …{}, ANTHROPIC_API_KEYS (number 1): usable, quota B\n",
                ending(3)
            ),
            &format!(
                "Anthropic token 4/4 …{}, ANTHROPIC_API_KEYS (number 2): rejected\n    invalid x-api-key\n",
                ending(4)
            ),
            "\nAnthropic: ddollar would use token 2/4\n",
        ],
    );
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text}");
    for token in provider.tokens() {
        assert!(!text.contains(token));
    }

    let plain = shown(&status(&provider, &["--ascii"]).output().unwrap(), 0);
    assert!(plain.is_ascii(), "{plain}");
    has(&plain, &["    requests  #####...............  25."]);
    let mut narrow = status(&provider, &["--ascii"]);
    let narrow = shown(&narrow.env("COLUMNS", "30").output().unwrap(), 0);
    assert!(narrow.lines().all(|line| line.len() <= 30), "{narrow}");

    let json = shown(&status(&provider, &["--json"]).output().unwrap(), 0);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["tokens"][0]["condition"], "near-limit");
    assert_eq!(json["tokens"][1]["ending"], ending(2));
    assert_eq!(json["tokens"][1]["group"], json["tokens"][2]["group"]);
    assert_eq!(
        json["next"],
        json!([{"provider": "anthropic", "action": "use", "token": 2}])
    );
}

#[test]
fn a_shell_that_points_at_a_proxy_is_recognised() {
    let mut provider = Provider::anthropic(&[0.1]);
    let gateway = Gateway::of(&mut provider);
    let url = format!("http://{}/anthropic", gateway.address);
    let mut command = Desk::new().command(PROGRAM);
    command.current_dir("/");
    let output = command
        .env("ANTHROPIC_BASE_URL", &url)
        .env("ANTHROPIC_API_KEY", &gateway.secret)
        .arg("status")
        .output()
        .unwrap();
    let said = format!("Anthropic: this shell uses the ddollar proxy at {url}; what follows");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(&said), "{stderr}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("The limits of your tokens (API keys), and how much is used:\n"),
        "{text}"
    );
    assert!(text.contains("ANTHROPIC_API_KEY: usable"), "{text}");
    assert!(!text.contains(&gateway.secret), "{text}");
}

#[test]
fn the_proxy_tells_of_a_token_in_the_same_words() {
    let mut provider = Provider::anthropic(&[0.97, 0.25]);
    provider.control(spent_at("org-2", "9m"));
    let gateway = Gateway::of(&mut provider);
    let of_the_proxy = gateway.eventually_status(|status| {
        let condition = |index: usize| &status["tokens"][index]["condition"];
        condition(0) == "near-limit" && condition(1) == "limited"
    });
    let output = status(&provider, &["--json"]).output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    // What changes from one moment to the next; its format is told by its length.
    let shape = |value: &Value| match value {
        Value::Number(_) => json!(0),
        Value::String(text) if text.ends_with('Z') => json!(text.len()),
        value => value.clone(),
    };
    let token = |told: &Value, index: usize| {
        let mut token = told["tokens"][index].as_object().unwrap().clone();
        for own in ["in_use", "under_way", "served", "refused"] {
            token.remove(own);
        }
        let window = token["windows"][0].as_object().unwrap().clone();
        let window: serde_json::Map<String, Value> = window
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect();
        token["windows"] = json!([window]);
        token
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect::<serde_json::Map<String, Value>>()
    };
    for index in 0..2 {
        assert_eq!(token(&of_the_proxy, index), token(&json, index));
    }
    assert_eq!(shape(&of_the_proxy["at"]), shape(&json["at"]));
}

/// The bars give way, not the numbers.
#[test]
fn a_window_of_long_numbers_is_one_line() {
    let window = |limit: u64| json!({"limit": limit, "resets": "9m47s", "used": 0.5});
    let buckets = json!({"requests": window(1000), "tokens": window(2_000_000)});
    let all = json!({"org-1": {"id": "id-of-org-1", "buckets": buckets}});
    let provider = Provider::start("anthropic", &["org-1"], all, json!([]));
    let lines = |columns: &str| {
        let mut command = status(&provider, &["--ascii"]);
        let text = shown(&command.env("COLUMNS", columns).output().unwrap(), 0);
        let windows = text.lines().skip(2).take(2).map(str::to_owned);
        windows.collect::<Vec<String>>()
    };
    for columns in ["80", "70"] {
        for line in lines(columns) {
            assert!(line.contains("  50.") && line.ends_with("s)"), "{line}");
            assert!(line.contains("#."), "{line}");
        }
    }
    assert!(lines("64").iter().all(|line| !line.contains('#')));
}

#[test]
fn the_exit_code_says_whether_a_start_would_make_sense() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let now = |code: i32| shown(&status(&provider, &[]).output().unwrap(), code);
    has(&now(0), &["ddollar would use token 1/2"]);
    provider.control(json!([spent_at("org-1", "9m"), spent_at("org-2", "5m")]));
    has(
        &now(75),
        &[
            "limited until ",
            "ddollar would wait 5m for token 2/2, until ",
        ],
    );
    provider.fault("529");
    has(
        &now(75),
        &[
            "its provider is overloaded",
            "would wait 5s for it to answer",
        ],
    );

    let provider = Provider::anthropic(&[0.1]);
    provider.fault("401");
    let text = shown(&status(&provider, &[]).output().unwrap(), 1);
    has(&text, &["1/1 …", ": rejected\n", "no token can recover"]);
}

/// Like a run, it asks again before it believes that all tokens were revoked at once.
#[test]
fn tokens_that_are_rejected_together_are_asked_again() {
    let [revoked, troubled] = [(), ()].map(|()| Provider::anthropic(&[0.1, 0.1]));
    revoked.fault("401");
    troubled.control(json!({"answer": {"fault": "401", "times": 2}}));
    let start = |provider| {
        let mut command = status(provider, &[]);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    for (status, code, wanted) in [
        (start(&troubled), 0, ["usable", "would use token 1/2"]),
        (start(&revoked), 1, [": rejected\n", "no token can recover"]),
    ] {
        let output = status.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        has(&told, &["Every token was rejected; asking again in 5s"]);
        assert_eq!(output.status.code(), Some(code), "{told}");
        has(&String::from_utf8_lossy(&output.stdout), &wanted);
    }
}

#[test]
fn a_provider_out_of_reach_is_no_verdict_on_a_token() {
    let provider = Provider::anthropic(&[0.1]);
    let mut command = status(&provider, &[]);
    let output = command
        .env("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
        .output();
    has(&shown(&output.unwrap(), 75), &["1/1 …", ": no answer: "]);
}

#[test]
fn watching_shows_it_again_at_each_interval() {
    let provider = Provider::anthropic(&[0.1]);
    let mut watching = status(&provider, &["--watch", "--json", "--interval", "100ms"]);
    let mut process = watching.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["tokens"][0]["condition"], "usable");
    }
    // A reader that goes away ends it.
    drop(lines);
    assert_eq!(process.wait().unwrap().code(), Some(0));
}

#[test]
fn without_a_token_there_is_nothing_to_show() {
    let output = Desk::new().command(PROGRAM).arg("status").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let stderr = String::from_utf8(output.stderr).unwrap();
    has(&stderr, &["ddollar: no API tokens found", "\nhint: "]);
}
