//! Proofs about policies, for all requests at once: Cedar's symbolic compiler, and the solver cvc5 in a process of its
//! own.
//!
//! Flow: a mesh's [`Policies`] and a [`Property`] become questions "is there a request that one set allows and the other
//! does not", one per type of principal, action and type of resource. The solver answers no (the property is proved),
//! yes with a model of such a request, or that it does not know. A model is turned into a concrete request, which the
//! data path's engine must judge as the solver claims; one that it judges otherwise proves nothing.
//!
//! Invariants:
//! - A property holds only when the solver has ruled out every type of request.
//! - A counterexample is a request that can be sent, and that our engine answers as shown.
//! - Where our engine is stricter than Cedar (a `forbid` that fails denies), what is proved holds for the engine.
//!
//! Worlds that cannot be (a workload of two namespaces, mTLS without an identity) are left out by conditions stated in
//! Cedar itself (`world.rs`).

mod hunt;
mod known;
mod literals;
mod policies;
mod property;
mod verifier;
mod witness;
mod world;

pub use policies::Policies;
pub use property::{Answer, Counterexample, Property};
pub use verifier::{Solver, Verifier, VerifyError};
pub use world::World;

#[cfg(test)]
mod tests;
