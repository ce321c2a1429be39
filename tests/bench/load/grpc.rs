//! gRPC over HTTP/2 with prior knowledge: a backend, and a load whose calls one connection carries, or all of them alike.
//!
//! The same load both times: `--streams` calls are always in flight (closed loop), and each of `--conns` connections asks
//! one more call every 100 ms. `--spread hot` puts the calls in flight on one more connection, `--spread even` deals them
//! out to all connections, that one included.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::SocketAddrV4,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, client, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local},
};

/// How often a connection that is not hot asks.
const COOL_PERIOD: Duration = Duration::from_millis(100);
/// What a call and its answer carry.
const MESSAGE_BYTES: u32 = 128;
/// HTTP/2 windows, wide enough never to matter.
const WINDOW_BYTES: u32 = 1 << 20;
/// The backend's bound on calls at once of one connection.
const MAX_STREAMS: u32 = 4096;

/// What to do.
#[derive(Clone, Debug)]
pub(crate) struct Opts {
    pub(crate) target: SocketAddrV4,
    pub(crate) host: String,
    pub(crate) conns: usize,
    pub(crate) streams: usize,
    pub(crate) hot: bool,
    pub(crate) warmup: f64,
    pub(crate) duration: f64,
}

#[derive(Default)]
struct Tally {
    /// Microseconds of each call in flight all the time.
    busy: Vec<u64>,
    /// The same of those every 100 ms.
    cool: Vec<u64>,
    bad: u64,
    errors: u64,
    last_error: String,
}

/// One thread serves for ever.
pub(crate) fn serve(listen: &str) -> io::Result<()> {
    block_on(async {
        let listener = TcpListener::bind(listen).await?;
        eprintln!("gRPC backend on {listen}");
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            spawn_local(async move { drop(serve_one(stream).await) });
        }
    })
}

async fn serve_one(stream: TcpStream) -> Result<(), h2::Error> {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_concurrent_streams(MAX_STREAMS);
    let mut connection = builder.handshake::<_, Bytes>(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut answer) = accepted?;
        spawn_local(async move {
            read(request.into_body()).await?;
            let mut head = Response::new(());
            let kind = HeaderValue::from_static("application/grpc");
            head.headers_mut().insert("content-type", kind);
            let mut body = answer.send_response(head, false)?;
            body.send_data(message(), false)?;
            let mut end = HeaderMap::new();
            end.insert("grpc-status", HeaderValue::from_static("0"));
            body.send_trailers(end)
        });
    }
    Ok(())
}

/// Loads the target and prints what came of it as JSON.
pub(crate) fn load(o: &Opts) -> io::Result<()> {
    let tally = Rc::new(RefCell::new(Tally::default()));
    block_on(run(o.clone(), tally.clone()))?;
    report(o, &mut tally.borrow_mut());
    Ok(())
}

fn block_on<T>(run: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, run)
}

async fn run(o: Opts, tally: Rc<RefCell<Tally>>) -> io::Result<()> {
    let mut senders = Vec::new();
    for _ in 0..=o.conns {
        senders.push(connect(o.target).await?);
    }
    let from = Instant::now() + Duration::from_secs_f64(o.warmup);
    let to = from + Duration::from_secs_f64(o.duration);
    let mut calls = Vec::new();
    for number in 0..o.streams {
        let at = if o.hot { 0 } else { number % senders.len() };
        let caller = Caller::new(&o, &senders[at], &tally, from, to);
        calls.push(spawn_local(caller.without_pause()));
    }
    for (number, sender) in senders.iter().enumerate().skip(1) {
        let first = COOL_PERIOD.mul_f64(number as f64 / senders.len() as f64);
        let caller = Caller::new(&o, sender, &tally, from, to);
        calls.push(spawn_local(caller.now_and_then(first)));
    }
    for call in calls {
        call.await.map_err(io::Error::other)?;
    }
    Ok(())
}

async fn connect(target: SocketAddrV4) -> io::Result<client::SendRequest<Bytes>> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let mut builder = client::Builder::new();
    builder
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_max_send_streams(100);
    let (sender, connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
    spawn_local(connection);
    Ok(sender)
}

/// Makes calls on one connection.
struct Caller {
    sender: client::SendRequest<Bytes>,
    uri: http::Uri,
    tally: Rc<RefCell<Tally>>,
    from: Instant,
    to: Instant,
}

impl Caller {
    fn new(
        o: &Opts,
        sender: &client::SendRequest<Bytes>,
        tally: &Rc<RefCell<Tally>>,
        from: Instant,
        to: Instant,
    ) -> Self {
        let uri = format!("http://{}/bench.Echo/Call", o.host);
        Self {
            sender: sender.clone(),
            uri: uri.parse().unwrap_or_default(),
            tally: tally.clone(),
            from,
            to,
        }
    }

    async fn without_pause(self) {
        while Instant::now() < self.to {
            if !self.one(|tally| &mut tally.busy).await {
                // Do not spin on a peer that refuses.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    async fn now_and_then(self, first: Duration) {
        let begin = tokio::time::Instant::now() + first;
        let mut due = tokio::time::interval_at(begin, COOL_PERIOD);
        loop {
            due.tick().await;
            if Instant::now() >= self.to {
                return;
            }
            self.one(|tally| &mut tally.cool).await;
        }
    }

    /// One call; whether it came back well.
    async fn one(&self, of: impl Fn(&mut Tally) -> &mut Vec<u64>) -> bool {
        let begun = Instant::now();
        let outcome = self.call().await;
        let now = Instant::now();
        let fine = matches!(outcome, Ok(true));
        let mut tally = self.tally.borrow_mut();
        if now >= self.from && now < self.to {
            match outcome {
                Ok(true) => {
                    let micros = now.duration_since(begun).as_micros();
                    of(&mut tally).push(u64::try_from(micros).unwrap_or(u64::MAX));
                }
                Ok(false) => tally.bad += 1,
                Err(error) => {
                    tally.errors += 1;
                    tally.last_error = error.to_string();
                }
            }
        }
        fine
    }

    /// Whether the call ended with status 0.
    async fn call(&self) -> Result<bool, h2::Error> {
        let request = Request::post(self.uri.clone())
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap_or_default();
        let mut sender = self.sender.clone().ready().await?;
        let (answer, mut body) = sender.send_request(request, false)?;
        body.send_data(message(), true)?;
        let answer = answer.await?;
        let good = answer.status() == 200;
        let early = answer.headers().get("grpc-status").cloned();
        let late = read(answer.into_body()).await?;
        let late = late.and_then(|end| end.get("grpc-status").cloned());
        Ok(good && late.or(early).is_some_and(|status| status == "0"))
    }
}

/// Reads to the end, trailers included.
async fn read(mut body: RecvStream) -> Result<Option<HeaderMap>, h2::Error> {
    while let Some(data) = body.data().await {
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
    }
    poll_fn(|context| body.poll_trailers(context)).await
}

/// One gRPC message: a flag, its length, its bytes.
fn message() -> Bytes {
    let mut message = BytesMut::zeroed(5 + MESSAGE_BYTES as usize);
    message[1..5].copy_from_slice(&MESSAGE_BYTES.to_be_bytes());
    message.freeze()
}

fn report(o: &Opts, tally: &mut Tally) {
    let percentiles = |times: &mut Vec<u64>| {
        times.sort_unstable();
        let at = |q: f64| {
            let rank = (times.len() as f64 * q).ceil() as usize;
            times.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        serde_json::json!({
            "mean": times.iter().sum::<u64>() as f64 / times.len().max(1) as f64,
            "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": at(1.0),
        })
    };
    let done = tally.busy.len() + tally.cool.len();
    let report = serde_json::json!({
        "ok": done, "bad": tally.bad, "errors": tally.errors, "unanswered": 0,
        "detail": {"last_error": tally.last_error},
        "seconds": o.duration, "rps": done as f64 / o.duration, "connects": o.conns + 1,
        "latency_us": percentiles(&mut tally.busy),
        "cool_calls": tally.cool.len(), "cool_latency_us": percentiles(&mut tally.cool),
    });
    println!("{report}");
}
