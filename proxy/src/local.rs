//! Answers of routes that need no upstream: redirects and fixed responses.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use reeve_core::model::{Redirect, RouteAction};

use crate::{
    answer::Answer,
    head::{Head, join_query},
    route::{CompiledRoute, without_port},
};

/// The answer of a route that needs no upstream; `path` is the path of a redirect, if it changes, `came_by` the scheme
/// that the caller used.
pub(crate) fn local_answer(
    route: &CompiledRoute,
    path: Option<&str>,
    head: &Head,
    came_by: &str,
) -> Option<Response<Bytes>> {
    let mut response = match &route.rule.action {
        RouteAction::Forward { .. } => return None,
        RouteAction::Respond { status, .. } => {
            let mut response = Response::new(route.answer.clone());
            *response.status_mut() = StatusCode::from_u16(*status).unwrap_or_default();
            response
        }
        RouteAction::Redirect(redirect) => {
            let location = HeaderValue::try_from(location(redirect, path, head, came_by)).ok()?;
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = StatusCode::from_u16(redirect.code).unwrap_or_default();
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
    };
    route.response_edits.apply(response.headers_mut());
    Some(response)
}

/// Sends the caller to the same place by another scheme.
pub(crate) fn redirect(location: &str) -> Result<Response<Bytes>, Answer> {
    let response = Response::builder()
        .status(StatusCode::MOVED_PERMANENTLY)
        .header(header::LOCATION, location)
        .body(Bytes::new());
    response.map_err(|_| Answer::unbuildable())
}

/// Where a redirect leads, as Envoy writes it: what it does not name stays as the caller had it.
pub(crate) fn location(
    redirect: &Redirect,
    path: Option<&str>,
    head: &Head,
    came_by: &str,
) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(came_by);
    let own_port = |port: u16| matches!((scheme, port), ("http", 80) | ("https", 443));
    let port = redirect.port.filter(|port| !own_port(*port));
    let kept = &head.authority;
    let mut authority = match &redirect.authority {
        Some(authority) => authority.clone(),
        // The old scheme's own port is not the new one's, and a port that is named takes its place.
        None if redirect.port.is_some() || (scheme != came_by && has_port_of(came_by, kept)) => {
            without_port(kept).to_owned()
        }
        None => kept.clone(),
    };
    if let Some(port) = port {
        authority = format!("{authority}:{port}");
    }
    let target = match path {
        None => head.target(),
        Some(path) if path.contains('?') => path.to_owned(),
        Some(path) => join_query(path, head.query.as_deref()),
    };
    format!("{scheme}://{authority}{target}")
}

fn has_port_of(scheme: &str, authority: &str) -> bool {
    let port = authority.strip_prefix(without_port(authority));
    matches!(
        (scheme, port),
        ("http", Some(":80")) | ("https", Some(":443"))
    )
}
