//! The table of decisions, row by row, and what must hold for any history.

use super::super::condition::*;
use super::*;
use crate::providers::usage::{Usage, Window};
use crate::providers::{Finding, Reading};
use crate::tokens::{pool_of, pool_over};
use proptest::prelude::*;

mod together;

const MINUTE: Duration = Duration::from_secs(60);

fn rules() -> Rules {
    Rules {
        grace: Duration::from_secs(10),
        ..Rules::without_command(0.95, Duration::from_secs(5))
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// One window, this full, that resets so far ahead.
fn usage(used: f64, reset: Option<Duration>, now: Now) -> Usage {
    Usage {
        windows: vec![Window {
            name: "requests".into(),
            limit: Some(1000),
            remaining: None,
            utilization: used,
            resets_at: reset.map(|span| now.wall + span),
        }],
    }
}

fn reading(finding: Finding, usage: Usage) -> Result<Reading, String> {
    Ok(Reading {
        usage,
        finding,
        quota_group: None,
        said: None,
    })
}

fn used(share: f64, reset: u64, now: Now) -> Result<Reading, String> {
    reading(Finding::Served, usage(share, Some(seconds(reset)), now))
}

fn limited(seconds_ahead: u64) -> Result<Reading, String> {
    reading(
        Finding::Limited {
            retry_after: Some(seconds(seconds_ahead)),
        },
        Usage::default(),
    )
}

fn of_group(group: &str, reading: Result<Reading, String>) -> Result<Reading, String> {
    reading.map(|reading| Reading {
        quota_group: Some(group.into()),
        ..reading
    })
}

fn unreachable() -> Result<Reading, String> {
    Err("connection refused".into())
}

/// Takes in an answer to a question that was put at this moment.
fn tell(pool: &mut TokenPool, index: usize, now: Now, reading: Result<Reading, String>) {
    let answer = Answer {
        asked: now.tick,
        reading,
    };
    record(pool, index, &answer, &rules(), now);
}

fn running(pool: &TokenPool, now: Now) -> Decision {
    decide(pool, &rules(), Suspension::No, now)
}

fn assert_waits(decision: Decision, index: usize, span: Duration, now: Now) {
    match decision {
        Decision::Wait {
            until,
            index: Some(found),
        } => {
            assert_eq!((found, until.wall), (index, now.wall + span));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_strictly_above_the_threshold_is_near() {
    let now = Now::of_tests();
    for (share, near) in [
        (0.0, false),
        (0.95, false),
        (0.9501, true),
        (1.0, true),
        (1.7, true),
    ] {
        let mut pool = pool_of(&["a", "b"]);
        tell(&mut pool, 0, now, used(share, 600, now));
        let wanted = if near {
            Decision::Probe { index: 1 }
        } else {
            Decision::Keep
        };
        assert_eq!(running(&pool, now), wanted, "{share}");
    }
}

#[test]
fn a_candidate_answers_before_it_is_used() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a", "b", "c"]);
    tell(&mut pool, 1, now, used(0.1, 600, now));
    let now = now.after(seconds(1));
    tell(&mut pool, 0, now, used(0.97, 600, now));
    // What it said before it was needed does not count.
    assert_eq!(running(&pool, now), Decision::Probe { index: 1 });
    let asked = now.after(seconds(1));
    tell(&mut pool, 1, asked, used(0.1, 600, now));
    assert_eq!(running(&pool, asked), Decision::Rotate { index: 1 });
}

#[test]
fn the_first_usable_one_in_ring_order_is_next_and_the_ring_goes_round() {
    let mut now = Now::of_tests();
    let mut pool = pool_of(&["a", "b", "c"]);
    for (spent, next) in [(0, 1), (1, 2), (2, 0)] {
        now = now.after(seconds(700));
        assert_eq!(pool.current_index(), spent);
        tell(&mut pool, spent, now, used(0.99, 600, now));
        assert_eq!(running(&pool, now), Decision::Probe { index: next });
        tell(&mut pool, next, now, used(0.0, 600, now));
        assert_eq!(running(&pool, now), Decision::Rotate { index: next });
        pool.next(next);
        assert_eq!(running(&pool, now), Decision::Keep);
    }
}

#[test]
fn a_spent_candidate_is_passed_over() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a", "b", "c"]);
    tell(&mut pool, 0, now, limited(600));
    tell(&mut pool, 1, now, limited(300));
    tell(&mut pool, 2, now, used(0.2, 600, now));
    assert_eq!(running(&pool, now), Decision::Rotate { index: 2 });
}

#[test]
fn patience_is_for_near_limits_only() {
    let now = Now::of_tests();
    let mut near = pool_of(&["a", "b"]);
    tell(&mut near, 0, now, used(0.97, 5, now));
    assert_eq!(running(&near, now), Decision::Keep);
    let mut spent = pool_of(&["a", "b"]);
    tell(&mut spent, 0, now, limited(5));
    assert_waits(running(&spent, now), 0, seconds(5), now);
}

#[test]
fn one_token_waits_for_its_reset_and_is_asked_before_it_goes_on() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a"]);
    tell(&mut pool, 0, now, used(0.96, 600, now));
    assert_waits(running(&pool, now), 0, seconds(600), now);
    let held = Suspension::Paused { since: now };
    assert_waits(decide(&pool, &rules(), held, now), 0, seconds(600), now);
    let reset = now.after(seconds(600));
    assert_eq!(
        decide(&pool, &rules(), held, reset),
        Decision::Probe { index: 0 }
    );
    tell(&mut pool, 0, reset, used(0.0, 60, reset));
    assert_eq!(decide(&pool, &rules(), held, reset), Decision::Keep);
}

#[test]
fn a_reset_that_did_not_come_is_waited_for_again() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a"]);
    tell(&mut pool, 0, now, limited(60));
    let held = Suspension::Paused { since: now };
    let reset = now.after(seconds(60));
    tell(&mut pool, 0, reset, limited(30));
    assert_waits(decide(&pool, &rules(), held, reset), 0, seconds(30), reset);
}

#[test]
fn the_earliest_reset_of_all_is_waited_for() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a", "b", "c"]);
    tell(&mut pool, 0, now, limited(600));
    tell(&mut pool, 1, now, limited(200));
    tell(&mut pool, 2, now, limited(400));
    assert_waits(running(&pool, now), 1, seconds(200), now);
    // Then the token that resets first is asked, and the child moves to it.
    let held = Suspension::Paused { since: now };
    let reset = now.after(seconds(200));
    assert_eq!(
        decide(&pool, &rules(), held, reset),
        Decision::Probe { index: 1 }
    );
    tell(&mut pool, 1, reset, used(0.0, 60, reset));
    assert_eq!(
        decide(&pool, &rules(), held, reset),
        Decision::Rotate { index: 1 }
    );
}

#[test]
fn a_reset_that_is_missing_counts_as_a_minute() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a"]);
    tell(
        &mut pool,
        0,
        now,
        reading(Finding::Served, usage(0.99, None, now)),
    );
    assert_waits(running(&pool, now), 0, MINUTE, now);
    let mut pool = pool_of(&["a"]);
    let bare = Finding::Limited { retry_after: None };
    tell(&mut pool, 0, now, reading(bare, Usage::default()));
    assert_waits(running(&pool, now), 0, MINUTE, now);
}

#[test]
fn retry_after_beats_the_reset_and_never_is_at_once() {
    let now = Now::of_tests();
    for (retry_after, wanted) in [(Some(505), 505), (Some(0), 1), (None, 40)] {
        let mut pool = pool_of(&["a"]);
        let finding = Finding::Limited {
            retry_after: retry_after.map(seconds),
        };
        tell(
            &mut pool,
            0,
            now,
            reading(finding, usage(1.0, Some(seconds(40)), now)),
        );
        assert_waits(running(&pool, now), 0, seconds(wanted), now);
    }
}

#[test]
fn a_token_that_was_left_comes_back_only_well_below_the_threshold() {
    let mut now = Now::of_tests();
    let mut pool = pool_of(&["a", "b"]);
    tell(&mut pool, 0, now, used(0.96, 600, now));
    tell(&mut pool, 1, now, used(0.1, 600, now));
    pool.next(1);
    now = now.after(seconds(601));
    tell(&mut pool, 1, now, used(0.96, 600, now));
    assert_eq!(running(&pool, now), Decision::Probe { index: 0 });
    tell(&mut pool, 0, now, used(0.90, 500, now));
    assert_waits(running(&pool, now), 0, seconds(500), now);
    now = now.after(seconds(10));
    tell(&mut pool, 0, now, used(0.84, 600, now));
    assert_eq!(running(&pool, now), Decision::Rotate { index: 0 });
}

#[test]
fn before_a_wait_each_resting_token_is_asked_once() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a", "b"]);
    tell(&mut pool, 1, now, limited(600));
    let now = now.after(seconds(10));
    tell(&mut pool, 0, now, limited(900));
    assert_eq!(running(&pool, now), Decision::Probe { index: 1 });
    tell(&mut pool, 1, now, limited(590));
    assert_waits(running(&pool, now), 1, seconds(590), now);
}

#[test]
fn a_rejected_token_is_left_and_all_rejected_is_the_end() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a", "b"]);
    let rejected = || reading(Finding::Rejected, Usage::default());
    tell(&mut pool, 0, now, rejected());
    assert_eq!(running(&pool, now), Decision::Probe { index: 1 });
    tell(&mut pool, 1, now, used(0.2, 600, now));
    assert_eq!(running(&pool, now), Decision::Rotate { index: 1 });
    let mut pool = pool_of(&["a"]);
    tell(&mut pool, 0, now, rejected());
    assert_eq!(running(&pool, now), Decision::NoUsableToken);
    let mut pool = pool_of(&["a"]);
    let capped = Finding::SpendCapped { until: None };
    tell(&mut pool, 0, now, reading(capped, Usage::default()));
    assert_eq!(running(&pool, now), Decision::NoUsableToken);
}

#[test]
fn a_wait_beyond_the_longest_is_not_begun() {
    let now = Now::of_tests();
    let rules = Rules {
        max_wait: Some(seconds(300)),
        ..rules()
    };
    let mut pool = pool_of(&["a"]);
    tell(&mut pool, 0, now, limited(300));
    assert!(matches!(
        decide(&pool, &rules, Suspension::No, now),
        Decision::Wait { .. }
    ));
    // What has been waited already counts.
    let held = Suspension::Paused { since: now };
    let reset = now.after(seconds(300));
    tell(&mut pool, 0, reset, limited(10));
    assert!(matches!(
        decide(&pool, &rules, held, reset),
        Decision::ExceedsMaxWait { .. }
    ));
}

#[test]
fn an_outage_never_rotates() {
    let now = Now::of_tests();
    let overloaded = || reading(Finding::Overloaded { retry_after: None }, Usage::default());
    for silent in [overloaded, unreachable as fn() -> _] {
        let mut pool = pool_of(&["a", "b"]);
        for second in 0..20 {
            let now = now.after(seconds(second * 60));
            tell(&mut pool, 0, now, silent());
            assert_eq!(running(&pool, now), Decision::Keep);
        }
    }
}

#[test]
fn a_failed_question_condemns_no_token() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a", "b"]);
    tell(&mut pool, 0, now, used(0.97, 600, now));
    tell(&mut pool, 1, now, unreachable());
    // Near its limit, the token in use goes on until the other can be asked.
    match running(&pool, now) {
        Decision::KeepUntil { retry } => assert_eq!(retry.wall, now.wall + seconds(5)),
        other => panic!("{other:?}"),
    }
    let now = now.after(seconds(5));
    assert_eq!(running(&pool, now), Decision::Probe { index: 1 });
    tell(&mut pool, 1, now, used(0.2, 600, now));
    assert_eq!(running(&pool, now), Decision::Rotate { index: 1 });
}

#[test]
fn questions_without_answers_are_put_ever_less_often() {
    let spans: Vec<u64> = (0..8).map(|times| backoff(times).as_secs()).collect();
    assert_eq!(spans, [5, 10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(backoff(u32::MAX), seconds(300));
}

#[test]
fn tokens_of_one_quota_stand_and_fall_together() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a", "b", "c"]);
    for index in [0, 1] {
        tell(&mut pool, index, now, of_group("org-1", used(0.5, 60, now)));
    }
    tell(&mut pool, 2, now, of_group("org-2", used(0.5, 60, now)));
    let now = now.after(seconds(10));
    tell(&mut pool, 0, now, of_group("org-1", limited(600)));
    // The one of the same quota is not even asked.
    assert_eq!(running(&pool, now), Decision::Probe { index: 2 });
    tell(&mut pool, 2, now, of_group("org-2", limited(900)));
    assert_waits(running(&pool, now), 0, seconds(600), now);
}

#[test]
fn a_rejected_token_says_nothing_of_others_of_its_quota() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a", "b"]);
    for index in [0, 1] {
        tell(&mut pool, index, now, of_group("org-1", used(0.5, 60, now)));
    }
    let now = now.after(seconds(1));
    tell(
        &mut pool,
        0,
        now,
        reading(Finding::Rejected, Usage::default()),
    );
    let now = now.after(seconds(1));
    tell(
        &mut pool,
        0,
        now,
        reading(Finding::Rejected, Usage::default()),
    );
    assert_eq!(running(&pool, now), Decision::Probe { index: 1 });
}

#[test]
fn after_a_failure_the_token_is_asked_before_anything_else() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a", "b"]);
    tell(&mut pool, 0, now, used(0.5, 60, now));
    let ended = now.after(seconds(1));
    let held = Suspension::Ended { since: ended };
    assert_eq!(
        decide(&pool, &rules(), held, ended),
        Decision::Probe { index: 0 }
    );
    tell(&mut pool, 0, ended, used(0.5, 60, ended));
    assert_eq!(decide(&pool, &rules(), held, ended), Decision::Keep);
    tell(&mut pool, 0, ended, limited(60));
    assert_eq!(
        decide(&pool, &rules(), held, ended),
        Decision::Probe { index: 1 }
    );
    tell(&mut pool, 0, ended, unreachable());
    match decide(&pool, &rules(), held, ended) {
        Decision::Probe { index: 1 } | Decision::Wait { index: None, .. } => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn late_answers_to_old_questions_are_ignored() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a"]);
    let then = now.after(seconds(10));
    tell(&mut pool, 0, then, limited(60));
    tell(&mut pool, 0, now, used(0.1, 60, now));
    assert!(matches!(
        pool.state(0).condition(then),
        Condition::Limited { .. }
    ));
}

#[test]
fn a_clock_that_is_set_back_does_not_prolong_a_wait() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a"]);
    tell(&mut pool, 0, now, limited(20));
    let set_back = Now {
        wall: now.wall - seconds(3600),
        tick: now.tick + seconds(80),
    };
    assert_eq!(pool.state(0).condition(set_back), Condition::Unknown);
}

proptest! {
    /// Whatever a night brings: no rejected or spent token is rotated to, no wait is over
    /// before it begins, and a rotation goes to a token that has answered.
    #[test]
    fn no_history_leads_astray(
        steps in proptest::collection::vec((0_usize..3, 0_u8..7, 0_u64..200, 0_u64..120), 1..60)
    ) {
        let mut now = Now::of_tests();
        let mut pool = pool_of(&["a", "b", "c"]);
        for (index, kind, number, pause) in steps {
            now = now.after(seconds(pause));
            let reading = match kind {
                0 => limited(number),
                1 => reading(Finding::Rejected, Usage::default()),
                2 => unreachable(),
                3 => reading(Finding::Overloaded { retry_after: None }, Usage::default()),
                4 => reading(Finding::Unclear { why: "test" }, Usage::default()),
                5 => of_group("org", used(number as f64 / 100.0, number, now)),
                _ => used(number as f64 / 100.0, number, now),
            };
            tell(&mut pool, index, now, reading);
            let held = match kind {
                0 | 1 => Suspension::Paused { since: now },
                2 => Suspension::Ended { since: now },
                _ => Suspension::No,
            };
            match decide(&pool, &rules(), held, now) {
                Decision::Rotate { index } => {
                    prop_assert_ne!(index, pool.current_index());
                    prop_assert_eq!(pool.state(index).condition(now), Condition::Usable);
                    prop_assert!(!pool.state(index).is_unasked());
                    pool.next(index);
                }
                Decision::Wait { until, .. } | Decision::KeepUntil { retry: until } => {
                    prop_assert!(until.remaining(now) > Duration::ZERO);
                }
                Decision::Probe { index } => prop_assert!(index < 3),
                Decision::Keep | Decision::NoUsableToken | Decision::ExceedsMaxWait { .. } => {}
            }
        }
    }
}

#[test]
fn a_token_that_says_nothing_is_asked_again_and_hides_no_reset() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a", "b"]);
    tell(&mut pool, 0, now, limited(200));
    tell(
        &mut pool,
        1,
        now,
        reading(Finding::Unclear { why: "test" }, Usage::default()),
    );
    // The reset that is known is what is waited for.
    assert_waits(running(&pool, now), 0, seconds(200), now);
    let held = Suspension::Paused { since: now };
    let now = now.after(MINUTE);
    assert_eq!(
        decide(&pool, &rules(), held, now),
        Decision::Probe { index: 1 }
    );
}

#[test]
fn of_a_reset_and_the_next_try_the_earlier_is_waited_for() {
    let now = Now::of_tests();
    let overloaded = Finding::Overloaded {
        retry_after: Some(MINUTE),
    };
    for (reset, waits_for_reset) in [(20, true), (60, true), (200, false)] {
        let mut pool = pool_of(&["a", "b"]);
        tell(&mut pool, 0, now, limited(reset));
        let answer = reading(overloaded.clone(), Usage::default());
        tell(&mut pool, 1, now, answer);
        let decision = running(&pool, now);
        if waits_for_reset {
            assert_waits(decision, 0, seconds(reset), now);
        } else {
            let until = Until::after(MINUTE, now);
            assert_eq!(decision, Decision::Wait { until, index: None });
        }
    }
}

#[test]
fn a_provider_that_keeps_promising_the_next_second_is_asked_ever_less_often() {
    let mut now = Now::of_tests();
    let mut pool = pool_of(&["a"]);
    let mut spans = Vec::new();
    for _ in 0..9 {
        tell(&mut pool, 0, now, limited(1));
        let Condition::Limited { until } = pool.state(0).condition(now) else {
            panic!("not limited");
        };
        spans.push(until.remaining(now).as_secs());
        now = now.after(until.remaining(now));
    }
    assert_eq!(spans, [1, 1, 4, 8, 16, 32, 60, 60, 60]);
    // A reset that is honest is honoured, and one good answer starts anew.
    tell(&mut pool, 0, now, limited(505));
    assert_waits(running(&pool, now), 0, seconds(505), now);
    tell(&mut pool, 0, now, used(0.1, 60, now));
    tell(&mut pool, 0, now, limited(1));
    assert_waits(running(&pool, now), 0, seconds(1), now);
}

/// Answers that were under way when the first refusal arrived say nothing new.
#[test]
fn refusals_before_the_promised_end_do_not_prolong_the_wait() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a"]);
    for _ in 0..5 {
        tell(&mut pool, 0, now, limited(3));
    }
    assert_waits(running(&pool, now), 0, seconds(3), now);
}

/// How long the token rests each time when the child is refused with it after it has worked for so
/// many seconds, and a probe sees nothing of that.
fn rests_when_told_after(lives: &[u64]) -> Vec<u64> {
    let mut now = Now::of_tests();
    let mut pool = pool_of(&["a"]);
    let mut rests = Vec::new();
    for life in lives {
        tell(&mut pool, 0, now, used(0.1, 600, now));
        now = now.after(seconds(*life));
        super::tell(&mut pool, Trouble::Limited, seconds(*life), now);
        // It may say so for each of its agents.
        let then = now.after(seconds(1));
        super::tell(&mut pool, Trouble::Limited, seconds(life + 1), then);
        tell(&mut pool, 0, now, used(0.1, 600, now));
        let Condition::Limited { until } = pool.state(0).condition(now) else {
            panic!("not limited");
        };
        rests.push(until.remaining(now).as_secs());
        now = now.after(until.remaining(now));
    }
    rests
}

#[test]
fn a_limit_that_only_the_child_tells_is_waited_for_ever_longer() {
    let wanted = [60, 120, 240, 480, 900, 900, 900];
    assert_eq!(rests_when_told_after(&[3; 7]), wanted);
    // A client may try for minutes before it tells.
    assert_eq!(rests_when_told_after(&[184; 7]), wanted);
}

#[test]
fn a_limit_that_the_child_tells_after_it_has_worked_is_a_new_one() {
    let rests = rests_when_told_after(&[3, 3, 3, 300, 3, 299, 4000]);
    assert_eq!(rests, [60, 120, 240, 60, 120, 240, 60]);
}

#[test]
fn a_probe_that_sees_the_limit_too_ends_what_the_child_told() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a"]);
    super::tell(&mut pool, Trouble::Limited, seconds(3), now);
    tell(&mut pool, 0, now, limited(20));
    assert_waits(running(&pool, now), 0, seconds(20), now);
    let now = now.after(seconds(20));
    super::tell(&mut pool, Trouble::Limited, seconds(3), now);
    assert_waits(running(&pool, now), 0, MINUTE, now);
}

#[test]
fn a_held_child_may_go_on_near_a_limit_that_resets_within_the_patience() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a"]);
    tell(&mut pool, 0, now, limited(60));
    let held = Suspension::Paused { since: now };
    let now = now.after(seconds(60));
    tell(&mut pool, 0, now, used(0.97, 3, now));
    assert_eq!(decide(&pool, &rules(), held, now), Decision::Keep);
}
