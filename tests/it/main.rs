//! End-to-end tests: the mesh must prove itself. See `README.md` for how to run them.

mod bad_input;
mod churn;
mod demo;
mod fixture;
mod full_disk;
mod h2_abuse;
mod hostile;
mod intercept;
mod interop;
mod jobs;
mod jwt;
mod mesh_outage;
mod mtls;
mod policy;
mod protocols;
mod proxy_config;
mod refused_identity;
mod rotation;
mod sidecar_crash;
mod smuggling;
mod tamper;
mod tap;
mod telemetry;
mod tls_passthrough;
mod traffic;
mod up;
