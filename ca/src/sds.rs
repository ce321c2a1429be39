//! Envoy's Secret Discovery Service, v3, state of the world: certificates pushed to a stock Envoy.
//!
//! `default` is the workload's certificate and key, `ROOTCA` the bundle; the SPIFFE ID and the trust domain's ID name the
//! same two. See Envoy's "Secret discovery service" and SPIRE's "Using Envoy with SPIRE".

use std::{collections::BTreeSet, sync::Arc};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{DataSource, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{
            CertificateValidationContext, Secret, TlsCertificate, secret,
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
use futures_util::{StreamExt, stream::BoxStream};
use prost::Message;
use reeve_svid::{Credentials, CredentialsWatch};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{UnixPeer, agent_socket::Gate};

/// The type of what SDS hands out.
const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Most names one stream may subscribe to.
const MAX_NAMES: usize = 32;

/// The server.
#[derive(Debug)]
pub(crate) struct Sds {
    gate: Gate,
}

impl Sds {
    pub(crate) fn new(gate: Gate) -> Self {
        Self { gate }
    }
}

type Responses = BoxStream<'static, Result<DiscoveryResponse, Status>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type DeltaSecretsStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_secrets(
        &self,
        _request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented(
            "use the state-of-the-world variant (api_type: GRPC)",
        ))
    }

    type StreamSecretsStream = Responses;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let own_id = self.gate.own_id().as_str();
        let credentials = self.gate.enter(request.extensions(), own_id).await?;
        let peer = request
            .extensions()
            .get::<UnixPeer>()
            .map(UnixPeer::to_string);
        let (sender, responses) = mpsc::channel(4);
        let session = Session {
            gate: self.gate.clone(),
            caller: peer.unwrap_or_default(),
            credentials,
            names: BTreeSet::new(),
            sent: 0,
        };
        tokio::spawn(session.run(request.into_inner(), sender));
        Ok(Response::new(ReceiverStream::new(responses).boxed()))
    }

    async fn fetch_secrets(
        &self,
        _request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented(
            "use the streaming variant (api_type: GRPC)",
        ))
    }
}

/// One Envoy's subscription.
struct Session {
    gate: Gate,
    caller: String,
    credentials: CredentialsWatch,
    names: BTreeSet<String>,
    /// Responses sent; the last one's number is its nonce and version.
    sent: u64,
}

impl Session {
    async fn run(
        mut self,
        mut requests: Streaming<DiscoveryRequest>,
        sender: mpsc::Sender<Result<DiscoveryResponse, Status>>,
    ) {
        loop {
            // Both branches are cancel-safe: `next` and `changed` lose nothing when dropped.
            let response = tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(request)) => self.on_request(request),
                    Some(Err(_)) | None => return,
                },
                changed = self.credentials.changed() => match changed {
                    Ok(()) => Ok(true),
                    Err(_) => return,
                },
            };
            let message = match response {
                Ok(false) => continue,
                Ok(true) => match self.secrets() {
                    Some(message) => Ok(message),
                    None => continue,
                },
                Err(status) => Err(status),
            };
            let ended = message.is_err();
            if sender.send(message).await.is_err() || ended {
                return;
            }
        }
    }

    /// Whether a response is due: on a first request or other names, not on a mere ACK.
    fn on_request(&mut self, request: DiscoveryRequest) -> Result<bool, Status> {
        if let Some(error) = request.error_detail {
            tracing::warn!(
                caller = self.caller,
                error = error.message,
                "Envoy refused a secret"
            );
        }
        if !request.type_url.is_empty() && request.type_url != SECRET_TYPE {
            return Err(Status::invalid_argument("SDS serves secrets only"));
        }
        let names: BTreeSet<_> = request.resource_names.into_iter().collect();
        if names.len() > MAX_NAMES {
            return Err(Status::resource_exhausted(
                "at most 32 secrets in one stream",
            ));
        }
        for name in &names {
            if !self.serves(name) {
                let reason = "SDS hands out the workload's own identity only".to_owned();
                return Err(self.gate.refuse(&self.caller, name, reason));
            }
        }
        let stale =
            !request.response_nonce.is_empty() && request.response_nonce != self.sent.to_string();
        let changed = names != self.names;
        self.names = names;
        Ok(!stale && (changed || self.sent == 0))
    }

    fn serves(&self, name: &str) -> bool {
        let own = self.gate.own_id();
        matches!(name, "default" | "ROOTCA")
            || name == own.as_str()
            || name == own.trust_domain().id().as_str()
    }

    /// All subscribed secrets, once there are credentials.
    fn secrets(&mut self) -> Option<DiscoveryResponse> {
        let credentials: Arc<Credentials> = self.credentials.borrow_and_update().clone()?;
        if self.names.is_empty() {
            return None;
        }
        self.sent += 1;
        let trust_domain = credentials.bundle.trust_domain().id();
        let resources = self.names.iter().map(|name| {
            let is_bundle = name == "ROOTCA" || name == trust_domain.as_str();
            let body = if is_bundle {
                validation(&credentials)
            } else {
                certificate(&credentials)
            };
            let secret = Secret {
                name: name.clone(),
                r#type: Some(body),
            };
            Any {
                type_url: SECRET_TYPE.to_owned(),
                value: secret.encode_to_vec(),
            }
        });
        Some(DiscoveryResponse {
            version_info: self.sent.to_string(),
            nonce: self.sent.to_string(),
            type_url: SECRET_TYPE.to_owned(),
            resources: resources.collect(),
            ..DiscoveryResponse::default()
        })
    }
}

fn certificate(credentials: &Credentials) -> secret::Type {
    secret::Type::TlsCertificate(TlsCertificate {
        certificate_chain: Some(inline(credentials.svid.chain_pem().into_bytes())),
        private_key: Some(inline(credentials.svid.key_pkcs8_pem().as_bytes().to_vec())),
        ..TlsCertificate::default()
    })
}

fn validation(credentials: &Credentials) -> secret::Type {
    secret::Type::ValidationContext(CertificateValidationContext {
        trusted_ca: Some(inline(credentials.bundle.to_pem().into_bytes())),
        ..CertificateValidationContext::default()
    })
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(bytes)),
        ..DataSource::default()
    }
}
