//! A log for tests, written by the audit crate's own writers.

use std::{path::Path, sync::Arc, time::Duration};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use reeve_audit::{
    AggregateRecord, AuditLog, AuthenticatedBy, BatchKey, BatchSigner, DecisionRecord, Direction,
    EventKind, EventRecord, LogOptions, LookedFor, OutcomeRecord, ShipOptions, SigningIdentity,
    Wal, WalOptions, batch::BoxError, seal::SealKey, ship_local,
};
use reeve_core::{
    Clock, UnixTime,
    clock::ManualClock,
    decision::{
        AccessRequest, Action, Decision, Effect, HttpContext, Principal, Reason, RequestContext,
        ResourceRef,
    },
    model::{MtlsMode, PathNormalization},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub(crate) const START: UnixTime = UnixTime::from_secs(1_700_000_000);

pub(crate) fn decision(n: u64) -> DecisionRecord {
    let (effect, reason) = match n % 5 {
        0 => (Effect::Deny, Reason::NoPermit),
        1 => (Effect::Deny, Reason::Forbidden),
        _ => (Effect::Allow, Reason::Permitted),
    };
    let caller = format!("spiffe://mesh.local/ns/default/sa/caller-{}", n % 3);
    let http = HttpContext {
        method: "GET".into(),
        host: "reviews".into(),
        path: format!("/{}/ünïcode \"{n}\"", n % 4),
        grpc: None,
        headers: [("end-user".into(), ["jason".into()].into())].into(),
        query: Default::default(),
    };
    let services = ["reviews", "ratings", "details"]
        .iter()
        .take((n % 4) as usize);
    DecisionRecord {
        request: AccessRequest {
            principal: match n % 7 {
                0 => Principal::Unauthenticated,
                _ => Principal::Workload(caller.parse().unwrap()),
            },
            user: None,
            action: if n.is_multiple_of(6) {
                Action::Connect
            } else {
                Action::Get
            },
            resource: ResourceRef {
                workload: (n % 4 != 1)
                    .then(|| "spiffe://mesh.local/ns/default/sa/reviews".parse().unwrap()),
                namespace: "default".parse().unwrap(),
                services: services
                    .map(|s| format!("{s}.default.svc.cluster.local").parse().unwrap())
                    .collect(),
                address: None,
            },
            context: context((!n.is_multiple_of(6)).then_some(http)),
        },
        decision: Decision {
            policies: vec![
                "default/reviews#ünïcode"
                    .parse()
                    .unwrap_or_else(|_| "default/reviews".parse().unwrap()),
            ],
            ..Decision::without_policy(effect, reason)
        },
        authenticated_by: AuthenticatedBy::Mtls,
        direction: Direction::Inbound,
        generation: None,
        policy_hash: "ab12".into(),
        projection_hash: "cd34".into(),
        looked_for: LookedFor::default(),
        redacted: Default::default(),
        mtls_mode: MtlsMode::Strict,
        strict_would_refuse: n.is_multiple_of(7),
        path_normalization: PathNormalization::RefuseAmbiguous,
        trace_id: n.is_multiple_of(2).then(|| format!("{n:032x}")),
        request_id: None,
        transformations: vec![],
        cost_us: n,
    }
}

fn context(http: Option<HttpContext>) -> RequestContext {
    RequestContext {
        destination_ip: None,
        http,
        mtls: true,
        port: 9080,
        remote_ip: None,
        sni: None,
        source_ip: [127, 77, 3, 1].into(),
        time: START,
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

/// A log and the proxies that ship to it.
pub(crate) struct Trail {
    pub(crate) dir: TempDir,
    pub(crate) log: Arc<AuditLog>,
    pub(crate) clock: Arc<ManualClock>,
    shipping: Vec<(Arc<Wal>, JoinHandle<()>)>,
}

impl Trail {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let options = LogOptions {
            gather: Duration::from_millis(1),
            ..LogOptions::new(
                "mesh.local/audit",
                SealKey::from_hex(&"5a".repeat(32)).unwrap(),
            )
        };
        Self {
            log: AuditLog::open(&dir.path().join("audit"), options).unwrap(),
            clock: Arc::new(ManualClock::at(START)),
            dir,
            shipping: Vec::new(),
        }
    }

    pub(crate) fn audit(&self) -> std::path::PathBuf {
        self.dir.path().join("audit")
    }

    pub(crate) fn wals(&self) -> std::path::PathBuf {
        self.dir.path().join("wal")
    }

    /// A proxy whose records are shipped as they come.
    pub(crate) fn proxy(&mut self, name: &str) -> Arc<Wal> {
        let wal = open(&self.wals(), name, self.clock.clone());
        let key = Ed25519KeyPair::generate().unwrap();
        let options = ShipOptions {
            interval: Duration::from_millis(2),
            ..ShipOptions::default()
        };
        let signer = Arc::new(TestSigner(Arc::new(TestKey(key))));
        let ship = ship_local(wal.clone(), self.log.clone(), signer, options);
        self.shipping.push((wal.clone(), tokio::spawn(ship)));
        wal
    }

    /// Waits until the log has everything.
    pub(crate) async fn shipped(&self) {
        for (wal, _) in &self.shipping {
            while wal.status().backlog > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Records of every kind, by three proxies, in several batches.
    pub(crate) async fn fill(&mut self, rounds: u64) {
        let proxies = ["a-0", "b-0", "c-0"].map(|name| self.proxy(name));
        for round in 0..rounds {
            for (at, wal) in (0u64..).zip(&proxies) {
                for n in 0..9 {
                    self.clock.advance(Duration::from_millis(1));
                    let n = round * 31 + at * 7 + n;
                    let id = wal.append(decision(n)).unwrap();
                    wal.append(OutcomeRecord {
                        decision: id,
                        status: Some(200),
                        grpc_status: None,
                        bytes_in: n,
                        bytes_out: 1,
                        duration_us: 7,
                        upstream: None,
                        flags: String::new(),
                        transformations: vec![],
                    })
                    .unwrap();
                }
                wal.append(EventRecord::new(EventKind::Started).with("n", round.to_string()))
                    .unwrap();
                wal.append(AggregateRecord {
                    event: EventKind::HandshakeRefused,
                    count: round,
                    since: START,
                    until: self.clock.now(),
                    detail: Default::default(),
                })
                .unwrap();
            }
            self.shipped().await;
        }
    }
}

fn open(wals: &Path, name: &str, clock: Arc<dyn Clock>) -> Arc<Wal> {
    let options = WalOptions::default();
    Arc::new(Wal::open(&wals.join(name), name.parse().unwrap(), options, clock).unwrap())
}
