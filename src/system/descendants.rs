//! The tree: every process that a command has started and left behind.
//!
//! Owns the adoption of orphans and their end. Agents start their tools in sessions of their own,
//! where no signal to the group reaches them; as their subreaper, ddollar becomes their parent when
//! the command dies. It promises to signal only its own children, whose pids cannot be reused before
//! it reaps them.
//!
//! Where orphans are not adopted (macOS), it remembers who descends from the command while that can
//! still be seen: when the command is told to end or paused. Then it signals whom it remembers, and nobody else.

use crate::system::os::{self, Process};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// ddollar's children beside the command itself.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Children that were there before, or that are not the command's.
    strangers: Vec<Pid>,
    /// The command's descendants, where orphans are not adopted.
    remembered: Vec<Process>,
}

impl Tree {
    /// Adopts from now on whatever loses its parent below this process.
    /// Says what is lost where the system refuses that.
    pub(crate) fn adopt() -> (Tree, Option<String>) {
        let trouble = os::adopt_orphans().err().map(|errno| {
            format!(
                "Processes that leave the command's group will not be found: {}",
                errno.desc().to_lowercase()
            )
        });
        let tree = Tree {
            strangers: os::children(),
            remembered: Vec::new(),
        };
        (tree, trouble)
    }

    /// Whether a child that is left alone has not been reaped yet.
    pub(crate) fn spares(&self, child: Pid) -> bool {
        self.strangers.contains(&child)
    }

    /// Leaves this child alone: it is none of the command's.
    pub(crate) fn exclude(&mut self, child: Pid) {
        self.strangers.push(child);
    }

    /// Remembers who descends from the command, if its orphans will not be adopted; and says who
    /// that is.
    pub(crate) fn remember(&mut self, command: Pid) -> &[Process] {
        if os::STRAYS_ARE_FOUND {
            return &[];
        }
        let known = |process: &Process| {
            let is_still = |old: &Process| process.is_still(old.pid, old.group);
            process.group == command || self.remembered.iter().any(is_still)
        };
        let mut found = os::with_descendants(&os::processes(), known);
        found.retain(|process| process.pid != command);
        self.remembered = found;
        &self.remembered
    }

    /// Reaps adopted children that have ended; `command` is reaped by its owner. Returns the others.
    pub(crate) fn reap(&mut self, command: Option<Pid>) -> Vec<Pid> {
        let mut alive = os::children();
        if !os::STRAYS_ARE_FOUND {
            alive.extend(&self.strangers);
        }
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

    /// Who is alive of the adopted and the remembered.
    pub(crate) fn left(&mut self, command: Option<Pid>) -> Vec<Pid> {
        let mut left = self.reap(command);
        // Not in `reap`: to look for processes may take a process, whose end is to be reaped.
        if !self.remembered.is_empty() {
            let all = os::processes();
            self.remembered.retain(|old| {
                all.iter()
                    .any(|now| now.lives && now.is_still(old.pid, old.group))
            });
            left.extend(self.remembered.iter().map(|process| process.pid));
        }
        left
    }

    /// Sends a signal to each adopted child.
    pub(crate) fn signal(&mut self, command: Option<Pid>, signal: Signal) {
        for child in self.left(command) {
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
