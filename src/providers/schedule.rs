//! The pace of the checks: how soon the token in use is asked again.
//!
//! Owns the trend of its windows. It promises no pause longer than the user's interval (except where the
//! requests of a day are limited), none shorter than [`FASTEST`] unless that interval is, and that checks
//! which come sooner than the interval spend no more than a hundredth of any limit. It asks nobody and
//! reads no clock; `monitor.rs` does.

use crate::common::time::Now;
use crate::providers::usage::{Usage, Window, is_near_limit};
use std::time::{Duration, Instant};

/// First pause after a question without an answer; doubles up to [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_secs(5);
/// Longest pause after questions without an answer.
pub(crate) const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

/// Checks do not follow each other faster, however steep the trend is.
const FASTEST: Duration = Duration::from_secs(5);
/// One in so many units of a limit may be spent on hurrying: 1%, as the help of --interval promises.
const SHARE: u64 = 100;
/// What a check takes out of a window of LLM tokens, at most: a prompt of one word and up to 16 back.
const LLM_TOKENS: u64 = 32;
/// A limit that does not say when it is full again is one per minute, the most common kind.
const SHORTEST_PERIOD: Duration = Duration::from_secs(60);

/// The pace at which one provider is asked.
#[derive(Debug)]
pub(crate) struct ProbeSchedule {
    /// What the user wants.
    wanted: Duration,
    /// The same, or longer where checks would take too much of a day's requests.
    interval: Duration,
    /// Utilization above which a token is left.
    threshold: f64,
    /// The last look at each token.
    looks: Vec<Look>,
    /// How often the trend has made a check come sooner, in a period that ends then.
    hurried: u64,
    period_ends: Option<Instant>,
}

/// What a check has shown.
#[derive(Debug)]
struct Look {
    index: usize,
    at: Instant,
    windows: Vec<Window>,
}

impl ProbeSchedule {
    /// A check each `interval`, or sooner when the threshold is near.
    pub(crate) fn new(interval: Duration, threshold: f64) -> ProbeSchedule {
        ProbeSchedule {
            wanted: interval,
            interval,
            threshold,
            looks: Vec::new(),
            hurried: 0,
            period_ends: None,
        }
    }

    /// The pause without a trend.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// Takes in what a check of the token at `index` has shown: how long it is, if all goes on like
    /// this, until the threshold is crossed, or the limit if that has happened. `None` when nothing
    /// points that way.
    pub(crate) fn look(&mut self, index: usize, usage: &Usage, now: Now) -> Option<Duration> {
        self.interval = self.wanted.max(usage.least_pause());
        let known = self.looks.iter().position(|look| look.index == index);
        let before = known.map(|place| self.looks.swap_remove(place));
        let crossing = before.and_then(|before| {
            let windows = usage.windows.iter();
            windows
                .filter_map(|window| self.crossing(window, &before, now))
                .min()
        });
        self.looks.push(Look {
            index,
            at: now.tick,
            windows: usage.windows.clone(),
        });
        crossing
    }

    fn crossing(&self, window: &Window, before: &Look, now: Now) -> Option<Duration> {
        let earlier = before.windows.iter().find(|old| old.name == window.name)?;
        let took = now.tick.saturating_duration_since(before.at).as_secs_f64();
        let used = window.utilization;
        let rate = (used - earlier.utilization) / took;
        let bound = if !is_near_limit(used, self.threshold) {
            self.threshold
        } else {
            1.0
        };
        if !(rate.is_finite() && rate > 0.0 && used < bound) {
            return None;
        }
        Duration::try_from_secs_f64((bound - used) / rate).ok()
    }

    /// How long to wait for the next check of the token in use, which has just shown `usage`. A
    /// trend rarely stays as it is, so the next look comes half way to the crossing.
    pub(crate) fn pause(
        &mut self,
        crossing: Option<Duration>,
        usage: &Usage,
        now: Now,
    ) -> Duration {
        let Some(left) = crossing.filter(|left| *left < self.interval) else {
            return self.interval;
        };
        let pause = (left / 2).max(FASTEST).min(self.interval);
        if pause == self.interval || !self.may_hurry(usage, now) {
            return self.interval;
        }
        self.hurried += 1;
        pause
    }

    /// Whether one more check is within the share of each limit. Limits are full again at different
    /// times; the last of them begins a new period.
    fn may_hurry(&mut self, usage: &Usage, now: Now) -> bool {
        let counted = || usage.windows.iter().filter(|window| window.limit.is_some());
        if self.period_ends.is_none_or(|end| now.tick >= end) {
            let resets = counted().filter_map(|window| window.resets_at);
            let longest = resets
                .filter_map(|at| at.duration_since(now.wall).ok())
                .fold(SHORTEST_PERIOD, Duration::max);
            self.period_ends = now.tick.checked_add(longest);
            self.hurried = 0;
        }
        counted().all(|window| {
            let each = match window.name.contains("token") {
                true => LLM_TOKENS,
                false => 1,
            };
            let limit = window.limit.unwrap_or(0);
            (self.hurried + 1).saturating_mul(each * SHARE) <= limit
        })
    }
}

/// The pause after so many questions without an answer.
pub(crate) fn backoff(times: u32) -> Duration {
    FIRST_BACKOFF
        .saturating_mul(1 << times.min(10))
        .min(LONGEST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn window(name: &str, used: f64, limit: Option<u64>) -> Window {
        Window {
            name: name.into(),
            limit,
            remaining: None,
            utilization: used,
            resets_at: None,
        }
    }

    fn usage(used: f64) -> Usage {
        Usage {
            windows: vec![window("requests", used, Some(10_000))],
        }
    }

    #[test]
    fn a_day_with_few_requests_is_checked_less_often() {
        let mut schedule = ProbeSchedule::new(MINUTE, 0.95);
        let day = Usage {
            windows: vec![window("requests-day", 0.1, Some(14_400))],
        };
        let crossing = schedule.look(0, &day, Now::of_tests());
        assert_eq!(schedule.pause(crossing, &day, Now::of_tests()), 10 * MINUTE);
        assert_eq!(schedule.interval(), 10 * MINUTE);
        // As soon as nothing says so any more, it is the user's interval again.
        assert_eq!(schedule.look(0, &usage(0.1), Now::of_tests()), None);
        assert_eq!(schedule.interval(), MINUTE);
    }

    /// The pause after these looks, one after the other so many seconds apart.
    fn pause_after(interval: Duration, apart: u64, shares: &[f64]) -> Duration {
        let mut schedule = ProbeSchedule::new(interval, 0.95);
        let mut now = Now::of_tests();
        let mut pause = interval;
        for used in shares {
            let crossing = schedule.look(0, &usage(*used), now);
            pause = schedule.pause(crossing, &usage(*used), now);
            now = now.after(seconds(apart));
        }
        pause
    }

    #[test]
    fn a_check_comes_sooner_when_the_threshold_would_be_crossed_before_it() {
        for (apart, shares, wanted) in [
            // One look is no trend.
            (60, &[0.94][..], 60),
            // A point a minute: 45 minutes are left.
            (60, &[0.49, 0.5], 60),
            // 0.5 points a second: 90 s are left, and 30 s, and 4 s.
            (60, &[0.2, 0.5], 60),
            (60, &[0.5, 0.8], 15),
            (60, &[0.63, 0.93], 5),
            // Just before the interval ends.
            (60, &[0.35, 0.651], 30),
            // Falling, standing still, spent.
            (60, &[0.9, 0.5], 60),
            (60, &[0.9, 0.9], 60),
            (60, &[0.9, 1.0], 60),
            (60, &[0.9, 1.2], 60),
            // Above the threshold the limit itself is what is near.
            (60, &[0.7, 0.98], 5),
            (60, &[0.955, 0.96], 60),
            // Only the last two count.
            (60, &[0.1, 0.9, 0.9], 60),
        ] {
            let found = pause_after(MINUTE, apart, shares);
            let off = found.abs_diff(seconds(wanted));
            assert!(off < Duration::from_millis(500), "{shares:?}: {found:?}");
        }
    }

    #[test]
    fn an_interval_below_5_s_stays_as_it_is() {
        for interval in [Duration::from_millis(200), seconds(4), seconds(5)] {
            assert_eq!(pause_after(interval, 1, &[0.5, 0.94]), interval);
        }
        assert_eq!(pause_after(seconds(6), 1, &[0.5, 0.94]), seconds(5));
    }

    #[test]
    fn the_window_that_crosses_first_counts_and_each_token_has_its_own_trend() {
        let both = |requests, tokens| Usage {
            windows: vec![
                window("requests", requests, None),
                window("tokens", tokens, None),
            ],
        };
        let mut schedule = ProbeSchedule::new(MINUTE, 0.95);
        let now = Now::of_tests();
        assert_eq!(schedule.look(0, &both(0.9, 0.1), now), None);
        assert_eq!(schedule.look(1, &both(0.0, 0.0), now), None);
        let now = now.after(seconds(10));
        // The fullest one stands still.
        let crossing = schedule.look(0, &both(0.9, 0.6), now).unwrap();
        assert!(crossing.abs_diff(seconds(7)) < Duration::from_millis(1));
        let crossing = schedule.look(1, &both(0.0, 0.05), now).unwrap();
        assert!(crossing.abs_diff(seconds(180)) < Duration::from_millis(1));
    }

    #[test]
    fn hurrying_spends_a_hundredth_of_the_limit_and_no_more() {
        for (name, limit, most) in [
            ("requests", 50, 0),
            ("requests", 100, 1),
            ("requests", 500, 5),
            ("tokens", 32_000, 10),
            ("input-tokens", 3_000, 0),
        ] {
            let steep = |used| Usage {
                windows: vec![window(name, used, Some(limit))],
            };
            let mut schedule = ProbeSchedule::new(MINUTE, 0.95);
            let mut now = Now::of_tests();
            let begun = now;
            let mut sooner = 0;
            let _ = schedule.look(0, &steep(0.0), now);
            for step in 1..12 {
                now = now.after(seconds(4));
                let now_used = steep(0.075 * f64::from(step));
                let crossing = schedule.look(0, &now_used, now);
                sooner += u64::from(schedule.pause(crossing, &now_used, now) < MINUTE);
            }
            assert_eq!(sooner, most.min(11), "{name} {limit}");
            // A new period, a new share.
            now = begun.after(seconds(120));
            let crossing = Some(seconds(1));
            let hurries = schedule.pause(crossing, &steep(0.9), now) < MINUTE;
            assert_eq!(hurries, most > 0, "{name} {limit}");
        }
    }

    #[test]
    fn a_long_window_has_one_share_until_it_is_full_again() {
        let now = Now::of_tests();
        let day = |used| Usage {
            windows: vec![Window {
                resets_at: Some(now.wall + seconds(36_000)),
                ..window("requests", used, Some(300))
            }],
        };
        let mut schedule = ProbeSchedule::new(MINUTE, 0.95);
        let mut hurries = |at| {
            let now = now.after(seconds(at));
            schedule.pause(Some(seconds(1)), &day(0.9), now) < MINUTE
        };
        let times = [0, 100, 7000, 20_000, 35_000, 36_000];
        let found = times.map(&mut hurries);
        assert_eq!(found, [true, true, true, false, false, true]);
    }

    proptest! {
        #[test]
        fn a_pause_is_between_5_s_and_the_interval(
            interval in 100..200_000u64,
            shares in proptest::collection::vec((0.0..1.5f64, 0..100_000u64, 0..100_000u64), 1..20),
        ) {
            let interval = Duration::from_millis(interval);
            let mut schedule = ProbeSchedule::new(interval, 0.95);
            let mut now = Now::of_tests();
            for (used, limit, passed) in shares {
                let usage = Usage { windows: vec![window("requests", used, Some(limit))] };
                let crossing = schedule.look(0, &usage, now);
                let pause = schedule.pause(crossing, &usage, now);
                prop_assert!(pause <= interval && pause >= interval.min(FASTEST));
                now = now.after(Duration::from_millis(passed));
            }
        }
    }
}
