//! What answers have cost, for each token and model, and whether that is as much as the user allows
//! (`--max-tokens`).

use super::*;

impl Balancer {
    /// An answer with this token begins, or says that it has cost so much more.
    pub(crate) fn spend(&mut self, place: Place, index: usize, more: Spent) {
        self.spent = more
            .tokens
            .0
            .into_iter()
            .fold(self.spent, u64::wrapping_add);
        let ring = self.rings.get_mut(place.ring);
        if let Some(load) = ring.and_then(|ring| ring.load(place, index)) {
            load.spent.answers += more.answers;
            load.spent.counted += more.counted;
            load.spent.instead += more.instead;
            load.spent.tokens.add(more.tokens);
        }
    }

    /// An answer is over, for better or worse, and has said what it cost, or not.
    pub(crate) fn is_over(&mut self, counted: bool) -> Option<RunEvent> {
        let most = self.rules.max_tokens?;
        if self.spent >= most && !std::mem::replace(&mut self.said_spent, true) {
            let spent = self.spent;
            return Some(RunEvent::MaxTokens { spent, most });
        }
        let is_news = !counted && !std::mem::replace(&mut self.said_uncounted, true);
        is_news.then(|| {
            RunEvent::Warning(
                "An answer did not say what it cost: it is not counted for --max-tokens".into(),
            )
        })
    }

    /// Whether nothing more may be spent.
    pub(crate) fn is_spent(&self) -> bool {
        self.said_spent
    }

    /// What was spent with each token on each model, where it is worth reporting: all of it with `all`;
    /// otherwise only what has grown by a hundredth of the answers since the last report, so that the record
    /// of a long run does not grow with it.
    pub(crate) fn spendings(&mut self, all: bool) -> Vec<RunEvent> {
        let several = self.rings.len() > 1;
        let mut news = Vec::new();
        for (ring, own) in self.rings.iter_mut().enumerate() {
            for (scope, lane) in own.lanes.iter_mut().enumerate() {
                let place = Place { ring, scope };
                let known = self.ledger.pool(place).zip(self.ledger.name(place));
                let Some((pool, model)) = known else { continue };
                for (index, load) in lane.loads.iter_mut().enumerate() {
                    let (spent, told) = (load.spent, load.told.answers);
                    let is_news = all && spent != load.told || spent.answers > told + told / 100;
                    if is_news {
                        load.told = spent;
                        news.push(RunEvent::Spent {
                            token: RingName { ring, several }.token(pool, index),
                            model: model.to_owned(),
                            spent,
                        });
                    }
                }
            }
        }
        news
    }
}
