//! What one scope says of another, and what must hold after any answers.

use super::*;
use crate::common::time::SHORTEST_REST;
use crate::providers::scope::EndpointKind;
use crate::providers::usage::Usage;
use crate::providers::{Finding, Reading};
use crate::tokens::pool_of;
use proptest::prelude::*;

const DAY: Duration = Duration::from_secs(86_400);

fn rules() -> Rules {
    Rules::without_command(0.95, Duration::from_secs(5))
}

/// Where answers to checks go, as long as no request shows another place.
const CHECKED: Place = Place { ring: 0, scope: 0 };

fn scope(kind: EndpointKind, class: &str) -> Scope {
    Scope {
        kind,
        class: class.to_owned(),
    }
}

fn model(class: &str) -> Scope {
    scope(EndpointKind::Generate, class)
}

fn ledger(tokens: &[&str], is_named: bool) -> (Ledger, Now) {
    let now = Now::of_tests();
    let ring = (pool_of(tokens), model("checked"), is_named);
    (Ledger::new([ring], now), now)
}

fn limited(seconds: u64) -> Finding {
    Finding::Limited {
        retry_after: Some(Duration::from_secs(seconds)),
    }
}

fn says(ledger: &mut Ledger, place: Place, index: usize, finding: Finding, now: Now) {
    let reading = Reading {
        usage: Usage::default(),
        finding,
        quota_group: Some(format!("org-{}", index / 2)),
        said: None,
    };
    let answer = Answer {
        asked: now.tick,
        reading: Ok(reading),
    };
    ledger.record(place, index, &answer, &rules(), now);
}

fn condition(ledger: &Ledger, place: Place, index: usize, now: Now) -> Condition {
    ledger.pool(place).unwrap().state(index).condition(now)
}

#[test]
fn a_limit_of_one_model_leaves_the_others_alone() {
    let (mut ledger, now) = ledger(&["a", "b"], false);
    let opus = ledger.enter(0, &model("opus"), now).unwrap();
    let haiku = ledger.enter(0, &model("haiku"), now).unwrap();
    for index in 0..2 {
        says(&mut ledger, CHECKED, index, Finding::Served, now);
    }
    says(&mut ledger, opus, 0, limited(3600), now);
    assert!(condition(&ledger, opus, 0, now).is_refused());
    // The other token draws on the same bucket.
    assert!(condition(&ledger, opus, 1, now).is_refused());
    assert_eq!(condition(&ledger, haiku, 0, now), Condition::Unknown);
    assert_eq!(condition(&ledger, CHECKED, 0, now), Condition::Usable);
    assert_eq!(ledger.enter(0, &model("opus"), now), Some(opus));
}

#[test]
fn a_spend_cap_holds_for_the_group_and_a_rejection_for_the_token_in_every_scope() {
    let (mut ledger, now) = ledger(&["a", "b", "c"], false);
    let opus = ledger.enter(0, &model("opus"), now).unwrap();
    for index in 0..3 {
        says(&mut ledger, opus, index, Finding::Served, now);
    }
    let now = now.after(Duration::from_secs(1));
    says(
        &mut ledger,
        opus,
        0,
        Finding::SpendCapped { until: None },
        now,
    );
    says(&mut ledger, opus, 2, Finding::Rejected, now);
    let now = now.after(Duration::from_secs(1));
    says(&mut ledger, opus, 2, Finding::Rejected, now);
    let haiku = ledger.enter(0, &model("haiku"), now).unwrap();
    for place in [CHECKED, opus, haiku] {
        for index in 0..2 {
            let capped = Condition::SpendCapped { until: None };
            assert_eq!(condition(&ledger, place, index, now), capped, "{index}");
        }
        assert_eq!(condition(&ledger, place, 2, now), Condition::Rejected);
    }
    // And what lifts it there lifts it here.
    let now = now.after(Duration::from_secs(1));
    says(&mut ledger, haiku, 2, Finding::Served, now);
    says(&mut ledger, haiku, 0, Finding::Served, now);
    assert_eq!(condition(&ledger, opus, 2, now), Condition::Unknown);
    assert_eq!(condition(&ledger, opus, 0, now), Condition::Unknown);
}

#[test]
fn a_command_is_stopped_only_when_all_that_it_uses_is_refused() {
    let (mut ledger, now) = ledger(&["a"], false);
    let pro = ledger.enter(0, &model("pro"), now).unwrap();
    says(&mut ledger, pro, 0, limited(7200), now);
    let Outlook::Until { until, index: 0 } = ledger.outlook(0, now) else {
        panic!("it can go on");
    };
    assert_eq!(until.remaining(now).as_secs(), 7200);
    // The size of a prompt is told all the same.
    let count = scope(EndpointKind::CountTokens, "pro");
    let count = ledger.enter(0, &count, now).unwrap();
    says(&mut ledger, count, 0, Finding::Served, now);
    assert!(matches!(ledger.outlook(0, now), Outlook::Until { .. }));
    let flash = ledger.enter(0, &model("flash"), now).unwrap();
    says(&mut ledger, flash, 0, Finding::Served, now);
    assert_eq!(ledger.outlook(0, now), Outlook::Usable);
    // It no longer uses what it has not asked for ten minutes.
    let now = now.after(LATELY);
    let _ = ledger.enter(0, &model("pro"), now);
    assert!(matches!(ledger.outlook(0, now), Outlook::Until { .. }));
}

#[test]
fn a_model_that_the_user_has_named_is_in_use_from_the_start() {
    for (is_named, can_go_on) in [(true, true), (false, false)] {
        let (mut ledger, now) = ledger(&["a"], is_named);
        let pro = ledger.enter(0, &model("pro"), now).unwrap();
        says(&mut ledger, pro, 0, limited(7200), now);
        assert_eq!(ledger.outlook(0, now) == Outlook::Usable, can_go_on);
    }
}

#[test]
fn names_of_models_do_not_fill_the_memory() {
    let (mut ledger, now) = ledger(&["a"], false);
    for name in 0..10 * MOST_SCOPES {
        let place = ledger.enter(0, &model(&name.to_string()), now).unwrap();
        assert!(place.scope <= MOST_SCOPES);
    }
}

/// What may be answered.
fn finding() -> impl Strategy<Value = Finding> {
    let span = || prop::option::of((0..200_000_u64).prop_map(Duration::from_secs));
    prop_oneof![
        Just(Finding::Served),
        span().prop_map(|retry_after| Finding::Limited { retry_after }),
        span().prop_map(|span| Finding::SpendCapped {
            until: span.map(|span| Now::of_tests().wall + span)
        }),
        Just(Finding::Rejected),
        span().prop_map(|retry_after| Finding::Overloaded { retry_after }),
        Just(Finding::Unclear { why: "odd" }),
    ]
}

proptest! {
    /// Whatever was answered: a token that is served once is good from then on, in every scope where
    /// no limit of its own holds, and no limit outlasts what the provider has promised.
    #[test]
    fn nothing_keeps_a_good_token_unusable(
        answers in prop::collection::vec((0..4_usize, 0..3_usize, finding(), 0..2000_u64), 0..40),
    ) {
        let (mut ledger, mut now) = ledger(&["a", "b", "c", "d"], false);
        let places: Vec<Place> = ["x", "y", "z"]
            .iter()
            .map(|class| ledger.enter(0, &model(class), now).unwrap())
            .collect();
        for (index, place, finding, pause) in answers {
            now = now.after(Duration::from_secs(pause));
            says(&mut ledger, places[place], index, finding, now);
        }
        now = now.after(SHORTEST_REST);
        for index in 0..4 {
            says(&mut ledger, places[0], index, Finding::Served, now);
        }
        for index in 0..4 {
            prop_assert!(!condition(&ledger, places[0], index, now).is_refused());
            prop_assert!(!condition(&ledger, places[1], index, now.after(3 * DAY)).is_refused());
        }
        prop_assert_eq!(ledger.outlook(0, now), Outlook::Usable);
    }

    /// A refusal in one scope never changes what is known in another.
    #[test]
    fn a_refusal_in_one_scope_never_changes_another(
        before in prop::collection::vec((0..4_usize, 0..2_usize, finding()), 0..20),
        index in 0..4_usize,
        seconds in prop::option::of(0..100_000_u64),
    ) {
        let (mut ledger, mut now) = ledger(&["a", "b", "c", "d"], false);
        let one = ledger.enter(0, &model("x"), now).unwrap();
        let other = ledger.enter(0, &model("y"), now).unwrap();
        for (index, place, finding) in before {
            now = now.after(Duration::from_secs(2));
            says(&mut ledger, [one, other][place], index, finding, now);
        }
        let all = |ledger: &Ledger, now| -> Vec<Condition> {
            (0..4).map(|index| condition(ledger, other, index, now)).collect()
        };
        let known = all(&ledger, now);
        let refused = Finding::Limited { retry_after: seconds.map(Duration::from_secs) };
        // It is accepted by that, which ends a rejection everywhere.
        let rejected = known.contains(&Condition::Rejected);
        let capped = known.iter().any(|c| matches!(c, Condition::SpendCapped { .. }));
        prop_assume!(!rejected && !capped);
        says(&mut ledger, one, index, refused, now);
        prop_assert_eq!(all(&ledger, now), known);
    }
}

#[test]
fn checks_follow_the_model_that_most_of_the_latest_requests_ask_for() {
    let (mut ledger, now) = ledger(&["a"], false);
    ledger.follow(vec![true]);
    assert_eq!((ledger.checked(0), ledger.model(0)), (CHECKED, None));
    let mut ask = |model_name: &str| {
        let place = ledger.enter(0, &model(model_name), now).unwrap();
        ledger.asked_for(place, format!("{model_name}-20260101"));
        let (checked, name) = ledger.followed(0).unwrap();
        assert_eq!(checked, ledger.checked(0));
        (name == format!("{model_name}-20260101"), place)
    };
    let (is_first, opus) = ask("opus");
    assert!(is_first);
    for _ in 0..20 {
        // A title between requests.
        assert!(ask("opus").0 && ask("opus").0 && !ask("haiku").0);
    }
    // The user has changed the model.
    let times = (1..50).find(|_| ask("sonnet").0).unwrap();
    assert!(times <= 8, "{times}");
    // An answer that was on its way counts for the model that it was asked for.
    assert_eq!(ledger.checked_for(0, 0, "opus"), opus);
    assert_ne!(ledger.checked(0), opus);
    ledger.follow(vec![false]);
    assert_eq!(ledger.checked(0), CHECKED);
}
