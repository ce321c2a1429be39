//! Mesh-wide settings, from `MeshConfig`.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use reeve_core::{
    Namespace, ServiceName, TrustDomain,
    access_log::AccessLogConfig,
    model::{
        AuditReplica, BreakGlass, CallerShares, EcdhCurve, ExtensionProvider, FederationSettings,
        FieldClasses, MtlsMode, OutboundPolicy, PathNormalization, ServiceState, TapMode, Topology,
        TracingConfig,
    },
};

/// `MeshConfig`, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// Objects in this namespace hold for the whole mesh.
    pub root_namespace: Namespace,
    /// Life of a workload's certificate.
    pub certificate_ttl: Duration,
    /// Life of a root.
    pub root_ttl: Duration,
    /// Life of an intermediate.
    pub intermediate_ttl: Duration,
    /// How long each step of a root's rotation waits for those who cannot acknowledge it.
    pub rotation_wait: Duration,
    /// mTLS where no `PeerAuthentication` says otherwise.
    pub mtls: MtlsMode,
    /// The key exchanges of mTLS between sidecars, the preferred one first. None: all that there are.
    pub ecdh_curves: Vec<EcdhCurve>,
    /// The DNS servers that proxies ask; none = those of their machine.
    pub name_servers: Vec<SocketAddr>,
    /// What stands before gateways.
    pub topology: Topology,
    /// How much one caller may hold at once.
    pub caller_shares: CallerShares,
    /// Where policies bind.
    pub authorization: AuthorizationSettings,
    /// What live taps may show.
    pub tap: TapSettings,
    /// Whose break-glass grants sidecars accept.
    pub break_glass: BreakGlass,
    /// How paths are normalised.
    pub path_normalization: PathNormalization,
    /// Servers that `AuthorizationPolicy` can name, in order of their names.
    pub extension_providers: Vec<ExtensionProvider>,
    /// What becomes of captured connections to addresses that stand for no service.
    pub outbound_policy: OutboundPolicy,
    /// Where spans go.
    pub tracing: Option<TracingConfig>,
    /// What access log lines look like.
    pub access_log: AccessLogConfig,
    /// Request headers that audit records keep, in lower case.
    pub recorded_headers: Vec<String>,
    /// Whether decisions stand that cannot be recorded.
    pub danger_pass_unrecorded: bool,
    /// What audit records keep of named values.
    pub field_classes: FieldClasses,
    /// How durable a record is before its request goes on.
    pub audit_level: AuditLevel,
    /// Room of one proxy's write-ahead log.
    pub wal_max_bytes: u64,
    /// How old a record is, at most, when it is kept as columns too.
    pub columns_after: Duration,
    /// How long records are kept; `None`: for ever.
    pub retention: Option<Duration>,
    /// Who cosigns the audit log before it acknowledges.
    pub witnesses: Witnesses,
    /// How many audit replicas run beside the mesh process.
    pub audit_replicas: u16,
    /// Those that run elsewhere.
    pub audit_replicas_elsewhere: Vec<AuditReplica>,
    /// Whether JWKS may be fetched from loopback and private addresses.
    pub danger_allow_internal_jwks: bool,
    /// Authorities that servers of JWKS are trusted by beside the public ones: certificates in PEM.
    pub jwks_authorities: Option<String>,
    /// By what service accounts' tokens of a Kubernetes cluster are believed; none: they are not.
    pub kubernetes_tokens: Option<KubernetesTokens>,
    /// Where our trust bundle is served, and how those of others are fetched.
    pub federation: FederationSettings,
}

/// By what service accounts' tokens of a Kubernetes cluster are believed. Of `keys` and `review`, each that is there must
/// accept a token; one is always there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesTokens {
    /// What a token must be for; not the API server's own audience.
    pub audience: String,
    /// The cluster's keys.
    pub keys: Option<ClusterKeys>,
    /// The cluster's API server, which is asked (TokenReview).
    pub review: Option<ReviewAt>,
}

/// The keys of a cluster's service accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterKeys {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// A JWK set.
    pub jwks: String,
}

/// An API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewAt {
    /// `https://HOST[:PORT]`.
    pub server: String,
    /// Its authorities, in PEM.
    pub ca_file: PathBuf,
    /// The token by which we may ask it.
    pub token_file: PathBuf,
}

/// How durable an audit record is before its request goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditLevel {
    /// Handed to the log's own buffer: lost if the process dies.
    Buffered,
    /// Handed to the operating system: lost only if the machine dies.
    #[default]
    Os,
    /// On the disk.
    Disk,
}

/// Who must have cosigned what the audit log acknowledges (C2SP tlog-witness).
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Witnesses {
    /// All that are asked; with none, whoever runs the log can rewrite it.
    pub asked: Vec<WitnessAt>,
    /// How many of them must cosign.
    pub quorum: u16,
    /// How long one may take.
    pub timeout: Duration,
    /// Whether the log acknowledges, and counts, where fewer do.
    pub danger_acknowledge_unwitnessed: bool,
}

/// A witness, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct WitnessAt {
    /// Where it serves plain HTTP.
    pub address: SocketAddr,
    /// What stands before `/add-checkpoint` there; empty, or a path that begins with a slash.
    pub prefix: String,
    /// Its public key, `name+hash+key`.
    pub key: String,
}

/// Which state each service is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorizationSettings {
    /// For what is not named below.
    pub state: ServiceState,
    /// By namespace.
    pub namespaces: BTreeMap<Namespace, ServiceState>,
    /// By service; wins over the namespace.
    pub services: BTreeMap<ServiceName, ServiceState>,
}

/// What live taps may show of whose traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapSettings {
    /// For what is not named below.
    pub mode: TapMode,
    /// By namespace of the workload whose sidecar is watched.
    pub namespaces: BTreeMap<Namespace, TapMode>,
}

impl TapSettings {
    /// What holds for the workloads of a namespace.
    pub fn of(&self, namespace: &Namespace) -> TapMode {
        self.namespaces.get(namespace).copied().unwrap_or(self.mode)
    }
}
