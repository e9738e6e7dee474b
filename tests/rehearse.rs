//! `ddollar rehearse`: the night in 20 seconds, and a command of one's own.

use crate::support::{Desk, Supervise, eventually};
use nix::sys::signal::Signal;

#[test]
fn the_night_shows_two_rotations_a_wait_and_the_finish_with_nothing_lost() {
    let run = Supervise::bare().start_as(&["rehearse"]);
    let ended = run
        .end()
        .expect(0)
        .says_once("All tokens exhausted!")
        .says(&[
            "Discovering API tokens...\nStarting supervision mode...\n",
            "✓ Loaded 3 token(s) across 1 provider(s)\n",
            "✓ Monitor started (checking limits every 1s)\n",
            "▶  Launching: built-in worker, 155 work units\n\n",
            "⚠️  Token limit approaching (",
            "▶  Auto-rotating to next token...\n",
            "▶  Switched to token 2/3\n",
            "▶  Launching: built-in worker, 155 work units\n✓ Session resumed\n",
            "⚠️  Token limit approaching (",
            "▶  Switched to token 3/3\n",
            "✓ Session resumed\n",
            "⚠️  All tokens exhausted!\n",
            "▶  Waiting for limits to reset (approximately ",
            "▶  Pausing subprocess for ",
            "▶  Resuming subprocess...\n✓ Session continued\n",
            "✓ Process completed successfully\n",
            "Work units: 155 done, 0 lost, ",
        ]);
    assert_eq!(ended.stderr.matches("Switched to token").count(), 2);
    // Three tokens met their limits, and all were exhausted: there is nothing else to warn of.
    assert_eq!(ended.stderr.matches("⚠️").count(), 4, "{}", ended.stderr);
}

#[test]
fn a_command_of_ones_own_gets_a_token_and_the_built_in_provider() {
    let run = Supervise::bare()
        .env("ANTHROPIC_API_KEY", "sk-the-users-own-token")
        .env("ANTHROPIC_BASE_URL", "https://api.example.com")
        .start_as(&[
            "rehearse",
            "--",
            "sh",
            "-c",
            "echo \"$ANTHROPIC_API_KEY\"; echo \"$ANTHROPIC_BASE_URL $OPENAI_BASE_URL\"; exit 3",
        ]);
    let ended = run.end().expect(3);
    let stdout = String::from_utf8(ended.stdout).unwrap();
    assert!(!stdout.contains("sk-the-users-own-token"), "{stdout}");
    assert!(stdout.starts_with("rehearsal-"), "{stdout}");
    let addresses = stdout.lines().nth(1).unwrap();
    assert!(
        addresses
            .split(' ')
            .all(|url| url.starts_with("http://127.0.0.1:")),
        "{addresses}"
    );
}

#[test]
fn the_users_tokens_are_not_touched_by_a_rehearsal() {
    // A token that supervise would refuse: rehearse does not even look.
    let run = Supervise::bare()
        .env("ANTHROPIC_API_KEY", "sk bad token")
        .env("ANTHROPIC_API_KEYS_FILE", "/no/such/file")
        .start_as(&["rehearse", "--", "true"]);
    run.end().expect(0);
}

#[test]
fn a_rehearsal_without_a_limit_is_no_success() {
    let run = Supervise::bare().start_as(&["rehearse", "--", "true"]);
    run.end()
        .expect(0)
        .says_once("⚠️  The command ended before the first limit, so nothing was rehearsed\n")
        .never_says("Process completed successfully");
}

/// Nobody waits for made-up tokens.
#[test]
fn the_report_of_a_rehearsal_saves_nobody_any_time() {
    let desk = Desk::new();
    let journal = desk.join("night.jsonl");
    let run = Supervise::bare().start_as(&["rehearse", "--journal", journal.to_str().unwrap()]);
    run.end().expect(0);
    let report = Supervise::bare();
    let text = report
        .start_as(&["report", journal.to_str().unwrap()])
        .end()
        .expect(0);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("3 starts, 2 rotations"), "{text}");
    assert!(
        text.contains("first limit") && !text.contains("Saved"),
        "{text}"
    );
}

#[test]
fn nothing_is_left_in_the_temporary_folder_when_it_is_killed() {
    let mut run = Supervise::bare().start_as(&["rehearse"]);
    run.stdout.wait("unit 20/155 done");
    let folders = || {
        let names = std::fs::read_dir(run.desk.path()).unwrap().flatten();
        let mut names = names.map(|entry| entry.file_name().into_string().unwrap());
        names.any(|name| name.starts_with("ddollar-")).then_some(())
    };
    assert!(folders().is_some());
    run.signal(Signal::SIGKILL);
    eventually("it is gone", || folders().is_none().then_some(()));
    run.end();
}

#[test]
fn what_an_interrupted_night_has_not_done_is_not_lost() {
    let mut run = Supervise::bare().start_as(&["rehearse"]);
    run.stdout.wait("unit 20/155 done");
    run.signal(Signal::SIGTERM);
    let ended = run.end().expect(128 + 15);
    let line = ended.stderr.lines().last().unwrap();
    assert!(line.starts_with("Work units: "), "{line}");
    assert!(line.contains(" not done, "), "{line}");
}
