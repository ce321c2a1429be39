//! Serving HTTP on a connection whose peer is known as far as it will be.

use std::sync::Arc;

use http::{Request, Version};
use http_body::Body as _;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio_util::sync::CancellationToken;

use crate::{
    answer::Reset,
    arrival::Arrival,
    bitten::limit_of,
    farewell::Farewell,
    framing::Framed,
    io::Io,
    life,
    limits::{
        CONNECTION_WINDOW_BYTES, HEADER_READ_TIMEOUT, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT,
        MAX_CONCURRENT_STREAMS, MAX_ERROR_RESETS, MAX_HEADER_LIST_BYTES, MAX_HEADERS,
        MAX_HTTP1_BUFFER_BYTES, MAX_PENDING_RESETS, MAX_PENDING_RESETS_OF_PEER,
        MAX_PLAINTEXT_STREAMS, MAX_SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES,
    },
    worker::Worker,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Inbound,
    Outbound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    Any,
    Http1,
    Http2,
    Bytes,
}

/// An HTTP connection about to be served.
pub(crate) struct Serving<'a, I> {
    worker: &'a Arc<Worker>,
    side: Side,
    arrival: Arrival,
    io: I,
    /// Cancelled when the connection is no more, whatever it was upgraded to.
    gone: CancellationToken,
    spoken: Spoken,
}

pub(crate) fn serve_http<I: Io + 'static>(
    worker: &Arc<Worker>,
    side: Side,
    arrival: Arrival,
    io: I,
    gone: CancellationToken,
    spoken: Spoken,
) -> Serving<'_, I> {
    Serving {
        worker,
        side,
        arrival,
        io,
        gone,
        spoken,
    }
}

impl<I: Io + 'static> Serving<'_, I> {
    pub(crate) async fn until(self, drain: CancellationToken) {
        self.until_future(drain.cancelled()).await;
    }

    /// Serves until the peer closes; once `drain` is ready, finishes what is in flight (GOAWAY, `Connection: close`).
    /// An upgraded connection is served until it ends, so that it stays counted.
    pub(crate) async fn until_future(self, drain: impl Future<Output = ()>) {
        let gone = self.gone.clone();
        self.serve(drain).await;
        gone.cancelled().await;
    }

    async fn serve(self, drain: impl Future<Output = ()>) {
        let Self {
            worker,
            side,
            arrival,
            io,
            spoken,
            ..
        } = self;
        let at = Arc::new((worker.clone(), arrival, Farewell::default()));
        let patience = io.patience();
        let served = at.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let at = served.clone();
            let patience = patience.clone();
            async move {
                let (worker, arrival, farewell) = &*at;
                let version = request.version();
                farewell.heard(version);
                if version != Version::HTTP_2 && !request.body().is_end_stream() {
                    patience.begin();
                }
                let mut response = match side {
                    Side::Inbound => Box::pin(life::inbound(worker, arrival, request)).await,
                    Side::Outbound => Box::pin(life::outbound(worker, arrival, request)).await,
                };
                if response.extensions().get::<Reset>().is_some() {
                    return Err(Reset);
                }
                farewell.say(version, &mut response);
                Ok(response)
            }
        });
        let builder = builder(spoken);
        let metrics = worker.proxy.metrics.clone();
        let io = Framed::new(io, metrics.clone());
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
        let (_, _, farewell) = &*at;
        let ended = farewell
            .attend(connection, |it| it.graceful_shutdown(), drain)
            .await;
        if let Err(error) = ended {
            if let Some(limit) = limit_of(error.as_ref()) {
                metrics.limit_hit(limit);
            }
            tracing::debug!(%error, "a connection ended");
        }
    }
}

fn builder(spoken: Spoken) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    let (streams, pending_resets) = match spoken {
        Spoken::Http2 => (MAX_CONCURRENT_STREAMS, MAX_PENDING_RESETS_OF_PEER),
        Spoken::Any | Spoken::Http1 | Spoken::Bytes => (MAX_PLAINTEXT_STREAMS, MAX_PENDING_RESETS),
    };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HTTP1_BUFFER_BYTES)
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .max_pending_accept_reset_streams(pending_resets)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .enable_connect_protocol()
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    match spoken {
        Spoken::Http1 => builder.http1_only(),
        Spoken::Http2 => builder.http2_only(),
        Spoken::Any | Spoken::Bytes => builder,
    }
}
