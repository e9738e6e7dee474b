//! ddollar is killed by SIGKILL, which it cannot see coming, at any moment: nothing stays behind,
//! and the terminal is as it was. Two hundred times over all tests here.

use crate::support::pty::{Screen, Setup};
use crate::support::{Provider, eventually, spent_at};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// So many rounds are under way at one time, and each lane has so many.
const LANES: u64 = 10;
const ROUNDS: u64 = 4;
const GRACE: Duration = Duration::from_millis(500);

/// The command: a full-screen program, a process beside it, a daemon that is deaf to TERM.
const TREE: &str = "daemon.pl & forker.pl 1 & exec tui.pl";

/// Forty rounds of starting, waiting for a moment, and killing.
fn rounds(tokens: usize, options: &'static str, moment: fn(u64, &mut Screen, &Provider)) {
    // One kind at a time, or the machine is too busy for the time that they have.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            thread::spawn(move || {
                for number in lane * ROUNDS..(lane + 1) * ROUNDS {
                    let provider = Provider::anthropic(&vec![0.1; tokens]);
                    round(number, &provider, options, moment);
                }
            })
        })
        .collect();
    let failed = lanes
        .into_iter()
        .filter_map(|lane| lane.join().err())
        .count();
    assert_eq!(failed, 0, "lanes failed");
}

fn round(number: u64, provider: &Provider, options: &str, moment: fn(u64, &mut Screen, &Provider)) {
    let setup = Setup::with(provider)
        .options(&format!("--grace {}ms", GRACE.as_millis()))
        .options(options)
        .env("TREE", TREE);
    // Some programs do not put the terminal right when they are told to end.
    let setup = if number % 4 < 2 {
        setup
    } else {
        setup.env("DEAF", "TERM")
    };
    // And not always is there a shell that does.
    let has_shell = number.is_multiple_of(2);
    let mut screen = if has_shell {
        let mut screen = setup.bash();
        screen.stty();
        screen.line("$D sh -c \"$TREE\"");
        screen
    } else {
        let mut holder = setup.command("sh");
        holder.args(["-c", "read go; $D sh -c \"$TREE\"; exec sleep 600"]);
        setup.screen(holder)
    };
    let before = screen.usual();
    if !has_shell {
        screen.line("");
    }
    let ddollar = screen.supervisor();
    moment(number, &mut screen, provider);
    kill(ddollar, Signal::SIGKILL).unwrap();
    let root = screen.pid();
    if has_shell {
        assert_eq!(screen.prompt(), 137, "round {number}");
    }
    screen.only_left_after(root, GRACE);
    if has_shell {
        screen.stty();
    }
    assert_eq!(screen.usual(), before, "round {number}: {}", screen.text());
}

/// Waits for another time in each round, up to `most` milliseconds. Not for something to happen, but
/// to hit each moment of what is happening.
fn some_time(number: u64, most: u64) {
    thread::sleep(Duration::from_micros(
        number * 617 % 1009 * most * 1000 / 1009,
    ));
}

/// While it starts.
#[test]
fn killed_while_starting() {
    rounds(1, "", |number, _, _| some_time(number, 60));
}

/// While the command runs.
#[test]
fn killed_while_running() {
    rounds(1, "", |number, screen, _| {
        screen.wait_log("RAW", 1);
        some_time(number, 100);
    });
}

/// After its watchdog, which was replaced.
#[test]
fn killed_after_its_watchdog() {
    let provider = Provider::anthropic(&[0.1]);
    let options = format!("--grace {}ms", GRACE.as_millis());
    let mut screen = Setup::with(&provider).options(&options).bash();
    screen.line("$D sh -c 'daemon.pl & forker.pl 1 & wait'");
    screen.wait("DAEMON");
    let watchdog = |screen: &mut Screen, other_than: Option<Pid>| {
        screen.eventually("a watchdog", |screen| {
            let watchdogs = screen.family.with_word("__watch");
            watchdogs.into_iter().find(|pid| Some(*pid) != other_than)
        })
    };
    let first = watchdog(&mut screen, None);
    kill(first, Signal::SIGKILL).unwrap();
    watchdog(&mut screen, Some(first));
    kill(screen.supervisor(), Signal::SIGKILL).unwrap();
    assert_eq!(screen.prompt(), 137);
    let root = screen.pid();
    screen.only_left_after(root, GRACE);
}

/// Many programs take a second SIGTERM for an order to end at once, and lose what they were saving.
#[test]
fn a_kill_is_one_end_signal() {
    for _ in 0..5 {
        let provider = Provider::anthropic(&[0.1]);
        let setup = Setup::with(&provider).options("--grace 300ms");
        let log = setup.desk().join("heard");
        let setup = setup.env("SIGLOG", log.to_str().unwrap());
        let run = setup.headless(&["sigecho.pl"]);
        let heard = |what: &str| {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.lines().filter(|line| line.starts_with(what)).count()
        };
        eventually("the command", || (heard("READY") == 1).then_some(()));
        run.signal(Signal::SIGKILL);
        run.family.gone_after(Duration::from_millis(300));
        assert_eq!(heard("got TERM"), 1);
    }
}

/// What kills one watchdog after the other is not fed for ever, and the run goes on without.
#[test]
fn watchdogs_are_replaced_a_few_times() {
    let provider = Provider::anthropic(&[0.1]);
    let mut run = Setup::with(&provider).headless(&["sh", "-c", "echo READY; sleep 600"]);
    run.wait_out("READY", 1);
    let mut killed = Vec::new();
    eventually("an end of the watchdogs", || {
        for watchdog in run.family.with_word("__watch") {
            if !killed.contains(&watchdog) && kill(watchdog, Signal::SIGKILL).is_ok() {
                killed.push(watchdog);
            }
        }
        run.err().contains("No watchdog").then_some(())
    });
    assert_eq!(killed.len(), 8, "{}", run.err());
    run.signal(Signal::SIGTERM);
    assert_eq!(run.end(), 128 + Signal::SIGTERM as i32, "{}", run.err());
}

/// While it moves to the next token.
#[test]
fn killed_while_rotating() {
    rounds(2, "", |number, screen, provider| {
        screen.wait_log("RAW", 1);
        provider.control(spent_at("org-1", "10m"));
        some_time(number, 1500);
    });
}

/// While every token is spent.
#[test]
fn killed_while_pausing() {
    rounds(1, "", |number, screen, provider| {
        screen.wait_log("RAW", 1);
        let child = screen.pid_after("TUI-READY ");
        provider.control(spent_at("org-1", "10m"));
        screen.wait_state(child, "T");
        some_time(number, 300);
    });
}

/// While the question is open, and right after the answer.
#[test]
fn killed_while_prompting() {
    rounds(2, "--interactive", |number, screen, provider| {
        screen.wait_log("RAW", 1);
        provider.control(spent_at("org-1", "10m"));
        screen.wait("Choice [1]: ");
        if number % 3 == 0 {
            screen.line("1");
        }
        some_time(number, 200);
    });
}
