//! Whose turn it is to write a log: an object that the writer renews. It keeps a second writer away as long as there is a
//! first; that none can fork the log is the checkpoint's business.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use aws_lc_rs::rand;

use crate::{
    disk,
    log::{LogError, layout},
    store::{Store, StoreError, Tag},
};

/// A writer that has not renewed it for so many beats is gone.
const BEATS_MISSED: u32 = 4;

/// This folder's name among writers.
const NAME: &str = "log.writer";

/// Held by the one who writes; given back when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    /// Dropped first: ends the thread.
    stop: Option<mpsc::SyncSender<()>>,
    renewing: Option<thread::JoinHandle<()>>,
}

impl Lease {
    /// Waits, if another folder's writer holds it, for so long that this must be gone, unless it renews it.
    pub(super) fn take(
        dir: &Path,
        store: Arc<dyn Store>,
        beat: Duration,
        replaced: Arc<AtomicBool>,
    ) -> Result<Self, LogError> {
        let name = own_name(dir)?;
        let mut held = store.get(layout::WRITER)?;
        if let Some(other) = held
            .clone()
            .filter(|h| !h.bytes.starts_with(name.as_bytes()))
        {
            for _ in 0..BEATS_MISSED {
                thread::sleep(beat);
                held = store.get(layout::WRITER)?;
                if held.as_ref().is_some_and(|held| held.tag != other.tag) {
                    return Err(LogError::OtherWriter);
                }
            }
        }
        let seen = held.map(|held| held.tag);
        let taken = renew(&*store, &name, seen.as_ref());
        let tag = match taken {
            Err(StoreError::Changed { .. }) => return Err(LogError::OtherWriter),
            taken => taken?,
        };
        let (stop, stopped) = mpsc::sync_channel(1);
        let run = move || keep(&*store, &name, beat, tag, &stopped, &replaced);
        let renewing = thread::Builder::new()
            .name("log writer".to_owned())
            .spawn(run);
        Ok(Self {
            stop: Some(stop),
            renewing: Some(renewing.map_err(|e| LogError::io(dir, e))?),
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(renewing) = self.renewing.take() {
            drop(renewing.join());
        }
    }
}

/// Renews it until it is given back; `replaced` says that somebody else took it.
fn keep(
    store: &dyn Store,
    name: &str,
    beat: Duration,
    mut tag: Tag,
    stopped: &mpsc::Receiver<()>,
    replaced: &AtomicBool,
) {
    while stopped.recv_timeout(beat) == Err(mpsc::RecvTimeoutError::Timeout) {
        match renew(store, name, Some(&tag)) {
            Ok(renewed) => tag = renewed,
            Err(StoreError::Changed { .. }) => match store.get(layout::WRITER) {
                // An attempt whose answer was lost.
                Ok(Some(there)) if there.bytes.starts_with(name.as_bytes()) => tag = there.tag,
                Ok(_) => {
                    tracing::error!(
                        "another process writes this audit log now; this one has stopped"
                    );
                    return replaced.store(true, Ordering::Relaxed);
                }
                Err(error) => tracing::warn!(%error, "cannot see who writes the audit log"),
            },
            Err(error) => tracing::warn!(%error, "cannot renew the turn to write the audit log"),
        }
    }
    let ours = store.get(layout::WRITER).ok().flatten();
    if ours.is_some_and(|there| there.tag == tag) {
        // Somebody who takes it in this moment is found out at the next checkpoint.
        drop(store.delete_all(&[layout::WRITER.to_owned()]));
    }
}

fn renew(store: &dyn Store, name: &str, seen: Option<&Tag>) -> Result<Tag, StoreError> {
    let beat = random().map_err(|e| StoreError::failed(layout::WRITER, e.to_string()))?;
    store.replace(layout::WRITER, format!("{name} {beat}\n").as_bytes(), seen)
}

/// The folder's own name, kept in it, so that a restarted process takes its own turn again at once.
fn own_name(dir: &Path) -> Result<String, LogError> {
    let path = dir.join(NAME);
    let held = fs::read_to_string(&path).unwrap_or_default();
    if !held.trim().is_empty() {
        return Ok(held.trim().to_owned());
    }
    let name = random()?;
    disk::put(&path, name.as_bytes()).map_err(|e| LogError::io(&path, e))?;
    Ok(name)
}

fn random() -> Result<String, LogError> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_unspecified| LogError::Key)?;
    Ok(hex::encode(bytes))
}
