//! What belongs to another organization of OpenAI's: answers that it has stored, encrypted reasoning, and
//! models that not everybody has.
//!
//! A client that stores nothing at OpenAI sends a model's reasoning back with each request
//! (`include: ["reasoning.encrypted_content"]`). Only the organization that encrypted it can read it; another
//! one refuses the request with `invalid_encrypted_content`, also when it is one step of many. Without that
//! reasoning it is answered. Owns where such items are in a body; everything else in it stays byte for byte.
//! A summary of a whole conversation (`compaction`) is encrypted, too, and is not left out. Pure.

use super::reply::ErrorBody;
use super::{Dialect, Provider, Reply};
use crate::common::body::Body;
use crate::common::bytes;
use crate::common::json_places::{after_space, end_of_value, top_value};
use serde_json::Value;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

/// How Google's 403 begins for what belongs to another project, with a request that its token may make.
const OF_ANOTHER_PROJECT: [&str; 2] = [
    "You do not have permission to access the File",
    "CachedContent not found",
];
/// What Google's 429 says of a model that is not for everybody who pays nothing: there is no waiting for it.
const NO_QUOTA: &str = ", limit: 0";

/// What a request names that another organization has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OfAnother {
    /// Reasoning that it has encrypted (openai/codex#13724).
    Reasoning,
    /// An answer that it has stored.
    Answer,
    /// A model.
    Model,
}

/// How the message of OpenAI's 400 begins for a model that only verified organizations have; its code is that of
/// every value that is not supported (continuedev/continue#8209).
const UNVERIFIED: &str = "Your organization must be verified";

impl Provider {
    /// What a 400, 403 or 429 refuses because another organization has it: it is a 404 in all but its number.
    pub(crate) fn of_another(&self, refusal: &Reply) -> Option<OfAnother> {
        let body = ErrorBody::of(refusal);
        match self.dialect {
            Dialect::Anthropic => return None,
            Dialect::Gemini => {
                let said = body.message();
                return match OF_ANOTHER_PROJECT
                    .iter()
                    .any(|first| said.starts_with(first))
                {
                    true => Some(OfAnother::Answer),
                    false => said.contains(NO_QUOTA).then_some(OfAnother::Model),
                };
            }
            Dialect::Chat(_) => {}
        }
        match body.text("/error/code") {
            "invalid_encrypted_content" => Some(OfAnother::Reasoning),
            "previous_response_not_found" => Some(OfAnother::Answer),
            // 404, and 403 where it is the project's to allow (Aider-AI/aider#604); Groq has one for what an
            // organization or a project has blocked (orbi-build/orbi#561), and one for terms that nobody has
            // accepted for it.
            // And Alibaba for one of which nothing is free any more.
            "model_not_found" | "model_terms_required" | "AllocationQuota.FreeTierOnly" => {
                Some(OfAnother::Model)
            }
            code if code.starts_with("model_permission_blocked") => Some(OfAnother::Model),
            _ if body.message().starts_with(UNVERIFIED) => Some(OfAnother::Model),
            _ => None,
        }
    }

    /// Whether a 404, or what stands for one, is about the model. It may be about a file, too.
    pub(crate) fn lacks_model(&self, refusal: &Reply) -> bool {
        match self.of_another(refusal) {
            Some(of_another) => of_another == OfAnother::Model,
            // OpenRouter finds no endpoints where the account's settings leave none.
            None => ["model", "endpoints"]
                .iter()
                .any(|word| bytes::find(&refusal.body, word.as_bytes()).is_some()),
        }
    }
}

/// Marks of the items of encrypted reasoning in a body, by which they are known again.
pub(crate) fn marks(body: &[u8]) -> Vec<u64> {
    let items = items(body).unwrap_or_default();
    items.iter().filter_map(|item| mark(body, item)).collect()
}

/// The body without the items of encrypted reasoning whose mark is to be left out; `None`: it has none of
/// them.
pub(crate) fn without(body: &[u8], is_left_out: impl Fn(u64) -> bool) -> Option<Body> {
    let items = items(body)?;
    let stays = |item: &&Range<usize>| !mark(body, item).is_some_and(&is_left_out);
    let kept: Vec<&[u8]> = items
        .iter()
        .filter(stays)
        .filter_map(|item| body.get(item.clone()))
        .collect();
    if kept.len() == items.len() {
        return None;
    }
    let before = body.get(..items.first()?.start)?;
    let after = body.get(items.last()?.end..)?;
    let mut left = Body::default();
    left.extend_from_slice(before);
    for (place, item) in kept.into_iter().enumerate() {
        left.extend_from_slice(if place > 0 { b"," } else { b"" });
        left.extend_from_slice(item);
    }
    left.extend_from_slice(after);
    Some(left)
}

/// The items of `input`.
fn items(body: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut at = top_value(body, b"input").filter(|at| body.get(*at) == Some(&b'['))?;
    let mut items = Vec::new();
    loop {
        at = after_space(body, at + 1);
        let end = end_of_value(body, at)?;
        items.push(at..end);
        at = after_space(body, end);
        if body.get(at) != Some(&b',') {
            return Some(items);
        }
    }
}

/// The mark of an item, if it is encrypted reasoning.
fn mark(body: &[u8], item: &Range<usize>) -> Option<u64> {
    let text = body.get(item.clone())?;
    bytes::find(text, b"\"encrypted_content\"")?;
    let item: Value = serde_json::from_slice(text).ok()?;
    let secret = item.get("encrypted_content")?.as_str()?;
    if item.get("type")? != "reasoning" {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    secret.hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_left_out_is_known_again_and_all_else_stays() {
        let body = br#"{"model":"m", "input" : [ {"type":"message","content":"encrypted_content"},
            {"type":"reasoning","summary":[],"encrypted_content":"one"}, {"type":"compaction","encrypted_content":"c"},
            {"encrypted_content":"two","type":"reasoning"} ], "z":[1]}"#;
        let found = marks(body);
        assert_eq!(found.len(), 2);
        let text = |left_out: &[u64]| {
            let body = without(body, |mark| left_out.contains(&mark))?;
            Some(String::from_utf8(body.to_vec()).unwrap())
        };
        let both = text(&found).unwrap();
        let rest = r#"{"model":"m", "input" : [ {"type":"message","content":"encrypted_content"},{"type":"compaction","encrypted_content":"c"} ], "z":[1]}"#;
        assert_eq!(both, rest);
        let one = text(&found[..1]).unwrap();
        assert!(one.contains("two") && !one.contains("one"), "{one}");
        assert_eq!(marks(one.as_bytes()), found[1..]);
        assert_eq!(text(&[]), None);
        let alone = br#"{"input":[{"type":"reasoning","encrypted_content":"x"}]}"#;
        assert_eq!(&without(alone, |_| true).unwrap()[..], br#"{"input":[]}"#);
        for other in [&b"{\"input\":\"text\"}"[..], b"{\"input\":[]}", b"", b"[1]"] {
            assert!(marks(other).is_empty() && without(other, |_| true).is_none());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_their_places(mut junk in prop::collection::vec(any::<u8>(), 0..200), cut in 0..60_usize) {
            let whole = br#"{"a":1,"input":[{"type":"reasoning","encrypted_content":"x"}]}"#;
            let _ = marks(&whole[..cut]);
            let _ = without(&whole[..cut], |_| true);
            junk.splice(..0, whole[..cut].iter().copied());
            let _ = without(&junk, |_| true);
        }
    }
}
