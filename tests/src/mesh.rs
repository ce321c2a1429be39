//! A whole mesh of real processes, started by `reeve up`.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

use crate::{Call, Folder, Outcome, binary, eventually, folder::fresh_path, run};

/// One mesh at a time.
static TURN: Mutex<()> = Mutex::const_new(());
static NEXT_BASE: AtomicU8 = AtomicU8::new(0);

/// How long the health of an instance may take to become a generation.
const NEWS_DELAY: Duration = Duration::from_millis(500);
const START_LIMIT: Duration = Duration::from_secs(60);
const CHANGE_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(15);
const VERB_LIMIT: Duration = Duration::from_secs(60);

/// How to start a mesh.
#[derive(Debug, Default)]
pub struct Start {
    /// Further arguments of `reeve up`.
    pub args: Vec<String>,
    /// A command to start `reeve up` with; it must end as that process (`exec`).
    pub wrapper: Vec<String>,
}

/// A running mesh; ended when dropped.
pub struct Mesh {
    /// Its configuration.
    pub folder: Folder,
    /// Its state directory.
    pub state: PathBuf,
    /// Its addresses are `127.<base>.*`.
    pub base: u8,
    supervisor: Child,
    stopped: bool,
    /// None of a mesh beside the one whose turn it is.
    _turn: Option<MutexGuard<'static, ()>>,
}

/// One running copy of a workload, as `instances.json` says.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// Its slot.
    pub slot: u8,
    /// Where the mesh reaches it.
    pub address: Ipv4Addr,
    /// Where its application listens.
    pub app_address: Ipv4Addr,
    /// Its application's process.
    pub app_pid: Option<i32>,
    /// Its sidecar's process.
    pub sidecar_pid: Option<i32>,
    /// Whether it takes traffic.
    pub healthy: bool,
}

impl Mesh {
    /// Starts a mesh and waits until everything in it serves.
    pub async fn start(folder: Folder) -> Self {
        Self::start_with(folder, &Start::default()).await
    }

    /// The same, with arguments.
    pub async fn start_with(folder: Folder, how: &Start) -> Self {
        let turn = TURN.lock().await;
        Self::begin(folder, how, Some(turn)).await
    }

    /// Starts another mesh beside this one, whose turn it shares.
    pub async fn start_beside(&self, folder: Folder) -> Self {
        Self::begin(folder, &Start::default(), None).await
    }

    async fn begin(folder: Folder, how: &Start, turn: Option<MutexGuard<'static, ()>>) -> Self {
        let state = fresh_path("state");
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&state)
            .expect("a state directory");
        let base = free_base();
        let supervisor = spawn(&folder, &state, base, how).expect("`reeve up` starts");
        let mut mesh = Self {
            folder,
            state,
            base,
            supervisor,
            stopped: false,
            _turn: turn,
        };
        mesh.wait_ready(START_LIMIT).await;
        mesh
    }

    /// Ends the mesh as a terminal would (SIGINT to the supervisor) and asserts that nothing is left behind.
    pub async fn stop(&mut self) {
        let pids = self.pids();
        self.signal_supervisor(Signal::INT);
        let began = Instant::now();
        while self
            .supervisor
            .try_wait()
            .expect("the supervisor's end")
            .is_none()
        {
            assert!(
                began.elapsed() < STOP_LIMIT,
                "the supervisor did not end within {STOP_LIMIT:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.stopped = true;
        let left: Vec<_> = pids.into_iter().filter(|(_, pid)| alive(*pid)).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    /// Ends every process of the mesh at once (SIGKILL to the supervisor, whose children must not outlive it).
    pub async fn kill(&mut self) {
        let pids = self.pids();
        self.signal_supervisor(Signal::KILL);
        self.supervisor.wait().expect("the supervisor's end");
        self.stopped = true;
        eventually("no process of the mesh is left", STOP_LIMIT, async || {
            let left: Vec<_> = pids.iter().filter(|(_, pid)| alive(*pid)).collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        })
        .await;
    }

    /// Starts `reeve up` again on the same state, folder and addresses, and waits until everything serves.
    pub async fn start_again(&mut self) {
        self.start_again_with(&Start::default()).await;
    }

    /// The same, with arguments.
    pub async fn start_again_with(&mut self, how: &Start) {
        assert!(self.stopped, "still running");
        self.supervisor =
            spawn(&self.folder, &self.state, self.base, how).expect("`reeve up` starts again");
        self.stopped = false;
        self.wait_ready(START_LIMIT).await;
    }

    /// Waits until every instance is healthy and every proxy runs the newest configuration.
    pub async fn wait_ready(&mut self, limit: Duration) {
        let began = Instant::now();
        loop {
            if let Some(status) = self.supervisor.try_wait().expect("the supervisor's state") {
                self.stopped = true;
                panic!("`reeve up` ended by itself: {status}");
            }
            match self.settled_for_a_while().await {
                Ok(_) => return,
                Err(last) if began.elapsed() > limit => {
                    panic!("the mesh did not get ready within {limit:?}; at last: {last}")
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// The generation, when it is settled and stays so while news of health may still be on its way to `control`.
    async fn settled_for_a_while(&self) -> Result<u64, String> {
        let generation = self.settled().await?;
        tokio::time::sleep(NEWS_DELAY).await;
        let later = self.settled().await?;
        if later == generation {
            return Ok(generation);
        }
        Err(format!("generation {later} has just come"))
    }

    /// The generation, when every instance is healthy and every proxy has acknowledged it; else what is amiss.
    pub async fn settled(&self) -> Result<u64, String> {
        let status = self.status().await?;
        let generation = status["generation"].as_u64().ok_or("no generation yet")?;
        let instances = self.instances()?;
        if instances.is_empty() {
            return Err("no instances yet".to_owned());
        }
        let proxies = status["proxies"].as_array().ok_or("no proxies yet")?;
        for instance in instances {
            if !instance.healthy {
                return Err(format!("{} is not healthy", instance.name));
            }
            if instance.sidecar_pid.is_none() {
                continue;
            }
            let proxy = proxies
                .iter()
                .find(|p| p["instance"] == instance.name.as_str());
            let proxy = proxy.ok_or_else(|| format!("{} is unknown to control", instance.name))?;
            let current = proxy["generation"].as_u64() == Some(generation);
            if !current || proxy["connected"] != true || !proxy["nack"].is_null() {
                return Err(format!("generation {generation} is not in force: {proxy}"));
            }
        }
        Ok(generation)
    }

    /// Writes a file of the configuration and waits until that is in force everywhere. Returns how long it took.
    pub async fn apply(&self, name: &str, text: impl AsRef<str>) -> Duration {
        let before = self.generation().await;
        let began = Instant::now();
        self.folder.write(name, text);
        self.in_force_after(before).await;
        began.elapsed()
    }

    /// Removes a file of the configuration and waits until that is in force everywhere.
    pub async fn withdraw(&self, name: &str) {
        let before = self.generation().await;
        self.folder.remove(name);
        self.in_force_after(before).await;
    }

    /// The newest generation.
    pub async fn generation(&self) -> u64 {
        let status = self.status().await.expect("the mesh's status");
        status["generation"].as_u64().expect("a generation")
    }

    async fn in_force_after(&self, before: u64) {
        eventually("the change is in force", CHANGE_LIMIT, async || {
            let generation = self.settled_for_a_while().await?;
            if generation > before {
                return Ok(());
            }
            let faults = self.status().await?["config"]["faults"].to_string();
            Err(format!("still generation {before}; faults: {faults}"))
        })
        .await;
    }

    /// `GET /status` of the mesh process.
    pub async fn status(&self) -> Result<Value, String> {
        let answer = Call::get("mesh", "/status").send(self.api()).await;
        let answer = answer.map_err(|error| format!("the mesh's API: {error:#}"))?;
        if answer.status != 200 {
            return Err(format!(
                "the mesh's API: {} {}",
                answer.status,
                answer.text()
            ));
        }
        Ok(answer.json())
    }

    /// The mesh process' HTTP API.
    pub fn api(&self) -> SocketAddr {
        SocketAddr::from(([127, self.base, 0, 1], 15014))
    }

    /// The mesh process' gRPC port.
    pub fn grpc(&self) -> SocketAddr {
        SocketAddr::from(([127, self.base, 0, 1], 15012))
    }

    /// What runs, as `instances.json` says.
    pub fn instances(&self) -> Result<Vec<Instance>, String> {
        let file = self.instances_file()?;
        let list = file["instances"].as_array().ok_or("no instances")?;
        list.iter().map(parse_instance).collect()
    }

    fn instances_file(&self) -> Result<Value, String> {
        let text = fs::read(self.state.join("instances.json"))
            .map_err(|e| format!("instances.json: {e}"))?;
        serde_json::from_slice(&text).map_err(|e| format!("instances.json: {e}"))
    }

    /// The instance called `name` (`reviews-v1-0`).
    pub fn instance(&self, name: &str) -> Instance {
        let all = self.instances().expect("instances.json");
        let found = all.iter().find(|i| i.name == name);
        found
            .unwrap_or_else(|| panic!("no instance {name} in {all:?}"))
            .clone()
    }

    /// Where the application of `instance` reaches `service` (its name, in namespace default): its sidecar.
    pub fn outbound(&self, instance: &str, service: &str, port: u16) -> SocketAddr {
        self.outbound_to(
            instance,
            &format!("{service}.default.svc.cluster.local"),
            port,
        )
    }

    /// The same, for a service by its full host.
    pub fn outbound_to(&self, instance: &str, host: &str, port: u16) -> SocketAddr {
        let file = self.instances_file().expect("instances.json");
        let number = file["services"][host].as_u64();
        let number = number.unwrap_or_else(|| panic!("no service {host} in {file}"));
        let number = u8::try_from(number).expect("a number below 255");
        let slot = self.instance(instance).slot;
        SocketAddr::from(([127, self.base, slot, number], port))
    }

    /// Where others reach a port of `instance`: its sidecar.
    pub fn inbound(&self, instance: &str, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.instance(instance).address), port)
    }

    /// Runs a verb of `reeve` on this mesh.
    pub async fn reeve(&self, args: &[&str]) -> Outcome {
        let state = self.state.display().to_string();
        run(
            &binary("reeve"),
            args,
            &[("REEVE_STATE", &state)],
            VERB_LIMIT,
        )
        .await
    }

    /// Runs a verb of `reeve` that must end with exit code 0.
    pub async fn reeve_ok(&self, args: &[&str]) -> Outcome {
        let outcome = self.reeve(args).await;
        assert_eq!(
            outcome.code,
            Some(0),
            "reeve {}: {}",
            args.join(" "),
            outcome.text()
        );
        outcome
    }

    /// The mesh process, as the supervisor last said.
    pub fn mesh_pid(&self) -> Option<i32> {
        let text = fs::read(self.state.join("supervisor.json")).ok()?;
        let record: Value = serde_json::from_slice(&text).ok()?;
        i32::try_from(record["mesh_pid"].as_i64()?).ok()
    }

    /// The supervisor's process.
    pub fn supervisor_pid(&self) -> i32 {
        i32::try_from(self.supervisor.id()).expect("a process id")
    }

    /// Every process of the mesh by name.
    pub fn pids(&self) -> Vec<(String, i32)> {
        let mut pids = vec![("supervisor".to_owned(), self.supervisor_pid())];
        pids.extend(self.mesh_pid().map(|pid| ("mesh".to_owned(), pid)));
        for instance in self.instances().unwrap_or_default() {
            pids.extend(
                instance
                    .app_pid
                    .map(|pid| (format!("{} app", instance.name), pid)),
            );
            pids.extend(
                instance
                    .sidecar_pid
                    .map(|pid| (format!("{} sidecar", instance.name), pid)),
            );
        }
        pids
    }

    /// Kills a process of this mesh with SIGKILL.
    pub fn kill_process(&self, pid: i32) {
        let pid = Pid::from_raw(pid).expect("a process id");
        kill_process(pid, Signal::KILL).expect("the process to kill");
    }

    fn signal_supervisor(&self, signal: Signal) {
        let pid = Pid::from_raw(self.supervisor_pid()).expect("a process id");
        // It may have ended already.
        kill_process(pid, signal).unwrap_or_default();
    }

    /// A file of the state directory as text; empty when it is not there.
    pub fn log(&self, name: &str) -> String {
        let text = fs::read(self.state.join("logs").join(name)).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn show_logs(&self) {
        eprintln!("---- state: {} (kept) ----", self.state.display());
        show_tail(&self.state.join("supervisor.out"));
        let Ok(entries) = fs::read_dir(self.state.join("logs")) else {
            return;
        };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            show_tail(&path);
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if !self.stopped {
            self.signal_supervisor(Signal::TERM);
            let began = Instant::now();
            while began.elapsed() < STOP_LIMIT && matches!(self.supervisor.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            if matches!(self.supervisor.try_wait(), Ok(None)) {
                let pids = self.pids();
                for (_, pid) in pids {
                    let pid = Pid::from_raw(pid).expect("a process id");
                    kill_process(pid, Signal::KILL).unwrap_or_default();
                }
                drop(self.supervisor.wait());
            }
        }
        if std::thread::panicking() {
            self.show_logs();
        } else {
            drop(fs::remove_dir_all(&self.state));
        }
    }
}

/// Waits until no other mesh of these tests runs, and keeps it so.
pub async fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

/// Whether a process runs (one that is dead but not yet waited for does not).
pub fn alive(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The state follows the command name, which is in parentheses (proc(5)).
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next());
    !matches!(state, Some("Z" | "X"))
}

fn spawn(folder: &Folder, state: &Path, base: u8, how: &Start) -> io::Result<Child> {
    let reeve = binary("reeve");
    binary("reeve-bookinfo");
    let mut words: Vec<String> = how.wrapper.clone();
    words.push(reeve.display().to_string());
    words.push("up".to_owned());
    words.push("--base".to_owned());
    words.push(base.to_string());
    words.push("-f".to_owned());
    words.push(folder.path().display().to_string());
    words.push("--state".to_owned());
    words.push(state.display().to_string());
    words.extend(how.args.iter().cloned());
    let output = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(state.join("supervisor.out"))?;
    Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
}

/// A base whose addresses nobody uses; successive meshes get different ones.
fn free_base() -> u8 {
    let start = u8::try_from(std::process::id() % 100).unwrap_or_default();
    for _ in 0..150 {
        let step = NEXT_BASE.fetch_add(1, Ordering::Relaxed);
        let base = 100 + (start + step % 150) % 150;
        let free = |port| TcpListener::bind((Ipv4Addr::new(127, base, 0, 1), port)).is_ok();
        if [15000, 15012, 15014].into_iter().all(free) {
            return base;
        }
    }
    panic!("no free 127.X addresses");
}

fn parse_instance(value: &Value) -> Result<Instance, String> {
    let wrong = || format!("not an instance: {value}");
    let address = |name: &str| {
        value[name]
            .as_str()
            .and_then(|a| a.parse().ok())
            .ok_or_else(wrong)
    };
    let pid = |name: &str| value[name].as_i64().and_then(|pid| i32::try_from(pid).ok());
    Ok(Instance {
        name: value["instance"].as_str().ok_or_else(wrong)?.to_owned(),
        slot: value["slot"]
            .as_u64()
            .and_then(|s| u8::try_from(s).ok())
            .ok_or_else(wrong)?,
        address: address("address")?,
        app_address: address("app_address")?,
        app_pid: pid("app_pid"),
        sidecar_pid: pid("sidecar_pid"),
        healthy: value["healthy"] == true,
    })
}

fn show_tail(path: &Path) {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    eprintln!("---- {} ({} lines) ----", path.display(), lines.len());
    for line in lines.iter().skip(lines.len().saturating_sub(25)) {
        let shown: String = line.chars().take(400).collect();
        eprintln!("{shown}");
    }
}
