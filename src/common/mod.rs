//! What every folder may use: errors, time, secrets, text, files, HTTP/1.1.

pub(crate) mod body;
pub(crate) mod bytes;
pub(crate) mod duration;
pub(crate) mod error;
pub(crate) mod http;
pub(crate) mod json;
pub(crate) mod json_places;
pub(crate) mod logging;
pub(crate) mod mask;
pub(crate) mod private_file;
pub(crate) mod secret;
pub(crate) mod style;
pub(crate) mod time;
pub(crate) mod visible;

use std::ffi::OsString;

/// Something that a thread cannot do, as a sentence; the run goes on without it.
pub(crate) type Warning = String;

/// A map or a set of these items. `collect` would sort them first, which takes 4 kB of program for each type.
pub(crate) fn filled<T, C: Default + Extend<T>>(items: impl Iterator<Item = T>) -> C {
    let mut collection = C::default();
    collection.extend(items);
    collection
}

/// Names and values, as the system has them.
pub(crate) type Environment = Vec<(OsString, OsString)>;
