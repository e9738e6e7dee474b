//! opencode: its options and how it resumes. Measured with 1.18.33.

use super::args::{Grammar, Part};
use super::session::Start;
use super::{CONTINUE, Client, GENERIC, Variable, has_any, lists, subcommand, value, words_of};
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::io::{Read, Seek, SeekFrom};

pub(super) const CLIENT: Client = Client {
    name: "opencode",
    package: "opencode-ai",
    grammar: GRAMMAR,
    proxy_variables,
    subcommands: SUBCOMMANDS,
    give_session_id,
    find_session,
    cannot: |parts| {
        let has = |name| has_any(parts, name);
        match is_run(parts) {
            true => None,
            // Only a session of `run` can be found again.
            false if has("--prompt") && !has("--session") => Some(
                "its session is found again with `run` alone, so each restart begins --prompt anew",
            ),
            false if has("--mini") => None,
            false => Some("its full-screen program waits for you after a restart"),
        }
    },
    resume,
    ..GENERIC
};

/// From its help.
const GRAMMAR: Grammar = Grammar {
    one: "--model|-m --agent --session|-s --command --format --file|-f --title --attach \
         --port --hostname --variant --dir --log-level --prompt --mdns-domain --cors \
         --replay-limit --password|-p --username|-u",
    nothing: "--continue|-c --fork --interactive|-i --auto --mini --no-replay --mdns \
         --pure --share --thinking --print-logs --help|-h --version|-v",
    ..Grammar::NONE
};

/// Its subcommands that work on no session. From its help.
const SUBCOMMANDS: &str = "acp mcp attach debug providers auth agent upgrade uninstall \
    serve web models stats export import github pr session plugin db completion";

/// A base URL in its configuration files beats the provider's variable, and this variable beats them.
fn proxy_variables(
    urls: &[(&str, String)],
    variable: Variable,
) -> Result<Vec<(&'static str, String)>, &'static str> {
    const NAME: &str = "OPENCODE_CONFIG_CONTENT";
    let own = variable(NAME).unwrap_or_else(|| "{}".into());
    let Ok(Value::Object(mut config)) = serde_json::from_str(&own) else {
        return Err("OPENCODE_CONFIG_CONTENT is not a JSON object");
    };
    for (provider, url) in urls {
        // The version is part of the base URL that it expects.
        let (name, url) = match *provider {
            "anthropic" => ("anthropic", format!("{url}/v1")),
            "gemini" => ("google", format!("{url}/v1beta")),
            other => (other, url.clone()),
        };
        let mut at = &mut config;
        for key in ["provider", name, "options"] {
            let next = at.entry(key).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(next) = next else {
                return Err("OPENCODE_CONFIG_CONTENT has a provider that is not a JSON object");
            };
            at = next;
        }
        at.insert("baseURL".into(), url.into());
    }
    Ok(vec![(NAME, Value::Object(config).to_string())])
}

fn is_run(parts: &[Part]) -> bool {
    matches!(subcommand(parts), Some((_, "run")))
}

/// It takes no id for a new session, but a title, in which the id of ours is a mark. Only `run` does.
fn give_session_id(parts: &[Part], id: &str) -> Option<Vec<OsString>> {
    let is_old = has_any(parts, "--session --continue --title --attach");
    if !is_run(parts) || is_old {
        return None;
    }
    let prompt: Vec<&str> = parts
        .iter()
        .filter(|part| part.is_word())
        .skip(1)
        .filter_map(Part::text)
        .collect();
    let prompt: String = prompt
        .join(" ")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let prompt: String = prompt
        .chars()
        .filter(|c| !matches!(c, '"' | '\\'))
        .take(40)
        .collect();
    let title = format!("{prompt} ({})", mark(id)).trim_start().to_owned();
    let (place, _) = subcommand(parts)?;
    let (before, after) = parts.split_at_checked(place + 1)?;
    let mut words = words_of(before.iter());
    words.extend(["--title".into(), title.into()]);
    words.extend(words_of(after.iter()));
    Some(words)
}

/// The part of an id that marks a title.
fn mark(id: &str) -> String {
    format!("ddollar {}", id.get(..8).unwrap_or(id))
}

/// Its log has a line for each session that it creates, with id and title, and says in each line which
/// of its processes (`run=`) wrote it.
fn find_session(start: &Start) -> Option<String> {
    let folder = start.folder("XDG_DATA_HOME", ".local/share")?;
    let log = read_end(&folder.join("opencode/log/opencode.log"))?;
    let value = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!(" {name}="))?;
        Some(rest.split_ascii_whitespace().next()?.to_owned())
    };
    let mark = mark(start.id?);
    let mut created = log
        .lines()
        .filter(|line| line.contains(" message=created ") && line.contains(&mark));
    value(created.next()?, "id").filter(|id| id.starts_with("ses_"))
}

/// The end of a log. A session that was created before that is not found.
fn read_end(path: &std::path::Path) -> Option<String> {
    const LONGEST: u64 = 8 << 20;
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LONGEST)))
        .ok()?;
    let mut end = Vec::new();
    file.take(LONGEST).read_to_end(&mut end).ok()?;
    Some(String::from_utf8_lossy(&end).into_owned())
}

/// `opencode run PROMPT` → `opencode run --session ID CONTINUE`; any other line gets `--session ID`.
/// Without an id, neither known nor in the user's line, the line is repeated.
fn resume(parts: &[Part], session: Option<&str>) -> Option<Vec<OsString>> {
    let (place, word) = subcommand(parts).unwrap_or((parts.len(), ""));
    let runs = word == "run";
    // The one word of the full-screen program is a folder.
    if !runs && lists(SUBCOMMANDS, word) {
        return None;
    }
    let own = value(parts, "--session");
    let id = session.or(own.filter(|_| !has_any(parts, "--fork")))?;
    let dropped = "--continue --session --fork --file --prompt --title --";
    let kept = parts
        .iter()
        .enumerate()
        .filter(|(at, part)| !lists(dropped, &part.name) && (!part.is_word() || *at == place));
    let mut words = words_of(kept.map(|(_, part)| part));
    words.extend(["--session".into(), id.into()]);
    if runs {
        words.push(CONTINUE.into());
    } else if has_any(parts, "--mini") {
        words.extend(["--prompt".into(), CONTINUE.into()]);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::CommandLine;
    use crate::clients::tests::{check_resumes, text, words};

    #[test]
    fn resumes() {
        check_resumes(&[
            ("opencode run 'do it'", false, "opencode run 'do it'"),
            ("opencode run -c 'more'", false, "opencode run -c 'more'"),
            ("opencode run 'do it'", true, "opencode run --session U GO"),
            (
                "opencode run -c 'more'",
                true,
                "opencode run --session U GO",
            ),
            (
                "opencode run -m a/b -s S 'do it'",
                false,
                "opencode run -m a/b --session S GO",
            ),
            (
                "opencode run -s S --fork 'do it'",
                false,
                "opencode run -s S --fork 'do it'",
            ),
            ("opencode", true, "opencode --session U"),
            (
                "opencode --mini --prompt 'do it'",
                true,
                "opencode --mini --session U --prompt GO",
            ),
            (
                "opencode ../project",
                true,
                "opencode ../project --session U",
            ),
            ("opencode serve", true, "opencode serve"),
            (
                "pnpm dlx opencode-ai run 'x'",
                true,
                "pnpm dlx opencode-ai run --session U GO",
            ),
        ]);
    }

    #[test]
    fn a_session_is_found_by_its_title() {
        let desk = tempfile::tempdir().unwrap();
        let id = "11111111-2222-4333-8444-555555555555";
        let line = CommandLine::new(words("opencode run --auto 'do \"six\" steps'"), None);
        assert_eq!(
            text(&line.first(Some(id))),
            "opencode run --title 'do six steps (ddollar 11111111)' --auto 'do \"six\" steps'"
        );
        let home = [("HOME".into(), desk.path().into())];
        let find = |id| {
            find_session(&Start {
                id: Some(id),
                environment: &home,
                open_files: &[],
            })
        };
        assert_eq!(find(id), None);
        let log = desk.path().join(".local/share/opencode/log");
        std::fs::create_dir_all(&log).unwrap();
        std::fs::write(
            log.join("opencode.log"),
            "timestamp=2026-11-29T01:47:55Z level=INFO run=86d76753 message=created id=ses_other slug=x title=\"New session\"\n\
             timestamp=2026-11-29T01:47:56Z level=INFO run=aa865977 message=created id=ses_ours slug=y parentID=undefined title=\"do six steps (ddollar 11111111)\" agent=undefined\n",
        )
        .unwrap();
        assert_eq!(find(id).as_deref(), Some("ses_ours"));
        assert_eq!(find("22222222-2222-4333-8444-555555555555"), None);
    }

    #[test]
    fn its_configuration_is_kept_and_gets_the_base_urls() {
        let urls = [
            ("anthropic", "http://127.0.0.1:1/anthropic".to_owned()),
            ("openai", "http://127.0.0.1:1/openai/v1".to_owned()),
        ];
        let with = |own: Option<&'static str>| proxy_variables(&urls, &|_| own.map(str::to_owned));
        let set = with(Some(
            r#"{"model": "x", "provider": {"anthropic": {"options": {"baseURL": "y", "a": 1}}}}"#,
        ));
        let (name, json) = set.unwrap().remove(0);
        assert_eq!(name, "OPENCODE_CONFIG_CONTENT");
        let config: Value = serde_json::from_str(&json).unwrap();
        let options = |provider: &str| config["provider"][provider]["options"].clone();
        assert_eq!(
            options("anthropic")["baseURL"],
            "http://127.0.0.1:1/anthropic/v1"
        );
        assert_eq!(options("anthropic")["a"], 1);
        assert_eq!(options("openai")["baseURL"], "http://127.0.0.1:1/openai/v1");
        assert_eq!(config["model"], "x");
        assert!(with(None).is_ok());
        for broken in [
            "{",
            "[]",
            r#"{"provider": 1}"#,
            r#"{"provider": {"anthropic": {"options": []}}}"#,
        ] {
            assert!(with(Some(broken)).is_err(), "{broken}");
        }
    }
}
