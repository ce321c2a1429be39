//! Reading the audit log through `reeve audit`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;

use crate::{Mesh, eventually};

/// The most that a query gives; a test that makes more cannot see them all.
const MOST_RECORDS: usize = 100_000;
const SHIP_LIMIT: Duration = Duration::from_secs(15);

impl Mesh {
    /// The records that `reeve audit query` finds with these arguments.
    pub async fn records(&self, args: &[&str]) -> Vec<Value> {
        let limit = MOST_RECORDS.to_string();
        let words = [&["audit", "query", "--limit", &limit, "-o", "json"], args].concat();
        let outcome = self.reeve(&words).await;
        // 1 = nothing matched.
        assert!(
            matches!(outcome.code, Some(0 | 1)),
            "{words:?}: {}",
            outcome.text()
        );
        let records = outcome.json_lines();
        assert!(
            records.len() < MOST_RECORDS,
            "more records than a query gives"
        );
        records
    }

    /// Waits until a record matches and returns it.
    pub async fn record(&self, what: &str, mut matches: impl FnMut(&Value) -> bool) -> Value {
        eventually(what, SHIP_LIMIT, async || {
            let records = self.records(&[]).await;
            let found = records.iter().find(|record| matches(record)).cloned();
            found.ok_or_else(|| format!("none of {} records", records.len()))
        })
        .await
    }

    /// The decision on the request with this id at the proxy `instance`.
    pub async fn decision_on(&self, request_id: &str, instance: &str) -> Value {
        let what = format!("the decision of {instance} on {request_id} is in the log");
        self.record(&what, |record| {
            record["kind"] == "decision"
                && record["request_id"] == request_id
                && proxy_of(record) == instance
        })
        .await
    }

    /// `reeve audit verify`, which must find nothing amiss, and every batch's signature good.
    pub async fn verify_audit(&self) {
        self.verify_audit_with(&[]).await;
    }

    /// The same, with arguments.
    pub async fn verify_audit_with(&self, args: &[&str]) {
        let words = [&["audit", "verify", "-o", "json"], args].concat();
        let outcome = self.reeve(&words).await;
        assert_eq!(outcome.code, Some(0), "audit verify: {}", outcome.text());
        let report = outcome.json();
        assert_eq!(report["ok"], true, "{report}");
        assert!(
            report["records"].as_u64() > Some(0),
            "nothing in the log: {report}"
        );
        assert_eq!(report["signatures_verified"], report["batches"], "{report}");
    }
}

/// Only the decisions.
pub fn decisions(records: &[Value]) -> impl Iterator<Item = &Value> {
    records.iter().filter(|record| record["kind"] == "decision")
}

/// The decisions that `instance`'s proxy made and that are in the log's tree, not only in a write-ahead log.
pub fn decisions_of<'a>(
    records: &'a [Value],
    instance: &'a str,
) -> impl Iterator<Item = &'a Value> {
    decisions(records).filter(move |r| r["logged"] == true && proxy_of(r) == instance)
}

/// The request ids in those.
pub fn request_ids(records: &[Value], instance: &str) -> BTreeSet<String> {
    decisions_of(records, instance)
        .filter_map(|record| Some(record["request_id"].as_str()?.to_owned()))
        .collect()
}

/// Asserts that the sequences of every proxy, epoch and worker have no gap.
///
/// # Panics
/// When one has.
pub fn assert_gapless(records: &[Value]) {
    let mut sequences = BTreeMap::<&str, BTreeSet<u64>>::new();
    for record in records {
        let id = record["id"].as_str().expect("a record's id");
        let (place, sequence) = id.rsplit_once('/').expect("proxy/epoch/worker/sequence");
        let fresh = sequences
            .entry(place)
            .or_default()
            .insert(sequence.parse().expect("a sequence"));
        assert!(fresh, "{id} is twice in the log");
    }
    for (place, sequences) in sequences {
        let (first, last) = (
            sequences.first().expect("one"),
            sequences.last().expect("one"),
        );
        let gap = sequences
            .iter()
            .zip(*first..)
            .find(|(got, expected)| **got != *expected);
        assert!(
            *first <= 1 && gap.is_none(),
            "{place}: {first}..={last}, gap at {gap:?}"
        );
    }
}

/// A record's id is `proxy/epoch/worker/sequence`.
fn proxy_of(record: &Value) -> &str {
    let id = record["id"].as_str().unwrap_or_default();
    id.split('/').next().unwrap_or_default()
}
