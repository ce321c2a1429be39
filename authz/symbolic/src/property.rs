//! What is to be proved, and what comes of it.

use reeve_core::{
    PolicyId,
    decision::{AccessRequest, Decision},
};
use serde::Serialize;

use crate::Policies;

/// Something that may hold of every request.
#[derive(Clone, Debug)]
pub enum Property {
    /// What this permit describes is never allowed.
    Never(Policies),
    /// What this permit describes is always allowed.
    Always(Policies),
    /// Everything that is allowed is allowed by these policies, too.
    NoMoreThan(Policies),
    /// Exactly what these policies allow is allowed.
    SameAs(Policies),
    /// Some request is answered otherwise because this policy is there.
    Matters(PolicyId),
    /// This policy can be evaluated for every request.
    NeverFails(PolicyId),
}

/// What came of trying to prove a property.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// It holds, for every request that can be.
    Holds,
    /// It does not; absent where only the proof of the opposite was found (a policy that changes nothing).
    Fails {
        /// A request for which it does not hold.
        #[serde(skip_serializing_if = "Option::is_none")]
        counterexample: Option<Box<Counterexample>>,
    },
    /// It is not known, and why.
    Unknown {
        /// Why.
        why: String,
    },
}

/// A request that shows that a property does not hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Counterexample {
    /// The request, as the records of the audit log hold it.
    pub request: AccessRequest,
    /// What the policies answer to it.
    pub decision: Decision,
    /// The attributes of the context that policies look at; the others may be anything.
    pub looked_at: Vec<String>,
}
