//! What the agent's socket serves of other trust domains.

use envoy_types::pb::envoy::{
    extensions::transport_sockets::tls::v3::SpiffeCertValidatorConfig,
    service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
};
use reeve_svid::{Federated, TrustBundle};

use super::*;
use crate::proto::workload::JwtBundlesRequest;

const THEIRS: &str = "spiffe://other.org";

fn authority(domain: &str) -> Arc<CertificateAuthority> {
    let options = CaOptions {
        trust_domain: domain.parse().unwrap(),
        root_ttl: Duration::from_secs(86400),
        intermediate_ttl: Duration::from_secs(86400),
        svid_ttl: Duration::from_secs(3600),
        consumer_wait: Duration::ZERO,
        store: Store::DangerMemory,
        vault: None,
        upstream: None,
    };
    CertificateAuthority::open(options, Arc::new(SystemClock)).unwrap()
}

/// An agent of a mesh that is federated with another, and that other's bundle.
fn federated() -> (Setup, Arc<TrustBundle>) {
    let setup = setup(Ok(()));
    let other = Arc::clone(&authority("other.org").bundle().borrow());
    let federated = Federated::new([Arc::clone(&other)]).unwrap();
    setup.ca.federate(Arc::new(federated)).unwrap();
    setup.rotate();
    (setup, other)
}

/// The trust domains that a context admits, each with its authorities.
fn admitted(secret: Secret) -> Vec<(String, Vec<CertificateDer<'static>>)> {
    let Some(Type::ValidationContext(context)) = secret.r#type else {
        panic!("no validation context");
    };
    assert!(context.trusted_ca.is_none(), "the validator alone judges");
    let validator = context.custom_validator_config.unwrap();
    assert_eq!(validator.name, "envoy.tls.cert_validator.spiffe");
    let config = validator.typed_config.unwrap();
    let config = SpiffeCertValidatorConfig::decode(config.value.as_slice()).unwrap();
    let each = config.trust_domains.into_iter().map(|domain| {
        let roots = certificates_from_pem(&inline(domain.trust_bundle)).unwrap();
        (domain.name, roots)
    });
    each.collect()
}

#[tokio::test]
async fn the_workload_api_serves_the_bundles_of_other_trust_domains() {
    let (setup, other) = federated();
    let mut client = setup.workload_api().await;
    let svids = client.fetch_x509svid(with_header(X509svidRequest {})).await;
    let svids = svids
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(svids.federated_bundles.len(), 1, "ours is with the SVID");
    assert_eq!(
        certificates(&svids.federated_bundles[THEIRS]),
        other.authorities()
    );
    let asked = with_header(X509BundlesRequest {});
    let bundles = client.fetch_x509_bundles(asked).await.unwrap();
    let bundles = bundles
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap()
        .bundles;
    assert_eq!(bundles.len(), 2);
    assert_eq!(certificates(&bundles[THEIRS]), other.authorities());
    let asked = with_header(JwtBundlesRequest {});
    let keys = client.fetch_jwt_bundles(asked).await.unwrap();
    let keys = keys.into_inner().message().await.unwrap().unwrap().bundles;
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[THEIRS], other.jwks().into_bytes());
}

#[tokio::test]
async fn sds_has_each_trust_domain_judged_by_its_own_bundle_until_it_is_withdrawn() {
    let (setup, other) = federated();
    let ours = setup.ca.bundle().borrow().authorities().to_vec();
    let theirs = other.authorities().to_vec();
    let mut stream = Stream::open(&setup).await;
    stream.ask(&["ALL", THEIRS], "", None).await;
    let (first, secrets) = stream.answer().await;
    let mut secrets = secrets.into_iter();
    let both = [
        ("mesh.local".to_owned(), ours.clone()),
        ("other.org".to_owned(), theirs.clone()),
    ];
    assert_eq!(admitted(secrets.next().unwrap()), both);
    let one = [("other.org".to_owned(), theirs)];
    assert_eq!(admitted(secrets.next().unwrap()), one);
    stream.ask(&["ALL", THEIRS], &first.nonce, None).await;
    setup.ca.federate(Arc::default()).unwrap();
    setup.rotate();
    let (_, secrets) = stream.answer().await;
    let [all, one] = <[Secret; 2]>::try_from(secrets).unwrap();
    assert_eq!(admitted(all), [("mesh.local".to_owned(), ours.clone())]);
    let nobody = [("withdrawn.invalid".to_owned(), ours)];
    assert_eq!(admitted(one), nobody, "a context that admits nobody");
    // Who comes later does not get it at all.
    let mut late = Stream::open(&setup).await;
    late.ask(&[THEIRS], "", None).await;
    let status = late.answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

struct Delta {
    send: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
}

impl Delta {
    async fn open(setup: &Setup) -> Self {
        let mut client = SecretDiscoveryServiceClient::new(setup.channel().await);
        let (send, receive) = mpsc::channel(4);
        let answers = client.delta_secrets(ReceiverStream::new(receive)).await;
        let answers = answers.unwrap().into_inner();
        Self { send, answers }
    }

    async fn ask(&self, change: impl FnOnce(&mut DeltaDiscoveryRequest)) {
        let mut request = DeltaDiscoveryRequest {
            type_url: SECRET.to_owned(),
            ..Default::default()
        };
        change(&mut request);
        self.send.send(request).await.unwrap();
    }

    /// What came: names, and the nonce.
    async fn names(&mut self) -> (Vec<String>, DeltaDiscoveryResponse) {
        let answer = self.answers.message().await.unwrap().unwrap();
        let names = answer.resources.iter().map(|r| r.name.clone()).collect();
        (names, answer)
    }
}

fn named(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn incremental_sds_sends_what_has_changed_and_nothing_else() {
    let (setup, _) = federated();
    let mut delta = Delta::open(&setup).await;
    delta
        .ask(|r| r.resource_names_subscribe = named(&["default", "ALL", THEIRS]))
        .await;
    let (names, first) = delta.names().await;
    assert_eq!(names, ["ALL", "default", THEIRS]);
    delta.ask(|r| r.response_nonce = first.nonce.clone()).await;
    setup.rotate();
    let (names, second) = delta.names().await;
    assert_eq!(names, ["default"], "the bundles are the same");
    let refused = rpc::Status {
        message: "cannot be used".to_owned(),
        ..Default::default()
    };
    delta
        .ask(|r| {
            r.response_nonce = second.nonce.clone();
            r.error_detail = Some(refused);
        })
        .await;
    delta
        .ask(|r| r.resource_names_unsubscribe = named(&["default", "ALL"]))
        .await;
    delta
        .ask(|r| r.resource_names_subscribe = named(&["ROOTCA"]))
        .await;
    let (names, _) = delta.names().await;
    assert_eq!(
        names,
        ["ROOTCA"],
        "and the NACK was not answered by the same again"
    );
    setup.ca.federate(Arc::default()).unwrap();
    setup.rotate();
    let (names, last) = delta.names().await;
    assert_eq!(names, ["ROOTCA", THEIRS]);
    let nobody = Secret::decode(
        last.resources[1]
            .resource
            .as_ref()
            .unwrap()
            .value
            .as_slice(),
    );
    assert_eq!(admitted(nobody.unwrap())[0].0, "withdrawn.invalid");
}

#[tokio::test]
async fn incremental_sds_goes_on_where_a_stream_broke_and_refuses_others_names() {
    let (setup, _) = federated();
    let mut delta = Delta::open(&setup).await;
    delta.ask(|_| {}).await;
    let (names, first) = delta.names().await;
    assert_eq!(names, ["ROOTCA", "default"], "no name means our own two");
    let version = |n: usize| first.resources[n].version.clone();
    let mut again = Delta::open(&setup).await;
    again
        .ask(|r| {
            r.resource_names_subscribe = named(&["ROOTCA", "default"]);
            r.initial_resource_versions = [("ROOTCA".to_owned(), version(0))].into();
        })
        .await;
    let (names, _) = again.names().await;
    assert_eq!(names, ["default"]);
    for name in [
        "spiffe://mesh.local/ns/default/sa/admin",
        "spiffe://third.net",
        "",
    ] {
        let mut delta = Delta::open(&setup).await;
        delta
            .ask(|r| r.resource_names_subscribe = named(&[name]))
            .await;
        let status = delta.answers.message().await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{name}");
        assert_eq!(setup.refused().requested.as_deref(), Some(name));
    }
    let mut delta = Delta::open(&setup).await;
    delta
        .ask(|r| r.resource_names_subscribe = vec!["default".to_owned(); 65])
        .await;
    let status = delta.answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_token_of_another_trust_domain_is_validated_by_its_own_keys_alone() {
    let setup = setup(Ok(()));
    let (other, impostor) = (authority("other.org"), authority("other.org"));
    let federated = Federated::new([Arc::clone(&other.bundle().borrow())]).unwrap();
    setup.ca.federate(Arc::new(federated)).unwrap();
    setup.rotate();
    let id: reeve_core::SpiffeId = "spiffe://other.org/ns/pay/sa/ledger".parse().unwrap();
    let caller = crate::Attested::by_itself(id.clone());
    let token = |ca: &CertificateAuthority| {
        let issued = ca.issue_jwt(&caller, &["ledger".to_owned()]).unwrap();
        issued.token
    };
    let validated = jwt::validate(&setup, "ledger", &token(&other)).await;
    assert_eq!(validated.unwrap(), id.as_str());
    let refused = jwt::validate(&setup, "ledger", &token(&impostor)).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    setup.ca.federate(Arc::default()).unwrap();
    setup.rotate();
    let withdrawn = jwt::validate(&setup, "ledger", &token(&other)).await;
    assert_eq!(withdrawn.unwrap_err().code(), Code::InvalidArgument);
}
