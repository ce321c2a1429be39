//! The gRPC service `reeve.ca.v1.Issuer`.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, future};
use reeve_core::{Clock, EntryName, InstanceName, SpiffeId, UnixTime};
use reeve_svid::{JwtKey, TrustBundle, VerifiedPeer};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::WatchStream;
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::{
    Attestation, Attested, Attestor, AuthorityFault, Caller, CertificateAuthority, Credential,
    Entries, Evidence, IdentityEvents, IssueError, IssuedIdentity, JoinTokens, RefusalReason,
    RefusedIdentity, TlsPeer, UnixPeer,
    authority::Standing,
    csr::{self, ProvenKey},
    follow::{Report, Trust},
    members::Holding,
    proto::issuer::{
        self, Bundle, IssueJwtRequest, IssueJwtResponse, IssueRequest, IssueResponse,
        WatchBundleRequest,
        issuer_server::{Issuer, IssuerServer},
    },
    queue::Queue,
};

/// Largest request that is decoded.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Longest serial number that a member reports: 20 bytes (RFC 5280 section 4.1.2.2) in hexadecimal.
const MAX_SERIAL: usize = 40;
/// How long a member may take to report for the first time.
const FIRST_REPORT: Duration = Duration::from_secs(5);

mod agents;
mod door;

pub use door::IssuerDoor;

/// Issues to those who are known: by their process on a Unix socket, by a join token, by a service account's token, or
/// by the SVID they have; and to agents what registration entries say.
#[derive(Debug)]
pub struct IssuerService {
    ca: Arc<CertificateAuthority>,
    attestor: Arc<dyn Attestor>,
    tokens: Arc<JoinTokens>,
    entries: Arc<Entries>,
    events: Arc<dyn IdentityEvents>,
    clock: Arc<dyn Clock>,
    queue: Queue,
}

/// What a caller asks to be.
struct Asked<'a> {
    id: SpiffeId,
    /// The registration entry, `namespace/name`, or nothing.
    entry: &'a str,
    kubernetes_token: &'a str,
}

impl Asked<'_> {
    fn by_itself(id: SpiffeId) -> Self {
        Self {
            id,
            entry: "",
            kubernetes_token: "",
        }
    }
}

impl IssuerService {
    /// The service as `tonic` wants it. Serve it with [`unix_incoming`](crate::unix_incoming) or
    /// [`tls_incoming`](crate::tls_incoming): or put the
    /// connection's [`UnixPeer`] or [`VerifiedPeer`] into the extensions of each request. Without them only a token helps.
    pub fn server(
        ca: Arc<CertificateAuthority>,
        attestor: Arc<dyn Attestor>,
        tokens: Arc<JoinTokens>,
        entries: Arc<Entries>,
        events: Arc<dyn IdentityEvents>,
        clock: Arc<dyn Clock>,
    ) -> IssuerDoor {
        let service = Self {
            ca,
            attestor,
            tokens,
            entries,
            events: Arc::clone(&events),
            clock,
            queue: Queue::default(),
        };
        let server = IssuerServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES);
        IssuerDoor::new(server, events)
    }

    /// Who the caller is, and the key that it has.
    async fn judge(
        &self,
        extensions: &Extensions,
        request: &IssueRequest,
    ) -> Result<(Attested, ProvenKey), RefusalReason> {
        let id = SpiffeId::parse(&request.requested_id);
        let id = id.map_err(|_| RefusalReason::NotASpiffeId)?;
        let proven = || csr::proven_key(&request.csr_der).map_err(RefusalReason::Request);
        if !request.join_token.is_empty() {
            // A token is not spent on a request that cannot be granted.
            let proven = proven()?;
            let redeemed = self.tokens.redeem(&request.join_token, &id);
            redeemed.map_err(RefusalReason::Token)?;
            return Ok((Attested::by_itself(id), proven));
        }
        let asked = Asked {
            id,
            entry: &request.entry,
            kubernetes_token: &request.kubernetes_token,
        };
        let attested = self.known(extensions, asked).await?;
        Ok((attested, proven()?))
    }

    /// Who the caller is beyond doubt, join tokens apart, if it may be what it asks to be.
    async fn known(
        &self,
        extensions: &Extensions,
        asked: Asked<'_>,
    ) -> Result<Attested, RefusalReason> {
        let known = self.attestation(extensions, asked.kubernetes_token).await?;
        if asked.entry.is_empty() {
            return match known.identities.contains(&asked.id) {
                true => Ok(Attested::by_itself(asked.id)),
                false => Err(RefusalReason::NotEntitled),
            };
        }
        let name = EntryName::parse(asked.entry);
        // The entry as it is now: what was taken away is issued no more.
        let entry = name.and_then(|name| self.entries.named(&name));
        let entry = entry.ok_or(RefusalReason::NoSuchEntry)?;
        // SECURITY: an agent asks for what has it as parent; others for what all is known of that the entry asks for.
        let of_agent = known.identities.contains(&entry.parent);
        let by_facts = !entry.selectors.is_empty() && known.selectors.have_all_of(&entry.selectors);
        if !of_agent && !by_facts {
            return Err(RefusalReason::NoSuchEntry);
        }
        match entry.id == asked.id {
            true => Ok(Attested::by_entry(entry)),
            false => Err(RefusalReason::NotEntitled),
        }
    }

    /// What is known of the caller beyond doubt.
    async fn attestation(
        &self,
        extensions: &Extensions,
        kubernetes_token: &str,
    ) -> Result<Attestation, RefusalReason> {
        let process = extensions.get::<UnixPeer>();
        let evidence = match process {
            _ if !kubernetes_token.is_empty() => Evidence::KubernetesToken(kubernetes_token),
            Some(peer) => Evidence::Process {
                peer,
                hashed: false,
            },
            None => return self.of_svid(extensions),
        };
        let attested = self.attestor.attest(evidence).await;
        let attested = attested.map_err(RefusalReason::NotAttested)?;
        // SECURITY: the attestor looked at a process id, which must still be the caller's.
        if let Some(peer) = process {
            peer.check_alive().map_err(RefusalReason::NotAttested)?;
        }
        attested.ok_or(RefusalReason::NoEvidence)
    }

    /// Whose certificate the caller showed.
    fn of_svid(&self, extensions: &Extensions) -> Result<Attestation, RefusalReason> {
        let verified = verified(extensions).ok_or(RefusalReason::NoEvidence)?;
        if self.clock.now() > verified.not_after() {
            return Err(RefusalReason::Expired);
        }
        // SECURITY: the process that has it could go on for ever by itself, whatever becomes of the entry.
        match Standing::of_serial(verified.serial()) {
            Standing::Renews => Ok(Attestation {
                identities: vec![verified.id().clone()],
                ..Attestation::default()
            }),
            Standing::UnderEntry => Err(RefusalReason::UnderEntry),
        }
    }

    /// Whether none of these faults is in.
    fn in_order(&self, faults: &[AuthorityFault]) -> Result<(), Status> {
        match self.ca.faults().now().filter(|now| faults.contains(now)) {
            Some(fault) => {
                self.events.unavailable(fault);
                let text = format!("a drill has the authority {}", fault.as_str());
                Err(Status::unavailable(text))
            }
            None => Ok(()),
        }
    }

    fn refuse(&self, caller: Caller, requested: &str, reason: RefusalReason) -> Status {
        let status = status(&reason);
        let requested = Some(requested);
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
        let began = Instant::now();
        self.in_order(&[AuthorityFault::Away, AuthorityFault::NoRenewal])?;
        let caller = caller(request.extensions());
        let turn = self.queue.turn(&caller).await;
        let _turn = turn.inspect_err(|_| self.events.overloaded())?;
        let attested = self.judge(request.extensions(), request.get_ref()).await;
        let request = request.get_ref();
        let (attested, proven) = attested
            .map_err(|reason| self.refuse(caller.clone(), &request.requested_id, reason))?;
        let issued = self.ca.issue_outside(&attested, &proven);
        let issued = issued.map_err(|error| {
            self.refuse(caller.clone(), &request.requested_id, not_issued(error))
        })?;
        let bundle = bundle(&self.ca.bundle().borrow());
        let response = IssueResponse {
            chain_der: issued.chain_der.iter().map(|c| c.to_vec()).collect(),
            bundle: Some(bundle),
            not_after_ms: issued.not_after.as_millis(),
            renewal: issued.renewal,
        };
        self.events.issued(IssuedIdentity {
            caller,
            entry: attested.entry.map(|entry| entry.name),
            id: attested.id,
            credential: Credential::X509 {
                serial: issued.serial,
            },
            not_after: issued.not_after,
            took: began.elapsed(),
        });
        Ok(Response::new(response))
    }

    async fn issue_jwt(
        &self,
        request: Request<IssueJwtRequest>,
    ) -> Result<Response<IssueJwtResponse>, Status> {
        let began = Instant::now();
        self.in_order(&[AuthorityFault::Away])?;
        let caller = caller(request.extensions());
        let asked = request.get_ref();
        let refuse = |reason| self.refuse(caller.clone(), &asked.requested_id, reason);
        let id = SpiffeId::parse(&asked.requested_id);
        let id = id.map_err(|_| refuse(RefusalReason::NotASpiffeId))?;
        let wanted = Asked {
            entry: &asked.entry,
            ..Asked::by_itself(id)
        };
        let attested = self.known(request.extensions(), wanted).await;
        let attested = attested.map_err(refuse)?;
        let issued = self.ca.issue_jwt(&attested, &asked.audience);
        let issued = issued.map_err(|error| refuse(not_issued(error)))?;
        self.events.issued(IssuedIdentity {
            caller: caller.clone(),
            entry: attested.entry.map(|entry| entry.name),
            id: attested.id,
            credential: Credential::Jwt {
                key_id: issued.key_id,
                audience: asked.audience.clone(),
            },
            not_after: issued.expires_at,
            took: began.elapsed(),
        });
        Ok(Response::new(IssueJwtResponse {
            token: issued.token.to_string(),
            expires_at_ms: issued.expires_at.as_millis(),
        }))
    }

    type WatchBundleStream = Pin<Box<dyn Stream<Item = Result<Bundle, Status>> + Send>>;

    async fn watch_bundle(
        &self,
        _request: Request<WatchBundleRequest>,
    ) -> Result<Response<Self::WatchBundleStream>, Status> {
        self.in_order(&[AuthorityFault::Away])?;
        // A trust bundle is public.
        let bundles = WatchStream::new(self.ca.bundle()).map(|new| Ok(bundle(&new)));
        Ok(Response::new(Box::pin(bundles)))
    }

    type FollowStream = Pin<Box<dyn Stream<Item = Result<issuer::Trust, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<Streaming<issuer::Holding>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        self.in_order(&[AuthorityFault::Away])?;
        let extensions = request.extensions().clone();
        let mut said = request.into_inner();
        let first = timeout(FIRST_REPORT, said.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("nothing was reported"))??;
        let first = first.ok_or_else(|| Status::invalid_argument("nothing was reported"))?;
        let entry = first.entry.clone();
        let mut first = report(first)?;
        let asked = Asked {
            entry: &entry,
            ..Asked::by_itself(first.id.clone())
        };
        let attested = self.known(&extensions, asked).await;
        let requested = first.id.as_str();
        let attested =
            attested.map_err(|reason| self.refuse(caller(&extensions), requested, reason))?;
        if self.ca.is_revoked(&attested.id) {
            let reason = RefusalReason::Revoked;
            return Err(self.refuse(caller(&extensions), attested.id.as_str(), reason));
        }
        first.id = attested.id;
        let reports = said
            .take_while(|said| future::ready(said.is_ok()))
            .filter_map(|said| future::ready(said.and_then(report).ok()));
        let told = self.ca.follow(first, reports.boxed());
        let told = told.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        Ok(Response::new(Box::pin(
            told.map(|trust| Ok(trust_message(&trust))),
        )))
    }

    type EntriesStream = Pin<Box<dyn Stream<Item = Result<issuer::EntryList, Status>> + Send>>;

    async fn entries(
        &self,
        request: Request<Streaming<issuer::EntryUses>>,
    ) -> Result<Response<Self::EntriesStream>, Status> {
        self.in_order(&[AuthorityFault::Away])?;
        self.serve_agent(request).await.map(Response::new)
    }

    async fn refused(
        &self,
        request: Request<issuer::Refusals>,
    ) -> Result<Response<issuer::RefusalsNoted>, Status> {
        self.in_order(&[AuthorityFault::Away])?;
        self.note_refusals(request).await?;
        Ok(Response::new(issuer::RefusalsNoted {}))
    }
}

fn not_issued(error: IssueError) -> RefusalReason {
    match error {
        IssueError::Request(error) => RefusalReason::Request(error),
        IssueError::NotOurs(_) => RefusalReason::NotEntitled,
        IssueError::Revoked(_) => RefusalReason::Revoked,
        IssueError::Audience => RefusalReason::Audience,
        IssueError::AudienceNotAllowed => RefusalReason::AudienceNotAllowed,
        IssueError::Authority(_) | IssueError::Recheck(_) => {
            tracing::error!(%error, cause = ?std::error::Error::source(&error), "cannot issue");
            RefusalReason::IssuerFailed
        }
    }
}

fn trust_message(trust: &Trust) -> issuer::Trust {
    issuer::Trust {
        bundle: Some(bundle(&trust.bundle)),
        renewal: trust.renewal,
        within_ms: u64::try_from(trust.within.as_millis()).unwrap_or(u64::MAX),
    }
}

/// A member's report as it came over the wire.
fn report(said: issuer::Holding) -> Result<Report, Status> {
    let id = SpiffeId::parse(&said.spiffe_id);
    let id = id.map_err(|_| Status::invalid_argument("spiffe_id is not a SPIFFE ID"))?;
    let instance = InstanceName::parse(&said.instance);
    let instance = instance.map_err(|e| Status::invalid_argument(format!("instance: {e}")))?;
    if said.serial.len() > MAX_SERIAL {
        return Err(Status::invalid_argument("serial is too long"));
    }
    Ok(Report {
        id,
        instance,
        holding: Holding {
            bundle_sequence: said.bundle_sequence,
            serial: said.serial,
            renewal: said.renewal,
            not_after: UnixTime::from_millis(said.not_after_ms),
        },
        leaving: said.leaving,
    })
}

/// A bundle as it goes over the wire, with those of other trust domains.
pub(crate) fn bundle(bundle: &TrustBundle) -> Bundle {
    let federated = bundle.federated().bundles();
    Bundle {
        federated: federated.map(|other| without_others(other)).collect(),
        ..without_others(bundle)
    }
}

fn without_others(bundle: &TrustBundle) -> Bundle {
    Bundle {
        trust_domain: bundle.trust_domain().to_string(),
        authorities_der: bundle.authorities().iter().map(|c| c.to_vec()).collect(),
        sequence: bundle.sequence(),
        revoked_ids: bundle.revoked().ids().map(ToString::to_string).collect(),
        revoked_serials: bundle.revoked().serials().map(str::to_owned).collect(),
        jwt_keys: bundle.jwt_keys().iter().map(jwk_text).collect(),
        federated: Vec::new(),
    }
}

fn jwk_text(key: &JwtKey) -> String {
    serde_json::Value::Object(key.jwk().clone()).to_string()
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
        RefusalReason::Audience => Status::invalid_argument(reason.to_string()),
        RefusalReason::NoSecurityHeader => {
            Status::invalid_argument("the metadata workload.spiffe.io: true is required")
        }
        RefusalReason::NotAttested(crate::AttestError::Unavailable(_))
        | RefusalReason::IssuerFailed => Status::unavailable("try again later"),
        RefusalReason::NotAttested(_)
        | RefusalReason::NotEntitled
        | RefusalReason::AudienceNotAllowed
        | RefusalReason::NoSuchEntry
        | RefusalReason::UnderEntry
        | RefusalReason::Token(_)
        | RefusalReason::NoEvidence
        | RefusalReason::Expired
        | RefusalReason::Revoked => Status::permission_denied("no identity for this caller"),
    }
}

#[cfg(test)]
mod tests;
