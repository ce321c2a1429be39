//! Circuit breaking at 100 connections, and ejection of an endpoint that fails, by small times on real sockets.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reeve_tests::{Call, Connection, Mesh, Protocol, eventually, permit};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{routes, to};
use crate::fixture::istio;

const LIMIT: Duration = Duration::from_secs(20);
const FRONT: &str = "productpage-v1-0";
const ACCESS: &str = r#"permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/bookinfo-productpage",
  action == Action::"GET",
  resource in Service::"details.default.svc.cluster.local"
);"#;

/// `details` as the test plays it: it answers when it is let.
struct Slow {
    in_hand: Arc<AtomicUsize>,
    open: watch::Sender<bool>,
    _serving: JoinSet<()>,
}

impl Slow {
    async fn start(at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.expect("the application's port");
        let (open, gate) = watch::channel(true);
        let in_hand = Arc::<AtomicUsize>::default();
        let counted = in_hand.clone();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, gate.clone(), counted.clone()));
            }
        });
        Self {
            in_hand,
            open,
            _serving: serving,
        }
    }

    fn in_hand(&self) -> usize {
        self.in_hand.load(Ordering::Relaxed)
    }
}

async fn serve(mut stream: TcpStream, mut gate: watch::Receiver<bool>, in_hand: Arc<AtomicUsize>) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        head.clear();
        in_hand.fetch_add(1, Ordering::Relaxed);
        let let_go = gate.wait_for(|open| *open).await.is_ok();
        in_hand.fetch_sub(1, Ordering::Relaxed);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        if !let_go || stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// Bookinfo with two more versions of details: one that the test plays, and one that fails.
fn folder() -> reeve_tests::Folder {
    let mut faulty = reeve_tests::echo("details-v3", "details", "v3");
    faulty["env"]["FAULTY"] = json!("1");
    let slow = json!({
        "name": "details-v2", "serviceAccount": "bookinfo-details",
        "labels": {"app": "details", "version": "v2"}, "ports": [{"port": 9080, "name": "http"}],
    });
    let folder = super::folder();
    let workloads = folder.read("workloads.yaml");
    folder
        .with(
            "workloads.yaml",
            format!("{workloads}\n    - {slow}\n    - {faulty}\n"),
        )
        .with("details.yaml", permit("details-for-all", ACCESS))
}

fn rule(policy: &Value) -> String {
    let subset = |version: &str| json!({"name": version, "labels": {"version": version}});
    let subsets = ["v1", "v2", "v3"].map(subset);
    let spec = json!({"host": "details", "trafficPolicy": policy, "subsets": subsets});
    istio("DestinationRule", "details", &spec)
}

fn details() -> Call {
    Call::get("details:9080", "/details/0")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_circuit_breaks_at_a_hundred_connections_and_what_fails_is_out_for_a_while() {
    let mut mesh = Mesh::start(folder()).await;
    let app = SocketAddr::from((mesh.instance("details-v2-0").app_address, 9080));
    let slow = Slow::start(app).await;
    broken_at_a_hundred(&mesh, &slow).await;
    out_and_in_again(&mesh).await;
    mesh.verify_audit().await;
    mesh.stop().await;
}

/// 100 connections, 20 requests that wait for one; the rest is told at once, while the application still thinks.
async fn broken_at_a_hundred(mesh: &Mesh, slow: &Slow) {
    let http = |pending: u32| {
        rule(&json!({"connectionPool": {
            "tcp": {"maxConnections": 100}, "http": {"http1MaxPendingRequests": pending},
        }}))
    };
    mesh.folder.write("DestinationRule-details.yaml", http(200));
    let only = json!([{"route": to("details", "v2")}]);
    mesh.apply("VirtualService-details.yaml", routes("details", &only))
        .await;
    let address = mesh.outbound(FRONT, "details", 9080);
    slow.open.send(false).expect("the application");
    let mut calls = JoinSet::new();
    let send = |calls: &mut JoinSet<_>, count: usize| {
        for _ in 0..count {
            calls.spawn(async move { details().send(address).await.expect("an answer") });
        }
    };
    // As many as there are connections; a request whose connection is being made waits for it, so they may wait.
    send(&mut calls, 100);
    in_hand(slow, 100).await;
    send(&mut calls, 200);
    let mut told_off = 0_u32;
    let broken = async {
        send(&mut calls, 60);
        while told_off < 60 {
            let answer = calls.join_next().await.expect("a call").expect("its task");
            assert_eq!(answer.status, 503, "{}", answer.text());
            assert_eq!(answer.header("x-envoy-overloaded"), Some("true"));
            told_off += 1;
        }
    };
    tokio::time::timeout(LIMIT, broken)
        .await
        .expect("answers at once");
    assert_eq!(
        slow.in_hand(),
        100,
        "the application has not answered anybody"
    );
    let told_off = told(mesh, address, told_off).await;

    slow.open.send(true).expect("the application");
    let mut passed = 0;
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.expect("its task").status, 200);
        passed += 1;
    }
    println!("circuit breaking: {passed} passed, {told_off} told off");
    assert_eq!(passed, 300);
}

async fn in_hand(slow: &Slow, count: usize) {
    eventually("the application has them in hand", LIMIT, async || {
        let now = slow.in_hand();
        (now == count).then_some(()).ok_or_else(|| now.to_string())
    })
    .await;
}

/// Metric, access log and `reeve status` say so, of these and of those that it takes meanwhile.
async fn told(mesh: &Mesh, address: SocketAddr, mut told_off: u32) -> u32 {
    let line = eventually("the status has the circuit", LIMIT, async || {
        let status = mesh.reeve_ok(&["status"]).await.stdout;
        let line = status
            .lines()
            .find(|line| line.contains("cluster_max_pending_requests"));
        let Some(line) = line else {
            assert_eq!(details().status(address).await, Ok(503));
            told_off += 1;
            return Err(status);
        };
        Ok(line.to_owned())
    })
    .await;
    assert!(line.contains("details") && line.contains(FRONT), "{line}");
    let labels = [
        "reporter=\"source\"",
        "response_flags=\"UO\"",
        "response_code=\"503\"",
    ];
    let counted = mesh.metric(FRONT, "istio_requests_total", &labels).await;
    assert_eq!(counted, f64::from(told_off));
    eventually("the access log has them", LIMIT, async || {
        let log = mesh.log(&format!("{FRONT}.sidecar.log"));
        let flagged = log
            .lines()
            .filter(|line| line.contains(r#""flags":"UO""#))
            .count();
        (flagged == told_off as usize)
            .then_some(())
            .ok_or_else(|| flagged.to_string())
    })
    .await;
    told_off
}

/// Seven in a row, looked at every 300 ms, out for 2 s and the next time for 4 s.
async fn out_and_in_again(mesh: &Mesh) {
    mesh.folder.write(
        "DestinationRule-details.yaml",
        rule(&json!({"outlierDetection": {
            "consecutive5xxErrors": 7, "interval": "300ms", "baseEjectionTime": "2s",
            "maxEjectionPercent": 50,
        }})),
    );
    let all = json!([{"route": [{"destination": {"host": "details"}}]}]);
    mesh.apply("VirtualService-details.yaml", routes("details", &all))
        .await;
    let address = mesh.outbound(FRONT, "details", 9080);
    let mut connection = Connection::open(address, Protocol::Http1)
        .await
        .expect("open");
    let mut last_of_seven = Vec::new();
    let mut firsts = Vec::new();
    for failure in 0..15 {
        let limit = Instant::now() + LIMIT;
        loop {
            let answer = connection.send(&details()).await.expect("an answer");
            if answer.status == 500 {
                break;
            }
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(
                Instant::now() < limit,
                "failure {failure} never came: is it still out?"
            );
        }
        match failure % 7 {
            0 => firsts.push(Instant::now()),
            6 => last_of_seven.push(Instant::now()),
            _ => {}
        }
    }
    let out: Vec<_> = (0..2).map(|n| firsts[n + 1] - last_of_seven[n]).collect();
    println!("ejected for {out:?}");
    // Nobody failed in between, or these would be short.
    assert!(out[0] >= Duration::from_millis(1900), "{out:?}");
    assert!(out[1] >= Duration::from_millis(3900), "{out:?}");
    let cause = ["consecutive_5xx"];
    let ejections = mesh
        .metric(FRONT, "reeve_endpoint_ejections_total", &cause)
        .await;
    assert_eq!(ejections, 2.0);
}
