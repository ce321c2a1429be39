//! Global rate limits: a server for Envoy's rate limit service, v3
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/other_features/rate_limit>).
//!
//! A proxy describes each request by lists of keys and values; [`Limits`] says which of them are limited and how;
//! [`Store`] counts, in memory or in Redis; [`RateLimitServer`] answers. Configuration has the form of Envoy's own
//! reference server (`domain`, `descriptors`), so that what people have can be used as it is. Windows are fixed, as there.
//!
//! A store that cannot count is an error to the caller, never a permit: what the proxy does then is the proxy's to say
//! (`failure_mode_deny`).

mod limits;
mod service;
mod store;

pub use limits::{Limits, LimitsError, RawLimits};
pub use service::RateLimitServer;
pub use store::{Store, StoreError};
