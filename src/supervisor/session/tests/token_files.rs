//! Token files that are read again.

use super::*;

impl Night {
    /// The token files are read again: these tokens are in them now.
    fn reread(&mut self, tokens: &[&str]) -> Turn {
        let found: Vec<_> = pool_of(tokens).tokens().cloned().collect();
        let pool = self.session.pools().next().unwrap();
        let renewals = pool.compare(&found).map(|renewal| (0, renewal));
        self.event(Event::Tokens(renewals.into_iter().collect()))
    }

    /// A night with a spent token from a file.
    fn with_a_file(span: u64) -> Night {
        let mut night = Night::of(&["a"]);
        night.session.rereads_token_files();
        assert_eq!(night.answer(0, night.limited(span)).action, Action::Reread);
        night
    }
}

#[test]
fn before_a_pause_the_token_files_are_read_again() {
    let mut night = Night::with_a_file(900);
    assert!(night.session.is_running());
    // Nothing is new: the pause.
    assert_eq!(night.reread(&["a"]).action, Action::Pause);
    let mut night = Night::with_a_file(900);
    let turn = night.reread(&["a", "b"]);
    assert_eq!(turn.action, ask(1));
    assert!(matches!(turn.events[..], [RunEvent::TokensChanged { .. }]));
    let turn = night.answer(1, night.used(0.1, 900));
    assert_eq!(turn.action, Action::Stop(Signal::SIGTERM));
}

#[test]
fn in_a_wait_the_token_files_are_looked_at_whenever_the_loop_wakes_up() {
    let mut night = Night::with_a_file(900);
    assert_eq!(night.reread(&["a"]).action, Action::Pause);
    assert_eq!(night.event(stopped()).action, Action::Nothing);
    night.pass(15);
    assert_eq!(night.event(Event::Deadline).action, Action::Reread);
    let turn = night.reread(&["a"]);
    assert_eq!((turn.action, turn.events.len()), (Action::Nothing, 0));
    night.pass(15);
    assert_eq!(night.event(Event::Deadline).action, Action::Reread);
    assert_eq!(night.reread(&["a", "b"]).action, ask(1));
    let turn = night.answer(1, night.used(0.1, 900));
    assert_eq!(turn.action, Action::Stop(Signal::SIGTERM));
}

#[test]
fn a_token_that_is_gone_is_left_and_not_asked_again() {
    let mut night = Night::with_a_file(900);
    assert_eq!(night.reread(&["b"]).action, ask(1));
    let turn = night.answer(1, night.limited(1800));
    assert_eq!(turn.action, Action::Pause, "until the second one's reset");
    assert_eq!(night.event(stopped()).action, Action::Nothing);
    // The first one's reset, and the looks of a long wait.
    night.pass(1000);
    assert_eq!(night.event(Event::Deadline).action, ask(1));
    assert_eq!(night.answer(1, night.limited(800)).action, Action::Reread);
    assert_eq!(night.reread(&["b"]).action, Action::Nothing);
    night.pass(801);
    assert_eq!(night.event(Event::Deadline).action, ask(1));
    let turn = night.answer(1, night.used(0.1, 900));
    assert_eq!(turn.action, Action::Stop(Signal::SIGTERM));
}

#[test]
fn a_token_that_was_taken_out_and_put_back_is_used_again() {
    let mut night = Night::of(&["a", "b"]);
    night.session.rereads_token_files();
    assert_eq!(night.answer(1, night.limited(20)).action, Action::Nothing);
    assert_eq!(night.answer(0, night.limited(900)).action, Action::Reread);
    assert_eq!(night.reread(&["a"]).action, Action::Pause);
    assert_eq!(night.event(stopped()).action, Action::Nothing);
    night.pass(30);
    assert_eq!(night.event(Event::Deadline).action, Action::Reread);
    assert_eq!(night.reread(&["a", "b"]).action, ask(1));
    let turn = night.answer(1, night.used(0.1, 900));
    assert_eq!(turn.action, Action::Stop(Signal::SIGTERM));
}

#[test]
fn a_token_that_is_rejected_all_at_once_may_have_been_replaced_in_its_file() {
    let mut night = Night::of(&["a"]);
    let notice = || {
        Event::Proxy(RunEvent::Silent {
            provider: crate::providers::by_name("anthropic").unwrap(),
            silence: crate::tokens::condition::ProbeFailure::Doubtful,
            why: None,
        })
    };
    assert_eq!(night.event(notice()).action, Action::Nothing);
    night.session.rereads_token_files();
    assert_eq!(night.event(notice()).action, Action::Reread);
}
