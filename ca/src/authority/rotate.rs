//! What the operator has rotated.

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{CertificateAuthority, RotateError, RotationCause, State, Waiting, slots::Slot};
use crate::{IdentityEvents, RotationEvent};

/// What an operator may have rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotate {
    /// Everybody's certificates.
    Workloads,
    /// The intermediate, and everybody's certificates.
    Intermediate,
    /// The root: spread, sign, retire.
    Root,
    /// The present step of the root's rotation ends now, whoever has not followed.
    Force,
    /// The root's rotation goes back: the one that signed before does so again, and the new one is retired.
    Back,
    /// The root, at once: nothing under the others is trusted any more.
    Emergency,
}

impl Rotate {
    /// One word for records and people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workloads => "workloads",
            Self::Intermediate => "intermediate",
            Self::Root => "root",
            Self::Force => "force",
            Self::Back => "back",
            Self::Emergency => "emergency",
        }
    }
}

impl CertificateAuthority {
    /// Rotates what the operator asks for; a root's rotation is begun, and goes on with [`maintain`](Self::maintain).
    pub fn rotate(&self, what: Rotate, events: &dyn IdentityEvents) -> Result<(), RotateError> {
        let state = &mut *self.lock();
        let now = self.clock.now();
        self.ensure(state)?;
        let under_way = state.slots.under_way(&self.options, &self.members, now);
        match (what, &under_way) {
            (Rotate::Root | Rotate::Emergency, _) if !state.slots.has_another_root() => {
                let folder = self.options.upstream.clone();
                return Err(RotateError::UpstreamDecides(folder.unwrap_or_default()));
            }
            (Rotate::Root, Some(now)) => return Err(RotateError::UnderWay(now.rotation.step)),
            (Rotate::Force | Rotate::Back, None) => return Err(RotateError::NotUnderWay),
            (Rotate::Back, Some(_)) if !state.slots.can_go_back() => {
                return Err(RotateError::NoWayBack);
            }
            _ => {}
        }
        let forced = under_way.filter(|_| what == Rotate::Force);
        let not_waited_for = forced.map(|now| now.waiting).unwrap_or_default();
        self.change(state, now, |slots, options| match what {
            Rotate::Workloads => {
                slots.order_renewal();
                Ok(())
            }
            Rotate::Intermediate => {
                slots.order_renewal();
                slots.renew_intermediate(options, now)
            }
            Rotate::Root => slots.begin_rotation(options, now, RotationCause::Operator),
            Rotate::Force => slots.next_step(options, now),
            Rotate::Back => slots.go_back(options, now),
            Rotate::Emergency => slots.replace_compromised(options, now),
        })?;
        tell(state, events, Some(what), not_waited_for);
        Ok(())
    }
}

/// Reports a rotation, and who had not followed if a step was ended by force.
pub(super) fn tell(
    state: &State,
    events: &dyn IdentityEvents,
    asked: Option<Rotate>,
    not_waited_for: Waiting,
) {
    let root = state.slots.root(Slot::Active);
    let fingerprint = root.map(|root| hex::encode(digest(&SHA256, &root.certificate)));
    events.rotated(&RotationEvent {
        asked,
        rotation: state.slots.rotation.clone(),
        renewal: state.slots.renewal,
        bundle_sequence: state.slots.sequence,
        root_sha256: fingerprint.unwrap_or_default(),
        not_waited_for,
    });
}
