//! From the table's decision to a step: what each decision means in each phase.
//!
//! Owns the ways into a phase (rotate, pause, stop, sweep, launch) and the choice among several
//! rings. As pure as the rest of the session.

use super::*;

impl Session {
    /// Consults the table and turns its decision into a step.
    pub(super) fn apply_decision(&mut self, now: Now) -> Reply {
        match self.phase {
            Phase::Running { .. } => self.settle_running(now),
            Phase::Paused { since, .. } => self.settle_paused(since, now),
            Phase::Failed {
                question: Some(_), ..
            }
            | Phase::Unstarted {
                question: Some(_), ..
            } => Reply::nothing(),
            Phase::Failed { failure, .. } => self.settle_failed(failure, now),
            Phase::Unstarted { since, wake, .. } => self.settle_unstarted(since, wake, now),
            Phase::Stopping { .. } | Phase::Sweeping { .. } => Reply::nothing(),
        }
    }

    pub(super) fn settle_running(&mut self, now: Now) -> Reply {
        if let Some((since, trouble)) = self.idle(now) {
            return self.end_idle(since, trouble, now);
        }
        let (ring, decision) = self.consult(Suspension::No, now);
        let mut again_at = None;
        let reply = match decision {
            Decision::Keep => self.probe_unknown_token(now),
            Decision::KeepUntil { retry } => {
                again_at = Some(retry);
                Reply::nothing()
            }
            Decision::Probe { index } => self.ask(TokenId { ring, index }, now),
            Decision::Rotate { index } if self.rules.interactive => {
                let question = Question::Rotate { ring, index };
                return self.pause_to_ask(ring, question, now);
            }
            Decision::Rotate { index } => return self.rotate(ring, index, now),
            Decision::Wait { until, index } => return self.pause(ring, until, index, now),
            Decision::NoUsableToken | Decision::ExceedsMaxWait { .. } => {
                let reason = self.reason(ring, now);
                return self.give_up(ring, decision, now).and_say_first(reason);
            }
        };
        if let Phase::Running { recheck } = &mut self.phase {
            *recheck = again_at;
        }
        reply
    }

    /// The child has given up, and has said so: a rotation or a pause would leave it idle.
    fn end_idle(&mut self, since: Instant, trouble: Trouble, now: Now) -> Reply {
        let last = since + LAST_WORDS;
        if now.tick < last {
            let recheck = Some(Until::after(last - now.tick, now));
            self.phase = Phase::Running { recheck };
            return Reply::nothing();
        }
        let reason = match trouble {
            Trouble::Overloaded => Notice::TurnFailed,
            Trouble::Limited | Trouble::Account => {
                self.reason(self.consult(Suspension::No, now).0, now)
            }
        };
        self.stop(Signal::SIGTERM, AfterStop::Recover, now)
            .and_say(reason)
    }

    pub(super) fn settle_paused(&mut self, since: Now, now: Now) -> Reply {
        let (wait_for_current, asking) = match self.phase {
            Phase::Paused {
                wait_for_current,
                question,
                ..
            } => (wait_for_current, question.is_some()),
            _ => (false, false),
        };
        if asking {
            return Reply::nothing();
        }
        let (ring, decision) = self.consult(Suspension::Paused { since }, now);
        match self.staying(wait_for_current, ring, decision, now) {
            // It was paused after it had given up.
            Decision::Keep | Decision::KeepUntil { .. } if self.gave_up.is_some() => self
                .stop(Signal::SIGTERM, AfterStop::Restart, now)
                .and_say(Notice::Resuming),
            Decision::Keep | Decision::KeepUntil { .. } => {
                self.phase = Phase::Running { recheck: None };
                self.resumed = Some(now.tick);
                Reply::action(Action::Resume)
                    .and_say(Notice::Resuming)
                    .and_say(Notice::SessionContinued)
            }
            Decision::Probe { index } => self.ask(TokenId { ring, index }, now),
            Decision::Rotate { index } => self.rotate(ring, index, now),
            Decision::Wait { until, index } => {
                let later = match &mut self.phase {
                    Phase::Paused { wake: old, .. } => {
                        let later = is_later(until, *old, now);
                        *old = until;
                        later
                    }
                    _ => false,
                };
                let reply = Reply::nothing();
                if later {
                    reply.and_say(self.waiting(ring, until, index, now))
                } else {
                    reply
                }
            }
            Decision::NoUsableToken | Decision::ExceedsMaxWait { .. } => {
                self.give_up(ring, decision, now)
            }
        }
    }

    /// The decision of a user who may want to wait for the token in use.
    fn staying(
        &self,
        wait_for_current: bool,
        ring: usize,
        decision: Decision,
        now: Now,
    ) -> Decision {
        let current = self.rings.get(ring).map(|ring| ring.pool.current_index());
        match decision {
            Decision::Rotate { index } | Decision::Probe { index }
                if wait_for_current && Some(index) != current =>
            {
                match self.end_of_limit(ring, now) {
                    Some(until) => Decision::Wait {
                        until,
                        index: current,
                    },
                    None => decision,
                }
            }
            decision => decision,
        }
    }

    pub(super) fn settle_failed(&mut self, failure: Failure, now: Now) -> Reply {
        let Failure {
            since,
            how,
            blamed,
            said,
            asks,
            wait_for_current,
        } = failure;
        let blind = self.rings.iter().all(|ring| ring.blind);
        let (ring, decision) = if blind {
            (0, Decision::Keep)
        } else {
            self.consult(Suspension::Ended { since }, now)
        };
        match self.staying(wait_for_current, ring, decision, now) {
            Decision::Probe { index } => self.ask(TokenId { ring, index }, now),
            Decision::Keep | Decision::KeepUntil { .. } if blamed => {
                let mut reply = self.start_again(now);
                if said == Reported::Nothing {
                    let busy = matches!(self.gave_up, None | Some((_, Trouble::Overloaded)));
                    reply.say.splice(0..0, busy.then_some(Notice::TurnFailed));
                    reply = reply.and_say_first(Notice::Failed { how });
                }
                reply
            }
            Decision::Keep | Decision::KeepUntil { .. } => self.retry_or_finish(since, how, now),
            Decision::Rotate { index } if asks => {
                let until = self.end_of_limit(ring, now);
                let until = until.unwrap_or_else(|| Until::after(Duration::ZERO, now));
                self.ask_about_failure(failure, Question::Rotate { ring, index }, until, now)
            }
            Decision::Rotate { index } => {
                let cause = self.cause(said, how, ring, now);
                self.switch(ring, index);
                let mut reply = self.start_again(now);
                if said != Reported::All {
                    reply = reply.and_say_first(Notice::AutoRotating);
                }
                reply.say.splice(0..0, cause);
                reply
            }
            Decision::Wait { until, index } => {
                let waited = now.tick.saturating_duration_since(since.tick);
                if index.is_none() && !self.heard && waited >= NEVER_HEARD {
                    return self.finish(how).and_say_first(Notice::NeverHeard);
                }
                let mut say = Vec::new();
                if said != Reported::All {
                    say = self.cause(said, how, ring, now);
                    say.push(self.waiting(ring, until, index, now));
                }
                let failure = Failure {
                    blamed: true,
                    said: Reported::All,
                    ..failure
                };
                // An outage is waited for, and a reset within the patience is not worth a question.
                let is_limit = self.end_of_limit(ring, now).is_some();
                if asks && is_limit && !self.is_brief(until, now) {
                    let mut reply =
                        self.ask_about_failure(failure, Question::Exhausted, until, now);
                    reply.say.splice(0..0, say);
                    return reply;
                }
                self.phase = Phase::Failed {
                    failure,
                    wake: Some(until),
                    question: None,
                };
                Reply {
                    say,
                    action: Action::Nothing,
                }
            }
            Decision::NoUsableToken | Decision::ExceedsMaxWait { .. } => {
                let reason = self.reason(ring, now);
                self.give_up(ring, decision, now).and_say_first(reason)
            }
        }
    }

    /// Asks the user about a limit that the child has failed for, once.
    fn ask_about_failure(
        &mut self,
        failure: Failure,
        question: Question,
        until: Until,
        now: Now,
    ) -> Reply {
        let say = match question {
            Question::Rotate { ring, .. } => self.cause(failure.said, failure.how, ring, now),
            Question::Exhausted => Vec::new(),
        };
        self.phase = Phase::Failed {
            failure: Failure {
                blamed: true,
                said: Reported::All,
                asks: false,
                ..failure
            },
            wake: Some(until),
            question: Some(question),
        };
        let mut reply = self.prompt(question, now);
        reply.say.splice(0..0, say);
        reply
    }

    /// Starts the child for the first time once there is a token for it that has answered.
    fn settle_unstarted(&mut self, since: Now, said: Option<Until>, now: Now) -> Reply {
        let (ring, decision) = self.consult(Suspension::Unstarted { since }, now);
        match decision {
            Decision::Keep | Decision::KeepUntil { .. } => self.launch(false, now),
            Decision::Probe { index } => self.ask(TokenId { ring, index }, now),
            Decision::Rotate { index } => {
                self.switch(ring, index);
                self.apply_decision(now)
            }
            Decision::Wait { until, index } => {
                let asks = self.rules.interactive && said.is_none() && !self.is_brief(until, now);
                self.phase = Phase::Unstarted {
                    since,
                    wake: Some(until),
                    question: asks.then_some(Question::Exhausted),
                };
                let mut reply = Reply::nothing();
                if asks {
                    reply = self.prompt(Question::Exhausted, now);
                }
                let say = match said {
                    None => self.exhausted(ring, until, index, now),
                    Some(old) if is_later(until, old, now) => {
                        vec![self.waiting(ring, until, index, now)]
                    }
                    Some(_) => Vec::new(),
                };
                reply.say.splice(..0, say);
                reply
            }
            Decision::NoUsableToken | Decision::ExceedsMaxWait { .. } => {
                let reason = self.reason(ring, now);
                self.give_up(ring, decision, now).and_say_first(reason)
            }
        }
    }

    /// What is still to be said of a failure: how the child ended, and why.
    fn cause(&self, said: Reported, how: ExitStatus, ring: usize, now: Now) -> Vec<Notice> {
        match said {
            Reported::Nothing => vec![Notice::Failed { how }, self.reason(ring, now)],
            Reported::Cause | Reported::All => Vec::new(),
        }
    }

    /// When the token in use is said to be usable again.
    pub(super) fn end_of_limit(&self, ring: usize, now: Now) -> Option<Until> {
        let pool = &self.rings.get(ring)?.pool;
        pool.state(pool.current_index()).condition(now).until()
    }

    /// The decision that counts over all rings, and its ring. A child needs a usable token of
    /// each ring that it lives on, so the one that is worst off speaks.
    pub(super) fn consult(&self, held: Suspension, now: Now) -> (usize, Decision) {
        self.rings
            .iter()
            .enumerate()
            .filter(|(i, ring)| !ring.blind && self.may_live_on(*i, now))
            .filter(|(_, ring)| {
                !(ring.keep_going && matches!(held, Suspension::No | Suspension::Ended { .. }))
            })
            .map(|(i, ring)| (i, policy::decide(&ring.pool, &self.rules, held, now)))
            .max_by_key(|(i, decision)| (urgency(*decision, held), std::cmp::Reverse(*i)))
            .unwrap_or((0, Decision::Keep))
    }

    /// Whether the child may live on this ring: one of its tokens has worked, or no other ring is
    /// or may turn out to be what it lives on. A token that lies around in the environment must
    /// not end a command that uses another provider.
    pub(super) fn may_live_on(&self, ring: usize, now: Now) -> bool {
        let is_unasked = |ring: &Ring| ring.pool.state(ring.pool.current_index()).is_unasked();
        let Some(own) = self.rings.get(ring) else {
            return false;
        };
        own.worked
            || self.rings.iter().enumerate().all(|(i, other)| {
                let used = other.worked || (!other.blind && is_unasked(other));
                // Giving up is for when nothing else can carry the child.
                let carries = other.blind || !other.is_hopeless(now);
                i == ring || !(used || own.is_hopeless(now) && carries)
            })
    }

    /// Each token is asked once soon after the start, after the first answer for the one in use.
    pub(super) fn probe_unknown_token(&mut self, now: Now) -> Reply {
        let unknown = self.rings.iter().enumerate().find_map(|(ring, known)| {
            let pool = &known.pool;
            let first = pool.state(pool.current_index());
            if known.blind || first.is_unasked() || first.silence().is_some() {
                return None;
            }
            let index = pool
                .peek()
                .find(|index| pool.state(*index).is_unknown(now))?;
            Some(TokenId { ring, index })
        });
        match unknown {
            Some(token) => self.ask(token, now),
            None => Reply::nothing(),
        }
    }

    pub(super) fn ask(&mut self, token: TokenId, now: Now) -> Reply {
        if self.asking.iter().any(|(asked, _)| *asked == token) {
            return Reply::nothing();
        }
        self.asking.push((token, now.tick));
        Reply::action(Action::Ask(token))
    }

    pub(super) fn rotate(&mut self, ring: usize, index: usize, now: Now) -> Reply {
        let reason = match self.phase {
            Phase::Running { .. } => Some(self.reason(ring, now)),
            _ => None,
        };
        let mut reasons: Vec<Notice> = reason.into_iter().collect();
        self.switch(ring, index);
        // One restart is enough for all rings that have to move.
        for other in (0..self.rings.len()).filter(|other| *other != ring) {
            if let Some(index) = self.next_of(other, now) {
                reasons.push(self.reason(other, now));
                self.switch(other, index);
            }
        }
        let mut reply = self.stop(Signal::SIGTERM, AfterStop::Restart, now);
        reply.say.append(&mut reasons);
        reply.and_say(Notice::AutoRotating)
    }

    /// The token that a ring is to move to.
    fn next_of(&self, ring: usize, now: Now) -> Option<usize> {
        let own = self.rings.get(ring)?;
        if own.blind || own.keep_going || !self.may_live_on(ring, now) {
            return None;
        }
        match policy::decide(&own.pool, &self.rules, Suspension::No, now) {
            Decision::Rotate { index } => Some(index),
            _ => None,
        }
    }

    pub(super) fn switch(&mut self, ring: usize, index: usize) {
        if let Some(ring) = self.rings.get_mut(ring) {
            ring.pool.next(index);
            ring.switched = true;
        }
    }

    pub(super) fn pause(
        &mut self,
        ring: usize,
        until: Until,
        index: Option<usize>,
        now: Now,
    ) -> Reply {
        // A reset within the patience is not worth a question either.
        let asks = self.rules.interactive && !self.is_brief(until, now);
        let mut reply = Reply::action(Action::Pause);
        reply.say = self.exhausted(ring, until, index, now);
        if !asks {
            reply.say.push(Notice::Pausing {
                span: until.remaining(now),
            });
        }
        self.phase = Phase::Paused {
            since: now,
            freeze_at: Some(now.tick + STOP_PATIENCE),
            wake: until,
            question: asks.then_some(Question::Exhausted),
            wait_for_current: false,
        };
        reply
    }

    /// Why nothing goes on, and until when.
    fn exhausted(&self, ring: usize, until: Until, index: Option<usize>, now: Now) -> Vec<Notice> {
        let single = self
            .rings
            .get(ring)
            .is_some_and(|ring| ring.pool.len() == 1);
        let mut say = vec![self.reason(ring, now)];
        if single {
            say.push(Notice::NoNextToken);
        } else if !self.is_brief(until, now) {
            say.push(Notice::AllExhausted);
        }
        say.push(self.waiting(ring, until, index, now));
        say
    }

    fn is_brief(&self, until: Until, now: Now) -> bool {
        until.remaining(now) <= self.rules.patience
    }

    /// Stops the child; the question follows when it is stopped and the terminal is ours.
    pub(super) fn pause_to_ask(&mut self, ring: usize, question: Question, now: Now) -> Reply {
        let until = self
            .end_of_limit(ring, now)
            .unwrap_or_else(|| Until::after(Duration::ZERO, now));
        self.phase = Phase::Paused {
            since: now,
            freeze_at: Some(now.tick + STOP_PATIENCE),
            wake: until,
            question: Some(question),
            wait_for_current: false,
        };
        Reply::action(Action::Pause).and_say(self.reason(ring, now))
    }

    pub(super) fn give_up(&mut self, ring: usize, decision: Decision, now: Now) -> Reply {
        let notice = match decision {
            Decision::ExceedsMaxWait { until, index } => Notice::TooLong {
                index,
                at: until.wall,
                now: now.wall,
            },
            _ => Notice::NoneLeft {
                provider: self.label(ring),
            },
        };
        self.stop_for_later(now).and_say(notice)
    }

    /// Ends the run before the command has finished.
    pub(super) fn stop_for_later(&mut self, now: Now) -> Reply {
        match self.phase {
            Phase::Failed { .. } | Phase::Unstarted { .. } => {
                Reply::action(Action::Finish(Outcome::TryAgainLater))
            }
            _ => self.stop(Signal::SIGTERM, AfterStop::End(Outcome::TryAgainLater), now),
        }
    }

    pub(super) fn stop(&mut self, signal: Signal, then: AfterStop, now: Now) -> Reply {
        self.phase = Phase::Stopping {
            kill_at: Some(now.tick + self.rules.grace),
            then,
        };
        Reply::action(Action::Terminate(signal))
    }

    pub(super) fn retry_or_finish(&mut self, since: Now, how: ExitStatus, now: Now) -> Reply {
        if self.retries >= self.rules.retries {
            return self.finish(how);
        }
        let pause = BETWEEN_STARTS
            .saturating_mul(1 << self.retries.min(6))
            .min(Duration::from_secs(60));
        self.retries += 1;
        self.ready_at = now.tick + pause;
        self.phase = Phase::Failed {
            failure: Failure {
                since,
                how,
                blamed: true,
                said: Reported::All,
                asks: false,
                wait_for_current: false,
            },
            wake: Some(Until::after(pause, now)),
            question: None,
        };
        Reply::nothing()
            .and_say(Notice::Failed { how })
            .and_say(Notice::Retrying {
                number: self.retries,
                of: self.rules.retries,
                span: pause,
            })
    }

    /// Starts the failed child again, as soon as that may be.
    pub(super) fn start_again(&mut self, now: Now) -> Reply {
        match &mut self.phase {
            Phase::Failed { wake, failure, .. } if now.tick < self.ready_at => {
                *wake = Some(Until::after(self.ready_at - now.tick, now));
                failure.blamed = true;
                failure.said = Reported::All;
                Reply::nothing()
            }
            Phase::Failed { failure, .. } => {
                let (how, kill_at) = (failure.how, Some(now.tick + self.rules.grace));
                self.sweep(kill_at, AfterStop::Restart, how, now)
            }
            _ => self.launch(true, now),
        }
    }

    /// The child is gone; the next step waits until what it has started is gone too.
    pub(super) fn sweep(
        &mut self,
        kill_at: Option<Instant>,
        then: AfterStop,
        how: ExitStatus,
        now: Now,
    ) -> Reply {
        self.phase = Phase::Sweeping {
            kill_at,
            give_up: now.tick + UNKILLABLE,
            look_at: now.tick + BETWEEN_LOOKS,
            then,
            how,
        };
        Reply::action(Action::Sweep {
            signal: Some(if kill_at.is_some() {
                Signal::SIGTERM
            } else {
                Signal::SIGKILL
            }),
        })
    }

    pub(super) fn swept(&mut self, then: AfterStop, how: ExitStatus, now: Now) -> Reply {
        match then {
            AfterStop::Restart => self.launch(true, now),
            AfterStop::Recover => self.fail(how, true, Reported::Cause, now),
            AfterStop::EndAsChild => Reply::action(Action::Finish(Outcome::AsChild(how))),
            AfterStop::End(outcome) => Reply::action(Action::Finish(outcome)),
        }
    }

    pub(super) fn launch(&mut self, again: bool, now: Now) -> Reply {
        self.phase = Phase::Running { recheck: None };
        self.last_start = now.tick;
        self.gave_up = None;
        self.ready_at = now.tick + BETWEEN_STARTS;
        let mut reply = Reply::action(Action::Launch { again });
        let several = self.rings.len() > 1;
        for ring in &mut self.rings {
            if std::mem::take(&mut ring.switched) {
                reply.say.push(Notice::Switched {
                    provider: several.then_some(ring.pool.current().provider.label),
                    index: ring.pool.current_index(),
                    len: ring.pool.len(),
                });
            }
        }
        reply
    }

    pub(super) fn finish(&self, how: ExitStatus) -> Reply {
        Reply::action(Action::Finish(Outcome::AsChild(how))).and_say(match how {
            ExitStatus::Code(0) => Notice::Completed,
            how => Notice::Failed { how },
        })
    }
}

/// Whether a wait has become longer by more than people care about.
fn is_later(wake: Until, old: Until, now: Now) -> bool {
    wake.remaining(now) > old.remaining(now) + SHORT_LIFE
}

/// Which of several rings' decisions goes first. A running child is stopped before anything is
/// asked on behalf of another ring; a held one is not let go while anything is open.
fn urgency(decision: Decision, held: Suspension) -> u8 {
    let runs = matches!(held, Suspension::No);
    match decision {
        Decision::NoUsableToken | Decision::ExceedsMaxWait { .. } => 6,
        Decision::Wait { .. } if runs => 5,
        Decision::Probe { .. } => 4,
        Decision::Rotate { .. } if runs => 3,
        Decision::Wait { .. } => 3,
        Decision::Rotate { .. } => 2,
        Decision::KeepUntil { .. } => 1,
        Decision::Keep => 0,
    }
}
