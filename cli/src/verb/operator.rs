//! Asking the mesh process for what only its operator may have done, over the mesh's Unix socket.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::{
    http::{self, Target},
    problem::Problem,
    state::StateDir,
};

/// Posts `request`; the answer's body. `refused` makes a problem of what the mesh process says against it.
pub(crate) async fn post(
    state: &StateDir,
    path: &str,
    request: &impl Serialize,
    patience: Duration,
    refused: impl FnOnce(&str) -> Problem,
) -> Result<Bytes, Problem> {
    let socket = state.mesh_socket();
    let body = serde_json::to_vec(request)
        .map_err(|error| Problem::because("the request could not be encoded", &error))?;
    let target = Target::Unix(socket.clone());
    let reply = http::post(&target, path, Bytes::from(body), patience).await;
    let reply = reply.map_err(|error| {
        Problem::because("the mesh process cannot be reached", &error)
            .at(socket.display())
            .fix("is the mesh running? see `reeve status`")
    })?;
    if reply.status.is_success() {
        return Ok(reply.body);
    }
    let text = String::from_utf8_lossy(&reply.body);
    Err(refused(text.trim()).at(socket.display()))
}
