//! One token against one key set, with no rule of a workload: `reeve jwt verify`, JWT-SVIDs.

use std::time::Duration;

use reeve_core::UnixTime;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    JwksError, KeySet, TokenError,
    claims::{self, Claims},
    token::Token,
};

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
    pub claims: Value,
}

/// Checks a JWKS document; the number of usable keys, at least one.
pub fn check_jwks(json: &str) -> Result<usize, JwksError> {
    let keys = KeySet::parse(json)?;
    if keys.is_empty() {
        return Err(JwksError::NoUsableKey);
    }
    Ok(keys.len())
}

/// Verifies one token against a JWKS document or a single JWK, with the data path's own code.
pub fn check_token(
    token: &str,
    jwks_json: &str,
    options: &CheckOptions,
    now: UnixTime,
) -> Result<Checked, TokenError> {
    let keys = KeySet::parse(jwks_json).map_err(|_| TokenError::NoKeys)?;
    keys.check(token, options, now)
}

impl KeySet {
    /// Verifies one token.
    pub fn check(
        &self,
        token: &str,
        options: &CheckOptions,
        now: UnixTime,
    ) -> Result<Checked, TokenError> {
        let token = Token::parse(token)?;
        let claims = if options.bare {
            self.verify(&token)?;
            Value::Null
        } else {
            Value::Object(check_claims(&token, self, options, now)?)
        };
        Ok(Checked {
            algorithm: token.algorithm.as_str().to_owned(),
            key_id: token.key_id.clone(),
            claims,
        })
    }
}

/// What `sub` of a token says whose signature nobody has looked at: to choose the keys by, and for nothing else.
pub fn claimed_subject(token: &str) -> Result<Option<String>, TokenError> {
    let claims = Token::parse(token)?.claims()?;
    Ok(claims::subject(&claims)?.map(str::to_owned))
}

/// Signature and claims, in the order in which requests' tokens are looked at.
fn check_claims(
    token: &Token<'_>,
    keys: &KeySet,
    options: &CheckOptions,
    now: UnixTime,
) -> Result<Map<String, Value>, TokenError> {
    let object = token.claims()?;
    if let Some(wanted) = &options.issuer
        && claims::issuer(&object)? != wanted
    {
        return Err(TokenError::UnknownIssuer);
    }
    token.check_type()?;
    keys.verify(token)?;
    let expected = claims::Expected {
        issuer: options.issuer.as_deref(),
        audiences: &options.audiences,
        leeway: options.leeway,
    };
    Claims::check(&object, &expected, now)?.into_user(&[])?;
    Ok(object)
}
