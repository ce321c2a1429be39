//! Shipping: from the write-ahead log to the audit log, in order, at least once, for ever.

mod grpc;

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use tonic::transport::Channel;

use crate::{
    AuditLog, BatchSigner, Wal, WalError,
    batch::{Batch, BoxError, MAX_BATCH_BYTES, MAX_BATCH_RECORDS},
    log::{LogError, Position},
    wal::{Chunk, Cursor, line::Line, mark, writer},
};

/// Makes a fresh channel to the mesh process; called for every (re)connection, so that each uses current credentials.
pub type ChannelFactory =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Channel, BoxError>> + Send>> + Send + Sync>;

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
}

/// Where batches go.
trait Uplink: Send {
    fn send(&mut self, batch: Batch) -> impl Future<Output = Result<Position, ShipError>> + Send;
}

/// Ships `wal` for ever, and keeps its marks; drop the future to stop. Nothing is lost by that: the log says where to go on.
pub async fn ship(
    wal: Arc<Wal>,
    connect: ChannelFactory,
    signer: Arc<dyn BatchSigner>,
    options: ShipOptions,
) {
    let marks = mark::keep(Arc::clone(&wal), Arc::clone(&signer));
    let shipping = ship_batches(wal, connect, signer, options);
    // Cancel-safe: neither ends by itself.
    tokio::select! {
        () = marks => {}
        () = shipping => {}
    }
}

async fn ship_batches(
    wal: Arc<Wal>,
    connect: ChannelFactory,
    signer: Arc<dyn BatchSigner>,
    options: ShipOptions,
) {
    let mut backoff = options.min_backoff;
    loop {
        let before = wal.status().backlog;
        // Asked before the log is: what the process before shipped until then counts as held.
        let alone = wal.is_alone();
        let connected = grpc::connect(&connect, wal.proxy(), options.answer_timeout).await;
        let failed = match (alone, connected) {
            (Ok(alone), Ok((positions, uplink))) => {
                pump(
                    &wal,
                    Known { alone, positions },
                    uplink,
                    signer.as_ref(),
                    &options,
                )
                .await
            }
            (Err(error), _) => ShipError::Wal(error),
            (_, Err(error)) => error,
        };
        if matches!(failed, ShipError::TookOver) {
            continue;
        }
        backoff = wait(&wal, &failed, before, backoff, &options).await;
    }
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
                pump(
                    &wal,
                    Known { alone, positions },
                    uplink,
                    signer.as_ref(),
                    &options,
                )
                .await
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

/// What is known when shipping begins.
struct Known {
    /// Whether no other process writes here.
    alone: bool,
    /// Asked for after that.
    positions: Positions,
}

/// Sends batch after batch until something fails, in turn for each worker.
///
/// Beside another process (not [`Known::alone`]), a line waits that continues one which the log does not hold yet: that is the
/// other process's to ship. Ends when there is no such process any more.
async fn pump(
    wal: &Wal,
    known: Known,
    mut uplink: impl Uplink,
    signer: &dyn BatchSigner,
    options: &ShipOptions,
) -> ShipError {
    let Known {
        alone,
        mut positions,
    } = known;
    let mut cursors = BTreeMap::new();
    loop {
        match wal.is_alone() {
            Ok(now) if now != alone => return ShipError::TookOver,
            Ok(_) => {}
            Err(error) => return ShipError::Wal(error),
        }
        let mut more = false;
        for line in wal.all_lines() {
            let position = positions.entry(line.worker).or_default();
            let reached = (position.epoch, position.sequence);
            if !alone && !line.writer().may_ship_after(reached) {
                continue;
            }
            if !cursors.contains_key(&line.worker)
                && let Err(error) = accept(wal, &line, position)
            {
                return error;
            }
            let cursor = cursors.entry(line.worker).or_default();
            let chunk = match next(&line, cursor, position, options) {
                Ok(Some(chunk)) => chunk,
                Ok(None) => continue,
                Err(error) => return ShipError::Wal(error),
            };
            more |= chunk.records.len() >= options.max_records.min(MAX_BATCH_RECORDS) / 2;
            match send(wal, chunk, position, &mut uplink, signer).await {
                Ok(reached) => {
                    let removed = line.writer().acknowledge(reached.epoch, reached.sequence);
                    writer::remove(removed);
                    *position = reached;
                }
                Err(error) => return error,
            }
        }
        if !more {
            tokio::time::sleep(options.interval).await;
        }
    }
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
    position: &Position,
    options: &ShipOptions,
) -> Result<Option<Chunk>, WalError> {
    if cursor.is_none() {
        *cursor = line.cursor_after(position.epoch, position.sequence)?;
    }
    // A record is at most 64 KiB, so that one beyond the mark still fits the log's bound.
    let bytes = options.max_bytes.min(MAX_BATCH_BYTES - (1 << 17));
    match cursor {
        Some(cursor) => line.read(cursor, options.max_records.min(MAX_BATCH_RECORDS), bytes),
        None => Ok(None),
    }
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
