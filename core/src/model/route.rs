//! HTTP routes, with `VirtualService`'s meaning: the first route whose match holds is taken.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Fault, PathNormalization, RetryPolicy};
use crate::ServiceName;

/// Names a route table: the outbound port (`9080`) or a gateway's server (`gateway/ingress:8080`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RouteTableName(pub String);

impl fmt::Display for RouteTableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The virtual hosts that requests on one listener are matched against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    /// Its name.
    pub name: RouteTableName,
    /// Virtual hosts by their names; domains are unique across them.
    pub virtual_hosts: BTreeMap<String, Arc<VirtualHost>>,
}

impl RouteTable {
    /// A table of these; of two with one name the last stays.
    pub fn new(name: RouteTableName, hosts: impl IntoIterator<Item = VirtualHost>) -> Self {
        let hosts = hosts.into_iter();
        Self {
            name,
            virtual_hosts: hosts.map(|h| (h.name.clone(), Arc::new(h))).collect(),
        }
    }
}

/// Routes for a set of authorities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualHost {
    /// For people: the service and port, or the `VirtualService` with its namespace. Unique within its table.
    pub name: String,
    /// Authorities in lower case: `host`, `host:port`, `*.suffix` or `*`. Exact beats suffix (longest first) beats `*`.
    pub domains: Vec<String>,
    /// In order; the first that matches wins. None matching is 404.
    pub routes: Vec<Route>,
    /// How paths are normalised where the requests go; none: as at the workload that makes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_normalization: Option<PathNormalization>,
}

/// One rule of a virtual host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// From `http[].name`, for logs and explanations.
    pub name: Option<String>,
    /// Alternatives, one of which must hold; none means "always".
    pub matches: Vec<RouteMatch>,
    /// What to do.
    pub action: RouteAction,
    /// Bound on the whole exchange, retries included; none = unbounded, as in Istio.
    pub timeout: Option<Duration>,
    /// When and how often to try again.
    pub retries: RetryPolicy,
    /// Faults put in on purpose.
    #[serde(default)]
    pub fault: Option<Box<Fault>>,
    /// Changes to the request's headers.
    pub request_headers: HeaderOps,
    /// Changes to the response's headers.
    pub response_headers: HeaderOps,
    /// Who may read answers across origins.
    #[serde(default)]
    pub cors: Option<CorsPolicy>,
    /// Who gets copies of requests.
    #[serde(default)]
    pub mirrors: Vec<Mirror>,
}

impl Route {
    /// Does this for every request, and nothing else: Istio's defaults.
    pub fn new(action: RouteAction) -> Self {
        Self {
            name: None,
            matches: Vec::new(),
            action,
            timeout: None,
            retries: RetryPolicy::default(),
            fault: None,
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
            cors: None,
            mirrors: Vec::new(),
        }
    }

    /// Forwards every request to one port of one service.
    pub fn to(service: ServiceName, port: u16) -> Self {
        Self::new(RouteAction::Forward {
            destinations: vec![Destination::new(service, port)],
            rewrite: Rewrite::default(),
        })
    }
}

/// What happens to a request that matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteAction {
    /// Forward to one of these, by weight.
    Forward {
        /// Where to, with weights.
        destinations: Vec<Destination>,
        /// Changes to path and authority.
        #[serde(default)]
        rewrite: Rewrite,
    },
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Answer at once.
    Respond {
        /// Status.
        status: u16,
        /// Body, at most 1 MiB.
        body: Vec<u8>,
    },
}

/// Changes to what is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rewrite {
    /// The path's.
    pub path: Option<PathRewrite>,
    /// Replaces the authority.
    pub authority: Option<String>,
}

/// How a path is changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathRewrite {
    /// Replaces the matched prefix, or the whole path for other matches.
    Matched(String),
    /// Replaces the whole path.
    Full(String),
    /// Replaces whatever the expression finds; the substitution may name groups as `\1`.
    Regex {
        /// RE2 expression.
        pattern: String,
        /// What stands in its place.
        substitution: String,
    },
}

/// A redirect: what is not named stays as the caller had it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Redirect {
    /// New scheme.
    pub scheme: Option<String>,
    /// New authority.
    pub authority: Option<String>,
    /// New port; none that is the scheme's own is written.
    pub port: Option<u16>,
    /// New path; the query stays unless the path has one.
    pub path: Option<PathRewrite>,
    /// Status: 301, 302, 303, 307 or 308.
    pub code: u16,
}

/// A weighted destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// The service.
    pub service: ServiceName,
    /// One of its subsets.
    pub subset: Option<String>,
    /// The service's port.
    pub port: u16,
    /// Share, relative to the sum of all.
    pub weight: u32,
    /// Changes to headers of what goes there and comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Box<DestinationHeaders>>,
}

impl Destination {
    /// A port of a service as a whole.
    pub fn new(service: ServiceName, port: u16) -> Self {
        Self {
            service,
            subset: None,
            port,
            weight: 100,
            headers: None,
        }
    }
}

/// Changes to headers for one of several destinations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DestinationHeaders {
    /// The request's.
    pub request: HeaderOps,
    /// The response's.
    pub response: HeaderOps,
}

/// A destination that gets copies of requests; nobody waits for its answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// Where to; its weight says nothing.
    pub to: Destination,
    /// How many of a million requests.
    pub per_million: u32,
    /// Headers (lower-case names) that a request must have to be copied.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, HeaderMatch>,
    /// Headers that copies go without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_headers: Vec<String>,
}

/// Cross-origin resource sharing, with Envoy's meaning
/// (<https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/cors_filter>).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CorsPolicy {
    /// Origins that are allowed; the exact `*` allows all.
    pub allow_origins: Vec<StringMatch>,
    /// `Access-Control-Allow-Methods`.
    pub allow_methods: Vec<String>,
    /// `Access-Control-Allow-Headers`.
    pub allow_headers: Vec<String>,
    /// `Access-Control-Expose-Headers`.
    pub expose_headers: Vec<String>,
    /// `Access-Control-Max-Age`.
    pub max_age: Option<Duration>,
    /// `Access-Control-Allow-Credentials`.
    pub allow_credentials: bool,
    /// Whether preflights of other origins are answered here, without permission, instead of being forwarded.
    pub ignore_unmatched_preflights: bool,
}

/// Where TLS that the proxy does not end goes. The narrowest name wins: exact, then the longest suffix, then `*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SniRoute {
    /// For people: the `VirtualService` with its namespace.
    pub name: String,
    /// Server names in lower case: `host`, `*.suffix` or `*`; the last also stands for a ClientHello without a name.
    pub hosts: Vec<String>,
    /// Where to, with weights.
    pub destinations: Vec<Destination>,
    /// Whether it is the mesh's own TLS that passes, for the endpoint's proxy to end, and nothing else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub to_mesh: bool,
}

/// All conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteMatch {
    /// On the normalised path.
    pub uri: Option<StringMatch>,
    /// Ignore case in `uri` (exact and prefix).
    pub ignore_uri_case: bool,
    /// On the scheme.
    pub scheme: Option<StringMatch>,
    /// On the method.
    pub method: Option<StringMatch>,
    /// On the authority.
    pub authority: Option<StringMatch>,
    /// Headers (lower-case names) that must match.
    pub headers: BTreeMap<String, HeaderMatch>,
    /// Headers that must not match.
    pub without_headers: BTreeMap<String, HeaderMatch>,
    /// Query parameters that must match.
    pub query_params: BTreeMap<String, HeaderMatch>,
    /// Claims of the verified token (nested ones joined with dots) of which one value must match; at gateways alone.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, HeaderMatch>,
    /// Claims of which none may.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub without_claims: BTreeMap<String, HeaderMatch>,
    /// Name under which requests that matched are counted.
    pub stat_prefix: Option<String>,
}

impl RouteMatch {
    /// Whether every request matches: no condition but a path that any has (Istio's "catch all").
    pub fn is_catch_all(&self) -> bool {
        let any_path = match &self.uri {
            None => true,
            Some(StringMatch::Prefix(p) | StringMatch::PathPrefix(p)) => p == "/",
            Some(StringMatch::Regex(r)) => r == ".*",
            Some(StringMatch::Exact(_)) => false,
        };
        let no_text = self.scheme.is_none() && self.method.is_none() && self.authority.is_none();
        any_path
            && no_text
            && self.headers.is_empty()
            && self.without_headers.is_empty()
            && self.query_params.is_empty()
            && self.claims.is_empty()
            && self.without_claims.is_empty()
    }
}

/// A condition on a header or query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderMatch {
    /// It is there.
    Present,
    /// It has such a value.
    Value(StringMatch),
}

/// Istio's `StringMatch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StringMatch {
    /// Equal.
    Exact(String),
    /// Starts with.
    Prefix(String),
    /// Starts with these path elements: `/a` has `/a` and `/a/b`, not `/ab` (Gateway API's `PathPrefix`).
    PathPrefix(String),
    /// The whole value matches this RE2 expression; `control` has checked that it compiles.
    Regex(String),
}

/// Header changes: remove, then set, then add, as Envoy does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeaderOps {
    /// Overwrites.
    pub set: BTreeMap<String, String>,
    /// Appends.
    pub add: BTreeMap<String, String>,
    /// Removes.
    pub remove: Vec<String>,
}
