//! OpenAI Codex: its options and how it resumes. Measured with 0.171.0.

use super::args::{Grammar, Part};
use super::session::{Start, uuid_at_end};
use super::{
    CONTINUE, Client, GENERIC, KEEPS_NO_SESSION, has_any, lists, options_but, subcommand, words_of,
};
use std::ffi::OsString;

pub(super) const CLIENT: Client = Client {
    name: "codex",
    package: "@openai/codex",
    providers: &["openai"],
    // `codex exec` reads no other variable for an API key.
    token_variable: Some("CODEX_API_KEY"),
    model: "gpt-6.2-sol",
    grammar: GRAMMAR,
    // It ignores OPENAI_BASE_URL.
    base_url_arguments: Some(("openai", base_url_arguments)),
    needs_base_url: |parts| {
        let word = subcommand(parts).map_or("", |(_, word)| word);
        !matches!(word, "exec" | "e") && !lists(SUBCOMMANDS, word)
    },
    own_base_url: |parts, _| own_setting(parts, "openai_base_url"),
    find_session,
    cannot: |parts| {
        Some(match has_any(parts, "--ephemeral") {
            true => KEEPS_NO_SESSION,
            // Its session holds the model's reasoning, encrypted (openai/codex#13724).
            false => "OpenAI refuses to go on with a session of another organization",
        })
    },
    watches_files: true,
    resume,
    ..GENERIC
};

/// From its help.
const GRAMMAR: Grammar = Grammar {
    one: "--config|-c --enable --disable --remote --remote-auth-token-env --model|-m \
         --local-provider --profile|-p --sandbox|-s --cd|-C --add-dir --ask-for-approval|-a \
         --thread-source --cyber-access-program --output-schema --color --output-last-message|-o",
    many: "--image|-i",
    nothing: "--oss --json --last --all --search --ephemeral --skip-git-repo-check \
         --strict-config --approve-for-me --worktree --trust --no-alt-screen --no-daemon \
         --ignore-user-config --ignore-rules --dangerously-bypass-approvals-and-sandbox \
         --dangerously-bypass-hook-trust --full-auto --help|-h --version|-V",
    ..Grammar::NONE
};

/// Its subcommands that work on no session. From its help.
const SUBCOMMANDS: &str = "agents review login logout mcp plugin app-server remote-control \
    completion update doctor sandbox debug apply a queue archive delete migrate-rollouts \
    migrate-nfs-db unarchive fork cloud exec-server features help mcp-server";

/// Whether a part is the user's own setting of this key: `-c KEY=VALUE`.
fn sets(part: &Part, key: &str) -> bool {
    let value = part.text().filter(|_| part.is("--config"));
    let of_key = |value: &str| {
        value
            .trim_start()
            .strip_prefix(key)?
            .trim_start()
            .strip_prefix('=')
            .map(str::len)
    };
    value.and_then(of_key).is_some()
}

/// The value of the user's own `-c KEY=VALUE`, without its quotes.
fn own_setting(parts: &[Part], key: &str) -> Option<String> {
    let part = parts.iter().rev().find(|part| sets(part, key))?;
    let (_, value) = part.text()?.split_once('=')?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned())
}

/// The user's arguments with this base URL. `codex exec` takes it for its own provider. The
/// interactive program would insist on a sign-in for that one, so it gets a provider of its own, which
/// takes its key from a variable.
fn base_url_arguments(parts: &[Part], url: &str) -> Vec<OsString> {
    let is_headless = matches!(subcommand(parts), Some((_, "exec" | "e")));
    let elsewhere = has_any(parts, "--oss --local-provider --profile --remote")
        || parts.iter().any(|part| sets(part, "model_provider"));
    let settings = match (is_headless, elsewhere) {
        (_, true) => Vec::new(),
        (true, false) => vec![format!("openai_base_url=\"{url}\"")],
        (false, false) => vec![
            "model_provider=\"ddollar\"".to_owned(),
            format!(
                "model_providers.ddollar={{name=\"OpenAI through ddollar\",base_url=\"{url}\",\
                 env_key=\"CODEX_API_KEY\",wire_api=\"responses\"}}"
            ),
        ],
    };
    let mut words: Vec<OsString> = Vec::new();
    for setting in settings {
        words.extend(["-c".into(), setting.into()]);
    }
    // The last one would win.
    let kept = parts
        .iter()
        .filter(|part| elsewhere || !sets(part, "openai_base_url"));
    words.extend(words_of(kept));
    words
}

/// It keeps the file of its session open: `sessions/Y/M/D/rollout-TIME-ID.jsonl`. Threads of its agents
/// have files of their own; ids begin with their time, so the first is the session.
fn find_session(start: &Start) -> Option<String> {
    let is_session = |path: &&std::path::PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("rollout-") && name.ends_with(".jsonl"))
    };
    let found = start.open_files.iter().filter(is_session);
    found
        .filter_map(|path| uuid_at_end(path))
        .min()
        .map(str::to_owned)
}

/// `codex exec PROMPT` → `codex exec resume ID CONTINUE`, `codex PROMPT` → `codex resume ID CONTINUE`.
/// Without an id, neither known nor in the user's line, the line is repeated.
fn resume(parts: &[Part], session: Option<&str>) -> Option<Vec<OsString>> {
    if has_any(parts, "--ephemeral") {
        return None;
    }
    // What was sent with the first prompt is in the session.
    let options = |parts: &[Part]| options_but("--image --last --", parts);
    let (place, word) = subcommand(parts).unwrap_or((parts.len(), ""));
    let (before, after) = parts.split_at(place);
    let after = after.get(1..).unwrap_or_default();
    let is_last = has_any(after, "--last");
    let mut words = options(before);
    let named = match word {
        "exec" | "e" => match subcommand(after) {
            Some((_, "review")) => return None,
            Some((at, "resume")) => subcommand(after.get(at + 1..)?).map(|(_, id)| id),
            _ => None,
        },
        "resume" => subcommand(after).map(|(_, id)| id),
        word if lists(SUBCOMMANDS, word) => return None,
        _ => None,
    };
    let id = session.or(named.filter(|_| !is_last))?;
    if matches!(word, "exec" | "e") {
        words.push("exec".into());
        words.extend(options(after));
        words.push("resume".into());
    } else {
        words.push("resume".into());
        words.extend(options(after));
    }
    words.extend([id.into(), CONTINUE.into()]);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::CommandLine;
    use crate::clients::tests::{check_resumes, words};

    #[test]
    fn resumes() {
        check_resumes(&[
            // Nobody knows which session is the last one.
            ("codex exec 'do it'", false, "codex exec 'do it'"),
            (
                "codex exec resume --last 'more'",
                false,
                "codex exec resume --last 'more'",
            ),
            ("codex", false, "codex"),
            ("codex exec 'do it'", true, "codex exec resume U GO"),
            (
                "codex exec --json -m gpt-6 'do it'",
                true,
                "codex exec --json -m gpt-6 resume U GO",
            ),
            (
                "codex -c a=b e --full-auto -",
                true,
                "codex -c a=b exec --full-auto resume U GO",
            ),
            (
                "codex exec -i shot.png --json 'do it'",
                true,
                "codex exec --json resume U GO",
            ),
            (
                "codex exec resume --last 'more'",
                true,
                "codex exec resume U GO",
            ),
            (
                "codex exec --json resume S 'more'",
                false,
                "codex exec --json resume S GO",
            ),
            (
                "codex exec fork S 'more'",
                false,
                "codex exec fork S 'more'",
            ),
            ("codex exec fork S 'more'", true, "codex exec resume U GO"),
            (
                "codex exec --ephemeral 'do it'",
                true,
                "codex exec --ephemeral 'do it'",
            ),
            ("codex exec review", true, "codex exec review"),
            ("codex", true, "codex resume U GO"),
            ("codex -m gpt-6 'do it'", true, "codex -m gpt-6 resume U GO"),
            ("codex resume S 'more'", false, "codex resume S GO"),
            ("codex resume --last", false, "codex resume --last"),
            ("codex login", true, "codex login"),
        ]);
    }

    #[test]
    fn the_session_is_the_first_of_the_files_that_it_has_open() {
        let id = |number: u8| format!("01a224fd-2163-7683-b35e-90f0f0c0705{number}");
        let file = |number: u8| {
            format!(
                "/h/.codex/sessions/2026/11/29/rollout-2026-11-29T01-48-18-{}.jsonl",
                id(number)
            )
        };
        let find = |files: &[String]| {
            let open_files: Vec<_> = files.iter().map(Into::into).collect();
            find_session(&Start {
                id: None,
                environment: &[],
                open_files: &open_files,
            })
        };
        let others = ["/h/.codex/state_5.sqlite".into(), "/tmp/x.jsonl".into()];
        assert_eq!(find(&others), None);
        // The second is a thread of an agent.
        assert_eq!(find(&[file(2), others[0].clone(), file(1)]), Some(id(1)));
        assert_eq!(find(&["/h/rollout-x.jsonl".into()]), None);
    }

    #[test]
    fn a_base_url_is_given_so_that_no_sign_in_is_needed() {
        let led = |line: &str| {
            let line = CommandLine::new(words(line), None);
            let (line, _) = line.with_base_url("http://127.0.0.1:1/openai/v1".into());
            line.first(None)
                .iter()
                .map(|word| word.to_str().unwrap())
                .collect::<Vec<_>>()
                .join(" ")
        };
        let url = "openai_base_url=\"http://127.0.0.1:1/openai/v1\"";
        assert_eq!(led("codex exec x"), format!("codex -c {url} exec x"));
        assert_eq!(
            led("codex -c openai_base_url='https://x/v1' -c a=b exec x"),
            format!("codex -c {url} -c a=b exec x")
        );
        let interactive = led("nice codex x");
        assert!(interactive.starts_with("nice codex -c model_provider=\"ddollar\" -c "));
        assert!(interactive.contains("env_key=\"CODEX_API_KEY\"") && interactive.ends_with(" x"));
        for own in [
            "codex --oss x",
            "codex --profile night exec x",
            "codex -c model_provider=mine x",
        ] {
            assert_eq!(led(own), own);
        }
    }

    #[test]
    fn the_interactive_program_alone_needs_a_provider_for_its_token() {
        for (line, needs) in [
            ("codex", true),
            ("codex 'do it'", true),
            ("codex resume S", true),
            ("codex exec 'do it'", false),
            ("codex login", false),
            ("claude", false),
        ] {
            let line = CommandLine::new(words(line), None);
            assert_eq!(line.needs_base_url(), needs, "{line:?}");
        }
    }

    #[test]
    fn the_users_own_base_url_is_known() {
        let own = |line: &str| {
            (CLIENT.own_base_url)(&super::super::args::parts(&words(line), &GRAMMAR), &|_| {
                None
            })
        };
        assert_eq!(
            own("-c openai_base_url='\"https://x/v1\"' exec y").as_deref(),
            Some("https://x/v1")
        );
        assert_eq!(own("-c openai_base_urls=1 exec y"), None);
        assert_eq!(own("exec openai_base_url=1"), None);
    }
}
