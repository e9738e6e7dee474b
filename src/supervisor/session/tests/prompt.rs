//! The questions of interactive mode, and what each answer means.

use super::*;

fn line(text: &str) -> Event {
    Event::Line(text.into())
}

/// An interactive night at the prompt, with another token usable or not.
fn asked(tokens: &[&str]) -> Night {
    let mut night = Night::with(tokens, |rules| rules.interactive = true);
    night.pass(60);
    let mut reply = night.answer(0, night.used(0.97, 1103));
    if tokens.len() > 1 {
        assert_eq!(reply.action, ask(1));
        reply = night.answer(1, night.used(0.1, 60));
    }
    assert_eq!(reply.action, Action::Pause);
    // Nothing is asked before the child has stopped and given the terminal back.
    assert_eq!(night.event(stopped()).action, Action::Ask);
    night
}

#[test]
fn the_prompt_reads_as_in_the_transcript() {
    let mut night = Night::with(&["a", "b"], |rules| rules.interactive = true);
    let _ = night.answer(0, night.used(0.97, 1103));
    let reply = night.answer(1, night.used(0.1, 60));
    assert!(words(&reply).ends_with("Token limit approaching (97% used)"));
    let reply = night.event(stopped());
    assert_eq!(
        words(&reply),
        "\nWhat would you like to do?\n  \
         1) Rotate to next token and continue\n  \
         2) Wait for limit to reset (18m 23s)\n  \
         3) Exit and save state\n  \
         4) Keep going (may hit 429 errors)\n\nChoice [1]: "
    );
    let reply = asked(&["a"]).event(line("x"));
    assert_eq!(
        words(&reply),
        "No such choice\n\nWhat would you like to do?\n  \
         1) Wait for limits to reset\n  2) Exit and save state\n\nChoice [1]: "
    );
}

#[test]
fn each_choice_does_what_it_says() {
    for choice in ["", "1"] {
        let mut night = asked(&["a", "b"]);
        let action = night.event(line(choice)).action;
        assert_eq!(action, Action::Stop(Signal::SIGTERM));
        let reply = night.ends(ExitStatus::Signal(15), true);
        assert_eq!(reply.action, Action::Launch { again: true });
        assert_eq!(words(&reply), "Switched to token 2/2");
    }
    let mut night = asked(&["a", "b"]);
    let action = night.event(line("3")).action;
    assert_eq!(action, Action::Stop(Signal::SIGTERM));
    let action = night.ends(ExitStatus::Code(143), true).action;
    assert_eq!(action, Action::Exit(Outcome::TryAgainLater));
    for choice in ["5", "yes", "rotate", "11"] {
        let mut night = asked(&["a", "b"]);
        assert_eq!(night.event(line(choice)).action, Action::Ask, "{choice}");
    }
}

#[test]
fn whoever_chooses_to_wait_waits_for_that_token() {
    let mut night = asked(&["a", "b"]);
    let reply = night.event(line("2"));
    assert_eq!(reply.action, Action::Nothing);
    assert_eq!(words(&reply), "Pausing subprocess for 18m 23s...");
    night.pass(600);
    assert_eq!(night.event(Event::Deadline).action, Action::Nothing);
    night.pass(600);
    assert_eq!(night.event(Event::Deadline).action, ask(0));
    assert_eq!(night.answer(0, night.used(0.0, 60)).action, Action::Resume);
}

/// A rejected token has no reset to wait for.
#[test]
fn a_wait_that_would_never_end_is_not_offered() {
    let mut night = Night::with(&["a", "b"], |rules| rules.interactive = true);
    night.pass(60);
    let _ = night.answer(0, found(Finding::Rejected));
    night.pass(60);
    let _ = night.answer(0, found(Finding::Rejected));
    assert_eq!(night.answer(1, night.used(0.1, 60)).action, Action::Pause);
    let reply = night.event(stopped());
    let question = "\nWhat would you like to do?\n  \
         1) Rotate to next token and continue\n  \
         3) Exit and save state\n  \
         4) Keep going (may hit 429 errors)\n\nChoice [1]: ";
    assert_eq!(words(&reply), question);
    let reply = night.event(line("2"));
    assert_eq!(reply.action, Action::Ask);
    assert_eq!(words(&reply), format!("No such choice\n{question}"));
    let action = night.event(line("1")).action;
    assert_eq!(action, Action::Stop(Signal::SIGTERM));
}

#[test]
fn keeping_on_is_quiet_until_the_token_is_refused_or_the_window_resets() {
    let mut night = asked(&["a", "b"]);
    assert_eq!(night.event(line("4")).action, Action::Resume);
    night.pass(60);
    assert_eq!(
        night.answer(0, night.used(0.99, 900)).action,
        Action::Nothing
    );
    let limited = found(Finding::Limited {
        retry_after: Some(seconds(900)),
    });
    assert_ne!(night.answer(0, limited).action, Action::Nothing);

    let mut night = asked(&["a", "b"]);
    assert_eq!(night.event(line("4")).action, Action::Resume);
    night.pass(60);
    assert_eq!(
        night.answer(0, night.used(0.1, 900)).action,
        Action::Nothing
    );
    night.pass(60);
    assert_eq!(night.answer(0, night.used(0.97, 900)).action, ask(1));
}

#[test]
fn an_open_question_is_ended_by_an_answer_or_an_end_only() {
    let mut night = asked(&["a", "b"]);
    assert_eq!(night.session.timeout(night.now), None);
    assert_eq!(night.answer(0, night.used(0.0, 60)).action, Action::Nothing);
    assert_eq!(night.signal(Signal::SIGTSTP), Action::Suspend);
    assert_eq!(night.signal(Signal::SIGCONT), Action::Ask);
    assert_eq!(
        night.ends(ExitStatus::Signal(9), false).action,
        as_child(ExitStatus::Signal(9))
    );
    let mut night = asked(&["a", "b"]);
    assert_eq!(night.signal(Signal::SIGINT), Action::Stop(Signal::SIGTERM));
    let action = night.ends(ExitStatus::Code(0), true).action;
    assert_eq!(action, Action::Exit(Outcome::BySignal(Signal::SIGINT)));
}

/// The same for a child that has failed for its limit, which is gone.
fn asked_after_a_failure(tokens: &[&str]) -> Night {
    let mut night = Night::with(tokens, |rules| rules.interactive = true);
    night.pass(60);
    assert_eq!(night.ends(ExitStatus::Code(1), false).action, ask(0));
    let mut reply = night.answer(0, night.limited(1103));
    if tokens.len() > 1 {
        assert_eq!(reply.action, ask(1));
        reply = night.answer(1, night.used(0.1, 60));
    }
    assert_eq!(reply.action, Action::Ask);
    let said = words(&reply);
    let cause = "Process exited with status 1\nToken limit reached\n";
    assert!(said.contains(cause), "{said}");
    assert_eq!(said.contains("limit to reset (18m 23s)"), tokens.len() > 1);
    night
}

#[test]
fn a_child_that_failed_for_a_limit_is_not_started_again_unasked() {
    let mut night = asked_after_a_failure(&["a", "b"]);
    // Nothing but an answer or a signal ends the question.
    assert_eq!(night.session.timeout(night.now), None);
    assert!(night.session.waits_until().is_none());
    night.pass(3600);
    assert_eq!(night.event(Event::Deadline).action, Action::Nothing);
    assert_eq!(night.answer(0, night.used(0.1, 60)).action, Action::Nothing);
    assert_eq!(night.signal(Signal::SIGTSTP), Action::Suspend);
    assert_eq!(night.signal(Signal::SIGCONT), Action::Ask);
    assert_eq!(night.event(line("5")).action, Action::Ask);
    let ended = Action::Exit(Outcome::BySignal(Signal::SIGINT));
    assert_eq!(night.signal(Signal::SIGINT), ended);
}

#[test]
fn each_choice_after_a_failure_does_what_it_says() {
    // Rotate: what was answered before the question may be hours old.
    for choice in ["", "1"] {
        let mut night = asked_after_a_failure(&["a", "b"]);
        night.pass(600);
        assert_eq!(night.event(line(choice)).action, ask(0));
        assert_eq!(night.answer(0, night.limited(503)).action, ask(1));
        let reply = night.answer(1, night.used(0.1, 60));
        assert_eq!(reply.action, Action::Launch { again: true });
        let said = words(&reply);
        let wanted = "\nAuto-rotating to next token...\nSwitched to token 2/2";
        assert!(said.ends_with(wanted), "{said}");
    }
    // Wait for this token, and nobody is asked again.
    let mut night = asked_after_a_failure(&["a", "b"]);
    night.pass(3);
    assert_eq!(night.event(line("2")).action, ask(0));
    let reply = night.answer(0, night.limited(1100));
    assert_eq!(reply.action, Action::Nothing);
    let said = words(&reply);
    assert!(
        said.contains("(approximately 18m 20s)... token 1/2"),
        "{said}"
    );
    night.pass(600);
    assert_eq!(night.event(Event::Deadline).action, Action::Nothing);
    night.pass(500);
    assert_eq!(night.event(Event::Deadline).action, ask(0));
    let reply = night.answer(0, night.used(0.0, 60));
    assert_eq!(reply.action, Action::Launch { again: true });
    // Exit.
    let mut night = asked_after_a_failure(&["a", "b"]);
    let reply = night.event(line("3"));
    assert_eq!(reply.action, Action::Exit(Outcome::TryAgainLater));
    // Keep going: with the same token, until it fails again.
    let mut night = asked_after_a_failure(&["a", "b"]);
    let reply = night.event(line("4"));
    assert_eq!(reply.action, Action::Launch { again: true });
    assert!(!words(&reply).contains("Switched"), "{}", words(&reply));
    night.pass(60);
    assert_eq!(night.ends(ExitStatus::Code(1), false).action, ask(0));
    assert_eq!(night.answer(0, night.limited(900)).action, ask(1));
    assert_eq!(night.answer(1, night.used(0.1, 60)).action, Action::Ask);
}

#[test]
fn keeping_on_after_a_failure_at_once_keeps_the_time_between_starts() {
    let mut night = Night::with(&["a", "b"], |rules| rules.interactive = true);
    assert_eq!(night.ends(ExitStatus::Code(1), false).action, ask(0));
    assert_eq!(night.answer(0, night.limited(900)).action, ask(1));
    assert_eq!(night.answer(1, night.used(0.1, 60)).action, Action::Ask);
    assert_eq!(night.event(line("4")).action, Action::Nothing);
    night.pass(1);
    let reply = night.event(Event::Deadline);
    assert_eq!(reply.action, Action::Launch { again: true });
    assert!(!words(&reply).contains("Switched"), "{}", words(&reply));
}

#[test]
fn after_a_failure_with_every_token_spent_there_are_two_choices() {
    let mut night = asked_after_a_failure(&["a"]);
    assert_eq!(night.event(line("4")).action, Action::Ask);
    let reply = night.event(line("1"));
    assert_eq!(reply.action, Action::Nothing);
    assert!(!words(&reply).contains("Pausing"), "{}", words(&reply));
    assert!(night.session.waits_until().is_some());
    night.pass(1103);
    assert_eq!(night.event(Event::Deadline).action, ask(0));
    let reply = night.answer(0, night.used(0.0, 60));
    assert_eq!(reply.action, Action::Launch { again: true });
    let reply = asked_after_a_failure(&["a"]).event(line("2"));
    assert_eq!(reply.action, Action::Exit(Outcome::TryAgainLater));
}

#[test]
fn a_failure_that_no_limit_explains_is_not_asked_about() {
    let interactive = |rules: &mut Rules| rules.interactive = true;
    // Its own.
    let mut night = Night::with(&["a", "b"], interactive);
    assert_eq!(night.ends(ExitStatus::Code(3), false).action, ask(0));
    let reply = night.answer(0, night.used(0.1, 60));
    assert_eq!(reply.action, as_child(ExitStatus::Code(3)));
    // An outage, which is waited for.
    let mut night = Night::with(&["a", "b"], interactive);
    assert_eq!(night.ends(ExitStatus::Code(3), false).action, ask(0));
    let silent = found(Finding::Overloaded { retry_after: None });
    assert_eq!(night.answer(0, silent).action, Action::Nothing);
    assert!(night.session.waits_until().is_some());
    // A reset within the patience.
    let mut night = Night::with(&["a"], interactive);
    assert_eq!(night.ends(ExitStatus::Code(3), false).action, ask(0));
    assert_eq!(night.answer(0, night.limited(3)).action, Action::Nothing);
}

#[test]
fn a_child_that_tells_its_limit_is_asked_about_once_it_is_gone() {
    let mut night = Night::with(&["a", "b"], |rules| rules.interactive = true);
    night.pass(60);
    let told = Event::Hook(HookEvent {
        provider: "anthropic",
        trouble: Trouble::Limited,
    });
    assert_eq!(night.event(told).action, ask(0));
    night.pass(2);
    let action = night.answer(0, night.limited(1103)).action;
    assert_eq!(action, Action::Stop(Signal::SIGTERM));
    night.pass(1);
    assert_eq!(night.ends(ExitStatus::Code(143), true).action, ask(0));
    assert_eq!(night.answer(0, night.limited(1103)).action, ask(1));
    let reply = night.answer(1, night.used(0.1, 60));
    assert_eq!(reply.action, Action::Ask);
    assert!(
        !words(&reply).contains("Auto-rotating"),
        "{}",
        words(&reply)
    );
}

#[test]
fn a_reset_within_the_patience_is_not_asked_about() {
    let mut night = Night::with(&["a", "b"], |rules| rules.interactive = true);
    let reply = night.answer(
        0,
        found(Finding::Limited {
            retry_after: Some(seconds(3)),
        }),
    );
    assert_eq!(reply.action, Action::Pause);
    assert!(!words(&reply).contains("exhausted"), "{}", words(&reply));
    assert_eq!(night.event(stopped()).action, Action::Nothing);
}
