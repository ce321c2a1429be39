//! A small HTTP client that plays an application: HTTP/1.1 with kept connections, and HTTP/2 by prior knowledge.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

const TIMEOUT: Duration = Duration::from_secs(10);

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
}

/// A request to make.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    path: String,
    host: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    /// A GET of `path` from `host`.
    pub fn get(host: &str, path: &str) -> Self {
        Self {
            method: Method::GET,
            path: path.to_owned(),
            host: host.to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// A POST of `body` to `path` at `host`.
    pub fn post(host: &str, path: &str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self {
            method: Method::POST,
            body,
            ..Self::get(host, path)
        }
    }

    /// With this method.
    #[must_use]
    pub fn method(mut self, name: &str) -> Self {
        self.method = name.parse().expect("a method");
        self
    }

    /// With this header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a header name");
        self.headers
            .insert(name, HeaderValue::from_str(value).expect("a header value"));
        self
    }

    /// Makes it over a fresh HTTP/1.1 connection.
    pub async fn send(&self, to: SocketAddr) -> Result<Answer> {
        Connection::open(to, Protocol::Http1)
            .await?
            .send(self)
            .await
    }

    /// The status that it is answered with, over a fresh HTTP/1.1 connection; or why there is none.
    pub async fn status(&self, to: SocketAddr) -> Result<u16, String> {
        match self.send(to).await {
            Ok(answer) => Ok(answer.status.as_u16()),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    fn request(&self, protocol: Protocol) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        *request.uri_mut() = match protocol {
            Protocol::Http1 => self.path.parse()?,
            Protocol::Http2 => format!("http://{}{}", self.host, self.path).parse()?,
        };
        if protocol == Protocol::Http1 {
            let host = HeaderValue::from_str(&self.host)?;
            request.headers_mut().insert(http::header::HOST, host);
        }
        Ok(request)
    }
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Its trailers.
    pub trailers: HeaderMap,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON in {self:?}"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether a proxy refused it as overload, having passed it on to nobody: whoever asks may ask again (docs/limits.md).
    pub fn is_shed(&self) -> bool {
        let refused = self.status == 503 || self.header("grpc-status") == Some("14");
        refused && self.header("retry-after").is_some()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A kept connection.
pub struct Connection {
    sender: Sender,
    protocol: Protocol,
}

impl Connection {
    /// Connects.
    pub async fn open(to: SocketAddr, protocol: Protocol) -> Result<Self> {
        tokio::time::timeout(TIMEOUT, Self::connect(to, protocol))
            .await
            .context("no connection in time")?
    }

    async fn connect(to: SocketAddr, protocol: Protocol) -> Result<Self> {
        let stream = TcpStream::connect(to).await.context("connecting")?;
        stream.set_nodelay(true)?;
        Self::over(stream, protocol).await
    }

    /// Speaks HTTP over a byte stream that there is already.
    pub async fn over<I>(stream: I, protocol: Protocol) -> Result<Self>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(stream);
        // The task ends with the connection, which the sender keeps open; its error is seen at the sender too.
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Ok(Self { sender, protocol })
    }

    /// Whether the other side closed it.
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Makes a call and takes the whole answer.
    pub async fn send(&mut self, call: &Call) -> Result<Answer> {
        let exchange = async {
            let (head, mut body) = self.begin(call).await?.into_parts();
            let mut data = Vec::new();
            let mut trailers = HeaderMap::new();
            while let Some(frame) = body.frame().await {
                match frame.context("reading the body")?.into_data() {
                    Ok(part) => data.extend_from_slice(&part),
                    Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
                }
            }
            anyhow::Ok(Answer {
                status: head.status,
                headers: head.headers,
                body: data.into(),
                trailers,
            })
        };
        tokio::time::timeout(TIMEOUT, exchange)
            .await
            .context("no answer in time")?
    }

    /// Makes a call and leaves the body to be read piece by piece.
    pub async fn stream(&mut self, call: &Call) -> Result<Streaming> {
        let answer = tokio::time::timeout(TIMEOUT, self.begin(call)).await;
        let answer = answer.context("no answer in time")??;
        Ok(Streaming {
            status: answer.status(),
            body: answer.into_body(),
        })
    }

    async fn begin(&mut self, call: &Call) -> Result<Response<Incoming>> {
        let request = call.request(self.protocol)?;
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.context("connection closed")?;
                Ok(sender.send_request(request).await.context("sending")?)
            }
            Sender::Http2(sender) => {
                sender.ready().await.context("connection closed")?;
                Ok(sender.send_request(request).await.context("sending")?)
            }
        }
    }
}

/// A response whose body is still coming.
pub struct Streaming {
    /// Its status.
    pub status: StatusCode,
    body: Incoming,
}

impl Streaming {
    /// The next piece: `Ok(None)` at the good end, an error when it was broken off.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}
