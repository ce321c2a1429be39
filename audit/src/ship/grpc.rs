//! The uplink over `reeve.audit.v1.Ingest/Ship`.

use std::time::Duration;

use reeve_core::InstanceName;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{ChannelFactory, Held, Positions, ShipError, Uplink};
use crate::{
    batch::Batch,
    ingest::proto::{
        self, ShipRequest, ShipResponse, ingest_client::IngestClient, ship_request, ship_response,
    },
    log::Position,
};

/// A stream to the log.
#[derive(Debug)]
pub(super) struct Stream {
    requests: mpsc::Sender<ShipRequest>,
    responses: Streaming<ShipResponse>,
    timeout: Duration,
}

/// Connects, says hello and learns the position.
pub(super) async fn connect(
    factory: &ChannelFactory,
    proxy: &InstanceName,
    timeout: Duration,
) -> Result<(Held, Stream), ShipError> {
    let attempt = async {
        let channel = factory().await.map_err(ShipError::Connect)?;
        let (requests, outgoing) = mpsc::channel(1);
        let hello = ship_request::Kind::Hello(proto::Hello {
            proxy: proxy.to_string(),
        });
        let first = ShipRequest { kind: Some(hello) };
        requests
            .send(first)
            .await
            .map_err(|_closed| ShipError::Gone)?;
        let answer = IngestClient::new(channel)
            .ship(ReceiverStream::new(outgoing))
            .await
            .map_err(|status| ShipError::Rpc(Box::new(status)))?;
        Ok(Stream {
            requests,
            responses: answer.into_inner(),
            timeout,
        })
    };
    let mut stream = tokio::time::timeout(timeout, attempt)
        .await
        .map_err(|_elapsed| ShipError::Gone)??;
    match stream.message().await? {
        ship_response::Kind::Positions(positions) => Ok((known(positions), stream)),
        ship_response::Kind::Refused(refused) => Err(ShipError::Refused(refused.reason)),
        ship_response::Kind::Position(_) => Err(ShipError::Gone),
    }
}

fn known(positions: proto::Positions) -> Held {
    let log = positions.log;
    let workers = positions.workers.into_iter();
    let positions: Positions = workers
        .filter_map(|(worker, position)| Some((u16::try_from(worker).ok()?, position.into())))
        .collect();
    Held { log, positions }
}

impl Stream {
    async fn message(&mut self) -> Result<ship_response::Kind, ShipError> {
        let answer = tokio::time::timeout(self.timeout, self.responses.message()).await;
        let message = answer
            .map_err(|_elapsed| ShipError::Gone)?
            .map_err(|status| ShipError::Rpc(Box::new(status)))?;
        message.and_then(|m| m.kind).ok_or(ShipError::Gone)
    }
}

impl Uplink for Stream {
    async fn send(&mut self, batch: Batch) -> Result<Position, ShipError> {
        let kind = Some(ship_request::Kind::Batch(proto::Batch {
            header: batch.header,
            chain_der: batch.chain_der,
            records: batch.records,
        }));
        let sent = self.requests.send(ShipRequest { kind }).await;
        sent.map_err(|_closed| ShipError::Gone)?;
        match self.message().await? {
            ship_response::Kind::Position(position) => Ok(position.into()),
            ship_response::Kind::Refused(refused) => Err(ShipError::Refused(refused.reason)),
            ship_response::Kind::Positions(_) => Err(ShipError::Gone),
        }
    }
}
