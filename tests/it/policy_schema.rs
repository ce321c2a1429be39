//! A mesh's own types, groups, attributes and labels: they decide on running proxies, and are kept with the records.

use reeve_tests::{Folder, Mesh, echo, local_mesh, permit, service, sidecar, strict};
use serde_json::{Value, json};

use crate::{
    fixture::{get, settings, to_echo},
    policy_guide::{agrees, reeve, sessions, words},
};

const GUIDE: &str = include_str!("../../docs/schema.md");

const CLIENT: &str = "spiffe://mesh.local/ns/default/sa/client";

const SCHEMA: &str = r#"apiVersion: reeve.dev/v1alpha1
kind: AccessSchema
metadata: { name: org, namespace: reeve-system }
spec:
  cedar: |
    entity Department;
    entity Team in [Department];
    entity Workload in [Team] { tier?: String };
"#;

/// The client's team is in the department that may read; all of it may read what is public.
const POLICIES: &str = r#"
@id("department")
permit (principal in Department::"shop", action in Action::"read", resource)
when { principal is Workload && principal has tier && principal.tier == "gold" };

@id("labelled")
permit (principal is Workload, action in Action::"read", resource is Workload)
when {
  principal.hasTag("app") && principal.getTag("app").contains("client") &&
  resource.hasTag("version") && resource.getTag("version") == ["v1"] &&
  context.path like "/labelled/*"
};"#;

fn entities(tier: &str) -> String {
    format!(
        "apiVersion: reeve.dev/v1alpha1
kind: AccessEntities
metadata: {{ name: org, namespace: reeve-system }}
spec:
  entities:
  - uid: 'Team::\"web\"'
    parents: ['Department::\"shop\"']
  - uid: {{ type: Workload, id: {CLIENT} }}
    parents: [{{ type: Team, id: web }}]
    attrs: {{ tier: {tier} }}
"
    )
}

fn folder() -> Folder {
    let workloads = [sidecar("client"), echo("echo-v1", "echo", "v1")];
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&workloads))
        .with("services.yaml", service("echo", 9080, "http"))
        .with("schema.yaml", SCHEMA)
        .with("entities.yaml", entities("gold"))
        .with("echo.yaml", permit("echo", POLICIES))
}

/// The status of a GET by the client, and who decided.
async fn asked(mesh: &Mesh, path: &str) -> (u16, Value) {
    let answer = get(path).send(to_echo(mesh)).await.expect("an answer");
    let record = mesh
        .record(path, |record| {
            record["request"]["context"]["http"]["path"] == path
        })
        .await;
    (answer.status.as_u16(), record)
}

async fn hash(mesh: &Mesh) -> Value {
    mesh.status().await.expect("a status")["policy_hash"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_attributes_and_labels_of_the_meshs_own_decide_and_are_kept_with_the_records() {
    let mesh = Mesh::start(folder()).await;
    let (status, by_group) = asked(&mesh, "/a").await;
    assert_eq!(status, 200, "{by_group}");
    assert_eq!(
        by_group["decision"]["policies"],
        json!(["default/echo#department"])
    );
    let (status, by_label) = asked(&mesh, "/labelled/a").await;
    assert_eq!(status, 200, "{by_label}");
    let decided = &by_label["decision"]["policies"];
    assert_eq!(
        *decided,
        json!(["default/echo#department", "default/echo#labelled"])
    );

    // What is known of an entity is part of the policy set.
    let before = hash(&mesh).await;
    mesh.apply("entities.yaml", entities("iron")).await;
    let after = hash(&mesh).await;
    assert_ne!(before, after);
    let (status, denied) = asked(&mesh, "/b").await;
    assert_eq!(status, 403, "{denied}");
    let (status, by_label) = asked(&mesh, "/labelled/b").await;
    assert_eq!(status, 200, "{by_label}");
    assert_eq!(
        by_label["decision"]["policies"],
        json!(["default/echo#labelled"])
    );

    // The first decision is explained by what was known then.
    let id = by_group["decision_id"].as_str().expect("an id");
    let told = mesh
        .reeve(&["policy", "explain", id, "--now", "-o", "json"])
        .await
        .json();
    assert_eq!(told["then"]["decision"]["reason"], "permitted", "{told}");
    assert_eq!(told["now"]["decision"]["reason"], "no_permit", "{told}");
    let id = denied["decision_id"].as_str().expect("an id");
    let told = mesh.reeve(&["policy", "explain", id]).await;
    assert!(
        told.stdout.contains("principal.tier: \"iron\""),
        "{}",
        told.stdout
    );

    // What does not fit the schema changes nothing, and is placed.
    let generation = mesh.generation().await;
    mesh.folder.write("entities.yaml", entities("[gold]"));
    let folder = mesh.folder.path().display().to_string();
    let checked = mesh.reeve(&["config", "check", "-f", &folder]).await;
    assert_eq!(checked.code, Some(1), "{}", checked.text());
    let text = checked.text();
    assert!(
        text.contains("entities.yaml:8") && text.contains("tier"),
        "{text}"
    );
    assert_eq!(mesh.generation().await, generation);
    mesh.apply("entities.yaml", entities("gold")).await;
    assert_eq!(hash(&mesh).await, before, "the same set, the same hash");
    assert_eq!(asked(&mesh, "/c").await.0, 200);
    mesh.verify_audit().await;
}

/// The page's YAML that has `mark` in it.
fn yaml_with(mark: &str) -> &'static str {
    let mut blocks = GUIDE.split("```yaml\n").skip(1);
    let block = blocks.find_map(|rest| {
        let block = rest.split("```").next()?;
        block.contains(mark).then_some(block)
    });
    block.unwrap_or_else(|| panic!("the page has no {mark}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_commands_print_what_it_says() {
    let folder = Folder::bookinfo()
        .with("schema.yaml", yaml_with("kind: AccessSchema"))
        .with("entities.yaml", yaml_with("kind: AccessEntities"));
    let mesh = Mesh::start(folder).await;
    let scratch = Folder::new()
        .with("properties.yaml", yaml_with("properties:"))
        .with(
            "slip.cedar",
            "permit (principal in Team::\"boooks\", action, resource);\n",
        );
    let candidate = scratch.path().join("candidate");
    std::fs::create_dir(&candidate).expect("a folder");
    let policy = yaml_with("kind: AccessPolicy");
    std::fs::write(candidate.join("books.yaml"), policy).expect("a file");
    let folder = mesh.folder.path().display().to_string();
    let sessions = sessions(GUIDE);
    assert!(sessions.len() >= 7, "the page has its commands");
    for (command, expected) in sessions {
        let mut words: Vec<String> = words(command);
        assert_eq!(words.remove(0), "reeve", "{command}");
        for word in &mut words {
            if word == "mesh" {
                folder.clone_into(word);
            }
        }
        let ran = reeve(&mesh, scratch.path(), &words).await;
        let printed = ran.stdout.replace(&folder, "mesh");
        assert!(
            agrees(&printed, &expected),
            "`{command}` printed\n{printed}{}\nnot\n{}",
            ran.stderr,
            expected.join("\n")
        );
    }
    // The product page may ask `ratings` now, since its team may.
    let asked = get("/ratings/0")
        .send(mesh.outbound("productpage-v1-0", "ratings", 9080))
        .await;
    let asked = asked.expect("an answer");
    assert_eq!(asked.status.as_u16(), 200, "{}", asked.text());
    mesh.verify_audit().await;
}
