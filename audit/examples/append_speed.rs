//! Prints what an append to the write-ahead log costs, per level and number of workers:
//! `cargo run --release -p reeve-audit --example append_speed -- FOLDER` (on the file system to be measured).
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use reeve_audit::{DecisionRecord, Level, OutcomeRecord, Wal, WalOptions, WalWriter};
use reeve_core::clock::SystemClock;

#[path = "sample/decision.rs"]
mod sample;

type Failure = Box<dyn Error + Send + Sync>;

/// A measurement repeats this often and gives the median.
const ROUNDS: usize = 5;

fn main() -> Result<(), Failure> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let system = rustix::fs::statfs(folder.as_str())?.f_type;
    println!(
        "{folder} is on a file system of type {system:#x} (ext4 0xef53, tmpfs 0x1021994, overlay 0x794c7630)"
    );
    println!(
        "{:>9} {:>7} {:>19} {:>19}   (ns of processor / of wall clock)",
        "level", "workers", "decision", "decision + outcome"
    );
    for (level, count) in [
        (Level::Buffered, 40_000),
        (Level::Os, 40_000),
        (Level::Disk, 100),
    ] {
        for workers in [1, 2] {
            let alone = median(&folder, level, workers, count, false)?;
            let pair = median(&folder, level, workers, count, true)?;
            println!(
                "{:>9} {workers:>7} {alone:>19} {pair:>19}",
                format!("{level:?}").to_lowercase()
            );
        }
    }
    Ok(())
}

fn median(
    folder: &str,
    level: Level,
    workers: u16,
    count: u32,
    outcome: bool,
) -> Result<String, Failure> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir_in(folder)?;
        rounds.push(round(dir.path(), level, workers, count, outcome)?);
    }
    let middle = |cost: fn(&Cost) -> Duration| {
        let mut times: Vec<_> = rounds.iter().map(cost).collect();
        times.sort_unstable();
        times.get(ROUNDS / 2).copied().unwrap_or_default() / count
    };
    let (wall, processor) = (middle(|c| c.wall), middle(|c| c.processor));
    Ok(format!("{} / {}", processor.as_nanos(), wall.as_nanos()))
}

/// What a worker took for its appends.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    wall: Duration,
    processor: Duration,
}

/// What the slowest worker took.
fn round(
    dir: &Path,
    level: Level,
    workers: u16,
    count: u32,
    outcome: bool,
) -> Result<Cost, Failure> {
    let options = WalOptions {
        level,
        ..WalOptions::default()
    };
    let wal = Wal::open(dir, "reviews-v1-0".parse()?, options, Arc::new(SystemClock))?;
    let writers: Vec<_> = (0..workers)
        .map(|w| wal.writer(w))
        .collect::<Result<_, _>>()?;
    let record = sample::decision()?;
    std::thread::scope(|scope| {
        let running: Vec<_> = writers
            .iter()
            .map(|writer| scope.spawn(|| work(writer, &record, count, outcome)))
            .collect();
        let mut slowest = Cost::default();
        for worker in running {
            slowest = slowest.max(worker.join().map_err(|_panic| "a worker panicked")??);
        }
        Ok(slowest)
    })
}

fn work(
    writer: &WalWriter,
    record: &DecisionRecord,
    count: u32,
    outcome: bool,
) -> Result<Cost, Failure> {
    let (start, used) = (std::time::Instant::now(), processor_time()?);
    for _ in 0..count {
        let decision = writer.append(record)?;
        if outcome {
            writer.defer(&OutcomeRecord {
                decision,
                status: Some(200),
                grpc_status: None,
                bytes_in: 0,
                bytes_out: 1024,
                duration_us: 731,
                upstream: Some("127.77.4.2:9080".to_owned()),
                flags: String::new(),
                transformations: vec![],
            })?;
        }
    }
    Ok(Cost {
        wall: start.elapsed(),
        processor: processor_time()?.saturating_sub(used),
    })
}

/// What this thread has used of a processor: the first number of `schedstat`, in nanoseconds (proc(5)).
fn processor_time() -> Result<Duration, Failure> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(Duration::from_nanos(nanos))
}
