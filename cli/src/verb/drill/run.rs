//! A drill while it runs: looks at the mesh again and again, writes down what changes, keeps its fault in, and stops when
//! too much is lost or somebody wants it to.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use reeve_ca::{MemberStatus, RotationStatus, RotationStep};
use reeve_console::{DrillNote, FaultRequest, RevokeRequest, RotateRequest};
use reeve_core::{Clock, SpiffeId, SystemClock, UnixTime};
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    load::{Call, Load},
    report::{Of, Renewal, Report, Sample, seconds},
    traffic::{self, Totals},
    world::{self, World},
};
use crate::{output, problem::Problem, supervisor::logfile::timestamp, verb::operator};

/// How often the mesh is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often the sidecars' counters are read.
const COUNT: Duration = Duration::from_secs(2);
/// How often people are told how it goes, when nothing else is told.
const TELL: Duration = Duration::from_secs(10);
/// For how long a fault is asked for at a time; it ends by itself so long after the drill has died.
const LEASE: Duration = Duration::from_secs(15);
/// How long the mesh process may take to do something.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most failures that are told one by one.
const MAX_TOLD: usize = 20;
/// Most failures that stand in the report; all are counted.
const MAX_FAILURES: usize = 500;
/// Most answers whose time counts.
const MAX_LATENCIES: usize = 2_000_000;
/// Most renewals that stand in the report.
const MAX_RENEWALS: usize = 5_000;

/// Why a drill does not go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// More was lost than may be.
    Threshold(String),
    /// Somebody wants it to end.
    Interrupted,
    /// Something did not happen in time, or something happened that must not.
    Wrong(String),
    /// It cannot go on.
    Problem(Problem),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// What may fail without being a loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MayFail {
    Nothing,
    Everything,
    /// These calls, by their place.
    Calls(BTreeSet<usize>),
}

impl MayFail {
    fn covers(&self, call: usize) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Calls(calls) => calls.contains(&call),
        }
    }
}

/// What was seen at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Everybody who holds certificates, if the authority could be asked.
    pub(super) members: Vec<MemberStatus>,
    /// The rotation of the root under way.
    pub(super) rotation: Option<RotationStatus>,
    /// Sequence of the trust bundle.
    pub(super) bundle: u64,
    /// The renewal that everybody was told of last.
    pub(super) renewal: u64,
    /// Of the load, so far and of what must not fail.
    pub(super) failed: u64,
    /// Of the load's calls that are to fail, since the look before.
    pub(super) cut_ok_now: u64,
    /// Of these.
    pub(super) cut_failed_now: u64,
    /// Of the load, since the look before.
    pub(super) ok_now: u64,
    /// Of the load, since the look before.
    pub(super) failed_now: u64,
}

impl Seen {
    /// Those whose certificate is of an earlier renewal.
    pub(super) fn behind(&self, renewal: u64) -> Vec<String> {
        let behind = self.members.iter();
        let behind = behind.filter(|m| m.connected && m.holding.renewal < renewal);
        behind.map(|m| m.name.instance.to_string()).collect()
    }
}

/// A drill that runs.
pub(super) struct Run<'a> {
    pub(super) world: &'a World,
    pub(super) report: Report,
    pub(super) load: Option<Load>,
    pub(super) began: Instant,
    /// The load's failures that end the drill.
    pub(super) stop_at: u64,
    /// What may fail now.
    pub(super) may_fail: MayFail,
    /// Whether the identity of the drill is revoked.
    pub(super) revoked: bool,
    /// What the load asks.
    pub(super) calls: Vec<Call>,
    /// Of each call: answered and failed, as far as it is counted.
    counted: Vec<[u64; 2]>,
    stop: CancellationToken,
    fault: Option<(String, i64)>,
    known: BTreeMap<String, MemberStatus>,
    step: Option<String>,
    renewed: BTreeMap<String, String>,
    totals: Totals,
    counted_at: Option<Instant>,
    latencies: Vec<f64>,
    told: (Instant, usize),
    seen: Seen,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        world: &'a World,
        report: Report,
        stop_at: u64,
        stop: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        let known = world.members.iter();
        Self {
            world,
            report,
            load: None,
            began: now,
            stop_at,
            may_fail: MayFail::Nothing,
            revoked: false,
            calls: Vec::new(),
            counted: Vec::new(),
            stop,
            fault: None,
            known: known.map(|m| (m.name.to_string(), m.clone())).collect(),
            step: None,
            renewed: BTreeMap::new(),
            totals: Totals::default(),
            counted_at: None,
            latencies: Vec::new(),
            told: (now, 0),
            seen: Seen::default(),
        }
    }

    /// Milliseconds since the beginning.
    pub(super) fn at(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What was seen last.
    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Writes down what happens, and tells it.
    pub(super) fn note(&mut self, of: Of, text: impl Into<String>) {
        let text = text.into();
        output::note(&format!("{}  {text}", timestamp(SystemClock.now())));
        self.report.note(self.at(), of, text);
        self.told.0 = Instant::now();
    }

    /// The same, in the audit log as well.
    pub(super) async fn step(&mut self, text: impl Into<String>) -> Result<(), Problem> {
        let text = text.into();
        self.note(Of::Drill, text.clone());
        self.record("step", &text, None).await
    }

    pub(super) async fn record(
        &self,
        phase: &str,
        text: &str,
        verdict: Option<&str>,
    ) -> Result<(), Problem> {
        let note = DrillNote {
            drill: self.report.id.clone(),
            name: self.report.name.clone(),
            phase: phase.to_owned(),
            text: text.chars().take(500).collect(),
            verdict: verdict.map(str::to_owned),
        };
        let state = &self.world.state;
        operator::post(state, "/admin/drill", &note, PATIENCE, |why| {
            Problem::new(format!("the drill could not be recorded: {why}"))
        })
        .await?;
        Ok(())
    }

    pub(super) async fn rotate(&mut self, what: &str) -> Result<(), Problem> {
        let request = RotateRequest {
            what: what.to_owned(),
        };
        let state = &self.world.state;
        operator::post(state, "/admin/rotate", &request, PATIENCE, |why| {
            Problem::new(format!("nothing is rotated: {why}")).fix("see `reeve ca status`")
        })
        .await?;
        Ok(())
    }

    /// Has an identity refused until `until`, or takes that back.
    pub(super) async fn revoke(
        &self,
        id: &SpiffeId,
        until: Option<UnixTime>,
    ) -> Result<(), Problem> {
        let request = RevokeRequest {
            id: Some(id.clone()),
            why: format!("drill {}", self.report.id),
            take_back: until.is_none(),
            until,
            ..RevokeRequest::default()
        };
        let state = &self.world.state;
        operator::post(state, "/admin/revoke", &request, PATIENCE, |why| {
            Problem::new(format!("nothing is revoked or taken back: {why}"))
        })
        .await?;
        Ok(())
    }

    /// Puts a fault into the authority, and keeps it in until it is taken out or this run is over.
    pub(super) async fn put_in(&mut self, fault: &str, ahead_ms: i64) -> Result<(), Problem> {
        self.ask_for(fault, ahead_ms, LEASE).await?;
        self.fault = Some((fault.to_owned(), ahead_ms));
        Ok(())
    }

    /// Takes it out.
    pub(super) async fn take_out(&mut self) -> Result<(), Problem> {
        if let Some((fault, ahead_ms)) = self.fault.take() {
            self.ask_for(&fault, ahead_ms, Duration::ZERO).await?;
        }
        Ok(())
    }

    async fn ask_for(&self, fault: &str, ahead_ms: i64, lease: Duration) -> Result<(), Problem> {
        let request = FaultRequest {
            drill: self.report.id.clone(),
            fault: fault.to_owned(),
            ahead_ms,
            lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
        };
        let state = &self.world.state;
        operator::post(state, "/admin/fault", &request, PATIENCE, |why| {
            Problem::new(format!("the authority is as it was: {why}"))
        })
        .await?;
        Ok(())
    }

    /// Looks on until `reached`, for `limit` at most.
    pub(super) async fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut reached: impl FnMut(&Seen) -> bool,
    ) -> Result<(), Stop> {
        let began = Instant::now();
        let mut timer = tokio::time::interval(LOOK);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Cancel-safe: a tick and a flag.
            tokio::select! {
                _ = timer.tick() => {}
                () = self.stop.cancelled() => return Err(Stop::Interrupted),
            }
            self.look().await?;
            if reached(&self.seen) {
                return Ok(());
            }
            if began.elapsed() > limit {
                let limit = seconds(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
                return Err(Stop::Wrong(format!("{what}: not within {limit}")));
            }
            self.tell(what);
        }
    }

    /// Looks on for that long.
    pub(super) async fn hold(&mut self, what: &str, time: Duration) -> Result<(), Stop> {
        let until = Instant::now() + time;
        self.until(what, time * 2 + PATIENCE, |_| Instant::now() >= until)
            .await
    }

    /// Says how it goes, now and then.
    fn tell(&mut self, what: &str) {
        if self.told.0.elapsed() < TELL {
            return;
        }
        self.told.0 = Instant::now();
        let waits = match &self.seen.rotation {
            Some(now) if now.waiting.count > 0 => format!(
                "; {} of {} have not followed",
                now.waiting.count,
                self.seen.members.len()
            ),
            _ => String::new(),
        };
        output::note(&format!(
            "{}  {what}: {}, {} requests ok, {} failed{waits}",
            timestamp(SystemClock.now()),
            seconds(self.at()),
            self.report.load.ok,
            self.seen.failed,
        ));
    }

    /// One look: the authority, the load, the sidecars, and what has changed since the look before.
    async fn look(&mut self) -> Result<(), Stop> {
        if let Some((fault, ahead_ms)) = self.fault.clone() {
            self.ask_for(&fault, ahead_ms, LEASE).await?;
        }
        let ca = self.world.api.status().await.map(|status| status.ca);
        let members = world::members(&self.world.api).await;
        if let (Ok(ca), Ok(members)) = (ca, members) {
            self.see_authority(&ca);
            self.see_members(members);
        }
        let mut sample = Sample {
            at_ms: self.at(),
            renewed: self.renewed.len(),
            members: self.seen.members.len(),
            least_left_ms: self.least_left(),
            ..Sample::default()
        };
        self.see_load(&mut sample);
        self.see_traffic(&mut sample).await;
        self.report.sample(sample);
        if self.seen.failed >= self.stop_at {
            return Err(Stop::Threshold(format!(
                "{} requests have failed, and {} end the drill",
                self.seen.failed, self.stop_at
            )));
        }
        Ok(())
    }

    fn see_authority(&mut self, ca: &Value) {
        let number = |name: &str| ca.get(name).and_then(Value::as_u64).unwrap_or_default();
        self.seen.bundle = number("bundle_sequence");
        self.seen.renewal = number("renewal");
        let rotation = ca.get("rotation").cloned().unwrap_or_default();
        self.seen.rotation = serde_json::from_value(rotation).unwrap_or_default();
        let step = self.seen.rotation.as_ref();
        let step = step.map(|now| now.rotation.step.as_str().to_owned());
        if step != self.step {
            let text = match step.as_deref() {
                Some("spread") => "spread: the new root stands in the bundles, the old one signs",
                Some("renew") => "renew: the new root signs, everybody renews",
                Some(_) => "retire: the old root has left the bundles",
                None => "the rotation is over",
            };
            self.note(Of::Authority, text);
            self.step = step;
        }
    }

    fn see_members(&mut self, members: Vec<MemberStatus>) {
        for member in &members {
            let name = member.name.to_string();
            let before = self.known.insert(name.clone(), member.clone());
            let instance = member.name.instance.to_string();
            let Some(before) = before else {
                self.note_member(format!("{instance} has come"));
                continue;
            };
            if before.holding.serial != member.holding.serial {
                let ends_at = member.holding.not_after;
                let old_left = before.holding.not_after.since(member.seen_at);
                self.note_member(format!(
                    "{instance} has renewed; its certificate had {} left, the new one ends {}",
                    seconds(u64::try_from(old_left.as_millis()).unwrap_or(u64::MAX)),
                    timestamp(ends_at)
                ));
                self.renewed.insert(name, member.holding.serial.clone());
                if self.report.renewals.len() < MAX_RENEWALS {
                    self.report.renewals.push(Renewal {
                        instance,
                        at_ms: self.at(),
                        serial: member.holding.serial.clone(),
                        ends_at,
                    });
                }
            } else if before.holding.bundle_sequence != member.holding.bundle_sequence {
                let bundle = member.holding.bundle_sequence;
                self.note_member(format!("{instance} trusts by bundle {bundle}"));
            }
        }
        self.seen.members = members;
    }

    /// Members are many: they stand in the report, and are not told.
    fn note_member(&mut self, text: String) {
        self.report.note(self.at(), Of::Member, text);
    }

    fn least_left(&self) -> Option<u64> {
        let now = SystemClock.now();
        let connected = self.seen.members.iter().filter(|m| m.connected);
        let left = connected.map(|m| m.holding.not_after.since(now));
        let least = left.min()?;
        u64::try_from(least.as_millis()).ok()
    }

    /// Begins the load.
    pub(super) fn ask(&mut self, calls: Vec<Call>, rps: u32) {
        self.load = Some(Load::start(&calls, rps, self.began));
        self.counted = vec![[0; 2]; calls.len()];
        self.calls = calls;
    }

    fn see_load(&mut self, sample: &mut Sample) {
        let Some(load) = &self.load else {
            return;
        };
        let tallies = load.take();
        self.report.load.shed = tallies.iter().map(|tally| tally.shed).sum();
        let (mut cut_ok, mut latencies, mut lost) = (0, Vec::new(), Vec::new());
        let counted = self.counted.iter_mut();
        for (call, (tally, counted)) in tallies.into_iter().zip(counted).enumerate() {
            let [ok, failed] = [tally.ok - counted[0], tally.failed - counted[1]];
            *counted = [tally.ok, tally.failed];
            sample.ok += ok;
            match self.may_fail.covers(call) {
                true => {
                    cut_ok += ok;
                    sample.failed_as_expected += failed;
                }
                false => {
                    sample.failed += failed;
                    lost.extend(tally.failures.iter().cloned());
                }
            }
            latencies.extend(tally.latencies_ms);
            let room = MAX_FAILURES.saturating_sub(self.report.failures.len());
            let failures = tally.failures.into_iter().take(room);
            self.report.failures.extend(failures);
        }
        let counts = &mut self.report.load;
        counts.ok += sample.ok;
        counts.failed += sample.failed;
        counts.failed_as_expected += sample.failed_as_expected;
        self.seen.failed = counts.failed;
        self.seen.ok_now = sample.ok;
        self.seen.failed_now = sample.failed + sample.failed_as_expected;
        (self.seen.cut_ok_now, self.seen.cut_failed_now) = (cut_ok, sample.failed_as_expected);
        sample.p99_ms = quantile(&mut latencies, 0.99);
        let room = MAX_LATENCIES.saturating_sub(self.latencies.len());
        self.latencies.extend(latencies.into_iter().take(room));
        for failure in lost {
            if self.told.1 < MAX_TOLD {
                self.told.1 += 1;
                let text = format!("{}: {}", failure.call, failure.what);
                output::note(&format!("lost: {text}"));
                self.report.note(failure.at_ms, Of::Loss, text);
            }
        }
    }

    /// From now on every failure counts. The sidecars' own counts lag behind: first come the last ones from before.
    pub(super) async fn expect_no_loss(&mut self) -> Result<(), Stop> {
        let tries = self.began.elapsed() + COUNT * 5;
        loop {
            self.counted_at = self.counted_at.map(|at| at - COUNT);
            let before = self.report.traffic.failed_as_expected;
            self.hold("requests are answered", COUNT / 2).await?;
            let broken = self.report.traffic.failed_as_expected > before;
            if !broken || self.began.elapsed() > tries {
                break;
            }
        }
        self.may_fail = MayFail::Nothing;
        Ok(())
    }

    async fn see_traffic(&mut self, sample: &mut Sample) {
        if self.counted_at.is_some_and(|at| at.elapsed() < COUNT) {
            return;
        }
        let first = self.counted_at.is_none();
        self.counted_at = Some(Instant::now());
        let news = traffic::news(&mut self.totals, &self.world.instances).await;
        if first {
            return;
        }
        sample.served = news.served;
        sample.broken = news.broken;
        sample.handshakes_failed = news.handshakes_failed;
        let counts = &mut self.report.traffic;
        counts.ok += news.served;
        match self.may_fail == MayFail::Nothing {
            true => counts.failed += news.broken,
            false => counts.failed_as_expected += news.broken,
        }
        self.report.handshakes_failed += news.handshakes_failed;
    }

    /// Lets the last answers come, and counts them.
    pub(super) async fn finish(&mut self) {
        if let Some(load) = &self.load {
            load.settle().await;
        }
        let mut sample = Sample {
            at_ms: self.at(),
            renewed: self.renewed.len(),
            members: self.seen.members.len(),
            ..Sample::default()
        };
        self.counted_at = self.counted_at.map(|at| at - COUNT);
        self.see_load(&mut sample);
        self.see_traffic(&mut sample).await;
        self.report.sample(sample);
        self.report.p50_ms = quantile(&mut self.latencies, 0.5);
        self.report.p99_ms = quantile(&mut self.latencies, 0.99);
        self.report.took_ms = self.at();
    }

    /// Whether the old root can sign again.
    pub(super) fn rotation_can_go_back(&self) -> bool {
        let rotation = self.seen.rotation.as_ref();
        rotation.is_some_and(|now| now.rotation.step != RotationStep::Retire)
    }
}

/// The value that this share stays within.
fn quantile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index: a share of a count"
    )]
    let at = (last as f64 * share).round() as usize;
    values.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_there_is() {
        assert_eq!(quantile(&mut [], 0.5), None);
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0], 0.5), Some(2.0));
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0], 0.99), Some(3.0));
    }
}
