//! The server side: one stream per proxy.

pub(crate) mod session;

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::{
        AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
    },
};
use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use reeve_core::{
    InstanceName, SpiffeId,
    model::{Generation, ProxyConfig},
};
use tokio::{sync::watch, time::timeout};
use tonic::{Extensions, Request, Response, Status, Streaming};

use session::Session;

/// How long a new stream may be silent.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest request: subscriptions with the versions that a proxy holds.
const MAX_REQUEST_BYTES: usize = 8 * 1024 * 1024;

/// Where configurations come from and acknowledgements go.
pub trait ConfigSource: Send + Sync + 'static {
    /// The configurations of `instance`, if `id` is its identity; `None` until there is one. The sender is dropped
    /// when the instance is no more. How many receivers there are tells the source whether the proxy is connected.
    fn watch(
        &self,
        instance: &InstanceName,
        id: &SpiffeId,
    ) -> Result<watch::Receiver<Option<Arc<ProxyConfig>>>, Refused>;

    /// What `instance` answered to a generation.
    fn report(&self, instance: &InstanceName, report: AckReport);
}

/// Why a proxy gets no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The mesh has no such instance.
    #[error("the mesh has no instance {0}")]
    UnknownInstance(InstanceName),
    /// The instance is there, but the caller is someone else.
    #[error("instance {instance} does not run as {id}")]
    OtherIdentity {
        /// The instance asked for.
        instance: InstanceName,
        /// Who asked.
        id: SpiffeId,
    },
}

/// A proxy's answer to one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckReport {
    /// Which one.
    pub generation: Generation,
    /// Its policy set, as [`reeve_core::model::PolicySlice::mesh_hash`].
    pub policy_hash: String,
    /// `None` = in force; else why the proxy refused it (NACK) and stays with what it had.
    pub error: Option<String>,
}

/// Tells the caller's verified identity from a request's extensions.
type Authenticate = dyn Fn(&Extensions) -> Option<SpiffeId> + Send + Sync;

/// The gRPC service `envoy.service.discovery.v3.AggregatedDiscoveryService`, delta variant only.
#[derive(Clone)]
pub struct AdsService {
    source: Arc<dyn ConfigSource>,
    authenticate: Arc<Authenticate>,
}

impl fmt::Debug for AdsService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdsService").finish_non_exhaustive()
    }
}

impl AdsService {
    /// A service that feeds proxies from `source`; `authenticate` finds the verified identity of the caller.
    pub fn new(
        source: Arc<dyn ConfigSource>,
        authenticate: impl Fn(&Extensions) -> Option<SpiffeId> + Send + Sync + 'static,
    ) -> Self {
        Self {
            source,
            authenticate: Arc::new(authenticate),
        }
    }

    /// The service for a tonic server.
    pub fn into_server(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self)
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(crate::MAX_MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for AdsService {
    type StreamAggregatedResourcesStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream =
        BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("use DeltaAggregatedResources"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let Some(id) = (self.authenticate)(request.extensions()) else {
            return Err(Status::unauthenticated("show a certificate of this mesh"));
        };
        let opening = Opening {
            source: Arc::clone(&self.source),
            id,
            requests: request.into_inner(),
        };
        let stream = stream::once(opening.open()).try_flatten();
        Ok(Response::new(stream.boxed()))
    }
}

/// A stream that has not named its instance yet.
struct Opening {
    source: Arc<dyn ConfigSource>,
    id: SpiffeId,
    requests: Streaming<DeltaDiscoveryRequest>,
}

impl Opening {
    async fn open(mut self) -> Result<BoxStream<'static, Feed>, Status> {
        let first = timeout(FIRST_REQUEST_TIMEOUT, self.requests.next()).await;
        let first = match first {
            Ok(Some(first)) => first?,
            Ok(None) => return Err(Status::cancelled("no request")),
            Err(_) => return Err(Status::deadline_exceeded("no request in time")),
        };
        let node = first.node.as_ref().map(|node| node.id.as_str());
        let instance = InstanceName::parse(node.unwrap_or_default())
            .map_err(|e| Status::invalid_argument(format!("node id: {e}")))?;
        let configs = self.source.watch(&instance, &self.id).map_err(|refused| {
            tracing::warn!(%instance, id = %self.id, %refused, "a proxy is refused its configuration");
            Status::permission_denied(refused.to_string())
        })?;
        tracing::info!(%instance, id = %self.id, "a proxy is connected");
        let mut stream = ProxyStream {
            source: self.source,
            instance,
            requests: self.requests,
            configs,
            session: Session::default(),
            queue: VecDeque::new(),
        };
        stream.configs.mark_changed();
        stream.receive(first)?;
        Ok(stream::try_unfold(stream, ProxyStream::next).boxed())
    }
}

/// An element of the stream to a proxy.
type Feed = Result<DeltaDiscoveryResponse, Status>;

/// The stream of one proxy.
struct ProxyStream {
    source: Arc<dyn ConfigSource>,
    instance: InstanceName,
    requests: Streaming<DeltaDiscoveryRequest>,
    configs: watch::Receiver<Option<Arc<ProxyConfig>>>,
    session: Session,
    /// At most one generation's responses.
    queue: VecDeque<DeltaDiscoveryResponse>,
}

impl ProxyStream {
    async fn next(mut self) -> Result<Option<(DeltaDiscoveryResponse, Self)>, Status> {
        loop {
            if let Some(response) = self.queue.pop_front() {
                return Ok(Some((response, self)));
            }
            let ready = self.session.is_ready();
            // Cancel-safe: a stream's next element and a watch's change stay where they are until taken.
            tokio::select! {
                request = self.requests.next() => match request {
                    Some(request) => self.receive(request?)?,
                    None => return Ok(None),
                },
                changed = self.configs.changed(), if ready => {
                    changed.map_err(|_| Status::unavailable("the mesh no longer has this instance"))?;
                    self.send()?;
                }
            }
        }
    }

    fn receive(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        let report = self
            .session
            .receive(request)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        if let Some(report) = report {
            self.source.report(&self.instance, report);
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), Status> {
        let config = self.configs.borrow_and_update().clone();
        let Some(config) = config else {
            return Ok(());
        };
        let responses = self.session.update(&config).map_err(|error| {
            tracing::error!(instance = %self.instance, %error, "a configuration cannot be encoded");
            Status::internal("the configuration cannot be encoded")
        })?;
        self.queue.extend(responses);
        Ok(())
    }
}
