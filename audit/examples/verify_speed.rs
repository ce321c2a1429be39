//! Prints what it costs to verify a log, and to prove a record of it, on a log that it makes:
//! `cargo run --release -p reeve-audit --example verify_speed -- FOLDER [RECORDS]` (one JSON object on standard output).
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
        UnparsedPublicKey,
    },
};
use reeve_audit::{
    AuditLog, AuthenticatedBy, BatchKey, BatchSigner, BatchVerifier, DecisionRecord, Direction,
    LogOptions, LookedFor, ShipOptions, SigningIdentity, Wal, WalOptions,
    batch::BoxError,
    proof,
    seal::SealKey,
    ship_local,
    verify::{VerifyOptions, verify},
};
use reeve_core::{
    Clock, RecordId, SpiffeId, UnixTime,
    clock::SystemClock,
    decision::{
        AccessRequest, Action, Decision, Effect, HttpContext, Principal, Reason, RequestContext,
        ResourceRef,
    },
    model::{Generation, MtlsMode, PathNormalization},
};

const ID: &str = "spiffe://mesh.local/ns/default/sa/reviews";

fn main() -> Result<(), BoxError> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("name a folder")?;
    let records = args.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let dir = Path::new(&folder).join("verify-speed");
    let runtime = tokio::runtime::Runtime::new()?;
    let epoch = runtime.block_on(make(&dir, records))?;
    let log = dir.join("audit");
    let options = VerifyOptions {
        batches: Some(Arc::new(Signed)),
        ..VerifyOptions::default()
    };
    let since = std::time::Instant::now();
    let report = verify(&log, &options)?;
    let took = since.elapsed();
    if !report.ok || report.records != records {
        return Err(format!("{:?}", report.findings).into());
    }
    let mut proofs = Vec::new();
    let key = std::fs::read_to_string(log.join("log.vkey"))?;
    for n in 0..20u64 {
        let id = RecordId {
            proxy: "reviews-v1-0".parse()?,
            epoch,
            worker: 0,
            sequence: records * n / 20 + 1,
        };
        let since = std::time::Instant::now();
        let made = proof::prove(&log, &id)?.ok_or("no such record")?;
        let between = std::time::Instant::now();
        made.check(key.trim(), None)?;
        proofs.push((between - since, between.elapsed()));
    }
    proofs.sort_unstable();
    let (made, checked) = proofs.get(proofs.len() / 2).copied().unwrap_or_default();
    println!(
        "{{\"records\":{records},\"batches\":{},\"verify_s\":{:.3},\"verify_records_per_s\":{:.0},\"prove_ms\":{:.3},\
         \"check_proof_ms\":{:.3}}}",
        report.batches,
        took.as_secs_f64(),
        f64::from(u32::try_from(records)?) / took.as_secs_f64(),
        made.as_secs_f64() * 1e3,
        checked.as_secs_f64() * 1e3
    );
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// A log of so many records of one proxy; returns their epoch.
async fn make(dir: &Path, records: u64) -> Result<u64, BoxError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let key = SealKey::from_hex(&"5a".repeat(32))?;
    let options = LogOptions {
        gather: Duration::from_millis(1),
        ..LogOptions::new("mesh.local/audit", key)
    };
    let log = AuditLog::open(&dir.join("audit"), options)?;
    let wal = Wal::open(
        &dir.join("wal"),
        "reviews-v1-0".parse()?,
        WalOptions::default(),
        clock.clone(),
    )?;
    let wal = Arc::new(wal);
    let epoch = wal.status().epoch;
    let signer = Arc::new(Signer::new()?);
    let options = ShipOptions {
        interval: Duration::from_millis(1),
        ..ShipOptions::default()
    };
    let shipping = tokio::spawn(ship_local(wal.clone(), log, signer, options));
    for n in 0..records {
        while n % 1024 == 0 && wal.status().backlog > 100_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        wal.append(decision(n, clock.now())?)?;
    }
    while wal.status().backlog > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    shipping.abort();
    Ok(epoch)
}

fn decision(n: u64, now: UnixTime) -> Result<DecisionRecord, Box<dyn Error + Send + Sync>> {
    Ok(DecisionRecord {
        request: AccessRequest {
            principal: Principal::Workload(ID.parse()?),
            user: None,
            action: Action::Get,
            resource: ResourceRef {
                workload: Some("spiffe://mesh.local/ns/default/sa/ratings".parse()?),
                namespace: "default".parse()?,
                services: vec!["ratings.default.svc.cluster.local".parse()?],
                address: None,
            },
            context: RequestContext {
                source_ip: [127, 77, 3, 1].into(),
                port: 9080,
                mtls: true,
                time: now,
                http: Some(HttpContext {
                    method: "GET".into(),
                    host: "ratings".into(),
                    path: format!("/ratings/{n}"),
                    grpc: None,
                    headers: [("end-user".into(), ["jason".into()].into())].into(),
                    query: Default::default(),
                }),
            },
        },
        decision: Decision {
            policies: vec!["default/ratings".parse()?],
            ..Decision::without_policy(Effect::Allow, Reason::Permitted)
        },
        authenticated_by: AuthenticatedBy::Mtls,
        direction: Direction::Inbound,
        generation: Some(Generation(7)),
        policy_hash: "ab12".repeat(16),
        projection_hash: "cd34".repeat(16),
        looked_for: LookedFor::new(["end-user"], [], false),
        mtls_mode: MtlsMode::Strict,
        strict_would_refuse: false,
        path_normalization: PathNormalization::RefuseAmbiguous,
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
        request_id: Some("f058ebd6-02f7-9d3f-942e-904344e8cde5".into()),
        transformations: vec![],
        redacted: Default::default(),
        cost_us: 6,
    })
}

/// A key with its "certificate": the public key itself.
#[derive(Debug)]
struct Signer(Arc<Key>);

#[derive(Debug)]
struct Key(EcdsaKeyPair);

impl Signer {
    fn new() -> Result<Self, BoxError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        Ok(Self(Arc::new(Key(pair))))
    }
}

impl BatchKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, BoxError> {
        let signature = self.0.sign(&SystemRandom::new(), message)?;
        Ok(signature.as_ref().to_vec())
    }
}

impl BatchSigner for Signer {
    fn identity(&self) -> Option<SigningIdentity> {
        Some(SigningIdentity {
            chain_der: vec![self.0.0.public_key().as_ref().to_vec()],
            key: self.0.clone(),
        })
    }
}

#[derive(Debug)]
struct Signed;

impl BatchVerifier for Signed {
    fn verify(
        &self,
        chain_der: &[Vec<u8>],
        message: &[u8],
        signature: &[u8],
        _at: UnixTime,
    ) -> Result<SpiffeId, BoxError> {
        let key = chain_der.first().ok_or("no certificate")?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(message, signature)?;
        Ok(ID.parse()?)
    }
}
