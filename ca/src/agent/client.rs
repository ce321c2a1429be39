//! How an agent talks to its issuer: over gRPC, or to one in the same process.

use std::{
    fmt,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use reeve_core::{Clock, EntryName, RegistrationEntry, SpiffeId, TrustDomain, UnixTime};
use reeve_svid::{Credentials, CredentialsWatch, Federated, JwtKey, Revoked, TrustBundle};
use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{AgentError, IssuerChannel};
use crate::{
    Attested, CertificateAuthority,
    entries::EntryUse,
    follow::{Report, Trust},
    proto::issuer::{
        self, Bundle, Holding, IssueJwtRequest, IssueRequest, Refusal, Refusals,
        WatchBundleRequest, issuer_client::IssuerClient as Client,
    },
    queue,
};

/// Largest answer that is decoded: [`MAX_FEDERATED`](reeve_svid::MAX_FEDERATED) bundles of other trust domains are in it.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// The same of an agent's registration entries.
const MAX_ENTRIES_BYTES: usize = 16 * 1024 * 1024;
/// Longest token of a service account.
const MAX_TOKEN_BYTES: u64 = 16 * 1024;
/// Bound on one issuance, or on one report of refusals.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(5);

/// Trust bundles as they are pushed.
pub type BundleStream = Pin<Box<dyn Stream<Item = Result<TrustBundle, AgentError>> + Send>>;
/// What a member is told.
pub type TrustStream = Pin<Box<dyn Stream<Item = Result<Trust, AgentError>> + Send>>;
/// An agent's registration entries as they are pushed.
pub(crate) type EntryStream =
    Pin<Box<dyn Stream<Item = Result<Vec<RegistrationEntry>, AgentError>> + Send>>;
/// Who uses them, as it changes.
pub(crate) type UsesStream = Pin<Box<dyn Stream<Item = Vec<EntryUse>> + Send>>;
/// What a member says.
pub type ReportStream = Pin<Box<dyn Stream<Item = Report> + Send>>;

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

    /// Asks for a JWT-SVID.
    async fn issue_jwt(
        &self,
        id: &SpiffeId,
        audience: &[String],
        held: Option<Arc<Credentials>>,
    ) -> Result<JwtIssued, AgentError>;

    /// Follows the authority as a member.
    async fn follow(
        &self,
        held: Option<Arc<Credentials>>,
        reports: ReportStream,
    ) -> Result<TrustStream, AgentError>;
}

/// An issuer's answer, not yet checked.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The trust bundle of the issuer.
    pub bundle: Arc<TrustBundle>,
    /// The renewal that the certificate was issued for.
    pub renewal: u64,
}

/// A JWT-SVID as the issuer gave it.
pub struct JwtIssued {
    /// The token.
    pub token: Zeroizing<String>,
    /// Until when it is good.
    pub expires_at: UnixTime,
}

impl fmt::Debug for JwtIssued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtIssued")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// An issuer behind `reeve.ca.v1.Issuer`.
#[derive(Clone, Debug)]
pub struct GrpcIssuer {
    channel: IssuerChannel,
    trust_domain: TrustDomain,
    under: Option<Under>,
    service_account: Option<ServiceAccountToken>,
}

/// A service account's token of a Kubernetes cluster: a file that the cluster renews.
#[derive(Clone)]
struct ServiceAccountToken {
    file: PathBuf,
    clock: Arc<dyn Clock>,
}

/// A registration entry, and the agent that may ask for it.
#[derive(Clone, Debug)]
struct Under {
    entry: EntryName,
    agent: CredentialsWatch,
}

impl GrpcIssuer {
    /// The issuer behind `channel`; bundles of another trust domain than this are refused.
    pub fn new(channel: IssuerChannel, trust_domain: TrustDomain) -> Self {
        Self {
            channel,
            trust_domain,
            under: None,
            service_account: None,
        }
    }

    /// The same, known by the token in `file` as long as there is no certificate that is valid.
    pub fn with_service_account(self, file: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self {
            service_account: Some(ServiceAccountToken { file, clock }),
            ..self
        }
    }

    /// The same for the identity of a registration entry, for which an agent with these credentials asks.
    pub(crate) fn under(&self, entry: &EntryName, agent: CredentialsWatch) -> Self {
        let entry = entry.clone();
        Self {
            under: Some(Under { entry, agent }),
            // The agent's certificate speaks for it.
            service_account: None,
            ..self.clone()
        }
    }

    /// The token to be known by, if `held` does not suffice.
    async fn kubernetes_token(
        &self,
        held: Option<&Arc<Credentials>>,
    ) -> Result<String, AgentError> {
        let Some(ServiceAccountToken { file, clock }) = &self.service_account else {
            return Ok(String::new());
        };
        if held.is_some_and(|held| clock.now() < held.svid.not_after()) {
            return Ok(String::new());
        }
        let read = async {
            let length = tokio::fs::metadata(file).await?.len();
            match length <= MAX_TOKEN_BYTES {
                true => tokio::fs::read_to_string(file).await,
                false => Err(std::io::ErrorKind::FileTooLarge.into()),
            }
        };
        let token = read.await.map_err(|error: std::io::Error| {
            AgentError::NoToken(format!("{}: {error}", file.display()))
        })?;
        Ok(token.trim().to_owned())
    }

    fn entry(&self) -> String {
        let under = self.under.as_ref();
        under
            .map(|under| under.entry.to_string())
            .unwrap_or_default()
    }

    /// Follows the registration entries of `agent`, whose credentials are `held`, and says who uses them.
    pub(crate) async fn entries(
        &self,
        agent: &SpiffeId,
        held: Option<Arc<Credentials>>,
        uses: UsesStream,
    ) -> Result<EntryStream, AgentError> {
        // As in `follow`.
        let over = CancellationToken::new();
        let uses = uses.take_until(over.clone().cancelled_owned());
        let over = over.drop_guard();
        let mut client = self.client(held).await?;
        client = client.max_decoding_message_size(MAX_ENTRIES_BYTES);
        let agent_id = agent.to_string();
        let told = client.entries(Uses(agent_id, Box::pin(uses))).await;
        let told = told.map_err(refused)?.into_inner();
        Ok(Box::pin(told.map(move |list| {
            let _ends_with = &over;
            let read = |json: &String| serde_json::from_str(json).ok();
            let list = list.map_err(refused)?;
            let entries: Option<Vec<_>> = list.entries.iter().map(read).collect();
            // INVARIANT: an entry that cannot be read spoils the whole answer; it is not left out.
            entries.ok_or(AgentError::BadAnswer("not registration entries"))
        })))
    }

    /// Tells the authority who was refused at `agent`, whose credentials are `held`.
    pub(crate) async fn tell_refusals(
        &self,
        agent: &SpiffeId,
        held: Option<Arc<Credentials>>,
        refusals: Vec<Refusal>,
        left_out: u64,
    ) -> Result<(), AgentError> {
        let mut client = self.client(held).await?;
        let mut request = tonic::Request::new(Refusals {
            agent_id: agent.to_string(),
            refusals,
            left_out,
        });
        request.set_timeout(ISSUE_TIMEOUT);
        client.refused(request).await.map_err(refused)?;
        Ok(())
    }

    async fn client(
        &self,
        held: Option<Arc<Credentials>>,
    ) -> Result<Client<tonic::transport::Channel>, AgentError> {
        let held = match &self.under {
            Some(under) => under.agent.borrow().clone(),
            None => held,
        };
        let channel = self
            .channel
            .open(held)
            .await
            .map_err(AgentError::Unreachable)?;
        Ok(Client::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
    }

    /// Follows the trust bundle, for which nobody need be known.
    pub async fn watch_bundle(
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

#[tonic::async_trait]
impl IssuerClient for GrpcIssuer {
    async fn issue(
        &self,
        id: &SpiffeId,
        csr_der: &[u8],
        join_token: Option<&str>,
        held: Option<Arc<Credentials>>,
    ) -> Result<Issued, AgentError> {
        let kubernetes_token = self.kubernetes_token(held.as_ref()).await?;
        let mut request = tonic::Request::new(IssueRequest {
            csr_der: csr_der.to_vec(),
            requested_id: id.to_string(),
            join_token: join_token.unwrap_or_default().to_owned(),
            entry: self.entry(),
            kubernetes_token,
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
            renewal: answer.renewal,
        })
    }

    async fn issue_jwt(
        &self,
        id: &SpiffeId,
        audience: &[String],
        held: Option<Arc<Credentials>>,
    ) -> Result<JwtIssued, AgentError> {
        let mut request = tonic::Request::new(IssueJwtRequest {
            requested_id: id.to_string(),
            audience: audience.to_vec(),
            entry: self.entry(),
        });
        request.set_timeout(ISSUE_TIMEOUT);
        let answer = self.client(held).await?.issue_jwt(request).await;
        let answer = answer.map_err(refused)?.into_inner();
        Ok(JwtIssued {
            token: Zeroizing::new(answer.token),
            expires_at: UnixTime::from_millis(answer.expires_at_ms),
        })
    }

    async fn follow(
        &self,
        held: Option<Arc<Credentials>>,
        reports: ReportStream,
    ) -> Result<TrustStream, AgentError> {
        // A stream whose request goes on is open still when its answer is dropped: the reports end with the answer.
        let over = CancellationToken::new();
        let reports = reports.take_until(over.clone().cancelled_owned());
        let over = over.drop_guard();
        let mut client = self.client(held).await?;
        let reports = Holdings(self.entry(), Box::pin(reports));
        let told = client.follow(reports).await;
        let told = told.map_err(refused)?.into_inner();
        let trust_domain = self.trust_domain.clone();
        Ok(Box::pin(told.map(move |trust| {
            let _ends_with = &over;
            read_trust(trust, &trust_domain)
        })))
    }
}

impl fmt::Debug for ServiceAccountToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

/// Reports as they go over the wire; a type of its own, because the compiler loses the lifetimes of a mapped stream.
struct Holdings(String, ReportStream);

impl Stream for Holdings {
    type Item = Holding;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Holding>> {
        let report = self.1.poll_next_unpin(cx);
        report.map(|report| Some(holding(report?, &self.0)))
    }
}

/// Who uses entries at an agent, as it goes over the wire.
struct Uses(String, UsesStream);

impl Stream for Uses {
    type Item = issuer::EntryUses;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let uses = self.1.poll_next_unpin(cx);
        let message = |used: EntryUse| issuer::EntryUse {
            entry: used.entry.to_string(),
            pid: used.pid,
            uid: used.uid,
        };
        uses.map(|uses| {
            Some(issuer::EntryUses {
                agent_id: self.0.clone(),
                uses: uses?.into_iter().map(message).collect(),
            })
        })
    }
}

/// A report as it goes over the wire.
fn holding(report: Report, entry: &str) -> Holding {
    Holding {
        spiffe_id: report.id.to_string(),
        instance: report.instance.to_string(),
        bundle_sequence: report.holding.bundle_sequence,
        serial: report.holding.serial,
        renewal: report.holding.renewal,
        not_after_ms: report.holding.not_after.as_millis(),
        leaving: report.leaving,
        entry: entry.to_owned(),
    }
}

fn read_trust(
    trust: Result<issuer::Trust, tonic::Status>,
    expected: &TrustDomain,
) -> Result<Trust, AgentError> {
    let trust = trust.map_err(refused)?;
    let bundle = trust
        .bundle
        .ok_or(AgentError::BadAnswer("no trust bundle"))?;
    Ok(Trust {
        bundle: Arc::new(read_bundle(bundle, expected)?),
        renewal: trust.renewal,
        within: Duration::from_millis(trust.within_ms),
    })
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
        let attested = Attested::by_itself(id.clone());
        let issued = self.0.issue(&attested, csr_der);
        let issued = issued.map_err(|error| AgentError::Refused(error.to_string()))?;
        Ok(Issued {
            chain: issued.chain_der,
            bundle: Arc::clone(&self.0.bundle().borrow()),
            renewal: issued.renewal,
        })
    }

    async fn issue_jwt(
        &self,
        id: &SpiffeId,
        audience: &[String],
        _held: Option<Arc<Credentials>>,
    ) -> Result<JwtIssued, AgentError> {
        let issued = self.0.issue_jwt(&Attested::by_itself(id.clone()), audience);
        let issued = issued.map_err(|error| AgentError::Refused(error.to_string()))?;
        Ok(JwtIssued {
            token: issued.token,
            expires_at: issued.expires_at,
        })
    }

    async fn follow(
        &self,
        _held: Option<Arc<Credentials>>,
        mut reports: ReportStream,
    ) -> Result<TrustStream, AgentError> {
        let first = reports.next().await;
        let first = first.ok_or(AgentError::BadAnswer("nothing to report"))?;
        let told = self.0.follow(first, reports);
        let told = told.map_err(|error| AgentError::Refused(error.to_string()))?;
        Ok(Box::pin(told.map(Ok)))
    }
}

fn refused(status: tonic::Status) -> AgentError {
    if let Some(after) = queue::retry_after(&status) {
        return AgentError::Overloaded(after);
    }
    AgentError::Refused(format!("{}: {}", status.code(), status.message()))
}

fn read_bundle(mut bundle: Bundle, expected: &TrustDomain) -> Result<TrustBundle, AgentError> {
    if bundle.trust_domain != expected.as_str() {
        return Err(AgentError::BadAnswer("a bundle of another trust domain"));
    }
    let others = std::mem::take(&mut bundle.federated).into_iter();
    let others: Result<Vec<_>, _> = others.map(|other| read_one(other).map(Arc::new)).collect();
    let unusable = |_| AgentError::BadAnswer("not the bundles of other trust domains");
    let federated = Federated::new(others?).map_err(unusable)?;
    read_one(bundle)?
        .with_federated(Arc::new(federated))
        .map_err(unusable)
}

/// A bundle without those of others.
fn read_one(bundle: Bundle) -> Result<TrustBundle, AgentError> {
    let domain = TrustDomain::parse(&bundle.trust_domain);
    let domain = domain.map_err(|_| AgentError::BadAnswer("a bundle of no trust domain"))?;
    let authorities = bundle.authorities_der.into_iter().map(CertificateDer::from);
    let revoked = read_revoked(&bundle.revoked_ids, bundle.revoked_serials)?;
    let key = |text: &String| JwtKey::from_jwk(&serde_json::from_str(text).ok()?);
    let jwt_keys: Option<Vec<_>> = bundle.jwt_keys.iter().map(key).collect();
    let jwt_keys = jwt_keys.ok_or(AgentError::BadAnswer("not a key of JWT-SVIDs"))?;
    let bundle = TrustBundle::new(domain, authorities.collect(), bundle.sequence)
        .and_then(|bundle| bundle.with_jwt_keys(jwt_keys));
    let bundle = bundle.map_err(|_| AgentError::BadAnswer("not a trust bundle"))?;
    Ok(bundle.with_revoked(Arc::new(revoked)))
}

/// INVARIANT: an entry that cannot be read spoils the whole answer; it is not left out.
fn read_revoked(ids: &[String], serials: Vec<String>) -> Result<Revoked, AgentError> {
    let ids: Result<Vec<_>, _> = ids.iter().map(|id| SpiffeId::parse(id)).collect();
    let ids = ids.map_err(|_| AgentError::BadAnswer("what is revoked is not a SPIFFE ID"))?;
    Ok(Revoked::new(ids, serials))
}
