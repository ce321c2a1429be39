//! How a request came in: the connection that it came on, who proved what there, and what they may hold.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http::{HeaderMap, HeaderValue};
use reeve_svid::ClientDetails;

use crate::{
    answer::Answer,
    callers::{Held, Share},
    edge::ServerKey,
    exchange::Exchange,
    forwarded, headers,
    judge::Peer,
    ledger::lock,
    metrics::Ends,
    peer_info::PeerInfo,
    pressure::Pressure,
    snapshot::Snapshot,
    worker::Worker,
};

/// The connection that a request came in on.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// The listener.
    pub(crate) bind: SocketAddr,
    pub(crate) peer: Peer,
    /// The peer's port.
    port: u16,
    /// What it may hold of the application; `None` where the application itself calls.
    share: Option<Arc<Share>>,
    /// How busy the application is; `None` there too.
    pressure: Option<Arc<Pressure>>,
    /// How it came to a gateway.
    pub(crate) edge: Edge,
    /// What the peer last said of its workload: the same for all requests of a connection, as a rule.
    told: Mutex<Option<(HeaderValue, Ends)>>,
}

impl Arrival {
    /// A connection to `bind` from `peer`.
    pub(crate) fn new(bind: SocketAddr, peer: Peer, port: u16) -> Self {
        Self {
            bind,
            peer,
            port,
            share: None,
            pressure: None,
            edge: Edge::default(),
            told: Mutex::default(),
        }
    }

    /// The same at a gateway.
    pub(crate) fn at_edge(self, edge: Edge) -> Self {
        Self { edge, ..self }
    }

    /// A connection to the application behind `bind`, of which each peer has a share.
    pub(crate) fn sharing(bind: SocketAddr, peer: Peer, port: u16, worker: &Worker) -> Self {
        Self {
            share: Some(worker.proxy.callers.connected(bind, &peer)),
            pressure: Some(worker.pressures.of(bind)),
            ..Self::new(bind, peer, port)
        }
    }

    /// A connection from outside to a gateway, of which each client has a share.
    pub(crate) fn from_outside(bind: SocketAddr, peer: Peer, port: u16, worker: &Worker) -> Self {
        Self {
            share: Some(worker.proxy.callers.connected(bind, &peer)),
            ..Self::new(bind, peer, port)
        }
    }

    /// Who asks: at a gateway, whom the proxies that it trusts speak for; at a sidecar, whom the mesh's own gateways do.
    /// SECURITY: nobody else's `x-forwarded-for` is believed, since anybody may write one.
    pub(crate) fn client(&self, headers: &mut HeaderMap, snapshot: &Snapshot) -> Cow<'_, Peer> {
        let workload = snapshot.workload();
        let topology = &workload.topology;
        if snapshot.is_gateway() {
            let client = forwarded::tell(headers, &self.peer, &self.edge, topology);
            return Cow::Owned(self.peer.clone().for_client(client));
        }
        let id = self.peer.principal.spiffe_id();
        let gateway = id.filter(|id| workload.gateways.binary_search(id).is_ok());
        match gateway.and_then(|_| forwarded::said_by_gateway(headers, topology.trusted_proxies)) {
            Some(client) => Cow::Owned(self.peer.clone().for_client(client)),
            None => Cow::Borrowed(&self.peer),
        }
    }

    /// Holds one more of the gateway for `client`: the peer itself, or who it says it speaks for.
    pub(crate) fn hold_for(
        &self,
        client: &Peer,
        worker: &Worker,
    ) -> Result<Option<Held>, &'static str> {
        if client.address == self.peer.address {
            return self.hold();
        }
        let share = worker.proxy.callers.connected(self.bind, client);
        share.hold().map(Some)
    }

    /// Takes one request's share of the application, or answers it.
    pub(crate) fn share_with(
        &self,
        worker: &Worker,
        exchange: &mut Exchange,
    ) -> Result<(), Answer> {
        exchange.holds(self.hold().map_err(Answer::too_many_requests)?);
        if let (Some(pressure), Some(share)) = (&self.pressure, &self.share) {
            let caller = share.key();
            if pressure.is_full_for(caller) && !worker.proxy.tasks.is_closed() {
                return Err(Answer::overloaded("app_overload"));
            }
            exchange.will_wait(pressure.clone(), caller);
        }
        Ok(())
    }

    /// Holds one more of the application, or names the limit that forbids it.
    pub(crate) fn hold(&self) -> Result<Option<Held>, &'static str> {
        self.share.as_ref().map(Share::hold).transpose()
    }

    /// Notes where the connection came from and went.
    pub(crate) fn note(&self, exchange: &mut Exchange) {
        exchange.between(SocketAddr::new(self.peer.address, self.port), self.bind);
    }

    /// The two ends of a request, as far as the connection and its peer tell them. Takes the peer's header away.
    pub(crate) fn ends(&self, headers: &mut HeaderMap) -> Ends {
        let Some(value) = headers
            .remove(headers::PEER)
            .filter(|_| self.peer.is_mtls())
        else {
            return Ends::inbound(&self.peer, None);
        };
        let mut told = lock(&self.told);
        if let Some((_, ends)) = told.as_ref().filter(|(last, _)| *last == value) {
            return ends.clone();
        }
        let info = PeerInfo::read(&value).map(Arc::new);
        let ends = Ends::inbound(&self.peer, info);
        *told = Some((value, ends.clone()));
        ends
    }
}

/// How a connection came to a gateway.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edge {
    /// The server that ended its TLS.
    pub(crate) server: Option<ServerKey>,
    /// Whether it came by TLS.
    pub(crate) is_secure: bool,
    /// The client's certificate.
    pub(crate) client: Option<Arc<ClientDetails>>,
}
