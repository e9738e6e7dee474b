//! Which live runs hold which tokens, so that runs on one machine start on different ones.
//!
//! Owns a folder beside the state file, with one small file for each run: the fingerprints of its
//! tokens. It promises that the hold of a run that is dead does not count, however it died: each run
//! holds a lock on its own file, which ends with the process. Trouble of any kind costs the spread and
//! nothing else.

use super::lock_of;
use crate::common::private_file::{self, beside};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A file that is larger is none of ours: a thousand fingerprints.
const LARGEST: u64 = 65 * 1024;
/// No machine has more runs; what is beyond is not looked at.
const MOST: usize = 256;
/// A run that starts at the same time is waited for, to see what it takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// This run's own file.
#[derive(Debug)]
pub(super) struct Hold {
    folder: PathBuf,
    path: PathBuf,
    /// Locked, once there is one.
    file: Option<File>,
    /// What it holds.
    text: String,
    /// Held from the look at the others until this run has taken its tokens.
    start: Option<File>,
}

impl Hold {
    /// One in the folder beside this state file.
    pub(super) fn new(state: &Path) -> Hold {
        let folder = beside(state, ".runs");
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let name = format!("{}-{}", Pid::this(), since.unwrap_or_default().as_nanos());
        let made = private_file::create_folder(&folder);
        Hold {
            path: folder.join(name),
            start: made
                .ok()
                .and_then(|()| lock_of(&folder.join("lock"), PATIENCE).ok()),
            folder,
            file: None,
            text: String::new(),
        }
    }

    /// How many other live runs hold each of these tokens. Files of dead runs are removed.
    pub(super) fn others(&self, fingerprints: &[String]) -> Vec<usize> {
        let mut counts = vec![0; fingerprints.len()];
        for entry in std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .take(MOST)
        {
            let Ok(entry) = entry else { continue };
            let path = entry.path();
            let is_a_run = |name: &str| name.bytes().all(|b| b.is_ascii_digit() || b == b'-');
            if path == self.path || !entry.file_name().to_str().is_some_and(is_a_run) {
                continue;
            }
            let Ok(file) = private_file::open(OpenOptions::new().read(true).write(true), &path)
            else {
                continue;
            };
            if file.try_lock().is_ok() {
                let _ = std::fs::remove_file(&path);
                continue;
            }
            let mut text = String::new();
            let _ = file.take(LARGEST).read_to_string(&mut text);
            for (count, fingerprint) in counts.iter_mut().zip(fingerprints) {
                *count += usize::from(text.lines().any(|line| line == fingerprint));
            }
        }
        counts
    }

    /// Whether there is no other run's file.
    fn others_are_gone(&self) -> bool {
        let names = std::fs::read_dir(&self.folder);
        names.is_ok_and(|mut all| all.all(|one| one.is_ok_and(|one| one.file_name() == "lock")))
    }

    /// This run holds these tokens from now on, and no others.
    pub(super) fn set(&mut self, fingerprints: Vec<&str>) {
        // Whoever starts next looks only when this is written.
        let _start = self.start.take();
        let text = fingerprints.join("\n");
        if text == self.text {
            return;
        }
        self.text = text;
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            self.file = private_file::open(&mut options, &self.path)
                .ok()
                .filter(|file| file.try_lock().is_ok());
        }
        if let Some(file) = &mut self.file {
            let _ = file
                .seek(SeekFrom::Start(0))
                .and_then(|_| file.set_len(0))
                .and_then(|()| file.write_all(self.text.as_bytes()));
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
        self.start = None;
        // The last run leaves nothing behind. Whoever is just beginning holds `lock`, or makes the folder
        // again; at worst it does without the spread.
        if self.others_are_gone() {
            let _ = std::fs::remove_file(self.folder.join("lock"));
            let _ = std::fs::remove_dir(&self.folder);
        }
    }
}
