//! What runs, which mode is in force at each of its ports, and where that is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path as FsPath,
};

use reeve_core::{
    InstanceName, Namespace, SpiffeId, UnixTime, WorkloadName,
    model::{ClientTls, MtlsMode, Protocol},
};
use serde::{Deserialize, Serialize};

use crate::{
    Fault, LocalWorkload, Mesh, PolicyFolder, PolicyFolderError, WorkloadRole,
    index::taken_in,
    kinds::{Object, PeerAuthenticationSpec},
    mesh::{ModeRule, Scope},
    resolve::{self, Built, exemption},
    source::{Source, path::Path},
};

/// A workload by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkloadKey {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub workload: WorkloadName,
}

impl WorkloadKey {
    /// The workload that an instance of this name is a copy of: names are `reviews-v1-0`, or `reviews-v1-0.staging`.
    pub fn of_instance(instance: &str) -> Option<Self> {
        let (copy, namespace) = instance
            .split_once('.')
            .unwrap_or((instance, crate::DEFAULT_NAMESPACE));
        let (workload, _number) = copy.rsplit_once('-')?;
        Some(Self {
            namespace: namespace.parse().ok()?,
            workload: workload.parse().ok()?,
        })
    }
}

impl fmt::Display for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.workload)
    }
}

/// Where a mode comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The object, such as `PeerAuthentication shop/strict`, or `MeshConfig`, or `default`.
    pub object: String,
    /// File and line; empty for the default.
    pub place: String,
}

impl Origin {
    /// The file and the line; the folder's first where it is said nowhere.
    pub(super) fn file_and_line(&self) -> (String, usize) {
        let place = self.place.split(' ').next().unwrap_or_default();
        let (file, line) = place.rsplit_once(':').unwrap_or((".", "1"));
        (file.to_owned(), line.parse().unwrap_or(1))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.is_empty() {
            true if self.object.is_empty() => f.write_str("default"),
            true => f.write_str(&self.object),
            false => write!(f, "{} ({})", self.object, self.place),
        }
    }
}

/// Plaintext that is allowed on purpose, said by annotations of the `PeerAuthentication`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exemption {
    /// Who answers for it.
    pub owner: String,
    /// When it ends.
    pub until: UnixTime,
    /// What for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A port at which others' traffic is taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Whose.
    pub workload: WorkloadKey,
    /// Its number.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The mode in force.
    pub mode: MtlsMode,
    /// Who says so.
    pub origin: Origin,
    /// Whether it is said for this port alone.
    pub by_port: bool,
    /// Whether plaintext is meant to be spoken here, and until when.
    pub exemption: Option<Exemption>,
}

/// A path that somebody outside the mesh asks a workload for again and again.
pub type WatchedPath = (WorkloadKey, String);

/// A configuration folder as a migration sees it.
#[derive(Debug)]
pub struct Landscape {
    pub(super) files: PolicyFolder,
    pub(super) mesh: Mesh,
    pub(super) objects: Vec<Object<PeerAuthenticationSpec>>,
    mode_of_mesh: Option<Origin>,
}

impl Landscape {
    /// Reads a folder; the error holds every fault.
    pub fn read(folder: &FsPath) -> Result<Self, Vec<Fault>> {
        let files = PolicyFolder::read(folder).map_err(|error| {
            if let PolicyFolderError::Unreadable(faults) = error {
                return faults;
            }
            vec![Fault::of_folder(error.to_string())]
        })?;
        Self::of(files)
    }

    /// What a folder's files say.
    pub fn of(files: PolicyFolder) -> Result<Self, Vec<Fault>> {
        let source = files.source();
        Self::of_source(&source, files)
    }

    /// The same, of files that were read; `files` are those that can be edited.
    pub(crate) fn of_source(source: &Source, files: PolicyFolder) -> Result<Self, Vec<Fault>> {
        Self::of_built(resolve::built(source), files)
    }

    /// The same, of what was made of them.
    pub(crate) fn of_built(built: Built, files: PolicyFolder) -> Result<Self, Vec<Fault>> {
        let errors: Vec<_> = (built.findings.into_iter())
            .filter(Fault::is_error)
            .collect();
        if !errors.is_empty() {
            return Err(errors);
        }
        let path = Path::of(&["spec", "mtls"]);
        let config = built.objects.mesh_configs.first();
        let config = config.filter(|object| object.document.at(&path).is_some());
        let mode_of_mesh = config.map(|object| Origin {
            object: format!("MeshConfig {}", object.name),
            place: place(&object.document, &path),
        });
        Ok(Self {
            files,
            mesh: built.mesh,
            objects: built.objects.peer_authentications,
            mode_of_mesh,
        })
    }

    /// The mesh that the folder says.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The same, alone.
    pub(crate) fn into_mesh(self) -> Mesh {
        self.mesh
    }

    /// Every port of every workload with a sidecar.
    pub fn ports(&self) -> Vec<Port> {
        let workloads = self.mesh.workloads.iter();
        workloads.flat_map(|w| self.ports_of(w)).collect()
    }

    fn ports_of(&self, workload: &LocalWorkload) -> Vec<Port> {
        let ports = taken_in(&self.mesh, workload).into_iter();
        ports
            .map(|(port, protocol)| {
                let said = ModeRule::said_at(&self.mesh.peer_authentications, workload, port);
                let object = said.and_then(|said| self.objects.get(said.rule));
                let by_port = said.is_some_and(|said| said.by_port);
                let origin = object.map(|object| origin(object, by_port.then_some(port)));
                let default = || Origin {
                    object: "default".to_owned(),
                    place: String::new(),
                };
                Port {
                    workload: key(workload),
                    port,
                    protocol,
                    mode: said.map_or(self.mesh.settings.mtls, |said| said.mode),
                    origin: origin
                        .or_else(|| self.mode_of_mesh.clone())
                        .unwrap_or_else(default),
                    by_port,
                    exemption: object.and_then(|o| exemption(&o.annotations)),
                }
            })
            .collect()
    }

    /// Where a workload would be given a sidecar, for people.
    pub fn sidecar_hint(&self, key: &WorkloadKey) -> Option<String> {
        let workload = self.workload(key)?;
        (workload.role == WorkloadRole::None).then(|| {
            format!(
                "remove `role: none` of workload {} in its LocalMesh",
                key.workload
            )
        })
    }

    /// The workload of that name.
    pub(super) fn workload(&self, key: &WorkloadKey) -> Option<&LocalWorkload> {
        let mut all = self.mesh.workloads.iter();
        all.find(|w| w.namespace == key.namespace && w.name == key.workload)
    }

    /// Workloads that run under an identity.
    pub(super) fn of_identity(&self, id: &SpiffeId) -> impl Iterator<Item = WorkloadKey> {
        let all = self.mesh.workloads.iter();
        all.filter(move |w| w.identity.as_ref() == Some(id))
            .map(key)
    }

    /// Whether a workload has a sidecar (or is a gateway); `None`: there is none of that name.
    pub fn is_meshed(&self, key: &WorkloadKey) -> Option<bool> {
        let workload = self.workload(key)?;
        Some(workload.role != WorkloadRole::None)
    }

    /// The running copies of a workload that have sidecars.
    pub fn proxies_of(&self, key: &WorkloadKey) -> &[InstanceName] {
        match self.workload(key) {
            Some(workload) if workload.role != WorkloadRole::None => &workload.instances,
            Some(_) | None => &[],
        }
    }

    /// Services of a workload to which callers' sidecars are told to speak no TLS (`DestinationRule` with `DISABLE`).
    pub(super) fn told_plaintext(&self, receiver: &WorkloadKey) -> Vec<String> {
        let Some(workload) = self.workload(receiver) else {
            return Vec::new();
        };
        let told = self.mesh.all_rules.iter().filter(|(host, rule)| {
            let behind = self.mesh.services.get(host);
            let ports = rule.port_traffic.values();
            let subsets = rule.subsets.iter().flat_map(|subset| {
                let ports = subset.port_traffic.values();
                ports.chain([&subset.traffic])
            });
            let mut all = ports.chain([&rule.traffic]).chain(subsets);
            behind.is_some_and(|s| s.selects(workload))
                && all.any(|policy| policy.tls == ClientTls::Disable)
        });
        let hosts: BTreeSet<_> = told.map(|(host, _)| host.to_string()).collect();
        hosts.into_iter().collect()
    }

    /// Workloads that one object is about alone, with those that it is about as well.
    pub(super) fn covered(&self, scope: &Scope) -> Vec<WorkloadKey> {
        let sidecars = |w: &&LocalWorkload| w.role == WorkloadRole::Sidecar;
        let all = self.mesh.workloads.iter().filter(sidecars);
        all.filter(|w| scope.covers(w)).map(key).collect()
    }

    /// Declared health checks and pages of metrics: the workload and the path.
    pub fn watched_paths(&self) -> (Vec<WatchedPath>, Vec<WatchedPath>) {
        let mut probes = Vec::new();
        let mut metrics = Vec::new();
        for workload in &self.mesh.workloads {
            if let Some(health) = &workload.health
                && let crate::Probe::Http { path, .. } = &health.probe
            {
                probes.push((key(workload), path.clone()));
            }
            if let Some(page) = &workload.metrics {
                metrics.push((key(workload), page.path.clone()));
            }
        }
        (probes, metrics)
    }

    /// Labels of a workload.
    pub(super) fn labels(&self, key: &WorkloadKey) -> Option<&BTreeMap<String, String>> {
        Some(&self.workload(key)?.labels)
    }
}

/// Its key.
pub(super) fn key(workload: &LocalWorkload) -> WorkloadKey {
    WorkloadKey {
        namespace: workload.namespace.clone(),
        workload: workload.name.clone(),
    }
}

fn place(document: &crate::source::Document, path: &Path) -> String {
    format!("{}:{} {path}", document.file, document.line_of(path))
}

/// The words of an object that hold for a port, or for the workload as a whole.
fn origin(object: &Object<PeerAuthenticationSpec>, port: Option<u16>) -> Origin {
    let path = match port {
        Some(port) => Path::of(&["spec", "portLevelMtls"])
            .key(&port.to_string())
            .key("mode"),
        None => Path::of(&["spec", "mtls", "mode"]),
    };
    Origin {
        object: format!("PeerAuthentication {}/{}", object.namespace, object.name),
        place: place(&object.document, &path),
    }
}
