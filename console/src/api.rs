//! What is read over TCP.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::{Graph, Status};

/// The text format of Prometheus (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the mesh process knows about itself.
pub trait MeshView: Send + Sync + 'static {
    /// How everything stands.
    fn status(&self) -> Status;

    /// What runs where, as the supervisor said last; `None` when nothing does.
    fn instances(&self) -> Option<Value>;

    /// The faults that are put into traffic on purpose.
    fn chaos(&self) -> Value;

    /// Who holds certificates of the mesh's authority, and how far each has followed it.
    fn members(&self) -> Value;

    /// The registration entries, and who uses them.
    fn entries(&self) -> Value;

    /// How every port stands on its way to STRICT; why that cannot be told.
    fn mtls(&self) -> BoxFuture<'_, Result<Value, String>>;

    /// What is refused though its certificate verifies.
    fn revoked(&self) -> Value;

    /// Who talks to whom.
    fn graph(&self) -> BoxFuture<'_, Graph>;

    /// The mesh process's own metrics in Prometheus' text format.
    fn metrics(&self) -> String;
}

/// The API that is served over TCP: everything in it only reads.
pub fn api(view: Arc<dyn MeshView>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/status", get(status))
        .route("/instances", get(instances))
        .route("/api/graph", get(graph))
        .route("/api/chaos", get(chaos))
        .route("/api/members", get(members))
        .route("/api/entries", get(entries))
        .route("/api/revoked", get(revoked))
        .route("/api/mtls", get(mtls))
        .route("/metrics", get(metrics))
        .with_state(view)
}

async fn status(State(view): State<Arc<dyn MeshView>>) -> Json<Status> {
    Json(view.status())
}

async fn chaos(State(view): State<Arc<dyn MeshView>>) -> Json<Value> {
    Json(view.chaos())
}

async fn entries(State(view): State<Arc<dyn MeshView>>) -> Json<Value> {
    Json(view.entries())
}

async fn members(State(view): State<Arc<dyn MeshView>>) -> Json<Value> {
    Json(view.members())
}

async fn revoked(State(view): State<Arc<dyn MeshView>>) -> Json<Value> {
    Json(view.revoked())
}

async fn mtls(State(view): State<Arc<dyn MeshView>>) -> Response {
    match view.mtls().await {
        Ok(ports) => Json(ports).into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn instances(State(view): State<Arc<dyn MeshView>>) -> Response {
    match view.instances() {
        Some(instances) => Json(instances).into_response(),
        None => (StatusCode::NOT_FOUND, "nothing runs yet\n").into_response(),
    }
}

async fn graph(State(view): State<Arc<dyn MeshView>>) -> Json<Graph> {
    Json(view.graph().await)
}

async fn metrics(State(view): State<Arc<dyn MeshView>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, PROMETHEUS)], view.metrics())
}
