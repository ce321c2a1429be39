//! What a log is kept in besides its folder: objects under names, as object stores have them.
//!
//! A log needs little of one: to create what is not there yet, to replace what it has seen and nothing else, to read and to
//! list. [`FolderStore`] does so with files; `reeve-bucket` with S3 and what speaks it.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;

use crate::{disk, log};

mod fetch;

pub use fetch::{Fetched, Wanted, fetch};

/// The longest object that is read into memory: a batch, a tile, a policy set.
pub const MAX_OBJECT_BYTES: usize = 16 << 20;

/// What a version of an object is told by: another content, another tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(pub String);

/// An object's content and version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it holds.
    pub bytes: Vec<u8>,
    /// Of which version.
    pub tag: Tag,
}

/// An object that a listing names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its name, such as `tile/0/000`.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its version, where listings tell.
    pub tag: Option<Tag>,
}

/// A store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What is there is not what the caller has seen.
    #[error("{name} was changed by another writer")]
    Changed {
        /// Which object.
        name: String,
    },
    /// It is longer than any object of a log.
    #[error("{name} is longer than {MAX_OBJECT_BYTES} bytes")]
    TooLong {
        /// Which object.
        name: String,
    },
    /// The store failed, or could not be reached.
    #[error("the store cannot be used for {name}")]
    Failed {
        /// Which object.
        name: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// The store failed.
    pub fn failed(name: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed {
            name: name.to_owned(),
            source: source.into(),
        }
    }
}

/// Objects under names. What a call that succeeded has written stays, also when the power fails. All calls block.
pub trait Store: fmt::Debug + Send + Sync {
    /// What an object holds; `None` when it is not there.
    fn get(&self, name: &str) -> Result<Option<Object>, StoreError>;

    /// Creates objects, in any order; the answer names those that were there before, which stay as they are.
    fn create_all(&self, objects: &[(String, Vec<u8>)]) -> Result<Vec<String>, StoreError>;

    /// Replaces the version `seen` of an object (`None`: creates it); [`StoreError::Changed`] when another is there.
    fn replace(&self, name: &str, bytes: &[u8], seen: Option<&Tag>) -> Result<Tag, StoreError>;

    /// Puts a file there, whatever its length and whatever is there.
    fn upload(&self, name: &str, from: &Path) -> Result<(), StoreError>;

    /// Writes an object to a file, whatever its length.
    fn download(&self, name: &str, to: &Path) -> Result<(), StoreError>;

    /// Hands out every object whose name begins with `prefix`, which is empty or ends with a slash.
    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError>;

    /// Deletes objects; what is not there is not missed.
    fn delete_all(&self, names: &[String]) -> Result<(), StoreError>;
}

/// A store that is a folder, for one process.
#[derive(Debug)]
pub struct FolderStore {
    dir: PathBuf,
    turn: std::sync::Mutex<()>,
}

impl FolderStore {
    /// In `dir`, which is made if it is not there.
    pub fn new(dir: &Path) -> io::Result<Self> {
        disk::make_dir(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            turn: std::sync::Mutex::new(()),
        })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<Tag, StoreError> {
        let path = self.dir.join(name);
        log::put_files(&self.dir, [(path, bytes.to_vec())])
            .map_err(|e| StoreError::failed(name, e))?;
        Ok(tag_of(bytes))
    }
}

impl Store for FolderStore {
    fn get(&self, name: &str) -> Result<Option<Object>, StoreError> {
        let file = match File::open(self.dir.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::failed(name, error)),
        };
        let most = u64::try_from(MAX_OBJECT_BYTES).unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        let read = file.take(most + 1).read_to_end(&mut bytes);
        read.map_err(|e| StoreError::failed(name, e))?;
        if bytes.len() > MAX_OBJECT_BYTES {
            return Err(StoreError::TooLong {
                name: name.to_owned(),
            });
        }
        let tag = tag_of(&bytes);
        Ok(Some(Object { bytes, tag }))
    }

    fn create_all(&self, objects: &[(String, Vec<u8>)]) -> Result<Vec<String>, StoreError> {
        let _turn = self.turn.lock();
        let mut there = Vec::new();
        for (name, bytes) in objects {
            if self.dir.join(name).exists() {
                there.push(name.clone());
            } else {
                self.write(name, bytes)?;
            }
        }
        Ok(there)
    }

    fn replace(&self, name: &str, bytes: &[u8], seen: Option<&Tag>) -> Result<Tag, StoreError> {
        let _turn = self.turn.lock();
        if self.get(name)?.map(|object| object.tag).as_ref() != seen {
            return Err(StoreError::Changed {
                name: name.to_owned(),
            });
        }
        self.write(name, bytes)
    }

    fn upload(&self, name: &str, from: &Path) -> Result<(), StoreError> {
        let bytes = fs::read(from).map_err(|e| StoreError::failed(name, e))?;
        self.write(name, &bytes).map(drop)
    }

    fn download(&self, name: &str, to: &Path) -> Result<(), StoreError> {
        let copied = fs::copy(self.dir.join(name), to);
        copied.map(drop).map_err(|e| StoreError::failed(name, e))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        let failed = |e| StoreError::failed(prefix, e);
        for (name, path) in log::walk(&self.dir, prefix).map_err(failed)? {
            if disk::is_unfinished(&path) {
                continue;
            }
            let bytes = fs::read(&path).map_err(failed)?;
            each(Listed {
                name,
                bytes: disk::length(&bytes),
                tag: Some(tag_of(&bytes)),
            });
        }
        Ok(())
    }

    fn delete_all(&self, names: &[String]) -> Result<(), StoreError> {
        for name in names {
            match fs::remove_file(self.dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::failed(name, error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn tag_of(bytes: &[u8]) -> Tag {
    Tag(hex::encode(digest::digest(&digest::SHA256, bytes)))
}
