//! Envoy's secret discovery service, version 3 (state of the world): <https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret>.
//!
//! `default` and our own SPIFFE ID name the certificate with its key; `ROOTCA` and the trust domain's SPIFFE ID name the
//! validation context. Any other name is refused: an agent serves its own identity and no other.

use std::{pin::Pin, sync::Arc};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{DataSource, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{
            CertificateValidationContext, Secret, TlsCertificate, secret::Type,
        },
        service::{
            discovery::v3::{
                DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            },
            secret::v3::secret_discovery_service_server::SecretDiscoveryService,
        },
    },
    google::protobuf::Any,
};
use futures_util::Stream;
use prost::Message;
use reeve_svid::Credentials;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Door;
use crate::{Caller, RefusalReason, issuer};

/// The type of every resource here.
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Our certificate and key.
const DEFAULT: &str = "default";
/// The validation context.
const ROOT_CA: &str = "ROOTCA";
/// Most names in one request; there are only four.
const MAX_NAMES: usize = 16;

#[derive(Debug)]
pub(super) struct Sds(pub(super) Arc<Door>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;

    async fn delta_secrets(
        &self,
        _request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented(
            "use api_type GRPC: secrets are not served incrementally",
        ))
    }

    type StreamSecretsStream = Answers<DiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        self.0.admit(request.extensions()).await?;
        let caller = issuer::caller(request.extensions());
        let (send, receive) = mpsc::channel(1);
        let session = Session {
            door: Arc::clone(&self.0),
            caller,
            names: Vec::new(),
            nonce: 0,
            send,
        };
        tokio::spawn(session.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        self.0.admit(request.extensions()).await?;
        let mut credentials = self.0.credentials.clone();
        let caller = issuer::caller(request.extensions());
        let current = credentials.wait_for(Option::is_some).await;
        let current = current.ok().and_then(|c| c.clone());
        let current = current.ok_or_else(|| Status::unavailable("no certificate yet"))?;
        let names = wanted(&request.get_ref().resource_names);
        check(&self.0, &caller, request.get_ref(), &names, &current)?;
        Ok(Response::new(response(&names, &current, 1)))
    }
}

/// One stream of one Envoy.
struct Session {
    door: Arc<Door>,
    caller: Caller,
    names: Vec<String>,
    nonce: u64,
    send: mpsc::Sender<Result<DiscoveryResponse, Status>>,
}

impl Session {
    async fn run(mut self, mut requests: Streaming<DiscoveryRequest>) {
        let mut credentials = self.door.credentials.clone();
        loop {
            // Cancel safety: `message` keeps what it has read, `changed` marks nothing as seen until it returns.
            let served = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.take(&request, &mut credentials).await,
                    Ok(None) | Err(_) => return,
                },
                changed = credentials.changed() => match changed {
                    Ok(()) => self.push(&mut credentials).await,
                    Err(_) => return,
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
    async fn take(
        &mut self,
        request: &DiscoveryRequest,
        credentials: &mut reeve_svid::CredentialsWatch,
    ) -> Result<(), Status> {
        if let Some(error) = &request.error_detail {
            // The peer keeps what it had; it gets the next version when there is one.
            let caller = &self.caller;
            tracing::warn!(%caller, error = error.message, "secrets were not accepted");
        }
        let names = wanted(&request.resource_names);
        if self.nonce > 0 && !request.response_nonce.is_empty() && names == self.names {
            return Ok(());
        }
        let waited = credentials.wait_for(Option::is_some).await;
        let Some(current) = waited.ok().and_then(|c| c.clone()) else {
            return Err(Status::unavailable("no certificate"));
        };
        check(&self.door, &self.caller, request, &names, &current)?;
        self.names = names;
        self.answer(&current).await
    }

    async fn push(&mut self, credentials: &mut reeve_svid::CredentialsWatch) -> Result<(), Status> {
        let current = credentials.borrow_and_update().clone();
        match current {
            Some(current) if !self.names.is_empty() => self.answer(&current).await,
            _ => Ok(()),
        }
    }

    async fn answer(&mut self, current: &Credentials) -> Result<(), Status> {
        self.nonce = self.nonce.saturating_add(1);
        let response = response(&self.names, current, self.nonce);
        let sent = self.send.send(Ok(response)).await;
        sent.map_err(|_| Status::cancelled("the stream has ended"))
    }
}

/// The names asked for; none means all.
fn wanted(names: &[String]) -> Vec<String> {
    match names {
        [] => vec![DEFAULT.to_owned(), ROOT_CA.to_owned()],
        names => names.to_vec(),
    }
}

fn check(
    door: &Door,
    caller: &Caller,
    request: &DiscoveryRequest,
    names: &[String],
    current: &Credentials,
) -> Result<(), Status> {
    if !request.type_url.is_empty() && request.type_url != SECRET {
        return Err(Status::invalid_argument("only secrets are served here"));
    }
    if names.len() > MAX_NAMES {
        return Err(Status::invalid_argument("too many names"));
    }
    for name in names {
        if secret(name, current).is_none() {
            let caller = caller.clone();
            return Err(door.refuse_caller(caller, Some(name), RefusalReason::NotEntitled));
        }
    }
    Ok(())
}

fn response(names: &[String], current: &Credentials, nonce: u64) -> DiscoveryResponse {
    let secrets = names.iter().filter_map(|name| secret(name, current));
    let any = |secret: Secret| Any {
        type_url: SECRET.to_owned(),
        value: secret.encode_to_vec(),
    };
    let version = format!("{}-{}", current.svid.serial(), current.bundle.sequence());
    DiscoveryResponse {
        version_info: version,
        resources: secrets.map(any).collect(),
        type_url: SECRET.to_owned(),
        nonce: nonce.to_string(),
        ..Default::default()
    }
}

fn secret(name: &str, current: &Credentials) -> Option<Secret> {
    let r#type = if name == DEFAULT || name == current.svid.id().as_str() {
        Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline(current.svid.chain_pem())),
            private_key: Some(inline(current.svid.key_pkcs8_pem().to_string())),
            ..Default::default()
        })
    } else if name == ROOT_CA || name == current.bundle.trust_domain().id().as_str() {
        Type::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(inline(current.bundle.to_pem())),
            ..Default::default()
        })
    } else {
        return None;
    };
    Some(Secret {
        name: name.to_owned(),
        r#type: Some(r#type),
    })
}

fn inline(text: String) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(text.into_bytes())),
        ..Default::default()
    }
}
