//! The tree: entries, tiles and checkpoint must tell the same story.

use std::{collections::BTreeMap, fs, path::PathBuf};

use tlog_tiles::{Hash, record_hash};

use super::Check;
use crate::{
    disk,
    log::{
        key::open_checkpoint,
        layout, store,
        tree::{self, Frontier, TILE_WIDTH},
    },
};

/// The leaves under the checkpoint.
#[derive(Debug)]
pub(super) struct Leaves {
    /// Their hashes, as the checkpoint has them if anything on the disk agrees with it.
    pub(super) hashes: Vec<Hash>,
    /// The entries, with the files that hold them; those that do not check are left out.
    pub(super) entries: Vec<(u64, PathBuf, Vec<u8>)>,
}

impl Check<'_> {
    /// Checks the tree; `None` when there is no checkpoint to hold it against.
    pub(super) fn tree(&mut self, checkpoint: Option<&[u8]>, key: &str) -> Option<Leaves> {
        let Some(bytes) = checkpoint else {
            self.find(layout::CHECKPOINT, "is missing");
            return None;
        };
        let checkpoint = match open_checkpoint(bytes, key) {
            Ok(checkpoint) => checkpoint,
            Err(what) => {
                let place = format!("{} (or {})", layout::CHECKPOINT, layout::VERIFIER_KEY);
                self.find(place, what);
                return None;
            }
        };
        self.report.tree_size = checkpoint.size();
        self.report.root = checkpoint.hash().to_string();
        let mut entries = Vec::new();
        let mut faults = Vec::new();
        store::read_entries(
            self.dir,
            checkpoint.size(),
            &mut |at, path, entry| match entry {
                Ok(entry) => entries.push((at, path.to_owned(), entry)),
                Err(what) => faults.push((path.to_owned(), what)),
            },
        );
        let of_entries: Vec<_> = entries.iter().map(|(_, _, e)| record_hash(e)).collect();
        let of_tiles = self.tile_hashes(0, checkpoint.size());
        for (path, what) in faults {
            let name = self.name(&path);
            self.find(name, what);
        }
        let root = *checkpoint.hash();
        let hashes = if tree::root(&of_entries) == root {
            of_entries
        } else if tree::root(&of_tiles) == root {
            of_tiles
        } else {
            self.find(
                layout::CHECKPOINT,
                "its root is that of neither the entries nor the tiles",
            );
            of_entries
        };
        for (at, path, entry) in &entries {
            let wanted = usize::try_from(*at).ok().and_then(|at| hashes.get(at));
            if wanted != Some(&record_hash(entry)) {
                let name = self.name(path);
                self.find(
                    format!("{name} entry {at}"),
                    "does not hash to the tree's leaf",
                );
            }
        }
        self.tiles(&hashes);
        Some(Leaves { hashes, entries })
    }

    /// The hashes that the level-0 tiles hold; stops at what cannot be read.
    fn tile_hashes(&self, level: u8, size: u64) -> Vec<Hash> {
        let mut hashes = Vec::new();
        let mut from = 0;
        while from < size {
            let wide = (size - from).min(256);
            let width = usize::try_from(wide).unwrap_or(TILE_WIDTH);
            let Ok((_, bytes)) = store::read_tile(self.dir, Some(level), from / 256, width) else {
                break;
            };
            hashes.extend(split(&bytes).take(width));
            from += wide;
        }
        hashes
    }

    /// Every tile that the tree needs is there, and every tile that is there is the tree's.
    fn tiles(&mut self, hashes: &[Hash]) {
        let mut wanted = BTreeMap::new();
        let mut frontier = Frontier::default();
        for hash in hashes {
            frontier.push(*hash, &mut |tile| {
                wanted.insert((tile.level, tile.index), tile.hashes);
            });
        }
        let partial = frontier.partial().map(|t| ((t.level, t.index), t.hashes));
        wanted.extend(partial);
        for ((level, index), tile) in &wanted {
            let read = store::read_tile(self.dir, Some(*level), *index, tile.len());
            if let Err(error) = read {
                let path = layout::tile_path(self.dir, Some(*level), *index, tile.len());
                let name = self.name(&path);
                self.find(name, error.to_string());
            }
        }
        for (name, path) in store::walk(self.dir, "tile").unwrap_or_default() {
            let Some((level, index, width)) = layout::parse_tile_path(&name) else {
                if !disk::is_unfinished(&path) {
                    self.find(name, "is no file of the tree");
                }
                continue;
            };
            // A tile that is gone by now made room for a wider one.
            let Ok(bytes) = fs::read(&path) else { continue };
            let held = match level {
                Some(_) if bytes.len() != width * 32 => None,
                Some(_) => Some(split(&bytes).collect::<Vec<_>>()),
                None => layout::parse_bundle(&bytes)
                    .filter(|entries| entries.len() == width)
                    .map(|entries| entries.iter().map(|e| record_hash(e)).collect()),
            };
            let Some(held) = held else {
                self.find(name, "is not of the length that its name says");
                continue;
            };
            let tile = wanted.get(&(level.unwrap_or(0), index));
            let tile = tile.map(Vec::as_slice).unwrap_or_default();
            if width > tile.len() {
                self.report.notes.push(format!(
                    "{name} reaches beyond the checkpoint; not verified"
                ));
            }
            let first = held.iter().zip(tile).position(|(a, b)| a != b);
            // Entries that the tree was read from are judged one by one already.
            if let Some(at) = first {
                self.find(format!("{name} hash {at}"), "is not that of the tree");
            }
        }
    }
}

fn split(bytes: &[u8]) -> impl Iterator<Item = Hash> + '_ {
    let (chunks, _) = bytes.as_chunks::<32>();
    chunks.iter().map(|hash| Hash(*hash))
}
