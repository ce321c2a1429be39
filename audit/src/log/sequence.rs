//! The sequencer: takes what waits, in order, and brings it under a new checkpoint.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{PoisonError, atomic::Ordering},
};

use tlog_tiles::record_hash;
use tokio::sync::oneshot;

use super::{AuditLog, LogError, Position, State, layout, recover, step::Step, tree::Tile};
use crate::batch::{Batch, BatchFault, BatchHeader, CheckedBatch};

/// A batch that waits.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) batch: CheckedBatch,
    pub(crate) answer: oneshot::Sender<Result<Position, LogError>>,
}

impl AuditLog {
    /// Sequences everything that waits. Blocks on disk.
    pub(crate) fn sequence_pending(&self) {
        let waiting = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *pending)
        };
        let mut state = self.state();
        if let Err(error) = self.clear_doubt(&mut state) {
            tracing::error!(%error, "cannot read the audit log again");
            let what = error.to_string();
            for Pending { answer, .. } in waiting {
                drop(answer.send(Err(LogError::NotSequenced { what: what.clone() })));
            }
            return;
        }
        let mut next = state.clone();
        let mut files = Vec::new();
        let mut objects = BTreeMap::new();
        let mut answers = Vec::new();
        for Pending { batch, answer } in waiting {
            let CheckedBatch { batch, header } = batch;
            let held = next.positions.get(&header.source());
            let taken = place(held, &header, &batch).and_then(|new| {
                if new {
                    objects.insert(
                        layout::batch_path(&self.dir, &batch.hash()),
                        batch.to_object().map_err(|e| BatchFault(e.to_string()))?,
                    );
                    next.extend(&self.dir, batch.header, &header, &mut files);
                }
                Ok(header.source())
            });
            answers.push((answer, taken));
        }
        let written = if objects.is_empty() {
            Ok(())
        } else {
            self.commit(&state, &mut next, objects, files)
        };
        if written.is_ok() {
            *state = next;
        } else if let Err(error) = &written {
            self.in_doubt.store(true, Ordering::Relaxed);
            tracing::error!(%error, "cannot write the audit log");
        }
        let (positions, size) = (state.positions.clone(), state.frontier.size());
        drop(state);
        // Others may look at the log while witnesses are asked; nobody sequences until they have answered.
        let cosigned = match (&written, self.witnesses()) {
            (Ok(()), Some(witnesses)) => witnesses.cosign(&self.dir, size),
            _ => Ok(()),
        };
        for (answer, taken) in answers {
            let result = match (taken, &written) {
                (Err(fault), _) => Err(LogError::Batch(fault)),
                (Ok(source), Ok(())) => match &cosigned {
                    Ok(()) => Ok(positions.get(&source).cloned().unwrap_or_default()),
                    Err(what) => Err(LogError::Unwitnessed { what: what.clone() }),
                },
                (Ok(_), Err(error)) => Err(LogError::NotSequenced {
                    what: error.to_string(),
                }),
            };
            // Nobody listens any more when the caller gave up; the batch is in the log all the same.
            drop(answer.send(result));
        }
    }

    /// After a round that failed, what is on the disk is what holds: its checkpoint may have come there all the same.
    fn clear_doubt(&self, state: &mut State) -> Result<(), LogError> {
        if self.in_doubt.load(Ordering::Relaxed) {
            *state = recover::recover(&self.dir, &self.options.origin, &self.key())?;
            if let Some(copy) = &self.copy {
                copy.recover(&self.key(), state)?;
            }
            self.in_doubt.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes objects, bundles and tiles, then the checkpoint that covers them.
    fn commit(
        &self,
        old: &State,
        next: &mut State,
        objects: BTreeMap<PathBuf, Vec<u8>>,
        mut files: Vec<(PathBuf, Vec<u8>)>,
    ) -> Result<(), LogError> {
        self.put(objects.into_iter().collect())?;
        self.reached(Step::Stored)?;
        next.unfinished(&self.dir, &mut files);
        self.put(files)?;
        self.reached(Step::Extended)?;
        self.sign(next)?;
        self.reached(Step::Signed)?;
        self.drop_narrower(old, next);
        Ok(())
    }

    /// Deletes the partial tiles of the tree before, where wider ones are there now.
    fn drop_narrower(&self, old: &State, next: &State) {
        let mut paths = Vec::new();
        if !old.tail.is_empty() {
            paths.push(layout::tile_path(
                &self.dir,
                None,
                old.frontier.size() / 256,
                old.tail.len(),
            ));
        }
        let kept: Vec<Tile> = next.frontier.partial().collect();
        for tile in old.frontier.partial() {
            if !kept.contains(&tile) {
                let (level, index) = (Some(tile.level), tile.index);
                paths.push(layout::tile_path(
                    &self.dir,
                    level,
                    index,
                    tile.hashes.len(),
                ));
            }
        }
        if let Some(Err(error)) = self.copy.as_ref().map(|copy| copy.delete(&paths)) {
            tracing::debug!(%error, "partial tiles stay in the store");
        }
        for path in paths {
            if let Err(error) = fs::remove_file(&path) {
                tracing::debug!(path = %path.display(), %error, "a partial tile stays");
            }
        }
    }
}

/// Whether the batch is new (and not one we hold already), given what is held of its worker.
///
/// A gap forward is taken: another log may have what lies between, and refusing it would stop a proxy whose records this log
/// has lost. `verify` reports it.
fn place(held: Option<&Position>, header: &BatchHeader, batch: &Batch) -> Result<bool, BatchFault> {
    let Some(held) = held else {
        return Ok(true);
    };
    let (first, last) = header.span().unwrap_or_default();
    let same = (header.epoch, header.batch) == (held.epoch, held.batch);
    let reached = (held.epoch, held.sequence);
    if (header.epoch, last) <= reached {
        return match same && record_hash(&batch.header).0 != held.header_hash {
            true => Err(BatchFault(
                "another batch of that number is in the log".to_owned(),
            )),
            false => Ok(false),
        };
    }
    if (header.epoch, first) <= reached {
        let what = "holds records that are in the log already";
        return Err(BatchFault(what.to_owned()));
    }
    if header.previous != held.header_hash {
        tracing::info!(proxy = %header.proxy, epoch = header.epoch, batch = header.batch,
            "the batch does not continue the last one here");
    }
    Ok(true)
}
