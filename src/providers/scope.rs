//! What a limit holds for, besides the quota group: a class of models and a kind of endpoint.
//!
//! Owns the reading of a request's path and body for that. It promises that no body makes it panic or
//! take more than one pass, and that an unknown model is a class of its own. Pure.

use super::{Dialect, Provider, anthropic};
use crate::common::body::Body;
use crate::common::bytes;
use crate::common::json_places::{end_of_text, top_value};
use std::borrow::Cow;
use std::ops::Range;

/// Longest name of a model; real ones have some 50 characters. Names are stored and printed.
const LONGEST_NAME: usize = 128;

/// What a provider's endpoint does, as far as limits differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EndpointKind {
    /// A model answers.
    Generate,
    /// The size of a prompt is counted; at Anthropic with a limit of its own.
    CountTokens,
    /// A text becomes a vector.
    Embed,
    /// Everything else: lists of models, files, batches, stored answers.
    Other,
}

/// What a limit holds for within one quota group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Scope {
    /// What the endpoint does.
    pub(crate) kind: EndpointKind,
    /// Models that draw on one bucket, by the name of one of them; empty where no model is known. Of everything
    /// else, what it is about ("files", "images"): each has limits of its own.
    pub(crate) class: String,
}

impl EndpointKind {
    /// Whether a model answers. That the size of a prompt or a list of models is still told is no help to
    /// somebody whose models are refused.
    pub(crate) fn is_work(self) -> bool {
        matches!(self, EndpointKind::Generate | EndpointKind::Embed)
    }

    /// Whether a request of this kind may be sent again when nobody knows what became of it: an answer of a model
    /// then costs twice at the most, but of a batch or a file there would be two.
    pub(crate) fn is_repeatable(self, method: &str, path: &str) -> bool {
        /// What else is an answer: pictures, sounds, and judgements of texts.
        const ANSWERS: [&str; 8] = [
            "generations",
            "edits",
            "variations",
            "speech",
            "transcriptions",
            "translations",
            "moderations",
            "rerank",
        ];
        let last = bytes::path_of(path).rsplit('/').next().unwrap_or_default();
        self != EndpointKind::Other
            || !matches!(method, "POST" | "PATCH")
            || ANSWERS.contains(&last)
    }

    /// Its word in the state file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            EndpointKind::Generate => "generate",
            EndpointKind::CountTokens => "count-tokens",
            EndpointKind::Embed => "embed",
            EndpointKind::Other => "other",
        }
    }

    /// The kind of this name.
    pub(crate) fn by_name(name: &str) -> Option<EndpointKind> {
        use EndpointKind::{CountTokens, Embed, Generate, Other};
        let mut all = [Generate, CountTokens, Embed, Other].into_iter();
        all.find(|kind| kind.name() == name)
    }
}

impl Scope {
    /// What a limit is for, in a sentence.
    pub(crate) fn words(&self) -> &str {
        match (self.kind, self.class.as_str()) {
            (EndpointKind::CountTokens, _) => "token counts",
            (EndpointKind::Other, _) => "everything else",
            (EndpointKind::Generate, "") => "answers",
            (EndpointKind::Embed, "") => "embeddings",
            (_, model) => model,
        }
    }

    /// The scope of answers of this model at this provider.
    pub(crate) fn of_model(provider: &Provider, model: &str) -> Scope {
        Scope {
            kind: EndpointKind::Generate,
            class: provider.model_class(model),
        }
    }

    /// The scope of a request to `path`, which begins below the provider's base URL; and the model that it
    /// asks for an answer, as it calls it, or nothing.
    pub(crate) fn of_request(
        provider: &Provider,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> (Scope, String) {
        let path = bytes::path_of(path);
        let kind = match method {
            "POST" => kind(provider.dialect, path.trim_end_matches('/')),
            _ => EndpointKind::Other,
        };
        let mut model = match kind {
            EndpointKind::Other => String::new(),
            _ => match model_in_path(path) {
                Some(place) => path[place].to_owned(),
                None => model_in_body(body)
                    .and_then(|place| parsed(body, place))
                    .unwrap_or_default(),
            },
        };
        let class = match kind {
            EndpointKind::Other => provider.model_class(collection(path)),
            _ => provider.model_class(&model),
        };
        if kind != EndpointKind::Generate || class.is_empty() {
            model.clear();
        }
        (Scope { kind, class }, model)
    }
}

impl Provider {
    /// The models that draw on the same bucket as this one, by the name of one of them; empty when the
    /// name cannot be one.
    fn model_class(&self, model: &str) -> String {
        let mut model = Cow::Borrowed(model.trim());
        if model.bytes().any(|byte| byte.is_ascii_uppercase()) {
            model.to_mut().make_ascii_lowercase();
        }
        let name = model.strip_prefix("models/").unwrap_or(&model);
        let is_fit = name.len() <= LONGEST_NAME && name.bytes().all(|byte| byte.is_ascii_graphic());
        match self.dialect {
            _ if !is_fit => String::new(),
            Dialect::Anthropic => anthropic::model_class(name).to_owned(),
            Dialect::Chat(_) | Dialect::Gemini => name.to_owned(),
        }
    }
}

fn kind(dialect: Dialect, path: &str) -> EndpointKind {
    let last = path.rsplit('/').next().unwrap_or_default();
    // Google's: `models/NAME:generateContent`.
    match last.rsplit_once(':').map_or(last, |(_, action)| action) {
        "generateContent" | "streamGenerateContent" => EndpointKind::Generate,
        "countTokens" | "count_tokens" | "input_tokens" => EndpointKind::CountTokens,
        "embedContent" | "batchEmbedContents" | "embeddings" | "embed" => EndpointKind::Embed,
        // OpenAI's threads have messages, too, which are things and no answers.
        "messages" | "complete" if matches!(dialect, Dialect::Anthropic) => EndpointKind::Generate,
        "completions" | "responses" | "compact" | "chat" => EndpointKind::Generate,
        _ => EndpointKind::Other,
    }
}

/// What a path of everything else is about: its first part that is not the version of the API.
fn collection(path: &str) -> &str {
    let is_version = |part: &&str| {
        let number = part.strip_prefix('v').unwrap_or_default();
        !number.starts_with(|c: char| c.is_ascii_digit())
            && !matches!(*part, "" | "openai" | "upload")
    };
    path.split('/').find(is_version).unwrap_or_default()
}

/// Puts this model in place of the one that a request asks for, which is put into `model`: names that
/// JSON need not escape.
pub(crate) fn swap_model(path: &mut String, body: &mut Body, model: &mut String) {
    let before_query = path.split('?').next().unwrap_or_default();
    if let Some(place) = model_in_path(before_query) {
        let other = path[place.clone()].to_owned();
        path.replace_range(place, model);
        *model = other;
    } else if let Some(place) = model_in_body(body) {
        let other = body.splice(place, model.as_bytes());
        *model = String::from_utf8(other).unwrap_or_default();
    }
}

/// Where a path names the model: Google's `models/NAME:action`, Azure's `deployments/NAME/…`.
fn model_in_path(path: &str) -> Option<Range<usize>> {
    let after = |word: &str| Some(bytes::find(path.as_bytes(), word.as_bytes())? + word.len());
    let (from, end) = match (after("/models/"), after("/deployments/")) {
        (Some(from), _) => (from, path[from..].find(':')?),
        (None, Some(from)) => (from, path[from..].find('/').unwrap_or(path.len() - from)),
        (None, None) => return None,
    };
    Some(from..from + end)
}

/// The text of a JSON string, which begins and ends with the quotes around this place.
fn parsed(body: &[u8], place: Range<usize>) -> Option<String> {
    serde_json::from_slice(body.get(place.start.checked_sub(1)?..=place.end)?).ok()
}

/// Where the text of `model` at the top of a JSON object is, without its quotes. A conversation is
/// megabytes, and some clients send the model after it.
fn model_in_body(body: &[u8]) -> Option<Range<usize>> {
    let at = top_value(body, b"model")?;
    Some(at + 1..end_of_text(body, at)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::by_name;
    use proptest::prelude::*;

    #[track_caller]
    fn is(provider: &str, path: &str, body: &str, kind: EndpointKind, class: &str) {
        let provider = by_name(provider).unwrap();
        let (scope, _) = Scope::of_request(provider, "POST", path, body.as_bytes());
        assert_eq!((scope.kind, &*scope.class), (kind, class), "{path} {body}");
    }

    #[test]
    fn what_a_request_is_for() {
        use EndpointKind::{CountTokens, Embed, Generate, Other};
        let opus = r#"{"model":"claude-opus-5-5","max_tokens":1}"#;
        is(
            "anthropic",
            "/v1/messages?beta=true",
            opus,
            Generate,
            "claude-opus-5-5",
        );
        is(
            "anthropic",
            "/v1/messages/count_tokens",
            opus,
            CountTokens,
            "claude-opus-5-5",
        );
        is("anthropic", "/v1/messages/batches", opus, Other, "messages");
        is(
            "openai",
            "/chat/completions",
            r#"{"model":"gpt-5.6-luna"}"#,
            Generate,
            "gpt-5.6-luna",
        );
        is(
            "openai",
            "/responses",
            r#"{"model":"gpt-6.2-sol"}"#,
            Generate,
            "gpt-6.2-sol",
        );
        is(
            "openai",
            "/responses/input_tokens",
            r#"{"model":"m"}"#,
            CountTokens,
            "m",
        );
        is("openai", "/embeddings", r#"{"model":"m"}"#, Embed, "m");
        is(
            "openai",
            "/threads/t/messages",
            r#"{"model":"m"}"#,
            Other,
            "threads",
        );
        is("openai", "/files", "", Other, "files");
        is("gemini", "/upload/v1beta/files", "", Other, "files");
        is("openai", "", "", Other, "");
        let flash = "/v1beta/models/gemini-3-flash";
        is(
            "gemini",
            &format!("{flash}:generateContent"),
            "{}",
            Generate,
            "gemini-3-flash",
        );
        is(
            "gemini",
            &format!("{flash}:streamGenerateContent?alt=sse"),
            "{}",
            Generate,
            "gemini-3-flash",
        );
        is(
            "gemini",
            &format!("{flash}:countTokens"),
            "{}",
            CountTokens,
            "gemini-3-flash",
        );
        is(
            "azure",
            "/openai/deployments/mine/chat/completions?api-version=1",
            "{}",
            Generate,
            "mine",
        );
        let provider = by_name("anthropic").unwrap();
        let (list, _) = Scope::of_request(provider, "GET", "/v1/messages", opus.as_bytes());
        assert_eq!(list.kind, Other);
    }

    #[test]
    fn models_of_one_bucket_are_one_class() {
        let class = |model: &str| Scope::of_model(by_name("anthropic").unwrap(), model).class;
        for (one, other) in [
            ("claude-opus-4-5-20251101", "claude-opus-4-8"),
            ("claude-sonnet-4-5-20250929", "claude-sonnet-4-6"),
            ("claude-fable-5", "claude-fable-5-1"),
            ("claude-haiku-4-5", "claude-haiku-4-5-20251001"),
        ] {
            assert_eq!(class(one), class(other));
        }
        for (one, other) in [
            ("claude-opus-5-5", "claude-opus-5"),
            ("claude-opus-5", "claude-opus-4-8"),
            ("claude-sonnet-5", "claude-sonnet-4-6"),
            ("claude-haiku-5-5", "claude-opus-5-5"),
        ] {
            assert_ne!(class(one), class(other));
        }
    }

    fn found(body: &[u8]) -> Option<String> {
        parsed(body, model_in_body(body)?)
    }

    #[test]
    fn a_model_takes_the_place_of_another_and_back() {
        for (path, body, other_path, other_body) in [
            (
                "/v1/messages?beta=true",
                r#"{"messages":[{"model":"x"}], "model" : "old\/1", "z":1}"#,
                "/v1/messages?beta=true",
                r#"{"messages":[{"model":"x"}], "model" : "new", "z":1}"#,
            ),
            (
                "/v1beta/models/old:streamGenerateContent?alt=sse",
                r#"{"model":"kept"}"#,
                "/v1beta/models/new:streamGenerateContent?alt=sse",
                r#"{"model":"kept"}"#,
            ),
            (
                "/openai/deployments/old/chat/completions",
                "{}",
                "/openai/deployments/new/chat/completions",
                "{}",
            ),
            (
                "/v1/messages?x=/models/a:b",
                "{}",
                "/v1/messages?x=/models/a:b",
                "{}",
            ),
        ] {
            let (mut now_path, mut now_body) = (path.to_owned(), body.as_bytes().to_vec().into());
            let mut model = String::from("new");
            swap_model(&mut now_path, &mut now_body, &mut model);
            assert_eq!(
                (&*now_path, &now_body[..]),
                (other_path, other_body.as_bytes())
            );
            swap_model(&mut now_path, &mut now_body, &mut model);
            assert_eq!((&*now_path, &now_body[..]), (path, body.as_bytes()));
            assert_eq!(model, "new");
        }
    }

    #[test]
    fn the_model_is_found_wherever_it_stands() {
        for (body, model) in [
            (r#"{"model":"m"}"#, Some("m")),
            (
                r#" { "a" : [1, {"model":"x"}, "}"], "b":{"c":"\"model\":"}, "n": -1.5e3, "t":true , "model" : "m\/1" }"#,
                Some("m/1"),
            ),
            (r#"{"a":"\\","model":"m"}"#, Some("m")),
            (r#"{"messages":[{"model":"x"}]}"#, None),
            (r#"{"model":5}"#, None),
            (r#"{"model":"m"#, None),
            (r#"[{"model":"m"}]"#, None),
            ("", None),
            ("model", None),
        ] {
            assert_eq!(found(body.as_bytes()).as_deref(), model, "{body}");
        }
    }

    proptest! {
        /// It finds what a JSON parser finds, and takes whatever comes.
        #[test]
        fn the_scan_agrees_with_a_parser(
            text in ".{0,20}", model in ".{0,20}", list in prop::collection::vec(".{0,8}", 0..4),
            junk in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let body = serde_json::json!({
                "a": text, "b": {"model": text, "list": list}, "c": [[], {}, null, 1.5], "model": model, "z": list,
            });
            prop_assert_eq!(found(body.to_string().as_bytes()), Some(model.clone()));
            let mut cut = body.to_string().into_bytes();
            cut.truncate(junk.len());
            let _ = model_in_body(&cut);
            let _ = model_in_body(&junk);
        }
    }
}
