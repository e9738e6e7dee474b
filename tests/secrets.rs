//! No token anywhere but in the child's environment and in the requests to its provider.

use crate::support::proc::Process;
use crate::support::{Desk, Fault, Faulty, Provider, Run, Supervise, eventually, proc, spent_at};
use nix::sys::signal::Signal;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::{fs, thread};

/// Asserts that no process of this machine shows a token on its command line.
fn assert_no_command_line_holds(tokens: &[String]) {
    for process in Process::all() {
        let line = proc::command_line(process.pid).join(" ");
        assert!(
            !tokens.iter().any(|token| line.contains(token)),
            "{}",
            process.pid
        );
    }
}

/// Whether `text` holds eight characters in a row of one of the tokens: a dump in rows, or a
/// "shortened" token, is one too many.
fn holds_part_of(tokens: &[String], text: &str) -> bool {
    tokens.iter().any(|token| {
        let mut parts = (0..=token.len() - 8).map(|at| &token[at..at + 8]);
        parts.any(|part| text.contains(part))
    })
}

/// Asserts that no file below `folder` holds a token; returns how many files there are.
fn assert_no_file_holds(tokens: &[String], folder: &Path) -> usize {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            if path.is_dir() {
                return assert_no_file_holds(tokens, &path);
            }
            let bytes = fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            assert!(!holds_part_of(tokens, &text), "{}", path.display());
            1
        })
        .sum()
}

fn look_everywhere(run: &Run, tokens: &[String]) {
    assert_no_command_line_holds(tokens);
    assert!(
        assert_no_file_holds(tokens, run.desk.path()) >= 2,
        "the script and the log, and soon the state and the journal"
    );
    for text in [run.stdout.text(), run.stderr.text()] {
        assert!(!holds_part_of(tokens, &text), "{text}");
    }
}

#[test]
fn no_token_shows_in_a_night_with_everything_that_can_go_wrong() {
    let mut provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    let front = Faulty::front_of(&provider);
    let tokens = provider.tokens().to_vec();
    let mut run = Supervise::behind(&provider, &front.url)
        .options(&[
            "-v",
            "--log",
            "trace.log",
            "--patience",
            "0s",
            "--retries",
            "1",
        ])
        .env("DDOLLAR_LOG", "trace")
        .env("RUST_BACKTRACE", "1")
        .agent();
    run.wait_ready_with(1);
    provider.wait_for_probe("anthropic#3");
    look_everywhere(&run, &tokens);

    // A rotation, a rejected token, a wait, a failure, an outage.
    provider.set("org-1", 0.96);
    run.wait_ready_with(2);
    provider.control(json!({"answer": {"token": "anthropic#2", "fault": "401"}}));
    let pid = run.wait_ready_with(3);
    look_everywhere(&run, &tokens);
    provider.control(json!([spent_at("org-1", "9m"), spent_at("org-3", "6s")]));
    run.wait_stopped(pid);
    look_everywhere(&run, &tokens);
    run.stderr.wait("Session continued");
    run.tell("exit 1");
    run.wait_ready_with(3);
    front.fault(Fault::Garbage);
    provider.control(json!({"clear": {"token": "anthropic#2"}}));
    run.stderr.wait("cannot be reached");
    look_everywhere(&run, &tokens);
    run.tell("exit 0");
    let log = run.desk.join("trace.log");
    run.stderr.wait("completed");
    assert!(run.desk.join(".local/state/ddollar/state.json").exists());
    look_everywhere(&run, &tokens);
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains(" DEBUG ddollar::providers::monitor"), "{log}");
    assert!(!holds_part_of(&tokens, &log));
    let ended = run.end().expect(0);
    assert!(!holds_part_of(&tokens, &ended.stderr));
}

/// A provider that says back, as `answer` wants it, whatever it is sent.
fn echo(answer: fn(&str) -> String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut buffer = [0; 4096];
            while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(count @ 1..) => head.extend_from_slice(&buffer[..count]),
                    _ => break,
                }
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let key = head
                .lines()
                .find_map(|line| line.strip_prefix("x-api-key: "))
                .unwrap_or("none");
            let _ = stream.write_all(answer(key).as_bytes());
        }
    });
    format!("http://{address}")
}

#[test]
fn no_token_shows_when_the_provider_says_it_back() {
    let answers: [fn(&str) -> String; 7] = [
        |key| format!("{key} is not HTTP\r\n\r\n"),
        |key| format!("HTTP/1.1 200 OK\r\n{key}\r\n\r\n"),
        |key| format!("HTTP/1.1 {key}\r\n\r\n"),
        |key| {
            format!(
                "HTTP/1.1 302 {key}\r\nlocation: http://{key}/{key}\r\ncontent-length: 0\r\n\r\n"
            )
        },
        |key| format!("HTTP/1.1 200 OK\r\ncontent-length: {key}\r\n\r\n{key}"),
        |key| {
            format!(
                "HTTP/1.1 429 {key}\r\nretry-after: {key}\r\nanthropic-organization-id: {key}\r\n\
                anthropic-ratelimit-requests-limit: {key}\r\nanthropic-ratelimit-{key}-limit: 9\r\n\
                anthropic-ratelimit-{key}-remaining: 8\r\ncontent-length: 0\r\n\r\n"
            )
        },
        |key| {
            let body = format!(
                "{{\"type\":\"error\",\"error\":{{\"type\":\"{key}\",\"message\":\"{key}\"}}}}"
            );
            format!(
                "HTTP/1.1 400 Bad\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
        },
    ];
    let state = Desk::new();
    let runs = answers.map(|answer| {
        let provider = Provider::anthropic(&[0.1]);
        let run = Supervise::behind(&provider, &echo(answer))
            .options(&["-v", "--log", "trace.log", "--notify", "env >>news"])
            .env("XDG_STATE_HOME", state.path())
            .env("DDOLLAR_LOG", "trace")
            .agent();
        (provider, run)
    });
    for (provider, run) in runs {
        let log = run.desk.join("trace.log");
        eventually("an answer was dealt with", || {
            let log = fs::read_to_string(&log).ok()?;
            let done = ["Monitor:", "cannot be reached", "shows no limits"];
            done.iter().any(|words| log.contains(words)).then_some(())
        });
        look_everywhere(&run, provider.tokens());
        // The 429 may pause the agent before its first word, and before it minds a SIGTERM.
        run.signal(Signal::SIGTERM);
        let ended = run.end();
        assert!(
            !holds_part_of(provider.tokens(), &ended.stderr),
            "{}",
            ended.stderr
        );
        assert_no_file_holds(provider.tokens(), state.path());
    }
    assert!(state.join("ddollar/state.json").exists(), "a 429 is kept");
}

#[test]
fn a_token_on_the_childs_own_command_line_is_not_repeated() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let log = Desk::new();
    let file = log.join("log");
    let ended = Supervise::with(&provider)
        .options(&["--log", file.to_str().unwrap()])
        .start(&[
            "true",
            "--key",
            provider.token(1),
            &format!("--key={}", provider.token(2)),
        ])
        .end()
        .expect(0)
        .says(&["Launching: true --key "]);
    let tokens = provider.tokens();
    assert!(!holds_part_of(tokens, &ended.stderr), "{}", ended.stderr);
    assert_no_file_holds(tokens, log.path());
}

#[test]
fn a_token_in_the_place_of_an_option_or_command_is_not_repeated() {
    let provider = Provider::anthropic(&[0.1]);
    let token = provider.token(1);
    let own = format!("{token}.");
    for (words, code) in [
        (&["supervise", "--", token][..], 127),
        (
            &["supervise", "--model", "m", "--resume", token, "--", "true"],
            125,
        ),
        (
            &["supervise", "--model", "m", "--resume", &own, "--", "true"],
            127,
        ),
    ] {
        let ended = Supervise::with(&provider).start_as(words).end();
        assert_eq!(ended.code(), code);
        assert!(!ended.stderr.contains(token), "{}", ended.stderr);
    }
}

#[test]
#[cfg_attr(feature = "portable", ignore = "/proc is not there")]
fn a_command_that_gets_the_secret_alone_finds_no_token_in_an_environment_either() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    for options in [&["--proxy"][..], &["--client", "claude"]] {
        let run = Supervise::with(&provider).options(options);
        let script = "#!/bin/sh\nfor process in $PPID $$; do \
                      tr '\\0' '\\n' </proc/$process/environ; done; \
                      tr '\\0' ' ' </proc/$PPID/cmdline";
        let program = run.desk().write("look", script);
        let ended = run.start(&[program.to_str().unwrap()]).end().expect(0);
        let said = String::from_utf8(ended.stdout.clone()).unwrap();
        assert!(said.contains("HOME="), "{said}");
        assert!(said.contains(" supervise "), "{said}");
        for token in [1, 2] {
            assert!(!said.contains(provider.token(token)), "{said}");
        }
        ended.says(&["Loaded 2 token(s)"]);
    }
}
