//! `RateLimit.spec.global`.

use std::time::Duration;

use reeve_core::model::{DescriptorValue, LimitServer, OnFailure};

use super::*;

const SERVICES: &str = "---
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{port: 9080, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: limits}
spec: {selector: {app: limits}, ports: [{port: 8081, name: grpc}, {port: 6379, name: tcp}]}
---
";

fn limit(global: &str) -> String {
    let spec = format!("  service: reviews\n  global: {global}");
    format!("{SERVICES}{}", document("RateLimit", "reviews", &spec))
}

#[test]
fn every_field_arrives_with_envoys_defaults() {
    let mesh = mesh(&limit(
        "{server: 'limits:8081', domain: mesh, descriptors: [
           {entries: [{key: a, value: b}, {key: c, from: identity}, {key: d, from: 'header:X-User', optional: true}]},
           {match: {method: {exact: POST}}, entries: [{key: e, from: 'claim:realm.roles'}]}]}",
    ));
    let [limit] = mesh.global_rate_limits.as_slice() else {
        panic!("{:?}", mesh.global_rate_limits);
    };
    let name = "limits.default.svc.cluster.local".parse().unwrap();
    assert_eq!(limit.server, LimitServer::Service(name, 8081));
    assert_eq!(limit.service.as_str(), "reviews.default.svc.cluster.local");
    assert_eq!(
        (limit.domain.as_str(), limit.name.as_str()),
        ("mesh", "default/reviews")
    );
    assert_eq!(limit.timeout, Duration::from_millis(20));
    assert_eq!(limit.on_failure, OnFailure::Allow);
    let values = limit.descriptors.iter().flat_map(|d| &d.entries);
    let values: Vec<_> = values.map(|e| (e.value.clone(), e.optional)).collect();
    let expected = [
        (DescriptorValue::Fixed("b".to_owned()), false),
        (DescriptorValue::Identity, false),
        (DescriptorValue::Header("x-user".to_owned()), true),
        (DescriptorValue::Claim("realm.roles".to_owned()), false),
    ];
    assert_eq!(values, expected);
    assert!(limit.descriptors[1].when.method.is_some());

    let mesh = super::mesh(&self::limit(
        "{server: '127.0.0.1:8081', domain: a, timeout: 1s, failureMode: deny, descriptors: [{entries: [{key: a, from: path}]}]}",
    ));
    let limit = &mesh.global_rate_limits[0];
    assert_eq!(limit.server, LimitServer::At(([127, 0, 0, 1], 8081).into()));
    assert_eq!(
        (limit.timeout, limit.on_failure),
        (Duration::from_secs(1), OnFailure::Deny)
    );
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let fields = "domain: a, descriptors: [{entries: [{key: a, from: path}]}]";
    let with = |server: &str| format!("{{server: '{server}', {fields}}}");
    let entries = |entries: &str| {
        format!("{{server: '127.0.0.1:1', domain: a, descriptors: [{{entries: {entries}}}]}}")
    };
    for (global, expected) in [
        (with("example.com"), "global.server invalid"),
        (with("nobody:8081"), "global.server unknown-reference"),
        (with("limits:8082"), "global.server unknown-reference"),
        (with("limits:6379"), "global.server invalid"),
        (
            "{server: '127.0.0.1:1', domain: a}".to_owned(),
            "descriptors missing",
        ),
        (entries("[]"), "entries missing"),
        (entries("[{key: a}]"), "entries[0] invalid"),
        (
            entries("[{key: a, value: b, from: path}]"),
            "entries[0] invalid",
        ),
        (entries("[{value: b}]"), "entries[0].key missing"),
        (entries("[{key: a, from: mood}]"), "entries[0].from invalid"),
        (
            entries("[{key: a, from: 'header:a b'}]"),
            "entries[0].from invalid",
        ),
        (
            entries("[{key: a, from: 'claim:'}]"),
            "entries[0].from invalid",
        ),
        (entries("[{key: a, b: c, value: d}]"), "unknown"),
        (
            format!("{{server: '127.0.0.1:1', failureMode: open, {fields}}}"),
            "failureMode invalid",
        ),
    ] {
        let found = findings(&limit(&global));
        assert!(
            found.iter().any(|f| f.contains(expected)),
            "{global}: {found:?}"
        );
    }
}

#[test]
fn a_gateway_asks_a_server_by_its_address() {
    let workloads = "---
apiVersion: reeve.dev/v1alpha1
kind: LocalMesh
metadata: {name: local}
spec:
  workloads:
    - {name: edge, role: gateway, labels: {app: reviews}}
";
    let found = |server: &str| {
        let fields = "domain: a, descriptors: [{entries: [{key: a, from: path}]}]";
        let limit = limit(&format!("{{server: '{server}', {fields}}}"));
        let found = findings(&format!("{limit}\n{workloads}"));
        let about = found.into_iter().filter(|f| f.contains("global.server"));
        about.collect::<Vec<_>>()
    };
    assert!(found("127.0.0.1:8081").is_empty());
    let refused = found("limits:8081");
    assert!(refused.iter().any(|f| f.contains("invalid")), "{refused:?}");
}
