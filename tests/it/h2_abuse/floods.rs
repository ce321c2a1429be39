//! Connections that do one thing over and over.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use reeve_tests::{
    Door,
    frames::{END_HEADERS, END_STREAM, PREFACE, block, frame, get, integer, kind, settings},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};

use crate::hostile::ALPN_H2;

/// Connections that flood at once.
const CONNECTIONS: usize = 3;
/// The most connections that one flood opens, as the proxy ends them.
const MAX_CONNECTIONS: usize = 60;
/// Frames that are written at once.
const BATCH: u32 = 64;
const WHOLE: u8 = END_STREAM | END_HEADERS;

/// What a connection does.
pub(super) struct Flood {
    pub(super) name: &'static str,
    /// What is sent first, beyond the preface.
    open: fn() -> Vec<u8>,
    /// The frames of round `n` (from 0).
    round: fn(u32) -> Vec<u8>,
    /// Whether answers are read.
    reads: bool,
    /// The least that must have been sent, or the test shows nothing.
    pub(super) least: u64,
}

/// What was sent.
pub(super) struct Sent {
    pub(super) frames: u64,
    pub(super) connections: usize,
}

/// All of them.
#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn floods() -> Vec<Flood> {
    let flood = |name, round: fn(u32) -> Vec<u8>| Flood {
        name,
        open: || settings(&[]),
        round,
        reads: true,
        least: 100,
    };
    vec![
        flood("rapid reset", |n| {
            [
                request(n),
                frame(kind::RST_STREAM, 0, stream(n), &[0, 0, 0, 8]),
            ]
            .concat()
        }),
        flood("resets of the server's own making", |n| {
            [
                request(n),
                frame(kind::WINDOW_UPDATE, 0, stream(n), &[0; 4]),
            ]
            .concat()
        }),
        flood("malformed requests", |n| {
            frame(kind::HEADERS, WHOLE, stream(n), &block(&[("Upper", "1")]))
        }),
        Flood {
            open: || {
                [
                    settings(&[]),
                    frame(
                        kind::HEADERS,
                        END_STREAM,
                        1,
                        &block(&get("target:9080", "/flood.")),
                    ),
                ]
                .concat()
            },
            ..flood("continuation", |_| {
                frame(kind::CONTINUATION, 0, 1, &block(&[("x-a", "b")]))
            })
        },
        Flood {
            open: || [settings(&[]), frame(kind::HEADERS, END_STREAM, 1, &[])].concat(),
            ..flood("empty continuation", |_| {
                frame(kind::CONTINUATION, 0, 1, &[])
            })
        },
        flood("ping", |_| frame(kind::PING, 0, 0, &[7; 8])),
        Flood {
            reads: false,
            ..flood("ping, answers unread", |_| frame(kind::PING, 0, 0, &[7; 8]))
        },
        flood("settings", |_| settings(&[(4, 65_535)])),
        Flood {
            reads: false,
            ..flood("settings, answers unread", |_| settings(&[(4, 65_535)]))
        },
        Flood {
            open: || [settings(&[]), open_request(1)].concat(),
            ..flood("empty data", |_| frame(kind::DATA, 0, 1, &[]))
        },
        Flood {
            open: || [settings(&[]), open_request(1)].concat(),
            ..flood("window update", |_| {
                frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])
            })
        },
        flood("priority", |n| {
            frame(kind::PRIORITY, 0, stream(n), &[0, 0, 0, 0, 1])
        }),
        flood("unknown frames", |_| frame(0x42, 0, 0, &[])),
        Flood {
            open: || [settings(&[]), frame(kind::HEADERS, WHOLE, 1, &bomb_fuse())].concat(),
            ..flood("HPACK bomb", |n| {
                frame(kind::HEADERS, WHOLE, stream(n + 1), &bomb())
            })
        },
        flood("open streams in excess", |n| open_request(stream(n))),
        Flood {
            open: || settings(&[(4, 0)]),
            reads: false,
            ..flood("stalled windows", request)
        },
    ]
}

fn stream(n: u32) -> u32 {
    2 * n + 1
}

fn request(n: u32) -> Vec<u8> {
    frame(
        kind::HEADERS,
        WHOLE,
        stream(n),
        &block(&get("target:9080", "/flood.")),
    )
}

fn open_request(stream: u32) -> Vec<u8> {
    frame(
        kind::HEADERS,
        END_HEADERS,
        stream,
        &block(&get("target:9080", "/flood.")),
    )
}

/// Puts a header of almost 4 KiB into the decoder's table.
fn bomb_fuse() -> Vec<u8> {
    let value = "b".repeat(4000);
    let mut bytes = block(&get("target:9080", "/flood."));
    bytes.push(0x40);
    for text in ["x-bomb", value.as_str()] {
        bytes.extend(integer(text.len(), 7));
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// Names that header 4,000 times: 16 MB from 4 KB.
fn bomb() -> Vec<u8> {
    [block(&get("target:9080", "/flood.")), vec![0x80 | 62; 4000]].concat()
}

/// Floods a door for `time`, on a few connections at once; those that the proxy ends are replaced.
pub(super) async fn run(door: &Door, flood: &Flood, time: Duration) -> Sent {
    let until = Instant::now() + time;
    let opened = AtomicU32::new(0);
    let one = async || {
        let mut frames = 0;
        while Instant::now() < until
            && (opened.fetch_add(1, Ordering::Relaxed) as usize) < MAX_CONNECTIONS
        {
            frames += connection(door, flood, until).await;
        }
        frames
    };
    let sent = futures_util::future::join_all((0..CONNECTIONS).map(|_| one())).await;
    let connections = (opened.into_inner() as usize).min(MAX_CONNECTIONS);
    Sent {
        frames: sent.into_iter().sum(),
        connections,
    }
}

async fn connection(door: &Door, flood: &Flood, until: Instant) -> u64 {
    let Ok(Ok(wire)) = timeout(until - Instant::now(), door.open(ALPN_H2)).await else {
        return 0;
    };
    let (mut reader, mut writer) = tokio::io::split(wire);
    let mut frames = 0u64;
    let writing = async {
        let first = [PREFACE.to_vec(), (flood.open)()].concat();
        if writer.write_all(&first).await.is_err() {
            return;
        }
        for n in 0.. {
            let batch: Vec<u8> = (n * BATCH..(n + 1) * BATCH).flat_map(flood.round).collect();
            if writer.write_all(&batch).await.is_err() {
                return;
            }
            frames += u64::from(BATCH);
            tokio::task::yield_now().await;
        }
    };
    let reading = async {
        let mut bytes = vec![0; 16 << 10];
        while flood.reads && !matches!(reader.read(&mut bytes).await, Ok(0) | Err(_)) {}
        if !flood.reads {
            std::future::pending::<()>().await;
        }
    };
    let both = async {
        // Cancel-safe: whichever ends first ends the connection.
        tokio::select! { () = writing => {}, () = reading => {} }
    };
    drop(timeout(until - Instant::now(), both).await);
    frames
}
