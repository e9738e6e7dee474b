//! The user's command line: which client it starts, and the words of its first and later starts.
//!
//! Pure: it knows the rows of the table, and touches no file and no process.

use super::args::{Part, parts};
use super::{CLIENTS, Client, GENERIC_CLIENT, Uses, Variable, detect, has_any, words_of};
use crate::providers::{Provider, by_name};
use std::ffi::OsString;

/// A command line and the client that it starts.
#[derive(Clone, Debug)]
pub(crate) struct CommandLine {
    words: Vec<OsString>,
    /// Index of the client's first own argument.
    own: usize,
    client: &'static Client,
    /// Value for its `--settings`, if ddollar has some.
    settings: Option<String>,
    /// The base URL to give it as an argument, if any.
    base_url: Option<String>,
    /// Which providers it uses.
    uses: Uses,
}

impl CommandLine {
    /// Recognises the client of a command line; `name` overrides what it looks like.
    pub(crate) fn new(words: Vec<OsString>, name: Option<&str>) -> CommandLine {
        let found = detect::find(&words);
        let client = match name {
            None => found.map_or(&GENERIC_CLIENT, |(client, _)| client),
            Some(name) => CLIENTS
                .iter()
                .find(|client| client.name == name)
                .unwrap_or(&GENERIC_CLIENT),
        };
        // A named client that the line does not show is its first word.
        let place = found
            .filter(|(found, _)| std::ptr::eq(*found, client))
            .map_or(0, |(_, place)| place);
        let mut line = CommandLine {
            own: place + 1,
            words,
            client,
            settings: None,
            base_url: None,
            uses: Uses::AnyOfRow,
        };
        if name.is_none() && !line.works_on_session() {
            line.client = &GENERIC_CLIENT;
        }
        line
    }

    /// The client that it starts.
    pub(crate) fn client(&self) -> &'static Client {
        self.client
    }

    /// Whether it starts a known client.
    pub(crate) fn is_known(&self) -> bool {
        !std::ptr::eq(self.client, &GENERIC_CLIENT)
    }

    /// Whether the client may use this provider.
    pub(crate) fn uses(&self, provider: &Provider) -> bool {
        match self.uses {
            Uses::Only(name) => provider.name == name,
            _ => self.client.providers.is_empty() || self.client.providers.contains(&provider.name),
        }
    }

    /// The same line, with what the environment says about it.
    pub(crate) fn in_environment(mut self, variable: Variable) -> CommandLine {
        let parts = self.parts();
        self.uses = (self.client.uses)(&parts, variable);
        if self.uses == Uses::AnyOfRow
            && let Some((provider, _)) = self.named_model(&parts)
        {
            self.uses = Uses::Only(provider);
        }
        self
    }

    /// What the client cannot do after a restart, for people.
    pub(crate) fn cannot(&self) -> Option<&'static str> {
        (self.client.cannot)(&self.parts())
    }

    /// Whether the client uses a service of its own, for which ddollar has no token.
    pub(crate) fn uses_own_service(&self) -> bool {
        self.uses == Uses::NoneOfOurs
    }

    /// The base URL that the user has set for the client, beyond the provider's own variable.
    pub(crate) fn own_base_url(&self, provider: &Provider, variable: Variable) -> Option<String> {
        let url = self
            .uses(provider)
            .then(|| (self.client.own_base_url)(&self.parts(), variable));
        url.flatten()
    }

    /// The model of this provider that the line asks for, by its full name. Clients that can use any
    /// provider name it in the model: `anthropic/claude-opus-5-5`.
    pub(crate) fn model_on_line(&self, provider: &Provider) -> Option<String> {
        let parts = self.parts();
        if let Some((name, model)) = self.named_model(&parts) {
            return (name == provider.name).then_some(model);
        }
        let is_its_own = matches!(self.uses, Uses::Only(_)) || !self.client.providers.is_empty();
        let word = model_word(&parts).filter(|_| is_its_own && self.uses(provider))?;
        Some(self.full_model(word))
    }

    /// Provider and model of a line whose client can use any provider.
    fn named_model(&self, parts: &[Part]) -> Option<(&'static str, String)> {
        if !self.client.providers.is_empty() || std::ptr::eq(self.client, &GENERIC_CLIENT) {
            return None;
        }
        let word = model_word(parts)?;
        if let Some((prefix, model)) = word.split_once('/') {
            let name = match prefix {
                "google" | "vertex" => "gemini",
                other => other,
            };
            return Some((by_name(name)?.name, model.to_owned()));
        }
        let families = [
            ("claude-", "anthropic"),
            ("gpt-", "openai"),
            ("gemini-", "gemini"),
        ];
        let (_, name) = families
            .into_iter()
            .find(|(family, _)| word.starts_with(family))?;
        Some((name, word.to_owned()))
    }

    /// The model that the environment names for this client.
    pub(crate) fn model_in_environment(&self, variable: Variable) -> Option<String> {
        self.client.model_variable.and_then(variable)
    }

    /// The full name of a model that the client may know by a short one.
    pub(crate) fn full_model(&self, word: &str) -> String {
        // `opus[1m]` is the same model with a longer context.
        let bare = word.split('[').next().unwrap_or(word);
        let full = self.client.models.iter().find(|(short, _)| *short == bare);
        full.map_or(bare, |(_, full)| full).to_owned()
    }

    /// The model that the client asks for unless told otherwise, if known.
    pub(crate) fn default_model(&self) -> Option<String> {
        (!self.client.model.is_empty()).then(|| self.client.model.to_owned())
    }

    /// Whether ddollar has settings for it.
    pub(crate) fn has_settings(&self) -> bool {
        self.settings.is_some()
    }

    /// The user's own `--settings`: a path, or JSON.
    pub(crate) fn own_settings(&self) -> Option<OsString> {
        let parts = self.parts();
        let last = parts.iter().rev().find(|part| part.is("--settings"))?;
        last.value.clone()
    }

    /// With these settings in place of the user's own.
    pub(crate) fn with_settings(mut self, settings: String) -> CommandLine {
        self.settings = Some(settings);
        self
    }

    /// The provider whose base URL the client takes only as an argument, if there is one.
    pub(crate) fn takes_base_url_for(&self) -> Option<&'static str> {
        self.client.base_url_arguments.map(|(provider, _)| provider)
    }

    /// Whether the client uses a token from the environment only with its base URL as an argument.
    pub(crate) fn needs_base_url(&self) -> bool {
        (self.client.needs_base_url)(&self.parts())
    }

    /// The same line with this base URL as an argument, and the words that this adds.
    pub(crate) fn with_base_url(mut self, url: String) -> (CommandLine, Vec<OsString>) {
        let own = self.words.get(self.own..).unwrap_or_default().to_vec();
        self.base_url = Some(url);
        let mut added = self.led(&own);
        added.retain(|word| !own.contains(word));
        (self, added)
    }

    /// Its own arguments, with the base URL if it takes one so.
    fn led(&self, own: &[OsString]) -> Vec<OsString> {
        match (&self.base_url, self.client.base_url_arguments) {
            (Some(url), Some((_, arguments))) => arguments(&parts(own, &self.client.grammar), url),
            _ => own.to_vec(),
        }
    }

    /// Whether it starts a new session that ddollar may give an id.
    pub(crate) fn takes_session_id(&self) -> bool {
        self.own_with_session_id("").is_some()
    }

    /// All words of the first start, with this id for the session if it takes one.
    pub(crate) fn first(&self, id: Option<&str>) -> Vec<OsString> {
        let given = id.and_then(|id| self.own_with_session_id(id));
        match given {
            Some(own) => self.whole(&own, self.settings.as_deref()),
            None => self.whole(
                self.words.get(self.own..).unwrap_or_default(),
                self.settings.as_deref(),
            ),
        }
    }

    fn own_with_session_id(&self, id: &str) -> Option<Vec<OsString>> {
        (self.client.give_session_id)(&self.parts(), id)
    }

    /// The option that gives its session an id, if it takes one.
    pub(crate) fn session_option(&self) -> Option<&'static str> {
        let own = self.own_with_session_id("id")?;
        let is = |name: &str| own.iter().any(|word| word == name);
        ["--session-id", "--title"]
            .into_iter()
            .find(|name| is(name))
    }

    /// All words of a later start, which resumes this session if its id is known.
    pub(crate) fn again(&self, session: Option<&str>) -> Vec<OsString> {
        self.resumed(session, self.settings.as_deref())
    }

    /// The words of the first start as shown to the user: without what ddollar adds.
    pub(crate) fn shown_first(&self) -> &[OsString] {
        &self.words
    }

    /// The words of a later start as shown to the user: without what ddollar adds.
    pub(crate) fn shown_again(&self, session: Option<&str>) -> Vec<OsString> {
        self.resumed(session, None)
    }

    /// Whether a later start goes on with the session, whose id may be known.
    pub(crate) fn resumes(&self, session: Option<&str>) -> bool {
        (self.client.resume)(&self.parts(), session).is_some()
    }

    fn resumed(&self, session: Option<&str>, settings: Option<&str>) -> Vec<OsString> {
        match (self.client.resume)(&self.parts(), session) {
            Some(own) => self.whole(&own, settings),
            None => self.whole(self.words.get(self.own..).unwrap_or_default(), settings),
        }
    }

    /// Wrapper and program, ddollar's arguments and settings, then these arguments.
    fn whole(&self, own: &[OsString], settings: Option<&str>) -> Vec<OsString> {
        let mut all = self.words.get(..self.own).unwrap_or_default().to_vec();
        let own = &self.led(own);
        let Some(settings) = settings else {
            all.extend_from_slice(own);
            return all;
        };
        all.extend(["--settings".into(), settings.into()]);
        let rest = parts(own, &self.client.grammar);
        all.extend(words_of(rest.iter().filter(|part| !part.is("--settings"))));
        all
    }

    fn parts(&self) -> Vec<Part> {
        parts(
            self.words.get(self.own..).unwrap_or_default(),
            &self.client.grammar,
        )
    }

    /// Whether the client works on a session, unlike `claude update`.
    fn works_on_session(&self) -> bool {
        let parts = self.parts();
        !has_any(&parts, "--help --version") && self.client.works_on_session(&parts)
    }
}

/// The value of a line's `--model`.
fn model_word(parts: &[Part]) -> Option<&str> {
    let found = parts.iter().rev().find(|part| part.is("--model"));
    found.and_then(Part::text)
}
