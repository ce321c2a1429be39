//! Captured output as one stream: application lines and access log lines, joined by trace.

pub(crate) mod follow;
pub(crate) mod join;
pub(crate) mod line;
