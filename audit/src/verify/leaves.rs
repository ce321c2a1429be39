//! The tree: entries, tiles and checkpoint must tell the same story.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use tlog_tiles::{Hash, record_hash};

use super::Check;
use crate::{
    disk,
    log::{
        chain::KeyChain,
        layout, store,
        tree::{Frontier, TILE_WIDTH},
    },
};

/// The leaves under the checkpoint.
#[derive(Debug)]
pub(super) struct Leaves {
    /// How many there are before these.
    pub(super) from: u64,
    /// The tree's right edge before them.
    pub(super) before: Frontier,
    /// Their hashes, as the checkpoint has them if anything on the disk agrees with it.
    pub(super) hashes: Vec<Hash>,
    /// The tree's right edge after them.
    pub(super) edge: Frontier,
    /// The entries, with the files that hold them; those that do not check are left out.
    pub(super) entries: Vec<(u64, PathBuf, Vec<u8>)>,
}

impl Leaves {
    /// The hash of one of them.
    pub(super) fn hash(&self, at: u64) -> Option<&Hash> {
        let at = usize::try_from(at.checked_sub(self.from)?).ok()?;
        self.hashes.get(at)
    }
}

/// The tree after more leaves.
pub(super) fn grown(mut edge: Frontier, leaves: &[Hash]) -> Frontier {
    for leaf in leaves {
        edge.push(*leaf, &mut |_tile| {});
    }
    edge
}

impl Check<'_> {
    /// Checks the tree from `edge` on; `None` when there is no checkpoint to hold it against.
    pub(super) fn tree(
        &mut self,
        checkpoint: Option<&[u8]>,
        keys: &KeyChain,
        edge: Frontier,
    ) -> Option<Leaves> {
        let Some(bytes) = checkpoint else {
            self.find(layout::CHECKPOINT, "is missing");
            return None;
        };
        let checkpoint = match keys.open(bytes) {
            Ok(checkpoint) => checkpoint,
            Err(what) => {
                let place = format!("{} (or {})", layout::CHECKPOINT, layout::VERIFIER_KEY);
                self.find(place, what);
                return None;
            }
        };
        self.report.tree_size = checkpoint.size();
        self.report.root = checkpoint.hash().to_string();
        let from = edge.size();
        if checkpoint.size() < from {
            let text = format!(
                "the log has {} entries; {from} were verified before",
                checkpoint.size()
            );
            self.find(layout::CHECKPOINT, text);
            return None;
        }
        let mut entries = Vec::new();
        let mut faults = Vec::new();
        store::read_entries_from(self.dir, from, checkpoint.size(), &mut |at, path, entry| {
            match entry {
                Ok(entry) => entries.push((at, path.to_owned(), entry)),
                Err(what) => faults.push((path.to_owned(), what)),
            }
        });
        let of_entries: Vec<_> = entries.iter().map(|(_, _, e)| record_hash(e)).collect();
        let of_tiles = self.tile_hashes(from, checkpoint.size());
        for (path, what) in faults {
            let name = self.name(&path);
            self.find(name, what);
        }
        let root = *checkpoint.hash();
        let after = grown(edge.clone(), &of_entries);
        let (hashes, after) = if after.root() == root {
            (of_entries, after)
        } else {
            let of_tiles_after = grown(edge.clone(), &of_tiles);
            if of_tiles_after.root() == root {
                (of_tiles, of_tiles_after)
            } else {
                let before = match from {
                    0 => String::new(),
                    from => format!(", after the {from} entries that were verified before"),
                };
                let text = format!("its root is that of neither the entries nor the tiles{before}");
                self.find(layout::CHECKPOINT, text);
                (of_entries, after)
            }
        };
        let leaves = Leaves {
            from,
            before: edge.clone(),
            hashes,
            edge: after,
            entries,
        };
        self.entries(&leaves);
        self.tiles(&leaves, edge);
        Some(leaves)
    }

    /// Each entry is a leaf of the tree.
    fn entries(&mut self, leaves: &Leaves) {
        for (at, path, entry) in &leaves.entries {
            if leaves.hash(*at) != Some(&record_hash(entry)) {
                let place = format!("{} entry {at}", self.name(path));
                self.find(place, "does not hash to the tree's leaf");
            }
        }
    }

    /// The hashes that the level-0 tiles hold; stops at what cannot be read.
    fn tile_hashes(&self, from: u64, size: u64) -> Vec<Hash> {
        let mut hashes = Vec::new();
        let mut at = from - from % 256;
        let known = usize::try_from(from - at).unwrap_or(TILE_WIDTH);
        while at < size {
            let wide = (size - at).min(256);
            let width = usize::try_from(wide).unwrap_or(TILE_WIDTH);
            let Ok((_, bytes)) = store::read_tile(self.dir, Some(0), at / 256, width) else {
                break;
            };
            hashes.extend(split(&bytes).take(width));
            at += wide;
        }
        hashes.drain(..known.min(hashes.len()));
        hashes
    }

    /// Every tile that the tree needs is there, and every tile that is there is the tree's. Of a log that was verified
    /// before, those that have changed since.
    fn tiles(&mut self, leaves: &Leaves, before: Frontier) {
        let partial = leaves.from > 0;
        let mut wanted = BTreeMap::new();
        let mut frontier = before;
        for hash in &leaves.hashes {
            frontier.push(*hash, &mut |tile| {
                wanted.insert((tile.level, tile.index), tile.hashes);
            });
        }
        wanted.extend(frontier.partial().map(|t| ((t.level, t.index), t.hashes)));
        let mut changed = Vec::new();
        for ((level, index), tile) in &wanted {
            match store::read_tile(self.dir, Some(*level), *index, tile.len()) {
                Ok((path, _)) => changed.push((self.name(&path), path)),
                Err(error) => {
                    let path = layout::tile_path(self.dir, Some(*level), *index, tile.len());
                    let name = self.name(&path);
                    self.find(name, error.to_string());
                }
            }
        }
        let files = match partial {
            true => changed,
            false => store::walk(self.dir, "tile").unwrap_or_default(),
        };
        for (name, path) in files {
            self.tile(name, &path, &wanted);
        }
    }

    fn tile(&mut self, name: String, path: &Path, wanted: &BTreeMap<(u8, u64), Vec<Hash>>) {
        let Some((level, index, width)) = layout::parse_tile_path(&name) else {
            if !disk::is_unfinished(path) {
                self.find(name, "is no file of the tree");
            }
            return;
        };
        // A tile that is gone by now made room for a wider one.
        let Ok(bytes) = fs::read(path) else { return };
        let held = match level {
            Some(_) if bytes.len() != width * 32 => None,
            Some(_) => Some(split(&bytes).collect::<Vec<_>>()),
            None => layout::parse_bundle(&bytes)
                .filter(|entries| entries.len() == width)
                .map(|entries| entries.iter().map(|e| record_hash(e)).collect()),
        };
        let Some(held) = held else {
            self.find(name, "is not of the length that its name says");
            return;
        };
        let tile = wanted.get(&(level.unwrap_or(0), index));
        let tile = tile.map(Vec::as_slice).unwrap_or_default();
        if width > tile.len() {
            let text = format!("{name} reaches beyond the checkpoint; not verified");
            self.report.notes.push(text);
        }
        let first = held.iter().zip(tile).position(|(a, b)| a != b);
        // Entries that the tree was read from are judged one by one already.
        if let Some(at) = first {
            self.find(format!("{name} hash {at}"), "is not that of the tree");
        }
    }
}

fn split(bytes: &[u8]) -> impl Iterator<Item = Hash> + '_ {
    let (chunks, _) = bytes.as_chunks::<32>();
    chunks.iter().map(|hash| Hash(*hash))
}
