//! SPIFFE IDs and trust domains, parsed by the rules of the SPIFFE-ID standard, sections 2.1–2.4.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};

/// Longest SPIFFE ID in bytes (SPIFFE-ID standard, section 2.3).
const MAX_ID_BYTES: usize = 2048;
/// Longest trust domain name in bytes (SPIFFE-ID standard, section 2.1).
const MAX_TRUST_DOMAIN_BYTES: usize = 255;
const SCHEME: &str = "spiffe://";
/// The service account of the mesh process.
const MESH_ACCOUNT: &str = "control";
/// The service account of audit replicas.
pub const AUDIT_ACCOUNT: &str = "audit";

/// A trust domain name, such as `mesh.local`: lower-case letters, digits, dots, dashes and underscores.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct TrustDomain(Arc<str>);

/// A SPIFFE ID: `spiffe://<trust domain>[/<segment>…]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct SpiffeId {
    /// The whole URI.
    uri: Arc<str>,
    /// Where the path starts in `uri` (its length when there is no path).
    path_start: usize,
}

/// Why a text is not a SPIFFE ID or trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// The text is empty.
    #[error("a SPIFFE ID cannot be empty")]
    Empty,
    /// Longer than the standard's 2,048 bytes.
    #[error("a SPIFFE ID is at most 2048 bytes")]
    TooLong,
    /// Does not start with `spiffe://` in lower case.
    #[error("a SPIFFE ID starts with spiffe://")]
    WrongScheme,
    /// No trust domain between the scheme and the path.
    #[error("the trust domain is missing")]
    MissingTrustDomain,
    /// The trust domain is longer than 255 bytes.
    #[error("a trust domain is at most 255 bytes")]
    TrustDomainTooLong,
    /// A character outside `[a-z0-9._-]` in the trust domain (user info, ports and percent signs included).
    #[error(
        "a trust domain has only lower-case letters, digits, dots, dashes and underscores; found {0:?}"
    )]
    BadTrustDomainChar(char),
    /// A character outside `[a-zA-Z0-9._-]` in a path segment (query, fragment and percent signs included).
    #[error("a path segment has only letters, digits, dots, dashes and underscores; found {0:?}")]
    BadPathChar(char),
    /// An empty segment, such as in `//`.
    #[error("a path has no empty segments")]
    EmptySegment,
    /// A `.` or `..` segment.
    #[error("a path has no dot segments")]
    DotSegment,
    /// The path ends in `/`.
    #[error("a path has no trailing slash")]
    TrailingSlash,
}

impl TrustDomain {
    /// Parses a bare trust domain name.
    pub fn parse(name: &str) -> Result<Self, SpiffeIdError> {
        if name.is_empty() {
            return Err(SpiffeIdError::MissingTrustDomain);
        }
        if name.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(SpiffeIdError::TrustDomainTooLong);
        }
        match name.chars().find(|c| !is_trust_domain_char(*c)) {
            Some(bad) => Err(SpiffeIdError::BadTrustDomainChar(bad)),
            None => Ok(Self(name.into())),
        }
    }

    /// The name, such as `mesh.local`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain's own SPIFFE ID, which names its authorities.
    pub fn id(&self) -> SpiffeId {
        let uri = format!("{SCHEME}{}", self.0);
        SpiffeId {
            path_start: uri.len(),
            uri: uri.into(),
        }
    }

    /// The default identity of a workload: `spiffe://<self>/ns/<namespace>/sa/<service account>`.
    pub fn workload(
        &self,
        namespace: &crate::Namespace,
        account: &crate::ServiceAccount,
    ) -> SpiffeId {
        self.account(namespace, account.as_str())
    }

    /// The mesh process's own identity, in the mesh's root namespace.
    pub fn mesh_process(&self, root: &crate::Namespace) -> SpiffeId {
        self.account(root, MESH_ACCOUNT)
    }

    /// What every audit replica is, in the mesh's root namespace.
    pub fn audit_replica(&self, root: &crate::Namespace) -> SpiffeId {
        self.account(root, AUDIT_ACCOUNT)
    }

    fn account(&self, namespace: &crate::Namespace, account: &str) -> SpiffeId {
        let path_start = SCHEME.len() + self.0.len();
        SpiffeId {
            uri: format!("{SCHEME}{}/ns/{namespace}/sa/{account}", self.0).into(),
            path_start,
        }
    }
}

impl SpiffeId {
    /// Parses a whole SPIFFE ID URI.
    pub fn parse(uri: &str) -> Result<Self, SpiffeIdError> {
        if uri.is_empty() {
            return Err(SpiffeIdError::Empty);
        }
        if uri.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = uri.strip_prefix(SCHEME).ok_or(SpiffeIdError::WrongScheme)?;
        let (domain, path) = match rest.split_once('/') {
            Some((domain, path)) => (domain, Some(path)),
            None => (rest, None),
        };
        TrustDomain::parse(domain)?;
        if let Some(path) = path {
            check_path(path)?;
        }
        Ok(Self {
            path_start: SCHEME.len() + domain.len(),
            uri: uri.into(),
        })
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain this identity belongs to.
    pub fn trust_domain(&self) -> TrustDomain {
        let name = self.uri.get(SCHEME.len()..self.path_start);
        TrustDomain(name.unwrap_or_default().into())
    }

    /// Whether this identity belongs to `domain`.
    pub fn is_member_of(&self, domain: &TrustDomain) -> bool {
        self.uri.get(SCHEME.len()..self.path_start) == Some(domain.as_str())
    }

    /// The path with its leading slash, or the empty string.
    pub fn path(&self) -> &str {
        self.uri.get(self.path_start..).unwrap_or_default()
    }

    /// Namespace and service account, when the path has the form `/ns/<namespace>/sa/<account>`.
    pub fn namespace_and_account(&self) -> Option<(crate::Namespace, crate::ServiceAccount)> {
        let mut segments = self.path().strip_prefix('/')?.split('/');
        let parts = (
            segments.next()?,
            segments.next()?,
            segments.next()?,
            segments.next()?,
            segments.next(),
        );
        match parts {
            ("ns", namespace, "sa", account, None) => Some((
                crate::Namespace::parse(namespace).ok()?,
                crate::ServiceAccount::parse(account).ok()?,
            )),
            _ => None,
        }
    }
}

fn is_trust_domain_char(c: char) -> bool {
    matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')
}

fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    if path.is_empty() || path.ends_with('/') {
        return Err(SpiffeIdError::TrailingSlash);
    }
    for segment in path.split('/') {
        match segment {
            "" => return Err(SpiffeIdError::EmptySegment),
            "." | ".." => return Err(SpiffeIdError::DotSegment),
            _ => {}
        }
        let bad = segment
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')));
        if let Some(bad) = bad {
            return Err(SpiffeIdError::BadPathChar(bad));
        }
    }
    Ok(())
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse(s)
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeIdError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        Self::parse(&s)
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.as_str().to_owned()
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.uri)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.uri)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse(s)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = SpiffeIdError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        Self::parse(&s)
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.as_str().to_owned()
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
