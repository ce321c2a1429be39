//! Break-glass for the operator: `GET`, `POST` and `DELETE /break-glass`.
//!
//! SECURITY: a grant opens nothing unless a trusted key signed it; that its user is the mesh's operator and no application
//! is asked for besides, since a grant that leaked should not be the leaker's to use.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use reeve_audit::{EventKind, EventRecord, Wal};
use reeve_core::error_chain;
use reeve_proxy::{BreakGlassAsked, BreakGlassRefused};
use serde::Deserialize;

use super::operator::{Caller, operator};
use crate::{data_plane::DataPlane, whois::WhoIs};

/// Longest request: a grant as JSON text, and a reason.
const MAX_BODY: usize = 128 * 1024;

/// Where grants are taken up.
pub(crate) struct BreakGlassDoor {
    pub(crate) data_plane: DataPlane,
    pub(crate) wal: Arc<Wal>,
    /// Knows which processes are workloads'; absent without a supervisor.
    pub(crate) supervisor: Option<WhoIs>,
}

/// A grant that is to come into force.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Begin {
    /// The grant's file.
    grant: String,
    /// How many milliseconds.
    for_ms: u64,
    /// Why.
    reason: String,
}

/// A grant that is to end.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    id: String,
}

/// The routes.
pub(crate) fn routes(door: BreakGlassDoor) -> Router {
    Router::new()
        .route("/break-glass", get(list).post(begin).delete(end))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(door))
}

async fn list(State(door): State<Arc<BreakGlassDoor>>) -> impl IntoResponse {
    Json(door.data_plane.break_glass())
}

async fn begin(
    State(door): State<Arc<BreakGlassDoor>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Json(wanted): Json<Begin>,
) -> Response {
    if let Err(why) = operator(caller, door.supervisor.as_ref(), "break glass").await {
        tracing::warn!(%why, by = ?caller.named(), "break-glass was refused");
        let refused = EventRecord::new(EventKind::BreakGlassRefused).with("cause", &why);
        let named = caller.named().into_iter();
        let refused = named.fold(refused, |event, (name, value)| event.with(name, value));
        if let Err(error) = door.wal.append(refused) {
            tracing::error!(%error, "refused break-glass could not be recorded");
        }
        return (StatusCode::FORBIDDEN, format!("{why}\n")).into_response();
    }
    let asked = BreakGlassAsked {
        lasting: Duration::from_millis(wanted.for_ms),
        reason: wanted.reason,
        by: caller.named().into(),
    };
    match door.data_plane.begin_break_glass(wanted.grant, asked).await {
        Ok(Ok(grant)) => Json(grant).into_response(),
        Ok(Err(refused)) => refusal(&refused),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn end(
    State(door): State<Arc<BreakGlassDoor>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Json(wanted): Json<End>,
) -> Response {
    if let Err(why) = operator(caller, door.supervisor.as_ref(), "end break-glass").await {
        return (StatusCode::FORBIDDEN, format!("{why}\n")).into_response();
    }
    let by = caller.named().into();
    match door.data_plane.end_break_glass(wanted.id, by).await {
        Ok(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(refused)) => refusal(&refused),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn refusal(refused: &BreakGlassRefused) -> Response {
    let status = match refused {
        BreakGlassRefused::Unknown(_) => StatusCode::NOT_FOUND,
        BreakGlassRefused::InForce(_) => StatusCode::CONFLICT,
        BreakGlassRefused::TooMany => StatusCode::TOO_MANY_REQUESTS,
        BreakGlassRefused::Unrecorded(_) | BreakGlassRefused::Switch(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        BreakGlassRefused::Grant(_) | BreakGlassRefused::NoReason => StatusCode::FORBIDDEN,
    };
    (status, format!("{}\n", error_chain(refused))).into_response()
}
