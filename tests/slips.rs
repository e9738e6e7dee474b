//! The slips of a first evening: each gives one message that says what was meant.

use crate::support::env::{Desk, PROGRAM, output};
use crate::support::{Provider, Supervise};
use std::process::Stdio;

/// A key as Anthropic issues them.
const KEY: &str = "sk-ant-api03-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-x2Lp";

/// What ddollar says to these arguments and variables, which it cannot start with.
#[track_caller]
fn refusal(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let desk = Desk::new();
    let mut command = desk.command(PROGRAM);
    let made = output(
        command
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null()),
    );
    let code = made.status.code();
    assert!(matches!(code, Some(125 | 127)), "{arguments:?}: {code:?}");
    let stderr = String::from_utf8(made.stderr).unwrap();
    assert!(!stderr.contains("AbCdEfGh"), "{stderr}");
    assert!(!stderr.contains("Launching"), "{stderr}");
    let from = stderr.find("ddollar: ").expect(&stderr);
    stderr[from..].to_owned()
}

#[test]
fn what_is_no_token_is_refused_before_anyone_is_asked() {
    let quoted = format!("\"{KEY}\"");
    let curly = format!("“{KEY}”");
    let spaced = format!("{KEY}\u{200b}");
    let json = format!("{{\"key\":\"{KEY}\"}}");
    let bearer = format!("Bearer {KEY}");
    let header = format!("Authorization: {bearer}");
    let exported = format!("export ANTHROPIC_API_KEY={KEY}");
    for (value, why, hint) in [
        (
            "/home/me/keys",
            "is the path of a file",
            "ANTHROPIC_API_KEYS_FILE",
        ),
        ("~/keys", "is the path of a file", "ANTHROPIC_API_KEYS_FILE"),
        (
            "your-key-here",
            "is a placeholder from an example",
            "your own token",
        ),
        (
            "sk-ant-...",
            "is a placeholder from an example",
            "your own token",
        ),
        (
            "<your key>",
            "is a placeholder from an example",
            "your own token",
        ),
        (
            "$MY_KEY",
            "is the name of a variable, not its value",
            "within single quotes",
        ),
        (&curly, "has quotes around it", "without them"),
        (&header, "begins like a header", "without 'Bearer'"),
        (&json, "is a piece of JSON", "the token alone"),
        (
            "sk-ant-admin01-0123456789abcdefghij",
            "is an admin key",
            "an ordinary API key",
        ),
        (&spaced, "contains a character", "copy it again"),
        (&quoted, "has quotes around it", "without them"),
        (
            &bearer,
            "begins like a header of a request",
            "without 'Bearer'",
        ),
        (&exported, "is a whole line NAME=TOKEN", "without its name"),
        (
            "sk-proj-0123456789abcdefghijklmnop",
            "is OpenAI's, not Anthropic's",
            "put it into OPENAI_API_KEY",
        ),
        (
            "gsk_0123456789abcdefghijklmnop",
            "is Groq's, not Anthropic's",
            "put it into GROQ_API_KEY",
        ),
    ] {
        let said = refusal(&["supervise", "true"], &[("ANTHROPIC_API_KEY", value)]);
        let wanted = format!("ddollar: the token in ANTHROPIC_API_KEY {why}");
        assert!(said.starts_with(&wanted), "{said}");
        let hints = said.matches("\nhint: ").count();
        assert!(hints == 1 && said.contains(hint), "{said}");
    }
    let said = refusal(&["supervise", "true"], &[("OPENAI_API_KEY", KEY)]);
    assert!(said.contains("is Anthropic's, not OpenAI's\nhint: put it into ANTHROPIC_API_KEY\n"));
}

#[test]
fn a_token_in_another_place_is_sent_to_its_own() {
    let key = [("ANTHROPIC_API_KEY", KEY)];
    let assignment = format!("ANTHROPIC_API_KEY={KEY}");
    for (arguments, variables, hint) in [
        (
            &["supervise", "true"][..],
            &[("ANTHROPIC_API_KEYS_FILE", KEY)][..],
            "that is a token, not a path: put it into ANTHROPIC_API_KEY\n",
        ),
        (
            &["supervise", "--provider", KEY, "true"],
            &key,
            "that is a token: put it into a variable such as ANTHROPIC_API_KEY",
        ),
        (
            &["supervise", "--log", KEY, "true"],
            &key,
            "that is a token: put it into a variable such as ANTHROPIC_API_KEY; --log takes FILE\n",
        ),
        (
            &["supervise", "--model", KEY, "true"],
            &key,
            "that is a token: put it into a variable such as ANTHROPIC_API_KEY; --model takes MODEL\n",
        ),
        (&["report", KEY], &key, "that is a token, not a path"),
        (
            &["supervise", "--", &assignment, "claude"],
            &key,
            "set variables before ddollar, or with env: '-- env NAME=VALUE COMMAND'",
        ),
    ] {
        let said = refusal(arguments, variables);
        assert!(said.contains(&format!("\nhint: {hint}")), "{said}");
    }
}

#[test]
fn a_variable_of_another_name_is_named_where_there_is_no_token() {
    for name in [
        "ANTHROPIC_API_KEY1",
        "ANTHROPIC_API_KEY_FILE",
        "ANTHROPIC_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "anthropic_api_key",
    ] {
        let said = refusal(&["supervise", "true"], &[(name, KEY)]);
        let wanted =
            format!("\nhint: {name} is set, but ddollar does not read it; set ANTHROPIC_API_KEY");
        assert!(said.contains(&wanted), "{said}");
    }
    let line = ["supervise", "--provider", "openai", "true"];
    let said = refusal(&line, &[("ANTHROPIC_API_KEY", KEY)]);
    assert!(said.contains("\nhint: set OPENAI_API_KEY"), "{said}");
}

#[test]
fn a_fraction_a_day_and_a_command_of_another_program() {
    let key = [("ANTHROPIC_API_KEY", KEY)];
    let said = refusal(&["supervise", "--threshold", "0.95", "true"], &key);
    assert!(
        said.contains("above 0, up to 100; did you mean 95?\n"),
        "{said}"
    );
    for word in ["doctor", "check", "init"] {
        let said = refusal(&[word], &[]);
        assert!(said.contains("did you mean 'status'?"), "{said}");
    }
    for (arguments, hint) in [
        (&["list"][..], "did you mean 'report'?"),
        (
            &["supervise", "--provider", "claude", "true"],
            "did you mean 'anthropic'?",
        ),
        (&["report", "monday"], "'ddollar report --list' names"),
    ] {
        let said = refusal(arguments, &key);
        assert!(said.contains(hint), "{said}");
    }
    let provider = Provider::anthropic(&[0.1]);
    let run = Supervise::with(&provider)
        .options(&["--interval", "1d"])
        .start(&["true"]);
    run.end().expect(0).says(&["checking limits every 24h"]);
}

#[test]
fn without_a_word_it_says_what_it_is_and_three_commands() {
    let said = refusal(&[], &[]);
    for part in [
        "across API rate limits",
        "\n  ddollar rehearse ",
        "\n  ddollar status ",
        "\n  ddollar supervise -- COMMAND ",
        "ddollar help",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn a_file_of_variables_and_a_lines_end_do_no_harm() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let run = Supervise::with(&provider).without("ANTHROPIC_API_KEY_2");
    let text = format!(
        "# mine\nDEBUG=1\nexport ANTHROPIC_API_KEY=\"{}\"\nOPENAI_API_KEY=sk-other\n",
        provider.token(2)
    );
    let file = run.desk().write(".env", text);
    let mut run = run
        .env("ANTHROPIC_API_KEY", format!("{}\n", provider.token(1)))
        .env("ANTHROPIC_API_KEYS_FILE", &file)
        .agent();
    run.wait_ready_with(1);
    run.finish()
        .says(&["Loaded 2 token(s) across 1 provider(s)"]);
}

#[test]
fn a_slip_in_a_token_file_has_the_hint_of_a_file() {
    for (text, why, hint) in [
        (
            format!("{KEY},{KEY}"),
            "', line 1 contains a comma or semicolon\n",
            "hint: the file holds one token a line",
        ),
        (
            "OPENAI_API_KEY=sk-proj-0123456789abcdefghijklmnop".into(),
            "': it holds no token\n",
            "in a .env file, the lines of this provider's variable count",
        ),
        (
            format!("{{\"anthropic\":\"{KEY}\"}}"),
            "', line 1 is a piece of JSON",
            "hint: write the token alone",
        ),
    ] {
        let desk = Desk::new();
        let file = desk.write("keys", text);
        let file = file.to_str().unwrap();
        let said = refusal(&["supervise", "true"], &[("ANTHROPIC_API_KEYS_FILE", file)]);
        assert!(
            said.contains(why.trim_start_matches("': ")) && said.contains(hint),
            "{said}"
        );
    }
}

/// cron and systemd start programs without what a login adds to PATH.
#[test]
fn a_command_that_only_a_login_shell_finds_is_found() {
    for folder in [".local/bin", ".nvm/versions/node/v24.1.0/bin"] {
        let home = Desk::new();
        let folder = home.join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("nightly"), "#!/bin/sh\n").unwrap();
        let variables = [
            ("HOME", home.path().to_str().unwrap()),
            ("ANTHROPIC_API_KEY", KEY),
        ];
        let said = refusal(&["supervise", "--", "nightly"], &variables);
        let hint = format!(
            "hint: it is in {}, which is not in PATH here\n",
            folder.display()
        );
        assert!(said.ends_with(&hint), "{said}");
    }
}
