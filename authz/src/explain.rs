//! Why a request was answered as it was, for operators.

use reeve_core::{
    PolicyId,
    decision::{Decision, Effect},
    model::PolicyMode,
};
use serde::{Deserialize, Serialize};

/// A decision and what each candidate policy said. Policies scoped to other namespaces are not candidates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The decision itself.
    pub decision: Decision,
    /// Every candidate policy, those nearest to applying first.
    pub policies: Vec<PolicyVerdict>,
}

/// What one policy said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyVerdict {
    /// Which policy.
    pub id: PolicyId,
    /// `permit` (allow) or `forbid` (deny).
    pub effect: Effect,
    /// Whether it binds or is only recorded.
    pub mode: PolicyMode,
    /// Whether it applied.
    pub verdict: Verdict,
    /// Parts that held, of `parts`.
    pub matched: usize,
    /// Parts of the policy: three of its scope, and each condition.
    pub parts: usize,
    /// The first part that did not hold, as Cedar text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// The evaluation error, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its source.
    pub text: String,
}

/// Whether a policy applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It applied.
    Satisfied,
    /// It did not.
    Unsatisfied,
    /// It failed to evaluate.
    Error,
}
