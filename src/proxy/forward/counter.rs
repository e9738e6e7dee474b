//! What an answer costs, counted as it passes by.

use super::*;

/// Counts what an answer costs, on its way to the client. Dropped, the answer is over.
pub(in crate::proxy) struct Counter<'a> {
    pub(super) shared: &'a Shared,
    pub(super) place: Place,
    pub(super) index: usize,
    pub(super) meter: Meter,
    /// The answer itself, until it is counted: with its cost, if it says that, and otherwise at its end.
    pub(super) answer: Option<Spent>,
}

impl Counter<'_> {
    /// Reads the next piece of the answer.
    pub(in crate::proxy) fn read(&mut self, piece: &[u8]) {
        let first = !self.meter.has_counted();
        if let Some(tokens) = self.meter.read(piece) {
            let spent = Spent {
                counted: first.into(),
                tokens,
                ..self.answer.take().unwrap_or_default()
            };
            self.spend(spent);
        }
    }

    /// The end of the answer goes to the client next, and its command may end with it.
    pub(in crate::proxy) fn close(&mut self) {
        if let Some(spent) = self.answer.take() {
            self.spend(spent);
        }
    }

    fn spend(&self, more: Spent) {
        self.shared.balancer().spend(self.place, self.index, more);
    }
}

impl Drop for Counter<'_> {
    fn drop(&mut self) {
        self.close();
        if !self.shared.is_capped {
            return;
        }
        let counted = self.meter.has_counted();
        let mut balancer = self.shared.balancer();
        let say = balancer.is_over(counted);
        self.shared.say(say.into_iter().collect());
    }
}

impl<'a> Exchange<'a> {
    /// What counts the cost of this answer, if a model has given it, and with one of our tokens.
    pub(super) fn counter(&self, response: &Response, index: usize) -> Option<Counter<'a>> {
        if self.is_foreign || !self.kind.is_work() || response.status >= 300 {
            return None;
        }
        let answer = Spent {
            answers: 1,
            instead: self.has_fallen_back.into(),
            ..Spent::default()
        };
        Some(Counter {
            shared: self.shared,
            place: self.place,
            index,
            meter: Meter::new(response.is_stream()),
            answer: Some(answer),
        })
    }
}
