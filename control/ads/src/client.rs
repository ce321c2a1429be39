//! The client side: a proxy's view of its configuration.

pub(crate) mod backoff;
pub(crate) mod collected;

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use futures_util::StreamExt;
use reeve_core::{
    InstanceName,
    model::{Generation, ProxyConfig, ResourceKind},
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

use backoff::Backoff;
use collected::{Collected, Next, answer};

/// Requests that wait for the transport: the subscriptions and a few answers.
const QUEUE: usize = 32;
/// How long opening a stream may take, connecting included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes a channel to the control plane with the credentials of the moment; called once per stream.
pub type ChannelFactory = Arc<dyn Fn() -> Channel + Send + Sync>;

/// What a proxy knows about its feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdsStatus {
    /// Whether a stream is open.
    pub connected: bool,
    /// The generation in force.
    pub applied: Option<Generation>,
    /// Why the newest generation was refused, if it was.
    pub refused: Option<String>,
    /// Why the last stream ended.
    pub last_error: Option<String>,
}

/// Receives configurations and has them applied.
pub struct AdsClient {
    node: InstanceName,
    channel: ChannelFactory,
    status: watch::Sender<AdsStatus>,
}

impl fmt::Debug for AdsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdsClient")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl AdsClient {
    /// A client for the proxy `node`.
    pub fn new(channel: ChannelFactory, node: InstanceName) -> Self {
        Self {
            node,
            channel,
            status: watch::Sender::default(),
        }
    }

    /// Where the feed stands.
    pub fn status(&self) -> watch::Receiver<AdsStatus> {
        self.status.subscribe()
    }

    /// Runs for ever: connects, receives, has each generation applied, answers, and reconnects with backoff.
    ///
    /// An `Err` from `apply` means that the old configuration stays in force; its text travels in the NACK. What was
    /// refused is tried again from time to time, since the cause (a port that is taken) may go away by itself.
    pub async fn run<F, Fut>(self, apply: F) -> Infallible
    where
        F: FnMut(Arc<ProxyConfig>) -> Fut + Send,
        Fut: Future<Output = Result<(), String>> + Send,
    {
        let mut feed = Feed {
            client: &self,
            apply,
            collected: Collected::default(),
            applied: None,
            refused: None,
        };
        let mut backoff = Backoff::default();
        loop {
            let ended = feed.stream(&mut backoff).await;
            let error = match ended {
                Ok(()) => "the control plane ended the stream".to_owned(),
                Err(status) => format!("{}: {}", status.code(), status.message()),
            };
            tracing::warn!(node = %self.node, %error, "no stream to the control plane");
            self.status.send_modify(|status| {
                status.connected = false;
                status.last_error = Some(error);
            });
            sleep(backoff.next_delay()).await;
        }
    }
}

/// A generation that `apply` refused.
struct RefusedGeneration {
    config: Arc<ProxyConfig>,
    /// Its nonce on the present stream.
    nonce: String,
    retry: Backoff,
}

struct Feed<'a, F> {
    client: &'a AdsClient,
    apply: F,
    collected: Collected,
    applied: Option<Arc<ProxyConfig>>,
    refused: Option<RefusedGeneration>,
}

impl<F, Fut> Feed<'_, F>
where
    F: FnMut(Arc<ProxyConfig>) -> Fut + Send,
    Fut: Future<Output = Result<(), String>> + Send,
{
    /// One stream, from opening to its end.
    async fn stream(&mut self, backoff: &mut Backoff) -> Result<(), Status> {
        let subscriptions = self.collected.subscriptions(&self.client.node);
        let (requests, queue) = mpsc::channel(QUEUE);
        for subscription in subscriptions {
            send(&requests, subscription).await?;
        }
        let mut client = AggregatedDiscoveryServiceClient::new((self.client.channel)())
            .max_decoding_message_size(crate::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(crate::MAX_MESSAGE_BYTES);
        let opened = client.delta_aggregated_resources(ReceiverStream::new(queue));
        let mut responses = timeout(OPEN_TIMEOUT, opened)
            .await
            .map_err(|_| Status::deadline_exceeded("no answer in time"))??
            .into_inner();
        // A nonce belongs to its stream.
        self.refused = None;
        loop {
            let retry = self.refused.as_mut().map(|r| r.retry.next_delay());
            // Cancel-safe: a stream's next element stays where it is until taken.
            tokio::select! {
                response = responses.next() => {
                    let Some(response) = response else { return Ok(()) };
                    backoff.reset();
                    let answer = self.receive(response?).await?;
                    send(&requests, answer).await?;
                }
                () = sleep(retry.unwrap_or_default()), if retry.is_some() => {
                    if let Some(answer) = self.retry().await {
                        send(&requests, answer).await?;
                    }
                }
            }
        }
    }

    async fn receive(
        &mut self,
        response: DeltaDiscoveryResponse,
    ) -> Result<DeltaDiscoveryRequest, Status> {
        self.client
            .status
            .send_if_modified(|status| !std::mem::replace(&mut status.connected, true));
        let next = self
            .collected
            .receive(response)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        match next {
            Next::Answer(answer) => Ok(*answer),
            Next::Apply { config, nonce } => {
                self.refused = None;
                let outcome = match config {
                    Ok(config) => self.apply(config, &nonce).await,
                    Err(error) => Err(error),
                };
                self.note(&outcome);
                Ok(answer(ResourceKind::Generation, nonce, outcome.err()))
            }
        }
    }

    async fn apply(&mut self, config: Arc<ProxyConfig>, nonce: &str) -> Result<(), String> {
        if self.applied.as_ref() == Some(&config) {
            return Ok(());
        }
        let outcome = (self.apply)(Arc::clone(&config)).await;
        match &outcome {
            Ok(()) => self.applied = Some(config),
            Err(_) => {
                self.refused = Some(RefusedGeneration {
                    config,
                    nonce: nonce.to_owned(),
                    retry: Backoff::for_refused(),
                });
            }
        }
        outcome
    }

    /// Tries the refused generation again; an answer if it went well.
    async fn retry(&mut self) -> Option<DeltaDiscoveryRequest> {
        let refused = self.refused.as_ref()?;
        let config = Arc::clone(&refused.config);
        let outcome = (self.apply)(Arc::clone(&config)).await;
        self.note(&outcome);
        outcome.ok()?;
        self.applied = Some(config);
        let refused = self.refused.take()?;
        Some(answer(ResourceKind::Generation, refused.nonce, None))
    }

    fn note(&self, outcome: &Result<(), String>) {
        let applied = self.applied.as_ref().map(|config| config.generation);
        self.client.status.send_modify(|status| {
            status.applied = applied;
            status.refused = outcome.as_ref().err().cloned();
            status.last_error = None;
        });
    }
}

async fn send(
    requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    request: DeltaDiscoveryRequest,
) -> Result<(), Status> {
    let sent = requests.send(request).await;
    sent.map_err(|_| Status::unavailable("the stream is closed"))
}
