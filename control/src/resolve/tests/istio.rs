//! What users of Istio bring.

use super::*;
use crate::mesh::RouteTo;

/// The first document of the walk-through, as it stands.
const SHARES: &str = "apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts:
    - reviews
  http:
  - route:
    - destination:
        host: reviews
        subset: v1
      weight: 50
    - destination:
        host: reviews
        subset: v2
      weight: 25
    - destination:
        host: reviews
        subset: v3
      weight: 25
";

/// The second.
const SIMPLE: &str = "apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: simple
spec:
  hosts:
  - simple
  http:
  - route:
    - destination:
        host: simple
        subset: v1
      weight: 50
    - destination:
        host: simple
        subset: v2
      weight: 50
---
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata:
  name: simple
spec:
  host: simple
  subsets:
  - name: v1
    labels:
      version: v1
  - name: v2
    labels:
      version: v2
---
apiVersion: v1
kind: Service
metadata:
  name: simple
spec:
  selector: {app: simple}
  ports: [{port: 80, name: http}]
";

fn shares(mesh: &Mesh, host: &str) -> Vec<(String, Option<String>, u32)> {
    let found = mesh
        .virtual_services
        .iter()
        .find(|v| v.hosts.iter().any(|h| h == host));
    let RouteTo::Forward(to) = &found.expect("routed").http[0].to else {
        panic!("not forwarded");
    };
    to.iter()
        .map(|t| (t.service.to_string(), t.subset.clone(), t.weight))
        .collect()
}

#[test]
fn the_two_documents_of_the_walk_through_work_as_they_stand() {
    let mesh = mesh(&format!("{SHARES}{REVIEWS}---\n{SIMPLE}"));
    assert_eq!(mesh.warnings, []);
    let to = |host: &str, subset: &str, weight| (host.to_owned(), Some(subset.to_owned()), weight);
    let reviews = "reviews.default.svc.cluster.local";
    let simple = "simple.default.svc.cluster.local";
    assert_eq!(
        shares(&mesh, reviews),
        [
            to(reviews, "v1", 50),
            to(reviews, "v2", 25),
            to(reviews, "v3", 25)
        ]
    );
    assert_eq!(
        shares(&mesh, simple),
        [to(simple, "v1", 50), to(simple, "v2", 50)]
    );
}

#[test]
fn what_is_not_there_is_a_warning_as_in_istio() {
    assert_eq!(
        findings(SHARES),
        [
            "11 spec.http[0].route[0].destination.host unknown-reference?",
            "12 spec.http[0].route[0].destination.subset unknown-reference?",
            "15 spec.http[0].route[1].destination.host unknown-reference?",
            "16 spec.http[0].route[1].destination.subset unknown-reference?",
            "19 spec.http[0].route[2].destination.host unknown-reference?",
            "20 spec.http[0].route[2].destination.subset unknown-reference?",
        ]
    );
}

#[test]
fn bookinfo_is_accepted_without_a_word() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/bookinfo/mesh");
    let resolved = resolve(&Source::read(std::path::Path::new(folder)));
    assert_eq!(resolved.findings, []);
    assert!(resolved.mesh.is_some());
}

#[test]
fn known_fields_that_are_not_supported_are_refused_by_name() {
    for (kind, spec, path) in [
        (
            "VirtualService",
            "  hosts: [a]\n  http:\n    - fault: {abort: {http2Error: x}}",
            "8 spec.http[0].fault.abort.http2Error",
        ),
        (
            "VirtualService",
            "  hosts: [a]\n  http:\n    - headers: {request: {set: {a: '%START_TIME%'}}}",
            "8 spec.http[0].headers.request.set.a",
        ),
        (
            "VirtualService",
            "  hosts: [a]\n  tls:\n    - match: [{sourceSubnet: 10.0.0.0/8}]",
            "8 spec.tls[0].match[0].sourceSubnet",
        ),
        (
            "DestinationRule",
            "  host: a\n  trafficPolicy:\n    tunnel: {}",
            "8 spec.trafficPolicy.tunnel",
        ),
        (
            "ServiceEntry",
            "  hosts: [a.example]\n  addresses: [192.0.2.0/24]\n  ports: [{number: 80, name: a, protocol: HTTP}]",
            "7 spec.addresses[0]",
        ),
        (
            "Gateway",
            "  selector: {a: b}\n  servers:\n    - port: {number: 1, protocol: HTTP}\n      hosts: ['*']\n      bind: 'unix:///a'",
            "10 spec.servers[0].bind",
        ),
        (
            "Gateway",
            "  selector: {a: b}\n  servers:\n    - port: {number: 1, protocol: MONGO}\n      hosts: ['*']",
            "8 spec.servers[0].port.protocol",
        ),
    ] {
        let found = findings(&document(kind, "x", spec));
        assert!(
            found.contains(&format!("{path} unsupported")),
            "{path}: {found:?}"
        );
    }
}
