//! Start order: listeners, own records, folder, authority, log, identity; then all at once.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use reeve_ads::{AdsService, CircuitService, KeyService};
use reeve_audit::{
    AuditLog, EventKind, EventRecord, IngestService, LogOptions, ReplicaService, ShipOptions, Wal,
    WalOptions, ingest::told_at_once, replica::MESH_PROCESS as OWN_NAME, ship_local,
};
use reeve_bucket::Bucket;
use reeve_ca::{
    Agent, AgentHandle, AgentOptions, Attestors, CaOptions, CertificateAuthority, IdentityEvents,
    IssuerDoor, IssuerService, JoinTokens, LocalIssuer, MeshListener, Store, TlsPeer, tls_incoming,
    unix_incoming,
};
use reeve_columns::{KeepOptions, Keeper};
use reeve_control::{ConfigEvents, Controller, ControllerOptions, instances};
use reeve_core::{Clock, InstanceName, SpiffeId, SystemClock};
use reeve_federation::{BundleEndpoint, Follower};
use reeve_sidecar::{SvidBatchVerifier, SvidSigner, process_metrics, whois::WhoIs};
use reeve_svid::CredentialsWatch;
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
};
use tonic::{service::Routes, transport::Server};

use crate::verb::authz::trail::is_one as decides_for_others;

use super::{
    MeshArgs, attest::SidecarAttestor, events::Recorder, federation,
    kubernetes::KubernetesAttestor, migrations::LastStand, node, renewals, replicas::Overseen,
    settings::Kept, trail, view::View, waiting, witnesses,
};

/// How long the last records may take to reach the log at the end.
const LAST_RECORDS: Duration = Duration::from_secs(1);

/// The priority, below others', at which columns are kept.
const COLUMNS_NICENESS: i32 = 10;

/// Most streams of one connection.
const MAX_STREAMS: u32 = 64;
/// How often a silent connection is probed, and how long the probe may stay unanswered.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How often the authority looks after itself.
const MAINTENANCE: Duration = Duration::from_secs(1);

/// Everything, open and bound, but not serving yet.
pub(super) struct MeshProcess {
    grpc: TcpListener,
    api: TcpListener,
    control: UnixListener,
    socket: UnixListener,
    workloads: UnixListener,
    wal: Arc<Wal>,
    /// The log's folder.
    audit: PathBuf,
    /// The state directory.
    state: PathBuf,
    view: Arc<View>,
    credentials: CredentialsWatch,
    agent: AgentHandle,
    federation: (Follower, BundleEndpoint),
    attestor: Arc<Attestors>,
}

impl MeshProcess {
    /// Opens everything; an error says what is in the way.
    pub(super) async fn open(args: &MeshArgs) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let grpc = listen(args.grpc, "the mesh's gRPC port").await?;
        let api = listen(args.api, "the mesh's HTTP API").await?;
        let control = args.bind("control.sock", "the mesh's control socket")?;
        let socket = args.bind("mesh.sock", "the mesh's socket")?;
        let workloads = args.bind(node::SOCKET, "the socket for processes beside the mesh")?;
        let registry = prometheus::Registry::new();
        process_metrics::register(&registry, "mesh")?;
        let wal = Arc::new(open_wal(args, &clock)?);
        let events = Arc::new(Recorder::new(Arc::clone(&wal), &registry)?);
        let controller = Controller::start(ControllerOptions {
            folder: args.folder.clone(),
            state: args.state.clone(),
            clock: Arc::clone(&clock),
            events: Arc::clone(&events) as Arc<dyn ConfigEvents>,
        })?;
        let settings = settings(args, &controller, (&api, &socket)).await?;
        let sealed = [&*args.within("ca"), &*args.within("audit")];
        let keys = args.custody.seal.keys(&args.state, &sealed).await?;
        let ca = open_ca(args, &settings, &clock, keys.authority)?;
        let log = open_log(args, &settings, keys.log)?;
        log.set_witnesses(witnesses::quorum(&settings.witnesses));
        // Before anything signs; joiners and verifiers of the log look there.
        ca.publish_to(args.within("bundle.pem"))?;
        events.attach(Arc::clone(&log), controller.mesh());
        let started = EventRecord::new(EventKind::Started);
        events.record(started.with("version", env!("CARGO_PKG_VERSION")));
        let whois = WhoIs::new(&args.supervisor());
        let tokens = Arc::new(JoinTokens::new(Arc::clone(&clock)));
        let attestor = attestors(&settings, &whois, &controller, &clock)?;
        let issuer = Arc::new(LocalIssuer::new(Arc::clone(&ca)));
        let (credentials, agent) = Agent::start(own(&settings)?, issuer, Arc::clone(&clock));
        let kept = (args.state.clone(), Arc::clone(&clock));
        let federation = federation::parts((&ca, &events), &controller, &credentials, kept);
        let view = View {
            settings,
            started_at: clock.now(),
            controller,
            circuits: Arc::default(),
            replicas: Arc::default(),
            federation: federation.0.status(),
            ca,
            tokens,
            entries: Arc::default(),
            whois,
            log,
            events,
            registry,
            instances: args.within(instances::FILE_NAME),
            folder: args.folder.clone(),
            state: args.state.clone(),
            last_stand: LastStand::default(),
            clock,
        };
        Ok(Self {
            grpc,
            api,
            control,
            socket,
            workloads,
            wal,
            audit: args.within("audit"),
            state: args.state.clone(),
            view: Arc::new(view),
            credentials,
            agent,
            federation,
            attestor: Arc::new(attestor),
        })
    }

    /// Serves until a signal says stop, or a part fails.
    pub(super) async fn serve(self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let view = Arc::clone(&self.view);
        let credentials = self.credentials;
        let credentials_of_node = credentials.clone();
        let trail = trail::routes(&view, &self.wal, self.state.clone());
        let routes = tls_routes(&view, &self.attestor).into_axum_router();
        let routes = Routes::from(routes.merge(trail));
        let tls = serve_tls(&view, &credentials, self.grpc.into(), routes.clone());
        let control = serve_tls(&view, &credentials, self.control.into(), routes);
        let socket = server()
            .accept_http1(true)
            .add_routes(socket_routes(&view, &self.attestor))
            .serve_with_incoming(unix_incoming(self.socket));
        let api = axum::serve(self.api, reeve_console::api(Arc::clone(&view) as _));
        let signer = Arc::new(SvidSigner::new(credentials));
        let ship = tokio::spawn(ship_local(
            Arc::clone(&self.wal),
            Arc::clone(&view.log),
            Arc::clone(&signer) as _,
            ShipOptions::default(),
        ));
        let node = node::agent(&view, &credentials_of_node, &self.state)?;
        let node = tokio::spawn(node::serve(Arc::clone(&view), node, self.workloads));
        let witnesses = tokio::spawn(witnesses::follow(Arc::clone(&view), self.state));
        keep_columns(&view, &self.wal, &self.audit)?;
        let controller = tokio::spawn(Arc::clone(&view.controller).run());
        let (follower, endpoint) = self.federation;
        let follower = tokio::spawn(follower.run());
        let endpoint = tokio::spawn(endpoint.run());
        let (bundle, told) = (view.ca.bundle(), Arc::clone(&view.controller));
        let keys = tokio::spawn(federation::tell_keys(bundle, told));
        tracing::info!(
            trust_domain = view.settings.trust_domain.as_str(),
            "the mesh process serves"
        );
        // Cancel-safe: whichever branch ends first, the process ends.
        let outcome = tokio::select! {
            failed = tokio::spawn(tls) => failed?.context("the gRPC port"),
            failed = tokio::spawn(control) => failed?.context("the mesh's control socket"),
            failed = tokio::spawn(socket) => failed?.context("the mesh's socket"),
            failed = maintain(&view) => failed,
            failed = api => failed.context("the HTTP API"),
            _ = ship => bail!("the mesh process's own records are shipped no longer"),
            failed = node => failed?.context("the socket for processes beside the mesh"),
            _ = witnesses => bail!("who cosigns the log is followed no longer"),
            _ = follower => bail!("the bundles of other trust domains are followed no longer"),
            _ = endpoint => bail!("the trust bundle is served no longer"),
            _ = keys => bail!("keys of trust domains are told no longer"),
            _ = controller => bail!("the control plane has ended"),
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
        view.events.record(EventRecord::new(EventKind::Stopped));
        settle(&self.wal).await;
        let wal = self.wal;
        tokio::task::spawn_blocking(move || wal.mark_end(signer.as_ref())).await?;
        drop(self.agent);
        tracing::info!("the mesh process ends");
        outcome
    }
}

/// What the mesh process asks its own authority for.
fn own(settings: &Kept) -> anyhow::Result<AgentOptions> {
    Ok(AgentOptions {
        id: settings.mesh_identity(),
        join_token: None,
        instance: InstanceName::parse(OWN_NAME)?,
        installed: None,
    })
}

/// Replaces authorities in time even if nobody asks for certificates, and the log's key when an operator asks for it.
async fn maintain(view: &View) -> anyhow::Result<()> {
    let mut alarm = renewals::Alarm::default();
    loop {
        if let Some(event) = view.log.replace_wanted_key().await {
            view.events.record(event);
        }
        view.expire_faults();
        let (members, now) = (view.ca.members(), view.clock.now());
        alarm.sound(
            &renewals::late(&members, view.settings.certificate_ttl, now),
            now,
        );
        if let Err(error) = view.ca.maintain(&*view.events) {
            tracing::error!(%error, "the certificate authority cannot replace its authorities");
        }
        tokio::time::sleep(MAINTENANCE).await;
    }
}

/// The settings of the mesh's gRPC servers.
pub(crate) fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
}

/// Gives the last records time to reach the log; what does not is shipped after the next start.
pub(crate) async fn settle(wal: &Wal) {
    let shipped = async {
        while wal.status().backlog > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(LAST_RECORDS, shipped).await.is_err() {
        tracing::info!("records of this process wait for its next start");
    }
}

async fn listen(address: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("{what} cannot be served at {address}; is another mesh running there? use another --base")
    })
}

fn open_wal(args: &MeshArgs, clock: &Arc<dyn Clock>) -> anyhow::Result<Wal> {
    let dir = args.within("wal").join(OWN_NAME);
    let name = InstanceName::parse(OWN_NAME)?;
    let options = WalOptions {
        first_epoch: clock.now().as_millis(),
        ..WalOptions::default()
    };
    Wal::open(&dir, name, options, Arc::clone(clock))
        .with_context(|| format!("the write-ahead log {}", dir.display()))
}

/// The settings of the folder, or of the last run while the folder is not valid; without either, waits, and tells those
/// so who ask meanwhile.
async fn settings(
    args: &MeshArgs,
    controller: &Arc<Controller>,
    (api, socket): (&TcpListener, &UnixListener),
) -> anyhow::Result<Kept> {
    let mut mesh = controller.mesh();
    let now = mesh.borrow().as_ref().map(|mesh| Kept::of(mesh));
    if let Some(kept) = now {
        kept.write(&args.state)?;
        return Ok(kept);
    }
    for fault in controller.status().faults {
        tracing::error!(%fault, "the configuration folder is not valid");
    }
    if let Some(kept) = Kept::read(&args.state)? {
        tracing::warn!("going on with the settings of the last run");
        return Ok(kept);
    }
    let watching = tokio::spawn(Arc::clone(controller).run());
    let kept = {
        // Cancel-safe: what is not answered yet is asked again.
        let valid = tokio::select! {
            valid = mesh.wait_for(Option::is_some) => valid,
            never = waiting::answer(api, socket, || in_the_way(controller)) => match never {},
        };
        let valid = valid.context("the control plane has ended")?;
        let valid = valid.as_ref().map(|mesh| Kept::of(mesh));
        valid.context("there is no configuration")?
    };
    watching.abort();
    kept.write(&args.state)?;
    Ok(kept)
}

/// Why nothing is served yet.
fn in_the_way(controller: &Controller) -> String {
    /// Most faults that are told; the log has all.
    const FIRST: usize = 8;
    let faults = controller.status().faults;
    let first = faults.iter().take(FIRST).map(|fault| format!("\n{fault}"));
    let first: String = first.collect();
    format!("the mesh process waits until its configuration folder is valid{first}")
}

fn open_ca(
    args: &MeshArgs,
    settings: &Kept,
    clock: &Arc<dyn Clock>,
    key: reeve_ca::SealKey,
) -> anyhow::Result<Arc<CertificateAuthority>> {
    let dir = args.within("ca");
    let options = CaOptions {
        trust_domain: settings.trust_domain.clone(),
        root_ttl: settings.root_ttl,
        intermediate_ttl: settings.intermediate_ttl,
        svid_ttl: settings.certificate_ttl,
        consumer_wait: settings.rotation_wait,
        store: Store::Sealed {
            dir: dir.clone(),
            key,
        },
        vault: args.custody.vault()?,
        upstream: args.custody.upstream(),
    };
    CertificateAuthority::open(options, Arc::clone(clock))
        .with_context(|| format!("the certificate authority in {}", dir.display()))
}

fn open_log(
    args: &MeshArgs,
    settings: &Kept,
    key: reeve_audit::seal::SealKey,
) -> anyhow::Result<Arc<AuditLog>> {
    let origin = format!("{}/audit", settings.trust_domain.as_str());
    let dir = args.within("audit");
    let mut options = LogOptions::new(origin, key);
    if let Some(url) = &args.audit_store {
        let bucket = Bucket::from_environment(url.clone());
        let bucket = bucket.with_context(|| format!("the audit log's store {url}"))?;
        tracing::info!(%url, "the audit log is kept in a bucket, too");
        options.store = Some(Arc::new(bucket));
    }
    AuditLog::open(&dir, options).with_context(|| format!("the audit log in {}", dir.display()))
}

/// Keeps columns for searching beside the log, on a thread that gives way to all others.
fn keep_columns(view: &Arc<View>, wal: &Arc<Wal>, dir: &Path) -> anyhow::Result<()> {
    let (log, clock) = (Arc::clone(&view.log), Arc::clone(&view.clock));
    let keeper = Keeper::open(dir, log, Arc::clone(wal), clock, KeepOptions::default())?;
    let mesh = view.controller.mesh();
    let options = move || {
        let settings = mesh.borrow().as_ref().map(|mesh| mesh.settings.clone());
        let settings = settings.unwrap_or_default();
        KeepOptions {
            due_after: settings.columns_after,
            retention: settings.retention,
            ..KeepOptions::default()
        }
    };
    on_columns_thread(keeper, options)
}

/// Keeps columns for ever.
pub(crate) fn on_columns_thread(
    keeper: Keeper,
    options: impl Fn() -> KeepOptions + Send + 'static,
) -> anyhow::Result<()> {
    let run = move || {
        if let Err(error) = rustix::process::setpriority_process(None, COLUMNS_NICENESS) {
            tracing::debug!(%error, "columns are kept at the usual priority");
        }
        keeper.run(options);
    };
    std::thread::Builder::new()
        .name("columns".to_owned())
        .spawn(run)?;
    Ok(())
}

/// Who is at the other end, by its certificate.
pub(crate) fn caller(extensions: &tonic::Extensions) -> Option<SpiffeId> {
    let peer = extensions.get::<TlsPeer>()?;
    Some(peer.verified.as_ref()?.id().clone())
}

/// By what callers are known that show no certificate and no join token.
fn attestors(
    settings: &Kept,
    whois: &WhoIs,
    controller: &Controller,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Attestors> {
    let sidecars = SidecarAttestor::new(settings.trust_domain.clone(), whois.clone());
    let own = settings.mesh_identity();
    let pods = KubernetesAttestor::new(own, controller.mesh(), Arc::clone(clock));
    Ok(Attestors::new(vec![Arc::new(sidecars), Arc::new(pods)]))
}

fn issuer(view: &View, attestor: &Arc<Attestors>) -> IssuerDoor {
    IssuerService::server(
        Arc::clone(&view.ca),
        Arc::clone(attestor) as _,
        Arc::clone(&view.tokens),
        Arc::clone(&view.entries),
        Arc::clone(&view.events) as Arc<dyn IdentityEvents>,
        Arc::clone(&view.clock),
    )
}

/// Serves members over TLS: on the gRPC port, and on the control socket for those without a network to us.
fn serve_tls(
    view: &View,
    credentials: &CredentialsWatch,
    listener: MeshListener,
    routes: Routes,
) -> impl Future<Output = Result<(), tonic::transport::Error>> + use<> {
    let incoming = tls_incoming(listener, credentials.clone(), Arc::clone(&view.clock));
    server().add_routes(routes).serve_with_incoming(incoming)
}

/// What the gRPC port and the control socket serve: issuing to joiners and members, configuration and audit to members.
fn tls_routes(view: &Arc<View>, attestor: &Arc<Attestors>) -> Routes {
    let ads = AdsService::new(Arc::clone(&view.controller) as _, caller);
    let controller = Arc::clone(&view.controller);
    let is_member = move |id: &SpiffeId, instance: &InstanceName| {
        let mesh = controller.mesh().borrow().clone();
        let workload = mesh.as_ref().and_then(|mesh| mesh.workload_of(instance));
        workload.is_some_and(|workload| workload.identity.as_ref() == Some(id))
    };
    let (domain, root) = (
        view.settings.trust_domain.clone(),
        view.settings.root_namespace.clone(),
    );
    let member = is_member.clone();
    // A server that decides for other proxies records as a sidecar does; it is given no configuration.
    let decides = (domain.clone(), root.clone());
    let may_ship = move |id: &SpiffeId, instance: &InstanceName| {
        let (domain, root) = &decides;
        member(id, instance) || decides_for_others((domain, root), id, instance.as_str())
    };
    let replicas = Overseen::new(view, (domain, root), Arc::new(may_ship.clone()));
    let is_member = Arc::new(is_member);
    let hub = Arc::clone(&view.circuits);
    let circuits = CircuitService::new(hub, caller, Arc::clone(&is_member) as _);
    let controller = Arc::clone(&view.controller);
    let wanted = move |rules| controller.want_keys(rules);
    let keys = KeyService::new(caller, Arc::clone(&is_member) as _, wanted);
    let ingest = IngestService::new(
        Arc::clone(&view.log),
        Arc::new(caller),
        told_at_once(may_ship),
        Arc::new(SvidBatchVerifier::new(view.ca.bundle())),
        Arc::clone(&view.clock),
    );
    Routes::new(issuer(view, attestor))
        .add_service(ads.into_server())
        .add_service(circuits.into_server())
        .add_service(keys.into_server())
        .add_service(ingest.into_server())
        .add_service(ReplicaService::server(Arc::new(caller), Arc::new(replicas)))
}

/// What the Unix socket serves: issuing to local sidecars, and administration.
fn socket_routes(view: &Arc<View>, attestor: &Arc<Attestors>) -> Routes {
    let admin = reeve_console::admin(Arc::clone(view) as _);
    let issuing = Routes::new(issuer(view, attestor)).into_axum_router();
    Routes::from(issuing.merge(admin))
}
