//! One Cedar evaluation on given policies, schema, entities and request, all in Cedar's own JSON or text forms.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What to evaluate.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalInput {
    /// Cedar text, or Cedar's JSON policy set.
    pub policies: Value,
    /// Cedar schema text or JSON; absent = no validation.
    #[serde(default)]
    pub schema: Option<Value>,
    /// Cedar's JSON array of entities.
    #[serde(default)]
    pub entities: Option<Value>,
    /// `{principal, action, resource, context}`.
    pub request: Value,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EvalOutput {
    /// `allow` or `deny`.
    pub decision: reeve_core::decision::Effect,
    /// Ids of the determining policies, sorted.
    pub reasons: Vec<String>,
    /// Policies that failed to evaluate.
    pub errors: Vec<EvalError>,
    /// Findings of strict validation.
    pub validation: Vec<EvalError>,
}

/// A message about one policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EvalError {
    /// Which policy.
    pub policy: String,
    /// What happened.
    pub message: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum EvalFault {
    /// A part of the input cannot be read.
    #[error("{part}: {message}")]
    Input {
        /// `policies`, `schema`, `entities` or `request`.
        part: &'static str,
        /// What is wrong.
        message: String,
    },
}

/// Evaluates.
pub fn eval(input: &EvalInput) -> Result<EvalOutput, EvalFault> {
    let _ = input;
    Err(EvalFault::Input {
        part: "policies",
        message: "not yet".into(),
    })
}
