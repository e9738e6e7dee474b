//! A child that fails: whether its token, its provider or the child itself is to blame.

use crate::support::canned::Canned;
use crate::support::env::PROGRAM;
use crate::support::{AGENT, Fault, Faulty, Provider, Supervise, spent_at};
use std::collections::HashMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::time::Duration;

#[test]
fn a_child_that_fails_on_a_spent_token_goes_on_with_the_next_and_the_resume_command() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let supervise = Supervise::with(&provider);
    let agent = supervise.desk().write("agent.sh", AGENT);
    let agent = agent.to_str().unwrap();
    // Only the child's own end can make ddollar ask in time.
    let mut run = supervise
        .options(&[
            "--interval",
            "1h",
            "--resume",
            &format!("sh {agent} --continue"),
        ])
        .start(&["sh", agent]);
    run.wait_ready_with(1);
    provider.wait_for_probe("anthropic#2");
    provider.control(spent_at("org-1", "9m"));
    run.tell("exit 1");
    assert!(run.stdout.wait("READY").ends_with(" 2 --continue"));
    run.finish().says(&[
        "✗ Process exited with status 1\n",
        "⚠️  Token limit reached\n",
        "▶  Auto-rotating to next token...\n",
        "▶  Switched to token 2/2\n▶  Launching: sh ",
        " --continue\n✓ Session resumed\n",
        "✓ Process completed successfully",
    ]);
}

#[test]
fn a_child_that_fails_with_every_token_spent_is_started_again_after_the_reset() {
    let mut provider = Provider::anthropic(&[0.1]);
    let mut run = Supervise::with(&provider)
        .options(&["--interval", "1h"])
        .agent();
    run.wait_ready_with(1);
    provider.wait_for_probe("anthropic#1");
    provider.control(spent_at("org-1", "3s"));
    run.tell("exit 1");
    run.wait_ready_with(1);
    run.finish().says(&[
        "✗ Process exited with status 1\n",
        "Waiting for limits to reset (approximately ",
        "Launching: ",
        "Restarted the same command with token 1/1",
    ]);
}

/// Providers refuse what would go over the limit: here the fifth request, which takes more than the 12 %
/// that are left, while a check is served.
#[test]
fn a_limit_by_size_that_no_check_meets_costs_no_unit_of_work() {
    const OVER: &str = r#"{"error":{"code":"rate_limit_exceeded","type":"tokens"}}"#;
    let used = Mutex::new(HashMap::<String, u32>::new());
    let provider = Canned::start(move |asked| {
        let mut used = used.lock().unwrap();
        let used = used.entry(asked.token.clone()).or_default();
        let wanted = if asked.is_check { 0 } else { 220 };
        let is_admitted = *used + wanted <= 1000;
        if is_admitted {
            *used += wanted;
        }
        let fields = format!(
            "retry-after: 1
             x-ratelimit-limit-tokens: 1000
             x-ratelimit-remaining-tokens: {}
             x-ratelimit-reset-tokens: 53s",
            1000 - *used
        );
        match is_admitted {
            true => (200, fields.leak(), "{}"),
            false => (429, fields.leak(), OVER),
        }
    });
    let supervise = Supervise::bare()
        .options(&["--no-proxy"])
        .env("OPENAI_BASE_URL", format!("{}/v1", provider.url))
        .env("OPENAI_API_KEYS", "sk-made-up-1,sk-made-up-2,sk-made-up-3");
    let journal = supervise.desk().join("journal");
    let run = supervise.start(&[PROGRAM, "__worker", journal.to_str().unwrap(), "12"]);
    run.end().expect(0).says(&[
        "✗ Process exited with status 1\n\n⚠️  Token limit approaching (88% used)\n",
        "▶  Auto-rotating to next token...\n▶  Switched to token 2/3\n",
        "✗ Process exited with status 1\n\n⚠️  Token limit approaching (88% used)\n",
        "▶  Switched to token 3/3\n",
        "✓ Process completed successfully",
    ]);
}

#[test]
fn a_child_that_fails_in_an_outage_is_started_again_when_it_has_passed() {
    // 529, and out of reach: side by side, for each takes the first pause of 5 s.
    let tries = ["529", "close"].map(|fault| {
        let mut provider = Provider::anthropic(&[0.1, 0.1]);
        let front = Faulty::front_of(&provider);
        let mut run = Supervise::behind(&provider, &front.url)
            .options(&["--interval", "1h"])
            .agent();
        run.wait_ready_with(1);
        provider.wait_for_probe("anthropic#2");
        match fault {
            "529" => provider.fault(fault),
            _ => front.fault(Fault::Close),
        }
        run.tell("exit 1");
        (fault, provider, front, run)
    });
    for (fault, provider, front, mut run) in tries {
        run.stderr.wait("Process exited with status 1");
        run.stderr
            .wait("Waiting until Anthropic answers, next try in ");
        provider.clear_faults();
        front.clear();
        run.wait_ready_with(1);
        let trouble = match fault {
            "529" => "Anthropic is overloaded",
            _ => "Anthropic cannot be reached",
        };
        run.finish()
            .says(&[
                trouble,
                "Anthropic answers again",
                "Launching: ",
                "Restarted the same command with token 1/2",
            ])
            .never_says("Switched");
    }
}

#[test]
fn a_provider_that_was_never_there_is_named_with_how_long_it_will_be_tried() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let mut run = Supervise::bare()
        .env("ANTHROPIC_API_KEY", "token-gggg-1")
        .env("ANTHROPIC_BASE_URL", format!("http://{address}/v1/"))
        .start(&["false"]);
    // The version at the end is as good as none, and is not remarked on.
    let line = run.stderr.wait(&format!("cannot be reached ({address}: "));
    assert!(line.contains("refused"), "{line}");
    run.stderr.wait("... for up to 1m 30s");
}

#[test]
fn a_child_that_fails_for_reasons_of_its_own_ends_the_run_with_its_status() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = Supervise::with(&provider).agent();
    run.wait_ready_with(1);
    provider.wait_for_probe("anthropic#2");
    run.tell("exit 3");
    run.end()
        .expect(3)
        .says_once("Launching")
        .says(&["✗ Process exited with status 3\n"]);
}

#[test]
fn a_child_that_fails_before_the_first_answer_is_judged_by_it() {
    let provider = Provider::anthropic(&[1.0, 0.1]);
    let front = Faulty::front_of(&provider);
    front.fault_for(provider.token(1), Fault::Slow(Duration::from_secs(5)));
    let mut run = Supervise::behind(&provider, &front.url).agent();
    run.wait_ready_with(1);
    front.wait_for_probe(provider.token(1));
    run.tell("exit 1");
    run.wait_ready_with(2);
    run.finish()
        .says(&["Process exited with status 1", "Switched to token 2/2"]);
}

#[test]
fn retries_start_it_again_so_many_times() {
    let provider = Provider::anthropic(&[0.1]);
    let mut run = Supervise::with(&provider)
        .options(&["--retries", "2"])
        .agent();
    for (time, code) in [(1, 11), (2, 12)] {
        run.wait_ready();
        run.tell(&format!("exit {code}"));
        run.stderr
            .wait(&format!("Process exited with status {code}"));
        run.stderr.wait(&format!("(retry {time} of 2)..."));
    }
    run.wait_ready();
    // The third short life in a row would end the run as well; this one is long enough not to.
    run.tell("sleep 2; exit 13");
    run.end()
        .expect(13)
        .says(&[
            "Starting it again in 1s (retry 1 of 2)",
            "Starting it again in 2s (retry 2 of 2)",
        ])
        .never_says("Three starts");
}

#[test]
fn three_short_lives_end_the_run() {
    let provider = Provider::anthropic(&[0.1]);
    let run = Supervise::with(&provider)
        .options(&["--retries", "9"])
        .start(&["sh", "-c", "echo LIFE; exit 6"]);
    let ended = run.end().expect(6);
    assert_eq!(ended.stdout, b"LIFE\nLIFE\nLIFE\n");
    ended.says(&["✗ Three starts in a row died within 2s; not starting it again"]);
}

#[test]
fn a_child_that_was_ended_on_purpose_is_not_started_again() {
    for code in [130, 143] {
        let mut provider = Provider::anthropic(&[0.1, 0.1]);
        let mut run = Supervise::with(&provider)
            .options(&["--interval", "1h", "--retries", "5"])
            .agent();
        run.wait_ready_with(1);
        provider.wait_for_probe("anthropic#2");
        provider.control(spent_at("org-1", "9m"));
        run.tell(&format!("exit {code}"));
        run.end().expect(code).says_once("Launching");
    }
}

#[test]
fn a_program_that_is_being_replaced_is_tried_again() {
    let whole = "#!/bin/sh\nmkdir first 2>/dev/null || exit 7; echo READY; exec sleep 60\n";
    for state in ["gone", "no permission", "half"] {
        let provider = Provider::anthropic(&[0.1, 0.1]);
        let run = Supervise::with(&provider);
        let file = run.desk().write("agent", whole);
        let mut run = run.start(&[file.to_str().unwrap()]);
        run.stdout.wait("READY");
        match state {
            "gone" => std::fs::remove_file(&file).unwrap(),
            "half" => std::fs::write(&file, b"\x7fELF\x02\x01").unwrap(),
            _ => std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap(),
        }
        provider.control(spent_at("org-1", "10m"));
        run.stderr.wait("cannot be started");
        let text = run.stderr.text();
        assert!(!text.contains("Restarted"), "{state}: {text}");
        std::fs::remove_file(&file).ok();
        run.desk.write("agent", whole);
        let ended = run.end().expect(7);
        ended
            .says_once("trying again")
            .says_once("Restarted the same command with token 2/2");
    }
}

#[test]
fn a_kill_by_somebody_else_is_retried_only_when_retries_are_asked_for() {
    let provider = Provider::anthropic(&[0.1]);
    let killed = "mkdir first 2>/dev/null || exit 0; kill -KILL $$";
    let retried = Supervise::with(&provider).options(&["--retries", "1"]);
    retried.script(killed).end().expect(0).says(&[
        "✗ Process was killed by SIGKILL\n",
        "(retry 1 of 1)",
        "Restarted the same command with token 1/1",
    ]);
    let not = Supervise::with(&provider);
    not.script(killed)
        .end()
        .expect(137)
        .never_says("Launching: sh agent.sh\n▶");
}

/// Which model it uses is nobody's to see there: a limit of another one than was checked would look the same.
#[test]
fn a_failure_without_the_proxy_says_which_model_was_checked_unless_somebody_has_named_it() {
    let provider = Provider::openai(&[0.1]);
    let said = "OpenAI: no limit of gpt-5.6-luna was seen; if the command uses another model";
    let ends = |options: &[&str], script: &str, status: i32| {
        let run = Supervise::with(&provider).options(options);
        run.script(script).end().expect(status)
    };
    let checked = "OpenAI: checks ask for gpt-5.6-luna; name the command's model with --model";
    ends(&["--no-proxy"], "exit 3", 3)
        .says_once(said)
        .says(&[checked, "Launching", said]);
    ends(&["--no-proxy"], "exit 0", 0).never_says(said);
    for options in [&["--no-proxy", "--model", "gpt-x"][..], &[]] {
        ends(options, "exit 3", 3)
            .never_says("no limit was seen")
            .never_says("checks ask for");
    }
}
