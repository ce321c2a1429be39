//! Prints what an append to the write-ahead log costs, per level and number of workers, making the JSON included, and what
//! of it is the system's:
//! `cargo run --release -p reeve-audit --example append_speed -- FOLDER` (on the file system to be measured).
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::{
    error::Error,
    fs::File,
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use reeve_audit::{DecisionRecord, Level, OutcomeRecord, Record, Wal, WalOptions, WalWriter};
use reeve_core::clock::SystemClock;

#[path = "sample/decision.rs"]
mod sample;

type Failure = Box<dyn Error + Send + Sync>;

/// A measurement repeats this often and gives the median.
const ROUNDS: usize = 5;
/// What a frame adds to a record.
const FRAME: usize = 40;

fn main() -> Result<(), Failure> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let system = rustix::fs::statfs(folder.as_str())?.f_type;
    let record = sample::decision()?;
    let length = length(&record)?;
    println!(
        "{folder} is on a file system of type {system:#x} (ext4 0xef53, tmpfs 0x1021994, overlay 0x794c7630); a decision has \
         {length} bytes"
    );
    println!(
        "{:>16} {:>7} {:>23} {:>23}   (ns: of processor on average, of wall clock at p50 and p99)",
        "level", "workers", "decision", "decision + outcome"
    );
    let mut os = Cost::default();
    for (level, count) in [
        (Level::Buffered, 40_000),
        (Level::Os, 40_000),
        (Level::Disk, 100),
    ] {
        for workers in [1, 2] {
            let alone = median(&folder, |dir| {
                round(dir, level, workers, &record, (count, false))
            })?;
            let pair = median(&folder, |dir| {
                round(dir, level, workers, &record, (count, true))
            })?;
            if (level, workers) == (Level::Os, 1) {
                os = alone;
            }
            let level = format!("{level:?}").to_lowercase();
            let (alone, pair) = (alone.to_string(), pair.to_string());
            println!("{level:>16} {workers:>7} {alone:>23} {pair:>23}");
        }
    }
    let bare = median(&folder, |dir| write_only(dir, length + FRAME))?;
    let text = bare.to_string();
    println!("{:>16} {:>7} {text:>23}", "write(2) alone", 1);
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "{{\"os_p50_us\":{:.3},\"os_cpu_us\":{:.3},\"write_p50_us\":{:.3},\"write_cpu_us\":{:.3}}}",
        micros(os.p50),
        micros(os.processor),
        micros(bare.p50),
        micros(bare.processor)
    );
    Ok(())
}

fn length(record: &DecisionRecord) -> Result<usize, Failure> {
    let id = "reviews-v1-0/1/0/20000".parse()?;
    let record = Record::new(id, record.clone().into(), &SystemClock);
    Ok(record.to_canonical()?.len())
}

/// The median of each figure.
fn median(folder: &str, round: impl Fn(&Path) -> Result<Cost, Failure>) -> Result<Cost, Failure> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir_in(folder)?;
        rounds.push(round(dir.path())?);
    }
    let middle = |cost: fn(&Cost) -> Duration| {
        let mut times: Vec<_> = rounds.iter().map(cost).collect();
        times.sort_unstable();
        times.get(ROUNDS / 2).copied().unwrap_or_default()
    };
    Ok(Cost {
        processor: middle(|c| c.processor),
        p50: middle(|c| c.p50),
        p99: middle(|c| c.p99),
    })
}

/// What a worker took for one of its appends.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    processor: Duration,
    p50: Duration,
    p99: Duration,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [processor, p50, p99] = [self.processor, self.p50, self.p99].map(|t| t.as_nanos());
        write!(f, "{processor} / {p50} / {p99}")
    }
}

/// What the slowest worker took.
fn round(
    dir: &Path,
    level: Level,
    workers: u16,
    record: &DecisionRecord,
    work: (u32, bool),
) -> Result<Cost, Failure> {
    let options = WalOptions {
        level,
        ..WalOptions::default()
    };
    let wal = Wal::open(dir, "reviews-v1-0".parse()?, options, Arc::new(SystemClock))?;
    let writers: Vec<_> = (0..workers)
        .map(|w| wal.writer(w))
        .collect::<Result<_, _>>()?;
    std::thread::scope(|scope| {
        let running: Vec<_> = writers
            .iter()
            .map(|writer| scope.spawn(|| append(writer, record, work)))
            .collect();
        let mut slowest = Cost::default();
        for worker in running {
            slowest = slowest.max(worker.join().map_err(|_panic| "a worker panicked")??);
        }
        Ok(slowest)
    })
}

fn append(
    writer: &WalWriter,
    record: &DecisionRecord,
    (count, outcome): (u32, bool),
) -> Result<Cost, Failure> {
    measured(count, || {
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
        Ok(())
    })
}

/// What the system takes of it: the same bytes, added to a file with its blocks reserved.
fn write_only(dir: &Path, length: usize) -> Result<Cost, Failure> {
    let bytes = vec![b'x'; length];
    let segment = WalOptions::default().segment_bytes;
    let flags = rustix::fs::FallocateFlags::KEEP_SIZE;
    let mut files = Vec::new();
    for n in 0..6 {
        let file = File::options()
            .create_new(true)
            .append(true)
            .open(dir.join(n.to_string()))?;
        rustix::fs::fallocate(&file, flags, 0, segment)?;
        files.push(file);
    }
    let each = usize::try_from(segment)? / length;
    let mut done = 0;
    measured(40_000, || {
        let file = files.get_mut(done / each).ok_or("too few files")?;
        done += 1;
        Ok(file.write_all(&bytes)?)
    })
}

fn measured(count: u32, mut each: impl FnMut() -> Result<(), Failure>) -> Result<Cost, Failure> {
    let mut times = Vec::with_capacity(usize::try_from(count)?);
    let used = processor_time()?;
    for _ in 0..count {
        let began = Instant::now();
        each()?;
        times.push(began.elapsed());
    }
    let processor = processor_time()?.saturating_sub(used) / count;
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied();
    Ok(Cost {
        processor,
        p50: at(50).unwrap_or_default(),
        p99: at(99).unwrap_or_default(),
    })
}

/// What this thread has used of a processor: the first number of `schedstat`, in nanoseconds (proc(5)).
fn processor_time() -> Result<Duration, Failure> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(Duration::from_nanos(nanos))
}
