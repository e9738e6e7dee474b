//! The question in interactive mode, over a paused full-screen program.

use crate::support::gateway::{Wire, message, post};
use crate::support::proc;
use crate::support::pty::{CTRL_C, Screen, Setup, lines_with};
use crate::support::{Provider, spent_at};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::time::Duration;

const QUESTION: &str = "Choice [1]: ";

/// A full-screen program under bash with the question open, the program's pid and `stty -g`.
fn asked(provider: &Provider, reset: &str) -> (Screen, Pid, String) {
    let mut screen = Setup::with(provider)
        .options("--interactive --grace 10m --patience 0s")
        .bash();
    let before = screen.stty();
    screen.line("$D tui.pl");
    screen.wait_log("RAW", 1);
    let child = screen.pid_after("TUI-READY ");
    provider.control(spent_at("org-1", reset));
    screen.wait(QUESTION);
    screen.wait_state(child, "T");
    (screen, child, before)
}

/// Waits until this many program starts were logged, and gives the last one's line.
fn started(screen: &mut Screen, times: usize) -> String {
    screen.wait_log("RAW", times);
    screen.wait_log("START", times).remove(times - 1)
}

/// The program is paused, the terminal is fit for a question, keys typed before do not count.
#[test]
fn c48_prompt() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let mut screen = Setup::with(&provider).options("--interactive").bash();
    screen.line("DEAF=KEYS $D tui.pl");
    screen.wait_log("RAW", 1);
    let child = screen.pid_after("TUI-READY ");
    // What the program has not read yet must not answer.
    screen.keys("3\n3\r");
    provider.control(spent_at("org-1", "10m"));
    screen.wait("What would you like to do?");
    let text = screen.wait(QUESTION);
    for line in [
        "1) Rotate to next token and continue",
        "2) Wait for limit to reset (",
        "3) Exit and save state",
        "4) Keep going (may hit 429 errors)",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert!(screen.is_cooked());
    let all = screen.text();
    let (hidden, shown) = (all.rfind("\x1b[?25l"), all.rfind("\x1b[?25h"));
    assert!(shown > hidden, "{all:?}");
    // An answer needs Enter.
    screen.keys("1");
    assert!(
        screen
            .comes("Auto-rotating", Duration::from_millis(300))
            .is_none()
    );
    assert!(proc::is_stopped(child));
    screen.keys("\r");
    assert!(
        started(&mut screen, 2).contains("key=2"),
        "{}",
        screen.log()
    );
    kill(screen.supervisor(), Signal::SIGTERM).unwrap();
    assert_eq!(screen.prompt(), 0);
    screen.leave();
}

/// Rotation from the prompt: the old program cleans up in the foreground, the new one finds the
/// terminal as the first did.
#[test]
fn c49_rotate_from_the_prompt() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let (mut screen, child, before) = asked(&provider, "10m");
    let first = started(&mut screen, 1);
    screen.line("");
    let second = started(&mut screen, 2);
    assert!(proc::is_gone(child));
    assert_eq!(screen.wait_log("TERM", 1), ["TERM front=1"]);
    assert!(
        first.contains("key=1") && second.contains("key=2"),
        "{first}\n{second}"
    );
    let modes = |line: &str| line.rsplit(' ').next().unwrap().to_owned();
    assert_eq!(modes(&first), modes(&second));
    screen.keys("q");
    assert_eq!(screen.prompt(), 0);
    assert_eq!(screen.stty(), before);
    screen.leave();
}

/// The program dies while the question is open: that is the end, with its status.
#[test]
fn c50_child_dies_during_the_prompt() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let (mut screen, child, before) = asked(&provider, "10m");
    kill(child, Signal::SIGKILL).unwrap();
    assert_eq!(screen.prompt(), 137);
    assert_eq!(screen.stty(), before);
    screen.leave();
}

/// Ctrl-C at the question ends the program, which cleans up, and ddollar with 130.
#[test]
fn c51_ctrl_c_at_the_prompt() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let (mut screen, child, before) = asked(&provider, "10m");
    assert_eq!(screen.interrupt(CTRL_C), 130);
    // What follows is not part of the question's line.
    let text = screen.text();
    assert!(text.contains("Stopped by SIGINT"), "{text}");
    let glued = |line: &str| line.contains(QUESTION) && line.contains("Stopped by");
    assert!(!text.lines().any(glued), "{text}");
    assert!(proc::is_gone(child));
    assert_eq!(screen.wait_log("TERM", 1), ["TERM front=1"]);
    assert_eq!(screen.stty(), before);
    screen.leave();
}

/// Ctrl-Z at the question: the shell, and after `fg` the question again over the stopped program.
#[test]
fn c52_ctrl_z_at_the_prompt() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let (mut screen, child, before) = asked(&provider, "10m");
    for _ in 0..3 {
        screen.suspend();
        assert_eq!(screen.stty(), before);
        assert!(proc::is_stopped(child));
        screen.line("fg");
        screen.wait(QUESTION);
        assert!(proc::is_stopped(child));
    }
    screen.line("1");
    started(&mut screen, 2);
    screen.keys("q");
    assert_eq!(screen.prompt(), 0);
    assert_eq!(screen.stty(), before);
    screen.leave();
}

/// Choice 2 waits for this token, and then the program goes on.
#[test]
fn prompt_wait_for_the_reset() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let (mut screen, child, before) = asked(&provider, "9s");
    screen.line("2");
    screen.wait("Pausing");
    screen.wait_state(child, "RS");
    screen.wait_log("CONT icanon=0", 1);
    screen.keys("q");
    // The time at the question is no work.
    screen.wait("0 rotations, waited ");
    assert_eq!(screen.prompt(), 0);
    assert_eq!(lines_with(&screen.log(), "START").len(), 1);
    assert_eq!(screen.stty(), before);
    screen.leave();
}

/// Choice 3 stops the program gracefully, says how to go on, and exits with 75.
#[test]
fn prompt_exit() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let (mut screen, child, before) = asked(&provider, "10m");
    screen.line("3");
    screen.wait("Stopped before the command finished");
    screen.wait("saved: which tokens are spent, and until when");
    assert_eq!(screen.prompt(), 75);
    assert!(proc::is_gone(child));
    assert_eq!(screen.wait_log("TERM", 1), ["TERM front=1"]);
    assert_eq!(screen.stty(), before);
    screen.leave();
}

/// Choice 4 lets the program go on with the same token.
#[test]
fn prompt_keep_going() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let mut screen = Setup::with(&provider).options("--interactive").bash();
    screen.line("$D tui.pl");
    screen.wait_log("RAW", 1);
    let child = screen.pid_after("TUI-READY ");
    provider.set("org-1", 0.97);
    screen.wait(QUESTION);
    screen.line("4");
    screen.wait_state(child, "RS");
    screen.wait_log("CONT icanon=0", 1);
    screen.keys("x");
    screen.wait_log("KEY 78", 1);
    screen.keys("q");
    assert_eq!(screen.prompt(), 0);
    assert_eq!(lines_with(&screen.log(), "START").len(), 1);
    assert!(!screen.rest().contains(QUESTION));
    screen.leave();
}

/// Anything else is asked again.
#[test]
fn prompt_invalid_choice() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let (mut screen, child, _) = asked(&provider, "10m");
    for answer in ["5", "rotate", "11", "\u{1b}[A"] {
        screen.line(answer);
        screen.wait("No such choice");
        screen.wait(QUESTION);
        assert!(proc::is_stopped(child));
    }
    screen.line("3");
    assert_eq!(screen.prompt(), 75);
    screen.leave();
}

/// Ctrl-D is no answer: the question is put again, on a line of its own.
#[test]
fn prompt_end_of_input() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let mut screen = Setup::with(&provider)
        .options("--interactive --grace 10m --patience 0s")
        .bash();
    screen.line("$D sh -c 'echo READY $$; exec sleep 600'");
    let child = screen.pid_after("\nREADY ");
    provider.control(spent_at("org-1", "10m"));
    screen.wait(QUESTION);
    // After other characters, the first Ctrl-D only hands these over.
    for (keys, typed) in [("\x04", ""), ("1\x04\x04", "1")] {
        screen.keys(keys);
        let text = screen.wait("No answer");
        assert!(text.starts_with(&format!("{typed}\r\n")), "{text:?}");
        screen.wait(QUESTION);
        assert!(proc::is_stopped(child));
    }
    screen.line("3");
    assert_eq!(screen.prompt(), 75);
    screen.leave();
}

/// A terminal that closes while the question is open ends everything.
#[test]
fn prompt_terminal_closed() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let (mut screen, child, _) = asked(&provider, "10m");
    screen.hang_up();
    screen.family.gone_after(Duration::from_secs(1));
    assert!(proc::is_gone(child));
}

/// With every token spent there are two choices; the first waits for the reset.
#[test]
fn prompt_all_spent() {
    let provider = Provider::anthropic(&[0.1]);
    let (mut screen, child, before) = asked(&provider, "9s");
    let text = screen.text();
    assert!(
        text.contains("1) Wait for limits to reset\r\n  2) Exit and save state"),
        "{text}"
    );
    screen.line("");
    screen.wait("Pausing");
    screen.wait_state(child, "RS");
    screen.wait_log("CONT icanon=0", 1);
    screen.keys("q");
    assert_eq!(screen.prompt(), 0);
    assert_eq!(screen.stty(), before);
    screen.leave();

    let provider = Provider::anthropic(&[0.1]);
    let (mut screen, child, _) = asked(&provider, "10m");
    screen.line("2");
    assert_eq!(screen.prompt(), 75);
    assert!(proc::is_gone(child));
    screen.leave();
}

/// TERM and HUP at the question end the run as they do without one.
#[test]
fn prompt_signals() {
    for (signal, code) in [(Signal::SIGTERM, 0), (Signal::SIGHUP, 129)] {
        let provider = Provider::anthropic(&[0.1, 0.1]);
        let (mut screen, child, before) = asked(&provider, "10m");
        kill(screen.supervisor(), signal).unwrap();
        assert_eq!(screen.prompt(), code);
        assert!(proc::is_gone(child));
        assert_eq!(screen.stty(), before);
        screen.leave();
    }
}

/// A command that reads a status from the terminal and fails with it, so that its limit is found at its
/// end, under bash with the question open. Its modes are not the user's.
fn asked_after_a_failure(tokens: usize, reset: &str) -> (Screen, Provider, String) {
    let mut provider = Provider::anthropic(&vec![0.1; tokens]);
    let mut screen = Setup::with(&provider)
        .options("--interactive --interval 1h --patience 0s")
        .bash();
    let before = screen.stty();
    screen.line(
        "$D sh -c 'stty -echo; echo \"GO key=${ANTHROPIC_API_KEY##*-}.\"; read s; exit \"$s\"'",
    );
    screen.wait("GO key=1.");
    // The next question is put at its end.
    provider.wait_for_probe(&format!("anthropic#{tokens}"));
    provider.control(spent_at("org-1", reset));
    screen.line("7");
    screen.wait("Process exited with status 7");
    screen.wait("Token limit reached");
    (screen, provider, before)
}

/// A command that has failed for its limit is not started again unasked, and each choice does what it
/// says.
#[test]
fn prompt_after_a_failure() {
    for (choice, wanted) in [
        ("", "GO key=2."),
        ("1", "GO key=2."),
        ("2", "GO key=1."),
        ("4", "GO key=1."),
    ] {
        let reset = if choice == "2" { "9s" } else { "10m" };
        let (mut screen, _provider, before) = asked_after_a_failure(2, reset);
        let text = screen.wait(QUESTION);
        assert!(text.contains("1) Rotate to next token"), "{text}");
        assert!(screen.is_cooked());
        // After a Ctrl-Z, too.
        screen.suspend();
        assert_eq!(screen.stty(), before);
        screen.line("fg");
        screen.wait(QUESTION);
        screen.line(choice);
        screen.wait(wanted);
        screen.line("0");
        assert_eq!(screen.prompt(), 0, "{choice}: {}", screen.text());
        screen.leave();
    }
    let (mut screen, _provider, _) = asked_after_a_failure(2, "10m");
    screen.wait(QUESTION);
    screen.line("3");
    screen.wait("Stopped before the command finished");
    assert_eq!(screen.prompt(), 75);
    screen.leave();
    let (mut screen, _provider, _) = asked_after_a_failure(2, "10m");
    screen.wait(QUESTION);
    assert_eq!(screen.interrupt(CTRL_C), 130);
    screen.leave();
}

/// The same with every token spent.
#[test]
fn prompt_all_spent_after_a_failure() {
    let (mut screen, _provider, _) = asked_after_a_failure(1, "5s");
    let text = screen.wait(QUESTION);
    assert!(
        text.contains("1) Wait for limits to reset\r\n  2) Exit and save state"),
        "{text}"
    );
    screen.line("1");
    screen.wait("GO key=1.");
    screen.line("0");
    assert_eq!(screen.prompt(), 0);
    screen.leave();

    let (mut screen, _provider, _) = asked_after_a_failure(1, "10m");
    screen.wait(QUESTION);
    screen.line("2");
    assert_eq!(screen.prompt(), 75);
    screen.leave();
}

/// Without a terminal, `-i` is an error before anything starts.
#[test]
fn prompt_needs_a_terminal() {
    let setup = Setup::new().options("--interactive");
    let started = setup.desk.join("started");
    let mut run = setup.headless(&["touch", "started"]);
    assert_eq!(run.end(), 125, "{}", run.err());
    assert!(!started.exists());
    assert!(run.err().contains("terminal"), "{}", run.err());
}

/// A program behind the proxy, as it says where its requests go and with which secret.
fn behind_the_proxy(setup: Setup) -> (Screen, Pid, String, String) {
    let mut screen = setup
        .options("--interactive --proxy --patience 0s --interval 1h")
        .bash();
    screen.line(
        "$D sh -c 'echo AT $ANTHROPIC_BASE_URL $ANTHROPIC_API_KEY $$ END-$((1 + 1)); read word'",
    );
    let text = screen.wait("END-2");
    let at = text.rsplit("AT http://").next().unwrap();
    let mut words = at.split_whitespace();
    let address = words.next().unwrap().split('/').next().unwrap().to_owned();
    let secret = words.next().unwrap().to_owned();
    let child = Pid::from_raw(words.next().unwrap().parse().unwrap());
    (screen, child, address, secret)
}

/// What the program would send; the answer is still to come.
fn request(address: &str, secret: &str) -> Wire {
    request_to("anthropic/v1/messages", address, secret)
}

fn request_to(path: &str, address: &str, secret: &str) -> Wire {
    post(
        address,
        &format!("/{path}"),
        secret,
        "",
        &message(json!({})),
    )
}

/// The refused request waits for the user's word, and goes out with the next token then: the program is the
/// same.
#[test]
fn c49_rotate_from_the_prompt_behind_the_proxy() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let (mut screen, child, address, secret) = behind_the_proxy(Setup::with(&provider));
    assert_eq!(request(&address, &secret).answer().status, 200);
    provider.control(spent_at("org-1", "10m"));
    let mut held = request(&address, &secret);
    screen.wait("1) Rotate to next token and continue");
    screen.wait(QUESTION);
    screen.wait_state(child, "T");
    screen.line("1");
    assert_eq!(held.answer().status, 200);
    let moved = provider.wait_for("a request with the second token", |line| {
        line["who"] == "other" && line["token_label"] == "anthropic#2"
    });
    assert_eq!(moved["status"], 200);
    screen.wait("Switched to token 2/2");
    screen.line("done");
    assert_eq!(screen.prompt(), 0);
    let text = screen.text();
    assert_eq!(text.matches("Launching").count(), 1, "{text}");
    assert_eq!(text.matches("Token limit reached").count(), 1, "{text}");
    screen.leave();
}

/// Near the limit the token in use serves on while the user is asked, and after "keep going"; a refusal
/// brings the question back.
#[test]
fn c48_prompt_near_a_limit_behind_the_proxy() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let (mut screen, child, address, secret) = behind_the_proxy(Setup::with(&provider));
    provider.set("org-1", 0.97);
    assert_eq!(request(&address, &secret).answer().status, 200);
    screen.wait("Token limit approaching (97% used)");
    screen.wait(QUESTION);
    screen.wait_state(child, "T");
    screen.line("4");
    assert_eq!(request(&address, &secret).answer().status, 200);
    provider.control(spent_at("org-1", "10m"));
    let held = request(&address, &secret);
    screen.wait(QUESTION);
    screen.line("3");
    assert_eq!(screen.prompt(), 75);
    drop(held);
    let seconds = provider.served().iter();
    let with_second =
        seconds.filter(|line| line["who"] == "other" && line["token_label"] == "anthropic#2");
    assert_eq!(with_second.count(), 0);
    screen.leave();
}

/// A token that was never accepted is asked about as well, though another provider has shown that it works.
#[test]
fn c48_prompt_about_a_rejected_token_behind_the_proxy_beside_another_provider() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let other = Provider::openai(&[0.1]);
    provider.control(json!([{"answer": {"token": provider.token(1), "fault": "401"}}]));
    let setup = other
        .variables(&other.url)
        .iter()
        .fold(Setup::with(&provider), |setup, (name, value)| {
            setup.env(name, value)
        });
    let (mut screen, _, address, secret) = behind_the_proxy(setup);
    let mut first = request_to("openai/chat/completions", &address, &secret);
    assert_eq!(first.answer().status, 200);
    let mut held = request(&address, &secret);
    screen.wait(QUESTION);
    screen.line("1");
    assert_eq!(held.answer().status, 200);
    screen.line("done");
    assert_eq!(screen.prompt(), 0);
    screen.leave();
}
