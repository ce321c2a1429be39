//! What a proxy has of the policies decides as all of them would, whatever it can be asked about.

use proptest::{collection::vec, prelude::*, sample::select};
use reeve_authz::Engine;
use reeve_core::{
    UnixTime,
    decision::{AccessRequest, Action, HttpContext, Principal, RequestContext, ResourceRef},
};

use super::*;

/// A service in a namespace without workloads of the mesh, and one outside the mesh.
const ELSEWHERE: &str = "apiVersion: v1
kind: Service
metadata: {name: manual, namespace: slices}
spec: {ports: [{port: 80, name: http}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: manual-abc, namespace: slices, labels: {kubernetes.io/service-name: manual}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.1]}]
ports: [{name: http, port: 8080}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: entries}
spec:
  hosts: [api.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.9}]
---
";

const NAMESPACES: [&str; 6] = [
    "default",
    "other",
    "old",
    "slices",
    "entries",
    "reeve-system",
];

const POLICIES: [&str; 9] = [
    "permit (principal, action, resource);",
    "forbid (principal, action in Action::\"write\", resource);",
    "permit (principal is Workload, action, resource is Service);",
    "permit (principal in Namespace::\"mesh.local/ns/default\", action, resource);",
    "permit (principal, action, resource in Namespace::\"mesh.local/ns/other\");",
    "permit (principal, action, resource in Service::\"manual.slices.svc.cluster.local\");",
    "forbid (principal, action, resource) when { context.port + 1 > 9001 };",
    "@mode(\"shadow\") forbid (principal, action, resource);",
    "@until(\"2026-01-01\") permit (principal, action, resource);",
];

fn documents(policies: &[(&str, &str)]) -> String {
    let mut text = ELSEWHERE.to_owned();
    for (number, (namespace, cedar)) in policies.iter().enumerate() {
        let name = format!("p{number}\n  namespace: {namespace}");
        text += &document("AccessPolicy", &name, &format!("  cedar: |\n    {cedar}"));
        text += "---\n";
    }
    text
}

/// What the proxy with this configuration decides on: its own workload, and services whose endpoints have no proxy.
fn resources(config: &ProxyConfig) -> Vec<ResourceRef> {
    let workload = &config.workload;
    let own = ResourceRef {
        workload: Some(workload.identity.clone()),
        namespace: workload.namespace.clone(),
        services: workload.services.clone(),
        address: None,
    };
    let outside = config.endpoints.iter().filter(|(_, set)| {
        !set.names.is_empty() || set.endpoints.iter().any(|e| e.identity.is_none())
    });
    let outside = outside.filter_map(|(name, _)| config.services.get(name));
    let outside = outside.map(|service| ResourceRef {
        workload: None,
        namespace: service.namespace.clone(),
        services: vec![service.name.clone()],
        address: None,
    });
    outside.chain([own]).collect()
}

fn request(resource: &ResourceRef, from: &str, action: Action, port: u16) -> AccessRequest {
    let principal = match from {
        "" => Principal::Unauthenticated,
        id => Principal::Workload(id.parse().unwrap()),
    };
    AccessRequest {
        action,
        context: RequestContext {
            http: (action != Action::Connect).then(|| HttpContext {
                grpc: None,
                headers: BTreeMap::new(),
                host: "x".to_owned(),
                method: action.as_str().to_owned(),
                path: "/".to_owned(),
                query: BTreeMap::new(),
            }),
            mtls: !from.is_empty(),
            port,
            source_ip: [10, 0, 0, 1].into(),
            time: UnixTime::from_secs(1_800_000_000),
        },
        principal,
        resource: resource.clone(),
        user: None,
    }
}

fn engine(slice: &PolicySlice, mesh: &Mesh) -> Engine {
    let engine = Engine::compile(slice).unwrap();
    engine.in_trust_domain(mesh.settings.trust_domain.clone())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_proxys_part_of_the_policies_decides_as_all_of_them(
        policies in vec((select(&NAMESPACES[..]), select(&POLICIES[..])), 0..12),
    ) {
        let (mesh, instances) = running(&documents(&policies));
        let whole = mesh.all_policies();
        let all = engine(&whole, &mesh);
        let mut asked = BTreeSet::new();
        let names = instances.instances.iter().map(|i| &i.instance);
        let configs = names.filter_map(|name| mesh.proxy_config(&instances, &FetchedKeys::new(), name));
        for config in configs {
            let part = engine(&config.policies, &mesh);
            prop_assert_eq!(part.mesh_hash(), all.mesh_hash());
            for resource in resources(&config) {
                asked.insert(resource.namespace.to_string());
                for from in ["", "spiffe://mesh.local/ns/default/sa/page", "spiffe://mesh.local/ns/other/sa/far"] {
                    for (action, port) in [(Action::Get, 80), (Action::Post, 9001), (Action::Connect, 80)] {
                        let request = request(&resource, from, action, port);
                        prop_assert_eq!(part.decide(&request), all.decide(&request), "{:?}", request);
                        prop_assert_eq!(part.decide_opaque(&request), all.decide_opaque(&request));
                    }
                }
            }
        }
        let asked: Vec<_> = asked.iter().map(String::as_str).collect();
        prop_assert_eq!(asked, ["default", "entries", "old", "other", "slices"]);
    }
}
