//! Clients that do what RFC 9110 and RFC 9113 ask of clients, and no more: they keep connections, leave those that say
//! `Connection: close` or GOAWAY, and send again only what HTTP/2 says was not processed.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;

use crate::{
    Call, Connection, Protocol,
    load::{SHED_PATIENCE, SHED_PAUSE},
};

/// Failures kept word for word.
const MAX_KEPT: usize = 20;
/// Ticks of one long stream, and the time between two.
const TICKS: usize = 60;
const TICK_MS: u64 = 50;

/// Requests of one kind.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// What was sent.
    pub kind: &'static str,
    /// Answered in full.
    pub ok: u64,
    /// Not.
    pub failed: u64,
    /// The first of those.
    pub failures: Vec<String>,
    /// Connections made.
    pub connections: u64,
    /// The longest time from sending to the whole answer.
    pub longest: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<18} {:>7} ok, {} failed, {} connections, longest {} ms",
            self.kind,
            self.ok,
            self.failed,
            self.connections,
            self.longest.as_millis()
        )
    }
}

/// A proxy refused it as overload: it is asked again.
#[derive(Debug, thiserror::Error)]
#[error("shed as overload")]
struct Shed;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Get,
    Body,
    Grpc,
    Stream,
}

/// What is sent, and how.
const CLIENTS: [(&str, Protocol, Kind, u64); 7] = [
    ("HTTP/1.1 GET", Protocol::Http1, Kind::Get, 10),
    ("HTTP/1.1 POST", Protocol::Http1, Kind::Body, 20),
    ("HTTP/1.1 sparse", Protocol::Http1, Kind::Get, 300),
    ("HTTP/1.1 stream", Protocol::Http1, Kind::Stream, 10),
    ("HTTP/2 GET", Protocol::Http2, Kind::Get, 10),
    ("gRPC unary", Protocol::Http2, Kind::Grpc, 20),
    ("gRPC stream", Protocol::Http2, Kind::Stream, 10),
];

/// Load that runs.
pub(super) struct Streams {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Tally>,
}

impl Streams {
    pub(super) fn start(to: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let began = Instant::now();
        let mut clients = JoinSet::new();
        for (name, protocol, kind, pause) in CLIENTS {
            let client = Client {
                to,
                protocol,
                kind,
                pause: Duration::from_millis(pause),
                began,
                tally: Mutex::new(Tally {
                    kind: name,
                    ..Tally::default()
                }),
            };
            clients.spawn(client.run(Arc::clone(&stop)));
        }
        Self { stop, clients }
    }

    /// Lets each client finish what it has begun.
    pub(super) async fn stop(mut self) -> Vec<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let mut tallies = Vec::new();
        while let Some(tally) = self.clients.join_next().await {
            tallies.push(tally.expect("a client"));
        }
        tallies.sort_by_key(|tally| tally.kind);
        tallies
    }
}

struct Client {
    to: SocketAddr,
    protocol: Protocol,
    kind: Kind,
    pause: Duration,
    began: Instant,
    tally: Mutex<Tally>,
}

impl Client {
    async fn run(self, stop: Arc<AtomicBool>) -> Tally {
        let mut kept = None;
        let mut number = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let at = Instant::now();
            let done = self.exchange(&mut kept, number).await;
            let took = at.elapsed();
            {
                let mut tally = self.tally.lock().expect("the tally");
                match done {
                    Ok(()) => {
                        tally.ok += 1;
                        tally.longest = tally.longest.max(took);
                    }
                    Err(error) => {
                        kept = None;
                        tally.failed += 1;
                        if tally.failures.len() < MAX_KEPT {
                            let since = (at - self.began).as_millis();
                            tally.failures.push(format!(
                                "at {since} ms, after {} ms: {error:#}",
                                took.as_millis()
                            ));
                        }
                    }
                }
            }
            tokio::time::sleep(self.pause).await;
        }
        self.tally.into_inner().expect("the tally")
    }

    async fn exchange(&self, kept: &mut Option<Connection>, number: u64) -> Result<()> {
        let began = Instant::now();
        loop {
            if kept.as_ref().is_some_and(Connection::is_closed) {
                *kept = None;
            }
            let connection = match kept {
                Some(connection) => connection,
                None => {
                    self.tally.lock().expect("the tally").connections += 1;
                    kept.insert(
                        Connection::open(self.to, self.protocol)
                            .await
                            .context("opening")?,
                    )
                }
            };
            match self.once(connection, number).await {
                Err(error) if was_not_processed(&error) => *kept = None,
                Err(error) if error.is::<Shed>() && began.elapsed() < SHED_PATIENCE => {
                    tokio::time::sleep(SHED_PAUSE).await;
                }
                Ok(keep) => {
                    if !keep {
                        *kept = None;
                    }
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the connection may be kept.
    async fn once(&self, connection: &mut Connection, number: u64) -> Result<bool> {
        match self.kind {
            Kind::Get => {
                let answer = connection
                    .send(&Call::get("echo:9080", &format!("/{number}")))
                    .await?;
                ensure!(!answer.is_shed(), Shed);
                ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
                Ok(answer.header("connection") != Some("close"))
            }
            Kind::Body | Kind::Grpc => {
                let path = if matches!(self.kind, Kind::Grpc) {
                    "/grpc/a.B/C"
                } else {
                    "/body"
                };
                let text = format!("{number}-").repeat(500);
                let mut call = Call::post("echo:9080", path, text.clone());
                if matches!(self.kind, Kind::Grpc) {
                    call = call
                        .header("content-type", "application/grpc")
                        .header("te", "trailers");
                }
                let answer = connection.send(&call).await?;
                ensure!(!answer.is_shed(), Shed);
                ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
                ensure!(
                    answer.body == text.as_bytes(),
                    "the body came back as {} bytes",
                    answer.body.len()
                );
                if matches!(self.kind, Kind::Grpc) {
                    let status = answer.trailers.get("grpc-status");
                    ensure!(
                        status.is_some_and(|s| s == "0"),
                        "trailers {:?}",
                        answer.trailers
                    );
                }
                Ok(answer.header("connection") != Some("close"))
            }
            Kind::Stream => {
                let path = format!("/stream/{TICK_MS}/{TICKS}");
                let mut stream = connection.stream(&Call::get("echo:9080", &path)).await?;
                ensure!(stream.status == 200, "{}", stream.status);
                let mut text = Vec::new();
                while let Some(part) = stream.next().await.context("within the stream")? {
                    text.extend_from_slice(&part);
                }
                let ticks = text.split(|b| *b == b'\n').count() - 1;
                ensure!(ticks == TICKS, "the stream ended after {ticks} ticks");
                Ok(true)
            }
        }
    }
}

/// RFC 9113 section 6.8: a request beyond the last that GOAWAY names was not processed and may be sent again; and one
/// that never left this process is none. (A stream that GOAWAY lets finish does not end with these errors.)
fn was_not_processed(error: &anyhow::Error) -> bool {
    let cause = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<hyper::Error>());
    let beyond = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<h2::Error>())
        .any(|cause| match cause.reason() {
            Some(h2::Reason::REFUSED_STREAM) => true,
            Some(h2::Reason::NO_ERROR) => cause.is_go_away() && cause.is_remote(),
            _ => false,
        });
    beyond || cause.is_some_and(hyper::Error::is_canceled)
}
