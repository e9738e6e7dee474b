//! Every sentence that a user sees while a command is supervised.
//!
//! Owns the words, the marks before them and how times and spans read. It promises plain text: one
//! [`Notice`] in, lines out, no token among them. It does not print; `console.rs` does. Errors have
//! their own words in `error.rs`.

use crate::common::duration::{compact, spaced};
use crate::providers::usage::{Usage, Window};
use crate::system::exit_status::ExitStatus;
use crate::tokens::TokenPool;
use crate::tokens::condition::{Condition, ProbeFailure};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use nix::sys::signal::Signal;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// Something worth telling. Indices count from 0; users read them from 1.
#[derive(Clone, Debug)]
pub(crate) enum Notice {
    Discovering,
    Starting,
    Loaded {
        tokens: usize,
        providers: usize,
    },
    /// A variable that looks like one that holds tokens.
    UnreadVariable {
        name: String,
        variable: &'static str,
    },
    /// A provider whose token cannot be used, beside another that the command may live on.
    SetAside {
        provider: &'static str,
    },
    ExposedFile {
        path: String,
    },
    UnusedFile {
        variable: &'static str,
        path: String,
        why: String,
    },
    /// Limits of this provider cannot be watched; `why` is what the user could do about it.
    Unwatched {
        provider: &'static str,
        why: Option<&'static str>,
    },
    /// What is changed for a known client.
    Client {
        name: &'static str,
        added: String,
    },
    /// A client's settings cannot be merged with.
    NoHooks {
        why: &'static str,
    },
    /// The user has set something that beats the tokens.
    OtherCredential {
        variable: &'static str,
    },
    /// There is no place to keep what is learned of tokens.
    NoState,
    /// The first start passes over tokens that are known to be spent.
    StartsWith {
        provider: Option<&'static str>,
        index: usize,
        len: usize,
    },
    MonitorStarted {
        interval: Duration,
    },
    Launching {
        command: String,
        /// For the first time, and not again.
        first: bool,
    },
    SessionResumed,
    /// Why the token in use will not do.
    Limit {
        /// Named where there are several.
        provider: Option<&'static str>,
        index: usize,
        limit: Limit,
    },
    AutoRotating,
    Switched {
        provider: Option<&'static str>,
        index: usize,
        len: usize,
    },
    /// The child's work stopped because its provider was too busy.
    TurnFailed,
    NoNextToken,
    AllExhausted,
    WaitingForReset {
        provider: Option<&'static str>,
        span: Duration,
        index: usize,
        len: usize,
        at: SystemTime,
        now: SystemTime,
        /// The proxy holds requests until then; the command itself goes on.
        held: bool,
    },
    /// The proxy holds no request any longer: they go out with this token, or nobody waits for an
    /// answer.
    HoldOver {
        provider: Option<&'static str>,
        index: Option<usize>,
        len: usize,
    },
    WaitingForProvider {
        provider: &'static str,
        span: Duration,
        /// How long it will be tried, if there is an end to it.
        at_most: Option<Duration>,
    },
    /// The countdown of a wait.
    StillWaiting {
        span: Duration,
        at: SystemTime,
        now: SystemTime,
    },
    Pausing {
        span: Duration,
    },
    Resuming,
    SessionContinued,
    ForcingKill,
    /// The child was stopped or continued by someone else.
    StoppedByHand,
    ContinuedByHand,
    NeedsTerminal,
    Unkillable {
        left: usize,
    },
    NotStarted {
        why: String,
    },
    /// Something that the system refuses, and what the run goes on without.
    Warning {
        what: String,
    },
    /// The prompts of interactive mode, and what follows an answer.
    AskRotate {
        span: Duration,
    },
    AskExhausted,
    NoSuchChoice,
    /// Ctrl-D at the question.
    NoAnswer,
    KeepingOn,
    Saved,
    Completed,
    Failed {
        how: ExitStatus,
    },
    Retrying {
        number: u32,
        of: u32,
        span: Duration,
    },
    ShortLives,
    NeverHeard,
    NoneLeft {
        provider: &'static str,
    },
    TooLong {
        index: Option<usize>,
        at: SystemTime,
        now: SystemTime,
    },
    Silent {
        provider: &'static str,
        silence: ProbeFailure,
        /// What the connection said, if that is what failed.
        why: Option<String>,
    },
    AnswersAgain {
        provider: &'static str,
    },
    Unclear {
        provider: &'static str,
        why: String,
    },
    Quotas {
        provider: &'static str,
        tokens: usize,
        quotas: usize,
    },
    MonitorLost,
    /// What is changed for a command behind the proxy, and what it does without.
    ThroughProxy {
        added: String,
        does_without: Option<&'static str>,
    },
    ProxyListening {
        address: String,
    },
    /// Where the lines are that lead a shell's programs to the proxy.
    ProxyLines {
        path: String,
    },
    ProxyStopping {
        span: Duration,
    },
    ProxyStopped,
    /// A request of the proxy's own has come to it.
    Circle,
    /// What a rehearsal comes to.
    WorkUnits {
        done: u32,
        /// Units that were not done: lost when the worker says that it has finished.
        open: u32,
        finished: bool,
        repeated: u32,
    },
    Monitor {
        provider: &'static str,
        index: usize,
        /// Whether the provider has answered as asked.
        served: bool,
        usage: Usage,
    },
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
}

/// How much a notice matters, for `-q` and `-v`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// Only with `-v`.
    Detail,
    /// Part of the story.
    Story,
    /// Also with `-q`.
    Warning,
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

impl Notice {
    /// Says once how many quotas a ring really has, as soon as every token's group is known, and if
    /// they are fewer than its tokens. `said` keeps that it was looked at.
    pub(crate) fn quotas(pool: &TokenPool, said: &mut bool) -> Option<Notice> {
        let tokens = pool.len();
        if *said || tokens < 2 {
            return None;
        }
        let quotas = pool.quotas()?;
        *said = true;
        (quotas < tokens).then_some(Notice::Quotas {
            provider: pool.current().provider.label,
            tokens,
            quotas,
        })
    }

    /// How much it matters.
    pub(crate) fn weight(&self) -> Weight {
        match self {
            Notice::Monitor { .. }
            | Notice::Unwatched { why: None, .. }
            | Notice::NoState
            | Notice::HoldOver { index: None, .. } => Weight::Detail,
            Notice::Limit { .. }
            | Notice::AllExhausted
            | Notice::ExposedFile { .. }
            | Notice::UnreadVariable { .. }
            | Notice::SetAside { .. }
            | Notice::Unwatched { .. }
            | Notice::NoHooks { .. }
            | Notice::OtherCredential { .. }
            | Notice::UnusedFile { .. }
            | Notice::ForcingKill
            | Notice::StoppedByHand
            | Notice::NeedsTerminal
            | Notice::Unkillable { .. }
            | Notice::NotStarted { .. }
            | Notice::Warning { .. }
            | Notice::AskRotate { .. }
            | Notice::AskExhausted
            | Notice::NoSuchChoice
            | Notice::NoAnswer
            | Notice::Saved
            | Notice::Failed { .. }
            | Notice::ShortLives
            | Notice::NeverHeard
            | Notice::NoneLeft { .. }
            | Notice::TooLong { .. }
            | Notice::Silent { .. }
            | Notice::Unclear { .. }
            | Notice::Quotas { .. }
            | Notice::MonitorLost
            | Notice::Circle
            | Notice::WorkUnits { .. } => Weight::Warning,
            _ => Weight::Story,
        }
    }

    /// Whether a line's end goes before it: an empty line, because a new chapter begins, or the end of
    /// the line with the question, because no Enter was typed there.
    pub(crate) fn opens_chapter(&self) -> bool {
        matches!(self, Notice::Limit { .. } | Notice::NoAnswer)
    }

    /// Whether an empty line goes after it, because the command has the word now (the owner's
    /// transcripts).
    pub(crate) fn ends_chapter(&self) -> bool {
        matches!(self, Notice::Launching { first: true, .. })
    }

    /// Whether the answer goes on the same line.
    pub(crate) fn is_question(&self) -> bool {
        matches!(self, Notice::AskRotate { .. } | Notice::AskExhausted)
    }

    /// Its mark and its words; one line, but for a question.
    pub(crate) fn words(&self) -> (Mark, String) {
        match self {
            Notice::Discovering => (Mark::None, "Discovering API tokens...".into()),
            Notice::Starting => (Mark::None, "Starting supervision mode...".into()),
            Notice::Loaded { tokens, providers } => (
                Mark::Done,
                format!("Loaded {tokens} token(s) across {providers} provider(s)"),
            ),
            Notice::UnreadVariable { name, variable } => (
                Mark::Warning,
                format!("{name} is not read: more tokens go into {variable}_2, _3, ..."),
            ),
            Notice::SetAside { provider } => (
                Mark::Next,
                format!("The command goes on without {provider}"),
            ),
            Notice::ExposedFile { path } => (
                Mark::Warning,
                format!("Others can read the token file '{path}' (mend: chmod 600)"),
            ),
            Notice::UnusedFile {
                variable,
                path,
                why,
            } => (
                Mark::Warning,
                format!("{variable} '{path}' is not used: {why}"),
            ),
            Notice::Unwatched {
                provider,
                why: Some(why),
            } => (
                Mark::Warning,
                format!("{provider}: its limits are not watched; {why}"),
            ),
            Notice::Unwatched {
                provider,
                why: None,
            } => (
                Mark::None,
                format!("{provider} tells no limit before it is reached; its errors count"),
            ),
            Notice::Client { name, added } => (Mark::Done, format!("{name}: with {added}")),
            Notice::NoHooks { why } => (
                Mark::Warning,
                format!("The command's --settings {why}: no hooks"),
            ),
            Notice::OtherCredential { variable } => (
                Mark::Warning,
                format!("{variable} is set: the command may prefer it to a token"),
            ),
            Notice::NoState => (
                Mark::None,
                "No state is kept: neither XDG_STATE_HOME nor HOME names a folder".into(),
            ),
            Notice::StartsWith {
                provider,
                index,
                len,
            } => (
                Mark::Next,
                format!(
                    "{}Starting with token {}/{len}: those before it are known to be spent",
                    prefix(*provider),
                    index + 1
                ),
            ),
            Notice::MonitorStarted { interval } => (
                Mark::Done,
                format!(
                    "Monitor started (checking limits every {})",
                    compact(*interval)
                ),
            ),
            Notice::Launching { command, .. } => (Mark::Next, format!("Launching: {command}")),
            Notice::SessionResumed => (Mark::Done, "Session resumed".into()),
            Notice::Limit {
                provider,
                index,
                limit,
            } => (
                Mark::Warning,
                format!("{}{}", prefix(*provider), limit.words(*index)),
            ),
            Notice::AutoRotating => (Mark::Next, "Auto-rotating to next token...".into()),
            Notice::Switched {
                provider,
                index,
                len,
            } => (
                Mark::Next,
                format!("{}Switched to token {}/{len}", prefix(*provider), index + 1),
            ),
            Notice::TurnFailed => (
                Mark::Next,
                "The command has given up on a busy provider: starting it again".into(),
            ),
            Notice::NoNextToken => (Mark::Next, "No next token available".into()),
            Notice::AllExhausted => (Mark::Warning, "All tokens exhausted!".into()),
            Notice::WaitingForReset {
                provider,
                span,
                index,
                len,
                at,
                now,
                ..
            } => (
                Mark::Next,
                format!(
                    "{}Waiting for limits to reset ({}{})... token {}/{len} at {}",
                    prefix(*provider),
                    // With a name before it, the line would be too wide.
                    provider.map_or("approximately ", |_| ""),
                    rough(*span),
                    index + 1,
                    local(*at, *now)
                ),
            ),
            Notice::HoldOver {
                provider,
                index,
                len,
            } => {
                let prefix = prefix(*provider);
                match index {
                    Some(index) => (
                        Mark::Done,
                        format!("{prefix}Held requests go on with token {}/{len}", index + 1),
                    ),
                    None => (Mark::None, format!("{prefix}No request is held any longer")),
                }
            }
            Notice::WaitingForProvider {
                provider,
                span,
                at_most,
            } => {
                let end =
                    at_most.map_or(String::new(), |most| format!(" for up to {}", spaced(most)));
                (
                    Mark::Next,
                    format!(
                        "Waiting until {provider} answers, next try in {}...{end}",
                        spaced(*span)
                    ),
                )
            }
            Notice::StillWaiting { span, at, now } => (
                Mark::Next,
                format!(
                    "Waiting: {} left, until {}",
                    spaced(*span),
                    local(*at, *now)
                ),
            ),
            Notice::Pausing { span } => (
                Mark::Next,
                format!("Pausing subprocess for {}...", spaced(*span)),
            ),
            Notice::Resuming => (Mark::Next, "Resuming subprocess...".into()),
            Notice::SessionContinued => (Mark::Done, "Session continued".into()),
            Notice::ForcingKill => (
                Mark::None,
                "Subprocess didn't exit cleanly, forcing kill...".into(),
            ),
            Notice::StoppedByHand => (
                Mark::Warning,
                "The command was stopped by SIGSTOP; SIGCONT lets it go on".into(),
            ),
            Notice::ContinuedByHand => (
                Mark::Next,
                "The command was continued by someone else; going on".into(),
            ),
            Notice::NeedsTerminal => (
                Mark::Warning,
                "The command is stopped: it needs the terminal, which is another's".into(),
            ),
            Notice::Unkillable { left } => (
                Mark::Failure,
                format!(
                    "{left} process(es) of the command survive SIGKILL; nothing more is started"
                ),
            ),
            Notice::Warning { what } => (Mark::Warning, what.clone()),
            Notice::NotStarted { why } => (
                Mark::Warning,
                format!("The command cannot be started ({why}); trying again"),
            ),
            Notice::AskRotate { span } => (
                Mark::None,
                format!(
                    "\nWhat would you like to do?\n  \
                     1) Rotate to next token and continue\n  \
                     2) Wait for limit to reset ({})\n  \
                     3) Exit and save state\n  \
                     4) Keep going (may hit 429 errors)\n\nChoice [1]: ",
                    spaced(*span)
                ),
            ),
            Notice::AskExhausted => (
                Mark::None,
                "\nWhat would you like to do?\n  \
                 1) Wait for limits to reset\n  \
                 2) Exit and save state\n\nChoice [1]: "
                    .into(),
            ),
            Notice::NoSuchChoice => (Mark::Warning, "No such choice".into()),
            Notice::NoAnswer => (
                Mark::Warning,
                "No answer: type a number, then Enter; Ctrl-C ends the command".into(),
            ),
            Notice::KeepingOn => (
                Mark::Next,
                "Keeping on until the window resets or the token is refused".into(),
            ),
            Notice::Saved => (
                Mark::Done,
                "Stopped before the command finished; run the same again to go on".into(),
            ),
            Notice::Completed => (Mark::Done, "Process completed successfully".into()),
            Notice::Failed { how } => (Mark::Failure, how_it_ended(*how)),
            Notice::Retrying { number, of, span } => (
                Mark::Next,
                format!(
                    "Starting it again in {} (retry {number} of {of})...",
                    spaced(*span)
                ),
            ),
            Notice::ShortLives => (
                Mark::Failure,
                "Three starts in a row died within 2s; not starting it again".into(),
            ),
            Notice::NeverHeard => (
                Mark::Failure,
                "The provider has never answered; check the network and the base URL".into(),
            ),
            Notice::NoneLeft { provider } => (
                Mark::Failure,
                format!("No {provider} token is left that can recover; run it again when one can"),
            ),
            Notice::TooLong { index, at, now } => {
                let who = index.map_or(String::new(), |index| format!(" (token {})", index + 1));
                (
                    Mark::Failure,
                    format!(
                        "The earliest reset{who} is {}, beyond --max-wait; try again then",
                        local(*at, *now)
                    ),
                )
            }
            Notice::Silent {
                provider,
                silence,
                why,
            } => {
                let why = why
                    .as_ref()
                    .map_or(String::new(), |why| format!(" ({why})"));
                (
                    Mark::Warning,
                    format!("{provider} {}{why}", silence.words()),
                )
            }
            Notice::AnswersAgain { provider } => (Mark::Done, format!("{provider} answers again")),
            Notice::Unclear { provider, why } => {
                (Mark::Warning, format!("{provider} tells no limits: {why}"))
            }
            Notice::Quotas {
                provider,
                tokens,
                quotas: 1,
            } => (
                Mark::Warning,
                format!("{provider}: {tokens} tokens, 1 quota: rotating cannot help"),
            ),
            Notice::Quotas {
                provider,
                tokens,
                quotas,
            } => (
                Mark::Warning,
                format!(
                    "{provider}: {tokens} tokens, {quotas} quotas: rotating helps between these"
                ),
            ),
            Notice::MonitorLost => (
                Mark::Warning,
                "The monitor has stopped; the command goes on without it".into(),
            ),
            Notice::ThroughProxy {
                added,
                does_without,
            } => {
                let lost = does_without.map_or(String::new(), |what| format!("; no {what}"));
                (Mark::Done, format!("Through it: {added}{lost}"))
            }
            Notice::ProxyListening { address } => {
                (Mark::Done, format!("Proxy listens on http://{address}"))
            }
            Notice::ProxyLines { path } => (Mark::Next, format!("In a shell: . '{path}'")),
            Notice::ProxyStopping { span } => (
                Mark::Next,
                format!(
                    "Stopping: answers under way may end within {}",
                    spaced(*span)
                ),
            ),
            Notice::Circle => (
                Mark::Failure,
                "Requests come back to this proxy: a provider's address leads here".into(),
            ),
            Notice::ProxyStopped => (Mark::Done, "Proxy stopped".into()),
            Notice::WorkUnits {
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
                (mark, words)
            }
            Notice::Monitor {
                provider,
                index,
                served,
                usage,
            } => {
                let numbers = match (usage.windows.is_empty(), served) {
                    (false, _) => windows(usage),
                    (true, true) => "no limits advertised".into(),
                    (true, false) => "no numbers came back".into(),
                };
                (
                    Mark::None,
                    format!("Monitor: {provider} - {numbers} [token {}]", index + 1),
                )
            }
        }
    }
}

/// The name of a provider before a sentence, where there are several.
fn prefix(provider: Option<&str>) -> String {
    provider.map_or(String::new(), |name| format!("{name}: "))
}

impl Limit {
    /// The limit behind a condition that is worth leaving a token for; `used` is the utilization of
    /// its fullest window.
    pub(crate) fn of(condition: Condition, used: Option<f64>) -> Limit {
        match condition {
            Condition::SpendCapped { .. } => Limit::SpendCap,
            Condition::Rejected => Limit::Rejected,
            // Nothing is left of it: the next request would be refused.
            Condition::NearLimit { .. } => match used {
                Some(used) if used < 1.0 => Limit::Near { used },
                _ => Limit::Reached,
            },
            Condition::Limited { .. } | Condition::Unknown | Condition::Usable => Limit::Reached,
        }
    }

    fn words(self, index: usize) -> String {
        let token = index + 1;
        match self {
            // Rounded down: a limit that is near never reads as "100%".
            Limit::Near { used } => format!(
                "Token limit approaching ({:.0}% used)",
                (used * 100.0 + 1e-9).floor()
            ),
            Limit::Reached => "Token limit reached".into(),
            Limit::SpendCap => format!("Spend cap of token {token} reached"),
            Limit::Rejected => format!("Token {token} was rejected by its provider"),
        }
    }
}

impl ProbeFailure {
    fn words(self) -> &'static str {
        match self {
            ProbeFailure::Overloaded => "is overloaded",
            ProbeFailure::OutOfReach => "cannot be reached",
            ProbeFailure::Doubtful => {
                "rejects a token, perhaps for trouble of its own; asking again"
            }
        }
    }
}

/// A span of a long wait, of which nobody counts the seconds: whole minutes from an hour on, whole
/// hours from a hundred on, rounded up.
fn rough(span: Duration) -> String {
    let step = match span.as_secs() {
        0..3_600 => 1,
        3_600..360_000 => 60,
        _ => 3_600,
    };
    let steps = span.as_nanos().div_ceil(step * 1_000_000_000);
    let steps = u64::try_from(steps).unwrap_or(u64::MAX);
    spaced(Duration::from_secs(steps.saturating_mul(step as u64)))
}

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
/// A weekday alone tells which day it is.
const NEAR: Duration = Duration::from_secs(6 * 86_400);

/// A time of day here; with its weekday when it is not today's, and the date alone when it is far
/// away.
pub(crate) fn local(at: SystemTime, now: SystemTime) -> String {
    let is_near = at.duration_since(now).is_ok_and(|ahead| ahead < NEAR);
    let zone = TimeZone::system();
    let here = |time: SystemTime| -> Option<DateTime> {
        Some(zone.to_datetime(Timestamp::try_from(time).ok()?))
    };
    let (Some(at), Some(now)) = (here(at), here(now)) else {
        return "a time beyond the calendar".into();
    };
    if at.date() == now.date() {
        format!("{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second())
    } else if is_near {
        {
            let day = DAYS[usize::from(at.weekday().to_monday_zero_offset().unsigned_abs()) % 7];
            format!("{day} {:02}:{:02}", at.hour(), at.minute())
        }
    } else {
        at.date().to_string()
    }
}

fn windows(usage: &Usage) -> String {
    let mut line = String::new();
    for window in &usage.windows {
        let separator = if line.is_empty() { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(line, "{separator}{}", one_window(window));
    }
    line
}

fn one_window(window: &Window) -> String {
    let mut name = window.name.clone();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let percent = window.utilization * 100.0;
    match (window.limit, window.remaining) {
        (Some(limit), Some(remaining)) => format!(
            "{name}: {}/{limit} ({percent:.1}%)",
            limit.saturating_sub(remaining)
        ),
        _ => format!("{name}: {percent:.1}%"),
    }
}

/// How a command ended, as a sentence.
pub(crate) fn how_it_ended(how: ExitStatus) -> String {
    match how {
        ExitStatus::Code(code) => format!("Process exited with status {code}"),
        ExitStatus::Signal(number) => match Signal::try_from(number) {
            Ok(signal) => format!("Process was killed by {signal}"),
            Err(_) => format!("Process was killed by signal {number}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_its_date_when_it_is_not_todays() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let soon = local(now, now);
        assert!(soon.len() == 8 && soon.matches(':').count() == 2, "{soon}");
        let days = |count: u64| local(now + Duration::from_secs(count * 86_400), now);
        let later = days(3);
        assert!(later.len() == 9 && later.starts_with("Mon "), "{later}");
        assert_eq!(days(30).len(), 10);
        assert!(days(30).starts_with("2027-02-1"), "{}", days(30));
        let never = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60);
        assert!(local(never, now).contains("beyond"));
    }

    /// Words of a terminal's line: an emoji is two columns wide, what modifies it none.
    fn columns(text: &str) -> usize {
        let wide = |c| match c {
            '\u{26a0}' => 2,
            '\u{fe0f}' => 0,
            _ => 1,
        };
        text.chars().map(wide).sum()
    }

    /// With the longest that is usual: a wait until another day, twelve tokens, two providers. Paths,
    /// commands and what the system says are as long as they are.
    #[test]
    fn every_sentence_fits_a_line_of_80_columns() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let provider = Some("Anthropic");
        let mut all = vec![
            Notice::Discovering,
            Notice::Starting,
            Notice::Loaded {
                tokens: 12,
                providers: 12,
            },
            Notice::ExposedFile {
                path: "~/.config/ddollar/tokens".into(),
            },
            Notice::Unwatched {
                provider: "Hugging Face",
                why: None,
            },
            Notice::Client {
                name: "claude",
                added: "--settings, --session-id, CLAUDE_CODE_RESUME_INTERRUPTED_TURN=1".into(),
            },
            Notice::OtherCredential {
                variable: "ANTHROPIC_AUTH_TOKEN",
            },
            Notice::NoState,
            Notice::StartsWith {
                provider,
                index: 10,
                len: 12,
            },
            Notice::MonitorStarted {
                interval: Duration::from_secs(5000),
            },
            Notice::SessionResumed,
            Notice::AutoRotating,
            Notice::Switched {
                provider,
                index: 10,
                len: 12,
            },
            Notice::TurnFailed,
            Notice::NoNextToken,
            Notice::AllExhausted,
            Notice::WaitingForProvider {
                provider: "Azure OpenAI",
                span: Duration::from_secs(299),
                at_most: None,
            },
            Notice::WaitingForProvider {
                provider: "Azure OpenAI",
                span: Duration::from_secs(40),
                at_most: Some(Duration::from_secs(90)),
            },
            Notice::Pausing {
                span: Duration::from_secs(86_399),
            },
            Notice::Resuming,
            Notice::SessionContinued,
            Notice::ForcingKill,
            Notice::StoppedByHand,
            Notice::ContinuedByHand,
            Notice::NeedsTerminal,
            Notice::Unkillable { left: 12 },
            Notice::NotStarted {
                why: "Text file busy".into(),
            },
            Notice::AskRotate {
                span: Duration::from_secs(86_399),
            },
            Notice::AskExhausted,
            Notice::NoSuchChoice,
            Notice::KeepingOn,
            Notice::Saved,
            Notice::Completed,
            Notice::Failed {
                how: ExitStatus::Signal(Signal::SIGTERM as i32),
            },
            Notice::Retrying {
                number: 10,
                of: 12,
                span: Duration::from_secs(299),
            },
            Notice::ShortLives,
            Notice::NeverHeard,
            Notice::NoneLeft {
                provider: "Azure OpenAI",
            },
            Notice::AnswersAgain {
                provider: "Azure OpenAI",
            },
            Notice::Unclear {
                provider: "Anthropic",
                why: "a web page came back in the place of an answer".into(),
            },
            Notice::Unclear {
                provider: "Azure OpenAI",
                why: "access is refused, maybe not for the token".into(),
            },
            Notice::MonitorLost,
            Notice::ThroughProxy {
                added: "ANTHROPIC_BASE_URL, ENABLE_TOOL_SEARCH=true".into(),
                does_without: Some("Remote Control"),
            },
            Notice::ProxyListening {
                address: "127.0.0.1:41414".into(),
            },
            Notice::ProxyLines {
                path: "/home/user/.local/state/ddollar/proxy.env".into(),
            },
            Notice::ProxyStopping {
                span: Duration::from_secs(30),
            },
            Notice::ProxyStopped,
            Notice::Circle,
            Notice::WorkUnits {
                done: 155,
                open: 155,
                finished: false,
                repeated: 155,
            },
        ];
        for why in [
            "is not a JSON object",
            "has hooks that are no JSON object",
            "has an env that is no JSON object",
        ] {
            all.push(Notice::NoHooks { why });
        }
        for model in ["", "some"] {
            for row in crate::providers::PROVIDERS {
                if let Some(why) = row.unwatched(row.base_url, model) {
                    all.push(Notice::Unwatched {
                        provider: row.label,
                        why: Some(why),
                    });
                }
            }
        }
        for limit in [
            Limit::Near { used: 1.0 },
            Limit::Reached,
            Limit::SpendCap,
            Limit::Rejected,
        ] {
            all.push(Notice::Limit {
                provider: Some("Azure OpenAI"),
                index: 11,
                limit,
            });
        }
        for index in [None, Some(11)] {
            all.push(Notice::HoldOver {
                provider: Some("Azure OpenAI"),
                index,
                len: 12,
            });
        }
        for silence in [
            ProbeFailure::Overloaded,
            ProbeFailure::OutOfReach,
            ProbeFailure::Doubtful,
        ] {
            all.push(Notice::Silent {
                provider: "Azure OpenAI",
                silence,
                why: None,
            });
        }
        for quotas in [1, 11] {
            all.push(Notice::Quotas {
                provider: "Azure OpenAI",
                tokens: 12,
                quotas,
            });
        }
        for seconds in [
            5, 3599, 7_199, 35_999, 86_399, 300_000, 359_999, 600_000, 3_000_000,
        ] {
            let span = Duration::from_secs(seconds);
            let at = now + span;
            for provider in [None, provider] {
                all.push(Notice::WaitingForReset {
                    provider,
                    span,
                    index: 8,
                    len: 9,
                    at,
                    now,
                    held: true,
                });
            }
            all.push(Notice::StillWaiting { span, at, now });
            all.push(Notice::TooLong {
                index: Some(11),
                at,
                now,
            });
        }
        let mut wide = all;
        wide.retain(|notice| {
            let (mark, words) = notice.words();
            let text = mark.text(true).to_owned() + &words;
            text.lines().any(|line| columns(line) > 80)
        });
        let wide: Vec<String> = wide.iter().map(|notice| notice.words().1).collect();
        assert!(wide.is_empty(), "{wide:#?}");
    }

    #[test]
    fn the_monitor_line_reads_as_in_the_transcript() {
        let window = |name: &str, limit: u64, remaining: u64| Window {
            name: name.into(),
            limit: Some(limit),
            remaining: Some(remaining),
            utilization: 1.0 - remaining as f64 / limit as f64,
            resets_at: None,
        };
        let usage = Usage {
            windows: vec![
                window("requests", 1000, 48),
                window("tokens", 50_000, 4_877),
            ],
        };
        let notice = Notice::Monitor {
            provider: "Anthropic",
            index: 0,
            served: true,
            usage,
        };
        assert_eq!(
            notice.words().1,
            "Monitor: Anthropic - Requests: 952/1000 (95.2%), Tokens: 45123/50000 (90.2%) [token 1]"
        );
    }

    #[test]
    fn a_limit_that_is_near_never_reads_as_full() {
        let now = crate::common::time::Now {
            wall: SystemTime::UNIX_EPOCH,
            tick: std::time::Instant::now(),
        };
        let near = Condition::NearLimit {
            until: crate::common::time::Until::after(Duration::ZERO, now),
        };
        let says = |used| Limit::of(near, Some(used)).words(0);
        for (used, text) in [(0.952, "95%"), (0.9999, "99%"), (0.97, "97%")] {
            let line = format!("Token limit approaching ({text} used)");
            assert_eq!(says(used), line);
        }
        for used in [1.0, 1.02] {
            assert_eq!(says(used), "Token limit reached");
        }
    }
}
