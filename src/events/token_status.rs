//! A token at one moment, in JSON: the same names and formats wherever ddollar tells a program how
//! its tokens stand (`ddollar status --json`, and `/ddollar/status` of the proxy). Pure.

use super::schema::{level, millis, time};
use crate::common::json::{Object, list};
use crate::providers::Provider;
use crate::providers::usage::Usage;
use crate::tokens::condition::Condition;

/// What is known of a token.
#[derive(Debug)]
pub(crate) struct TokenStatus<'a> {
    pub(crate) provider: &'static Provider,
    /// Its number in its ring, from 1, and how many there are.
    pub(crate) number: usize,
    pub(crate) of: usize,
    /// The last characters of its text, by which its owner knows it.
    pub(crate) ending: Option<&'a str>,
    /// The same, and where it was found.
    pub(crate) name: &'a str,
    /// Its quota group, as its provider names it.
    pub(crate) group: Option<&'a str>,
    pub(crate) condition: Condition,
    /// Why nothing is known, in a few words.
    pub(crate) why: Option<&'a str>,
    /// The windows of the last answer that had any.
    pub(crate) usage: &'a Usage,
}

impl TokenStatus<'_> {
    /// The object, to which more may be added.
    pub(crate) fn object(&self) -> Object {
        let windows = self.usage.windows.iter().map(|window| level(window).json());
        Object::new()
            .text("provider", self.provider.name)
            .raw("token", self.number)
            .raw("of", self.of)
            .maybe_text("ending", self.ending)
            .text("name", self.name)
            .maybe_text("group", self.group)
            .text("condition", self.condition.name())
            .maybe(self.condition.until(), |object, until| {
                time(object, "until", millis(until.wall))
            })
            .maybe_text("why", self.why)
            .raw("windows", list(windows))
    }
}
