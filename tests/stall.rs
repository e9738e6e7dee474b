//! `--stall`: a command that does nothing is told of, and a client with a session starts again.

use crate::clients::{by_restart, without_hooks};
use crate::support::{Provider, Supervise, eventually};
use std::fs;

#[test]
fn a_command_that_does_nothing_is_told_of_and_left_alone() {
    let provider = Provider::anthropic(&[0.1]);
    let run = by_restart(&provider);
    let told = run.desk().join("told");
    let notify = format!(
        "echo \"$DDOLLAR_EVENT: $DDOLLAR_MESSAGE\" >> '{}'",
        told.display()
    );
    let journal = run.desk().join("journal");
    let mut run = run
        .options(&["--stall", "30s", "--notify", &notify])
        .options(&["--journal", journal.to_str().unwrap()])
        .agent();
    run.wait_ready_with(1);
    run.stderr
        .wait("The command has stalled: no processor time for 3");
    run.stderr
        .wait("it is left alone: there is no session to resume");
    let told = eventually("the notice", || {
        let told = fs::read_to_string(&told).unwrap_or_default();
        told.contains("stall: The command has stalled")
            .then_some(told)
    });
    assert!(told.contains("no session to resume"), "{told}");
    // A thread of its own writes it.
    eventually("the stall in the journal", || {
        let journal = fs::read_to_string(&journal).unwrap_or_default();
        journal
            .contains("\"event\":\"stall\",\"seconds\":3")
            .then_some(())
    });
    run.finish().says_once("stalled").says_once("Launching");
}

#[test]
fn a_client_that_does_nothing_goes_on_with_its_session() {
    let provider = Provider::anthropic(&[0.1]);
    let supervise = Supervise::with(&provider).options(&["--stall", "30s"]);
    let (mut run, id) = without_hooks(supervise, &["-p", "work"]);
    run.tell("begin");
    run.stdout.wait("BEGUN");
    run.stderr
        .wait("The command has stalled: no request, no processor time for 3");
    run.stderr
        .wait("it is ended and restarted in its session (1 of 3)");
    run.stdout.wait(&format!("READY on {id}"));
    run.finish()
        .says(&["stalled", "--resume", "Session resumed"]);
}

/// A tool that the client has started works, and the client waits for it.
#[test]
fn a_command_that_works_has_not_stalled() {
    let provider = Provider::anthropic(&[0.1]);
    let mut run = by_restart(&provider).options(&["--stall", "30s"]).agent();
    run.wait_ready_with(1);
    run.tell("timeout 45 sh -c 'while :; do :; done'; echo WORKED");
    run.stdout.wait("WORKED");
    run.finish().never_says("stalled");
}

#[test]
fn a_stall_that_is_too_short_is_named_with_a_hint() {
    for value in ["1s", "29s", "0", "soon", ""] {
        let run = Supervise::bare().options(&["--stall", value]).agent();
        let ended = run.end().expect(125);
        ended.says(&[
            &format!("option '--stall' does not take '{value}'"),
            "hint: give a duration of at least 30s, such as 10m",
        ]);
    }
}
