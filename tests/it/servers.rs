//! Debian's own servers of other protocols as workloads: two databases and a message broker, through sidecars.

mod broker;
mod databases;

use std::{path::Path, process::Stdio, time::Duration};

use reeve_tests::{
    Folder, Mesh, as_ordinary_user, eventually, local_mesh, permit, service, sidecar, strict,
    test_tool,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::fixture::settings;

const LIMIT: Duration = Duration::from_secs(20);

/// A workload that runs `script` in a shell as an ordinary user; `$HOST` and `$PORT` say where it must listen.
fn server(name: &str, port: u16, port_name: &str, script: &str) -> Value {
    let mut command = as_ordinary_user();
    command.extend(["sh", "-c", script].map(str::to_owned));
    json!({
        "name": name, "serviceAccount": name, "labels": {"app": name}, "command": command,
        "ports": [{"port": port, "name": port_name}], "health": {"tcp": {"port": port}},
    })
}

/// These servers, `client` and `stock` who may connect to them, and `other` who may not.
fn folder(servers: &[(Value, u16, &str)]) -> Folder {
    let mut workloads: Vec<Value> = ["client", "stock", "other"].map(sidecar).into();
    let mut services = String::new();
    let mut access = String::new();
    for (workload, port, port_name) in servers {
        let name = workload["name"].as_str().expect("a name");
        services += &service(name, *port, port_name);
        for caller in ["client", "stock"] {
            access += &format!(
                "permit (\n  principal == Workload::\"spiffe://mesh.local/ns/default/sa/{caller}\",\n  \
                 action == Action::\"connect\",\n  resource in Service::\"{name}.default.svc.cluster.local\"\n);\n"
            );
        }
        workloads.push(workload.clone());
    }
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&workloads))
        .with("services.yaml", services)
        .with("access.yaml", permit("callers", &access))
}

/// A stock client that stays: what is written to it and what it says, line by line; ended when dropped.
struct Talk {
    process: Child,
    says: Lines<BufReader<ChildStdout>>,
    told: Option<ChildStdin>,
}

impl Talk {
    fn start(program: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).kill_on_drop(true);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = command.spawn().expect("the client starts");
        Self {
            says: BufReader::new(process.stdout.take().expect("its output")).lines(),
            told: process.stdin.take(),
            process,
        }
    }

    async fn tell(&mut self, line: &str) {
        let to = self.told.as_mut().expect("its input");
        to.write_all(format!("{line}\n").as_bytes())
            .await
            .expect("a line");
    }

    /// The next line; `None` when it has ended.
    async fn line(&mut self) -> Option<String> {
        timeout(LIMIT, self.says.next_line())
            .await
            .expect("a line in time")
            .expect("text")
    }

    async fn answer(&mut self, line: &str) -> Option<String> {
        self.tell(line).await;
        self.line().await
    }

    /// Its exit code, when nothing more is told.
    async fn end(mut self) -> Option<i32> {
        drop(self.told.take());
        timeout(LIMIT, self.process.wait())
            .await
            .expect("an end in time")
            .expect("its status")
            .code()
    }
}

/// What the mesh tells of `connections` from `client` to `server`: metrics at both ends, the record, the graph.
async fn told_of(mesh: &Mesh, server: &str) {
    let instance = format!("{server}-0");
    for (at, reporter) in [("client-0", "source"), (instance.as_str(), "destination")] {
        let app = format!("destination_app=\"{server}\"");
        let labels = [
            format!("reporter=\"{reporter}\""),
            app,
            "source_workload=\"client\"".to_owned(),
            "source_principal=\"mesh.local/ns/default/sa/client\"".to_owned(),
            "request_protocol=\"tcp\"".to_owned(),
            "connection_security_policy=\"mutual_tls\"".to_owned(),
        ];
        // Istio's sidecars know no security policy of what they send.
        let count = if reporter == "source" { 5 } else { 6 };
        let labels: Vec<&str> = labels.iter().take(count).map(String::as_str).collect();
        for series in [
            "istio_tcp_connections_opened_total",
            "istio_tcp_connections_closed_total",
            "istio_tcp_sent_bytes_total",
            "istio_tcp_received_bytes_total",
        ] {
            let value = mesh.metric(at, series, &labels).await;
            assert!(value > 0.0, "{series} at {at}: {value}");
        }
    }
    let is = |record: &Value, caller: &str, effect: &str| {
        record["kind"] == "decision"
            && record["id"]
                .as_str()
                .is_some_and(|id| id.starts_with(&instance))
            && record["request"]["action"] == "connect"
            && record["request"]["principal"].to_string().contains(caller)
            && record["decision"]["effect"] == effect
    };
    let allowed = mesh.record("the client's connection is on record", |r| {
        is(r, "sa/client", "allow")
    });
    let allowed = allowed.await;
    assert_eq!(allowed["authenticated_by"], "mtls", "{allowed}");
    mesh.record("what it carried is on record", |record| {
        record["kind"] == "outcome"
            && record["id"]
                .as_str()
                .is_some_and(|id| id.starts_with(&instance))
            && record["bytes_out"].as_u64() > Some(0)
    })
    .await;
    mesh.record("the other's refusal is on record", |r| {
        is(r, "sa/other", "deny")
    })
    .await;
    in_the_graph(mesh, server).await;
}

async fn in_the_graph(mesh: &Mesh, server: &str) {
    let answer = reeve_tests::Call::get("mesh", "/api/graph")
        .send(mesh.api())
        .await;
    let graph = answer.expect("the graph").json();
    let edges = graph["edges"].as_array().expect("edges");
    let edge = edges.iter().find(|edge| {
        edge["from"] == "client.default" && edge["to"] == format!("{server}.default").as_str()
    });
    let edge = edge.unwrap_or_else(|| panic!("no edge to {server} in {graph}"));
    for key in ["connections", "bytes_in", "bytes_out"] {
        assert!(edge[key].as_u64() > Some(0), "{key}: {edge}");
    }
    assert_eq!(edge["mtls"], true, "{edge}");
}

/// Kills the sidecar of `instance` and waits until it has another.
async fn kill_sidecar(mesh: &Mesh, instance: &str) {
    let old = mesh.instance(instance).sidecar_pid.expect("a sidecar");
    mesh.kill_process(old);
    eventually("it has another sidecar", LIMIT, async || {
        let new = mesh.instance(instance).sidecar_pid;
        (new.is_some() && new != Some(old))
            .then_some(())
            .ok_or_else(|| format!("{new:?}"))
    })
    .await;
    eventually("everything is in force", LIMIT, async || {
        mesh.settled().await
    })
    .await;
}
