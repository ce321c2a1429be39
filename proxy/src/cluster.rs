//! Clusters: the endpoints of a service, or of one of its subsets, at one port, and how they are reached.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use foldhash::HashMap;
use reeve_core::{
    ServiceName, SpiffeId,
    model::{
        ClientTls, Endpoint, EndpointSet, LoadBalancer, Locality, Protocol, ProxyConfig,
        ServiceConfig, ServicePort, TrafficPolicy,
    },
};

use crate::{
    balance::{HashTable, LocalityPlace, LocalitySite, Spread, Turn},
    breaker::{ClusterState, Shared},
    busy::Load,
    dns::{self, Answers},
    edge::{Material, Originated},
    outlier::HostState,
    peer_info::PeerInfo,
    pool::Terms,
    snapshot::Snapshot,
};

/// Names a cluster: service, subset, service port.
pub(crate) type ClusterKey = (ServiceName, Option<String>, u16);

/// The clusters of one snapshot.
#[derive(Debug, Default)]
pub(crate) struct Clusters(HashMap<ClusterKey, Arc<Cluster>>);

impl Clusters {
    /// Every cluster that a route or listener could name; those that are as in `before` are kept.
    pub(crate) fn compile(
        config: &ProxyConfig,
        before: Option<&Snapshot>,
        answers: &Answers,
        material: &Material<'_>,
    ) -> Self {
        let mut clusters = HashMap::default();
        let own = LocalityPlace {
            locality: Locality::of_labels(&config.workload.labels),
            labels: &config.workload.labels,
        };
        for (name, service) in &config.services {
            let kept = before.filter(|before| is_unchanged(name, config, &before.config));
            let known = |key: &ClusterKey| kept.and_then(|kept| kept.clusters.get(key));
            let endpoints = config.endpoints.get(name);
            let endpoints = endpoints.map(|set| dns::expand(set, answers));
            let compile = |port, part| {
                let endpoints = endpoints.as_deref();
                Arc::new(Cluster::compile(service, port, part, endpoints, &own).secured(material))
            };
            for port in &service.ports {
                let traffic = service.port_traffic.get(&port.port);
                let whole = (None, traffic.unwrap_or(&service.traffic));
                let parts = service.subsets.iter().map(|subset| {
                    let traffic = subset.port_traffic.get(&port.port);
                    let part = (Some(&subset.labels), traffic.unwrap_or(&subset.traffic));
                    (Some(subset.name.clone()), part)
                });
                for (subset, part) in std::iter::once((None, whole)).chain(parts) {
                    let key = (name.clone(), subset, port.port);
                    let cluster = known(&key).cloned();
                    let cluster = cluster.unwrap_or_else(|| compile(port, part));
                    clusters.insert(key, cluster);
                }
            }
        }
        Self(clusters)
    }

    /// The cluster of that name.
    pub(crate) fn get(&self, key: &ClusterKey) -> Option<&Arc<Cluster>> {
        self.0.get(key)
    }

    /// Each, with its name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ClusterKey, &Arc<Cluster>)> {
        self.0.iter()
    }

    /// Every endpoint of every cluster.
    pub(crate) fn hops(&self) -> impl Iterator<Item = &Arc<Hop>> {
        self.0.values().flat_map(|cluster| &cluster.hops)
    }
}

/// Whether a service's clusters come out as they did: neither what DNS says nor certificates are part of them.
fn is_unchanged(name: &ServiceName, config: &ProxyConfig, before: &ProxyConfig) -> bool {
    let Some(service) = config.services.get(name) else {
        return false;
    };
    let endpoints = config.endpoints.get(name);
    before.services.get(name) == Some(service)
        && before.endpoints.get(name) == endpoints
        && before.workload.labels == config.workload.labels
        && endpoints.is_none_or(|set| set.names.is_empty())
        && service
            .policies()
            .all(|policy| !matches!(policy.tls, ClientTls::Originate(_)))
}

/// One cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) service: Arc<ServiceConfig>,
    pub(crate) protocol: Protocol,
    pub(crate) traffic: TrafficPolicy,
    pub(crate) hops: Vec<Arc<Hop>>,
    pub(crate) turn: Turn,
    /// Whether any endpoint is in the mesh.
    pub(crate) is_meshed: bool,
    /// Whether an endpoint is chosen by the load balancer alone.
    pub(crate) is_plain: bool,
    /// The greatest weight of an endpoint, where they differ.
    pub(crate) heaviest: Option<u32>,
    /// Near and far endpoints.
    pub(crate) spread: Spread,
    /// From hash to endpoint, where that is how one is chosen.
    pub(crate) table: Option<HashTable>,
    /// What is under way to it.
    pub(crate) state: Shared<ClusterState>,
}

/// One endpoint as this proxy reaches it.
#[derive(Debug)]
pub(crate) struct Hop {
    pub(crate) address: SocketAddr,
    /// The address as logs have it.
    pub(crate) upstream: Arc<str>,
    /// Whose it is, for metric labels; the workload's name as far as the instance's name tells it.
    pub(crate) info: Arc<PeerInfo>,
    pub(crate) identity: Option<SpiffeId>,
    pub(crate) security: Security,
    /// Its share, relative to the others'.
    pub(crate) weight: u32,
    pub(crate) load: Load,
    /// How it has behaved.
    pub(crate) host: Shared<HostState>,
}

/// How an endpoint is spoken to. Never decided again per connection: no fall-back from one to the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Security {
    /// Mesh mTLS; the server must show one of these.
    Mesh(Arc<[SpiffeId]>),
    /// Plaintext.
    Plain,
    /// TLS as anyone speaks it.
    Tls(Arc<Originated>),
    /// mTLS is demanded, and the endpoint cannot do it.
    Unreachable,
}

impl Cluster {
    /// What is under way to it.
    pub(crate) fn state(&self) -> &Arc<ClusterState> {
        self.state.get_or(ClusterState::new)
    }

    /// How an endpoint of it has behaved.
    pub(crate) fn host<'h>(&self, hop: &'h Hop) -> &'h Arc<HostState> {
        hop.host.get_or(|| HostState::new(self.state().now()))
    }

    /// One address outside the mesh that no service stands for, spoken to in plaintext.
    pub(crate) fn elsewhere(service: Arc<ServiceConfig>, address: SocketAddr) -> Self {
        let hop = Hop {
            address,
            upstream: address.to_string().into(),
            info: Arc::default(),
            identity: None,
            security: Security::Plain,
            weight: 1,
            load: Load::default(),
            host: Shared::default(),
        };
        Self {
            service,
            protocol: Protocol::Http,
            traffic: TrafficPolicy::default(),
            hops: vec![Arc::new(hop)],
            turn: Turn::random(),
            is_meshed: false,
            is_plain: true,
            heaviest: None,
            spread: Spread::Flat,
            table: None,
            state: Shared::default(),
        }
    }

    /// The same at one address, which was found by the name that is called. TLS is not begun there.
    pub(crate) fn at(&self, address: SocketAddr) -> Self {
        let security = match self.traffic.tls {
            ClientTls::Auto | ClientTls::Disable => Security::Plain,
            ClientTls::Mutual | ClientTls::Originate(_) => Security::Unreachable,
        };
        let found = Self::elsewhere(self.service.clone(), address);
        let hops = found.hops.into_iter().filter_map(Arc::into_inner);
        Self {
            protocol: self.protocol,
            traffic: self.traffic.clone(),
            hops: hops
                .map(|hop| {
                    Arc::new(Hop {
                        security: security.clone(),
                        ..hop
                    })
                })
                .collect(),
            state: Shared::of(self.state().clone()),
            ..Self::elsewhere(self.service.clone(), address)
        }
    }

    /// What its connections may be made and used for.
    pub(crate) fn terms(&self) -> Terms<'_> {
        Terms::of(self)
    }

    fn compile(
        service: &Arc<ServiceConfig>,
        port: &ServicePort,
        (labels, traffic): (Option<&BTreeMap<String, String>>, &TrafficPolicy),
        endpoints: Option<&EndpointSet>,
        own: &LocalityPlace<'_>,
    ) -> Self {
        let expected: Arc<[SpiffeId]> = service.identities.clone().into();
        let selected = |e: &&Endpoint| {
            labels.is_none_or(|labels| labels.iter().all(|(k, v)| e.labels.get(k) == Some(v)))
        };
        let hop = |endpoint: &Endpoint| {
            let port = endpoint.ports.get(&port.port)?;
            let address = SocketAddr::new(endpoint.address, *port);
            let workload = workload_of(endpoint.instance.as_str());
            let namespace = service.namespace.as_str();
            Some(Arc::new(Hop {
                address,
                upstream: address.to_string().into(),
                info: Arc::new(PeerInfo::from_labels(workload, namespace, &endpoint.labels)),
                identity: endpoint.identity.clone(),
                security: security(&traffic.tls, endpoint, &expected),
                weight: endpoint.weight,
                load: Load::default(),
                host: Shared::default(),
            }))
        };
        let endpoints = endpoints
            .map(|set| set.endpoints.as_slice())
            .unwrap_or_default();
        let serving = |e: &&Endpoint| e.ports.contains_key(&port.port);
        let serving: Vec<&Endpoint> = endpoints.iter().filter(selected).filter(serving).collect();
        let hops: Vec<Arc<Hop>> = serving.iter().copied().filter_map(hop).collect();
        let sites: Vec<LocalitySite<'_>> = serving
            .iter()
            .map(|endpoint| LocalitySite {
                locality: Locality::of_labels(&endpoint.labels),
                labels: &endpoint.labels,
            })
            .collect();
        let fails_over = traffic.outlier.is_some();
        let spread = Spread::new(traffic.locality.as_ref(), own, &sites, fails_over);
        let names: Vec<&str> = hops.iter().map(|hop| hop.upstream.as_ref()).collect();
        let table = traffic.hash.as_ref();
        let table = table.and_then(|hash| HashTable::new(hash.table, &names));
        let weights = || hops.iter().map(|hop| hop.weight);
        let heaviest = weights().max().filter(|most| weights().any(|w| w != *most));
        let is_mesh = |hop: &Arc<Hop>| matches!(hop.security, Security::Mesh(_));
        Self {
            service: service.clone(),
            protocol: port.protocol,
            traffic: traffic.clone(),
            is_meshed: hops.iter().any(is_mesh),
            is_plain: spread == Spread::Flat
                && table.is_none()
                && heaviest.is_none()
                && traffic.warmup.is_none()
                && traffic.load_balancer != LoadBalancer::Passthrough,
            heaviest,
            spread,
            table,
            hops,
            turn: Turn::random(),
            state: Shared::default(),
        }
    }
}

fn security(tls: &ClientTls, endpoint: &Endpoint, expected: &Arc<[SpiffeId]>) -> Security {
    match (tls, &endpoint.identity) {
        (ClientTls::Disable, _) | (ClientTls::Auto, None) => Security::Plain,
        // Reachable once there is what TLS is begun with.
        (ClientTls::Mutual, None) | (ClientTls::Originate(_), _) => Security::Unreachable,
        (ClientTls::Auto | ClientTls::Mutual, Some(_)) => Security::Mesh(expected.clone()),
    }
}

impl Cluster {
    /// With TLS begun by the certificates that there are now; without them, no endpoint can be reached.
    fn secured(mut self, material: &Material<'_>) -> Self {
        let ClientTls::Originate(options) = &self.traffic.tls else {
            return self;
        };
        match Originated::new(options, &self.service.name, material) {
            Ok(tls) => {
                let security = Security::Tls(Arc::new(tls));
                for hop in self.hops.iter_mut().filter_map(Arc::get_mut) {
                    hop.security = security.clone();
                }
            }
            Err(error) => {
                tracing::warn!(service = %self.service.name, %error, "TLS to it cannot be begun");
            }
        }
        self
    }
}

impl Security {
    /// Whether there is nobody at the other end who judges.
    pub(crate) fn is_outside(&self) -> bool {
        matches!(self, Self::Plain | Self::Tls(_))
    }
}

/// `reviews-v1-0` → `reviews-v1`: an instance's name is its workload's and a suffix.
pub(crate) fn workload_of(instance: &str) -> &str {
    instance
        .rsplit_once('-')
        .map_or(instance, |(workload, _)| workload)
}

#[cfg(test)]
mod tests;
