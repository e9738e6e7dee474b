//! Tokens in rings, and where to ask about each.

use super::environment::lookup;
use super::token_files::TokenFiles;
use crate::cli::{Checks, nearest};
use crate::clients::CommandLine;
use crate::common::error::Error;
use crate::events::RunEvent;
use crate::providers::endpoint::{Endpoint, certificate_files};
use crate::providers::{PROVIDERS, Provider, by_name, tls};
use crate::tokens::{
    Ring, Token, TokenPool, is_token_variable, nearly_token_variable, resembles_token_variable,
};

/// The tokens that there are, and what is worth telling about where they were found.
pub(super) struct Discovered {
    pub(super) providers: Vec<&'static Provider>,
    /// At least one.
    pub(super) tokens: Vec<Token>,
    /// Where they can be looked for again.
    pub(super) files: TokenFiles,
    pub(super) notices: Vec<RunEvent>,
}

impl Discovered {
    /// The tokens of one provider, in order.
    pub(super) fn of(&self, provider: &'static Provider) -> impl Iterator<Item = Token> + '_ {
        let tokens = self.tokens.iter();
        tokens
            .filter(move |token| std::ptr::eq(token.provider, provider))
            .cloned()
    }
}

/// Every token that there is, in rings, for those who start no command; what is worth telling; and where
/// tokens can be looked for again.
///
/// # Errors
/// There are none, or something that names one cannot be used.
pub(crate) fn rings(
    checks: &Checks,
    texts: &[(String, String)],
) -> Result<(Vec<Ring>, Vec<RunEvent>, TokenFiles), Error> {
    let found = find(checks, texts)?;
    let variable = |name: &str| lookup(texts, name);
    let command = CommandLine::new(Vec::new(), None);
    let mut rings = Vec::new();
    for provider in &found.providers {
        let tokens = found.of(provider).collect();
        rings.extend(ring(provider, tokens, checks, &command, &variable)?);
    }
    Ok((rings, found.notices, found.files))
}

pub(super) fn find(checks: &Checks, texts: &[(String, String)]) -> Result<Discovered, Error> {
    let providers = named_providers(&checks.providers)?;
    let variable = |name: &str| lookup(texts, name);

    let (found, files) = TokenFiles::read(&providers, texts)?;
    if found.tokens.is_empty() {
        return Err(Error::NoTokens {
            client: None,
            variables: variables_to_set(&checks.providers, &providers),
            unread: texts
                .iter()
                .filter(|(name, value)| !value.is_empty() && resembles_token_variable(name))
                // Those of a provider that --provider leaves out are read.
                .filter(|(name, _)| !is_token_variable(name))
                .map(|(name, _)| name.clone())
                .collect(),
        });
    }
    let mut notices = Vec::new();
    for provider in &providers {
        let is_its = |other: &Provider| std::ptr::eq(other, *provider);
        let of = found.tokens.iter().filter(|token| is_its(token.provider));
        let names: Vec<_> = of.map(|token| token.name).collect();
        let again = found.duplicates.iter().filter(|(other, _)| is_its(other));
        let duplicates: Vec<_> = again.map(|(_, origin)| origin.clone()).collect();
        // Of one that is alone everything is known.
        if !duplicates.is_empty() || found.tokens.len() > 1 && !names.is_empty() {
            notices.push(RunEvent::Tokens {
                provider,
                names,
                duplicates,
            });
        }
    }
    notices.extend(
        found
            .exposed_files
            .iter()
            .map(|(path, mend)| RunEvent::ExposedFile {
                path: path.display().to_string(),
                fix: mend,
            }),
    );

    let unread = |(name, _): &(String, String)| {
        let variable = nearly_token_variable(name)?;
        Some(RunEvent::UnreadVariable {
            name: name.clone(),
            variable,
        })
    };
    notices.extend(texts.iter().filter_map(unread));

    for (variable, path) in certificate_files(&variable) {
        if let Err(why) = tls::check(&path) {
            let path = path.display().to_string();
            notices.push(RunEvent::UnusedFile {
                variable,
                path,
                why,
            });
        }
    }
    Ok(Discovered {
        providers,
        tokens: found.tokens,
        files,
        notices,
    })
}

/// Each ring with the one endpoint of its provider; for those that are not mixed.
pub(crate) fn by_provider(rings: Vec<Ring>) -> Vec<(TokenPool, Endpoint)> {
    rings
        .into_iter()
        .filter_map(|(pool, endpoints)| Some((pool, endpoints.into_iter().next()?)))
        .collect()
}

/// One ring over all providers, in the order in which they were found.
pub(super) fn mixed(rings: Vec<Ring>) -> Vec<Ring> {
    let mut tokens = Vec::new();
    let mut endpoints = Vec::new();
    for (pool, own) in rings {
        tokens.extend(pool.tokens().cloned());
        endpoints.extend(own);
    }
    let pool = TokenPool::new(tokens);
    pool.map(|pool| (pool, endpoints)).into_iter().collect()
}

fn named_providers(names: &[String]) -> Result<Vec<&'static Provider>, Error> {
    if names.is_empty() {
        return Ok(PROVIDERS.iter().collect());
    }
    let mut providers: Vec<&'static Provider> = Vec::new();
    for name in names {
        let provider = by_name(name).ok_or_else(|| Error::UnknownProvider {
            near: match &**name {
                "claude" => Some("anthropic"),
                "chatgpt" | "gpt" | "codex" => Some("openai"),
                "google" => Some("gemini"),
                "grok" => Some("xai"),
                _ => nearest(name, PROVIDERS.iter().map(|provider| provider.name)),
            },
            name: name.clone(),
        })?;
        if !providers.iter().any(|known| std::ptr::eq(*known, provider)) {
            providers.push(provider);
        }
    }
    Ok(providers)
}

pub(super) fn variables_to_set(named: &[String], providers: &[&'static Provider]) -> String {
    let shown = if named.is_empty() { 2 } else { providers.len() };
    let names: Vec<&str> = providers
        .iter()
        .take(shown)
        .filter_map(|provider| provider.token_variables.first().copied())
        .collect();
    names.join(" or ")
}

/// The ring of one provider's tokens; none without tokens.
///
/// # Errors
/// Its address is none that a token may be sent to.
pub(super) fn ring(
    provider: &'static Provider,
    tokens: Vec<Token>,
    checks: &Checks,
    command: &CommandLine,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Ring>, Error> {
    let Some(pool) = TokenPool::new(tokens) else {
        return Ok(None);
    };
    let endpoint = endpoint(provider, checks.model.as_deref(), command, variable)?;
    Ok(Some((pool, vec![endpoint])))
}

/// Where this provider is asked, and for which models: the one that is named, else what the command
/// is known to ask for, and the cheapest. What was seen in its requests comes before what the environment
/// and the client's table say.
fn endpoint(
    provider: &'static Provider,
    model: Option<&str>,
    command: &CommandLine,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Endpoint, Error> {
    let known = command.uses(provider);
    let from_variable = || {
        let word = provider.model_variable.and_then(variable)?;
        Some(if known {
            command.full_model(&word)
        } else {
            word
        })
    };
    let on_line = command.model_on_line(provider);
    let seen_goes = model.is_none().then_some(usize::from(on_line.is_some()));
    let own = |of: &dyn Fn() -> Option<String>| known.then(of).flatten();
    let named = on_line
        .or_else(|| own(&|| command.model_in_environment(variable)))
        .or_else(from_variable);
    let is_guess = model.is_none() && named.is_none();
    let guesses = || {
        // What is only guessed may be retired, or never have existed for this account.
        let default = own(&|| command.default_model());
        let cheapest = Some(provider.cheapest_model.to_owned());
        named.into_iter().chain(default).chain(cheapest)
    };
    let mut models: Vec<String> = match model {
        Some(model) => vec![model.to_owned()],
        None => guesses().collect(),
    };
    // Of most providers none is known.
    models.retain(|model| !model.is_empty());
    models.dedup();
    let with_own = |name: &str| {
        let own = || command.own_base_url(provider, variable);
        let is_url = provider.base_url_variable == Some(name);
        is_url.then(own).flatten().or_else(|| variable(name))
    };
    let endpoint = Endpoint::find(provider, models, &with_own)?;
    Ok(Endpoint {
        seen_goes,
        is_guess,
        ..endpoint
    })
}
