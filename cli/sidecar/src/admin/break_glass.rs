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
use reeve_proxy::{BreakGlassAsked, BreakGlassGrant, BreakGlassRefused};
use serde::Deserialize;
use tokio::task::{JoinError, spawn_blocking};

use super::operator::{Caller, operator};
use crate::whois::WhoIs;

/// Longest request: a grant as JSON text, and a reason.
const MAX_BODY: usize = 128 * 1024;

/// What grants are taken up by.
pub trait BreakGlassPlace: Clone + Send + Sync + 'static {
    /// Takes up a grant; returns when it decides.
    fn begin(
        &self,
        grant: &[u8],
        asked: &BreakGlassAsked,
    ) -> Result<BreakGlassGrant, BreakGlassRefused>;

    /// Ends one before its time; returns when it decides no more.
    fn end(&self, id: &str, by: &[(&'static str, String)]) -> Result<(), BreakGlassRefused>;

    /// The grants in force.
    fn in_force(&self) -> Vec<BreakGlassGrant>;
}

/// Where grants are taken up.
#[derive(Debug)]
pub struct BreakGlassDoor<P> {
    /// What they are taken up by.
    pub place: P,
    /// Where those who may not ask are recorded.
    pub wal: Arc<Wal>,
    /// Knows which processes are workloads'; absent without a supervisor.
    pub supervisor: Option<WhoIs>,
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
pub fn routes<P: BreakGlassPlace>(door: BreakGlassDoor<P>) -> Router {
    let all = get(list::<P>).post(begin::<P>).delete(end::<P>);
    Router::new()
        .route("/break-glass", all)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(door))
}

async fn list<P: BreakGlassPlace>(State(door): State<Arc<BreakGlassDoor<P>>>) -> Response {
    Json(door.place.in_force()).into_response()
}

async fn begin<P: BreakGlassPlace>(
    State(door): State<Arc<BreakGlassDoor<P>>>,
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
    // It compiles policies.
    let place = door.place.clone();
    let begun = spawn_blocking(move || place.begin(wanted.grant.as_bytes(), &asked)).await;
    answer(begun, |grant| Json(grant).into_response())
}

async fn end<P: BreakGlassPlace>(
    State(door): State<Arc<BreakGlassDoor<P>>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Json(wanted): Json<End>,
) -> Response {
    if let Err(why) = operator(caller, door.supervisor.as_ref(), "end break-glass").await {
        return (StatusCode::FORBIDDEN, format!("{why}\n")).into_response();
    }
    let place = door.place.clone();
    let ended = spawn_blocking(move || place.end(&wanted.id, &caller.named())).await;
    answer(ended, |()| StatusCode::NO_CONTENT.into_response())
}

fn answer<T>(
    done: Result<Result<T, BreakGlassRefused>, JoinError>,
    told: impl FnOnce(T) -> Response,
) -> Response {
    match done {
        Ok(Ok(it)) => told(it),
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
