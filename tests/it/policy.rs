//! Point 3: no permit, no access; policies bind and unbind live, open streams and connections included.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use reeve_tests::{
    Connection, Folder, Load, Mesh, Protocol, Target, echo, eventually, local_mesh, permit,
    service, sidecar, strict,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::fixture::{CLIENT_TO_ECHO, get, settings, to_echo};

/// A change of policy binds within this.
const LIMIT: Duration = Duration::from_secs(2);

const CLIENT_TO_OTHER: &str = r#"permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
  action == Action::"GET",
  resource in Service::"other.default.svc.cluster.local"
);"#;

const CLIENT_TO_BYTES: &str = r#"permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
  action == Action::"connect",
  resource in Service::"bytes.default.svc.cluster.local"
);"#;

/// `client`; `echo`, which nobody may reach; `other`, which `client` may; `bytes`, a TCP echo that nobody may reach.
fn folder() -> Folder {
    let bytes = json!({
        "name": "bytes", "serviceAccount": "bytes", "labels": {"app": "bytes"},
        "command": ["${bookinfo}", "tcp-echo"], "ports": [{"port": 9090, "name": "tcp"}],
        "health": {"tcp": {"port": 9090}},
    });
    let workloads = [
        sidecar("client"),
        echo("echo-v1", "echo", "v1"),
        echo("other", "other", "v1"),
        bytes,
    ];
    let services = service("echo", 9080, "http")
        + &service("other", 9080, "http")
        + &service("bytes", 9090, "tcp");
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&workloads))
        .with("services.yaml", services)
        .with("other.yaml", permit("other", CLIENT_TO_OTHER))
}

/// Waits until `echo` answers with this status; returns how long that took.
async fn until_status(address: SocketAddr, status: u16) -> Duration {
    let began = Instant::now();
    eventually(
        &format!("echo answers {status}"),
        LIMIT,
        async || match get("/").status(address).await {
            Ok(got) if got == status => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_without_a_permit_gets_403_and_a_policy_file_changes_that_live() {
    let mesh = Mesh::start(folder()).await;
    let (denied_at, other) = (to_echo(&mesh), mesh.outbound("client-0", "other", 9080));

    // Denied, and the operator can learn why; the caller only gets an opaque id.
    let answer = get("/secret")
        .header("x-request-id", "denied-1")
        .send(denied_at)
        .await
        .expect("an answer");
    assert_eq!(answer.status, 403);
    let id = answer.json()["decision_id"]
        .as_str()
        .expect("a decision id")
        .to_owned();
    assert_eq!(answer.header("x-reeve-decision-id"), Some(id.as_str()));
    assert!(
        !answer.text().contains("permit"),
        "policy detail leaked: {}",
        answer.text()
    );
    assert!(
        !mesh.log("echo-v1-0.app.log").contains("/secret"),
        "it reached the application"
    );
    let record = mesh.decision_on("denied-1", "echo-v1-0").await;
    assert_eq!(record["decision"]["effect"], "deny");
    assert_eq!(record["decision"]["reason"], "no_permit");
    let explained = mesh.reeve_ok(&["audit", "explain", &id]).await;
    for word in ["no_permit", "sa/client", "echo"] {
        assert!(
            explained.stdout.contains(word),
            "{word} is not in: {}",
            explained.stdout
        );
    }

    // The policy file arrives while traffic runs elsewhere: 200 within 2 s.
    let call = reeve_tests::Call::get("other:9080", "/");
    let target = Target {
        address: other,
        protocol: Protocol::Http1,
        call,
        bad_text: None,
    };
    let load = Load::start("elsewhere", vec![target; 3], Duration::from_millis(2));
    mesh.folder
        .write("echo.yaml", permit("echo", CLIENT_TO_ECHO));
    let took = until_status(denied_at, 200).await;
    let explained = mesh.reeve_ok(&["audit", "explain", &id]).await;
    assert!(
        explained.stdout.contains("no_permit"),
        "a past decision is explained by the policies of its time"
    );

    // The last permit goes: denied again, within 2 s.
    mesh.folder.remove("echo.yaml");
    let back = until_status(denied_at, 403).await;
    // A loaded machine takes its time for so many.
    eventually("traffic elsewhere", Duration::from_secs(60), async || {
        let (ok, failed) = load.so_far();
        (ok > 100 || failed > 0)
            .then_some(())
            .ok_or(format!("{ok} requests"))
    })
    .await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert!(report.ok > 100, "too little traffic: {}", report.ok);
    println!(
        "a permit bound after {took:?}, its removal after {back:?}; {} requests elsewhere, none failed",
        report.ok
    );
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_and_connections_end_when_their_permit_goes() {
    let folder = folder()
        .with("echo.yaml", permit("echo", CLIENT_TO_ECHO))
        .with("bytes.yaml", permit("bytes", CLIENT_TO_BYTES));
    let mesh = Mesh::start(folder).await;

    let mut connection = Connection::open(to_echo(&mesh), Protocol::Http2)
        .await
        .expect("a connection");
    let mut stream = connection
        .stream(&get("/stream/50"))
        .await
        .expect("a stream");
    assert_eq!(stream.status, 200);
    let first = stream
        .next()
        .await
        .expect("the stream goes on")
        .expect("a first line");
    assert!(first.starts_with(b"tick"), "{first:?}");

    let address = mesh.outbound("client-0", "bytes", 9090);
    let mut tcp = TcpStream::connect(address).await.expect("a TCP connection");
    let mut echoed = [0; 5];
    tcp.write_all(b"hello").await.expect("to write");
    tcp.read_exact(&mut echoed).await.expect("the echo");
    assert_eq!(&echoed, b"hello");

    mesh.folder.remove("echo.yaml");
    mesh.folder.remove("bytes.yaml");
    let began = Instant::now();
    // The stream must not end as if it were complete.
    let ended = tokio::time::timeout(LIMIT, async {
        loop {
            match stream.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended as if it were complete"),
                Err(error) => return error,
            }
        }
    });
    let error = ended.await.expect("the stream ends within 2 s");
    let stream_took = began.elapsed();
    let rest = LIMIT.saturating_sub(began.elapsed());
    let closed =
        tokio::time::timeout(rest.max(Duration::from_millis(1)), tcp.read(&mut echoed)).await;
    assert!(
        matches!(closed, Ok(Ok(0) | Err(_))),
        "the TCP connection is still open: {closed:?}"
    );
    println!(
        "stream ended after {stream_took:?} ({error:#}), connection after {:?}",
        began.elapsed()
    );

    mesh.record("the end of a connection is recorded", |record| {
        record["event"] == "connection_closed"
    })
    .await;
    // A new connection is refused at once; the reset may come before the connection is seen to be made.
    let refused = tokio::time::timeout(LIMIT, async {
        let mut again = TcpStream::connect(address).await?;
        again.write_all(b"hello").await?;
        again.read(&mut echoed).await
    });
    let refused = refused.await;
    assert!(
        matches!(refused, Ok(Ok(0) | Err(_))),
        "a connection without a permit carried data: {refused:?}"
    );
    mesh.verify_audit().await;
}

/// The policy stays as it is; the clock alone ends what it had let in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_connection_ends_when_the_hours_of_its_policy_are_over() {
    let folder = folder().with("bytes.yaml", permit("bytes", CLIENT_TO_BYTES));
    let mesh = Mesh::start(folder).await;
    let address = mesh.outbound("client-0", "bytes", 9090);
    let mut tcp = TcpStream::connect(address).await.expect("a TCP connection");
    let mut echoed = [0; 5];
    tcp.write_all(b"hello").await.expect("to write");
    tcp.read_exact(&mut echoed).await.expect("the echo");

    // Twelve hours of each day that end soon.
    let since_1970 = std::time::UNIX_EPOCH.elapsed().expect("a clock");
    let end = u64::try_from((since_1970 + Duration::from_secs(6)).as_millis()).expect("a time");
    let of_day = end % 86_400_000;
    let hours = format!(
        r#"when {{ context.time.offset(duration("-{of_day}ms")).toTime() >= duration("12h") }};"#
    );
    let until_then = CLIENT_TO_BYTES.replace(");", &format!(")\n{hours}"));
    mesh.apply("bytes.yaml", permit("bytes", &until_then)).await;
    let generation = mesh.generation().await;

    let closed = tokio::time::timeout(Duration::from_secs(60), tcp.read(&mut echoed)).await;
    assert!(
        matches!(closed, Ok(Ok(0) | Err(_))),
        "the TCP connection is still open: {closed:?}"
    );
    assert_eq!(mesh.generation().await, generation);
    let denial = mesh.record("the denial at that time", |record| {
        record["decision"]["effect"] == "deny" && record["direction"] == "inbound"
    });
    let denial = denial.await;
    let at = denial["request"]["context"]["time"].as_u64();
    assert!(at.is_some_and(|at| at >= end), "{denial}");
    mesh.record("the end of the connection", |record| {
        record["event"] == "connection_closed" && record["detail"]["cause"] == "not_permitted"
    })
    .await;
}
