//! What is wrong with a policy, said the way Cedar says it: where, what, and what to do.

use std::fmt;

use reeve_core::PolicyId;
use serde::{Deserialize, Serialize};

/// One fault of one policy. Lines and columns count from 1, in the text that was handed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFault {
    /// The policy, or the document's own id when no single policy can be named.
    pub policy: PolicyId,
    /// What is wrong.
    pub message: String,
    /// Line of the fault.
    pub line: usize,
    /// Column of the fault, in characters.
    pub column: usize,
    /// The faulty line of text, without its line break.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snippet: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl fmt::Display for PolicyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.policy, self.line, self.column, self.message
        )
    }
}

impl std::error::Error for PolicyFault {}
