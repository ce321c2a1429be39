//! Application protocols that mark a connection as mesh mTLS (RFC 7301).
//!
//! Only a ClientHello that offers one of these is taken for the mesh's; an application's own TLS is passed through.

/// HTTP/2 between sidecars.
pub const H2: &[u8] = b"reeve-h2";
/// HTTP/1.1 between sidecars.
pub const HTTP1: &[u8] = b"reeve-http/1.1";
/// Opaque bytes between sidecars.
pub const TCP: &[u8] = b"reeve-tcp";

/// Every mesh protocol.
pub const ALL: [&[u8]; 3] = [H2, HTTP1, TCP];
