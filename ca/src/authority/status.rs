//! What an operator may know of an authority.

use std::sync::atomic::Ordering;

use reeve_core::{TrustDomain, UnixTime};
use serde::Serialize;

use super::{
    CertificateAuthority, ClockStep, CustodyStatus, RotationStatus,
    slots::{Authority, Slot},
};

/// What an operator may know of the authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuthorityStatus {
    /// Whose identities it issues.
    pub trust_domain: TrustDomain,
    /// Sequence of the trust bundle.
    pub bundle_sequence: u64,
    /// How many roots the bundle holds.
    pub roots: usize,
    /// The rotation of the root under way, and what its present step waits for.
    pub rotation: Option<RotationStatus>,
    /// Counts the times that everybody was told to renew.
    pub renewal: u64,
    /// End of the root that signs.
    pub root_not_after: UnixTime,
    /// End of the intermediate that signs.
    pub intermediate_not_after: UnixTime,
    /// Every authority, and when it ends.
    pub authorities: Vec<AuthorityEnd>,
    /// Where the keys are.
    pub custody: CustodyStatus,
    /// Certificates issued since the start of this process.
    pub issued: u64,
    /// The step that the clock made a moment ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_step: Option<ClockStep>,
}

/// An authority and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AuthorityEnd {
    /// `root` or `intermediate`.
    pub kind: &'static str,
    /// `prepared`, `active` or `old`.
    pub slot: &'static str,
    /// The last second at which it is valid.
    pub not_after: UnixTime,
    /// Where its key is: `memory` (and the sealed file), `token` or `upstream`.
    pub key: &'static str,
}

impl CertificateAuthority {
    /// What an operator may know.
    pub fn status(&self) -> AuthorityStatus {
        let state = self.lock();
        let now = self.clock.now();
        let end = |a: Option<&Authority>| a.map(|a| a.not_after).unwrap_or_default();
        AuthorityStatus {
            trust_domain: self.options.trust_domain.clone(),
            bundle_sequence: state.slots.sequence,
            roots: state.slots.roots.len(),
            rotation: state.slots.under_way(&self.options, &self.members, now),
            renewal: state.slots.renewal,
            root_not_after: end(state.slots.root(Slot::Active)),
            intermediate_not_after: end(state.slots.intermediate.as_ref()),
            authorities: state.slots.ends(),
            custody: state.custody.status(&state.slots),
            issued: self.issued.load(Ordering::Relaxed),
            clock_step: state.steps.status(),
        }
    }
}
