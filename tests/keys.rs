//! A key in a place where none belongs is not printed and not written: a user who has slipped once must
//! not find the key in a log that is passed on.

use crate::support::env::{Desk, PROGRAM, output};
use crate::support::{Provider, Supervise};
use std::fs;
use std::path::Path;
use std::process::Command;

/// A key as providers issue them.
const KEY: &str = "sk-ant-api03-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-x2Lp";

/// The options of a command that take a value, as its help lists them.
fn options_of(command: &str) -> Vec<String> {
    let help = output(Command::new(PROGRAM).args(["help", command]));
    let help = String::from_utf8(help.stdout).unwrap();
    let mut found = Vec::new();
    for line in help.lines().filter(|line| line.starts_with("  ")) {
        let mut words = line
            .split_whitespace()
            .skip_while(|word| !word.starts_with("--"));
        let Some(option) = words.next() else { continue };
        let is_option = line.find("--").is_some_and(|at| at <= 6);
        let takes_value = words.next().is_some_and(|word| {
            let name = word.split(['[', ',']).next().unwrap_or_default();
            name.len() > 1 && name.chars().all(|c| c.is_ascii_uppercase() || c == ':')
        });
        if is_option && takes_value {
            found.push(option.to_owned());
        }
    }
    found
}

/// Whether a text gives away more of the key than its end.
fn gives_away(text: &str) -> bool {
    (0..=KEY.len() - 12).any(|at| text.contains(&KEY[at..at + 12]))
}

/// Looks into what ddollar has written below a folder; not at the key's own file.
fn assert_no_file_gives_away(folder: &Path, own: &str) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            assert_no_file_gives_away(&path, own);
        } else if entry.file_name() != own {
            let text = fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            assert!(!gives_away(&text), "{}: {text}", path.display());
        }
    }
}

/// Runs ddollar with these arguments and variables, and looks at all that came of it.
fn try_with(arguments: &[&str], variables: &[(&str, &str)]) {
    let desk = Desk::new();
    let mut command = desk.command(PROGRAM);
    command
        .args(arguments)
        .env("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
        .env(
            "ANTHROPIC_API_KEY",
            "sk-ant-api03-a-token-that-nobody-looks-for",
        )
        .env("DDOLLAR_LOG", "trace")
        .envs(variables.iter().copied());
    let made = output(command.stdin(std::process::Stdio::null()));
    for text in [&made.stdout, &made.stderr] {
        let text = String::from_utf8_lossy(text);
        assert!(!gives_away(&text), "{arguments:?} {variables:?}: {text}");
    }
    assert_no_file_gives_away(desk.path(), KEY);
}

#[test]
fn as_the_value_of_any_option() {
    for command in ["supervise", "rehearse", "status", "report", "proxy"] {
        let options = options_of(command);
        assert!(!options.is_empty(), "{command}");
        for option in options {
            // It would serve until it is told to end.
            let rest: &[&str] = match command {
                "supervise" | "rehearse" => &["--", "true"],
                "proxy" => &["--listen", "none"],
                _ => &[],
            };
            let joined = format!("{option}={KEY}");
            try_with(&[&[command, &joined], rest].concat(), &[]);
            try_with(&[&[command, &option, KEY], rest].concat(), &[]);
        }
    }
}

#[test]
fn as_an_argument_of_any_command() {
    let assigned = format!("ANTHROPIC_API_KEY={KEY}");
    let long = format!("--api-key={KEY}");
    for arguments in [
        &[KEY][..],
        &["help", KEY],
        &["generate", KEY],
        &["status", KEY],
        &["report", KEY],
        &["proxy", KEY],
        &["supervise", KEY],
        &["supervise", "--", KEY],
        &["supervise", "--", &assigned, "claude"],
        &["supervise", "--", "true", "--api-key", KEY],
        &["supervise", "--", "true", &long],
        &["supervise", "-v", "--log", "log", "--", "true", KEY],
        &["supervise", "--journal", "j", "--", "true", KEY],
        &[
            "supervise",
            "--resume",
            &format!("false {KEY}"),
            "--",
            "true",
        ],
    ] {
        try_with(arguments, &[]);
    }
}

#[test]
fn in_any_variable() {
    for name in [
        "ANTHROPIC_API_KEYS_FILE",
        "ANTHROPIC_BASE_URL",
        "ANTHROPIC_MODEL",
        "ANTHROPIC_API_KEYS_FLIE",
        "ANTHROPIC_API_KEY1",
        "ANTHROPIC_WORKSPACE_ID",
        "OPENAI_BASE_URL",
        "HTTPS_PROXY",
        "SSL_CERT_FILE",
        "XDG_STATE_HOME",
        "DDOLLAR_LOG",
        "NOTIFY_SOCKET",
        "TERM",
        "TZ",
        "LANG",
        "COLUMNS",
    ] {
        let arguments = ["supervise", "-v", "--log", "log", "--", "true"];
        try_with(&arguments, &[(name, KEY)]);
        try_with(&["status"], &[(name, KEY)]);
    }
}

#[test]
fn in_the_command_of_a_whole_run() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let run = Supervise::with(&provider)
        .options(&["-v", "--log", "log", "--journal", "journal"])
        .env("DDOLLAR_LOG", "trace")
        .start(&["sh", "-c", "exit 0", "echo", "--api-key", KEY]);
    let journal = run.desk.join("journal");
    let log = run.desk.join("log");
    let ended = run.end().expect(0);
    assert!(ended.stderr.contains("--api-key"), "{}", ended.stderr);
    for text in [
        ended.stderr.clone(),
        fs::read_to_string(&journal).unwrap_or_default(),
        fs::read_to_string(&log).unwrap_or_default(),
    ] {
        assert!(!gives_away(&text), "{text}");
    }
}
