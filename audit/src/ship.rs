//! Shipping: from the write-ahead log to an audit log, in order, at least once, for ever.
//!
//! Where there are several logs, a proxy stays with the first of its own order that takes its batches; the chain of batches
//! goes on from one log to the next (`target`, `shipped`).

mod grpc;
mod shipped;
mod target;

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use tokio::time::Instant;

pub use self::target::{ChannelFactory, Target, Targets, in_order, only};
use crate::{
    AuditLog, BatchSigner, Wal, WalError,
    batch::{Batch, BoxError, MAX_BATCH_BYTES, MAX_BATCH_RECORDS},
    log::{LogError, Position},
    wal::{Chunk, Cursor, line::Line, mark, writer},
};

/// How records are shipped.
#[derive(Clone, Debug)]
pub struct ShipOptions {
    /// How long records wait to make a batch.
    pub interval: Duration,
    /// Most records in a batch.
    pub max_records: usize,
    /// Most bytes of records in a batch.
    pub max_bytes: usize,
    /// Wait before the first new attempt after a failure; doubles up to `max_backoff`.
    pub min_backoff: Duration,
    /// Longest wait between attempts.
    pub max_backoff: Duration,
    /// Longest wait for an answer before the connection counts as dead.
    pub answer_timeout: Duration,
    /// How long a log that is not the first of the order is stayed with before the first is tried again.
    pub home_after: Duration,
}

impl Default for ShipOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(250),
            max_records: 4096,
            max_bytes: 2 << 20,
            min_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(3),
            answer_timeout: Duration::from_secs(10),
            home_after: Duration::from_secs(30),
        }
    }
}

/// Why shipping stopped for now.
#[derive(Debug, thiserror::Error)]
enum ShipError {
    #[error("cannot reach the audit log")]
    Connect(#[source] BoxError),
    #[error("the connection to the audit log broke")]
    Rpc(#[source] Box<tonic::Status>),
    #[error("the audit log ended the connection or did not answer in time")]
    Gone,
    #[error("the audit log refused: {0}")]
    Refused(String),
    #[error("the audit log failed")]
    Log(#[source] LogError),
    #[error("cannot read the write-ahead log")]
    Wal(#[source] WalError),
    #[error("there is no identity to sign with yet")]
    NoIdentity,
    #[error("cannot sign a batch")]
    Sign(#[source] BoxError),
    #[error(
        "the audit log holds record {0}/{1}/{2} of this proxy, and this write-ahead log does not reach that far: was it replaced?"
    )]
    Ahead(u64, u16, u64),
    #[error("the process before has ended: what it left is to be shipped, too")]
    TookOver,
    #[error(
        "this audit log does not know how far another got with worker {0}, and this write-ahead log begins later"
    )]
    Behind(u16),
    #[error("another audit log comes first")]
    Home,
}

/// Where batches go.
trait Uplink: Send {
    fn send(&mut self, batch: Batch) -> impl Future<Output = Result<Position, ShipError>> + Send;
}

/// Ships `wal` for ever, and keeps its marks; drop the future to stop. Nothing is lost by that: the log says where to go on.
pub async fn ship(
    wal: Arc<Wal>,
    targets: Targets,
    signer: Arc<dyn BatchSigner>,
    options: ShipOptions,
) {
    let marks = mark::keep(Arc::clone(&wal), Arc::clone(&signer));
    let shipping = ship_batches(wal, targets, signer, options);
    // Cancel-safe: neither ends by itself.
    tokio::select! {
        () = marks => {}
        () = shipping => {}
    }
}

async fn ship_batches(
    wal: Arc<Wal>,
    targets: Targets,
    signer: Arc<dyn BatchSigner>,
    options: ShipOptions,
) {
    let mut backoff = options.min_backoff;
    let mut next = 0;
    loop {
        let before = wal.status().backlog;
        let all = targets();
        let (at, last) = (next, next + 1 >= all.len());
        let (failed, acknowledged) = match all.get(at) {
            Some(target) => {
                let moves = moves(&targets, (at, &target.name), options.home_after);
                ship_to(&wal, target, (moves, last), &signer, &options).await
            }
            None => (ShipError::Gone, 0),
        };
        if matches!(failed, ShipError::TookOver) {
            continue;
        }
        let home = matches!(failed, ShipError::Home);
        next = match home || acknowledged > 0 || last {
            true => 0,
            false => at + 1,
        };
        let elsewhere = next > at || home;
        if elsewhere {
            let log = all.get(at).map_or("", |target| target.name.as_str());
            tracing::info!(log, why = %failed, "another audit log is tried");
            continue;
        }
        backoff = wait(&wal, &failed, before, backoff, &options).await;
    }
}

/// Ships to one log until that fails; how many batches it acknowledged.
async fn ship_to(
    wal: &Wal,
    target: &Target,
    (moves, last): (Moves, bool),
    signer: &Arc<dyn BatchSigner>,
    options: &ShipOptions,
) -> (ShipError, u64) {
    // Asked before the log is: what the process before shipped until then counts as held.
    let alone = match wal.is_alone() {
        Ok(alone) => alone,
        Err(error) => return (ShipError::Wal(error), 0),
    };
    let connected = grpc::connect(&target.connect, wal.proxy(), options.answer_timeout).await;
    let (held, uplink) = match connected {
        Ok(connected) => connected,
        Err(error) => return (error, 0),
    };
    let known = Known {
        alone,
        held,
        last,
        moves: Some(moves),
    };
    pump(wal, known, uplink, signer.as_ref(), options).await
}

/// Whether another log is to be tried first: the order has another here now, or this is not the first and had its time.
type Moves = Box<dyn Fn() -> bool + Send + Sync>;

fn moves(targets: &Targets, (at, name): (usize, &str), home_after: Duration) -> Moves {
    let (targets, name) = (Arc::clone(targets), name.to_owned());
    let until = (at > 0).then(|| Instant::now() + home_after);
    Box::new(move || {
        let due = until.is_some_and(|until| Instant::now() >= until);
        due || targets().get(at).is_none_or(|target| target.name != name)
    })
}

/// The same within the mesh process, whose own events go to the log directly.
pub async fn ship_local(
    wal: Arc<Wal>,
    log: Arc<AuditLog>,
    signer: Arc<dyn BatchSigner>,
    options: ShipOptions,
) {
    let marks = mark::keep(Arc::clone(&wal), Arc::clone(&signer));
    let shipping = ship_batches_local(wal, log, signer, options);
    // Cancel-safe: neither ends by itself.
    tokio::select! {
        () = marks => {}
        () = shipping => {}
    }
}

async fn ship_batches_local(
    wal: Arc<Wal>,
    log: Arc<AuditLog>,
    signer: Arc<dyn BatchSigner>,
    options: ShipOptions,
) {
    let mut backoff = options.min_backoff;
    loop {
        let before = wal.status().backlog;
        let alone = wal.is_alone();
        let (acknowledged, uplink) = (log.acknowledged(wal.proxy()).await, Local(log.clone()));
        let failed = match (alone, acknowledged) {
            (Ok(alone), Ok(positions)) => {
                let known = Known::of_only_log(alone, positions, log.origin());
                let (failed, _) = pump(&wal, known, uplink, signer.as_ref(), &options).await;
                failed
            }
            (Err(error), _) => ShipError::Wal(error),
            (_, Err(error)) => ShipError::Log(error),
        };
        if matches!(failed, ShipError::TookOver) {
            continue;
        }
        backoff = wait(&wal, &failed, before, backoff, &options).await;
    }
}

/// Waits after a failure, and says for how long after the next one.
async fn wait(
    wal: &Wal,
    failed: &ShipError,
    before: u64,
    backoff: Duration,
    options: &ShipOptions,
) -> Duration {
    let source = std::error::Error::source(failed).map(ToString::to_string);
    tracing::warn!(error = %failed, source, backlog = before, "shipping of audit records waits");
    let progressed = wal.status().backlog < before;
    let now = if progressed {
        options.min_backoff
    } else {
        backoff
    };
    tokio::time::sleep(now).await;
    (now * 2).min(options.max_backoff)
}

/// What is held of each worker; nothing is of those not named.
type Positions = BTreeMap<u16, Position>;

/// What a log says when shipping to it begins.
#[derive(Debug)]
struct Held {
    /// Its name.
    log: String,
    positions: Positions,
}

/// What is known when shipping begins.
struct Known {
    /// Whether no other process writes here.
    alone: bool,
    /// Asked for after that.
    held: Held,
    /// Whether there is no other log to try.
    last: bool,
    /// Whether another log is to be tried first; `None` where there is none.
    moves: Option<Moves>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known")
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl Known {
    fn of_only_log(alone: bool, positions: Positions, log: &str) -> Self {
        let log = log.to_owned();
        Self {
            alone,
            held: Held { log, positions },
            last: true,
            moves: None,
        }
    }
}

/// Sends batch after batch until something fails, in turn for each worker; says how many were acknowledged.
async fn pump(
    wal: &Wal,
    mut known: Known,
    mut uplink: impl Uplink,
    signer: &dyn BatchSigner,
    options: &ShipOptions,
) -> (ShipError, u64) {
    let mut cursors = BTreeMap::new();
    let mut acknowledged = 0;
    loop {
        let due = known.moves.as_ref().is_some_and(|moves| moves());
        let more = match wal.is_alone() {
            Ok(now) if now != known.alone => Err(ShipError::TookOver),
            Ok(_) if due => Err(ShipError::Home),
            Ok(_) => {
                let shipping = (&mut known, &mut cursors, &mut acknowledged);
                round(wal, shipping, &mut uplink, signer, options).await
            }
            Err(error) => Err(ShipError::Wal(error)),
        };
        match more {
            Ok(true) => {}
            Ok(false) => tokio::time::sleep(options.interval).await,
            Err(error) => return (error, acknowledged),
        }
    }
}

/// Sends a batch of each worker that has something; whether there is more.
///
/// Beside another process (not [`Known::alone`]), a line waits that continues one which the log does not hold yet: that is the
/// other process's to ship. Ends when there is no such process any more.
async fn round(
    wal: &Wal,
    (known, cursors, acknowledged): (&mut Known, &mut BTreeMap<u16, Option<Cursor>>, &mut u64),
    uplink: &mut impl Uplink,
    signer: &dyn BatchSigner,
    options: &ShipOptions,
) -> Result<bool, ShipError> {
    let mut more = false;
    for line in wal.all_lines() {
        let position = known.held.positions.entry(line.worker).or_default();
        let begun = cursors.contains_key(&line.worker);
        if !begun {
            shipped::catch_up(&line.dir, &known.held.log, position);
        }
        let reached = (position.epoch, position.sequence);
        if !known.alone && !line.writer().may_ship_after(reached) {
            continue;
        }
        if !begun {
            accept(wal, &line, position)?;
        }
        let cursor = cursors.entry(line.worker).or_default();
        let Some(chunk) = next(&line, cursor, (&*position, known.last), options)? else {
            continue;
        };
        more |= chunk.records.len() >= options.max_records.min(MAX_BATCH_RECORDS) / 2;
        let reached = send(wal, chunk, position, uplink, signer).await?;
        *acknowledged += 1;
        shipped::note(&line.dir, &known.held.log, &reached);
        let removed = line.writer().acknowledge(reached.epoch, reached.sequence);
        writer::remove(removed);
        *position = reached;
    }
    Ok(more)
}

async fn send(
    wal: &Wal,
    chunk: Chunk,
    position: &Position,
    uplink: &mut impl Uplink,
    signer: &dyn BatchSigner,
) -> Result<Position, ShipError> {
    let number = if chunk.epoch == position.epoch {
        position.batch + 1
    } else {
        1
    };
    let identity = signer.identity().ok_or(ShipError::NoIdentity)?;
    let previous = position.header_hash;
    let batch = Batch::sign(chunk, wal.proxy(), number, previous, &identity, wal.now())
        .map_err(ShipError::Sign)?;
    uplink.send(batch).await
}

/// Takes the position that the log states as acknowledgement, unless it cannot be of this write-ahead log. A line that
/// this process only ships the rest of may have been gone on with by the one that takes over.
fn accept(wal: &Wal, line: &Line, position: &Position) -> Result<(), ShipError> {
    let mut writer = line.writer();
    let own = wal.writes(line.worker);
    if own && (position.epoch, position.sequence) > (writer.epoch, writer.sequence()) {
        return Err(ShipError::Ahead(
            position.epoch,
            line.worker,
            position.sequence,
        ));
    }
    let removed = writer.acknowledge(position.epoch, position.sequence);
    drop(writer);
    writer::remove(removed);
    Ok(())
}

fn next(
    line: &Line,
    cursor: &mut Option<Cursor>,
    (position, last): (&Position, bool),
    options: &ShipOptions,
) -> Result<Option<Chunk>, ShipError> {
    if cursor.is_none() {
        let after = line.cursor_after(position.epoch, position.sequence);
        *cursor = after.map_err(ShipError::Wal)?;
        let follows = |cursor: &Cursor| cursor.follows((position.epoch, position.sequence));
        // Where there is no other log to ask, records go on all the same, and `verify` tells what is missing.
        if !last && !cursor.as_ref().is_none_or(follows) {
            return Err(ShipError::Behind(line.worker));
        }
    }
    // A record is at most 64 KiB, so that one beyond the mark still fits the log's bound.
    let bytes = options.max_bytes.min(MAX_BATCH_BYTES - (1 << 17));
    let read = match cursor {
        Some(cursor) => line.read(cursor, options.max_records.min(MAX_BATCH_RECORDS), bytes),
        None => Ok(None),
    };
    read.map_err(ShipError::Wal)
}

#[derive(Debug)]
struct Local(Arc<AuditLog>);

impl Uplink for Local {
    async fn send(&mut self, batch: Batch) -> Result<Position, ShipError> {
        self.0.submit(batch).await.map_err(ShipError::Log)
    }
}

#[cfg(test)]
mod tests;
