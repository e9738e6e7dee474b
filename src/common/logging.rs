//! The log file of `--log`.
//!
//! It promises lines with times, appended, a bound on the file's size, and no token: nothing of ours that
//! holds one can be formatted, and no other crate may log (at trace ureq dumps the bytes of each request,
//! the token among them, and at debug the headers of each response).
//! Without `--log` nothing is logged at all, and stderr stays the console's.

use crate::common::error::Error;
use crate::common::mask::masked;
use crate::common::private_file;
use crate::common::visible::visible;
use env_logger::{Builder, Target};
use jiff::Timestamp;
use log::LevelFilter;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes of a log after which a new one is begun. The old one is kept until that is full, too.
const LARGEST: u64 = 32 << 20;

/// Starts logging to `path`, at `level` (`DDOLLAR_LOG`) and above; one that is none says nothing.
///
/// # Errors
/// When the file cannot be appended to.
pub(crate) fn start(path: Option<&Path>, level: Option<&str>) -> Result<(), Error> {
    let Some(path) = path else {
        return Ok(());
    };
    let log = LogFile::open(path).map_err(|error| Error::File {
        what: "log file",
        path: path.to_owned(),
        why: error.to_string(),
        hint: "name a file in a folder that exists and that you can write to",
    })?;
    let mut builder = Builder::new();
    builder
        .filter_level(
            level
                .and_then(|level| level.parse().ok())
                .unwrap_or(LevelFilter::Info),
        )
        .format(|line, record| {
            if !record.target().starts_with(env!("CARGO_PKG_NAME")) {
                return Ok(());
            }
            let now = Timestamp::try_from(SystemTime::now()).unwrap_or_default();
            let level = record.level();
            let target = record.target();
            let words = record.args().to_string();
            writeln!(
                line,
                "{now:.3} {level:5} {target}: {}",
                visible(&masked(&words))
            )
        })
        .target(Target::Pipe(Box::new(log)));
    // A second logger in one process is not a reason to stop.
    let _ = builder.try_init();
    Ok(())
}

/// The file of a name, whichever that is at the moment: logrotate(8) renames the old one.
struct LogFile {
    path: PathBuf,
    file: File,
    /// Device and inode of the file.
    which: (u64, u64),
}

impl LogFile {
    fn open(path: &Path) -> io::Result<LogFile> {
        let file = private_file::append(OpenOptions::new().create(true), path)?;
        let which = identity(&file.metadata()?);
        Ok(LogFile {
            path: std::path::absolute(path)?,
            file,
            which,
        })
    }
}

/// Where a full log goes: the name with `.old` at its end.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".old");
    name.into()
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let here = std::fs::metadata(&self.path).ok();
        let here = here.filter(|now| identity(now) == self.which);
        let is_full = here
            .as_ref()
            .is_some_and(|now| now.is_file() && now.len() >= LARGEST);
        if is_full {
            // Where that is not possible, the log goes on as it is.
            let _ = std::fs::rename(&self.path, beside(&self.path));
        }
        if (here.is_none() || is_full)
            && let Ok(anew) = LogFile::open(&self.path)
        {
            *self = anew;
        }
        self.file.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
