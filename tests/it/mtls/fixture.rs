//! Meshes that are not strict yet, and callers that speak plaintext to them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use reeve_tests::{Load, Mesh, Protocol, Target, binary, eventually};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

use crate::fixture::get;

/// Longest time for a migration, on a slow machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(80);
/// A call may take so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everybody may ask `service` for anything.
pub(crate) fn anybody(service: &str) -> String {
    format!(
        r#"permit (principal, action, resource in Service::"{service}.default.svc.cluster.local");"#
    )
}

/// A workload without a sidecar, whose process does nothing: tests speak from its address.
pub(crate) fn outsider(name: &str) -> Value {
    json!({
        "name": name, "serviceAccount": name, "labels": {"app": name}, "role": "none",
        "command": ["sleep", "100000"],
    })
}

/// The same with a sidecar.
pub(crate) fn insider(name: &str) -> Value {
    let mut workload = outsider(name);
    workload["role"] = json!("sidecar");
    workload
}

/// Sends `bytes` from an instance's own address; what comes back until the other end closes.
pub(crate) async fn say(mesh: &Mesh, from: &str, to: SocketAddr, bytes: &[u8]) -> Option<String> {
    let source = mesh.instance(from).app_address;
    let said = async {
        let socket = TcpSocket::new_v4().ok()?;
        socket.bind(SocketAddr::new(IpAddr::V4(source), 0)).ok()?;
        let mut stream = socket.connect(to).await.ok()?;
        stream.write_all(bytes).await.ok()?;
        let mut answer = Vec::new();
        // A reset is as good as a close.
        stream.read_to_end(&mut answer).await.ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    };
    timeout(PATIENCE, said)
        .await
        .ok()?
        .filter(|answer| !answer.is_empty())
}

/// A plaintext GET past every sidecar; whether it was answered with 200.
pub(crate) async fn plain_get(mesh: &Mesh, from: &str, to: SocketAddr, path: &str) -> bool {
    let request = format!("GET {path} HTTP/1.1\r\nhost: echo\r\nconnection: close\r\n\r\n");
    let answer = say(mesh, from, to, request.as_bytes()).await;
    answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// HTTP load from sidecars, `pause` between the requests of each.
pub(crate) fn load(addresses: Vec<SocketAddr>, pause: Duration) -> Load {
    let target = |address| Target {
        address,
        protocol: Protocol::Http1,
        call: get("/"),
        bad_text: None,
    };
    Load::start(
        "migration",
        addresses.into_iter().map(target).collect(),
        pause,
    )
}

/// Somebody who asks in plaintext again and again.
pub(crate) struct Stranger {
    stop: Arc<AtomicBool>,
    pub(crate) served: Arc<AtomicU64>,
    pub(crate) refused: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Stranger {
    /// From an address, to an address.
    pub(crate) fn start(from: IpAddr, to: SocketAddr) -> Self {
        let (stop, served, refused) = (Arc::default(), Arc::default(), Arc::default());
        let counts: (Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>) =
            (Arc::clone(&stop), Arc::clone(&served), Arc::clone(&refused));
        let task = tokio::spawn(async move {
            let (stop, served, refused) = counts;
            while !stop.load(Ordering::Relaxed) {
                let asked = timeout(PATIENCE, ask(from, to)).await.ok().flatten();
                let count = if asked.is_some() { &served } else { &refused };
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self {
            stop,
            served,
            refused,
            task,
        }
    }

    /// How often it was served, and not.
    pub(crate) fn so_far(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.served), count(&self.refused))
    }

    pub(crate) async fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let counts = (Arc::clone(&self.served), Arc::clone(&self.refused));
        self.task.await.expect("the stranger");
        (
            counts.0.load(Ordering::Relaxed),
            counts.1.load(Ordering::Relaxed),
        )
    }
}

async fn ask(from: IpAddr, to: SocketAddr) -> Option<()> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(SocketAddr::new(from, 0)).ok()?;
    let mut stream = socket.connect(to).await.ok()?;
    let request = b"GET / HTTP/1.1\r\nhost: echo\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    answer.starts_with(b"HTTP/1.1 200").then_some(())
}

/// Starts `reeve mtls migrate` and does not wait for it.
pub(crate) fn migrating(mesh: &Mesh, args: &[&str]) -> Child {
    Command::new(binary("reeve"))
        .args(["mtls", "migrate", "--yes", "-o", "json"])
        .args(args)
        .env("REEVE_STATE", &mesh.state)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .expect("`reeve mtls migrate` starts")
}

/// Waits until the newest migration's wave `n` is in `phase`.
pub(crate) async fn in_phase(mesh: &Mesh, n: usize, phase: &str) {
    eventually(&format!("wave {n} is {phase}"), LIMIT, async || {
        let outcome = mesh.reeve(&["mtls", "report", "-o", "json"]).await;
        if outcome.code != Some(0) {
            return Err(outcome.text());
        }
        let report = outcome.json();
        match report["waves"][n]["phase"] == phase {
            true => Ok(()),
            false => Err(report["waves"].to_string()),
        }
    })
    .await;
}

/// The migration's own answer, and how it ended.
pub(crate) async fn ended(child: Child) -> (Option<i32>, Value) {
    let output = timeout(LIMIT * 6, child.wait_with_output()).await;
    let output = output.expect("it ended in time").expect("its output");
    let journal = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code(), journal)
}
