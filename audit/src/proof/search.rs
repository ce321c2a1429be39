//! Which leaf of the log holds a record, without reading all of them.
//!
//! The leaves of a proxy's worker are in the tree in the order of its records, so bundles can be bisected: in each, only
//! the entries that name the proxy are read, and where there is none, the next bundle is asked.

use std::path::Path;

use reeve_core::RecordId;

use super::ProveError;
use crate::{
    batch::BatchHeader,
    log::{layout, store, tree::TILE_WIDTH},
};

const WIDTH: u64 = 256;

/// The leaf that holds `id`: its place and its entry.
pub(super) fn leaf_of(
    dir: &Path,
    size: u64,
    id: &RecordId,
) -> Result<Option<(u64, Vec<u8>)>, ProveError> {
    let search = Search {
        dir,
        size,
        id,
        needle: format!("\"proxy\":\"{}\"", id.proxy),
    };
    // The first bundle that may hold it is in `from..to`.
    let (mut from, mut to) = (0, size.div_ceil(WIDTH));
    while from < to {
        let middle = from + (to - from) / 2;
        let mut at = middle;
        let seen = loop {
            if at >= to {
                break None;
            }
            let seen = search.bundle(at)?;
            if seen.is_some() {
                break seen;
            }
            at += 1;
        };
        match seen {
            Some(Seen::Here(index, entry)) => return Ok(Some((index, entry))),
            Some(Seen::Before) => from = at + 1,
            Some(Seen::After) | None => to = middle,
        }
    }
    Ok(None)
}

struct Search<'a> {
    dir: &'a Path,
    size: u64,
    id: &'a RecordId,
    needle: String,
}

/// What a bundle's entries of the worker say.
enum Seen {
    /// All are before the record.
    Before,
    /// One holds it.
    Here(u64, Vec<u8>),
    /// All are after it, or around it.
    After,
}

impl Search<'_> {
    /// `None` when the bundle has no entry of the worker.
    fn bundle(&self, bundle: u64) -> Result<Option<Seen>, ProveError> {
        let wide = (self.size - bundle * WIDTH).min(WIDTH);
        let width = usize::try_from(wide).unwrap_or(TILE_WIDTH);
        let (path, bytes) = store::read_tile(self.dir, None, bundle, width)
            .map_err(|e| ProveError::io(self.dir, e))?;
        let entries = layout::parse_bundle(&bytes)
            .filter(|entries| entries.len() >= width)
            .ok_or_else(|| ProveError::damaged(&path, "does not hold what its name says"))?;
        let mut seen = None;
        for (index, entry) in (bundle * WIDTH..).zip(entries.into_iter().take(width)) {
            if !contains(&entry, self.needle.as_bytes()) {
                continue;
            }
            let Ok(header) = serde_json::from_slice::<BatchHeader>(&entry) else {
                continue;
            };
            let Some((first, last)) = header.sequences.get(&self.id.worker) else {
                continue;
            };
            if header.proxy != self.id.proxy {
                continue;
            }
            let at = (self.id.epoch, self.id.sequence);
            if at < (header.epoch, *first) {
                return Ok(Some(Seen::After));
            }
            if at <= (header.epoch, *last) {
                return Ok(Some(Seen::Here(index, entry)));
            }
            seen = Some(Seen::Before);
        }
        Ok(seen)
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}
