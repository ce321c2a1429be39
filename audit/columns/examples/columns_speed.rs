//! What columns cost to write and to search:
//! `cargo run --release -p reeve-columns --example columns_speed -- write FOLDER [RECORDS]`, then `… -- ask FOLDER`.
//!
//! `write` makes a day of a mesh of thirty services as columns alone, in segments as the mesh process makes them: a decision
//! and its outcome in turn, each request with a trace id of its own, one decision in a hundred denied. `ask` prints the
//! denials of one hour of it, as `reeve audit query` does. `grep` writes the same day's first records as plain JSON
//! lines to a file, for comparison.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::{
    error::Error,
    fmt::Write as _,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use reeve_audit::{Reader, Record, query::Filter};
use reeve_columns::{Columns, Segment, SegmentWriter};
use reeve_core::{UnixTime, decision::Effect};

type Failure = Box<dyn Error + Send + Sync>;

const DAY_MS: u64 = 24 * 3600 * 1000;
const START_MS: u64 = 1_790_000_000_000;
const SERVICES: u64 = 30;
const PROXIES: u64 = 60;
/// Records of a batch, of one proxy.
const BATCH: u64 = 512;
const SEGMENT: u64 = 1 << 20;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["write", folder, rest @ ..] => write(Path::new(folder), number(rest)?),
        ["grep", file, rest @ ..] => lines(Path::new(file), number(rest)?),
        ["ask", folder] => ask(Path::new(folder)),
        _ => Err("write FOLDER [RECORDS], grep FILE [RECORDS] or ask FOLDER".into()),
    }
}

fn number(rest: &[&str]) -> Result<u64, Failure> {
    Ok(rest.first().map_or(Ok(1_000_000), |n| n.parse())?)
}

/// Mixes a number well (SplitMix64).
fn mixed(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One of `total` records, in canonical form. Batches of the proxies take turns.
fn record(n: u64, total: u64, out: &mut String) -> Result<(), Failure> {
    let (batch, within) = (n / BATCH, n % BATCH);
    let (proxy, round) = (batch % PROXIES, batch / PROXIES);
    let sequence = round * BATCH + within + 1;
    let time = START_MS + u64::try_from(u128::from(n) * u128::from(DAY_MS) / u128::from(total))?;
    let chance = mixed(n & !1);
    let service = proxy % SERVICES;
    out.clear();
    if !n.is_multiple_of(2) {
        write!(
            out,
            "{{\"bytes_in\":{},\"bytes_out\":{},\"decision\":\"service-{service}-v1-{}/1/0/{}\",\"duration_us\":{},\
             \"id\":\"service-{service}-v1-{}/1/0/{sequence}\",\"kind\":\"outcome\",\"schema\":\"reeve.audit/v1\",\"status\":200,\
             \"time\":{time},\"upstream\":\"127.77.{service}.2:9080\"}}",
            chance % 700,
            chance % 16_384,
            proxy / SERVICES,
            sequence - 1,
            500 + chance % 20_000,
            proxy / SERVICES,
        )?;
        return Ok(());
    }
    let caller = chance % 12;
    let (effect, reason, policies) = match chance % 100 {
        0 => ("deny", "no_permit", String::new()),
        _ => (
            "allow",
            "permitted",
            format!("\"policies\":[\"default/service-{service}#from-{caller}\"],"),
        ),
    };
    write!(
        out,
        "{{\"authenticated_by\":\"mtls\",\"cost_us\":{},\"decision\":{{\"effect\":\"{effect}\",{policies}\"reason\":\"{reason}\"}},\
         \"direction\":\"inbound\",\"generation\":7,\"id\":\"service-{service}-v1-{}/1/0/{sequence}\",\"kind\":\"decision\",\
         \"mtls_mode\":\"STRICT\",\"path_normalization\":\"REFUSE_AMBIGUOUS\",\
         \"policy_hash\":\"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\",\
         \"projection_hash\":\"60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c75{:x}\",\
         \"request\":{{\"action\":\"GET\",\"context\":{{\"http\":{{\"host\":\"service-{service}\",\"method\":\"GET\",\
         \"path\":\"/api/v1/{}/{}\"}},\"mtls\":true,\"port\":9080,\"source_ip\":\"127.77.{caller}.1\",\"time\":{time}}},\
         \"principal\":{{\"workload\":\"spiffe://mesh.local/ns/default/sa/service-{caller}\"}},\
         \"resource\":{{\"namespace\":\"default\",\"services\":[\"service-{service}.default.svc.cluster.local\"],\
         \"workload\":\"spiffe://mesh.local/ns/default/sa/service-{service}\"}}}},\"schema\":\"reeve.audit/v1\",\
         \"strict_would_refuse\":false,\"time\":{time},\"trace_id\":\"{:016x}{:016x}\"}}",
        20 + chance % 40,
        proxy / SERVICES,
        service % 16,
        match chance % 3 {
            0 => "products",
            1 => "orders",
            _ => "reviews",
        },
        chance % 100_000,
        mixed(n ^ 1),
        mixed(n ^ 2),
    )?;
    Ok(())
}

fn write(folder: &Path, total: u64) -> Result<(), Failure> {
    let columns = folder.join("parquet");
    fs::create_dir_all(&columns)?;
    let mut text = String::new();
    let (mut n, mut plain, mut spent) = (0, 0u64, Duration::ZERO);
    while n < total {
        let first = n / BATCH;
        let path = columns.join("segment.tmp");
        let mut writer = SegmentWriter::new(BufWriter::new(File::create(&path)?))?;
        let end = total.min(n + SEGMENT);
        while n < end {
            record(n, total, &mut text)?;
            if n.is_multiple_of(100_003) {
                Record::from_slice(text.as_bytes())?;
            }
            plain += u64::try_from(text.len())? + 1;
            let hash = format!("{:064x}", n / BATCH);
            let began = Instant::now();
            writer.push(text.as_bytes(), &hash)?;
            spent += began.elapsed();
            n += 1;
        }
        let began = Instant::now();
        let (out, extent) = writer.finish(|_| Vec::new())?;
        out.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        spent += began.elapsed();
        let (earliest, latest) = extent.times.unwrap_or_default();
        let segment = Segment {
            first,
            last: (n - 1) / BATCH,
            earliest,
            latest,
        };
        fs::rename(&path, segment.path(folder))?;
    }
    let leaves = total.div_ceil(BATCH);
    fs::write(
        folder.join("checkpoint"),
        format!("mesh.local/audit\n{leaves}\n\n"),
    )?;
    let mut stored = 0;
    for entry in fs::read_dir(&columns)? {
        stored += entry?.metadata()?.len();
    }
    println!(
        "{{\"records\":{total},\"plain_bytes\":{plain},\"parquet_bytes\":{stored},\"write_seconds\":{:.3}}}",
        spent.as_secs_f64()
    );
    Ok(())
}

fn lines(file: &Path, total: u64) -> Result<(), Failure> {
    let mut out = BufWriter::new(File::create(file)?);
    let mut text = String::new();
    for n in 0..total {
        record(n, total, &mut text)?;
        writeln!(out, "{text}")?;
    }
    Ok(out.flush()?)
}

/// The denials of the thirteenth hour.
fn ask(folder: &Path) -> Result<(), Failure> {
    let began = Instant::now();
    let columns = Arc::new(Columns::open(folder)?);
    let reader = Reader::open(folder)?.with_archive(columns);
    let filter = Filter {
        since: Some(UnixTime::from_millis(START_MS + 12 * 3600 * 1000)),
        until: Some(UnixTime::from_millis(START_MS + 13 * 3600 * 1000)),
        effect: Some(Effect::Deny),
        ..Filter::default()
    };
    let found = reader.query(&filter)?;
    let mut out = BufWriter::new(std::io::stderr().lock());
    for found in &found {
        serde_json::to_writer(&mut out, found)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    let seconds = began.elapsed().as_secs_f64();
    println!("{{\"found\":{},\"seconds\":{seconds:.3}}}", found.len());
    Ok(())
}
