//! The options: one table that parsing, help, the man page and the completions read.
//!
//! A row says everything about its option. Setting one validates its value and nothing else.

use super::Command;
use super::args::{Resume, StateFile, Values};
use crate::clients;
use crate::common::duration;
use crate::events::console::Verbosity;
use crate::tokens::strategy::Strategy;
use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

/// One option.
pub(super) struct Flag {
    /// Its name without the dashes.
    pub(super) long: &'static str,
    pub(super) short: Option<char>,
    /// What its value is called in help; `None` for a switch.
    pub(super) value: Option<&'static str>,
    /// Its default as it reads on the command line, if it has one.
    pub(super) default: Option<&'static str>,
    pub(super) commands: &'static [Command],
    /// One line, without a period.
    pub(super) about: &'static str,
    /// Whole sentences for the long help.
    pub(super) details: &'static str,
    /// Takes the value in, or says what it wants.
    pub(super) set: fn(&mut Values, &OsStr) -> Result<(), Cow<'static, str>>,
}

const BOTH: &[Command] = &[Command::Supervise, Command::Rehearse];
const KEEPERS: &[Command] = &[Command::Supervise, Command::Proxy, Command::Status];
const PROXY: &[Command] = &[Command::Proxy];
const REHEARSE: &[Command] = &[Command::Rehearse];
const REPORT: &[Command] = &[Command::Report];
const STATUS: &[Command] = &[Command::Status];
const SHOWING: &[Command] = &[Command::Status, Command::Report];
const ASKING: &[Command] = &[
    Command::Supervise,
    Command::Proxy,
    Command::Status,
    Command::Rehearse,
];
/// Those that serve a command or applications until they end.
const RUNNING: &[Command] = &[Command::Supervise, Command::Proxy, Command::Rehearse];

const A_DURATION: &str = "a duration such as 90s, 2m or 1h30m";
/// A client that waits for one slow answer is not to be taken for one that has stalled.
const SHORTEST_STALL: Duration = Duration::from_secs(30);
const A_LONG_DURATION: &str = "a duration of at least 30s, such as 10m";
const AN_INTERVAL: &str = "a duration from 100ms to 1 day, such as 60s or 2m";
/// A probe more often than this would spend the limit that it watches.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
const DAY: Duration = Duration::from_secs(86_400);

/// All options, in the order in which help shows them.
pub(super) static FLAGS: &[Flag] = &[
    Flag {
        long: "interactive",
        short: Some('i'),
        value: None,
        default: None,
        commands: BOTH,
        about: "ask what to do when a limit is near or reached",
        details: "The command is paused and the question is put on the terminal. Without this \
                  option ddollar rotates and waits by itself.",
        set: |values, _| {
            values.supervision.interactive = true;
            Ok(())
        },
    },
    Flag {
        long: "threshold",
        short: None,
        value: Some("PERCENT"),
        default: Some("95"),
        commands: ASKING,
        about: "leave a token when it is used above this",
        details: "A token is near its limit when more than this percentage of one of its limits is \
                  used. Above 0, up to 100.",
        set: |values, value| {
            let wants = "a percentage above 0, up to 100";
            let percent: f64 = text(value)
                .and_then(|value| value.strip_suffix('%').unwrap_or(value).parse().ok())
                .ok_or(wants)?;
            if !(percent > 0.0 && percent <= 100.0) {
                return Err(wants.into());
            }
            // Nobody leaves a token that is used above one per cent.
            if percent < 1.0 {
                return Err(format!("{wants}; did you mean {}?", percent * 100.0).into());
            }
            values.checks.threshold = percent;
            Ok(())
        },
    },
    Flag {
        long: "interval",
        short: None,
        value: Some("DURATION"),
        default: Some("60s"),
        commands: ASKING,
        about: "how often the limits of the token in use are checked",
        details: "Each check is one minimal request. In a run, checks come more often, up to every \
                  5s, when the threshold would be crossed between two of them; that spends at most 1% \
                  of a limit. With 'status', it is for --watch.",
        set: |values, value| {
            values.checks.interval = duration(value)
                .filter(|span| (SHORTEST_INTERVAL..=DAY).contains(span))
                .ok_or(AN_INTERVAL)?;
            Ok(())
        },
    },
    Flag {
        long: "grace",
        short: None,
        value: Some("DURATION"),
        default: Some("10s"),
        commands: BOTH,
        about: "from SIGTERM to SIGKILL when the command is stopped",
        details: "The command and what it started get SIGTERM, and SIGKILL after this time. The \
                  next start waits until they are gone.",
        set: |values, value| {
            values.supervision.grace = duration(value)
                .filter(|span| *span <= DAY)
                .ok_or(A_DURATION)?;
            Ok(())
        },
    },
    Flag {
        long: "provider",
        short: None,
        value: Some("NAME[,NAME]"),
        default: None,
        commands: ASKING,
        about: "use the tokens of these providers only",
        details: "Without this option, all providers are used that the environment has a token for. \
                  A command gets one token of each of them. The names are anthropic, openai, groq, mistral, xai, cerebras, together, fireworks, deepseek, \
                  openrouter, cohere, gemini, azure, perplexity and huggingface.",
        set: |values, value| {
            let names: Vec<String> = text(value)
                .map(|value| {
                    value
                        .split(',')
                        .map(|name| name.trim().to_ascii_lowercase())
                        .collect()
                })
                .ok_or("names of providers")?;
            if names.iter().any(String::is_empty) {
                return Err("names of providers, separated by commas".into());
            }
            values.checks.providers = names;
            Ok(())
        },
    },
    Flag {
        long: "mixed",
        short: None,
        value: None,
        default: None,
        commands: BOTH,
        about: "rotate over all providers, for a command that can use any",
        details: "The command gets one token of one provider, and DDOLLAR_PROVIDER names it. \
                  Without this option it gets one token of each provider.",
        set: |values, _| {
            values.supervision.mixed = true;
            Ok(())
        },
    },
    Flag {
        long: "model",
        short: None,
        value: Some("MODEL"),
        default: None,
        commands: ASKING,
        about: "the model that the command uses, for the checks",
        details: "Limits are per model. Without this option the checks ask for the model on the command \
                  line of a known client, else the one seen in the command's requests, now or in an \
                  earlier run, else ANTHROPIC_MODEL or OPENAI_MODEL, else the client's usual one or \
                  the cheapest, if it is known.",
        set: |values, value| {
            values.checks.model = Some(
                text(value)
                    .filter(|name| !name.is_empty() && name.len() <= 200)
                    .ok_or("the name of a model")?
                    .to_owned(),
            );
            Ok(())
        },
    },
    Flag {
        long: "resume",
        short: None,
        value: Some("COMMAND"),
        default: None,
        commands: BOTH,
        about: "the command line for every start after the first",
        details: "One argument, split into words as a shell does it. Without this option a known \
                  client (see --client) resumes its session, and any other command is repeated. \
                  'same' repeats the command as it is, and changes nothing about it.",
        set: |values, value| {
            let wants = "a command line as one argument ('claude --continue') or 'same'";
            let line = text(value).ok_or(wants)?;
            values.supervision.resume = if line == "same" {
                Resume::Same
            } else {
                let words = shlex::split(line)
                    .filter(|words| !words.is_empty())
                    .ok_or(wants)?;
                Resume::Command(words.into_iter().map(Into::into).collect())
            };
            Ok(())
        },
    },
    Flag {
        long: "client",
        short: None,
        value: Some("NAME"),
        default: None,
        commands: BOTH,
        about: "which client the command is, if its name does not say so",
        details: "claude, codex, gemini, opencode, aider, llm, copilot or qwen. Without this option they \
                  are recognised by name, also behind npx, env or nice. ddollar gives each its token in \
                  the way it expects, and has it resume its session after a restart. With 'generic' \
                  nothing is changed.",
        set: |values, value| {
            let wants = "claude, codex, gemini, opencode, aider, llm, copilot, qwen or generic";
            let name = text(value).ok_or(wants)?;
            if !clients::names().any(|known| known == name) {
                return Err(wants.into());
            }
            values.supervision.client = Some(name.to_owned());
            Ok(())
        },
    },
    Flag {
        long: "patience",
        short: None,
        value: Some("DURATION"),
        default: Some("5s"),
        commands: ASKING,
        about: "a limit that resets sooner than this is not worth a rotation",
        details: "",
        set: |values, value| {
            values.checks.patience = duration(value).ok_or(A_DURATION)?;
            Ok(())
        },
    },
    Flag {
        long: "max-wait",
        short: None,
        value: Some("DURATION"),
        default: None,
        commands: BOTH,
        about: "exit with 75 rather than wait longer than this",
        details: "Without this option ddollar waits for the earliest reset, whenever it is.",
        set: |values, value| {
            values.supervision.max_wait = Some(duration(value).ok_or(A_DURATION)?);
            Ok(())
        },
    },
    Flag {
        long: "fallback-model",
        short: None,
        value: Some("MODEL"),
        default: None,
        commands: BOTH,
        about: "ask for this model while every token is spent for another one",
        details: "In the proxy: the request goes out for this model instead of being held. A \
                  provider that does not have the model is not asked for it again.",
        set: |values, value| {
            let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/@+".contains(&byte);
            let name = text(value).map(|name| name.strip_prefix("models/").unwrap_or(name));
            let name = name.filter(|name| (1..=128).contains(&name.len()));
            let name = name.filter(|name| name.bytes().all(is_fit));
            values.supervision.fallback_model = Some(name.ok_or("the name of a model")?.to_owned());
            Ok(())
        },
    },
    Flag {
        long: "max-tokens",
        short: None,
        value: Some("N"),
        default: None,
        commands: BOTH,
        about: "exit with 75 once this many LLM tokens are used, such as 20M",
        details: "All LLM tokens count that the answers report as read or written, including those \
                  read from a cache or written to one. The answer under way is still completed; then the \
                  command is stopped in order. Only what comes through the proxy is counted.",
        set: |values, value| {
            let wants = "a number of LLM tokens from 1, such as 20M or 500k";
            values.supervision.max_tokens = Some(text(value).and_then(count).ok_or(wants)?);
            Ok(())
        },
    },
    Flag {
        long: "retries",
        short: None,
        value: Some("N"),
        default: Some("0"),
        commands: BOTH,
        about: "how many times to restart a command that fails for reasons of its own",
        details: "Failures that a limit or an outage explains do not count. Three starts in a row \
                  that die within 2 seconds end the run all the same.",
        set: |values, value| {
            values.supervision.retries = text(value)
                .and_then(|value| value.parse().ok())
                .ok_or("a whole number from 0")?;
            Ok(())
        },
    },
    Flag {
        long: "stall",
        short: None,
        value: Some("DURATION"),
        default: None,
        commands: BOTH,
        about: "warn when the command does nothing for this long",
        details: "That is: no request through the proxy, and next to no processor time; without the proxy, \
                  only the latter is seen. A client whose session is known is restarted and resumes it, at \
                  most three times in a row. 30s at least.",
        set: |values, value| {
            let span = duration(value).filter(|span| *span >= SHORTEST_STALL);
            values.supervision.stall = Some(span.ok_or(A_LONG_DURATION)?);
            Ok(())
        },
    },
    Flag {
        long: "state",
        short: None,
        value: Some("FILE"),
        default: None,
        commands: KEEPERS,
        about: "the file in which runs share what is known of the tokens",
        details: "Without this option: ddollar/state.json in XDG_STATE_HOME, or in .local/state \
                  in HOME. Tokens that are known to be spent are passed over at the start. No token \
                  is ever written to it.",
        set: |values, value| {
            if value.is_empty() {
                return Err("the name of a file".into());
            }
            values.state = StateFile::At(PathBuf::from(value));
            Ok(())
        },
    },
    Flag {
        long: "no-state",
        short: None,
        value: None,
        default: None,
        commands: KEEPERS,
        about: "neither read nor keep what is known of tokens",
        details: "",
        set: |values, _| {
            values.state = StateFile::None;
            Ok(())
        },
    },
    Flag {
        long: "scenario",
        short: None,
        value: Some("FILE"),
        default: None,
        commands: REHEARSE,
        about: "what the built-in provider does, and when",
        details: "A JSON file; examples/scenario.json shows its parts.",
        set: |values, value| {
            values.scenario = Some(PathBuf::from(value));
            Ok(())
        },
    },
    Flag {
        long: "journal",
        short: None,
        value: Some("FILE"),
        default: None,
        commands: BOTH,
        about: "append the journal of this run to this file",
        details: "'ddollar report' draws it. Without this option each run has its own file in \
                  ~/.local/state/ddollar/runs (or XDG_STATE_HOME), where the newest 50 are kept; \
                  /dev/null keeps none.",
        set: |values, value| {
            values.supervision.journal = Some(PathBuf::from(value));
            Ok(())
        },
    },
    Flag {
        long: "proxy",
        short: None,
        value: None,
        default: None,
        commands: BOTH,
        about: "rotate inside a proxy, without restarts",
        details: "The command's requests go through a proxy of its own on this machine, which \
                  changes tokens between two attempts of a request. The command gets the proxy's \
                  address and a secret, and no token. For known clients this is the default. Any \
                  other command gets the address and a token, and is restarted for a limit only if \
                  none of its requests come through.",
        set: |values, _| {
            values.supervision.proxy = Some(true);
            Ok(())
        },
    },
    Flag {
        long: "no-proxy",
        short: None,
        value: None,
        default: None,
        commands: BOTH,
        about: "leave the command's requests alone, and rotate by restarts",
        details: "For commands whose requests come from another machine or a container, where an \
                  address on this machine leads nowhere.",
        set: |values, _| {
            values.supervision.proxy = Some(false);
            Ok(())
        },
    },
    Flag {
        long: "notify",
        short: None,
        value: Some("COMMAND"),
        default: None,
        commands: BOTH,
        about: "run this with sh on limit, rotate, wait, resume, stall and exit",
        details: "The facts are in DDOLLAR_EVENT, DDOLLAR_MESSAGE, DDOLLAR_PROVIDER, \
                  DDOLLAR_TOKEN, DDOLLAR_TOKEN_NAME, DDOLLAR_CAUSE, DDOLLAR_WINDOW, DDOLLAR_WHY, \
                  DDOLLAR_UNTIL, DDOLLAR_STATUS and, as JSON, DDOLLAR_FACT. It has no terminal, and is \
                  killed after 30 seconds.",
        set: |values, value| {
            if value.is_empty() {
                return Err(
                    "a command, such as 'mail -s \"$DDOLLAR_MESSAGE\" me </dev/null'".into(),
                );
            }
            values.supervision.notify = Some(value.into());
            Ok(())
        },
    },
    Flag {
        long: "listen",
        short: None,
        value: Some("ADDRESS"),
        default: Some("127.0.0.1:4141"),
        commands: PROXY,
        about: "where the proxy listens",
        details: "A loopback IP address and a port; port 0 takes a free one.",
        set: |values, value| {
            values.gateway.listen = text(value)
                .and_then(|value| value.parse().ok())
                .ok_or("an IP address and a port, such as 127.0.0.1:4141")?;
            Ok(())
        },
    },
    Flag {
        long: "allow-remote",
        short: None,
        value: None,
        default: None,
        commands: PROXY,
        about: "let --listen open the proxy to other machines",
        details: "What they send, including the secret, is then not encrypted, and whoever has the \
                  secret spends your tokens.",
        set: |values, _| {
            values.gateway.allow_remote = true;
            Ok(())
        },
    },
    Flag {
        long: "strategy",
        short: None,
        value: Some("NAME"),
        default: Some("sticky"),
        commands: PROXY,
        about: "which of the good tokens a request gets: sticky, round-robin or headroom",
        details: "sticky stays with one as long as it is good, which keeps the provider's prompt \
                  cache; round-robin takes one after the other; headroom takes the least used one.",
        set: |values, value| {
            values.gateway.strategy = match text(value) {
                Some("sticky") => Strategy::Sticky,
                Some("round-robin") => Strategy::RoundRobin,
                Some("headroom") => Strategy::Headroom,
                _ => return Err("sticky, round-robin or headroom".into()),
            };
            Ok(())
        },
    },
    Flag {
        long: "hold",
        short: None,
        value: Some("DURATION"),
        default: Some("10m"),
        commands: RUNNING,
        about: "how long a request may wait for a reset when every token is spent",
        details: "In a proxy. When the earliest reset is further away, the application gets at once \
                  a 429 that says when; a supervised command is paused.",
        set: |values, value| {
            values.hold = duration(value)
                .filter(|span| *span <= DAY)
                .ok_or(A_DURATION)?;
            Ok(())
        },
    },
    Flag {
        long: "log",
        short: None,
        value: Some("FILE"),
        default: None,
        commands: RUNNING,
        about: "append what happens, with times, to this file",
        details: "DDOLLAR_LOG sets how much: error, warn or info (the default); a debug build \
                  also knows debug and trace. No token is ever written to it. At 32 MiB the \
                  file is renamed to FILE.old, and a new one is begun.",
        set: |values, value| {
            values.voice.log = Some(PathBuf::from(value));
            Ok(())
        },
    },
    Flag {
        long: "watch",
        short: None,
        value: None,
        default: None,
        commands: STATUS,
        about: "show it again at each interval, until interrupted",
        details: "",
        set: |values, _| {
            values.watch = true;
            Ok(())
        },
    },
    Flag {
        long: "json",
        short: None,
        value: None,
        default: None,
        commands: SHOWING,
        about: "print the facts as one JSON object",
        details: "",
        set: |values, _| {
            values.show.json = true;
            Ok(())
        },
    },
    Flag {
        long: "list",
        short: None,
        value: None,
        default: None,
        commands: REPORT,
        about: "list the runs that are kept, the newest first",
        details: "",
        set: |values, _| {
            values.list = true;
            Ok(())
        },
    },
    Flag {
        long: "svg",
        short: None,
        value: Some("FILE"),
        default: None,
        commands: REPORT,
        about: "write the picture as an SVG to this file",
        details: "It needs no other file and suits light and dark pages. '-' is stdout.",
        set: |values, value| {
            values.svg = Some(PathBuf::from(value));
            Ok(())
        },
    },
    Flag {
        long: "ascii",
        short: None,
        value: None,
        default: None,
        commands: SHOWING,
        about: "draw with plain ASCII, as without a UTF-8 locale",
        details: "",
        set: |values, _| {
            values.show.ascii = true;
            Ok(())
        },
    },
    Flag {
        long: "quiet",
        short: Some('q'),
        value: None,
        default: None,
        commands: RUNNING,
        about: "say warnings and failures only",
        details: "",
        set: |values, _| {
            values.voice.verbosity = Verbosity::Quiet;
            Ok(())
        },
    },
    Flag {
        long: "verbose",
        short: Some('v'),
        value: None,
        default: None,
        commands: RUNNING,
        about: "also say the numbers of each check",
        details: "",
        set: |values, _| {
            values.voice.verbosity = Verbosity::Verbose;
            Ok(())
        },
    },
];

/// What differs in a rehearsal: its night is short, so limits are looked at more often, and even
/// a near reset is worth a wait.
const REHEARSAL_DEFAULTS: &[(&str, &str)] = &[("interval", "1s"), ("patience", "1s")];

impl Flag {
    /// The default as it reads on the command line of `command`.
    pub(super) fn default_for(&self, command: Command) -> Option<&'static str> {
        let own = REHEARSAL_DEFAULTS
            .iter()
            .find(|(long, _)| command == Command::Rehearse && *long == self.long)
            .map(|(_, default)| *default);
        own.or(self.default)
    }
}

fn text(value: &OsStr) -> Option<&str> {
    value.to_str()
}

/// A number as people write it: `500k`, `1.5M`; from 1 to 10^12.
fn count(text: &str) -> Option<u64> {
    let (number, unit) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 1e3),
        (at, 'm' | 'M') => (&text[..at], 1e6),
        (at, 'g' | 'G') => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    let is_plain = number
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let count = number.parse::<f64>().ok().filter(|_| is_plain)? * unit;
    (1.0..=1e12).contains(&count).then_some(count as u64)
}

fn duration(value: &OsStr) -> Option<Duration> {
    duration::parse(text(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_option_is_there_twice_and_each_says_what_it_is() {
        for (i, flag) in FLAGS.iter().enumerate() {
            for other in &FLAGS[i + 1..] {
                assert_ne!(flag.long, other.long);
                assert!(flag.short.is_none() || flag.short != other.short);
            }
            assert!(
                !flag.about.is_empty() && !flag.about.ends_with('.'),
                "{}",
                flag.long
            );
            assert!(
                flag.details.is_empty() || flag.details.ends_with('.'),
                "{}",
                flag.long
            );
            assert!(
                flag.about.is_ascii() && flag.details.is_ascii(),
                "{}",
                flag.long
            );
            assert!(
                flag.value.is_some() || flag.default.is_none(),
                "{}",
                flag.long
            );
        }
    }

    #[test]
    fn the_defaults_in_the_table_are_the_defaults() {
        let mut values = Values::default();
        for flag in FLAGS {
            if let Some(default) = flag.default {
                (flag.set)(&mut values, OsStr::new(default)).unwrap();
            }
        }
        let mut expected = Values::default();
        expected.checks.threshold = 95.0;
        expected.checks.interval = Duration::from_secs(60);
        expected.checks.patience = Duration::from_secs(5);
        expected.supervision.grace = Duration::from_secs(10);
        expected.hold = Duration::from_secs(600);
        assert_eq!(values, expected);
    }

    #[test]
    fn a_rehearsal_has_defaults_of_its_own() {
        let values = Values::of(Command::Rehearse);
        assert_eq!(values.checks.interval, Duration::from_secs(1));
        assert_eq!(values.checks.patience, Duration::from_secs(1));
        assert_eq!(
            values.supervision.grace,
            Values::of(Command::Supervise).supervision.grace
        );
    }

    #[test]
    fn a_number_of_llm_tokens_may_have_a_unit() {
        for (text, expected) in [
            ("1", Some(1)),
            ("500k", Some(500_000)),
            ("20M", Some(20_000_000)),
            ("1.5m", Some(1_500_000)),
            ("2G", Some(2_000_000_000)),
            ("999.9G", Some(999_900_000_000)),
        ] {
            assert_eq!(count(text), expected, "{text}");
        }
        for text in [
            "", "0", "0.5", "-1", "20X", "M", ".", "1e6", "inf", "NaN", "1 M", "20MM", "1001G",
            "1,5M", "5é",
        ] {
            assert_eq!(count(text), None, "{text}");
        }
        assert_eq!(count(&"9".repeat(400)), None);
    }

    #[test]
    fn a_resume_command_is_split_as_a_shell_does_it() {
        let set = FLAGS.iter().find(|flag| flag.long == "resume").unwrap().set;
        let mut values = Values::default();
        set(&mut values, OsStr::new("claude --continue 'go on'")).unwrap();
        assert_eq!(
            values.supervision.resume,
            Resume::Command(vec!["claude".into(), "--continue".into(), "go on".into()])
        );
        set(&mut values, OsStr::new("same")).unwrap();
        assert_eq!(values.supervision.resume, Resume::Same);
        assert!(set(&mut values, OsStr::new("claude 'open")).is_err());
        assert!(set(&mut values, OsStr::new("  ")).is_err());
    }
}
