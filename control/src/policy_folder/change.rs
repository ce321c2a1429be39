//! Several files of a folder, changed so that whoever is killed on the way leaves a change that the next one finishes.
//!
//! What is to be changed, with the texts before and after, is first written as a whole to a journal in `.reeve`. As long as the
//! journal is there, nobody reads the folder. Then the files are replaced one by one, then whoever asked notes what was
//! done, and last the journal goes.
//!
//! INVARIANT: the folder is read only as it was before a change or as it is after all of it.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{FolderLock, OWN, PolicyFolderError, failed};

/// The journal's file.
const JOURNAL: &str = "policy-change.json";
/// Its form.
const VERSION: u32 = 1;
/// Largest journal: a folder twice, escaped.
const MAX_JOURNAL_BYTES: u64 = 512 * 1024 * 1024;

/// A change that stands in the folder, and whose journal is still there: to be [finished](Self::finish).
#[derive(Debug)]
pub struct Change {
    folder: PathBuf,
    journal: Journal,
    _lock: FolderLock,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Journal {
    version: u32,
    /// What whoever asked for it wants to know of it later.
    memo: String,
    files: Vec<Edit>,
}

/// One file; `None` = it is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Edit {
    /// Relative to the folder.
    pub(super) file: String,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
}

/// Called before each step that the disk could see; tests end there.
pub(super) type Steps<'a> = &'a mut dyn FnMut(&'static str);

/// Whether a change was begun here that nobody has finished.
pub(crate) fn is_pending(folder: &Path) -> bool {
    journal_of(folder).exists()
}

impl Change {
    /// Makes `edits` for who holds the folder's lock. After an error, the files are as before if they can be.
    pub(super) fn make(
        folder: &Path,
        lock: FolderLock,
        (edits, memo): (Vec<Edit>, &str),
        step: Steps<'_>,
    ) -> Result<Self, PolicyFolderError> {
        let path = journal_of(folder);
        let journal = Journal {
            version: VERSION,
            memo: memo.to_owned(),
            files: edits,
        };
        let text = serde_json::to_string(&journal).map_err(|e| failed(&path, e.into()))?;
        replace(&path, &text, step)?;
        let change = Self {
            folder: folder.to_owned(),
            journal,
            _lock: lock,
        };
        match change.write(|edit| edit.after.as_deref(), step) {
            Ok(()) => Ok(change),
            Err(error) => {
                // What cannot be taken back now is finished by the next who comes.
                change.write(|edit| edit.before.as_deref(), step)?;
                change.finish_by(step)?;
                Err(error)
            }
        }
    }

    /// Finishes the files of a change that was interrupted, if there is one.
    pub(super) fn recover(
        folder: &Path,
        lock: impl FnOnce(&Path) -> Result<FolderLock, PolicyFolderError>,
        step: Steps<'_>,
    ) -> Result<Option<Self>, PolicyFolderError> {
        if !is_pending(folder) {
            return Ok(None);
        }
        let lock = lock(folder)?;
        let Some(journal) = read(&journal_of(folder))? else {
            return Ok(None);
        };
        for edit in &journal.files {
            let now = text_of(&folder.join(&edit.file))?;
            if now != edit.before && now != edit.after {
                return Err(PolicyFolderError::Unfinished(edit.file.clone()));
            }
        }
        let change = Self {
            folder: folder.to_owned(),
            journal,
            _lock: lock,
        };
        change.write(|edit| edit.after.as_deref(), step)?;
        Ok(Some(change))
    }

    /// The files that it changed.
    pub fn files(&self) -> Vec<&str> {
        self.journal
            .files
            .iter()
            .map(|edit| edit.file.as_str())
            .collect()
    }

    /// What was said of it when it was begun.
    pub fn memo(&self) -> &str {
        &self.journal.memo
    }

    /// Takes the journal away: from now on the folder can be read.
    pub fn finish(self) -> Result<(), PolicyFolderError> {
        self.finish_by(&mut |_| {})
    }

    pub(super) fn finish_by(self, step: Steps<'_>) -> Result<(), PolicyFolderError> {
        remove(&journal_of(&self.folder), step)
    }

    fn write(
        &self,
        text: impl Fn(&Edit) -> Option<&str>,
        step: Steps<'_>,
    ) -> Result<(), PolicyFolderError> {
        for edit in &self.journal.files {
            let path = self.folder.join(&edit.file);
            match text(edit) {
                Some(text) => replace(&path, text, step)?,
                None => remove(&path, step)?,
            }
        }
        Ok(())
    }
}

fn journal_of(folder: &Path) -> PathBuf {
    folder.join(OWN).join(JOURNAL)
}

/// `None`: it has gone meanwhile.
fn read(path: &Path) -> Result<Option<Journal>, PolicyFolderError> {
    let mut text = String::new();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, error)),
    };
    file.take(MAX_JOURNAL_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| failed(path, error))?;
    let journal: Journal =
        serde_json::from_str(&text).map_err(|error| failed(path, error.into()))?;
    let stays_within = |edit: &Edit| {
        let mut parts = Path::new(&edit.file).components();
        !edit.file.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    match journal.version == VERSION && journal.files.iter().all(stays_within) {
        true => Ok(Some(journal)),
        false => {
            let text = "this is no journal of a change";
            let error = io::Error::new(io::ErrorKind::InvalidData, text);
            Err(failed(path, error))
        }
    }
}

fn text_of(path: &Path) -> Result<Option<String>, PolicyFolderError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(failed(path, error)),
    }
}

/// Whether the file is not there, or the folder that it would be in is none.
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Replaces a file as a whole, on the disk when this returns.
fn replace(path: &Path, text: &str, step: Steps<'_>) -> Result<(), PolicyFolderError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Who holds the lock is alone, so what bears this name was left behind.
    let new = path.with_file_name(format!(".{name}.reeve-new"));
    let mut write = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        step("before the new text is there");
        let mut out = File::create(&new)?;
        step("before the new text is written");
        out.write_all(text.as_bytes())?;
        if let Ok(before) = fs::metadata(path) {
            out.set_permissions(before.permissions())?;
        }
        out.sync_all()?;
        step("before the file is replaced");
        fs::rename(&new, path)?;
        step("after the file is replaced");
        sync_folder_of(path)
    };
    let written = write();
    written.map_err(|error| {
        drop(fs::remove_file(&new));
        failed(path, error)
    })
}

fn remove(path: &Path, step: Steps<'_>) -> Result<(), PolicyFolderError> {
    step("before a file is removed");
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if is_absence(&error) => return Ok(()),
        Err(error) => return Err(failed(path, error)),
    }
    step("after a file is removed");
    sync_folder_of(path).map_err(|error| failed(path, error))
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
