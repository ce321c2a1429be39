//! The bounded load that a drill makes: what sidecars' own applications ask for, asked once more in their place. HTTP/2
//! on connections that are kept, HTTP/1.1 on a new one for each request, and raw TCP.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reeve_core::SpiffeId;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, MissedTickBehavior, timeout},
};
use tokio_util::sync::CancellationToken;

/// An exchange that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Exchanges of one call at one time; beyond, the next one waits.
const MAX_AT_ONCE: usize = 32;
/// Failures that are kept word for word; all are counted.
const MAX_KEPT: usize = 200;
/// Between two attempts at a request that was shed as overload.
const AFTER_SHED: Duration = Duration::from_millis(100);
/// How long a TCP connection that nothing is said on must stay open.
const HOLD: Duration = Duration::from_millis(250);

/// How a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// On one connection, which is kept.
    Http2,
    /// On a connection of its own.
    Http1,
    /// Bytes: a request for an answer, if there is a path, else a connection that must stay open.
    Tcp,
}

/// Something to ask for, in whose place, and what answer is the right one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Call {
    /// The instance beside whose sidecar it is asked.
    pub(super) from: String,
    /// The service.
    pub(super) to: String,
    /// Where its sidecar takes such requests.
    pub(super) address: SocketAddr,
    /// How.
    pub(super) kind: Kind,
    /// What for; none for bytes of a protocol that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<String>,
    /// Identities that it passes between: the caller's, and those behind the service.
    #[serde(skip)]
    pub(super) between: Vec<SpiffeId>,
    /// The status that it had before the drill; another one is a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expected: Option<u16>,
}

/// An exchange that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    /// When, since the drill began.
    pub(super) at_ms: u64,
    /// Which call.
    pub(super) call: String,
    /// What happened.
    pub(super) what: String,
}

/// What came of a call so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) ok: u64,
    pub(super) failed: u64,
    /// Times that a request was shed as overload, and asked again.
    pub(super) shed: u64,
    pub(super) failures: Vec<Failure>,
    /// Milliseconds of those answered.
    pub(super) latencies_ms: Vec<f64>,
}

/// A load that runs until it is dropped.
#[derive(Debug)]
pub(super) struct Load {
    /// One for each call.
    tallies: Vec<Arc<Mutex<Tally>>>,
    stop: CancellationToken,
}

impl Call {
    /// Whom it asks and how, in a line.
    pub(super) fn describe(&self) -> String {
        let path = self.path.as_deref().unwrap_or_default();
        let kind = match self.kind {
            Kind::Http2 => "HTTP/2",
            Kind::Http1 => "HTTP/1.1",
            Kind::Tcp => "TCP",
        };
        format!("{} -> {}{path} ({kind})", self.from, self.to)
    }

    /// Asks once; the status, if there is one to have.
    async fn once(&self) -> Result<Reply, String> {
        let exchange = async {
            match self.kind {
                Kind::Http2 => {
                    let mut sender = self.connect().await?;
                    self.ask(&mut sender).await
                }
                Kind::Http1 => self.short().await,
                Kind::Tcp => self.bytes().await.map(|()| Reply::Bytes),
            }
        };
        match timeout(PATIENCE, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, String> {
        let path = self.path.as_deref().unwrap_or("/");
        let builder = match self.kind {
            Kind::Http2 => Request::get(format!("http://{}{path}", self.to)),
            Kind::Http1 | Kind::Tcp => Request::get(path).header(header::HOST, &self.to),
        };
        let request = builder.header(header::USER_AGENT, "reeve-drill");
        request
            .body(Empty::new())
            .map_err(|error| error.to_string())
    }

    async fn stream(&self) -> Result<TcpStream, String> {
        let stream = TcpStream::connect(self.address).await;
        let stream = stream.map_err(|error| format!("no connection: {error}"))?;
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        Ok(stream)
    }

    async fn connect(&self) -> Result<http2::SendRequest<Empty<Bytes>>, String> {
        let stream = TokioIo::new(self.stream().await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
            .await
            .map_err(|error| in_words(&error))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn ask(&self, sender: &mut http2::SendRequest<Empty<Bytes>>) -> Result<Reply, String> {
        let answer = sender.send_request(self.request()?).await;
        let answer = answer.map_err(|error| in_words(&error))?;
        read(answer).await
    }

    async fn short(&self) -> Result<Reply, String> {
        let stream = TokioIo::new(self.stream().await?);
        let (mut sender, connection) = http1::handshake(stream)
            .await
            .map_err(|error| in_words(&error))?;
        let connection = tokio::spawn(connection);
        let outcome = async {
            let answer = sender.send_request(self.request()?).await;
            read(answer.map_err(|error| in_words(&error))?).await
        };
        let outcome = outcome.await;
        connection.abort();
        outcome
    }

    async fn bytes(&self) -> Result<(), String> {
        let mut stream = self.stream().await?;
        let mut buffer = [0; 1024];
        let Some(path) = &self.path else {
            return match timeout(HOLD, stream.read(&mut buffer)).await {
                Err(_) | Ok(Ok(1..)) => Ok(()),
                Ok(Ok(0)) => Err("the connection was closed".to_owned()),
                Ok(Err(error)) => Err(error.to_string()),
            };
        };
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.to);
        let sent = stream.write_all(request.as_bytes()).await;
        sent.map_err(|error| error.to_string())?;
        match stream.read(&mut buffer).await {
            Ok(0) => Err("the connection was closed without an answer".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What is wrong with an outcome, if anything is.
    fn fault(&self, outcome: Result<Reply, String>) -> Option<String> {
        match outcome {
            Err(why) => Some(why),
            Ok(Reply::Status(status)) if Some(status) != self.expected => Some(format!(
                "answered {status}, before the drill {}",
                self.expected.unwrap_or_default()
            )),
            Ok(Reply::Shed) => Some("shed as overload, again and again".to_owned()),
            Ok(Reply::Status(_) | Reply::Bytes) => None,
        }
    }
}

/// Headers by which a proxy says that it has too much to do.
const SHED: [&str; 2] = ["retry-after", "x-envoy-overloaded"];

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    /// HTTP's.
    Status(u16),
    /// Bytes, or a connection that stays open.
    Bytes,
    /// A proxy has too much to do, and says so as Envoy does: it is to be asked again.
    Shed,
}

async fn read(answer: http::Response<hyper::body::Incoming>) -> Result<Reply, String> {
    let status = answer.status();
    let later = matches!(
        status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
    );
    let headers = answer.headers();
    let shed = later && SHED.iter().any(|name| headers.contains_key(*name));
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        frame.map_err(|error| format!("the answer broke off: {}", in_words(&error)))?;
    }
    Ok(match shed {
        true => Reply::Shed,
        false => Reply::Status(status.as_u16()),
    })
}

fn in_words(error: &hyper::Error) -> String {
    reeve_core::error_chain(error)
}

/// Asks each call a few times; those that answer steadily, with the status that they answer with, and what the others
/// did.
pub(super) async fn probe(calls: Vec<Call>) -> (Vec<Call>, Vec<String>) {
    const TRIES: usize = 3;
    let asked = calls.into_iter().map(async |mut call| {
        let mut first = None;
        for _ in 0..TRIES {
            let (began, mut reply) = (Instant::now(), call.once().await);
            while reply == Ok(Reply::Shed) && began.elapsed() < PATIENCE {
                tokio::time::sleep(AFTER_SHED).await;
                reply = call.once().await;
            }
            let reply = reply.map_err(|why| format!("{}: {why}", call.describe()))?;
            if *first.get_or_insert(reply) != reply {
                return Err(format!("{}: its status changes", call.describe()));
            }
        }
        call.expected = match first {
            Some(Reply::Status(status)) => Some(status),
            Some(Reply::Bytes | Reply::Shed) | None => None,
        };
        let is_error = |status: u16| status >= StatusCode::INTERNAL_SERVER_ERROR.as_u16();
        match call.expected.filter(|status| is_error(*status)) {
            Some(status) => Err(format!("{}: answered {status}", call.describe())),
            None => Ok(call),
        }
    });
    let (mut steady, mut others) = (Vec::new(), Vec::new());
    for asked in futures_util::future::join_all(asked).await {
        match asked {
            Ok(call) => steady.push(call),
            Err(why) => others.push(why),
        }
    }
    (steady, others)
}

impl Load {
    /// Spreads `rps` exchanges a second over the calls.
    pub(super) fn start(calls: &[Call], rps: u32, began: Instant) -> Self {
        let load = Self {
            tallies: calls.iter().map(|_| Arc::default()).collect(),
            stop: CancellationToken::new(),
        };
        let count = u32::try_from(calls.len()).unwrap_or(u32::MAX);
        let pace = Duration::from_secs(1) * count.max(1) / rps.max(1);
        for (call, tally) in calls.iter().zip(&load.tallies) {
            let worker = Worker {
                call: Arc::new(call.clone()),
                tally: Arc::clone(tally),
                kept: Arc::default(),
                began,
            };
            tokio::spawn(worker.run(pace, load.stop.clone()));
        }
        load
    }

    /// What came of each call so far; latencies and failures are those since the last time.
    pub(super) fn take(&self) -> Vec<Tally> {
        let take = |tally: &Arc<Mutex<Tally>>| {
            let mut tally = lock(tally);
            let fresh = Tally {
                ok: tally.ok,
                failed: tally.failed,
                shed: tally.shed,
                ..Tally::default()
            };
            std::mem::replace(&mut *tally, fresh)
        };
        self.tallies.iter().map(take).collect()
    }

    /// Asks nothing further, and waits for the answers that are due.
    pub(super) async fn settle(&self) {
        self.stop.cancel();
        let over = async {
            while self.tallies.iter().any(|t| Arc::strong_count(t) > 1) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        drop(timeout(PATIENCE * 2, over).await);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Clone)]
struct Worker {
    call: Arc<Call>,
    tally: Arc<Mutex<Tally>>,
    /// The connection of HTTP/2.
    kept: Arc<tokio::sync::Mutex<Option<http2::SendRequest<Empty<Bytes>>>>>,
    began: Instant,
}

impl Worker {
    async fn run(self, pace: Duration, stop: CancellationToken) {
        let room = Arc::new(Semaphore::new(MAX_AT_ONCE));
        let mut timer = tokio::time::interval(pace.max(Duration::from_millis(1)));
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Cancel-safe: a tick and a flag.
            tokio::select! {
                _ = timer.tick() => {}
                () = stop.cancelled() => return,
            }
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            let worker = self.clone();
            tokio::spawn(async move {
                worker.exchange().await;
                drop(permit);
            });
        }
    }

    async fn exchange(&self) {
        let began = Instant::now();
        let mut outcome = self.attempt().await;
        while outcome == Ok(Reply::Shed) && began.elapsed() < PATIENCE {
            lock(&self.tally).shed += 1;
            tokio::time::sleep(AFTER_SHED).await;
            outcome = self.attempt().await;
        }
        let fault = self.call.fault(outcome);
        let mut tally = lock(&self.tally);
        let Some(what) = fault else {
            tally.ok += 1;
            tally
                .latencies_ms
                .push(began.elapsed().as_secs_f64() * 1000.0);
            return;
        };
        tally.failed += 1;
        if tally.failures.len() < MAX_KEPT {
            let at = began.duration_since(self.began);
            tally.failures.push(Failure {
                at_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
                call: self.call.describe(),
                what,
            });
        }
    }

    async fn attempt(&self) -> Result<Reply, String> {
        match self.call.kind {
            Kind::Http2 => match timeout(PATIENCE, self.on_kept()).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
            },
            Kind::Http1 | Kind::Tcp => self.call.once().await,
        }
    }

    /// On the connection that is kept. A request that was never sent, since the connection had just ended, is sent on a new one.
    async fn on_kept(&self) -> Result<Reply, String> {
        for _ in 0..2 {
            let mut sender = self.sender().await?;
            let answer = sender.send_request(self.call.request()?).await;
            match answer {
                Ok(answer) => return read(answer).await,
                Err(error) if error.is_canceled() || error.is_closed() => {
                    *self.kept.lock().await = None;
                }
                Err(error) => {
                    *self.kept.lock().await = None;
                    return Err(in_words(&error));
                }
            }
        }
        Err("the connection was closed twice".to_owned())
    }

    async fn sender(&self) -> Result<http2::SendRequest<Empty<Bytes>>, String> {
        let mut kept = self.kept.lock().await;
        if let Some(sender) = kept.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        Ok(kept.insert(self.call.connect().await?).clone())
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(kind: Kind, address: SocketAddr) -> Call {
        Call {
            from: "client-0".to_owned(),
            to: "echo".to_owned(),
            address,
            kind,
            path: (kind != Kind::Tcp).then(|| "/".to_owned()),
            between: Vec::new(),
            expected: None,
        }
    }

    /// Answers each connection's first bytes with `status`, and closes it.
    async fn server(status: &'static str) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                let _read = stream.read(&mut buffer).await;
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                let _sent = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn what_answers_steadily_is_asked_for_again() {
        let calls = vec![
            call(Kind::Http1, server("404 Not Found").await),
            call(Kind::Http1, server("503 Service Unavailable").await),
            call(Kind::Http1, SocketAddr::from(([127, 0, 0, 1], 1))),
        ];
        let (steady, others) = probe(calls).await;
        let expected: Vec<_> = steady.iter().map(|call| call.expected).collect();
        assert_eq!(expected, [Some(404)]);
        assert_eq!(others.len(), 2, "{others:?}");
        assert!(others[0].contains("answered 503"), "{others:?}");
    }

    #[tokio::test]
    async fn what_was_shed_as_overload_is_asked_again_and_is_no_failure() {
        let mut call = call(
            Kind::Http1,
            server("503 Service Unavailable\r\nretry-after: 1").await,
        );
        call.expected = Some(200);
        let load = Load::start(&[call], 100, Instant::now());
        while load.take()[0].shed == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(load.take()[0].failed, 0);
    }

    #[tokio::test]
    async fn another_answer_than_before_is_a_failure() {
        let mut call = call(Kind::Http1, server("200 OK").await);
        call.expected = Some(403);
        let load = Load::start(&[call], 100, Instant::now());
        let mut failures = Vec::new();
        while failures.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            failures = load.take().remove(0).failures;
        }
        load.settle().await;
        assert_eq!(load.take()[0].ok, 0);
        assert_eq!(failures[0].what, "answered 200, before the drill 403");
    }

    #[tokio::test]
    async fn a_connection_that_is_to_stay_open_and_does_not_has_failed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let call = call(Kind::Tcp, listener.local_addr().unwrap());
        let kept = tokio::spawn(async move {
            let first = listener.accept().await.unwrap();
            drop(listener.accept().await.unwrap());
            first
        });
        assert_eq!(call.once().await, Ok(Reply::Bytes), "it stays open");
        assert!(call.once().await.is_err(), "it is closed");
        drop(kept.await);
    }
}
