//! Issuance cannot be cheated: every row is an attempt over gRPC, the exact refusal – or what it is reduced to – and the
//! record of it; and its twin, the same without the lie, which is granted.

use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use rcgen::{CustomExtension, SanType};
use reeve_core::{RegistrationEntry, SystemClock};
use reeve_svid::{Credentials, X509Svid};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::{net::UnixListener, sync::watch};
use tonic::transport::{Channel, Endpoint, Server};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::*;
use crate::{
    IssuerChannel, MeshAddress,
    entries::tests::entry_of,
    proto::issuer::{IssueJwtRequest, issuer_client::IssuerClient},
    tls_incoming, unix_incoming,
};

const CONTROL: &str = "spiffe://mesh.local/ns/reeve-system/sa/control";
const AGENT_A: &str = "spiffe://mesh.local/agent/a";
const AGENT_B: &str = "spiffe://mesh.local/agent/b";
const JOB: &str = "spiffe://mesh.local/ns/batch/sa/job";

/// A certificate authority at its sockets.
struct Desk {
    ca: Arc<CertificateAuthority>,
    tokens: Arc<JoinTokens>,
    entries: Arc<Entries>,
    events: Arc<Seen>,
    clock: Arc<dyn Clock>,
    process: PathBuf,
    tls: PathBuf,
    _folder: tempfile::TempDir,
}

/// As whom a request is made.
enum As {
    /// This process, which is attested as `OURS`.
    Process,
    /// Who has such a certificate.
    Svid(Arc<Credentials>),
    /// Nobody.
    Nobody,
}

async fn desk() -> Desk {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
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
    let ca = CertificateAuthority::open(options, Arc::clone(&clock)).unwrap();
    let tokens = Arc::new(JoinTokens::new(Arc::clone(&clock)));
    let (entries, events) = (Arc::new(Entries::default()), Arc::new(Seen::default()));
    let service = || {
        IssuerService::server(
            Arc::clone(&ca),
            Arc::new(Fixed(Ok(()))),
            Arc::clone(&tokens),
            Arc::clone(&entries),
            Arc::clone(&events) as _,
            Arc::clone(&clock),
        )
    };
    let folder = tempfile::tempdir().unwrap();
    let (process, tls) = (folder.path().join("mesh"), folder.path().join("tls"));
    let incoming = unix_incoming(UnixListener::bind(&process).unwrap());
    let server = Server::builder().add_service(service());
    tokio::spawn(server.serve_with_incoming(incoming));
    let own = held(&ca, CONTROL);
    let (_keep, own) = watch::channel(Some(own));
    let listener = UnixListener::bind(&tls).unwrap();
    let incoming = tls_incoming(listener, own, Arc::clone(&clock));
    let server = Server::builder().add_service(service());
    tokio::spawn(server.serve_with_incoming(incoming));
    Desk {
        ca,
        tokens,
        entries,
        events,
        clock,
        process,
        tls,
        _folder: folder,
    }
}

fn held(ca: &CertificateAuthority, id: &str) -> Arc<Credentials> {
    let svid = Arc::new(ca.issue_self(&id.parse().unwrap()).unwrap());
    let bundle = Arc::clone(&ca.bundle().borrow());
    Arc::new(Credentials { svid, bundle })
}

fn entry() -> RegistrationEntry {
    RegistrationEntry {
        x509_ttl: Some(Duration::from_secs(600)),
        dns_names: vec!["job.batch.svc".parse().unwrap()],
        jwt_audiences: vec!["ledger".to_owned()],
        ..entry_of("job", AGENT_A)
    }
}

impl Desk {
    async fn client(&self, caller: &As) -> IssuerClient<Channel> {
        let channel = match caller {
            As::Process => {
                let path = self.process.clone();
                let connector = tower::service_fn(move |_| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                let endpoint = Endpoint::from_static("http://issuer");
                endpoint.connect_with_connector(connector).await.unwrap()
            }
            As::Svid(held) => self.tls(Some(Arc::clone(held))).await,
            As::Nobody => self.tls(None).await,
        };
        IssuerClient::new(channel)
    }

    async fn tls(&self, held: Option<Arc<Credentials>>) -> Channel {
        let bundle = Arc::clone(&self.ca.bundle().borrow());
        let channel = IssuerChannel::tls(
            MeshAddress::Unix(self.tls.clone()),
            CONTROL.parse().unwrap(),
            bundle,
            Arc::clone(&self.clock),
        );
        channel.open(held).await.unwrap()
    }

    /// A certificate that was issued under the entry, to the process that has it now.
    async fn under_entry(&self) -> Arc<Credentials> {
        self.entries.set(Arc::new(vec![entry()]));
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let mut client = self.client(&As::Svid(held(&self.ca, AGENT_A))).await;
        let answer = client
            .issue(IssueRequest {
                csr_der: csr.der().to_vec(),
                requested_id: JOB.to_owned(),
                entry: "batch/job".to_owned(),
                ..IssueRequest::default()
            })
            .await
            .unwrap()
            .into_inner();
        let chain = answer.chain_der.into_iter().map(CertificateDer::from);
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let svid = X509Svid::parse(chain.collect(), key.into()).unwrap();
        let bundle = Arc::clone(&self.ca.bundle().borrow());
        Arc::new(Credentials {
            svid: Arc::new(svid),
            bundle,
        })
    }

    fn forget(&self) {
        self.events.refused.lock().unwrap().clear();
        self.events.issued.lock().unwrap().clear();
    }

    /// What the caller is told, and the one record of it.
    async fn refused(&self, name: &str, caller: &As, asked: IssueRequest) -> (Code, String) {
        self.forget();
        let requested = asked.requested_id.clone();
        let answer = self.client(caller).await.issue(asked).await;
        let status = answer.map(|_| ()).expect_err(name);
        let refused = std::mem::take(&mut *self.events.refused.lock().unwrap());
        let [refused] = refused.as_slice() else {
            panic!("{name}: {refused:?}");
        };
        assert_eq!(refused.requested.as_ref(), Some(&requested), "{name}");
        let known = matches!(
            (caller, &refused.caller),
            (As::Process, Caller::Process { .. })
                | (As::Svid(_), Caller::Workload(_))
                | (As::Nobody, Caller::Remote(_))
        );
        assert!(known, "{name}: {:?}", refused.caller);
        assert!(self.events.issued.lock().unwrap().is_empty(), "{name}");
        (status.code(), refused.reason.as_str().to_owned())
    }

    /// The leaf that the caller gets; it is recorded.
    async fn granted(&self, name: &str, caller: &As, asked: IssueRequest) -> Vec<u8> {
        self.forget();
        let requested = asked.requested_id.clone();
        let answer = self.client(caller).await.issue(asked).await;
        let answer = answer.unwrap_or_else(|status| panic!("{name}: {status}"));
        let issued = std::mem::take(&mut *self.events.issued.lock().unwrap());
        let [issued] = issued.as_slice() else {
            panic!("{name}: {issued:?}");
        };
        assert_eq!(issued.id.as_str(), requested, "{name}");
        answer.into_inner().chain_der.swap_remove(0)
    }
}

fn asking(id: &str, csr_der: Vec<u8>) -> IssueRequest {
    IssueRequest {
        csr_der,
        requested_id: id.to_owned(),
        ..IssueRequest::default()
    }
}

fn under(entry: &str, id: &str) -> IssueRequest {
    IssueRequest {
        entry: entry.to_owned(),
        ..asking(id, csr())
    }
}

/// A request with what `dress` puts into it.
fn dressed(dress: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    dress(&mut params);
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

fn uri(id: &str) -> SanType {
    SanType::URI(id.try_into().unwrap())
}

fn extension(oid: &[u64], content: &[u8]) -> CustomExtension {
    CustomExtension::from_oid_content(oid, content.to_vec())
}

/// Certificate requests that ask for more than is due: only their key counts.
fn greedy() -> Vec<(&'static str, Vec<u8>)> {
    let ca_true: &[u8] = &[0x30, 0x03, 0x01, 0x01, 0xff];
    // GeneralizedTime 20260101100000Z to 20360101100000Z.
    let mut ten_years = vec![0x30, 0x22, 0x80, 0x0f];
    ten_years.extend(b"20260101100000Z");
    ten_years.extend([0x81, 0x0f]);
    ten_years.extend(b"20360101100000Z");
    vec![
        (
            "CA:TRUE",
            dressed(|p| p.custom_extensions = vec![extension(&[2, 5, 29, 19], ca_true)]),
        ),
        (
            "keyCertSign",
            dressed(|p| p.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign]),
        ),
        (
            "another's URI",
            dressed(|p| p.subject_alt_names = vec![uri(OTHER)]),
        ),
        (
            "two URIs",
            dressed(|p| p.subject_alt_names = vec![uri(OURS), uri(OTHER)]),
        ),
        (
            "a stranger's DNS name",
            dressed(|p| {
                p.subject_alt_names = vec![SanType::DnsName("bank.example".try_into().unwrap())]
            }),
        ),
        (
            "many names",
            dressed(|p| {
                let name = |n| SanType::DnsName(format!("n{n}.example").try_into().unwrap());
                p.subject_alt_names = (0..300).map(name).collect();
            }),
        ),
        (
            "ten years",
            dressed(|p| p.custom_extensions = vec![extension(&[2, 5, 29, 16], &ten_years)]),
        ),
        (
            "the authority's subject",
            dressed(|p| {
                p.distinguished_name
                    .push(rcgen::DnType::CommonName, "Reeve root")
            }),
        ),
    ]
}

#[tokio::test]
async fn a_request_that_asks_for_more_is_reduced_to_the_attested_identity_and_our_profile() {
    let desk = desk().await;
    let plain = ("nothing more", csr());
    for (name, csr_der) in greedy().into_iter().chain([plain]) {
        let begun = desk.clock.now();
        let leaf = desk
            .granted(name, &As::Process, asking(OURS, csr_der))
            .await;
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        let [GeneralName::URI(found)] = names.value.general_names.as_slice() else {
            panic!("{name}: {names:?}");
        };
        assert_eq!(*found, OURS, "{name}");
        assert!(!leaf.is_ca(), "{name}");
        let usage = leaf.key_usage().unwrap().unwrap().value;
        assert!(
            usage.digital_signature() && !usage.key_cert_sign(),
            "{name}"
        );
        assert_eq!(leaf.subject().to_string(), "O=Reeve", "{name}");
        assert_eq!(leaf.extensions().len(), 6, "{name}");
        let life = leaf.validity().not_after.timestamp() - i64::try_from(begun.as_secs()).unwrap();
        assert!((3590..=3605).contains(&life), "{name}: {life}");
    }
}

#[tokio::test]
async fn a_key_or_request_that_will_not_do_is_refused_and_recorded() {
    let desk = desk().await;
    let mut forged = csr();
    *forged.last_mut().unwrap() ^= 1;
    let mut cut = csr();
    cut.pop();
    let huge = dressed(|p| {
        let name = |n| SanType::DnsName(format!("n{n}.example").try_into().unwrap());
        p.subject_alt_names = (0..1_000).map(name).collect();
    });
    assert!(huge.len() > 8 * 1024 && huge.len() < 64 * 1024);
    let requests: [(&str, &[u8]); 14] = [
        ("RSA 1024", include_bytes!("requests/rsa1024.csr")),
        ("RSA 2048", include_bytes!("requests/rsa2048.csr")),
        ("P-384", include_bytes!("requests/p384.csr")),
        ("P-521", include_bytes!("requests/p521.csr")),
        ("secp256k1", include_bytes!("requests/secp256k1.csr")),
        ("Ed25519", include_bytes!("requests/ed25519.csr")),
        ("P-256 with SHA-384", include_bytes!("requests/sha384.csr")),
        ("P-256 with SHA-1", include_bytes!("requests/sha1.csr")),
        ("explicit curve", include_bytes!("requests/explicit.csr")),
        (
            "compressed point",
            include_bytes!("requests/compressed.csr"),
        ),
        ("bad self-signature", &forged),
        ("cut off", &cut),
        ("nothing", b""),
        ("huge", &huge),
    ];
    for (name, csr_der) in requests {
        let told = desk
            .refused(name, &As::Process, asking(OURS, csr_der.to_vec()))
            .await;
        assert_eq!(
            told,
            (Code::InvalidArgument, "request".to_owned()),
            "{name}"
        );
    }
    // What is too large to be read at all has no name that was asked for.
    desk.forget();
    let vast = asking(OURS, vec![0; 1024 * 1024]);
    let status = desk
        .client(&As::Process)
        .await
        .issue(vast)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    let refused = desk.events.refused.lock().unwrap().pop().unwrap();
    assert_eq!(refused.reason, RefusalReason::Request(CsrError::TooLarge));
    assert!(matches!(refused.caller, Caller::Process { .. }));
    // The twin of all of them: the same caller with a key that will do.
    desk.granted("P-256", &As::Process, asking(OURS, csr()))
        .await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn nobody_gets_anothers_identity() {
    let desk = desk().await;
    let of_entry = desk.under_entry().await;
    let svid = |id| As::Svid(held(&desk.ca, id));
    let agent = || svid(AGENT_A);
    let denied = |reason: &str| (Code::PermissionDenied, reason.to_owned());
    let job = || under("batch/job", JOB);
    // What is tried, as whom; why not; and who is granted it, or what is granted instead.
    let rows = [
        (
            "process A, B's identity",
            As::Process,
            asking(OTHER, csr()),
            "not_entitled",
        ),
        (
            "workload A, B's identity",
            svid(OURS),
            asking(OTHER, csr()),
            "not_entitled",
        ),
        (
            "a workload, the authority's",
            svid(OURS),
            asking(CONTROL, csr()),
            "not_entitled",
        ),
        ("agent B, A's entry", svid(AGENT_B), job(), "no_such_entry"),
        (
            "a process, an agent's entry",
            As::Process,
            job(),
            "no_such_entry",
        ),
        (
            "agent A, no such entry",
            agent(),
            under("batch/none", JOB),
            "no_such_entry",
        ),
        (
            "agent A, no entry's name",
            agent(),
            under("batch", JOB),
            "no_such_entry",
        ),
        (
            "agent A, another's by its entry",
            agent(),
            under("batch/job", OTHER),
            "not_entitled",
        ),
        (
            "agent A, an entry's without naming it",
            agent(),
            asking(JOB, csr()),
            "not_entitled",
        ),
        (
            "the job, renewing by itself",
            As::Svid(Arc::clone(&of_entry)),
            asking(JOB, csr()),
            "under_entry",
        ),
        (
            "the job, by its entry",
            As::Svid(of_entry),
            job(),
            "under_entry",
        ),
        ("a stranger", As::Nobody, asking(OURS, csr()), "no_evidence"),
    ];
    for (name, caller, asked, reason) in rows {
        let told = desk.refused(name, &caller, asked).await;
        assert_eq!(told, denied(reason), "{name}");
    }
    let domain = asking("spiffe://mesh.local", csr());
    let told = desk.refused("the trust domain", &As::Process, domain).await;
    assert_eq!(told, denied("not_entitled"));
    let wrong = asking("reviews", csr());
    let told = desk.refused("no SPIFFE ID", &As::Process, wrong).await;
    assert_eq!(told, (Code::InvalidArgument, "not_a_spiffe_id".to_owned()));

    for (name, caller, asked) in [
        ("process A, its own", As::Process, asking(OURS, csr())),
        ("workload B, its own", svid(OTHER), asking(OTHER, csr())),
        ("agent A, its own", agent(), asking(AGENT_A, csr())),
        ("agent A, its entry", agent(), job()),
    ] {
        desk.granted(name, &caller, asked).await;
    }
}

#[tokio::test]
async fn an_entry_that_is_taken_away_is_issued_no_more() {
    let desk = desk().await;
    let agent = As::Svid(held(&desk.ca, AGENT_A));
    desk.entries.set(Arc::new(vec![entry()]));
    let leaf = desk.granted("there", &agent, under("batch/job", JOB)).await;
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    let names = names.value.general_names.as_slice();
    assert!(
        matches!(
            names,
            [GeneralName::URI(JOB), GeneralName::DNSName("job.batch.svc")]
        ),
        "{names:?}"
    );
    let other_parent = RegistrationEntry {
        parent: AGENT_B.parse().unwrap(),
        ..entry()
    };
    for now in [vec![], vec![other_parent]] {
        desk.entries.set(Arc::new(now));
        let told = desk.refused("gone", &agent, under("batch/job", JOB)).await;
        assert_eq!(told, (Code::PermissionDenied, "no_such_entry".to_owned()));
    }
}

#[tokio::test]
async fn a_join_token_is_spent_once_by_whom_it_was_made_for() {
    let desk = desk().await;
    let with = |id: &str, token: &str| IssueRequest {
        join_token: token.to_owned(),
        ..asking(id, csr())
    };
    let made = |life| desk.tokens.create(OURS.parse().unwrap(), life).unwrap();
    let token = made(HOUR);
    let denied = (Code::PermissionDenied, "token".to_owned());
    let told = desk
        .refused("another's", &As::Nobody, with(OTHER, &token))
        .await;
    assert_eq!(told, denied);
    desk.granted("its own", &As::Nobody, with(OURS, &token))
        .await;
    let told = desk
        .refused("replayed", &As::Nobody, with(OURS, &token))
        .await;
    assert_eq!(told, denied);
    let late = made(Duration::ZERO);
    let told = desk
        .refused("expired", &As::Nobody, with(OURS, &late))
        .await;
    assert_eq!(told, denied);
    let told = desk
        .refused("made up", &As::Nobody, with(OURS, "made.up"))
        .await;
    assert_eq!(told, denied);
    let told = desk
        .refused("beside other evidence", &As::Process, with(OURS, "made.up"))
        .await;
    assert_eq!(told, denied);
}

#[tokio::test]
async fn tokens_are_issued_to_the_attested_and_for_the_audiences_of_the_entry() {
    let desk = desk().await;
    let of_entry = desk.under_entry().await;
    let agent = As::Svid(held(&desk.ca, AGENT_A));
    let asked = |id: &str, audience: &[&str], entry: &str| IssueJwtRequest {
        requested_id: id.to_owned(),
        audience: audience.iter().map(|a| (*a).to_owned()).collect(),
        entry: entry.to_owned(),
    };
    let job = "batch/job";
    for (name, caller, asked, reason) in [
        (
            "B's",
            &As::Process,
            asked(OTHER, &["ledger"], ""),
            "not_entitled",
        ),
        (
            "a wrong audience",
            &agent,
            asked(JOB, &["pay"], job),
            "audience_not_allowed",
        ),
        (
            "one wrong of two",
            &agent,
            asked(JOB, &["ledger", "pay"], job),
            "audience_not_allowed",
        ),
        (
            "by the job itself",
            &As::Svid(of_entry),
            asked(JOB, &["pay"], ""),
            "under_entry",
        ),
        (
            "another agent's",
            &As::Svid(held(&desk.ca, AGENT_B)),
            asked(JOB, &["ledger"], job),
            "no_such_entry",
        ),
    ] {
        desk.forget();
        let answer = desk.client(caller).await.issue_jwt(asked).await;
        assert_eq!(
            answer.map(|_| ()).expect_err(name).code(),
            Code::PermissionDenied
        );
        let refused = desk.events.refused.lock().unwrap().pop().unwrap();
        assert_eq!(refused.reason.as_str(), reason, "{name}");
    }
    for (caller, asked) in [
        (&As::Process, asked(OURS, &["pay"], "")),
        (&agent, asked(JOB, &["ledger"], job)),
    ] {
        desk.forget();
        desk.client(caller).await.issue_jwt(asked).await.unwrap();
        assert_eq!(desk.events.issued.lock().unwrap().len(), 1);
    }
}
