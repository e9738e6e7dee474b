//! The man page and the completions, in the programs that they are for.

use crate::support::Desk;
use crate::support::env::PROGRAM;
use crate::support::pty::{Setup, skipped};
use std::process::{Command, Stdio};

fn generated(kind: &str) -> String {
    let output = Desk::new()
        .command(PROGRAM)
        .args(["generate", kind])
        .output();
    let output = output.unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    String::from_utf8(output.stdout).unwrap()
}

fn is_there(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "command -v \"$0\"", program])
        .stdout(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}

const RUN: &str = "20261129T100913Z-10756";

/// As if one run was kept in this home folder.
fn keep_a_run(desk: &Desk) {
    let runs = desk.join(".local/state/ddollar/runs");
    std::fs::create_dir_all(&runs).unwrap();
    std::fs::write(runs.join(format!("{RUN}.jsonl")), "").unwrap();
}

/// What bash would offer for a command line whose last word is at the cursor.
fn offered(desk: &Desk, line: &[&str]) -> Vec<String> {
    let script = "source complete.bash; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _ddollar; \
                  printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output = desk
        .command("bash")
        .args(["--norc", "-c", script, "bash"])
        .args(line)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.retain(|line| !line.is_empty());
    lines.sort();
    lines.dedup();
    lines
}

#[test]
fn bash_completes_subcommands_options_values_and_the_commands_own_line() {
    let desk = Desk::new();
    desk.write("complete.bash", generated("complete-bash"));
    desk.write("notes.txt", "");
    assert_eq!(offered(&desk, &["ddollar", "report", "2"]), [""; 0]);
    keep_a_run(&desk);
    for (line, wanted) in [
        (&["ddollar", "report", "2"][..], &[RUN][..]),
        (&["ddollar", "s"], &["status", "supervise"]),
        (&["ddollar", "supervise", "--th"], &["--threshold"]),
        (&["ddollar", "supervise", "--svg"], &[]),
        (
            &["ddollar", "supervise", "--provider", "anthr"],
            &["anthropic"],
        ),
        (
            &["ddollar", "supervise", "--provider", "anthropic,op"],
            &["anthropic,openai", "anthropic,openrouter"],
        ),
        (
            &["ddollar", "supervise", "--provider", "groq,openai,anthr"],
            &["groq,openai,anthropic"],
        ),
        (&["ddollar", "supervise", "--client", "codex,cl"], &[]),
        (&["ddollar", "supervise", "--threshold", ""], &[]),
        (&["ddollar", "supervise", "--log", "no"], &["notes.txt"]),
        (
            &["ddollar", "supervise", "--log", "x", "--grac"],
            &["--grace"],
        ),
        (
            &["ddollar", "supervise", "-q", "--", "unshar"],
            &["unshare"],
        ),
        (&["ddollar", "supervise", "unshar"], &["unshare"]),
        (&["ddollar", "supervise", "--", "cat", "no"], &["notes.txt"]),
        (&["ddollar", "supervise", "cat", "--thre"], &[]),
        (&["ddollar", "report", "no"], &["notes.txt"]),
        (&["ddollar", "report", "--j"], &["--json"]),
        (&["ddollar", "status", "--watch", "--as"], &["--ascii"]),
        (&["ddollar", "generate", "complete-z"], &["complete-zsh"]),
        (&["ddollar", "help", "reh"], &["rehearse"]),
        (&["ddollar", "nonsense", "x"], &[]),
    ] {
        assert_eq!(offered(&desk, line), wanted, "{line:?}");
    }
}

#[test]
fn zsh_completes_subcommands_and_options() {
    if !is_there("zsh") {
        return skipped("completion", "zsh is missing");
    }
    let setup = Setup::new();
    keep_a_run(&setup.desk);
    setup.desk.write("_ddollar", generated("complete-zsh"));
    let rc = "PS1='ready> '; fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D\n\
              ddollar() { print -r -- \"<$*>\" }\n";
    setup.desk.write(".zshrc", rc);
    let mut command = setup.command("zsh");
    command.env("ZDOTDIR", setup.desk.path()).arg("-i");
    let mut screen = setup.screen(command);
    screen.wait("ready> ");
    for (keys, wanted) in [
        (
            "ddollar superv\t--thr\t90 -q -- unshar\t--x\n",
            "<supervise --threshold=90 -q -- unshare --x>",
        ),
        ("ddollar rep\t--js\t\n", "<report --json>"),
        ("ddollar rep\t2\t\n", "<report 20261129T100913Z-10756>"),
        ("ddollar gen\tcomplete-f\t\n", "<generate complete-fish>"),
        (
            "ddollar stat\t--provider anthr\t\n",
            "<status --provider anthropic>",
        ),
        (
            "ddollar stat\t--provider groq,anthr\t\n",
            "<status --provider groq,anthropic>",
        ),
    ] {
        screen.keys(keys);
        screen.wait(wanted);
        screen.wait("ready> ");
    }
    screen.keys("exit\n");
    screen.end();
}

#[test]
fn fish_completes_subcommands_and_options() {
    if !is_there("fish") {
        return skipped("completion", "fish is missing");
    }
    let desk = Desk::new();
    keep_a_run(&desk);
    desk.write("ddollar.fish", generated("complete-fish"));
    for (line, wanted) in [
        ("ddollar superv", "supervise\t"),
        ("ddollar supervise --thr", "--threshold\t"),
        ("ddollar supervise --provider anthr", "anthropic\t"),
        ("ddollar supervise --provider groq,anthr", "groq,anthropic"),
        (
            "ddollar supervise --provider=groq,anthr",
            "--provider=groq,anthropic",
        ),
        ("ddollar report --js", "--json\t"),
        ("ddollar report 2", RUN),
        ("ddollar generate complete-z", "complete-zsh"),
    ] {
        let script = format!("source ddollar.fish; complete -C '{line}'");
        let output = desk
            .command("fish")
            .args(["--no-config", "-c", &script])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with(wanted), "{line}: {text}");
        assert_eq!(text.lines().count(), 1, "{line}: {text}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}

#[test]
fn the_man_page_renders_without_a_warning() {
    if !is_there("groff") {
        return skipped("man page", "groff is missing");
    }
    let desk = Desk::new();
    let page = desk.write("ddollar.1", generated("man"));
    let output = desk
        .command("groff")
        .args(["-man", "-ww", "-Tascii", "-P-cbou"])
        .arg(page)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "NAME",
        "SYNOPSIS",
        "OPTIONS",
        "EXIT STATUS",
        "--threshold PERCENT",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn what_cannot_be_generated_is_named_with_a_hint() {
    for (word, problem) in [
        ("complete-csh", "'complete-csh' cannot be generated"),
        ("", "'generate' needs to know what"),
    ] {
        let output = Desk::new()
            .command(PROGRAM)
            .args(["generate", word])
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0));
        assert!(
            stderr.contains(problem) && stderr.contains("\nhint: say which: "),
            "{stderr}"
        );
    }
}
