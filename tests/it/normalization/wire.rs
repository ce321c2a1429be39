//! One request as raw bytes, and the status of its answer.

use std::{pin::Pin, time::Duration};

use reeve_tests::{
    Door, SeenRequest, Wire,
    frames::{END_HEADERS, END_STREAM, PREFACE, block, frame, frames, kind, settings},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Headers of every request, which no row is about.
const CARRIED: [&str; 5] = ["host", "x-request-id", "traceparent", "tracestate", "b3"];

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Http {
    One,
    Two,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) http: Http,
    pub(super) method: &'static str,
    /// `http`, unless the row is about it; HTTP/2 alone says it.
    pub(super) scheme: &'static str,
    pub(super) target: String,
    /// `None` = neither `Host` nor `:authority`.
    pub(super) authority: Option<String>,
    pub(super) fields: Vec<(String, String)>,
}

impl Sent {
    pub(super) fn get(http: Http, target: &str) -> Self {
        Self {
            http,
            method: "GET",
            scheme: "http",
            target: target.to_owned(),
            authority: Some("target:9080".to_owned()),
            fields: Vec::new(),
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The application saw this, and answered 200.
    Saw {
        target: String,
        host: String,
        /// Beside those that every request carries, in the order in which they came.
        fields: Vec<(String, String)>,
    },
    /// The application saw nothing; 0 = the stream or connection was ended without an answer.
    Answered(u16),
    /// The application saw nothing, and what was sent is no message: it is answered 400, or the connection is closed.
    Closed,
}

impl Outcome {
    pub(super) fn saw(target: &str) -> Self {
        Self::Saw {
            target: target.to_owned(),
            host: "target:9080".to_owned(),
            fields: Vec::new(),
        }
    }
}

impl Outcome {
    /// Whether this came as it was expected.
    pub(super) fn is(&self, expected: &Self) -> bool {
        match (self, expected) {
            (Self::Answered(status), Self::Closed) => matches!(status, 0 | 400),
            (own, expected) => own == expected,
        }
    }
}

/// What the application saw, by request id.
pub(super) fn seen(request: SeenRequest) -> (String, Outcome) {
    let first = |name: &str| {
        let found = request.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let (id, host) = (first("x-request-id"), first("host"));
    let others = request.headers.into_iter();
    let outcome = Outcome::Saw {
        target: request.target,
        host,
        fields: others
            .filter(|(name, _)| !CARRIED.contains(&name.as_str()))
            .collect(),
    };
    (id, outcome)
}

/// Sends it over a connection of its own; the status that it is answered with, 0 if there is none.
pub(super) async fn send(door: &Door, sent: &Sent, id: &str) -> u16 {
    let mut wire = door.open(b"").await.expect("a connection");
    let bytes = match sent.http {
        Http::One => http1(sent, id),
        Http::Two => http2(sent, id),
    };
    // It may close before it has read everything.
    drop(wire.write_all(&bytes).await);
    let answered = timeout(PATIENCE, status(&mut wire, sent.http)).await;
    answered.unwrap_or_else(|_| panic!("no answer to {sent:?}"))
}

fn http1(sent: &Sent, id: &str) -> Vec<u8> {
    let mut head = format!("{} {} HTTP/1.1\r\n", sent.method, sent.target);
    if let Some(host) = &sent.authority {
        head += &format!("Host: {host}\r\n");
    }
    head += &format!("X-Request-Id: {id}\r\n");
    for (name, value) in &sent.fields {
        head += &format!("{name}: {value}\r\n");
    }
    (head + "\r\n").into_bytes()
}

fn http2(sent: &Sent, id: &str) -> Vec<u8> {
    let mut fields = vec![
        (":method", sent.method),
        (":scheme", sent.scheme),
        (":path", sent.target.as_str()),
    ];
    fields.extend(
        sent.authority
            .as_deref()
            .map(|authority| (":authority", authority)),
    );
    fields.push(("x-request-id", id));
    let own = sent.fields.iter();
    fields.extend(own.map(|(name, value)| (name.as_str(), value.as_str())));
    let headers = frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields));
    [PREFACE.to_vec(), settings(&[]), headers].concat()
}

/// The status of the first answer.
async fn status(wire: &mut Pin<Box<dyn Wire>>, http: Http) -> u16 {
    let mut bytes = Vec::new();
    loop {
        let found = match http {
            Http::One => http1_status(&bytes),
            Http::Two => http2_status(&bytes),
        };
        if let Some(status) = found {
            return status;
        }
        if !matches!(wire.read_buf(&mut bytes).await, Ok(read) if read > 0) {
            return 0;
        }
    }
}

fn http1_status(bytes: &[u8]) -> Option<u16> {
    // The head is whole: whoever reads on could see the application's answer only now.
    bytes.windows(4).find(|end| end == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(bytes);
    text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

fn http2_status(bytes: &[u8]) -> Option<u16> {
    frames(bytes)
        .into_iter()
        .find_map(|(kind, _, stream, payload)| match kind {
            kind::HEADERS if stream == 1 => Some(block_status(payload)),
            kind::RST_STREAM if stream == 1 => Some(0),
            kind::GOAWAY => Some(0),
            _ => None,
        })
}

/// `:status`, which comes first (RFC 7541 appendices A and B).
fn block_status(block: &[u8]) -> u16 {
    match *block {
        [0x88, ..] => 200,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        [0x8e, ..] => 500,
        [0x48, length, ref rest @ ..] => {
            let value = &rest[..usize::from(length & 0x7f)];
            match length & 0x80 {
                0 => String::from_utf8_lossy(value).parse().expect("a status"),
                _ => digits(value),
            }
        }
        _ => panic!("no status in {block:02x?}"),
    }
}

/// Three digits in Huffman's code: 0, 1 and 2 have five bits, the others six.
fn digits(value: &[u8]) -> u16 {
    let bits: Vec<u8> = value
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |n| byte >> n & 1))
        .collect();
    let number = |from: usize, count: usize| {
        let all = bits.iter().copied().chain(std::iter::repeat(1));
        all.skip(from)
            .take(count)
            .fold(0, |all, bit| all * 2 + u16::from(bit))
    };
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        let (digit, length) = match number(at, 5) {
            short @ 0..=2 => (short, 5),
            _ => (number(at, 6) - 0b01_1001 + 3, 6),
        };
        status = status * 10 + digit;
        at += length;
    }
    status
}
