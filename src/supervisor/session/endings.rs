//! What the end of a child means: the run's own end, a limit or a rejection to find out, or another start.

use super::*;

/// No updater takes longer to replace a program.
const LONGEST_UPDATE: Duration = Duration::from_secs(300);
/// So many short lives in a row end the run: a command that cannot start must not be tried all night.
const SHORT_LIVES: u32 = 3;
/// A failure so soon after a pause for a limit is blamed on the limit.
const AFTER_A_PAUSE: Duration = Duration::from_secs(60);

impl Session {
    pub(super) fn on_exit(&mut self, how: ExitStatus, asked: bool, now: Now) -> Turn {
        match &mut self.phase {
            // It ended by itself before the order to stop reached it.
            Phase::Stopping {
                then: AfterStop::Restart,
                ..
            } if !asked => self.on_own_end(how, now),
            Phase::Running { .. } => self.on_own_end(how, now),
            Phase::Stopping {
                how: ended, signal, ..
            } => {
                *ended = Some(how);
                match asked {
                    true => Turn::nothing(),
                    // What it has started was not told.
                    false => Turn::action(Action::Stop(*signal)),
                }
            }
            // It could not go on with what it was paused for.
            Phase::Waiting(Waiting {
                held: Held::Paused { .. },
                ..
            }) if how != ExitStatus::Code(0) && !how.is_deliberate() => {
                self.fail(how, true, Reported::All, now)
            }
            Phase::Waiting(_) => self.finish(how),
        }
    }

    /// The child and all that it had started are gone.
    pub(super) fn after_stop(&mut self, then: AfterStop, how: ExitStatus, now: Now) -> Turn {
        match then {
            AfterStop::Restart => self.launch(true, now),
            AfterStop::Recover => self.fail(how, true, Reported::Cause, now),
            AfterStop::EndAsChild => Turn::action(Action::Exit(Outcome::AsChild(how))),
            AfterStop::End(outcome) => Turn::action(Action::Exit(outcome)),
        }
    }

    /// Nothing is started beside what cannot be killed: two of a kind at work on one session would be
    /// worse than none. Whoever wants to leave can.
    pub(super) fn on_unkillable(&mut self, left: usize, now: Now) -> Turn {
        let notice = RunEvent::Unkillable(left);
        match self.phase {
            Phase::Stopping {
                then,
                how: Some(how),
                ..
            } if then != AfterStop::Restart => {
                self.after_stop(then, how, now).and_say_first(notice)
            }
            _ => Turn::nothing().and_say(notice),
        }
    }

    /// The next child could not be started: the system is short of something, for now.
    /// `how` says that the program cannot be executed, as an exit status. While an updater replaces it,
    /// it is gone, busy or half written for some seconds; after some minutes it is more than that.
    pub(super) fn on_not_started(
        &mut self,
        why: String,
        how: Option<ExitStatus>,
        now: Now,
    ) -> Turn {
        let first = self.failing_since.is_none();
        let since = *self.failing_since.get_or_insert(now.tick);
        if let Some(how) = how
            && now.tick.saturating_duration_since(since) > LONGEST_UPDATE
        {
            return self.finish(how);
        }
        let held = Held::Ended {
            how: ExitStatus::Code(OWN_FAILURE),
            blamed: true,
            reported: Reported::All,
        };
        self.phase = Phase::Waiting(Waiting {
            wake: Some(Until::after(backoff(0), now)),
            ..Waiting::new(held, now)
        });
        self.ready_at = now.tick + backoff(0);
        match first {
            true => Turn::nothing().and_say(RunEvent::NotStarted(why)),
            false => Turn::nothing(),
        }
    }

    fn on_own_end(&mut self, how: ExitStatus, now: Now) -> Turn {
        // A SIGKILL may have come from the kernel, for want of memory: --retries is for that, too.
        let may_retry = how.is_kill() && self.retries < self.rules.retries;
        if how.is_deliberate() && !may_retry {
            return self.finish(how);
        }
        // It has said why, also when its status does not.
        if self.idle(now).is_some() {
            return self.fail(how, true, Reported::Nothing, now);
        }
        if how == ExitStatus::Code(0) && !self.rules.checks_exit_zero {
            return self.finish(how);
        }
        for ring in &mut self.rings {
            ring.used_at_end = ring.used_of_minute();
        }
        if now.tick.saturating_duration_since(self.last_start) < SHORT_LIFE {
            self.short_lives += 1;
        } else {
            self.short_lives = 0;
            self.has_lived = true;
        }
        if self.short_lives >= self.most_short_lives() {
            return self.finish(how).and_say_first(RunEvent::ShortLives);
        }
        // A client that was paused in the middle of its own refusal gives up when it goes on.
        let resumed = self.resumed.take();
        let blamed =
            resumed.is_some_and(|at| now.tick.saturating_duration_since(at) < AFTER_A_PAUSE);
        let reported = match blamed {
            true => Reported::All,
            false => Reported::Nothing,
        };
        self.fail(how, blamed, reported, now)
    }

    /// How many short lives in a row end the run. A client that is refused may give up at once: where that
    /// may be the cause, each token is tried, and a command that could be started before is waited for.
    fn most_short_lives(&self) -> u32 {
        let is_suspect = |ring: &&SessionRing| policy::may_refuse(ring.used_at_end);
        let suspects = self.rings.iter().filter(is_suspect);
        match suspects.map(|ring| ring.pool.len()).max() {
            Some(_) if self.has_lived => u32::MAX,
            Some(tokens) => SHORT_LIVES.max(u32::try_from(tokens).unwrap_or(u32::MAX)),
            None => SHORT_LIVES,
        }
    }

    /// The child has failed; what its token and provider say now decides.
    pub(super) fn fail(
        &mut self,
        how: ExitStatus,
        blamed: bool,
        reported: Reported,
        now: Now,
    ) -> Turn {
        let held = Held::Ended {
            how,
            blamed,
            reported,
        };
        self.phase = Phase::Waiting(Waiting {
            asks: self.rules.interactive,
            ..Waiting::new(held, now)
        });
        // To keep going has not gone well.
        for ring in &mut self.rings {
            ring.keep_going = false;
        }
        let turn = self.apply_decision(now);
        match reported {
            Reported::All => turn.and_say_first(RunEvent::Failed(how)),
            _ => turn,
        }
    }

    pub(super) fn finish(&self, how: ExitStatus) -> Turn {
        let turn = Turn::action(Action::Exit(Outcome::AsChild(how)));
        match how {
            ExitStatus::Code(0) => turn.and_say(RunEvent::Completed),
            // The reader of its output has read enough: shells do not mention that either.
            ExitStatus::Signal(signal) if signal == Signal::SIGPIPE as i32 => turn,
            how => turn.and_say(RunEvent::Failed(how)),
        }
    }
}
