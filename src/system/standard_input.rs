//! What each start of the command shares: standard input, of which one does not find what another has read, and
//! whether the standard streams block.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Whence, lseek};
use std::io::{stderr, stdin, stdout};
use std::os::fd::AsFd;

/// What standard input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StandardInput {
    /// A file, whose offset was this when ddollar was started.
    File(i64),
    /// A pipe or a socket: what was read from it is gone.
    Pipe,
    /// A terminal or a device, or nobody knows.
    Other,
}

/// The status flags of the three standard streams (fcntl(2)). All who share a stream share them, and a program
/// may leave `O_NONBLOCK` behind when it is ended, with which the next one's reads fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StatusFlags([Option<OFlag>; 3]);

impl StatusFlags {
    /// What they are now.
    pub(crate) fn look() -> StatusFlags {
        StatusFlags([flags(stdin()), flags(stdout()), flags(stderr())])
    }

    /// Sets them back to that where they are others by now.
    pub(crate) fn restore(self) {
        let [input, output, error] = self.0;
        set_flags(stdin(), input);
        set_flags(stdout(), output);
        set_flags(stderr(), error);
    }
}

fn flags(stream: impl AsFd) -> Option<OFlag> {
    fcntl(stream, FcntlArg::F_GETFL)
        .ok()
        .map(OFlag::from_bits_truncate)
}

fn set_flags(stream: impl AsFd, then: Option<OFlag>) {
    if let (Some(then), now) = (then, flags(&stream))
        && now != Some(then)
    {
        let _ = fcntl(stream, FcntlArg::F_SETFL(then));
    }
}

impl StandardInput {
    /// What it is now.
    pub(crate) fn look() -> StandardInput {
        let kind =
            fstat(stdin()).map(|found| SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT);
        match kind {
            Ok(SFlag::S_IFREG) => {
                lseek(stdin(), 0, Whence::SeekCur).map_or(StandardInput::Other, StandardInput::File)
            }
            Ok(SFlag::S_IFIFO | SFlag::S_IFSOCK) => StandardInput::Pipe,
            _ => StandardInput::Other,
        }
    }

    /// Sets a file back to that offset.
    pub(crate) fn rewind(self) {
        if let StandardInput::File(position) = self
            && let Err(errno) = lseek(stdin(), position, Whence::SeekSet)
        {
            log::warn!("cannot rewind standard input: {errno}");
        }
    }

    /// Whether it is a pipe that is read once: one that holds something before the first start, or whose end
    /// was reached before a later one. One that is silent and open may just be what the caller had.
    pub(crate) fn is_read_once(self, again: bool) -> bool {
        let input = stdin();
        let mut looks = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
        if self != StandardInput::Pipe || poll(&mut looks, PollTimeout::ZERO).is_err() {
            return false;
        }
        let [look] = looks;
        let found = look.revents().unwrap_or(PollFlags::empty());
        let holds = found.contains(PollFlags::POLLIN);
        match again {
            false => holds,
            true => !holds && found.contains(PollFlags::POLLHUP),
        }
    }
}
