//! Tokens of a trust domain's workloads (SPIFFE JWT-SVID standard), as rules of requests take them.

use std::borrow::Cow;

use reeve_core::{SpiffeId, UnixTime, model::SvidIssuer};
use serde_json::{Map, Value};

use crate::{
    TokenError, claims,
    token::{Algorithm, Token},
};

/// `iss`, which selects the rule. JWT-SVIDs need none (section 3): who vouches for the workload in `sub` is its trust domain.
pub(super) fn issuer(object: &Map<String, Value>) -> Result<Cow<'_, str>, TokenError> {
    match claims::issuer(object) {
        Err(TokenError::NoIssuer) => {
            let id = workload(object)?.ok_or(TokenError::NoIssuer)?;
            Ok(Cow::Owned(id.trust_domain().id().to_string()))
        }
        stated => stated.map(Cow::Borrowed),
    }
}

/// Refuses what is no JWT-SVID of the trust domain whose keys signed the token.
///
/// SECURITY: a trust domain's keys speak for its own workloads alone, whatever the token says of its issuer.
pub(super) fn check(
    token: &Token<'_>,
    object: &Map<String, Value>,
    expires_at: Option<UnixTime>,
    svids: &SvidIssuer,
) -> Result<(), TokenError> {
    let id = workload(object)?.filter(|id| id.is_member_of(&svids.trust_domain));
    let id = id.ok_or(TokenError::ForeignSubject)?;
    // Section 2.1.
    if token.algorithm == Algorithm::EdDsa {
        return Err(TokenError::UnsupportedAlgorithm);
    }
    if expires_at.is_none() {
        return Err(TokenError::NoExpiry);
    }
    match svids.revoked.contains(&id) {
        true => Err(TokenError::Revoked),
        false => Ok(()),
    }
}

/// Whose the token says to be, if that is a workload.
fn workload(object: &Map<String, Value>) -> Result<Option<SpiffeId>, TokenError> {
    let id = claims::subject(object)?.and_then(|subject| SpiffeId::parse(subject).ok());
    Ok(id.filter(|id| !id.path().is_empty()))
}
