//! Opening a log that a process left behind, perhaps in the middle of a write.

use std::{
    collections::VecDeque,
    fs::{self, OpenOptions},
    path::Path,
};

use reeve_core::InstanceName;

use super::{
    WalError,
    frame::CHAIN_START,
    segment::{self, Ending, Scan},
    writer::{SegmentInfo, Start},
};
use crate::disk;

/// What is done about an unfinished write at the end of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// It is cut.
    Cut,
    /// It is cut in the epochs before this one, and only those are read.
    CutBefore(u64),
    /// It is left alone: its writer may be about to finish it.
    Leave,
}

/// Checks every segment in `dir`, cuts a torn tail, and says where the next epoch begins.
pub(crate) fn recover(dir: &Path, proxy: &InstanceName, worker: u16) -> Result<Start, WalError> {
    sweep(dir)?;
    scan(dir, proxy, worker, Tail::Cut)
}

/// The same, for a folder that another process may be using.
pub(crate) fn scan(
    dir: &Path,
    proxy: &InstanceName,
    worker: u16,
    tail: Tail,
) -> Result<Start, WalError> {
    let (mut paths, strange) = segment::list(dir).map_err(|e| WalError::io(dir, e))?;
    if let Some(path) = strange.first() {
        return Err(WalError::damaged(path, 0, "not the name of a segment"));
    }
    if let Tail::CutBefore(epoch) = tail {
        paths.retain(|path| segment::epoch_of(path).is_some_and(|of| of < epoch));
    }
    let mut segments = VecDeque::new();
    let mut before: Option<Scan> = None;
    for (at, path) in paths.iter().enumerate() {
        let next = paths.get(at + 1);
        // An epoch ends where its process did, also when the next one had begun before that.
        let last = next.is_none_or(|next| segment::epoch_of(next) != segment::epoch_of(path));
        let scan = read(path, proxy, before.as_ref(), last, tail)?;
        let Some(header) = &scan.header else {
            // A crash of the machine can leave a last segment without its header, and then it holds no record either.
            if tail != Tail::Leave {
                fs::remove_file(path).map_err(|e| WalError::io(path, e))?;
            }
            continue;
        };
        if header.worker != worker {
            let what = format!("belongs to worker {}, not {worker}", header.worker);
            return Err(WalError::damaged(path, 0, &what));
        }
        segments.push_back(SegmentInfo {
            path: path.clone(),
            epoch: header.epoch,
            first_sequence: header.first_sequence,
            records: u64::try_from(scan.records.len()).unwrap_or(u64::MAX),
            bytes: u64::try_from(scan.good).unwrap_or(u64::MAX),
        });
        before = Some(scan);
    }
    let header = before.as_ref().and_then(|s| s.header.as_ref());
    Ok(Start {
        epoch: header.map_or(0, |h| h.epoch) + 1,
        previous: before.as_ref().and_then(Scan::last_record),
        chain: before.as_ref().map_or(CHAIN_START, |s| s.chain),
        segments,
    })
}

fn read(
    path: &Path,
    proxy: &InstanceName,
    before: Option<&Scan>,
    last: bool,
    tail: Tail,
) -> Result<Scan, WalError> {
    let bytes = fs::read(path).map_err(|e| WalError::io(path, e))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let scan = segment::scan(&bytes, &name);
    match &scan.ending {
        Ending::Whole => {}
        Ending::Damaged(what) => return Err(WalError::damaged(path, scan.good, what)),
        Ending::Torn if !last => {
            return Err(WalError::damaged(path, scan.good, "ends within a record"));
        }
        Ending::Torn if tail == Tail::Leave => {}
        Ending::Torn => cut(path, scan.good)?,
    }
    if let Some(header) = &scan.header {
        if header.proxy != *proxy {
            let what = format!("belongs to {}, not {proxy}", header.proxy);
            return Err(WalError::damaged(path, 0, &what));
        }
        if let Some(before) = before {
            segment::follows(header, before).map_err(|what| WalError::damaged(path, 0, &what))?;
        }
    }
    Ok(scan)
}

/// Cuts an unfinished last write.
fn cut(path: &Path, good: usize) -> Result<(), WalError> {
    let file = OpenOptions::new().write(true).open(path);
    file.and_then(|f| {
        f.set_len(u64::try_from(good).unwrap_or(u64::MAX))?;
        f.sync_all()
    })
    .map_err(|e| WalError::io(path, e))?;
    tracing::info!(path = %path.display(), at = good, "cut an unfinished record");
    Ok(())
}

fn sweep(dir: &Path) -> Result<(), WalError> {
    for entry in fs::read_dir(dir).map_err(|e| WalError::io(dir, e))? {
        let path = entry.map_err(|e| WalError::io(dir, e))?.path();
        if disk::is_unfinished(&path) {
            fs::remove_file(&path).map_err(|e| WalError::io(&path, e))?;
        }
    }
    Ok(())
}
