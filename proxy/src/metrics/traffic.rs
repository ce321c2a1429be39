//! What is counted of requests and connections, in Istio's names and labels. Every worker counts for itself; a scrape
//! adds the workers up.

use std::{
    collections::hash_map::Entry,
    sync::{Arc, Mutex},
};

use foldhash::{HashMap, HashSet};
use prometheus::core::Desc;
use reeve_core::{
    ServiceName, SpiffeId,
    decision::{Decision, Effect, Reason},
};

use super::{live::Open, render};
use crate::{judge::Peer, ledger::lock, limits::MAX_SERIES, peer_info::PeerInfo};

/// Upper bounds in milliseconds, as Istio's.
pub(super) const BUCKETS_MS: [f64; 17] = [
    0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0,
    30_000.0, 60_000.0, 300_000.0,
];
/// Upper bounds in bytes, as Istio's.
pub(super) const BUCKETS_BYTES: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
/// The two ends of a request or connection, for labels. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    /// `source` (the caller's proxy) or `destination`.
    pub(crate) reporter: &'static str,
    pub(crate) source: Arc<PeerInfo>,
    pub(crate) source_principal: Option<SpiffeId>,
    pub(crate) destination: Arc<PeerInfo>,
    pub(crate) destination_principal: Option<SpiffeId>,
    pub(crate) service: Option<ServiceName>,
    /// `http`, `grpc` or `tcp`.
    pub(crate) protocol: &'static str,
    /// `mutual_tls` or `none`; the caller's proxy says `unknown`, as Istio's does.
    pub(crate) security: &'static str,
}

impl Ends {
    /// As the proxy beside the server sees them; what the caller's proxy said of it, if it did, names it.
    pub(crate) fn inbound(peer: &Peer, info: Option<Arc<PeerInfo>>) -> Self {
        let id = peer.principal.spiffe_id();
        let unnamed = || {
            let parts = id.and_then(SpiffeId::namespace_and_account);
            let namespace = parts.map(|(namespace, _)| namespace.to_string());
            Arc::new(PeerInfo {
                namespace: namespace.unwrap_or_default(),
                ..PeerInfo::default()
            })
        };
        Self {
            reporter: "destination",
            source: info.unwrap_or_else(unnamed),
            source_principal: id.cloned(),
            protocol: "http",
            security: if peer.is_mtls() { "mutual_tls" } else { "none" },
            ..Self::default()
        }
    }

    /// As the proxy beside the caller sees them.
    pub(crate) fn outbound() -> Self {
        Self {
            reporter: "source",
            protocol: "http",
            ..Self::default()
        }
    }

    /// Beyond the bound on series, whoever the two ends are.
    fn folded(&self) -> Self {
        Self {
            source: Arc::new(PeerInfo::other()),
            destination: Arc::new(PeerInfo::other()),
            source_principal: None,
            destination_principal: None,
            service: None,
            ..*self
        }
    }
}

/// What came of a request or connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome<'a> {
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u16>,
    /// Envoy's response flags.
    pub(crate) flags: &'a [&'static str],
    pub(crate) duration_ms: f64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// Names a series.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) ends: Ends,
    pub(super) flags: Vec<&'static str>,
    pub(super) status: u16,
    pub(super) grpc_status: Option<u16>,
}

impl Key {
    /// Of what is still open: nothing is known of its end.
    fn open(ends: &Ends) -> Self {
        Self {
            ends: ends.clone(),
            flags: Vec::new(),
            status: 0,
            grpc_status: None,
        }
    }

    /// Beyond the bound on series.
    fn folded(self) -> Self {
        Self {
            ends: self.ends.folded(),
            ..self
        }
    }

    fn at_the_end(ends: &Ends, outcome: &Outcome<'_>) -> Self {
        Self {
            flags: outcome.flags.to_vec(),
            status: outcome.status,
            grpc_status: outcome.grpc_status,
            ..Self::open(ends)
        }
    }
}

/// The figures of one series.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) requests: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) duration_sum_ms: f64,
    /// Per bucket, not cumulative; the last is beyond all bounds.
    pub(super) durations: [u64; BUCKETS_MS.len() + 1],
    pub(super) sizes_in: [u64; BUCKETS_BYTES.len() + 1],
    pub(super) sizes_out: [u64; BUCKETS_BYTES.len() + 1],
    /// TCP connections.
    pub(super) opened: u64,
    pub(super) closed: u64,
    /// gRPC calls, and their messages.
    pub(super) calls: u64,
    pub(super) messages_in: u64,
    pub(super) messages_out: u64,
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.duration_sum_ms += other.duration_sum_ms;
        let sums = self.durations.iter_mut().chain(&mut self.sizes_in);
        let ones = other.durations.iter().chain(&other.sizes_in);
        for (sum, one) in sums.zip(ones) {
            *sum += one;
        }
        for (sum, one) in self.sizes_out.iter_mut().zip(other.sizes_out) {
            *sum += one;
        }
        self.opened += other.opened;
        self.closed += other.closed;
        self.calls += other.calls;
        self.messages_in += other.messages_in;
        self.messages_out += other.messages_out;
    }
}

/// What one worker has counted.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) series: HashMap<Key, Figures>,
    pub(super) decisions: HashMap<(Effect, Reason), u64>,
    /// What is open, by a number of its own.
    pub(super) open: HashMap<u64, Open>,
    pub(super) next: u64,
}

impl Counts {
    /// Counts what has passed since the last time through what is open.
    fn settle(&mut self) {
        for open in self.open.values_mut() {
            open.settle(&mut self.series);
        }
    }
}

pub(super) type Shard = Arc<Mutex<Counts>>;

/// The counts of all workers.
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    shards: Arc<Mutex<Vec<Shard>>>,
    known: Arc<Mutex<HashSet<Key>>>,
    /// Of the first family; the registry tells collectors apart by it.
    pub(super) desc: Desc,
}

/// The counts of one worker.
#[derive(Debug)]
pub(crate) struct Meters {
    pub(super) shard: Shard,
    known: Arc<Mutex<HashSet<Key>>>,
}

impl Traffic {
    /// No workers yet.
    pub(super) fn new() -> prometheus::Result<Self> {
        let name = "istio_requests_total";
        let labels = render::LABELS.iter().map(|l| (*l).to_owned()).collect();
        Ok(Self {
            shards: Arc::default(),
            known: Arc::default(),
            desc: Desc::new(
                name.to_owned(),
                super::help(name).to_owned(),
                labels,
                std::collections::HashMap::new(),
            )?,
        })
    }

    /// Counts of one more worker.
    pub(super) fn meters(&self) -> Meters {
        let shard = Shard::default();
        lock(&self.shards).push(shard.clone());
        Meters {
            shard,
            known: self.known.clone(),
        }
    }

    /// All workers together, as of now.
    pub(super) fn sum(&self) -> Counts {
        let mut sum = Counts::default();
        for shard in &*lock(&self.shards) {
            let mut counts = lock(shard);
            counts.settle();
            for (key, figures) in &counts.series {
                sum.series.entry(key.clone()).or_default().add(figures);
            }
            for (kind, count) in &counts.decisions {
                *sum.decisions.entry(*kind).or_default() += count;
            }
        }
        sum
    }
}

impl Meters {
    /// Counts a finished request.
    pub(crate) fn request(&self, ends: &Ends, outcome: &Outcome<'_>) {
        self.count(Key::at_the_end(ends, outcome), |figures| {
            figures.requests += 1;
            figures.bytes_in += outcome.bytes_in;
            figures.bytes_out += outcome.bytes_out;
            figures.duration_sum_ms += outcome.duration_ms;
            place(&BUCKETS_MS, outcome.duration_ms, &mut figures.durations);
            place(
                &BUCKETS_BYTES,
                float(outcome.bytes_in),
                &mut figures.sizes_in,
            );
            place(
                &BUCKETS_BYTES,
                float(outcome.bytes_out),
                &mut figures.sizes_out,
            );
        });
    }

    /// Counts a closed TCP connection; its bytes are counted while it is open.
    pub(crate) fn tcp_closed(&self, ends: &Ends, outcome: &Outcome<'_>) {
        self.count(Key::at_the_end(ends, outcome), |figures| {
            figures.closed += 1;
        });
    }

    /// Counts a decision.
    pub(crate) fn decided(&self, decision: &Decision) {
        let kind = (decision.effect, decision.reason);
        *lock(&self.shard).decisions.entry(kind).or_default() += 1;
    }

    /// Counts in a series, or in the one that it is folded into.
    fn count(&self, key: Key, count: impl FnOnce(&mut Figures)) {
        let series = &mut lock(&self.shard).series;
        match series.entry(key) {
            Entry::Occupied(figures) => count(figures.into_mut()),
            Entry::Vacant(new) if self.may_begin(new.key()) => {
                count(new.insert_entry(Figures::default()).into_mut())
            }
            Entry::Vacant(refused) => {
                let folded = refused.into_key().folded();
                count(series.entry(folded).or_default());
            }
        }
    }

    /// The series that something open with these ends is counted in while it is, after `count`.
    pub(super) fn begin(&self, ends: &Ends, count: impl FnOnce(&mut Figures)) -> Key {
        let mut key = Key::open(ends);
        if !self.may_begin(&key) {
            key = key.folded();
        }
        self.count(key.clone(), count);
        key
    }

    /// Series are bounded across the workers, whatever peers call themselves.
    fn may_begin(&self, key: &Key) -> bool {
        let mut known = lock(&self.known);
        if known.contains(key) {
            return true;
        }
        let room = known.len() < MAX_SERIES;
        if room {
            known.insert(key.clone());
        }
        room
    }
}

/// Counts a value in the bucket that it belongs to; the last is beyond all bounds.
fn place(bounds: &[f64], value: f64, counts: &mut [u64]) {
    let bucket = bounds.partition_point(|bound| *bound < value);
    if let Some(count) = counts.get_mut(bucket) {
        *count += 1;
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in f64")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
