//! The HTTP form: the asking proxy sends the request itself without its body, its path behind `/check/<service>`
//! (Envoy's `path_prefix`), and lets it go on when the answer is 200.
//!
//! A proxy that asks so cannot say who its peer is: the caller is unauthenticated, unless the asking proxy is trusted to
//! write `x-forwarded-client-cert` itself (Envoy: `forward_client_cert_details: SANITIZE_SET`).

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use reeve_core::{SpiffeId, decision::Principal};
use reeve_proxy::inquiry::{Asker, Judged};

use crate::{
    answer::{AnswerOptions, DECISION_ID, Denial},
    court::Target,
    judge::{Inquiry, Judge, Verdict},
    metrics::Form,
};

/// What comes before the service's name and the request's own path.
const PREFIX: &str = "/check/";
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Whether the asking proxy's word for its peer is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCert {
    /// The header may come from the caller: it means nothing.
    #[default]
    Ignored,
    /// The asking proxy replaces what callers send.
    Believed,
}

/// Answers one request of the HTTP form.
pub async fn answer<B>(
    judge: &Arc<Judge>,
    request: Request<B>,
    address: IpAddr,
    client_cert: ClientCert,
) -> Response<Full<Bytes>> {
    let started = tokio::time::Instant::now();
    let verdict = match inquiry(request, address, client_cert) {
        Some(inquiry) => judge.judge(Form::Http, inquiry).await,
        None => judge.malformed(Form::Http, started),
    };
    match verdict {
        Verdict::Allowed {
            judged,
            decision_id,
        } => allowed(&judged, &decision_id, judge.answers()),
        Verdict::Denied(denial) => denied(&denial),
    }
}

fn inquiry<B>(request: Request<B>, address: IpAddr, client_cert: ClientCert) -> Option<Inquiry> {
    let (mut parts, _body) = request.into_parts();
    let target = parts.uri.path_and_query()?.as_str().to_owned();
    let rest = target.strip_prefix(PREFIX)?;
    // SECURITY: cut before anything is normalised, so that no dot segment reaches into the service's name.
    let (service, _) = rest.split_once(['/', '?']).unwrap_or((rest, ""));
    let own = rest.get(service.len()..)?;
    let own = match own.starts_with('/') {
        true => own.to_owned(),
        false => format!("/{own}"),
    };
    parts.uri = own.parse::<Uri>().ok()?;
    let principal = match client_cert {
        ClientCert::Believed => principal(&parts.headers),
        ClientCert::Ignored => Principal::Unauthenticated,
    };
    Some(Inquiry {
        target: Target {
            service: Some(service.to_owned()),
            ..Target::default()
        },
        asker: Asker {
            principal,
            address,
            port: 0,
            destination: None,
            sni: None,
        },
        head: Some(parts),
    })
}

/// The `URI` of the only element (Envoy's `x-forwarded-client-cert`): more than one means that somebody forwarded what it
/// was sent.
fn principal(headers: &HeaderMap) -> Principal {
    let mut values = headers.get_all(CLIENT_CERT).iter();
    let only = values.next().filter(|_| values.next().is_none());
    let text = only.and_then(|value| value.to_str().ok()).unwrap_or("");
    if text.contains([',', '"']) {
        return Principal::Unauthenticated;
    }
    let mut uris = text.split(';').filter_map(|pair| pair.strip_prefix("URI="));
    match (uris.next().map(SpiffeId::parse), uris.next()) {
        (Some(Ok(id)), None) => Principal::Workload(id),
        _ => Principal::Unauthenticated,
    }
}

fn allowed(judged: &Judged, decision_id: &str, options: &AnswerOptions) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let headers = response.headers_mut();
    let changes = judged.changes();
    // The asking proxy cannot be told to remove a header, but it replaces those that the answer has.
    for name in changes.remove.iter().chain(&options.remove) {
        headers.insert(name.clone(), HeaderValue::from_static(""));
    }
    for (name, value) in options.all_set(changes, decision_id) {
        headers.insert(name, value);
    }
    if let Ok(id) = HeaderValue::try_from(decision_id) {
        headers.insert(DECISION_ID, id);
    }
    response
}

fn denied(denial: &Denial) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(denial.body()));
    *response.status_mut() =
        StatusCode::from_u16(denial.status.as_u16()).unwrap_or(StatusCode::FORBIDDEN);
    for (name, value) in denial.headers() {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests;
