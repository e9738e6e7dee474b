//! `--fallback-model`: what a request goes out for while every token is spent for its own model.

use super::spending::{MESSAGES, Spender, WHOLE, message};
use crate::support::Supervise;
use crate::support::eventually;
use crate::support::provider::Provider;
use crate::support::upstream::{Played, Upstream};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// The model that a request asks for, wherever it says so.
fn model(played: &Played) -> String {
    let path = played.head.split(' ').nth(1).unwrap();
    match path.split_once("/models/") {
        Some((_, rest)) => rest.split(':').next().unwrap().to_owned(),
        None => {
            let body: Value = serde_json::from_slice(&played.body).unwrap();
            body["model"].as_str().unwrap().to_owned()
        }
    }
}

/// A provider that is asked for models, and answers each as a test says: with a status of its own, or well.
struct Models {
    upstream: Upstream,
    asked: Arc<Mutex<Vec<String>>>,
    is_spent: Arc<AtomicBool>,
}

impl Models {
    /// `old` is refused for so many seconds as long as it is spent, and another one with this status.
    fn with(seconds: u32, status: u16) -> Models {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let is_spent = Arc::new(AtomicBool::new(true));
        let (all, spent) = (asked.clone(), is_spent.clone());
        let upstream = Upstream::playing(move |played| {
            let model = model(played);
            let is_old = model == "old";
            all.lock().unwrap().push(model);
            match is_old {
                true if spent.load(SeqCst) => {
                    played.answer(429, &format!("retry-after: {seconds}\r\n"), "");
                }
                false if status != 200 => {
                    played.answer(status, WHOLE, r#"{"error":{"type":"not_found_error"}}"#)
                }
                _ => played.answer(200, WHOLE, &message()),
            }
            true
        });
        Models {
            upstream,
            asked,
            is_spent,
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[test]
fn a_request_goes_out_for_the_fallback_until_its_own_model_is_good_again() {
    let models = Models::with(2, 200);
    let options = ["--fallback-model", "new", "--patience", "0s"];
    let mut spender = Spender::at(&models.upstream.url, &options);
    for _ in 0..3 {
        let answered = spender.post(MESSAGES, "old");
        assert_eq!((answered.status, answered.text()), (200, message()));
    }
    // Each of the two tokens was asked for its own once.
    assert_eq!(models.asked(), ["old", "old", "new", "new", "new"]);
    models.is_spent.store(false, SeqCst);
    eventually("its own model is asked for again", || {
        assert_eq!(spender.post(MESSAGES, "old").status, 200);
        (models.asked().last().unwrap() == "old").then_some(())
    });
    spender.run.tell("exit 0");
    let (ended, sums) = spender.end(0);
    ended
        .says(&[
            "Anthropic: old is spent: requests go to new",
            "Anthropic: Requests go to old again",
        ])
        .says_once("requests go to new")
        .never_says("Waiting");
    let instead: u64 = sums
        .iter()
        .filter(|line| line.contains(" new: "))
        .map(|line| line.rsplit(' ').nth(4).unwrap().parse::<u64>().unwrap())
        .sum();
    let new = models
        .asked()
        .iter()
        .filter(|model| *model == "new")
        .count();
    assert_eq!(instead, new as u64, "{sums:?}");
}

#[test]
fn every_api_has_its_model_changed_and_nothing_is_paused() {
    let models = Models::with(3600, 200);
    let options = ["--fallback-model", "new", "--hold", "1s"];
    let mut spender = Spender::at(&models.upstream.url, &options);
    for path in [
        MESSAGES,
        "/openai/v1/chat/completions",
        "/openai/v1/responses",
        "/gemini/v1beta/models/old:generateContent",
    ] {
        assert_eq!(spender.post(path, "old").status, 200, "{path}");
        assert_eq!(models.asked().pop().unwrap(), "new", "{path}");
    }
    // Of what no model answers, nothing is changed.
    assert_eq!(
        spender
            .post("/anthropic/v1/messages/count_tokens", "old")
            .status,
        429
    );
    assert_eq!(models.asked().pop().unwrap(), "old");
    spender.run.tell("exit 0");
    let (ended, _) = spender.end(0);
    ended.never_says("Pausing").never_says("Waiting");
}

/// It is asked for once, and the request is held as if there were none.
#[test]
fn a_fallback_that_the_provider_does_not_have_is_given_up_and_said_so_once() {
    for status in [404, 400] {
        let models = Models::with(3, status);
        let options = ["--fallback-model", "new", "--patience", "0s"];
        let mut spender = Spender::at(&models.upstream.url, &options);
        let mut first = spender.ask(MESSAGES, "old");
        spender.run.stderr.wait("no fallback there");
        models.is_spent.store(false, SeqCst);
        let second = spender.post(MESSAGES, "old");
        assert_eq!((first.answer().status, second.status), (200, 200));
        let asked = models.asked();
        let times = asked.iter().filter(|model| *model == "new").count();
        assert_eq!(times, 1, "{asked:?}");
        spender.run.tell("exit 0");
        let (ended, sums) = spender.end(0);
        ended
            .says_once(&format!(
                "Anthropic refuses new ({status}): no fallback there"
            ))
            .says(&["Waiting for limits to reset", "Held requests go on"]);
        assert!(sums.iter().all(|line| line.contains(" old: ")), "{sums:?}");
    }
}

/// Without it the command counts as using only what is spent.
#[test]
fn without_the_fallback_the_command_is_paused_as_ever() {
    let models = Models::with(3600, 404);
    let options = [
        "--fallback-model",
        "new",
        "--hold",
        "1s",
        "--provider",
        "anthropic",
    ];
    let mut spender = Spender::at(&models.upstream.url, &options);
    let _held = spender.ask(MESSAGES, "old");
    spender.run.stderr.wait("Pausing subprocess");
    spender.run.signal(Signal::SIGTERM);
    spender.run.end().expect(0);
}

#[test]
fn a_fallback_that_cannot_be_one_is_refused() {
    let provider = Provider::anthropic(&[0.1]);
    for (options, said) in [
        (&["--fallback-model", ""][..], "does not take ''"),
        (&["--fallback-model", "a b"], "does not take 'a b'"),
        (
            &["--fallback-model", "m", "--model", "m"],
            "does not take 'm'",
        ),
        (
            &["--fallback-model", "m", "--no-proxy"],
            "works only in the proxy",
        ),
    ] {
        let run = Supervise::with(&provider).options(options).script("true");
        let said = format!("option '--fallback-model' {said}");
        run.end().expect(125).says(&[&said, "hint: give "]);
    }
}
