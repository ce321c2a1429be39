//! The proxy as its owner holds it: started once, given snapshots, drained at the end.

mod switch;

pub use self::switch::SwitchError;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use prometheus::Registry;
use reeve_audit::{Wal, WalError};
use reeve_core::{
    Clock, UnixTime,
    model::{Generation, ProxyConfig},
    network::Network,
};
use reeve_svid::{CredentialsWatch, TlsError};
use serde::Serialize;
use tokio::{runtime::Handle, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    accepting::Warnings,
    access_log::{AccessLog, LogFormat},
    admin,
    admission::InFlight,
    break_glass::{self, Grants},
    breaker::States,
    busy::Loads,
    callers::Callers,
    cluster::{Cluster, Hop},
    credentials::{Epoch, Epochs},
    dns::{self, Names},
    elsewhere::Elsewhere,
    inherited::{Held, Inherited},
    ledger::{Ledger, lock},
    limits::{AGGREGATE_INTERVAL, DNS_TICK, DNS_WARM_UP, EXPIRY_TICK, OUTLIER_TICK, PEM_FILE_POLL},
    listener::{self, Stop},
    metrics::Metrics,
    mirror::Mirrors,
    net::{Bound, Net},
    outlier::Cause,
    retired::Retired,
    snapshot::{Snapshot, SnapshotError, Surroundings},
    spans::Spans,
    strangers::Strangers,
    tap::{TapFilter, TapRefused, TapStream, Taps},
    transform::Room,
    worker::{WorkerSet, Workers},
};

/// What a proxy is made of.
pub struct ProxyDeps {
    /// Its certificate and the trust bundle, as they change.
    pub credentials: CredentialsWatch,
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

/// Why a snapshot is not applied; the one before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The key exchanges cannot be used.
    #[error("mTLS cannot be set up")]
    Tls(#[from] TlsError),
    /// It does not compile together with what is in force by break-glass.
    #[error("it cannot be used beside the break-glass grants in force")]
    BreakGlass(#[source] Box<SnapshotError>),
    /// The proxy is being drained.
    #[error("the proxy is shutting down")]
    Draining,
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

#[derive(Debug, Default)]
struct Listeners {
    /// Bound address → what stops it, and the socket.
    traffic: HashMap<SocketAddr, (CancellationToken, Held)>,
    /// Listeners begun so far.
    count: usize,
    own: Option<OwnPorts>,
    /// Sockets of the process before this one that no snapshot has asked for yet.
    inherited: Inherited,
}

#[derive(Debug)]
struct OwnPorts {
    at: IpAddr,
    metrics: SocketAddr,
    health: SocketAddr,
    stop: CancellationToken,
    held: [Held; 2],
}

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
    made: Epochs,
    loads: Loads,
    names: Names,
    /// What is not in the mesh and no service stands for.
    pub(crate) elsewhere: Elsewhere,
    states: States,
    epoch: ArcSwapOption<Epoch>,
    /// Cancelled when the proxy is about to go: it says so, and takes requests until it drains.
    pub(crate) leaving: CancellationToken,
    pub(crate) in_flight: InFlight,
    pub(crate) callers: Arc<Callers>,
    pub(crate) mirrors: Arc<Mirrors>,
    /// What bodies that are held to be transformed take.
    pub(crate) transform_room: Arc<Room>,
    /// When the listeners last warned that they cannot accept.
    pub(crate) accept_warnings: Arc<Warnings>,
    snapshot: ArcSwapOption<Snapshot>,
    retired: Retired,
}

impl Shared {
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
    fn switch(&self, epoch: Arc<Epoch>, workers: &WorkerSet) {
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
    fn look_after_outliers(&self) {
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
        let made = Epochs::new(deps.clock.clone());
        let shared = Arc::new(Shared {
            net: deps.network.into(),
            ledger: ledger(0)?,
            metrics: metrics.clone(),
            spans: Spans::default(),
            taps: Arc::default(),
            break_glass: Grants::default(),
            strangers: Strangers::new(deps.clock.clone()),
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
            clock: deps.clock.clone(),
        });
        let workers = Arc::new(WorkerSet::start(deps.workers, &shared, &log, ledger)?);
        runtime.spawn(follow_credentials(
            shared.clone(),
            workers.clone(),
            deps.credentials,
        ));
        let stop = Stop {
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
        };
        runtime.spawn(keep_house(
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
        runtime.spawn(watch_files(proxy.clone()));
        runtime.spawn(watch_names(proxy.clone()));
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

    /// Compiles a configuration for [`Self::apply`], keeping what the one in force has already compiled of it.
    pub fn compile(&self, config: Arc<ProxyConfig>) -> Result<Snapshot, SnapshotError> {
        let before = self.shared.snapshot();
        Snapshot::compile_after(config, before.as_deref(), &self.surroundings())
    }

    /// Puts `snapshot` in force as a whole: binds what is new, drops what is gone, judges open streams again.
    /// When an address cannot be bound, nothing changes.
    pub fn apply(&self, snapshot: Snapshot) -> Result<(), ApplyError> {
        if self.stop.drain.is_cancelled() {
            return Err(ApplyError::Draining);
        }
        self.put_in_force(lock(&self.listeners), snapshot)
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings {
            clock: self.shared.clock.clone(),
            answers: self.shared.names.answers(),
            break_glass: self.shared.break_glass.policies(),
        }
    }

    /// Looks up the names that `config` is the first to have, so that they are there when it is applied; gives up
    /// after a while, and goes on looking once it is in force.
    pub async fn warm_up(&self, config: &ProxyConfig) {
        let mut wanted = dns::wanted(config);
        if wanted.is_empty() {
            return;
        }
        // What is in force is not forgotten yet.
        let held = self.shared.snapshot();
        wanted.extend(held.iter().flat_map(|held| held.names.clone()));
        let servers = &config.workload.name_servers;
        let looking = self.shared.names.look_up(&wanted, servers);
        if tokio::time::timeout(DNS_WARM_UP, looking).await.is_err() {
            tracing::warn!("not every name could be looked up in time");
        }
    }

    fn put_in_force(
        &self,
        mut listeners: MutexGuard<'_, Listeners>,
        snapshot: Snapshot,
    ) -> Result<(), ApplyError> {
        let _runtime = self.runtime.enter();
        let snapshot = self.with_break_glass(snapshot)?;
        let wanted = snapshot.binds();
        let mut new = Vec::new();
        for address in wanted.iter().filter(|a| !listeners.traffic.contains_key(a)) {
            let capture = snapshot.workload().capture.as_ref();
            let net = &self.shared.net;
            let bound = listeners.inherited.bind_for(net, *address, capture)?;
            new.extend(bound.map(|listener| (*address, listener)));
        }
        let own = self.own_ports(&listeners, snapshot.workload().address)?;
        listeners.inherited = Inherited::default();

        let curves = &snapshot.workload().ecdh_curves;
        // Before the snapshot is in force, so that none of its connections is made by other key exchanges.
        if let Some(epoch) = self.shared.made.exchange_by(curves)? {
            self.shared.switch(epoch, &self.workers);
        }

        let (generation, snapshot) = (snapshot.generation(), Arc::new(snapshot));
        self.shared.spans.configure(snapshot.workload());
        self.shared
            .callers
            .configure(snapshot.workload().caller_shares);
        self.shared.taps.allow(snapshot.workload().telemetry.tap);
        self.shared.loads.count_on(&snapshot.clusters);
        self.shared.states.count_on(&snapshot.clusters);
        let before = self.shared.snapshot.swap(Some(snapshot.clone()));
        self.shared.retired.extend(before);
        let trust = &snapshot.workload().break_glass;
        self.shared.break_glass.withdraw(trust, &self.shared);
        self.shared.metrics.generation(generation.0);
        listeners.traffic.retain(|address, (stop, _)| {
            let kept = wanted.contains(address);
            if !kept {
                stop.cancel();
            }
            kept
        });
        for (address, (listener, held)) in new {
            let drain = self.stop.drain.child_token();
            listeners.traffic.insert(address, (drain.clone(), held));
            let stop = Stop {
                drain,
                cut: self.stop.cut.clone(),
            };
            let Some(worker) = self.workers.of_listener(listeners.count) else {
                continue;
            };
            listeners.count = listeners.count.wrapping_add(1);
            let (here, workers) = (worker.clone(), self.workers.clone());
            let accepting = listener::run(here, workers, address, listener, stop);
            self.shared.tasks.spawn_on(accepting, worker.runtime());
        }
        if let Some(own) = own
            && let Some(old) = listeners.own.replace(own)
        {
            old.stop.cancel();
        }
        drop(listeners);
        self.after_change(&snapshot);
        Ok(())
    }

    fn after_change(&self, snapshot: &Snapshot) {
        let apps = snapshot.inbound.values().map(|i| i.listener.app);
        let hops = snapshot.clusters.hops().map(|hop| hop.address);
        let known: HashSet<SocketAddr> = apps.chain(hops).collect();
        for worker in self.workers.iter() {
            let (ledger, metrics) = (&worker.ledger, &self.shared.metrics);
            worker.open.judge_again(snapshot, ledger, metrics);
            worker
                .pools
                .forget_unless(|address| known.contains(&address));
        }
    }

    fn own_ports(&self, listeners: &Listeners, at: IpAddr) -> Result<Option<OwnPorts>, ApplyError> {
        if listeners.own.as_ref().is_some_and(|own| own.at == at) {
            return Ok(None);
        }
        let metrics = SocketAddr::new(at, self.mesh_ports.metrics);
        let health = SocketAddr::new(at, self.mesh_ports.health);
        let (inherited, net) = (&listeners.inherited, &self.shared.net);
        let (metrics_listener, metrics_held) = inherited.bind(net, metrics, listener::bind)?;
        let (health_listener, health_held) = inherited.bind(net, health, listener::bind)?;
        let bound = |listener: &Bound, address| listener.local_addr().unwrap_or(address);
        let own = OwnPorts {
            at,
            metrics: bound(&metrics_listener, metrics),
            health: bound(&health_listener, health),
            stop: self.stop.cut.child_token(),
            held: [metrics_held, health_held],
        };
        for listener in [metrics_listener, health_listener] {
            let listener = listener.open().map_err(|source| ApplyError::Bind {
                address: metrics,
                source,
            })?;
            let admin = admin::run(
                self.shared.clone(),
                self.registry.clone(),
                listener,
                own.stop.clone(),
            );
            self.runtime.spawn(admin);
        }
        Ok(Some(own))
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
        self.shared.break_glass.leave(&self.shared);
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

/// Makes an epoch of every new version of the credentials.
async fn follow_credentials(
    shared: Arc<Shared>,
    workers: Arc<WorkerSet>,
    mut credentials: CredentialsWatch,
) {
    loop {
        let held = credentials.borrow_and_update().clone();
        if let Some(held) = held {
            let not_after = held.svid.not_after().as_secs();
            match shared.made.hold(held) {
                Ok((epoch, certificates)) => {
                    shared.switch(epoch, &workers);
                    shared.metrics.certificate(certificates, not_after);
                }
                Err(error) => {
                    tracing::error!(%error, "new credentials cannot be used; the old ones stay");
                }
            }
        }
        if credentials.changed().await.is_err() {
            // The agent is gone; what is held is used until it ends.
            return;
        }
    }
}

/// Takes up certificates and keys in files when they change.
async fn watch_files(proxy: Proxy) {
    let mut look = tokio::time::interval(PEM_FILE_POLL);
    let stop = proxy.stop.cut.clone();
    while stop.run_until_cancelled(look.tick()).await.is_some() {
        let Some(snapshot) = proxy.shared.snapshot() else {
            continue;
        };
        if snapshot.files.is_empty() {
            continue;
        }
        let refreshed = proxy.clone();
        let looking = tokio::task::spawn_blocking(move || {
            if snapshot.files.have_changed() {
                refreshed.refresh();
            }
        });
        if let Err(error) = looking.await {
            tracing::error!(%error, "files of certificates could not be looked at");
        }
    }
}

/// Looks up names when their answers are over.
async fn watch_names(proxy: Proxy) {
    let mut look = tokio::time::interval(DNS_TICK);
    let stop = proxy.stop.cut.clone();
    while stop.run_until_cancelled(look.tick()).await.is_some() {
        let Some(snapshot) = proxy.shared.snapshot() else {
            continue;
        };
        if snapshot.names.is_empty() {
            continue;
        }
        let servers = &snapshot.workload().name_servers;
        if proxy.shared.names.look_up(&snapshot.names, servers).await {
            let refreshed = proxy.clone();
            let refreshing = tokio::task::spawn_blocking(move || refreshed.refresh());
            if let Err(error) = refreshing.await {
                tracing::error!(%error, "new addresses could not be taken up");
            }
        }
    }
}

/// Asks about open streams again when a policy has lapsed since then (`@until`); the time of now.
fn judge_lapsed(shared: &Shared, workers: &WorkerSet, since: UnixTime) -> UnixTime {
    let now = shared.ledger.now();
    let snapshot = shared.snapshot();
    if let Some(snapshot) = snapshot.filter(|held| held.engine.lapses_between(since, now)) {
        for worker in workers.iter() {
            worker
                .open
                .judge_again(&snapshot, &worker.ledger, &shared.metrics);
        }
    }
    now
}

/// What happens by the clock: tokens end, policies lapse, refusals of strangers are written down, the log's room is exported.
async fn keep_house(shared: Arc<Shared>, workers: Arc<WorkerSet>, stop: CancellationToken) {
    let mut tokens = tokio::time::interval(EXPIRY_TICK);
    let mut strangers = tokio::time::interval(AGGREGATE_INTERVAL);
    let mut outliers = tokio::time::interval(OUTLIER_TICK);
    let mut judged = shared.ledger.now();
    loop {
        // Cancel-safe: intervals keep their place.
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tokens.tick() => {
                for worker in workers.iter() {
                    worker.open.expire(&worker.ledger, &shared.metrics);
                }
                judged = judge_lapsed(&shared, &workers, judged);
                shared.retired.release();
            }
            _ = outliers.tick() => shared.look_after_outliers(),
            _ = strangers.tick() => {
                shared.strangers.flush(&shared.ledger);
                shared.metrics.wal_status(&shared.ledger.status());
            }
        }
    }
}
