//! One evaluation by Cedar, closed when a `forbid` fails: the only place where policies are judged.

use cedar_policy::{
    AuthorizationError, Authorizer, Effect as CedarEffect, Entities, PolicyId, PolicySet, Request,
};
use reeve_core::decision::{Effect, Reason};
use serde::Deserialize;

/// What a `forbid` that fails to evaluate does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnForbidError {
    /// It denies, as in the data path.
    #[default]
    Deny,
    /// It is skipped, as in plain Cedar.
    Skip,
}

/// What the policies said.
#[derive(Debug)]
pub(crate) struct Judgement {
    pub(crate) effect: Effect,
    pub(crate) reason: Reason,
    /// Determining policies, ordered.
    pub(crate) policies: Vec<PolicyId>,
    /// Policies that failed to evaluate, ordered, and why.
    pub(crate) errors: Vec<(PolicyId, String)>,
}

/// Judges `request` by `policies`.
pub(crate) fn judge(
    request: &Request,
    policies: &PolicySet,
    entities: &Entities,
    on_forbid_error: OnForbidError,
) -> Judgement {
    let response = Authorizer::new().is_authorized(request, policies, entities);
    let mut errors = Vec::new();
    let mut failed_forbids = Vec::new();
    for AuthorizationError::PolicyEvaluationError(error) in response.diagnostics().errors() {
        let id = error.policy_id();
        // SECURITY: only a policy known to be a permit can fail without closing.
        if policies.policy(id).map(cedar_policy::Policy::effect) != Some(CedarEffect::Permit) {
            failed_forbids.push(id.clone());
        }
        errors.push((id.clone(), error.inner().to_string()));
    }
    errors.sort();
    failed_forbids.sort();
    let mut determining: Vec<_> = response.diagnostics().reason().cloned().collect();
    determining.sort();
    let allowed = response.decision() == cedar_policy::Decision::Allow;
    let closes = on_forbid_error == OnForbidError::Deny && !failed_forbids.is_empty();
    // INVARIANT: allow needs a satisfied permit, no satisfied forbid, and no forbid that failed.
    let (effect, reason, policies) = match (allowed, closes) {
        (true, false) => (Effect::Allow, Reason::Permitted, determining),
        (false, _) if !determining.is_empty() => (Effect::Deny, Reason::Forbidden, determining),
        (_, true) => (Effect::Deny, Reason::ForbidError, failed_forbids),
        (false, false) => (Effect::Deny, Reason::NoPermit, Vec::new()),
    };
    Judgement {
        effect,
        reason,
        policies,
        errors,
    }
}
