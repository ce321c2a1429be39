//! The writing end: the active segment, its room, and what is in the directory.

use std::{
    collections::VecDeque,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use reeve_core::{Clock, InstanceName, RecordId};

use super::{
    AppendError, Level, WalOptions,
    frame::{self, Chain},
    rate::Rate,
    segment::SegmentHeader,
};
use crate::{batch::EpochLink, canonical::CanonicalError, disk, record::Prepared};

/// Bytes that `Level::Buffered` holds back at most.
const BUFFER_BYTES: usize = 64 * 1024;

/// A segment file as the writer uses it; a test puts a failing one in its place.
pub(crate) trait SegmentFile: Write + fmt::Debug + Send {
    /// Cuts the file back.
    fn cut(&mut self, length: u64) -> io::Result<()>;
    /// Waits for the disk.
    fn sync(&mut self) -> io::Result<()>;
}

impl SegmentFile for File {
    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Opens a finished segment header's file for appending.
pub(crate) type Opener = Arc<dyn Fn(&Path) -> io::Result<Box<dyn SegmentFile>> + Send + Sync>;

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

pub(crate) struct Writer {
    dir: PathBuf,
    proxy: InstanceName,
    options: WalOptions,
    clock: Arc<dyn Clock>,
    opener: Opener,
    file: Box<dyn SegmentFile>,
    /// Written by `Level::Buffered` and not handed to the system yet.
    buffer: Vec<u8>,
    pub(crate) epoch: u64,
    previous: Option<EpochLink>,
    pub(crate) sequence: u64,
    chain: Chain,
    /// Oldest first; the last is the active one and never deleted.
    pub(crate) segments: VecDeque<SegmentInfo>,
    pub(crate) acknowledged: (u64, u64),
    pub(crate) rate: Rate,
    broken: bool,
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
    pub(crate) fn begin(
        dir: &Path,
        proxy: InstanceName,
        options: WalOptions,
        clock: Arc<dyn Clock>,
        opener: Opener,
        start: Start,
    ) -> io::Result<Self> {
        let mut writer = Self {
            dir: dir.to_owned(),
            proxy,
            options,
            clock,
            opener,
            file: Box::new(Unopened),
            buffer: Vec::new(),
            epoch: start.epoch,
            previous: start.previous,
            sequence: 0,
            chain: start.chain,
            segments: start.segments,
            acknowledged: (0, 0),
            rate: Rate::default(),
            broken: false,
        };
        writer.roll()?;
        Ok(writer)
    }

    /// Bytes in use by all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    pub(crate) fn append(&mut self, record: &Prepared) -> Result<RecordId, AppendError> {
        if self.broken {
            return Err(AppendError::Broken);
        }
        let now = self.clock.now();
        let id = RecordId {
            proxy: self.proxy.clone(),
            epoch: self.epoch,
            worker: 0,
            sequence: self.sequence + 1,
        };
        let payload = record.finish(&id, now);
        let chain = frame::advance(&self.chain, &payload);
        let mut framed = Vec::with_capacity(payload.len() + frame::OVERHEAD);
        frame::encode(&payload, &chain, &mut framed);
        self.make_room(framed.len())?;
        self.write(&framed)?;
        self.sequence += 1;
        self.chain = chain;
        if let Some(active) = self.segments.back_mut() {
            active.records += 1;
            active.bytes += disk::length(&framed);
        }
        self.rate.note(now, disk::length(&framed));
        Ok(id)
    }

    /// Refuses when the bound is reached; begins the next segment when this one is full.
    fn make_room(&mut self, frame: usize) -> Result<(), AppendError> {
        let frame = u64::try_from(frame).unwrap_or(u64::MAX);
        if self.bytes().saturating_add(frame) > self.options.max_bytes {
            return Err(AppendError::Full {
                max_bytes: self.options.max_bytes,
            });
        }
        let active = self.segments.back();
        let full = active.is_some_and(|s| {
            s.records > 0 && s.bytes.saturating_add(frame) > self.options.segment_bytes
        });
        if full {
            self.flush()
                .and_then(|()| self.roll())
                .map_err(AppendError::Io)?;
        }
        Ok(())
    }

    fn write(&mut self, framed: &[u8]) -> Result<(), AppendError> {
        if self.options.level == Level::Buffered {
            self.buffer.extend_from_slice(framed);
            if self.buffer.len() < BUFFER_BYTES {
                return Ok(());
            }
            return self.flush().map_err(AppendError::Io);
        }
        let written = self
            .file
            .write_all(framed)
            .and_then(|()| match self.options.level {
                Level::Disk => self.file.sync(),
                Level::Os | Level::Buffered => Ok(()),
            });
        written.map_err(|error| {
            // Take back what was written of this record, so that the next one has a whole frame before it.
            let good = self.segments.back().map_or(0, |s| s.bytes);
            self.broken = self.file.cut(good).is_err();
            AppendError::Io(error)
        })
    }

    /// Hands what `Level::Buffered` holds back to the system.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&self.buffer);
        // Records already acknowledged to callers may be lost here: that is what this level means. The chain would
        // have a hole, so nothing more is taken until the log is opened again.
        self.broken |= written.is_err();
        self.buffer.clear();
        written
    }

    /// Begins the next segment: header in a temporary file, room reserved, then renamed into place.
    fn roll(&mut self) -> io::Result<()> {
        let header = SegmentHeader {
            schema: super::segment::SEGMENT_SCHEMA.to_owned(),
            proxy: self.proxy.clone(),
            epoch: self.epoch,
            first_sequence: self.sequence + 1,
            chain: self.chain,
            previous: self.previous.clone(),
            begun: self.clock.now(),
        };
        let bytes = header.encode().map_err(invalid)?;
        let path = self.dir.join(header.file_name());
        let unfinished = path.with_extension("tmp");
        let made = self.make_segment(&unfinished, &bytes).and_then(|()| {
            fs::rename(&unfinished, &path)?;
            (self.opener)(&path)
        });
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                // Best effort: `open` sweeps what is left.
                drop(fs::remove_file(&unfinished));
                return Err(error);
            }
        };
        if self.options.level != Level::Buffered {
            disk::sync_dir(&self.dir)?;
        }
        self.file = file;
        self.segments.push_back(SegmentInfo {
            path,
            epoch: self.epoch,
            first_sequence: self.sequence + 1,
            records: 0,
            bytes: disk::length(&bytes),
        });
        self.release();
        Ok(())
    }

    fn make_segment(&self, path: &Path, header: &[u8]) -> io::Result<()> {
        let mut file = disk::create(path)?;
        let left = self.options.max_bytes.saturating_sub(self.bytes());
        disk::reserve(&file, self.options.segment_bytes.min(left))?;
        file.write_all(header)?;
        // The header must outlive the machine even where records need not: the next epoch's number rests on it.
        if self.options.level != Level::Buffered {
            file.sync_all()?;
        }
        Ok(())
    }

    /// Notes that the audit log holds everything up to this record, and deletes segments that are all acknowledged.
    pub(crate) fn acknowledge(&mut self, epoch: u64, sequence: u64) {
        self.acknowledged = self.acknowledged.max((epoch, sequence));
        self.release();
    }

    fn release(&mut self) {
        while self.segments.len() > 1 {
            let done = self.segments.front().is_some_and(|s| {
                s.records == 0 || (s.epoch, s.last_sequence()) <= self.acknowledged
            });
            if !done {
                return;
            }
            if let Some(segment) = self.segments.pop_front()
                && let Err(error) = fs::remove_file(&segment.path)
            {
                tracing::warn!(path = %segment.path.display(), %error, "cannot delete a shipped segment");
            }
        }
    }

    /// Segments of earlier epochs are this writer's from now on.
    pub(crate) fn adopt(&mut self, before: VecDeque<SegmentInfo>) {
        let own = std::mem::replace(&mut self.segments, before);
        self.segments.extend(own);
        self.release();
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

    pub(crate) fn options(&self) -> &WalOptions {
        &self.options
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
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

fn invalid(error: CanonicalError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Stands in until the first segment is begun.
#[derive(Debug)]
struct Unopened;

impl Write for Unopened {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::NotConnected.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SegmentFile for Unopened {
    fn cut(&mut self, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a segment file for appending.
pub(crate) fn open_file(path: &Path) -> io::Result<Box<dyn SegmentFile>> {
    Ok(Box::new(OpenOptions::new().append(true).open(path)?))
}
