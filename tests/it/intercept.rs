//! Traffic is captured in real network namespaces: every kind of protocol, IPv4 and IPv6, REDIRECT and TPROXY; nothing
//! goes around the sidecar; nothing is left behind.

mod edges;
mod handover;
mod rules;

use std::{fs, path::Path, time::Duration};

use reeve_tests::{Folder, Mesh, Outcome, Start, eventually, local_mesh, permit, run, sidecar};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::fixture::settings;

const LIMIT: Duration = Duration::from_secs(15);
/// A call that stalls is a failure: nothing here needs so long.
const CALL_LIMIT: Duration = Duration::from_secs(4);

const ANYBODY_TO_SERVER: &str =
    r#"permit (principal, action, resource in Service::"server.default.svc.cluster.local");"#;

/// Nothing of this runs without root, and none of it is left out silently.
fn need_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "network namespaces need root: run as root, or leave these tests out by name: -- --skip intercept"
    );
    for tool in ["ip", "nft", "python3", "openssl", "setpriv"] {
        let found = std::process::Command::new("sh")
            .args(["-c", &format!("command -v {tool}")])
            .output()
            .expect("a shell");
        assert!(
            found.status.success(),
            "{tool} is missing: run tests/tools/install.sh"
        );
    }
}

async fn tool(words: &[&str]) -> Outcome {
    run(Path::new(words[0]), &words[1..], &[], LIMIT).await
}

async fn tool_ok(words: &[&str]) -> Outcome {
    let outcome = tool(words).await;
    assert_eq!(outcome.code, Some(0), "{words:?}: {}", outcome.text());
    outcome
}

/// `client`, of which only the sidecar runs; `server`, which anybody may call; `closed`, which nobody may.
async fn folder(spec: Value) -> Folder {
    let folder = Folder::new()
        .with("server.py", include_str!("intercept/server.py"))
        .with("client.py", include_str!("intercept/client.py"))
        .with("escape.py", include_str!("intercept/escape.py"));
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key) = (at("cert.pem"), at("key.pem"));
    tool_ok(&[
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=server.test",
        "-addext",
        "subjectAltName=DNS:server.test",
        "-days",
        "2",
        "-keyout",
        &key,
        "-out",
        &cert,
    ])
    .await;
    let ports = json!([
        {"port": 8080, "name": "http"}, {"port": 3306, "name": "tcp-greeting"},
        {"port": 9000, "name": "tcp-echo"}, {"port": 8443, "name": "tls"},
    ]);
    let server = |name: &str| {
        json!({
            "name": name, "serviceAccount": name, "labels": {"app": name},
            "command": ["python3", "${folder}/server.py"], "env": {"CERT": cert, "KEY": key},
            "ports": ports, "health": {"tcp": {"port": 9000}},
        })
    };
    let service = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": {"app": name}, "ports": ports},
        })
        .to_string()
    };
    let workloads = [sidecar("client"), server("server"), server("closed")];
    folder
        .with("mesh.yaml", settings(spec))
        .with("workloads.yaml", local_mesh(&workloads))
        .with("server.yaml", service("server"))
        .with("closed.yaml", service("closed"))
        .with("access.yaml", permit("server", ANYBODY_TO_SERVER))
}

async fn start(mode: &str, spec: Value) -> Mesh {
    need_root();
    let how = Start {
        args: vec![format!("--intercept={mode}")],
        ..Start::default()
    };
    Mesh::start_with(folder(spec).await, &how).await
}

/// The namespace of an instance.
fn namespace(mesh: &Mesh, instance: &str) -> String {
    format!("reeve-{}-{}", mesh.base, mesh.instance(instance).slot)
}

/// The addresses that stand for a service, IPv4 and IPv6.
fn virtual_addresses(mesh: &Mesh, service: &str) -> [String; 2] {
    let number = mesh.outbound("client-0", service, 1).ip().to_string();
    let number = number.rsplit('.').next().expect("a number").to_owned();
    let number: u8 = number.parse().expect("a number");
    let base = mesh.base;
    [
        format!("10.{base}.255.{number}"),
        format!("fd00:7265:6576:{base:x}:1::{number:x}"),
    ]
}

/// The addresses of an instance, IPv4 and IPv6.
fn addresses(mesh: &Mesh, instance: &str) -> [String; 2] {
    let (base, slot) = (mesh.base, mesh.instance(instance).slot);
    [
        format!("10.{base}.{slot}.1"),
        format!("fd00:7265:6576:{base:x}::{slot:x}"),
    ]
}

/// One call by a process of `client`.
async fn call(mesh: &Mesh, words: &[&str]) -> Outcome {
    let (namespace, script) = (
        namespace(mesh, "client-0"),
        mesh.folder.path().join("client.py").display().to_string(),
    );
    let python = ["netns", "exec", &namespace, "python3", &script];
    run(Path::new("ip"), &[&python, words].concat(), &[], CALL_LIMIT).await
}

/// What the outside gets from a port of a workload that sends back what it gets.
async fn echo_from_outside(address: &str, port: u16) -> Result<String, std::io::Error> {
    let talk = async {
        let mut stream = TcpStream::connect((address, port)).await?;
        stream.write_all(b"outside").await?;
        stream.shutdown().await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    };
    let talked = tokio::time::timeout(CALL_LIMIT, talk).await;
    talked.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// Every kind of protocol through the pair of sidecars, and a record of each under the client's identity.
async fn every_protocol_is_captured(mode: &str) {
    let mut mesh = start(mode, json!({})).await;
    let cert = mesh.folder.path().join("cert.pem").display().to_string();
    for address in virtual_addresses(&mesh, "server") {
        let address = address.as_str();
        for (words, answer) in [
            (vec!["http", address, "8080", "server:8080"], "hello"),
            (vec!["greeting", address, "3306"], "8.0.36 ok:hello"),
            (vec!["echo", address, "9000"], "across"),
            (vec!["tls", address, "8443", &cert], "tls:secret"),
        ] {
            let outcome = call(&mesh, &words).await;
            assert!(
                outcome.stdout.contains(answer),
                "{mode} {words:?}: {}",
                outcome.text()
            );
        }
    }
    for port in [8080, 3306, 9000, 8443] {
        let what = format!("a record of port {port}");
        let record = mesh
            .record(&what, |record| port_of(record) == Some(port))
            .await;
        let principal = record["request"]["principal"].to_string();
        assert!(principal.contains("/sa/client"), "{record}");
        assert_eq!(record["authenticated_by"], "mtls", "{record}");
    }
    // From outside, over both families, to a declared port and to one that nobody declared.
    for address in addresses(&mesh, "server-0") {
        for port in [9000, 7000] {
            let echoed = echo_from_outside(&address, port).await;
            assert_eq!(
                echoed.expect("an answer"),
                "outside",
                "{mode} {address} {port}"
            );
        }
    }
    let what = "a record of the port without a listener";
    let record = mesh
        .record(what, |record| port_of(record) == Some(7000))
        .await;
    assert_eq!(record["request"]["action"], "connect", "{record}");
    assert_eq!(
        record["request"]["principal"], "unauthenticated",
        "{record}"
    );
    mesh.verify_audit().await;
    let base = mesh.base;
    mesh.stop().await;
    assert_eq!(left_of(base), Vec::<String>::new());
}

fn port_of(record: &Value) -> Option<u64> {
    record["request"]["context"]["port"].as_u64()
}

/// Networks of the mesh with this base.
fn left_of(base: u8) -> Vec<String> {
    let names = |folder: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect::<Vec<_>>()
    };
    let namespaces = names("/run/netns").into_iter();
    let links = names("/sys/class/net").into_iter();
    let (space, bridge, link) = (
        format!("reeve-{base}-"),
        format!("reeve{base}"),
        format!("rv{base}-"),
    );
    namespaces
        .filter(|name| name.starts_with(&space))
        .chain(links.filter(|name| *name == bridge || name.starts_with(&link)))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_protocol_is_captured_by_redirect() {
    every_protocol_is_captured("redirect").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_protocol_is_captured_by_tproxy() {
    every_protocol_is_captured("tproxy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_goes_around_the_sidecar() {
    let mesh = start("redirect", json!({})).await;
    // The application's own port from outside, whether declared or not, over both families: nobody may.
    for address in addresses(&mesh, "closed-0") {
        for port in [9000, 7000] {
            let echoed = echo_from_outside(&address, port).await;
            assert!(
                !matches!(&echoed, Ok(text) if !text.is_empty()),
                "{address} {port}: {echoed:?}"
            );
        }
    }
    // A port for the workload itself alone stays so, even for whom the policy permits.
    let loopback = echo_from_outside(&addresses(&mesh, "server-0")[0], 7001).await;
    assert!(
        !matches!(&loopback, Ok(text) if !text.is_empty()),
        "{loopback:?}"
    );
    // The proxy's own ports, asked as if they were destinations: no circle.
    for port in ["15001", "15006"] {
        let outcome = call(&mesh, &["echo", "127.0.0.1", port]).await;
        assert!(!outcome.stdout.contains("across"), "{}", outcome.text());
    }
    // QUIC is refused at once, so that clients fall back to TCP.
    for address in virtual_addresses(&mesh, "server") {
        let outcome = call(&mesh, &["udp", &address, "443"]).await;
        assert!(
            outcome.text().contains("Operation not permitted"),
            "{}",
            outcome.text()
        );
    }
    // The application has no power to change the rules, to leave, or to become its sidecar's user.
    let out = mesh.folder.path().join("escape.txt");
    let sidecar = mesh.instance("server-0").sidecar_pid.expect("a sidecar");
    let status = fs::read_to_string(format!("/proc/{sidecar}/status")).expect("its status");
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .expect("its user");
    let uid = uid.split_whitespace().next().expect("its user");
    assert_ne!(uid, "0", "the sidecar has a user of its own");
    let escape = json!({
        "name": "escape", "serviceAccount": "escape", "labels": {"app": "escape"},
        "command": ["python3", "${folder}/escape.py"],
        "env": {"OUT": out.display().to_string(), "SIDECAR": uid},
    });
    let more = local_mesh(&[escape]).replace("\"test\"", "\"escape\"");
    mesh.apply("escape.yaml", more).await;
    eventually("every try to escape has ended", LIMIT, async || {
        let results = fs::read_to_string(&out).map_err(|error| error.to_string())?;
        let all = "flush refused\nleave refused\nsetgid refused\nsetuid refused";
        if results == all { Ok(()) } else { Err(results) }
    })
    .await;
    let status = mesh.reeve_ok(&["status"]).await;
    assert!(
        status.text().contains("UDP"),
        "what is unprotected is listed: {}",
        status.text()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destinations_outside_the_mesh_pass_or_are_refused_as_configured_and_are_recorded() {
    let mesh = start("redirect", json!({})).await;
    let outside = TcpListener::bind((format!("10.{}.0.1", mesh.base), 0))
        .await
        .expect("a port");
    let (ip, port) = {
        let address = outside.local_addr().expect("its address");
        (address.ip().to_string(), address.port().to_string())
    };
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = outside.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write)
                    .await
                    .map(drop)
                    .unwrap_or_default();
            });
        }
    });
    let outcome = call(&mesh, &["echo", &ip, &port]).await;
    assert!(outcome.stdout.contains("across"), "{}", outcome.text());
    let address = format!("{ip}:{port}");
    let to_outside = |record: &Value| record["request"]["resource"]["address"] == address.as_str();
    let record = mesh.record("a record of the egress", to_outside).await;
    assert_eq!(record["request"]["action"], "connect", "{record}");
    assert!(
        record["request"]["principal"]
            .to_string()
            .contains("/sa/client"),
        "{record}"
    );

    let closed = settings(json!({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}));
    mesh.apply("mesh.yaml", closed).await;
    let outcome = call(&mesh, &["echo", &ip, &port]).await;
    assert!(!outcome.stdout.contains("across"), "{}", outcome.text());
    let refused =
        |record: &Value| to_outside(record) && record.to_string().contains("not_in_registry");
    mesh.record("a record of the refusal", refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_supervisor_leaves_no_network_behind() {
    let mut mesh = start("redirect", json!({})).await;
    let base = mesh.base;
    assert!(left_of(base).len() >= 7, "{:?}", left_of(base));
    mesh.kill().await;
    eventually("every network is gone", LIMIT, async || {
        match left_of(base) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
    .await;
}
