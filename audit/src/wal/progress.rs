//! How far the disk has gone along with a line: one wait for it at a time, on a thread of its own, for everybody who waits.

use std::{io, sync::Arc};

use tokio::sync::watch;

use super::{files::Syncer, writer::Mark};

/// What is known of the disk. No wait for it belongs to anybody: a caller that gives up leaves it to the others.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    synced: watch::Sender<Synced>,
}

#[derive(Debug, Default)]
struct Synced {
    /// Up to this record it has, with the chain after it.
    done: Mark,
    /// Up to this record it may have, or not: a sync over them failed, and a later one proves nothing about them.
    doubtful: u64,
    /// Whether a wait for the disk is under way.
    busy: bool,
}

impl Synced {
    /// How it stands with record `sequence`; nothing while that is not known.
    fn of(&self, sequence: u64) -> Option<io::Result<()>> {
        if sequence <= self.doubtful {
            let lost = io::Error::other("the disk failed to take it, or one before it");
            return Some(Err(lost));
        }
        (sequence <= self.done.sequence).then_some(Ok(()))
    }
}

impl Progress {
    /// Waits until the disk has record `sequence`, which is written. `begin` tells up to where it is, and how to wait.
    pub(crate) async fn reach(
        self: &Arc<Self>,
        sequence: u64,
        begin: impl Fn() -> io::Result<(Mark, Syncer)>,
    ) -> io::Result<()> {
        let mut synced = self.synced.subscribe();
        loop {
            synced.mark_unchanged();
            match self.ask(sequence) {
                Asked::Known(outcome) => return outcome,
                Asked::Wait => {}
                Asked::Begin => self.begin(&begin)?,
            }
            // Cancel-safe: what was begun goes on by itself. The sender lives as long as `self`.
            if synced.changed().await.is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    }

    /// The last record that the disk is known to have; the number 0 while none is.
    pub(crate) fn done(&self) -> Mark {
        self.synced.borrow().done
    }

    /// Looks and takes the turn in one step, so that nobody waits anew for what a wait that just ended has brought.
    fn ask(&self, sequence: u64) -> Asked {
        let mut asked = Asked::Wait;
        self.synced.send_if_modified(|synced| {
            asked = match synced.of(sequence) {
                Some(outcome) => Asked::Known(outcome),
                None if synced.busy => Asked::Wait,
                None => Asked::Begin,
            };
            synced.busy |= matches!(asked, Asked::Begin);
            false
        });
        asked
    }

    /// Begins to wait for the disk. The caller has the turn.
    fn begin(self: &Arc<Self>, begin: impl Fn() -> io::Result<(Mark, Syncer)>) -> io::Result<()> {
        // What ends it, whatever way that happens, gives the turn back and tells those who wait.
        let mut wait = Wait {
            progress: Arc::clone(self),
            upto: Mark::default(),
            taken: false,
        };
        let (upto, sync) = begin()?;
        wait.upto = upto;
        tokio::task::spawn_blocking(move || wait.end(sync()));
        Ok(())
    }
}

/// What somebody who wants a record on the disk has to do.
enum Asked {
    Known(io::Result<()>),
    Wait,
    Begin,
}

/// A wait for the disk; over when it is dropped.
struct Wait {
    progress: Arc<Progress>,
    upto: Mark,
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
        self.progress.synced.send_modify(|synced| {
            synced.busy = false;
            if !self.taken {
                synced.doubtful = self.upto.sequence.max(synced.doubtful);
            } else if self.upto.sequence > synced.done.sequence {
                synced.done = self.upto;
            }
        });
    }
}
