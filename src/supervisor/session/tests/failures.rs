//! A child that fails: whose fault it was, and whether it is started again.

use super::*;

#[test]
fn a_failure_with_a_good_token_is_the_childs_own() {
    let mut night = Night::of(&["a", "b"]);
    assert_eq!(night.ends(ExitStatus::Code(3), false).action, ask(0));
    let reply = night.answer(0, night.used(0.2, 60));
    assert_eq!(reply.action, as_child(ExitStatus::Code(3)));
    assert!(words(&reply).ends_with("Process exited with status 3"));
}

#[test]
fn a_failure_with_a_spent_token_goes_on_with_the_next() {
    let mut night = Night::of(&["a", "b"]);
    assert_eq!(night.ends(ExitStatus::Code(1), false).action, ask(0));
    let limited = found(Finding::Limited {
        retry_after: Some(seconds(900)),
    });
    assert_eq!(night.answer(0, limited).action, ask(1));
    let reply = night.answer(1, night.used(0.1, 60));
    assert_eq!(reply.action, Action::Launch { again: true });
    assert!(
        words(&reply).contains("Switched to token 2/2"),
        "{}",
        words(&reply)
    );
}

/// Providers refuse what would go over the limit, which a check does not.
#[test]
fn a_failure_with_a_minute_above_half_used_is_the_limits() {
    for (before, after, reset, is_blamed) in [
        (0.7, 0.7, 42, true),
        (0.7, 0.1, 42, true),
        (0.1, 0.7, 42, true),
        (0.5, 0.39, 30, false),
        (0.7, 0.7, 900, false),
    ] {
        let mut night = Night::of(&["a", "b"]);
        assert_eq!(night.answer(0, night.used(before, reset)).action, ask(1));
        let _ = night.answer(1, night.used(0.1, 6));
        night.pass(10);
        assert_eq!(night.ends(ExitStatus::Code(1), false).action, ask(0));
        let reply = night.answer(0, night.used(after, reset));
        if !is_blamed {
            assert_eq!(reply.action, as_child(ExitStatus::Code(1)));
            continue;
        }
        assert_eq!(reply.action, ask(1));
        assert!(words(&reply).ends_with("Token limit approaching (70% used)"));
        let reply = night.answer(1, night.used(0.1, 6));
        assert_eq!(reply.action, Action::Launch { again: true });
    }
    // Neither success nor a crash nor a missing program is a limit's.
    for how in [
        ExitStatus::Code(0),
        ExitStatus::Code(127),
        ExitStatus::Signal(11),
    ] {
        let mut night = Night::of(&["a"]);
        let _ = night.answer(0, night.used(0.7, 42));
        night.pass(10);
        let action = night.ends(how, false).action;
        if how != ExitStatus::Code(0) {
            assert_eq!(action, ask(0));
            assert_eq!(night.answer(0, night.used(0.7, 42)).action, as_child(how));
        }
    }
}

/// The minutes that are waited, where each start lives for 10 s and then finds its token so full, after
/// it had found it so full at its start.
fn waits_above_half(at_start: f64, at_end: f64) -> Vec<u64> {
    let mut night = Night::of(&["a"]);
    let _ = night.answer(0, night.used(at_start, 42));
    let mut waits = Vec::new();
    for _ in 0..7 {
        night.pass(10);
        assert_eq!(night.ends(ExitStatus::Code(1), false).action, ask(0));
        let reply = night.answer(0, night.used(at_end, 50));
        assert_eq!(reply.action, Action::Nothing, "{}", words(&reply));
        let span = night.session.waits_until().unwrap().remaining(night.now);
        waits.push(span.as_secs() / 60);
        let ends = night.now.tick + span;
        while night.now.tick < ends {
            night.pass(60);
            let action = night.event(Event::Deadline).action;
            if action == ask(0) {
                let _ = night.answer(0, night.used(at_start, 42));
            }
        }
        if !matches!(night.session.phase, Phase::Running { .. }) {
            let _ = night.answer(0, night.used(at_start, 42));
        }
        assert!(night.session.is_running());
    }
    waits
}

#[test]
fn starts_without_progress_are_ever_farther_apart() {
    assert_eq!(waits_above_half(0.7, 0.6), [1, 2, 4, 8, 15, 15, 15]);
    // What it had used meanwhile was served.
    assert_eq!(waits_above_half(0.1, 0.8), [1; 7]);
}

#[test]
fn clients_that_give_up_at_once_get_each_token() {
    let tokens = ["a", "b", "c", "d"];
    let mut night = Night::of(&tokens);
    let _ = night.answer(0, night.used(0.7, 42));
    for next in [1, 2, 3] {
        night.session.last_start = night.now.tick;
        night.pass(1);
        assert_eq!(night.ends(ExitStatus::Code(1), false).action, ask(next - 1));
        let _ = night.answer(next - 1, night.used(0.7, 42));
        let _ = night.answer(next, night.used(0.7, 42));
        night.pass(1);
        if !night.session.is_running() {
            let _ = night.event(Event::Deadline);
        }
        assert!(night.session.is_running(), "{next}");
    }
    // It has never been seen to work.
    night.session.last_start = night.now.tick;
    let reply = night.ends(ExitStatus::Code(1), false);
    assert_eq!(reply.action, as_child(ExitStatus::Code(1)));
}

#[test]
fn a_failure_with_every_token_spent_waits_and_starts_again() {
    let mut night = Night::of(&["a"]);
    assert_eq!(night.ends(ExitStatus::Code(1), false).action, ask(0));
    let reply = night.answer(
        0,
        found(Finding::Limited {
            retry_after: Some(seconds(30)),
        }),
    );
    assert_eq!(reply.action, Action::Nothing);
    assert!(words(&reply).contains("Waiting for limits to reset (approximately 30s)"));
    night.pass(30);
    assert_eq!(night.event(Event::Deadline).action, ask(0));
    let reply = night.answer(0, night.used(0.0, 60));
    assert_eq!(reply.action, Action::Launch { again: true });
}

#[test]
fn a_failure_in_an_outage_waits_until_it_is_over() {
    for silent in [
        found(Finding::Overloaded { retry_after: None }),
        Err("refused".to_owned()),
    ] {
        let mut night = Night::of(&["a", "b"]);
        let _ = night.answer(1, night.used(0.1, 60));
        assert_eq!(night.ends(ExitStatus::Code(1), false).action, ask(0));
        assert_eq!(night.answer(0, silent).action, Action::Nothing);
        assert_eq!(night.session.timeout(night.now), Some(seconds(5)));
        night.pass(5);
        assert_eq!(night.event(Event::Deadline).action, ask(0));
        let reply = night.answer(0, night.used(0.1, 60));
        assert_eq!(reply.action, Action::Launch { again: true });
    }
}

#[test]
fn a_provider_that_never_answered_is_not_waited_for_all_night() {
    let mut night = Night::of(&["a"]);
    let mut action = night.ends(ExitStatus::Code(7), false).action;
    for _ in 0..10 {
        match action {
            Action::Probe(_) => action = night.answer(0, Err("refused".into())).action,
            Action::Nothing => {
                let span = night.session.timeout(night.now).unwrap();
                night.now.wall += span;
                night.now.tick += span;
                action = night.event(Event::Deadline).action;
            }
            other => {
                assert_eq!(other, as_child(ExitStatus::Code(7)));
                return;
            }
        }
    }
    let mut tries = 0;
    while action != as_child(ExitStatus::Code(7)) {
        tries += 1;
        assert!(tries < 30, "{action:?}");
        night.pass(15);
        action = match action {
            Action::Probe(_) => night.answer(0, Err("refused".into())).action,
            _ => night.event(Event::Deadline).action,
        };
    }
}

#[test]
fn retries_are_counted_and_spaced() {
    let mut night = Night::with(&["a"], |rules| rules.retries = 2);
    let mut starts = 0;
    for _ in 0..3 {
        night.pass(10);
        assert_eq!(night.ends(ExitStatus::Code(1), false).action, ask(0));
        let reply = night.answer(0, night.used(0.1, 60));
        if starts == 2 {
            assert_eq!(reply.action, as_child(ExitStatus::Code(1)));
            return;
        }
        assert_eq!(reply.action, Action::Nothing);
        starts += 1;
        assert!(
            words(&reply).contains(&format!("retry {starts} of 2")),
            "{}",
            words(&reply)
        );
        let span = night.session.timeout(night.now).unwrap();
        assert!(span >= BETWEEN_STARTS * starts);
        night.now.wall += span;
        night.now.tick += span;
        let reply = night.event(Event::Deadline);
        assert_eq!(reply.action, Action::Launch { again: true });
    }
    panic!("no end");
}

#[test]
fn three_short_lives_end_the_run() {
    let mut night = Night::with(&["a"], |rules| rules.retries = 100);
    for life in 1..=3 {
        let reply = night.ends(ExitStatus::Code(9), false);
        if life == 3 {
            assert_eq!(reply.action, as_child(ExitStatus::Code(9)));
            assert!(words(&reply).contains("Three starts"));
            return;
        }
        let _ = night.answer(0, night.used(0.1, 60));
        night.pass(100);
        let reply = night.event(Event::Deadline);
        assert_eq!(reply.action, Action::Launch { again: true });
    }
}

#[test]
fn a_client_that_gives_up_after_its_pause_is_started_again_once() {
    let mut night = Night::paused(30);
    night.pass(30);
    let _ = night.event(Event::Deadline);
    let good = night.used(0.0, 60);
    assert_eq!(night.answer(0, good).action, Action::Resume);
    night.pass(3);
    assert_eq!(night.ends(ExitStatus::Code(1), false).action, ask(0));
    let good = night.used(0.0, 60);
    assert_eq!(night.answer(0, good).action, Action::Launch { again: true });
    // The next failure is its own.
    night.pass(30);
    assert_eq!(night.ends(ExitStatus::Code(1), false).action, ask(0));
    let good = night.used(0.0, 60);
    assert_eq!(night.answer(0, good).action, as_child(ExitStatus::Code(1)));
}

#[test]
fn a_start_that_fails_for_want_of_room_is_tried_again() {
    let mut night = Night::rotating();
    assert_eq!(
        night.ends(ExitStatus::Signal(15), true).action,
        Action::Launch { again: true }
    );
    night.pass(1);
    let reply = night.event(Event::Job(JobEvent::NotStarted {
        why: "too many open files".into(),
        how: None,
    }));
    assert_eq!(reply.action, Action::Nothing);
    assert!(words(&reply).contains("too many open files"));
    night.pass(5);
    assert_eq!(night.event(Event::Deadline).action, ask(1));
    let good = night.used(0.1, 60);
    assert_eq!(night.answer(1, good).action, Action::Launch { again: true });
}

/// How often the child is started in eight hours in which it is refused so many seconds after each
/// start, says so, and fails, and in which no probe sees anything of that.
fn starts_in_a_night_of_told_limits(tokens: &[&str], life: u64) -> u32 {
    let mut night = Night::of(tokens);
    let began = night.now.tick;
    let mut starts = 1;
    while night.now.tick - began < seconds(8 * 3600) {
        night.pass(life);
        let mut action = night
            .event(Event::Hook(HookEvent {
                provider: "anthropic",
                trouble: Trouble::Limited,
            }))
            .action;
        while let Action::Probe(token) = action {
            let good = night.used(0.1, 60);
            action = night.answer(token.index, good).action;
        }
        action = night.ends(ExitStatus::Code(1), false).action;
        while action != (Action::Launch { again: true }) {
            action = match action {
                Action::Probe(token) => {
                    let good = night.used(0.1, 60);
                    night.answer(token.index, good).action
                }
                Action::Nothing => {
                    let span = night.session.timeout(night.now).unwrap();
                    night.now.wall += span;
                    night.now.tick += span;
                    night.event(Event::Deadline).action
                }
                other => panic!("{other:?}"),
            };
        }
        starts += 1;
    }
    starts
}

#[test]
fn a_limit_that_only_the_child_tells_does_not_burn_the_night_in_restarts() {
    for (tokens, most) in [(&["a"][..], 40), (&["a", "b"], 80)] {
        for life in [3, 60, 184] {
            let starts = starts_in_a_night_of_told_limits(tokens, life);
            assert!((20..=most).contains(&starts), "{tokens:?} {life}: {starts}");
        }
    }
}
