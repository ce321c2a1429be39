//! Circuit breakers: how much may be under way to a cluster at once (Envoy's circuit breaker thresholds), and what of
//! it may be retries. Counted across all workers and across generations, exactly; and only what is bounded is counted.

use std::{
    collections::HashMap,
    net::SocketAddr,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use reeve_core::model::TrafficPolicy;
use tokio::time::Instant;

use crate::{
    cluster::{ClusterKey, Clusters},
    gauge::{Entered, Gauge, Slots},
    ledger::lock,
    outlier::HostState,
    overrun::Overrun,
    pool::Pool,
};

/// What is under way to one cluster.
#[derive(Debug)]
pub(crate) struct ClusterState {
    /// Requests in flight.
    pub(crate) requests: Arc<Gauge>,
    /// Requests that wait for a connection.
    pub(crate) pending: Arc<Gauge>,
    /// Retries outstanding.
    pub(crate) retries: Arc<Gauge>,
    /// Connections.
    pub(crate) connections: Arc<Slots>,
    /// Endpoints out, as a hint: 0 = nobody need look.
    pub(crate) ejected: AtomicUsize,
    /// One ejection at a time.
    pub(crate) ejecting: Mutex<()>,
    /// When it was last looked who may come back, in milliseconds since `born`.
    pub(crate) swept: AtomicU64,
    /// When each bound was last reached, in milliseconds since `born`, plus 1.
    tripped: [AtomicU64; Overflow::ALL.len()],
    /// Pools of all workers that its bounds hold for.
    pub(crate) pools: Mutex<Vec<Weak<Pool>>>,
    /// What others say of it.
    pub(crate) overrun: Overrun,
    /// The beginning of its time.
    pub(crate) born: Instant,
}

impl ClusterState {
    /// Nothing under way.
    pub(crate) fn new() -> Self {
        Self {
            requests: Arc::default(),
            pending: Arc::default(),
            retries: Arc::default(),
            connections: Arc::default(),
            ejected: AtomicUsize::new(0),
            ejecting: Mutex::default(),
            swept: AtomicU64::new(0),
            tripped: Default::default(),
            pools: Mutex::default(),
            overrun: Overrun::default(),
            born: Instant::now(),
        }
    }

    /// Milliseconds since it was made.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes that a bound was reached.
    pub(crate) fn trip(&self, overflow: Overflow) -> Overflow {
        if let Some(tripped) = self.tripped.get(overflow as usize) {
            tripped.store(self.now().saturating_add(1), Ordering::Release);
        }
        overflow
    }

    /// How many milliseconds ago a bound was last reached.
    pub(crate) fn tripped_before(&self, overflow: Overflow) -> Option<u64> {
        let tripped = self.tripped.get(overflow as usize)?;
        let at = tripped.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.now().saturating_sub(at))
    }

    /// Whether any endpoint is out.
    pub(crate) fn has_ejected(&self) -> bool {
        self.ejected.load(Ordering::Acquire) > 0
    }

    /// Counts a request, where requests are counted; `Err` if there are too many.
    pub(crate) fn begin(&self, traffic: &TrafficPolicy) -> Result<Option<Entered>, Overflow> {
        let most = traffic.http.max_requests;
        if most.is_none() && traffic.retry_budget.is_none() {
            return Ok(None);
        }
        let entered = self.requests.try_enter(bound(most));
        entered
            .map(Some)
            .ok_or_else(|| self.trip(Overflow::Requests))
    }

    /// Counts a request that waits for a connection, where those are counted.
    pub(crate) fn queue(&self, traffic: &TrafficPolicy) -> Result<Option<Entered>, Overflow> {
        let most = traffic.http.max_pending;
        if most.is_none() && traffic.retry_budget.is_none() {
            return Ok(None);
        }
        let entered = self.pending.try_enter(bound(most));
        entered
            .map(Some)
            .ok_or_else(|| self.trip(Overflow::Pending))
    }

    /// Counts a retry; `Err` if there is no budget for it. A budget takes the place of `maxRetries`, as in Envoy.
    pub(crate) fn retry(&self, traffic: &TrafficPolicy) -> Result<Option<Entered>, Overflow> {
        let most = match (&traffic.retry_budget, traffic.http.max_retries) {
            (None, None) => return Ok(None),
            (Some(budget), _) => {
                let active = self.requests.now().saturating_add(self.pending.now());
                let least = usize::try_from(budget.min_concurrency).unwrap_or(usize::MAX);
                budget.percent.of(active).max(least)
            }
            (None, most) => bound(most),
        };
        let entered = self.retries.try_enter(most);
        entered
            .map(Some)
            .ok_or_else(|| self.trip(Overflow::Retries))
    }
}

fn bound(most: Option<NonZeroU32>) -> usize {
    most.and_then(|most| usize::try_from(most.get()).ok())
        .unwrap_or(usize::MAX)
}

/// Which bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Overflow {
    #[error("there are too many requests to the service")]
    Requests,
    #[error("too many requests wait for a connection to the service")]
    Pending,
    #[error("there are too many connections to the service")]
    Connections,
    #[error("there are too many retries to the service")]
    Retries,
    #[error("other callers find the service overrun")]
    Others,
}

impl Overflow {
    /// Each bound of this proxy's own.
    pub(crate) const ALL: [Self; 4] = [
        Self::Requests,
        Self::Pending,
        Self::Connections,
        Self::Retries,
    ];

    /// The name of the bound, for metrics.
    pub(crate) fn limit(self) -> &'static str {
        match self {
            Self::Requests => "cluster_max_requests",
            Self::Pending => "cluster_max_pending_requests",
            Self::Connections => "cluster_max_connections",
            Self::Retries => "cluster_max_retries",
            Self::Others => "cluster_overrun",
        }
    }

    /// Whether a bound of that name, reached elsewhere, says that there is too much for the service.
    pub(crate) fn of_service(limit: &str) -> bool {
        let bounds = [Self::Requests, Self::Pending, Self::Connections];
        bounds.iter().any(|bound| bound.limit() == limit)
    }
}

/// A state that snapshots share once they are in force.
#[derive(Debug)]
pub(crate) struct Shared<T>(OnceLock<Arc<T>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> Shared<T> {
    /// The state of another.
    pub(crate) fn of(state: Arc<T>) -> Self {
        Self(OnceLock::from(state))
    }

    /// The state; one of its own before the snapshot is in force.
    pub(crate) fn get_or(&self, make: impl FnOnce() -> T) -> &Arc<T> {
        self.0.get_or_init(|| Arc::new(make()))
    }

    fn set(&self, state: Arc<T>) {
        // Set once: a snapshot comes into force once.
        let _already = self.0.set(state);
    }
}

/// The states of all clusters and endpoints of one proxy.
#[derive(Debug, Default)]
pub(crate) struct States(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    clusters: HashMap<ClusterKey, Arc<ClusterState>>,
    hosts: HashMap<ClusterKey, HashMap<SocketAddr, Arc<HostState>>>,
}

impl States {
    /// Has `clusters` count on; forgets what is no more. Before the snapshot is in force.
    pub(crate) fn count_on(&self, clusters: &Clusters) {
        let mut known = lock(&self.0);
        let Known {
            clusters: states,
            hosts,
        } = &mut *known;
        states.retain(|key, _| clusters.get(key).is_some());
        hosts.retain(|key, _| clusters.get(key).is_some());
        for (key, cluster) in clusters.iter() {
            let made = || Arc::new(ClusterState::new());
            let state = states.entry(key.clone()).or_insert_with(made);
            cluster.state.set(state.clone());
            let now = state.now();
            let known = hosts.entry(key.clone()).or_default();
            known.retain(|address, _| cluster.hops.iter().any(|h| h.address == *address));
            for hop in &cluster.hops {
                let made = || Arc::new(HostState::new(now));
                let host = known.entry(hop.address).or_insert_with(made);
                hop.host.set(host.clone());
            }
            cluster.count_ejected();
        }
    }
}

#[cfg(test)]
mod tests {
    use reeve_core::model::{HttpPool, Millionths, RetryBudget};

    use super::*;

    fn bounded(most: u32) -> TrafficPolicy {
        let most = NonZeroU32::new(most);
        TrafficPolicy {
            http: HttpPool {
                max_requests: most,
                max_pending: most,
                max_retries: most,
                ..HttpPool::default()
            },
            ..TrafficPolicy::default()
        }
    }

    #[tokio::test]
    async fn a_full_breaker_is_open_and_closes_when_something_ends() {
        let (state, traffic) = (ClusterState::new(), bounded(2));
        let first = state.begin(&traffic).unwrap();
        let second = state.begin(&traffic).unwrap();
        assert_eq!(state.begin(&traffic).unwrap_err(), Overflow::Requests);
        drop(first);
        let third = state.begin(&traffic).unwrap();
        assert_eq!(state.requests.now(), 2);
        drop((second, third));
        assert_eq!(state.requests.now(), 0);
        let queued = [
            state.queue(&traffic).unwrap(),
            state.queue(&traffic).unwrap(),
        ];
        assert_eq!(state.queue(&traffic).unwrap_err(), Overflow::Pending);
        drop(queued);
        let retried = [
            state.retry(&traffic).unwrap(),
            state.retry(&traffic).unwrap(),
        ];
        assert_eq!(state.retry(&traffic).unwrap_err(), Overflow::Retries);
        drop(retried);
        assert_eq!(state.retries.now(), 0);
    }

    #[tokio::test]
    async fn what_is_not_bounded_is_not_counted() {
        let (state, traffic) = (ClusterState::new(), TrafficPolicy::default());
        assert!(state.begin(&traffic).unwrap().is_none());
        assert!(state.queue(&traffic).unwrap().is_none());
        assert!(state.retry(&traffic).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_budget_is_a_share_of_what_is_in_flight_and_never_less_than_its_least() {
        let state = ClusterState::new();
        let traffic = TrafficPolicy {
            retry_budget: Some(RetryBudget {
                percent: Millionths(200_000),
                min_concurrency: 3,
            }),
            ..bounded(1000)
        };
        let retry = || state.retry(&traffic).unwrap().unwrap();
        let least: Vec<_> = (0..3).map(|_| retry()).collect();
        assert_eq!(state.retry(&traffic).unwrap_err(), Overflow::Retries);
        let requests: Vec<_> = (0..20).map(|_| state.begin(&traffic).unwrap()).collect();
        let fourth = retry();
        assert_eq!(state.retry(&traffic).unwrap_err(), Overflow::Retries);
        drop((least, fourth, requests));
        assert_eq!(state.retries.now(), 0);
    }
}
