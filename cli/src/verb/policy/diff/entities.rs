//! What is known of entities before and after.

use std::collections::{BTreeMap, BTreeSet};

use reeve_core::model::{EntityName, EntityRecord};
use serde::Serialize;

use super::{Change, lines};

/// An entity of which something else is known.
#[derive(Debug, Serialize)]
pub(in crate::verb::policy) struct EntityChange {
    /// As policies write it.
    pub(super) entity: String,
    pub(super) change: Change,
    /// Lines that begin with a blank, `-` or `+`: what it is in, its attributes and tags.
    pub(super) diff: String,
}

/// Those of which something else is known, by type and id.
pub(super) fn changes(before: &[EntityRecord], after: &[EntityRecord]) -> Vec<EntityChange> {
    let (before, after) = (by_name(before), by_name(after));
    let names: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
    let change = |name: &EntityName| {
        let (old, new) = (before.get(name), after.get(name));
        let change = Change::of(old, new)?;
        let said = |record: Option<&&EntityRecord>| record.map(|r| said(r)).unwrap_or_default();
        Some(EntityChange {
            entity: written(name),
            change,
            diff: lines::diff(&said(old), &said(new)),
        })
    };
    names.into_iter().filter_map(change).collect()
}

fn by_name(records: &[EntityRecord]) -> BTreeMap<&EntityName, &EntityRecord> {
    let says =
        |r: &&EntityRecord| !(r.attrs.is_empty() && r.parents.is_empty() && r.tags.is_empty());
    let saying = records.iter().filter(says);
    saying.map(|record| (&record.uid, record)).collect()
}

fn written(name: &EntityName) -> String {
    format!("{}::{:?}", name.kind, name.id)
}

/// One line for each thing that is said of it.
fn said(record: &EntityRecord) -> String {
    let mut lines: Vec<_> = record
        .parents
        .iter()
        .map(|p| format!("in {}", written(p)))
        .collect();
    let attributes = record.attrs.iter();
    lines.extend(attributes.map(|(name, value)| format!("{name}: {value}")));
    let tags = record.tags.iter();
    lines.extend(tags.map(|(name, value)| format!("tag {name}: {value}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn records(value: serde_json::Value) -> Vec<EntityRecord> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_said_of_an_entity_is_compared_line_by_line() {
        let team = |id: &str| json!({"type": "Team", "id": id});
        let before = records(json!([
            {"uid": team("a"), "parents": [team("all")], "attrs": {"budget": 7}},
            {"uid": team("gone"), "parents": [team("all")]},
            {"uid": team("same"), "tags": {"x": ["1"]}},
            {"uid": team("silent")},
        ]));
        let after = records(json!([
            {"uid": team("a"), "parents": [team("all")], "attrs": {"budget": 8}},
            {"uid": team("new"), "attrs": {"budget": 1}},
            {"uid": team("same"), "tags": {"x": ["1"]}},
        ]));
        let found = changes(&before, &after);
        let told: Vec<_> = found
            .iter()
            .map(|c| (c.entity.as_str(), c.change, c.diff.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (
                    "Team::\"a\"",
                    Change::Changed,
                    " in Team::\"all\"\n-budget: 7\n+budget: 8\n"
                ),
                ("Team::\"gone\"", Change::Removed, "-in Team::\"all\"\n"),
                ("Team::\"new\"", Change::Added, "+budget: 1\n"),
            ]
        );
    }
}
