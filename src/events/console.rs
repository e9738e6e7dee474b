//! Prints messages to stderr, and logs them.
//!
//! Owns the style: marks, colour, and how much is printed. It promises never to fail, never to write to
//! stdout while a command is supervised (that belongs to the command), and never to wait for a reader:
//! when stderr is closed or full, messages are lost and the run goes on.

use crate::common::error::Error;
use crate::common::mask::masked;
use crate::common::style::{NARROWEST, Style, WIDEST};
use crate::common::time::{Now, Until};
use crate::common::visible::{visible, visible_lines};
use crate::events::message::{Mark, Message};
use crate::events::{RunEvent, Severity};
use crate::system::{terminal, time_zone};
use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant, SystemTime};

/// How much is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// `-q`: warnings and failures.
    Quiet,
    /// Everything but details.
    #[default]
    Normal,
    /// `-v`: the numbers of each check, too.
    Verbose,
}

/// Messages that wait for the terminal at most; the oldest are dropped first.
const MOST_HELD: usize = 200;

/// Indentation of a message's further lines, in columns.
const INDENT: usize = 3;

/// Where the countdown cannot be redrawn, a line is printed this often.
const LINE_EACH: Duration = Duration::from_secs(600);

/// Prints and logs what people are told.
#[derive(Debug)]
pub(crate) struct Console {
    verbosity: Verbosity,
    utf8: bool,
    colour: bool,
    /// Whether each message begins with the time: who reads it later was not there.
    stamped: bool,
    /// Whether the terminal can redraw a line.
    redraws: bool,
    /// Whether stdout, which is the command's, is the same file: its output may come in between.
    shared: bool,
    /// What is not yet written.
    pending: RefCell<Pending>,
}

/// Output that is queued while the command owns the terminal, or while stderr is full.
#[derive(Debug, Default)]
struct Pending {
    paused: bool,
    /// Whether the last line is the countdown, which the next message replaces.
    countdown: bool,
    /// Whether the last message was followed by an empty line.
    parted: bool,
    /// Whether the cursor is still behind a question: what comes next begins a line of its own.
    asking: bool,
    /// When the wait began, or a line about it was last printed.
    spoken: Option<Instant>,
    texts: VecDeque<String>,
}

impl Console {
    /// A console for this environment. `variable` looks a variable up.
    pub(crate) fn new(verbosity: Verbosity, variable: impl Fn(&str) -> Option<String>) -> Console {
        Console {
            verbosity,
            utf8: wants_utf8(&variable),
            colour: std::io::stderr().is_terminal() && wants_colour(&variable),
            stamped: !std::io::stderr().is_terminal(),
            redraws: std::io::stderr().is_terminal()
                && terminal::is_capable(variable("TERM").as_deref()),
            shared: is_same_file(std::io::stdout(), std::io::stderr()),
            pending: RefCell::default(),
        }
    }

    /// Tells people of an event, if it matters enough, and logs it in any case.
    pub(crate) fn say(&self, event: &RunEvent) {
        let Some(Message { mark, text }) = event.message() else {
            return;
        };
        let now = SystemTime::now();
        let mut text = visible_lines(&text).into_owned();
        if let Some(detail) = event.detail(Some(now)) {
            text.push_str("\n   ");
            text.push_str(&visible(&detail));
        }
        if !self.utf8 {
            text = text.replace('…', "...");
        }
        let level = match event.severity() {
            Severity::Warning => log::Level::Warn,
            Severity::Story | Severity::Detail => log::Level::Info,
        };
        log::log!(level, "{}", text.replace("\n   ", ": "));
        // With -q, the exit status says how the command ended.
        if self.verbosity == Verbosity::Quiet && matches!(event, RunEvent::Failed(..)) {
            return;
        }
        let least = match self.verbosity {
            Verbosity::Quiet => Severity::Warning,
            Verbosity::Normal => Severity::Story,
            Verbosity::Verbose => Severity::Detail,
        };
        if event.severity() < least {
            return;
        }
        let end = match (event.is_question(), event.ends_chapter()) {
            (true, _) => "",
            (false, true) => "\n\n",
            (false, false) => "\n",
        };
        let mut text = self.folded(mark, &text);
        if self.stamped {
            let stamp = stamp(now);
            text = format!("{stamp}{}", text.replace("\n   ", &format!("\n{stamp}   ")));
        }
        let mut pending = self.pending.borrow_mut();
        // One empty line is enough where nobody else writes.
        let parted = std::mem::replace(&mut pending.parted, event.ends_chapter()) && !self.shared;
        let asking = std::mem::replace(&mut pending.asking, event.is_question());
        let chapter = if event.opens_chapter() && !parted || asking && !event.is_question() {
            "\n"
        } else {
            ""
        };
        let text = format!("{chapter}{text}{end}");
        pending.texts.push_back(text);
        if pending.texts.len() > MOST_HELD {
            pending.texts.pop_front();
        }
        pending.write();
    }

    /// The question was answered with Enter, which has ended its line.
    pub(crate) fn is_answered(&self) {
        self.pending.borrow_mut().asking = false;
    }

    /// Holds output back while the command owns the terminal, and prints it afterwards.
    pub(crate) fn hold(&self, paused: bool) {
        let mut pending = self.pending.borrow_mut();
        if pending.paused != paused {
            pending.erase();
            pending.paused = paused;
        }
        pending.write();
    }

    /// Shows how long a wait still is: redraws one line in the foreground of a terminal, and prints a
    /// line every ten minutes elsewhere. `None`: there is no wait, and the line is erased. Returns
    /// after which time it wants to be called again.
    pub(crate) fn count_down(
        &self,
        until: Option<Until>,
        is_foreground: impl Fn() -> bool,
        now: Now,
    ) -> Option<Duration> {
        let left = until.map_or(Duration::ZERO, |until| until.remaining(now));
        let mut pending = self.pending.borrow_mut();
        let (Some(until), false) = (until, left.is_zero() || self.verbosity == Verbosity::Quiet)
        else {
            pending.erase();
            pending.spoken = None;
            return None;
        };
        let event = RunEvent::StillWaiting {
            span: left,
            at: until.wall,
            now: now.wall,
        };
        if self.redraws
            && is_foreground()
            && let Some(Message { mark, text }) = event.message()
        {
            pending.draw(&self.painted(mark), mark.text(self.utf8), &text);
            // Until the next whole second.
            let part = Duration::from_nanos(left.subsec_nanos().into());
            return Some(part + Duration::from_millis(1));
        }
        pending.erase();
        let quiet = now.tick - *pending.spoken.get_or_insert(now.tick);
        let Some(rest) = LINE_EACH.checked_sub(quiet).filter(|rest| !rest.is_zero()) else {
            pending.spoken = Some(now.tick);
            drop(pending);
            self.say(&event);
            return Some(LINE_EACH);
        };
        Some(rest)
    }

    /// The mark and the words, broken between words at the terminal's width; the terminal itself would
    /// break inside words.
    fn folded(&self, mark: Mark, words: &str) -> String {
        let whole = format!("{}{words}", self.painted(mark));
        let Some(width) = columns(&std::io::stderr()) else {
            return whole;
        };
        let style = Style {
            utf8: self.utf8,
            colour: false,
            width: width.max(NARROWEST),
        };
        let plain = mark.text(self.utf8);
        let text = style.folded(&format!("{plain}{words}"), INDENT);
        match text.strip_prefix(plain) {
            Some(rest) => self.painted(mark) + rest,
            None => whole,
        }
    }

    fn painted(&self, mark: Mark) -> String {
        let text = mark.text(self.utf8);
        let colour = match mark {
            Mark::Done => "\x1b[32m",
            Mark::Next => "\x1b[36m",
            Mark::Warning => "\x1b[33m",
            Mark::Failure => "\x1b[31m",
            Mark::None => return text.into(),
        };
        if self.colour {
            format!("{colour}{text}\x1b[0m")
        } else {
            text.into()
        }
    }
}

impl Pending {
    /// Writes what can be written without blocking. A pipe that polls as writable has room for
    /// PIPE_BUF bytes (pipe(7)), which is more than a message has; the rest is tried again with the
    /// next message.
    fn write(&mut self) {
        while !self.paused && is_writable(&std::io::stderr()) {
            let Some(text) = self.texts.pop_front() else {
                return;
            };
            self.erase();
            write_line(&text);
        }
    }

    /// Draws the countdown, at most as wide as the terminal.
    fn draw(&mut self, painted_mark: &str, mark: &str, words: &str) {
        if self.paused || !is_writable(&std::io::stderr()) {
            return;
        }
        let columns = columns(&std::io::stderr()).unwrap_or(WIDEST);
        // The last column stays free: some terminals break the line there.
        let room = columns.saturating_sub(mark.chars().count() + 1);
        let words: String = words.chars().take(room).collect();
        write_line(&format!("\r{painted_mark}{words}\x1b[K"));
        self.countdown = true;
    }

    /// Erases the countdown.
    fn erase(&mut self) {
        if std::mem::take(&mut self.countdown) {
            write_line("\r\x1b[K");
        }
    }
}

/// The local time before a line.
fn stamp(now: SystemTime) -> String {
    let now = Timestamp::try_from(now).unwrap_or_default();
    let here = time_zone::here().to_datetime(now);
    let (date, hour, minute, second) = (here.date(), here.hour(), here.minute(), here.second());
    // By hand: strftime is 15 kB.
    format!("{date} {hour:02}:{minute:02}:{second:02} ")
}

/// Whether two streams are the same file, terminal or pipe.
fn is_same_file(one: impl AsFd, other: impl AsFd) -> bool {
    let file = |stream: &dyn AsFd| {
        let copy = stream.as_fd().try_clone_to_owned().ok()?;
        let data = File::from(copy).metadata().ok()?;
        Some((data.dev(), data.ino()))
    };
    file(&one).is_some_and(|own| file(&other) == Some(own))
}

/// The style for output on stdout. `variable` looks a variable up.
pub(crate) fn style(variable: impl Fn(&str) -> Option<String>) -> Style {
    let stdout = std::io::stdout();
    let columns = columns(&stdout).or_else(|| variable("COLUMNS")?.parse().ok());
    Style {
        utf8: wants_utf8(&variable),
        colour: stdout.is_terminal() && wants_colour(&variable),
        width: columns.unwrap_or(WIDEST).clamp(NARROWEST, WIDEST),
    }
}

/// The terminal's width; `None` when it is no terminal, or does not know (a serial line says 0).
fn columns(out: &impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(out).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

fn wants_utf8(variable: &impl Fn(&str) -> Option<String>) -> bool {
    // The first of these that is set and not empty decides (locale(7)).
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|name| variable(name).filter(|value| !value.is_empty()))
        .unwrap_or_default()
        .to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

fn wants_colour(variable: &impl Fn(&str) -> Option<String>) -> bool {
    variable("NO_COLOR").is_none_or(|value| value.is_empty())
        && terminal::is_capable(variable("TERM").as_deref())
}

/// Whether a write would not block; also true when poll(2) fails.
fn is_writable(out: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}

/// Prints a command's answer on stdout. Returns whether stdout is still read; it is no error when the
/// reader has gone away (`ddollar report | head`).
///
/// # Errors
/// It cannot be written.
pub(crate) fn print(text: &str) -> Result<bool, Error> {
    let mut stdout = std::io::stdout();
    let printed = stdout
        .write_all(masked(text).as_bytes())
        .and_then(|()| stdout.flush());
    match printed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::Output {
            why: error.to_string(),
        }),
    }
}

/// Reports a failure of ddollar itself, and what can be done about it.
pub(crate) fn report(error: &Error) {
    let (error, hint) = (error.to_string(), error.hint());
    let (error, hint) = (visible(&error), visible_lines(&hint));
    log::error!("{error}");
    let text = format!("ddollar: {error}\nhint: {hint}");
    let text = match columns(&std::io::stderr()) {
        Some(width) => Style {
            utf8: true,
            colour: false,
            width: width.max(NARROWEST),
        }
        .folded(&text, INDENT),
        None => text,
    };
    write_line(&(text + "\n"));
}

/// Reports a bug in ddollar. The panic's message is left out: it could hold a token; its place in the
/// source cannot.
pub(crate) fn report_bug(place: &str) {
    write_line(&format!(
        "ddollar: internal error at {place}\nhint: please report it with the command line that led to it\n"
    ));
}

/// One write for the whole text, so that the command's output does not come in between.
fn write_line(text: &str) {
    // When stderr is gone there is nobody to tell.
    let _ = std::io::stderr().write_all(masked(text).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_a_wait_is_spoken_of_every_ten_minutes() {
        let mut console = Console::new(Verbosity::Normal, |_| None);
        console.redraws = false;
        let start = Now::of_tests();
        let until = Some(Until::after(Duration::from_secs(3600), start));
        let after = |seconds| {
            let now = start.after(Duration::from_secs(seconds));
            let next = console.count_down(until, || true, now);
            let spoken = console.pending.borrow().spoken;
            (
                next.map(|next| next.as_secs()),
                spoken.map(|at| (at - start.tick).as_secs()),
            )
        };
        assert_eq!(after(0), (Some(600), Some(0)));
        assert_eq!(after(15), (Some(585), Some(0)));
        assert_eq!(after(600), (Some(600), Some(600)));
        assert_eq!(after(1000), (Some(200), Some(600)));
        assert_eq!(after(1300), (Some(600), Some(1300)));
        assert_eq!(after(3600), (None, None));
    }
}
