//! Route matching: which virtual host, which route, which destination. The proxy and `route explain` share it.

mod cors;
mod header_ops;
mod index;
mod matcher;
mod path_edit;
mod retry;
mod sni;
mod table;

pub(crate) use cors::Cors;
pub(crate) use header_ops::HeaderEdits;
pub(crate) use matcher::{MAX_REGEX_BYTES, Matcher, RequestView};
pub(crate) use path_edit::translate;
pub(crate) use retry::{Failure, RetryOn};
pub(crate) use sni::{Names, SniTable};
pub(crate) use table::{CompiledRoute, Found, Table, Taken, pick, without_port};

/// Why a route table cannot be used. `control` checks all of this too; this is the last line.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// An expression does not compile or is too large.
    #[error("route {route}: the expression {pattern:?} does not compile")]
    Regex {
        /// Where it stands.
        route: String,
        /// The expression.
        pattern: String,
        /// What the compiler says.
        #[source]
        source: Box<regex::Error>,
    },
    /// A header name or value that HTTP does not allow.
    #[error("route {route}: {text:?} is no legal header {part}")]
    Header {
        /// Where it stands.
        route: String,
        /// `name` or `value`.
        part: &'static str,
        /// The text.
        text: String,
    },
    /// Two virtual hosts claim one authority.
    #[error("the route table {table} has the authority {domain} twice")]
    DuplicateDomain {
        /// The table.
        table: String,
        /// The authority.
        domain: String,
    },
    /// Destinations without any weight.
    #[error("route {route}: the weights of its destinations sum to 0")]
    NoWeight {
        /// Where it stands.
        route: String,
    },
    /// A JSON Patch that is none.
    #[error("the transformation {name} has no legal JSON Patch")]
    Patch {
        /// Whose it is.
        name: String,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A status code outside 200 to 599.
    #[error("route {route}: {code} is no status to answer with")]
    Status {
        /// Where it stands.
        route: String,
        /// The code.
        code: u16,
    },
}

#[cfg(test)]
mod tests;
