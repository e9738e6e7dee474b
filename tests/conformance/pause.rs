//! Every token spent: the command stands still until a limit resets.

use crate::support::pty::{CTRL_C, Setup, lines_with};
use crate::support::{Provider, eventually, proc, spent_at};
use std::time::{Duration, Instant};

/// A full-screen program is paused at once, goes on after the reset, in raw mode and drawn anew.
#[test]
fn c46_pause() {
    let provider = Provider::anthropic(&[0.1]);
    let mut screen = Setup::with(&provider).bash();
    screen.line("$D tui.pl");
    screen.wait_log("RAW", 1);
    let child = screen.pid_after("TUI-READY ");
    let began = Instant::now();
    provider.control(spent_at("org-1", "6s"));
    screen.wait_state(child, "T");
    screen.wait_state(child, "RS");
    let paused = began.elapsed();
    assert!(paused >= Duration::from_millis(5500), "{paused:?}");
    assert_eq!(screen.wait_log("CONT", 1), ["CONT icanon=0"]);
    screen.wait_log("WINCH", 1);
    screen.keys("x");
    screen.wait_log("KEY 78", 1);
    assert_eq!(
        lines_with(&screen.log(), "WINCH").len(),
        1,
        "{}",
        screen.log()
    );
    screen.keys("q");
    assert_eq!(screen.prompt(), 0);
    screen.leave();
}

/// The same without a terminal.
#[test]
fn c46_pause_without_a_terminal() {
    let provider = Provider::anthropic(&[0.1]);
    let run = Setup::with(&provider).headless(&["sigecho.pl"]);
    let child = run.pid_after("READY");
    provider.control(spent_at("org-1", "6s"));
    eventually("the pause", || proc::is_stopped(child).then_some(()));
    run.wait_err("Waiting for limits to reset");
    eventually("the end of the pause", || {
        proc::is_running(child).then_some(())
    });
    run.wait_out("got CONT", 1);
    run.wait_err("Session continued");
}

/// A pause reaches through a ddollar that is supervised itself.
#[test]
fn c47_pause_nested() {
    let provider = Provider::anthropic(&[0.1]);
    let inner = Provider::anthropic(&[0.1]);
    for terminal in [false, true] {
        provider.control(serde_json::json!({"set": {"organization": "org-1", "bucket": "requests", "used": 0.1}}));
        let setup = Setup::with(&provider)
            .env("INNER_URL", &inner.url)
            .env("INNER_TOKEN", inner.token(1));
        let script = "export ANTHROPIC_BASE_URL=$INNER_URL ANTHROPIC_API_KEY=$INNER_TOKEN; exec $D sigecho.pl";
        if terminal {
            let mut screen = setup.bash();
            screen.line(&format!("$D sh -c '{script}'"));
            let child = screen.pid_after("\nREADY ");
            provider.control(spent_at("org-1", "6s"));
            screen.wait_state(child, "T");
            screen.wait_state(child, "RS");
            screen.wait("got CONT");
            continue;
        }
        let run = setup.headless(&["sh", "-c", script]);
        let child = run.pid_after("READY");
        provider.control(spent_at("org-1", "6s"));
        eventually("the pause", || proc::is_stopped(child).then_some(()));
        eventually("the end of the pause", || {
            proc::is_running(child).then_some(())
        });
        run.wait_out("got CONT", 1);
    }
}

/// While the command stands still, one line of the terminal counts down; it goes with the wait, and
/// leaves no trace before the prompt when the wait is broken off.
#[test]
fn the_countdown_is_drawn_on_one_line() {
    let provider = Provider::anthropic(&[0.1]);
    let mut screen = Setup::with(&provider).options("--patience 0s").bash();
    screen.line("$D sigecho.pl");
    let child = screen.pid_after("READY ");
    provider.control(spent_at("org-1", "3s"));
    screen.wait("Pausing subprocess for ");
    screen.wait("\r\x1b[36m▶  \x1b[0mWaiting: 3s left, until ");
    screen.wait("\x1b[K\r\x1b[36m▶  \x1b[0mWaiting: 2s left, until ");
    let last = screen.wait("Resuming subprocess...");
    assert!(
        last.contains("\x1b[K\r\x1b[K\x1b[36m▶  \x1b[0mResuming"),
        "{last:?}"
    );
    assert!(!last.contains('\n'), "{last:?}");

    screen.wait_state(child, "RS");
    provider.control(spent_at("org-1", "9m"));
    screen.wait("Waiting: 8m ");
    screen.keys(CTRL_C);
    // bash's prompt is in an empty line.
    screen.wait("\r\x1b[K");
    assert_eq!(screen.prompt(), 130);

    // The next run waits for the same reset before its first start.
    screen.line("$D sigecho.pl");
    screen.wait("Waiting: 8m ");
    screen.keys(CTRL_C);
    assert_eq!(screen.prompt(), 130);
    screen.leave();
}

/// A narrow terminal, and one that cannot redraw.
#[test]
fn the_countdown_fits_the_terminal() {
    let provider = Provider::anthropic(&[0.1]);
    let mut screen = Setup::with(&provider).options("--patience 0s").bash();
    screen.resize(24, 20);
    screen.line("$D sigecho.pl");
    screen.pid_after("READY ");
    provider.control(spent_at("org-1", "9m"));
    screen.wait("\x1b[0mWaiting: ");
    let line = screen.wait("\x1b[K");
    assert!(
        line.len() <= 20 - "▶  Waiting: ".chars().count() + "\x1b[K".len(),
        "{line:?}"
    );
    screen.keys(CTRL_C);
    assert_eq!(screen.prompt(), 130);
    screen.leave();

    // One that does not know how wide it is, such as a serial line.
    let mut screen = Setup::with(&provider).options("--patience 0s").bash();
    screen.resize(0, 0);
    screen.line("$D sleep 600");
    screen.wait("\x1b[0mWaiting: 8m ");
    screen.keys(CTRL_C);
    assert_eq!(screen.prompt(), 130);
    screen.leave();

    let mut screen = Setup::with(&provider).env("TERM", "dumb").bash();
    screen.line("$D sigecho.pl");
    screen.wait("Pausing subprocess for ");
    assert!(
        screen
            .comes("Waiting: ", Duration::from_millis(1500))
            .is_none()
    );
    screen.keys(CTRL_C);
    assert_eq!(screen.prompt(), 130);
    screen.leave();
}
