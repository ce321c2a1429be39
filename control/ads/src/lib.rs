//! How proxies are fed: Envoy's incremental ("delta") aggregated discovery service, carrying Reeve's own resources.
//!
//! The transport is xDS (<https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol>, "Incremental xDS"):
//! one stream, a subscription per resource type, versions, nonces, ACK and NACK. The resources are those of
//! [`reeve_core::model::Resource`], as JSON, under the type URLs of [`type_url`].
//!
//! Flow: the control plane implements [`ConfigSource`]; [`AdsService`] sends each proxy what changed between the
//! generation it holds and the newest one, kind by kind in [`reeve_core::model::ResourceKind::ALL`]'s order, the generation itself last.
//! [`AdsClient`] collects, and hands the whole configuration over when the generation arrives, so that a proxy
//! switches at one point; what it answers travels back as ACK or NACK and ends in [`ConfigSource::report`].
//!
//! Beside it, proxies share which circuits they hold open ([`CircuitClient`], [`CircuitHub`]): that is no configuration
//! and makes no generation. And they say which token issuers' keys they lack ([`KeyClient`], [`KeyService`]): keys are part
//! of a configuration, and come with the next generation.
//!
//! Invariants:
//! - A proxy is only ever given a whole generation, never a mix of two.
//! - A refused generation (NACK) leaves the proxy with what it had; the next one is sent as a difference to what was
//!   *received*, so nothing is lost.
//! - One generation is in flight per proxy; a newer one waits, and one that is overtaken while waiting is never sent.
//! - A caller is known by its certificate alone; the node name in the stream only says which of its instances it is.

mod circuits;
mod client;
mod keys;
mod server;
mod wire;

pub use circuits::{CircuitClient, CircuitHub, CircuitService, Membership};
pub use client::{AdsClient, AdsStatus, ChannelFactory};
pub use keys::{KeyClient, KeyService};
pub use server::{AckReport, AdsService, ConfigSource, Refused};
pub use wire::{WireError, type_url};

/// Largest message either side takes.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

#[cfg(test)]
mod tests;
