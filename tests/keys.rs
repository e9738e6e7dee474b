//! A key in a place where none belongs is not printed and not written: a user who has slipped once must
//! not find the key in a log that is passed on.

use crate::output::written_to_a_terminal;
use crate::support::env::{Desk, PROGRAM, output};
use crate::support::{Provider, Supervise};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A key as providers issue them, and as long: it does not fit on a line of a terminal.
const KEY: &str = "sk-ant-api03-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789aBcDeFgHiJkLmNoPqRsTuVwXyZ-9876543210_zYxWvUtSrQpO-x2Lp";

/// The options of a command that take a value, as its help lists them.
fn options_of(command: &str) -> Vec<String> {
    let help = output(Command::new(PROGRAM).args(["help", command]));
    let help = String::from_utf8(help.stdout).unwrap();
    let mut found = Vec::new();
    for line in help.lines().filter(|line| line.starts_with("  ")) {
        // `      --log FILE   append ...`; what a switch does stands two columns and more behind it.
        let Some(at) = line.find("--").filter(|at| *at <= 6) else {
            continue;
        };
        let option = line[at..].split("  ").next().unwrap();
        if let Some((name, _value)) = option.split_once(' ') {
            found.push(name.to_owned());
        }
    }
    found
}

/// Whether a text gives away more of the key than its end.
fn gives_away(text: &str) -> bool {
    (0..=KEY.len() - 12).any(|at| text.contains(&KEY[at..at + 12]))
}

/// Looks into what ddollar has written below a folder; not at the test's own files.
fn assert_no_file_gives_away(folder: &Path, own: &[&str]) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            assert_no_file_gives_away(&path, own);
        } else if !own.contains(&&*entry.file_name().to_string_lossy()) {
            let text = fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            assert!(!gives_away(&text), "{}: {text}", path.display());
        }
    }
}

/// Runs ddollar with these arguments and variables, and looks at all that came of it.
fn try_with(arguments: &[&str], variables: &[(&str, &str)]) {
    try_with_file(arguments, variables, "");
}

/// The same, with this text in the file `own`. Returns what was on stdout.
fn try_with_file(arguments: &[&str], variables: &[(&str, &str)], text: &str) -> String {
    let desk = Desk::new();
    fs::create_dir(desk.join("folder")).unwrap();
    desk.write("own", text);
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
    // A state file that is damaged is set aside as it is.
    assert_no_file_gives_away(desk.path(), &[KEY, "own", "own.damaged"]);
    String::from_utf8(made.stdout).unwrap()
}

#[test]
fn as_the_value_of_any_option() {
    for command in ["supervise", "rehearse", "status", "report", "proxy"] {
        let options = options_of(command);
        let least = match command {
            "supervise" | "rehearse" => 18,
            "proxy" => 10,
            "status" => 6,
            _ => 1,
        };
        assert!(options.len() >= least, "{command}: {options:?}");
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
            // As a whole it is refused at once; within a path or a name it may be used.
            let within = format!("folder/{KEY}");
            try_with(&[&[command, &option, &within], rest].concat(), &[]);
        }
    }
}

#[test]
fn as_an_argument_of_any_command() {
    let assigned = format!("ANTHROPIC_API_KEY={KEY}");
    let long = format!("--api-key={KEY}");
    // A line of so many characters is shown up to the middle of the key.
    let before = "x".repeat(276);
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
        &["supervise", "--", "true", &before, KEY],
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

/// The names of variables in the program's text, and words that look the same there.
fn names_in(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            names_in(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let is_name = |word: &&str| {
            let plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            word.len() > 3
                && word.starts_with(|c: char| c.is_ascii_uppercase())
                && word.chars().all(plain)
        };
        found.extend(text.split('"').filter(is_name).map(str::to_owned));
    }
}

#[test]
fn in_any_variable_that_the_program_names() {
    let mut names = BTreeSet::new();
    names_in(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")),
        &mut names,
    );
    for known in [
        "MISTRAL_API_BASE",
        "NO_PROXY",
        "COPILOT_MODEL",
        "OPENAI_MODEL",
    ] {
        assert!(names.contains(known), "{known}: {names:?}");
    }
    let arguments = ["supervise", "-v", "--log", "log", "--", "true"];
    for name in names {
        try_with(&arguments, &[(&name, KEY)]);
    }
}

#[test]
fn in_any_file() {
    let tokens = [("ANTHROPIC_API_KEYS_FILE", "own")];
    let supervise = ["supervise", "-v", "--log", "log", "--", "true"];
    for line in [
        KEY.to_owned(),
        format!("\"{KEY}\""),
        format!("{KEY} {KEY}"),
        format!("{KEY} group={KEY}"),
        format!("one-token-of-mine\n{KEY},"),
        format!("export ANTHROPIC_API_KEY='{KEY}'\nOTHER={KEY}"),
        format!("\0{KEY}"),
    ] {
        try_with_file(&supervise, &tokens, &line);
        try_with_file(&["status", "--json"], &tokens, &line);
    }
    let json = format!("{{\"{KEY}\": \"{KEY}\"}}");
    let journal = format!(
        "{{\"at\":\"2027-01-01T00:00:00Z\",\"event\":\"run\",\"journal\":1,\"ddollar\":\"{KEY}\",\"pid\":1,\
         \"command\":\"x {KEY}\",\"threshold\":0.95,\"providers\":[]}}\n\
         {{\"at\":\"2027-01-01T00:00:01Z\",\"event\":\"note\",\"text\":\"{KEY}\"}}\n"
    );
    let shown = try_with_file(&["report", "own"], &[], &journal);
    assert_eq!(shown.matches("(key …x2Lp)").count(), 2, "{shown}");
    for text in [KEY, &json, &journal] {
        for arguments in [
            &["report", "own"][..],
            &["report", "--ascii", "own"],
            &["report", "own", "--json"],
            &["report", "own", "--svg", "-"],
            &["report", "own", "--svg", "picture"],
            &["supervise", "--state", "own", "--", "true"],
            &[
                "supervise",
                "--client",
                "claude",
                "--",
                "true",
                "--settings",
                "own",
            ],
            &["status", "--state", "own"],
            &["rehearse", "--scenario", "own", "--", "true"],
        ] {
            try_with_file(arguments, &[], text);
            try_with_file(arguments, &[("COLUMNS", "40")], text);
        }
        try_with_file(&supervise, &[("SSL_CERT_FILE", "own")], text);
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

#[test]
fn on_a_terminal_that_is_narrower_than_the_key() {
    let key = [
        ("ANTHROPIC_API_KEY", KEY),
        ("ANTHROPIC_BASE_URL", "http://127.0.0.1:1"),
    ];
    let path = format!("/nope/{KEY}");
    for columns in [20, 40, 80, 132] {
        for (arguments, variables) in [
            (&["supervise", "--", "true", "--api-key", KEY][..], &key[..]),
            (&["supervise", "--", &path], &key),
            (&["supervise", "--log", KEY, "true"], &key),
            (&["supervise", "true"], &[("ANTHROPIC_API_KEYS_FILE", KEY)]),
        ] {
            let (text, _) = written_to_a_terminal(columns, arguments, variables);
            let joined: String = text.split_whitespace().collect();
            assert!(!gives_away(&joined), "{arguments:?} on {columns}: {text}");
        }
    }
}
