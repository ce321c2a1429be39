//! The state of the world: every answer has all that was asked for.

use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{
    Asker,
    secrets::{self, SECRET},
    wanted,
};
use crate::identities::{Ready, version};

/// One stream of one Envoy.
pub(super) struct Session {
    asker: Asker,
    names: Vec<String>,
    nonce: u64,
    send: mpsc::Sender<Result<DiscoveryResponse, Status>>,
}

impl Session {
    pub(super) fn new(asker: Asker, send: mpsc::Sender<Result<DiscoveryResponse, Status>>) -> Self {
        Self {
            asker,
            names: Vec::new(),
            nonce: 0,
            send,
        }
    }

    pub(super) async fn run(mut self, mut requests: Streaming<DiscoveryRequest>) {
        loop {
            // Cancel safety: `message` keeps what it has read, `changed` marks nothing as seen until it returns.
            let served = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.take(&request).await,
                    Ok(None) | Err(_) => return,
                },
                changed = self.asker.changed() => match changed {
                    Ok(current) => self.push(&current).await,
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

    /// A first request, another set of names, an ACK or a NACK.
    async fn take(&mut self, request: &DiscoveryRequest) -> Result<(), Status> {
        self.asker.heed(request.error_detail.as_ref());
        let names = wanted(&request.resource_names);
        if self.nonce > 0 && !request.response_nonce.is_empty() && names == self.names {
            return Ok(());
        }
        let current = self.asker.current().await?;
        let unheard_of = names.iter().filter(|name| !self.names.contains(name));
        let unheard_of: Vec<_> = unheard_of.cloned().collect();
        self.asker.check(&request.type_url, &unheard_of, &current)?;
        self.names = names;
        self.answer(&current).await
    }

    /// Other certificates, another bundle, or other identities than before.
    async fn push(&mut self, current: &[Ready]) -> Result<(), Status> {
        match self.names.is_empty() {
            true => Ok(()),
            false => self.answer(current).await,
        }
    }

    async fn answer(&mut self, current: &[Ready]) -> Result<(), Status> {
        self.nonce = self.nonce.saturating_add(1);
        let response = self.asker.response(&self.names, current, self.nonce)?;
        let sent = self.send.send(Ok(response)).await;
        sent.map_err(|_| Status::cancelled("the stream has ended"))
    }
}

impl Asker {
    /// All of these secrets; refused if one is the asker's no longer.
    pub(super) fn response(
        &self,
        names: &[String],
        current: &[Ready],
        nonce: u64,
    ) -> Result<DiscoveryResponse, Status> {
        let resource =
            |name: &String| secrets::any(name, current).ok_or_else(|| self.not_entitled(name));
        let resources: Result<Vec<_>, _> = names.iter().map(resource).collect();
        Ok(DiscoveryResponse {
            version_info: version(current),
            resources: resources?,
            type_url: SECRET.to_owned(),
            nonce: nonce.to_string(),
            ..Default::default()
        })
    }
}
