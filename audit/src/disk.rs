//! Files that are there whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, FlockOperation};

/// A length as the file system counts.
pub(crate) fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Makes a folder that only we may enter, and its parents.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// Takes the folder's lock; `None` when another process (or this one) holds it. Held until dropped.
pub(crate) fn lock(dir: &Path) -> io::Result<Option<File>> {
    lock_file(&dir.join("lock"))
}

/// Takes the lock that is a file.
pub(crate) fn lock_file(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A new file, empty, that only we may read.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    options.open(path)
}

/// Reserves blocks for `bytes` without changing the file's length, where the file system can.
pub(crate) fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until the folder's entries are on the disk.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Writes `bytes` to a temporary file beside `path`, waits for the disk and renames: a reader finds the old or the new
/// content, never a part. The caller syncs the folder.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = unfinished(path);
    let mut file = create(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&unfinished, path)
}

/// The same without waiting for the disk: until [`sync_file_system`], a loss of power may leave any part of it.
pub(crate) fn put_unsynced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = unfinished(path);
    create(&unfinished)?.write_all(bytes)?;
    fs::rename(unfinished, path)
}

/// Waits until everything written to the file system of `dir` is on the disk.
pub(crate) fn sync_file_system(dir: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(dir)?)?)
}

/// What a file is called while it is written.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}

/// Whether `path` is the leftover of an unfinished [`put`].
pub(crate) fn is_unfinished(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "tmp")
}
