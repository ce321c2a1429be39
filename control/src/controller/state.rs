//! What a controller holds: the last good mesh, what runs, and each proxy's configuration and acknowledgement.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use reeve_ads::AckReport;
use reeve_core::{
    InstanceName, SpiffeId, UnixTime, WorkloadName,
    model::{Generation, ProxyConfig},
};
use tokio::sync::watch;

use super::{
    AppliedConfig, ChaosFault, ControllerOptions, ProxyStatus, Status, chaos, generation,
    modes::Modes,
};
use crate::{
    Fault, KeyStatus, Mesh, TokenKeys,
    index::{Kept, keep_own},
    instances::Instances,
    migration::Locks,
};

#[derive(Debug)]
pub(super) struct State {
    pub(super) mesh: Option<Arc<Mesh>>,
    pub(super) instances: Option<Instances>,
    pub(super) keys: TokenKeys,
    /// How the keys stand.
    pub(super) key_status: Vec<KeyStatus>,
    /// Rules by which a token came with a key that is not known.
    pub(super) wanted_keys: BTreeSet<String>,
    pub(super) proxies: BTreeMap<InstanceName, Proxy>,
    /// Whether all faults are switched off.
    pub(super) chaos_off: bool,
    /// Faults that happen, as was last told.
    pub(super) faults_in: BTreeSet<ChaosFault>,
    /// Modes of ports, as was last told.
    pub(super) modes: Modes,
    /// Namespaces that stay strict.
    pub(super) locks: Locks,
    /// Files beside the folder that the configuration names.
    pub(super) files: Vec<PathBuf>,
    /// What the configurations were derived from, to derive the next with.
    kept: Kept,
    generation: Generation,
    /// Number and policy set that were published in this run; nothing is before the first.
    published: Option<Published>,
    faults: Vec<Fault>,
    refused_since: Option<UnixTime>,
}

#[derive(Debug)]
struct Published {
    mesh: Arc<Mesh>,
    at: UnixTime,
}

/// One proxy.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) identity: SpiffeId,
    pub(super) sender: watch::Sender<Option<Arc<ProxyConfig>>>,
    workload: WorkloadName,
    /// As published, but with generation 0: to tell whether anything changed.
    config: ProxyConfig,
    acked: Option<(Generation, String, UnixTime)>,
    nack: Option<(Generation, String)>,
}

impl State {
    /// Nothing yet; the next generation is the one after `generation`.
    pub(super) fn new(
        generation: Generation,
        chaos_off: bool,
        keys: TokenKeys,
        modes: Modes,
        locks: Locks,
    ) -> Self {
        Self {
            mesh: None,
            instances: None,
            keys,
            key_status: Vec::new(),
            wanted_keys: BTreeSet::new(),
            proxies: BTreeMap::new(),
            chaos_off,
            faults_in: BTreeSet::new(),
            modes,
            locks,
            files: Vec::new(),
            kept: Kept::default(),
            generation,
            published: None,
            faults: Vec::new(),
            refused_since: None,
        }
    }

    /// The folder is valid.
    pub(super) fn accept(&mut self, mesh: Mesh) {
        self.faults.clear();
        self.refused_since = None;
        if self.mesh.as_deref() != Some(&mesh) {
            self.mesh = Some(Arc::new(mesh));
        }
    }

    /// The folder is not valid: the last good mesh stays. Returns the faults if they are new.
    pub(super) fn refuse(&mut self, findings: Vec<Fault>, now: UnixTime) -> Option<Vec<Fault>> {
        let faults: Vec<_> = findings.into_iter().filter(Fault::is_error).collect();
        self.refused_since.get_or_insert(now);
        if faults == self.faults {
            return None;
        }
        self.faults.clone_from(&faults);
        Some(faults)
    }

    /// Derives all configurations. If anything differs from what was published, a new generation goes to every
    /// proxy, so that one number tells where the mesh stands.
    pub(super) fn publish(&mut self, options: &ControllerOptions) -> Option<AppliedConfig> {
        let mesh = self.mesh.clone()?;
        let mut configs = match &self.instances {
            Some(instances) => mesh.proxy_configs(instances, &self.keys, &mut self.kept),
            None => BTreeMap::new(),
        };
        chaos::strip(&mut configs, self.chaos_off, options.clock.now());
        for (name, config) in &mut configs {
            if let Some(proxy) = self.proxies.get(name) {
                keep_own(config, &proxy.config);
            }
        }
        let same_proxies = configs.len() == self.proxies.len()
            && configs
                .iter()
                .all(|(name, config)| self.proxies.get(name).is_some_and(|p| p.config == *config));
        if let Some(published) = &mut self.published
            && same_proxies
            && published.mesh.means(&mesh)
        {
            published.mesh = mesh;
            return None;
        }
        self.generation.0 = self.generation.0.saturating_add(1);
        if let Err(error) = generation::write(&options.state, self.generation) {
            // Traffic must follow what runs even with a full disk; the number is written again with the next one.
            tracing::warn!(%error, "the generation's number could not be kept");
        }
        self.proxies.retain(|name, _| configs.contains_key(name));
        for (name, config) in configs {
            self.send(name, config);
        }
        let policy_hash = mesh.policy_hash.clone();
        self.published = Some(Published {
            mesh,
            at: options.clock.now(),
        });
        Some(AppliedConfig {
            generation: self.generation,
            policy_hash,
            proxies: self.proxies.len(),
        })
    }

    fn send(&mut self, name: InstanceName, config: ProxyConfig) {
        let numbered = Arc::new(ProxyConfig {
            generation: self.generation,
            ..config.clone()
        });
        match self.proxies.get_mut(&name) {
            // Another identity is another proxy: streams of the old one end with its sender.
            Some(proxy) if proxy.identity == config.workload.identity => {
                proxy.config = config;
                proxy.sender.send_replace(Some(numbered));
            }
            _ => {
                let proxy = Proxy {
                    identity: config.workload.identity.clone(),
                    workload: config.workload.workload.clone(),
                    sender: watch::Sender::new(Some(numbered)),
                    config,
                    acked: None,
                    nack: None,
                };
                self.proxies.insert(name, proxy);
            }
        }
    }

    pub(super) fn report(&mut self, instance: &InstanceName, report: AckReport, now: UnixTime) {
        let Some(proxy) = self.proxies.get_mut(instance) else {
            return;
        };
        match report.error {
            None => {
                proxy.acked = Some((report.generation, report.policy_hash, now));
                proxy.nack = None;
            }
            Some(error) => proxy.nack = Some((report.generation, error)),
        }
    }

    pub(super) fn status(&self) -> Status {
        let published = self.published.as_ref();
        Status {
            generation: published.map(|_| self.generation).unwrap_or_default(),
            policy_hash: published
                .map(|p| p.mesh.policy_hash.clone())
                .unwrap_or_default(),
            applied_at: published.map(|p| p.at),
            proxies: self
                .proxies
                .iter()
                .map(|(name, p)| p.status(name))
                .collect(),
            token_keys: self.key_status.clone(),
            faults: self.faults.clone(),
            refused_since: self.refused_since,
            warnings: published
                .map(|p| p.mesh.warnings.clone())
                .unwrap_or_default(),
        }
    }
}

impl Proxy {
    fn status(&self, instance: &InstanceName) -> ProxyStatus {
        let acked = self.acked.clone();
        let (generation, policy_hash, acked_at) = match acked {
            Some((generation, hash, at)) => (generation, hash, Some(at)),
            None => (Generation::default(), String::new(), None),
        };
        ProxyStatus {
            instance: instance.clone(),
            workload: self.workload.clone(),
            identity: self.identity.clone(),
            generation,
            policy_hash,
            acked_at,
            nack: self
                .nack
                .as_ref()
                .map(|(generation, error)| format!("generation {generation}: {error}")),
            connected: self.sender.receiver_count() > 0,
        }
    }
}
