//! Resources as they travel.

use reeve_core::model::ResourceKind;

const PREFIX: &str = "type.googleapis.com/reeve.dev.v1.";

/// The type URL of a kind of resource, such as `type.googleapis.com/reeve.dev.v1.Routes`.
pub fn type_url(kind: ResourceKind) -> String {
    format!("{PREFIX}{}", kind.as_str())
}

/// Why a message is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A type URL that is none of ours.
    #[error("unknown resource type {0:?}")]
    UnknownType(String),
}
