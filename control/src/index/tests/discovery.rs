//! Endpoints by `EndpointSlice`, `Pod` and `ExternalName`.

use super::*;

const OBJECTS: &str = "apiVersion: v1
kind: Service
metadata: {name: manual}
spec: {ports: [{port: 80, name: http}, {port: 81, name: grpc}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: manual-abc, labels: {kubernetes.io/service-name: manual}}
addressType: IPv4
endpoints:
  - {addresses: [192.0.2.1, 192.0.2.9], conditions: {ready: true}}
  - {addresses: [192.0.2.2], conditions: {ready: false}}
  - {addresses: [192.0.2.3]}
ports: [{name: http, port: 8080}, {name: grpc, port: 9090}]
---
apiVersion: v1
kind: Service
metadata: {name: old}
spec: {selector: {app: old}, ports: [{port: 80, name: http, targetPort: web}]}
---
apiVersion: v1
kind: Pod
metadata: {name: old-1, labels: {app: old, version: v1}}
spec: {containers: [{name: a, image: b, ports: [{name: web, containerPort: 5000}]}]}
status: {podIP: 192.0.2.7, conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: old-2, labels: {app: old}}
status: {podIP: 192.0.2.8, conditions: [{type: Ready, status: 'False'}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: db.example.org, ports: [{port: 5432, name: tcp}]}
---
";

fn endpoints(config: &ProxyConfig, service: &str) -> Vec<String> {
    let host: ServiceName = format!("{service}.default.svc.cluster.local")
        .parse()
        .unwrap();
    let set = &config.endpoints[&host];
    let ports = |ports: &BTreeMap<u16, u16>| -> Vec<String> {
        ports
            .iter()
            .map(|(from, to)| format!("{from}→{to}"))
            .collect()
    };
    let there = set.endpoints.iter();
    let there = there.map(|e| format!("{} {}", e.address, ports(&e.ports).join(" ")));
    let named = set.names.iter();
    let named = named.map(|e| format!("{} {}", e.host, ports(&e.ports).join(" ")));
    there.chain(named).collect()
}

#[test]
fn kubernetes_objects_tell_where_services_run() {
    let config = config(OBJECTS, "page-0");
    assert_eq!(
        endpoints(&config, "manual"),
        ["192.0.2.1 80→8080 81→9090", "192.0.2.3 80→8080 81→9090"]
    );
    assert_eq!(endpoints(&config, "old"), ["192.0.2.7 80→5000"]);
    assert_eq!(endpoints(&config, "alias"), ["db.example.org 5432→5432"]);
    // They are called by their usual names, and nobody vouches for them.
    let table = &config.routes[&RouteTableName("80".to_owned())];
    let domains: Vec<_> = table
        .virtual_hosts
        .values()
        .flat_map(|h| &h.domains)
        .collect();
    assert!(domains.iter().any(|d| *d == "manual"), "{domains:?}");
    let sets = config.endpoints.values().flat_map(|set| &set.endpoints);
    let outside = |e: &&Endpoint| e.address.to_string().starts_with("192.0.2.");
    assert!(sets.filter(outside).all(|e| e.identity.is_none()));
}

#[test]
fn each_instance_of_a_headless_service_has_a_host() {
    let all = "apiVersion: v1
kind: Service
metadata: {name: each}
spec: {clusterIP: None, selector: {app: reviews}, ports: [{port: 80, name: http, targetPort: web}]}
---
";
    let config = config(all, "page-0");
    let table = &config.routes[&RouteTableName("80".to_owned())];
    let domain = |h: &&Arc<VirtualHost>| h.domains.iter().any(|d| d == "reviews-v1-0.each");
    let host = table
        .virtual_hosts
        .values()
        .find(domain)
        .expect("a host of its own");
    let RouteAction::Forward { destinations, .. } = &host.routes.first().unwrap().action else {
        panic!("it is forwarded");
    };
    let subset = destinations.first().unwrap().subset.clone().unwrap();
    let service = &config.services[&destinations.first().unwrap().service];
    let labels = &service
        .subsets
        .iter()
        .find(|s| s.name == subset)
        .unwrap()
        .labels;
    let set = &config.endpoints[&service.name];
    let held = set
        .endpoints
        .iter()
        .filter(|e| labels.iter().all(|(k, v)| e.labels.get(k) == Some(v)));
    assert_eq!(held.count(), 1);
}
