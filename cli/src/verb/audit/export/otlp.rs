//! Records as OTLP logs, over HTTP in JSON.
//!
//! Source: the OTLP specification, "OTLP/HTTP" and "JSON Protobuf Encoding" (hex trace ids, 64-bit numbers as text).

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    time::Duration,
};

use reeve_audit::{Entry, Record};
use serde_json::{Value, json};

use crate::{
    http::{self, Target},
    problem::Problem,
    verb::block_on,
};

/// Records of one request.
const MAX_RECORDS: usize = 512;
/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a collector that is too busy is asked again.
const MAX_TRIES: u32 = 5;
/// Where logs go.
const PATH: &str = "/v1/logs";
/// Severities: INFO, and WARN for denials.
const INFO: (u8, &str) = (9, "INFO");
const WARN: (u8, &str) = (13, "WARN");

/// A collector, and what it is to get next.
pub(super) struct Collector {
    address: SocketAddr,
    records: Vec<Value>,
}

impl Collector {
    pub(super) fn new(endpoint: &str) -> Result<Self, Problem> {
        let host = endpoint
            .strip_prefix("http://")
            .map(|rest| rest.trim_end_matches('/'));
        let host = host.map(|host| host.strip_suffix(PATH).unwrap_or(host));
        let address = host.and_then(|host| host.to_socket_addrs().ok()?.next());
        let address = address.ok_or_else(|| {
            Problem::new(format!("{endpoint:?} is no collector"))
                .fix("write http://HOST:PORT, such as http://127.0.0.1:4318")
        })?;
        Ok(Self {
            address,
            records: Vec::new(),
        })
    }

    pub(super) fn push(&mut self, record: &[u8]) -> Result<(), Problem> {
        self.records.push(log_record(record)?);
        if self.records.len() >= MAX_RECORDS {
            self.flush()?;
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), Problem> {
        let records = std::mem::take(&mut self.records);
        if records.is_empty() {
            return Ok(());
        }
        let count = records.len();
        let body = json!({"resourceLogs": [{
            "resource": {"attributes": [attribute("service.name", "reeve-audit")]},
            "scopeLogs": [{"scope": {"name": "reeve.audit", "version": "v1"}, "logRecords": records}],
        }]});
        let body = serde_json::to_vec(&body).map_err(Problem::new)?;
        block_on(send(self.address, body.into(), count))
    }
}

async fn send(address: SocketAddr, body: bytes::Bytes, count: usize) -> Result<(), Problem> {
    let mut pause = Duration::from_millis(250);
    for attempt in 1..=MAX_TRIES {
        let sent = http::post(&Target::Tcp(address), PATH, body.clone(), PATIENCE).await;
        let reply = sent.map_err(|e| {
            Problem::because(format!("the collector {address} could not be asked"), &e)
        })?;
        let busy = [429, 502, 503, 504].contains(&reply.status.as_u16());
        if reply.status.is_success() {
            return accepted(&reply.body, count);
        }
        if !busy || attempt == MAX_TRIES {
            return Err(Problem::new(format!(
                "the collector {address} answered {}",
                reply.status
            )));
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    Ok(())
}

/// A collector may take a part and say so.
fn accepted(body: &[u8], count: usize) -> Result<(), Problem> {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let partial = answer.get("partialSuccess");
    let rejected = partial.and_then(|p| p.get("rejectedLogRecords"));
    let rejected = rejected.and_then(|n| n.as_u64().or_else(|| n.as_str()?.parse().ok()));
    match rejected.unwrap_or(0) {
        0 => Ok(()),
        rejected => {
            let why = partial
                .and_then(|p| p.get("errorMessage"))
                .and_then(Value::as_str);
            let why = why.unwrap_or("and does not say why");
            Err(Problem::new(format!(
                "the collector refused {rejected} of {count} records: {why}"
            )))
        }
    }
}

fn attribute(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn log_record(raw: &[u8]) -> Result<Value, Problem> {
    let record =
        Record::from_slice(raw).map_err(|e| Problem::because("a record cannot be read", &e))?;
    let nanos = format!("{}000000", record.time.as_millis());
    let mut attributes = vec![
        attribute("reeve.id", &record.id.to_string()),
        attribute("reeve.kind", record.entry.kind()),
    ];
    let mut severity = INFO;
    let mut trace = None;
    if let Entry::Decision(d) = &record.entry {
        let effect = if d.decision.is_allow() {
            "allow"
        } else {
            severity = WARN;
            "deny"
        };
        attributes.push(attribute("reeve.effect", effect));
        attributes.push(attribute("reeve.reason", d.decision.reason.as_str()));
        let principal = d.request.principal.to_string();
        attributes.push(attribute("reeve.principal", &principal));
        let services = d.request.resource.services.iter();
        attributes.extend(
            services
                .take(1)
                .map(|s| attribute("reeve.service", s.as_str())),
        );
        let is_id = |t: &&String| t.len() == 32 && t.bytes().all(|b| b.is_ascii_hexdigit());
        trace = d.trace_id.clone().filter(|t| is_id(&t));
    }
    // Fields without a value are absent or empty alike.
    Ok(json!({
        "timeUnixNano": nanos,
        "observedTimeUnixNano": nanos,
        "severityNumber": severity.0,
        "severityText": severity.1,
        "traceId": trace.unwrap_or_default(),
        "body": {"stringValue": String::from_utf8_lossy(raw)},
        "attributes": attributes,
    }))
}
