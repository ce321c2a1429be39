//! Who sees what: `exportTo`, `Sidecar`, and whose `DestinationRule` holds.

use reeve_core::model::{InboundListener, LoadBalancer};

use super::*;

/// `caller` in namespace `shop` and `other` in namespace `b`; services `a` (default), `b` (namespace b), `root`.
const NAMESPACES: &str = "apiVersion: reeve.dev/v1alpha1
kind: LocalMesh
metadata: {name: more}
spec:
  workloads:
    - {name: caller, namespace: shop, command: [x], labels: {app: caller}, ports: [{port: 80, name: http}]}
    - {name: other, namespace: b, command: [x], labels: {app: other}}
---
apiVersion: v1
kind: Service
metadata: {name: one, namespace: b, annotations: {networking.istio.io/exportTo: ANNOTATION}}
spec: {selector: {app: other}, ports: [{port: 80, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: two, namespace: b}
spec: {selector: {app: other}, ports: [{port: 80, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: own, namespace: shop}
spec: {selector: {app: caller}, ports: [{port: 80, name: http}]}
---
";

fn object(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    let written = document(kind, name, spec);
    let named = format!("  name: {name}\n");
    let placed = format!("{named}  namespace: {namespace}\n");
    format!("{}---\n", written.replace(&named, &placed))
}

/// The services that `caller` sees, by their short names.
fn seen(annotation: &str, more: &str) -> String {
    let all = format!("{}{more}", NAMESPACES.replace("ANNOTATION", annotation));
    let config = config(&all, "caller-0.shop");
    let names = config
        .services
        .keys()
        .filter_map(|s| s.as_str().split('.').next());
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.join(" ")
}

#[test]
fn what_is_not_exported_is_not_seen() {
    for (annotation, expected) in [
        ("'*'", "far one own plain reviews two"),
        ("shop", "far one own plain reviews two"),
        ("'x, shop'", "far one own plain reviews two"),
        ("'.'", "far own plain reviews two"),
        ("'~'", "far own plain reviews two"),
        ("x", "far own plain reviews two"),
    ] {
        assert_eq!(seen(annotation, ""), expected, "{annotation}");
    }
}

#[test]
fn a_sidecar_names_what_its_workloads_see() {
    let sidecar = |namespace: &str, spec: &str| object("Sidecar", namespace, "s", spec);
    let all = "far one own plain reviews two";
    for (namespace, spec, expected) in [
        ("shop", "  egress: [{hosts: ['b/*']}]", "one two"),
        ("shop", "  egress: [{hosts: ['./*']}]", "own"),
        ("shop", "  egress: [{hosts: ['b/one', './*']}]", "one own"),
        (
            "shop",
            "  egress: [{hosts: ['*/one.b.svc.cluster.local']}]",
            "one",
        ),
        (
            "shop",
            "  egress: [{hosts: ['*/*.b.svc.cluster.local']}]",
            "one two",
        ),
        ("shop", "  egress: [{hosts: ['~/*']}]", ""),
        (
            "shop",
            "  workloadSelector: {labels: {app: caller}}\n  egress: [{hosts: ['b/two']}]",
            "two",
        ),
        (
            "shop",
            "  workloadSelector: {labels: {app: x}}\n  egress: [{hosts: ['b/two']}]",
            all,
        ),
        ("default", "  egress: [{hosts: ['~/*']}]", all),
        ("reeve-system", "  egress: [{hosts: ['b/two']}]", "two"),
        (
            "shop",
            "  outboundTrafficPolicy: {mode: REGISTRY_ONLY}",
            all,
        ),
    ] {
        assert_eq!(
            seen("'*'", &sidecar(namespace, spec)),
            expected,
            "{namespace} {spec}"
        );
    }
    let both = sidecar("reeve-system", "  egress: [{hosts: ['b/two']}]")
        + &sidecar("shop", "  egress: [{hosts: ['b/one']}]");
    assert_eq!(seen("'*'", &both), "one", "the namespace's own wins");
    let all =
        NAMESPACES.replace("ANNOTATION", "'*'") + &sidecar("shop", "  egress: [{hosts: ['~/*']}]");
    let own: Vec<_> = config(&all, "caller-0.shop").workload.services.clone();
    assert_eq!(
        own.len(),
        1,
        "its own services stay the parents of its decisions"
    );
}

#[test]
fn a_rule_of_the_caller_beats_that_of_the_service_and_that_of_the_root() {
    let rule = |namespace: &str, how: &str, export: &str| {
        let spec = format!(
            "  host: one.b.svc.cluster.local\n  exportTo: [{export}]\n  trafficPolicy: {{loadBalancer: {{simple: {how}}}}}"
        );
        object("DestinationRule", namespace, "r", &spec)
    };
    let (robin, random, least) = (
        LoadBalancer::RoundRobin,
        LoadBalancer::Random,
        LoadBalancer::LeastRequest,
    );
    let (own, home) = (
        rule("shop", "ROUND_ROBIN", "'.'"),
        rule("b", "RANDOM", "'*'"),
    );
    let hidden = rule("b", "RANDOM", "'.'");
    let (root, third) = (
        rule("reeve-system", "ROUND_ROBIN", "'*'"),
        rule("default", "ROUND_ROBIN", "'*'"),
    );
    for (rules, expected) in [
        (format!("{own}{home}"), robin),
        (format!("{home}{root}"), random),
        (format!("{hidden}{root}"), robin),
        (hidden, least),
        (third, least),
        (home, random),
    ] {
        let all = format!("{}{rules}", NAMESPACES.replace("ANNOTATION", "'*'"));
        let config = config(&all, "caller-0.shop");
        let service = config
            .services
            .values()
            .find(|s| s.name.as_str().starts_with("one."));
        assert_eq!(service.unwrap().traffic.load_balancer, expected, "{rules}");
    }
}

#[test]
fn routes_are_exported_and_the_own_namespaces_wins() {
    let routes = |namespace: &str, name: &str, export: &str| {
        let spec = format!(
            "  hosts: [two.b.svc.cluster.local]\n  exportTo: [{export}]\n  http: [{{name: {name}, directResponse: {{status: 200}}}}]"
        );
        object("VirtualService", namespace, name, &spec)
    };
    for (rules, expected) in [
        (routes("b", "home", "'*'"), Some("home")),
        (routes("b", "home", "'.'"), None),
        (
            routes("b", "home", "'*'") + &routes("shop", "own", "'.'"),
            Some("own"),
        ),
    ] {
        let all = format!("{}{rules}", NAMESPACES.replace("ANNOTATION", "'*'"));
        let config = config(&all, "caller-0.shop");
        let table = &config.routes[&RouteTableName("80".to_owned())];
        let named = |h: &&Arc<VirtualHost>| h.name.contains("two.b");
        let host = table.virtual_hosts.values().find(named).unwrap();
        let first = host.routes.first().and_then(|r| r.name.as_deref());
        assert_eq!(first, expected, "{rules}");
    }
}

#[test]
fn a_sidecar_says_which_ports_are_open_and_what_goes_to_the_application() {
    let ingress = "  workloadSelector: {labels: {app: caller}}
  inboundConnectionPool: {http: {http2MaxRequests: 7}}
  ingress:
    - {port: {number: 80, protocol: HTTP2, name: x}, defaultEndpoint: '127.0.0.1:8080'}
    - {port: {number: 9000, protocol: TCP, name: y}, bind: 127.8.8.8, connectionPool: {tcp: {maxConnections: 3}}}";
    let all = NAMESPACES.to_owned() + &object("Sidecar", "shop", "s", ingress);
    let caller = config(&all, "caller-0.shop");
    let [web, bytes] = caller.workload.inbound.as_slice() else {
        panic!("{:?}", caller.workload.inbound)
    };
    let shown = |l: &InboundListener| (l.bind.port(), l.app.port(), l.protocol, l.services.len());
    assert_eq!(shown(web), (80, 8080, Protocol::Http2, 1));
    assert_eq!(shown(bytes), (9000, 9000, Protocol::Tcp, 0));
    assert_eq!(bytes.bind.ip().to_string(), "127.8.8.8");
    assert_eq!(web.app.ip(), bytes.app.ip());
    let most = |l: &InboundListener| {
        let pool = l.pool.as_ref().expect("a pool");
        (
            pool.http.max_requests.map(|n| n.get()),
            pool.tcp.max_connections.map(|n| n.get()),
        )
    };
    assert_eq!((most(web), most(bytes)), ((Some(7), None), (None, Some(3))));
    let other = config(&all, "other-0.b");
    assert!(other.workload.inbound.iter().all(|l| l.pool.is_none()));
}
