//! The life of a TCP connection: decide on `connect`, record, connect, pass bytes until either end closes or the
//! permit is gone.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use reeve_core::decision::Principal;
use reeve_svid::alpn;
use tokio::io::copy_bidirectional_with_sizes;

use crate::{
    balance,
    cluster::{Cluster, Hop, Security},
    connect::{self, ConnectError, Upstream},
    exchange::Exchange,
    io::{Io, Line},
    judge::{Peer, Place, Question},
    life::Arrival,
    limits::{APP_CONNECT_TIMEOUT, RELAY_BUFFER_BYTES},
    metrics::Ends,
    open::Origin,
    peer_info::PeerInfo,
    permit::{ConnectPermit, Refused, permit_connection},
    proxy::Shared,
    snapshot::{Outbound, Snapshot},
};

/// A connection to the workload.
pub(crate) async fn inbound(proxy: &Arc<Shared>, arrival: &Arrival, io: impl Io) {
    let Some(snapshot) = proxy.snapshot() else {
        return;
    };
    let Some(listener) = snapshot.inbound.get(&arrival.bind) else {
        return;
    };
    let mut exchange = Exchange::begin(&proxy.telemetry, inbound_ends(arrival, &snapshot));
    exchange.peer_address = Some(arrival.peer.address);
    exchange.ends.service = listener
        .services
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    let question = Question {
        peer: arrival.peer.clone(),
        place: Place::inbound(&snapshot, listener),
        user: None,
        head: None,
    };
    let origin = Origin::Inbound(arrival.bind);
    let Some(_permit) = permitted(proxy, &snapshot, question, origin, &mut exchange) else {
        return;
    };
    match connect::plain(listener.app, APP_CONNECT_TIMEOUT).await {
        Ok(upstream) => {
            exchange.upstream = Some(listener.app.to_string());
            relay(proxy, io, upstream, exchange).await;
        }
        Err(error) => failed(&error, exchange),
    }
}

/// A connection of the workload (or, at a gateway, from outside) to the service that its address stands for.
pub(crate) async fn outbound(
    proxy: &Arc<Shared>,
    snapshot: &Arc<Snapshot>,
    outbound: &Outbound,
    address: SocketAddr,
    io: impl Io,
) {
    let mut exchange = Exchange::begin(
        &proxy.telemetry,
        Ends {
            reporter: "source",
            protocol: "tcp",
            ..Ends::default()
        },
    );
    exchange.peer_address = Some(address.ip());
    let Some((service, port)) = &outbound.listener.service else {
        return exchange.flag("NR");
    };
    exchange.ends.service = service.to_string();
    let key = (service.clone(), None, *port);
    let Some(cluster) = snapshot.clusters.get(&key) else {
        return exchange.flag("NC");
    };
    let gateway = snapshot.is_gateway();
    let own = Principal::Workload(snapshot.workload().identity.clone());
    if gateway {
        let peer = Peer::stranger(address.ip());
        let place = Place::gateway(snapshot, outbound.listener.bind.port());
        let question = Question {
            peer,
            place,
            user: None,
            head: None,
        };
        if permitted(proxy, snapshot, question, Origin::Outbound, &mut exchange).is_none() {
            return;
        }
    } else {
        exchange.ends.source = snapshot.own.clone();
        exchange.ends.source_principal = own.to_string();
    }
    let hops: Vec<&Arc<Hop>> = cluster.hops.iter().collect();
    let load = |hop: &Arc<Hop>| proxy.pools.load(hop.address);
    let how = cluster.traffic.load_balancer;
    let Some(hop) = balance::pick(&hops, how, &cluster.turn, load, &mut rand::rng()) else {
        return exchange.flag("UH");
    };
    if hop.security == Security::Plain {
        let peer = Peer {
            principal: own,
            ..Peer::stranger(address.ip())
        };
        let place = Place::outside_service(&cluster.service, *port);
        let question = Question {
            peer,
            place,
            user: None,
            head: None,
        };
        if permitted(proxy, snapshot, question, Origin::Outbound, &mut exchange).is_none() {
            return;
        }
    }
    exchange.busy(proxy.pools.busy(hop.address));
    match to_endpoint(proxy, cluster, hop).await {
        Ok(upstream) => {
            note(&mut exchange, cluster, hop);
            relay(proxy, io, upstream, exchange).await;
        }
        Err(error) => failed(&error, exchange),
    }
}

async fn to_endpoint(
    proxy: &Shared,
    cluster: &Cluster,
    hop: &Hop,
) -> Result<Upstream, ConnectError> {
    let patience = cluster.traffic.connect_timeout;
    match &hop.security {
        Security::Mesh(expected) => {
            let epoch = proxy.epoch().ok_or(ConnectError::NoCredentials)?;
            let clock = &*proxy.clock;
            let connected =
                connect::mesh(hop.address, expected, alpn::TCP, &epoch, clock, patience).await;
            connected.map(|(line, _drain)| line)
        }
        Security::Plain => connect::plain(hop.address, patience).await,
        Security::Unreachable => Err(ConnectError::NotInMesh),
    }
}

/// Asks and records; lists the connection as open.
fn permitted(
    proxy: &Arc<Shared>,
    snapshot: &Arc<Snapshot>,
    question: Question,
    origin: Origin,
    exchange: &mut Exchange,
) -> Option<ConnectPermit> {
    let now = proxy.ledger.now();
    match permit_connection(&question, snapshot, &proxy.ledger, now) {
        Ok(permit) => {
            let proof = permit.proof();
            exchange.decided(&proof.record, &proof.decision);
            let end = exchange.end().clone();
            let guard = proxy
                .open
                .enter(question, origin, proof.record.clone(), end);
            if let Some(newer) = proxy
                .snapshot()
                .filter(|newer| !Arc::ptr_eq(newer, snapshot))
            {
                proxy
                    .open
                    .judge_one_again(&guard, &newer, &proxy.ledger, &proxy.metrics);
            }
            exchange.hold(guard);
            Some(permit)
        }
        Err(Refused::Denied {
            decision, record, ..
        }) => {
            exchange.decided(&record, &decision);
            exchange.flag("UAEX");
            None
        }
        Err(Refused::NotRecorded) => {
            exchange.flag("UAEX");
            None
        }
    }
}

async fn relay(proxy: &Shared, io: impl Io, mut upstream: Upstream, mut exchange: Exchange) {
    proxy.metrics.tcp_opened(&exchange.ends);
    let mut downstream = Line::new(io, Bytes::new(), exchange.end().clone());
    let flow = downstream.flow();
    let passed = copy_bidirectional_with_sizes(
        &mut downstream,
        &mut upstream,
        RELAY_BUFFER_BYTES,
        RELAY_BUFFER_BYTES,
    )
    .await;
    exchange
        .bytes_in()
        .store(flow.read.load(Ordering::Relaxed), Ordering::Relaxed);
    exchange.sent(flow.written.load(Ordering::Relaxed));
    match passed {
        Ok(_) => exchange.finished(),
        Err(_) if exchange.end().is_cancelled() => exchange.flag("UAEX"),
        Err(error) => {
            tracing::debug!(%error, "a TCP connection broke");
            exchange.flag("UC");
        }
    }
}

fn failed(error: &ConnectError, mut exchange: Exchange) {
    tracing::debug!(%error, "no upstream for a TCP connection");
    exchange.flag("UF");
}

fn note(exchange: &mut Exchange, cluster: &Cluster, hop: &Hop) {
    let namespace = cluster.service.namespace.as_str();
    exchange.ends.destination = PeerInfo::from_labels(&hop.workload, namespace, &hop.labels);
    let principal = hop.identity.as_ref().map(ToString::to_string);
    exchange.ends.destination_principal = principal.unwrap_or_default();
    exchange.ends.security = if hop.security == Security::Plain {
        "none"
    } else {
        "mutual_tls"
    };
    exchange.upstream = Some(hop.address.to_string());
}

fn inbound_ends(arrival: &Arrival, snapshot: &Snapshot) -> Ends {
    Ends {
        destination: snapshot.own.clone(),
        destination_principal: snapshot.workload().identity.to_string(),
        protocol: "tcp",
        ..Ends::inbound(&arrival.peer, None)
    }
}
