//! The job: the child, its tree, its terminal and its watchdog, moved together.
//!
//! Owns the order in which they are moved: the terminal goes to the child before it goes on and
//! comes back after it has stopped or ended; the watchdog knows of each child; what a child leaves
//! behind is adopted, reaped and in the end swept. The face is small: launch, stop, pause, resume,
//! signal, and the next change. It promises not to block. What is due when is [`control`]'s to say, and
//! what the command is to do next is the session's.

pub(crate) mod control;

use crate::common::error::Error;
use crate::common::secret::Secret;
use crate::system::child::Child;
use crate::system::descendants::{Stray, Tree};
use crate::system::exit_status::{ChildEvent, ExitStatus};
use crate::system::os;
use crate::system::signals::Inherited;
use crate::system::terminal::{self, Foreground, Terminal};
use crate::system::watchdog::{COOKIE, Watchdog};
use control::{JobControl, Step, Transition};
use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgrp};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

pub(crate) use control::JobEvent;

/// How long a stop for the terminal in the background is kept from the shell. A shell that carries out
/// `fg` just then does not know of the stop: it hands over the terminal without SIGCONT, and takes
/// ddollar's own stop for one that came after. Longer than a shell takes for a line, shorter than from
/// one key to the next but one.
const SHELLS_MOMENT: Duration = Duration::from_millis(50);

/// So many watchdogs are started in a run at most: what kills them may be there to stay.
const WATCHDOGS: u32 = 8;

/// A start of the command.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    /// The program and its arguments.
    pub(crate) words: &'a [OsString],
    /// What messages call it.
    pub(crate) name: String,
    /// Its environment, without tokens.
    pub(crate) environment: &'a [(OsString, OsString)],
    /// Variables of it that this start goes without.
    pub(crate) left_out: Vec<&'static str>,
    /// The tokens that it gets, and the variables that hold them.
    pub(crate) tokens: Vec<(&'static str, &'a Secret)>,
    /// Whether it has run before: a shortage of the system's is then reported as
    /// [`JobEvent::NotStarted`], since it may pass.
    pub(crate) again: bool,
}

/// Everything that belongs to the one child.
#[derive(Debug)]
pub(crate) struct Job {
    control: JobControl,
    child: Option<Child>,
    /// Whether it is not the first.
    again: bool,
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
    /// The child's stop for the terminal that is yet to be acted on, and when.
    deferred_stop: Option<(Signal, Instant)>,
    /// Whether the command has the signal to end that it is to get.
    is_told: bool,
    /// Whether it was said that the command cannot be signalled.
    cannot_signal: bool,
    /// What the session is yet to hear.
    events: VecDeque<JobEvent>,
    /// Wakes whoever waits for [`Job::changes`].
    wake: Sender<()>,
    changes: Receiver<()>,
}

impl Job {
    /// A job without a child, which has `grace` to end when it is stopped. Its watchdog makes itself ready
    /// while the rest of the start goes on.
    pub(crate) fn new(inherited: Inherited, grace: Duration) -> Job {
        let random = RandomState::new().hash_one(std::process::id());
        let cookie = format!("{}-{random:016x}", std::process::id());
        let (tree, trouble) = Tree::adopt(Some(format!("{COOKIE}={cookie}")));
        let (wake, changes) = unbounded();
        let mut job = Job {
            control: JobControl::new(grace),
            child: None,
            again: false,
            group: None,
            terminal: Terminal::open(),
            tree,
            watchdog: None,
            watchdogs_left: WATCHDOGS,
            inherited,
            cookie,
            grace,
            deferred_stop: None,
            is_told: false,
            cannot_signal: false,
            events: VecDeque::new(),
            wake,
            changes,
        };
        if let Some(what) = trouble {
            job.report(JobEvent::Warning(what));
        }
        job.start_watchdog();
        job
    }

    // ---- what has happened ----

    /// Readable when there is something for [`Job::next_change`] to look at.
    pub(crate) fn changes(&self) -> &Receiver<()> {
        &self.changes
    }

    /// Lets somebody else say that there may be a change: SIGCHLD also tells of orphans.
    pub(crate) fn waker(&self) -> Sender<()> {
        self.wake.clone()
    }

    /// What has changed, for the session: [`JobEvent::Unchanged`] where that is nothing. The child's
    /// end is reported one call after it was seen, so that what the child said before it ended, and
    /// what is in other channels by then, can be read first.
    ///
    /// # Errors
    /// The command could not be executed at all.
    pub(crate) fn next_change(&mut self, now: Instant) -> Result<JobEvent, Error> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        let strangers = self.tree.strangers();
        let child = self.child.as_mut();
        let change = child.map_or(Ok(None), |child| child.take_change(strangers));
        match change {
            Ok(Some(change)) => self.on_change(change, now),
            Ok(None) => self.look_after_orphans(now),
            Err(error) if self.again => self.on_not_executed(&error, now),
            Err(error) => return Err(error),
        }
        Ok(JobEvent::Unchanged)
    }

    /// A start after the first has failed at the last: the program may be being replaced by its own
    /// updater just now.
    fn on_not_executed(&mut self, error: &Error, now: Instant) {
        let how = ExitStatus::Code(error.exit_code());
        let event = JobEvent::NotStarted {
            why: error.to_string(),
            how: Some(how),
        };
        let asked = self.control.is_stopping();
        let mut outcome = self.ended(how, asked, now);
        if !asked {
            outcome.event = event;
        }
        self.carry_out(outcome, now);
    }

    fn on_change(&mut self, change: ChildEvent, now: Instant) {
        self.deferred_stop = None;
        let outcome = match change {
            ChildEvent::Stopped { by } => {
                let Some(group) = self.command() else { return };
                let mut scene = terminal::scene(self.terminal.as_ref(), group);
                // The parent may be a process manager in the same session, which continues nobody.
                scene.orphaned |= by == Signal::SIGSTOP && self.terminal.is_none();
                let for_terminal = matches!(by, Signal::SIGTTIN | Signal::SIGTTOU);
                if for_terminal && scene.front == Foreground::Other && !scene.orphaned {
                    self.deferred_stop = Some((by, now + SHELLS_MOMENT));
                    return;
                }
                self.control.stopped(by, scene, now)
            }
            ChildEvent::Exited { how, asked } => self.ended(how, asked, now),
            ChildEvent::Executed => JobEvent::Started.into(),
            ChildEvent::Continued => self.control.continued(),
        };
        self.carry_out(outcome, now);
    }

    /// The child is no more.
    fn ended(&mut self, how: ExitStatus, asked: bool, now: Instant) -> Transition {
        let child = self.child.take();
        // Those that had to wait for it.
        self.tree.reap(None);
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.release();
        }
        if let (Some(child), Some(terminal)) = (child, &mut self.terminal) {
            terminal.child_ended(child.group(), how, asked);
        }
        self.control.exited(how, asked, now)
    }

    /// Reaps what was adopted and has ended, and looks at a tree that is being swept. A watchdog that
    /// was among it is replaced.
    fn look_after_orphans(&mut self, now: Instant) {
        if self.control.is_sweeping() {
            self.sweep(None, now);
        } else {
            let command = self.command();
            self.tree.reap(command);
        }
        if self.watchdog.is_some() && !self.has_watchdog() {
            self.start_watchdog();
        }
    }

    /// Does what is due by now; see [`Job::timeout`].
    pub(crate) fn tick(&mut self, now: Instant) {
        if let Some((by, _)) = self.deferred_stop.take_if(|(_, at)| *at <= now)
            && let Some(group) = self.command()
        {
            let scene = terminal::scene(self.terminal.as_ref(), group);
            let outcome = self.control.stopped(by, scene, now);
            self.carry_out(outcome, now);
        }
        let outcome = self.control.deadline(now);
        self.carry_out(outcome, now);
    }

    /// How long until [`Job::tick`] has something to do; `None`: it does not.
    pub(crate) fn timeout(&self, now: Instant) -> Option<Duration> {
        let deferred = self.deferred_stop.map(|(_, at)| at);
        let deferred = deferred.map(|at| at.saturating_duration_since(now));
        deferred.into_iter().chain(self.control.timeout(now)).min()
    }

    /// Whether the child has the terminal, so that nothing else is to be printed on it.
    pub(crate) fn has_screen(&self) -> bool {
        let terminal = self.terminal.as_ref();
        terminal.is_some_and(Terminal::is_shared_with_child)
    }

    /// Whether ddollar is in the foreground of its terminal.
    pub(crate) fn is_foreground(&self) -> bool {
        self.terminal.as_ref().is_some_and(Terminal::is_ours)
    }

    /// Another handle on the terminal, for the prompt.
    pub(crate) fn terminal_file(&self) -> Option<File> {
        self.terminal.as_ref()?.file().ok()
    }

    // ---- orders ----

    /// Starts the child, with a watchdog there before it: the child would outlive a ddollar that is killed
    /// between the two. Returns whether it was started;
    /// [`JobEvent::NotStarted`] says why not.
    ///
    /// # Errors
    /// The first start fails for want of something that the system does not give.
    pub(crate) fn launch(&mut self, start: Start) -> Result<bool, Error> {
        let again = start.again;
        match self.spawn(start) {
            Err(Error::System { why, .. }) if again => {
                self.report(JobEvent::NotStarted { why, how: None });
                Ok(false)
            }
            spawned => spawned.map(|()| true),
        }
    }

    fn spawn(&mut self, start: Start) -> Result<(), Error> {
        let eager = match &mut self.terminal {
            Some(terminal) => {
                terminal.prepare();
                terminal.is_eager()
            }
            None => false,
        };
        // What one has got by itself must not be taken for a signal to all.
        if !self.has_watchdog() || start.again && self.was_for_all(Signal::SIGTERM) {
            self.start_watchdog();
        }
        let cookie = (OsString::from(COOKIE), OsString::from(&self.cookie));
        let given = start.environment.iter();
        let given = given.filter(|(name, _)| !start.left_out.iter().any(|other| name == other));
        let environment = given.chain(std::iter::once(&cookie));
        let child = Child::spawn(
            start.words,
            start.name,
            environment,
            start.tokens.into_iter(),
            self.inherited,
            eager,
            self.watchdog.as_ref(),
            start.again,
            self.wake.clone(),
        )?;
        if let (true, Some(terminal)) = (eager, &mut self.terminal) {
            terminal.is_taken_by_child();
        }
        self.group = Some(child.group());
        self.child = Some(child);
        self.again = start.again;
        self.control.launched();
        self.point_out_child();
        Ok(())
    }

    /// Ends the child and all that it has started: with this signal and the grace, or at once with
    /// SIGKILL. [`JobEvent::Cleared`] tells when that is done.
    pub(crate) fn stop(&mut self, signal: Signal, now: Instant) {
        self.is_told = false;
        self.end(signal, now);
    }

    /// The same with a signal that ddollar has got. If that was sent to all, the command does not get it again:
    /// many programs take a second one for an order to end at once.
    pub(crate) fn pass_on(&mut self, signal: Signal, now: Instant) {
        self.is_told = self.was_for_all(signal);
        self.end(signal, now);
    }

    fn end(&mut self, signal: Signal, now: Instant) {
        let outcome = self.control.stop(signal, now);
        self.carry_out(outcome, now);
    }

    /// Stops the child's group; [`JobEvent::Paused`] tells when that is done.
    pub(crate) fn pause(&mut self, now: Instant) {
        // Should ddollar be killed, the system wakes and ends the stopped before the watchdog looks.
        self.remember();
        let outcome = self.control.pause(now);
        self.carry_out(outcome, now);
    }

    /// Lets a paused child go on.
    pub(crate) fn resume(&mut self, now: Instant) {
        let outcome = self.control.resume();
        self.carry_out(outcome, now);
    }

    /// Passes a signal on that ddollar has received.
    pub(crate) fn signal(&mut self, signal: Signal, now: Instant) {
        let outcome = self.control.signal(signal, now);
        self.carry_out(outcome, now);
    }

    /// Passes a real-time signal on to the child, if there is one.
    pub(crate) fn signal_number(&mut self, number: i32) {
        if let Some(child) = &self.child {
            let sent = child.signal_number(number);
            self.check(sent);
        }
    }

    /// Makes the terminal fit for a question, if ddollar is in its foreground.
    pub(crate) fn prepare_prompt(&mut self) -> bool {
        let is_ours = self.is_foreground();
        if let (true, Some(terminal)) = (is_ours, &mut self.terminal) {
            terminal.prepare_prompt();
        }
        is_ours
    }

    /// The run is over: says so to the watchdog, and how many processes stay.
    pub(crate) fn close(&mut self) {
        let left = self.tree.left(None).len();
        if left > 0 {
            log::info!("{left} process(es) that the command detached stay");
        }
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.dismiss();
        }
    }

    /// Leaves this child of ddollar's alone: it is none of the command's.
    pub(crate) fn exclude(&mut self, child: Pid) {
        self.tree.exclude(child);
    }

    // ---- steps ----

    fn report(&mut self, event: JobEvent) {
        self.events.push_back(event);
        // This value holds the other end.
        let _ = self.wake.send(());
    }

    fn carry_out(&mut self, outcome: Transition, now: Instant) {
        // Before the step: a sweep may end at once.
        if outcome.event != JobEvent::Unchanged {
            self.report(outcome.event);
        }
        match outcome.step {
            Step::Nothing => {}
            Step::Signal(signal) => self.send(signal),
            Step::Terminate(signal) => self.terminate(signal),
            Step::Kill => self.kill(),
            Step::Hold => self.hold(),
            Step::Continue => self.go_on(),
            Step::HandOver => {
                if let Some(terminal) = &mut self.terminal {
                    terminal.is_asked_for();
                }
                self.go_on();
            }
            Step::Mirror {
                for_terminal,
                in_background,
            } => self.mirror(for_terminal, in_background),
            Step::Suspend => self.suspend(),
            Step::Sweep(signal) => self.sweep(signal, now),
        }
    }

    /// Sends a signal to the child's group.
    fn send(&mut self, signal: Signal) {
        if let Some(child) = &mut self.child {
            let sent = child.signal(signal);
            self.check(sent);
        }
    }

    /// Whether a signal that ddollar has got was sent to the command, too: the watchdog, which blocks all, has
    /// what was for every process of a unit or of a user.
    fn was_for_all(&self, signal: Signal) -> bool {
        let watchdog = self.watchdog.as_ref().map(Watchdog::pid);
        watchdog.is_some_and(|watchdog| os::is_pending(watchdog, signal))
    }

    /// Says once that the command cannot be signalled, as one with other privileges.
    fn check(&mut self, sent: nix::Result<()>) {
        if let Err(errno) = sent
            && !std::mem::replace(&mut self.cannot_signal, true)
        {
            let why = errno.desc().to_lowercase();
            self.report(JobEvent::Warning(format!(
                "The command cannot be signalled: {why}"
            )));
        }
    }

    /// Tells the child to end. In the background it could not put the terminal right.
    fn terminate(&mut self, signal: Signal) {
        self.remember();
        let Some(child) = &mut self.child else { return };
        if let Some(terminal) = &mut self.terminal {
            terminal.give_if_wanted(child.group());
        }
        let sent = child.terminate(signal, self.is_told, self.tree.strangers());
        self.check(sent);
    }

    /// Ends the child's group and everything adopted at once.
    fn kill(&mut self) {
        self.remember();
        if let Some(child) = &mut self.child {
            let sent = child.kill();
            self.check(sent);
        }
        let command = self.command();
        self.tree.signal(command, Signal::SIGKILL);
    }

    /// Makes all of the stopped group stop, and takes the terminal back.
    fn hold(&mut self) {
        self.send(Signal::SIGSTOP);
        if let (Some(child), Some(terminal)) = (&self.child, &mut self.terminal) {
            terminal.take_back(child.group());
        }
    }

    /// Lets the child go on, with the terminal if it is to have it. A program that had lost it
    /// draws itself anew on SIGWINCH.
    fn go_on(&mut self) {
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
        self.send(Signal::SIGCONT);
        if let (true, Some(child)) = (given, &self.child) {
            child.redraw();
        }
    }

    /// Stops ddollar's whole group as the child has stopped, so that the shell sees a stopped
    /// job. Returns when somebody continues it; SIGCONT is then an event of its own. A child that
    /// stopped in the background goes on instead if `fg` has come in the meantime: ddollar's stop
    /// would undo it.
    fn mirror(&mut self, by_terminal: bool, in_background: bool) {
        let mut had_it = false;
        if let (Some(child), Some(terminal)) = (&self.child, &mut self.terminal) {
            if by_terminal {
                terminal.is_asked_for();
            }
            had_it = terminal.take_back(child.group());
        }
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
    fn suspend(&self) {
        if terminal::is_orphaned() {
            return;
        }
        if let Some(terminal) = &self.terminal {
            terminal.restore();
        }
        stop_group();
    }

    /// Looks who is left of the tree once the child is gone, after sending the signal: SIGKILL to all,
    /// anything else to those beyond the group, which have not had one.
    fn sweep(&mut self, signal: Option<Signal>, now: Instant) {
        let command = self.command();
        let group = self.group;
        let in_group = |process: &Stray| group.is_some_and(|group| process.is_in(group));
        if let Some(signal) = signal {
            for process in self.tree.left(command) {
                if signal == Signal::SIGKILL || !in_group(&process) {
                    process.send(signal);
                } else {
                    process.wake();
                }
            }
        }
        let (group, beyond): (Vec<Stray>, Vec<Stray>) =
            self.tree.left(command).into_iter().partition(in_group);
        // The kernel's list of children may miss one that moves while it is read (proc(5)); a group
        // that can still be signalled has members all the same.
        let missed = self.group.is_some_and(os::group_lives);
        let group = group.len().max(usize::from(missed));
        let outcome = self.control.tree(group, beyond.len(), now);
        self.carry_out(outcome, now);
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

    fn start_watchdog(&mut self) {
        // One that is believed dead and is not would take the end of its pipe for ddollar's.
        if let Some(mut old) = self.watchdog.take() {
            old.dismiss();
        }
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
            Err(error) => self.report(JobEvent::Warning(format!(
                "No watchdog ({error}): kill -9 of ddollar would leave the command"
            ))),
        }
    }

    fn point_out_child(&mut self) {
        if let (Some(watchdog), Some(child)) = (&mut self.watchdog, &self.child) {
            watchdog.guard(child.group());
        }
    }
}

impl Drop for Job {
    /// Where the command was never started, there is nothing to clean up.
    fn drop(&mut self) {
        if let (None, Some(watchdog)) = (self.group, &mut self.watchdog) {
            watchdog.dismiss();
        }
    }
}

/// Stops ddollar's whole group: a pipeline is stopped for the shell only when all of its members are.
fn stop_group() {
    if let Err(errno) = killpg(getpgrp(), Signal::SIGSTOP) {
        log::warn!("cannot stop: {errno}");
    }
}
