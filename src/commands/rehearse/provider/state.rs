//! The provider as it stands: buckets, faults, what has been served, what is still to happen.
//! Owns: playing the scenario's events, choosing the fault that answers, drawing from buckets.
//! Promises: an event takes effect at its own time, even when nobody looked then. Pure: `now` is the
//! time since the start. Does not know HTTP.

use crate::common::filled;
use std::time::Duration;

use serde_json::{Value, json};

use super::bucket::Bucket;
use super::scenario::{Action, Event, Fault, Kind, Scenario, Scope, Token, When};

/// What a request costs, in the units of each kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Costs {
    /// LLM tokens by the provider's overall count.
    pub(crate) tokens: u64,
    pub(crate) input: u64,
    pub(crate) output: u64,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) kind: Kind,
    pub(crate) limit: u64,
    /// Until one unit is left again.
    pub(crate) retry_in: Duration,
}

/// One bucket at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) kind: Kind,
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// Until it is full.
    pub(crate) reset_in: Duration,
}

struct Bank {
    served: u64,
    buckets: Vec<(Kind, Bucket)>,
}

struct Active {
    scope: Scope,
    fault: Fault,
    until: Option<Duration>,
    left: Option<u64>,
}

/// The provider's state.
pub(crate) struct State {
    pub(crate) scenario: Scenario,
    banks: Vec<Bank>,
    faults: Vec<Active>,
    /// Timed events, the latest first, so that the next one is popped off the end.
    timed: Vec<(Duration, Vec<Action>)>,
    counted: Vec<Event>,
    served: u64,
    serial: u64,
    now: Duration,
}

impl State {
    /// The state at time zero, start events included.
    pub(crate) fn new(scenario: Scenario) -> Self {
        let bank = |buckets: &Vec<_>| Bank {
            served: 0,
            buckets: buckets.clone(),
        };
        let banks = scenario
            .organizations
            .iter()
            .map(|o| bank(&o.buckets))
            .collect();
        let mut timed: Vec<(Duration, Vec<Action>)> = Vec::new();
        let mut counted = Vec::new();
        for event in &scenario.events {
            match event.when {
                // The next one is last; events of one moment keep the order of the file.
                When::After(after) => {
                    let place = timed.partition_point(|(other, _)| *other > after);
                    timed.insert(place, (after, event.actions.clone()));
                }
                When::AfterRequests { .. } => counted.push(event.clone()),
            }
        }
        let faults = Vec::new();
        let mut state = Self {
            scenario,
            banks,
            faults,
            timed,
            counted,
            served: 0,
            serial: 0,
            now: Duration::ZERO,
        };
        state.advance(Duration::ZERO);
        state
    }

    /// Plays everything up to `now`.
    pub(crate) fn advance(&mut self, now: Duration) {
        while self.timed.last().is_some_and(|(after, _)| *after <= now) {
            if let Some((after, actions)) = self.timed.pop() {
                self.settle(after);
                actions.iter().for_each(|action| self.apply(action));
            }
        }
        self.settle(now);
    }

    fn settle(&mut self, now: Duration) {
        self.now = self.now.max(now);
        let now = self.now;
        for bank in &mut self.banks {
            for (_, bucket) in &mut bank.buckets {
                bucket.settle(now);
            }
        }
        self.faults
            .retain(|active| active.until.is_none_or(|until| now < until));
    }

    /// Does `action` at the moment of the last `advance`.
    pub(crate) fn apply(&mut self, action: &Action) {
        match action {
            Action::Set {
                organization,
                bucket: wanted,
                level,
                reset_in,
            } => {
                for (kind, bucket) in &mut self.banks[*organization].buckets {
                    if kind == wanted {
                        level.map(|level| bucket.set_level(level));
                        reset_in.map(|after| bucket.set_reset(after));
                    }
                }
            }
            Action::Answer {
                scope,
                fault,
                lasts,
                times,
            } => {
                self.faults.retain(|active| active.scope != *scope);
                self.faults.push(Active {
                    scope: *scope,
                    fault: fault.clone(),
                    until: lasts.map(|lasts| self.now + lasts),
                    left: *times,
                });
            }
            Action::Clear(Scope::All) => self.faults.clear(),
            Action::Clear(scope) => self.faults.retain(|active| active.scope != *scope),
        }
    }

    /// The token of that text.
    pub(crate) fn token(&self, text: &str) -> Option<usize> {
        self.scenario
            .tokens
            .iter()
            .position(|token| token.text == text)
    }

    /// The fault that `applies` and concerns a request with `token` (none: not a known one). The most
    /// specific scope wins. Counts as one of the fault's `times`.
    pub(crate) fn fault(
        &mut self,
        token: Option<usize>,
        applies: impl Fn(&Fault) -> bool,
    ) -> Option<Fault> {
        let organization = token.map(|index| self.scenario.tokens[index].organization);
        let scopes = [
            token.map(Scope::Token),
            organization.map(Scope::Organization),
            Some(Scope::All),
        ];
        let place = scopes.into_iter().flatten().find_map(|scope| {
            self.faults
                .iter()
                .position(|active| active.scope == scope && applies(&active.fault))
        })?;
        let active = &mut self.faults[place];
        let fault = active.fault.clone();
        if let Some(left) = &mut active.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.faults.remove(place);
            }
        }
        Some(fault)
    }

    /// Takes `costs` out of the token's organization, or refuses and takes nothing. One unit in every
    /// bucket is enough to be let in; what the request costs beyond it becomes debt.
    pub(crate) fn draw(&mut self, token: usize, costs: Costs) -> Result<(), Refusal> {
        let bank = &mut self.banks[self.scenario.tokens[token].organization];
        let empty = bank.buckets.iter().filter(|(_, bucket)| bucket.is_empty());
        if let Some((kind, bucket)) = empty.max_by_key(|(_, bucket)| bucket.retry_in()) {
            let (limit, retry_in) = (bucket.limit(), bucket.retry_in());
            return Err(Refusal {
                kind: *kind,
                limit,
                retry_in,
            });
        }
        for (kind, bucket) in &mut bank.buckets {
            bucket.draw(match kind {
                Kind::Requests => 1,
                Kind::Tokens => costs.tokens,
                Kind::InputTokens => costs.input,
                Kind::OutputTokens => costs.output,
            });
        }
        Ok(())
    }

    /// The buckets of the token's organization.
    pub(crate) fn windows(&self, token: usize) -> Vec<Window> {
        let bank = &self.banks[self.scenario.tokens[token].organization];
        let window = |(kind, bucket): &(Kind, Bucket)| Window {
            kind: *kind,
            limit: bucket.limit(),
            remaining: bucket.remaining(),
            reset_in: bucket.reset_in(),
        };
        bank.buckets.iter().map(window).collect()
    }

    /// Counts an answered request, whatever the answer, and plays the events that waited for it.
    pub(crate) fn count(&mut self, token: usize) {
        let organization = self.scenario.tokens[token].organization;
        self.served += 1;
        self.banks[organization].served += 1;
        let mut place = 0;
        while place < self.counted.len() {
            let due = match self.counted[place].when {
                When::AfterRequests {
                    count,
                    organization: None,
                } => self.served >= count,
                When::AfterRequests {
                    count,
                    organization: Some(of),
                } => self.banks[of].served >= count,
                When::After(_) => true,
            };
            if due {
                let event = self.counted.remove(place);
                event.actions.iter().for_each(|action| self.apply(action));
            } else {
                place += 1;
            }
        }
    }

    /// The next number for a request id, from 1.
    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Everything as JSON, for `GET /rehearsal/state`. Without token texts.
    pub(crate) fn report(&self) -> Value {
        type Entries = serde_json::Map<String, Value>;
        let bucket = |(kind, bucket): &(Kind, Bucket)| {
            let value = json!({
                "limit": bucket.limit(),
                "remaining": bucket.remaining(),
                "used": bucket.used_fraction(),
                "reset_in": bucket.reset_in().as_secs_f64(),
            });
            (kind.name().to_owned(), value)
        };
        let organization = |(organization, bank): (&super::scenario::Organization, &Bank)| {
            let buckets: Entries = filled(bank.buckets.iter().map(bucket));
            let value =
                json!({ "id": organization.id, "requests": bank.served, "buckets": buckets });
            (organization.name.clone(), value)
        };
        let organizations = self.scenario.organizations.iter().zip(&self.banks);
        let organizations: Entries = filled(organizations.map(organization));
        let token = |token: &Token| {
            let organization = &self.scenario.organizations[token.organization].name;
            json!({ "label": token.label, "organization": organization })
        };
        let fault = |active: &Active| {
            let scope = match active.scope {
                Scope::All => "all",
                Scope::Organization(index) => &self.scenario.organizations[index].name,
                Scope::Token(index) => &self.scenario.tokens[index].label,
            };
            let left = active
                .until
                .map(|until| until.saturating_sub(self.now).as_secs_f64());
            json!({
                "scope": scope,
                "fault": format!("{:?}", active.fault),
                "seconds_left": left,
                "times_left": active.left,
            })
        };
        json!({
            "seconds": self.now.as_secs_f64(),
            "requests": self.served,
            "organizations": organizations,
            "tokens": self.scenario.tokens.iter().map(token).collect::<Vec<_>>(),
            "faults": self.faults.iter().map(fault).collect::<Vec<_>>(),
            "events_to_come": self.timed.len() + self.counted.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;
    const COSTS: Costs = Costs {
        tokens: 10,
        input: 8,
        output: 2,
    };

    fn state(rest: &str) -> State {
        let text = format!(
            r#"{{"tokens":[{{"text":"a","provider":"anthropic","organization":"o"}},
                {{"text":"b","provider":"anthropic","organization":"o"}},
                {{"text":"c","provider":"anthropic","organization":"p"}}],
              "organizations":{{"o":{{"buckets":{{"requests":{{"limit":3,"period":"3s"}}}}}},
                "p":{{"buckets":{{"requests":{{"limit":9}},"tokens":{{"limit":15}}}}}}}}{rest}}}"#
        );
        State::new(Scenario::parse(&text).unwrap())
    }

    #[test]
    fn tokens_of_one_organization_share_its_buckets() {
        let mut state = state("");
        for token in [0, 1, 0] {
            state.draw(token, COSTS).unwrap();
        }
        let refusal = state.draw(1, COSTS).unwrap_err();
        assert_eq!(
            (refusal.kind, refusal.limit, refusal.retry_in),
            (Kind::Requests, 3, S(1))
        );
        state.draw(2, COSTS).unwrap();
        state.advance(S(1));
        state.draw(1, COSTS).unwrap();
    }

    #[test]
    fn a_large_request_leaves_a_debt() {
        let mut state = state("");
        state.draw(2, COSTS).unwrap();
        state.draw(2, COSTS).unwrap();
        let refusal = state.draw(2, COSTS).unwrap_err();
        assert_eq!((refusal.kind, refusal.retry_in), (Kind::Tokens, S(24)));
        assert_eq!(state.windows(2)[0].remaining, 7);
    }

    #[test]
    fn events_take_effect_at_their_own_time() {
        let set = |after: &str, used: f64| {
            format!(
                r#"{{"when":{{"after":"{after}"}},"do":{{"set":{{"organization":"o","bucket":"requests","used":{used}}}}}}}"#
            )
        };
        let mut state = state(&format!(
            ",\"events\":[{},{}]",
            set("10s", 1.0),
            set("5s", 0.0)
        ));
        // Set to empty at 10 s, refilled by one a second since, though nobody looked in between.
        state.advance(S(12));
        assert_eq!(state.windows(0)[0].remaining, 2);
    }

    #[test]
    fn events_after_a_number_of_requests() {
        let mut state = state(
            r#","events":[{"when":{"after_requests":2,"organization":"p"},
              "do":{"set":{"organization":"p","bucket":"requests","remaining":0}}}]"#,
        );
        for token in [0, 1, 2] {
            state.count(token);
        }
        assert_eq!(state.windows(2)[0].remaining, 9);
        state.count(2);
        assert_eq!((state.windows(2)[0].remaining, state.served), (0, 4));
    }

    #[test]
    fn the_most_specific_fault_answers() {
        let mut state = state(
            r#","events":[{"do":[{"answer":{"fault":"529"}},
              {"answer":{"organization":"o","fault":"403","for":"8s"}},
              {"answer":{"token":"anthropic#2","fault":"401","times":1}}]}]"#,
        );
        let fault = |state: &mut State, token| state.fault(token, |_| true);
        assert_eq!(fault(&mut state, Some(1)), Some(Fault::Unauthorized));
        assert_eq!(fault(&mut state, Some(1)), Some(Fault::Forbidden));
        assert_eq!(fault(&mut state, Some(2)), Some(Fault::Down(529)));
        assert_eq!(fault(&mut state, None), Some(Fault::Down(529)));
        assert_eq!(
            state.fault(Some(0), |fault| *fault != Fault::Forbidden),
            Some(Fault::Down(529))
        );
        state.advance(S(8));
        assert_eq!(fault(&mut state, Some(0)), Some(Fault::Down(529)));
        state.apply(&Action::Clear(Scope::All));
        assert_eq!(fault(&mut state, Some(0)), None);
    }

    #[test]
    fn the_report_holds_no_token_text() {
        let text = State::new(Scenario::for_command()).report().to_string();
        assert!(
            text.contains("anthropic#1") && !text.contains("not-a-real-token"),
            "{text}"
        );
    }
}
