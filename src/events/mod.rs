//! What happened in a run, and who is informed of it.
//!
//! The session, the proxy and the configuration emit what happened as [`RunEvent`]s, with typed fields.
//! `message` has the words for people, `wording` how times and counts read in them, `console` prints
//! them, `recorder` and `schema` make lines of the journal of them, and `reporter` passes them to the
//! journal, a command of the user's (`notify`) and the service manager (`systemd`).

pub(crate) mod console;
pub(crate) mod journal;
pub(crate) mod message;
pub(crate) mod notify;
mod recorder;
pub(crate) mod reporter;
pub(crate) mod schema;
pub(crate) mod systemd;
pub(crate) mod token_status;
pub(crate) mod wording;

use crate::providers::meter::Spent;
use crate::providers::usage::{Usage, Window};
use crate::providers::{Provider, Reading};
use crate::system::exit_status::ExitStatus;
use crate::tokens::condition::{Condition, ProbeFailure, TokenState};
use crate::tokens::{Renewal, TokenId, TokenPool};
use std::time::{Duration, SystemTime};

/// A token as people and records name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenRef {
    pub(crate) id: TokenId,
    /// How many tokens its ring has.
    pub(crate) of: usize,
    /// Who issued it.
    pub(crate) provider: &'static Provider,
    /// Whether the run has other rings, so that people need the provider's name.
    pub(crate) several: bool,
    /// By what its owner knows it.
    pub(crate) name: &'static str,
}

impl TokenRef {
    /// The token at `id` in its ring's `pool`; `several`: the run has other rings.
    pub(crate) fn new(pool: &TokenPool, id: TokenId, several: bool) -> TokenRef {
        TokenRef {
            id,
            of: pool.len(),
            provider: pool.token(id.index).provider,
            several,
            name: pool.token(id.index).name,
        }
    }

    /// Its number in its ring, from 1, as people and records count.
    pub(crate) fn number(self) -> usize {
        self.id.index + 1
    }
}

/// Something that happened in a run.
///
/// The first group becomes lines of the journal; of the others only those of
/// [`Severity::Warning`] do, as notes. Indices count from 0; people read them from 1.
#[derive(Clone, Debug)]
pub(crate) enum RunEvent {
    // ---- with a line of their own in the journal ----
    /// The first start passes over tokens that are known to be spent, or that other runs use.
    StartsWith(TokenRef),
    /// The command is about to be started with the tokens in use.
    Launched {
        again: bool,
    },
    /// A provider was asked about a token: what came back, or why nothing did.
    Checked {
        token: TokenRef,
        reading: Result<Reading, String>,
    },
    /// The command's own traffic tells how full a token is.
    Seen {
        token: TokenRef,
        usage: Usage,
    },
    /// What answers with a token have cost by now.
    Spent {
        token: TokenRef,
        model: String,
        spent: Spent,
    },
    /// Why the token in use will not do.
    Limit {
        token: TokenRef,
        limit: Limit,
        /// The model or kind of endpoint that it holds for, where that is known and not for all.
        scope: Option<String>,
        /// When it is usable again, if that is known.
        until: Option<SystemTime>,
        /// The window that is full, if one is.
        window: Option<Window>,
        /// What the provider says of it.
        said: Option<String>,
    },
    /// The provider does not accept this token, which is not the one in use.
    Rejected {
        token: TokenRef,
        said: Option<String>,
    },
    /// The command goes on with this token.
    Switched(TokenRef),
    /// No token is usable before `at`; this one is the first.
    WaitingForReset {
        token: TokenRef,
        span: Duration,
        at: SystemTime,
        now: SystemTime,
        /// The proxy holds requests until then; the command itself goes on.
        held: bool,
    },
    WaitingForProvider {
        provider: &'static Provider,
        span: Duration,
        /// When it is tried next.
        at: SystemTime,
        /// How long it will be tried, if there is an end to it.
        at_most: Option<Duration>,
    },
    /// The proxy holds no request any longer: they go out with this token, or nobody waits for an
    /// answer.
    HoldOver {
        token: TokenRef,
        abandoned: bool,
    },
    /// The command is being stopped until a token is usable, or until the user has answered.
    Paused,
    /// The paused command goes on.
    Resumed,
    /// The command has done nothing for `span`.
    Stalled {
        span: Duration,
        /// Whether requests would have been seen.
        sees_requests: bool,
        then: AfterStall,
    },
    /// The command was told to end.
    Stopping,
    /// The command has ended; `asked`: ddollar had told it to.
    Exited {
        how: ExitStatus,
        asked: bool,
    },

    // ---- before the command is started ----
    Discovering,
    Starting,
    Loaded {
        tokens: usize,
        providers: usize,
    },
    /// The command does not get these variables, for their providers are not among those of `--provider`.
    Withheld(String),
    /// The tokens of several providers are watched.
    Watching,
    /// Which tokens of a provider were found, where one alone would not say it.
    Tokens {
        provider: &'static Provider,
        /// By what their owner knows them, in order.
        names: Vec<&'static str>,
        /// Where the same tokens were found again.
        duplicates: Vec<String>,
    },
    /// What the user's environment calls a token is the secret of a ddollar proxy at this address.
    BehindProxy {
        provider: &'static Provider,
        address: String,
    },
    /// A variable that looks like one that holds tokens.
    UnreadVariable {
        name: String,
        variable: &'static str,
    },
    /// A token file that others can read or write, and what mends that.
    ExposedFile {
        path: String,
        fix: &'static str,
    },
    /// The token files were read again: these tokens are there now, and those are gone.
    TokensChanged {
        here: Vec<TokenRef>,
        gone: Vec<TokenRef>,
    },
    /// A pipe with tokens is not looked into again.
    NotReadAgain(String),
    UnusedFile {
        variable: &'static str,
        path: String,
        why: String,
    },
    /// Limits of this provider cannot be watched; `why` is what the user could do about it.
    Unwatched {
        provider: &'static Provider,
        why: Option<&'static str>,
    },
    /// What is changed for a known client.
    Client {
        name: &'static str,
        added: String,
    },
    /// A client's settings cannot be merged with.
    NoHooks(&'static str),
    /// The user has set something that beats the tokens.
    OtherCredential(&'static str),
    /// There is no place to keep what is learned of tokens.
    NoState,
    MonitorStarted(Duration),
    /// What is changed for a command behind the proxy, and what it does without.
    ThroughProxy {
        added: String,
        does_without: Option<&'static str>,
    },

    /// The command has the address of a proxy, and may go past it.
    Offered {
        address: String,
        /// Whether there is a token to change to.
        several: bool,
    },

    // ---- the command ----
    /// This is being started.
    Launching {
        command: String,
        /// For the first time, and not again.
        first: bool,
    },
    SessionResumed,
    /// The same command was started once more; these tokens are in its environment.
    Repeated(Vec<TokenRef>),
    /// Standard input is a pipe, and what one start reads from it the next does not find.
    InputIsReadOnce,
    /// The command's work stopped because its provider was too busy.
    TurnFailed,
    Pausing(Duration),
    Resuming,
    SessionContinued,
    ForcingKill,
    /// The command was stopped or continued by someone else.
    StoppedByHand,
    ContinuedByHand,
    NeedsTerminal,
    Unkillable(usize),
    NotStarted(String),
    Completed,
    /// The same in a rehearsal that has met no limit.
    Unrehearsed,
    Failed(ExitStatus),
    Retrying {
        number: u32,
        of: u32,
        span: Duration,
    },
    ShortLives,

    // ---- tokens and providers ----
    AutoRotating,
    NoNextToken,
    AllExhausted,
    /// The countdown of a wait.
    StillWaiting {
        span: Duration,
        at: SystemTime,
        now: SystemTime,
    },
    /// A provider whose token cannot be used, beside another that the command may live on.
    SetAside(&'static Provider),
    NeverHeard,
    NoneLeft(&'static Provider),
    /// Requests for this model are refused with every token until `at`, when this one is the first; what
    /// else the command uses is served.
    ModelSpent {
        token: TokenRef,
        model: String,
        at: SystemTime,
        now: SystemTime,
    },
    /// The earliest reset is beyond `--max-wait`.
    TooLong {
        index: Option<usize>,
        at: SystemTime,
        now: SystemTime,
    },
    /// Every token is spent for this model, and requests go out for another one; `None`: for this one again.
    FellBack {
        token: TokenRef,
        model: String,
        to: Option<String>,
    },
    /// The command has cost so many LLM tokens, which is what it may.
    MaxTokens {
        spent: u64,
        most: u64,
    },
    /// The provider gives no answer that tells anything about a token.
    Silent {
        provider: &'static Provider,
        silence: ProbeFailure,
        /// What the connection said, or which token is rejected and why.
        why: Option<String>,
    },
    AnswersAgain(&'static Provider),
    Unclear {
        provider: &'static Provider,
        why: String,
    },
    Quotas {
        provider: &'static Provider,
        tokens: usize,
        quotas: usize,
    },
    MonitorLost,

    // ---- questions of interactive mode, and what follows an answer ----
    /// Until the reset; `None`: the token does not recover by waiting.
    AskRotate(Option<Duration>),
    AskExhausted,
    NoSuchChoice,
    /// Ctrl-D at the question.
    NoAnswer,
    KeepingOn,
    /// The user ends the run; `kept`: whether what is known of the tokens is.
    Saved {
        kept: bool,
    },

    // ---- the proxy ----
    /// The command's requests come through the proxy that it was offered.
    InPlace,
    /// The command has failed, and has not used the proxy that it was offered.
    NotThrough,
    ProxyListening(String),
    /// Where the lines are that lead a shell's programs to the proxy.
    ProxyLines(String),
    ProxyStopping(Duration),
    ProxyStopped,
    /// A request of the proxy's own has come to it.
    Circle,

    // ---- the end ----
    /// A signal to ddollar was passed on, and the command ended by it.
    EndedBySignal(ExitStatus),
    /// A signal to ddollar ended the run while no command went on.
    StoppedBySignal(i32),
    /// What a run comes to, if it had rotations or waits.
    Summary {
        rotations: usize,
        waited: Duration,
        /// All the rest of its time.
        worked: Duration,
        /// Whether there is a journal of it.
        kept: bool,
    },

    // ---- anything else ----
    /// Something that the system refuses, and what the run goes on without.
    Warning(String),
    /// What a rehearsal comes to.
    WorkUnits {
        done: u32,
        /// Units that were not done: lost when the worker says that it has finished.
        open: u32,
        finished: bool,
        repeated: u32,
    },
}

/// What follows when the command has stalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterStall {
    /// It is ended, and goes on with its session: for this time of so many in a row.
    Restart { number: u32, of: u32 },
    /// Nothing: no session is known to go on with.
    NoSession,
    /// Nothing: it has stalled again and again.
    GivenUp,
}

/// Which limit a token ran into.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    /// A window is this full: from the threshold to below 1.0.
    Near {
        used: f64,
    },
    Reached,
    SpendCap,
    Rejected,
    /// It is no longer in its file.
    Removed,
}

impl Limit {
    /// The limit behind a condition that is worth leaving a token for; `used` is the utilization of
    /// its fullest window.
    pub(crate) fn of(condition: Condition, used: Option<f64>) -> Limit {
        match condition {
            Condition::SpendCapped { .. } => Limit::SpendCap,
            Condition::Rejected => Limit::Rejected,
            Condition::Removed => Limit::Removed,
            // Nothing is left of it: the next request would be refused.
            Condition::NearLimit { .. } => match used {
                Some(used) if used < 1.0 => Limit::Near { used },
                _ => Limit::Reached,
            },
            Condition::Limited { .. } | Condition::Unknown | Condition::Usable => Limit::Reached,
        }
    }
}

/// How much an event matters to people, for `-q` and `-v`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// Only with `-v`.
    Detail,
    /// Part of the story.
    Story,
    /// Also with `-q`, and as a note in the journal when nothing else tells it there.
    Warning,
}

impl RunEvent {
    /// Why the token in `state` will not do before `until`.
    pub(crate) fn limit(
        token: TokenRef,
        limit: Limit,
        scope: Option<&str>,
        state: &TokenState,
        until: Option<SystemTime>,
    ) -> RunEvent {
        let has_scope = matches!(limit, Limit::Near { .. } | Limit::Reached);
        let is_cause = |window: &&Window| match limit {
            // A failure is also blamed on a window that was fuller before.
            Limit::Near { used } => window.utilization == used,
            Limit::Reached => window.utilization >= 1.0,
            Limit::SpendCap | Limit::Rejected | Limit::Removed => false,
        };
        RunEvent::Limit {
            token,
            limit,
            scope: scope.filter(|_| has_scope).map(str::to_owned),
            until,
            window: state.fullest().filter(is_cause).cloned(),
            said: state.said().map(str::to_owned),
        }
    }

    /// The question about this token got no verdict.
    pub(crate) fn silent(
        token: TokenRef,
        silence: ProbeFailure,
        reading: &Result<Reading, String>,
    ) -> RunEvent {
        let why = match reading {
            Err(why) => Some(why.clone()),
            Ok(reading) if silence == ProbeFailure::Doubtful => {
                Some(token.and_why(reading.said.as_deref()))
            }
            Ok(_) => None,
        };
        RunEvent::Silent {
            provider: token.provider,
            silence,
            why,
        }
    }

    /// Says once how many quotas a ring really has, as soon as every token's group is known, and if
    /// they are fewer than its tokens. `said` keeps that it was looked at.
    pub(crate) fn quotas(pool: &TokenPool, said: &mut bool) -> Option<RunEvent> {
        let tokens = pool.len();
        if *said || tokens < 2 {
            return None;
        }
        let quotas = pool.quotas()?;
        *said = true;
        (quotas < tokens).then_some(RunEvent::Quotas {
            provider: pool.current().provider,
            tokens,
            quotas,
        })
    }

    /// What there is to say of tokens that have come and gone; `pool` gives a ring as it is now.
    pub(crate) fn tokens_changed<'a>(
        renewals: &[(usize, Renewal)],
        pool: impl Fn(usize) -> Option<&'a TokenPool>,
        several: bool,
    ) -> Option<RunEvent> {
        let (mut here, mut gone) = (Vec::new(), Vec::new());
        for (ring, renewal) in renewals {
            let Some(pool) = pool(*ring) else { continue };
            let token = |index: &usize| {
                let (ring, index) = (*ring, *index);
                TokenRef::new(pool, TokenId { ring, index }, several)
            };
            here.extend(renewal.here.iter().map(token));
            gone.extend(renewal.gone.iter().map(token));
        }
        (!renewals.is_empty()).then_some(RunEvent::TokensChanged { here, gone })
    }

    /// Whether the proxy has no good token for a request, or the one that it has is rejected.
    pub(crate) fn lacks_token(&self) -> bool {
        matches!(
            self,
            RunEvent::WaitingForReset { .. }
                | RunEvent::NoneLeft(..)
                | RunEvent::ModelSpent { .. }
                | RunEvent::FellBack { to: Some(_), .. }
        ) || self.is_in_doubt()
    }

    /// Whether a token is rejected that was accepted before.
    pub(crate) fn is_in_doubt(&self) -> bool {
        let doubt = ProbeFailure::Doubtful;
        matches!(self, RunEvent::Silent { silence, .. } if *silence == doubt)
    }

    /// How much it matters.
    pub(crate) fn severity(&self) -> Severity {
        match self {
            RunEvent::Checked { .. }
            | RunEvent::Seen { .. }
            | RunEvent::Spent { .. }
            | RunEvent::Launched { .. }
            | RunEvent::Paused
            | RunEvent::Resumed
            | RunEvent::Stopping
            | RunEvent::Exited { .. }
            | RunEvent::Unwatched { why: None, .. }
            | RunEvent::NotReadAgain(..)
            | RunEvent::NoState
            | RunEvent::Offered { several: false, .. }
            | RunEvent::HoldOver {
                abandoned: true, ..
            } => Severity::Detail,
            RunEvent::Limit { .. }
            | RunEvent::Rejected { .. }
            | RunEvent::Stalled { .. }
            | RunEvent::SetAside(..)
            | RunEvent::UnreadVariable { .. }
            | RunEvent::ExposedFile { .. }
            | RunEvent::UnusedFile { .. }
            | RunEvent::Unwatched { .. }
            | RunEvent::NoHooks(..)
            | RunEvent::OtherCredential(..)
            | RunEvent::ForcingKill
            | RunEvent::StoppedByHand
            | RunEvent::NeedsTerminal
            | RunEvent::Unkillable(..)
            | RunEvent::NotStarted(..)
            | RunEvent::Failed(..)
            | RunEvent::ShortLives
            | RunEvent::AllExhausted
            | RunEvent::NeverHeard
            | RunEvent::NoneLeft(..)
            | RunEvent::ModelSpent { .. }
            | RunEvent::TooLong { .. }
            | RunEvent::MaxTokens { .. }
            | RunEvent::FellBack { .. }
            | RunEvent::Silent { .. }
            | RunEvent::Unclear { .. }
            | RunEvent::Quotas { .. }
            | RunEvent::MonitorLost
            | RunEvent::AskRotate(..)
            | RunEvent::AskExhausted
            | RunEvent::NoSuchChoice
            | RunEvent::NoAnswer
            | RunEvent::Saved { .. }
            | RunEvent::Unrehearsed
            | RunEvent::Circle
            | RunEvent::Warning(..)
            | RunEvent::WorkUnits { .. } => Severity::Warning,
            _ => Severity::Story,
        }
    }
}
