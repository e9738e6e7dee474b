//! The user's command line: which client it starts, and the words of its first and later starts.
//!
//! Pure: it knows the rows of the table, and touches no file and no process.

use super::args::{Part, parts};
use super::{CLIENTS, Client, GENERIC_CLIENT, detect, words_of};
use crate::providers::Provider;
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
    /// Arguments of ddollar's that go before its own.
    arguments: Vec<OsString>,
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
            arguments: Vec::new(),
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

    /// Whether the client may use this provider.
    pub(crate) fn uses(&self, provider: &Provider) -> bool {
        self.client.providers.is_empty() || self.client.providers.contains(&provider.name)
    }

    /// The model that the line asks for, by its full name. Clients that can use any provider have
    /// names of their own for models.
    pub(crate) fn model_on_line(&self) -> Option<String> {
        if self.client.providers.is_empty() {
            return None;
        }
        let parts = self.parts();
        let word = parts
            .iter()
            .find(|part| part.is("--model"))
            .and_then(Part::text)?;
        Some(self.full_model(word))
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

    /// With these arguments before its own.
    pub(crate) fn with_arguments(mut self, arguments: Vec<OsString>) -> CommandLine {
        self.arguments = arguments;
        self
    }

    /// Whether it starts a new session that ddollar may give an id.
    pub(crate) fn takes_session_id(&self) -> bool {
        (self.client.takes_session_id)(&self.parts())
    }

    /// All words of the first start, with this id for the session if it takes one.
    pub(crate) fn first(&self, id: Option<&str>) -> Vec<OsString> {
        let mut own = self.words.get(self.own..).unwrap_or_default().to_vec();
        if let Some(id) = id.filter(|_| self.takes_session_id()) {
            own.splice(..0, ["--session-id".into(), id.into()]);
        }
        self.whole(&own, self.settings.as_deref())
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

    fn resumed(&self, session: Option<&str>, settings: Option<&str>) -> Vec<OsString> {
        match (self.client.resume)(&self.parts(), session) {
            Some(own) => self.whole(&own, settings),
            None => self.whole(self.words.get(self.own..).unwrap_or_default(), settings),
        }
    }

    /// Wrapper and program, ddollar's arguments and settings, then these arguments.
    fn whole(&self, own: &[OsString], settings: Option<&str>) -> Vec<OsString> {
        let mut all = self.words.get(..self.own).unwrap_or_default().to_vec();
        all.extend_from_slice(&self.arguments);
        let Some(settings) = settings else {
            all.extend_from_slice(own);
            return all;
        };
        all.extend(["--settings".into(), settings.into()]);
        let rest = parts(own, self.client.grammar);
        all.extend(words_of(rest.iter().filter(|part| !part.is("--settings"))));
        all
    }

    fn parts(&self) -> Vec<Part> {
        parts(
            self.words.get(self.own..).unwrap_or_default(),
            self.client.grammar,
        )
    }

    /// Whether the client works on a session, unlike `claude update`.
    fn works_on_session(&self) -> bool {
        let parts = self.parts();
        let has = |name: &str| parts.iter().any(|part| part.is(name));
        !has("--help") && !has("--version") && (self.client.works_on_session)(&parts)
    }
}
