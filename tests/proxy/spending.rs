//! What answers say that they have cost: counted for each token and model, and an end at `--max-tokens`.

use crate::support::env::{PROGRAM, output};
use crate::support::gateway::{Answered, Wire};
use crate::support::run::Ended;
use crate::support::upstream::Upstream;
use crate::support::{Desk, Provider, Run, Supervise, spent_at};
use serde_json::{Value, json};

pub(super) const WHOLE: &str = "Content-Type: application/json\r\n";
pub(super) const MESSAGES: &str = "/anthropic/v1/messages";

/// The agent, and how to ask in its name.
pub(super) struct Spender {
    pub(super) run: Run,
    /// Where the journal is.
    desk: Desk,
    address: String,
    secret: String,
}

impl Spender {
    /// Behind a proxy to this address, with tokens of three providers.
    pub(super) fn at(address: &str, options: &[&str]) -> Spender {
        let run = Supervise::bare()
            .env("ANTHROPIC_BASE_URL", address)
            .env("ANTHROPIC_API_KEYS", "token-aaaa-1,token-bbbb-2")
            .env("OPENAI_BASE_URL", format!("{address}/v1"))
            .env("OPENAI_API_KEY", "token-cccc-3")
            .env("GOOGLE_GEMINI_BASE_URL", address)
            .env("GEMINI_API_KEY", "token-dddd-4");
        Spender::of(run.options(&["--proxy", "--grace", "1m"]).options(options))
    }

    fn of(prepared: Supervise) -> Spender {
        let desk = Desk::new();
        let journal = desk.join("journal");
        let mut run = prepared
            .options(&["--journal", journal.to_str().unwrap()])
            .agent();
        run.wait_ready();
        run.tell("echo \"URL $ANTHROPIC_BASE_URL $ANTHROPIC_API_KEY\"");
        let line = run.stdout.wait("URL http://");
        let mut words = line.split(' ').skip(1);
        let url = words.next().unwrap().to_owned();
        Spender {
            run,
            desk,
            address: url.split('/').nth(2).unwrap().to_owned(),
            secret: words.next().unwrap().to_owned(),
        }
    }

    /// Asks for this model; the answer is still to come.
    pub(super) fn ask(&self, path: &str, model: &str) -> Wire {
        let body =
            json!({"model": model, "max_tokens": 5, "messages": [], "input": ""}).to_string();
        let mut wire = Wire::to(&self.address);
        let (address, secret, length) = (&self.address, &self.secret, body.len());
        wire.send(format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nx-api-key: {secret}\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        wire
    }

    #[track_caller]
    pub(super) fn post(&self, path: &str, model: &str) -> Answered {
        self.ask(path, model).answer()
    }

    /// Waits for the end: how it was, and what the journal has last of each token and model.
    #[track_caller]
    pub(super) fn end(self, code: i32) -> (Ended, Vec<String>) {
        let ended = self.run.end().expect(code);
        let journal = std::fs::read_to_string(self.desk.join("journal")).unwrap();
        let mut sums: Vec<(String, String)> = Vec::new();
        for line in journal.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            if line["event"] == "spent" {
                let [provider, model] =
                    ["provider", "model"].map(|key| line[key].as_str().unwrap());
                let name = format!("{provider} {} {model}", line["token"]);
                let counts = [
                    "answers",
                    "counted",
                    "instead",
                    "input",
                    "output",
                    "cache_read",
                    "cache_written",
                ];
                let counts = counts.map(|count| line[count].to_string()).join(" ");
                sums.retain(|(known, _)| *known != name);
                sums.push((name, counts));
            }
        }
        sums.sort();
        let lines = sums
            .iter()
            .map(|(name, counts)| format!("{name}: {counts}"));
        (ended, lines.collect())
    }
}

fn usage() -> Value {
    json!({"input_tokens": 30, "output_tokens": 70, "cache_read_input_tokens": 300, "cache_creation_input_tokens": 0})
}

pub(super) fn message() -> String {
    json!({"type": "message", "content": [{"type": "text", "text": "hi"}], "usage": usage()})
        .to_string()
}

/// Events in pieces of seven bytes, each a chunk of its own.
fn stream(events: &[Value]) -> (Vec<u8>, String) {
    let lines = events.iter().map(|event| format!("data: {event}\n\n"));
    let text = lines.collect::<String>();
    let chunks = text.as_bytes().chunks(7).map(|piece| {
        let size = format!("{:x}\r\n", piece.len()).into_bytes();
        [size, piece.to_vec(), b"\r\n".to_vec()].concat()
    });
    let head =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = chunks.collect::<Vec<_>>().concat();
    ([&head[..], &body, b"0\r\n\r\n"].concat(), text)
}

/// Paths, the answers there, and what they add up to.
fn dialects() -> Vec<(&'static str, Vec<Value>, &'static str)> {
    let responses = json!({"input_tokens": 50, "input_tokens_details": {"cached_tokens": 8}, "output_tokens": 9});
    let chat = json!({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "prompt_tokens_details": {"cached_tokens": 60}});
    let chunk = |usage: Value| json!({"candidates": [{"content": {"parts": [{"text": "x"}]}}], "usageMetadata": usage});
    vec![
        (
            MESSAGES,
            vec![
                json!({"type": "message_start", "message": {"content": [], "usage": {"input_tokens": 3,
                    "cache_creation_input_tokens": 20, "cache_read_input_tokens": 100, "output_tokens": 1}}}),
                json!({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "\"usage\":{"}}),
                json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 40}}),
                json!({"type": "message_stop"}),
            ],
            "anthropic 1 m: 1 1 0 3 40 100 20",
        ),
        (
            "/gemini/v1beta/models/m:streamGenerateContent?alt=sse",
            vec![
                chunk(
                    json!({"promptTokenCount": 200, "thoughtsTokenCount": 30, "totalTokenCount": 230}),
                ),
                chunk(
                    json!({"promptTokenCount": 200, "cachedContentTokenCount": 150, "candidatesTokenCount": 5,
                    "thoughtsTokenCount": 30, "totalTokenCount": 235}),
                ),
            ],
            "gemini 1 m: 1 1 0 50 35 150 0",
        ),
        (
            "/openai/v1/chat/completions",
            vec![
                json!({"choices": [{"delta": {"content": "x"}}], "usage": null}),
                json!({"choices": [], "usage": chat}),
            ],
            "openai 1 chat: 1 1 0 40 20 60 0",
        ),
        (
            "/openai/v1/responses",
            vec![
                json!({"type": "response.output_text.delta", "delta": "x"}),
                json!({"type": "response.completed", "response": {"usage": responses}}),
            ],
            "openai 1 m: 1 1 0 42 9 8 0",
        ),
    ]
}

#[test]
fn each_api_is_counted_for_each_token_and_model_and_no_byte_is_changed() {
    let upstream = Upstream::playing(|played| {
        let path = played.head.split(' ').nth(1).unwrap();
        let path = path.split('?').next().unwrap();
        let end = path.rsplit('/').next().unwrap();
        let all = dialects();
        let known = all
            .iter()
            .find(|(known, ..)| known.split('?').next().unwrap().ends_with(end));
        played.send(stream(&known.unwrap().1).0);
        true
    });
    let mut spender = Spender::at(&upstream.url, &[]);
    let mut expected = Vec::new();
    for (path, events, sums) in dialects() {
        let model = if path.ends_with("completions") {
            "chat"
        } else {
            "m"
        };
        let answered = spender.post(path, model);
        assert_eq!((answered.status, answered.whole), (200, true), "{path}");
        assert_eq!(answered.text(), stream(&events).1, "{path}");
        expected.push(sums);
    }
    spender.run.tell("exit 0");
    let (ended, sums) = spender.end(0);
    ended.never_says("max-tokens");
    assert_eq!(sums, expected);
}

#[test]
fn the_command_is_ended_in_order_when_so_much_was_used() {
    let upstream = Upstream::playing(|played| {
        played.answer(200, WHOLE, &message());
        true
    });
    let mut spender = Spender::at(&upstream.url, &["--max-tokens", "1k"]);
    spender
        .run
        .tell("trap 'echo LAST; while [ ! -e go ]; do sleep 0.01; done; exit 3' TERM");
    for _ in 0..3 {
        let answered = spender.post(MESSAGES, "m");
        assert_eq!((answered.status, answered.text()), (200, message()));
    }
    // It is told to end, and nothing more is spent meanwhile.
    spender.run.stderr.wait("--max-tokens 1k is reached");
    assert_eq!(spender.post(MESSAGES, "m").status, 403);
    assert_eq!(upstream.count(), 3);
    std::fs::write(spender.run.desk.join("go"), "").unwrap();
    let (ended, sums) = spender.end(75);
    ended.says_once("--max-tokens 1k is reached: 1.2k LLM tokens used; run it again to go on");
    assert_eq!(sums, ["anthropic 1 m: 3 3 0 90 210 900 0"]);
}

#[test]
fn the_count_goes_on_over_rotations_and_restarts() {
    let upstream = Upstream::playing(|played| {
        let is_first = played.head.contains("token-aaaa-1");
        match is_first && played.number == 1 {
            true => played.answer(429, "retry-after: 3600\r\n", ""),
            false => played.answer(200, WHOLE, &message()),
        }
        true
    });
    let options = ["--max-tokens", "1.1k", "--retries", "1"];
    let mut spender = Spender::at(&upstream.url, &options);
    for _ in 0..2 {
        assert_eq!(spender.post(MESSAGES, "m").status, 200);
    }
    spender.run.tell("exit 7");
    spender.run.wait_ready();
    assert_eq!(spender.post(MESSAGES, "other").status, 200);
    let (ended, sums) = spender.end(75);
    ended.says(&[
        "Switched to token 2/2",
        "(retry 1 of 1)",
        "--max-tokens 1.1k is reached",
    ]);
    let expected = [
        "anthropic 1 m: 1 1 0 30 70 300 0",
        // The limit was that of one model.
        "anthropic 1 other: 1 1 0 30 70 300 0",
        "anthropic 2 m: 1 1 0 30 70 300 0",
    ];
    assert_eq!(sums, expected);
}

/// OpenAI's chat completions say it only where they are asked to, and nobody reads what is compressed.
#[test]
fn an_answer_that_does_not_say_what_it_cost_is_told_of_once() {
    let upstream = Upstream::playing(|played| {
        match played.number {
            0 => played.send(stream(&[json!({"choices": [{"delta": {"content": "x"}}]})]).0),
            1 => played.answer(200, &format!("{WHOLE}Content-Encoding: gzip\r\n"), "\x1f"),
            _ => played.answer(200, WHOLE, &message()),
        }
        true
    });
    let mut spender = Spender::at(&upstream.url, &["--max-tokens", "100M"]);
    let chat = "/openai/v1/chat/completions";
    for _ in 0..3 {
        assert_eq!(spender.post(chat, "m").status, 200);
    }
    // What no model has answered costs nothing.
    assert_eq!(spender.post("/openai/v1/files", "m").status, 200);
    spender.run.tell("exit 0");
    let (ended, sums) = spender.end(0);
    ended.says_once("did not say what it cost");
    assert_eq!(sums, ["openai 1 m: 3 1 0 30 70 300 0"]);
}

#[test]
fn it_is_told_when_there_is_nothing_to_count() {
    let provider = Provider::anthropic(&[0.1]);
    let offered = || Supervise::with(&provider).options(&["--max-tokens", "20M"]);
    let ended = offered().script("true").end().expect(0);
    ended
        .says(&[
            "--max-tokens applies to requests through the proxy only",
            "Launching",
        ])
        .says_once("No request came through the proxy: --max-tokens has counted nothing");
    for more in ["--no-proxy", "--mixed"] {
        let ended = offered().options(&[more]).script("true").end().expect(125);
        ended.says(&[
            "option '--max-tokens' works only in the proxy",
            "hint: give --proxy",
        ]);
    }
}

#[test]
fn the_report_says_what_each_token_has_cost() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let mut spender = Spender::of(Supervise::with(&provider).options(&["--proxy"]));
    assert_eq!(spender.post(MESSAGES, "claude-haiku-5-5").status, 200);
    provider.control(spent_at("org-1", "2h"));
    assert_eq!(spender.post(MESSAGES, "claude-opus-5-5").status, 200);
    spender.run.tell("exit 0");
    spender.run.end().expect(0);
    let report = |options: &[&str]| {
        let mut command = spender.desk.command(PROGRAM);
        let ended = output(command.arg("report").args(options).arg("journal"));
        String::from_utf8(ended.stdout).unwrap()
    };
    let text = report(&[]);
    let lines = [
        "44 LLM tokens in 2 answers\n",
        "  token 1/2 claude-haiku-5-5: 17 in, 5 out\n",
        "  token 2/2 claude-opus-5-5: 17 in, 5 out\n",
    ];
    assert!(text.contains(&lines.concat()), "{text}");
    let json: Value = serde_json::from_str(&report(&["--json"])).unwrap();
    let first = json!({"provider": "anthropic", "token": 1, "model": "claude-haiku-5-5", "answers": 1,
        "counted": 1, "instead": 0, "input": 17, "output": 5, "cache_read": 0, "cache_written": 0});
    assert_eq!(json["spent"][0], first);
}
