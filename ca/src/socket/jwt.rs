//! The JWT-SVID calls of the Workload API (SPIFFE Workload API, section 6).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use prost_types::{ListValue, NullValue, Struct, Value as Field, value::Kind};
use reeve_core::SpiffeId;
use reeve_svid::{Credentials, JwtSvidError, verify_jwt_svid};
use serde_json::Value;
use tonic::{Extensions, Status};

use super::Door;
use crate::{
    Identities, RefusalReason,
    identities::{Now, Ready},
    proto::workload::{
        JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
        ValidateJwtsvidResponse,
    },
};

/// Tokens for the audiences asked for: of the identity that is named, or of all that may have such.
pub(super) async fn fetch(
    door: &Door,
    extensions: &Extensions,
    (mut identities, request): (Identities, JwtsvidRequest),
) -> Result<JwtsvidResponse, Status> {
    if request.audience.iter().all(String::is_empty) {
        return Err(Status::invalid_argument("audience: name at least one"));
    }
    let named = match request.spiffe_id.as_str() {
        "" => None,
        text => Some(
            SpiffeId::parse(text)
                .map_err(|error| Status::invalid_argument(format!("spiffe_id: {error}")))?,
        ),
    };
    let requested = named.as_ref().map(SpiffeId::as_str);
    let ready = identities.ready().await.unwrap_or_default();
    let of_id = |one: &Ready| named.as_ref().is_none_or(|id| one.jwt.id() == id);
    let own: Vec<_> = ready.into_iter().filter(of_id).collect();
    if own.is_empty() {
        return Err(door.refuse(extensions, requested, RefusalReason::NotEntitled));
    }
    let allowed: Vec<_> = own
        .into_iter()
        .filter(|one| one.allows(&request.audience))
        .collect();
    if allowed.is_empty() {
        return Err(door.refuse(extensions, requested, RefusalReason::AudienceNotAllowed));
    }
    let mut svids = Vec::with_capacity(allowed.len());
    for one in allowed {
        let token = one.jwt.token(&request.audience).await;
        let token = token.map_err(|error| {
            tracing::warn!(%error, "no JWT-SVID");
            Status::unavailable("no JWT-SVID can be had from the issuer")
        })?;
        svids.push(Jwtsvid {
            spiffe_id: one.jwt.id().to_string(),
            svid: token.to_string(),
            hint: one.hint,
        });
    }
    Ok(JwtsvidResponse { svids })
}

/// The keys that tokens of our trust domain and of federated ones are verified with.
pub(super) fn bundles(credentials: &Credentials) -> JwtBundlesResponse {
    let named = credentials.bundle.all().map(|bundle| {
        let name = bundle.trust_domain().id().to_string();
        (name, bundle.jwks().into_bytes())
    });
    JwtBundlesResponse {
        bundles: named.collect::<HashMap<_, _>>(),
    }
}

/// Whose a token is, and what it says.
pub(super) fn validate(
    door: &Door,
    mut identities: Identities,
    request: &ValidateJwtsvidRequest,
) -> Result<ValidateJwtsvidResponse, Status> {
    if request.audience.is_empty() {
        return Err(Status::invalid_argument("audience: there is none"));
    }
    let bundle = match identities.now() {
        Now::Ready(ready) => ready.first().map(|one| Arc::clone(&one.credentials.bundle)),
        Now::Awaited | Now::Nothing => None,
    };
    let bundle = bundle.ok_or_else(|| Status::unavailable("there is no trust bundle yet"))?;
    let bundle_of = |domain: &_| bundle.of(domain);
    let now = door.clock.now();
    let verified = verify_jwt_svid(&request.svid, &request.audience, bundle_of, now);
    // What we revoked is refused whoever vouches for it.
    let verified = verified.and_then(|svid| match bundle.revoked().covers_id(&svid.id) {
        true => Err(JwtSvidError::Revoked(svid.id)),
        false => Ok(svid),
    });
    let verified = verified.map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(ValidateJwtsvidResponse {
        spiffe_id: verified.id.to_string(),
        claims: Some(structure(verified.claims)),
    })
}

fn structure(members: serde_json::Map<String, Value>) -> Struct {
    let fields = members
        .into_iter()
        .map(|(name, value)| (name, field(value)));
    Struct {
        fields: fields.collect::<BTreeMap<_, _>>(),
    }
}

/// JSON as protobuf's well-known `Value` (its depth was bounded when the token was read).
fn field(value: Value) -> Field {
    let kind = match value {
        Value::Null => Kind::NullValue(NullValue::NullValue.into()),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Value::String(value) => Kind::StringValue(value),
        Value::Array(items) => Kind::ListValue(ListValue {
            values: items.into_iter().map(field).collect(),
        }),
        Value::Object(members) => Kind::StructValue(structure(members)),
    };
    Field { kind: Some(kind) }
}
