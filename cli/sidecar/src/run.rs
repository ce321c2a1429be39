//! The sidecar put together.

use std::{pin::pin, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use axum::Router;
use reeve_ads::{AdsClient, CircuitClient, KeyClient};
use reeve_audit::{
    EventKind, EventRecord, Level, MAX_WORKERS, ShipOptions, Wal, WalError, WalOptions, ship,
    ship::{ChannelFactory, Target, Targets, in_order},
};
use reeve_ca::{AgentHandle, IdentitySource, OneIdentity};
use reeve_core::{Clock, SystemClock, error_chain, model::ProxyConfig};
use reeve_svid::CredentialsWatch;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Mutex, Notify, watch},
    task::JoinHandle,
};

use crate::{
    AuditLevel, SidecarArgs, SvidSigner,
    admin::{
        self, Admin,
        break_glass::{self, BreakGlassDoor},
        inspect::{self, Inspect},
        tap::{self, TapDoor},
    },
    agent::{self, AgentEvents},
    connect::MeshConnector,
    data_plane::DataPlane,
    handover::{HandOverError, Listener, Place, Successor},
    hardening,
    logging::{self, LogFilter},
    process_metrics, renewal_metrics,
    sockets::{self, Door, UnixSockets},
    whois::WhoIs,
};

/// Wait after a hand-over that failed, before the next one is heard.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// The process to take over from may itself have taken over a moment ago, and not have noticed yet that it is alone in
/// the write-ahead log. So often it is tried again …
const IN_USE_TRIES: u32 = 60;
/// … after this time.
const IN_USE_WAIT: Duration = Duration::from_millis(50);
/// How long the last records may take to reach the log at the end; the rest is shipped after the next start.
const LAST_RECORDS: Duration = Duration::from_millis(500);

/// Runs a sidecar until it is told to stop (SIGTERM, SIGINT or `POST /drain`), or another process takes its sockets
/// over, and it has drained.
///
/// Nothing here needs the mesh process to be alive: certificate, configuration and audit log each wait and try again
/// on their own, and the data plane goes on with what it has.
pub async fn run(args: SidecarArgs) -> anyhow::Result<()> {
    let log = logging::start();
    hardening::forbid_core_dumps()?;
    hardening::raise_open_files();
    if args.supervisor_socket.is_some() {
        hardening::end_with_parent()?;
    }
    let stop = Arc::new(Notify::new());
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let sidecar = Sidecar::start(&args, log, Arc::clone(&stop))?;
    tracing::info!(instance = %args.instance, identity = %args.identity, "the sidecar runs");
    // Cancel-safe: whichever comes first, the sidecar ends. A hand-over that is broken off is the other one's to notice.
    let ending = tokio::select! {
        _ = terminate.recv() => Ending::Told,
        _ = interrupt.recv() => Ending::Told,
        () = stop.notified() => Ending::Told,
        () = sidecar.handed_over() => Ending::HandedOver,
        error = sidecar.hopeless() => return Err(error),
    };
    tracing::info!(instance = %args.instance, ?ending, "the sidecar drains");
    let seconds = Duration::from_secs;
    let mut end = pin!(async {
        match ending {
            Ending::Told => {
                sidecar.leave(seconds(args.drain_delay)).await;
                sidecar.stop(seconds(args.drain_deadline)).await;
            }
            Ending::HandedOver => sidecar.stop(seconds(args.handover_deadline)).await,
        }
    });
    // Cancel-safe: signals are, and the end is polled on.
    tokio::select! {
        () = end.as_mut() => return Ok(()),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    if ending == Ending::HandedOver {
        // The first signal: the rest has as long as if it had been told to stop.
        drop(tokio::time::timeout(seconds(args.drain_deadline), end).await);
    }
    Ok(())
}

/// Why a sidecar ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Told,
    HandedOver,
}

/// A running sidecar; dropped, it stops at once.
#[derive(Debug)]
pub struct Sidecar {
    data_plane: DataPlane,
    events: Arc<AgentEvents>,
    wal: Arc<Wal>,
    door: Door,
    place: Option<Place>,
    credentials: CredentialsWatch,
    /// The agent stops when the last handle is dropped; there may be no admin interface to hold one.
    agent: Arc<AgentHandle>,
    feed: JoinHandle<()>,
    shipping: JoinHandle<()>,
    /// What serves the Unix sockets.
    serving: Vec<JoinHandle<()>>,
    hopeless: Mutex<JoinHandle<anyhow::Error>>,
}

impl Sidecar {
    /// Opens and starts everything; `stop` is notified when the admin interface is asked to drain.
    pub fn start(args: &SidecarArgs, log: LogFilter, stop: Arc<Notify>) -> anyhow::Result<Self> {
        check(args)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let door = Door::new(args)?;
        let wal = Arc::new(open_wal(args, &clock)?);
        let events = Arc::new(AgentEvents::new(Arc::clone(&wal)));
        let registry = prometheus::Registry::new();
        process_metrics::register(&registry, "proxy")?;
        let agent = agent::start(args, &clock)?;
        let credentials = agent.credentials;
        let handle = Arc::new(agent.handle);
        renewal_metrics::register(&registry, handle.watch_status(), Arc::clone(&clock))?;
        let own = (&credentials, agent.installed);
        let data_plane = DataPlane::start(args, own, &wal, &registry, &clock, door.clone())?;
        let connector = MeshConnector::new(
            args.mesh_address.clone(),
            args.mesh_identity()?,
            credentials.clone(),
            Arc::clone(&clock),
        );
        let feed = AdsClient::new(feed_channels(&connector), args.instance.clone());
        let circuits = CircuitClient::new(feed_channels(&connector), args.instance.clone());
        let circuits = sharing(circuits, credentials.clone(), data_plane.clone());
        let keys = KeyClient::new(feed_channels(&connector), args.instance.clone());
        let keys = wanting(keys, credentials.clone(), data_plane.clone());
        let admin = Admin {
            instance: args.instance.clone(),
            identity: args.identity.clone(),
            agent: Arc::clone(&handle),
            feed: feed.status(),
            data_plane: data_plane.clone(),
            wal: Arc::clone(&wal),
            registry,
            stop,
        };
        events.record(started(&wal, args)?);
        let feed = tokio::spawn(feeding(feed, credentials.clone(), data_plane.clone()));
        let targets = targets(args, &connector, data_plane.config())?;
        let signer = Arc::new(SvidSigner::new(credentials.clone()));
        let shipping = ship(Arc::clone(&wal), targets, signer, ShipOptions::default());
        let shipping = tokio::spawn(shipping);
        let inspect = Inspect::new(args, credentials.clone(), log);
        let routes = admin::routes(admin).merge(inspect::routes(inspect));
        let routes = routes.merge(operators(args, &data_plane, &wal));
        let identity = OneIdentity::new(agent.jwt, agent::attestor(args));
        let identities: Identities = (Arc::new(identity), Arc::clone(&events), clock);
        let serving = vec![
            tokio::spawn(circuits),
            tokio::spawn(keys),
            tokio::spawn(serve_admin(door.clone(), routes)),
            tokio::spawn(serve_agent(door.clone(), identities)),
        ];
        let hopeless = tokio::spawn(agent::foreign_mesh(agent.issuer, args.clone()));
        Ok(Self {
            data_plane,
            events,
            wal,
            door,
            place: sockets::place(args),
            credentials,
            agent: handle,
            feed,
            shipping,
            serving,
            hopeless: Mutex::new(hopeless),
        })
    }

    /// The credentials as they change.
    pub fn credentials(&self) -> CredentialsWatch {
        self.credentials.clone()
    }

    /// Ends only if there is no sense in going on, with what is wrong.
    pub async fn hopeless(&self) -> anyhow::Error {
        match (&mut *self.hopeless.lock().await).await {
            Ok(error) => error,
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until another process serves the sockets of this one, which then accepts nothing any more. A process that
    /// fails to take them over changes nothing.
    pub async fn handed_over(&self) {
        let sockets = self.door.sockets().await;
        let (Some(place), Some(listener)) = (&self.place, &sockets.handover) else {
            return std::future::pending().await;
        };
        let successor = loop {
            match self.succession(place, listener, &sockets).await {
                Ok(successor) => break successor,
                Err(error) => {
                    tracing::warn!(
                        error = error_chain(&error),
                        "no hand-over: this process goes on"
                    );
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        };
        self.data_plane.hand_over();
        for task in &self.serving {
            task.abort();
        }
        self.door.close();
        successor.draining().await;
    }

    async fn succession(
        &self,
        place: &Place,
        listener: &Listener,
        sockets: &UnixSockets,
    ) -> Result<Successor, HandOverError> {
        let successor = place.successor(listener).await?;
        let _held = self.data_plane.hold().await;
        let sockets = sockets.share(self.data_plane.listening_sockets()?)?;
        successor.hand_over(&sockets).await?;
        Ok(successor)
    }

    /// Says that it is about to go, and goes on serving for that long.
    pub async fn leave(&self, delay: Duration) {
        self.data_plane.leave();
        tokio::time::sleep(delay).await;
    }

    /// Lets connections finish until the deadline, and the last records reach the log.
    pub async fn stop(self, limit: Duration) {
        // A proxy that drains takes no configuration any more, and refuses none either.
        self.feed.abort();
        self.data_plane.drain(limit).await;
        self.agent.leave().await;
        self.events.record(EventRecord::new(EventKind::Stopped));
        let shipped = async {
            while self.wal.status().backlog > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(LAST_RECORDS, shipped).await.is_err() {
            tracing::info!("records wait in the write-ahead log for the next start");
        }
        let (wal, signer) = (
            Arc::clone(&self.wal),
            SvidSigner::new(self.credentials.clone()),
        );
        if let Err(panic) = tokio::task::spawn_blocking(move || wal.mark_end(&signer)).await {
            tracing::error!(%panic, "the end of the write-ahead log is not marked");
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        for task in &self.serving {
            task.abort();
        }
        self.shipping.abort();
        self.feed.abort();
        self.hopeless.get_mut().abort();
    }
}

/// What cannot be right is said before anything is opened.
fn check(args: &SidecarArgs) -> anyhow::Result<()> {
    let domain = args.trust_domain.as_str();
    ensure!(
        args.identity.is_member_of(&args.trust_domain),
        "the identity {} is of trust domain {}, but this mesh's is {domain}; give --identity and --trust-domain of the same mesh",
        args.identity,
        args.identity.trust_domain().as_str(),
    );
    ensure!(
        args.workers.get() < MAX_WORKERS,
        "--workers {} is more than the {} that the write-ahead log has places for",
        args.workers,
        MAX_WORKERS - 1,
    );
    let mesh = args.mesh_identity()?;
    ensure!(
        mesh.is_member_of(&args.trust_domain),
        "the mesh's identity {mesh} is not of trust domain {domain}; give the --mesh-identity of this mesh",
    );
    Ok(())
}

async fn serve_admin(door: Door, routes: Router) {
    let sockets = door.sockets().await;
    match sockets.admin.as_ref().map(sockets::clone).transpose() {
        Ok(Some(listener)) => admin::serve(listener, routes).await,
        Ok(None) => {}
        Err(error) => tracing::error!(%error, "the admin socket cannot be served"),
    }
}

/// What the agent's socket is served with.
type Identities = (Arc<dyn IdentitySource>, Arc<AgentEvents>, Arc<dyn Clock>);

async fn serve_agent(door: Door, (identity, events, clock): Identities) {
    let sockets = door.sockets().await;
    match sockets.agent.as_ref().map(sockets::clone).transpose() {
        Ok(Some(listener)) => agent::serve(listener, identity, events, clock).await,
        Ok(None) => {}
        Err(error) => tracing::error!(%error, "the agent's socket cannot be served"),
    }
}

/// What a process says of itself at first.
fn started(wal: &Wal, args: &SidecarArgs) -> anyhow::Result<EventRecord> {
    let event = EventRecord::new(EventKind::Started).with("version", env!("CARGO_PKG_VERSION"));
    Ok(if args.take_over {
        event.with("after", wal.predecessors()?)
    } else {
        event
    })
}

fn open_wal(args: &SidecarArgs, clock: &Arc<dyn Clock>) -> anyhow::Result<Wal> {
    let defaults = WalOptions::default();
    let options = WalOptions {
        level: match args.audit_level {
            AuditLevel::Buffered => Level::Buffered,
            AuditLevel::Os => Level::Os,
            AuditLevel::Disk => Level::Disk,
        },
        max_bytes: args.wal_max_bytes,
        segment_bytes: defaults.segment_bytes.min(args.wal_max_bytes / 4),
        first_epoch: clock.now().as_millis(),
    };
    let dir = &args.wal_dir;
    let open = if args.take_over {
        Wal::open_beside
    } else {
        Wal::open
    };
    let mut tries = IN_USE_TRIES;
    loop {
        let opened = open(
            dir,
            args.instance.clone(),
            options.clone(),
            Arc::clone(clock),
        );
        match opened {
            Err(WalError::InUse { .. }) if args.take_over && tries > 0 => {
                tries -= 1;
                std::thread::sleep(IN_USE_WAIT);
            }
            opened => {
                return opened.with_context(|| format!("the write-ahead log {}", dir.display()));
            }
        }
    }
}

fn feed_channels(connector: &MeshConnector) -> reeve_ads::ChannelFactory {
    let connector = connector.clone();
    Arc::new(move || connector.channel())
}

/// The logs that records may go to: the audit replicas in this proxy's own order, and the mesh process, which takes them where
/// there is no replica, or none that answers.
fn targets(
    args: &SidecarArgs,
    mesh: &MeshConnector,
    config: watch::Receiver<Option<Arc<ProxyConfig>>>,
) -> anyhow::Result<Targets> {
    let (mesh, instance) = (mesh.clone(), args.instance.clone());
    let identity = args.audit_identity()?;
    Ok(Arc::new(move || {
        let config = config.borrow().clone();
        let replicas = config.map(|config| config.workload.audit_replicas.clone());
        let mut replicas = replicas.unwrap_or_default();
        in_order(&instance, &mut replicas, |replica| replica.name.as_str());
        let replicas = replicas.iter().filter_map(|replica| {
            let connector = mesh.elsewhere(replica.address.parse().ok()?, identity.clone());
            let name = format!("{} at {}", replica.name, replica.address);
            Some(target(name, connector))
        });
        replicas
            .chain([target("the mesh process".to_owned(), mesh.clone())])
            .collect()
    }))
}

fn target(name: String, connector: MeshConnector) -> Target {
    let connect: ChannelFactory = Arc::new(move || {
        let connector = connector.clone();
        Box::pin(async move { Ok(connector.connected().await?) })
    });
    Target { name, connect }
}

/// What only the mesh's operator may do: taps and break-glass.
fn operators(args: &SidecarArgs, data_plane: &DataPlane, wal: &Arc<Wal>) -> Router {
    let supervisor = || args.supervisor_socket.as_deref().map(WhoIs::new);
    let taps = TapDoor {
        data_plane: data_plane.clone(),
        wal: Arc::clone(wal),
        supervisor: supervisor(),
    };
    let break_glass = BreakGlassDoor {
        place: data_plane.clone(),
        wal: Arc::clone(wal),
        supervisor: supervisor(),
    };
    tap::routes(taps).merge(break_glass::routes(break_glass))
}

/// Asks for configuration once there is a certificate to ask with.
async fn feeding(feed: AdsClient, mut credentials: CredentialsWatch, data_plane: DataPlane) {
    if credentials.wait_for(Option::is_some).await.is_err() {
        return;
    }
    feed.run(move |config| data_plane.clone().apply(config))
        .await;
}

/// Says which token issuers have keys that the proxy lacks, once there is a certificate to do so with.
async fn wanting(keys: KeyClient, mut credentials: CredentialsWatch, data_plane: DataPlane) {
    if credentials.wait_for(Option::is_some).await.is_err() {
        return;
    }
    keys.run(|| data_plane.take_lacking_keys()).await;
}

/// Shares which circuits are open, once there is a certificate to do so with.
async fn sharing(
    circuits: CircuitClient,
    mut credentials: CredentialsWatch,
    data_plane: DataPlane,
) {
    if credentials.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let held = || data_plane.open_circuits();
    circuits
        .run(held, |others| data_plane.heed_circuits(others))
        .await;
}
