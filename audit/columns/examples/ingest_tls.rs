//! What one audit replica takes in over mutual TLS, sequences and writes as Parquet: write-ahead logs of many proxies are filled,
//! then shipped by the real shipper, each over a connection with a certificate of its own, into a log in a process of its own
//! that keeps columns beside its tree. Two times are taken: until everything is acknowledged, and until everything is in
//! segments of columns, too.
//! `cargo run --release -p reeve-columns --example ingest_tls -- FOLDER [PROXIES DECISIONS]`: so many decisions of each proxy,
//! every one with its outcome. Prints JSON. The folder should be on the file system to be measured.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use reeve_audit::{
    AuditLog, Level, LogOptions, OutcomeRecord, Reader, ShipOptions, Wal, WalOptions,
    batch::BoxError, seal::SealKey, ship, ship::only, ship_local,
};
use reeve_ca::tls_incoming;
use reeve_columns::{Columns, KeepOptions, Keeper};
use reeve_core::{Clock as _, InstanceName, SystemClock};
use serde_json::{Value, json};
use tonic::transport::Server;

#[path = "../../examples/sample/decision.rs"]
mod decision;
#[path = "sample/mesh.rs"]
mod mesh;
#[path = "../../examples/sample/process.rs"]
mod process;

/// A segment is due when so many records are in none, once no more come.
const LAST_DUE: u64 = 1_000;
/// The priority of the thread that writes columns, as in the mesh process.
const COLUMNS_NICENESS: i32 = 10;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), BoxError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["serve", folder, proxies] => serve(Path::new(folder), proxies.parse()?),
        [folder] => measure(folder, 16, 60_000),
        [folder, proxies, decisions] => measure(folder, proxies.parse()?, decisions.parse()?),
        _ => Err("usage: ingest_tls FOLDER [PROXIES DECISIONS]".into()),
    }
}

/// A log and its columns in this process: says where it listens, then how it stands whenever a line comes. `finish` makes it
/// write what is in no segment yet.
fn serve(folder: &Path, proxies: u32) -> Result<(), BoxError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mesh = mesh::Authority::new(folder, proxies)?;
    let audit = folder.join("audit");
    let key = SealKey::from_hex(&"5a".repeat(32))?;
    let log = AuditLog::open(&audit, LogOptions::new("mesh.local/audit", key))?;
    let clock = Arc::new(SystemClock);
    let wal = Wal::open(
        &folder.join("wal/control"),
        "control".parse()?,
        WalOptions::default(),
        clock.clone(),
    )?;
    let wal = Arc::new(wal);
    let signer = mesh::signer(mesh.own());
    let options = ShipOptions::default();
    runtime.spawn(ship_local(wal.clone(), log.clone(), signer, options));
    let finishing = Arc::new(AtomicBool::new(false));
    keep(&audit, log.clone(), wal, Arc::clone(&finishing))?;
    let service = mesh.ingest(log.clone());
    let (address, incoming) = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let incoming = tls_incoming(
            reeve_ca::MeshListener::Tcp(listener),
            mesh.own(),
            clock.clone(),
        );
        Ok::<_, BoxError>((address, incoming))
    })?;
    println!("{address}");
    let server = Server::builder().add_service(service.into_server());
    runtime.spawn(server.serve_with_incoming(incoming));
    for line in std::io::stdin().lock().lines() {
        if line? == "finish" {
            finishing.store(true, Ordering::Relaxed);
        }
        println!("{}", status(&audit, &log)?);
    }
    Ok(())
}

fn keep(
    audit: &Path,
    log: Arc<AuditLog>,
    wal: Arc<Wal>,
    finishing: Arc<AtomicBool>,
) -> Result<(), BoxError> {
    let options = KeepOptions::default();
    let keeper = Keeper::open(audit, log, wal, Arc::new(SystemClock), options)?;
    let options = move || KeepOptions {
        due_records: match finishing.load(Ordering::Relaxed) {
            true => LAST_DUE,
            false => options.due_records,
        },
        ..options
    };
    std::thread::Builder::new().spawn(move || {
        if let Err(error) = rustix::process::setpriority_process(None, COLUMNS_NICENESS) {
            println!("columns are kept at the usual priority: {error}");
        }
        keeper.run(options);
    })?;
    Ok(())
}

fn status(audit: &Path, log: &AuditLog) -> Result<Value, BoxError> {
    let status = log.status();
    // Before the first checkpoint there is no tree to have columns of.
    let columns = Columns::open(audit).map_or(0, |columns| columns.end_leaf());
    Ok(json!({
        "records": status.records,
        "leaves": status.tree_size,
        "leaves_in_columns": columns,
        "cpu_s": process::processor_seconds()?,
        "peak_mib": process::peak_kib()? / 1024,
    }))
}

fn measure(folder: &str, proxies: u32, decisions: u32) -> Result<(), BoxError> {
    let place = tempfile::tempdir_in(folder)?;
    let mut log = Running::start(place.path(), proxies)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let wals = filled(place.path(), proxies, decisions)?;
    let records = f64::from(proxies) * f64::from(decisions) * 2.0;
    let (began, before, ours) = (Instant::now(), log.ask("")?, process::processor_seconds()?);
    for (at, wal) in wals.iter().enumerate() {
        let credentials = mesh::credentials(place.path(), at)?;
        runtime.spawn(ship(
            wal.clone(),
            only(mesh::channels(&log.address, &credentials)?),
            mesh::signer(credentials),
            ShipOptions::default(),
        ));
    }
    wait(|| Ok(wals.iter().all(|wal| wal.status().backlog == 0)))?;
    let (acknowledged, ours) = (began.elapsed(), process::processor_seconds()? - ours);
    let reached = log.ask("finish")?;
    let leaves = number(&reached, "leaves");
    let mut after = reached.clone();
    wait(|| {
        after = log.ask("")?;
        Ok(number(&after, "leaves_in_columns") >= leaves)
    })?;
    let in_columns = began.elapsed();
    let audit = place.path().join("audit");
    let size = |part: &str| Ok::<_, BoxError>(round(bytes_in(&audit.join(part))? / records));
    let rate = |took: Duration| (records / took.as_secs_f64()).round();
    let cpu = |to: &Value| round((number(to, "cpu_s") - number(&before, "cpu_s")) * 1e6 / records);
    println!(
        "{}",
        json!({
            "proxies": proxies, "records": records, "batches": Reader::open(&audit)?.tree_size()?,
            "acknowledged_per_s": rate(acknowledged), "in_columns_per_s": rate(in_columns),
            "log_cpu_us_per_record": cpu(&after), "proxies_cpu_us_per_record": round(ours * 1e6 / records),
            "log_peak_mib": after.get("peak_mib"),
            "batch_bytes_per_record": size("batches")?, "tile_bytes_per_record": size("tile")?,
            "parquet_bytes_per_record": size("parquet")?,
        })
    );
    Ok(())
}

/// Asks again and again until it is so.
fn wait(mut is_so: impl FnMut() -> Result<bool, BoxError>) -> Result<(), BoxError> {
    while !is_so()? {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The write-ahead logs of so many proxies, with so many decisions in each and what came of them.
fn filled(place: &Path, proxies: u32, decisions: u32) -> Result<Vec<Arc<Wal>>, BoxError> {
    let mut wals = Vec::new();
    let mut record = decision::decision()?;
    for proxy in 0..proxies {
        let options = WalOptions {
            level: Level::Os,
            max_bytes: 4 << 30,
            segment_bytes: if proxies > 64 { 1 << 16 } else { 8 << 20 },
            first_epoch: SystemClock.now().as_millis(),
        };
        let name: InstanceName = mesh::proxy(proxy).parse()?;
        let dir = place.join("wal").join(name.as_str());
        let wal = Wal::open(&dir, name, options, Arc::new(SystemClock))?;
        let writer = wal.writer(0)?;
        for n in 0..decisions {
            let chance = n.wrapping_mul(2_654_435_761) ^ proxy;
            if let Some(http) = &mut record.request.context.http {
                http.path = format!("/reviews/{}", chance % 100_000);
            }
            record.trace_id = Some(format!("{:032x}", u128::from(chance) << 64 | u128::from(n)));
            let decision = writer.append(&record)?;
            writer.defer(&OutcomeRecord {
                decision,
                status: Some(200),
                grpc_status: None,
                bytes_in: 0,
                bytes_out: u64::from(chance % 16_384),
                duration_us: u64::from(500 + chance % 20_000),
                upstream: Some("127.77.4.2:9080".to_owned()),
                flags: String::new(),
                transformations: vec![],
            })?;
        }
        writer.flush()?;
        wals.push(Arc::new(wal));
    }
    Ok(wals)
}

/// What the files below a folder hold, in bytes.
fn bytes_in(folder: &Path) -> Result<f64, BoxError> {
    let mut sum = 0.0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        sum += match entry.file_type()?.is_dir() {
            true => bytes_in(&entry.path())?,
            false => f64::from(u32::try_from(entry.metadata()?.len())?),
        };
    }
    Ok(sum)
}

fn number(status: &Value, name: &str) -> f64 {
    status.get(name).and_then(Value::as_f64).unwrap_or_default()
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The log's process.
struct Running {
    child: Child,
    to: ChildStdin,
    answers: BufReader<ChildStdout>,
    address: String,
}

impl Running {
    fn start(folder: &Path, proxies: u32) -> Result<Self, BoxError> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg(folder)
            .arg(proxies.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take().ok_or("no stdin")?;
        let mut answers = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut address = String::new();
        answers.read_line(&mut address)?;
        Ok(Self {
            child,
            to,
            answers,
            address: address.trim().to_owned(),
        })
    }

    fn ask(&mut self, word: &str) -> Result<Value, BoxError> {
        writeln!(self.to, "{word}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
