//! Transformations, whose requests and responses they change, and how they stand.

use std::time::Duration;

use reeve_core::{ServiceName, UnixTime, model::Transformation};
use serde::{Deserialize, Serialize};

use super::{LocalWorkload, Mesh, Scope};

/// How long before its end a transformation is warned of.
pub(crate) const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// A `Transformation` and its workloads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TargetedTransformation {
    pub(crate) targets: Vec<Target>,
    pub(crate) rule: Transformation,
}

/// Whose requests and responses are changed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Target {
    /// Those of workloads picked by labels or namespace.
    Scope(Scope),
    /// Those of the workloads behind a service.
    Service(ServiceName),
}

/// A transformation as `reeve config transforms` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedTransformation {
    /// `namespace/name`.
    pub name: String,
    /// Who answers for it.
    pub owner: String,
    /// From then on it does nothing.
    pub expires: UnixTime,
    /// How it stands.
    pub state: TransformationState,
    /// The workloads that it concerns, as `namespace/name`.
    pub workloads: Vec<String>,
    /// What it does, in words.
    pub changes: Vec<String>,
}

/// How a transformation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransformationState {
    /// It acts.
    Active,
    /// It acts, for less than 14 days.
    ExpiresSoon,
    /// It is over, and does nothing.
    Expired,
}

impl TransformationState {
    /// Of one that ends at `expires`.
    pub fn at(now: UnixTime, expires: UnixTime) -> Self {
        if expires <= now {
            Self::Expired
        } else if expires.since(now) < EXPIRES_SOON {
            Self::ExpiresSoon
        } else {
            Self::Active
        }
    }
}

impl Mesh {
    /// Every transformation, in the order in which they act.
    pub fn transformations(&self, now: UnixTime) -> Vec<ListedTransformation> {
        let listed = |one: &TargetedTransformation| {
            let concerned = self.workloads.iter().filter(|w| self.concerns(one, w));
            ListedTransformation {
                name: one.rule.name.clone(),
                owner: one.rule.owner.clone(),
                expires: one.rule.expires,
                state: TransformationState::at(now, one.rule.expires),
                workloads: concerned
                    .map(|w| format!("{}/{}", w.namespace, w.name))
                    .collect(),
                changes: one.rule.describe(),
            }
        };
        self.transformations.iter().map(listed).collect()
    }

    /// Those that concern `workload`.
    pub(crate) fn transformations_of(&self, workload: &LocalWorkload) -> Vec<Transformation> {
        let all = self.transformations.iter();
        let own = all.filter(|one| self.concerns(one, workload));
        own.map(|one| one.rule.clone()).collect()
    }

    fn concerns(&self, one: &TargetedTransformation, workload: &LocalWorkload) -> bool {
        one.targets.iter().any(|target| match target {
            Target::Scope(scope) => scope.covers(workload),
            Target::Service(name) => {
                let service = self.services.get(name);
                service.is_some_and(|service| service.selects(workload))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_end_tells_how_it_stands() {
        let day = Duration::from_secs(24 * 3600);
        let now = UnixTime::from_secs(1_000_000_000);
        let state = |expires| TransformationState::at(now, expires);
        assert_eq!(state(now), TransformationState::Expired);
        assert_eq!(state(now.minus(day)), TransformationState::Expired);
        assert_eq!(state(now.plus(day)), TransformationState::ExpiresSoon);
        assert_eq!(state(now.plus(EXPIRES_SOON)), TransformationState::Active);
    }
}
