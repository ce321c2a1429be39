//! Measures what one audit log bears: as many proxies' audit streams as wanted, each with an SVID and a TLS connection of its
//! own and the real shipper, into the real mesh process.
//! `cargo run --release -p reeve-sidecar --example audit_streams -- FOLDER REEVE STREAMS RECORDS [WAVES [URL]]`: so many
//! streams, so many records of each in each wave; with URL the log is kept in that bucket, too. With `--replica` first, the
//! streams go into an audit replica beside the mesh process, and what that uses is told; with `--calls` perf(1) counts the
//! files that it puts and what it waits for the disk. Prints JSON. As root it raises the bound on open files itself.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use reeve_audit::{EventKind, EventRecord, Level, ShipOptions, Wal, WalOptions, ship, ship::only};
use reeve_ca::{CaOptions, CertificateAuthority, MeshAddress, SealKey, Store};
use reeve_core::{Clock, InstanceName, SpiffeId, clock::SystemClock};
use reeve_sidecar::{MeshConnector, SvidSigner};
use reeve_svid::{Credentials, CredentialsWatch};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

type Failure = Box<dyn Error + Send + Sync>;

/// The replica's name.
const REPLICA: &str = "audit-0";
/// Copies of one workload.
const REPLICAS: u32 = 250;
const DAY: Duration = Duration::from_secs(86_400);

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
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
    more_files(u64::from(load.streams) * 6 + 1000)?;
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
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (state, mesh) = (place.join("state"), place.join("mesh"));
        fs::create_dir_all(&state)?;
        fs::create_dir_all(&mesh)?;
        let replica = self.replica.then(free).transpose()?;
        let settings = replica.as_deref().map(settings).unwrap_or_default();
        fs::write(mesh.join("mesh.yaml"), self.workloads() + &settings)?;
        let issued = Instant::now();
        let proxies = self.proxies(place, &state, &clock)?;
        let issued = issued.elapsed().as_secs_f64();
        let mesh_url = url.filter(|_| !self.replica);
        let (mut log, mut expected) = (Running::start(reeve, &state, &mesh, mesh_url)?, "control");
        let mut _mesh = None;
        if let Some(listen) = &replica {
            let replica = log.replica(reeve, (&state, &place.join("replica")), listen, url)?;
            (_mesh, expected) = (Some(std::mem::replace(&mut log, replica)), "audit");
        }
        let idle = log.resident_kib()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let expected: SpiffeId =
            format!("spiffe://mesh.local/ns/reeve-system/sa/{expected}").parse()?;
        let address: MeshAddress = log.address.parse()?;
        let (began, opened) = (Instant::now(), record(&proxies, 1)?);
        let _inside = runtime.enter();
        for (wal, credentials) in &proxies {
            let connector = MeshConnector::new(
                address.clone(),
                expected.clone(),
                credentials.clone(),
                Arc::clone(&clock),
            );
            let channels: ship::ChannelFactory = Arc::new(move || {
                let connector = connector.clone();
                Box::pin(async move { Ok(connector.connected().await?) })
            });
            let signer = Arc::new(SvidSigner::new(credentials.clone()));
            runtime.spawn(ship(
                wal.clone(),
                only(channels),
                signer,
                ShipOptions::default(),
            ));
        }
        until_shipped(&proxies, &mut log)?;
        let opening = began.elapsed().as_secs_f64();
        std::thread::sleep(Duration::from_secs(2));
        let open = log.resident_kib()?;
        let mut told = Vec::new();
        for _ in 0..self.waves {
            told.push(self.wave(&proxies, &mut log)?);
        }
        println!(
            "{}",
            serde_json::json!({
                "streams": self.streams,
                "svids_issued_s": round(issued),
                "opened_and_first_records_acknowledged_s": round(opening),
                "records_while_opening": opened,
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

    /// Appends, and waits until everything is acknowledged.
    fn wave(&self, proxies: &[Proxy], log: &mut Running) -> Result<serde_json::Value, Failure> {
        let calls = self.calls.then(|| Calls::count(log)).transpose()?;
        let before = log.used()?;
        let began = Instant::now();
        let count = bytes(record(proxies, self.records)?);
        until_shipped(proxies, log)?;
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
        for (workload, replicas) in self.groups() {
            text.push_str(&format!(
                "  - {{name: {workload}, serviceAccount: {workload}, replicas: {replicas}}}\n"
            ));
        }
        text
    }

    fn groups(&self) -> impl Iterator<Item = (String, u32)> {
        let streams = self.streams;
        (0..streams.div_ceil(REPLICAS))
            .map(move |n| (format!("w{n}"), REPLICAS.min(streams - n * REPLICAS)))
    }

    /// Each with its write-ahead log and an SVID of the mesh's own authority, which the mesh process then opens.
    fn proxies(
        &self,
        place: &Path,
        state: &Path,
        clock: &Arc<dyn Clock>,
    ) -> Result<Vec<Proxy>, Failure> {
        let options = CaOptions {
            trust_domain: "mesh.local".parse()?,
            root_ttl: 365 * DAY,
            intermediate_ttl: 30 * DAY,
            svid_ttl: DAY,
            consumer_wait: Duration::from_secs(60),
            store: Store::Sealed {
                dir: state.join("ca"),
                key: SealKey::from_file_or_new(&state.join("seal.key"))?,
            },
            vault: None,
            upstream: None,
        };
        let ca = CertificateAuthority::open(options, Arc::clone(clock))?;
        let mut proxies = Vec::new();
        for (workload, replicas) in self.groups() {
            let id: SpiffeId = format!("spiffe://mesh.local/ns/default/sa/{workload}").parse()?;
            for replica in 0..replicas {
                let name: InstanceName = format!("{workload}-{replica}").parse()?;
                let wal = WalOptions {
                    level: Level::Os,
                    max_bytes: 1 << 26,
                    segment_bytes: 1 << 16,
                    first_epoch: 1,
                };
                let dir = place.join("wal").join(name.as_str());
                let wal = Wal::open(&dir, name, wal, Arc::clone(clock))?;
                let credentials = Credentials {
                    svid: Arc::new(ca.issue_self(&id)?),
                    bundle: ca.bundle().borrow().clone(),
                };
                let (_, credentials) = watch::channel(Some(Arc::new(credentials)));
                proxies.push((Arc::new(wal), credentials));
            }
        }
        Ok(proxies)
    }
}

type Proxy = (Arc<Wal>, CredentialsWatch);

/// Records of a decision's length; how many.
fn record(proxies: &[Proxy], each: u32) -> Result<u64, Failure> {
    let mut count = 0;
    for _ in 0..each {
        for (wal, _) in proxies {
            let text = "a text about as long as what a decision holds: ".repeat(16);
            wal.append(EventRecord::new(EventKind::Started).with("text", text))?;
            count += 1;
        }
    }
    Ok(count)
}

fn until_shipped(proxies: &[Proxy], log: &mut Running) -> Result<(), Failure> {
    while proxies.iter().any(|(wal, _)| wal.status().backlog > 0) {
        if let Some(ended) = log.child.try_wait()? {
            return Err(format!("the mesh process ended: {ended}").into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// What the mesh process has used.
struct Used {
    cpu_s: f64,
    written: u64,
    batches: u64,
}

/// The mesh process.
struct Running {
    child: Child,
    address: String,
    checkpoint: std::path::PathBuf,
}

impl Running {
    fn start(reeve: &str, state: &Path, mesh: &Path, url: Option<&str>) -> Result<Self, Failure> {
        let (address, api) = (free()?, free()?);
        let store = url.map(|url| ["--audit-store", url]);
        let child = Command::new(reeve)
            .args(["control", "run", "--grpc", &address, "--api", &api])
            .arg("--state")
            .arg(state)
            .arg("--folder")
            .arg(mesh)
            .args(store.into_iter().flatten())
            .stdout(Stdio::null())
            .stderr(fs::File::create(state.join("mesh.log"))?)
            .spawn()?;
        let mut running = Self {
            child,
            address,
            checkpoint: state.join("audit/checkpoint"),
        };
        while std::net::TcpStream::connect(&api).is_err() {
            if let Some(ended) = running.child.try_wait()? {
                let log = fs::read_to_string(state.join("mesh.log"))?;
                return Err(format!("the mesh process ended: {ended}\n{log}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }

    /// Starts an audit replica of the mesh of this process, which listens there.
    fn replica(
        &self,
        reeve: &str,
        (state, own): (&Path, &Path),
        listen: &str,
        url: Option<&str>,
    ) -> Result<Self, Failure> {
        fs::create_dir_all(own)?;
        let token = Command::new(reeve)
            .args(["ca", "token", "create", "--identity"])
            .arg("spiffe://mesh.local/ns/reeve-system/sa/audit")
            .arg("--state")
            .arg(state)
            .output()?;
        if !token.status.success() {
            return Err(String::from_utf8_lossy(&token.stderr).into_owned().into());
        }
        fs::write(own.join("token"), &token.stdout)?;
        let store = url.map(|url| ["--audit-store", url]);
        let child = Command::new(reeve)
            .args(["audit", "serve", "--name", REPLICA, "--listen", listen])
            .args(["--mesh-address", &self.address, "--state"])
            .arg(own)
            .arg("--join-token-file")
            .arg(own.join("token"))
            .arg("--bundle")
            .arg(state.join("bundle.pem"))
            .args(store.into_iter().flatten())
            .stdout(Stdio::null())
            .stderr(fs::File::create(own.join("log"))?)
            .spawn()?;
        let mut running = Self {
            child,
            address: listen.to_owned(),
            checkpoint: own.join("audit/checkpoint"),
        };
        while !running.checkpoint.exists() || std::net::TcpStream::connect(listen).is_err() {
            if let Some(ended) = running.child.try_wait()? {
                let log = fs::read_to_string(own.join("log"))?;
                return Err(format!("the replica ended: {ended}\n{log}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }

    fn resident_kib(&self) -> Result<u64, Failure> {
        self.number("status", "VmRSS:")
    }

    /// A number of `/proc/PID/FILE` (proc(5)).
    fn number(&self, file: &str, name: &str) -> Result<u64, Failure> {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let line = line.ok_or_else(|| format!("no {name}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    fn used(&self) -> Result<Used, Failure> {
        let mut nanos = 0u64;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
                nanos += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
            }
        }
        let checkpoint = fs::read_to_string(&self.checkpoint)?;
        Ok(Used {
            cpu_s: Duration::from_nanos(nanos).as_secs_f64(),
            written: self.number("io", "write_bytes:")?,
            batches: checkpoint.lines().nth(1).unwrap_or_default().parse()?,
        })
    }

    /// Sockets that it has open.
    fn connections(&self) -> Result<usize, Failure> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id()))?;
        let targets = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok());
        Ok(targets
            .filter(|to| to.to_string_lossy().starts_with("socket:"))
            .count())
    }
}

/// Counts what a process asks of the disk.
struct Calls {
    perf: Child,
    told: tempfile::NamedTempFile,
}

impl Calls {
    const COUNTED: [&str; 7] = [
        "fsync",
        "fdatasync",
        "syncfs",
        "rename",
        "renameat",
        "unlink",
        "unlinkat",
    ];

    fn count(of: &Running) -> Result<Self, Failure> {
        let told = tempfile::NamedTempFile::new()?;
        let events = Self::COUNTED.map(|name| format!("syscalls:sys_enter_{name}"));
        let perf = Command::new("perf")
            .args(["stat", "-x", ",", "-e", &events.join(","), "-p"])
            .arg(of.child.id().to_string())
            .arg("-o")
            .arg(told.path())
            .spawn()
            .map_err(|error| format!("perf cannot be run: {error}"))?;
        Ok(Self { perf, told })
    }

    fn end(mut self) -> Result<BTreeMap<String, u64>, Failure> {
        let pid = i32::try_from(self.perf.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.ok_or("no process")?, Signal::INT)?;
        self.perf.wait()?;
        let told = fs::read_to_string(self.told.path())?;
        let line = |line: &str| {
            let (count, rest) = line.split_once(',')?;
            let name = rest.split("sys_enter_").nth(1)?.split(',').next()?;
            Some((name.to_owned(), count.parse().ok()?))
        };
        Ok(told.lines().filter_map(line).collect())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
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

fn more_files(wanted: u64) -> Result<(), Failure> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.map(|most| most.max(wanted));
    let raised = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Nofile, raised)
        .map_err(|_| format!("{wanted} open files are not allowed: run it as root").into())
}
