//! The header fields of an answer, as those who look for limits read them.
//!
//! Owns the fields of one message in two pieces of memory, however many there are: the proxy reads
//! them of every answer, and many small pieces were what it spent its time on. It promises names in
//! lower case, and values that are text. Pure. Which field means what is for `providers` to say.

/// Names and values, in the order in which they came.
#[derive(Clone, Default)]
pub(crate) struct Headers {
    /// Name and value after name and value.
    text: String,
    /// Where each name ends, and its value.
    ends: Vec<(usize, usize)>,
}

impl Headers {
    /// None yet, with room for so many in a head of so many bytes.
    pub(crate) fn with_room(fields: usize, bytes: usize) -> Headers {
        Headers {
            text: String::with_capacity(bytes),
            ends: Vec::with_capacity(fields),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Names in lower case, and values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.ends.iter().map(move |(name, value)| {
            let field = (&self.text[start..*name], &self.text[*name..*value]);
            start = *value;
            field
        })
    }

    /// The first value of a field, whose name is given in lower case.
    pub(crate) fn get(&self, wanted: &str) -> Option<&str> {
        let mut fields = self.iter();
        fields
            .find(|(name, _)| *name == wanted)
            .map(|(_, value)| value)
    }
}

/// What is no text is left out: a value that is not all visible ASCII, spaces and tabs (RFC 9110
/// §5.5 says of other octets that they are opaque), a name that is not, or that has a space in it.
impl<'a> Extend<(&'a [u8], &'a [u8])> for Headers {
    fn extend<I: IntoIterator<Item = (&'a [u8], &'a [u8])>>(&mut self, fields: I) {
        let is_text = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~');
        let mut text = std::mem::take(&mut self.text).into_bytes();
        for (name, value) in fields {
            if !name.iter().all(u8::is_ascii_graphic) || !value.iter().all(is_text) {
                continue;
            }
            text.extend(name.iter().map(u8::to_ascii_lowercase));
            let end = text.len();
            text.extend_from_slice(value);
            self.ends.push((end, text.len()));
        }
        // It is ASCII. Seen as text once, not field by field.
        self.text = String::from_utf8(text).unwrap_or_default();
    }
}

impl<'a> FromIterator<(&'a [u8], &'a [u8])> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'a [u8], &'a [u8])>>(fields: I) -> Headers {
        let mut all = Headers::default();
        all.extend(fields);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_text_under_lower_case_names() {
        let fields: Headers = [
            (&b"Retry-After"[..], &b"23"[..]),
            (b"x", b"caf\xc3\xa9"),
            (b"X", b"\x1b[m"),
            (b"\xff", b"1"),
            (b"a b", b"1"),
            (b"a\tb", b"1"),
            (b"x", b""),
            (b"X", b" a\tb "),
            (b"retry-after", b"24"),
        ]
        .into_iter()
        .collect();
        let all: Vec<_> = fields.iter().collect();
        let expected = [
            ("retry-after", "23"),
            ("x", ""),
            ("x", " a\tb "),
            ("retry-after", "24"),
        ];
        assert_eq!(all, expected);
        assert_eq!(fields.len(), 4);
        assert_eq!(fields.get("retry-after"), Some("23"));
        assert_eq!(fields.get("Retry-After"), None);
        assert_eq!(fields.get("y"), None);
    }
}
