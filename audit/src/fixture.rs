//! What the tests of this crate share: sample entries, a signer, a log with something in it.

use std::{path::Path, sync::Arc, time::Duration};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use reeve_core::{
    Clock, InstanceName, SpiffeId, UnixTime,
    clock::ManualClock,
    decision::{
        AccessRequest, Action, Decision, Effect, HttpContext, Principal, Reason, RequestContext,
        ResourceRef,
    },
    model::{Generation, MtlsMode, PathNormalization},
};

use crate::{
    AuditLog, AuthenticatedBy, BatchKey, BatchSigner, BatchVerifier, DecisionRecord, Direction,
    LogOptions, LookedFor, ShipOptions, SigningIdentity, Wal, WalOptions, batch::BoxError,
    seal::SealKey, ship_local,
};

pub(crate) const ID: &str = "spiffe://mesh.local/ns/default/sa/reviews";
pub(crate) const START: UnixTime = UnixTime::from_secs(1_700_000_000);

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(START))
}

pub(crate) fn name(text: &str) -> InstanceName {
    text.parse().unwrap()
}

pub(crate) fn decision(path: &str, effect: Effect) -> DecisionRecord {
    let reason = match effect {
        Effect::Allow => Reason::Permitted,
        Effect::Deny => Reason::NoPermit,
    };
    DecisionRecord {
        request: AccessRequest {
            principal: Principal::Workload(ID.parse().unwrap()),
            user: None,
            action: Action::Get,
            resource: ResourceRef {
                workload: Some("spiffe://mesh.local/ns/default/sa/ratings".parse().unwrap()),
                namespace: "default".parse().unwrap(),
                services: vec!["ratings.default.svc.cluster.local".parse().unwrap()],
                address: None,
            },
            context: RequestContext {
                destination_ip: None,
                remote_ip: None,
                sni: None,
                source_ip: [127, 77, 3, 1].into(),
                port: 9080,
                mtls: true,
                time: START,
                http: Some(HttpContext {
                    method: "GET".into(),
                    host: "ratings".into(),
                    path: path.into(),
                    grpc: None,
                    headers: [("end-user".into(), ["jason".into()].into())].into(),
                    query: Default::default(),
                }),
            },
        },
        decision: Decision {
            policies: vec!["default/ratings".parse().unwrap()],
            ..Decision::without_policy(effect, reason)
        },
        authenticated_by: AuthenticatedBy::Mtls,
        direction: Direction::Inbound,
        generation: Some(Generation(7)),
        policy_hash: "ab12".into(),
        projection_hash: "cd34".into(),
        looked_for: LookedFor::new(["end-user"], [], false),
        redacted: Default::default(),
        mtls_mode: MtlsMode::Strict,
        strict_would_refuse: false,
        path_normalization: PathNormalization::RefuseAmbiguous,
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
        request_id: Some("r-1".into()),
        transformations: vec![],
        cost_us: 42,
    }
}

/// Signs with Ed25519; its "certificate" is the SPIFFE ID, a line end and the public key.
#[derive(Debug)]
pub(crate) struct TestSigner(Arc<TestKey>);

pub(crate) struct TestKey(Ed25519KeyPair);

impl std::fmt::Debug for TestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TestKey")
    }
}

impl TestSigner {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Arc::new(TestKey(Ed25519KeyPair::generate().unwrap()))))
    }
}

impl BatchKey for TestKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

impl BatchSigner for TestSigner {
    fn identity(&self) -> Option<SigningIdentity> {
        let mut certificate = format!("{ID}\n").into_bytes();
        certificate.extend_from_slice(self.0.0.public_key().as_ref());
        Some(SigningIdentity {
            chain_der: vec![certificate, b"an intermediate".to_vec()],
            key: self.0.clone(),
        })
    }
}

#[derive(Debug)]
pub(crate) struct TestVerifier;

impl BatchVerifier for TestVerifier {
    fn verify(
        &self,
        chain_der: &[Vec<u8>],
        message: &[u8],
        signature: &[u8],
        _at: UnixTime,
    ) -> Result<SpiffeId, BoxError> {
        let leaf = chain_der.first().ok_or("no certificate")?;
        let end = leaf.iter().position(|b| *b == b'\n').ok_or("no id")?;
        UnparsedPublicKey::new(&ED25519, &leaf[end + 1..])
            .verify(message, signature)
            .map_err(|_unspecified| "wrong")?;
        Ok(std::str::from_utf8(&leaf[..end])?.parse()?)
    }
}

pub(crate) fn log_options() -> LogOptions {
    LogOptions {
        gather: Duration::from_millis(1),
        ..LogOptions::new(
            "mesh.local/audit",
            SealKey::from_hex(&"5a".repeat(32)).unwrap(),
        )
    }
}

pub(crate) fn fast() -> ShipOptions {
    ShipOptions {
        interval: Duration::from_millis(2),
        min_backoff: Duration::from_millis(2),
        max_backoff: Duration::from_millis(20),
        ..ShipOptions::default()
    }
}

pub(crate) fn open_wal(dir: &Path, proxy: &str) -> Arc<Wal> {
    let options = WalOptions::default();
    Arc::new(Wal::open(dir, name(proxy), options, clock()).unwrap())
}

/// Ships until nothing is left.
pub(crate) async fn drain(wal: &Arc<Wal>, log: &Arc<AuditLog>, options: ShipOptions) {
    let shipping = ship_local(wal.clone(), log.clone(), TestSigner::new(), options);
    until_shipped(wal, shipping).await;
}

/// Runs `shipping` until the log has acknowledged everything.
pub(crate) async fn until_shipped(wal: &Wal, shipping: impl Future<Output = ()>) {
    let done = async {
        while wal.status().backlog > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    // Cancel-safe: shipping may be dropped anywhere.
    tokio::select! {
        () = shipping => {}
        () = done => {}
        () = tokio::time::sleep(Duration::from_secs(30)) => panic!("not shipped: {:?}", wal.status()),
    }
}
