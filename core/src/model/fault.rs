//! Faults that a route puts into its traffic on purpose: Istio's `fault`, and what chaos adds to it.

use std::{num::NonZeroU64, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{UnixTime, model::Millionths};

/// Faults of one route, put in by the caller's proxy: delay first, then abort, as Envoy's fault filter does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fault {
    /// Waiting.
    pub delay: Option<DelayFault>,
    /// An answer of the proxy's own instead of the service's.
    pub abort: Option<AbortFault>,
    /// Bytes a second of the response's body.
    pub bandwidth: Option<BandwidthFault>,
    /// When they end by themselves; `None` = with the configuration.
    pub until: Option<UnixTime>,
    /// Whose they are, for `reeve chaos list`: `kind namespace/name`.
    pub origin: String,
}

impl Fault {
    /// What happens, and to how many requests, in words.
    pub fn describe(&self) -> Vec<String> {
        let delay = self.delay.as_ref().map(|delay| {
            let millis = delay.fixed.as_millis();
            format!("delay of {millis} ms for {}", delay.share)
        });
        let abort = self.abort.as_ref().map(|abort| match abort.how {
            Abort::Http(status) => format!("abort with status {status} for {}", abort.share),
            Abort::Grpc(code) => format!("abort with gRPC status {code} for {}", abort.share),
            Abort::Reset => format!("reset for {}", abort.share),
        });
        let bandwidth = self.bandwidth.as_ref().map(|slow| {
            let rate = slow.bytes_per_second;
            format!("{rate} bytes a second for {}", slow.share)
        });
        [delay, abort, bandwidth].into_iter().flatten().collect()
    }

    /// Whether it is over at `now`.
    pub fn is_over(&self, now: UnixTime) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// A delay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelayFault {
    /// How long.
    pub fixed: Duration,
    /// Of how many requests.
    pub share: Millionths,
}

/// An abort.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbortFault {
    /// In which way.
    pub how: Abort,
    /// Of how many requests.
    pub share: Millionths,
}

/// How a request is aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Abort {
    /// With an HTTP status.
    Http(u16),
    /// With a gRPC status.
    Grpc(u16),
    /// By resetting the stream, or closing the connection that carries it.
    Reset,
}

/// A slow response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BandwidthFault {
    /// Bytes a second.
    pub bytes_per_second: NonZeroU64,
    /// Of how many requests.
    pub share: Millionths,
}
