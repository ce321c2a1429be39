//! Workloads that end: a job's sidecar is there before it and ends with it.

use std::time::Duration;

use reeve_tests::{
    Folder, Mesh, alive, echo, eventually, local_mesh, permit, service, sidecar, strict,
};
use serde_json::{Value, json};

use crate::fixture::{CLIENT_TO_ECHO, client_and_echo, settings};

const LIMIT: Duration = Duration::from_secs(30);

/// Asks `echo` once, at once: that works only if the sidecar is ready before the application starts.
const ASK: &str = "import os, sys, urllib.request as r
url = 'http://%s:%s' % (os.environ['ECHO_SERVICE_HOST'], os.environ['ECHO_SERVICE_PORT'])
request = r.Request(url + '/job', headers={'host': 'echo:9080', 'x-request-id': os.environ['REEVE_INSTANCE']})
assert r.urlopen(request).status == 200
";

fn job(name: &str, policy: &str, script: &str) -> Value {
    json!({
        "name": name, "serviceAccount": "client", "labels": {"app": name}, "restartPolicy": policy,
        "command": ["python3", "-c", script],
    })
}

fn folder(jobs: &[Value]) -> Folder {
    let mut workloads = vec![sidecar("client"), echo("echo-v1", "echo", "v1")];
    workloads.extend_from_slice(jobs);
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&workloads))
        .with("services.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("echo", CLIENT_TO_ECHO))
}

async fn done(mesh: &Mesh, name: &str) -> i64 {
    let code = std::cell::Cell::new(0);
    eventually("the job is done", LIMIT, async || {
        let status = mesh.status().await?;
        let job = status["jobs"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|job| job["instance"] == name);
        let job = job.ok_or_else(|| format!("{} is not among {}", name, status["jobs"]))?;
        code.set(job["exit_code"].as_i64().ok_or("no exit code")?);
        Ok(())
    })
    .await;
    code.get()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jobs_sidecar_is_ready_before_it_and_ends_with_it() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;
    let marker = std::env::temp_dir().join(format!("rv-{}-tried", std::process::id()));
    drop(std::fs::remove_file(&marker));
    let second_time_lucky = format!(
        "{ASK}import pathlib
tried = pathlib.Path('{}')
if not tried.exists():
    tried.touch()
    sys.exit(7)
",
        marker.display()
    );
    let jobs = [
        job("once", "Never", ASK),
        job("fails", "Never", &format!("{ASK}sys.exit(3)")),
        job("retries", "OnFailure", &second_time_lucky),
    ];
    let new = folder(&jobs);
    mesh.folder
        .write("workloads.yaml", new.read("workloads.yaml"));

    assert_eq!(done(&mesh, "once-0").await, 0);
    assert_eq!(done(&mesh, "fails-0").await, 3);
    assert_eq!(done(&mesh, "retries-0").await, 0);
    assert!(marker.exists(), "it was tried twice");
    drop(std::fs::remove_file(&marker));

    for name in ["once-0", "fails-0", "retries-0"] {
        eventually("the sidecar has ended", LIMIT, async || {
            match mesh.instance(name).sidecar_pid.filter(|pid| alive(*pid)) {
                Some(pid) => Err(format!("{name}: process {pid}")),
                None => Ok(()),
            }
        })
        .await;
        mesh.decision_on(name, "echo-v1-0").await;
        let stopped = mesh
            .record("the sidecar's last record is in the log", |record| {
                let id = record["id"].as_str().unwrap_or_default();
                record["event"] == "stopped"
                    && id.starts_with(&format!("{name}/"))
                    && record["logged"] == true
            })
            .await;
        assert!(stopped["id"].is_string());
    }
    let status = mesh.reeve_ok(&["status"]).await.stdout;
    let line = |name: &str| {
        status
            .lines()
            .find(|line| line.trim_start().starts_with(name))
            .map(str::to_owned)
    };
    assert!(
        line("once-0").is_some_and(|line| line.contains("Completed")),
        "{status}"
    );
    assert!(
        line("fails-0").is_some_and(|line| line.contains("exit code 3")),
        "{status}"
    );
    mesh.reeve_ok(&["status", "--wait", "latest", "--timeout", "10s"])
        .await;
    mesh.verify_audit().await;
}
