//! What an asking proxy can make the server hold.

use std::time::Duration;

/// Longest server name of a ClientHello that a question may tell: as long as a DNS name (RFC 1035 section 2.3.4).
pub const MAX_SERVER_NAME_BYTES: usize = 255;
/// Largest `CheckRequest`, the body of the request included where Envoy is told to send it.
pub const MAX_CHECK_BYTES: usize = 1024 * 1024;
/// Most inquiries under way; more are denied at once.
pub const MAX_CHECKS: usize = 4096;
/// Most streams of one connection.
pub const MAX_CHECK_STREAMS: u32 = 1024;
/// Most connections of both listeners together.
pub const MAX_ASKERS: usize = 1024;
/// Largest head of a request in the HTTP form.
pub const MAX_CHECK_HEAD_BYTES: usize = 64 * 1024;
/// How long a record may take to become durable.
pub const RECORD_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a head may take to arrive.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest question for the health.
pub(crate) const MAX_HEALTH_BYTES: usize = 4 * 1024;
/// With less room than this in the write-ahead log, the server says that it does not serve.
pub(crate) const MIN_RECORD_ROOM: u64 = 64 * 1024;
/// How long it says so after a decision that could not be recorded.
pub(crate) const RECORD_PENALTY: Duration = Duration::from_secs(5);
