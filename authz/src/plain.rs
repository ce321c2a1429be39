//! Cedar's own authorizer over a whole policy set: what the engine is held against, by property tests and benchmarks.

use std::sync::Arc;

use cedar_policy::{Policy, PolicySet};
use reeve_core::{
    Namespace, PolicyId, TrustDomain, UnixTime,
    decision::{AccessRequest, Decision, PolicyError},
    model::{PolicyMode, PolicySlice},
};

use crate::{
    check::parse_until,
    entities::{Ground, Looks, Question},
    judge::{self, OnForbidError},
    mesh_schema::MeshSchema,
    store::Store,
    uses::Uses,
};

/// Every policy that concerns one namespace's resources at one time, none of them left out for what it says.
#[derive(Debug)]
pub struct Plain {
    mesh: Arc<MeshSchema>,
    store: Store,
    uses: Uses,
    enforced: PolicySet,
    /// With shadow policies, if there are any.
    all: Option<PolicySet>,
}

/// A request in Cedar's terms, so that asking is all that is left to do.
#[derive(Debug)]
pub struct PlainQuestion(Question);

impl Plain {
    /// Those of `slice` that are asked about resources of `namespace` at `now`.
    pub fn new(slice: &PolicySlice, namespace: &Namespace, now: UnixTime) -> Result<Self, String> {
        let mesh = MeshSchema::extended(&slice.schema).map_err(|all| format!("{all:?}"))?;
        let store = Store::new(&mesh, &slice.entities).map_err(|all| format!("{all:?}"))?;
        let mut this = Self {
            mesh,
            store,
            uses: Uses {
                whole_context: true,
                hierarchy: true,
                ..Uses::default()
            },
            enforced: PolicySet::new(),
            all: None,
        };
        let concerned = slice.policies.iter().filter(|policy| {
            let scope = policy.scope.as_ref();
            scope.is_none_or(|scope| scope == namespace)
        });
        let mut shadow = Vec::new();
        for source in concerned {
            let id = cedar_policy::PolicyId::new(source.id.as_str());
            let policy = Policy::parse(Some(id), &source.text).map_err(|e| e.to_string())?;
            let until = policy.annotation("until").and_then(parse_until);
            if until.is_some_and(|until| until <= now) {
                continue;
            }
            let tree = policy.to_pst().map_err(|e| e.to_string())?;
            this.uses
                .merge(Uses::of(tree.body()).with_claims_of(&this.mesh));
            if source.mode == PolicyMode::Shadow {
                shadow.push(policy);
            } else {
                this.enforced.add(policy).map_err(|e| e.to_string())?;
            }
        }
        if !shadow.is_empty() {
            let mut all = this.enforced.clone();
            for policy in shadow {
                all.add(policy).map_err(|e| e.to_string())?;
            }
            this.all = Some(all);
        }
        Ok(this)
    }

    /// Puts `request` in Cedar's terms, with everything that any of the policies names.
    pub fn question(
        &self,
        request: &AccessRequest,
        home: Option<&TrustDomain>,
    ) -> Result<PlainQuestion, String> {
        let ground = Ground {
            mesh: &self.mesh,
            home,
            store: &self.store,
        };
        let question = Question::new(ground, Looks(&[&self.uses]), request);
        question.map(PlainQuestion).map_err(|e| e.to_string())
    }

    /// What Cedar says, closed when a `forbid` fails.
    pub fn decide(&self, question: &PlainQuestion) -> Decision {
        let mut decision = judged(&self.enforced, &question.0);
        if let Some(all) = &self.all {
            let other = judged(all, &question.0);
            if other.effect != decision.effect {
                decision.shadow = Some(Box::new(other));
            }
        }
        decision
    }
}

fn judged(set: &PolicySet, question: &Question) -> Decision {
    let (request, entities) = (&question.request, &question.entities);
    let judged = judge::judge(request, set, entities, OnForbidError::Deny);
    let known = |id: &cedar_policy::PolicyId| PolicyId::parse(id.as_ref()).ok();
    let errors = judged.errors.iter().filter_map(|(id, message)| {
        Some(PolicyError {
            policy: known(id)?,
            message: message.clone(),
        })
    });
    Decision {
        effect: judged.effect,
        reason: judged.reason,
        policies: judged.policies.iter().filter_map(known).collect(),
        errors: errors.collect(),
        asked: Vec::new(),
        shadow: None,
    }
}
