//! Who of several gets the next request, on the running mesh: near before far, what is ejected when too much of it would be,
//! and who is new; and how many requests are tried again at once.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use reeve_tests::{Mesh, echo, eventually, local_mesh, sidecar};
use serde_json::{Value, json};

use crate::fixture::{client_and_echo, get, settings, to_echo};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Says its version, and fails at `/break` if it is one that breaks.
const APP: &str = r#"
import http.server, os
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = os.environ["VERSION"].encode()
        self.send_response(500 if self.path == "/break" and "BREAKS" in os.environ else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), H).serve_forever()
"#;

fn app(version: &str, locality: &str, breaks: bool) -> Value {
    let mut app = echo(&format!("echo-{version}"), "echo", version);
    app["command"] = json!(["python3", "-c", APP]);
    app["labels"]["istio-locality"] = json!(locality);
    if breaks {
        app["env"]["BREAKS"] = json!("1");
    }
    app
}

fn client(locality: &str) -> Value {
    let mut client = sidecar("client");
    client["labels"]["istio-locality"] = json!(locality);
    client
}

async fn start(workloads: &[Value], policy: &str) -> Mesh {
    let rule = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: echo}}\nspec: {{host: echo, trafficPolicy: {policy}}}\n"
    );
    let folder = client_and_echo(json!({}))
        .with("mesh.yaml", settings(json!({})))
        .with("workloads.yaml", local_mesh(workloads))
        .with("rule.yaml", rule);
    Mesh::start(folder).await
}

/// How many of so many requests each version answers.
async fn shares(mesh: &Mesh, requests: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..requests {
        let answer = get("/").send(to_echo(mesh)).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        *shares.entry(answer.text()).or_default() += 1;
    }
    shares
}

async fn only(mesh: &Mesh, version: &str) {
    eventually("one of them answers all", LIMIT, async || {
        let shares = shares(mesh, 20).await;
        match shares.get(version) {
            Some(20) => Ok(()),
            _ => Err(format!("{shares:?}")),
        }
    })
    .await;
}

/// Has those that break answer with 500 as often in a row as it takes.
async fn break_them(mesh: &Mesh) {
    for _ in 0..12 {
        get("/break")
            .status(to_echo(mesh))
            .await
            .expect("an answer");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_near_one_serves_and_the_far_one_while_the_near_one_is_out() {
    let policy = "{loadBalancer: {localityLbSetting: {enabled: true}}, outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 5s, maxEjectionPercent: 100}}";
    let workloads = [
        client("eu.west.a"),
        app("near", "eu.west.b", true),
        app("far", "us.east.a", false),
    ];
    let mesh = start(&workloads, policy).await;
    let answered = shares(&mesh, 40).await;
    assert_eq!(answered, BTreeMap::from([("near".to_owned(), 40)]));
    break_them(&mesh).await;
    let answered = shares(&mesh, 1).await;
    assert_eq!(answered, BTreeMap::from([("far".to_owned(), 1)]));
    only(&mesh, "near").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_too_few_left_what_was_ejected_serves_again() {
    let policy = |least: u8| {
        format!(
            "{{loadBalancer: {{simple: ROUND_ROBIN}}, outlierDetection: {{consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 15m, maxEjectionPercent: 100, minHealthPercent: {least}}}}}"
        )
    };
    let workloads = [
        client("eu.west.a"),
        app("sound", "eu.west.a", false),
        app("weak", "eu.west.a", true),
    ];
    // One of two is 50 %, and enough.
    let mesh = start(&workloads, &policy(40)).await;
    break_them(&mesh).await;
    only(&mesh, "sound").await;
    drop(mesh);
    // 50 % are less than 60 %: better one that fails at times than all on one.
    let mesh = start(&workloads, &policy(60)).await;
    break_them(&mesh).await;
    let answered = shares(&mesh, 40).await;
    assert_eq!(answered.values().copied().collect::<Vec<_>>(), [20, 20]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_new_gets_little_at_first() {
    let policy = "{loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 12s}}}";
    let old = [client("eu.west.a"), app("old", "eu.west.a", false)];
    let mesh = start(&old, policy).await;
    only(&mesh, "old").await;
    // It was new itself.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let both = [
        client("eu.west.a"),
        app("old", "eu.west.a", false),
        app("new", "eu.west.a", false),
    ];
    mesh.apply("workloads.yaml", local_mesh(&both)).await;
    eventually("the new one serves", LIMIT, async || {
        let answered = shares(&mesh, 20).await;
        answered
            .get("new")
            .map(|_| ())
            .ok_or_else(|| format!("{answered:?}"))
    })
    .await;
    let answered = shares(&mesh, 40).await;
    // Without warming up it is 20.
    assert!((1..=16).contains(&answered["new"]), "{answered:?}");
}

/// Fails after a while; says at `/health` how often it was asked.
const SLOW_FAILURE: &str = r#"
import http.server, itertools, os, time
asked = []
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        health = self.path == "/health"
        if not health:
            asked.append(1)
            time.sleep(0.3)
        body = str(len(asked)).encode()
        self.send_response(200 if health else 503)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass
class S(http.server.ThreadingHTTPServer):
    request_queue_size = 128
S((os.environ["HOST"], int(os.environ["PORT"])), H).serve_forever()
"#;

const RETRIES: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec:
  hosts: [echo]
  http:
    - route: [{destination: {host: echo}}]
      retries: {attempts: 3, retryOn: 5xx, backoff: 1ms}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_tried_again_within_their_budget() {
    const REQUESTS: usize = 30;
    let mut failing = echo("echo-v1", "echo", "v1");
    failing["command"] = json!(["python3", "-c", SLOW_FAILURE]);
    let asked = async |budget: &str| {
        let mesh = start(&[sidecar("client"), failing.clone()], budget).await;
        mesh.apply("retries.yaml", RETRIES.to_owned()).await;
        eventually("it is in force", LIMIT, async || mesh.settled().await).await;
        let all = (0..REQUESTS).map(async |_| get("/").status(to_echo(&mesh)).await);
        for status in join_all(all).await {
            assert_eq!(status, Ok(503));
        }
        let counted = get("/health").send(to_echo(&mesh)).await.expect("a count");
        counted.text().parse::<usize>().expect("a number")
    };
    assert_eq!(
        asked("{retryBudget: {percent: 100, minRetryConcurrency: 1000}}").await,
        4 * REQUESTS
    );
    let some = asked("{retryBudget: {percent: 0, minRetryConcurrency: 1}}").await;
    assert!(
        (REQUESTS + 1..2 * REQUESTS).contains(&some),
        "{some} attempts"
    );
}
