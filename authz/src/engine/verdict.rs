//! Judging candidates one by one, each once, and putting their answers together.
//!
//! Cedar's evaluator decides whether a policy holds; what a set of them means is Cedar's rule (any `forbid` wins, else
//! any `permit`) with one addition: a `forbid` that fails to evaluate closes. A property test compares the whole with
//! Cedar's own authorizer.

use cedar_policy_core::{
    ast::{Literal, Request, SlotEnv, ValueKind},
    entities::Entities,
    evaluator::Evaluator,
    extensions::Extensions,
};
use reeve_core::{
    PolicyId,
    decision::{Decision, Effect, PolicyError, Reason},
    model::PolicyMode,
};

use crate::compile::Compiled;

/// A policy that holds, or failed to evaluate.
struct Heard<'a> {
    policy: &'a Compiled,
    error: Option<String>,
}

/// Judges `candidates`, which are ordered by id.
pub(super) fn judge(candidates: &[&Compiled], request: Request, entities: &Entities) -> Decision {
    let evaluator = Evaluator::new(request, entities, Extensions::all_available());
    let slots = SlotEnv::new();
    let heard: Vec<_> = candidates
        .iter()
        .filter_map(|policy| {
            let answer = evaluator.interpret(&policy.condition, &slots);
            let error = match answer.map(|value| value.value) {
                Ok(ValueKind::Lit(Literal::Bool(true))) => None,
                Ok(ValueKind::Lit(Literal::Bool(false))) => return None,
                // A conjunction is never of another type; if it were, it would be no answer.
                Ok(other) => Some(format!("{other} is not a Boolean")),
                Err(e) => Some(e.to_string()),
            };
            Some(Heard { policy, error })
        })
        .collect();
    let binds = |h: &&Heard<'_>| h.policy.source.mode == PolicyMode::Enforce;
    let mut decision = combine(heard.iter().filter(binds));
    if !heard.iter().all(|h| binds(&h)) {
        let other = combine(heard.iter());
        if other.effect != decision.effect {
            decision.shadow = Some(Box::new(other));
        }
    }
    decision
}

fn combine<'a>(heard: impl Iterator<Item = &'a Heard<'a>>) -> Decision {
    let (mut permits, mut forbids, mut failed_forbids) = (Vec::new(), Vec::new(), Vec::new());
    let mut errors = Vec::new();
    for Heard { policy, error } in heard {
        let id = policy.source.id.clone();
        if let Some(message) = error {
            errors.push(PolicyError {
                policy: id.clone(),
                message: message.clone(),
            });
        }
        match (policy.effect(), error) {
            (Effect::Allow, None) => permits.push(id),
            (Effect::Allow, Some(_)) => {}
            (Effect::Deny, None) => forbids.push(id),
            (Effect::Deny, Some(_)) => failed_forbids.push(id),
        }
    }
    // INVARIANT: allow needs a satisfied permit, no satisfied forbid, and no forbid that failed.
    let (effect, reason, policies): (_, _, Vec<PolicyId>) = match (
        permits.is_empty(),
        forbids.is_empty(),
        failed_forbids.is_empty(),
    ) {
        (_, false, _) => (Effect::Deny, Reason::Forbidden, forbids),
        (_, true, false) => (Effect::Deny, Reason::ForbidError, failed_forbids),
        (false, true, true) => (Effect::Allow, Reason::Permitted, permits),
        (true, true, true) => (Effect::Deny, Reason::NoPermit, Vec::new()),
    };
    Decision {
        effect,
        reason,
        policies,
        errors,
        asked: Vec::new(),
        shadow: None,
    }
}
