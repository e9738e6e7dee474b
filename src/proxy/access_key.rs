//! The proxy's own secret: what applications send in place of a token. The command of a run that is
//! offered the proxy sends one of the run's tokens, which counts as well.
//!
//! It promises that only those who can read the user's files know it, that it stays the same from
//! one start to the next where it can be kept, and that comparing tells nothing about it by its time.
//! Like a token, it is never printed but in the lines that are there to hand it over.

use crate::common::bytes;
use crate::common::error::Error;
use crate::common::private_file;
use crate::common::secret::Secret;
use crate::tokens::{Token, TokenPool};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use subtle::ConstantTimeEq;

/// Random bytes in a secret; in hexadecimal it is twice as long.
const BYTES: usize = 24;
/// Made-up tokens may be shorter than this; ordinary words contain them. They are not looked for.
const SHORTEST_FOUND: usize = 8;
/// A file of more bytes holds something else.
const LARGEST: u64 = 1024;
/// What a secret begins with, so that one that turns up somewhere is known for what it is.
pub(crate) const PREFIX: &str = "ddollar-";

/// The secret of this proxy.
#[derive(Debug)]
pub(crate) struct AccessKey {
    secret: Secret,
    /// Tokens that are as good.
    tokens: RwLock<Vec<Secret>>,
}

impl AccessKey {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub(crate) fn new() -> Result<AccessKey, Error> {
        let mut bytes = [0; BYTES];
        File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(&mut bytes))
            .map_err(|error| Error::System {
                what: "cannot read /dev/urandom",
                why: error.to_string(),
            })?;
        let text = bytes.iter().fold(PREFIX.to_owned(), |mut text, byte| {
            for digit in [byte >> 4, byte & 15] {
                text.extend(char::from_digit(digit.into(), 16));
            }
            text
        });
        Ok(AccessKey::of(&text))
    }

    fn of(text: &str) -> AccessKey {
        AccessKey {
            secret: Secret::new(text),
            tokens: RwLock::default(),
        }
    }

    /// The same, with tokens that are as good as the secret: those of the run, which its command has.
    pub(crate) fn or_one_of(self, tokens: Vec<Secret>) -> AccessKey {
        let tokens = RwLock::new(tokens);
        AccessKey { tokens, ..self }
    }

    /// Whether a token is as good.
    pub(crate) fn takes_tokens(&self) -> bool {
        !self.tokens().is_empty()
    }

    /// If a token is as good, these are as well. One that is gone stays good: the command may have it.
    pub(crate) fn add(&self, added: &TokenPool) {
        if self.takes_tokens() {
            let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
            tokens.extend(added.tokens().map(|token| token.secret.clone()));
        }
    }

    fn tokens(&self) -> RwLockReadGuard<'_, Vec<Secret>> {
        self.tokens.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one in `folder`, or a new one that is left there. Where it cannot be kept, as on a file
    /// system that is read-only, it is good for this start alone, and why comes with it.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub(crate) fn kept_in(folder: &Path) -> Result<(AccessKey, Option<String>), Error> {
        let path = folder.join("proxy-secret");
        let read = match private_file::read_own(&path, LARGEST) {
            Ok(bytes) => match str::from_utf8(&bytes).map(str::trim) {
                Ok(text) if is_whole(text) => return Ok((AccessKey::of(text), None)),
                _ => Ok(()),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            // Nothing is put in place of what others may read or have put there.
            Err(error) => Err(error),
        };
        let key = AccessKey::new()?;
        let kept = read.and_then(|()| write_private(&path, key.secret.expose()));
        let why = kept.err();
        Ok((key, why.map(|why| format!("'{}': {why}", path.display()))))
    }

    /// Whether `given` is it, or a token that is as good. The time that this takes depends on lengths
    /// alone.
    pub(crate) fn is(&self, given: &[u8]) -> bool {
        let same = |own: &Secret| own.expose().as_bytes().ct_eq(given);
        let tokens = self.tokens();
        tokens
            .iter()
            .fold(same(&self.secret), |known, own| known | same(own))
            .into()
    }

    /// Whether it stands in what an authorized client has sent, where it must not go on.
    pub(crate) fn is_in(&self, text: &[u8]) -> bool {
        let tokens = self.tokens();
        let own = std::iter::once(&self.secret).chain(&*tokens);
        own.map(|own| own.expose().as_bytes())
            .filter(|own| own.len() >= SHORTEST_FOUND)
            .any(|own| bytes::find(text, own).is_some())
    }

    /// What a supervised command gets in place of its tokens of one provider.
    pub(crate) fn stand_in(&self, token: &Token) -> Token {
        Token {
            secret: self.secret.clone(),
            group: None,
            ..token.clone()
        }
    }

    /// A shell line that hands it over in a variable.
    pub(crate) fn export(&self, variable: &str) -> String {
        format!("export {variable}='{}'\n", self.secret.expose())
    }
}

fn is_whole(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(|digits| {
        digits.len() == 2 * BYTES && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Writes a file that only its owner can read. It is there as a whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    private_file::create_folder(private_file::folder_of(path))?;
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    private_file::replace(path, &draft, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_kept_for_the_owner_alone() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("state/ddollar");
        let (first, why) = AccessKey::kept_in(&folder).unwrap();
        assert_eq!(why, None);
        let file = folder.join("proxy-secret");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(&folder)), (0o600, 0o700));
        let text = fs::read_to_string(&file).unwrap();
        assert!(first.is(text.as_bytes()) && text.len() == 56, "{text}");
        assert!(!first.is(&text.as_bytes()[1..]) && !first.is(b""));
        assert!(AccessKey::kept_in(&folder).unwrap().0.is(text.as_bytes()));
        fs::write(&file, "ddollar-cut").unwrap();
        assert!(!AccessKey::kept_in(&folder).unwrap().0.is(text.as_bytes()));
    }

    #[test]
    fn the_tokens_of_the_run_are_as_good() {
        let key = AccessKey::new().unwrap();
        assert!(!key.takes_tokens() && !key.is(b"token-aaaa-1"));
        let key = key.or_one_of(["token-aaaa-1", "x"].map(Secret::new).into());
        assert!(key.takes_tokens() && key.is(b"token-aaaa-1") && key.is(b"x"));
        assert!(!key.is(b"token-aaaa-2") && !key.is(b"token-aaaa-11") && !key.is(b""));
        // None goes on in a parameter or a field; but words are words.
        assert!(key.is_in(b"key=token-aaaa-1") && !key.is_in(b"text/plain, x"));
    }
}
