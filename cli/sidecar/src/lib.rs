//! The sidecar: identity, configuration feed, proxy, write-ahead log and their interfaces in one process.
//!
//! Flow: [`run()`] hardens the process, binds its sockets, opens the write-ahead log, and starts the agent (certificate),
//! the feed (configuration), the proxy and shipping (records). Each goes on by itself; none needs the mesh process to
//! be alive.
//!
//! Invariants: the key is made in memory and stays there; the mesh process must show its own identity before anything
//! it says is believed; a configuration of another workload is refused.

mod admin;
mod agent;
mod args;
mod connect;
mod data_plane;
mod handover;
pub mod hardening;
pub mod logging;
pub mod process_metrics;
pub mod renewal_metrics;
mod run;
mod signer;
pub mod socket;
mod sockets;
pub mod whois;

pub use admin::{
    break_glass::{BreakGlassDoor, BreakGlassPlace, routes as break_glass_routes},
    serve as serve_admin,
};
pub use agent::{AgentEvents, bundle_from, join_token_from};
pub use args::{AuditLevel, SidecarArgs};
pub use connect::MeshConnector;
pub use run::{Sidecar, run};
pub use signer::{SvidBatchVerifier, SvidSigner};
