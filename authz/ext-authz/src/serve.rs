//! One connection of an asking proxy.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    grpc::Checks,
    health,
    judge::Judge,
    limits::{HEAD_TIMEOUT, MAX_CHECK_HEAD_BYTES, MAX_CHECK_STREAMS},
    raw_http::{self, ClientCert},
};

/// How often a silent connection is probed, and how long the probe may stay unanswered.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// `envoy.service.auth.v3` and `grpc.health.v1` over HTTP/2.
    Grpc,
    /// The HTTP form over HTTP/1.1, and whether its word for the caller's certificate is taken.
    Http(ClientCert),
}

/// Serves a connection from `address` until it ends or `stop` says to finish what is under way.
pub async fn serve_connection<IO>(
    io: IO,
    address: IpAddr,
    spoken: Spoken,
    judge: Arc<Judge>,
    stop: CancellationToken,
) -> Result<(), hyper::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(io);
    match spoken {
        Spoken::Grpc => {
            let health = health::server(&judge.reporter);
            let routes = Routes::new(Checks::server(judge)).add_service(health);
            let service = TowerToHyperService::new(routes.prepare());
            let mut builder = conn::http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_CHECK_STREAMS)
                .max_header_list_size(16 * 1024)
                .keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE);
            let mut connection = std::pin::pin!(builder.serve_connection(io, service));
            // Cancel-safe: the connection is polled to its end below.
            tokio::select! {
                ended = connection.as_mut() => return ended,
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        }
        Spoken::Http(client_cert) => {
            let service = service_fn(move |request: http::Request<Incoming>| {
                let judge = judge.clone();
                async move {
                    let answered = raw_http::answer(&judge, request, address, client_cert).await;
                    Ok::<_, Infallible>(answered)
                }
            });
            let mut builder = conn::http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(MAX_CHECK_HEAD_BYTES);
            let mut connection = std::pin::pin!(builder.serve_connection(io, service));
            // Cancel-safe: the same.
            tokio::select! {
                ended = connection.as_mut() => return ended,
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        }
    }
}
