//! The edge of the mesh: gateways and what lies outside, with real TLS clients and servers.

pub(crate) mod authority;
mod auto;
mod claims;
mod egress;
mod ingress;
mod names;
pub(crate) mod openssl;
mod proxied;
mod sealed;
mod unknown;
