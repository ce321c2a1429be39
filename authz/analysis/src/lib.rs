//! What recorded decisions tell about policies: replay of a trail against a candidate, and policies from traffic.
//!
//! Flow: [`replay()`] reads a trail by [`reeve_audit::Scan`], takes each decision's question out of its record, asks the
//! [`Candidate`] (the data path's own engine, and the [`Places`] that say where policies bind), and counts in a
//! [`WhatIf`] what would come out otherwise.
//!
//! Invariants:
//! - A request counts as decided otherwise, or the same, only when nothing that the record lacks could change that; else
//!   it is undetermined, and what is missing is named.
//! - Equal questions are asked once per thread, whatever their number.
//! - What is kept in memory is bounded by names, however long the trail is.
//!
//! Deliberately absent: everything that is not decided by policies (mTLS modes, tokens that did not verify, paths that
//! cannot be normalised): it comes out as it did.

mod again;
mod candidate;
#[cfg(test)]
mod fixture;
mod line;
mod replay;
mod seen;
mod shape;
mod suggest;
mod wanted;
mod whatif;

pub use again::{Again, Difference, Sets, again};
pub use candidate::{Candidate, Flip, Place, Places};
pub use replay::{ReplayError, replay};
pub use seen::Example;
pub use suggest::{Groups, SuggestError, Suggestion, Suggestions, suggest};
pub use wanted::Wanted;
pub use whatif::{Answer, Group, WhatIf};
