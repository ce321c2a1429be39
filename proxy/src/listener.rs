//! Listeners: accepting connections, finding out what they are, and what their peers can prove.

mod handshake;
mod serving;

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use prometheus::IntGauge;
use reeve_audit::AuthenticatedBy;
use reeve_core::{
    decision::Reason,
    model::{InboundListener, MtlsMode},
};
use socket2::{Domain, Protocol as SocketProtocol, Type};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    handshake::{Shaken, shake_hands},
    serving::{Side, Spoken, serve_http},
};
use crate::{
    accepting::Accepting,
    arrival::Arrival,
    capture::{self, Arrived},
    cork::Corked,
    detect::{Opening, detect},
    gateway::Visit,
    hello::name_in,
    io::Line,
    judge::{Peer, Question},
    limits::{
        DETECT_TIMEOUT, HANDSHAKE_TIMEOUT, LISTEN_BACKLOG, MAX_CONNECTIONS_PER_LISTENER,
        MAX_STRANGERS_PER_LISTENER,
    },
    metrics::Metrics,
    net::{Bound, Socket},
    snapshot::{Inbound, Snapshot},
    tcp,
    unproven::{self, Room, Unproven},
    worker::{Worker, WorkerSet},
};

/// Binds `address`; a restarted proxy takes its address at once.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(SocketProtocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// When connections of a listener end.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    /// No new connections; open ones drain.
    pub(crate) drain: CancellationToken,
    /// Everything is cut.
    pub(crate) cut: CancellationToken,
}

/// Accepts until told to stop; each connection goes to the worker that has the fewest.
pub(crate) async fn run(
    here: Arc<Worker>,
    workers: Arc<WorkerSet>,
    bind: SocketAddr,
    listener: Bound,
    stop: Stop,
) {
    let listener = match listener.open() {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, %bind, "nothing can be accepted"),
    };
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS_PER_LISTENER));
    let guests = Guests::default();
    let (metrics, warnings) = (
        here.proxy.metrics.clone(),
        here.proxy.accept_warnings.clone(),
    );
    let mut accepting = Accepting::new(bind, metrics, warnings);
    loop {
        if room.available_permits() == 0 {
            here.proxy.metrics.limit_hit("max_connections_per_listener");
        }
        let Ok(place) = room.clone().acquire_owned().await else {
            return;
        };
        // Cancel-safe: accept loses no connection when dropped.
        let accepted = tokio::select! {
            () = stop.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let given = accepted.and_then(|(stream, address)| {
            let (worker, charge) = workers.least_loaded(&here);
            let stream = Accepted::by(&here, &worker, stream)?;
            Ok((worker, charge, stream, address))
        });
        let (worker, charge, stream, address) = match given {
            Ok(given) => given,
            Err(error) => {
                let wait = tokio::time::sleep(accepting.failed(&error));
                // The place is not held meanwhile.
                drop(place);
                // Cancel-safe: a token and a timer.
                tokio::select! {
                    () = stop.drain.cancelled() => return,
                    () = wait => continue,
                }
            }
        };
        accepting.succeeded();
        let (stop, runtime) = (stop.clone(), worker.runtime().clone());
        let guests = guests.clone();
        let tasks = worker.proxy.tasks.clone();
        let serving = async move {
            let (_place, _charge) = (place, charge);
            if let Ok(stream) = stream.take() {
                connection(&worker, bind, stream, address, &stop, &guests).await;
            }
        };
        tasks.spawn_on(serving, &runtime);
    }
}

/// A connection on its way to its worker: a stream belongs to the runtime that it was made in.
enum Accepted {
    Here(Socket),
    Elsewhere(std::net::TcpStream),
}

impl Accepted {
    fn by(here: &Arc<Worker>, worker: &Arc<Worker>, stream: Socket) -> io::Result<Self> {
        match stream {
            Socket::Os(stream) if !Arc::ptr_eq(here, worker) => {
                Ok(Self::Elsewhere(stream.into_std()?))
            }
            Socket::Os(_) | Socket::Given(_) => Ok(Self::Here(stream)),
        }
    }

    fn take(self) -> io::Result<Socket> {
        match self {
            Self::Here(stream) => Ok(stream),
            Self::Elsewhere(stream) => {
                let stream = TcpStream::from_std(stream)?;
                Ok(Socket::Os(stream.into()))
            }
        }
    }
}

async fn connection(
    worker: &Arc<Worker>,
    bind: SocketAddr,
    stream: Socket,
    address: SocketAddr,
    stop: &Stop,
    guests: &Guests,
) {
    if stream.set_nodelay().is_err() {
        return;
    }
    let Some(snapshot) = worker.proxy.snapshot() else {
        return;
    };
    let captured;
    let (inbound_door, outbound_door) = match capture::arrived(&snapshot, bind, &stream) {
        Ok(Arrived::At(bind)) => (snapshot.inbound.get(&bind), snapshot.outbound.get(&bind)),
        Ok(Arrived::Inbound(to)) => {
            captured = snapshot.inbound_at(to);
            (captured.as_ref(), None)
        }
        Ok(Arrived::Outbound(to)) => match snapshot.outbound.get(&to) {
            Some(outbound) => (None, Some(outbound)),
            None => {
                let line = Line::new(stream, Bytes::new(), stop.cut.child_token());
                let passing = tcp::passthrough(worker, &snapshot, to, address, line);
                return Box::pin(passing).await;
            }
        },
        Err(error) => {
            worker.proxy.strangers.handshake_refused();
            return tracing::debug!(%error, %bind, "a connection is refused");
        }
    };
    if let Some(listener) = inbound_door {
        let gauge = worker.proxy.metrics.connections("inbound");
        gauge.inc();
        let cut = stop.cut.child_token();
        let serving = inbound(
            worker, listener, &snapshot, stream, address, stop, guests, cut,
        );
        Box::pin(serving).await;
        gauge.dec();
    } else if let Some(outbound) = outbound_door {
        let gauge = worker.proxy.metrics.connections("outbound");
        gauge.inc();
        let line = Line::new(stream, Bytes::new(), stop.cut.child_token());
        if snapshot.is_gateway() {
            let visit = Visit {
                worker,
                snapshot: &snapshot,
                outbound,
                address,
                came_from: address.ip(),
                stop,
                guests,
            };
            Box::pin(visit.serve(line)).await;
        } else if outbound.listener.protocol.is_http() {
            let arrival = Arrival::new(
                outbound.listener.bind,
                Peer::stranger(address.ip()),
                address.port(),
            );
            let gone = line.gone();
            let serving = serve_http(worker, Side::Outbound, arrival, line, gone, Spoken::Any);
            Box::pin(serving.until(stop.drain.clone())).await;
        } else {
            let caller = Peer::stranger(address.ip());
            let passing = tcp::outbound(worker, &snapshot, outbound, caller, address, line);
            Box::pin(passing).await;
        }
        gauge.dec();
    }
}

/// Peers of one listener that have not proved who they are.
#[derive(Clone, Debug)]
pub(crate) struct Guests {
    unproven: Arc<Unproven>,
    strangers: Arc<Semaphore>,
}

impl Default for Guests {
    fn default() -> Self {
        Self {
            unproven: Arc::default(),
            strangers: Arc::new(Semaphore::new(MAX_STRANGERS_PER_LISTENER)),
        }
    }
}

impl Guests {
    /// Takes in a new connection, which `cut` ends.
    pub(crate) fn enter(&self, cut: &CancellationToken, metrics: &Metrics) -> unproven::Place {
        let (place, room) = self.unproven.enter(cut.clone());
        if room == Room::Made {
            metrics.limit_hit("max_unproven_per_listener");
        }
        place
    }

    /// A place for a connection in plaintext, if there is one.
    pub(crate) fn stranger(&self, metrics: &Metrics) -> Option<OwnedSemaphorePermit> {
        let place = self.strangers.clone().try_acquire_owned().ok();
        if place.is_none() {
            metrics.limit_hit("max_strangers_per_listener");
        }
        place
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "what a connection is, and where it came in"
)]
async fn inbound(
    worker: &Arc<Worker>,
    inbound: &Inbound,
    snapshot: &Snapshot,
    mut stream: Socket,
    address: SocketAddr,
    stop: &Stop,
    guests: &Guests,
    cut: CancellationToken,
) {
    let metrics = &worker.proxy.metrics;
    let unproven = guests.enter(&cut, metrics);
    let listener = &inbound.listener;
    let http = listener.protocol.is_http();
    let patience = if http {
        HANDSHAKE_TIMEOUT
    } else {
        DETECT_TIMEOUT
    };
    // Nothing could come of knowing, and a server that speaks first must not wait.
    let blind = !http && listener.mtls == MtlsMode::Disable && !snapshot.looks_at_sni();
    let (opening, ahead) = if blind {
        (Opening::Other, Bytes::new())
    } else {
        let detecting = cut.run_until_cancelled(detect(&mut stream, patience)).await;
        let Some(detected) = detecting else {
            return;
        };
        detected
    };
    let server_name = name_in(&ahead);
    let line = Line::new(stream, ahead, cut);
    let meshed = opening == Opening::MeshTls && listener.mtls != MtlsMode::Disable;
    if meshed {
        return Box::pin(mesh(worker, listener, line, address, stop, unproven)).await;
    }
    drop(unproven);
    let Some(_place) = guests.stranger(metrics) else {
        return;
    };
    let _open =
        WithoutMtls::enter(metrics.connections_without_mtls(counted_port(snapshot, listener)));
    let stranger = Peer::stranger(address.ip());
    match (opening, listener.mtls) {
        (Opening::Closed, _) => {}
        (_, MtlsMode::Strict) => refuse_plaintext(worker, snapshot, inbound, stranger),
        (Opening::MeshTls | Opening::OtherTls, _) => {
            let authenticated_by = AuthenticatedBy::TlsPassthrough;
            let peer = Peer {
                authenticated_by,
                ..stranger.asking_for(server_name.as_str())
            };
            tcp::inbound(
                worker,
                &Arrival::sharing(listener.bind, peer, address.port(), worker),
                None,
                line,
            )
            .await;
        }
        // Bytes that are no HTTP get HTTP's answer (400): an HTTP port passes nothing on that it cannot read.
        (Opening::Http | Opening::Other, _) if http => {
            let arrival = Arrival::sharing(listener.bind, stranger, address.port(), worker);
            let gone = line.gone();
            let serving = serve_http(worker, Side::Inbound, arrival, line, gone, Spoken::Any);
            serving.until(stop.drain.clone()).await;
        }
        (Opening::Silent, _) if http => {}
        (Opening::Http | Opening::Other | Opening::Silent, _) => {
            tcp::inbound(
                worker,
                &Arrival::sharing(listener.bind, stranger, address.port(), worker),
                None,
                line,
            )
            .await;
        }
    }
}

/// The port that a connection is counted under: 0 at captured ports that nobody declared, of which peers choose any number.
fn counted_port(snapshot: &Snapshot, listener: &InboundListener) -> u16 {
    match snapshot.inbound.contains_key(&listener.bind) {
        true => listener.bind.port(),
        false => 0,
    }
}

/// An open connection whose peer speaks no mTLS, counted as long as it is open.
struct WithoutMtls(IntGauge);

impl WithoutMtls {
    fn enter(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for WithoutMtls {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// STRICT: recorded one by one up to a rate, counted beyond; the connection is closed.
fn refuse_plaintext(worker: &Worker, snapshot: &Snapshot, inbound: &Inbound, peer: Peer) {
    let port = counted_port(snapshot, &inbound.listener);
    worker.proxy.metrics.plaintext_refused(port);
    if !worker.proxy.strangers.plaintext_refused() {
        return;
    }
    let question = Question {
        peer,
        place: inbound.place.clone(),
        user: None,
        head: None,
        transformed: None,
        said: None,
    };
    let ledger = &worker.ledger;
    let mut verdict = question.refuse(snapshot, ledger.now(), Reason::PlaintextRefused);
    // Refused whether or not it can be recorded.
    ledger.denial(question.record(snapshot, &mut verdict));
    worker.flush_soon();
}

async fn mesh(
    worker: &Arc<Worker>,
    listener: &InboundListener,
    line: Line<Socket>,
    address: SocketAddr,
    stop: &Stop,
    unproven: unproven::Place,
) {
    let http = listener.protocol.is_http();
    let Some(shaken) = shake_hands(worker, line, address, http).await else {
        return;
    };
    drop(unproven);
    let Shaken {
        stream,
        peer,
        spoken,
        told,
        old,
        epoch,
        gone,
    } = shaken;
    let arrival = Arrival::sharing(listener.bind, peer, address.port(), worker);
    if spoken == Spoken::Bytes {
        tcp::inbound(worker, &arrival, told, stream).await;
        return;
    }
    let draining = async {
        // Cancel-safe: tokens and a watch.
        tokio::select! {
            () = stop.drain.cancelled() => {}
            () = old.cancelled() => {}
            () = worker.proxy.epoch_after(&epoch) => {}
        }
    };
    if spoken == Spoken::Http2 {
        let stream = Corked::new(stream);
        let serving = serve_http(worker, Side::Inbound, arrival, stream, gone, spoken);
        Box::pin(serving.until_future(draining)).await;
    } else {
        let serving = serve_http(worker, Side::Inbound, arrival, stream, gone, spoken);
        Box::pin(serving.until_future(draining)).await;
    }
}
