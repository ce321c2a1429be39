//! Policies and token rules as a proxy receives them: sources, compiled on arrival by `authz`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Namespace, PolicyId, SpiffeId, TrustDomain};

/// The policies that can concern one proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySlice {
    /// Hash of the whole mesh's policy set, hex SHA-256; the same on every proxy of a generation.
    pub mesh_hash: String,
    /// The slice, ordered by id.
    pub policies: Vec<PolicySource>,
    /// Cedar schema texts that extend the built-in schema.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schema: Vec<String>,
    /// What is known of entities, ordered by uid: groups, attributes and labels.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub entities: Arc<Vec<EntityRecord>>,
}

fn is_nothing(entities: &Arc<Vec<EntityRecord>>) -> bool {
    entities.is_empty()
}

/// What is known of one entity, in the form of Cedar's JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntityRecord {
    /// Its attributes.
    #[serde(default)]
    pub attrs: BTreeMap<String, serde_json::Value>,
    /// What it is in, beside what its own name says.
    #[serde(default)]
    pub parents: Vec<EntityName>,
    /// Its tags: of a workload or service, label → every value that it has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, serde_json::Value>,
    /// Which it is.
    pub uid: EntityName,
}

/// An entity by type and id, in the form of Cedar's JSON.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntityName {
    /// Its id.
    pub id: String,
    /// Its type, such as `Workload`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// One Cedar policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySource {
    /// Unique in the mesh.
    pub id: PolicyId,
    /// `None` = the mesh (an `AccessPolicy` in the root namespace); else it decides only resources of this namespace.
    pub scope: Option<Namespace>,
    /// Whether it binds.
    pub mode: PolicyMode,
    /// Cedar text of exactly one static policy.
    pub text: String,
}

/// Whether a policy binds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyMode {
    /// It decides.
    #[default]
    Enforce,
    /// It is judged and recorded only (`@mode("shadow")`).
    Shadow,
}

/// One `jwtRules` entry of a `RequestAuthentication`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JwtRule {
    /// Names the rule: `<namespace>/<RequestAuthentication>/<index>`.
    pub name: String,
    /// Required `iss`.
    pub issuer: String,
    /// Accepted `aud`; empty = any.
    pub audiences: Vec<String>,
    /// Headers to look in, with the prefix to strip; the default is `Authorization: Bearer `.
    pub from_headers: Vec<JwtHeader>,
    /// Query parameters to look in.
    pub from_params: Vec<String>,
    /// Cookies to look in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from_cookies: Vec<String>,
    /// Whether the token goes on to the application.
    pub forward_original_token: bool,
    /// (header, claim): claims copied to request headers; a caller's own header of that name is always removed.
    pub claims_to_headers: Vec<(String, String)>,
    /// The header that the token's payload is put into, in base64url; a caller's own is always removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_to_header: Option<String>,
    /// Top-level claims with several values in one text, beside `scope` and `permission`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub space_delimited_claims: Vec<String>,
    /// Bound on clock difference with the issuer.
    pub leeway: Duration,
    /// The keys, as `control` last fetched them; `None` = never yet, and every token of this issuer is refused.
    pub jwks: Option<JwksDocument>,
    /// The keys are a trust domain's: tokens are taken as JWT-SVIDs of its workloads, and none else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub svids: Option<SvidIssuer>,
}

/// A trust domain whose JWT-SVIDs a rule takes (SPIFFE JWT-SVID standard).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SvidIssuer {
    /// Which.
    pub trust_domain: TrustDomain,
    /// Its workloads that the operator has revoked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<SpiffeId>,
}

/// Where a token may stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JwtHeader {
    /// Header name in lower case.
    pub name: String,
    /// Prefix before the token, such as `Bearer `.
    pub prefix: String,
}

/// A JSON Web Key Set (RFC 7517).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JwksDocument {
    /// Changes whenever the keys do; part of the token cache's key.
    pub generation: u64,
    /// The document.
    pub json: String,
}
