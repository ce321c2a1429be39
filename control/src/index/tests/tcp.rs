//! `tcp` routes: what each listener gets of them.

use reeve_core::model::Destination;

use super::{sni::listener, *};

const SERVICES: &str = "apiVersion: v1
kind: Service
metadata: {name: db}
spec: {selector: {app: reviews}, ports: [{port: 5432, name: tcp}, {port: 5433, name: tls}, {port: 80, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec: {selector: {app: page}, ports: [{port: 6000, name: tcp}]}
---
";

const ROUTES: &str = "  hosts: ['*.default.svc.cluster.local']
  gateways: [mesh, edge]
  tcp:
    - match: [{port: 5432, sourceLabels: {app: page}, destinationSubnets: [192.0.2.0/24]}]
      route: [{destination: {host: gone}}]
    - match: [{port: 5432, sourceLabels: {app: page}, destinationSubnets: [127.0.0.0/8, 'fd00::/8']}]
      route: [{destination: {host: db, subset: v1}, weight: 1}, {destination: {host: db, subset: v2, port: {number: 5433}}, weight: 3}, {destination: {host: gone}, weight: 0}]
    - match: [{port: 7000, gateways: [edge]}, {port: 5433, sourceNamespace: other}]
      route: [{destination: {host: other}}]";

/// `service/subset:port*weight …`
fn shown(destinations: &[Destination]) -> String {
    let one = |d: &Destination| {
        let short = d.service.as_str().split('.').next().unwrap_or_default();
        let subset = d.subset.as_deref().unwrap_or("-");
        format!("{short}/{subset}:{}*{}", d.port, d.weight)
    };
    destinations.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_port_goes_where_the_first_rule_that_holds_there_says() {
    let routed = format!("{SERVICES}{}", document("VirtualService", "v", ROUTES));
    let of = |instance: &str, port| {
        let config = config(&routed, instance);
        shown(&listener(&config, "db", port).tcp)
    };
    assert_eq!(of("page-0", 5432), "db/v1:5432*1 db/v2:5433*3");
    assert_eq!(of("far-0.other", 5432), "", "other labels: to the service");
    assert_eq!(of("page-0", 5433), "", "another namespace");
    assert_eq!(of("far-0.other", 5433), "other/-:6000*100");
    assert_eq!(of("page-0", 80), "", "no bytes that nobody reads");
}

#[test]
fn a_gateways_port_has_the_rules_that_name_the_gateway() {
    let server = "  selector: {istio: edge}
  servers:
    - {port: {number: 7000, name: tcp, protocol: TCP}, hosts: ['*']}
    - {port: {number: 7001, name: tcp2, protocol: TCP}, hosts: ['*']}";
    let routed = format!(
        "{SERVICES}{}---\n{}",
        document("VirtualService", "v", ROUTES),
        document("Gateway", "edge", server)
    );
    let config = config(&routed, "edge-0");
    let listeners = &config.workload.outbound;
    let of = |port| {
        let found = listeners.iter().find(|l| l.bind.port() == port);
        let found = found.expect("a listener");
        assert_eq!(found.service, None);
        shown(&found.tcp)
    };
    assert_eq!(of(7000), "other/-:6000*100");
    assert_eq!(of(7001), "", "no rule: nowhere");
}

fn attached(kind: &str, name: &str, namespace: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: db, namespace: default{rest}\n"
    )
}

#[test]
fn a_tcp_route_holds_for_the_callers_of_its_service() {
    let own = attached(
        "TCPRoute",
        "own",
        "default",
        ", port: 5432}]\n  rules: [{backendRefs: [{name: other, port: 6000}]}]",
    );
    let theirs = attached(
        "TCPRoute",
        "theirs",
        "other",
        "}]\n  rules: [{backendRefs: [{name: nobody, port: 6000}]}]",
    );
    let routed = format!("{SERVICES}{own}{theirs}");
    let of = |instance: &str, port| {
        let config = config(&routed, instance);
        shown(&listener(&config, "db", port).tcp)
    };
    assert_eq!(of("page-0", 5432), "other/-:6000*1");
    assert_eq!(of("page-0", 5433), "", "another port");
    assert_eq!(
        of("far-0.other", 5432),
        "backend/-:1*1",
        "its own namespace's: nobody is there"
    );
}

#[test]
fn a_tls_route_holds_for_the_callers_of_its_service() {
    let route = |name: &str, host: &str, port: u16| {
        attached(
            "TLSRoute",
            name,
            "default",
            &format!(
                "}}]\n  hostnames: [{host}]\n  rules: [{{backendRefs: [{{name: db, port: {port}}}]}}]"
            ),
        )
    };
    let routed = format!(
        "{SERVICES}{}{}{}",
        route("a", "a.org", 5432),
        route("b", "'*.org'", 5433),
        route("c", "a.org", 80)
    );
    let page = config(&routed, "page-0");
    let found = &listener(&page, "db", 5433).sni;
    let found: Vec<_> = found
        .iter()
        .map(|r| (r.name.as_str(), r.hosts.join(" "), shown(&r.destinations)))
        .collect();
    assert_eq!(
        found,
        [
            ("default/a", "a.org".to_owned(), "db/-:5432*1".to_owned()),
            ("default/b", "*.org".to_owned(), "db/-:5433*1".to_owned()),
        ],
        "of two for one name the first keeps it"
    );
    assert!(listener(&page, "db", 5432).sni.is_empty(), "no TLS");
}
