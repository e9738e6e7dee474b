//! Requests that go out for another model, because every token is spent for theirs (`--fallback-model`).

use super::*;

impl Balancer {
    /// The place of the fallback of a request like this, and the model; `None` without one. The command counts
    /// as using it: it can go on as long as this is served.
    pub(crate) fn fallback(
        &mut self,
        ring: usize,
        scope: &Scope,
        now: Now,
    ) -> Option<(Place, String)> {
        let model = self.rules.fallback.clone()?;
        let own = self.rings.get(ring)?;
        let provider = self
            .ledger
            .pool(self.ledger.checked(ring))?
            .current()
            .provider;
        let other = Scope::of_model(provider, &model);
        let is_other = scope.kind == other.kind && !scope.class.is_empty() && *scope != other;
        // No model: checks ask for what the command does.
        let place = (is_other && !own.has_no_fallback)
            .then(|| self.enter(ring, &other, String::new(), now));
        Some((place??, model))
    }

    /// Whether a request goes out for the fallback in `to`, because no token is good for its own model in
    /// `from` before long. Said once.
    pub(crate) fn falls_back(
        &mut self,
        from: Place,
        (to, model): (Place, &str),
        now: Now,
        say: &mut Vec<RunEvent>,
    ) -> bool {
        let known = self.ledger.pool(from).zip(self.rings.get(from.ring));
        let Some((
            pool,
            RingState {
                has_no_fallback: false,
                ..
            },
        )) = known
        else {
            return false;
        };
        let reset = first_reset(pool, now).map(|(until, _)| until.remaining(now));
        let is_near = reset.is_some_and(|left| left <= self.rules.patience);
        if is_near || self.is_usable(from, now) || !self.is_usable(to, now) {
            return false;
        }
        let event = self.fell_back(from, Some(model.to_owned()));
        if let Some(lane) = self.lane(from)
            && !std::mem::replace(&mut lane.said_fell_back, true)
        {
            say.extend(event);
        }
        true
    }

    /// The provider refuses the fallback: what its requests were is held. Said once; if it was never served,
    /// it is not asked for again.
    pub(crate) fn refuses_fallback(&mut self, place: Place, status: u16) -> Option<RunEvent> {
        let provider = self.ledger.pool(place)?.current().provider;
        let model = self.ledger.name(place)?.to_owned();
        let ring = self.rings.get_mut(place.ring)?;
        let loads = &ring.lanes.get(place.scope)?.loads;
        if loads.iter().any(|load| load.spent.answers > 0) || ring.has_no_fallback {
            return None;
        }
        ring.has_no_fallback = true;
        self.ledger.leave(place);
        Some(RunEvent::Warning(format!(
            "{} refuses {model} ({status}): no fallback there, requests are held",
            provider.label
        )))
    }

    pub(super) fn fell_back(&self, place: Place, to: Option<String>) -> Option<RunEvent> {
        let pool = self.ledger.pool(place)?;
        Some(RunEvent::FellBack {
            token: self.named(place.ring).token(pool, pool.current_index()),
            model: self.ledger.name(place)?.to_owned(),
            to,
        })
    }
}
