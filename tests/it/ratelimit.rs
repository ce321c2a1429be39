//! A stock Envoy is held to the limits of our server, which counts in memory or in a real Redis.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use reeve_tests::{Call, Folder, binary, eventually, test_tool};
use tokio::process::{Child, Command};

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
