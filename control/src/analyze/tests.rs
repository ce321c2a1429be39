//! Each message once, and its absence.

use super::*;
use crate::resolve::tests::document;

const MESH: &str = "apiVersion: reeve.dev/v1alpha1
kind: LocalMesh
metadata: {name: local}
spec:
  workloads:
    - {name: edge, role: gateway, labels: {app: edge}}
    - {name: a-v1, command: [x], labels: {app: a, version: v1}, ports: [{port: 9080, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{port: 80, name: http, targetPort: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: two}
spec: {selector: {app: a}, ports: [{port: 81, name: http-a, targetPort: 9081}, {port: 82, name: http-b, targetPort: 9082}]}
---
";

/// The messages for `MESH` and `more`.
fn messages(more: &str) -> Vec<String> {
    let mut source = Source::default();
    source.add("a.yaml", &format!("{MESH}{more}"));
    let found = of_source(&source);
    let told = found
        .iter()
        .map(|f| format!("{} {}", f.message, f.fault.path));
    told.collect()
}

fn virtual_service(spec: &str) -> String {
    document("VirtualService", "v", spec)
}

const GATEWAY: &str = "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: g}
spec: {selector: {app: edge}, servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*.shop.example']}]}
---
";

/// What is configured in addition, and what is said of it.
type Row = (String, &'static [&'static str]);

fn to(more: &str) -> String {
    format!("  hosts: [a]\n  http:\n    - {more}route: [{{destination: {{host: a}}}}]\n")
}

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
}

fn rule(spec: &str) -> String {
    document("DestinationRule", "d", spec)
}

fn gateway(name: &str, server: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: edge}}, servers: [{server}]}}\n---\n"
    )
}

const STRICT: &str = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: {mode: STRICT}}\n";
const JWT: &str = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: r}\nspec: {selector: {matchLabels: {app: a}}, jwtRules: [{issuer: i, jwksUri: 'https://keys.example/k'}]}\n---\n";
const HTTP: &str = "{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['x.example']}";

fn references() -> Vec<Row> {
    vec![
        (String::new(), &[]),
        (virtual_service(&to("")), &[]),
        (
            virtual_service(&to("").replace("host: a", "host: gone")),
            &["IST0101 spec.http[0].route[0].destination.host"],
        ),
        (
            virtual_service(&to("").replace("host: a", "host: a, subset: v9")),
            &["IST0101 spec.http[0].route[0].destination.subset"],
        ),
        (
            virtual_service(
                "  hosts: [x.example]\n  gateways: [gone]\n  http: [{route: [{destination: {host: a}}]}]",
            ),
            &["IST0101 spec.gateways[0]"],
        ),
        (
            virtual_service(
                "  hosts: [a]\n  htp: []\n  http: [{route: [{destination: {host: a}}]}]",
            ),
            &["IST0106 spec.htp"],
        ),
        (
            virtual_service(
                "  hosts: [a]\n  http: [{route: [{destination: {host: a}, weight: 0}, {destination: {host: a}, weight: 0}]}]",
            ),
            &["IST0106 spec.http[0].route"],
        ),
        (
            format!(
                "{}---\n{}",
                virtual_service(&to("")),
                document("VirtualService", "w", &to(""))
            ),
            &["IST0109 spec.hosts[0]"],
        ),
        (
            virtual_service(&to("").replace("host: a", "host: two")),
            &["IST0112 spec.http[0].route[0].destination"],
        ),
    ]
}

fn destinations() -> Vec<Row> {
    vec![
        (
            virtual_service(&to("").replace("host: a", "host: two, port: {number: 81}")),
            &[],
        ),
        (
            virtual_service(&to("mirror: {host: two}\n      ")),
            &["IST0112 spec.http[0].mirror"],
        ),
        (
            format!(
                "{}{STRICT}",
                rule("  host: a\n  trafficPolicy: {tls: {mode: DISABLE}}\n")
            ),
            &["IST0113 spec.trafficPolicy.tls"],
        ),
        (
            format!(
                "{}{STRICT}",
                rule("  host: a\n  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}\n")
            ),
            &[],
        ),
        (
            service(
                "b",
                "{selector: {app: a}, ports: [{port: 80, name: grpc, targetPort: 9090}]}",
            ),
            &["IST0116 spec.ports[0]", "IST0116 spec.ports[0]"],
        ),
        (
            service(
                "b",
                "{selector: {app: a}, ports: [{port: 90, name: web, targetPort: 9090}]}",
            ),
            &["IST0118 spec.ports[0].name"],
        ),
        (
            format!(
                "{JWT}{}",
                service(
                    "b",
                    "{selector: {app: a}, ports: [{port: 90, name: tcp, targetPort: 9090}]}"
                )
            ),
            &["IST0119 spec.ports[0].name"],
        ),
        (
            virtual_service(&to("match: [{uri: {regex: '('}}]\n      ")),
            &["IST0122 spec.http[0].match[0].uri.regex"],
        ),
    ]
}

fn rules() -> Vec<Row> {
    vec![
        (
            service(
                "b",
                "{selector: {app: nobody}, ports: [{port: 90, name: http}]}",
            ),
            &["IST0127 spec.selector"],
        ),
        (
            STRICT
                .replace("spec: {", "spec: {selector: {matchLabels: {app: nobody}}, ")
                .replacen("---\n", "", 1),
            &["IST0127 spec.selector"],
        ),
        (
            virtual_service(
                "  hosts: [a]\n  http:\n    - route: [{destination: {host: a}}]\n    - redirect: {uri: /}",
            ),
            &["IST0130 spec.http[1]"],
        ),
        (
            virtual_service(
                "  hosts: [a]\n  http:\n    - {match: [{uri: {prefix: /x}}], route: [{destination: {host: a}}]}\n    - {match: [{name: n, uri: {prefix: /x}}], redirect: {uri: /}}",
            ),
            &["IST0130 spec.http[1]"],
        ),
        (
            virtual_service(
                "  hosts: [a]\n  http:\n    - {match: [{uri: {prefix: /x}}], route: [{destination: {host: a}}]}\n    - {match: [{uri: {prefix: /y}}, {uri: {prefix: /x}}], redirect: {uri: /}}",
            ),
            &["IST0131 spec.http[1].match[1]"],
        ),
        (
            format!(
                "{GATEWAY}{}",
                virtual_service(
                    "  hosts: [a.shop.example, b.example]\n  gateways: [g]\n  http: [{route: [{destination: {host: a}}]}]"
                )
            ),
            &["IST0132 spec.hosts[1]"],
        ),
        (
            service(
                "b",
                "{selector: {app: a}, ports: [{port: 90, name: http, targetPort: 9080}]}",
            ),
            &["IST0137 spec.ports[0]", "IST0137 spec.ports[0]"],
        ),
    ]
}

const ADMIN: &str = "  hosts: [x.shop.example]\n  gateways: [g]\n  http:\n    - {match: [{headers: {'@request.auth.claims.role': {exact: admin}}}], route: [{destination: {host: a}}]}";

fn trust() -> Vec<Row> {
    let unverified = "tls: {mode: SIMPLE, insecureSkipVerify: true}";
    let subset = "  hosts: [a]\n  http: [{route: [{destination: {host: a, subset: v1}}]}]";
    let v1 = rule("  host: a\n  subsets: [{name: v1, labels: {version: v1}}]\n");
    let at_gateway = |more: &str| {
        let spec = format!(
            "  hosts: [x.shop.example]\n  gateways: [{more}]\n  http: [{{route: [{{destination: {{host: a}}}}]}}]"
        );
        format!(
            "{GATEWAY}{}---\n{v1}---\n{}",
            virtual_service(&spec),
            document("VirtualService", "w", subset)
        )
    };
    vec![
        (
            rule(&format!("  host: a\n  trafficPolicy: {{{unverified}}}\n")),
            &["IST0128 spec.trafficPolicy.tls.insecureSkipVerify"],
        ),
        (
            rule(&format!(
                "  host: a\n  trafficPolicy: {{portLevelSettings: [{{port: {{number: 80}}, {unverified}}}]}}\n"
            )),
            &["IST0129 spec.trafficPolicy.portLevelSettings[0].tls.insecureSkipVerify"],
        ),
        // The public authorities verify it.
        (
            rule("  host: a\n  trafficPolicy: {tls: {mode: SIMPLE}}\n"),
            &[],
        ),
        (
            at_gateway("g"),
            &["IST0140 spec.http[0].route[0].destination"],
        ),
        (
            gateway(
                "g",
                "{port: {number: 8443, name: https, protocol: HTTPS}, hosts: ['x.example'], tls: {mode: SIMPLE, credentialName: none}}",
            ),
            &["IST0161 spec.servers"],
        ),
    ]
}

/// Where claims are routed by, tokens must be verified.
#[test]
fn claims_need_a_request_authentication_at_the_gateway() {
    let said = |more: &str| {
        let found = messages(&format!("{GATEWAY}{more}{}", virtual_service(ADMIN)));
        let claims = found.iter().filter(|f| f.starts_with("IST0149"));
        claims.cloned().collect::<Vec<_>>()
    };
    let path = "spec.http[0].match[0].headers.\"@request.auth.claims.role\"";
    assert_eq!(said(""), [format!("IST0149 {path}")]);
    assert_eq!(said(JWT), [format!("IST0149 {path}")], "another workload's");
    assert_eq!(
        said(&JWT.replace("app: a", "app: edge")),
        Vec::<String>::new()
    );
}

fn gateways() -> Vec<Row> {
    vec![
        (
            gateway("g", HTTP) + &gateway("h", HTTP),
            &["IST0145 spec.servers[0]", "IST0145 spec.servers[0]"],
        ),
        (
            gateway("g", HTTP) + &gateway("h", &HTTP.replace("x.example", "y.example")),
            &[],
        ),
        (
            gateway("g", HTTP).replace("app: edge", "app: nobody"),
            &["IST0101 spec.selector"],
        ),
        (
            gateway("g", HTTP)
                + &service(
                    "e",
                    "{selector: {app: edge}, ports: [{port: 80, name: http, targetPort: 8081}]}",
                ),
            &["IST0162 spec.servers[0].port"],
        ),
        (
            gateway("g", HTTP)
                + &service(
                    "e",
                    "{selector: {app: edge}, ports: [{port: 80, name: http, targetPort: 8080}]}",
                ),
            &[],
        ),
        (rule("  host: gone\n"), &["IST0101 spec.host"]),
        (
            rule(
                "  host: a\n  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]\n",
            ),
            &["IST0173 spec.subsets[1]"],
        ),
    ]
}

#[test]
fn each_message_is_given_where_it_belongs_and_nowhere_else() {
    let all = [references(), destinations(), rules(), trust(), gateways()];
    for (more, expected) in all.concat() {
        assert_eq!(messages(&more), expected, "{more}");
    }
}

#[test]
fn gateways_that_share_a_certificate_are_told() {
    let gateway = |name: &str, host: &str, credential: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: edge}}, servers: [{{port: {{number: 8443, name: https, protocol: HTTPS}}, hosts: ['{host}'], tls: {{mode: SIMPLE, credentialName: {credential}}}}}]}}\n---\n"
        )
    };
    let duplicate = |credential: &str| {
        let found =
            messages(&(gateway("g", "x.example", "c") + &gateway("h", "y.example", credential)));
        found.iter().filter(|f| f.starts_with("IST0138")).count()
    };
    assert_eq!(duplicate("c"), 2);
    assert_eq!(duplicate("d"), 0);
}

#[test]
fn bookinfo_has_nothing_to_find() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/bookinfo/mesh");
    assert_eq!(analyze(std::path::Path::new(folder)), []);
}

#[test]
fn a_transformation_that_is_over_or_soon_will_be_is_told() {
    let one = |expires: &str| {
        let spec = format!("  owner: a\n  expires: {expires}\n  response: {{status: 299}}\n");
        messages(&document("Transformation", "t", &spec))
    };
    let found = |expires: &str| one(expires).iter().any(|m| m == "RVE0001 spec.expires");
    assert!(found("2001-01-01"));
    let soon = jiff::Timestamp::now() + std::time::Duration::from_secs(3600);
    assert!(found(&soon.to_string()));
    assert!(!found("2099-01-01"));
}

#[test]
fn what_would_speak_plaintext_to_a_strict_port_is_told() {
    let of = |mode: &str, role: &str| {
        let strict = document(
            "PeerAuthentication",
            "p",
            &format!("  mtls: {{mode: {mode}}}\n"),
        );
        let local = document(
            "LocalMesh",
            "m",
            &format!(
                "  workloads:\n    - {{name: s, labels: {{app: s}}, ports: [{{port: 80, name: http}}]}}\n    \
                 - {{name: o, role: {role}, command: [sleep, '9']}}\n"
            ),
        );
        let found = messages(&format!("{strict}---\n{local}"));
        found.iter().any(|m| m == "RVE0002 spec.workloads[1].role")
    };
    assert!(of("STRICT", "none"));
    assert!(!of("STRICT", "sidecar"));
    assert!(!of("PERMISSIVE", "none"));
}
