//! What is learned of tokens while a run goes on: by checks, from the proxy, from the child's own word,
//! and from token files that were read again.

use super::*;

impl Session {
    pub(super) fn on_answer(&mut self, token: TokenId, answer: &Answer, now: Now) -> Turn {
        self.asking
            .retain(|(asked, put)| *asked != token || answer.asked < *put);
        let several = self.rings.len() > 1;
        let Some(ring) = self.rings.get_mut(token.ring) else {
            return Turn::nothing();
        };
        let is_first = !ring.pool.state(token.index).was_rejected();
        // The proxy has taken it in already.
        if self.proxied.is_none() {
            policy::record(&mut ring.pool, token.index, answer, &self.rules, now);
            let may_tell = match self.phase {
                Phase::Waiting(waiting) => matches!(waiting.held, Held::Ended { .. }),
                Phase::Running { .. } => true,
                Phase::Stopping { .. } => false,
            };
            if let Ok(reading) = &answer.reading
                && may_tell
                && token.index == ring.pool.current_index()
                && answer.asked >= self.last_start
                && matches!(reading.finding, Finding::Served)
            {
                ring.watch(reading);
            }
        }
        let state = ring.pool.state(token.index);
        let condition = state.condition(now);
        ring.worked |= condition.is_accepted();
        // The user's word holds until the window resets, or the token is refused.
        ring.keep_going &= token.index != ring.pool.current_index()
            || matches!(condition, Condition::NearLimit { .. });
        self.heard |= answer.reading.is_ok();
        // A token that is served after its account was in trouble: a child that runs has that behind
        // it, and is not idle at its next limit.
        let is_current = token.index == ring.pool.current_index();
        let served = |reading: &Reading| matches!(reading.finding, Finding::Served);
        if let (Phase::Running { .. }, Some((since, Trouble::Account))) = (self.phase, self.gave_up)
            && is_current
            && answer.asked >= since
            && answer.reading.as_ref().is_ok_and(served)
        {
            self.gave_up = None;
        }

        let mut say = Vec::new();
        let name = TokenRef::new(&ring.pool, token, several);
        let provider = name.provider;
        say.push(RunEvent::Checked {
            token: name,
            reading: answer.reading.clone(),
        });
        let finding = answer.reading.as_ref().map(|reading| &reading.finding);
        if let (Ok(Finding::Unclear { why }), false) = (finding, ring.said_unclear) {
            ring.said_unclear = true;
            say.push(RunEvent::Unclear {
                provider,
                why: why.to_string(),
            });
        }
        // A rejection of the token in use is reported when it is left.
        let is_rejected = matches!(finding, Ok(Finding::Rejected))
            && self.proxied.is_none()
            && !(is_current && ring.in_use);
        match (state.silence(), ring.said_silent) {
            (Some((silence, _)), false) if !is_rejected => {
                ring.said_silent = true;
                say.push(RunEvent::silent(name, silence, &answer.reading));
            }
            (None, true) => {
                ring.said_silent = false;
                // A second rejection is an answer, but no news of the provider.
                if !matches!(finding, Ok(Finding::Rejected)) {
                    say.push(RunEvent::AnswersAgain(provider));
                }
            }
            _ => {}
        }
        if self.proxied.is_none() {
            say.extend(RunEvent::quotas(&ring.pool, &mut ring.said_quotas));
        }
        if is_current {
            say.extend(self.set_aside(token.ring, now));
        }
        let mut turn = self.apply_decision(now);
        say.append(&mut turn.events);
        let is_told =
            |event: &RunEvent| matches!(event, RunEvent::Limit { token: of, .. } if of.id == token);
        if is_rejected && is_first && !say.iter().any(is_told) {
            let reading = answer.reading.as_ref().ok();
            let said = reading.and_then(|reading| reading.said.clone());
            say.push(RunEvent::Rejected { token: name, said });
        }
        Turn {
            events: say,
            ..turn
        }
    }

    /// What follows from a notice of the proxy's.
    pub(super) fn on_notice(&mut self, notice: &RunEvent, now: Now) -> Turn {
        match notice {
            RunEvent::MaxTokens { .. } => self.stop_for_later(),
            // The user may have to be asked.
            RunEvent::Limit { .. } if self.rules.interactive => self.apply_decision(now),
            // There may be a new token, in the place of the old one.
            _ if notice.is_in_doubt() => self.reread_first(now).unwrap_or_else(Turn::nothing),
            _ if self.has_token_files && notice.lacks_token() => self.apply_decision(now),
            _ => Turn::nothing(),
        }
    }

    /// Whether the proxy holds what the child asks for, because no token is good for it.
    pub(super) fn is_short_of_tokens(&self, now: Now) -> bool {
        let ledger = self
            .proxied
            .as_ref()
            .and_then(|proxied| proxied.ledger.as_ref());
        let mut rings = 0..ledger.map_or(0, Ledger::len);
        rings.any(|ring| ledger.is_some_and(|known| known.outlook(ring, now) != Outlook::Usable))
    }

    /// What goes before a wait or an end for want of a good token: a look at the token files, unless they were
    /// just looked at.
    pub(super) fn reread_first(&self, now: Now) -> Option<Turn> {
        let ago = self.reread.map(|at| now.tick.saturating_duration_since(at));
        let is_due = ago.is_none_or(|ago| ago >= BETWEEN_READS);
        (self.has_token_files && is_due).then(|| Turn::action(Action::Reread))
    }

    /// The token files were read again.
    pub(super) fn on_tokens(&mut self, renewals: &[(usize, Renewal)], now: Now) -> Turn {
        self.reread = Some(now.tick);
        // The proxy has taken it in already.
        if self.proxied.is_none() {
            for (ring, renewal) in renewals {
                if let Some(ring) = self.rings.get_mut(*ring) {
                    ring.pool.renew(renewal);
                }
            }
        }
        let pool = |ring: usize| self.rings.get(ring).map(|ring| &ring.pool);
        let news = RunEvent::tokens_changed(renewals, pool, self.rings.len() > 1);
        let mut turn = self.apply_decision(now);
        turn.events.splice(..0, news);
        turn
    }

    /// Says once that a ring is out of the question, if the child is not to end for it.
    pub(super) fn set_aside(&mut self, ring: usize, now: Now) -> Vec<RunEvent> {
        if self.may_live_on(ring, now) {
            return Vec::new();
        }
        let why = self.reason(ring, now);
        let Some(own) = self.rings.get_mut(ring) else {
            return Vec::new();
        };
        let provider = own.pool.current().provider;
        if !own.is_hopeless(now) || std::mem::replace(&mut own.said_aside, true) {
            return Vec::new();
        }
        vec![why, RunEvent::SetAside(provider)]
    }

    /// The child's turn has failed for want of a provider. Some clients end on that; others wait
    /// for a person to type, and have to be started again.
    pub(super) fn on_hook(&mut self, hook: &HookEvent, now: Now) -> Turn {
        let HookEvent { provider, trouble } = *hook;
        let is_its = |ring: &SessionRing| {
            ring.pool
                .tokens()
                .any(|token| token.provider.name == provider)
        };
        let Some((place, ring)) = self
            .rings
            .iter_mut()
            .enumerate()
            .find(|(_, ring)| is_its(ring))
        else {
            return Turn::nothing();
        };
        let is_there = match self.phase {
            Phase::Running { .. } => true,
            Phase::Waiting(waiting) => waiting.is_paused(),
            Phase::Stopping { .. } => false,
        };
        if !is_there {
            return Turn::nothing();
        }
        let lived = now.tick.saturating_duration_since(self.last_start);
        let resumed = self
            .resumed
            .map(|at| now.tick.saturating_duration_since(at));
        let worked = resumed.map_or(lived, |resumed| resumed.min(lived));
        // The proxy sees for itself what the child's requests meet.
        if self.proxied.is_none() {
            policy::tell(&mut ring.pool, trouble, worked, now);
        }
        if trouble == Trouble::Overloaded {
            self.troubles = if lived > RECOVERED {
                0
            } else {
                self.troubles.saturating_add(1)
            };
            self.ready_at = now.tick + backoff(self.troubles);
        }
        self.gave_up = Some((now.tick, trouble));
        ring.in_use = true;
        let index = ring.pool.current_index();
        let mut turn = self.apply_decision(now);
        // When a limit ends, or whether it is the token, a probe can tell; a busy provider is left
        // alone for a while.
        if trouble != Trouble::Overloaded && turn.action == Action::Nothing {
            turn.action = self.probe(TokenId { ring: place, index }, now).action;
        }
        turn
    }

    /// Since when and why the child has been idle, if a restart would mend it. Of what it says about
    /// its account, a probe is the judge.
    pub(super) fn idle(&self, now: Now) -> Option<(Instant, Trouble)> {
        let (since, trouble) = self.gave_up?;
        let condemned = || {
            self.rings.iter().any(|ring| {
                let state = ring.pool.state(ring.pool.current_index());
                let doubtful = matches!(state.silence(), Some((ProbeFailure::Doubtful, _)));
                let condition = state.condition(now);
                doubtful || !matches!(condition, Condition::Unknown | Condition::Usable)
            })
        };
        (trouble != Trouble::Account || condemned()).then_some((since, trouble))
    }
}
