//! Prints what recording costs a worker that serves many connections at once, with a write per record and with one per turn
//! of its event loop: `cargo run --release -p reeve-audit --example turn_speed -- FOLDER`.
//!
//! One thread answers every request (128 bytes over a socket) after it recorded a decision, as a proxy's worker does; another
//! asks, on so many connections at once. Counted are the processor time of the worker per request, and its writes.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::{
    error::Error,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use reeve_audit::{DecisionRecord, Level, Wal, WalOptions, WalWriter};
use reeve_core::clock::SystemClock;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    runtime::Builder,
};

#[path = "sample/decision.rs"]
mod sample;

type Failure = Box<dyn Error + Send + Sync>;

const MESSAGE: usize = 128;
const ROUNDS: usize = 5;
const SPAN: Duration = Duration::from_millis(400);

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Not,
    Each,
    Turn,
}

fn main() -> Result<(), Failure> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    println!(
        "{:>11} {:>16} {:>22} {:>22}   (us of processor per request, median of {ROUNDS} interleaved rounds; writes per request)",
        "connections", "no record", "write per record", "write per turn"
    );
    for connections in [1, 4, 16, 64, 256] {
        let mut costs: [Vec<(u64, u64)>; 3] = Default::default();
        for _ in 0..ROUNDS {
            for (costs, how) in costs.iter_mut().zip([How::Not, How::Each, How::Turn]) {
                costs.push(round(Path::new(&folder), connections, how)?);
            }
        }
        let [not, each, turn] = costs.map(|mut all| {
            all.sort_unstable();
            let (nanos, writes) = all.get(ROUNDS / 2).copied().unwrap_or_default();
            format!(
                "{}.{:02} / {}.{:02}",
                nanos / 1000,
                nanos % 1000 / 10,
                writes / 100,
                writes % 100
            )
        });
        println!("{connections:>11} {not:>16} {each:>22} {turn:>22}");
    }
    Ok(())
}

/// Processor nanoseconds and hundredths of writes per request.
fn round(folder: &Path, connections: usize, how: How) -> Result<(u64, u64), Failure> {
    let dir = tempfile::tempdir_in(folder)?;
    let options = WalOptions {
        level: Level::Os,
        max_bytes: 1 << 30,
        ..WalOptions::default()
    };
    let wal = Wal::open(
        dir.path(),
        "reviews-v1-0".parse()?,
        options,
        Arc::new(SystemClock),
    )?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..connections {
        let (a, b) = std::os::unix::net::UnixStream::pair()?;
        a.set_nonblocking(true)?;
        b.set_nonblocking(true)?;
        ours.push(a);
        theirs.push(b);
    }
    let over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&over);
    let asking = std::thread::spawn(move || ask(theirs, &stop));
    let served = serve(ours, wal.writer(0)?, how)?;
    over.store(true, Ordering::Relaxed);
    asking.join().map_err(|_panic| "the asker panicked")??;
    Ok(served)
}

fn serve(
    connections: Vec<std::os::unix::net::UnixStream>,
    writer: WalWriter,
    how: How,
) -> Result<(u64, u64), Failure> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let served = Arc::new(AtomicU64::new(0));
    let record = Arc::new(sample::decision()?);
    runtime.block_on(async {
        for connection in connections {
            let connection = UnixStream::from_std(connection)?;
            let (writer, record, served) = (writer.clone(), record.clone(), served.clone());
            tokio::spawn(async move {
                // A request's own future is some layers deep; each wake goes through all of them.
                Box::pin(answer(connection, &writer, &record, how, &served)).await
            });
        }
        tokio::time::sleep(SPAN / 4).await;
        let before = (
            processor_nanos()?,
            served.load(Ordering::Relaxed),
            writes()?,
        );
        tokio::time::sleep(SPAN).await;
        let after = (
            processor_nanos()?,
            served.load(Ordering::Relaxed),
            writes()?,
        );
        let requests = after.1.saturating_sub(before.1).max(1);
        // Sockets are sent to, not written: these are the log's.
        let writes = after.2.saturating_sub(before.2);
        Ok((
            after.0.saturating_sub(before.0) / requests,
            writes * 100 / requests,
        ))
    })
}

async fn answer(
    mut connection: UnixStream,
    writer: &WalWriter,
    record: &DecisionRecord,
    how: How,
    served: &AtomicU64,
) -> Result<(), Failure> {
    let mut message = [0; MESSAGE];
    loop {
        connection.read_exact(&mut message).await?;
        match how {
            How::Not => {}
            How::Each => drop(writer.append(record)?),
            How::Turn => drop(writer.append_in_turn(record).await?),
        }
        connection.write_all(&message).await?;
        served.fetch_add(1, Ordering::Relaxed);
    }
}

fn ask(connections: Vec<std::os::unix::net::UnixStream>, over: &AtomicBool) -> Result<(), Failure> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for connection in connections {
            let mut connection = UnixStream::from_std(connection)?;
            tokio::spawn(async move {
                let mut message = [7; MESSAGE];
                while connection.write_all(&message).await.is_ok()
                    && connection.read_exact(&mut message).await.is_ok()
                {}
            });
        }
        while !over.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    })
}

/// What this thread has used of a processor: the first number of `schedstat`, in nanoseconds (proc(5)).
fn processor_nanos() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

/// write(2) calls of this thread so far: `syscw` in `io` (proc(5)).
fn writes() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/thread-self/io")?;
    let line = text.lines().find_map(|line| line.strip_prefix("syscw: "));
    Ok(line.ok_or("no syscw")?.parse()?)
}
