//! What the audit trail says of who speaks what to whom, for `reeve mtls` and `GET /api/mtls`.

use std::{net::IpAddr, path::Path, time::Duration};

use reeve_audit::{Entry, EventKind, EventRecord, Reader, query::Filter};
use reeve_columns::{
    Columns,
    facts::{Fact, facts},
};
use reeve_control::migration::{
    Holder, Landscape, Lock, Locks, Observed, PortStand, Roster, Seen, Spoken, Standing, Window,
    WorkloadKey, stand,
};
use reeve_core::UnixTime;
use serde::Serialize;

use crate::verb::audit::{columns, open_live};

/// How far back is looked without being told: a week, for what comes weekly.
pub(crate) const LOOK_BACK: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest cycle that is reckoned with without being told: a nightly job's.
pub(crate) const CYCLE: Duration = Duration::from_secs(24 * 3600);

/// Everything that a plan is made from.
#[derive(Debug)]
pub(crate) struct Evidence {
    /// The configuration.
    pub(crate) landscape: Landscape,
    /// What was seen.
    pub(crate) observed: Observed,
    /// What was asked.
    pub(crate) asked: Standing,
    /// How each port stands.
    pub(crate) ports: Vec<PortStand>,
}

/// As it is shown to programs.
#[derive(Debug, Serialize)]
pub(crate) struct Shown<'a> {
    /// The time that was looked at.
    pub(crate) window: Window,
    /// The cycle that was reckoned with.
    pub(crate) cycle_ms: u64,
    /// Each port.
    pub(crate) ports: &'a [PortStand],
    /// Namespaces that are locked.
    pub(crate) locks: Vec<&'a Lock>,
}

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EvidenceError {
    /// The configuration is not valid.
    #[error("the configuration is refused: {0}")]
    Config(String),
    /// The trail cannot be read.
    #[error("the trail cannot be read: {0}")]
    Trail(String),
}

impl Evidence {
    /// Looks at all that came from `since` to before `now`.
    pub(crate) fn gather(
        folder: &Path,
        (reader, columns): (&Reader, &[Columns]),
        (since, now): (UnixTime, UnixTime),
        cycle: Duration,
    ) -> Result<Self, EvidenceError> {
        let landscape = Landscape::read(folder).map_err(|faults| {
            let faults: Vec<_> = faults.iter().take(5).map(ToString::to_string).collect();
            EvidenceError::Config(faults.join("; "))
        })?;
        let mut observed = Observed::new(roster(reader)?);
        let (probes, metrics) = landscape.watched_paths();
        for (key, path) in probes {
            observed.probed(key, &path);
        }
        for (key, path) in metrics {
            observed.scraped(key, &path);
        }
        facts(reader, columns, (Some(since), Some(now)), &mut |fact| {
            if let Some(seen) = seen(fact) {
                observed.add(&seen);
            }
        })
        .map_err(|error| EvidenceError::Trail(reeve_core::error_chain(&error)))?;
        let known = [observed.roster().begin(), observed.first()];
        let begin = known.into_iter().flatten().min().unwrap_or(now);
        let asked = Standing {
            window: Window {
                from: since.max(begin),
                to: now,
            },
            cycle,
        };
        let ports = stand(&landscape, &observed, &asked);
        Ok(Self {
            landscape,
            observed,
            asked,
            ports,
        })
    }

    /// For programs.
    pub(crate) fn shown<'a>(&'a self, locks: &'a Locks) -> Shown<'a> {
        Shown {
            window: self.asked.window,
            cycle_ms: u64::try_from(self.asked.cycle.as_millis()).unwrap_or(u64::MAX),
            ports: &self.ports,
            locks: locks.iter().collect(),
        }
    }
}

/// Opens the logs of a mesh, with what sidecars have not shipped yet.
pub(crate) fn open(audit: &Path) -> Result<(Reader, Vec<Columns>), EvidenceError> {
    let trail = |error: reeve_audit::query::ReadError| {
        EvidenceError::Trail(reeve_core::error_chain(&error))
    };
    let columns = columns(audit).map_err(trail)?;
    Ok((open_live(audit).map_err(trail)?, columns))
}

fn seen<'a>(fact: &'a Fact<'a>) -> Option<Seen<'a>> {
    if fact.direction != "inbound" {
        return None;
    }
    let spoken = match fact.authenticated_by {
        "mtls" => Spoken::Mtls,
        "tls_passthrough" => Spoken::OwnTls,
        "nothing" => Spoken::Plaintext,
        _ => return None,
    };
    Some(Seen {
        time: UnixTime::from_millis(fact.time),
        receiver: WorkloadKey::of_instance(fact.id.0)?,
        port: u16::try_from(fact.port).ok()?,
        principal: (fact.principal != "unauthenticated").then_some(fact.principal),
        source: fact.source_ip.parse().ok()?,
        spoken,
        got: fact.path.filter(|_| fact.action == "GET"),
        opaque: fact.path.is_none(),
        allowed: fact.effect == "allow",
        refused: fact.reason == "plaintext_refused",
        policies: &fact.policies,
    })
}

/// Who held which address when, as the trail says.
fn roster(reader: &Reader) -> Result<Roster, EvidenceError> {
    let mut events = Vec::new();
    for kind in [EventKind::AddressAssigned, EventKind::AddressReleased] {
        let filter = Filter {
            kind: Some("event".to_owned()),
            event: Some(kind),
            ..Filter::default()
        };
        let found = reader.query(&filter);
        events.extend(found.map_err(|e| EvidenceError::Trail(reeve_core::error_chain(&e)))?);
    }
    events.sort_by_key(|found| (found.record.time, found.record.id.sequence));
    let mut roster = Roster::default();
    for found in events {
        let Entry::Event(event) = &found.record.entry else {
            continue;
        };
        let time = found.record.time;
        match (event.event, address(event), holder(event)) {
            (EventKind::AddressAssigned, Some(address), Some(holder)) => {
                roster.assign(time, address, holder);
            }
            (EventKind::AddressReleased, Some(address), _) => roster.release(time, address),
            _ => {}
        }
    }
    Ok(roster)
}

fn address(event: &EventRecord) -> Option<IpAddr> {
    event.detail.get("address")?.parse().ok()
}

fn holder(event: &EventRecord) -> Option<Holder> {
    let detail = |name: &str| event.detail.get(name);
    Some(Holder {
        instance: detail("instance")?.parse().ok()?,
        workload: detail("workload")?.parse().ok()?,
        namespace: detail("namespace")?.parse().ok()?,
        meshed: detail("sidecar")? == "true",
    })
}
