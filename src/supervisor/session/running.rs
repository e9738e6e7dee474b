//! Decisions while the child runs: go on, ask about a token, rotate, pause, or give up.

use super::*;

impl Session {
    pub(super) fn decide_running(&mut self, now: Now) -> Turn {
        if let Some((since, trouble)) = self.idle(now) {
            return self.end_idle(since, trouble, now);
        }
        let (ring, decision) = self.consult(Suspension::No, now);
        if let (true, Some(turn)) = (is_for_want_of_a_token(decision), self.reread_first(now)) {
            return turn;
        }
        let mut again_at = None;
        let turn = match decision {
            Decision::Keep if self.has_token_files && self.is_short_of_tokens(now) => {
                if let Some(turn) = self.reread_first(now) {
                    return turn;
                }
                again_at = Some(Until::after(SLICE, now));
                self.probe_unknown_token(now)
            }
            Decision::Keep => self.probe_unknown_token(now),
            Decision::KeepUntil { retry } => {
                again_at = Some(retry);
                Turn::nothing()
            }
            Decision::Probe { index } => self.probe(TokenId { ring, index }, now),
            Decision::Rotate { .. } if self.rules.interactive => {
                return self.pause_to_ask(ring, now);
            }
            Decision::Rotate { index } => return self.rotate(ring, index, now),
            Decision::Wait { until, index } => return self.pause(ring, until, index, now),
            Decision::NoUsableToken | Decision::ExceedsMaxWait { .. } => {
                let reason = self.reason(ring, now);
                return self.give_up(ring, decision, now).and_say_first(reason);
            }
        };
        self.phase = Phase::Running { recheck: again_at };
        turn
    }

    /// The child has given up, and has said so: a rotation or a pause would leave it idle.
    fn end_idle(&mut self, since: Instant, trouble: Trouble, now: Now) -> Turn {
        let last = since + LAST_WORDS;
        if now.tick < last {
            let recheck = Some(Until::after(last - now.tick, now));
            self.phase = Phase::Running { recheck };
            return Turn::nothing();
        }
        let reason = match trouble {
            Trouble::Overloaded => RunEvent::TurnFailed,
            Trouble::Limited | Trouble::Account => {
                self.reason(self.consult(Suspension::No, now).0, now)
            }
        };
        self.stop(Signal::SIGTERM, AfterStop::Recover)
            .and_say_first(reason)
    }

    /// Each token is asked once soon after the start, after the first answer for the one in use.
    fn probe_unknown_token(&mut self, now: Now) -> Turn {
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
            Some(token) => self.probe(token, now),
            None => Turn::nothing(),
        }
    }

    /// Ends the child, which is paused or runs, and starts it again with this token.
    pub(super) fn rotate(&mut self, ring: usize, index: usize, now: Now) -> Turn {
        let reason = match self.phase {
            Phase::Running { .. } => Some(self.reason(ring, now)),
            _ => None,
        };
        let mut reasons: Vec<RunEvent> = reason.into_iter().collect();
        self.switch(ring, index);
        // One restart is enough for all rings that have to move.
        for other in (0..self.rings.len()).filter(|other| *other != ring) {
            if let Some(index) = self.next_of(other, now) {
                reasons.push(self.reason(other, now));
                self.switch(other, index);
            }
        }
        self.stop(Signal::SIGTERM, AfterStop::Restart)
            .and_say_all_first(reasons)
            .and_say(RunEvent::AutoRotating)
    }

    /// The token that a ring is to move to.
    fn next_of(&self, ring: usize, now: Now) -> Option<usize> {
        let own = self.rings.get(ring)?;
        if own.blind || own.keep_going || !self.may_live_on(ring, now) {
            return None;
        }
        match self.decide(ring, Suspension::No, now) {
            Decision::Rotate { index } => Some(index),
            _ => None,
        }
    }

    /// Pauses the child until a token is usable.
    fn pause(&mut self, ring: usize, until: Until, index: Option<usize>, now: Now) -> Turn {
        // A reset within the patience is not worth a question either.
        let asks = self.rules.interactive && !self.is_brief(until, now);
        self.on_failure = None;
        let mut turn = Turn::action(Action::Pause);
        turn.events = self.exhausted(ring, until, index, now);
        if !asks {
            turn.events.push(RunEvent::Pausing(until.remaining(now)));
        }
        turn.events.push(RunEvent::Paused);
        self.phase = Phase::Waiting(Waiting {
            wake: Some(until),
            question: asks.then_some(Question::Exhausted),
            ..Waiting::new(Held::Paused { complete: false }, now)
        });
        turn
    }

    /// Pauses the child; the question follows when it is stopped and the terminal is ours.
    fn pause_to_ask(&mut self, ring: usize, now: Now) -> Turn {
        let until = self.end_of_limit(ring, now);
        self.phase = Phase::Waiting(Waiting {
            wake: until.or(Some(Until::after(Duration::ZERO, now))),
            question: Some(Question::Rotate { ring }),
            ..Waiting::new(Held::Paused { complete: false }, now)
        });
        Turn::action(Action::Pause)
            .and_say(self.reason(ring, now))
            .and_say(RunEvent::Paused)
    }
}
