//! The state machine without a process and without a clock.

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
        let now = Now {
            wall: SystemTime::UNIX_EPOCH + seconds(1_800_000_000),
            tick: Instant::now(),
        };
        let mut rules = Rules {
            threshold: 0.95,
            patience: seconds(5),
            max_wait: None,
            retries: 0,
            checks_exit_zero: false,
            interactive: false,
            grace: seconds(10),
            jitter: Duration::ZERO,
            fallback: None,
            max_tokens: None,
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
            && (std::mem::take(&mut is_end) || matches!(turn.action, Action::Stop(_)))
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
            Action::Stop(Signal::SIGTERM),
            Action::Stop(Signal::SIGTERM),
        ),
        (
            Signal::SIGHUP,
            Action::Stop(Signal::SIGHUP),
            Action::Stop(Signal::SIGHUP),
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
        assert_eq!(night.signal(Signal::SIGTERM), Action::Stop(Signal::SIGTERM));
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
        assert_eq!(night.signal(Signal::SIGTERM), Action::Stop(Signal::SIGTERM));
        assert_eq!(night.ends(how, true).action, as_child(how));
    }
}

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

#[test]
fn the_worst_of_several_rings_speaks_and_unused_ones_do_not() {
    let night = Night::of(&["a"]);
    let mut session = Session::new(
        vec![pool_of(&["a", "b"]), pool_of(&["x"])],
        night.session.rules.clone(),
        None,
        night.now,
    );
    let _ = session.start(night.now);
    let mut tell = |ring, index, reading| {
        let token = TokenId { ring, index };
        let answer = Answer {
            asked: night.now.tick,
            reading,
        };
        session
            .handle(Event::Probed { token, answer }, night.now)
            .action
    };
    // The second ring's only token never worked: the command does not live on it.
    let _ = tell(0, 0, night.used(0.1, 60));
    assert_eq!(tell(1, 0, found(Finding::Rejected)), Action::Nothing);
    // Once it has worked, it counts.
    let _ = tell(1, 0, night.used(0.1, 60));
    assert_eq!(tell(1, 0, night.used(0.99, 900)), Action::Pause);
}

/// A night with two rings, of which the command is not known to use any.
struct Beside {
    night: Night,
}

impl Beside {
    fn start() -> Beside {
        let mut night = Night::of(&["a"]);
        let pools = vec![pool_of(&["a", "b"]), pool_of(&["x"])];
        night.session = Session::new(pools, night.session.rules.clone(), None, night.now);
        night.session.expect_only(|_| false);
        let action = night.session.start(night.now).action;
        assert_eq!(action, Action::Launch { again: false });
        Beside { night }
    }

    fn tell(&mut self, ring: usize, index: usize, reading: Result<Reading, String>) -> Action {
        let token = TokenId { ring, index };
        let asked = self.night.now.tick;
        let answer = Answer { asked, reading };
        self.night.event(Event::Probed { token, answer }).action
    }
}

#[test]
fn a_bystander_neither_pauses_nor_ends_the_command() {
    type Spent = fn(&Night) -> Result<Reading, String>;
    let refused: [Spent; 4] = [
        |night| night.limited(3600),
        |night| night.used(0.97, 3600),
        |_| found(Finding::Rejected),
        |_| found(Finding::SpendCapped { until: None }),
    ];
    for spent in refused {
        let mut beside = Beside::start();
        let reading = beside.night.used(0.1, 3600);
        let _ = beside.tell(0, 0, reading);
        let reading = beside.night.used(0.1, 3600);
        let _ = beside.tell(0, 1, reading);
        let reading = spent(&beside.night);
        assert_eq!(beside.tell(1, 0, reading), Action::Nothing);
        // What the command is seen to use counts as ever.
        beside.night.pass(60);
        let reading = beside.night.used(0.96, 3600);
        assert_eq!(beside.tell(0, 0, reading), ask_of(0, 1));
        let reading = beside.night.used(0.1, 3600);
        let action = beside.tell(0, 1, reading);
        assert_eq!(action, Action::Stop(Signal::SIGTERM));
    }
}

fn ask_of(ring: usize, index: usize) -> Action {
    Action::Probe(TokenId { ring, index })
}

#[test]
fn a_failure_that_nothing_else_explains_may_be_a_bystanders() {
    for (reading, waits) in [
        (found(Finding::Rejected), false),
        (
            found(Finding::Limited {
                retry_after: Some(seconds(900)),
            }),
            true,
        ),
    ] {
        let mut beside = Beside::start();
        beside.night.pass(60);
        let action = beside.night.ends(ExitStatus::Code(4), false).action;
        assert_eq!(action, ask_of(0, 0));
        let good = beside.night.used(0.1, 3600);
        assert_eq!(beside.tell(0, 0, good), ask_of(1, 0));
        let action = beside.tell(1, 0, reading);
        match waits {
            true => assert!(beside.night.session.waits_until().is_some(), "{action:?}"),
            false => assert_eq!(action, as_child(ExitStatus::Code(4))),
        }
    }
}

#[test]
fn with_several_providers_one_good_token_is_enough_for_the_start() {
    let night = Night::of(&["a"]);
    let spent = |pool: &mut TokenPool, now: Now| {
        let until = Until::after(seconds(900), now);
        let state = pool.standing_mut(0);
        state.recall(Condition::Limited { until }, None, now.wall);
    };
    for (first, second, starts) in [
        (false, true, true),
        (true, false, true),
        (true, true, false),
    ] {
        let (mut one, mut other) = (pool_of(&["a"]), pool_of(&["x"]));
        if first {
            spent(&mut one, night.now);
        }
        if second {
            spent(&mut other, night.now);
        }
        let rules = night.session.rules.clone();
        let mut session = Session::new(vec![one, other], rules, None, night.now);
        session.expect_only(|_| false);
        let action = session.start(night.now).action;
        assert_eq!(action == Action::Launch { again: false }, starts);
        if starts {
            continue;
        }
        // It starts with the first that is good again.
        assert_eq!(action, ask_of(0, 0));
        let mut tell = |ring, reading| {
            let token = TokenId { ring, index: 0 };
            let asked = night.now.tick;
            let answer = Answer { asked, reading };
            session
                .handle(Event::Probed { token, answer }, night.now)
                .action
        };
        assert_eq!(tell(0, night.limited(900)), ask_of(1, 0));
        assert_eq!(
            tell(1, night.used(0.1, 60)),
            Action::Launch { again: false }
        );
    }
}

#[test]
fn one_restart_serves_all_rings_that_have_to_move() {
    let mut night = Night::of(&["a"]);
    let mut session = Session::new(
        vec![pool_of(&["a", "b"]), pool_of(&["x", "y"])],
        night.session.rules.clone(),
        None,
        night.now,
    );
    let _ = session.start(night.now);
    let tell = |session: &mut Session, night: &Night, ring, index, share| {
        let token = TokenId { ring, index };
        let asked = night.now.tick;
        let reading = night.used(share, 900);
        let answer = Answer { asked, reading };
        session.handle(Event::Probed { token, answer }, night.now)
    };
    for (ring, index) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        let _ = tell(&mut session, &night, ring, index, 0.1);
    }
    night.pass(60);
    let _ = tell(&mut session, &night, 0, 0, 0.97);
    let _ = tell(&mut session, &night, 1, 0, 0.98);
    // The last answer that is needed before anything can move.
    let _ = tell(&mut session, &night, 0, 1, 0.1);
    let reply = tell(&mut session, &night, 1, 1, 0.1);
    assert_eq!(reply.action, Action::Stop(Signal::SIGTERM));
    let said = words(&reply);
    assert!(said.contains("97%") && said.contains("98%"), "{said}");
    let current: Vec<usize> = session.pools().map(TokenPool::current_index).collect();
    assert_eq!(current, [1, 1]);
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
                Action::Stop(_) => {
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
        assert_eq!(action, Action::Stop(Signal::SIGHUP));
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

#[test]
fn a_stale_key_of_another_provider_ends_nothing() {
    let first = |night: &Night| {
        [
            night.used(0.97, 900),
            found(Finding::Overloaded { retry_after: None }),
            found(Finding::Limited {
                retry_after: Some(seconds(20)),
            }),
            found(Finding::Unclear {
                why: "no such model",
            }),
        ]
    };
    for case in 0..4 {
        let night = Night::of(&["a"]);
        let pools = vec![pool_of(&["a", "b"]), pool_of(&["x"])];
        let mut session = Session::new(pools, night.session.rules.clone(), None, night.now);
        let _ = session.start(night.now);
        let mut tell = |ring, reading| {
            let token = TokenId { ring, index: 0 };
            let answer = Answer {
                asked: night.now.tick,
                reading,
            };
            session
                .handle(Event::Probed { token, answer }, night.now)
                .action
        };
        let [near, over, limited, unclear] = first(&night);
        let _ = tell(
            0,
            [near, over, limited, unclear]
                .into_iter()
                .nth(case)
                .unwrap(),
        );
        let action = tell(1, found(Finding::Rejected));
        assert!(
            !matches!(action, Action::Stop(_) | Action::Exit(_)),
            "{case}: {action:?}"
        );
    }
}

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
    assert_eq!(night.signal(Signal::SIGTERM), Action::Stop(Signal::SIGTERM));
    assert_eq!(night.event(spent()).action, Action::Nothing);
    let how = ExitStatus::Code(143);
    assert_eq!(night.ends(how, true).action, as_child(how));
}
