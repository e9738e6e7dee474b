//! A place in a scenario's JSON: reads one value as what it should be, or complains with the name of the
//! field.

use crate::commands::rehearse::provider::times;
use serde_json::{Map, Value};
use std::time::Duration;

pub(super) fn is_header_text(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A JSON value and the way to it, for errors.
pub(super) struct Node<'a> {
    pub(super) path: String,
    pub(super) value: &'a Value,
}

/// An object whose field names are all known.
pub(super) struct Fields<'a> {
    pub(super) path: String,
    pub(super) map: &'a Map<String, Value>,
}

impl<'a> Node<'a> {
    pub(super) fn root(value: &'a Value, name: &str) -> Self {
        Self {
            path: name.to_owned(),
            value,
        }
    }

    pub(super) fn complaint(&self, text: &str) -> String {
        let path = if self.path.is_empty() {
            "scenario"
        } else {
            &self.path
        };
        format!("{path}: {text}")
    }

    pub(super) fn wrong(&self, expected: &str) -> String {
        self.complaint(&format!("expected {expected}"))
    }

    pub(super) fn object(&self) -> Result<&'a Map<String, Value>, String> {
        self.value
            .as_object()
            .ok_or_else(|| self.wrong("an object"))
    }

    /// The fields of an object that has no others than these, which are apart by spaces.
    pub(super) fn fields(&self, known: &str) -> Result<Fields<'a>, String> {
        let map = self.object()?;
        let is_unknown = |name: &&String| !known.split(' ').any(|known| known == *name);
        if let Some(name) = map.keys().find(is_unknown) {
            let known = known.replace(' ', ", ");
            return Err(self.complaint(&format!("unknown field {name:?}, known: {known}")));
        }
        Ok(Fields {
            path: self.path.clone(),
            map,
        })
    }

    pub(super) fn entries(&self) -> Result<Vec<(&'a str, Node<'a>)>, String> {
        let entry = |(name, value): (&'a String, &'a Value)| {
            (
                name.as_str(),
                Node {
                    path: join(&self.path, name),
                    value,
                },
            )
        };
        Ok(self.object()?.iter().map(entry).collect())
    }

    pub(super) fn items(&self) -> Result<Vec<Node<'a>>, String> {
        let list = self.value.as_array().ok_or_else(|| self.wrong("a list"))?;
        let item = |(index, value)| Node {
            path: format!("{}[{index}]", self.path),
            value,
        };
        Ok(list.iter().enumerate().map(item).collect())
    }

    pub(super) fn text(&self) -> Result<String, String> {
        self.value
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| self.wrong("text"))
    }

    /// Text that can stand in a header.
    pub(super) fn header_text(&self) -> Result<String, String> {
        self.text()
            .ok()
            .filter(|text| is_header_text(text))
            .ok_or_else(|| self.wrong("visible ASCII"))
    }

    pub(super) fn flag(&self) -> Result<bool, String> {
        self.value
            .as_bool()
            .ok_or_else(|| self.wrong("true or false"))
    }

    pub(super) fn count(&self, least: u64) -> Result<u64, String> {
        let number = self.value.as_u64().filter(|number| *number >= least);
        number.ok_or_else(|| self.wrong(&format!("a whole number, {least} or more")))
    }

    pub(super) fn fraction(&self) -> Result<f64, String> {
        let number = self
            .value
            .as_f64()
            .filter(|number| (0.0..=10.0).contains(number));
        number.ok_or_else(|| self.wrong("a fraction such as 0.96"))
    }

    pub(super) fn duration(&self) -> Result<Duration, String> {
        times::duration(self.value).ok_or_else(|| self.wrong("a duration such as \"5s\" or 1.5"))
    }

    pub(super) fn positive_duration(&self) -> Result<Duration, String> {
        let duration = self.duration()?;
        if duration.is_zero() {
            Err(self.wrong("a duration above zero"))
        } else {
            Ok(duration)
        }
    }
}

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &str) -> Option<Node<'a>> {
        self.map.get(name).map(|value| Node {
            path: join(&self.path, name),
            value,
        })
    }

    /// The value of a field, if it is there.
    pub(super) fn read<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Node<'a>) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        self.get(name).map(|node| read(&node)).transpose()
    }

    pub(super) fn need(&self, name: &str) -> Result<Node<'a>, String> {
        self.get(name)
            .ok_or_else(|| format!("{}: missing", join(&self.path, name)))
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}
