//! The time zone that people here expect.
//!
//! TZ names it, by a name such as `Europe/Berlin`, else the system does (tzset(3)). It promises that a
//! name that is not known is no error: the time is then UTC, as with date(1).

use jiff::tz::TimeZone;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Where the zones are, after the folder that TZDIR names.
const FOLDERS: [&str; 2] = ["/usr/share/zoneinfo", "/etc/zoneinfo"];
/// Bytes of a zone that are read at most; the largest has under 4 kB.
const LARGEST: u64 = 64 << 10;

/// The zone of this process.
pub(crate) fn here() -> TimeZone {
    static NAMED: OnceLock<Option<TimeZone>> = OnceLock::new();
    let named = NAMED.get_or_init(named).clone();
    // jiff knows rules such as `CET-1CEST,M3.5.0,M10.5.0/3`, paths, and /etc/localtime. Names it knows with
    // a list of all zones alone, which one name does not need.
    named.unwrap_or_else(TimeZone::system)
}

fn named() -> Option<TimeZone> {
    let zone = std::env::var("TZ").ok()?;
    let name = zone.strip_prefix(':').unwrap_or(&zone);
    if name.is_empty() || name.starts_with('/') {
        return None;
    }
    let chosen = std::env::var_os("TZDIR").map(PathBuf::from);
    let mut folders = chosen.into_iter().chain(FOLDERS.map(PathBuf::from));
    folders.find_map(|folder| {
        let path = folder.join(name);
        let file = path.is_file().then(|| File::open(path).ok())??;
        let mut data = Vec::new();
        file.take(LARGEST).read_to_end(&mut data).ok()?;
        TimeZone::tzif(name, &data).ok()
    })
}
