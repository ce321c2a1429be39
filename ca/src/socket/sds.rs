//! Envoy's secret discovery service, version 3 (state of the world): <https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret>.
//!
//! `default` names the certificate with its key of the caller's first identity, a SPIFFE ID that of one of its
//! identities; `ROOTCA` and the trust domain's SPIFFE ID name the validation context. Any other name is refused: nobody is
//! served another's identity.

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
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Door;
use crate::{
    Caller, Identities, RefusalReason,
    identities::{Ready, version},
    issuer,
};

/// The type of every resource here.
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Our certificate and key.
const DEFAULT: &str = "default";
/// The validation context.
const ROOT_CA: &str = "ROOTCA";
/// Most names in one request.
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
        let identities = self.0.admit(request.extensions()).await?;
        let caller = issuer::caller(request.extensions());
        let (send, receive) = mpsc::channel(1);
        let session = Session {
            door: Arc::clone(&self.0),
            caller,
            identities,
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
        let mut identities = self.0.admit(request.extensions()).await?;
        let caller = issuer::caller(request.extensions());
        let current = identities.ready().await;
        let current = current.ok_or_else(|| self.0.lost(caller.clone()))?;
        let names = wanted(&request.get_ref().resource_names);
        check(&self.0, &caller, request.get_ref(), &names, &current)?;
        Ok(Response::new(response(&names, &current, 1)))
    }
}

/// One stream of one Envoy.
struct Session {
    door: Arc<Door>,
    caller: Caller,
    identities: Identities,
    names: Vec<String>,
    nonce: u64,
    send: mpsc::Sender<Result<DiscoveryResponse, Status>>,
}

impl Session {
    async fn run(mut self, mut requests: Streaming<DiscoveryRequest>) {
        loop {
            // Cancel safety: `message` keeps what it has read, `next` marks nothing as seen until it returns.
            let served = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.take(&request).await,
                    Ok(None) | Err(_) => return,
                },
                changed = self.identities.next() => self.push(changed).await,
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
        if let Some(error) = &request.error_detail {
            // The peer keeps what it had; it gets the next version when there is one.
            let caller = &self.caller;
            tracing::warn!(%caller, error = error.message, "secrets were not accepted");
        }
        let names = wanted(&request.resource_names);
        if self.nonce > 0 && !request.response_nonce.is_empty() && names == self.names {
            return Ok(());
        }
        let current = self.identities.ready().await;
        let current = current.ok_or_else(|| self.door.lost(self.caller.clone()))?;
        check(&self.door, &self.caller, request, &names, &current)?;
        self.names = names;
        self.answer(&current).await
    }

    /// Other certificates, another bundle, or other identities than before.
    async fn push(&mut self, changed: Option<Vec<Ready>>) -> Result<(), Status> {
        let current = changed.ok_or_else(|| self.door.lost(self.caller.clone()))?;
        if self.names.is_empty() {
            return Ok(());
        }
        if let Some(name) = missing(&self.names, &current) {
            let caller = self.caller.clone();
            let reason = RefusalReason::NotEntitled;
            return Err(self.door.refuse_caller(caller, Some(name), reason));
        }
        self.answer(&current).await
    }

    async fn answer(&mut self, current: &[Ready]) -> Result<(), Status> {
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
    current: &[Ready],
) -> Result<(), Status> {
    if !request.type_url.is_empty() && request.type_url != SECRET {
        return Err(Status::invalid_argument("only secrets are served here"));
    }
    if names.len() > MAX_NAMES {
        return Err(Status::invalid_argument("too many names"));
    }
    match missing(names, current) {
        Some(name) => {
            let caller = caller.clone();
            Err(door.refuse_caller(caller, Some(name), RefusalReason::NotEntitled))
        }
        None => Ok(()),
    }
}

/// The first name that is none of the caller's.
fn missing<'n>(names: &'n [String], current: &[Ready]) -> Option<&'n str> {
    let missing = |name: &&String| secret(name, current).is_none();
    names.iter().find(missing).map(String::as_str)
}

fn response(names: &[String], current: &[Ready], nonce: u64) -> DiscoveryResponse {
    let secrets = names.iter().filter_map(|name| secret(name, current));
    let any = |secret: Secret| Any {
        type_url: SECRET.to_owned(),
        value: secret.encode_to_vec(),
    };
    DiscoveryResponse {
        version_info: version(current),
        resources: secrets.map(any).collect(),
        type_url: SECRET.to_owned(),
        nonce: nonce.to_string(),
        ..Default::default()
    }
}

fn secret(name: &str, current: &[Ready]) -> Option<Secret> {
    let first = &current.first()?.credentials;
    let own = current.iter().map(|one| &one.credentials.svid);
    let named = own.into_iter().find(|svid| name == svid.id().as_str());
    let named = named.or_else(|| (name == DEFAULT).then_some(&first.svid));
    let r#type = if let Some(svid) = named {
        Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline(svid.chain_pem())),
            private_key: Some(inline(svid.key_pkcs8_pem().to_string())),
            ..Default::default()
        })
    } else if name == ROOT_CA || name == first.bundle.trust_domain().id().as_str() {
        Type::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(inline(first.bundle.to_pem())),
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
