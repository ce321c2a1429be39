//! Prints what it costs to verify a log, and to prove a record of it, on a log that it makes:
//! `cargo run --release -p reeve-audit --example verify_speed -- FOLDER [RECORDS]` (one JSON object on standard output).
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use reeve_audit::{
    AuditLog, DecisionRecord, LogOptions, ShipOptions, Wal, WalOptions,
    batch::BoxError,
    proof,
    seal::SealKey,
    ship_local,
    verify::{VerifyOptions, verify},
};
use reeve_core::{Clock, RecordId, UnixTime, clock::SystemClock};

#[path = "sample/process.rs"]
mod process;
#[path = "sample/decision.rs"]
mod sample;
#[path = "sample/signer.rs"]
mod signer;

fn main() -> Result<(), BoxError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["make", folder, records] => made(Path::new(folder), records.parse()?).map(drop),
        ["check", folder] => {
            println!("{}", checked(Path::new(folder))?);
            Ok(())
        }
        [folder, rest @ ..] => {
            let records = rest.first().map_or(Ok(1_000_000), |text| text.parse())?;
            let dir = Path::new(folder).join("verify-speed");
            let epoch = made(&dir, records)?;
            let mut told = checked(&dir)?;
            if told.get("records") != Some(&records.into()) {
                return Err(format!("of {records} records: {told}").into());
            }
            prove(&dir.join("audit"), epoch, records, &mut told)?;
            println!("{told}");
            Ok(std::fs::remove_dir_all(&dir)?)
        }
        _ => Err("FOLDER [RECORDS], or make FOLDER RECORDS, then check FOLDER".into()),
    }
}

fn made(dir: &Path, records: u64) -> Result<u64, BoxError> {
    tokio::runtime::Runtime::new()?.block_on(make(dir, records))
}

/// Verifies a log whole.
fn checked(dir: &Path) -> Result<serde_json::Value, BoxError> {
    let options = VerifyOptions {
        batches: Some(Arc::new(signer::Verifier)),
        ..VerifyOptions::default()
    };
    let (since, used) = (Instant::now(), process::processor_seconds()?);
    let report = verify(&dir.join("audit"), &options)?;
    let took = since.elapsed().as_secs_f64();
    if !report.ok {
        return Err(format!("{:?}", report.findings).into());
    }
    let records = f64::from(u32::try_from(report.records)?);
    Ok(serde_json::json!({
        "records": report.records,
        "batches": report.batches,
        "signatures": report.signatures_verified,
        "verify_s": took,
        "peak_mib": process::peak_kib()? / 1024,
        "verify_cpu_us_per_record": (process::processor_seconds()? - used) * 1e6 / records,
        "verify_records_per_s": (records / took).round(),
    }))
}

/// Proves twenty records spread over the log, and checks the proofs; adds the medians.
fn prove(
    log: &Path,
    epoch: u64,
    records: u64,
    told: &mut serde_json::Value,
) -> Result<(), BoxError> {
    let mut proofs = Vec::new();
    let key = std::fs::read_to_string(log.join("log.vkey"))?;
    for n in 0..20u64 {
        let id = RecordId {
            proxy: "reviews-v1-0".parse()?,
            epoch,
            worker: 0,
            sequence: records * n / 20 + 1,
        };
        let since = Instant::now();
        let made = proof::prove(log, &id)?.ok_or("no such record")?;
        let between = Instant::now();
        made.check(key.trim(), None)?;
        proofs.push((between - since, between.elapsed()));
    }
    proofs.sort_unstable();
    let (made, checked) = proofs.get(proofs.len() / 2).copied().unwrap_or_default();
    if let Some(told) = told.as_object_mut() {
        told.insert("prove_ms".to_owned(), millis(made));
        told.insert("check_proof_ms".to_owned(), millis(checked));
    }
    Ok(())
}

fn millis(time: Duration) -> serde_json::Value {
    (time.as_secs_f64() * 1e3).into()
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
    let signer = signer::Signer::new()?;
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

fn decision(n: u64, now: UnixTime) -> Result<DecisionRecord, BoxError> {
    let mut record = sample::decision()?;
    let context = &mut record.request.context;
    context.time = now;
    if let Some(http) = &mut context.http {
        http.path = format!("/reviews/{n}");
    }
    Ok(record)
}
