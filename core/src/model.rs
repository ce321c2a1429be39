//! The mesh model: what a proxy is told. It is the only thing that `control` and `proxy` share.
//!
//! `control` makes one immutable [`ProxyConfig`] per proxy and *generation*. On the way to the proxy it is a set
//! of named [`Resource`]s, of which only the changed ones travel; [`ProxyConfig::resources`] and
//! [`ProxyConfig::from_resources`] are inverses (property-tested). A proxy switches to a generation as a whole.

mod break_glass;
mod circuit;
mod external;
mod fault;
mod federation;
mod global_limit;
mod policy;
mod rate_limit;
mod recording;
mod resource;
mod retry;
mod route;
mod service;
mod telemetry;
mod tls;
mod traffic;
mod transformation;
mod workload;

pub use break_glass::{BreakGlass, NotAKey, SignerKey};
pub use circuit::OpenCircuit;
pub use external::{
    BodyInCheck, ExtensionProvider, ExternalAuthorization, HttpCheck, NamePattern, ProviderForm,
};
pub use fault::{Abort, AbortFault, BandwidthFault, DelayFault, Fault};
pub use federation::{
    BundleEndpoint, BundleServing, EndpointProfile, FederatedDomain, Federation, FederationSettings,
};
pub use global_limit::{
    DescriptorEntry, DescriptorRule, DescriptorValue, GlobalRateLimit, LimitServer, OnFailure,
};
pub use policy::{
    EntityName, EntityRecord, JwksDocument, JwtHeader, JwtRule, PolicyMode, PolicySlice,
    PolicySource, SvidIssuer,
};
pub use rate_limit::{RateKey, RateLimit};
pub use recording::{CONTEXT_FIELDS, FieldClass, FieldClasses, JoinKey};
pub use resource::{ProxyConfig, Resource, ResourceError, ResourceKind};
pub use retry::RetryPolicy;
pub use route::{
    CorsPolicy, Destination, DestinationHeaders, HeaderMatch, HeaderOps, Mirror, PathRewrite,
    Redirect, Rewrite, Route, RouteAction, RouteMatch, RouteTable, RouteTableName, SniRoute,
    StringMatch, VirtualHost,
};
pub use service::{
    ClientTls, DnsTake, Endpoint, EndpointSet, LoadBalancer, NamedEndpoint, ServiceConfig,
    ServicePort, Subset, TrafficPolicy,
};
pub use telemetry::{AppMetrics, TapMode, TelemetryConfig};
pub use tls::{
    AuthoritySource, CertificateSource, ClientCertificates, KeyPem, OriginateTls, PublicTls,
    SecretName, ServerTls, ServerTlsMode, TlsSecret, TlsVersion,
};
pub use traffic::{
    ConsistentHash, Distribute, FailurePercentage, H2Upgrade, HashKey, HashTable, HttpPool,
    Locality, LocalityPolicy, Millionths, OutlierDetection, RetryBudget, SuccessRate, TcpKeepalive,
    TcpPool, Warmup,
};
pub use transformation::{
    BodyChange, BodyChanges, Find, Otherwise, QueryOps, Replacement, RequestChanges,
    ResponseChanges, Transformation, is_untouchable,
};
pub use workload::{
    AuditReplica, CallerShares, Capture, CaptureMode, EcdhCurve, ForwardClientCert,
    InboundListener, MtlsMode, OutboundListener, OutboundPolicy, PathNormalization, Protocol,
    ProxyRole, ServiceState, Topology, TracingConfig, WorkloadConfig,
};

use std::fmt;

use serde::{Deserialize, Serialize};

/// A numbered configuration of the whole mesh; every accepted change makes the next one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests;
