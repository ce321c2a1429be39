//! One generation of configuration, compiled: everything a request is judged and routed by.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use foldhash::HashMap;
use http::{HeaderName, HeaderValue};
use reeve_audit::{LookedFor, Redaction};
use reeve_authz::{Engine, JwtVerifier, PolicyFault};
use reeve_core::access_log::FormatError;
use reeve_core::model::{
    Generation, InboundListener, OutboundListener, OutboundPolicy, PathNormalization, PolicySlice,
    PolicySource, ProxyConfig, ProxyRole, RouteTableName, WorkloadConfig,
};
use reeve_core::{Clock, ServiceName, SystemClock};

use crate::{
    access_log::LogFormat,
    breaker::ClusterState,
    cluster::Clusters,
    dns::{self, Answers},
    edge::{Material, ServerKey, TlsServers, WatchedFiles},
    external::External,
    global_limit::GlobalLimits,
    head::Head,
    hello::ServerName,
    judge::Place,
    ledger::Unrecorded,
    peer_info::PeerInfo,
    rate_limit::RateLimits,
    route::{CompiledRoute, Found, Names, RequestView, RouteError, SniTable, Table, Taken},
    transform::Transformations,
};

/// A compiled [`ProxyConfig`]. Immutable; a request takes one and sees no other.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) config: Arc<ProxyConfig>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) jwt: Arc<JwtVerifier>,
    pub(crate) clusters: Clusters,
    pub(crate) inbound: HashMap<SocketAddr, Arc<Inbound>>,
    pub(crate) outbound: HashMap<SocketAddr, Arc<Outbound>>,
    /// Headers that policies read or the record keeps.
    pub(crate) wanted_headers: Vec<HeaderName>,
    /// What requests are searched for, as the record says it.
    pub(crate) looked_for: LookedFor,
    pub(crate) redaction: Redaction,
    /// Policies in force by break-glass, ordered by id.
    pub(crate) break_glass: Arc<[PolicySource]>,
    /// SHA-256 of the policy slice held here, with what is in force by break-glass.
    pub(crate) projection_hash: String,
    /// The proxy's own workload, for metric labels.
    pub(crate) own: Arc<PeerInfo>,
    /// The same, as mesh peers are told.
    pub(crate) own_header: Option<HeaderValue>,
    /// What access log lines look like.
    pub(crate) log_format: LogFormat,
    /// How many requests the workload takes.
    pub(crate) rate_limits: RateLimits,
    /// What is changed of its requests and responses.
    pub(crate) transformations: Transformations,
    pub(crate) global_limits: GlobalLimits,
    /// Who is asked about its requests beforehand.
    pub(crate) external: External,
    /// Names that its endpoints have.
    pub(crate) names: BTreeSet<ServiceName>,
    /// Files that certificates were read from.
    pub(crate) files: WatchedFiles,
    tables: BTreeMap<RouteTableName, Arc<Table>>,
}

/// What a configuration is compiled with beside itself.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) clock: Arc<dyn Clock>,
    /// What names stand for.
    pub(crate) answers: Arc<Answers>,
    /// Policies in force by break-glass, ordered by id.
    pub(crate) break_glass: Arc<[PolicySource]>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            answers: Arc::default(),
            break_glass: Arc::default(),
        }
    }
}

/// An inbound listener and what every request to it has in common.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) listener: InboundListener,
    /// Where its requests are judged.
    pub(crate) place: Arc<Place>,
    /// The application's address as logs have it.
    pub(crate) upstream: Arc<str>,
    /// What is under way to the application, where that is bounded.
    pub(crate) under_way: Arc<ClusterState>,
}

impl Inbound {
    pub(crate) fn new(workload: &WorkloadConfig, listener: InboundListener) -> Self {
        Self {
            place: Arc::new(Place::inbound(workload, &listener)),
            upstream: listener.app.to_string().into(),
            under_way: Arc::new(ClusterState::new()),
            listener,
        }
    }
}

/// An outbound listener and the route that its address alone means.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) listener: OutboundListener,
    pub(crate) straight: Option<Arc<CompiledRoute>>,
    /// Where TLS goes by its server name, if that is what decides.
    pub(crate) sni: Option<SniTable>,
    /// Where TLS is ended, by its server name.
    pub(crate) servers: Option<TlsServers>,
    /// Authorities that are served by `https` alone.
    pub(crate) https_only: Option<Names>,
}

fn https_only(hosts: &[String]) -> Option<Names> {
    (!hosts.is_empty()).then(|| Names::new(std::iter::once(hosts)))
}

impl Outbound {
    /// Where a request that came in plaintext is sent instead.
    pub(crate) fn by_https(&self, head: &Head) -> Option<String> {
        let names = self.https_only.as_ref()?;
        names.find(&ServerName::Named(head.host().to_owned()))?;
        Some(format!("https://{}{}", head.authority, head.target()))
    }

    /// Where what came by the TLS server of that name goes; the listener itself where there was none.
    pub(crate) fn inside(self: &Arc<Self>, server: Option<&ServerKey>) -> Option<&Arc<Self>> {
        match server {
            None => Some(self),
            Some(key) => Some(&self.servers.as_ref()?.get(key)?.outbound),
        }
    }
}

/// Why a configuration cannot be used; the last good one stays.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Policies that do not compile.
    #[error("{} of the policies do not compile; the first: {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Policies(Vec<PolicyFault>),
    /// A route table that does not compile.
    #[error("a route table cannot be used: {0}")]
    Routes(#[from] RouteError),
    /// Two listeners on one address.
    #[error("two listeners bind {0}")]
    DuplicateListener(SocketAddr),
    /// An access log format that cannot be read.
    #[error("the access log's format cannot be used")]
    AccessLog(#[from] FormatError),
    /// A header name to record that HTTP does not allow.
    #[error("{0:?} is no legal name of a header to record")]
    RecordedHeader(String),
}

impl Snapshot {
    /// Compiles everything, so that applying it can fail only at binding addresses.
    pub fn compile(config: Arc<ProxyConfig>) -> Result<Self, SnapshotError> {
        Self::compile_after(config, None, &Surroundings::default())
    }

    /// The same, keeping what `before` has already compiled of it.
    pub fn compile_again(config: Arc<ProxyConfig>, before: &Self) -> Result<Self, SnapshotError> {
        Self::compile_after(config, Some(before), &Surroundings::default())
    }

    /// The same, keeping what `before` has already compiled of it.
    pub(crate) fn compile_after(
        config: Arc<ProxyConfig>,
        before: Option<&Self>,
        around: &Surroundings,
    ) -> Result<Self, SnapshotError> {
        let (engine, projection_hash) = engine(&config, &around.break_glass, before)?;
        let workload = &config.workload;
        let same_rules = |b: &&Self| b.workload().jwt_rules == workload.jwt_rules;
        let jwt = match before.filter(same_rules) {
            Some(before) => Arc::clone(&before.jwt),
            None => Arc::new(JwtVerifier::compile(&workload.jwt_rules)),
        };
        let own = PeerInfo::of(workload);
        let tables = tables(&config, before)?;
        let material = Material::new(&config.secrets, &around.clock);
        let (inbound, outbound) = listeners(workload, &material, before)?;
        let wanted_headers = wanted_headers(&engine, workload)?;
        Ok(Self {
            jwt,
            clusters: Clusters::compile(&config, before, &around.answers, &material),
            names: dns::wanted(&config),
            looked_for: LookedFor::new(
                wanted_headers.iter().map(HeaderName::as_str),
                engine.needs().query.iter().map(String::as_str),
                !workload.jwt_rules.is_empty(),
            ),
            redaction: redaction(workload),
            wanted_headers,
            break_glass: around.break_glass.clone(),
            projection_hash,
            own_header: own.to_value(),
            own: Arc::new(own),
            external: External::compile(
                workload,
                &config.policies,
                before.map(|before| &before.external),
            )?,
            global_limits: GlobalLimits::compile(
                workload,
                before.map(|before| &before.global_limits),
            )?,
            rate_limits: RateLimits::compile(
                &workload.rate_limits,
                before.map(|before| &before.rate_limits),
            )?,
            transformations: Transformations::compile(&workload.transformations)?,
            log_format: LogFormat::compile(&workload.telemetry.access_log)?,
            engine,
            tables,
            files: material.watched(),
            inbound,
            outbound,
            config,
        })
    }

    /// Which generation this is.
    pub fn generation(&self) -> Generation {
        self.config.generation
    }

    /// Hash of the mesh's policy set.
    pub fn policy_hash(&self) -> &str {
        self.engine.mesh_hash()
    }

    /// The configuration it was compiled from.
    pub fn config(&self) -> &Arc<ProxyConfig> {
        &self.config
    }

    pub(crate) fn workload(&self) -> &WorkloadConfig {
        &self.config.workload
    }

    /// What becomes of decisions that cannot be recorded.
    pub(crate) fn unrecorded(&self) -> Unrecorded {
        match self.workload().danger_pass_unrecorded {
            true => Unrecorded::Passes,
            false => Unrecorded::Denied,
        }
    }

    /// Whether any policy asks for the server name in a connection's ClientHello.
    pub(crate) fn looks_at_sni(&self) -> bool {
        self.engine.needs().sni || self.external.looks_at_sni()
    }

    pub(crate) fn is_gateway(&self) -> bool {
        self.workload().role == ProxyRole::Gateway
    }

    /// The route that a GET would take, named as logs name it: for those who measure what looking it up costs.
    pub fn route_of(&self, bind: SocketAddr, authority: &str, path: &str) -> Option<Arc<str>> {
        let none = http::HeaderMap::new();
        let request = RequestView {
            scheme: "http",
            authority,
            method: "GET",
            path,
            query: None,
            headers: &none,
            claims: None,
        };
        match self.route(self.outbound.get(&bind)?, &request) {
            Routed::None { .. } | Routed::Elsewhere(_) => None,
            Routed::Route { route, .. } => Some(route.name.clone()),
        }
    }

    /// How paths of requests for `authority` are normalised that come in at `outbound`: as where they go, if that is known.
    pub(crate) fn path_normalization(
        &self,
        outbound: &Outbound,
        authority: &str,
    ) -> PathNormalization {
        let listener = &outbound.listener;
        let service = listener.service.as_ref();
        let of_host = || {
            self.tables
                .get(&listener.routes)?
                .path_normalization(authority, service)
        };
        let own = listener.path_normalization.or_else(of_host);
        own.unwrap_or(self.workload().path_normalization)
    }

    /// Matches a request that came in at `outbound`.
    pub(crate) fn route(&self, outbound: &Outbound, request: &RequestView<'_>) -> Routed<'_> {
        let service = outbound.listener.service.as_ref();
        let found = self.tables.get(&outbound.listener.routes);
        let found = found.map_or(Found::NoHost, |table| table.find(request, service));
        match (found, &outbound.straight) {
            (Found::NoHost, Some(route)) => Routed::Route {
                route: route.clone(),
                host: None,
                index: 0,
                taken: Taken::default(),
            },
            (Found::NoHost, None) => match outbound.listener.unknown {
                Some(policy) => Routed::Elsewhere(policy),
                None => Routed::None { host: None },
            },
            (Found::NoRoute(host), _) => Routed::None {
                host: Some(&host.name),
            },
            (
                Found::Route {
                    host,
                    route,
                    index,
                    taken,
                },
                _,
            ) => Routed::Route {
                route: route.clone(),
                host: Some(&host.name),
                index,
                taken,
            },
        }
    }
}

/// Where a request goes.
#[derive(Debug)]
pub(crate) enum Routed<'s> {
    /// 404: no virtual host, or none of its routes.
    None { host: Option<&'s str> },
    /// No virtual host has this authority, and this says what becomes of it.
    Elsewhere(OutboundPolicy),
    /// This route.
    Route {
        route: Arc<CompiledRoute>,
        host: Option<&'s str>,
        index: usize,
        taken: Taken,
    },
}

/// The route tables; those that are the same as before are kept, and of others the virtual hosts that are.
fn tables(
    config: &ProxyConfig,
    before: Option<&Snapshot>,
) -> Result<BTreeMap<RouteTableName, Arc<Table>>, RouteError> {
    let mut tables = BTreeMap::new();
    for (name, table) in &config.routes {
        let known = before.and_then(|b| b.tables.get(name));
        let source = before.and_then(|b| b.config.routes.get(name));
        let same = source.is_some_and(|source| Arc::ptr_eq(source, table) || source == table);
        let compiled = match known {
            Some(known) if same => known.clone(),
            known => Arc::new(Table::compile(table, known.map(Arc::as_ref))?),
        };
        tables.insert(name.clone(), compiled);
    }
    Ok(tables)
}

/// The engine, and the hash of its slice.
fn engine(
    config: &ProxyConfig,
    break_glass: &[PolicySource],
    before: Option<&Snapshot>,
) -> Result<(Arc<Engine>, String), SnapshotError> {
    let domain = config.workload.identity.trust_domain();
    if let Some(before) = before
        && before.config.policies == config.policies
        && *before.break_glass == *break_glass
        && before.workload().identity.trust_domain() == domain
    {
        return Ok((Arc::clone(&before.engine), before.projection_hash.clone()));
    }
    let known = before.map(|before| before.engine.as_ref());
    let slice = beside(&config.policies, break_glass);
    let engine = Engine::compile_after(&slice, known).map_err(SnapshotError::Policies)?;
    let hash = reeve_authz::slice_hash(&slice);
    Ok((Arc::new(engine.in_trust_domain(domain)), hash))
}

/// The slice with what is in force by break-glass beside it. The hash of the mesh's set stays that of the set.
fn beside<'s>(slice: &'s PolicySlice, break_glass: &[PolicySource]) -> Cow<'s, PolicySlice> {
    if break_glass.is_empty() {
        return Cow::Borrowed(slice);
    }
    let mut slice = slice.clone();
    slice.policies.extend_from_slice(break_glass);
    slice.policies.sort_by(|a, b| a.id.cmp(&b.id));
    Cow::Owned(slice)
}

type Inbounds = HashMap<SocketAddr, Arc<Inbound>>;
type Outbounds = HashMap<SocketAddr, Arc<Outbound>>;

fn listeners(
    workload: &WorkloadConfig,
    material: &Material<'_>,
    before: Option<&Snapshot>,
) -> Result<(Inbounds, Outbounds), SnapshotError> {
    let mut inbound = HashMap::default();
    let mut outbound = HashMap::default();
    for listener in &workload.inbound {
        let mut entry = Inbound::new(workload, listener.clone());
        if let Some(known) = before.and_then(|b| b.inbound.get(&listener.bind)) {
            entry.under_way = known.under_way.clone();
        }
        if inbound.insert(listener.bind, Arc::new(entry)).is_some() {
            return Err(SnapshotError::DuplicateListener(listener.bind));
        }
    }
    for listener in &workload.outbound {
        let straight = listener.service.clone();
        let entry = Outbound {
            straight: straight
                .map(|(service, port)| Arc::new(CompiledRoute::straight_to(service, port))),
            sni: SniTable::compile(&listener.sni),
            servers: TlsServers::compile(listener, material),
            https_only: https_only(&listener.https_redirect),
            listener: listener.clone(),
        };
        let doubled = outbound.insert(listener.bind, Arc::new(entry)).is_some();
        if doubled || inbound.contains_key(&listener.bind) {
            return Err(SnapshotError::DuplicateListener(listener.bind));
        }
    }
    Ok((inbound, outbound))
}

/// What records do not keep. SECURITY: wherever a token may be taken from, its bytes are not recorded.
fn redaction(workload: &WorkloadConfig) -> Redaction {
    let rules = &workload.jwt_rules;
    let headers = rules.iter().flat_map(|rule| &rule.from_headers);
    let query = rules.iter().flat_map(|rule| &rule.from_params);
    Redaction::new(
        &workload.field_classes,
        headers.map(|header| header.name.as_str()),
        query.map(String::as_str),
    )
}

fn wanted_headers(
    engine: &Engine,
    workload: &WorkloadConfig,
) -> Result<Vec<HeaderName>, SnapshotError> {
    let names: BTreeSet<&String> = engine
        .needs()
        .headers
        .iter()
        .chain(&workload.recorded_headers)
        .collect();
    let parse = |name: &String| {
        HeaderName::try_from(name.as_str()).map_err(|_| SnapshotError::RecordedHeader(name.clone()))
    };
    names.into_iter().map(parse).collect()
}
