//! Stop, continue, foreground and background, as a shell and its user see them.

use crate::support::env::works;
use crate::support::family::Standing;
use crate::support::pty::{CTRL_C, CTRL_D, CTRL_Z, Screen, Setup, skipped};
use crate::support::{DEADLINE, proc};
use nix::sys::signal::{Signal, kill};
use std::time::{Duration, Instant};

/// In a terminal: a group of its own, the same session, in the foreground.
#[test]
fn c14_group_placement() {
    let mut screen = Setup::new().bash();
    screen.line("$D sh -c 'echo READY $$; exec sleep 60'");
    let child = screen.pid_after("\nREADY ");
    let ddollar = screen.supervisor();
    let (own, outer) = (Standing::of(child).unwrap(), Standing::of(ddollar).unwrap());
    assert_eq!(own.group, child.as_raw());
    assert_ne!(own.group, outer.group);
    assert_eq!(own.session, outer.session);
    assert_eq!(own.foreground, own.group);
    assert_eq!(own.parent, ddollar.as_raw());
    assert_eq!(screen.interrupt(CTRL_C), 130);
    screen.leave();
}

/// Without one: the same group and session, and no terminal.
#[test]
fn c15_placement_without_a_terminal() {
    let run = Setup::new().headless(&["sh", "-c", "echo READY $$; exec sleep 60"]);
    let child = run.pid_after("READY");
    let (own, outer) = (
        Standing::of(child).unwrap(),
        Standing::of(run.pid()).unwrap(),
    );
    assert_eq!(own.group, child.as_raw());
    assert_eq!(own.session, outer.session);
    assert_eq!(outer.session, run.pid().as_raw());
    assert_eq!(own.terminal, 0);
}

/// The command reads from and writes to the terminal.
#[test]
fn c16_reads_and_writes() {
    let mut screen = Setup::new().bash();
    screen.line("$D cat");
    screen.wait("Launching");
    screen.line("hello");
    screen.wait("hello\r\nhello\r\n");
    screen.keys(CTRL_D);
    assert_eq!(screen.prompt(), 0);
    screen.leave();
}

/// A command that changes the terminal's modes at once never stops for it.
#[test]
fn c17_raw_mode_at_once() {
    let mut screen = Setup::new().options("-q").bash();
    screen.line(
        "for i in $(seq 200); do $D sh -c 'stty raw; stty sane; echo O''K'; done; echo fin''ished",
    );
    for _ in 0..200 {
        screen.wait("OK\r\n");
    }
    screen.wait("finished");
    assert_eq!(screen.prompt(), 0);
    screen.leave();
}

/// Ctrl-Z stops both, the shell's modes are as before, and one `fg` brings both back.
#[test]
fn c21_ctrl_z_then_fg() {
    let mut screen = Setup::new().bash();
    let before = screen.stty();
    screen.line("$D cat");
    screen.wait("Launching");
    for round in 0..50 {
        let word = format!("hello{round}");
        screen.line(&word);
        screen.wait(&format!("{word}\r\n{word}\r\n"));
        screen.suspend();
        let ddollar = screen.supervisor();
        let cat = screen.family.with_word("cat");
        for pid in [ddollar].iter().chain(&cat) {
            screen.wait_state(*pid, "T");
        }
        if round % 10 == 0 {
            assert_eq!(screen.stty(), before);
        }
        screen.fg();
    }
    screen.keys(CTRL_D);
    assert_eq!(screen.prompt(), 0);
    assert_eq!(screen.stty(), before);
    screen.leave();
}

/// In the background, a command that reads is stopped again, and leaves the shell's input alone.
#[test]
fn c22_ctrl_z_bg_fg() {
    let mut screen = Setup::new().bash();
    let before = screen.stty();
    screen.line("$D cat");
    screen.wait("Launching");
    screen.line("one");
    screen.wait("one\r\none\r\n");
    screen.suspend();
    screen.run("bg");
    let ddollar = screen.supervisor();
    screen.wait_state(ddollar, "T");
    assert_eq!(screen.run("echo u''ndisturbed"), 0);
    screen.wait_job_stopped();
    assert!(
        screen.text().contains("undisturbed\r\n"),
        "{}",
        screen.text()
    );
    assert_eq!(screen.stty(), before);
    screen.fg();
    screen.line("two");
    screen.wait("two\r\ntwo\r\n");
    screen.keys(CTRL_D);
    assert_eq!(screen.prompt(), 0);
    screen.leave();
}

/// One `fg` is enough, also when the command stops for the terminal in the moment in which it gets
/// it: at once after `bg`, or because what is typed wakes it.
#[test]
fn fg_while_the_command_stops_for_the_terminal() {
    for (command, background) in [("cat", "bg; fg"), ("poll.pl", "bg")] {
        let mut screen = Setup::new().bash();
        screen.line(&format!("$D {command}"));
        screen.wait("Launching");
        for round in 0..30 {
            let word = format!("word{round}");
            screen.line(&word);
            screen.wait(&format!("{word}\r\n"));
            screen.wait(&format!("{word}\r\n"));
            screen.suspend();
            if background == "bg" {
                screen.run(background);
                screen.fg();
            } else {
                screen.line(background);
                screen.wait(&format!("{background}\r\n"));
                screen.wait_job_in_front();
            }
        }
        screen.keys(CTRL_D);
        assert_eq!(screen.prompt(), 0);
        screen.leave();
    }
}

/// A stop for a terminal that the command has is of no use to anybody.
#[test]
fn a_stop_for_the_terminal_by_who_has_it() {
    let mut screen = Setup::new().bash();
    for signal in ["TTIN", "TTOU"] {
        let line = format!("$D sh -c 'kill -{signal} $$; echo aw''ake{signal}'");
        assert_eq!(screen.run(&line), 0);
        assert!(screen.text().contains(&format!("\nawake{signal}")));
    }
    screen.leave();
}

/// Started in the background it stops when the command reads, and works after `fg`.
#[test]
fn c23_started_in_the_background() {
    let mut screen = Setup::new().bash();
    let before = screen.stty();
    screen.run("$D cat &");
    let ddollar = screen.supervisor();
    screen.wait_state(ddollar, "T");
    screen.wait_job_stopped();
    assert_eq!(screen.stty(), before);
    screen.fg();
    screen.line("xyz");
    screen.wait("xyz\r\nxyz\r\n");
    assert!(screen.is_cooked());
    screen.keys(CTRL_D);
    assert_eq!(screen.prompt(), 0);
    assert_eq!(screen.stty(), before);
    screen.leave();
}

/// Raw mode survives a stop by SIGSTOP and `fg`, which it does not under the bare shell.
#[test]
fn c24_self_stop_keeps_raw_mode() {
    for signal in ["STOP", "TSTP"] {
        let mut screen = Setup::new().bash();
        let before = screen.stty();
        screen.line(&format!("$D selfstop.pl {signal}"));
        screen.wait("RAW ");
        screen.prompt();
        assert_eq!(screen.stty(), before);
        screen.line("fg");
        screen.wait("icanon is 0.");
        assert_eq!(screen.prompt(), 0);
        assert_eq!(screen.stty(), before);
        screen.leave();
    }
}

/// Where no shell would wake it, nothing freezes.
#[test]
fn c25_stop_without_a_shell() {
    let mut screen = Setup::new().leader(&["cat"]);
    screen.wait("Launching");
    screen.line("one");
    screen.wait("one\r\none\r\n");
    screen.keys(CTRL_Z);
    screen.line("two");
    screen.wait("two\r\ntwo\r\n");
    screen.keys(CTRL_D);
    assert_eq!(screen.end(), 0);
}

/// A process manager in the same session is no shell with a terminal: when somebody stops the command,
/// ddollar says so and stays, as the proxy that the command needs when it goes on.
#[test]
fn stopped_by_hand_below_a_manager() {
    let setup = Setup::new();
    let mut command = setup.command("perl");
    command.args([
        "-e",
        "if (!fork) { setpgrp; exec q(exec $D sh -c 'echo READY $$; exec sleep 600') } wait",
    ]);
    let run = setup.headless_command(command);
    let child = run.pid_after("READY");
    kill(child, Signal::SIGSTOP).unwrap();
    run.wait_err("SIGCONT lets it go on");
    let ddollar = run.family.supervisors()[0];
    assert!(proc::is_running(ddollar));
    kill(child, Signal::SIGCONT).unwrap();
    kill(child, Signal::SIGTERM).unwrap();
    run.family.gone();
}

/// A pipeline stops and goes on as a whole.
#[test]
fn c26_pipeline_suspend() {
    let mut screen = Setup::new().bash();
    screen.line("$D cat | tee f");
    screen.wait("Launching");
    screen.line("one");
    screen.wait("one\r\none\r\n");
    for round in 0..5 {
        screen.suspend();
        let tee = screen.family.with_word("tee")[0];
        screen.wait_state(tee, "T");
        screen.fg();
        screen.line(&format!("again{round}"));
        screen.wait(&format!("again{round}\r\nagain{round}\r\n"));
    }
    screen.keys(CTRL_D);
    assert_eq!(screen.prompt(), 0);
    let written = std::fs::read_to_string(screen.desk.join("f")).unwrap();
    assert!(written.starts_with("one\nagain0\n"), "{written}");
    screen.leave();
}

/// Another program of the pipeline that reads the terminal gets it.
#[test]
fn c27_pipeline_peer_needs_the_terminal() {
    let mut screen = Setup::new().bash();
    screen.line("$D sleep 1 | sh -c 'echo PE''ER; read x </dev/tty; echo \"re''ad $x.\"'");
    screen.wait("PEER");
    screen.line("kk");
    screen.wait("read kk.");
    assert_eq!(screen.prompt(), 0);
    screen.leave();
}

/// bash ignores SIGTTIN in a command substitution, so that a read in the background is an error there: the
/// command gets the terminal all the same.
#[test]
fn command_substitution() {
    let mut screen = Setup::new().bash();
    screen.line("x=$($D sh -c 'echo ASKS >/dev/tty; read a </dev/tty; echo got-$a')");
    screen.wait("ASKS\r\n");
    screen.line("blue");
    assert_eq!(screen.prompt(), 0);
    assert!(screen.ask("echo \"[$x]\";").contains("[got-blue]"));
    screen.leave();
}

/// A full-screen program whose stdin is a pipe still gets the terminal, when it asks for it.
#[test]
fn c28_tui_behind_a_pipe() {
    let mut screen = Setup::new().bash();
    screen.line("echo p | $D tui.pl");
    screen.wait_log("RAW", 1);
    screen.eventually("raw mode", |screen| (!screen.is_cooked()).then_some(()));
    screen.keys(CTRL_C);
    screen.wait_log("KEY 03", 1);
    screen.keys("q");
    assert_eq!(screen.prompt(), 0);
    screen.leave();
}

/// ddollar under ddollar behaves as one.
#[test]
fn c29_nested() {
    let mut screen = Setup::new().bash();
    let before = screen.stty();
    screen.line("$D $D cat");
    screen.wait("Launching: cat");
    screen.line("one");
    screen.wait("one\r\none\r\n");
    screen.suspend();
    assert_eq!(screen.stty(), before);
    for pid in screen.family.with_word("cat") {
        screen.wait_state(pid, "T");
    }
    screen.fg();
    screen.line("two");
    screen.wait("two\r\ntwo\r\n");
    assert_eq!(screen.interrupt(CTRL_C), 130);
    assert_eq!(screen.stty(), before);
    screen.leave();
}

/// An interactive shell as the command has job control of its own.
#[test]
fn c30_interactive_shell_as_child() {
    let mut screen = Setup::new().bash();
    let before = screen.stty();
    screen.line("PS1='in[$?]> ' $D bash --norc -i");
    screen.wait("in[0]> ");
    let inner = |screen: &mut Screen| {
        screen.wait("in[");
        screen.wait("]> ");
    };
    screen.line("echo flags=$-.");
    screen.wait("\nflags=");
    let flags = screen.wait(".");
    assert!(flags.contains('m'), "{flags}");
    inner(&mut screen);
    screen.line("sleep 100");
    screen.eventually("sleep in the foreground", |screen| {
        let words = proc::command_line(screen.foreground());
        (words.first().map(String::as_str) == Some("sleep")).then_some(())
    });
    screen.keys(CTRL_Z);
    screen.wait("Stopped");
    inner(&mut screen);
    // As long as there are stopped jobs, it does not exit.
    screen.line("kill %1; while jobs %1; do sleep 0.1; done; echo a''lone");
    screen.wait("alone\r\n");
    inner(&mut screen);
    screen.line("exit 7");
    assert_eq!(screen.prompt(), 7);
    assert_eq!(screen.stty(), before);
    screen.leave();
}

/// A command that leaves the terminal with a group that is gone costs nobody the terminal.
#[test]
fn c31_foreground_grabber() {
    let mut screen = Setup::new().bash();
    let before = screen.stty();
    for _ in 0..5 {
        assert_eq!(screen.run("$D grabfg.pl"), 0);
    }
    assert_eq!(screen.run("true"), 0);
    assert_eq!(screen.stty(), before);
    screen.leave();

    let mut screen = Setup::new().leader(&["grabfg.pl"]);
    assert_eq!(screen.end(), 0);
}

/// Ctrl-Z at any moment of a start never hangs.
#[test]
fn c34_ctrl_z_storm_at_start() {
    let mut screen = Setup::new().options("-q").bash();
    let before = screen.stty();
    for round in 0..100_u64 {
        screen.line("$D true");
        screen.wait("$D true\r\n");
        // Not to wait for something, but to hit each moment of a start.
        std::thread::sleep(Duration::from_micros(round * 7919 % 20_000));
        screen.keys(CTRL_Z);
        // A signal from the keyboard flushes the terminal: the prompt may be lost in it. And what is
        // typed may be read by a program that is about to end. So ask until there is an answer.
        let began = Instant::now();
        let ask = |screen: &mut Screen, command: &str, mark: &str| loop {
            screen.line(&format!("{command} echo {mark}''{round}"));
            let answer = format!("{mark}{round}\r\n");
            if screen.comes(&answer, Duration::from_secs(1)).is_some() {
                return;
            }
            assert!(
                began.elapsed() < DEADLINE,
                "round {round}:\n{}\n{}",
                screen.text(),
                screen.processes()
            );
        };
        ask(&mut screen, "", "end");
        // One that the key has hit between the shell's fork and its exec is a stopped job as well.
        let resume = "while jobs -s | grep -q .; do fg 2>/dev/null; done;";
        ask(&mut screen, resume, "all");
        while !screen.family.supervisors().is_empty() {
            ask(&mut screen, "fg 2>/dev/null;", "done");
        }
    }
    screen.line("echo s''ync");
    screen.wait("sync\r\n");
    screen.prompt();
    assert_eq!(screen.stty(), before);
    screen.leave();
}

/// A terminal, but no usable /dev/tty, as in some containers: the command can read its terminal.
#[test]
fn no_dev_tty() {
    if !works("unshare", &["-Um", "--map-root-user", "true"]) {
        return skipped("no /dev/tty", "no user and mount namespace");
    }
    let setup = Setup::new();
    let mut command = setup.command("unshare");
    let script = "mount --bind /dev/null /dev/tty && exec $D sed -u 's/^/got /'";
    command.args(["-Um", "--map-root-user", "sh", "-c", script]);
    let mut screen = setup.screen(command);
    screen.wait("Launching");
    screen.line("hello");
    screen.wait("got hello");
    screen.keys(CTRL_D);
    assert_eq!(screen.end(), 0, "{}", screen.text());
}
