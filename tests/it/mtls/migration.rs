//! `reeve mtls`: from permissive to strict and back, on a small mesh under load.

use std::{net::SocketAddr, time::Duration};

use reeve_tests::{Folder, Mesh, echo, eventually, local_mesh, permit, service, sidecar};
use serde_json::{Value, json};

use super::fixture::{
    LIMIT, Stranger, anybody, ended, in_phase, insider, load, migrating, outsider, plain_get,
};
use crate::fixture::settings;

/// What rests on little time, in tests.
const SHORT: [&str; 4] = ["--since", "1h", "--cycle", "1s"];

fn workloads(old: Value) -> String {
    local_mesh(&[sidecar("client"), echo("echo-v1", "echo", "v1"), old])
}

fn folder() -> Folder {
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("workloads.yaml", workloads(outsider("old")))
        .with("services.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("echo", &anybody("echo")))
}

fn past_sidecars(mesh: &Mesh) -> SocketAddr {
    mesh.inbound("echo-v1-0", 9080)
}

fn to_echo(mesh: &Mesh, from: &str) -> SocketAddr {
    mesh.outbound(from, "echo", 9080)
}

/// Plans until nothing stands in the way; the file.
async fn plan(mesh: &Mesh) -> String {
    let file = mesh.folder.path().with_extension("plan.yaml");
    let path = file.display().to_string();
    let args = [&["mtls", "plan", "--out", &path][..], &SHORT].concat();
    eventually("nothing stands in the way", LIMIT, async || {
        let outcome = mesh.reeve(&args).await;
        match outcome.code {
            Some(0) => Ok(()),
            _ => Err(format!(
                "{}\n{}",
                outcome.text(),
                std::fs::read_to_string(&path).unwrap_or_default()
            )),
        }
    })
    .await;
    path
}

fn files(mesh: &Mesh) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(mesh.folder.path())
        .expect("the folder")
        .flatten();
    let yaml = entries.filter(|e| e.file_name().to_string_lossy().ends_with(".yaml"));
    let mut files: Vec<_> = yaml
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(entry.path()).expect("a file"))
        })
        .collect();
    files.sort();
    files
}

/// What the status and the API say of the port that `old` calls.
async fn blocked_by_old(mesh: &Mesh, port: &Value) {
    assert_eq!(port["verdict"], "blocked", "{port:#}");
    assert_eq!(port["origin"]["object"], "default", "{port:#}");
    let obstacle = &port["obstacles"][0];
    let what = obstacle["what"].as_str().unwrap_or_default();
    assert!(what.starts_with("workload default/old"), "{port:#}");
    let remedy = obstacle["remedy"].as_str().unwrap_or_default();
    assert!(
        remedy.contains("remove `role: none` of workload old"),
        "{port:#}"
    );
    let api = reeve_tests::Call::get("mesh", "/api/mtls")
        .send(mesh.api())
        .await;
    let api = api.expect("the API").json();
    assert_eq!(api["ports"][0]["obstacles"], port["obstacles"], "{api:#}");
}

/// It is on record: what, why, by whom.
async fn on_record(mesh: &Mesh) {
    let report = mesh
        .reeve_ok(&["mtls", "report", "-o", "json"])
        .await
        .json();
    let records = report["records"].as_array().expect("records");
    let steps: Vec<_> = records.iter().filter_map(|r| r["phase"].as_str()).collect();
    let wave = ["shadow", "flip", "hold", "done"];
    let expected = [&["began"][..], &wave, &wave, &["ended"]].concat();
    assert_eq!(steps, expected, "{report:#}");
    assert_eq!(records[0]["text"], "change 4711");
    let text = mesh.reeve_ok(&["mtls", "report"]).await.stdout;
    for word in [
        "DONE",
        "PERMISSIVE",
        "STRICT",
        "a new file with one PeerAuthentication",
    ] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_goes_from_permissive_to_strict_and_back_and_no_request_fails() {
    let mut mesh = Mesh::start(folder()).await;
    let load = load(vec![to_echo(&mesh, "client-0")], Duration::from_millis(20));
    assert!(plain_get(&mesh, "old-0", past_sidecars(&mesh), "/").await);

    let status = [&["mtls", "status", "-o", "json"][..], &SHORT].concat();
    let blocked = mesh.reeve(&status).await;
    assert_eq!(blocked.code, Some(1), "{}", blocked.text());
    blocked_by_old(&mesh, &blocked.json()["ports"][0]).await;

    // The remedy.
    mesh.apply("workloads.yaml", workloads(insider("old")))
        .await;
    mesh.wait_ready(LIMIT).await;
    let before = files(&mesh);
    let plan = plan(&mesh).await;
    let quick = [
        "--plan",
        &plan,
        "--shadow",
        "1s",
        "--hold",
        "2s",
        "--note",
        "change 4711",
        // How slow a loaded machine gets is not what is tried here.
        "--max-p99-factor",
        "1000000",
    ];
    let (code, journal) = ended(migrating(&mesh, &quick)).await;
    assert_eq!(code, Some(0), "{journal:#}");
    assert_eq!(journal["end"], "done", "{journal:#}");
    let to = past_sidecars(&mesh);
    assert!(
        !plain_get(&mesh, "old-0", to, "/").await,
        "plaintext is served"
    );
    mesh.reeve_ok(&status).await;
    for name in [
        "mtls-strict-echo-v1.default.yaml",
        "mtls-strict.default.yaml",
    ] {
        assert!(mesh.folder.read(name).contains("STRICT"), "{name}");
    }

    on_record(&mesh).await;

    // And back.
    mesh.reeve_ok(&["mtls", "rollback", "--yes", "--note", "change 4712"])
        .await;
    assert!(
        plain_get(&mesh, "old-0", to, "/").await,
        "plaintext is refused"
    );
    assert_eq!(files(&mesh), before);
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    println!("{} requests, none failed", report.ok);
    mesh.verify_audit().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_nobody_knew_of_takes_the_wave_back_and_is_named() {
    let mut mesh = Mesh::start(folder()).await;
    let load = load(vec![to_echo(&mesh, "client-0")], Duration::from_millis(20));
    let plan = plan(&mesh).await;
    let args = [
        "--plan",
        &plan,
        "--shadow",
        "1s",
        "--hold",
        "60s",
        "--max-p99-factor",
        "1000000",
    ];
    let migrating = migrating(&mesh, &args);
    in_phase(&mesh, 0, "holding").await;
    let from = mesh.instance("old-0").app_address.into();
    let stranger = Stranger::start(from, past_sidecars(&mesh));
    let (code, journal) = ended(migrating).await;
    assert_eq!(code, Some(3), "{journal:#}");
    let wave = &journal["waves"][0];
    assert_eq!(wave["phase"], "rolled_back", "{journal:#}");
    let callers = wave["callers"].to_string();
    assert!(callers.contains("workload default/old"), "{journal:#}");
    assert!(wave["back_after_ms"].is_u64(), "{journal:#}");
    let told = mesh.reeve_ok(&["mtls", "report"]).await.stdout;
    assert!(
        told.starts_with("STOPPED: wave-1 was rolled back"),
        "{told}"
    );

    let (served, _) = stranger.so_far();
    eventually("the caller is served again", LIMIT, async || {
        match stranger.so_far().0 > served + 3 {
            true => Ok(()),
            false => Err(format!("{:?}", stranger.so_far())),
        }
    })
    .await;
    let (served, refused) = stranger.stop().await;
    assert!(refused > 0, "it was never refused");
    println!(
        "{refused} requests were refused, {served} served; back within {} ms",
        wave["back_after_ms"]
    );
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert!(
        !files(&mesh)
            .iter()
            .any(|(name, _)| name.starts_with("mtls-"))
    );
    mesh.verify_audit().await;
    mesh.stop().await;
}

/// The tool in its shadow and in its hold, the mesh process, and the receiver's proxy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_the_migration_is_taken_up() {
    let mut mesh = Mesh::start(folder()).await;
    let plan = plan(&mesh).await;
    let mut tool = migrating(
        &mesh,
        &["--plan", &plan, "--shadow", "60s", "--hold", "60s"],
    );
    in_phase(&mesh, 0, "shadow").await;
    tool.kill().await.expect("the tool to kill");
    let to = past_sidecars(&mesh);
    assert!(
        plain_get(&mesh, "old-0", to, "/").await,
        "nothing was flipped"
    );
    let again = mesh
        .reeve(&["mtls", "migrate", "--plan", &plan, "--yes"])
        .await;
    assert_eq!(
        again.code,
        Some(2),
        "another one was begun: {}",
        again.text()
    );

    // That call is one that the shadow must see: only what comes after it counts.
    let mut tool = migrating(&mesh, &["--resume", "--shadow", "1s", "--hold", "60s"]);
    let stopped = tool.wait().await.expect("its end");
    assert_eq!(
        stopped.code(),
        Some(1),
        "plaintext in the shadow did not end it"
    );
    mesh.reeve_ok(&["mtls", "rollback", "--yes"]).await;
    mesh.apply("workloads.yaml", workloads(insider("old")))
        .await;
    mesh.wait_ready(LIMIT).await;
    let plan = self::plan(&mesh).await;

    let any = ["--min-success", "0", "--max-p99-factor", "1000000"];
    let begin = [
        &["--plan", &plan, "--shadow", "1s", "--hold", "60s"][..],
        &any,
    ]
    .concat();
    let mut tool = migrating(&mesh, &begin);
    in_phase(&mesh, 0, "holding").await;
    tool.kill().await.expect("the tool to kill");
    assert!(!plain_get(&mesh, "client-0", to, "/").await, "half flipped");
    // Refused while nobody watched: it would be taken back for that. The mesh's own process is killed instead.
    mesh.reeve_ok(&["mtls", "rollback", "--yes"]).await;

    let mut tool = migrating(&mesh, &begin);
    in_phase(&mesh, 0, "holding").await;
    tool.kill().await.expect("the tool to kill");
    mesh.kill_process(mesh.mesh_pid().expect("the mesh process"));
    let proxy = mesh.instance("echo-v1-0").sidecar_pid.expect("a sidecar");
    mesh.kill_process(proxy);
    let resume = [&["--resume", "--shadow", "1s", "--hold", "2s"][..], &any].concat();
    let (code, journal) = ended(migrating(&mesh, &resume)).await;
    assert_eq!(code, Some(0), "{journal:#}");
    assert_eq!(journal["end"], "done", "{journal:#}");
    mesh.wait_ready(LIMIT).await;
    assert!(!plain_get(&mesh, "client-0", to, "/").await, "half flipped");
    mesh.verify_audit().await;
    mesh.stop().await;
}
