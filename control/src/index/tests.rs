mod discovery;
mod edge;
mod paths;
mod projection;
mod scope;
mod sni;
mod tcp;
mod tokens;

use reeve_core::model::{
    MtlsMode, Protocol, RouteAction, RouteTableName, ServiceState, TapMode, VirtualHost,
};

use super::*;
use crate::resolve::tests::{document, mesh};

const WORKLOADS: &str = "apiVersion: reeve.dev/v1alpha1
kind: LocalMesh
metadata: {name: local}
spec:
  workloads:
    - {name: edge, role: gateway, labels: {istio: edge}}
    - {name: page, command: [x], labels: {app: page}, ports: [{port: 9080, name: http}]}
    - {name: reviews-v1, command: [x], serviceAccount: reviews, labels: {app: reviews, version: v1}, ports: [{port: 8000, name: web, appPort: 9080}]}
    - {name: far, namespace: other, command: [x], labels: {app: far}}
    - {name: plain, namespace: old, role: none, command: [x], labels: {app: plain}, ports: [{port: 5000, name: tcp, appPort: 5001}]}
---
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{port: 80, name: http, targetPort: web}, {port: 9000, name: grpc}]}
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: other}
spec: {selector: {app: far}, ports: [{port: 80, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: plain, namespace: old}
spec: {selector: {app: plain}, ports: [{port: 5000, name: tcp}]}
---
";

fn name(text: &str) -> InstanceName {
    text.parse().unwrap()
}

/// The mesh of `WORKLOADS` and `more`, everything healthy.
fn running(more: &str) -> (Mesh, Instances) {
    let mesh = mesh(&format!("{WORKLOADS}{more}"));
    let mut instances = Instances::new(77);
    instances
        .plan(&mesh.workloads, mesh.services.keys())
        .unwrap();
    instances
        .instances
        .iter_mut()
        .for_each(|i| i.healthy = true);
    (mesh, instances)
}

fn config(more: &str, instance: &str) -> ProxyConfig {
    let (mesh, instances) = running(more);
    mesh.proxy_config(&instances, &TokenKeys::default(), &name(instance))
        .expect("it has a proxy")
}

fn host<'a>(config: &'a ProxyConfig, table: &str, authority: &str) -> Option<&'a VirtualHost> {
    let table = config.routes.get(&RouteTableName(table.into()))?;
    table
        .virtual_hosts
        .values()
        .map(Arc::as_ref)
        .find(|h| h.domains.iter().any(|d| d == authority))
}

fn destination(host: &VirtualHost) -> (String, u16) {
    match &host.routes[0].action {
        RouteAction::Forward { destinations, .. } => {
            (destinations[0].service.to_string(), destinations[0].port)
        }
        RouteAction::Redirect(_) | RouteAction::Respond { .. } => panic!("not forwarded"),
    }
}

#[test]
fn services_have_the_domains_that_istio_gives_them() {
    let (mesh, instances) = running("");
    let config = mesh
        .proxy_config(&instances, &TokenKeys::default(), &name("page-0"))
        .unwrap();
    let slot = instances.get(&name("page-0")).unwrap().slot;
    let service = ServiceName::parse("reviews.default.svc.cluster.local").unwrap();
    let address = instances.outbound_address(slot, &service).unwrap();
    let found = host(&config, "80", "reviews").expect("a virtual host");
    let stems = [
        "reviews.default.svc.cluster.local",
        "reviews.default.svc",
        "reviews.default",
        "reviews",
        &address.to_string(),
    ];
    let expected: Vec<_> = stems
        .iter()
        .flat_map(|s| [(*s).to_owned(), format!("{s}:80")])
        .collect();
    assert_eq!(found.domains, expected);
    assert!(
        host(&config, "80", "far").is_none(),
        "a short name is for its own namespace"
    );
    assert!(host(&config, "80", "far.other").is_some());
    assert!(host(&config, "80", "reviews:9000").is_none());
    assert_eq!(
        destination(host(&config, "15001", "reviews").unwrap()).1,
        80
    );
    assert_eq!(
        destination(host(&config, "15001", "reviews:9000").unwrap()).1,
        9000
    );
}

#[test]
fn domains_are_unique_within_a_table() {
    let routed = document(
        "VirtualService",
        "v",
        "  hosts: ['*', reviews, x.org]\n  http: [{route: [{destination: {host: far.other.svc.cluster.local}}]}]",
    );
    let config = config(&routed, "page-0");
    for table in config.routes.values() {
        let mut seen = BTreeSet::new();
        for domain in table.virtual_hosts.values().flat_map(|h| &h.domains) {
            assert!(seen.insert(domain), "{} has {domain} twice", table.name);
        }
    }
    assert_eq!(
        destination(host(&config, "80", "x.org:80").unwrap()).0,
        "far.other.svc.cluster.local"
    );
    assert_eq!(
        destination(host(&config, "80", "reviews").unwrap()).0,
        "far.other.svc.cluster.local"
    );
}

#[test]
fn a_destination_without_port_takes_the_only_port_or_the_listeners() {
    let to = |h: &str| {
        format!("  hosts: [reviews]\n  http: [{{route: [{{destination: {{host: {h}}}}}]}}]")
    };
    let other = config(
        &document("VirtualService", "v", &to("far.other.svc.cluster.local")),
        "page-0",
    );
    assert_eq!(
        destination(host(&other, "9000", "reviews").unwrap()).1,
        80,
        "its only port"
    );
    let own = config(&document("VirtualService", "v", &to("reviews")), "page-0");
    assert_eq!(
        destination(host(&own, "9000", "reviews").unwrap()).1,
        9000,
        "the listener's"
    );
}

#[test]
fn conditions_on_place_are_settled_here() {
    let spec = "  hosts: [reviews]
  http:
    - name: pages
      match: [{sourceLabels: {app: page}}]
      route: [{destination: {host: reviews}}]
    - name: port
      match: [{port: 9000}]
      route: [{destination: {host: reviews}}]
    - name: gateways
      match: [{gateways: [edge]}]
      route: [{destination: {host: reviews}}]
    - name: rest
      route: [{destination: {host: reviews}}]";
    let routed = document("VirtualService", "v", spec);
    let names = |instance: &str, table: &str| -> Vec<String> {
        let config = config(&routed, instance);
        let found = host(&config, table, "reviews.default").unwrap();
        found.routes.iter().filter_map(|r| r.name.clone()).collect()
    };
    // What takes everything at a place ends the list there.
    assert_eq!(names("page-0", "80"), ["pages"]);
    assert_eq!(names("page-0", "9000"), ["pages"]);
    assert_eq!(names("far-0.other", "9000"), ["port"]);
    assert_eq!(names("far-0.other", "80"), ["rest"]);
}

/// Gateways that a match names count alone; without them the labels of the gateway's own workload do.
#[test]
fn a_match_with_gateways_is_not_narrowed_by_labels() {
    let spec = |condition: &str| {
        format!(
            "  hosts: [reviews]\n  http:\n    - match: [{{{condition}}}]\n      route: [{{destination: {{host: reviews}}}}]"
        )
    };
    for (condition, holds) in [
        ("gateways: [mesh], sourceLabels: {app: nobody}", true),
        ("sourceLabels: {app: nobody}", false),
        ("sourceLabels: {app: page}, sourceNamespace: default", true),
        ("sourceLabels: {app: page}, sourceNamespace: other", false),
        ("gateways: [edge], sourceLabels: {app: page}", false),
    ] {
        let config = config(&document("VirtualService", "v", &spec(condition)), "page-0");
        let found = host(&config, "80", "reviews.default").unwrap();
        assert_eq!(!found.routes.is_empty(), holds, "{condition}");
    }
}

/// As Istio merges them: in order, but what takes everything comes last.
#[test]
fn several_virtual_services_of_one_gateway_host_are_merged() {
    let gateway = document(
        "Gateway",
        "edge",
        "  selector: {istio: edge}\n  servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}]",
    );
    let service = |name: &str, rules: &str| {
        let spec = format!("  hosts: [shop.example]\n  gateways: [edge]\n  http:\n{rules}");
        format!("---\n{}", document("VirtualService", name, &spec))
    };
    let rule = |name: &str, matches: &str| {
        format!(
            "    - {{name: {name}, match: [{matches}], route: [{{destination: {{host: reviews}}}}]}}\n"
        )
    };
    let one = rule("a", "{uri: {prefix: /a}}, {uri: {prefix: /}}")
        + &rule("never", "{uri: {prefix: /n}}");
    let two = rule("b", "{uri: {prefix: /b}}");
    let more = format!("{gateway}{}{}", service("one", &one), service("two", &two));
    let config = config(&more, "edge-0");
    let found = host(&config, "gateway/edge:8080", "shop.example").unwrap();
    let rules = found
        .routes
        .iter()
        .map(|r| (r.name.as_deref().unwrap(), r.matches.len()));
    assert_eq!(rules.collect::<Vec<_>>(), [("a", 1), ("b", 1), ("a", 1)]);
    assert!(found.routes[2].matches[0].is_catch_all());
}

#[test]
fn ports_lead_from_service_to_sidecar_to_application() {
    let config = config("", "reviews-v1-0");
    let [web, grpc] = config.workload.inbound.as_slice() else {
        panic!("{:?}", config.workload.inbound);
    };
    assert_eq!(
        (web.bind.port(), web.app.port(), web.protocol),
        (8000, 9080, Protocol::Http)
    );
    assert_eq!(
        (grpc.bind.port(), grpc.app.port(), grpc.protocol),
        (9000, 9000, Protocol::Grpc)
    );
    let endpoints = |service: &str| {
        let service = ServiceName::parse(service).unwrap();
        config.endpoints[&service].endpoints[0].clone()
    };
    let reviews = endpoints("reviews.default.svc.cluster.local");
    assert_eq!(reviews.ports, BTreeMap::from([(80, 8000), (9000, 9000)]));
    assert_eq!(
        reviews.identity.unwrap().as_str(),
        "spiffe://mesh.local/ns/default/sa/reviews"
    );
    let plain = endpoints("plain.old.svc.cluster.local");
    assert_eq!(
        (plain.ports, plain.identity),
        (BTreeMap::from([(5000, 5001)]), None)
    );
}

#[test]
fn only_healthy_instances_are_endpoints() {
    let (mesh, mut instances) = running("");
    instances
        .instances
        .iter_mut()
        .for_each(|i| i.healthy = false);
    let config = mesh
        .proxy_config(&instances, &TokenKeys::default(), &name("page-0"))
        .unwrap();
    assert!(config.endpoints.values().all(|e| e.endpoints.is_empty()));
}

#[test]
fn workloads_without_a_proxy_get_none() {
    let (mesh, instances) = running("");
    let configs = mesh.proxy_configs(&instances, &TokenKeys::default(), &mut Kept::default());
    let names: Vec<_> = configs.keys().map(InstanceName::as_str).collect();
    assert_eq!(names, ["edge-0", "far-0.other", "page-0", "reviews-v1-0"]);
}

/// Mesh, namespace and workload, by rank: what the more general ones say is overruled.
#[test]
fn the_nearest_peer_authentication_counts() {
    let in_namespace = |namespace: &str, name: &str, spec: &str| {
        document(
            "PeerAuthentication",
            &format!("{name}\n  namespace: {namespace}"),
            spec,
        ) + "---\n"
    };
    let mesh_wide = in_namespace("reeve-system", "m", "  mtls: {mode: STRICT}");
    let namespace = in_namespace("default", "n", "  mtls: {mode: DISABLE}");
    let unset = in_namespace("default", "n", "  mtls: {mode: UNSET}");
    let selected = "  selector: {matchLabels: {app: reviews}}\n  mtls: {mode: PERMISSIVE}";
    let workload = in_namespace("default", "w", selected);
    let port = in_namespace(
        "default",
        "w",
        &format!("{selected}\n  portLevelMtls: {{9000: {{mode: STRICT}}, 8000: {{mode: UNSET}}}}"),
    );
    let elsewhere = in_namespace("other", "o", "  mtls: {mode: DISABLE}");
    let (strict, permissive, disable) = (MtlsMode::Strict, MtlsMode::Permissive, MtlsMode::Disable);
    for (objects, web, grpc) in [
        (vec![], permissive, permissive),
        (vec![&mesh_wide], strict, strict),
        (vec![&mesh_wide, &namespace], disable, disable),
        (vec![&mesh_wide, &unset], strict, strict),
        (
            vec![&mesh_wide, &namespace, &workload],
            permissive,
            permissive,
        ),
        (vec![&mesh_wide, &namespace, &port], permissive, strict),
        (vec![&elsewhere], permissive, permissive),
    ] {
        let yaml: String = objects.iter().map(|s| s.as_str()).collect();
        let config = config(&yaml, "reviews-v1-0");
        let modes: Vec<_> = config.workload.inbound.iter().map(|l| l.mtls).collect();
        assert_eq!(modes, [web, grpc], "{yaml}");
    }
}

#[test]
fn states_come_from_service_namespace_and_mesh() {
    for (spec, expected) in [
        ("  {}", ServiceState::Enforced),
        ("  authorization: {state: open}", ServiceState::Open),
        (
            "  authorization: {state: open, namespaces: {default: shadow}}",
            ServiceState::Shadow,
        ),
        (
            "  authorization: {namespaces: {default: shadow}, services: {reviews.default: open}}",
            ServiceState::Open,
        ),
        (
            "  authorization: {namespaces: {other: open}}",
            ServiceState::Enforced,
        ),
    ] {
        let config = config(&document("MeshConfig", "mesh", spec), "reviews-v1-0");
        assert_eq!(config.workload.inbound[0].state, expected, "{spec}");
    }
}

#[test]
fn taps_are_allowed_by_namespace_and_mesh() {
    for (spec, expected) in [
        ("  {}", TapMode::Heads),
        ("  tap: {mode: BODIES}", TapMode::Bodies),
        (
            "  tap: {mode: BODIES, namespaces: {default: NONE}}",
            TapMode::Off,
        ),
        ("  tap: {namespaces: {other: BODIES}}", TapMode::Heads),
    ] {
        let config = config(&document("MeshConfig", "mesh", spec), "reviews-v1-0");
        assert_eq!(config.workload.telemetry.tap, expected, "{spec}");
    }
}

#[test]
fn signers_of_break_glass_reach_every_proxy() {
    let key = "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
    let spec = format!(
        "  breakGlass: {{publicKeys: ['{key}'], meshPublicKeys: ['{key}'], revoked: [lost]}}"
    );
    let config = config(&document("MeshConfig", "mesh", &spec), "reviews-v1-0");
    let trust = &config.workload.break_glass;
    let known = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
    assert_eq!(trust.signers, [known.parse().unwrap()]);
    assert_eq!(trust.mesh_signers, trust.signers);
    assert_eq!(trust.revoked, ["lost"]);
}

#[test]
fn a_proxy_gets_only_the_policies_that_can_concern_it() {
    let policy = |name: &str, namespace: &str| {
        let name = format!("{name}\n  namespace: {namespace}");
        document(
            "AccessPolicy",
            &name,
            "  cedar: permit (principal, action, resource);",
        ) + "---\n"
    };
    let all = policy("m", "reeve-system")
        + &policy("d", "default")
        + &policy("o", "other")
        + &policy("p", "old");
    let config = config(&all, "page-0");
    let ids: Vec<_> = config
        .policies
        .policies
        .iter()
        .map(|p| p.id.as_str())
        .collect();
    assert_eq!(ids, ["default/d", "old/p", "reeve-system/m"]);
    assert_eq!(config.policies.policies[2].scope, None);
    let (mesh, _) = running(&all);
    assert_eq!(config.policies.mesh_hash, mesh.policy_hash);
}

#[test]
fn a_gateway_listens_where_gateways_select_it() {
    let gateway = document(
        "Gateway",
        "g",
        "  selector: {istio: edge}\n  servers:\n    - port: {number: 8080, protocol: HTTP}\n      hosts: ['*.example.com', 'other/x.org']",
    );
    let service = |name: &str, host: &str| {
        document(
            "VirtualService",
            name,
            &format!(
                "  hosts: ['{host}']\n  gateways: [g]\n  http: [{{name: {name}, route: [{{destination: {{host: reviews, port: {{number: 80}}}}}}]}}]"
            ),
        ) + "---\n"
    };
    let all = format!(
        "{gateway}---\n{}{}{}{}",
        service("a", "a.example.com"),
        service("b", "a.example.com"),
        service("all", "*"),
        service("x", "x.org")
    );
    let config = config(&all, "edge-0");
    let [listener] = config.workload.outbound.as_slice() else {
        panic!("{:?}", config.workload.outbound);
    };
    assert_eq!(
        (listener.bind.port(), listener.routes.0.as_str()),
        (8080, "gateway/edge:8080")
    );
    let a = host(&config, "gateway/edge:8080", "a.example.com:8080").unwrap();
    let names: Vec<_> = a.routes.iter().filter_map(|r| r.name.as_deref()).collect();
    assert_eq!(names, ["a", "b"], "merged in order of name");
    assert!(
        host(&config, "gateway/edge:8080", "*.example.com").is_some(),
        "the narrower of * and the server's"
    );
    assert!(
        host(&config, "gateway/edge:8080", "x.org").is_none(),
        "only for namespace other"
    );
    assert!(config.workload.inbound.is_empty());
}

#[test]
fn token_rules_hold_for_the_workloads_of_their_targets() {
    let rules = |spec: &str| {
        let (mesh, instances) = running(&document("RequestAuthentication", "r", spec));
        let config = |instance: &str| {
            let config = mesh.proxy_config(&instances, &TokenKeys::default(), &name(instance));
            config.map(|c| c.workload.jwt_rules.len())
        };
        (config("page-0"), config("reviews-v1-0"))
    };
    let issuer = "jwtRules: [{issuer: 'https://a'}]";
    let both = (Some(1), Some(1));
    assert_eq!(rules(&format!("  {issuer}")), both);
    assert_eq!(
        rules(&format!(
            "  targetRefs: [{{kind: Service, name: reviews}}]\n  {issuer}"
        )),
        (Some(0), Some(1))
    );
    assert_eq!(
        rules(&format!(
            "  targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: edge}}\n  {issuer}"
        )),
        (Some(0), Some(0))
    );
}

#[test]
fn canonical_names_fall_back_to_labels_and_workload() {
    let labels = config("", "reviews-v1-0").workload.labels.clone();
    assert_eq!(labels["service.istio.io/canonical-name"], "reviews");
    assert_eq!(labels["service.istio.io/canonical-revision"], "v1");
    let labels = config("", "edge-0").workload.labels.clone();
    assert_eq!(labels["service.istio.io/canonical-name"], "edge");
    assert_eq!(labels["service.istio.io/canonical-revision"], "latest");
}

#[test]
fn a_routed_host_without_service_has_no_endpoints() {
    let routed = document(
        "VirtualService",
        "v",
        "  hosts: [reviews]\n  http: [{route: [{destination: {host: gone}}]}]",
    );
    let config = config(&routed, "page-0");
    let gone = ServiceName::parse("gone.default.svc.cluster.local").unwrap();
    assert!(config.endpoints[&gone].endpoints.is_empty());
    assert!(config.services[&gone].ports.is_empty());
}

const KUBERNETES_GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: shop}
spec:
  gatewayClassName: reeve
  listeners: [{name: web, port: 8080, protocol: HTTP, hostname: '*.example.com', allowedRoutes: {namespaces: {from: All}}}]
---
apiVersion: reeve.dev/v1alpha1
kind: LocalMesh
metadata: {name: gateways}
spec:
  workloads:
    - {name: shop, role: gateway, labels: {gateway.networking.k8s.io/gateway-name: shop}}
    - {name: decoy, namespace: other, role: gateway, labels: {gateway.networking.k8s.io/gateway-name: shop}}
---
";

fn http_route(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n{spec}---\n"
    )
}

/// The order of Gateway API, across routes and rules.
#[test]
fn the_most_specific_match_stands_first() {
    let route = |name: &str, matches: &str| {
        let spec = format!(
            "  parentRefs: [{{name: shop}}]\n  hostnames: [a.example.com]\n  rules:\n    - name: {name}\n      matches: [{matches}]\n      backendRefs: [{{name: reviews, port: 80}}]\n"
        );
        http_route(name, &spec)
    };
    let all = KUBERNETES_GATEWAY.to_owned()
        + &route("a-any", "{path: {value: /}}")
        + &route("b-short", "{path: {value: /a}}")
        + &route("c-long", "{path: {value: /a/b}}")
        + &route(
            "d-long-header",
            "{path: {value: /a/b/}, headers: [{name: h, value: '1'}]}",
        )
        + &route("e-long-method", "{path: {value: /a/b}, method: GET}")
        + &route("f-exact", "{path: {type: Exact, value: /a}}")
        + &route(
            "g-query",
            "{path: {value: /a/b}, queryParams: [{name: q, value: '1'}]}",
        )
        + &route("h-same", "{path: {value: /a/b}}");
    let config = config(&all, "shop-0");
    let found = host(&config, "gateway/shop:8080", "a.example.com").unwrap();
    let names: Vec<_> = found
        .routes
        .iter()
        .filter_map(|r| r.name.as_deref())
        .collect();
    assert_eq!(
        names,
        [
            "f-exact",
            "e-long-method",
            "d-long-header",
            "g-query",
            "c-long",
            "h-same",
            "b-short",
            "a-any"
        ]
    );
    let (mesh, instances) = running(&all);
    let decoy = mesh.proxy_config(&instances, &TokenKeys::default(), &name("decoy-0.other"));
    assert!(
        decoy.unwrap().routes.is_empty(),
        "a gateway's workloads are of its namespace"
    );
}

/// GAMMA: a route of the caller's namespace goes before the service's own; others have none.
#[test]
fn a_route_for_a_service_is_its_namespaces_or_its_callers() {
    let route = |name: &str, namespace: &str, path: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: reviews, namespace: default}}]\n  rules: [{{name: {name}, matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: reviews, namespace: default, port: 80}}]}}]\n---\n"
        )
    };
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g}\nspec:\n  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: other}]\n  to: [{group: '', kind: Service}]\n---\n";
    let names = |more: &str, instance: &str| -> Vec<String> {
        let config = config(more, instance);
        let found = host(&config, "80", "reviews.default").unwrap();
        let names = found
            .routes
            .iter()
            .map(|r| r.name.clone().unwrap_or_default());
        names.collect()
    };
    let own = route("own", "default", "/a") + &route("more", "default", "/a/b");
    let consumer = format!("{grant}{}", route("theirs", "other", "/c"));
    assert_eq!(names(&own, "page-0"), ["more", "own"]);
    assert_eq!(names(&own, "far-0.other"), ["more", "own"]);
    assert_eq!(names(&consumer, "page-0"), [""], "straight to the service");
    assert_eq!(names(&consumer, "far-0.other"), ["theirs"]);
    assert_eq!(
        names(&format!("{own}{consumer}"), "far-0.other"),
        ["theirs"]
    );
    assert_eq!(
        names(&format!("{own}{consumer}"), "page-0"),
        ["more", "own"]
    );
}
