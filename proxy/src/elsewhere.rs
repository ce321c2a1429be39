//! HTTP to authorities that stand for no service: Istio's `outboundTrafficPolicy`
//! (<https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#MeshConfig-OutboundTrafficPolicy>).
//!
//! `ALLOW_ANY` looks the authority's name up and passes the request on as it came, in plaintext; `REGISTRY_ONLY` answers 502.
//! Either is recorded.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{Response, uri::Authority};
use hyper::body::Incoming;
use reeve_core::{
    Namespace, ServiceName,
    decision::Reason,
    model::{OutboundPolicy, ServiceConfig, TrafficPolicy},
};
use tokio::time::timeout_at;

use crate::{
    answer::Answer,
    body::Upload,
    cluster::Cluster,
    deadline,
    dns::OnDemand,
    exchange::Exchange,
    forward::Outgoing,
    gate::{answer_refused, enter, refuse},
    head::Head,
    judge::{Peer, Place, Question},
    life::dialect,
    open::Origin,
    permit,
    route::CompiledRoute,
    snapshot::{Outbound, Snapshot},
    upgrade::{self, Wanted},
    worker::Worker,
};

/// What logs call the route to whatever an authority names.
const ALLOW_ANY: &str = "allow_any";
/// What logs call the route to nowhere.
const BLOCK_ALL: &str = "block_all";
/// The service that stands for every unknown one. No name under `invalid` is anybody's (RFC 2606).
const SERVICE: &str = "elsewhere.invalid";
/// Where an authority without a port is.
const HTTP_PORT: u16 = 80;

/// What the requests of one proxy to unknown authorities have in common.
#[derive(Debug, Default)]
pub(crate) struct Elsewhere {
    pub(crate) names: OnDemand,
}

/// A request to an authority that no virtual host names.
pub(crate) struct Unknown<'a> {
    pub(crate) worker: &'a Arc<Worker>,
    pub(crate) snapshot: &'a Arc<Snapshot>,
    pub(crate) outbound: &'a Outbound,
    /// The workload, as the one who asks.
    pub(crate) peer: Peer,
    pub(crate) head: &'a Arc<Head>,
    pub(crate) wanted: Option<&'a Wanted>,
}

type Served = (
    Response<Incoming>,
    Arc<CompiledRoute>,
    Option<tokio::time::Instant>,
);

impl Unknown<'_> {
    /// Sends it to where its authority says, or answers it.
    pub(crate) async fn serve(
        &self,
        policy: OutboundPolicy,
        upload: &Upload,
        exchange: &mut Exchange,
    ) -> Result<Served, Answer> {
        let (host, port) = target(&self.head.authority).ok_or_else(Answer::no_route)?;
        if policy == OutboundPolicy::RegistryOnly {
            exchange.route = Some(BLOCK_ALL.into());
            return Err(self.refused(None, port, exchange).await);
        }
        exchange.route = Some(ALLOW_ANY.into());
        let address = match host {
            Host::Address(address) => address,
            Host::Name(name) => self.look_up(&name).await.ok_or_else(Answer::no_address)?,
        };
        let to = SocketAddr::new(address.to_canonical(), port);
        if !is_elsewhere(self.snapshot, to) {
            return Err(self.refused(Some(to), port, exchange).await);
        }
        self.send(to, upload, exchange).await
    }

    async fn refused(&self, to: Option<SocketAddr>, port: u16, exchange: &mut Exchange) -> Answer {
        let question = self.question(to, port);
        let (worker, snapshot) = (self.worker, self.snapshot);
        refuse(worker, snapshot, &question, Reason::NotInRegistry, exchange).await
    }

    fn question(&self, to: Option<SocketAddr>, port: u16) -> Question {
        let place = Place::elsewhere(self.snapshot.workload(), to, port);
        Question {
            peer: self.peer.clone(),
            place: Arc::new(place),
            user: None,
            head: Some(self.head.clone()),
            transformed: None,
            said: None,
        }
    }

    async fn look_up(&self, name: &ServiceName) -> Option<IpAddr> {
        let names = &self.worker.proxy.elsewhere.names;
        let servers = &self.snapshot.workload().name_servers;
        names.address(name, servers).await
    }

    async fn send(
        &self,
        to: SocketAddr,
        upload: &Upload,
        exchange: &mut Exchange,
    ) -> Result<Served, Answer> {
        let (worker, snapshot, head) = (self.worker, self.snapshot, self.head);
        let question = self.question(Some(to), to.port());
        let now = worker.ledger.now();
        let permit = permit::permit_request(&question, head, snapshot, &worker.ledger, now).await;
        let permit = permit.map_err(|refused| answer_refused(refused, exchange))?;
        let proof = permit.proof();
        exchange.decided(proof.record.clone(), proof.decision.clone());
        let origin = Origin::Elsewhere(self.outbound.listener.bind);
        enter(worker, snapshot, question, origin, proof, exchange);

        let service = service(snapshot.workload().namespace.clone())?;
        let route = CompiledRoute::straight_to(service.name.clone(), to.port()).named(ALLOW_ANY);
        let cluster = Cluster::elsewhere(service, to);
        let dialect = dialect(cluster.protocol, head);
        route.retry.prepare(upload, head);
        let outgoing = Outgoing {
            cluster: &cluster,
            permit: &permit,
            plain: Some(&permit),
            changes: &upgrade::changes(self.wanted, dialect)?,
            upload,
            retry: &route.retry,
            dialect,
            hash: None,
            original: None,
        };
        let end = exchange.end().clone();
        let deadline = deadline::of(None, head);
        let sending = async {
            let sending = outgoing.send(worker, exchange);
            match deadline {
                Some(at) => timeout_at(at, sending)
                    .await
                    .unwrap_or_else(|_| Err(Answer::timeout())),
                None => sending.await,
            }
        };
        // Cancel-safe: a request that is no longer permitted is dropped with its stream.
        let answered = tokio::select! {
            answered = sending => answered,
            () = end.wait() => Err(Answer::ended()),
        };
        Ok((answered?, Arc::new(route), deadline))
    }
}

fn service(namespace: Namespace) -> Result<Arc<ServiceConfig>, Answer> {
    Ok(Arc::new(ServiceConfig {
        name: ServiceName::parse(SERVICE).map_err(|_| Answer::no_cluster())?,
        namespace,
        ports: Vec::new(),
        patterns: Vec::new(),
        identities: Vec::new(),
        traffic: TrafficPolicy::default(),
        port_traffic: std::collections::BTreeMap::new(),
        subsets: Vec::new(),
    }))
}

/// The cluster of a service that has patterns for hosts, at the address of the host that is called.
pub(crate) async fn found(
    worker: &Worker,
    snapshot: &Snapshot,
    cluster: &Arc<Cluster>,
    (host, port): (&str, u16),
    (peer, head): (Peer, Option<&Arc<Head>>),
    exchange: &mut Exchange,
) -> Result<Arc<Cluster>, Answer> {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let patterns = &cluster.service.patterns;
    let covers = |pattern: &String| {
        pattern
            .strip_prefix('*')
            .is_some_and(|s| host.len() > s.len() && host.ends_with(s))
    };
    // SECURITY: an address that stands for the service leads nowhere else.
    if !patterns.iter().any(covers) {
        return Err(Answer::no_route());
    }
    let name = ServiceName::parse(&host).map_err(|_| Answer::no_route())?;
    let names = &worker.proxy.elsewhere.names;
    let address = names
        .address(&name, &snapshot.workload().name_servers)
        .await;
    let address = address.ok_or_else(Answer::no_address)?.to_canonical();
    let to = SocketAddr::new(address, port);
    let cluster = cluster.at(to);
    // SECURITY: who owns a name under the pattern says where it leads. A machine's own network, where clouds answer with its
    // credentials, is nothing that a host of others stands for.
    if is_elsewhere(snapshot, to) && !is_link_local(address) {
        return Ok(Arc::new(cluster));
    }
    let question = Question {
        peer,
        place: Arc::new(Place::outside_cluster(&cluster, port)),
        user: None,
        head: head.cloned(),
        transformed: None,
        said: None,
    };
    Err(refuse(worker, snapshot, &question, Reason::NotInRegistry, exchange).await)
}

/// Whether an address, in canonical form, is a place outside the mesh and this machine.
///
/// SECURITY: the mesh's own doors are none. Its workloads are called by their services, by mTLS; and what comes back to this
/// proxy would go round until every descriptor is used up.
fn is_elsewhere(snapshot: &Snapshot, to: SocketAddr) -> bool {
    is_of_others(snapshot.workload().address, to.ip()) && !is_of_the_mesh(snapshot, to)
}

/// Whether another machine may have the address. Where the workload itself is on loopback, all of the mesh and what it calls are.
fn is_of_others(own: IpAddr, to: IpAddr) -> bool {
    let is_broadcast = matches!(to, IpAddr::V4(to) if to.is_broadcast());
    let is_none = to.is_unspecified() || to.is_multicast() || is_broadcast;
    !is_none && (!to.is_loopback() || own.to_canonical().is_loopback())
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Whether a proxy's own door, or a workload that its service is called by, is there.
fn is_of_the_mesh(snapshot: &Snapshot, to: SocketAddr) -> bool {
    let mut hops = snapshot.clusters.hops();
    to.ip() == snapshot.workload().address
        || snapshot.binds().contains(&to)
        || hops.any(|hop| hop.address == to && hop.identity.is_some())
}

/// Who an authority names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Address(IpAddr),
    Name(ServiceName),
}

/// Where an authority leads; `None` if it is no host and port.
pub(crate) fn target(authority: &str) -> Option<(Host, u16)> {
    let parsed: Authority = authority.parse().ok()?;
    let text = parsed.host();
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let port = match authority.strip_prefix(text)? {
        "" => HTTP_PORT,
        rest => rest.strip_prefix(':')?.parse().ok().filter(|p| *p != 0)?,
    };
    if let Ok(address) = bare.unwrap_or(text).parse() {
        return Some((Host::Address(address), port));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let name = ServiceName::parse(&name.to_ascii_lowercase()).ok()?;
    Some((Host::Name(name), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_of_this_machine_is_elsewhere() {
        let of_others = |own: &str, to: &str| {
            let to: IpAddr = to.parse().unwrap();
            is_of_others(own.parse().unwrap(), to.to_canonical())
        };
        for own in ["10.0.0.1", "127.0.0.2"] {
            for to in [
                "0.0.0.0",
                "::",
                "::ffff:0.0.0.0",
                "224.0.0.1",
                "ff02::1",
                "255.255.255.255",
            ] {
                assert!(!of_others(own, to), "{to}");
            }
            assert!(of_others(own, "10.0.0.2") && of_others(own, "2001:db8::1"));
        }
        for to in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(!of_others("10.0.0.1", to), "{to}");
            assert!(of_others("127.0.0.2", to), "{to}");
        }
    }

    #[test]
    fn a_machines_own_network_is_told() {
        for to in ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1"] {
            let to: IpAddr = to.parse().unwrap();
            assert!(is_link_local(to.to_canonical()), "{to}");
        }
        assert!(!is_link_local([169, 253, 0, 1].into()));
    }

    #[test]
    fn an_authority_is_an_address_or_a_name_and_a_port() {
        let address = |text: &str| Host::Address(text.parse().unwrap());
        let name = |text: &str| Host::Name(ServiceName::parse(text).unwrap());
        for (text, expected) in [
            ("10.0.0.1", Some((address("10.0.0.1"), 80))),
            ("10.0.0.1:8080", Some((address("10.0.0.1"), 8080))),
            ("[::1]:8080", Some((address("::1"), 8080))),
            ("[::1]", Some((address("::1"), 80))),
            ("Shop.Example:81", Some((name("shop.example"), 81))),
            ("shop.example.", Some((name("shop.example"), 80))),
            ("shop.example:0", None),
            ("shop.example:65536", None),
            ("shop.example:", None),
            ("*.example", None),
            ("me@shop.example", None),
            ("a b", None),
            ("", None),
        ] {
            assert_eq!(target(text), expected, "{text}");
        }
    }
}
