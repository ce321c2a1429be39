//! `reeve audit serve`: an audit replica, a log of its own under the log of a mesh.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use reeve_audit::{
    AuditLog, EventKind, EventRecord, IngestService, Keeping, LogOptions, MeshClient, ShipOptions,
    Wal, WalOptions, replica::log_of, ship_local,
};
use reeve_bucket::{Bucket, BucketUrl};
use reeve_ca::{
    Agent, AgentHandle, AgentOptions, GrpcIssuer, IssuerChannel, MeshAddress, MeshListener,
    tls_incoming,
};
use reeve_columns::{KeepOptions, Keeper};
use reeve_core::{Clock, InstanceName, Namespace, SpiffeId, SystemClock, TrustDomain};
use reeve_sidecar::{
    AgentEvents, MeshConnector, SvidBatchVerifier, SvidSigner, bundle_from, join_token_from,
};
use reeve_svid::{CredentialsWatch, TrustBundle};
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    mesh::{SealArgs, caller, open_to_group, process_name, server, settle},
    problem::Verdict,
    verb::daemon,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve ca token create --identity spiffe://mesh.local/ns/reeve-system/sa/audit > join.token
  reeve audit serve --name audit-eu --state /var/lib/reeve-audit --listen 10.0.0.7:15012 \\
    --mesh-address 10.0.0.1:15012 --join-token-file join.token --bundle bundle.pem

`reeve up` starts as many beside the mesh process as MeshConfig says (spec.audit.replicas); one that runs elsewhere is named
there (spec.audit.replicasElsewhere), else the mesh does not know it. Its log, DIR/audit, is verified and read with the
mesh's: copy or mount DIR to replicas/NAME beside the mesh's audit folder, or give `reeve audit verify` --replica DIR/audit.

Exit codes: 0 = ended by a signal, 2 = it could not run.";

/// How long the mesh process may take to answer at the end.
const LAST_WORD: Duration = Duration::from_secs(1);
/// How often it is looked whether the log is to have a new key.
const LOOK: Duration = Duration::from_secs(1);

/// `reeve audit serve`.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// The replica's name, as the mesh's configuration has it.
    #[arg(long)]
    name: InstanceName,
    /// Where its log, its own write-ahead log and its sealed key are kept; it is no mesh's state directory.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Where to take records.
    #[arg(long, value_name = "ADDR:PORT|unix:PATH")]
    listen: MeshAddress,
    /// The mesh process.
    #[arg(long, value_name = "ADDR:PORT|unix:PATH")]
    mesh_address: MeshAddress,
    /// The mesh's Unix socket, where this process is attested by its process id.
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "join_token_file",
        conflicts_with = "join_token_file"
    )]
    mesh_socket: Option<PathBuf>,
    /// A file with a join token for the identity `audit` in the mesh's root namespace.
    #[arg(long, value_name = "FILE", requires = "bundle")]
    join_token_file: Option<PathBuf>,
    /// PEM file with the mesh's authorities, to know it by before joining.
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// The mesh's trust domain.
    #[arg(long, default_value = "mesh.local")]
    trust_domain: TrustDomain,
    /// The mesh's root namespace.
    #[arg(long, default_value = "reeve-system")]
    root_namespace: Namespace,
    #[command(flatten)]
    seal: SealArgs,
    /// Keep the log in a bucket too, s3://BUCKET/PREFIX; credentials from AWS's environment variables.
    #[arg(long, value_name = "URL")]
    audit_store: Option<BucketUrl>,
    /// Group whose members may connect, too, where it listens on a Unix socket.
    #[arg(long, value_name = "GID")]
    socket_group: Option<u32>,
    /// The supervisor that started it: when that ends, so does this process.
    #[arg(long)]
    supervised: bool,
}

pub(super) fn run(args: &ServeArgs) -> Verdict {
    daemon(serve(args))
}

/// A replica, open and bound.
struct Replica {
    name: InstanceName,
    clock: Arc<dyn Clock>,
    listener: MeshListener,
    wal: Arc<Wal>,
    log: Arc<AuditLog>,
    credentials: CredentialsWatch,
    mesh: MeshClient,
    _agent: AgentHandle,
}

async fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    reeve_sidecar::logging::start();
    reeve_sidecar::hardening::forbid_core_dumps()?;
    reeve_sidecar::hardening::raise_open_files();
    if args.supervised {
        reeve_sidecar::hardening::end_with_parent()?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let replica = args.open().await?;
    let told = replica.told();
    let (wal, events) = (
        Arc::clone(&replica.wal),
        AgentEvents::new(Arc::clone(&replica.wal)),
    );
    let started = EventRecord::new(EventKind::Started);
    events.record(started.with("version", env!("CARGO_PKG_VERSION")));
    let signer = Arc::new(SvidSigner::new(replica.credentials.clone()));
    let ship = tokio::spawn(ship_local(
        Arc::clone(&wal),
        Arc::clone(&replica.log),
        Arc::clone(&signer) as _,
        ShipOptions::default(),
    ));
    let keeping = watch::Sender::new(None);
    replica.keep_columns(&args.state.join("audit"), keeping.subscribe())?;
    let (mesh, log, name) = replica.told();
    let telling = tokio::spawn(async move {
        let keep = |wanted| {
            keeping.send_replace(Some(wanted));
        };
        mesh.tell(&log, &name, &keep).await;
    });
    tracing::info!(replica = %replica.name, "the audit replica serves");
    // Cancel-safe: whichever branch ends first, the process ends.
    let outcome = tokio::select! {
        () = keep_key(&told.1, &events) => Ok(()),
        failed = tokio::spawn(replica.serve()) => failed?,
        _ = ship => bail!("the replica's own records are shipped no longer"),
        _ = telling => bail!("the mesh log is told no longer how far this log has come"),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    events.record(EventRecord::new(EventKind::Stopped));
    end(&wal, told).await;
    tokio::task::spawn_blocking(move || wal.mark_end(signer.as_ref())).await?;
    outcome
}

/// Gives the log a new key whenever an operator asks for one, for ever.
async fn keep_key(log: &Arc<AuditLog>, events: &AgentEvents) {
    loop {
        if let Some(event) = log.replace_wanted_key().await {
            events.record(event);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Ships the last records, and tells the mesh process of them: what it holds of this log cannot be taken back.
async fn end(wal: &Wal, (mesh, log, name): Told) {
    settle(wal).await;
    let told = tokio::time::timeout(LAST_WORD, mesh.tell_now(&log, &name)).await;
    if !matches!(told, Ok(Ok(_))) {
        tracing::warn!("the mesh log does not hold the last checkpoint of this log");
    }
}

/// The mesh process, and what it is told of.
type Told = (MeshClient, Arc<AuditLog>, InstanceName);

impl ServeArgs {
    async fn open(&self) -> anyhow::Result<Replica> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let listener = self.bind().await?;
        let own = process_name(&self.name)?;
        let control = self.trust_domain.mesh_process(&self.root_namespace);
        let id = self.trust_domain.audit_replica(&self.root_namespace);
        let (credentials, agent) = self.join(id, own.clone(), &control, &clock)?;
        let connector = MeshConnector::new(
            self.mesh_address.clone(),
            control,
            credentials.clone(),
            Arc::clone(&clock),
        );
        Ok(Replica {
            name: self.name.clone(),
            listener,
            wal: Arc::new(self.open_wal(own, &clock)?),
            log: self.open_log().await?,
            credentials,
            mesh: MeshClient::new(connector.channel()),
            clock,
            _agent: agent,
        })
    }

    async fn bind(&self) -> anyhow::Result<MeshListener> {
        match &self.listen {
            MeshAddress::Tcp(address) => {
                let listener = TcpListener::bind(address).await;
                Ok(listener
                    .with_context(|| format!("cannot listen on {address}"))?
                    .into())
            }
            MeshAddress::Unix(path) => {
                let listener: UnixListener =
                    reeve_sidecar::socket::bind(path, "the replica's socket")?;
                if let Some(group) = self.socket_group {
                    open_to_group(path, group).with_context(|| {
                        format!("{} cannot be opened to group {group}", path.display())
                    })?;
                }
                Ok(listener.into())
            }
        }
    }

    /// Asks for an identity, over the mesh's Unix socket or with a join token.
    fn join(
        &self,
        id: SpiffeId,
        instance: InstanceName,
        control: &SpiffeId,
        clock: &Arc<dyn Clock>,
    ) -> anyhow::Result<(CredentialsWatch, AgentHandle)> {
        let (channel, join_token) = match (&self.mesh_socket, &self.join_token_file, &self.bundle) {
            (Some(socket), ..) => (IssuerChannel::unix(socket.clone()), None),
            (None, Some(token), Some(bundle)) => {
                let roots = bundle_from(bundle, &self.trust_domain)?;
                let (address, clock) = (self.mesh_address.clone(), Arc::clone(clock));
                let channel = IssuerChannel::tls(address, control.clone(), Arc::new(roots), clock);
                (channel, Some(join_token_from(token)?))
            }
            (None, _, _) => {
                bail!("name the mesh's socket, or a join token and the mesh's authorities")
            }
        };
        let options = AgentOptions {
            id,
            join_token,
            instance,
            installed: None,
        };
        let issuer = Arc::new(GrpcIssuer::new(channel, self.trust_domain.clone()));
        Ok(Agent::start(options, issuer, Arc::clone(clock)))
    }

    fn open_wal(&self, own: InstanceName, clock: &Arc<dyn Clock>) -> anyhow::Result<Wal> {
        let dir = self.state.join("wal").join(own.as_str());
        let options = WalOptions {
            first_epoch: clock.now().as_millis(),
            ..WalOptions::default()
        };
        Wal::open(&dir, own, options, Arc::clone(clock))
            .with_context(|| format!("the write-ahead log {}", dir.display()))
    }

    async fn open_log(&self) -> anyhow::Result<Arc<AuditLog>> {
        let dir = self.state.join("audit");
        let keys = self.seal.keys(&self.state, &[&dir]).await?;
        let origin = log_of(&format!("{}/audit", self.trust_domain.as_str()), &self.name);
        let mut options = LogOptions::new(origin, keys.log);
        if let Some(url) = &self.audit_store {
            let bucket = Bucket::from_environment(url.clone());
            let bucket = bucket.with_context(|| format!("the audit log's store {url}"))?;
            options.store = Some(Arc::new(bucket));
        }
        AuditLog::open(&dir, options).with_context(|| format!("the audit log in {}", dir.display()))
    }
}

impl Replica {
    fn told(&self) -> Told {
        (self.mesh.clone(), Arc::clone(&self.log), self.name.clone())
    }

    /// Takes batches over TLS, for ever.
    async fn serve(self) -> anyhow::Result<()> {
        let bundles = bundles(self.credentials.clone()).await?;
        let ingest = IngestService::new(
            self.log,
            Arc::new(caller),
            self.mesh.may_ship(),
            Arc::new(SvidBatchVerifier::new(bundles)),
            Arc::clone(&self.clock),
        );
        let incoming = tls_incoming(self.listener, self.credentials, self.clock);
        server()
            .add_service(ingest.into_server())
            .serve_with_incoming(incoming)
            .await
            .context("records are taken no longer")
    }

    /// Keeps columns for searching beside the log, as the mesh wants them kept.
    fn keep_columns(
        &self,
        dir: &Path,
        wanted: watch::Receiver<Option<Keeping>>,
    ) -> anyhow::Result<()> {
        let (log, wal, clock) = (
            Arc::clone(&self.log),
            Arc::clone(&self.wal),
            Arc::clone(&self.clock),
        );
        let keeper = Keeper::open(dir, log, wal, clock, KeepOptions::default())?;
        let last = Mutex::new(KeepOptions::default());
        let options = move || {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(wanted) = *wanted.borrow() {
                last.due_after = wanted.columns_after;
                last.retention = wanted.retention;
            }
            *last
        };
        crate::mesh::on_columns_thread(keeper, options)
    }
}

/// The authorities as they change, once there are any.
async fn bundles(
    mut credentials: CredentialsWatch,
) -> anyhow::Result<watch::Receiver<Arc<TrustBundle>>> {
    let first = credentials.wait_for(Option::is_some).await;
    let first = first.context("there is no identity any more")?.clone();
    let first = first.context("there is no identity")?;
    let (sender, bundles) = watch::channel(Arc::clone(&first.bundle));
    tokio::spawn(async move {
        while credentials.changed().await.is_ok() {
            let now = credentials.borrow_and_update().clone();
            if let Some(now) = now {
                sender.send_replace(Arc::clone(&now.bundle));
            }
        }
    });
    Ok(bundles)
}
