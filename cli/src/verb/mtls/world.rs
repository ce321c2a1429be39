//! The mesh and its trail, as the verbs look at them.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use reeve_control::migration::Landscape;
use reeve_core::{Clock as _, SystemClock, UnixTime};

use crate::{
    evidence::{self, Evidence, EvidenceError},
    input,
    problem::Problem,
    state::{StateArgs, StateDir},
    verb::{audit::LogArgs, duration, policy::finish_interrupted},
};

/// Which time is looked at, of which mesh.
#[derive(Args, Clone, Debug)]
pub(super) struct WorldArgs {
    /// What came since then counts: RFC 3339, seconds since 1970, or 7d for seven days ago.
    #[arg(long, value_name = "TIME", default_value = "7d")]
    pub(super) since: String,
    /// The longest cycle in which callers are known to come; a port is ready when it was watched for so long.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub(super) cycle: Duration,
    /// The configuration folder [default: the running mesh's].
    #[arg(short = 'f', long, value_name = "FOLDER")]
    pub(super) folder: Option<PathBuf>,
    #[command(flatten)]
    pub(super) state: StateArgs,
}

/// A mesh.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) folder: PathBuf,
    pub(super) state: StateDir,
}

impl World {
    /// The mesh that is meant.
    pub(super) fn of(folder: Option<&PathBuf>, state: &StateArgs) -> Result<Self, Problem> {
        let state = state.existing()?;
        let folder = match folder {
            Some(folder) => folder.clone(),
            None => state.supervisor()?.folder,
        };
        Ok(Self { folder, state })
    }

    /// The same, to change it: what was interrupted there is finished first.
    pub(super) fn to_change(folder: Option<&PathBuf>, state: &StateArgs) -> Result<Self, Problem> {
        let world = Self::of(folder, state)?;
        finish_interrupted(&world.folder)?;
        Ok(world)
    }

    /// The configuration as it stands.
    pub(super) fn landscape(&self) -> Result<Landscape, Problem> {
        Landscape::read(&self.folder).map_err(|faults| {
            let faults: Vec<_> = faults.iter().take(5).map(ToString::to_string).collect();
            Problem::new(format!(
                "the configuration is refused: {}",
                faults.join("; ")
            ))
            .at(self.folder.display())
        })
    }

    /// What the trail says of `since` to now.
    pub(super) fn evidence(&self, since: UnixTime, cycle: Duration) -> Result<Evidence, Problem> {
        let log = evidence::open(&self.state.audit()).map_err(|e| unknown(&e))?;
        let times = (since, SystemClock.now());
        Evidence::gather(&self.folder, (&log.0, &log.1), times, cycle).map_err(|e| unknown(&e))
    }
}

impl WorldArgs {
    pub(super) fn world(&self) -> Result<World, Problem> {
        World::of(self.folder.as_ref(), &self.state)
    }

    pub(super) fn evidence(&self) -> Result<Evidence, Problem> {
        let since = input::time(&self.since, SystemClock.now()).map_err(Problem::new)?;
        self.world()?.evidence(since, self.cycle)
    }

    /// Puts on record that the trail was read.
    pub(super) fn tell(&self, evidence: &Evidence) {
        let calls = evidence.observed.edges().count();
        LogArgs::of(&self.state).tell(calls);
    }
}

fn unknown(error: &EvidenceError) -> Problem {
    let problem = Problem::new(error);
    match error {
        EvidenceError::Config(_) => problem.fix("`reeve config check -f FOLDER` names each fault"),
        EvidenceError::Trail(_) => {
            problem.fix("name the mesh's state directory with --state; `reeve audit verify` tells what is wrong with a log")
        }
    }
}
