//! Watches the configuration, numbers its generations and publishes what each proxy needs.

mod chaos;
mod generation;
mod locks;
mod modes;
mod state;
#[cfg(test)]
mod tests;
mod watching;

use std::{
    collections::BTreeSet,
    fmt,
    io::ErrorKind,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use reeve_ads::{AckReport, ConfigSource, Refused};
use reeve_core::{
    Clock, InstanceName, SpiffeId, UnixTime, WorkloadName,
    model::{Generation, JwtRule, ProxyConfig},
};
use reeve_svid::TrustBundle;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    Fault, FetchedKeys, KeyStatus, Mesh, Places, PolicyFolder, TokenKeys,
    index::DomainKeys,
    instances::{FILE_NAME, Instances, InstancesError},
    jwks,
    migration::{Landscape, Locks},
    resolve::built,
    source::Source,
};
pub use chaos::{Chaos, ChaosFault, FaultChanges, FaultState};
pub use modes::ModeChange;
use state::State;

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
    /// Faults on purpose went in or out.
    fn faults_changed(&self, changes: &FaultChanges);
    /// Ports changed their mTLS mode with the generation published last.
    fn modes_changed(&self, generation: Generation, changes: &[ModeChange]);
    /// What runs, and where, was read again.
    fn placed(&self, _instances: &Instances, _mesh: &Mesh) {}
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
    /// How the keys of token issuers stand that are fetched.
    #[serde(default)]
    pub token_keys: Vec<KeyStatus>,
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
    /// Which namespaces are locked cannot be read back, so that one might be opened.
    #[error("mtls-locks.json of the state folder: the locks cannot be read: {0}")]
    Locks(std::io::Error),
}

/// What came of publishing.
struct Told {
    applied: Option<AppliedConfig>,
    faults: FaultChanges,
    modes: Vec<ModeChange>,
}

/// The source of every proxy's configuration.
#[derive(Debug)]
pub struct Controller {
    options: ControllerOptions,
    mesh: watch::Sender<Option<Arc<Mesh>>>,
    state: Mutex<State>,
}

impl Controller {
    /// Reads the folder once; its faults are in [`Self::status`], and do not keep the controller from starting.
    pub fn start(options: ControllerOptions) -> Result<Arc<Self>, StartError> {
        let generation = generation::read(&options.state)?;
        let controller = Arc::new(Self {
            state: Mutex::new(State::new(
                generation,
                chaos::is_off(&options.state),
                TokenKeys {
                    fetched: jwks::kept_keys(&options.state, options.clock.now()),
                    ..TokenKeys::default()
                },
                modes::read(&options.state),
                Locks::read(&options.state).map_err(StartError::Locks)?,
            )),
            options,
            mesh: watch::Sender::new(None),
        });
        controller.reload();
        Ok(controller)
    }

    /// Watches the folder, `instances.json` and the JWKS of token issuers, for as long as it is polled.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(
            watching::run(self.clone()),
            self.clone().end_faults(),
            jwks::run(self)
        );
    }

    /// Reads the folder and `instances.json` again, and publishes what changed. Blocks on files.
    pub fn reload(&self) {
        let read = Instances::read(&self.options.state.join(FILE_NAME));
        let source = Source::read(&self.options.folder);
        let built = built(&source);
        let files = built.files();
        let landscape = Landscape::of_built(built, PolicyFolder::default());
        let now = self.options.clock.now();
        let mut state = self.state();
        match read {
            Ok(instances) => state.instances = Some(instances),
            Err(InstancesError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "the instances stay as they were"),
        }
        state.files = files;
        let refused = match landscape.and_then(|landscape| state.locks.pass(landscape)) {
            Ok(landscape) => {
                state.accept(landscape.into_mesh());
                None
            }
            Err(faults) => state.refuse(faults, now),
        };
        let told = self.publish(&mut state);
        let placed = state.instances.clone().zip(state.mesh.clone());
        drop(state);
        if let Some((instances, mesh)) = placed {
            self.options.events.placed(&instances, &mesh);
        }
        self.tell(refused.as_deref(), told);
    }

    /// A token came by these rules with a key that is not known: their issuers are asked early, within bounds.
    pub fn want_keys(&self, rules: impl IntoIterator<Item = String>) {
        let mut state = self.state();
        let known: BTreeSet<String> = match &state.mesh {
            Some(mesh) => {
                let all = mesh.request_authentications.iter().flat_map(|r| &r.rules);
                all.map(|rule| rule.rule.name.clone()).collect()
            }
            None => BTreeSet::new(),
        };
        let wanted = rules.into_iter().filter(|rule| known.contains(rule));
        state.wanted_keys.extend(wanted);
    }

    /// The rules that [`Self::want_keys`] was told of since the last call.
    pub(crate) fn take_wanted_keys(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.state().wanted_keys)
    }

    /// Takes newly fetched keys.
    pub(crate) fn take_keys(&self, keys: FetchedKeys, status: Vec<KeyStatus>) {
        let mut state = self.state();
        state.key_status = status;
        if state.keys.fetched == keys {
            return;
        }
        state.keys.fetched = keys;
        let told = self.publish(&mut state);
        drop(state);
        self.tell(None, told);
    }

    /// Has tokens of the trust domains in `bundle` verified with the keys in it, and those of no other trust domain.
    pub fn take_bundle(&self, bundle: &TrustBundle) {
        let domains = DomainKeys::of(bundle);
        let mut state = self.state();
        if state.keys.domains == domains {
            return;
        }
        state.keys.domains = domains;
        let told = self.publish(&mut state);
        drop(state);
        self.tell(None, told);
    }

    /// Derives every proxy's configuration and, if any differs, makes the next generation of all.
    fn publish(&self, state: &mut State) -> Told {
        let applied = state.publish(&self.options);
        let faults = state.fault_changes(self.options.clock.now());
        if applied.is_none() {
            let modes = Vec::new();
            return Told {
                applied,
                faults,
                modes,
            };
        }
        let modes = state.mode_changes(&self.options.state);
        let mesh = state.mesh.clone();
        self.mesh.send_if_modified(|current| {
            let changed = *current != mesh;
            *current = mesh;
            changed
        });
        Told {
            applied,
            faults,
            modes,
        }
    }

    /// Tells the listener; the state's lock is not held, since it may take its time.
    fn tell(&self, refused: Option<&[Fault]>, told: Told) {
        if let Some(faults) = refused {
            tracing::warn!(faults = faults.len(), "the configuration is refused");
            self.options.events.refused(faults);
        }
        if let Some(applied) = &told.applied {
            let AppliedConfig {
                generation,
                proxies,
                ..
            } = applied;
            tracing::info!(%generation, proxies, "configuration published");
            self.options.events.applied(applied);
            if !told.modes.is_empty() {
                self.options.events.modes_changed(*generation, &told.modes);
            }
        }
        if told.faults != FaultChanges::default() {
            self.options.events.faults_changed(&told.faults);
        }
    }

    /// The mesh in force; `None` until the folder was valid once.
    pub fn mesh(&self) -> watch::Receiver<Option<Arc<Mesh>>> {
        self.mesh.subscribe()
    }

    /// What is in force where, and what is wrong.
    pub fn status(&self) -> Status {
        self.state().status()
    }

    /// What whoever decides for other proxies needs: the generation in force, its mesh, and every place in it. `None`
    /// until the folder was valid once.
    pub fn places(&self) -> Option<(Generation, Arc<Mesh>, Places)> {
        let state = self.state();
        let mesh = state.mesh.clone()?;
        let places = mesh.places(&state.keys);
        Some((state.status().generation, mesh, places))
    }

    /// The token rules that hold for the mesh process itself: those for all workloads.
    pub fn token_rules(&self) -> Vec<JwtRule> {
        let state = self.state();
        let mesh = state.mesh.as_deref();
        mesh.map(|mesh| mesh.token_rules(&state.keys))
            .unwrap_or_default()
    }

    /// The configuration of one proxy as last published.
    pub fn proxy_config(&self, instance: &InstanceName) -> Option<Arc<ProxyConfig>> {
        let state = self.state();
        let proxy = state.proxies.get(instance)?;
        proxy.sender.borrow().clone()
    }

    /// Files beside the folder that the configuration names.
    fn named_files(&self) -> Vec<PathBuf> {
        self.state().files.clone()
    }

    pub(crate) fn options(&self) -> &ControllerOptions {
        &self.options
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held leaves at worst a status that lags; the next reload sets it right.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConfigSource for Controller {
    fn watch(
        &self,
        instance: &InstanceName,
        id: &SpiffeId,
    ) -> Result<watch::Receiver<Option<Arc<ProxyConfig>>>, Refused> {
        let state = self.state();
        match state.proxies.get(instance) {
            None => Err(Refused::UnknownInstance(instance.clone())),
            Some(proxy) if proxy.identity != *id => Err(Refused::OtherIdentity {
                instance: instance.clone(),
                id: id.clone(),
            }),
            Some(proxy) => Ok(proxy.sender.subscribe()),
        }
    }

    fn report(&self, instance: &InstanceName, report: AckReport) {
        let nack = report.error.clone();
        let generation = report.generation;
        let now = self.options.clock.now();
        self.state().report(instance, report, now);
        if let Some(error) = nack {
            tracing::warn!(%instance, %generation, error, "the proxy refused its configuration");
            self.options.events.nacked(instance, generation, &error);
        }
    }
}
