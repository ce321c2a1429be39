//! What changes something; for the mesh's Unix socket.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State, rejection::JsonRejection},
    http::{Extensions, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::future::BoxFuture;
use reeve_core::{Namespace, SpiffeId, UnixTime, model::SignerKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Largest request body.
const MAX_BODY: usize = 64 * 1024;

/// What an operator may have done.
pub trait AdminView: Send + Sync + 'static {
    /// Whether the caller, known by what the server put into the request's extensions, is an operator; else why not.
    fn admit<'a>(&'a self, caller: &'a Extensions) -> BoxFuture<'a, Result<(), TokenRefused>>;

    /// Switches all faults on purpose off, or lets them in again.
    fn switch_chaos(&self, request: &ChaosRequest) -> Result<(), TokenRefused>;

    /// Rotates certificates or authorities.
    fn rotate(&self, request: &RotateRequest) -> Result<(), TokenRefused>;

    /// Refuses an identity or a certificate, or takes that back.
    fn revoke(&self, request: &RevokeRequest) -> Result<(), TokenRefused>;

    /// Records what a drill does.
    fn note_drill(&self, caller: &Extensions, note: &DrillNote) -> Result<(), TokenRefused>;

    /// Records what a migration to STRICT does.
    fn note_migration(&self, caller: &Extensions, note: &MigrationNote)
    -> Result<(), TokenRefused>;

    /// Locks a namespace that is strict; the answer is the lock. Blocks on files.
    fn lock_mtls(&self, caller: &Extensions, request: &LockRequest) -> Result<Value, TokenRefused>;

    /// Opens one again; the answer is the lock that was. Blocks on files.
    fn unlock_mtls(
        &self,
        caller: &Extensions,
        request: &UnlockRequest,
    ) -> Result<Value, TokenRefused>;

    /// Puts a fault into the authority for a while, or takes it out.
    fn fault(&self, caller: &Extensions, request: &FaultRequest) -> Result<(), TokenRefused>;

    /// Puts on record that the caller read the trail from its folder.
    fn trail_was_read(&self, caller: &Extensions, read: &TrailRead) -> Result<(), TokenRefused>;

    /// Makes a join token.
    fn create_token(&self, request: &TokenRequest) -> Result<CreatedToken, TokenRefused>;
}

/// Switches faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChaosRequest {
    /// Whether they are off.
    pub off: bool,
}

/// Rotates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// `workloads`, `intermediate`, `root`, `force`, `back` or `emergency`.
    pub what: String,
}

/// Refuses an identity or a certificate from now on, or takes that back. Exactly one of both is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    /// The identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<SpiffeId>,
    /// The certificate's serial number in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Why.
    #[serde(default)]
    pub why: String,
    /// Until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixTime>,
    /// Whether it is taken back.
    #[serde(default)]
    pub take_back: bool,
}

/// What a drill does, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillNote {
    /// The run's id.
    pub drill: String,
    /// The drill's name.
    pub name: String,
    /// `began`, `step` or `ended`.
    pub phase: String,
    /// In words.
    #[serde(default)]
    pub text: String,
    /// At its end: `passed`, `failed` or `rolled_back`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
}

/// What a migration to STRICT does, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrationNote {
    /// The run's id.
    pub migration: String,
    /// `began`, `shadow`, `flip`, `hold`, `done`, `rolled_back`, `stopped` or `ended`.
    pub phase: String,
    /// The wave, if it is of one.
    #[serde(default)]
    pub wave: String,
    /// In words: what and why.
    #[serde(default)]
    pub text: String,
    /// Who, as the system knows them.
    #[serde(default)]
    pub by: String,
}

/// Locks a namespace that is strict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockRequest {
    /// Which.
    pub namespace: Namespace,
    /// Ed25519 keys of those whose approval opens it.
    pub approvers: Vec<SignerKey>,
    /// Who, as the system knows them.
    pub by: String,
    /// On what evidence.
    pub why: String,
}

/// Opens a namespace again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnlockRequest {
    /// The approval's text.
    pub approval: String,
    /// Who, as the system knows them.
    pub by: String,
}

/// A fault of the authority on purpose. It ends by itself unless it is asked for again in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRequest {
    /// The run that wants it.
    pub drill: String,
    /// `away`, `no-renewal` or `skew`.
    pub fault: String,
    /// Of `skew`: by how much the authority's clock is ahead.
    #[serde(default)]
    pub ahead_ms: i64,
    /// For how long from now; 0 takes the fault out.
    pub lease_ms: u64,
}

/// The trail was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrailRead {
    /// What was asked for, as it was written.
    pub filter: String,
    /// How many records were shown.
    pub shown: u64,
}

/// Asks for a join token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The identity that the token's bearer gets.
    pub identity: SpiffeId,
    /// How long it can be used; ten minutes by default.
    #[serde(default = "ten_minutes")]
    pub ttl_seconds: u64,
}

/// A join token. It is shown once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedToken {
    /// The secret.
    pub token: String,
    /// The identity it stands for.
    pub identity: SpiffeId,
    /// When it ends.
    pub expires_at: UnixTime,
    /// The mesh's authorities in PEM, by which the bearer knows the mesh.
    pub bundle: String,
}

impl std::fmt::Debug for CreatedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedToken")
            .field("identity", &self.identity)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// The caller may not.
    #[error("{0}")]
    Caller(String),
    /// The request asks for something that cannot be.
    #[error("{0}")]
    Request(String),
    /// It is our own fault.
    #[error("it could not be done: {0}")]
    Ourselves(String),
}

impl IntoResponse for TokenRefused {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Caller(_) => StatusCode::FORBIDDEN,
            Self::Request(_) => StatusCode::BAD_REQUEST,
            Self::Ourselves(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, format!("{self}\n")).into_response()
    }
}

/// The routes, each behind [`AdminView::admit`].
pub fn admin(view: Arc<dyn AdminView>) -> Router {
    Router::new()
        .route("/admin/join-tokens", post(create_token))
        .route("/admin/chaos", post(switch_chaos))
        .route("/admin/rotate", post(rotate))
        .route("/admin/revoke", post(revoke))
        .route("/admin/drill", post(note_drill))
        .route("/admin/migration", post(note_migration))
        .route("/admin/mtls-lock", post(lock_mtls))
        .route("/admin/mtls-unlock", post(unlock_mtls))
        .route("/admin/fault", post(fault))
        .route("/admin/trail-read", post(trail_was_read))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Arc::clone(&view), admit))
        .with_state(view)
}

async fn admit(
    State(view): State<Arc<dyn AdminView>>,
    request: Request,
    next: Next,
) -> Result<Response, TokenRefused> {
    view.admit(request.extensions()).await?;
    Ok(next.run(request).await)
}

async fn switch_chaos(
    State(view): State<Arc<dyn AdminView>>,
    request: Result<Json<ChaosRequest>, JsonRejection>,
) -> Result<StatusCode, TokenRefused> {
    let Json(request) = request.map_err(|e| TokenRefused::Request(e.body_text()))?;
    view.switch_chaos(&request)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn trail_was_read(
    State(view): State<Arc<dyn AdminView>>,
    caller: Extensions,
    read: Result<Json<TrailRead>, JsonRejection>,
) -> Result<StatusCode, TokenRefused> {
    let Json(read) = read.map_err(|e| TokenRefused::Request(e.body_text()))?;
    view.trail_was_read(&caller, &read)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn rotate(
    State(view): State<Arc<dyn AdminView>>,
    request: Result<Json<RotateRequest>, JsonRejection>,
) -> Result<StatusCode, TokenRefused> {
    let Json(request) = request.map_err(|e| TokenRefused::Request(e.body_text()))?;
    view.rotate(&request)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn revoke(
    State(view): State<Arc<dyn AdminView>>,
    request: Result<Json<RevokeRequest>, JsonRejection>,
) -> Result<StatusCode, TokenRefused> {
    let Json(request) = request.map_err(|e| TokenRefused::Request(e.body_text()))?;
    view.revoke(&request)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn note_drill(
    State(view): State<Arc<dyn AdminView>>,
    caller: Extensions,
    request: Result<Json<DrillNote>, JsonRejection>,
) -> Result<StatusCode, TokenRefused> {
    let Json(note) = request.map_err(|e| TokenRefused::Request(e.body_text()))?;
    view.note_drill(&caller, &note)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn note_migration(
    State(view): State<Arc<dyn AdminView>>,
    caller: Extensions,
    request: Result<Json<MigrationNote>, JsonRejection>,
) -> Result<StatusCode, TokenRefused> {
    let Json(note) = request.map_err(|e| TokenRefused::Request(e.body_text()))?;
    view.note_migration(&caller, &note)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn lock_mtls(
    State(view): State<Arc<dyn AdminView>>,
    caller: Extensions,
    request: Result<Json<LockRequest>, JsonRejection>,
) -> Result<Json<Value>, TokenRefused> {
    let Json(request) = request.map_err(|e| TokenRefused::Request(e.body_text()))?;
    let done = tokio::task::spawn_blocking(move || view.lock_mtls(&caller, &request));
    let done = done.await;
    done.unwrap_or_else(|error| Err(TokenRefused::Ourselves(error.to_string())))
        .map(Json)
}

async fn unlock_mtls(
    State(view): State<Arc<dyn AdminView>>,
    caller: Extensions,
    request: Result<Json<UnlockRequest>, JsonRejection>,
) -> Result<Json<Value>, TokenRefused> {
    let Json(request) = request.map_err(|e| TokenRefused::Request(e.body_text()))?;
    let done = tokio::task::spawn_blocking(move || view.unlock_mtls(&caller, &request));
    let done = done.await;
    done.unwrap_or_else(|error| Err(TokenRefused::Ourselves(error.to_string())))
        .map(Json)
}

async fn fault(
    State(view): State<Arc<dyn AdminView>>,
    caller: Extensions,
    request: Result<Json<FaultRequest>, JsonRejection>,
) -> Result<StatusCode, TokenRefused> {
    let Json(request) = request.map_err(|e| TokenRefused::Request(e.body_text()))?;
    view.fault(&caller, &request)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn create_token(
    State(view): State<Arc<dyn AdminView>>,
    request: Result<Json<TokenRequest>, JsonRejection>,
) -> Result<Json<CreatedToken>, TokenRefused> {
    let Json(request) = request.map_err(|e| TokenRefused::Request(e.body_text()))?;
    view.create_token(&request).map(Json)
}

fn ten_minutes() -> u64 {
    600
}
