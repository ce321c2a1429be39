//! Local rate limits: how many requests a workload takes, of each caller or of all together.

use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};

use crate::model::RouteMatch;

/// One limit, kept by the workload's own proxy for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// For people: `namespace/object/limit`.
    pub name: String,
    /// Requests that it counts.
    #[serde(default)]
    pub when: RouteMatch,
    /// Whose requests count together.
    pub per: RateKey,
    /// So many …
    pub requests: NonZeroU32,
    /// … in that time; as many may come at once.
    pub every: Duration,
}

/// Whose requests count together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateKey {
    /// Everybody's.
    All,
    /// Those of one verified identity; of callers without one, those of one address.
    Identity,
    /// Those of tokens with the same value of this claim; those without a token count together.
    Claim(String),
}
