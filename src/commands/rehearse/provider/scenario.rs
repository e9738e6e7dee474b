//! Scenarios: which tokens exist, what their organizations may use, and what happens when.
//! Owns: the file format and the two built-in scenarios; `read.rs` reads it.
//! Promises: a bad file gives one line that names the field; unknown fields are errors, so a typing
//! mistake cannot make a test pass. Pure. Does not play anything; that is `state`.
//!
//! ```json
//! {
//!   "tokens": [
//!     {"text": "t-1", "provider": "anthropic", "organization": "org-1"},
//!     {"text": "t-2", "provider": "openai", "organization": "org-2", "project": "proj_a"}
//!   ],
//!   "organizations": {
//!     "org-1": {"id": "04aa8588-6567-40cb-9042-a54b20ebaf4f", "buckets": {
//!       "requests": {"limit": 1000, "period": "1m", "used": 0.5},
//!       "tokens": {"limit": 2000000, "resets": "1m", "remaining": 90000, "reset_in": "8s"}}}
//!   },
//!   "models": ["claude-haiku-5-5"],
//!   "refuse_max_tokens_0": true,
//!   "stream_pause": "50ms",
//!   "events": [
//!     {"when": {"after": "5s"}, "do": {"set":
//!       {"organization": "org-1", "bucket": "requests", "used": 0.96, "reset_in": "8s"}}},
//!     {"when": {"after_requests": 20, "organization": "org-1"}, "do": [
//!       {"answer": {"token": "anthropic#1", "fault": "429", "retry_after": 5, "for": "8s"}},
//!       {"answer": {"organization": "org-2", "fault": "529", "times": 3}}]},
//!     {"do": {"clear": {}}}
//!   ]
//! }
//! ```
//! Durations are text (`1m30s`, `200ms`) or seconds. A bucket has a `period` (continuous refill; an
//! empty one is full after it; 1m unless said) or `resets` (fixed windows). An organization that is
//! not listed may use 1000 requests and 2,000,000 tokens a minute. A token is named by its text or
//! its label, `anthropic#1` for the first of that provider. No `when`: at the start. No `token` and
//! no `organization`: all. The most specific fault answers; a new one replaces the old of its scope.
//!
//! Faults: `401 403 404 429 500 503 529 spend-cap user-spend-limit credit-balance
//! insufficient-quota stream-error`. Their fields: `retry_after` (429: seconds, null for no header; 5
//! unless said), `until` (spend-cap, user-spend-limit: access again after this time; first of next month
//! unless said), `code` (insufficient-quota: `error.code`), `kind` and `events` (stream-error: the error's
//! type, `overloaded_error` unless said, and how many events of the usual stream come before it, none
//! unless said; what is not streamed is as usual).

mod node;
mod read;

use super::bucket::{Bucket, Level};
use std::time::Duration;

/// Whose wire format a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Anthropic,
    Openai,
}

impl Dialect {
    /// The name in scenario files and labels.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::Openai => "openai",
        }
    }
}

/// What a bucket limits. The names are those of Anthropic's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Requests,
    Tokens,
    InputTokens,
    OutputTokens,
}

impl Kind {
    /// All kinds, in the order in which they are drawn and shown.
    pub(crate) const ALL: [Self; 4] = [
        Self::Requests,
        Self::Tokens,
        Self::InputTokens,
        Self::OutputTokens,
    ];

    /// The name in headers and scenario files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::InputTokens => "input-tokens",
            Self::OutputTokens => "output-tokens",
        }
    }
}

/// One credential that the provider knows.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    /// What clients send. Goes into no output.
    pub(crate) text: String,
    /// `anthropic#1`: the provider and the position among its tokens, from 1.
    pub(crate) label: String,
    pub(crate) provider: Dialect,
    /// Index into `Scenario::organizations`.
    pub(crate) organization: usize,
    /// OpenAI's project; ignored for Anthropic.
    pub(crate) project: String,
}

/// Who owns the buckets.
#[derive(Clone, Debug)]
pub(crate) struct Organization {
    pub(crate) name: String,
    /// What the identity header says; the name unless the scenario says otherwise.
    pub(crate) id: String,
    /// As they are at the start, in the order of `Kind::ALL`.
    pub(crate) buckets: Vec<(Kind, Bucket)>,
}

/// An action and its time.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) when: When,
    pub(crate) actions: Vec<Action>,
}

/// The time of an event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum When {
    /// This long after the start; zero at the start.
    After(Duration),
    /// Once this many requests with a known token were answered, by the organization or by all.
    AfterRequests {
        count: u64,
        organization: Option<usize>,
    },
}

/// Something that happens to the provider.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Set {
        organization: usize,
        bucket: Kind,
        level: Option<Level>,
        reset_in: Option<Duration>,
    },
    Answer {
        scope: Scope,
        fault: Fault,
        lasts: Option<Duration>,
        times: Option<u64>,
    },
    /// Ends the fault of exactly this scope; `All` ends every fault.
    Clear(Scope),
}

/// Whom a fault concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    /// Index into `Scenario::organizations`.
    Organization(usize),
    /// Index into `Scenario::tokens`.
    Token(usize),
}

/// An answer other than the usual one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    Unauthorized,
    Forbidden,
    UnknownModel,
    /// `retry_after` in seconds; without it the header is missing.
    Throttled {
        retry_after: Option<u64>,
    },
    SpendCap {
        until: Option<Duration>,
    },
    UserSpendLimit {
        until: Option<Duration>,
    },
    CreditBalance,
    /// `code` is OpenAI's `error.code`.
    InsufficientQuota {
        code: String,
    },
    /// 500, 503 or 529.
    Down(u16),
    /// A stream that ends with an error after so many events.
    StreamError {
        kind: String,
        events: usize,
    },
}

/// A whole scenario. The indices in it are valid.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) tokens: Vec<Token>,
    pub(crate) organizations: Vec<Organization>,
    /// The models that exist; nothing means every model does.
    pub(crate) models: Option<Vec<String>>,
    /// Answer `max_tokens: 0` with 400, as older servers do.
    pub(crate) refuse_max_tokens_0: bool,
    /// Pause between two events of a stream.
    pub(crate) stream_pause: Duration,
    pub(crate) events: Vec<Event>,
}

/// Work units of the night: enough to go on for some seconds after the wait.
pub(crate) const NIGHT_UNITS: u32 = 155;

impl Scenario {
    /// The built-in night for the built-in worker: two rotations, one wait, the finish, in about
    /// 20 s. Wants a probe every second and a patience of at most 2 s.
    #[expect(clippy::expect_used, reason = "compiled in, and parsed by a unit test")]
    pub(crate) fn night() -> Self {
        Self::parse(include_str!("night.json")).expect("a unit test parses the built-in night")
    }

    /// The built-in scenario for the user's own command: three tokens of each provider, spent at
    /// 5 s, 12 s and 19 s after the start, the third with a reset 6 s ahead.
    #[expect(clippy::expect_used, reason = "compiled in, and parsed by a unit test")]
    pub(crate) fn for_command() -> Self {
        Self::parse(include_str!("command.json")).expect("a unit test parses the built-in scenario")
    }

    /// The token texts of a provider (`anthropic` or `openai`), in order.
    pub(crate) fn tokens_of(&self, provider: &str) -> Vec<String> {
        let of_provider = self
            .tokens
            .iter()
            .filter(|token| token.provider.name() == provider);
        of_provider.map(|token| token.text.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_scenarios_are_valid() {
        let night = Scenario::night();
        assert_eq!(night.tokens_of("anthropic").len(), 3);
        assert_eq!(
            night.tokens_of("anthropic")[0],
            "rehearsal-anthropic-not-a-real-token-a001"
        );
        assert_eq!(night.tokens_of("openai").len(), 0);
        let command = Scenario::for_command();
        assert_eq!(command.tokens_of("anthropic").len(), 3);
        assert_eq!(command.tokens_of("openai").len(), 3);
        assert_eq!(command.organizations.len(), 6);
    }

    #[test]
    fn the_documented_example_is_valid() {
        let text: String = include_str!("scenario.rs")
            .lines()
            .skip_while(|line| *line != "//! ```json")
            .skip(1)
            .take_while(|line| *line != "//! ```")
            .map(|line| line.trim_start_matches("//!"))
            .collect();
        let scenario = Scenario::parse(&text).unwrap();
        assert_eq!(scenario.events.len(), 3);
        assert_eq!(scenario.tokens[1].label, "openai#1");
        assert_eq!(scenario.tokens[1].project, "proj_a");
        let bucket = &scenario.organizations[0].buckets[1].1;
        assert_eq!(
            (bucket.remaining(), bucket.reset_in()),
            (90_000, Duration::from_secs(8))
        );
        let count = When::AfterRequests {
            count: 20,
            organization: Some(0),
        };
        assert_eq!(scenario.events[1].when, count);
    }

    #[test]
    fn errors_are_one_line_and_name_the_field() {
        let token = r#"{"text":"t","provider":"anthropic","organization":"o"}"#;
        let with = |rest: &str| format!("{{\"tokens\":[{token}]{rest}}}");
        let event = |action: &str| with(&format!(",\"events\":[{{\"do\":{action}}}]"));
        let cases = [
            ("".to_owned(), "scenario is not JSON"),
            ("[]".to_owned(), "scenario: expected an object"),
            ("{}".to_owned(), "tokens: missing"),
            (
                r#"{"tokens":[{"text":"t"}]}"#.to_owned(),
                "tokens[0].provider: missing",
            ),
            (
                r#"{"tokens":[{"text":"t","provider":"x","organization":"o"}]}"#.to_owned(),
                "tokens[0].provider: expected anthropic or openai",
            ),
            (
                format!("{{\"tokens\":[{token},{token}]}}"),
                "tokens[1].text: ",
            ),
            (with(",\"event\":[]"), "scenario: unknown field \"event\""),
            (
                with(r#","organizations":{"o":{"buckets":{"requests":{"limit":0}}}}"#),
                "organizations.o.buckets.requests.limit: ",
            ),
            (
                with(
                    r#","organizations":{"o":{"buckets":{"requests":{"limit":1,"period":"0s"}}}}"#,
                ),
                "organizations.o.buckets.requests.period: ",
            ),
            (
                with(r#","events":[{"when":{"after":"soon"},"do":{}}]"#),
                "events[0].when.after: ",
            ),
            (
                with(r#","events":[{"when":{},"do":{}}]"#),
                "events[0].when: ",
            ),
            (event("{}"), "events[0].do: expected exactly one"),
            (
                event(r#"[{"clear":{"token":"anthropic#2"}}]"#),
                "events[0].do[0].clear.token: ",
            ),
            (
                event(r#"{"set":{"organization":"p"}}"#),
                "events[0].do.set.organization: ",
            ),
            (
                event(r#"{"set":{"organization":"o","bucket":"input-tokens","used":1}}"#),
                "events[0].do.set.bucket: ",
            ),
            (
                event(r#"{"set":{"organization":"o","bucket":"requests","used":96}}"#),
                "events[0].do.set.used: ",
            ),
            (
                event(r#"{"answer":{"fault":"418"}}"#),
                "events[0].do.answer.fault: no such fault, known: 401, ",
            ),
        ];
        for (text, expected) in cases {
            let error = Scenario::parse(&text).unwrap_err();
            assert!(error.starts_with(expected), "{text}\n{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn reads_faults_and_scopes() {
        let scenario = Scenario::for_command();
        let read = |text: &str| {
            scenario
                .actions(&serde_json::from_str(text).unwrap())
                .unwrap()
        };
        let actions = read(
            r#"[{"answer":{"fault":429,"token":"openai#2","retry_after":"1500ms","times":2}},
                {"answer":{"fault":"429","retry_after":null}},
                {"clear":{}}]"#,
        );
        let Action::Answer {
            scope,
            fault,
            times,
            ..
        } = &actions[0]
        else {
            panic!("{actions:?}")
        };
        assert_eq!((*scope, *times), (Scope::Token(4), Some(2)));
        assert_eq!(
            *fault,
            Fault::Throttled {
                retry_after: Some(2)
            }
        );
        let Action::Answer { scope, fault, .. } = &actions[1] else {
            panic!("{actions:?}")
        };
        assert_eq!(
            (*scope, fault),
            (Scope::All, &Fault::Throttled { retry_after: None })
        );
        assert!(matches!(actions[2], Action::Clear(Scope::All)));
    }
}
