//! How ddollar ends, and the signals that pass through it.

use crate::support::{Provider, Run, Supervise, eventually, proc};
use nix::sys::signal::Signal;

/// Runs all of these side by side with a healthy provider.
fn side_by_side(provider: &Provider, scripts: impl Iterator<Item = (String, i32)>) {
    let runs: Vec<(Run, i32)> = scripts
        .map(|(script, code)| {
            let run = Supervise::with(provider).start(&["sh", "-c", &script]);
            (run, code)
        })
        .collect();
    for (run, code) in runs {
        run.end()
            .expect(code)
            .says_once("Launching")
            .says_once("Process ");
    }
}

#[test]
fn the_exit_code_is_the_childs() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let codes = [0, 1, 2, 64, 75, 125, 126, 127, 128, 143, 254, 255];
    side_by_side(
        &provider,
        codes.into_iter().map(|code| (format!("exit {code}"), code)),
    );
}

#[test]
fn the_death_by_a_signal_is_the_childs() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let signals = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGKILL,
        Signal::SIGUSR1,
        Signal::SIGSEGV,
        Signal::SIGTERM,
    ];
    let numbers = signals.map(|signal| signal as i32);
    // A real-time signal has no name; the code says which it was.
    let numbers = numbers.into_iter().chain([40]);
    side_by_side(
        &provider,
        numbers.map(|number| (format!("kill -{number} $$"), 128 + number)),
    );
}

#[test]
fn a_death_by_a_signal_is_raised_again_and_not_only_a_code() {
    use std::os::unix::process::ExitStatusExt;
    let provider = Provider::anthropic(&[0.1]);
    let run = Supervise::with(&provider).start(&["sh", "-c", "kill -USR1 $$"]);
    let ended = run.end().says(&["✗ Process was killed by SIGUSR1"]);
    assert_eq!(ended.status.signal(), Some(Signal::SIGUSR1 as i32));
    assert!(!ended.status.core_dumped());
}

#[test]
fn term_and_hup_reach_the_child_and_end_both() {
    let provider = Provider::anthropic(&[0.1]);
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let mut run = Supervise::with(&provider).start(&["sh", "-c", "echo READY $$ 1; read line"]);
        let pid = run.wait_ready_with(1);
        run.signal(signal);
        run.end().expect(code).never_says("forcing kill");
        assert!(proc::is_gone(pid));
    }
}

#[test]
fn a_child_that_ends_in_its_own_way_on_term_has_the_last_word() {
    let provider = Provider::anthropic(&[0.1]);
    let mut run = Supervise::with(&provider)
        .script("trap 'echo BYE; exit 42' TERM; echo READY $$ 1; while read -r line; do :; done");
    run.wait_ready();
    run.signal(Signal::SIGTERM);
    run.stdout.wait("BYE");
    run.end().expect(42);
}

/// A child that only KILL ends.
const STUBBORN: &str = "trap '' TERM HUP INT; echo READY $$ ${ANTHROPIC_API_KEY##*-}
    while :; do sleep 0.1; done";

#[test]
fn a_stubborn_child_is_killed_after_the_grace() {
    let provider = Provider::anthropic(&[0.1]);
    let mut run = Supervise::with(&provider)
        .options(&["--grace", "1s"])
        .script(STUBBORN);
    let (pid, _) = run.wait_ready();
    run.signal(Signal::SIGTERM);
    run.end()
        .expect(137)
        .says(&["Subprocess didn't exit cleanly, forcing kill..."]);
    assert!(proc::is_gone(pid));
}

#[test]
fn a_second_term_does_not_wait_for_the_grace() {
    let provider = Provider::anthropic(&[0.1]);
    let mut run = Supervise::with(&provider)
        .options(&["--grace", "10m"])
        .script("trap 'echo GOT TERM' TERM; echo READY $$ 1; while :; do sleep 0.02; done");
    let (pid, _) = run.wait_ready();
    run.signal(Signal::SIGTERM);
    run.stdout.wait("GOT TERM");
    // One that comes sooner is the same one, sent by two (timeout(1), systemd).
    std::thread::sleep(std::time::Duration::from_millis(350));
    run.signal(Signal::SIGTERM);
    run.end().expect(137);
    assert!(proc::is_gone(pid));
}

#[test]
fn term_in_the_grace_of_a_rotation_ends_everything() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = Supervise::with(&provider)
        .options(&["--grace", "10m"])
        .script(STUBBORN);
    let pid = run.wait_ready_with(1);
    provider.set("org-1", 0.96);
    run.stderr.wait("Auto-rotating");
    run.signal(Signal::SIGTERM);
    run.end()
        .expect(143)
        .says_once("Launching")
        .never_says("Switched");
    assert!(proc::is_gone(pid));
}

#[test]
fn a_stubborn_child_is_killed_in_a_rotation_and_the_next_one_starts() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = Supervise::with(&provider)
        .options(&["--grace", "500ms"])
        .script(STUBBORN);
    let old = run.wait_ready_with(1);
    provider.set("org-1", 0.96);
    let new = run.wait_ready_with(2);
    assert!(proc::is_gone(old));
    assert_eq!(run.only_child(), new);
    run.signal(Signal::SIGTERM);
    run.end().expect(137).says(&[
        "Auto-rotating",
        "Subprocess didn't exit cleanly, forcing kill...",
        "Switched to token 2/2",
    ]);
}

#[test]
fn other_signals_reach_the_child_once_each_and_in_order() {
    let provider = Provider::anthropic(&[0.1]);
    let mut run = Supervise::with(&provider).script(
        "for name in USR1 USR2 WINCH ALRM CONT INT QUIT; do trap \"echo GOT $name\" $name; done
        trap 'echo GOT TERM; exit 5' TERM
        echo READY $$ 1
        while :; do sleep 0.02; done",
    );
    run.wait_ready();
    let order = [
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGUSR2, "USR2"),
        (Signal::SIGWINCH, "WINCH"),
        (Signal::SIGALRM, "ALRM"),
        (Signal::SIGCONT, "CONT"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGQUIT, "QUIT"),
        (Signal::SIGUSR1, "USR1"),
    ];
    for (signal, name) in order {
        run.signal(signal);
        run.stdout.wait(&format!("GOT {name}"));
    }
    run.signal(Signal::SIGTERM);
    let ended = run.end().expect(5);
    let stdout = String::from_utf8(ended.stdout).unwrap();
    let got: Vec<&str> = stdout
        .lines()
        .filter_map(|line| line.strip_prefix("GOT "))
        .collect();
    // TERM comes with a CONT, so that a stopped child hears it.
    let (passed_on, end) = got.split_at(order.len());
    assert_eq!(passed_on, order.map(|(_, name)| name));
    assert!(end == ["TERM"] || end == ["CONT", "TERM"], "{end:?}");
}

#[test]
fn a_hup_that_was_ignored_at_the_start_stays_ignored() {
    let provider = Provider::anthropic(&[0.1]);
    let mut run = Supervise::with(&provider).ignoring("HUP").script(
        "trap 'echo GOT USR1' USR1; trap 'exit 5' TERM; echo READY $$ 1; while :; do sleep 0.02; done",
    );
    let (pid, _) = run.wait_ready();
    run.signal(Signal::SIGHUP);
    run.signal(Signal::SIGUSR1);
    run.stdout.wait("GOT USR1");
    assert_eq!(run.only_child(), pid);
    assert_eq!(
        proc::status(pid, "SigIgn", 16) & 1,
        1,
        "the child ignores HUP too"
    );
    run.signal(Signal::SIGTERM);
    run.end().expect(5);
}

#[test]
fn the_child_starts_with_no_signal_blocked_or_ignored() {
    let provider = Provider::anthropic(&[0.1]);
    // sleep, because a shell changes both for itself.
    let run = Supervise::with(&provider).start(&["sleep", "60"]);
    let pid = eventually("sleep runs", || {
        let child = crate::support::proc::Process::children_of(run.pid)
            .pop()?
            .pid;
        let words = proc::command_line(child);
        (words.first().map(String::as_str) == Some("sleep")).then_some(child)
    });
    assert_eq!(proc::status(pid, "SigBlk", 16), 0);
    // The two signals below the real-time ones belong to libc, and may be ignored around us.
    assert_eq!(proc::status(pid, "SigIgn", 16) & 0x7fff_ffff, 0);
    run.signal(Signal::SIGTERM);
    run.end().expect(143);
}
