//! What a proxy knows of the workload it stands beside.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    InstanceName, Namespace, ServiceAccount, ServiceName, SpiffeId, WorkloadName,
    model::{
        BreakGlass, Destination, ExternalAuthorization, FieldClasses, GlobalRateLimit, JwtRule,
        RateLimit, RouteTableName, ServerTls, SniRoute, TelemetryConfig, TrafficPolicy,
        Transformation,
    },
};

/// The proxy's own workload: identity, listeners and the rules at its door.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadConfig {
    /// The running copy, such as `reviews-v1-0`.
    pub instance: InstanceName,
    /// The workload, such as `reviews-v1`.
    pub workload: WorkloadName,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its service account.
    pub service_account: ServiceAccount,
    /// Its SPIFFE ID.
    pub identity: SpiffeId,
    /// Kubernetes-style labels; `app` and `version` become Istio's canonical service and revision.
    pub labels: BTreeMap<String, String>,
    /// Sidecar or gateway.
    pub role: ProxyRole,
    /// The address that mesh ports (15020, …) bind.
    pub address: IpAddr,
    /// Where others' traffic comes in.
    pub inbound: Vec<InboundListener>,
    /// Where the workload's own traffic (or, for a gateway, outside traffic) comes in.
    pub outbound: Vec<OutboundListener>,
    /// The services that select this workload, parents of the resource in every decision.
    pub services: Vec<ServiceName>,
    /// The key exchanges of mTLS between sidecars, the preferred one first. None: all that there are, hybrid first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ecdh_curves: Vec<EcdhCurve>,
    /// How paths are normalised before they are judged, where a listener says nothing else.
    pub path_normalization: PathNormalization,
    /// Servers that are asked about requests before the policies are, in order of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external_authorizations: Vec<ExternalAuthorization>,
    /// The DNS servers that names of endpoints are looked up with; none = the machine's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub name_servers: Vec<SocketAddr>,
    /// What stands before a gateway.
    #[serde(default)]
    pub topology: Topology,
    /// Who speaks for clients outside: identities that the mesh's gateways alone have, ordered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<SpiffeId>,
    /// How much of the application, or of a gateway, one caller may hold at once.
    #[serde(default)]
    pub caller_shares: CallerShares,
    /// How many requests it takes.
    #[serde(default)]
    pub rate_limits: Vec<RateLimit>,
    /// What is changed of its requests and responses, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transformations: Vec<Transformation>,
    /// What it asks rate limit servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub global_rate_limits: Vec<GlobalRateLimit>,
    /// JWT rules from `RequestAuthentication`.
    pub jwt_rules: Vec<JwtRule>,
    /// Where spans go, if anywhere.
    pub tracing: Option<TracingConfig>,
    /// What is told of traffic and application.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
    /// Whose break-glass grants are accepted.
    #[serde(default, skip_serializing_if = "BreakGlass::is_empty")]
    pub break_glass: BreakGlass,
    /// Request headers (lower case) whose values the audit record keeps.
    pub recorded_headers: Vec<String>,
    /// Whether decisions stand that cannot be recorded, counted as lost, instead of being "no".
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub danger_pass_unrecorded: bool,
    /// What records keep of named values.
    #[serde(default, skip_serializing_if = "FieldClasses::is_empty")]
    pub field_classes: FieldClasses,
    /// The mesh's audit replicas, any of which takes its records; with none, the mesh process does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audit_replicas: Vec<AuditReplica>,
    /// How the kernel brings traffic to the proxy. Then the addresses of the listeners are those that connections were
    /// made *to*; the proxy binds none of them, only the two ports given here. `None`: it binds the listeners' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<Capture>,
}

/// A process that takes audit records into a log of its own, under the mesh's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReplica {
    /// Its name, such as `audit-0`.
    pub name: InstanceName,
    /// Where it serves: `ADDR:PORT`, or `unix:PATH`.
    pub address: String,
}

/// Requests at once from one connection and from one caller; `None`: the proxy's own default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerShares {
    /// From one connection.
    pub per_connection: Option<NonZeroU32>,
    /// From all connections of a caller: a workload by its identity, anybody else by address.
    pub per_caller: Option<NonZeroU32>,
}

/// Transparent capture: rules in the workload's network namespace (or machine) bring its TCP connections to the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// The port, of every local address, that the rules bring others' connections to.
    pub inbound: u16,
    /// The port, of every local address, that the rules bring the workload's own connections to.
    pub outbound: u16,
    /// How inbound connections come, and where their original destination is found.
    pub mode: CaptureMode,
    /// What becomes of connections of the workload to addresses that stand for no service.
    pub outbound_policy: OutboundPolicy,
    /// Whether plaintext is served at ports without a listener of their own.
    pub mtls: MtlsMode,
    /// Whether authorization binds at ports without a listener of their own.
    pub state: ServiceState,
}

/// How captured inbound connections reach the proxy. The workload's own always come by `Redirect`, as in Istio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CaptureMode {
    /// By destination NAT; the kernel tells the original destination (`SO_ORIGINAL_DST`).
    #[default]
    Redirect,
    /// Unchanged, to a transparent socket (`IP_TRANSPARENT`), whose local address is the original destination.
    Tproxy,
}

/// Istio's `outboundTrafficPolicy` (<https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundPolicy {
    /// Unknown destinations are connected to, and that is recorded.
    #[default]
    AllowAny,
    /// Unknown destinations are refused, and that is recorded.
    RegistryOnly,
}

/// A key exchange of TLS 1.3, by the name that Istio's `meshMTLS.ecdhCurves` and Envoy's `ecdh_curves` give it
/// (<https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#MeshConfig-TLSConfig>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EcdhCurve {
    /// X25519 and ML-KEM-768 together (draft-ietf-tls-ecdhe-mlkem): safe as long as one of the two is.
    X25519MLKEM768,
    /// X25519 (RFC 7748).
    X25519,
    /// secp256r1.
    #[serde(rename = "P-256")]
    P256,
    /// secp384r1.
    #[serde(rename = "P-384")]
    P384,
}

/// What stands before a gateway (Istio's `gatewayTopology`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Topology {
    /// Proxies before it whose `x-forwarded-for` and `x-forwarded-proto` are believed.
    pub trusted_proxies: u32,
    /// What becomes of `x-forwarded-client-cert`.
    pub client_cert: ForwardClientCert,
    /// Whether connections begin with a PROXY protocol header.
    pub proxy_protocol: bool,
}

/// What becomes of `x-forwarded-client-cert` (Istio's `forwardClientCertDetails`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ForwardClientCert {
    /// It is removed.
    Sanitize,
    /// It is kept where the client showed a certificate.
    ForwardOnly,
    /// The client's certificate is appended to it.
    AppendForward,
    /// It becomes what the client's certificate says (a gateway's default).
    #[default]
    SanitizeSet,
    /// It is kept.
    AlwaysForwardOnly,
}

/// What a proxy does for its workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyRole {
    /// Stands beside one workload, both directions.
    Sidecar,
    /// Takes traffic from outside the mesh and routes it in.
    Gateway,
}

/// A port of the workload as others reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundListener {
    /// Where the proxy listens.
    pub bind: SocketAddr,
    /// Where the application listens.
    pub app: SocketAddr,
    /// What the application speaks.
    pub protocol: Protocol,
    /// Whether plaintext is served.
    pub mtls: MtlsMode,
    /// Whether authorization binds here.
    pub state: ServiceState,
    /// The services that expose this port.
    pub services: Vec<ServiceName>,
    /// How paths of requests are normalised here.
    #[serde(default)]
    pub path_normalization: PathNormalization,
    /// Bounds on what goes to the application (Istio's `inboundConnectionPool`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Arc<TrafficPolicy>>,
}

/// A place where the proxy takes traffic to route it onward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboundListener {
    /// Where the proxy listens (in the local form: a loopback address that stands for the service).
    pub bind: SocketAddr,
    /// What is spoken here; `Tcp` needs `service`.
    pub protocol: Protocol,
    /// The route table that HTTP requests are matched in.
    pub routes: RouteTableName,
    /// The service and service port this address stands for; HTTP to an unknown authority goes there, and TCP always.
    pub service: Option<(ServiceName, u16)>,
    /// Where connections go whose bytes nobody reads, with weights; none: to `service`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tcp: Vec<Destination>,
    /// Where TLS goes by the server name in its ClientHello. With any of these, what none of them names goes nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sni: Vec<SniRoute>,
    /// TLS that is ended here, by the server name. With any of these, plaintext is not served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<ServerTls>,
    /// What becomes of HTTP to an authority that no virtual host names; `None`: there is no such place (404).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<OutboundPolicy>,
    /// Authorities (`host`, `*.suffix` or `*`) whose requests are sent to the same place by `https`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub https_redirect: Vec<String>,
    /// How paths of requests are normalised here; none: as the virtual host says, else as everywhere at this workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_normalization: Option<PathNormalization>,
}

/// What a port speaks, from the service port's name or `appProtocol` (Istio's protocol selection).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1, or HTTP/2 by prior knowledge.
    Http,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// Opaque bytes.
    Tcp,
    /// TLS of the application's own, passed through.
    Tls,
}

impl Protocol {
    /// Whether requests are visible to the proxy.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }
}

/// `PeerAuthentication`'s mode, resolved for one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MtlsMode {
    /// Plaintext only.
    Disable,
    /// Mesh mTLS or plaintext.
    Permissive,
    /// Mesh mTLS only.
    Strict,
}

impl MtlsMode {
    /// As configurations and records spell it: `DISABLE`, `PERMISSIVE` or `STRICT`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "DISABLE",
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
        }
    }
}

/// Whether a service's policies bind. Set by configuration, never derived from which policies exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// Everything is allowed; policies are not judged.
    Open,
    /// Policies are judged and recorded, and everything is allowed.
    Shadow,
    /// Policies decide; without a permit there is no access.
    #[default]
    Enforced,
}

/// How a request path is normalised before routing and policy see it (Istio's `pathNormalization`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PathNormalization {
    /// As it came.
    None,
    /// Dot segments and back-slashes resolved (RFC 3986).
    Base,
    /// `BASE`, and repeated slashes merged.
    MergeSlashes,
    /// `MERGE_SLASHES` after decoding `%2F` and `%5C`.
    DecodeAndMergeSlashes,
    /// Reeve's default: `BASE`, and a path whose structure differs under `DECODE_AND_MERGE_SLASHES` is refused with 400.
    #[default]
    RefuseAmbiguous,
}

/// Where and how often spans are exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracingConfig {
    /// OTLP/gRPC endpoint, such as `http://127.0.0.1:4317`.
    pub otlp_endpoint: String,
    /// Sampled traces per 10,000, for requests that carry no decision of their caller.
    pub sampling_per_10k: u16,
}
