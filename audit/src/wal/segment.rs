//! Segments: files of one epoch's records, each begun with a header that says where it stands.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use reeve_core::{InstanceName, UnixTime};
use serde::{Deserialize, Serialize};

use super::frame::{self, Chain, Step};
use crate::{batch::EpochLink, canonical, hexes};

/// The version of the segment format, the `schema` member of every header.
pub(crate) const SEGMENT_SCHEMA: &str = "reeve.wal/v1";

/// The first frame of a segment, as canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SegmentHeader {
    pub(crate) schema: String,
    pub(crate) proxy: InstanceName,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) worker: u16,
    pub(crate) epoch: u64,
    /// The sequence of the first record that goes here.
    pub(crate) first_sequence: u64,
    /// The chain before that record.
    #[serde(with = "hexes")]
    pub(crate) chain: Chain,
    /// The last record of all epochs before this one.
    pub(crate) previous: Option<EpochLink>,
    pub(crate) begun: UnixTime,
}

fn is_zero(worker: &u16) -> bool {
    *worker == 0
}

impl SegmentHeader {
    pub(crate) fn file_name(&self) -> String {
        file_name(self.epoch, self.first_sequence)
    }

    /// The header's frame.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, canonical::CanonicalError> {
        let payload = canonical::to_vec(self)?;
        let mut out = Vec::new();
        frame::encode(&payload, &frame::header_check(&payload), &mut out);
        Ok(out)
    }
}

fn file_name(epoch: u64, first_sequence: u64) -> String {
    format!("{epoch:010}-{first_sequence:020}.wal")
}

/// The epoch and first sequence that a segment's file name states.
fn parse_file_name(name: &str) -> Option<(u64, u64)> {
    let (epoch, first) = name.strip_suffix(".wal")?.split_once('-')?;
    let parsed = (epoch.parse().ok()?, first.parse().ok()?);
    (file_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// The epoch that a segment's file name states.
pub(crate) fn epoch_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    parse_file_name(name).map(|(epoch, _)| epoch)
}

/// The segments in `dir`, oldest first, and the names of `.wal` files that are none.
pub(crate) fn list(dir: &Path) -> io::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut segments, mut strange) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        match name.as_deref().map(|n| (n, parse_file_name(n))) {
            Some((_, Some(_))) => segments.push(path),
            Some((name, None)) if name.ends_with(".wal") => strange.push(path),
            _ => {}
        }
    }
    segments.sort();
    Ok((segments, strange))
}

/// How a segment ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// After a whole frame.
    Whole,
    /// In an unfinished write.
    Torn,
    /// In bytes that no unfinished write leaves.
    Damaged(String),
}

/// A segment, read whole.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Absent when not even the header is whole.
    pub(crate) header: Option<SegmentHeader>,
    /// Each record's payload, as a range of the file.
    pub(crate) records: Vec<std::ops::Range<usize>>,
    /// The chain after each record.
    chains: Vec<Chain>,
    /// The chain after the last record.
    pub(crate) chain: Chain,
    /// Where the last whole frame ends.
    pub(crate) good: usize,
    /// What comes after that.
    pub(crate) ending: Ending,
}

impl Scan {
    /// The sequence of the last record; the one before the first when there is none.
    pub(crate) fn last_sequence(&self) -> u64 {
        let first = self.header.as_ref().map_or(1, |h| h.first_sequence);
        first
            .saturating_sub(1)
            .saturating_add(u64::try_from(self.records.len()).unwrap_or(u64::MAX))
    }

    /// Whether `link` names a record of this segment or one before it, and what is here agrees.
    fn holds(&self, link: &EpochLink) -> bool {
        let Some(header) = &self.header else {
            return false;
        };
        if link.epoch != header.epoch {
            // Nothing was written in this epoch yet when the next one began.
            return header.previous.as_ref() == Some(link);
        }
        if link.sequence < header.first_sequence {
            return link.sequence + 1 < header.first_sequence || link.chain == header.chain;
        }
        let at = usize::try_from(link.sequence - header.first_sequence);
        at.is_ok_and(|at| self.chains.get(at) == Some(&link.chain))
    }

    /// The last record up to and with this segment.
    pub(crate) fn last_record(&self) -> Option<EpochLink> {
        let header = self.header.as_ref()?;
        match self.last_sequence() {
            0 => header.previous.clone(),
            sequence => Some(EpochLink {
                epoch: header.epoch,
                sequence,
                chain: self.chain,
            }),
        }
    }
}

/// Reads a segment's bytes.
pub(crate) fn scan(bytes: &[u8], name: &str) -> Scan {
    let mut scan = Scan {
        header: None,
        records: Vec::new(),
        chains: Vec::new(),
        chain: frame::CHAIN_START,
        good: 0,
        ending: Ending::Whole,
    };
    loop {
        match frame::read(bytes.get(scan.good..).unwrap_or_default()) {
            Step::End if scan.header.is_none() => scan.ending = Ending::Torn,
            Step::End => scan.ending = Ending::Whole,
            Step::Torn => scan.ending = Ending::Torn,
            Step::Damaged(what) => scan.ending = Ending::Damaged(what.to_owned()),
            Step::Frame {
                payload,
                check,
                length,
            } => match accept(&mut scan, payload, &check, length, name) {
                Ok(()) => continue,
                Err(what) => scan.ending = Ending::Damaged(what),
            },
        }
        if matches!(scan.ending, Ending::Damaged(_)) && frame::is_unwritten(bytes, scan.good) {
            scan.ending = Ending::Torn;
        }
        return scan;
    }
}

fn accept(
    scan: &mut Scan,
    payload: &[u8],
    check: &Chain,
    length: usize,
    name: &str,
) -> Result<(), String> {
    if scan.header.is_none() {
        let header = read_header(payload, check, name)?;
        scan.chain = header.chain;
        scan.header = Some(header);
    } else {
        let chain = frame::advance(&scan.chain, payload);
        if chain != *check {
            return Err("the record does not match its checksum".to_owned());
        }
        scan.chain = chain;
        scan.chains.push(chain);
        let start = scan.good + 8;
        scan.records.push(start..start + payload.len());
    }
    scan.good += length;
    Ok(())
}

fn read_header(payload: &[u8], check: &Chain, name: &str) -> Result<SegmentHeader, String> {
    if frame::header_check(payload) != *check {
        return Err("the segment's header does not match its checksum".to_owned());
    }
    let header: SegmentHeader =
        serde_json::from_slice(payload).map_err(|e| format!("the segment's header: {e}"))?;
    if header.schema != SEGMENT_SCHEMA {
        return Err(format!("unknown segment format {:?}", header.schema));
    }
    if header.file_name() != name {
        return Err(format!("the header belongs to {}", header.file_name()));
    }
    Ok(header)
}

/// Whether `header` may follow the segments before, the last of which ended with `last`.
pub(crate) fn follows(header: &SegmentHeader, before: &Scan) -> Result<(), String> {
    let Some(previous) = &before.header else {
        return Err("the segment before has no header".to_owned());
    };
    if header.epoch == previous.epoch {
        if header.chain != before.chain {
            return Err("the hash chain does not continue that of the segment before".to_owned());
        }
        if header.first_sequence != before.last_sequence() + 1 {
            return Err(format!(
                "begins with record {} after record {}",
                header.first_sequence,
                before.last_sequence()
            ));
        }
        return Ok(());
    }
    // In a hand-over the epoch before goes on after this one has begun, so the link may be to any record of it.
    let (linked, chain) = match &header.previous {
        Some(link) => (before.holds(link), link.chain),
        None => (previous.previous.is_none(), frame::CHAIN_START),
    };
    if header.first_sequence != 1 || header.chain != chain || !linked {
        return Err("the epoch does not link to a record of the one before".to_owned());
    }
    Ok(())
}
