//! The files of a write-ahead log, as its writer uses them; tests put failing and recording ones in their place.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
};

use crate::disk;

/// A segment's file.
pub(crate) trait SegmentFile: Write + fmt::Debug + Send {
    /// Cuts the file back.
    fn cut(&mut self, length: u64) -> io::Result<()>;
    /// Waits for the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// The same as [`SegmentFile::sync`], for another thread to do.
    fn syncer(&self) -> io::Result<Syncer>;
}

/// Waits for the disk.
pub(crate) type Syncer = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// What is done to a folder of segments.
pub(crate) trait Files: Send + Sync {
    /// Makes an empty file with blocks reserved for so many bytes.
    fn create(&self, path: &Path, reserve: u64) -> io::Result<Box<dyn SegmentFile>>;
    /// Opens a finished segment for appending.
    fn open(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Waits until the folder's entries are on the disk.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The file system.
pub(crate) struct FileSystem;

impl Files for FileSystem {
    fn create(&self, path: &Path, reserve: u64) -> io::Result<Box<dyn SegmentFile>> {
        let file = disk::create(path)?;
        disk::reserve(&file, reserve)?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(OpenOptions::new().append(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        disk::sync_dir(dir)
    }
}

impl SegmentFile for File {
    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn syncer(&self) -> io::Result<Syncer> {
        let file = self.try_clone()?;
        Ok(Box::new(move || file.sync_data()))
    }
}

/// Stands in until the first segment is begun.
#[derive(Debug)]
pub(crate) struct Unopened;

impl Write for Unopened {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::NotConnected.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SegmentFile for Unopened {
    fn cut(&mut self, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn syncer(&self) -> io::Result<Syncer> {
        Ok(Box::new(|| Ok(())))
    }
}
