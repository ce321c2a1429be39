//! `docs/review-access.md`: its commands, run one after the other on the demo's mesh, print what the page says.

use std::{os::unix::fs::symlink, path::Path, time::Duration};

use reeve_tests::{Call, Connection, Folder, Mesh, Outcome, Protocol, binary, run};

use crate::policy_guide::{agrees, sessions};

const GUIDE: &str = include_str!("../../docs/review-access.md");
/// Longest run of one command.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs a line as a shell would, in `at`, where `reeve` is ours and the mesh's state is known.
async fn shell(mesh: &Mesh, at: &Path, line: &str, id: &str) -> Outcome {
    let reeve = binary("reeve");
    let path = format!(
        "{}:{}",
        reeve.parent().expect("its folder").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let state = mesh.state.display().to_string();
    let script = format!("cd '{}' && {line}", at.display());
    let known = [
        ("PATH", path.as_str()),
        ("REEVE_STATE", state.as_str()),
        ("DECISION_ID", id),
    ];
    run(Path::new("/bin/sh"), &["-c", &script], &known, LIMIT).await
}

/// The product page for visitors, and a request that nobody may make; the denial's id.
async fn a_weeks_traffic(mesh: &Mesh) -> String {
    let visitor = Connection::open(mesh.inbound("ingress-0", 8080), Protocol::Http1).await;
    let mut visitor = visitor.expect("a connection to the gateway");
    for _ in 0..3 {
        let page = visitor
            .send(&Call::get("bookinfo.example", "/productpage"))
            .await;
        assert_eq!(page.expect("an answer").status, 200);
    }
    let ratings = Call::get("bookinfo.example", "/api/v1/products/0/ratings");
    let denied = visitor.send(&ratings).await.expect("an answer");
    assert_eq!(denied.status, 403, "{}", denied.text());
    let record = mesh
        .record("the denial by ratings", |record| {
            record["decision"]["effect"] == "deny"
                && record["logged"] == true
                && record["request"]["resource"]["services"][0]
                    == "ratings.default.svc.cluster.local"
        })
        .await;
    record["decision_id"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reviews_commands_lead_from_the_question_to_evidence_that_checks() {
    let mesh = Mesh::start(Folder::bookinfo()).await;
    let id = a_weeks_traffic(&mesh).await;
    crate::tamper::at_rest(&mesh.state.join("audit/checkpoint")).await;
    let auditor = Folder::new();
    symlink(mesh.folder.path(), auditor.path().join("mesh")).expect("the mesh's folder");
    let sessions = sessions(GUIDE);
    assert!(sessions.len() >= 17, "the guide has its commands");
    for (command, expected) in sessions {
        let ran = shell(&mesh, auditor.path(), command, &id).await;
        assert!(
            agrees(&ran.stdout, &expected),
            "`{command}` printed\n{}{}\nnot\n{}",
            ran.stdout,
            ran.stderr,
            expected.join("\n")
        );
        let denied = expected.iter().any(|line| line.starts_with("NOT PROVED"));
        assert_eq!(
            ran.code,
            Some(i32::from(denied)),
            "`{command}`: {}",
            ran.stderr
        );
    }
    for file in ["access.html", "week.parquet", "proof.json", "bundle.pem"] {
        let kept = std::fs::metadata(auditor.path().join("evidence").join(file));
        assert!(kept.is_ok_and(|file| file.len() > 0), "{file}");
    }
}
