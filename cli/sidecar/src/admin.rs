//! The admin interface: HTTP on a Unix socket, for the operator of this machine.

pub(crate) mod break_glass;
pub(crate) mod inspect;
mod operator;
pub(crate) mod tap;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::{get, post},
};
use reeve_ads::AdsStatus;
use reeve_audit::{Wal, WalStatus};
use reeve_ca::AgentHandle;
use reeve_core::{
    InstanceName, SpiffeId, UnixTime,
    model::{Generation, Resource},
};
use reeve_proxy::ProxyStatus;
use serde::Serialize;
use tokio::{
    net::UnixListener,
    sync::{Notify, watch},
};

use crate::data_plane::DataPlane;

/// The text format of Prometheus (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the interface looks at.
pub(crate) struct Admin {
    pub(crate) instance: InstanceName,
    pub(crate) identity: SpiffeId,
    pub(crate) agent: Arc<AgentHandle>,
    pub(crate) feed: watch::Receiver<AdsStatus>,
    pub(crate) data_plane: DataPlane,
    pub(crate) wal: Arc<Wal>,
    pub(crate) registry: prometheus::Registry,
    pub(crate) stop: Arc<Notify>,
}

#[derive(Serialize)]
struct ConfigDump {
    instance: InstanceName,
    identity: SpiffeId,
    ready: Readiness,
    certificate: Certificate,
    feed: Feed,
    proxy: ProxyStatus,
    write_ahead_log: WalStatus,
    generation: Option<Generation>,
    policy_hash: Option<String>,
    resources: Vec<Resource>,
}

#[derive(Serialize)]
struct Certificate {
    rotations: u64,
    issued_at: Option<UnixTime>,
    not_after: Option<UnixTime>,
    failures: u32,
    last_error: Option<String>,
}

#[derive(Serialize)]
struct Feed {
    connected: bool,
    applied: Option<Generation>,
    refused: Option<String>,
    last_error: Option<String>,
}

/// Ready, or what is missing.
#[derive(Serialize)]
struct Readiness {
    /// Tells who answers while one process takes over from another.
    pid: u32,
    certificate: bool,
    configuration: bool,
}

impl Admin {
    fn readiness(&self) -> Readiness {
        Readiness {
            pid: std::process::id(),
            certificate: self.agent.status().issued_at.is_some(),
            configuration: self.data_plane.config().borrow().is_some(),
        }
    }

    fn dump(&self) -> ConfigDump {
        let agent = self.agent.status();
        let feed = self.feed.borrow().clone();
        let config = self.data_plane.config().borrow().clone();
        ConfigDump {
            instance: self.instance.clone(),
            identity: self.identity.clone(),
            ready: self.readiness(),
            certificate: Certificate {
                rotations: agent.rotations,
                issued_at: agent.issued_at,
                not_after: agent.not_after,
                failures: agent.failures,
                last_error: agent.last_error,
            },
            feed: Feed {
                connected: feed.connected,
                applied: feed.applied,
                refused: feed.refused,
                last_error: feed.last_error,
            },
            proxy: self.data_plane.status(),
            write_ahead_log: self.wal.status(),
            generation: config.as_ref().map(|c| c.generation),
            policy_hash: config.as_ref().map(|c| c.policies.mesh_hash.clone()),
            resources: config.map(|c| c.shown()).unwrap_or_default(),
        }
    }
}

/// The interface's routes.
pub(crate) fn routes(admin: Admin) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/config_dump", get(config_dump))
        .route("/stats", get(stats))
        .route("/stats/prometheus", get(stats))
        .route("/drain", post(drain))
        .with_state(Arc::new(admin))
}

async fn ready(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let readiness = admin.readiness();
    let status = if readiness.certificate && readiness.configuration {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(readiness))
}

async fn config_dump(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    Json(admin.dump())
}

async fn stats(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let encoder = prometheus::TextEncoder::new();
    match encoder.encode_to_string(&admin.registry.gather()) {
        Ok(text) => ([(CONTENT_TYPE, PROMETHEUS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn drain(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    admin.stop.notify_one();
    (StatusCode::ACCEPTED, "draining\n")
}

/// Serves the interface for ever.
pub async fn serve(listener: UnixListener, routes: Router) {
    let routes = routes.into_make_service_with_connect_info::<operator::Caller>();
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "the admin socket is served no longer");
    }
}
