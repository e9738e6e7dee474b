//! Where a request goes: to a provider, or to the proxy itself.
//!
//! The first part of the path names the provider: `/anthropic/v1/messages`. What follows is put
//! behind the provider's base URL, with the version of its API wherever the client's own base URL
//! ends. Pure.

use crate::common::bytes;
use crate::providers::Provider;
use memchr::memchr2;
use std::borrow::Cow;

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// The provider at this place among those served, and the path under its base URL: empty, or
    /// with a slash or a question mark at its beginning.
    Provider { ring: usize, path: Cow<'a, str> },
    /// How things stand, as JSON.
    Status,
    /// The same for Prometheus.
    Metrics,
    /// Nowhere.
    Nowhere,
    /// A path that leads somewhere else than it says.
    Dotted,
}

/// The route of a request target in origin form.
pub(crate) fn route<'a>(target: &'a str, providers: &[&'static Provider]) -> Route<'a> {
    let path = bytes::path_of(target);
    match path {
        "/ddollar/status" => return Route::Status,
        "/ddollar/metrics" => return Route::Metrics,
        _ if has_dot_segments(path) => return Route::Dotted,
        _ => {}
    }
    for (ring, provider) in providers.iter().enumerate() {
        let rest = target
            .strip_prefix('/')
            .and_then(|rest| rest.strip_prefix(provider.name));
        if let Some(rest) = rest.filter(|rest| begins_anew(rest)) {
            let path = below_base(provider, rest);
            return Route::Provider { ring, path };
        }
    }
    Route::Nowhere
}

/// The path of a provider's own base URL, which clients expect in one that takes its place: `/v1`,
/// or nothing.
pub(crate) fn base_path(provider: &Provider) -> &'static str {
    let after_scheme = provider
        .base_url
        .split_once("://")
        .map_or("", |(_, rest)| rest);
    after_scheme.find('/').map_or("", |at| &after_scheme[at..])
}

/// First parts of the paths of endpoints that have a version before them. Others (Claude Code's
/// `/api/…`, Google's `/upload/…`) go as they came.
const ENDPOINTS: [&str; 17] = [
    "messages",
    "complete",
    "models",
    "files",
    "skills",
    "batches",
    "cachedContents",
    "tunedModels",
    "interactions",
    "chat",
    "completions",
    "responses",
    "embeddings",
    "embed",
    "rerank",
    "images",
    "audio",
];

/// What a client asks for, under the provider's base URL. Clients differ in whether the version of the
/// API is part of the base URL or of the path: `/openai/v1/models` and `/openai/models` are the same,
/// and so are `/anthropic/v1/messages` and `/anthropic/messages`.
fn below_base<'a>(provider: &Provider, rest: &'a str) -> Cow<'a, str> {
    let version = provider.version;
    // Of the two, one is empty.
    let whole = match version {
        "" => base_path(provider),
        _ => version,
    };
    let last = whole.rfind('/').map_or("", |at| &whole[at..]);
    for prefix in [whole, last] {
        let below = rest.strip_prefix(prefix).filter(|rest| begins_anew(rest));
        if let Some(below) = below.filter(|_| !prefix.is_empty()) {
            return match version {
                "" => Cow::Borrowed(below),
                _ if prefix == version => Cow::Borrowed(rest),
                _ => Cow::Owned([version, below].concat()),
            };
        }
    }
    let first = rest.split(['/', '?']).nth(1).unwrap_or_default();
    match ENDPOINTS.contains(&first) && !version.is_empty() {
        true => Cow::Owned([version, rest].concat()),
        false => Cow::Borrowed(rest),
    }
}

pub(crate) fn begins_anew(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(['/', '?'])
}

/// Whether a part of the path is `.` or `..`, in whatever spelling: a provider's server would resolve
/// it (RFC 3986 §5.2.4), to a path that was not looked at here.
fn has_dot_segments(path: &str) -> bool {
    if memchr2(b'.', b'%', path.as_bytes()).is_none() {
        return false;
    }
    let plain = path
        .to_ascii_lowercase()
        .replace("%2e", ".")
        .replace("%2f", "/")
        .replace("%5c", "/");
    plain
        .split(['/', '\\'])
        .any(|part| matches!(part, "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::{PROVIDERS, by_name};

    fn to(target: &str, providers: &[&'static Provider]) -> String {
        match route(target, providers) {
            Route::Provider { ring, path } => format!("{ring} {path}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_first_part_names_the_provider() {
        let providers = ["anthropic", "openai"].map(|name| by_name(name).unwrap());
        for (target, expected) in [
            (
                "/anthropic/v1/messages?beta=true",
                "0 /v1/messages?beta=true",
            ),
            ("/anthropic", "0 "),
            ("/anthropic?x", "0 ?x"),
            ("/openai/v1/chat/completions", "1 /chat/completions"),
            ("/openai/chat/completions", "1 /chat/completions"),
            ("/openai/v1", "1 "),
            ("/openai/v10/x", "1 /v10/x"),
            ("/openaix/v1", "Nowhere"),
            ("/groq/openai/v1/models", "Nowhere"),
            ("/", "Nowhere"),
            ("*", "Nowhere"),
            ("/ddollar/status", "Status"),
            ("/ddollar/metrics?x", "Metrics"),
            ("/ddollar/", "Nowhere"),
        ] {
            assert_eq!(to(target, &providers), expected, "{target}");
        }
    }

    #[test]
    fn a_base_url_with_or_without_a_version_reaches_the_same() {
        for (name, path, targets) in [
            (
                "anthropic",
                "/v1/messages?beta=true",
                &["/v1/messages?beta=true", "/messages?beta=true"][..],
            ),
            ("anthropic", "/v1/models", &["/v1/models", "/models"]),
            ("anthropic", "/v1", &["/v1"]),
            ("anthropic", "/api/hello", &["/api/hello"]),
            ("anthropic", "/v2/messages", &["/v2/messages"]),
            (
                "gemini",
                "/v1beta/models/g:generateContent",
                &[
                    "/v1beta/models/g:generateContent",
                    "/models/g:generateContent",
                ],
            ),
            ("gemini", "/v1/models", &["/v1/models"]),
            ("gemini", "/upload/v1beta/files", &["/upload/v1beta/files"]),
            ("cohere", "/v2/chat", &["/v2/chat", "/chat"]),
            ("cohere", "/v1/chat", &["/v1/chat"]),
            (
                "azure",
                "/openai/v1/responses",
                &["/openai/v1/responses", "/v1/responses", "/responses"],
            ),
            (
                "azure",
                "/openai/deployments/d/chat/completions",
                &["/openai/deployments/d/chat/completions"],
            ),
            (
                "groq",
                "/chat/completions",
                &[
                    "/openai/v1/chat/completions",
                    "/v1/chat/completions",
                    "/chat/completions",
                ],
            ),
            (
                "openrouter",
                "/chat/completions",
                &[
                    "/api/v1/chat/completions",
                    "/v1/chat/completions",
                    "/chat/completions",
                ],
            ),
            (
                "fireworks",
                "/models",
                &["/inference/v1/models", "/v1/models", "/models"],
            ),
            ("deepseek", "/chat/completions", &["/chat/completions"]),
        ] {
            for target in targets {
                let target = format!("/{name}{target}");
                let providers = [by_name(name).unwrap()];
                assert_eq!(to(&target, &providers), format!("0 {path}"), "{target}");
            }
        }
        // Whatever a provider is asked for by a probe can be asked for through the proxy.
        for provider in PROVIDERS {
            let base = base_path(provider);
            let target = format!("/{}{base}{}/models", provider.name, provider.version);
            let expected = format!("0 {}/models", provider.version);
            assert_eq!(to(&target, &[provider]), expected, "{target}");
        }
    }

    #[test]
    fn dots_in_a_path_lead_nowhere() {
        let providers = [by_name("openai").unwrap()];
        for path in [
            "/openai/../anthropic/v1/messages",
            "/openai/v1/./models",
            "/openai/v1/..",
            "/openai/v1/%2e%2E/x",
            "/openai/v1/.%2e/x",
            "/openai/v1/..%2fx",
            "/openai/v1/..\\x",
            "/openai/v1/..%5Cx",
            "/../ddollar/status",
        ] {
            assert_eq!(to(path, &providers), "Dotted", "{path}");
        }
        for (path, expected) in [
            ("/openai/v1/files/a..b", "0 /files/a..b"),
            ("/openai/v1/.well-known", "0 /.well-known"),
            ("/openai/v1/x?y=/../z", "0 /x?y=/../z"),
            ("/openai/v1/...", "0 /..."),
        ] {
            assert_eq!(to(path, &providers), expected, "{path}");
        }
    }
}
