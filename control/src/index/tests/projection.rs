//! What a proxy has of the policies decides as all of them would, whatever it can be asked about.

use proptest::{collection::vec, prelude::*, sample::select};
use reeve_authz::Engine;
use reeve_core::{
    UnixTime,
    decision::{AccessRequest, Action, HttpContext, Principal, RequestContext, ResourceRef, User},
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

/// What is known of entities, and of some whom nobody asks about.
const ENTITIES: &str = "apiVersion: reeve.dev/v1alpha1
kind: AccessSchema
metadata: {name: org, namespace: reeve-system}
spec:
  cedar: |
    entity Department;
    entity Team in [Department] { lead?: Workload };
    entity Workload in [Team] { tier?: String, owner?: Team };
    entity Namespace in [Department];
    @label(\"app\") entity Shelf;
    entity Service in [Team, Shelf];
    @claim(\"groups\") @issuer(\"https://issuer.example\") entity Group in [Department];
    entity User in [Group];
---
apiVersion: reeve.dev/v1alpha1
kind: AccessEntities
metadata: {name: org, namespace: reeve-system}
spec:
  entities:
  - {uid: 'Team::\"web\"', parents: ['Department::\"shop\"'], attrs: {lead: {__entity: {type: Workload, id: 'spiffe://mesh.local/ns/default/sa/page'}}}}
  - {uid: 'Team::\"ops\"', parents: ['Department::\"it\"']}
  - {uid: 'Group::\"admin\"', parents: ['Department::\"it\"']}
  - {uid: 'Namespace::\"mesh.local/ns/other\"', parents: ['Department::\"it\"']}
  - uid: 'Workload::\"spiffe://mesh.local/ns/default/sa/page\"'
    parents: ['Team::\"web\"']
    attrs: {tier: gold, owner: {__entity: {type: Team, id: ops}}}
  - {uid: 'Workload::\"spiffe://mesh.local/ns/other/sa/far\"', parents: ['Team::\"ops\"', 'Team::\"web\"']}
  - {uid: 'Service::\"far.other.svc.cluster.local\"', parents: ['Team::\"ops\"']}
  - {uid: 'Service::\"manual.slices.svc.cluster.local\"', parents: ['Team::\"web\"']}
---
";

const BY_ENTITIES: [&str; 10] = [
    "permit (principal in Team::\"web\", action, resource);",
    "permit (principal in Department::\"shop\", action, resource in Team::\"ops\");",
    "forbid (principal, action, resource) when { principal in [Team::\"ops\", Team::\"none\"] };",
    "permit (principal is Workload, action, resource) when { principal has tier && principal.tier == \"gold\" };",
    "permit (principal is Workload, action, resource) when { principal has owner && principal.owner in Department::\"it\" };",
    "permit (principal is Workload, action, resource) when { principal has owner && resource in principal.owner };",
    "permit (principal, action, resource) when { Team::\"web\" has lead && principal == Team::\"web\".lead };",
    "forbid (principal is Workload, action, resource) when { principal.hasTag(\"app\") && principal.getTag(\"app\").contains(\"far\") };",
    "permit (principal, action in Action::\"read\", resource) when { context has user && context.user in Department::\"it\" };",
    "permit (principal, action, resource) when { resource.hasTag(\"version\") && resource.getTag(\"version\") == [\"v1\"] };",
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
            destination_ip: None,
            remote_ip: None,
            sni: None,
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

fn visitor() -> Arc<User> {
    let groups = ["admin".to_owned()].into_iter().collect();
    Arc::new(User {
        issuer: "https://issuer.example".into(),
        subject: "v".into(),
        claims: [("groups".to_owned(), groups)].into_iter().collect(),
        expires_at: None,
    })
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
        let configs = names.filter_map(|name| mesh.proxy_config(&instances, &TokenKeys::default(), name));
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

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_a_proxy_knows_of_entities_decides_as_all_that_is_known(
        policies in vec((select(&NAMESPACES[..]), select(&BY_ENTITIES[..])), 1..8),
    ) {
        let (mesh, instances) = running(&format!("{ENTITIES}{}", documents(&policies)));
        let all = engine(&mesh.all_policies(), &mesh);
        let names = instances.instances.iter().map(|i| &i.instance);
        let configs = names.filter_map(|name| mesh.proxy_config(&instances, &TokenKeys::default(), name));
        for config in configs {
            let part = engine(&config.policies, &mesh);
            for resource in resources(&config) {
                for from in ["", "spiffe://mesh.local/ns/default/sa/page", "spiffe://mesh.local/ns/other/sa/far"] {
                    for user in [None, Some(visitor())] {
                        let mut request = request(&resource, from, Action::Get, 80);
                        request.user = user;
                        prop_assert_eq!(part.decide(&request), all.decide(&request), "{:?}", request);
                    }
                }
            }
        }
    }
}

/// Of each proxy's workload, what its part of the policy set says of entities.
fn known_by_proxies(policies: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
    let (mesh, instances) = running(&format!("{ENTITIES}{}", documents(policies)));
    let names = instances.instances.iter().map(|i| &i.instance);
    let configs =
        names.filter_map(|name| mesh.proxy_config(&instances, &TokenKeys::default(), name));
    let told = |config: ProxyConfig| {
        let records = config.policies.entities.iter();
        let uids = records
            .map(|r| format!("{}:{}", r.uid.kind, r.uid.id))
            .collect();
        (config.workload.namespace.to_string(), uids)
    };
    configs.map(told).collect()
}

#[test]
fn a_proxy_knows_of_entities_only_what_its_policies_ask() {
    let known = known_by_proxies(&[
        ("default", BY_ENTITIES[3]),
        (
            "other",
            r#"permit (principal in Team::"ops", action, resource);"#,
        ),
    ]);
    assert_eq!(
        known["default"],
        ["Workload:spiffe://mesh.local/ns/default/sa/page"]
    );
    assert_eq!(
        known["other"],
        [
            "Service:far.other.svc.cluster.local",
            "Workload:spiffe://mesh.local/ns/other/sa/far",
        ]
    );
}
