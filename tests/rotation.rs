//! Rotations: from a token near its limit to the first usable one after it.

use crate::support::proc::{self, Process};
use crate::support::{AGENT, Provider, Run, Supervise, eventually, organizations, spent_at};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Asserts that the one child of ddollar is `pid`, and that its environment holds this token once,
/// under its own name, and nothing of the others.
#[track_caller]
pub(crate) fn assert_only_child_has(run: &Run, pid: Pid, provider: &Provider, token: usize) {
    assert_eq!(run.only_child(), pid);
    let environment = proc::environment(pid);
    let holds = |text: &str| {
        environment
            .iter()
            .filter(|entry| entry.contains(text))
            .count()
    };
    for text in provider.tokens() {
        assert_eq!(holds(text), usize::from(text == provider.token(token)));
    }
    let name = provider.variable();
    assert_eq!(holds(name), 1, "NAME_2 and NAMES are gone");
    assert!(environment.contains(&format!("{name}={}", provider.token(token))));
}

/// Three tokens, the first soon at 96 %: the story of one rotation, whoever the provider is and behind
/// whichever address.
pub(crate) fn one_rotation(provider: &Provider, supervise: Supervise) {
    let mut run = supervise.agent();
    let old = run.wait_ready_with(1);
    provider.set("org-1", 0.96);
    run.stdout.wait(&format!("TERM {old}"));
    let new = run.wait_ready_with(2);
    assert!(
        proc::is_gone(old),
        "the old child is gone before the new one starts"
    );
    assert_only_child_has(&run, new, provider, 2);
    run.tell("exit 0");
    let agent = run.desk.join("agent.sh");
    let launching = format!("▶  Launching: sh {}\n", agent.display());
    let ended = run.end().expect(0);
    let story = [
        "Discovering API tokens...\nStarting supervision mode...\n",
        "✓ Loaded 3 token(s) across 1 provider(s)\n",
        "✓ Monitor started (checking limits every 200ms)\n",
        &launching,
        "\n⚠️  Token limit approaching (96% used)\n",
        "▶  Auto-rotating to next token...\n",
        "▶  Switched to token 2/3\n",
        &launching,
        "✓ Restarted the same command with token 2/3\n",
        "✓ Process completed successfully\n",
    ];
    assert_eq!(
        ended.sentences(),
        story.concat(),
        "the documented output, to the letter"
    );
    let ended = ended.says_once("   At a limit, tokens change in the proxy at 127.0.0.1:");
    assert_eq!(
        ended.stdout.iter().filter(|byte| **byte == b'\n').count(),
        3
    );
}

#[test]
fn the_first_of_three_at_96_percent_leaves_one_child_with_the_second() {
    let provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    one_rotation(&provider, Supervise::with(&provider));
}

#[test]
fn openai_rotates_alike() {
    let provider = Provider::openai(&[0.1, 0.1, 0.1]);
    one_rotation(&provider, Supervise::with(&provider));
}

#[test]
fn five_rotations_in_a_row_leave_one_child_and_its_exit_code() {
    let provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    let mut run = Supervise::with(&provider).agent();
    let mut pid = run.wait_ready_with(1);
    let mut old = Vec::new();
    for (from, to) in [(1, 2), (2, 3), (3, 1), (1, 2), (2, 3)] {
        provider.set(&format!("org-{to}"), 0.1);
        provider.set(&format!("org-{from}"), 0.96);
        old.push(pid);
        pid = run.wait_ready_with(to);
        assert_only_child_has(&run, pid, &provider, to);
    }
    assert!(old.iter().all(|old| proc::is_gone(*old)));
    run.tell("exit 9");
    run.end().expect(9).says(&[
        "Switched to token 2/3",
        "Switched to token 3/3",
        "Switched to token 1/3",
        "Switched to token 2/3",
        "Switched to token 3/3",
        "✗ Process exited with status 9",
    ]);
}

#[test]
fn exactly_at_the_threshold_goes_on_and_strictly_above_it_rotates() {
    // A probe costs one request. The first ten find exactly 950 of 1000 used, the next one 951.
    let left = |count: u64, remaining: u64| {
        json!({"when": {"after_requests": count, "organization": "org-1"},
            "do": {"set": {"organization": "org-1", "bucket": "requests", "remaining": remaining}}})
    };
    let mut events = vec![
        json!({"do": {"set": {"organization": "org-1", "bucket": "requests", "remaining": 51}}}),
    ];
    events.extend((1..10).map(|count| left(count, 51)));
    events.push(left(10, 50));
    let provider = Provider::start(
        "anthropic",
        &["org-1", "org-2"],
        organizations(&[0.1, 0.1]),
        Value::Array(events),
    );
    let mut run = Supervise::with(&provider).options(&["-v"]).agent();
    run.wait_ready_at_last_with(2);
    let ended = run.finish();
    let (before, after) = ended
        .stderr
        .split_once("Monitor: Anthropic - Requests: 951/1000 (95.1%) [token 1]\n")
        .expect("the line of the probe above the threshold");
    let exactly = before
        .matches("Requests: 950/1000 (95.0%) [token 1]")
        .count();
    assert_eq!(exactly, 10, "{before}");
    assert!(!before.contains("approaching"), "{before}");
    assert!(
        after.contains("⚠️  Token limit approaching (95% used)\n   token 1/2 …"),
        "{after}"
    );
}

#[test]
fn another_threshold_counts() {
    let provider = Provider::anthropic(&[0.6, 0.1]);
    let mut run = Supervise::with(&provider)
        .options(&["--threshold", "50%"])
        .agent();
    run.wait_ready_at_last_with(2);
    run.finish().says(&["Token limit approaching (60% used)"]);
}

#[test]
fn a_token_that_is_not_usable_is_passed_over() {
    let provider = Provider::anthropic(&[0.96, 0.97, 0.1]);
    let mut run = Supervise::with(&provider).agent();
    run.wait_ready_at_last_with(3);
    run.finish().says(&["Switched to token 3/3"]);
}

#[test]
fn a_steep_rise_is_looked_at_sooner_than_the_interval_and_in_time() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = Supervise::with(&provider)
        .options(&["--interval", "20s"])
        .agent();
    run.wait_ready_with(1);
    provider.wait_for_probe("anthropic#1");
    provider.set("org-1", 0.9);
    let steep = provider.wait_for_probe("anthropic#1");
    provider.set("org-1", 0.96);
    let crossed = provider.wait_for_probe("anthropic#1");
    let span = crossed["at"].as_f64().unwrap() - steep["at"].as_f64().unwrap();
    assert!((4.9..18.0).contains(&span), "{span:.3} s");
    run.wait_ready_with(2);
    run.finish().says(&["checking limits every 20s"]);
}

#[test]
fn a_rejected_token_gives_way_to_the_next() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    provider.control(json!({"answer": {"token": "anthropic#1", "fault": "401"}}));
    let mut run = Supervise::with(&provider).agent();
    run.wait_ready_at_last_with(2);
    run.finish().says(&[
        "⚠️  Anthropic rejected token 1/2 …9c-1 from ANTHROPIC_API_KEY: invalid x-api-key\n",
        "Auto-rotating to next token...",
        "Switched to token 2/2",
    ]);
}

#[test]
fn a_rejected_token_that_is_not_in_use_is_named_once_and_changes_nothing() {
    let provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    provider.control(json!({"answer": {"token": "anthropic#2", "fault": "401"}}));
    let mut run = Supervise::with(&provider).agent();
    run.wait_ready_with(1);
    let said =
        "⚠️  Anthropic rejected token 2/3 …9c-2 from ANTHROPIC_API_KEY_2: invalid x-api-key\n";
    run.stderr.wait(said.trim_end());
    // It is asked again before a wait, and is as it was.
    provider.control(json!([spent_at("org-1", "9m"), spent_at("org-3", "9m")]));
    run.stderr.wait("Pausing subprocess");
    run.signal(Signal::SIGTERM);
    let ended = run.end();
    ended
        .says(&["All tokens exhausted!", "token 1/3 at "])
        .says_once(said)
        .says_once("rejected");
}

#[test]
fn a_spend_cap_gives_way_to_the_next() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    provider.control(json!({"answer": {"token": "anthropic#1", "fault": "spend-cap"}}));
    let mut run = Supervise::with(&provider).agent();
    run.wait_ready_at_last_with(2);
    run.finish()
        .says(&["⚠️  Spend cap of token 1 reached", "Switched to token 2/2"]);
}

#[test]
fn every_token_rejected_stops_the_child_and_ends_with_75() {
    // They never worked, so they are not asked for long: 5 s and 10 s after the first time.
    let provider = Provider::anthropic(&[0.1, 0.1]);
    provider.fault("401");
    let mut run = Supervise::with(&provider).agent();
    let pid = run.wait_ready_with(1);
    run.stdout.wait(&format!("TERM {pid}"));
    run.end()
        .expect(75)
        .says(&[
            "⚠️  Anthropic rejected token 1/2 …9c-1 from ANTHROPIC_API_KEY: invalid x-api-key\n",
            "✗ No Anthropic token is left that can recover",
        ])
        .never_says("Auto-rotating");
    assert!(proc::is_gone(pid));
}

#[test]
fn tokens_that_are_all_rejected_at_once_are_held_and_asked_again() {
    let mut provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    let mut run = Supervise::with(&provider).agent();
    let pid = run.wait_ready_with(1);
    provider.wait_for_probe("anthropic#3");
    let labels = ["anthropic#1", "anthropic#2", "anthropic#3"];
    let rejected = labels.map(|label| json!({"answer": {"token": label, "fault": "401"}}));
    provider.control(rejected.to_vec().into());
    run.wait_stopped(pid);
    run.stderr.wait("Waiting until Anthropic answers");
    // Each of them is asked, and the first that is accepted will do.
    for label in labels {
        provider.wait_for_probe(label);
    }
    provider.control(json!({"clear": {"token": labels[0]}}));
    run.stderr.wait("Session continued");
    assert_eq!(run.only_child(), pid);
    run.finish()
        .says_once("Anthropic rejects a token")
        .says(&["Anthropic answers again", "Resuming subprocess"])
        .never_says("Auto-rotating");
}

#[test]
fn a_token_that_was_left_is_no_candidate_until_10_points_below_the_threshold() {
    let provider = Provider::anthropic(&[0.96, 0.1]);
    let mut run = Supervise::with(&provider)
        .options(&["--patience", "0s"])
        .agent();
    let pid = run.wait_ready_at_last_with(2);
    provider.control(json!([
        {"set": {"organization": "org-1", "bucket": "requests", "used": 0.9}},
        {"set": {"organization": "org-2", "bucket": "requests", "used": 0.97, "reset_in": "6s"}}
    ]));
    run.wait_stopped(pid);
    run.stderr.wait("Session continued");
    assert_eq!(run.only_child(), pid);
    run.finish().says_once("Auto-rotating").says(&[
        "Switched to token 2/2",
        "Token limit approaching (97% used)",
        "All tokens exhausted!",
        "token 2/2",
        "Session continued",
    ]);
}

#[test]
fn tokens_of_one_quota_never_rotate_but_wait() {
    let mut provider = Provider::start(
        "anthropic",
        &["org-1", "org-1"],
        organizations(&[0.1]),
        json!([]),
    );
    let mut run = Supervise::with(&provider)
        .options(&["--patience", "0s"])
        .agent();
    let pid = run.wait_ready_with(1);
    run.stderr
        .wait("⚠️  Anthropic: 2 tokens, 1 quota: rotating cannot help");
    provider.control(spent_at("org-1", "6s"));
    run.wait_stopped(pid);
    run.stderr.wait("Session continued");
    assert_eq!(run.only_child(), pid);
    run.finish()
        .says(&["All tokens exhausted!", "Resuming subprocess..."])
        .never_says("otat to");
    assert_eq!(
        provider
            .served()
            .iter()
            .filter(|line| line["who"] == "other")
            .count(),
        0
    );
}

#[test]
fn provider_restricts_the_tokens() {
    let anthropic = Provider::anthropic(&[0.96, 0.1]);
    let openai = Provider::openai(&[0.96, 0.1]);
    let mut run = Supervise::with(&openai).options(&["--provider", "openai"]);
    for (name, value) in anthropic.variables(&anthropic.url) {
        run = run.env(&name, value);
    }
    let mut run = run.agent();
    let pid = run.wait_ready_at_last_with(2);
    assert_only_child_has(&run, pid, &openai, 2);
    let environment = proc::environment(pid).join("\n");
    assert!(!environment.contains("ANTHROPIC_API_KEY"), "{environment}");
    run.finish().says(&[
        "Loaded 2 token(s) across 1 provider(s)\n",
        "Kept from the command by --provider: ANTHROPIC_API_KEY",
    ]);
    let mut anthropic = anthropic;
    assert_eq!(anthropic.served().len(), 0);
}

#[test]
fn two_providers_each_give_the_child_one_token() {
    let mut anthropic = Provider::anthropic(&[0.1, 0.1]);
    let mut openai = Provider::openai(&[0.1, 0.1]);
    let mut run = Supervise::with(&openai);
    for (name, value) in anthropic.variables(&anthropic.url) {
        run = run.env(&name, value);
    }
    let mut run = run.script(
        "trap 'exit 0' TERM
        echo \"READY $$ ${ANTHROPIC_API_KEY##*-}${OPENAI_API_KEY##*-}\"
        while read -r line; do eval \"$line\"; done",
    );
    run.wait_ready_with(11);
    // What rises while the command runs is what it uses.
    openai.wait_for_probe("openai#1");
    openai.set("org-1", 0.96);
    run.wait_ready_with(12);
    anthropic.served();
    anthropic.wait_for_probe("anthropic#1");
    anthropic.set("org-1", 0.96);
    run.wait_ready_with(22);
    run.finish()
        .says(&["Loaded 4 token(s) across 2 provider(s)"]);
}

#[test]
fn a_spent_provider_that_the_command_does_not_use_stops_nothing() {
    let anthropic = Provider::anthropic(&[0.1]);
    let mut openai = Provider::openai(&[1.0]);
    let mut run = Supervise::with(&openai).options(&["--no-proxy"]);
    for (name, value) in anthropic.variables(&anthropic.url) {
        run = run.env(&name, value);
    }
    let mut run = run.agent();
    run.wait_ready();
    openai.wait_for_probe("openai#1");
    // Known to be good once, and then spent by somebody else.
    openai.set("org-1", 0.0);
    for _ in 0..2 {
        openai.wait_for_probe("openai#1");
    }
    openai.control(spent_at("org-1", "9m"));
    for _ in 0..3 {
        openai.wait_for_probe("openai#1");
    }
    run.finish()
        .says(&["   --provider limits the run to some of them\n"])
        .says_once("Launching")
        .never_says("Token limit")
        .never_says("Waiting")
        .never_says("Pausing");
}

/// OpenAI refuses a token of another organization that is sent with this one's name.
#[test]
fn the_organization_in_the_environment_is_that_of_the_first_token() {
    let openai = Provider::openai(&[0.1, 0.1]);
    let mut run = Supervise::with(&openai)
        .options(&["--no-proxy"])
        .env("OPENAI_ORG_ID", "org-1")
        .env("OPENAI_PROJECT", "night")
        .script(
            "trap 'exit 0' TERM
            echo \"READY $$ ${OPENAI_API_KEY##*-} ${OPENAI_ORG_ID-none} ${OPENAI_PROJECT-none}\"
            while read -r line; do eval \"$line\"; done",
        );
    assert!(run.stdout.wait("READY").ends_with(" 1 org-1 night"));
    openai.set("org-1", 0.96);
    assert!(run.stdout.wait("READY").ends_with(" 2 none none"));
    openai.set("org-1", 0.1);
    openai.control(spent_at("org-2", "9m"));
    assert!(run.stdout.wait("READY").ends_with(" 1 org-1 night"));
    run.finish()
        .says_once("OPENAI_ORG_ID, OPENAI_PROJECT: only for the first token");
}

/// A script in one ring over both providers, which says whose token it has.
fn mixed(anthropic: &Provider, openai: &Provider) -> Run {
    let mut run = Supervise::with(openai).options(&["--mixed"]);
    for (name, value) in anthropic.variables(&anthropic.url) {
        run = run.env(&name, value);
    }
    run.script(
        "trap 'exit 0' TERM
        echo \"READY $$ $DDOLLAR_PROVIDER ${ANTHROPIC_API_KEY-none} ${OPENAI_API_KEY-none}\"
        while read -r line; do eval \"$line\"; done",
    )
}

#[test]
fn a_provider_that_rejects_all_its_tokens_is_come_back_to_in_one_ring() {
    let anthropic = Provider::anthropic(&[0.1]);
    let mut openai = Provider::openai(&[0.1]);
    let mut run = mixed(&anthropic, &openai);
    run.stdout.wait(" anthropic ");
    openai.wait_for_probe("openai#1");
    anthropic.fault("401");
    run.stdout.wait(" openai ");
    // It was its own trouble, which has passed by the time that the other provider's limit comes.
    anthropic.clear_faults();
    openai.control(spent_at("org-1", "9m"));
    run.stdout.wait(" anthropic ");
    run.finish()
        .says(&["Switched to token 2/2", "Switched to token 1/2"]);
}

#[test]
fn a_provider_that_is_out_of_the_question_beside_another_is_told_once() {
    let anthropic = Provider::anthropic(&[0.1]);
    let openai = Provider::openai(&[0.1]);
    let mut run = Supervise::with(&openai).options(&["-v"]);
    for (name, value) in anthropic.variables(&anthropic.url) {
        let is_token = name == "ANTHROPIC_API_KEY";
        run = run.env(&name, if is_token { "no-such-token" } else { &value });
    }
    let mut run = run.agent();
    run.stderr
        .wait("Monitor: Anthropic - no numbers came back [token 1]");
    run.stderr.wait("The command goes on without Anthropic");
    run.stderr.wait("Monitor: OpenAI - Requests: ");
    run.finish()
        .says_once("Anthropic rejected token 1/1 from ANTHROPIC_API_KEY: invalid x-api-key")
        .says_once("goes on without")
        .says_once("Launching")
        .never_says("no limits advertised");
}

#[test]
fn one_ring_over_all_providers_gives_the_child_one_token_and_says_whose() {
    let anthropic = Provider::anthropic(&[0.1]);
    let mut openai = Provider::openai(&[0.1]);
    let mut run = mixed(&anthropic, &openai);
    let wanted = format!(" anthropic {} none", anthropic.token(1));
    assert!(run.stdout.wait("READY").ends_with(&wanted));
    openai.wait_for_probe("openai#1");
    anthropic.set("org-1", 0.96);
    let wanted = format!(" openai none {}", openai.token(1));
    assert!(run.stdout.wait("READY").ends_with(&wanted));
    // And round the ring.
    anthropic.set("org-1", 0.1);
    openai.control(spent_at("org-1", "9m"));
    run.stdout.wait(" anthropic ");
    run.finish().says(&[
        "Loaded 2 token(s) across 2 provider(s)",
        "Switched to token 2/2",
        "Switched to token 1/2",
    ]);
}

#[test]
fn the_resume_command_is_used_for_every_start_after_the_first() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let supervise = Supervise::with(&provider);
    let agent = supervise.desk().write("agent.sh", AGENT);
    let agent = agent.to_str().unwrap();
    let mut run = supervise
        .options(&["--resume", &format!("sh '{agent}' --continue 'two words'")])
        .start(&["sh", agent, "first"]);
    assert!(run.stdout.wait("READY").ends_with(" 1 first"));
    provider.set("org-1", 0.96);
    assert!(
        run.stdout
            .wait("READY")
            .ends_with(" 2 --continue two words")
    );
    let arguments = proc::command_line(run.only_child());
    assert_eq!(arguments, ["sh", agent, "--continue", "two words"]);
    run.finish().says(&[
        &format!("Launching: sh {agent} first\n"),
        "Switched to token 2/2",
        &format!("Launching: sh {agent} --continue 'two words'\n"),
    ]);
}

#[test]
fn a_grandchild_in_the_group_is_gone_after_a_rotation() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    // One that ends on TERM, and one that only KILL ends.
    let run = Supervise::with(&provider)
        .options(&["--grace", "1s"])
        .script(
            r#"sleep 61 &
        sh -c 'trap "" TERM; echo "STUBBORN $$"; exec sleep 62' &
        echo "READY $$ ${ANTHROPIC_API_KEY##*-}"
        while read -r line; do eval "$line"; done"#,
        );
    eventually("all three run", || {
        let text = run.stdout.text();
        (text.contains("READY") && text.contains("STUBBORN")).then_some(())
    });
    let old = run.only_child();
    assert_eq!(Process::members_of(old).len(), 3);
    provider.set("org-1", 0.96);
    eventually("the new child", || {
        (run.stdout.text().matches("READY").count() == 2).then_some(())
    });
    assert_eq!(
        Process::members_of(old),
        [],
        "none of the old group is left"
    );
    run.signal(Signal::SIGTERM);
    run.end();
}

#[test]
fn the_rest_of_the_group_has_its_grace_when_the_leader_is_gone() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    // As npm does with node: the wrapper dies at once, what it wrapped cleans up.
    let run = Supervise::with(&provider).script(
        r#"sh -c 'trap "sleep 0.5; echo CLEANED UP; exit" TERM; echo "INNER $$"; while :; do sleep 0.02; done' &
        echo "READY $$ ${ANTHROPIC_API_KEY##*-}"
        wait"#,
    );
    eventually("both run", || {
        let text = run.stdout.text();
        (text.contains("READY") && text.contains("INNER")).then_some(())
    });
    provider.set("org-1", 0.96);
    eventually("the new child", || {
        (run.stdout.text().matches("READY").count() == 2).then_some(())
    });
    let text = run.stdout.text();
    let cleaned = text.find("CLEANED UP").expect("it was killed");
    assert!(cleaned < text.rfind("READY").unwrap(), "{text}");
    run.signal(Signal::SIGTERM);
    run.end();
}

#[test]
fn a_command_started_again_reads_its_file_from_the_beginning() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let run = Supervise::with(&provider);
    let skipped = "skipped\n";
    run.desk().write("prompt", format!("{skipped}the prompt\n"));
    // As a shell hands it over that has read some of it itself.
    let mut run = run
        .after("exec < prompt; read -r first")
        .script(&format!("cat; {TWICE}"));
    run.stdout.wait("READY");
    provider.control(spent_at("org-1", "10m"));
    let ended = run.end().expect(0).never_says("Standard input is a pipe");
    let read = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(read, "the prompt\nREADY\nthe prompt\nREADY\n");
}

/// Says that it has started, and ends when it has been started twice.
const TWICE: &str = "echo READY; mkdir first 2>/dev/null || exit 0; exec sleep 60";

#[test]
fn a_pipe_as_standard_input_that_holds_something_is_warned_of_once_before_the_run() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let run = Supervise::with(&provider);
    let mut run = run
        .after("mkfifo pipe; exec 3<>pipe; echo prompt >&3; exec <pipe")
        .script(TWICE);
    run.stdout.wait("READY");
    provider.control(spent_at("org-1", "10m"));
    let ended = run.end().expect(0);
    let ended = ended.says(&["Standard input is a pipe", "Launching", "Launching"]);
    ended.says_once("Standard input is a pipe");
}

#[test]
fn a_pipe_as_standard_input_that_was_read_to_its_end_is_warned_of_at_a_second_start() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = Supervise::with(&provider).script(TWICE);
    run.stdout.wait("READY");
    run.stdin = None;
    provider.control(spent_at("org-1", "10m"));
    let ended = run.end().expect(0);
    let ended = ended.says(&["Launching", "Standard input is a pipe", "Launching"]);
    ended.says_once("Standard input is a pipe");
}

/// Node leaves pipes and terminals so, and a program that does not expect it fails at its first read.
#[test]
fn the_next_start_finds_streams_that_block_again() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let script = "use Fcntl; $| = 1; my $flags = fcntl(STDIN, F_GETFL, 0); \
                  print 'BLOCKS ', $flags & O_NONBLOCK ? 'no' : 'yes', qq( $$\\n); \
                  fcntl(STDIN, F_SETFL, $flags | O_NONBLOCK); print qq(SET\\n); sleep 600";
    let mut run = Supervise::with(&provider)
        .options(&["--patience", "0s"])
        .start(&["perl", "-e", script]);
    assert!(run.stdout.wait("BLOCKS").contains("yes"));
    run.stdout.wait("SET");
    provider.set("org-1", 0.96);
    assert!(run.stdout.wait("BLOCKS").contains("yes"));
    run.signal(Signal::SIGTERM);
    run.end();
}
