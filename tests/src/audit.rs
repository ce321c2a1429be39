//! Reading the audit log through `reeve audit`.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;

use crate::{Mesh, eventually};

const SHIP_LIMIT: Duration = Duration::from_secs(15);

impl Mesh {
    /// The records that `reeve audit query` finds with these arguments.
    pub async fn records(&self, args: &[&str]) -> Vec<Value> {
        let words = [
            &["audit", "query", "--limit", "1000000", "-o", "json"],
            args,
        ]
        .concat();
        let outcome = self.reeve(&words).await;
        // 1 = nothing matched.
        assert!(
            matches!(outcome.code, Some(0 | 1)),
            "{words:?}: {}",
            outcome.text()
        );
        outcome.json_lines()
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

    /// `reeve audit verify`, which must find nothing amiss.
    pub async fn verify_audit(&self) {
        let outcome = self.reeve(&["audit", "verify"]).await;
        assert_eq!(outcome.code, Some(0), "audit verify: {}", outcome.text());
    }
}

/// Only the decisions.
pub fn decisions(records: &[Value]) -> impl Iterator<Item = &Value> {
    records.iter().filter(|record| record["kind"] == "decision")
}

/// The request ids in the decisions that `instance`'s proxy made.
pub fn request_ids(records: &[Value], instance: &str) -> BTreeSet<String> {
    decisions(records)
        .filter(|record| proxy_of(record) == instance)
        .filter_map(|record| Some(record["request_id"].as_str()?.to_owned()))
        .collect()
}

/// A record's id is `proxy/epoch/worker/sequence`.
fn proxy_of(record: &Value) -> &str {
    let id = record["id"].as_str().unwrap_or_default();
    id.split('/').next().unwrap_or_default()
}
