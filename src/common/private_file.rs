//! Files that hold what is the user's own, and files that are written whole or not at all.
//!
//! It promises that opening never blocks (a named pipe is refused, or opened as it is), that every read
//! is bounded, that a file which others can read or may have written is not used where that matters, and
//! that a file that is replaced is at every moment the old one or the new one: on any error it stays as it
//! was.

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::Uid;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Opens a regular file of this very name: no link is followed, and no pipe is waited for.
///
/// # Errors
/// What the system says, or what the file is if it is not a regular one.
pub(crate) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    match open_regular(options, OFlag::O_NOFOLLOW, path) {
        Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
            Err(io::Error::other("it is a link"))
        }
        file => file,
    }
}

/// Opens a regular file to read it, also through links.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_public(path: &Path) -> io::Result<File> {
    open_regular(OpenOptions::new().read(true), OFlag::empty(), path)
}

fn open_regular(options: &mut OpenOptions, flags: OFlag, path: &Path) -> io::Result<File> {
    let flags = flags | OFlag::O_NONBLOCK;
    let file = options.custom_flags(flags.bits()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// Reads such a file of at most `largest` bytes, and says whether others can write it ([`is_foreign`]).
///
/// # Errors
/// What [`open`] says, or [`ErrorKind::FileTooLarge`].
pub(crate) fn read(path: &Path, largest: u64) -> io::Result<(Vec<u8>, bool)> {
    let file = open(OpenOptions::new().read(true), path)?;
    let is_foreign = is_foreign(&file.metadata()?);
    Ok((read_all(file, largest)?, is_foreign))
}

/// Whether somebody beside this user and root can write a file: by its permissions, or as its owner.
pub(crate) fn is_foreign(metadata: &fs::Metadata) -> bool {
    let owner = metadata.uid();
    metadata.mode() & 0o022 != 0 || owner != Uid::effective().as_raw() && owner != 0
}

/// Reads what the user has named and is no secret, as a pipe may be, of at most `largest` bytes.
///
/// # Errors
/// What the system says, or [`ErrorKind::FileTooLarge`].
pub(crate) fn read_named(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    read_all(File::open(path)?, largest)
}

/// Reads such a file, if it is this user's and nobody else can read or write it.
///
/// # Errors
/// What [`read`] says, or whose it is.
pub(crate) fn read_own(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    let file = open(OpenOptions::new().read(true), path)?;
    let metadata = file.metadata()?;
    if metadata.uid() != Uid::effective().as_raw() {
        return Err(io::Error::other("it is another user's"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(io::Error::other("others can read it or write to it"));
    }
    read_all(file, largest)
}

/// Reads all of a file, or nothing of one that is longer.
///
/// # Errors
/// What the system says, or [`ErrorKind::FileTooLarge`].
pub(crate) fn read_all(file: File, largest: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(largest.saturating_add(1))
        .read_to_end(&mut bytes)?;
    match bytes.len() as u64 > largest {
        true => Err(ErrorKind::FileTooLarge.into()),
        false => Ok(bytes),
    }
}

/// Opens to write at the end, whatever it is that the user has named. A new file is for its owner
/// alone. A pipe without a reader is an error, one that is full loses what is written to it: neither
/// holds anybody up.
///
/// # Errors
/// What the system says.
pub(crate) fn append(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options
        .append(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
}

/// Makes a folder, and those above it, which only the owner can look into.
///
/// # Errors
/// What the system says.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A new file with these permissions, but for those that the umask takes away.
///
/// # Errors
/// There is something of this name, or what the system says.
pub(crate) fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

/// Puts a file for its owner alone in place of `path`, in one step. `draft` is what it is called
/// until it is whole; a draft that is there is left over from a process that was killed, so the name
/// must be the caller's own, or be taken under a lock.
///
/// # Errors
/// What the system says; `path` is as it was, and no draft is left.
pub(crate) fn replace(path: &Path, draft: &Path, bytes: &[u8]) -> io::Result<()> {
    let _ = fs::remove_file(draft);
    rename_draft(path, draft, create(draft, bytes, 0o600))
}

fn rename_draft(path: &Path, draft: &Path, written: io::Result<File>) -> io::Result<()> {
    let renamed = written
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(draft, path));
    match &renamed {
        // The file is whole either way; this makes its new name last through a power cut.
        Ok(()) => drop(File::open(folder_of(path)).and_then(|folder| folder.sync_all())),
        Err(_) => drop(fs::remove_file(draft)),
    }
    renamed
}

/// Writes a file that the user has named, whole or not at all. A link leads to the file that is
/// replaced, which keeps its permissions. What is no regular file, as a device, is written to.
///
/// # Errors
/// What the system says, also where the file itself could not be written to, although its folder
/// can: it is read-only, or a program that runs. It is as it was.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A pipe of a shell's, as /dev/fd/63, has no other name.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return OpenOptions::new().write(true).open(path)?.write_all(bytes);
    }
    let path = match fs::canonicalize(path) {
        Ok(path) => path,
        // A link to nowhere may be about to lead somewhere; its target is not guessed.
        Err(error) if error.kind() == ErrorKind::NotFound && fs::read_link(path).is_err() => {
            return write_draft(path, bytes, None);
        }
        Err(error) => return Err(error),
    };
    let file = OpenOptions::new().write(true).open(&path)?;
    write_draft(&path, bytes, Some(file.metadata()?.permissions()))
}

fn write_draft(path: &Path, bytes: &[u8], permissions: Option<fs::Permissions>) -> io::Result<()> {
    let draft = beside(path, &format!(".{}.new", std::process::id()));
    let _ = fs::remove_file(&draft);
    let written = create(&draft, bytes, 0o666).and_then(|file| {
        if let Some(permissions) = permissions {
            file.set_permissions(permissions)?;
        }
        Ok(file)
    });
    rename_draft(path, &draft, written)
}

/// The path with something added to its last name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn with_mode(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_a_regular_file_of_bounded_size_is_read() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        with_mode(&path("file"), "12345", 0o644);
        symlink(path("file"), path("link")).unwrap();
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&path("file"), 5).unwrap().0, b"12345");
        let too_large = read(&path("file"), 4).unwrap_err();
        assert_eq!(too_large.kind(), ErrorKind::FileTooLarge);
        for (name, why) in [
            ("link", "it is a link"),
            ("pipe", "it is not a regular file"),
            (".", "it is not a regular file"),
        ] {
            assert_eq!(read(&path(name), 5).unwrap_err().to_string(), why);
        }
        assert_eq!(
            read(&path("none"), 5).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }

    #[test]
    fn a_file_that_others_can_write_is_known() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("state");
        for (mode, wanted) in [(0o600, false), (0o644, false), (0o620, true), (0o602, true)] {
            with_mode(&path, "state", mode);
            assert_eq!(read(&path, 5).unwrap().1, wanted, "{mode:o}");
        }
    }

    #[test]
    fn a_secret_that_others_can_touch_is_not_read() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("secret");
        for mode in [0o644, 0o620, 0o602, 0o601] {
            with_mode(&path, "secret", mode);
            let error = read_own(&path, 100).unwrap_err().to_string();
            assert!(error.starts_with("others can read it"), "{mode:o}: {error}");
        }
        for mode in [0o600, 0o400] {
            with_mode(&path, "secret", 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read_own(&path, 100).unwrap(), b"secret");
        }
    }

    #[test]
    fn a_file_is_replaced_whole_or_stays_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("state");
        let draft = beside(&path, ".new");
        with_mode(&draft, "half of a dr", 0o644);
        replace(&path, &draft, b"one").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(names(place.path()), ["state"]);
        // Nothing can be drafted where a folder is in the way.
        fs::create_dir(&draft).unwrap();
        assert!(replace(&path, &draft, b"two").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        // Nor renamed over a folder; the draft goes.
        let draft = beside(&path, ".other");
        assert!(replace(place.path(), &draft, b"two").is_err());
        assert_eq!(names(place.path()), ["state", "state.new"]);
    }

    #[test]
    fn what_the_user_names_keeps_its_permissions_and_its_links() {
        let place = tempfile::tempdir().unwrap();
        let (file, link) = (place.path().join("file"), place.path().join("link"));
        with_mode(&file, "old", 0o640);
        symlink("file", &link).unwrap();
        write(&link, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        write(Path::new("/dev/null"), b"new").unwrap();
        assert!(write(&place.path().join("no/file"), b"new").is_err());
        assert!(write(place.path(), b"new").is_err());
        symlink("nowhere", place.path().join("lost")).unwrap();
        assert!(write(&place.path().join("lost"), b"new").is_err());
        assert_eq!(names(place.path()), ["file", "link", "lost"]);
    }
}
