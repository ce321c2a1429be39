//! The Merkle tree as C2SP tlog-tiles lay it out: tiles of 256 hashes, eight levels of the tree in each.

use tlog_tiles::{EMPTY_HASH, Hash, node_hash};

/// Hashes in a full tile.
pub(crate) const TILE_WIDTH: usize = 256;

/// RFC 6962 root over leaf hashes.
pub(crate) fn root(leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::default();
    for leaf in leaves {
        frontier.push(*leaf, &mut |_tile| {});
    }
    frontier.root()
}

/// A hash tile.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tile {
    pub(crate) level: u8,
    pub(crate) index: u64,
    pub(crate) hashes: Vec<Hash>,
}

impl Tile {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.hashes.iter().flat_map(|h| h.0).collect()
    }
}

/// The right edge of the tree: the unfinished tile of each level, which is all that growing it needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Frontier {
    /// Per tile level: how many full tiles stand before, and the hashes of the unfinished one (at most 255).
    levels: Vec<(u64, Vec<Hash>)>,
    size: u64,
}

impl Frontier {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf; `full` gets each tile that it completes.
    pub(crate) fn push(&mut self, leaf: Hash, full: &mut dyn FnMut(Tile)) {
        self.size += 1;
        let mut hash = leaf;
        for level in 0..=8u8 {
            if self.levels.len() <= usize::from(level) {
                self.levels.push((0, Vec::new()));
            }
            let Some((done, hashes)) = self.levels.get_mut(usize::from(level)) else {
                return;
            };
            hashes.push(hash);
            if hashes.len() < TILE_WIDTH {
                return;
            }
            let tile = Tile {
                level,
                index: *done,
                hashes: std::mem::take(hashes),
            };
            *done += 1;
            hash = complete(&tile.hashes);
            full(tile);
        }
    }

    /// The unfinished tiles.
    pub(crate) fn partial(&self) -> impl Iterator<Item = Tile> + '_ {
        let levels = self.levels.iter().zip(0u8..);
        levels
            .filter(|((_, hashes), _)| !hashes.is_empty())
            .map(|((done, hashes), level)| Tile {
                level,
                index: *done,
                hashes: hashes.clone(),
            })
    }

    /// How many full tiles stand at each level, and the hashes of the unfinished one.
    pub(crate) fn edge(&self) -> &[(u64, Vec<Hash>)] {
        &self.levels
    }

    /// From what [`Self::edge`] gave; `None` when no tree of `size` has such an edge.
    pub(crate) fn of_edge(size: u64, levels: Vec<(u64, Vec<Hash>)>) -> Option<Self> {
        let mut left = size;
        for (done, hashes) in &levels {
            let width = u64::try_from(hashes.len()).ok()?;
            if (left / 256, left % 256) != (*done, width) {
                return None;
            }
            left = *done;
        }
        (left == 0 && levels.len() <= 9).then_some(Self { levels, size })
    }

    /// The tree's root.
    pub(crate) fn root(&self) -> Hash {
        // From right to left: at each level the unfinished tile splits into complete subtrees, the smallest rightmost.
        let mut right: Option<Hash> = None;
        for (_, hashes) in &self.levels {
            let mut end = hashes.len();
            while end > 0 {
                let width = 1 << end.trailing_zeros();
                let left = complete(hashes.get(end - width..end).unwrap_or_default());
                right = Some(right.map_or(left, |right| node_hash(left, right)));
                end -= width;
            }
        }
        right.unwrap_or(EMPTY_HASH)
    }
}

/// The root of a complete subtree (a power of two of hashes).
fn complete(hashes: &[Hash]) -> Hash {
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        row = row
            .chunks(2)
            .filter_map(|pair| match pair {
                [left, right] => Some(node_hash(*left, *right)),
                _ => None,
            })
            .collect();
    }
    row.first().copied().unwrap_or(EMPTY_HASH)
}

#[cfg(test)]
mod tests {
    use tlog_tiles::{Error, HashReader, record_hash, stored_hashes, tree_hash};

    use super::*;

    struct Stored(Vec<Hash>);

    impl HashReader for Stored {
        fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, Error> {
            indexes
                .iter()
                .map(|i| {
                    self.0
                        .get(usize::try_from(*i).unwrap())
                        .copied()
                        .ok_or(Error::IndexesNotInTree)
                })
                .collect()
        }
    }

    #[test]
    fn the_root_is_that_of_rfc_6962_at_every_size() {
        let mut stored = Stored(Vec::new());
        let mut frontier = Frontier::default();
        assert_eq!(frontier.root(), EMPTY_HASH);
        for n in 0..600u64 {
            let data = n.to_be_bytes();
            let more = stored_hashes(n, &data, &stored).unwrap();
            stored.0.extend(more);
            frontier.push(record_hash(&data), &mut |tile| {
                assert_eq!(tile.hashes.len(), TILE_WIDTH);
            });
            assert_eq!(frontier.root(), tree_hash(n + 1, &stored).unwrap(), "{n}");
        }
    }
}
