//! Increments: every answer has what the peer does not have yet.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{
    Asker, MAX_NAMES,
    secrets::{self, SECRET},
    wanted,
};
use crate::identities::Ready;

/// One stream of one Envoy.
pub(super) struct Session {
    asker: Asker,
    /// What is subscribed to, and the version of it that the peer was sent or says that it has.
    subscribed: BTreeMap<String, Option<String>>,
    nonce: u64,
    send: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

impl Session {
    pub(super) fn new(
        asker: Asker,
        send: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    ) -> Self {
        Self {
            asker,
            subscribed: BTreeMap::new(),
            nonce: 0,
            send,
        }
    }

    pub(super) async fn run(mut self, mut requests: Streaming<DeltaDiscoveryRequest>) {
        let mut begun = false;
        loop {
            // Cancel safety: `message` keeps what it has read, `changed` marks nothing as seen until it returns.
            let served = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => {
                        let first = !std::mem::replace(&mut begun, true);
                        self.take(request, first).await
                    }
                    Ok(None) | Err(_) => return,
                },
                changed = self.asker.changed() => match changed {
                    Ok(current) => self.answer(&current).await,
                    Err(status) => Err(status),
                },
                () = self.send.closed() => return,
            };
            if let Err(status) = served {
                // If nobody takes the status, the stream has ended already.
                drop(self.send.send(Err(status)).await);
                return;
            }
        }
    }

    /// Subscriptions, an ACK or a NACK.
    async fn take(&mut self, request: DeltaDiscoveryRequest, first: bool) -> Result<(), Status> {
        self.asker.heed(request.error_detail.as_ref());
        let current = self.asker.current().await?;
        let names = match first {
            true => wanted(&request.resource_names_subscribe),
            false => request.resource_names_subscribe,
        };
        self.asker.check(&request.type_url, &names, &current)?;
        for name in &request.resource_names_unsubscribe {
            self.subscribed.remove(name);
        }
        for name in names {
            let had = request.initial_resource_versions.get(&name);
            // What is subscribed to again is wanted again.
            self.subscribed.insert(name, had.filter(|_| first).cloned());
        }
        if self.subscribed.len() > MAX_NAMES {
            return Err(Status::invalid_argument("too many names"));
        }
        self.answer(&current).await
    }

    async fn answer(&mut self, current: &[Ready]) -> Result<(), Status> {
        let mut resources = Vec::new();
        for (name, had) in &mut self.subscribed {
            let version = secrets::version(name, current);
            if *had != version {
                let resource = secrets::any(name, current);
                let resource = resource.ok_or_else(|| self.asker.not_entitled(name))?;
                resources.push(Resource {
                    name: name.clone(),
                    version: version.clone().unwrap_or_default(),
                    resource: Some(resource),
                    ..Default::default()
                });
                *had = version;
            }
        }
        if resources.is_empty() {
            return Ok(());
        }
        self.nonce = self.nonce.saturating_add(1);
        let response = DeltaDiscoveryResponse {
            resources,
            type_url: SECRET.to_owned(),
            nonce: self.nonce.to_string(),
            ..Default::default()
        };
        let sent = self.send.send(Ok(response)).await;
        sent.map_err(|_| Status::cancelled("the stream has ended"))
    }
}
