//! One `http` entry of a `VirtualService`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reeve_core::{
    Namespace,
    model::{DestinationHeaders, PathRewrite, Redirect, Rewrite, RouteMatch},
};

use super::{Known, destination, gateway_names, resilience};
use crate::{
    Code,
    kinds::{
        DelegateSpec, DirectResponseSpec, HeadersSpec, HttpRouteSpec, MatchSpec, RedirectSpec,
        RewriteSpec, VirtualServiceSpec, WeightedSpec,
    },
    mesh::{At, Headers, HttpRoute, Match, RouteTo, To},
    resolve::values::{Case, Notes},
    source::path::Path,
};

mod claims;
mod cors;
mod mirrors;

/// Largest body of a direct answer (Istio's bound).
const MAX_BODY_BYTES: usize = 1024 * 1024;

type VsNotes<'a> = Notes<'a, VirtualServiceSpec>;

pub(super) fn route(
    notes: &mut VsNotes<'_>,
    path: &Path,
    spec: &HttpRouteSpec,
    known: &Known<'_>,
) -> HttpRoute {
    let timeout = spec.timeout.as_ref();
    let retries = spec.retries.as_ref();
    let mut to = action(notes, path, spec, known);
    if let Some(delegate) = &spec.delegate {
        to = delegated(notes, path, spec, delegate);
    }
    HttpRoute {
        name: spec.name.clone(),
        matches: matches(notes, path, spec, known),
        timeout: timeout.map(|text| match text.as_str() {
            // Switches the bound off, as in Istio.
            "0s" => None,
            text => notes.duration(&path.key("timeout"), text),
        }),
        retries: retries.map(|r| resilience::retries(notes, &path.key("retries"), r)),
        fault: resilience::fault(notes, &path.key("fault"), spec.fault.as_ref()),
        headers: spec
            .headers
            .as_ref()
            .map(|h| headers(notes, &path.key("headers"), h)),
        cors: spec
            .cors_policy
            .as_ref()
            .map(|c| cors::policy(notes, &path.key("corsPolicy"), c)),
        mirrors: mirrors::all(notes, path, spec, known),
        rewrite: spec
            .rewrite
            .as_ref()
            .map(|r| rewrite(notes, &path.key("rewrite"), r)),
        ..HttpRoute::new(to)
    }
}

fn headers(notes: &mut VsNotes<'_>, path: &Path, spec: &HeadersSpec) -> Headers {
    Headers {
        request: notes.header_ops(&path.key("request"), &spec.request),
        response: notes.header_ops(&path.key("response"), &spec.response),
    }
}

fn delegated(
    notes: &mut VsNotes<'_>,
    path: &Path,
    spec: &HttpRouteSpec,
    delegate: &DelegateSpec,
) -> RouteTo {
    let own_action = spec.redirect.is_some() || spec.direct_response.is_some();
    if own_action || !spec.route.is_empty() {
        notes.error(
            &path.key("delegate"),
            Code::Conflict,
            "a rule that delegates has no route, redirect or directResponse of its own",
        );
    }
    if delegate.name.is_empty() {
        let path = path.key("delegate").key("name");
        notes.error(&path, Code::Missing, "the delegate has no name");
    }
    let own = notes.object.namespace.clone();
    let namespace = match delegate.namespace.as_deref() {
        None | Some("") => own,
        Some(text) => Namespace::parse(text).unwrap_or_else(|error| {
            let path = path.key("delegate").key("namespace");
            notes.error(&path, Code::Invalid, error.to_string());
            own
        }),
    };
    RouteTo::Delegate(namespace, delegate.name.clone())
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
    if let Some(spec) = &spec.redirect {
        return redirect(notes, &path.key("redirect"), spec);
    }
    if let Some(answer) = &spec.direct_response {
        return respond(notes, &path.key("directResponse"), answer);
    }
    if spec.route.is_empty() && spec.delegate.is_none() {
        notes.error(
            path,
            Code::Missing,
            "the rule does nothing: no route, redirect, directResponse or delegate",
        );
    }
    RouteTo::Forward(destinations(notes, &path.key("route"), &spec.route, known))
}

fn redirect(notes: &mut VsNotes<'_>, path: &Path, spec: &RedirectSpec) -> RouteTo {
    let code = spec.redirect_code.unwrap_or(301);
    if !matches!(code, 301 | 302 | 303 | 307 | 308) {
        notes.hint(
            &path.key("redirectCode"),
            Code::Invalid,
            format!("{code} is no redirect"),
            "use 301, 302, 303, 307 or 308",
        );
    }
    if spec.port.is_some() && spec.derive_port.is_some() {
        let text = "give one of port and derivePort";
        notes.error(&path.key("derivePort"), Code::Conflict, text);
    }
    if spec.port == Some(0) {
        notes.error(&path.key("port"), Code::Invalid, "a port is 1 to 65535");
    }
    let words = [
        ("FROM_PROTOCOL_DEFAULT", false),
        ("FROM_REQUEST_PORT", true),
    ];
    let derived = spec.derive_port.as_deref();
    let derived = derived.and_then(|word| notes.word(&path.key("derivePort"), word, &words));
    let scheme = spec.scheme.as_deref().filter(|scheme| !scheme.is_empty());
    if let Some(scheme) = scheme {
        let words = [("http", ()), ("https", ())];
        notes.word(&path.key("scheme"), scheme, &words);
    }
    let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
    RouteTo::Redirect {
        redirect: Redirect {
            scheme: scheme.map(str::to_owned),
            authority: text(&spec.authority),
            port: spec.port,
            path: text(&spec.uri).map(PathRewrite::Full),
            code,
        },
        request_port: derived.unwrap_or_default(),
    }
}

fn respond(notes: &mut VsNotes<'_>, path: &Path, spec: &DirectResponseSpec) -> RouteTo {
    if !(200..=599).contains(&spec.status) {
        notes.error(&path.key("status"), Code::Invalid, "a status is 200 to 599");
    }
    let path = path.key("body");
    let body = spec.body.as_ref();
    let body = match body.map(|b| (&b.string, &b.bytes)) {
        None => Vec::new(),
        Some((Some(text), None)) => text.clone().into_bytes(),
        Some((None, Some(bytes))) => STANDARD.decode(bytes).unwrap_or_else(|_| {
            notes.error(&path.key("bytes"), Code::Invalid, "this is not base64");
            Vec::new()
        }),
        Some(_) => {
            notes.error(&path, Code::Invalid, "give one of string and bytes");
            Vec::new()
        }
    };
    if body.len() > MAX_BODY_BYTES {
        let text = format!("longer than {MAX_BODY_BYTES} bytes");
        notes.error(&path, Code::TooLarge, text);
    }
    RouteTo::Respond {
        status: spec.status,
        body,
    }
}

fn rewrite(notes: &mut VsNotes<'_>, path: &Path, spec: &RewriteSpec) -> Rewrite {
    let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
    let uri = text(&spec.uri);
    if uri.is_some() && spec.uri_regex_rewrite.is_some() {
        let text = "give one of uri and uriRegexRewrite";
        notes.error(&path.key("uriRegexRewrite"), Code::Conflict, text);
    }
    let by_regex = spec.uri_regex_rewrite.as_ref().map(|rule| {
        let path = path.key("uriRegexRewrite");
        notes.check_regex(&path.key("match"), &rule.r#match);
        notes.check_substitution(&path.key("rewrite"), &rule.r#match, &rule.rewrite);
        PathRewrite::Regex {
            pattern: rule.r#match.clone(),
            substitution: rule.rewrite.clone(),
        }
    });
    let authority = text(&spec.authority);
    if uri.is_none() && by_regex.is_none() && authority.is_none() {
        notes.error(path, Code::Missing, "the rewrite changes nothing");
    }
    Rewrite {
        path: uri.map(PathRewrite::Matched).or(by_regex),
        authority,
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
        let weight = match spec.weight {
            // Istio: a single destination takes everything, whatever weight it names.
            Some(0) | None if only => 100,
            other => other.unwrap_or(0),
        };
        let changes = spec.headers.as_ref().map(|h| {
            let headers = headers(notes, &path.key("headers"), h);
            Box::new(DestinationHeaders {
                request: headers.request,
                response: headers.response,
            })
        });
        let found = destination(
            notes,
            &path.key("destination"),
            &spec.destination,
            weight,
            known,
        );
        to.extend(found.map(|to| To {
            headers: changes,
            ..to
        }));
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
    let (headers, claims) = claims::split(notes, &path.key("headers"), spec, &spec.headers);
    let (path_without, without) = (path.key("withoutHeaders"), &spec.without_headers);
    let (without_headers, without_claims) = claims::split(notes, &path_without, spec, without);
    let request = RouteMatch {
        uri,
        ignore_uri_case: spec.ignore_uri_case,
        scheme,
        method,
        authority,
        headers,
        without_headers,
        claims,
        without_claims,
        query_params: notes.header_matches(
            &path.key("queryParams"),
            &spec.query_params,
            Case::Kept,
        ),
        stat_prefix: spec.stat_prefix.clone().filter(|text| !text.is_empty()),
    };
    let (in_mesh, gateways) = gateway_names(notes, &path.key("gateways"), &spec.gateways, known);
    let at = At {
        port: spec.port,
        in_mesh,
        gateways,
        source_labels: spec.source_labels.clone(),
        source_namespace: spec.source_namespace.clone(),
        destination_subnets: Vec::new(),
    };
    Match { request, at }
}

/// Warns of rules that stand after one that takes everything.
pub(super) fn check_reachable(notes: &mut VsNotes<'_>) {
    let rules = &notes.object.spec.http;
    let takes_all = |r: &HttpRouteSpec| r.r#match.is_empty() || r.r#match.iter().any(is_any);
    let all = rules.iter().position(takes_all);
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

/// A match that holds for every request at every place.
fn is_any(spec: &MatchSpec) -> bool {
    let any_uri = spec
        .uri
        .as_ref()
        .is_none_or(|uri| uri.prefix.as_deref() == Some("/") || uri.regex.as_deref() == Some(".*"));
    let none = spec.scheme.is_none() && spec.method.is_none() && spec.authority.is_none();
    let no_maps = spec.headers.is_empty()
        && spec.without_headers.is_empty()
        && spec.query_params.is_empty()
        && spec.source_labels.is_empty();
    let anywhere =
        spec.gateways.is_empty() && spec.port.is_none() && spec.source_namespace.is_none();
    any_uri && none && no_maps && anywhere
}
