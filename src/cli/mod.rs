//! What the user asked for: argv in, a [`Request`] out.
//!
//! It promises to touch nothing but argv, so that help and version cannot fail and each mistake is
//! named before anything starts. The options are one table, `flags::FLAGS`; `help` prints it.

mod args;
pub(crate) mod config;
#[cfg(test)]
mod error_lines_test;
mod flags;
mod generate;
mod help;

pub(crate) use args::{
    Checks, Proxy, Rehearse, Report, Resume, StateFile, Status, Supervise, Supervision, Voice,
};
pub(crate) use generate::{Kind, generate};
pub(crate) use help::{general_help, help_of};

use crate::common::error::Error;
use crate::common::mask::is_key;
use crate::system::exec_shim::ExecSpec;
use crate::system::signals::Limits;
use args::Values;
use flags::{FLAGS, Flag};
use help::ENTRIES;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Where the proxy listens when it is not told.
pub(crate) const PORT: u16 = 4141;

/// A subcommand that takes options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Supervise,
    Proxy,
    Rehearse,
    Report,
    Status,
}

impl Command {
    pub(crate) const ALL: &'static [Command] = &[
        Command::Supervise,
        Command::Proxy,
        Command::Status,
        Command::Report,
        Command::Rehearse,
    ];

    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Command::Supervise => "supervise",
            Command::Proxy => "proxy",
            Command::Rehearse => "rehearse",
            Command::Report => "report",
            Command::Status => "status",
        }
    }

    /// How many words may follow the options; `None`: a whole command line.
    fn words(self) -> Option<usize> {
        match self {
            Command::Supervise | Command::Rehearse => None,
            Command::Report => Some(1),
            Command::Status | Command::Proxy => Some(0),
        }
    }
}

/// One request, checked as far as argv alone can tell.
#[derive(Debug)]
pub(crate) enum Request {
    /// Run a command under supervision.
    Supervise(Supervise),
    /// Be a gateway for many applications.
    Proxy(Proxy),
    /// Play a night against the built-in provider.
    Rehearse(Rehearse),
    /// Show what happened in a run.
    Report(Report),
    /// Show the limits of every token.
    Status(Status),
    /// Print help: on all, or on one subcommand.
    Help { topic: Option<Command>, long: bool },
    /// Print the man page or completions.
    Generate(Kind),
    /// Print the version.
    Version,
    /// Hidden: become the command.
    Child(ExecSpec),
    /// Hidden: run the command of `--notify`, with these limits.
    Notify { limits: Limits, command: OsString },
    /// Hidden: be the watchdog, which parses these words itself.
    Watch(Vec<OsString>),
    /// Hidden: hand over what a client says of itself.
    Hook,
    /// Hidden: print the token in use.
    Token,
    /// Hidden: serve the built-in provider until stdin ends.
    Provider { scenario: Option<PathBuf> },
    /// Hidden: be the built-in worker.
    Worker { journal: PathBuf, units: u32 },
}

/// Reads argv without its first word.
///
/// # Errors
/// The first thing in it that is not understood.
pub(crate) fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Request, Error> {
    let mut words = argv.into_iter();
    let Some(first) = words.next() else {
        return Err(Error::NoSubcommand);
    };
    let mut commands = Command::ALL.iter();
    if let Some(command) = commands.find(|command| first == command.name()) {
        return with_options(*command, words);
    }
    match first.to_str() {
        Some("--help") => Ok(general(true)),
        Some("-h") => Ok(general(false)),
        Some(name @ ("help" | "version" | "generate" | "--version" | "-V")) => {
            let word = words.next();
            match word.as_ref().and_then(|word| word.to_str()) {
                Some("--help") => return Ok(general(true)),
                Some("-h") => return Ok(general(false)),
                _ => {}
            }
            match name {
                "help" => alone(help_topic(word)?, words.next(), "help"),
                "generate" => {
                    let word = word.unwrap_or_default();
                    let kind = Kind::named(&word).ok_or_else(|| Error::NotGenerated {
                        given: word.to_string_lossy().into_owned(),
                    })?;
                    alone(Request::Generate(kind), words.next(), "generate")
                }
                _ => alone(Request::Version, word, "version"),
            }
        }
        Some("__child") => ExecSpec::parse(words)
            .map(Request::Child)
            .ok_or_else(|| unknown_subcommand(&first)),
        Some("__watch") => Ok(Request::Watch(words.collect())),
        Some("__notify") => {
            let limits = words.next().and_then(|text| Limits::parse(text.to_str()?));
            match (limits, words.next()) {
                (Some(limits), Some(command)) => Ok(Request::Notify { limits, command }),
                _ => Err(unknown_subcommand(&first)),
            }
        }
        Some("__hook") => Ok(Request::Hook),
        Some("__token") => Ok(Request::Token),
        Some("__provider") => Ok(Request::Provider {
            scenario: words.next().map(PathBuf::from),
        }),
        Some("__worker") => {
            let journal = words.next().map(PathBuf::from);
            let units = words.next().and_then(|units| units.to_str()?.parse().ok());
            match (journal, units) {
                (Some(journal), Some(units)) => Ok(Request::Worker { journal, units }),
                _ => Err(unknown_subcommand(&first)),
            }
        }
        _ => Err(unknown_subcommand(&first)),
    }
}

/// The request, if nothing follows it.
fn alone(
    request: Request,
    extra: Option<OsString>,
    command: &'static str,
) -> Result<Request, Error> {
    let Some(extra) = extra else {
        return Ok(request);
    };
    let given = extra.to_string_lossy().into_owned();
    Err(Error::ExtraWord { given, command })
}

fn general(long: bool) -> Request {
    Request::Help { topic: None, long }
}

fn help(topic: Command, long: bool) -> Request {
    Request::Help {
        topic: Some(topic),
        long,
    }
}

fn help_topic(word: Option<OsString>) -> Result<Request, Error> {
    let Some(word) = word else {
        return Ok(general(true));
    };
    match Command::ALL.iter().find(|command| word == command.name()) {
        Some(command) => Ok(help(*command, true)),
        None if ENTRIES.iter().any(|entry| word == entry.name) => Ok(general(true)),
        None => Err(unknown_subcommand(&word)),
    }
}

fn unknown_subcommand(given: &OsString) -> Error {
    let given = given.to_string_lossy().into_owned();
    let names = ENTRIES.iter().map(|entry| entry.name);
    // What other programs call it.
    let near = match &*given {
        "doctor" | "check" | "init" | "setup" | "login" | "tokens" | "keys" | "limits"
        | "usage" => Some(Command::Status.name()),
        "list" | "log" | "logs" | "history" | "runs" => Some(Command::Report.name()),
        "run" | "start" | "exec" | "watch" => Some(Command::Supervise.name()),
        "demo" | "test" | "try" => Some(Command::Rehearse.name()),
        _ => nearest(&given, names),
    };
    Error::UnknownSubcommand { given, near }
}

/// Reads a subcommand's options up to `--` or the first word that is not an option; what follows
/// is the command to run, as it is.
fn with_options(command: Command, words: impl Iterator<Item = OsString>) -> Result<Request, Error> {
    let words: Vec<OsString> = words.collect();
    let mut values = Values::of(command);
    let mut rest: Vec<OsString> = Vec::new();
    let mut parser = lexopt::Parser::from_args(words);
    let mut dashes = false;
    loop {
        // lexopt skips a `--`; seeing it first tells "nothing after it" from "nothing at all".
        if let Some(mut raw) = parser.try_raw_args()
            && raw.peek().is_some_and(|word| word == "--")
        {
            raw.next();
            dashes = true;
            rest.extend(raw);
            break;
        }
        let (name, flag) = match parser.next() {
            Ok(None) => break,
            Ok(Some(lexopt::Arg::Value(word))) => {
                rest.push(word);
                // Behind a name, options are still ours; behind a command, they are its own.
                if command.words().is_some() {
                    continue;
                }
                if let Ok(raw) = parser.raw_args() {
                    rest.extend(raw);
                }
                break;
            }
            Ok(Some(lexopt::Arg::Long("help"))) => return Ok(help(command, true)),
            Ok(Some(lexopt::Arg::Short('h'))) => return Ok(help(command, false)),
            Ok(Some(lexopt::Arg::Long(long))) => {
                let name = format!("--{long}");
                let flag = FLAGS.iter().find(|flag| flag.long == long);
                (name, flag)
            }
            Ok(Some(lexopt::Arg::Short(short))) => {
                let name = format!("-{short}");
                let flag = FLAGS.iter().find(|flag| flag.short == Some(short));
                (name, flag)
            }
            Err(error) => return Err(usage(error, command)),
        };
        let Some(flag) = flag.filter(|flag| flag.commands.contains(&command)) else {
            return Err(unknown_flag(name, command));
        };
        apply(flag, &name, &mut parser, &mut values, command)?;
    }
    if rest.is_empty() && (dashes || command == Command::Supervise) {
        return Err(Error::NoCommand {
            command: command.name(),
        });
    }
    if let Some(extra) = command.words().and_then(|most| rest.get(most)) {
        return Err(Error::ExtraWord {
            given: extra.to_string_lossy().into_owned(),
            command: command.name(),
        });
    }
    Ok(values.into_request(command, rest))
}

fn apply(
    flag: &Flag,
    name: &str,
    parser: &mut lexopt::Parser,
    values: &mut Values,
    command: Command,
) -> Result<(), Error> {
    let value = match flag.value {
        None => OsString::new(),
        Some(_) => value(parser).map_err(|given| Error::NeedsValue {
            flag: name.into(),
            given: given.map(|word| word.to_string_lossy().into_owned()),
            command: command.name(),
        })?,
    };
    // Else a file would be called so, or a provider asked for a model of this name.
    let is_token = value.to_str().is_some_and(is_key);
    let is_home = flag.value == Some("FILE") && Path::new(&value).starts_with("~");
    let set = match flag.value {
        Some(wants) if is_token => Err(wants.into()),
        _ if is_home => Err("the whole path: only a shell knows '~', and not behind '='".into()),
        _ => (flag.set)(values, &value),
    };
    set.map_err(|wants| Error::BadValue {
        flag: name.into(),
        value: value.to_string_lossy().into_owned(),
        wants: wants.into(),
    })
}

/// The value of an option: behind its `=`, or the next word. A word that begins with a dash is more
/// likely a slip than a value, and may create or overwrite a file of that name; `-` alone is stdout.
///
/// # Errors
/// There is none, or the word that looks like an option.
fn value(parser: &mut lexopt::Parser) -> Result<OsString, Option<OsString>> {
    if let Some(value) = parser.optional_value() {
        return Ok(value);
    }
    let next = parser.try_raw_args();
    let next = next.and_then(|words| words.peek().map(OsStr::to_owned));
    if let Some(word) = &next
        && word != "-"
        && word.as_encoded_bytes().starts_with(b"-")
    {
        return Err(next);
    }
    parser.value().map_err(|_| None)
}

fn usage(error: lexopt::Error, command: Command) -> Error {
    let flag = match error {
        lexopt::Error::UnexpectedValue { option, .. } => option,
        _ => "an option".into(),
    };
    Error::FlagUsage {
        flag,
        problem: "takes no value",
        command: command.name(),
    }
}

fn unknown_flag(given: String, command: Command) -> Error {
    let names = FLAGS
        .iter()
        .filter(|flag| flag.commands.contains(&command))
        .map(|flag| flag.long);
    let near = nearest(given.trim_start_matches('-'), names);
    Error::UnknownFlag {
        given,
        command: command.name(),
        near,
    }
}

/// The name that is at most two changes away from what was given, if it is long enough to tell.
pub(crate) fn nearest(
    given: &str,
    names: impl Iterator<Item = &'static str>,
) -> Option<&'static str> {
    names
        .map(|name| (distance(given, name), name))
        .filter(|(distance, name)| *distance <= 2 && *distance < name.len().min(given.len()))
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's distance between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut before = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substituted = before + usize::from(x != *y);
            before = row[j + 1];
            row[j + 1] = substituted.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn parsed(line: &str) -> Result<Request, Error> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn args(line: &str) -> Supervise {
        match parsed(line) {
            Ok(Request::Supervise(run) | Request::Rehearse(Rehearse { run, .. })) => run,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_command_is_taken_as_it_is() {
        let args = args("supervise --grace 2s -- claude --continue -v -- x");
        assert_eq!(args.command, ["claude", "--continue", "-v", "--", "x"]);
        assert_eq!(args.supervision.grace, Duration::from_secs(2));
    }

    #[test]
    fn the_dashes_may_be_left_out() {
        assert_eq!(args("supervise -q claude -v").command, ["claude", "-v"]);
        assert_eq!(
            args("supervise -q claude -- -v").command,
            ["claude", "--", "-v"]
        );
    }

    #[test]
    fn help_and_version_go_before_everything() {
        for (line, topic, long) in [
            ("help", None, true),
            ("-h", None, false),
            ("supervise --nope-later --help", None, true),
            ("supervise --help --nope", Some(Command::Supervise), true),
            ("rehearse -h", Some(Command::Rehearse), false),
            ("help supervise", Some(Command::Supervise), true),
        ] {
            match parsed(line) {
                Ok(Request::Help { topic: t, long: l }) => {
                    assert_eq!((t, l), (topic, long), "{line}")
                }
                Err(Error::UnknownFlag { .. }) if line.contains("later") => {}
                other => panic!("{line}: {other:?}"),
            }
        }
        assert!(matches!(parsed("version"), Ok(Request::Version)));
        assert!(matches!(parsed("--version"), Ok(Request::Version)));
    }

    #[test]
    fn each_mistake_is_named() {
        for (line, wanted) in [
            ("", "no command given"),
            (
                "supervize -- x",
                "unknown command 'supervize' did you mean 'supervise'",
            ),
            (
                "supervise --tresholt 5 -- x",
                "unknown option '--tresholt' for 'supervise' did you mean '--threshold'",
            ),
            ("supervise --scenario f -- x", "unknown option '--scenario'"),
            ("supervise -z -- x", "unknown option '-z'"),
            (
                "supervise --threshold",
                "option '--threshold' needs a value",
            ),
            (
                "supervise --quiet=yes -- x",
                "option '--quiet' takes no value",
            ),
            (
                "supervise --threshold 0 -- x",
                "'--threshold' does not take '0' give a percentage",
            ),
            ("supervise --threshold 101 -- x", "does not take '101'"),
            ("supervise --threshold abc -- x", "does not take 'abc'"),
            ("supervise --threshold nan -- x", "does not take 'nan'"),
            (
                "supervise --interval 0 -- x",
                "does not take '0' give a duration",
            ),
            ("supervise --interval=-1s -- x", "does not take '-1s'"),
            ("supervise --retries many -- x", "does not take 'many'"),
            (
                "supervise --state=~/night.json -- x",
                "'--state' does not take '~/night.json' give the whole path",
            ),
            ("report --svg=~/n.svg", "does not take '~/n.svg'"),
            ("supervise --", "no command to run"),
            ("supervise", "no command to run"),
            ("supervise -v", "no command to run"),
            ("rehearse --", "no command to run"),
            ("proxy now", "'now' is one word too many for 'proxy'"),
            (
                "proxy --listen localhost",
                "does not take 'localhost' give an IP",
            ),
            ("proxy --strategy best", "does not take 'best' give sticky"),
            ("proxy --hold 2d", "does not take '2d'"),
            (
                "proxy --resume x",
                "unknown option '--resume' for 'proxy' see 'ddollar help proxy'",
            ),
            ("help nothing", "unknown command 'nothing'"),
            ("help status more", "'more' is one word too many for 'help'"),
            ("version more", "'more' is one word too many for 'version'"),
            ("--version more", "'more' is one word too many"),
            ("generate man more", "'more' is one word too many"),
        ] {
            let error = parsed(line).expect_err(line);
            let text = format!("{error} {}", error.hint());
            assert!(text.contains(wanted), "{line}: {text}");
            assert_eq!(error.exit_code(), 125);
        }
    }

    /// A slip such as `--log -- sleep 1` or `--svg -1x` would else be the name of a file.
    #[test]
    fn a_separate_value_does_not_begin_with_a_dash() {
        for flag in FLAGS.iter().filter(|flag| flag.value.is_some()) {
            for command in flag.commands {
                let refusal = |words: &[&str]| {
                    let mut argv = vec![command.name().to_owned()];
                    argv.extend(words.iter().map(|word| (*word).to_owned()));
                    let error = parse(argv.into_iter().map(OsString::from)).err()?;
                    Some(format!("{error}; {}", error.hint()))
                };
                let option = format!("--{}", flag.long);
                for value in ["--", "-x", "-1x", "--json"] {
                    let wanted = format!(
                        "option '{option}' needs a value; write {option}={value} if you mean it"
                    );
                    assert_eq!(refusal(&[&option, value, "x"]), Some(wanted));
                    let meant = refusal(&[&format!("{option}={value}"), "--", "x"]);
                    assert!(!meant.unwrap_or_default().contains("needs a value"));
                }
                let alone = refusal(&[&option, "-", "--", "x"]).unwrap_or_default();
                assert!(!alone.contains("needs a value"), "{alone}");
            }
        }
    }

    #[test]
    fn options_may_follow_a_name() {
        match parsed("report night.jsonl --json --svg -") {
            Ok(Request::Report(args)) => {
                assert_eq!(args.run, Some("night.jsonl".into()));
                assert!(args.show.json && args.svg.is_some());
            }
            other => panic!("{other:?}"),
        }
        let error = parsed("report night.jsonl --jsn").expect_err("a mistake");
        assert_eq!(
            error.hint(),
            "did you mean '--json'? See 'ddollar help report'"
        );
    }

    #[test]
    fn a_rehearsal_needs_no_command() {
        assert!(args("rehearse").command.is_empty());
        assert_eq!(args("rehearse -- sh -c true").command, ["sh", "-c", "true"]);
    }

    #[test]
    fn the_help_names_every_provider() {
        let help = help_of(Command::Supervise, true);
        for provider in crate::providers::PROVIDERS {
            let name = provider.name;
            assert!(
                help.split(|c: char| !c.is_ascii_alphanumeric())
                    .any(|word| word == name),
                "{name}"
            );
        }
    }

    #[test]
    fn near_names_are_found() {
        assert_eq!(
            nearest("treshold", ["threshold", "grace"].into_iter()),
            Some("threshold")
        );
        assert_eq!(nearest("xyz", ["threshold", "grace"].into_iter()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
