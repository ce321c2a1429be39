//! The JWT-SVID calls of the Workload API (SPIFFE Workload API, section 6).

use std::collections::{BTreeMap, HashMap};

use prost_types::{ListValue, NullValue, Struct, Value as Field, value::Kind};
use reeve_core::SpiffeId;
use reeve_svid::{Credentials, verify_jwt_svid};
use serde_json::Value;
use tonic::{Extensions, Status};

use super::Door;
use crate::{
    RefusalReason,
    proto::workload::{
        JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
        ValidateJwtsvidResponse,
    },
};

/// A token for the audiences asked for.
pub(super) async fn fetch(
    door: &Door,
    extensions: &Extensions,
    request: JwtsvidRequest,
) -> Result<JwtsvidResponse, Status> {
    if request.audience.iter().all(String::is_empty) {
        return Err(Status::invalid_argument("audience: name at least one"));
    }
    let ours = door.jwt.id();
    if !request.spiffe_id.is_empty() {
        let asked = SpiffeId::parse(&request.spiffe_id)
            .map_err(|error| Status::invalid_argument(format!("spiffe_id: {error}")))?;
        if asked != *ours {
            let reason = RefusalReason::NotEntitled;
            return Err(door.refuse(extensions, Some(&request.spiffe_id), reason));
        }
    }
    let token = door.jwt.token(&request.audience).await;
    let token = token.map_err(|error| {
        tracing::warn!(%error, "no JWT-SVID");
        Status::unavailable("no JWT-SVID can be had from the issuer")
    })?;
    let svid = Jwtsvid {
        spiffe_id: ours.to_string(),
        svid: token.to_string(),
        hint: String::new(),
    };
    Ok(JwtsvidResponse { svids: vec![svid] })
}

/// The keys that tokens of our trust domain are verified with.
pub(super) fn bundles(credentials: &Credentials) -> JwtBundlesResponse {
    let bundle = &credentials.bundle;
    let name = bundle.trust_domain().id().to_string();
    JwtBundlesResponse {
        bundles: HashMap::from([(name, bundle.jwks().into_bytes())]),
    }
}

/// Whose a token is, and what it says.
pub(super) fn validate(
    door: &Door,
    request: &ValidateJwtsvidRequest,
) -> Result<ValidateJwtsvidResponse, Status> {
    if request.audience.is_empty() {
        return Err(Status::invalid_argument("audience: there is none"));
    }
    let held = door.credentials.borrow().clone();
    let held = held.ok_or_else(|| Status::unavailable("there is no trust bundle yet"))?;
    let bundle_of = |_: &_| Some(&*held.bundle);
    let verified = verify_jwt_svid(&request.svid, &request.audience, bundle_of, door.jwt.now());
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
