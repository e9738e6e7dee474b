//! C56 and C58: PID 1, a child of PID 1, and a command with more rights than ddollar.

use crate::support::env::{PROGRAM, works};
use crate::support::pty::{CTRL_C, FIXTURES, Screen, Setup, skipped};
use crate::support::{Provider, eventually, proc, spent_at};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

/// Whether a PID namespace can be made here.
fn can_unshare() -> bool {
    works(
        "unshare",
        &["-Upf", "--map-root-user", "--mount-proc", "true"],
    )
}

/// `unshare … sh -c script` without a terminal: the status.
fn in_namespace(script: &str) -> (i32, String) {
    let setup = Setup::new();
    let mut command = setup.command("unshare");
    command.args([
        "-Upf",
        "--map-root-user",
        "--mount-proc",
        "sh",
        "-c",
        script,
    ]);
    let mut run = setup.headless_command(command);
    let code = run.end();
    (code, format!("{}{}", run.out(), run.err()))
}

/// As PID 1: the same codes, 128 + n for a signal and never 139.
#[test]
fn c56_pid_1_codes() {
    if !can_unshare() {
        return skipped("C56", "no user and PID namespace");
    }
    for (command, code) in [
        ("true", 0),
        ("sh -c 'exit 7'", 7),
        ("sh -c 'kill -TERM $$'", 143),
        ("sh -c 'kill -INT $$'", 130),
        ("sh -c 'kill -KILL $$'", 137),
        ("sh -c 'kill -40 $$'", 168),
        ("nosuchcmd", 127),
        ("/etc/passwd", 126),
    ] {
        let (found, said) = in_namespace(&format!("exec $D {command}"));
        assert_eq!(found, code, "{command}: {said}");
    }
}

/// As PID 1: signals are forwarded, and orphans leave no zombie.
#[test]
fn c56_pid_1_signals_and_zombies() {
    if !can_unshare() {
        return skipped("C56", "no user and PID namespace");
    }
    let setup = Setup::new().options("--grace 300ms");
    let mut command = setup.command("unshare");
    let inner = "for i in $(seq 20); do (sleep 0.1 &); done; exec sigecho.pl -1";
    let script = format!("exec $D sh -c '{inner}'");
    command.args([
        "-Upf",
        "--map-root-user",
        "--mount-proc",
        "sh",
        "-c",
        &script,
    ]);
    let mut run = setup.headless_command(command);
    run.wait_out("READY", 1);
    let ddollar = eventually("ddollar", || run.family.supervisors().first().copied());
    assert_eq!(proc::status(ddollar, "NSpid", 10), ddollar.as_raw() as u64);
    for (signal, name) in [
        (Signal::SIGINT, "INT"),
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGHUP, "HUP"),
    ] {
        kill(ddollar, signal).unwrap();
        run.wait_out(&format!("got {name}"), 1);
    }
    assert_eq!(run.end(), 0, "{}", run.err());
    run.family.gone();
}

/// As PID 1 the zombies of orphans are reaped.
#[test]
#[cfg_attr(
    any(feature = "portable", not(target_os = "linux")),
    ignore = "PID 1 is never ddollar where this is built"
)]
fn c56_pid_1_reaps() {
    if !can_unshare() {
        return skipped("C56", "no user and PID namespace");
    }
    // A zombie still has its name.
    let inner = "for i in $(seq 20); do (sleep 0.1 &); done; sleep 1; \
                 while grep -lx \"Name:.sleep\" /proc/[0-9]*/status; do sleep 0.1; done; echo none";
    let (code, said) = in_namespace(&format!("exec $D sh -c '{inner}'"));
    assert_eq!(code, 0, "{said}");
    assert!(said.lines().any(|line| line == "none"), "{said}");
}

/// What comes to PID 1 and was never below the command is not ended with it: a daemon of the entrypoint.
/// A daemon of the command's own is. The same holds for a ddollar that had children before.
#[test]
#[cfg_attr(feature = "portable", ignore = "nothing is adopted")]
fn rotation_spares_bystanders() {
    for box_of_its_own in [true, false] {
        if box_of_its_own && !can_unshare() {
            skipped("PID 1", "no user and PID namespace");
            continue;
        }
        let provider = Provider::anthropic(&[0.1, 0.1]);
        let setup = Setup::with(&provider).options("--grace 500ms");
        // A child that is there before ddollar leaves an orphan while the command runs.
        let script = "sh -c 'until [ -e go ]; do sleep 0.02; done; (setsid sleep 61.5 &)' & \
                      exec $D sh -c 'setsid sleep 62.5 & echo READY; exec sleep 63.5'";
        let mut command = setup.command(if box_of_its_own { "unshare" } else { "sh" });
        if box_of_its_own {
            command.args(["-Upf", "--map-root-user", "--mount-proc", "sh"]);
        }
        command.args(["-c", script]);
        let mut run = setup.headless_command(command);
        let one = |word: &str| match run.family.with_word(word)[..] {
            [pid] => Some(pid),
            _ => None,
        };
        run.wait_out("READY", 1);
        let own = eventually("the command's daemon", || one("62.5"));
        std::fs::write(run.desk.join("go"), "").unwrap();
        let bystander = eventually("the bystander", || one("61.5"));
        eventually("the bystander's adoption", || {
            let process = proc::Process::of(bystander)?;
            let parent = proc::command_line(Pid::from_raw(process.parent));
            (parent.get(1)? == "supervise").then_some(())
        });
        provider.control(spent_at("org-1", "10m"));
        run.wait_out("READY", 2);
        assert!(proc::is_gone(own));
        assert!(proc::is_running(bystander));
        let ddollar = run.family.supervisors()[0];
        kill(ddollar, Signal::SIGTERM).unwrap();
        assert_eq!(run.end(), 143, "{}", run.err());
        // PID 1 takes all others with it.
        assert_eq!(proc::is_running(bystander), !box_of_its_own);
    }
}

/// A PID namespace with the outer one's /proc, as in sandboxes that may not mount their own: its numbers
/// mean other processes there. An orphan, a rotation and a kill do as they should, and it is said once.
#[test]
#[cfg_attr(feature = "portable", ignore = "/proc is not read")]
fn foreign_proc() {
    if !can_unshare() {
        return skipped("a foreign /proc", "no user and PID namespace");
    }
    let start = |setup: Setup, script: &str| {
        let mut command = setup.command("unshare");
        command.args(["-Upf", "--map-root-user", "sh", "-c", script]);
        setup.headless_command(command)
    };
    let mut run = start(Setup::new(), "exec $D sh -c '(true &); sleep 1; exit 5'");
    assert_eq!(run.end(), 5, "{}", run.err());
    let said = run.err();
    assert_eq!(said.matches("another PID namespace").count(), 1, "{said}");

    let provider = Provider::anthropic(&[0.1, 0.1]);
    let words = "daemon.pl & mkdir first 2>/dev/null || exit 7; echo READY; exec sleep 60";
    let setup = Setup::with(&provider).options("--grace 500ms");
    let mut run = start(setup, &format!("exec $D sh -c '{words}'"));
    run.wait_out("DAEMON", 1);
    run.wait_out("READY", 1);
    provider.control(spent_at("org-1", "10m"));
    assert_eq!(run.end(), 7, "{}", run.err());

    // The namespace outlives ddollar here, so that nobody but the watchdog ends anything.
    let script = "$D sh -c 'setsid sleep 61.7 & echo READY; exec stubborn.pl'; sleep 62.7";
    let run = start(Setup::new().options("--grace 300ms"), script);
    run.wait_out("READY", 2);
    let strays = || run.family.with_word("61.7");
    eventually("the stray", || (!strays().is_empty()).then_some(()));
    kill(run.family.supervisors()[0], Signal::SIGKILL).unwrap();
    eventually("the end of all", || {
        let stubborn = run.family.with_word(&format!("{FIXTURES}/stubborn.pl"));
        (strays().is_empty() && stubborn.is_empty()).then_some(())
    });
    assert!(!run.family.with_word("62.7").is_empty());
}

/// Without /proc, as in a chroot: the command runs generic, behind the proxy and as a known client. That
/// tokens cannot be hidden there is said.
#[test]
#[cfg_attr(feature = "portable", ignore = "/proc is not read")]
fn no_proc() {
    let hide = "mount -t tmpfs none /proc";
    if !works("unshare", &["-Um", "--map-root-user", "sh", "-c", hide]) {
        return skipped("no /proc", "no user and mount namespace");
    }
    for (options, name, hides) in [
        ("", "generic", false),
        ("--proxy", "generic", true),
        ("", "claude", true),
    ] {
        let provider = Provider::anthropic(&[0.1, 0.1]);
        let setup = Setup::with(&provider).options(options);
        let mut command = setup.command("unshare");
        let program = setup.desk.write(name, "#!/bin/sh\necho works; exit 5\n");
        std::fs::set_permissions(program, Permissions::from_mode(0o700)).unwrap();
        let script = format!("{hide} && exec $D ./{name} -p x");
        command.args(["-Um", "--map-root-user", "sh", "-c", &script]);
        let mut run = setup.headless_command(command);
        assert_eq!(run.end(), 5, "{options} {name}: {}", run.err());
        assert_eq!(run.out(), "works\n");
        let said = run.err().contains("tokens stay in ddollar's environment");
        assert_eq!(said, hides, "{options} {name}: {}", run.err());
    }
}

/// As a child of PID 1.
#[test]
fn c56_child_of_pid_1() {
    if !can_unshare() {
        return skipped("C56", "no user and PID namespace");
    }
    let (code, said) = in_namespace("$D true; exit $?");
    assert_eq!(code, 0, "{said}");
    let (code, said) = in_namespace("$D sh -c 'exit 9'; exit $?");
    assert_eq!(code, 9, "{said}");
}

/// A command that the kernel ends for want of memory is started again with `--retries`, and the report names
/// the likely cause. The kernel's counter is a file here, which the command writes itself.
#[test]
#[cfg_attr(feature = "portable", ignore = "macOS has no control groups")]
fn a_kill_for_want_of_memory_is_named_and_tried_again() {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if !can_unshare() || !groups.lines().any(|line| line.starts_with("0::")) {
        return skipped("memory", "no user and PID namespace, or no control groups");
    }
    let run = |kernel_says: &str| {
        in_namespace(&format!(
            "export G=/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/memory.events; \
             mount -t tmpfs none /sys/fs/cgroup; mkdir -p ${{G%/*}}; echo 'oom_kill 3' >$G; \
             $DDOLLAR supervise --retries 1 -- sh -c 'mkdir first || exit 5; {kernel_says}; kill -9 $$'; \
             echo ended $?; $DDOLLAR report"
        ))
    };
    let (code, said) = run("echo oom_kill 4 >$G");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("ended 5"), "{said}");
    let named = said.matches("Process was killed (out of memory?)").count();
    assert_eq!(named, 2, "on the screen and in the report: {said}");
    // Somebody else has sent the signal.
    let (_, said) = run("true");
    assert!(said.contains("Process was killed by SIGKILL"), "{said}");
    assert!(!said.contains("memory?"), "{said}");
}

/// A command with more rights than ddollar: TERM and Ctrl-C end it by way of sudo, without spinning.
#[test]
fn c58_sudo_child() {
    // The program may lie where only root can go.
    let sudo = works("sudo", &["-n", "-u", "nobody", PROGRAM, "version"]);
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !root || !sudo {
        return skipped(
            "C58",
            "no sudo, not root, or nobody else can run the program",
        );
    }
    // ddollar runs as `nobody`, its command as root.
    let sudoers = std::path::Path::new("/etc/sudoers.d");
    let rule = sudoers.join(format!("ddollar-test-{}", std::process::id()));
    if std::fs::write(&rule, "nobody ALL=(root) NOPASSWD: ALL\n").is_err() {
        return skipped("C58", "no rule for sudo can be made");
    }
    struct Rule(std::path::PathBuf);
    impl Drop for Rule {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
    let _rule = Rule(rule);
    // No question to a provider in the second that is looked at.
    let setup = Setup::new().options("--grace 500ms --interval 1h");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(setup.desk.path(), open).unwrap();
    let mut screen = setup.bash();
    for (end, code) in [(Some(Signal::SIGTERM), 143), (None, 130)] {
        screen.line("setpriv --reuid=65534 --regid=65534 --clear-groups $D sudo -n sleep 58.5");
        let ddollar = screen.supervisor();
        let sleeping = |_: &mut Screen| (all_with_word("58.5") >= 2).then_some(());
        screen.eventually("sudo in the foreground", |screen| {
            let words = proc::command_line(screen.foreground());
            (words.first().map(String::as_str) == Some("sudo")).then_some(())
        });
        screen.eventually("sleep", sleeping);
        let before = cpu_ticks(ddollar);
        std::thread::sleep(Duration::from_secs(1));
        // Of a hundred; the rest of a start may be among them.
        assert!(cpu_ticks(ddollar) - before <= 10);
        let status = match end {
            Some(signal) => {
                kill(ddollar, signal).unwrap();
                screen.prompt()
            }
            None => screen.interrupt(CTRL_C),
        };
        assert_eq!(status, code);
        assert!(
            screen.text().matches("cannot send").count() <= 1,
            "{}",
            screen.text()
        );
    }
    screen.leave();
}

/// How many processes have this word in their command line; sudo gives them an environment of its
/// own, so they do not count as the test's.
fn all_with_word(word: &str) -> usize {
    let all = proc::Process::all().into_iter();
    all.filter(|process| {
        let words = proc::command_line(process.pid);
        words.last().is_some_and(|last| last == word) && words.iter().any(|w| w == "sleep")
    })
    .count()
}

/// Processor time in hundredths of a second.
fn cpu_ticks(pid: nix::unistd::Pid) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
