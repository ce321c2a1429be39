//! Policies are changed by `reeve policy apply` on a running mesh, taken back, and denials explained by their id.

use reeve_tests::{Folder, Mesh, echo, eventually, local_mesh, permit, service, sidecar, strict};
use serde_json::json;

use crate::fixture::{CLIENT_TO_ECHO, get, settings, to_echo};

const READ_ONLY: &str = r#"permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
  action in Action::"read",
  resource in Service::"echo.default.svc.cluster.local"
)
when { context.path like "/public/*" };"#;

fn folder() -> Folder {
    let workloads = [sidecar("client"), echo("echo-v1", "echo", "v1")];
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&workloads))
        .with("services.yaml", service("echo", 9080, "http"))
        .with("echo.yaml", permit("echo", READ_ONLY))
}

/// The status of a GET by the client.
async fn status(mesh: &Mesh, path: &str) -> u16 {
    get(path).status(to_echo(mesh)).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_applied_policy_binds_before_the_verb_ends_and_goes_with_a_rollback() {
    let mesh = Mesh::start(folder()).await;
    assert_eq!(status(&mesh, "/public/a").await, 200);

    // Denied, and told why by the id that the caller got: which permit came closest, and what it looked at.
    let denied = get("/secret")
        .send(to_echo(&mesh))
        .await
        .expect("an answer");
    assert_eq!(denied.status, 403);
    let id = denied.json()["decision_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    mesh.record("the denial is recorded", |record| {
        record["decision_id"] == id.as_str()
    })
    .await;
    let told = mesh.reeve(&["policy", "explain", &id]).await;
    assert_eq!(told.code, Some(1), "{}", told.text());
    for part in [
        "no_permit",
        "nearest misses:",
        "permit default/echo: 3 of 4 parts hold, not: when { context.path like \"/public/*\" }",
        "context.path: \"/secret\"",
    ] {
        assert!(
            told.stdout.contains(part),
            "{part} is not in\n{}",
            told.stdout
        );
    }

    // What would change is shown, and nothing is changed.
    let candidate = Folder::new().with("echo.yaml", permit("echo", CLIENT_TO_ECHO));
    let candidate = candidate.path().to_str().expect("a path of UTF-8");
    let before = mesh.generation().await;
    let shown = mesh
        .reeve_ok(&["policy", "apply", candidate, "--dry-run"])
        .await;
    assert!(
        shown.stdout.contains("removed: default/echo\n"),
        "{}",
        shown.stdout
    );
    assert_eq!(mesh.generation().await, before);

    // Once the verb ends, every proxy is bound: no waiting here.
    let applied = mesh
        .reeve_ok(&[
            "policy",
            "apply",
            candidate,
            "--yes",
            "--note",
            "all of it",
            "-o",
            "json",
        ])
        .await;
    let outcome = applied.json();
    assert_eq!(outcome["in_force"]["everywhere"], true, "{outcome}");
    assert_eq!(outcome["in_force"]["proxies"], 2, "{outcome}");
    assert_eq!(status(&mesh, "/secret").await, 200);
    let hash = outcome["difference"]["after"]
        .as_str()
        .expect("a hash")
        .to_owned();
    assert_eq!(
        mesh.status().await.expect("a status")["policy_hash"],
        hash.as_str()
    );

    // The decision of then is explained by the policies of then, and by those of now.
    let told = mesh
        .reeve(&["policy", "explain", &id, "--now", "-o", "json"])
        .await
        .json();
    assert_eq!(told["then"]["decision"]["reason"], "no_permit", "{told}");
    assert_eq!(told["now"]["decision"]["reason"], "permitted", "{told}");

    let back = mesh.reeve_ok(&["policy", "rollback", "--yes"]).await;
    assert!(
        back.stdout.contains("is in force on all 2 proxies"),
        "{}",
        back.stdout
    );
    assert_eq!(status(&mesh, "/secret").await, 403);
    assert_eq!(status(&mesh, "/public/a").await, 200);
    let history = mesh
        .reeve_ok(&["policy", "history", "-o", "json"])
        .await
        .json();
    let what: Vec<_> = history
        .as_array()
        .expect("entries")
        .iter()
        .map(|e| e["what"].clone())
        .collect();
    assert_eq!(what, ["found", "apply", "rollback"]);

    // Who can, of the mesh that runs: no folder is named.
    let who = mesh
        .reeve_ok(&[
            "policy",
            "who-can",
            "echo",
            "--path",
            "/public/a",
            "-o",
            "json",
        ])
        .await
        .json();
    assert_eq!(
        who[0]["caller"], "spiffe://mesh.local/ns/default/sa/client",
        "{who}"
    );
    assert_eq!(who[0]["methods"], json!(["GET", "HEAD"]), "{who}");
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_check_refuses_never_reaches_the_folder() {
    let mesh = Mesh::start(folder()).await;
    let before = mesh.generation().await;
    let candidate = Folder::new().with(
        "more.yaml",
        permit(
            "more",
            "permit (principal, action, resource) when { context.nonsense };",
        ),
    );
    let candidate = candidate.path().to_str().expect("a path of UTF-8");
    let refused = mesh.reeve(&["policy", "apply", candidate, "--yes"]).await;
    assert_eq!(refused.code, Some(1), "{}", refused.text());
    assert!(refused.stderr.contains("nonsense"), "{}", refused.text());
    assert!(!mesh.folder.path().join("more.yaml").exists());
    assert_eq!(mesh.generation().await, before);

    // What somebody else breaks by hand is put right by a rollback to a kept set.
    let good = Folder::new().with("echo.yaml", permit("echo", CLIENT_TO_ECHO));
    let good = good.path().to_str().expect("a path of UTF-8");
    mesh.reeve_ok(&["policy", "apply", good, "--yes"]).await;
    mesh.folder
        .write("broken.yaml", permit("broken", "permit (nonsense);"));
    eventually(
        "the folder is refused",
        std::time::Duration::from_secs(10),
        async || {
            let status = mesh.status().await?;
            let faults = status["config"]["faults"].as_array().map_or(0, Vec::len);
            if faults > 0 {
                Ok(())
            } else {
                Err(status.to_string())
            }
        },
    )
    .await;
    mesh.reeve_ok(&["policy", "rollback", "--yes"]).await;
    assert!(!mesh.folder.path().join("broken.yaml").exists());
    assert_eq!(status(&mesh, "/secret").await, 200);
}
