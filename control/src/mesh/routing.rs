//! Routing as Istio's kinds say it, with hosts resolved.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use reeve_core::{
    Namespace, ServiceName,
    model::{
        CorsPolicy, DestinationHeaders, Fault, HeaderMatch, HeaderOps, Protocol, Redirect,
        RetryPolicy, Rewrite, RouteMatch, SecretName, Subset, TlsVersion, TrafficPolicy,
    },
};

use super::Subnet;

/// A `VirtualService`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VirtualService {
    pub(crate) namespace: Namespace,
    pub(crate) name: String,
    /// Namespaces that see it; none = all.
    pub(crate) export_to: Vec<String>,
    /// Full hosts, in lower case; may be `*` or `*.suffix`.
    pub(crate) hosts: Vec<String>,
    /// Whether sidecars take it (`mesh`).
    pub(crate) in_mesh: bool,
    /// Gateways that take it: (namespace, name).
    pub(crate) gateways: Vec<(Namespace, String)>,
    pub(crate) http: Vec<HttpRoute>,
    pub(crate) tls: Vec<TlsRoute>,
    pub(crate) tcp: Vec<TcpRoute>,
    pub(crate) precedence: Precedence,
}

impl VirtualService {
    /// Whether a rule for HTTP is for callers of certain labels.
    pub(crate) fn asks_for_labels(&self) -> bool {
        let mut matches = self.http.iter().flat_map(|rule| &rule.matches);
        matches.any(|one| !one.at.source_labels.is_empty())
    }
}

/// Which of several rules that match is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Precedence {
    /// The first as they are written: `VirtualService`.
    #[default]
    Written,
    /// The most specific: Gateway API. Each rule has one match.
    MostSpecific,
}

/// One `http` entry. What it does not say stays open, since a delegate takes it from its root.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HttpRoute {
    pub(crate) name: Option<String>,
    pub(crate) matches: Vec<Match>,
    pub(crate) to: RouteTo,
    /// `Some(None)` = said to be without bound.
    pub(crate) timeout: Option<Option<Duration>>,
    pub(crate) retries: Option<RetryPolicy>,
    pub(crate) fault: Option<Fault>,
    pub(crate) headers: Option<Headers>,
    pub(crate) cors: Option<CorsPolicy>,
    pub(crate) mirrors: Option<Vec<MirrorTo>>,
    /// A rewrite without a destination: for a delegate to take.
    pub(crate) rewrite: Option<Rewrite>,
}

impl HttpRoute {
    /// Does this, and nothing else.
    pub(crate) fn new(to: RouteTo) -> Self {
        Self {
            name: None,
            matches: Vec::new(),
            to,
            timeout: None,
            retries: None,
            fault: None,
            headers: None,
            cors: None,
            mirrors: None,
            rewrite: None,
        }
    }
}

/// Changes to headers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Headers {
    pub(crate) request: HeaderOps,
    pub(crate) response: HeaderOps,
}

/// A destination that gets copies.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MirrorTo {
    pub(crate) to: To,
    /// How many of a million requests.
    pub(crate) per_million: u32,
    /// Headers that a request must have to be copied.
    pub(crate) headers: BTreeMap<String, HeaderMatch>,
    /// Headers that copies go without.
    pub(crate) remove_headers: Vec<String>,
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
    /// Of the address that was connected to; none = any.
    pub(crate) destination_subnets: Vec<Subnet>,
}

impl At {
    /// Whether connections to `address` are meant.
    pub(crate) fn reaches(&self, address: IpAddr) -> bool {
        let subnets = &self.destination_subnets;
        subnets.is_empty() || subnets.iter().any(|subnet| subnet.contains(address))
    }
}

/// What an `http` entry does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RouteTo {
    /// The entry's `rewrite` holds.
    Forward(Vec<To>),
    Redirect {
        redirect: Redirect,
        /// Whether the port is the one that the request came to.
        request_port: bool,
    },
    Respond {
        status: u16,
        body: Vec<u8>,
    },
    /// The rules of another `VirtualService`.
    Delegate(Namespace, String),
}

/// A weighted destination.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct To {
    pub(crate) service: ServiceName,
    pub(crate) subset: Option<String>,
    /// `None` = the service's only port, else the listener's.
    pub(crate) port: Option<u16>,
    pub(crate) weight: u32,
    pub(crate) headers: Option<Box<DestinationHeaders>>,
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
    /// Where it holds, one of them; none = everywhere.
    pub(crate) matches: Vec<At>,
    pub(crate) to: Vec<To>,
}

/// A `DestinationRule`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DestinationRule {
    pub(crate) namespace: Namespace,
    /// Namespaces that see it; none = all.
    pub(crate) export_to: Vec<String>,
    pub(crate) traffic: TrafficPolicy,
    /// By service port, instead of `traffic`.
    pub(crate) port_traffic: BTreeMap<u16, TrafficPolicy>,
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
    /// Where it listens, if not at the workload's own address.
    pub(crate) bind: Option<IpAddr>,
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
    /// The mesh's own is passed on by its server name, which tells service, subset and port.
    AutoPassthrough,
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

impl Gateway {
    /// Whether `workload` serves it. Istio's gateways have workloads everywhere, those of Gateway API (whose names have
    /// a `~`) in their own namespace.
    pub(crate) fn selects(&self, workload: &super::LocalWorkload) -> bool {
        super::is_subset(&self.selector, &workload.labels)
            && (!self.name.contains('~') || self.namespace == workload.namespace)
    }
}

impl GatewayServer {
    /// What can be told apart on one port: plaintext HTTP, other plaintext, TLS.
    pub(crate) fn sort(&self) -> &'static str {
        match (self.is_tls(), self.protocol.is_http()) {
            (true, _) => "TLS",
            (false, true) => "HTTP",
            (false, false) => "TCP",
        }
    }

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
