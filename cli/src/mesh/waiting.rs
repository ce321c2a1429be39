//! Answers while the mesh process waits for its first valid configuration: whoever asks learns that it waits, and what
//! is in its way, instead of hearing nothing.

use std::{convert::Infallible, future::ready, io, time::Duration};

use futures_util::{StreamExt as _, future::Either, stream::FuturesUnordered};
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    time::{sleep, timeout},
};

/// Most connections that are answered at one time; others wait to be accepted.
const MAX_ASKING: usize = 64;
/// Longest time for one of them.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers every HTTP request on the API and on the mesh's socket with 503 and the reason, for as long as it is polled.
pub(super) async fn answer(
    api: &TcpListener,
    socket: &UnixListener,
    why: impl Fn() -> String,
) -> Infallible {
    let mut asking = FuturesUnordered::new();
    loop {
        let room = asking.len() < MAX_ASKING;
        // Cancel safety: all branches are.
        let accepted = tokio::select! {
            accepted = api.accept(), if room => accepted.map(|(stream, _)| Either::Left(stream)),
            accepted = socket.accept(), if room => accepted.map(|(stream, _)| Either::Right(stream)),
            Some(()) = asking.next() => continue,
        };
        match accepted {
            Ok(Either::Left(stream)) => asking.push(Either::Left(refuse(stream, why()))),
            Ok(Either::Right(stream)) => asking.push(Either::Right(refuse(stream, why()))),
            Err(error) => pause(&error).await,
        }
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    sleep(ACCEPT_PAUSE).await;
}

/// Answers one request.
async fn refuse(stream: impl AsyncRead + AsyncWrite + Unpin, why: String) {
    let service = service_fn(|_: hyper::Request<Incoming>| {
        let mut response = Response::new(Full::new(Bytes::from(why.clone())));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        ready(Ok::<_, Infallible>(response))
    });
    let mut http = http1::Builder::new();
    let connection = http
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Who speaks something else, or takes too long, has no answer.
    drop(timeout(PATIENCE, connection).await);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Target, get, post};

    #[tokio::test]
    async fn who_asks_too_early_is_told_why_there_is_no_answer_yet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.sock");
        let socket = UnixListener::bind(&path).unwrap();
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = Target::Tcp(api.local_addr().unwrap());
        // They say nothing, and nobody waits for them.
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(tokio::net::UnixStream::connect(&path).await.unwrap());
        }
        let unix = Target::Unix(path);
        let limit = Duration::from_secs(60);
        let asked = async {
            let body = Bytes::from_static(b"{}");
            let posted = post(&unix, "/admin/join-tokens", body, limit).await;
            [posted, get(&tcp, "/status", limit).await]
        };
        let replies = tokio::select! {
            never = answer(&api, &socket, || "not valid: a.yaml:7".to_owned()) => match never {},
            replies = asked => replies,
        };
        for reply in replies {
            let reply = reply.unwrap();
            assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(reply.body, "not valid: a.yaml:7");
        }
    }
}
