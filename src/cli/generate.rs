//! The man page and the shells' completions, made from the tables of subcommands and options.
//!
//! It does not print: it returns the text.

use super::Command;
use super::flags::{FLAGS, Flag};
use super::help::{ABOUT, ENTRIES, EXIT, TOKENS};
use crate::clients;
use crate::providers::PROVIDERS;
use std::ffi::OsStr;
use std::fmt::Write as _;

/// What can be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Man,
    Bash,
    Zsh,
    Fish,
}

const KINDS: [(&str, Kind); 4] = [
    ("man", Kind::Man),
    ("complete-bash", Kind::Bash),
    ("complete-zsh", Kind::Zsh),
    ("complete-fish", Kind::Fish),
];

impl Kind {
    /// The one with this name.
    pub(super) fn named(word: &OsStr) -> Option<Kind> {
        let found = KINDS.iter().find(|(name, _)| word == *name);
        found.map(|(_, kind)| *kind)
    }
}

/// Makes it.
pub(crate) fn generate(kind: Kind) -> String {
    match kind {
        Kind::Man => man(),
        Kind::Bash => bash(),
        Kind::Zsh => zsh(),
        Kind::Fish => fish(),
    }
}

// ---- what the shells share ----

/// What may stand after an option.
enum Value {
    None,
    /// One of these words.
    Word(String),
    /// One or more of these words, with commas between them.
    List(String),
    File,
    Command,
    /// Something that cannot be guessed.
    Any,
}

impl Flag {
    fn completes(&self) -> Value {
        match (self.value, self.long) {
            (None, _) => Value::None,
            (Some("FILE"), _) => Value::File,
            (Some("COMMAND"), _) => Value::Command,
            (_, "provider") => {
                let names: Vec<&str> = PROVIDERS.iter().map(|provider| provider.name).collect();
                Value::List(names.join(" "))
            }
            (_, "client") => Value::Word(clients::names().collect::<Vec<_>>().join(" ")),
            (_, "strategy") => Value::Word("sticky round-robin headroom".into()),
            _ => Value::Any,
        }
    }
}

fn flags_of(command: Command) -> impl Iterator<Item = &'static Flag> {
    FLAGS
        .iter()
        .filter(move |flag| flag.commands.contains(&command))
}

fn names() -> String {
    let names: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
    names.join(" ")
}

fn kinds() -> String {
    KINDS.map(|(name, _)| name).join(" ")
}

/// The names of an option with their dashes.
fn dashed(flag: &Flag) -> Vec<String> {
    let short = flag.short.map(|short| format!("-{short}"));
    short
        .into_iter()
        .chain([format!("--{}", flag.long)])
        .collect()
}

// ---- bash ----

const BASH: &str = r#"# bash completion of ddollar: source it, or keep it as
# ~/.local/share/bash-completion/completions/ddollar
_ddollar() {
    local cur=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]-} i words files=
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W '@names@' -- "$cur"))
        return
    fi
    case $command in
    supervise | rehearse)
        # What follows '--', or the first word that is no option, is a command line of its own.
        for ((i = 2; i <= COMP_CWORD; i++)); do
            case ${COMP_WORDS[i]} in
            --) ((i++ < COMP_CWORD)) || break ;;
            @valued@) ((i++)); continue ;;
            -*) continue ;;
            esac
            if declare -F _command_offset >/dev/null; then
                _command_offset "$i"
            elif ((i == COMP_CWORD)); then
                COMPREPLY=($(compgen -c -- "$cur"))
            else
                COMPREPLY=($(compgen -f -- "$cur"))
            fi
            return
        done
        ;;
    esac
    case ${COMP_WORDS[COMP_CWORD - 1]} in
@values@    esac
    case $command in
@commands@    help) words='@names@' ;;
    generate) words='@kinds@' ;;
    *) words= ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    if [[ $files && $cur != -* ]]; then
        # The runs that are kept, and files.
        words=$(ls "${XDG_STATE_HOME:-$HOME/.local/state}/ddollar/runs" 2>/dev/null)
        COMPREPLY+=($(compgen -W "${words//.jsonl/}" -- "$cur") $(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _ddollar ddollar
"#;

fn bash() -> String {
    let mut values = String::new();
    let mut valued = Vec::new();
    for flag in FLAGS {
        let names = dashed(flag).join(" | ");
        let words = match flag.completes() {
            Value::None => continue,
            Value::Word(words) => format!("-W '{words}' -- \"$cur\""),
            // What stands before the last comma is not looked at.
            Value::List(words) => {
                format!("-P \"${{cur%\"${{cur##*,}}\"}}\" -W '{words}' -- \"${{cur##*,}}\"")
            }
            Value::File => "-f -- \"$cur\"".into(),
            Value::Command => "-c -- \"$cur\"".into(),
            Value::Any => "-W ''".into(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            values,
            "    {names}) COMPREPLY=($(compgen {words})); return ;;"
        );
        valued.push(names);
    }
    let mut commands = String::new();
    for command in Command::ALL {
        let words: Vec<String> = flags_of(*command).flat_map(dashed).collect();
        let files = match command {
            Command::Report => " files=1",
            _ => "",
        };
        let _ = writeln!(
            commands,
            "    {}) words='{} -h --help'{files} ;;",
            command.name(),
            words.join(" ")
        );
    }
    BASH.replace("@valued@", &valued.join(" | "))
        .replace("@values@", &values)
        .replace("@commands@", &commands)
        .replace("@names@", &names())
        .replace("@kinds@", &kinds())
}

// ---- zsh ----

const ZSH: &str = r#"#compdef ddollar
# zsh completion of ddollar: keep it as _ddollar in a folder of $fpath, or source it after compinit.
_ddollar_runs() {
  local -a runs
  runs=(${XDG_STATE_HOME:-$HOME/.local/state}/ddollar/runs/[0-9]*.jsonl(N:t:r))
  compadd -a runs
  _files
}
_ddollar() {
  local command=$words[2]
  if (( CURRENT == 2 )); then
    local -a commands
    commands=(
@entries@    )
    _describe -t commands command commands
    return
  fi
  shift words
  (( CURRENT-- ))
  case $command in
@commands@    help) _arguments '1:command:(@names@)' ;;
    generate) _arguments '1:what:(@kinds@)' ;;
  esac
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _ddollar "$@"
else
  compdef _ddollar ddollar
fi
"#;

fn zsh() -> String {
    // In a quoted string the quote itself is the one thing to mind; in a description, brackets too.
    let quoted = |text: &str| text.replace('\'', "'\\''");
    let described = |text: &str| quoted(text).replace('[', "\\[").replace(']', "\\]");
    let mut entries = String::new();
    for entry in ENTRIES {
        let line = quoted(entry.line).replace(':', "\\:");
        let _ = writeln!(entries, "      '{}:{line}'", entry.name);
    }
    let mut commands = String::new();
    for command in Command::ALL {
        let _ = writeln!(commands, "    {}) _arguments -s -S \\", command.name());
        for flag in flags_of(*command) {
            let about = described(flag.about);
            let action = match flag.completes() {
                Value::None => String::new(),
                Value::Word(words) => format!(":word:({words})"),
                Value::List(words) => format!(":words:_values -s , word {words}"),
                Value::File => ":file:_files".into(),
                Value::Command => ":command:_command_names".into(),
                Value::Any => format!(":{}: ", quoted(flag.value.unwrap_or_default())),
            };
            let equals = if flag.value.is_some() { "=" } else { "" };
            let long = flag.long;
            let _ = match flag.short {
                Some(short) => writeln!(
                    commands,
                    "      '(-{short} --{long})'{{-{short},--{long}{equals}}}'[{about}]{action}' \\"
                ),
                None => writeln!(commands, "      '--{long}{equals}[{about}]{action}' \\"),
            };
        }
        let rest = match command {
            Command::Supervise | Command::Rehearse => {
                " \\\n      '(-)1:command: _command_names -e' '*::arguments: _normal'"
            }
            Command::Report => " \\\n      '1:run:_ddollar_runs'",
            Command::Status | Command::Proxy => "",
        };
        let _ = writeln!(
            commands,
            "      '(-h --help)'{{-h,--help}}'[this help]'{rest}\n      ;;"
        );
    }
    ZSH.replace("@entries@", &entries)
        .replace("@commands@", &commands)
        .replace("@names@", &names())
        .replace("@kinds@", &kinds())
}

// ---- fish ----

/// The names of the runs that are kept.
const FISH_RUNS: &str = r#"(
    set -q XDG_STATE_HOME; and set -l state $XDG_STATE_HOME; or set -l state ~/.local/state
    string replace -rf \'.*/(.*)\.jsonl$\' \'$1\' $state/ddollar/runs/*.jsonl
)"#;

fn fish() -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let mut text = String::from(
        "# fish completion of ddollar: keep it as ~/.config/fish/completions/ddollar.fish\n\
         complete -c ddollar -f\n",
    );
    for entry in ENTRIES {
        let _ = writeln!(
            text,
            "complete -c ddollar -n __fish_use_subcommand -a {} -d '{}'",
            entry.name,
            quoted(entry.line)
        );
    }
    for command in Command::ALL {
        let name = command.name();
        let on = format!("complete -c ddollar -n '__fish_seen_subcommand_from {name}'");
        for flag in flags_of(*command) {
            let short = flag
                .short
                .map_or(String::new(), |short| format!(" -s {short}"));
            let value = match flag.completes() {
                Value::None => String::new(),
                Value::Word(words) => format!(" -x -a '{words}'"),
                Value::List(words) => format!(" -x -a '(__fish_append , {words})'"),
                Value::File => " -r -F".into(),
                Value::Command => " -x -a '(__fish_complete_command)'".into(),
                Value::Any => " -x".into(),
            };
            let (long, about) = (flag.long, quoted(flag.about));
            let _ = writeln!(text, "{on}{short} -l {long}{value} -d '{about}'");
        }
        let _ = writeln!(text, "{on} -s h -l help -d 'this help'");
        let _ = match command {
            Command::Supervise | Command::Rehearse => {
                writeln!(
                    text,
                    "{on} -x -a '(__fish_complete_subcommand --fcs-skip=2)'"
                )
            }
            Command::Report => writeln!(text, "{on} -F -a '{FISH_RUNS}'"),
            Command::Status | Command::Proxy => Ok(()),
        };
    }
    let on = "complete -c ddollar -n '__fish_seen_subcommand_from";
    let _ = writeln!(text, "{on} help' -a '{}'", names());
    let _ = writeln!(text, "{on} generate' -a '{}'", kinds());
    text
}

// ---- man ----

/// Text as roff takes it: dashes that can be copied, and no line that looks like an order.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let lines: Vec<String> = text
        .lines()
        .map(|line| match line.starts_with(['.', '\'']) {
            true => format!("\\&{line}"),
            false => line.to_owned(),
        })
        .collect();
    lines.join("\n")
}

/// A block whose lines stay as they are.
fn as_it_is(page: &mut String, text: &str) {
    let _ = writeln!(page, ".nf\n{}\n.fi", roff(text.trim_end()));
}

/// Day of the last change to what the page says; no clock, so that the same source makes the same page.
const MAN_DATE: &str = "2026-11-30";

fn man() -> String {
    let mut page = format!(
        ".TH DDOLLAR 1 \"{MAN_DATE}\" \"ddollar {}\" \"User Commands\"\n.nh\n.ad l\n.SH NAME\n\
         ddollar \\- keeps a long\\-running command alive across API rate limits\n.SH SYNOPSIS\n",
        env!("CARGO_PKG_VERSION")
    );
    for entry in ENTRIES {
        let broken = if page.ends_with("SYNOPSIS\n") {
            ""
        } else {
            ".br\n"
        };
        let line = format!("\\fBddollar {}\\fR {}", entry.name, roff(entry.usage));
        let _ = writeln!(page, "{broken}{}", line.trim_end());
    }
    let _ = writeln!(page, ".SH DESCRIPTION\n{}", roff(ABOUT.trim_end()));
    page.push_str(".SH COMMANDS\n");
    for entry in ENTRIES {
        let about = if entry.about.is_empty() {
            format!("Prints {}.", entry.line)
        } else {
            entry.about.trim_end().to_owned()
        };
        let about = about.replace("Prints print ", "Prints ");
        let _ = writeln!(page, ".TP\n\\fB{}\\fR\n{}", entry.name, roff(&about));
    }
    page.push_str(".SH OPTIONS\n");
    for flag in FLAGS {
        let names: Vec<String> = dashed(flag)
            .iter()
            .map(|name| format!("\\fB{}\\fR", roff(name)))
            .collect();
        let value = flag
            .value
            .map_or(String::new(), |value| format!(" \\fI{}\\fR", roff(value)));
        let _ = writeln!(page, ".TP\n{}{value}", names.join(", "));
        let default = flag
            .default
            .map_or(String::new(), |default| format!(" [{default}]"));
        let commands: Vec<&str> = flag.commands.iter().map(|command| command.name()).collect();
        let _ = writeln!(
            page,
            "{}{}.",
            roff(flag.about.get(..1).unwrap_or_default()).to_uppercase(),
            roff(flag.about.get(1..).unwrap_or_default()) + &default,
        );
        if !flag.details.is_empty() {
            let _ = writeln!(page, "{}", roff(flag.details));
        }
        let _ = writeln!(page, "(\\fI{}\\fR)", commands.join(", "));
    }
    page.push_str(".SH ENVIRONMENT\n");
    as_it_is(&mut page, TOKENS);
    page.push_str(".SH EXIT STATUS\n");
    as_it_is(&mut page, EXIT);
    page.push_str(".SH FILES\n.TP\n");
    page.push_str("\\fI~/.local/state/ddollar/state.json\\fR\n");
    page.push_str("What is known of the tokens, which runs share. No token.\n.TP\n");
    page.push_str("\\fI~/.local/state/ddollar/runs/\\fR\n");
    page.push_str("The journals of the newest 50 runs. XDG_STATE_HOME moves both.\n");
    page.push_str(".SH EXAMPLES\n");
    as_it_is(
        &mut page,
        "ddollar rehearse\nddollar status\n\
         ddollar supervise -- claude -p 'work through TODO.md'\nddollar report",
    );
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_and_option_is_in_each() {
        for (name, kind) in KINDS {
            let text = generate(kind);
            for entry in ENTRIES {
                assert!(text.contains(entry.name), "{name}: {}", entry.name);
            }
            for flag in FLAGS {
                let long = match kind {
                    Kind::Man => roff(&format!("--{}", flag.long)),
                    Kind::Fish => format!(" -l {} ", flag.long),
                    Kind::Bash | Kind::Zsh => format!("--{}", flag.long),
                };
                assert!(text.contains(&long), "{name}: {long}");
            }
            let open = text.replace("$@", "").contains('@');
            assert!(!open && text.is_ascii(), "{name}");
        }
    }

    #[test]
    fn the_man_page_has_nothing_that_mandoc_warns_of() {
        let page = man();
        for line in page.lines() {
            assert!(!line.is_empty() && line.trim_end() == line, "{line:?}");
        }
        assert!(!page.contains(".TH DDOLLAR 1 \"\"") && !page.contains(".br\n.SH"));
    }

    #[test]
    fn the_subcommands_with_options_are_those_of_the_table() {
        for command in Command::ALL {
            let entry = ENTRIES.iter().find(|entry| entry.name == command.name());
            assert!(!entry.unwrap().about.is_empty());
        }
        let described = ENTRIES.iter().filter(|entry| !entry.about.is_empty());
        assert_eq!(described.count(), Command::ALL.len());
    }
}
