//! Connections to a gateway: from outside, in plaintext or by TLS that is ended here or passed on, and from workloads of
//! the mesh by mTLS.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use reeve_svid::ClientDetails;
use rustls::ServerConfig;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    ahead::ReadAhead,
    arrival::{Arrival, Edge},
    detect::{Opening, detect},
    edge::{Ends, TlsServer},
    hello::{ServerName, name_in},
    io::{Io, Line},
    judge::Peer,
    limits::HANDSHAKE_TIMEOUT,
    listener::{Guests, Shaken, Side, Spoken, Stop, serve_http, shake_hands},
    net::Socket,
    proxy_protocol::{self, Said},
    snapshot::{Outbound, Snapshot},
    tcp, unproven,
    worker::Worker,
};

/// A connection that came to a gateway's port.
pub(crate) struct Visit<'a> {
    pub(crate) worker: &'a Arc<Worker>,
    pub(crate) snapshot: &'a Arc<Snapshot>,
    pub(crate) outbound: &'a Arc<Outbound>,
    /// The client's.
    pub(crate) address: SocketAddr,
    /// The connection's own.
    pub(crate) came_from: IpAddr,
    pub(crate) stop: &'a Stop,
    pub(crate) guests: &'a Guests,
}

/// What a connection turned out to be.
enum Turn<'o> {
    /// mTLS of the mesh.
    Mesh,
    /// TLS that is ended here.
    Ended(&'o Arc<TlsServer>),
    /// Anything that this port takes as it is.
    AsItIs,
    /// TLS for a server that this port does not have.
    Unrouted,
    /// Nothing that this port takes.
    Away,
}

impl Visit<'_> {
    /// Serves it to its end.
    pub(crate) async fn serve(mut self, mut line: Line<Socket>) {
        if self.snapshot.workload().topology.proxy_protocol {
            let cut = line.cut();
            let reading = proxy_protocol::read(&mut line, HANDSHAKE_TIMEOUT);
            let said = cut.run_until_cancelled(reading).await.flatten();
            // SECURITY: who does not say it is not the load balancer.
            let Some((said, rest)) = said else {
                return self.worker.proxy.metrics.malformed("proxy_protocol");
            };
            line.put_back(rest);
            if let Said::Client(address) = said {
                self.address = address;
            }
        }
        let metrics = &self.worker.proxy.metrics;
        let unproven = self.guests.enter(&line.cut(), metrics);
        let listener = &self.outbound.listener;
        let ends_nothing = self.outbound.servers.is_none() && self.outbound.sni.is_none();
        let tcp = ends_nothing && !listener.protocol.is_http();
        let turn = if tcp {
            // A server that speaks first must not wait.
            Turn::AsItIs
        } else {
            let cut = line.cut();
            let reading = detect(&mut line, HANDSHAKE_TIMEOUT);
            let Some((opening, ahead)) = cut.run_until_cancelled(reading).await else {
                return;
            };
            let name = name_in(&ahead);
            line.put_back(ahead);
            let turn = self.turn(opening, &name);
            if matches!(turn, Turn::Unrouted) {
                drop((line, unproven));
                return self.unrouted(name).await;
            }
            turn
        };
        match turn {
            Turn::Mesh => Box::pin(self.mesh(line, unproven)).await,
            Turn::Ended(server) => Box::pin(self.ended(server, line, unproven)).await,
            Turn::AsItIs => {
                drop(unproven);
                Box::pin(self.as_it_is(line)).await;
            }
            Turn::Unrouted | Turn::Away => self.worker.proxy.strangers.handshake_refused(),
        }
    }

    /// Closed, on record.
    async fn unrouted(&self, name: ServerName) {
        let (worker, address) = (self.worker, self.address);
        let name = match name {
            ServerName::Named(name) => Some(name),
            ServerName::Unnamed => None,
            ServerName::Unreadable => {
                worker.proxy.metrics.malformed("tls");
                None
            }
        };
        tcp::turned_away(worker, self.snapshot, self.outbound, address, name).await;
    }

    fn turn(&self, opening: Opening, name: &ServerName) -> Turn<'_> {
        let outbound = self.outbound;
        let http = outbound.listener.protocol.is_http();
        let passed = outbound.sni.as_ref().and_then(|sni| sni.find(name));
        if passed.is_some_and(|route| route.to_mesh) {
            // SECURITY: the endpoint's proxy judges who calls, which the mesh's own TLS alone tells it.
            return match opening {
                Opening::MeshTls => Turn::AsItIs,
                Opening::Closed | Opening::Silent => Turn::Away,
                Opening::OtherTls | Opening::Http | Opening::Other => Turn::Unrouted,
            };
        }
        match (opening, &outbound.servers) {
            (Opening::Closed | Opening::Silent, _) => Turn::Away,
            (Opening::MeshTls, None) => Turn::Mesh,
            (Opening::MeshTls, Some(servers)) if servers.for_mesh().is_some() => Turn::Mesh,
            (Opening::MeshTls | Opening::OtherTls, Some(servers)) => {
                let passed = outbound.sni.as_ref().and_then(|sni| sni.narrowness(name));
                match servers.find(name) {
                    Some((narrow, _)) if passed.is_some_and(|passed| passed > narrow) => {
                        Turn::AsItIs
                    }
                    Some((_, server)) => Turn::Ended(server),
                    None if passed.is_some() => Turn::AsItIs,
                    None => Turn::Unrouted,
                }
            }
            (Opening::OtherTls, None) if http => Turn::Away,
            // SECURITY: where TLS is ended nothing is served without it.
            (Opening::Http | Opening::Other, Some(_)) => Turn::Away,
            (Opening::OtherTls | Opening::Http | Opening::Other, None) => Turn::AsItIs,
        }
    }

    /// Plaintext, and TLS that is passed on.
    async fn as_it_is(&self, line: Line<Socket>) {
        let Some(_place) = self.guests.stranger(&self.worker.proxy.metrics) else {
            return;
        };
        let peer = self.stranger(None);
        if self.outbound.listener.protocol.is_http() {
            let arrival = self.arrival(peer, Edge::default());
            let gone = line.gone();
            let serving = serve_http(
                self.worker,
                Side::Outbound,
                arrival,
                line,
                gone,
                Spoken::Any,
            );
            serving.until(self.stop.drain.clone()).await;
        } else {
            self.bytes(self.outbound, peer, line).await;
        }
    }

    /// By the mesh's own TLS: the caller's proxy proves who calls.
    async fn mesh(&self, line: Line<Socket>, unproven: unproven::Place) {
        let servers = self.outbound.servers.as_ref();
        let server = servers.and_then(|servers| servers.for_mesh());
        let inside = server.map_or(self.outbound, |server| &server.outbound);
        let http = inside.listener.protocol.is_http();
        let address = SocketAddr::new(self.came_from, self.address.port());
        let Some(shaken) = shake_hands(self.worker, line, address, http).await else {
            return;
        };
        drop(unproven);
        let Shaken {
            stream,
            peer,
            spoken,
            old,
            epoch,
            gone,
            told: _,
        } = shaken;
        let peer = peer.for_client(self.address.ip());
        if !http {
            let line = Line::new(stream, bytes::Bytes::new(), self.stop.cut.child_token());
            return self.bytes(inside, peer, line).await;
        }
        let edge = Edge {
            server: server.map(|server| server.key.clone()),
            is_secure: server.is_some(),
            client: None,
        };
        let arrival = self.arrival(peer, edge);
        let draining = async {
            // Cancel-safe: tokens and a watch.
            tokio::select! {
                () = self.stop.drain.cancelled() => {}
                () = old.cancelled() => {}
                () = self.worker.proxy.epoch_after(&epoch) => {}
            }
        };
        let serving = serve_http(self.worker, Side::Outbound, arrival, stream, gone, spoken);
        serving.until_future(draining).await;
    }

    /// By a certificate of the gateway's.
    async fn ended(&self, server: &Arc<TlsServer>, line: Line<Socket>, unproven: unproven::Place) {
        let metrics = &self.worker.proxy.metrics;
        let Ends::Public(config) = &server.ends else {
            metrics.handshake_failed("no_certificate");
            return self.worker.proxy.strangers.handshake_refused();
        };
        let Some(_place) = self.guests.stranger(metrics) else {
            return;
        };
        let gone = line.gone();
        let Some(stream) = self.handshake(config, line).await else {
            return;
        };
        drop(unproven);
        let (_, connection) = stream.get_ref();
        let shown = connection.peer_certificates().unwrap_or_default();
        let edge = Edge {
            server: Some(server.key.clone()),
            is_secure: true,
            client: ClientDetails::of(shown).map(Arc::new),
        };
        let spoken = match connection.alpn_protocol() {
            Some(b"http/1.1") => Spoken::Http1,
            _ => Spoken::Any,
        };
        let peer = self.stranger(connection.server_name());
        if !server.outbound.listener.protocol.is_http() {
            let line = Line::new(stream, bytes::Bytes::new(), self.stop.cut.child_token());
            return self.bytes(&server.outbound, peer, line).await;
        }
        let arrival = self.arrival(peer, edge);
        let serving = serve_http(self.worker, Side::Outbound, arrival, stream, gone, spoken);
        Box::pin(serving.until(self.stop.drain.clone())).await;
    }

    async fn handshake(
        &self,
        config: &Arc<ServerConfig>,
        line: Line<Socket>,
    ) -> Option<TlsStream<ReadAhead<Line<Socket>>>> {
        let proxy = &self.worker.proxy;
        let handshake = TlsAcceptor::from(config.clone()).accept(ReadAhead::new(line));
        match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => tracing::debug!(%error, "a handshake from outside failed"),
            Err(_) => proxy.metrics.limit_hit("handshake_timeout"),
        }
        proxy.metrics.handshake_failed("edge");
        proxy.strangers.handshake_refused();
        None
    }

    /// Whoever has proved nothing; `server` is what the ClientHello names.
    fn stranger(&self, server: Option<&str>) -> Peer {
        let peer = Peer::stranger(self.came_from).asking_for(server);
        peer.for_client(self.address.ip())
    }

    fn arrival(&self, peer: Peer, edge: Edge) -> Arrival {
        let bind = self.outbound.listener.bind;
        Arrival::from_outside(bind, peer, self.address.port(), self.worker).at_edge(edge)
    }

    async fn bytes<I: Io>(&self, outbound: &Outbound, peer: Peer, line: Line<I>) {
        tcp::outbound(
            self.worker,
            self.snapshot,
            outbound,
            peer,
            self.address,
            line,
        )
        .await;
    }
}
