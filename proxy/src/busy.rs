//! How many requests and connections are in flight to each endpoint: counted across all workers and across
//! generations, exactly.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{cluster::Clusters, ledger::lock};

/// The load of one endpoint. Every snapshot that names the endpoint counts on the same one once it is in force.
#[derive(Debug, Default)]
pub(crate) struct Load(OnceLock<Arc<AtomicUsize>>);

/// Counts an endpoint as busy while it lives.
#[derive(Debug)]
pub(crate) struct Busy(Arc<AtomicUsize>);

impl Load {
    /// Requests and connections in flight.
    pub(crate) fn now(&self) -> usize {
        self.0
            .get()
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// One more, until the guard is dropped.
    pub(crate) fn enter(&self) -> Busy {
        let count = self.0.get_or_init(Arc::default).clone();
        count.fetch_add(1, Ordering::Relaxed);
        Busy(count)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The loads of all endpoints of one proxy.
#[derive(Debug, Default)]
pub(crate) struct Loads(Mutex<HashMap<SocketAddr, Arc<AtomicUsize>>>);

impl Loads {
    /// Has the endpoints of `clusters` count on; forgets idle ones that are no more. Before the snapshot is in force.
    pub(crate) fn count_on(&self, clusters: &Clusters) {
        let mut loads = lock(&self.0);
        for hop in clusters.hops() {
            let count = loads.entry(hop.address).or_default().clone();
            // Set once: a snapshot comes into force once.
            let _already = hop.load.0.set(count);
        }
        // What no endpoint of any snapshot holds, only the map does.
        loads.retain(|_, count| Arc::strong_count(count) > 1);
    }
}
