//! The way of a record from its proxy to the log, under faults at each step, on the real binary: the log's disk fails, is full
//! or does not sync, its process is killed and stopped, proxies are killed, clocks jump, and writes are torn. After each,
//! everything that an application saw is in the log, nothing twice, and `reeve audit verify` finds nothing. Killed proxies
//! by the hundred are `sidecar_crash.rs`, a proxy's failing disk is `faulty_disk.rs` and `full_disk.rs`, duplicates and
//! records in another order are `forgery.rs`.
//!
//! Needs what `faulty_disk.rs` does.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use reeve_tests::{
    Folder, Load, Mesh, Protocol, Start, Target, assert_gapless, echo, eventually, local_mesh,
    permit, request_ids, service, sidecar, strict,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::{
    faulty_disk::Disk,
    fixture::{CLIENT_TO_ECHO, get, settings, to_echo},
    tamper_matrix::frames,
};

const LIMIT: Duration = Duration::from_secs(60);

async fn start(disk: &Disk) -> Mesh {
    let mut backend = echo("echo-v1", "echo", "v1");
    backend["env"]["ECHO_LOG"] = json!(disk.seen_file());
    let folder = Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&[sidecar("client"), backend]))
        .with("services.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("echo", CLIENT_TO_ECHO));
    let how = Start {
        wrapper: disk.wrapper(),
        ..Start::default()
    };
    Mesh::start_with(folder, &how).await
}

fn load(mesh: &Mesh) -> Load {
    let target = Target {
        address: to_echo(mesh),
        protocol: Protocol::Http1,
        call: get("/"),
        bad_text: None,
    };
    Load::start("crash", vec![target; 2], Duration::from_millis(10))
}

/// Waits until the application has been asked some more.
async fn goes_on(load: &Load, what: &str) {
    let (before, _) = load.so_far();
    eventually(what, LIMIT, async || match load.so_far() {
        (served, _) if served >= before + 10 => Ok(()),
        (served, failed) => Err(format!("{served} served, {failed} failed")),
    })
    .await;
}

/// Everything that the application saw so far is in the log, nothing twice or missing, and the log verifies.
async fn all_is_there(mesh: &Mesh, disk: &Disk, after: &str) {
    let seen: BTreeSet<String> = disk
        .seen()
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(id, _)| id.starts_with("crash-"))
        .map(|(id, _)| id.to_owned())
        .collect();
    assert!(!seen.is_empty(), "{after}: the application saw nothing");
    let records = eventually(after, LIMIT, async || {
        let records = mesh.records(&[]).await;
        let logged = request_ids(&records, "echo-v1-0");
        let missing: Vec<_> = seen.difference(&logged).take(5).collect();
        match missing.is_empty() {
            true => Ok(records),
            false => Err(format!("seen, and not in the log: {missing:?}")),
        }
    })
    .await;
    assert_gapless(&records);
    mesh.verify_audit().await;
}

async fn comes_back(mesh: &Mesh, killed: i32) {
    eventually("the mesh process is back", LIMIT, async || {
        match mesh.mesh_pid() {
            Some(pid) if pid != killed => mesh.status().await.map(drop),
            _ => Err("not yet".to_owned()),
        }
    })
    .await;
}

/// Each fault of the log's own disk is met by the log, and nothing is acknowledged meanwhile that is not there afterwards.
async fn the_logs_disk_fails(mesh: &Mesh, disk: &Disk, load: &Load) {
    for fault in ["write 5", "write 28", "sync 5"] {
        let said = || {
            mesh.log("mesh.log")
                .matches("cannot write the audit log")
                .count()
        };
        let before = said();
        disk.fail(fault);
        eventually("the log cannot write", LIMIT, async || {
            (said() > before)
                .then_some(())
                .ok_or_else(|| fault.to_owned())
        })
        .await;
        goes_on(load, "requests are served while the log's disk fails").await;
        disk.heal();
        all_is_there(mesh, disk, fault).await;
    }
}

/// The mesh process is there and answers nobody: what a network that drops everything looks like from a proxy.
async fn the_network_splits(mesh: &Mesh, load: &Load) {
    let pid = Pid::from_raw(mesh.mesh_pid().expect("the mesh process")).expect("a process id");
    let said = || {
        mesh.log("echo-v1-0.sidecar.log")
            .matches("shipping of audit records waits")
            .count()
    };
    let before = said();
    kill_process(pid, Signal::STOP).expect("the mesh process stopped");
    eventually("the proxy gives the connection up", LIMIT, async || {
        (said() > before)
            .then_some(())
            .ok_or_else(|| "it waits".to_owned())
    })
    .await;
    goes_on(load, "requests are served without the mesh process").await;
    kill_process(pid, Signal::CONT).expect("the mesh process goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_between_proxy_and_log_nothing_is_lost_and_nothing_is_there_twice() {
    let disk = Disk::under("crash-log", "/audit/", "/audit/");
    let mut mesh = start(&disk).await;
    let load = load(&mesh);
    goes_on(&load, "requests are served").await;
    the_logs_disk_fails(&mesh, &disk, &load).await;

    for _ in 0..3 {
        let pid = mesh.mesh_pid().expect("the mesh process");
        mesh.kill_process(pid);
        comes_back(&mesh, pid).await;
        goes_on(&load, "requests are served after the log was killed").await;
    }
    all_is_there(&mesh, &disk, "the log was killed").await;

    the_network_splits(&mesh, &load).await;
    all_is_there(&mesh, &disk, "the network was split").await;

    // Ten minutes on, a new epoch of a proxy there, and back.
    disk.clock_ahead(600);
    goes_on(&load, "requests are served ten minutes later").await;
    disk.clock_ahead(0);
    let sidecar = mesh.instance("echo-v1-0").sidecar_pid.expect("a sidecar");
    mesh.kill_process(sidecar);
    goes_on(&load, "requests are served after the clock was set back").await;
    all_is_there(&mesh, &disk, "the clock jumped").await;

    drop(load.stop().await);
    mesh.kill().await;
    tear(&mesh.state);
    mesh.start_again().await;
    all_is_there(&mesh, &disk, "writes were torn").await;
}

/// What an unfinished write leaves: half a frame at the end of a proxy's log, and files of the log's that no checkpoint covers.
fn tear(state: &Path) {
    let mut segments = files(&state.join("wal/echo-v1-0"), "wal");
    segments.sort();
    let mut torn = 0;
    for path in segments {
        let bytes = fs::read(&path).expect("a segment");
        let frames = frames(&bytes);
        let end = *frames.last().expect("an end");
        let half = &bytes[..frames[1] / 2];
        let mut file = fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .expect("the segment");
        file.set_len(end as u64).expect("its end");
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).expect("its end");
        file.write_all(half).expect("half a frame");
        torn += 1;
    }
    assert!(torn > 0, "no segment");
    fs::write(state.join("audit/checkpoint.tmp"), "mesh.local/audit\n9")
        .expect("a torn checkpoint");
    let stray = state.join("audit/batches/00");
    fs::create_dir_all(&stray).expect("a folder");
    let name = format!("{}.jsonl", "00".repeat(32));
    fs::write(stray.join(name), "{\"schema\":\"ree").expect("a torn batch");
}

fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files(&path, ending),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|end| end == ending))
        .collect()
}
