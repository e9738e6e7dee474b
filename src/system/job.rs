//! The stage: the child, its tree, its terminal and its watchdog, moved together.
//!
//! Owns the order in which they are moved: the terminal goes to the child before it goes on and
//! comes back after it has stopped or ended; the watchdog knows of each child; what a child leaves
//! behind is adopted, reaped and in the end swept. It promises not to block and not to decide.

use crate::common::error::Error;
use crate::events::console::Console;
use crate::events::message::Notice;
use crate::supervisor::event::Event;
use crate::system::child::Child;
use crate::system::descendants::Tree;
use crate::system::exit_status::ChildEvent;
use crate::system::os;
use crate::system::signals::Inherited;
use crate::system::terminal::Foreground;
use crate::system::terminal::{self, Terminal};
use crate::system::watchdog::{COOKIE, Watchdog};
use crate::tokens::Token;
use crossbeam_channel::Receiver;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid, getpgrp};
use std::cell::Cell;
use std::ffi::OsString;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// How long a stop for the terminal in the background is kept from the shell. A shell that carries out
/// `fg` just then does not know of the stop: it hands over the terminal without SIGCONT, and takes
/// ddollar's own stop for one that came after. Longer than a shell takes for a line, shorter than from
/// one key to the next but one.
const SHELLS_MOMENT: Duration = Duration::from_millis(50);

/// So many watchdogs are started in a run at most: what kills them may be there to stay.
const WATCHDOGS: u32 = 8;

/// Everything that belongs to the one child.
#[derive(Debug)]
pub(crate) struct Job<'c> {
    console: &'c Console,
    child: Option<Child>,
    /// The group of the last child, which may outlive it.
    group: Option<Pid>,
    terminal: Option<Terminal>,
    tree: Tree,
    watchdog: Option<Watchdog>,
    /// How many more may be started.
    watchdogs_left: u32,
    inherited: Inherited,
    /// Marks every process of this run, for the watchdog.
    cookie: String,
    grace: Duration,
    /// The child's stop for the terminal that is yet to be told, and when.
    deferred_stop: Option<(Signal, Instant)>,
    /// Whether it was said that the command cannot be signalled.
    cannot_signal: Cell<bool>,
}

impl<'c> Job<'c> {
    /// An empty stage.
    pub(crate) fn new(inherited: Inherited, grace: Duration, console: &'c Console) -> Job<'c> {
        let random = RandomState::new().hash_one(std::process::id());
        let (tree, trouble) = Tree::adopt();
        if let Some(what) = trouble {
            console.say(&Notice::Warning { what });
        }
        Job {
            console,
            child: None,
            group: None,
            terminal: Terminal::open(),
            tree,
            watchdog: None,
            watchdogs_left: WATCHDOGS,
            inherited,
            cookie: format!("{}-{random:016x}", std::process::id()),
            grace,
            deferred_stop: None,
            cannot_signal: Cell::new(false),
        }
    }

    /// Says when the child's state has changed; `None` without a child.
    pub(crate) fn changes(&self) -> Option<&Receiver<()>> {
        self.child.as_ref().map(Child::changes)
    }

    /// Another handle on the terminal, for the prompt.
    pub(crate) fn terminal_file(&self) -> Option<File> {
        self.terminal.as_ref()?.file().ok()
    }

    /// Whether ddollar is in the foreground of its terminal.
    pub(crate) fn is_foreground(&self) -> bool {
        self.terminal.as_ref().is_some_and(Terminal::is_ours)
    }

    /// Starts the child, and before the first one the watchdog: a child that is deaf to its death
    /// signal would outlive a ddollar that is killed between the two.
    pub(crate) fn launch<'a>(
        &mut self,
        words: &[OsString],
        name: String,
        environment: &[(OsString, OsString)],
        tokens: impl Iterator<Item = &'a Token>,
    ) -> Result<(), Error> {
        let eager = match &mut self.terminal {
            Some(terminal) => {
                terminal.prepare();
                terminal.is_eager()
            }
            None => false,
        };
        if !self.has_watchdog() {
            self.call_watchdog();
        }
        let cookie = (OsString::from(COOKIE), OsString::from(&self.cookie));
        let environment = environment.iter().chain(std::iter::once(&cookie));
        let inherited = self.inherited;
        let told = self.watchdog.as_ref().filter(|_| !os::DEATH_IS_TOLD);
        let child = Child::spawn(words, name, environment, tokens, inherited, eager, told)?;
        if let (true, Some(terminal)) = (eager, &mut self.terminal) {
            terminal.is_taken_by_child();
        }
        self.group = Some(child.group());
        self.child = Some(child);
        self.point_out_child();
        self.share();
        Ok(())
    }

    /// The next change of the child's state, as an event. With its end the terminal comes back.
    ///
    /// # Errors
    /// The command could not be executed at all.
    pub(crate) fn take_change(&mut self, now: Instant) -> Result<Option<Event>, Error> {
        let Some(child) = &mut self.child else {
            return Ok(None);
        };
        let Some(change) = child.take_change()? else {
            return Ok(None);
        };
        self.deferred_stop = None;
        Ok(Some(match change {
            ChildEvent::Stopped { by } => {
                let scene = terminal::scene(self.terminal.as_ref(), child.group());
                let for_terminal = matches!(by, Signal::SIGTTIN | Signal::SIGTTOU);
                if for_terminal && scene.front == Foreground::Other && !scene.orphaned {
                    self.deferred_stop = Some((by, now + SHELLS_MOMENT));
                    return Ok(None);
                }
                Event::Stopped { by, scene }
            }
            ChildEvent::Exited { how, asked } => {
                let group = child.group();
                self.child = None;
                if let Some(watchdog) = &mut self.watchdog {
                    watchdog.release();
                }
                if let Some(terminal) = &mut self.terminal {
                    terminal.child_ended(group, how, asked);
                }
                self.share();
                Event::Child(change)
            }
            change => Event::Child(change),
        }))
    }

    /// How long a stop of the child is yet to be kept; `None` when there is none to be told.
    pub(crate) fn deferred_stop_in(&self, now: Instant) -> Option<Duration> {
        self.deferred_stop
            .map(|(_, at)| at.saturating_duration_since(now))
    }

    /// The stop that was kept for long enough, as things stand now.
    pub(crate) fn take_deferred_stop(&mut self, now: Instant) -> Option<Event> {
        let (by, _) = self.deferred_stop.take_if(|(_, at)| *at <= now)?;
        let scene = terminal::scene(self.terminal.as_ref(), self.command()?);
        Some(Event::Stopped { by, scene })
    }

    /// Sends a signal to the child's group.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            self.check(child.signal(signal));
        }
    }

    /// Says once that the command cannot be signalled, as one with other privileges.
    fn check(&self, sent: nix::Result<()>) {
        if let Err(errno) = sent
            && !self.cannot_signal.replace(true)
        {
            let why = errno.desc().to_lowercase();
            self.console.say(&Notice::Warning {
                what: format!("The command cannot be signalled: {why}"),
            });
        }
    }

    /// Tells the child to end. In the background it could not put the terminal right.
    pub(crate) fn terminate(&mut self, signal: Signal) {
        self.remember();
        let Some(child) = &mut self.child else { return };
        if let Some(terminal) = &mut self.terminal {
            terminal.give_if_wanted(child.group());
        }
        let sent = child.terminate(signal);
        self.check(sent);
        self.share();
    }

    /// Ends the child's group and everything adopted at once.
    pub(crate) fn kill(&mut self) {
        self.remember();
        if let Some(child) = &mut self.child {
            let sent = child.kill();
            self.check(sent);
        }
        let command = self.command();
        self.tree.signal(command, Signal::SIGKILL);
    }

    /// Asks the group to stop.
    pub(crate) fn pause(&mut self) {
        // Should ddollar be killed, the system wakes and ends the stopped before the watchdog looks.
        self.remember();
        self.signal(Signal::SIGTSTP);
    }

    /// Makes all of the stopped group stop, and takes the terminal back.
    pub(crate) fn hold(&mut self) {
        self.signal(Signal::SIGSTOP);
        if let (Some(child), Some(terminal)) = (&self.child, &mut self.terminal) {
            terminal.take_back(child.group());
        }
        self.share();
    }

    /// Makes the terminal fit for a question.
    pub(crate) fn prepare_prompt(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.prepare_prompt();
        }
    }

    /// Lets the child go on, with the terminal if it is to have it. A program that had lost it
    /// draws itself anew on SIGWINCH.
    pub(crate) fn go_on(&mut self) {
        let Some(child) = &self.child else { return };
        self.deferred_stop = None;
        let given = self
            .terminal
            .as_mut()
            .is_some_and(|terminal| terminal.give_if_wanted(child.group()));
        // The user may have changed them while the shell was in the foreground.
        if let (true, Some(watchdog), Some(terminal)) = (given, &mut self.watchdog, &self.terminal)
        {
            watchdog.remember(&terminal.usual_modes());
        }
        self.share();
        self.signal(Signal::SIGCONT);
        if given {
            self.signal(Signal::SIGWINCH);
        }
    }

    /// The child has stopped for the terminal, which is ours to give.
    pub(crate) fn hand_over(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.is_asked_for();
        }
        self.go_on();
    }

    /// Stops ddollar's whole group as the child has stopped, so that the shell sees a stopped
    /// job. Returns when somebody continues it; SIGCONT is then an event of its own. A child that
    /// stopped in the background goes on instead if `fg` has come in the meantime: ddollar's stop
    /// would undo it.
    pub(crate) fn mirror(&mut self, by_terminal: bool, in_background: bool) {
        let mut had_it = false;
        if let (Some(child), Some(terminal)) = (&self.child, &mut self.terminal) {
            if by_terminal {
                terminal.is_asked_for();
            }
            had_it = terminal.take_back(child.group());
        }
        self.share();
        if had_it || !in_background {
            self.suspend();
        } else if self.is_foreground() {
            self.go_on();
        } else {
            // Nothing may come between this and the look above.
            stop_group();
        }
    }

    /// Stops ddollar's whole group, if somebody is there to continue it.
    pub(crate) fn suspend(&self) {
        if terminal::is_orphaned() {
            return;
        }
        if let Some(terminal) = &self.terminal {
            terminal.restore();
        }
        stop_group();
    }

    /// Reaps what was adopted and has ended. A watchdog that was among it is replaced.
    pub(crate) fn reap(&mut self) {
        let command = self.command();
        self.tree.reap(command);
        if self.watchdog.is_some() && !self.has_watchdog() {
            self.call_watchdog();
        }
    }

    /// Who is left of the tree once the child is gone, after sending the signal: SIGKILL to all,
    /// anything else to those beyond the group, which have not had one.
    pub(crate) fn sweep(&mut self, signal: Option<Signal>) -> Event {
        let command = self.command();
        let group = self.group;
        let in_group = |process: &Pid| getpgid(Some(*process)).ok() == group && group.is_some();
        if let Some(signal) = signal {
            for process in self.tree.left(command) {
                if signal == Signal::SIGKILL || !in_group(&process) {
                    Tree::send(process, signal);
                }
            }
        }
        let (group, beyond): (Vec<Pid>, Vec<Pid>) =
            self.tree.left(command).into_iter().partition(in_group);
        // The kernel's list of children may miss one that moves while it is read (proc(5)); a group
        // that can still be signalled has members all the same.
        let missed = self.group.is_some_and(os::group_lives);
        Event::Tree {
            group: group.len().max(usize::from(missed)),
            beyond: beyond.len(),
        }
    }

    /// The run is over: says so to the watchdog, and how many processes stay.
    pub(crate) fn clear(&mut self) {
        let left = self.tree.left(None).len();
        if left > 0 {
            log::info!("{left} process(es) that the command detached stay");
        }
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.dismiss();
        }
        self.console.hold(false);
    }

    /// Leaves this child alone: it is none of the command's.
    pub(crate) fn exclude(&mut self, child: Pid) {
        self.tree.exclude(child);
    }

    /// Remembers who belongs to the command while that can be seen, here and in the watchdog.
    fn remember(&mut self) {
        let Some(child) = &self.child else { return };
        let all = self.tree.remember(child.group());
        if let Some(watchdog) = &mut self.watchdog {
            all.iter().for_each(|process| watchdog.note(process));
        }
    }

    fn command(&self) -> Option<Pid> {
        self.child.as_ref().map(Child::group)
    }

    /// Whether the watchdog lives, as far as is known.
    fn has_watchdog(&self) -> bool {
        let watchdog = self.watchdog.as_ref();
        watchdog.is_some_and(|watchdog| self.tree.spares(watchdog.pid()))
    }

    fn call_watchdog(&mut self) {
        self.watchdog = None;
        let started = if self.watchdogs_left == 0 {
            Err(std::io::Error::other("each one is killed"))
        } else {
            Watchdog::start(&self.cookie, self.grace, self.terminal.as_ref())
        };
        match started {
            Ok(watchdog) => {
                self.watchdogs_left -= 1;
                self.tree.exclude(watchdog.pid());
                self.watchdog = Some(watchdog);
                self.point_out_child();
            }
            Err(error) => self.console.say(&Notice::Warning {
                what: format!("No watchdog ({error}): kill -9 of ddollar would leave the command"),
            }),
        }
    }

    fn point_out_child(&mut self) {
        if let (Some(watchdog), Some(child)) = (&mut self.watchdog, &self.child) {
            watchdog.guard(child.group());
        }
    }

    fn share(&self) {
        let shared = self
            .terminal
            .as_ref()
            .is_some_and(Terminal::is_shared_with_child);
        self.console.hold(shared);
    }
}

/// Stops ddollar's whole group: a pipeline is stopped for the shell only when all of its members are.
fn stop_group() {
    if let Err(errno) = killpg(getpgrp(), Signal::SIGSTOP) {
        log::warn!("cannot stop: {errno}");
    }
}
