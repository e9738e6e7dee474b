//! `supervise --proxy`: rotation inside the proxy, with one child from start to end.

use crate::support::env::{PROGRAM, output};
use crate::support::gateway::{Wire, message, post};
use crate::support::upstream::Upstream;
use crate::support::{Desk, Provider, Run, Supervise, eventually, organizations, proc, spent_at};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::time::Instant;

/// A supervised agent, and what it knows of the proxy.
struct Proxied {
    run: Run,
    pid: Pid,
    address: String,
    secret: String,
}

/// Starts the agent behind a proxy, with these options.
fn supervised(provider: &Provider, options: &[&str]) -> Proxied {
    start(Supervise::with(provider).options(options))
}

fn start(prepared: Supervise) -> Proxied {
    offered(prepared.options(&["--proxy"]))
}

/// The same with the proxy's address beside a token, and no more.
fn offered(prepared: Supervise) -> Proxied {
    let mut run = prepared.agent();
    let (pid, _) = run.wait_ready();
    run.tell("echo \"URL $ANTHROPIC_BASE_URL $ANTHROPIC_API_KEY\"");
    let line = run.stdout.wait("URL http://");
    let mut words = line.split(' ').skip(1);
    let url = words.next().unwrap().to_owned();
    Proxied {
        run,
        pid,
        address: url.split('/').nth(2).unwrap().to_owned(),
        secret: words.next().unwrap().to_owned(),
    }
}

impl Proxied {
    /// Sends what the agent would send; its answer is still to come.
    fn ask(&self, more: Value) -> Wire {
        let path = "/anthropic/v1/messages";
        post(&self.address, path, &self.secret, "", &message(more))
    }

    #[track_caller]
    fn is_served(&self) {
        let answered = self.ask(json!({})).answer();
        assert_eq!(answered.status, 200, "{answered:?}");
    }
}

/// The seconds of a test are enough for many checks, none of which may stop it.
#[test]
fn a_command_that_takes_the_address_it_is_offered_is_rotated_in_place() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let proxied = offered(Supervise::with(&provider));
    assert_eq!(proxied.secret, provider.token(1));
    proxied.is_served();
    let mut proxied = proxied;
    proxied.run.stderr.wait("no restart for a limit");
    provider.set("org-1", 0.97);
    proxied.is_served();
    provider.control(spent_at("org-1", "2h"));
    proxied.is_served();
    provider.wait_for("a request with the second token", |line| {
        line["who"] == "other" && line["status"] == 200 && line["token_label"] == "anthropic#2"
    });
    assert_eq!(proxied.run.only_child(), proxied.pid);
    proxied
        .run
        .finish()
        .says_once("Launching")
        .never_says("Pausing")
        .never_says("No request");
}

#[test]
fn a_command_that_fails_with_nothing_through_is_started_again_without_the_address() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let mut offered = offered(Supervise::with(&provider).options(&["--interval", "1h"]));
    assert_ne!(format!("http://{}", offered.address), provider.url);
    provider.wait_for_probe("anthropic#2");
    provider.control(spent_at("org-1", "9m"));
    offered.run.tell("exit 1");
    offered.run.wait_ready_with(2);
    offered.run.tell("echo \"NOW $ANTHROPIC_BASE_URL\"");
    let line = offered.run.stdout.wait("NOW ");
    assert_eq!(line.trim_end(), format!("NOW {}", provider.url));
    offered.run.tell("exit 3");
    let ended = offered.run.end().expect(3);
    ended
        .says_once("No request came through the proxy")
        .says(&["Token limit reached", "Switched to token 2/2"]);
}

/// Its token is not the one that the request has gone out with.
#[test]
fn a_request_with_a_credential_of_its_own_does_not_keep_the_command_from_a_restart() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let mut offered = offered(Supervise::with(&provider));
    let token = std::mem::replace(&mut offered.secret, "made-up-key-of-its-own".into());
    assert_eq!(token, provider.token(1));
    assert_eq!(offered.ask(json!({})).answer().status, 401);
    provider.set("org-1", 0.96);
    offered.run.wait_ready_with(2);
    let ended = offered.run.finish();
    ended
        .says_once("has a credential of its own")
        .says(&["approaching (96% used)", "Switched to token 2/2"])
        .never_says("no restart");
}

/// The token that it was given then is the one that its requests go out with.
#[test]
fn a_restart_before_the_first_request_is_not_followed_by_a_rotation_in_the_proxy() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let mut offered = offered(Supervise::with(&provider));
    provider.set("org-1", 0.96);
    offered.run.wait_ready_with(2);
    offered.secret = provider.token(2).to_owned();
    offered.is_served();
    provider.wait_for("a request with the second token", |line| {
        line["who"] == "other" && line["token_label"] == "anthropic#2"
    });
    offered.run.stderr.wait("no restart for a limit");
    let ended = offered.run.finish();
    ended
        .says_once("Auto-rotating")
        .says_once("Switched to token 2/2");
}

/// The proxy wants many files for itself. A program with `select` cannot have a number above 1023.
#[test]
fn the_command_starts_with_the_limit_on_open_files_that_ddollar_had() {
    let provider = Provider::anthropic(&[0.1]);
    let desk = Desk::new();
    let script = "ulimit -Sn; ulimit -Hn; grep '^Max open files' /proc/$PPID/limits";
    let ours = "ulimit -Sn 333; exec \"$0\" supervise --proxy --notify 'ulimit -Sn >notified' -- sh -c \"$1\"";
    let ended = output(
        desk.command("sh")
            .args(["-c", ours, PROGRAM, script])
            .envs(provider.variables(&provider.url)),
    );
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    let [soft, hard, limits] = lines[..] else {
        panic!("{ended:?}");
    };
    assert_eq!(soft, "333");
    let words: Vec<&str> = limits.split_whitespace().collect();
    assert_eq!(words[4], hard);
    assert!(words[3] != "333" || hard == "333", "not raised: {limits}");
    let notified = std::fs::read_to_string(desk.join("notified"));
    assert_eq!(notified.unwrap(), "333\n");
}

#[test]
fn tokens_change_and_the_child_stays() {
    let mut provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    let proxied = supervised(&provider, &[]);
    proxied.is_served();
    for (organization, token) in [("org-1", 2), ("org-2", 3)] {
        provider.control(spent_at(organization, "2h"));
        proxied.is_served();
        let line = provider.wait_for("a request", |line| {
            line["who"] == "other" && line["status"] == 200 && {
                line["token_label"] == format!("anthropic#{token}")
            }
        });
        assert_eq!(line["status"], 200);
    }
    assert_eq!(proxied.run.only_child(), proxied.pid);
    proxied
        .run
        .finish()
        .says(&[
            "Switched to token 2/3",
            "Switched to token 3/3",
            "Process completed",
        ])
        .says_once("Launching")
        .never_says("Pausing");
}

/// A client that falls back to another model by itself goes on undisturbed, although the reset of the
/// first one is far away.
#[test]
fn a_client_that_takes_another_model_is_not_paused() {
    let upstream = Upstream::playing(|played| {
        match String::from_utf8_lossy(&played.body).contains("opus") {
            true => played.answer(429, "retry-after: 30000\r\n", "{}"),
            false => played.answer(200, "", "{}"),
        }
        true
    });
    let prepared = Supervise::bare()
        .env("ANTHROPIC_BASE_URL", &upstream.url)
        .env("ANTHROPIC_API_KEYS", "token-aaaa-1,token-bbbb-2")
        .options(&["--no-state", "--model", "claude-haiku-5-6"]);
    let proxied = start(prepared);
    for (model, status) in [
        ("claude-opus-5-5", 429),
        ("claude-haiku-5-6", 200),
        ("claude-opus-5-5", 429),
        ("claude-haiku-5-6", 200),
    ] {
        assert_eq!(proxied.ask(json!({"model": model})).answer().status, status);
    }
    proxied
        .run
        .finish()
        .expect(0)
        .says_once("No token for claude-opus-5-5 until ")
        .never_says("Pausing")
        .says_once("Launching");
}

/// Its own model is refused for longer than requests are held, while another one of its models is served:
/// it hears of that, gives up, and is started again when its model is served again.
#[test]
fn a_child_that_gave_up_for_one_of_its_models_is_started_again_at_the_reset() {
    let begin = Instant::now();
    let upstream = Upstream::playing(move |played| {
        let left = 8_u64.saturating_sub(begin.elapsed().as_secs());
        match String::from_utf8_lossy(&played.body).contains("opus") && left > 0 {
            true => played.answer(429, &format!("retry-after: {left}\r\n"), "{}"),
            false => played.answer(200, "", "{}"),
        }
        true
    });
    let prepared = Supervise::bare()
        .env("ANTHROPIC_BASE_URL", &upstream.url)
        .env("ANTHROPIC_API_KEYS", "token-aaaa-1,token-bbbb-2")
        .options(&["--no-state", "--model", "claude-haiku-5-6"])
        .options(&["--hold", "1s", "--patience", "0s"]);
    let mut proxied = start(prepared);
    let ask = |proxied: &Proxied, model| proxied.ask(json!({"model": model})).answer().status;
    assert_eq!(ask(&proxied, "claude-haiku-5-6"), 200);
    assert_eq!(ask(&proxied, "claude-opus-5-5"), 429);
    proxied.run.tell("exit 1");
    proxied.run.wait_ready();
    assert_eq!(ask(&proxied, "claude-opus-5-5"), 200);
    proxied
        .run
        .finish()
        .says(&["Waiting for limits to reset", "Restarted"]);
}

/// The model that the first check of a run asks for, with these options.
fn first_checked(provider: &mut Provider, run: Supervise) -> String {
    provider.served();
    let mut run = run.options(&["--no-proxy"]).agent();
    let probe = provider.wait_for("a check", |line| line["who"] == "ddollar");
    run.wait_ready();
    run.finish();
    probe["model"].as_str().unwrap().to_owned()
}

#[test]
fn checks_ask_for_the_model_that_was_seen_in_an_earlier_run() {
    let mut provider = Provider::anthropic(&[0.1]);
    let desk = Desk::new();
    let state = desk.join("state.json");
    let with_state = |provider: &Provider| {
        let run = Supervise::with(provider).env("ANTHROPIC_MODEL", "claude-sonnet-5-5");
        run.options(&["--state", state.to_str().unwrap()])
    };
    let run = with_state(&provider);
    let first = first_checked(&mut provider, run);
    assert_eq!(first, "claude-sonnet-5-5", "the environment's");
    let proxied = offered(with_state(&provider));
    for model in ["claude-opus-5-5", "claude-haiku-5-5", "claude-opus-5-5"] {
        assert_eq!(proxied.ask(json!({"model": model})).answer().status, 200);
    }
    proxied.run.finish();
    let run = with_state(&provider);
    let first = first_checked(&mut provider, run);
    assert_eq!(first, "claude-opus-5-5", "that of most requests");
    let named = with_state(&provider).options(&["--model", "claude-haiku-5-5"]);
    assert_eq!(first_checked(&mut provider, named), "claude-haiku-5-5");
    let text = std::fs::read_to_string(state).unwrap();
    assert!(
        text.contains("\"generic/anthropic\": \"claude-opus-5-5\""),
        "{text}"
    );
}

#[test]
fn a_model_that_was_seen_and_is_gone_is_checked_once() {
    let scenario = json!({"models": ["claude-haiku-5-5"]});
    let mut provider = Provider::playing("anthropic", &["org-1"], scenario);
    let desk = Desk::new();
    let state = desk.join("state.json");
    let options = ["--state", state.to_str().unwrap()];
    let proxied = start(Supervise::with(&provider).options(&options));
    assert_eq!(
        proxied.ask(json!({"model": "claude-old"})).answer().status,
        404
    );
    proxied.run.finish();
    provider.served();
    let run = Supervise::with(&provider).options(&options);
    let run = run.options(&["--no-proxy"]).agent();
    let old = provider.wait_for("a check of the old one", |line| line["who"] == "ddollar");
    assert_eq!(
        (&old["model"], &old["status"]),
        (&json!("claude-old"), &json!(404))
    );
    for _ in 0..3 {
        let check = provider.wait_for("a check", |line| line["who"] == "ddollar");
        assert_eq!(check["model"], "claude-haiku-5-5");
    }
    run.finish();
}

#[test]
fn after_a_pause_the_model_of_the_commands_requests_is_asked_for() {
    let mut provider = Provider::anthropic(&[0.1]);
    let mut proxied = supervised(&provider, &["--hold", "1s", "--patience", "0s"]);
    let ask = |proxied: &Proxied| proxied.ask(json!({"model": "claude-opus-5-5"}));
    assert_eq!(ask(&proxied).answer().status, 200);
    provider.control(spent_at("org-1", "5s"));
    let held = ask(&proxied);
    proxied.run.stderr.wait("Pausing");
    // Its client gives up; were it served at the reset, nothing would have to be asked.
    drop(held);
    let check = provider.wait_for_probe("anthropic#1");
    assert_eq!(check["model"], "claude-opus-5-5");
    proxied.run.stderr.wait("Session continued");
    proxied.run.finish();
}

#[test]
fn the_child_has_the_secret_and_no_token() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let proxied = supervised(&provider, &[]);
    let environment = proc::environment(proxied.pid);
    for token in provider.tokens() {
        assert!(!environment.iter().any(|line| line.contains(token.as_str())));
    }
    assert!(proxied.secret.starts_with("ddollar-"));
    assert!(environment.contains(&format!("ANTHROPIC_API_KEY={}", proxied.secret)));
    let secret = proxied.secret.clone();
    let ended = proxied.run.finish();
    assert!(!ended.stderr.contains(&secret), "{}", ended.stderr);
}

#[test]
fn the_child_has_no_end_of_the_proxys_pipes() {
    let provider = Provider::anthropic(&[0.1]);
    let proxied = supervised(&provider, &[]);
    // Past the standard streams: what a shell opens itself is no pipe.
    let pipes = |pid: Pid, from: u32| -> Vec<String> {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        files
            .flatten()
            .filter(|file| {
                let number = file.file_name().to_string_lossy().parse::<u32>();
                number.is_ok_and(|number| number >= from)
            })
            .filter_map(|file| std::fs::read_link(file.path()).ok())
            .map(|link| link.display().to_string())
            .filter(|link| link.starts_with("pipe:"))
            .collect()
    };
    // One that ddollar has both ends of is its own.
    let ours = pipes(proxied.run.pid, 3);
    let both = |pipe: &&String| ours.iter().filter(|other| other == pipe).count() > 1;
    assert!(ours.iter().any(|pipe| both(&pipe)), "{ours:?}");
    let theirs = pipes(proxied.pid, 3);
    assert!(!theirs.iter().any(|pipe| both(&pipe)), "{theirs:?}");
}

#[test]
fn there_are_no_probes_while_traffic_tells() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let proxied = supervised(&provider, &["--interval", "100ms"]);
    for _ in 0..10 {
        proxied.is_served();
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    proxied.run.finish();
    let probes = provider
        .served()
        .iter()
        .filter(|line| line["who"] == "ddollar");
    assert!(probes.count() <= 2, "one a token, at the start");
}

#[test]
fn a_near_reset_is_held_and_the_child_runs() {
    let places = ["org-1", "org-1"];
    let provider = Provider::start("anthropic", &places, organizations(&[0.1]), json!([]));
    let proxied = supervised(&provider, &[]);
    proxied.is_served();
    provider.control(spent_at("org-1", "3s"));
    let mut wire = proxied.ask(json!({}));
    let mut proxied = proxied;
    proxied.run.stderr.wait("Waiting for limits to reset");
    assert!(proc::is_running(proxied.pid));
    assert_eq!(wire.answer().status, 200);
    proxied
        .run
        .finish()
        .says_once("Launching")
        .never_says("Pausing");
}

#[test]
fn a_far_reset_pauses_the_child_and_its_request_is_answered_after_it() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let mut proxied = supervised(&provider, &["--hold", "1s", "--patience", "0s"]);
    proxied.is_served();
    provider.control(json!([spent_at("org-1", "8s"), spent_at("org-2", "6s")]));
    let mut wire = proxied.ask(json!({}));
    proxied.run.wait_stopped(proxied.pid);
    let answered = wire.answer();
    assert_eq!(answered.status, 200, "{answered:?}");
    proxied.run.stderr.wait("Session continued");
    eventually("the child runs", || {
        proc::is_running(proxied.pid).then_some(())
    });
    assert_eq!(proxied.run.only_child(), proxied.pid);
    proxied
        .run
        .finish()
        .says(&[
            "All tokens exhausted",
            "token 2/2",
            "Pausing subprocess",
            "Resuming subprocess",
        ])
        .says_once("All tokens exhausted")
        .says_once("Launching");
}

#[test]
fn with_no_token_that_can_recover_the_run_ends_with_75() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let proxied = supervised(&provider, &[]);
    proxied.is_served();
    provider.fault("credit-balance");
    let answered = proxied.ask(json!({})).answer();
    assert_eq!(answered.status, 429);
    proxied
        .run
        .end()
        .expect(75)
        .says_once("No Anthropic token is left");
}

#[test]
fn a_child_that_an_outage_ended_is_started_again_when_it_is_over() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let mut proxied = supervised(&provider, &[]);
    proxied.is_served();
    provider.fault("529");
    assert_eq!(proxied.ask(json!({})).answer().status, 529);
    proxied.run.tell("exit 1");
    proxied.run.stderr.wait("next try in");
    provider.clear_faults();
    let (again, _) = proxied.run.wait_ready();
    assert_ne!(again, proxied.pid);
    proxied.is_served();
    proxied.run.finish();
}

#[test]
fn a_rehearsal_behind_the_proxy_starts_its_worker_once() {
    let state = Desk::new();
    let run = Supervise::bare().env("XDG_STATE_HOME", state.path());
    run.start_as(&["rehearse", "--proxy"])
        .end()
        .expect(0)
        .says(&[
            "Switched to token 2/3",
            "Switched to token 3/3",
            "155 done, 0 lost, 0 repeated",
        ])
        .says_once("Launching");

    // The record knows the real tokens, and how full they were.
    let facts = report(&state);
    assert_eq!(
        (&facts["starts"], &facts["rotations"]),
        (&json!(1), &json!(2))
    );
    let tokens = facts["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 3);
    for token in tokens {
        assert!(token["used"].as_array().unwrap().len() > 2, "{token}");
    }
}

/// What the record of the last run in this folder comes to.
fn report(state: &Desk) -> Value {
    let mut report = state.command(PROGRAM);
    report.env("XDG_STATE_HOME", state.path());
    let output = report.args(["report", "--json"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_record_of_a_short_run_has_its_limits_its_rotation_and_its_hold() {
    let state = Desk::new();
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let news = state.join("news");
    let notify = format!(
        "echo \"$DDOLLAR_EVENT $DDOLLAR_TOKEN\" >> '{}'",
        news.display()
    );
    let run = Supervise::with(&provider).env("XDG_STATE_HOME", state.path());
    let mut proxied = start(run.options(&["--notify", &notify]));
    proxied.is_served();
    provider.control(spent_at("org-1", "2h"));
    proxied.is_served();
    let told = |event: &str| {
        eventually(event, || {
            let told = std::fs::read_to_string(&news).ok()?;
            told.contains(event).then_some(told)
        })
    };
    told("rotate 2\n");
    provider.control(spent_at("org-2", "5s"));
    // Several at once are one wait.
    let mut wires: Vec<Wire> = (0..3).map(|_| proxied.ask(json!({}))).collect();
    for wire in &mut wires {
        assert_eq!(wire.answer().status, 200);
    }
    proxied
        .run
        .stderr
        .wait("Held requests go on with token 2/2");
    let told = told("resume 2\n");
    assert_eq!(told.matches("limit").count(), 2, "{told}");
    proxied
        .run
        .finish()
        .says_once("All tokens exhausted")
        .never_says("approaching");

    let facts = report(&state);
    assert_eq!(
        (&facts["starts"], &facts["rotations"]),
        (&json!(1), &json!(1))
    );
    let [wait] = &facts["waits"].as_array().unwrap()[..] else {
        panic!("{facts}");
    };
    assert_eq!(
        (&wait["token"], &wait["held"]),
        (&json!(2), &json!(true)),
        "{wait}"
    );
    for end in ["promised", "usable", "to"] {
        assert!(wait[end].is_string(), "{end} in {wait}");
    }
    assert!(
        facts["seconds"]["waited"].as_f64().unwrap() > 0.5,
        "{facts}"
    );
    let story = facts["story"].as_array().unwrap().iter();
    let limits: Vec<_> = story
        .filter(|chapter| chapter["event"] == "limit")
        .map(|chapter| (&chapter["token"], &chapter["cause"]))
        .collect();
    let reached = json!("reached");
    assert_eq!(limits, [(&json!(1), &reached), (&json!(2), &reached)]);
    for token in facts["tokens"].as_array().unwrap() {
        let used = token["used"].as_array().unwrap().iter();
        let most = used
            .filter_map(|step| step["used"].as_f64())
            .fold(0.0, f64::max);
        assert!(most >= 1.0, "{token}");
    }
}

#[test]
fn a_limit_that_a_check_finds_is_in_the_record() {
    let state = Desk::new();
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let run = Supervise::with(&provider).env("XDG_STATE_HOME", state.path());
    let mut proxied = start(run);
    proxied.is_served();
    provider.control(spent_at("org-1", "2h"));
    // Its failure makes ddollar ask.
    proxied.run.tell("exit 3");
    proxied.run.end().expect(3).says_once("Token limit reached");
    let facts = report(&state);
    let mut story = facts["story"].as_array().unwrap().iter();
    assert!(
        story.any(|chapter| chapter["event"] == "limit" && chapter["token"] == 1),
        "{facts}"
    );
}

/// The seconds for which a token is passed over are two rotations, there and back.
#[test]
fn a_token_that_is_passed_over_for_seconds_is_said_to_be() {
    let state = Desk::new();
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let run = Supervise::with(&provider).env("XDG_STATE_HOME", state.path());
    let mut proxied = start(run);
    proxied.is_served();
    provider.control(spent_at("org-1", "4s"));
    proxied.is_served();
    proxied.run.stderr.wait("Switched to token 2/2");
    eventually("the first token is back", || {
        proxied.is_served();
        proxied
            .run
            .stderr
            .text()
            .contains("Switched to token 1/2")
            .then_some(())
    });
    proxied.run.finish();
    assert_eq!(report(&state)["rotations"], 2);
}

/// A proxy of the network's is not asked for this machine, whoever tells the command of it: without that, it
/// would get the request with the secret or the token.
#[test]
fn a_proxy_of_the_network_is_passed_by() {
    let provider = Provider::anthropic(&[0.1]);
    let show = ["sh", "-c", "echo \"=$NO_PROXY=$no_proxy=\""];
    for (set, wanted) in [
        (None, "=127.0.0.1=127.0.0.1="),
        (
            Some(("NO_PROXY", "example.com")),
            "=example.com,127.0.0.1=example.com,127.0.0.1=",
        ),
        (Some(("no_proxy", "*")), "=*=*="),
    ] {
        for options in [&[][..], &["--proxy"]] {
            let mut run = Supervise::with(&provider).options(options);
            if let Some((name, value)) = set {
                run = run.env(name, value);
            }
            let ended = run.start(&show).end().expect(0);
            let out = String::from_utf8(ended.stdout).unwrap();
            assert!(out.contains(wanted), "{set:?} {options:?}: {out}");
        }
    }
}

#[test]
fn clients_are_led_through_it_each_in_its_own_way() {
    let provider = Provider::anthropic(&[0.1]);
    let script = "#!/bin/sh\necho \"ARGS $*\"\nenv | sort\n";
    for (name, wanted) in [
        (
            "claude",
            vec![
                "ENABLE_TOOL_SEARCH=true",
                "ANTHROPIC_BASE_URL=http://127.0.0.1:",
            ],
        ),
        (
            "codex",
            vec![
                "ARGS -c model_provider=\"ddollar\" -c model_providers.ddollar={",
                "CODEX_API_KEY=ddollar-",
            ],
        ),
        (
            "aider",
            vec![
                "OPENAI_API_BASE=http://127.0.0.1:",
                "OPENAI_API_KEY=ddollar-",
            ],
        ),
    ] {
        let prepared = Supervise::with(&provider).env("OPENAI_API_KEY", "sk-made-up-openai-1");
        let program = prepared.desk().write(name, script);
        let run = prepared
            .options(&["--proxy"])
            .start(&[program.to_str().unwrap()]);
        let ended = run.end().expect(0);
        let out = String::from_utf8(ended.stdout).unwrap();
        for line in wanted {
            assert!(out.contains(line), "{name}: {line} in {out}");
        }
        assert!(
            !out.contains("sk-made-up") && !out.contains(provider.token(1)),
            "{out}"
        );
        assert!(ended.stderr.contains("Through it: "), "{}", ended.stderr);
        assert_eq!(ended.stderr.contains("Remote Control"), name == "claude");
    }
}

#[test]
fn a_known_client_goes_through_it_unless_its_requests_are_to_be_left_alone() {
    let provider = Provider::openai(&[0.1]);
    let script = "#!/bin/sh\necho \"$OPENAI_API_KEY $OPENAI_BASE_URL\"\n";
    let line = |name: &str, options: &[&str]| {
        let prepared = Supervise::with(&provider).options(options);
        let program = prepared.desk().write(name, script);
        let ended = prepared.start(&[program.to_str().unwrap(), "x"]).end();
        String::from_utf8(ended.expect(0).stdout).unwrap()
    };
    let with_token = format!("{} ", provider.token(1));
    for name in ["llm", "aider", "qwen", "opencode"] {
        let line = line(name, &[]);
        assert!(
            line.starts_with("ddollar-") && line.contains(" http://127.0.0.1:"),
            "{name}: {line}"
        );
    }
    for (name, options) in [
        ("llm", &["--no-proxy"][..]),
        ("llm", &["--resume", "same"]),
        ("llm", &["--client", "generic"]),
        ("another", &[]),
    ] {
        let line = line(name, options);
        assert!(line.starts_with(&with_token), "{name}: {line}");
    }
}

#[test]
fn a_request_with_a_credential_of_its_own_passes_through_and_condemns_no_token() {
    let mut provider = Provider::anthropic(&[0.1]);
    let proxied = supervised(&provider, &[]);
    let ask = |field: &str| {
        let body = message(json!({}));
        let mut wire = Wire::to(&proxied.address);
        wire.send(format!(
            "POST /anthropic/v1/messages HTTP/1.1\r\nHost: {}\r\n{field}Content-Length: {}\r\n\r\n{body}",
            proxied.address,
            body.len()
        ));
        wire.answer()
    };
    for _ in 0..2 {
        let answered = ask("x-api-key: made-up-key-of-its-own\r\n");
        assert_eq!(answered.status, 401);
        assert!(!answered.text().contains("proxy's secret"), "{answered:?}");
        provider.wait_for("the request", |line| {
            line["who"] == "other" && line["status"] == 401
        });
    }
    // One without any is the proxy's to refuse.
    let answered = ask("");
    assert_eq!(answered.status, 401);
    assert!(answered.text().contains("proxy's secret"), "{answered:?}");
    proxied.is_served();
    proxied
        .run
        .finish()
        .says_once("credential of its own")
        .never_says("rejected");
}

#[test]
fn a_command_that_fails_and_has_sent_nothing_through_it_is_told_so() {
    let provider = Provider::anthropic(&[0.1]);
    let run = Supervise::with(&provider).options(&["--proxy"]);
    run.start(&["sh", "-c", "exit 3"])
        .end()
        .expect(3)
        .says_once("No request came through the proxy");
    let mut proxied = supervised(&provider, &[]);
    proxied.is_served();
    proxied.run.tell("exit 3");
    proxied.run.end().expect(3).never_says("No request came");
}

/// No check has told that the provider works: the command's own requests have.
#[test]
fn a_command_whose_requests_alone_tell_what_it_uses_is_paused_beside_another_provider() {
    let other = Provider::openai(&[0.1]);
    let provider = Provider::anthropic(&[0.1]);
    let mut prepared = Supervise::with(&provider).options(&[
        "--hold",
        "1s",
        "--patience",
        "0s",
        "--interval",
        "1h",
    ]);
    for (name, value) in other.variables(&other.url) {
        prepared = prepared.env(&name, value);
    }
    let mut proxied = start(prepared);
    proxied.is_served();
    provider.control(spent_at("org-1", "2h"));
    let held = proxied.ask(json!({}));
    proxied.run.stderr.wait("Pausing subprocess");
    proxied.run.wait_stopped(proxied.pid);
    drop(held);
    proxied.run.signal(nix::sys::signal::Signal::SIGTERM);
    proxied.run.end().expect(0);
}
