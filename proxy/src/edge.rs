//! The edge of the mesh: TLS with those outside it, at gateways and towards external services.

mod material;
mod originate;
mod servers;

pub(crate) use material::{Material, WatchedFiles};
pub(crate) use originate::Originated;
pub(crate) use servers::{Ends, ServerKey, TlsServer, TlsServers};
