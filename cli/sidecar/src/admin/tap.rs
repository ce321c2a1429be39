//! Live taps for the operator: `POST /tap` answers with a JSON object per request until the tap's end.
//!
//! SECURITY: reading traffic is itself recorded, before the first byte is read: who, with which filter, and at the end
//! how much. Without a record there is no tap. Applications run as the operator's user, so whoever the supervisor knows as
//! part of a workload is refused; what may be shown at all is configuration's to say (`MeshConfig.spec.tap`).

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{ConnectInfo, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::stream;
use reeve_audit::{EventKind, EventRecord, Wal};
use reeve_proxy::{TapFilter, TapRefused, TapStream};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::operator::{Caller, operator};
use crate::{data_plane::DataPlane, whois::WhoIs};

/// Longest life of a tap.
const MAX_LIFE: Duration = Duration::from_secs(3600);

/// What taps are opened on.
pub(crate) struct TapDoor {
    pub(crate) data_plane: DataPlane,
    pub(crate) wal: Arc<Wal>,
    /// Knows which processes are workloads'; absent without a supervisor.
    pub(crate) supervisor: Option<WhoIs>,
}

/// A request for a tap.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    filter: TapFilter,
    /// Ends after so many requests.
    max: Option<u64>,
    /// Ends after so many milliseconds.
    for_ms: Option<u64>,
}

/// The route.
pub(crate) fn routes(door: TapDoor) -> Router {
    Router::new()
        .route("/tap", post(open))
        .with_state(Arc::new(door))
}

async fn open(
    State(door): State<Arc<TapDoor>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Json(wanted): Json<Wanted>,
) -> Response {
    let filter = serde_json::to_string(&wanted.filter).unwrap_or_default();
    let who = |event| {
        let named = caller.named();
        let each = named.into_iter();
        each.fold(EventRecord::new(event), |event, (name, value)| {
            event.with(name, value)
        })
        .with("filter", &filter)
    };
    let refuse = |why: String| {
        if let Err(error) = door
            .wal
            .append(who(EventKind::TapRefused).with("reason", &why))
        {
            tracing::error!(%error, "a refused tap could not be recorded");
        }
        (StatusCode::FORBIDDEN, format!("{why}\n")).into_response()
    };
    if let Err(why) = operator(caller, door.supervisor.as_ref(), "tap").await {
        return refuse(why);
    }
    let tap = match door.data_plane.tap(wanted.filter) {
        Ok(tap) => tap,
        Err(error @ TapRefused::NotAllowed { .. }) => return refuse(error.to_string()),
        Err(error @ TapRefused::TooMany) => {
            return (StatusCode::TOO_MANY_REQUESTS, format!("{error}\n")).into_response();
        }
    };
    if let Err(error) = door.wal.append(who(EventKind::TapStarted)) {
        let text = format!("the tap cannot be recorded, so there is none: {error}\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    let life = wanted.for_ms.map_or(MAX_LIFE, Duration::from_millis);
    let open = Open {
        tap,
        left: wanted.max.unwrap_or(u64::MAX),
        end: Instant::now() + life.min(MAX_LIFE),
        wal: door.wal.clone(),
        ended: Some(who(EventKind::TapEnded)),
    };
    let lines = stream::unfold(open, |mut open| async move {
        if open.left == 0 {
            return None;
        }
        open.left -= 1;
        let line = timeout_at(open.end, open.tap.next()).await.ok()??;
        Some((Ok::<_, Infallible>(line), open))
    });
    let kind = [(CONTENT_TYPE, "application/jsonl")];
    (kind, Body::from_stream(lines)).into_response()
}

/// An open tap; its end is recorded, whatever way it comes.
struct Open {
    tap: TapStream,
    left: u64,
    end: Instant,
    wal: Arc<Wal>,
    ended: Option<EventRecord>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let (shown, dropped) = self.tap.counts();
        let Some(event) = self.ended.take() else {
            return;
        };
        let event = event
            .with("shown", shown.to_string())
            .with("dropped", dropped.to_string());
        if let Err(error) = self.wal.append(event) {
            tracing::error!(%error, "the end of a tap could not be recorded");
        }
    }
}
