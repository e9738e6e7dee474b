//! The log file of `--log`.
//!
//! It promises lines with times, appended, and no token: nothing of ours that holds one can be
//! formatted, and no other crate gets a word in (at trace ureq dumps the bytes of each request, the
//! token among them, and at debug the headers of each response).
//! Without `--log` nothing is logged at all, and stderr stays the console's.

use crate::common::error::Error;
use crate::common::mask::masked;
use crate::common::private_file;
use env_logger::{Builder, Target};
use jiff::Timestamp;
use log::LevelFilter;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

/// Starts logging to `path`, at `level` (`DDOLLAR_LOG`) and above; one that is none says nothing.
///
/// # Errors
/// When the file cannot be appended to.
pub(crate) fn start(path: Option<&Path>, level: Option<&str>) -> Result<(), Error> {
    let Some(path) = path else {
        return Ok(());
    };
    let options = &mut OpenOptions::new();
    let file = private_file::append(options.create(true), path).map_err(|error| Error::File {
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
            writeln!(line, "{now:.3} {level:5} {target}: {}", masked(&words))
        })
        .target(Target::Pipe(Box::new(file)));
    // A second logger in one process is not a reason to stop.
    let _ = builder.try_init();
    Ok(())
}
