//! Runs a mesh of local processes and keeps them running, for `reeve up` and `reeve demo`.
//!
//! Flow: the folder is read through `reeve_control::load`; each workload instance of it gets a slot of loopback
//! addresses and a task ([`instance`]) that keeps its application and its sidecar running and watches their health;
//! the mesh process is kept likewise. What runs is written to `instances.json` ([`roster`]), from which `control`
//! takes endpoints. Edits of the folder become plans, or are refused and told.
//!
//! Invariants: every process is started on this thread, gets a parent-death signal and a group of its own, and is
//! named to the guard, so that nothing outlives the supervisor, however it ends; a bad edit changes nothing.

mod addresses;
mod backoff;
mod environment;
pub(crate) mod escaped;
mod folder;
mod guard;
mod health;
mod instance;
mod keep;
pub(crate) mod logfile;
mod mesh_process;
pub(crate) mod network;
mod notices;
mod orders;
mod process;
mod reconcile;
mod replica;
mod roster;
mod signals;
mod spread;
pub(crate) mod succession;
mod whois;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use reeve_bucket::BucketUrl;
use reeve_control::{Mesh, instances::Instances};
use reeve_core::{InstanceName, model::CaptureMode};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub(crate) use addresses::BaseClaim;
pub(crate) use network::{GROUP as SIDECAR_GROUP, Network};
pub(crate) use notices::Notices;
pub(crate) use roster::Roster;
pub(crate) use signals::obey_signals;

use crate::{
    mesh::CustodyArgs,
    problem::Problem,
    state::{ClaimedState, StateDir, SupervisorRecord},
    supervisor::{environment::Programs, guard::Guard, reconcile::Reconciler},
};

/// How long the mesh process may take to answer before sidecars are started anyway.
const MESH_START: Duration = Duration::from_secs(10);

/// What a supervisor needs.
#[derive(Debug)]
pub(crate) struct Options {
    /// The configuration folder.
    pub(crate) folder: PathBuf,
    /// The state directory, held by this process.
    pub(crate) state: ClaimedState,
    /// The addresses, held by this process.
    pub(crate) base: BaseClaim,
    /// How traffic is captured, each instance in a network namespace of its own; `None`: not at all.
    pub(crate) intercept: Option<CaptureMode>,
    /// Where the mesh's keys are.
    pub(crate) custody: CustodyArgs,
    /// The bucket that keeps the audit log, too.
    pub(crate) audit_store: Option<BucketUrl>,
    /// Remove the state directory if this process is killed.
    pub(crate) temporary: bool,
    /// What people are told.
    pub(crate) notices: Notices,
    /// When to stop, in order.
    pub(crate) stop: CancellationToken,
    /// When to stop at once.
    pub(crate) abort: CancellationToken,
}

/// What every part of the supervisor shares.
#[derive(Debug)]
pub(crate) struct Context {
    reeve: PathBuf,
    programs: Programs,
    state: StateDir,
    base: u8,
    network: Option<Network>,
    custody: CustodyArgs,
    audit_store: Option<BucketUrl>,
    marker: String,
    guard: Guard,
    roster: Arc<Roster>,
    notices: Notices,
    stop: CancellationToken,
    abort: CancellationToken,
    replacing: Arc<AsyncMutex<()>>,
    restarts: Arc<succession::Restarts>,
    places: Mutex<BTreeMap<u8, Arc<AsyncMutex<()>>>>,
    /// The soft limit of open files that this process was started with, and all that it starts.
    open_files: Option<u64>,
}

impl Context {
    fn new(options: &Options, roster: Arc<Roster>) -> Result<Self, Problem> {
        let reeve = std::env::current_exe().map_err(|error| {
            Problem::because("the running reeve binary cannot be found", &error)
        })?;
        let folder = options.folder.canonicalize().map_err(|error| {
            Problem::because("the configuration folder cannot be read", &error)
                .at(options.folder.display())
        })?;
        let marker = hex::encode(rand::random::<[u8; 16]>());
        let temporary = options.temporary.then(|| options.state.path());
        let network = options
            .intercept
            .map(|mode| Network::prepare(options.base.base(), mode, &options.state))
            .transpose()?;
        let guard = Guard::start(&reeve, &marker, temporary, network)?;
        if let Some(network) = &network {
            network.make()?;
        }
        Ok(Self {
            programs: Programs {
                bookinfo: reeve.with_file_name("reeve-bookinfo"),
                reeve: reeve.clone(),
                folder,
            },
            reeve,
            state: (*options.state).clone(),
            base: options.base.base(),
            network,
            audit_store: options.audit_store.clone(),
            custody: options.custody.absolute().map_err(|error| {
                Problem::because("where the keys are cannot be understood", &error)
            })?,
            marker,
            guard,
            roster,
            notices: options.notices.clone(),
            stop: options.stop.clone(),
            abort: options.abort.clone(),
            replacing: Arc::default(),
            restarts: Arc::default(),
            places: Mutex::default(),
            open_files: reeve_sidecar::hardening::raise_open_files(),
        })
    }

    /// Waits until no earlier instance runs in `slot` any more.
    async fn place(&self, slot: u8) -> OwnedMutexGuard<()> {
        let place = {
            let mut places = self
                .places
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            places.entry(slot).or_default().clone()
        };
        place.lock_owned().await
    }

    /// The network namespace of the instance in `slot`, if instances have one of their own.
    fn namespace(&self, slot: u8) -> Option<String> {
        self.network.map(|network| network.name(slot))
    }

    /// The environment of our own processes.
    fn own_environment(&self) -> Vec<(OsString, OsString)> {
        let own = ["RUST_LOG", "RUST_BACKTRACE"];
        let own = own
            .iter()
            .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
        environment::inherited().into_iter().chain(own).collect()
    }
}

/// A mesh that runs.
#[derive(Debug)]
pub(crate) struct Supervisor {
    context: Arc<Context>,
    reconciler: Reconciler,
    mesh_stop: CancellationToken,
    mesh: JoinHandle<()>,
    background: Vec<JoinHandle<()>>,
    seen: folder::Fingerprint,
    _state: ClaimedState,
    _base: BaseClaim,
}

impl Supervisor {
    /// Starts everything; returns when the mesh process answers (or has had its time) and all others are started.
    pub(crate) async fn start(options: Options) -> Result<Self, Problem> {
        let seen = folder::fingerprint(&options.folder);
        let mesh = load(&options.folder)?;
        let plan = first_plan(&options, &mesh)?;
        let roster = Arc::new(Roster::new(plan));
        let context = Arc::new(Context::new(&options, roster.clone())?);
        let listener = whois::bind(&options.state.supervisor_socket())?;
        if context.network.is_some() {
            network::open_to_sidecars(&options.state.supervisor_socket())?;
        }
        for warning in &mesh.warnings {
            context.notices.tell(warning.to_string());
        }
        let file = options.state.instances();
        let notices = context.notices.clone();
        let keeper = roster.clone();
        let desk = orders::Desk {
            roster: roster.clone(),
            restarts: context.restarts.clone(),
        };
        let background = vec![
            tokio::spawn(whois::serve(listener, desk)),
            tokio::spawn(async move { keeper.keep_file(file, notices).await }),
            tokio::spawn(logfile::bound(
                options.state.logs(),
                context.notices.clone(),
            )),
            tokio::spawn(record(context.clone())),
        ];
        let mesh_stop = CancellationToken::new();
        let running = tokio::spawn(mesh_process::run(context.clone(), mesh_stop.clone()));
        let api = roster.instances().mesh.api;
        let mut reconciler = Reconciler::new(context.clone());
        if !mesh_process::answers(api, MESH_START, &context.stop).await
            && !context.stop.is_cancelled()
        {
            context.notices.tell(format!(
                "the mesh process does not answer at http://{api}/healthz yet (its output: {}); going on",
                context.state.logs().join("mesh.log").display()
            ));
        }
        if !context.stop.is_cancelled() {
            reconciler.apply(&mesh);
        }
        Ok(Self {
            context,
            reconciler,
            mesh_stop,
            mesh: running,
            background,
            seen,
            _state: options.state,
            _base: options.base,
        })
    }

    /// What runs.
    pub(crate) fn roster(&self) -> Arc<Roster> {
        self.context.roster.clone()
    }

    /// Follows edits until told to stop, then stops sidecars (draining), applications and the mesh process, in order.
    pub(crate) async fn run(mut self) -> Stopped {
        let folder = self.context.programs.folder.clone();
        self.seen = relative_to(&folder, &self.seen);
        loop {
            // Cancel-safe: looking at the folder changes nothing.
            let now = tokio::select! {
                now = folder::changed(&folder, &self.seen) => now,
                () = self.context.stop.cancelled() => break,
                () = self.context.abort.cancelled() => break,
            };
            self.seen = now;
            self.reconciler.reload(&folder);
        }
        self.shut_down().await
    }

    async fn shut_down(self) -> Stopped {
        self.reconciler.retire_all().await;
        // After the sidecars: it takes their last records.
        self.mesh_stop.cancel();
        drop(self.mesh.await);
        for task in self.background {
            task.abort();
        }
        drop(std::fs::remove_file(self.context.state.supervisor_socket()));
        drop(std::fs::remove_file(self.context.state.supervisor_record()));
        Stopped {
            context: self.context,
            _state: self._state,
            _base: self._base,
        }
    }
}

/// A mesh that has ended; its state and addresses are still held.
#[derive(Debug)]
pub(crate) struct Stopped {
    context: Arc<Context>,
    _state: ClaimedState,
    _base: BaseClaim,
}

impl Stopped {
    /// Ends the guard, which removes a temporary state directory.
    pub(crate) fn finish(self) {
        self.context.guard.dismiss();
    }
}

/// A fingerprint taken under another name of the folder does not count as a change.
fn relative_to(folder: &Path, seen: &folder::Fingerprint) -> folder::Fingerprint {
    let now = folder::fingerprint(folder);
    let same = now.len() == seen.len()
        && now
            .iter()
            .zip(seen)
            .all(|(a, b)| (a.1, a.2, a.3, a.4) == (b.1, b.2, b.3, b.4));
    if same { now } else { Vec::new() }
}

/// Reads the folder; all faults in one problem.
pub(crate) fn load(folder: &Path) -> Result<Mesh, Problem> {
    reeve_control::load(folder).map_err(|faults| {
        let text: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Problem::new(format!("the configuration is invalid\n{}", text.join("\n")))
            .at(folder.display())
            .fix(format!("see `reeve config check -f {}`", folder.display()))
            .into_answer()
    })
}

/// Who runs where: as it was at the last run, as far as it still fits.
fn first_plan(options: &Options, mesh: &Mesh) -> Result<Instances, Problem> {
    let base = options.base.base();
    let before = Instances::read(&options.state.instances()).ok();
    let mut plan = before
        .filter(|before| before.mesh.base == base && before.mesh.capture == options.intercept)
        .unwrap_or_else(|| Instances::new(base));
    plan.mesh.capture = options.intercept;
    let socket = |name: &InstanceName| {
        let captured = options.intercept.is_some();
        captured.then(|| options.state.replica_socket(name))
    };
    plan.plan_replicas(mesh.settings.audit_replicas, socket);
    plan.plan(&mesh.workloads, mesh.services.keys())
        .map_err(|error| {
            Problem::new(error)
                .at(options.folder.display())
                .into_answer()
        })?;
    addresses::check(&options.state, &plan)?;
    if options.intercept.is_none() {
        addresses::report_taken_ports(mesh, &plan, &options.notices);
    }
    Ok(plan)
}

/// Keeps `supervisor.json` in step, for as long as it is polled.
async fn record(context: Arc<Context>) {
    let mut changed = context.roster.subscribe();
    let mut written = None;
    loop {
        let record = SupervisorRecord {
            pid: std::process::id(),
            base: context.base,
            folder: context.programs.folder.clone(),
            mesh_pid: context.roster.mesh_pid(),
        };
        if written.as_ref() != Some(&record) {
            let path = context.state.supervisor_record();
            if let Err(error) = reeve_files::replace_json(&path, &record) {
                context.notices.tell(format!("{}: {error}", path.display()));
            }
            written = Some(record);
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}
