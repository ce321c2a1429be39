//! What one caller finds out of a service, the others heed: a breaker that tripped, an endpoint that fails too often.

use std::time::Duration;

use futures_util::future::join_all;
use reeve_tests::{
    Call, Folder, Mesh, echo, eventually, local_mesh, permit, service, sidecar, strict,
};
use serde_json::{Value, json};

use crate::fixture::{get, settings, to_echo};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Every second answer of it is 500.
const FICKLE: &str = r#"
import http.server, itertools, os
turn = itertools.count()
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200 if self.path == "/health" or next(turn) % 2 else 500)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), H).serve_forever()
"#;

fn two_callers(mut workloads: Vec<Value>, rule: &str) -> Folder {
    workloads.extend([
        sidecar("client"),
        sidecar("other"),
        echo("echo-v1", "echo", "v1"),
    ]);
    let permits =
        r#"permit (principal, action, resource in Service::"echo.default.svc.cluster.local");"#;
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&workloads))
        .with("services.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("echo", permits))
        .with("rule.yaml", rule)
}

async fn circuit(mesh: &Mesh, cause: &str) -> Value {
    eventually("the circuit is known", LIMIT, async || {
        let status = mesh.status().await?;
        let circuits = status["circuits"].as_array().cloned().unwrap_or_default();
        let mut known = circuits.into_iter();
        known
            .find(|circuit| circuit["cause"] == cause)
            .ok_or_else(|| status.to_string())
    })
    .await
}

const ONE_AT_A_TIME: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec:
  host: echo
  trafficPolicy:
    connectionPool: {http: {http2MaxRequests: 1}}
";

/// Statuses of so many requests, one after the other; those not sent are told by their header.
async fn ask(to: std::net::SocketAddr, times: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..times {
        let answer = Call::get("echo:9080", "/")
            .send(to)
            .await
            .expect("an answer");
        let overloaded = answer.header("x-envoy-overloaded") == Some("true");
        assert_eq!(answer.status == 503, overloaded, "{}", answer.text());
        statuses.push(answer.status.as_u16());
    }
    statuses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breaker_that_trips_for_one_caller_has_others_fail_fast_for_a_while() {
    let mesh = Mesh::start(two_callers(vec![], ONE_AT_A_TIME)).await;
    let (to, other) = (to_echo(&mesh), mesh.outbound("other-0", "echo", 9080));
    assert_eq!(ask(other, 20).await, [200; 20]);
    let overrunning = tokio::spawn(async move {
        loop {
            let calls = (0..3).map(|_| async move { get("/delay/200").status(to).await });
            join_all(calls).await;
        }
    });
    let circuit = circuit(&mesh, "cluster_max_requests").await;
    assert_eq!(circuit["held_by"], json!(["client-0"]));
    let mut all = Vec::new();
    eventually("others fail fast", LIMIT, async || {
        all.extend(ask(other, 10).await);
        match all.contains(&503) {
            true => Ok(()),
            false => Err(format!("{} passed", all.len())),
        }
    })
    .await;
    // A quarter fails: one caller cannot talk a service away.
    let all = ask(other, 80).await;
    assert!(all.contains(&200), "{all:?}");
    overrunning.abort();
    eventually("it heals", LIMIT, async || {
        let all = ask(other, 40).await;
        match all.iter().all(|status| *status == 200) {
            true => Ok(()),
            false => Err(format!("{all:?}")),
        }
    })
    .await;
}

const BY_PERCENTAGE: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: echo
  annotations:
    reeve.dev/outlier-failure-percentage: threshold=30, minimumHosts=2, requestVolume=5
spec:
  host: echo
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {consecutive5xxErrors: 0, interval: 2s, baseEjectionTime: 15m, maxEjectionPercent: 50}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_fails_every_second_time_is_out_for_all_callers() {
    let mut fickle = echo("echo-fickle", "echo", "v2");
    fickle["command"] = json!(["python3", "-c", FICKLE]);
    let mesh = Mesh::start(two_callers(vec![fickle], BY_PERCENTAGE)).await;
    let to = to_echo(&mesh);
    eventually("it is ejected", LIMIT, async || {
        let mut failed = 0;
        for _ in 0..100 {
            let status = get("/").status(to).await?;
            failed += usize::from(status == 500);
        }
        match failed {
            0 => Ok(()),
            failed => Err(format!("{failed} of 100 failed")),
        }
    })
    .await;
    let circuit = circuit(&mesh, "failure_percentage").await;
    assert_eq!(circuit["held_by"], json!(["client-0"]));
    let other = mesh.outbound("other-0", "echo", 9080);
    eventually("the other caller knows", LIMIT, async || {
        for _ in 0..20 {
            let status = Call::get("echo:9080", "/").status(other).await?;
            if status != 200 {
                return Err(format!("answered {status}"));
            }
        }
        Ok(())
    })
    .await;
}
