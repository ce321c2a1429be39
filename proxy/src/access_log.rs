//! The access log: one JSON line per request and connection, written by a thread of its own.

use std::{
    io::Write,
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
};

use reeve_core::UnixTime;
use serde::Serialize;

use crate::{limits::ACCESS_LOG_QUEUE, metrics::Metrics};

/// One line.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Line<'a> {
    pub(crate) log: &'static str,
    pub(crate) time: UnixTime,
    pub(crate) direction: &'static str,
    pub(crate) trace_id: Option<&'a str>,
    pub(crate) request_id: Option<&'a str>,
    pub(crate) decision_id: Option<&'a str>,
    pub(crate) record: Option<String>,
    pub(crate) effect: Option<&'static str>,
    pub(crate) reason: Option<&'static str>,
    pub(crate) policies: &'a [String],
    pub(crate) peer: &'a str,
    pub(crate) peer_address: String,
    pub(crate) user: Option<&'a str>,
    pub(crate) protocol: &'static str,
    pub(crate) method: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) raw_path: &'a str,
    pub(crate) route: Option<&'a str>,
    pub(crate) service: &'a str,
    pub(crate) upstream: Option<&'a str>,
    pub(crate) attempts: u32,
    pub(crate) response_code: u16,
    pub(crate) grpc_status: Option<u16>,
    pub(crate) flags: &'a str,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) duration_ms: f64,
}

/// Takes lines; never blocks.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    lines: SyncSender<Vec<u8>>,
    metrics: Arc<Metrics>,
}

impl AccessLog {
    /// Starts the writing thread, which ends with the last sender.
    pub(crate) fn start(
        mut out: Box<dyn Write + Send>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let (lines, queue) = sync_channel::<Vec<u8>>(ACCESS_LOG_QUEUE);
        let failed = metrics.clone();
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                for line in queue {
                    if out.write_all(&line).and_then(|()| out.flush()).is_err() {
                        failed.log_line_dropped("write");
                    }
                }
            })?;
        Ok(Self { lines, metrics })
    }

    /// Queues a line, or counts it as dropped.
    pub(crate) fn write(&self, line: &Line<'_>) {
        let Ok(mut text) = serde_json::to_vec(line) else {
            self.metrics.log_line_dropped("encode");
            return;
        };
        text.push(b'\n');
        match self.lines.try_send(text) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.metrics.log_line_dropped("full"),
            Err(TrySendError::Disconnected(_)) => self.metrics.log_line_dropped("ended"),
        }
    }
}
