//! What stands beside the configuration and changes without it: certificates in files, addresses behind names, grants.

use reeve_core::error_chain;

use super::{ApplyError, Proxy};
use crate::{
    ledger::lock,
    snapshot::{Snapshot, SnapshotError, Surroundings},
};

/// Why a change beside the configuration is not in force.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// There is no configuration to put it beside.
    #[error("there is no configuration yet")]
    NoSnapshot,
    /// It does not compile.
    #[error("it cannot be used beside the configuration in force")]
    Compile(#[source] SnapshotError),
    /// It cannot be put in force.
    #[error("it cannot be put in force")]
    Apply(#[source] ApplyError),
}

impl Proxy {
    /// Compiles the configuration in force once more, since what it refers to has changed.
    pub(super) fn refresh(&self) {
        match self.switching(|_| Ok(())) {
            Ok(()) => tracing::info!("certificates or addresses were taken up anew"),
            Err(SwitchError::NoSnapshot | SwitchError::Apply(ApplyError::Draining)) => {}
            Err(error) => {
                let error = error_chain(&error);
                tracing::error!(%error, "what has changed cannot be put in force");
            }
        }
    }

    /// Makes a change beside the configuration while no other is made, then compiles the one in force again and puts it
    /// in force.
    pub(crate) fn switching<T, E: From<SwitchError>>(
        &self,
        change: impl FnOnce(&Snapshot) -> Result<T, E>,
    ) -> Result<T, E> {
        let listeners = lock(&self.listeners);
        if self.stop.drain.is_cancelled() {
            return Err(SwitchError::Apply(ApplyError::Draining).into());
        }
        let held = self.shared.snapshot().ok_or(SwitchError::NoSnapshot)?;
        let changed = change(&held)?;
        let config = held.config().clone();
        let snapshot = Snapshot::compile_after(config, Some(&held), &self.surroundings())
            .map_err(SwitchError::Compile)?;
        self.put_in_force(listeners, snapshot)
            .map_err(SwitchError::Apply)?;
        Ok(changed)
    }

    /// The same snapshot with the grants that are in force by now: it may have been compiled before one began or ended.
    pub(super) fn with_break_glass(&self, snapshot: Snapshot) -> Result<Snapshot, ApplyError> {
        let trust = &snapshot.workload().break_glass;
        let break_glass = self.shared.break_glass.policies_under(trust);
        if *snapshot.break_glass == *break_glass {
            return Ok(snapshot);
        }
        let config = snapshot.config().clone();
        let around = Surroundings {
            break_glass,
            ..self.surroundings()
        };
        Snapshot::compile_after(config, Some(&snapshot), &around)
            .map_err(|error| ApplyError::BreakGlass(Box::new(error)))
    }
}
