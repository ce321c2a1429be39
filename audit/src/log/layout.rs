//! Where things lie in a log folder: C2SP tlog-tiles for the tree, our own places for the rest.

use std::path::{Path, PathBuf};

/// The signed tree head (C2SP tlog-checkpoint).
pub(crate) const CHECKPOINT: &str = "checkpoint";
/// The public key of the log.
pub(crate) const VERIFIER_KEY: &str = "log.vkey";
/// How many leaves have lost their records to retention.
pub(crate) const EXPIRED: &str = "expired";
/// The sealed private key of the log.
pub(crate) const SEALED_KEY: &str = "log.key";

/// The sealed private key that is to take over.
pub(crate) const NEXT_KEY: &str = "log.key.next";
/// A checkpoint with the cosignatures of witnesses.
pub(crate) const COSIGNED: &str = "checkpoint.cosigned";
/// Who writes a log that is in a store.
pub(crate) const WRITER: &str = "writer";
/// A file that asks the log for a new key.
pub(crate) const WANTED_KEY: &str = "log.key.wanted";

/// A change of the log's key, counted from 1.
pub(crate) fn key_path(dir: &Path, number: usize) -> PathBuf {
    dir.join("keys").join(format!("{number:06}"))
}

/// A hash tile, or with `level` `None` an entry bundle, of that width.
pub(crate) fn tile_path(dir: &Path, level: Option<u8>, index: u64, width: usize) -> PathBuf {
    let level = level.map_or_else(|| "entries".to_owned(), |l| l.to_string());
    let mut path = format!("tile/{level}/{}", index_path(index));
    if width < super::tree::TILE_WIDTH {
        path.push_str(&format!(".p/{width}"));
    }
    dir.join(path)
}

/// C2SP's form of a tile index: groups of three digits, all but the last with an `x` before.
fn index_path(index: u64) -> String {
    let mut path = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    path
}

/// A tile's level (`None` = entries), index and width, from its path under the log folder.
pub(crate) fn parse_tile_path(relative: &str) -> Option<(Option<u8>, u64, usize)> {
    let rest = relative.strip_prefix("tile/")?;
    let (level, rest) = rest.split_once('/')?;
    let level = match level {
        "entries" => None,
        level => Some(level.parse().ok()?),
    };
    let (index, width) = match rest.split_once(".p/") {
        Some((index, width)) => (index, width.parse().ok()?),
        None => (rest, super::tree::TILE_WIDTH),
    };
    let digits: String = index.chars().filter(char::is_ascii_digit).collect();
    let index = digits.parse().ok()?;
    let canonical = tile_path(Path::new(""), level, index, width);
    (canonical == Path::new(relative)).then_some((level, index, width))
}

/// A batch object.
pub(crate) fn batch_path(dir: &Path, hash: &[u8; 32]) -> PathBuf {
    batch_named(dir, &hex::encode(hash))
}

/// The same, of the hash in hex.
pub(crate) fn batch_named(dir: &Path, hash: &str) -> PathBuf {
    by_hash(dir, "batches", hash).with_extension("jsonl")
}

/// A blob; `hash` is its SHA-256 in hex.
pub(crate) fn blob_path(dir: &Path, hash: &str) -> PathBuf {
    by_hash(dir, "blobs", hash)
}

fn by_hash(dir: &Path, kind: &str, hash: &str) -> PathBuf {
    let shelf: String = hash.chars().take(2).collect();
    dir.join(kind).join(shelf).join(hash)
}

/// Entry bundle: each entry after its length in two bytes, big-endian.
pub(crate) fn bundle(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        // INVARIANT: headers are at most MAX_HEADER_BYTES long, checked when they come in.
        let length = u16::try_from(entry.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(entry);
    }
    out
}

/// The entries of a bundle; `None` when it does not end with a whole entry.
pub(crate) fn parse_bundle(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry.to_vec());
        bytes = rest;
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tile_paths_are_those_of_c2sp() {
        let path = |level, index, width| {
            tile_path(Path::new(""), level, index, width)
                .display()
                .to_string()
        };
        assert_eq!(path(Some(0), 0, 256), "tile/0/000");
        assert_eq!(path(Some(1), 1_234_067, 256), "tile/1/x001/x234/067");
        assert_eq!(path(Some(0), 273, 112), "tile/0/273.p/112");
        assert_eq!(path(None, 1000, 3), "tile/entries/x001/000.p/3");
        for known in [
            (Some(2), 1_234_067, 256),
            (None, 7, 1),
            (Some(0), 999, 255),
            (Some(63), 1_000_000, 9),
        ] {
            assert_eq!(
                parse_tile_path(&path(known.0, known.1, known.2)),
                Some(known)
            );
        }
        for bad in [
            "tile/0/00",
            "tile/0/0000",
            "tile/0/x000/001",
            "tile/00/000",
            "tile/0/000.p/0256",
            "x",
        ] {
            assert_eq!(parse_tile_path(bad), None, "{bad}");
        }
    }

    #[test]
    fn bundles_read_back_and_torn_ones_do_not() {
        let entries = vec![b"abc".to_vec(), vec![], vec![7; 300]];
        let bytes = bundle(&entries);
        assert_eq!(parse_bundle(&bytes), Some(entries));
        assert_eq!(parse_bundle(&bytes[..bytes.len() - 1]), None);
    }
}
