//! Who writes what to which stream, how loud and in which style.

use crate::support::env::{PROGRAM, opening, spawn};
use crate::support::pty::Setup;
use crate::support::run::unstamped;
use crate::support::{Desk, Provider, Supervise, spent_at};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::process::Stdio;

#[test]
fn stdin_stdout_and_stderr_are_the_childs_byte_for_byte() {
    let provider = Provider::anthropic(&[0.1]);
    let bytes: Vec<u8> = (0..1 << 20)
        .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut run = Supervise::with(&provider).start(&["sh", "-c", "cat; printf 'err\\n' >&2"]);
    run.feed(bytes.clone());
    let ended = run.end().expect(0).says_once("err\n");
    assert!(ended.stdout == bytes);

    // -q on a quiet night: nothing but the child's.
    let mut run =
        Supervise::with(&provider)
            .options(&["-q"])
            .start(&["sh", "-c", "cat; printf 'err' >&2"]);
    run.feed(bytes.clone());
    let ended = run.end().expect(0);
    assert!(ended.stdout == bytes);
    assert_eq!(ended.stderr, "err");
}

#[test]
fn a_command_is_shown_on_one_line_as_a_shell_takes_it() {
    let provider = Provider::anthropic(&[0.1]);
    let run =
        Supervise::with(&provider).start(&["sh", "-c", "true\nexit 0", "it's", "\x1b[31mred"]);
    run.end()
        .expect(0)
        .says_once("Launching: sh -c 'true exit 0' \"it's\" ' [31mred'\n");
}

#[test]
fn quiet_says_warnings_only() {
    let provider = Provider::anthropic(&[0.96, 0.1]);
    let mut run = Supervise::with(&provider).options(&["-q"]).agent();
    run.wait_ready_at_last_with(2);
    run.tell("exit 3");
    let ended = run.end().expect(3);
    let (warning, detail) = ended
        .stderr
        .split_at("\n⚠️  Token limit approaching (96% used)\n".len());
    assert_eq!(warning, "\n⚠️  Token limit approaching (96% used)\n");
    assert!(detail.starts_with("   token 1/2 …"), "{detail}");
    assert_eq!(detail.lines().count(), 1, "{detail}");
}

#[test]
fn verbose_and_the_log_tell_the_numbers_of_each_check() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let monitor = "Monitor: Anthropic - Requests: 101/1000 (10.1%) [token 1]";
    let mut run = Supervise::with(&provider)
        .options(&["-v", "--log", "night.log"])
        .agent();
    run.wait_ready_with(1);
    run.stderr.wait(monitor);
    let log = run.desk.join("night.log");
    provider.wait_for_probe("anthropic#2");
    run.tell("cat night.log");
    run.stdout.wait(monitor);
    run.tell("exit 0");
    // The folder ends with the run.
    assert!(
        std::fs::read_to_string(log)
            .unwrap()
            .contains("Launching: sh ")
    );
    run.end().expect(0);
}

/// Opening a named pipe waits for its reader, which may never come.
#[test]
fn a_log_that_is_a_pipe_without_a_reader_does_not_hold_up_the_start() {
    let provider = Provider::anthropic(&[0.1]);
    let run = Supervise::with(&provider);
    let pipe = run.desk().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let pipe = pipe.to_str().unwrap().to_owned();
    run.options(&["--log", &pipe])
        .start(&["true"])
        .end()
        .expect(125)
        .says(&["cannot use the log file '", "hint: "]);
}

#[test]
fn the_log_is_appended_to_and_only_for_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let provider = Provider::anthropic(&[0.1]);
    let desk = Desk::new();
    let log = desk.join("night.log");
    for _ in 0..2 {
        let options = ["--log", log.to_str().unwrap()];
        Supervise::with(&provider)
            .options(&options)
            .start(&["true"])
            .end()
            .expect(0);
    }
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(text.matches("Launching: true").count(), 2, "{text}");
    assert_eq!(
        std::fs::metadata(&log).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn marks_are_ascii_where_the_locale_is_not_utf_8() {
    let provider = Provider::anthropic(&[0.96, 0.1]);
    let mut run = Supervise::with(&provider).env("LANG", "C").agent();
    run.wait_ready_at_last_with(2);
    let ended = run.finish().says(&[
        "* Loaded 2 token(s) across 1 provider(s)\n",
        "> Launching: ",
        "! Token limit approaching (96% used)\n   token 1/2 ...",
        ", ANTHROPIC_API_KEY; requests, 96% used, resets ",
        "\n> Auto-rotating",
        "> Switched to token 2/2\n",
        "* Restarted the same command with token 2/2\n",
        "* Process completed successfully\n",
    ]);
    assert!(ended.stderr.is_ascii(), "{}", ended.stderr);
}

/// What a run of `true` writes to a terminal on stderr.
fn on_a_terminal(variables: &[(&str, &str)]) -> String {
    let provider = Provider::anthropic(&[0.1]);
    let own = provider.variables(&provider.url);
    let own = own.iter().map(|(name, value)| (&**name, &**value));
    let variables: Vec<_> = own.chain(variables.iter().copied()).collect();
    let (text, code) = written_to_a_terminal(0, &["supervise", "--", "true"], &variables);
    assert_eq!(code, Some(0), "{text}");
    text
}

/// What ddollar writes to a terminal of so many columns (0: it does not know) on stderr, and its exit
/// code.
pub(crate) fn written_to_a_terminal(
    columns: u16,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> (String, Option<i32>) {
    let desk = Desk::new();
    let size = nix::pty::Winsize {
        ws_row: 24 * u16::from(columns > 0),
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let (master, mut child) = opening(|| {
        let pty = nix::pty::openpty(Some(&size), None).unwrap();
        // Whatever is started later gets neither end.
        fcntl(&pty.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        let mut command = desk.command(PROGRAM);
        command
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(pty.slave);
        (pty.master, command.spawn().unwrap())
    });
    let mut text = Vec::new();
    // At the end a pty gives an error, not an end of file.
    let _ = std::fs::File::from(master).read_to_end(&mut text);
    let code = child.wait().unwrap().code();
    (String::from_utf8_lossy(&text).into_owned(), code)
}

#[test]
fn colour_is_for_terminals_and_not_with_no_color() {
    let coloured = on_a_terminal(&[("TERM", "xterm")]);
    assert!(
        coloured.contains("\x1b[32m✓ \x1b[0mProcess completed"),
        "{coloured:?}"
    );
    for plain in [
        &[("TERM", "xterm"), ("NO_COLOR", "1")],
        &[("TERM", "dumb"), ("X", "")],
        &[("TERM", ""), ("X", "")],
        &[("X", ""), ("Y", "")],
    ] {
        let text = on_a_terminal(plain);
        assert!(!text.contains('\x1b'), "{text:?}");
        assert!(text.contains("✓ Process completed"), "{text:?}");
    }
}

/// A narrow terminal would break lines inside words.
#[test]
fn notices_are_folded_at_words() {
    let mut screen = Setup::new().env("TERM", "dumb").bash();
    screen.resize(24, 40);
    screen.line("$D sh -c 'exit 3' one two three four five six; echo do''ne");
    let text = screen.wait("done\r\n");
    for lines in [
        "\r\n✓ Loaded 1 token(s) across 1 provider(s)\r\n",
        "\r\n✓ Monitor started (checking limits every\r\n   200ms)\r\n",
        "\r\n▶  Launching: sh -c 'exit 3' one two\r\n   three four five six\r\n",
    ] {
        assert!(text.contains(lines), "{lines:?} in {text:?}");
    }
    screen.prompt();
    screen.leave();
}

#[test]
fn a_stderr_that_is_closed_costs_the_words_and_not_the_run() {
    let provider = Provider::anthropic(&[0.96, 0.1]);
    let desk = Desk::new();
    let script = "exec 2>/dev/null; case $ANTHROPIC_API_KEY in *-2) exit 4; esac; sleep 60";
    let mut process = spawn(
        desk.command(PROGRAM)
            .args(["supervise", "--interval", "200ms", "--", "sh", "-c", script])
            .envs(provider.variables(&provider.url))
            .stdin(Stdio::null())
            .stderr(Stdio::piped()),
    );
    drop(process.stderr.take());
    assert_eq!(process.wait().unwrap().code(), Some(4));
}

#[test]
fn a_stderr_that_nobody_reads_does_not_hold_up_a_rotation() {
    let provider = Provider::anthropic(&[0.96, 0.1]);
    let desk = Desk::new();
    // Full from the start: a pipe holds 64 KiB (pipe(7)).
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'x'; 65_536]).unwrap();
    let script = "case $ANTHROPIC_API_KEY in *-2) exit 4; esac; sleep 60";
    let mut process = spawn(
        desk.command(PROGRAM)
            .args(["supervise", "--interval", "200ms", "--", "sh", "-c", script])
            .envs(provider.variables(&provider.url))
            .stdin(Stdio::null())
            .stderr(writer),
    );
    assert_eq!(process.wait().unwrap().code(), Some(4));
    drop(reader);
}

#[test]
fn on_one_stream_it_reads_as_in_the_owners_transcript() {
    let provider = Provider::anthropic(&[0.1]);
    let run = Supervise::with(&provider).after("exec 2>&1");
    let ended = run.start(&["echo", "Hello"]).end().expect(0);
    assert_eq!(
        unstamped(&String::from_utf8(ended.stdout).unwrap()),
        "Discovering API tokens...\n\
         Starting supervision mode...\n\
         ✓ Loaded 1 token(s) across 1 provider(s)\n\
         ✓ Monitor started (checking limits every 200ms)\n\
         ▶  Launching: echo Hello\n\
         \n\
         Hello\n\
         ✓ Process completed successfully\n"
    );
}

/// Who reads a log in the morning wants to know when; the command's own lines stay as they are.
#[test]
fn off_a_terminal_each_line_begins_with_the_local_time() {
    let provider = Provider::anthropic(&[0.1]);
    let run = Supervise::with(&provider)
        .env("TZ", "<+05>-5")
        .after("exec 2>&1");
    let before = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let ended = run.start(&["echo", "Hello"]).end().expect(0);
    let text = String::from_utf8(ended.stdout).unwrap();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let is_stamped = unstamped(line) != line;
        assert_eq!(is_stamped, line != "Hello", "{line}");
    }
    let hour: u64 = text[11..13].parse().unwrap();
    assert!(
        [0, 1]
            .map(|more| (before / 3600 + 5 + more) % 24)
            .contains(&hour),
        "{text}"
    );
    let terminal = on_a_terminal(&[("TERM", "dumb")]);
    assert!(terminal.starts_with("Discovering"), "{terminal}");
}

/// TZ names most zones by a name, and not by a rule.
#[test]
fn the_time_is_that_of_the_zone_that_tz_names() {
    let provider = Provider::anthropic(&[0.1]);
    let desk = Desk::new();
    std::fs::create_dir(desk.join("Far")).unwrap();
    // tzfile(5), in each of its two parts: no changes, and one type, of 5 hours 45 minutes.
    let counts = [0, 0, 0, 0, 1, 6].map(u32::to_be_bytes).concat();
    let kind = [&(5 * 3600 + 45 * 60_i32).to_be_bytes()[..], b"\0\0+0545\0"].concat();
    let part = [b"TZif2", &[0; 15][..], &counts, &kind].concat();
    let zone = [&part[..], &part, b"\n<+0545>-5:45\n"].concat();
    std::fs::write(desk.join("Far/Away"), zone).unwrap();
    for name in ["Far/Away", ":Far/Away"] {
        let before = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() / 60;
        let run = Supervise::with(&provider)
            .env("TZ", name)
            .env("TZDIR", desk.path().to_str().unwrap())
            .after("exec 2>&1");
        let ended = run.start(&["true"]).end().expect(0);
        let text = String::from_utf8(ended.stdout).unwrap();
        let number = |place| text[place..place + 2].parse::<u64>().unwrap();
        let shown = number(11) * 60 + number(14);
        let late = (shown + 24 * 60 - (before + 5 * 60 + 45) % (24 * 60)) % (24 * 60);
        assert!(late < 10, "{name}: {late} {text}");
    }
}

/// Every end has its line, and a night with rotations says what it comes to.
#[test]
fn at_the_end_it_says_what_the_run_comes_to() {
    let provider = Provider::anthropic(&[0.96, 0.1]);
    let mut run = Supervise::with(&provider).agent();
    run.wait_ready_at_last_with(2);
    run.finish().says(&[
        "✓ Process completed successfully\n   1 rotation, waited 0s, ",
        " of work; ddollar report\n",
    ]);
    // 'ddollar report' would show another run.
    let provider = Provider::anthropic(&[0.96, 0.1]);
    let quiet = ["--journal", "/dev/null"];
    let mut run = Supervise::with(&provider).options(&quiet).agent();
    run.wait_ready_at_last_with(2);
    run.finish().says(&["1 rotation, ", " of work\n"]);
    let provider = Provider::anthropic(&[0.1]);
    let mut run = Supervise::with(&provider).agent();
    run.wait_ready_with(1);
    run.signal(Signal::SIGTERM);
    let ended = run.end();
    ended
        .says_once("Process exited with status 0, after a signal to ddollar\n")
        .never_says("rotation");
}

/// The tokens are told apart at the start, at a limit, and where one is found twice.
#[test]
fn a_token_is_named_by_its_end_and_where_it_was_found() {
    let provider = Provider::anthropic(&[0.96, 0.1]);
    let (one, two) = (provider.token(1).to_owned(), provider.token(2).to_owned());
    let (one_ends, two_ends) = (&one[one.len() - 4..], &two[two.len() - 4..]);
    let run = Supervise::with(&provider).without("ANTHROPIC_API_KEY_2");
    let file = run
        .desk()
        .write("tokens", format!("# mine\n{two}\n{one}\n"));
    let mut run = run.env("ANTHROPIC_API_KEYS_FILE", file).agent();
    run.wait_ready_at_last_with(2);
    run.finish().says(&[
        &format!(
            "\n   Anthropic: 1 …{one_ends}, ANTHROPIC_API_KEY; 2 …{two_ends}, tokens:2; duplicates dropped: tokens:3\n"
        ),
        &format!("(96% used)\n   token 1/2 …{one_ends}, ANTHROPIC_API_KEY; requests, 96% used, resets "),
    ]);
}

#[test]
fn quiet_does_not_say_how_the_command_ended_and_a_closed_pipe_is_never_told() {
    let provider = Provider::anthropic(&[0.1]);
    for (script, code) in [
        ("exit 3", 3),
        ("kill -TERM $$", 143),
        ("kill -PIPE $$", 141),
    ] {
        let run = Supervise::with(&provider).options(&["-q"]);
        let ended = run.start(&["sh", "-c", script]).end().expect(code);
        assert_eq!(ended.stderr, "");
    }
    let run = Supervise::with(&provider);
    let ended = run.start(&["sh", "-c", "kill -PIPE $$"]).end().expect(141);
    ended.never_says("Process");
}

#[test]
fn a_log_that_was_renamed_is_begun_anew_and_a_pipe_holds_nothing_up() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let run = Supervise::with(&provider);
    let log = run.desk().join("log");
    let mut run = run.options(&["--log", log.to_str().unwrap()]).agent();
    run.wait_ready_with(1);
    provider.wait_for_probe("anthropic#2");
    std::fs::rename(&log, log.with_extension("1")).unwrap();
    provider.control(spent_at("org-1", "10m"));
    run.wait_ready_with(2);
    let later = std::fs::read_to_string(&log).unwrap();
    assert!(later.contains("Switched to token 2/2"), "{later}");
    run.finish();

    let run = Supervise::with(&provider);
    let pipe = run.desk().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let run = run.options(&["--log", pipe.to_str().unwrap()]);
    run.start(&["true"]).end().expect(125).says(&["log file"]);
}

#[test]
fn a_log_that_is_full_is_set_aside_and_the_old_one_goes() {
    let provider = Provider::anthropic(&[0.1]);
    let run = Supervise::with(&provider);
    let log = run.desk().join("log");
    let old = run.desk().join("log.old");
    std::fs::write(&old, "older").unwrap();
    std::fs::write(&log, "old\n").unwrap();
    let full = std::fs::OpenOptions::new().write(true).open(&log).unwrap();
    full.set_len(33 << 20).unwrap();
    let run = run.options(&["-v", "--log", log.to_str().unwrap()]);
    let mut run = run.agent();
    run.stderr.wait("Monitor: ");
    let size = |path| std::fs::metadata(path).unwrap().len();
    assert_eq!(size(&old), 33 << 20, "{}", run.stderr.text());
    assert!((1..10_000).contains(&size(&log)));
    run.finish();
}

/// At a limit on file sizes the log has a gap; the command, whose limit it may not even be, goes on.
#[test]
fn a_log_that_has_met_a_limit_on_sizes_does_not_end_the_run() {
    let provider = Provider::anthropic(&[0.1]);
    let desk = Desk::new();
    let log = desk.join("log");
    std::fs::write(&log, vec![b'x'; 1020]).unwrap();
    let path = log.to_str().unwrap();
    let full = format!("ulimit -f 1; exec 2>>{path}");
    for (before, options) in [("ulimit -f 1", vec!["--log", path]), (&full, vec!["-v"])] {
        let run = Supervise::with(&provider).options(&options).after(before);
        run.start(&["sh", "-c", "exit 5"]).end().expect(5);
    }
}
