//! The reading end, for shipping: from any record onward, in order, a part at a time.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use super::{
    WalError,
    frame::{self, Chain, Leaf, Step},
    line::Line,
    segment::{self, Ending},
    writer::SegmentInfo,
};
use crate::{batch::EpochLink, pace};

/// Records as they are read.
#[derive(Debug, Default)]
struct Records {
    bytes: Vec<Vec<u8>>,
    leaves: Vec<Leaf>,
}

/// A place between two records of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    epoch: u64,
    /// First sequence of the segment it is in.
    segment: u64,
    offset: u64,
    /// The record that comes next.
    next_sequence: u64,
    chain: Chain,
    previous: Option<EpochLink>,
}

/// Consecutive records of one worker and epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) worker: u16,
    pub(crate) epoch: u64,
    pub(crate) first_sequence: u64,
    pub(crate) last_sequence: u64,
    /// Canonical JSON of each.
    pub(crate) records: Vec<Vec<u8>>,
    /// Leaf hash of each.
    pub(crate) leaves: Vec<Leaf>,
    /// The chain after the last.
    pub(crate) chain: Chain,
    /// The last record of the epochs before.
    pub(crate) previous: Option<EpochLink>,
    /// The last sequence of that epoch that is written; absent where another process writes it, or none does any more.
    pub(crate) written: Option<u64>,
}

impl Cursor {
    /// Whether no record is missing between that one and the next here.
    pub(crate) fn follows(&self, (epoch, sequence): (u64, u64)) -> bool {
        let before = match (self.next_sequence, &self.previous) {
            (1, Some(link)) => (link.epoch, link.sequence),
            (1, None) => (0, 0),
            (next, _) => (self.epoch, next - 1),
        };
        before == (epoch, sequence)
    }
}

impl Line {
    /// A place right after the record `(epoch, sequence)`, or at the oldest record here when that is gone.
    pub(crate) fn cursor_after(
        &self,
        epoch: u64,
        sequence: u64,
    ) -> Result<Option<Cursor>, WalError> {
        let segments = self.committed();
        let wanted = segments
            .iter()
            .filter(|s| s.records > 0)
            .find(|s| (s.epoch, s.last_sequence()) > (epoch, sequence));
        let Some(segment) = wanted else {
            return Ok(None);
        };
        let mut cursor = begin(segment)?;
        if segment.epoch == epoch {
            let skip = sequence.saturating_sub(segment.first_sequence - 1);
            let skip = usize::try_from(skip).unwrap_or(usize::MAX);
            let mut skipped = Records::default();
            read_segment(&mut cursor, segment, skip, usize::MAX, &mut skipped)?;
        }
        Ok(Some(cursor))
    }

    /// The next records, and the cursor moved behind them; `None` when there is none yet.
    pub(crate) fn read(
        &self,
        cursor: &mut Cursor,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Option<Chunk>, WalError> {
        let segments = self.committed();
        let mut at = cursor.clone();
        let mut records = Records::default();
        let mut first = at.next_sequence;
        for segment in &segments {
            let key = (segment.epoch, segment.first_sequence);
            if key < (at.epoch, at.segment) {
                continue;
            }
            if key > (at.epoch, at.segment) {
                if segment.records == 0 {
                    continue;
                }
                if !records.bytes.is_empty() && segment.epoch != at.epoch {
                    break;
                }
                at = begin(segment)?;
                if records.bytes.is_empty() {
                    first = at.next_sequence;
                }
            }
            let held: usize = records.bytes.iter().map(Vec::len).sum();
            let room = max_records.saturating_sub(records.bytes.len());
            let left = max_bytes.saturating_sub(held);
            read_segment(&mut at, segment, room, left, &mut records)?;
            // INVARIANT: the next segment is begun only when this one is read to its end; else records would be skipped.
            if at.offset < segment.bytes {
                break;
            }
        }
        *cursor = at.clone();
        if records.bytes.is_empty() {
            return Ok(None);
        }
        Ok(Some(Chunk {
            worker: self.worker,
            epoch: at.epoch,
            first_sequence: first,
            last_sequence: at.next_sequence - 1,
            records: records.bytes,
            leaves: records.leaves,
            chain: at.chain,
            previous: at.previous,
            written: self
                .settled()
                .filter(|(epoch, ..)| *epoch == at.epoch)
                .map(|(_, sequence, _)| sequence),
        }))
    }

    /// The segments, with the lengths that are in the files by now.
    fn committed(&self) -> Vec<SegmentInfo> {
        let mut writer = self.writer();
        // What cannot be written yet waits; what is in the files can be read all the same.
        if let Err(error) = writer.flush() {
            tracing::warn!(dir = %self.dir.display(), %error, "records wait in memory");
        }
        writer.segments.iter().cloned().collect()
    }
}

/// A cursor before the first record of `segment`.
fn begin(segment: &SegmentInfo) -> Result<Cursor, WalError> {
    let io = |e| WalError::io(&segment.path, e);
    let mut head = vec![0; 4096.min(usize::try_from(segment.bytes).unwrap_or(4096))];
    let mut file = File::open(&segment.path).map_err(io)?;
    file.read_exact(&mut head).map_err(io)?;
    let length = match frame::read(&head) {
        Step::Frame { length, .. } => length,
        Step::End | Step::Torn | Step::Damaged(_) => 0,
    };
    let name = segment
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let scan = segment::scan(head.get(..length).unwrap_or_default(), &name);
    let Some(header) = scan.header else {
        let what = match scan.ending {
            Ending::Damaged(what) => what,
            Ending::Whole | Ending::Torn => "no header".to_owned(),
        };
        return Err(WalError::damaged(&segment.path, 0, &what));
    };
    Ok(Cursor {
        epoch: header.epoch,
        segment: header.first_sequence,
        offset: u64::try_from(length).unwrap_or(u64::MAX),
        next_sequence: header.first_sequence,
        chain: header.chain,
        previous: header.previous,
    })
}

/// Reads up to `max_records` from the cursor to the end of its segment as it was committed.
fn read_segment(
    at: &mut Cursor,
    segment: &SegmentInfo,
    max_records: usize,
    max_bytes: usize,
    out: &mut Records,
) -> Result<(), WalError> {
    let left = segment.bytes.saturating_sub(at.offset);
    // One record more than asked for may be needed to fill `max_bytes`.
    let budget = u64::try_from(max_bytes)
        .unwrap_or(u64::MAX)
        .saturating_add(1 << 17);
    let bytes = read_range(segment, at.offset, left.min(budget))
        .map_err(|e| WalError::io(&segment.path, e))?;
    let (mut offset, mut taken, mut count) = (0usize, 0usize, 0usize);
    while count < max_records && taken < max_bytes {
        let place = usize::try_from(at.offset).unwrap_or(usize::MAX);
        let damaged = |what| Err(WalError::damaged(&segment.path, place, what));
        let (payload, check, length) = match frame::read(bytes.get(offset..).unwrap_or_default()) {
            Step::Frame {
                payload,
                check,
                length,
            } => (payload, check, length),
            Step::End | Step::Torn => break,
            Step::Damaged(what) => return damaged(what),
        };
        pace::step(count);
        let leaf = frame::leaf(payload);
        let chain = frame::link(&at.chain, &leaf);
        if chain != check {
            return damaged("the record does not match its checksum");
        }
        at.chain = chain;
        at.next_sequence += 1;
        at.offset += u64::try_from(length).unwrap_or(u64::MAX);
        offset += length;
        taken += payload.len();
        count += 1;
        out.bytes.push(payload.to_vec());
        out.leaves.push(leaf);
    }
    Ok(())
}

fn read_range(segment: &SegmentInfo, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(&segment.path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}
