//! Everything that changes in a mesh, at once, under steady load that must not notice: proxies replaced by socket
//! hand-over, replicas drained and started, endpoints that come and go, certificates that rotate, configuration that
//! changes. `it/churn.rs` runs it for a minute, `make soak` for as long as one likes.

mod load;
mod usage;

use std::{
    fmt,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    CLIENT_TO_ECHO, Folder, Mesh, echo, local_mesh, mesh_config, permit, service, sidecar, strict,
};
use load::Streams;
pub use load::Tally;
use usage::{Growth, Watch};

/// A configuration is written this often …
const CONFIG_PERIOD: Duration = Duration::from_secs(1);
/// … and a proxy is replaced this often, each in turn.
const RESTART_PERIOD: Duration = Duration::from_secs(4);
/// A replica is added or drained this often.
const SCALE_PERIOD: Duration = Duration::from_secs(15);
/// Certificates are renewed at half of this.
const CERTIFICATE_TTL: &str = "20s";
/// What is still compared after this is growth, not start.
const WARM_UP: Duration = Duration::from_secs(15);
/// The sidecars that are replaced; the others run from start to end.
const RESTARTED: [&str; 2] = ["client-0", "echo-v1-0"];

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// How long it went on.
    pub ran: Duration,
    /// Requests by kind.
    pub tallies: Vec<Tally>,
    /// Proxies replaced, and how long the longest replacement took.
    pub restarts: (u64, Duration),
    /// Changes of configuration that were written.
    pub configurations: u64,
    /// Configuration generations that came of it all.
    pub generations: u64,
    /// Certificates issued.
    pub issued: u64,
    /// Replicas added and drained.
    pub scalings: u64,
    /// Long-lived processes: what they held after the warm-up and at the end.
    pub growth: Vec<Growth>,
    /// Records in the audit log.
    pub records: u64,
}

/// Runs it for `time` and asserts that nobody noticed.
pub async fn churn(time: Duration) -> Report {
    let mut mesh = Mesh::start(folder()).await;
    let before = mesh.status().await.expect("the mesh's status");
    let streams = Streams::start(mesh.outbound("client-0", "echo", 9080));
    let watch = Watch::start(&mesh, WARM_UP.min(time / 3));
    let began = Instant::now();
    let (restarts, configurations, scalings) = tokio::join!(
        restart(&mesh, began, time),
        configure(&mesh, began, time),
        scale(&mesh, began, time),
    );
    let ran = began.elapsed();
    let growth = watch.stop().await;
    let tallies = streams.stop().await;
    mesh.wait_ready(Duration::from_secs(60)).await;
    let after = mesh.status().await.expect("the mesh's status");
    let grown = |path: &str| {
        let at = |status: &Value| {
            status
                .pointer(path)
                .and_then(Value::as_u64)
                .unwrap_or_default()
        };
        at(&after) - at(&before)
    };
    let report = Report {
        ran,
        tallies,
        restarts,
        configurations,
        generations: grown("/generation"),
        issued: grown("/ca/issued"),
        scalings,
        growth,
        records: grown("/audit/records"),
    };
    println!("{report}");
    report.check();
    mesh.verify_audit().await;
    mesh.stop().await;
    report
}

fn folder() -> Folder {
    Folder::new()
        .with(
            "mesh.yaml",
            mesh_config(json!({"certificateTtl": CERTIFICATE_TTL})),
        )
        .with("strict.yaml", strict())
        .with("workloads.yaml", workloads(2))
        .with("services.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("echo", CLIENT_TO_ECHO))
        .with("churn.yaml", churning(0))
}

/// `echo-v1` in so many replicas, and two whose health comes and goes, though they go on serving.
fn workloads(replicas: u32) -> String {
    let mut steady = echo("echo-v1", "echo", "v1");
    steady["replicas"] = json!(replicas);
    let mut flapping = echo("echo-v2", "echo", "v2");
    flapping["replicas"] = json!(2);
    flapping["env"]["HEALTH_FLAPS"] = json!("2");
    flapping["health"]["periodSeconds"] = json!(1);
    flapping["health"]["failureThreshold"] = json!(1);
    local_mesh(&[sidecar("client"), steady, flapping])
}

/// A policy and a route that differ with every number.
fn churning(number: u64) -> String {
    let cedar = format!(
        "@id(\"churn\")\nforbid (principal, action in Action::\"http\", resource) when {{ context.path == \"/never/{number}\" }};"
    );
    let route = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "echo", "namespace": "default"},
        "spec": {"hosts": ["echo"], "http": [{
            "route": [{"destination": {"host": "echo"}}],
            "headers": {"response": {"set": {"x-churn": number.to_string()}}},
        }]},
    });
    format!("{}\n---\n{route}\n", permit("churn", &cedar))
}

async fn configure(mesh: &Mesh, began: Instant, time: Duration) -> u64 {
    let mut ticks = interval(CONFIG_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    while began.elapsed() < time {
        ticks.tick().await;
        number += 1;
        mesh.folder.write("churn.yaml", churning(number));
    }
    number
}

async fn restart(mesh: &Mesh, began: Instant, time: Duration) -> (u64, Duration) {
    let (mut count, mut longest) = (0, Duration::ZERO);
    for name in RESTARTED.iter().cycle() {
        sleep(RESTART_PERIOD).await;
        if began.elapsed() >= time {
            break;
        }
        let before = mesh.instance(name).sidecar_pid;
        let outcome = mesh
            .reeve_ok(&["proxy", "restart", name, "-o", "json"])
            .await;
        let done = &outcome.json()["restarted"][0];
        assert_eq!(done["old_pid"].as_i64(), before.map(i64::from), "{done}");
        let took = Duration::from_millis(done["took_ms"].as_u64().expect("a time"));
        longest = longest.max(took);
        count += 1;
    }
    (count, longest)
}

async fn scale(mesh: &Mesh, began: Instant, time: Duration) -> u64 {
    let mut count = 0;
    for replicas in [3, 2].into_iter().cycle() {
        sleep(SCALE_PERIOD).await;
        if began.elapsed() >= time {
            break;
        }
        mesh.folder.write("workloads.yaml", workloads(replicas));
        count += 1;
    }
    count
}

impl Report {
    fn check(&self) {
        for tally in &self.tallies {
            assert_eq!(tally.failed, 0, "{}: {:#?}", tally.kind, tally.failures);
            let expected = self.ran.as_secs() / 5;
            assert!(tally.ok >= expected, "too little traffic: {tally:?}");
        }
        let seconds = self.ran.as_secs();
        assert!(
            self.restarts.0 >= seconds / 20,
            "too few restarts: {:?}",
            self.restarts
        );
        assert!(
            self.generations >= seconds / 2,
            "too few generations: {}",
            self.generations
        );
        assert!(
            self.issued >= seconds / 4,
            "too few certificates: {}",
            self.issued
        );
        for growth in &self.growth {
            assert!(growth.is_flat(), "grows: {growth:?}");
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} s of churn:", self.ran.as_secs())?;
        for tally in &self.tallies {
            writeln!(f, "  {tally}")?;
        }
        writeln!(
            f,
            "  {} sidecars replaced (longest {} ms), {} configurations written, {} generations, {} certificates, \
             {} scalings, {} audit records",
            self.restarts.0,
            self.restarts.1.as_millis(),
            self.configurations,
            self.generations,
            self.issued,
            self.scalings,
            self.records
        )?;
        for growth in &self.growth {
            writeln!(f, "  {growth}")?;
        }
        Ok(())
    }
}
