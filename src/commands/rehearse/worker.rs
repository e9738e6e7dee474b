//! The built-in worker: a stand-in for an agent that makes one request per work unit.
//! Owns: its requests, its retries, its journal. Promises: what the journal calls done was answered
//! with 200; a new start goes on at the first unit that is not done. Does not handle signals: SIGTERM
//! ends it at once, so a unit may be begun twice. Never prints a token.
//!
//! Journal, one line each, flushed: `{"event":"begin","pid":4711,"unit":3}`; `event` is `begin`,
//! `done` or `failed`; units count from 1.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::json;

/// Pause between two units.
const PAUSE: Duration = Duration::from_millis(100);
/// Tries for one unit.
const TRIES: u32 = 3;
/// The longest `retry-after` that is waited for in full.
const PATIENCE: Duration = Duration::from_secs(2);
/// No answer to a work unit is larger.
const LARGEST_ANSWER: u64 = 1 << 20;
/// Units between two lines of progress.
const PROGRESS: u32 = 20;

/// Where and how to ask.
struct Client {
    agent: ureq::Agent,
    url: String,
    header: &'static str,
    credential: String,
    model: &'static str,
}

/// Does the units `1..=units` that `journal` does not call done, one after the other. `env` looks up
/// `ANTHROPIC_BASE_URL` and `ANTHROPIC_API_KEY`, or OpenAI's when only those are set. The result is
/// the exit code: 0 done, 1 the provider refused, 2 the journal or the environment is unusable.
pub(crate) fn run(journal: &Path, units: u32, env: &dyn Fn(&str) -> Option<String>) -> i32 {
    match work(journal, units, env) {
        Ok(()) => 0,
        Err((code, why)) => {
            let _ = writeln!(io::stderr(), "worker: {why}");
            code
        }
    }
}

fn work(
    path: &Path,
    units: u32,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(), (i32, String)> {
    let unusable = |error: io::Error| {
        (
            2,
            format!("cannot use the journal {}: {error}", path.display()),
        )
    };
    let client = Client::from_env(env).map_err(|why| (2, why))?;
    let (mut file, first) = open(path, units).map_err(unusable)?;
    let Some(first) = first else {
        return Ok(());
    };
    for unit in first..=units {
        if unit != first {
            thread::sleep(PAUSE);
        }
        note(&mut file, unit, "begin").map_err(unusable)?;
        if let Err(why) = client.ask_patiently(unit) {
            note(&mut file, unit, "failed").map_err(unusable)?;
            return Err((1, format!("unit {unit}: {why}")));
        }
        note(&mut file, unit, "done").map_err(unusable)?;
        if unit % PROGRESS == 0 || unit == units {
            let _ = writeln!(io::stdout(), "unit {unit}/{units} done");
        }
    }
    Ok(())
}

/// Opens the journal for appending and says which unit comes first, if any is left.
fn open(path: &Path, units: u32) -> io::Result<(File, Option<u32>)> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    // A line that the last run could not finish must not swallow the first one of this run.
    if bytes.last().is_some_and(|byte| *byte != b'\n') {
        file.write_all(b"\n")?;
    }
    Ok((
        file,
        super::tally::first_open(&String::from_utf8_lossy(&bytes), units),
    ))
}

fn note(file: &mut File, unit: u32, event: &str) -> io::Result<()> {
    let line = json!({ "unit": unit, "event": event, "pid": std::process::id() });
    // One write, so that a line is there as a whole or, after a kill, cut but never mixed.
    file.write_all(format!("{line}\n").as_bytes())?;
    file.flush()
}

/// How one try ended.
enum Outcome {
    Done,
    /// Worth another try, after this time.
    Again(Duration, String),
    Refused(String),
}

impl Client {
    fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let get = |name: &str| env(name).filter(|value| !value.is_empty());
        let need = |name: &str| get(name).ok_or_else(|| format!("{name} is not set"));
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // The provider is on loopback, whatever the environment says about proxies.
            .proxy(None)
            .timeout_global(Some(Duration::from_secs(60)))
            .user_agent("rehearsal-worker/1");
        let agent = config.build().new_agent();
        let base = |url: String| url.trim_end_matches('/').to_owned();
        if let Some(url) = get("ANTHROPIC_BASE_URL") {
            return Ok(Self {
                agent,
                url: base(url) + "/v1/messages",
                header: "x-api-key",
                credential: need("ANTHROPIC_API_KEY")?,
                model: "claude-haiku-5-5",
            });
        }
        let url = get("OPENAI_BASE_URL")
            .ok_or("neither ANTHROPIC_BASE_URL nor OPENAI_BASE_URL is set")?;
        Ok(Self {
            agent,
            url: base(url) + "/chat/completions",
            header: "authorization",
            credential: format!("Bearer {}", need("OPENAI_API_KEY")?),
            model: "gpt-5.6-luna",
        })
    }

    fn ask_patiently(&self, unit: u32) -> Result<(), String> {
        let mut last = String::new();
        for attempt in 1..=TRIES {
            match self.ask(unit) {
                Outcome::Done => return Ok(()),
                Outcome::Refused(why) => return Err(why),
                Outcome::Again(after, why) => {
                    last = why;
                    if attempt < TRIES {
                        thread::sleep(after);
                    }
                }
            }
        }
        Err(format!("{last}, {TRIES} times"))
    }

    fn ask(&self, unit: u32) -> Outcome {
        let body = json!({
            "model": self.model,
            "max_tokens": 64,
            "messages": [{ "role": "user", "content": format!("work unit {unit}") }],
        });
        let request = http::Request::post(&self.url)
            .header(self.header, &self.credential)
            .header("content-type", "application/json")
            .header("anthropic-version", "2023-06-01")
            .body(body.to_string());
        let answer = request
            .map_err(ureq::Error::from)
            .and_then(|request| self.agent.run(request));
        let (head, body) = match answer {
            Ok(response) => response.into_parts(),
            Err(error) => {
                return Outcome::Again(Duration::from_millis(500), format!("no answer: {error}"));
            }
        };
        let status = head.status.as_u16();
        let header = head.headers.get("retry-after");
        let seconds = header.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let after = seconds
            .map_or(Duration::from_millis(500), Duration::from_secs)
            .min(PATIENCE);
        // Reading to the end lets the connection be used again, and an answer cut short is none.
        let mut text = Vec::new();
        let mut reader = body.into_reader().take(LARGEST_ANSWER);
        let whole = reader.read_to_end(&mut text).is_ok() && reader.limit() > 0;
        match status {
            200 if whole => Outcome::Done,
            200 => Outcome::Again(after, "the answer was cut short".to_owned()),
            401 | 429 | 500..=599 => Outcome::Again(after, format!("status {status}")),
            _ => Outcome::Refused(format!("status {status}")),
        }
    }
}

#[cfg(test)]
mod tests;
