//! Measures what one audit log bears: as many proxies' audit streams as wanted, each with an SVID and a TLS connection of its
//! own and the real shipper, into the real mesh process.
//! `cargo run --release -p reeve-sidecar --example audit_streams -- FOLDER REEVE STREAMS RECORDS [WAVES [URL]]`: so many
//! streams, so many records of each in each wave; with URL the log is kept in that bucket, too. With `--replica` first, the
//! streams go into an audit replica beside the mesh process, and what that uses is told; with `--calls` perf(1) counts the
//! files that it puts and what it waits for the disk. Prints JSON. The proxies are spread over processes of its own.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod measured;
mod proxies;

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    net::TcpListener,
    path::Path,
    time::{Duration, Instant},
};

use reeve_core::SpiffeId;

use measured::{Calls, Running, Used};
use proxies::{Group, MOST, REPLICAS};

type Failure = Box<dyn Error + Send + Sync>;

/// The replica's name.
const REPLICA: &str = "audit-0";

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["proxies", place, first, count] = args.as_slice() {
        return proxies::run(Path::new(place), first.parse()?, count.parse()?);
    }
    let mut flag = |name: &str| {
        let at = args.iter().position(|arg| *arg == name);
        at.map(|at| args.remove(at)).is_some()
    };
    let (replica, calls) = (flag("--replica"), flag("--calls"));
    let (waves, url) = (args.get(4).unwrap_or(&"1"), args.get(5));
    let [folder, reeve, streams, records, ..] = args.as_slice() else {
        return Err("usage: audit_streams FOLDER REEVE STREAMS RECORDS [WAVES [URL]]".into());
    };
    let place = tempfile::tempdir_in(folder)?;
    let load = Load {
        streams: streams.parse()?,
        records: records.parse()?,
        waves: waves.parse()?,
        replica,
        calls,
    };
    load.run(place.path(), reeve, url.copied())
}

struct Load {
    streams: u32,
    records: u32,
    waves: u32,
    replica: bool,
    calls: bool,
}

impl Load {
    fn run(&self, place: &Path, reeve: &str, url: Option<&str>) -> Result<(), Failure> {
        let (state, mesh) = (place.join("state"), place.join("mesh"));
        fs::create_dir_all(&state)?;
        fs::create_dir_all(&mesh)?;
        let replica = self.replica.then(free).transpose()?;
        let settings = replica.as_deref().map(settings).unwrap_or_default();
        fs::write(mesh.join("mesh.yaml"), self.workloads() + &settings)?;
        let issued = Instant::now();
        let mut groups = self.groups(place)?;
        let issued = issued.elapsed().as_secs_f64();
        let mesh_url = url.filter(|_| !self.replica);
        let (mut log, mut expected) = (Running::start(reeve, &state, &mesh, mesh_url)?, "control");
        let mut _mesh = None;
        if let Some(listen) = &replica {
            let replica = log.replica(reeve, (&state, &place.join("replica")), listen, url)?;
            (_mesh, expected) = (Some(std::mem::replace(&mut log, replica)), "audit");
        }
        let idle = log.resident_kib()?;
        let expected: SpiffeId =
            format!("spiffe://mesh.local/ns/reeve-system/sa/{expected}").parse()?;
        let began = Instant::now();
        for group in &mut groups {
            group.ship(&log.address, &expected)?;
        }
        all(&mut groups)?;
        self.append(&mut groups, 1)?;
        let opening = began.elapsed().as_secs_f64();
        log.still()?;
        std::thread::sleep(Duration::from_secs(2));
        let open = log.resident_kib()?;
        let mut told = Vec::new();
        for _ in 0..self.waves {
            told.push(self.wave(&mut groups, &mut log)?);
        }
        println!(
            "{}",
            serde_json::json!({
                "streams": self.streams,
                "svids_issued_s": round(issued),
                "opened_and_first_records_acknowledged_s": round(opening),
                "resident_mib_without_streams": idle / 1024,
                "resident_mib_with_streams": open / 1024,
                "kib_per_stream": round(bytes(open.saturating_sub(idle)) / f64::from(self.streams)),
                "connections": log.connections()?,
                "waves": told,
                "peak_mib": log.number("status", "VmHWM:")? / 1024,
            })
        );
        Ok(())
    }

    /// Has each proxy append so many, and waits until everything is acknowledged.
    fn append(&self, groups: &mut [Group], each: u32) -> Result<u64, Failure> {
        for group in &mut *groups {
            group.append(each)?;
        }
        all(groups)?;
        Ok(u64::from(self.streams) * u64::from(each))
    }

    fn wave(&self, groups: &mut [Group], log: &mut Running) -> Result<serde_json::Value, Failure> {
        let calls = self.calls.then(|| Calls::count(log)).transpose()?;
        let before = log.used()?;
        let began = Instant::now();
        let count = bytes(self.append(groups, self.records)?);
        log.still()?;
        let took = began.elapsed().as_secs_f64();
        let after = log.used()?;
        let per_s = |f: fn(&Used) -> u64| ((bytes(f(&after)) - bytes(f(&before))) / took).round();
        let calls = calls.map(Calls::end).transpose()?.unwrap_or_default();
        let calls = calls
            .into_iter()
            .map(|(name, count)| (name, round(bytes(count) / took)));
        Ok(serde_json::json!({
            "calls_per_s": calls.collect::<BTreeMap<_, _>>(),
            "seconds": round(took),
            "records_per_s": (count / took).round(),
            "batches_per_s": per_s(|used| used.batches),
            "written_mib_per_s": round(per_s(|used| used.written) / f64::from(1 << 20)),
            "log_cpu_s": round(after.cpu_s - before.cpu_s),
            "log_cpu_us_per_record": round((after.cpu_s - before.cpu_s) * 1e6 / count),
        }))
    }

    fn workloads(&self) -> String {
        let mut text = String::from(
            "apiVersion: reeve.dev/v1alpha1\nkind: LocalMesh\nmetadata: {name: streams}\nspec:\n  workloads:\n",
        );
        for first in parts(self.streams, REPLICAS) {
            let (workload, _) = proxies::name(first);
            let replicas = REPLICAS.min(self.streams - first);
            text.push_str(&format!(
                "  - {{name: {workload}, serviceAccount: {workload}, replicas: {replicas}}}\n"
            ));
        }
        text
    }

    fn groups(&self, place: &Path) -> Result<Vec<Group>, Failure> {
        parts(self.streams, MOST)
            .map(|first| Group::start(place, first, MOST.min(self.streams - first)))
            .collect()
    }
}

/// The first number of each part of so many.
fn parts(all: u32, most: u32) -> impl Iterator<Item = u32> {
    (0..all).step_by(usize::try_from(most).unwrap_or(1))
}

/// Waits until all have done what they were asked for.
fn all(groups: &mut [Group]) -> Result<(), Failure> {
    groups.iter_mut().try_for_each(Group::answer)
}

/// The mesh knows the replica.
fn settings(listen: &str) -> String {
    format!(
        "---\napiVersion: reeve.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec:\n  audit:\n    \
         replicasElsewhere: [{{name: {REPLICA}, address: \"{listen}\"}}]\n"
    )
}

/// An address that nobody listens on.
fn free() -> Result<String, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn bytes(number: u64) -> f64 {
    number as f64
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
