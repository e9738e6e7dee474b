//! The reader of scenarios: from JSON to values whose indices and names are checked.

use super::node::{Fields, Node, is_header_text};
use super::{Action, Dialect, Event, Fault, Kind, Organization, Scenario, Scope, Token, When};
use crate::commands::rehearse::provider::bucket::{Bucket, Level, Refill};
use serde_json::Value;
use std::time::Duration;

impl Scenario {
    /// Reads a scenario file. The error is one line that names the field.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| format!("scenario is not JSON: {error}"))?;
        Self::from_value(&value)
    }

    /// Reads the `do` of an event: one action or a list of them. The control endpoint's body.
    pub(crate) fn actions(&self, value: &Value) -> Result<Vec<Action>, String> {
        self.actions_at(&Node::root(value, "do"))
    }

    fn from_value(value: &Value) -> Result<Self, String> {
        let root = Node::root(value, "");
        let top =
            root.fields("tokens organizations models refuse_max_tokens_0 stream_pause events")?;
        let organizations = top.read("organizations", |node| {
            let entries = node.entries()?.into_iter();
            entries
                .map(|(name, node)| read_organization(name, &node))
                .collect()
        })?;
        let mut scenario = Self {
            tokens: Vec::new(),
            organizations: organizations.unwrap_or_default(),
            models: None,
            refuse_max_tokens_0: false,
            stream_pause: Duration::ZERO,
            events: Vec::new(),
        };
        // An event names tokens, and a token an organization.
        for node in top.need("tokens")?.items()? {
            scenario.add_token(&node)?;
        }
        let each_text = |node: &Node| node.items()?.iter().map(Node::text).collect();
        scenario.models = top.read("models", each_text)?;
        let refuses = top.read("refuse_max_tokens_0", Node::flag)?;
        scenario.refuse_max_tokens_0 = refuses.unwrap_or_default();
        let pause = top.read("stream_pause", Node::duration)?;
        scenario.stream_pause = pause.unwrap_or_default();
        let each_event = |node: &Node| {
            let items = node.items()?;
            items.iter().map(|item| scenario.read_event(item)).collect()
        };
        scenario.events = top.read("events", each_event)?.unwrap_or_default();
        Ok(scenario)
    }

    fn add_token(&mut self, node: &Node) -> Result<(), String> {
        let fields = node.fields("text provider organization project")?;
        let provider = match fields.need("provider")?.text()?.as_str() {
            "anthropic" => Dialect::Anthropic,
            "openai" => Dialect::Openai,
            _ => return Err(fields.need("provider")?.wrong("anthropic or openai")),
        };
        let text = fields.need("text")?.text()?;
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain || self.tokens.iter().any(|token| token.text == text) {
            return Err(fields
                .need("text")?
                .complaint("expected visible ASCII, unlike any other token"));
        }
        let name = fields.need("organization")?.text()?;
        let organization = match self.organization_named(&name) {
            Some(index) => index,
            None => {
                self.organizations.push(usual_organization(name));
                self.organizations.len() - 1
            }
        };
        let project = match fields.get("project") {
            Some(node) => node.header_text()?,
            None => "proj_rehearsal".to_owned(),
        };
        let place = 1 + self
            .tokens
            .iter()
            .filter(|token| token.provider == provider)
            .count();
        let label = format!("{}#{place}", provider.name());
        self.tokens.push(Token {
            text,
            label,
            provider,
            organization,
            project,
        });
        Ok(())
    }

    fn organization_named(&self, name: &str) -> Option<usize> {
        self.organizations
            .iter()
            .position(|organization| organization.name == name)
    }

    fn organization_at(&self, node: &Node) -> Result<usize, String> {
        let known = self.organization_named(&node.text()?);
        known.ok_or_else(|| node.complaint("no organization of that name"))
    }

    fn read_event(&self, node: &Node) -> Result<Event, String> {
        let fields = node.fields("when do")?;
        let when = match fields.get("when") {
            Some(node) => self.read_when(&node)?,
            None => When::After(Duration::ZERO),
        };
        let actions = self.actions_at(&fields.need("do")?)?;
        Ok(Event { when, actions })
    }

    fn read_when(&self, node: &Node) -> Result<When, String> {
        let fields = node.fields("after after_requests organization")?;
        let organization = fields.read("organization", |node| self.organization_at(node))?;
        match (fields.get("after"), fields.get("after_requests")) {
            (Some(after), None) if organization.is_none() => Ok(When::After(after.duration()?)),
            (None, Some(count)) => Ok(When::AfterRequests {
                count: count.count(1)?,
                organization,
            }),
            _ => Err(node.complaint(
                "expected either \"after\" or \"after_requests\" with \"organization\"",
            )),
        }
    }

    fn actions_at(&self, node: &Node) -> Result<Vec<Action>, String> {
        if node.value.is_array() {
            return node
                .items()?
                .iter()
                .map(|item| self.read_action(item))
                .collect();
        }
        Ok(vec![self.read_action(node)?])
    }

    fn read_action(&self, node: &Node) -> Result<Action, String> {
        let fields = node.fields("set answer clear")?;
        match (fields.get("set"), fields.get("answer"), fields.get("clear")) {
            (Some(set), None, None) => self.read_set(&set),
            (None, Some(answer), None) => self.read_answer(&answer),
            (None, None, Some(clear)) => {
                let fields = clear.fields("token organization")?;
                Ok(Action::Clear(self.read_scope(&clear, &fields)?))
            }
            _ => Err(node.complaint("expected exactly one of \"set\", \"answer\", \"clear\"")),
        }
    }

    fn read_set(&self, node: &Node) -> Result<Action, String> {
        let fields = node.fields("organization bucket used remaining reset_in")?;
        let organization = self.organization_at(&fields.need("organization")?)?;
        let bucket = fields.need("bucket")?;
        let name = bucket.text()?;
        let mut present = self.organizations[organization].buckets.iter();
        let Some((kind, _)) = present.find(|(kind, _)| kind.name() == name) else {
            return Err(bucket.complaint("the organization has no bucket of that name"));
        };
        let level = read_level(node, &fields)?;
        let reset_in = fields.read("reset_in", Node::duration)?;
        if level.is_none() && reset_in.is_none() {
            return Err(node.complaint("expected \"used\", \"remaining\" or \"reset_in\""));
        }
        Ok(Action::Set {
            organization,
            bucket: *kind,
            level,
            reset_in,
        })
    }

    fn read_scope(&self, node: &Node, fields: &Fields) -> Result<Scope, String> {
        match (fields.get("token"), fields.get("organization")) {
            (None, None) => Ok(Scope::All),
            (None, Some(organization)) => {
                Ok(Scope::Organization(self.organization_at(&organization)?))
            }
            (Some(token), None) => {
                let name = token.text()?;
                let mut tokens = self.tokens.iter();
                let known = tokens.position(|token| token.label == name || token.text == name);
                // The text may be a token's, so it is not repeated.
                known
                    .map(Scope::Token)
                    .ok_or_else(|| token.complaint("no token of that label or text"))
            }
            _ => Err(node.complaint("expected \"token\" or \"organization\", not both")),
        }
    }

    fn read_answer(&self, node: &Node) -> Result<Action, String> {
        let fields =
            node.fields("token organization fault for times retry_after until code kind events")?;
        let scope = self.read_scope(node, &fields)?;
        let fault = read_fault(&fields)?;
        Ok(Action::Answer {
            scope,
            fault,
            lasts: fields.read("for", Node::duration)?,
            times: fields.read("times", |node| node.count(1))?,
        })
    }
}

fn read_fault(fields: &Fields) -> Result<Fault, String> {
    let node = fields.need("fault")?;
    let name = match node.value {
        Value::Number(number) => number.to_string(),
        _ => node.text()?,
    };
    let until = || fields.read("until", Node::duration);
    let text = |name, usual: &str| {
        let given = fields.read(name, Node::text)?;
        Ok::<_, String>(given.unwrap_or_else(|| usual.to_owned()))
    };
    Ok(match name.as_str() {
        "401" => Fault::Unauthorized,
        "403" => Fault::Forbidden,
        "404" => Fault::UnknownModel,
        "429" => Fault::Throttled {
            retry_after: match fields.get("retry_after") {
                None => Some(5),
                Some(node) if node.value.is_null() => None,
                Some(node) => Some(node.duration()?.as_secs_f64().ceil() as u64),
            },
        },
        "500" => Fault::Down(500),
        "503" => Fault::Down(503),
        "529" => Fault::Down(529),
        "spend-cap" => Fault::SpendCap { until: until()? },
        "user-spend-limit" => Fault::UserSpendLimit { until: until()? },
        "credit-balance" => Fault::CreditBalance,
        "insufficient-quota" => Fault::InsufficientQuota {
            code: text("code", "insufficient_quota")?,
        },
        "stream-error" => Fault::StreamError {
            kind: text("kind", "overloaded_error")?,
            events: fields
                .read("events", |node| node.count(0))?
                .map_or(0, |count| count.try_into().unwrap_or(usize::MAX)),
        },
        _ => {
            return Err(node.complaint(
                "no such fault, known: 401, 403, 404, 429, 500, 503, 529, spend-cap, user-spend-limit, \
                 credit-balance, insufficient-quota, stream-error",
            ));
        }
    })
}

fn read_level(node: &Node, fields: &Fields) -> Result<Option<Level>, String> {
    match (fields.get("used"), fields.get("remaining")) {
        (None, None) => Ok(None),
        (Some(used), None) => Ok(Some(Level::Used(used.fraction()?))),
        (None, Some(remaining)) => Ok(Some(Level::Remaining(remaining.count(0)?))),
        _ => Err(node.complaint("expected \"used\" or \"remaining\", not both")),
    }
}

fn read_organization(name: &str, node: &Node) -> Result<Organization, String> {
    let fields = node.fields("id buckets")?;
    let id = fields.read("id", Node::header_text)?;
    let id = id.unwrap_or_else(|| name.to_owned());
    if !is_header_text(&id) {
        return Err(node.complaint("expected a name of visible ASCII"));
    }
    let Some(buckets) = fields.get("buckets") else {
        return Ok(Organization {
            id,
            ..usual_organization(name.to_owned())
        });
    };
    let known = buckets.fields(&Kind::ALL.map(Kind::name).join(" "))?;
    let mut found = Vec::new();
    for kind in Kind::ALL {
        if let Some(node) = known.get(kind.name()) {
            found.push((kind, read_bucket(&node)?));
        }
    }
    Ok(Organization {
        name: name.to_owned(),
        id,
        buckets: found,
    })
}

fn read_bucket(node: &Node) -> Result<Bucket, String> {
    let fields = node.fields("limit period resets used remaining reset_in")?;
    let refill = match (fields.get("period"), fields.get("resets")) {
        (None, None) => Refill::Continuous(Duration::from_secs(60)),
        (Some(period), None) => Refill::Continuous(period.positive_duration()?),
        (None, Some(resets)) => Refill::Window(resets.positive_duration()?),
        _ => return Err(node.complaint("expected \"period\" or \"resets\", not both")),
    };
    let mut bucket = Bucket::new(fields.need("limit")?.count(1)?, refill);
    if let Some(level) = read_level(node, &fields)? {
        bucket.set_level(level);
    }
    if let Some(node) = fields.get("reset_in") {
        bucket.set_reset(node.duration()?);
    }
    Ok(bucket)
}

fn usual_organization(name: String) -> Organization {
    let minute = Refill::Continuous(Duration::from_secs(60));
    let requests = (Kind::Requests, Bucket::new(1000, minute));
    let tokens = (Kind::Tokens, Bucket::new(2_000_000, minute));
    Organization {
        id: name.clone(),
        name,
        buckets: vec![requests, tokens],
    }
}
