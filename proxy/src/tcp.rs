//! The life of a TCP connection: decide on `connect`, record, connect, pass bytes until either end closes or the
//! permit is gone.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use reeve_core::{
    decision::{Principal, Reason},
    error_chain,
    model::Destination,
};
use tokio_util::sync::CancellationToken;

use crate::{
    arrival::Arrival,
    balance::{Wish, hash},
    callers::Held,
    chance,
    cluster::{Cluster, Hop, Security},
    connect::{self, ConnectError, Upstream},
    elsewhere,
    exchange::Exchange,
    external::ask_about_connection,
    forward::note_upstream,
    gate::enter,
    gauge::Slot,
    hello::{self, ServerName},
    io::{Io, Line},
    judge::{Peer, Place, Question},
    limits::{APP_CONNECT_TIMEOUT, DETECT_TIMEOUT, HANDSHAKE_TIMEOUT, PASSTHROUGH_CONNECT_TIMEOUT},
    metrics::Ends,
    open::Origin,
    outlier::Seen,
    peer_info::PeerInfo,
    permit::{ConnectPermit, Refused, permit_connection, record_refusal},
    pool::Terms,
    relay::{RelayBounds, relay_within},
    route::{SniTable, pick},
    snapshot::{Outbound, Snapshot},
    worker::Worker,
};

/// A connection to the workload; `told` is what the caller's proxy said of the caller.
pub(crate) async fn inbound(
    worker: &Arc<Worker>,
    arrival: &Arrival,
    told: Option<Arc<PeerInfo>>,
    io: impl Io,
) {
    let Some(snapshot) = worker.proxy.snapshot() else {
        return;
    };
    let Some(inbound) = snapshot.inbound_at(arrival.bind) else {
        return;
    };
    let mut exchange = Exchange::begin(worker, inbound_ends(arrival, told, &snapshot));
    arrival.note(&mut exchange);
    exchange.ends.service = inbound.listener.services.first().cloned();
    if !takes(arrival.hold(), &mut exchange) {
        return;
    }
    let question = Question {
        peer: arrival.peer.clone(),
        place: inbound.place.clone(),
        user: None,
        head: None,
        transformed: None,
        said: None,
    };
    let origin = Origin::Inbound(arrival.bind);
    let Some(_permit) = permitted(worker, &snapshot, question, origin, &mut exchange).await else {
        return;
    };
    // Held until the connection ends.
    let _slot = match Terms::of_app(&inbound).connection() {
        Ok(slot) => slot,
        Err(overflow) => {
            exchange.limited(overflow.limit());
            return exchange.flag("UO");
        }
    };
    match connect::app(
        &worker.proxy.net,
        inbound.listener.app,
        arrival.bind,
        APP_CONNECT_TIMEOUT,
    )
    .await
    {
        Ok(upstream) => {
            exchange.upstream = Some(inbound.upstream.clone());
            pass((io, Bytes::new()), upstream, exchange).await;
        }
        Err(error) => failed(&error, exchange),
    }
}

/// Whether the caller's share of what it wants leaves room for this connection.
fn takes(held: Result<Option<Held>, &'static str>, exchange: &mut Exchange) -> bool {
    let room = held.is_ok();
    match held {
        Ok(held) => exchange.holds(held),
        Err(limit) => {
            exchange.limited(limit);
            exchange.flag("UO");
        }
    }
    room
}

/// A connection of the workload (or, at a gateway, from outside): to the service that its address stands for, or to
/// where its ClientHello's server name leads.
pub(crate) async fn outbound<I: Io>(
    worker: &Arc<Worker>,
    snapshot: &Arc<Snapshot>,
    outbound: &Outbound,
    caller: Peer,
    address: SocketAddr,
    mut io: Line<I>,
) {
    let mut exchange = begin_outbound(worker, snapshot, outbound, address);
    let told = caller.is_mtls() || caller.server_name.is_some();
    let (found, ahead) = match &outbound.sni {
        Some(table) => by_name(worker, table, &mut io, &mut exchange).await,
        // Only where a policy asks for the name: a server that speaks first must not wait.
        None if !told && snapshot.looks_at_sni() => {
            let (name, ahead) = hello::server_name(&mut io, DETECT_TIMEOUT).await;
            exchange.server_name = name.as_str().map(str::to_owned);
            (by_address(outbound), ahead)
        }
        None => (by_address(outbound), Bytes::new()),
    };
    // SECURITY: what no route names goes nowhere.
    let Some((destination, wrap)) = found else {
        return unrouted(worker, snapshot, outbound, caller, exchange).await;
    };
    exchange.ends.service = Some(destination.service.clone());
    exchange.destination = Some((destination.port, destination.subset.clone()));
    let caller = naming(caller, &exchange);
    let key = (destination.service, destination.subset, destination.port);
    let Some(cluster) = snapshot.clusters.get(&key) else {
        return exchange.flag("NC");
    };
    if snapshot.is_gateway() {
        let callers = &worker.proxy.callers;
        let share = callers.connected(outbound.listener.bind, &caller);
        if !takes(share.hold().map(Some), &mut exchange) {
            return;
        }
        let listener = &outbound.listener;
        let place = Place::gateway(snapshot.workload(), listener);
        let question = connecting(caller, place);
        if permitted(worker, snapshot, question, Origin::Outbound, &mut exchange)
            .await
            .is_none()
        {
            return;
        }
    }
    // SECURITY: only now; nobody has names looked up who may not connect.
    let Some(cluster) = &there(worker, snapshot, cluster, (key.2, address), &mut exchange).await
    else {
        return;
    };
    let original = outbound.listener.bind;
    let Some((hop, slot)) = choose(cluster, address.ip(), original, &mut exchange) else {
        return;
    };
    if hop.security.is_outside() {
        let asker = naming(own_peer(snapshot, address), &exchange);
        let question = connecting(asker, Place::outside_cluster(cluster, key.2));
        if permitted(worker, snapshot, question, Origin::Outbound, &mut exchange)
            .await
            .is_none()
        {
            return;
        }
    }
    exchange.busy(hop.load.enter());
    // Boxed: what passes bytes is large.
    let (own, from) = (&snapshot.own, (io, ahead));
    Box::pin(connect(worker, own, (cluster, hop, wrap), from, exchange)).await;
    drop(slot);
}

/// The cluster itself; of one that has no place of its own, that of the server that is named.
async fn there(
    worker: &Worker,
    snapshot: &Snapshot,
    cluster: &Arc<Cluster>,
    (port, address): (u16, SocketAddr),
    exchange: &mut Exchange,
) -> Option<Arc<Cluster>> {
    if cluster.service.patterns.is_empty() {
        return Some(cluster.clone());
    }
    let name = exchange.server_name.clone().unwrap_or_default();
    let who = (own_peer(snapshot, address), None);
    let found = elsewhere::found(worker, snapshot, cluster, (&name, port), who, exchange).await;
    if let Err(answer) = &found {
        exchange.flag(answer.flag());
    }
    found.ok()
}

/// `peer`, and the server that its connection turned out to ask for.
fn naming(peer: Peer, exchange: &Exchange) -> Peer {
    match exchange.server_name.as_deref() {
        Some(name) => peer.asking_for(Some(name)),
        None => peer,
    }
}

/// The workload as the one who asks, for a connection from `address`.
fn own_peer(snapshot: &Snapshot, address: SocketAddr) -> Peer {
    Peer {
        principal: Principal::Workload(snapshot.workload().identity.clone()),
        ..Peer::stranger(address.ip())
    }
}

/// An endpoint, and a place among the connections to its cluster.
fn choose<'c>(
    cluster: &'c Cluster,
    source: IpAddr,
    original: SocketAddr,
    exchange: &mut Exchange,
) -> Option<(&'c Arc<Hop>, Option<Slot>)> {
    let wish = Wish {
        hash: hash::source(cluster, source),
        original: Some(original),
        ..Wish::default()
    };
    let Some(hop) = cluster.choose(&wish, &mut chance::rng()) else {
        exchange.flag("UH");
        return None;
    };
    let spared = cluster.spare(&mut chance::rng());
    match spared.and_then(|()| cluster.terms().connection()) {
        Ok(slot) => Some((hop, slot)),
        Err(overflow) => {
            exchange.limited(overflow.limit());
            exchange.flag("UO");
            None
        }
    }
}

/// Connects to an endpoint and passes bytes.
async fn connect(
    worker: &Worker,
    own: &PeerInfo,
    (cluster, hop, wrap): (&Cluster, &Hop, Wrap),
    from: (impl Io, Bytes),
    mut exchange: Exchange,
) {
    let connected = match wrap {
        Wrap::AsUsual => to_endpoint(worker, cluster, hop, own).await,
        Wrap::Nothing => as_it_came(worker, cluster, hop).await,
    };
    let seen = match &connected {
        Ok(_) => Seen::Connected,
        Err(_) => Seen::Local(503),
    };
    if let Some(cause) = cluster.saw(hop, seen) {
        worker.proxy.ejected(cluster, hop, cause);
    }
    match connected {
        Ok(upstream) => {
            note_upstream(&mut exchange, hop);
            let bounds = RelayBounds::of(&cluster.traffic.tcp);
            pass_within(bounds, from, upstream, exchange).await;
        }
        Err(error) => failed(&error, exchange),
    }
}

fn begin_outbound(
    worker: &Arc<Worker>,
    snapshot: &Snapshot,
    outbound: &Outbound,
    address: SocketAddr,
) -> Exchange {
    let mut exchange = Exchange::begin(
        worker,
        Ends {
            reporter: "source",
            protocol: "tcp",
            ..Ends::default()
        },
    );
    exchange.between(address, outbound.listener.bind);
    if !snapshot.is_gateway() {
        exchange.ends.source = snapshot.own.clone();
        exchange.ends.source_principal = Some(snapshot.workload().identity.clone());
    }
    exchange
}

/// A connection to a gateway that names none of its servers.
pub(crate) async fn turned_away(
    worker: &Arc<Worker>,
    snapshot: &Arc<Snapshot>,
    outbound: &Outbound,
    address: SocketAddr,
    server_name: Option<String>,
) {
    let mut exchange = begin_outbound(worker, snapshot, outbound, address);
    exchange.server_name = server_name;
    let caller = Peer::stranger(address.ip());
    unrouted(worker, snapshot, outbound, caller, exchange).await;
}

/// Nothing leads anywhere: recorded one by one up to a rate, counted beyond, since anybody may ask for any name.
async fn unrouted(
    worker: &Worker,
    snapshot: &Snapshot,
    outbound: &Outbound,
    caller: Peer,
    mut exchange: Exchange,
) {
    exchange.flag("NR");
    if !worker.proxy.strangers.no_route() {
        return;
    }
    let (listener, workload) = (&outbound.listener, snapshot.workload());
    let peer = match snapshot.is_gateway() {
        true => caller,
        false => Peer {
            principal: Principal::Workload(workload.identity.clone()),
            ..caller
        },
    };
    let place = Place::gateway(workload, listener);
    let question = connecting(naming(peer, &exchange), place);
    let verdict = question.refuse(snapshot, worker.ledger.now(), Reason::NoRoute);
    let why = record_refusal(&question, verdict, snapshot, &worker.ledger).await;
    note_refusal(why, &mut exchange);
}

/// What is put around a connection on its way to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrap {
    /// What the endpoint is spoken to by.
    AsUsual,
    /// Nothing: it is the mesh's own TLS already.
    Nothing,
}

/// Where a connection to this address goes.
fn by_address(outbound: &Outbound) -> Option<(Destination, Wrap)> {
    let listener = &outbound.listener;
    let to = match pick(&listener.tcp, &mut chance::rng()) {
        Some(to) => Some(to.clone()),
        None if listener.tcp.is_empty() => listener
            .service
            .clone()
            .map(|(service, port)| Destination::new(service, port)),
        None => None,
    };
    to.map(|to| (to, Wrap::AsUsual))
}

/// Where a connection goes by its server name and how, and the bytes that were read to know it.
async fn by_name<I: Io>(
    worker: &Worker,
    table: &SniTable,
    io: &mut Line<I>,
    exchange: &mut Exchange,
) -> (Option<(Destination, Wrap)>, Bytes) {
    let (name, ahead) = hello::server_name(io, HANDSHAKE_TIMEOUT).await;
    let found = table.find(&name);
    match name {
        ServerName::Named(name) => exchange.server_name = Some(name),
        ServerName::Unnamed => {}
        ServerName::Unreadable => worker.proxy.metrics.malformed("tls"),
    }
    let Some(route) = found else {
        return (None, ahead);
    };
    exchange.route = Some(route.name.clone());
    let wrap = match route.to_mesh {
        true => Wrap::Nothing,
        false => Wrap::AsUsual,
    };
    let to = pick(&route.destinations, &mut chance::rng());
    (to.map(|to| (to.clone(), wrap)), ahead)
}

/// The question whether `peer` may connect at `place`.
fn connecting(peer: Peer, place: Place) -> Question {
    Question {
        peer,
        place: Arc::new(place),
        user: None,
        head: None,
        transformed: None,
        said: None,
    }
}

/// A captured connection of the workload to an address that stands for no service.
pub(crate) async fn passthrough(
    worker: &Arc<Worker>,
    snapshot: &Arc<Snapshot>,
    to: SocketAddr,
    address: SocketAddr,
    io: impl Io,
) {
    let mut exchange = Exchange::begin(
        worker,
        Ends {
            reporter: "source",
            protocol: "tcp",
            source: snapshot.own.clone(),
            source_principal: Some(snapshot.workload().identity.clone()),
            ..Ends::default()
        },
    );
    exchange.between(address, to);
    exchange.upstream = Some(to.to_string().into());
    let place = Place::passthrough(snapshot.workload(), to);
    let peer = Peer {
        principal: Principal::Workload(snapshot.workload().identity.clone()),
        ..Peer::stranger(address.ip())
    };
    let question = connecting(peer, place);
    if snapshot.passthrough(to).is_none() {
        let verdict = question.refuse(snapshot, worker.ledger.now(), Reason::NotInRegistry);
        let why = record_refusal(&question, verdict, snapshot, &worker.ledger).await;
        return refused(why, &mut exchange);
    }
    let origin = Origin::Passthrough(to);
    let Some(_permit) = permitted(worker, snapshot, question, origin, &mut exchange).await else {
        return;
    };
    match connect::plain(&worker.proxy.net, to, PASSTHROUGH_CONNECT_TIMEOUT).await {
        Ok(upstream) => pass((io, Bytes::new()), upstream, exchange).await,
        Err(error) => failed(&error, exchange),
    }
}

async fn to_endpoint(
    worker: &Worker,
    cluster: &Cluster,
    hop: &Hop,
    own: &PeerInfo,
) -> Result<Upstream, ConnectError> {
    let patience = cluster.terms().dial();
    match &hop.security {
        Security::Mesh(expected) => {
            let epoch = worker.proxy.epoch().ok_or(ConnectError::NoCredentials)?;
            let trust = &worker.proxy.trust();
            connect::mesh_bytes(hop.address, expected, own, &epoch, trust, patience).await
        }
        Security::Plain => connect::plain(&worker.proxy.net, hop.address, patience).await,
        Security::Tls(tls) => {
            connect::outside(&worker.proxy.net, hop.address, tls, &tls.bytes, patience).await
        }
        Security::Unreachable => Err(ConnectError::NotInMesh),
    }
}

/// To an endpoint whose proxy ends the TLS that the caller began, and judges it; to no other.
async fn as_it_came(
    worker: &Worker,
    cluster: &Cluster,
    hop: &Hop,
) -> Result<Upstream, ConnectError> {
    match &hop.security {
        Security::Mesh(_) => {
            connect::plain(&worker.proxy.net, hop.address, cluster.terms().dial()).await
        }
        Security::Plain | Security::Tls(_) | Security::Unreachable => Err(ConnectError::NotInMesh),
    }
}

/// Asks and records; lists the connection as open.
async fn permitted(
    worker: &Arc<Worker>,
    snapshot: &Arc<Snapshot>,
    question: Question,
    origin: Origin,
    exchange: &mut Exchange,
) -> Option<ConnectPermit> {
    let now = worker.ledger.now();
    // On the heap, since few connections are asked about.
    let asking = Box::pin(ask_about_connection((worker, snapshot), &question));
    let question = match asking.await {
        Ok(said) => Question { said, ..question },
        Err(stopped) => {
            let (verdict, _) = stopped.verdict(&question, snapshot, now);
            let why = record_refusal(&question, verdict, snapshot, &worker.ledger).await;
            refused(why, exchange);
            return None;
        }
    };
    match permit_connection(&question, snapshot, &worker.ledger, now).await {
        Ok(permit) => {
            let proof = permit.proof();
            exchange.decided(proof.record.clone(), proof.decision.clone());
            enter(worker, snapshot, question, origin, proof, exchange);
            Some(permit)
        }
        Err(why) => {
            refused(why, exchange);
            None
        }
    }
}

fn refused(why: Refused, exchange: &mut Exchange) {
    note_refusal(why, exchange);
    exchange.flag("UAEX");
}

fn note_refusal(why: Refused, exchange: &mut Exchange) {
    if let Refused::Denied {
        decision, record, ..
    } = why
    {
        exchange.decided(record, Arc::new(*decision));
    }
}

/// Passes bytes, beginning with those read ahead.
async fn pass(from: (impl Io, Bytes), upstream: Upstream, exchange: Exchange) {
    pass_within(RelayBounds::default(), from, upstream, exchange).await;
}

async fn pass_within(
    bounds: RelayBounds,
    (io, ahead): (impl Io, Bytes),
    upstream: Upstream,
    mut exchange: Exchange,
) {
    let downstream = Line::new(io, ahead, CancellationToken::new());
    exchange.connected(downstream.flow());
    relay_within(bounds, downstream, upstream, exchange).await;
}

fn failed(error: &ConnectError, mut exchange: Exchange) {
    tracing::debug!(%error, "no upstream for a TCP connection");
    exchange.failure = Some(error_chain(error));
    exchange.flag("UF");
}

fn inbound_ends(arrival: &Arrival, told: Option<Arc<PeerInfo>>, snapshot: &Snapshot) -> Ends {
    Ends {
        destination: snapshot.own.clone(),
        destination_principal: Some(snapshot.workload().identity.clone()),
        protocol: "tcp",
        ..Ends::inbound(&arrival.peer, told)
    }
}
