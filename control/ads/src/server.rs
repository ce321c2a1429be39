//! The server side: one stream per proxy.

use std::{fmt, sync::Arc};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::{
        AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
    },
};
use futures_util::stream::BoxStream;
use reeve_core::{
    InstanceName, SpiffeId,
    model::{Generation, ProxyConfig},
};
use tokio::sync::watch;
use tonic::{Extensions, Request, Response, Status, Streaming};

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
            .max_decoding_message_size(crate::MAX_MESSAGE_BYTES)
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
        _request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("not yet"))
    }
}
