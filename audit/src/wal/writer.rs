//! The writing end: the active segment, its room, and what is in the directory.

use std::{
    collections::VecDeque,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use reeve_core::{Clock, InstanceName, RecordId};

use super::{
    AppendError, Level, WalOptions,
    files::{Files, SegmentFile, Syncer, Unopened},
    frame::{self, Chain},
    rate::Rate,
    room::{Purpose, Room},
    segment::SegmentHeader,
    turn::{Company, Fault, MAX_TURN_RECORDS, Seat, Taken, Turn},
};
use crate::{
    batch::EpochLink,
    canonical::{CanonicalError, Scratch},
    disk,
    record::{self, EntryRef, MAX_RECORD_BYTES, Record},
};

/// Bytes of records that wait for the next write, at most: those that nothing waits for, and all at `Level::Buffered`.
const BUFFER_BYTES: usize = 64 * 1024;

/// A segment in the directory.
#[derive(Clone, Debug)]
pub(crate) struct SegmentInfo {
    pub(crate) path: PathBuf,
    pub(crate) epoch: u64,
    pub(crate) first_sequence: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

impl SegmentInfo {
    pub(crate) fn last_sequence(&self) -> u64 {
        (self.first_sequence.saturating_sub(1)).saturating_add(self.records)
    }
}

/// A place in a worker's line: a record and the chain after it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark {
    pub(crate) sequence: u64,
    pub(crate) chain: Chain,
}

/// What became of a record that nothing waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Staged {
    /// Whether it is the first that waits for the next write.
    pub(crate) first: bool,
}

pub(crate) struct Writer {
    dir: PathBuf,
    proxy: InstanceName,
    worker: u16,
    options: WalOptions,
    clock: Arc<dyn Clock>,
    files: Arc<dyn Files>,
    room: Arc<Room>,
    /// Room taken and not used yet.
    share: u64,
    purpose: Purpose,
    file: Box<dyn SegmentFile>,
    /// Frames of the records after `written`, up to `head`.
    pending: Vec<u8>,
    scratch: Scratch,
    pub(crate) epoch: u64,
    previous: Option<EpochLink>,
    /// The last record that has a number.
    head: Mark,
    /// The last record in the file.
    written: Mark,
    /// Those who wait for the next write.
    turn: Option<Turn>,
    company: Company,
    /// A write failed, and what it left in the file must be cut before the next one.
    spoiled: bool,
    /// Oldest first; the last is the active one and never deleted.
    pub(crate) segments: VecDeque<SegmentInfo>,
    pub(crate) acknowledged: (u64, u64),
    /// Beside another process, whose segments stand before these, nothing is deleted: there would be a gap between.
    pub(crate) keeps: bool,
    pub(crate) rate: Rate,
}

/// Where a worker's records go, and how.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) proxy: InstanceName,
    pub(crate) worker: u16,
    pub(crate) options: WalOptions,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) room: Arc<Room>,
}

impl Place {
    pub(crate) fn new(
        dir: &Path,
        proxy: InstanceName,
        options: WalOptions,
        clock: Arc<dyn Clock>,
        files: Arc<dyn Files>,
    ) -> Self {
        Self {
            dir: dir.to_owned(),
            proxy,
            worker: 0,
            room: Arc::new(Room::new(options.max_bytes)),
            options,
            clock,
            files,
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("dir", &self.dir)
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

/// Where a new epoch begins.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) epoch: u64,
    pub(crate) previous: Option<EpochLink>,
    pub(crate) chain: Chain,
    pub(crate) segments: VecDeque<SegmentInfo>,
}

impl Writer {
    pub(crate) fn begin(place: Place, start: Start) -> io::Result<Self> {
        let origin = Mark {
            sequence: 0,
            chain: start.chain,
        };
        place
            .room
            .occupy(start.segments.iter().map(|s| s.bytes).sum());
        let mut writer = Self {
            dir: place.dir,
            proxy: place.proxy,
            worker: place.worker,
            options: place.options,
            clock: place.clock,
            files: place.files,
            room: place.room,
            share: 0,
            purpose: Purpose::Record,
            file: Box::new(Unopened),
            pending: Vec::new(),
            scratch: Scratch::default(),
            epoch: start.epoch,
            previous: start.previous,
            head: origin,
            written: origin,
            turn: None,
            company: Company::default(),
            spoiled: false,
            segments: start.segments,
            acknowledged: (0, 0),
            keeps: false,
            rate: Rate::default(),
        };
        // Whether there is room or not: a full log must still be able to begin an epoch.
        let header = writer.next_header()?;
        writer.room.occupy(disk::length(&header.1));
        writer.roll(header)?;
        Ok(writer)
    }

    /// Bytes in use by all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    /// The last record that has a number.
    pub(crate) fn sequence(&self) -> u64 {
        self.head.sequence
    }

    /// Appends a record, and before it those that wait; when this returns, it is durable at the log's level.
    pub(crate) fn append(&mut self, entry: EntryRef<'_>) -> Result<RecordId, AppendError> {
        let sync = self.options.level == Level::Disk;
        self.append_with(entry, sync)
    }

    /// The same without waiting for the disk.
    pub(crate) fn append_unsynced(&mut self, entry: EntryRef<'_>) -> Result<RecordId, AppendError> {
        self.append_with(entry, false)
    }

    fn append_with(&mut self, entry: EntryRef<'_>, sync: bool) -> Result<RecordId, AppendError> {
        let (before, length) = (self.head, self.pending.len());
        let id = self.stage(entry)?;
        if self.options.level == Level::Buffered && self.pending.len() < BUFFER_BYTES {
            return Ok(id);
        }
        // What waited before this record goes on waiting when the write fails; this one never was.
        match self.write_out(sync) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.unstage(before, length);
                Err(error)
            }
        }
    }

    /// Appends a record that says that others are missing: there is room for it where there is none for them.
    pub(crate) fn append_gap(&mut self, entry: EntryRef<'_>) -> Result<RecordId, AppendError> {
        self.purpose = Purpose::Gap;
        let appended = self.append(entry);
        self.purpose = Purpose::Record;
        appended
    }

    /// What stands for the id of a record that there is not: no record has the number 0.
    pub(crate) fn no_record(&self) -> RecordId {
        RecordId {
            proxy: self.proxy.clone(),
            epoch: self.epoch,
            worker: self.worker,
            sequence: 0,
        }
    }

    /// Takes a record that is written, at the latest, when the turn ends that it is in.
    pub(crate) fn take(&mut self, entry: EntryRef<'_>) -> Result<Taken, AppendError> {
        let alone = self.turn.is_none() && !self.company.is_expected();
        if alone || self.options.level != Level::Os {
            return self.append(entry).map(Taken::Written);
        }
        let (before, length) = (self.head, self.pending.len());
        let id = self.stage(entry)?;
        let turn = self.turn.get_or_insert_with(|| Turn::begin(before, length));
        let seat = turn.seat(id);
        if turn.sequences.len() >= MAX_TURN_RECORDS || self.pending.len() >= BUFFER_BYTES {
            self.end_turn_of(&seat);
        }
        Ok(Taken::Waits(seat))
    }

    /// Ends the turn that `seat` is of, unless it has ended: who waits learns what became of it there.
    pub(crate) fn end_turn_of(&mut self, seat: &Seat) {
        if self.turn.as_ref().is_some_and(|turn| seat.is_of(turn)) {
            drop(self.end_turn());
        }
    }

    /// Writes what waits. When that fails, the records of the turn do not exist; what nobody waits for still does.
    fn end_turn(&mut self) -> Result<(), AppendError> {
        let written = self.write_out(false);
        if let (Err(error), Some(turn)) = (&written, self.turn.take()) {
            self.take_back(&turn);
            turn.end(Err(Fault::from(error)));
        }
        written
    }

    fn take_back(&mut self, turn: &Turn) {
        let staged = self.pending.get(turn.length..).unwrap_or_default().to_vec();
        self.unstage(turn.before, turn.length);
        let mut rest = staged.as_slice();
        while let frame::Step::Frame {
            payload, length, ..
        } = frame::read(rest)
        {
            rest = rest.get(length..).unwrap_or_default();
            let Ok(record) = Record::from_slice(payload) else {
                continue;
            };
            // Its number is another one now; nobody has been told it.
            if !turn.sequences.contains(&record.id.sequence)
                && let Err(error) = self.stage((&record.entry).into())
            {
                tracing::error!(%error, "a record that nothing waited for is lost");
            }
        }
    }

    /// Puts a record aside for the next write. When too much waits, it is written now.
    pub(crate) fn defer(&mut self, entry: EntryRef<'_>) -> Result<Staged, AppendError> {
        let (before, length) = (self.head, self.pending.len());
        self.stage(entry)?;
        if self.pending.len() < BUFFER_BYTES {
            return Ok(Staged { first: length == 0 });
        }
        match self.write_out(false) {
            Ok(()) => Ok(Staged { first: false }),
            Err(error) => {
                self.unstage(before, length);
                Err(error)
            }
        }
    }

    /// Gives a record its number and adds its frame to what waits.
    fn stage(&mut self, entry: EntryRef<'_>) -> Result<RecordId, AppendError> {
        let now = self.clock.now();
        let id = RecordId {
            proxy: self.proxy.clone(),
            epoch: self.epoch,
            worker: self.worker,
            sequence: self.head.sequence + 1,
        };
        let start = self.pending.len();
        let staged = frame::append(&mut self.pending, &self.head.chain, |out| {
            record::write(out, &mut self.scratch, &id, now, entry)
        });
        let chain = match staged {
            Ok(chain) => chain,
            Err(error) => {
                self.pending.truncate(start);
                return Err(AppendError::Canonical(error));
            }
        };
        let framed = self.pending.len() - start;
        let fits = match framed.saturating_sub(frame::OVERHEAD) {
            length if length > MAX_RECORD_BYTES => Err(AppendError::TooLong { length }),
            _ => self.take_room(u64::try_from(framed).unwrap_or(u64::MAX)),
        };
        if let Err(error) = fits {
            self.pending.truncate(start);
            return Err(error);
        }
        self.head = Mark {
            sequence: id.sequence,
            chain,
        };
        self.rate
            .note(now, u64::try_from(framed).unwrap_or(u64::MAX));
        Ok(id)
    }

    /// Takes back what was staged since.
    fn unstage(&mut self, before: Mark, length: usize) {
        let taken = self.pending.len().saturating_sub(length);
        self.share += u64::try_from(taken).unwrap_or(0);
        self.pending.truncate(length);
        self.head = before;
    }

    fn take_room(&mut self, bytes: u64) -> Result<(), AppendError> {
        if let Some(missing) = bytes.checked_sub(self.share).filter(|m| *m > 0) {
            self.share += self.room.take(missing, self.purpose)?;
        }
        self.share -= bytes;
        Ok(())
    }

    /// Hands what waits to the system.
    pub(crate) fn flush(&mut self) -> Result<(), AppendError> {
        self.end_turn()
    }

    /// Writes what waits in one call. A failed write is cut off again, now or before the next one, so that there is
    /// always a whole frame before a record: when the fault ends, the log heals by itself.
    fn write_out(&mut self, sync: bool) -> Result<(), AppendError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        if self.spoiled {
            self.mend().map_err(AppendError::Io)?;
        }
        let length = disk::length(&self.pending);
        let full = self.segments.back().is_some_and(|s| {
            s.records > 0 && s.bytes.saturating_add(length) > self.options.segment_bytes
        });
        if full {
            let header = self.next_header().map_err(AppendError::Io)?;
            let room = disk::length(&header.1);
            self.take_room(room)?;
            if let Err(error) = self.roll(header) {
                self.share += room;
                return Err(AppendError::Io(error));
            }
        }
        let written = self
            .file
            .write_all(&self.pending)
            .and_then(|()| if sync { self.file.sync() } else { Ok(()) });
        if let Err(error) = written {
            let good = self.segments.back().map_or(0, |s| s.bytes);
            self.spoiled = self.file.cut(good).is_err();
            return Err(AppendError::Io(error));
        }
        if let Some(active) = self.segments.back_mut() {
            active.records += self.head.sequence - self.written.sequence;
            active.bytes += length;
        }
        self.written = self.head;
        self.pending.clear();
        if let Some(turn) = self.turn.take() {
            self.company.note(turn.sequences.len());
            turn.end(Ok(()));
        }
        Ok(())
    }

    /// Cuts off what a failed write left.
    fn mend(&mut self) -> io::Result<()> {
        if let Some(active) = self.segments.back() {
            self.file = self.files.open(&active.path)?;
            self.file.cut(active.bytes)?;
        }
        self.spoiled = false;
        Ok(())
    }

    /// What another thread does so that every record up to the one named is on the disk.
    pub(crate) fn begin_sync(&mut self) -> io::Result<(Mark, Syncer)> {
        Ok((self.written, self.file.syncer()?))
    }

    /// The last record in the file.
    pub(crate) fn written(&self) -> Mark {
        self.written
    }

    /// The path and the header's frame of the segment that comes next.
    fn next_header(&self) -> io::Result<(PathBuf, Vec<u8>)> {
        let header = SegmentHeader {
            schema: super::segment::SEGMENT_SCHEMA.to_owned(),
            proxy: self.proxy.clone(),
            worker: self.worker,
            epoch: self.epoch,
            first_sequence: self.written.sequence + 1,
            chain: self.written.chain,
            previous: self.previous.clone(),
            begun: self.clock.now(),
        };
        let bytes = header.encode().map_err(invalid)?;
        Ok((self.dir.join(header.file_name()), bytes))
    }

    /// Begins the next segment: header in a temporary file, blocks reserved, then renamed into place.
    fn roll(&mut self, (path, bytes): (PathBuf, Vec<u8>)) -> io::Result<()> {
        if self.options.level == Level::Disk {
            self.file.sync()?;
        }
        let unfinished = path.with_extension("tmp");
        let made = self.make_segment(&unfinished, &bytes).and_then(|()| {
            self.files.rename(&unfinished, &path)?;
            self.files.open(&path)
        });
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                // Best effort: `open` sweeps what is left.
                drop(fs::remove_file(&unfinished));
                return Err(error);
            }
        };
        if self.outlives_machine() {
            self.files.sync_dir(&self.dir)?;
        }
        self.file = file;

        self.segments.push_back(SegmentInfo {
            path,
            epoch: self.epoch,
            first_sequence: self.written.sequence + 1,
            records: 0,
            bytes: disk::length(&bytes),
        });
        remove(self.release());
        Ok(())
    }

    fn make_segment(&self, path: &Path, header: &[u8]) -> io::Result<()> {
        let left = self.room.left().saturating_add(self.share);
        let waiting = disk::length(&self.pending);
        let reserve = self.options.segment_bytes;
        let reserve = reserve.min(left.saturating_add(waiting));
        let mut file = self.files.create(path, reserve)?;
        file.write_all(header)?;
        if self.outlives_machine() {
            file.sync()?;
        }
        Ok(())
    }

    /// Whether a new segment must be on the disk before it is used. An epoch's first must even where records need not:
    /// the next epoch's number rests on it.
    fn outlives_machine(&self) -> bool {
        match self.options.level {
            Level::Buffered => false,
            Level::Os => self.written.sequence == 0,
            Level::Disk => true,
        }
    }

    /// Notes that the audit log holds everything up to this record, and deletes segments that are all acknowledged.
    /// Hands them out for [`remove`], so that the worker need not wait for that.
    #[must_use]
    pub(crate) fn acknowledge(&mut self, epoch: u64, sequence: u64) -> Vec<PathBuf> {
        self.acknowledged = self.acknowledged.max((epoch, sequence));
        self.release()
    }

    fn release(&mut self) -> Vec<PathBuf> {
        let mut done_with = Vec::new();
        while !self.keeps && self.segments.len() > 1 {
            let done = self.segments.front().is_some_and(|s| {
                s.records == 0 || (s.epoch, s.last_sequence()) <= self.acknowledged
            });
            if !done {
                break;
            }
            if let Some(segment) = self.segments.pop_front() {
                self.room.give(segment.bytes);
                done_with.push(segment.path);
            }
        }
        done_with
    }

    /// Segments of earlier epochs are this writer's from now on.
    pub(crate) fn adopt(&mut self, mut before: VecDeque<SegmentInfo>) {
        before.retain(|b| self.segments.iter().all(|s| s.path != b.path));
        self.room.occupy(before.iter().map(|s| s.bytes).sum());
        let own = std::mem::replace(&mut self.segments, before);
        self.segments.extend(own);
        self.keeps = false;
        remove(self.release());
    }

    /// Whether all that its epoch follows on is in the log, which is held up to `reached`.
    pub(crate) fn may_ship_after(&self, reached: (u64, u64)) -> bool {
        let before = self.previous.as_ref().map(|p| (p.epoch, p.sequence));
        before.is_none_or(|before| before <= reached)
    }

    /// Records here that are not acknowledged.
    pub(crate) fn backlog(&self) -> u64 {
        let (epoch, sequence) = self.acknowledged;
        let left = |s: &SegmentInfo| match s.epoch.cmp(&epoch) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => s.records.min(s.last_sequence().saturating_sub(sequence)),
            std::cmp::Ordering::Greater => s.records,
        };
        self.segments.iter().map(left).sum()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::error!(%error, "buffered records are lost");
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("dir", &self.dir)
            .field("epoch", &self.epoch)
            .field("worker", &self.worker)
            .field("sequence", &self.head.sequence)
            .finish_non_exhaustive()
    }
}

/// Deletes segments that the audit log holds.
pub(crate) fn remove(segments: Vec<PathBuf>) {
    for path in segments {
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot delete a shipped segment");
        }
    }
}

fn invalid(error: CanonicalError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
