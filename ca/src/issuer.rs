//! The gRPC service that agents ask for certificates.

use std::sync::Arc;

use futures_util::{StreamExt, stream::BoxStream};
use reeve_core::SpiffeId;
use reeve_svid::{TrustBundle, VerifiedPeer};
use tokio_stream::wrappers::WatchStream;
use tonic::{Extensions, Request, Response, Status};

use crate::{
    Attestor, CallerEvidence, CertificateAuthority, IdentityEvents, IssueError, RefusedIdentity,
    UnixPeer,
    proto::issuer::{
        Bundle, IssueRequest, IssueResponse, WatchBundleRequest,
        issuer_server::{Issuer, IssuerServer},
    },
};

/// Issues to callers whom the attestor entitles. Who the caller is comes from the connection: its server puts a
/// [`UnixPeer`] or a [`VerifiedPeer`] into each request's extensions; a join token comes in the request.
#[derive(Debug)]
pub struct IssuerService {
    ca: Arc<CertificateAuthority>,
    attestor: Arc<dyn Attestor>,
    events: Arc<dyn IdentityEvents>,
}

impl IssuerService {
    /// The service, ready to be added to a tonic server.
    pub fn new(
        ca: Arc<CertificateAuthority>,
        attestor: Arc<dyn Attestor>,
        events: Arc<dyn IdentityEvents>,
    ) -> IssuerServer<Self> {
        IssuerServer::new(Self {
            ca,
            attestor,
            events,
        })
        .max_decoding_message_size(64 * 1024)
    }

    /// The caller learns that it is refused; the reason is for the record.
    fn refuse(&self, caller: &str, requested: &str, reason: String) -> Status {
        tracing::warn!(caller, requested, reason, "refused an identity");
        self.events.refused(RefusedIdentity {
            caller: caller.to_owned(),
            requested: requested.to_owned(),
            reason,
        });
        Status::permission_denied("this caller is not entitled to the identity it asked for")
    }

    async fn entitle(&self, evidence: &CallerEvidence, id: &SpiffeId) -> Result<(), Status> {
        let caller = evidence.to_string();
        let entitled = self
            .attestor
            .attest(evidence, id)
            .await
            .map_err(|e| self.refuse(&caller, id.as_str(), e.to_string()))?;
        if !entitled.contains(id) {
            let names: Vec<_> = entitled.iter().map(SpiffeId::as_str).collect();
            let reason = format!("the caller is entitled to [{}] only", names.join(", "));
            return Err(self.refuse(&caller, id.as_str(), reason));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Issuer for IssuerService {
    async fn issue(
        &self,
        request: Request<IssueRequest>,
    ) -> Result<Response<IssueResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let Some(evidence) = evidence(&extensions, request.join_token) else {
            return Err(self.refuse(
                "unknown caller",
                &request.spiffe_id,
                "neither a certificate nor a join token".to_owned(),
            ));
        };
        let id = SpiffeId::parse(&request.spiffe_id)
            .map_err(|e| self.refuse(&evidence.to_string(), &request.spiffe_id, e.to_string()))?;
        self.entitle(&evidence, &id).await?;
        let caller = evidence.to_string();
        let issued = self.ca.issue(&id, &request.csr).map_err(|e| match e {
            IssueError::Csr(_) | IssueError::WrongTrustDomain(_) => {
                self.refuse(&caller, id.as_str(), e.to_string())
            }
            IssueError::Ca(_) | IssueError::Recheck(_) => {
                tracing::error!(error = &e as &dyn std::error::Error, "cannot issue");
                Status::unavailable("the certificate authority cannot issue at present")
            }
        })?;
        self.events.issued(&caller, &id, &issued.serial);
        Ok(Response::new(IssueResponse {
            chain: issued.chain.iter().map(|der| der.to_vec()).collect(),
            bundle: Some(bundle_message(&self.ca.bundle().borrow())),
        }))
    }

    type WatchBundleStream = BoxStream<'static, Result<Bundle, Status>>;

    async fn watch_bundle(
        &self,
        _request: Request<WatchBundleRequest>,
    ) -> Result<Response<Self::WatchBundleStream>, Status> {
        let bundles = WatchStream::new(self.ca.bundle());
        Ok(Response::new(
            bundles.map(|bundle| Ok(bundle_message(&bundle))).boxed(),
        ))
    }
}

/// The strongest evidence that the connection and the request give.
fn evidence(extensions: &Extensions, join_token: String) -> Option<CallerEvidence> {
    if let Some(peer) = extensions.get::<VerifiedPeer>() {
        return Some(CallerEvidence::Svid(peer.clone()));
    }
    if let Some(peer) = extensions.get::<UnixPeer>() {
        return Some(CallerEvidence::Process(peer.clone()));
    }
    (!join_token.is_empty()).then_some(CallerEvidence::JoinToken(join_token))
}

fn bundle_message(bundle: &TrustBundle) -> Bundle {
    Bundle {
        trust_domain: bundle.trust_domain().to_string(),
        authorities: bundle
            .authorities()
            .iter()
            .map(|der| der.to_vec())
            .collect(),
        sequence: bundle.sequence(),
    }
}
