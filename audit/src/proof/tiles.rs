//! Hashes of inner nodes, read from the tiles of a log folder, and the paths made of them.

use std::{
    cell::RefCell,
    collections::{HashMap, hash_map::Entry},
    io,
    path::Path,
};

use tlog_tiles::Hash;

use crate::log::{
    store,
    tree::{self, TILE_WIDTH},
};

/// The tiles of a tree of a known size.
#[derive(Debug)]
pub struct Tiles<'a> {
    dir: &'a Path,
    size: u64,
    /// Tiles read before; a path needs few.
    read: RefCell<HashMap<(u8, u64), Vec<u8>>>,
}

impl<'a> Tiles<'a> {
    /// Of the log in `dir`, whose checkpoint says `size`.
    pub fn new(dir: &'a Path, size: u64) -> Self {
        Self {
            dir,
            size,
            read: RefCell::default(),
        }
    }

    /// RFC 6962's audit path of a leaf: from its sibling up.
    pub fn path(&self, index: u64) -> io::Result<Vec<Hash>> {
        let mut path = Vec::new();
        let (mut from, mut to) = (0, self.size);
        // Down to the leaf; at each step what is beside the way is a part of the path.
        while to.saturating_sub(from) > 1 {
            let middle = from + split(to - from);
            if index < middle {
                path.push(self.root(middle, to)?);
                to = middle;
            } else {
                path.push(self.root(from, middle)?);
                from = middle;
            }
        }
        path.reverse();
        Ok(path)
    }

    /// RFC 6962's proof that the first `old` leaves are the beginning of this tree (section 2.1.2).
    pub fn consistency(&self, old: u64) -> io::Result<Vec<Hash>> {
        let mut path = Vec::new();
        if old == 0 || old >= self.size {
            return Ok(path);
        }
        let (mut from, mut to) = (0, self.size);
        while to != old {
            let middle = from + split(to - from);
            if old <= middle {
                path.push(self.root(middle, to)?);
                to = middle;
            } else {
                path.push(self.root(from, middle)?);
                from = middle;
            }
        }
        // What a verifier knows already is left out.
        if from > 0 {
            path.push(self.root(from, to)?);
        }
        path.reverse();
        Ok(path)
    }

    /// The root over leaves `from..to`, where `from` is a multiple of the least power of two not below `to - from`.
    pub fn root(&self, mut from: u64, to: u64) -> io::Result<Hash> {
        let mut parts = Vec::new();
        while from < to {
            let level = (to - from).ilog2();
            parts.push(self.node(level, from >> level)?);
            from += 1 << level;
        }
        let right = parts.pop().unwrap_or(tlog_tiles::EMPTY_HASH);
        let joined = parts.into_iter().rev();
        Ok(joined.fold(right, |right, left| tlog_tiles::node_hash(left, right)))
    }

    /// A complete subtree's root: the `index`th of 2^`level` leaves.
    fn node(&self, level: u32, index: u64) -> io::Result<Hash> {
        let (tile_level, within) = (level / 8, level % 8);
        let first = index << within;
        let (tile, at) = (first / 256, usize::try_from(first % 256).unwrap_or(0));
        let wide = (self.size >> (8 * tile_level)).saturating_sub(tile * 256);
        let width = usize::try_from(wide.min(256)).unwrap_or(TILE_WIDTH);
        let key = (u8::try_from(tile_level).unwrap_or(u8::MAX), tile);
        let mut read = self.read.borrow_mut();
        let bytes = match read.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                new.insert(store::read_tile(self.dir, Some(key.0), tile, width)?.1)
            }
        };
        let (hashes, _) = bytes.as_chunks::<32>();
        let hashes = hashes.get(at..at + (1 << within));
        let hashes = hashes.ok_or_else(|| io::Error::other("a tile is too short"))?;
        let hashes: Vec<Hash> = hashes.iter().copied().map(Hash).collect();
        Ok(tree::root(&hashes))
    }
}

/// The largest power of two below `size`, which is at least 2.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// The audit path of a leaf among leaf hashes that are all at hand.
pub(crate) fn path_in(leaves: &[[u8; 32]], index: usize) -> Vec<[u8; 32]> {
    let leaves: Vec<Hash> = leaves.iter().copied().map(Hash).collect();
    let mut path = Vec::new();
    let mut rest = leaves.as_slice();
    let mut index = index;
    while rest.len() > 1 {
        let middle = 1 << (rest.len() - 1).ilog2();
        let (left, right) = rest.split_at(middle);
        if index < middle {
            path.push(tree::root(right).0);
            rest = left;
        } else {
            path.push(tree::root(left).0);
            rest = right;
            index -= middle;
        }
    }
    path.reverse();
    path
}
