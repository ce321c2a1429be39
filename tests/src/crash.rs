//! Sidecars killed (SIGKILL) at random moments under load: what an application saw is in the log. `it/sidecar_crash.rs`
//! kills 100, `soak --kills` as many as one likes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::{Duration, Instant},
};

use rustls_pki_types::UnixTime;
use serde_json::{Value, json};

use crate::{
    CLIENT_TO_ECHO, Call, Folder, Load, Mesh, Protocol, Target, assert_gapless, echo, eventually,
    local_mesh, mesh_config, permit, request_ids, service, sidecar, strict,
};

/// The supervisor lets a process that dies often wait longer and longer, so the kills are spread over several.
const REPLICAS: usize = 12;
/// Replicas that serve at the moment of a kill, at least, and requests that were answered since the one before.
const SERVING: usize = 4;
const ANSWERED: u64 = 8;
/// Records are asked for in slices of time, each well below what one query gives.
const SLICE_SECONDS: u64 = 30;

/// What came of it.
#[derive(Debug)]
pub struct CrashReport {
    /// Sidecars killed.
    pub kills: u32,
    /// How long the killing took.
    pub took: Duration,
    /// Requests that the load had an answer to.
    pub answered: u64,
    /// Those that it had none to, or not 200.
    pub failed: u64,
    /// Requests that the applications saw; each is in the log.
    pub seen: usize,
    /// Records in the log.
    pub records: usize,
}

/// Kills sidecars of echo servers `kills` times at random moments, under load.
///
/// # Panics
/// When an application saw a request that the log has not, a sequence has a gap, or `reeve audit verify` finds a fault.
pub async fn crash(kills: u32) -> CrashReport {
    let seen_file = std::env::temp_dir().join(format!("rv-{}-seen", std::process::id()));
    drop(fs::remove_file(&seen_file));
    let since = UnixTime::now().as_secs();
    let mut mesh = Mesh::start(folder(&seen_file)).await;

    let load = load(&mesh);
    let began = Instant::now();
    let killed = kill_at_random(&mesh, &load, kills).await;
    let took = began.elapsed();
    mesh.wait_ready(Duration::from_secs(60)).await;
    let report = load.stop().await;

    let seen = fs::read_to_string(&seen_file).expect("what the applications saw");
    let mut seen_by = BTreeMap::<&str, BTreeSet<String>>::new();
    for (id, instance) in seen.lines().filter_map(|line| line.split_once(' ')) {
        seen_by.entry(instance).or_default().insert(id.to_owned());
    }
    assert_eq!(seen_by.len(), REPLICAS, "{:?}", seen_by.keys());
    let records = eventually(
        "every request that an application saw is in the log",
        Duration::from_secs(120),
        async || {
            let records = records_since(&mesh, since).await;
            for (instance, seen) in &seen_by {
                let logged = request_ids(&records, instance);
                let missing: Vec<_> = seen.difference(&logged).take(5).collect();
                if !missing.is_empty() {
                    return Err(format!("{instance} saw, and the log has not: {missing:?}"));
                }
            }
            Ok(records)
        },
    )
    .await;
    assert_gapless(&records);
    for (instance, kills) in killed {
        let epochs = epochs(&records, &instance);
        assert!(
            epochs >= kills,
            "{instance}: {epochs} epochs with records after {kills} kills"
        );
    }
    // Every epoch's link to the one before, and whole records at every end, are what `verify` checks.
    mesh.verify_audit().await;
    drop(fs::remove_file(&seen_file));
    CrashReport {
        kills,
        took,
        answered: report.ok,
        failed: report.failed,
        seen: seen_by.values().map(BTreeSet::len).sum(),
        records: records.len(),
    }
}

fn load(mesh: &Mesh) -> Load {
    let target = |protocol| Target {
        address: mesh.outbound("client-0", "echo", 9080),
        protocol,
        call: Call::get("echo:9080", "/"),
        bad_text: None,
    };
    let [http1, http2] = [Protocol::Http1, Protocol::Http2].map(target);
    let targets = vec![http1.clone(), http1.clone(), http1, http2];
    Load::start("crash", targets, Duration::from_millis(15))
}

/// All records from a second on.
async fn records_since(mesh: &Mesh, since: u64) -> Vec<Value> {
    let now = UnixTime::now().as_secs();
    let mut records = Vec::new();
    for slice in (since..=now).step_by(SLICE_SECONDS as usize) {
        let (since, until) = (slice.to_string(), (slice + SLICE_SECONDS).to_string());
        records.extend(mesh.records(&["--since", &since, "--until", &until]).await);
    }
    records
}

fn folder(seen_file: &Path) -> Folder {
    let mut backend = echo("echo-v1", "echo", "v1");
    backend["replicas"] = json!(REPLICAS);
    backend["env"]["ECHO_LOG"] = json!(seen_file.display().to_string());
    Folder::new()
        .with(
            "mesh.yaml",
            mesh_config(json!({"audit": {"recordedHeaders": ["x-request-id"]}})),
        )
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&[sidecar("client"), backend]))
        .with("services.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("echo", CLIENT_TO_ECHO))
}

/// Kills sidecars of the echo servers, each time one that serves. Returns how often each was killed.
async fn kill_at_random(mesh: &Mesh, load: &Load, kills: u32) -> BTreeMap<String, usize> {
    let mut killed = BTreeMap::<String, (usize, i32)>::new();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64 ^ u64::from(std::process::id());
    let mut answered = 0;
    for _ in 0..kills {
        // xorshift64*: any spread will do.
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        let number = random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        tokio::time::sleep(Duration::from_millis(number % 40)).await;
        let (name, pid) = eventually("a sidecar serves", Duration::from_secs(30), async || {
            let serving: Vec<_> = mesh
                .instances()?
                .into_iter()
                .filter(|i| i.name.starts_with("echo") && i.healthy)
                .filter_map(|i| Some((i.name, i.sidecar_pid?)))
                .filter(|(name, pid)| killed.get(name).is_none_or(|(_, last)| last != pid))
                .collect();
            let served = load.so_far().0 - answered;
            if serving.len() < SERVING || served < ANSWERED {
                return Err(format!("{} serve, {served} answered", serving.len()));
            }
            Ok(serving[(number >> 8) as usize % serving.len()].clone())
        })
        .await;
        mesh.kill_process(pid);
        answered = load.so_far().0;
        let (count, last) = killed.entry(name).or_default();
        *count += 1;
        *last = pid;
    }
    killed
        .into_iter()
        .map(|(name, (count, _))| (name, count))
        .collect()
}

fn epochs(records: &[Value], instance: &str) -> usize {
    let of_instance = records
        .iter()
        .filter_map(|record| record["id"].as_str()?.strip_prefix(instance));
    let epochs: BTreeSet<&str> = of_instance
        .filter_map(|rest| rest.split('/').nth(1))
        .collect();
    epochs.len()
}
