//! The access log: one line per request and connection, in Reeve's JSON or a format of Envoy's (`format`). Each worker gathers lines and hands them on in lumps to
//! one thread, which writes them.

mod flags;
mod format;

pub(crate) use format::LogFormat;

use std::{
    io::Write,
    mem,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
};

use http::HeaderMap;
use reeve_core::{PolicyId, RecordId, UnixTime};
use serde::Serialize;

use crate::{
    ledger::lock,
    limits::{ACCESS_LOG_LUMP_BYTES, ACCESS_LOG_QUEUE},
    metrics::Metrics,
    tap::Bodies,
};

/// A finished request or connection, as whoever tells of it sees it.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    pub(crate) line: Line<'a>,
    /// Headers as they were judged.
    pub(crate) request: Option<&'a HeaderMap>,
    pub(crate) query: Option<&'a str>,
    /// `HTTP/1.1` and the like; `None` for TCP.
    pub(crate) version: Option<&'static str>,
    /// Headers of the response, when somebody needs them.
    pub(crate) response: Option<&'a HeaderMap>,
    pub(crate) trailers: Option<&'a HeaderMap>,
    /// `via_upstream`, or why the proxy answered.
    pub(crate) details: &'static str,
    /// Why the upstream could not be reached.
    pub(crate) failure: Option<&'a str>,
    /// Port and subset of the service asked for, on the outbound side.
    pub(crate) destination: Option<(u16, Option<&'a str>)>,
    /// The SPIFFE ID on the server's side.
    pub(crate) server: Option<&'a str>,
    pub(crate) server_name: Option<&'a str>,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) peer_port: Option<u16>,
    /// Milliseconds until the upstream's response began.
    pub(crate) response_ms: Option<f64>,
    /// What is kept of the bodies for taps.
    pub(crate) bodies: Option<&'a Bodies>,
}

impl Told<'_> {
    /// The cluster by Envoy's name for it in Istio.
    fn cluster(&self) -> Option<String> {
        if self.line.direction == "inbound" {
            return self.local.map(|at| format!("inbound|{}||", at.port()));
        }
        let (port, subset) = self.destination?;
        let subset = subset.unwrap_or_default();
        Some(format!("outbound|{port}|{subset}|{}", self.line.service))
    }

    /// The caller's address, with its port if that is known.
    fn remote(&self) -> Option<String> {
        let ip = self.line.peer_address?;
        Some(match self.peer_port {
            Some(port) => SocketAddr::new(ip, port).to_string(),
            None => ip.to_string(),
        })
    }
}

/// One line.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Line<'a> {
    pub(crate) log: &'static str,
    pub(crate) time: UnixTime,
    pub(crate) direction: &'static str,
    pub(crate) trace_id: Option<&'a str>,
    pub(crate) request_id: Option<&'a str>,
    pub(crate) decision_id: Option<&'a str>,
    pub(crate) record: Option<&'a RecordId>,
    pub(crate) effect: Option<&'static str>,
    pub(crate) reason: Option<&'static str>,
    pub(crate) policies: &'a [PolicyId],
    pub(crate) peer: &'a str,
    pub(crate) peer_address: Option<IpAddr>,
    pub(crate) user: Option<&'a str>,
    pub(crate) protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_name: Option<&'a str>,
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

/// Takes lumps of whole lines; never blocks.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    lumps: SyncSender<Vec<u8>>,
    metrics: Arc<Metrics>,
}

impl AccessLog {
    /// Starts the writing thread, which ends with the last sender.
    pub(crate) fn start(
        mut out: Box<dyn Write + Send>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let (lumps, queue) = sync_channel::<Vec<u8>>(ACCESS_LOG_QUEUE);
        let failed = metrics.clone();
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                for lump in queue {
                    if out.write_all(&lump).and_then(|()| out.flush()).is_err() {
                        failed.log_lines_dropped("write", lines(&lump));
                    }
                }
            })?;
        Ok(Self { lumps, metrics })
    }

    fn write(&self, lump: Vec<u8>) {
        let (lump, cause) = match self.lumps.try_send(lump) {
            Ok(()) => return,
            Err(TrySendError::Full(lump)) => (lump, "full"),
            Err(TrySendError::Disconnected(lump)) => (lump, "ended"),
        };
        self.metrics.log_lines_dropped(cause, lines(&lump));
    }
}

fn lines(lump: &[u8]) -> u64 {
    lump.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// The lines of one worker that have not been handed on.
#[derive(Debug)]
pub(crate) struct LogBuffer {
    log: AccessLog,
    lines: Mutex<Vec<u8>>,
}

impl LogBuffer {
    /// Gathers lines for `log`.
    pub(crate) fn new(log: AccessLog) -> Self {
        Self {
            log,
            lines: Mutex::default(),
        }
    }

    /// Adds a line. It is handed on by [`Self::flush`], or with the lump that it fills.
    pub(crate) fn write(&self, told: &Told<'_>, format: &LogFormat) {
        let mut lines = lock(&self.lines);
        if !format.write(told, &mut lines) {
            self.log.metrics.log_lines_dropped("encode", 1);
            return;
        }
        if lines.len() >= ACCESS_LOG_LUMP_BYTES {
            let lump = mem::take(&mut *lines);
            drop(lines);
            self.log.write(lump);
        }
    }

    /// Hands on what has been gathered.
    pub(crate) fn flush(&self) {
        let lump = mem::take(&mut *lock(&self.lines));
        if !lump.is_empty() {
            self.log.write(lump);
        }
    }
}
