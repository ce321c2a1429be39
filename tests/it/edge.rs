//! The edge of the mesh: gateways and what lies outside, with real TLS clients and servers.

mod authority;
mod egress;
mod ingress;
mod names;
mod proxied;
