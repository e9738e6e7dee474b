//! Waiting: the child is paused, has failed or was not started yet, until a token will do.
//!
//! Owns [`Waiting`], the questions that the user is asked meanwhile, and what each decision of the
//! table means here. The three kinds of waiting differ in what follows: a paused child goes on or is
//! rotated, a failed one is started again, and the first start comes late.

use super::*;
use crate::system::prompt::END_OF_INPUT;

/// A wait, and what has become of the child.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) held: Held,
    pub(super) since: Now,
    /// When the table is consulted again; `None`: as soon as a question is answered.
    pub(super) wake: Option<Until>,
    /// What the user is asked; nothing else happens meanwhile.
    pub(super) question: Option<Question>,
    /// The user is to be asked before a limit has a failed child started again.
    pub(super) asks: bool,
    /// The user wants to wait for the token in use, whatever others there are.
    pub(super) wait_for_current: bool,
}

/// What has become of the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// It is stopped; `complete` once the terminal is ddollar's.
    Paused { complete: bool },
    /// It is gone and was not to go.
    Ended {
        how: ExitStatus,
        /// Its token or provider was found to be the cause: it is started again.
        blamed: bool,
        reported: Reported,
    },
    /// It has not been started yet: every token was known to be spent when the run began.
    NotStarted,
}

/// How much the user knows of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reported {
    Nothing,
    /// That the child ended, and why.
    Cause,
    /// And what is waited for.
    All,
}

/// What the user is asked in interactive mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// The token of this ring that is in use will not do, and another one would.
    Rotate { ring: usize },
    /// None will do before a reset.
    Exhausted,
}

impl Waiting {
    pub(super) fn new(held: Held, now: Now) -> Waiting {
        Waiting {
            held,
            since: now,
            wake: None,
            question: None,
            asks: false,
            wait_for_current: false,
        }
    }

    /// Whether there is a child, which is stopped or about to be.
    pub(super) fn is_paused(&self) -> bool {
        matches!(self.held, Held::Paused { .. })
    }

    /// Whether a question can be answered now.
    pub(super) fn is_asking(&self) -> bool {
        self.question.is_some() && self.held != Held::Paused { complete: false }
    }

    /// Until when nothing happens, as far as is known. Nothing but an answer ends a question.
    pub(super) fn until(&self) -> Option<Until> {
        self.wake.filter(|_| self.question.is_none())
    }

    fn suspension(&self) -> Suspension {
        let since = self.since;
        match self.held {
            Held::Paused { .. } => Suspension::Paused { since },
            Held::Ended { .. } => Suspension::Ended { since },
            Held::NotStarted => Suspension::Unstarted { since },
        }
    }

    /// How long the wait still is that the user is asked about.
    fn left(&self, now: Now) -> Duration {
        self.wake.map_or(Duration::ZERO, |wake| wake.remaining(now))
    }

    /// The same wait; the cause of it is known, and so is `reported` to the user.
    fn blamed(self, reported: Reported) -> Waiting {
        match self.held {
            Held::Ended { how, .. } => Waiting {
                held: Held::Ended {
                    how,
                    blamed: true,
                    reported,
                },
                ..self
            },
            _ => self,
        }
    }
}

impl Session {
    /// Until when nothing happens, as far as is known: while the child is held for a limit or an
    /// outage, or not started for one, and nobody is asked.
    pub(crate) fn waits_until(&self) -> Option<Until> {
        match self.phase {
            Phase::Waiting(waiting) => waiting.until(),
            _ => None,
        }
    }

    /// The open question, in words; `None`: nobody is asked.
    pub(crate) fn question(&self, now: Now) -> Option<RunEvent> {
        match self.phase {
            Phase::Waiting(waiting) if waiting.is_asking() => Some(match waiting.question? {
                Question::Rotate { ring } => {
                    RunEvent::AskRotate(self.can_recover(ring, now).then(|| waiting.left(now)))
                }
                Question::Exhausted => RunEvent::AskExhausted,
            }),
            _ => None,
        }
    }

    /// Whether a token is to be looked at again, long before the end that was promised.
    pub(super) fn is_look_due(&self, now: Now) -> bool {
        let Phase::Waiting(waiting) = self.phase else {
            return false;
        };
        let pools = self.rings.iter().filter(|ring| !ring.blind);
        self.asking.is_empty()
            && pools
                .map(|ring| policy::due_in_wait(&ring.pool, waiting.suspension(), now))
                .any(|due| due.is_some())
    }

    pub(super) fn decide_waiting(&mut self, waiting: Waiting, now: Now) -> Turn {
        if waiting.question.is_some() {
            return Turn::nothing();
        }
        let (ring, decision) = self.consult(waiting.suspension(), now);
        if let (true, Some(turn)) = (is_for_want_of_a_token(decision), self.reread_first(now)) {
            return turn;
        }
        match self.as_the_user_wants(waiting, ring, decision, now) {
            Decision::Keep | Decision::KeepUntil { .. } => self.go_on(waiting, now),
            Decision::Probe { index } => self.probe(TokenId { ring, index }, now),
            Decision::Rotate { index } => self.go_on_with(waiting, ring, index, now),
            Decision::Wait { until, index } => self.wait(waiting, ring, until, index, now),
            Decision::NoUsableToken | Decision::ExceedsMaxWait { .. } => {
                // Of a paused child it was said when the pause began.
                let reason = (!waiting.is_paused()).then(|| self.reason(ring, now));
                self.give_up(ring, decision, now)
                    .and_say_all_first(reason.into_iter().collect())
            }
        }
    }

    /// The decision of a user who may want to wait for the token in use.
    fn as_the_user_wants(
        &self,
        waiting: Waiting,
        ring: usize,
        decision: Decision,
        now: Now,
    ) -> Decision {
        let current = self.rings.get(ring).map(|ring| ring.pool.current_index());
        match decision {
            Decision::Rotate { index } | Decision::Probe { index }
                if waiting.wait_for_current && Some(index) != current =>
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

    /// The token in use will do.
    fn go_on(&mut self, waiting: Waiting, now: Now) -> Turn {
        match waiting.held {
            // It was paused after it had given up.
            Held::Paused { .. } if self.gave_up.is_some() => self
                .stop(Signal::SIGTERM, AfterStop::Restart)
                .and_say(RunEvent::Resuming),
            Held::Paused { .. } => {
                self.resumed = Some(now.tick);
                self.resume()
                    .and_say(RunEvent::Resuming)
                    .and_say(RunEvent::SessionContinued)
            }
            Held::Ended {
                how,
                blamed: true,
                reported,
            } => {
                let mut say = Vec::new();
                if reported == Reported::Nothing {
                    say.push(RunEvent::Failed(how));
                    let is_busy = matches!(self.gave_up, None | Some((_, Trouble::Overloaded)));
                    say.extend(is_busy.then_some(RunEvent::TurnFailed));
                }
                self.start_again(waiting, how, now).and_say_all_first(say)
            }
            Held::Ended { how, .. } => match self.suspect(how, true, now) {
                Some(ring) => self.blame(waiting, how, ring, now),
                None => match self.witness(waiting, how, now) {
                    Some((ring, Decision::Rotate { index })) => self
                        .go_on_with(waiting.blamed(Reported::Cause), ring, index, now)
                        .and_say_first(RunEvent::Failed(how)),
                    Some((ring, Decision::Probe { index })) => {
                        self.probe(TokenId { ring, index }, now)
                    }
                    _ => self.look_at_others(waiting, how, now),
                },
            },
            Held::NotStarted => self.launch(false, now),
        }
    }

    /// The ring whose token was refused at its check for what another token may be served, and what to do
    /// with that one. Behind a proxy the request itself has been tried with both.
    fn witness(&self, waiting: Waiting, how: ExitStatus, now: Now) -> Option<(usize, Decision)> {
        let is_open = self.proxied.is_none() && !waiting.asks && how != ExitStatus::Code(0);
        let mut rings = self.rings.iter().enumerate().filter(|_| is_open);
        rings.find_map(|(i, ring)| {
            let is_used = ring.in_use && !ring.blind && self.may_live_on(i, now);
            let found = policy::witness(&ring.pool, waiting.since.tick, now);
            Some((i, found.filter(|_| is_used)?))
        })
    }

    /// The ring whose token may have been refused by a limit that no check sees: one of its windows of a
    /// minute was more than half used at the last check before the child failed, or at the first after.
    /// `in_use` says which rings are looked at: those that the child is known to use, or the others. Behind a
    /// proxy every refusal is seen.
    fn suspect(&self, how: ExitStatus, in_use: bool, now: Now) -> Option<usize> {
        let is_suspect = |ring: &SessionRing| {
            policy::may_refuse(ring.used_at_end) || policy::may_have_refused(ring.used_of_minute())
        };
        let failed = matches!(how, ExitStatus::Code(1..=125)) && self.proxied.is_none();
        let mut rings = self.rings.iter().enumerate().filter(|_| failed);
        let found = rings.find(|(i, ring)| {
            ring.in_use == in_use && !ring.blind && self.may_live_on(*i, now) && is_suspect(ring)
        });
        found.map(|(ring, _)| ring)
    }

    /// Takes the failure for the limit of this ring's token: another one is next, or a wait, which is
    /// longer each time while the child's requests are not served.
    fn blame(&mut self, waiting: Waiting, how: ExitStatus, place: usize, now: Now) -> Turn {
        let (Some(token), Some(ring)) = (self.token(place, None), self.rings.get_mut(place)) else {
            return Turn::nothing();
        };
        ring.in_use = true;
        let used = ring.used_of_minute();
        let lived = waiting
            .since
            .tick
            .saturating_duration_since(self.last_start);
        policy::blame(&mut ring.pool, lived, used > ring.used_at_start, now);
        let limit = Limit::Near {
            used: used.into_iter().chain(ring.used_at_end).fold(0.0, f64::max),
        };
        let state = ring.pool.state(token.id.index);
        let until = state.condition(now).until().map(|until| until.wall);
        let limit = RunEvent::limit(token, limit, None, state, until);
        self.phase = Phase::Waiting(waiting.blamed(Reported::Cause));
        self.apply_decision(now)
            .and_say_all_first(vec![RunEvent::Failed(how), limit])
    }

    /// Nothing that the child is known to use explains its failure: what is spent of the others may, and if
    /// it is not known to use any, an outage of one. Behind a proxy all that it uses is seen.
    fn look_at_others(&mut self, waiting: Waiting, how: ExitStatus, now: Now) -> Turn {
        let known = self.rings.iter().any(|ring| ring.in_use);
        let mut others = self.decisions(false, waiting.suspension(), now);
        let found = others.find(|(_, decision)| match decision {
            Decision::Probe { .. } | Decision::Rotate { .. } => true,
            Decision::Wait { index, .. } => index.is_some() || !known,
            _ => false,
        });
        drop(others);
        match found.filter(|_| self.proxied.is_none() && how != ExitStatus::Code(0)) {
            None => match self.suspect(how, false, now) {
                Some(ring) => self.blame(waiting, how, ring, now),
                None => self.retry_or_finish(waiting, how, now),
            },
            Some((ring, Decision::Probe { index })) => self.probe(TokenId { ring, index }, now),
            Some((place, _)) => {
                if let Some(ring) = self.rings.get_mut(place) {
                    ring.in_use = true;
                }
                self.apply_decision(now)
            }
        }
    }

    /// Another token will do.
    fn go_on_with(&mut self, waiting: Waiting, ring: usize, index: usize, now: Now) -> Turn {
        match waiting.held {
            Held::Paused { .. } if self.proxied.is_some() => {
                self.phase = Phase::Running { recheck: None };
                let switched = self.token(ring, Some(index));
                let mut turn = Turn::action(Action::ResumeWith(TokenId { ring, index }))
                    .and_say(RunEvent::AutoRotating);
                turn.events.extend(switched.map(RunEvent::Switched));
                turn.and_say(RunEvent::Resumed)
            }
            Held::Paused { .. } => self.rotate(ring, index, now),
            Held::Ended { how, reported, .. } if waiting.asks => {
                let say = self.cause(reported, how, ring, now);
                let until = self.end_of_limit(ring, now);
                let until = until.unwrap_or_else(|| Until::after(Duration::ZERO, now));
                self.ask_about_failure(waiting, Question::Rotate { ring }, until)
                    .and_say_all_first(say)
            }
            Held::Ended { how, reported, .. } => {
                let mut say = self.cause(reported, how, ring, now);
                if reported != Reported::All {
                    say.push(RunEvent::AutoRotating);
                }
                self.switch(ring, index);
                self.start_again(waiting, how, now).and_say_all_first(say)
            }
            Held::NotStarted => {
                self.switch(ring, index);
                self.apply_decision(now)
            }
        }
    }

    /// No token will do before `until`.
    fn wait(
        &mut self,
        waiting: Waiting,
        ring: usize,
        until: Until,
        index: Option<usize>,
        now: Now,
    ) -> Turn {
        if let Held::Ended { how, reported, .. } = waiting.held {
            return self.wait_after_failure(waiting, how, reported, (ring, until, index), now);
        }
        let mut next = Waiting {
            wake: Some(until),
            ..waiting
        };
        let say = match waiting.wake {
            None => {
                let asks = self.rules.interactive && !self.is_brief(until, now);
                next.question = asks.then_some(Question::Exhausted);
                self.exhausted(ring, until, index, now)
            }
            Some(old) if is_later(until, old, now) => vec![self.waiting(ring, until, index, now)],
            Some(_) => Vec::new(),
        };
        self.phase = Phase::Waiting(next);
        Turn {
            events: say,
            action: match next.question {
                Some(_) => Action::Ask,
                None => Action::Nothing,
            },
        }
    }

    fn wait_after_failure(
        &mut self,
        waiting: Waiting,
        how: ExitStatus,
        reported: Reported,
        (ring, until, index): (usize, Until, Option<usize>),
        now: Now,
    ) -> Turn {
        let waited = now.tick.saturating_duration_since(waiting.since.tick);
        if index.is_none() && !self.heard && waited >= NEVER_HEARD {
            return self.finish(how).and_say_first(RunEvent::NeverHeard);
        }
        let mut say = Vec::new();
        if reported != Reported::All {
            say = self.cause(reported, how, ring, now);
            say.push(self.waiting(ring, until, index, now));
        }
        // An outage is waited for, and a reset within the patience is not worth a question.
        let is_limit = self.end_of_limit(ring, now).is_some();
        if waiting.asks && is_limit && !self.is_brief(until, now) {
            return self
                .ask_about_failure(waiting, Question::Exhausted, until)
                .and_say_all_first(say);
        }
        self.phase = Phase::Waiting(Waiting {
            wake: Some(until),
            ..waiting.blamed(Reported::All)
        });
        Turn {
            events: say,
            action: Action::Nothing,
        }
    }

    /// Asks the user about a limit that the child has failed for, once.
    fn ask_about_failure(&mut self, waiting: Waiting, question: Question, until: Until) -> Turn {
        self.phase = Phase::Waiting(Waiting {
            wake: Some(until),
            question: Some(question),
            asks: false,
            ..waiting.blamed(Reported::All)
        });
        Turn::action(Action::Ask)
    }

    /// Lets a paused child go on.
    fn resume(&mut self) -> Turn {
        self.phase = Phase::Running { recheck: None };
        Turn::action(Action::Resume).and_say(RunEvent::Resumed)
    }

    /// Starts the failed child again, as soon as that may be: what it had started is ended first.
    fn start_again(&mut self, waiting: Waiting, how: ExitStatus, now: Now) -> Turn {
        if now.tick < self.ready_at {
            self.phase = Phase::Waiting(Waiting {
                wake: Some(Until::after(self.ready_at - now.tick, now)),
                ..waiting.blamed(Reported::All)
            });
            return Turn::nothing();
        }
        self.phase = Phase::Stopping {
            signal: Signal::SIGTERM,
            then: AfterStop::Restart,
            how: Some(how),
        };
        Turn::action(Action::Stop(Signal::SIGTERM))
    }

    fn retry_or_finish(&mut self, waiting: Waiting, how: ExitStatus, now: Now) -> Turn {
        if how == ExitStatus::Code(0) || self.retries >= self.rules.retries {
            let mut turn = self.finish(how);
            if matches!(how, ExitStatus::Code(1..=125)) {
                turn.events.extend(self.on_failure.take());
            }
            return turn;
        }
        let pause = BETWEEN_STARTS
            .saturating_mul(1 << self.retries.min(6))
            .min(Duration::from_secs(60));
        self.retries += 1;
        self.ready_at = now.tick + pause;
        self.phase = Phase::Waiting(Waiting {
            wake: Some(Until::after(pause, now)),
            asks: false,
            wait_for_current: false,
            ..waiting.blamed(Reported::All)
        });
        Turn::nothing()
            .and_say(RunEvent::Failed(how))
            .and_say(RunEvent::Retrying {
                number: self.retries,
                of: self.rules.retries,
                span: pause,
            })
    }

    // ---- events ----

    /// The pause is complete.
    pub(super) fn on_paused(&mut self) -> Turn {
        match &mut self.phase {
            Phase::Waiting(waiting) if waiting.is_paused() => {
                waiting.held = Held::Paused { complete: true };
                match waiting.question {
                    Some(_) => Turn::action(Action::Ask),
                    None => Turn::nothing(),
                }
            }
            _ => Turn::nothing(),
        }
    }

    /// Somebody else has continued a paused child: an operator's word counts more than the table's.
    pub(super) fn on_continued(&mut self) -> Turn {
        match self.phase {
            Phase::Waiting(waiting) if waiting.is_paused() => {
                self.resume().and_say(RunEvent::ContinuedByHand)
            }
            _ => Turn::nothing(),
        }
    }

    /// The user's answer to the open question.
    pub(super) fn on_line(&mut self, line: &str, now: Now) -> Turn {
        let Phase::Waiting(Waiting {
            question: Some(question),
            ..
        }) = self.phase
        else {
            return Turn::nothing();
        };
        let may_wait = match question {
            Question::Rotate { ring } => self.can_recover(ring, now),
            Question::Exhausted => true,
        };
        let Phase::Waiting(waiting) = &mut self.phase else {
            return Turn::nothing();
        };
        waiting.question = None;
        let span = waiting.left(now);
        let is_paused = waiting.is_paused();
        match (question, line) {
            // The answer may be hours old by now: the token is asked once more.
            (Question::Rotate { ring }, "" | "1") => {
                if let Some(ring) = self.rings.get_mut(ring) {
                    let current = ring.pool.current_index();
                    ring.pool.standing_mut(current).need_again(now);
                }
                self.answered(false, now);
                self.apply_decision(now)
            }
            (Question::Rotate { .. }, "2") if may_wait => {
                self.answered(true, now);
                match is_paused {
                    true => Turn::nothing().and_say(RunEvent::Pausing(span)),
                    false => self.apply_decision(now),
                }
            }
            (Question::Rotate { ring }, "4") => {
                if let Some(ring) = self.rings.get_mut(ring) {
                    ring.keep_going = true;
                }
                let turn = match (self.phase, is_paused) {
                    (Phase::Waiting(waiting), false) => match waiting.held {
                        Held::Ended { how, .. } => self.start_again(waiting, how, now),
                        _ => Turn::nothing(),
                    },
                    _ => self.resume(),
                };
                turn.and_say_first(RunEvent::KeepingOn)
            }
            (Question::Exhausted, "" | "1") => {
                let turn = self.apply_decision(now);
                if span.is_zero() || !is_paused {
                    return turn;
                }
                turn.and_say_first(RunEvent::Pausing(span))
            }
            (Question::Rotate { .. }, "3") | (Question::Exhausted, "2") => self
                .stop_for_later()
                .and_say(RunEvent::Saved { kept: true }),
            (question, _) => {
                waiting.question = Some(question);
                Turn::action(Action::Ask).and_say(match line {
                    END_OF_INPUT => RunEvent::NoAnswer,
                    _ => RunEvent::NoSuchChoice,
                })
            }
        }
    }

    /// The user has chosen what is to follow: for a failed child it is as if it had just failed, for
    /// a cause that is known.
    fn answered(&mut self, wait_for_current: bool, now: Now) {
        if let Phase::Waiting(waiting) = &mut self.phase {
            waiting.wait_for_current = wait_for_current;
            if let Held::Ended { reported, .. } = &mut waiting.held {
                *reported = Reported::Cause;
                waiting.since = now;
            }
        }
    }

    // ---- words ----

    /// What is still to be said of a failure: how the child ended, and why.
    fn cause(&self, reported: Reported, how: ExitStatus, ring: usize, now: Now) -> Vec<RunEvent> {
        match reported {
            Reported::Nothing => {
                let mut say = vec![RunEvent::Failed(how)];
                say.extend(self.untold_reason(ring, now));
                say
            }
            Reported::Cause | Reported::All => Vec::new(),
        }
    }

    /// Why nothing goes on, and until when.
    pub(super) fn exhausted(
        &self,
        ring: usize,
        until: Until,
        index: Option<usize>,
        now: Now,
    ) -> Vec<RunEvent> {
        let single = self
            .rings
            .get(ring)
            .is_some_and(|ring| ring.pool.len() == 1);
        let mut say: Vec<RunEvent> = self.untold_reason(ring, now).into_iter().collect();
        if single {
            say.push(RunEvent::NoNextToken);
        } else if !self.is_brief(until, now) {
            say.push(RunEvent::AllExhausted);
        }
        say.push(self.waiting(ring, until, index, now));
        say
    }

    pub(super) fn is_brief(&self, until: Until, now: Now) -> bool {
        until.remaining(now) <= self.rules.patience
    }

    fn waiting(&self, ring: usize, until: Until, index: Option<usize>, now: Now) -> RunEvent {
        let Some(token) = self.token(ring, index) else {
            return RunEvent::AllExhausted;
        };
        match index {
            Some(_) => RunEvent::WaitingForReset {
                token,
                span: until.remaining(now),
                at: until.wall,
                now: now.wall,
                held: false,
            },
            None => RunEvent::WaitingForProvider {
                provider: token.provider,
                span: until.remaining(now),
                at: until.wall,
                // One that was never reached is given up after a while.
                at_most: (!self.heard && self.has_failed()).then_some(LAST_TRY),
            },
        }
    }

    fn has_failed(&self) -> bool {
        let Phase::Waiting(waiting) = self.phase else {
            return false;
        };
        matches!(waiting.held, Held::Ended { .. })
    }
}

/// Whether a wait has become longer by more than people care about.
fn is_later(wake: Until, old: Until, now: Now) -> bool {
    wake.remaining(now) > old.remaining(now) + SHORT_LIFE
}
