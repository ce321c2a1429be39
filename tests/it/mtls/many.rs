//! Thirty workloads of mixed protocols, and everybody who usually stands in the way of STRICT.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use reeve_tests::{Folder, Mesh, echo, eventually, local_mesh, permit, service, sidecar};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::fixture::{LIMIT, anybody, ended, insider, load, migrating, outsider, plain_get, say};
use crate::fixture::settings;

/// Clients with sidecars.
const CLIENTS: usize = 20;
/// Servers of HTTP.
const SERVERS: [&str; 3] = ["web", "shop", "stock"];
/// Callers without sidecars: one asks HTTP, one opens connections, one comes seldom.
const PLAIN: [&str; 3] = ["legacy", "importer", "nightly"];
/// A ClientHello of TLS that is not the mesh's.
const OWN_TLS: &[u8] = b"\x16\x03\x01\x00\x05hello";
/// What the server that speaks first says.
const GREETING: &[u8] = b"220 ready\r\n";

fn http(name: &str) -> Value {
    echo(name, name, "v1")
}

/// A workload whose application is the test: it listens where the application would.
fn tested(name: &str, port_name: &str) -> Value {
    let mut workload = sidecar(name);
    workload["ports"] = json!([{"port": 7000, "name": port_name}]);
    workload
}

fn workloads(outside: fn(&str) -> Value) -> String {
    let mut all: Vec<Value> = (0..CLIENTS)
        .map(|n| sidecar(&format!("client-{n}")))
        .collect();
    all.extend(SERVERS.map(http));
    all.push(tested("mail", "tcp"));
    all.push(tested("vault", "tls"));
    all.extend(PLAIN.map(outside));
    all.extend(["scraper", "prober", "sealed"].map(outside));
    local_mesh(&all)
}

fn folder() -> Folder {
    let mut folder = Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("workloads.yaml", workloads(outsider))
        .with("mail.yaml", service("mail", 7000, "tcp"))
        .with("vault.yaml", service("vault", 7000, "tls"))
        .with("mail-access.yaml", permit("mail", &anybody("mail")))
        .with("vault-access.yaml", permit("vault", &anybody("vault")));
    for name in SERVERS {
        folder = folder
            .with(&format!("{name}.yaml"), service(name, 9080, "http"))
            .with(&format!("{name}-access.yaml"), permit(name, &anybody(name)));
    }
    folder
}

/// Serves TCP in place of an application: speaks first, then says what it hears.
async fn speak_first(at: SocketAddr) {
    let listener = TcpListener::bind(at)
        .await
        .expect("the application's address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut heard = [0; 64];
                if stream.write_all(GREETING).await.is_ok() {
                    while let Ok(n @ 1..) = stream.read(&mut heard).await {
                        drop(stream.write_all(&heard[..n]).await);
                    }
                }
            });
        }
    });
}

/// Whether a server greets somebody who waits for it, through the caller's sidecar.
async fn greeted(to: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(to).await else {
        return false;
    };
    let mut heard = [0; GREETING.len()];
    stream.read_exact(&mut heard).await.is_ok() && heard == GREETING
}

fn names_every_obstacle(text: &str) {
    for words in [
        "workload default/legacy",
        "workload default/importer",
        "perhaps the server speaks first",
        "workload default/nightly",
        "times, about every",
        "workload default/scraper",
        "move this scraper to port 15020",
        "workload default/prober",
        "let it ask the sidecar's port 15021",
        "workload default/sealed",
        "speaks TLS of its own",
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
}

/// Everybody who has no sidecar, each in their way.
async fn everybody_comes(mesh: &Mesh) {
    let door = |name: &str| mesh.inbound(&format!("{name}-0"), 9080);
    let (shop, web) = (door("shop"), door("web"));
    let (mail, vault) = (mesh.inbound("mail-0", 7000), mesh.inbound("vault-0", 7000));
    assert!(greeted(mesh.outbound("client-0-0", "mail", 7000)).await);
    assert!(plain_get(mesh, "legacy-0", shop, "/").await);
    assert!(plain_get(mesh, "scraper-0", web, "/metrics").await);
    assert!(plain_get(mesh, "prober-0", web, "/healthz").await);
    drop(say(mesh, "importer-0", mail, b"").await);
    drop(say(mesh, "sealed-0", vault, OWN_TLS).await);
    for _ in 0..3 {
        assert!(plain_get(mesh, "nightly-0", shop, "/").await);
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
}

/// What scrapes, probes and imports by now.
async fn remedied(mesh: &Mesh) {
    assert!(
        plain_get(
            mesh,
            "scraper-0",
            mesh.inbound("web-0", 15020),
            "/stats/prometheus"
        )
        .await
    );
    assert!(
        plain_get(
            mesh,
            "prober-0",
            mesh.inbound("web-0", 15021),
            "/healthz/ready"
        )
        .await
    );
    assert!(greeted(mesh.outbound("importer-0", "mail", 7000)).await);
}

/// Nobody is served in plaintext any more.
async fn is_strict(mesh: &Mesh) {
    let door = |name: &str| mesh.inbound(&format!("{name}-0"), 9080);
    let (shop, web) = (door("shop"), door("web"));
    for (from, to) in [("legacy-0", shop), ("nightly-0", web)] {
        assert!(!plain_get(mesh, from, to, "/").await, "plaintext is served");
    }
    let status = [
        "mtls", "status", "--since", "1h", "--cycle", "1s", "-o", "json",
    ];
    let ports = mesh.reeve_ok(&status).await.json();
    for port in ports["ports"].as_array().expect("ports") {
        assert_eq!(port["mode"], "STRICT", "{port:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_workloads_become_strict_under_load_and_no_request_fails() {
    let mut mesh = Mesh::start(folder()).await;
    assert!(mesh.instances().expect("instances").len() >= 30);
    for name in ["mail-0", "vault-0"] {
        let app = mesh.instance(name).app_address;
        speak_first(SocketAddr::from((app, 7000))).await;
    }

    // Some 300 requests a second of the twenty clients; and everybody who has no sidecar.
    let clients = (0..CLIENTS).map(|n| {
        let to = SERVERS[n % SERVERS.len()];
        mesh.outbound(&format!("client-{n}-0"), to, 9080)
    });
    let load = load(clients.collect(), Duration::from_millis(60));
    let begun = Instant::now();
    everybody_comes(&mesh).await;

    let file = mesh.folder.path().with_extension("plan.yaml");
    let path = file.display().to_string();
    let plan = [
        "mtls", "plan", "--since", "1h", "--cycle", "1s", "--out", &path,
    ];
    let planned = mesh.reeve(&plan).await;
    assert_eq!(planned.code, Some(1), "{}", planned.text());
    let text = std::fs::read_to_string(&file).expect("the plan");
    names_every_obstacle(&text);

    // The remedies: sidecars, and ports that need no mTLS.
    mesh.apply("workloads.yaml", workloads(insider)).await;
    mesh.wait_ready(LIMIT).await;
    remedied(&mesh).await;
    eventually("nothing stands in the way", LIMIT, async || {
        let outcome = mesh.reeve(&plan).await;
        match outcome.code {
            Some(0) => Ok(()),
            _ => Err(std::fs::read_to_string(&file).unwrap_or_default()),
        }
    })
    .await;

    let args = [
        "--plan",
        &path,
        "--shadow",
        "1s",
        "--hold",
        "3s",
        "--max-p99-factor",
        "1000000",
    ];
    let (code, journal) = ended(migrating(&mesh, &args)).await;
    assert_eq!(code, Some(0), "{journal:#}");
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    println!(
        "{} requests in {:?}, none failed",
        report.ok,
        begun.elapsed()
    );
    assert!(greeted(mesh.outbound("importer-0", "mail", 7000)).await);
    is_strict(&mesh).await;
    mesh.verify_audit().await;
    mesh.stop().await;
}
