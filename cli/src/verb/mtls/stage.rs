//! The running mesh, as a migration drives it: its folder, its sidecars and its trail.

use std::{collections::BTreeSet, time::Duration};

use reeve_console::MigrationNote;
use reeve_control::{
    PolicyFolder,
    migration::{Edit, Landscape, PlannedWave, PortStand, Target, Verdict as Ready},
};
use reeve_core::{Clock as _, SystemClock, UnixTime, model::Generation};
use tokio_util::sync::CancellationToken;

use super::{
    drive::Stage,
    journal::{Journal, Journals},
    live::{Look, Watch},
    migrate::told,
    world::World,
};
use crate::{
    output,
    problem::Problem,
    verb::{mesh_api::MeshApi, operator, policy::who, status},
};

/// How long a change may take to be in force everywhere.
const IN_FORCE: Duration = Duration::from_secs(30);
/// How long the mesh process may be away before a step is not taken for want of a record.
const ON_RECORD: Duration = Duration::from_secs(30);
/// How long is looked for records of who was refused.
const NAMED: Duration = Duration::from_secs(5);
/// How often.
const LOOK: Duration = Duration::from_millis(500);
/// Callers that are named.
const MAX_NAMED: usize = 10;

/// The running mesh.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) api: MeshApi,
    pub(super) id: String,
    /// From when on evidence counts.
    pub(super) window: UnixTime,
    pub(super) cycle: Duration,
    pub(super) journals: Journals,
    pub(super) world: World,
    /// The wave that is watched.
    pub(super) watch: Option<(String, Watch)>,
    pub(super) stop: CancellationToken,
}

impl Live {
    /// The migration of `journal`, on the mesh as it is.
    pub(super) fn of(
        journal: &Journal,
        journals: Journals,
        world: World,
        stop: CancellationToken,
    ) -> Result<Self, Problem> {
        Ok(Self {
            api: MeshApi::of(&world.state)?,
            id: journal.id.clone(),
            window: journal.plan.window.from,
            cycle: journal.plan.cycle,
            journals,
            world,
            watch: None,
            stop,
        })
    }

    /// Writes a folder in place of the one that `landscape` was read from, and waits until it is in force.
    pub(super) async fn write(
        &self,
        landscape: &Landscape,
        next: &PolicyFolder,
    ) -> Result<Generation, Problem> {
        let before = self.generation().await;
        let folder = &self.world.folder;
        let unwritten = |error: reeve_control::PolicyFolderError| {
            Problem::because("the configuration cannot be changed", &error).at(folder.display())
        };
        if landscape.files().differing(next).is_empty() {
            return self.everywhere(before).await;
        }
        let memo = format!("mtls migration {}", self.id);
        let change = landscape
            .files()
            .replace(folder, next, &memo)
            .map_err(unwritten)?;
        change.finish().map_err(unwritten)?;
        self.everywhere(Generation(before.0.saturating_add(1)))
            .await
    }

    /// The newest generation; a mesh process that is being restarted is waited for.
    async fn generation(&self) -> Generation {
        let deadline = tokio::time::Instant::now() + IN_FORCE;
        loop {
            match self.api.status().await {
                Ok(status) if status.generation.0 > 0 => return status.generation,
                Ok(_) | Err(_) if tokio::time::Instant::now() >= deadline => return Generation(0),
                Ok(_) | Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn everywhere(&self, generation: Generation) -> Result<Generation, Problem> {
        let wanted = status::Wanted::Number(generation);
        match status::wait(&self.api, wanted, IN_FORCE).await? {
            true => Ok(generation),
            false => Err(Problem::new(format!(
                "generation {generation} did not come into force everywhere within {} s",
                IN_FORCE.as_secs()
            ))
            .fix("`reeve status` names the proxies that lack it")),
        }
    }
}

impl Stage for Live {
    fn now(&self) -> UnixTime {
        SystemClock.now()
    }

    async fn settled(&mut self, _wave: &PlannedWave) -> Result<(), Problem> {
        match status::wait(&self.api, status::Wanted::Latest, IN_FORCE).await? {
            true => Ok(()),
            false => Err(Problem::new(
                "not every proxy has acknowledged the newest generation",
            )),
        }
    }

    fn obstacles(&mut self, wave: &PlannedWave) -> Result<Vec<String>, Problem> {
        let evidence = self.world.evidence(self.window, self.cycle)?;
        let mut found = Vec::new();
        for target in &wave.targets {
            let Target::Workload(key, ports) = target else {
                continue;
            };
            let own = evidence.ports.iter().filter(|p| p.workload == *key);
            let meant = own.filter(|p| ports.is_empty() || ports.contains(&p.port));
            let bad = meant.filter(|p| matches!(p.verdict, Ready::Blocked | Ready::Unproven));
            found.extend(bad.map(|p| {
                let remedy = p.obstacles.first().map(|o| format!(" → {}", o.remedy));
                format!(
                    "{}:{}: {}{}",
                    p.workload,
                    p.port,
                    p.reason,
                    remedy.unwrap_or_default()
                )
            }));
        }
        Ok(found)
    }

    async fn look(&mut self, wave: &PlannedWave) -> Result<Look, Problem> {
        let same = self
            .watch
            .as_ref()
            .is_some_and(|(name, _)| *name == wave.name);
        if !same {
            let watch = Watch::new(&self.world.state, &wave.targets, &wave.senders);
            self.watch = Some((wave.name.clone(), watch));
        }
        match &mut self.watch {
            Some((_, watch)) => watch.look().await,
            None => Ok(Look::default()),
        }
    }

    fn edits(&mut self, wave: &PlannedWave) -> Result<Vec<Edit>, Problem> {
        let flipped = self.world.landscape()?.flip(&wave.targets);
        let (edits, _) = flipped.map_err(|e| Problem::because("the wave cannot be flipped", &e))?;
        Ok(edits)
    }

    fn is_flipped(&mut self, wave: &PlannedWave) -> Result<bool, Problem> {
        Ok(self.world.landscape()?.is_flipped(&wave.targets))
    }

    async fn flip(&mut self, wave: &PlannedWave) -> Result<Generation, Problem> {
        let landscape = self.world.landscape()?;
        let flipped = landscape.flip(&wave.targets);
        let (_, next) = flipped.map_err(|e| Problem::because("the wave cannot be flipped", &e))?;
        self.write(&landscape, &next).await
    }

    async fn revert(&mut self, edits: &[Edit]) -> Result<(), Problem> {
        let landscape = self.world.landscape()?;
        let next = landscape.revert(edits).map_err(|error| {
            let told: Vec<_> = edits.iter().map(told).collect();
            Problem::because("the modes could not be put back", &error)
                .fix(format!("put them back by hand: {}", told.join("; ")))
        })?;
        self.write(&landscape, &next).await.map(drop)
    }

    async fn refused(&mut self, wave: &PlannedWave, since: UnixTime) -> Vec<String> {
        let deadline = tokio::time::Instant::now() + NAMED;
        let expected = self.watch.as_ref().is_some();
        loop {
            let named = self
                .world
                .evidence(since, self.cycle)
                .map(|evidence| refused_in(&evidence.ports, &wave.targets, since));
            let named = named.unwrap_or_default();
            let over = tokio::time::Instant::now() >= deadline;
            if !named.is_empty() || over || !expected {
                return named.into_iter().take(MAX_NAMED).collect();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn keep(&mut self, journal: &Journal) -> Result<(), Problem> {
        self.journals.keep(journal)
    }

    async fn note(&mut self, phase: &str, wave: &str, text: &str) -> Result<(), Problem> {
        let note = MigrationNote {
            migration: self.id.clone(),
            phase: phase.to_owned(),
            wave: wave.to_owned(),
            text: text.chars().take(1_000).collect(),
            by: who(),
        };
        let deadline = tokio::time::Instant::now() + ON_RECORD;
        loop {
            let refused =
                |why: &str| Problem::new(format!("the mesh process refused the record: {why}"));
            let posted = operator::post(
                &self.world.state,
                "/admin/migration",
                &note,
                LOOK * 10,
                refused,
            )
            .await;
            match posted {
                Ok(_) => return Ok(()),
                Err(problem) if tokio::time::Instant::now() >= deadline => return Err(problem),
                // A mesh process that is being restarted.
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    fn tell(&self, text: &str) {
        output::note(text);
    }

    async fn stopped(&mut self) {
        self.stop.cancelled().await;
    }
}

/// Who was refused at the targets' ports.
fn refused_in(ports: &[PortStand], targets: &[Target], since: UnixTime) -> Vec<String> {
    let mut named = BTreeSet::new();
    for target in targets {
        let Target::Workload(key, only) = target else {
            continue;
        };
        let own = ports.iter().filter(|p| p.workload == *key);
        for port in own.filter(|p| only.is_empty() || only.contains(&p.port)) {
            let refused = port
                .calls
                .iter()
                .filter(|c| c.refused > 0 && c.last >= since);
            named.extend(refused.map(|call| {
                format!(
                    "{} ({}) at {}:{}, {} times",
                    call.caller, call.address, port.workload, port.port, call.refused
                )
            }));
        }
    }
    named.into_iter().collect()
}
