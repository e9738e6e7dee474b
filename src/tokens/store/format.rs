//! What is remembered of tokens from run to run, and between runs on one machine: the format of
//! the state file, which of two findings counts, and what of them still holds.
//!
//! Owns the format. It promises that what is printed is read back as it was; that a file that is
//! damaged in part costs that part, and no file a panic; that nothing holds beyond its own end; and
//! that a clock that was set back stretches no wait. It reads no file
//! and no clock (its parent does), and never sees a token: only fingerprints.

use crate::common::duration;
use crate::common::filled;
use crate::common::time::{Now, Until};
use crate::providers::scope::{EndpointKind, Scope};
use crate::providers::usage::is_near_limit;
use crate::tokens::TokenPool;
use crate::tokens::condition::{Condition, TokenState, is_same_end};
use jiff::Timestamp;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

/// The version of the format. A higher number is for what this code must not touch.
/// Version 1 kept tokens by the models that their checks asked for, and knew no scopes; it is read.
const VERSION: u64 = 2;
const DAY: Duration = Duration::from_secs(86_400);
/// A finding without an end, such as a rejection, counts for so long: somebody may mend it.
const ENDLESS: Duration = DAY;
/// A token that no run has seen for so long is forgotten, and its quota group with it.
const FORGOTTEN: Duration = Duration::from_secs(30 * 86_400);
/// No machine has more tokens; the newest are kept.
const MOST: usize = 1000;
/// No more clients are known.
const MOST_CLIENTS: usize = 64;
/// Names of quota groups are identifiers of some 40 characters.
const LONGEST_GROUP: usize = 256;

/// What a run found out about one token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredToken {
    /// When the provider was asked.
    seen: SystemTime,
    verdict: StoredCondition,
    /// The quota group, as the provider names it.
    group: Option<String>,
}

/// A condition on the wall clock.
#[derive(Clone, Copy, Debug, PartialEq)]
enum StoredCondition {
    Usable,
    /// `used` is the utilization of the fullest window: whether that is near depends on a run's
    /// own threshold.
    NearLimit {
        used: f64,
        until: SystemTime,
    },
    Limited {
        until: SystemTime,
    },
    SpendCapped {
        until: Option<SystemTime>,
    },
    Rejected,
}

/// All that is remembered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StoredTokens {
    /// By the fingerprint of a token, what holds for it in every scope; by that and a scope
    /// ([`in_scope`]), what holds there.
    entries: BTreeMap<String, StoredToken>,
    /// The model that most of the last requests of a client to a provider asked for, by `CLIENT/PROVIDER`.
    models: BTreeMap<String, String>,
}

/// The key of what holds for a token in one scope.
pub(super) fn in_scope(fingerprint: &str, scope: &Scope) -> String {
    format!("{fingerprint}/{}/{}", scope.kind.name(), scope.class)
}

/// The fingerprint and the scope of such a key.
fn scope_of(key: &str) -> Option<(&str, Scope)> {
    let (fingerprint, rest) = key.split_once('/')?;
    let (kind, class) = rest.split_once('/')?;
    let scope = Scope {
        kind: EndpointKind::by_name(kind)?,
        class: class.to_owned(),
    };
    Some((fingerprint, scope))
}

/// Why a text is no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// It is cut off, or something else altogether.
    Damaged,
    /// A later ddollar wrote it.
    Newer,
    /// Another user may have written it.
    Foreign,
}

impl StoredCondition {
    fn until(self) -> Option<SystemTime> {
        match self {
            StoredCondition::NearLimit { until, .. } | StoredCondition::Limited { until } => {
                Some(until)
            }
            StoredCondition::SpendCapped { until } => until,
            StoredCondition::Usable | StoredCondition::Rejected => None,
        }
    }

    /// Whether it is about the quota, which a group shares.
    fn is_of_the_group(self) -> bool {
        self.until().is_some() || matches!(self, StoredCondition::SpendCapped { .. })
    }

    /// Whether it holds for the token or its account in every scope.
    fn holds_everywhere(self) -> bool {
        matches!(
            self,
            StoredCondition::SpendCapped { .. } | StoredCondition::Rejected
        )
    }

    fn name(self) -> &'static str {
        match self {
            StoredCondition::Usable => "usable",
            StoredCondition::NearLimit { .. } => "near-limit",
            StoredCondition::Limited { .. } => "limited",
            StoredCondition::SpendCapped { .. } => "spend-capped",
            StoredCondition::Rejected => "rejected",
        }
    }
}

impl StoredToken {
    /// What this run has found out about a token; `None` when it has not, or when that no longer
    /// holds.
    pub(crate) fn of(standing: &TokenState, now: Now) -> Option<StoredToken> {
        let verdict = match standing.condition(now) {
            Condition::Unknown | Condition::Removed => return None,
            Condition::Usable => StoredCondition::Usable,
            Condition::NearLimit { until } => StoredCondition::NearLimit {
                used: rounded(standing.used().unwrap_or(1.0)),
                until: until.wall,
            },
            Condition::Limited { until } => StoredCondition::Limited { until: until.wall },
            Condition::SpendCapped { until } => StoredCondition::SpendCapped {
                until: until.map(|until| until.wall),
            },
            Condition::Rejected => StoredCondition::Rejected,
        };
        let group = standing.named_group().filter(|name| is_a_group(name));
        Some(StoredToken {
            seen: standing.seen()?,
            verdict,
            group: group.map(str::to_owned),
        })
    }

    /// The same as findings to keep, in this scope: what holds everywhere is kept as that, and a limit
    /// of one model shows as well that the token is accepted and its account can pay.
    pub(super) fn kept(self, fingerprint: &str, scope: &Scope) -> Vec<(String, StoredToken)> {
        let everywhere = StoredToken {
            verdict: match self.verdict.holds_everywhere() {
                true => self.verdict,
                false => StoredCondition::Usable,
            },
            ..self.clone()
        };
        let mut kept = vec![(fingerprint.to_owned(), everywhere)];
        if !self.verdict.holds_everywhere() {
            kept.push((in_scope(fingerprint, scope), self));
        }
        kept
    }

    /// How much longer it holds; `None` when it says nothing, or no longer. A finding from the
    /// future was made before the clock was set back: it holds for as long as it did then.
    fn left(&self, now: SystemTime) -> Option<Duration> {
        let end = match (self.verdict, self.verdict.until()) {
            (StoredCondition::Usable, _) => return None,
            (_, Some(until)) => until,
            (_, None) => self.seen.checked_add(ENDLESS)?,
        };
        let left = end.duration_since(self.seen.max(now)).ok()?;
        (!left.is_zero() && left <= duration::LONGEST).then_some(left)
    }

    /// What holds of it now for a run with this threshold, and the utilization.
    fn condition(&self, threshold: f64, now: Now) -> Option<(Condition, Option<f64>)> {
        let until = Until::after(self.left(now.wall)?, now);
        Some(match self.verdict {
            StoredCondition::NearLimit { used, .. } if is_near_limit(used, threshold) => {
                (Condition::NearLimit { until }, Some(used))
            }
            StoredCondition::Usable | StoredCondition::NearLimit { .. } => return None,
            StoredCondition::Limited { .. } => (Condition::Limited { until }, None),
            StoredCondition::SpendCapped { until: end } => {
                let until = end.map(|_| until);
                (Condition::SpendCapped { until }, None)
            }
            StoredCondition::Rejected => (Condition::Rejected, None),
        })
    }

    /// Whether writing this in place of the other would be worth it.
    fn says_the_same_as(&self, other: &StoredToken) -> bool {
        let close = match (self.verdict.until(), other.verdict.until()) {
            (Some(one), Some(other)) => is_same_end(one, other),
            (one, other) => one == other,
        };
        let age = self.seen.duration_since(other.seen).unwrap_or_default();
        close
            && self.verdict.name() == other.verdict.name()
            && self.group == other.group
            && age < ENDLESS / 2
    }

    fn to_json(&self) -> Value {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| {
            fields.insert(name.into(), value);
        };
        put("seen", time(self.seen));
        put("condition", self.verdict.name().into());
        if let Some(until) = self.verdict.until() {
            put("until", time(until));
        }
        if let StoredCondition::NearLimit { used, .. } = self.verdict {
            put("used", used.into());
        }
        if let Some(group) = &self.group {
            put("group", group.as_str().into());
        }
        Value::Object(fields)
    }

    fn from_json(value: &Value) -> Option<StoredToken> {
        let moment = |name: &str| -> Option<SystemTime> {
            let text = value.get(name)?.as_str()?;
            Some(text.parse::<Timestamp>().ok()?.into())
        };
        let verdict = match value.get("condition")?.as_str()? {
            "usable" => StoredCondition::Usable,
            "near-limit" => StoredCondition::NearLimit {
                used: rounded(value.get("used")?.as_f64().filter(|used| *used >= 0.0)?),
                until: moment("until")?,
            },
            "limited" => StoredCondition::Limited {
                until: moment("until")?,
            },
            "spend-capped" => StoredCondition::SpendCapped {
                until: moment("until"),
            },
            "rejected" => StoredCondition::Rejected,
            _ => return None,
        };
        let group = value.get("group").and_then(Value::as_str);
        Some(StoredToken {
            seen: moment("seen")?,
            verdict,
            group: group.filter(|name| is_a_group(name)).map(str::to_owned),
        })
    }
}

impl StoredTokens {
    /// Reads a state file.
    ///
    /// # Errors
    /// When it is none, or not one of ours to touch. A damaged entry costs only itself.
    pub(crate) fn parse(text: &[u8]) -> Result<StoredTokens, Unusable> {
        let file: Value = serde_json::from_slice(text).map_err(|_| Unusable::Damaged)?;
        match file.get("version").and_then(Value::as_u64) {
            Some(1..=VERSION) => {}
            Some(version) if version > VERSION => return Err(Unusable::Newer),
            _ => return Err(Unusable::Damaged),
        }
        let tokens = file.get("tokens").and_then(Value::as_object);
        let tokens = tokens.ok_or(Unusable::Damaged)?;
        let entries = tokens
            .iter()
            .filter(|(key, _)| is_a_key(key))
            .filter_map(|(key, entry)| Some((key.clone(), StoredToken::from_json(entry)?)));
        let models = file.get("models").and_then(Value::as_object);
        let models = models.into_iter().flatten().take(MOST_CLIENTS);
        let is_fit = |text: &&str| (1..=LONGEST_GROUP).contains(&text.len());
        let models = models
            .filter(|(client, _)| is_fit(&client.as_str()))
            .filter_map(|(client, model)| {
                let model = model.as_str().filter(is_fit)?;
                Some((client.clone(), model.to_owned()))
            });
        Ok(StoredTokens {
            entries: filled(entries),
            models: filled(models),
        })
    }

    /// The state file.
    pub(crate) fn text(&self) -> String {
        let tokens = self.entries.iter();
        let tokens = tokens.map(|(fingerprint, entry)| (fingerprint.clone(), entry.to_json()));
        let mut file = Map::new();
        file.insert("version".into(), VERSION.into());
        file.insert("tokens".into(), Value::Object(filled(tokens)));
        if !self.models.is_empty() {
            let models = self.models.iter();
            let models = models.map(|(client, model)| (client.clone(), model.as_str().into()));
            file.insert("models".into(), Value::Object(filled(models)));
        }
        format!("{:#}\n", Value::Object(file))
    }

    /// The model that this client was seen to use.
    pub(super) fn model(&self, user: &str) -> Option<&str> {
        self.models.get(user).map(String::as_str)
    }

    /// Takes in which models clients use. Whether that is news.
    pub(super) fn learn(&mut self, models: Vec<(String, String)>) -> bool {
        let mut is_new = false;
        for (user, model) in models {
            let room = self.models.contains_key(&user) || self.models.len() < MOST_CLIENTS;
            if room && self.models.get(&user) != Some(&model) {
                self.models.insert(user, model);
                is_new = true;
            }
        }
        is_new
    }

    /// Takes in what another file holds that an older program has put aside.
    pub(super) fn merge_file(&mut self, other: StoredTokens, now: SystemTime) {
        let _ = self.merge(other.entries.into_iter().collect(), now);
        for (client, model) in other.models {
            self.models.entry(client).or_insert(model);
        }
    }

    /// The scopes in which something is known of one of these tokens.
    pub(super) fn scopes(&self, fingerprints: &[String]) -> BTreeSet<Scope> {
        let of = |fingerprint: &String| {
            // Keys of one token follow each other; '0' comes after '/'.
            let keys = self
                .entries
                .range(format!("{fingerprint}/")..format!("{fingerprint}0"));
            keys.filter_map(|(key, _)| Some(scope_of(key)?.1))
        };
        filled(fingerprints.iter().flat_map(of))
    }

    /// Takes in what a run has found out: of two findings the newer one counts. What has ended is
    /// dropped. Whether anything has changed that another run would want to know.
    pub(crate) fn merge(&mut self, findings: Vec<(String, StoredToken)>, now: SystemTime) -> bool {
        let mut changed = false;
        for (fingerprint, mut entry) in findings {
            match self.entries.get_mut(&fingerprint) {
                // What comes from the future is no newer: the clock was set back.
                Some(old) if old.seen > entry.seen && old.seen <= now => continue,
                Some(old) => {
                    entry.group = entry.group.or_else(|| old.group.clone());
                    if entry.says_the_same_as(old) {
                        // It holds for as long again; that alone is not worth writing.
                        old.seen = entry.seen;
                        continue;
                    }
                }
                None if entry.verdict == StoredCondition::Usable && entry.group.is_none() => {
                    continue;
                }
                None => {}
            }
            changed = true;
            self.entries.insert(fingerprint, entry);
        }
        self.forget(now);
        changed
    }

    /// Drops what nobody will want to know: conditions that have ended, tokens that nobody has seen
    /// for long, and whatever is beyond [`MOST`]. That a token was seen, and when, stays against
    /// older findings that another run still holds.
    fn forget(&mut self, now: SystemTime) {
        self.entries.retain(|_, entry| {
            let held = entry.left(now).is_some();
            if !held {
                entry.verdict = StoredCondition::Usable;
            }
            let age = now.duration_since(entry.seen).unwrap_or_default();
            held || age < FORGOTTEN
        });
        if self.entries.len() > MOST {
            let mut ages: Vec<SystemTime> = self.entries.values().map(|entry| entry.seen).collect();
            ages.sort_unstable_by(|one, other| other.cmp(one));
            let oldest = ages.get(MOST - 1).copied();
            self.entries.retain(|_, entry| Some(entry.seen) >= oldest);
        }
    }

    /// Tells the tokens of a pool, whose keys are given in its order, what still holds of them by these: their own last finding, or a newer one about a token that shares their quota.
    pub(crate) fn recall(&self, pool: &mut TokenPool, keys: &[String], threshold: f64, now: Now) {
        let known: Vec<Option<&StoredToken>> =
            keys.iter().map(|key| self.entries.get(key)).collect();
        for (index, entry) in known.iter().enumerate() {
            if let Some(group) = entry.and_then(|entry| entry.group.as_deref()) {
                pool.standing_mut(index).recall_group(group);
            }
        }
        for (index, own) in known.iter().enumerate() {
            let group = pool.state(index).group();
            let siblings = known.iter().enumerate().filter(|(other, _)| {
                *other != index && group.is_some() && pool.state(*other).group() == group
            });
            let newest = siblings
                .filter_map(|(_, entry)| *entry)
                .filter(|entry| entry.verdict.is_of_the_group())
                .chain(*own)
                .max_by_key(|entry| entry.seen);
            let Some(entry) = newest else { continue };
            if let Some((condition, used)) = entry.condition(threshold, now) {
                pool.standing_mut(index).recall(condition, used, entry.seen);
            }
        }
    }
}

/// A moment as RFC 3339 has it; one beyond the calendar is the end of it.
fn time(moment: SystemTime) -> Value {
    let moment = Timestamp::try_from(moment).unwrap_or(Timestamp::MAX);
    moment.to_string().into()
}

/// To the millionth, and at most a million: serde_json reads a fraction of more than 15 digits one
/// bit off now and then, and what is printed must be read back as it was.
fn rounded(used: f64) -> f64 {
    (used.min(1e6) * 1e6).round() / 1e6
}

fn is_a_key(text: &str) -> bool {
    let is_scope = |(fingerprint, scope): (_, Scope)| {
        is_a_fingerprint(fingerprint) && (scope.class.is_empty() || is_a_group(&scope.class))
    };
    is_a_fingerprint(text) || scope_of(text).is_some_and(is_scope)
}

fn is_a_fingerprint(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_a_group(text: &str) -> bool {
    (1..=LONGEST_GROUP).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests;
