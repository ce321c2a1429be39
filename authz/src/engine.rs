//! The engine: a compiled policy slice that answers access requests.
//!
//! Cedar skips a policy that fails to evaluate, a `forbid` included; the engine closes instead. Tenancy is not left
//! to what policies say about their resource: a namespaced policy is in no set that judges another namespace.

mod foresee;
mod key;
mod memory;
mod policies;
mod verdict;

pub use foresee::{Asked, Foreseen, Foresight, Searched, Sight, Unknown};

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use reeve_core::{
    Namespace, PolicyId, TrustDomain, UnixTime,
    decision::{AccessRequest, Decision, Effect, Reason},
    model::{PolicyMode, PolicySlice},
};

use self::policies::Policies;
use crate::{
    AskedOf, Explanation, PolicyFault, asked_of,
    compile::{self, Compiled},
    mesh_schema::MeshSchema,
    store::Store,
};

/// Most policies that are asked about one request; when more might apply, it is denied.
pub const MAX_CANDIDATES: usize = 1024;

/// A compiled policy slice. Immutable and `Send + Sync`; share it as an `Arc`.
#[derive(Debug)]
pub struct Engine {
    state: State,
    needs: Needs,
    mesh_hash: String,
}

/// What a request must carry so that the policies can be judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Header names, lower case.
    pub headers: BTreeSet<String>,
    /// Query parameter names.
    pub query: BTreeSet<String>,
    /// Labels of workloads and services, which are known beforehand.
    pub labels: BTreeSet<String>,
    /// The server name in a connection's ClientHello.
    pub sni: bool,
}

#[derive(Debug)]
enum State {
    /// Everything is denied for this reason.
    Closed(Reason),
    /// Policies decide.
    Open(Box<Policies>),
}

impl Engine {
    /// Compiles a slice; every policy is validated in strict mode, and all faults are reported.
    pub fn compile(slice: &PolicySlice) -> Result<Self, Vec<PolicyFault>> {
        Self::compile_after(slice, None)
    }

    /// The same, without reading those policies again that `before` already has.
    pub fn compile_after(
        slice: &PolicySlice,
        before: Option<&Self>,
    ) -> Result<Self, Vec<PolicyFault>> {
        let before = match before.map(|engine| &engine.state) {
            Some(State::Open(policies)) => Some(policies.as_ref()),
            Some(State::Closed(_)) | None => None,
        };
        let mesh = MeshSchema::extended(&slice.schema).map_err(|faults| blame(slice, &faults))?;
        let store = before.filter(|before| {
            before.mesh.texts == mesh.texts && *before.store.records() == slice.entities
        });
        let store = match store {
            Some(before) => Arc::clone(&before.store),
            None => {
                let store = Store::new(&mesh, &slice.entities);
                Arc::new(store.map_err(|faults| blame(slice, &faults))?)
            }
        };
        // What a policy was read as holds for one schema alone.
        let before = before.filter(|before| before.mesh.texts == mesh.texts);
        let known: &[Arc<Compiled>] = before.map_or(&[], Policies::all);
        let all = compile::compile(&mesh, &slice.policies, known)?;
        let policies = Policies::new((mesh, store), all, before);
        Ok(Self {
            needs: policies.needs(),
            state: State::Open(Box::new(policies)),
            mesh_hash: slice.mesh_hash.clone(),
        })
    }

    /// An engine that denies everything for `reason`, such as [`Reason::NoPolicySet`] before any set is here.
    pub fn deny_all(reason: Reason) -> Self {
        Self {
            state: State::Closed(reason),
            needs: Needs::default(),
            mesh_hash: String::new(),
        }
    }

    /// Tells the engine the mesh's trust domain, to which services without an identity belong.
    #[must_use]
    pub fn in_trust_domain(mut self, domain: TrustDomain) -> Self {
        if let State::Open(policies) = &mut self.state {
            policies.settle(domain);
        }
        self
    }

    /// Answers one request.
    pub fn decide(&self, request: &AccessRequest) -> Decision {
        match &self.state {
            State::Closed(reason) => Decision::without_policy(Effect::Deny, *reason),
            State::Open(policies) => policies.decide(request),
        }
    }

    /// Answers for a connection on a port where HTTP is expected, and which could not be read as such: besides
    /// `connect` being permitted, no `forbid` that looks at HTTP may concern it.
    pub fn decide_opaque(&self, request: &AccessRequest) -> Decision {
        let decision = self.decide(request);
        match &self.state {
            State::Open(policies) if decision.is_allow() => {
                policies.blindly(request).unwrap_or(decision)
            }
            State::Open(_) | State::Closed(_) => decision,
        }
    }

    /// Answers one request and says, policy by policy, why.
    pub fn explain(&self, request: &AccessRequest) -> Explanation {
        let policies = match &self.state {
            State::Closed(_) => Vec::new(),
            State::Open(policies) => policies.explain(request),
        };
        Explanation {
            decision: self.decide(request),
            policies,
        }
    }

    /// Every policy's conditions, as [`PolicyVerdict`](crate::PolicyVerdict) counts them after the three parts of its
    /// scope: each `unless`, and each `when` split at its top-level `&&`.
    pub fn conditions(&self) -> Vec<(PolicyId, Vec<String>)> {
        let State::Open(policies) = &self.state else {
            return Vec::new();
        };
        let each = policies.all().iter();
        each.map(|policy| (policy.source.id.clone(), crate::explain::conditions(policy)))
            .collect()
    }

    /// The permits that bind.
    pub fn permits(&self) -> Vec<PolicyId> {
        let State::Open(policies) = &self.state else {
            return Vec::new();
        };
        let binding = |p: &&Arc<Compiled>| {
            p.effect() == Effect::Allow && p.source.mode == PolicyMode::Enforce
        };
        let permits = policies.all().iter().filter(binding);
        permits.map(|policy| policy.source.id.clone()).collect()
    }

    /// Headers and query parameters that the policies name.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// What the policies of each scope can learn of entities; `None` is the whole mesh.
    pub fn asked_of(&self) -> BTreeMap<Option<Namespace>, AskedOf> {
        match &self.state {
            State::Closed(_) => BTreeMap::new(),
            State::Open(policies) => asked_of::by_scope(policies.all()),
        }
    }

    /// Whether what was answered at `from` may have another answer at `to` by time alone: a policy has lapsed (`@until`),
    /// or a condition on the time may have flipped. If the clock was set back, anything on time may have.
    pub fn may_change_between(&self, from: UnixTime, to: UnixTime) -> bool {
        match &self.state {
            State::Closed(_) => false,
            State::Open(policies) => policies.calendar.may_change(from, to),
        }
    }

    /// The next moment after `time` at which an answer may change by time alone; `None`: it never does.
    pub fn next_change_after(&self, time: UnixTime) -> Option<UnixTime> {
        match &self.state {
            State::Closed(_) => None,
            State::Open(policies) => policies.calendar.next_after(time),
        }
    }

    /// The policies that one request could concern all at once, if they are more than [`MAX_CANDIDATES`]. `services`
    /// is how many services a workload is behind at most.
    pub fn crowd(&self, services: usize) -> Option<Vec<PolicyId>> {
        match &self.state {
            State::Closed(_) => None,
            State::Open(policies) => policies.crowd(services),
        }
    }

    /// Hash of the whole mesh's policy set, as the slice stated it; empty before there is one.
    pub fn mesh_hash(&self) -> &str {
        &self.mesh_hash
    }
}

/// Faults of what the policies rest on, said of the first policy or of the set.
fn blame(slice: &PolicySlice, faults: &[impl fmt::Display]) -> Vec<PolicyFault> {
    let first = slice.policies.first().map(|policy| policy.id.clone());
    let Some(id) = first.or_else(|| PolicyId::parse("reeve-system/schema").ok()) else {
        return Vec::new();
    };
    let each = faults.iter();
    each.map(|fault| PolicyFault::at(&id, "", 0, fault.to_string()))
        .collect()
}

#[cfg(test)]
mod known_tests;
#[cfg(test)]
mod tests;
