//! `route explain`: what the proxy would do with one request, told by the code that would do it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use http::{HeaderName, HeaderValue, Request};
use reeve_audit::{AuthenticatedBy, Direction};
use reeve_core::{
    PolicyId, SpiffeId, UnixTime,
    decision::{Principal, User, apply_state},
    model::{
        Destination, DestinationHeaders, Fault, Mirror, OutboundPolicy, PathNormalization,
        ProxyConfig, RouteAction,
    },
};
use serde::{Deserialize, Serialize};

use crate::{
    elsewhere,
    head::Head,
    hello::ServerName,
    judge::{Peer, Place, Question, Transformed},
    local::location,
    route::{CompiledRoute, RequestView},
    snapshot::{Outbound, Routed, Snapshot, SnapshotError},
};

/// One request to explain.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// `inbound` or `outbound`.
    pub direction: Direction,
    /// The address that the request comes in at; any listener of that port when absent.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// The port that it comes in at.
    pub port: u16,
    /// The server name in the ClientHello, where TLS is ended or passed through; none when absent.
    #[serde(default)]
    pub sni: Option<String>,
    /// `GET` when absent.
    #[serde(default = "get")]
    pub method: String,
    /// The authority; for an address that stands for a service it may be absent.
    #[serde(default)]
    pub authority: String,
    /// Path, with a query if there is one.
    #[serde(default = "root")]
    pub path: String,
    /// Header name → values.
    #[serde(default)]
    pub headers: BTreeMap<String, Vec<String>>,
    /// The peer's identity, proved by mTLS; plaintext when absent.
    #[serde(default)]
    pub peer: Option<SpiffeId>,
    /// The peer's address.
    #[serde(default)]
    pub source_ip: Option<IpAddr>,
    /// The client's address, where proxies that are trusted say another one.
    #[serde(default)]
    pub remote_ip: Option<IpAddr>,
    /// The verified end user.
    #[serde(default)]
    pub user: Option<User>,
    /// When.
    #[serde(default)]
    pub time: UnixTime,
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

/// What the proxy would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The listener's address.
    pub listener: Option<SocketAddr>,
    /// The path as it is judged, matched and sent.
    pub path: Option<String>,
    /// How it was normalised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_normalization: Option<PathNormalization>,
    /// The virtual host.
    pub virtual_host: Option<String>,
    /// The route: its name, or its number in the virtual host.
    pub route: Option<String>,
    /// Where it may go, with weights.
    pub destinations: Vec<ExplainedDestination>,
    /// The path after the route's rewrite.
    pub rewritten_path: Option<String>,
    /// The authority after the route's rewrite.
    pub rewritten_authority: Option<String>,
    /// What is changed of the request before it is judged and routed, and of the response.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transformations: Vec<ExplainedTransformation>,
    /// Changes of the route to the request's headers, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub request_headers: Vec<String>,
    /// Changes of the route to the response's headers, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub response_headers: Vec<String>,
    /// Who gets copies, and of how many requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<ExplainedMirror>,
    /// The name under which the route counts the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stat_prefix: Option<String>,
    /// The origin that may read the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_origin: Option<String>,
    /// Where a redirect leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Status of an answer that needs no upstream.
    pub answer: Option<u16>,
    /// Bound on the exchange, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Tries after the first.
    pub retries: u32,
    /// Faults put in on purpose, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
    /// The servers that are asked about it before the policies are, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<ExplainedAsking>,
    /// What the policies say; absent when another proxy decides.
    pub decision: Option<reeve_authz::Explanation>,
    /// What stands in the way, in words.
    pub refused: Option<String>,
}

/// A server that is asked about a request, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedAsking {
    /// The provider.
    pub provider: String,
    /// The service that it is.
    pub service: String,
    /// The service's port.
    pub port: u16,
    /// The policies by which it is asked.
    pub policies: Vec<PolicyId>,
    /// Whether nobody is asked, since the policies are tried alone (`istio.io/dry-run`).
    pub shadow: bool,
}

/// One weighted destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedMirror {
    /// Where copies go.
    pub to: ExplainedDestination,
    /// Of how many requests in a hundred.
    pub percent: f64,
    /// Headers that copies go without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without_headers: Vec<String>,
}

/// A transformation that concerns the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedTransformation {
    /// `namespace/name`.
    pub name: String,
    /// Who answers for it.
    pub owner: String,
    /// From then on it does nothing.
    pub expires: UnixTime,
    /// What it does, in words.
    pub changes: Vec<String>,
}

/// A destination of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedDestination {
    /// The service.
    pub service: String,
    /// Its subset.
    pub subset: Option<String>,
    /// The service's port.
    pub port: u16,
    /// Share, relative to the sum of all.
    pub weight: u32,
    /// The endpoints behind it.
    pub endpoints: Vec<SocketAddr>,
    /// Changes to headers of what goes there and comes back, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
}

/// Explains one request under one configuration.
pub fn explain(
    config: &ProxyConfig,
    request: &ExplainRequest,
) -> Result<Explanation, SnapshotError> {
    let snapshot = Snapshot::compile(Arc::new(config.clone()))?;
    let mut told = Explanation::default();
    let head = match head(&snapshot, request) {
        Ok(head) => Arc::new(head),
        Err(reason) => {
            told.refused = Some(reason);
            return Ok(told);
        }
    };
    told.path = Some(head.path.clone());
    told.path_normalization = Some(head.normalization);
    let judges = request.direction == Direction::Inbound || snapshot.is_gateway();
    let (head, received) = match judges {
        true => transform(&snapshot, request, head, &mut told),
        false => (head, None),
    };
    let head = (head, received);
    match request.direction {
        Direction::Inbound => inbound(&snapshot, request, head, &mut told),
        Direction::Outbound => outbound(&snapshot, request, head, &mut told),
    }
    Ok(told)
}

/// A head as it is judged and sent, and what it was before.
type Heads = (Arc<Head>, Option<Arc<Transformed>>);

fn transform(
    snapshot: &Snapshot,
    request: &ExplainRequest,
    received: Arc<Head>,
    told: &mut Explanation,
) -> Heads {
    let applying = snapshot.transformations.concerning(&received, request.time);
    let Some(applying) = applying else {
        return (received, None);
    };
    let rules = applying.rules().map(|rule| ExplainedTransformation {
        name: rule.name.clone(),
        owner: rule.owner.clone(),
        expires: rule.expires,
        changes: rule.describe(),
    });
    told.transformations = rules.collect();
    let mut sent = (*received).clone();
    let by = applying.change_head(&mut sent);
    (Arc::new(sent), Some(Arc::new(Transformed { received, by })))
}

fn head(snapshot: &Snapshot, asked: &ExplainRequest) -> Result<Head, String> {
    let mut builder = Request::builder()
        .method(asked.method.as_str())
        .uri(asked.path.as_str());
    let authority = match asked.authority.as_str() {
        "" => "unnamed.invalid",
        authority => authority,
    };
    builder = builder.header(http::header::HOST, authority);
    let mut request = builder.body(()).map_err(|e| e.to_string())?;
    for (name, values) in &asked.headers {
        let name = HeaderName::try_from(name.as_str()).map_err(|e| e.to_string())?;
        for value in values {
            let value = HeaderValue::try_from(value.as_str()).map_err(|e| e.to_string())?;
            request.headers_mut().append(name.clone(), value);
        }
    }
    let (parts, ()) = request.into_parts();
    let mode = |host: &str| path_normalization(snapshot, asked, host);
    Head::read_for(parts, mode).map_err(|e| e.error.to_string())
}

fn path_normalization(
    snapshot: &Snapshot,
    asked: &ExplainRequest,
    authority: &str,
) -> PathNormalization {
    let workload = snapshot.workload();
    let mode = match asked.direction {
        Direction::Inbound => {
            let found = workload.inbound.iter().find(|l| matches(l.bind, asked));
            found.map(|listener| listener.path_normalization)
        }
        Direction::Outbound => {
            let found = workload.outbound.iter().find(|l| matches(l.bind, asked));
            let outbound = found.and_then(|l| snapshot.outbound.get(&l.bind));
            outbound.map(|outbound| snapshot.path_normalization(outbound, authority))
        }
    };
    mode.unwrap_or(workload.path_normalization)
}

fn matches(bind: SocketAddr, request: &ExplainRequest) -> bool {
    bind.port() == request.port && request.address.is_none_or(|address| address == bind.ip())
}

fn inbound(
    snapshot: &Snapshot,
    request: &ExplainRequest,
    (head, transformed): Heads,
    told: &mut Explanation,
) {
    let listeners = &snapshot.workload().inbound;
    let Some(listener) = listeners.iter().find(|l| matches(l.bind, request)) else {
        told.refused = Some("no inbound listener has this address and port".to_owned());
        return;
    };
    told.listener = Some(listener.bind);
    let head = listener.protocol.is_http().then_some(head);
    let place = Place::inbound(snapshot.workload(), listener);
    let state = place.state;
    decide(snapshot, request, place, (head, transformed), told);
    if let Some(explained) = &mut told.decision {
        explained.decision = apply_state(state, explained.decision.clone());
    }
}

fn decide(
    snapshot: &Snapshot,
    request: &ExplainRequest,
    place: Place,
    (head, transformed): (Option<Arc<Head>>, Option<Arc<Transformed>>),
    told: &mut Explanation,
) {
    let address = request.source_ip.unwrap_or(Ipv4Addr::LOCALHOST.into());
    let stranger = Peer::stranger(address).asking_for(request.sni.as_deref());
    let stranger = match request.remote_ip {
        Some(client) => stranger.for_client(client),
        None => stranger,
    };
    let peer = match &request.peer {
        Some(id) => Peer {
            principal: Principal::Workload(id.clone()),
            authenticated_by: AuthenticatedBy::Mtls,
            ..stranger
        },
        None => stranger,
    };
    let question = Question {
        peer,
        place: Arc::new(place),
        user: request.user.clone().map(Into::into),
        head,
        transformed,
        said: None,
    };
    told.asked = snapshot.external.explain(&question, request.time);
    let verdict = question.ask(snapshot, request.time);
    if question.strict_refuses() {
        told.refused = Some("STRICT: plaintext is refused".to_owned());
    }
    told.decision = Some(snapshot.engine.explain(&verdict.access));
}

fn outbound(
    snapshot: &Snapshot,
    request: &ExplainRequest,
    (head, transformed): Heads,
    told: &mut Explanation,
) {
    let listeners = &snapshot.workload().outbound;
    let found = listeners.iter().find(|l| matches(l.bind, request));
    let Some(outbound) = found.and_then(|l| snapshot.outbound.get(&l.bind)) else {
        told.refused = Some("no outbound listener has this address and port".to_owned());
        return;
    };
    told.listener = Some(outbound.listener.bind);
    let name = server_name(request);
    let ended = outbound.servers.as_ref().and_then(|s| s.find(&name));
    let passed = outbound.sni.as_ref().and_then(|s| s.narrowness(&name));
    let ended = ended.filter(|(narrow, _)| passed.is_none_or(|passed| passed <= *narrow));
    let scheme = if ended.is_some() { "https" } else { "http" };
    let outbound = ended.map_or(outbound, |(_, server)| &server.outbound);
    let protocol = outbound.listener.protocol;
    let head = protocol.is_http().then_some(head);
    if snapshot.is_gateway() {
        let place = Place::gateway(snapshot.workload(), &outbound.listener);
        decide(snapshot, request, place, (head.clone(), transformed), told);
    }
    match head {
        Some(head) => {
            let user = request.user.as_ref().filter(|_| snapshot.is_gateway());
            let view = RequestView {
                scheme,
                claims: user,
                ..head.view()
            };
            route(snapshot, outbound, (&head, view), told);
        }
        None => connection(snapshot, outbound, &name, told),
    }
}

fn server_name(request: &ExplainRequest) -> ServerName {
    match &request.sni {
        Some(name) => ServerName::Named(name.to_ascii_lowercase()),
        None => ServerName::Unnamed,
    }
}

/// Where a connection goes whose bytes are not read as HTTP.
fn connection(snapshot: &Snapshot, outbound: &Outbound, name: &ServerName, told: &mut Explanation) {
    let found = match (&outbound.sni, &outbound.listener.service) {
        (Some(table), _) => table.find(name).map(|route| {
            told.route = Some(route.name.to_string());
            route.destinations.clone()
        }),
        (None, _) if !outbound.listener.tcp.is_empty() => Some(outbound.listener.tcp.clone()),
        (None, Some((service, port))) => Some(vec![Destination {
            weight: 1,
            ..Destination::new(service.clone(), *port)
        }]),
        (None, None) => None,
    };
    match found {
        Some(destinations) => told.destinations = explained(snapshot, &destinations),
        None => told.refused = Some("no route names that server: it is closed".to_owned()),
    }
}

/// Where a request goes whose authority stands for no service.
fn to_unknown(policy: OutboundPolicy, head: &Head, told: &mut Explanation) {
    match (policy, elsewhere::target(&head.authority)) {
        (OutboundPolicy::RegistryOnly, _) => {
            told.route = Some("block_all".to_owned());
            told.answer = Some(502);
        }
        (OutboundPolicy::AllowAny, None) => told.answer = Some(404),
        (OutboundPolicy::AllowAny, Some((host, port))) => {
            told.route = Some("allow_any".to_owned());
            let (service, endpoints) = match host {
                elsewhere::Host::Name(name) => (name.to_string(), Vec::new()),
                elsewhere::Host::Address(ip) => (ip.to_string(), vec![SocketAddr::new(ip, port)]),
            };
            told.destinations = vec![ExplainedDestination {
                service,
                subset: None,
                port,
                weight: 1,
                endpoints,
                headers: Vec::new(),
            }];
        }
    }
}

fn explained(snapshot: &Snapshot, destinations: &[Destination]) -> Vec<ExplainedDestination> {
    let one = |d: &Destination| {
        let key = (d.service.clone(), d.subset.clone(), d.port);
        let cluster = snapshot.clusters.get(&key);
        ExplainedDestination {
            service: d.service.to_string(),
            subset: d.subset.clone(),
            port: d.port,
            weight: d.weight,
            endpoints: cluster
                .map(|c| c.hops.iter().map(|hop| hop.address).collect())
                .unwrap_or_default(),
            headers: d.headers.as_deref().map(edits).unwrap_or_default(),
        }
    };
    destinations.iter().map(one).collect()
}

fn edits(headers: &DestinationHeaders) -> Vec<String> {
    let request = headers.request.describe().into_iter();
    let response = headers.response.describe().into_iter();
    let request = request.map(|edit| format!("request header {edit}"));
    request
        .chain(response.map(|edit| format!("response header {edit}")))
        .collect()
}

/// Those whose filter lets the request through.
fn mirrors(
    snapshot: &Snapshot,
    route: &CompiledRoute,
    request: &RequestView<'_>,
) -> Vec<ExplainedMirror> {
    let one = |mirror: &Mirror| ExplainedMirror {
        without_headers: mirror.remove_headers.clone(),
        to: explained(snapshot, std::slice::from_ref(&mirror.to))
            .pop()
            .unwrap_or_default(),
        percent: f64::from(mirror.per_million) / 10_000.0,
    };
    let mirrors = route.rule.mirrors.iter().zip(&route.mirror_filters);
    let copied = mirrors.filter(|(_, filter)| filter.holds(request));
    copied.map(|(mirror, _)| one(mirror)).collect()
}

fn route(
    snapshot: &Snapshot,
    outbound: &Outbound,
    (head, view): (&Head, RequestView<'_>),
    told: &mut Explanation,
) {
    if outbound.by_https(head).is_some() {
        told.answer = Some(301);
        return;
    }
    match snapshot.route(outbound, &view) {
        Routed::None { host } => {
            told.virtual_host = host.map(str::to_owned);
            told.answer = Some(404);
        }
        Routed::Elsewhere(policy) => to_unknown(policy, head, told),
        Routed::Route {
            route,
            host,
            index,
            taken,
        } => {
            told.virtual_host = host.map(str::to_owned);
            told.route = Some(route.rule.name.clone().unwrap_or_else(|| index.to_string()));
            told.stat_prefix = taken.stat_prefix.as_deref().map(str::to_owned);
            let rewritten = taken.path;
            told.mirrors = mirrors(snapshot, &route, &view);
            told.request_headers = route.rule.request_headers.describe();
            told.response_headers = route.rule.response_headers.describe();
            if let Some(cors) = &route.cors {
                let allowed = cors.allowed(&head.headers);
                let origin = allowed.and_then(|o| o.to_str().ok().map(str::to_owned));
                told.allowed_origin = origin;
                if let Some(preflight) = cors.preflight(&head.method, &head.headers) {
                    told.answer = Some(preflight.status().as_u16());
                    return;
                }
            }
            told.retries = route.retry.attempts;
            let fault = route.rule.fault.as_deref();
            told.faults = fault.map(Fault::describe).unwrap_or_default();
            let timeout = route.rule.timeout.map(|t| u64::try_from(t.as_millis()));
            told.timeout_ms = timeout.and_then(Result::ok);
            match &route.rule.action {
                RouteAction::Respond { status, .. } => told.answer = Some(*status),
                RouteAction::Redirect(redirect) => {
                    told.answer = Some(redirect.code);
                    told.location =
                        Some(location(redirect, rewritten.as_deref(), head, view.scheme));
                }
                RouteAction::Forward {
                    destinations,
                    rewrite,
                } => {
                    told.rewritten_path = rewritten;
                    let edited = route.request_edits.authority().map(str::to_owned);
                    told.rewritten_authority = rewrite.authority.clone().or(edited);
                    told.destinations = explained(snapshot, destinations);
                }
            }
        }
    }
}
