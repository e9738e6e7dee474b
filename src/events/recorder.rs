//! From the events of a run to the lines of its journal.
//!
//! Most lines say what one event says. What a line needs besides (the token that was left, the
//! tokens in use at a start) is kept here, so that those who emit events need not know it. Pure.

use super::schema::{
    Cause, Level, LimitHit, Record, RecordedRing, Run, SCHEMA, Verdict, Who, level, millis,
};
use super::{AfterStall, Limit, RunEvent, Severity, TokenRef};
use crate::providers::usage::is_near_limit;
use crate::providers::{Finding, Reading};
use crate::tokens::{TokenId, TokenPool};
use std::time::Instant;

/// One event in the journal: its line, and words for people who see nothing else of the run (empty if
/// there are none).
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) record: Record,
    pub(crate) words: String,
}

/// Follows one run.
#[derive(Debug)]
pub(crate) struct Recorder {
    rings: Vec<RecordedRing>,
    /// The token of each ring that is in use.
    in_use: Vec<TokenRef>,
    /// When the run began, and above which utilization a token is left.
    began: Option<(Instant, f64)>,
    /// What was last recorded of each token.
    recorded: Vec<Recorded>,
}

/// The last line about what a check or the proxy has seen of a token.
#[derive(Debug)]
struct Recorded {
    token: TokenId,
    at: Instant,
    finding: Verdict,
    group: Option<String>,
    windows: Vec<Level>,
    /// Whether the token was used above the threshold.
    is_near: bool,
    /// Answers since then that are not recorded.
    left_out: u64,
}

/// Lines about one token and one finding, over the whole run so far: each is so far from the next as the run
/// is old by this. A picture shows no more, and a month has eleven times as many lines as a minute; every
/// change of a finding has its line.
const RESOLUTION: u32 = 2000;

impl Recorder {
    /// Before the run: `pools` are all tokens that there are, also those behind a proxy.
    pub(crate) fn new(pools: &[TokenPool]) -> Recorder {
        let in_use = pools.iter().enumerate().map(|(ring, pool)| {
            let index = pool.current_index();
            TokenRef::new(pool, TokenId { ring, index }, pools.len() > 1)
        });
        Recorder {
            rings: pools.iter().map(ring).collect(),
            in_use: in_use.collect(),
            began: None,
            recorded: Vec::new(),
        }
    }

    /// The tokens of the run, also those that came later.
    pub(crate) fn rings(&self) -> &[RecordedRing] {
        &self.rings
    }

    /// The head of the journal of a run of `command`; `threshold` is 0.0 to 1.0.
    pub(crate) fn head(
        &mut self,
        command: String,
        threshold: f64,
        rehearsal: bool,
        pid: u32,
        now: Instant,
    ) -> Record {
        self.began = Some((now, threshold));
        Record::Run(Run {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").into(),
            pid,
            command,
            threshold,
            providers: self.rings.clone(),
            rehearsal,
        })
    }

    /// What the journal tells of an event that happens `now`, if it does.
    pub(crate) fn news(&mut self, event: &RunEvent, now: Instant) -> Option<News> {
        let words = || {
            let message = event.message();
            message.map_or(String::new(), |message| message.text.into_owned())
        };
        let silent = |record| News {
            record,
            words: String::new(),
        };
        let told = |record| News {
            record,
            words: words(),
        };
        Some(match event {
            RunEvent::StartsWith(token) | RunEvent::Switched(token) => {
                let in_use = self.in_use.get_mut(token.id.ring)?;
                let from = std::mem::replace(in_use, *token).number();
                if from == token.number() {
                    return None;
                }
                News {
                    record: Record::Rotate {
                        who: self.who(*token)?,
                        from,
                    },
                    words: format!("Switched to {}", named(*token)),
                }
            }
            RunEvent::Launched { again } => {
                let in_use: Vec<String> = self.in_use.iter().copied().map(named).collect();
                News {
                    record: Record::Launch {
                        again: *again,
                        tokens: self.in_use.iter().map(|token| token.number()).collect(),
                    },
                    words: format!("Running with {}", in_use.join(", ")),
                }
            }
            RunEvent::Checked { token, reading } => {
                let record = checked(self.who(*token)?, reading);
                silent(self.if_new(token.id, record, now)?)
            }
            RunEvent::Seen { token, usage } => {
                let windows: Vec<Level> = usage.windows.iter().map(level).collect();
                let last = self.last(token.id, Verdict::Seen);
                if windows.is_empty() || last.is_some_and(|last| last.windows == windows) {
                    return None;
                }
                let record = Record::Usage {
                    who: self.who(*token)?,
                    finding: Verdict::Seen,
                    why: None,
                    group: None,
                    windows,
                    left_out: 0,
                };
                silent(self.if_new(token.id, record, now)?)
            }
            RunEvent::Spent {
                token,
                model,
                spent,
            } => {
                let record = Record::Spent {
                    who: self.who(*token)?,
                    model: model.clone(),
                    spent: *spent,
                };
                silent(record)
            }
            RunEvent::Limit {
                token,
                limit,
                scope: _,
                until,
                window,
                said,
            } => {
                let (cause, used) = match limit {
                    Limit::Near { used } => (Cause::Near, Some(*used)),
                    Limit::Reached => (Cause::Reached, None),
                    Limit::SpendCap => (Cause::SpendCap, None),
                    Limit::Rejected => (Cause::Rejected, None),
                    // A note has told it.
                    Limit::Removed => return None,
                };
                let record = Record::Limit(LimitHit {
                    who: self.who(*token)?,
                    cause,
                    used,
                    until: until.map(millis),
                    window: window.as_ref().map(|window| window.name.clone()),
                    why: said.clone(),
                });
                let detail = event.detail(None);
                let words = words() + &detail.map_or(String::new(), |told| format!(" ({told})"));
                News { record, words }
            }
            RunEvent::WaitingForReset {
                token, at, held, ..
            } => {
                let Who { provider, token } = self.who(*token)?;
                told(Record::Wait {
                    provider,
                    token: Some(token),
                    until: millis(*at),
                    held: *held,
                })
            }
            RunEvent::WaitingForProvider { provider, at, .. } => told(Record::Wait {
                provider: provider.name.into(),
                token: None,
                until: millis(*at),
                held: false,
            }),
            RunEvent::HoldOver { token, abandoned } => {
                let Who { provider, token } = self.who(*token)?;
                told(Record::Release {
                    provider,
                    token: (!abandoned).then_some(token),
                })
            }
            RunEvent::Paused => silent(Record::Pause),
            RunEvent::Resumed => News {
                record: Record::Resume,
                words: "Session continued".into(),
            },
            RunEvent::Stalled { span, then, .. } => News {
                record: Record::Stall {
                    seconds: span.as_secs(),
                    restart: matches!(then, AfterStall::Restart { .. }),
                },
                words: format!("{}; {}", words(), event.detail(None).unwrap_or_default()),
            },
            RunEvent::Stopping => silent(Record::Stop),
            RunEvent::Exited { how, asked } => silent(Record::Exit {
                how: *how,
                asked: *asked,
            }),
            // Told by other lines, or meant for the one who is asked.
            RunEvent::AllExhausted
            | RunEvent::Failed(..)
            | RunEvent::NoSuchChoice
            | RunEvent::NoAnswer
            | RunEvent::Saved { .. }
            | RunEvent::AskRotate(..)
            | RunEvent::AskExhausted => return None,
            RunEvent::TokensChanged { here, .. } => {
                for token in here {
                    // One that comes back has its old number.
                    if let Some(ring) = self.rings.get_mut(token.id.ring)
                        && token.number() > ring.names.len()
                    {
                        ring.names.resize(token.id.index, String::new());
                        ring.names.push(token.name.into());
                        ring.tokens = token.number();
                    }
                }
                told(Record::Note { text: words() })
            }
            event if event.severity() == Severity::Warning => told(Record::Note { text: words() }),
            _ => return None,
        })
    }

    /// How the journal names a token; `None`: it has no such ring.
    fn who(&self, token: TokenRef) -> Option<Who> {
        Some(Who {
            provider: self.rings.get(token.id.ring)?.name.clone(),
            token: token.number(),
        })
    }

    fn last(&mut self, token: TokenId, finding: Verdict) -> Option<&mut Recorded> {
        let is_seen = |finding| finding == Verdict::Seen;
        let mut recorded = self.recorded.iter_mut();
        recorded.find(|last| last.token == token && is_seen(last.finding) == is_seen(finding))
    }

    /// What was seen of a token, unless the last line about it says the same and is too near.
    fn if_new(&mut self, token: TokenId, mut record: Record, now: Instant) -> Option<Record> {
        let Record::Usage {
            finding,
            group,
            windows,
            left_out,
            ..
        } = &mut record
        else {
            return None;
        };
        let (began, threshold) = self.began.unwrap_or((now, 1.0));
        let apart = now.saturating_duration_since(began) / RESOLUTION;
        let is_check = *finding != Verdict::Seen;
        let mut next = Recorded {
            token,
            at: now,
            finding: *finding,
            group: group.clone(),
            windows: windows.clone(),
            is_near: (windows.iter()).any(|window| is_near_limit(window.used, threshold)),
            left_out: 0,
        };
        match self.last(token, next.finding) {
            Some(last) => {
                let is_same = last.finding == next.finding
                    && last.group == next.group
                    && last.is_near == next.is_near;
                if is_same && now.saturating_duration_since(last.at) < apart {
                    last.left_out += u64::from(is_check);
                    return None;
                }
                *left_out = last.left_out;
                std::mem::swap(last, &mut next);
            }
            None => self.recorded.push(next),
        }
        Some(record)
    }
}

/// A token for people who see nothing else of the run.
fn named(token: TokenRef) -> String {
    format!("{} {}", token.provider.label, token.words())
}

/// A ring as the journal's head has it: called as its provider, if it has one only.
fn ring(pool: &TokenPool) -> RecordedRing {
    let first = pool.current().provider;
    let is_one = pool
        .tokens()
        .all(|token| std::ptr::eq(token.provider, first));
    let (name, label) = if is_one {
        (first.name, first.label)
    } else {
        ("mixed", "Mixed")
    };
    RecordedRing {
        name: name.into(),
        label: label.into(),
        tokens: pool.len(),
        names: pool.tokens().map(|token| token.name.to_owned()).collect(),
    }
}

fn checked(who: Who, reading: &Result<Reading, String>) -> Record {
    let (finding, why) = match reading {
        Err(why) => (Verdict::Silent, Some(why.clone())),
        Ok(reading) => match &reading.finding {
            Finding::Served => (Verdict::Served, None),
            Finding::Limited { .. } => (Verdict::Limited, None),
            Finding::SpendCapped { .. } => (Verdict::SpendCapped, reading.said.clone()),
            Finding::Rejected => (Verdict::Rejected, reading.said.clone()),
            Finding::Overloaded { .. } => (Verdict::Overloaded, None),
            Finding::Unclear { why } => (Verdict::Unclear, Some(why.to_string())),
        },
    };
    let reading = reading.as_ref().ok();
    let windows = reading.map_or(&[][..], |reading| &reading.usage.windows);
    Record::Usage {
        who,
        finding,
        why,
        group: reading.and_then(|reading| reading.quota_group.clone()),
        windows: windows.iter().map(level).collect(),
        left_out: 0,
    }
}

#[cfg(test)]
mod tests;
