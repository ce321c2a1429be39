//! Outlier ejection, as Envoy does it: an endpoint that fails so many times in a row is taken out for a while, each time
//! for longer; who stays in for a while is forgiven step by step
//! (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier>). Counted across all workers,
//! exactly. Requests count with atomics alone; only an ejection itself takes a lock.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use reeve_core::model::OutlierDetection;

use crate::{
    cluster::{Cluster, Hop},
    ledger::lock,
};

mod rates;

use rates::Rates;

/// An endpoint is never out for longer than this, or the first ejection's length if that is more (Envoy's
/// `max_ejection_time`).
const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);

/// How one endpoint of a cluster has behaved.
#[derive(Debug)]
pub(crate) struct HostState {
    /// What came of requests in the present interval.
    rates: Rates,
    errors: AtomicU32,
    gateway: AtomicU32,
    local: AtomicU32,
    /// 0 = in; else the cluster's time at which it was ejected, plus 1.
    ejected: AtomicU64,
    /// The cluster's time until which another proxy's word keeps it out; 0 = not at all.
    shared_until: AtomicU64,
    /// Why it was ejected last.
    cause: AtomicU32,
    /// The cluster's time at which another's word ceased to keep it out, plus 1; 0 = long ago.
    returned: AtomicU64,
    /// Ejections that count for the length of the next.
    times: AtomicU32,
    /// The cluster's time at which it was first seen.
    pub(crate) born: u64,
}

/// What came of a request or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// An answer with that status.
    Status(u16),
    /// No connection, or none in time; or it broke. `Status` 503 and 504 stand for it where local failures are not
    /// counted apart.
    Local(u16),
    /// A TCP connection was made.
    Connected,
}

/// Who came back and who went at the end of an interval.
#[derive(Debug, Default)]
pub(crate) struct Swept<'c> {
    pub(crate) back: Vec<&'c Hop>,
    pub(crate) out: Vec<(&'c Hop, Cause)>,
}

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Errors,
    GatewayErrors,
    LocalFailures,
    SuccessRate,
    LocalSuccessRate,
    FailurePercentage,
    LocalFailurePercentage,
}

impl Cause {
    const ALL: [Self; 7] = [
        Self::Errors,
        Self::GatewayErrors,
        Self::LocalFailures,
        Self::SuccessRate,
        Self::LocalSuccessRate,
        Self::FailurePercentage,
        Self::LocalFailurePercentage,
    ];

    /// Envoy's name of it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Errors => "consecutive_5xx",
            Self::GatewayErrors => "consecutive_gateway_failure",
            Self::LocalFailures => "consecutive_local_origin_failure",
            Self::SuccessRate => "success_rate",
            Self::LocalSuccessRate => "success_rate_local_origin",
            Self::FailurePercentage => "failure_percentage",
            Self::LocalFailurePercentage => "failure_percentage_local_origin",
        }
    }
}

impl HostState {
    /// A new one, in.
    pub(crate) fn new(now: u64) -> Self {
        Self {
            rates: Rates::default(),
            errors: AtomicU32::new(0),
            gateway: AtomicU32::new(0),
            local: AtomicU32::new(0),
            ejected: AtomicU64::new(0),
            shared_until: AtomicU64::new(0),
            cause: AtomicU32::new(0),
            returned: AtomicU64::new(0),
            times: AtomicU32::new(0),
            born: now,
        }
    }

    /// Whether it is out, by this proxy's own judgement.
    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Acquire) > 0
    }

    /// Whether it is out, by this proxy's judgement or another's.
    pub(crate) fn is_out(&self, now: u64) -> bool {
        self.is_ejected() || self.shared_until.load(Ordering::Acquire) > now
    }

    /// Another proxy says that it is out until then.
    pub(crate) fn share(&self, until: u64) {
        self.shared_until.store(until, Ordering::Release);
    }

    /// No other proxy says so any more: it gets its share by and by, in `healing` milliseconds.
    pub(crate) fn unshare(&self, now: u64, healing: u64) {
        if self.shared_until.swap(0, Ordering::AcqRel) > 0 {
            self.returned
                .store(now.saturating_add(1), Ordering::Release);
        } else if self.healing(now).is_some_and(|since| since >= healing) {
            self.returned.store(0, Ordering::Release);
        }
    }

    /// Since when it is in again after another's word, in milliseconds.
    pub(crate) fn healing(&self, now: u64) -> Option<u64> {
        let since = self.returned.load(Ordering::Acquire).checked_sub(1)?;
        Some(now.saturating_sub(since))
    }

    /// Whether anything but the load balancer has a say about it.
    fn is_special(&self) -> bool {
        self.is_ejected()
            || self.shared_until.load(Ordering::Acquire) > 0
            || self.returned.load(Ordering::Acquire) > 0
    }

    /// How many milliseconds of its ejection are left at `now`, 1 at least, and why it was ejected.
    pub(crate) fn ejection(&self, rules: &OutlierDetection, now: u64) -> Option<(u64, Cause)> {
        let since = self.ejected.load(Ordering::Acquire).checked_sub(1)?;
        let end = since.saturating_add(self.ejection_millis(rules));
        let code = self.cause.load(Ordering::Acquire);
        let cause = Cause::ALL.into_iter().find(|cause| *cause as u32 == code);
        Some((
            end.saturating_sub(now).max(1),
            cause.unwrap_or(Cause::Errors),
        ))
    }

    /// Counts what was seen; says why it should be ejected now.
    fn count(&self, rules: &OutlierDetection, seen: Seen) -> Option<Cause> {
        if rates::are_looked_at(rules) {
            self.rates.count(rules, seen);
        }
        let status = match (seen, rules.consecutive_local) {
            (Seen::Local(_), Some(most)) => {
                return reached(&self.local, most).then_some(Cause::LocalFailures);
            }
            (Seen::Connected, Some(_)) => {
                self.local.store(0, Ordering::Release);
                return None;
            }
            (Seen::Connected, None) => 200,
            (Seen::Status(status), Some(_)) => {
                self.local.store(0, Ordering::Release);
                status
            }
            (Seen::Status(status) | Seen::Local(status), None) => status,
        };
        if status < 500 {
            self.errors.store(0, Ordering::Release);
            self.gateway.store(0, Ordering::Release);
            return None;
        }
        let mut cause = None;
        if matches!(status, 502..=504) {
            if reached(&self.gateway, threshold(rules.consecutive_gateway)) {
                cause = Some(Cause::GatewayErrors);
            }
        } else {
            self.gateway.store(0, Ordering::Release);
        }
        if reached(&self.errors, threshold(rules.consecutive_5xx)) {
            cause = cause.or(Some(Cause::Errors));
        }
        cause
    }

    fn forget(&self) {
        for counter in [&self.errors, &self.gateway, &self.local] {
            counter.store(0, Ordering::Release);
        }
    }

    fn eject(&self, rules: &OutlierDetection, now: u64, cause: Cause) {
        self.cause.store(cause as u32, Ordering::Release);
        let base = millis(rules.base_ejection).max(1);
        let times = self.times.load(Ordering::Acquire);
        // Grows no further than it takes to reach the longest ejection.
        if u64::from(times).saturating_mul(base) < longest(rules).saturating_add(base) {
            self.times.store(times.saturating_add(1), Ordering::Release);
        }
        self.ejected.store(now.saturating_add(1), Ordering::Release);
        self.forget();
    }

    fn ejection_millis(&self, rules: &OutlierDetection) -> u64 {
        let times = u64::from(self.times.load(Ordering::Acquire));
        let grown = millis(rules.base_ejection).saturating_mul(times);
        grown.min(longest(rules))
    }

    /// At each look: comes back when its time is over; else, if it is in, is forgiven one ejection. Whether it came back.
    fn look(&self, rules: &OutlierDetection, now: u64) -> bool {
        let Some(since) = self.ejected.load(Ordering::Acquire).checked_sub(1) else {
            let less = |times: u32| times.checked_sub(1);
            // None left to forgive is fine.
            let _forgiven = self
                .times
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
            return false;
        };
        if now.saturating_sub(since) < self.ejection_millis(rules) {
            return false;
        }
        self.ejected.store(0, Ordering::Release);
        self.forget();
        true
    }
}

fn longest(rules: &OutlierDetection) -> u64 {
    millis(MAX_EJECTION_TIME.max(rules.base_ejection))
}

fn threshold(most: Option<std::num::NonZeroU32>) -> u32 {
    most.map_or(0, std::num::NonZeroU32::get)
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Counts one more; whether that makes `most`, of which 0 stands for "never". One caller alone is told.
fn reached(counter: &AtomicU32, most: u32) -> bool {
    most > 0 && counter.fetch_add(1, Ordering::AcqRel).saturating_add(1) == most
}

impl Cluster {
    /// Counts what came of a request or connection to `hop`; says why it was ejected for that.
    pub(crate) fn saw(&self, hop: &Hop, seen: Seen) -> Option<Cause> {
        let rules = self.traffic.outlier.as_ref()?;
        let (state, host) = (self.state(), self.host(hop));
        let cause = host.count(rules, seen)?;
        let _one_at_a_time = lock(&state.ejecting);
        if host.is_ejected() {
            return None;
        }
        if !self.may_eject(rules) {
            host.forget();
            return None;
        }
        host.eject(rules, state.now(), cause);
        self.count_ejected();
        Some(cause)
    }

    /// Ejects those whose share of successes says so, at the end of an interval.
    fn eject_by_rates(&self, rules: &OutlierDetection, now: u64) -> Vec<(&Hop, Cause)> {
        if !rates::are_looked_at(rules) {
            return Vec::new();
        }
        let mut out = Vec::new();
        for (at, cause) in rates::outliers(rules, self.hops.iter().map(|hop| self.host(hop))) {
            let Some(hop) = self.hops.get(at) else {
                continue;
            };
            let host = self.host(hop);
            if !host.is_ejected() && self.may_eject(rules) {
                host.eject(rules, now, cause);
                out.push((hop.as_ref(), cause));
            }
        }
        out
    }

    /// Whether one more endpoint may go: within the percentage, or the first of several.
    fn may_eject(&self, rules: &OutlierDetection) -> bool {
        let out = self.hops.iter().filter(|hop| self.host(hop).is_ejected());
        self.may_lose(rules, out.count())
    }

    /// The same, where `out` of them are out.
    pub(crate) fn may_lose(&self, rules: &OutlierDetection, out: usize) -> bool {
        let all = self.hops.len();
        let within = (out + 1) * 100 <= all * usize::from(rules.max_ejection_percent);
        within || (out == 0 && all > 1)
    }

    /// Looks, if it is time to, whether endpoints may come back, and whether others go for their share of successes.
    pub(crate) fn sweep(&self) -> Swept<'_> {
        let Some(rules) = &self.traffic.outlier else {
            return Swept::default();
        };
        let (state, interval) = (self.state(), millis(rules.interval).max(1));
        let (now, last) = (state.now(), state.swept.load(Ordering::Acquire));
        if now.saturating_sub(last) < interval {
            return Swept::default();
        }
        // On the beat of the interval, however late this look comes.
        let beat = now - (now - last) % interval;
        state.swept.store(beat, Ordering::Release);
        let _one_at_a_time = lock(&state.ejecting);
        let hops = self.hops.iter().map(AsRef::as_ref);
        let back = hops.filter(|hop| self.host(hop).look(rules, now));
        let swept = Swept {
            back: back.collect(),
            out: self.eject_by_rates(rules, now),
        };
        self.count_ejected();
        swept
    }

    /// Sets the hint whether any endpoint is out, or only just in again.
    pub(crate) fn count_ejected(&self) {
        let special = |hop: &&std::sync::Arc<Hop>| self.host(hop).is_special();
        let out = self.hops.iter().filter(special).count();
        self.state().ejected.store(out, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
