//! Opening a log: from the checkpoint and the entries it covers to the state that growing it needs.

use std::{collections::BTreeSet, fs, io, path::Path};

use tlog_tiles::record_hash;

use super::{
    LogError, State,
    chain::{self, KeyChain},
    key::{self, LogKey},
    layout, store,
};
use crate::{batch::BatchHeader, disk};

pub(crate) fn recover(dir: &Path, origin: &str, log_key: &LogKey) -> Result<State, LogError> {
    let path = dir.join(layout::CHECKPOINT);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return begin(dir, origin, log_key);
        }
        Err(error) => return Err(LogError::io(&path, error)),
    };
    // Of the key before this one, when a crash came between a change of key and the checkpoint that the new one signs.
    let newest = key::open_checkpoint(&bytes, log_key.verifier_key());
    let opened = newest.or_else(|what| {
        let first = chain::first_key(dir).ok_or_else(|| what.clone())?;
        let (chain, _) = KeyChain::follow(dir, &first);
        match chain.last() == log_key.verifier_key() {
            true => chain.open(&bytes),
            false => Err(what),
        }
    });
    let checkpoint = opened.map_err(|what| LogError::Damaged {
        path: path.clone(),
        what,
    })?;
    let mut state = State::default();
    let mut referenced = BTreeSet::new();
    let mut fault = None;
    store::read_entries(dir, checkpoint.size(), &mut |_, place, entry| {
        let header = entry.and_then(|e| {
            let header = serde_json::from_slice::<BatchHeader>(&e).map_err(|f| f.to_string())?;
            Ok((e, header))
        });
        match header {
            Ok((entry, header)) => {
                referenced.insert(layout::batch_path(dir, &record_hash(&entry).0));
                state.push(entry, &header, &mut |_tile| {});
            }
            Err(what) => {
                fault.get_or_insert(LogError::Damaged {
                    path: place.to_owned(),
                    what,
                });
            }
        }
    });
    if let Some(fault) = fault {
        return Err(fault);
    }
    if state.frontier.root() != *checkpoint.hash() {
        return Err(LogError::Damaged {
            path,
            what: "its root is not that of the entries".to_owned(),
        });
    }
    state.checkpoint = bytes;
    sweep(dir, checkpoint.size(), &referenced)?;
    Ok(state)
}

fn begin(dir: &Path, origin: &str, log_key: &LogKey) -> Result<State, LogError> {
    let mut state = State::default();
    state.checkpoint = log_key.checkpoint(origin, 0, state.frontier.root())?;
    sweep(dir, 0, &BTreeSet::new())?;
    store::put_all(
        dir,
        [(dir.join(layout::CHECKPOINT), state.checkpoint.clone())],
    )?;
    Ok(state)
}

/// Removes what was written and never came under a checkpoint: it was never acknowledged, and will be sent again.
fn sweep(dir: &Path, size: u64, referenced: &BTreeSet<std::path::PathBuf>) -> Result<(), LogError> {
    let remove = |path: &Path| match fs::remove_file(path) {
        Ok(()) => {
            tracing::info!(path = %path.display(), "removed what a crash left unfinished");
            Ok(())
        }
        Err(error) => Err(LogError::io(path, error)),
    };
    let walk = |part| store::walk(dir, part).map_err(|e| LogError::io(dir, e));
    for (relative, path) in walk("tile")? {
        let beyond = match layout::parse_tile_path(&relative) {
            Some((level, index, width)) => reaches_beyond(level, index, width, size),
            None => disk::is_unfinished(&path),
        };
        if beyond {
            remove(&path)?;
        }
    }
    for (_, path) in walk("batches")? {
        if !referenced.contains(&path) {
            remove(&path)?;
        }
    }
    for (_, path) in walk("blobs")? {
        if disk::is_unfinished(&path) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Whether a tile holds more than a tree of `size` has.
pub(crate) fn reaches_beyond(level: Option<u8>, index: u64, width: usize, size: u64) -> bool {
    let hashes = u32::from(level.unwrap_or(0))
        .checked_mul(8)
        .map_or(0, |bits| size.checked_shr(bits).unwrap_or(0));
    let width = u64::try_from(width).unwrap_or(u64::MAX);
    index.saturating_mul(256).saturating_add(width) > hashes
}
