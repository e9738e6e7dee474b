//! Programs: where one is found, what keeps it from being run, and how this process becomes it.
//!
//! The search is that of execvp(3), but not its way with a file that the kernel cannot execute: glibc
//! hands it to a shell whatever is in it, also half of a program that is just being installed, and
//! musl never does. Here a shell gets it if it is a text, with either library.

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, execv};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Where programs are looked for without PATH.
const USUAL_PATH: &str = "/bin:/usr/bin";
/// The shell for texts without `#!`, as execvp(3) has it.
const SHELL: &str = "/bin/sh";
/// So much of a file is read to know what it is: the kernel reads as much for `#!` (BINPRM_BUF_SIZE).
const BEGINNING: u64 = 256;

/// What keeps a program from being run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// It is nowhere.
    NotFound,
    /// It is there and cannot be executed, for this reason.
    Refused(String),
    /// It is a script, and what its first line names is nowhere.
    NoInterpreter { name: String },
    /// It is a script with the line ends of Windows, and the one of its first line counts as part of
    /// a name.
    WindowsLines,
}

/// The places where a program may be, in the order in which they are tried.
fn places(program: &OsStr, path: Option<&OsStr>) -> Vec<PathBuf> {
    if program.is_empty() {
        return Vec::new();
    }
    if program.as_bytes().contains(&b'/') {
        return vec![PathBuf::from(program)];
    }
    std::env::split_paths(path.unwrap_or(OsStr::new(USUAL_PATH)))
        .map(|folder| folder.join(program))
        .collect()
}

/// Whether a program can be run, as far as can be told without trying.
///
/// # Errors
/// What keeps it from that.
pub(crate) fn check(program: &OsStr, path: Option<&OsStr>) -> Result<(), Obstacle> {
    let mut obstacle = Obstacle::NotFound;
    for place in places(program, path) {
        let Ok(metadata) = std::fs::metadata(&place) else {
            continue;
        };
        if metadata.is_dir() {
            obstacle = Obstacle::Refused("it is a directory".into());
        } else if let Err(errno) = access(&place, AccessFlags::X_OK) {
            obstacle = Obstacle::Refused(errno.desc().to_lowercase());
        } else {
            return beginning(&place).map_or(Ok(()), |text| check_interpreter(&text));
        }
    }
    Err(obstacle)
}

/// The first bytes of a file; `None` for one that cannot be read, as a program need not be.
fn beginning(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(BEGINNING)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

/// Looks for what the first line of a script names (execve(2), "Interpreter scripts").
fn check_interpreter(text: &[u8]) -> Result<(), Obstacle> {
    let Some(line) = text.strip_prefix(b"#!") else {
        return Ok(());
    };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line
        .split(|byte| matches!(byte, b' ' | b'\t'))
        .filter(|word| !word.is_empty());
    let Some(name) = words.next() else {
        return Ok(());
    };
    let interpreter = Path::new(OsStr::from_bytes(name));
    // Other interpreters may forgive it in their arguments; env(1) takes it for the end of a name.
    let by_env = interpreter.file_name() == Some(OsStr::new("env"));
    let ends_in_return = |word: &[u8]| word.ends_with(b"\r");
    if ends_in_return(name) || by_env && words.next_back().is_some_and(ends_in_return) {
        return Err(Obstacle::WindowsLines);
    }
    match std::fs::metadata(interpreter) {
        Err(_) => Err(Obstacle::NoInterpreter {
            name: String::from_utf8_lossy(name).into_owned(),
        }),
        Ok(_) => Ok(()),
    }
}

/// Becomes the program that the first of the words names; returns, with the reason, only when that
/// fails. SIGPIPE is as it is at the start of most programs, also if Rust has it ignored here.
pub(crate) fn become_one(words: &[OsString]) -> Errno {
    // A signal that has a handler gets its default again by exec; one that is ignored stays so.
    let heard = Arc::new(AtomicBool::new(false));
    let _ = signal_hook::flag::register(signal_hook::consts::SIGPIPE, heard);
    let arguments: Result<Vec<CString>, _> = words.iter().map(|word| c_string(word)).collect();
    let (Ok(arguments), Some(program)) = (arguments, words.first()) else {
        return Errno::EINVAL;
    };
    let mut refused = Errno::ENOENT;
    for place in places(program, std::env::var_os("PATH").as_deref()) {
        match try_to_become(&place, &arguments) {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE | Errno::ENODEV | Errno::ETIMEDOUT => {}
            Errno::EACCES => refused = Errno::EACCES,
            errno => return errno,
        }
    }
    refused
}

fn try_to_become(place: &Path, arguments: &[CString]) -> Errno {
    let Ok(path) = c_string(place.as_os_str()) else {
        return Errno::EINVAL;
    };
    let Err(errno) = execv(&path, arguments);
    // An empty file is more likely one that is yet to be written than a script that does nothing; half
    // of a program begins as a whole one does (elf(5)).
    let is_text = || {
        beginning(place).is_some_and(|text| {
            !text.is_empty() && !text.starts_with(b"\x7fELF") && !text.contains(&0)
        })
    };
    if errno != Errno::ENOEXEC || !is_text() {
        return errno;
    }
    let Ok(shell) = c_string(OsStr::new(SHELL)) else {
        return errno;
    };
    let mut by_shell = vec![shell.clone(), path];
    by_shell.extend(arguments.iter().skip(1).cloned());
    let Err(_) = execv(&shell, &by_shell);
    errno
}

fn c_string(text: &OsStr) -> Result<CString, std::ffi::NulError> {
    CString::new(text.to_owned().into_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_the_command_would_find_them() {
        let path = Some(OsStr::new("/nowhere:/bin:/usr/bin"));
        let found = |program: &str| check(OsStr::new(program), path);
        assert_eq!(found("sh"), Ok(()));
        assert_eq!(found("/bin/sh"), Ok(()));
        for program in ["no-such-command-here", "/no/such/file", "", "/etc/passwd/x"] {
            assert_eq!(found(program), Err(Obstacle::NotFound), "{program}");
        }
        for program in ["/etc/passwd", "/", ".", "..", "./"] {
            let refused = matches!(found(program), Err(Obstacle::Refused(_)));
            assert!(refused, "{program}: {:?}", found(program));
        }
    }

    #[test]
    fn a_first_line_names_an_interpreter() {
        let missing = |name: &str| Err(Obstacle::NoInterpreter { name: name.into() });
        for (text, wanted) in [
            ("#!/bin/sh\necho", Ok(())),
            ("#! /bin/sh -e", Ok(())),
            ("#!/bin/sh -e\r\n", Ok(())),
            ("#!", Ok(())),
            ("echo\r\n", Ok(())),
            ("\x7fELF", Ok(())),
            ("#!/no/such -x\n", missing("/no/such")),
            ("#!/bin/sh\r\n", Err(Obstacle::WindowsLines)),
            ("#!/usr/bin/env sh\r\n", Err(Obstacle::WindowsLines)),
        ] {
            assert_eq!(check_interpreter(text.as_bytes()), wanted, "{text:?}");
        }
    }
}
