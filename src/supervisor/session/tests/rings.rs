//! Several providers: which of them the child lives on, and whose word counts.

use super::*;

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
