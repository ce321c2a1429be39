//! `echo`: answers each request with a description of it, for end-to-end tests.
//!
//! | path | answer |
//! |---|---|
//! | `/status/CODE` | that status |
//! | `/delay/MS` | after so many milliseconds |
//! | `/stream/MS` | a line every so many milliseconds, for ever |
//! | `/stream/MS/COUNT` | the same, so many lines |
//! | `/body` | the request's body, streamed back |
//! | `/grpc/*` | the body, and the trailer `grpc-status: 0` |
//! | `/health` | 200; where `HEALTH_FLAPS` is a number of seconds, 503 for as many after as many of 200 |
//! | any other | 200; 500 where `FAULTY` is set |
//!
//! Where `ECHO_LOG` names a file, a line with the `x-request-id` of each request and the instance is appended to it
//! before the request is answered.

use std::{
    collections::BTreeMap, convert::Infallible, env, fs, io::Write as _, net::SocketAddr,
    sync::Arc, time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;
use tokio::time::Instant;

use crate::server::{self, Call, Reply, bytes_reply, json_reply};

const MAX_DELAY_MS: u64 = 60_000;

/// Who answers, and where it notes what it saw.
struct Echo {
    instance: String,
    version: String,
    log: Option<fs::File>,
    started: Instant,
    flaps: Option<u64>,
    faulty: bool,
}

/// Serves the echo.
pub(crate) async fn serve(address: SocketAddr) -> Result<()> {
    let log = match env::var("ECHO_LOG") {
        Ok(path) => {
            let file = fs::OpenOptions::new().create(true).append(true).open(&path);
            Some(file.with_context(|| format!("cannot open ECHO_LOG {path:?}"))?)
        }
        Err(_) => None,
    };
    let echo = Arc::new(Echo {
        instance: env::var("REEVE_INSTANCE").unwrap_or_default(),
        version: env::var("VERSION").unwrap_or_default(),
        log,
        started: Instant::now(),
        faulty: env::var_os("FAULTY").is_some(),
        flaps: env::var("HEALTH_FLAPS")
            .ok()
            .and_then(|text| text.parse().ok()),
    });
    server::serve("echo", address, move |call| {
        let echo = Arc::clone(&echo);
        async move { answer(&echo, call).await }
    })
    .await
}

async fn answer(echo: &Echo, call: Call) -> Reply {
    note(echo, call.headers());
    let path = call.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let described = describe(echo, &call);
    match parts.as_slice() {
        ["status", code] => json_reply(code.parse().unwrap_or(StatusCode::BAD_REQUEST), &described),
        ["delay", ms] => {
            let ms = ms.parse().unwrap_or(0).min(MAX_DELAY_MS);
            tokio::time::sleep(Duration::from_millis(ms)).await;
            json_reply(StatusCode::OK, &described)
        }
        ["health"] if echo.is_unwell() => json_reply(StatusCode::SERVICE_UNAVAILABLE, &described),
        ["stream", ms] => ticking(ms, u64::MAX),
        ["stream", ms, count] => ticking(ms, count.parse().unwrap_or(u64::MAX)),
        ["body"] => body_back(call.into_body(), None),
        ["grpc", ..] => {
            let status = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static("0"),
            )]);
            body_back(call.into_body(), Some(status))
        }
        _ if echo.faulty => json_reply(StatusCode::INTERNAL_SERVER_ERROR, &described),
        _ => json_reply(StatusCode::OK, &described),
    }
}

/// One write call per line, so that lines of a killed process are whole.
fn note(echo: &Echo, headers: &HeaderMap) {
    let id = headers.get("x-request-id").and_then(|v| v.to_str().ok());
    if let (Some(mut log), Some(id)) = (echo.log.as_ref(), id)
        && let Err(error) = log.write_all(format!("{id} {}\n", echo.instance).as_bytes())
    {
        server::log(&json!({"app": "echo", "error": format!("ECHO_LOG: {error}")}));
    }
}

fn describe(echo: &Echo, call: &Call) -> serde_json::Value {
    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in call.headers() {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.entry(name.as_str()).or_default().push(value);
    }
    json!({
        "instance": echo.instance,
        "version": echo.version,
        "method": call.method().as_str(),
        "authority": call.uri().authority().map(http::uri::Authority::as_str),
        "path": call.uri().path(),
        "query": call.uri().query(),
        "protocol": format!("{:?}", call.version()),
        "headers": headers,
    })
}

impl Echo {
    /// Instances take turns, so that not all are unwell at once.
    fn is_unwell(&self) -> bool {
        let Some(flaps) = self.flaps else {
            return false;
        };
        let turn = u64::from(self.instance.bytes().last().is_some_and(|b| b % 2 == 1));
        (self.started.elapsed().as_secs() / flaps.max(1) + turn) % 2 == 1
    }
}

fn ticking(ms: &str, count: u64) -> Reply {
    let ms = ms.parse().unwrap_or(100).clamp(1, MAX_DELAY_MS);
    let ticks = stream::unfold(0_u64, move |tick| async move {
        if tick == count {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(ms)).await;
        let frame = Frame::data(Bytes::from(format!("tick {tick}\n")));
        Some((Ok::<_, Infallible>(frame), tick.saturating_add(1)))
    });
    let mut reply = bytes_reply(StatusCode::OK, Bytes::new());
    *reply.body_mut() = StreamBody::new(ticks).boxed_unsync();
    reply
}

fn body_back(body: Incoming, trailers: Option<HeaderMap>) -> Reply {
    let data = body.into_data_stream().take_while(|part| {
        let whole = part.is_ok();
        async move { whole }
    });
    let frames = data
        .filter_map(|part| async move { part.ok() })
        .map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    let end = stream::iter(trailers.map(|t| Ok(Frame::trailers(t))));
    let mut reply = bytes_reply(StatusCode::OK, Bytes::new());
    *reply.body_mut() = StreamBody::new(frames.chain(end)).boxed_unsync();
    let grpc = HeaderValue::from_static("application/grpc");
    reply.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    reply
}
