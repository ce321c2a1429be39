//! The steps of a rollout: set, hold, judge; forward or back.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

use super::{
    judge::{Judgement, Thresholds},
    measure::Counts,
    report::{Report, Step},
};
use crate::problem::Problem;

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Per cent for the new version; grows, and ends with 100.
    pub(super) steps: Vec<u32>,
    /// How long each is watched at least.
    pub(super) hold: Duration,
    /// How long each is watched at most, for want of requests.
    pub(super) patience: Duration,
    /// How often is looked.
    pub(super) ask: Duration,
    /// What must hold.
    pub(super) thresholds: Thresholds,
}

/// The mesh that traffic is moved in.
pub(super) trait Stage {
    /// The weights as they are written.
    fn weights(&self) -> (u32, u32);
    /// Changes them, and waits until they are in force.
    fn set(&mut self, from: u32, to: u32) -> impl Future<Output = Result<(), Problem>>;
    /// What the new version answered since the first call.
    fn counts(&mut self) -> impl Future<Output = Result<Counts, Problem>>;
    /// Says how it goes.
    fn tell(&self, text: &str);
    /// Returns when somebody wants the rollout to end. Cancel-safe.
    fn stopped(&mut self) -> impl Future<Output = ()>;
}

/// Drives the plan to its end. Whatever goes wrong, the weights of the beginning are put back before this returns; an
/// error is what kept even that from being done.
pub(super) async fn drive(
    plan: &Plan,
    stage: &mut impl Stage,
    mut report: Report,
) -> Result<Report, Problem> {
    let (from, to) = stage.weights();
    let sum = from.saturating_add(to);
    for percent in &plan.steps {
        let weights = share(sum, *percent);
        if weights.1 < to {
            stage.tell(&format!("step {percent} %: passed before"));
            continue;
        }
        let failed = match step(plan, stage, *percent, weights, &mut report).await {
            Ok(Judgement::Good) => continue,
            Ok(Judgement::TooFew) => format!(
                "fewer than {} requests came within {} s",
                plan.thresholds.min_requests,
                plan.patience.as_secs()
            ),
            Ok(Judgement::Bad(why)) => why,
            Err(problem) => format!("{problem:#}"),
        };
        stage.tell(&format!("rolling back: {failed}"));
        stage.set(from, to).await?;
        report.after = [from, to];
        report.reason = Some(failed);
        return Ok(report);
    }
    report.after = stage.weights().into();
    report.promoted = true;
    Ok(report)
}

/// Takes one step and watches it.
async fn step(
    plan: &Plan,
    stage: &mut impl Stage,
    percent: u32,
    weights: (u32, u32),
    report: &mut Report,
) -> Result<Judgement, Problem> {
    let before = stage.counts().await?;
    stage.set(weights.0, weights.1).await?;
    stage.tell(&format!(
        "step {percent} %: weights {}:{}",
        weights.0, weights.1
    ));
    let begun = Instant::now();
    let mut told = Duration::ZERO;
    loop {
        // Cancel-safe: a timer, and a wait that says so.
        let stopped = tokio::select! {
            () = stage.stopped() => true,
            () = tokio::time::sleep(plan.ask) => false,
        };
        let counts = stage.counts().await?.since(&before);
        let held = begun.elapsed();
        let judgement = match stopped {
            true => Judgement::Bad("it was interrupted".to_owned()),
            false => plan.thresholds.judge(&counts),
        };
        let verdict = match &judgement {
            Judgement::Bad(why) => why.clone(),
            Judgement::Good if held >= plan.hold => "good".to_owned(),
            Judgement::TooFew if held >= plan.hold.max(plan.patience) => {
                "too few requests".to_owned()
            }
            Judgement::Good | Judgement::TooFew => {
                if held >= told + Duration::from_secs(10) {
                    told = held;
                    stage.tell(&progress(percent, held, &counts));
                }
                continue;
            }
        };
        stage.tell(&progress(percent, held, &counts));
        let step = Step::new(percent, weights, held, &counts, verdict);
        report.steps.push(step);
        return Ok(judgement);
    }
}

fn progress(percent: u32, held: Duration, counts: &Counts) -> String {
    let p99 = counts
        .quantile_ms(0.99)
        .map_or("-".to_owned(), |ms| format!("{ms:.0} ms"));
    format!(
        "step {percent} %: {} s, {} requests, {:.2} % succeeded, p99 {p99}",
        held.as_secs(),
        counts.requests,
        counts.success() * 100.0
    )
}

/// The two weights when the new version gets `percent` of their sum, and at least 1.
fn share(sum: u32, percent: u32) -> (u32, u32) {
    let to = u64::from(sum) * u64::from(percent) / 100;
    let to = u32::try_from(to).unwrap_or(sum).clamp(1.min(sum), sum);
    (sum - to, to)
}

#[cfg(test)]
mod tests;
