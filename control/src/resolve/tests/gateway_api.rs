//! Gateway API: what is taken, what is refused, and what it becomes.

use reeve_core::model::{PathRewrite, StringMatch};

use super::*;
use crate::mesh::{Precedence, RouteTo, VirtualService};

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: shop}
spec:
  gatewayClassName: reeve
  listeners:
    - {name: web, port: 8080, protocol: HTTP, hostname: '*.example.com'}
    - {name: open, port: 8081, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
---
";

/// A route (kind, then the spec's lines) after the gateway.
fn with_route(kind: &str, spec: &str) -> String {
    let lines: Vec<_> = spec.lines().map(|l| format!("  {l}")).collect();
    format!(
        "{GATEWAY}apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r}}\nspec:\n{}\n{REVIEWS}",
        lines.join("\n")
    )
}

/// Findings of a route's rule, less line and the path before it.
fn faults(kind: &str, rule: &str) -> Vec<String> {
    let lines: Vec<_> = rule.lines().map(|l| format!("    {l}")).collect();
    let spec = format!(
        "parentRefs: [{{name: shop}}]\nrules:\n  -\n{}",
        lines.join("\n")
    );
    let found = findings(&with_route(kind, &spec));
    let short = found
        .iter()
        .map(|f| f.split_once(' ').map_or("", |(_, rest)| rest));
    short.map(|f| f.replace("spec.rules[0]", "*")).collect()
}

fn route(kind: &str, spec: &str) -> Vec<VirtualService> {
    let all = mesh(&with_route(kind, spec)).virtual_services;
    assert!(all.iter().all(|v| v.precedence == Precedence::MostSpecific));
    all
}

const TO: &str = "backendRefs: [{name: reviews, port: 9080}]\n";

const HTTP_RULES: &[(&str, &[&str])] = &[
    ("", &[]),
    (
        "matches: [{path: {type: Exact, value: a}}]",
        &["*.matches[0].path.value invalid"],
    ),
    (
        "matches: [{path: {value: /a//b}}]",
        &["*.matches[0].path.value invalid"],
    ),
    (
        "matches: [{path: {type: Glob, value: /a}}]",
        &["*.matches[0].path.type invalid"],
    ),
    (
        "matches: [{path: {type: RegularExpression, value: '('}}]",
        &["*.matches[0].path.value invalid"],
    ),
    ("matches: [{method: get}]", &["*.matches[0].method invalid"]),
    (
        "matches: [{headers: [{name: 'a b', value: c}]}]",
        &["*.matches[0].headers[0].name invalid"],
    ),
    (
        "matches: [{headers: [{name: a, value: c, type: Prefix}]}]",
        &["*.matches[0].headers[0].type invalid"],
    ),
    ("matches: [{queryParams: [{name: a, value: c}]}]", &[]),
    (
        "filters: [{type: ExtensionRef}]",
        &["*.filters[0].type unsupported"],
    ),
    (
        "filters: [{type: Nonsense}]",
        &["*.filters[0].type invalid"],
    ),
    (
        "filters: [{type: RequestHeaderModifier}]",
        &["*.filters[0].requestHeaderModifier missing"],
    ),
    (
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {}}, {type: RequestHeaderModifier, requestHeaderModifier: {}}]",
        &["*.filters[1].type conflict"],
    ),
    (
        "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]",
        &[
            "*.filters[0].requestRedirect conflict",
            "*.filters[0].requestRedirect.statusCode invalid",
        ],
    ),
    (
        "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /a}}}]",
        &["*.filters[0].urlRewrite.path invalid"],
    ),
    (
        "matches: [{path: {type: Exact, value: /a}}]\nfilters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]",
        &["*.filters[0].urlRewrite.path conflict"],
    ),
    (
        "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: reviews, port: 9080}, percent: 101}}]",
        &["*.filters[0].requestMirror invalid"],
    ),
    (
        "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: reviews, port: 9080}, fraction: {numerator: 1, denominator: 3}}}]",
        &[],
    ),
    ("timeouts: {request: soon}", &["*.timeouts.request invalid"]),
    ("timeouts: {request: 0s, backendRequest: 1s}", &[]),
    (
        "retry: {codes: [200], attempts: 1}",
        &["*.retry.codes[0] invalid"],
    ),
    ("retry: {backoff: 1s}", &["*.retry.backoff unsupported"]),
    (
        "sessionPersistence: {}",
        &["*.sessionPersistence unsupported"],
    ),
    ("mtaches: []", &["*.mtaches unknown-field"]),
];

#[test]
fn faults_of_http_rules_are_named() {
    for (rule, expected) in HTTP_RULES {
        assert_eq!(
            faults("HTTPRoute", &format!("{TO}{rule}")),
            *expected,
            "{rule}"
        );
    }
}

const ROUTES: &[(&str, &str, &[&str])] = &[
    ("HTTPRoute", "parentRefs: []", &["spec.parentRefs missing"]),
    (
        "HTTPRoute",
        "parentRefs: [{name: gone}]",
        &["spec.parentRefs[0].name unknown-reference?"],
    ),
    (
        "HTTPRoute",
        "parentRefs: [{name: shop, sectionName: none}]",
        &["spec.parentRefs[0] unknown-reference?"],
    ),
    (
        "HTTPRoute",
        "parentRefs: [{name: shop, port: 1}]",
        &["spec.parentRefs[0] unknown-reference?"],
    ),
    (
        "HTTPRoute",
        "parentRefs: [{kind: Mesh, name: a}]",
        &["spec.parentRefs[0].kind unsupported"],
    ),
    (
        "HTTPRoute",
        "parentRefs: [{group: '', kind: Service, name: gone}]",
        &["spec.parentRefs[0].name unknown-reference?"],
    ),
    (
        "HTTPRoute",
        "parentRefs: [{group: '', kind: Service, name: reviews}]\nhostnames: [a.b]",
        &["spec.hostnames conflict?"],
    ),
    (
        "HTTPRoute",
        "parentRefs: [{name: shop}]\nhostnames: ['10.0.0.1', 'a:80']",
        &["spec.hostnames[0] invalid", "spec.hostnames[1] invalid"],
    ),
    (
        "HTTPRoute",
        "parentRefs: [{name: shop}]\nrules: [{backendRefs: [{name: reviews}]}]",
        &["spec.rules[0].backendRefs[0] missing"],
    ),
    (
        "HTTPRoute",
        "parentRefs: [{name: shop}]\nrules: [{backendRefs: [{name: reviews, port: 1}]}]",
        &["spec.rules[0].backendRefs[0].port unknown-reference?"],
    ),
    (
        "HTTPRoute",
        "parentRefs: [{name: shop}]\nrules: [{backendRefs: [{name: gone, port: 1}]}]",
        &["spec.rules[0].backendRefs[0].name unknown-reference?"],
    ),
    (
        "HTTPRoute",
        "parentRefs: [{name: shop}]\nrules: [{backendRefs: [{kind: Bucket, name: b}]}]",
        &["spec.rules[0].backendRefs[0].kind unsupported"],
    ),
    (
        "HTTPRoute",
        "parentRefs: [{name: shop}]\nrules: [{backendRefs: [{name: reviews, port: 9080, filters: [{type: URLRewrite, urlRewrite: {}}]}]}]",
        &["spec.rules[0].backendRefs[0].filters[0].type unsupported"],
    ),
    (
        "GRPCRoute",
        "parentRefs: [{name: shop}]\nrules: [{matches: [{method: {}}]}]",
        &["spec.rules[0].matches[0].method missing"],
    ),
    (
        "GRPCRoute",
        "parentRefs: [{name: shop}]\nrules: [{matches: [{method: {service: '(', type: RegularExpression}}]}]",
        &["spec.rules[0].matches[0].method.service invalid"],
    ),
    (
        "GRPCRoute",
        "parentRefs: [{name: shop}]\nrules: [{filters: [{type: URLRewrite, urlRewrite: {}}]}]",
        &["spec.rules[0].filters[0].type invalid"],
    ),
];

#[test]
fn faults_of_backends_parents_and_grpc_are_named() {
    for (kind, spec, expected) in ROUTES {
        let found = findings(&with_route(kind, spec));
        let found: Vec<_> = found
            .iter()
            .filter_map(|f| Some(f.split_once(' ')?.1))
            .collect();
        assert_eq!(found, *expected, "{spec}");
    }
}

const LISTENERS: &[(&str, &[&str])] = &[
    ("{name: a, port: 80, protocol: HTTP}", &[]),
    (
        "{port: 0, protocol: HTTP}",
        &["listeners[0].name missing", "listeners[0].port invalid"],
    ),
    (
        "{name: a, port: 15001, protocol: HTTP}",
        &["listeners[0].port conflict"],
    ),
    (
        "{name: a, port: 1, protocol: UDP}",
        &["listeners[0].protocol unsupported"],
    ),
    ("{name: a, port: 1, protocol: TCP}", &[]),
    (
        "{name: a, port: 1, protocol: TCP, hostname: a.b, tls: {}}",
        &[
            "listeners[0].hostname conflict",
            "listeners[0].tls conflict",
        ],
    ),
    (
        "{name: a, port: 1, protocol: TLS, tls: {mode: Passthrough}}",
        &[],
    ),
    (
        "{name: a, port: 1, protocol: TLS}",
        &["listeners[0].tls.certificateRefs missing"],
    ),
    (
        "{name: a, port: 1, protocol: TLS, tls: {mode: Passthrough}, allowedRoutes: {kinds: [{kind: TLSRoute}, {kind: TCPRoute}]}}",
        &["listeners[0].allowedRoutes.kinds[1] invalid"],
    ),
    (
        "{name: a, port: 1, protocol: HTTP}, {name: b, port: 1, protocol: TCP}",
        &["listeners[1].port conflict"],
    ),
    (
        "{name: a, port: 1, protocol: HTTP}, {name: b, port: 1, protocol: HTTP}",
        &["listeners[1].port conflict"],
    ),
    (
        "{name: a, port: 1, protocol: HTTP}, {name: b, port: 1, protocol: HTTP, hostname: b.c}",
        &[],
    ),
    (
        "{name: a, port: 1, protocol: SMTP}",
        &["listeners[0].protocol invalid"],
    ),
    (
        "{name: a, port: 1, protocol: HTTPS}",
        &["listeners[0].tls.certificateRefs missing"],
    ),
    (
        "{name: a, port: 1, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}}",
        &[],
    ),
    (
        "{name: a, port: 1, protocol: HTTPS, tls: {mode: Passthrough, certificateRefs: [{name: c}]}}",
        &["listeners[0].tls.mode invalid"],
    ),
    (
        "{name: a, port: 1, protocol: HTTPS, tls: {certificateRefs: [{name: c, namespace: other}]}}",
        &["listeners[0].tls.certificateRefs[0].namespace unknown-reference"],
    ),
    (
        "{name: a, port: 1, protocol: HTTP, tls: {}}",
        &["listeners[0].tls conflict"],
    ),
    (
        "{name: a, port: 1, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}}",
        &["listeners[0].allowedRoutes.namespaces.from unsupported"],
    ),
    (
        "{name: a, port: 1, protocol: HTTP, allowedRoutes: {kinds: [{kind: TCPRoute}]}}",
        &["listeners[0].allowedRoutes.kinds[0] invalid"],
    ),
];

#[test]
fn faults_of_gateways_are_named() {
    for (listener, expected) in LISTENERS {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec:\n  gatewayClassName: istio\n  listeners: [{listener}]\n"
        );
        let found = findings(&text);
        let found: Vec<_> = found
            .iter()
            .filter_map(|f| f.split_once(" spec.").map(|(_, rest)| rest))
            .collect();
        assert_eq!(found, *expected, "{listener}");
    }
}

#[test]
fn a_route_is_attached_to_listeners_and_to_services() {
    let gateways = |parent: &str| {
        let all = route(
            "HTTPRoute",
            &format!("parentRefs: [{parent}]\nrules: [{{{TO}}}]").replace('\n', "\n"),
        );
        all.iter()
            .flat_map(|v| v.gateways.iter().map(|(_, name)| name.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(gateways("{name: shop}"), ["shop~web", "shop~open"]);
    assert_eq!(gateways("{name: shop, sectionName: open}"), ["shop~open"]);
    assert_eq!(gateways("{name: shop, port: 8080}"), ["shop~web"]);
    let spec = "parentRefs: [{group: '', kind: Service, name: reviews, port: 9080}, {name: shop}]\nhostnames: []\nrules: [{backendRefs: [{name: reviews, port: 9080}]}]";
    let all = route("HTTPRoute", spec);
    assert_eq!(all.len(), 2);
    let service = all.iter().find(|v| v.in_mesh).expect("for the service");
    assert_eq!(service.hosts, ["reviews.default.svc.cluster.local"]);
    assert_eq!(service.http[0].matches[0].at.port, Some(9080));
    let outside = all.iter().find(|v| !v.in_mesh).expect("for the gateway");
    assert_eq!(
        (outside.hosts.as_slice(), outside.http[0].matches[0].at.port),
        (&["*".to_owned()][..], None)
    );
}

#[test]
fn each_match_is_a_rule_of_its_own_and_backends_that_may_not_be_asked_are_500() {
    let spec = "parentRefs: [{name: shop}]\nrules:\n  - matches: [{path: {value: /a}}, {path: {type: Exact, value: /b}, method: GET}]\n    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: A, value: '1'}, {name: a, value: '2'}]}}]\n    backendRefs: [{name: reviews, port: 9080, weight: 3}, {name: reviews, port: 9080}]\n  - backendRefs: [{name: reviews, namespace: other, port: 9080}]\n  - {}\n  - filters: [{type: RequestRedirect, requestRedirect: {scheme: https, path: {type: ReplacePrefixMatch, replacePrefixMatch: /c}}}]";
    let all = route("HTTPRoute", spec);
    let rules = &all[0].http;
    assert_eq!(rules.len(), 5);
    let uri = |n: usize| rules[n].matches[0].request.uri.clone().unwrap();
    assert_eq!(uri(0), StringMatch::PathPrefix("/a".to_owned()));
    assert_eq!(uri(1), StringMatch::Exact("/b".to_owned()));
    let RouteTo::Forward(to) = &rules[0].to else {
        panic!("not forwarded")
    };
    assert_eq!(to.iter().map(|t| t.weight).collect::<Vec<_>>(), [3, 1]);
    let set = rules[0]
        .headers
        .as_ref()
        .map(|h| h.response.set["a"].clone());
    assert_eq!(
        set.as_deref(),
        Some("1"),
        "of two entries of one name the first counts"
    );
    for refused in [2, 3] {
        assert!(
            matches!(rules[refused].to, RouteTo::Respond { status: 500, .. }),
            "{:?}",
            rules[refused].to
        );
    }
    let RouteTo::Redirect {
        redirect,
        request_port,
    } = &rules[4].to
    else {
        panic!("no redirect")
    };
    assert_eq!((redirect.code, *request_port), (302, false));
    assert_eq!(redirect.path, Some(PathRewrite::Matched("/c".to_owned())));
}

#[test]
fn a_grant_opens_a_service_of_another_namespace_to_that_kind_alone() {
    let text = |grant_kind: &str, name: &str| {
        let route = with_route(
            "HTTPRoute",
            "parentRefs: [{name: shop}]\nrules: [{backendRefs: [{name: far, namespace: other, port: 80}]}]",
        );
        format!(
            "{route}---\napiVersion: v1\nkind: Service\nmetadata: {{name: far, namespace: other}}\nspec: {{selector: {{app: far}}, ports: [{{port: 80, name: http}}]}}\n---\n\
            apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: other}}\nspec:\n  from: [{{group: gateway.networking.k8s.io, kind: {grant_kind}, namespace: default}}]\n  to: [{{group: '', kind: Service{name}}}]\n"
        )
    };
    for (kind, name, granted) in [
        ("HTTPRoute", "", true),
        ("HTTPRoute", ", name: far", true),
        ("HTTPRoute", ", name: near", false),
        ("GRPCRoute", "", false),
    ] {
        let found = mesh(&text(kind, name));
        let forwarded = matches!(found.virtual_services[0].http[0].to, RouteTo::Forward(_));
        assert_eq!(forwarded, granted, "{kind} {name}");
    }
}

#[test]
fn grpc_methods_are_paths() {
    let uri = |method: &str| {
        let spec = format!(
            "parentRefs: [{{name: shop}}]\nrules: [{{matches: [{{method: {method}}}], backendRefs: [{{name: reviews, port: 9080}}]}}]"
        );
        route("GRPCRoute", &spec)[0].http[0].matches[0]
            .request
            .uri
            .clone()
    };
    assert_eq!(
        uri("{service: p.S, method: M}"),
        Some(StringMatch::Exact("/p.S/M".to_owned()))
    );
    assert_eq!(
        uri("{service: p.S}"),
        Some(StringMatch::Prefix("/p.S/".to_owned()))
    );
    assert_eq!(
        uri("{method: M}"),
        Some(StringMatch::Regex("/[^/]+/M".to_owned()))
    );
    assert_eq!(
        uri("{service: 'p\\..*', type: RegularExpression}"),
        Some(StringMatch::Regex("/(?:p\\..*)/(?:[^/]+)".to_owned()))
    );
}

#[test]
fn a_service_is_routed_by_one_kind() {
    let route = with_route(
        "HTTPRoute",
        "parentRefs: [{group: '', kind: Service, name: reviews}]\nrules: [{backendRefs: [{name: reviews, port: 9080}]}]",
    );
    let other = document(
        "VirtualService",
        "v",
        "  hosts: [reviews]\n  http: [{route: [{destination: {host: reviews}}]}]",
    );
    let found = findings(&format!("{route}---\n{other}"));
    assert!(
        found
            .iter()
            .any(|f| f.ends_with("spec.parentRefs[0] conflict")),
        "{found:?}"
    );
}

const CLASS: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: own}\nspec: {controllerName: CONTROLLER}\n---\n";

#[test]
fn a_gateway_is_served_if_its_class_is_ours() {
    let of = |class: &str, controller: &str| {
        let gateway = GATEWAY.replace("gatewayClassName: reeve", class);
        let text = CLASS.replace("CONTROLLER", controller) + &gateway;
        let found = findings(&text);
        let short = found.iter().filter_map(|f| f.split_once(' '));
        let short: Vec<_> = short.map(|(_, rest)| rest.to_owned()).collect();
        let wrong = found.iter().any(|f| !f.ends_with('?'));
        let served = (!wrong).then(|| mesh(&text).gateways.len());
        (served, short.join(", "))
    };
    let ours = "reeve.dev/gateway-controller";
    for (class, controller, served, said) in [
        ("gatewayClassName: own", ours, Some(2), ""),
        (
            "gatewayClassName: own",
            "istio.io/gateway-controller",
            Some(2),
            "",
        ),
        ("gatewayClassName: istio", ours, Some(2), ""),
        (
            "gatewayClassName: own",
            "k8s.example/nginx",
            Some(0),
            "spec.gatewayClassName conflict?",
        ),
        (
            "gatewayClassName: else",
            ours,
            Some(0),
            "spec.gatewayClassName unknown-reference?",
        ),
        (
            "gatewayClassName: istio-waypoint",
            ours,
            None,
            "spec.gatewayClassName unsupported",
        ),
        (
            "gatewayClassName: ''",
            ours,
            None,
            "spec.gatewayClassName missing",
        ),
        (
            "gatewayClassName: reeve",
            "nobody",
            None,
            "spec.controllerName invalid",
        ),
    ] {
        assert_eq!(
            of(class, controller),
            (served, said.to_owned()),
            "{class} {controller}"
        );
    }
}

const STREAMS: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: shop}
spec:
  gatewayClassName: reeve
  listeners:
    - {name: web, port: 8080, protocol: HTTP}
    - {name: tls, port: 8443, protocol: TLS, tls: {mode: Passthrough}, hostname: '*.example.com'}
    - {name: tcp, port: 7000, protocol: TCP}
---
";

fn streamed(kind: &str, spec: &str) -> String {
    with_route(kind, spec).replace(GATEWAY, STREAMS)
}

const TO_REVIEWS: &str = "rules: [{backendRefs: [{name: reviews, port: 9080}]}]";

/// Kind, spec (`TO` = rules without a fault), findings.
const STREAM_FAULTS: &[(&str, &str, &[&str])] = &[
    ("TCPRoute", "parentRefs: [{name: shop}]\nTO", &[]),
    ("TLSRoute", "parentRefs: [{name: shop}]\nTO", &[]),
    (
        "TCPRoute",
        "parentRefs: [{group: '', kind: Service, name: reviews}]\nTO",
        &[],
    ),
    (
        "TCPRoute",
        "parentRefs: [{name: shop, sectionName: tls}]\nTO",
        &["spec.parentRefs[0] conflict?"],
    ),
    (
        "TLSRoute",
        "parentRefs: [{name: shop, sectionName: web}]\nTO",
        &["spec.parentRefs[0] conflict?"],
    ),
    (
        "HTTPRoute",
        "parentRefs: [{name: shop, sectionName: tcp}]\nTO",
        &["spec.parentRefs[0] conflict?"],
    ),
    (
        "TLSRoute",
        "parentRefs: [{name: shop}]\nhostnames: [a.org]\nTO",
        &["spec.parentRefs[0] conflict?"],
    ),
    (
        "TCPRoute",
        "parentRefs: [{name: shop}]\nrules: []",
        &["spec.rules missing"],
    ),
    (
        "TCPRoute",
        "parentRefs: [{name: shop}]\nrules: [{}]",
        &["spec.rules[0].backendRefs missing"],
    ),
    (
        "TCPRoute",
        "parentRefs: [{name: shop}]\nrules: [{backendRefs: [{name: reviews, port: 9080}]}, {backendRefs: [{name: gone, port: 1}]}]",
        &[
            "spec.rules[1] unreachable?",
            "spec.rules[1].backendRefs[0].name unknown-reference?",
        ],
    ),
    (
        "TLSRoute",
        "parentRefs: [{name: shop}]\nrules: [{backendRefs: [{name: reviews, port: 9080, filters: [{type: RequestMirror}]}]}]",
        &["spec.rules[0].backendRefs[0].filters invalid"],
    ),
    (
        "TLSRoute",
        "parentRefs: [{name: shop}]\nrules: [{matches: []}]",
        &[
            "spec.rules[0].backendRefs missing",
            "spec.rules[0].matches unknown-field",
        ],
    ),
    (
        "TCPRoute",
        "parentRefs: [{name: shop}]\nhostnames: [a.b]\nTO",
        &["spec.hostnames unknown-field"],
    ),
    (
        "UDPRoute",
        "parentRefs: [{name: shop}]\nTO",
        &["kind unsupported"],
    ),
];

#[test]
fn faults_of_routes_of_connections_are_named() {
    for (kind, spec, expected) in STREAM_FAULTS {
        let found = findings(&streamed(kind, &spec.replace("TO", TO_REVIEWS)));
        let found: Vec<_> = found
            .iter()
            .filter_map(|f| Some(f.split_once(' ')?.1))
            .collect();
        assert_eq!(found, *expected, "{kind} {spec}");
    }
}

#[test]
fn routes_of_connections_become_tls_and_tcp_routes() {
    let of = |kind: &str, spec: &str| mesh(&streamed(kind, spec)).virtual_services;
    let parents =
        "parentRefs: [{name: shop}, {group: '', kind: Service, name: reviews, port: 9080}]";
    let all = of(
        "TLSRoute",
        &format!("{parents}\nhostnames: [a.example.com, '*.b.example.com']\n{TO_REVIEWS}"),
    );
    let shown = |v: &VirtualService| {
        let names = v.gateways.iter().map(|(_, name)| name.clone());
        let rule = &v.tls[0].matches[0];
        (
            v.in_mesh,
            names.collect::<Vec<_>>(),
            v.hosts.join(" "),
            rule.sni_hosts.join(" "),
            rule.at.port,
        )
    };
    let names = "a.example.com *.b.example.com".to_owned();
    let host = "reviews.default.svc.cluster.local".to_owned();
    assert_eq!(
        all.iter().map(shown).collect::<Vec<_>>(),
        [
            (true, vec![], host, names.clone(), Some(9080)),
            (
                false,
                vec!["shop~tls".to_owned()],
                names.clone(),
                names,
                None
            ),
        ]
    );
    let all = of(
        "TCPRoute",
        &format!(
            "{parents}\nrules: [{{backendRefs: [{{name: reviews, port: 9080, weight: 3}}, {{name: reviews, namespace: other, port: 1}}]}}]"
        ),
    );
    let [service, gateway] = all.as_slice() else {
        panic!("{all:?}")
    };
    assert_eq!(service.tcp[0].matches[0].port, Some(9080));
    assert!(gateway.tcp[0].matches.is_empty());
    assert_eq!(gateway.gateways[0].1, "shop~tcp");
    let to: Vec<_> = gateway.tcp[0]
        .to
        .iter()
        .map(|t| (t.service.as_str(), t.weight))
        .collect();
    assert_eq!(
        to,
        [
            ("reviews.default.svc.cluster.local", 3),
            ("backend.invalid", 1)
        ]
    );
}

#[test]
fn where_no_backend_may_be_asked_nobody_is() {
    for (kind, backends) in [
        ("TCPRoute", "{name: reviews, namespace: other, port: 9080}"),
        ("TCPRoute", "{name: reviews, port: 9080, weight: 0}"),
        ("TLSRoute", "{name: gone, port: 9080}"),
    ] {
        let spec = format!("parentRefs: [{{name: shop}}]\nrules: [{{backendRefs: [{backends}]}}]");
        let all = mesh(&streamed(kind, &spec)).virtual_services;
        let tls = all[0].tls.iter().flat_map(|r| &r.to);
        let to: Vec<_> = all[0].tcp.iter().flat_map(|r| &r.to).chain(tls).collect();
        let shown: Vec<_> = to.iter().map(|t| (t.service.as_str(), t.weight)).collect();
        assert_eq!(shown, [("backend.invalid", 1)], "{kind} {backends}");
    }
}

#[test]
fn a_secret_of_another_namespace_is_used_where_that_grants_it() {
    let text = |kind: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec:\n  gatewayClassName: reeve\n  listeners: [{{name: a, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: c, namespace: keys}}]}}}}]\n---\n\
            apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: keys}}\nspec:\n  from: [{{group: gateway.networking.k8s.io, kind: Gateway, namespace: default}}]\n  to: [{{group: '', kind: {kind}, name: c}}]\n"
        )
    };
    let granted = mesh(&text("Secret"));
    let crate::mesh::GatewayTls::Public(tls) = &granted.gateways[0].servers[0].tls else {
        panic!("no TLS")
    };
    let own = reeve_core::Namespace::parse("default").unwrap();
    let name = tls.certificates[0].secret_of(&own).map(|n| n.0);
    assert_eq!(name.as_deref(), Some("keys/c"));
    assert_eq!(findings(&text("Service")).len(), 1);
}
