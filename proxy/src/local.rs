//! Answers of routes that need no upstream: redirects and fixed responses.

use http::{HeaderValue, Response, StatusCode, header};
use reeve_core::model::RouteAction;

use crate::{answer::Answer, head::Head, route::CompiledRoute};

/// The answer of a route that needs no upstream.
pub(crate) fn local_answer(route: &CompiledRoute, head: &Head) -> Option<Response<String>> {
    let mut response = match &route.rule.action {
        RouteAction::Forward { .. } => return None,
        RouteAction::Respond { status, body } => {
            let mut response = Response::new(body.clone());
            *response.status_mut() = StatusCode::from_u16(*status).unwrap_or_default();
            response
        }
        RouteAction::Redirect {
            uri,
            authority,
            code,
        } => {
            let authority = authority.as_deref().unwrap_or(&head.authority);
            let target = uri.clone().unwrap_or_else(|| head.target());
            let location = HeaderValue::try_from(format!("http://{authority}{target}")).ok()?;
            let mut response = Response::new(String::new());
            *response.status_mut() = StatusCode::from_u16(*code).unwrap_or_default();
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
    };
    route.response_edits.apply(response.headers_mut());
    Some(response)
}

/// Sends the caller to the same place by another scheme.
pub(crate) fn redirect(location: &str) -> Result<Response<String>, Answer> {
    let response = Response::builder()
        .status(StatusCode::MOVED_PERMANENTLY)
        .header(header::LOCATION, location)
        .body(String::new());
    response.map_err(|_| Answer::unbuildable())
}
