//! The mesh of the replica under measure, as far as that asks it: an authority that lets it join, who may ship which records,
//! and somebody who takes note of its checkpoints. `reeve up` has addresses for 254 proxies, which are too few here.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use reeve_audit::replica::{Keeping, Noted, Overseer, ReplicaService};
use reeve_ca::{
    Agent, AgentHandle, AgentOptions, Attestors, CaOptions, CertificateAuthority, IssuerService,
    JoinTokens, LocalIssuer, LogEvents, SealKey, Store, TlsPeer, tls_incoming,
};
use reeve_core::{Clock, InstanceName, Namespace, SpiffeId, TrustDomain, clock::SystemClock};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{Failure, proxies};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// The mesh's trust domain.
pub(crate) fn domain() -> Result<TrustDomain, Failure> {
    Ok("mesh.local".parse()?)
}

/// The namespace of its own workloads.
pub(crate) fn root() -> Result<Namespace, Failure> {
    Ok("reeve-system".parse()?)
}

/// The mesh's authority, which whoever opens it has for itself.
pub(crate) fn authority(
    place: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<CertificateAuthority>, Failure> {
    let options = CaOptions {
        trust_domain: domain()?,
        root_ttl: 365 * DAY,
        intermediate_ttl: 30 * DAY,
        svid_ttl: DAY,
        consumer_wait: Duration::from_secs(60),
        store: Store::Sealed {
            dir: place.join("ca"),
            key: SealKey::from_file_or_new(&place.join("seal.key"))?,
        },
        vault: None,
        upstream: None,
    };
    Ok(CertificateAuthority::open(options, Arc::clone(clock))?)
}

/// It serves.
pub(crate) struct Mesh {
    pub(crate) address: SocketAddr,
    /// With it the replica joins.
    pub(crate) token: PathBuf,
    /// By it the replica knows the mesh.
    pub(crate) bundle: PathBuf,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    _agent: AgentHandle,
}

impl Mesh {
    /// The mesh in `place`, with that replica.
    pub(crate) async fn start(place: &Path, replica: &InstanceName) -> Result<Self, Failure> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (domain, root) = (domain()?, root()?);
        let ca = authority(place, &clock)?;
        let (token, bundle) = (place.join("token"), place.join("bundle.pem"));
        ca.publish_to(bundle.clone())?;
        let own = AgentOptions {
            id: domain.mesh_process(&root),
            join_token: None,
            instance: "mesh-0".parse()?,
            installed: None,
        };
        let local = Arc::new(LocalIssuer::new(Arc::clone(&ca)));
        let (mut credentials, agent) = Agent::start(own, local, Arc::clone(&clock));
        credentials.wait_for(Option::is_some).await?;
        let identity = domain.audit_replica(&root);
        let tokens = Arc::new(JoinTokens::new(Arc::clone(&clock)));
        fs::write(&token, tokens.create(identity.clone(), HOUR)?.as_str())?;
        let issuer = IssuerService::server(
            ca,
            // Join tokens only.
            Arc::new(Attestors::default()),
            tokens,
            Arc::default(),
            Arc::new(LogEvents),
            Arc::clone(&clock),
        );
        let caller = |extensions: &tonic::Extensions| {
            let peer = extensions.get::<TlsPeer>()?;
            Some(peer.verified.as_ref()?.id().clone())
        };
        let expected = Expected {
            identity,
            replica: replica.clone(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = tonic::transport::Server::builder()
            .add_service(issuer)
            .add_service(ReplicaService::server(Arc::new(caller), Arc::new(expected)));
        let incoming = tls_incoming(listener, credentials, clock);
        Ok(Self {
            address,
            token,
            bundle,
            serving: tokio::spawn(server.serve_with_incoming(incoming)),
            _agent: agent,
        })
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The replica that is expected, and all proxies with it.
#[derive(Debug)]
struct Expected {
    identity: SpiffeId,
    replica: InstanceName,
}

impl Overseer for Expected {
    fn is_replica(&self, id: &SpiffeId, replica: &InstanceName) -> bool {
        self.is_some_replica(id) && self.replica == *replica
    }

    fn is_some_replica(&self, id: &SpiffeId) -> bool {
        self.identity == *id
    }

    fn may_ship(&self, id: &SpiffeId, proxy: &InstanceName) -> bool {
        proxies::identity_of(proxy).is_ok_and(|own| own == *id)
    }

    fn mesh_log(&self) -> String {
        "mesh.local/audit".to_owned()
    }

    fn note(&self, _: Noted) -> Result<Keeping, String> {
        Ok(Keeping {
            columns_after: HOUR,
            retention: None,
        })
    }
}
