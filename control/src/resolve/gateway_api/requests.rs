//! Rules of `HTTPRoute` and `GRPCRoute`.

use reeve_core::model::RetryPolicy;

use super::{Kind, Known, backends, filters, matches, rule_path};
use crate::{
    Code,
    kinds::{
        BackendRefSpec, FilterSpec, KubernetesGrpcRouteSpec, KubernetesHttpRouteSpec,
        RouteRetrySpec, TimeoutsSpec,
    },
    mesh::{HttpRoute, Match, RouteTo},
    resolve::values::Notes,
    source::path::Path,
};

/// What both kinds have in common.
struct Rule<'a> {
    name: Option<&'a String>,
    filters: &'a [FilterSpec],
    backends: &'a [BackendRefSpec],
    timeouts: Option<&'a TimeoutsSpec>,
    retry: Option<&'a RouteRetrySpec>,
}

pub(super) fn http(
    notes: &mut Notes<'_, KubernetesHttpRouteSpec>,
    known: &Known<'_>,
) -> Vec<HttpRoute> {
    let mut all = Vec::new();
    for (n, spec) in notes.object.spec.rules.iter().enumerate() {
        let path = rule_path(n);
        let rule = Rule {
            name: spec.name.as_ref(),
            filters: &spec.filters,
            backends: &spec.backend_refs,
            timeouts: spec.timeouts.as_ref(),
            retry: spec.retry.as_ref(),
        };
        let matches = matches::http(notes, &path.key("matches"), &spec.matches);
        all.extend(expand(notes, &path, &rule, matches, Kind::Http, known));
    }
    all
}

pub(super) fn grpc(
    notes: &mut Notes<'_, KubernetesGrpcRouteSpec>,
    known: &Known<'_>,
) -> Vec<HttpRoute> {
    let mut all = Vec::new();
    for (n, spec) in notes.object.spec.rules.iter().enumerate() {
        let path = rule_path(n);
        let rule = Rule {
            name: spec.name.as_ref(),
            filters: &spec.filters,
            backends: &spec.backend_refs,
            timeouts: None,
            retry: None,
        };
        let matches = matches::grpc(notes, &path.key("matches"), &spec.matches);
        all.extend(expand(notes, &path, &rule, matches, Kind::Grpc, known));
    }
    all
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
