//! How an agent talks to its issuer: over gRPC, or to one in the same process.

use std::{fmt, pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt};
use reeve_core::{SpiffeId, TrustDomain};
use reeve_svid::{Credentials, TrustBundle};
use rustls_pki_types::CertificateDer;
use tokio_stream::wrappers::WatchStream;

use super::{AgentError, IssuerChannel};
use crate::{
    Attested, CertificateAuthority,
    proto::issuer::{
        Bundle, IssueRequest, WatchBundleRequest, issuer_client::IssuerClient as Client,
    },
};

/// Largest answer that is decoded.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Bound on one issuance.
const ISSUE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Trust bundles as they are pushed.
pub type BundleStream = Pin<Box<dyn Stream<Item = Result<TrustBundle, AgentError>> + Send>>;

/// Whoever issues certificates to an agent.
#[tonic::async_trait]
pub trait IssuerClient: fmt::Debug + Send + Sync {
    /// Asks for one certificate. `held` are the credentials to prove oneself with, if there are any.
    async fn issue(
        &self,
        id: &SpiffeId,
        csr_der: &[u8],
        join_token: Option<&str>,
        held: Option<Arc<Credentials>>,
    ) -> Result<Issued, AgentError>;

    /// Follows the trust bundle.
    async fn watch_bundle(
        &self,
        held: Option<Arc<Credentials>>,
    ) -> Result<BundleStream, AgentError>;
}

/// An issuer's answer, not yet checked.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The trust bundle of the issuer.
    pub bundle: Arc<TrustBundle>,
}

/// An issuer behind `reeve.ca.v1.Issuer`.
#[derive(Clone, Debug)]
pub struct GrpcIssuer {
    channel: IssuerChannel,
    trust_domain: TrustDomain,
}

impl GrpcIssuer {
    /// The issuer behind `channel`; bundles of another trust domain than this are refused.
    pub fn new(channel: IssuerChannel, trust_domain: TrustDomain) -> Self {
        Self {
            channel,
            trust_domain,
        }
    }

    async fn client(
        &self,
        held: Option<Arc<Credentials>>,
    ) -> Result<Client<tonic::transport::Channel>, AgentError> {
        let channel = self
            .channel
            .open(held)
            .await
            .map_err(AgentError::Unreachable)?;
        Ok(Client::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
    }
}

#[tonic::async_trait]
impl IssuerClient for GrpcIssuer {
    async fn issue(
        &self,
        id: &SpiffeId,
        csr_der: &[u8],
        join_token: Option<&str>,
        held: Option<Arc<Credentials>>,
    ) -> Result<Issued, AgentError> {
        let mut request = tonic::Request::new(IssueRequest {
            csr_der: csr_der.to_vec(),
            requested_id: id.to_string(),
            join_token: join_token.unwrap_or_default().to_owned(),
        });
        request.set_timeout(ISSUE_TIMEOUT);
        let answer = self
            .client(held)
            .await?
            .issue(request)
            .await
            .map_err(refused)?;
        let answer = answer.into_inner();
        let bundle = answer
            .bundle
            .ok_or(AgentError::BadAnswer("no trust bundle"))?;
        Ok(Issued {
            chain: answer
                .chain_der
                .into_iter()
                .map(CertificateDer::from)
                .collect(),
            bundle: Arc::new(read_bundle(bundle, &self.trust_domain)?),
        })
    }

    async fn watch_bundle(
        &self,
        held: Option<Arc<Credentials>>,
    ) -> Result<BundleStream, AgentError> {
        let mut client = self.client(held).await?;
        let answer = client
            .watch_bundle(WatchBundleRequest {})
            .await
            .map_err(refused)?;
        let trust_domain = self.trust_domain.clone();
        let bundles = answer.into_inner().map(move |bundle| {
            let bundle = bundle.map_err(refused)?;
            read_bundle(bundle, &trust_domain)
        });
        Ok(Box::pin(bundles))
    }
}

/// The certificate authority in this very process, for the process's own services.
#[derive(Clone, Debug)]
pub struct LocalIssuer(Arc<CertificateAuthority>);

impl LocalIssuer {
    /// Issues whatever is asked for: the caller is ourselves.
    pub fn new(ca: Arc<CertificateAuthority>) -> Self {
        Self(ca)
    }
}

#[tonic::async_trait]
impl IssuerClient for LocalIssuer {
    async fn issue(
        &self,
        id: &SpiffeId,
        csr_der: &[u8],
        _join_token: Option<&str>,
        _held: Option<Arc<Credentials>>,
    ) -> Result<Issued, AgentError> {
        let attested = Attested { id: id.clone() };
        let issued = self.0.issue(&attested, csr_der);
        let issued = issued.map_err(|error| AgentError::Refused(error.to_string()))?;
        Ok(Issued {
            chain: issued.chain_der,
            bundle: Arc::clone(&self.0.bundle().borrow()),
        })
    }

    async fn watch_bundle(
        &self,
        _held: Option<Arc<Credentials>>,
    ) -> Result<BundleStream, AgentError> {
        let bundles = WatchStream::new(self.0.bundle());
        Ok(Box::pin(
            bundles.map(|bundle| Ok(TrustBundle::clone(&bundle))),
        ))
    }
}

fn refused(status: tonic::Status) -> AgentError {
    AgentError::Refused(format!("{}: {}", status.code(), status.message()))
}

fn read_bundle(bundle: Bundle, expected: &TrustDomain) -> Result<TrustBundle, AgentError> {
    if bundle.trust_domain != expected.as_str() {
        return Err(AgentError::BadAnswer("a bundle of another trust domain"));
    }
    let authorities = bundle.authorities_der.into_iter().map(CertificateDer::from);
    TrustBundle::new(expected.clone(), authorities.collect(), bundle.sequence)
        .map_err(|_| AgentError::BadAnswer("not a trust bundle"))
}
