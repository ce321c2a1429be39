//! Bookinfo's visitors: anonymous ones, jason, and now and then one who asks for what nobody permitted.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::latency::Latencies;

/// A page is not larger.
const MAX_PAGE: usize = 4 * 1024 * 1024;
/// A visitor gives up after this long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Visitors at one time; beyond, the next one waits.
const MAX_VISITORS: usize = 256;

/// What visitors saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Requests answered or failed.
    pub(crate) requests: u64,
    /// Answered 5xx, with a part of the page missing, or not at all.
    pub(crate) failed: u64,
    /// Denied by policy (403).
    pub(crate) denied: u64,
    /// How long answers took.
    pub(crate) latencies: Latencies,
    /// Why the last one failed.
    pub(crate) last_failure: Option<String>,
}

/// A generator of visitors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Visitors {
    seen: Arc<Mutex<Seen>>,
}

/// Who comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visitor {
    Anonymous,
    Jason,
    Reader,
    Curious,
}

impl Visitor {
    /// The `n`th visitor: of twenty, eleven are anonymous, six are jason, two read reviews, one is curious.
    fn nth(n: u64) -> Self {
        match n % 20 {
            19 => Self::Curious,
            9 | 14 => Self::Reader,
            m if m % 3 == 1 => Self::Jason,
            _ => Self::Anonymous,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Anonymous | Self::Jason => "/productpage",
            Self::Reader => "/api/v1/products/0/reviews",
            Self::Curious => "/api/v1/products/0/ratings",
        }
    }
}

impl Visitors {
    /// What they saw so far.
    pub(crate) fn seen(&self) -> Seen {
        self.seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// Sends `rps` visitors a second to `gateway` until `stop`, then waits for those under way.
    pub(crate) async fn run(&self, gateway: SocketAddr, rps: u32, stop: CancellationToken) {
        if rps == 0 {
            return;
        }
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(5))
            .build_http::<Empty<Bytes>>();
        let room = Arc::new(Semaphore::new(MAX_VISITORS));
        let mut timer = tokio::time::interval(Duration::from_secs(1) / rps);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for n in 0.. {
            // Cancel-safe: a tick and a flag.
            tokio::select! {
                _ = timer.tick() => {}
                () = stop.cancelled() => break,
            }
            let Ok(permit) = room.clone().acquire_owned().await else {
                break;
            };
            let (visitors, client) = (self.clone(), client.clone());
            tokio::spawn(async move {
                visitors.visit(&client, gateway, Visitor::nth(n)).await;
                drop(permit);
            });
        }
        let everybody = u32::try_from(MAX_VISITORS).unwrap_or(u32::MAX);
        drop(tokio::time::timeout(PATIENCE, room.acquire_many(everybody)).await);
    }

    async fn visit(
        &self,
        client: &Client<HttpConnector, Empty<Bytes>>,
        gateway: SocketAddr,
        visitor: Visitor,
    ) {
        let began = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, fetch(client, gateway, visitor)).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let mut seen = self
            .seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.requests += 1;
        seen.latencies.add(began.elapsed());
        match answer.and_then(|(status, body)| judge(status, &body)) {
            Ok(Judged::Served) => {}
            Ok(Judged::Denied) => seen.denied += 1,
            Err(why) => {
                seen.failed += 1;
                seen.last_failure = Some(format!("{}: {why}", visitor.path()));
            }
        }
    }
}

async fn fetch(
    client: &Client<HttpConnector, Empty<Bytes>>,
    gateway: SocketAddr,
    visitor: Visitor,
) -> Result<(StatusCode, Bytes), String> {
    let uri = Uri::builder()
        .scheme("http")
        .authority(gateway.to_string())
        .path_and_query(visitor.path())
        .build();
    let mut request = Request::get(uri.map_err(|error| error.to_string())?);
    if visitor == Visitor::Jason {
        request = request.header(header::COOKIE, "user=jason");
    }
    let request = request
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    let response = client
        .request(request)
        .await
        .map_err(|error| reeve_core::error_chain(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_PAGE).collect().await;
    let body = body.map_err(|error| format!("the answer broke off: {error}"))?;
    Ok((status, body.to_bytes()))
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    Served,
    Denied,
}

fn judge(status: StatusCode, body: &[u8]) -> Result<Judged, String> {
    let text = String::from_utf8_lossy(body);
    if status == StatusCode::FORBIDDEN {
        return Ok(Judged::Denied);
    }
    if !status.is_success() && !status.is_redirection() {
        let text: String = text.chars().take(200).collect();
        return Err(format!("{status} {text}"));
    }
    // Bookinfo's product page answers 200 even if a part of it could not be had.
    match text.lines().find(|line| line.contains("unavailable")) {
        Some(line) => Err(format!(
            "a part is missing: {}",
            line.trim().chars().take(200).collect::<String>()
        )),
        None => Ok(Judged::Served),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_twenty_visitors_one_is_curious() {
        let count = |who| (0..20).filter(|n| Visitor::nth(*n) == who).count();
        assert_eq!(count(Visitor::Curious), 1);
        assert_eq!(count(Visitor::Reader), 2);
        assert_eq!(count(Visitor::Jason), 6);
        assert_eq!(count(Visitor::Anonymous), 11);
    }

    #[test]
    fn a_page_with_a_part_missing_has_failed() {
        let judged = judge(
            StatusCode::OK,
            b"<p>\n Ratings service is currently unavailable\n</p>",
        );
        assert!(judged.unwrap_err().contains("part is missing"));
        assert_eq!(judge(StatusCode::OK, b"fine"), Ok(Judged::Served));
        assert_eq!(judge(StatusCode::FORBIDDEN, b"{}"), Ok(Judged::Denied));
        assert!(judge(StatusCode::BAD_GATEWAY, b"").is_err());
        assert!(judge(StatusCode::NOT_FOUND, b"").is_err());
    }
}
