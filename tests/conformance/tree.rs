//! The tree: everything that a command has started, and its end.

use crate::support::family::Standing;
use crate::support::proc;
use crate::support::pty::{Setup, lines_with};
use crate::support::{Provider, eventually, spent_at};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// After the grace, SIGKILL: not before, and not another grace later.
#[test]
fn c35_term_then_kill() {
    let mut run = Setup::new()
        .options("--grace 5s")
        .headless(&["stubborn.pl"]);
    run.pid_after("READY");
    let began = Instant::now();
    run.signal(Signal::SIGTERM);
    assert_eq!(run.end(), 137, "{}", run.err());
    let took = began.elapsed();
    assert!((5000..10_000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(lines_with(&run.out(), "got TERM").len(), 1, "{}", run.out());
    run.family.gone();

    let mut screen = Setup::new().options("--grace 1s").bash();
    screen.line("$D stubborn.pl");
    screen.wait("READY ");
    kill(screen.supervisor(), Signal::SIGTERM).unwrap();
    assert_eq!(screen.prompt(), 137);
    screen.leave();
}

/// Whoever asks a second time does not wait for the grace.
#[test]
fn c36_second_term() {
    let mut run = Setup::new()
        .options("--grace 10m")
        .headless(&["stubborn.pl"]);
    run.pid_after("READY");
    run.signal(Signal::SIGTERM);
    run.wait_out("got TERM", 1);
    std::thread::sleep(TWINS);
    run.signal(Signal::SIGTERM);
    assert_eq!(run.end(), 137, "{}", run.err());
    run.family.gone();

    let mut screen = Setup::new().options("--grace 10m").bash();
    screen.line("$D stubborn.pl");
    screen.wait("READY ");
    let ddollar = screen.supervisor();
    kill(ddollar, Signal::SIGTERM).unwrap();
    screen.wait("got TERM");
    std::thread::sleep(TWINS);
    kill(ddollar, Signal::SIGINT).unwrap();
    assert_eq!(screen.prompt(), 137);
    screen.leave();
}

/// Signals that come within this time are one end, and not a second wish.
const TWINS: Duration = Duration::from_millis(300);

/// One end that arrives as two signals, as from timeout(1) or a systemd scope, leaves the command its
/// grace.
#[test]
fn two_signals_for_one_end() {
    for second in [Signal::SIGTERM, Signal::SIGHUP] {
        let saves = "trap 'sleep 0.5; echo SAVED; exit 0' TERM; echo READY $$; \
                     while :; do sleep 0.02; done";
        let mut run = Setup::new()
            .options("--grace 1m")
            .headless(&["sh", "-c", saves]);
        run.pid_after("READY");
        run.signal(Signal::SIGTERM);
        run.signal(second);
        assert_eq!(run.end(), 0, "{}", run.err());
        run.wait_out("SAVED", 1);
        run.family.gone();
    }
}

/// TERM is acted on by a stopped command, because SIGCONT follows.
#[test]
fn c37_term_to_a_stopped_child() {
    let mut run =
        Setup::new()
            .options("--grace 10m")
            .headless(&["sh", "-c", "echo READY $$; exec sleep 60"]);
    let child = run.pid_after("READY");
    kill(child, Signal::SIGSTOP).unwrap();
    eventually("the stop", || proc::is_stopped(child).then_some(()));
    run.signal(Signal::SIGTERM);
    assert_eq!(run.end(), 143, "{}", run.err());
    run.family.gone();
}

/// TERM ends daemons, too: two forks, another session, deaf to TERM.
#[test]
fn c38_tree_kill() {
    let mut run =
        Setup::new()
            .options("--grace 5s")
            .headless(&["sh", "-c", "daemon.pl & exec stubborn.pl"]);
    run.pid_after("READY");
    let daemon = run.pid_after("DAEMON");
    let began = Instant::now();
    run.signal(Signal::SIGTERM);
    assert_eq!(run.end(), 137, "{}", run.err());
    // The grace is one for all of them.
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    assert!(proc::is_gone(daemon));
    run.family.gone();

    let mut screen = Setup::new().options("--grace 1s").bash();
    screen.line("$D sh -c 'daemon.pl & exec stubborn.pl'");
    // In whatever order.
    screen.eventually("both", |screen| {
        let text = screen.text();
        (text.contains("READY ") && text.contains("DAEMON ")).then_some(())
    });
    kill(screen.supervisor(), Signal::SIGTERM).unwrap();
    assert_eq!(screen.prompt(), 137);
    screen.leave();
}

/// A rotation leaves nothing of the old tree either, and the new child starts after its end.
#[test]
fn rotation_ends_daemons_first() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let run = Setup::with(&provider).options("--grace 500ms").headless(&[
        "sh",
        "-c",
        "daemon.pl & echo START $$; exec sigecho.pl -1",
    ]);
    let daemon = run.pid_after("DAEMON");
    run.pid_after("READY");
    provider.control(spent_at("org-1", "10m"));
    run.wait_out("START", 2);
    assert!(proc::is_gone(daemon));
    run.wait_out("DAEMON", 2);
}

/// A command that leaves its process group, for that of ddollar itself, is rotated and ended all the same,
/// and ddollar is not hit.
#[test]
fn a_command_that_leaves_its_group() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let leaves =
        "use POSIX; $| = 1; setpgid(0, getpgrp(getppid)) or die; print \"READY $$\\n\"; sleep 60";
    let mut run = Setup::with(&provider)
        .options("--grace 30s")
        .headless(&["perl", "-e", leaves]);
    let first = run.pid_after("READY");
    assert_eq!(Standing::of(first).unwrap().group, run.pid().as_raw());
    provider.control(spent_at("org-1", "10m"));
    run.wait_out("READY", 2);
    assert!(proc::is_gone(first));
    run.signal(Signal::SIGTERM);
    assert_eq!(run.end(), 143, "{}", run.err());
    run.family.gone();
}

/// When the command ends by itself, the rest of its group is told to end, and nobody waits.
#[test]
fn c39_natural_exit_with_leftovers() {
    let mut run = Setup::new().options("--grace 10m").headless(&[
        "sh",
        "-c",
        "sigecho.pl & until grep -q READY out; do sleep 0.05; done",
    ]);
    let left = run.pid_after("READY");
    assert_eq!(run.end(), 0, "{}", run.err());
    run.wait_out("got TERM", 1);
    assert!(proc::is_running(left));
    // SIGCONT, which has the lower number, would be told before this one.
    kill(left, Signal::SIGWINCH).unwrap();
    run.wait_out("got WINCH", 1);
    // To know whether anything is stopped would take a process in the portable half, so it always follows.
    let is_continued = cfg!(feature = "portable");
    assert_eq!(
        run.out().contains("got CONT"),
        is_continued,
        "{}",
        run.out()
    );
}

/// What has left the group and the session stays after a natural end.
#[test]
#[cfg_attr(
    any(feature = "portable", not(target_os = "linux")),
    ignore = "the detached are not adopted and so not counted"
)]
fn c40_natural_exit_keeps_the_detached() {
    let setup = Setup::new();
    let log = setup.desk.join("ddollar.log");
    let mut run = setup
        .options(&format!("--log {}", log.display()))
        .headless(&["sh", "-c", "setsid sh -c 'echo READY $$; exec sleep 30' & until grep -q READY out; do sleep 0.05; done"]);
    assert_eq!(run.end(), 0, "{}", run.err());
    let detached = run.pid_after("READY");
    assert!(proc::is_running(detached));
    let logged = std::fs::read_to_string(&log).unwrap();
    assert!(logged.contains("1 process"), "{logged}");
}

/// A hundred orphans with short lives leave no zombie.
#[test]
fn c41_zombies() {
    let run = Setup::new().headless(&[
        "sh",
        "-c",
        "for i in $(seq 100); do (sleep 0.1 &); done; echo READY $$; exec sleep 60",
    ]);
    run.pid_after("READY");
    // What remains are the command and the watchdog.
    eventually("no orphan, alive or dead", || {
        (children_of(run.pid()) == 2).then_some(())
    });
}

/// How many children a process has, the dead among them.
fn children_of(parent: Pid) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter_map(|number| Standing::of(Pid::from_raw(number)))
        .filter(|process| process.parent == parent.as_raw())
        .count()
}

/// ddollar killed: the command gets TERM, and everything is gone after the grace, daemons too.
#[test]
fn c42_killed_while_running() {
    let mut run = Setup::new().options("--grace 1s").headless(&[
        "sh",
        "-c",
        "forker.pl 3 & daemon.pl & exec sigecho.pl",
    ]);
    run.wait_out("READY", 2);
    run.pid_after("DAEMON");
    run.signal(Signal::SIGKILL);
    assert_eq!(run.end(), 137);
    run.wait_out("got TERM", 1);
    run.family.gone_after(Duration::from_secs(1));

    let mut screen = Setup::new()
        .options("--grace 1s")
        .env("NO_COLOR", "1")
        .bash();
    let before = screen.stty();
    screen.line("$D sh -c 'forker.pl 3 & daemon.pl & exec stubborn.pl'");
    screen.wait("DAEMON ");
    screen.eventually("the command", |screen| {
        screen.text().contains("\nREADY ").then_some(())
    });
    kill(screen.supervisor(), Signal::SIGKILL).unwrap();
    assert_eq!(screen.prompt(), 137);
    assert_eq!(screen.stty(), before);
    let shell = screen.pid();
    screen.eventually("nothing left", |screen| {
        screen
            .family
            .living()
            .iter()
            .all(|member| member.pid == shell)
            .then_some(())
    });
    assert_eq!(screen.stty(), before);
    assert!(!screen.text().contains("\x1b["), "{:?}", screen.text());
    screen.leave();
}

/// ddollar killed over a paused command: nothing stays stopped, nothing stays.
#[test]
fn c43_killed_while_paused() {
    for fixture in ["sigecho.pl", "stubborn.pl"] {
        let provider = Provider::anthropic(&[0.1]);
        let mut run = Setup::with(&provider).options("--grace 1s").headless(&[
            "sh",
            "-c",
            &format!("daemon.pl & exec {fixture}"),
        ]);
        let child = run.pid_after("READY");
        run.pid_after("DAEMON");
        provider.control(spent_at("org-1", "10m"));
        eventually("the pause", || proc::is_stopped(child).then_some(()));
        run.signal(Signal::SIGKILL);
        assert_eq!(run.end(), 137);
        run.family.gone_after(Duration::from_secs(1));
    }
}

/// ddollar killed at any moment of a start: the command never runs without it.
#[test]
fn c44_killed_in_mid_start() {
    for round in 0..40_u64 {
        let setup = Setup::new().options("--grace 200ms");
        let mut run = setup.headless(&["sigecho.pl"]);
        // Not to wait for something, but to hit each moment of a start.
        std::thread::sleep(Duration::from_micros(round * 1013 % 40_000));
        run.signal(Signal::SIGKILL);
        run.end();
        run.family.gone_after(Duration::from_millis(200));
    }
}

/// Rotations do not end a child by the death of the thread that started it.
#[test]
fn c45_spawning_thread() {
    let provider = Provider::anthropic(&[0.1, 0.1, 0.1, 0.1]);
    let run = Setup::with(&provider).headless(&["sigecho.pl", "-1"]);
    for token in 1..4 {
        run.wait_out("READY", token);
        provider.control(spent_at(&format!("org-{token}"), "10m"));
    }
    let last = run.wait_out("READY", 4).remove(3);
    let last = Pid::from_raw(last.split(' ').nth(1).unwrap().parse().unwrap());
    // The monitor's thread has been asked for other tokens since; the child's parent is main.
    for _ in 0..3 {
        kill(last, Signal::SIGUSR1).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(proc::is_running(last));
    }
    assert_eq!(lines_with(&run.out(), "got TERM").len(), 3, "{}", run.out());
    assert_eq!(Standing::of(last).unwrap().parent, run.pid().as_raw());
}

/// A command that ends with 0 in the moment of the rotation order: its end is handed on or it is
/// started again, but two never run, and nobody else is hit.
#[test]
fn c60_rotation_race() {
    const LANES: u64 = 4;
    const ROUNDS: u64 = 25;
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            std::thread::spawn(move || (0..ROUNDS).for_each(|round| race(lane * ROUNDS + round)))
        })
        .collect();
    for lane in lanes {
        lane.join().unwrap();
    }
}

fn race(round: u64) {
    // The first instance ends a little before or after the order; the second ends at once.
    let script = "echo START $$; if mkdir first 2>/dev/null; then \
                  until [ -e go ]; do sleep 0.01; done; fi; echo END $$; exit 0";
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = Setup::with(&provider)
        .options("--interval 100ms")
        .headless(&["sh", "-c", script]);
    run.pid_after("START");
    provider.control(spent_at("org-1", "10m"));
    std::thread::sleep(Duration::from_millis(round * 37 % 260));
    std::fs::write(run.desk.join("go"), "").unwrap();
    assert_eq!(run.end(), 0, "{}", run.err());
    let out = run.out();
    let (starts, ends) = (
        lines_with(&out, "START").len(),
        lines_with(&out, "END").len(),
    );
    let err = run.err();
    match starts {
        1 => assert!(!err.contains("Launching: sh\n") && ends == 1, "{out}{err}"),
        2 => {
            assert_eq!(
                err.matches("Switched to token 2/2").count(),
                1,
                "{out}{err}"
            );
            assert!(
                out.trim_end().lines().last().unwrap().starts_with("END"),
                "{out}{err}"
            );
        }
        _ => panic!("{starts} starts: {out}{err}"),
    }
    run.family.gone();
}
