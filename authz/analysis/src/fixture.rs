//! A trail for tests: decisions, written by the audit crate's own writer.

use std::{path::Path, sync::Arc, time::Duration};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use reeve_audit::{
    AuditLog, AuthenticatedBy, BatchKey, BatchSigner, DecisionRecord, Direction, LogOptions,
    LookedFor, Reader, Scan, ShipOptions, SigningIdentity, Wal, WalOptions, batch::BoxError,
    seal::SealKey, ship_local,
};
use reeve_authz::{Engine, parse_access_policy};
use reeve_core::{
    Clock, Namespace, UnixTime,
    clock::ManualClock,
    decision::{
        AccessRequest, Action, Decision, Effect, HttpContext, Principal, Reason, RequestContext,
        ResourceRef,
    },
    model::{MtlsMode, PathNormalization, PolicySlice, ServiceState},
};

use crate::{Candidate, Place, Places};

pub(crate) const WEB: &str = "spiffe://mesh.local/ns/default/sa/web";
pub(crate) const START: UnixTime = UnixTime::from_secs(1_700_000_000);

/// `web` asks `reviews`.
pub(crate) fn asked(method: &str, path: &str) -> AccessRequest {
    AccessRequest {
        principal: Principal::Workload(WEB.parse().unwrap()),
        user: None,
        action: Action::from_method(method),
        resource: ResourceRef {
            workload: Some("spiffe://mesh.local/ns/default/sa/reviews".parse().unwrap()),
            namespace: "default".parse().unwrap(),
            services: vec!["reviews.default.svc.cluster.local".parse().unwrap()],
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
                method: method.into(),
                host: "reviews".into(),
                path: path.into(),
                grpc: None,
                headers: Default::default(),
                query: Default::default(),
            }),
        },
    }
}

/// A connection to the same.
pub(crate) fn connected(port: u16) -> AccessRequest {
    let mut request = asked("GET", "/");
    request.action = Action::Connect;
    request.context.http = None;
    request.context.port = port;
    request
}

pub(crate) fn record(request: AccessRequest, reason: Reason) -> DecisionRecord {
    let allowed = matches!(
        reason,
        Reason::Permitted | Reason::ServiceOpen | Reason::ServiceShadow
    );
    let effect = if allowed { Effect::Allow } else { Effect::Deny };
    DecisionRecord {
        request,
        decision: Decision::without_policy(effect, reason),
        authenticated_by: AuthenticatedBy::Mtls,
        direction: Direction::Inbound,
        generation: None,
        policy_hash: "ab12".into(),
        projection_hash: "cd34".into(),
        looked_for: LookedFor::default(),
        redacted: Default::default(),
        mtls_mode: MtlsMode::Strict,
        strict_would_refuse: false,
        path_normalization: PathNormalization::RefuseAmbiguous,
        trace_id: None,
        request_id: None,
        transformations: vec![],
        cost_us: 1,
    }
}

#[derive(Debug)]
struct TestSigner(Arc<TestKey>);

struct TestKey(Ed25519KeyPair);

impl std::fmt::Debug for TestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TestKey")
    }
}

impl BatchKey for TestKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

impl BatchSigner for TestSigner {
    fn identity(&self) -> Option<SigningIdentity> {
        Some(SigningIdentity {
            chain_der: vec![self.0.0.public_key().as_ref().to_vec()],
            key: self.0.clone(),
        })
    }
}

/// A log with these decisions, a millisecond apart.
pub(crate) async fn trail(dir: &Path, records: Vec<DecisionRecord>) -> Scan {
    let options = LogOptions {
        gather: Duration::from_millis(1),
        ..LogOptions::new(
            "mesh.local/audit",
            SealKey::from_hex(&"5a".repeat(32)).unwrap(),
        )
    };
    let log = AuditLog::open(&dir.join("audit"), options).unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let shared: Arc<dyn Clock> = clock.clone();
    let wal = Wal::open(
        &dir.join("wal/a"),
        "a".parse().unwrap(),
        WalOptions::default(),
        shared,
    );
    let wal = Arc::new(wal.unwrap());
    for mut record in records {
        clock.advance(Duration::from_millis(1));
        record.request.context.time = clock.now();
        wal.append(record).unwrap();
    }
    let key = Ed25519KeyPair::generate().unwrap();
    let signer = Arc::new(TestSigner(Arc::new(TestKey(key))));
    let options = ShipOptions {
        interval: Duration::from_millis(2),
        ..ShipOptions::default()
    };
    let shipping = ship_local(wal.clone(), log, signer, options);
    let done = async {
        while wal.status().backlog > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    // Cancel-safe: shipping may be dropped anywhere.
    tokio::select! {
        () = shipping => {}
        () = done => {}
    }
    Reader::open(&dir.join("audit"))
        .unwrap()
        .scan(None)
        .unwrap()
}

/// Every place is like this.
pub(crate) struct Everywhere(pub(crate) Place);

impl Places for Everywhere {
    fn place(&self, _resource: &ResourceRef, _port: u16) -> Place {
        self.0
    }
}

pub(crate) const ENFORCED: Place = Place {
    state: ServiceState::Enforced,
    http: false,
    tokens: false,
};

/// Policies of namespace `default`, at places like `place`.
pub(crate) fn candidate(cedar: &str, place: Place) -> Candidate {
    let namespace: Namespace = "default".parse().unwrap();
    let policies = match cedar.trim() {
        "" => Vec::new(),
        cedar => parse_access_policy(Some(&namespace), &namespace, "p", cedar).unwrap(),
    };
    let slice = PolicySlice {
        mesh_hash: "hash".into(),
        policies,
        ..PolicySlice::default()
    };
    Candidate::new(
        Engine::compile(&slice).unwrap(),
        Box::new(Everywhere(place)),
    )
}
