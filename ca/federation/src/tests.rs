//! A publisher of bundles, and a follower that fetches from a real endpoint.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use reeve_core::{
    SpiffeId, SystemClock,
    model::{
        BundleEndpoint as At, BundleServing, EndpointProfile, FederatedDomain, FederationSettings,
        KeyPem, SecretName, TlsSecret,
    },
};
use reeve_svid::{Credentials, X509Svid};
use rustls_pki_types::PrivatePkcs8KeyDer;

use super::*;

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A trust domain with one authority.
pub(crate) struct Publisher {
    pub(crate) domain: TrustDomain,
    root: rustls_pki_types::CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Publisher {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![uri(&format!("spiffe://{name}"))];
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        Self {
            domain: domain(name),
            root,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn bundle(&self, sequence: u64) -> TrustBundle {
        TrustBundle::new(self.domain.clone(), vec![self.root.clone()], sequence).unwrap()
    }

    pub(crate) fn document(&self, sequence: u64, hint: Option<u64>) -> BundleDocument {
        BundleDocument {
            bundle: self.bundle(sequence),
            refresh_hint: hint.map(Duration::from_secs),
        }
    }

    pub(crate) fn endpoint_id(&self) -> SpiffeId {
        format!("spiffe://{}/control", self.domain).parse().unwrap()
    }

    pub(crate) fn svid(&self, id: &str) -> X509Svid {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(id)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let pkcs8 = key.serialize_der();
        let key = PrivatePkcs8KeyDer::from(pkcs8.as_slice()).into();
        X509Svid::parse(vec![leaf.der().clone()], key).unwrap()
    }
}

/// An endpoint that is running, and what it serves.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) bundle: watch::Sender<Arc<TrustBundle>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves bundle 1 of `publisher`; by `secret` if there is one, by the SVID of its endpoint's id otherwise.
pub(crate) async fn serve(publisher: &Publisher, secret: Option<TlsSecret>) -> Served {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let svid = Arc::new(publisher.svid(publisher.endpoint_id().as_str()));
    let bundle = watch::Sender::new(Arc::new(publisher.bundle(1)));
    let held = Credentials {
        svid,
        bundle: Arc::clone(&bundle.borrow()),
    };
    let federation = Federation {
        settings: FederationSettings {
            serving: Some(BundleServing {
                address,
                certificate: secret.as_ref().map(|secret| secret.name.clone()),
                refresh_hint: Duration::from_secs(1),
            }),
            ..FederationSettings::default()
        },
        certificate: secret.map(Arc::new),
        domains: Vec::new(),
    };
    let endpoint = BundleEndpoint {
        clock: Arc::new(SystemClock),
        wanted: Arc::new(move || Some(federation.clone())),
        bundle: bundle.subscribe(),
        credentials: watch::Sender::new(Some(Arc::new(held))).subscribe(),
    };
    let task = tokio::spawn(endpoint.run());
    while tokio::net::TcpStream::connect(address).await.is_err() {
        tokio::task::yield_now().await;
    }
    Served {
        address,
        bundle,
        task,
    }
}

/// A certificate of the web for 127.0.0.1, and its authority in PEM.
pub(crate) fn web() -> (TlsSecret, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "the web");
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    let key = KeyPair::generate().unwrap();
    let secret = TlsSecret {
        name: SecretName("reeve-system/web".to_owned()),
        certificate_chain: params.signed_by(&key, &issuer).unwrap().pem(),
        private_key: KeyPem::new(key.serialize_pem()),
        authorities: String::new(),
        revoked: String::new(),
    };
    (secret, authority)
}

#[derive(Debug, Default)]
struct Taken {
    federated: Mutex<Vec<Arc<Federated>>>,
    changes: Mutex<Vec<ChangeKind>>,
    refuses: AtomicBool,
}

impl FederationSink for Taken {
    fn install(&self, federated: Arc<Federated>) -> bool {
        self.federated.lock().unwrap().push(federated);
        !self.refuses.swap(false, Ordering::SeqCst)
    }

    fn changed(&self, change: &FederationChange) {
        self.changes.lock().unwrap().push(change.what.clone());
    }
}

#[tokio::test]
async fn a_follower_fetches_what_is_served_and_gives_it_up_when_it_is_withdrawn() {
    let other = Publisher::new("other.org");
    let served = serve(&other, None).await;
    let folder = tempfile::tempdir().unwrap();
    let federation = Federation {
        settings: FederationSettings {
            danger_allow_internal_endpoints: true,
            ..FederationSettings::default()
        },
        certificate: None,
        domains: vec![FederatedDomain {
            trust_domain: other.domain.clone(),
            endpoint: Some(At {
                url: format!("https://{}/", served.address),
                profile: EndpointProfile::Spiffe(other.endpoint_id()),
            }),
            bundle: Some(other.document(0, None).to_json().into()),
        }],
    };
    let wanted = Arc::new(Mutex::new(federation));
    let seen = Arc::clone(&wanted);
    let sink = Arc::new(Taken::default());
    sink.refuses.store(true, Ordering::SeqCst);
    let own = watch::Sender::new(Arc::new(Publisher::new("mesh.local").bundle(1)));
    let follower = Follower::open(FollowerOptions {
        clock: Arc::new(SystemClock),
        state: folder.path().to_owned(),
        wanted: Arc::new(move || Some(seen.lock().unwrap().clone())),
        own: own.subscribe(),
        sink: Arc::clone(&sink) as _,
    });
    let mut status = follower.status();
    assert_eq!(
        sink.federated.lock().unwrap().len(),
        2,
        "refused, and tried again"
    );
    let running = tokio::spawn(follower.run());
    let has = |sequence: u64| {
        move |all: &Vec<DomainStatus>| all.iter().any(|d| d.sequence == Some(sequence))
    };
    status.wait_for(has(1)).await.unwrap();
    served.bundle.send_replace(Arc::new(other.bundle(2)));
    status.wait_for(has(2)).await.unwrap();
    let newest = sink.federated.lock().unwrap().last().cloned().unwrap();
    assert_eq!(newest.get(&other.domain).unwrap().sequence(), 2);
    wanted.lock().unwrap().domains.clear();
    status.wait_for(Vec::is_empty).await.unwrap();
    running.abort();
    assert!(sink.federated.lock().unwrap().last().unwrap().is_empty());
    assert_eq!(
        *sink.changes.lock().unwrap().last().unwrap(),
        ChangeKind::Withdrawn
    );
    assert!(kept::read(folder.path()).is_empty());
}
