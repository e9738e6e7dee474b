//! From what flows through the loop to facts: an event and the reply to it, as a record tells them.

use super::{Cause, Ending, Fact, Level, Ring, Run, SCHEMA, Verdict, Who, millis};
use crate::common::error::Error;
use crate::common::time::Now;
use crate::events::message::{Limit, Notice, Weight};
use crate::providers::Answer;
use crate::providers::Finding;
use crate::providers::usage::{Usage, Window};
use crate::supervisor::event::{Action, Event, Outcome};
use crate::supervisor::session::{Session, Turn};
use crate::system::job::JobEvent;
use crate::tokens::condition::Condition;
use crate::tokens::{TokenId, TokenPool};
use nix::sys::signal::Signal;

/// Follows one run.
#[derive(Debug)]
pub(crate) struct Observer {
    /// Every token that there is, also those that the session does not see.
    rings: Vec<Ring>,
    /// The token of each ring that is in use, from 1.
    in_use: Vec<usize>,
    /// Whether a proxy chooses among the tokens, behind the one that the session sees.
    proxied: bool,
    /// What was last seen in the command's traffic.
    seen: Vec<(Who, Vec<Level>)>,
}

impl Observer {
    /// Nothing has happened yet.
    pub(crate) fn new<'p>(pools: impl Iterator<Item = &'p TokenPool>, proxied: bool) -> Observer {
        let ring = |pool: &TokenPool| {
            let (name, label) = names(pool);
            Ring {
                name: name.into(),
                label: label.into(),
                tokens: pool.len(),
            }
        };
        let (rings, in_use) = pools
            .map(|pool| (ring(pool), pool.current_index() + 1))
            .unzip();
        Observer {
            rings,
            in_use,
            proxied,
            seen: Vec::new(),
        }
    }

    /// The head of the record of a run of `command`.
    pub(crate) fn head(&self, session: &Session, command: String, pid: u32) -> Fact {
        Fact::Run(Run {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").into(),
            pid,
            command,
            threshold: session.threshold(),
            providers: self.rings.clone(),
        })
    }

    /// What an event tells by itself, with words for people where it has some.
    pub(crate) fn heard(&mut self, event: &Event) -> Option<(Fact, String)> {
        let fact = match event {
            // Of the token that stands for all; the real one's answer was seen before.
            Event::Probed { .. } if self.proxied => return None,
            Event::Probed { token, answer } => self.answered(*token, answer)?,
            Event::Job(JobEvent::Exited { how, asked }) => Fact::Exit {
                how: *how,
                asked: *asked,
            },
            // The proxy has rotated. All else that it says comes with the reply.
            Event::Proxy(notice) => match notice {
                Notice::Switched {
                    provider, index, ..
                } => return Some((self.switched(*provider, index + 1)?, notice.words().1)),
                _ => return None,
            },
            _ => return None,
        };
        Some((fact, String::new()))
    }

    /// What a check of a real token tells.
    pub(crate) fn answered(&self, token: TokenId, answer: &Answer) -> Option<Fact> {
        let who = Who {
            provider: self.rings.get(token.ring)?.name.clone(),
            token: token.index + 1,
        };
        Some(usage(who, answer))
    }

    /// What the command's traffic tells of a token by now, if that is news.
    pub(crate) fn seen(&mut self, label: &str, index: usize, usage: &Usage) -> Option<Fact> {
        let who = Who {
            provider: self.rings.get(self.place(Some(label)))?.name.clone(),
            token: index + 1,
        };
        let windows: Vec<Level> = usage.windows.iter().map(level).collect();
        let known = self.seen.iter().position(|(known, _)| *known == who);
        match known.and_then(|place| self.seen.get_mut(place)) {
            _ if windows.is_empty() => return None,
            Some((_, last)) if *last == windows => return None,
            Some((_, last)) => last.clone_from(&windows),
            None => self.seen.push((who.clone(), windows.clone())),
        }
        Some(Fact::Usage {
            who,
            finding: Verdict::Seen,
            why: None,
            group: None,
            windows,
        })
    }

    /// The proxy goes on with another token.
    fn switched(&mut self, label: Option<&str>, token: usize) -> Option<Fact> {
        let place = self.place(label);
        let provider = self.rings.get(place)?.name.clone();
        let from = std::mem::replace(self.in_use.get_mut(place)?, token);
        Some(Fact::Rotate {
            who: Who { provider, token },
            from,
        })
    }

    /// The ring that a notice speaks of: the one with this provider, or else the first.
    fn place(&self, label: Option<&str>) -> usize {
        let has = |ring: &Ring| label.is_some_and(|label| ring.label == label);
        self.rings.iter().position(has).unwrap_or(0)
    }

    /// What the session made of it, in order, each with words for people where it has some.
    pub(crate) fn decided(
        &mut self,
        reply: &Turn,
        session: &Session,
        now: Now,
    ) -> Vec<(Fact, String)> {
        let said = |notice: &Notice| Some((self.told_by(notice, session, now)?, notice.words().1));
        let mut facts: Vec<(Fact, String)> = reply.say.iter().filter_map(said).collect();
        let mut add = |fact, notice: Option<Notice>| {
            facts.push((
                fact,
                notice.map_or(String::new(), |notice| notice.words().1),
            ));
        };
        match reply.action {
            Action::Launch { again } => self.launched(again, session, &mut facts),
            Action::Pause => add(Fact::Pause, None),
            Action::Resume => add(Fact::Resume, Some(Notice::SessionContinued)),
            Action::Stop(signal) if signal != Signal::SIGKILL && session.is_stopping_child() => {
                add(Fact::Stop, None)
            }
            _ => {}
        }
        facts
    }

    /// How the run ended.
    pub(crate) fn end(result: &Result<Outcome, Error>) -> Fact {
        Fact::End(match result {
            Ok(Outcome::AsChild(how)) => Ending::AsCommand(*how),
            Ok(Outcome::BySignal(signal)) => Ending::BySignal(*signal as i32),
            Ok(Outcome::TryAgainLater) => Ending::AgainLater,
            Err(error) => Ending::Failure(error.to_string()),
        })
    }

    fn launched(&mut self, again: bool, session: &Session, facts: &mut Vec<(Fact, String)>) {
        if !self.proxied {
            for (place, pool) in session.pools().enumerate() {
                let token = pool.current_index() + 1;
                if self.in_use.get(place) != Some(&token)
                    && let Some(ring) = self.rings.get(place)
                {
                    let label = pool.current().provider.label;
                    let words = format!("Switched to {label} token {token}/{}", ring.tokens);
                    let name = ring.label.clone();
                    facts.extend(self.switched(Some(&name), token).map(|fact| (fact, words)));
                }
            }
        }
        let in_use = session.pools().zip(&self.rings).zip(&self.in_use);
        let words: Vec<String> = in_use
            .map(|((pool, ring), token)| {
                let label = pool.current().provider.label;
                format!("{label} token {token}/{}", ring.tokens)
            })
            .collect();
        let words = format!("Running with {}", words.join(", "));
        let tokens = self.in_use.clone();
        facts.push((Fact::Launch { again, tokens }, words));
    }

    fn told_by(&self, notice: &Notice, session: &Session, now: Now) -> Option<Fact> {
        let name = |label| Some(self.rings.get(self.place(label))?.name.clone());
        match notice {
            Notice::Limit {
                provider,
                index,
                limit,
            } => {
                let pool = session.pools().nth(self.place(*provider))?;
                // Of the token that stands for all nothing is known.
                let known = (!self.proxied).then(|| pool.state(*index).condition(now));
                let until = known.and_then(Condition::until);
                let (cause, used) = match limit {
                    Limit::Near { used } => (Cause::Near, Some(*used)),
                    Limit::Reached => (Cause::Reached, None),
                    Limit::SpendCap => (Cause::SpendCap, None),
                    Limit::Rejected => (Cause::Rejected, None),
                };
                Some(Fact::Limit {
                    who: Who {
                        provider: name(*provider)?,
                        token: index + 1,
                    },
                    cause,
                    used,
                    until: until.map(|until| millis(until.wall)),
                })
            }
            Notice::WaitingForReset {
                provider,
                index,
                at,
                held,
                ..
            } => Some(Fact::Wait {
                provider: name(*provider)?,
                token: Some(index + 1),
                until: millis(*at),
                held: *held,
            }),
            Notice::HoldOver {
                provider, index, ..
            } => Some(Fact::Release {
                provider: name(*provider)?,
                token: index.map(|index| index + 1),
            }),
            Notice::WaitingForProvider { provider, span, .. } => Some(Fact::Wait {
                provider: session
                    .pools()
                    .flat_map(TokenPool::tokens)
                    .map(|token| token.provider)
                    .find(|own| own.label == *provider)?
                    .name
                    .into(),
                token: None,
                until: millis(now.wall.checked_add(*span)?),
                held: false,
            }),
            // Told by other facts, or meant for the one who is asked.
            Notice::AllExhausted
            | Notice::Failed { .. }
            | Notice::NoSuchChoice
            | Notice::NoAnswer
            | Notice::Saved
            | Notice::AskRotate { .. }
            | Notice::AskExhausted => None,
            notice if notice.weight() == Weight::Warning => Some(Fact::Note {
                text: notice.words().1,
            }),
            _ => None,
        }
    }
}

/// What a ring is called, here and by people: as its provider, if it has one only.
fn names(pool: &TokenPool) -> (&'static str, &'static str) {
    let first = pool.current().provider;
    if pool
        .tokens()
        .all(|token| std::ptr::eq(token.provider, first))
    {
        (first.name, first.label)
    } else {
        ("mixed", "Mixed")
    }
}

fn usage(who: Who, answer: &Answer) -> Fact {
    let (finding, why) = match &answer.reading {
        Err(why) => (Verdict::Silent, Some(why.clone())),
        Ok(reading) => match &reading.finding {
            Finding::Served => (Verdict::Served, None),
            Finding::Limited { .. } => (Verdict::Limited, None),
            Finding::SpendCapped { .. } => (Verdict::SpendCapped, None),
            Finding::Rejected => (Verdict::Rejected, None),
            Finding::Overloaded { .. } => (Verdict::Overloaded, None),
            Finding::Unclear { why } => (Verdict::Unclear, Some(why.to_string())),
        },
    };
    let reading = answer.reading.as_ref().ok();
    let windows = reading.map_or(&[][..], |reading| &reading.usage.windows);
    Fact::Usage {
        who,
        finding,
        why,
        group: reading.and_then(|reading| reading.quota_group.clone()),
        windows: windows.iter().map(level).collect(),
    }
}

/// A window as a record has it.
pub(crate) fn level(window: &Window) -> Level {
    Level {
        name: window.name.clone(),
        used: window.utilization,
        limit: window.limit,
        remaining: window.remaining,
        resets: window.resets_at.map(millis),
    }
}
