//! The audit log of decisions for other proxies: a write-ahead log, shipped to a log of its own, or to a mesh's as a
//! sidecar's is.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use reeve_audit::{
    AuditLog, EventKind, EventRecord, LogOptions, ShipOptions, Wal, WalOptions, ship,
    ship::{ChannelFactory, only},
    ship_local,
};
use reeve_ca::{
    Agent, AgentHandle, AgentOptions, CaOptions, CertificateAuthority, GrpcIssuer, IssuerChannel,
    LocalIssuer, MeshAddress, Store,
};
use reeve_control::{Controller, MeshSettings};
use reeve_core::{Clock, InstanceName, Namespace, ServiceAccount, SpiffeId, TrustDomain};
use reeve_sidecar::{MeshConnector, SvidSigner};
use reeve_svid::CredentialsWatch;

use crate::mesh::{Recorder, ensure_key};

/// The server's name in its log, and its service account.
const NAME: &str = "reeve.ext-authz";
const ACCOUNT: &str = "ext-authz";
/// How long the last records may take to reach the log.
const LAST_RECORDS: Duration = Duration::from_secs(2);

/// What decisions and events are written to, before there is a log behind it.
pub(super) struct Records {
    pub(super) wal: Arc<Wal>,
    pub(super) events: Arc<Recorder>,
}

impl Records {
    /// Opens the write-ahead log within `state`, which is made if need be.
    pub(super) fn open(
        state: &Path,
        registry: &prometheus::Registry,
        clock: &Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(state).with_context(|| state.display().to_string())?;
        let dir = state.join("wal").join(NAME);
        let options = WalOptions {
            first_epoch: clock.now().as_millis(),
            ..WalOptions::default()
        };
        let wal = Wal::open(&dir, InstanceName::parse(NAME)?, options, Arc::clone(clock))
            .with_context(|| format!("the write-ahead log {}", dir.display()))?;
        let wal = Arc::new(wal);
        Ok(Self {
            events: Arc::new(Recorder::new(Arc::clone(&wal), registry)?),
            wal,
        })
    }
}

/// The log, and the identity that signs for it.
pub(super) struct Trail {
    records: Records,
    behind: Behind,
    credentials: CredentialsWatch,
    signer: Arc<SvidSigner>,
    _agent: AgentHandle,
}

/// What is behind the write-ahead log.
enum Behind {
    /// A log of its own, and the authority that says who signs for it.
    Own(Arc<AuditLog>, Arc<CertificateAuthority>),
    /// The log of a mesh.
    Mesh(MeshConnector),
}

/// How a mesh's log is reached.
pub(super) struct Joining<'a> {
    /// The mesh process.
    pub(super) address: &'a MeshAddress,
    /// A file with a join token for [`identity`].
    pub(super) token: &'a Path,
    /// PEM file with the mesh's authorities.
    pub(super) bundle: &'a Path,
}

/// Who the server is in a mesh.
pub(crate) fn identity(domain: &TrustDomain, root: &Namespace) -> anyhow::Result<SpiffeId> {
    Ok(domain.workload(root, &ServiceAccount::parse(ACCOUNT)?))
}

/// Whether these are records of a server that decides for other proxies: of that identity, under its own name.
pub(crate) fn is_one(settings: (&TrustDomain, &Namespace), id: &SpiffeId, instance: &str) -> bool {
    let (domain, root) = settings;
    instance == NAME && identity(domain, root).is_ok_and(|own| own == *id)
}

impl Trail {
    /// Joins the mesh, and sends its log what is recorded.
    pub(super) fn join(
        joining: &Joining<'_>,
        settings: &MeshSettings,
        records: Records,
        clock: &Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let domain = &settings.trust_domain;
        let bundle = reeve_sidecar::bundle_from(joining.bundle, domain)?;
        let mesh = domain.mesh_process(&settings.root_namespace);
        let channel = IssuerChannel::tls(
            joining.address.clone(),
            mesh.clone(),
            Arc::new(bundle),
            Arc::clone(clock),
        );
        let options = AgentOptions {
            id: identity(domain, &settings.root_namespace)?,
            join_token: Some(reeve_sidecar::join_token_from(joining.token)?),
            instance: InstanceName::parse(NAME)?,
            installed: None,
        };
        let issuer = Arc::new(GrpcIssuer::new(channel, domain.clone()));
        let (credentials, agent) = Agent::start(options, issuer, Arc::clone(clock));
        let started = EventRecord::new(EventKind::Started);
        records
            .events
            .record(started.with("version", env!("CARGO_PKG_VERSION")));
        Ok(Self {
            records,
            behind: Behind::Mesh(MeshConnector::new(
                joining.address.clone(),
                mesh,
                credentials.clone(),
                Arc::clone(clock),
            )),
            signer: Arc::new(SvidSigner::new(credentials.clone())),
            credentials,
            _agent: agent,
        })
    }

    /// Opens the log and its authority within `state`.
    pub(super) fn open(
        state: &Path,
        settings: &MeshSettings,
        records: Records,
        controller: &Controller,
        clock: &Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let (seal, ca, audit) = (
            state.join("seal.key"),
            state.join("ca"),
            state.join("audit"),
        );
        ensure_key(&seal, &[&ca, &audit])?;
        let options = CaOptions {
            trust_domain: settings.trust_domain.clone(),
            root_ttl: settings.root_ttl,
            intermediate_ttl: settings.intermediate_ttl,
            svid_ttl: settings.certificate_ttl,
            consumer_wait: settings.rotation_wait,
            store: Store::Sealed {
                dir: ca.clone(),
                key: reeve_ca::SealKey::from_file(&seal)?,
            },
            vault: None,
            upstream: None,
        };
        let authority = CertificateAuthority::open(options, Arc::clone(clock))
            .with_context(|| format!("the certificate authority in {}", ca.display()))?;
        let domain = &settings.trust_domain;
        let key = reeve_audit::seal::SealKey::from_file(&seal)?;
        let origin = format!("{}/audit", domain.as_str());
        let log = AuditLog::open(&audit, LogOptions::new(origin, key))
            .with_context(|| format!("the audit log in {}", audit.display()))?;
        // Before anything signs; who verifies the log looks there.
        authority.publish_to(state.join("bundle.pem"))?;
        records.events.attach(Arc::clone(&log), controller.mesh());
        let started = EventRecord::new(EventKind::Started);
        records
            .events
            .record(started.with("version", env!("CARGO_PKG_VERSION")));
        let options = AgentOptions {
            id: identity(domain, &settings.root_namespace)?,
            join_token: None,
            instance: InstanceName::parse(NAME)?,
            installed: None,
        };
        let issuer = Arc::new(LocalIssuer::new(Arc::clone(&authority)));
        let (credentials, agent) = Agent::start(options, issuer, Arc::clone(clock));
        Ok(Self {
            records,
            behind: Behind::Own(log, authority),
            signer: Arc::new(SvidSigner::new(credentials.clone())),
            credentials,
            _agent: agent,
        })
    }

    /// Ships records, and has tokens verified with the keys that there are, for ever.
    pub(super) async fn run(&self, controller: &Controller) {
        // Cancel-safe: shipping goes on where it was, and keys are told anew, whenever it is begun again.
        tokio::select! {
            () = self.ship() => {}
            () = self.tell_keys(controller) => {}
        }
    }

    /// Ships records to the log and keeps its authority in order, for ever.
    async fn ship(&self) {
        let (wal, options) = (Arc::clone(&self.records.wal), ShipOptions::default());
        let (log, authority) = match &self.behind {
            Behind::Own(log, authority) => (Arc::clone(log), authority),
            Behind::Mesh(connector) => {
                let connector = connector.clone();
                let channels: ChannelFactory = Arc::new(move || {
                    let connector = connector.clone();
                    Box::pin(async move { Ok(connector.connected().await?) })
                });
                return ship(wal, only(channels), self.signer.clone(), options).await;
            }
        };
        let ship = ship_local(
            wal,
            Arc::clone(&log),
            Arc::clone(&self.signer) as _,
            options,
        );
        let maintain = async {
            loop {
                if let Some(event) = log.replace_wanted_key().await {
                    self.records.events.record(event);
                }
                if let Err(error) = authority.maintain(&*self.records.events) {
                    tracing::error!(%error, "the authority cannot replace its authorities");
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        // Cancel-safe: shipping goes on where it was, whenever it is begun again.
        tokio::select! {
            () = ship => {}
            () = maintain => {}
        }
    }

    /// Has tokens of trust domains verified with the keys of the mesh's bundle, for ever. A server with a log of its own is
    /// not told any, and takes no such token.
    async fn tell_keys(&self, controller: &Controller) {
        if matches!(self.behind, Behind::Own(..)) {
            return std::future::pending().await;
        }
        let mut credentials = self.credentials.clone();
        loop {
            let now = credentials.borrow_and_update().clone();
            if let Some(now) = now {
                controller.take_bundle(&now.bundle);
            }
            // Cancel-safe: `changed` is.
            if credentials.changed().await.is_err() {
                return;
            }
        }
    }

    /// Records the end, and gives the last records time to reach the log; what does not is shipped after the next start.
    pub(super) async fn close(self) {
        self.records
            .events
            .record(EventRecord::new(EventKind::Stopped));
        let shipped = async {
            while self.records.wal.status().backlog > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // Cancel-safe: the same.
        tokio::select! {
            () = self.ship() => {}
            () = shipped => {}
            () = tokio::time::sleep(LAST_RECORDS) => {}
        }
    }
}
