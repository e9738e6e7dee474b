//! The tokens of the environment and of the files that it names, at the start and again later.
//!
//! Reads token files. It promises that a file which has not changed is not read again, that a pipe
//! (`NAME=<(pass show ...)`) is read once, and that looking again never ends a run: where a file cannot be
//! used any more, that is said once, and the tokens stay as they are.

use crate::common::error::Error;
use crate::common::private_file;
use crate::common::time::Now;
use crate::events::RunEvent;
use crate::providers::Provider;
use crate::tokens::store::Store;
use crate::tokens::{
    Discovered, ONE_A_LINE, Renewal, Source, Token, TokenFile, TokenPool, Unreadable, discover,
};
use nix::fcntl::OFlag;
use std::cell::RefCell;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A token file larger than this is none.
const LARGEST_TOKEN_FILE: u64 = 1 << 20;

/// What the environment said of tokens, and the files that it names.
#[derive(Default)]
pub(crate) struct TokenFiles {
    providers: Vec<&'static Provider>,
    variables: Vec<(String, String)>,
    files: Vec<Known>,
    /// Whether it was said that a pipe is not read again.
    said_pipe: bool,
    /// What was said last of a file that cannot be used.
    said: String,
}

/// A file as it was read last.
struct Known {
    path: PathBuf,
    kept: Kept,
}

/// What is kept of it.
enum Kept {
    /// By what another version of it is known.
    Version(Version),
    /// What came out of a pipe, which gives it once.
    Text(Vec<u8>),
}

/// Device, number, size, and the times of the last changes of a file.
type Version = (u64, u64, u64, [i64; 4]);

/// By hand: it holds tokens.
impl std::fmt::Debug for TokenFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(token files)")
    }
}

impl TokenFiles {
    /// Finds the tokens of `providers` in these variables and in the files that they name.
    ///
    /// # Errors
    /// Something that names a token cannot be used.
    pub(super) fn read(
        providers: &[&'static Provider],
        variables: &[(String, String)],
    ) -> Result<(Discovered, TokenFiles), Error> {
        let mut own = TokenFiles {
            providers: providers.to_vec(),
            ..TokenFiles::default()
        };
        let found = own.discover(variables)?;
        if !own.files.is_empty() {
            own.variables = variables.to_vec();
        }
        Ok((found, own))
    }

    /// Whether any token came from a file.
    pub(crate) fn are_there(&self) -> bool {
        !self.files.is_empty()
    }

    /// Reads the files again: what has changed for each of these rings, and what there is to say. New
    /// tokens take on what `store` knows of them.
    pub(crate) fn renewals<'a>(
        &mut self,
        pools: impl Iterator<Item = &'a TokenPool>,
        store: &mut Store,
        threshold: f64,
        now: Now,
    ) -> (Vec<(usize, Renewal)>, Option<RunEvent>) {
        let (found, say) = self.again();
        let Some(found) = found else {
            return (Vec::new(), say);
        };
        let pools = pools.enumerate();
        let mut renewals: Vec<(usize, Renewal)> = pools
            .filter_map(|(ring, pool)| Some((ring, pool.compare(&found)?)))
            .collect();
        for (ring, renewal) in &mut renewals {
            if let Some(added) = &mut renewal.added {
                store.recall_more(*ring, added, threshold, now);
            }
        }
        (renewals, say)
    }

    /// All tokens that there are now, if a file has changed; and what there is to say.
    fn again(&mut self) -> (Option<Vec<Token>>, Option<RunEvent>) {
        if !self.files.iter().any(Known::has_changed) {
            let pipe = self.files.iter().find(|file| !file.can_change());
            let pipe = pipe.filter(|_| !self.said_pipe);
            let say = pipe.map(|file| RunEvent::NotReadAgain(file.path.display().to_string()));
            self.said_pipe = true;
            return (None, say);
        }
        let variables = std::mem::take(&mut self.variables);
        let found = self.discover(&variables);
        self.variables = variables;
        match found {
            Ok(found) => {
                self.said.clear();
                (Some(found.tokens), None)
            }
            Err(error) => {
                let what = format!("The tokens stay as they are: {error}");
                let is_news = self.said != what;
                self.said.clone_from(&what);
                (None, is_news.then_some(RunEvent::Warning(what)))
            }
        }
    }

    /// The tokens in these variables, and in the files as they are now.
    fn discover(&mut self, variables: &[(String, String)]) -> Result<Discovered, Error> {
        let read = RefCell::new(Vec::new());
        let known = &self.files;
        let source = Source {
            variables,
            read: &|path| {
                let known = known.iter().find(|file| file.path == path);
                let (file, kept) = read_file(path, known)?;
                read.borrow_mut().push(Known {
                    path: path.to_owned(),
                    kept,
                });
                Ok(file)
            },
        };
        let found = discover(&self.providers, &source)?;
        self.files = read.into_inner();
        Ok(found)
    }
}

impl Known {
    fn can_change(&self) -> bool {
        matches!(self.kept, Kept::Version(_))
    }

    /// Whether it is another one than the one that was read; one that is gone is.
    fn has_changed(&self) -> bool {
        match &self.kept {
            Kept::Version(known) => {
                let is_same = |now: Metadata| version(&now) == *known;
                !fs::metadata(&self.path).is_ok_and(is_same)
            }
            Kept::Text(_) => false,
        }
    }
}

fn version(file: &Metadata) -> Version {
    let times = [
        file.mtime(),
        file.mtime_nsec(),
        file.ctime(),
        file.ctime_nsec(),
    ];
    (file.dev(), file.ino(), file.size(), times)
}

/// Reads a token file; `known` is what it was before. At the start a pipe is waited for, later nothing is.
fn read_file(path: &Path, known: Option<&Known>) -> Result<(TokenFile, Kept), Unreadable> {
    if let Some(Known {
        kept: Kept::Text(text),
        ..
    }) = known
    {
        let file = TokenFile {
            text: text.clone(),
            exposed: None,
        };
        return Ok((file, Kept::Text(text.clone())));
    }
    let words = |error: io::Error| Unreadable {
        why: error.to_string(),
        hint: match error.kind() {
            ErrorKind::NotFound => "check the path; the file holds one token a line",
            ErrorKind::PermissionDenied => {
                "make it readable for the user that runs ddollar: chown, chmod 600"
            }
            _ => ONE_A_LINE,
        },
    };
    let unusable = |why: &str| Unreadable {
        why: why.into(),
        hint: ONE_A_LINE,
    };
    let flags = match known {
        None => OFlag::empty(),
        Some(_) => OFlag::O_NONBLOCK,
    };
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(flags.bits());
    let file: File = options.open(path).map_err(words)?;
    // From before it is read: whatever is written later is a change.
    let metadata = file.metadata().map_err(words)?;
    if known.is_some() && !metadata.is_file() {
        return Err(unusable("it is not a regular file any more"));
    }
    let mut text = Vec::new();
    file.take(LARGEST_TOKEN_FILE + 1)
        .read_to_end(&mut text)
        .map_err(words)?;
    if text.len() as u64 > LARGEST_TOKEN_FILE {
        return Err(unusable("it is larger than 1 MiB"));
    }
    let kept = match metadata.is_file() {
        true => Kept::Version(version(&metadata)),
        false => Kept::Text(text.clone()),
    };
    // In a folder that all can write to, anybody can put another in its place, unless only owners
    // can rename and remove there (S_ISVTX, inode(7)).
    let is_open = |folder: Metadata| folder.mode() & 0o1002 == 0o002;
    let exposed = if metadata.mode() & 0o066 != 0 {
        Some("chmod 600")
    } else if !metadata.is_file() {
        None
    } else if private_file::is_foreign(&metadata) {
        Some("chown it to the user that runs ddollar")
    } else {
        let folder = fs::metadata(private_file::folder_of(path));
        folder.is_ok_and(is_open).then_some("chmod o-w its folder")
    };
    Ok((TokenFile { text, exposed }, kept))
}
