//! Whether the command has stalled: for `--stall`.
//!
//! It goes by two signs of work: requests that begin or move bytes, and processor time. It promises that
//! time in which the command cannot work (it is paused or stopped, its requests are held) does not count,
//! and that a stall is reported once. It reads no clock and no process. Pure.

use std::time::{Duration, Instant};

/// From one look to the next at most, and at least.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const SHORTEST_PAUSE: Duration = Duration::from_secs(5);
/// A command that does nothing still takes some processor time: an event loop wakes up, a prompt blinks. More
/// than so much of one processor is work.
const WORK: f64 = 0.01;

/// What shows that the command is at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pulse {
    /// How often a request has begun or moved bytes so far; `None` where requests are not seen.
    pub(super) requests: Option<u64>,
    /// The processor time that its processes have taken so far; `None` where that cannot be read. Of one
    /// that has ended it may be missing.
    pub(super) processor: Option<Duration>,
    /// Whether it cannot work: somebody has stopped it, or its requests are held until a reset.
    pub(super) held: bool,
}

/// The last look.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    pulse: Pulse,
}

/// Watches one command.
#[derive(Clone, Copy, Debug)]
pub(super) struct StallWatch {
    limit: Duration,
    last: Option<Look>,
    /// When it was last seen at work.
    active: Instant,
    told: bool,
}

impl StallWatch {
    /// A watch for a command that does no work for `limit`.
    pub(super) fn new(limit: Duration, now: Instant) -> StallWatch {
        StallWatch {
            limit,
            last: None,
            active: now,
            told: false,
        }
    }

    /// From one look to the next.
    fn pause(&self) -> Duration {
        (self.limit / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
    }

    /// When the next look is due.
    pub(super) fn due(&self, now: Instant) -> Duration {
        let last = self.last.map_or(self.active, |last| last.at);
        (last + self.pause()).saturating_duration_since(now)
    }

    /// The command does not run, or is not to: until the next look, no time counts.
    pub(super) fn rest(&mut self, now: Instant) {
        self.active = now;
        self.last = None;
        self.told = false;
    }

    /// Takes a look. How long the command has done nothing, if it has stalled and that was not told yet.
    #[must_use = "a stall is told once"]
    pub(super) fn look(&mut self, pulse: Pulse, now: Instant) -> Option<Duration> {
        let last = self.last.replace(Look { at: now, pulse });
        let is_blind = pulse.requests.is_none() && pulse.processor.is_none();
        // ddollar itself was suspended meanwhile, or kept from looking.
        let was_away = |last: &Look| {
            now.saturating_duration_since(last.at) > 2 * self.pause() + SHORTEST_PAUSE
        };
        let works = match last {
            _ if is_blind || pulse.held => true,
            Some(last) => was_away(&last) || has_worked(&last, pulse, now),
            None => false,
        };
        if works {
            self.active = now;
            self.told = false;
        }
        let idle = now.saturating_duration_since(self.active);
        let news = idle >= self.limit && !std::mem::replace(&mut self.told, idle >= self.limit);
        news.then_some(idle)
    }
}

/// Whether there was work between two looks. Processor time falls when a process ends whose parent does not
/// ask for its status: that, too, is a sign of life.
fn has_worked(last: &Look, pulse: Pulse, now: Instant) -> bool {
    let between = now.saturating_duration_since(last.at).as_secs_f64();
    let taken = last.pulse.processor.zip(pulse.processor);
    let taken = taken.map_or(Duration::ZERO, |(before, after)| after.abs_diff(before));
    last.pulse.requests != pulse.requests || taken.as_secs_f64() > WORK * between
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(600);

    /// Looks each minute at these pulses; the minutes at which a stall was told.
    fn told(pulses: impl IntoIterator<Item = Pulse>) -> Vec<u64> {
        let begin = Instant::now();
        let mut watch = StallWatch::new(LIMIT, begin);
        let mut told = Vec::new();
        for (minute, pulse) in (1..).zip(pulses) {
            let now = begin + Duration::from_secs(60 * minute);
            assert_eq!(watch.due(now), Duration::ZERO);
            if let Some(idle) = watch.look(pulse, now) {
                assert!(idle >= LIMIT);
                told.push(minute);
            }
        }
        told
    }

    fn of(requests: u64, milliseconds: u64) -> Pulse {
        Pulse {
            requests: Some(requests),
            processor: Some(Duration::from_millis(milliseconds)),
            held: false,
        }
    }

    #[test]
    fn a_command_that_does_nothing_is_told_of_once() {
        assert_eq!(told([of(7, 100); 40]), [10]);
        // A second stall, after some work.
        let twice = [[of(7, 100); 20], [of(8, 100); 20]].concat();
        assert_eq!(told(twice), [10, 31]);
    }

    #[test]
    fn each_sign_of_work_counts_alone() {
        assert_eq!(told((0..40).map(|n| of(n, 0))), [0; 0]);
        assert_eq!(told((0..40).map(|n| of(0, n * 700))), [0; 0]);
        // A loop that wakes up now and then does no work.
        assert_eq!(told((0..40).map(|n| of(0, n * 500))), [10]);
        // Processes that end and are not asked for their status.
        assert_eq!(told((0..40).map(|n| of(0, 90_000 - n * 700))), [0; 0]);
    }

    #[test]
    fn what_cannot_be_seen_decides_nothing() {
        let without_proxy = |n: u64| Pulse {
            requests: None,
            ..of(0, n)
        };
        assert_eq!(told((0..40).map(|_| without_proxy(0))), [10]);
        assert_eq!(told((0..40).map(|n| without_proxy(n * 700))), [0; 0]);
        let foreign = |n| Pulse {
            processor: None,
            ..of(n, 0)
        };
        assert_eq!(told((0..40).map(|_| foreign(0))), [10]);
        assert_eq!(told((0..40).map(foreign)), [0; 0]);
        assert_eq!(told([Pulse::default(); 40]), [0; 0]);
    }

    #[test]
    fn time_in_which_it_cannot_work_does_not_count() {
        let held = Pulse {
            held: true,
            ..of(1, 0)
        };
        let pulses = [[of(1, 0); 9], [held; 9], [of(1, 0); 9], [of(1, 0); 9]].concat();
        assert_eq!(told(pulses), [28]);
        // Ctrl-Z stops ddollar as well.
        let begin = Instant::now();
        let mut watch = StallWatch::new(LIMIT, begin);
        assert_eq!(watch.look(of(1, 0), begin + LIMIT / 10), None);
        assert_eq!(watch.look(of(1, 0), begin + 20 * LIMIT), None);
        watch.rest(begin + 21 * LIMIT);
        assert_eq!(watch.look(of(1, 0), begin + 21 * LIMIT), None);
    }
}
