//! The terminal: who may use it, and in what state it is left.
//!
//! Owns what ddollar does with the controlling terminal: handing it to the child, taking it back, and the
//! terminal's modes on either side. It promises never to take the terminal from a foreground that is
//! neither ours nor the child's, and to write nothing to it after a child that ended by itself. It relies
//! on SIGTTOU being blocked.

use crate::system::exit_status::ExitStatus;
use crate::system::os;
use nix::libc::tcflag_t;
use nix::sys::signal::killpg;
use nix::sys::termios::{
    ControlFlags, FlushArg, InputFlags, LocalFlags, OutputFlags, SetArg, Termios, tcflush,
    tcgetattr, tcsetattr,
};
use nix::unistd::{Pid, getpgid, getpgrp, getppid, getsid, tcgetpgrp, tcsetpgrp};
use std::fs::{File, OpenOptions};
use std::io::{Write, stderr, stdin, stdout};
use std::os::fd::AsFd;

/// How things stand around the terminal at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TerminalState {
    pub(crate) front: Foreground,
    /// No shell would wake ddollar if it stopped itself.
    pub(crate) orphaned: bool,
}

/// Whose group is in the foreground of the terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Foreground {
    /// ddollar's own.
    Ours,
    /// The child's.
    Child,
    /// Any other, or there is no terminal.
    #[default]
    Other,
}

/// Ends every mode that a full-screen program may have left on. Each piece is harmless when its mode was
/// off (xterm's "Control Sequences", kitty's keyboard protocol). The cursor is saved before what would
/// move it: the end of the alternate screen restores a saved one, and a new scroll region sends it home.
/// kitty keeps a stack of keyboard modes for each screen.
const RESET: &str = concat!(
    "\x1b[?2026l",                               // synchronised output
    "\x1b[<99u\x1b[=0u",                         // kitty keyboard, main screen
    "\x1b7\x1b[?1049l",                          // alternate screen, without a jump of the cursor
    "\x1b[<99u\x1b[=0u",                         // kitty keyboard, the other screen
    "\x1b[>4;0m",                                // modifyOtherKeys
    "\x1b[?1000;1002;1003;1005;1006;1015;1016l", // mouse
    "\x1b[?1004l",                               // focus
    "\x1b[?2004l",                               // bracketed paste
    "\x1b[?2031l\x1b[?2048l",                    // colour and size reports
    "\x1b[?1l\x1b>",                             // cursor keys and keypad
    "\x1b7\x1b[r\x1b8",                          // scroll region
    "\x1b[?7h",                                  // wrap
    "\x1b[0 q\x1b[?25h",                         // cursor
    "\x1b(B\x0f\x1b[0m\r\n",                     // charset, colours, a fresh line
);

/// What ddollar may print over a paused full-screen program: a visible cursor, plain colours, the
/// last line. The program draws itself anew on SIGWINCH.
const PROMPT_PLACE: &str = "\x1b[?2004l\x1b[?25h\x1b[0m\x1b[999;1H\r\n";

/// The controlling terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    tty: File,
    /// ddollar's own process group.
    own: Pid,
    /// The modes as ddollar found them, or as the user set them since.
    usual: Option<Termios>,
    /// The modes and the foreground group of a stopped child that had the terminal.
    of_child: Option<(Option<Termios>, Pid)>,
    /// Whether the child has the terminal, as far as we gave it.
    handed: bool,
    /// Whether the child is to get it when it goes on.
    wanted: bool,
    /// Whether a child was started. Until then nobody has changed the modes, and whoever shares the
    /// terminal with ddollar may be changing them.
    used: bool,
}

impl Terminal {
    /// The controlling terminal, if there is one.
    pub(crate) fn open() -> Option<Terminal> {
        let tty = controlling()?;
        let own = getpgrp();
        // In the background they are those of whoever is in the foreground, such as a shell that
        // edits its next line.
        let ours = tcgetpgrp(&tty) == Ok(own);
        let usual = ours.then(|| tcgetattr(&tty).ok()).flatten();
        Some(Terminal {
            tty,
            own,
            usual,
            of_child: None,
            handed: false,
            wanted: false,
            used: false,
        })
    }

    /// Another handle on it.
    pub(crate) fn file(&self) -> std::io::Result<File> {
        self.tty.try_clone()
    }

    /// Whether ddollar's own group is in the foreground.
    pub(crate) fn is_ours(&self) -> bool {
        tcgetpgrp(&self.tty) == Ok(self.own)
    }

    /// Whether a new child gets the terminal at once: only when ddollar is in the foreground and
    /// reads from and writes to this very terminal. Behind a pipe, another program of the pipeline
    /// may be waiting for it.
    pub(crate) fn is_eager(&self) -> bool {
        tcgetpgrp(stdin()) == Ok(self.own) && tcgetpgrp(stdout()) == Ok(self.own)
    }

    /// Whether ddollar's own words would go to the child's screen.
    pub(crate) fn is_shared_with_child(&self) -> bool {
        self.handed && tcgetpgrp(stderr()).is_ok()
    }

    /// Before a start: the modes that the user had, so that the next child starts from them.
    pub(crate) fn prepare(&mut self) {
        self.of_child = None;
        self.wanted = false;
        self.restore();
        self.used = true;
    }

    /// The child takes the terminal by itself before it starts.
    pub(crate) fn is_taken_by_child(&mut self) {
        self.handed = true;
        self.wanted = true;
    }

    /// Gives it to the child, with the modes that it had when it stopped. Only out of our own
    /// hands.
    pub(crate) fn give(&mut self, child: Pid) -> bool {
        if !self.is_ours() {
            return false;
        }
        let (modes, group) = self.of_child.take().unwrap_or((None, child));
        self.set(modes.as_ref());
        // A group inside the child (an interactive shell's job) may be gone by now.
        let group = if killpg(group, None).is_ok() {
            group
        } else {
            child
        };
        match tcsetpgrp(&self.tty, group) {
            Ok(()) => {
                self.handed = true;
                true
            }
            Err(errno) => {
                log::warn!("cannot hand the terminal to the command: {errno}");
                false
            }
        }
    }

    /// The child goes on after a stop: it gets the terminal if it had it, or asked for it, or if
    /// a new child would get it. Says whether it did.
    pub(crate) fn give_if_wanted(&mut self, child: Pid) -> bool {
        if !self.is_ours() {
            return false;
        }
        // The user may have used stty while the shell was in the foreground.
        if self.of_child.is_some() || self.usual.is_none() {
            self.usual = tcgetattr(&self.tty).ok().or(self.usual.take());
        }
        (self.wanted || self.is_eager()) && self.give(child)
    }

    /// The child has stopped: takes the terminal back, if it had it, and remembers how it was. Says
    /// whether it had it.
    pub(crate) fn take_back(&mut self, child: Pid) -> bool {
        if !std::mem::take(&mut self.handed) {
            return false;
        }
        self.wanted = true;
        let Ok(group) = tcgetpgrp(&self.tty) else {
            return true;
        };
        if group == self.own {
            return true;
        }
        // What somebody else's foreground has set is nothing to remember.
        if group == child || getsid(Some(group)) == getsid(None) {
            self.of_child = Some((tcgetattr(&self.tty).ok(), group));
            self.reclaim();
            self.set(self.usual.as_ref());
        }
        true
    }

    /// The child has asked for the terminal by a stop.
    pub(crate) fn is_asked_for(&mut self) {
        self.wanted = true;
    }

    /// The child has ended. Whoever it left in the foreground is asked to leave, if it is the
    /// child itself or gone; a program that was killed in the middle leaves modes to be undone.
    /// `asked` says whether it was told to end.
    pub(crate) fn child_ended(&mut self, child: Pid, how: ExitStatus, asked: bool) {
        let had_it = std::mem::take(&mut self.handed);
        let remembered = self.of_child.take();
        let Ok(group) = tcgetpgrp(&self.tty) else {
            return;
        };
        let inner = remembered.as_ref().map(|(_, group)| *group);
        let gone = !os::group_lives(group);
        if group != self.own && (group == child || Some(group) == inner || gone) {
            self.reclaim();
        }
        if !had_it && remembered.is_none() {
            return;
        }
        match how {
            // What it found when it was started is not what the user has set.
            ExitStatus::Code(_) if asked => {}
            // It may have changed them on purpose, as stty does.
            ExitStatus::Code(_) => self.usual = tcgetattr(&self.tty).ok().or(self.usual.take()),
            ExitStatus::Signal(_) | ExitStatus::OutOfMemory => {
                let left = remembered
                    .and_then(|(modes, _)| modes)
                    .or_else(|| tcgetattr(&self.tty).ok());
                let raw = left.is_some_and(|modes| !modes.local_flags.contains(LocalFlags::ICANON));
                self.set(self.usual.as_ref());
                if raw {
                    self.reset();
                }
            }
        }
    }

    /// Makes the terminal fit for a question: lines with echo, nothing typed ahead, the cursor
    /// where text may go.
    pub(crate) fn prepare_prompt(&mut self) {
        if let Some(mut sane) = self.usual.clone().or_else(|| tcgetattr(&self.tty).ok()) {
            sane.local_flags |=
                LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ECHOE | LocalFlags::ISIG;
            sane.input_flags |= InputFlags::ICRNL;
            sane.output_flags |= OutputFlags::OPOST | OutputFlags::ONLCR;
            self.set(Some(&sane));
        }
        let full_screen = self.of_child.as_ref().is_some_and(|(modes, _)| {
            modes
                .as_ref()
                .is_some_and(|modes| !modes.local_flags.contains(LocalFlags::ICANON))
        });
        if full_screen && understands_escapes() {
            let _ = (&self.tty).write_all(PROMPT_PLACE.as_bytes());
        }
        // A key meant for the program must never be an answer.
        let _ = tcflush(&self.tty, FlushArg::TCIFLUSH);
    }

    /// The user's modes as text, for the watchdog.
    pub(crate) fn usual_modes(&self) -> String {
        self.usual.as_ref().map_or(String::new(), encoded)
    }

    /// Sets the modes that the user had, if a child may have changed them.
    pub(crate) fn restore(&self) {
        if self.used && self.is_ours() {
            self.set(self.usual.as_ref());
        }
    }

    fn reset(&self) {
        if understands_escapes() && tcgetpgrp(stdout()).is_ok() {
            let _ = (&self.tty).write_all(RESET.as_bytes());
        }
    }

    fn reclaim(&self) {
        if let Err(errno) = tcsetpgrp(&self.tty, self.own) {
            log::warn!("cannot take the terminal back: {errno}");
        }
    }

    fn set(&self, modes: Option<&Termios>) {
        if let Some(modes) = modes {
            // Not TCSADRAIN: after a Ctrl-S it would wait for a Ctrl-Q.
            let _ = tcsetattr(&self.tty, SetArg::TCSANOW, modes);
        }
    }
}

/// The terminal that controls this session: /dev/tty or, in a container that has none that works, the
/// standard stream that is it.
pub(crate) fn controlling() -> Option<File> {
    // Only of the controlling terminal is there a foreground group to be told (tcgetpgrp(3)).
    let is_it = |tty: &File| tcgetpgrp(tty).is_ok();
    let named = OpenOptions::new().read(true).write(true).open("/dev/tty");
    named.ok().filter(is_it).or_else(|| {
        let streams = [
            stdin().as_fd().try_clone_to_owned(),
            stderr().as_fd().try_clone_to_owned(),
            stdout().as_fd().try_clone_to_owned(),
        ];
        streams.into_iter().flatten().map(File::from).find(is_it)
    })
}

/// Whether the terminal understands escape sequences.
fn understands_escapes() -> bool {
    is_capable(std::env::var("TERM").ok().as_deref())
}

/// Whether a terminal of this name, the value of TERM, understands escape sequences.
pub(crate) fn is_capable(name: Option<&str>) -> bool {
    name.is_some_and(|name| !name.is_empty() && name != "dumb")
}

/// How things stand, with or without a terminal.
pub(crate) fn scene(terminal: Option<&Terminal>, child: Pid) -> TerminalState {
    let front = terminal.and_then(|terminal| Some((tcgetpgrp(&terminal.tty).ok()?, terminal.own)));
    TerminalState {
        front: match front {
            Some((group, own)) if group == own => Foreground::Ours,
            Some((group, _)) if group == child => Foreground::Child,
            _ => Foreground::Other,
        },
        orphaned: is_orphaned(),
    }
}

/// Whether ddollar's group is orphaned: its parent is not a member of the same session in another
/// group, so nobody would continue it after a stop (setpgid(2), "orphaned process group").
pub(crate) fn is_orphaned() -> bool {
    let parent = getppid();
    if parent.as_raw() <= 0 {
        return true;
    }
    let same_session = getsid(Some(parent)).is_ok_and(|session| getsid(None) == Ok(session));
    let other_group = getpgid(Some(parent)).is_ok_and(|group| group != getpgrp());
    !(same_session && other_group)
}

/// The modes as text, for the watchdog's command line: flags and control characters in hex.
fn encoded(modes: &Termios) -> String {
    let flags = format!(
        "{:x}:{:x}:{:x}:{:x}",
        modes.input_flags.bits(),
        modes.output_flags.bits(),
        modes.control_flags.bits(),
        modes.local_flags.bits()
    );
    modes
        .control_chars
        .iter()
        .fold(flags, |text, byte| format!("{text}:{byte:x}"))
}

/// Changes `modes` to those that [`encoded`] wrote; `None` when the text is not its work.
fn decoded(text: &str, mut modes: Termios) -> Option<Termios> {
    let mut numbers = text
        .split(':')
        .map(|part| tcflag_t::from_str_radix(part, 16).ok());
    modes.input_flags = InputFlags::from_bits_retain(numbers.next()??);
    modes.output_flags = OutputFlags::from_bits_retain(numbers.next()??);
    modes.control_flags = ControlFlags::from_bits_retain(numbers.next()??);
    modes.local_flags = LocalFlags::from_bits_retain(numbers.next()??);
    for place in &mut modes.control_chars {
        *place = u8::try_from(numbers.next()??).ok()?;
    }
    Some(modes)
}

/// What the watchdog does for a terminal when ddollar itself was killed: the modes as they were,
/// and the reset of a full-screen program's. A process of another session may do this.
pub(crate) fn rescue(tty: &File, usual: &str) {
    let Ok(found) = tcgetattr(tty) else { return };
    let raw = !found.local_flags.contains(LocalFlags::ICANON);
    if let Some(usual) = decoded(usual, found) {
        let _ = tcsetattr(tty, SetArg::TCSANOW, &usual);
    }
    if raw {
        reset(tty);
    }
}

/// Whether the terminal takes single keys.
pub(crate) fn is_raw(tty: &File) -> bool {
    tcgetattr(tty).is_ok_and(|modes| !modes.local_flags.contains(LocalFlags::ICANON))
}

/// Ends every mode of a full-screen program.
pub(crate) fn reset(mut tty: &File) {
    if understands_escapes() {
        let _ = tty.write_all(RESET.as_bytes());
    }
}
