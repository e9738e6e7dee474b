//! Ids for new sessions, and whether a session exists on disk, so that it can be resumed.
//!
//! `claude` keeps sessions as `projects/FOLDER/ID.jsonl` in its own folder (measured with 2.1.332). No
//! transcript is read, only names are looked at. A session that is not found is started anew.

use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;

/// A random UUID (RFC 9562, version 4), the only kind of id that `claude` takes.
pub(crate) fn new_id() -> String {
    // The standard library's hasher is seeded by the system.
    let random = || RandomState::new().hash_one(std::process::id());
    let (high, low) = (random(), random());
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0x0fff | 0x4000,
        low >> 48 & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}

/// Whether a `claude` with this environment can resume the session of this id.
pub(crate) fn exists(id: &str, environment: &[(OsString, OsString)]) -> bool {
    let variable = |name: &str| {
        let mut found = environment.iter().filter(|(key, _)| key == name);
        let (_, value) = found.next()?;
        (!value.is_empty()).then(|| PathBuf::from(value))
    };
    let folder = variable("CLAUDE_CONFIG_DIR").or_else(|| Some(variable("HOME")?.join(".claude")));
    let projects = folder.and_then(|folder| std::fs::read_dir(folder.join("projects")).ok());
    let name = format!("{id}.jsonl");
    projects
        .into_iter()
        .flatten()
        .flatten()
        .any(|project| project.path().join(&name).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_random_uuids() {
        let ids = [new_id(), new_id()];
        assert_ne!(ids[0], ids[1]);
        for id in ids {
            let parts: Vec<&str> = id.split('-').collect();
            let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
            assert!(
                id.chars().all(|c| c == '-' || c.is_ascii_hexdigit()),
                "{id}"
            );
            assert!(
                parts[2].starts_with('4') && parts[3].starts_with(['8', '9', 'a', 'b']),
                "{id}"
            );
        }
    }

    #[test]
    fn a_session_is_looked_for_where_the_client_keeps_it() {
        let desk = tempfile::tempdir().unwrap();
        let project = desk.path().join(".claude/projects/-some-where");
        std::fs::create_dir_all(&project).unwrap();
        std::fs::write(project.join("U.jsonl"), "{}").unwrap();
        let home = |name: &str| vec![(OsString::from(name), desk.path().join("").into())];
        assert!(exists("U", &home("HOME")));
        assert!(!exists("V", &home("HOME")));
        assert!(!exists("U", &home("CLAUDE_CONFIG_DIR")));
        let mut own = home("HOME");
        own.push(("CLAUDE_CONFIG_DIR".into(), desk.path().join("x").into()));
        assert!(!exists("U", &own));
        own.pop();
        own.push((
            "CLAUDE_CONFIG_DIR".into(),
            desk.path().join(".claude").into(),
        ));
        assert!(exists("U", &own));
        assert!(!exists("U", &[]));
    }
}
