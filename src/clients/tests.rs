//! Tests that concern several clients, and helpers for the tests of each.

use super::*;
use crate::providers::by_name;
use crate::tokens::condition::Trouble;

pub(super) fn words(line: &str) -> Vec<OsString> {
    shlex::split(line)
        .unwrap()
        .into_iter()
        .map(Into::into)
        .collect()
}

pub(super) fn text(words: &[OsString]) -> String {
    shlex::try_join(words.iter().map(|word| word.to_str().unwrap())).unwrap()
}

const UUID: &str = "11111111-2222-4333-8444-555555555555";

/// What a line becomes when it resumes; with `learned`, the session `UUID` is known.
fn again(line: &str, learned: bool) -> String {
    text(&CommandLine::new(words(line), None).again(learned.then_some(UUID)))
        .replace(UUID, "U")
        .replace(&format!("'{CONTINUE}'"), "GO")
}

/// Checks lines before and after; a line with `true` has its session known. GO is the prompt to continue.
#[track_caller]
pub(super) fn check_resumes(table: &[(&str, bool, &str)]) {
    for (before, learned, after) in table {
        assert_eq!(again(before, *learned), text(&words(after)), "of {before}");
    }
}

#[test]
fn a_line_that_starts_no_known_client_is_repeated() {
    check_resumes(&[
        (
            "python3 night.py --resume",
            false,
            "python3 night.py --resume",
        ),
        ("sh -c 'claude -p x'", true, "sh -c 'claude -p x'"),
        ("echo claude", true, "echo claude"),
        ("vim claude", true, "vim claude"),
        ("env -S 'claude -p x'", true, "env -S 'claude -p x'"),
        ("pnpm install claude", true, "pnpm install claude"),
    ]);
}

#[test]
fn the_first_start_is_the_users_own_line() {
    for line in [
        "claude -p 'do it' --allowedTools Bash",
        "codex exec -",
        "sh -c 'echo x'",
        "aider -- a b",
    ] {
        let line = words(line);
        assert_eq!(CommandLine::new(line.clone(), None).first(None), line);
    }
}

#[test]
fn a_session_is_given_an_id_where_the_line_leaves_that_open() {
    for (line, wanted) in [
        ("claude", "claude --session-id U"),
        ("claude -p 'do it'", "claude --session-id U -p 'do it'"),
        ("nice claude x", "nice claude --session-id U x"),
        ("claude -- -p", "claude --session-id U -- -p"),
        ("claude --bare -p x", "claude --session-id U --bare -p x"),
        ("copilot -p x", "copilot --session-id U -p x"),
        ("qwen x", "qwen --session-id U x"),
        ("opencode run x", "opencode run --title 'x (ddollar U)' x"),
    ] {
        let line = CommandLine::new(words(line), None);
        assert!(line.takes_session_id());
        assert_eq!(text(&line.first(Some("U"))), text(&words(wanted)));
        assert_eq!(line.first(None), line.shown_first());
    }
    for line in [
        "claude --session-id S -p x",
        "claude --session-id=S",
        "claude -c",
        "claude -cp x",
        "claude -r",
        "claude -r S",
        "claude --resume=S --fork-session",
        "claude --from-pr 7",
        "claude -p x --no-session-persistence",
        "claude --tmux -w",
        "claude --bg x",
        "claude --cloud x",
        "claude mcp list",
        "claude --version",
        "codex exec x",
        "gemini --session-id S -p x",
        "gemini -p y",
        "opencode run -c x",
        "opencode",
        "copilot --continue",
        "qwen -r S x",
        "llm chat",
        "sh -c claude",
    ] {
        let words = words(line);
        for name in [None, Some("claude").filter(|_| line.starts_with("claude"))] {
            let line = CommandLine::new(words.clone(), name);
            assert!(!line.takes_session_id());
            assert_eq!(line.first(Some("U")), words);
        }
    }
}

#[test]
fn settings_come_first_and_take_the_place_of_the_users() {
    let line = |text: &str| CommandLine::new(words(text), None).with_settings("{}".into());
    assert_eq!(
        text(&line("nice claude -p x").first(None)),
        "nice claude --settings '{}' -p x"
    );
    assert_eq!(
        text(&line("claude -p x").first(Some("U"))),
        "claude --settings '{}' --session-id U -p x"
    );
    assert_eq!(
        text(&line("claude --settings own.json -p x").first(None)),
        "claude --settings '{}' -p x"
    );
    assert_eq!(
        text(&line("claude --settings own.json -p x").again(Some("U"))),
        format!("claude --settings '{{}}' -p --resume U '{CONTINUE}'")
    );
    assert_eq!(text(line("claude -p x").shown_first()), "claude -p x");
    assert_eq!(
        text(&line("claude x").shown_again(Some("U"))),
        "claude --resume U"
    );
    assert_eq!(
        line("claude --settings a --settings=b").own_settings(),
        Some("b".into())
    );
}

#[test]
fn a_name_overrides_what_a_line_looks_like() {
    let line = |name: &str, text: &str| CommandLine::new(words(text), Some(name));
    assert_eq!(
        text(&line("generic", "claude -c x").again(None)),
        "claude -c x"
    );
    assert_eq!(
        text(&line("claude", "./my-claude --session-id S x").again(None)),
        "./my-claude --resume S"
    );
    assert_eq!(
        text(&line("claude", "npx claude --session-id S").again(None)),
        "npx claude --resume S"
    );
}

#[test]
fn a_probe_asks_for_the_model_of_the_line() {
    let model = |name: &str, text: &str| {
        let line = CommandLine::new(words(text), None).in_environment(&|_| None);
        line.model_on_line(by_name(name).unwrap())
    };
    for (line, provider, wanted) in [
        ("claude --model opus", "anthropic", "claude-opus-5-5"),
        (
            "claude --model=sonnet[1m] -p x",
            "anthropic",
            "claude-sonnet-5-5",
        ),
        (
            "claude --model claude-other-1",
            "anthropic",
            "claude-other-1",
        ),
        ("codex exec -m gpt-x go", "openai", "gpt-x"),
        // These can use any provider, and name it.
        (
            "opencode run -m anthropic/claude-opus-5-5 go",
            "anthropic",
            "claude-opus-5-5",
        ),
        ("opencode run -m openrouter/a/b go", "openrouter", "a/b"),
        ("aider --model openai/gpt-6-luna", "openai", "gpt-6-luna"),
        (
            "aider --model gemini/gemini-3-flash",
            "gemini",
            "gemini-3-flash",
        ),
        ("llm -m gpt-4o-mini go", "openai", "gpt-4o-mini"),
        (
            "qwen --auth-type openai -m qwen3-coder go",
            "openai",
            "qwen3-coder",
        ),
    ] {
        assert_eq!(model(provider, line).as_deref(), Some(wanted), "{line}");
    }
    for (line, provider) in [
        ("claude 'what is --model opus'", "anthropic"),
        ("opencode run -m anthropic/x go", "openai"),
        ("opencode run -m unknown/x go", "anthropic"),
        ("aider --model own-alias", "openai"),
        ("claude --model opus", "openai"),
        ("python3 --model openai/x", "openai"),
    ] {
        assert_eq!(model(provider, line), None, "{line}");
    }
}

#[test]
fn a_line_that_names_its_provider_uses_no_other() {
    let uses = |text: &str, set: &[(&str, &str)]| {
        let variable = |name: &str| {
            let found = set.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let line = CommandLine::new(words(text), None).in_environment(&variable);
        let names = ["anthropic", "openai", "gemini"];
        let used = names
            .into_iter()
            .filter(|name| line.uses(by_name(name).unwrap()));
        (used.collect::<Vec<_>>().join(" "), line.uses_own_service())
    };
    let all = "anthropic openai gemini";
    let url = ("COPILOT_PROVIDER_BASE_URL", "https://x");
    let kind = |name: &'static str| ("COPILOT_PROVIDER_TYPE", name);
    assert_eq!(uses("opencode run go", &[]).0, all);
    assert_eq!(uses("opencode run -m anthropic/x go", &[]).0, "anthropic");
    assert_eq!(uses("qwen --auth-type gemini go", &[]).0, "gemini");
    assert_eq!(uses("copilot -p go", &[url]), ("openai".into(), false));
    assert_eq!(
        uses("copilot -p go", &[url, kind("anthropic")]).0,
        "anthropic"
    );
    assert!(uses("copilot -p go", &[]).1 && uses("copilot -p go", &[url, kind("azure")]).1);
}

#[test]
fn settings_are_merged_with_the_users() {
    let merged = |own: &str| match merge(own, "/usr/bin/dd ollar") {
        Merged::Settings(json) => serde_json::from_str::<serde_json::Value>(&json).unwrap(),
        Merged::Not(why) => panic!("{why}"),
    };
    for own in ["", " ", "{}"] {
        let settings = merged(own);
        assert_eq!(settings["apiKeyHelper"], "'/usr/bin/dd ollar' __token");
        assert_eq!(settings["env"]["ANTHROPIC_API_KEY"], "");
        assert_eq!(
            settings["hooks"]["StopFailure"][0]["hooks"][0]["command"],
            "'/usr/bin/dd ollar' __hook"
        );
    }
    let settings = merged(
        r#"{"model": "opus", "apiKeyHelper": "mine", "env": {"A": "b", "ANTHROPIC_API_KEY": "k"},
            "hooks": {"Stop": [1], "StopFailure": [{"matcher": "rate_limit", "hooks": []}]}}"#,
    );
    assert_eq!(settings["model"], "opus");
    assert_eq!(settings["env"]["A"], "b");
    assert_eq!(settings["env"]["ANTHROPIC_API_KEY"], "");
    assert_eq!(settings["hooks"]["Stop"][0], 1);
    assert_eq!(settings["hooks"]["StopFailure"][0]["matcher"], "rate_limit");
    assert_eq!(
        settings["hooks"]["StopFailure"].as_array().unwrap().len(),
        2
    );
    for broken in [
        "{",
        "[]",
        "1",
        r#"{"hooks": 1}"#,
        r#"{"hooks": {"StopFailure": {}}}"#,
        r#"{"env": []}"#,
    ] {
        assert!(matches!(merge(broken, "x"), Merged::Not(_)), "{broken}");
    }
}

#[test]
fn a_hook_tells_its_session_and_its_failure() {
    let told = |json: &str| report(json.as_bytes());
    let failed = told(
        r#"{"session_id": "U", "transcript_path": "/x/U.jsonl", "hook_event_name": "StopFailure",
            "error": "rate_limit", "last_assistant_message": "API Error"}"#,
    );
    assert_eq!(
        failed,
        Some(HookReport {
            session: Some("U".into()),
            transcript: Some("/x/U.jsonl".into()),
            error: Some("rate_limit".into()),
        })
    );
    let started =
        told(r#"{"session_id": "U", "hook_event_name": "SessionStart", "error": "rate_limit"}"#);
    assert_eq!(started.unwrap().error, None);
    // What could pass for an option never gets onto a command line.
    let odd = told(r#"{"session_id": "--dangerous", "hook_event_name": "SessionStart"}"#);
    assert_eq!(odd.unwrap().session, None);
    for broken in ["", "{", "[]", "{}", r#"{"hook_event_name": 7}"#, "\u{0}"] {
        assert_eq!(told(broken), None, "{broken}");
    }
    assert_eq!(trouble_of("rate_limit"), Some(Trouble::Limited));
    assert_eq!(trouble_of("max_output_tokens"), None);
}

proptest::proptest! {
    #[test]
    fn any_line_can_go_on(line in proptest::collection::vec("[-a-z= ]{0,12}|claude|codex|gemini|opencode|aider|llm|copilot|qwen|npx|env|exec|run|--", 0..8)) {
        let line: Vec<OsString> = line.into_iter().map(Into::into).collect();
        for name in [None, Some("claude"), Some("codex"), Some("gemini"), Some("opencode"), Some("aider"), Some("llm"), Some("copilot"), Some("qwen")] {
            let whole = CommandLine::new(line.clone(), name);
            let _ = whole.again(Some("U"));
            proptest::prop_assert_eq!(whole.first(None), line.clone());
        }
    }
}
