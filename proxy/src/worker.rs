//! The threads of the data plane. A connection is given to the least loaded worker and stays with it, and so do its
//! upstream connections, its records and what is told of it: on the way of a request no two workers share a lock.

use std::{
    io,
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use reeve_audit::WalError;
use tokio::{
    runtime::{Builder, Handle},
    sync::Notify,
    time::sleep,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    access_log::{AccessLog, LogBuffer},
    admission::Shedding,
    ledger::Ledger,
    limits::FLUSH_INTERVAL,
    open::OpenStreams,
    pool::Pools,
    pressure::Pressures,
    proxy::{Shared, StartError},
};

/// What carries the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// The calling thread's runtime: for tests and simulation.
    Current,
    /// That many threads, each with a runtime of its own.
    Threads(NonZeroU16),
}

/// One worker, and what is its alone.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) proxy: Arc<Shared>,
    pub(crate) pools: Pools,
    pub(crate) open: Arc<OpenStreams>,
    pub(crate) ledger: Ledger,
    pub(crate) log: LogBuffer,
    pub(crate) shedding: Shedding,
    pub(crate) pressures: Pressures,
    runtime: Handle,
    connections: AtomicUsize,
    flush: Flush,
}

/// Wakes the worker's flusher when the first thing waits to be written.
#[derive(Debug, Default)]
struct Flush {
    armed: AtomicBool,
    wake: Notify,
}

/// Counts a connection as its worker's while it lives.
#[derive(Debug)]
pub(crate) struct Charge(Arc<Worker>);

impl Drop for Charge {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    fn new(proxy: Arc<Shared>, ledger: Ledger, log: AccessLog, runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            pools: Pools::new(proxy.trust()),
            open: Arc::default(),
            ledger,
            log: LogBuffer::new(log),
            shedding: Shedding::default(),
            pressures: Pressures::default(),
            runtime,
            connections: AtomicUsize::new(0),
            flush: Flush::default(),
            proxy,
        })
    }

    /// Where its tasks run.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Something waits in the worker's buffers: they are written within [`FLUSH_INTERVAL`].
    pub(crate) fn flush_soon(&self) {
        if !self.flush.armed.swap(true, Ordering::Relaxed) {
            self.flush.wake.notify_one();
        }
    }

    /// Writes what waits.
    pub(crate) fn flush(&self) {
        self.log.flush();
        self.ledger.flush();
    }

    async fn keep_flushing(self: Arc<Self>) {
        loop {
            // At level `buffered` this interval is the bound on what a killed process loses, whatever else goes on.
            if !self.ledger.is_buffered() {
                self.flush.wake.notified().await;
            }
            sleep(FLUSH_INTERVAL).await;
            self.flush.armed.store(false, Ordering::Relaxed);
            self.flush();
        }
    }
}

/// The workers of one proxy. Their threads end when it is dropped.
#[derive(Debug)]
pub(crate) struct WorkerSet {
    all: Box<[Arc<Worker>]>,
    _end: DropGuard,
}

impl WorkerSet {
    /// Starts them; `ledger` makes the ledger of the worker with that number, counted from 1.
    pub(crate) fn start(
        workers: Workers,
        proxy: &Arc<Shared>,
        log: &AccessLog,
        ledger: impl Fn(u16) -> Result<Ledger, WalError>,
    ) -> Result<Self, StartError> {
        let end = CancellationToken::new();
        let numbers = match workers {
            Workers::Current => 1..=1,
            Workers::Threads(count) => 1..=count.get(),
        };
        let mut all = Vec::new();
        for number in numbers {
            let runtime = match workers {
                Workers::Current => Handle::current(),
                Workers::Threads(_) => thread(number, end.clone())?,
            };
            let worker = Worker::new(proxy.clone(), ledger(number)?, log.clone(), runtime);
            let flushing = end
                .clone()
                .run_until_cancelled_owned(worker.clone().keep_flushing());
            worker.runtime.spawn(flushing);
            let timing = end
                .clone()
                .run_until_cancelled_owned(worker.clone().keep_time());
            worker.runtime.spawn(timing);
            all.push(worker);
        }
        Ok(Self {
            all: all.into_boxed_slice(),
            _end: end.drop_guard(),
        })
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Worker>> {
        self.all.iter()
    }

    /// Where a listener with this number accepts.
    pub(crate) fn of_listener(&self, number: usize) -> Option<&Arc<Worker>> {
        self.all.get(number.checked_rem(self.all.len())?)
    }

    /// The one with the fewest connections, `here` when it is one of those; charged with one more.
    pub(crate) fn least_loaded(&self, here: &Arc<Worker>) -> (Arc<Worker>, Charge) {
        let load = |worker: &Arc<Worker>| worker.connections.load(Ordering::Relaxed);
        let least = self.all.iter().min_by_key(|worker| load(worker));
        let chosen = least
            .filter(|least| load(least) < load(here))
            .unwrap_or(here);
        chosen.connections.fetch_add(1, Ordering::Relaxed);
        (chosen.clone(), Charge(chosen.clone()))
    }
}

/// A thread with a runtime of its own, until `end`.
fn thread(number: u16, end: CancellationToken) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || runtime.block_on(end.cancelled()))?;
    Ok(handle)
}
