//! One `http` entry of a `VirtualService`.

use reeve_core::model::{HeaderOps, RetryPolicy, RouteMatch};

use super::{Known, destination, gateway_names};
use crate::{
    Code,
    kinds::{HttpRouteSpec, MatchSpec, RetriesSpec, VirtualServiceSpec, WeightedSpec},
    mesh::{At, HttpRoute, Match, RouteTo, To},
    resolve::values::{Case, Notes},
    source::path::Path,
};

/// Largest body of a direct answer (Istio's bound).
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Most retries.
const MAX_ATTEMPTS: u32 = 100;

type VsNotes<'a> = Notes<'a, VirtualServiceSpec>;

pub(super) fn route(
    notes: &mut VsNotes<'_>,
    path: &Path,
    spec: &HttpRouteSpec,
    known: &Known<'_>,
) -> HttpRoute {
    let mut request_headers = HeaderOps::default();
    let mut response_headers = HeaderOps::default();
    if let Some(headers) = &spec.headers {
        let path = path.key("headers");
        request_headers = notes.header_ops(&path.key("request"), &headers.request);
        response_headers = notes.header_ops(&path.key("response"), &headers.response);
    }
    let timeout = spec.timeout.as_ref();
    // `0s` switches the bound off, as in Istio.
    let timeout = timeout.filter(|t| t.as_str() != "0s");
    HttpRoute {
        name: spec.name.clone(),
        matches: matches(notes, path, spec, known),
        timeout: timeout.and_then(|t| notes.duration(&path.key("timeout"), t)),
        retries: retries(notes, &path.key("retries"), spec.retries.as_ref()),
        to: action(notes, path, spec, known),
        request_headers,
        response_headers,
    }
}

fn action(
    notes: &mut VsNotes<'_>,
    path: &Path,
    spec: &HttpRouteSpec,
    known: &Known<'_>,
) -> RouteTo {
    let answered = spec.redirect.is_some() || spec.direct_response.is_some();
    if spec.redirect.is_some() && spec.direct_response.is_some()
        || answered && !spec.route.is_empty()
    {
        notes.error(
            path,
            Code::Conflict,
            "give one of route, redirect and directResponse",
        );
    }
    if answered && spec.rewrite.is_some() {
        notes.error(
            &path.key("rewrite"),
            Code::Conflict,
            "a rewrite needs a route",
        );
    }
    if let Some(redirect) = &spec.redirect {
        let code = redirect.redirect_code.unwrap_or(301);
        if !matches!(code, 301 | 302 | 303 | 307 | 308) {
            let path = path.key("redirect").key("redirectCode");
            notes.hint(
                &path,
                Code::Invalid,
                format!("{code} is no redirect"),
                "use 301, 302, 303, 307 or 308",
            );
        }
        return RouteTo::Redirect {
            uri: redirect.uri.clone(),
            authority: redirect.authority.clone(),
            code,
        };
    }
    if let Some(answer) = &spec.direct_response {
        let path = path.key("directResponse");
        if !(200..=599).contains(&answer.status) {
            notes.error(&path.key("status"), Code::Invalid, "a status is 200 to 599");
        }
        let body = answer
            .body
            .as_ref()
            .and_then(|b| b.string.clone())
            .unwrap_or_default();
        if body.len() > MAX_BODY_BYTES {
            notes.error(
                &path.key("body"),
                Code::TooLarge,
                format!("longer than {MAX_BODY_BYTES} bytes"),
            );
        }
        return RouteTo::Respond {
            status: answer.status,
            body,
        };
    }
    if spec.route.is_empty() {
        notes.error(
            path,
            Code::Missing,
            "the rule does nothing: no route, redirect or directResponse",
        );
    }
    let rewrite = spec.rewrite.as_ref();
    RouteTo::Forward {
        to: destinations(notes, &path.key("route"), &spec.route, known),
        rewrite_uri: rewrite.and_then(|r| r.uri.clone()),
        rewrite_authority: rewrite.and_then(|r| r.authority.clone()),
    }
}

pub(super) fn destinations(
    notes: &mut VsNotes<'_>,
    path: &Path,
    specs: &[WeightedSpec],
    known: &Known<'_>,
) -> Vec<To> {
    let only = specs.len() == 1;
    let mut to = Vec::new();
    for (n, spec) in specs.iter().enumerate() {
        let path = path.index(n);
        if spec.headers.is_some() {
            let text = "headers of one destination are known, but not supported in this version";
            notes.hint(
                &path.key("headers"),
                Code::Unsupported,
                text,
                "set them on the http rule",
            );
        }
        let weight = match spec.weight {
            // Istio: a single destination takes everything, whatever weight it names.
            Some(0) | None if only => 100,
            other => other.unwrap_or(0),
        };
        to.extend(destination(
            notes,
            &path.key("destination"),
            &spec.destination,
            weight,
            known,
        ));
    }
    let sum: u64 = to.iter().map(|t| u64::from(t.weight)).sum();
    if !to.is_empty() && (sum == 0 || sum > u64::from(u32::MAX)) {
        let text = format!("the weights sum up to {sum}");
        notes.hint(
            path,
            Code::Invalid,
            text,
            "give each destination its share, such as 50 and 50",
        );
    }
    to
}

fn retries(notes: &mut VsNotes<'_>, path: &Path, spec: Option<&RetriesSpec>) -> RetryPolicy {
    let mut policy = RetryPolicy::default();
    let Some(spec) = spec else {
        return policy;
    };
    if let Some(attempts) = spec.attempts {
        if attempts > MAX_ATTEMPTS {
            notes.error(
                &path.key("attempts"),
                Code::Invalid,
                format!("at most {MAX_ATTEMPTS}"),
            );
        }
        policy.attempts = attempts;
    }
    if let Some(text) = &spec.per_try_timeout {
        policy.per_try_timeout = notes.duration(&path.key("perTryTimeout"), text);
    }
    if let Some(text) = &spec.retry_on {
        let words = text.split(',').map(str::trim).filter(|w| !w.is_empty());
        policy.on = words.map(str::to_ascii_lowercase).collect();
        let path = path.key("retryOn");
        for word in &policy.on {
            if !RETRY_ON.contains(&word.as_str())
                && !word.parse().is_ok_and(|s: u16| (200..600).contains(&s))
            {
                let hint = format!("use {}, or a status", RETRY_ON.join(", "));
                notes.hint(
                    &path,
                    Code::Invalid,
                    format!("{word:?} is no reason to retry"),
                    &hint,
                );
            }
        }
    }
    policy
}

/// Envoy's `retry_on` and `retry_grpc_on` words.
const RETRY_ON: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

fn matches(
    notes: &mut VsNotes<'_>,
    path: &Path,
    spec: &HttpRouteSpec,
    known: &Known<'_>,
) -> Vec<Match> {
    let each = spec.r#match.iter().enumerate();
    each.map(|(n, m)| one_match(notes, &path.key("match").index(n), m, known))
        .collect()
}

fn one_match(notes: &mut VsNotes<'_>, path: &Path, spec: &MatchSpec, known: &Known<'_>) -> Match {
    let mut string = |key: &str, value: &Option<_>| {
        value
            .as_ref()
            .and_then(|m| notes.string_match(&path.key(key), m))
    };
    let (uri, scheme) = (string("uri", &spec.uri), string("scheme", &spec.scheme));
    let (method, authority) = (
        string("method", &spec.method),
        string("authority", &spec.authority),
    );
    let request = RouteMatch {
        uri,
        ignore_uri_case: spec.ignore_uri_case,
        scheme,
        method,
        authority,
        headers: notes.header_matches(&path.key("headers"), &spec.headers, Case::Lower),
        without_headers: notes.header_matches(
            &path.key("withoutHeaders"),
            &spec.without_headers,
            Case::Lower,
        ),
        query_params: notes.header_matches(
            &path.key("queryParams"),
            &spec.query_params,
            Case::Kept,
        ),
    };
    let (in_mesh, gateways) = gateway_names(notes, &path.key("gateways"), &spec.gateways, known);
    let at = At {
        port: spec.port,
        in_mesh,
        gateways,
        source_labels: spec.source_labels.clone(),
        source_namespace: spec.source_namespace.clone(),
    };
    Match { request, at }
}

/// Warns of rules that stand after one that takes everything.
pub(super) fn check_reachable(notes: &mut VsNotes<'_>) {
    let rules = &notes.object.spec.http;
    let all = rules.iter().position(|r| r.r#match.is_empty());
    if let Some(all) = all.filter(|n| n + 1 < rules.len()) {
        let path = Path::of(&["spec", "http"]).index(all + 1);
        let text = format!("never reached: spec.http[{all}] matches every request");
        notes.warn(
            &path,
            Code::Unreachable,
            text,
            "put the rule without match last",
        );
    }
}
