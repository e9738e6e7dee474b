//! The head of a request, for the servers that read one: the proxy and the built-in provider.
//!
//! It promises to refuse what two parsers could read differently, and to keep the bytes of the head,
//! so that fields can be passed on in their case and order. Pure. What a request means is for its
//! reader to say.

use super::reader::{self, BodyFraming, FIELDS_MAX, Parsed, ReadError};
use std::mem::MaybeUninit;
use std::ops::Range;

/// A parsed head.
#[derive(Clone, Debug)]
pub(crate) struct RequestHead {
    bytes: Vec<u8>,
    method: Range<usize>,
    target: Range<usize>,
    /// Name and value.
    fields: Vec<(Range<usize>, Range<usize>)>,
    /// How the body is framed.
    pub(crate) body: BodyFraming,
    /// HTTP/1.1, not 1.0: the client understands chunks and interim answers.
    pub(crate) modern: bool,
    /// Whether the client wants to go on with its connection.
    pub(crate) keep_alive: bool,
}

impl RequestHead {
    /// The head at the start of `bytes`.
    ///
    /// # Errors
    /// It is no HTTP/1 request, or can be read in two ways; its fields are too many.
    pub(crate) fn parse(bytes: &[u8]) -> Parsed<RequestHead> {
        let mut space = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        let length = match parsed.parse_with_uninit_headers(bytes, &mut space) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(ReadError::HeadTooLarge),
            Err(_) => return Err(ReadError::Malformed("not an HTTP/1 request")),
        };
        let head = bytes.get(..length).unwrap_or_default();
        if reader::has_bare_newline(head) {
            return Err(ReadError::Malformed("a line does not end in CR LF"));
        }
        let modern = parsed.version == Some(1);
        let framing = reader::framing(parsed.headers)?;
        if !modern && matches!(framing, Some(BodyFraming::Chunked(_))) {
            return Err(ReadError::Malformed("HTTP/1.0 has no chunks"));
        }
        let has = |word: &str| reader::has_word(parsed.headers, "connection", word);
        let keep_alive = match modern {
            true => !has("close"),
            false => has("keep-alive"),
        };
        let place = |part: &[u8]| place_in(head, part);
        let request = RequestHead {
            method: place(parsed.method.unwrap_or_default().as_bytes()),
            target: place(parsed.path.unwrap_or_default().as_bytes()),
            fields: parsed
                .headers
                .iter()
                .map(|field| (place(field.name.as_bytes()), place(field.value)))
                .collect(),
            body: framing.unwrap_or(BodyFraming::NONE),
            modern,
            keep_alive,
            bytes: head.to_owned(),
        };
        Ok(Some((request, length)))
    }

    /// The method, in the case in which it came.
    pub(crate) fn method(&self) -> &str {
        self.text(&self.method)
    }

    /// What stands on the request line: a path and query, in absolute form behind a scheme and host.
    pub(crate) fn whole_target(&self) -> &str {
        self.text(&self.target)
    }

    /// The path and query, without the scheme and host of an absolute form.
    pub(crate) fn target(&self) -> &str {
        let target = self.whole_target();
        match target.split_once("://") {
            Some((scheme, rest)) if !scheme.contains('/') => {
                rest.find('/').map_or("/", |at| &rest[at..])
            }
            _ => target,
        }
    }

    /// Names in their case, and values, in their order.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let fields = self.fields.iter();
        fields.map(|(name, value)| (&self.bytes[name.clone()], &self.bytes[value.clone()]))
    }

    /// The values of a field, whose name is given in any case.
    pub(crate) fn values<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let is_wanted = |name: &[u8]| reader::is_field(name, wanted);
        let fields = self.fields.iter();
        fields
            .filter(move |(name, _)| {
                name.len() == wanted.len() && is_wanted(&self.bytes[name.clone()])
            })
            .map(|(_, value)| &self.bytes[value.clone()])
    }

    /// The words of a list field (`connection: close, x`).
    pub(crate) fn words<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.values(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
    }

    /// Whether a list field has this word.
    pub(crate) fn has_word(&self, name: &str, wanted: &str) -> bool {
        self.words(name)
            .any(|word| word.eq_ignore_ascii_case(wanted.as_bytes()))
    }

    fn text(&self, place: &Range<usize>) -> &str {
        // httparse has seen to it that methods and targets are text.
        std::str::from_utf8(&self.bytes[place.clone()]).unwrap_or_default()
    }
}

/// Where `part` lies in `whole`, of which it is a slice.
pub(crate) fn place_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    let start = start.min(whole.len());
    start..whole.len().min(start + part.len())
}
