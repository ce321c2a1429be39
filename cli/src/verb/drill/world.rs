//! The mesh that a drill runs on, and what its applications ask of each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use reeve_audit::{Entry, query::Filter};
use reeve_ca::MemberStatus;
use reeve_control::{LocalWorkload, Mesh, WorkloadRole, instances::Instances};
use reeve_core::{
    Clock, ServiceName, SpiffeId, SystemClock, UnixTime,
    decision::{Action, Effect},
    model::Protocol,
};
use serde_json::Value;

use super::load::{Call, Kind};
use crate::{
    problem::Problem,
    state::StateDir,
    supervisor::load,
    verb::{audit::LogArgs, mesh_api::MeshApi, policy::full_name},
};

/// How far back is looked for what applications ask.
const LOOK_BACK: Duration = Duration::from_secs(10 * 60);
/// Most decisions that are looked at.
const MAX_LOOKED_AT: usize = 5_000;
/// Most calls that a load is made of.
const MAX_CALLS: usize = 64;
/// Most calls of one kind between the same two.
const MAX_OF_A_PAIR: usize = 2;

/// The mesh as it stands at the beginning.
#[derive(Debug)]
pub(super) struct World {
    pub(super) state: StateDir,
    pub(super) api: MeshApi,
    pub(super) instances: Instances,
    pub(super) members: Vec<MemberStatus>,
    /// Life of a certificate.
    pub(super) ttl: Duration,
    /// How long a rotation waits for those who cannot acknowledge.
    pub(super) wait: Duration,
}

impl World {
    pub(super) async fn see(state: StateDir) -> Result<Self, Problem> {
        let api = MeshApi::of(&state)?;
        let ca = api.status().await?.ca;
        let members = members(&api).await?;
        let instances = Instances::read(&state.instances())
            .map_err(|error| Problem::because("what runs cannot be read", &error))?;
        let time = |name: &str| {
            let millis = ca.get(name).and_then(Value::as_u64);
            Duration::from_millis(millis.unwrap_or_default())
        };
        Ok(Self {
            ttl: time("certificate_ttl_ms"),
            wait: time("rotation_wait_ms"),
            state,
            api,
            instances,
            members,
        })
    }

    /// The configuration that the supervisor reads.
    fn mesh(&self) -> Result<Mesh, Problem> {
        load(&self.state.supervisor()?.folder)
    }

    /// What the audit log says that applications were lately permitted to ask, as calls in their place.
    pub(super) fn calls_seen(&self, log: &LogArgs) -> Result<Vec<Call>, Problem> {
        let mesh = self.mesh()?;
        let filter = Filter {
            since: Some(before(SystemClock.now(), LOOK_BACK)),
            effect: Some(Effect::Allow),
            kind: Some("decision".to_owned()),
            limit: MAX_LOOKED_AT,
            ..Filter::default()
        };
        let found = log.open()?.query(&filter);
        let found = found.map_err(|error| crate::verb::audit::unreadable(&error))?;
        let mut seen: BTreeMap<(SpiffeId, ServiceName, u16), BTreeSet<Option<String>>> =
            BTreeMap::new();
        for found in found {
            let Entry::Decision(decision) = &found.record.entry else {
                continue;
            };
            let request = &decision.request;
            let Some(id) = request.principal.spiffe_id() else {
                continue;
            };
            let path = match (&request.action, &request.context.http) {
                (Action::Get, Some(http)) => Some(http.path.clone()),
                (Action::Connect, None) => None,
                _ => continue,
            };
            for service in &request.resource.services {
                let key = (id.clone(), service.clone(), request.context.port);
                let paths = seen.entry(key).or_default();
                if paths.len() < MAX_OF_A_PAIR {
                    paths.insert(path.clone());
                }
            }
        }
        let mut calls = Vec::new();
        for ((id, service, port), paths) in seen {
            for path in paths {
                let from = self.instances_of(&mesh, &id);
                for slot in from.into_iter().take(1) {
                    calls.extend(self.calls(&mesh, slot, &service, port, path.clone()));
                }
            }
        }
        calls.truncate(MAX_CALLS);
        Ok(calls)
    }

    /// The calls that `INSTANCE=SERVICE:PORT[/PATH]` names.
    pub(super) fn calls_named(&self, texts: &[String]) -> Result<Vec<Call>, Problem> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let mesh = self.mesh()?;
        let mut calls = Vec::new();
        for text in texts {
            let named = self.named(&mesh, text)?;
            if named.is_empty() {
                return Err(Problem::new(format!(
                    "{text:?} names no service that {} can reach",
                    text.split('=').next().unwrap_or_default()
                ))
                .fix(CALL_FORM));
            }
            calls.extend(named);
        }
        Ok(calls)
    }

    fn named(&self, mesh: &Mesh, text: &str) -> Result<Vec<Call>, Problem> {
        let wrong = || Problem::new(format!("{text:?} is not a call")).fix(CALL_FORM);
        let (from, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (host, path) = match rest.find('/') {
            Some(at) => rest
                .split_at_checked(at)
                .map(|(h, p)| (h, Some(p.to_owned()))),
            None => Some((rest, None)),
        }
        .ok_or_else(wrong)?;
        let (service, port) = host.split_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().map_err(|_| wrong())?;
        let service: ServiceName = full_name(service).parse().map_err(|_| wrong())?;
        let known = self.instances.instances.iter();
        let slot = known.clone().find(|i| i.instance.as_str() == from);
        let slot = slot.map(|instance| instance.slot).ok_or_else(|| {
            let names: Vec<_> = known.map(|i| i.instance.as_str()).collect();
            Problem::new(format!("there is no instance {from:?}"))
                .fix(format!("one of {}", names.join(", ")))
        })?;
        Ok(self.calls(mesh, slot, &service, port, path))
    }

    /// Slots of the instances that run under an identity and have a sidecar that takes requests of an application.
    fn instances_of(&self, mesh: &Mesh, id: &SpiffeId) -> Vec<u8> {
        let workloads = mesh.workloads.iter();
        let names: BTreeSet<_> = workloads
            .filter(|workload| workload.role != WorkloadRole::Gateway)
            .filter(|workload| workload.identity.as_ref() == Some(id))
            .flat_map(|workload| &workload.instances)
            .collect();
        let instances = self.instances.instances.iter();
        let alive = instances.filter(|i| i.sidecar_pid.is_some() && names.contains(&i.instance));
        alive.map(|instance| instance.slot).collect()
    }

    /// In each way that the port's protocol has. Where traffic is captured nobody can ask in an instance's place.
    fn calls(
        &self,
        mesh: &Mesh,
        slot: u8,
        service: &ServiceName,
        port: u16,
        path: Option<String>,
    ) -> Vec<Call> {
        if self.instances.mesh.capture.is_some() {
            return Vec::new();
        }
        let Some(of) = mesh.services.get(service) else {
            return Vec::new();
        };
        let known = of.ports.iter().find(|p| p.port == port);
        let instance = self.instances.instances.iter().find(|i| i.slot == slot);
        let address = self.instances.outbound_address(slot, service);
        let (Some(known), Some(instance), Some(address)) = (known, instance, address) else {
            return Vec::new();
        };
        let kinds: &[Kind] = match known.protocol {
            Protocol::Http => &[Kind::Http2, Kind::Http1],
            Protocol::Http2 => &[Kind::Http2],
            Protocol::Tcp => &[Kind::Tcp],
            Protocol::Grpc | Protocol::Tls => &[],
        };
        let ours = |w: &&LocalWorkload| w.instances.contains(&instance.instance);
        let selected = |w: &&LocalWorkload| {
            let selects = |(key, value): (&String, &String)| w.labels.get(key) == Some(value);
            let here = w.namespace == of.namespace && !of.selector.is_empty();
            here && of.selector.iter().all(selects)
        };
        let workloads = || mesh.workloads.iter();
        // The caller first.
        let ends = workloads().filter(ours).chain(workloads().filter(selected));
        let between: Vec<_> = ends.filter_map(|w| w.identity.clone()).collect();
        let call = |kind| Call {
            from: instance.instance.to_string(),
            to: format!("{service}:{port}"),
            address: SocketAddr::new(address.into(), port),
            kind,
            path: path.clone(),
            between: between.clone(),
            expected: None,
        };
        kinds.iter().copied().map(call).collect()
    }

    /// Where reports are kept.
    pub(super) fn reports(state: &StateDir) -> std::path::PathBuf {
        state.path().join("drills")
    }
}

const CALL_FORM: &str =
    "write INSTANCE=SERVICE:PORT/PATH, such as client-0=echo:9080/, or without a path for raw TCP";

/// Who holds certificates, and how far each is.
pub(super) async fn members(api: &MeshApi) -> Result<Vec<MemberStatus>, Problem> {
    let members = api.get_value("/api/members").await?;
    serde_json::from_value(members)
        .map_err(|error| Problem::because("the mesh process answered something unexpected", &error))
}

fn before(now: UnixTime, by: Duration) -> UnixTime {
    let since = now.since(UnixTime::default());
    UnixTime::default().plus(since.saturating_sub(by))
}
