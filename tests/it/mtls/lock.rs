//! A locked namespace: nothing opens it but a second person's signature.

use std::path::Path;

use reeve_tests::{Folder, Mesh, echo, eventually, local_mesh, permit, service, sidecar};
use serde_json::json;

use super::fixture::{LIMIT, anybody, plain_get};
use crate::fixture::settings;

fn mode(mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: strict}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

fn folder() -> Folder {
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with(
            "workloads.yaml",
            local_mesh(&[sidecar("client"), echo("echo-v1", "echo", "v1")]),
        )
        .with("services.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("echo", &anybody("echo")))
        .with("strict.yaml", mode("STRICT"))
}

/// A new pair of keys; the private one's file.
async fn key(mesh: &Mesh, at: &Path) -> String {
    let file = at.display().to_string();
    mesh.reeve_ok(&["break-glass", "keygen", "--out", &file])
        .await;
    file
}

/// Waits until the configuration is refused for a lock.
async fn refused(mesh: &Mesh) {
    eventually("the configuration is refused", LIMIT, async || {
        let status = mesh.reeve(&["status", "-o", "json"]).await.text();
        match status.contains("\"locked\"") {
            true => Ok(()),
            false => Err(status),
        }
    })
    .await;
}

/// An approval of `key`, in a file of that name beside it.
async fn approve(mesh: &Mesh, lock: &str, (key, name): (&str, &str)) -> String {
    let out = Path::new(key).with_file_name(name).display().to_string();
    let (what, why) = (["mtls", "approve", "default"], ["--reason", "change 4711"]);
    let args = [
        &what[..],
        &["--lock", lock, "--key", key, "--out", &out],
        &why,
    ]
    .concat();
    mesh.reeve_ok(&args).await;
    out
}

/// Locks the namespace; the lock's id.
async fn lock(mesh: &Mesh, approver: &str) -> String {
    let public = format!("{approver}.pub");
    let (what, whose) = (["mtls", "lock", "default"], ["--approver", &public]);
    let lock = [&what[..], &whose, &["--yes", "-o", "json"]].concat();
    let early = mesh.reeve(&lock).await;
    assert_eq!(
        early.code,
        Some(1),
        "a week was not watched: {}",
        early.text()
    );
    let quick = [&lock[..], &["--clean-for", "1ms"]].concat();
    let locked = mesh.reeve_ok(&quick).await.json();
    let id = locked["id"].as_str().expect("the lock's id").to_owned();
    let status = mesh.reeve_ok(&["mtls", "status"]).await.text();
    assert!(status.contains(&id), "{status}");
    id
}

/// Both openings are, and why.
async fn on_record(mesh: &Mesh) {
    let told = mesh
        .reeve_ok(&["audit", "query", "--kind", "event", "-o", "json"])
        .await
        .text();
    for words in [
        "mtls_locked",
        "mtls_unlocked",
        "refused: its signer",
        "change 4711",
        "\"outcome\":\"unlocked\"",
    ] {
        assert!(told.contains(words), "{words} is not in {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_namespace_opens_with_an_approvers_signature_alone() {
    let mut mesh = Mesh::start(folder()).await;
    let keys = mesh.folder.path().with_extension("keys");
    std::fs::create_dir_all(&keys).expect("a folder for keys");
    let (approver, stranger) = (
        key(&mesh, &keys.join("approver.key")).await,
        key(&mesh, &keys.join("stranger.key")).await,
    );
    let id = lock(&mesh, &approver).await;

    // Neither another mode nor the end of the one that is written lets plaintext in.
    let to = mesh.inbound("echo-v1-0", 9080);
    mesh.folder.write("strict.yaml", mode("PERMISSIVE"));
    refused(&mesh).await;
    mesh.folder.remove("strict.yaml");
    refused(&mesh).await;
    assert!(
        !plain_get(&mesh, "client-0", to, "/").await,
        "plaintext is served"
    );

    let forged = approve(&mesh, &id, (&stranger, "forged")).await;
    let outcome = mesh.reeve(&["mtls", "unlock", "--approval", &forged]).await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.text());
    assert!(
        outcome.text().contains("is no approver of the lock"),
        "{}",
        outcome.text()
    );
    assert!(
        !plain_get(&mesh, "client-0", to, "/").await,
        "plaintext is served"
    );

    let good = approve(&mesh, &id, (&approver, "good")).await;
    mesh.reeve_ok(&["mtls", "unlock", "--approval", &good])
        .await;
    eventually("the namespace is open", LIMIT, async || {
        match plain_get(&mesh, "client-0", to, "/").await {
            true => Ok(()),
            false => Err("plaintext is refused".to_owned()),
        }
    })
    .await;
    let again = mesh.reeve(&["mtls", "unlock", "--approval", &good]).await;
    assert_eq!(
        again.code,
        Some(1),
        "an approval is used once: {}",
        again.text()
    );

    on_record(&mesh).await;
    mesh.verify_audit().await;
    mesh.stop().await;
}
