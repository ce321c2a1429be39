//! Two processes with one log, for the time of a hand-over.
//!
//! The old process holds the folder's lock until it ends. The new one holds the successor's lock, so that there are never
//! more than two. It numbers its workers apart from the old one's (its *bank*, a lock too), so that both write and ship
//! lines of their own, each in order and gapless. When the old one has ended, the new one takes the folder over, and
//! ships what is left there.
//!
//! A process of before banks holds the lock of neither and uses the first: so the second is tried first.

use std::{fs::File, path::Path, sync::Arc};

use reeve_core::{Clock, InstanceName, RecordId};

use super::{
    MAX_WORKERS, Wal, WalError, WalOptions,
    files::FileSystem,
    line::{self, Line},
    mark,
    recover::{self, Tail},
    writer::{Place, Writer},
};
use crate::disk;

/// The lock of a process that writes beside the one that holds the folder's.
const SUCCESSOR_LOCK: &str = "successor.lock";
/// A predecessor may delete a shipped segment while the folder is read; then it is read again, so often at most.
const MAX_READS: usize = 5;

/// By what right this process writes here; the locks are held as long.
#[derive(Debug)]
pub(super) struct Tenure {
    /// Whether the folder is its own, or another process still writes an earlier epoch.
    alone: bool,
    bank: u16,
    // Goes before the other lock: whoever has that finds a bank free.
    _bank: File,
    lock: File,
}

impl Tenure {
    pub(super) fn is_alone(&self) -> bool {
        self.alone
    }

    /// Whose workers these are: what their numbers begin with.
    pub(super) fn bank(&self) -> u16 {
        self.bank
    }

    pub(super) fn alone(dir: &Path, lock: File) -> Result<Self, WalError> {
        let (bank, held) = free_bank(dir, [0, MAX_WORKERS])?;
        Ok(Self {
            alone: true,
            bank,
            _bank: held,
            lock,
        })
    }
}

/// Takes the first of these banks that nobody uses.
fn free_bank(dir: &Path, banks: [u16; 2]) -> Result<(u16, File), WalError> {
    for bank in banks {
        let path = dir.join(format!("bank-{bank}.lock"));
        if let Some(held) = disk::lock_file(&path).map_err(|e| WalError::io(&path, e))? {
            return Ok((bank, held));
        }
    }
    Err(WalError::InUse {
        path: dir.to_owned(),
    })
}

impl Wal {
    /// Opens the log beside a process that is about to end, and begins an epoch of its own. Without such a process this
    /// is [`Wal::open`]; with two of them already, [`WalError::InUse`].
    ///
    /// Each epoch has the whole of [`WalOptions::max_bytes`] while both are written.
    pub fn open_beside(
        dir: &Path,
        proxy: InstanceName,
        options: WalOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, WalError> {
        let io = |e| WalError::io(dir, e);
        disk::make_dir(dir).map_err(io)?;
        let Some(successor) = disk::lock_file(&dir.join(SUCCESSOR_LOCK)).map_err(io)? else {
            return Err(WalError::InUse {
                path: dir.to_owned(),
            });
        };
        if let Some(free) = disk::lock(dir).map_err(io)? {
            drop(free);
            return Self::open(dir, proxy, options, clock);
        }
        let (bank, held) = free_bank(dir, [MAX_WORKERS, 0])?;
        let tenure = Tenure {
            alone: false,
            bank,
            _bank: held,
            lock: successor,
        };
        let files = Arc::new(FileSystem);
        Self::begin(Place::new(dir, proxy, options, clock, files), tenure)
    }

    /// The last records of the process that this one began beside, for the record: whoever takes them away before they
    /// are shipped is found out. `proxy/epoch/worker/sequence`, with spaces between.
    pub fn predecessors(&self) -> Result<String, WalError> {
        let dir = &self.place.dir;
        let io = |e| WalError::io(dir, e);
        let mut last = Vec::new();
        for (worker, folder) in line::folders(dir).map_err(io)? {
            if self.lines().contains_key(&worker) {
                continue;
            }
            let scan = || recover::scan(&folder, self.proxy(), worker, Tail::Leave);
            last.extend(read_again(scan)?.previous.map(|link| {
                let id = RecordId {
                    proxy: self.proxy().clone(),
                    epoch: link.epoch,
                    worker,
                    sequence: link.sequence,
                };
                id.to_string()
            }));
        }
        Ok(last.join(" "))
    }

    /// Whether every earlier epoch is this process's to ship. Asked again and again, takes the folder over as soon as
    /// the process before has ended.
    pub(crate) fn is_alone(&self) -> Result<bool, WalError> {
        let mut tenure = self.tenure();
        if tenure.alone {
            return Ok(true);
        }
        let dir = &self.place.dir;
        let Some(lock) = disk::lock(dir).map_err(|e| WalError::io(dir, e))? else {
            return Ok(false);
        };
        for line in self.all_lines() {
            let epoch = line.writer().epoch;
            let tail = Tail::CutBefore(epoch);
            let before = recover::scan(&line.dir, self.proxy(), line.worker, tail)?;
            line.writer().adopt(before.segments);
        }
        self.open_left_behind()?;
        tenure.alone = true;
        tenure.lock = lock;
        Ok(true)
    }
}

impl Place {
    /// Begins a worker's next epoch, at least `epoch`.
    pub(super) fn begin(&self, worker: u16, alone: bool, epoch: u64) -> Result<Line, WalError> {
        let dir = line::folder(&self.dir, worker);
        disk::make_dir(&dir).map_err(|e| WalError::io(&dir, e))?;
        let mut start = if alone {
            recover::recover(&dir, &self.proxy, worker)?
        } else {
            let mut start = read_again(|| recover::scan(&dir, &self.proxy, worker, Tail::Leave))?;
            // They are the other process's, until it has ended.
            start.segments.clear();
            start
        };
        start.epoch = start.epoch.max(epoch);
        let shortfall = mark::shortfall(&dir, start.previous.as_ref());
        let place = Self {
            dir: dir.clone(),
            worker,
            ..self.clone()
        };
        let mut writer = Writer::begin(place, start).map_err(|e| WalError::io(&dir, e))?;
        writer.keeps = !alone;
        let line = Line::new(worker, dir, self.options.level, writer);
        if let Some(event) = shortfall {
            // First of all: from now on the new epoch's mark stands in the place of the one that tells.
            let told = line.append_gap((&event).into());
            told.map_err(|error| WalError::untold(&line.dir, error))?;
        }
        Ok(line)
    }
}

fn read_again<T>(read: impl Fn() -> Result<T, WalError>) -> Result<T, WalError> {
    let mut last = read();
    for _ in 1..MAX_READS {
        if last.is_ok() {
            break;
        }
        last = read();
    }
    last
}

#[cfg(test)]
mod tests;
