//! The prompt: a thread that reads one line from the terminal.
//!
//! It promises to be cancellable at any moment: it never waits in `read`, and ends when its value is
//! dropped. What an answer means is the session's to say.

use crate::common::error::Error;
use crate::system::os;
use crossbeam_channel::Sender;
use nix::errno::Errno;
use std::fs::File;
use std::io::{ErrorKind, PipeWriter, Read};

/// What Ctrl-D at the prompt counts as: its character, which is no choice.
pub(crate) const END_OF_INPUT: &str = "\x04";
/// No answer is longer.
const LONGEST_LINE: usize = 256;

/// A question that is open. Dropping it stops the listening.
#[derive(Debug)]
pub(crate) struct Prompt {
    _cancel: PipeWriter,
}

impl Prompt {
    /// Listens for one line on `tty`, which goes to `lines`. Ctrl-D is a line of its own; a terminal
    /// that cannot be read gives none.
    ///
    /// # Errors
    /// When the system refuses a pipe or a thread.
    pub(crate) fn listen(tty: File, lines: Sender<String>) -> Result<Prompt, Error> {
        let refused = |why: std::io::Error| Error::System {
            what: "cannot ask at the terminal",
            why: why.to_string(),
        };
        let (cancelled, cancel) = std::io::pipe().map_err(refused)?;
        std::thread::Builder::new()
            .name("prompt".into())
            .stack_size(64 * 1024)
            .spawn(move || {
                let mut line = Vec::new();
                while !line.contains(&b'\n') && line.len() < LONGEST_LINE {
                    match os::is_readable(&tty, &cancelled) {
                        Ok(true) => {}
                        Err(Errno::EINTR) => continue,
                        Ok(false) | Err(_) => return,
                    }
                    let mut bytes = [0; 64];
                    match (&tty).read(&mut bytes) {
                        Err(why) if why.kind() == ErrorKind::Interrupted => {}
                        Err(_) => return,
                        // Also after a hang-up; ddollar is then in no foreground, and does not ask again.
                        Ok(0) => {
                            line = END_OF_INPUT.into();
                            break;
                        }
                        Ok(count) => line.extend_from_slice(bytes.get(..count).unwrap_or(&[])),
                    }
                }
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                let _ = lines.send(line);
            })
            .map_err(refused)?;
        Ok(Prompt { _cancel: cancel })
    }
}
