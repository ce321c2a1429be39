//! Services as a client's proxy sees them: ports, subsets, endpoints and how to reach them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::traffic::{
    ConsistentHash, HttpPool, LocalityPolicy, OutlierDetection, RetryBudget, TcpPool, Warmup,
};
use crate::{
    InstanceName, Namespace, ServiceName, SpiffeId,
    model::{OriginateTls, Protocol},
};

/// A service and how its clients talk to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceConfig {
    /// Full host name.
    pub name: ServiceName,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// `*.suffix` or `*`: it has no endpoints of its own; what is called by a name under one of these is looked up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<String>,
    /// The SPIFFE IDs a server of this service may present; any other is refused in the handshake.
    pub identities: Vec<SpiffeId>,
    /// Settings for all subsets.
    pub traffic: TrafficPolicy,
    /// `portLevelSettings`: instead of `traffic`, by service port.
    #[serde(default)]
    pub port_traffic: BTreeMap<u16, TrafficPolicy>,
    /// `DestinationRule` subsets, in their order.
    pub subsets: Vec<Subset>,
}

impl ServiceConfig {
    /// Every policy by which the service, or a part of it, is called.
    pub fn policies(&self) -> impl Iterator<Item = &TrafficPolicy> {
        let subsets = self.subsets.iter().flat_map(|subset| {
            let ports = subset.port_traffic.values();
            ports.chain([&subset.traffic])
        });
        let own = self.port_traffic.values().chain([&self.traffic]);
        subsets.chain(own)
    }

    /// The same, to change them.
    pub fn policies_mut(&mut self) -> impl Iterator<Item = &mut TrafficPolicy> {
        let subsets = self.subsets.iter_mut().flat_map(|subset| {
            let ports = subset.port_traffic.values_mut();
            ports.chain([&mut subset.traffic])
        });
        let own = self.port_traffic.values_mut().chain([&mut self.traffic]);
        subsets.chain(own)
    }
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// The port clients use.
    pub port: u16,
    /// Its name, such as `http`.
    pub name: String,
    /// What it speaks.
    pub protocol: Protocol,
}

/// A named part of a service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subset {
    /// Name that routes refer to.
    pub name: String,
    /// Labels an endpoint must have.
    pub labels: BTreeMap<String, String>,
    /// Settings for this subset, already merged over the service's.
    pub traffic: TrafficPolicy,
    /// The same for ports that have settings of their own.
    #[serde(default)]
    pub port_traffic: BTreeMap<u16, TrafficPolicy>,
}

/// `DestinationRule` traffic policy, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficPolicy {
    /// How an endpoint is chosen.
    pub load_balancer: LoadBalancer,
    /// Bound on making a connection.
    pub connect_timeout: Duration,
    /// Whether the client speaks mesh mTLS.
    pub tls: ClientTls,
    /// How connections carry HTTP.
    #[serde(default)]
    pub http: HttpPool,
    /// Bounds on connections.
    #[serde(default)]
    pub tcp: TcpPool,
    /// When an endpoint is taken out for a while; `None` = never.
    #[serde(default)]
    pub outlier: Option<OutlierDetection>,
    /// Retries at once; `None` = `http.max_retries` alone bounds them.
    #[serde(default)]
    pub retry_budget: Option<RetryBudget>,
    /// Which endpoint a request belongs to; over `load_balancer`.
    #[serde(default)]
    pub hash: Option<ConsistentHash>,
    /// How endpoints elsewhere are used; `None` = switched off.
    #[serde(default)]
    pub locality: Option<LocalityPolicy>,
    /// How new endpoints get traffic by and by; `None` = their whole share at once.
    #[serde(default)]
    pub warmup: Option<Warmup>,
}

impl Default for TrafficPolicy {
    /// Istio's defaults: least request, 10 s to connect, mTLS where both ends are in the mesh.
    fn default() -> Self {
        Self {
            load_balancer: LoadBalancer::default(),
            connect_timeout: Duration::from_secs(10),
            tls: ClientTls::default(),
            http: HttpPool::default(),
            tcp: TcpPool::default(),
            outlier: None,
            retry_budget: None,
            hash: None,
            locality: Some(LocalityPolicy::default()),
            warmup: None,
        }
    }
}

/// How one of several endpoints is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LoadBalancer {
    /// Each in turn.
    RoundRobin,
    /// The less busy of two picked at random (Istio's default).
    #[default]
    LeastRequest,
    /// Any, at random.
    Random,
    /// Where the application itself wanted to go, if that is one of them; else none.
    Passthrough,
}

/// Whether a client's proxy speaks mesh mTLS to a service, or other TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClientTls {
    /// mTLS to endpoints that are in the mesh, plaintext to others. Never a fall-back from one to the other.
    #[default]
    Auto,
    /// Always mTLS (`ISTIO_MUTUAL`); an endpoint outside the mesh cannot be reached.
    Mutual,
    /// Never TLS (`DISABLE`).
    Disable,
    /// TLS as anyone speaks it (`SIMPLE`, `MUTUAL`).
    Originate(Arc<OriginateTls>),
}

/// The running endpoints of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSet {
    /// The service they belong to.
    pub service: ServiceName,
    /// The endpoints; those that are not healthy are left out by `control`.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints that are known by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<NamedEndpoint>,
}

/// Endpoints that the proxy finds by DNS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedEndpoint {
    /// What it is called.
    pub instance: InstanceName,
    /// The name to look up.
    pub host: ServiceName,
    /// Service port → port at its addresses.
    pub ports: BTreeMap<u16, u16>,
    /// Labels that subsets select by.
    pub labels: BTreeMap<String, String>,
    /// Which of its addresses are endpoints.
    pub take: DnsTake,
    /// The share of each, relative to the other endpoints'.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
}

/// Which of a name's addresses are endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DnsTake {
    /// All of them (`DNS`).
    All,
    /// The first of each answer (`DNS_ROUND_ROBIN`).
    First,
}

/// One place where a service runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The instance that runs there.
    pub instance: InstanceName,
    /// Its address.
    pub address: IpAddr,
    /// Service port → port at this address.
    pub ports: BTreeMap<u16, u16>,
    /// Labels that subsets select by.
    pub labels: BTreeMap<String, String>,
    /// The identity behind it, if it is in the mesh; a mesh endpoint takes mTLS.
    pub identity: Option<SpiffeId>,
    /// Its share, relative to the other endpoints'.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_one(weight: &u32) -> bool {
    *weight == 1
}
