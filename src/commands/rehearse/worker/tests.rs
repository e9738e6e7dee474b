//! The worker against the provider.

use crate::commands::rehearse::tally::{Tally, tally};
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use super::super::provider::scenario::Scenario;
use super::super::provider::server::Server;
use super::*;

/// A journal in a directory of its own, gone with the value.
struct Journal(PathBuf);

impl Journal {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ddollar-{name}-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        Self(path)
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.0).unwrap()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn run_with(journal: &Journal, units: u32, env: &[(&str, &str)]) -> i32 {
    let env: HashMap<_, _> = env.iter().copied().collect();
    run(&journal.0, units, &|name| {
        env.get(name).map(|value| (*value).to_owned())
    })
}

#[test]
fn does_the_units_and_goes_on_where_it_was() {
    let server = Server::start(Scenario::for_command(), |_| ()).unwrap();
    let url = server.url();
    let env = [
        ("ANTHROPIC_BASE_URL", url.as_str()),
        (
            "ANTHROPIC_API_KEY",
            "rehearsal-anthropic-not-a-real-token-a001",
        ),
    ];
    let journal = Journal::new("worker");
    assert_eq!(run_with(&journal, 2, &env), 0);
    assert_eq!(
        tally(&journal.text(), 2),
        Tally {
            done: 2,
            open: 0,
            repeated: 0
        }
    );
    // Killed in the middle of a unit, in the middle of a line.
    fs::write(
        &journal.0,
        journal.text() + "{\"unit\":3,\"event\":\"begin\",\"pid\":1}\n{\"unit\":3,\"ev",
    )
    .unwrap();
    assert_eq!(run_with(&journal, 4, &env), 0);
    assert_eq!(
        tally(&journal.text(), 4),
        Tally {
            done: 4,
            open: 0,
            repeated: 1
        }
    );
    let before = journal.text();
    assert_eq!(run_with(&journal, 4, &env), 0);
    assert_eq!(journal.text(), before);
}

#[test]
fn asks_openai_when_only_that_is_set() {
    let server = Server::start(Scenario::for_command(), |_| ()).unwrap();
    let journal = Journal::new("worker-openai");
    for url in [server.url(), server.url() + "/v1"] {
        let env = [
            ("OPENAI_BASE_URL", url.as_str()),
            ("OPENAI_API_KEY", "rehearsal-openai-not-a-real-token-a001"),
        ];
        assert_eq!(run_with(&journal, 1, &env), 0);
    }
    assert_eq!(tally(&journal.text(), 1).done, 1);
}

#[test]
fn gives_up_after_three_tries() {
    let (sender, served) = std::sync::mpsc::channel();
    let server = Server::start(Scenario::for_command(), move |served| {
        let _ = sender.send(served.status);
    });
    let url = server.as_ref().unwrap().url();
    let env = [
        ("ANTHROPIC_BASE_URL", url.as_str()),
        ("ANTHROPIC_API_KEY", "no-such-token"),
    ];
    let journal = Journal::new("worker-refused");
    assert_eq!(run_with(&journal, 1, &env), 1);
    assert_eq!(served.try_iter().collect::<Vec<_>>(), [401; 3]);
    assert!(journal.text().contains("\"failed\""));
    assert!(!journal.text().contains("no-such-token"));
}

#[test]
fn says_what_it_cannot_use() {
    let journal = Journal::new("worker-unusable");
    assert_eq!(run_with(&journal, 1, &[]), 2);
    assert_eq!(
        run_with(&journal, 1, &[("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")]),
        2
    );
    let env = [
        ("OPENAI_BASE_URL", "http://127.0.0.1:9"),
        ("OPENAI_API_KEY", "line\nbreak"),
    ];
    assert_eq!(run_with(&journal, 1, &env), 1);
    let directory = Journal(std::env::temp_dir());
    assert_eq!(run(&directory.0, 1, &|_| Some("x".to_owned())), 2);
    std::mem::forget(directory);
}
