//! Reading a trail in parallel, and judging each decision in it.

use std::{
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use foldhash::HashMap;
use reeve_audit::{Scan, ScanError};

use crate::{
    Candidate, Wanted, WhatIf,
    candidate::{Flip, Judged},
    line::{Interest, Line, Recorded},
    whatif::Tally,
};

/// Most threads.
const MAX_THREADS: usize = 16;
/// Most questions that a thread remembers with their answers; beyond it, it forgets all of them.
const MAX_REMEMBERED: usize = 100_000;

/// A trail could not be replayed.
pub type ReplayError = ScanError;

/// Judges every decision of `scan` that is `wanted` by `candidate`. `read` counts the records that were read so far.
pub fn replay(
    scan: &Scan,
    wanted: &Wanted,
    candidate: &Candidate,
    read: &AtomicU64,
) -> Result<WhatIf, ReplayError> {
    let work = || Worker::new(wanted, candidate);
    let tallies = in_parallel(scan, read, work, Worker::line, |worker| worker.tally)?;
    Ok(WhatIf::of(tallies))
}

/// Hands the lines of `scan` out to as many workers as there are processors, and gets what they made of them.
pub(crate) fn in_parallel<W, T: Send>(
    scan: &Scan,
    read: &AtomicU64,
    worker: impl Fn() -> W + Sync,
    line: impl Fn(&mut W, &[u8]) -> Result<(), ScanError> + Sync,
    end: impl Fn(W) -> T + Sync,
) -> Result<Vec<T>, ScanError> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let next = AtomicUsize::new(0);
    let made = Mutex::new(Vec::new());
    let fault = Mutex::new(None);
    let work = || {
        let (mut worker, mut buffer) = (worker(), Vec::new());
        loop {
            let part = next.fetch_add(1, Ordering::Relaxed);
            if part >= scan.parts() {
                break;
            }
            match scan.read(part, &mut buffer, &mut |raw| line(&mut worker, raw)) {
                Ok(count) => read.fetch_add(count, Ordering::Relaxed),
                Err(error) => {
                    // The others stop at their next part.
                    next.store(scan.parts(), Ordering::Relaxed);
                    let mut fault = fault.lock().unwrap_or_else(PoisonError::into_inner);
                    fault.get_or_insert(error);
                    return;
                }
            };
        }
        let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
        made.push(end(worker));
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(MAX_THREADS) {
            scope.spawn(work);
        }
        work();
    });
    let fault = fault.into_inner().unwrap_or_else(PoisonError::into_inner);
    let made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    fault.map_or(Ok(made), Err)
}

/// One thread's share.
struct Worker<'a> {
    wanted: &'a Wanted,
    candidate: &'a Candidate,
    tally: Tally,
    met: HashMap<Box<[u8]>, Met>,
    key: Vec<u8>,
}

/// A question that was met before.
#[derive(Clone, Copy)]
enum Met {
    NotWanted,
    /// The answer depends on the time, so each is judged for itself.
    ByTime,
    Judged(Flip, Option<usize>),
}

impl<'a> Worker<'a> {
    fn new(wanted: &'a Wanted, candidate: &'a Candidate) -> Self {
        Self {
            wanted,
            candidate,
            tally: Tally::default(),
            met: HashMap::default(),
            key: Vec::new(),
        }
    }

    fn line(&mut self, raw: &[u8]) -> Result<(), ScanError> {
        let Some(line) = Line::of(raw)? else {
            return Ok(());
        };
        if !self.wanted.at(line.time) {
            return Ok(());
        }
        let interest = Interest::Policies(self.candidate.sight());
        line.key(interest, &mut self.key);
        let met = match self.met.get(self.key.as_slice()) {
            Some(met) => *met,
            None => self.meet(raw)?,
        };
        match met {
            Met::NotWanted => {}
            Met::Judged(flip, group) => self.tally.count(flip, group, &line),
            Met::ByTime => {
                let recorded = Recorded::of(raw)?;
                let judged = self.candidate.judge(&recorded);
                let group = self.group(&recorded, &judged);
                self.tally.count(judged.flip, group, &line);
            }
        }
        Ok(())
    }

    fn meet(&mut self, raw: &[u8]) -> Result<Met, ScanError> {
        let recorded = Recorded::of(raw)?;
        let met = if !self.wanted.request(&recorded.request) {
            Met::NotWanted
        } else if self.candidate.depends_on_time(&recorded.request) {
            Met::ByTime
        } else {
            let judged = self.candidate.judge(&recorded);
            Met::Judged(judged.flip, self.group(&recorded, &judged))
        };
        if self.met.len() >= MAX_REMEMBERED {
            self.met.clear();
        }
        self.met.insert(self.key.as_slice().into(), met);
        Ok(met)
    }

    fn group(&mut self, recorded: &Recorded, judged: &Judged) -> Option<usize> {
        self.tally.asked += 1;
        match judged.flip {
            Flip::Same | Flip::NotByPolicy => None,
            Flip::NewlyDenied | Flip::NewlyPermitted | Flip::Undetermined => {
                Some(self.tally.group(recorded, judged))
            }
        }
    }
}

#[cfg(test)]
mod tests;
