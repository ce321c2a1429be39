//! Retention: the records of whole tiles of leaves are deleted, their headers stay, and so does the tree.
//!
//! What is to be deleted is recorded first; files go only when that record is in the log, so that `verify` can tell
//! retention from a quiet deletion.

use std::{
    fs,
    path::{Path, PathBuf},
};

use reeve_audit::{
    Entry, EventKind, EventRecord, Reader, Record,
    archive::{EXPIRED, Expired, root_of},
};

use super::{KeepError, Keeper, LEAVES_AT_ONCE, failed};
use crate::segment;

/// Leaves whose records are deleted together: those of a tile.
const TILE: u64 = 256;
/// What the record of an expiry keeps of the configuration that was in force before the first record that stays.
const IN_FORCE: [&str; 5] = [
    "generation",
    "policy_hash",
    "policy_set",
    "schema",
    "entities",
];

impl Keeper {
    /// Deletes what is older than records are kept; how many leaves have lost their records now, if any more did.
    pub(super) fn expire(&mut self) -> Result<Option<u64>, KeepError> {
        let reader = Reader::open(&self.dir)?;
        let expired = reader.expiry();
        if expired.deleted < expired.leaves {
            self.delete(&reader, expired)?;
        }
        let Some(kept) = self.options.retention else {
            return Ok(None);
        };
        let horizon = self.clock.now().minus(kept);
        let mut end = expired.leaves;
        let mut hashes = Vec::new();
        let size = reader.tree_size()?;
        // Whole tiles, and only those whose every batch was signed before: a batch's records are older than it is.
        while end + TILE <= size {
            let batches = reader.batches(end, end + TILE)?;
            if batches.iter().any(|batch| batch.header.time >= horizon) {
                break;
            }
            hashes.extend(batches.iter().map(|batch| batch.hash));
            end += TILE;
        }
        if end == expired.leaves {
            return Ok(None);
        }
        let before = reader.headers(0, expired.leaves)?;
        let all: Vec<_> = before.iter().map(|b| b.hash).chain(hashes).collect();
        let mut event = EventRecord::new(EventKind::RecordsExpired)
            .with("leaves", end.to_string())
            .with("root", hex::encode(root_of(&all)))
            .with("before_ms", horizon.as_millis().to_string());
        if let Some(last) = self.last_configuration(&reader, expired.leaves, end)? {
            for name in IN_FORCE {
                if let Some(value) = last.detail.get(name) {
                    event = event.with(name, value);
                }
            }
        }
        let id = self.wal.append(event)?;
        self.until_logged(&id)?;
        let leaves = Expired {
            leaves: end,
            deleted: expired.leaves,
        };
        self.mark(&reader, leaves)?;
        self.delete(&reader, leaves)?;
        tracing::info!(
            leaves = end,
            "records older than the log keeps them are deleted"
        );
        Ok(Some(end))
    }

    /// Deletes batches and segments of which nothing stays. What is gone already stays gone.
    fn delete(&self, reader: &Reader, expired: Expired) -> Result<(), KeepError> {
        let mut at = expired.deleted;
        while at < expired.leaves {
            let end = expired.leaves.min(at + LEAVES_AT_ONCE);
            let batches = reader.headers(at, end)?;
            let objects: Vec<_> = batches.into_iter().map(|batch| batch.object).collect();
            self.remove(&objects)?;
            at = end;
        }
        let listed = segment::list(&self.dir, expired.leaves).map_err(|e| failed(&self.dir, e))?;
        let gone = listed.iter().filter(|s| s.last < expired.leaves);
        let paths: Vec<_> = gone.map(|segment| segment.path(&self.dir)).collect();
        self.remove(&paths)?;
        self.mark(
            reader,
            Expired {
                deleted: expired.leaves,
                ..expired
            },
        )
    }

    /// Writes down how far it has come, here and in the log's store.
    fn mark(&self, reader: &Reader, expired: Expired) -> Result<(), KeepError> {
        reader.set_expiry(expired)?;
        Ok(self.log.put_copy_of(EXPIRED)?)
    }

    /// Removes files, in the log's store first: a process that ends in between removes them again.
    fn remove(&self, paths: &[PathBuf]) -> Result<(), KeepError> {
        self.log.delete_copies(paths)?;
        paths.iter().try_for_each(|path| remove(path))
    }

    /// The last configuration that came into force in the records of these leaves, as they or what expired before them say.
    fn last_configuration(
        &self,
        reader: &Reader,
        from: u64,
        to: u64,
    ) -> Result<Option<EventRecord>, KeepError> {
        let mut last = None;
        let mut buffer = Vec::new();
        let mut at = from;
        while at < to {
            let end = to.min(at + LEAVES_AT_ONCE);
            let own = self.wal.proxy();
            let batches = reader.batches(at, end)?.into_iter();
            for batch in batches.filter(|batch| batch.header.proxy == *own) {
                batch.read_checked(&mut buffer, &mut |record| {
                    last = configuration(record).or(last.take());
                })?;
            }
            at = end;
        }
        Ok(last)
    }
}

fn configuration(record: &[u8]) -> Option<EventRecord> {
    let Entry::Event(event) = Record::from_slice(record).ok()?.entry else {
        return None;
    };
    event.detail.contains_key("policy_set").then_some(event)
}

fn remove(path: &Path) -> Result<(), KeepError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(path, error)),
        _ => Ok(()),
    }
}
