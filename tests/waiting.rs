//! Every token spent: the child is paused until the earliest reset.

use crate::support::env::PROGRAM;
use crate::support::{Provider, Run, Supervise, eventually, proc, spent_at};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn seconds() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or(Duration::ZERO).as_secs_f64()
}

fn units_done(run: &Run) -> usize {
    let journal = std::fs::read_to_string(run.desk.join("journal")).unwrap_or_default();
    journal.matches("\"done\"").count()
}

/// The built-in worker makes requests all the time, so that a request in the pause would be seen.
pub(crate) fn a_pause_until_the_reset(mut provider: Provider, supervise: Supervise, ahead: u64) {
    let journal = supervise.desk().join("journal");
    let journal = journal.to_str().unwrap();
    // It speaks plain HTTP, so it is sent past a TLS front.
    let mut run = supervise.start(&[
        "env",
        &format!("ANTHROPIC_BASE_URL={}", provider.url),
        PROGRAM,
        "__worker",
        journal,
        "100000",
    ]);
    provider.wait_for("the worker's", |line| line["who"] == "other");
    let worker = run.only_child();

    let all_spent: Vec<Value> = [("org-1", ahead), ("org-2", 60), ("org-3", 90)]
        .map(|(name, ahead)| spent_at(name, &format!("{ahead}s")))
        .into();
    provider.control(Value::Array(all_spent));
    let reset = seconds() + ahead as f64;
    run.wait_stopped(worker);
    let stopped = seconds();
    assert!(stopped < reset - 0.5, "stopped in time to be seen");
    run.stderr.wait("Session continued");
    eventually("the child runs again", || {
        proc::is_running(worker).then_some(())
    });
    let late = seconds() - reset;
    assert!(late < 8.0, "runs again {late:.3} s after the reset");
    assert!(late > -0.1, "not before it: {late:.3} s");
    assert_eq!(run.only_child(), worker, "the same process");
    let first = provider.wait_for("the worker's", |line| {
        line["who"] == "other" && line["status"] == 200 && line["at"].as_f64() > Some(stopped)
    });
    assert!(first["at"].as_f64() >= Some(reset - 0.1), "{first}");
    // The one request that was under way when the child was stopped may still arrive.
    let of_the_pause: Vec<&Value> = provider
        .served()
        .iter()
        .filter(|line| {
            let at = line["at"].as_f64().unwrap();
            line["who"] != "ddollar" && at > stopped && at < reset - 0.1
        })
        .collect();
    assert!(of_the_pause.len() <= 1, "{of_the_pause:?}");

    // What was cut off by the pause is not lost.
    let before = units_done(&run);
    eventually("more work", || (units_done(&run) > before).then_some(()));
    run.signal(Signal::SIGTERM);
    run.end()
        .expect(143)
        .says_once("All tokens exhausted!")
        .says(&[
            "⚠️  ",
            "⚠️  All tokens exhausted!\n▶  Waiting for limits to reset (approximately ",
            ")... token 1/3 at ",
            "▶  Pausing subprocess for ",
            "▶  Resuming subprocess...\n✓ Session continued\n",
        ]);
}

#[test]
fn every_token_spent_pauses_the_child_until_the_reset_8_seconds_ahead() {
    let provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    let supervise = Supervise::with(&provider);
    a_pause_until_the_reset(provider, supervise, 8);
}

#[test]
fn another_token_that_resets_first_gets_a_new_child() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = Supervise::with(&provider)
        .options(&["--patience", "0s"])
        .agent();
    let old = run.wait_ready_with(1);
    provider.control(json!([spent_at("org-1", "60s"), spent_at("org-2", "6s")]));
    run.wait_stopped(old);
    let new = run.wait_ready_with(2);
    assert_eq!(run.only_child(), new);
    assert!(proc::is_gone(old));
    run.finish().says(&[
        "All tokens exhausted!",
        "token 2/2 at ",
        "Pausing subprocess",
        "Switched to token 2/2",
        "Launching: ",
        "Restarted the same command with token 2/2",
    ]);
}

#[test]
fn a_single_token_waits_and_its_child_goes_on() {
    let provider = Provider::anthropic(&[0.1]);
    let mut run = Supervise::with(&provider)
        .options(&["--patience", "0s"])
        .agent();
    let pid = run.wait_ready_with(1);
    provider.control(spent_at("org-1", "6s"));
    run.wait_stopped(pid);
    run.stderr.wait("Session continued");
    assert_eq!(run.only_child(), pid);
    // A reset that is hidden by a still full bucket costs another wait, not a start.
    run.finish().says_once("Launching: ").says(&[
        "▶  No next token available\n",
        "Waiting for limits to reset (approximately ",
        "token 1/1 at ",
        "Pausing subprocess for ",
        "▶  Resuming subprocess...\n✓ Session continued\n✓ Process completed successfully\n",
    ]);
}

#[test]
fn a_limit_that_is_near_and_resets_soon_is_not_worth_a_rotation() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = Supervise::with(&provider)
        .options(&["--patience", "30s"])
        .agent();
    let pid = run.wait_ready_with(1);
    provider.wait_for_probe("anthropic#2");
    provider.control(
        json!({"set": {"organization": "org-1", "bucket": "requests",
        "used": 0.96, "reset_in": "20s"}}),
    );
    for _ in 0..3 {
        provider.wait_for_probe("anthropic#1");
    }
    assert!(proc::is_running(pid));
    run.tell("exit 0");
    run.end()
        .expect(0)
        .never_says("Token limit")
        .says_once("Launching");
}

#[test]
fn a_reset_beyond_max_wait_ends_with_75() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = Supervise::with(&provider)
        .options(&["--max-wait", "5m"])
        .agent();
    let pid = run.wait_ready_with(1);
    provider.control(json!([spent_at("org-1", "9m"), spent_at("org-2", "8m")]));
    run.stdout.wait(&format!("TERM {pid}"));
    run.end()
        .expect(75)
        .says(&["✗ The earliest reset (token 2) is ", "beyond --max-wait"])
        .never_says("Pausing");
    assert!(proc::is_gone(pid));
}

#[test]
fn a_child_that_ignores_the_terminal_stop_is_paused_all_the_same() {
    let provider = Provider::anthropic(&[0.1]);
    let mut run = Supervise::with(&provider).script(
        "trap '' TSTP; trap 'exit 0' TERM; echo \"READY $$ 1\"; while read -r line; do eval \"$line\"; done",
    );
    let pid = run.wait_ready_with(1);
    provider.control(spent_at("org-1", "60s"));
    run.wait_stopped(pid);
    run.signal(Signal::SIGTERM);
    run.end().expect(0);
}

#[test]
fn term_ends_a_paused_child() {
    let provider = Provider::anthropic(&[0.1]);
    let mut run = Supervise::with(&provider).start(&["sh", "-c", "echo READY $$ 1; read line"]);
    let pid = run.wait_ready_with(1);
    provider.control(spent_at("org-1", "60s"));
    run.wait_stopped(pid);
    run.signal(Signal::SIGTERM);
    run.end()
        .expect(143)
        .says(&["Pausing subprocess"])
        .never_says("forcing kill");
    assert!(proc::is_gone(pid));
}

#[test]
fn a_continued_ddollar_leaves_the_paused_child_paused() {
    let provider = Provider::anthropic(&[0.1]);
    let mut run = Supervise::with(&provider).agent();
    let pid = run.wait_ready_with(1);
    provider.control(spent_at("org-1", "60s"));
    run.wait_stopped(pid);
    run.signal(Signal::SIGCONT);
    run.signal(Signal::SIGUSR1);
    assert!(proc::is_stopped(pid));
    run.signal(Signal::SIGTERM);
    run.end();
}

/// While no command goes on, none is said to have been killed.
#[test]
fn a_signal_in_a_wait_before_the_start_is_what_ended_the_run() {
    let provider = Provider::anthropic(&[0.1]);
    provider.control(spent_at("org-1", "60s"));
    let mut run = Supervise::with(&provider).script("exit 1");
    run.stderr.wait("Waiting for limits to reset");
    run.signal(Signal::SIGTERM);
    run.end()
        .expect(143)
        .says_once("Stopped by SIGTERM\n")
        .never_says("was killed");
}
