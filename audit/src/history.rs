//! Which configuration was in force when: what the mesh process recorded of each, and the blobs that keep its parts.

use reeve_core::UnixTime;
use serde::Serialize;

use crate::{
    Entry, EventKind, EventRecord, Reader,
    query::{Filter, ReadError},
};

/// A configuration and when it came into force; it stayed so until the next one did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InForce {
    /// Since when. Of one whose own record has expired: since before then.
    pub since: UnixTime,
    /// Its generation.
    pub generation: String,
    /// The hash of its policy set, as decisions have it.
    pub policy_hash: String,
    /// The blob that keeps the policy set.
    pub policy_set: Option<String>,
    /// The blob that keeps the Cedar schema.
    pub schema: Option<String>,
    /// The blob that keeps who and what there was: workloads, services, namespaces.
    pub entities: Option<String>,
}

impl Reader {
    /// Every configuration that the log tells of, in the order in which they came into force.
    pub fn configurations(&self) -> Result<Vec<InForce>, ReadError> {
        let mut all = Vec::new();
        for kind in [EventKind::ConfigApplied, EventKind::RecordsExpired] {
            let filter = Filter {
                kind: Some("event".to_owned()),
                event: Some(kind),
                ..Filter::default()
            };
            for found in self.query(&filter)? {
                if let Entry::Event(event) = &found.record.entry {
                    all.extend(of_event(event, found.record.time));
                }
            }
        }
        all.sort_by_key(|in_force| in_force.since);
        Ok(all)
    }

    /// The configuration that was in force at that time.
    pub fn configuration_at(&self, time: UnixTime) -> Result<Option<InForce>, ReadError> {
        let all = self.configurations()?;
        Ok(all.into_iter().rev().find(|c| c.since <= time))
    }
}

fn of_event(event: &EventRecord, recorded: UnixTime) -> Option<InForce> {
    let detail = |name: &str| event.detail.get(name).cloned();
    // The record of an expiry tells what was in force before what stays.
    let before = detail("before_ms").and_then(|ms| ms.parse().ok());
    let expiry = event.event == EventKind::RecordsExpired;
    let since = match before.filter(|_| expiry) {
        Some(before) => UnixTime::from_millis(before),
        None => recorded,
    };
    Some(InForce {
        since,
        generation: detail("generation").unwrap_or_default(),
        policy_hash: detail("policy_hash")?,
        policy_set: detail("policy_set"),
        schema: detail("schema"),
        entities: detail("entities"),
    })
}
