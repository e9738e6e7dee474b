//! The token that a request goes out with: chosen, waited for, and told of to the balancer whatever
//! becomes of the request.

use super::*;

/// A request waits for the first requests of a new token no longer than this.
const QUEUE: Duration = Duration::from_secs(15);

/// What a request is to do.
pub(super) enum Choice<'a> {
    /// Go out with this token.
    Go(Ticket<'a>),
    /// Be answered with this.
    Own(LocalResponse),
    /// Be answered with what came last: each token was tried.
    Tried,
}

/// A token that a request is out with. Dropped without an answer, it is told to the balancer as well.
pub(super) struct Ticket<'a> {
    pub(super) shared: &'a Shared,
    pub(super) place: Place,
    pub(super) index: usize,
    pub(super) asked: Instant,
    pub(super) open: bool,
}

impl Ticket<'_> {
    pub(super) fn answered(mut self, reading: Result<Reading, String>, testimony: Testimony) {
        self.open = false;
        let answer = Answer {
            asked: self.asked,
            reading,
        };
        let mut balancer = self.shared.balancer();
        let say = balancer.answered(self.place, self.index, answer, testimony, now());
        // Under the lock, so that what follows from it is said after it.
        self.shared.say(say);
        drop(balancer);
        self.shared.wake();
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.open {
            self.shared.balancer().gave_up(self.place, self.index);
            self.shared.wake();
        }
    }
}

/// A request that waits for a reset. Dropped, it is told to the balancer.
pub(super) struct Held<'a> {
    pub(super) shared: &'a Shared,
    pub(super) place: Place,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut balancer = self.shared.balancer();
        let say = balancer.dequeue(self.place);
        self.shared.say(say.into_iter().collect());
    }
}

impl<'a> Exchange<'a> {
    /// A thing of which the owner is known is asked for with the owner's token, also if that has to wait. `None`: it
    /// is not known, or would have to wait for longer, or was asked in vain.
    pub(super) fn ticket_of_owner(
        &mut self,
        refused: &[usize],
        hold_until: Instant,
    ) -> Result<Option<Ticket<'a>>, Gone> {
        let shared = self.shared;
        while self.kind == EndpointKind::Other && !shared.is_stopping() {
            let mut balancer = shared.balancer();
            let now = now();
            let left = match balancer.owner(self.place, self.thing(), refused, now) {
                Some(Pick::Go { index }) => {
                    drop(balancer);
                    return Ok(Some(self.out_with(index)));
                }
                Some(Pick::Hold { until, .. }) => until.remaining(now),
                _ => break,
            };
            if left > hold_until.saturating_duration_since(now.tick) {
                break;
            }
            drop(shared.wait(balancer, left.clamp(Duration::from_millis(1), LOOK)));
            self.client.watch(None, Instant::now(), self.interim())?;
        }
        Ok(None)
    }

    /// The token to go out with, as soon as there is one; or what to say instead.
    pub(super) fn ticket(
        &mut self,
        attempts: &mut Attempts,
        hold_until: Instant,
    ) -> Result<Choice<'a>, Gone> {
        let queue_until = Instant::now() + QUEUE;
        let provider = self.upstream.provider;
        // Dropped after the balancer's lock, which it takes.
        let mut held = None;
        loop {
            let mut say = Vec::new();
            let shared = self.shared;
            let mut balancer = shared.balancer();
            let now = now();
            let patient = now.tick < queue_until;
            if let Some((place, model)) = &self.other {
                let changes = match self.has_fallen_back {
                    false => balancer.falls_back(self.place, (*place, model), now, &mut say),
                    true => !balancer.is_usable(self.place, now),
                };
                if changes {
                    self.change_model();
                    attempts.was_held();
                }
            }
            let tried = attempts.tried();
            let wait = match balancer.choose(self.place, tried, patient, now, &mut say) {
                Pick::Go { index } => {
                    shared.say(say);
                    drop(balancer);
                    return Ok(Choice::Go(self.out_with(index)));
                }
                Pick::Tried => {
                    drop(balancer);
                    return Ok(Choice::Tried);
                }
                Pick::Hopeless => {
                    let outlook = balancer.outlook(self.place.ring, now);
                    drop(balancer);
                    match (shared.waits_for_ever, outlook) {
                        (true, Outlook::Hopeless) => shared.exhausted(),
                        (true, _) => {}
                        (false, _) => shared.say(say),
                    }
                    return Ok(Choice::Own(LocalResponse::exhausted(provider, None)));
                }
                Pick::Queue => LOOK,
                Pick::Asked => {
                    shared.exhausted();
                    attempts.was_held();
                    LOOK
                }
                Pick::Hold { until, index } => {
                    let left = until.remaining(now);
                    let mut is_told = !say.is_empty();
                    if !self.kind.is_work() {
                        say = balancer.refused(self.place, (until, index), now);
                        is_told = false;
                    }
                    if left > hold_until.saturating_duration_since(now.tick) {
                        let outlook = balancer.outlook(self.place.ring, now);
                        match (shared.waits_for_ever, outlook) {
                            // The supervisor pauses the command, and says so.
                            (true, Outlook::Until { .. }) => {
                                say.clear();
                                shared.exhausted();
                            }
                            (waits, _) => {
                                if waits {
                                    say = balancer.refused(self.place, (until, index), now);
                                }
                                shared.say(say);
                                drop(balancer);
                                let own = LocalResponse::exhausted(provider, Some(left));
                                return Ok(Choice::Own(own));
                            }
                        }
                    }
                    balancer.hold(self.place, held.is_none(), is_told);
                    let place = self.place;
                    held.get_or_insert_with(|| {
                        shared.counters.held.fetch_add(1, Relaxed);
                        Held { shared, place }
                    });
                    attempts.was_held();
                    left.clamp(Duration::from_millis(1), LOOK)
                }
            };
            // Said before what ends the wait is. Under the same lock, so that no change is missed.
            shared.say(say);
            drop(shared.wait(balancer, wait));
            self.let_go();
            if shared.is_stopping() {
                let why = "the proxy is being shut down";
                return Ok(Choice::Own(LocalResponse::error(
                    Some(provider.dialect),
                    503,
                    "overloaded_error",
                    why,
                )));
            }
            self.client.watch(None, Instant::now(), self.interim())?;
        }
    }

    /// Has it go out for the fallback in place of its own model, or the other way round.
    pub(super) fn change_model(&mut self) {
        if let Some((place, model)) = &mut self.other {
            std::mem::swap(&mut self.place, place);
            swap_model(&mut self.path, &mut self.body, model);
            self.has_fallen_back = !self.has_fallen_back;
        }
    }

    /// Goes out with a token of a quota group that was not tried, as soon as its first requests let it.
    pub(super) fn another(&mut self, tried: &[usize]) -> Result<Option<Ticket<'a>>, Gone> {
        let queue_until = Instant::now() + QUEUE;
        let shared = self.shared;
        while !shared.is_stopping() {
            let mut balancer = shared.balancer();
            let now = now();
            match balancer.another(self.place, tried, now.tick < queue_until, now) {
                Some(Pick::Go { index }) => {
                    drop(balancer);
                    return Ok(Some(self.out_with(index)));
                }
                Some(Pick::Queue) => drop(shared.wait(balancer, LOOK)),
                _ => break,
            }
            self.client.watch(None, Instant::now(), self.interim())?;
        }
        Ok(None)
    }

    pub(super) fn out_with(&self, index: usize) -> Ticket<'a> {
        Ticket {
            shared: self.shared,
            place: self.place,
            index,
            asked: Instant::now(),
            open: true,
        }
    }
}
