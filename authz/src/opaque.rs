//! What a connection that could not be read as HTTP must not slip past: every `forbid` that looks at HTTP.
//!
//! A `forbid` of an HTTP action, or with a condition on HTTP parts of the context, says nothing about `connect`. On a
//! port where HTTP is expected that would be a way around it: whoever sends bytes that are no HTTP would be judged by
//! the permits alone. Here such a policy is weakened to the parts of it that hold for any connection (who, whom, and
//! conditions on the connection), and what it might forbid is denied.

use cedar_policy::{
    Policy, PolicySet,
    pst::{self, ActionConstraint, Clause, EntityUID, StaticPolicy, Template},
};
use reeve_core::{
    Namespace, PolicyId,
    decision::{Action, Effect},
    model::PolicyMode,
};
use std::collections::BTreeMap;

use crate::{
    compile::Compiled,
    entities::Question,
    judge::{OnForbidError, judge},
    uses::Uses,
};

/// What policy sees of any connection; the rest of the context is HTTP's.
const CONNECTION: [&str; 4] = ["source_ip", "port", "mtls", "time"];

/// The weakened forms of the `forbid`s that look at HTTP, by the namespace they decide in (`None` = everywhere).
#[derive(Debug, Default)]
pub(crate) struct Blind(BTreeMap<Option<Namespace>, PolicySet>);

impl Blind {
    /// Those of `all` that bind. A policy that cannot be weakened is an error, which names it.
    pub(crate) fn of<'c>(all: impl IntoIterator<Item = &'c Compiled>) -> Result<Self, PolicyId> {
        let mut sets = BTreeMap::<_, PolicySet>::new();
        for policy in all {
            let binds = policy.source.mode == PolicyMode::Enforce;
            if !binds || policy.effect() != Effect::Deny {
                continue;
            }
            let fault = || policy.source.id.clone();
            if let Some(weak) = weakened(&policy.policy).ok_or_else(fault)? {
                let set = sets.entry(policy.source.scope.clone()).or_default();
                set.add(weak).map_err(|_| fault())?;
            }
        }
        Ok(Self(sets))
    }

    /// Those that might forbid what is asked, if only it could be read.
    pub(crate) fn concerning(&self, namespace: &Namespace, question: &Question) -> Vec<PolicyId> {
        let Question { request, entities } = question;
        let scopes = [None, Some(namespace.clone())];
        let sets = scopes.iter().filter_map(|scope| self.0.get(scope));
        let found =
            sets.flat_map(|set| judge(request, set, entities, OnForbidError::Deny).policies);
        found
            .filter_map(|id| PolicyId::parse(id.as_ref()).ok())
            .collect()
    }

    /// Whether there are none at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The policy without what only HTTP can tell; `Some(None)` = it looks at nothing of HTTP, and `connect` is judged by
/// it as it stands. `None` = it cannot be taken apart.
fn weakened(policy: &Policy) -> Option<Option<Policy>> {
    let tree = policy.to_pst().ok()?;
    let tree = tree.body();
    let mut weak = Template::new(
        tree.id.clone(),
        tree.effect,
        tree.principal.clone(),
        ActionConstraint::Any,
        tree.resource.clone(),
    );
    let mut lost = !may_connect(&tree.action);
    for clause in tree.clauses() {
        if looks_at_http(clause) {
            lost = true;
        } else {
            weak.try_add_clause(clause.clone()).ok()?;
        }
    }
    if !lost {
        return Some(None);
    }
    let weak = StaticPolicy::try_from(weak).ok()?;
    Some(Some(Policy::from_pst(pst::Policy::Static(weak)).ok()?))
}

fn may_connect(action: &ActionConstraint) -> bool {
    let connect = |uid: &EntityUID| uid.eid.as_str() == Action::Connect.as_str();
    match action {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => connect(uid),
        ActionConstraint::In(uids) => uids.iter().any(connect),
    }
}

fn looks_at_http(clause: &Clause) -> bool {
    let uses = Uses::of_clause(clause);
    let known = |attribute: &String| CONNECTION.contains(&attribute.as_str());
    uses.whole_context || uses.action || !uses.attributes.iter().all(known)
}

#[cfg(test)]
mod tests;
