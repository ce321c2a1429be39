//! `reeve up` keeps a mesh running: restarts, replicas, workloads that come and go, logs joined by trace.

use std::time::Duration;

use reeve_tests::{Mesh, alive, echo, eventually, local_mesh, permit, sidecar};
use serde_json::json;

use crate::fixture::{CLIENT_TO_ECHO, client_and_echo, get, to_echo};

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_dies_is_started_again() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;
    let address = to_echo(&mesh);
    let first = mesh.instance("echo-v1-0").app_pid.expect("a process");
    mesh.kill_process(first);
    eventually("the application is back", LIMIT, async || {
        let again = mesh
            .instances()?
            .into_iter()
            .find(|i| i.name == "echo-v1-0")
            .ok_or("gone")?;
        match again.app_pid {
            Some(pid) if pid != first && again.healthy => Ok(()),
            _ => Err(format!("{again:?}")),
        }
    })
    .await;
    eventually("it serves", LIMIT, async || {
        match get("/").status(address).await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_scale_come_and_go_while_the_mesh_runs() {
    let mut mesh = Mesh::start(client_and_echo(json!({}))).await;
    let address = to_echo(&mesh);

    // Three replicas share the load; one remains when two go.
    let mut many = echo("echo-v1", "echo", "v1");
    many["replicas"] = json!(3);
    mesh.apply("workloads.yaml", local_mesh(&[sidecar("client"), many]))
        .await;
    let mut servers = std::collections::BTreeSet::new();
    for _ in 0..60 {
        let answer = get("/").send(address).await.expect("an answer");
        servers.insert(
            answer.json()["instance"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        );
    }
    assert_eq!(servers.len(), 3, "{servers:?}");
    let gone = mesh.instance("echo-v1-2").sidecar_pid.expect("a sidecar");
    mesh.apply(
        "workloads.yaml",
        local_mesh(&[sidecar("client"), echo("echo-v1", "echo", "v1")]),
    )
    .await;
    eventually("a surplus replica ends", LIMIT, async || {
        if alive(gone) {
            Err("still there".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
    for _ in 0..20 {
        assert_eq!(get("/").status(address).await, Ok(200));
    }

    // A new workload joins and is served by policy at once; then the mesh ends and leaves nothing behind.
    let cedar = format!(
        "{CLIENT_TO_ECHO}\n{}",
        CLIENT_TO_ECHO.replace("client", "late")
    );
    let workloads = [
        sidecar("client"),
        echo("echo-v1", "echo", "v1"),
        sidecar("late"),
    ];
    mesh.folder.write("access.yaml", permit("echo", &cedar));
    mesh.apply("workloads.yaml", local_mesh(&workloads)).await;
    let from_late = mesh.outbound("late-0", "echo", 9080);
    eventually("the newcomer is served", LIMIT, async || {
        match get("/").status(from_late).await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let waited = mesh
        .reeve(&["status", "--wait", "latest", "--timeout", "10s"])
        .await;
    assert_eq!(waited.code, Some(0), "{}", waited.text());
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_supervisor_takes_everything_with_it_and_the_state_serves_again() {
    let mut mesh = Mesh::start(client_and_echo(json!({}))).await;
    let before = mesh.reeve_ok(&["ca", "bundle"]).await.stdout;
    mesh.kill().await;
    mesh.start_again().await;
    assert_eq!(get("/").status(to_echo(&mesh)).await, Ok(200));
    assert_eq!(
        mesh.reeve_ok(&["ca", "bundle"]).await.stdout,
        before,
        "the same CA goes on"
    );
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_join_application_and_access_lines_by_trace() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let call = get("/traced").header("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"));
    let answer = call.send(to_echo(&mesh)).await.expect("an answer");
    let passed = answer.json()["headers"]["traceparent"][0]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        passed.contains(trace),
        "the trace is not passed on: {passed}"
    );
    eventually(
        "both sides' access lines and the application's are there",
        LIMIT,
        async || {
            let logs = mesh.reeve(&["logs", "--trace", trace]).await;
            let lines: Vec<_> = logs
                .stdout
                .lines()
                .filter(|line| line.contains("/traced"))
                .collect();
            if lines.len() >= 3 {
                Ok(())
            } else {
                Err(logs.text())
            }
        },
    )
    .await;
    let one = mesh.reeve(&["logs", "client", "--trace", trace]).await;
    assert!(
        one.stdout.contains("/traced") && !one.stdout.contains("\"app\":\"echo\""),
        "{}",
        one.text()
    );

    // Without a trace, the first sidecar begins one.
    let answer = get("/fresh").send(to_echo(&mesh)).await.expect("an answer");
    let headers = &answer.json()["headers"];
    for name in ["traceparent", "x-request-id"] {
        assert!(headers[name][0].is_string(), "{name} is missing: {headers}");
    }
    assert!(headers["x-forwarded-client-cert"].is_null(), "{headers}");
}
