//! Tokens that are refused together: trouble of the provider's, or a limit of all.

use super::*;

/// Asks whichever token the table says, from now on and for as long as it waits, and answers with
/// `answer`. How long that took, how often each token was asked, and the first other decision.
fn hold_out(
    pool: &mut TokenPool,
    mut now: Now,
    mut answer: impl FnMut(usize, Duration) -> Result<Reading, String>,
) -> (Duration, Vec<u32>, Decision) {
    let began = now.tick;
    let held = Suspension::Paused { since: now };
    let mut asked = vec![0; pool.len()];
    loop {
        match decide(pool, &rules(), held, now) {
            Decision::Probe { index } => {
                asked[index] += 1;
                // A question takes its time.
                now = now.after(Duration::from_millis(300));
                let reading = answer(index, now.tick - began);
                tell(pool, index, now, reading);
            }
            Decision::Wait { until, index: None } => now = now.after(until.remaining(now)),
            other => return (now.tick - began, asked, other),
        }
    }
}

fn rejected() -> Result<Reading, String> {
    reading(Finding::Rejected, Usage::default())
}

#[test]
fn tokens_that_fail_together_are_held_until_the_trouble_is_over() {
    for trouble in [1, 30, 280] {
        let now = Now::of_tests();
        let mut pool = pool_of(&["a", "b", "c"]);
        for index in 0..3 {
            tell(&mut pool, index, now, used(0.1, 600, now));
        }
        // The running child is left alone at the first rejection, and paused at the second.
        let now = now.after(MINUTE);
        tell(&mut pool, 0, now, rejected());
        assert_eq!(running(&pool, now), Decision::Keep);
        let now = now.after(MINUTE);
        tell(&mut pool, 0, now, rejected());
        assert_eq!(running(&pool, now), Decision::Probe { index: 1 });
        let (took, _, end) = hold_out(&mut pool, now, |_, passed| match passed.as_secs() {
            seconds if seconds < trouble => rejected(),
            _ => used(0.1, 600, now),
        });
        assert!(
            matches!(end, Decision::Keep | Decision::Rotate { .. }),
            "{trouble}: {end:?}"
        );
        assert!(took < seconds(2 * trouble + 10), "{trouble}: {took:?}");
    }
}

#[test]
fn one_of_those_that_failed_together_may_come_back_alone() {
    for good in 0..3 {
        let now = Now::of_tests();
        let mut pool = pool_of(&["a", "b", "c"]);
        for index in 0..3 {
            tell(&mut pool, index, now, used(0.1, 600, now));
        }
        let now = now.after(MINUTE);
        tell(&mut pool, 0, now, rejected());
        tell(&mut pool, 0, now.after(seconds(1)), rejected());
        let now = now.after(seconds(1));
        let (took, _, end) = hold_out(&mut pool, now, |index, passed| {
            if index == good && passed > MINUTE {
                used(0.1, 600, now)
            } else {
                rejected()
            }
        });
        let wanted = match good {
            0 => Decision::Keep,
            index => Decision::Rotate { index },
        };
        assert_eq!(end, wanted);
        assert!(took < 3 * MINUTE, "{took:?}");
        // It shows that the others were refused for themselves.
        pool.next(good);
        let now = now.after(took + MINUTE);
        tell(&mut pool, good, now, rejected());
        tell(&mut pool, good, now.after(seconds(1)), rejected());
        let (_, asked, end) = hold_out(&mut pool, now.after(seconds(1)), |_, _| rejected());
        assert_eq!(end, Decision::NoUsableToken);
        // Each of them is asked once before the end.
        let others = asked.iter().enumerate().filter(|(index, _)| *index != good);
        assert!(
            others.into_iter().all(|(_, times)| *times == 1),
            "{asked:?}"
        );
    }
}

#[test]
fn tokens_that_are_all_revoked_end_the_run_in_bounded_time() {
    // Several that worked, one that worked, several that never did.
    for (tokens, worked, least, most) in
        [(3, true, 300, 700), (1, true, 300, 700), (2, false, 10, 20)]
    {
        let now = Now::of_tests();
        let texts = ["a", "b", "c"];
        let mut pool = pool_of(&texts[..tokens]);
        for index in (0..tokens).filter(|_| worked) {
            tell(&mut pool, index, now, used(0.1, 600, now));
        }
        let now = now.after(seconds(1));
        tell(&mut pool, 0, now, rejected());
        let (took, asked, end) = hold_out(&mut pool, now, |_, _| rejected());
        assert_eq!(end, Decision::NoUsableToken);
        assert!(took >= seconds(least) && took <= seconds(most), "{took:?}");
        assert!(
            asked.iter().all(|times| *times <= BELIEVED_AFTER),
            "{asked:?}"
        );
    }
    // One that never did is told at once.
    let now = Now::of_tests();
    let mut pool = pool_of(&["a"]);
    tell(&mut pool, 0, now, rejected());
    assert_eq!(running(&pool, now), Decision::NoUsableToken);
}

/// One ring over two providers, all tokens of which have worked.
fn mixed(now: Now) -> TokenPool {
    let mut pool = pool_over(&[("anthropic", "a"), ("anthropic", "b"), ("openai", "x")]);
    for index in 0..3 {
        tell(&mut pool, index, now, used(0.1, 600, now));
    }
    pool
}

#[test]
fn in_one_ring_a_provider_that_rejects_its_tokens_together_is_left_and_come_back_to() {
    let now = Now::of_tests();
    let mut pool = mixed(now);
    let now = now.after(MINUTE);
    tell(&mut pool, 0, now, rejected());
    assert_eq!(running(&pool, now), Decision::Keep);
    let now = now.after(MINUTE);
    tell(&mut pool, 0, now, rejected());
    assert_eq!(running(&pool, now), Decision::Probe { index: 1 });
    tell(&mut pool, 1, now, rejected());
    assert_eq!(running(&pool, now), Decision::Probe { index: 2 });
    tell(&mut pool, 2, now, used(0.1, 600, now));
    assert_eq!(running(&pool, now), Decision::Rotate { index: 2 });
    pool.next(2);
    // That the other provider knows its tokens says nothing of these.
    let now = now.after(10 * MINUTE);
    tell(&mut pool, 2, now, limited(3600));
    assert_eq!(running(&pool, now), Decision::Probe { index: 0 });
    tell(&mut pool, 0, now, used(0.1, 600, now));
    assert_eq!(running(&pool, now), Decision::Rotate { index: 0 });
}

#[test]
fn in_one_ring_tokens_that_are_all_rejected_are_held_whoever_was_accepted_last() {
    let began = Now::of_tests();
    let mut pool = mixed(began);
    let mut now = began.after(MINUTE);
    tell(&mut pool, 0, now, rejected());
    // The other provider was still well after that.
    now = now.after(seconds(1));
    tell(&mut pool, 2, now, used(0.1, 600, now));
    now = now.after(seconds(1));
    let good_again = |index: usize, passed: Duration| match (index, passed >= 2 * MINUTE) {
        (0, true) => used(0.1, 600, began),
        _ => rejected(),
    };
    let (took, _, end) = hold_out(&mut pool.clone(), now, good_again);
    assert_eq!(end, Decision::Keep);
    assert!(took < 5 * MINUTE, "{took:?}");
    let (took, asked, end) = hold_out(&mut pool, now, |_, _| rejected());
    assert_eq!(end, Decision::NoUsableToken);
    assert!(took >= 5 * MINUTE && took <= 12 * MINUTE, "{took:?}");
    assert!(
        asked.iter().all(|times| *times <= BELIEVED_AFTER),
        "{asked:?}"
    );
}

#[test]
fn a_rejection_that_names_the_organization_is_believed() {
    let now = Now::of_tests();
    let mut pool = pool_of(&["a", "b"]);
    for index in 0..2 {
        tell(&mut pool, index, now, used(0.1, 600, now));
    }
    let now = now.after(seconds(1));
    for index in [0, 0, 1, 1] {
        tell(&mut pool, index, now, of_group("org", rejected()));
    }
    assert_eq!(running(&pool, now), Decision::NoUsableToken);
}

#[test]
fn a_limit_of_all_tokens_at_once_is_waited_for() {
    // No organization is named: an address or a whole provider may be limited. No token of it is
    // worse than another, and none is given up.
    let now = Now::of_tests();
    let mut pool = pool_of(&["a", "b", "c"]);
    for index in 0..3 {
        tell(&mut pool, index, now, limited(30));
    }
    assert_waits(running(&pool, now), 0, seconds(30), now);
}
