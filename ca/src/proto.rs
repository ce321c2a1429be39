//! Generated protocol types.

/// `reeve.ca.v1`.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated"
)]
pub mod issuer {
    tonic::include_proto!("reeve.ca.v1");
}

/// The SPIFFE Workload API, which has no package name.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated"
)]
pub mod workload {
    tonic::include_proto!("_");
}
