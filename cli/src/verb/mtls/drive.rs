//! Driving a migration: per wave shadow, flip, hold; forward, or that wave back.
//!
//! INVARIANTS: nothing is flipped before every sidecar of the wave and of its callers has acknowledged all that went before;
//! what is about to be done stands in the journal before it is done; whatever goes wrong in a hold, the wave is taken back
//! before this returns, and an error is what kept even that from being done.

use std::{future::Future, time::Duration};

use reeve_control::migration::{Edit, PlannedWave, Target};
use reeve_core::{UnixTime, model::Generation};
use tokio::time::Instant;

use super::{
    journal::{End, Journal, Phase},
    live::Look,
};
use crate::{
    problem::Problem,
    verb::rollout::judge::{Judgement, Thresholds},
};

/// How often the sidecars are asked: with the time that a change takes, this is the detection window.
pub(super) const ASK: Duration = Duration::from_millis(250);
/// How long a wave's sidecars may all be silent; longer, and nobody knows whether it does harm.
const BLIND: Duration = Duration::from_secs(10);
/// Requests of the shadow phase below which nothing is compared with them.
const MIN_BEFORE: u64 = 20;

/// How it is done.
#[derive(Clone, Debug)]
pub(super) struct How {
    /// How long what would be refused is watched before a flip.
    pub(super) shadow: Duration,
    /// How long a flip is watched.
    pub(super) hold: Duration,
    /// More refusals take a wave back.
    pub(super) max_refused: u64,
    /// The least share of requests that succeed, of that before the flip.
    pub(super) min_success: f64,
    /// The 99th percentile of latency may grow by this factor…
    pub(super) max_p99_factor: f64,
    /// …and must have grown by so much.
    pub(super) p99_slack: Duration,
}

/// The mesh that is migrated.
pub(super) trait Stage {
    /// Now, for the journal.
    fn now(&self) -> UnixTime;
    /// Waits until the wave's sidecars and those of its callers run the newest generation; else who does not.
    fn settled(&mut self, wave: &PlannedWave) -> impl Future<Output = Result<(), Problem>>;
    /// What stands in the way of the wave, on all that the trail says by now.
    fn obstacles(&mut self, wave: &PlannedWave) -> Result<Vec<String>, Problem>;
    /// What the wave's sidecars have counted since they were first asked of it.
    fn look(&mut self, wave: &PlannedWave) -> impl Future<Output = Result<Look, Problem>>;
    /// The edits that flip it.
    fn edits(&mut self, wave: &PlannedWave) -> Result<Vec<Edit>, Problem>;
    /// Whether the configuration as it stands has it flipped.
    fn is_flipped(&mut self, wave: &PlannedWave) -> Result<bool, Problem>;
    /// Makes the change, and waits until it is in force.
    fn flip(&mut self, wave: &PlannedWave) -> impl Future<Output = Result<Generation, Problem>>;
    /// Takes edits back, and waits until that is in force.
    fn revert(&mut self, edits: &[Edit]) -> impl Future<Output = Result<(), Problem>>;
    /// Who was refused at the wave's ports since then.
    fn refused(&mut self, wave: &PlannedWave, since: UnixTime)
    -> impl Future<Output = Vec<String>>;
    /// Writes the journal.
    fn keep(&mut self, journal: &Journal) -> Result<(), Problem>;
    /// Puts a step into the audit log.
    fn note(
        &mut self,
        phase: &str,
        wave: &str,
        text: &str,
    ) -> impl Future<Output = Result<(), Problem>>;
    /// Says how it goes.
    fn tell(&self, text: &str);
    /// Returns when somebody wants it to end. Cancel-safe.
    fn stopped(&mut self) -> impl Future<Output = ()>;
}

/// How a wave came out.
enum Came {
    Done,
    /// Nothing of it was changed, or all of it was taken back; why.
    Stopped(String),
}

/// Why a wave must be taken back, and when that was seen.
struct Harm {
    why: String,
    seen: Option<Instant>,
}

impl Harm {
    fn problem(problem: Problem) -> Self {
        Self {
            why: format!("{problem:#}"),
            seen: None,
        }
    }
}

/// Drives all waves that are not done. The journal says how it ended.
pub(super) async fn drive(
    how: &How,
    stage: &mut impl Stage,
    journal: &mut Journal,
) -> Result<(), Problem> {
    let waves = journal.plan.waves.clone();
    for (n, wave) in waves.iter().enumerate() {
        if phase(journal, n) == Phase::Done {
            continue;
        }
        let came = Wave { how, wave, n }.run(stage, journal).await?;
        if let Came::Stopped(why) = came {
            journal.end = Some(End::Stopped(why));
            return stage.keep(journal);
        }
    }
    journal.end = Some(End::Done);
    stage.keep(journal)
}

fn phase(journal: &Journal, n: usize) -> Phase {
    journal
        .waves
        .get(n)
        .map_or(Phase::Pending, |wave| wave.phase)
}

/// One wave on its way.
struct Wave<'a> {
    how: &'a How,
    wave: &'a PlannedWave,
    n: usize,
}

impl Wave<'_> {
    async fn run(&self, stage: &mut impl Stage, journal: &mut Journal) -> Result<Came, Problem> {
        // Whoever was here before us may have been killed anywhere.
        let interrupted = matches!(phase(journal, self.n), Phase::Flipping | Phase::Holding);
        if interrupted && stage.is_flipped(self.wave)? {
            return self.take_up(stage, journal).await;
        }
        if let Err(why) = stage.settled(self.wave).await {
            return self.stop(stage, journal, format!("{why:#}")).await;
        }
        let before = match self.shadow(stage, journal).await? {
            Ok(before) => before,
            Err(why) => return self.stop(stage, journal, why).await,
        };
        let edits = stage.edits(self.wave)?;
        let now = stage.now();
        self.set(journal, |state| {
            state.edits = edits;
            state.phase = Phase::Flipping;
            state.before = before.figures();
            state.flipped_at = Some(now);
        });
        let targets: Vec<_> = self.wave.targets.iter().map(ToString::to_string).collect();
        let text = format!("to STRICT: {}", targets.join(", "));
        // What is not on record is not done.
        stage.note("flip", &self.wave.name, &text).await?;
        self.happened(stage, journal, &text)?;
        let start = stage.look(self.wave).await?;
        match stage.flip(self.wave).await {
            Ok(generation) => {
                self.hold(stage, journal, generation, (&before, &start))
                    .await
            }
            Err(problem) => {
                self.back(stage, journal, format!("{problem:#}"), None)
                    .await
            }
        }
    }

    /// Goes on with a flip that is in the configuration: if it did harm while nobody watched, it is taken back.
    async fn take_up(
        &self,
        stage: &mut impl Stage,
        journal: &mut Journal,
    ) -> Result<Came, Problem> {
        let since = journal.waves.get(self.n).and_then(|wave| wave.flipped_at);
        let refused = stage.refused(self.wave, since.unwrap_or_default()).await;
        if let Some(who) = refused.first() {
            let why = format!("while nobody watched, STRICT refused {who}");
            return self.back(stage, journal, why, None).await;
        }
        self.happened(
            stage,
            journal,
            "taken up: it is flipped, and is watched again",
        )?;
        let start = stage.look(self.wave).await?;
        match stage.flip(self.wave).await {
            Ok(generation) => {
                let before = Look::default();
                self.hold(stage, journal, generation, (&before, &start))
                    .await
            }
            Err(problem) => {
                self.back(stage, journal, format!("{problem:#}"), None)
                    .await
            }
        }
    }

    /// Watches what STRICT would refuse; what was counted meanwhile, or why there is no flip.
    async fn shadow(
        &self,
        stage: &mut impl Stage,
        journal: &mut Journal,
    ) -> Result<Result<Look, String>, Problem> {
        let now = stage.now();
        self.set(journal, |state| {
            state.phase = Phase::Shadow;
            state.shadow_from = Some(now);
        });
        let text = format!(
            "shadow for {} s: nothing is refused yet",
            self.how.shadow.as_secs()
        );
        stage.note("shadow", &self.wave.name, &text).await?;
        self.happened(stage, journal, &text)?;
        let start = stage.look(self.wave).await?;
        let begun = Instant::now();
        let mut before = start.clone();
        while begun.elapsed() < self.how.shadow {
            if self.pause(stage).await {
                return Ok(Err("it was interrupted".to_owned()));
            }
            before = stage.look(self.wave).await?;
        }
        let obstacles = stage.obstacles(self.wave)?;
        if !obstacles.is_empty() {
            return Ok(Err(obstacles.join("; ")));
        }
        if before.without_mtls > 0 {
            let open = before.without_mtls;
            return Ok(Err(format!(
                "{open} connections without mTLS are open at its ports; STRICT would end them"
            )));
        }
        Ok(Ok(before.since(&start)))
    }

    async fn hold(
        &self,
        stage: &mut impl Stage,
        journal: &mut Journal,
        generation: Generation,
        (before, start): (&Look, &Look),
    ) -> Result<Came, Problem> {
        self.set(journal, |state| {
            state.phase = Phase::Holding;
            state.generation = Some(generation);
        });
        let text = format!(
            "generation {generation} is in force; held for {} s",
            self.how.hold.as_secs()
        );
        if let Err(problem) = self.happened(stage, journal, &text) {
            return self
                .back(stage, journal, format!("{problem:#}"), None)
                .await;
        }
        // It is on record that it was flipped; that it is held can be said later.
        let noted = stage.note("hold", &self.wave.name, &text).await;
        if let Err(problem) = noted {
            stage.tell(&format!("{problem:#}"));
        }
        if let Err(harm) = self.watch(stage, journal, (before, start)).await {
            let Harm { why, seen } = harm;
            return self.back(stage, journal, why, seen).await;
        }
        self.set(journal, |state| state.phase = Phase::Done);
        self.happened(stage, journal, "done")?;
        let noted = stage
            .note("done", &self.wave.name, "held without harm")
            .await;
        if let Err(problem) = noted {
            stage.tell(&format!("{problem:#}"));
        }
        Ok(Came::Done)
    }

    /// Looks on until the hold is over; else why the wave must be taken back. What cannot be watched is harm as well.
    async fn watch(
        &self,
        stage: &mut impl Stage,
        journal: &mut Journal,
        (before, start): (&Look, &Look),
    ) -> Result<(), Harm> {
        let begun = Instant::now();
        let mut seen = begun;
        let of_workloads = |target: &Target| matches!(target, Target::Workload(..));
        let watched = self.wave.targets.iter().any(of_workloads);
        loop {
            let look = stage.look(self.wave).await.map_err(Harm::problem)?;
            if look.asked > 0 || !watched {
                seen = Instant::now();
            }
            let look = look.since(start);
            self.set(journal, |state| {
                state.after = look.figures();
                state.refused = look.refused;
            });
            if let Some(why) = self.breach(before, &look) {
                let seen = Some(Instant::now());
                return Err(Harm { why, seen });
            }
            if seen.elapsed() >= BLIND {
                let seconds = BLIND.as_secs();
                let why = format!("none of its sidecars could be watched for {seconds} s");
                return Err(Harm { why, seen: None });
            }
            if begun.elapsed() >= self.how.hold && seen.elapsed() <= ASK {
                return Ok(());
            }
            if self.pause(stage).await {
                let why = "it was interrupted".to_owned();
                return Err(Harm { why, seen: None });
            }
        }
    }

    /// Why what was seen after the flip is worse than what was before.
    fn breach(&self, before: &Look, look: &Look) -> Option<String> {
        if look.refused > self.how.max_refused {
            return Some(format!(
                "STRICT refused {} connections in plaintext",
                look.refused
            ));
        }
        if before.requests.requests < MIN_BEFORE {
            return None;
        }
        let max_p99 = before.requests.quantile_ms(0.99).and_then(|ms| {
            let slack = self.how.p99_slack.as_secs_f64() * 1000.0;
            let most = (ms * self.how.max_p99_factor).max(ms + slack);
            Duration::try_from_secs_f64(most / 1000.0).ok()
        });
        let thresholds = Thresholds {
            min_success: before.requests.success() * self.how.min_success,
            max_p99,
            min_requests: MIN_BEFORE,
        };
        match thresholds.judge(&look.requests) {
            Judgement::Bad(why) => Some(why),
            Judgement::Good | Judgement::TooFew => None,
        }
    }

    /// Takes the wave back.
    async fn back(
        &self,
        stage: &mut impl Stage,
        journal: &mut Journal,
        why: String,
        seen: Option<Instant>,
    ) -> Result<Came, Problem> {
        stage.tell(&format!("{}: rolling back: {why}", self.wave.name));
        let state = journal.waves.get(self.n).cloned().unwrap_or_default();
        stage.revert(&state.edits).await?;
        let took = seen.map(|seen| seen.elapsed());
        let since = state.flipped_at.unwrap_or_default();
        let callers = stage.refused(self.wave, since).await;
        let named = match callers.is_empty() {
            true => why.clone(),
            false => format!("{why}: {}", callers.join("; ")),
        };
        self.set(journal, |state| {
            state.phase = Phase::RolledBack;
            state.why = Some(named.clone());
            state.callers = callers;
            state.back_after_ms = took.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        });
        self.happened(stage, journal, &format!("rolled back: {named}"))?;
        let noted = stage.note("rolled_back", &self.wave.name, &named).await;
        if let Err(problem) = noted {
            stage.tell(&format!("{problem:#}"));
        }
        Ok(Came::Stopped(format!(
            "{} was rolled back: {named}",
            self.wave.name
        )))
    }

    /// Ends before anything was changed.
    async fn stop(
        &self,
        stage: &mut impl Stage,
        journal: &mut Journal,
        why: String,
    ) -> Result<Came, Problem> {
        self.set(journal, |state| {
            state.phase = Phase::Pending;
            state.why = Some(why.clone());
        });
        self.happened(stage, journal, &format!("not flipped: {why}"))?;
        let noted = stage.note("stopped", &self.wave.name, &why).await;
        if let Err(problem) = noted {
            stage.tell(&format!("{problem:#}"));
        }
        Ok(Came::Stopped(format!(
            "{} was not flipped: {why}",
            self.wave.name
        )))
    }

    /// Whether somebody wants it to end, after a while.
    async fn pause(&self, stage: &mut impl Stage) -> bool {
        // Cancel-safe: a timer, and a wait that says so.
        tokio::select! {
            () = stage.stopped() => true,
            () = tokio::time::sleep(ASK) => false,
        }
    }

    fn set(&self, journal: &mut Journal, change: impl FnOnce(&mut super::journal::WaveState)) {
        if let Some(state) = journal.waves.get_mut(self.n) {
            change(state);
        }
    }

    /// Writes it down and says so.
    fn happened(
        &self,
        stage: &mut impl Stage,
        journal: &mut Journal,
        text: &str,
    ) -> Result<(), Problem> {
        let text = format!("{}: {text}", self.wave.name);
        stage.tell(&text);
        journal.happened(stage.now(), text);
        stage.keep(journal)
    }
}

#[cfg(test)]
mod tests;
