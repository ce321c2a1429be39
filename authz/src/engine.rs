//! The engine: a compiled policy slice that answers access requests.
//!
//! Cedar skips a policy that fails to evaluate, a `forbid` included; the engine closes instead. Tenancy is not left
//! to what policies say about their resource: a namespaced policy is in no set that judges another namespace.

mod key;
mod memory;
mod verdict;

use std::{collections::BTreeSet, sync::Arc};

use cedar_policy::Effect as CedarEffect;
use reeve_core::{
    TrustDomain,
    decision::{AccessRequest, Decision, Effect, Reason},
    model::PolicySlice,
};

use crate::{
    Explanation, PolicyFault,
    compile::{self, Compiled},
    entities::{Looks, Question},
    explain,
    index::Index,
    mesh_schema::MeshSchema,
    opaque::Blind,
    uses::Uses,
};

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
}

#[derive(Debug)]
enum State {
    /// Everything is denied for this reason.
    Closed(Reason),
    /// Policies decide.
    Open(Box<Policies>),
}

#[derive(Debug)]
struct Policies {
    /// Tells this compilation from every other of the process.
    number: u64,
    mesh: &'static MeshSchema,
    /// The mesh's trust domain.
    home: Option<TrustDomain>,
    uses: Uses,
    /// What opaque connections must not slip past.
    blind: Blind,
    /// Ordered by id.
    all: Vec<Arc<Compiled>>,
    index: Index,
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
            Some(State::Open(policies)) => policies.all.as_slice(),
            Some(State::Closed(_)) | None => &[],
        };
        let (mesh, all) = compile::compile(&slice.policies, before)?;
        let mut uses = Uses::default();
        for policy in &all {
            uses.merge(policy.checked.uses.clone());
        }
        let needs = Needs {
            headers: uses.headers.clone(),
            query: uses.query.clone(),
        };
        let blind = Blind::of(all.iter().map(AsRef::as_ref)).map_err(|id| {
            let message = "the policy cannot be judged for connections".to_owned();
            vec![PolicyFault::at(&id, "", 0, message)]
        })?;
        let policies = Policies {
            number: memory::next_number(),
            blind,
            mesh,
            home: None,
            uses,
            index: Index::build(mesh, all.iter().map(AsRef::as_ref)),
            all,
        };
        Ok(Self {
            state: State::Open(Box::new(policies)),
            needs,
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
            policies.home = Some(domain);
            policies.number = memory::next_number();
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

    /// Headers and query parameters that the policies name.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Hash of the whole mesh's policy set, as the slice stated it; empty before there is one.
    pub fn mesh_hash(&self) -> &str {
        &self.mesh_hash
    }
}

impl Policies {
    fn decide(&self, request: &AccessRequest) -> Decision {
        // SECURITY: what cannot be asked is closed, as when a forbid cannot be evaluated.
        memory::decide(self, request)
            .unwrap_or_else(|_| Decision::without_policy(Effect::Deny, Reason::ForbidError))
    }

    /// The denial, if a `forbid` that looks at HTTP might apply.
    fn blindly(&self, request: &AccessRequest) -> Option<Decision> {
        if self.blind.is_empty() {
            return None;
        }
        let denied = |policies| Decision {
            policies,
            ..Decision::without_policy(Effect::Deny, Reason::ForbidError)
        };
        let looks = Looks(&[&self.uses]);
        let Ok(question) = Question::new(self.mesh, looks, self.home.as_ref(), request) else {
            return Some(denied(Vec::new()));
        };
        let found = self
            .blind
            .concerning(&request.resource.namespace, &question);
        (!found.is_empty()).then(|| denied(found))
    }

    fn explain(&self, request: &AccessRequest) -> Vec<explain::PolicyVerdict> {
        // Everything is built here: a part of a policy may be asked on its own.
        let everything = Uses {
            whole_context: true,
            hierarchy: true,
            ..self.uses.clone()
        };
        let looks = Looks(&[&everything]);
        let Ok(question) = Question::new(self.mesh, looks, self.home.as_ref(), request) else {
            return Vec::new();
        };
        let concerned = self.all.iter().filter(|p| {
            let scope = p.source.scope.as_ref();
            scope.is_none_or(|namespace| *namespace == request.resource.namespace)
        });
        let mut verdicts: Vec<_> = concerned
            .map(|policy| explain::verdict(policy, &question))
            .collect();
        explain::nearest_first(&mut verdicts);
        verdicts
    }
}

impl Compiled {
    /// What the policy does when it applies.
    pub(crate) fn effect(&self) -> Effect {
        match self.policy.effect() {
            CedarEffect::Permit => Effect::Allow,
            CedarEffect::Forbid => Effect::Deny,
        }
    }
}

#[cfg(test)]
mod tests;
