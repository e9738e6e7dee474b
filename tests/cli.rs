//! Help, version, and everything that a run cannot start with.

use crate::support::env::{PROGRAM, output, spawn};
use crate::support::{Desk, Provider, Supervise};
use std::process::{Command, Output, Stdio};

fn ddollar(arguments: &[&str]) -> Output {
    let desk = Desk::new();
    let mut command = desk.command(PROGRAM);
    output(command.args(arguments).stdin(Stdio::null()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn version_is_one_line_on_stdout() {
    for word in ["version", "--version", "-V"] {
        let output = ddollar(&[word]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(
            text(&output.stdout),
            format!("ddollar {}\n", env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(output.stderr, b"");
    }
}

#[test]
fn help_goes_to_stdout_and_names_the_commands() {
    for words in [
        &["help"][..],
        &["--help"],
        &["-h"],
        &["help", "--help"],
        &["generate", "--help"],
        &["version", "-h"],
    ] {
        let output = ddollar(words);
        assert_eq!(output.status.code(), Some(0));
        let help = text(&output.stdout);
        for command in ["supervise", "rehearse", "help", "version"] {
            assert!(help.contains(&format!("\n  {command} ")), "{help}");
        }
        assert_eq!(output.stderr, b"");
    }
}

#[test]
fn help_on_a_command_names_every_option_in_80_columns() {
    for words in [
        &["help", "supervise"][..],
        &["supervise", "--help"],
        &["supervise", "-h"],
    ] {
        let output = ddollar(words);
        assert_eq!(output.status.code(), Some(0));
        let help = text(&output.stdout);
        for option in [
            "threshold",
            "interval",
            "grace",
            "provider",
            "model",
            "resume",
            "patience",
            "max-wait",
            "retries",
            "quiet",
            "verbose",
            "log",
        ] {
            assert!(help.contains(&format!("--{option}")), "{option} in {help}");
        }
        assert!(
            help.lines().all(|line| line.chars().count() <= 80),
            "{help}"
        );
    }
    let long = text(&ddollar(&["help", "supervise"]).stdout);
    let short = text(&ddollar(&["supervise", "-h"]).stdout);
    assert!(long.len() > short.len());
    for code in ["75", "125", "126", "127"] {
        assert!(long.contains(&format!("\n  {code} ")), "{long}");
    }
}

#[test]
fn help_and_version_need_nothing_of_the_environment() {
    let output = output(
        Command::new(PROGRAM)
            .arg("help")
            .env_clear()
            .env("ANTHROPIC_API_KEYS_FILE", "/no/such/file"),
    );
    assert_eq!(output.status.code(), Some(0));
}

/// Runs `supervise` with these arguments and changes, and asserts: the exit code, one line that
/// says `problem`, one `hint:`, nothing on stdout, no child, no request.
fn refused(
    provider: &mut Provider,
    change: impl FnOnce(Supervise) -> Supervise,
    arguments: &[&str],
    code: i32,
    problem: &str,
) {
    let run = change(Supervise::with(provider));
    let marker = run.desk().join("started");
    let touch = format!("touch {}", marker.display());
    let mut words = vec!["supervise"];
    words.extend(arguments);
    if arguments.is_empty() {
        words.extend(["--", "sh", "-c", &touch]);
    }
    let ended = run.start_as(&words).end().expect(code);
    let lines: Vec<&str> = ended
        .stderr
        .lines()
        .filter(|line| *line != "Discovering API tokens...")
        .collect();
    assert_eq!(lines.len(), 2, "one line and a hint:\n{}", ended.stderr);
    assert!(lines[0].starts_with("ddollar: "), "{}", lines[0]);
    assert!(lines[0].contains(problem), "{problem:?} in {}", lines[0]);
    assert!(lines[1].starts_with("hint: "), "{}", lines[1]);
    assert!(lines[1].len() > "hint: ".len() + 10);
    for token in provider.tokens() {
        assert!(!ended.stderr.contains(token));
    }
    assert_eq!(ended.stdout, b"");
    assert!(!marker.exists());
    assert_eq!(provider.served().len(), 0, "no request was made");
}

fn as_it_is(run: Supervise) -> Supervise {
    run
}

#[test]
fn a_bad_option_or_value_is_named_with_a_hint_and_125() {
    let mut provider = Provider::anthropic(&[0.1]);
    let cases: &[(&[&str], &str)] = &[
        (
            &["--treshold", "90", "--", "true"],
            "unknown option '--treshold'",
        ),
        (&["-x", "--", "true"], "unknown option '-x'"),
        (
            &["--threshold", "0", "--", "true"],
            "option '--threshold' does not take '0'",
        ),
        (
            &["--threshold", "101", "--", "true"],
            "option '--threshold' does not take '101'",
        ),
        (
            &["--threshold", "abc", "--", "true"],
            "option '--threshold' does not take 'abc'",
        ),
        (
            &["--threshold", "NaN", "--", "true"],
            "option '--threshold' does not take 'NaN'",
        ),
        (&["--threshold", "-5", "--", "true"], "--threshold"),
        (&["--threshold"], "--threshold"),
        (
            &["--interval", "soon", "--", "true"],
            "option '--interval' does not take 'soon'",
        ),
        (
            &["--interval", "0", "--", "true"],
            "option '--interval' does not take '0'",
        ),
        (
            &["--grace", "1 fortnight", "--", "true"],
            "option '--grace' does not take",
        ),
        (&["--max-wait", "-1s", "--", "true"], "--max-wait"),
        (&["--max-tokens", "-1", "--", "true"], "--max-tokens"),
        (&["--max-tokens"], "--max-tokens"),
        (
            &["--max-tokens", "0", "--", "true"],
            "option '--max-tokens' does not take '0'",
        ),
        (
            &["--max-tokens=20X", "--", "true"],
            "option '--max-tokens' does not take '20X'",
        ),
        (
            &["--max-tokens", "99999999999G", "--", "true"],
            "option '--max-tokens' does not take '99999999999G'",
        ),
        (
            &["--retries", "many", "--", "true"],
            "option '--retries' does not take 'many'",
        ),
        (&["--resume", "claude 'open", "--", "true"], "--resume"),
        (&["--resume", "", "--", "true"], "--resume"),
        (&["-q=1", "--", "true"], "-q"),
        (
            &["--provider", "antropic", "--", "true"],
            "unknown provider 'antropic'",
        ),
        (&["--provider", "", "--", "true"], "--provider"),
        (
            &["--log", "/no/such/folder/log", "--", "true"],
            "/no/such/folder/log",
        ),
        (&["--"], "no command"),
        (&["-q"], "no command"),
    ];
    for (arguments, problem) in cases {
        refused(&mut provider, as_it_is, arguments, 125, problem);
    }
}

#[test]
fn a_scenario_without_an_end_is_not_read_to_its_end() {
    let desk = Desk::new();
    let file = std::fs::File::create(desk.join("endless")).unwrap();
    file.set_len((16 << 20) + 1).unwrap();
    let mut rehearse = desk.command(PROGRAM);
    rehearse.args(["rehearse", "--scenario", "endless"]);
    let output = output(&mut rehearse);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    let wanted = "cannot use the scenario 'endless': file too large";
    assert!(stderr.contains(wanted), "{stderr}");
}

#[test]
fn a_bad_subcommand_is_named_with_a_hint_and_125() {
    for (words, problem) in [
        (&[][..], "no command given"),
        (&["supervize"], "unknown command 'supervize'"),
        (&["help", "supervize"], "unknown command 'supervize'"),
        (&["rehearse", "--"], "no command"),
        (
            &["rehearse", "--scenario", "/no/such/file"],
            "/no/such/file",
        ),
    ] {
        let output = ddollar(words);
        assert_eq!(output.status.code(), Some(125), "{words:?}");
        let stderr = text(&output.stderr);
        assert!(stderr.contains(&format!("ddollar: {problem}")) || stderr.contains(problem));
        assert_eq!(stderr.matches("ddollar: ").count(), 1, "{stderr}");
        assert_eq!(stderr.matches("hint: ").count(), 1, "{stderr}");
        assert_eq!(output.stdout, b"");
    }
}

#[test]
fn no_tokens_is_125_and_names_the_variables_to_set() {
    let mut provider = Provider::anthropic(&[0.1]);
    refused(
        &mut provider,
        |run| run.without("ANTHROPIC_API_KEY"),
        &[],
        125,
        "no API tokens found",
    );
    // Of the provider that was asked for, there is none.
    refused(
        &mut provider,
        as_it_is,
        &["--provider", "openai", "--", "true"],
        125,
        "no API tokens found",
    );
    let run = Supervise::bare().start(&["true"]);
    run.end()
        .expect(125)
        .says(&["hint: ", "ANTHROPIC_API_KEY", "OPENAI_API_KEY"]);
}

#[test]
fn what_cannot_be_written_is_told() {
    let provider = Provider::anthropic(&[0.1]);
    let desk = Desk::new();
    for words in [
        &["version"][..],
        &["help"],
        &["generate", "man"],
        &["status"],
        &["status", "--json"],
    ] {
        let full = std::fs::File::create("/dev/full").unwrap();
        let mut command = desk.command(PROGRAM);
        command
            .args(words)
            .envs(provider.variables(&provider.url))
            .stdout(full)
            .stderr(Stdio::piped());
        let output = spawn(&mut command).wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{words:?}: {stderr}");
        assert!(
            stderr.contains("ddollar: cannot write to stdout: "),
            "{stderr}"
        );
        assert!(stderr.contains("\nhint: "), "{stderr}");
    }
}

#[test]
fn a_variable_that_looks_like_a_tokens_is_told() {
    let provider = Provider::anthropic(&[0.1]);
    let run = Supervise::with(&provider)
        .env("ANTHROPIC_API_KEY2", "x")
        .env("OPENAI_API_KEY_FILE", "x")
        .start(&["true"]);
    run.end()
        .expect(0)
        .says_once("ANTHROPIC_API_KEY2 is not read: more tokens go into ANTHROPIC_API_KEY_2, _3")
        .says_once("OPENAI_API_KEY_FILE is not read");
}

#[test]
fn a_proxy_variable_that_names_none_is_125() {
    let mut provider = Provider::anthropic(&[0.1]);
    for url in [
        "http://u:p@[",
        "gopher://127.0.0.1:1",
        "socks4://127.0.0.1:1",
        "socks5://u@127.0.0.1:1",
    ] {
        let change = |run: Supervise| {
            run.env("ANTHROPIC_BASE_URL", "https://127.0.0.1:1")
                .env("HTTPS_PROXY", url)
        };
        refused(
            &mut provider,
            change,
            &[],
            125,
            "HTTPS_PROXY does not name a proxy",
        );
    }
}

#[test]
fn a_token_that_cannot_be_one_is_125_and_is_not_repeated() {
    let mut provider = Provider::anthropic(&[0.1]);
    for (value, problem) in [
        (
            "sk-secret\nsk-secret",
            "ANTHROPIC_API_KEY contains a line break",
        ),
        ("sk secret", "ANTHROPIC_API_KEY contains white space"),
        ("   ", "ANTHROPIC_API_KEY is blank"),
        ("sk-s\u{e9}cret", "ANTHROPIC_API_KEY contains a character"),
        ("sk-ant-oat01-secret", "subscription"),
    ] {
        let change = |run: Supervise| run.env("ANTHROPIC_API_KEY", value);
        refused(&mut provider, change, &[], 125, problem);
    }
}

#[test]
fn a_token_file_that_cannot_be_used_is_125() {
    let mut provider = Provider::anthropic(&[0.1]);
    for (content, problem) in [
        (&b"sk-good\nsk-\0bad\n"[..], "line 2 contains a NUL byte"),
        (b"# nothing\n", "holds no token"),
        (b"", "holds no token"),
        (b"\xff\xfe\n", "line 1 is not text"),
        (&[b'x'; 2 << 20], "larger than 1 MiB"),
    ] {
        let change = |run: Supervise| {
            let file = run.desk().write("tokens", content);
            run.env("ANTHROPIC_API_KEYS_FILE", file)
        };
        refused(&mut provider, change, &[], 125, problem);
    }
    // The tests may run as root, who can read every file; a folder and a missing one, nobody can.
    for (path, hint) in [
        ("/", "one token a line"),
        ("/no/such/file", "check the path"),
        ("~/tokens", "give the whole path"),
    ] {
        let change = |run: Supervise| run.env("ANTHROPIC_API_KEYS_FILE", path);
        let problem = format!("cannot use '{path}' of ANTHROPIC_API_KEYS_FILE");
        refused(&mut provider, change, &[], 125, &problem);
        let run = change(Supervise::with(&provider)).start(&["true"]);
        run.end().expect(125).says(&["\nhint: ", hint]);
    }
}

#[test]
fn a_token_file_that_others_can_read_is_used_with_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let run = Supervise::with(&provider)
        .without("ANTHROPIC_API_KEY")
        .without("ANTHROPIC_API_KEY_2");
    let text = format!(
        "# mine\n{}\n\n{} group=b # other\r\n",
        provider.token(1),
        provider.token(2)
    );
    let file = run.desk().write("tokens", text);
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&file, open).unwrap();
    let mut run = run.env("ANTHROPIC_API_KEYS_FILE", &file).agent();
    run.wait_ready_with(1);
    run.finish()
        .says(&["Loaded 2 token(s)", "⚠️  Others can read or write "]);
}

#[test]
fn a_token_file_that_others_can_replace_is_used_with_a_warning() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let is_root = nix::unistd::Uid::effective().is_root();
    for (folder, owner, mend) in [
        (0o777, None, Some("chmod o-w its folder")),
        (0o1777, None, None),
        (0o755, Some(65534), Some("chown it to the user that")),
    ] {
        if owner.is_some() && !is_root {
            crate::support::pty::skipped("a file of another user", "root is needed to make one");
            continue;
        }
        let provider = Provider::anthropic(&[0.1]);
        let run = Supervise::with(&provider).without("ANTHROPIC_API_KEY");
        let place = run.desk().join("shared");
        let file = place.join("tokens");
        let set = |path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        std::fs::create_dir(&place).unwrap();
        std::fs::write(&file, provider.token(1)).unwrap();
        set(&file, 0o600);
        set(&place, folder);
        chown(&file, owner, None).unwrap();
        let run = run.env("ANTHROPIC_API_KEYS_FILE", &file).start(&["true"]);
        let ended = run.end().expect(0);
        match mend {
            Some(mend) => ended.says_once(&format!("shared/tokens' (fix: {mend}")),
            None => ended.never_says("Others can"),
        };
    }
}

#[test]
fn a_base_url_that_a_token_must_not_go_to_is_125() {
    let mut provider = Provider::anthropic(&[0.1]);
    for (url, problem) in [
        ("http://192.0.2.1:8080", "http to another machine"),
        ("http://localhost.example.com", "http to another machine"),
        ("ftp://127.0.0.1", "neither https nor http"),
        ("api.example.com", "ANTHROPIC_BASE_URL"),
        ("http://127.0.0.1@192.0.2.1", "user name"),
    ] {
        let change = |run: Supervise| run.env("ANTHROPIC_BASE_URL", url);
        refused(&mut provider, change, &[], 125, problem);
    }
}

#[test]
fn a_missing_command_is_127_and_one_that_cannot_be_executed_126() {
    let mut provider = Provider::anthropic(&[0.1]);
    let desk = Desk::new();
    let plain = desk.join("plain");
    std::fs::write(&plain, "no permission").unwrap();
    let plain = plain.to_str().unwrap();
    let folder = desk.path().to_str().unwrap();
    for (words, code, problem) in [
        (
            &["--", "no-such-command-here"][..],
            127,
            "'no-such-command-here' was not found",
        ),
        (
            &["--", "/no/such/file"],
            127,
            "'/no/such/file' was not found",
        ),
        (&["--", ""], 127, "'' was not found"),
        (&["--", plain], 126, "cannot be executed"),
        (&["--", folder], 126, "cannot be executed"),
        (
            &["--resume", "no-such-command-here", "--", "true"],
            127,
            "'no-such-command-here' (--resume) was not found",
        ),
    ] {
        refused(&mut provider, as_it_is, words, code, problem);
    }
}

#[test]
fn an_interpreter_that_is_missing_is_told_as_one_failure_of_the_start() {
    let provider = Provider::anthropic(&[0.1]);
    let run = Supervise::with(&provider);
    let file = run.desk().write("script", b"#!/no/such/interpreter\n");
    let file = file.to_str().unwrap().to_owned();
    run.start(&[&file]).end().expect(127).says(&[
        "ddollar: '",
        "its interpreter /no/such/interpreter was not found",
        "\nhint: install /no/such/interpreter",
    ]);

    let run = Supervise::with(&provider);
    let file = run.desk().write("script", b"#!/bin/sh\r\nexit 7\r\n");
    let file = file.to_str().unwrap().to_owned();
    run.start(&[&file]).end().expect(127).says(&[
        "its first line ends in CR",
        "\nhint: ",
        "sed -i",
    ]);
}

#[test]
fn half_a_program_is_not_handed_to_a_shell() {
    let provider = Provider::anthropic(&[0.1]);
    for half in [&b"\x7fELF\x02\x01"[..], b""] {
        let run = Supervise::with(&provider);
        let file = run.desk().write("half", half);
        let file = file.to_str().unwrap().to_owned();
        let ended = run.start(&[&file]).end().expect(126);
        ended.says(&["cannot be executed: exec format error"]);
    }
}

#[test]
fn what_was_meant_is_hinted_at() {
    let provider = Provider::anthropic(&[0.1]);
    for (words, hint) in [
        (&["FOO=1", "true"][..], "hint: set variables before ddollar"),
        (&["sleep 1"], "hint: it is one argument"),
        (
            &["--grace", "5s", "true"],
            "hint: options of ddollar go before",
        ),
        (&["my-function"], "hint: it is a function of your shell"),
    ] {
        let run = Supervise::with(&provider).env("BASH_FUNC_my-function%%", "() { :; }");
        run.start(words).end().expect(127).says(&[hint]);
    }
    for folder in [".", "..", "/"] {
        let run = Supervise::with(&provider);
        run.start(&[folder])
            .end()
            .expect(126)
            .says(&["it is a directory"]);
    }
}

#[test]
fn a_script_without_an_interpreter_runs_as_in_a_shell() {
    let provider = Provider::anthropic(&[0.1]);
    let run = Supervise::with(&provider);
    let file = run.desk().write("script", b"exit 7\n");
    let file = file.to_str().unwrap().to_owned();
    run.start(&[&file]).end().expect(7);
}
