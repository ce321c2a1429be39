//! Gateway API's precedence: of all rules that match, the most specific is taken
//! (<https://gateway-api.sigs.k8s.io/reference/spec/#httprouterule>, `matches`).

use std::cmp::Reverse;

use reeve_core::{
    Namespace,
    model::{Route, RouteMatch, StringMatch},
};

use super::{
    Index,
    routes::{Place, routes},
};
use crate::{
    Service,
    mesh::{Precedence, VirtualService},
};

/// The most specific first; what is equally specific stays in its order, by namespace, name and place in its route.
pub(super) fn sort(routes: &mut [Route]) {
    routes.sort_by_key(|route| Reverse(route.matches.first().map(rank)));
}

/// Exact paths before prefixes before expressions, then the longer one, then a method, then the number of headers and of
/// query parameters.
fn rank(one: &RouteMatch) -> (u8, usize, bool, usize, usize) {
    let (kind, length) = match &one.uri {
        Some(StringMatch::Exact(path)) => (3, path.len()),
        // `/a/` is the same prefix as `/a`.
        Some(StringMatch::PathPrefix(path)) => (2, path.trim_end_matches('/').len()),
        Some(StringMatch::Prefix(path)) => (2, path.len()),
        Some(StringMatch::Regex(pattern)) => (1, pattern.len()),
        None => (0, 0),
    };
    let method = one.method.is_some();
    (
        kind,
        length,
        method,
        one.headers.len(),
        one.query_params.len(),
    )
}

/// The rules that are attached to a service for its callers; none = nothing is attached.
pub(super) fn of_service(index: &Index<'_>, service: &Service, place: &Place<'_>) -> Vec<Route> {
    let chosen = attached(index, service, place, |v| !v.http.is_empty());
    let mut all: Vec<Route> = chosen
        .into_iter()
        .flat_map(|v| routes(index, v, place))
        .collect();
    sort(&mut all);
    all
}

/// What is attached to a service for its callers, of that which is `wanted`. What the caller's own namespace attached goes
/// before the service's own (GEP-1324).
pub(super) fn attached<'i>(
    index: &Index<'i>,
    service: &Service,
    place: &Place<'_>,
    wanted: impl Fn(&VirtualService) -> bool,
) -> Vec<&'i VirtualService> {
    let Place::Mesh { workload, .. } = place else {
        return Vec::new();
    };
    let attached = index.naming.exactly(service.host.as_str());
    let attached = attached.filter(|v| v.precedence == Precedence::MostSpecific && wanted(v));
    let attached: Vec<&VirtualService> = attached.collect();
    let of = |namespace: &Namespace| -> Vec<&'i VirtualService> {
        let own = attached.iter().filter(|v| v.namespace == *namespace);
        own.copied().collect()
    };
    let own = of(&workload.namespace);
    match own.is_empty() {
        true => of(&service.namespace),
        false => own,
    }
}
