//! How far the authority and its members are from their ends: metrics, and an alarm in the log.

use std::{collections::BTreeSet, time::Duration};

use reeve_ca::{AuthorityStatus, MemberStatus};
use reeve_core::UnixTime;

/// Members that have a metric of their own.
const MAX_MEMBER_SERIES: usize = 1_000;
/// Certificates of which the log has said that they are about to end; beyond it, it says so again.
const MAX_ALARMED: usize = 65_536;

/// Members whose certificate has less than a quarter of its life left.
pub(super) fn late(members: &[MemberStatus], ttl: Duration, now: UnixTime) -> Vec<&MemberStatus> {
    let late = |m: &&MemberStatus| m.connected && m.holding.not_after.since(now) < ttl / 4;
    members.iter().filter(late).collect()
}

/// Says once of each certificate that it should have been renewed.
#[derive(Debug, Default)]
pub(super) struct Alarm(BTreeSet<String>);

impl Alarm {
    /// Those that were not told of yet; they are now.
    pub(super) fn sound(&mut self, late: &[&MemberStatus], now: UnixTime) -> usize {
        let mut fresh = 0;
        if self.0.len() > MAX_ALARMED {
            self.0.clear();
        }
        for member in late {
            if self.0.insert(member.holding.serial.clone()) {
                fresh += 1;
                tracing::error!(
                    member = %member.name,
                    left_seconds = member.holding.not_after.since(now).as_secs(),
                    "less than a quarter of a certificate's life is left, and it was not renewed"
                );
            }
        }
        fresh
    }
}

/// In Prometheus' text format.
pub(super) fn metrics(
    authority: &AuthorityStatus,
    members: &[MemberStatus],
    ttl: Duration,
    now: UnixTime,
) -> String {
    let mut text = String::new();
    head(
        &mut text,
        "reeve_ca_authority_expiry_timestamp_seconds",
        "When each authority ends.",
    );
    for end in &authority.authorities {
        line(
            &mut text,
            &format!(
                "reeve_ca_authority_expiry_timestamp_seconds{{authority=\"{}\",slot=\"{}\"}}",
                end.kind, end.slot
            ),
            end.not_after.since(UnixTime::default()).as_secs(),
        );
    }
    let connected = members.iter().filter(|m| m.connected);
    let least = connected
        .clone()
        .map(|m| m.holding.not_after.since(now))
        .min();
    for (name, help, value) in [
        (
            "reeve_ca_keys_away",
            "Whether the keys that sign cannot be used (reeve ca status says why).",
            u64::from(authority.custody.away.is_some()),
        ),
        (
            "reeve_ca_members",
            "Who holds certificates.",
            count(members.len()),
        ),
        (
            "reeve_ca_members_connected",
            "Who follows the authority now.",
            count(connected.count()),
        ),
        (
            "reeve_ca_leaf_least_left_seconds",
            "The least that a member's certificate has left.",
            least.map_or(0, |left| left.as_secs()),
        ),
        (
            "reeve_ca_leaf_alarms",
            "Members whose certificate has less than a quarter of its life left.",
            count(late(members, ttl, now).len()),
        ),
        (
            "reeve_ca_bundle_sequence",
            "The newest trust bundle.",
            authority.bundle_sequence,
        ),
    ] {
        head(&mut text, name, help);
        line(&mut text, name, value);
    }
    head(
        &mut text,
        "reeve_ca_member_bundle_sequence",
        "The trust bundle that a member uses.",
    );
    for member in members.iter().take(MAX_MEMBER_SERIES) {
        let instance = &member.name.instance;
        let name = format!("reeve_ca_member_bundle_sequence{{instance=\"{instance}\"}}");
        line(&mut text, &name, member.holding.bundle_sequence);
    }
    text
}

fn head(text: &mut String, name: &str, help: &str) {
    text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
}

fn line(text: &mut String, name: &str, value: u64) {
    text.push_str(&format!("{name} {value}\n"));
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use reeve_ca::{AuthorityEnd, CustodyStatus, Holding, MemberName};

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_000);
    const TTL: Duration = Duration::from_secs(100);

    fn member(instance: &str, left: u64, connected: bool) -> MemberStatus {
        MemberStatus {
            name: MemberName {
                id: "spiffe://mesh.local/ns/default/sa/a".parse().unwrap(),
                instance: instance.parse().unwrap(),
            },
            holding: Holding {
                bundle_sequence: 7,
                serial: instance.to_owned(),
                renewal: 0,
                not_after: NOW.plus(Duration::from_secs(left)),
            },
            connected,
            seen_at: NOW,
        }
    }

    #[test]
    fn a_certificate_that_was_not_renewed_is_an_alarm_once() {
        let members = [
            member("a-0", 24, true),
            member("b-0", 25, true),
            member("c-0", 1, false),
        ];
        let late = late(&members, TTL, NOW);
        let mut alarm = Alarm::default();
        assert_eq!((alarm.sound(&late, NOW), alarm.sound(&late, NOW)), (1, 0));
    }

    #[test]
    fn every_end_and_every_members_bundle_is_a_metric() {
        let status = AuthorityStatus {
            trust_domain: "mesh.local".parse().unwrap(),
            bundle_sequence: 8,
            roots: 1,
            rotation: None,
            renewal: 0,
            root_not_after: NOW,
            intermediate_not_after: NOW,
            authorities: vec![AuthorityEnd {
                kind: "root",
                slot: "old",
                not_after: NOW,
                key: "memory",
            }],
            custody: CustodyStatus::default(),
            issued: 0,
            clock_step: None,
        };
        let members = [member("a-0", 24, true), member("b-0", 90, true)];
        let page = metrics(&status, &members, TTL, NOW);
        for line in [
            "reeve_ca_authority_expiry_timestamp_seconds{authority=\"root\",slot=\"old\"} 1000",
            "reeve_ca_leaf_least_left_seconds 24",
            "reeve_ca_leaf_alarms 1",
            "reeve_ca_keys_away 0",
            "reeve_ca_bundle_sequence 8",
            "reeve_ca_member_bundle_sequence{instance=\"a-0\"} 7",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in {page}");
        }
    }
}
