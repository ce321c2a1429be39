//! Columns beside the tree: each segment as the record of it says, and none that no record speaks of.

use std::{collections::BTreeMap, fs, io::Read, path::Path};

use aws_lc_rs::digest;
use reeve_core::RecordId;

use super::{Check, leaves::Leaves};
use crate::{EventKind, EventRecord, hexes, log::tree};

/// Where segments are.
const FOLDER: &str = "parquet";
/// Their names' end.
const EXTENSION: &str = ".parquet";

/// The further end of the name of one that is recorded, and gets its name next.
const UNNAMED: &str = "new";

/// What records say of segments, by name.
pub(super) type Segments = BTreeMap<String, Recorded>;

/// What a record says of a segment.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    sha256: String,
    leaves: String,
    by: RecordId,
}

/// Notes what an event says of a segment.
pub(super) fn note(segments: &mut Segments, event: &EventRecord, by: &RecordId) {
    if event.event != EventKind::SegmentWritten {
        return;
    }
    let detail = |name: &str| event.detail.get(name).cloned().unwrap_or_default();
    let recorded = Recorded {
        sha256: detail("sha256"),
        leaves: detail("leaves"),
        by: by.clone(),
    };
    segments.insert(detail("segment"), recorded);
}

impl Check<'_> {
    pub(super) fn segments(&mut self, recorded: &Segments, leaves: &Leaves, expired: u64) {
        let there = self.dir.join(FOLDER);
        let listed = fs::read_dir(&there).into_iter().flatten().flatten();
        let mut listed: Vec<_> = (listed)
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(EXTENSION))
            .collect();
        listed.sort();
        for name in &listed {
            let place = format!("{FOLDER}/{name}");
            let Some(known) = recorded.get(name) else {
                // What was verified before is not looked at again.
                let from = expired.max(leaves.from);
                let span = span(name).filter(|(_, last)| *last >= from);
                // The record of one whose leaves have expired may have expired with them.
                if span.is_some() {
                    self.find(place, "no record in the log speaks of it");
                }
                continue;
            };
            match hash(&there.join(name)) {
                Ok(hash) if hash == known.sha256 => self.report.segments += 1,
                Ok(_) => self.find(
                    place,
                    format!("is not what record {} says was written", known.by),
                ),
                Err(error) => self.find(place, error.to_string()),
            }
        }
        for (name, known) in recorded {
            let place = format!("{FOLDER}/{name}");
            let Some((first, last)) = span(name) else {
                self.find(place, format!("record {} names no segment", known.by));
                continue;
            };
            if last >= expired && listed.binary_search(name).is_err() {
                match unlisted(&there.join(name)) {
                    Some(hash) if hash == known.sha256 => self.report.segments += 1,
                    _ => self.find(
                        &place,
                        format!("is missing; record {} says it was written", known.by),
                    ),
                }
            }
            if first < leaves.from {
                continue;
            }
            let (first, last) = (first - leaves.from, last - leaves.from);
            let covered = index(first)
                .zip(index(last))
                .and_then(|(first, last)| leaves.hashes.get(first..=last));
            let root = covered.map(|hashes| tree::root(hashes).0);
            if root.is_none() || root != hexes::parse(&known.leaves) {
                let what = format!("record {} binds it to other leaves", known.by);
                self.find(&place, what);
            }
        }
    }
}

/// The hash of a segment that was not there when the folder was listed: it is about to get its name, or has got it since.
fn unlisted(path: &Path) -> Option<String> {
    let unnamed = hash(&path.with_added_extension(UNNAMED));
    unnamed.or_else(|_| hash(path)).ok()
}

fn index(leaf: u64) -> Option<usize> {
    usize::try_from(leaf).ok()
}

/// The first and the last leaf that a name says.
fn span(name: &str) -> Option<(u64, u64)> {
    let (leaves, _) = name.split_once('.')?;
    let (first, last) = leaves.split_once('-')?;
    let span = (first.parse().ok()?, last.parse().ok()?);
    (!name.contains('/') && span.0 <= span.1).then_some(span)
}

fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex::encode(context.finish()));
        }
        context.update(buffer.get(..read).unwrap_or_default());
    }
}
