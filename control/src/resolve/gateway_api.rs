//! Gateway API (<https://gateway-api.sigs.k8s.io/reference/spec/>): `HTTPRoute` and `GRPCRoute` become what a
//! `VirtualService` becomes, with the most specific match first; a listener of a `Gateway` becomes a `Gateway` of its own.

mod backends;
mod filters;
mod gateways;
mod matches;
mod parents;

use reeve_core::{Namespace, ServiceName};

use super::{hosts::Services, values::Notes};
use crate::{
    Code, Fault,
    kinds::{
        BackendRefSpec, FilterSpec, GrpcRuleSpec, HttpRuleSpec, KubernetesGrpcRouteSpec,
        KubernetesHttpRouteSpec, Object, ReferenceGrantSpec, RouteRetrySpec, TimeoutsSpec,
    },
    mesh::{Gateway, HttpRoute, Match, Precedence, RouteTo, VirtualService},
    source::path::Path,
};
pub(super) use gateways::gateways;
use reeve_core::model::RetryPolicy;

/// What routes may refer to.
pub(super) struct Known<'a> {
    pub(super) services: &'a Services,
    pub(super) gateways: &'a [Gateway],
    pub(super) grants: &'a [Object<ReferenceGrantSpec>],
    /// Hosts that `VirtualService`s route for sidecars.
    pub(super) taken: &'a [VirtualService],
}

/// The kind of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Http,
    Grpc,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
        }
    }
}

/// What both kinds have in common.
struct Rule<'a> {
    name: Option<&'a String>,
    filters: &'a [FilterSpec],
    backends: &'a [BackendRefSpec],
    timeouts: Option<&'a TimeoutsSpec>,
    retry: Option<&'a RouteRetrySpec>,
}

pub(super) fn http_routes(
    objects: &[Object<KubernetesHttpRouteSpec>],
    known: &Known<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<VirtualService> {
    let mut all = Vec::new();
    for object in objects {
        let mut notes = Notes { object, faults };
        let notes = &mut notes;
        let rule = |(n, spec): (usize, &HttpRuleSpec), notes: &mut Notes<'_, _>| {
            let path = rule_path(n);
            let rule = Rule {
                name: spec.name.as_ref(),
                filters: &spec.filters,
                backends: &spec.backend_refs,
                timeouts: spec.timeouts.as_ref(),
                retry: spec.retry.as_ref(),
            };
            let matches = matches::http(notes, &path.key("matches"), &spec.matches);
            expand(notes, &path, &rule, matches, Kind::Http, known)
        };
        let mut rules = Vec::new();
        for each in object.spec.rules.iter().enumerate() {
            rules.extend(rule(each, notes));
        }
        let spec = &object.spec;
        all.extend(parents::attach(
            notes,
            &spec.parent_refs,
            &spec.hostnames,
            rules,
            Kind::Http,
            known,
        ));
    }
    all
}

pub(super) fn grpc_routes(
    objects: &[Object<KubernetesGrpcRouteSpec>],
    known: &Known<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<VirtualService> {
    let mut all = Vec::new();
    for object in objects {
        let mut notes = Notes { object, faults };
        let notes = &mut notes;
        let rule = |(n, spec): (usize, &GrpcRuleSpec), notes: &mut Notes<'_, _>| {
            let path = rule_path(n);
            let rule = Rule {
                name: spec.name.as_ref(),
                filters: &spec.filters,
                backends: &spec.backend_refs,
                timeouts: None,
                retry: None,
            };
            let matches = matches::grpc(notes, &path.key("matches"), &spec.matches);
            expand(notes, &path, &rule, matches, Kind::Grpc, known)
        };
        let mut rules = Vec::new();
        for each in object.spec.rules.iter().enumerate() {
            rules.extend(rule(each, notes));
        }
        let spec = &object.spec;
        all.extend(parents::attach(
            notes,
            &spec.parent_refs,
            &spec.hostnames,
            rules,
            Kind::Grpc,
            known,
        ));
    }
    all
}

fn rule_path(n: usize) -> Path {
    Path::of(&["spec", "rules"]).index(n)
}

/// One rule for each of its matches, since each is as specific as it is.
fn expand<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    rule: &Rule<'_>,
    matches: Vec<Match>,
    kind: Kind,
    known: &Known<'_>,
) -> Vec<HttpRoute> {
    let backends = backends::all(notes, &path.key("backendRefs"), rule.backends, kind, known);
    let mut route = HttpRoute {
        name: rule.name.cloned(),
        ..HttpRoute::new(RouteTo::Forward(backends))
    };
    let by_prefix = matches.iter().all(matches::is_by_prefix);
    filters::apply(
        notes,
        &path.key("filters"),
        rule.filters,
        kind,
        by_prefix,
        &mut route,
        known,
    );
    if matches!(&route.to, RouteTo::Forward(to) if to.iter().all(|to| to.weight == 0)) {
        // What the specification asks for where no backend can be asked.
        route.to = RouteTo::Respond {
            status: 500,
            body: Vec::new(),
        };
        route.rewrite = None;
    }
    if let Some(timeouts) = rule.timeouts {
        let path = path.key("timeouts");
        route.timeout = bound(notes, &path.key("request"), timeouts.request.as_deref());
        let one = bound(
            notes,
            &path.key("backendRequest"),
            timeouts.backend_request.as_deref(),
        );
        if let Some(one) = one {
            route.retries.get_or_insert_default().per_try_timeout = one;
        }
    }
    if let Some(retry) = rule.retry {
        retries(
            notes,
            &path.key("retry"),
            retry,
            route.retries.get_or_insert_default(),
        );
    }
    let each = matches.into_iter().map(|one| HttpRoute {
        matches: vec![one],
        ..route.clone()
    });
    each.collect()
}

/// `0s` is no bound.
#[expect(
    clippy::option_option,
    reason = "nothing said, said to be without bound, a bound"
)]
fn bound<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    text: Option<&str>,
) -> Option<Option<std::time::Duration>> {
    text.map(|text| match text {
        "0s" => None,
        text => notes.duration(path, text),
    })
}

fn retries<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    spec: &RouteRetrySpec,
    policy: &mut RetryPolicy,
) {
    if let Some(attempts) = spec.attempts {
        policy.attempts = attempts;
    }
    for (n, code) in spec.codes.iter().enumerate() {
        if !(400..600).contains(code) {
            let text = format!("{code} is no status of an error");
            notes.error(&path.key("codes").index(n), Code::Invalid, text);
        }
        policy.on.push(code.to_string());
    }
}

/// Whether an object of another namespace lets this kind of route refer to a service there.
fn is_granted(
    grants: &[Object<ReferenceGrantSpec>],
    (kind, from): (Kind, &Namespace),
    (to, name): (&Namespace, &str),
) -> bool {
    let there = grants.iter().filter(|g| g.namespace == *to);
    there.into_iter().any(|grant| {
        let from = grant
            .spec
            .from
            .iter()
            .any(|f| f.group == GROUP && f.kind == kind.name() && f.namespace == from.as_str());
        let to = grant.spec.to.iter().any(|t| {
            let any = t.name.as_deref().unwrap_or_default().is_empty();
            t.group.is_empty() && t.kind == "Service" && (any || t.name.as_deref() == Some(name))
        });
        from && to
    })
}

/// Gateway API's own group.
const GROUP: &str = "gateway.networking.k8s.io";

/// The host of a service by its short name.
fn host_of(name: &str, namespace: &Namespace) -> Option<ServiceName> {
    let host = format!("{name}.{namespace}.{}", super::hosts::CLUSTER_SUFFIX);
    ServiceName::parse(&host).ok()
}

/// Routes of one name and several parents are `VirtualService`s of one name.
fn virtual_service<S>(
    notes: &Notes<'_, S>,
    hosts: Vec<String>,
    http: Vec<HttpRoute>,
) -> VirtualService {
    VirtualService {
        export_to: Vec::new(),
        namespace: notes.object.namespace.clone(),
        name: notes.object.name.clone(),
        hosts,
        in_mesh: false,
        gateways: Vec::new(),
        http,
        tls: Vec::new(),
        tcp: Vec::new(),
        precedence: Precedence::MostSpecific,
    }
}
