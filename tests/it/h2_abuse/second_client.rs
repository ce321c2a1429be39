//! A well-behaved client beside an attack.

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use reeve_tests::{Call, Connection, Door, Protocol, SHED_PATIENCE};
use tokio::time::Instant;

use crate::hostile::{ALPN_HTTP1, Hostile};

static NEXT: AtomicUsize = AtomicUsize::new(0);
/// Between two requests.
const PAUSE: Duration = Duration::from_millis(10);
/// What a second client may wait at most, 99 times of 100: generous, since this may be a debug build on a busy machine.
const SANE: Duration = Duration::from_secs(5);

/// What the second client got.
pub(super) struct Second {
    pub(super) answers: usize,
    /// Requests that the proxy refused as overload: it then asks again.
    pub(super) shed: usize,
    pub(super) failures: Vec<String>,
    pub(super) p99: Duration,
}

impl Second {
    pub(super) fn assert_sane(&self, beside: &str) {
        assert_eq!(self.failures, Vec::<String>::new(), "beside {beside}");
        assert!(self.answers > 0, "beside {beside}: no answers");
        assert!(self.p99 < SANE, "beside {beside}: p99 {:?}", self.p99);
    }
}

/// Makes requests at the same door for `time`, and until one is answered, over a connection of its own.
pub(super) async fn serve_second_client(hostile: &Hostile, door: &Door, time: Duration) -> Second {
    let began = Instant::now();
    let (mut latencies, mut failures, mut shed) = (Vec::new(), Vec::new(), 0);
    let mut connection = None;
    while began.elapsed() < time || (latencies.is_empty() && began.elapsed() < SHED_PATIENCE) {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let call = Call::get("target:9080", &format!("/second-{number}."));
        let asked = Instant::now();
        let answer = async {
            if connection.is_none() {
                connection = Some(match &door.tls {
                    None => Connection::open(door.address, Protocol::Http1).await?,
                    Some(_) => {
                        Connection::over(door.open(ALPN_HTTP1).await?, Protocol::Http1).await?
                    }
                });
            }
            connection.as_mut().expect("a connection").send(&call).await
        };
        match answer.await {
            Ok(answer) if answer.status == 200 => latencies.push(asked.elapsed()),
            Ok(answer) if answer.is_shed() => shed += 1,
            Ok(answer) => failures.push(format!("{} {}", answer.status, answer.text())),
            Err(error) => {
                failures.push(format!("{error:#}"));
                connection = None;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    assert!(
        hostile.backend.faults().is_empty(),
        "{:?}",
        hostile.backend.faults()
    );
    latencies.sort_unstable();
    let p99 = latencies
        .get(latencies.len() * 99 / 100)
        .copied()
        .unwrap_or(Duration::MAX);
    Second {
        answers: latencies.len(),
        shed,
        failures,
        p99,
    }
}

/// Resident bytes of a process.
pub(super) fn proxy_memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running proxy");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    kib.expect("VmRSS") << 10
}
