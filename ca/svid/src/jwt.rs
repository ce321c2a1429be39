//! JWT-SVIDs: whose they are, by the keys of a trust bundle (SPIFFE JWT-SVID standard).

use std::{fmt, time::Duration};

use reeve_core::{SpiffeId, SpiffeIdError, TrustDomain, UnixTime};
use reeve_jwt::{CheckOptions, KeySet, TokenError, claimed_subject};
use serde_json::{Map, Value, json};

use crate::{BundleError, TrustBundle};

/// Most keys of one trust domain that sign JWT-SVIDs.
pub(crate) const MAX_JWT_KEYS: usize = 64;
/// Longest `kid` of such a key, in bytes.
const MAX_KEY_ID_BYTES: usize = 256;
/// How far the clocks of who issues and who verifies may differ.
const LEEWAY: Duration = Duration::from_secs(10);
/// The members of a JWK that say which key it is (RFC 7518 section 6, RFC 8037 section 2).
const KEY_MEMBERS: [&str; 6] = ["kty", "crv", "x", "y", "n", "e"];

/// A public key that signs JWT-SVIDs of its trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtKey {
    id: String,
    jwk: Map<String, Value>,
}

/// The keys of a trust domain that sign JWT-SVIDs, parsed.
#[derive(Debug, Default)]
pub(crate) struct JwtKeys {
    keys: Vec<JwtKey>,
    parsed: KeySet,
}

/// A JWT-SVID that was verified.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtSvid {
    /// Whose it is.
    pub id: SpiffeId,
    /// Until when it is good.
    pub expires_at: UnixTime,
    /// All its claims.
    pub claims: Map<String, Value>,
}

/// Why a token is no JWT-SVID for us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtSvidError {
    /// It is no good token, or not for this audience, or not of our time.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// It has no `sub`.
    #[error("the token has no subject")]
    NoSubject,
    /// Its `sub` is not a SPIFFE ID.
    #[error("the token's subject is not a SPIFFE ID")]
    BadSpiffeId(#[source] SpiffeIdError),
    /// Its `sub` names a trust domain, not a workload.
    #[error("{0} names a trust domain, not a workload")]
    WithoutPath(SpiffeId),
    /// The operator has revoked the identity.
    #[error("{0} is revoked")]
    Revoked(SpiffeId),
    /// There is no bundle of its trust domain.
    #[error("there is no trust bundle of {0}")]
    UnknownTrustDomain(TrustDomain),
    /// It never expires.
    #[error("the token has no time of expiry")]
    NoExpiry,
    /// An algorithm that the standard leaves out (section 2.1).
    #[error("a JWT-SVID is not signed by {0}")]
    Algorithm(String),
}

impl JwtKey {
    /// A key as a JWK (RFC 7517) has it. It must have a `kid`, be public, and be one whose signatures can be checked.
    /// Returns `None` otherwise.
    pub fn from_jwk(jwk: &Map<String, Value>) -> Option<Self> {
        let id = jwk.get("kid")?.as_str()?;
        if id.is_empty() || id.len() > MAX_KEY_ID_BYTES {
            return None;
        }
        let members = KEY_MEMBERS.iter().filter_map(|name| {
            let value = jwk.get(*name)?;
            Some(((*name).to_owned(), value.clone()))
        });
        let mut public: Map<_, _> = members.collect();
        public.insert("kid".to_owned(), id.into());
        let key = Self {
            id: id.to_owned(),
            jwk: public,
        };
        let usable = KeySet::parse(&document(std::slice::from_ref(&key))).ok()?;
        (!usable.is_empty()).then_some(key)
    }

    /// Its `kid`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key as a JWK, with nothing in it but the key and its `kid`.
    pub fn jwk(&self) -> &Map<String, Value> {
        &self.jwk
    }
}

impl JwtKeys {
    pub(crate) fn new(keys: Vec<JwtKey>) -> Result<Self, BundleError> {
        if keys.len() > MAX_JWT_KEYS {
            return Err(BundleError::TooManyJwtKeys(keys.len()));
        }
        // Each was looked at on its own.
        let parsed = KeySet::parse(&document(&keys)).unwrap_or_default();
        Ok(Self { keys, parsed })
    }

    pub(crate) fn all(&self) -> &[JwtKey] {
        &self.keys
    }

    pub(crate) fn document(&self) -> String {
        document(&self.keys)
    }
}

fn document(keys: &[JwtKey]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| &key.jwk).collect();
    json!({ "keys": keys }).to_string()
}

/// Verifies a token as a JWT-SVID for `audience`, by the keys of the bundle of the trust domain that it claims.
pub fn verify_jwt_svid<'b>(
    token: &str,
    audience: &str,
    bundle_of: impl FnOnce(&TrustDomain) -> Option<&'b TrustBundle>,
    now: UnixTime,
) -> Result<JwtSvid, JwtSvidError> {
    let subject = claimed_subject(token)?.ok_or(JwtSvidError::NoSubject)?;
    let id = SpiffeId::parse(&subject).map_err(JwtSvidError::BadSpiffeId)?;
    if id.path().is_empty() {
        return Err(JwtSvidError::WithoutPath(id));
    }
    let domain = id.trust_domain();
    // SECURITY: a trust domain's keys speak for its own workloads alone.
    let bundle = bundle_of(&domain).filter(|bundle| *bundle.trust_domain() == domain);
    let bundle = bundle.ok_or(JwtSvidError::UnknownTrustDomain(domain))?;
    if bundle.revoked().covers_id(&id) {
        return Err(JwtSvidError::Revoked(id));
    }
    let options = CheckOptions {
        audiences: vec![audience.to_owned()],
        leeway: LEEWAY,
        ..CheckOptions::default()
    };
    let checked = bundle.jwt().parsed.check(token, &options, now)?;
    if checked.algorithm == "EdDSA" {
        return Err(JwtSvidError::Algorithm(checked.algorithm));
    }
    let Value::Object(claims) = checked.claims else {
        return Err(TokenError::MalformedClaims.into());
    };
    let expires_at = claims.get("exp").and_then(Value::as_u64);
    let expires_at = expires_at.ok_or(JwtSvidError::NoExpiry)?;
    Ok(JwtSvid {
        id,
        expires_at: UnixTime::from_secs(expires_at),
        claims,
    })
}

impl JwtSvidError {
    /// The reason as one word for records.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Token(error) => error.as_str(),
            Self::NoSubject => "no_subject",
            Self::BadSpiffeId(_) => "bad_spiffe_id",
            Self::WithoutPath(_) => "without_path",
            Self::Revoked(_) => "revoked",
            Self::UnknownTrustDomain(_) => "unknown_trust_domain",
            Self::NoExpiry => "no_expiry",
            Self::Algorithm(_) => "algorithm",
        }
    }
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Claims may be a person's.
        f.debug_struct("JwtSvid")
            .field("id", &self.id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
