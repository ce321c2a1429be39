use std::{sync::Mutex, time::Duration};

use rcgen::{CertificateParams, KeyPair};
use reeve_core::clock::ManualClock;
use reeve_svid::{Purpose, verify_svid};
use rustls_pki_types::CertificateDer;
use tokio::net::UnixStream;
use tonic::Code;

use super::*;
use crate::{AttestError, CaOptions, CsrError, Store, TokenError};

const OURS: &str = "spiffe://mesh.local/ns/default/sa/reviews";
const OTHER: &str = "spiffe://mesh.local/ns/default/sa/admin";
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
struct Seen {
    refused: Mutex<Vec<RefusedIdentity>>,
    issued: Mutex<Vec<IssuedIdentity>>,
    /// How many refusals agents told of.
    elsewhere: Mutex<usize>,
}

impl IdentityEvents for Seen {
    fn revoked(&self, _event: &crate::RevocationEvent) {}

    fn rotated(&self, _event: &crate::RotationEvent) {}

    fn refused(&self, event: RefusedIdentity) {
        self.refused.lock().unwrap().push(event);
    }

    fn issued(&self, event: IssuedIdentity) {
        self.issued.lock().unwrap().push(event);
    }

    fn refused_elsewhere(&self, _agent: &SpiffeId, _refusal: &crate::ToldRefusal) {
        *self.elsewhere.lock().unwrap() += 1;
    }
}

/// Entitles every process to `OURS`, or fails.
#[derive(Debug)]
struct Fixed(Result<(), AttestError>);

#[tonic::async_trait]
impl Attestor for Fixed {
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attestation>, AttestError> {
        let Evidence::Process { .. } = evidence else {
            return Ok(None);
        };
        self.0.clone()?;
        Ok(Some(Attestation {
            identities: vec![OURS.parse().unwrap()],
            ..Attestation::default()
        }))
    }
}

struct Setup {
    service: IssuerService,
    events: Arc<Seen>,
    clock: Arc<ManualClock>,
}

fn setup(attest: Result<(), AttestError>) -> Setup {
    let clock = Arc::new(ManualClock::at(UnixTime::from_secs(1_800_000_000)));
    let shared: Arc<dyn Clock> = Arc::clone(&clock) as _;
    let options = CaOptions {
        trust_domain: "mesh.local".parse().unwrap(),
        root_ttl: HOUR * 24,
        intermediate_ttl: HOUR * 12,
        svid_ttl: HOUR,
        consumer_wait: Duration::ZERO,
        store: Store::DangerMemory,
        vault: None,
        upstream: None,
    };
    let events = Arc::new(Seen::default());
    let service = IssuerService {
        ca: CertificateAuthority::open(options, Arc::clone(&shared)).unwrap(),
        attestor: Arc::new(Fixed(attest)),
        tokens: Arc::new(JoinTokens::new(Arc::clone(&shared))),
        entries: Arc::default(),
        events: Arc::clone(&events) as _,
        clock: shared,
        queue: Queue::default(),
    };
    Setup {
        service,
        events,
        clock,
    }
}

fn csr() -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    CertificateParams::default()
        .serialize_request(&key)
        .unwrap()
        .der()
        .to_vec()
}

fn request(id: &str, token: &str) -> Request<IssueRequest> {
    Request::new(IssueRequest {
        csr_der: csr(),
        requested_id: id.to_owned(),
        join_token: token.to_owned(),
        ..IssueRequest::default()
    })
}

/// A request of this very process over a Unix socket.
fn of_process(id: &str) -> (Request<IssueRequest>, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    let mut request = request(id, "");
    request
        .extensions_mut()
        .insert(UnixPeer::of(&near).unwrap());
    (request, far)
}

impl Setup {
    /// What the caller is told, and what is recorded.
    async fn refusal(&self, request: Request<IssueRequest>) -> (Code, RefusalReason) {
        let status = self.service.issue(request).await.unwrap_err();
        let refused = self.events.refused.lock().unwrap().pop().unwrap();
        assert!(self.events.issued.lock().unwrap().is_empty());
        (status.code(), refused.reason)
    }

    /// A peer that proved `id` with a certificate of ours.
    async fn peer(&self, id: &str) -> VerifiedPeer {
        let svid = self.service.ca.issue_self(&id.parse().unwrap()).unwrap();
        let bundle = Arc::clone(&self.service.ca.bundle().borrow());
        verify_svid(svid.chain(), &bundle, self.clock.now(), Purpose::Client).unwrap()
    }
}

#[tokio::test]
async fn an_attested_process_gets_its_own_identity() {
    let setup = setup(Ok(()));
    let (request, _far) = of_process(OURS);
    let answer = setup.service.issue(request).await.unwrap().into_inner();
    let chain: Vec<_> = answer
        .chain_der
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    let bundle = Arc::clone(&setup.service.ca.bundle().borrow());
    let peer = verify_svid(&chain, &bundle, setup.clock.now(), Purpose::Client).unwrap();
    assert_eq!(peer.id().as_str(), OURS);
    assert_eq!(answer.bundle.unwrap().authorities_der.len(), 1);
    assert_eq!(
        answer.not_after_ms,
        setup.clock.now().plus(HOUR).as_millis()
    );
    let issued = setup.events.issued.lock().unwrap().pop().unwrap();
    assert_eq!(issued.id.as_str(), OURS);
    let serial = peer.serial().to_owned();
    assert_eq!(issued.credential, Credential::X509 { serial });
    assert!(matches!(issued.caller, Caller::Process { pid, .. } if pid == std::process::id()));
}

#[tokio::test]
async fn a_process_does_not_get_anothers_identity_and_it_is_recorded() {
    let setup = setup(Ok(()));
    let (request, _far) = of_process(OTHER);
    let status = setup.service.issue(request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(!status.message().contains(OTHER), "{status}");
    let refused = setup.events.refused.lock().unwrap().pop().unwrap();
    assert_eq!(refused.requested.as_deref(), Some(OTHER));
    assert_eq!(refused.reason, RefusalReason::NotEntitled);
    assert!(matches!(refused.caller, Caller::Process { .. }));
}

#[tokio::test]
async fn a_process_that_is_not_attested_gets_nothing() {
    for (error, code) in [
        (
            AttestError::Refused("a stranger".into()),
            Code::PermissionDenied,
        ),
        (
            AttestError::Unavailable("no answer".into()),
            Code::Unavailable,
        ),
    ] {
        let setup = setup(Err(error.clone()));
        let (request, _far) = of_process(OURS);
        let told = setup.refusal(request).await;
        assert_eq!(told, (code, RefusalReason::NotAttested(error)));
    }
}

#[tokio::test]
async fn a_caller_that_shows_nothing_gets_nothing() {
    let setup = setup(Ok(()));
    let told = setup.refusal(request(OURS, "")).await;
    assert_eq!(told, (Code::PermissionDenied, RefusalReason::NoEvidence));
}

#[tokio::test]
async fn a_join_token_is_good_for_its_identity_once() {
    let setup = setup(Ok(()));
    let create = || {
        setup
            .service
            .tokens
            .create(OURS.parse().unwrap(), HOUR)
            .unwrap()
    };
    let token = create();
    let refused = |error| (Code::PermissionDenied, RefusalReason::Token(error));
    assert_eq!(
        setup.refusal(request(OTHER, &token)).await,
        refused(TokenError::OtherIdentity)
    );
    let mut bad = request(OURS, &token);
    bad.get_mut().csr_der.pop();
    let malformed = RefusalReason::Request(CsrError::Malformed);
    assert_eq!(setup.refusal(bad).await, (Code::InvalidArgument, malformed));
    assert!(
        setup.service.issue(request(OURS, &token)).await.is_ok(),
        "neither spent it"
    );
    setup.events.issued.lock().unwrap().clear();
    assert_eq!(
        setup.refusal(request(OURS, &token)).await,
        refused(TokenError::Spent)
    );
    assert_eq!(
        setup.refusal(request(OURS, "made.up")).await,
        refused(TokenError::Unknown)
    );
    let late = create();
    setup.clock.advance(HOUR);
    assert_eq!(
        setup.refusal(request(OURS, &late)).await,
        refused(TokenError::Expired)
    );
}

/// A stranger's token is not made good by the process or certificate it is shown with.
#[tokio::test]
async fn a_refused_token_is_not_helped_by_other_evidence() {
    let setup = setup(Ok(()));
    let (mut request, _far) = of_process(OURS);
    request.get_mut().join_token = "made.up".to_owned();
    let told = setup.refusal(request).await;
    assert_eq!(told.1, RefusalReason::Token(TokenError::Unknown));
}

#[tokio::test]
async fn an_svid_renews_itself_and_nothing_else_and_only_while_valid() {
    let setup = setup(Ok(()));
    let peer = setup.peer(OURS).await;
    let with = |id: &str| {
        let mut request = request(id, "");
        request.extensions_mut().insert(peer.clone());
        request
    };
    assert!(setup.service.issue(with(OURS)).await.is_ok());
    let issued = setup.events.issued.lock().unwrap().pop().unwrap();
    assert_eq!(issued.caller, Caller::Workload(OURS.parse().unwrap()));
    let told = setup.refusal(with(OTHER)).await;
    assert_eq!(told, (Code::PermissionDenied, RefusalReason::NotEntitled));
    setup.clock.advance(HOUR + Duration::from_secs(1));
    let told = setup.refusal(with(OURS)).await;
    assert_eq!(told, (Code::PermissionDenied, RefusalReason::Expired));
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let setup = setup(Ok(()));
    let told = setup.refusal(of_process("spiffe://Mesh.local/x").0).await;
    assert_eq!(told, (Code::InvalidArgument, RefusalReason::NotASpiffeId));
    let (mut request, _far) = of_process(OURS);
    request.get_mut().csr_der = b"nothing".to_vec();
    let malformed = RefusalReason::Request(CsrError::Malformed);
    assert_eq!(
        setup.refusal(request).await,
        (Code::InvalidArgument, malformed)
    );
}

#[tokio::test]
async fn what_a_caller_says_is_recorded_only_in_part() {
    let setup = setup(Ok(()));
    let long = "é".repeat(5000);
    setup.service.issue(request(&long, "")).await.unwrap_err();
    let refused = setup.events.refused.lock().unwrap().pop().unwrap();
    assert_eq!(refused.requested.unwrap().len(), 256);
}

#[tokio::test]
async fn bundles_are_pushed() {
    let setup = setup(Ok(()));
    let watched = setup
        .service
        .watch_bundle(Request::new(WatchBundleRequest {}));
    let mut bundles = watched.await.unwrap().into_inner();
    assert_eq!(bundles.next().await.unwrap().unwrap().sequence, 1);
    setup.clock.advance(HOUR * 12);
    setup.service.ca.maintain(&crate::LogEvents).unwrap();
    let new = bundles.next().await.unwrap().unwrap();
    assert!(new.sequence > 1);
    assert_eq!(new.authorities_der.len(), 2);
    assert_eq!(new.jwt_keys.len(), 1);
}

fn jwt_request(
    peer: Request<IssueRequest>,
    id: &str,
    audience: &[&str],
) -> Request<IssueJwtRequest> {
    let (metadata, extensions, _) = peer.into_parts();
    let asked = IssueJwtRequest {
        requested_id: id.to_owned(),
        audience: audience.iter().map(|a| (*a).to_owned()).collect(),
        ..IssueJwtRequest::default()
    };
    Request::from_parts(metadata, extensions, asked)
}

#[tokio::test]
async fn a_process_gets_a_jwt_svid_of_its_own_identity() {
    let setup = setup(Ok(()));
    let (peer, _far) = of_process(OURS);
    let request = jwt_request(peer, OURS, &["ledger"]);
    let answer = setup.service.issue_jwt(request).await.unwrap().into_inner();
    let bundle = Arc::clone(&setup.service.ca.bundle().borrow());
    let now = setup.clock.now();
    let read =
        reeve_svid::verify_jwt_svid(&answer.token, "ledger", |_| Some(&bundle), now).unwrap();
    assert_eq!(read.id.as_str(), OURS);
    assert_eq!(answer.expires_at_ms, read.expires_at.as_millis());
    let issued = setup.events.issued.lock().unwrap().pop().unwrap();
    assert_eq!(issued.id.as_str(), OURS);
    let Credential::Jwt { key_id, audience } = issued.credential else {
        panic!("a token");
    };
    assert_eq!(audience, ["ledger"]);
    assert_eq!(key_id, bundle.jwt_keys()[0].id());
}

#[tokio::test]
async fn nobody_gets_a_jwt_svid_that_is_not_its_own_and_it_is_recorded() {
    let setup = setup(Ok(()));
    let refused = async |request| {
        let status = setup.service.issue_jwt(request).await.unwrap_err();
        let event = setup.events.refused.lock().unwrap().pop().unwrap();
        (status.code(), event.reason.as_str())
    };
    let (peer, _far) = of_process(OTHER);
    let denied = (Code::PermissionDenied, "not_entitled");
    assert_eq!(refused(jwt_request(peer, OTHER, &["ledger"])).await, denied);
    let nobody = Request::new(IssueRequest::default());
    let nameless = (Code::PermissionDenied, "no_evidence");
    assert_eq!(
        refused(jwt_request(nobody, OURS, &["ledger"])).await,
        nameless
    );
    let (peer, _far) = of_process(OURS);
    let bad = (Code::InvalidArgument, "not_a_spiffe_id");
    assert_eq!(
        refused(jwt_request(peer, "reviews", &["ledger"])).await,
        bad
    );
    let long = "a".repeat(257);
    for audience in [&[][..], &[""], &["a"; 9], &[&long]] {
        let (peer, _far) = of_process(OURS);
        let bad = (Code::InvalidArgument, "audience");
        assert_eq!(refused(jwt_request(peer, OURS, audience)).await, bad);
    }
}

#[tokio::test]
async fn a_revoked_identity_gets_no_token() {
    let setup = setup(Ok(()));
    let target = crate::RevokeTarget::Id(OURS.parse().unwrap());
    let ca = &setup.service.ca;
    ca.revoke(target, "stolen", None, &crate::LogEvents)
        .unwrap();
    let (peer, _far) = of_process(OURS);
    let refused = setup
        .service
        .issue_jwt(jwt_request(peer, OURS, &["ledger"]))
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let event = setup.events.refused.lock().unwrap().pop().unwrap();
    assert_eq!(event.reason, RefusalReason::Revoked);
}

mod cheating;
mod refusals;
