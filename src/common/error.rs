//! Every failure of ddollar itself: what went wrong, what the user can do, and the exit code.
//!
//! Owns the one `Error` type. It promises that its text never holds a token, and that each variant
//! has a hint. It does not print; `console.rs` does.

use super::mask::is_key;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

/// ddollar's own failure (bad options, no tokens, cannot start); the convention of coreutils and env.
pub(crate) const OWN_FAILURE: u8 = 125;
/// The command was found but cannot be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// The command was not found.
pub(crate) const NOT_FOUND: u8 = 127;
/// `EX_TEMPFAIL` of sysexits(3): stopped before the command finished, run again later.
pub(crate) const TRY_AGAIN_LATER: u8 = 75;

/// One thing that a user can mend. `Display` is one line without a period; [`Error::hint`] says how.
#[derive(Debug)]
pub(crate) enum Error {
    /// No subcommand was given.
    NoSubcommand,
    /// The first argument is not a subcommand; `near` is the closest one, if any is close.
    UnknownSubcommand {
        given: String,
        near: Option<&'static str>,
    },
    /// `generate` is asked for something else.
    NotGenerated { given: String },
    /// An option that the subcommand does not have.
    UnknownFlag {
        given: String,
        command: &'static str,
        near: Option<&'static str>,
    },
    /// A word that the subcommand does not take.
    ExtraWord {
        given: String,
        command: &'static str,
    },
    /// An option without its value. `given` is the word in its place, which begins with a dash.
    NeedsValue {
        flag: String,
        given: Option<String>,
        command: &'static str,
    },
    /// A switch with a value, or an option that does not go with another.
    FlagUsage {
        flag: String,
        problem: &'static str,
        command: &'static str,
    },
    /// An option that works in the proxy alone, where there is none.
    NeedsProxy { flag: &'static str },
    /// A value that the option does not take.
    BadValue {
        flag: String,
        value: String,
        wants: String,
    },
    /// Nothing to run after `--`.
    NoCommand { command: &'static str },
    /// `--provider` names one that is not in the table.
    UnknownProvider {
        name: String,
        near: Option<&'static str>,
    },
    /// `--interactive` without a terminal to ask at.
    NoTerminal,
    /// No token in the environment, or none that this client can use.
    /// `unread`: variables that are set, but not read here.
    NoTokens {
        client: Option<&'static str>,
        variables: String,
        unread: Vec<String>,
    },
    /// A known client that asks a service of its own, for which there are no tokens.
    OwnService { client: &'static str },
    /// A token file that cannot be read, and what would help.
    TokenFile {
        variable: String,
        path: PathBuf,
        why: String,
        hint: &'static str,
    },
    /// A token that cannot be one. `source` names the variable or file and line, never the text.
    MalformedToken {
        source: String,
        why: &'static str,
        hint: String,
    },
    /// A key that another provider issues.
    OthersKey {
        source: String,
        issuer: &'static str,
        variable: &'static str,
        not: &'static str,
    },
    /// A consumer subscription's token.
    SubscriptionToken { source: String },
    /// A base URL that a token must not be sent to.
    BaseUrl { variable: String, why: &'static str },
    /// A file that the user named and that cannot be used.
    File {
        what: &'static str,
        path: PathBuf,
        why: String,
        hint: &'static str,
    },
    /// `report` without a run to show.
    NoJournal,
    /// A file without a run in it.
    NotAJournal { path: PathBuf, empty: bool },
    /// The proxy cannot listen there.
    Listen { address: String, why: io::Error },
    /// The command was not found.
    CommandNotFound {
        command: String,
        of: CommandOf,
        slip: Option<Slip>,
    },
    /// The command is a script, and what its first line names was not found; `None`: it ends in the
    /// line end of Windows.
    NoInterpreter {
        command: String,
        of: CommandOf,
        interpreter: Option<String>,
    },
    /// The command was found, but cannot be executed.
    CommandNotExecutable {
        command: String,
        of: CommandOf,
        why: String,
    },
    /// What was asked for cannot be written to stdout.
    Output { why: String },
    /// A proxy variable that names no proxy.
    ProxyVariable { variable: &'static str },
    /// The system refused something that ddollar needs in order to work.
    System { what: &'static str, why: String },
}

/// What was meant, perhaps, by words that name no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slip {
    /// A variable is set, as in a shell: `FOO=1 claude`.
    Assignment,
    /// The whole line is one argument.
    WholeLine,
    /// An option of ddollar's after the `--`.
    OwnOption,
    /// A function of the shell's.
    Function,
    /// It is in this folder, which PATH does not name, as in a job of cron's.
    NotInPath(PathBuf),
}

/// Where a command was named: by an option, or after the `--`.
pub(crate) type CommandOf = Option<&'static str>;

/// That option, where one did, after the command.
fn named(of: CommandOf) -> String {
    of.map_or(String::new(), |option| format!(" ({option})"))
}

impl Error {
    /// What the user can do about it: one line, without a period at its end.
    pub(crate) fn hint(&self) -> String {
        match self {
            Error::NoSubcommand => {
                "ddollar keeps a command going all night across API rate limits. To begin:\n  \
                 ddollar rehearse               watch it work; no token is needed\n  \
                 ddollar status                 your tokens, and how full each is\n  \
                 ddollar supervise -- COMMAND   run COMMAND under supervision\n\
                 More: ddollar help, man ddollar"
                    .into()
            }
            Error::UnknownSubcommand { near, .. } => match near {
                Some(near) => format!("did you mean '{near}'? 'ddollar help' lists the commands"),
                None => "to run a command under supervision: ddollar supervise -- COMMAND".into(),
            },
            Error::UnknownFlag { near, command, .. } => match near {
                Some(near) => format!("did you mean '--{near}'? See 'ddollar help {command}'"),
                None if !matches!(*command, "supervise" | "rehearse") => {
                    format!("see 'ddollar help {command}'")
                }
                None => format!(
                    "options of the command to run go after '--'; see 'ddollar help {command}'"
                ),
            },
            Error::NotGenerated { .. } => {
                "say which: man, complete-bash, complete-zsh or complete-fish".into()
            }
            Error::NeedsValue {
                flag,
                given: Some(given),
                ..
            } => format!("write {flag}={given} if you mean it"),
            Error::ExtraWord { command, .. }
            | Error::NeedsValue { command, .. }
            | Error::FlagUsage { command, .. } => format!("see 'ddollar help {command}'"),
            Error::NeedsProxy { .. } => {
                "give --proxy, and neither --no-proxy nor --mixed: requests are seen only there".into()
            }
            Error::BadValue { flag, wants, value } if is_key(value) => format!(
                "that is a token: put it into a variable such as ANTHROPIC_API_KEY; {flag} takes {wants}"
            ),
            Error::BadValue { wants, .. } => format!("give {wants}"),
            Error::NoCommand { command } => {
                format!("say what to run: ddollar {command} -- claude --continue")
            }
            Error::UnknownProvider { near, .. } => match near {
                Some(near) => format!("did you mean '{near}'? 'ddollar help supervise' lists them"),
                None => "'ddollar help supervise' lists the providers".into(),
            },
            Error::NoTerminal => {
                "run it in a terminal; without --interactive ddollar decides by itself".into()
            }
            Error::NoTokens {
                client: Some(_),
                variables,
                ..
            } => format!("set {variables}; or say --provider NAME"),
            Error::NoTokens {
                variables, unread, ..
            } => {
                let unread = match &unread[..] {
                    [] => String::new(),
                    [one] => format!("{one} is set, but ddollar does not read it; "),
                    more => format!("{} are set, but ddollar does not read them; ", more.join(" and ")),
                };
                let first = variables.split(' ').next().unwrap_or_default();
                format!(
                    "{unread}set {variables}, and {first}_2, _3 ... for more; or name a file with one \
                     token a line in {first}S_FILE"
                )
            }
            Error::OwnService { .. } => {
                "set COPILOT_PROVIDER_BASE_URL, COPILOT_PROVIDER_TYPE (openai, anthropic) and \
                 COPILOT_MODEL; or say --client generic"
                    .into()
            }
            Error::TokenFile { variable, path, .. } if is_key(&path.to_string_lossy()) => {
                let single = variable.trim_end_matches("S_FILE");
                format!("that is a token, not a path: put it into {single}")
            }
            Error::TokenFile { path, .. } if path.starts_with("~") => {
                "only a shell knows '~', and not within quotes: give the whole path".into()
            }
            Error::TokenFile { hint, .. } => (*hint).into(),
            Error::MalformedToken { hint, .. } => hint.clone(),
            Error::OthersKey { variable, .. } => format!("put it into {variable}"),
            Error::SubscriptionToken { .. } => {
                "use API keys (sk-ant-api…); a subscription stays with its own client".into()
            }
            Error::BaseUrl { variable, .. } => {
                format!("set {variable} to an https:// address, or http:// on 127.0.0.1")
            }
            Error::File { path, .. } if is_key(&path.to_string_lossy()) => {
                "that is a token, not a path: put it into a variable such as ANTHROPIC_API_KEY".into()
            }
            Error::File { hint, .. } => (*hint).into(),
            Error::NotAJournal { .. } => {
                "'ddollar report' shows the newest of ~/.local/state/ddollar/runs".into()
            }
            Error::NoJournal => {
                "each 'ddollar supervise' keeps one; or name a file: ddollar report FILE".into()
            }
            Error::Listen { why, .. } => match why.kind() {
                ErrorKind::AddrInUse => {
                    "another proxy may be running there; --listen takes another address".into()
                }
                ErrorKind::PermissionDenied => {
                    "ports below 1024 are the system's; --listen takes one above".into()
                }
                _ => "--listen takes an address of this machine, such as 127.0.0.1:4141".into(),
            },
            Error::CommandNotFound { slip, .. } => match slip {
                Some(Slip::Assignment) => {
                    "set variables before ddollar, or with env: '-- env NAME=VALUE COMMAND'"
                }
                Some(Slip::WholeLine) => {
                    "it is one argument: leave out the quotes around the line, or say '-- sh -c LINE'"
                }
                Some(Slip::OwnOption) => "options of ddollar go before the '--'",
                Some(Slip::Function) => "it is a function of your shell: say '-- bash -c LINE'",
                Some(Slip::NotInPath(folder)) => {
                    return format!("it is in {}, which is not in PATH here", folder.display());
                }
                None => {
                    "check spelling and PATH; what only your shell knows needs 'bash -ic LINE'"
                }
            }
            .into(),
            Error::NoInterpreter {
                interpreter: Some(name),
                ..
            } => format!("install {name}, or correct the first line of the script"),
            Error::NoInterpreter { command, .. } => {
                format!("remove the carriage returns: sed -i 's/\\r$//' {command}")
            }
            Error::CommandNotExecutable { .. } => {
                "it needs execute permission (chmod +x) and must not be a directory".into()
            }
            Error::Output { .. } => "write it to a place that you can write to and that has room".into(),
            Error::ProxyVariable { variable } => format!(
                "give it as http://HOST:PORT or socks5://HOST:PORT, with USER:PASSWORD@ before HOST where it wants one, or start with 'env -u {variable}'"
            ),
            Error::System { .. } => {
                "check the limits of this session (ulimit -a), then try again".into()
            }
        }
    }

    /// The exit code that stands for this failure.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Error::CommandNotFound { .. } | Error::NoInterpreter { .. } => NOT_FOUND,
            Error::CommandNotExecutable { .. } => NOT_EXECUTABLE,
            _ => OWN_FAILURE,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoSubcommand => f.write_str("no command given"),
            Error::UnknownSubcommand { given, .. } => write!(f, "unknown command '{given}'"),
            Error::UnknownFlag { given, command, .. } => {
                write!(f, "unknown option '{given}' for '{command}'")
            }
            Error::NotGenerated { given } if given.is_empty() => {
                f.write_str("'generate' needs to know what")
            }
            Error::NotGenerated { given } => write!(f, "'{given}' cannot be generated"),
            Error::ExtraWord { given, command } => {
                write!(f, "'{given}' is one word too many for '{command}'")
            }
            Error::NeedsValue { flag, .. } => write!(f, "option '{flag}' needs a value"),
            Error::FlagUsage { flag, problem, .. } => write!(f, "option '{flag}' {problem}"),
            Error::NeedsProxy { flag } => write!(f, "option '{flag}' works only in the proxy"),
            Error::BadValue { flag, value, .. } => {
                write!(f, "option '{flag}' does not take '{value}'")
            }
            Error::NoCommand { .. } => f.write_str("no command to run after '--'"),
            Error::UnknownProvider { name, .. } => write!(f, "unknown provider '{name}'"),
            Error::NoTerminal => f.write_str("--interactive needs a terminal"),
            Error::OwnService { client } => {
                write!(
                    f,
                    "{client} would ask its vendor's own service, which takes none of these tokens"
                )
            }
            Error::NoTokens { client: None, .. } => {
                f.write_str("no API tokens found in the environment")
            }
            Error::NoTokens {
                client: Some(client),
                ..
            } => write!(f, "no API token for {client} found in the environment"),
            Error::TokenFile {
                variable,
                path,
                why,
                ..
            } => {
                write!(f, "cannot use '{}' of {variable}: {why}", path.display())
            }
            Error::MalformedToken { source, why, .. } => {
                write!(f, "the token in {source} {why}")
            }
            Error::OthersKey {
                source,
                issuer,
                not,
                ..
            } => write!(f, "the token in {source} is {issuer}'s, not {not}'s"),
            Error::SubscriptionToken { source } => {
                write!(f, "the token in {source} belongs to a subscription")
            }
            Error::BaseUrl { variable, why } => write!(f, "{variable} {why}"),
            Error::File {
                what, path, why, ..
            } => {
                write!(f, "cannot use the {what} '{}': {why}", path.display())
            }
            Error::NotAJournal { path, empty } => {
                let what = if *empty {
                    "is empty"
                } else {
                    "is not the journal of a run"
                };
                write!(f, "'{}' {what}", path.display())
            }
            Error::NoJournal => f.write_str("there is no run to report on"),
            Error::Listen { address, why } => write!(f, "cannot listen on {address}: {why}"),
            Error::CommandNotFound { command, of, .. } => {
                // It may have got quotes already, as a shell takes it.
                let command = command.trim_matches('\'');
                write!(f, "'{command}'{} was not found", named(*of))
            }
            Error::NoInterpreter {
                command,
                of,
                interpreter,
            } => {
                write!(f, "'{command}'{} cannot be executed: ", named(*of))?;
                match interpreter {
                    Some(name) => write!(f, "its interpreter {name} was not found"),
                    None => write!(f, "its first line ends in CR, as on Windows"),
                }
            }
            Error::CommandNotExecutable { command, of, why } => {
                write!(f, "'{command}'{} cannot be executed: {why}", named(*of))
            }
            Error::Output { why } => write!(f, "cannot write to stdout: {why}"),
            Error::ProxyVariable { variable } => {
                write!(f, "{variable} does not name a proxy")
            }
            Error::System { what, why } => write!(f, "{what}: {why}"),
        }
    }
}
