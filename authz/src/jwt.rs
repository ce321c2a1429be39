//! JSON Web Tokens: signatures by `jsonwebtoken`, claims strictly by us (RFC 7515, 7517, 7519, 8725).

use std::time::Duration;

use reeve_core::{UnixTime, decision::User, model::JwtRule};
use serde::Serialize;

/// Where tokens are looked up in a request.
pub trait TokenLookup {
    /// Every value of the header `name` (lower case), as it came.
    fn header_values(&self, name: &str) -> Vec<&[u8]>;
    /// Every value of the query parameter `name`, percent-decoded.
    fn query_values(&self, name: &str) -> Vec<String>;
}

/// The token rules of one workload, with their keys parsed.
#[derive(Debug)]
pub struct JwtVerifier {
    rules: Vec<JwtRule>,
}

/// What the verified tokens of a request say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// The end user; `None` when no token was there.
    pub user: Option<User>,
    /// Headers (lower case) to remove before the request goes on; do this before `set_headers`.
    pub strip_headers: Vec<String>,
    /// Headers to set, from claims.
    pub set_headers: Vec<(String, String)>,
}

/// Why a token is refused: one exact reason each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Not three base64url parts.
    #[error("the token is not of the form header.payload.signature")]
    Malformed,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
}

impl TokenError {
    /// The reason as one word for records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Expired => "expired",
        }
    }
}

impl JwtVerifier {
    /// Parses the keys of `rules`. A rule without usable keys refuses every token of its issuer.
    pub fn compile(rules: &[JwtRule]) -> Self {
        Self {
            rules: rules.to_vec(),
        }
    }

    /// Verifies every token that a rule looks for. No token is fine (the policies decide); any bad one is an error.
    pub fn verify(
        &self,
        _lookup: &impl TokenLookup,
        _now: UnixTime,
    ) -> Result<Verified, TokenError> {
        if self.rules.is_empty() {
            Ok(Verified::default())
        } else {
            Err(TokenError::Malformed)
        }
    }
}

/// How `reeve jwt verify` looks at a token.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// Required `iss`.
    pub issuer: Option<String>,
    /// Accepted `aud`; empty = any.
    pub audiences: Vec<String>,
    /// Bound on clock difference.
    pub leeway: Duration,
    /// Any JWS payload; claims are not looked at.
    pub bare: bool,
}

/// A token that verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// `alg` of the signature.
    pub algorithm: String,
    /// `kid` of the token.
    pub key_id: Option<String>,
    /// The claims; `null` with `bare`.
    pub claims: serde_json::Value,
}

/// Why a key set cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key set cannot be used: {0}")]
pub struct JwksError(pub String);

/// Checks a JWKS document; the number of usable keys.
pub fn check_jwks(json: &str) -> Result<usize, JwksError> {
    Err(JwksError(json.len().to_string()))
}

/// Verifies one token against a JWKS document (`reeve jwt verify`).
pub fn check_token(
    _token: &str,
    _jwks_json: &str,
    _options: &CheckOptions,
    _now: UnixTime,
) -> Result<Checked, TokenError> {
    Err(TokenError::Malformed)
}
