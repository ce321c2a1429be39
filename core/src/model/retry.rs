//! When and how a failed try is repeated.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When a failed try is repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Tries after the first; 0 = none.
    pub attempts: u32,
    /// Bound on one try.
    pub per_try_timeout: Option<Duration>,
    /// Envoy's `retry_on` words, such as `connect-failure`, `refused-stream`, `503`.
    pub on: Vec<String>,
    /// Least wait before a retry, doubled each time up to ten times as much; `None` = 25 ms.
    #[serde(default)]
    pub backoff: Option<Duration>,
    /// `retryIgnorePreviousHosts`: whether endpoints tried already are passed over. `None` = yes, unless the service
    /// is balanced by consistent hash.
    #[serde(default)]
    pub ignore_previous: Option<bool>,
    /// `retryRemoteLocalities`: whether localities tried already are passed over.
    #[serde(default)]
    pub remote_localities: bool,
    /// Whether somebody asked for it, so that a body may be kept for another try.
    #[serde(default)]
    pub explicit: bool,
}

impl Default for RetryPolicy {
    /// Istio's default: 2 retries on failures that reached no application.
    fn default() -> Self {
        let on = [
            "connect-failure",
            "refused-stream",
            "unavailable",
            "cancelled",
        ];
        Self {
            attempts: 2,
            per_try_timeout: None,
            on: on.map(str::to_owned).to_vec(),
            backoff: None,
            ignore_previous: None,
            remote_localities: false,
            explicit: false,
        }
    }
}
