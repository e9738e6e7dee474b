//! Which token a request goes out with, and what its answer changes.

use super::lane::{REVIEW, TRIAL_REQUESTS};
use super::*;
use crate::providers::Reading;
use crate::providers::scope::EndpointKind;
use crate::tokens::pool_of;
use std::time::SystemTime;

/// A balancer, and a clock that the test moves.
struct Night {
    balancer: Balancer,
    now: Now,
    said: Vec<RunEvent>,
}

fn night(strategy: Strategy, tokens: &[&str]) -> Night {
    let rules = Rules::without_command(0.95, Duration::from_secs(5));
    let now = Now::of_tests();
    let ledger = Ledger::new([(pool_of(tokens), model("opus"), false)], now);
    Night {
        balancer: Balancer::new(ledger, rules, strategy, now),
        now,
        said: Vec::new(),
    }
}

fn model(class: &str) -> Scope {
    Scope {
        kind: EndpointKind::Generate,
        class: class.to_owned(),
    }
}

/// Where the requests of these tests go.
const OPUS: Place = Place { ring: 0, scope: 0 };

fn limited(seconds: u64) -> Finding {
    Finding::Limited {
        retry_after: Some(Duration::from_secs(seconds)),
    }
}

impl Night {
    fn pass(&mut self, span: Duration) {
        self.now.wall += span;
        self.now.tick += span;
    }

    fn choose(&mut self) -> Pick {
        self.balancer
            .choose(OPUS, &[], true, self.now, &mut self.said)
    }

    #[track_caller]
    fn goes_with(&mut self, wanted: usize) -> Instant {
        assert_eq!(self.choose(), Pick::Go { index: wanted });
        self.now.tick
    }

    fn answer_of(&mut self, index: usize, asked: Instant, finding: Finding, group: Option<&str>) {
        let reading = Reading {
            usage: Usage::default(),
            finding,
            quota_group: group.map(str::to_owned),
            said: None,
        };
        let answer = Answer {
            asked,
            reading: Ok(reading),
        };
        let said = self
            .balancer
            .answered(OPUS, index, answer, Testimony::Clear, self.now);
        self.said.extend(said);
    }

    fn answer(&mut self, index: usize, asked: Instant, finding: Finding) {
        self.answer_of(index, asked, finding, None);
    }

    /// A request, and its answer a second later.
    #[track_caller]
    fn request(&mut self, wanted: usize, finding: Finding) {
        let asked = self.goes_with(wanted);
        self.pass(Duration::from_secs(1));
        self.answer(wanted, asked, finding);
    }

    /// A request has to wait; `told`: what is said of it reaches somebody.
    #[track_caller]
    fn is_held(&mut self, told: bool) {
        let before = self.said.len();
        assert!(matches!(self.choose(), Pick::Hold { .. }));
        let news = self.said.len() > before;
        self.balancer.hold(OPUS, true, told && news);
    }

    fn is_let_go(&mut self) {
        let said = self.balancer.dequeue(OPUS);
        self.said.extend(said);
    }

    /// The tokens that were switched to.
    fn switches(&self) -> Vec<usize> {
        let said = self.said.iter();
        said.filter_map(|notice| match notice {
            RunEvent::Switched(token) => Some(token.id.index),
            _ => None,
        })
        .collect()
    }

    fn condition(&self, index: usize) -> Condition {
        self.balancer.report(self.now).nth(index).unwrap().condition
    }
}

#[test]
fn sticky_stays_until_a_limit_and_then_stays_with_the_next() {
    let mut night = night(Strategy::Sticky, &["a", "b", "c"]);
    night.request(0, Finding::Served);
    night.request(0, limited(600));
    night.request(1, Finding::Served);
    // Also when the first one is good again.
    night.pass(Duration::from_secs(700));
    night.request(1, Finding::Served);
    let switches = night.said.iter();
    let switches = switches
        .filter(|notice| matches!(notice, RunEvent::Switched(token) if token.id.index == 1));
    assert_eq!(switches.count(), 1);
}

#[test]
fn a_model_that_a_group_does_not_have_is_asked_of_it_when_no_other_is_left_and_after_an_hour() {
    let mut night = night(Strategy::Sticky, &["a", "b", "c"]);
    let begun = night.now.tick;
    for index in [0, 1] {
        let asked = Finding::Unclear { why: "" };
        night.answer_of(index, begun, asked, Some("one"));
    }
    // Nobody is known to have it.
    assert!(!night.balancer.lack(OPUS, &[0], true, night.now));
    assert!(night.balancer.lack(OPUS, &[0], false, night.now));
    night.request(2, Finding::Served);
    night.request(2, limited(1800));
    assert!(matches!(night.choose(), Pick::Hold { index: 2, .. }));
    let outlook = night.balancer.outlook(0, night.now);
    assert!(matches!(outlook, Outlook::Until { index: 2, .. }));
    night.pass(Duration::from_secs(60));
    let asked = Finding::Unclear { why: "" };
    night.request(0, asked);
    assert!(night.balancer.lack(OPUS, &[0], true, night.now));
    assert!(matches!(night.choose(), Pick::Hold { index: 2, .. }));
    night.pass(Duration::from_secs(3600));
    night.request(0, Finding::Served);
    // With the others gone for good, its refusal is the honest answer.
    assert!(night.balancer.lack(OPUS, &[0], false, night.now));
    night.request(2, Finding::SpendCapped { until: None });
    night.request(0, Finding::Served);
}

#[test]
fn a_limit_of_a_few_seconds_is_passed_over_and_not_left_for() {
    let mut night = night(Strategy::Sticky, &["a", "b"]);
    night.request(0, limited(3));
    night.request(1, Finding::Served);
    night.pass(Duration::from_secs(3));
    night.request(0, Finding::Served);
    // Each time it is said with which token they go on.
    assert_eq!(night.switches(), [1, 0]);
}

/// All requests that are held at once share one wait, which is said at its begin and at its end.
#[test]
fn a_hold_is_said_once_and_so_is_its_end() {
    let mut night = night(Strategy::Sticky, &["a"]);
    let early = night.goes_with(0);
    night.request(0, limited(600));
    for _ in 0..3 {
        night.is_held(true);
    }
    // What was under way before the limit lifts none.
    night.answer(0, early, Finding::Served);
    night.is_held(true);
    let said = |night: &Night, is_meant: fn(&RunEvent) -> bool| {
        night.said.iter().filter(|notice| is_meant(notice)).count()
    };
    assert_eq!(said(&night, |n| matches!(n, RunEvent::AllExhausted)), 1);
    let waits = |n: &RunEvent| matches!(n, RunEvent::WaitingForReset { held: true, .. });
    assert_eq!(said(&night, waits), 1);
    assert_eq!(said(&night, |n| matches!(n, RunEvent::HoldOver { .. })), 0);

    night.pass(Duration::from_secs(600));
    for _ in 0..TRIAL_REQUESTS {
        let _ = night.goes_with(0);
        night.is_let_go();
    }
    let over = |n: &RunEvent| matches!(n, RunEvent::HoldOver { token, abandoned: false } if token.id.index == 0);
    assert_eq!(said(&night, over), 1);
    assert_eq!(said(&night, |n| matches!(n, RunEvent::HoldOver { .. })), 1);

    // It was no more than a promise: they are held again.
    let asked = night.now.tick;
    night.pass(Duration::from_secs(1));
    night.answer(0, asked, limited(60));
    night.is_held(true);
    assert_eq!(said(&night, waits), 2);
    // And then there is nobody left.
    night.is_let_go();
    assert_eq!(
        said(&night, |n| matches!(
            n,
            RunEvent::HoldOver {
                abandoned: true,
                ..
            }
        )),
        1
    );
}

#[test]
fn a_hold_that_somebody_else_tells_of_has_no_end_of_its_own() {
    let mut night = night(Strategy::Sticky, &["a"]);
    night.request(0, limited(600));
    night.is_held(false);
    night.pass(Duration::from_secs(600));
    let _ = night.goes_with(0);
    night.is_let_go();
    let is_over = |notice: &RunEvent| matches!(notice, RunEvent::HoldOver { .. });
    assert!(!night.said.iter().any(is_over));
}

#[test]
fn round_robin_and_headroom() {
    let mut robin = night(Strategy::RoundRobin, &["a", "b", "c"]);
    for wanted in [0, 1, 2, 0] {
        robin.request(wanted, Finding::Served);
    }
    robin.request(1, limited(600));
    for wanted in [2, 0, 2, 0] {
        robin.request(wanted, Finding::Served);
    }
    let mut room = night(Strategy::Headroom, &["a", "b"]);
    let served = |used: f64| Reading {
        usage: Usage {
            windows: vec![crate::providers::usage::Window {
                name: "requests".into(),
                limit: None,
                remaining: None,
                utilization: used,
                resets_at: None,
            }],
        },
        finding: Finding::Served,
        quota_group: None,
        said: None,
    };
    for (index, used, next) in [(0, 0.5, 1), (1, 0.4, 1), (1, 0.6, 0)] {
        let answer = Answer {
            asked: room.now.tick,
            reading: Ok(served(used)),
        };
        let _ = room.balancer.probed(0, index, "", answer, room.now);
        assert_eq!(room.choose(), Pick::Go { index: next });
        room.balancer.gave_up(OPUS, next);
        room.pass(Duration::from_secs(1));
    }
}

#[test]
fn a_new_token_gets_four_requests_before_its_first_success() {
    let mut night = night(Strategy::Sticky, &["a", "b"]);
    let asked: Vec<Instant> = (0..32).map(|_| night.goes_with(0)).collect();
    night.pass(Duration::from_secs(1));
    for asked in asked {
        night.answer(0, asked, limited(600));
    }
    let trial_requests: Vec<Instant> = (0..TRIAL_REQUESTS).map(|_| night.goes_with(1)).collect();
    assert_eq!(night.choose(), Pick::Queue);
    // One that fails makes room for one; one that succeeds, for all.
    night.answer(
        1,
        trial_requests[0],
        Finding::Overloaded { retry_after: None },
    );
    let _ = night.goes_with(1);
    assert_eq!(night.choose(), Pick::Queue);
    night.balancer.gave_up(OPUS, 1);
    let _ = night.goes_with(1);
    assert_eq!(night.choose(), Pick::Queue);
    // Who has waited long enough goes.
    let choice = night
        .balancer
        .choose(OPUS, &[], false, night.now, &mut night.said);
    assert_eq!(choice, Pick::Go { index: 1 });
    night.answer(1, trial_requests[1], Finding::Served);
    for _ in 0..20 {
        let _ = night.goes_with(1);
    }
}

#[test]
fn a_limit_that_many_requests_meet_at_once_is_one() {
    let mut night = night(Strategy::Sticky, &["a"]);
    let asked: Vec<Instant> = (0..32)
        .map(|_| {
            night.pass(Duration::from_millis(1));
            night.goes_with(0)
        })
        .collect();
    for asked in asked {
        night.pass(Duration::from_millis(1));
        night.answer(0, asked, limited(3));
    }
    night.pass(Duration::from_secs(3));
    // And when it is over, a few go first.
    for _ in 0..TRIAL_REQUESTS {
        let _ = night.goes_with(0);
    }
    assert_eq!(night.choose(), Pick::Queue);
}

#[test]
fn a_token_of_a_spent_quota_is_not_tried() {
    let mut night = night(Strategy::Sticky, &["a", "b"]);
    for index in [0, 1] {
        let answer = Answer {
            asked: night.now.tick,
            reading: Ok(Reading {
                usage: Usage::default(),
                finding: Finding::Served,
                quota_group: Some("org".into()),
                said: None,
            }),
        };
        let said = night.balancer.probed(0, index, "", answer, night.now);
        night.said.extend(said);
    }
    let one_quota = |notice: &RunEvent| matches!(notice, RunEvent::Quotas { quotas: 1, .. });
    assert!(night.said.iter().any(one_quota));
    night.pass(Duration::from_secs(1));
    let asked = night.goes_with(0);
    night.pass(Duration::from_secs(1));
    night.answer_of(0, asked, limited(7200), Some("org"));
    for _ in 0..2 {
        let Pick::Hold { until, .. } = night.choose() else {
            panic!("a token of the same quota is tried")
        };
        assert_eq!(until.remaining(night.now).as_secs(), 7200);
    }
    let told = night.said.iter();
    assert_eq!(
        told.filter(|n| matches!(n, RunEvent::AllExhausted)).count(),
        1
    );
}

#[test]
fn near_the_limit_another_is_taken_and_the_rest_is_used_before_anyone_waits() {
    let mut night = night(Strategy::Sticky, &["a", "b"]);
    let near = |used: f64| Reading {
        usage: Usage {
            windows: vec![crate::providers::usage::Window {
                name: "requests".into(),
                limit: None,
                remaining: None,
                utilization: used,
                resets_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_001_000)),
            }],
        },
        finding: Finding::Served,
        quota_group: None,
        said: None,
    };
    for (index, used) in [(0, 0.96), (1, 0.97)] {
        let asked = night.goes_with(index);
        night.pass(Duration::from_secs(1));
        let answer = Answer {
            asked,
            reading: Ok(near(used)),
        };
        let said = night
            .balancer
            .answered(OPUS, index, answer, Testimony::Clear, night.now);
        night.said.extend(said);
    }
    // Both are above the threshold: no switching to and fro, and no wait.
    night.request(1, limited(600));
    night.request(0, limited(600));
    assert!(matches!(night.choose(), Pick::Hold { .. }));
}

/// Promised by a reset in a wrong unit, for example.
#[test]
fn a_limit_of_years_is_looked_at_within_two_hours() {
    let mut night = night(Strategy::Sticky, &["a"]);
    night.request(0, limited(99_999_999));
    assert!(matches!(night.choose(), Pick::Hold { .. }));
    let looked = (0..2 * 60).any(|_| {
        night.pass(Duration::from_secs(60));
        matches!(night.choose(), Pick::Go { index: 0 })
    });
    assert!(looked);
}

#[test]
fn what_its_owner_must_mend_is_looked_at_again_with_one_request() {
    for finding in [Finding::SpendCapped { until: None }, Finding::Rejected] {
        let mut night = night(Strategy::Sticky, &["a"]);
        night.request(0, finding.clone());
        assert_eq!(night.choose(), Pick::Hopeless);
        night.pass(REVIEW);
        let asked = night.goes_with(0);
        assert_eq!(night.choose(), Pick::Hopeless);
        night.pass(Duration::from_secs(1));
        night.answer(0, asked, finding);
        assert_eq!(night.choose(), Pick::Hopeless);
        night.pass(REVIEW);
        night.request(0, Finding::Served);
        assert_eq!(night.condition(0), Condition::Usable);
    }
}

#[test]
fn a_provider_in_trouble_condemns_no_token() {
    let mut night = night(Strategy::Sticky, &["a", "b"]);
    for _ in 0..10 {
        night.request(0, Finding::Overloaded { retry_after: None });
    }
    // Four go first with the other token, and nobody is turned away for it.
    for _ in 0..4 {
        let other = night.balancer.another(OPUS, &[0], true, night.now);
        assert_eq!(other, Some(Pick::Go { index: 1 }));
    }
    let fifth = night.balancer.another(OPUS, &[0], true, night.now);
    assert_eq!(fifth, Some(Pick::Queue));
    let in_a_hurry = night.balancer.another(OPUS, &[0], false, night.now);
    assert_eq!(in_a_hurry, Some(Pick::Go { index: 1 }));
    assert_eq!(night.condition(0), Condition::Unknown);
}

#[test]
fn a_success_that_is_late_does_not_hide_a_limit() {
    let mut night = night(Strategy::Sticky, &["a", "b"]);
    let (early, late) = (night.goes_with(0), {
        night.pass(Duration::from_secs(1));
        night.goes_with(0)
    });
    night.pass(Duration::from_secs(1));
    night.answer(0, late, limited(600));
    night.answer(0, early, Finding::Served);
    assert!(matches!(night.condition(0), Condition::Limited { .. }));
    let _ = night.goes_with(1);
}

/// The record of a long run does not grow with each answer, and ends with all of them.
#[test]
fn what_was_spent_is_told_ever_more_rarely_and_as_a_whole_in_the_end() {
    let mut night = night(Strategy::Sticky, &["a", "b"]);
    let place = OPUS;
    let answer = Spent {
        answers: 1,
        counted: 1,
        ..Spent::default()
    };
    let mut told = 0;
    for _ in 0..100_000 {
        night.balancer.spend(place, 1, answer);
        told += night.balancer.spendings(false).len();
    }
    assert!((100..1000).contains(&told), "{told}");
    night.balancer.spend(place, 1, answer);
    match &night.balancer.spendings(true)[..] {
        [RunEvent::Spent { token, spent, .. }] => {
            assert_eq!((token.number(), spent.answers), (2, 100_001));
        }
        other => panic!("{other:?}"),
    }
    assert!(night.balancer.spendings(true).is_empty());
}
