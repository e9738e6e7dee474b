//! The environment of everything that a test starts, and the folder that it works in.

use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Once, PoisonError, RwLock};
use tempfile::TempDir;

/// Some files are open only while nothing is started, because a process that another thread starts
/// would hold them, too: a terminal, until it is marked, and a program that is being written, which
/// cannot be executed meanwhile (ETXTBSY).
static OPENING: RwLock<()> = RwLock::new(());

/// Starts a process.
pub(crate) fn spawn(command: &mut Command) -> Child {
    let _none_opens = OPENING.read().unwrap_or_else(PoisonError::into_inner);
    command.spawn().unwrap()
}

/// Whether this program is here and ends well. Nobody sees what it says.
pub(crate) fn works(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let started = {
        let _none_opens = OPENING.read().unwrap_or_else(PoisonError::into_inner);
        command.spawn()
    };
    started.is_ok_and(|mut child| child.wait().unwrap().success())
}

/// Runs a process to its end.
pub(crate) fn output(command: &mut Command) -> Output {
    let child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    child.wait_with_output().unwrap()
}

/// Opens such a file.
pub(crate) fn opening<T>(open: impl FnOnce() -> T) -> T {
    let _none_starts = OPENING.write().unwrap_or_else(PoisonError::into_inner);
    open()
}

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_ddollar");

/// A folder that is gone after the test; HOME and working directory of what the test starts.
pub(crate) struct Desk(TempDir);

impl Desk {
    pub(crate) fn new() -> Desk {
        Desk(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file that only its owner can read and execute.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        opening(|| fs::write(&path, text).unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// `program` in this folder with nothing of the tester's environment but PATH.
    pub(crate) fn command(&self, program: &str) -> Command {
        default_signals();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path())
            .env("TMPDIR", self.path())
            .env("LANG", "C.UTF-8")
            .current_dir(self.path());
        if cfg!(any(feature = "portable", not(target_os = "linux"))) {
            // There, who leaves its parent is not the command's any more. Who leaves but its group
            // and its session still is.
            command.env("DAEMON", "child");
        }
        command
    }
}

/// Whoever starts the tests with `nohup`, with `&` from a script, or from Python, makes them ignore
/// signals, and what is ignored stays so over exec. What has a handler does not, so each gets one. Of
/// the two that are kept, the library that starts a process resets SIGPIPE.
fn default_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status
            .lines()
            .find_map(|line| line.strip_prefix("SigIgn:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .unwrap_or(0);
        for signal in Signal::iterator() {
            let number = signal as i32;
            let kept = matches!(signal, Signal::SIGPIPE | Signal::SIGCHLD)
                || signal_hook::consts::FORBIDDEN.contains(&number);
            if !kept && ignored & (1 << (number - 1)) != 0 {
                let flag = Arc::new(AtomicBool::new(false));
                signal_hook::flag::register(number, flag).unwrap();
            }
        }
    });
}
