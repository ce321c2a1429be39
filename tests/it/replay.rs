//! Recorded decisions of the demo mesh, judged by other policies; and policies made of its traffic.

use std::{fs, net::SocketAddr, path::Path};

use reeve_tests::{Call, Connection, Folder, Mesh, Protocol, Scratch};
use serde_json::{Value, json};

const DEMO: &str = "spiffe://mesh.local/ns/default/sa/";
const PAGES: usize = 4;

const NO_DETAILS: &str = r#"
---
apiVersion: reeve.dev/v1alpha1
kind: AccessPolicy
metadata:
  name: no-details
  namespace: default
spec:
  cedar: |
    @mode("shadow")
    forbid (principal, action, resource in Service::"details.default.svc.cluster.local");
"#;

fn ingress(mesh: &Mesh) -> SocketAddr {
    mesh.inbound("ingress-0", 8080)
}

async fn status(mesh: &Mesh, call: &Call) -> u16 {
    let connection = Connection::open(ingress(mesh), Protocol::Http1).await;
    let answer = connection.expect("a connection").send(call).await;
    answer.expect("an answer").status.as_u16()
}

fn page() -> Call {
    Call::get("bookinfo.example", "/productpage")
}

/// Pages, and the ratings that the product page may not have.
async fn visit(mesh: &Mesh) {
    for _ in 0..PAGES {
        assert_eq!(status(mesh, &page()).await, 200);
    }
    let ratings = Call::get("bookinfo.example", "/api/v1/products/0/ratings");
    for _ in 0..2 {
        assert_eq!(status(mesh, &ratings).await, 403);
    }
}

/// How many decisions there are on the product page asking `service`, of that effect.
async fn recorded(mesh: &Mesh, service: &str, effect: &str) -> usize {
    let from = format!("{DEMO}bookinfo-productpage");
    let args = ["--service", service, "--from", &from, "--effect", effect];
    mesh.records(&args).await.len()
}

async fn whatif(mesh: &Mesh, folder: &Folder) -> (Option<i32>, Value) {
    let path = folder.path().display().to_string();
    let outcome = mesh
        .reeve(&["policy", "whatif", "-f", &path, "-o", "json"])
        .await;
    (outcome.code, outcome.json())
}

/// The groups as (outcome, caller, service, method, route, count), names in short.
fn groups(found: &Value) -> Vec<(String, String, String, String, String, u64)> {
    let word = |group: &Value, field: &str| {
        let text = group[field].as_str().unwrap_or_default();
        text.replace(DEMO, "")
            .replace(".default.svc.cluster.local", "")
    };
    let groups = found["groups"].as_array().expect("groups").iter();
    let row = |g: &Value| {
        let count = g["count"].as_u64().unwrap_or_default();
        (
            word(g, "outcome"),
            word(g, "caller"),
            word(g, "service"),
            word(g, "method"),
            word(g, "route"),
            count,
        )
    };
    groups.map(row).collect()
}

fn group(
    outcome: &str,
    service: &str,
    count: usize,
) -> (String, String, String, String, String, u64) {
    (
        outcome.to_owned(),
        "bookinfo-productpage".to_owned(),
        service.to_owned(),
        "GET".to_owned(),
        format!("/{service}/*"),
        count as u64,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_folder_would_change_is_told_exactly_on_the_demo() {
    let mesh = Mesh::start(Folder::bookinfo()).await;
    visit(&mesh).await;

    let (code, same) = whatif(&mesh, &mesh.folder).await;
    assert_eq!(code, Some(0), "{same}");
    assert_eq!(same["groups"], json!([]), "{same}");
    assert_eq!(same["same"], same["decisions"], "{same}");

    // Reviews of another product only; ratings for the product page; details for who names a team.
    let candidate = Folder::bookinfo();
    let changed = candidate
        .read("access.yaml")
        .replace("/reviews/*", "/reviews/7/*")
        .replace(
            "principal == Workload::\"spiffe://mesh.local/ns/default/sa/bookinfo-reviews\"",
            "principal in Namespace::\"mesh.local/ns/default\"",
        )
        .replace(
            "when { context.path like \"/details/*\" }",
            "when { context.path like \"/details/*\" && context.headers.hasTag(\"x-team\") }",
        );
    candidate.write("access.yaml", changed);
    let (code, found) = whatif(&mesh, &candidate).await;
    assert_eq!(code, Some(1), "{found}");
    let (reviews, details, ratings) = (
        recorded(&mesh, "reviews", "allow").await,
        recorded(&mesh, "details", "allow").await,
        recorded(&mesh, "ratings", "deny").await,
    );
    assert!(reviews >= PAGES && details >= PAGES && ratings >= 2);
    let expected = [
        group("newly_denied", "reviews", reviews),
        group("newly_permitted", "ratings", ratings),
        group("undetermined", "details", details),
    ];
    assert_eq!(groups(&found), expected, "{found}");
    assert_eq!(found["groups"][2]["missing"], json!(["header x-team"]));
    assert_eq!(
        found["groups"][1]["after"]["policies"],
        json!(["default/ratings#reviews-to-ratings"])
    );
    // The examples are decisions that the log explains.
    let example = found["groups"][0]["examples"][0]["id"].as_str();
    let explained = mesh
        .reeve_ok(&["audit", "explain", example.expect("an example")])
        .await;
    assert!(
        explained.stdout.contains("/reviews/0"),
        "{}",
        explained.stdout
    );

    // The same for people, narrowed to one service.
    let path = candidate.path().display().to_string();
    let told = mesh
        .reeve(&["policy", "whatif", "-f", &path, "--service", "ratings"])
        .await;
    assert_eq!(told.code, Some(0), "{}", told.text());
    assert!(told.stdout.contains("NEWLY PERMITTED"), "{}", told.stdout);
    assert!(!told.stdout.contains("NEWLY DENIED"), "{}", told.stdout);

    // A shadow policy turns nothing, until it is judged as if it bound.
    let shadowed = Folder::bookinfo();
    let access = shadowed.read("access.yaml") + NO_DETAILS;
    shadowed.write("access.yaml", access);
    let (code, found) = whatif(&mesh, &shadowed).await;
    assert_eq!((code, &found["groups"]), (Some(0), &json!([])), "{found}");
    let path = shadowed.path().display().to_string();
    let args = ["policy", "whatif", "-f", &path, "--enforced", "-o", "json"];
    let found = mesh.reeve(&args).await.json();
    assert_eq!(groups(&found), [group("newly_denied", "details", details)]);

    // A header that was looked for and not there leaves nothing open: `end-user` is recorded.
    let asking = candidate.read("access.yaml").replace("x-team", "end-user");
    candidate.write("access.yaml", asking);
    let (_, found) = whatif(&mesh, &candidate).await;
    assert_eq!(found["undetermined"], 0, "{found}");
    assert!(
        groups(&found).contains(&group("newly_denied", "details", details)),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_suggested_from_the_demos_traffic_permit_it_and_nothing_else() {
    let mesh = Mesh::start(Folder::bookinfo()).await;
    visit(&mesh).await;
    // Until every service was asked: the store is asked by one version of ratings, those by two of reviews.
    let asked = async || {
        let store = mesh.records(&["--service", "store", "--effect", "allow"]);
        !store.await.is_empty()
    };
    for _ in 0..100 {
        if asked().await {
            break;
        }
        assert_eq!(status(&mesh, &page()).await, 200);
    }
    assert!(asked().await, "no version of ratings asked the store");

    let scratch = Scratch::new("suggested");
    let out = scratch.path().join("out");
    let shown = out.display().to_string();
    mesh.reeve_ok(&["policy", "suggest", "--out", &shown]).await;
    let again = mesh.reeve(&["policy", "suggest", "--out", &shown]).await;
    assert_eq!(
        again.code,
        Some(2),
        "nothing is overwritten: {}",
        again.text()
    );

    let names = [
        "details",
        "ingress",
        "productpage",
        "ratings",
        "reviews",
        "store",
    ];
    let file = |kind: &str, name: &str| {
        out.join(kind)
            .join(format!("default-suggested-{name}.yaml"))
    };
    let candidate = Folder::bookinfo();
    candidate.remove("access.yaml");
    for name in names {
        let text = fs::read_to_string(file("policies", name)).expect("a suggestion");
        candidate.write(&format!("suggested-{name}.yaml"), text);
    }
    let reviews = candidate.read("suggested-reviews.yaml");
    for part in [
        "//   /reviews/*: ",
        "(generalised: * = 1 id, such as 0)",
        "action == Action::\"GET\",",
        "resource in Service::\"reviews.default.svc.cluster.local\"",
        "when { context.path like \"/reviews/*\" && context.path_segments.count == 2 };",
    ] {
        assert!(reviews.contains(part), "{part} is not in {reviews}");
    }

    // They are valid, laid out and tried, and change nothing that was permitted.
    let path = candidate.path().display().to_string();
    mesh.reeve_ok(&["config", "check", "-f", &path]).await;
    mesh.reeve_ok(&["policy", "fmt", "--check", &path]).await;
    for name in names {
        check(&mesh, &scratch, &file("policies", name)).await;
    }
    let cases = out.join("cases").display().to_string();
    let tried = mesh
        .reeve_ok(&[
            "policy",
            "test",
            "-f",
            &path,
            &cases,
            "--coverage-min",
            "100",
        ])
        .await;
    assert!(tried.stdout.contains("0 failed"), "{}", tried.stdout);
    let (code, found) = whatif(&mesh, &candidate).await;
    assert_eq!(code, Some(0), "{found}");
    assert_eq!(
        (
            &found["newly_denied"],
            &found["newly_permitted"],
            &found["undetermined"]
        ),
        (&json!(0), &json!(0), &json!(0)),
        "{found}"
    );

    // They bind: what was seen goes on, what was permitted but never asked for does not.
    let login = Call::get("bookinfo.example", "/login");
    assert_ne!(status(&mesh, &login).await, 403);
    for name in names {
        let file = format!("suggested-{name}.yaml");
        mesh.folder.write(&file, candidate.read(&file));
    }
    mesh.withdraw("access.yaml").await;
    for _ in 0..3 {
        assert_eq!(status(&mesh, &page()).await, 200);
    }
    assert_eq!(status(&mesh, &login).await, 403);
    assert_eq!(status(&mesh, &page().method("POST")).await, 403);
    mesh.verify_audit().await;
}

/// `reeve policy check` of the Cedar text in a file of configuration.
async fn check(mesh: &Mesh, scratch: &Scratch, file: &Path) {
    let text = fs::read_to_string(file).expect("a suggestion");
    let (_, cedar) = text.split_once("cedar: |\n").expect("Cedar text");
    let name = file.file_stem().expect("a name").to_string_lossy();
    let path = scratch.path().join(format!("{name}.cedar"));
    fs::write(&path, cedar).expect("to write");
    let shown = path.display().to_string();
    mesh.reeve_ok(&["policy", "check", "--namespace", "default", &shown])
        .await;
}
