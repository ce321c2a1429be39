use reeve_core::{
    InstanceName, UnixTime,
    model::{BodyChange, Find, Otherwise},
};

use super::{document, findings, mesh};
use crate::{TokenKeys, TransformationState, instances::Instances};

const ECHO: &str = "---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {selector: {app: echo}, ports: [{port: 9080, name: http}]}
---
apiVersion: reeve.dev/v1alpha1
kind: LocalMesh
metadata: {name: local}
spec:
  workloads:
    - {name: echo, command: [x], labels: {app: echo}, ports: [{port: 9080, name: http}]}
    - {name: other, command: [x], labels: {app: other}, ports: [{port: 9080, name: http}]}
";

/// With an owner and an end, unless they are what it is about.
fn transformation(spec: &str) -> String {
    let spec = format!("  owner: team\n  expires: 2099-12-31\n{spec}");
    format!("{}{ECHO}", document("Transformation", "t", &spec))
}

const SET: &str = "  request: {headers: {set: {x-a: b}}}";

#[test]
fn a_transformation_is_resolved_with_its_workloads() {
    let yaml = transformation(
        "  targetRefs: [{kind: Service, name: echo}]
  match:
    - {uri: {prefix: /a}, method: {exact: POST}, queryParams: {q: {exact: '1'}}}
  request:
    headers: {set: {X-A: '50%%'}, remove: [X-B]}
    queryParams: {add: {v: '2'}}
    body: {replace: [{text: a, with: b}, {regex: '(c)', with: '\\1d'}], contentTypes: [Text/HTML, image/*]}
  response:
    whenStatus: [500]
    status: 503
    body:
      otherwise: Pass
      jsonPatch: [{op: add, path: /a, value: {n: 1.5, t: true, z: null, s: '1', l: [x]}}, {op: remove, path: /b}]",
    );
    let mesh = mesh(&yaml);
    let listed = mesh.transformations(UnixTime::from_secs(1_700_000_000));
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].workloads, ["default/echo"]);
    assert_eq!(listed[0].state, TransformationState::Active);
    // The last moment of that day.
    assert_eq!(listed[0].expires, UnixTime::from_secs(4_102_444_800));
    let rule = &mesh.transformations[0].rule;
    assert_eq!(rule.request.headers.set["x-a"], "50%");
    let body = rule.request.body.as_ref().unwrap();
    assert_eq!(body.content_types, ["text/html", "image/*"]);
    assert_eq!(body.otherwise, Otherwise::Refuse);
    let BodyChange::Replace(all) = &body.how else {
        panic!("{body:?}");
    };
    assert_eq!(all[1].find, Find::Regex("(c)".to_owned()));
    let body = rule.response.body.as_ref().unwrap();
    assert_eq!(body.otherwise, Otherwise::Pass);
    let BodyChange::JsonPatch(text) = &body.how else {
        panic!("{body:?}");
    };
    let patch: serde_json::Value = serde_json::from_str(text).unwrap();
    let value = serde_json::json!({"n": 1.5, "t": true, "z": null, "s": "1", "l": ["x"]});
    assert_eq!(patch[0]["value"], value);
}

#[test]
fn proxies_are_given_those_that_concern_them_in_order() {
    let root = document(
        "Transformation",
        "z",
        &format!("  owner: a\n  expires: 2099-01-01\n{SET}"),
    );
    let root = root.replacen("name: z", "name: z\n  namespace: reeve-system", 1);
    let own = transformation(&format!(
        "  selector: {{matchLabels: {{app: echo}}}}\n{SET}"
    ));
    let mesh = mesh(&format!("{root}---\n{own}"));
    let names = |instance: &str| {
        let mut instances = Instances::new(77);
        let services = mesh.services.keys();
        instances.plan(&mesh.workloads, services).unwrap();
        let instance: InstanceName = instance.parse().unwrap();
        let config = mesh.proxy_config(&instances, &TokenKeys::default(), &instance);
        let config = config.unwrap();
        let all = config.workload.transformations.iter();
        all.map(|t| t.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names("echo-0"), ["reeve-system/z", "default/t"]);
    assert_eq!(names("other-0"), ["reeve-system/z"]);
}

#[test]
fn what_a_workload_may_see_hides_no_transformation_of_its_own() {
    let own = transformation(&format!(
        "  targetRefs: [{{kind: Service, name: echo}}]\n{SET}"
    ));
    let sidecar = "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s}\n\
        spec: {egress: [{hosts: [other/*]}]}\n";
    let mesh = mesh(&format!("{own}{sidecar}"));
    let mut instances = Instances::new(77);
    let services = mesh.services.keys();
    instances.plan(&mesh.workloads, services).unwrap();
    let instance: InstanceName = "echo-0".parse().unwrap();
    let config = mesh.proxy_config(&instances, &TokenKeys::default(), &instance);
    assert_eq!(config.unwrap().workload.transformations.len(), 1);
}

#[test]
fn without_owner_or_end_there_is_no_transformation() {
    for (head, expected) in [
        ("  expires: 2099-01-01", &["5 spec.owner missing"][..]),
        (
            "  owner: ' '\n  expires: 2099-01-01",
            &["6 spec.owner missing"],
        ),
        ("  owner: a", &["5 spec.expires missing"]),
        ("  owner: a\n  expires: soon", &["7 spec.expires invalid"]),
        (
            "  owner: a\n  expires: 20990101",
            &["7 spec.expires wrong-type"],
        ),
        (
            "  owner: a\n  expires: 2099-02-30",
            &["7 spec.expires invalid"],
        ),
        (
            "  owner: a\n  expires: 2099-01-01T00:00:00",
            &["7 spec.expires invalid"],
        ),
        (
            "  owner: a\n  expires: 2001-01-01",
            &["7 spec.expires expired?"],
        ),
        ("  owner: a\n  expires: 2099-01-01T00:00:00+02:00", &[]),
    ] {
        let yaml = document("Transformation", "t", &format!("{head}\n{SET}"));
        assert_eq!(findings(&format!("{yaml}{ECHO}")), expected, "{head}");
    }
}

#[test]
fn what_is_soon_over_is_warned_of() {
    let end = jiff::Timestamp::now() + std::time::Duration::from_secs(24 * 3600);
    let spec = format!("  owner: a\n  expires: {end}\n{SET}");
    let yaml = format!("{}{ECHO}", document("Transformation", "t", &spec));
    assert_eq!(findings(&yaml), ["7 spec.expires expiring?"]);
}

#[test]
fn faults_are_named() {
    for (spec, expected) in [
        ("  match: []", "5 spec missing"),
        (
            "  request: {headers: {set: {Authorization: a}}}",
            "8 spec.request.headers.set.authorization invalid",
        ),
        (
            "  response: {headers: {remove: [x-reeve-peer]}}",
            "8 spec.response.headers.remove[0] invalid",
        ),
        (
            "  response: {status: 204}",
            "8 spec.response.status invalid",
        ),
        (
            "  response: {status: 200, whenStatus: [101]}",
            "8 spec.response.whenStatus[0] invalid",
        ),
        (
            "  request: {body: {}}\n  response: {status: 200}",
            "8 spec.request.body invalid",
        ),
        (
            "  request: {body: {replace: [{with: a}]}}",
            "8 spec.request.body.replace[0] invalid",
        ),
        (
            "  request: {body: {replace: [{regex: '(', with: a}]}}",
            "8 spec.request.body.replace[0].regex invalid",
        ),
        (
            "  request: {body: {replace: [{regex: a, with: '\\1'}]}}",
            "8 spec.request.body.replace[0].with invalid",
        ),
        (
            "  response: {status: 200, body: {jsonPatch: [{op: add, path: /a}]}}",
            "8 spec.response.body.jsonPatch[0] invalid",
        ),
        (
            "  response: {status: 200, body: {jsonPatch: [{op: remove, path: a}]}}",
            "8 spec.response.body.jsonPatch[0] invalid",
        ),
        (
            "  request: {body: {replace: [{text: a, with: b}], contentTypes: [text]}}",
            "8 spec.request.body.contentTypes[0] invalid",
        ),
        (
            "  request: {body: {replace: [{text: a, with: b}], contentTypes: [application/grpc]}}",
            "8 spec.request.body.contentTypes[0] unsupported",
        ),
        (
            "  request: {body: {replace: [{text: a, with: b}], otherwise: Maybe}}",
            "8 spec.request.body.otherwise invalid",
        ),
        (
            "  targetRefs: [{kind: Service, name: nobody}]\n  response: {status: 200}",
            "8 spec.targetRefs[0].name unknown-reference",
        ),
        (
            "  targetRefs: [{kind: Pod, name: a}]\n  response: {status: 200}",
            "8 spec.targetRefs[0].kind invalid",
        ),
        (
            "  selector: {matchLabels: {app: nobody}}\n  response: {status: 200}",
            "8 spec.selector unreachable?",
        ),
    ] {
        let found = findings(&transformation(spec));
        assert!(found.iter().any(|f| f == expected), "{spec}: {found:?}");
    }
}

#[test]
fn a_namespace_transforms_nobody_elses_service() {
    let yaml = transformation(
        "  targetRefs: [{kind: Service, name: echo.default.svc.cluster.local}]\n  response: {status: 200}",
    );
    let yaml = yaml.replacen("name: t\n", "name: t\n  namespace: other\n", 1);
    assert_eq!(
        findings(&yaml),
        ["9 spec.targetRefs[0].name unknown-reference"]
    );
}
