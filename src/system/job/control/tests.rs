//! Job control without a process and without a clock.

use super::*;
use proptest::prelude::*;

const GRACE: Duration = Duration::from_secs(10);
const SHELL: TerminalState = scene(Foreground::Other, false);
const NOBODY: TerminalState = scene(Foreground::Other, true);
const OURS: TerminalState = scene(Foreground::Ours, false);
const CHILDS: TerminalState = scene(Foreground::Child, false);

const fn scene(front: Foreground, orphaned: bool) -> TerminalState {
    TerminalState { front, orphaned }
}

/// A job whose child runs.
fn running() -> (JobControl, Instant) {
    let mut job = JobControl::new(GRACE);
    job.launched();
    (job, Instant::now())
}

/// A job that was told to end, and whose child has.
fn sweeping() -> (JobControl, Instant) {
    let (mut job, now) = running();
    assert_eq!(
        job.stop(Signal::SIGTERM, now).step,
        Step::Terminate(Signal::SIGTERM)
    );
    let exited = job.exited(ExitStatus::Signal(15), true, now);
    assert_eq!(exited.step, Step::Sweep(Some(Signal::SIGTERM)));
    (job, now)
}

const KILL: Step = Step::Sweep(Some(Signal::SIGKILL));
const LOOK: Step = Step::Sweep(None);

#[test]
fn grace_ends_in_a_kill_and_only_one() {
    let (mut job, now) = running();
    let _ = job.stop(Signal::SIGTERM, now);
    assert_eq!(job.timeout(now), Some(GRACE));
    let early = now + GRACE - Duration::from_millis(1);
    assert_eq!(job.deadline(early), Step::Nothing.into());
    let killed = job.deadline(now + GRACE);
    assert_eq!(
        (killed.step, killed.event),
        (Step::Kill, JobEvent::ForcingKill)
    );
    assert_eq!(job.timeout(now + GRACE), None);
    assert_eq!(job.deadline(now + GRACE * 2), Step::Nothing.into());
    let exited = job.exited(ExitStatus::Signal(9), true, now + GRACE);
    assert_eq!(exited.step, KILL);
}

#[test]
fn a_group_that_does_not_listen_to_sigtstp_is_stopped_all_the_same() {
    let (mut job, now) = running();
    assert_eq!(job.pause(now).step, Step::Signal(Signal::SIGTSTP));
    assert_eq!(job.timeout(now), Some(STOP_PATIENCE));
    let frozen = job.deadline(now + STOP_PATIENCE);
    assert_eq!(frozen.step, Step::Signal(Signal::SIGSTOP));
    let stopped = job.stopped(Signal::SIGSTOP, SHELL, now);
    assert_eq!(
        (stopped.step, stopped.event),
        (Step::Hold, JobEvent::Paused)
    );
    assert_eq!(job.timeout(now), None);
    assert_eq!(job.resume().step, Step::Continue);
}

#[test]
fn an_operator_may_end_a_pause_but_not_one_that_has_just_begun() {
    let (mut job, now) = running();
    let _ = job.pause(now);
    assert_eq!(job.continued(), Step::Nothing.into());
    let _ = job.stopped(Signal::SIGTSTP, SHELL, now);
    let continued = job.continued();
    assert_eq!(
        (continued.step, continued.event),
        (Step::Continue, JobEvent::Continued)
    );
    assert_eq!(
        job.signal(Signal::SIGUSR1, now).step,
        Step::Signal(Signal::SIGUSR1)
    );
}

#[test]
fn the_stop_of_a_running_child_is_answered_as_a_shell_would() {
    let mirror = |for_terminal, in_background| Step::Mirror {
        for_terminal,
        in_background,
    };
    for (by, scene, step) in [
        (Signal::SIGTSTP, SHELL, mirror(false, true)),
        (Signal::SIGSTOP, SHELL, mirror(false, true)),
        (Signal::SIGTTIN, SHELL, mirror(true, true)),
        (Signal::SIGTTOU, OURS, Step::HandOver),
        (Signal::SIGTSTP, OURS, mirror(false, false)),
        (Signal::SIGTSTP, CHILDS, mirror(false, false)),
        // The terminal was given while the stop for it was on its way.
        (Signal::SIGTTIN, CHILDS, Step::Continue),
        (Signal::SIGTSTP, NOBODY, Step::Continue),
        (Signal::SIGSTOP, NOBODY, Step::Nothing),
        (Signal::SIGTTIN, NOBODY, Step::Continue),
    ] {
        let (mut job, now) = running();
        assert_eq!(job.stopped(by, scene, now).step, step, "{by} {scene:?}");
    }
    let (mut job, now) = running();
    assert_eq!(
        job.stopped(Signal::SIGSTOP, NOBODY, now).event,
        JobEvent::StoppedByHand
    );
    // Nobody can give it the terminal: rather stopped than spinning.
    let (mut job, now) = running();
    for (step, event) in [
        (Step::Continue, JobEvent::Unchanged),
        (Step::Continue, JobEvent::Unchanged),
        (Step::Nothing, JobEvent::NeedsTerminal),
    ] {
        let stopped = job.stopped(Signal::SIGTTIN, NOBODY, now);
        assert_eq!((stopped.step, stopped.event), (step, event));
    }
    // Nor does it help one that stops for a terminal that it has.
    let (mut job, now) = running();
    for step in [Step::Continue, Step::Continue, mirror(true, false)] {
        assert_eq!(job.stopped(Signal::SIGTTIN, CHILDS, now).step, step);
    }
}

#[test]
fn signals_reach_a_child_that_is_there_and_stop_ddollar_without_one_that_runs() {
    let paused = || {
        let (mut job, now) = running();
        let _ = job.pause(now);
        let _ = job.stopped(Signal::SIGTSTP, SHELL, now);
        job
    };
    for (signal, on_running, on_paused, on_gone) in [
        (
            Signal::SIGINT,
            Step::Signal(Signal::SIGINT),
            Step::Signal(Signal::SIGINT),
            Step::Nothing,
        ),
        (
            Signal::SIGUSR1,
            Step::Signal(Signal::SIGUSR1),
            Step::Signal(Signal::SIGUSR1),
            Step::Nothing,
        ),
        (
            Signal::SIGCONT,
            Step::Continue,
            Step::Nothing,
            Step::Nothing,
        ),
        (
            Signal::SIGTSTP,
            Step::Signal(Signal::SIGTSTP),
            Step::Suspend,
            Step::Suspend,
        ),
    ] {
        let (mut job, now) = running();
        assert_eq!(job.signal(signal, now).step, on_running, "{signal}");
        assert_eq!(paused().signal(signal, now).step, on_paused, "{signal}");
        let mut job = JobControl::new(GRACE);
        assert_eq!(job.signal(signal, now).step, on_gone, "{signal}");
    }
}

#[test]
fn a_grace_does_not_run_while_ddollar_is_stopped() {
    let (mut job, now) = running();
    let _ = job.stop(Signal::SIGTERM, now);
    let later = now + GRACE * 3;
    assert_eq!(job.signal(Signal::SIGCONT, later).step, Step::Continue);
    assert_eq!(job.timeout(later), Some(GRACE));
}

#[test]
fn the_sweep_goes_on_until_nothing_is_left() {
    let (mut job, now) = sweeping();
    assert_eq!(job.tree(2, 0, now), Step::Nothing.into());
    assert_eq!(job.timeout(now), Some(BETWEEN_LOOKS));
    assert!(job.is_sweeping());
    assert_eq!(job.deadline(now + BETWEEN_LOOKS).step, LOOK);
    assert_eq!(job.tree(1, 0, now), Step::Nothing.into());
    assert_eq!(job.tree(0, 0, now), JobEvent::Cleared.into());
    assert!(!job.is_sweeping());
}

#[test]
fn what_outlives_the_grace_is_killed_and_strays_sooner() {
    for (group, span) in [(1, GRACE), (0, STRAY_GRACE)] {
        let (mut job, mut now) = sweeping();
        assert_eq!(job.tree(group, 1, now), Step::Nothing.into());
        assert_eq!(job.timeout(now), Some(BETWEEN_LOOKS));
        now += span - BETWEEN_LOOKS;
        assert_eq!(job.deadline(now).step, LOOK);
        now += BETWEEN_LOOKS;
        assert_eq!(job.deadline(now).step, KILL);
    }
}

#[test]
fn what_survives_a_kill_is_told_and_told_again() {
    let (mut job, mut now) = sweeping();
    let _ = job.tree(1, 0, now);
    now += GRACE;
    assert_eq!(job.deadline(now).step, KILL);
    assert_eq!(job.tree(1, 0, now), Step::Nothing.into());
    now += UNKILLABLE;
    assert_eq!(job.tree(1, 0, now).event, JobEvent::Unkillable { left: 1 });
    assert_eq!(job.timeout(now), Some(BETWEEN_LATE_LOOKS));
    now += UNKILLABLE;
    assert_eq!(job.tree(1, 0, now), Step::Nothing.into());
    now += UNKILLABLE * 11;
    assert_eq!(job.tree(2, 0, now).event, JobEvent::Unkillable { left: 2 });
    // Whoever asks for a kill gets one more.
    assert_eq!(job.stop(Signal::SIGKILL, now).step, KILL);
}

#[test]
fn whoever_asks_for_a_kill_does_not_wait_for_the_grace() {
    let (mut job, now) = running();
    let _ = job.stop(Signal::SIGTERM, now);
    assert_eq!(job.stop(Signal::SIGTERM, now), Step::Nothing.into());
    assert_eq!(job.stop(Signal::SIGKILL, now).step, Step::Kill);
    assert_eq!(job.timeout(now), None);
}

#[test]
fn a_child_that_ended_by_itself_leaves_what_it_has_started_until_somebody_wants_it_gone() {
    let (mut job, now) = running();
    let exited = job.exited(ExitStatus::Code(0), false, now);
    assert_eq!(exited.step, Step::Nothing);
    assert_eq!(job.timeout(now), None);
    let stop = job.stop(Signal::SIGTERM, now);
    assert_eq!(stop.step, Step::Sweep(Some(Signal::SIGTERM)));
    assert_eq!(job.tree(0, 0, now), JobEvent::Cleared.into());
    // One that had ended before the order reached it, too.
    let (mut job, now) = running();
    let _ = job.stop(Signal::SIGTERM, now);
    let exited = job.exited(ExitStatus::Code(0), false, now);
    assert_eq!(exited.step, Step::Nothing);
    let _ = job.stop(Signal::SIGKILL, now);
    assert!(job.is_sweeping());
}

proptest! {
    /// Whatever happens in whatever order: no signal is sent to a child that is not there, a stop is
    /// always followed by an end, and there is always a next deadline while something is due.
    #[test]
    fn a_stop_always_ends(
        events in proptest::collection::vec((0_u8..12, 0_usize..3, 0_u64..20), 1..60)
    ) {
        let (mut job, mut now) = running();
        let mut child = true;
        let mut told = false;
        for (kind, count, seconds) in events {
            now += Duration::from_secs(seconds);
            let scene = [SHELL, NOBODY, OURS][count];
            let outcome = match kind {
                0 => { told |= child; job.stop(Signal::SIGTERM, now) }
                1 => { told |= child; job.stop(Signal::SIGKILL, now) }
                2 if child && !told => job.pause(now),
                3 => job.resume(),
                4 if child => job.stopped(Signal::SIGTSTP, scene, now),
                5 if child => job.stopped(Signal::SIGTTIN, scene, now),
                6 if child => job.continued(),
                7 if child => {
                    child = false;
                    job.exited(ExitStatus::Code(1), std::mem::take(&mut told), now)
                }
                8 => job.tree(count, count, now),
                9 => job.signal(Signal::SIGCONT, now),
                10 => job.signal(Signal::SIGUSR1, now),
                _ => job.deadline(now),
            };
            match outcome.step {
                Step::Signal(_) | Step::Terminate(_) | Step::Kill | Step::Hold | Step::Continue
                | Step::HandOver | Step::Mirror { .. } => prop_assert!(child, "{:?}", outcome),
                Step::Sweep(_) => prop_assert!(!child),
                Step::Nothing | Step::Suspend => {}
            }
            if outcome.event == JobEvent::Cleared {
                prop_assert!(!child);
            }
            if job.is_sweeping() {
                prop_assert!(job.timeout(now).is_some());
            }
        }
        // From wherever it is: told to end at once, it is cleared as soon as nothing is left.
        let _ = job.stop(Signal::SIGKILL, now);
        if child {
            let _ = job.exited(ExitStatus::Signal(9), true, now);
        }
        prop_assert_eq!(job.tree(0, 0, now).event, JobEvent::Cleared);
    }
}
