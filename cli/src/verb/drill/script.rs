//! The drills: what each does, what must hold meanwhile, and how it is undone.

use std::{collections::BTreeSet, time::Duration};

use clap::ValueEnum;
use reeve_core::{Clock, SpiffeId, SystemClock};
use tokio::time::Instant;

use super::{
    report::seconds,
    run::{MayFail, Run, Stop},
    world::World,
};
use crate::problem::Problem;

/// Longest time over which renewals that were ordered are spread (`ca/src/follow.rs`).
const LONGEST_SPREAD: Duration = Duration::from_secs(60);
/// How long something may take that should take no time, on a busy machine.
const GRACE: Duration = Duration::from_secs(60);
/// How long is looked on after it is over.
const AFTER: Duration = Duration::from_secs(3);
/// What certificates are dated back by (`ca/src/authority/template.rs`) covers a clock that is ahead by this.
const SMALL_SKEW: Duration = Duration::from_secs(5);
/// How long an identity is revoked.
const REVOKED: Duration = Duration::from_secs(10);
/// And not by this.
const LARGE_SKEW: Duration = Duration::from_secs(60);

/// How a drill is done.
#[derive(Clone, Debug, Default)]
pub(super) struct How {
    /// For how long, of those that have a choice.
    pub(super) time: Option<Duration>,
    /// Of `revoke`: what is revoked.
    pub(super) identity: Option<SpiffeId>,
}

/// A drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Drill {
    RotateWorkloads,
    RotateIntermediate,
    RotateRoot,
    EmergencyRoot,
    CaOutage,
    Expire,
    ClockSkew,
    Revoke,
}

impl Drill {
    pub(super) const ALL: [Self; 8] = [
        Self::RotateWorkloads,
        Self::RotateIntermediate,
        Self::RotateRoot,
        Self::EmergencyRoot,
        Self::CaOutage,
        Self::Expire,
        Self::ClockSkew,
        Self::Revoke,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::RotateWorkloads => "rotate-workloads",
            Self::RotateIntermediate => "rotate-intermediate",
            Self::RotateRoot => "rotate-root",
            Self::EmergencyRoot => "emergency-root",
            Self::CaOutage => "ca-outage",
            Self::Expire => "expire",
            Self::ClockSkew => "clock-skew",
            Self::Revoke => "revoke",
        }
    }

    /// What it does, and what must hold.
    pub(super) fn about(self) -> [&'static str; 2] {
        match self {
            Self::RotateWorkloads => ["everybody renews their certificate", "nothing is lost"],
            Self::RotateIntermediate => [
                "a new intermediate signs, everybody renews",
                "nothing is lost",
            ],
            Self::RotateRoot => [
                "a new root is spread, signs, and the old one is retired",
                "nothing is lost",
            ],
            Self::EmergencyRoot => [
                "the root is replaced at once, as after a compromise",
                "requests fail until both sides have renewed, then none",
            ],
            Self::CaOutage => [
                "the authority is away for half of a certificate's life",
                "nothing is lost",
            ],
            Self::Expire => [
                "nobody can renew until every certificate has ended",
                "then every request is refused; healed when it is over",
            ],
            Self::ClockSkew => [
                "the authority's clock is ahead, then behind",
                "nothing is lost: nobody takes what is not valid yet",
            ],
            Self::Revoke => [
                "an identity is revoked for a while",
                "it is refused, also on open connections; nothing else is lost",
            ],
        }
    }

    /// What it breaks on purpose, if anything.
    pub(super) fn warning(self) -> Option<&'static str> {
        match self {
            Self::EmergencyRoot => Some(
                "every certificate of this mesh is void at once; requests fail until both sides have renewed.",
            ),
            Self::Expire => Some("every request in this mesh fails at the end of this drill."),
            Self::Revoke => Some("requests from and to the identity fail for a while."),
            Self::RotateWorkloads
            | Self::RotateIntermediate
            | Self::RotateRoot
            | Self::CaOutage
            | Self::ClockSkew => None,
        }
    }

    /// Steps in words.
    pub(super) fn plan(self, world: &World, how: &How) -> Vec<String> {
        let time = how.time;
        let spread = in_words(spread(world));
        let ttl = in_words(world.ttl);
        let renew = format!("everybody renews, spread over {spread}");
        match self {
            Self::RotateWorkloads => vec![renew],
            Self::RotateIntermediate => {
                vec!["a new intermediate signs at once".to_owned(), renew]
            }
            Self::RotateRoot => vec![
                format!(
                    "spread: a new root stands in every bundle; waits for every member, and {} for those who cannot acknowledge",
                    in_words(world.wait)
                ),
                format!(
                    "renew: it signs, everybody renews, and every certificate under the old root ends: up to {ttl}"
                ),
                "retire: the old root leaves the bundles".to_owned(),
                "rolled back: before `retire`, the old root signs again and the new one is retired"
                    .to_owned(),
            ],
            Self::EmergencyRoot => vec![
                "a new root, and nothing under the old one is trusted any more".to_owned(),
                "everybody renews, over 5 s".to_owned(),
                "requests are answered as before".to_owned(),
            ],
            Self::CaOutage => vec![
                format!(
                    "the authority answers nobody for {}",
                    in_words(time.unwrap_or(world.ttl / 2))
                ),
                "it is back, and everybody follows it again".to_owned(),
            ],
            Self::Expire => vec![
                format!("no certificate is issued until all have ended: up to {ttl}"),
                "every request between members is refused".to_owned(),
                "certificates are issued again, and requests answered".to_owned(),
            ],
            Self::ClockSkew => vec![
                format!(
                    "the authority's clock is {} ahead; everybody renews, over {spread}",
                    in_words(SMALL_SKEW)
                ),
                format!(
                    "it is {} ahead; everybody is to renew, and nobody takes a certificate that is not valid yet",
                    in_words(LARGE_SKEW)
                ),
                format!(
                    "it is {} behind; everybody renews, and certificates end so much sooner",
                    in_words(world.ttl / 4)
                ),
                format!("it is right again; {renew}"),
            ],
            Self::Revoke => vec![
                match &how.identity {
                    Some(id) => format!("{id} is revoked"),
                    None => "there is no identity to revoke: name one with --identity".to_owned(),
                },
                format!(
                    "for {} every request from and to it is refused, and no other",
                    in_words(time.unwrap_or(REVOKED))
                ),
                "it is taken back, and requests are answered; by itself if this drill dies"
                    .to_owned(),
            ],
        }
    }

    /// Does it.
    pub(super) async fn play(self, run: &mut Run<'_>, how: &How) -> Result<(), Stop> {
        match self {
            Self::RotateWorkloads => renew_all(run, "workloads", "everybody is to renew").await?,
            Self::RotateIntermediate => {
                renew_all(run, "intermediate", "a new intermediate signs").await?;
            }
            Self::RotateRoot => rotate_root(run).await?,
            Self::EmergencyRoot => emergency(run).await?,
            Self::CaOutage => outage(run, how.time).await?,
            Self::Expire => expire(run).await?,
            Self::ClockSkew => skew(run).await?,
            Self::Revoke => revoke(run, how).await?,
        }
        run.hold("looking on", AFTER).await
    }

    /// Puts everything back, as far as it has a way back.
    pub(super) async fn undo(self, run: &mut Run<'_>, how: &How) -> Result<(), Problem> {
        run.take_out().await?;
        if let (Self::Revoke, Some(id), true) = (self, &how.identity, run.revoked) {
            run.revoke(id, None).await?;
            run.step("the revocation is taken back").await?;
        }
        if self == Self::RotateRoot && run.rotation_can_go_back() {
            run.rotate("back").await?;
            run.step("the old root signs again; the new one is retired when no certificate under it is left")
                .await?;
        }
        if self == Self::ClockSkew {
            run.rotate("workloads").await?;
            run.step("everybody is to renew by the right clock").await?;
        }
        Ok(())
    }
}

fn spread(world: &World) -> Duration {
    (world.ttl / 8).min(LONGEST_SPREAD)
}

/// `90 s`, `4 h`.
pub(super) fn in_words(time: Duration) -> String {
    let secs = time.as_secs();
    match secs {
        0..120 => seconds(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        120..7200 => format!("{} min", secs.div_ceil(60)),
        _ => format!("{} h", secs.div_ceil(3600)),
    }
}

/// Orders a renewal and waits until everybody has.
async fn renew_all(run: &mut Run<'_>, what: &str, text: &str) -> Result<(), Stop> {
    run.until("the mesh is seen", GRACE, |_| true).await?;
    let before = run.seen().renewal;
    run.rotate(what).await?;
    run.step(text).await?;
    let limit = spread(run.world) + GRACE;
    run.until("renewing", limit, |seen| {
        seen.renewal > before && seen.behind(seen.renewal).is_empty()
    })
    .await
}

async fn rotate_root(run: &mut Run<'_>) -> Result<(), Stop> {
    run.until("the mesh is seen", GRACE, |_| true).await?;
    let before = run.seen().bundle;
    run.rotate("root").await?;
    run.step("a new root is made").await?;
    let limit = run.world.wait * 2 + run.world.ttl + GRACE * 3;
    run.until("rotating", limit, |seen| {
        seen.bundle > before && seen.rotation.is_none()
    })
    .await?;
    let bundle = run.seen().bundle;
    let members = run.seen().members.iter().filter(|m| m.connected);
    let behind = members.filter(|m| m.holding.bundle_sequence < bundle);
    let behind: Vec<_> = behind.map(|m| m.name.to_string()).collect();
    match behind.is_empty() {
        true => Ok(()),
        false => Err(Stop::Wrong(format!(
            "the old root is still trusted by {}",
            behind.join(", ")
        ))),
    }
}

async fn emergency(run: &mut Run<'_>) -> Result<(), Stop> {
    run.until("the mesh is seen", GRACE, |_| true).await?;
    let before = run.seen().renewal;
    run.may_fail = MayFail::Everything;
    run.rotate("emergency").await?;
    run.step("nothing under the old root is trusted any more")
        .await?;
    run.until("renewing", GRACE * 2, |seen| {
        let over = seen.rotation.is_none() && seen.renewal > before;
        over && seen.behind(seen.renewal).is_empty()
    })
    .await?;
    healed(run).await
}

/// Waits until requests are answered as before; from then on every failure counts.
async fn healed(run: &mut Run<'_>) -> Result<(), Stop> {
    let began = run.at();
    if run.load.is_some() {
        run.until("requests are answered again", GRACE, |seen| {
            seen.ok_now > 0 && seen.failed_now == 0
        })
        .await?;
    }
    let took = seconds(run.at().saturating_sub(began));
    run.expect_no_loss().await?;
    Ok(run
        .step(format!("requests are answered as before, after {took}"))
        .await?)
}

async fn outage(run: &mut Run<'_>, time: Option<Duration>) -> Result<(), Stop> {
    let time = time.unwrap_or(run.world.ttl / 2);
    run.put_in("away", 0).await?;
    run.step(format!(
        "the authority answers nobody for {}",
        in_words(time)
    ))
    .await?;
    run.hold("the authority is away", time).await?;
    run.take_out().await?;
    run.step("the authority is back").await?;
    run.until("following it again", GRACE, |seen| {
        seen.members.iter().all(|member| member.connected)
    })
    .await
}

async fn expire(run: &mut Run<'_>) -> Result<(), Stop> {
    run.put_in("no-renewal", 0).await?;
    run.step("no certificate is issued any more").await?;
    run.until("the mesh is seen", GRACE, |seen| !seen.members.is_empty())
        .await?;
    let limit = run.world.ttl + GRACE;
    // Connections drain before their certificates end: from here on requests may fail.
    run.may_fail = MayFail::Everything;
    run.until("certificates end", limit, |seen| {
        let now = SystemClock.now();
        let connected = seen.members.iter().filter(|m| is_workload(m));
        connected.clone().all(|m| m.holding.not_after < now)
    })
    .await?;
    run.step("every certificate has ended").await?;
    closed(run).await?;
    run.take_out().await?;
    run.step("certificates are issued again").await?;
    healed(run).await
}

/// The mesh process's own certificate is issued within it.
fn is_workload(member: &reeve_ca::MemberStatus) -> bool {
    member.name.instance.as_str() != "reeve.mesh"
}

/// Without a certificate nobody is answered: closed, not open.
async fn closed(run: &mut Run<'_>) -> Result<(), Stop> {
    run.hold("the last answers come", AFTER).await?;
    let before = run.report.load.ok;
    run.hold("every request is refused", AFTER).await?;
    let answered = run.report.load.ok - before;
    match answered {
        0 => Ok(run.step("every request is refused: closed").await?),
        some => Err(Stop::Wrong(format!(
            "{some} requests were answered after every certificate had ended"
        ))),
    }
}

async fn skew(run: &mut Run<'_>) -> Result<(), Stop> {
    let ahead = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    run.put_in("skew", ahead(SMALL_SKEW)).await?;
    let text = format!("the authority's clock is {} ahead", in_words(SMALL_SKEW));
    renew_all(run, "workloads", &text).await?;
    run.put_in("skew", ahead(LARGE_SKEW)).await?;
    let before = run.report.renewals.len();
    run.rotate("workloads").await?;
    run.step(format!("it is {} ahead", in_words(LARGE_SKEW)))
        .await?;
    let time = spread(run.world) + AFTER * 2;
    run.hold("nobody takes what is not valid yet", time).await?;
    let renewed = run.report.renewals.iter().skip(before);
    let renewed: Vec<_> = renewed
        .filter(|r| r.instance != "reeve.mesh")
        .map(|r| r.instance.clone())
        .collect();
    if !renewed.is_empty() {
        return Err(Stop::Wrong(format!(
            "a certificate that is not valid yet was taken by {}",
            renewed.join(", ")
        )));
    }
    run.put_in("skew", -ahead(run.world.ttl / 4)).await?;
    let text = format!("it is {} behind", in_words(run.world.ttl / 4));
    renew_all(run, "workloads", &text).await?;
    run.take_out().await?;
    renew_all(run, "workloads", "the authority's clock is right again").await
}

async fn revoke(run: &mut Run<'_>, how: &How) -> Result<(), Stop> {
    let Some(id) = &how.identity else {
        return Err(Problem::new("there is nothing to revoke")
            .fix("name it with --identity")
            .into());
    };
    let time = how.time.unwrap_or(REVOKED);
    let calls = run.calls.iter().enumerate();
    let cut = calls.filter(|(_, call)| call.between.contains(id));
    let cut: BTreeSet<usize> = cut.map(|(at, _)| at).collect();
    let seen = !cut.is_empty();
    run.may_fail = MayFail::Calls(cut);
    run.revoked = true;
    // Should this process die, it ends all the same.
    let until = SystemClock.now().plus(time + GRACE * 2);
    run.revoke(id, Some(until)).await?;
    run.step(format!("{id} is revoked")).await?;
    let began = run.at();
    if seen {
        run.until("everybody refuses it", GRACE, |seen| {
            seen.cut_failed_now > 0 && seen.cut_ok_now == 0
        })
        .await?;
        let took = seconds(run.at().saturating_sub(began));
        run.step(format!("everybody refuses it, within {took}"))
            .await?;
    }
    let mut answered = 0;
    let end = Instant::now() + time;
    run.until("it is refused", time * 2 + GRACE, |seen| {
        answered += seen.cut_ok_now;
        Instant::now() >= end
    })
    .await?;
    if answered > 0 {
        return Err(Stop::Wrong(format!(
            "{answered} requests were answered though {id} is revoked"
        )));
    }
    run.revoke(id, None).await?;
    run.revoked = false;
    run.step("it is taken back").await?;
    healed(run).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drill_is_listed_by_the_name_that_runs_it() {
        let named: Vec<_> = Drill::value_variants()
            .iter()
            .filter_map(|drill| drill.to_possible_value())
            .map(|value| value.get_name().to_owned())
            .collect();
        let listed: Vec<_> = Drill::ALL.iter().map(|drill| drill.name()).collect();
        assert_eq!(named, listed);
    }

    #[test]
    fn times_are_told_as_people_tell_them() {
        let of = |secs| in_words(Duration::from_secs(secs));
        assert_eq!([of(7), of(600), of(14_400)], ["7.0 s", "10 min", "4 h"]);
    }
}
