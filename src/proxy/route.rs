//! Where a request goes: to a provider, or to the proxy itself.
//!
//! The first part of the path names the provider: `/anthropic/v1/messages`. What follows is put
//! behind the provider's base URL. Pure.

use crate::providers::Provider;

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// The provider at this place among those served, and the path under its base URL: empty, or
    /// with a slash or a question mark at its beginning.
    Provider { ring: usize, path: &'a str },
    /// How things stand, as JSON.
    Status,
    /// The same for Prometheus.
    Metrics,
    /// Nowhere.
    Nowhere,
}

/// The route of a request target in origin form.
pub(crate) fn route<'a>(target: &'a str, providers: &[&'static Provider]) -> Route<'a> {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    match path {
        "/ddollar/status" => return Route::Status,
        "/ddollar/metrics" => return Route::Metrics,
        _ => {}
    }
    for (ring, provider) in providers.iter().enumerate() {
        let rest = target
            .strip_prefix('/')
            .and_then(|rest| rest.strip_prefix(provider.name));
        let Some(rest) = rest.filter(|rest| begins_anew(rest)) else {
            continue;
        };
        // `/openai/v1/models` and `/openai/models` are the same: clients differ in which of the
        // two they make of a base URL.
        let below = rest.strip_prefix(base_path(provider));
        let path = below.filter(|rest| begins_anew(rest)).unwrap_or(rest);
        return Route::Provider { ring, path };
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

fn begins_anew(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(['/', '?'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::by_name;

    #[test]
    fn the_first_part_names_the_provider() {
        let providers = ["anthropic", "openai"].map(|name| by_name(name).unwrap());
        let to = |target: &str| match route(target, &providers) {
            Route::Provider { ring, path } => format!("{ring} {path}"),
            other => format!("{other:?}"),
        };
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
            assert_eq!(to(target), expected, "{target}");
        }
    }
}
