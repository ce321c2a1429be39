//! The gRPC service `reeve.ca.v1.Issuer`.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt};
use reeve_core::{Clock, SpiffeId};
use reeve_svid::{TrustBundle, VerifiedPeer};
use tokio_stream::wrappers::WatchStream;
use tonic::{Extensions, Request, Response, Status};

use crate::{
    Attested, Attestor, Caller, CertificateAuthority, IdentityEvents, IssueError, IssuedIdentity,
    JoinTokens, RefusalReason, RefusedIdentity, TlsPeer, UnixPeer, csr,
    proto::issuer::{
        Bundle, IssueRequest, IssueResponse, WatchBundleRequest,
        issuer_server::{Issuer, IssuerServer},
    },
};

/// Largest request that is decoded.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// Issues to those who are known: by their process on a Unix socket, by a join token, or by the SVID they renew.
#[derive(Debug)]
pub struct IssuerService {
    ca: Arc<CertificateAuthority>,
    attestor: Arc<dyn Attestor>,
    tokens: Arc<JoinTokens>,
    events: Arc<dyn IdentityEvents>,
    clock: Arc<dyn Clock>,
}

impl IssuerService {
    /// The service as `tonic` wants it. Serve it with [`unix_incoming`](crate::unix_incoming) or
    /// [`tls_incoming`](crate::tls_incoming): or put the
    /// connection's [`UnixPeer`] or [`VerifiedPeer`] into the extensions of each request. Without them only a token helps.
    pub fn server(
        ca: Arc<CertificateAuthority>,
        attestor: Arc<dyn Attestor>,
        tokens: Arc<JoinTokens>,
        events: Arc<dyn IdentityEvents>,
        clock: Arc<dyn Clock>,
    ) -> IssuerServer<Self> {
        let service = Self {
            ca,
            attestor,
            tokens,
            events,
            clock,
        };
        IssuerServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    async fn judge(
        &self,
        extensions: &Extensions,
        request: &IssueRequest,
    ) -> Result<Attested, RefusalReason> {
        let id = SpiffeId::parse(&request.requested_id);
        let id = id.map_err(|_| RefusalReason::NotASpiffeId)?;
        if !request.join_token.is_empty() {
            // A token is not spent on a request that cannot be granted.
            csr::proven_key(&request.csr_der).map_err(RefusalReason::Request)?;
            let redeemed = self.tokens.redeem(&request.join_token, &id);
            return redeemed
                .map_err(RefusalReason::Token)
                .map(|()| Attested { id });
        }
        if let Some(peer) = extensions.get::<UnixPeer>() {
            let entitled = self.attestor.attest(peer).await;
            let entitled = entitled.map_err(RefusalReason::NotAttested)?;
            // SECURITY: the attestor looked at a process id, which must still be the caller's.
            peer.check_alive().map_err(RefusalReason::NotAttested)?;
            return entitled_to(&entitled, id);
        }
        let verified = verified(extensions).ok_or(RefusalReason::NoEvidence)?;
        if self.clock.now() > verified.not_after() {
            return Err(RefusalReason::Expired);
        }
        entitled_to(std::slice::from_ref(verified.id()), id)
    }

    fn refuse(&self, caller: Caller, request: &IssueRequest, reason: RefusalReason) -> Status {
        let status = status(&reason);
        let requested = Some(request.requested_id.as_str());
        self.events
            .refused(RefusedIdentity::new(caller, requested, reason));
        status
    }
}

#[tonic::async_trait]
impl Issuer for IssuerService {
    async fn issue(
        &self,
        request: Request<IssueRequest>,
    ) -> Result<Response<IssueResponse>, Status> {
        let caller = caller(request.extensions());
        let attested = self.judge(request.extensions(), request.get_ref()).await;
        let request = request.get_ref();
        let attested = attested.map_err(|reason| self.refuse(caller.clone(), request, reason))?;
        let issued = self.ca.issue(&attested, &request.csr_der).map_err(|error| {
            let reason = match error {
                IssueError::Request(error) => RefusalReason::Request(error),
                IssueError::NotOurs(_) => RefusalReason::NotEntitled,
                IssueError::Authority(_) | IssueError::Recheck(_) => {
                    tracing::error!(%error, cause = ?std::error::Error::source(&error), "cannot issue");
                    RefusalReason::IssuerFailed
                }
            };
            self.refuse(caller.clone(), request, reason)
        })?;
        let bundle = bundle(&self.ca.bundle().borrow());
        let response = IssueResponse {
            chain_der: issued.chain_der.iter().map(|c| c.to_vec()).collect(),
            bundle: Some(bundle),
            not_after_ms: issued.not_after.as_millis(),
        };
        self.events.issued(IssuedIdentity {
            caller,
            id: attested.id,
            serial: issued.serial,
            not_after: issued.not_after,
        });
        Ok(Response::new(response))
    }

    type WatchBundleStream = Pin<Box<dyn Stream<Item = Result<Bundle, Status>> + Send>>;

    async fn watch_bundle(
        &self,
        _request: Request<WatchBundleRequest>,
    ) -> Result<Response<Self::WatchBundleStream>, Status> {
        // A trust bundle is public.
        let bundles = WatchStream::new(self.ca.bundle()).map(|new| Ok(bundle(&new)));
        Ok(Response::new(Box::pin(bundles)))
    }
}

/// A bundle as it goes over the wire.
pub(crate) fn bundle(bundle: &TrustBundle) -> Bundle {
    Bundle {
        trust_domain: bundle.trust_domain().to_string(),
        authorities_der: bundle.authorities().iter().map(|c| c.to_vec()).collect(),
        sequence: bundle.sequence(),
    }
}

fn entitled_to(entitled: &[SpiffeId], id: SpiffeId) -> Result<Attested, RefusalReason> {
    match entitled.contains(&id) {
        true => Ok(Attested { id }),
        false => Err(RefusalReason::NotEntitled),
    }
}

/// How the caller is known, whether or not that suffices.
pub(crate) fn caller(extensions: &Extensions) -> Caller {
    if let Some(peer) = extensions.get::<UnixPeer>() {
        return peer.into();
    }
    if let Some(peer) = verified(extensions) {
        return Caller::Workload(peer.id().clone());
    }
    match extensions.get::<TlsPeer>() {
        Some(peer) => Caller::Remote(peer.from.clone()),
        None => Caller::Unknown,
    }
}

/// The peer that the TLS handshake proved, whoever accepted the connection.
fn verified(extensions: &Extensions) -> Option<&VerifiedPeer> {
    let accepted_here = extensions
        .get::<TlsPeer>()
        .and_then(|peer| peer.verified.as_ref());
    accepted_here.or_else(|| extensions.get())
}

/// What a refused caller is told: no more than it knew.
pub(crate) fn status(reason: &RefusalReason) -> Status {
    match reason {
        RefusalReason::NotASpiffeId => Status::invalid_argument("requested_id is not a SPIFFE ID"),
        RefusalReason::Request(error) => Status::invalid_argument(error.to_string()),
        RefusalReason::NoSecurityHeader => {
            Status::invalid_argument("the metadata workload.spiffe.io: true is required")
        }
        RefusalReason::NotAttested(crate::AttestError::Unavailable(_))
        | RefusalReason::IssuerFailed => Status::unavailable("try again later"),
        RefusalReason::NotAttested(_)
        | RefusalReason::NotEntitled
        | RefusalReason::Token(_)
        | RefusalReason::NoEvidence
        | RefusalReason::Expired => Status::permission_denied("no identity for this caller"),
    }
}

#[cfg(test)]
mod tests;
