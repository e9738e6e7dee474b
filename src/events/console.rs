//! Where ddollar's own words go: stderr and the log.
//!
//! Owns the style (marks, colour, how much is said). It promises never to fail and never to write
//! to stdout while a command is supervised: that belongs to the child. It never waits for a reader:
//! a stderr that is closed or full costs words, not the run.

use crate::common::error::Error;
use crate::common::mask::masked;
use crate::common::style::{NARROWEST, Style, WIDEST};
use crate::common::time::{Now, Until};
use crate::events::message::{Mark, Message};
use crate::events::{RunEvent, Severity};
use crate::system::terminal;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// `-q`: warnings and failures.
    Quiet,
    /// The story.
    Normal,
    /// `-v`: each probe's numbers too.
    Verbose,
}

/// So many notices wait for the screen at most; the oldest go first.
const MOST_HELD: usize = 200;

/// How far the further lines of a notice are indented, in columns.
const INDENT: usize = 3;

/// Where the countdown cannot be redrawn, it is a line this often.
const LINE_EACH: Duration = Duration::from_secs(600);

/// ddollar's voice.
#[derive(Debug)]
pub(crate) struct Console {
    verbosity: Verbosity,
    utf8: bool,
    colour: bool,
    /// Whether a line can be drawn over another.
    redraws: bool,
    /// Whether stdout, the command's own, is the same place: then its words come in between.
    shared: bool,
    /// What is said but not yet written.
    held: RefCell<Held>,
}

/// Words that wait: for the screen, while it is the child's, or for a reader.
#[derive(Debug, Default)]
struct Held {
    screen_is_the_childs: bool,
    /// Whether the last line is the countdown, which the next words replace.
    countdown: bool,
    /// Whether the last words were followed by an empty line.
    parted: bool,
    /// When the wait began, or was last spoken of.
    spoken: Option<Instant>,
    texts: VecDeque<String>,
}

impl Console {
    /// A voice for this environment. `variable` looks a variable up.
    pub(crate) fn new(verbosity: Verbosity, variable: impl Fn(&str) -> Option<String>) -> Console {
        Console {
            verbosity,
            utf8: takes_utf8(&variable),
            colour: std::io::stderr().is_terminal() && takes_colour(&variable),
            redraws: std::io::stderr().is_terminal()
                && terminal::is_capable(variable("TERM").as_deref()),
            shared: are_one(std::io::stdout(), std::io::stderr()),
            held: RefCell::default(),
        }
    }

    /// Tells people of an event, if it matters enough, and logs it in any case.
    pub(crate) fn say(&self, event: &RunEvent) {
        let Some(Message { mark, text }) = event.message() else {
            return;
        };
        log::info!("{text}");
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
        let text = self.folded(mark, &text);
        let mut held = self.held.borrow_mut();
        // One empty line is enough, where nobody else writes.
        let parted = std::mem::replace(&mut held.parted, event.ends_chapter()) && !self.shared;
        let chapter = if event.opens_chapter() && !parted {
            "\n"
        } else {
            ""
        };
        let text = format!("{chapter}{text}{end}");
        held.texts.push_back(text);
        if held.texts.len() > MOST_HELD {
            held.texts.pop_front();
        }
        held.write();
    }

    /// The screen is the child's, or ours again: nothing is printed in between.
    pub(crate) fn hold(&self, screen_is_the_childs: bool) {
        let mut held = self.held.borrow_mut();
        if held.screen_is_the_childs != screen_is_the_childs {
            held.erase();
            held.screen_is_the_childs = screen_is_the_childs;
        }
        held.write();
    }

    /// Counts down to `until`: draws the line anew in the foreground of a terminal, and says it now
    /// and then elsewhere. `None`: there is no wait, and the line goes. Returns when it wants to be
    /// called again.
    pub(crate) fn count_down(
        &self,
        until: Option<Until>,
        is_foreground: impl Fn() -> bool,
        now: Now,
    ) -> Option<Duration> {
        let left = until.map_or(Duration::ZERO, |until| until.remaining(now));
        let mut held = self.held.borrow_mut();
        let (Some(until), false) = (until, left.is_zero() || self.verbosity == Verbosity::Quiet)
        else {
            held.erase();
            held.spoken = None;
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
            held.draw(&self.painted(mark), mark.text(self.utf8), &text);
            // Until the next whole second.
            let part = Duration::from_nanos(left.subsec_nanos().into());
            return Some(part + Duration::from_millis(1));
        }
        held.erase();
        let quiet = now.tick - *held.spoken.get_or_insert(now.tick);
        let Some(rest) = LINE_EACH.checked_sub(quiet).filter(|rest| !rest.is_zero()) else {
            held.spoken = Some(now.tick);
            drop(held);
            self.say(&event);
            return Some(LINE_EACH);
        };
        Some(rest)
    }

    /// The mark and the words, in lines that are no longer than the terminal is wide: by itself it
    /// would break inside words.
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

impl Held {
    /// Writes what can be written without waiting. A pipe that has room at all has room for one
    /// text (pipe(7), PIPE_BUF); what is left is tried again with the next one.
    fn write(&mut self) {
        while !self.screen_is_the_childs && takes_words(&std::io::stderr()) {
            let Some(text) = self.texts.pop_front() else {
                return;
            };
            self.erase();
            write_line(&text);
        }
    }

    /// Draws the countdown, at most as wide as the terminal.
    fn draw(&mut self, painted_mark: &str, mark: &str, words: &str) {
        if self.screen_is_the_childs || !takes_words(&std::io::stderr()) {
            return;
        }
        let columns = columns(&std::io::stderr()).unwrap_or(WIDEST);
        // The last column stays free: some terminals break the line there.
        let room = columns.saturating_sub(mark.chars().count() + 1);
        let words: String = words.chars().take(room).collect();
        write_line(&format!("\r{painted_mark}{words}\x1b[K"));
        self.countdown = true;
    }

    /// Takes the countdown away.
    fn erase(&mut self) {
        if std::mem::take(&mut self.countdown) {
            write_line("\r\x1b[K");
        }
    }
}

/// Whether two streams end in one file, terminal or pipe.
fn are_one(one: impl AsFd, other: impl AsFd) -> bool {
    let file = |stream: &dyn AsFd| {
        let copy = stream.as_fd().try_clone_to_owned().ok()?;
        let data = File::from(copy).metadata().ok()?;
        Some((data.dev(), data.ino()))
    };
    file(&one).is_some_and(|own| file(&other) == Some(own))
}

/// How an answer on stdout is to be drawn. `variable` looks a variable up.
pub(crate) fn style(variable: impl Fn(&str) -> Option<String>) -> Style {
    let stdout = std::io::stdout();
    let columns = columns(&stdout).or_else(|| variable("COLUMNS")?.parse().ok());
    Style {
        utf8: takes_utf8(&variable),
        colour: stdout.is_terminal() && takes_colour(&variable),
        width: columns.unwrap_or(WIDEST).clamp(NARROWEST, WIDEST),
    }
}

/// How wide this terminal is. One that nobody has told its size, such as a serial line, says 0.
fn columns(out: &impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(out).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

fn takes_utf8(variable: &impl Fn(&str) -> Option<String>) -> bool {
    // The first of these that is set and not empty decides (locale(7)).
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|name| variable(name).filter(|value| !value.is_empty()))
        .unwrap_or_default()
        .to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

fn takes_colour(variable: &impl Fn(&str) -> Option<String>) -> bool {
    variable("NO_COLOR").is_none_or(|value| value.is_empty())
        && terminal::is_capable(variable("TERM").as_deref())
}

/// Whether a write to it would not block. What cannot be asked does not block either.
fn takes_words(out: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}

/// Prints what was asked for on stdout; whether it is still read. A reader that went away has seen
/// enough.
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

/// Reports ddollar's own failure: what, and what to do.
pub(crate) fn report(error: &Error) {
    log::error!("{error}");
    write_line(&format!("ddollar: {error}\nhint: {}\n", error.hint()));
}

/// Reports that ddollar itself is broken. The panic's own words could hold anything; the place
/// cannot.
pub(crate) fn report_bug(place: &str) {
    write_line(&format!(
        "ddollar: internal error at {place}\nhint: please report it with the command line that led to it\n"
    ));
}

/// One write for the whole line, so that the child's own words do not come between.
fn write_line(text: &str) {
    // Nobody is left to tell when stderr is gone.
    let _ = std::io::stderr().write_all(masked(text).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn without_a_terminal_a_wait_is_spoken_of_every_ten_minutes() {
        let mut console = Console::new(Verbosity::Normal, |_| None);
        console.redraws = false;
        let start = Now {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            tick: Instant::now(),
        };
        let until = Some(Until::after(Duration::from_secs(3600), start));
        let after = |seconds| {
            let span = Duration::from_secs(seconds);
            let now = Now {
                wall: start.wall + span,
                tick: start.tick + span,
            };
            let next = console.count_down(until, || true, now);
            let spoken = console.held.borrow().spoken;
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
