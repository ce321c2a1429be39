//! What `reeve policy import` prints is valid, and decides alike.

use std::{fs, path::Path};

use super::{Asked, WORLD, access, engine, get};
use crate::{Imported, import, resolve::tests::mesh};

fn imported(policies: &str) -> Imported {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, world) = (folder.path().join("istio.yaml"), folder.path().join("mesh"));
    fs::write(&file, policies).expect("written");
    fs::create_dir(&world).expect("a folder");
    fs::write(world.join("mesh.yaml"), WORLD).expect("written");
    import(&file, Some(&world), None)
}

fn text(imported: &Imported) -> String {
    let texts: Vec<&str> = imported.objects.iter().map(|o| o.yaml.as_str()).collect();
    texts.join("---\n")
}

const TODAY: &str = r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: httpbin, namespace: default}
spec:
  selector: {matchLabels: {app: httpbin}}
  rules:
  - from: [{source: {principals: ["cluster.local/ns/default/sa/sleep"]}}]
    to: [{operation: {methods: [GET], paths: ["/info*"]}}]
    when: [{key: "request.headers[X-Version]", values: [v1, "v2*"]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-nothing, namespace: default}
spec: {}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: custom, namespace: default}
spec: {action: CUSTOM, provider: {name: opa}, rules: [{}]}
"#;

#[test]
fn todays_policies_become_access_policies_with_readable_cedar() {
    let found = imported(TODAY);
    let expected = r#"# From AuthorizationPolicy default/httpbin (istio.yaml:1).
apiVersion: reeve.dev/v1alpha1
kind: AccessPolicy
metadata:
  name: httpbin
  namespace: default
spec:
  cedar: |
    @id("rule-1")
    permit (
      principal == Workload::"spiffe://mesh.local/ns/default/sa/sleep",
      action == Action::"GET",
      resource in Service::"httpbin.default.svc.cluster.local"
    )
    when
    {
      context.path like "/info*" &&
      context.header_text.hasTag("x-version") &&
      (context.header_text.getTag("x-version") == "v1" ||
       context.header_text.getTag("x-version") like "v2*")
    };
---
# From AuthorizationPolicy default/allow-nothing (istio.yaml:11).
# It permits nothing, and needs no policy: what no policy permits is denied.
"#;
    assert_eq!(text(&found), expected);
    let [only] = found.faults.as_slice() else {
        panic!("{:#?}", found.faults);
    };
    assert_eq!((only.line, only.path.as_str()), (19, "spec.action"));
    let mesh = mesh(&format!("{WORLD}---\n{}", text(&found)));
    let engine = engine(&mesh);
    let version = |mut asked: Asked, version: &str| {
        let http = asked.http.as_mut().expect("a request");
        http.headers
            .insert("x-version".to_owned(), version.to_owned());
        asked
    };
    for (asked, expected) in [
        (version(get("/info"), "v1"), true),
        (version(get("/info"), "v2.3"), true),
        (version(get("/info"), "v3"), false),
        (get("/info"), false),
        (version(get("/other"), "v1"), false),
    ] {
        let decision = engine.decide(&access(&asked, "httpbin"));
        assert_eq!(decision.is_allow(), expected, "{asked:?}");
    }
}

const BEFORE: &str = r#"apiVersion: rbac.istio.io/v1alpha1
kind: ClusterRbacConfig
metadata: {name: default}
spec: {mode: ON_WITH_INCLUSION, inclusion: {namespaces: [default]}}
---
apiVersion: rbac.istio.io/v1alpha1
kind: ServiceRole
metadata: {name: viewer, namespace: default}
spec:
  rules:
  - services: ["httpbin.default.svc.cluster.local", "oth*"]
    methods: [GET]
    paths: ["/public*"]
    constraints: [{key: "request.headers[version]", values: [v1]}]
  - services: ["*"]
    methods: ["*"]
    paths: [/health]
---
apiVersion: rbac.istio.io/v1alpha1
kind: ServiceRoleBinding
metadata: {name: bind-viewer, namespace: default}
spec:
  subjects:
  - {user: "cluster.local/ns/default/sa/sleep"}
  - {properties: {source.namespace: test}}
  roleRef: {kind: ServiceRole, name: viewer}
---
apiVersion: authentication.istio.io/v1alpha1
kind: MeshPolicy
metadata: {name: default}
spec: {peers: [{mtls: {}}]}
---
apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata: {name: httpbin, namespace: default}
spec:
  targets: [{name: httpbin, ports: [{number: 8000}]}]
  peers: [{mtls: {mode: PERMISSIVE}}]
  origins: [{jwt: {issuer: "https://i.test", jwksUri: "https://i.test/keys"}}]
  principalBinding: USE_ORIGIN
"#;

#[test]
fn what_came_before_becomes_the_same() {
    let found = imported(BEFORE);
    assert_eq!(found.faults, Vec::new());
    let kinds: Vec<_> = found.objects.iter().map(|o| o.kind.as_str()).collect();
    let expected = [
        "ClusterRbacConfig",
        "ServiceRole",
        "ServiceRoleBinding",
        "MeshPolicy",
        "Policy",
    ];
    assert_eq!(kinds, expected);
    let text = text(&found);
    for part in [
        "kind: MeshConfig",
        "    state: open\n    namespaces:\n      default: enforced",
        "kind: PeerAuthentication",
        "portLevelMtls:\n    \"8000\":\n      mode: PERMISSIVE",
        "jwksUri: \"https://i.test/keys\"",
        "name: httpbin-token",
        "unless { context has user };",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let mesh = mesh(&format!("{WORLD}---\n{text}"));
    let engine = engine(&mesh);
    let mut versioned = get("/public/x");
    if let Some(http) = &mut versioned.http {
        http.headers.insert("version".to_owned(), "v1".to_owned());
    }
    for (asked, workload, expected) in [
        (versioned.clone(), "other", true),
        (versioned.clone(), "httpbin", false),
        (
            versioned.clone().user("https://i.test", "ada"),
            "httpbin",
            true,
        ),
        (get("/public/x"), "other", false),
        (
            versioned.clone().from("spiffe://mesh.local/ns/test/sa/web"),
            "other",
            true,
        ),
        (
            versioned.from("spiffe://mesh.local/ns/prod/sa/web"),
            "other",
            false,
        ),
        (get("/health"), "other", true),
        (Asked::http("POST", "/health"), "other", false),
    ] {
        let decision = engine.decide(&access(&asked, workload));
        assert_eq!(decision.is_allow(), expected, "{workload} {asked:?}");
    }
}

#[test]
fn nothing_to_read_is_a_fault_and_no_panic() {
    let nowhere = import(Path::new("/nowhere/at/all"), None, None);
    assert!(nowhere.objects.is_empty());
    for odd in [
        "kind: ServiceRoleBinding",
        "a: [",
        "apiVersion: rbac.istio.io/v1\nkind: ServiceRole\nspec: []",
    ] {
        assert!(imported(odd).objects.is_empty(), "{odd}");
    }
}

/// As `kubectl get authorizationpolicies,services -o yaml` prints them.
const LIST: &str = r#"apiVersion: v1
items:
- apiVersion: security.istio.io/v1
  kind: AuthorizationPolicy
  metadata:
    name: httpbin
    namespace: default
    resourceVersion: "7"
    uid: 0d5f
  spec:
    selector: {matchLabels: {app: listed}}
    rules: [{to: [{operation: {methods: [GET]}}]}]
- apiVersion: v1
  kind: Service
  metadata: {name: listed, namespace: default}
  spec: {selector: {app: listed}, ports: [{port: 80, name: http}]}
- apiVersion: security.istio.io/v1
  kind: AuthorizationPolicy
  metadata: {name: wrong, namespace: default}
  spec: {rules: [{when: [{key: request.colour, values: [x]}]}]}
kind: List
metadata:
  resourceVersion: ""
"#;

#[test]
fn a_list_is_read_as_its_objects() {
    let found = imported(LIST);
    let text = text(&found);
    assert!(
        text.starts_with("# From AuthorizationPolicy default/httpbin (istio.yaml:3).\n"),
        "{text}"
    );
    let resource = r#"resource in Service::"listed.default.svc.cluster.local""#;
    assert!(
        text.contains(resource),
        "the list's own service counts: {text}"
    );
    let faults: Vec<_> = found
        .faults
        .iter()
        .map(|f| (f.line, f.path.as_str()))
        .collect();
    assert_eq!(faults, [(20, "spec.rules[0].when[0].key")]);
}
