//! Component tests: pairs of whole proxies on loopback sockets, with certificates of a real authority.

mod addresses;
mod break_glass;
mod chaos;
mod connect;
mod connections;
mod edges;
mod gap;
mod grpc;
mod http;
mod lifecycle;
mod max_requests;
mod mesh;
mod mirror;
mod overload;
mod policies;
mod redaction;
mod refusals;
mod resilience;
mod resumption;
mod rotation;
mod shares;
mod shouts;
mod sim;
mod strictness;
mod tcp;
mod token;
mod trailers;
mod transform;
mod upgrades;

/// A snapshot with nothing in it.
pub(crate) fn snapshot() -> crate::Snapshot {
    let config = mesh::config(workload(), &[]);
    crate::Snapshot::compile(std::sync::Arc::new(config)).unwrap()
}

/// A workload of no particular kind, for tests of what needs one.
pub(crate) fn workload() -> reeve_core::model::WorkloadConfig {
    mesh::Mesh::new().workload("client", 101)
}
