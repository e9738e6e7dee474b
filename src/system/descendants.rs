//! The tree: every process that a command has started and left behind.
//!
//! Agents start their tools in sessions of their own, where no signal to the group reaches them. As
//! their subreaper, ddollar becomes their parent when the command dies, and ends them. It signals only
//! what belongs to the command, and only its own children, whose pids cannot be reused before it reaps
//! them, or processes that it can recognise. Only
//! waitpid(2) tells it that a process has ended: /proc may be hidden, foreign or without its lists of
//! children.
//!
//! Where orphans are not adopted (macOS), it remembers who descends from the command while that can
//! still be seen: when the command is told to end or paused. Then it signals those, and no others.

use crate::system::os::{self, Process};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid};

/// The processes below ddollar, beside the command itself.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Children that are not the command's: they were there before it, or were started beside it.
    strangers: Vec<Pid>,
    /// The variable, as `NAME=value`, that everything below the command carries unless it clears its
    /// environment.
    mark: Option<String>,
    /// Whether orphans that are not the command's may come to ddollar, too: to PID 1 come all of a
    /// container's, and children that were there before may leave some.
    adopts_others: bool,
    /// The command's descendants as they were last seen, where that is needed.
    remembered: Vec<Process>,
}

/// A process of the command's beyond the command itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stray {
    /// Its number, where it is a child of ddollar since its own parent has died.
    adopted: Option<Pid>,
    process: Process,
}

impl Tree {
    /// Adopts from now on whatever loses its parent below this process; `mark` is the variable that
    /// tells the command's from others. Says what is lost where the system refuses that.
    pub(crate) fn adopt(mark: Option<String>) -> (Tree, Option<String>) {
        let trouble = match os::adopt_orphans() {
            Ok(()) => os::list_trouble().map(str::to_owned),
            Err(errno) => Some(format!(
                "Processes that leave the command's group will not be found: {}",
                errno.desc().to_lowercase()
            )),
        };
        let strangers: Vec<Pid> = os::children(&[]).into_iter().map(|(pid, _)| pid).collect();
        let tree = Tree {
            adopts_others: std::process::id() == 1 || !strangers.is_empty(),
            strangers,
            mark,
            remembered: Vec::new(),
        };
        (tree, trouble)
    }

    /// Whether a child that is left alone has not been reaped yet.
    pub(crate) fn spares(&self, child: Pid) -> bool {
        self.strangers.contains(&child)
    }

    /// The children that are left alone.
    pub(crate) fn strangers(&self) -> &[Pid] {
        &self.strangers
    }

    /// Leaves this child alone: it does not belong to the command.
    pub(crate) fn exclude(&mut self, child: Pid) {
        self.strangers.push(child);
    }

    /// Remembers who descends from the command, where that will not be known once it is dead; and
    /// says who that is.
    pub(crate) fn remember(&mut self, command: Pid) -> &[Process] {
        if os::STRAYS_ARE_FOUND && !self.adopts_others {
            return &[];
        }
        let number = if os::STRAYS_ARE_FOUND {
            let own = os::children(&self.strangers);
            let listed = own.iter().find(|(pid, _)| *pid == command);
            listed.map(|(_, process)| process.pid)
        } else {
            Some(command)
        };
        let Some(number) = number else {
            return &[];
        };
        let is_known = |process: &Process| {
            process.pid == number
                || process.group == number
                || self.remembered.iter().any(|seen| process.is_still(seen))
        };
        let mut found = os::with_descendants(&os::processes(), is_known);
        found.retain(|process| process.pid != number);
        self.remembered = found;
        &self.remembered
    }

    /// Reaps children that have ended, whoever they are: their parent is this process. `command` is
    /// reaped by its owner; until that has happened, others may have to wait.
    pub(crate) fn reap(&mut self, command: Option<Pid>) {
        let has_ended =
            |child: Pid| waitpid(child, Some(WaitPidFlag::WNOHANG)) != Ok(WaitStatus::StillAlive);
        while let Some(child) = os::ended_child()
            && Some(child) != command
            && has_ended(child)
        {
            self.strangers.retain(|stranger| *stranger != child);
        }
        self.strangers.retain(|stranger| !has_ended(*stranger));
    }

    /// The living processes of the command's beyond itself: those that were adopted, and those that
    /// were seen.
    pub(crate) fn left(&mut self, command: Option<Pid>) -> Vec<Stray> {
        self.reap(command);
        let mut left = Vec::new();
        for (child, process) in os::children(&self.strangers) {
            if Some(child) == command {
                continue;
            }
            if !process.lives {
                // One that died by a real-time signal, which `reap` may not have been told of.
                let _ = waitpid(child, Some(WaitPidFlag::WNOHANG));
            } else if self.is_of_command(&process) {
                left.push(Stray {
                    adopted: Some(child),
                    process,
                });
            }
        }
        // Not in `reap`: to look for processes may take a process, whose end is to be reaped.
        if !os::STRAYS_ARE_FOUND && !self.remembered.is_empty() {
            let all = os::processes();
            self.remembered
                .retain(|seen| all.iter().any(|now| now.lives && now.is_still(seen)));
            left.extend(self.remembered.iter().map(|process| Stray {
                adopted: None,
                process: *process,
            }));
        }
        left
    }

    /// Whether an adopted process belongs to the command.
    fn is_of_command(&self, process: &Process) -> bool {
        let is_marked = |mark: &String| os::has_variable(process, mark);
        !self.adopts_others
            || self.mark.as_ref().is_none_or(is_marked)
            || self.remembered.iter().any(|seen| process.is_still(seen))
    }

    /// Sends a signal to each of those that are left.
    pub(crate) fn signal(&mut self, command: Option<Pid>, signal: Signal) {
        for process in self.left(command) {
            process.send(signal);
        }
    }
}

impl Stray {
    /// Whether it is in this process group.
    pub(crate) fn is_in(&self, group: Pid) -> bool {
        getpgid(Some(self.adopted.unwrap_or(self.process.pid))) == Ok(group)
    }

    /// Sends it a signal. Any but SIGKILL is acted on only by a process that is not stopped, so
    /// SIGCONT follows where it is.
    pub(crate) fn send(&self, signal: Signal) {
        if let Err(errno) = self.send_once(signal) {
            log::warn!(
                "cannot send {signal} to process {}: {errno}",
                self.process.pid
            );
        }
        if signal != Signal::SIGKILL {
            self.wake();
        }
    }

    /// Lets it go on, if it is stopped.
    pub(crate) fn wake(&self) {
        if self.process.stopped {
            let _ = self.send_once(Signal::SIGCONT);
        }
    }

    fn send_once(&self, signal: Signal) -> nix::Result<()> {
        match self.adopted {
            Some(child) => kill(child, signal),
            None => os::send(&self.process, signal),
        }
    }
}
