//! Routing as Istio's kinds say it, with hosts resolved.

use std::{collections::BTreeMap, time::Duration};

use reeve_core::{
    Namespace, ServiceName,
    model::{
        HeaderOps, Protocol, RetryPolicy, RouteMatch, SecretName, Subset, TlsVersion, TrafficPolicy,
    },
};

/// A `VirtualService`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VirtualService {
    pub(crate) namespace: Namespace,
    pub(crate) name: String,
    /// Full hosts, in lower case; may be `*` or `*.suffix`.
    pub(crate) hosts: Vec<String>,
    /// Whether sidecars take it (`mesh`).
    pub(crate) in_mesh: bool,
    /// Gateways that take it: (namespace, name).
    pub(crate) gateways: Vec<(Namespace, String)>,
    pub(crate) http: Vec<HttpRoute>,
    pub(crate) tls: Vec<TlsRoute>,
    pub(crate) tcp: Vec<TcpRoute>,
}

/// One `http` entry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HttpRoute {
    pub(crate) name: Option<String>,
    pub(crate) matches: Vec<Match>,
    pub(crate) to: RouteTo,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: RetryPolicy,
    pub(crate) request_headers: HeaderOps,
    pub(crate) response_headers: HeaderOps,
}

/// One `match` entry: what the request must be, and for which listeners and proxies it holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Match {
    pub(crate) request: RouteMatch,
    pub(crate) at: At,
}

/// The listeners and proxies that a `match` entry holds for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct At {
    pub(crate) port: Option<u16>,
    pub(crate) in_mesh: bool,
    pub(crate) gateways: Vec<(Namespace, String)>,
    pub(crate) source_labels: BTreeMap<String, String>,
    pub(crate) source_namespace: Option<String>,
}

/// What an `http` entry does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RouteTo {
    Forward {
        to: Vec<To>,
        rewrite_uri: Option<String>,
        rewrite_authority: Option<String>,
    },
    Redirect {
        uri: Option<String>,
        authority: Option<String>,
        code: u16,
    },
    Respond {
        status: u16,
        body: String,
    },
}

/// A weighted destination.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct To {
    pub(crate) service: ServiceName,
    pub(crate) subset: Option<String>,
    /// `None` = the service's only port, else the listener's.
    pub(crate) port: Option<u16>,
    pub(crate) weight: u32,
}

/// One `tls` entry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TlsRoute {
    pub(crate) matches: Vec<TlsMatch>,
    pub(crate) to: Vec<To>,
}

/// One `match` entry of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TlsMatch {
    /// Server names in lower case; may be `*` or `*.suffix`.
    pub(crate) sni_hosts: Vec<String>,
    pub(crate) at: At,
}

/// One `tcp` entry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TcpRoute {
    /// Ports it holds for; none = all.
    pub(crate) ports: Vec<u16>,
    pub(crate) to: To,
}

/// A `DestinationRule`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DestinationRule {
    pub(crate) traffic: TrafficPolicy,
    pub(crate) subsets: Vec<Subset>,
}

/// A `Gateway`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Gateway {
    pub(crate) namespace: Namespace,
    pub(crate) name: String,
    pub(crate) selector: BTreeMap<String, String>,
    pub(crate) servers: Vec<GatewayServer>,
}

/// One of its servers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GatewayServer {
    pub(crate) port: u16,
    /// What is spoken, inside TLS where that is ended.
    pub(crate) protocol: Protocol,
    pub(crate) tls: GatewayTls,
    /// Whether requests in plaintext are sent to `https`.
    pub(crate) https_redirect: bool,
    /// (namespace whose `VirtualService`s may bind, if limited; host or pattern).
    pub(crate) hosts: Vec<(Option<String>, String)>,
}

/// TLS at a server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum GatewayTls {
    /// There is none.
    None,
    /// It is passed on by its server name.
    Passthrough,
    /// It is ended, for workloads of the mesh.
    Mesh,
    /// It is ended by a certificate of its own.
    Public(GatewayCertificates),
}

/// By what a server ends TLS. Names without a namespace are of the gateway workload's own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GatewayCertificates {
    pub(crate) certificates: Vec<Credential>,
    pub(crate) client: Option<GatewayClients>,
    pub(crate) min_version: TlsVersion,
    pub(crate) max_version: TlsVersion,
    pub(crate) cipher_suites: Vec<String>,
}

/// What is asked of clients.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GatewayClients {
    pub(crate) required: bool,
    pub(crate) authorities: Credential,
    pub(crate) subject_alt_names: Vec<String>,
    pub(crate) pins: Vec<String>,
}

/// Where certificates come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Credential {
    /// A `Secret`.
    Secret {
        namespace: Option<Namespace>,
        name: String,
    },
    /// Files of a certificate and its key.
    Files { certificate: String, key: String },
    /// Files of authorities, and of what they revoked.
    Authorities {
        authorities: String,
        revoked: Option<String>,
    },
}

impl GatewayServer {
    /// Whether TLS is spoken on its port.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls != GatewayTls::None
    }
}

impl Credential {
    /// The `Secret`'s name, for a workload of `own` namespace.
    pub(crate) fn secret_of(&self, own: &Namespace) -> Option<SecretName> {
        match self {
            Self::Secret { namespace, name } => {
                let namespace = namespace.as_ref().unwrap_or(own);
                Some(SecretName(format!("{namespace}/{name}")))
            }
            Self::Files { .. } | Self::Authorities { .. } => None,
        }
    }
}
