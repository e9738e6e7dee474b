//! The environment of ddollar, without the tokens.
//!
//! Every process of this user can read the environment that another was started with
//! (proc_pid_environ(5)), and the command is one. Where the command is to have no token, ddollar executes
//! itself once more in the same process, and hands the tokens on in a pipe.

use crate::common::Environment;
use crate::system::os;
use crate::system::signals::{self, Inherited};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use std::env::{args_os, current_exe, vars_os};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The variable with the number of the pipe's descriptor.
const VARIABLE: &str = "DDOLLAR_HIDDEN_ENVIRONMENT";

/// The environment as the caller gave it, also after [`hide`].
pub(crate) fn whole() -> Environment {
    let mut environment: Environment = vars_os().collect();
    if let Some(place) = environment.iter().position(|(name, _)| name == VARIABLE) {
        let (_, number) = environment.remove(place);
        environment.extend(hidden(&number).into_iter().flatten());
    }
    environment
}

/// The path of a descriptor of this process.
fn name(descriptor: i32) -> String {
    format!("{}/{descriptor}", os::DESCRIPTORS)
}

/// What the pipe holds. It is closed before anything else is started.
fn hidden(number: &OsStr) -> Option<Environment> {
    let number: i32 = number.to_str()?.parse().ok()?;
    let pipe = File::open(name(number));
    let _ = nix::unistd::close(number);
    let mut text = Vec::new();
    pipe.ok()?.read_to_end(&mut text).ok()?;
    let split = |variable: &[u8]| {
        let end = variable.iter().position(|byte| *byte == b'=')?;
        let (name, value) = variable.split_at_checked(end)?;
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Some((text(name), text(value.get(1..)?)))
    };
    Some(text.split(|byte| *byte == 0).filter_map(split).collect())
}

/// Takes the secrets out of the environment of this process, if there are any: becomes a new ddollar
/// without them, which finds them by [`whole`].
///
/// # Errors
/// The system refuses, the secrets do not fit into a pipe, or a pipe cannot be opened anew, as without
/// /proc; nothing has changed then.
pub(crate) fn hide(is_secret: impl Fn(&str) -> bool, inherited: Inherited) -> io::Result<()> {
    let is_secret = |name: &OsStr| name.to_str().is_some_and(&is_secret);
    let (secrets, others): (Environment, Environment) =
        vars_os().partition(|(name, _)| is_secret(name));
    if secrets.is_empty() {
        return Ok(());
    }
    let mut text = Vec::new();
    for (name, value) in &secrets {
        text.extend([name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat());
    }
    let (reader, mut writer) = io::pipe()?;
    // It will be opened by this name. Without /proc, as in a chroot, there is none.
    File::open(name(reader.as_raw_fd()))?;
    // Nobody reads yet. A pipe takes 64 KiB, and a page when this user has many (pipe(7)).
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    writer.write_all(&text)?;
    drop(writer);
    fcntl(&reader, FcntlArg::F_SETFD(FdFlag::empty()))?;
    // By its name, which ps(1) shows; after an upgrade the file of that name is gone.
    let program = current_exe().ok().filter(|path| path.exists());
    let mut words = args_os();
    let mut command = Command::new(program.unwrap_or_else(os::own_program));
    command
        .arg0(words.next().unwrap_or_default())
        .args(words)
        .env_clear()
        .envs(others)
        .env(VARIABLE, reader.as_raw_fd().to_string());
    signals::set_mask(inherited.blocked);
    inherited.limits.restore();
    let error = command.exec();
    let _ = signals::take_over();
    Err(error)
}
