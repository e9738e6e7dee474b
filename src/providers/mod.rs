//! The providers: who they are, and how to ask one for its limits.
//!
//! Owns: probes as data. The table of providers is in `table.rs`, what only one of them says in a file of
//! its own, what an answer means in `reading.rs`. Pure: it sends nothing, sees no token, knows no clock and
//! decides nothing.

mod account; // free endpoints: is the token accepted, what is left of the money
mod anthropic;
pub(crate) mod endpoint;
mod gemini;
pub(crate) mod meter; // LLM tokens that an answer has cost
pub(crate) mod monitor;
mod openai; // and all that speak like it
mod reading;
pub(crate) mod reasoning; // what one organization has encrypted
pub(crate) mod reply;
pub(crate) mod schedule;
pub(crate) mod scope;
mod table; // who they are
pub(crate) mod times;
pub(crate) mod tls;
pub(crate) mod usage;

use http::Method;

pub(crate) use reading::{Answer, Finding, Reading, Testimony};
pub(crate) use reply::Reply;
pub(crate) use table::PROVIDERS;

/// An API that issues tokens: one row of [`PROVIDERS`]. Rows come from the vendors' references and
/// from recorded answers.
#[derive(Debug)]
pub(crate) struct Provider {
    /// For `--provider`, paths of the proxy and the state file: lower-case ASCII letters, unique.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) label: &'static str,
    /// Environment variables that hold a token: the main one first, then aliases of other tools.
    /// Never empty; no variable belongs to two providers.
    pub(crate) token_variables: &'static [&'static str],
    /// Where requests go unless `base_url_variable` says otherwise: https, no `/` at the end. With
    /// or without a version (`/v1`), as the vendor's own variable has it, so that a user's value
    /// can take its place.
    pub(crate) base_url: &'static str,
    /// What stands between the base URL and every endpoint, where the vendor's base URL goes without
    /// it: the version of its API, with a `/` before it. Clients that expect it in the base URL leave it
    /// out.
    pub(crate) version: &'static str,
    /// The variable for another base URL: the vendor's own, or, where there is none or it goes
    /// without the version that `base_url` has (Groq, Cerebras, Fireworks), that of LiteLLM, which
    /// aider and many others read.
    pub(crate) base_url_variable: Option<&'static str>,
    /// The variable that says which model the child asks for.
    pub(crate) model_variable: Option<&'static str>,
    /// What a probe asks for when nobody says which model the child uses. Empty when not known.
    pub(crate) cheapest_model: &'static str,
    /// How a model is asked, and what the answer looks like.
    pub(crate) dialect: Dialect,
    /// Whether an answer of a model tells limits. If not, a model is asked only when the token is
    /// needed: when the command fails, before a rotation and before the end of a wait.
    pub(crate) tells_limits: bool,
    /// What can be asked for free. `None`: nothing that would tell anything.
    pub(crate) free: Option<Free>,
}

/// A way to ask a model and to read the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dialect {
    /// `POST /v1/messages`, `anthropic-ratelimit-*`.
    Anthropic,
    /// `POST …/chat/completions`, `x-ratelimit-*`, and what differs among those that do so.
    Chat(openai::Chat),
    /// `POST …:generateContent`, no limits but in the body of a 429.
    Gemini,
}

/// A free endpoint, under the base URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Free {
    /// The list of models at this path: it shows whether the token is accepted.
    Models(&'static str),
    /// OpenRouter's `GET /key`.
    OpenRouterKey,
    /// DeepSeek's `GET /user/balance`.
    DeepSeekBalance,
}

/// What a request is about, and so what its answer can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeTarget {
    /// A model: a minimal request to it.
    Model,
    /// The token or its account: [`Free`].
    Account,
    /// Whatever the command has asked for: a refusal may be about that.
    Traffic,
}

/// The row of that name (exact, lower case).
pub(crate) fn by_name(name: &str) -> Option<&'static Provider> {
    PROVIDERS.iter().find(|provider| provider.name == name)
}

/// Which form of the probe to send. A caller that remembers which one worked saves a request at
/// every interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ProbeForm {
    /// The cheapest legal form: Anthropic `max_tokens` 0, OpenAI `max_completion_tokens` 16.
    #[default]
    First,
    /// For servers that refuse it: Anthropic `max_tokens` 1, OpenAI `max_tokens` 16.
    Fallback,
}

/// How the caller attaches the token. The pure code never sees one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authorization {
    /// `x-api-key: TOKEN`
    XApiKey,
    /// `authorization: Bearer TOKEN`
    Bearer,
    /// `api-key: TOKEN` (Azure)
    ApiKey,
    /// `x-goog-api-key: TOKEN`
    XGoogApiKey,
}

impl Authorization {
    /// The header that carries the token.
    pub(crate) fn header_name(self) -> &'static str {
        match self {
            Authorization::XApiKey => "x-api-key",
            Authorization::Bearer => "authorization",
            Authorization::ApiKey => "api-key",
            Authorization::XGoogApiKey => "x-goog-api-key",
        }
    }

    /// What stands before the token in that header.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Authorization::Bearer => "Bearer ",
            _ => "",
        }
    }
}

/// A request that makes a provider tell its limits, as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbeRequest {
    /// The method.
    pub(crate) method: Method,
    /// Begins with `/`; see [`ProbeRequest::url`].
    pub(crate) path: String,
    /// Never the token.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// JSON; empty for a GET.
    pub(crate) body: String,
    /// How to attach the token.
    pub(crate) authorization: Authorization,
}

impl ProbeRequest {
    /// The full URL under a base URL that may end in `/`.
    pub(crate) fn url(&self, base_url: &str) -> String {
        format!("{}{}", base_url.trim_end_matches('/'), self.path)
    }
}

impl Provider {
    /// Why its limits cannot be watched with this address and model, as advice for people: a
    /// fragment. `None`: they can.
    pub(crate) fn unwatched(&self, base_url: &str, model: &str) -> Option<&'static str> {
        if !self.has_address(base_url) {
            return Some("set AZURE_OPENAI_ENDPOINT");
        }
        model.is_empty().then_some("name the model with --model")
    }

    /// What to ask about a token, one after the other: at each interval, or because it is `needed`.
    /// The second question is for when the first is answered well.
    pub(crate) fn subjects(
        &self,
        base_url: &str,
        model: &str,
        needed: bool,
    ) -> impl Iterator<Item = ProbeTarget> + use<> {
        let has_address = self.has_address(base_url);
        let has_model = !model.is_empty();
        let account = self.free.is_some() && !(self.tells_limits && has_model);
        let asks_model = has_model && (self.tells_limits || needed);
        [
            (account && has_address).then_some(ProbeTarget::Account),
            (asks_model && has_address).then_some(ProbeTarget::Model),
        ]
        .into_iter()
        .flatten()
    }

    /// Whether this is an address that somebody has set, where the provider has none of its own.
    fn has_address(&self, base_url: &str) -> bool {
        base_url != self.base_url || !base_url.ends_with(NO_ADDRESS)
    }

    /// How a request carries a token.
    pub(crate) fn authorization(&self) -> Authorization {
        match self.dialect {
            Dialect::Anthropic => Authorization::XApiKey,
            Dialect::Chat(chat) => chat.authorization,
            Dialect::Gemini => Authorization::XGoogApiKey,
        }
    }

    /// Whether a token goes to this address as a bearer, too: others that serve Anthropic's messages take it so
    /// (MiniMax; NousResearch/hermes-agent#4028), or as Anthropic does (can1357/oh-my-pi#6510), and Claude Code
    /// itself sends both where a helper gives it the key.
    pub(crate) fn takes_both(&self, base_url: &str) -> bool {
        matches!(self.dialect, Dialect::Anthropic)
            && base_url.starts_with("https://")
            && !base_url.starts_with(self.base_url)
    }

    /// The request. `None` when there is nothing to ask, or the model's name cannot be one.
    pub(crate) fn probe(
        &self,
        subject: ProbeTarget,
        model: &str,
        attempt: ProbeForm,
    ) -> Option<ProbeRequest> {
        let authorization = self.authorization();
        match (subject, self.dialect) {
            (ProbeTarget::Account, _) => Some(ProbeRequest {
                method: Method::GET,
                path: self.free?.path().to_owned(),
                headers: vec![("accept", "application/json".to_owned())],
                body: String::new(),
                authorization,
            }),
            _ if model.is_empty() => None,
            (ProbeTarget::Model, Dialect::Anthropic) => Some(anthropic::probe(model, attempt)),
            (ProbeTarget::Model, Dialect::Chat(chat)) => Some(openai::probe(&chat, model, attempt)),
            (ProbeTarget::Model, Dialect::Gemini) => gemini::probe(model),
            (ProbeTarget::Traffic, _) => None,
        }
    }

    /// The form to try next, at once, when the provider refused this one for its form. `None`: the
    /// reply stands.
    pub(crate) fn next_attempt(
        &self,
        subject: ProbeTarget,
        attempt: ProbeForm,
        reply: &Reply,
    ) -> Option<ProbeForm> {
        // 422 is how compatible servers with a schema validator say 400.
        if subject != ProbeTarget::Model
            || attempt != ProbeForm::First
            || !matches!(reply.status, 400 | 422)
        {
            return None;
        }
        let is_refused_for_its_form = match self.dialect {
            Dialect::Anthropic => anthropic::refuses_first_attempt(reply),
            Dialect::Chat(chat) => openai::refuses_first_attempt(&chat, reply),
            Dialect::Gemini => false,
        };
        is_refused_for_its_form.then_some(ProbeForm::Fallback)
    }
}

/// The end of an address that stands for none: RFC 2606 keeps it from ever resolving, so a token
/// cannot end up with a stranger who registered a placeholder.
const NO_ADDRESS: &str = ".invalid";

#[cfg(test)]
mod causes_test; // each recorded reply and what it comes to

#[cfg(test)]
mod tests;
