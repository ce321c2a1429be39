//! Asking the mesh process over its HTTP API.

use std::{net::SocketAddr, time::Duration};

use reeve_control::{Fault, KeyStatus, ProxyStatus, instances::Instances};
use reeve_core::model::{Generation, OpenCircuit};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    http::{self, FetchError, Reply, Target},
    problem::Problem,
    state::StateDir,
};

/// How long the mesh process may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The mesh process's HTTP API.
#[derive(Clone, Debug)]
pub(crate) struct MeshApi {
    address: SocketAddr,
}

/// The part of `/status` that the command line reads itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    /// The newest generation.
    pub(crate) generation: Generation,
    /// The hash of its policy set.
    pub(crate) policy_hash: String,
    /// The mesh's settings.
    pub(crate) mesh: Value,
    /// Every proxy.
    pub(crate) proxies: Vec<ProxyStatus>,
    /// Circuits that are open.
    pub(crate) circuits: Vec<OpenCircuit>,
    /// How the keys of token issuers stand.
    pub(crate) token_keys: Vec<KeyStatus>,
    /// Jobs that are done.
    pub(crate) jobs: Vec<reeve_console::JobDone>,
    /// What is wrong with the folder.
    pub(crate) config: ConfigStatus,
    /// The certificate authority.
    pub(crate) ca: Value,
    /// The audit log.
    pub(crate) audit: Value,
}

/// The state of the folder.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigStatus {
    /// Why it is refused, if it is.
    pub(crate) faults: Vec<Fault>,
}

impl MeshApi {
    /// The API of the mesh whose state is in `state`.
    pub(crate) fn of(state: &StateDir) -> Result<Self, Problem> {
        let path = state.instances();
        let instances = Instances::read(&path).map_err(|error| {
            Problem::because("there is no running mesh", &error)
                .fix("start one with `reeve demo` or `reeve up -f FOLDER`, or name its state directory with --state DIR")
        })?;
        Ok(Self {
            address: instances.mesh.api,
        })
    }

    /// `/status` as it came.
    pub(crate) async fn status_value(&self) -> Result<Value, Problem> {
        self.get_value("/status").await
    }

    /// `/status`, as far as it is read here.
    pub(crate) async fn status(&self) -> Result<Status, Problem> {
        self.read("/status", self.status_value().await?)
    }

    /// Gets JSON.
    pub(crate) async fn get_value(&self, path: &str) -> Result<Value, Problem> {
        let reply = http::get(&Target::Tcp(self.address), path, PATIENCE).await;
        self.value(path, reply)
    }

    fn value(&self, path: &str, reply: Result<Reply, FetchError>) -> Result<Value, Problem> {
        let reply = self.succeeded(path, reply)?;
        serde_json::from_slice(&reply.body).map_err(|error| {
            Problem::because(
                "the mesh process answered something that is not JSON",
                &error,
            )
            .at(self.place(path))
        })
    }

    fn read<T: serde::de::DeserializeOwned>(&self, path: &str, value: Value) -> Result<T, Problem> {
        serde_json::from_value(value).map_err(|error| {
            Problem::because("the mesh process answered something unexpected", &error)
                .at(self.place(path))
                .fix("use the reeve binary that runs the mesh")
        })
    }

    fn succeeded(&self, path: &str, reply: Result<Reply, FetchError>) -> Result<Reply, Problem> {
        let reply = reply.map_err(|error| {
            Problem::because("the mesh process cannot be reached", &error)
                .at(self.place(path))
                .fix("is the mesh running? `reeve logs --internal` shows what it says; the supervisor starts it again by itself")
        })?;
        if reply.status.is_success() {
            return Ok(reply);
        }
        let text = String::from_utf8_lossy(&reply.body);
        let text: String = text.trim().chars().take(500).collect();
        Err(Problem::new(format!(
            "the mesh process answered {}: {text}",
            reply.status
        ))
        .at(self.place(path)))
    }

    fn place(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}
