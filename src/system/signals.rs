//! Signals to ddollar: a thread that turns them into events, and the death by a signal.
//!
//! It promises not to take over a signal that was ignored when ddollar was started (`nohup`, `&`
//! in a script), so that the child keeps ignoring it. Keeps what else the child is to have as ddollar
//! had it. It does not decide what a signal means.

use crate::common::error::Error;
use crate::system::os::{self, RealTimeQueue};
use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The signals that are handled, beside those for one program ([`FOR_ONE`]). Not among them are those
/// that tell of a fault in the program that gets them, such as SIGSEGV, and SIGPIPE, which Rust
/// ignores: a fault ends ddollar, and with it the command.
const HANDLED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGCHLD,
];

/// The signals that are passed on to the command alone and not to its group. Who does not expect one
/// dies of it, and its children do not expect what was meant for it. All that end a program and
/// tell of no fault are here or above (signal(7)).
const FOR_ONE: &[Signal] = &[
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGXCPU,
    Signal::SIGXFSZ,
    Signal::SIGIO,
    #[cfg(target_os = "linux")]
    Signal::SIGPWR,
    #[cfg(target_os = "linux")]
    Signal::SIGSTKFLT,
];

/// The signals without which there is no supervision, so that they are handled even if they were ignored.
const ALWAYS: [i32; 2] = [Signal::SIGCHLD as i32, Signal::SIGCONT as i32];

/// The signals that those send who end many processes one after another, as systemd and pkill(1) do, and how long
/// to wait with one: by then they have told the command, too, if it is among these
/// ([`crate::system::job::Job::stop`]).
const ENDS: [i32; 2] = [Signal::SIGTERM as i32, Signal::SIGHUP as i32];
const HEARSAY: Duration = Duration::from_millis(30);

/// Whether a signal is for the command alone.
pub(crate) fn is_for_one(signal: Signal) -> bool {
    FOR_ONE.contains(&signal)
}

/// The signals that ddollar handles and passes on.
fn heard() -> impl Iterator<Item = Signal> {
    HANDLED.iter().chain(FOR_ONE).copied()
}

/// What ddollar was started with and changes for itself, which the child gets unchanged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inherited {
    /// The signals that were blocked: bit n-1 for signal n.
    pub(crate) blocked: u64,
    pub(crate) limits: Limits,
}

/// The soft limits (getrlimit(2)) that ddollar changes for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How many files can be open. The proxy raises it; a program with `select` breaks above 1024
    /// (select(2)).
    files: rlim_t,
    /// How many bytes a core file can have.
    core: rlim_t,
}

/// The limit on core files that means none, neither as a file nor for a program that collects them:
/// Linux gives that program a core in spite of 0, and gives up at 1 (core(5)).
const NO_CORE: rlim_t = 1;

/// Where fewer files than this can be open, the command's start needs each of them more than rare signals do.
const SCARCE: rlim_t = 32;

/// Takes the signals over, as the first thing in main, so that every thread inherits it: the
/// terminal's stop signals are blocked, those that are heard are not. Blocked, not handled: a
/// blocked SIGTTOU lets `tcsetpgrp` and writes proceed, a handled one would be sent again and again.
/// Real-time signals are blocked, too, and read by the one who listens, and so is SIGXFSZ: where a file
/// meets a limit on sizes (setrlimit(2)), the write is to fail, and the thread that wrote is not to get the
/// signal. A core file of this process would have tokens in it, so there is none.
pub(crate) fn take_over() -> Inherited {
    let blocked = SigSet::thread_get_mask().map_or(0, |mask| bits(&mask));
    let held_back = SigSet::from_iter([Signal::SIGTTIN, Signal::SIGTTOU, Signal::SIGXFSZ]);
    if let Err(errno) = SigSet::from_iter(heard())
        .thread_unblock()
        .and_then(|()| os::real_time_signals().thread_block())
        .and_then(|()| held_back.thread_block())
    {
        log::warn!("cannot set the signal mask: {errno}");
    }
    let limits = Limits {
        files: soft(Resource::RLIMIT_NOFILE),
        core: soft(Resource::RLIMIT_CORE),
    };
    if limits.core > NO_CORE {
        set_soft(Resource::RLIMIT_CORE, NO_CORE);
    }
    Inherited { blocked, limits }
}

impl Limits {
    /// Sets them for this process, and for what it starts.
    pub(crate) fn restore(self) {
        let raised = |(soft, _): (rlim_t, rlim_t)| soft > self.files;
        if getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(raised) {
            set_soft(Resource::RLIMIT_NOFILE, self.files);
        }
        set_soft(Resource::RLIMIT_CORE, self.core);
    }

    /// What [`Limits::text`] wrote; `None` when it is not that.
    pub(crate) fn parse(text: &str) -> Option<Limits> {
        let (files, core) = text.split_once(':')?;
        Some(Limits {
            files: files.parse().ok()?,
            core: core.parse().ok()?,
        })
    }

    /// For the command line of a hidden helper.
    pub(crate) fn text(self) -> String {
        format!("{}:{}", self.files, self.core)
    }
}

/// A soft limit, as it is now.
fn soft(resource: Resource) -> rlim_t {
    getrlimit(resource).map_or(RLIM_INFINITY, |(soft, _)| soft)
}

/// Sets a soft limit, as far as the hard one lets it.
fn set_soft(resource: Resource, soft: rlim_t) {
    if let Ok((_, hard)) = getrlimit(resource) {
        let _ = setrlimit(resource, soft.min(hard), hard);
    }
}

/// Does something that no signal may come between: what it starts inherits the blocked mask.
pub(crate) fn undisturbed<T>(action: impl FnOnce() -> T) -> T {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let result = action();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    result
}

/// Sets this thread's mask: bit n-1 for signal n.
pub(crate) fn set_mask(blocked: u64) {
    let mask: SigSet = Signal::iterator()
        .filter(|signal| blocked & bit(*signal as i32) != 0)
        .collect();
    let _ = mask.thread_set_mask();
}

/// Gives a signal its usual effect in the program that this process becomes, also if it is ignored here:
/// execve(2) does so with one that is handled.
pub(crate) fn make_default(signal: Signal) {
    let _ = signal_hook::flag::register(signal as i32, Arc::default());
}

fn bits(mask: &SigSet) -> u64 {
    mask.iter()
        .fold(0, |bits, signal| bits | bit(signal as i32))
}

fn bit(number: i32) -> u64 {
    1 << (number - 1).clamp(0, 63)
}

/// Starts the thread. A signal that was ignored when ddollar was started stays so, but for the
/// two without which there is no supervision. SIGCHLD goes to `children`, the number of every other, also
/// of the real-time ones, to the receiver.
///
/// # Errors
/// When the system refuses handlers or the thread.
pub(crate) fn listen(children: Sender<()>) -> Result<Receiver<i32>, Error> {
    let refused = |why: std::io::Error| Error::System {
        what: "cannot listen to signals",
        why: why.to_string(),
    };
    let ignored = os::ignored_signals();
    let is_wanted = move |number: &i32| ignored & bit(*number) == 0 || ALWAYS.contains(number);
    let numbers = heard().map(|signal| signal as i32).filter(is_wanted);
    let (read, write) = UnixStream::pair().map_err(refused)?;
    let mut handled =
        SignalDelivery::with_pipe(read, write, SignalOnly, numbers).map_err(refused)?;
    let log = |why: &std::io::Error| log::warn!("real-time signals are not passed on: {why}");
    let real_time = match soft(Resource::RLIMIT_NOFILE) {
        ..SCARCE => Err(Errno::EMFILE.into()),
        _ => RealTimeQueue::open(),
    };
    let real_time = real_time.inspect_err(log).ok();
    let (sender, receiver) = unbounded();
    std::thread::Builder::new()
        .name("signals".into())
        .stack_size(64 * 1024)
        .spawn(move || {
            // What is sent to the process comes here.
            let _ = SigSet::from(Signal::SIGXFSZ).thread_unblock();
            loop {
                let queue = real_time.as_ref().and_then(RealTimeQueue::descriptor);
                wait([Some(handled.get_read().as_fd()), queue]);
                let mut numbers = in_order(handled.pending());
                let real_time = real_time.iter().flat_map(RealTimeQueue::pending);
                numbers.extend(real_time.filter(is_wanted));
                if numbers.iter().any(|number| ENDS.contains(number)) {
                    std::thread::sleep(HEARSAY);
                }
                for number in numbers {
                    if number == Signal::SIGCHLD as i32 {
                        // Somebody without children does not listen.
                        let _ = children.send(());
                    } else if sender.send(number).is_err() {
                        return;
                    }
                }
            }
        })
        .map_err(refused)?;
    Ok(receiver)
}

/// Waits until one of them can be read.
fn wait(sources: [Option<BorrowedFd<'_>>; 2]) {
    let sources = sources.into_iter().flatten();
    let mut sources: Vec<PollFd> = sources
        .map(|source| PollFd::new(source, PollFlags::POLLIN))
        .collect();
    let _ = poll(&mut sources, PollTimeout::NONE);
}

/// Signals that have come at the same time, by number but for SIGHUP, which is last: systemd sends SIGTERM
/// and SIGHUP at once (systemd.kill(5), `SendSIGHUP=`), and the first of them is what the command gets.
/// More programs save their work on SIGTERM.
fn in_order(numbers: impl Iterator<Item = i32>) -> Vec<i32> {
    let (last, mut all): (Vec<i32>, Vec<i32>) =
        numbers.partition(|number| *number == Signal::SIGHUP as i32);
    all.extend(last);
    all
}

/// Ends ddollar as the child ended: by the same signal, without a second core file; where that is
/// not possible (PID 1, a real-time signal) with 128 + its number.
pub(crate) fn die_by(number: i32) -> ExitCode {
    let own = Signal::try_from(number).is_ok() && std::process::id() != 1;
    if own {
        os::leave_no_core();
        let _ = signal_hook::low_level::emulate_default_handler(number);
    }
    ExitCode::from(u8::try_from(128 + number).unwrap_or(u8::MAX))
}
