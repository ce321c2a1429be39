//! The proxy, and how configurations reach it.

use std::{
    io::{self, stdout},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use reeve_audit::Wal;
use reeve_core::{
    Clock, InstanceName, SpiffeId, error_chain,
    model::{OpenCircuit, ProxyConfig},
};
use reeve_proxy::{
    BreakGlassAsked, BreakGlassGrant, BreakGlassRefused, MeshPorts, Proxy, ProxyDeps, ProxyStatus,
    TapFilter, TapRefused, TapStream, Workers,
};
use reeve_svid::{Credentials, CredentialsWatch};
use tokio::{
    sync::{Mutex, MutexGuard, watch},
    task::spawn_blocking,
};

use crate::{SidecarArgs, admin::break_glass::BreakGlassPlace, sockets::Door};

/// The proxy of one instance.
#[derive(Clone, Debug)]
pub(crate) struct DataPlane {
    instance: InstanceName,
    identity: SpiffeId,
    proxy: Proxy,
    /// The configuration in force.
    config: Arc<watch::Sender<Option<Arc<ProxyConfig>>>>,
    /// Held while a configuration is applied, and while sockets change hands.
    applying: Arc<Mutex<()>>,
    door: Door,
}

impl DataPlane {
    /// Starts the proxy; until the first configuration it listens nowhere.
    pub(crate) fn start(
        args: &SidecarArgs,
        (credentials, installed): (&CredentialsWatch, watch::Sender<Option<Arc<Credentials>>>),
        wal: &Arc<Wal>,
        registry: &prometheus::Registry,
        clock: &Arc<dyn Clock>,
        door: Door,
    ) -> anyhow::Result<Self> {
        let proxy = Proxy::start(ProxyDeps {
            credentials: credentials.clone(),
            installed,
            wal: Arc::clone(wal),
            registry: registry.clone(),
            clock: Arc::clone(clock),
            access_log: Box::new(stdout()),
            mesh_ports: MeshPorts::default(),
            network: None,
            workers: Workers::Threads(args.workers),
        })
        .context("the proxy cannot start")?;
        if let (Some(address), false) = (args.address, args.take_over) {
            let own = proxy.serve_own_ports(address);
            own.context("the health and metrics ports cannot be served")?;
        }
        Ok(Self {
            instance: args.instance.clone(),
            identity: args.identity.clone(),
            proxy,
            config: Arc::new(watch::Sender::new(None)),
            applying: Arc::default(),
            door,
        })
    }

    /// The configuration in force.
    pub(crate) fn config(&self) -> watch::Receiver<Option<Arc<ProxyConfig>>> {
        self.config.subscribe()
    }

    /// Switches to a configuration; an error leaves the one before in force.
    pub(crate) async fn apply(self, config: Arc<ProxyConfig>) -> Result<(), String> {
        self.check(&config)?;
        let _applying = self.applying.lock().await;
        let predecessor = self.door.enter(&self.proxy).await?;
        let generation = config.generation;
        self.proxy.warm_up(&config).await;
        let (proxy, new) = (self.proxy.clone(), Arc::clone(&config));
        // Compiling policies can take long enough to hold up requests on this thread.
        let switched = spawn_blocking(move || {
            let snapshot = proxy.compile(new).map_err(|e| error_chain(&e))?;
            proxy.apply(snapshot).map_err(|e| error_chain(&e))
        });
        switched.await.map_err(|e| e.to_string())??;
        self.config.send_replace(Some(config));
        self.door.open(predecessor).await;
        tracing::info!(%generation, "a configuration is in force");
        Ok(())
    }

    /// Opens a live tap.
    pub(crate) fn tap(&self, filter: TapFilter) -> Result<TapStream, TapRefused> {
        self.proxy.tap(filter)
    }

    /// The circuits that the proxy holds open.
    pub(crate) fn open_circuits(&self) -> Vec<OpenCircuit> {
        self.proxy.open_circuits()
    }

    /// Tells the proxy what others hold open.
    pub(crate) fn heed_circuits(&self, others: &[OpenCircuit]) {
        self.proxy.heed_circuits(others);
    }

    /// The token rules whose issuers have keys that the proxy lacks, as it seems.
    pub(crate) fn take_lacking_keys(&self) -> Vec<String> {
        self.proxy.take_lacking_keys()
    }

    /// How the proxy stands.
    pub(crate) fn status(&self) -> ProxyStatus {
        self.proxy.status()
    }

    /// Keeps configurations back while it is held, so that the list of sockets stays as it is.
    pub(crate) async fn hold(&self) -> MutexGuard<'_, ()> {
        self.applying.lock().await
    }

    /// The sockets it listens on.
    pub(crate) fn listening_sockets(&self) -> io::Result<Vec<OwnedFd>> {
        self.proxy.listening_sockets()
    }

    /// Says on the health port that it is about to go.
    pub(crate) fn leave(&self) {
        self.proxy.leave();
    }

    /// Leaves its sockets to another process.
    pub(crate) fn hand_over(&self) {
        self.proxy.hand_over();
    }

    /// Lets connections finish until the deadline.
    pub(crate) async fn drain(&self, limit: Duration) {
        self.proxy.drain(limit).await;
    }

    /// SECURITY: another workload's configuration would judge with another resource.
    fn check(&self, config: &ProxyConfig) -> Result<(), String> {
        let workload = &config.workload;
        if workload.instance == self.instance && workload.identity == self.identity {
            return Ok(());
        }
        Err(format!(
            "this is {} with identity {}, and the configuration is that of {} with identity {}",
            self.instance, self.identity, workload.instance, workload.identity
        ))
    }
}

impl BreakGlassPlace for DataPlane {
    fn begin(
        &self,
        grant: &[u8],
        asked: &BreakGlassAsked,
    ) -> Result<BreakGlassGrant, BreakGlassRefused> {
        self.proxy.begin_break_glass(grant, asked)
    }

    fn end(&self, id: &str, by: &[(&'static str, String)]) -> Result<(), BreakGlassRefused> {
        self.proxy.end_break_glass(id, by)
    }

    fn in_force(&self) -> Vec<BreakGlassGrant> {
        self.proxy.break_glass()
    }
}
