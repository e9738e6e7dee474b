//! The starts of the command: its words, its session, its environment and its tokens.
//!
//! Owns the command line and the user's own line for every start after the first, and knows which
//! session the client works on. It promises that the child's environment holds the tokens in use and
//! those that the user passes through, and no other. It starts nothing; the job does.

use crate::cli::config::Config;
use crate::clients::hook_server::{self, HookEvent, HookServer};
use crate::clients::session::SessionTracker;
use crate::clients::{self, CommandLine};
use crate::common::Environment;
use crate::common::error::Error;
use crate::common::time::Now;
use crate::events::RunEvent;
use crate::supervisor::session::Session;
use crate::system::job::Start;
use crate::system::os::PrivateFile;
use crate::system::standard_input::{StandardInput, StatusFlags};
use crate::tokens::{self, Token, TokenPool};
use crossbeam_channel::Sender;
use std::ffi::OsString;
use std::time::Duration;

/// Tells a command that can use any provider whose token it has.
const PROVIDER: &str = "DDOLLAR_PROVIDER";

/// What names the organization and the project of one token of OpenAI's, the first. With another
/// organization's token OpenAI refuses them (401, `mismatched_organization`).
const OWNERS: [&str; 4] = [
    "OPENAI_ORG_ID",
    "OPENAI_ORGANIZATION",
    "OPENAI_PROJECT_ID",
    "OPENAI_PROJECT",
];

/// What is needed to start the command, at first and again.
pub(super) struct Launcher {
    command: CommandLine,
    /// The user's own line for every start after the first.
    again: Option<CommandLine>,
    /// What these lines name.
    _files: Vec<PrivateFile>,
    environment: Environment,
    /// The same with the proxy's address, as long as the command may take it.
    offered: Option<Environment>,
    hook_server: Option<HookServer>,
    /// What every start of a command reads that is not a known client; those have their session.
    input: Option<StandardInput>,
    /// What the standard streams were at the first start.
    flags: StatusFlags,
    /// The session that the client works on.
    sessions: SessionTracker,
    /// Whether the command can use any provider, and is told which.
    mixed: bool,
    /// Tokens that the child gets whatever happens.
    passthrough: Vec<Token>,
    /// What the child gets in place of the tokens in use, behind a proxy.
    placeholders: Option<Vec<Token>>,
    /// What the command is called in place of its line.
    name: Option<String>,
    /// Whether it was said that variables are left out.
    said_left_out: bool,
}

/// The words of the next start.
pub(super) struct Line {
    words: Vec<OsString>,
    /// As people read them.
    pub(super) shown: String,
    /// The program, as messages call it.
    name: String,
    /// The message for when it has started again.
    pub(super) told: Option<RunEvent>,
}

impl Launcher {
    /// The launcher of this run. What the command's client reports goes to `hooks`.
    ///
    /// # Errors
    /// The system has no room for a socket or a thread.
    pub(super) fn new(
        config: &mut Config,
        placeholders: Option<Vec<Token>>,
        offered: Option<Environment>,
        hooks: Sender<HookEvent>,
    ) -> Result<Launcher, Error> {
        let mut environment = std::mem::take(&mut config.environment);
        let mut hook_server = None;
        if config.calls_back {
            let server = HookServer::listen(hooks).map_err(|error| Error::System {
                what: "cannot listen for the command",
                why: error.to_string(),
            })?;
            environment.push((hook_server::VARIABLE.into(), server.address().into()));
            hook_server = Some(server);
        }
        Ok(Launcher {
            command: config.command.clone(),
            again: config.again.take(),
            _files: std::mem::take(&mut config.files),
            environment,
            offered,
            hook_server,
            input: (!config.command.is_known()).then(StandardInput::look),
            flags: StatusFlags::look(),
            sessions: SessionTracker::default(),
            mixed: config.mixed,
            passthrough: std::mem::take(&mut config.passthrough),
            placeholders,
            name: config.name.take(),
            said_left_out: false,
        })
    }

    /// Whether to warn now that standard input can be read only once; true once at most.
    pub(super) fn warns_of_input(&mut self, again: bool) -> bool {
        let input = self.input.take_if(|input| input.is_read_once(again));
        input.is_some()
    }

    /// The command as people read it, with the text of no token.
    pub(super) fn shown_first(&self, session: &Session) -> String {
        self.shown(self.command.shown_first(), session)
    }

    /// The words of the next start.
    pub(super) fn line(&mut self, again: bool, session: &Session, now: Now) -> Line {
        let (words, shown) = match (&self.again, again) {
            (Some(line), true) => (line.first(None), line.shown_first().to_vec()),
            (None, true) => match self.client_session() {
                Some((_, false)) => self.anew(now),
                session => {
                    let id = session.as_ref().map(|(id, _)| id.as_str());
                    (self.command.again(id), self.command.shown_again(id))
                }
            },
            (_, false) => self.anew(now),
        };
        let name = self.shown(words.get(..1).unwrap_or_default(), session);
        Line {
            told: again.then(|| self.told(session)),
            shown: self.shown(&shown, session),
            words,
            name,
        }
    }

    /// What a start after the first is: the same session, where the user or the client has a way to go on
    /// with it, and else the same command from its beginning.
    fn told(&self, session: &Session) -> RunEvent {
        let known = self.client_session().filter(|(_, has_begun)| *has_begun);
        let id = known.as_ref().map(|(id, _)| id.as_str());
        // A worker with a name is the rehearsal's own, which goes on where it was.
        if self.again.is_some() || self.name.is_some() || self.command.resumes(id) {
            return RunEvent::SessionResumed;
        }
        if self.command.is_known() {
            let client = self.command.client().name;
            return RunEvent::Warning(format!(
                "{client}: no session is known to resume, so the command begins anew"
            ));
        }
        let rings = 0..session.pools().count();
        let tokens = rings.filter(|_| self.placeholders.is_none());
        RunEvent::Repeated(
            tokens
                .filter_map(|ring| session.token(ring, None))
                .collect(),
        )
    }

    /// Those of [`OWNERS`] that are set and not for the token in use.
    fn left_out(&self, session: &Session) -> Vec<&'static str> {
        let is_owned = |token: &Token| token.provider.name == "openai";
        let is_another = |pool: &TokenPool| {
            let first = pool.tokens().position(is_owned);
            is_owned(pool.current()) && first != Some(pool.current_index())
        };
        // A proxy leaves them out where they do not fit.
        if self.placeholders.is_some() || !session.pools().any(is_another) {
            return Vec::new();
        }
        let is_set = |name: &&str| self.environment.iter().any(|(other, _)| other == name);
        OWNERS.into_iter().filter(is_set).collect()
    }

    /// What is to be said of them, the first time that there are any.
    pub(super) fn warns_of_left_out(&mut self, session: &Session) -> Option<RunEvent> {
        let names = self.left_out(session).join(", ");
        let is_first = !names.is_empty() && !std::mem::replace(&mut self.said_left_out, true);
        is_first.then(|| {
            RunEvent::Warning(format!(
                "{names}: only for the first token, which may be another organization's"
            ))
        })
    }

    /// The start of this line with the tokens in use.
    pub(super) fn start<'a>(
        &'a mut self,
        line: &'a Line,
        again: bool,
        session: &'a Session,
    ) -> Start<'a> {
        if self.mixed {
            let provider = session.pools().next().map(|pool| pool.current().provider);
            let named = provider.map(|provider| (PROVIDER.into(), provider.name.into()));
            self.environment.retain(|(name, _)| name != PROVIDER);
            self.environment.extend(named);
        }
        if again {
            self.flags.restore();
            if let Some(input) = self.input {
                input.rewind();
            }
        }
        let in_use = || {
            let given = self.placeholders.iter().flatten();
            let own = session.pools().map(TokenPool::current);
            given.chain(own.filter(|_| self.placeholders.is_none()))
        };
        if let Some(server) = &self.hook_server {
            let hooked = in_use().find(|token| token.provider.name == clients::HOOKED_PROVIDER);
            server.hand_out(hooked.map(|token| token.secret.clone()));
        }
        let tokens = in_use().chain(&self.passthrough).flat_map(|token| {
            let names = token.variables.iter();
            names.map(|name| (*name, &token.secret))
        });
        Start {
            words: &line.words,
            name: line.name.clone(),
            tokens: tokens.collect(),
            environment: self.offered.as_ref().unwrap_or(&self.environment),
            left_out: self.left_out(session),
            again,
        }
    }

    /// Leaves the proxy's address out of every start that follows. Whether it was there.
    pub(super) fn withdraw(&mut self) -> bool {
        self.offered.take().is_some()
    }

    /// The id of the session that the command works on, if that is known, and whether it has begun.
    fn client_session(&self) -> Option<(String, bool)> {
        let told = self.hook_server.as_ref().and_then(HookServer::session);
        // Hooks may be turned off; then the id is the one that it was given.
        told.or_else(|| self.sessions.session(&self.command, &self.environment))
    }

    /// Whether there is something to go on with: the client's session, or the user's own line.
    pub(super) fn can_resume(&mut self) -> bool {
        self.find_session();
        self.again.is_some() || matches!(self.client_session(), Some((_, true)))
    }

    /// Looks for the session of the running client when it is time to. Returns when it will again.
    pub(super) fn tick(&mut self, now: Now) -> Option<Duration> {
        self.sessions.tick(&self.command, &self.environment, now)
    }

    /// Looks for it now, because the client may be about to end.
    pub(super) fn find_session(&mut self) {
        self.sessions.look(&self.command, &self.environment);
    }

    /// The words that begin the work, and as people read them. Each session has an id of its own: one
    /// that the client knows already, it refuses.
    fn anew(&mut self, now: Now) -> (Vec<OsString>, Vec<OsString>) {
        let id = match self.again {
            Some(_) => None,
            None => self.sessions.begin(&self.command, now),
        };
        let words = self.command.first(id);
        (words, self.command.shown_first().to_vec())
    }

    fn shown(&self, words: &[OsString], session: &Session) -> String {
        self.name.clone().unwrap_or_else(|| {
            let known = session.pools().flat_map(TokenPool::tokens);
            tokens::shown(words, known.chain(&self.passthrough))
        })
    }
}
