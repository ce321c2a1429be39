//! Measures what one audit log bears: as many proxies' audit streams as wanted, each with an SVID and a TLS connection of its
//! own and the real shipper, into a real audit replica (`reeve audit serve`).
//! `cargo run --release -p reeve-sidecar --example audit_streams -- FOLDER REEVE STREAMS RECORDS [WAVES [URL]]`: so many
//! streams, so many records of each in each wave; with URL the log is kept in that bucket, too. With `--calls` first, perf(1)
//! counts the files that it puts and what it waits for the disk. Prints JSON. The proxies are spread over processes.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod measured;
mod mesh;
mod proxies;

use std::{
    collections::BTreeMap,
    error::Error,
    path::Path,
    time::{Duration, Instant},
};

use measured::{Calls, Running, Used};
use mesh::Mesh;
use proxies::{Group, MOST};

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
    let calls = flag("--calls");
    let (waves, url) = (args.get(4).unwrap_or(&"1"), args.get(5));
    let [folder, reeve, streams, records, ..] = args.as_slice() else {
        return Err("usage: audit_streams FOLDER REEVE STREAMS RECORDS [WAVES [URL]]".into());
    };
    let place = tempfile::tempdir_in(folder)?;
    let load = Load {
        streams: streams.parse()?,
        records: records.parse()?,
        waves: waves.parse()?,
        calls,
    };
    load.run(place.path(), reeve, url.copied())
}

struct Load {
    streams: u32,
    records: u32,
    waves: u32,
    calls: bool,
}

impl Load {
    fn run(&self, place: &Path, reeve: &str, url: Option<&str>) -> Result<(), Failure> {
        let issued = Instant::now();
        let mut groups = self.groups(place)?;
        let issued = issued.elapsed().as_secs_f64();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let name = REPLICA.parse()?;
        let mesh = runtime.block_on(Mesh::start(place, &name))?;
        let own = place.join("replica");
        let mut log = Running::start(reeve, (&name, &own), &mesh, url)?;
        let idle = log.resident_kib()?;
        let expected = mesh::domain()?.audit_replica(&mesh::root()?);
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

    fn groups(&self, place: &Path) -> Result<Vec<Group>, Failure> {
        (0..self.streams)
            .step_by(usize::try_from(MOST)?)
            .map(|first| Group::start(place, first, MOST.min(self.streams - first)))
            .collect()
    }
}

/// Waits until all have done what they were asked for.
fn all(groups: &mut [Group]) -> Result<(), Failure> {
    groups.iter_mut().try_for_each(Group::answer)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn bytes(number: u64) -> f64 {
    number as f64
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
