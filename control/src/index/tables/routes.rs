//! A `VirtualService`'s rules as one listener of one proxy has them.

use reeve_core::{
    Namespace,
    model::{Destination, Mirror, Route, RouteAction, RouteMatch},
};

use super::{Index, only_port};
use crate::{
    LocalWorkload,
    mesh::{At, HttpRoute, Precedence, RouteTo, To, VirtualService, is_subset},
};

/// Where routes are used: conditions on port, gateway and source are settled here and do not travel.
pub(super) enum Place<'a> {
    Mesh {
        workload: &'a LocalWorkload,
        port: u16,
    },
    Gateway {
        gateway: &'a (Namespace, String),
        workload: &'a LocalWorkload,
        port: u16,
    },
}

impl Place<'_> {
    pub(super) fn port(&self) -> u16 {
        match self {
            Self::Mesh { port, .. } | Self::Gateway { port, .. } => *port,
        }
    }

    /// As Istio decides it: gateways that are named count alone, else what the proxy's own workload is.
    pub(super) fn holds(&self, condition: &At) -> bool {
        let named = condition.in_mesh || !condition.gateways.is_empty();
        let (of_gateway, workload) = match self {
            Self::Mesh { workload, .. } => (condition.in_mesh, workload),
            Self::Gateway {
                gateway, workload, ..
            } => (condition.gateways.contains(gateway), workload),
        };
        let namespace = condition.source_namespace.as_deref();
        let of_source = || {
            is_subset(&condition.source_labels, &workload.labels)
                && namespace.is_none_or(|n| n == workload.namespace.as_str())
        };
        let here = if named { of_gateway } else { of_source() };
        here && condition.port.is_none_or(|p| p == self.port())
    }
}

/// The rules that hold at `place`, in order.
pub(super) fn routes(
    index: &Index<'_>,
    virtual_service: &VirtualService,
    place: &Place<'_>,
) -> Vec<Route> {
    let mut routes = Vec::new();
    for rule in &virtual_service.http {
        let Some(route) = route(index, rule, place) else {
            continue;
        };
        let takes_all =
            route.matches.is_empty() || route.matches.iter().any(RouteMatch::is_catch_all);
        routes.push(route);
        if takes_all && virtual_service.precedence == Precedence::Written {
            // What stands after it is never reached, also where other `VirtualService`s join in.
            break;
        }
    }
    routes
}

fn route(index: &Index<'_>, rule: &HttpRoute, place: &Place<'_>) -> Option<Route> {
    let holding: Vec<_> = rule.matches.iter().filter(|m| place.holds(&m.at)).collect();
    if holding.is_empty() && !rule.matches.is_empty() {
        return None;
    }
    let new = Route::new(action(index, rule, place.port())?);
    let headers = rule.headers.clone().unwrap_or_default();
    let mirrors = rule.mirrors.iter().flatten();
    Some(Route {
        name: rule.name.clone(),
        matches: holding.into_iter().map(|m| m.request.clone()).collect(),
        timeout: rule.timeout.flatten(),
        retries: rule.retries.clone().unwrap_or(new.retries),
        fault: rule.fault.clone().map(Box::new),
        request_headers: headers.request,
        response_headers: headers.response,
        cors: rule.cors.clone(),
        mirrors: mirrors
            .map(|mirror| Mirror {
                to: destination(index, &mirror.to, place.port()),
                per_million: mirror.per_million,
                headers: mirror.headers.clone(),
                remove_headers: mirror.remove_headers.clone(),
            })
            .collect(),
        ..new
    })
}

fn action(index: &Index<'_>, rule: &HttpRoute, listener: u16) -> Option<RouteAction> {
    Some(match &rule.to {
        RouteTo::Forward(to) => RouteAction::Forward {
            destinations: destinations(index, to, listener),
            rewrite: rule.rewrite.clone().unwrap_or_default(),
        },
        RouteTo::Redirect {
            redirect,
            request_port,
        } => {
            let mut redirect = redirect.clone();
            if *request_port {
                redirect.port = Some(listener);
            }
            RouteAction::Redirect(redirect)
        }
        RouteTo::Respond { status, body } => RouteAction::Respond {
            status: *status,
            body: body.clone(),
        },
        // Its delegate is not there.
        RouteTo::Delegate(..) => return None,
    })
}

/// Those that get anything, with their ports.
pub(super) fn destinations(index: &Index<'_>, to: &[To], listener: u16) -> Vec<Destination> {
    let some = to.iter().filter(|t| t.weight > 0);
    some.map(|t| destination(index, t, listener)).collect()
}

fn destination(index: &Index<'_>, to: &To, listener: u16) -> Destination {
    let port = to.port;
    Destination {
        service: to.service.clone(),
        subset: to.subset.clone(),
        port: port.unwrap_or_else(|| only_port(index, &to.service, listener)),
        weight: to.weight,
        headers: to.headers.clone(),
    }
}
