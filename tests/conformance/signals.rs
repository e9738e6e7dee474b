//! Signals: who gets which, and how often.

use crate::support::env::works;
use crate::support::proc;
use crate::support::pty::{CTRL_BACKSLASH, CTRL_C, Headless, Screen, Setup, lines_with};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// Inherited dispositions and mask reach the command; SIGPIPE is not ignored there.
#[test]
fn c08_signal_configuration() {
    let setup = Setup::new();
    let mut command = setup.command("sh");
    command.args([
        "-c",
        "cat /proc/self/status >before
        exec sigconf.pl ignore=USR2,TTOU block=USR1,TTIN -- $D cat /proc/self/status",
    ]);
    let mut run = setup.headless_command(command);
    assert_eq!(run.end(), 0, "{}", run.err());
    let before = std::fs::read_to_string(run.desk.join("before")).unwrap();
    configuration_is_kept(&before, &run.out());

    let mut screen = Setup::new().bash();
    let line = "cat /proc/self/status >before; sigconf.pl ignore=USR2,TTOU block=USR1,TTIN -- $D cat /proc/self/status >out";
    assert_eq!(screen.run(line), 0);
    let text = |name| std::fs::read_to_string(screen.desk.join(name)).unwrap();
    configuration_is_kept(&text("before"), &text("out"));
}

fn configuration_is_kept(before: &str, status: &str) {
    let mask_in = |status: &str, name: &str| {
        let line = lines_with(status, name).remove(0);
        u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    let mask = |name: &str| mask_in(status, name);
    let bit = |signal: Signal| 1_u64 << (signal as i32 - 1);
    let (ignored, blocked) = (mask("SigIgn:"), mask("SigBlk:"));
    assert_ne!(ignored & bit(Signal::SIGUSR2), 0, "{ignored:x}");
    assert_ne!(ignored & bit(Signal::SIGTTOU), 0, "{ignored:x}");
    assert_eq!(ignored & bit(Signal::SIGPIPE), 0, "{ignored:x}");
    // 32 and 33 are the C library's own, which it leaves ignored where it starts a process: as the caller
    // had them.
    let own = |ignored: u64| ignored >> 31 & 0b11;
    assert_eq!(own(ignored), own(mask_in(before, "SigIgn:")), "{ignored:x}");
    assert_eq!(
        blocked,
        bit(Signal::SIGUSR1) | bit(Signal::SIGTTIN),
        "{blocked:x}"
    );
}

/// With `nohup`, HUP reaches nobody, also after the shell and its terminal are gone.
#[test]
fn c09_nohup() {
    let mut screen = Setup::new().options("--grace 300ms").bash();
    screen.line("SIGLOG=$LOG nohup $D sigecho.pl >/dev/null 2>&1 &");
    screen.prompt();
    let child = pid_in(&screen.wait_log("READY", 1)[0]);
    let ddollar = screen.supervisor();
    screen.line("exit 0");
    assert_eq!(screen.end(), 0);
    screen.hang_up();
    kill(ddollar, Signal::SIGHUP).unwrap();
    kill(child, Signal::SIGHUP).unwrap();
    kill(ddollar, Signal::SIGUSR1).unwrap();
    screen.wait_log("got USR1", 1);
    assert!(!screen.log().contains("HUP"), "{}", screen.log());
    assert_ne!(proc::status(child, "SigIgn", 16) & 1, 0);
    kill(ddollar, Signal::SIGTERM).unwrap();
    screen.family.gone_after(Duration::from_millis(300));
}

/// The same where there never was a terminal.
#[test]
fn c09_nohup_without_a_terminal() {
    let setup = Setup::new().options("--grace 300ms");
    let mut command = setup.command("sh");
    command.args(["-c", "exec nohup $D sigecho.pl"]);
    let run = setup.headless_command(command);
    let child = run.pid_after("READY");
    run.signal(Signal::SIGHUP);
    kill(child, Signal::SIGHUP).unwrap();
    run.signal(Signal::SIGUSR1);
    run.wait_out("got USR1", 1);
    assert!(!run.out().contains("HUP"), "{}", run.out());
    run.signal(Signal::SIGTERM);
    run.family.gone_after(Duration::from_millis(300));
}

fn pid_in(line: &str) -> Pid {
    Pid::from_raw(line.split_whitespace().nth(1).unwrap().parse().unwrap())
}

/// Forwarded while the command runs, in this order.
const FORWARDED: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
    Signal::SIGCONT,
];

/// Each catchable signal reaches the command once; SIGCHLD does not; TERM and HUP start the grace.
#[test]
fn c12_every_forwarded_signal() {
    for last in [Signal::SIGTERM, Signal::SIGHUP] {
        let mut run = Setup::new()
            .options("--grace 500ms")
            .headless(&["sigecho.pl"]);
        run.pid_after("READY");
        for _ in 0..5 {
            run.signal(Signal::SIGCHLD);
        }
        for signal in FORWARDED {
            run.signal(signal);
            run.wait_out(&format!("got {}", name(signal)), 1);
        }
        let began = Instant::now();
        run.signal(last);
        run.wait_out(&format!("got {}", name(last)), 1);
        assert_eq!(run.end(), 137, "{}", run.err());
        assert!(
            began.elapsed() >= Duration::from_millis(450),
            "{:?}",
            began.elapsed()
        );
        heard_in_order(&lines_with(&run.out(), "got "), last);
        run.family.gone();
    }
}

/// So is every signal that ends a program and tells of no fault; SIGCONT does not follow the one to end
/// where nothing is stopped.
#[test]
fn rare_signals_are_forwarded() {
    let mut rare = vec![
        Signal::SIGXCPU,
        Signal::SIGXFSZ,
        Signal::SIGVTALRM,
        Signal::SIGPROF,
        Signal::SIGIO,
    ];
    rare.extend([Signal::SIGPWR]);
    let script = "$| = 1; for my $n (qw(XCPU XFSZ VTALRM PROF IO PWR CONT)) \
                  { $SIG{$n} = sub { print \"got $n\\n\" } } \
                  $SIG{TERM} = sub { print \"got TERM\\n\"; select undef, undef, undef, 0.2; exit 0 }; \
                  print \"READY $$\\n\"; while (1) { select undef, undef, undef, 60 }";
    let mut run = Setup::new().headless(&["perl", "-e", script]);
    run.pid_after("READY");
    for signal in rare {
        run.signal(signal);
        run.wait_out(&format!("got {}", name(signal)), 1);
    }
    run.signal(Signal::SIGTERM);
    assert_eq!(run.end(), 0, "{}", run.err());
    // To know whether anything is stopped would take a process in the portable half, so SIGCONT always
    // follows, if it still finds anybody.
    let most = usize::from(cfg!(feature = "portable"));
    let seen = lines_with(&run.out(), "got CONT").len();
    assert!(seen <= most, "{}", run.out());
    run.family.gone();
}

/// Real-time signals, too, which have numbers only.
#[test]
#[cfg_attr(feature = "portable", ignore = "macOS has none")]
fn real_time_signals_are_forwarded() {
    let script = "$| = 1; $SIG{$_} = sub { print \"got $_[0]\\n\" } for qw(NUM40 RTMAX); \
                  print \"READY $$\\n\"; while (1) { select undef, undef, undef, 0.1 }";
    let mut run = Setup::new().headless(&["perl", "-e", script]);
    run.pid_after("READY");
    for (times, number) in [40, 64].into_iter().enumerate() {
        let sent = works("kill", &[&format!("-{number}"), &run.pid().to_string()]);
        assert!(sent, "{number}");
        run.wait_out("got ", times + 1);
    }
    run.signal(Signal::SIGTERM);
    assert_eq!(run.end(), 143, "{}", run.err());
    run.family.gone();
}

/// SIGUSR1 and its like are for the command alone: its children, which may not expect them, live on.
#[test]
fn some_signals_are_for_the_command_alone() {
    let script = "trap 'echo got USR1' USR1; sleep 60.5 & echo READY $!; \
                  while :; do wait; done";
    let mut run = Setup::new().headless(&["sh", "-c", script]);
    let other = run.pid_after("READY");
    for round in 1..4 {
        run.signal(Signal::SIGUSR1);
        run.wait_out("got USR1", round);
    }
    assert!(proc::is_running(other));
    run.signal(Signal::SIGTERM);
    assert_eq!(run.end(), 143, "{}", run.err());
    run.family.gone();
}

/// ddollar's memory is full of tokens, so it leaves no core file; the command's limit is the caller's.
#[test]
fn no_core_file_of_ddollar() {
    let setup = Setup::new();
    let mut command = setup.command("sh");
    command.args([
        "-c",
        "ulimit -c 1024; exec $D sh -c 'echo READY $$; exec sleep 60'",
    ]);
    let mut run = setup.headless_command(command);
    let child = run.pid_after("READY");
    let limit = |pid: Pid| {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = lines_with(&limits, "Max core file size").remove(0);
        line.split_whitespace().nth(4).unwrap().to_owned()
    };
    assert_eq!(limit(run.pid()), "1");
    // The shell counts in blocks of 512 bytes, or of 1024.
    assert!(["524288", "1048576"].contains(&limit(child).as_str()));
    run.signal(Signal::SIGTERM);
    assert_eq!(run.end(), 143, "{}", run.err());
}

/// The same in a terminal.
#[test]
fn c12_every_forwarded_signal_in_a_terminal() {
    for last in [Signal::SIGTERM, Signal::SIGHUP] {
        let setup = Setup::new().options("--grace 500ms");
        let log = setup.desk.join("log");
        let mut screen = setup.env("SIGLOG", log.to_str().unwrap()).bash();
        screen.line("$D sigecho.pl");
        screen.wait_log("READY", 1);
        let ddollar = screen.supervisor();
        for _ in 0..5 {
            kill(ddollar, Signal::SIGCHLD).unwrap();
        }
        for signal in FORWARDED {
            kill(ddollar, signal).unwrap();
            screen.wait_log(&format!("got {}", name(signal)), 1);
        }
        kill(ddollar, last).unwrap();
        screen.wait_log(&format!("got {}", name(last)), 1);
        assert_eq!(screen.prompt(), 137);
        heard_in_order(&lines_with(&screen.log(), "got "), last);
        screen.leave();
    }
}

fn name(signal: Signal) -> &'static str {
    signal.as_str().trim_start_matches("SIG")
}

/// Each once and in order. SIGCONT goes with TERM and HUP, and a redraw may go with SIGCONT.
fn heard_in_order(heard: &[String], last: Signal) {
    assert!(!heard.iter().any(|line| line == "got CHLD"), "{heard:?}");
    let mut expected = FORWARDED.to_vec();
    expected.push(last);
    let mut place = 0;
    for signal in expected {
        let line = format!("got {}", name(signal));
        let found = heard[place..].iter().position(|l| *l == line);
        place += found.unwrap_or_else(|| panic!("{line} in {heard:?}")) + 1;
        let times = heard.iter().filter(|l| **l == line).count();
        let redrawn = matches!(signal, Signal::SIGCONT | Signal::SIGWINCH);
        assert!(times == 1 || redrawn && times == 2, "{line} in {heard:?}");
    }
}

/// systemd, as a unit's `KillMode` is by default, and `pkill -u` tell every process: the command does not hear
/// it a second time from ddollar. Many programs take that for an order to end at once.
#[test]
#[cfg_attr(
    any(feature = "portable", not(target_os = "linux")),
    ignore = "nobody tells what is pending"
)]
fn term_for_all_is_one_for_the_command() {
    for _ in 0..5 {
        let mut run = Setup::new()
            .options("--grace 400ms")
            .headless(&["sigecho.pl"]);
        run.wait_out("READY", 1);
        let all = run.family.living();
        assert!(all.len() >= 3, "{all:?}");
        for process in all {
            kill(process.pid, Signal::SIGTERM).unwrap();
        }
        run.end();
        assert_eq!(lines_with(&run.out(), "got TERM").len(), 1, "{}", run.out());
    }
}

/// TERM reaches the whole group.
#[test]
fn c13_to_the_group() {
    let mut run = Setup::new().headless(&["sh", "-c", "forker.pl 3; wait"]);
    let line = run.wait_out("READY", 1).remove(0);
    assert_eq!(line.split_whitespace().count(), 5, "{line}");
    run.signal(Signal::SIGTERM);
    assert_eq!(run.end(), 143, "{}", run.err());
    for pid in line.split_whitespace().skip(1) {
        assert!(
            proc::is_gone(Pid::from_raw(pid.parse().unwrap())),
            "{pid} of {line}"
        );
    }
    run.family.gone();

    let mut screen = Setup::new().bash();
    screen.line("$D sh -c 'forker.pl 3; wait'");
    screen.wait("READY");
    kill(screen.supervisor(), Signal::SIGTERM).unwrap();
    assert_eq!(screen.prompt(), 143);
    screen.leave();
}

/// One Ctrl-C is one SIGINT.
#[test]
fn c18_ctrl_c_once() {
    let mut screen = Setup::new().options("--grace 300ms").bash();
    screen.line("SIGLOG=$LOG $D sigecho.pl");
    let child = pid_in(&screen.wait_log("READY", 1)[0]);
    screen.keys(CTRL_C);
    screen.wait_log("got INT", 1);
    kill(child, Signal::SIGUSR1).unwrap();
    screen.wait_log("got USR1", 1);
    assert_eq!(screen.wait_log("got INT", 1).len(), 1, "{}", screen.log());
    kill(screen.supervisor(), Signal::SIGTERM).unwrap();
    assert_eq!(screen.prompt(), 137);
    screen.leave();
}

/// SIGINT for ddollar is one SIGINT for a command without a terminal, and ends nothing by itself.
#[test]
fn c18_sigint_once_without_a_terminal() {
    let run = Setup::new()
        .options("--grace 300ms")
        .headless(&["sigecho.pl"]);
    run.pid_after("READY");
    run.signal(Signal::SIGINT);
    run.wait_out("got INT", 1);
    run.signal(Signal::SIGUSR1);
    run.wait_out("got USR1", 1);
    assert_eq!(lines_with(&run.out(), "got INT").len(), 1, "{}", run.out());
}

/// Ctrl-C ends a loop of the shell, because ddollar dies by SIGINT as its command did.
#[test]
fn c19_ctrl_c_ends_the_loop() {
    let mut screen = Setup::new().bash();
    screen.line("for i in 1 2 3; do echo it.$i; $D sleep 9; done");
    screen.wait("it.1");
    let front = foreground_sleep(&mut screen);
    assert_eq!(screen.interrupt(CTRL_C), 130);
    assert!(proc::is_gone(front));
    assert!(!screen.text().contains("it.2"), "{}", screen.text());
    screen.leave();
}

/// Waits until `sleep` has the terminal.
fn foreground_sleep(screen: &mut Screen) -> Pid {
    screen.eventually("sleep in the foreground", |screen| {
        let front = screen.foreground();
        let words = proc::command_line(front);
        (words.first().map(String::as_str) == Some("sleep")).then_some(front)
    })
}

/// Ctrl-\ ends it with 131, and one core file at most.
#[test]
fn c20_ctrl_backslash() {
    let mut screen = Setup::new().bash();
    screen.run("ulimit -c unlimited");
    screen.line("$D sleep 60");
    foreground_sleep(&mut screen);
    assert_eq!(screen.interrupt(CTRL_BACKSLASH), 131);
    let files = std::fs::read_dir(screen.desk.path()).unwrap().flatten();
    let cores = files.filter(|file| file.file_name().to_string_lossy().starts_with("core"));
    assert!(cores.count() <= 1);
    screen.leave();

    let mut run = Setup::new().headless(&["sh", "-c", "echo READY $$; exec sleep 60"]);
    run.pid_after("READY");
    run.signal(Signal::SIGQUIT);
    assert_eq!(run.end(), 131);
}

/// A resize reaches a full-screen program once, by the kernel.
#[test]
fn c32_window_size() {
    let mut screen = Setup::new().bash();
    screen.line("$D tui.pl");
    screen.wait_log("RAW", 1);
    screen.resize(40, 100);
    assert_eq!(screen.wait_log("WINCH", 1), ["WINCH 40 100"]);
    screen.resize(41, 101);
    assert_eq!(screen.wait_log("WINCH", 2)[1], "WINCH 41 101");
    screen.keys("x");
    screen.wait_log("KEY 78", 1);
    assert_eq!(
        lines_with(&screen.log(), "WINCH").len(),
        2,
        "{}",
        screen.log()
    );
    screen.keys("q");
    assert_eq!(screen.prompt(), 0);
    screen.leave();
}

/// A terminal that closes is a HUP for the command, and the end of everything after the grace.
#[test]
fn c33_terminal_closed() {
    for shell in [true, false] {
        let setup = Setup::new().options("--grace 1s");
        let log = setup.desk.join("log");
        let setup = setup.env("SIGLOG", log.to_str().unwrap());
        let mut screen = if shell {
            let mut screen = setup.bash();
            screen.line("$D sigecho.pl");
            screen
        } else {
            setup.leader(&["sigecho.pl"])
        };
        screen.wait_log("READY", 1);
        screen.hang_up();
        screen.wait_log("got HUP", 1);
        screen.family.gone_after(Duration::from_secs(1));
    }
}

/// A reader that goes away ends a writer at once, by SIGPIPE.
#[test]
fn c59_sigpipe() {
    let line = "$D yes | head -1; echo status ${PIPESTATUS[0]}.";
    let mut screen = Setup::new().bash();
    screen.line(line);
    screen.wait("status 141.");
    screen.leave();

    let setup = Setup::new();
    let mut command = setup.command("bash");
    command.args(["-c", line]);
    let mut run: Headless = setup.headless_command(command);
    assert_eq!(run.end(), 0);
    assert!(run.out().contains("status 141."), "{}", run.out());
}
