//! A stock Prometheus that scrapes a whole mesh every second.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use reeve_tests::{Call, Mesh, eventually, test_tool};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
};

/// A scrape, an evaluation, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Running until it is dropped.
pub(super) struct Prometheus {
    address: SocketAddr,
    _process: Child,
}

impl Prometheus {
    /// Starts it with every scrape port of `mesh` as a target.
    pub(super) async fn start(mesh: &Mesh) -> Self {
        let instances = mesh.instances().expect("instances");
        let sidecars: Vec<String> = instances
            .iter()
            .map(|instance| mesh.inbound(&instance.name, 15020).to_string())
            .collect();
        let job = |name: &str, path: &str, targets: Value| json!({"job_name": name, "metrics_path": path, "static_configs": [{"targets": targets}]});
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [
                job("sidecars", "/stats/prometheus", json!(sidecars)),
                job("mesh", "/metrics", json!([mesh.api().to_string()])),
            ],
        });
        // JSON is YAML. It goes with the mesh's state.
        let file = mesh.state.join("prometheus.yml");
        std::fs::write(&file, config.to_string()).expect("its configuration");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        drop(listener);
        let data = mesh.state.join("prometheus");
        let process = Command::new(test_tool("prometheus"))
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("Prometheus");
        Self {
            address,
            _process: process,
        }
    }

    /// Waits until `query` has one value, and that is it.
    pub(super) async fn eventually(&self, query: &str, value: f64) {
        eventually(query, PATIENCE, async || {
            let answer = self.query(query).await?;
            let results = answer["data"]["result"].as_array().ok_or("no result")?;
            let got = results
                .first()
                .and_then(|result| result["value"][1].as_str()?.parse::<f64>().ok());
            match (results.len(), got) {
                (1, Some(got)) if (got - value).abs() < 1e-9 => Ok(()),
                _ => Err(format!("not {value}: {answer}")),
            }
        })
        .await;
    }

    async fn query(&self, query: &str) -> Result<Value, String> {
        let path = format!("/api/v1/query?query={}", escape(query));
        let answer = Call::get("prometheus", &path).send(self.address).await;
        let answer = answer.map_err(|error| format!("{error:#}"))?;
        if answer.status != 200 {
            return Err(format!("{}: {}", answer.status, answer.text()));
        }
        Ok(answer.json())
    }
}

fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}
