//! The proxy's side.

use std::{convert::Infallible, fmt, time::Duration};

use reeve_core::{InstanceName, model::OpenCircuit};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    MAX_CIRCUITS, all_from_wire,
    hub::BEAT,
    proto::{Held, circuits_client::CircuitsClient},
    to_wire,
};
use crate::{ChannelFactory, client::backoff::Backoff};

/// How often it is looked what the proxy holds open.
const LOOK: Duration = Duration::from_millis(200);
/// How long opening a stream may take, connecting included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Shares what a proxy holds open, and takes in what others do.
pub struct CircuitClient {
    node: InstanceName,
    channel: ChannelFactory,
}

impl fmt::Debug for CircuitClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitClient")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl CircuitClient {
    /// A client for the proxy `node`.
    pub fn new(channel: ChannelFactory, node: InstanceName) -> Self {
        Self { node, channel }
    }

    /// Runs for ever: `held` says what the proxy holds open, `known` is told what others do. Without the mesh, what was
    /// known ends by itself.
    pub async fn run(
        self,
        held: impl Fn() -> Vec<OpenCircuit> + Send,
        known: impl Fn(&[OpenCircuit]) + Send,
    ) -> Infallible {
        let mut backoff = Backoff::default();
        loop {
            if let Err(error) = self.stream(&held, &known, &mut backoff).await {
                tracing::debug!(node = %self.node, %error, "circuits are not shared");
            }
            sleep(backoff.next_delay()).await;
        }
    }

    async fn stream(
        &self,
        held: &(impl Fn() -> Vec<OpenCircuit> + Send),
        known: &(impl Fn(&[OpenCircuit]) + Send),
        backoff: &mut Backoff,
    ) -> Result<(), Status> {
        let (requests, queue) = mpsc::channel(1);
        let mut last = held();
        let first = self.message(&last);
        requests.send(first).await.map_err(|_| closed())?;
        let mut client = CircuitsClient::new((self.channel)());
        let opened = client.share(ReceiverStream::new(queue));
        let mut responses = timeout(OPEN_TIMEOUT, opened)
            .await
            .map_err(|_| Status::deadline_exceeded("no answer in time"))??
            .into_inner();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent = Duration::ZERO;
        loop {
            // Cancel-safe: a stream's next message and an interval stay where they are until taken.
            tokio::select! {
                message = responses.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    backoff.reset();
                    known(&all_from_wire(message.circuits));
                }
                _ = look.tick() => {
                    silent += LOOK;
                    let now = held();
                    let changed = !are_the_same(&last, &now);
                    if changed || (silent >= BEAT && !now.is_empty()) {
                        requests.send(self.message(&now)).await.map_err(|_| closed())?;
                        silent = Duration::ZERO;
                        last = now;
                    }
                }
            }
        }
    }

    fn message(&self, circuits: &[OpenCircuit]) -> Held {
        Held {
            proxy: self.node.to_string(),
            circuits: circuits.iter().take(MAX_CIRCUITS).map(to_wire).collect(),
        }
    }
}

/// Whether both name the same circuits, whatever time they have left.
fn are_the_same(one: &[OpenCircuit], other: &[OpenCircuit]) -> bool {
    let pairs = one.iter().zip(other);
    one.len() == other.len() && { pairs }.all(|(a, b)| a.is_about_the_same(b))
}

fn closed() -> Status {
    Status::unavailable("the stream is closed")
}
