//! The command line that is run: whether it can be, and what a known client is given.

use crate::clients::{self, CommandLine, Merged};
use crate::common::error::{CommandOf, Error, Slip};
use crate::events::RunEvent;
use crate::providers::endpoint::Endpoint;
use crate::system::os::{self, Address, PrivateFile};
use crate::system::program::{self, Obstacle};
use crate::tokens::{Ring, Token, shown};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Settings larger than this are none.
const LARGEST_SETTINGS: u64 = 1 << 20;

/// The line with ddollar's settings, if its client has hooks, or why it goes without. A file that the
/// line names joins `files`.
pub(super) fn hooked(
    line: CommandLine,
    tokens: &[Token],
    files: &mut Vec<PrivateFile>,
) -> (CommandLine, Option<RunEvent>) {
    let is_ours = |token: &Token| token.provider.name == clients::HOOKED_PROVIDER;
    if !line.client().has_hooks || !tokens.iter().any(is_ours) {
        return (line, None);
    }
    if Address::listen().is_err() {
        let why = "would need Unix sockets, which are refused";
        return (line, Some(RunEvent::NoHooks(why)));
    }
    let (own, is_file) = match own_settings(&line) {
        Ok(own) => own,
        Err(why) => return (line, Some(RunEvent::NoHooks(why))),
    };
    match clients::merge(&own, &os::own_program_for_others()) {
        Merged::Settings(json) if !is_file => (line.with_settings(json), None),
        // What stands in a user's file may be secret, and longer than a word of a command line may
        // be (128 KiB); others can read a command line, but not this.
        Merged::Settings(json) => match PrivateFile::new(&json) {
            Ok(file) => {
                let line = line.with_settings(file.path());
                files.push(file);
                (line, None)
            }
            Err(_) => {
                let why = "cannot be handed over";
                (line, Some(RunEvent::NoHooks(why)))
            }
        },
        Merged::Not(why) => (line, Some(RunEvent::NoHooks(why))),
    }
}

/// The text of the user's own `--settings`, which is a path or JSON, and whether it is from a file.
fn own_settings(line: &CommandLine) -> Result<(String, bool), &'static str> {
    let Some(own) = line.own_settings() else {
        return Ok((String::new(), false));
    };
    if let Some(json) = own
        .to_str()
        .filter(|text| text.trim_start().starts_with('{'))
    {
        return Ok((json.to_owned(), false));
    }
    let mut text = String::new();
    std::fs::File::open(&own)
        .and_then(|file| file.take(LARGEST_SETTINGS).read_to_string(&mut text))
        .map_err(|_| "cannot be read")?;
    Ok((text, true))
}

/// What is changed for a known client, and what of the user's own will get in its way.
pub(super) fn client_notices(
    line: &CommandLine,
    has_own_resume: bool,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Vec<RunEvent> {
    let client = line.client();
    let mut added = Vec::new();
    if line.has_settings() {
        added.push("--settings".to_owned());
    }
    let session_option = line.session_option().filter(|_| !has_own_resume);
    added.extend(session_option.map(str::to_owned));
    added.extend(client.token_variable.map(str::to_owned));
    for (name, value) in client.environment {
        if variable(name).is_none() {
            added.push(format!("{name}={value}"));
        }
    }
    let mut notices = Vec::new();
    if !added.is_empty() {
        notices.push(RunEvent::Client {
            name: client.name,
            added: added.join(", "),
        });
    }
    // claude takes it before every token that it is given otherwise.
    if client.has_hooks && variable("ANTHROPIC_AUTH_TOKEN").is_some() {
        notices.push(RunEvent::OtherCredential("ANTHROPIC_AUTH_TOKEN"));
    }
    notices
}

/// The line with the base URL of its provider as an argument, as far as that has tokens.
pub(super) fn with_base_url_of(
    line: CommandLine,
    rings: &[Ring],
    notices: &mut Vec<RunEvent>,
) -> CommandLine {
    let endpoints = || rings.iter().flat_map(|(_, endpoints)| endpoints);
    let its = |endpoint: &&Endpoint| Some(endpoint.provider.name) == line.takes_base_url_for();
    let Some(url) = endpoints()
        .find(its)
        .map(|endpoint| endpoint.base_url.clone())
    else {
        return line;
    };
    let name = line.client().name;
    let (line, words) = line.with_base_url(url);
    let added = words.iter().map(|word| word.to_string_lossy());
    let added = added.collect::<Vec<_>>().join(" ");
    notices.extend((!added.is_empty()).then_some(RunEvent::Client { name, added }));
    line
}

/// The token with the variables in which this command expects it.
pub(super) fn as_expected(mut token: Token, command: &CommandLine, only_calls_back: bool) -> Token {
    let client = command.client();
    if only_calls_back && token.provider.name == clients::HOOKED_PROVIDER {
        token.variables.clear();
    }
    if let Some(variable) = client.token_variable
        && command.uses(token.provider)
        && !token.variables.contains(&variable)
    {
        token.variables.push(variable);
    }
    token
}

/// Makes sure that the program of a command line can be executed, before any token is used: a typo
/// should not cost a request.
pub(super) fn locate(
    words: &[OsString],
    of: CommandOf,
    environment: &[(OsString, OsString)],
    tokens: &[Token],
) -> Result<(), Error> {
    let Some(program) = words.first() else {
        return Ok(());
    };
    // A token in place of a command is a slip that must not end up in somebody's log.
    let command = shown(std::slice::from_ref(program), tokens.iter());
    let path = environment.iter().find(|(name, _)| name == "PATH");
    let path = path.map(|(_, value)| value.as_os_str());
    program::check(program, path).map_err(|obstacle| match obstacle {
        Obstacle::NotFound => Error::CommandNotFound {
            command,
            of,
            slip: slip(words, environment),
        },
        Obstacle::Refused(why) => Error::CommandNotExecutable { command, of, why },
        Obstacle::NoInterpreter { name } => Error::NoInterpreter {
            command,
            of,
            interpreter: Some(name),
        },
        Obstacle::WindowsLines => Error::NoInterpreter {
            command,
            of,
            interpreter: None,
        },
    })
}

/// Where installers put programs, below the user's home or elsewhere. PATH often has them only in a shell that
/// somebody has logged in to: cron(8) and systemd start programs without.
const USUAL_FOLDERS: [&str; 8] = [
    ".local/bin",
    "bin",
    ".npm-global/bin",
    ".bun/bin",
    ".cargo/bin",
    ".claude/local",
    "/usr/local/bin",
    "/opt/homebrew/bin",
];

/// What somebody may have meant whose command is not there.
fn slip(words: &[OsString], environment: &[(OsString, OsString)]) -> Option<Slip> {
    let first = words.first()?.to_str()?;
    let is_name = |text: &str| {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        !text.is_empty()
            && text.chars().all(word)
            && !text.starts_with(|c: char| c.is_ascii_digit())
    };
    if first.starts_with('-') {
        return Some(Slip::OwnOption);
    }
    if first.split_once('=').is_some_and(|(name, _)| is_name(name)) {
        return Some(Slip::Assignment);
    }
    if words.len() == 1 && first.trim().contains(char::is_whitespace) {
        return Some(Slip::WholeLine);
    }
    // bash(1) exports its functions under such names.
    let exported = OsString::from(format!("BASH_FUNC_{first}%%"));
    if environment.iter().any(|(name, _)| *name == exported) {
        return Some(Slip::Function);
    }
    let home = environment.iter().find(|(name, _)| name == "HOME");
    let home = Path::new(home.map_or(OsStr::new("/"), |(_, value)| value));
    let folders = USUAL_FOLDERS.iter().map(|folder| home.join(folder));
    // One for each version of Node.js.
    let versions = std::fs::read_dir(home.join(".nvm/versions/node"));
    let versions = versions.into_iter().flatten().flatten();
    let has_it = |folder: &PathBuf| folder.join(first).is_file();
    folders
        .chain(versions.map(|version| version.path().join("bin")))
        .find(has_it)
        .map(Slip::NotInPath)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_known() {
        let environment = vec![("BASH_FUNC_work%%".into(), "() { :; }".into())];
        for (words, wanted) in [
            (&["--grace", "5s"][..], Some(Slip::OwnOption)),
            (&["FOO=1", "claude"], Some(Slip::Assignment)),
            (&["claude --continue"], Some(Slip::WholeLine)),
            (&["work"], Some(Slip::Function)),
            (&["my claude", "x"], None),
            (&["./a=b"], None),
            (&["cluade"], None),
        ] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert_eq!(slip(&words, &environment), wanted, "{words:?}");
        }
    }
}
