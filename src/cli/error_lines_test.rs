//! Every error as its user meets it: made where it can be, by the mistake that it tells of.

use super::{Request, config, parse};
use crate::common::error::Error;
use crate::providers::PROVIDERS;
use crate::tokens::{self, ONE_A_LINE, Source, TokenFile};
use std::io::ErrorKind;
use std::path::PathBuf;

/// The console folds them where the terminal is narrower. What is said to someone who asks for nothing is
/// a short list.
#[test]
fn every_error_and_its_hint_are_one_line_without_a_period() {
    let known = || String::from("ANTHROPIC_API_KEY or OPENAI_API_KEY");
    let path = || PathBuf::from("tokens");
    let command = "supervise";
    let mut all = vec![
        Error::NoSubcommand,
        Error::UnknownSubcommand {
            given: "suprvise".into(),
            near: Some("supervise"),
        },
        Error::UnknownSubcommand {
            given: "xx".into(),
            near: None,
        },
        Error::UnknownFlag {
            given: "--thresold".into(),
            command,
            near: Some("threshold"),
        },
        Error::UnknownFlag {
            given: "--colour".into(),
            command,
            near: None,
        },
        Error::NotGenerated {
            given: "html".into(),
        },
        Error::ExtraWord {
            given: "word".into(),
            command,
        },
        Error::NoCommand { command },
        Error::UnknownProvider {
            name: "antropic".into(),
            near: Some("huggingface"),
        },
        Error::NoTerminal,
        Error::NeedsProxy {
            flag: "--max-tokens",
        },
        Error::NoTokens {
            client: None,
            variables: known(),
            unread: Vec::new(),
        },
        Error::NoTokens {
            client: Some("opencode"),
            variables: known(),
            unread: Vec::new(),
        },
        Error::TokenFile {
            variable: "ANTHROPIC_API_KEYS_FILE".into(),
            path: path(),
            why: "no such file".into(),
            hint: ONE_A_LINE,
        },
        Error::TokenFile {
            variable: "ANTHROPIC_API_KEYS_FILE".into(),
            path: "~/tokens".into(),
            why: "no such file".into(),
            hint: ONE_A_LINE,
        },
        Error::SubscriptionToken {
            source: "ANTHROPIC_API_KEYS_FILE, line 12".into(),
        },
        Error::NoJournal,
        Error::NotAJournal {
            path: path(),
            empty: false,
        },
        Error::Listen {
            address: "127.0.0.1:41414".into(),
            why: ErrorKind::AddrInUse.into(),
        },
        Error::Listen {
            address: "127.0.0.1:80".into(),
            why: ErrorKind::PermissionDenied.into(),
        },
        Error::Listen {
            address: "10.0.0.100:41414".into(),
            why: ErrorKind::AddrNotAvailable.into(),
        },
        Error::CommandNotFound {
            command: "claude".into(),
            of: Some("--resume"),
            slip: None,
        },
        Error::NoInterpreter {
            command: "agent.sh".into(),
            of: None,
            interpreter: None,
        },
        Error::CommandNotExecutable {
            command: "notes.txt".into(),
            of: Some("--resume"),
            why: "permission denied".into(),
        },
        Error::System {
            what: "cannot read /dev/urandom",
            why: "No such file or directory (os error 2)".into(),
        },
    ];
    for address in ["http://example.com", "https://u:p@x", "https://x/?y", "/v1"] {
        let environment = [
            ("ANTHROPIC_API_KEY", "a-token-that-is-one"),
            ("ANTHROPIC_BASE_URL", address),
        ];
        let environment = environment.map(|(name, value)| (name.into(), value.into()));
        let request = parse(["status"].map(Into::into));
        let Ok(Request::Status(args)) = request else {
            panic!("{request:?}");
        };
        let texts = config::readable(&environment);
        all.push(config::rings(&args.checks, &texts).expect_err(address));
    }
    for text in [
        "a b",
        "a,b",
        "'a'",
        "OPENAI_API_KEY=a",
        "sk-ant-oat-a",
        "\u{e9}",
    ] {
        let variables = [("ANTHROPIC_API_KEYS_FILE".to_owned(), "tokens".to_owned())];
        let source = Source {
            variables: &variables,
            read: &|_| {
                Ok(TokenFile {
                    text: text.into(),
                    exposed: None,
                })
            },
        };
        let providers: Vec<_> = PROVIDERS.iter().collect();
        all.push(tokens::discover(&providers, &source).expect_err(text));
    }
    for words in [
        &["--threshold=x"][..],
        &["--interval=x"],
        &["--resume="],
        &["--client=x"],
        &["--retries=x"],
        &["--mixed=x"],
        &["--model"],
        &["--provider="],
    ] {
        let words = ["supervise"].iter().chain(words).copied();
        let refused = parse(words.map(Into::into));
        all.push(refused.expect_err("a mistake"));
    }
    for error in &all {
        for line in [error.to_string(), error.hint()] {
            let is_one = !line.contains('\n') || matches!(error, Error::NoSubcommand);
            assert!(is_one && !line.is_empty() && !line.ends_with('.'), "{line}");
        }
    }
}
