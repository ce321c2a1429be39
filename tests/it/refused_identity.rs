//! Point 10: nobody gets another's identity, neither over a socket nor by a join token; and the attempt is recorded.

use std::{fs, path::PathBuf, time::Duration};

use reeve_tests::{Mesh, Outcome, binary, echo, local_mesh, run, sidecar};
use serde_json::json;

use crate::{
    fixture::{CLIENT, ECHO, client_and_echo},
    interop::{result_of, script},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_that_asks_for_anothers_identity_is_refused_and_recorded() {
    let result = std::env::temp_dir().join(format!("rv-{}-steal.json", std::process::id()));
    drop(fs::remove_file(&result));
    let workloads = [
        sidecar("client"),
        echo("echo-v1", "echo", "v1"),
        script("thief", "steal.py", &result),
    ];
    let folder = client_and_echo(json!({}))
        .with("steal.py", include_str!("peers/steal.py"))
        .with("workloads.yaml", local_mesh(&workloads));
    let mesh = Mesh::start(folder).await;

    let got = result_of(&result).await;
    assert_eq!(got["own socket, own identity"]["ok"], true, "{got}");
    for question in [
        "their socket, Workload API",
        "their socket, SDS",
        "own socket, their name by SDS",
    ] {
        assert_eq!(
            got[question]["code"], "PERMISSION_DENIED",
            "{question}: {got}"
        );
    }
    assert_eq!(
        got["own socket, no security header"]["code"], "INVALID_ARGUMENT",
        "{got}"
    );
    mesh.record("the refusal is recorded", |record| {
        let text = record.to_string();
        text.contains("identity_refused") && text.contains("echo-v1-0")
    })
    .await;

    // This test is no workload at all: the agent's socket tells it nothing, and neither does the mesh's.
    let socket = mesh.state.join("run/echo-v1-0.sock").display().to_string();
    let outcome = mesh
        .reeve(&["identity", "fetch", "--socket", &socket])
        .await;
    assert_ne!(
        outcome.code,
        Some(0),
        "a stranger got an identity: {}",
        outcome.text()
    );
    let joined = join(&mesh, Credential::MeshSocket, "echo-v1-0", ECHO).await;
    assert_refused(&joined);
    mesh.record("a stranger on the mesh's socket is recorded", |record| {
        record["event"] == "identity_refused" && record.to_string().contains(ECHO)
    })
    .await;
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_join_token_is_refused_and_recorded() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;

    // A token that was never given out, and one that was given out for another identity.
    let invented = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef".to_owned();
    assert_refused(&join(&mesh, Credential::Token(invented), "remote-0", ECHO).await);
    let created = mesh
        .reeve_ok(&["ca", "token", "create", "--identity", CLIENT, "-o", "json"])
        .await
        .json();
    let token = created["token"].as_str().expect("a token").to_owned();
    assert_refused(&join(&mesh, Credential::Token(token), "remote-0", ECHO).await);

    let mut found = 0;
    mesh.record("both refusals are recorded", |record| {
        found +=
            usize::from(record["event"] == "identity_refused" && record.to_string().contains(ECHO));
        found >= 2
    })
    .await;
    mesh.verify_audit().await;
}

enum Credential {
    MeshSocket,
    Token(String),
}

/// Starts a sidecar by hand and gives it a while: refused, it must end by itself or say why and stay without identity.
async fn join(mesh: &Mesh, credential: Credential, instance: &str, identity: &str) -> Outcome {
    let file = |name: &str| -> PathBuf { mesh.state.join(name) };
    let address = mesh.grpc().to_string();
    let wal = file("stranger-wal").display().to_string();
    let mut args = vec![
        "proxy",
        "run",
        "--instance",
        instance,
        "--identity",
        identity,
        "--trust-domain",
        "mesh.local",
        "--mesh-address",
        &address,
        "--wal-dir",
        &wal,
    ];
    let socket = file("mesh.sock").display().to_string();
    let (token_file, bundle) = (
        file("join.token").display().to_string(),
        file("bundle.pem").display().to_string(),
    );
    match credential {
        Credential::MeshSocket => args.extend(["--mesh-socket", &socket]),
        Credential::Token(token) => {
            fs::write(&token_file, token).expect("a token file");
            let authorities = mesh.reeve_ok(&["ca", "bundle"]).await.stdout;
            fs::write(&bundle, authorities).expect("a bundle file");
            args.extend(["--join-token-file", &token_file, "--bundle", &bundle]);
        }
    }
    let reeve = binary("reeve").display().to_string();
    let words = [
        &["--signal=TERM", "--kill-after=5", "8", &reeve],
        args.as_slice(),
    ]
    .concat();
    run("timeout".as_ref(), &words, &[], Duration::from_secs(20)).await
}

fn assert_refused(outcome: &Outcome) {
    let text = outcome.text().to_lowercase();
    assert_ne!(outcome.code, Some(0), "{text}");
    let said = ["refused", "denied", "not entitled"]
        .iter()
        .any(|word| text.contains(word));
    assert!(said, "no clear refusal: {text}");
}
