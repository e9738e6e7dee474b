//! One limit of one organization.
//! Owns: how much of it is used, how it refills, when it is full, when the next unit is there.
//! Promises: levels are right at the moment of the last `settle`; time going backwards changes nothing.
//! Pure: `now` is the time since the provider started. Does not know requests or headers.

use std::time::Duration;

use crate::common::duration::LONGEST;

/// How a bucket fills up again. Both durations are above zero and at most [`LONGEST`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Refill {
    /// Refills all the time; an empty bucket is full after this long. Anthropic's way.
    Continuous(Duration),
    /// Stays as it is until the end of a window of this length, then is full at once.
    Window(Duration),
}

/// A level to set a bucket to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Level {
    /// The used part of the limit, 0 to 10; above 1 the bucket is in debt.
    Used(f64),
    /// Whole units that are left.
    Remaining(u64),
}

/// A bucket of `limit` units.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    limit: u64,
    refill: Refill,
    /// Units in use. Above `limit` is a debt: a request that found one unit left may cost many.
    used: f64,
    at: Duration,
    window_end: Duration,
    /// Units a second instead of the usual rate, until the bucket is full: see `set_reset`.
    hurry: Option<f64>,
}

impl Bucket {
    /// A full bucket of `limit` (1 or more) units whose first window starts at time zero.
    pub(crate) fn new(limit: u64, refill: Refill) -> Self {
        let window_end = match refill {
            Refill::Continuous(_) => Duration::ZERO,
            Refill::Window(length) => length,
        };
        Self {
            limit,
            refill,
            used: 0.0,
            at: Duration::ZERO,
            window_end,
            hurry: None,
        }
    }

    /// Brings the level to `now`. Everything else speaks of the moment of the last call.
    pub(crate) fn settle(&mut self, now: Duration) {
        if now <= self.at {
            return;
        }
        match self.refill {
            Refill::Continuous(_) => {
                let back = self.rate() * (now - self.at).as_secs_f64();
                self.used = (self.used - back).max(0.0);
                if self.used == 0.0 {
                    self.hurry = None;
                }
            }
            Refill::Window(length) => {
                if now >= self.window_end {
                    self.used = 0.0;
                    let length = length.as_nanos().max(1);
                    let past = (now - self.window_end).as_nanos() % length;
                    // The rest of a window is at most LONGEST, so it fits.
                    let rest = u64::try_from(length - past).unwrap_or(u64::MAX);
                    self.window_end = now + Duration::from_nanos(rest);
                }
            }
        }
        self.at = now;
    }

    /// Whether less than one unit is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// Takes `cost` units, into debt if need be.
    pub(crate) fn draw(&mut self, cost: u64) {
        self.used += cost as f64;
    }

    /// The size of the bucket in units.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Whole units left, 0 to the limit.
    pub(crate) fn remaining(&self) -> u64 {
        // The small sum hides the rounding of many small refills; the cast saturates.
        (self.limit as f64 - self.used + 1e-6).max(0.0) as u64
    }

    /// The used part of the limit, 0 and up; above 1 in debt.
    pub(crate) fn used_fraction(&self) -> f64 {
        self.used / self.limit as f64
    }

    /// Time until the bucket is full again; for a window, until its end.
    pub(crate) fn reset_in(&self) -> Duration {
        match self.refill {
            Refill::Continuous(_) => self.time_for(self.used),
            Refill::Window(_) => self.window_end.saturating_sub(self.at),
        }
    }

    /// Time until one unit is left. Zero when there is one now.
    pub(crate) fn retry_in(&self) -> Duration {
        if !self.is_empty() {
            return Duration::ZERO;
        }
        match self.refill {
            Refill::Continuous(_) => self.time_for(self.used - self.limit as f64 + 1.0),
            Refill::Window(_) => self.window_end.saturating_sub(self.at),
        }
    }

    /// Sets the level.
    pub(crate) fn set_level(&mut self, level: Level) {
        let limit = self.limit as f64;
        self.used = match level {
            Level::Used(fraction) => (limit * fraction.clamp(0.0, 10.0)).round(),
            Level::Remaining(left) => (limit - left as f64).max(0.0),
        };
    }

    /// Moves the reset to `after` from the last `settle`. A window ends then. A continuous bucket
    /// refills at the rate that makes it full then, and at its usual rate after that.
    pub(crate) fn set_reset(&mut self, after: Duration) {
        match self.refill {
            Refill::Window(_) => self.window_end = self.at + after,
            Refill::Continuous(_) if after.is_zero() => self.used = 0.0,
            Refill::Continuous(_) => self.hurry = Some(self.used / after.as_secs_f64()),
        }
    }

    fn rate(&self) -> f64 {
        match (self.hurry, self.refill) {
            (Some(rate), _) => rate,
            (None, Refill::Continuous(period)) => self.limit as f64 / period.as_secs_f64(),
            (None, Refill::Window(_)) => 0.0,
        }
    }

    fn time_for(&self, units: f64) -> Duration {
        if units <= 0.0 {
            return Duration::ZERO;
        }
        // An idle rate gives infinity, which is no duration: as good as never.
        Duration::try_from_secs_f64(units / self.rate()).unwrap_or(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn continuous_refill_flows() {
        let mut bucket = Bucket::new(60, Refill::Continuous(S(60)));
        assert_eq!((bucket.remaining(), bucket.reset_in()), (60, S(0)));
        for _ in 0..60 {
            assert!(!bucket.is_empty());
            bucket.draw(1);
        }
        assert!(bucket.is_empty());
        assert_eq!((bucket.reset_in(), bucket.retry_in()), (S(60), S(1)));
        bucket.settle(Duration::from_millis(500));
        assert!(bucket.is_empty());
        bucket.settle(S(1));
        assert_eq!((bucket.remaining(), bucket.retry_in()), (1, S(0)));
        bucket.settle(S(1000));
        assert_eq!((bucket.remaining(), bucket.reset_in()), (60, S(0)));
    }

    #[test]
    fn many_small_refills_add_up() {
        let mut bucket = Bucket::new(1000, Refill::Continuous(S(10)));
        bucket.draw(1000);
        for ms in 1..=10_000 {
            bucket.settle(Duration::from_millis(ms));
        }
        assert_eq!(bucket.remaining(), 1000);
    }

    #[test]
    fn debt_takes_longer() {
        let mut bucket = Bucket::new(60, Refill::Continuous(S(60)));
        bucket.draw(160);
        assert_eq!((bucket.remaining(), bucket.retry_in()), (0, S(101)));
    }

    #[test]
    fn window_is_full_at_its_end() {
        let mut bucket = Bucket::new(10, Refill::Window(S(60)));
        bucket.settle(S(20));
        bucket.draw(10);
        assert_eq!((bucket.reset_in(), bucket.retry_in()), (S(40), S(40)));
        bucket.settle(S(59));
        assert!(bucket.is_empty());
        bucket.settle(S(60));
        assert_eq!((bucket.remaining(), bucket.reset_in()), (10, S(60)));
        bucket.settle(S(60 * 5 + 7));
        assert_eq!(bucket.reset_in(), S(53));
    }

    #[test]
    fn reset_can_be_moved() {
        let mut window = Bucket::new(100, Refill::Window(S(3600)));
        window.settle(S(5));
        window.set_level(Level::Used(0.96));
        window.set_reset(S(8));
        assert_eq!((window.remaining(), window.reset_in()), (4, S(8)));
        window.settle(S(13));
        assert_eq!((window.remaining(), window.reset_in()), (100, S(3600)));

        let mut flow = Bucket::new(100, Refill::Continuous(S(3600)));
        flow.set_level(Level::Remaining(20));
        flow.set_reset(S(8));
        assert_eq!(flow.reset_in(), S(8));
        flow.settle(S(4));
        assert_eq!(flow.remaining(), 60);
        flow.settle(S(8));
        flow.draw(50);
        assert_eq!(flow.reset_in(), S(1800));
    }

    #[test]
    fn time_going_backwards_changes_nothing() {
        let mut bucket = Bucket::new(10, Refill::Continuous(S(10)));
        bucket.settle(S(100));
        bucket.draw(5);
        bucket.settle(S(1));
        assert_eq!(bucket.remaining(), 5);
    }
}
