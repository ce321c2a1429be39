//! The HTTP API of the mesh process.
