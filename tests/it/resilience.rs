//! Resilience on the running mesh: faults, circuit breaking, ejection that all callers hear of, stickiness, chaos.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use reeve_tests::{
    Call, Connection, Folder, Mesh, Protocol, echo, eventually, local_mesh, permit, service,
    sidecar, strict,
};
use serde_json::{Value, json};

use crate::fixture::{client_and_echo, get, settings, to_echo};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(20);

const FAULTS: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec:
  hosts: [echo]
  http:
    - match: [{uri: {prefix: /late}}]
      fault: {delay: {fixedDelay: 400ms, percentage: {value: 100}}}
      route: [{destination: {host: echo}}]
    - fault: {abort: {httpStatus: 555, percentage: {value: 50}}}
      route: [{destination: {host: echo}}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_delay_and_abort_their_share_and_a_caller_that_tries_again_is_healed() {
    let mesh = Mesh::start(client_and_echo(json!({})).with("faults.yaml", FAULTS)).await;
    let to = to_echo(&mesh);
    let begun = Instant::now();
    assert_eq!(get("/late").status(to).await, Ok(200));
    assert!(begun.elapsed() >= Duration::from_millis(400));

    let mut connection = Connection::open(to, Protocol::Http1).await.expect("open");
    let (mut aborted, mut healed) = (0, 0);
    for _ in 0..1000 {
        let mut tries = 0;
        loop {
            let answer = connection.send(&get("/")).await.expect("an answer");
            tries += 1;
            if answer.status == 200 {
                break;
            }
            assert_eq!(answer.status, 555, "{}", answer.text());
            aborted += 1;
            assert!(tries < 30, "never healed");
        }
        healed += usize::from(tries > 1);
    }
    // Each call has one abort on an average, and half of the calls have any.
    assert!((800..1200).contains(&aborted), "{aborted}");
    assert!((430..570).contains(&healed), "{healed}");
    // Off by one command, and on again.
    mesh.reeve_ok(&["chaos", "off"]).await;
    eventually("it is in force", LIMIT, async || mesh.settled().await).await;
    for _ in 0..100 {
        assert_eq!(get("/").status(to).await, Ok(200));
    }
    let listed = mesh.reeve_ok(&["chaos", "list", "-o", "json"]).await;
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(listed["off"], true);
    let states: BTreeSet<&str> = listed["faults"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|fault| fault["state"].as_str())
        .collect();
    assert_eq!(states, BTreeSet::from(["off"]));
    mesh.reeve_ok(&["chaos", "on"]).await;
    eventually("it is in force", LIMIT, async || mesh.settled().await).await;
    let statuses = join_all((0..40).map(|_| async { get("/").status(to).await })).await;
    assert!(statuses.contains(&Ok(555)), "{statuses:?}");
    let events = mesh
        .reeve_ok(&["audit", "query", "--kind", "event", "-o", "json"])
        .await;
    for word in ["fault_began", "fault_ended", "VirtualService default/echo"] {
        assert!(events.stdout.contains(word), "{word}: {}", events.stdout);
    }
}

const HUNDRED: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec:
  host: echo
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: 100}
      http: {http1MaxPendingRequests: 100}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_hundred_connections_the_circuit_breaks_exactly_and_heals() {
    let mesh = Mesh::start(client_and_echo(json!({})).with("rule.yaml", HUNDRED)).await;
    let to = to_echo(&mesh);
    let call = move |_| async move { get("/delay/5500").send(to).await.expect("an answer") };
    let calls = move |count: usize| (0..count).map(call);
    // A request that waits for its own connection to be made waits, too.
    let first = tokio::spawn(join_all(calls(100)));
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let mut answers = join_all(calls(150)).await;
    answers.extend(first.await.expect("answers"));
    let broken: Vec<_> = answers.iter().filter(|a| a.status != 200).collect();
    assert_eq!(broken.len(), 50, "100 connections, 100 waiting");
    for answer in broken {
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("x-envoy-overloaded"), Some("true"));
    }
    assert_eq!(get("/").status(to).await, Ok(200));
    mesh.verify_audit().await;
}

const SEEDS: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec:
  host: echo
  trafficPolicy:
    outlierDetection:
      consecutive5xxErrors: 7
      interval: 5m
      baseEjectionTime: 15m
";

/// A server that answers everything with 500, but its health check.
const BROKEN: &str = r#"
import http.server, os
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 500)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), H).serve_forever()
"#;

fn two_callers() -> Folder {
    let mut broken = echo("echo-broken", "echo", "v2");
    broken["command"] = json!(["python3", "-c", BROKEN]);
    let permits =
        r#"permit (principal, action, resource in Service::"echo.default.svc.cluster.local");"#;
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with(
            "workloads.yaml",
            local_mesh(&[
                sidecar("client"),
                sidecar("other"),
                echo("echo-v1", "echo", "v1"),
                broken,
            ]),
        )
        .with("services.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("echo", permits))
        .with("rule.yaml", SEEDS)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_caller_ejects_all_callers_know_within_a_second() {
    let mesh = Mesh::start(two_callers()).await;
    let mut failed = 0;
    for _ in 0..100 {
        let status = get("/").status(to_echo(&mesh)).await.expect("an answer");
        failed += usize::from(status == 500);
    }
    assert_eq!(failed, 7, "out after the seventh in a row");
    let ejected = Instant::now();
    let other = mesh.outbound("other-0", "echo", 9080);
    let circuits = eventually("the circuit is known", LIMIT, async || {
        let status = mesh.status().await?;
        let circuits = status["circuits"].as_array().cloned().unwrap_or_default();
        match circuits.is_empty() {
            true => Err(status.to_string()),
            false => Ok(circuits),
        }
    })
    .await;
    assert_eq!(circuits[0]["cause"], "consecutive_5xx");
    assert_eq!(circuits[0]["held_by"], json!(["client-0"]));
    assert!(
        circuits[0]["left_ms"].as_u64() > Some(890_000),
        "{circuits:?}"
    );
    let said = mesh.reeve_ok(&["status"]).await.stdout;
    assert!(
        said.contains("consecutive_5xx") && said.contains("client-0"),
        "{said}"
    );

    tokio::time::sleep(Duration::from_secs(1).saturating_sub(ejected.elapsed())).await;
    for _ in 0..60 {
        assert_eq!(Call::get("echo:9080", "/").status(other).await, Ok(200));
    }
}

const STICKY: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec:
  host: echo
  trafficPolicy:
    loadBalancer: {consistentHash: {httpHeaderName: end-user}}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_stays_with_one_instance_and_hardly_any_moves_when_one_is_added() {
    let workloads = |replicas: u16| {
        let mut several = echo("echo-v1", "echo", "v1");
        several["replicas"] = json!(replicas);
        local_mesh(&[sidecar("client"), several])
    };
    let folder = client_and_echo(json!({}))
        .with("workloads.yaml", workloads(3))
        .with("rule.yaml", STICKY);
    let mesh = Mesh::start(folder).await;
    let homes = async || {
        let mut homes = BTreeMap::new();
        for round in 0..2 {
            for user in 0..60 {
                let call = get("/").header("end-user", &user.to_string());
                let answer = call.send(to_echo(&mesh)).await.expect("an answer");
                let instance = answer.json()["instance"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                let before = homes.insert(user, instance.clone());
                assert!(round == 0 || before == Some(instance), "user {user} moved");
            }
        }
        homes
    };
    let before = homes().await;
    assert_eq!(before.values().collect::<BTreeSet<_>>().len(), 3);
    mesh.apply("workloads.yaml", workloads(4)).await;
    let four = async || {
        let instances = mesh.instances()?;
        let of_echo = instances.iter().filter(|i| i.name.starts_with("echo-v1-"));
        match of_echo.filter(|i| i.healthy).count() {
            4 => Ok(()),
            other => Err(format!("{other} are healthy")),
        }
    };
    eventually("all four are healthy", LIMIT, four).await;
    eventually("it is in force", LIMIT, async || mesh.settled().await).await;
    let after = homes().await;
    let moved = before.iter().filter(|(user, home)| after[user] != **home);
    for (user, _) in moved.clone() {
        assert_eq!(after[user], "echo-v1-3", "who moves goes to the new one");
    }
    assert!((3..30).contains(&moved.count()));
}
