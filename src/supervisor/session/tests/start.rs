//! A first start with tokens that are known to be spent.

use super::*;

/// A session whose tokens an earlier run found spent, for so many seconds each, at its start. Each is
/// asked once before it waits, and says the same.
fn remembered(ends: &[u64], change: impl FnOnce(&mut Rules)) -> (Night, Turn) {
    let mut night = Night::with(&["x"], change);
    let mut pool = pool_of(&["a", "b", "c"][..ends.len()]);
    for (index, span) in ends.iter().enumerate() {
        let until = Until::after(seconds(*span), night.now);
        let condition = Condition::Limited { until };
        pool.standing_mut(index)
            .recall(condition, None, night.now.wall);
    }
    night.session = Session::new(vec![pool], night.session.rules.clone(), None, night.now);
    let mut reply = night.session.start(night.now);
    while let Action::Probe(token) = reply.action {
        let limited = Finding::Limited {
            retry_after: Some(seconds(ends[token.index])),
        };
        reply = night.answer(token.index, found(limited));
    }
    (night, reply)
}

#[test]
fn a_run_starts_with_the_first_token_that_is_not_known_to_be_spent() {
    let (mut night, reply) = remembered(&[600, 0, 600], |_| {});
    assert_eq!(reply.action, Action::Launch { again: false });
    assert!(words(&reply).starts_with("Starting with token 2/3: "));
    // Those that are known already are not asked again.
    let reply = night.answer(1, night.used(0.1, 60));
    assert_eq!(reply.action, Action::Nothing);
    // But before a wait each is asked.
    night.pass(60);
    assert_eq!(night.answer(1, night.used(0.97, 900)).action, ask(2));
}

#[test]
fn with_every_token_known_to_be_spent_it_waits_asks_and_starts() {
    let (mut night, reply) = remembered(&[600, 300], |_| {});
    assert_eq!(reply.action, Action::Nothing);
    let story = "Token limit reached\nAll tokens exhausted!\n\
                 Waiting for limits to reset (approximately 5m)... token 2/2 at ";
    assert!(words(&reply).contains(story), "{}", words(&reply));
    assert!(!words(&reply).contains("Pausing"));
    night.pass(299);
    assert_eq!(night.event(Event::Deadline).action, Action::Nothing);
    night.pass(1);
    assert_eq!(night.event(Event::Deadline).action, ask(1));
    let reply = night.answer(1, night.used(0.0, 60));
    assert_eq!(reply.action, Action::Launch { again: false });
    assert!(words(&reply).ends_with("Switched to token 2/2"));
    // From here on it is a run like any other.
    night.pass(5);
    let again = night.ends(ExitStatus::Code(1), false);
    assert_eq!(again.action, ask(1));
}

#[test]
fn a_rest_that_was_too_short_is_waited_for_again_and_none_is_asked_before_its_end() {
    let (mut night, _) = remembered(&[600, 300], |_| {});
    night.pass(300);
    assert_eq!(night.event(Event::Deadline).action, ask(1));
    let later = found(Finding::Limited {
        retry_after: Some(seconds(900)),
    });
    let reply = night.answer(1, later);
    assert_eq!(reply.action, Action::Nothing);
    assert!(words(&reply).contains("(approximately 5m)... token 1/2"));
    assert_eq!(night.session.timeout(night.now), Some(SLICE));
    night.pass(300);
    assert_eq!(night.event(Event::Deadline).action, ask(0));
    let reply = night.answer(0, night.used(0.0, 60));
    assert_eq!(reply.action, Action::Launch { again: false });
}

#[test]
fn an_outage_at_the_end_of_the_rest_is_waited_for() {
    let (mut night, _) = remembered(&[300], |_| {});
    night.pass(300);
    assert_eq!(night.event(Event::Deadline).action, ask(0));
    let reply = night.answer(0, Err("connection refused".into()));
    assert_eq!(reply.action, Action::Nothing);
    night.pass(5);
    assert_eq!(night.event(Event::Deadline).action, ask(0));
    let reply = night.answer(0, night.used(0.0, 60));
    assert_eq!(reply.action, Action::Launch { again: false });
}

#[test]
fn a_run_that_is_not_started_ends_without_a_child() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let (mut night, _) = remembered(&[300], |_| {});
        assert_eq!(night.signal(Signal::SIGUSR2), Action::Nothing);
        assert_eq!(night.signal(Signal::SIGTSTP), Action::Suspend);
        let ended = Action::Exit(Outcome::BySignal(signal));
        assert_eq!(night.signal(signal), ended);
    }
    let (_, reply) = remembered(&[300], |rules| rules.max_wait = Some(seconds(60)));
    assert_eq!(reply.action, Action::Exit(Outcome::TryAgainLater));
    let interactive = |rules: &mut Rules| rules.interactive = true;
    let (mut night, reply) = remembered(&[300], interactive);
    assert_eq!(reply.action, Action::Ask);
    assert_eq!(night.session.timeout(night.now), None);
    assert_eq!(night.signal(Signal::SIGCONT), Action::Ask, "asked again");
    let reply = night.event(Event::Line("2".into()));
    assert_eq!(reply.action, Action::Exit(Outcome::TryAgainLater));
    let (mut night, _) = remembered(&[300], interactive);
    assert_eq!(night.event(Event::Line("4".into())).action, Action::Ask);
    assert_eq!(night.event(Event::Line("1".into())).action, Action::Nothing);
    night.pass(300);
    assert_eq!(night.event(Event::Deadline).action, ask(0));
}

#[test]
fn a_remembered_rejection_is_asked_about_before_the_start() {
    let mut night = Night::of(&["x"]);
    let mut pool = pool_of(&["a", "b"]);
    for index in 0..2 {
        pool.standing_mut(index)
            .recall(Condition::Rejected, None, night.now.wall);
    }
    night.session = Session::new(vec![pool], night.session.rules.clone(), None, night.now);
    assert_eq!(night.session.start(night.now).action, ask(0));
    assert_eq!(night.answer(0, found(Finding::Rejected)).action, ask(1));
    // Together they may be refused for the provider's own trouble, so they are asked some more.
    for pause in [5, 10] {
        assert_eq!(
            night.answer(1, found(Finding::Rejected)).action,
            Action::Nothing
        );
        night.pass(pause);
        assert_eq!(night.event(Event::Deadline).action, ask(0));
        assert_eq!(night.answer(0, found(Finding::Rejected)).action, ask(1));
    }
    let reply = night.answer(1, found(Finding::Rejected));
    assert_eq!(reply.action, Action::Exit(Outcome::TryAgainLater));
}
