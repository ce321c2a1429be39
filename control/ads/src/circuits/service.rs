//! The mesh's side.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::BoxStream};
use reeve_core::{InstanceName, SpiffeId};
use tokio::{
    sync::mpsc,
    time::{Instant, interval_at, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::{
    CircuitHub, all_from_wire,
    hub::BEAT,
    proto::{
        Held, Known,
        circuits_server::{Circuits, CircuitsServer},
    },
    to_wire,
};

/// How long a new stream may be silent.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest message.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// Whether an identity is that of an instance of the mesh.
pub type Membership = dyn Fn(&SpiffeId, &InstanceName) -> bool + Send + Sync;

type Authenticate = dyn Fn(&Extensions) -> Option<SpiffeId> + Send + Sync;

/// The gRPC service `reeve.circuits.v1.Circuits`.
#[derive(Clone)]
pub struct CircuitService {
    hub: Arc<CircuitHub>,
    authenticate: Arc<Authenticate>,
    is_member: Arc<Membership>,
    streams: Arc<AtomicU64>,
}

impl fmt::Debug for CircuitService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitService").finish_non_exhaustive()
    }
}

impl CircuitService {
    /// A service around `hub`; `authenticate` finds the verified identity of the caller, `is_member` says whether it is
    /// that of the instance it speaks for.
    pub fn new(
        hub: Arc<CircuitHub>,
        authenticate: impl Fn(&Extensions) -> Option<SpiffeId> + Send + Sync + 'static,
        is_member: Arc<Membership>,
    ) -> Self {
        Self {
            hub,
            authenticate: Arc::new(authenticate),
            is_member,
            streams: Arc::default(),
        }
    }

    /// The service for a tonic server.
    pub fn into_server(self) -> CircuitsServer<Self> {
        CircuitsServer::new(self).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl Circuits for CircuitService {
    type ShareStream = BoxStream<'static, Result<Known, Status>>;

    async fn share(
        &self,
        request: Request<Streaming<Held>>,
    ) -> Result<Response<Self::ShareStream>, Status> {
        let Some(id) = (self.authenticate)(request.extensions()) else {
            return Err(Status::unauthenticated("show a certificate of this mesh"));
        };
        let mut told = request.into_inner();
        let first = timeout(FIRST_MESSAGE_TIMEOUT, told.message()).await;
        let first = first
            .map_err(|_| Status::deadline_exceeded("no message in time"))??
            .ok_or_else(|| Status::cancelled("no message"))?;
        let proxy = InstanceName::parse(&first.proxy)
            .map_err(|e| Status::invalid_argument(format!("proxy: {e}")))?;
        // SECURITY: a proxy speaks for itself alone.
        if !(self.is_member)(&id, &proxy) {
            return Err(Status::permission_denied("that is another's instance"));
        }
        let stream = self.streams.fetch_add(1, Ordering::Relaxed);
        self.hub.hold(&proxy, stream, all_from_wire(first.circuits));
        let sharing = Sharing {
            hub: self.hub.clone(),
            proxy,
            stream,
        };
        let (known, outgoing) = mpsc::channel(1);
        tokio::spawn(sharing.run(told, known));
        Ok(Response::new(ReceiverStream::new(outgoing).boxed()))
    }
}

/// One proxy's stream; forgotten with it.
struct Sharing {
    hub: Arc<CircuitHub>,
    proxy: InstanceName,
    stream: u64,
}

impl Sharing {
    async fn run(self, mut told: Streaming<Held>, known: mpsc::Sender<Result<Known, Status>>) {
        let mut changes = self.hub.changes();
        changes.mark_changed();
        let mut beat = interval_at(Instant::now() + BEAT, BEAT);
        loop {
            // Cancel-safe: a stream's next message, a watch's change and an interval stay where they are until taken.
            tokio::select! {
                message = told.message() => match message {
                    Ok(Some(held)) => {
                        let circuits = all_from_wire(held.circuits);
                        self.hub.hold(&self.proxy, self.stream, circuits);
                        continue;
                    }
                    Ok(None) | Err(_) => return,
                },
                changed = changes.changed() => if changed.is_err() { return },
                _ = beat.tick() => {}
            }
            let others = self.hub.open_but(Some(&self.proxy));
            let circuits = others.iter().map(to_wire).collect();
            if known.send(Ok(Known { circuits })).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        self.hub.forget(&self.proxy, self.stream);
    }
}
