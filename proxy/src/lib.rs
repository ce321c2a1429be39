//! The data plane: listeners, mesh TLS, HTTP and TCP, routing, balancing, decisions enforced and recorded.
//!
//! Flow: a [`ProxyConfig`](reeve_core::model::ProxyConfig) is compiled into a [`Snapshot`] and applied to the
//! [`Proxy`], which binds listeners. The life of one request or connection is in `life.rs`, top to bottom.
//!
//! Invariants:
//! - Nothing is forwarded without a `Permit`; no `Permit` without a record, save to a mesh proxy that judges itself.
//! - What is judged, matched and sent is one head with one normalised path.
//! - A request takes one snapshot and sees no other generation.
//! - No connection outlives its credentials; open streams are judged again with every snapshot.
//! - A connection stays on one worker thread; on the way of a request no two workers share a lock.
//! - Bodies stream; every queue, cache and label set is bounded in `limits.rs`; peer input never panics.
//!
//! Deliberately absent: Cedar types, Kubernetes, wire formats of configuration.

mod accepting;
mod access_log;
mod admin;
mod admission;
mod ahead;
mod answer;
mod app_metrics;
mod arrival;
mod balance;
mod bitten;
mod body;
mod break_glass;
mod breaker;
mod busy;
mod callers;
mod capture;
mod chance;
mod circuits;
mod cluster;
mod connect;
mod cork;
mod credentials;
mod deadline;
mod detect;
mod dns;
mod edge;
mod elsewhere;
mod end;
mod exchange;
pub mod explain;
mod external;
mod farewell;
mod fault;
mod forward;
mod forwarded;
mod framing;
mod gap;
mod gate;
mod gateway;
mod gauge;
mod global_limit;
mod head;
mod headers;
mod hello;
mod inherited;
pub mod inquiry;
mod introduction;
mod io;
mod judge;
mod ledger;
mod life;
mod limits;
mod linger;
mod listener;
mod local;
mod messages;
mod metrics;
mod mirror;
mod net;
mod open;
mod outlier;
mod overrun;
mod path;
mod peer_info;
mod permit;
mod pool;
mod pressure;
mod proxy;
mod proxy_protocol;
mod query;
mod rate_limit;
mod relay;
mod retired;
mod route;
mod seldom;
mod shadow;
mod snapshot;
mod spans;
mod strangers;
mod tap;
mod tcp;
#[cfg(test)]
mod tests;
mod trace;
mod transform;
mod trust;
mod unproven;
mod upgrade;
mod worker;

pub use break_glass::{BreakGlassAsked, BreakGlassGrant, BreakGlassRefused, Grants, Witness};
pub use explain::{ExplainRequest, ExplainedAsking, Explanation};
pub use judge::HeadReader;
pub use path::{PathError, normalize};
pub use proxy::{ApplyError, MeshPorts, Proxy, ProxyDeps, ProxyStatus, StartError, SwitchError};
pub use route::RouteError;
pub use seldom::Seldom;
pub use snapshot::{Snapshot, SnapshotError};
pub use tap::{TapFilter, TapRefused, TapStream};
pub use worker::Workers;
