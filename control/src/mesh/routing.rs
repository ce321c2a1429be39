//! Routing as Istio's kinds say it, with hosts resolved.

use std::{collections::BTreeMap, time::Duration};

use reeve_core::{
    Namespace, ServiceName,
    model::{HeaderOps, Protocol, RetryPolicy, RouteMatch, Subset, TrafficPolicy},
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
    pub(crate) protocol: Protocol,
    /// (namespace whose `VirtualService`s may bind, if limited; host or pattern).
    pub(crate) hosts: Vec<(Option<String>, String)>,
}
