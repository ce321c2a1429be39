//! Resources as they travel: JSON inside `Any`, versioned by content.

use aws_lc_rs::digest;
use envoy_types::pb::{envoy::service::discovery::v3::Resource as Envelope, google::protobuf::Any};
use reeve_core::model::{Resource, ResourceKind};

const PREFIX: &str = "type.googleapis.com/reeve.dev.v1.";
/// Bytes of the content hash that make a version.
const VERSION_BYTES: usize = 16;

/// Why a message is not understood.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A type URL that is none of ours.
    #[error("unknown resource type {0:?}")]
    UnknownType(String),
    /// A resource without a body.
    #[error("{} {name} has no body", .kind.as_str())]
    Empty {
        /// Its kind.
        kind: ResourceKind,
        /// Its name.
        name: String,
    },
    /// A body that does not parse.
    #[error("{} {name} does not parse: {source}", .kind.as_str())]
    Body {
        /// Its kind.
        kind: ResourceKind,
        /// Its name.
        name: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A body that is another resource than its envelope says.
    #[error("the envelope of {} {name} holds {} {found_name}", .kind.as_str(), .found.as_str())]
    Mismatch {
        /// The envelope's kind.
        kind: ResourceKind,
        /// The envelope's name.
        name: String,
        /// The body's kind.
        found: ResourceKind,
        /// The body's name.
        found_name: String,
    },
}

/// The type URL of a kind of resource, such as `type.googleapis.com/reeve.dev.v1.Routes`.
pub fn type_url(kind: ResourceKind) -> String {
    format!("{PREFIX}{}", kind.as_str())
}

/// The kind of resource that a type URL stands for.
pub(crate) fn kind_of(type_url: &str) -> Result<ResourceKind, WireError> {
    let name = type_url.strip_prefix(PREFIX);
    ResourceKind::ALL
        .into_iter()
        .find(|kind| Some(kind.as_str()) == name)
        .ok_or_else(|| WireError::UnknownType(type_url.to_owned()))
}

/// Puts a resource into its envelope. The version depends on the content alone, so that a restarted control plane
/// recognises what a proxy already holds.
pub(crate) fn encode(resource: &Resource) -> Result<Envelope, serde_json::Error> {
    let value = serde_json::to_vec(resource)?;
    let hash = digest::digest(&digest::SHA256, &value);
    let version = hash.as_ref().get(..VERSION_BYTES).unwrap_or_default();
    Ok(Envelope {
        name: resource.name().into_owned(),
        version: hex::encode(version),
        resource: Some(Any {
            type_url: type_url(resource.kind()),
            value,
        }),
        ..Envelope::default()
    })
}

/// Takes a resource out of its envelope.
pub(crate) fn decode(kind: ResourceKind, envelope: Envelope) -> Result<Resource, WireError> {
    let name = envelope.name;
    let Some(body) = envelope.resource else {
        return Err(WireError::Empty { kind, name });
    };
    let resource: Resource = match serde_json::from_slice(&body.value) {
        Ok(resource) => resource,
        Err(source) => return Err(WireError::Body { kind, name, source }),
    };
    if resource.kind() != kind || resource.name() != name {
        return Err(WireError::Mismatch {
            kind,
            name,
            found: resource.kind(),
            found_name: resource.name().into_owned(),
        });
    }
    Ok(resource)
}

#[cfg(test)]
mod tests {
    use reeve_core::model::Generation;

    use super::*;

    #[test]
    fn type_urls_round_trip() {
        for kind in ResourceKind::ALL {
            assert_eq!(kind_of(&type_url(kind)).unwrap(), kind);
        }
        for bad in ["", "Routes", "type.googleapis.com/reeve.dev.v1.Other"] {
            assert!(matches!(kind_of(bad), Err(WireError::UnknownType(_))));
        }
    }

    #[test]
    fn versions_follow_content() {
        let one = encode(&Resource::Generation(Generation(1))).unwrap();
        let again = encode(&Resource::Generation(Generation(1))).unwrap();
        let two = encode(&Resource::Generation(Generation(2))).unwrap();
        assert_eq!(one.version, again.version);
        assert_ne!(one.version, two.version);
        assert_eq!(one.version.len(), 2 * VERSION_BYTES);
    }

    #[test]
    fn an_envelope_must_hold_what_it_says() {
        let envelope = encode(&Resource::Generation(Generation(1))).unwrap();
        assert!(decode(ResourceKind::Generation, envelope.clone()).is_ok());
        let other_kind = decode(ResourceKind::VirtualHost, envelope.clone());
        assert!(matches!(other_kind, Err(WireError::Mismatch { .. })));
        let empty = Envelope {
            resource: None,
            ..envelope.clone()
        };
        assert!(matches!(
            decode(ResourceKind::Generation, empty),
            Err(WireError::Empty { .. })
        ));
        let mut broken = envelope;
        broken.resource = Some(Any {
            type_url: String::new(),
            value: b"{".to_vec(),
        });
        assert!(matches!(
            decode(ResourceKind::Generation, broken),
            Err(WireError::Body { .. })
        ));
    }
}
