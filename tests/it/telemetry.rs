//! What the mesh tells of its traffic, read by what others read it with: a stock Prometheus and its `promtool`, and a
//! collector of OTLP spans.

mod collector;
mod prometheus;

use std::time::Duration;

use reeve_tests::{Call, Connection, Mesh, Protocol, eventually, service, test_tool};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Command,
};

use self::{collector::Collector, prometheus::Prometheus};
use crate::fixture::{CLIENT_TO_ECHO, client_and_echo, get, to_echo};

const APP_PAGE: &str = "# HELP app_orders_total Orders.\n# TYPE app_orders_total counter\n\
    app_orders_total{kind=\"book\"} 42\n# HELP reeve_config_generation Not ours.\n\
    # TYPE reeve_config_generation gauge\nreeve_config_generation 999999\n";

const CLIENT_TO_STORE: &str = r#"permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
  action == Action::"connect",
  resource in Service::"store.default.svc.cluster.local"
);"#;

/// What it is asked, and what it must answer in the end.
const ANSWERS: &[(&str, f64)] = &[
    ("count(up == 1)", 4.0),
    ("count(reeve_build_info{component=\"proxy\"})", 3.0),
    ("count(reeve_build_info{component=\"mesh\"})", 1.0),
    ("count(process_resident_memory_bytes > 1e6)", 4.0),
    ("count(process_open_fds > 5)", 4.0),
    ("count(time() - process_start_time_seconds < 600)", 4.0),
    ("count(process_cpu_seconds_total)", 4.0),
    (
        "sum(istio_requests_total{reporter=\"destination\",destination_service_name=\"echo\",\
         source_principal=\"mesh.local/ns/default/sa/client\",response_code=\"200\",request_protocol=\"http\"})",
        7.0,
    ),
    (
        "sum by () (istio_requests_total{reporter=\"source\",request_protocol=\"grpc\",grpc_response_status=\"0\"})",
        1.0,
    ),
    (
        "sum(istio_request_messages_total{reporter=\"destination\"})",
        2.0,
    ),
    (
        "sum(istio_response_messages_total{reporter=\"source\"})",
        2.0,
    ),
    (
        "histogram_quantile(1, sum by (le) (istio_request_duration_milliseconds_bucket{reporter=\"destination\"})) > bool 0",
        1.0,
    ),
    (
        "sum(istio_tcp_connections_opened_total{reporter=\"destination\"})",
        1.0,
    ),
    (
        "sum(istio_tcp_received_bytes_total{reporter=\"destination\",destination_app=\"store\"})",
        5.0,
    ),
    ("app_orders_total{kind=\"book\"}", 42.0),
    ("count(reeve_config_generation == 999999) or vector(0)", 0.0),
];

/// `client`, `echo-v1` with metrics of its own at port 9102, and `store`, which speaks TCP.
async fn start() -> Mesh {
    let mut echo = reeve_tests::echo("echo-v1", "echo", "v1");
    echo["metrics"] = json!({"port": 9102});
    let store = json!({
        "name": "store", "serviceAccount": "store", "labels": {"app": "store"},
        "command": ["${bookinfo}", "tcp-echo"], "ports": [{"port": 9090, "name": "tcp"}],
    });
    let workloads = [reeve_tests::sidecar("client"), echo, store];
    let folder = client_and_echo(json!({}))
        .with("workloads.yaml", reeve_tests::local_mesh(&workloads))
        .with("store.yaml", service("store", 9090, "tcp"))
        .with(
            "access.yaml",
            reeve_tests::permit("echo", CLIENT_TO_ECHO)
                + &reeve_tests::permit("store", CLIENT_TO_STORE),
        );
    Mesh::start(folder).await
}

/// The application's own page, at the address where the application would serve it.
async fn serve_app_page(mesh: &Mesh) {
    let address = (mesh.instance("echo-v1-0").app_address, 9102);
    let listener = TcpListener::bind(address).await.expect("the app's address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let count = stream.read(&mut head).await.unwrap_or_default();
            let asked = head[..count].starts_with(b"GET /metrics HTTP/1.1\r\n");
            let status = if asked { "200 OK" } else { "404 Not Found" };
            let length = APP_PAGE.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{APP_PAGE}");
            drop(stream.write_all(answer.as_bytes()).await);
        }
    });
}

async fn page(mesh: &Mesh, instance: &str) -> String {
    let answer = Call::get("metrics", "/stats/prometheus")
        .send(mesh.inbound(instance, 15020))
        .await
        .expect("a page");
    assert_eq!(answer.status, 200);
    answer.text()
}

async fn one_grpc_call(mesh: &Mesh) {
    let mut connection = Connection::open(to_echo(mesh), Protocol::Http2)
        .await
        .expect("a connection");
    // Two messages, which the server sends back.
    let call = Call::post("echo:9080", "/grpc/t.S/M", &b"\0\0\0\0\x02hi\0\0\0\0\0"[..])
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let answer = connection.send(&call).await.expect("an answer");
    assert_eq!(answer.body.len(), 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_prometheus_scrapes_the_mesh_and_answers_of_it() {
    let promtool = test_tool("promtool");
    let mesh = start().await;
    let before = page(&mesh, "echo-v1-0").await;
    assert!(!before.contains("app_orders_total"), "nobody answers yet");
    assert!(before.contains("reeve_app_metrics_missed_total"));
    serve_app_page(&mesh).await;

    for _ in 0..7 {
        assert_eq!(get("/").status(to_echo(&mesh)).await, Ok(200));
    }
    one_grpc_call(&mesh).await;
    let mut stream = TcpStream::connect(mesh.outbound("client-0", "store", 9090))
        .await
        .expect("a connection");
    stream.write_all(b"hello").await.expect("bytes go");
    stream.read_exact(&mut [0; 5]).await.expect("bytes come");

    for instance in ["client-0", "echo-v1-0", "store-0"] {
        lint(&promtool, &page(&mesh, instance).await).await;
    }
    let own = Call::get("mesh", "/metrics").send(mesh.api()).await;
    lint(&promtool, &own.expect("a page").text()).await;

    let prometheus = Prometheus::start(&mesh).await;
    for (query, value) in ANSWERS {
        prometheus.eventually(query, *value).await;
    }
    // The connection is open all the while, and its counters grow.
    stream.write_all(b" again").await.expect("bytes go");
    let query = "sum(istio_tcp_sent_bytes_total{reporter=\"source\"})";
    prometheus.eventually(query, 11.0).await;
    let growth = "sum(increase(istio_tcp_sent_bytes_total{reporter=\"source\"}[1m])) > bool 0";
    prometheus.eventually(growth, 1.0).await;
    let closed = "sum(istio_tcp_connections_closed_total) or vector(0)";
    prometheus.eventually(closed, 0.0).await;
}

/// `promtool check metrics`: the format, and the naming that Prometheus' own guide asks for.
async fn lint(promtool: &std::path::Path, page: &str) {
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("promtool");
    let mut stdin = child.stdin.take().expect("its input");
    stdin.write_all(page.as_bytes()).await.expect("the page");
    drop(stdin);
    let output = child.wait_with_output().await.expect("promtool's end");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let faults: Vec<&str> = told
        .lines()
        // Istio's names, which dashboards know, have milliseconds.
        .filter(|line| !line.starts_with("istio_request_duration_milliseconds "))
        .collect();
    assert!(faults.is_empty(), "{faults:#?} in\n{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sidecars_export_their_spans_of_one_trace() {
    let collector = Collector::start().await;
    let endpoint = format!("http://{}", collector.address);
    let spec = json!({"tracing": {"otlpEndpoint": endpoint, "samplingPercent": 100}});
    let mesh = Mesh::start(client_and_echo(spec)).await;
    assert_eq!(get("/traced").status(to_echo(&mesh)).await, Ok(200));
    let spans = eventually("both spans arrive", Duration::from_secs(30), async || {
        let spans = collector.spans("/traced");
        if spans.len() == 2 {
            Ok(spans)
        } else {
            Err(format!("{spans:?}"))
        }
    })
    .await;
    let of = |kind| {
        spans
            .iter()
            .find(|span| span.kind == kind)
            .expect("both kinds")
    };
    // SPAN_KIND_SERVER and SPAN_KIND_CLIENT (opentelemetry/proto/trace/v1/trace.proto).
    let (server, client) = (of(2), of(3));
    assert_eq!(server.trace_id, client.trace_id);
    assert_eq!(server.parent_span_id, client.span_id);
    assert!(client.parent_span_id.is_empty() || client.parent_span_id.iter().all(|b| *b == 0));
    assert!(client.start <= server.start && server.start < server.end);
    for (name, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/traced"),
        ("reeve.decision.effect", "allow"),
        ("reeve.decision.policies", "default/echo#client-to-echo"),
        ("reeve.peer.spiffe_id", crate::fixture::CLIENT),
    ] {
        assert_eq!(
            server.attributes.get(name),
            Some(&Value::from(value)),
            "{server:?}"
        );
    }
    assert_eq!(server.attributes["http.response.status_code"], 200);
    assert_eq!(server.service, "echo.default");
    assert_eq!(client.service, "client.default");
}
