//! The state machine without a process and without a clock.

mod failures;
mod prompt;
mod rings;
mod start;
mod token_files;

use super::*;
use crate::providers::Reading;
use crate::providers::usage::{Usage, Window};
use crate::tokens::pool_of;
use proptest::prelude::*;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A session and the two clocks that it is told.
struct Night {
    session: Session,
    now: Now,
}

impl Night {
    fn with(tokens: &[&str], change: impl FnOnce(&mut Rules)) -> Night {
        let now = Now::of_tests();
        let mut rules = Rules {
            grace: seconds(10),
            ..Rules::without_command(0.95, seconds(5))
        };
        change(&mut rules);
        let mut session = Session::new(vec![pool_of(tokens)], rules, None, now);
        assert_eq!(session.start(now).action, Action::Launch { again: false });
        Night { session, now }
    }

    /// A night with these tokens that has run for a minute.
    fn of(tokens: &[&str]) -> Night {
        let mut night = Night::with(tokens, |_| {});
        night.pass(60);
        night
    }

    fn pass(&mut self, count: u64) {
        self.now.wall += seconds(count);
        self.now.tick += seconds(count);
    }

    /// Takes in an event; what the child has started is gone whenever somebody looks.
    fn event(&mut self, event: Event) -> Turn {
        let mut is_end = matches!(event, Event::Job(JobEvent::Exited { asked: true, .. }));
        let mut turn = self.session.handle(event, self.now);
        while matches!(self.session.phase, Phase::Stopping { how: Some(_), .. })
            && (std::mem::take(&mut is_end)
                || matches!(turn.action, Action::Stop(_) | Action::PassOn(_)))
        {
            let then = self.session.handle(Event::Job(JobEvent::Cleared), self.now);
            turn.events.extend(then.events);
            turn.action = then.action;
        }
        if turn.action == Action::Ask {
            turn.events.extend(self.session.question(self.now));
        }
        turn
    }

    fn answer(&mut self, index: usize, reading: Result<Reading, String>) -> Turn {
        let token = TokenId { ring: 0, index };
        let answer = Answer {
            asked: self.now.tick,
            reading,
        };
        self.event(Event::Probed { token, answer })
    }

    fn signal(&mut self, signal: Signal) -> Action {
        self.event(Event::Signal(signal)).action
    }

    fn ends(&mut self, how: ExitStatus, asked: bool) -> Turn {
        self.event(Event::Job(JobEvent::Exited { how, asked }))
    }

    fn used(&self, share: f64, reset: u64) -> Result<Reading, String> {
        Ok(Reading {
            usage: Usage {
                windows: vec![Window {
                    name: "requests".into(),
                    limit: None,
                    remaining: None,
                    utilization: share,
                    resets_at: Some(self.now.wall + seconds(reset)),
                }],
            },
            finding: Finding::Served,
            quota_group: None,
            said: None,
        })
    }

    fn limited(&self, span: u64) -> Result<Reading, String> {
        found(Finding::Limited {
            retry_after: Some(seconds(span)),
        })
    }

    /// The wait of a single token that is spent for `span` seconds, the child being stopped.
    fn paused(span: u64) -> Night {
        let mut night = Night::of(&["a"]);
        let reply = night.answer(
            0,
            found(Finding::Limited {
                retry_after: Some(seconds(span)),
            }),
        );
        assert_eq!(reply.action, Action::Pause);
        assert_eq!(night.event(stopped()).action, Action::Nothing);
        night
    }

    /// A night in the middle of a rotation: SIGTERM is on its way.
    fn rotating() -> Night {
        let mut night = Night::of(&["a", "b"]);
        assert_eq!(night.answer(0, night.used(0.97, 900)).action, ask(1));
        let reply = night.answer(1, night.used(0.1, 900));
        assert_eq!(reply.action, Action::Stop(Signal::SIGTERM));
        night
    }
}

fn stopped() -> Event {
    Event::Job(JobEvent::Paused)
}

fn ask(index: usize) -> Action {
    Action::Probe(TokenId { ring: 0, index })
}

fn found(finding: Finding) -> Result<Reading, String> {
    Ok(Reading {
        usage: Usage::default(),
        finding,
        quota_group: None,
        said: None,
    })
}

fn words(reply: &Turn) -> String {
    reply
        .events
        .iter()
        .filter_map(RunEvent::message)
        .map(|message| message.text)
        .collect::<Vec<_>>()
        .join("\n")
}

fn as_child(how: ExitStatus) -> Action {
    Action::Exit(Outcome::AsChild(how))
}

#[test]
fn a_rotation_reads_as_in_the_transcript() {
    let mut night = Night::of(&["a", "b", "c"]);
    let reply = night.answer(0, night.used(0.5, 60));
    assert_eq!(
        reply.action,
        ask(1),
        "each token is asked once after the start"
    );
    assert_eq!(night.answer(1, night.used(0.1, 60)).action, ask(2));
    assert_eq!(night.answer(2, night.used(0.1, 60)).action, Action::Nothing);
    night.pass(60);
    assert_eq!(night.answer(0, night.used(0.957, 900)).action, ask(1));
    let reply = night.answer(1, night.used(0.1, 60));
    assert_eq!(reply.action, Action::Stop(Signal::SIGTERM));
    assert!(
        words(&reply)
            .ends_with("Token limit approaching (95% used)\nAuto-rotating to next token..."),
        "{}",
        words(&reply)
    );
    let reply = night.ends(ExitStatus::Signal(15), true);
    assert_eq!(reply.action, Action::Launch { again: true });
    assert_eq!(words(&reply), "Switched to token 2/3");
}

#[test]
fn a_child_that_finished_before_the_order_reached_it_has_finished() {
    let mut night = Night::rotating();
    let reply = night.ends(ExitStatus::Code(0), false);
    assert_eq!(reply.action, as_child(ExitStatus::Code(0)));
    assert_eq!(words(&reply), "Process completed successfully");
    // One that ends well because it was told to has not finished its work.
    let mut night = Night::rotating();
    assert_eq!(
        night.ends(ExitStatus::Code(0), true).action,
        Action::Launch { again: true }
    );
}

#[test]
fn a_forced_kill_is_told_and_the_rotation_goes_on() {
    let mut night = Night::rotating();
    night.pass(9);
    assert_eq!(night.event(Event::Deadline).action, Action::Nothing);
    assert_eq!(night.session.timeout(night.now), None);
    night.pass(1);
    let reply = night.event(Event::Job(JobEvent::ForcingKill));
    assert_eq!(reply.action, Action::Nothing);
    assert_eq!(
        words(&reply),
        "Subprocess didn't exit cleanly, forcing kill..."
    );
    assert_eq!(
        night.ends(ExitStatus::Signal(9), true).action,
        Action::Launch { again: true }
    );
}

#[test]
fn a_wait_pauses_asks_and_resumes() {
    let mut night = Night::of(&["a"]);
    let reply = night.answer(0, night.used(0.95001, 1103));
    assert_eq!(reply.action, Action::Pause);
    for sentence in [
        "No next token available",
        "(approximately 18m 23s)...",
        "Pausing subprocess for 18m 23s...",
    ] {
        assert!(words(&reply).contains(sentence), "{}", words(&reply));
    }
    assert_eq!(night.event(stopped()).action, Action::Nothing);
    // In slices, because of suspend.
    assert_eq!(night.session.timeout(night.now), Some(SLICE));
    night.pass(15);
    assert_eq!(night.event(Event::Deadline).action, Action::Nothing);
    night.pass(1103);
    assert_eq!(night.event(Event::Deadline).action, ask(0));
    assert_eq!(
        night.event(Event::Deadline).action,
        Action::Nothing,
        "one question at a time"
    );
    let reply = night.answer(0, night.used(0.0, 60));
    assert_eq!(reply.action, Action::Resume);
    assert!(words(&reply).ends_with("Resuming subprocess...\nSession continued"));
}

#[test]
fn signals_reach_a_running_child_and_end_a_waiting_one() {
    for (signal, running, paused) in [
        (
            Signal::SIGINT,
            Action::Forward(Signal::SIGINT),
            Action::Stop(Signal::SIGTERM),
        ),
        (
            Signal::SIGQUIT,
            Action::Forward(Signal::SIGQUIT),
            Action::Stop(Signal::SIGTERM),
        ),
        (
            Signal::SIGTERM,
            Action::PassOn(Signal::SIGTERM),
            Action::PassOn(Signal::SIGTERM),
        ),
        (
            Signal::SIGHUP,
            Action::PassOn(Signal::SIGHUP),
            Action::PassOn(Signal::SIGHUP),
        ),
        (
            Signal::SIGUSR1,
            Action::Forward(Signal::SIGUSR1),
            Action::Forward(Signal::SIGUSR1),
        ),
        (
            Signal::SIGCONT,
            Action::Forward(Signal::SIGCONT),
            Action::Forward(Signal::SIGCONT),
        ),
        (
            Signal::SIGTSTP,
            Action::Forward(Signal::SIGTSTP),
            Action::Suspend,
        ),
    ] {
        assert_eq!(Night::of(&["a"]).signal(signal), running, "{signal}");
        assert_eq!(Night::paused(900).signal(signal), paused, "{signal}");
    }
}

#[test]
fn whoever_asks_twice_does_not_wait_for_the_grace() {
    let fatal = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ];
    for second in fatal {
        let mut night = Night::of(&["a"]);
        assert_eq!(
            night.signal(Signal::SIGTERM),
            Action::PassOn(Signal::SIGTERM)
        );
        // At once it is the same end, told twice.
        assert_eq!(night.signal(second), Action::Nothing);
        night.pass(1);
        assert_eq!(night.signal(second), Action::Stop(Signal::SIGKILL));
        assert_eq!(
            night.ends(ExitStatus::Signal(9), true).action,
            as_child(ExitStatus::Signal(9))
        );

        let mut night = Night::rotating();
        assert_eq!(night.signal(second), Action::Stop(Signal::SIGKILL));
        let action = night.ends(ExitStatus::Signal(9), true).action;
        assert_eq!(action, Action::Exit(Outcome::BySignal(second)));
    }
}

#[test]
fn after_sigterm_the_end_is_the_childs() {
    for how in [
        ExitStatus::Code(0),
        ExitStatus::Code(3),
        ExitStatus::Code(143),
        ExitStatus::Signal(15),
    ] {
        let mut night = Night::of(&["a"]);
        assert_eq!(
            night.signal(Signal::SIGTERM),
            Action::PassOn(Signal::SIGTERM)
        );
        assert_eq!(night.ends(how, true).action, as_child(how));
    }
}

#[test]
fn someone_who_ends_the_child_is_not_contradicted() {
    for how in [
        ExitStatus::Signal(2),
        ExitStatus::Signal(15),
        ExitStatus::Signal(9),
        ExitStatus::Code(130),
        ExitStatus::Code(143),
    ] {
        let mut night = Night::of(&["a", "b"]);
        assert_eq!(night.ends(how, false).action, as_child(how), "{how:?}");
    }
}

#[test]
fn all_rejected_is_try_again_later() {
    let mut night = Night::of(&["a"]);
    let reply = night.answer(0, found(Finding::Rejected));
    assert_eq!(reply.action, Action::Stop(Signal::SIGTERM));
    assert!(words(&reply).contains("rejected"), "{}", words(&reply));
    let reply = night.ends(ExitStatus::Signal(15), true);
    assert_eq!(reply.action, Action::Exit(Outcome::TryAgainLater));
}

#[test]
fn without_a_monitor_the_child_just_runs() {
    let mut night = Night::of(&["a", "b"]);
    let reply = night.event(Event::MonitorLost { ring: 0 });
    assert_eq!(reply.action, Action::Nothing);
    assert!(words(&reply).contains("goes on without it"));
    assert_eq!(
        night.ends(ExitStatus::Code(3), false).action,
        as_child(ExitStatus::Code(3))
    );
}

#[test]
fn an_outage_is_told_once_and_so_is_its_end() {
    let mut night = Night::of(&["a"]);
    let first = night.answer(0, Err("refused".into()));
    assert!(words(&first).contains("Anthropic cannot be reached (refused)"));
    night.pass(60);
    assert_eq!(words(&night.answer(0, Err("refused".into()))), "");
    night.pass(60);
    let back = night.answer(0, night.used(0.1, 60));
    assert!(words(&back).contains("Anthropic answers again"));
}

#[test]
fn an_outage_that_was_told_is_not_told_again_when_the_child_fails() {
    let mut night = Night::of(&["a"]);
    let _ = night.answer(0, night.used(0.1, 60));
    let told = night.answer(0, Err("refused".into()));
    let failed = night.ends(ExitStatus::Code(1), false);
    let asked = night.answer(0, Err("refused".into()));
    let all = [told, failed, asked].map(|turn| words(&turn)).join("\n");
    assert_eq!(all.matches("cannot be reached").count(), 1, "{all}");
    assert!(all.contains("Waiting until Anthropic answers"), "{all}");
}

#[test]
fn tokens_of_one_quota_are_told_as_soon_as_they_are_known() {
    let mut night = Night::of(&["a", "b", "c"]);
    for index in 0..3 {
        let mut reading = night.used(0.1, 60).unwrap();
        reading.quota_group = Some("org".into());
        let reply = night.answer(index, Ok(reading));
        let told = words(&reply).contains("3 tokens, 1 quota: rotating cannot help");
        assert_eq!(told, index == 2, "{}", words(&reply));
    }
}

proptest! {
    /// Whatever happens in whatever order: a child is started only when none is left, and after
    /// the end nothing else is.
    #[test]
    fn there_is_never_a_second_child(
        retries in 0_u32..3,
        events in proptest::collection::vec((0_u8..14, 0_usize..3, 0_u64..40), 1..80)
    ) {
        let mut night = Night::with(&["a", "b", "c"], |rules| rules.retries = retries);
        let mut child = true;
        let mut told = false;
        for (kind, index, number) in events {
            night.pass(number);
            let ended = |how| Event::Job(JobEvent::Exited { how, asked: told });
            let answer = |night: &Night, reading| Event::Probed {
                token: TokenId { ring: 0, index },
                answer: Answer { asked: night.now.tick, reading },
            };
            let event = match kind {
                11 => Event::Hook(HookEvent {
                    provider: "anthropic",
                    trouble: [Trouble::Limited, Trouble::Overloaded, Trouble::Account][index],
                }),
                0 => answer(&night, night.used(0.2, 60)),
                1 => answer(&night, night.used(0.97, number)),
                2 => answer(&night, found(Finding::Limited { retry_after: Some(seconds(number)) })),
                3 => answer(&night, found(Finding::Rejected)),
                4 => answer(&night, Err("refused".into())),
                5 if child => ended(ExitStatus::Code(1)),
                6 if child => ended(ExitStatus::Signal(11)),
                7 if child => stopped(),
                8 => Event::Signal(Signal::SIGTERM),
                9 => Event::Signal(Signal::SIGINT),
                12 => Event::signal(40),
                10 if child && told => ended(ExitStatus::Code(0)),
                _ => Event::Deadline,
            };
            if matches!(event, Event::Job(JobEvent::Exited { .. })) {
                child = false;
                told = false;
            }
            match night.event(event).action {
                Action::Launch { again } => {
                    prop_assert!(again && !child);
                    child = true;
                }
                Action::Stop(_) | Action::PassOn(_) => {
                    prop_assert!(child);
                    told = true;
                }
                Action::Pause
                | Action::Resume
                | Action::ResumeWith(_)
                | Action::Forward(_)
                | Action::ForwardNumber(_) => {
                    prop_assert!(child);
                }
                Action::Exit(_) => {
                    prop_assert!(!child);
                    return Ok(());
                }
                Action::Ask => prop_assert!(false, "nobody is to be asked"),
                Action::Suspend | Action::Probe(_) | Action::Reread | Action::Nothing => {}
            }
            if let Some(timeout) = night.session.timeout(night.now) {
                prop_assert!(timeout <= SLICE.max(seconds(10)));
            }
        }
    }
}

/// The child has done nothing for ten minutes; what follows.
fn stalls(night: &mut Night, resumable: bool) -> (Action, AfterStall) {
    let turn = night.event(Event::Stalled {
        span: seconds(600),
        sees_requests: true,
        resumable,
    });
    let Some(RunEvent::Stalled { then, .. }) = turn.events.first() else {
        panic!("{turn:?}");
    };
    (turn.action, *then)
}

#[test]
fn a_client_that_stalls_is_ended_and_goes_on_three_times_in_a_row() {
    let mut night = Night::of(&["a"]);
    let restart = |number| AfterStall::Restart { number, of: 3 };
    let ends = |night: &mut Night, number| {
        let then = stalls(night, true);
        assert_eq!(then, (Action::Stop(Signal::SIGTERM), restart(number)));
        let turn = night.ends(ExitStatus::Signal(15), true);
        assert_eq!(turn.action, Action::Launch { again: true });
    };
    for number in 1..=3 {
        night.pass(700);
        ends(&mut night, number);
    }
    night.pass(700);
    assert_eq!(
        stalls(&mut night, true),
        (Action::Nothing, AfterStall::GivenUp)
    );
    // It has come to life after all, and worked for as long as a stall.
    night.pass(1300);
    ends(&mut night, 1);
}

#[test]
fn a_command_without_a_session_is_only_told_of_when_it_stalls() {
    let mut night = Night::of(&["a"]);
    assert_eq!(
        stalls(&mut night, false),
        (Action::Nothing, AfterStall::NoSession)
    );
    // The order to end, or a pause, came first.
    let mut night = Night::rotating();
    let event = Event::Stalled {
        span: seconds(600),
        sees_requests: true,
        resumable: true,
    };
    let turn = night.event(event);
    assert_eq!((turn.action, turn.events.len()), (Action::Nothing, 0));
}

#[test]
fn a_child_that_is_left_stopped_is_told() {
    for (event, said) in [
        (JobEvent::StoppedByHand, "stopped"),
        (JobEvent::NeedsTerminal, "terminal"),
    ] {
        let mut night = Night::of(&["a"]);
        let reply = night.event(Event::Job(event));
        assert_eq!(reply.action, Action::Nothing);
        assert!(words(&reply).contains(said), "{}", words(&reply));
    }
}

#[test]
fn an_operator_may_end_a_pause() {
    let mut night = Night::paused(900);
    let action = night.event(Event::Job(JobEvent::Continued)).action;
    assert_eq!(action, Action::Resume);
    assert_eq!(
        night.signal(Signal::SIGUSR1),
        Action::Forward(Signal::SIGUSR1)
    );
}

#[test]
fn the_next_child_waits_for_the_old_tree() {
    let mut night = Night::rotating();
    let exited = Event::Job(JobEvent::Exited {
        how: ExitStatus::Signal(15),
        asked: true,
    });
    let mut handle = |event| night.session.handle(event, night.now).action;
    assert_eq!(handle(exited), Action::Nothing);
    assert_eq!(handle(Event::Deadline), Action::Nothing);
    assert_eq!(
        handle(Event::Job(JobEvent::Cleared)),
        Action::Launch { again: true }
    );
}

#[test]
fn what_a_child_leaves_that_ended_before_the_order_is_ended_with_the_signal_of_the_order() {
    for (second, sent) in [
        (None, Signal::SIGHUP),
        (Some(Signal::SIGINT), Signal::SIGKILL),
    ] {
        let mut night = Night::of(&["a"]);
        let first = Event::Signal(Signal::SIGHUP);
        let action = night.session.handle(first, night.now).action;
        assert_eq!(action, Action::PassOn(Signal::SIGHUP));
        night.pass(1);
        let mut handle = |event| night.session.handle(event, night.now).action;
        if let Some(second) = second {
            assert_eq!(handle(Event::Signal(second)), Action::Stop(sent));
        }
        let how = ExitStatus::Code(4);
        let exited = Event::Job(JobEvent::Exited { how, asked: false });
        assert_eq!(handle(exited), Action::Stop(sent));
        assert_eq!(handle(Event::Job(JobEvent::Cleared)), as_child(how));
    }
}

#[test]
fn nothing_is_started_beside_what_survives_a_kill() {
    let mut night = Night::rotating();
    let exited = Event::Job(JobEvent::Exited {
        how: ExitStatus::Signal(9),
        asked: true,
    });
    let _ = night.session.handle(exited, night.now);
    let survives = || Event::Job(JobEvent::Unkillable { left: 1 });
    let reply = night.session.handle(survives(), night.now);
    assert_eq!(reply.action, Action::Nothing);
    assert!(
        words(&reply).contains("survive SIGKILL"),
        "{}",
        words(&reply)
    );
    // Whoever wants to leave can.
    let reply = night
        .session
        .handle(Event::Signal(Signal::SIGTERM), night.now);
    assert_eq!(reply.action, Action::Stop(Signal::SIGKILL));
    let action = night.session.handle(survives(), night.now).action;
    assert_eq!(action, Action::Exit(Outcome::BySignal(Signal::SIGTERM)));
}

#[test]
fn a_question_under_way_is_waited_for_and_not_spun_on() {
    let mut night = Night::paused(30);
    night.pass(30);
    assert_eq!(night.event(Event::Deadline).action, ask(0));
    assert_eq!(night.session.timeout(night.now), Some(SLICE));
}

/// Promised by a reset in a wrong unit, for example.
#[test]
fn in_a_wait_of_years_the_token_is_asked_within_two_hours_and_the_command_goes_on() {
    let mut night = Night::paused(99_999_999);
    let asked = (0..2 * 60 * 4).any(|_| {
        night.pass(15);
        night.event(Event::Deadline).action == ask(0)
    });
    assert!(asked);
    let reply = night.answer(0, night.used(0.1, 60));
    assert_eq!(reply.action, Action::Resume);
}

/// One wait, one time: what counts down ends when it was said to, and the jitter comes after it.
#[test]
fn the_countdown_is_to_the_time_that_was_promised() {
    let jitter = Duration::from_millis(300);
    let mut night = Night::with(&["a"], |rules| rules.jitter = jitter);
    night.pass(60);
    let limited = Finding::Limited {
        retry_after: Some(seconds(20)),
    };
    let reply = night.answer(0, found(limited));
    let promised = reply.events.iter().find_map(|notice| match notice {
        RunEvent::WaitingForReset { at, .. } => Some(*at),
        _ => None,
    });
    let shown = night.session.waits_until().map(|until| until.wall);
    assert_eq!(shown, Some(promised.unwrap()));
    assert_eq!(night.event(stopped()).action, Action::Nothing);
    night.pass(20);
    assert_eq!(night.session.timeout(night.now), Some(jitter));
}

/// Whatever it is doing, the command is ended in order, and not started again.
#[test]
fn so_many_llm_tokens_end_the_run() {
    let spent = || Event::Proxy(RunEvent::MaxTokens { spent: 7, most: 5 });
    let later = Action::Exit(Outcome::TryAgainLater);
    for mut night in [Night::of(&["a"]), Night::paused(900)] {
        let turn = night.event(spent());
        assert_eq!(turn.action, Action::Stop(Signal::SIGTERM));
        assert!(words(&turn).starts_with("--max-tokens 5 is reached"));
        assert_eq!(night.ends(ExitStatus::Code(0), true).action, later);
    }
    let mut night = Night::rotating();
    assert_eq!(night.event(spent()).action, Action::Nothing);
    assert_eq!(night.ends(ExitStatus::Code(1), true).action, later);
    let mut night = Night::with(&["a"], |rules| rules.retries = 1);
    night.pass(60);
    let _ = night.ends(ExitStatus::Code(1), false);
    assert_eq!(night.event(spent()).action, later);
    // A signal of the user's has the last word.
    let mut night = Night::of(&["a"]);
    assert_eq!(
        night.signal(Signal::SIGTERM),
        Action::PassOn(Signal::SIGTERM)
    );
    assert_eq!(night.event(spent()).action, Action::Nothing);
    let how = ExitStatus::Code(143);
    assert_eq!(night.ends(how, true).action, as_child(how));
}
