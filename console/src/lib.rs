//! The HTTP API of the mesh process.
//!
//! Flow: the mesh process implements [`MeshView`]; [`api()`] serves what operators read, over TCP; [`admin()`] serves what
//! changes something, over the mesh's Unix socket only.
//!
//! Invariants: nothing that is served over TCP changes anything or shows a secret; answers about errors name what the
//! operator did wrong and nothing else.

mod admin;
mod api;
mod graph;
mod status;

pub use admin::{
    AdminView, ChaosRequest, CreatedToken, DrillNote, FaultRequest, LockRequest, MigrationNote,
    RevokeRequest, RotateRequest, TokenRefused, TokenRequest, TrailRead, UnlockRequest, admin,
};
pub use api::{MeshView, api};
pub use graph::{Edge, Graph, Node, NodeKind};
pub use status::{AuditFacts, CaFacts, ConfigFacts, JobDone, MeshFacts, ReplicaFacts, Status};

#[cfg(test)]
mod tests;
