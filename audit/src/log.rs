//! The transparency log on disk: batch headers as leaves of a C2SP tlog-tiles tree under signed checkpoints.
//!
//! What is sequenced goes to the disk in this order: batch objects, entry bundle and tiles (each under a name of its own,
//! so that nothing a checkpoint covers is ever overwritten), then the checkpoint by rename. Only then is a batch
//! acknowledged; what a crash leaves beyond the checkpoint is swept when the log is opened, and proxies send it again.

pub(crate) mod chain;
mod copy;
pub(crate) mod key;
pub(crate) mod layout;
mod recover;
mod sequence;
pub(crate) mod step;
pub(crate) mod store;
pub(crate) mod tree;

pub(crate) use store::{put_all as put_files, walk};

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use aws_lc_rs::digest;
use reeve_core::InstanceName;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};

use self::{key::LogKey, sequence::Pending, tree::Frontier};
use crate::{
    EventKind, EventRecord,
    batch::{Batch, BatchFault, BatchHeader, CheckedBatch, Source},
    disk, hexes,
    seal::{SealError, SealKey},
    store::{Store, StoreError},
    witness::{Quorum, WitnessStatus},
};

/// Batches that may wait for the sequencer.
const MAX_PENDING: usize = 16 * 1024;

/// Their bytes; proxies' streams wait until there is room.
const MAX_PENDING_BYTES: usize = 64 << 20;

/// What room for bytes is counted in.
const ROOM_UNIT: usize = 1024;

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The log's name, first line of every checkpoint: such as `mesh.local/audit`.
    pub origin: String,
    /// Opens (or, the first time, seals) the log's Ed25519 key in `<dir>/log.key`.
    pub seal_key: SealKey,
    /// How long the sequencer gathers batches before it makes a checkpoint; at most 500 ms.
    pub gather: Duration,
    /// Where the log is kept besides its folder: a batch is acknowledged when both have it.
    pub store: Option<Arc<dyn Store>>,
    /// How often the turn to write there is renewed; a writer that has not done so for four times as long is gone.
    pub beat: Duration,
}

impl LogOptions {
    /// The usual options.
    pub fn new(origin: impl Into<String>, seal_key: SealKey) -> Self {
        Self {
            origin: origin.into(),
            seal_key,
            gather: Duration::from_millis(100),
            store: None,
            beat: Duration::from_secs(5),
        }
    }
}

/// The log cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another process has it open.
    #[error("the audit log {path} is in use by another process")]
    InUse {
        /// Which folder.
        path: PathBuf,
    },
    /// A file cannot be used.
    #[error("cannot use {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is on the disk does not check; nothing is appended to it.
    #[error("{path} is damaged: {what}; `reeve audit verify` tells more")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The store does not do what is asked of it.
    #[error("the log's store")]
    Store(#[from] StoreError),
    /// Another writer has the log in the store.
    #[error("another process writes the log in the store")]
    OtherWriter,
    /// Another writer took the log over.
    #[error("another process has taken the log in the store over; this one writes no more")]
    Replaced,
    /// There is a log, and its key is gone.
    #[error("the log's key {path} is missing")]
    KeyLost {
        /// Where it should be.
        path: PathBuf,
    },
    /// The key cannot be opened.
    #[error("cannot open the log's key")]
    Seal(#[from] SealError),
    /// The key cannot be used.
    #[error("the log's key does not sign")]
    Key,
    /// The origin cannot name a log (C2SP signed-note: no spaces, no plus).
    #[error("{origin:?} cannot be the name of a log; leave out spaces and plus signs")]
    Origin {
        /// The name given.
        origin: String,
    },
    /// Too many batches wait.
    #[error("{MAX_PENDING} batches wait for the sequencer")]
    Busy,
    /// The batch does not hold together.
    #[error("the batch is not sound")]
    Batch(#[from] BatchFault),
    /// It is in the tree, and too few witnesses have cosigned that: it is not acknowledged.
    #[error("not acknowledged: {what}")]
    Unwitnessed {
        /// Who has not cosigned, and why.
        what: String,
    },
    /// The sequencer gave up on a batch because of the batches or files beside it.
    #[error("the batch was not sequenced: {what}")]
    NotSequenced {
        /// Why.
        what: String,
    },
}

impl LogError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// The last batch of a proxy's worker that a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Its epoch.
    pub epoch: u64,
    /// Its number.
    pub batch: u64,
    /// Its last record.
    pub sequence: u64,
    /// Its leaf hash.
    #[serde(with = "hexes")]
    pub header_hash: [u8; 32],
}

/// How a log stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogStatus {
    /// Leaves under the checkpoint: batches.
    pub tree_size: u64,
    /// Records in them.
    pub records: u64,
    /// The last signed checkpoint.
    pub checkpoint: String,
    /// The key to verify it with, in C2SP's text form.
    pub verifier_key: String,
    /// Proxies that have shipped something.
    pub proxies: u64,
    /// Who cosigns it.
    pub witnesses: WitnessStatus,
}

/// The audit log of a mesh: a folder, its key, and the one writer of both.
pub struct AuditLog {
    dir: PathBuf,
    options: LogOptions,
    key: Mutex<Arc<LogKey>>,
    state: Mutex<State>,
    pending: Mutex<Vec<Pending>>,
    room: Semaphore,
    copy: Option<copy::Copy>,
    /// A round failed: what is on the disk is read again before the next one. INVARIANT: where a checkpoint may have been
    /// written, no other one of its size is signed.
    in_doubt: AtomicBool,
    /// Who must have cosigned what is acknowledged.
    witnesses: Mutex<Option<Arc<Quorum>>>,
    #[cfg(test)]
    end_at: Mutex<Option<step::Step>>,
    /// Held by the caller that sequences for all who wait.
    turn: tokio::sync::Mutex<()>,
    _lock: File,
}

/// What the checkpoint on disk covers.
#[derive(Clone, Debug, Default)]
struct State {
    frontier: Frontier,
    /// Entries of the unfinished bundle.
    tail: Vec<Vec<u8>>,
    positions: BTreeMap<Source, Position>,
    records: u64,
    checkpoint: Vec<u8>,
}

impl AuditLog {
    /// Opens the log in `dir`, makes it the first time, and sweeps what a crash left unfinished. Blocks on disk.
    pub fn open(dir: &Path, options: LogOptions) -> Result<Arc<Self>, LogError> {
        disk::make_dir(dir).map_err(|e| LogError::io(dir, e))?;
        let lock = disk::lock(dir).map_err(|e| LogError::io(dir, e))?;
        let Some(lock) = lock else {
            return Err(LogError::InUse {
                path: dir.to_owned(),
            });
        };
        let sealed = dir.join(layout::SEALED_KEY);
        if let Some(store) = options.store.as_ref().filter(|_| !sealed.exists())
            && store.get(layout::CHECKPOINT)?.is_some()
        {
            return Err(LogError::KeyLost { path: sealed });
        }
        let key = LogKey::open(dir, &options.origin, &options.seal_key)?;
        let mut state = recover::recover(dir, &options.origin, &key)?;
        let store = options.store.as_ref();
        let copy = store.map(|store| copy::Copy::open(dir, &options, store, &key, &mut state));
        let copy = copy.transpose()?;
        Ok(Arc::new(Self {
            dir: dir.to_owned(),
            options,
            key: Mutex::new(Arc::new(key)),
            state: Mutex::new(state),
            pending: Mutex::new(Vec::new()),
            room: Semaphore::new(MAX_PENDING_BYTES / ROOM_UNIT),
            copy,
            in_doubt: AtomicBool::new(false),
            witnesses: Mutex::new(None),
            #[cfg(test)]
            end_at: Mutex::new(None),
            turn: tokio::sync::Mutex::new(()),
            _lock: lock,
        }))
    }

    /// Its name, the first line of its checkpoints.
    pub fn origin(&self) -> &str {
        &self.options.origin
    }

    /// Keeps `bytes` under their SHA-256 (hex, returned): policy sets, schemas, bundles. Blocks on disk.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<String, LogError> {
        let hash = hex::encode(digest::digest(&digest::SHA256, bytes));
        let path = layout::blob_path(&self.dir, &hash);
        if std::fs::read(&path).ok().as_deref() != Some(bytes) {
            self.put(vec![(path, bytes.to_vec())])?;
        }
        Ok(hash)
    }

    /// Puts a file that nobody writes any more into the log's store, if it has one, under the name that it is going to
    /// have in the folder. Blocks.
    pub fn put_copy(&self, name: &str, from: &Path) -> Result<(), LogError> {
        let copy = self.copy.as_ref();
        copy.map_or(Ok(()), |copy| copy.put_file_as(name, from))
    }

    /// Puts a file of the folder there as it is now. Blocks.
    pub fn put_copy_of(&self, name: &str) -> Result<(), LogError> {
        let copy = self.copy.as_ref();
        copy.map_or(Ok(()), |copy| copy.put_file(name))
    }

    /// Deletes what is deleted in the folder there, too. Blocks.
    pub fn delete_copies(&self, paths: &[PathBuf]) -> Result<(), LogError> {
        let copy = self.copy.as_ref();
        copy.map_or(Ok(()), |copy| copy.delete(paths))
    }

    /// Creates files, in the store first.
    fn put(&self, files: Vec<(PathBuf, Vec<u8>)>) -> Result<(), LogError> {
        if let Some(copy) = &self.copy {
            copy.put(&files)?;
        }
        store::put_all(&self.dir, files)
    }

    /// Signs the tree of `state`, in the store first.
    fn sign(&self, state: &mut State) -> Result<(), LogError> {
        let origin = &self.options.origin;
        let (size, root) = (state.frontier.size(), state.frontier.root());
        match &self.copy {
            Some(copy) => {
                copy.put_cosigned()?;
                copy.sign(&self.key(), origin, state)?;
            }
            None => state.checkpoint = self.key().checkpoint(origin, size, root)?,
        }
        let place = self.dir.join(layout::CHECKPOINT);
        store::put_all(&self.dir, [(place, state.checkpoint.clone())])
    }

    /// What is held of worker 0 of that proxy; all zero when nothing is.
    pub fn position(&self, proxy: &InstanceName) -> Position {
        self.positions(proxy).remove(&0).unwrap_or_default()
    }

    /// What is held of each worker of that proxy.
    pub fn positions(&self, proxy: &InstanceName) -> BTreeMap<u16, Position> {
        let workers = (proxy.clone(), 0)..=(proxy.clone(), u16::MAX);
        (self.state().positions.range(workers))
            .map(|((_, worker), position)| (*worker, position.clone()))
            .collect()
    }

    /// From now on nothing is acknowledged that these have not cosigned.
    pub fn set_witnesses(&self, witnesses: Option<Quorum>) {
        let mut asked = self
            .witnesses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *asked = witnesses.map(Arc::new);
    }

    fn witnesses(&self) -> Option<Arc<Quorum>> {
        let asked = self
            .witnesses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }

    /// What a proxy may take as acknowledged: [`Self::positions`], once witnesses have cosigned them.
    pub async fn acknowledged(
        self: &Arc<Self>,
        proxy: &InstanceName,
    ) -> Result<BTreeMap<u16, Position>, LogError> {
        let Some(witnesses) = self.witnesses() else {
            return Ok(self.positions(proxy));
        };
        // Held meanwhile, so that nothing comes in between what is cosigned and what is said.
        let _turn = self.turn.lock().await;
        let size = self.state().frontier.size();
        if !witnesses.has_cosigned(size) {
            let dir = self.dir.clone();
            let asked = tokio::task::spawn_blocking(move || witnesses.cosign(&dir, size)).await;
            let cosigned = asked.unwrap_or_else(|panic| Err(panic.to_string()));
            cosigned.map_err(|what| LogError::Unwitnessed { what })?;
        }
        Ok(self.positions(proxy))
    }

    /// Puts a batch into the tree; when this returns, a checkpoint on the disk covers it, and the answer is the
    /// position reached. A batch that is there already changes nothing. The signature is the caller's to verify.
    pub async fn submit(self: &Arc<Self>, batch: Batch) -> Result<Position, LogError> {
        self.submit_checked(batch.checked()?).await
    }

    /// The same, for a batch that was checked before.
    pub(crate) async fn submit_checked(
        self: &Arc<Self>,
        batch: CheckedBatch,
    ) -> Result<Position, LogError> {
        let bytes: usize = batch.batch.records.iter().map(Vec::len).sum();
        let share = u32::try_from(bytes / ROOM_UNIT + 1).unwrap_or(u32::MAX);
        // Given back when the batch is answered. Nobody closes it.
        let _room = self.room.acquire_many(share).await;
        let (answer, mut answered) = oneshot::channel();
        {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            if pending.len() >= MAX_PENDING {
                return Err(LogError::Busy);
            }
            pending.push(Pending { batch, answer });
        }
        // Whoever gets the turn sequences for everybody who waits. Cancel-safe: a batch left in `pending` is taken by
        // the next turn, and nobody is told of it.
        let _turn = self.turn.lock().await;
        if let Ok(done) = answered.try_recv() {
            return done;
        }
        tokio::time::sleep(self.options.gather).await;
        let log = self.clone();
        let ran = tokio::task::spawn_blocking(move || log.sequence_pending()).await;
        ran.map_err(|panic| LogError::NotSequenced {
            what: panic.to_string(),
        })?;
        answered.try_recv().unwrap_or_else(|_gone| {
            Err(LogError::NotSequenced {
                what: "the sequencer gave no answer".to_owned(),
            })
        })
    }

    /// How the log stands.
    pub fn status(&self) -> LogStatus {
        let state = self.state();
        LogStatus {
            tree_size: state.frontier.size(),
            records: state.records,
            checkpoint: String::from_utf8_lossy(&state.checkpoint).into_owned(),
            verifier_key: self.key().verifier_key().to_owned(),
            proxies: u64::try_from(state.proxies()).unwrap_or(u64::MAX),
            witnesses: self.witnesses().map(|w| w.status()).unwrap_or_default(),
        }
    }

    fn key(&self) -> Arc<LogKey> {
        let key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&key)
    }

    /// Gives the log a new key, which the old one signs for; the checkpoint is signed anew. Blocks on disk.
    pub async fn rotate_key(self: &Arc<Self>) -> Result<(), LogError> {
        let _turn = self.turn.lock().await;
        let log = self.clone();
        let ran = tokio::task::spawn_blocking(move || log.replace_key()).await;
        ran.map_err(|panic| LogError::NotSequenced {
            what: panic.to_string(),
        })?
    }

    fn replace_key(&self) -> Result<(), LogError> {
        let mut state = self.state();
        let (size, root) = (state.frontier.size(), state.frontier.root());
        let origin = &self.options.origin;
        let seal = &self.options.seal_key;
        let new = self.key().replaced(&self.dir, origin, seal, (size, root))?;
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        if let Some(copy) = &self.copy {
            copy.put_changes_of_key()?;
        }
        self.sign(&mut state)
    }

    /// Gives the log a new key if a file in its folder asks for one (`reeve audit rotate-key`); whoever has the log open looks
    /// now and then. Returns what is to be put on record.
    pub async fn replace_wanted_key(self: &Arc<Self>) -> Option<EventRecord> {
        let wanted = self.dir.join(layout::WANTED_KEY);
        if !wanted.exists() {
            return None;
        }
        let old = self.status().verifier_key;
        let done = self.rotate_key().await;
        let done =
            done.and_then(|()| std::fs::remove_file(&wanted).map_err(|e| LogError::io(&wanted, e)));
        if let Err(error) = done {
            tracing::error!(%error, "cannot change the log's key");
        }
        let new = self.status().verifier_key;
        (new != old).then(|| {
            tracing::info!(key = new, "the log has a new key");
            let event = EventRecord::new(EventKind::LogKeyRotated);
            event.with("old", old).with("new", new)
        })
    }

    /// The state is replaced as a whole, so a panic while the lock was held leaves it sound.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn proxies(&self) -> usize {
        let names: BTreeSet<_> = self.positions.keys().map(|(proxy, _)| proxy).collect();
        names.len()
    }

    /// Adds an entry; `full` gets each hash tile completed, the answer is the bundle if that is complete.
    fn push(
        &mut self,
        entry: Vec<u8>,
        header: &BatchHeader,
        full: &mut dyn FnMut(tree::Tile),
    ) -> Option<Vec<Vec<u8>>> {
        let leaf = tlog_tiles::record_hash(&entry);
        self.frontier.push(leaf, full);
        self.records += header.count;
        let position = Position {
            epoch: header.epoch,
            batch: header.batch,
            sequence: header.span().map_or(0, |(_, last)| last),
            header_hash: leaf.0,
        };
        self.positions.insert(header.source(), position);
        self.tail.push(entry);
        (self.tail.len() == tree::TILE_WIDTH).then(|| std::mem::take(&mut self.tail))
    }
}

impl State {
    /// Adds an entry; `files` gets the tiles and the bundle that it completes.
    fn extend(
        &mut self,
        dir: &Path,
        entry: Vec<u8>,
        header: &BatchHeader,
        files: &mut Vec<(PathBuf, Vec<u8>)>,
    ) {
        let bundle = self.push(entry, header, &mut |t| {
            let path = layout::tile_path(dir, Some(t.level), t.index, t.hashes.len());
            files.push((path, t.bytes()));
        });
        if let Some(entries) = bundle {
            let path = layout::tile_path(dir, None, self.frontier.size() / 256 - 1, entries.len());
            files.push((path, layout::bundle(&entries)));
        }
    }

    /// `files` gets the tiles and the bundle at the right edge.
    fn unfinished(&self, dir: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
        let tiles = self.frontier.partial();
        files.extend(tiles.map(|t| {
            let path = layout::tile_path(dir, Some(t.level), t.index, t.hashes.len());
            (path, t.bytes())
        }));
        if !self.tail.is_empty() {
            let index = self.frontier.size() / 256;
            let path = layout::tile_path(dir, None, index, self.tail.len());
            files.push((path, layout::bundle(&self.tail)));
        }
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
