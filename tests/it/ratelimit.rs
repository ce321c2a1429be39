//! A stock Envoy is held to the limits of our server, which counts in memory or in a real Redis.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use reeve_tests::{
    Call, Folder, Mesh, binary, echo, eventually, local_mesh, permit, service, sidecar, strict,
    test_tool,
};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::fixture::settings;

const LIMITS: &str = "\
domain: mesh
descriptors:
  - key: user
    rate_limit: {unit: day, requests_per_unit: 3}
  - key: user
    value: root
    rate_limit: {unlimited: true}
";

/// A port that nobody has now.
fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

fn start(program: &Path, args: &[&str]) -> Child {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// Envoy in front, our server behind it; they end with the fixture.
struct Fixture {
    folder: Folder,
    envoy: SocketAddr,
    _envoy: Child,
    _limits: Child,
}

impl Fixture {
    async fn start(redis: Option<&str>) -> Self {
        let folder = Folder::new();
        let (front, behind, app) = (port(), port(), port());
        let limits = folder.path().join("limits.yaml");
        fs::write(&limits, LIMITS).expect("the limits");
        let listen = format!("127.0.0.1:{behind}");
        let limits = limits.display().to_string();
        let mut args = vec!["ratelimit", "serve", "-f", &limits, "--listen", &listen];
        args.extend(redis.iter().flat_map(|url| ["--redis", url]));
        let server = start(&binary("reeve"), &args);
        let config = include_str!("peers/ratelimit.yaml")
            .replace("@PORT@", &front.to_string())
            .replace("@APP@", &app.to_string())
            .replace("@LIMITS@", &behind.to_string());
        let file = folder.path().join("envoy.yaml");
        fs::write(&file, config).expect("Envoy's configuration");
        let file = file.display().to_string();
        let args = [
            "-c",
            &file,
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "-l",
            "error",
        ];
        let envoy = start(&test_tool("envoy"), &args);
        let it = Self {
            folder,
            envoy: SocketAddr::from(([127, 0, 0, 1], front)),
            _envoy: envoy,
            _limits: server,
        };
        let limit = Duration::from_secs(30);
        eventually("Envoy reaches our server", limit, async || {
            match it.ask("root").await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        it
    }

    /// The status for a user, and what Envoy says is left.
    async fn ask(&self, user: &str) -> Result<(u16, Option<String>), String> {
        let call = Call::get("any", "/").header("user", user);
        let answer = call.send(self.envoy).await.map_err(|e| format!("{e:?}"))?;
        let left = answer.headers.get("x-ratelimit-remaining");
        let left = left.and_then(|v| v.to_str().ok()).map(str::to_owned);
        Ok((answer.status.as_u16(), left))
    }

    async fn three_pass_and_the_fourth_does_not(&self, user: &str) {
        for left in ["2", "1", "0"] {
            assert_eq!(self.ask(user).await, Ok((200, Some(left.to_owned()))));
        }
        assert_eq!(self.ask(user).await, Ok((429, Some("0".to_owned()))));
        assert_eq!(self.ask("root").await.expect("an answer").0, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_envoy_is_held_to_limits_that_change_while_it_runs() {
    let it = Fixture::start(None).await;
    it.three_pass_and_the_fourth_does_not("eve").await;

    // A faulty file changes nothing; a good one counts from the next request on.
    let file = it.folder.path().join("limits.yaml");
    fs::write(
        &file,
        "domain: mesh\ndescriptors: [{key: user, rate_limit: {unit: eon}}]\n",
    )
    .expect("written");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(it.ask("eve").await.expect("an answer").0, 429);
    fs::write(&file, LIMITS.replace("per_unit: 3", "per_unit: 100")).expect("written");
    eventually(
        "the new limit holds",
        Duration::from_secs(10),
        async || match it.ask("eve").await {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_count_together_in_a_real_redis_and_deny_without_it() {
    let folder = Folder::new();
    let port = port();
    let dir = folder.path().display().to_string();
    let number = port.to_string();
    let args = [
        "--port",
        &number,
        "--bind",
        "127.0.0.1",
        "--dir",
        &dir,
        "--save",
        "",
        "--appendonly",
        "no",
    ];
    let mut redis = start(&test_tool("redis-server"), &args);
    let url = format!("redis://127.0.0.1:{port}");
    eventually("Redis listens", Duration::from_secs(10), async || {
        let connected = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
        connected.map(drop).map_err(|e| e.to_string())
    })
    .await;
    let (one, other) = (
        Fixture::start(Some(&url)).await,
        Fixture::start(Some(&url)).await,
    );
    assert_eq!(one.ask("ada").await, Ok((200, Some("2".to_owned()))));
    assert_eq!(other.ask("ada").await, Ok((200, Some("1".to_owned()))));
    one.three_pass_and_the_fourth_does_not("eve").await;
    assert_eq!(
        other.ask("eve").await.expect("an answer").0,
        429,
        "counted by the other"
    );

    redis.kill().await.expect("Redis ends");
    let without = one.ask("bob").await.expect("an answer");
    assert_eq!(
        without.0, 500,
        "Envoy denies (failure_mode_deny) what nobody counted"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_in_limits_are_told_with_their_place() {
    let folder = Folder::new();
    let file = folder.path().join("limits.yaml");
    fs::write(
        &file,
        "domain: mesh\ndescriptors:\n  - key: a\n    rate_limt: {}\n",
    )
    .expect("written");
    let name = file.display().to_string();
    let outcome = reeve_tests::run(
        &binary("reeve"),
        &["ratelimit", "check", "-f", &name],
        &[],
        Duration::from_secs(10),
    )
    .await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(
        outcome.stderr.contains(":4"),
        "the line: {}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains("rate_limt"), "{}", outcome.stderr);
}

/// Each calling workload has four requests a day, at whichever instance.
const SHARED: &str = "\
domain: mesh
descriptors:
  - key: service
    descriptors:
      - key: caller
        rate_limit: {unit: day, requests_per_unit: 4}
";

fn two_instances(server: &str, more: Option<Value>) -> Folder {
    let limit = format!(
        "\
apiVersion: reeve.dev/v1alpha1
kind: RateLimit
metadata: {{name: echo}}
spec:
  service: echo
  global:
    server: {server}
    domain: mesh
    timeout: 5s
    failureMode: deny
    descriptors:
      - match: {{uri: {{prefix: /limited}}}}
        entries:
          - {{key: service, from: service}}
          - {{key: caller, from: identity}}
"
    );
    let rule = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec: {host: echo, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
";
    let permits =
        r#"permit (principal, action, resource in Service::"echo.default.svc.cluster.local");"#;
    let mut workloads = vec![
        sidecar("client"),
        sidecar("other"),
        echo("echo-v1", "echo", "v1"),
        echo("echo-v2", "echo", "v2"),
    ];
    workloads.extend(more);
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&workloads))
        .with("services.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("echo", permits))
        .with("rule.yaml", rule)
        .with("limit.yaml", limit)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sidecars_share_one_limit_and_fail_as_it_says_without_the_server() {
    let (folder, at) = (Folder::new(), SocketAddr::from(([127, 0, 0, 1], port())));
    let limits = folder.path().join("limits.yaml");
    fs::write(&limits, SHARED).expect("the limits");
    let (limits, listen) = (limits.display().to_string(), at.to_string());
    let args = ["ratelimit", "serve", "-f", &limits, "--listen", &listen];
    let mut server = start(&binary("reeve"), &args);
    let mesh = Mesh::start(two_instances(&at.to_string(), None)).await;
    let call = Call::get("echo:9080", "/limited");
    let client = mesh.outbound("client-0", "echo", 9080);
    let limit = Duration::from_secs(30);
    // The first answer says that the server is reached; what was asked before was answered 500, and not counted.
    let first = eventually("the server is asked", limit, async || {
        let answer = call.send(client).await.map_err(|e| format!("{e:?}"))?;
        match answer.status.as_u16() {
            200 => Ok(answer),
            other => Err(format!("{other}")),
        }
    })
    .await;
    assert_eq!(first.header("x-ratelimit-limit"), Some("4, 4;w=86400"));
    assert_eq!(first.header("x-ratelimit-remaining"), Some("3"));
    let mut instances = vec![first.json()["instance"].clone()];
    for left in ["2", "1", "0"] {
        let answer = call.send(client).await.expect("an answer");
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(left));
        instances.push(answer.json()["instance"].clone());
    }
    assert!(
        instances.iter().any(|i| *i != instances[0]),
        "{instances:?}"
    );
    for _ in 0..4 {
        let answer = call.send(client).await.expect("an answer");
        assert_eq!(answer.status, 429);
        assert_eq!(answer.header("x-envoy-ratelimited"), Some("true"));
    }
    // Other paths are not limited, and others have limits of their own.
    assert_eq!(Call::get("echo:9080", "/").status(client).await, Ok(200));
    let other = mesh.outbound("other-0", "echo", 9080);
    assert_eq!(call.status(other).await, Ok(200));
    server.kill().await.expect("the server ends");
    assert_eq!(call.status(other).await, Ok(500));
    assert_eq!(Call::get("echo:9080", "/").status(other).await, Ok(200));
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_in_the_mesh_is_asked_by_mtls_and_judges_who_asks() {
    let folder = Folder::new();
    let limits = folder.path().join("limits.yaml");
    fs::write(&limits, SHARED).expect("the limits");
    let (reeve, limits) = (binary("reeve"), limits.display());
    let serve = format!(
        "exec {} ratelimit serve -f {limits} --listen $HOST:$PORT",
        reeve.display()
    );
    let server = json!({
        "name": "limits", "serviceAccount": "limits", "labels": {"app": "limits"},
        "command": ["sh", "-c", serve],
        "ports": [{"port": 8081, "name": "grpc"}],
        "health": {"tcp": {"port": 8081}},
    });
    let permits = r#"permit (
        principal == Workload::"spiffe://mesh.local/ns/default/sa/echo",
        action,
        resource in Service::"limits.default.svc.cluster.local"
    );"#;
    let folder = two_instances("limits:8081", Some(server))
        .with("limits.yaml", service("limits", 8081, "grpc"));
    let mesh = Mesh::start(folder).await;
    let call = Call::get("echo:9080", "/limited");
    let client = mesh.outbound("client-0", "echo", 9080);
    // Nobody may ask it yet.
    assert_eq!(call.status(client).await, Ok(500));
    mesh.apply("limits-access.yaml", permit("limits", permits))
        .await;
    let limit = Duration::from_secs(30);
    eventually("the server is asked", limit, async || {
        match call.status(client).await? {
            200 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    for _ in 0..3 {
        assert_eq!(call.status(client).await, Ok(200));
    }
    assert_eq!(call.status(client).await, Ok(429));
    let asked = mesh
        .record("the question", |record| {
            let asks = record.to_string().contains("ShouldRateLimit");
            asks && record["decision"]["effect"] == "allow"
        })
        .await;
    assert!(asked.to_string().contains("sa/echo"), "{asked}");
}
