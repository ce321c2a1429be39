//! `instances.json`: what runs where in a local mesh. The supervisor writes it, the controller reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use reeve_core::{
    InstanceName, Namespace, ServiceName, WorkloadName,
    model::{AuditReplica, CaptureMode},
};
use serde::{Deserialize, Serialize};

use crate::{LocalWorkload, WorkloadRole};

/// The file's name within the state folder.
pub const FILE_NAME: &str = "instances.json";
/// The file is refused above this size.
const MAX_BYTES: u64 = 4 * 1024 * 1024;
/// Slots 1 to 254: the third number of an instance's addresses.
pub const MAX_INSTANCES: usize = 254;
/// The last number of the first address that stands for a service; 1 and 2 are the proxy's and the application's.
const FIRST_SERVICE: u8 = 10;
/// The third number of the addresses that stand for services where traffic is captured; no slot has it.
const SERVICES: u8 = 255;
/// Numbers 10 to 254.
pub const MAX_SERVICES: usize = 245;
/// Most audit replicas of a mesh.
pub const MAX_REPLICAS: usize = 64;
/// The last number of the first replica's address, `127.<base>.0.…`: the mesh process has 1.
const FIRST_REPLICA: u8 = 2;
/// The port of the mesh process' gRPC services.
pub const GRPC_PORT: u16 = 15012;
/// Where the rules bring others' connections (Istio's port).
pub const INBOUND_CAPTURE_PORT: u16 = 15006;
/// Where the rules bring the workload's own connections (Istio's port).
pub const OUTBOUND_CAPTURE_PORT: u16 = 15001;
/// The port of the mesh process' HTTP API.
pub const API_PORT: u16 = 15014;

/// The content of `instances.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instances {
    /// Where the mesh process listens.
    pub mesh: MeshAddresses,
    /// Service → the last number of the address that stands for it beside each instance.
    pub services: BTreeMap<ServiceName, u8>,
    /// What runs, or should.
    pub instances: Vec<Instance>,
}

/// Where the mesh process of a local mesh listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshAddresses {
    /// Second number of every address: `127.<base>.…`.
    pub base: u8,
    /// gRPC over TLS: issuing, configuration, audit.
    pub grpc: SocketAddr,
    /// The HTTP API.
    pub api: SocketAddr,
    /// How traffic of the instances is captured, each in a network namespace of its own. `None`: it is not, and each
    /// has loopback addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<CaptureMode>,
    /// The audit replicas that run beside the mesh process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<AuditReplica>,
}

/// One running copy of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its name, such as `reviews-v1-0`.
    pub instance: InstanceName,
    /// Its workload.
    pub workload: WorkloadName,
    /// The workload's namespace.
    pub namespace: Namespace,
    /// Its slot, 1 to 254.
    pub slot: u8,
    /// Its address as the mesh sees it (the sidecar's, or the application's own where there is none).
    pub address: Ipv4Addr,
    /// Its application's address.
    pub app_address: Ipv4Addr,
    /// Whether it takes traffic.
    pub healthy: bool,
    /// The application's process.
    #[serde(default)]
    pub app_pid: Option<u32>,
    /// The sidecar's process.
    #[serde(default)]
    pub sidecar_pid: Option<u32>,
    /// The exit code of an application that ended for good (128 and the signal's number if a signal ended it): a job
    /// that is done, and has no proxy any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// Why `instances.json` could not be read, written or extended.
#[derive(Debug, thiserror::Error)]
pub enum InstancesError {
    /// The operating system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Not the JSON that was expected.
    #[error("{path}: {source}")]
    Json {
        /// The file.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// Over the size limit.
    #[error("{path}: {bytes} bytes is more than the limit of {MAX_BYTES}")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        bytes: u64,
    },
    /// More instances than slots.
    #[error(
        "the mesh needs {0} instances, but a local mesh has room for {MAX_INSTANCES}; lower `replicas`"
    )]
    TooManyInstances(usize),
    /// More services than addresses beside an instance.
    #[error(
        "the mesh needs {0} services, but a local mesh has room for {MAX_SERVICES}; remove some"
    )]
    TooManyServices(usize),
}

/// The name of the `n`th audit replica that runs beside the mesh process.
pub fn replica_name(n: u16) -> Option<InstanceName> {
    InstanceName::parse(&format!("audit-{n}")).ok()
}

impl Instances {
    /// Plans so many audit replicas beside the mesh process; those reached by a socket, not by an address, are told where it
    /// is by `socket`.
    pub fn plan_replicas(
        &mut self,
        count: u16,
        socket: impl Fn(&InstanceName) -> Option<std::path::PathBuf>,
    ) {
        let base = self.mesh.base;
        let planned = (0..count).filter_map(|n| {
            let (name, own) = (replica_name(n)?, u8::try_from(n).ok()?);
            let ip = Ipv4Addr::new(127, base, 0, FIRST_REPLICA.checked_add(own)?);
            let address = match socket(&name) {
                Some(path) => format!("unix:{}", path.display()),
                None => SocketAddr::from((ip, GRPC_PORT)).to_string(),
            };
            Some(AuditReplica { name, address })
        });
        self.mesh.replicas = planned.collect();
    }

    /// A mesh at `127.<base>` in which nothing runs yet.
    pub fn new(base: u8) -> Self {
        let mesh = Ipv4Addr::new(127, base, 0, 1);
        Self {
            mesh: MeshAddresses {
                base,
                grpc: (mesh, GRPC_PORT).into(),
                api: (mesh, API_PORT).into(),
                capture: None,
                replicas: Vec::new(),
            },
            services: BTreeMap::new(),
            instances: Vec::new(),
        }
    }

    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self, InstancesError> {
        let shown = path.display().to_string();
        let io = |source| InstancesError::Io {
            path: path.display().to_string(),
            source,
        };
        let bytes = fs::metadata(path).map_err(io)?.len();
        if bytes > MAX_BYTES {
            return Err(InstancesError::TooLarge { path: shown, bytes });
        }
        let text = fs::read(path).map_err(io)?;
        serde_json::from_slice(&text).map_err(|source| InstancesError::Json {
            path: shown,
            source,
        })
    }

    /// Writes the file so that a reader sees the old content or the new, never a part.
    pub fn write(&self, path: &Path) -> Result<(), InstancesError> {
        reeve_files::replace_json(path, self).map_err(|source| InstancesError::Io {
            path: path.display().to_string(),
            source,
        })
    }

    /// Makes this hold exactly the instances that `workloads` ask for and a number for each service. What was there
    /// keeps its slot and number; what is new is not healthy yet.
    pub fn plan<'a>(
        &mut self,
        workloads: &[LocalWorkload],
        services: impl IntoIterator<Item = &'a ServiceName>,
    ) -> Result<(), InstancesError> {
        self.number_services(services)?;
        let wanted: Vec<_> = workloads
            .iter()
            .flat_map(|w| w.instances.iter().map(move |name| (name.clone(), w)))
            .collect();
        if wanted.len() > MAX_INSTANCES {
            return Err(InstancesError::TooManyInstances(wanted.len()));
        }
        let mut old: BTreeMap<_, _> = std::mem::take(&mut self.instances)
            .into_iter()
            .map(|i| (i.instance.clone(), i))
            .collect();
        let names: BTreeSet<_> = wanted.iter().map(|(name, _)| name.clone()).collect();
        old.retain(|name, _| names.contains(name));
        let taken: BTreeSet<u8> = old.values().map(|i| i.slot).collect();
        let mut free = (1..=254).filter(|slot| !taken.contains(slot));
        for (name, workload) in wanted {
            let instance = match old.remove(&name) {
                Some(known) => Instance {
                    app_address: self.mesh.of_application(workload, known.slot),
                    ..known
                },
                None => {
                    let slot = free
                        .next()
                        .ok_or(InstancesError::TooManyInstances(MAX_INSTANCES + 1))?;
                    Instance::planned(name, workload, &self.mesh, slot)
                }
            };
            self.instances.push(instance);
        }
        Ok(())
    }

    /// Gives each service a number of its own, in order of name; known ones keep theirs and gone ones free it.
    fn number_services<'a>(
        &mut self,
        services: impl IntoIterator<Item = &'a ServiceName>,
    ) -> Result<(), InstancesError> {
        let wanted: BTreeSet<_> = services.into_iter().collect();
        if wanted.len() > MAX_SERVICES {
            return Err(InstancesError::TooManyServices(wanted.len()));
        }
        self.services.retain(|name, _| wanted.contains(name));
        let taken: BTreeSet<u8> = self.services.values().copied().collect();
        let mut free = (FIRST_SERVICE..=254).filter(|number| !taken.contains(number));
        for service in wanted {
            if !self.services.contains_key(service) {
                let number = free
                    .next()
                    .ok_or(InstancesError::TooManyServices(MAX_SERVICES + 1))?;
                self.services.insert(service.clone(), number);
            }
        }
        Ok(())
    }

    /// The instance of that name.
    pub fn get(&self, instance: &InstanceName) -> Option<&Instance> {
        self.instances.iter().find(|i| i.instance == *instance)
    }

    /// The address beside the instance in `slot` that stands for `service`.
    pub fn outbound_address(&self, slot: u8, service: &ServiceName) -> Option<Ipv4Addr> {
        let number = *self.services.get(service)?;
        let base = self.mesh.base;
        Some(match self.mesh.capture {
            None => Ipv4Addr::new(127, base, slot, number),
            Some(_) => Ipv4Addr::new(10, base, SERVICES, number),
        })
    }

    /// The IPv6 address that stands for `service`; only where traffic is captured.
    pub fn outbound_address_v6(&self, service: &ServiceName) -> Option<Ipv6Addr> {
        let number = *self.services.get(service)?;
        let net = self.mesh.capture.map(|_| self.mesh.base)?;
        Some(v6(net, 1, number))
    }
}

/// `fd00:7265:6576:BASE:NET::NUMBER`, of the range for private use (RFC 4193).
fn v6(base: u8, net: u16, number: u8) -> Ipv6Addr {
    Ipv6Addr::new(
        0xfd00,
        0x7265,
        0x6576,
        base.into(),
        net,
        0,
        0,
        number.into(),
    )
}

impl MeshAddresses {
    /// The mesh's side of an instance.
    pub fn of_instance(&self, slot: u8) -> Ipv4Addr {
        match self.capture {
            None => Ipv4Addr::new(127, self.base, slot, 1),
            Some(_) => Ipv4Addr::new(10, self.base, slot, 1),
        }
    }

    /// An instance's IPv6 address where traffic is captured; slot 0 is the bridge between the instances.
    pub fn of_instance_v6(&self, slot: u8) -> Ipv6Addr {
        v6(self.base, 0, slot)
    }

    /// Where an application listens: where traffic is captured and a sidecar stands before it, on loopback alone.
    fn of_application(&self, workload: &LocalWorkload, slot: u8) -> Ipv4Addr {
        match (self.capture, workload.role) {
            (None, _) => workload.app_address(self.base, slot),
            (Some(_), WorkloadRole::Sidecar) => Ipv4Addr::LOCALHOST,
            (Some(_), WorkloadRole::Gateway | WorkloadRole::None) => self.of_instance(slot),
        }
    }
}

impl Instance {
    fn planned(
        name: InstanceName,
        workload: &LocalWorkload,
        mesh: &MeshAddresses,
        slot: u8,
    ) -> Self {
        Self {
            instance: name,
            workload: workload.name.clone(),
            namespace: workload.namespace.clone(),
            slot,
            address: mesh.of_instance(slot),
            app_address: mesh.of_application(workload, slot),
            healthy: false,
            app_pid: None,
            sidecar_pid: None,
            exit_code: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::tests::mesh;

    fn planned(replicas: &[(&str, u16)], instances: &mut Instances) -> Result<(), InstancesError> {
        let workloads: Vec<_> = replicas
            .iter()
            .map(|(name, n)| format!("{{name: {name}, command: [x], replicas: {n}}}"))
            .collect();
        let yaml = format!(
            "apiVersion: reeve.dev/v1alpha1\nkind: LocalMesh\nmetadata: {{name: l}}\nspec: {{workloads: [{}]}}\n",
            workloads.join(", ")
        );
        let mesh = mesh(&yaml);
        instances.plan(&mesh.workloads, mesh.services.keys())
    }

    #[test]
    fn replicas_of_the_log_have_addresses_beside_the_mesh_process_or_sockets() {
        let mut instances = Instances::new(77);
        let planned = |instances: &Instances| -> Vec<String> {
            let replicas = instances.mesh.replicas.iter();
            replicas
                .map(|replica| format!("{} {}", replica.name, replica.address))
                .collect()
        };
        instances.plan_replicas(2, |_name| None);
        assert_eq!(
            planned(&instances),
            ["audit-0 127.77.0.2:15012", "audit-1 127.77.0.3:15012"]
        );
        instances.plan_replicas(1, |name| Some(format!("/run/{name}.sock").into()));
        assert_eq!(planned(&instances), ["audit-0 unix:/run/audit-0.sock"]);
        instances.plan_replicas(0, |_name| None);
        assert!(instances.mesh.replicas.is_empty());
    }

    #[test]
    fn slots_are_kept_and_reused() {
        let mut instances = Instances::new(77);
        planned(&[("a", 2), ("b", 1)], &mut instances).unwrap();
        let slots = |i: &Instances| -> Vec<(String, u8)> {
            i.instances
                .iter()
                .map(|i| (i.instance.to_string(), i.slot))
                .collect()
        };
        let slot = |name: &str, slot| (name.to_owned(), slot);
        assert_eq!(
            slots(&instances),
            [slot("a-0", 1), slot("a-1", 2), slot("b-0", 3)]
        );
        planned(&[("a", 1), ("b", 1), ("c", 2)], &mut instances).unwrap();
        assert_eq!(
            slots(&instances),
            [
                slot("a-0", 1),
                slot("b-0", 3),
                slot("c-0", 2),
                slot("c-1", 4)
            ]
        );
    }

    #[test]
    fn services_keep_their_numbers_and_have_a_limit() {
        let names: Vec<_> = (0..=MAX_SERVICES)
            .map(|n| ServiceName::parse(&format!("s{n:03}.a.svc.cluster.local")).unwrap())
            .collect();
        let mut instances = Instances::new(77);
        instances.plan(&[], &names[1..3]).unwrap();
        instances.plan(&[], &names[0..3]).unwrap();
        let numbers: Vec<_> = names[0..3].iter().map(|n| instances.services[n]).collect();
        assert_eq!(numbers, [12, 10, 11]);
        instances.plan(&[], &names[1..]).unwrap();
        assert_eq!(instances.services.len(), MAX_SERVICES);
        let over = instances.plan(&[], &names);
        assert!(matches!(over, Err(InstancesError::TooManyServices(246))));
    }

    #[test]
    fn the_file_survives_a_round_trip_and_junk_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        let mut instances = Instances::new(5);
        planned(&[("a", 1)], &mut instances).unwrap();
        instances.write(&path).unwrap();
        assert_eq!(Instances::read(&path).unwrap(), instances);
        fs::write(&path, "{").unwrap();
        assert!(matches!(
            Instances::read(&path),
            Err(InstancesError::Json { .. })
        ));
    }
}
