//! The system refuses: a warning and the best that is left, never a hang, never a lost command.

use crate::support::env::works;
use crate::support::proc;
use crate::support::pty::{Headless, Setup, skipped};
use crate::support::{Provider, spent_at};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

/// Whether strace can make system calls fail here.
fn can_inject() -> bool {
    let inject = "inject=ioctl:error=EPERM";
    let can = works("strace", &["-o", "/dev/null", "-e", inject, "true"]);
    if !can {
        skipped("injection", "strace is not installed or not allowed");
    }
    can
}

/// ddollar under strace, which makes some system calls fail or slow. `None` where that is not possible.
fn with_failing(calls: &str, options: &str, words: &str) -> Option<Headless> {
    if !can_inject() {
        return None;
    }
    let names = calls.split(':').next().unwrap();
    let setup = Setup::new().options(options);
    let mut command = setup.command("sh");
    command.args([
        "-c",
        &format!("exec strace -f -o trace -e trace={names} -e inject={calls} $D {words}"),
    ]);
    Some(setup.headless_command(command))
}

/// ddollar itself.
fn ddollar_of(run: &Headless) -> Pid {
    let supervisors = run.family.supervisors();
    let found = supervisors
        .into_iter()
        .find(|pid| proc::command_line(*pid)[0].ends_with("ddollar"));
    found.unwrap()
}

/// Killed in the first moment of a command that is deaf to TERM, where each start takes its time: the
/// watchdog is there.
#[test]
fn killed_where_starts_are_slow() {
    let calls = "clone,clone3,vfork:delay_enter=150000";
    let Some(mut run) = with_failing(calls, "--grace 200ms", "sigecho.pl") else {
        return;
    };
    run.pid_after("READY");
    kill(ddollar_of(&run), Signal::SIGKILL).unwrap();
    run.end();
    run.family.gone_after(Duration::from_millis(200));
}

/// No new process or thread, from the first to the sixth: 125 with a reason, or the command's end.
#[test]
fn no_process_to_be_had() {
    for first in 1..7 {
        let calls = format!("clone,clone3,fork,vfork:error=EAGAIN:when={first}+");
        let Some(mut run) = with_failing(&calls, "", "true") else {
            return;
        };
        let code = run.end();
        let err = run.err();
        assert!(matches!(code, 0 | 125), "{first}: {code} {err}");
        assert!(
            code == 0 || err.contains("ddollar: cannot"),
            "{first}: {err}"
        );
        run.family.gone();
    }
}

/// Without the right to adopt orphans or to name a death signal the command runs all the same.
#[test]
#[cfg_attr(
    any(feature = "portable", not(target_os = "linux")),
    ignore = "there is no prctl"
)]
fn prctl_refused() {
    let Some(mut run) = with_failing("prctl:error=EINVAL", "", "sh -c 'exit 3'") else {
        return;
    };
    assert_eq!(run.end(), 3, "{}", run.err());
    assert!(run.err().contains("will not be found"), "{}", run.err());
}

/// Interrupted waits are waited again.
#[test]
fn waits_interrupted() {
    let Some(mut run) = with_failing("waitid,wait4:error=EINTR:when=1..3", "", "sh -c 'exit 3'")
    else {
        return;
    };
    assert_eq!(run.end(), 3, "{}", run.err());
}

/// A system without signalfd(2), as some sandboxes are: everything but real-time signals goes on.
#[test]
fn no_signalfd() {
    let words = "sh -c 'exit 3'";
    let Some(mut run) = with_failing("signalfd4:error=ENOSYS", "", words) else {
        return;
    };
    assert_eq!(run.end(), 3, "{}", run.err());
}

/// A unit with `RestrictAddressFamilies=AF_INET AF_INET6`: claude cannot call back, and gets its token as any
/// other command does.
#[test]
fn no_unix_sockets() {
    let words = "sh -c 'echo \"TOKEN $ANTHROPIC_API_KEY\"; exit 3'";
    let options = "--client claude --no-proxy";
    let Some(mut run) = with_failing("bind:error=EAFNOSUPPORT", options, words) else {
        return;
    };
    assert_eq!(run.end(), 3, "{}", run.err());
    assert!(run.err().contains("no hooks"), "{}", run.err());
    assert!(run.out().starts_with("TOKEN sk-"), "{}", run.out());
}

/// That ddollar itself may open no more files is no outage of the provider's: a failure is the command's own.
#[test]
fn no_descriptor_for_a_check() {
    let words = "sh -c 'exit 3'";
    let Some(mut run) = with_failing("socket:error=EMFILE", "", words) else {
        return;
    };
    assert_eq!(run.end(), 3, "{}", run.err());
    assert!(!run.err().contains("cannot be reached"), "{}", run.err());
    assert!(run.err().contains("see ulimit -n"), "{}", run.err());
}

/// Eight descriptors are enough, or ten where musl starts processes, which takes a pipe of its own while the watchdog is
/// there; and with fewer ddollar says so.
#[test]
fn few_descriptors() {
    let enough = if cfg!(target_env = "musl") { 10 } else { 8 };
    for limit in 4..=enough {
        let setup = Setup::new();
        let mut command = setup.command("sh");
        command.args([
            "-c",
            &format!("exec prlimit --nofile={limit} $D sh -c 'exit 3'"),
        ]);
        let mut run = setup.headless_command(command);
        let code = run.end();
        assert!(matches!(code, 3 | 125), "{limit}: {code} {}", run.err());
        assert!(code == 3 || limit < enough, "{limit}: {}", run.err());
        run.family.gone();
    }
}

/// A terminal that obeys nobody: the command runs, and its status is known.
#[test]
fn terminal_refused() {
    if !can_inject() {
        return;
    }
    let mut screen = Setup::new().bash();
    let before = screen.stty();
    let line = "strace -f -o trace -e trace=ioctl -e inject=ioctl:error=EPERM $D echo w''orks";
    screen.line(line);
    screen.wait("\nworks");
    assert_eq!(screen.prompt(), 0);
    assert_eq!(screen.stty(), before);
    screen.leave();
}

/// A command that cannot be signalled: no spinning, and its own end is still seen.
#[test]
fn kill_refused() {
    let words = "sh -c 'echo READY $$; until [ -e go ]; do sleep 0.1; done; exit 3'";
    let Some(mut run) = with_failing("kill:error=EPERM", "--grace 300ms", words) else {
        return;
    };
    let child = run.pid_after("READY");
    kill(ddollar_of(&run), Signal::SIGTERM).unwrap();
    run.wait_err("The command cannot be signalled");
    run.wait_err("forcing kill");
    std::thread::sleep(Duration::from_secs(1));
    let told = run.err().matches("cannot be signalled").count();
    assert_eq!(told, 1, "{}", run.err());
    assert!(proc::is_running(child));
    std::fs::write(run.desk.join("go"), "").unwrap();
    assert_eq!(run.end(), 3, "{}", run.err());
}

/// A kernel without the list of children in /proc: an orphan that ends is no reason to end the command,
/// and a rotation finds its way.
#[test]
#[cfg_attr(feature = "portable", ignore = "/proc is not read")]
fn no_list_of_children() {
    if !can_inject() {
        return;
    }
    let hidden = |setup: &Setup, words: &str| {
        let mut command = setup.command("sh");
        // strace as a grandchild, so that this very process becomes ddollar.
        let line = format!(
            "exec strace -D -qq -o /dev/null -P /proc/self/task/$$/children -e trace=openat \
             -e inject=openat:error=ENOENT $D sh -c '{words}'"
        );
        command.args(["-c", &line]);
        command
    };
    let setup = Setup::new();
    let command = hidden(&setup, "(true &); sleep 1; exit 5");
    let mut run = setup.headless_command(command);
    assert_eq!(run.end(), 5, "{}", run.err());
    run.family.gone();

    let provider = Provider::anthropic(&[0.1, 0.1]);
    let setup = Setup::with(&provider).options("--grace 500ms");
    let words = "daemon.pl & mkdir first 2>/dev/null || exit 7; echo READY; exec sleep 60";
    let command = hidden(&setup, words);
    let mut run = setup.headless_command(command);
    let daemon = run.pid_after("DAEMON");
    run.wait_out("READY", 1);
    provider.control(spent_at("org-1", "10m"));
    assert_eq!(run.end(), 7, "{}", run.err());
    assert!(proc::is_gone(daemon));
}
