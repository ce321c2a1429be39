//! What is known of entities, as far as policies ask about it.

use std::{collections::BTreeSet, sync::Arc};

use reeve_authz::{Engine, PolicyFault, PolicySchema};
use reeve_core::model::{EntityRecord, PolicySlice, PolicySource};

use super::Mesh;

impl Mesh {
    /// The schema that its policies are written against.
    pub fn schema(&self) -> PolicySchema {
        PolicySchema::of(&self.policy_schema)
    }

    /// Everything that is known of entities, with every label, whether policies ask about it or not.
    pub fn known_entities(&self) -> &[EntityRecord] {
        &self.all_entities
    }

    /// Other policies than its own, with what they can ask about its entities.
    pub fn slice_of(&self, policies: Vec<PolicySource>) -> Result<PolicySlice, Vec<PolicyFault>> {
        let mut slice = PolicySlice {
            policies,
            schema: self.policy_schema.clone(),
            ..PolicySlice::default()
        };
        let engine = Engine::compile(&slice)?;
        slice.entities = with_labels(&self.all_entities, &engine.needs().labels);
        slice.mesh_hash = reeve_authz::slice_hash(&slice);
        Ok(slice)
    }
}

/// Those of `records` that say something, with no other labels than those in `names`.
pub(crate) fn with_labels(
    records: &Arc<Vec<EntityRecord>>,
    names: &BTreeSet<String>,
) -> Arc<Vec<EntityRecord>> {
    let each = records.iter().cloned().map(|mut record| {
        if matches!(record.uid.kind.as_str(), "Workload" | "Service") {
            record.tags.retain(|name, _| names.contains(name));
        }
        record
    });
    let says = |record: &EntityRecord| {
        !record.attrs.is_empty() || !record.parents.is_empty() || !record.tags.is_empty()
    };
    Arc::new(each.filter(says).collect())
}
