//! Tokens that come and go: a token file is read again when no token is good.

use crate::support::gateway::{Gateway, Wire, message, post};
use crate::support::upstream::Upstream;
use crate::support::{Desk, Provider, Run, Supervise, eventually, spent_at};
use serde_json::json;
use std::fs;
use std::path::PathBuf;

/// Three tokens, of which the first is the only one in the file; nothing but the file names any.
fn with_a_file(provider: &Provider) -> (Supervise, PathBuf) {
    let run = Supervise::with(provider)
        .without("ANTHROPIC_API_KEY")
        .without("ANTHROPIC_API_KEY_2")
        .without("ANTHROPIC_API_KEYS");
    let file = run.desk().write("tokens", "");
    write(&file, &[provider.token(1)]);
    (run.env("ANTHROPIC_API_KEYS_FILE", &file), file)
}

fn write(file: &PathBuf, tokens: &[&str]) {
    fs::write(file, tokens.join("\n")).unwrap();
}

/// Tokens of which the state in this home knows the quota group.
fn known_groups(desk: &Desk) -> usize {
    let path = desk.join(".local/state/ddollar/state.json");
    let text = fs::read_to_string(path).unwrap_or_default();
    (1..=3)
        .filter(|n| text.contains(&format!("id-of-org-{n}")))
        .count()
}

#[test]
fn a_token_that_was_added_is_used_before_a_wait() {
    let mut provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    let (run, file) = with_a_file(&provider);
    let state = run.desk().join("state.json");
    let mut run = run
        .options(&[
            "--no-proxy",
            "--state",
            state.to_str().unwrap(),
            "--journal",
            "journal",
            "--notify",
            "echo \"$DDOLLAR_EVENT $DDOLLAR_TOKEN_NAME\" >>news",
        ])
        .agent();
    run.wait_ready_with(1);
    provider.wait_for_probe("anthropic#1");
    write(&file, &[provider.token(1), provider.token(3)]);
    provider.control(spent_at("org-1", "2h"));
    run.wait_ready_with(3);
    // It is one of them in all that is told: its number, its name, the state, the journal.
    let journal = run.desk.join("journal");
    eventually("the journal names it", || {
        let journal = fs::read_to_string(&journal).unwrap_or_default();
        journal.contains("new: token 2/2").then_some(())
    });
    let news = run.desk.join("news");
    eventually("the rotation is told with the name", || {
        let news = fs::read_to_string(&news).unwrap_or_default();
        news.contains("rotate …9c-3, tokens:2\n").then_some(())
    });
    let token = provider.token(3).to_owned();
    run.tell(&format!("exec ddollar-is-not-there {token}"));
    run.tell("exit 0");
    let ended = run.end();
    assert!(!ended.stderr.contains(&token), "{}", ended.stderr);
    ended
        .says_once("The token file has changed; new: token 2/2 …9c-3, tokens:2")
        .never_says("All tokens exhausted")
        .says(&["changed", "Switched to token 2/2", "Launching"]);
}

#[test]
fn a_token_that_is_added_in_a_wait_ends_it() {
    let provider = Provider::anthropic(&[1.0, 0.1, 0.1]);
    let (run, file) = with_a_file(&provider);
    let mut run = run.options(&["--no-proxy"]).agent();
    run.stderr.wait("Pausing");
    write(&file, &[provider.token(2), provider.token(1)]);
    run.stderr.wait("Switched to token 2/2");
    run.wait_ready_at_last_with(2);
    run.finish()
        .says_once("new: token 2/2 …9c-2, tokens:1")
        .says(&[
            "Pausing",
            "changed",
            "Auto-rotating",
            "Switched to token 2/2",
        ]);
}

#[test]
fn a_token_that_was_removed_is_left() {
    let mut provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    let (run, file) = with_a_file(&provider);
    write(&file, &[provider.token(1), provider.token(2)]);
    let mut run = run.options(&["--no-proxy"]).agent();
    run.wait_ready_with(1);
    provider.wait_for_probe("anthropic#2");
    write(&file, &[provider.token(3)]);
    provider.control(json!([spent_at("org-1", "3s"), spent_at("org-2", "3s")]));
    run.wait_ready_with(3);
    provider.control(spent_at("org-3", "8s"));
    run.stderr.wait("Pausing");
    // By then the others are good again, and are not asked.
    run.stderr.wait("Session continued");
    provider.served();
    let ended = run.finish();
    ended
        .says_once("new: token 3/3 …9c-3, tokens:1; gone: token 1/3")
        .says(&[
            "gone: token 1/3",
            "; gone: token 2/3",
            "Switched to token 3/3",
        ]);
}

/// The token in use meets its limit twice, and the command goes on each time.
fn waits_twice(provider: &Provider, run: &mut Run) {
    for _ in 0..2 {
        provider.control(spent_at("org-1", "2s"));
        run.stderr.wait("Session continued");
    }
}

#[test]
fn a_file_that_cannot_be_used_any_more_changes_nothing_and_is_said_once() {
    let provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    for spoilt in [None, Some("# none\n"), Some("made-up \"quoted\"\n")] {
        let (run, file) = with_a_file(&provider);
        let mut run = run.options(&["--no-proxy"]).agent();
        run.wait_ready_with(1);
        match spoilt {
            None => fs::remove_file(&file).unwrap(),
            Some(text) => fs::write(&file, text).unwrap(),
        }
        waits_twice(&provider, &mut run);
        run.finish()
            .says_once("The tokens stay as they are: ")
            .never_says("has changed");
    }
}

/// `NAME=<(pass show ...)`: a second look would find nothing, or wait for ever.
#[test]
fn a_pipe_is_read_once() {
    let provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    for path in ["/dev/fd/3", "pipe"] {
        let (run, _) = with_a_file(&provider);
        let token = provider.token(1);
        let script = match path {
            "pipe" => format!("mkfifo pipe; echo {token} > pipe & true"),
            // A pipe without a name, as a shell makes it for `<(...)`, too.
            _ => format!("exec 3<<END\n{token}\nEND\ntrue"),
        };
        let mut run = run
            .after(&script)
            .env("ANTHROPIC_API_KEYS_FILE", path)
            .options(&["--no-proxy", "-v"])
            .agent();
        run.wait_ready_with(1);
        waits_twice(&provider, &mut run);
        run.finish()
            .says_once("is not a regular file, and is not read again")
            .never_says("stay as they are");
    }
}

/// Posts a message, with this credential.
fn ask(address: &str, secret: &str) -> Wire {
    post(
        address,
        "/anthropic/v1/messages",
        secret,
        "",
        &message(json!({})),
    )
}

#[test]
fn a_request_that_is_held_goes_out_with_a_token_that_was_added() {
    let mut provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    let (run, file) = with_a_file(&provider);
    let mut run = run.options(&["--proxy"]).agent();
    run.wait_ready();
    run.tell("echo \"URL $ANTHROPIC_BASE_URL $ANTHROPIC_API_KEY\"");
    let line = run.stdout.wait("URL http://");
    let mut words = line.split(' ').skip(1);
    let address = words.next().unwrap().split('/').nth(2).unwrap().to_owned();
    let secret = words.next().unwrap().to_owned();
    provider.control(spent_at("org-1", "5m"));
    let mut held = ask(&address, &secret);
    run.stderr.wait("Waiting for limits");
    write(&file, &[provider.token(3)]);
    assert_eq!(held.answer().status, 200);
    provider.wait_for("a request with the third token", |line| {
        line["who"] == "other" && line["status"] == 200 && line["token_label"] == "anthropic#3"
    });
    let mut wire = Wire::to(&address);
    wire.send(format!(
        "GET /ddollar/status HTTP/1.1\r\nHost: {address}\r\nx-api-key: {secret}\r\n\r\n"
    ));
    let status = wire.answer().json();
    assert_eq!(status["tokens"][0]["condition"], "removed", "{status}");
    assert_eq!(status["tokens"][1]["of"], 2, "{status}");
    eventually("the state knows both", || {
        (known_groups(&run.desk) == 2).then_some(())
    });
    run.finish()
        .says_once("new: token 2/2 …9c-3, tokens:1; gone: token 1/2")
        .says_once("Launching")
        .says(&["Waiting for limits", "changed", "Switched to token 2/2"]);
}

/// Its command has it in its own environment, and sends it to the proxy.
#[test]
fn a_token_that_was_added_opens_the_proxy_that_was_offered() {
    let mut provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    let (run, file) = with_a_file(&provider);
    let mut run = run.agent();
    run.wait_ready_with(1);
    provider.wait_for_probe("anthropic#1");
    write(&file, &[provider.token(1), provider.token(2)]);
    provider.control(spent_at("org-1", "2h"));
    run.wait_ready_with(2);
    run.tell("echo \"URL $ANTHROPIC_BASE_URL\"");
    let line = run.stdout.wait("URL http://");
    let address = line.split('/').nth(2).unwrap().to_owned();
    assert_ne!(format!("http://{address}"), provider.url);
    assert_eq!(ask(&address, provider.token(2)).answer().status, 200);
    run.stderr.wait("no restart for a limit");
    run.finish().never_says("a credential of its own");
}

/// As a secret manager does it. The application sees nothing of the old one's end.
#[test]
fn a_token_that_is_replaced_in_its_file_is_replaced_in_the_request_that_meets_its_end() {
    let upstream = Upstream::playing_all(|played| {
        let is_old = played.head.contains("token-old-1") && played.number > 1;
        match is_old {
            true => played.answer(
                401,
                "",
                r#"{"type":"error","error":{"type":"authentication_error"}}"#,
            ),
            false => played.answer(200, "", "{}"),
        }
        true
    });
    let run = Supervise::bare().env("ANTHROPIC_BASE_URL", &upstream.url);
    let file = run.desk().write("tokens", "token-old-1\n");
    let run = run.env("ANTHROPIC_API_KEYS_FILE", &file);
    let gateway = Gateway::start(run, &[]);
    gateway.eventually_status(|status| status["tokens"][0]["condition"] == "usable");
    assert_eq!(gateway.post(json!({})).status, 200);
    write(&file, &["token-new-2"]);
    for _ in 0..2 {
        assert_eq!(gateway.post(json!({})).status, 200);
    }
    gateway.eventually_status(|status| status["tokens"][0]["condition"] == "removed");
}

#[test]
fn a_proxy_for_many_takes_in_a_token_that_was_added() {
    let provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    let (run, file) = with_a_file(&provider);
    let gateway = Gateway::start(run, &[]);
    gateway.eventually_status(|status| status["tokens"][0]["group"].is_string());
    write(&file, &[provider.token(2)]);
    provider.control(spent_at("org-1", "5m"));
    assert_eq!(gateway.post(json!({})).status, 200);
    gateway.eventually_status(|status| status["tokens"][0]["condition"] == "removed");
    // None is good for what was asked: the file is looked at now and then.
    provider.control(spent_at("org-2", "5m"));
    let mut wire = ask(&gateway.address, &gateway.secret);
    gateway.eventually_status(|status| status["tokens"][1]["condition"] == "limited");
    write(&file, &[provider.token(2), provider.token(3)]);
    assert_eq!(wire.answer().status, 200);
}
