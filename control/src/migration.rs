//! From permissive to strict: what recorded traffic says of each port, in which order ports can be flipped, and what stands
//! in the way of the others.
//!
//! Flow: whoever reads the audit trail hands each inbound decision to [`Observed`], which tells callers apart by identity,
//! else by the workload that held their address then ([`Roster`]), else by network. [`Landscape`] knows what runs, which mode
//! is in force at each port and where that is written. [`stand`](stand()) judges each port from both; [`plan`](plan()) puts those that
//! are ready into waves; [`Landscape::flip`] says how the configuration is edited for one wave, and back. What came out strict can be locked ([`Lock`]).
//!
//! Invariants: nothing here reads a clock, a network or an audit log; a port is ready only if everybody who was allowed in
//! during the window came by mesh mTLS, and the window covers the longest cycle that is known; a plan flips a port only in a
//! wave whose number is above those of the ports that it calls, unless they call each other.

mod edit;
mod evidence;
mod file;
mod landscape;
mod lock;
mod order;
mod planning;
mod roster;
mod stand;
#[cfg(test)]
mod tests;

pub use edit::{Edit, FlipError};
pub use evidence::{Call, Caller, MAX_CALLS, Manner, Observed, Presence, Seen, Spoken};
pub use file::{PlanFile, PlannedWave};
pub use landscape::{Exemption, Landscape, Origin, Port, WatchedPath, WorkloadKey};
pub use lock::{
    Approval, ApprovalRefused, Lock, LockRefused, Locks, MAX_APPROVAL_VALIDITY, SignedApproval,
    UnlockRefused,
};
pub use planning::{Blocked, Plan, Target, Wave, plan};
pub use roster::{Holder, Roster};
pub use stand::{Obstacle, PortStand, Share, Standing, Verdict, Window, stand};
