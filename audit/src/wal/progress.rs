//! How far the disk has gone along with a line: one wait for it at a time, on a thread of its own, for everybody who waits.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::watch;

use super::writer::Syncer;

/// What is known of the disk. No wait for it belongs to anybody: a caller that gives up leaves it to the others.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    synced: watch::Sender<Synced>,
    /// Whether a wait for the disk is under way.
    busy: AtomicBool,
}

#[derive(Debug, Default)]
struct Synced {
    /// Up to this record it has.
    done: u64,
    /// Up to this record it may have, or not: a sync over them failed, and a later one proves nothing about them.
    doubtful: u64,
}

impl Progress {
    /// Waits until the disk has record `sequence`, which is written. `begin` tells up to where it is, and how to wait.
    pub(crate) async fn reach(
        self: &Arc<Self>,
        sequence: u64,
        begin: impl Fn() -> io::Result<(u64, Syncer)>,
    ) -> io::Result<()> {
        let mut synced = self.synced.subscribe();
        loop {
            {
                let now = synced.borrow_and_update();
                if sequence <= now.doubtful {
                    return Err(io::Error::other(
                        "the disk failed to take it, or one before it",
                    ));
                }
                if sequence <= now.done {
                    return Ok(());
                }
            }
            self.begin(&begin)?;
            // Cancel-safe: what was begun goes on by itself. The sender lives as long as `self`.
            if synced.changed().await.is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    }

    /// Begins to wait for the disk, unless somebody has.
    fn begin(self: &Arc<Self>, begin: impl Fn() -> io::Result<(u64, Syncer)>) -> io::Result<()> {
        if self.busy.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // What ends it, whatever way that happens, tells those who wait.
        let mut wait = Wait {
            progress: Arc::clone(self),
            sequence: 0,
            taken: false,
        };
        let (sequence, sync) = begin()?;
        wait.sequence = sequence;
        tokio::task::spawn_blocking(move || wait.end(sync()));
        Ok(())
    }
}

/// A wait for the disk; over when it is dropped.
struct Wait {
    progress: Arc<Progress>,
    sequence: u64,
    taken: bool,
}

impl Wait {
    fn end(mut self, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => self.taken = true,
            Err(error) => tracing::error!(%error, "the disk failed under the write-ahead log"),
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.progress.busy.store(false, Ordering::Release);
        self.progress.synced.send_modify(|synced| {
            let upto = match self.taken {
                true => &mut synced.done,
                false => &mut synced.doubtful,
            };
            *upto = self.sequence.max(*upto);
        });
    }
}
