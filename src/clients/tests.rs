//! Command lines before and after, settings and hooks of known clients.

use super::*;
use crate::tokens::policy::Trouble;

fn words(line: &str) -> Vec<OsString> {
    shlex::split(line)
        .unwrap()
        .into_iter()
        .map(Into::into)
        .collect()
}

fn text(words: &[OsString]) -> String {
    shlex::try_join(words.iter().map(|word| word.to_str().unwrap())).unwrap()
}

const UUID: &str = "11111111-2222-4333-8444-555555555555";

/// What a line becomes when it goes on, with `UUID` learned from the hook if `learned`.
fn again(line: &str, learned: bool) -> String {
    text(&CommandLine::new(words(line), None).again(learned.then_some(UUID)))
        .replace(UUID, "U")
        .replace(&format!("'{GO_ON}'"), "GO")
}

#[test]
fn each_client_goes_on_in_its_own_way() {
    let table = [
        // claude, without a word from the hook.
        ("claude", false, "claude"),
        ("claude --continue", false, "claude --continue"),
        ("claude -c", false, "claude --continue"),
        ("claude -c 'fix it'", false, "claude --continue"),
        ("claude 'fix it'", false, "claude 'fix it'"),
        ("claude --resume S", false, "claude --resume S"),
        ("claude -r S 'and now'", false, "claude --resume S"),
        ("claude --resume=S 'and now'", false, "claude --resume S"),
        ("claude --session-id S", false, "claude --resume S"),
        ("claude --session-id=S 'do it'", false, "claude --resume S"),
        (
            "claude -p --session-id S 'do it'",
            false,
            "claude -p --resume S GO",
        ),
        ("claude -p 'do it'", false, "claude -p 'do it'"),
        (
            "claude -p --continue 'do it'",
            false,
            "claude -p --continue GO",
        ),
        ("claude -cp 'do it'", false, "claude -p --continue GO"),
        (
            "claude --resume S --fork-session --session-id N",
            false,
            "claude --resume N",
        ),
        (
            "claude --resume S --fork-session",
            false,
            "claude --resume S --fork-session",
        ),
        (
            "claude --bare -p 'do it'",
            false,
            "claude --bare -p --continue GO",
        ),
        (
            "claude -p 'do it' --no-session-persistence",
            true,
            "claude -p 'do it' --no-session-persistence",
        ),
        // claude, which has told its session.
        ("claude", true, "claude --resume U"),
        ("claude --continue", true, "claude --resume U"),
        ("claude 'fix it'", true, "claude --resume U"),
        ("claude --resume S", true, "claude --resume U"),
        ("claude -r S --fork-session", true, "claude --resume U"),
        ("claude -p 'do it'", true, "claude -p --resume U GO"),
        ("claude -p", true, "claude -p --resume U GO"),
        (
            "claude --print 'do it' --output-format stream-json --verbose",
            true,
            "claude --print --output-format stream-json --verbose --resume U GO",
        ),
        (
            "claude -p --input-format stream-json --output-format stream-json",
            true,
            "claude -p --input-format stream-json --output-format stream-json --resume U",
        ),
        (
            "claude --allowedTools Bash Edit -p 'do it'",
            true,
            "claude --allowedTools Bash Edit -p --resume U GO",
        ),
        (
            "claude -p 'do it' --allowedTools 'Bash(git *)' Edit",
            true,
            "claude -p --allowedTools 'Bash(git *)' Edit --resume U GO",
        ),
        (
            "claude --mcp-config a.json b.json --add-dir ../x -- 'do it'",
            true,
            "claude --mcp-config a.json b.json --add-dir ../x --resume U",
        ),
        (
            "claude --dangerously-skip-permissions --model opus -p 'go'",
            true,
            "claude --dangerously-skip-permissions --model opus -p --resume U GO",
        ),
        (
            "claude --unknown-option value 'do it'",
            true,
            "claude --unknown-option value --resume U",
        ),
        (
            "claude --unknown-option 'do it'",
            true,
            "claude --unknown-option --resume U",
        ),
        (
            "claude --append-system-prompt 'be brief' 'do it'",
            true,
            "claude --append-system-prompt 'be brief' --resume U",
        ),
        (
            "npx -y @anthropic-ai/claude-code@latest -p 'do it'",
            true,
            "npx -y @anthropic-ai/claude-code@latest -p --resume U GO",
        ),
        (
            "env -u X LANG=C nice -n 5 /opt/bin/claude --session-id S",
            false,
            "env -u X LANG=C nice -n 5 /opt/bin/claude --resume S",
        ),
        (
            "timeout -k 5 8h claude -c",
            false,
            "timeout -k 5 8h claude --continue",
        ),
        // What is no session stays as it is.
        ("claude mcp list", true, "claude mcp list"),
        ("claude update", true, "claude update"),
        ("claude --version", true, "claude --version"),
        ("claude --bg 'do it'", true, "claude --bg 'do it'"),
        // codex.
        ("codex exec 'do it'", false, "codex exec resume --last GO"),
        (
            "codex exec --json -m gpt-6 'do it'",
            false,
            "codex exec --json -m gpt-6 resume --last GO",
        ),
        (
            "codex -c a=b e --full-auto -",
            false,
            "codex -c a=b exec --full-auto resume --last GO",
        ),
        (
            "codex exec -i shot.png --json 'do it'",
            false,
            "codex exec --json resume --last GO",
        ),
        (
            "codex exec resume --last 'more'",
            false,
            "codex exec resume --last GO",
        ),
        (
            "codex exec --json resume S 'more'",
            false,
            "codex exec --json resume S GO",
        ),
        (
            "codex exec fork S 'more'",
            false,
            "codex exec resume --last GO",
        ),
        (
            "codex exec --ephemeral 'do it'",
            false,
            "codex exec --ephemeral 'do it'",
        ),
        ("codex exec review", false, "codex exec review"),
        ("codex", false, "codex resume --last"),
        (
            "codex -m gpt-6 'do it'",
            false,
            "codex -m gpt-6 resume --last",
        ),
        ("codex resume S 'more'", false, "codex resume S"),
        ("codex login", false, "codex login"),
        // gemini.
        (
            "gemini -p 'do it' --skip-trust",
            false,
            "gemini --skip-trust --resume latest --prompt GO",
        ),
        (
            "gemini 'do it' -m pro",
            false,
            "gemini -m pro --resume latest --prompt GO",
        ),
        (
            "gemini --session-id S -p 'do it'",
            false,
            "gemini --resume S --prompt GO",
        ),
        ("gemini", false, "gemini --resume latest"),
        (
            "gemini -i 'do it'",
            false,
            "gemini --resume latest --prompt-interactive GO",
        ),
        ("gemini mcp list", false, "gemini mcp list"),
        // opencode.
        ("opencode run 'do it'", false, "opencode run --continue GO"),
        (
            "opencode run -m a/b -s S 'do it'",
            false,
            "opencode run -m a/b -s S GO",
        ),
        ("opencode", false, "opencode --continue"),
        (
            "opencode ../project",
            false,
            "opencode ../project --continue",
        ),
        ("opencode serve", false, "opencode serve"),
        // aider.
        ("aider a.py", false, "aider --restore-chat-history a.py"),
        (
            "aider -m 'do it' a.py",
            false,
            "aider --restore-chat-history --message GO a.py",
        ),
        (
            "aider --message-file todo.md --yes-always",
            false,
            "aider --restore-chat-history --message GO --yes-always",
        ),
        // llm.
        ("llm 'do it'", false, "llm 'do it'"),
        ("llm chat -m x", false, "llm chat -m x --continue"),
        ("llm chat --cid S", false, "llm chat --cid S"),
        (
            "python3 -m llm chat",
            false,
            "python3 -m llm chat --continue",
        ),
        (
            "uvx --from llm llm chat",
            false,
            "uvx --from llm llm chat --continue",
        ),
        // Anything else.
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
        (
            "pnpm dlx opencode-ai run 'x'",
            false,
            "pnpm dlx opencode-ai run --continue GO",
        ),
    ];
    for (before, learned, after) in table {
        let wanted = after;
        assert_eq!(again(before, learned), text(&words(wanted)), "of {before}");
    }
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
    ] {
        let line = CommandLine::new(words(line), None);
        assert!(line.starts_anew());
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
        "gemini -p x",
        "llm chat",
        "sh -c claude",
    ] {
        let words = words(line);
        for name in [None, Some("claude").filter(|_| line.starts_with("claude"))] {
            let line = CommandLine::new(words.clone(), name);
            assert!(!line.starts_anew());
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
        format!("claude --settings '{{}}' -p --resume U '{GO_ON}'")
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
    let model = |text: &str| CommandLine::new(words(text), None).model_on_line();
    assert_eq!(model("claude --model opus"), Some("claude-opus-5-5".into()));
    assert_eq!(
        model("claude --model=sonnet[1m] -p x"),
        Some("claude-sonnet-5-5".into())
    );
    assert_eq!(
        model("claude --model claude-other-1"),
        Some("claude-other-1".into())
    );
    assert_eq!(model("claude 'what is --model opus'"), None);
    assert_eq!(model("codex exec -m gpt-x go"), Some("gpt-x".into()));
    // These name a provider in their models.
    assert_eq!(model("opencode run -m anthropic/x go"), None);
    assert_eq!(model("python3 --model x"), None);
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
        Some(Report {
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
    fn any_line_can_go_on(line in proptest::collection::vec("[-a-z= ]{0,12}|claude|codex|gemini|opencode|aider|llm|npx|env|exec|run|--", 0..8)) {
        let line: Vec<OsString> = line.into_iter().map(Into::into).collect();
        for name in [None, Some("claude"), Some("codex"), Some("gemini"), Some("opencode"), Some("aider"), Some("llm")] {
            let whole = CommandLine::new(line.clone(), name);
            let _ = whole.again(Some("U"));
            proptest::prop_assert_eq!(whole.first(None), line.clone());
        }
    }
}
