//! The edges of what is captured: a workload that calls itself, other protocols than a port was declared for, addresses
//! that stand for nothing, UDP.

use std::path::Path;

use reeve_tests::{Mesh, Outcome, permit, run};
use serde_json::json;
use tokio::net::UdpSocket;

use super::{CALL_LIMIT, addresses, call, namespace, port_of, start, virtual_addresses};

const SERVER_TO_ITSELF: &str = r#"permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/server",
  action == Action::"GET",
  resource in Service::"server.default.svc.cluster.local"
);"#;

const CLIENT_READS_CLOSED: &str = r#"permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
  action == Action::"GET",
  resource in Service::"closed.default.svc.cluster.local"
);"#;

/// One call by a process beside the application of `instance`.
async fn call_as(mesh: &Mesh, instance: &str, words: &[&str]) -> Outcome {
    let space = namespace(mesh, instance);
    let script = mesh.folder.path().join("client.py").display().to_string();
    let python = ["netns", "exec", &space, "python3", &script];
    run(Path::new("ip"), &[&python, words].concat(), &[], CALL_LIMIT).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_that_calls_its_own_service_is_judged_like_any_caller() {
    let mesh = start("redirect", json!({})).await;
    mesh.apply("access.yaml", permit("server", SERVER_TO_ITSELF))
        .await;
    for address in virtual_addresses(&mesh, "server") {
        let http = call_as(
            &mesh,
            "server-0",
            &["http", &address, "8080", "server:8080"],
        )
        .await;
        assert!(http.stdout.contains("hello"), "{address}: {}", http.text());
        let tcp = call_as(&mesh, "server-0", &["echo", &address, "9000"]).await;
        assert!(!tcp.stdout.contains("across"), "{address}: {}", tcp.text());
    }
    for (port, effect) in [(8080, "allow"), (9000, "deny")] {
        let what = format!("a record of the call to port {port}");
        let record = mesh
            .record(&what, |record| {
                port_of(record) == Some(port) && record["direction"] == "inbound"
            })
            .await;
        let principal = record["request"]["principal"].to_string();
        assert!(principal.contains("/sa/server"), "{record}");
        assert_eq!(record["decision"]["effect"], effect, "{record}");
        assert_eq!(record["authenticated_by"], "mtls", "{record}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_passes_no_policy_on_http() {
    let mesh = start("tproxy", json!({})).await;
    let policies = permit("closed", CLIENT_READS_CLOSED);
    mesh.apply("access.yaml", policies).await;
    let [address, _] = virtual_addresses(&mesh, "closed");
    let http = call(&mesh, &["http", &address, "8080", "closed:8080"]).await;
    assert!(http.stdout.contains("hello"), "{}", http.text());
    // A declared TCP port, one that nobody declared, and bytes of another protocol on the HTTP port.
    let [own, _] = addresses(&mesh, "closed-0");
    for (to, port) in [(&address, "9000"), (&own, "7000"), (&address, "8080")] {
        let opaque = call(&mesh, &["echo", to, port]).await;
        assert!(
            !opaque.stdout.contains("across"),
            "{to} {port}: {}",
            opaque.text()
        );
    }
    for port in [9000, 7000] {
        let what = format!("the refusal at port {port} is recorded");
        let record = mesh
            .record(&what, |record| {
                port_of(record) == Some(port) && record["direction"] == "inbound"
            })
            .await;
        assert_eq!(record["request"]["action"], "connect", "{record}");
        assert_eq!(record["decision"]["reason"], "no_permit", "{record}");
    }
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_stand_for_nothing_lead_nowhere_and_not_in_a_circle() {
    let mesh = start("redirect", json!({})).await;
    let base = mesh.base;
    let before = mesh.instance("client-0").sidecar_pid;
    // A service address that no service has, that of the mesh process on loopback, and the sidecar's own.
    let own = &addresses(&mesh, "client-0")[0];
    for (address, port) in [
        (format!("10.{base}.255.250"), "8080"),
        (format!("127.{base}.0.1"), "15014"),
        (own.clone(), "15001"),
        (own.clone(), "15006"),
    ] {
        for _ in 0..5 {
            let outcome = call_within(&mesh, &["echo", &address, port]).await;
            assert!(!outcome.contains("across"), "{address} {port}: {outcome}");
        }
    }
    let [server, _] = virtual_addresses(&mesh, "server");
    let outcome = call(&mesh, &["echo", &server, "9000"]).await;
    assert!(outcome.stdout.contains("across"), "{}", outcome.text());
    assert_eq!(mesh.instance("client-0").sidecar_pid, before, "it lives");
}

/// What a call to nowhere says. It may take as long as the caller has patience: five seconds.
async fn call_within(mesh: &Mesh, words: &[&str]) -> String {
    let space = namespace(mesh, "client-0");
    let script = mesh.folder.path().join("client.py").display().to_string();
    let python = ["netns", "exec", &space, "python3", &script];
    let words = [&python, words].concat();
    run(Path::new("ip"), &words, &[], 3 * CALL_LIMIT)
        .await
        .text()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_to_other_ports_passes_unjudged_and_is_listed_as_unprotected() {
    let mesh = start(
        "redirect",
        json!({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}),
    )
    .await;
    let gate = format!("10.{}.0.1", mesh.base);
    let socket = UdpSocket::bind((gate.as_str(), 0)).await.expect("a port");
    let port = socket.local_addr().expect("its address").port();
    tokio::spawn(async move {
        let mut bytes = [0; 64];
        while let Ok((count, from)) = socket.recv_from(&mut bytes).await {
            drop(socket.send_to(&bytes[..count], from).await);
        }
    });
    let outcome = call(&mesh, &["udp", &gate, &port.to_string()]).await;
    assert_eq!(outcome.stdout.trim(), "quic", "{}", outcome.text());
    let records = mesh.records(&[]).await;
    let judged = |port: u16| {
        records
            .iter()
            .any(|record| port_of(record) == Some(port.into()))
    };
    assert!(!judged(port), "no decision stands behind it");
    let status = mesh.reeve_ok(&["status"]).await.text();
    for gap in [
        "UDP to other ports than 443",
        "connections within one instance",
        "instances without a sidecar",
    ] {
        assert!(status.contains(gap), "{gap}: {status}");
    }
}
