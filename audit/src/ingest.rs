//! The gRPC service that takes batches from proxies.

/// The messages of `proto/audit.proto`.
pub(crate) mod proto {
    #![expect(
        unreachable_pub,
        unused_qualifications,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        clippy::too_many_lines,
        reason = "generated from proto/audit.proto, which documents it"
    )]
    tonic::include_proto!("reeve.audit.v1");
}

use std::{collections::BTreeMap, fmt, pin::Pin, sync::Arc};

use reeve_core::{Clock, InstanceName, SpiffeId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use self::proto::{
    ShipRequest, ShipResponse,
    ingest_server::{Ingest, IngestServer},
    ship_request, ship_response,
};
use crate::{
    AuditLog, BatchVerifier,
    batch::{Batch, BoxError, CheckedBatch, MAX_BATCH_BYTES, MAX_HEADER_BYTES},
    log::{LogError, Position},
};

/// Says who the peer of a connection is, from what the server put in the request's extensions.
pub type Authenticate = Arc<dyn Fn(&tonic::Extensions) -> Option<SpiffeId> + Send + Sync>;

/// Says whether an identity may ship the records of an instance; an error where that cannot be said now.
pub type MayShip = Arc<dyn Fn(SpiffeId, InstanceName) -> Answer + Send + Sync>;

/// What [`MayShip`] says.
pub type Answer = Pin<Box<dyn Future<Output = Result<bool, BoxError>> + Send>>;

/// The same of one who need not ask anybody.
pub fn told_at_once(
    may: impl Fn(&SpiffeId, &InstanceName) -> bool + Send + Sync + 'static,
) -> MayShip {
    Arc::new(move |id, proxy| Box::pin(std::future::ready(Ok(may(&id, &proxy)))))
}

/// The largest message: a batch, its header, its certificates, and what protobuf adds to each record.
const MAX_MESSAGE_BYTES: usize = MAX_BATCH_BYTES + MAX_HEADER_BYTES + (1 << 18);

/// `reeve.audit.v1.Ingest`; make a tonic server of it with [`IngestService::into_server`].
#[derive(Clone)]
pub struct IngestService {
    log: Arc<AuditLog>,
    authenticate: Authenticate,
    may_ship: MayShip,
    verifier: Arc<dyn BatchVerifier>,
    clock: Arc<dyn Clock>,
}

impl IngestService {
    /// A service that feeds `log`.
    pub fn new(
        log: Arc<AuditLog>,
        authenticate: Authenticate,
        may_ship: MayShip,
        verifier: Arc<dyn BatchVerifier>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            log,
            authenticate,
            may_ship,
            verifier,
            clock,
        }
    }

    /// The tonic service to add to a server.
    pub fn into_server(self) -> IngestServer<impl Ingest> {
        IngestServer::new(self).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Serves one stream until it ends or a batch is refused.
    async fn serve(
        self,
        peer: SpiffeId,
        mut requests: Streaming<ShipRequest>,
        answers: mpsc::Sender<Result<ShipResponse, Status>>,
    ) {
        let mut proxy: Option<InstanceName> = None;
        while let Ok(Some(request)) = requests.message().await {
            let answer = match (request.kind, &proxy) {
                (Some(ship_request::Kind::Hello(hello)), None) => {
                    match self.greet(&peer, &hello.proxy).await {
                        Ok((name, positions)) => {
                            proxy = Some(name);
                            Ok(positions_answer(positions, self.log.origin()))
                        }
                        Err(status) => Err(status),
                    }
                }
                (Some(ship_request::Kind::Batch(batch)), Some(proxy)) => {
                    self.take(&peer, proxy, batch).await
                }
                _ => Err(Status::invalid_argument(
                    "a stream is one hello, then batches",
                )),
            };
            let last = answer.is_err();
            if answers.send(answer).await.is_err() || last {
                return;
            }
        }
    }

    async fn greet(
        &self,
        peer: &SpiffeId,
        proxy: &str,
    ) -> Result<(InstanceName, BTreeMap<u16, Position>), Status> {
        let name = InstanceName::parse(proxy)
            .map_err(|e| Status::invalid_argument(format!("proxy: {e}")))?;
        let may = (self.may_ship)(peer.clone(), name.clone()).await;
        let may = may.map_err(|error| {
            tracing::warn!(%peer, proxy, error, "whether it may ship these records is not known");
            Status::unavailable("who may ship which records cannot be asked now")
        })?;
        if !may {
            tracing::warn!(%peer, proxy, "may not ship the records of that proxy");
            return Err(Status::permission_denied(
                "not entitled to ship the records of that proxy",
            ));
        }
        let positions = self.log.acknowledged(&name).await.map_err(|error| {
            tracing::error!(%error, "cannot say what is acknowledged");
            Status::unavailable("the audit log acknowledges nothing now")
        })?;
        Ok((name, positions))
    }

    async fn take(
        &self,
        peer: &SpiffeId,
        proxy: &InstanceName,
        batch: proto::Batch,
    ) -> Result<ShipResponse, Status> {
        let batch = Batch {
            header: batch.header,
            chain_der: batch.chain_der,
            records: batch.records,
        };
        match self.check(peer, proxy, batch) {
            Ok(batch) => match self.log.submit_checked(batch).await {
                Ok(position) => Ok(position_answer(position)),
                Err(LogError::Batch(fault)) => Ok(refused(peer, proxy, &fault.to_string())),
                Err(error) => {
                    tracing::error!(%error, "cannot take a batch");
                    Err(Status::unavailable("the audit log cannot take it now"))
                }
            },
            Err(reason) => Ok(refused(peer, proxy, &reason)),
        }
    }

    /// SECURITY: nothing enters the log that is not signed by the identity on the connection, for its own proxy.
    fn check(
        &self,
        peer: &SpiffeId,
        proxy: &InstanceName,
        batch: Batch,
    ) -> Result<CheckedBatch, String> {
        let checked = batch.checked().map_err(|fault| fault.to_string())?;
        let CheckedBatch { batch, header } = &checked;
        if header.proxy != *proxy {
            return Err(format!("the batch is of {}", header.proxy));
        }
        let message = header.signed_bytes().map_err(|e| e.to_string())?;
        let signer = self
            .verifier
            .verify(
                &batch.chain_der,
                &message,
                &header.signature_bytes(),
                self.clock.now(),
            )
            .map_err(|e| format!("the signature: {e}"))?;
        if signer != *peer {
            return Err(format!("signed by {signer}, sent by {peer}"));
        }
        Ok(checked)
    }
}

#[tonic::async_trait]
impl Ingest for IngestService {
    type ShipStream = ReceiverStream<Result<ShipResponse, Status>>;

    async fn ship(
        &self,
        request: Request<Streaming<ShipRequest>>,
    ) -> Result<Response<Self::ShipStream>, Status> {
        let Some(peer) = (self.authenticate)(request.extensions()) else {
            return Err(Status::unauthenticated("a mesh certificate is required"));
        };
        let (answers, outgoing) = mpsc::channel(1);
        let service = self.clone();
        // Owned by the stream: it ends when the peer does, or when the answers have no reader any more.
        tokio::spawn(service.serve(peer, request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

fn refused(peer: &SpiffeId, proxy: &InstanceName, reason: &str) -> ShipResponse {
    tracing::warn!(%peer, %proxy, reason, "refused a batch");
    ShipResponse {
        kind: Some(ship_response::Kind::Refused(proto::Refused {
            reason: reason.to_owned(),
        })),
    }
}

fn positions_answer(positions: BTreeMap<u16, Position>, log: &str) -> ShipResponse {
    let workers = positions.into_iter().map(|(w, p)| (w.into(), p.into()));
    ShipResponse {
        kind: Some(ship_response::Kind::Positions(proto::Positions {
            workers: workers.collect(),
            log: log.to_owned(),
        })),
    }
}

fn position_answer(position: Position) -> ShipResponse {
    ShipResponse {
        kind: Some(ship_response::Kind::Position(position.into())),
    }
}

impl From<Position> for proto::Position {
    fn from(position: Position) -> Self {
        Self {
            epoch: position.epoch,
            batch: position.batch,
            sequence: position.sequence,
            header_hash: match position.epoch {
                0 => Vec::new(),
                _ => position.header_hash.to_vec(),
            },
        }
    }
}

impl From<proto::Position> for Position {
    fn from(position: proto::Position) -> Self {
        Self {
            epoch: position.epoch,
            batch: position.batch,
            sequence: position.sequence,
            header_hash: position.header_hash.try_into().unwrap_or_default(),
        }
    }
}

impl fmt::Debug for IngestService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IngestService")
            .field("log", &self.log)
            .field("verifier", &self.verifier)
            .finish_non_exhaustive()
    }
}
