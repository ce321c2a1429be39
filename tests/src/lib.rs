//! What the end-to-end tests in `it/` are made of: a whole mesh of real processes ([`Mesh`]), a folder of
//! configuration for it ([`Folder`]), an HTTP client and a load generator that play the applications' part.
//!
//! A test starts a mesh on addresses and in directories of its own, waits by polling what the mesh says of itself,
//! and always ends what it started. Meshes are heavy, so only one runs at a time, whatever `--test-threads` says.

mod audit;
mod binaries;
mod churn;
mod command;
mod config;
mod crash;
mod folder;
pub mod frames;
mod http_client;
mod junk;
mod jwt;
mod load;
mod mesh;
mod mesh_tls;
mod metrics;
mod outside;
mod poll;
mod raw;
mod scratch;
mod strict;
mod tools;

pub use audit::{assert_gapless, decisions, decisions_of, request_ids};
pub use binaries::binary;
pub use churn::{Report as ChurnReport, Tally, churn};
pub use command::{Outcome, run};
pub use config::{CLIENT_TO_ECHO, echo, local_mesh, mesh_config, permit, service, sidecar, strict};
pub use crash::{CrashReport, crash};
pub use folder::Folder;
pub use http_client::{Answer, Call, Connection, Protocol, Streaming};
pub use junk::{Junk, Thrown};
pub use jwt::{Signer, Token};
pub use load::{Failure, Load, Report, SHED_PATIENCE, Target};
pub use mesh::{Instance, Mesh, Start, alive, turn};
pub use mesh_tls::MeshTls;
pub use outside::TlsClient;
pub use poll::eventually;
pub use raw::{Door, Reply, Wire, exchange};
pub use scratch::{Scratch, as_ordinary_user};
pub use strict::{SeenRequest, StrictBackend};
pub use tools::{test_tool, test_tools};
