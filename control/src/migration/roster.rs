//! Who held which address when.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use reeve_core::{InstanceName, Namespace, UnixTime, WorkloadName};
use serde::{Deserialize, Serialize};

/// Stays that are remembered of one address; the oldest go first.
const MAX_STAYS: usize = 64;

/// How long what ran without a sidecar may still be seen after a copy with one was announced in its place: it is stopped
/// meanwhile.
const SETTLE: Duration = Duration::from_secs(10);

/// A copy of a workload, as the holder of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The copy.
    pub instance: InstanceName,
    /// What it is a copy of.
    pub workload: WorkloadName,
    /// Its namespace.
    pub namespace: Namespace,
    /// Whether it had a sidecar.
    pub meshed: bool,
}

/// Addresses and their holders, over time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster(BTreeMap<IpAddr, Vec<Stay>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stay {
    from: UnixTime,
    until: Option<UnixTime>,
    holder: Holder,
}

impl Roster {
    /// `holder` has `address` from then on. Calls come in order of time.
    pub fn assign(&mut self, at: UnixTime, address: IpAddr, holder: Holder) {
        let stays = self.0.entry(address).or_default();
        if let Some(last) = stays.last_mut().filter(|last| last.until.is_none()) {
            if last.holder == holder {
                return;
            }
            last.until = Some(at);
        }
        if stays.len() >= MAX_STAYS {
            stays.remove(0);
        }
        stays.push(Stay {
            from: at,
            until: None,
            holder,
        });
    }

    /// Nobody has `address` from then on.
    pub fn release(&mut self, at: UnixTime, address: IpAddr) {
        let last = self.0.get_mut(&address).and_then(|stays| stays.last_mut());
        if let Some(last) = last.filter(|last| last.until.is_none()) {
            last.until = Some(at);
        }
    }

    /// Who had it then.
    pub fn holder(&self, address: IpAddr, at: UnixTime) -> Option<&Holder> {
        let within = |stay: &&Stay| stay.from <= at && stay.until.is_none_or(|until| at < until);
        let stays = self.0.get(&address)?;
        let found = stays.iter().rposition(|stay| within(&stay))?;
        let stay = stays.get(found)?;
        let before = found.checked_sub(1).and_then(|n| stays.get(n));
        let replaced = before.filter(|before| {
            let same = before.holder.workload == stay.holder.workload
                && before.holder.namespace == stay.holder.namespace;
            same && stay.holder.meshed && !before.holder.meshed && at < stay.from.plus(SETTLE)
        });
        Some(&replaced.unwrap_or(stay).holder)
    }

    /// The earliest that is known of anybody.
    pub fn begin(&self) -> Option<UnixTime> {
        self.0.values().flatten().map(|stay| stay.from).min()
    }

    /// Since when copies of a workload have had sidecars and nothing else: the last time at which one came, or a copy
    /// without went, and it had settled. `None`: one without runs now, or none with.
    pub fn meshed_since(&self, namespace: &Namespace, workload: &WorkloadName) -> Option<UnixTime> {
        let stays = self.0.values().flatten();
        let of =
            stays.filter(|s| s.holder.namespace == *namespace && s.holder.workload == *workload);
        let (with, without): (Vec<_>, Vec<_>) = of.partition(|stay| stay.holder.meshed);
        let first = with.iter().map(|stay| stay.from).min()?;
        let ends: Option<Vec<_>> = without.iter().map(|stay| stay.until).collect();
        let last = ends?.into_iter().chain([first]).max().unwrap_or(first);
        Some(last.plus(SETTLE))
    }

    /// When a copy of a workload was first there.
    pub fn first_seen(&self, namespace: &Namespace, workload: &WorkloadName) -> Option<UnixTime> {
        let of = self
            .0
            .values()
            .flatten()
            .filter(|s| s.holder.namespace == *namespace && s.holder.workload == *workload);
        of.map(|stay| stay.from).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(workload: &str, meshed: bool) -> Holder {
        Holder {
            instance: format!("{workload}-0").parse().unwrap(),
            workload: workload.parse().unwrap(),
            namespace: "shop".parse().unwrap(),
            meshed,
        }
    }

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(secs)
    }

    #[test]
    fn the_holder_is_whoever_had_the_address_then() {
        let address = "127.7.1.1".parse().unwrap();
        let mut roster = Roster::default();
        roster.assign(at(10), address, holder("a", false));
        roster.assign(at(20), address, holder("a", false));
        roster.release(at(30), address);
        roster.assign(at(40), address, holder("b", false));
        roster.assign(at(50), address, holder("c", true));
        let who = |secs| {
            let holder = roster.holder(address, at(secs));
            holder.map(|h| h.workload.to_string())
        };
        let seen = [9, 10, 29, 30, 40, 49, 50, 99].map(who);
        let expected = [
            None,
            Some("a"),
            Some("a"),
            None,
            Some("b"),
            Some("b"),
            Some("c"),
            Some("c"),
        ];
        assert_eq!(seen, expected.map(|name| name.map(str::to_owned)));
    }

    #[test]
    fn what_is_being_stopped_is_not_taken_for_what_takes_its_place() {
        let address = "127.7.1.1".parse().unwrap();
        let mut roster = Roster::default();
        roster.assign(at(10), address, holder("a", false));
        roster.assign(at(50), address, holder("a", true));
        let meshed = |secs| roster.holder(address, at(secs)).map(|h| h.meshed);
        let seen = [49, 50, 59, 60].map(meshed);
        assert_eq!(seen, [false, false, false, true].map(Some));
    }

    #[test]
    fn a_workload_is_meshed_since_its_last_copy_without_a_sidecar_went() {
        let (one, two) = ("127.7.1.1".parse().unwrap(), "127.7.2.1".parse().unwrap());
        let mut roster = Roster::default();
        let since = |roster: &Roster| {
            let (namespace, name) = ("shop".parse().unwrap(), "a".parse().unwrap());
            roster.meshed_since(&namespace, &name)
        };
        roster.assign(at(10), one, holder("a", false));
        assert_eq!(since(&roster), None);
        roster.assign(at(20), two, holder("a", true));
        assert_eq!(since(&roster), None, "one without is still there");
        roster.release(at(30), one);
        assert_eq!(since(&roster), Some(at(40)));
    }
}
