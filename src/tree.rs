//! The tree: every process that a command has started and left behind.
//!
//! Owns the adoption of orphans and their end. Agents start their tools in sessions of their own,
//! where no signal to the group reaches them; as their subreaper, ddollar becomes their parent when
//! the command dies. It promises to signal only its own children, whose pids cannot be reused before
//! it reaps them. Linux only; elsewhere the group is all there is.

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs;

/// ddollar's children beside the command itself.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Children that were there before, or that are not the command's.
    strangers: Vec<Pid>,
}

impl Tree {
    /// Adopts from now on whatever loses its parent below this process.
    /// Says what is lost where the system refuses that.
    pub(crate) fn adopt() -> (Tree, Option<String>) {
        let mut trouble = None;
        #[cfg(target_os = "linux")]
        if std::process::id() != 1
            && let Err(errno) = nix::sys::prctl::set_child_subreaper(true)
        {
            trouble = Some(format!(
                "Processes that leave the command's group will not be found: {}",
                errno.desc().to_lowercase()
            ));
        }
        let tree = Tree {
            strangers: children(),
        };
        (tree, trouble)
    }

    /// Whether a child that is left alone has not been reaped yet.
    pub(crate) fn spares(&self, child: Pid) -> bool {
        self.strangers.contains(&child)
    }

    /// Leaves this child alone: it is none of the command's.
    pub(crate) fn spare(&mut self, child: Pid) {
        self.strangers.push(child);
    }

    /// Reaps adopted children that have ended, and says who of them is alive; `command` is reaped
    /// by its owner.
    pub(crate) fn reap(&mut self, command: Option<Pid>) -> Vec<Pid> {
        let mut alive = children();
        // Strangers too: whoever they are, their parent is this process. A real-time signal's
        // death is an error in nix, but reaps all the same.
        alive.retain(|child| {
            Some(*child) == command
                || waitpid(*child, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive)
        });
        self.strangers.retain(|stranger| alive.contains(stranger));
        alive.retain(|child| Some(*child) != command && !self.strangers.contains(child));
        alive
    }

    /// Sends a signal to each adopted child.
    pub(crate) fn signal(&mut self, command: Option<Pid>, signal: Signal) {
        for child in self.reap(command) {
            Tree::send(child, signal);
        }
    }

    /// Sends a signal to one of them. Whatever it is doing, a signal other than SIGKILL is acted
    /// on only when it is not stopped.
    pub(crate) fn send(child: Pid, signal: Signal) {
        if let Err(errno) = kill(child, signal) {
            log::warn!("cannot send {signal} to process {child}: {errno}");
        }
        if signal != Signal::SIGKILL {
            let _ = kill(child, Signal::SIGCONT);
        }
    }
}

/// The children of this process (proc(5), `children`). All belong to the main thread: it alone
/// starts processes, and orphans are given to it.
fn children() -> Vec<Pid> {
    let own = std::process::id();
    fs::read_to_string(format!("/proc/self/task/{own}/children"))
        .unwrap_or_default()
        .split_ascii_whitespace()
        .filter_map(|pid| pid.parse().ok().map(Pid::from_raw))
        .collect()
}
