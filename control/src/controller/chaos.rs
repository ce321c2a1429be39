//! Faults that are put into traffic on purpose: which are in, when they end, and switching all of them off at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, ErrorKind},
    path::Path,
    sync::Arc,
    time::Duration,
};

use reeve_core::{
    InstanceName, UnixTime,
    model::{Fault, ProxyConfig, Route},
};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{Controller, state::State};
use crate::Mesh;

/// In the state folder: while it is there, all faults are off.
const OFF_FILE: &str = "chaos-off";
/// How often it is looked whether a fault's time is over.
const LOOK: Duration = Duration::from_secs(1);

/// All faults on purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chaos {
    /// Whether they are switched off as a whole.
    pub off: bool,
    /// Each of them.
    pub faults: Vec<ChaosFault>,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChaosFault {
    /// Whose it is: `VirtualService default/ratings`.
    pub origin: String,
    /// What it does, in words.
    pub what: String,
    /// When it ends by itself.
    pub until: Option<UnixTime>,
    /// Whether it is in.
    pub state: FaultState,
}

/// Whether a fault is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultState {
    /// It happens.
    Active,
    /// Its time is over.
    Over,
    /// It is switched off.
    Off,
}

/// Faults that went in or out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultChanges {
    /// In.
    pub began: Vec<ChaosFault>,
    /// Out.
    pub ended: Vec<ChaosFault>,
}

impl Chaos {
    fn of(mesh: Option<&Mesh>, off: bool, now: UnixTime) -> Self {
        let routes = mesh.into_iter().flat_map(|mesh| &mesh.virtual_services);
        let faults = routes
            .flat_map(|service| &service.http)
            .filter_map(|route| route.fault.as_ref());
        let each = faults.flat_map(|fault| {
            let state = match (off, fault.is_over(now)) {
                (_, true) => FaultState::Over,
                (true, false) => FaultState::Off,
                (false, false) => FaultState::Active,
            };
            let what = fault.describe().into_iter();
            what.map(move |what| ChaosFault {
                origin: fault.origin.clone(),
                what,
                until: fault.until,
                state,
            })
        });
        let faults: BTreeSet<_> = each.collect();
        Self {
            off,
            faults: faults.into_iter().collect(),
        }
    }

    /// Those that happen now.
    fn active(&self) -> BTreeSet<ChaosFault> {
        let active = self.faults.iter();
        let active = active.filter(|fault| fault.state == FaultState::Active);
        active.cloned().collect()
    }
}

/// Whether all faults are off, as the state folder says. What cannot be told is off.
pub(super) fn is_off(state: &Path) -> bool {
    match fs::exists(state.join(OFF_FILE)) {
        Ok(there) => there,
        Err(error) => {
            tracing::warn!(%error, "whether faults are off cannot be read, so they are");
            true
        }
    }
}

/// Takes faults that do not happen out of configurations.
pub(super) fn strip(configs: &mut BTreeMap<InstanceName, ProxyConfig>, off: bool, now: UnixTime) {
    let gone = |fault: &Fault| off || fault.is_over(now);
    let is_gone = |route: &Route| route.fault.as_deref().is_some_and(gone);
    for table in configs.values_mut().flat_map(|c| c.routes.values_mut()) {
        let mut routes = table.virtual_hosts.values().flat_map(|host| &host.routes);
        if !routes.any(is_gone) {
            continue;
        }
        for host in Arc::make_mut(table).virtual_hosts.values_mut() {
            if !host.routes.iter().any(is_gone) {
                continue;
            }
            let routes = Arc::make_mut(host).routes.iter_mut();
            for route in routes.filter(|route| is_gone(route)) {
                route.fault = None;
            }
        }
    }
}

impl State {
    /// The faults of the mesh in force.
    fn chaos(&self, now: UnixTime) -> Chaos {
        Chaos::of(self.mesh.as_deref(), self.chaos_off, now)
    }

    /// Which faults went in or out since this was last asked.
    pub(super) fn fault_changes(&mut self, now: UnixTime) -> FaultChanges {
        let active = self.chaos(now).active();
        let before = std::mem::replace(&mut self.faults_in, active);
        FaultChanges {
            began: self.faults_in.difference(&before).cloned().collect(),
            ended: before.difference(&self.faults_in).cloned().collect(),
        }
    }
}

impl Controller {
    /// Every fault on purpose, and whether it is in.
    pub fn chaos(&self) -> Chaos {
        self.state().chaos(self.options().clock.now())
    }

    /// Switches all faults off, or lets them in again; it holds over restarts. Blocks on files.
    pub fn switch_chaos(&self, off: bool) -> io::Result<()> {
        let path = self.options().state.join(OFF_FILE);
        if off {
            fs::write(path, "")?;
        } else if let Err(error) = fs::remove_file(path)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut state = self.state();
        state.chaos_off = off;
        let told = self.publish(&mut state);
        drop(state);
        self.tell(None, told);
        Ok(())
    }

    /// Publishes what changes when a fault's time is over, without end.
    pub(super) async fn end_faults(self: Arc<Self>) {
        loop {
            sleep(LOOK).await;
            let now = self.options().clock.now();
            let mut state = self.state();
            if state.chaos(now).active() == state.faults_in {
                continue;
            }
            let told = self.publish(&mut state);
            drop(state);
            self.tell(None, told);
        }
    }
}
