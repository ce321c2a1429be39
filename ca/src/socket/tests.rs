use std::{path::PathBuf, sync::Mutex};

use envoy_types::pb::{
    envoy::{
        config::core::v3::data_source::Specifier,
        extensions::transport_sockets::tls::v3::{Secret, secret::Type},
        service::{
            discovery::v3::{DiscoveryRequest, DiscoveryResponse},
            secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
        },
    },
    google::rpc,
};
use hyper_util::rt::TokioIo;
use prost::Message;
use reeve_core::{Clock, SystemClock};
use reeve_svid::{Credentials, X509Svid, certificates_from_pem};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Streaming,
    transport::{Channel, Endpoint},
};

use super::*;
use crate::{
    AttestError, Attestation, Attestor, CaOptions, CertificateAuthority, Evidence, IssuedIdentity,
    JwtSource, LocalIssuer, OneIdentity, Store,
    proto::workload::{
        X509BundlesRequest, X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
};

const ID: &str = "spiffe://mesh.local/ns/default/sa/reviews";
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

#[derive(Debug)]
struct Fixed(Result<(), AttestError>);

#[tonic::async_trait]
impl Attestor for Fixed {
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attestation>, AttestError> {
        let Evidence::Process { peer, .. } = evidence else {
            return Ok(None);
        };
        assert_eq!(peer.pid, std::process::id());
        self.0.clone().map(|()| Some(Attestation::default()))
    }
}

#[derive(Debug, Default)]
struct Seen(Mutex<Vec<RefusedIdentity>>);

impl IdentityEvents for Seen {
    fn revoked(&self, _event: &crate::RevocationEvent) {}

    fn rotated(&self, _event: &crate::RotationEvent) {}

    fn refused(&self, event: RefusedIdentity) {
        self.0.lock().unwrap().push(event);
    }

    fn issued(&self, _event: IssuedIdentity) {}
}

struct Setup {
    ca: Arc<CertificateAuthority>,
    credentials: watch::Sender<Option<Arc<Credentials>>>,
    events: Arc<Seen>,
    path: PathBuf,
    server: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn setup(attest: Result<(), AttestError>) -> Setup {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let options = CaOptions {
        trust_domain: "mesh.local".parse().unwrap(),
        root_ttl: Duration::from_secs(86400),
        intermediate_ttl: Duration::from_secs(86400),
        svid_ttl: Duration::from_secs(3600),
        consumer_wait: Duration::ZERO,
        store: Store::DangerMemory,
        vault: None,
        upstream: None,
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (credentials, watched) = watch::channel(None);
    let events = Arc::new(Seen::default());
    let ca = CertificateAuthority::open(options, Arc::clone(&clock)).unwrap();
    let issuer = Arc::new(LocalIssuer::new(Arc::clone(&ca)));
    let jwt = JwtSource::new(ID.parse().unwrap(), issuer, watched, Arc::clone(&clock));
    let source = OneIdentity::new(Arc::new(jwt), Arc::new(Fixed(attest)));
    let served = serve_agent_socket(listener, Arc::new(source), Arc::clone(&events) as _, clock);
    Setup {
        ca,
        credentials,
        events,
        path,
        server: tokio::spawn(async move { served.await.unwrap() }),
        _folder: folder,
    }
}

impl Setup {
    /// Installs a new certificate and returns its serial number.
    fn rotate(&self) -> String {
        let svid = Arc::new(self.ca.issue_self(&ID.parse().unwrap()).unwrap());
        let bundle = Arc::clone(&self.ca.bundle().borrow());
        let serial = svid.serial().to_owned();
        self.credentials
            .send_replace(Some(Arc::new(Credentials { svid, bundle })));
        serial
    }

    async fn channel(&self) -> Channel {
        let path = self.path.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://agent");
        endpoint.connect_with_connector(connector).await.unwrap()
    }

    async fn workload_api(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.channel().await)
    }

    fn refused(&self) -> RefusedIdentity {
        self.events.0.lock().unwrap().pop().unwrap()
    }
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

/// Cuts concatenated certificates apart.
fn certificates(mut der: &[u8]) -> Vec<CertificateDer<'static>> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let (rest, _) = x509_parser::parse_x509_certificate(der).unwrap();
        found.push(CertificateDer::from(der[..der.len() - rest.len()].to_vec()));
        der = rest;
    }
    found
}

#[tokio::test]
async fn the_workload_api_serves_the_svid_and_pushes_each_rotation() {
    let setup = setup(Ok(()));
    let mut client = setup.workload_api().await;
    let waiting = client
        .fetch_x509svid(with_header(X509svidRequest {}))
        .await
        .unwrap();
    let mut stream = waiting.into_inner();
    for _ in 0..3 {
        let serial = setup.rotate();
        let answer = stream.message().await.unwrap().unwrap();
        let [svid] = answer.svids.as_slice() else {
            panic!("one SVID")
        };
        assert_eq!(svid.spiffe_id, ID);
        let key = PrivatePkcs8KeyDer::from(svid.x509_svid_key.as_slice());
        let parsed = X509Svid::parse(certificates(&svid.x509_svid), key.into()).unwrap();
        assert_eq!(parsed.serial(), serial);
        let bundle = Arc::clone(&setup.ca.bundle().borrow());
        assert_eq!(certificates(&svid.bundle), bundle.authorities());
    }
}

#[tokio::test]
async fn the_workload_api_serves_bundles() {
    let setup = setup(Ok(()));
    setup.rotate();
    let mut client = setup.workload_api().await;
    let answer = client
        .fetch_x509_bundles(with_header(X509BundlesRequest {}))
        .await
        .unwrap();
    let answer = answer.into_inner().message().await.unwrap().unwrap();
    let bundle = Arc::clone(&setup.ca.bundle().borrow());
    assert_eq!(answer.bundles.len(), 1);
    assert_eq!(
        certificates(&answer.bundles["spiffe://mesh.local"]),
        bundle.authorities()
    );
}

#[tokio::test]
async fn the_workload_api_refuses_calls_without_its_header() {
    let setup = setup(Ok(()));
    setup.rotate();
    let mut client = setup.workload_api().await;
    let bare = client.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    assert_eq!(bare.code(), Code::InvalidArgument);
    assert_eq!(setup.refused().reason, RefusalReason::NoSecurityHeader);
    let bare = client
        .fetch_x509_bundles(X509BundlesRequest {})
        .await
        .unwrap_err();
    assert_eq!(bare.code(), Code::InvalidArgument);
    let mut wrong = Request::new(X509svidRequest {});
    wrong
        .metadata_mut()
        .insert("workload.spiffe.io", "false".parse().unwrap());
    assert_eq!(
        client.fetch_x509svid(wrong).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_stranger_gets_nothing_by_any_door_and_it_is_recorded() {
    let stranger = AttestError::Refused("not the application".to_owned());
    let setup = setup(Err(stranger.clone()));
    setup.rotate();
    let mut client = setup.workload_api().await;
    let svid = client
        .fetch_x509svid(with_header(X509svidRequest {}))
        .await
        .unwrap_err();
    let bundles = client
        .fetch_x509_bundles(with_header(X509BundlesRequest {}))
        .await
        .unwrap_err();
    let mut sds = SecretDiscoveryServiceClient::new(setup.channel().await);
    let one = sds
        .fetch_secrets(DiscoveryRequest::default())
        .await
        .unwrap_err();
    let (_send, receive) = mpsc::channel(1);
    let stream = sds
        .stream_secrets(ReceiverStream::new(receive))
        .await
        .unwrap_err();
    for status in [svid, bundles, one, stream] {
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(
            !status.message().contains("application"),
            "told no more than it knew"
        );
        let refused = setup.refused();
        assert_eq!(refused.reason, RefusalReason::NotAttested(stranger.clone()));
        assert!(
            refused
                .caller
                .to_string()
                .contains(&std::process::id().to_string())
        );
    }
}

mod federated;
mod jwt;

struct Stream {
    send: mpsc::Sender<DiscoveryRequest>,
    answers: Streaming<DiscoveryResponse>,
}

impl Stream {
    async fn open(setup: &Setup) -> Self {
        let mut client = SecretDiscoveryServiceClient::new(setup.channel().await);
        let (send, receive) = mpsc::channel(4);
        let answers = client
            .stream_secrets(ReceiverStream::new(receive))
            .await
            .unwrap();
        let answers = answers.into_inner();
        Self { send, answers }
    }

    async fn ask(&self, names: &[&str], nonce: &str, error: Option<&str>) {
        let request = DiscoveryRequest {
            resource_names: names.iter().map(|n| (*n).to_owned()).collect(),
            type_url: SECRET.to_owned(),
            response_nonce: nonce.to_owned(),
            error_detail: error.map(|message| rpc::Status {
                message: message.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.send.send(request).await.unwrap();
    }

    async fn answer(&mut self) -> (DiscoveryResponse, Vec<Secret>) {
        let answer = self.answers.message().await.unwrap().unwrap();
        let read = |any: &envoy_types::pb::google::protobuf::Any| {
            assert_eq!(any.type_url, SECRET);
            Secret::decode(any.value.as_slice()).unwrap()
        };
        let secrets = answer.resources.iter().map(read).collect();
        (answer, secrets)
    }
}

fn inline(source: Option<envoy_types::pb::envoy::config::core::v3::DataSource>) -> Vec<u8> {
    let Specifier::InlineBytes(bytes) = source.unwrap().specifier.unwrap() else {
        panic!("not inline");
    };
    bytes
}

#[tokio::test]
async fn sds_serves_the_certificate_and_the_validation_context() {
    let setup = setup(Ok(()));
    let serial = setup.rotate();
    let mut stream = Stream::open(&setup).await;
    stream
        .ask(&["default", "ROOTCA", ID, "spiffe://mesh.local"], "", None)
        .await;
    let (answer, secrets) = stream.answer().await;
    assert_eq!(answer.type_url, SECRET);
    let names: Vec<_> = secrets.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["default", "ROOTCA", ID, "spiffe://mesh.local"]);
    for secret in secrets {
        match secret.r#type.unwrap() {
            Type::TlsCertificate(tls) => {
                let chain = certificates_from_pem(&inline(tls.certificate_chain)).unwrap();
                let key = PrivatePkcs8KeyDer::from_pem_slice(&inline(tls.private_key)).unwrap();
                let svid = X509Svid::parse(chain, key.into()).unwrap();
                assert_eq!(svid.serial(), serial);
            }
            Type::ValidationContext(context) => {
                let roots = certificates_from_pem(&inline(context.trusted_ca)).unwrap();
                assert_eq!(roots, setup.ca.bundle().borrow().authorities());
            }
            Type::SessionTicketKeys(_) | Type::GenericSecret(_) => panic!("not asked for"),
        }
    }
}

#[tokio::test]
async fn sds_pushes_on_rotation_and_is_quiet_after_ack_and_nack() {
    let setup = setup(Ok(()));
    setup.rotate();
    let mut stream = Stream::open(&setup).await;
    stream.ask(&["default"], "", None).await;
    let (first, _) = stream.answer().await;
    stream.ask(&["default"], &first.nonce, None).await;
    setup.rotate();
    let (second, _) = stream.answer().await;
    assert_ne!(first.version_info, second.version_info);
    assert_ne!(first.nonce, second.nonce);
    stream
        .ask(&["default"], &second.nonce, Some("cannot be used"))
        .await;
    setup.rotate();
    let (third, secrets) = stream.answer().await;
    assert_ne!(
        second.version_info, third.version_info,
        "the NACK was not answered by the same again"
    );
    assert_eq!(secrets.len(), 1);
    stream.ask(&["default", "ROOTCA"], &third.nonce, None).await;
    let (_, secrets) = stream.answer().await;
    assert_eq!(secrets.len(), 2, "other names are answered at once");
}

#[tokio::test]
async fn sds_waits_for_the_first_certificate() {
    let setup = setup(Ok(()));
    let mut stream = Stream::open(&setup).await;
    stream.ask(&["default"], "", None).await;
    let serial = setup.rotate();
    let (answer, _) = stream.answer().await;
    assert!(answer.version_info.starts_with(&serial));
}

#[tokio::test]
async fn sds_refuses_anothers_identity_and_records_it() {
    let setup = setup(Ok(()));
    setup.rotate();
    for name in [
        "spiffe://mesh.local/ns/default/sa/admin",
        "spiffe://other.local",
        "all",
        "",
    ] {
        let mut stream = Stream::open(&setup).await;
        stream.ask(&["default", name], "", None).await;
        let status = stream.answers.message().await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{name}");
        let refused = setup.refused();
        assert_eq!(refused.requested.as_deref(), Some(name));
        assert_eq!(refused.reason, RefusalReason::NotEntitled);
    }
}

#[tokio::test]
async fn sds_fetches_once_and_refuses_what_it_does_not_have() {
    let setup = setup(Ok(()));
    setup.rotate();
    let mut client = SecretDiscoveryServiceClient::new(setup.channel().await);
    let all = client
        .fetch_secrets(DiscoveryRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(all.resources.len(), 2, "no name means all");
    let other = DiscoveryRequest {
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned(),
        ..Default::default()
    };
    let status = client.fetch_secrets(other).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let many = DiscoveryRequest {
        resource_names: vec!["default".to_owned(); 65],
        ..Default::default()
    };
    assert_eq!(
        client.fetch_secrets(many).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}
