//! Whole paths from agent to authority: a remote agent joins over TLS with a token, renews by its certificate, a local one is
//! known by its process.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use reeve_core::{Clock, SystemClock};
use reeve_svid::CredentialsWatch;
use tokio::net::{TcpListener, UnixListener};
use tonic::transport::Server;

use crate::{
    Agent, AgentHandle, AgentOptions, AttestError, Attestation, Attestor, CaOptions,
    CertificateAuthority, Evidence, GrpcIssuer, Holding, IssuerChannel, IssuerClient,
    IssuerService, JoinTokens, LocalIssuer, LogEvents, MeshAddress, Report, Store, tls_incoming,
    unix_incoming,
};

const CONTROL: &str = "spiffe://mesh.local/ns/reeve-system/sa/control";
const AGENT: &str = "spiffe://mesh.local/ns/default/sa/remote";

#[derive(Debug)]
struct Everybody;

#[tonic::async_trait]
impl Attestor for Everybody {
    async fn attest(&self, _: Evidence<'_>) -> Result<Option<Attestation>, AttestError> {
        Ok(Some(Attestation {
            identities: vec![AGENT.parse().unwrap()],
            ..Attestation::default()
        }))
    }
}

struct Mesh {
    ca: Arc<CertificateAuthority>,
    tokens: Arc<JoinTokens>,
    clock: Arc<dyn Clock>,
    address: std::net::SocketAddr,
    control: MeshAddress,
    socket: std::path::PathBuf,
    _own: AgentHandle,
    _folder: tempfile::TempDir,
}

/// A mesh process with certificates of three seconds.
async fn mesh() -> Mesh {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let options = CaOptions {
        trust_domain: "mesh.local".parse().unwrap(),
        root_ttl: Duration::from_secs(86400),
        intermediate_ttl: Duration::from_secs(86400),
        svid_ttl: Duration::from_secs(3),
        consumer_wait: Duration::ZERO,
        store: Store::DangerMemory,
        vault: None,
        upstream: None,
    };
    let ca = CertificateAuthority::open(options, Arc::clone(&clock)).unwrap();
    let tokens = Arc::new(JoinTokens::new(Arc::clone(&clock)));
    let service = || {
        let (ca, tokens, clock) = (Arc::clone(&ca), Arc::clone(&tokens), Arc::clone(&clock));
        let (attestor, events) = (Arc::new(Everybody), Arc::new(LogEvents));
        IssuerService::server(ca, attestor, tokens, Arc::default(), events, clock)
    };
    let id = CONTROL.parse().unwrap();
    let options = AgentOptions {
        id,
        join_token: None,
        instance: "reviews-v1-0".parse().unwrap(),
        installed: None,
    };
    let local = Arc::new(LocalIssuer::new(Arc::clone(&ca)));
    let (mut credentials, own) = Agent::start(options, local, Arc::clone(&clock));
    credentials.wait_for(Option::is_some).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tls_incoming(listener, credentials.clone(), Arc::clone(&clock));
    tokio::spawn(
        Server::builder()
            .add_service(service())
            .serve_with_incoming(incoming),
    );
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control.sock");
    let listener = UnixListener::bind(&control).unwrap();
    let incoming = tls_incoming(listener, credentials, Arc::clone(&clock));
    tokio::spawn(
        Server::builder()
            .add_service(service())
            .serve_with_incoming(incoming),
    );
    let socket = folder.path().join("mesh.sock");
    let incoming = unix_incoming(UnixListener::bind(&socket).unwrap());
    tokio::spawn(
        Server::builder()
            .add_service(service())
            .serve_with_incoming(incoming),
    );
    Mesh {
        ca,
        tokens,
        clock,
        address,
        control: MeshAddress::Unix(control),
        socket,
        _own: own,
        _folder: folder,
    }
}

impl Mesh {
    fn agent(
        &self,
        channel: IssuerChannel,
        token: Option<&str>,
    ) -> (CredentialsWatch, AgentHandle) {
        let issuer = GrpcIssuer::new(channel, "mesh.local".parse().unwrap());
        let options = AgentOptions {
            id: AGENT.parse().unwrap(),
            join_token: token.map(|token| token.to_owned().into()),
            instance: "reviews-v1-0".parse().unwrap(),
            installed: None,
        };
        Agent::start(options, Arc::new(issuer), Arc::clone(&self.clock))
    }

    fn tls(&self, expected: &str) -> IssuerChannel {
        self.tls_at(self.address.into(), expected)
    }

    fn tls_at(&self, address: MeshAddress, expected: &str) -> IssuerChannel {
        let bundle = Arc::clone(&self.ca.bundle().borrow());
        IssuerChannel::tls(
            address,
            expected.parse().unwrap(),
            bundle,
            Arc::clone(&self.clock),
        )
    }
}

async fn rotations(handle: &AgentHandle, at_least: u64) {
    let mut status = handle.watch_status();
    let rotated = status.wait_for(|status| status.rotations >= at_least);
    let within = tokio::time::timeout(Duration::from_secs(20), rotated);
    let _status = within.await.expect("it rotates").unwrap();
}

#[tokio::test]
async fn a_remote_agent_joins_by_token_and_renews_by_its_certificate() {
    let mesh = mesh().await;
    let token = mesh
        .tokens
        .create(AGENT.parse().unwrap(), Duration::from_secs(60))
        .unwrap();
    let (watch, handle) = mesh.agent(mesh.tls(CONTROL), Some(&token));
    rotations(&handle, 2).await;
    assert_eq!(watch.borrow().as_ref().unwrap().svid.id().as_str(), AGENT);
}

#[tokio::test]
async fn an_agent_without_a_network_joins_over_the_control_socket() {
    let mesh = mesh().await;
    let token = mesh
        .tokens
        .create(AGENT.parse().unwrap(), Duration::from_secs(60))
        .unwrap();
    let channel = mesh.tls_at(mesh.control.clone(), CONTROL);
    let (watch, handle) = mesh.agent(channel, Some(&token));
    rotations(&handle, 1).await;
    assert_eq!(watch.borrow().as_ref().unwrap().svid.id().as_str(), AGENT);
}

#[tokio::test]
async fn a_process_at_the_control_socket_is_nobody_without_token_or_certificate() {
    let mesh = mesh().await;
    let channel = mesh.tls_at(mesh.control.clone(), CONTROL);
    let (watch, handle) = mesh.agent(channel, None);
    let mut status = handle.watch_status();
    let refused = status.wait_for(|status| status.failures > 0).await;
    let error = refused.unwrap().last_error.clone().unwrap();
    assert!(error.contains("no identity for this caller"), "{error}");
    assert!(watch.borrow().is_none());
}

#[tokio::test]
async fn a_token_that_is_made_up_joins_nobody() {
    let mesh = mesh().await;
    let (watch, handle) = mesh.agent(mesh.tls(CONTROL), Some("made.up"));
    let mut status = handle.watch_status();
    let status = status
        .wait_for(|status| status.failures > 1)
        .await
        .unwrap()
        .clone();
    assert!(
        status
            .last_error
            .unwrap()
            .contains("no identity for this caller")
    );
    assert!(watch.borrow().is_none());
}

#[tokio::test]
async fn a_server_that_is_not_the_mesh_process_is_not_told_the_token() {
    let mesh = mesh().await;
    let token = mesh
        .tokens
        .create(AGENT.parse().unwrap(), Duration::from_secs(60))
        .unwrap();
    let (_, handle) = mesh.agent(mesh.tls(AGENT), Some(&token));
    let mut status = handle.watch_status();
    let status = status
        .wait_for(|status| status.failures > 0)
        .await
        .unwrap()
        .clone();
    let error = status.last_error.unwrap();
    assert!(error.contains("which is not expected here"), "{error}");
    assert!(
        mesh.tokens.redeem(&token, &AGENT.parse().unwrap()).is_ok(),
        "still unspent"
    );
}

#[tokio::test]
async fn a_local_agent_is_known_by_its_process() {
    let mesh = mesh().await;
    let (watch, handle) = mesh.agent(IssuerChannel::unix(mesh.socket.clone()), None);
    rotations(&handle, 1).await;
    assert_eq!(watch.borrow().as_ref().unwrap().svid.id().as_str(), AGENT);
}

/// Its stream ends at both ends, and with it the connection.
#[tokio::test]
async fn a_member_that_stops_listening_is_away() {
    let mesh = mesh().await;
    let channel = IssuerChannel::unix(mesh.socket.clone());
    let issuer = GrpcIssuer::new(channel, "mesh.local".parse().unwrap());
    let report = Report {
        id: AGENT.parse().unwrap(),
        instance: "away-0".parse().unwrap(),
        holding: Holding {
            not_after: mesh.clock.now().plus(Duration::from_secs(3600)),
            ..Holding::default()
        },
        leaving: false,
    };
    let reports = stream::once(async { report }).chain(stream::pending());
    let mut told = issuer.follow(None, reports.boxed()).await.unwrap();
    assert!(told.next().await.unwrap().is_ok());
    let follows = || {
        let members = mesh.ca.members();
        let away = members
            .iter()
            .find(|m| m.name.instance.as_str() == "away-0");
        away.expect("it is a member").connected
    };
    assert!(follows());
    drop(told);
    let ended = async {
        while follows() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let within = tokio::time::timeout(Duration::from_secs(20), ended);
    within.await.expect("its stream ends");
}
