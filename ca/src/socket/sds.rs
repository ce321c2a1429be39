//! Envoy's secret discovery service, version 3: <https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret>.
//!
//! `default` names the certificate with its key of the caller's first identity, a SPIFFE ID that of one of its
//! identities; `ROOTCA` and the trust domain's SPIFFE ID name the validation context, a federated trust domain's SPIFFE ID
//! that domain's, and `ALL` that of all of them. Any other name is refused: nobody is served another's identity.

use std::{pin::Pin, sync::Arc};

use envoy_types::pb::envoy::service::{
    discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    },
    secret::v3::secret_discovery_service_server::SecretDiscoveryService,
};
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Door;
use crate::{Caller, Identities, RefusalReason, identities::Ready, issuer};

mod delta;
mod secrets;
mod whole;

use secrets::{DEFAULT, ROOT_CA, SECRET};

/// Most names of one stream: each trust domain's, and the few others.
const MAX_NAMES: usize = 64;

#[derive(Debug)]
pub(super) struct Sds(pub(super) Arc<Door>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let asker = self.asker(&request).await?;
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(delta::Session::new(asker, send).run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    type StreamSecretsStream = Answers<DiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let asker = self.asker(&request).await?;
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(whole::Session::new(asker, send).run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let mut asker = self.asker(&request).await?;
        let current = asker.current().await?;
        let request = request.get_ref();
        let names = wanted(&request.resource_names);
        asker.check(&request.type_url, &names, &current)?;
        asker.response(&names, &current, 1).map(Response::new)
    }
}

impl Sds {
    async fn asker<T>(&self, request: &Request<T>) -> Result<Asker, Status> {
        Ok(Asker {
            identities: self.0.admit(request.extensions()).await?,
            door: Arc::clone(&self.0),
            caller: issuer::caller(request.extensions()),
        })
    }
}

/// Who asks, at whose door, and with which identities.
struct Asker {
    door: Arc<Door>,
    caller: Caller,
    identities: Identities,
}

impl Asker {
    /// The asker's identities, once they are there.
    async fn current(&mut self) -> Result<Vec<Ready>, Status> {
        let current = self.identities.ready().await;
        current.ok_or_else(|| self.door.lost(self.caller.clone()))
    }

    /// The asker's identities when they are others than before. Cancel safe.
    async fn changed(&mut self) -> Result<Vec<Ready>, Status> {
        let changed = self.identities.next().await;
        changed.ok_or_else(|| self.door.lost(self.caller.clone()))
    }

    /// Refuses what is not served here, and what the asker is not entitled to.
    fn check(&self, type_url: &str, names: &[String], current: &[Ready]) -> Result<(), Status> {
        if !type_url.is_empty() && type_url != SECRET {
            return Err(Status::invalid_argument("only secrets are served here"));
        }
        if names.len() > MAX_NAMES {
            return Err(Status::invalid_argument("too many names"));
        }
        let refused = names.iter().find(|name| !secrets::is_served(name, current));
        refused.map_or(Ok(()), |name| Err(self.not_entitled(name)))
    }

    fn not_entitled(&self, name: &str) -> Status {
        let reason = RefusalReason::NotEntitled;
        self.door
            .refuse_caller(self.caller.clone(), Some(name), reason)
    }

    /// What the peer says of the last answer. It keeps what it had, and gets the next version when there is one.
    fn heed(&self, error: Option<&envoy_types::pb::google::rpc::Status>) {
        if let Some(error) = error {
            let caller = &self.caller;
            tracing::warn!(%caller, error = error.message, "secrets were not accepted");
        }
    }
}

/// The names asked for; none means our own two.
fn wanted(names: &[String]) -> Vec<String> {
    match names {
        [] => vec![DEFAULT.to_owned(), ROOT_CA.to_owned()],
        names => names.to_vec(),
    }
}
