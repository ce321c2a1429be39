//! The parts of `reeve demo`: Bookinfo's folder, its visitors, and what is shown of the mesh.

pub(crate) mod folder;
pub(crate) mod latency;
pub(crate) mod processes;
pub(crate) mod prometheus;
pub(crate) mod summary;
pub(crate) mod table;
pub(crate) mod traffic;
pub(crate) mod view;
