//! JSON out: objects and lists, written piece by piece.
//!
//! It promises valid JSON on one line, whatever the texts hold. Reading JSON is serde_json's.

use std::fmt::{Display, Write as _};

/// An object under construction. Fields keep their order.
#[derive(Debug)]
pub(crate) struct Object(String);

impl Object {
    /// One without fields.
    pub(crate) fn new() -> Object {
        Object(String::from("{"))
    }

    /// Adds a field whose value is JSON already: a number, `true`, an object or a list.
    pub(crate) fn raw(mut self, key: &str, value: impl Display) -> Object {
        let comma = if self.0.len() > 1 { "," } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(self.0, "{comma}\"{key}\":{value}");
        self
    }

    /// Adds a text.
    pub(crate) fn text(self, key: &str, text: &str) -> Object {
        let text = serde_json::Value::from(text);
        self.raw(key, text)
    }

    /// Adds a fraction, rounded to a thousandth.
    pub(crate) fn fraction(self, key: &str, fraction: f64) -> Object {
        self.raw(key, (fraction * 1000.0).round() / 1000.0)
    }

    /// Adds a text, if there is one.
    pub(crate) fn maybe_text(self, key: &str, text: Option<&str>) -> Object {
        self.maybe(text, |object, text| object.text(key, text))
    }

    /// Adds a number, if there is one.
    pub(crate) fn maybe_raw(self, key: &str, number: Option<impl Display>) -> Object {
        self.maybe(number, |object, number| object.raw(key, number))
    }

    /// Adds `true`, and nothing for `false`.
    pub(crate) fn flag(self, key: &str, is_set: bool) -> Object {
        self.maybe_raw(key, is_set.then_some(true))
    }

    /// Adds what is there, and nothing otherwise.
    pub(crate) fn maybe<T>(
        self,
        value: Option<T>,
        add: impl FnOnce(Object, T) -> Object,
    ) -> Object {
        match value {
            Some(value) => add(self, value),
            None => self,
        }
    }

    /// The object.
    pub(crate) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// A list of values that are JSON already.
pub(crate) fn list(values: impl IntoIterator<Item = String>) -> String {
    let mut list = String::from("[");
    for value in values {
        if list.len() > 1 {
            list.push(',');
        }
        list.push_str(&value);
    }
    list.push(']');
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_comes_back(text in ".*", number in any::<u64>(), used in 0.0..10.0) {
            let line = Object::new()
                .text("text", &text)
                .raw("number", number)
                .fraction("used", used)
                .raw("list", list([list([]), "1".into()]))
                .end();
            prop_assert!(!line.contains('\n'));
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(value["text"].as_str().unwrap(), text);
            prop_assert_eq!(value["number"].as_u64().unwrap(), number);
            prop_assert!((value["used"].as_f64().unwrap() - used).abs() <= 0.0005);
            prop_assert_eq!(&value["list"], &serde_json::json!([[], 1]));
        }
    }
}
