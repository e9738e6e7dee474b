//! Every sentence that a user sees while a command is supervised.
//!
//! Owns the words and the marks before them; how times and spans read is in `wording.rs`. It promises
//! plain text: one [`RunEvent`] in, lines out, no token among them. It does not print; `console.rs`
//! does. Errors have their own words in `error.rs`.

use crate::common::duration::{compact, spaced};
use crate::events::wording::{
    how_it_ended, local, name_of_signal, percent, rough, short, token_names, window_words, windows,
};
use crate::events::{AfterStall, Limit, RunEvent, TokenRef};
use crate::providers::Finding;
use crate::providers::usage::Window;
use crate::tokens::condition::ProbeFailure;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

type Text = Cow<'static, str>;

/// What people are told of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) mark: Mark,
    pub(crate) text: Text,
}

/// The mark at the start of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    None,
    Done,
    Next,
    Warning,
    Failure,
}

impl Mark {
    /// The mark and the space after it.
    pub(crate) fn text(self, utf8: bool) -> &'static str {
        match (self, utf8) {
            (Mark::None, _) => "",
            (Mark::Done, true) => "✓ ",
            (Mark::Done, false) => "* ",
            (Mark::Next, true) => "▶  ",
            (Mark::Next, false) => "> ",
            (Mark::Warning, true) => "⚠️  ",
            (Mark::Warning, false) => "! ",
            (Mark::Failure, true) => "✗ ",
            (Mark::Failure, false) => "x ",
        }
    }
}

impl Message {
    fn new(mark: Mark, text: Text) -> Message {
        Message { mark, text }
    }
}

fn plain(text: impl Into<Text>) -> Message {
    Message::new(Mark::None, text.into())
}

fn done(text: impl Into<Text>) -> Message {
    Message::new(Mark::Done, text.into())
}

fn next(text: impl Into<Text>) -> Message {
    Message::new(Mark::Next, text.into())
}

fn warning(text: impl Into<Text>) -> Message {
    Message::new(Mark::Warning, text.into())
}

fn failure(text: impl Into<Text>) -> Message {
    Message::new(Mark::Failure, text.into())
}

impl RunEvent {
    /// Whether an empty line goes before it, because a new chapter begins.
    pub(crate) fn opens_chapter(&self) -> bool {
        matches!(self, RunEvent::Limit { .. })
    }

    /// Whether an empty line goes after it, because the command has the word now (the owner's
    /// transcripts).
    pub(crate) fn ends_chapter(&self) -> bool {
        matches!(self, RunEvent::Launching { first: true, .. })
    }

    /// Whether the answer goes on the same line.
    pub(crate) fn is_question(&self) -> bool {
        matches!(self, RunEvent::AskRotate(..) | RunEvent::AskExhausted)
    }

    /// What people are told of it, if they are: one line, but for a question.
    pub(crate) fn message(&self) -> Option<Message> {
        Some(match self {
            // Other events tell people as much, in their own place.
            RunEvent::Launched { .. }
            | RunEvent::Seen { .. }
            | RunEvent::Spent { .. }
            | RunEvent::Checked {
                reading: Err(_), ..
            }
            | RunEvent::Paused
            | RunEvent::Resumed
            | RunEvent::Stopping
            | RunEvent::Exited { .. } => return None,
            RunEvent::Discovering => plain("Discovering API tokens..."),
            RunEvent::Starting => plain("Starting supervision mode..."),
            RunEvent::Loaded { tokens, providers } => done(format!(
                "Loaded {tokens} token(s) across {providers} provider(s)"
            )),
            RunEvent::Withheld(variables) => {
                done(format!("Kept from the command by --provider: {variables}"))
            }
            RunEvent::Watching => plain("   --provider limits the run to some of them"),
            RunEvent::BehindProxy { provider, address } => done(format!(
                "{}: this shell uses the ddollar proxy at {address}; what follows is the \
                     token that the proxy takes now",
                provider.label
            )),
            RunEvent::Tokens {
                provider,
                names,
                duplicates,
            } => {
                let mut text = format!("   {}", token_names(provider.label, names));
                if !duplicates.is_empty() {
                    let _ = write!(text, "; duplicates dropped: {}", duplicates.join(", "));
                }
                plain(text)
            }
            RunEvent::UnreadVariable { name, variable } => warning(format!(
                "{name} is not read: more tokens go into {variable}_2, _3, ..."
            )),
            RunEvent::SetAside(provider) => {
                next(format!("The command goes on without {}", provider.label))
            }
            RunEvent::ExposedFile { path, fix } => {
                warning(format!("Others can read or write '{path}' (fix: {fix})"))
            }
            RunEvent::TokensChanged { here, gone } => {
                let mut text = "The token file has changed".to_owned();
                for (what, tokens) in [("new", here), ("gone", gone)] {
                    for token in tokens {
                        let _ = write!(text, "; {what}: {}{}", token.prefix(), token.words());
                    }
                }
                done(text)
            }
            RunEvent::UnusedFile {
                variable,
                path,
                why,
            } => warning(format!("{variable} '{path}' is not used: {why}")),
            RunEvent::Unwatched {
                provider,
                why: Some(why),
            } => warning(format!(
                "{}: its limits are not watched; {why}",
                provider.label
            )),
            RunEvent::Unwatched {
                provider,
                why: None,
            } => plain(format!(
                "{} does not announce its limits; ddollar acts on its errors",
                provider.label
            )),
            RunEvent::Client { name, added } => done(format!("{name}: with {added}")),
            RunEvent::NoHooks(why) => warning(format!("The command's --settings {why}: no hooks")),
            RunEvent::OtherCredential(variable) => warning(format!(
                "{variable} is set: the command may prefer it to a token"
            )),
            RunEvent::NoState => {
                plain("No state is kept: neither XDG_STATE_HOME nor HOME names a folder")
            }
            RunEvent::StartsWith(token) => next(format!(
                "{}Starting with {}: those before it are spent or in use",
                token.prefix(),
                token.numbered()
            )),
            RunEvent::MonitorStarted(interval) => done(format!(
                "Monitor started (checking limits every {})",
                compact(*interval)
            )),
            RunEvent::Launching { command, .. } => next(format!("Launching: {command}")),
            RunEvent::SessionResumed => done("Session resumed"),
            RunEvent::Repeated(tokens) => {
                let each: Vec<String> = tokens.iter().map(|token| token.place()).collect();
                let with = if each.is_empty() { "" } else { " with " };
                let text = format!("Restarted the same command{with}{}", each.join(" and "));
                done(text)
            }
            RunEvent::InputIsReadOnce => {
                warning("Standard input is a pipe: a second start finds only what is left in it")
            }
            RunEvent::Limit {
                token,
                limit: Limit::Rejected,
                said,
                ..
            }
            | RunEvent::Rejected { token, said } => {
                let origin = token.name.split_once(", ");
                let (end, origin) = origin.unwrap_or(("", token.name));
                let mut text = format!(
                    "{} rejected {} {end}",
                    token.provider.label,
                    token.numbered()
                );
                let from = if end.is_empty() { "from" } else { " from" };
                // Writing to a String cannot fail.
                let _ = write!(text, "{from} {origin}");
                if let Some(said) = said {
                    let _ = write!(text, ": {said}");
                }
                warning(text)
            }
            RunEvent::Limit { token, limit, .. } => {
                warning(format!("{}{}", token.prefix(), limit.words(token.number())))
            }
            RunEvent::Stalled {
                span,
                sees_requests,
                ..
            } => {
                let requests = if *sees_requests { "no request, " } else { "" };
                let span = spaced(*span);
                warning(format!(
                    "The command has stalled: {requests}no processor time for {span}"
                ))
            }
            RunEvent::AutoRotating => next("Auto-rotating to next token..."),
            RunEvent::Switched(token) => next(format!(
                "{}Switched to {}",
                token.prefix(),
                token.numbered()
            )),
            RunEvent::TurnFailed => {
                next("The command has given up on a busy provider: starting it again")
            }
            RunEvent::NoNextToken => next("No next token available"),
            RunEvent::AllExhausted => warning("All tokens exhausted!"),
            RunEvent::WaitingForReset {
                token,
                span,
                at,
                now,
                ..
            } => next(format!(
                "{}Waiting for limits to reset ({}{})... {} at {}",
                token.prefix(),
                // With a name before it, the line would be too wide.
                if token.several { "" } else { "approximately " },
                rough(*span),
                token.numbered(),
                local(*at, *now)
            )),
            RunEvent::HoldOver {
                token,
                abandoned: false,
            } => done(format!(
                "{}Held requests go on with {}",
                token.prefix(),
                token.numbered()
            )),
            RunEvent::HoldOver {
                token,
                abandoned: true,
            } => plain(format!("{}No request is held any longer", token.prefix())),
            RunEvent::WaitingForProvider {
                provider,
                span,
                at_most,
                ..
            } => {
                let end =
                    at_most.map_or(String::new(), |most| format!(" for up to {}", spaced(most)));
                next(format!(
                    "Waiting until {} answers, next try in {}...{end}",
                    provider.label,
                    spaced(*span)
                ))
            }
            RunEvent::StillWaiting { span, at, now } => next(format!(
                "Waiting: {} left, until {}",
                spaced(*span),
                local(*at, *now)
            )),
            RunEvent::Pausing(span) => next(format!("Pausing subprocess for {}...", spaced(*span))),
            RunEvent::Resuming => next("Resuming subprocess..."),
            RunEvent::SessionContinued => done("Session continued"),
            RunEvent::ForcingKill => plain("Subprocess didn't exit cleanly, forcing kill..."),
            RunEvent::StoppedByHand => {
                warning("The command was stopped by SIGSTOP; SIGCONT lets it go on")
            }
            RunEvent::ContinuedByHand => {
                next("The command was continued by someone else; going on")
            }
            RunEvent::NeedsTerminal => {
                warning("The command is stopped: it needs the terminal, which another program has")
            }
            RunEvent::Unkillable(left) => failure(format!(
                "{left} process(es) of the command survive SIGKILL; nothing more is started"
            )),
            RunEvent::NotReadAgain(path) => plain(format!(
                "   '{path}' is not a regular file, and is not read again for new tokens"
            )),
            RunEvent::Warning(what) => warning(what.clone()),
            RunEvent::NotStarted(why) => warning(format!(
                "The command cannot be started ({why}); trying again"
            )),
            RunEvent::AskRotate(span) => {
                let wait = span.map_or(String::new(), |span| {
                    format!("2) Wait for limit to reset ({})\n  ", spaced(span))
                });
                plain(format!(
                    "\nWhat would you like to do?\n  \
                     1) Rotate to next token and continue\n  \
                     {wait}3) Exit and save state\n  \
                     4) Keep going (may hit 429 errors)\n\nChoice [1]: "
                ))
            }
            RunEvent::AskExhausted => plain(
                "\nWhat would you like to do?\n  \
                 1) Wait for limits to reset\n  \
                 2) Exit and save state\n\nChoice [1]: ",
            ),
            RunEvent::NoSuchChoice => warning("No such choice"),
            RunEvent::NoAnswer => {
                warning("No answer: type a number, then Enter; Ctrl-C ends the command")
            }
            RunEvent::KeepingOn => next("Going on until the limit resets or the token is refused"),
            RunEvent::Saved { .. } => {
                done("Stopped before the command finished; run it again to continue")
            }
            RunEvent::EndedBySignal(how) => {
                warning(format!("{}, after a signal to ddollar", how_it_ended(*how)))
            }
            RunEvent::StoppedBySignal(signal) => {
                warning(format!("Stopped by {}", name_of_signal(*signal)))
            }
            RunEvent::Summary {
                rotations,
                waited,
                worked,
                kept,
            } => {
                let plural = if *rotations == 1 { "" } else { "s" };
                let report = if *kept { "; ddollar report" } else { "" };
                // To the nearest second, as in the report.
                let span = |span: Duration| rough(span.saturating_sub(Duration::from_millis(500)));
                plain(format!(
                    "   {rotations} rotation{plural}, waited {}, {} of work{report}",
                    span(*waited),
                    span(*worked)
                ))
            }
            RunEvent::Completed => done("Process completed successfully"),
            RunEvent::Unrehearsed => {
                warning("The command ended before the first limit, so nothing was rehearsed")
            }
            RunEvent::Failed(how) => failure(how_it_ended(*how)),
            RunEvent::Retrying { number, of, span } => next(format!(
                "Starting it again in {} (retry {number} of {of})...",
                spaced(*span)
            )),
            RunEvent::ShortLives => {
                failure("Three starts in a row died within 2s; not starting it again")
            }
            RunEvent::NeverHeard => {
                failure("The provider has never answered; check the network and the base URL")
            }
            RunEvent::NoneLeft(provider) => failure(format!(
                "No {} token is left that can recover; run it again when one can",
                provider.label
            )),
            RunEvent::ModelSpent {
                token,
                model,
                at,
                now,
            } => warning(format!(
                "{}No token for {model} until {} (token {}); the rest goes on",
                token.prefix(),
                local(*at, *now),
                token.number(),
            )),
            RunEvent::TooLong { index, at, now } => {
                let who = index.map_or(String::new(), |index| format!(" (token {})", index + 1));
                failure(format!(
                    "The earliest reset{who} is {}, beyond --max-wait; try again then",
                    local(*at, *now)
                ))
            }
            RunEvent::FellBack { token, model, to } => {
                let prefix = token.prefix();
                match to {
                    Some(to) => warning(format!("{prefix}{model} is spent: requests go to {to}")),
                    None => next(format!("{prefix}Requests go to {model} again")),
                }
            }
            RunEvent::MaxTokens { spent, most } => failure(format!(
                "--max-tokens {} is reached: {} LLM tokens used; run it again to go on",
                short(*most),
                short(*spent)
            )),
            RunEvent::Silent {
                provider,
                silence,
                why,
            } => {
                let why = why
                    .as_ref()
                    .map_or(String::new(), |why| format!(" ({why})"));
                warning(format!("{} {}{why}", provider.label, silence.words()))
            }
            RunEvent::AnswersAgain(provider) => done(format!("{} answers again", provider.label)),
            RunEvent::Unclear { provider, why } => {
                warning(format!("{} shows no limits: {why}", provider.label))
            }
            RunEvent::Quotas {
                provider,
                tokens,
                quotas: 1,
            } => warning(format!(
                "{}: {tokens} tokens, 1 quota: rotating cannot help",
                provider.label
            )),
            RunEvent::Quotas {
                provider,
                tokens,
                quotas,
            } => warning(format!(
                "{}: {tokens} tokens, {quotas} quotas: rotating helps between these",
                provider.label
            )),
            RunEvent::MonitorLost => {
                warning("The monitor has stopped; the command goes on without it")
            }
            RunEvent::ThroughProxy {
                added,
                does_without,
            } => {
                let lost = does_without.map_or(String::new(), |what| format!("; no {what}"));
                done(format!("Through it: {added}{lost}"))
            }
            RunEvent::Offered { address, .. } => plain(format!(
                "   At a limit, tokens change in the proxy at {address}, or by a restart"
            )),
            RunEvent::InPlace => done("Requests come through the proxy: no restart for a limit"),
            RunEvent::NotThrough => {
                plain("No request came through the proxy; a restart would do without it")
            }
            RunEvent::ProxyListening(address) => done(format!("Proxy listens on http://{address}")),
            RunEvent::ProxyLines(path) => next(format!("In a shell: . '{path}'")),
            RunEvent::ProxyStopping(span) => next(format!(
                "Stopping: answers under way may end within {}",
                spaced(*span)
            )),
            RunEvent::Circle => {
                failure("Requests come back to this proxy: a provider's address leads here")
            }
            RunEvent::ProxyStopped => done("Proxy stopped"),
            RunEvent::WorkUnits {
                done,
                open,
                finished,
                repeated,
            } => {
                let (mark, word) = match (open, finished) {
                    (0, true) => (Mark::Done, "lost"),
                    (_, true) => (Mark::Failure, "lost"),
                    (_, false) => (Mark::None, "not done"),
                };
                let words = format!("Work units: {done} done, {open} {word}, {repeated} repeated");
                Message::new(mark, words.into())
            }
            RunEvent::Checked {
                token,
                reading: Ok(reading),
            } => {
                let numbers = match (reading.usage.windows.is_empty(), &reading.finding) {
                    (false, _) => windows(&reading.usage),
                    (true, Finding::Served) => "no limits advertised".into(),
                    (true, _) => "no numbers came back".into(),
                };
                let text = format!(
                    "Monitor: {} - {numbers} [token {}]",
                    token.provider.label,
                    token.number()
                );
                plain(text)
            }
        })
    }
}

impl RunEvent {
    /// A line of its own below the message. Which token it is about, for those who have several, and with
    /// `now` when it is usable again, if that is known; or what follows, or is kept.
    pub(crate) fn detail(&self, now: Option<SystemTime>) -> Option<String> {
        if let RunEvent::Saved { kept: true } = self {
            return Some("saved: which tokens are spent, and until when".into());
        }
        if let RunEvent::Stalled { then, .. } = self {
            return Some(then.words());
        }
        let RunEvent::Limit {
            token,
            limit,
            scope,
            until,
            window,
            said,
        } = self
        else {
            return None;
        };
        if *limit == Limit::Rejected {
            return None;
        }
        let mut line = token.and_why(said.as_deref());
        // Writing to a String cannot fail.
        if let Some(scope) = scope {
            let _ = write!(line, "; for {scope}");
        }
        let mut ends = "; until";
        if let Some(Window {
            name, utilization, ..
        }) = window
        {
            let (what, percent) = (window_words(name), percent(*utilization));
            let _ = write!(line, "; {what}, {percent}% used");
            ends = ", resets";
        }
        if let (Some(at), Some(now)) = (until, now) {
            let _ = write!(line, "{ends} {}", local(*at, now));
        }
        Some(line)
    }
}

impl AfterStall {
    fn words(self) -> String {
        match self {
            AfterStall::Restart { number, of } => {
                format!("it is ended and restarted in its session ({number} of {of})")
            }
            AfterStall::NoSession => "it is left alone: there is no session to resume".into(),
            AfterStall::GivenUp => "it is left alone: starting it again did not help".into(),
        }
    }
}

impl TokenRef {
    /// `token 2/3 …x2Lp, ANTHROPIC_API_KEY_2`
    pub(crate) fn words(self) -> String {
        let line = format!("{} {}", self.numbered(), self.name);
        line.trim_end().to_owned()
    }

    /// The same with a reason behind it, if there is one.
    pub(crate) fn and_why(self, why: Option<&str>) -> String {
        match why {
            Some(why) => format!("{}: {why}", self.words()),
            None => self.words(),
        }
    }

    /// `token 2/3`
    fn numbered(self) -> String {
        format!("token {}/{}", self.number(), self.of)
    }

    /// `token 2/3`, or `Anthropic 2/3` where there are several providers.
    fn place(self) -> String {
        match self.several {
            true => format!("{} {}/{}", self.provider.label, self.number(), self.of),
            false => self.numbered(),
        }
    }

    /// The name of its provider before a sentence, where there are several.
    fn prefix(self) -> String {
        match self.several {
            true => format!("{}: ", self.provider.label),
            false => String::new(),
        }
    }
}

impl Limit {
    /// The words for it; tokens are counted from 1.
    fn words(self, token: usize) -> String {
        match self {
            Limit::Near { used } => {
                format!("Token limit approaching ({}% used)", percent(used))
            }
            Limit::Reached => "Token limit reached".into(),
            Limit::SpendCap => format!("Spend cap of token {token} reached"),
            Limit::Rejected => format!("Token {token} rejected"),
            Limit::Removed => format!("Token {token} is no longer in its file"),
        }
    }
}

impl ProbeFailure {
    fn words(self) -> &'static str {
        match self {
            ProbeFailure::Overloaded => "is overloaded",
            ProbeFailure::OutOfReach => "cannot be reached",
            ProbeFailure::Doubtful => "rejects a token, perhaps by mistake; asking again",
        }
    }
}

#[cfg(test)]
mod tests;
