//! The log's copy in a store, which holds as much as the folder does: nothing is acknowledged before both have it.
//!
//! Objects and tiles are created, never overwritten, and then the checkpoint is replaced in the version that this writer
//! wrote last. Each writer signs checkpoints with a key of its own beside the log's, which verifiers pass over: so that its
//! first checkpoint, of the tree as it was, is another version, and no writer before it can extend the log any more.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use signed_note::StandardSigner;
use tlog_tiles::record_hash;

use self::lease::Lease;
use super::{
    LogError, LogOptions, State,
    key::{self, LogKey},
    layout, store, tree,
};
use crate::{
    BatchHeader, disk,
    store::{Store, StoreError, Tag},
};

mod lease;
#[cfg(test)]
mod tests;

/// Files that are read and sent together when a folder's content is copied.
const AT_ONCE: usize = 64;

/// Folders with files that are created once and stay as they are.
const FOR_GOOD: [&str; 2] = ["keys", "blobs"];

/// The folder of columns, and how its files end.
const COLUMNS: (&str, &str) = ("parquet", ".parquet");

/// The one writer of a log's copy.
#[derive(Debug)]
pub(super) struct Copy {
    dir: PathBuf,
    store: Arc<dyn Store>,
    held: Mutex<Held>,
    /// Another writer has the log; this one must not write to it any more.
    replaced: Arc<AtomicBool>,
    writer: Writer,
    _lease: Lease,
}

/// What this writer has put into the store last.
#[derive(Debug, Default)]
struct Held {
    checkpoint: Option<Tag>,
    cosigned: Vec<u8>,
}

/// Who writes: a key that lives as long as the process has the log open.
struct Writer {
    signer: StandardSigner,
    /// How its signature line begins.
    mark: String,
}

impl Copy {
    /// Takes the log in the store over, after `state` has been brought to what that holds.
    pub(super) fn open(
        dir: &Path,
        options: &LogOptions,
        store: &Arc<dyn Store>,
        key: &LogKey,
        state: &mut State,
    ) -> Result<Self, LogError> {
        let replaced = Arc::new(AtomicBool::new(false));
        let lease = Lease::take(dir, Arc::clone(store), options.beat, Arc::clone(&replaced))?;
        let copy = Self {
            dir: dir.to_owned(),
            store: Arc::clone(store),
            held: Mutex::default(),
            replaced,
            writer: Writer::new()?,
            _lease: lease,
        };
        let there = copy.pull(key, state)?;
        copy.push_folder(there.is_some())?;
        copy.held().checkpoint = there;
        // From here on no earlier writer can extend it.
        copy.sign(key, &options.origin, state)?;
        let place = dir.join(layout::CHECKPOINT);
        store::put_all(dir, [(place, state.checkpoint.clone())])?;
        Ok(copy)
    }

    /// Creates objects and tiles.
    pub(super) fn put(&self, files: &[(PathBuf, Vec<u8>)]) -> Result<(), LogError> {
        self.is_ours()?;
        let named = files.iter().map(|(p, bytes)| (self.name(p), bytes.clone()));
        let objects: Vec<_> = named.collect();
        for name in self.store.create_all(&objects)? {
            let bytes = objects.iter().find(|(n, _)| *n == name).map(|(_, b)| b);
            if let Some(bytes) = bytes {
                self.settle(&name, bytes)?;
            }
        }
        Ok(())
    }

    /// There is an object of that name: the same, or what a writer left that never signed for it.
    fn settle(&self, name: &str, bytes: &[u8]) -> Result<(), LogError> {
        let there = self.store.get(name)?;
        if there.as_ref().is_some_and(|object| object.bytes == bytes) {
            return Ok(());
        }
        // INVARIANT: looked at after the object, so that a later writer's object is not taken for an earlier one's.
        let known = self.held().checkpoint.clone();
        let checkpoint = self.store.get(layout::CHECKPOINT)?;
        if known.is_some() && checkpoint.map(|c| c.tag) != known {
            return Err(self.lost());
        }
        self.store
            .replace(name, bytes, there.map(|o| o.tag).as_ref())?;
        Ok(())
    }

    /// Signs the tree of `state` and makes that the store's checkpoint.
    pub(super) fn sign(
        &self,
        key: &LogKey,
        origin: &str,
        state: &mut State,
    ) -> Result<(), LogError> {
        self.is_ours()?;
        let (size, root) = (state.frontier.size(), state.frontier.root());
        let checkpoint = key.cosigned_checkpoint(origin, size, root, &self.writer.signer)?;
        let mut held = self.held();
        let seen = held.checkpoint.clone();
        let name = layout::CHECKPOINT;
        let put = self.store.replace(name, &checkpoint, seen.as_ref());
        let tag = match put {
            // It may have come there at an attempt whose answer was lost.
            Err(StoreError::Changed { .. }) => match self.store.get(name)? {
                Some(there) if there.bytes == checkpoint => there.tag,
                _ => return Err(self.lost()),
            },
            put => put?,
        };
        held.checkpoint = Some(tag);
        state.checkpoint = checkpoint;
        Ok(())
    }

    /// After a round that failed: takes what did come there, if it is still this writer's log.
    pub(super) fn recover(&self, key: &LogKey, state: &mut State) -> Result<(), LogError> {
        self.is_ours()?;
        let there = self.store.get(layout::CHECKPOINT)?;
        let there = there.ok_or_else(|| self.lost())?;
        if !self.writer.signed(&there.bytes) {
            return Err(self.lost());
        }
        self.held().checkpoint = self.pull(key, state)?;
        Ok(())
    }

    /// Brings folder and `state` to what the store's checkpoint covers; the version of that checkpoint.
    fn pull(&self, key: &LogKey, state: &mut State) -> Result<Option<Tag>, LogError> {
        let Some(there) = self.store.get(layout::CHECKPOINT)? else {
            return Ok(None);
        };
        let damaged = |what: String| LogError::Damaged {
            path: PathBuf::from(format!("{} in the store", layout::CHECKPOINT)),
            what,
        };
        let checkpoint = key::open_checkpoint(&there.bytes, key.verifier_key()).or_else(|what| {
            // Signed by the key before, when a crash came between the change of key and the next checkpoint.
            let first = super::chain::first_key(&self.dir).ok_or_else(|| what.clone())?;
            let (chain, _) = super::chain::KeyChain::follow(&self.dir, &first);
            match chain.last() == key.verifier_key() {
                true => chain.open(&there.bytes),
                false => Err(what),
            }
        });
        let checkpoint = checkpoint.map_err(damaged)?;
        let held = state.frontier.size();
        if checkpoint.size() < held {
            return Err(damaged(format!(
                "it covers {} batches, and this folder's {held}: the store was set back, or holds another log",
                checkpoint.size()
            )));
        }
        let mut next = state.clone();
        self.pull_entries(&mut next, checkpoint.size())?;
        if next.frontier.root() != *checkpoint.hash() {
            let what = "its root is not that of the entries here and there";
            return Err(damaged(what.to_owned()));
        }
        if next.frontier.size() > held {
            next.checkpoint.clone_from(&there.bytes);
            let place = self.dir.join(layout::CHECKPOINT);
            store::put_all(&self.dir, [(place, there.bytes)])?;
        }
        *state = next;
        Ok(Some(there.tag))
    }

    /// Fetches what the store's tree has beyond that of `state`: entries and their batches; tiles are made of them.
    fn pull_entries(&self, state: &mut State, size: u64) -> Result<(), LogError> {
        if state.frontier.size() < size {
            self.fetch_file(layout::EXPIRED)?;
        }
        let expired = fs::read_to_string(self.dir.join(layout::EXPIRED)).unwrap_or_default();
        let expired: u64 = expired
            .split_whitespace()
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        while state.frontier.size() < size {
            let at = state.frontier.size();
            let width = usize::try_from((size - at / 256 * 256).min(256)).unwrap_or(256);
            let mut files = Vec::new();
            for entry in self
                .entries(at / 256, width)?
                .into_iter()
                .skip(state.tail.len())
            {
                let header: BatchHeader = serde_json::from_slice(&entry)
                    .map_err(|e| self.damaged(at, format!("an entry is no header: {e}")))?;
                let place = layout::batch_path(&self.dir, &record_hash(&entry).0);
                match self.store.get(&self.name(&place))? {
                    Some(object) => files.push((place, object.bytes)),
                    None if state.frontier.size() < expired => {}
                    None => {
                        return Err(self.damaged(at, format!("{} is missing", self.name(&place))));
                    }
                }
                state.extend(&self.dir, entry, &header, &mut files);
                if files.len() >= AT_ONCE {
                    store::put_all(&self.dir, std::mem::take(&mut files))?;
                }
            }
            state.unfinished(&self.dir, &mut files);
            store::put_all(&self.dir, files)?;
        }
        Ok(())
    }

    /// The entries of a bundle of the store of at least that width.
    fn entries(&self, index: u64, width: usize) -> Result<Vec<Vec<u8>>, LogError> {
        for wide in width..=tree::TILE_WIDTH {
            let path = layout::tile_path(&self.dir, None, index, wide);
            let Some(object) = self.store.get(&self.name(&path))? else {
                continue;
            };
            let entries = layout::parse_bundle(&object.bytes).filter(|e| e.len() == wide);
            let Some(mut entries) = entries else {
                return Err(self.damaged(index * 256, "the bundle is damaged".to_owned()));
            };
            entries.truncate(width);
            return Ok(entries);
        }
        Err(self.damaged(index * 256, "the bundle is missing".to_owned()))
    }

    fn damaged(&self, at: u64, what: String) -> LogError {
        LogError::Damaged {
            path: PathBuf::from(format!("the store's copy, entry {at}")),
            what,
        }
    }

    /// Brings what is beside the tree to the same in both: each has what the other lacks. A store without a checkpoint
    /// gets the tree, too.
    fn push_folder(&self, has_log: bool) -> Result<(), LogError> {
        if !has_log {
            for part in ["batches", "tile"] {
                self.push_files(part, "", &BTreeSet::new())?;
            }
        }
        for part in FOR_GOOD {
            let there = self.pull_files(part, "")?;
            self.push_files(part, "", &there)?;
        }
        let (part, ending) = COLUMNS;
        let there = self.pull_files(part, ending)?;
        self.push_files(part, ending, &there)?;
        for name in [layout::VERIFIER_KEY, layout::EXPIRED] {
            self.put_latest(name)?;
        }
        self.put_cosigned()
    }

    /// Fetches those files that the folder lacks; the names of all that the store has.
    fn pull_files(&self, part: &str, ending: &str) -> Result<BTreeSet<String>, LogError> {
        let mut there = BTreeSet::new();
        self.store.list(&format!("{part}/"), &mut |object| {
            there.insert(object.name);
        })?;
        for name in there
            .iter()
            .filter(|n| n.ends_with(ending) && !n.contains(".."))
        {
            if !self.dir.join(name).exists() {
                self.fetch_file(name)?;
            }
        }
        Ok(there)
    }

    fn fetch_file(&self, name: &str) -> Result<(), LogError> {
        let place = self.dir.join(name);
        let io = |e| LogError::io(&place, e);
        disk::make_dir(place.parent().unwrap_or(&self.dir)).map_err(io)?;
        let unfinished = disk::unfinished(&place);
        match self.store.download(name, &unfinished) {
            Err(_) if self.store.get(name).is_ok_and(|object| object.is_none()) => return Ok(()),
            done => done?,
        }
        fs::File::open(&unfinished)
            .and_then(|f| f.sync_all())
            .map_err(io)?;
        fs::rename(&unfinished, &place).map_err(io)
    }

    fn push_files(
        &self,
        part: &str,
        ending: &str,
        there: &BTreeSet<String>,
    ) -> Result<(), LogError> {
        let files = store::walk(&self.dir, part).map_err(|e| LogError::io(&self.dir, e))?;
        let missing = files.into_iter().filter(|(name, path)| {
            name.ends_with(ending) && !there.contains(name) && !disk::is_unfinished(path)
        });
        let missing: Vec<_> = missing.collect();
        if ending == COLUMNS.1 {
            for (name, path) in missing {
                self.store.upload(&name, &path)?;
            }
            return Ok(());
        }
        for some in missing.chunks(AT_ONCE) {
            let read = |(_, path): &(String, PathBuf)| {
                let bytes = fs::read(path).map_err(|e| LogError::io(path, e))?;
                Ok((path.clone(), bytes))
            };
            let files: Result<Vec<_>, LogError> = some.iter().map(read).collect();
            self.put(&files?)?;
        }
        Ok(())
    }

    /// Puts a file there, as it is now.
    pub(super) fn put_file(&self, name: &str) -> Result<(), LogError> {
        self.is_ours()?;
        Ok(self.store.upload(name, &self.dir.join(name))?)
    }

    /// Puts the file `from` there under the name that it is going to have.
    pub(super) fn put_file_as(&self, name: &str, from: &Path) -> Result<(), LogError> {
        self.is_ours()?;
        Ok(self.store.upload(name, from)?)
    }

    /// Puts the log's changes of key there, and the key in force.
    pub(super) fn put_changes_of_key(&self) -> Result<(), LogError> {
        self.push_files("keys", "", &BTreeSet::new())?;
        self.put_latest(layout::VERIFIER_KEY)
    }

    fn put_latest(&self, name: &str) -> Result<(), LogError> {
        let path = self.dir.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(LogError::io(&path, error)),
        };
        match self.store.get(name)? {
            Some(there) if there.bytes == bytes => Ok(()),
            _ => self.put_file(name),
        }
    }

    /// Puts the checkpoint there that witnesses have cosigned, if it is another than before.
    pub(super) fn put_cosigned(&self) -> Result<(), LogError> {
        let Ok(bytes) = fs::read(self.dir.join(layout::COSIGNED)) else {
            return Ok(());
        };
        let mut held = self.held();
        if held.cosigned != bytes {
            self.store
                .upload(layout::COSIGNED, &self.dir.join(layout::COSIGNED))?;
            held.cosigned = bytes;
        }
        Ok(())
    }

    /// Deletes what nobody needs any more.
    pub(super) fn delete(&self, paths: &[PathBuf]) -> Result<(), LogError> {
        self.is_ours()?;
        let names: Vec<_> = paths.iter().map(|path| self.name(path)).collect();
        Ok(self.store.delete_all(&names)?)
    }

    fn name(&self, path: &Path) -> String {
        let relative = path.strip_prefix(&self.dir).unwrap_or(path);
        relative.display().to_string()
    }

    fn is_ours(&self) -> Result<(), LogError> {
        match self.replaced.load(Ordering::Relaxed) {
            true => Err(LogError::Replaced),
            false => Ok(()),
        }
    }

    fn lost(&self) -> LogError {
        self.replaced.store(true, Ordering::Relaxed);
        LogError::Replaced
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// What its signatures are called: no log has such a name.
    const NAME: &str = "reeve.dev/log-writer";

    fn new() -> Result<Self, LogError> {
        let (signer, verifier) = key::one_time(Self::NAME)?;
        // The id of its key, as signature lines begin with it.
        let id = verifier.split('+').nth(1).unwrap_or_default().to_owned();
        Ok(Self { signer, mark: id })
    }

    /// Whether a checkpoint has its signature.
    fn signed(&self, checkpoint: &[u8]) -> bool {
        let Ok(note) = signed_note::Note::from_bytes(checkpoint) else {
            return false;
        };
        let id = u32::from_str_radix(&self.mark, 16).unwrap_or_default();
        let text = String::from_utf8_lossy(&note.to_bytes()).into_owned();
        text.lines().any(|line| {
            let signature = signed_note::Signature::from_bytes(line.as_bytes());
            signature.is_ok_and(|s| s.name() == Self::NAME && s.id() == id)
        })
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("key", &self.mark).finish()
    }
}
