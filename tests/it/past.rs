//! Time travel on the running mesh: recorded decisions come out again as they did, a service's access of an earlier time is
//! told by the policies of that time, access is reviewed, and records go to other tools.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use reeve_tests::{Folder, Mesh, Scratch, echo, local_mesh, permit, service, sidecar, strict};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::fixture::{get, settings, to_echo};

const CLIENT: &str = "spiffe://mesh.local/ns/default/sa/client";
const READS: &str = r#"permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
  action in Action::"read",
  resource in Service::"echo.default.svc.cluster.local"
);"#;
const IDLE: &str = r#"permit (principal, action in Action::"write", resource in Service::"idle.default.svc.cluster.local");"#;

fn folder() -> Folder {
    let workloads = [sidecar("client"), echo("echo-v1", "echo", "v1")];
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&workloads))
        .with(
            "services.yaml",
            service("echo", 9080, "http") + &service("idle", 9080, "http"),
        )
        .with("idle.yaml", permit("idle", IDLE))
        .with("echo.yaml", permit("echo", READS))
}

async fn asked(mesh: &Mesh, path: &str, id: &str) -> u16 {
    let call = get(path).header("x-request-id", id);
    let status = call.status(to_echo(mesh)).await.expect("an answer");
    mesh.decision_on(id, "echo-v1-0").await;
    status
}

/// The callers that `who-could` names at that time.
async fn could(mesh: &Mesh, at: &str) -> Vec<String> {
    let outcome = mesh
        .reeve(&["audit", "who-could", "echo", "--at", at, "-o", "json"])
        .await;
    let found = outcome.json();
    let rows = found["could"].as_array().expect("rows").iter();
    rows.map(|row| row["caller"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_past_is_told_by_the_policies_of_its_time() {
    let mesh = Mesh::start(folder()).await;
    assert_eq!(asked(&mesh, "/a", "before").await, 200);
    let before = mesh.decision_on("before", "echo-v1-0").await;
    // Times are asked for by the second: the one after the first request is over when the policy goes.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    mesh.withdraw("echo.yaml").await;
    assert_eq!(asked(&mesh, "/a", "after").await, 403);
    let after = mesh.decision_on("after", "echo-v1-0").await;

    let replayed = mesh.reeve(&["audit", "replay", "-o", "json"]).await;
    assert_eq!(replayed.code, Some(0), "{}", replayed.text());
    let found = replayed.json();
    assert_eq!(found["different"], 0, "{found}");
    assert_eq!(found["without_policies"], 0, "{found}");
    assert_eq!(found["same"], found["decisions"], "{found}");
    assert!(found["same"].as_u64() >= Some(2), "{found}");

    let at = |record: &Value| (record["time"].as_u64().expect("a time") / 1000 + 1).to_string();
    assert_eq!(could(&mesh, &at(&before)).await, [CLIENT]);
    assert_eq!(could(&mesh, &at(&after)).await, [""; 0]);

    let path = mesh.folder.path().display().to_string();
    let report = mesh
        .reeve(&["audit", "report", "-f", &path, "-o", "json"])
        .await
        .json();
    assert_eq!(
        report["unused_permits"],
        json!(["default/idle"]),
        "{report}"
    );
    assert_eq!(
        report["uncalled_services"],
        json!(["idle.default.svc.cluster.local"]),
        "{report}"
    );
    assert_eq!(report["edges"][0]["caller"], CLIENT, "{report}");
    assert_eq!(report["denials"][0]["reason"], "no_permit", "{report}");
    for (form, begins) in [
        ("html", "<!doctype html>"),
        ("csv", "table,caller,"),
        ("human", "the beginning"),
    ] {
        let page = mesh.reeve(&["audit", "report", "-o", form]).await;
        assert!(page.stdout.starts_with(begins), "{}", page.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_exported_whole() {
    let mesh = Mesh::start(folder()).await;
    assert_eq!(asked(&mesh, "/exported", "exported").await, 200);
    let lines = mesh.reeve(&["audit", "export"]).await;
    let written = lines
        .stdout
        .lines()
        .find(|line| line.contains("\"exported\""));
    let written = written.expect("the decision").to_owned();

    let collector = Collector::start().await;
    let endpoint = format!("http://{}", collector.address);
    let sent = mesh
        .reeve(&["audit", "export", "--to", "otlp", "--endpoint", &endpoint])
        .await;
    assert_eq!(sent.code, Some(0), "{}", sent.text());
    let logs = collector.logs();
    assert!(
        logs.len() >= lines.stdout.lines().count(),
        "{} logs",
        logs.len()
    );
    let log = logs
        .iter()
        .find(|log| log["body"]["stringValue"] == written.as_str());
    let log = log.expect("the same decision");
    assert_eq!(log["severityText"], "INFO");
    let attributes = log["attributes"].as_array().expect("attributes");
    assert!(
        attributes.contains(&json!({"key": "reeve.principal", "value": {"stringValue": CLIENT}})),
        "{log}"
    );

    let scratch = Scratch::new("export");
    let file = scratch.path().join("all.parquet").display().to_string();
    let made = mesh
        .reeve(&["audit", "export", "--to", "parquet", "--out", &file])
        .await;
    assert_eq!(made.code, Some(0), "{}", made.text());
    let bytes = std::fs::read(&file).expect("a file");
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    let again = mesh
        .reeve(&["audit", "export", "--to", "parquet", "--out", &file])
        .await;
    assert_eq!(
        again.code,
        Some(2),
        "nothing is overwritten: {}",
        again.text()
    );

    collector.refuse();
    let refused = mesh
        .reeve(&["audit", "export", "--to", "otlp", "--endpoint", &endpoint])
        .await;
    assert_eq!(refused.code, Some(2), "{}", refused.text());
    assert!(
        refused.text().contains("refused 3 of"),
        "{}",
        refused.text()
    );
}

/// A receiver of OTLP/HTTP in JSON (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>), as much of it as is looked at.
struct Collector {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    logs: Vec<Value>,
    refuses: bool,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = shared.clone();
                let serve = service_fn(move |request| take(seen.clone(), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), serve));
            }
        });
        Self { address, seen }
    }

    fn logs(&self) -> Vec<Value> {
        self.seen.lock().expect("logs").logs.clone()
    }

    /// From now on it takes a part only.
    fn refuse(&self) {
        self.seen.lock().expect("logs").refuses = true;
    }
}

async fn take(
    seen: Arc<Mutex<Seen>>,
    request: Request<Incoming>,
) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let json = request
        .headers()
        .get("content-type")
        .is_some_and(|t| t == "application/json");
    let body = tokio::time::timeout(Duration::from_secs(30), request.into_body().collect()).await;
    let body = body.expect("a body in time").expect("a body").to_bytes();
    let export: Value = serde_json::from_slice(&body).unwrap_or_default();
    if path != "/v1/logs" || !json || !export["resourceLogs"].is_array() {
        let mut wrong = Response::new(Full::default());
        *wrong.status_mut() = http::StatusCode::BAD_REQUEST;
        return Ok(wrong);
    }
    let mut seen = seen.lock().expect("logs");
    for scope in export["resourceLogs"][0]["scopeLogs"]
        .as_array()
        .into_iter()
        .flatten()
    {
        seen.logs.extend(
            scope["logRecords"]
                .as_array()
                .into_iter()
                .flatten()
                .cloned(),
        );
    }
    let answer = match seen.refuses {
        false => json!({}),
        true => json!({"partialSuccess": {"rejectedLogRecords": "3", "errorMessage": "no room"}}),
    };
    Ok(Response::new(Full::new(answer.to_string().into())))
}
