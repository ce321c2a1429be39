use super::{findings, mesh};

const MESH: &str = r#"apiVersion: reeve.dev/v1alpha1
kind: AccessSchema
metadata: {name: org, namespace: reeve-system}
spec:
  cedar: |
    entity Department;
    @label("team") entity Team in [Department];
    @label("tenant") entity Tenant;
    entity Workload in [Team] { tier?: String };
    entity Service in [Team];
    entity Namespace in [Tenant];
---
apiVersion: reeve.dev/v1alpha1
kind: AccessEntities
metadata: {name: org, namespace: reeve-system}
spec:
  entities:
  - {uid: 'Team::"books"', parents: ['Department::"shop"']}
  - uid: {type: Workload, id: "spiffe://mesh.local/ns/default/sa/reviews"}
    attrs: {tier: gold}
---
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {tenant: acme, other: x}}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, labels: {team: books, app: reviews}}
spec: {selector: {app: reviews}, ports: [{port: 9080, name: http}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, labels: {team: out}}
spec:
  hosts: [api.example.com]
  location: MESH_INTERNAL
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.9, serviceAccount: vm, labels: {app: vm}}]
---
apiVersion: reeve.dev/v1alpha1
kind: LocalMesh
metadata: {name: local}
spec:
  workloads:
  - {name: reviews-v1, serviceAccount: reviews, labels: {app: reviews, version: v1, team: books}, command: [a]}
  - {name: reviews-v2, serviceAccount: reviews, labels: {app: reviews, version: v2}, command: [a]}
---
"#;

const POLICY: &str = r#"apiVersion: reeve.dev/v1alpha1
kind: AccessPolicy
metadata: {name: all}
spec:
  cedar: |
    permit (principal in Team::"books", action, resource is Workload)
    when { resource.hasTag("version") && resource.getTag("version").contains("v1") };
"#;

/// Uid, parents, attributes and tags of what policies can ask about.
fn known(yaml: &str) -> Vec<String> {
    let mesh = mesh(yaml);
    let records = mesh.entities.iter();
    records
        .map(|record| {
            let parents: Vec<_> = record
                .parents
                .iter()
                .map(|p| format!("{}:{}", p.kind, p.id))
                .collect();
            let tags = serde_json::to_string(&record.tags).unwrap();
            let attrs = serde_json::to_string(&record.attrs).unwrap();
            format!(
                "{}:{} {} {attrs} {tags}",
                record.uid.kind,
                record.uid.id,
                parents.join(",")
            )
        })
        .collect()
}

#[test]
fn entities_are_known_by_what_is_said_and_by_labels_that_policies_name() {
    let expected = [
        "Service:api.example.com Team:out {} {}",
        "Team:books Department:shop {} {}",
        "Namespace:mesh.local/ns/default Tenant:acme {} {}",
        "Service:reviews.default.svc.cluster.local Team:books {} {}",
        r#"Workload:spiffe://mesh.local/ns/default/sa/reviews Team:books {"tier":"gold"} {"version":["v1","v2"]}"#,
    ];
    assert_eq!(known(&format!("{MESH}{POLICY}")), expected);
    let no_labels = POLICY.replace("version", "app");
    let found = known(&format!("{MESH}{no_labels}"));
    assert!(
        found.contains(
            &r#"Workload:spiffe://mesh.local/ns/default/sa/vm  {} {"app":["vm"]}"#.to_owned()
        ),
        "{found:#?}"
    );
}

#[test]
fn the_hash_covers_what_policies_rest_on() {
    let hash = |yaml: &str| mesh(yaml).policy_hash;
    let whole = format!("{MESH}{POLICY}");
    let same = whole
        .replace("other: x", "other: y")
        .replace("tier: gold", "tier: 'gold'");
    assert_eq!(hash(&whole), hash(&same));
    for change in [
        whole.replace("tier: gold", "tier: iron"),
        whole.replace("version: v2", "version: v3"),
        whole.replace("tenant: acme", "tenant: other"),
        whole.replace("entity Department;", "entity Department; entity Unit;"),
    ] {
        assert_ne!(hash(&whole), hash(&change));
    }
    let alone = "---\napiVersion: reeve.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: all}\nspec: {cedar: 'permit (principal, action, resource);'}\n";
    let mesh = mesh(alone);
    assert_eq!(
        mesh.policy_hash,
        reeve_authz::mesh_hash(&mesh.policies),
        "as it was before"
    );
}

#[test]
fn faults_are_placed() {
    let whole = format!("{MESH}{POLICY}");
    let table = [
        (
            "entity Department;",
            "entity Headers { a?: String };",
            vec!["6 spec.cedar policy"],
        ),
        (
            "entity Namespace in [Tenant]",
            "entity Namespace in [Tenat]",
            vec!["8 spec.cedar policy"],
        ),
        (
            "name: org, namespace: reeve-system}\nspec:\n  cedar",
            "name: org, namespace: pay}\nspec:\n  cedar",
            vec!["3 metadata.namespace invalid"],
        ),
        (
            "parents: ['Department",
            "parents: ['Namespace",
            vec!["18 spec.entities[0] policy"],
        ),
        (
            "{tier: gold}",
            "{tier: 7}",
            vec!["19 spec.entities[1] policy"],
        ),
        (
            "uid: 'Team::\"books\"'",
            "uid: 'Team books'",
            vec!["18 spec.entities[0].uid invalid"],
        ),
        (
            "uid: 'Team::\"books\"'",
            "tags: {a: [b]}, uid: 'Service::\"a.b\"'",
            vec!["18 spec.entities[0].tags invalid"],
        ),
        (
            "Team::\"books\", action",
            "Taem::\"books\", action",
            vec!["54 spec.cedar policy"],
        ),
    ];
    for (good, bad, expected) in table {
        assert!(whole.contains(good), "{good}");
        let found = findings(&whole.replacen(good, bad, 1));
        for fault in expected {
            assert!(found.iter().any(|f| f == fault), "{bad}: {found:?}");
        }
    }
}

#[test]
fn a_role_can_be_bound_to_a_group() {
    let role = r#"---
apiVersion: reeve.dev/v1alpha1
kind: AccessRole
metadata: {name: reader, namespace: reeve-system}
spec: {cedar: 'permit (principal in ?principal, action, resource);'}
---
apiVersion: reeve.dev/v1alpha1
kind: AccessRoleBinding
metadata: {name: readers}
spec: {role: reader, principals: ['Team::"books"']}
"#;
    let policies = mesh(&format!("{MESH}{POLICY}{role}")).policies;
    assert!(
        policies
            .iter()
            .any(|policy| policy.text.contains("principal in Team::\"books\""))
    );
}

/// What a tenant writes into its own namespace says nothing of entities, whoever's they are.
#[test]
fn a_tenant_says_nothing_of_entities() {
    let into = |kind: &str, spec: &str| {
        format!(
            "{MESH}{POLICY}---\napiVersion: reeve.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: mine, namespace: default}}\nspec: {spec}\n"
        )
    };
    for (kind, spec) in [
        (
            "AccessSchema",
            "{cedar: 'entity Mine; entity Workload in [Mine];'}",
        ),
        (
            "AccessEntities",
            "{entities: [{uid: 'Workload::\"spiffe://mesh.local/ns/default/sa/vm\"', parents: ['Team::\"books\"']}]}",
        ),
        (
            "AccessEntities",
            "{entities: [{uid: 'Team::\"mine\"', parents: ['Department::\"shop\"']}]}",
        ),
    ] {
        let found = findings(&into(kind, spec));
        let refused = found
            .iter()
            .any(|fault| fault.ends_with("metadata.namespace invalid"));
        assert!(refused, "{kind} {spec}: {found:#?}");
    }
}

#[test]
fn nobody_is_put_into_what_is_built_in() {
    for (uid, parent) in [
        (
            "Workload::\"spiffe://mesh.local/ns/default/sa/vm\"",
            "Service::\"reviews.default.svc.cluster.local\"",
        ),
        (
            "Workload::\"spiffe://mesh.local/ns/default/sa/vm\"",
            "Namespace::\"mesh.local/ns/other\"",
        ),
        (
            "ServiceAccount::\"mesh.local/ns/default/sa/vm\"",
            "Namespace::\"mesh.local/ns/other\"",
        ),
        (
            "Namespace::\"mesh.local/ns/default\"",
            "TrustDomain::\"partner.example\"",
        ),
    ] {
        let more = format!(
            "{MESH}{POLICY}---\napiVersion: reeve.dev/v1alpha1\nkind: AccessEntities\nmetadata: {{name: more, namespace: reeve-system}}\n\
             spec: {{entities: [{{uid: '{uid}', parents: ['{parent}']}}]}}\n"
        );
        let found = findings(&more);
        let refused = found
            .iter()
            .any(|fault| fault.ends_with("spec.entities[0] policy"));
        assert!(refused, "{uid} {parent}: {found:#?}");
    }
}
