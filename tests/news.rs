//! Who is told what happens while it happens: a command of the user's, and the service manager.

use crate::support::canned::Canned;
use crate::support::gateway::Gateway;
use crate::support::pty::{Setup, any_provider};
use crate::support::{Desk, Provider, Supervise, eventually, proc, spent_at};
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::Duration;

/// Appends one line for each event to `news`, in one write.
const TELL: &str = "echo \"$DDOLLAR_EVENT|$DDOLLAR_PROVIDER|$DDOLLAR_TOKEN|$DDOLLAR_CAUSE|\
                    $DDOLLAR_STATUS|$DDOLLAR_MESSAGE\" >>news; echo \"$DDOLLAR_FACT\" >>facts";

/// Lines of a file that another program writes, once there are so many.
fn lines(file: &PathBuf, many: usize) -> Vec<String> {
    eventually("lines in the file", || {
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= many).then_some(lines)
    })
}

#[test]
fn a_command_is_told_of_limit_rotation_wait_resume_and_exit() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let desk = Desk::new();
    let names = "echo \"$DDOLLAR_EVENT|$DDOLLAR_TOKEN_NAME|$DDOLLAR_WINDOW\" >>names";
    let notify = format!("cd {}; {TELL}; {names}", desk.path().display());
    let mut run = Supervise::with(&provider)
        .options(&["--patience", "0s", "--notify", &notify])
        .agent();
    run.wait_ready_with(1);
    provider.set("org-1", 0.96);
    let pid = run.wait_ready_with(2);
    lines(&desk.join("news"), 2);
    provider.control(json!([spent_at("org-1", "9m"), spent_at("org-2", "2s")]));
    run.wait_stopped(pid);
    run.stderr.wait("Session continued");
    run.tell("exit 0");
    run.end().expect(0);

    // They are waited for, but each has its own time.
    let mut news = lines(&desk.join("news"), 6);
    news.sort();
    let name = |number: usize| {
        let token = provider.token(number);
        let ending = &token[token.len() - 4..];
        let more = if number == 1 { "" } else { "_2" };
        format!("…{ending}, ANTHROPIC_API_KEY{more}")
    };
    let named = |number: usize| format!("token {number}/2 {}", name(number));
    let near = format!(
        "limit|anthropic|1|near||Token limit approaching (96% used) ({}; requests, 96% used)",
        named(1)
    );
    let reached = format!(
        "limit|anthropic|2|reached||Token limit reached ({}; requests, 100% used)",
        named(2)
    );
    let rotate = format!("rotate|anthropic|2|||Switched to Anthropic {}", named(2));
    assert_eq!(
        news,
        [
            "exit||||0|Process completed successfully",
            &near,
            &reached,
            "resume|||||Session continued",
            &rotate,
            news[5].as_str(),
        ]
    );
    assert!(news[5].starts_with("wait|anthropic|2|||Waiting for limits to reset ("));
    let mut names = lines(&desk.join("names"), 6);
    names.sort();
    assert_eq!(
        names,
        [
            "exit||".to_owned(),
            format!("limit|{}|requests", name(1)),
            format!("limit|{}|requests", name(2)),
            "resume||".to_owned(),
            format!("rotate|{}|", name(2)),
            format!("wait|{}|", name(2)),
        ]
    );
    for line in lines(&desk.join("facts"), 6) {
        let fact: Value = serde_json::from_str(&line).unwrap();
        assert!(
            fact["at"].is_string() && fact["event"].is_string(),
            "{line}"
        );
    }
}

/// What a provider says is a stranger's text, and may hold the token that it was sent.
#[test]
fn why_a_token_is_refused_is_told_in_the_providers_words_short_and_without_the_token() {
    let provider = Canned::start(|asked| match asked.token.as_str() {
        "sk-made-up-of-this-test-1" => {
            let long = "x".repeat(500);
            let body = format!(
                r#"{{"error":{{"message":"no \u001b[2J {} here\n{long} {long}"}}}}"#,
                asked.token
            );
            (401, "", body.leak())
        }
        _ => (200, "", "{}"),
    });
    let desk = Desk::new();
    let notify = format!(
        "cd {}; [ -z \"$DDOLLAR_WHY\" ] || echo \"$DDOLLAR_WHY\" >>why",
        desk.path().display()
    );
    let journal = desk.join("journal");
    let mut run = Supervise::bare()
        .env("ANTHROPIC_BASE_URL", &provider.url)
        .env(
            "ANTHROPIC_API_KEYS",
            "sk-made-up-of-this-test-1,sk-made-up-of-this-test-2",
        )
        .options(&["--notify", &notify, "--journal", journal.to_str().unwrap()])
        .agent();
    run.wait_ready_at_last_with(2);
    let why = "no \u{fffd}[2J (token) here";
    run.finish().says_once(&format!(
        "Anthropic rejected token 1/2 …st-1 from ANTHROPIC_API_KEYS (number 1): {why}\n"
    ));
    assert_eq!(lines(&desk.join("why"), 1)[0], why);
    let journal = fs::read_to_string(journal).unwrap();
    assert!(journal.contains(&format!("\"why\":\"{why}\"")), "{journal}");
    assert!(!journal.contains("of-this-test-1"), "{journal}");
}

#[test]
fn the_notify_command_gets_no_token_no_terminal_and_no_stream() {
    let provider = Provider::anthropic(&[0.1]);
    let desk = Desk::new();
    let file = desk.join("news");
    let notify = format!(
        "(env; cat; echo said; echo said >&2) >{} 2>&1",
        file.display()
    );
    let mut run = Supervise::with(&provider)
        .options(&["--notify", &notify])
        .start(&["sh", "-c", "exit 3"]);
    run.feed(b"for the command".to_vec());
    let ended = run.end().expect(3);
    let told = fs::read_to_string(&file).unwrap();
    assert!(
        told.contains("DDOLLAR_STATUS=3\n") && told.ends_with("said\nsaid\n"),
        "{told}"
    );
    assert!(
        told.contains("\nHOME=") || told.starts_with("HOME="),
        "{told}"
    );
    assert!(!told.contains("for the command"), "{told}");
    assert!(!told.contains(provider.token(1)), "{told}");
    assert_eq!(ended.stdout, b"");

    // What it says on its own streams is nobody's.
    let mut run = Supervise::with(&provider)
        .options(&["--notify", "yes; exit 1"])
        .start(&["true"]);
    run.feed(Vec::new());
    let ended = run.end().expect(0);
    assert!(!ended.stderr.contains("y\ny\n"), "{}", ended.stderr);
}

#[test]
fn that_the_notify_command_fails_is_said_once() {
    for (notify, how) in [
        ("no-such-command", "exit status: 127"),
        ("kill -9 $$", "signal: 9 (SIGKILL)"),
    ] {
        let provider = Provider::anthropic(&[0.96, 0.1]);
        let mut run = Supervise::with(&provider)
            .options(&["--notify", notify])
            .agent();
        run.wait_ready_at_last_with(2);
        run.finish()
            .says(&[
                "⚠️  --notify: the command failed at '",
                &format!("': {how}\n"),
            ])
            .says_once("--notify");
    }
    let provider = Provider::anthropic(&[0.1]);
    let run = Supervise::with(&provider).options(&["--notify", "exit 9"]);
    let said = "⚠️  --notify: the command failed at 'exit': exit status: 9\n";
    run.start(&["true"]).end().expect(0).says_once(said);
    let test = r#"[ "$DDOLLAR_EVENT" = limit ] && true"#;
    let run = Supervise::with(&provider).options(&["--notify", test]);
    let said = "at 'exit': exit status: 1 ('[ ... ] && ...' ends so when the test is false; 'if' does not)\n";
    run.start(&["true"]).end().expect(0).says_once(said);
    let run = Supervise::with(&provider).options(&["--notify", "true"]);
    run.start(&["true"]).end().expect(0).never_says("--notify");
}

#[test]
fn with_ddollar_log_warn_the_log_has_the_warnings_alone() {
    let provider = Provider::anthropic(&[0.96, 0.1]);
    let desk = Desk::new();
    let log = desk.join("night.log");
    let mut run = Supervise::with(&provider)
        .env("DDOLLAR_LOG", "warn")
        .options(&["--log", log.to_str().unwrap(), "--notify", "exit 3"])
        .agent();
    run.wait_ready_at_last_with(2);
    run.finish();
    let log = fs::read_to_string(log).unwrap();
    assert!(
        log.contains("Token limit approaching (96% used): token 1/2 …"),
        "{log}"
    );
    assert!(log.contains("--notify: the command failed"), "{log}");
    assert!(log.lines().all(|line| line.contains(" WARN ")), "{log}");
}

#[test]
fn a_notify_command_that_hangs_or_fails_disturbs_nothing() {
    for (notify, hangs) in [
        ("sleep 600", true),
        ("setsid sleep 600 & wait", true),
        ("no-such-command", false),
        ("exit 9", false),
        ("kill -9 $$", false),
    ] {
        let provider = Provider::anthropic(&[0.1, 0.1]);
        let desk = Desk::new();
        let pids = desk.join("pids");
        let notify = format!("echo $$ >>{}; {notify}", pids.display());
        let mut run = Supervise::with(&provider)
            .options(&["--patience", "0s", "--notify", &notify])
            .agent();
        // Whoever had waited for a command that hangs would have waited until it was killed.
        let hangs_still = |news: &str| {
            let pid = nix::unistd::Pid::from_raw(news.parse().unwrap());
            assert!(!hangs || proc::is_running(pid), "{notify}");
        };
        run.wait_ready_with(1);
        provider.set("org-1", 0.96);
        run.wait_ready_with(2);
        hangs_still(&lines(&pids, 1)[0]);
        run.tell("exit 7");
        let ended = run.end().expect(7);
        // At its end the run waits for the last news, but not for ever.
        hangs_still(lines(&pids, 2).last().unwrap());
        assert!(!ended.stderr.contains("survive"), "{}", ended.stderr);
    }
}

/// In a container, or under a service manager, what has not been told by the end never is.
#[test]
fn a_signal_does_not_cut_the_last_news_short() {
    let provider = Provider::anthropic(&[0.1]);
    let desk = Desk::new();
    let (begun, told) = (desk.join("begun"), desk.join("told"));
    let notify = format!(
        "[ $DDOLLAR_EVENT = exit ] && echo x >{} && sleep 0.5 && echo x >{}",
        begun.display(),
        told.display()
    );
    let mut run = Supervise::with(&provider)
        .options(&["--notify", &notify])
        .agent();
    run.wait_ready_with(1);
    run.tell("exit 0");
    lines(&begun, 1);
    run.signal(Signal::SIGWINCH);
    run.end().expect(0);
    assert!(told.exists());
}

#[test]
fn what_a_notify_command_leaves_behind_is_ended_and_does_not_hold_a_rotation_up() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let desk = Desk::new();
    let file = desk.join("pids");
    // It detaches a process and is gone.
    let notify = format!("setsid sleep 600 & echo $! >>{}", file.display());
    let mut run = Supervise::with(&provider)
        .options(&["--patience", "0s", "--notify", &notify])
        .agent();
    let first = run.wait_ready_with(1);
    provider.set("org-1", 0.96);
    run.wait_ready_with(2);
    assert!(proc::is_gone(first));
    let pid = lines(&file, 1)[0].parse().unwrap();
    let left = nix::unistd::Pid::from_raw(pid);
    // It is the helper's, not the command's: the rotation has not ended it.
    lines(&file, 2);
    assert!(proc::is_running(left));
    let children = proc::Process::children_of(run.pid);
    assert!(
        children.iter().all(|child| child.pid != left),
        "{children:?}"
    );
    nix::sys::signal::kill(left, Signal::SIGKILL).unwrap();
    run.tell("exit 0");
    run.end().expect(0);
    for pid in lines(&file, 3) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid.parse().unwrap()),
            Signal::SIGKILL,
        );
    }
}

/// The helpers have none of the files that ddollar was started with: a lock on one, as that of
/// `flock FILE ddollar`, would last as long as they do.
#[test]
fn a_helper_keeps_no_file_of_the_caller_open() {
    let with_pipe = |options: &str, words: &str| {
        let setup = Setup::new().options(options);
        mkfifo(&setup.desk.join("pipe"), Mode::S_IRWXU).unwrap();
        let slow = setup.desk.write("slow", "#!/bin/sh\nexec sleep 61.4\n");
        fs::set_permissions(slow, fs::Permissions::from_mode(0o700)).unwrap();
        let mut reading = OpenOptions::new();
        let reading = reading.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let pipe = reading.open(setup.desk.join("pipe")).unwrap();
        let mut command = setup.command("sh");
        command.args(["-c", &format!("exec 3>pipe; exec $D {words}")]);
        (setup.headless_command(command), pipe)
    };
    // The end of a file: nobody has its other end open any more.
    let ends = |mut pipe: fs::File| {
        eventually("the end of all that had the pipe", || {
            (pipe.read(&mut [0]).ok() == Some(0)).then_some(())
        });
    };

    // The notify command goes on, and so does its helper.
    let (mut run, pipe) = with_pipe("--notify ./slow", "true");
    assert_eq!(run.end(), 0, "{}", run.err());
    ends(pipe);
    assert_eq!(run.family.with_word("__notify").len(), 1);
    run.family.end();

    // The watchdog after a kill, while the command has its grace.
    let script = "sh -c 'exec 3>&-; exec stubborn.pl'";
    let (run, pipe) = with_pipe("--grace 5s", script);
    run.wait_out("READY", 1);
    kill(run.family.supervisors()[0], Signal::SIGKILL).unwrap();
    ends(pipe);
    assert_eq!(run.family.with_word("__watch").len(), 1);
    run.family.gone_after(Duration::from_secs(5));
}

#[test]
fn an_empty_notify_command_is_named_with_a_hint() {
    Supervise::with(&any_provider())
        .options(&["--notify", ""])
        .start(&["true"])
        .end()
        .expect(125)
        .says(&["option '--notify' does not take ''", "hint: give a command"]);
}

/// The service manager's end of `NOTIFY_SOCKET`.
struct Manager(UnixDatagram);

impl Manager {
    fn hears(&self, wanted: &str) -> String {
        let mut all = String::new();
        loop {
            let mut buffer = [0; 4096];
            self.0
                .set_read_timeout(Some(crate::support::DEADLINE))
                .unwrap();
            let length = match self.0.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("no {wanted:?} ({error}) in:\n{all}"),
            };
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            all.push_str(&text);
            all.push('\n');
            if text.contains(wanted) {
                return text;
            }
        }
    }
}

#[test]
fn systemd_hears_ready_status_watchdog_and_stopping() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let run = Supervise::with(&provider);
    let path = run.desk().join("notify.socket");
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    let mut run = run
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .options(&["--patience", "0s"])
        .agent();
    let token = provider.token(1);
    let ending = &token[token.len() - 4..];
    assert_eq!(
        manager.hears("READY=1"),
        format!("READY=1\nSTATUS=Running with Anthropic token 1/2 …{ending}, ANTHROPIC_API_KEY")
    );
    run.wait_ready_with(1);
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    provider.set("org-1", 0.96);
    manager.hears("STATUS=Token limit approaching (96% used)");
    manager.hears("STATUS=Running with Anthropic token 2/2");
    run.wait_ready_with(2);
    // The variables are between the manager and ddollar.
    run.tell("env | grep -c -e NOTIFY_SOCKET -e WATCHDOG");
    run.stdout.wait("0");
    run.signal(Signal::SIGTERM);
    assert_eq!(manager.hears("STOPPING=1").lines().count(), 2);
    run.end().expect(0);
}

/// A unit that is not ready in time is ended, and a wait may take hours.
#[test]
fn a_run_that_begins_with_a_wait_is_ready() {
    let provider = Provider::anthropic(&[0.1]);
    provider.control(spent_at("org-1", "60s"));
    let desk = Desk::new();
    let state = desk.join("state.json");
    let run = || Supervise::with(&provider).options(&["--state", state.to_str().unwrap()]);
    let first = run().options(&["--max-wait", "1s"]);
    first.script("exit 1").end().expect(75);
    let path = desk.join("notify.socket");
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    let mut second = run().env("NOTIFY_SOCKET", &path).start(&["true"]);
    manager.hears("READY=1");
    second.stderr.wait("Waiting for limits to reset");
    second.signal(Signal::SIGTERM);
    manager.hears("STOPPING=1");
    second.end().expect(143).never_says("Launching");
}

#[test]
fn systemd_hears_of_a_proxy_too() {
    let provider = Provider::anthropic(&[0.1]);
    let prepared = Supervise::with(&provider);
    let path = prepared.desk().join("notify.socket");
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    let prepared = prepared
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000");
    let gateway = Gateway::start(prepared, &[]);
    assert!(manager.hears("READY=1").contains(&gateway.address));
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    gateway.stop();
    manager.hears("STOPPING=1");
}

#[test]
fn systemd_may_listen_at_an_abstract_address_or_not_at_all() {
    let provider = Provider::anthropic(&[0.1]);
    let name = format!("ddollar-test-{}-{}", std::process::id(), provider.token(1));
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let manager = Manager(UnixDatagram::bind_addr(&address).unwrap());
    let run = |socket: &str, watchdog: &str| {
        Supervise::with(&provider)
            .env("NOTIFY_SOCKET", socket)
            .env("WATCHDOG_USEC", watchdog)
            .env("WATCHDOG_PID", "1")
            .start(&["true"])
            .end()
            .expect(0)
    };
    run(&format!("@{name}"), "1");
    manager.hears("READY=1");
    assert!(!manager.hears("STOPPING=1").contains("WATCHDOG"));
    for (socket, watchdog) in [
        ("/no/such/socket", "1"),
        ("vsock:2:1", "x"),
        ("@", ""),
        ("x", "-1"),
    ] {
        let ended = run(socket, watchdog);
        assert!(!ended.stderr.contains("manager"), "{}", ended.stderr);
    }
}

/// A manager that does not read: its queue is full at once, and nobody waits for it.
#[test]
fn a_manager_that_does_not_read_is_not_waited_for() {
    let setup = Setup::new();
    let path = setup.desk.join("notify.socket");
    let _deaf = UnixDatagram::bind(&path).unwrap();
    let setup = setup
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "2000");
    let mut run = setup.headless(&["sh", "-c", "sleep 1"]);
    assert_eq!(run.end(), 0);
}
