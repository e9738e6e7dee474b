//! What the suites share. `env` is the one place where an environment is made, `provider` the
//! built-in provider as a process, `canned` one for what it does not speak, `upstream` one that says
//! what a test writes, byte for byte, `faulty` a front of the built-in one that breaks the protocol,
//! `run` a supervised command, `gateway` a proxy and a client of
//! it, `pty` a command in a terminal, `family` all processes of a test, `tls` a TLS front for the
//! provider.

pub(crate) mod canned;
pub(crate) mod env;
pub(crate) mod family;
pub(crate) mod faulty;
pub(crate) mod gateway;
pub(crate) mod proc;
pub(crate) mod provider;
pub(crate) mod pty;
pub(crate) mod run;
pub(crate) mod tls;
pub(crate) mod upstream;

pub(crate) use env::Desk;
pub(crate) use faulty::{Fault, Faulty};
pub(crate) use provider::{Provider, organizations, spent_at};
pub(crate) use run::{AGENT, Run, Supervise};

use std::thread;
use std::time::{Duration, Instant};

/// No event takes longer than this, or the test fails. Only a test that fails waits so long, so there
/// is room for a machine that is busy and slow.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The time that an end may take beyond its grace: signals, looks at /proc, last exits.
const MARGIN: Duration = Duration::from_secs(5);
/// From one look of a [`Limit`] to the next.
const LOOK: Duration = Duration::from_millis(20);

/// How long an end may take: the grace and [`MARGIN`], and not fewer looks than fit into them. A
/// machine that is slow for what ends is slow for the looks, too, so the limit grows with the load.
pub(crate) struct Limit {
    until: Instant,
    looks: u128,
}

impl Limit {
    pub(crate) fn after(grace: Duration) -> Limit {
        let span = grace + MARGIN;
        Limit {
            until: Instant::now() + span,
            looks: span.as_millis() / LOOK.as_millis(),
        }
    }

    /// Counts a look, and says whether it was the last.
    pub(crate) fn is_over(&mut self) -> bool {
        self.looks = self.looks.saturating_sub(1);
        self.looks == 0 && Instant::now() >= self.until
    }

    /// How long to wait before the next look.
    pub(crate) fn pause(&self) -> Duration {
        LOOK
    }
}

/// Looks until there is something to see. For what /proc shows, of which nothing can tell us.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < until, "did not happen: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
