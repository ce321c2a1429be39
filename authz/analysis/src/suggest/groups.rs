//! Groups of the mesh's own in the place of callers, where the evidence allows it.
//!
//! A group stands for callers that do the same only if they are exactly those who are in it: then the policy permits nobody
//! who was not seen. Groups that labels fill are left out, since whoever writes a workload may label it, and so are those
//! with members that cannot be listed (accounts, namespaces, end users).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use reeve_authz::PolicySchema;
use reeve_core::{
    SpiffeId,
    model::{EntityName, EntityRecord},
};

/// The groups of a mesh, and who is in them.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    pub(super) schema: PolicySchema,
    pub(super) entities: Arc<Vec<EntityRecord>>,
    /// Those whose members are known one by one.
    members: BTreeMap<EntityName, BTreeSet<SpiffeId>>,
}

impl Groups {
    /// Those of a mesh with this schema and these entities.
    pub fn new(schema: PolicySchema, entities: Arc<Vec<EntityRecord>>) -> Self {
        let labelled: BTreeSet<_> = schema.labelled().map(|(kind, _)| kind.to_owned()).collect();
        let mut below: BTreeMap<&EntityName, Vec<&EntityName>> = BTreeMap::new();
        for record in entities.iter() {
            for parent in &record.parents {
                below.entry(parent).or_default().push(&record.uid);
            }
        }
        let known = below.keys().filter(|group| !labelled.contains(&group.kind));
        let members =
            known.filter_map(|group| Some(((*group).clone(), members(group, &below, &schema)?)));
        Self {
            members: members.collect(),
            schema,
            entities,
        }
    }

    /// The group that has just these members.
    pub(super) fn of(&self, callers: &BTreeSet<SpiffeId>) -> Option<&EntityName> {
        let mut found = self
            .members
            .iter()
            .filter(|(_, members)| *members == callers);
        found.next().map(|(group, _)| group)
    }
}

/// Everybody who is in a group; nothing if they cannot be listed.
fn members(
    group: &EntityName,
    below: &BTreeMap<&EntityName, Vec<&EntityName>>,
    schema: &PolicySchema,
) -> Option<BTreeSet<SpiffeId>> {
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::from([group]);
    let mut open = vec![group];
    while let Some(group) = open.pop() {
        let filled = |(kind, ..): (&str, &str, &str)| kind == group.kind;
        let by_label = |(kind, _): (&str, &str)| kind == group.kind;
        if schema.claimed().any(filled) || schema.labelled().any(by_label) {
            return None;
        }
        for member in below.get(group).into_iter().flatten() {
            if member.kind == "Workload" {
                found.insert(SpiffeId::parse(&member.id).ok()?);
            } else if !schema.added().any(|kind| kind == member.kind) {
                return None;
            } else if seen.insert(member) {
                open.push(member);
            }
        }
    }
    Some(found)
}
