//! What migrations to STRICT do here: their notes go into the audit log, as do the addresses that callers are told apart by,
//! and the HTTP API shows how every port stands.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use http::Extensions;
use reeve_audit::{EventKind, EventRecord};
use reeve_ca::UnixPeer;
use reeve_console::{MigrationNote, TokenRefused};
use reeve_control::{
    Mesh, WorkloadRole,
    instances::{Instance, Instances},
    migration::Holder,
};
use reeve_core::{Clock as _, SystemClock, UnixTime};
use serde_json::Value;

use super::view::View;
use crate::evidence::{self, CYCLE, Evidence, LOOK_BACK};

/// Longest id of a migration, name of a wave, and name of whoever runs it.
const MAX_MIGRATION_NAME: usize = 128;
/// Longest text of a note.
const MAX_MIGRATION_TEXT: usize = 4000;
/// What a note can be of.
const PHASES: [&str; 8] = [
    "began",
    "shadow",
    "flip",
    "hold",
    "done",
    "rolled_back",
    "stopped",
    "ended",
];
/// How long an answer about all ports is given again.
const FRESH_MS: u64 = 2_000;

/// The last answer about all ports, and when it was made.
pub(super) type LastStand = Arc<tokio::sync::Mutex<Option<(UnixTime, Value)>>>;

impl View {
    pub(super) fn record_migration(
        &self,
        caller: &Extensions,
        note: &MigrationNote,
    ) -> Result<(), TokenRefused> {
        check(note).map_err(|why| TokenRefused::Request(why.to_owned()))?;
        let mut event = EventRecord::new(EventKind::MtlsMigration)
            .with("migration", &note.migration)
            .with("phase", &note.phase)
            .with("by", &note.by)
            .with("text", &note.text);
        if !note.wave.is_empty() {
            event = event.with("wave", &note.wave);
        }
        if let Some(peer) = caller.get::<UnixPeer>() {
            event = event
                .with("uid", peer.uid.to_string())
                .with("pid", peer.pid.to_string());
        }
        self.events.record(event);
        Ok(())
    }

    /// How every port stands. One at a time reads the trail; who comes meanwhile waits for that answer.
    pub(super) async fn how_mtls_stands(&self) -> Result<Value, String> {
        let mut last = self.last_stand.lock().await;
        let now = self.clock.now();
        if let Some((at, value)) = last.as_ref()
            && now.as_millis().saturating_sub(at.as_millis()) < FRESH_MS
        {
            return Ok(value.clone());
        }
        let (folder, state) = (self.folder.clone(), self.state.clone());
        let read = tokio::task::spawn_blocking(move || {
            let (reader, columns) = evidence::open(&state.join("audit"))?;
            let now = SystemClock.now();
            let times = (now.minus(LOOK_BACK), now);
            Evidence::gather(&folder, (&reader, &columns), times, CYCLE)
        });
        let evidence = read
            .await
            .map_err(|_panic| "it could not be read".to_owned())?;
        let evidence = evidence.map_err(|error| error.to_string())?;
        let value = serde_json::to_value(evidence.shown(&self.controller.locks()))
            .map_err(|error| error.to_string())?;
        *last = Some((now, value.clone()));
        Ok(value)
    }
}

fn check(note: &MigrationNote) -> Result<(), &'static str> {
    let is_name =
        |text: &str| text.len() <= MAX_MIGRATION_NAME && !text.chars().any(char::is_control);
    if note.migration.is_empty()
        || ![&note.migration, &note.wave, &note.by]
            .map(|t| is_name(t))
            .iter()
            .all(|fits| *fits)
    {
        return Err("a migration, a wave and whoever runs it have names of 128 bytes at most");
    }
    if !PHASES.contains(&note.phase.as_str()) {
        return Err(
            "a note's phase is began, shadow, flip, hold, done, rolled_back, stopped or ended",
        );
    }
    match note.text.len() > MAX_MIGRATION_TEXT {
        true => Err("a note's text is too long"),
        false => Ok(()),
    }
}

/// Who holds which address now: each copy of a workload those of its sidecar and of its application.
pub(super) fn holders(instances: &Instances, mesh: &Mesh) -> BTreeMap<IpAddr, Holder> {
    let mut holders = BTreeMap::new();
    for instance in &instances.instances {
        let Some(workload) = mesh.workload_of(&instance.instance) else {
            continue;
        };
        // Where traffic is not captured, what has an address of its own beside its sidecar's has a sidecar.
        let beside = |i: &Instance| instances.mesh.capture.is_some() || i.address != i.app_address;
        let holder = Holder {
            instance: instance.instance.clone(),
            workload: instance.workload.clone(),
            namespace: instance.namespace.clone(),
            meshed: workload.role != WorkloadRole::None && beside(instance),
        };
        for address in [instance.address, instance.app_address] {
            holders.insert(IpAddr::V4(address), holder.clone());
        }
    }
    holders
}

/// What has changed from `before` to `now`, as events.
pub(super) fn moves(
    before: &BTreeMap<IpAddr, Holder>,
    now: &BTreeMap<IpAddr, Holder>,
) -> Vec<EventRecord> {
    let gone = before
        .iter()
        .filter(|(address, _)| !now.contains_key(address));
    let gone = gone.map(|(address, holder)| {
        EventRecord::new(EventKind::AddressReleased)
            .with("address", address.to_string())
            .with("instance", holder.instance.as_str())
    });
    let new = now
        .iter()
        .filter(|(address, holder)| before.get(address) != Some(holder));
    let new = new.map(|(address, holder)| {
        EventRecord::new(EventKind::AddressAssigned)
            .with("address", address.to_string())
            .with("instance", holder.instance.as_str())
            .with("workload", holder.workload.as_str())
            .with("namespace", holder.namespace.as_str())
            .with("sidecar", holder.meshed.to_string())
    });
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(name: &str, meshed: bool) -> Holder {
        Holder {
            instance: format!("{name}-0").parse().unwrap(),
            workload: name.parse().unwrap(),
            namespace: "shop".parse().unwrap(),
            meshed,
        }
    }

    #[test]
    fn only_what_moves_is_told() {
        let at = |n: u8| IpAddr::from([127, 7, n, 1]);
        let before = BTreeMap::from([(at(1), holder("a", false)), (at(2), holder("b", true))]);
        let now = BTreeMap::from([(at(1), holder("a", true)), (at(3), holder("b", true))]);
        let told: Vec<_> = moves(&before, &now)
            .into_iter()
            .map(|e| {
                format!(
                    "{:?} {} {}",
                    e.event, e.detail["address"], e.detail["instance"]
                )
            })
            .collect();
        let expected = [
            "AddressReleased 127.7.2.1 b-0",
            "AddressAssigned 127.7.1.1 a-0",
            "AddressAssigned 127.7.3.1 b-0",
        ];
        assert_eq!(told, expected);
        assert!(moves(&now, &now).is_empty());
    }

    #[test]
    fn notes_are_bounded() {
        let good = MigrationNote {
            migration: "m1".to_owned(),
            phase: "flip".to_owned(),
            wave: "wave-1".to_owned(),
            text: String::new(),
            by: "alice".to_owned(),
        };
        assert_eq!(check(&good), Ok(()));
        type Spoil = fn(&mut MigrationNote);
        let spoils: [Spoil; 4] = [
            |note| note.migration.clear(),
            |note| note.wave = "a".repeat(129),
            |note| note.phase = "over".to_owned(),
            |note| note.text = "x".repeat(4001),
        ];
        for (number, spoil) in spoils.into_iter().enumerate() {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert!(check(&bad).is_err(), "{number}");
        }
    }
}
