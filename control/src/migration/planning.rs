//! Waves: which ports are flipped together, and in which order.

use std::collections::{BTreeMap, BTreeSet};

use reeve_core::{Namespace, model::MtlsMode};
use serde::{Deserialize, Serialize};

use super::{
    evidence::{Caller, Observed, Spoken},
    landscape::{Landscape, WorkloadKey},
    order::levels,
    stand::{Obstacle, PortStand, Verdict},
};
use crate::{WorkloadRole, mesh::Scope};

/// What is flipped to STRICT.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Target {
    /// A workload: ports of it, or none for all of it.
    Workload(WorkloadKey, Vec<u16>),
    /// A namespace, for workloads to come: all that it has are strict already.
    Namespace(Namespace),
}

/// Targets that are flipped at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wave {
    /// What, and why it can be.
    pub targets: Vec<(Target, String)>,
    /// Who calls them: whose sidecars must have acknowledged all that went before.
    pub senders: BTreeSet<WorkloadKey>,
}

/// A port that is in no wave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Whose.
    pub workload: WorkloadKey,
    /// Its number.
    pub port: u16,
    /// Why, in short.
    pub reason: String,
    /// What stands in the way.
    pub obstacles: Vec<Obstacle>,
}

/// In which order what is flipped, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// First to last.
    pub waves: Vec<Wave>,
    /// In no wave.
    pub blocked: Vec<Blocked>,
    /// What else a person should know.
    pub notes: Vec<String>,
}

/// Workloads that one object is about, so that they are flipped together.
#[derive(Debug)]
struct Unit {
    members: Vec<WorkloadKey>,
    /// Ports to flip; all, if `whole`.
    ports: BTreeSet<u16>,
    whole: bool,
}

/// Puts all ports that are ready into waves.
pub fn plan(landscape: &Landscape, observed: &Observed, stands: &[PortStand]) -> Plan {
    let mut plan = Plan::default();
    let (mut units, unselectable) = units(landscape, stands);
    let mut unwritable = BTreeMap::new();
    for unit in &mut units {
        if let Err(error) = landscape.flip(&unit.targets(stands)) {
            // What is written there is not for a machine to edit.
            unwritable.extend(
                unit.members
                    .iter()
                    .map(|key| (key.clone(), error.to_string())),
            );
            unit.ports.clear();
        }
    }
    for stand in stands {
        let taken = |unit: &Unit| {
            unit.members.contains(&stand.workload) && unit.ports.contains(&stand.port)
        };
        let settled = matches!(stand.verdict, Verdict::Strict | Verdict::Exempt);
        if !settled && !units.iter().any(taken) {
            let mut blocked = blocked(stand, &unselectable);
            blocked.unwritable(unwritable.get(&stand.workload));
            plan.blocked.push(blocked);
        }
    }
    let edges = edges(landscape, observed, &units);
    let levels = levels(units.len(), &edges);
    let mut waves: BTreeMap<usize, Wave> = BTreeMap::new();
    for (unit, level) in units.iter().zip(levels) {
        if unit.ports.is_empty() {
            continue;
        }
        let wave = waves.entry(level).or_default();
        for target in unit.targets(stands) {
            let because = unit.because(&target, stands);
            wave.targets.push((target, because));
        }
        for member in &unit.members {
            wave.senders.extend(senders(landscape, observed, member));
        }
    }
    plan.waves = waves.into_values().collect();
    let namespaces = namespaces(landscape, stands, &units);
    if !namespaces.is_empty() {
        let because = "every workload of it is strict by then; those to come begin so";
        let targets = namespaces.into_iter();
        plan.waves.push(Wave {
            targets: targets
                .map(|name| (Target::Namespace(name), because.to_owned()))
                .collect(),
            senders: BTreeSet::new(),
        });
    }
    plan.notes = silent(landscape, observed);
    plan
}

impl Unit {
    /// What is flipped of it.
    fn targets(&self, stands: &[PortStand]) -> Vec<Target> {
        let of = |member: &WorkloadKey| {
            let own = stands.iter().filter(|s| s.workload == *member);
            let own = own.map(|s| s.port).filter(|port| self.ports.contains(port));
            let own: Vec<u16> = own.collect();
            let ports = if self.whole { Vec::new() } else { own.clone() };
            (!own.is_empty()).then(|| Target::Workload(member.clone(), ports))
        };
        self.members.iter().filter_map(of).collect()
    }

    /// Why a target of it can be flipped.
    fn because(&self, target: &Target, stands: &[PortStand]) -> String {
        let Target::Workload(key, _) = target else {
            return String::new();
        };
        let own = stands
            .iter()
            .filter(|s| s.workload == *key && self.ports.contains(&s.port));
        let ready = own.filter(|s| s.verdict == Verdict::Ready);
        let ready: Vec<_> = ready.map(|s| format!("{}: {}", s.port, s.reason)).collect();
        ready.join("; ")
    }
}

impl Blocked {
    fn unwritable(&mut self, why: Option<&String>) {
        if let Some(why) = why {
            self.reason.clone_from(why);
            self.obstacles.push(Obstacle {
                what: why.clone(),
                remedy: "write that object so that each mode has a line of its own".to_owned(),
            });
        }
    }
}

fn units(landscape: &Landscape, stands: &[PortStand]) -> (Vec<Unit>, BTreeSet<WorkloadKey>) {
    let mut units: Vec<Unit> = Vec::new();
    let mut unselectable = BTreeSet::new();
    for stand in stands {
        if units
            .iter()
            .any(|unit| unit.members.contains(&stand.workload))
        {
            continue;
        }
        let Some(members) = landscape.flipped_with(&stand.workload) else {
            unselectable.insert(stand.workload.clone());
            continue;
        };
        units.push(unit(members, stands));
    }
    (units, unselectable)
}

fn unit(members: Vec<WorkloadKey>, stands: &[PortStand]) -> Unit {
    let own = || stands.iter().filter(|s| members.contains(&s.workload));
    let at = |port: u16| own().filter(move |s| s.port == port);
    let flips = |port: &u16| {
        let fine = at(*port).all(|s| matches!(s.verdict, Verdict::Ready | Verdict::Strict));
        fine && at(*port).any(|s| s.verdict == Verdict::Ready)
    };
    let ports: BTreeSet<u16> = own().map(|s| s.port).filter(flips).collect();
    let whole = own().all(|s| match s.verdict {
        Verdict::Ready | Verdict::Strict => true,
        // What is said for the port alone stays when the workload is flipped.
        Verdict::Exempt => s.exemption.is_some() && s.by_port(),
        Verdict::Unproven | Verdict::Blocked => false,
    });
    Unit {
        whole,
        ports,
        members,
    }
}

impl PortStand {
    fn by_port(&self) -> bool {
        self.origin.place.contains("portLevelMtls")
    }
}

fn blocked(stand: &PortStand, unselectable: &BTreeSet<WorkloadKey>) -> Blocked {
    let mut obstacles = stand.obstacles.clone();
    if unselectable.contains(&stand.workload) {
        obstacles.push(Obstacle {
            what: "no PeerAuthentication can be about this workload alone: it has no labels"
                .to_owned(),
            remedy: format!(
                "give it a label of its own, such as app: {}",
                stand.workload.workload
            ),
        });
    }
    let reason = match stand.verdict == Verdict::Ready {
        true => "another workload that the same object selects is not ready".to_owned(),
        false => stand.reason.clone(),
    };
    Blocked {
        workload: stand.workload.clone(),
        port: stand.port,
        reason,
        obstacles,
    }
}

/// Who calls whom, by their places among `units`.
fn edges(landscape: &Landscape, observed: &Observed, units: &[Unit]) -> BTreeSet<(usize, usize)> {
    let of = |key: &WorkloadKey| units.iter().position(|unit| unit.members.contains(key));
    let mut edges = BTreeSet::new();
    for (receiver, _, call) in observed.edges() {
        let Some(called) = of(receiver) else {
            continue;
        };
        for caller in callers(landscape, &call.caller) {
            if let Some(caller) = of(&caller).filter(|caller| *caller != called) {
                edges.insert((caller, called));
            }
        }
    }
    edges
}

fn callers(landscape: &Landscape, caller: &Caller) -> Vec<WorkloadKey> {
    match caller {
        Caller::Identity(id) => landscape.of_identity(id).collect(),
        Caller::Workload {
            namespace,
            workload,
            ..
        } => vec![WorkloadKey {
            namespace: namespace.clone(),
            workload: workload.clone(),
        }],
        Caller::Network(_) => Vec::new(),
    }
}

/// Workloads that call one by mTLS.
fn senders(
    landscape: &Landscape,
    observed: &Observed,
    receiver: &WorkloadKey,
) -> BTreeSet<WorkloadKey> {
    let calls = observed.edges().filter(|(key, _, _)| *key == receiver);
    let by_mtls = calls.filter(|(_, _, call)| call.spoken == Spoken::Mtls);
    by_mtls
        .flat_map(|(_, _, call)| callers(landscape, &call.caller))
        .collect()
}

/// Namespaces of which everything is strict after all waves, and whose workloads to come would not be.
fn namespaces(landscape: &Landscape, stands: &[PortStand], units: &[Unit]) -> Vec<Namespace> {
    let all: BTreeSet<_> = stands.iter().map(|s| &s.workload.namespace).collect();
    let strict = |stand: &PortStand| {
        let whole = |u: &Unit| u.whole && u.members.contains(&stand.workload);
        matches!(stand.verdict, Verdict::Strict | Verdict::Exempt) || units.iter().any(whole)
    };
    let done = |name: &&&Namespace| {
        let own = stands.iter().filter(|s| s.workload.namespace == ***name);
        own.clone().all(strict) && landscape.mode_of_new(name) != MtlsMode::Strict
    };
    all.iter()
        .filter(done)
        .map(|name| (*name).clone())
        .collect()
}

/// Workloads without sidecars that called nobody: a job that did not come yet is not seen.
fn silent(landscape: &Landscape, observed: &Observed) -> Vec<String> {
    let seen: BTreeSet<_> = observed
        .edges()
        .flat_map(|(_, _, call)| callers(landscape, &call.caller))
        .collect();
    let all = landscape.mesh().workloads.iter();
    let plain = all.filter(|w| w.role == WorkloadRole::None);
    plain
        .map(super::landscape::key)
        .filter(|key| !seen.contains(key))
        .map(|key| {
            format!(
                "workload {key} has no sidecar and called nobody in this time; if it is a job that comes seldom, give it a \
                 sidecar first, or look at a longer time (--since)"
            )
        })
        .collect()
}

impl Landscape {
    /// The workloads that are flipped with one, itself among them: those that its own `PeerAuthentication` selects, or that
    /// one made from its labels would. `None`: it has no labels to be selected by.
    pub(super) fn flipped_with(&self, key: &WorkloadKey) -> Option<Vec<WorkloadKey>> {
        if let Some((_, scope)) = self.own_object(key) {
            return Some(self.covered(scope));
        }
        let labels = self.labels(key)?.clone();
        if labels.is_empty() {
            return None;
        }
        let scope = Scope {
            namespace: Some(key.namespace.clone()),
            selector: labels,
        };
        let covered = self.covered(&scope).into_iter();
        Some(
            covered
                .filter(|key| self.own_object(key).is_none())
                .collect(),
        )
    }

    /// The object that selects a workload by labels: its place among all, and its scope.
    pub(super) fn own_object(&self, key: &WorkloadKey) -> Option<(usize, &Scope)> {
        let workload = self.workload(key)?;
        let all = self
            .mesh
            .peer_authentications
            .iter()
            .map(|rule| &rule.scope);
        let mut all = (0..).zip(all);
        all.find(|(_, scope)| scope.rank() == 2 && scope.covers(workload))
    }

    /// The mode of a workload to come, in a namespace.
    pub(super) fn mode_of_new(&self, namespace: &Namespace) -> MtlsMode {
        let rules = &self.mesh.peer_authentications;
        let whole = |name: Option<&Namespace>| {
            let of = |r: &&crate::mesh::PeerAuthentication| {
                r.scope.rank() < 2 && r.scope.namespace.as_ref() == name
            };
            rules.iter().find(of).and_then(|rule| rule.mode)
        };
        let own = whole(Some(namespace)).or_else(|| whole(None));
        own.unwrap_or(self.mesh.settings.mtls)
    }
}
