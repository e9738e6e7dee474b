//! Moments on both clocks.

use std::time::{Duration, Instant, SystemTime};

/// No prediction ends sooner than this, so that "retry-after: 0" cannot make a busy loop.
pub(crate) const SHORTEST_REST: Duration = Duration::from_secs(1);

/// When the wall clock was set back, a prediction ends at the latest this long after its span on
/// the monotonic clock.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// One moment on both clocks: resets are wall-clock, graces and freshness are monotonic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) wall: SystemTime,
    pub(crate) tick: Instant,
}

#[cfg(test)]
impl Now {
    /// A moment for tests, in 2027.
    pub(crate) fn of_tests() -> Now {
        Now {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            tick: Instant::now(),
        }
    }

    /// The moment when both clocks have gone on by this.
    pub(crate) fn after(self, span: Duration) -> Now {
        Now {
            wall: self.wall + span,
            tick: self.tick + span,
        }
    }
}

/// A moment in the future that neither suspend nor a changed wall clock can push away.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Until {
    /// When it is on the wall clock.
    pub(crate) wall: SystemTime,
    /// When it is over at the latest, on the monotonic clock.
    pub(crate) bound: Instant,
}

impl Until {
    /// The moment `wall`, but at least [`SHORTEST_REST`] ahead.
    pub(crate) fn at(wall: SystemTime, now: Now) -> Until {
        let ahead = wall
            .duration_since(now.wall)
            .unwrap_or_default()
            .max(SHORTEST_REST);
        Until::after(ahead, now)
    }

    /// The moment `ahead` from now.
    pub(crate) fn after(ahead: Duration, now: Now) -> Until {
        // Spans that no clock can hold end the addition, not the program: a century is for ever.
        let century = Duration::from_secs(100 * 365 * 86_400);
        let ahead = ahead.min(century);
        Until {
            wall: now.wall.checked_add(ahead).unwrap_or(now.wall),
            bound: now
                .tick
                .checked_add(ahead + CLOCK_SLACK)
                .unwrap_or(now.tick),
        }
    }

    /// So much later.
    pub(crate) fn later(self, by: Duration) -> Until {
        Until {
            wall: self.wall.checked_add(by).unwrap_or(self.wall),
            bound: self.bound.checked_add(by).unwrap_or(self.bound),
        }
    }

    /// Whether it has come.
    pub(crate) fn is_over(&self, now: Now) -> bool {
        now.wall >= self.wall || now.tick >= self.bound
    }

    /// How long it is until then; zero when it has come.
    pub(crate) fn remaining(&self, now: Now) -> Duration {
        let wall = self.wall.duration_since(now.wall).unwrap_or_default();
        wall.min(self.bound.saturating_duration_since(now.tick))
    }
}
