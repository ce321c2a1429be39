//! What every connection and request of a proxy uses.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use reeve_core::{Clock, network::Network};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    access_log::LogFormat,
    admission::InFlight,
    break_glass::Grants,
    breaker::States,
    busy::Loads,
    callers::Callers,
    cluster::{Cluster, Hop},
    credentials::{Epoch, Epochs},
    dns::Names,
    elsewhere::Elsewhere,
    ledger::Ledger,
    metrics::Metrics,
    mirror::Mirrors,
    net::Net,
    outlier::Cause,
    retired::Retired,
    seldom::Seldom,
    snapshot::Snapshot,
    spans::Spans,
    strangers::Strangers,
    tap::Taps,
    transform::Room,
    worker::WorkerSet,
};

/// What every connection and request of a proxy uses.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) net: Net,
    pub(crate) clock: Arc<dyn Clock>,
    /// For what no worker does.
    pub(crate) ledger: Ledger,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) spans: Spans,
    pub(crate) taps: Arc<Taps>,
    pub(crate) break_glass: Grants,
    pub(crate) strangers: Strangers,
    pub(crate) tasks: TaskTracker,
    pub(crate) epochs: watch::Receiver<Option<Arc<Epoch>>>,
    pub(super) made: Epochs,
    pub(super) loads: Loads,
    pub(super) names: Names,
    /// What is not in the mesh and no service stands for.
    pub(crate) elsewhere: Elsewhere,
    pub(super) states: States,
    pub(super) epoch: ArcSwapOption<Epoch>,
    /// Cancelled when the proxy is about to go: it says so, and takes requests until it drains.
    pub(crate) leaving: CancellationToken,
    pub(crate) in_flight: InFlight,
    pub(crate) callers: Arc<Callers>,
    pub(crate) mirrors: Arc<Mirrors>,
    /// What bodies that are held to be transformed take.
    pub(crate) transform_room: Arc<Room>,
    /// When the listeners last warned that they cannot accept.
    pub(crate) accept_warnings: Arc<Seldom>,
    pub(super) snapshot: ArcSwapOption<Snapshot>,
    pub(super) retired: Retired,
}

impl Shared {
    /// What a proxy begins with: no snapshot and no credentials.
    pub(super) fn new(
        network: Option<Arc<dyn Network>>,
        ledger: Ledger,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let made = Epochs::new(clock.clone());
        Self {
            net: network.into(),
            ledger,
            metrics,
            spans: Spans::default(),
            taps: Arc::default(),
            break_glass: Grants::default(),
            strangers: Strangers::new(clock.clone()),
            tasks: TaskTracker::new(),
            epochs: made.watch(),
            made,
            loads: Loads::default(),
            names: Names::default(),
            elsewhere: Elsewhere::default(),
            states: States::default(),
            epoch: ArcSwapOption::empty(),
            leaving: CancellationToken::new(),
            in_flight: InFlight::default(),
            callers: Arc::default(),
            mirrors: Arc::default(),
            transform_room: Arc::default(),
            accept_warnings: Arc::default(),
            snapshot: ArcSwapOption::empty(),
            retired: Retired::default(),
            clock,
        }
    }

    /// The snapshot in force; a request takes it once.
    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.load_full()
    }

    /// Does something with the form of the access log in force.
    pub(crate) fn log_format<T>(&self, with: impl FnOnce(&LogFormat) -> T) -> T {
        match &*self.snapshot.load() {
            Some(snapshot) => with(&snapshot.log_format),
            None => with(&LogFormat::Reeve),
        }
    }

    /// The credentials in force.
    pub(crate) fn epoch(&self) -> Option<Arc<Epoch>> {
        self.epoch.load_full()
    }

    /// Puts `epoch` in force.
    pub(super) fn switch(&self, epoch: Arc<Epoch>, workers: &WorkerSet) {
        let number = epoch.number;
        let newer = |held: &Arc<Epoch>| held.number > number;
        self.epoch.rcu(|held| match held {
            Some(held) if newer(held) => Some(held.clone()),
            _ => Some(epoch.clone()),
        });
        for worker in workers.iter() {
            worker.pools.forget_before(number);
        }
    }

    /// Tells that an endpoint was taken out.
    pub(crate) fn ejected(&self, cluster: &Cluster, hop: &Hop, cause: Cause) {
        let (service, endpoint) = (&cluster.service.name, hop.address);
        tracing::warn!(%service, %endpoint, cause = cause.name(), "an endpoint is ejected");
        self.metrics.ejected(cause.name());
    }

    /// Lets ejected endpoints back whose time is over.
    pub(super) fn look_after_outliers(&self) {
        let Some(snapshot) = self.snapshot() else {
            return;
        };
        for (_, cluster) in snapshot.clusters.iter() {
            let swept = cluster.sweep();
            for (hop, cause) in swept.out {
                self.ejected(cluster, hop, cause);
            }
            for hop in swept.back {
                let (service, endpoint) = (&cluster.service.name, hop.address);
                tracing::info!(%service, %endpoint, "an endpoint is back");
            }
        }
    }

    /// Whether it can serve, or why not.
    pub(crate) fn readiness(&self) -> Result<(), NotReady> {
        if self.leaving.is_cancelled() {
            return Err(NotReady::Leaving);
        }
        if self.epoch().is_none() {
            return Err(NotReady::NoCertificate);
        }
        match *self.snapshot.load() {
            Some(_) => Ok(()),
            None => Err(NotReady::NoConfiguration),
        }
    }
}

/// Why a proxy cannot serve yet, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotReady {
    #[error("there is no certificate yet")]
    NoCertificate,
    #[error("there is no configuration yet")]
    NoConfiguration,
    #[error("the proxy is shutting down")]
    Leaving,
}
