//! The one HTTP client of the command line, over TCP and Unix sockets.
//!
//! One connection per exchange, HTTP/1.1, whole answers of at most [`MAX_BODY`] bytes, and a bound on the whole
//! exchange. Only our own processes and the applications beside them are asked.

mod lines;

pub(crate) use lines::post_lines;

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// No answer may be longer.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// At a TCP address.
    Tcp(SocketAddr),
    /// At a Unix socket.
    Unix(PathBuf),
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Its body.
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// Nobody listens there.
    #[error("nobody answers there: {0}")]
    Connect(#[source] io::Error),
    /// It took too long.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The exchange broke off.
    #[error("the exchange broke off: {0}")]
    Exchange(#[source] hyper::Error),
    /// The answer broke off or was too long.
    #[error("the answer could not be read: {0}")]
    Body(String),
    /// The request could not be formed.
    #[error("the request is not valid HTTP: {0}")]
    Request(#[source] http::Error),
}

/// Gets `path`.
pub(crate) async fn get(target: &Target, path: &str, limit: Duration) -> Result<Reply, FetchError> {
    send(target, Method::GET, path, Bytes::new(), limit).await
}

/// Posts JSON to `path`.
pub(crate) async fn post(
    target: &Target,
    path: &str,
    body: Bytes,
    limit: Duration,
) -> Result<Reply, FetchError> {
    send(target, Method::POST, path, body, limit).await
}

/// Sends JSON to `path`, or nothing.
pub(crate) async fn send(
    target: &Target,
    method: Method,
    path: &str,
    body: Bytes,
    limit: Duration,
) -> Result<Reply, FetchError> {
    let host = match target {
        Target::Tcp(address) => address.to_string(),
        Target::Unix(_) => "localhost".to_owned(),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, host);
    if !body.is_empty() {
        request = request.header(http::header::CONTENT_TYPE, "application/json");
    }
    let request = request.body(Full::new(body)).map_err(FetchError::Request)?;
    let whole = async {
        match target {
            Target::Tcp(address) => {
                let stream = TcpStream::connect(address).await;
                exchange(stream.map_err(FetchError::Connect)?, request).await
            }
            Target::Unix(path) => {
                let stream = UnixStream::connect(path).await;
                exchange(stream.map_err(FetchError::Connect)?, request).await
            }
        }
    };
    timeout(limit, whole)
        .await
        .map_err(|_| FetchError::Timeout(limit))?
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Reply, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(FetchError::Exchange)?;
    let connection = tokio::spawn(connection);
    let outcome = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(FetchError::Exchange)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await;
        let body = body.map_err(|error| FetchError::Body(error.to_string()))?;
        Ok(Reply {
            status: head.status,
            body: body.to_bytes(),
        })
    }
    .await;
    connection.abort();
    outcome
}

#[cfg(test)]
mod tests;
