//! Constant load, which counts every request that is not answered with 200. What a proxy sheds on a busy machine is counted by
//! itself: the next request asks again, and only who is shed for long has failed.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{Answer, Call, Connection, Protocol};

/// Failures kept word for word; further ones are only counted.
const MAX_KEPT: usize = 200;
/// For how long, at most, nothing else than being shed is no failure.
pub const SHED_PATIENCE: Duration = Duration::from_secs(10);
/// Before who was shed asks again.
pub(crate) const SHED_PAUSE: Duration = Duration::from_millis(100);

/// Where load goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address to connect to.
    pub address: SocketAddr,
    /// What is spoken.
    pub protocol: Protocol,
    /// The request.
    pub call: Call,
    /// An answer with this text in it has failed, whatever its status.
    pub bad_text: Option<&'static str>,
}

/// A request that was not answered with 200.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its `x-request-id`.
    pub id: String,
    /// When it was sent, since the load began.
    pub at: Duration,
    /// What happened.
    pub what: String,
}

/// What came of a load.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests answered with 200.
    pub ok: u64,
    /// Others.
    pub failed: u64,
    /// The first of the others.
    pub failures: Vec<Failure>,
    /// The ids of the first that were shed.
    pub shed: Vec<String>,
    /// The ids of those answered with 200.
    pub ids: Vec<String>,
    /// Time from sending to the whole answer, of those answered with 200.
    pub latencies: Vec<Duration>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    ok: AtomicU64,
    failed: AtomicU64,
    shed: AtomicU64,
    report: Mutex<Report>,
}

/// Running load.
pub struct Load {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
}

impl Load {
    /// One worker per target, each with one connection that it keeps, and `pause` between its requests. Each request
    /// has an `x-request-id` that begins with `name`.
    pub fn start(name: &str, targets: Vec<Target>, pause: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let mut workers = JoinSet::new();
        let began = Instant::now();
        for (number, target) in targets.into_iter().enumerate() {
            let worker = Worker {
                prefix: format!("{name}-{number}"),
                target,
                pause,
                began,
                shared: Arc::clone(&shared),
            };
            workers.spawn(worker.run());
        }
        Self { shared, workers }
    }

    /// Answered with 200, and others, so far.
    pub fn so_far(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.shared.ok), count(&self.shared.failed))
    }

    /// Shed so far.
    pub fn shed_so_far(&self) -> u64 {
        self.shared.shed.load(Ordering::Relaxed)
    }

    /// Lets each worker finish its request, and reports.
    pub async fn stop(mut self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.workers.join_next().await {
            ended.expect("a worker of the load");
        }
        std::mem::take(&mut *self.shared.report.lock().expect("the report"))
    }
}

impl Report {
    /// The latency that this share of the requests stayed within.
    pub fn percentile(&self, share: f64) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        sorted.get(at).copied().unwrap_or_default()
    }
}

struct Worker {
    prefix: String,
    target: Target,
    pause: Duration,
    began: Instant,
    shared: Arc<Shared>,
}

impl Worker {
    async fn run(self) {
        let mut connection = None;
        let mut heard = Instant::now();
        for number in 0_u64.. {
            if self.shared.stop.load(Ordering::Relaxed) {
                return;
            }
            let id = format!("{}-{number}", self.prefix);
            let call = self.target.call.clone().header("x-request-id", &id);
            let at = self.began.elapsed();
            let answer = self.exchange(&mut connection, &call).await;
            if let Ok(answer) = &answer
                && answer.is_shed()
                && heard.elapsed() < SHED_PATIENCE
            {
                self.note_shed(id);
                tokio::time::sleep(SHED_PAUSE).await;
                continue;
            }
            heard = Instant::now();
            match answer {
                Ok(answer) if answer.status == 200 && !self.is_bad(&answer) => self.note_ok(id, at),
                Ok(answer) => {
                    let flat: String = answer.text().chars().take(200).collect();
                    self.note_failure(id, at, format!("{} {flat}", answer.status));
                }
                Err(error) => {
                    connection = None;
                    self.note_failure(id, at, format!("{error:#}"));
                }
            }
            // Also after a failure: a target that is down must not be spun on.
            let pause = if connection.is_none() {
                self.pause.max(Duration::from_millis(10))
            } else {
                self.pause
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn exchange(&self, kept: &mut Option<Connection>, call: &Call) -> anyhow::Result<Answer> {
        if kept.as_ref().is_some_and(Connection::is_closed) {
            *kept = None;
        }
        let connection = match kept {
            Some(connection) => connection,
            None => kept.insert(Connection::open(self.target.address, self.target.protocol).await?),
        };
        connection.send(call).await
    }

    fn is_bad(&self, answer: &Answer) -> bool {
        let bad = self.target.bad_text;
        bad.is_some_and(|bad| answer.text().contains(bad))
    }

    fn note_ok(&self, id: String, at: Duration) {
        self.shared.ok.fetch_add(1, Ordering::Relaxed);
        let mut report = self.shared.report.lock().expect("the report");
        report.ok += 1;
        report.ids.push(id);
        report.latencies.push(self.began.elapsed() - at);
    }

    fn note_shed(&self, id: String) {
        self.shared.shed.fetch_add(1, Ordering::Relaxed);
        let mut report = self.shared.report.lock().expect("the report");
        if report.shed.len() < MAX_KEPT {
            report.shed.push(id);
        }
    }

    fn note_failure(&self, id: String, at: Duration, what: String) {
        self.shared.failed.fetch_add(1, Ordering::Relaxed);
        let mut report = self.shared.report.lock().expect("the report");
        report.failed += 1;
        if report.failures.len() < MAX_KEPT {
            report.failures.push(Failure { id, at, what });
        }
    }
}
