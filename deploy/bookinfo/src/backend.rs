//! Calls to another service over plain HTTP/1.1, with connections kept open.

use std::{env, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header::HOST};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::Value;

const MAX_BODY: usize = 1 << 20;
const MAX_IDLE: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(3);

/// Where a service is: `<NAME>_SERVICE_HOST` and `<NAME>_SERVICE_PORT`, else its name and usual port.
pub(crate) fn address_of(service: &str, usual_port: u16) -> (String, u16) {
    let name = service.to_uppercase().replace('-', "_");
    let host = env::var(format!("{name}_SERVICE_HOST")).unwrap_or_else(|_| service.to_owned());
    let port = env::var(format!("{name}_SERVICE_PORT")).ok();
    (
        host,
        port.and_then(|p| p.parse().ok()).unwrap_or(usual_port),
    )
}

/// A service to call.
pub(crate) struct Backend {
    client: Client<HttpConnector, Empty<Bytes>>,
    base: String,
    authority: String,
}

impl Backend {
    /// The service called `name`.
    pub(crate) fn new(name: &str) -> Self {
        let (host, port) = address_of(name, 9080);
        Self::at(&host, port, format!("{name}:{port}"))
    }

    /// The service outside the mesh at `host`: for `books.example`, `BOOKS_EXAMPLE_SERVICE_HOST` says where it is
    /// reached.
    pub(crate) fn named(host: &str) -> Self {
        let labels: Vec<&str> = host.split('.').take(2).collect();
        let (address, port) = address_of(&labels.join("-"), 80);
        Self::at(&address, port, format!("{host}:{port}"))
    }

    fn at(host: &str, port: u16, authority: String) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(MAX_IDLE)
            .build(connector);
        Self {
            client,
            base: format!("http://{host}:{port}"),
            authority,
        }
    }

    /// GETs `path`; anything but a 200 with JSON is an error.
    pub(crate) async fn get_json(&self, path: &str, headers: &HeaderMap) -> Result<Value> {
        tokio::time::timeout(TIMEOUT, self.exchange(path, headers))
            .await
            .context("no answer in time")?
    }

    async fn exchange(&self, path: &str, headers: &HeaderMap) -> Result<Value> {
        let mut request = Request::get(format!("{}{path}", self.base))
            .header(HOST, &self.authority)
            .body(Empty::new())?;
        request.headers_mut().extend(headers.clone());
        let response = self.client.request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
        ensure!(status == StatusCode::OK, "answered {status}");
        Ok(serde_json::from_slice(&body)?)
    }
}
