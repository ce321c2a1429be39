//! Measures what one audit log takes in: proxies' write-ahead logs are filled, then shipped by the real shipper over gRPC into
//! a log in a process of its own, and the time until everything is acknowledged is taken.
//! `cargo run --release -p reeve-audit --example ingest_speed -- FOLDER STREAMS RECORDS [WAVES]`: so many proxies, so many
//! records of each and wave. Prints JSON. The folder should be on the file system to be measured.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::{
    error::Error,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use reeve_audit::{
    AuditLog, IngestService, Level, LogOptions, ShipOptions, Wal, WalOptions, ingest::told_at_once,
    seal::SealKey, ship, ship::only,
};
use reeve_core::{InstanceName, SpiffeId, clock::SystemClock};
use tonic::transport::{Endpoint, Server, server::TcpIncoming};

#[path = "sample/process.rs"]
mod process;
#[path = "sample/decision.rs"]
mod sample;
#[path = "sample/signer.rs"]
mod signer;

use process::processor_seconds;
use signer::{ID, Signer, Verifier};

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    more_files()?;
    match args.as_slice() {
        ["serve", folder] => serve(Path::new(folder)),
        [folder, streams, records] => measure(folder, streams.parse()?, records.parse()?, 1),
        [folder, streams, records, waves] => {
            measure(folder, streams.parse()?, records.parse()?, waves.parse()?)
        }
        _ => Err("usage: ingest_speed FOLDER STREAMS RECORDS [WAVES]".into()),
    }
}

/// A log in this process: says where it listens, then how it stands whenever a line comes.
fn serve(folder: &Path) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let key = SealKey::from_hex(&"5a".repeat(32))?;
    let log = AuditLog::open(folder, LogOptions::new("mesh.local/audit", key))?;
    let peer: SpiffeId = ID.parse()?;
    let service = IngestService::new(
        log.clone(),
        Arc::new(move |_extensions| Some(peer.clone())),
        told_at_once(|_peer: &SpiffeId, _proxy: &InstanceName| true),
        Arc::new(Verifier),
        Arc::new(SystemClock),
    );
    let incoming = {
        let _inside = runtime.enter();
        TcpIncoming::bind(([127, 0, 0, 1], 0).into())?
    };
    println!("{}", incoming.local_addr()?);
    runtime.spawn(
        Server::builder()
            .add_service(service.into_server())
            .serve_with_incoming(incoming),
    );
    for line in std::io::stdin().lock().lines() {
        drop(line?);
        let status = log.status();
        println!(
            "{}",
            serde_json::json!({
                "records": status.records, "batches": status.tree_size,
                "cpu_s": processor_seconds()?, "peak_mib": process::peak_kib()? / 1024,
            })
        );
    }
    Ok(())
}

fn measure(folder: &str, streams: u32, records: u32, waves: u32) -> Result<(), Failure> {
    let place = tempfile::tempdir_in(folder)?;
    let mut log = Running::start(&place.path().join("audit"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let signer = Signer::new()?;
    let decision = sample::decision()?;
    let wals = logs(place.path(), streams)?;
    let mut told = Vec::new();
    for wave in 0..waves {
        for wal in &wals {
            let writer = wal.writer(0)?;
            for _ in 0..records {
                writer.append(&decision)?;
            }
        }
        let (began, before, ours) = (Instant::now(), log.status()?, processor_seconds()?);
        if wave == 0 {
            for wal in &wals {
                runtime.spawn(ship(
                    wal.clone(),
                    only(log.factory()),
                    signer.clone(),
                    ShipOptions::default(),
                ));
            }
        }
        while wals.iter().any(|wal| wal.status().backlog > 0) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let (took, after) = (began.elapsed().as_secs_f64(), log.status()?);
        let count = f64::from(streams) * f64::from(records);
        let cpu = |status: &serde_json::Value| {
            status
                .get("cpu_s")
                .and_then(serde_json::Value::as_f64)
                .unwrap_or_default()
        };
        let batches = |status: &serde_json::Value| {
            status
                .get("batches")
                .and_then(serde_json::Value::as_u64)
                .unwrap_or_default()
        };
        told.push(serde_json::json!({
            "seconds": round(took),
            "records_per_s": (count / took).round(),
            "batches": batches(&after) - batches(&before),
            "log_cpu_us_per_record": round((cpu(&after) - cpu(&before)) * 1e6 / count),
            "proxies_cpu_us_per_record": round((processor_seconds()? - ours) * 1e6 / count),
            "log_peak_mib": after.get("peak_mib"),
        }));
    }
    println!(
        "{}",
        serde_json::json!({ "streams": streams, "records": records, "waves": told })
    );
    Ok(())
}

/// The write-ahead logs of so many proxies.
fn logs(place: &Path, streams: u32) -> Result<Vec<Arc<Wal>>, Failure> {
    let mut wals = Vec::new();
    for stream in 0..streams {
        let options = WalOptions {
            level: Level::Os,
            max_bytes: 1 << 30,
            segment_bytes: if streams > 64 { 1 << 16 } else { 8 << 20 },
            first_epoch: 1,
        };
        let dir = place.join(format!("wal/{stream}"));
        let name: InstanceName = format!("proxy-{stream}").parse()?;
        let wal = Wal::open(&dir, name, options, Arc::new(SystemClock))?;
        wals.push(Arc::new(wal));
    }
    Ok(wals)
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The log's process.
struct Running {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    address: String,
}

impl Running {
    fn start(folder: &Path) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let ask = child.stdin.take().ok_or("no stdin")?;
        let mut answers = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut address = String::new();
        answers.read_line(&mut address)?;
        Ok(Self {
            child,
            ask,
            answers,
            address: address.trim().to_owned(),
        })
    }

    fn status(&mut self) -> Result<serde_json::Value, Failure> {
        self.ask.write_all(b"\n")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    fn factory(&self) -> ship::ChannelFactory {
        let uri = format!("http://{}", self.address);
        Arc::new(move || {
            let uri = uri.clone();
            Box::pin(async move { Ok(Endpoint::from_shared(uri)?.connect().await?) })
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn more_files() -> Result<(), Failure> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}
