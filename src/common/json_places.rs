//! Places in the text of a JSON value, without reading all of it.
//!
//! It promises one pass and no panic, whatever the bytes are. Text that is no JSON has places, too, which
//! mean nothing. Pure.

use memchr::memchr2;

/// Where the value of the field `name` at the top of a JSON object begins. Other values are stepped over
/// and not looked at.
pub(crate) fn top_value(body: &[u8], name: &[u8]) -> Option<usize> {
    let mut at = after_space(body, 0);
    if body.get(at) != Some(&b'{') {
        return None;
    }
    loop {
        at = after_space(body, at + 1);
        let end = end_of_text(body, at)?;
        let is_it = body.get(at + 1..end) == Some(name);
        at = after_space(body, end + 1);
        if body.get(at) != Some(&b':') {
            return None;
        }
        at = after_space(body, at + 1);
        if is_it {
            return Some(at);
        }
        at = after_space(body, end_of_value(body, at)?);
        if body.get(at) != Some(&b',') {
            return None;
        }
    }
}

/// The first place from `at` on that is no white space.
pub(crate) fn after_space(body: &[u8], at: usize) -> usize {
    let rest = body.get(at..).unwrap_or_default();
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    at + rest.iter().take_while(|byte| is_space(byte)).count()
}

/// Where the text that begins at `at` has its closing quote.
pub(crate) fn end_of_text(body: &[u8], at: usize) -> Option<usize> {
    if body.get(at) != Some(&b'"') {
        return None;
    }
    let mut at = at + 1;
    loop {
        at += memchr2(b'"', b'\\', body.get(at..)?)?;
        match body.get(at) {
            Some(b'"') => return Some(at),
            _ => at += 2,
        }
    }
}

/// The place behind the value that begins at `at`.
pub(crate) fn end_of_value(body: &[u8], at: usize) -> Option<usize> {
    let (mut at, mut depth) = (at, 0_usize);
    loop {
        match body.get(at)? {
            b'"' => at = end_of_text(body, at)?,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return Some(at),
            b'}' | b']' => depth -= 1,
            b',' if depth == 0 => return Some(at),
            // A number or a word goes on.
            _ if depth == 0 => {}
            _ => {}
        }
        at += 1;
        let ended = depth == 0 && matches!(body.get(at - 1), Some(b'"' | b'}' | b']'));
        if ended {
            return Some(at);
        }
    }
}
