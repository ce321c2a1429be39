//! A `VirtualService`'s rules as one listener of one proxy has them.

use reeve_core::{
    Namespace,
    model::{Destination, Route, RouteAction},
};

use super::{Index, only_port};
use crate::{
    LocalWorkload,
    mesh::{At, HttpRoute, RouteTo, To, VirtualService, is_subset},
};

/// Where routes are used: conditions on port, gateway and source are settled here and do not travel.
pub(super) enum Place<'a> {
    Mesh {
        workload: &'a LocalWorkload,
        port: u16,
    },
    Gateway {
        gateway: &'a (Namespace, String),
        port: u16,
    },
}

impl Place<'_> {
    pub(super) fn port(&self) -> u16 {
        match self {
            Self::Mesh { port, .. } | Self::Gateway { port, .. } => *port,
        }
    }

    pub(super) fn holds(&self, condition: &At) -> bool {
        let anywhere = !condition.in_mesh && condition.gateways.is_empty();
        let here = match self {
            Self::Mesh { workload, .. } => {
                let namespace = condition.source_namespace.as_deref();
                (anywhere || condition.in_mesh)
                    && is_subset(&condition.source_labels, &workload.labels)
                    && namespace.is_none_or(|n| n == workload.namespace.as_str())
            }
            Self::Gateway { gateway, .. } => anywhere || condition.gateways.contains(gateway),
        };
        here && condition.port.is_none_or(|p| p == self.port())
    }
}

/// The rules that hold at `place`, in order.
pub(super) fn routes(
    index: &Index<'_>,
    virtual_service: &VirtualService,
    place: &Place<'_>,
) -> Vec<Route> {
    let rules = virtual_service.http.iter();
    rules.filter_map(|rule| route(index, rule, place)).collect()
}

fn route(index: &Index<'_>, rule: &HttpRoute, place: &Place<'_>) -> Option<Route> {
    let holding: Vec<_> = rule.matches.iter().filter(|m| place.holds(&m.at)).collect();
    if holding.is_empty() && !rule.matches.is_empty() {
        return None;
    }
    Some(Route {
        name: rule.name.clone(),
        matches: holding.into_iter().map(|m| m.request.clone()).collect(),
        timeout: rule.timeout,
        retries: rule.retries.clone(),
        request_headers: rule.request_headers.clone(),
        response_headers: rule.response_headers.clone(),
        ..Route::new(action(index, &rule.to, place.port()))
    })
}

fn action(index: &Index<'_>, to: &RouteTo, listener: u16) -> RouteAction {
    match to {
        RouteTo::Forward {
            to,
            rewrite_uri,
            rewrite_authority,
        } => RouteAction::Forward {
            destinations: destinations(index, to, listener),
            rewrite_uri: rewrite_uri.clone(),
            rewrite_authority: rewrite_authority.clone(),
        },
        RouteTo::Redirect {
            uri,
            authority,
            code,
        } => RouteAction::Redirect {
            uri: uri.clone(),
            authority: authority.clone(),
            code: *code,
        },
        RouteTo::Respond { status, body } => RouteAction::Respond {
            status: *status,
            body: body.clone(),
        },
    }
}

/// Those that get anything, with their ports.
pub(super) fn destinations(index: &Index<'_>, to: &[To], listener: u16) -> Vec<Destination> {
    let destination = |t: &To| Destination {
        service: t.service.clone(),
        subset: t.subset.clone(),
        port: t
            .port
            .unwrap_or_else(|| only_port(index, &t.service, listener)),
        weight: t.weight,
    };
    let some = to.iter().filter(|t| t.weight > 0);
    some.map(destination).collect()
}
