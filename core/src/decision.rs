//! The decision vocabulary: who asks for what, and what was answered.
//!
//! `proxy` fills in an [`AccessRequest`] from what it verified itself, `authz` answers with a [`Decision`], `audit`
//! records both. A denial is a [`Decision`], not an error.
//!
//! Fields stand in the order of canonical JSON (by name), so that recording them sorts nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Serialize, Serializer};

use crate::{Namespace, PolicyId, ServiceName, SpiffeId, UnixTime, model::ServiceState};

/// A question to the policies: may `principal` (acting for `user`) do `action` on `resource`?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRequest {
    /// What it wants to do.
    pub action: Action,
    /// The circumstances.
    pub context: RequestContext,
    /// The peer, as its certificate proved it.
    pub principal: Principal,
    /// What it wants to do it to.
    pub resource: ResourceRef,
    /// The end user, as a verified JWT says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<User>>,
}

/// The verified identity of a peer, as policy sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Principal {
    /// A workload that proved its SPIFFE ID by mTLS.
    Workload(SpiffeId),
    /// Nobody we know: plaintext, or TLS without a mesh certificate.
    Unauthenticated,
}

impl Principal {
    /// The SPIFFE ID, if there is one.
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Workload(id) => Some(id),
            Self::Unauthenticated => None,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(id) => id.fmt(f),
            Self::Unauthenticated => f.write_str("unauthenticated"),
        }
    }
}

/// The claims of one verified JWT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Claim name → every value it has, as text; nested claims are joined with dots (`realm.roles`).
    pub claims: BTreeMap<String, BTreeSet<String>>,
    /// `exp`; a stream that this token opened ends then.
    pub expires_at: Option<UnixTime>,
    /// `iss`.
    pub issuer: String,
    /// `sub`, empty if the token has none.
    pub subject: String,
}

/// What a peer wants to do. HTTP methods that are not listed are `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum Action {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `OPTIONS`
    Options,
    /// `TRACE`
    Trace,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
    /// Any other HTTP method, `CONNECT` among them.
    Other,
    /// A TCP connection.
    Connect,
}

impl Action {
    /// Every action, in the schema's order.
    pub const ALL: [Self; 10] = [
        Self::Get,
        Self::Head,
        Self::Options,
        Self::Trace,
        Self::Post,
        Self::Put,
        Self::Patch,
        Self::Delete,
        Self::Other,
        Self::Connect,
    ];

    /// The action of an HTTP method (case-sensitive, RFC 9110 section 9.1).
    pub fn from_method(method: &str) -> Self {
        match Self::from_str(method) {
            Ok(action) if !matches!(action, Self::Connect | Self::Other) => action,
            _ => Self::Other,
        }
    }

    /// The action's id in the Cedar schema.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Other => "other",
            Self::Connect => "connect",
        }
    }
}

/// The text is not an action of the schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown action {0:?}; use an HTTP method, other or connect")]
pub struct UnknownAction(pub String);

impl FromStr for Action {
    type Err = UnknownAction;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|a| a.as_str() == text);
        found.ok_or_else(|| UnknownAction(text.to_owned()))
    }
}

impl TryFrom<String> for Action {
    type Error = UnknownAction;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is asked for: inbound, the workload behind the listener; outbound to an endpoint that is not in the mesh,
/// the service alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceRef {
    /// Where it is, if it is neither a workload nor a service of the mesh: what a captured connection was made to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// Its namespace: the only one whose namespaced policies apply.
    pub namespace: Namespace,
    /// The services that select it.
    pub services: Vec<ServiceName>,
    /// The workload's identity; absent when the endpoint has none, and then `services` holds one or `address` is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<SpiffeId>,
}

/// The circumstances of a request or connection. For `connect`, the HTTP parts are absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestContext {
    /// The address that the connection was made to, as far as it is known when it is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_ip: Option<IpAddr>,
    /// What HTTP adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpContext>,
    /// Whether the connection is mesh mTLS.
    pub mtls: bool,
    /// The port asked for, as the caller addressed it.
    pub port: u16,
    /// The client's address, where proxies that are trusted say another one than the connection's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_ip: Option<IpAddr>,
    /// The server name in the connection's ClientHello, in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<Arc<str>>,
    /// The address that the connection came from.
    pub source_ip: IpAddr,
    /// When it was asked.
    pub time: UnixTime,
}

impl RequestContext {
    /// The client's address: what trusted proxies say, else the connection's own.
    pub fn client_ip(&self) -> IpAddr {
        self.remote_ip.unwrap_or(self.source_ip)
    }
}

/// The HTTP part of the circumstances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpContext {
    /// gRPC service and method, when the content type says gRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcMethod>,
    /// Header name (lower case) → every value; only those that policies or the record name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, BTreeSet<String>>,
    /// Authority in lower case, without port.
    pub host: String,
    /// Method as sent.
    pub method: String,
    /// Normalised path, without query.
    pub path: String,
    /// Query parameter → every value, percent-decoded; only those that policies name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, BTreeSet<String>>,
}

/// A gRPC method (`/pkg.Service/Method`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrpcMethod {
    /// `pkg.Service`
    pub service: String,
    /// `Method`
    pub method: String,
}

/// Allowed or denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It may go on.
    Allow,
    /// It may not.
    Deny,
}

/// An answer to an [`AccessRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Allowed or denied.
    pub effect: Effect,
    /// Policies that failed to evaluate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<PolicyError>,
    /// The policies that determined it, ordered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyId>,
    /// Why, in one word.
    pub reason: Reason,
    /// The servers that were asked about it beforehand, and what they said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<AskedExternally>,
    /// What would have been answered with shadow policies in force, or, for a service in state `shadow`, if it were
    /// enforced – when that differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Box<Self>>,
}

impl Decision {
    /// An answer that rests on no policy.
    pub fn without_policy(effect: Effect, reason: Reason) -> Self {
        Self {
            effect,
            reason,
            policies: Vec::new(),
            errors: Vec::new(),
            asked: Vec::new(),
            shadow: None,
        }
    }

    /// Whether it allows.
    pub fn is_allow(&self) -> bool {
        self.effect == Effect::Allow
    }
}

/// A server that was asked about a request before the policies were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedExternally {
    /// Its name in the mesh's configuration.
    pub provider: String,
    /// What it said.
    pub answer: ExternalAnswer,
    /// The policies by which it was asked, ordered.
    pub policies: Vec<PolicyId>,
    /// How long that took, in microseconds.
    pub took_us: u64,
}

/// What came of asking a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExternalAnswer {
    /// It may go on to the policies.
    Allowed,
    /// It may not.
    Denied,
    /// There was no answer, and it may not go on without one.
    Unanswered,
    /// There was no answer, and it goes on all the same (`failOpen`).
    FailedOpen,
    /// Nobody was asked: the policies are in shadow.
    NotAsked,
}

/// Why a decision came out as it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A `permit` applied and no `forbid` did.
    Permitted,
    /// The service is in state `open`.
    ServiceOpen,
    /// The service is in state `shadow`: recorded, not enforced.
    ServiceShadow,
    /// No `permit` applied.
    NoPermit,
    /// A `forbid` applied.
    Forbidden,
    /// A `forbid` failed to evaluate; closed, since it might have applied.
    ForbidError,
    /// More policies might apply than are asked about one request.
    TooManyPolicies,
    /// There is no policy set yet, or it is older than its limit.
    NoPolicySet,
    /// A JWT was there but did not verify.
    InvalidToken,
    /// STRICT, and the peer spoke plaintext.
    PlaintextRefused,
    /// The path cannot be normalised safely.
    AmbiguousPath,
    /// A request to an identity or log interface that the caller may not make.
    NotEntitled,
    /// A captured connection to an address that stands for no service, under `REGISTRY_ONLY`.
    NotInRegistry,
    /// A server that is asked about the request (Istio's action `CUSTOM`) denied it.
    ExternallyDenied,
    /// Such a server did not answer, and its silence is a refusal.
    ExternallyUnanswered,
    /// No route leads anywhere: the server name in the caller's ClientHello is none that is served at this port.
    NoRoute,
}

impl Reason {
    /// The word used in records, metrics and answers for operators.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permitted => "permitted",
            Self::ServiceOpen => "service_open",
            Self::ServiceShadow => "service_shadow",
            Self::NoPermit => "no_permit",
            Self::Forbidden => "forbidden",
            Self::ForbidError => "forbid_error",
            Self::TooManyPolicies => "too_many_policies",
            Self::NoPolicySet => "no_policy_set",
            Self::InvalidToken => "invalid_token",
            Self::PlaintextRefused => "plaintext_refused",
            Self::AmbiguousPath => "ambiguous_path",
            Self::NotEntitled => "not_entitled",
            Self::NotInRegistry => "not_in_registry",
            Self::ExternallyDenied => "externally_denied",
            Self::ExternallyUnanswered => "externally_unanswered",
            Self::NoRoute => "no_route",
        }
    }
}

/// A policy that could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyError {
    /// Which one.
    pub policy: PolicyId,
    /// Cedar's message.
    pub message: String,
}

/// Applies a service's state to what its policies said.
pub fn apply_state(state: ServiceState, judged: Decision) -> Decision {
    match state {
        ServiceState::Enforced => judged,
        ServiceState::Open => Decision::without_policy(Effect::Allow, Reason::ServiceOpen),
        ServiceState::Shadow => {
            let shadow = (!judged.is_allow()).then(|| Box::new(judged));
            Decision {
                shadow,
                ..Decision::without_policy(Effect::Allow, Reason::ServiceShadow)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_and_methods_agree() {
        assert_eq!(Action::from_method("GET"), Action::Get);
        assert_eq!(
            Action::from_method("get"),
            Action::Other,
            "methods are case-sensitive"
        );
        assert_eq!(Action::from_method("CONNECT"), Action::Other);
        assert_eq!(
            Action::from_method("connect"),
            Action::Other,
            "not the TCP action"
        );
        for action in Action::ALL {
            assert_eq!(action.as_str().parse::<Action>().unwrap(), action);
        }
        assert!("get".parse::<Action>().is_err());
    }

    #[test]
    fn states_bind_or_not() {
        let deny = Decision::without_policy(Effect::Deny, Reason::NoPermit);
        assert_eq!(apply_state(ServiceState::Enforced, deny.clone()), deny);
        let shadow = apply_state(ServiceState::Shadow, deny.clone());
        assert!(shadow.is_allow());
        assert_eq!(shadow.shadow.as_deref(), Some(&deny));
        let open = apply_state(ServiceState::Open, deny);
        assert_eq!((open.is_allow(), open.shadow), (true, None));
    }
}
