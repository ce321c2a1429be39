//! Agent, authority and socket put together; the workload is this very process.

use std::{path::PathBuf, sync::Mutex};

use envoy_types::pb::envoy::service::{
    discovery::v3::{DiscoveryRequest, DiscoveryResponse},
    secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
};
use hyper_util::rt::TokioIo;
use reeve_core::SystemClock;
use tokio::net::{UnixListener, UnixStream};
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};

use super::*;
use crate::{
    CaOptions, Caller, CertificateAuthority, Credential, Entries, IdentityEvents, IssuedIdentity,
    IssuerChannel, IssuerService, JoinTokens, LocalIssuer, MeshAddress, RefusalReason,
    RefusedIdentity, Store, ToldRefusal, UnixAttestor,
    entries::tests::entry_of,
    proto::workload::{
        JwtsvidRequest, X509svidRequest, X509svidResponse,
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
    serve_agent_socket, tls_incoming,
};

const AGENT: &str = "spiffe://mesh.local/ns/reeve-system/sa/control";

#[derive(Debug, Default)]
struct Seen {
    refused: Mutex<Vec<RefusedIdentity>>,
    issued: Mutex<Vec<IssuedIdentity>>,
    elsewhere: Mutex<Vec<(SpiffeId, ToldRefusal)>>,
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

    fn refused_elsewhere(&self, agent: &SpiffeId, refusal: &ToldRefusal) {
        let told = (agent.clone(), refusal.clone());
        self.elsewhere.lock().unwrap().push(told);
    }
}

#[derive(Debug)]
struct Nobody;

#[tonic::async_trait]
impl Attestor for Nobody {
    async fn attest(&self, _: Evidence<'_>) -> Result<Option<crate::Attestation>, AttestError> {
        Ok(None)
    }
}

struct World {
    entries: Arc<Entries>,
    events: Arc<Seen>,
    socket: PathBuf,
    issuer: GrpcIssuer,
    credentials: CredentialsWatch,
    _own: AgentHandle,
    _folder: tempfile::TempDir,
}

async fn world() -> World {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let hour = Duration::from_secs(3600);
    let options = CaOptions {
        trust_domain: "mesh.local".parse().unwrap(),
        root_ttl: hour * 24,
        intermediate_ttl: hour * 12,
        svid_ttl: hour,
        consumer_wait: Duration::ZERO,
        store: Store::DangerMemory,
        vault: None,
        upstream: None,
    };
    let ca = CertificateAuthority::open(options, Arc::clone(&clock)).unwrap();
    let (entries, events) = (Arc::new(Entries::default()), Arc::new(Seen::default()));
    let service = IssuerService::server(
        Arc::clone(&ca),
        Arc::new(Nobody),
        Arc::new(JoinTokens::new(Arc::clone(&clock))),
        Arc::clone(&entries),
        Arc::clone(&events) as _,
        Arc::clone(&clock),
    );
    let options = AgentOptions {
        id: AGENT.parse().unwrap(),
        join_token: None,
        instance: "reeve.mesh".parse().unwrap(),
        installed: None,
    };
    let local = Arc::new(LocalIssuer::new(Arc::clone(&ca)));
    let (credentials, own) = Agent::start(options, local, Arc::clone(&clock));
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control.sock");
    let listener = UnixListener::bind(&control).unwrap();
    let incoming = tls_incoming(listener, credentials.clone(), Arc::clone(&clock));
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    let channel = IssuerChannel::tls(
        MeshAddress::Unix(control),
        AGENT.parse().unwrap(),
        Arc::clone(&ca.bundle().borrow()),
        Arc::clone(&clock),
    );
    let issuer = GrpcIssuer::new(channel, "mesh.local".parse().unwrap());
    let attestor = Arc::new(UnixAttestor::default());
    let id = AGENT.parse().unwrap();
    let agent = NodeAgent::new(
        id,
        issuer.clone(),
        credentials.clone(),
        attestor,
        Arc::clone(&clock),
    );
    let socket = folder.path().join("workload.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let source = Arc::new(agent.clone());
    let events_too = Arc::clone(&events) as Arc<dyn IdentityEvents>;
    tokio::spawn(serve_agent_socket(listener, source, events_too, clock));
    tokio::spawn(async move { agent.run().await });
    World {
        entries,
        events,
        socket,
        issuer,
        credentials,
        _own: own,
        _folder: folder,
    }
}

/// An entry for every process with these selectors.
fn entry(name: &str, selectors: &[&str]) -> RegistrationEntry {
    RegistrationEntry {
        selectors: selectors.iter().map(|s| s.parse().unwrap()).collect(),
        hint: format!("for {name}"),
        ..entry_of(name, AGENT)
    }
}

fn own_uid() -> String {
    format!("unix:uid:{}", rustix::process::geteuid().as_raw())
}

fn own_gid() -> String {
    format!("unix:gid:{}", rustix::process::getegid().as_raw())
}

impl World {
    fn set(&self, entries: &[RegistrationEntry]) {
        self.entries.set(Arc::new(entries.to_vec()));
    }

    async fn channel(&self) -> Channel {
        let path = self.socket.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://agent");
        endpoint.connect_with_connector(connector).await.unwrap()
    }

    async fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.channel().await)
    }

    /// A stream of X.509-SVIDs, once the agent knows entries.
    async fn svids(&self) -> Result<Streaming<X509svidResponse>, Status> {
        let mut client = self.client().await;
        loop {
            let answer = client.fetch_x509svid(asking(X509svidRequest {})).await;
            match answer {
                Err(status) if status.code() == Code::Unavailable => {
                    sleep(Duration::from_millis(10)).await;
                }
                answer => return answer.map(|answer| answer.into_inner()),
            }
        }
    }

    async fn tokens(&self, id: &str, audience: &str) -> Result<Vec<(String, String)>, Status> {
        let asked = JwtsvidRequest {
            audience: vec![audience.to_owned()],
            spiffe_id: id.to_owned(),
        };
        let answer = self.client().await.fetch_jwtsvid(asking(asked)).await?;
        let svids = answer.into_inner().svids.into_iter();
        Ok(svids.map(|svid| (svid.spiffe_id, svid.hint)).collect())
    }

    async fn secrets(&self, names: &[&str]) -> Result<DiscoveryResponse, Status> {
        let mut client = SecretDiscoveryServiceClient::new(self.channel().await);
        let request = DiscoveryRequest {
            resource_names: names.iter().map(|n| (*n).to_owned()).collect(),
            ..DiscoveryRequest::default()
        };
        client.fetch_secrets(request).await.map(|a| a.into_inner())
    }

    fn refusals(&self) -> Vec<RefusalReason> {
        let refused = self.events.refused.lock().unwrap();
        refused.iter().map(|event| event.reason.clone()).collect()
    }
}

fn asking<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

async fn next(stream: &mut Streaming<X509svidResponse>) -> Vec<(String, String)> {
    let answer = stream.message().await.unwrap().unwrap();
    let svids = answer.svids.into_iter();
    svids.map(|svid| (svid.spiffe_id, svid.hint)).collect()
}

fn named(name: &str) -> (String, String) {
    let id = format!("spiffe://mesh.local/ns/batch/sa/{name}");
    (id, format!("for {name}"))
}

#[tokio::test]
async fn a_process_gets_every_identity_that_it_matches_and_loses_what_is_taken_away() {
    let world = world().await;
    let (one, two) = (own_uid(), own_gid());
    let general = entry("a-general", &[&one]);
    let special = entry("special", &[&one, &two]);
    let foreign = entry("foreign", &[&one, "unix:path:/bin/false"]);
    let others = RegistrationEntry {
        parent: "spiffe://mesh.local/ns/reeve-system/sa/other"
            .parse()
            .unwrap(),
        ..entry("others", &[&one])
    };
    world.set(&[
        general.clone(),
        special.clone(),
        foreign.clone(),
        others.clone(),
    ]);
    let mut stream = world.svids().await.unwrap();
    // The one that asks most is the default; another agent's and another program's are not among them.
    assert_eq!(
        next(&mut stream).await,
        [named("special"), named("a-general")]
    );

    let own = std::process::id();
    let expected = [vec![own], vec![own], vec![], vec![]];
    let pids = || -> Vec<Vec<u32>> {
        let status = world.entries.status();
        let of = |status: &crate::EntryStatus| status.used_by.iter().map(|used| used.pid).collect();
        status.iter().map(of).collect()
    };
    while pids() != expected {
        sleep(Duration::from_millis(10)).await;
    }

    world.set(&[general.clone(), foreign, others]);
    assert_eq!(next(&mut stream).await, [named("a-general")]);
    let later = entry("later", &[&two]);
    world.set(&[general, later]);
    assert_eq!(
        next(&mut stream).await,
        [named("a-general"), named("later")]
    );
    world.set(&[]);
    let ended = stream.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied);
    assert!(world.refusals().contains(&RefusalReason::NotEntitled));
    let issued = world.events.issued.lock().unwrap();
    let agent = Caller::Workload(AGENT.parse().unwrap());
    assert!(issued.iter().all(|event| event.caller == agent));
    let issued = issued
        .iter()
        .filter(|e| matches!(e.credential, Credential::X509 { .. }));
    assert_eq!(issued.count(), 3, "nobody's identity is issued unasked");
}

#[tokio::test]
async fn a_process_that_matches_nothing_is_refused_and_what_is_known_of_it_is_recorded() {
    let world = world().await;
    world.set(&[entry("foreign", &["unix:path:/bin/false"])]);
    let refused = world.svids().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(!refused.message().contains("unix:"), "{refused}");
    let reasons = world.refusals();
    let Some(RefusalReason::NotAttested(AttestError::Refused(why))) = reasons.last() else {
        panic!("{reasons:?}");
    };
    assert!(why.contains(&own_uid()), "{why}");
}

#[tokio::test]
async fn tokens_are_of_the_identity_that_is_named_and_for_its_audiences_alone() {
    let world = world().await;
    let uid = own_uid();
    let bound = RegistrationEntry {
        jwt_audiences: vec!["ledger".to_owned()],
        ..entry("bound", &[&uid])
    };
    world.set(&[bound, entry("free", &[&uid])]);
    world.svids().await.unwrap();
    let all = world.tokens("", "ledger").await.unwrap();
    assert_eq!(all, [named("bound"), named("free")]);
    let some = world.tokens("", "pay").await.unwrap();
    assert_eq!(some, [named("free")], "those that may have such");
    let (bound, _) = named("bound");
    let one = world.tokens(&bound, "ledger").await.unwrap();
    assert_eq!(one, [named("bound")]);
    let refused = world.tokens(&bound, "pay").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(
        world.refusals().pop(),
        Some(RefusalReason::AudienceNotAllowed)
    );
    let other = "spiffe://mesh.local/ns/batch/sa/other";
    let refused = world.tokens(other, "ledger").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(world.refusals().pop(), Some(RefusalReason::NotEntitled));
}

#[tokio::test]
async fn sds_serves_each_identity_by_its_name_and_the_first_as_default() {
    let world = world().await;
    let uid = own_uid();
    world.set(&[entry("a", &[&uid]), entry("b", &[&uid])]);
    world.svids().await.unwrap();
    let (a, b) = (named("a").0, named("b").0);
    let chain_of = |answer: &DiscoveryResponse, n: usize| {
        let any = answer.resources[n].value.clone();
        let secret: envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret =
            prost::Message::decode(any.as_slice()).unwrap();
        format!("{:?}", secret.r#type)
    };
    let names = ["default", a.as_str(), b.as_str()];
    let answer = world.secrets(&names).await.unwrap();
    assert_eq!(chain_of(&answer, 0), chain_of(&answer, 1));
    assert_ne!(chain_of(&answer, 0), chain_of(&answer, 2));
    let refused = world.secrets(&["spiffe://mesh.local/ns/batch/sa/c"]).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
}

/// What the process holds was issued under an entry: it cannot go on by itself, whatever becomes of the entry.
#[tokio::test]
async fn the_terms_of_an_entry_hold_and_its_certificate_renews_nothing() {
    let world = world().await;
    let uid = own_uid();
    let bound = RegistrationEntry {
        x509_ttl: Some(Duration::from_secs(60)),
        dns_names: vec!["job.batch.svc".parse().unwrap()],
        ..entry("job", &[&uid])
    };
    world.set(&[bound]);
    let mut stream = world.svids().await.unwrap();
    let answer = stream.message().await.unwrap().unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&answer.svids[0].x509_svid).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    let names: Vec<_> = names
        .value
        .general_names
        .iter()
        .map(|n| n.to_string())
        .collect();
    assert_eq!(
        names,
        [
            "URI(spiffe://mesh.local/ns/batch/sa/job)",
            "DNSName(job.batch.svc)"
        ]
    );
    let validity = leaf.validity();
    let life = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert!(life <= 70, "{life}");
}

/// An entry that is for nobody here, and an agent that is known to the authority.
async fn refusing() -> World {
    let world = world().await;
    world.set(&[entry("a", &["unix:uid:4294967294"])]);
    let refused = world.svids().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    world
}

#[tokio::test]
async fn whom_an_agent_elsewhere_refuses_is_on_the_authoritys_record() {
    let world = refusing().await;
    let told = Arc::new(ToldEvents::new(Arc::new(SystemClock)));
    let caller = Caller::Process { pid: 4, uid: 5 };
    let stranger = AttestError::Refused("no registration entry is for it".to_owned());
    let refused = RefusedIdentity::new(caller, Some("x"), RefusalReason::NotAttested(stranger));
    told.refused(refused);
    let (issuer, held) = (world.issuer.clone(), world.credentials.clone());
    let telling = Arc::clone(&told);
    let task = tokio::spawn(async move {
        telling.tell(AGENT.parse().unwrap(), issuer, held).await;
    });
    while world.events.elsewhere.lock().unwrap().is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    task.abort();
    let seen = world.events.elsewhere.lock().unwrap().clone();
    let [(agent, refusal)] = seen.as_slice() else {
        panic!("{seen:?}");
    };
    assert_eq!(agent.as_str(), AGENT);
    let ToldRefusal::One {
        caller,
        requested,
        reason,
        text,
        ..
    } = refusal
    else {
        panic!("{refusal:?}");
    };
    assert_eq!(
        (&**caller, &**requested, &**reason),
        ("process 4 of user 5", "x", "not_attested")
    );
    assert!(text.contains("no registration entry"), "{text}");
}

#[tokio::test]
async fn a_member_tells_no_refusals_but_an_agent_its_own() {
    let world = refusing().await;
    let held = world.credentials.borrow().clone();
    let other = "spiffe://mesh.local/agent/other".parse().unwrap();
    let tell = async |agent: &SpiffeId| {
        let told = world.issuer.tell_refusals(agent, held.clone(), vec![], 1);
        told.await.is_ok()
    };
    let own = AGENT.parse().unwrap();
    assert!(tell(&own).await);
    assert!(!tell(&other).await, "in another's name");
    world.set(&[]);
    assert!(!tell(&own).await, "without entries it is no agent");
    let said = world.events.elsewhere.lock().unwrap().clone();
    assert_eq!(said, [(own, ToldRefusal::LeftOut(1))]);
    let refusals = world.refusals();
    let last = refusals.split_last_chunk::<2>().unwrap().1;
    assert_eq!(*last, [const { RefusalReason::NotEntitled }; 2]);
}
