//! Runs a mesh of local processes and keeps them running.
