//! Ejection by success rate and by failure percentage, as Envoy has it: what came of the requests of one interval, compared
//! with the other endpoints' at its end
//! (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier#success-rate>).

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use reeve_core::model::{FailurePercentage, OutlierDetection, SuccessRate};

use super::{Cause, HostState, Seen};

/// What came of the requests to one endpoint in the present interval.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// Answers; all there is, where failures of the proxy's own are not told apart.
    external: Tally,
    /// Connections, where they are.
    local: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    all: AtomicU32,
    good: AtomicU32,
}

/// How often an endpoint was asked, and its share of successes in percent.
#[derive(Clone, Copy, Debug)]
struct Share {
    at: usize,
    volume: u32,
    percent: f64,
}

/// Whether `rules` look at rates.
pub(super) fn are_looked_at(rules: &OutlierDetection) -> bool {
    rules.success_rate.is_some() || rules.failure_percentage.is_some()
}

impl Rates {
    /// Counts what came of one request or connection.
    pub(super) fn count(&self, rules: &OutlierDetection, seen: Seen) {
        let split = rules.consecutive_local.is_some();
        match seen {
            Seen::Local(_) if split => self.local.count(false),
            Seen::Connected if split => self.local.count(true),
            Seen::Connected => self.external.count(true),
            Seen::Status(status) | Seen::Local(status) => {
                self.external.count(status < 500);
                if split {
                    self.local.count(true);
                }
            }
        }
    }
}

impl Tally {
    fn count(&self, good: bool) {
        self.all.fetch_add(1, Ordering::AcqRel);
        self.good.fetch_add(u32::from(good), Ordering::AcqRel);
    }

    /// What was counted, which begins anew.
    fn take(&self, at: usize) -> Share {
        let good = self.good.swap(0, Ordering::AcqRel);
        let volume = self.all.swap(0, Ordering::AcqRel);
        let percent = f64::from(good) * 100.0 / f64::from(volume.max(1));
        Share {
            at,
            volume,
            percent: percent.min(100.0),
        }
    }
}

/// Those whose share says that they should go, by place, and why; ends the interval. Who is out already is not compared.
pub(super) fn outliers<'h>(
    rules: &OutlierDetection,
    hosts: impl Iterator<Item = &'h Arc<HostState>> + Clone,
) -> Vec<(usize, Cause)> {
    let take = |tally: fn(&Rates) -> &Tally| -> Vec<Share> {
        let all = hosts.clone().enumerate();
        let taken = all.map(|(at, host)| (host.is_ejected(), tally(&host.rates).take(at)));
        let taken = taken.filter(|(is_out, _)| !is_out);
        taken.map(|(_, share)| share).collect()
    };
    let (external, local) = (take(|rates| &rates.external), take(|rates| &rates.local));
    let mut out = judge(
        rules,
        &external,
        (Cause::SuccessRate, Cause::FailurePercentage),
    );
    out.extend(judge(
        rules,
        &local,
        (Cause::LocalSuccessRate, Cause::LocalFailurePercentage),
    ));
    out
}

fn judge(
    rules: &OutlierDetection,
    shares: &[Share],
    (by_rate, by_percentage): (Cause, Cause),
) -> Vec<(usize, Cause)> {
    let mut out = Vec::new();
    if let Some(rule) = &rules.success_rate {
        let low = too_low(rule, shares);
        out.extend(low.into_iter().map(|at| (at, by_rate)));
    }
    if let Some(rule) = &rules.failure_percentage {
        let bad = too_bad(rule, shares);
        out.extend(bad.into_iter().map(|at| (at, by_percentage)));
    }
    out
}

fn asked_often(shares: &[Share], volume: u32, hosts: u32) -> Option<Vec<Share>> {
    let asked = |share: &&Share| share.volume >= volume.max(1);
    let often: Vec<Share> = shares.iter().filter(asked).copied().collect();
    let enough = usize::try_from(hosts).is_ok_and(|hosts| often.len() >= hosts.max(1));
    enough.then_some(often)
}

fn too_low(rule: &SuccessRate, shares: &[Share]) -> Vec<usize> {
    let Some(often) = asked_often(shares, rule.request_volume, rule.minimum_hosts) else {
        return Vec::new();
    };
    #[expect(clippy::cast_precision_loss, reason = "endpoints")]
    let count = often.len() as f64;
    let mean = often.iter().map(|share| share.percent).sum::<f64>() / count;
    let square = |share: &Share| (share.percent - mean).powi(2);
    let deviation = (often.iter().map(square).sum::<f64>() / count).sqrt();
    let least = mean - deviation * f64::from(rule.stdev_factor_permille) / 1000.0;
    let low = often.iter().filter(|share| share.percent < least);
    low.map(|share| share.at).collect()
}

fn too_bad(rule: &FailurePercentage, shares: &[Share]) -> Vec<usize> {
    let often = asked_often(shares, rule.request_volume, rule.minimum_hosts);
    let often = often.unwrap_or_default().into_iter();
    let bad = often.filter(|share| 100.0 - share.percent >= f64::from(rule.threshold));
    bad.map(|share| share.at).collect()
}

#[cfg(test)]
mod tests;
