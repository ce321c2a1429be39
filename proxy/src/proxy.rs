//! The proxy as its owner holds it: started once, given snapshots (`apply`), drained at the end.

mod apply;
mod house;
mod shared;
mod switch;

pub use self::{apply::ApplyError, switch::SwitchError};

use std::{
    fmt,
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    time::Duration,
};

use prometheus::Registry;
use reeve_audit::{Wal, WalError};
use reeve_core::{Clock, UnixTime, model::Generation, network::Network};
use reeve_svid::{Credentials, CredentialsWatch};
use serde::Serialize;
use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;

use self::apply::Listeners;
pub(crate) use self::shared::Shared;
#[cfg(test)]
use crate::callers::Callers;
use crate::{
    access_log::AccessLog,
    break_glass,
    inherited::{Held, Inherited},
    ledger::{Ledger, lock},
    listener::Stop,
    metrics::Metrics,
    tap::{TapFilter, TapRefused, TapStream},
    worker::{WorkerSet, Workers},
};

/// What a proxy is made of.
pub struct ProxyDeps {
    /// Its certificate and the trust bundle, as they change.
    pub credentials: CredentialsWatch,
    /// Told which of them new connections use.
    pub installed: watch::Sender<Option<Arc<Credentials>>>,
    /// Its write-ahead log.
    pub wal: Arc<Wal>,
    /// Where its metrics are registered; the metrics port serves all of it.
    pub registry: Registry,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where access log lines go.
    pub access_log: Box<dyn Write + Send>,
    /// The ports that the proxy itself serves at the workload's address.
    pub mesh_ports: MeshPorts,
    /// What carries the traffic.
    pub workers: Workers,
    /// The network it is on, if not the operating system's.
    pub network: Option<Arc<dyn Network>>,
}

impl fmt::Debug for ProxyDeps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyDeps")
            .field("mesh_ports", &self.mesh_ports)
            .finish_non_exhaustive()
    }
}

/// Ports of the proxy's own, Istio's by default; 0 = any free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeshPorts {
    /// `/stats/prometheus`
    pub metrics: u16,
    /// `/healthz/ready`
    pub health: u16,
}

impl Default for MeshPorts {
    fn default() -> Self {
        Self {
            metrics: 15020,
            health: 15021,
        }
    }
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A metric of that name is registered already.
    #[error("the metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
    /// The write-ahead log has no place for a worker's records.
    #[error("the write-ahead log cannot be written")]
    Wal(#[from] WalError),
    /// A thread cannot be started.
    #[error("a thread cannot be started")]
    Thread(#[from] io::Error),
    /// Not within a tokio runtime.
    #[error("a proxy starts within a tokio runtime")]
    Runtime(#[from] tokio::runtime::TryCurrentError),
}

/// How a proxy stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProxyStatus {
    /// The generation in force.
    pub generation: Option<Generation>,
    /// The policy set in force.
    pub policy_hash: Option<String>,
    /// Whether it has configuration and credentials.
    pub ready: bool,
    /// Open streams and connections with a permit of their own.
    pub open: usize,
    /// When its certificate ends.
    pub certificate_not_after: Option<UnixTime>,
    /// Certificates held so far.
    pub credentials_epoch: u64,
}

/// A running proxy. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    workers: Arc<WorkerSet>,
    listeners: Arc<Mutex<Listeners>>,
    runtime: Handle,
    stop: Stop,
    registry: Registry,
    mesh_ports: MeshPorts,
}

impl Proxy {
    /// Starts a proxy; it listens to nothing until a snapshot is applied.
    pub fn start(deps: ProxyDeps) -> Result<Self, StartError> {
        let runtime = Handle::try_current()?;
        let metrics = Arc::new(Metrics::register(&deps.registry)?);
        let ledger = |number: u16| {
            let (wal, clock) = (deps.wal.clone(), deps.clock.clone());
            Ledger::new(wal, number, clock, metrics.clone())
        };
        let log = AccessLog::start(deps.access_log, metrics.clone())?;
        let shared = Arc::new(Shared::new(
            deps.network,
            ledger(0)?,
            metrics.clone(),
            deps.clock.clone(),
        ));
        let workers = Arc::new(WorkerSet::start(deps.workers, &shared, &log, ledger)?);
        runtime.spawn(house::follow_credentials(
            shared.clone(),
            workers.clone(),
            deps.credentials,
            deps.installed,
        ));
        let stop = Stop {
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
        };
        runtime.spawn(house::keep_house(
            shared.clone(),
            workers.clone(),
            stop.cut.clone(),
        ));
        let proxy = Self {
            shared,
            workers,
            listeners: Arc::default(),
            runtime: runtime.clone(),
            stop,
            registry: deps.registry,
            mesh_ports: deps.mesh_ports,
        };
        runtime.spawn(house::watch_files(proxy.clone()));
        runtime.spawn(house::watch_names(proxy.clone()));
        runtime.spawn(break_glass::watch(proxy.clone(), proxy.stop.cut.clone()));
        Ok(proxy)
    }

    /// What its connections and requests use.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Who holds how much of the application.
    #[cfg(test)]
    pub(crate) fn callers(&self) -> &Arc<Callers> {
        &self.shared.callers
    }

    /// Those who do the work.
    #[cfg(test)]
    pub(crate) fn workers(&self) -> &WorkerSet {
        &self.workers
    }

    /// Opens a live tap on the requests and connections that pass.
    pub fn tap(&self, filter: TapFilter) -> Result<TapStream, TapRefused> {
        self.shared.taps.open(filter)
    }

    /// How it stands.
    pub fn status(&self) -> ProxyStatus {
        let snapshot = self.shared.snapshot();
        let epoch = self.shared.epoch();
        ProxyStatus {
            generation: snapshot.as_ref().map(|s| s.generation()),
            policy_hash: snapshot.as_ref().map(|s| s.policy_hash().to_owned()),
            ready: self.shared.readiness().is_ok(),
            open: self.workers.iter().map(|worker| worker.open.len()).sum(),
            certificate_not_after: epoch.as_ref().map(|e| e.credentials.svid.not_after()),
            credentials_epoch: epoch.map_or(0, |e| e.number),
        }
    }

    /// Where its metrics are registered.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Where the proxy's own ports are: metrics and health. `None` before the first snapshot.
    pub fn own_addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        lock(&self.listeners)
            .own
            .as_ref()
            .map(|own| (own.metrics, own.health))
    }

    /// Serves the proxy's own ports at `address` from now on: until the first snapshot, they say what is missing.
    pub fn serve_own_ports(&self, address: IpAddr) -> Result<(), ApplyError> {
        let _runtime = self.runtime.enter();
        let mut listeners = lock(&self.listeners);
        if let Some(own) = self.own_ports(&listeners, address)? {
            listeners.own = Some(own);
        }
        Ok(())
    }

    /// Gives the proxy listening sockets of the process before it. The first snapshot takes those at its addresses;
    /// the others are closed.
    pub fn inherit(&self, sockets: Vec<OwnedFd>) -> io::Result<()> {
        lock(&self.listeners).inherited = Inherited::new(sockets)?;
        Ok(())
    }

    /// Every socket that the proxy listens on, its own ports' too, for the process after it.
    pub fn listening_sockets(&self) -> io::Result<Vec<OwnedFd>> {
        let listeners = lock(&self.listeners);
        let own = listeners.own.iter().flat_map(|own| &own.held);
        let traffic = listeners.traffic.values().map(|(_, held)| held);
        traffic.chain(own).map(Held::try_clone).collect()
    }

    /// Says on the health port that the proxy is about to go, and goes on serving: time for those who choose where to
    /// send requests to hear of it.
    pub fn leave(&self) {
        self.shared.leaving.cancel();
    }

    /// Closes the proxy's own ports and stops accepting: another process serves these sockets now. To be followed by
    /// [`Proxy::drain`].
    pub fn hand_over(&self) {
        if let Some(own) = lock(&self.listeners).own.take() {
            own.stop.cancel();
        }
        self.stop_accepting();
    }

    fn stop_accepting(&self) {
        self.stop.drain.cancel();
        lock(&self.listeners).traffic.clear();
    }

    /// Stops accepting, lets what is in flight finish until `deadline` has passed, then cuts the rest.
    pub async fn drain(&self, deadline: Duration) {
        self.leave();
        self.stop_accepting();
        self.shared.tasks.close();
        if tokio::time::timeout(deadline, self.shared.tasks.wait())
            .await
            .is_err()
        {
            for worker in self.workers.iter() {
                worker.open.end_all();
            }
        }
        self.stop.cut.cancel();
        self.shared.break_glass.leave(&*self.shared);
        self.shared.strangers.flush(&self.shared.ledger);
        for worker in self.workers.iter() {
            worker.flush();
        }
        let shared = self.shared.clone();
        let flushed = tokio::task::spawn_blocking(move || shared.spans.flush()).await;
        if let Err(error) = flushed {
            tracing::debug!(%error, "the last spans were not exported");
        }
    }
}
