//! `docs/strict-mtls.md`: its commands, run one after the other on the demo's mesh, print what the page says.

use std::path::Path;

use reeve_tests::{Call, Connection, Folder, Mesh, Outcome, Protocol, binary, eventually, run};

use super::fixture::{LIMIT, insider, outsider, plain_get};
use crate::policy_guide::{agrees, sessions, words};

const GUIDE: &str = include_str!("../../../docs/strict-mtls.md");
/// `legacy` may look at details, with an identity and without.
const LEGACY: &str =
    r#"permit (principal, action, resource in Service::"details.default.svc.cluster.local");"#;

fn workloads(legacy: serde_json::Value) -> String {
    reeve_tests::local_mesh(&[legacy])
}

/// Runs the command by a shell in `dir`.
async fn reeve(mesh: &Mesh, dir: &Path, words: &[String]) -> Outcome {
    let state = mesh.state.display().to_string();
    let script = r#"cd "$0" && exec "$@""#;
    let mut args = vec!["-c", script];
    let (dir, reeve) = (
        dir.display().to_string(),
        binary("reeve").display().to_string(),
    );
    args.extend([dir.as_str(), reeve.as_str()]);
    args.extend(words.iter().map(String::as_str));
    run(
        Path::new("/bin/sh"),
        &args,
        &[("REEVE_STATE", &state)],
        LIMIT,
    )
    .await
}

/// One visit of the product page, which calls the others.
async fn visit(visitor: &mut Connection) {
    let page = Call::get("bookinfo.example", "/productpage");
    let answer = visitor.send(&page).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guides_commands_print_what_it_says() {
    let folder = Folder::bookinfo();
    // The demo is strict; the guide begins before that.
    let permissive = folder
        .read("mesh.yaml")
        .replace("mode: STRICT", "mode: PERMISSIVE");
    let folder = folder
        .with("mesh.yaml", &permissive)
        .with("legacy.yaml", workloads(outsider("legacy")))
        .with("legacy-access.yaml", reeve_tests::permit("legacy", LEGACY));
    let mut mesh = Mesh::start(folder).await;
    let visitor = Connection::open(mesh.inbound("ingress-0", 8080), Protocol::Http1).await;
    let mut visitor = visitor.expect("a connection to the gateway");
    visit(&mut visitor).await;
    let details = mesh.instances().expect("instances").into_iter();
    let details = details
        .map(|i| i.name)
        .find(|n| n.starts_with("details"))
        .expect("details");
    let details = mesh.inbound(&details, 9080);
    assert!(plain_get(&mesh, "legacy-0", details, "/details/0").await);

    let scratch = Folder::new();
    let sessions = sessions(GUIDE);
    assert!(sessions.len() >= 7, "the guide has its commands");
    for (command, expected) in sessions {
        let mut words: Vec<String> = words(command);
        assert_eq!(words.remove(0), "reeve", "{command}");
        if words[1] == "plan" {
            mesh.apply("legacy.yaml", workloads(insider("legacy")))
                .await;
            mesh.wait_ready(LIMIT).await;
            // Its new sidecar is watched for the cycle.
            let status = ["mtls", "status", "--since", "1h", "--cycle", "5s"];
            eventually("nothing stands in the way", LIMIT, async || {
                let outcome = mesh.reeve(&status).await;
                match outcome.code {
                    Some(0) => Ok(()),
                    _ => Err(outcome.text()),
                }
            })
            .await;
        }
        visit(&mut visitor).await;
        let ran = reeve(&mesh, scratch.path(), &words).await;
        assert!(
            agrees(&ran.stdout, &expected),
            "`{command}` printed\n{}{}\nnot\n{}",
            ran.stdout,
            ran.stderr,
            expected.join("\n")
        );
    }
    assert_eq!(
        mesh.folder.read("mesh.yaml"),
        permissive,
        "comments and order stay"
    );
    visit(&mut visitor).await;
    mesh.verify_audit().await;
    mesh.stop().await;
}
