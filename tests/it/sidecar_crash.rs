//! Point 7: a sidecar is killed at random moments, 100 times; what the application saw is in the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use reeve_tests::{
    Folder, Load, Mesh, Protocol, Target, echo, eventually, local_mesh, permit, request_ids,
    service, sidecar, strict,
};
use serde_json::{Value, json};

use crate::fixture::{CLIENT_TO_ECHO, get, settings};

const KILLS: u32 = 100;
/// The supervisor lets a process that dies often wait longer and longer, so the kills are spread over several.
const REPLICAS: usize = 12;
/// Replicas that serve at the moment of a kill, at least, and requests that were answered since the one before.
const SERVING: usize = 4;
const ANSWERED: u64 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_application_saw_is_in_the_log_whenever_its_sidecar_is_killed() {
    let seen_file = std::env::temp_dir().join(format!("rv-{}-seen", std::process::id()));
    drop(fs::remove_file(&seen_file));
    let mut mesh = Mesh::start(folder(&seen_file)).await;

    let address = crate::fixture::to_echo(&mesh);
    let call = get("/");
    let mut targets = vec![
        Target {
            address,
            protocol: Protocol::Http1,
            call: call.clone(),
            bad_text: None
        };
        3
    ];
    targets.push(Target {
        address,
        protocol: Protocol::Http2,
        call,
        bad_text: None,
    });
    let load = Load::start("crash", targets, Duration::from_millis(15));
    let kills = kill_at_random(&mesh, &load).await;
    mesh.wait_ready(Duration::from_secs(60)).await;
    let report = load.stop().await;
    println!(
        "{} requests answered, {} failed, over {KILLS} kills",
        report.ok, report.failed
    );
    assert!(report.ok > 1000, "too little traffic: {}", report.ok);

    let seen = fs::read_to_string(&seen_file).expect("what the applications saw");
    let mut seen_by = BTreeMap::<&str, BTreeSet<String>>::new();
    for (id, instance) in seen.lines().filter_map(|line| line.split_once(' ')) {
        seen_by.entry(instance).or_default().insert(id.to_owned());
    }
    assert_eq!(seen_by.len(), REPLICAS, "{:?}", seen_by.keys());
    eventually(
        "every request that an application saw is in the log",
        Duration::from_secs(30),
        async || {
            let records = mesh.records(&[]).await;
            for (instance, seen) in &seen_by {
                let logged = request_ids(&records, instance);
                let missing: Vec<_> = seen.difference(&logged).take(5).collect();
                if !missing.is_empty() {
                    return Err(format!("{instance} saw, and the log has not: {missing:?}"));
                }
            }
            Ok(())
        },
    )
    .await;
    let records = mesh.records(&[]).await;
    assert_gapless(&records);
    for (instance, kills) in kills {
        let epochs = epochs(&records, &instance);
        assert!(
            epochs >= kills,
            "{instance}: {epochs} epochs with records after {kills} kills"
        );
    }
    // Every epoch's link to the one before, and whole records at every end, are what `verify` checks.
    mesh.verify_audit().await;
    drop(fs::remove_file(&seen_file));
}

fn folder(seen_file: &Path) -> Folder {
    let mut backend = echo("echo-v1", "echo", "v1");
    backend["replicas"] = json!(REPLICAS);
    backend["env"]["ECHO_LOG"] = json!(seen_file.display().to_string());
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&[sidecar("client"), backend]))
        .with("services.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("echo", CLIENT_TO_ECHO))
}

/// Kills sidecars of the echo servers, each time one that serves. Returns how often each was killed.
async fn kill_at_random(mesh: &Mesh, load: &Load) -> BTreeMap<String, usize> {
    let mut killed = BTreeMap::<String, (usize, i32)>::new();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64 ^ u64::from(std::process::id());
    let mut answered = 0;
    for _ in 0..KILLS {
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

/// Asserts that the sequences of every proxy, epoch and worker have no gap.
pub(crate) fn assert_gapless(records: &[Value]) {
    let mut sequences = BTreeMap::<&str, BTreeSet<u64>>::new();
    for record in records {
        let id = record["id"].as_str().expect("a record's id");
        let (place, sequence) = id.rsplit_once('/').expect("proxy/epoch/worker/sequence");
        let fresh = sequences
            .entry(place)
            .or_default()
            .insert(sequence.parse().expect("a sequence"));
        assert!(fresh, "{id} is twice in the log");
    }
    for (place, sequences) in sequences {
        let (first, last) = (
            sequences.first().expect("one"),
            sequences.last().expect("one"),
        );
        let gap = sequences
            .iter()
            .zip(*first..)
            .find(|(got, expected)| **got != *expected);
        assert!(
            *first <= 1 && gap.is_none(),
            "{place}: {first}..={last}, gap at {gap:?}"
        );
    }
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
