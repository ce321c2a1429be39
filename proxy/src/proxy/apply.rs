//! Switching snapshots: what is new is bound, what is gone is dropped, and what is open is judged again.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, MutexGuard},
};

use reeve_core::model::ProxyConfig;
use reeve_svid::TlsError;
use tokio_util::sync::CancellationToken;

use super::Proxy;
use crate::{
    admin, dns,
    inherited::{Held, Inherited},
    ledger::lock,
    limits::DNS_WARM_UP,
    listener::{self, Stop},
    net::Bound,
    snapshot::{Snapshot, SnapshotError, Surroundings},
};

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

#[derive(Debug, Default)]
pub(super) struct Listeners {
    /// Bound address → what stops it, and the socket.
    pub(super) traffic: HashMap<SocketAddr, (CancellationToken, Held)>,
    /// Listeners begun so far.
    count: usize,
    pub(super) own: Option<OwnPorts>,
    /// Sockets of the process before this one that no snapshot has asked for yet.
    pub(super) inherited: Inherited,
}

#[derive(Debug)]
pub(super) struct OwnPorts {
    at: IpAddr,
    pub(super) metrics: SocketAddr,
    pub(super) health: SocketAddr,
    pub(super) stop: CancellationToken,
    pub(super) held: [Held; 2],
}

impl Proxy {
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

    pub(super) fn surroundings(&self) -> Surroundings {
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

    pub(super) fn put_in_force(
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

        let snapshot = Arc::new(snapshot);
        self.swap(&snapshot);
        listeners.traffic.retain(|address, (stop, _)| {
            let kept = wanted.contains(address);
            if !kept {
                stop.cancel();
            }
            kept
        });
        for (address, listener) in new {
            self.listen(&mut listeners, address, listener);
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

    /// The point from which on connections and requests take `snapshot`.
    fn swap(&self, snapshot: &Arc<Snapshot>) {
        let (shared, workload) = (&self.shared, snapshot.workload());
        shared.spans.configure(workload);
        shared.callers.configure(workload.caller_shares);
        shared.taps.allow(workload.telemetry.tap);
        shared.loads.count_on(&snapshot.clusters);
        shared.states.count_on(&snapshot.clusters);
        let before = shared.snapshot.swap(Some(snapshot.clone()));
        shared.retired.extend(before);
        shared
            .break_glass
            .withdraw(&workload.break_glass, &**shared);
        shared.metrics.generation(snapshot.generation().0);
    }

    /// Accepts on a socket bound at `address`.
    fn listen(&self, listeners: &mut Listeners, address: SocketAddr, bound: (Bound, Held)) {
        let (listener, held) = bound;
        let drain = self.stop.drain.child_token();
        listeners.traffic.insert(address, (drain.clone(), held));
        let stop = Stop {
            drain,
            cut: self.stop.cut.clone(),
        };
        let Some(worker) = self.workers.of_listener(listeners.count) else {
            return;
        };
        listeners.count = listeners.count.wrapping_add(1);
        let (here, workers) = (worker.clone(), self.workers.clone());
        let accepting = listener::run(here, workers, address, listener, stop);
        self.shared.tasks.spawn_on(accepting, worker.runtime());
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

    pub(super) fn own_ports(
        &self,
        listeners: &Listeners,
        at: IpAddr,
    ) -> Result<Option<OwnPorts>, ApplyError> {
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
}
