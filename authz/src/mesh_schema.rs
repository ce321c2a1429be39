//! The one schema that every policy is validated against.

/// The mesh's Cedar schema in its human-readable form (`policies/mesh.cedarschema`).
pub fn schema() -> &'static str {
    include_str!("../../policies/mesh.cedarschema")
}
