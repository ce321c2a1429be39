//! The sidecar put together.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use reeve_ads::AdsClient;
use reeve_audit::{
    EventKind, EventRecord, Level, ShipOptions, Wal, WalOptions, ship, ship::ChannelFactory,
};
use reeve_ca::AgentHandle;
use reeve_core::{Clock, SystemClock};
use reeve_svid::CredentialsWatch;
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::Notify,
    task::JoinHandle,
};

use crate::{
    AuditLevel, SidecarArgs, SvidSigner,
    admin::{
        self, Admin,
        inspect::{self, Inspect},
    },
    agent::{self, AgentEvents},
    connect::MeshConnector,
    data_plane::DataPlane,
    hardening,
    logging::{self, LogFilter},
    socket,
};

/// How long the last records may take to reach the log at the end; the rest is shipped after the next start.
const LAST_RECORDS: Duration = Duration::from_millis(500);

/// Runs a sidecar until it is told to stop (SIGTERM, SIGINT or `POST /drain`) and has drained.
///
/// Nothing here needs the mesh process to be alive: certificate, configuration and audit log each wait and try again
/// on their own, and the data plane goes on with what it has.
pub async fn run(args: SidecarArgs) -> anyhow::Result<()> {
    let log = logging::start();
    hardening::forbid_core_dumps()?;
    if args.supervisor_socket.is_some() {
        hardening::end_with_parent()?;
    }
    let stop = Arc::new(Notify::new());
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut sidecar = Sidecar::start(&args, log, Arc::clone(&stop))?;
    tracing::info!(instance = %args.instance, identity = %args.identity, "the sidecar runs");
    // Cancel-safe: whichever comes first, the sidecar ends.
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = stop.notified() => {}
        error = sidecar.hopeless() => return Err(error),
    }
    tracing::info!(instance = %args.instance, "the sidecar drains");
    // A second signal does not wait for connections to finish.
    tokio::select! {
        () = sidecar.stop(Duration::from_secs(args.drain_seconds)) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// A running sidecar; dropped, it stops at once.
#[derive(Debug)]
pub struct Sidecar {
    data_plane: DataPlane,
    events: Arc<AgentEvents>,
    wal: Arc<Wal>,
    credentials: CredentialsWatch,
    /// The agent stops when the last handle is dropped; there may be no admin interface to hold one.
    _agent: Arc<AgentHandle>,
    feed: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
    hopeless: JoinHandle<anyhow::Error>,
}

impl Sidecar {
    /// Opens and starts everything; `stop` is notified when the admin interface is asked to drain.
    pub fn start(args: &SidecarArgs, log: LogFilter, stop: Arc<Notify>) -> anyhow::Result<Self> {
        check(args)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let sockets = Sockets::bind(args)?;
        let wal = Arc::new(open_wal(args, &clock)?);
        let events = Arc::new(AgentEvents::new(Arc::clone(&wal)));
        let registry = prometheus::Registry::new();
        let agent = agent::start(args, &clock)?;
        let credentials = agent.credentials;
        let handle = Arc::new(agent.handle);
        let data_plane = DataPlane::start(args, &credentials, &wal, &registry, &clock)?;
        let connector = MeshConnector::new(
            args.mesh_address.clone(),
            args.mesh_identity()?,
            credentials.clone(),
            clock,
        );
        let feed = AdsClient::new(feed_channels(&connector), args.instance.clone());
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
        events.record(
            EventRecord::new(EventKind::Started).with("version", env!("CARGO_PKG_VERSION")),
        );
        let feed = tokio::spawn(feeding(feed, credentials.clone(), data_plane.clone()));
        let mut tasks = vec![tokio::spawn(shipping(&connector, &wal, &credentials))];
        if let Some(listener) = sockets.admin {
            let inspect = Inspect::new(args, credentials.clone(), log);
            let routes = admin::routes(admin).merge(inspect::routes(inspect));
            tasks.push(tokio::spawn(admin::serve(listener, routes)));
        }
        if let Some(listener) = sockets.agent {
            let attestor = agent::attestor(args);
            let serving =
                agent::serve(listener, credentials.clone(), attestor, Arc::clone(&events));
            tasks.push(tokio::spawn(serving));
        }
        Ok(Self {
            data_plane,
            events,
            wal,
            credentials,
            _agent: handle,
            feed,
            tasks,
            hopeless: tokio::spawn(agent::foreign_mesh(agent.issuer, args.clone())),
        })
    }

    /// The credentials as they change.
    pub fn credentials(&self) -> CredentialsWatch {
        self.credentials.clone()
    }

    /// Ends only if there is no sense in going on, with what is wrong.
    pub async fn hopeless(&mut self) -> anyhow::Error {
        match (&mut self.hopeless).await {
            Ok(error) => error,
            Err(_) => std::future::pending().await,
        }
    }

    /// Lets connections finish until the deadline, and the last records reach the log.
    pub async fn stop(self, limit: Duration) {
        // A proxy that drains takes no configuration any more, and refuses none either.
        self.feed.abort();
        self.data_plane.drain(limit).await;
        self.events.record(EventRecord::new(EventKind::Stopped));
        let shipped = async {
            while self.wal.status().backlog > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(LAST_RECORDS, shipped).await.is_err() {
            tracing::info!("records wait in the write-ahead log for the next start");
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.feed.abort();
        self.hopeless.abort();
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
    let mesh = args.mesh_identity()?;
    ensure!(
        mesh.is_member_of(&args.trust_domain),
        "the mesh's identity {mesh} is not of trust domain {domain}; give the --mesh-identity of this mesh",
    );
    Ok(())
}

/// The Unix sockets, bound before anything else: a path that is taken is said at once.
struct Sockets {
    agent: Option<UnixListener>,
    admin: Option<UnixListener>,
}

impl Sockets {
    fn bind(args: &SidecarArgs) -> anyhow::Result<Self> {
        let agent = args.agent_socket.as_deref();
        let admin = args.admin_socket.as_deref();
        Ok(Self {
            agent: agent
                .map(|path| socket::bind(path, "the agent's socket"))
                .transpose()?,
            admin: admin
                .map(|path| socket::bind(path, "the admin socket"))
                .transpose()?,
        })
    }
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
    };
    let dir = &args.wal_dir;
    Wal::open(dir, args.instance.clone(), options, Arc::clone(clock))
        .with_context(|| format!("the write-ahead log {}", dir.display()))
}

fn feed_channels(connector: &MeshConnector) -> reeve_ads::ChannelFactory {
    let connector = connector.clone();
    Arc::new(move || connector.channel())
}

fn shipping(
    connector: &MeshConnector,
    wal: &Arc<Wal>,
    credentials: &CredentialsWatch,
) -> impl Future<Output = ()> + Send + 'static {
    let connector = connector.clone();
    let channels: ChannelFactory = Arc::new(move || {
        let connector = connector.clone();
        Box::pin(async move { Ok(connector.connected().await?) })
    });
    let signer = Arc::new(SvidSigner::new(credentials.clone()));
    ship(Arc::clone(wal), channels, signer, ShipOptions::default())
}

/// Asks for configuration once there is a certificate to ask with.
async fn feeding(feed: AdsClient, mut credentials: CredentialsWatch, data_plane: DataPlane) {
    if credentials.wait_for(Option::is_some).await.is_err() {
        return;
    }
    feed.run(move |config| data_plane.clone().apply(config))
        .await;
}
