//! The proxy's own ports: metrics and health.

use std::{convert::Infallible, pin::pin, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Registry, TextEncoder};
use tokio::{sync::Semaphore, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    accepting::Accepting, app_metrics, limits::HEADER_READ_TIMEOUT, net::Door, proxy::Shared,
};

/// Connections at once to one of the ports.
const MAX_CONNECTIONS: usize = 64;

/// Serves until told to stop. Both ports answer both paths.
pub(crate) async fn run(
    shared: Arc<Shared>,
    registry: Registry,
    listener: Door,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let Ok(bind) = listener.local_addr() else {
        return;
    };
    let (metrics, warnings) = (shared.metrics.clone(), shared.accept_warnings.clone());
    let mut accepting = Accepting::new(bind, metrics, warnings);
    loop {
        let Ok(place) = room.clone().acquire_owned().await else {
            return;
        };
        // Cancel-safe: accept loses no connection when dropped.
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                drop(place);
                sleep(accepting.failed(&error)).await;
                continue;
            }
        };
        accepting.succeeded();
        let (shared, registry, stop) = (shared.clone(), registry.clone(), stop.clone());
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request: Request<Incoming>| {
                let (shared, registry) = (&shared, &registry);
                async move {
                    let path = request.uri().path();
                    Ok::<_, Infallible>(answer(shared, registry, path).await)
                }
            });
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_READ_TIMEOUT);
            let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
            // Cancel-safe: the connection is polled on after the stop.
            tokio::select! {
                () = stop.cancelled() => {
                    serving.as_mut().graceful_shutdown();
                    drop(serving.await);
                }
                ended = serving.as_mut() => drop(ended),
            }
        });
    }
}

/// Adds the application's own metrics, if configuration says where they are and it answers.
async fn with_app(shared: &Shared, own: String) -> String {
    let snapshot = shared.snapshot();
    let from = snapshot
        .as_ref()
        .and_then(|s| s.workload().telemetry.app_metrics.as_ref());
    let Some(from) = from else {
        return own;
    };
    match app_metrics::fetch(from).await {
        Ok(page) => app_metrics::join(own, &page),
        Err(error) => {
            tracing::debug!(%error, at = %from.address, "the application's metrics are missing");
            shared.metrics.app_metrics_missed();
            own
        }
    }
}

async fn answer(shared: &Shared, registry: &Registry, path: &str) -> Response<Full<Bytes>> {
    let (status, text) = match path {
        "/stats/prometheus" | "/metrics" => {
            shared.metrics.wal_status(&shared.ledger.status());
            match TextEncoder::new().encode_to_string(&registry.gather()) {
                Ok(text) => (StatusCode::OK, with_app(shared, text).await),
                Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
            }
        }
        "/healthz/live" => (StatusCode::OK, "live\n".to_owned()),
        "/healthz/ready" => match shared.readiness() {
            Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
            Err(why) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready: {why}\n"),
            ),
        },
        _ => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
    };
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}
