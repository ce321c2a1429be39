//! The rotation of a root, step by step: spread the new one, sign with it, retire the old one.
//!
//! Each step waits for every live member, by name (design.md, "Identity"): nobody is shown a certificate under a root
//! that it does not trust yet, and no root leaves the bundles before the last certificate under it has ended, and with it
//! the last connection (which never outlives the certificates it was made with). A member whose certificate has ended is
//! not waited for. Who cannot acknowledge (users of the Workload API or SDS, other trust
//! domains) gets [`CaOptions::consumer_wait`] at each step.

use reeve_core::UnixTime;
use serde::{Deserialize, Serialize};

use super::{
    CaError, CaOptions,
    jwt::JwtSigners,
    slots::{Slot, Slots},
};
use crate::members::{Members, Want};

/// The rotation of a root under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Why.
    pub cause: RotationCause,
    /// Since when.
    pub began_at: UnixTime,
    /// Where it stands.
    pub step: RotationStep,
    /// Since when it stands there.
    pub step_since: UnixTime,
}

/// Why a root is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationCause {
    /// Half of its life is over.
    Due,
    /// The operator asked for it.
    Operator,
    /// Its key is in other hands: nothing under it is trusted any more.
    Emergency,
    /// The operator wants the one of before: the new one is retired.
    Back,
    /// The operator's own authority has come, changed or gone.
    Upstream,
}

impl RotationCause {
    /// One word for records, metrics and people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Operator => "operator",
            Self::Emergency => "emergency",
            Self::Back => "back",
            Self::Upstream => "upstream",
        }
    }
}

/// A step of a rotation; each ends when all members have followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationStep {
    /// The new root stands in every bundle; the old one signs.
    Spread,
    /// The new root signs, and everybody renews.
    Renew,
    /// The old root has left the bundle.
    Retire,
}

impl RotationStep {
    /// One word for records, metrics and people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spread => "spread",
            Self::Renew => "renew",
            Self::Retire => "retire",
        }
    }
}

/// What a step still waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Members that have not followed, by name, at most a hundred.
    pub members: Vec<String>,
    /// How many they are.
    pub count: usize,
    /// Until when it waits at least: for those who cannot acknowledge, and for old certificates and their connections.
    pub until: Option<UnixTime>,
}

/// A rotation under way, and what its present step waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationStatus {
    /// Where it stands.
    #[serde(flatten)]
    pub rotation: Rotation,
    /// For whom and until when.
    pub waiting: Waiting,
}

impl Waiting {
    /// Whether there is nothing to wait for.
    pub fn is_over(&self) -> bool {
        self.count == 0 && self.until.is_none()
    }
}

impl Slots {
    /// Spreads a new root.
    pub(super) fn begin_rotation(
        &mut self,
        options: &CaOptions,
        now: UnixTime,
        cause: RotationCause,
    ) -> Result<(), CaError> {
        self.add_root(options, now, Slot::Prepared)?;
        self.sequence = self.sequence.saturating_add(1);
        self.enter(RotationStep::Spread, now, cause);
        Ok(())
    }

    /// A new root at once, and none of the others trusted: after a compromise.
    pub(super) fn replace_compromised(
        &mut self,
        options: &CaOptions,
        now: UnixTime,
    ) -> Result<(), CaError> {
        self.retire(|_| true);
        // They lay beside the root's.
        self.jwt = JwtSigners::default();
        self.rotation = None;
        self.add_root(options, now, Slot::Active)?;
        self.sequence = self.sequence.saturating_add(1);
        self.renew_intermediate(options, now)?;
        self.order_renewal();
        self.enter(RotationStep::Retire, now, RotationCause::Emergency);
        Ok(())
    }

    /// Ends the present step, whoever has not followed.
    pub(super) fn next_step(&mut self, options: &CaOptions, now: UnixTime) -> Result<(), CaError> {
        let Some(Rotation { step, cause, .. }) = self.rotation.clone() else {
            return Ok(());
        };
        match step {
            RotationStep::Spread => {
                // It may sign already, if the old one ended meanwhile.
                self.activate_prepared();
                self.renew_intermediate(options, now)?;
                self.order_renewal();
                self.enter(RotationStep::Renew, now, cause);
            }
            RotationStep::Renew => {
                self.retire(|root| root.slot == Slot::Old);
                self.sequence = self.sequence.saturating_add(1);
                self.enter(RotationStep::Retire, now, cause);
            }
            RotationStep::Retire => self.rotation = None,
        }
        Ok(())
    }

    /// Whether the root that signed before the rotation can sign again.
    pub(super) fn can_go_back(&self) -> bool {
        let rotation = self.rotation.as_ref();
        let began = rotation.is_some_and(|r| r.cause != RotationCause::Back);
        let slot = match rotation.map(|r| r.step) {
            Some(RotationStep::Spread) => Slot::Prepared,
            Some(RotationStep::Renew) => Slot::Old,
            Some(RotationStep::Retire) | None => return false,
        };
        began && self.root(slot).is_some()
    }

    /// The root that signed before signs again. What the new one has signed is renewed and ends as in a rotation; then the
    /// new one is retired.
    pub(super) fn go_back(&mut self, options: &CaOptions, now: UnixTime) -> Result<(), CaError> {
        match self.rotation.as_ref().map(|r| r.step) {
            Some(RotationStep::Spread) => {
                self.retire(|root| root.slot == Slot::Prepared);
                self.sequence = self.sequence.saturating_add(1);
                self.enter(RotationStep::Retire, now, RotationCause::Back);
            }
            Some(RotationStep::Renew) => {
                for root in &mut self.roots {
                    root.slot = match root.slot {
                        Slot::Old => Slot::Active,
                        Slot::Active | Slot::Prepared => Slot::Old,
                    };
                }
                self.renew_intermediate(options, now)?;
                self.order_renewal();
                self.enter(RotationStep::Renew, now, RotationCause::Back);
            }
            Some(RotationStep::Retire) | None => {}
        }
        Ok(())
    }

    /// Has everybody renew.
    pub(super) fn order_renewal(&mut self) {
        self.renewal = self.renewal.saturating_add(1);
    }

    fn enter(&mut self, step: RotationStep, now: UnixTime, cause: RotationCause) {
        let began_at = self.rotation.as_ref().map_or(now, |r| r.began_at);
        self.rotation = Some(Rotation {
            cause,
            began_at,
            step,
            step_since: now,
        });
    }

    /// How the rotation stands, if one is under way.
    pub(super) fn under_way(
        &self,
        options: &CaOptions,
        members: &Members,
        now: UnixTime,
    ) -> Option<RotationStatus> {
        let rotation = self.rotation.clone()?;
        let want = match (rotation.step, rotation.cause) {
            (RotationStep::Renew, _) | (RotationStep::Retire, RotationCause::Emergency) => {
                Want::Renewal(self.renewal)
            }
            (RotationStep::Spread | RotationStep::Retire, _) => Want::Bundle(self.sequence),
        };
        let lagging = members.lagging(want, now);
        let stated = match rotation.step {
            RotationStep::Spread | RotationStep::Renew => {
                rotation.step_since.plus(options.consumer_wait)
            }
            RotationStep::Retire => now,
        };
        let in_use = match rotation.step {
            RotationStep::Renew => members.ended_at(self.renewal),
            RotationStep::Spread | RotationStep::Retire => now,
        };
        let until = stated.max(in_use).max(members.settled_at());
        let waiting = Waiting {
            members: lagging.named,
            count: lagging.count,
            until: (until > now).then_some(until),
        };
        Some(RotationStatus { rotation, waiting })
    }
}

#[cfg(test)]
mod tests;
