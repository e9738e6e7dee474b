//! Help, made from the table of options.
//!
//! It promises at most 80 columns. It does not print: it returns the text.

use super::Command;
use super::flags::{FLAGS, Flag};

/// The width that help keeps to.
const WIDTH: usize = 80;

pub(super) const ABOUT: &str = "\
ddollar keeps a long-running command alive across API rate limits: it watches
the limits of your own tokens, moves the command to the next token in time, and
waits for the earliest reset when every token is spent.
";

/// One subcommand, as help, man page and completions tell of it.
pub(super) struct Entry {
    pub(super) name: &'static str,
    /// What follows the name.
    pub(super) usage: &'static str,
    /// One line, without a period.
    pub(super) line: &'static str,
    /// Whole sentences, in lines; empty for those without options.
    pub(super) about: &'static str,
}

/// All subcommands, in the order in which help shows them.
pub(super) static ENTRIES: &[Entry] = &[
    Entry {
        name: "supervise",
        usage: "[OPTIONS] -- COMMAND [ARG...]",
        line: "run COMMAND under supervision",
        about: "Runs COMMAND, watches the limits of its token, and moves it to the next token\n\
                in time: within a proxy on this machine if its requests come through that,\n\
                else by a restart with the new token in its environment. When every token is\n\
                spent, COMMAND is paused until the earliest reset.\n",
    },
    Entry {
        name: "proxy",
        usage: "[OPTIONS]",
        line: "a gateway on loopback that rotates tokens for many programs",
        about: "Listens on this machine and passes requests on to the providers, each with a\n\
                token that is good. A request refused for a limit is sent again with the next\n\
                token, or waits for the reset; the application does not notice. Prints the\n\
                shell lines that point applications to it, with a secret in place of a token.\n",
    },
    Entry {
        name: "status",
        usage: "[OPTIONS]",
        line: "how much of each token's limits is used, and what would be next",
        about: "Asks about every token at once, with one minimal request each, and shows how\n\
                much of its limits is used, when they reset, and what ddollar would do now.\n\
                Exit status: 0 when a token is usable, 75 when one will be later, 1 when none\n\
                will.\n",
    },
    Entry {
        name: "report",
        usage: "[OPTIONS] [RUN]",
        line: "what happened in a run: the newest, or the one that you name",
        about: "Shows what happened in a run, even while it goes on: how much of each token's\n\
                limits was used, rotations, waits and totals. RUN is a journal, by its path or\n\
                its name in ~/.local/state/ddollar/runs; without it, the newest one there.\n",
    },
    Entry {
        name: "rehearse",
        usage: "[OPTIONS] [-- COMMAND [ARG...]]",
        line: "play a night against a built-in provider, no real token needed",
        about: "Plays a night of about 20 seconds against a built-in provider on loopback: two\n\
                rotations, one wait with every token spent, and the finish. With COMMAND, it is\n\
                supervised against that provider. No real token and no network are needed.\n",
    },
    Entry {
        name: "help",
        usage: "[COMMAND]",
        line: "help on ddollar, or on one command: ddollar help supervise",
        about: "",
    },
    Entry {
        name: "generate",
        usage: "man|complete-bash|complete-zsh|complete-fish",
        line: "print the man page, or a shell's completions",
        about: "",
    },
    Entry {
        name: "version",
        usage: "",
        line: "the version",
        about: "",
    },
];

pub(super) const TOKENS: &str = "\
A token is an API key. Tokens come from the environment; each provider
has its own variables:
  ANTHROPIC_API_KEY, ANTHROPIC_API_KEY_2, _3 ...  one token each
  ANTHROPIC_API_KEYS                              several, with commas
  ANTHROPIC_API_KEYS_FILE                         a file, one a line
Base URLs are taken from ANTHROPIC_BASE_URL, OPENAI_BASE_URL and so on.
";

pub(super) const EXIT: &str = "\
Exit status: the command's own; if a signal ended it, ddollar ends by
the same one.
  75   stopped before the command finished; run it again later
  125  ddollar itself failed
  126  COMMAND cannot be executed
  127  COMMAND was not found
";

/// Help on all of ddollar; `long` adds what the commands share.
pub(crate) fn general_help(long: bool) -> String {
    let commands = commands();
    if long {
        format!("{ABOUT}\n{commands}\n{TOKENS}\n{EXIT}")
    } else {
        format!("{commands}\n'ddollar help supervise' shows the options.\n")
    }
}

fn commands() -> String {
    let mut text = String::new();
    for entry in ENTRIES {
        let start = if text.is_empty() { "Usage:" } else { "" };
        let line = format!("{start:6} ddollar {:9} {}", entry.name, entry.usage);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push_str("\nCommands:\n");
    for entry in ENTRIES {
        text.push_str(&format!("  {:11} {}\n", entry.name, entry.line));
    }
    text
}

/// Help on one command: its options with one line each, or with all their details.
pub(crate) fn help_of(command: Command, long: bool) -> String {
    let entry = ENTRIES.iter().find(|entry| entry.name == command.name());
    let (usage, about) = entry.map_or(("", ""), |entry| (entry.usage, entry.about));
    let name = command.name();
    let mut text = format!("Usage: ddollar {name} {usage}\n\n{about}\nOptions:\n");
    for flag in FLAGS.iter().filter(|flag| flag.commands.contains(&command)) {
        text.push_str(&one_flag(flag, command, long));
    }
    text.push_str("  -h, --help                 this help; --help says more than -h\n");
    if long && command != Command::Report {
        text.push_str(&format!("\n{TOKENS}"));
    }
    if long && command.words().is_none() {
        text.push_str(&format!("\n{EXIT}"));
    }
    text
}

fn one_flag(flag: &Flag, command: Command, long: bool) -> String {
    const COLUMN: usize = 29;
    let short = flag
        .short
        .map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
    let value = flag
        .value
        .map_or(String::new(), |value| format!(" {value}"));
    let name = format!("  {short}--{}{value}", flag.long);
    let default = flag
        .default_for(command)
        .map_or(String::new(), |default| format!(" [{default}]"));
    let about = wrapped(&format!("{}{default}", flag.about), COLUMN);
    let mut text = if name.len() + 1 < COLUMN {
        format!("{name:COLUMN$}{}\n", about.trim_start())
    } else {
        format!("{name}\n{about}\n")
    };
    if long && !flag.details.is_empty() {
        text.push_str(&wrapped(flag.details, COLUMN));
        text.push('\n');
    }
    text
}

/// `text` broken into lines that start at `column`.
fn wrapped(text: &str, column: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if column + line.len() + word.len() < WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!(" {word}")),
        }
    }
    let indent = " ".repeat(column - 1);
    let lines: Vec<String> = lines
        .iter()
        .filter(|line| !line.is_empty())
        .map(|line| format!("{indent}{line}"))
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_fits_and_names_every_option() {
        for command in Command::ALL {
            for long in [false, true] {
                let text = help_of(*command, long);
                for line in text.lines() {
                    assert!(line.chars().count() < WIDTH, "{line}");
                    assert_eq!(line.trim_end(), line);
                }
                for flag in FLAGS.iter().filter(|flag| flag.commands.contains(command)) {
                    assert!(text.contains(&format!("--{}", flag.long)), "{}", flag.long);
                }
            }
        }
        assert!(
            general_help(true)
                .lines()
                .all(|line| line.chars().count() < WIDTH)
        );
        assert!(general_help(true).contains("ANTHROPIC_API_KEYS_FILE"));
        // The man page shows these as they are, indented by 7, on 78 columns.
        for line in TOKENS.lines().chain(EXIT.lines()) {
            assert!(line.len() <= 71, "{line}");
        }
    }
}
