//! What a proxy has received, and how it becomes a configuration. No I/O.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    },
    google::rpc::Status,
};
use reeve_core::{
    InstanceName,
    model::{ProxyConfig, Resource, ResourceKind},
};
use tonic::Code;

use crate::wire::{self, WireError};

/// Most resources that a proxy holds.
const MAX_RESOURCES: usize = 200_000;

struct Received {
    version: String,
    /// A resource that does not parse is kept as such: the server thinks that it is here, and says so only when the
    /// generation is refused for it.
    resource: Result<Resource, String>,
}

/// All that was received, over all streams.
#[derive(Default)]
pub(crate) struct Collected {
    received: BTreeMap<(ResourceKind, String), Received>,
}

/// What a response calls for.
#[derive(Debug)]
pub(crate) enum Next {
    /// Answer with this and go on.
    Answer(Box<DeltaDiscoveryRequest>),
    /// A generation is complete: apply it and answer to this nonce.
    Apply {
        /// The configuration, or why what is here makes none.
        config: Result<Arc<ProxyConfig>, String>,
        /// The generation's nonce.
        nonce: String,
    },
}

impl Collected {
    /// The subscriptions that open a stream, with what is already here.
    pub(crate) fn subscriptions(&self, node: &InstanceName) -> Vec<DeltaDiscoveryRequest> {
        let mut versions: BTreeMap<ResourceKind, HashMap<String, String>> = BTreeMap::new();
        for ((kind, name), received) in &self.received {
            let of_kind = versions.entry(*kind).or_default();
            of_kind.insert(name.clone(), received.version.clone());
        }
        let node = Node {
            id: node.to_string(),
            ..Node::default()
        };
        let subscription = |kind| DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: wire::type_url(kind),
            resource_names_subscribe: vec!["*".to_owned()],
            initial_resource_versions: versions.remove(&kind).unwrap_or_default(),
            ..DeltaDiscoveryRequest::default()
        };
        ResourceKind::ALL.into_iter().map(subscription).collect()
    }

    /// Takes in one response.
    pub(crate) fn receive(&mut self, response: DeltaDiscoveryResponse) -> Result<Next, WireError> {
        let kind = wire::kind_of(&response.type_url)?;
        for name in response.removed_resources {
            self.received.remove(&(kind, name));
        }
        for envelope in response.resources {
            let key = (kind, envelope.name.clone());
            let received = Received {
                version: envelope.version.clone(),
                resource: wire::decode(kind, envelope).map_err(|e| e.to_string()),
            };
            self.received.insert(key, received);
        }
        if kind == ResourceKind::Generation {
            return Ok(Next::Apply {
                config: self.config().map(Arc::new),
                nonce: response.nonce,
            });
        }
        Ok(Next::Answer(Box::new(answer(kind, response.nonce, None))))
    }

    fn config(&self) -> Result<ProxyConfig, String> {
        if self.received.len() > MAX_RESOURCES {
            let count = self.received.len();
            return Err(format!("{count} resources; the limit is {MAX_RESOURCES}"));
        }
        let resources: Result<Vec<Resource>, String> = self
            .received
            .values()
            .map(|received| received.resource.clone())
            .collect();
        ProxyConfig::from_resources(resources?).map_err(|e| e.to_string())
    }
}

/// ACK (`error` absent) or NACK of the response `nonce`.
pub(crate) fn answer(
    kind: ResourceKind,
    nonce: String,
    error: Option<String>,
) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: wire::type_url(kind),
        response_nonce: nonce,
        error_detail: error.map(|message| Status {
            code: Code::InvalidArgument.into(),
            message,
            ..Status::default()
        }),
        ..DeltaDiscoveryRequest::default()
    }
}
