//! HTTP/1.1 off a byte source: heads, bodies with a length, chunked or up to the end, bounds.
//!
//! Shared by the proxy, on both of its sides, and by the built-in provider. It promises that any
//! bytes give a message or one error, that it never reads past what it was asked for but into its
//! own buffer, and that a message whose length can be read in two ways is an error. What a head
//! means is for those who parse it; time limits are the source's.

use crate::common::body::Body;
use memchr::memchr_iter;
use std::io::{self, Read};

/// The largest head (or trailer), in bytes.
pub(crate) const HEAD_MAX: usize = 64 * 1024;
/// The largest body that is read as a whole, in bytes.
pub(crate) const BODY_MAX: usize = 32 * 1024 * 1024;
/// The most header fields in a head.
pub(crate) const FIELDS_MAX: usize = 128;
/// A chunk extension has no bound of its own.
const CHUNK_HEAD_MAX: usize = 1024;
/// One read asks for so many bytes at first, and for more when that was all there. Most messages
/// come whole in one.
const FIRST_STEP: usize = 8 * 1024;
const LARGEST_STEP: usize = 64 * 1024;

/// Why there is no message.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The other side ended the connection between two messages.
    Closed,
    /// Not a message; the text says why.
    Malformed(&'static str),
    /// The head is larger than [`HEAD_MAX`], or has more fields than [`FIELDS_MAX`].
    HeadTooLarge,
    /// The body is larger than [`BODY_MAX`].
    TooLarge,
    /// The connection failed, or a time limit passed.
    Io(io::Error),
}

/// What a parser made of a head and the head's length; nothing when it is not whole yet.
pub(crate) type Parsed<T> = Result<Option<(T, usize)>, ReadError>;

/// How much of a body is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFraming {
    /// So many bytes.
    Length(u64),
    /// Chunks, up to the last one.
    Chunked(Chunk),
    /// Everything until the connection ends.
    UntilEnd,
}

/// The place in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// Before a chunk's size.
    Size,
    /// In a chunk, with so many bytes to come.
    Data(u64),
    /// Behind the last chunk; so many bytes of the trailer were dropped.
    Trailer(usize),
    /// Behind everything.
    Over,
}

/// The next part of a body, as far as it has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a piece that is not taken is lost to the body"]
pub(crate) enum BodyPart {
    /// The first so many bytes of [`Reader::buffered`]; the caller consumes exactly these.
    Data(usize),
    /// Nothing without another read.
    More,
    /// The body is over.
    End,
}

/// Reads messages one after the other.
pub(crate) struct Reader<S> {
    source: S,
    /// Room for what is read. It is made anew when it is to be larger, and cleared once only.
    room: Vec<u8>,
    /// What lies before this place was consumed.
    at: usize,
    /// What lies behind this place was not read yet.
    end: usize,
    step: usize,
}

impl<S: Read> Reader<S> {
    /// A reader at the start of a connection.
    pub(crate) fn new(source: S) -> Self {
        Self {
            source,
            room: Vec::new(),
            at: 0,
            end: 0,
            step: FIRST_STEP,
        }
    }

    /// The source itself, to write to it or to set its time limits.
    pub(crate) fn source(&mut self) -> &mut S {
        &mut self.source
    }

    /// The source, to look at.
    pub(crate) fn source_ref(&self) -> &S {
        &self.source
    }

    /// What was read and not consumed yet.
    pub(crate) fn buffered(&self) -> &[u8] {
        &self.room[self.at..self.end]
    }

    /// Drops the first bytes of the buffer.
    pub(crate) fn consume(&mut self, count: usize) {
        self.at = self.end.min(self.at + count);
    }

    /// Reads once; 0 is the end.
    pub(crate) fn fill(&mut self) -> io::Result<usize> {
        self.make_room();
        let room = &mut self.room[self.end..self.end + self.step];
        let count = loop {
            match self.source.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.end += count;
        if count == self.step {
            self.step = (2 * self.step).min(LARGEST_STEP);
        }
        Ok(count)
    }

    /// Makes room for one step behind what was read.
    fn make_room(&mut self) {
        let held = self.end - self.at;
        if self.at > 0 && (held == 0 || self.end + self.step > self.room.len()) {
            self.room.copy_within(self.at..self.end, 0);
            self.at = 0;
            self.end = held;
        }
        if self.end + self.step > self.room.len() {
            // Twice as much as is held, so that a large body is not copied at each step.
            let mut room = vec![0; (2 * held).max(held + self.step)];
            room[..held].copy_from_slice(&self.room[..held]);
            self.room = room;
        }
    }

    /// Gives back what a large message has made of the room.
    pub(crate) fn rest(&mut self) {
        self.step = FIRST_STEP;
        if self.at == self.end && self.room.len() > FIRST_STEP {
            self.room = Vec::new();
            self.at = 0;
            self.end = 0;
        }
    }

    /// The next head. `parse` gets all that has arrived.
    pub(crate) fn head<T>(&mut self, parse: impl Fn(&[u8]) -> Parsed<T>) -> Result<T, ReadError> {
        // A head ends with a line; without a new one there is nothing new to parse. Parsing at
        // each byte would make a slow 64 KiB head cost seconds.
        let mut fresh = 0;
        loop {
            let news = self.buffered().get(fresh..).unwrap_or_default();
            if news.contains(&b'\n')
                && let Some(found) = self.try_head(&parse)?
            {
                return Ok(found);
            }
            if self.buffered().len() > HEAD_MAX {
                return Err(ReadError::HeadTooLarge);
            }
            fresh = self.buffered().len();
            if self.fill().map_err(ReadError::Io)? == 0 {
                return Err(match self.buffered().is_empty() {
                    true => ReadError::Closed,
                    false => ReadError::Malformed("the head ends early"),
                });
            }
        }
    }

    /// The next head, out of what has been read; nothing when it is not whole yet.
    pub(crate) fn try_head<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> Parsed<T>,
    ) -> Result<Option<T>, ReadError> {
        if self.buffered().is_empty() {
            return Ok(None);
        }
        match parse(self.buffered())? {
            Some((_, length)) if length > HEAD_MAX => Err(ReadError::HeadTooLarge),
            Some((found, length)) => {
                self.consume(length);
                Ok(Some(found))
            }
            None if self.buffered().len() > HEAD_MAX => Err(ReadError::HeadTooLarge),
            None => Ok(None),
        }
    }

    /// A whole body, of at most [`BODY_MAX`] bytes.
    pub(crate) fn body(&mut self, mut rest: BodyFraming) -> Result<Vec<u8>, ReadError> {
        let mut body = Body::default();
        self.put_body(&mut rest, &mut body)?;
        Ok(body.into_vec())
    }

    /// The same, into memory that is at hand: what it holds is overwritten. Of a body that is too large
    /// it then holds what was read, and `rest` is what is still to come.
    pub(crate) fn put_body(
        &mut self,
        rest: &mut BodyFraming,
        body: &mut Body,
    ) -> Result<(), ReadError> {
        if rest.is_too_large() {
            body.clear();
            return Err(ReadError::TooLarge);
        }
        if let BodyFraming::Length(length) = *rest {
            let length = usize::try_from(length).unwrap_or(BODY_MAX);
            self.put_length(length, body)?;
            *rest = BodyFraming::NONE;
            return Ok(());
        }
        body.clear();
        loop {
            match self.piece(rest)? {
                BodyPart::Data(count) => {
                    body.extend_from_slice(&self.buffered()[..count]);
                    self.consume(count);
                    if body.len() > BODY_MAX {
                        return Err(ReadError::TooLarge);
                    }
                }
                // A chunk that is announced as too large need not be read first.
                BodyPart::More if rest.announced() > BODY_MAX.saturating_sub(body.len()) as u64 => {
                    return Err(ReadError::TooLarge);
                }
                BodyPart::More if self.fill().map_err(ReadError::Io)? == 0 => {
                    return match rest {
                        BodyFraming::UntilEnd => Ok(()),
                        _ => Err(ReadError::Malformed("the body ends early")),
                    };
                }
                BodyPart::More => {}
                BodyPart::End => return Ok(()),
            }
        }
    }

    /// A body of this length, which goes from the source to its place without a stay in the buffer.
    fn put_length(&mut self, length: usize, body: &mut Body) -> Result<(), ReadError> {
        if let Some(whole) = self.buffered().get(..length) {
            body.clear();
            body.extend_from_slice(whole);
            self.consume(length);
            return Ok(());
        }
        body.resize(length);
        let mut at = self.buffered().len();
        body[..at].copy_from_slice(&self.buffered()[..at]);
        self.consume(at);
        while at < length {
            match self.source.read(&mut body[at..]) {
                Ok(0) => return Err(ReadError::Malformed("the body ends early")),
                Ok(count) => at += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Io(error)),
            }
        }
        Ok(())
    }

    /// The next piece of a body, read from the source where nothing is at hand: never `More`.
    pub(crate) fn next_piece(&mut self, rest: &mut BodyFraming) -> Result<BodyPart, ReadError> {
        loop {
            match self.piece(rest)? {
                BodyPart::More if self.fill().map_err(ReadError::Io)? == 0 => {
                    return match rest {
                        BodyFraming::UntilEnd => Ok(BodyPart::End),
                        _ => Err(ReadError::Malformed("the body ends early")),
                    };
                }
                BodyPart::More => {}
                part => return Ok(part),
            }
        }
    }

    /// The next piece of a body, out of what has been read. It reads nothing itself.
    pub(crate) fn piece(&mut self, rest: &mut BodyFraming) -> Result<BodyPart, ReadError> {
        match rest {
            BodyFraming::Length(0) => Ok(BodyPart::End),
            BodyFraming::Length(left) => Ok(data(self.buffered().len(), left)),
            BodyFraming::UntilEnd => Ok(match self.buffered().len() {
                0 => BodyPart::More,
                count => BodyPart::Data(count),
            }),
            BodyFraming::Chunked(chunk) => self.chunked(chunk),
        }
    }

    fn chunked(&mut self, chunk: &mut Chunk) -> Result<BodyPart, ReadError> {
        loop {
            match chunk {
                Chunk::Size => match httparse::parse_chunk_size(self.buffered()) {
                    Ok(httparse::Status::Complete((used, size))) => {
                        let line = &self.buffered()[..used];
                        // httparse takes no digit for a zero, and any octet in an extension: what
                        // ends here could go on for another parser.
                        if !line[0].is_ascii_hexdigit() || has_bare_newline(line) {
                            return Err(ReadError::Malformed("a chunk size is not a number"));
                        }
                        self.consume(used);
                        *chunk = match size {
                            0 => Chunk::Trailer(0),
                            size => Chunk::Data(size),
                        };
                    }
                    Ok(httparse::Status::Partial) if self.buffered().len() < CHUNK_HEAD_MAX => {
                        return Ok(BodyPart::More);
                    }
                    Ok(httparse::Status::Partial) | Err(_) => {
                        return Err(ReadError::Malformed("a chunk size is not a number"));
                    }
                },
                Chunk::Data(0) => match self.buffered() {
                    [b'\r', b'\n', ..] => {
                        self.consume(2);
                        *chunk = Chunk::Size;
                    }
                    [] | [b'\r'] => return Ok(BodyPart::More),
                    _ => return Err(ReadError::Malformed("a chunk does not end where it says")),
                },
                Chunk::Data(left) => return Ok(data(self.buffered().len(), left)),
                Chunk::Trailer(dropped) => {
                    let end = self.buffered().iter().position(|byte| *byte == b'\n');
                    let seen = end.map_or(self.buffered().len(), |end| end + 1);
                    if *dropped + seen > HEAD_MAX {
                        return Err(ReadError::HeadTooLarge);
                    }
                    let Some(end) = end else {
                        return Ok(BodyPart::More);
                    };
                    if has_bare_newline(&self.buffered()[..seen]) {
                        return Err(ReadError::Malformed("a line does not end in CR LF"));
                    }
                    let empty = end == 1;
                    *dropped += seen;
                    self.consume(seen);
                    if empty {
                        *chunk = Chunk::Over;
                    }
                }
                Chunk::Over => return Ok(BodyPart::End),
            }
        }
    }
}

/// Whether a line ends in LF alone, which some parsers let pass and others read otherwise.
pub(crate) fn has_bare_newline(lines: &[u8]) -> bool {
    memchr_iter(b'\n', lines).any(|at| at == 0 || lines[at - 1] != b'\r')
}

/// As many of the bytes at hand as are left.
fn data(at_hand: usize, left: &mut u64) -> BodyPart {
    match u64::try_from(at_hand).unwrap_or(u64::MAX).min(*left) {
        0 => BodyPart::More,
        count => {
            *left -= count;
            BodyPart::Data(usize::try_from(count).unwrap_or(at_hand))
        }
    }
}

impl BodyFraming {
    /// Nothing, or a whole chunked body.
    pub(crate) const NONE: BodyFraming = BodyFraming::Length(0);
    pub(crate) const CHUNKED: BodyFraming = BodyFraming::Chunked(Chunk::Size);

    /// Whether it is known before it is read that [`Reader::body`] will refuse it.
    pub(crate) fn is_too_large(self) -> bool {
        self.announced() > BODY_MAX as u64
    }

    /// How many bytes are certain to come, in this chunk or altogether.
    fn announced(self) -> u64 {
        match self {
            BodyFraming::Length(left) | BodyFraming::Chunked(Chunk::Data(left)) => left,
            BodyFraming::Chunked(_) | BodyFraming::UntilEnd => 0,
        }
    }
}

/// How a body is framed; `None` when no field says so. A body whose length can be read in two ways
/// is refused, not guessed at (RFC 9112 §6.3).
pub(crate) fn framing(fields: &[httparse::Header<'_>]) -> Result<Option<BodyFraming>, ReadError> {
    // The first value, and whether there is a second.
    let values = |wanted: &str| {
        let named = |field: &&httparse::Header<'_>| is_field(field.name.as_bytes(), wanted);
        let mut values = fields.iter().filter(named);
        let first = values.next().map(|field| field.value.trim_ascii());
        (first, values.next().is_some())
    };
    match (values("transfer-encoding"), values("content-length")) {
        ((None, _), (None, _)) => Ok(None),
        ((None, _), (Some(length), false))
            if !length.is_empty() && length.iter().all(u8::is_ascii_digit) =>
        {
            let length = std::str::from_utf8(length).ok();
            match length.and_then(|length| length.parse().ok()) {
                Some(length) => Ok(Some(BodyFraming::Length(length))),
                None => Err(ReadError::TooLarge),
            }
        }
        ((None, _), _) => Err(ReadError::Malformed("content-length is not one number")),
        ((Some(coding), false), (None, _)) if coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Some(BodyFraming::CHUNKED))
        }
        _ => Err(ReadError::Malformed(
            "transfer-encoding is not just chunked",
        )),
    }
}

/// Whether a field's name is this one, in any case (RFC 9110 §5.1). A request asks some three hundred
/// times, and most names differ in their length: that is compared in place.
#[inline(always)]
pub(crate) fn is_field(name: &[u8], wanted: &str) -> bool {
    name.len() == wanted.len() && name.eq_ignore_ascii_case(wanted.as_bytes())
}

/// Whether a list field (`connection: close, x`) has this word.
pub(crate) fn has_word(fields: &[httparse::Header<'_>], name: &str, wanted: &str) -> bool {
    fields
        .iter()
        .filter(|field| is_field(field.name.as_bytes(), name))
        .flat_map(|field| field.value.split(|byte| *byte == b','))
        .any(|word| word.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes one at a time.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else {
                return Ok(0);
            };
            buffer[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    fn body_of(bytes: &[u8], rest: BodyFraming) -> Result<Vec<u8>, ReadError> {
        let whole = Reader::new(bytes).body(rest);
        let dripped = Reader::new(Drip(bytes)).body(rest);
        assert_eq!(format!("{whole:?}"), format!("{dripped:?}"));
        whole
    }

    #[test]
    fn bodies_of_every_framing() {
        assert_eq!(body_of(b"abcd", BodyFraming::Length(3)).unwrap(), b"abc");
        assert_eq!(body_of(b"abcd", BodyFraming::UntilEnd).unwrap(), b"abcd");
        assert_eq!(body_of(b"", BodyFraming::NONE).unwrap(), b"");
        let chunks = b"2;x=y\r\nab\r\n1\r\nc\r\n0\r\nt: u\r\n\r\nrest";
        assert_eq!(body_of(chunks, BodyFraming::CHUNKED).unwrap(), b"abc");
    }

    #[test]
    fn a_body_that_lies_is_an_error() {
        for (bytes, rest) in [
            (&b"ab"[..], BodyFraming::Length(3)),
            (b"zz\r\n", BodyFraming::CHUNKED),
            (b"1\r\nabc\r\n0\r\n\r\n", BodyFraming::CHUNKED),
            (b"2\r\na", BodyFraming::CHUNKED),
            (b"2\r\nab\r\n\r\n", BodyFraming::CHUNKED),
            (b";x\r\n\r\n", BodyFraming::CHUNKED),
            (b"2;\nab\r\nab\r\n0\r\n\r\n", BodyFraming::CHUNKED),
            (b"0\r\n\n", BodyFraming::CHUNKED),
            (b"0\r\nt: u\n\r\n", BodyFraming::CHUNKED),
            (b"0\r\nt: u\r\n", BodyFraming::CHUNKED),
        ] {
            let error = body_of(bytes, rest).unwrap_err();
            assert!(matches!(error, ReadError::Malformed(_)), "{error:?}");
        }
        let large = [
            (&b""[..], BodyFraming::Length(BODY_MAX as u64 + 1)),
            (b"ffffffffff\r\n", BodyFraming::CHUNKED),
        ];
        for (bytes, rest) in large {
            assert!(matches!(body_of(bytes, rest), Err(ReadError::TooLarge)));
        }
        let extension = [b"1;".to_vec(), vec![b'x'; 2000]].concat();
        assert!(body_of(&extension, BodyFraming::CHUNKED).is_err());
        let trailer = [b"0\r\n".to_vec(), b"t: u\r\n".repeat(20_000)].concat();
        let error = body_of(&trailer, BodyFraming::CHUNKED).unwrap_err();
        assert!(matches!(error, ReadError::HeadTooLarge), "{error:?}");
    }

    #[test]
    fn the_buffer_goes_on_where_the_body_ended() {
        let mut reader = Reader::new(&b"abcnext"[..]);
        assert_eq!(reader.body(BodyFraming::Length(3)).unwrap(), b"abc");
        assert_eq!(reader.body(BodyFraming::Length(4)).unwrap(), b"next");
        // Also where more was read with a head, or with a chunk.
        let mut reader = Reader::new(&b"1\r\na\r\n0\r\n\r\nabcnext"[..]);
        assert_eq!(reader.body(BodyFraming::CHUNKED).unwrap(), b"a");
        assert_eq!(reader.body(BodyFraming::Length(3)).unwrap(), b"abc");
        assert_eq!(reader.buffered(), b"next");
    }
}
